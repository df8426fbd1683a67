/* SPDX-License-Identifier: MIT */
/* What is said on standard output: JSON, one object a line, or text for people. */
#ifndef LOAD_REPORT_H
#define LOAD_REPORT_H

#include "load.h"

void report_running(const struct load *load);
void report_progress(const struct load *load);
/** report_restart - the window of a restart has ended */
void report_restart(const struct load *load, size_t number);
void report_result(const struct load *load);

/** report_error - it could not run; @outcome is "own_limit", "unresolvable" or "failed" */
void report_error(const struct options *options, const char *outcome, const char *message);

#endif
