/* SPDX-License-Identifier: MIT */
/*
 * Everything that is counted. Pure but for the memory that distinct header values need; when that
 * runs out, further values are counted as "other".
 */
#ifndef LOAD_TALLY_H
#define LOAD_TALLY_H

#include "histogram.h"
#include "outcome.h"
#include "timeline.h"
#include "window.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TALLY_KEPT_LOSSES 20
#define TALLY_MAX_VALUES  65536
#define TALLY_VALUE_BYTES 64

/* One request that was lost, told in detail; only the first few are kept. */
struct loss {
	uint64_t at_ns;
	enum shape shape;
	enum outcome outcome;
	int error;       /* errno, 0 for an orderly end */
	const char *why; /* what was malformed, or NULL */
	uint64_t answered_before;
	int status;
	char after[TALLY_VALUE_BYTES + 1]; /* header value of the answer before, "" if none */
};

/* One value of the header that is counted. */
struct value {
	char text[TALLY_VALUE_BYTES + 1];
	uint64_t count, first_ns, last_ns;
	uint32_t next; /* in the same bucket: 1 + index */
};

struct shape_tally {
	uint64_t started;
	uint64_t outcomes[OUTCOMES];
	struct histogram latency; /* of all whole answers, whatever their status */
};

struct tally {
	struct shape_tally shapes[SHAPES];
	uint64_t started, finished; /* sums over the shapes */
	uint64_t ok, lost;
	uint64_t opened;         /* connections */
	uint64_t closes[CLOSES]; /* connections that closed while idle */
	uint64_t bytes_received;
	struct timeline timeline;
	struct window *window; /* where it is now; NULL: nobody asks */
	uint64_t first_sent_ns, last_answer_ns;
	struct loss losses[TALLY_KEPT_LOSSES];
	size_t losses_kept;

	struct value *values;
	uint32_t values_count, values_room;
	uint32_t *buckets;
	uint64_t value_missing, value_other;
	uint64_t backwards; /* connections on which a number became smaller */
};

int tally_init(struct tally *tally);
void tally_done(struct tally *tally);

/** tally_outcome - one request has ended; @loss is filled in where it was lost */
void tally_outcome(struct tally *tally, enum shape shape, enum outcome outcome, uint64_t now_ns,
                   const struct loss *loss);

/** tally_answer - a whole answer has come, whatever its status; its outcome is counted apart */
void tally_answer(struct tally *tally, enum shape shape, uint64_t latency_ns, uint64_t now_ns);

/** tally_close - a connection has closed while idle */
void tally_close(struct tally *tally, enum close_kind kind, uint64_t now_ns);

/** tally_value - counts a header's value; returns 1 + its index, 0 for "other" */
uint32_t tally_value(struct tally *tally, const char *text, size_t size, uint32_t guess,
                     uint64_t now_ns);

/** tally_sum - an outcome over all shapes */
uint64_t tally_sum(const struct tally *tally, enum outcome outcome);

#endif
