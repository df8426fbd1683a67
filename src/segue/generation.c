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

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char **words_copy(char **words)
{
	size_t count = 0;
	char **copy;

	while (words[count] != NULL)
		count++;
	copy = calloc(count + 1, sizeof(*copy));
	for (size_t i = 0; copy != NULL && i < count; i++)
		copy[i] = strdup(words[i]);
	return copy;
}

static void words_free(char **words)
{
	for (size_t i = 0; words != NULL && words[i] != NULL; i++)
		free(words[i]);
	free(words);
}

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

static void timer_closed(uv_handle_t *handle)
{
	free(handle);
}

static void forget_restart(struct slot *slot)
{
	if (slot->timer != NULL)
		uv_close((uv_handle_t *)slot->timer, timer_closed);
	slot->timer = NULL;
}

void generation_free(struct generation *generation)
{
	struct generation **at = &generation->service->generations;

	while (*at != NULL && *at != generation)
		at = &(*at)->next;
	if (*at != NULL)
		*at = generation->next;
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		forget_restart(&generation->slots[i]);
		program_done(&generation->slots[i].last);
	}
	free(generation->slots);
	words_free(generation->argv);
	terms_unref(generation->terms);
	free(generation);
}

/* Every worker of a generation, whatever its place. */
#define WORKERS_OF(slot)                                             \
	{                                                            \
		(slot)->worker, (slot)->replacement, (slot)->leaving \
	}
#define WORKERS_A_SLOT 3

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
	for (unsigned int i = 0; i < generation->slots_len; i++)
		forget_restart(&generation->slots[i]);
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
	bool known = false;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct worker *workers[] = WORKERS_OF(&generation->slots[i]);

		for (size_t k = 0; k < WORKERS_A_SLOT; k++) {
			if (!worker_lives(workers[k]) || !workers[k]->counts)
				continue;
			known = true;
			connections += workers[k]->connections;
			cut += workers[k]->cut;
		}
	}
	*ret_connections = connections;
	*ret_cut = cut;
	return known;
}

/* What it had when its drain began, as far as it is known: its last word may have been older. */
void generation_counted(struct generation *generation)
{
	uint64_t connections, cut;

	if (!generation->retired || !generation_connections(generation, &connections, &cut))
		return;
	generation->drained_known = true;
	if (connections + cut > generation->drained_from)
		generation->drained_from = connections + cut;
}

/* Handing over. */

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
		r = link_send(elder->link, &up, fds, 2);
		fds[0] = ends[1];
		fds[1] = elder->process.pidfd;
		if (r == 0)
			r = link_send(younger->link, &down, fds, 2);
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

static bool is_committed(const struct worker *worker)
{
	return worker->state == WORKER_COMMITTED || worker->state == WORKER_SERVING;
}

static bool may_take_over(const struct worker *worker)
{
	return worker_lives(worker) && link_greeted(worker->link) &&
	       (worker->state == WORKER_STARTING || worker->state == WORKER_READY ||
	        is_committed(worker));
}

/* One that was started again is asked for its state only when it can answer. */
static bool may_hand_over(const struct worker *worker)
{
	return worker_lives(worker) && link_greeted(worker->link) &&
	       (worker->state == WORKER_READY || is_committed(worker) ||
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
 * Worker i hands over to worker i mod N of a younger generation, or to its replacement. Where
 * orphans serve on, each has to know of any of the next generation that serves: a supervisor
 * that dies between two COMMITs would leave two generations serving (doc/protocol.md, rule 29).
 */
static bool meets(const struct worker *elder, const struct worker *younger)
{
	const struct slot *a = elder->slot, *b = younger->slot;
	const struct generation *next = b->generation;

	if (a == b)
		return elder == a->worker && younger == a->replacement;
	if (a->generation->number >= next->number || next->failed)
		return false;
	if (next->terms->config->orphans == CONFIG_ORPHANS_SERVE && is_next(a->generation, next))
		return true;
	return a->index % next->slots_len == b->index;
}

/* The worker to all that it takes over from, or (as_elder) to all that take over from it. */
static void introduce_to_all(struct worker *worker, bool as_elder)
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

/* Its listeners, and whom it takes over from; the offer ends both. */
void generation_greeted(struct worker *worker)
{
	introduce_to_all(worker, false);
	held_offer(worker->slot->generation->service, worker);
}

/* Starting. */

static int start_slot(struct slot *slot, const struct program *program, char *reason)
{
	struct worker *worker;
	int r = worker_start(slot, program, &worker, reason);

	if (r == 0)
		slot->worker = worker;
	return r;
}

static void fails_to_start(struct slot *slot, const char *reason)
{
	service_failed(slot->generation->service, "worker %u could not be started: %s", slot->index,
	               reason);
	service_post(slot->generation->service, SERVICE_EVENT_FAILED);
}

int generation_start(struct generation *generation)
{
	char reason[REASON_MAX];
	int r = start_slot(&generation->slots[0], NULL, reason);

	if (r < 0)
		fails_to_start(&generation->slots[0], reason);
	return r;
}

static void start_others(struct generation *generation)
{
	char reason[REASON_MAX];

	for (unsigned int i = 1; i < generation->slots_len; i++)
		if (start_slot(&generation->slots[i], NULL, reason) < 0) {
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
	slot->leaving = slot->worker;
	slot->worker = worker;
	worker->replaces = false;
	worker_post(worker, WORKER_EVENT_COMMIT);
	desk_worker_replaced(slot->generation->service, worker, true, NULL);
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
		introduce_to_all(worker, true);
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
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (worker != NULL && worker->state == WORKER_SERVING)
			return generation_confirmed(generation);
	}
	return false;
}

static void look_whether_it_serves(struct generation *generation)
{
	struct service *service = generation->service;

	if (service->starting == generation && generation->committed &&
	    generation_serves(generation))
		service_post(service, SERVICE_EVENT_SERVES);
}

void generation_worker_serves(struct worker *worker)
{
	struct slot *slot = worker->slot;

	/* Whoever it replaces stops accepting only now. */
	if (slot->leaving != NULL && slot->leaving->state == WORKER_SERVING)
		worker_post(slot->leaving, WORKER_EVENT_RETIRE);
	look_whether_it_serves(slot->generation);
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
	generation->drained_known = false;
	generation->drained_from = 0;
	generation_counted(generation);
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct slot *slot = &generation->slots[i];

		forget_restart(slot);
		if (worker_lives(slot->replacement))
			worker_post(slot->replacement, WORKER_EVENT_ABANDON);
		if (!worker_lives(slot->worker))
			continue;
		worker_post(slot->worker, is_committed(slot->worker) ? WORKER_EVENT_RETIRE
		                                                     : WORKER_EVENT_ABANDON);
		if (worker_lives(slot->leaving))
			worker_post(slot->leaving, WORKER_EVENT_RETIRE);
	}
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
		    link_greeted(worker->link))
			return true;
	}
	return false;
}

static void restart_after(struct slot *slot, int64_t ms);

void generation_resume(struct generation *generation)
{
	generation->retired = false;
	generation->since_ms = sg_now_ms();
	generation->since = time(NULL);
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct slot *slot = &generation->slots[i];

		if (worker_lives(slot->worker) && link_greeted(slot->worker->link))
			worker_post(slot->worker, WORKER_EVENT_RESUME);
		else if (slot->worker == NULL)
			restart_after(slot, 0);
	}
}

/* Starting again. */

static void restart(struct slot *slot)
{
	const struct config *config = slot->generation->terms->config;
	const struct program *program = NULL;
	char why_not[128], reason[REASON_MAX];

	if (slot->last.fd >= 0) {
		if (program_restartable(&slot->last, why_not, sizeof(why_not)))
			program = &slot->last;
		else
			log_say("warning", NULL,
			        "worker %llu:%u is restarted from what lies at %s now: %s",
			        (unsigned long long)slot->generation->number, slot->index,
			        slot->generation->argv[0], why_not);
	}
	if (start_slot(slot, program, reason) == 0)
		return;
	log_say("warning", NULL, "worker %llu:%u could not be restarted: %s",
	        (unsigned long long)slot->generation->number, slot->index, reason);
	/* Not the program's fault: no limit, and clients wait in the queue. */
	restart_after(slot,
	              config->restart_delay_max_ms < 1000 ? config->restart_delay_max_ms : 1000);
}

static void restart_due(uv_timer_t *timer)
{
	struct slot *slot = timer->data;

	forget_restart(slot);
	restart(slot);
}

static void restart_after(struct slot *slot, int64_t ms)
{
	struct service *service = slot->generation->service;

	forget_restart(slot);
	slot->timer = malloc(sizeof(*slot->timer));
	if (slot->timer == NULL || uv_timer_init(service->loop, slot->timer) < 0)
		return;
	slot->timer->data = slot;
	slot->restart_ms = sg_now_ms() + ms;
	uv_update_time(service->loop);
	(void)uv_timer_start(slot->timer, restart_due, (uint64_t)ms, 0);
}

static int64_t back_off(const struct config *config, unsigned int row)
{
	int64_t ms = config->restart_delay_ms;

	if (row <= 1)
		return 0;
	for (unsigned int i = 2; i < row && ms < config->restart_delay_max_ms; i++)
		ms *= 2;
	return ms < config->restart_delay_max_ms ? ms : config->restart_delay_max_ms;
}

static bool policy_restarts(const struct config *config, int status)
{
	if (config->restart == CONFIG_RESTART_NEVER)
		return false;
	return config->restart == CONFIG_RESTART_ALWAYS || status != 0;
}

/* A worker that served has ended without being asked to. */
static void crashed(struct slot *slot, const struct worker *worker)
{
	struct generation *generation = slot->generation;
	struct service *service = generation->service;
	const struct config *config = generation->terms->config;
	int64_t ms;

	if (!policy_restarts(config, worker->status)) {
		slot->ended = true;
		log_say("ended", NULL, "worker %llu:%u (pid %ld) ended: %s; it is not restarted",
		        (unsigned long long)generation->number, slot->index,
		        (long)worker->process.pid, worker->reason);
		service_note_exit(service, worker->status);
		return;
	}
	if (sg_now_ms() - worker->began_ms >= config->restart_reset_ms)
		slot->row = 0;
	slot->row++;
	if (config->restart_limit > 0 && slot->row > config->restart_limit) {
		slot->ended = slot->limit = true;
		log_say("limit", NULL,
		        "worker %llu:%u crashed %u times in a row (%s) and is not restarted any "
		        "more; upgrade to a version that works ('segue upgrade'; see "
		        "--restart-limit)",
		        (unsigned long long)generation->number, slot->index, slot->row,
		        worker->reason);
		return;
	}
	slot->restarts++;
	service->restarts++;
	ms = back_off(config, slot->row);
	log_say("crashed", NULL, "worker %llu:%u (pid %ld) crashed: %s; it is restarted in %lld ms",
	        (unsigned long long)generation->number, slot->index, (long)worker->process.pid,
	        worker->reason, (long long)ms);
	restart_after(slot, ms);
}

static bool others_live(const struct generation *generation)
{
	for (unsigned int i = 0; i < generation->slots_len; i++)
		if (worker_lives(generation->slots[i].worker))
			return true;
	return false;
}

static bool somebody_resumable(const struct service *service)
{
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		if (generation_resumable(g))
			return true;
	return false;
}

static void slot_is_empty(struct slot *slot, const struct worker *worker)
{
	struct generation *generation = slot->generation;
	struct service *service = generation->service;
	bool stopping = service->state == SERVICE_STOPPING || service->state == SERVICE_ENDING;

	if (generation->failed || generation->retired || stopping) {
		slot->ended = true;
		/* One that had yet to begin was killed for that. */
		if (stopping && generation == service->serving && worker->was_ready)
			service_note_exit(service, worker->status);
		return;
	}
	if (!generation->committed) {
		service_failed(service, "%s", worker->reason);
		service_post(service, SERVICE_EVENT_FAILED);
		return;
	}
	/* None of it came to say that it serves: its predecessor has not been told anything. */
	if (generation == service->starting && !others_live(generation)) {
		service_failed(service, "%s", worker->reason);
		service_post(service, SERVICE_EVENT_FAILED);
		return;
	}
	/* The last of a version that has taken over just now: its predecessor is still there. */
	if (!others_live(generation) && somebody_resumable(service)) {
		service_failed(service, "%s", worker->reason);
		service_post(service, SERVICE_EVENT_TAKE_BACK);
		return;
	}
	crashed(slot, worker);
	look_whether_it_serves(generation);
}

static void remember(struct slot *slot, const struct worker *worker)
{
	if (worker->program.fd >= 0) {
		program_done(&slot->last);
		program_copy(&slot->last, &worker->program);
	}
	snprintf(slot->last_exit, sizeof(slot->last_exit), "%.127s", worker->reason);
}

static void gone(struct worker *worker)
{
	struct slot *slot = worker->slot;
	struct generation *generation = slot->generation;
	struct service *service = generation->service;

	generation->cut += worker->cut;
	relay_forget(service->relay, worker->key);
	if (slot->replacement == worker) {
		slot->replacement = NULL;
		desk_worker_replaced(service, worker, false, worker->reason);
	} else if (slot->leaving == worker) {
		slot->leaving = NULL;
	} else {
		slot->worker = NULL;
		remember(slot, worker);
		slot_is_empty(slot, worker);
	}
	worker_free(worker);
	if (generation->failed && generation_alive(generation) == 0)
		service_post(service, SERVICE_EVENT_REAPED);
	/* The posts may have freed the generation only where it had failed. */
	service_look_whether_empty(service);
}

static void tail_read(void *ctx, const char *text)
{
	struct worker *worker = ctx;
	struct generation *generation = worker->slot->generation;

	if (generation->output[0] == '\0')
		snprintf(generation->output, sizeof(generation->output), "%s", text);
	gone(worker);
}

/* Of a version that did not come to serve the last lines are asked for first. */
void generation_worker_gone(struct worker *worker)
{
	struct generation *generation = worker->slot->generation;

	if (!generation->committed && generation->output[0] == '\0')
		relay_tail(generation->service->relay, worker->key, tail_read, worker);
	else
		gone(worker);
}

int generation_replace(struct generation *generation, unsigned int index, char *reason,
                       size_t reason_size)
{
	struct slot *slot = index < generation->slots_len ? &generation->slots[index] : NULL;
	char why[REASON_MAX];
	int r;

	if (slot == NULL) {
		snprintf(reason, reason_size, "generation %llu has workers 0 to %u",
		         (unsigned long long)generation->number, generation->slots_len - 1);
		return -EINVAL;
	}
	if (slot->replacement != NULL || slot->leaving != NULL) {
		snprintf(reason, reason_size, "worker %u is being restarted already", index);
		return -EBUSY;
	}
	if (slot->worker == NULL) {
		slot->row = 0;
		slot->ended = slot->limit = false;
		restart_after(slot, 0);
		return 1;
	}
	if (slot->worker->state != WORKER_SERVING) {
		snprintf(reason, reason_size, "worker %u is %s", index,
		         table_worker_state_text(slot->worker->state));
		return -EBUSY;
	}
	r = worker_start(slot,
	                 program_restartable(&slot->worker->program, why, sizeof(why))
	                         ? &slot->worker->program
	                         : NULL,
	                 &slot->replacement, why);
	if (r < 0) {
		snprintf(reason, reason_size, "worker %u could not be started: %s", index, why);
		return r;
	}
	slot->replacement->replaces = true;
	return 0;
}
