/* SPDX-License-Identifier: MIT */
/* Sums, rates and the sentence; see figures.h. */
#include "figures.h"
#include "clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct figure_percentile figure_percentiles[FIGURE_PERCENTILES] = {
	{ "p50", 50000 },
	{ "p90", 90000 },
	{ "p99", 99000 },
	{ "p99_9", 99900 },
};

double figures_us(uint64_t ns)
{
	return (double)ns / NS_PER_US;
}

double figures_since_start_ms(const struct load *load, uint64_t at_ns)
{
	return at_ns > load->start_ns ? (double)(at_ns - load->start_ns) / NS_PER_MS : 0;
}

double figures_per_second(uint64_t count, double ms)
{
	return ms > 0 ? (double)count * 1000 / ms : 0;
}

double figures_elapsed_ms(const struct load *load)
{
	uint64_t end_ns = load->client.tally.last_answer_ns;

	return figures_since_start_ms(load, end_ns > load->stop_ns ? end_ns : load->stop_ns);
}

uint64_t figures_closed(const struct tally *tally)
{
	return tally->closes[CLOSE_UNANNOUNCED] + tally->closes[CLOSE_UNSOLICITED];
}

uint64_t figures_losses(const struct load *load)
{
	return load->client.tally.lost + figures_closed(&load->client.tally);
}

uint64_t figures_closed_idle(const struct tally *tally)
{
	uint64_t closed = 0;

	for (size_t i = 0; i < CLOSES; i++)
		closed += tally->closes[i];
	return closed;
}

void figures_latency(const struct load *load, struct histogram *ret_latency)
{
	*ret_latency = (struct histogram){ 0 };
	for (size_t shape = 0; shape < SHAPES; shape++)
		histogram_merge(ret_latency, &load->client.tally.shapes[shape].latency);
}

uint64_t figures_slowest_ns(const struct load *load)
{
	uint64_t slowest_ns = 0;

	for (size_t shape = 0; shape < SHAPES; shape++) {
		uint64_t max_ns = load->client.tally.shapes[shape].latency.max;

		if (max_ns > slowest_ns)
			slowest_ns = max_ns;
	}
	return slowest_ns;
}

struct figure figure_count(uint64_t count)
{
	struct figure figure;
	char digits[24];
	size_t size, out = 0;

	snprintf(digits, sizeof(digits), "%" PRIu64, count);
	size = strlen(digits);
	for (size_t i = 0; i < size; i++) {
		if (i && (size - i) % 3 == 0)
			figure.text[out++] = ',';
		figure.text[out++] = digits[i];
	}
	figure.text[out] = '\0';
	return figure;
}

struct figure figure_duration(uint64_t duration_ns)
{
	struct figure figure;
	double ms = (double)duration_ns / NS_PER_MS;

	if (ms < 0.095)
		snprintf(figure.text, sizeof(figure.text), "%.2f ms", ms);
	else if (ms < 9.95)
		snprintf(figure.text, sizeof(figure.text), "%.1f ms", ms);
	else if (ms < 999.5)
		snprintf(figure.text, sizeof(figure.text), "%.0f ms", ms);
	else
		snprintf(figure.text, sizeof(figure.text), "%.2f s", ms / 1000);
	return figure;
}

struct figure figure_latency(uint64_t latency_ns)
{
	return latency_ns ? figure_duration(latency_ns) : (struct figure){ "none" };
}

static const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

/* "20 restarts", or how many of them there were and why not all. */
static void print_restarts(FILE *out, const struct restarts *restarts, bool interrupted)
{
	uint64_t asked = restarts->options->count;

	if (restarts->begun == asked && !restarts->failed)
		fprintf(out, "%" PRIu64 " restart%s", asked, plural(asked));
	else
		fprintf(out, "%zu of %" PRIu64 " restart%s (%s)", restarts->begun, asked,
		        plural(asked),
		        restarts->failed ? "the last one failed"
		        : interrupted    ? "interrupted"
		                         : "ended early");
}

void figures_verdict(const struct load *load, char *text, size_t size)
{
	const struct tally *tally = &load->client.tally;
	uint64_t own = tally->finished - tally->ok - tally->lost;
	FILE *out = fmemopen(text, size, "w");

	text[0] = '\0';
	if (!out)
		return;
	if (restarts_wanted(&load->restarts)) {
		print_restarts(out, &load->restarts, load->interrupted);
		fputs(", ", out);
	}
	fprintf(out, "%s request%s, %s lost, ", figure_count(tally->finished).text,
	        plural(tally->finished), figure_count(tally->lost).text);
	fprintf(out, "%s connection%s closed", figure_count(figures_closed(tally)).text,
	        plural(figures_closed(tally)));
	if (own)
		fprintf(out, ", %s not sent or not waited for here", figure_count(own).text);
	if (figures_slowest_ns(load))
		fprintf(out, ", slowest %s", figure_duration(figures_slowest_ns(load)).text);
	else
		fputs(", nothing was answered", out);
	fclose(out);
}
