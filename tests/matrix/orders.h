/* SPDX-License-Identifier: MIT */
/*
 * What the test wants of the actor, and what the actor tells.
 *
 * The orders are a file of lines "GENERATION KEY VALUE" ("*": every generation), read anew at
 * each question, so that a test can change its mind. The last line that fits is the one that
 * counts, and the value "-" takes it back. Events are JSON lines on stderr, each written at once.
 */
#ifndef MATRIX_ORDERS_H
#define MATRIX_ORDERS_H

#include <stdbool.h>
#include <stdint.h>

#define ORDER_MAX 512

/* The file; NULL: there are no orders. */
void orders_file(const char *path);

/* Which generation asks; 0 until that is known. */
void orders_generation(uint64_t generation);

/* The value of a key in a static buffer that the next call uses again, or NULL. */
const char *order(const char *key);
bool order_is(const char *key, const char *value);
long order_number(const char *key, long missing);

/* Where the key has a value, a FIFO: blocks until somebody has written a byte. */
void hold(const char *key);

/* {"event": name, "generation": ..., "pid": ..., and the rest as it is formatted}. */
void tell(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A text as it may stand in JSON; one static buffer. */
const char *quoted(const char *text);

#endif
