/* SPDX-License-Identifier: MIT */
/* What is said as it goes; see report.h. */
#include "report.h"
#include "clock.h"
#include "figures.h"
#include "report_json.h"
#include "report_text.h"

#include <inttypes.h>
#include <stdio.h>

void report_running(const struct load *load)
{
	struct json json = { .out = stdout };

	if (!load->options->json)
		return;
	report_json_begin(&json, load, "running");
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
	double rate =
		figures_per_second(tally->ok - last_ok, (double)(now_ns - begin_ns) / NS_PER_MS);

	last_ns = now_ns;
	last_ok = tally->ok;
	if (!load->options->json) {
		printf("%7.1f s  %10" PRIu64 " ok  %8" PRIu64 " lost  %8.0f per second\n",
		       figures_since_start_ms(load, now_ns) / 1000, tally->ok, tally->lost, rate);
		fflush(stdout);
		return;
	}
	report_json_begin(&json, load, "progress");
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

void report_restart(const struct load *load, size_t number)
{
	const struct restart *restart = &load->restarts.list[number];

	if (load->options->json)
		report_json_restart(load, number);
	else
		report_text_restart(load, number);
	if (restart->failed)
		fprintf(stderr, "segue-load: restart %zu failed: %s\n", number, restart->reason);
}

void report_result(const struct load *load)
{
	if (load->options->json)
		report_json_result(load);
	else
		report_text_result(load);
}
