/* SPDX-License-Identifier: MIT */
/*
 * The run in steps of 100 ms: what became of the requests that ended in each, which connections
 * closed, how long answers took. Its size is bounded: a run that has more steps than there is room
 * for has two of them added up wherever there was one, and so on. Pure.
 */
#ifndef LOAD_TIMELINE_H
#define LOAD_TIMELINE_H

#include "histogram.h"
#include "outcome.h"

#include <stddef.h>
#include <stdint.h>

#define TIMELINE_WIDTH_MS 100
#define TIMELINE_MAX      2400 /* four minutes until steps become wider */

/*
 * Latencies of a step are known to three per cent: pairs of the histogram's buckets, from 1 us to
 * four minutes. What is beyond falls into the first or the last one.
 */
#define TIMELINE_FIRST_BUCKET 320
#define TIMELINE_SLOTS        896

struct timeline_step {
	uint64_t outcomes[OUTCOMES];
	uint64_t closes[CLOSES];
	uint64_t max_ns;
	uint32_t answers, slots[TIMELINE_SLOTS];
};

struct timeline {
	uint64_t start_ns, width_ns;
	size_t count; /* steps that have begun */
	struct timeline_step *steps;
};

/** timeline_init - returns 0, or -ENOMEM; start_ns is the caller's to set */
int timeline_init(struct timeline *timeline);
void timeline_done(struct timeline *timeline);

void timeline_outcome(struct timeline *timeline, uint64_t at_ns, enum outcome outcome);
void timeline_close(struct timeline *timeline, uint64_t at_ns, enum close_kind kind);
void timeline_answer(struct timeline *timeline, uint64_t at_ns, uint64_t latency_ns);

/** timeline_extend - makes sure that there are steps up to @end_ns, where nothing happens too */
void timeline_extend(struct timeline *timeline, uint64_t end_ns);

/** timeline_latency - as histogram_at(); 0 where the step has no answer */
uint64_t timeline_latency(const struct timeline_step *step, unsigned int per_100k);

/** timeline_lost - requests of the step that count against the server */
uint64_t timeline_lost(const struct timeline_step *step);

#endif
