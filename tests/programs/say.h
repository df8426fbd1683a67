/* SPDX-License-Identifier: MIT */
/*
 * The log: one JSON object a line on stderr, each written by one write(2), so that the lines of
 * generations which share a pipe never mix.
 */
#ifndef TEST_SAY_H
#define TEST_SAY_H

#include <stdint.h>

/* Set once it is known; 0 is left out. */
extern uint64_t say_generation;

void say_begin(const char *event);
void say_text(const char *key, const char *value);
void say_number(const char *key, int64_t value);
void say_end(void);

#endif
