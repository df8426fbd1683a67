/* SPDX-License-Identifier: MIT */
/* What the JSON events of report.c have in common, and the large ones. */
#ifndef LOAD_REPORT_JSON_H
#define LOAD_REPORT_JSON_H

#include "json.h"
#include "load.h"

/** report_json_begin - opens an object with what every event has */
void report_json_begin(struct json *json, const struct load *load, const char *event);

/** report_json_restart - the event: the window of a restart has ended */
void report_json_restart(const struct load *load, size_t number);

void report_json_result(const struct load *load);

/** report_json_latencies - arrays of the steps' p50, p99 and max in us, null where nothing came */
void report_json_latencies(struct json *json, const struct timeline *timeline);

#endif
