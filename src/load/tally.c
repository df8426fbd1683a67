/* SPDX-License-Identifier: MIT */
/* Counting; see tally.h. */
#include "tally.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096

int tally_init(struct tally *tally)
{
	*tally = (struct tally){ .buckets = calloc(BUCKETS, sizeof(uint32_t)) };
	if (!tally->buckets)
		return -ENOMEM;
	return timeline_init(&tally->timeline);
}

void tally_done(struct tally *tally)
{
	free(tally->values);
	free(tally->buckets);
	timeline_done(&tally->timeline);
}

void tally_outcome(struct tally *tally, enum shape shape, enum outcome outcome, uint64_t now_ns,
                   const struct loss *loss)
{
	timeline_outcome(&tally->timeline, now_ns, outcome);
	if (tally->window)
		window_outcome(tally->window, outcome, now_ns);
	tally->shapes[shape].outcomes[outcome]++;
	tally->finished++;
	if (outcome_infos[outcome].kind == OUTCOME_GOOD) {
		tally->ok++;
		return;
	}
	if (outcome_infos[outcome].kind == OUTCOME_LOST)
		tally->lost++;
	if (loss && tally->losses_kept < TALLY_KEPT_LOSSES)
		tally->losses[tally->losses_kept++] = *loss;
}

void tally_answer(struct tally *tally, enum shape shape, uint64_t latency_ns, uint64_t now_ns)
{
	histogram_add(&tally->shapes[shape].latency, latency_ns);
	timeline_answer(&tally->timeline, now_ns, latency_ns);
	if (tally->window)
		window_answer(tally->window, latency_ns);
	tally->last_answer_ns = now_ns;
}

void tally_close(struct tally *tally, enum close_kind kind, uint64_t now_ns)
{
	tally->closes[kind]++;
	timeline_close(&tally->timeline, now_ns, kind);
	if (tally->window)
		tally->window->closes[kind]++;
}

/* FNV-1a. */
static uint32_t bucket_of(const char *text, size_t size)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (unsigned char)text[i]) * 16777619u;
	return hash % BUCKETS;
}

static bool is_value(const struct value *value, const char *text, size_t size)
{
	return memcmp(value->text, text, size) == 0 && value->text[size] == '\0';
}

static uint32_t add_value(struct tally *tally, const char *text, size_t size, uint32_t *bucket,
                          uint64_t now_ns)
{
	struct value *value;

	if (tally->values_count == tally->values_room) {
		uint32_t room = tally->values_room ? tally->values_room * 2 : 64;
		struct value *values = NULL;

		if (room <= TALLY_MAX_VALUES)
			values = realloc(tally->values, room * sizeof(*values));
		if (!values)
			return 0;
		tally->values = values;
		tally->values_room = room;
	}
	value = &tally->values[tally->values_count++];
	*value = (struct value){ .first_ns = now_ns, .next = *bucket };
	memcpy(value->text, text, size);
	if (tally->window)
		window_generation(tally->window, value->text, now_ns);
	*bucket = tally->values_count;
	return *bucket;
}

static uint32_t find_value(struct tally *tally, const char *text, size_t size, uint64_t now_ns)
{
	uint32_t *bucket = &tally->buckets[bucket_of(text, size)];

	for (uint32_t at = *bucket; at; at = tally->values[at - 1].next) {
		if (is_value(&tally->values[at - 1], text, size))
			return at;
	}
	return add_value(tally, text, size, bucket, now_ns);
}

uint32_t tally_value(struct tally *tally, const char *text, size_t size, uint32_t guess,
                     uint64_t now_ns)
{
	uint32_t at = guess;

	if (!at || !is_value(&tally->values[at - 1], text, size))
		at = find_value(tally, text, size, now_ns);
	if (!at) {
		tally->value_other++;
		return 0;
	}
	tally->values[at - 1].count++;
	tally->values[at - 1].last_ns = now_ns;
	return at;
}

uint64_t tally_sum(const struct tally *tally, enum outcome outcome)
{
	uint64_t sum = 0;

	for (size_t shape = 0; shape < SHAPES; shape++)
		sum += tally->shapes[shape].outcomes[outcome];
	return sum;
}
