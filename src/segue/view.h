/* SPDX-License-Identifier: MIT */
/*
 * Texts for a person: spans of time, cleaned words, and the tables of 'segue status' and
 * 'segue list' (whose functions display.h declares).
 */
#ifndef SEGUE_COMMAND_VIEW_H
#define SEGUE_COMMAND_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define VIEW_SPAN_MAX 32

/* "0.4 s" (fine) or "12 s", "2 min 5 s", "4 h 12 min", "3 d 4 h". */
void view_span(char ret_text[static VIEW_SPAN_MAX], int64_t ms, bool fine);

/* Takes what a terminal must not get out of a text of the service's, in place. */
void view_clean(char *text, bool utf8);

/* A member that is an integer, or what stands in for it. */
int64_t view_number(const json_t *object, const char *name, int64_t otherwise);

#endif
