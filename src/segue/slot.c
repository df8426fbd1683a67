/* SPDX-License-Identifier: MIT */
/*
 * The place of a worker: what becomes of it when the worker has ended. One that crashed is
 * started again, from the file that was running, ever later and not for ever; clients wait in
 * the queue meanwhile.
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static void timer_closed(uv_handle_t *handle)
{
	free(handle);
}

void slot_forget_restart(struct slot *slot)
{
	if (slot->timer != NULL)
		uv_close((uv_handle_t *)slot->timer, timer_closed);
	slot->timer = NULL;
}

int slot_start(struct slot *slot, const struct program *program, char *reason)
{
	struct worker *worker;
	int r = worker_start(slot, program, &worker, reason);

	if (r == 0)
		slot->worker = worker;
	return r;
}

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
	if (slot_start(slot, program, reason) == 0)
		return;
	log_say("warning", NULL, "worker %llu:%u could not be restarted: %s",
	        (unsigned long long)slot->generation->number, slot->index, reason);
	slot->awaited = false;
	generation_look(slot->generation);
	/* Not the program's fault: no limit, and clients wait in the queue. */
	slot_restart_after(slot, config->restart_delay_max_ms < 1000 ? config->restart_delay_max_ms
	                                                             : 1000);
}

static void restart_due(uv_timer_t *timer)
{
	struct slot *slot = timer->data;

	slot_forget_restart(slot);
	restart(slot);
}

void slot_restart_after(struct slot *slot, int64_t ms)
{
	struct service *service = slot->generation->service;

	slot_forget_restart(slot);
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

static bool policy_restarts(const struct config *config, const struct worker *worker)
{
	if (config->restart == CONFIG_RESTART_NEVER)
		return false;
	return config->restart == CONFIG_RESTART_ALWAYS || worker->abandoned || worker->status != 0;
}

/* A worker that served has ended without being asked to. */
static void crashed(struct slot *slot, const struct worker *worker)
{
	struct generation *generation = slot->generation;
	struct service *service = generation->service;
	const struct config *config = generation->terms->config;
	char span[SG_SPAN_MAX];
	int64_t ms;

	slot->awaited = false;
	if (!policy_restarts(config, worker)) {
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
	/* Its predecessors have yet to be told: what they hold is for the one that comes. */
	slot->awaited = generation == service->starting && slot->row == 1;
	slot->restarts++;
	service->restarts++;
	ms = back_off(config, slot->row);
	log_say("crashed",
	        json_pack("{sIsIsIsI}", "generation", (json_int_t)generation->number, "worker",
	                  (json_int_t)slot->index, "pid", (json_int_t)worker->process.pid,
	                  "restart_ms", (json_int_t)ms),
	        "worker %llu:%u (pid %ld) crashed: %s; it is restarted in %s",
	        (unsigned long long)generation->number, slot->index, (long)worker->process.pid,
	        worker->reason, sg_span_text(span, ms));
	slot_restart_after(slot, ms);
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

/* Why the attempt failed; where there are several, which of them. */
static void blame(const struct slot *slot, const struct worker *worker)
{
	struct service *service = slot->generation->service;

	if (slot->generation->slots_len > 1)
		service_failed(service, "worker %u: %s", slot->index, worker->reason);
	else
		service_failed(service, "%s", worker->reason);
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
		blame(slot, worker);
		service_post(service, SERVICE_EVENT_FAILED);
		return;
	}
	/* None of it came to say that it serves: its predecessor has not been told anything. */
	if (generation == service->starting && !others_live(generation)) {
		blame(slot, worker);
		service_post(service, SERVICE_EVENT_FAILED);
		return;
	}
	/* The last of a version that has taken over just now: its predecessor is still there. */
	if (!others_live(generation) && somebody_resumable(service)) {
		snprintf(service->given_up, sizeof(service->given_up), "%s", worker->reason);
		service_post(service, SERVICE_EVENT_TAKE_BACK);
		return;
	}
	crashed(slot, worker);
	/* One that took over from another was a restart's: that has failed, whatever comes next. */
	if (slot->leaving != NULL)
		desk_worker_replaced(slot, worker->reason);
	if (generation == service->serving)
		meet_left_behind(generation);
	generation_look(generation);
}

static void remember(struct slot *slot, const struct worker *worker)
{
	if (worker->program.fd >= 0) {
		program_done(&slot->last);
		program_copy(&slot->last, &worker->program);
	}
	snprintf(slot->last_exit, sizeof(slot->last_exit), "%.127s", worker->reason);
}

/* The one that was replaced has gone. What of the one in its place? */
static void restart_ended(const struct slot *slot)
{
	const struct service *service = slot->generation->service;
	char reason[REASON_MAX];

	if (slot->worker != NULL) {
		desk_worker_replaced(slot, NULL);
		return;
	}
	if (slot->generation->retired && service->serving != slot->generation)
		snprintf(reason, sizeof(reason), "generation %llu has taken over meanwhile",
		         (unsigned long long)service->serving->number);
	else
		snprintf(reason, sizeof(reason), "%s", slot->last_exit);
	desk_worker_replaced(slot, reason);
}

static void gone(struct worker *worker)
{
	struct slot *slot = worker->slot;
	struct generation *generation = slot->generation;
	struct service *service = generation->service;

	generation->cut += worker->cut;
	if (worker->killed && worker->was_committed && generation->retired) {
		generation->killed++;
		/* What it had open, as far as it had ever told. */
		worker->aged = false;
		generation_counted(worker);
		generation->cut += worker->counts ? worker->connections : 0;
	}
	if (service->stop_asked) {
		service->cut += worker->cut;
		service->killed += worker->killed && worker->was_committed;
	}
	relay_forget(service->relay, worker->key);
	if (slot->replacement == worker) {
		slot->replacement = NULL;
		desk_worker_replaced(slot, worker->reason);
	} else if (slot->worker == worker && worker_lives(slot->leaving) &&
	           slot->leaving->state == WORKER_SERVING) {
		/* It did not come to serve: the one that it was to replace accepts as before. */
		slot->worker = slot->leaving;
		slot->leaving = NULL;
		desk_worker_replaced(slot, worker->reason);
	} else if (slot->leaving == worker) {
		slot->leaving = NULL;
		restart_ended(slot);
	} else {
		slot->worker = NULL;
		remember(slot, worker);
		slot_is_empty(slot, worker);
	}
	worker_free(worker);
	if (generation == service->starting && generation->failed &&
	    generation_alive(generation) == 0)
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

	leftovers_kill(worker);
	if (!generation->committed && generation->output[0] == '\0')
		relay_tail(generation->service->relay, worker->key, tail_read, worker);
	else
		gone(worker);
}

/* Generation and number are those of the one that is replaced; only a pid is its own. */
static bool answers_the_probe(const struct config *config)
{
	return (config->ready == CONFIG_READY_HTTP || config->ready == CONFIG_READY_TCP) &&
	       strstr(config->ready_argument, "{pid}") == NULL;
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
		slot_restart_after(slot, 0);
		return 1;
	}
	if (slot->worker->state != WORKER_SERVING) {
		snprintf(reason, reason_size, "worker %u is %s", index,
		         table_worker_state_text(slot->worker->state));
		return -EBUSY;
	}
	if (answers_the_probe(worker_config(slot->worker))) {
		snprintf(reason, reason_size,
		         "worker %u answers at the address of --ready itself, so that nothing "
		         "would tell when another is ready beside it: put {pid} into the address, "
		         "or upgrade",
		         index);
		return -EADDRINUSE;
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
