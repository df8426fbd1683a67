/* SPDX-License-Identifier: MIT */
/* The JSON result; see report_json.h and segue-load(1), which says what each member is. */
#include "report_json.h"
#include "clock.h"
#include "figures.h"

#include <string.h>

void report_json_begin(struct json *json, const struct load *load, const char *event)
{
	const struct tally *tally = &load->client.tally;

	json_open(json, NULL, '{');
	json_text(json, "event", event);
	json_decimal(json, "monotonic_ms", (double)load->start_ns / NS_PER_MS);
	json_decimal(json, "at_ms", figures_since_start_ms(load, clock_now_ns()));
	json_number(json, "requests", tally->started);
	json_number(json, "ok", tally->ok);
	json_number(json, "lost", tally->lost);
	json_number(json, "closed", figures_closed_idle(tally));
}

static void put_latency(struct json *json, const struct histogram *latency)
{
	json_open(json, "latency_us", '{');
	json_number(json, "count", latency->count);
	json_decimal(json, "mean", figures_us(histogram_mean(latency)));
	for (size_t i = 0; i < FIGURE_PERCENTILES; i++)
		json_decimal(json, figure_percentiles[i].key,
		             figures_us(histogram_at(latency, figure_percentiles[i].per_100k)));
	json_decimal(json, "max", figures_us(latency->max));
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

	const struct options *options = load->options;

	if (!options->generation_header && !options->generation_pattern)
		return;
	json_open(json, "header", '{');
	if (options->generation_pattern)
		json_text(json, "pattern", options->generation_pattern);
	else
		json_text(json, "name", options->generation_header);
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
		json_decimal(json, "first_ms", figures_since_start_ms(load, value->first_ns));
		json_decimal(json, "last_ms", figures_since_start_ms(load, value->last_ns));
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
		json_decimal(json, "at_ms", figures_since_start_ms(load, loss->at_ns));
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

void report_json_latencies(struct json *json, const struct timeline *timeline)
{
	put_latency_steps(json, timeline, "p50", 50000);
	put_latency_steps(json, timeline, "p99", 99000);
	put_latency_steps(json, timeline, "max", 100000);
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
	report_json_latencies(json, timeline);
	json_close(json, '}');
	json_close(json, '}');
}

static void put_window(struct json *json, const struct window *window)
{
	json_number(json, "requests", window_requests(window));
	json_number(json, "ok", window->outcomes[OUTCOME_OK]);
	json_number(json, "lost", window_lost(window));
	json_number(json, "closed", window_closed_idle(window));
	json_open(json, "failures", '{');
	for (size_t i = OUTCOME_OK + 1; i < OUTCOMES; i++) {
		if (window->outcomes[i])
			json_number(json, outcome_infos[i].key, window->outcomes[i]);
	}
	json_close(json, '}');
	json_open(json, "closes", '{');
	for (size_t i = 0; i < CLOSES; i++) {
		if (window->closes[i])
			json_number(json, close_infos[i].key, window->closes[i]);
	}
	json_close(json, '}');
	json_decimal(json, "slowest_us", figures_us(window->slowest_ns));
	json_decimal(json, "pause_ms", (double)window->pause_ns / NS_PER_MS);
}

static void put_or_null(struct json *json, const char *key, const char *text)
{
	if (text[0])
		json_text(json, key, text);
	else
		json_null(json, key);
}

static void put_since(struct json *json, const char *key, uint64_t at_ns, uint64_t begin_ns)
{
	if (at_ns)
		json_decimal(json, key, (double)(at_ns - begin_ns) / NS_PER_MS);
	else
		json_null(json, key);
}

static void put_restart(struct json *json, const struct load *load, size_t number, const char *key)
{
	const struct restart *restart = &load->restarts.list[number];
	const struct window *window = &restart->window;

	json_open(json, key, '{');
	json_number(json, "number", number);
	json_decimal(json, "began_ms", figures_since_start_ms(load, window->begin_ns));
	put_since(json, "command_ms", restart->ended_ns, window->begin_ns);
	put_or_null(json, "failed", restart->reason);
	put_or_null(json, "last_line", restart->line);
	put_or_null(json, "generation", window->generation);
	put_since(json, "first_answer_ms", window->generation_ns, window->begin_ns);
	put_window(json, window);
	json_close(json, '}');
}

void report_json_restart(const struct load *load, size_t number)
{
	struct json json = { .out = stdout };

	report_json_begin(&json, load, "restart");
	put_restart(&json, load, number, "restart");
	json_close(&json, '}');
	json_end(&json);
}

static void put_restarts(struct json *json, const struct load *load)
{
	const struct restarts *restarts = &load->restarts;

	if (!restarts_wanted(restarts))
		return;
	json_number(json, "restarts_asked", restarts->options->count);
	json_open(json, "before", '{');
	put_window(json, &restarts->list[0].window);
	json_close(json, '}');
	json_open(json, "restarts", '[');
	for (size_t i = 1; i <= restarts->begun; i++)
		put_restart(json, load, i, NULL);
	json_close(json, ']');
}

void report_json_result(const struct load *load)
{
	const struct tally *tally = &load->client.tally;
	struct json json = { .out = stdout };
	struct histogram latency;

	figures_latency(load, &latency);
	report_json_begin(&json, load, "result");
	json_text(&json, "url", load->options->url_text);
	json_decimal(&json, "elapsed_ms", figures_elapsed_ms(load));
	json_decimal(&json, "per_second", figures_per_second(tally->ok, figures_elapsed_ms(load)));
	json_number(&json, "bytes_received", tally->bytes_received);
	json_decimal(&json, "waited_ms", (double)load->waited_ns / NS_PER_MS);
	json_bool(&json, "interrupted", load->interrupted);
	json_number(&json, "not_started", load_not_started(load));
	json_open(&json, "outcomes", '{');
	for (size_t i = 0; i < OUTCOMES; i++)
		json_number(&json, outcome_infos[i].key, tally_sum(tally, (enum outcome)i));
	json_close(&json, '}');
	put_connections(&json, load);
	put_latency(&json, &latency);
	put_header(&json, load);
	json_open(&json, "shapes", '{');
	for (size_t shape = 0; shape < SHAPES; shape++) {
		if (load->options->connections[shape])
			put_shape(&json, load, (enum shape)shape);
	}
	json_close(&json, '}');
	put_losses(&json, load);
	put_restarts(&json, load);
	put_timeline(&json, load);
	json_close(&json, '}');
	json_end(&json);
}
