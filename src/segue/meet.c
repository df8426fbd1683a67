/* SPDX-License-Identifier: MIT */
/*
 * Who hands over to whom: a channel between two workers, made and forgotten here. Connections
 * and state never pass through the supervisor.
 */
#include "core/channel.h"
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <string.h>

/* A channel between two workers: the elder hands over to the younger when it drains. */
static void introduce(struct worker *elder, struct worker *younger)
{
	struct sg_message up = { .type = SG_MESSAGE_INTRODUCE,
		                 .generation = younger->slot->generation->number,
		                 .worker = younger->slot->index,
		                 .pid = (uint32_t)younger->process.pid };
	struct sg_message down = { .type = SG_MESSAGE_INTRODUCE,
		                   .generation = elder->slot->generation->number,
		                   .worker = elder->slot->index,
		                   .pid = (uint32_t)elder->process.pid,
		                   .upstream = 1 };
	int ends[2], fds[2], r = sg_channel_pair(ends);

	if (r == 0) {
		fds[0] = ends[0];
		fds[1] = younger->process.pidfd;
		r = link_send_or_not(elder->link, &up, fds, 2);
		fds[0] = ends[1];
		fds[1] = elder->process.pidfd;
		if (r == 0)
			r = link_send_or_not(younger->link, &down, fds, 2);
		sg_fd_close(ends[0]);
		sg_fd_close(ends[1]);
	}
	if (r < 0 && r != -EPIPE)
		log_say("warning", NULL,
		        "workers %llu:%u and %llu:%u could not be introduced: %s; connections of "
		        "the "
		        "first end with their requests",
		        (unsigned long long)elder->slot->generation->number, elder->slot->index,
		        (unsigned long long)younger->slot->generation->number, younger->slot->index,
		        strerror(-r));
}

static bool may_take_over(const struct worker *worker)
{
	return worker_lives(worker) && link_greeted(worker->link) &&
	       (worker->state == WORKER_STARTING || worker->state == WORKER_READY ||
	        worker_is_committed(worker));
}

/* One that was started again is asked for its state only when it can answer. */
static bool may_hand_over(const struct worker *worker)
{
	return worker_lives(worker) && link_greeted(worker->link) &&
	       (worker->state == WORKER_READY || worker_is_committed(worker) ||
	        worker->state == WORKER_DRAINING);
}

static bool is_next(const struct generation *a, const struct generation *b)
{
	for (const struct generation *g = a->next; g != NULL && g != b; g = g->next)
		if (!g->failed)
			return false;
	return true;
}

/*
 * Worker i hands over to worker i mod N of a younger generation, or to its replacement, or to
 * who is started where that has died. Where
 * orphans serve on, each has to know of any of the next generation that serves: a supervisor
 * that dies between two COMMITs would leave two generations serving (doc/protocol.md, rule 29).
 */
static bool meets(const struct worker *elder, const struct worker *younger)
{
	const struct slot *a = elder->slot, *b = younger->slot;
	const struct generation *next = b->generation;

	if (a == b)
		return (elder == a->worker && younger == a->replacement) ||
		       (elder == a->leaving && younger == a->worker);
	if (a->generation->number >= next->number || next->failed)
		return false;
	if (next->terms->config->orphans == CONFIG_ORPHANS_SERVE && is_next(a->generation, next))
		return true;
	return a->index % next->slots_len == b->index;
}

/* The worker to all that it takes over from, or (as_elder) to all that take over from it. */
void meet_all(struct worker *worker, bool as_elder)
{
	struct service *service = worker->slot->generation->service;

	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *others[] = WORKERS_OF(&g->slots[i]);

			for (size_t k = 0; k < WORKERS_A_SLOT; k++) {
				struct worker *other = others[k];

				if (other == NULL || other == worker)
					continue;
				if (as_elder && may_take_over(other) && meets(worker, other))
					introduce(worker, other);
				else if (!as_elder && may_hand_over(other) && meets(other, worker))
					introduce(other, worker);
			}
		}
}

/* Has the one died to which a worker was introduced in place of its own successor? */
static bool needs_another(const struct worker *elder, const struct generation *next)
{
	for (unsigned int i = 0; i < next->slots_len; i++) {
		const struct worker *other = next->slots[i].worker;

		if (worker_lives(other) && other->key == elder->another)
			return false;
	}
	return true;
}

/* One that is to drain, and whose own successor has died and is not there again: any that serves
 * takes over from it. */
void meet_another(struct worker *elder, struct generation *next)
{
	struct worker *own = next->slots[elder->slot->index % next->slots_len].worker;

	if (!link_greeted(elder->link) || (worker_lives(own) && link_greeted(own->link)) ||
	    !needs_another(elder, next))
		return;
	for (unsigned int i = 0; i < next->slots_len; i++) {
		struct worker *other = next->slots[i].worker;

		if (!worker_lives(other) || !link_greeted(other->link) ||
		    other->state != WORKER_SERVING)
			continue;
		/* Where orphans serve on they know each other already. */
		if (!meets(elder, other))
			introduce(elder, other);
		elder->another = other->key;
		return;
	}
}

/* A worker of the generation that serves has died, or has come to serve: for all that drain and
 * have nobody to hand over to. */
void meet_left_behind(struct generation *serving)
{
	for (struct generation *g = serving->service->generations; g != serving->next; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = WORKERS_OF(&g->slots[i]);

			for (size_t k = 0; k < WORKERS_A_SLOT; k++)
				if (worker_lives(workers[k]) &&
				    workers[k]->state == WORKER_DRAINING)
					meet_another(workers[k], serving);
		}
}
