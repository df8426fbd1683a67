/* SPDX-License-Identifier: MIT */
/* The result as text for people, and what is said of each restart as it goes. */
#ifndef LOAD_REPORT_TEXT_H
#define LOAD_REPORT_TEXT_H

#include "load.h"

/** report_text_restart - one line: what this restart has cost; without the number, headings */
void report_text_restart(const struct load *load, size_t number);

void report_text_result(const struct load *load);

#endif
