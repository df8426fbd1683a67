/* SPDX-License-Identifier: MIT */
/*
 * A generation and its slots: who is started, who hands over to whom, who is started again.
 *
 * The first worker leads: the others are started when it is ready, so that a listener that the
 * program binds itself is bound once and passed on, and a version that does not start costs
 * one process. Nobody serves before all are ready.
 */
#include "core/channel.h"
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"
#include "segue/words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

int generation_new(struct generation **ret_generation, struct service *service, char **argv,
                   struct terms *terms)
{
	struct generation *generation = calloc(1, sizeof(*generation)), **last;

	if (generation == NULL)
		return -ENOMEM;
	generation->service = service;
	generation->slots_len = terms->config->workers;
	generation->slots = calloc(generation->slots_len, sizeof(*generation->slots));
	generation->argv = words_copy(argv);
	if (generation->slots == NULL || generation->argv == NULL) {
		free(generation->slots);
		words_free(generation->argv);
		free(generation);
		return -ENOMEM;
	}
	generation->terms = terms_ref(terms);
	generation->number = ++service->last_number;
	generation->since_ms = sg_now_ms();
	generation->since = time(NULL);
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		generation->slots[i].generation = generation;
		generation->slots[i].index = i;
		generation->slots[i].last.fd = -1;
	}
	for (last = &service->generations; *last != NULL; last = &(*last)->next)
		continue;
	*last = generation;
	*ret_generation = generation;
	return 0;
}

void generation_free(struct generation *generation)
{
	struct generation **at = &generation->service->generations;

	while (*at != NULL && *at != generation)
		at = &(*at)->next;
	if (*at != NULL)
		*at = generation->next;
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		slot_forget_restart(&generation->slots[i]);
		program_done(&generation->slots[i].last);
	}
	free(generation->slots);
	words_free(generation->argv);
	terms_unref(generation->terms);
	free(generation);
}

unsigned int generation_alive(const struct generation *generation)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct slot *slot = &generation->slots[i];

		count += (slot->worker != NULL) + (slot->replacement != NULL) +
		         (slot->leaving != NULL);
	}
	return count;
}

bool generation_goes_on(const struct generation *generation)
{
	for (unsigned int i = 0; i < generation->slots_len; i++)
		if (generation->slots[i].timer != NULL)
			return true;
	return generation_alive(generation) > 0;
}

void generation_post(struct generation *generation, enum worker_event event)
{
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct worker *workers[] = WORKERS_OF(&generation->slots[i]);

		for (size_t k = 0; k < WORKERS_A_SLOT; k++)
			if (worker_lives(workers[k]))
				worker_post(workers[k], event);
	}
}

void generation_stop(struct generation *generation, enum worker_event event)
{
	const struct service *service = generation->service;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct slot *slot = &generation->slots[i];

		slot_forget_restart(slot);
		if (!worker_lives(slot->replacement))
			continue;
		if (service->stop_asked)
			worker_failed(slot->replacement, "the service is being stopped");
		else
			worker_failed(slot->replacement, "generation %llu serves again",
			              (unsigned long long)service->serving->number);
	}
	generation_post(generation, event);
}

struct worker *generation_worker_of(struct service *service, pid_t pid)
{
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = WORKERS_OF(&g->slots[i]);

			for (size_t k = 0; k < WORKERS_A_SLOT; k++)
				if (worker_owns(workers[k], pid))
					return workers[k];
		}
	return NULL;
}

bool generation_connections(const struct generation *generation, uint64_t *ret_connections,
                            uint64_t *ret_cut)
{
	uint64_t connections = 0, cut = generation->cut;
	bool known = false, aged = false;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct worker *workers[] = WORKERS_OF(&generation->slots[i]);

		for (size_t k = 0; k < WORKERS_A_SLOT; k++) {
			if (!worker_lives(workers[k]) || !workers[k]->counts)
				continue;
			known = true;
			aged = aged || workers[k]->aged;
			connections += workers[k]->connections;
			cut += workers[k]->cut;
		}
	}
	*ret_connections = connections;
	*ret_cut = cut;
	return known && !aged;
}

/* What each of its workers had when the drain began is the most that it has told since. */
void generation_counted(struct worker *worker)
{
	struct generation *generation = worker->slot->generation;
	uint64_t had = worker->connections + worker->cut;

	if (!generation->retired || !worker->counts || worker->aged)
		return;
	generation->drained_known = true;
	if (had > worker->drained_from) {
		generation->drained_from += had - worker->drained_from;
		worker->drained_from = had;
	}
}

static void count_anew(struct generation *generation)
{
	generation->drained_known = false;
	generation->drained_from = 0;
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct worker *workers[] = WORKERS_OF(&generation->slots[i]);

		for (size_t k = 0; k < WORKERS_A_SLOT; k++) {
			if (!worker_lives(workers[k]))
				continue;
			workers[k]->drained_from = 0;
			generation_counted(workers[k]);
		}
	}
}

/* Its listeners, and whom it takes over from; the offer ends both. */
void generation_greeted(struct worker *worker)
{
	meet_all(worker, false);
	held_offer(worker->slot->generation->service, worker);
}

/* Starting. */

static void fails_to_start(struct slot *slot, const char *reason)
{
	service_failed(slot->generation->service, "worker %u could not be started: %s", slot->index,
	               reason);
	service_post(slot->generation->service, SERVICE_EVENT_FAILED);
}

int generation_start(struct generation *generation)
{
	char reason[REASON_MAX];
	int r = slot_start(&generation->slots[0], NULL, reason);

	if (r < 0)
		fails_to_start(&generation->slots[0], reason);
	return r;
}

static void start_others(struct generation *generation)
{
	char reason[REASON_MAX];

	for (unsigned int i = 1; i < generation->slots_len; i++)
		if (slot_start(&generation->slots[i], NULL, reason) < 0) {
			fails_to_start(&generation->slots[i], reason);
			return;
		}
}

static bool all_ready(const struct generation *generation)
{
	for (unsigned int i = 0; i < generation->slots_len; i++)
		if (generation->slots[i].worker == NULL ||
		    generation->slots[i].worker->state != WORKER_READY)
			return false;
	return true;
}

static void take_place(struct worker *worker)
{
	struct slot *slot = worker->slot;

	slot->replacement = NULL;
	/* The one that it replaces may have crashed meanwhile, and be about to start again. */
	slot_forget_restart(slot);
	slot->leaving = slot->worker;
	slot->worker = worker;
	worker->replaces = false;
	/* A successor that has started meanwhile did not meet it. */
	meet_all(worker, true);
	worker_post(worker, WORKER_EVENT_COMMIT);
	if (worker_lives(slot->leaving) && !worker_is_committed(slot->leaving))
		worker_post(slot->leaving, WORKER_EVENT_ABANDON);
	if (slot->leaving == NULL)
		desk_worker_replaced(slot, NULL);
}

void generation_worker_ready(struct worker *worker)
{
	struct slot *slot = worker->slot;
	struct generation *generation = slot->generation;

	if (worker->replaces) {
		take_place(worker);
		return;
	}
	if (generation->committed) {
		/* Started again while a successor starts: that one did not meet it. */
		meet_all(worker, true);
		worker_post(worker, WORKER_EVENT_COMMIT);
		return;
	}
	desk_event(generation->service, "ready", generation, worker, NULL);
	if (slot->index == 0 && generation->slots_len > 1)
		start_others(generation);
	if (all_ready(generation))
		service_post(generation->service, SERVICE_EVENT_READY);
}

bool generation_confirmed(const struct generation *generation)
{
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (worker != NULL && worker->state == WORKER_COMMITTED)
			return false;
	}
	return true;
}

bool generation_serves(const struct generation *generation)
{
	bool serves = false;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (generation->slots[i].awaited)
			return false;
		serves = serves || (worker != NULL && worker->state == WORKER_SERVING);
	}
	return serves && generation_confirmed(generation);
}

void generation_look(struct generation *generation)
{
	struct service *service = generation->service;

	if (service->starting == generation && generation->committed &&
	    generation_serves(generation))
		service_post(service, SERVICE_EVENT_SERVES);
}

void generation_worker_serves(struct worker *worker)
{
	struct slot *slot = worker->slot;

	slot->awaited = false;
	/* Whoever it replaces stops accepting only now. */
	if (slot->leaving != NULL && slot->leaving->state == WORKER_SERVING)
		worker_post(slot->leaving, WORKER_EVENT_RETIRE);
	if (slot->generation == slot->generation->service->serving)
		meet_left_behind(slot->generation);
	generation_look(slot->generation);
	service_look_whether_confirmed(slot->generation->service);
}

void generation_commit(struct generation *generation)
{
	generation_post(generation, WORKER_EVENT_COMMIT);
	generation->committed = true;
	generation->since_ms = sg_now_ms();
	generation->since = time(NULL);
}

void generation_retire(struct generation *generation)
{
	generation->retired = true;
	generation->since_ms = sg_now_ms();
	generation->since = time(NULL);
	/* What a worker that was replaced had cut is not of this drain. */
	generation->cut = generation->killed = 0;
	generation->cut_why = NULL;
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct slot *slot = &generation->slots[i];

		slot_forget_restart(slot);
		if (worker_lives(slot->replacement)) {
			worker_failed(slot->replacement, "generation %llu has taken over meanwhile",
			              (unsigned long long)generation->service->serving->number);
			worker_post(slot->replacement, WORKER_EVENT_ABANDON);
		}
		if (worker_lives(slot->leaving))
			worker_post(slot->leaving, WORKER_EVENT_RETIRE);
		if (!worker_lives(slot->worker))
			continue;
		if (worker_is_committed(slot->worker))
			meet_another(slot->worker, generation->service->serving);
		worker_post(slot->worker, worker_is_committed(slot->worker) ? WORKER_EVENT_RETIRE
		                                                            : WORKER_EVENT_ABANDON);
	}
	count_anew(generation);
}

void generation_abandon(struct generation *generation)
{
	generation->failed = true;
	generation_stop(generation, WORKER_EVENT_ABANDON);
	if (generation_alive(generation) == 0)
		service_post(generation->service, SERVICE_EVENT_REAPED);
}

/* Could it serve again, now that its successor has failed? */
bool generation_resumable(const struct generation *generation)
{
	if (!generation->retired || generation->failed)
		return false;
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (worker_lives(worker) && worker->state == WORKER_DRAINING &&
		    link_speaks(worker->link))
			return true;
	}
	return false;
}

void generation_resume(struct generation *generation)
{
	generation->retired = false;
	generation->since_ms = sg_now_ms();
	generation->since = time(NULL);
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct slot *slot = &generation->slots[i];

		if (worker_lives(slot->worker) && link_speaks(slot->worker->link))
			worker_post(slot->worker, WORKER_EVENT_RESUME);
		else if (slot->worker == NULL)
			slot_restart_after(slot, 0);
	}
}
