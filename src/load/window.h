/* SPDX-License-Identifier: MIT */
/*
 * What happens between two points in time: from the start of one restart to that of the next one.
 * Windows follow each other without a gap, so that what they count adds up to the whole run. Pure.
 */
#ifndef LOAD_WINDOW_H
#define LOAD_WINDOW_H

#include "outcome.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WINDOW_GENERATION_BYTES 64

struct window {
	uint64_t begin_ns, end_ns;      /* end_ns 0: it has not ended */
	uint64_t outcomes[OUTCOMES];    /* of requests that ended in it */
	uint64_t closes[CLOSES];        /* of connections */
	uint64_t slowest_ns;            /* of whole answers */
	uint64_t pause_ns, pause_at_ns; /* the longest time without a good answer, and its end */
	uint64_t last_ok_ns;            /* where the time without one begins */
	/* The first answer that came with a value never seen before; 0 and "" without one. */
	uint64_t generation_ns;
	char generation[WINDOW_GENERATION_BYTES + 1];
};

void window_begin(struct window *window, uint64_t now_ns);

/** window_end - what comes later is still counted, but no pause is measured any more */
void window_end(struct window *window, uint64_t now_ns);

void window_outcome(struct window *window, enum outcome outcome, uint64_t now_ns);
void window_answer(struct window *window, uint64_t latency_ns);

/** window_generation - an answer has told a generation that was never seen before */
void window_generation(struct window *window, const char *text, uint64_t now_ns);

uint64_t window_requests(const struct window *window);

/** window_lost - requests that count against the server */
uint64_t window_lost(const struct window *window);

/** window_closed - connections that count against it: unannounced, or with bytes unasked for */
uint64_t window_closed(const struct window *window);

/** window_closed_idle - the same, announced ones too */
uint64_t window_closed_idle(const struct window *window);

#endif
