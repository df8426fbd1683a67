/* SPDX-License-Identifier: MIT */
/* Many deadlines under one timer: a binary heap. Makes no system call. */
#ifndef SGH_TIMER_H
#define SGH_TIMER_H

#include <stdint.h>

#define SGH_TIMER_OFF UINT32_MAX

struct sgh_timer {
	uint64_t at_ms;
	uint32_t index; /* in the heap; SGH_TIMER_OFF: not in it */
	void (*fire)(struct sgh_timer *timer);
};

struct sgh_timers {
	struct sgh_timer **heap;
	uint32_t count, room;
	struct sgh_timer *reserved; /* the last room is its */
};

/* Room for a few, and always for one of them. */
int sgh_timers_init(struct sgh_timers *timers, struct sgh_timer *reserved);

/* Once, before anything else is done with the timer. */
void sgh_timer_init(struct sgh_timer *timer, void (*fire)(struct sgh_timer *timer));

/* Add, or move to another time. -ENOMEM, and then the timer is not in the heap. */
int sgh_timer_set(struct sgh_timers *timers, struct sgh_timer *timer, uint64_t at_ms);
void sgh_timer_stop(struct sgh_timers *timers, struct sgh_timer *timer);

/* Take out the earliest where it is due, or NULL. */
struct sgh_timer *sgh_timer_due(struct sgh_timers *timers, uint64_t now_ms);

void sgh_timers_done(struct sgh_timers *timers);

#endif
