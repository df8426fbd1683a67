/* SPDX-License-Identifier: MIT */
/* Many deadlines under one timer: a binary heap whose members know their place. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "timer.h"

static void place(struct sgh_timers *timers, uint32_t index, struct sgh_timer *timer)
{
	timers->heap[index] = timer;
	timer->index = index;
}

static void sift_up(struct sgh_timers *timers, struct sgh_timer *timer, uint32_t index)
{
	while (index > 0) {
		uint32_t above = (index - 1) / 2;

		if (timers->heap[above]->at_ms <= timer->at_ms)
			break;
		place(timers, index, timers->heap[above]);
		index = above;
	}
	place(timers, index, timer);
}

static void sift_down(struct sgh_timers *timers, struct sgh_timer *timer, uint32_t index)
{
	for (;;) {
		uint32_t below = 2 * index + 1;

		if (below >= timers->count)
			break;
		if (below + 1 < timers->count &&
		    timers->heap[below + 1]->at_ms < timers->heap[below]->at_ms)
			below++;
		if (timer->at_ms <= timers->heap[below]->at_ms)
			break;
		place(timers, index, timers->heap[below]);
		index = below;
	}
	place(timers, index, timer);
}

void sgh_timer_init(struct sgh_timer *timer, void (*fire)(struct sgh_timer *timer))
{
	timer->at_ms = 0;
	timer->index = SGH_TIMER_OFF;
	timer->fire = fire;
}

static int grow(struct sgh_timers *timers)
{
	uint32_t room = timers->room ? 2 * timers->room : 64;
	struct sgh_timer **heap = reallocarray(timers->heap, room, sizeof(struct sgh_timer *));

	if (!heap)
		return -ENOMEM;
	timers->heap = heap;
	timers->room = room;
	return 0;
}

int sgh_timers_init(struct sgh_timers *timers, struct sgh_timer *reserved)
{
	*timers = (struct sgh_timers){ .reserved = reserved };
	return grow(timers);
}

/* Without memory for more. */
static bool has_room(const struct sgh_timers *timers, const struct sgh_timer *timer)
{
	uint32_t left = timers->room - timers->count;

	return left > 1 || (left == 1 && (!timers->reserved || timers->reserved == timer ||
	                                  timers->reserved->index != SGH_TIMER_OFF));
}

int sgh_timer_set(struct sgh_timers *timers, struct sgh_timer *timer, uint64_t at_ms)
{
	if (timer->index == SGH_TIMER_OFF) {
		if (!has_room(timers, timer) && grow(timers) < 0)
			return -ENOMEM;
		timer->at_ms = at_ms;
		sift_up(timers, timer, timers->count++);
		return 0;
	}
	if (at_ms < timer->at_ms) {
		timer->at_ms = at_ms;
		sift_up(timers, timer, timer->index);
	} else {
		timer->at_ms = at_ms;
		sift_down(timers, timer, timer->index);
	}
	return 0;
}

void sgh_timer_stop(struct sgh_timers *timers, struct sgh_timer *timer)
{
	uint32_t index = timer->index;
	struct sgh_timer *last;

	if (index == SGH_TIMER_OFF)
		return;
	timer->index = SGH_TIMER_OFF;
	last = timers->heap[--timers->count];
	if (last == timer)
		return;
	if (index > 0 && last->at_ms < timers->heap[(index - 1) / 2]->at_ms)
		sift_up(timers, last, index);
	else
		sift_down(timers, last, index);
}

struct sgh_timer *sgh_timer_due(struct sgh_timers *timers, uint64_t now_ms)
{
	struct sgh_timer *first;

	if (!timers->count || timers->heap[0]->at_ms > now_ms)
		return NULL;
	first = timers->heap[0];
	sgh_timer_stop(timers, first);
	return first;
}

void sgh_timers_done(struct sgh_timers *timers)
{
	free(timers->heap);
	*timers = (struct sgh_timers){ 0 };
}
