/* SPDX-License-Identifier: MIT */
/* A binary heap whose entries know their place; see timers.h. */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>

int timers_init(struct timers *timers, size_t room)
{
	*timers = (struct timers){ .heap = calloc(room, sizeof(struct timer *)), .room = room };
	return timers->heap ? 0 : -ENOMEM;
}

void timers_done(struct timers *timers)
{
	free(timers->heap);
	*timers = (struct timers){ 0 };
}

static void put(struct timers *timers, size_t at, struct timer *timer)
{
	timers->heap[at] = timer;
	timer->slot = at + 1;
}

static void sift_up(struct timers *timers, size_t at)
{
	struct timer *timer = timers->heap[at];

	while (at > 0) {
		size_t above = (at - 1) / 2;

		if (timers->heap[above]->heap_ns <= timer->heap_ns)
			break;
		put(timers, at, timers->heap[above]);
		at = above;
	}
	put(timers, at, timer);
}

static void sift_down(struct timers *timers, size_t at)
{
	struct timer *timer = timers->heap[at];

	for (;;) {
		size_t below = at * 2 + 1;

		if (below >= timers->count)
			break;
		if (below + 1 < timers->count &&
		    timers->heap[below + 1]->heap_ns < timers->heap[below]->heap_ns)
			below++;
		if (timer->heap_ns <= timers->heap[below]->heap_ns)
			break;
		put(timers, at, timers->heap[below]);
		at = below;
	}
	put(timers, at, timer);
}

static void remove_first(struct timers *timers)
{
	timers->heap[0]->slot = 0;
	timers->count--;
	if (timers->count == 0)
		return;
	put(timers, 0, timers->heap[timers->count]);
	sift_down(timers, 0);
}

void timers_set(struct timers *timers, struct timer *timer, uint64_t due_ns)
{
	timer->due_ns = due_ns;
	if (due_ns == 0 || (timer->slot && timer->heap_ns <= due_ns))
		return;
	timer->heap_ns = due_ns;
	if (!timer->slot)
		put(timers, timers->count++, timer);
	sift_up(timers, timer->slot - 1);
}

uint64_t timers_next(const struct timers *timers)
{
	return timers->count ? timers->heap[0]->heap_ns : UINT64_MAX;
}

struct timer *timers_take(struct timers *timers, uint64_t now_ns)
{
	while (timers->count && timers->heap[0]->heap_ns <= now_ns) {
		struct timer *timer = timers->heap[0];

		if (timer->due_ns == 0) {
			remove_first(timers);
		} else if (timer->due_ns > now_ns) {
			timer->heap_ns = timer->due_ns;
			sift_down(timers, 0);
		} else {
			remove_first(timers);
			timer->due_ns = 0;
			return timer;
		}
	}
	return NULL;
}
