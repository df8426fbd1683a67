/* SPDX-License-Identifier: MIT */
/*
 * Steps of the run; see timeline.h. The array has its full size from the beginning and is zero, so
 * that a short run touches little of it.
 */
#include "timeline.h"
#include "clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int timeline_init(struct timeline *timeline)
{
	*timeline = (struct timeline){
		.width_ns = TIMELINE_WIDTH_MS * NS_PER_MS,
		.steps = calloc(TIMELINE_MAX, sizeof(struct timeline_step)),
	};
	return timeline->steps ? 0 : -ENOMEM;
}

void timeline_done(struct timeline *timeline)
{
	free(timeline->steps);
	timeline->steps = NULL;
}

static void add_step(struct timeline_step *into, const struct timeline_step *from)
{
	for (size_t i = 0; i < OUTCOMES; i++)
		into->outcomes[i] += from->outcomes[i];
	for (size_t i = 0; i < CLOSES; i++)
		into->closes[i] += from->closes[i];
	for (size_t i = 0; i < TIMELINE_SLOTS; i++)
		into->slots[i] += from->slots[i];
	into->answers += from->answers;
	if (from->max_ns > into->max_ns)
		into->max_ns = from->max_ns;
}

/* Every two steps become one. */
static void widen(struct timeline *timeline)
{
	struct timeline_step *steps = timeline->steps;
	size_t count = (timeline->count + 1) / 2;

	for (size_t i = 0; i < count; i++) {
		if (i)
			steps[i] = steps[i * 2];
		/* Behind the last one are zeros. */
		add_step(&steps[i], &steps[i * 2 + 1]);
	}
	memset(&steps[count], 0, (TIMELINE_MAX - count) * sizeof(*steps));
	timeline->count = count;
	timeline->width_ns *= 2;
}

static struct timeline_step *step_at(struct timeline *timeline, uint64_t at_ns)
{
	uint64_t since_ns = at_ns > timeline->start_ns ? at_ns - timeline->start_ns : 0;
	size_t index;

	while (since_ns / timeline->width_ns >= TIMELINE_MAX)
		widen(timeline);
	index = since_ns / timeline->width_ns;
	if (timeline->count <= index)
		timeline->count = index + 1;
	return &timeline->steps[index];
}

void timeline_outcome(struct timeline *timeline, uint64_t at_ns, enum outcome outcome)
{
	step_at(timeline, at_ns)->outcomes[outcome]++;
}

void timeline_close(struct timeline *timeline, uint64_t at_ns, enum close_kind kind)
{
	step_at(timeline, at_ns)->closes[kind]++;
}

static size_t slot_of(uint64_t value)
{
	size_t bucket = histogram_bucket(value), slot;

	if (bucket < TIMELINE_FIRST_BUCKET)
		return 0;
	slot = (bucket - TIMELINE_FIRST_BUCKET) / 2;
	return slot < TIMELINE_SLOTS ? slot : TIMELINE_SLOTS - 1;
}

void timeline_answer(struct timeline *timeline, uint64_t at_ns, uint64_t latency_ns)
{
	struct timeline_step *step = step_at(timeline, at_ns);

	step->answers++;
	step->slots[slot_of(latency_ns)]++;
	if (latency_ns > step->max_ns)
		step->max_ns = latency_ns;
}

void timeline_extend(struct timeline *timeline, uint64_t end_ns)
{
	if (end_ns > timeline->start_ns)
		step_at(timeline, end_ns - 1);
}

uint64_t timeline_latency(const struct timeline_step *step, unsigned int per_100k)
{
	uint64_t wanted = ((uint64_t)step->answers * per_100k + 99999) / 100000, seen = 0;

	if (wanted == 0)
		wanted = 1;
	for (size_t i = 0; step->answers && i < TIMELINE_SLOTS - 1; i++) {
		uint64_t end;

		seen += step->slots[i];
		if (seen < wanted)
			continue;
		end = histogram_bucket_end(TIMELINE_FIRST_BUCKET + i * 2 + 1);
		return end < step->max_ns ? end : step->max_ns;
	}
	return step->max_ns;
}

uint64_t timeline_lost(const struct timeline_step *step)
{
	uint64_t lost = 0;

	for (size_t i = 0; i < OUTCOMES; i++) {
		if (outcome_infos[i].kind == OUTCOME_LOST)
			lost += step->outcomes[i];
	}
	return lost;
}
