/* SPDX-License-Identifier: MIT */
/* The results, as JSON and as text; see report.h. */
#include "report.h"
#include "clock.h"
#include "json.h"

#include <inttypes.h>
#include <string.h>

static double since_start_ms(const struct load *load, uint64_t at_ns)
{
	return at_ns > load->start_ns ? (double)(at_ns - load->start_ns) / NS_PER_MS : 0;
}

static double per_second(uint64_t count, double ms)
{
	return ms > 0 ? (double)count * 1000 / ms : 0;
}

/* From the start to the last answer, or to the end of sending where that was later. */
static double elapsed_ms(const struct load *load)
{
	uint64_t end_ns = load->client.tally.last_answer_ns;

	return since_start_ms(load, end_ns > load->stop_ns ? end_ns : load->stop_ns);
}

uint64_t report_losses(const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	return tally->lost + tally->closes[CLOSE_UNANNOUNCED] + tally->closes[CLOSE_UNSOLICITED];
}

/* By the server, announced or not. */
static uint64_t closed_idle(const struct tally *tally)
{
	uint64_t closed = 0;

	for (size_t i = 0; i < CLOSES; i++)
		closed += tally->closes[i];
	return closed;
}

static void begin_event(struct json *json, const struct load *load, const char *event)
{
	const struct tally *tally = &load->client.tally;

	json_open(json, NULL, '{');
	json_text(json, "event", event);
	json_decimal(json, "monotonic_ms", (double)load->start_ns / NS_PER_MS);
	json_decimal(json, "at_ms", since_start_ms(load, clock_now_ns()));
	json_number(json, "requests", tally->started);
	json_number(json, "ok", tally->ok);
	json_number(json, "lost", tally->lost);
	json_number(json, "closed", closed_idle(tally));
}

void report_running(const struct load *load)
{
	struct json json = { .out = stdout };

	if (!load->options->json)
		return;
	begin_event(&json, load, "running");
	json_number(&json, "connections", load->count);
	json_close(&json, '}');
	json_end(&json);
}

void report_progress(const struct load *load)
{
	static uint64_t last_ns, last_ok;
	const struct tally *tally = &load->client.tally;
	struct json json = { .out = stdout };
	uint64_t now_ns = clock_now_ns(), begin_ns = last_ns ? last_ns : load->start_ns;
	double rate = per_second(tally->ok - last_ok, (double)(now_ns - begin_ns) / NS_PER_MS);

	last_ns = now_ns;
	last_ok = tally->ok;
	if (!load->options->json) {
		printf("%7.1f s  %10" PRIu64 " ok  %8" PRIu64 " lost  %8.0f per second\n",
		       since_start_ms(load, now_ns) / 1000, tally->ok, tally->lost, rate);
		fflush(stdout);
		return;
	}
	begin_event(&json, load, "progress");
	json_decimal(&json, "per_second", rate);
	json_close(&json, '}');
	json_end(&json);
}

void report_error(const struct options *options, const char *outcome, const char *message)
{
	struct json json = { .out = stdout };

	fprintf(stderr, "segue-load: %s\n", message);
	if (!options->json)
		return;
	json_open(&json, NULL, '{');
	json_text(&json, "event", "error");
	json_text(&json, "outcome", outcome);
	json_text(&json, "message", message);
	json_close(&json, '}');
	json_end(&json);
}

static const struct {
	const char *key;
	unsigned int per_100k;
} percentiles[] = {
	{ "p50", 50000 },
	{ "p90", 90000 },
	{ "p99", 99000 },
	{ "p99_9", 99900 },
};

#define PERCENTILES (sizeof(percentiles) / sizeof(percentiles[0]))

static double us(uint64_t ns)
{
	return (double)ns / NS_PER_US;
}

static void put_latency(struct json *json, const struct histogram *latency)
{
	json_open(json, "latency_us", '{');
	json_number(json, "count", latency->count);
	json_decimal(json, "mean", us(histogram_mean(latency)));
	for (size_t i = 0; i < PERCENTILES; i++)
		json_decimal(json, percentiles[i].key,
		             us(histogram_at(latency, percentiles[i].per_100k)));
	json_decimal(json, "max", us(latency->max));
	json_close(json, '}');
}

static void put_connections(struct json *json, const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	json_open(json, "connections", '{');
	json_number(json, "wanted", load->count);
	json_number(json, "opened", tally->opened);
	for (size_t i = 0; i < CLOSES; i++)
		json_number(json, close_infos[i].key, tally->closes[i]);
	json_close(json, '}');
}

static void put_header(struct json *json, const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	if (!load->options->count_header)
		return;
	json_open(json, "header", '{');
	json_text(json, "name", load->options->count_header);
	json_number(json, "missing", tally->value_missing);
	json_number(json, "other", tally->value_other);
	json_number(json, "connections_backwards", tally->backwards);
	json_open(json, "values", '{');
	for (uint32_t i = 0; i < tally->values_count; i++)
		json_number(json, tally->values[i].text, tally->values[i].count);
	json_close(json, '}');
	json_open(json, "seen", '{');
	for (uint32_t i = 0; i < tally->values_count; i++) {
		const struct value *value = &tally->values[i];

		json_open(json, value->text, '{');
		json_decimal(json, "first_ms", since_start_ms(load, value->first_ns));
		json_decimal(json, "last_ms", since_start_ms(load, value->last_ns));
		json_close(json, '}');
	}
	json_close(json, '}');
	json_close(json, '}');
}

static void put_shape(struct json *json, const struct load *load, enum shape shape)
{
	const struct shape_tally *tally = &load->client.tally.shapes[shape];

	json_open(json, shape_keys[shape], '{');
	json_number(json, "connections", load->options->connections[shape]);
	json_number(json, "requests", tally->started);
	json_open(json, "outcomes", '{');
	for (size_t i = 0; i < OUTCOMES; i++) {
		if (tally->outcomes[i])
			json_number(json, outcome_infos[i].key, tally->outcomes[i]);
	}
	json_close(json, '}');
	put_latency(json, &tally->latency);
	json_close(json, '}');
}

static void put_losses(struct json *json, const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	json_open(json, "losses", '[');
	for (size_t i = 0; i < tally->losses_kept; i++) {
		const struct loss *loss = &tally->losses[i];

		json_open(json, NULL, '{');
		json_decimal(json, "at_ms", since_start_ms(load, loss->at_ns));
		json_text(json, "shape", shape_keys[loss->shape]);
		json_text(json, "outcome", outcome_infos[loss->outcome].key);
		json_number(json, "answered_before", loss->answered_before);
		if (loss->status)
			json_number(json, "status", (uint64_t)loss->status);
		if (loss->error)
			json_text(json, "error", strerror(loss->error));
		if (loss->why)
			json_text(json, "why", loss->why);
		if (loss->after[0])
			json_text(json, "header_before", loss->after);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void put_outcome_steps(struct json *json, const struct timeline *timeline, const char *key,
                              enum outcome outcome)
{
	json_open(json, key, '[');
	for (size_t i = 0; i < timeline->count; i++)
		json_number(json, NULL, timeline->steps[i].outcomes[outcome]);
	json_close(json, ']');
}

static void put_close_steps(struct json *json, const struct timeline *timeline,
                            enum close_kind kind)
{
	json_open(json, close_infos[kind].key, '[');
	for (size_t i = 0; i < timeline->count; i++)
		json_number(json, NULL, timeline->steps[i].closes[kind]);
	json_close(json, ']');
}

static void put_latency_steps(struct json *json, const struct timeline *timeline, const char *key,
                              unsigned int per_100k)
{
	json_open(json, key, '[');
	for (size_t i = 0; i < timeline->count; i++) {
		const struct timeline_step *step = &timeline->steps[i];

		if (step->answers)
			json_number(json, NULL, timeline_latency(step, per_100k) / NS_PER_US);
		else
			json_null(json, NULL);
	}
	json_close(json, ']');
}

/* Rows that are zero throughout are left out, but for those that everyone asks for. */
static void put_timeline(struct json *json, const struct load *load)
{
	const struct tally *tally = &load->client.tally;
	const struct timeline *timeline = &tally->timeline;

	if (!load->options->timeline)
		return;
	json_open(json, "timeline", '{');
	json_number(json, "step_ms", timeline->width_ns / NS_PER_MS);
	json_number(json, "steps", timeline->count);
	put_outcome_steps(json, timeline, "ok", OUTCOME_OK);
	json_open(json, "failures", '{');
	for (size_t i = OUTCOME_OK + 1; i < OUTCOMES; i++) {
		if (tally_sum(tally, (enum outcome)i))
			put_outcome_steps(json, timeline, outcome_infos[i].key, (enum outcome)i);
	}
	json_close(json, '}');
	json_open(json, "closes", '{');
	for (size_t i = 0; i < CLOSES; i++) {
		if (tally->closes[i] || i == CLOSE_UNANNOUNCED)
			put_close_steps(json, timeline, (enum close_kind)i);
	}
	json_close(json, '}');
	json_open(json, "latency_us", '{');
	put_latency_steps(json, timeline, "p50", 50000);
	put_latency_steps(json, timeline, "p99", 99000);
	put_latency_steps(json, timeline, "max", 100000);
	json_close(json, '}');
	json_close(json, '}');
}

static void sum_latency(const struct load *load, struct histogram *ret_latency)
{
	*ret_latency = (struct histogram){ 0 };
	for (size_t shape = 0; shape < SHAPES; shape++)
		histogram_merge(ret_latency, &load->client.tally.shapes[shape].latency);
}

static void report_json(const struct load *load, const struct histogram *latency)
{
	const struct tally *tally = &load->client.tally;
	struct json json = { .out = stdout };

	begin_event(&json, load, "result");
	json_text(&json, "url", load->options->url_text);
	json_decimal(&json, "elapsed_ms", elapsed_ms(load));
	json_decimal(&json, "per_second", per_second(tally->ok, elapsed_ms(load)));
	json_number(&json, "bytes_received", tally->bytes_received);
	json_number(&json, "not_started", load_not_started(load));
	json_open(&json, "outcomes", '{');
	for (size_t i = 0; i < OUTCOMES; i++)
		json_number(&json, outcome_infos[i].key, tally_sum(tally, (enum outcome)i));
	json_close(&json, '}');
	put_connections(&json, load);
	put_latency(&json, latency);
	put_header(&json, load);
	json_open(&json, "shapes", '{');
	for (size_t shape = 0; shape < SHAPES; shape++) {
		if (load->options->connections[shape])
			put_shape(&json, load, (enum shape)shape);
	}
	json_close(&json, '}');
	put_losses(&json, load);
	put_timeline(&json, load);
	json_close(&json, '}');
	json_end(&json);
}

static void print_verdict(const struct load *load)
{
	const struct tally *tally = &load->client.tally;
	uint64_t closes = report_losses(load) - tally->lost;
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
	printf(" (%.1f s, %.0f answers per second).\n", elapsed_ms(load) / 1000,
	       per_second(tally->ok, elapsed_ms(load)));
}

static void print_row(const char *key, uint64_t count, const char *meaning)
{
	if (count)
		printf("  %-24s %10" PRIu64 "  %s\n", key, count, meaning);
}

static void print_losses(const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	if (tally->losses_kept)
		printf("\nThe first losses\n");
	for (size_t i = 0; i < tally->losses_kept && i < 5; i++) {
		const struct loss *loss = &tally->losses[i];

		printf("  at %.3f s, %s: %s", since_start_ms(load, loss->at_ns) / 1000,
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

static void report_text(const struct load *load, const struct histogram *latency)
{
	const struct tally *tally = &load->client.tally;

	print_verdict(load);
	printf("\n");
	for (size_t i = 0; i < OUTCOMES; i++)
		print_row(outcome_infos[i].key, tally_sum(tally, (enum outcome)i),
		          outcome_infos[i].meaning);
	for (size_t i = 0; i < CLOSES; i++)
		print_row(close_infos[i].key, tally->closes[i], close_infos[i].meaning);
	print_row("not_started", load_not_started(load),
	          "requests were due and found no free connection");
	printf("\nLatency in ms:");
	for (size_t i = 0; i < PERCENTILES; i++)
		printf("  %s %.3f", percentiles[i].key,
		       us(histogram_at(latency, percentiles[i].per_100k)) / 1000);
	printf("  max %.3f\n", us(latency->max) / 1000);
	print_values(load);
	print_losses(load);
	fflush(stdout);
}

void report_result(const struct load *load)
{
	struct histogram latency;

	sum_latency(load, &latency);
	if (load->options->json)
		report_json(load, &latency);
	else
		report_text(load, &latency);
}
