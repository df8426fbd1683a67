/* SPDX-License-Identifier: MIT */
/*
 * Many points in time, of which the earliest is wanted: a binary heap. To set a timer later is the
 * common case (each answer moves its connection's deadline) and costs nothing: the heap is only
 * touched when a timer becomes earlier, and one that comes up too soon is put back. Pure.
 */
#ifndef LOAD_TIMERS_H
#define LOAD_TIMERS_H

#include <stddef.h>
#include <stdint.h>

struct timer {
	uint64_t due_ns;  /* 0: not set */
	uint64_t heap_ns; /* under which the heap knows it; never later than due_ns while set */
	size_t slot;      /* 1 + place in the heap, 0: not in it */
};

struct timers {
	struct timer **heap;
	size_t count, room;
};

/** timers_init - room for @room timers; returns 0 or -ENOMEM */
int timers_init(struct timers *timers, size_t room);
void timers_done(struct timers *timers);

/** timers_set - @due_ns of 0 clears the timer */
void timers_set(struct timers *timers, struct timer *timer, uint64_t due_ns);

/** timers_next - no timer is due before this point in time; UINT64_MAX when none is set */
uint64_t timers_next(const struct timers *timers);

/** timers_take - takes and clears one timer that is due at @now_ns, or returns NULL */
struct timer *timers_take(struct timers *timers, uint64_t now_ns);

#endif
