/* SPDX-License-Identifier: MIT */
/* The result for people; see report_text.h. */
#include "report_text.h"
#include "clock.h"
#include "figures.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void print_verdict(const struct load *load)
{
	const struct tally *tally = &load->client.tally;
	uint64_t closes = figures_losses(load) - tally->lost;
	uint64_t own = tally->finished - tally->ok - tally->lost;

	if (tally->lost)
		printf("%" PRIu64 " of %" PRIu64 " requests were lost", tally->lost,
		       tally->finished);
	else
		printf("None of %" PRIu64 " requests was lost", tally->finished);
	if (closes)
		printf(", %" PRIu64 " idle connections were closed unannounced", closes);
	if (own)
		printf(", %" PRIu64 " could not be sent or waited for here", own);
	printf(" (%.1f s, %.0f answers per second).\n", figures_elapsed_ms(load) / 1000,
	       figures_per_second(tally->ok, figures_elapsed_ms(load)));
}

static void print_restarts_verdict(const struct load *load)
{
	char verdict[256];

	figures_verdict(load, verdict, sizeof(verdict));
	printf("%s%s.\n", load->restarts.begun ? "\n" : "", verdict);
}

/* Why requests were lost, and which generation came when. */
static void print_remarks(const struct restart *restart)
{
	const struct window *window = &restart->window;
	const char *comma = "  ";

	for (size_t i = 0; i < OUTCOMES; i++) {
		if (outcome_infos[i].kind == OUTCOME_GOOD || !window->outcomes[i])
			continue;
		printf("%s%s %" PRIu64, comma, outcome_infos[i].key, window->outcomes[i]);
		comma = ", ";
	}
	if (window->generation_ns)
		printf("%s%s after %s", comma, window->generation,
		       figure_duration(window->generation_ns - window->begin_ns).text);
	if (restart->failed)
		printf("%sfailed", window->generation_ns ? ", " : comma);
	printf("\n");
}

void report_text_restart(const struct load *load, size_t number)
{
	const struct restart *restart = &load->restarts.list[number];
	const struct window *window = &restart->window;

	if (number == 1)
		printf("restart       at   requests    lost  closed    slowest      pause"
		       "  failures, next generation\n");
	printf("%7zu  %5.1f s  %9s  %6s  %6s  %9s  %9s", number,
	       figures_since_start_ms(load, window->begin_ns) / 1000,
	       figure_count(window_requests(window)).text, figure_count(window_lost(window)).text,
	       figure_count(window_closed(window)).text, figure_latency(window->slowest_ns).text,
	       figure_duration(window->pause_ns).text);
	print_remarks(restart);
	fflush(stdout);
}

static void print_row(const char *key, uint64_t count, const char *meaning)
{
	if (count)
		printf("  %-24s %10" PRIu64 "  %s\n", key, count, meaning);
}

/* Not worth a word below a hundredth of the time, nor where it would read 0.0 s. */
static void print_waited(const struct load *load)
{
	double waited_ms = (double)load->waited_ns / NS_PER_MS;

	if (waited_ms < 50 || waited_ms * 100 < figures_elapsed_ms(load))
		return;
	printf("This program waited %.1f s for a processor: some of the latency is its own.\n",
	       waited_ms / 1000);
}

static void print_losses(const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	if (tally->losses_kept)
		printf("\nThe first losses\n");
	for (size_t i = 0; i < tally->losses_kept && i < 5; i++) {
		const struct loss *loss = &tally->losses[i];

		printf("  at %.3f s, %s: %s", figures_since_start_ms(load, loss->at_ns) / 1000,
		       shape_keys[loss->shape], outcome_infos[loss->outcome].key);
		if (loss->status)
			printf(", status %d", loss->status);
		if (loss->error)
			printf(", %s", strerror(loss->error));
		if (loss->why)
			printf(", %s", loss->why);
		printf("\n");
	}
}

static void print_values(const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	if (!load->options->count_header)
		return;
	printf("\nAnswers by %s\n", load->options->count_header);
	for (uint32_t i = 0; i < tally->values_count; i++)
		print_row(tally->values[i].text, tally->values[i].count, "");
	print_row("(other values)", tally->value_other, "");
	print_row("(without the header)", tally->value_missing, "");
	print_row("(backwards)", tally->backwards, "connections whose number became smaller");
}

static void print_latency(const struct histogram *latency)
{
	if (!latency->max) {
		printf("\nNothing was answered.\n");
		return;
	}
	printf("\nLatency in ms:");
	for (size_t i = 0; i < FIGURE_PERCENTILES; i++)
		printf("  %s %.3f", figure_percentiles[i].key,
		       figures_us(histogram_at(latency, figure_percentiles[i].per_100k)) / 1000);
	printf("  max %.3f\n", figures_us(latency->max) / 1000);
}

void report_text_result(const struct load *load)
{
	const struct tally *tally = &load->client.tally;
	struct histogram latency;

	figures_latency(load, &latency);
	if (restarts_wanted(&load->restarts))
		print_restarts_verdict(load);
	else
		print_verdict(load);
	printf("\n");
	for (size_t i = 0; i < OUTCOMES; i++)
		print_row(outcome_infos[i].key, tally_sum(tally, (enum outcome)i),
		          outcome_infos[i].meaning);
	for (size_t i = 0; i < CLOSES; i++)
		print_row(close_infos[i].key, tally->closes[i], close_infos[i].meaning);
	print_row("not_started", load_not_started(load),
	          "requests were due and found no free connection");
	print_latency(&latency);
	print_waited(load);
	print_values(load);
	print_losses(load);
	fflush(stdout);
}
