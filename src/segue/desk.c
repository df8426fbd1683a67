/* SPDX-License-Identifier: MIT */
/*
 * The desk: what clients ask for on the control socket, and what they are told meanwhile. The
 * lines are those of doc/control.md.
 */
#include "core/fd.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DRAINING_EVERY_MS 100

static struct waiter *wait_for(struct service *service, struct control_client *client, int kind)
{
	struct waiter *waiter = calloc(1, sizeof(*waiter));

	if (waiter == NULL) {
		control_end(client, EXIT_FAILED, "the supervisor has no memory left", NULL);
		return NULL;
	}
	waiter->client = client;
	waiter->kind = kind;
	waiter->began_ms = sg_now_ms();
	waiter->next = service->waiters;
	service->waiters = waiter;
	return waiter;
}

/* Takes a waiter out; the caller ends its client. */
static struct control_client *release(struct service *service, struct waiter *waiter)
{
	struct control_client *client = waiter->client;
	struct waiter **at = &service->waiters;

	while (*at != waiter)
		at = &(*at)->next;
	*at = waiter->next;
	free(waiter);
	return client;
}

/* Events. */

static struct generation *generation_by(struct service *service, uint64_t number)
{
	struct generation *g = service->generations;

	while (g != NULL && g->number != number)
		g = g->next;
	return g;
}

static json_t *event_for(const struct waiter *waiter, const char *event)
{
	return json_pack("{sssIsosI}", "event", event, "generation", (json_int_t)waiter->generation,
	                 "predecessor",
	                 waiter->predecessor != 0 ? json_integer((json_int_t)waiter->predecessor)
	                                          : json_null(),
	                 "ms", (json_int_t)(sg_now_ms() - waiter->began_ms));
}

static bool concerns(const struct waiter *waiter, const char *event,
                     const struct generation *generation)
{
	if (strcmp(event, "stopping") == 0)
		return waiter->kind == WAITS_FOR_STOP;
	if (waiter->kind != WAITS_FOR_UPGRADE)
		return false;
	return generation == NULL || generation->number == waiter->generation;
}

void desk_event(struct service *service, const char *event, const struct generation *generation,
                const struct worker *worker, const char *text)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		json_t *line;

		next = waiter->next;
		if (!concerns(waiter, event, generation))
			continue;
		line = event_for(waiter, event);
		if (worker != NULL)
			json_object_update_new(
				line, json_pack("{sIsI}", "worker", (json_int_t)worker->slot->index,
			                        "pid", (json_int_t)worker->process.pid));
		if (generation != NULL && worker == NULL)
			json_object_set_new(line, "workers",
			                    json_integer((json_int_t)generation->slots_len));
		if (strcmp(event, "starting") == 0)
			json_object_set_new(
				line, "deadline_ms",
				status_number(generation->terms->config->start_timeout_ms));
		if (text != NULL)
			json_object_set_new(line, "text", control_text(text));
		control_event(waiter->client, line);
	}
}

/* How far the drain is that each waits for. */
static void tell_draining(struct service *service)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		struct generation *generation = generation_by(service, waiter->predecessor);
		uint64_t connections, cut;
		int64_t left = -1;
		bool known;
		json_t *line;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE || generation == NULL || !generation->retired)
			continue;
		known = generation_connections(generation, &connections, &cut);
		for (unsigned int i = 0; i < generation->slots_len; i++) {
			const struct worker *worker = generation->slots[i].worker;

			if (worker_lives(worker) && status_left_ms(worker) > left)
				left = status_left_ms(worker);
		}
		line = event_for(waiter, "draining");
		json_object_update_new(
			line,
			json_pack("{sosIso}", "connections",
		                  known ? json_integer((json_int_t)connections) : json_null(),
		                  "cut", (json_int_t)cut, "deadline_ms", status_number(left)));
		control_event(waiter->client, line);
	}
}

static void told_late(uv_timer_t *timer)
{
	struct service *service = timer->data;

	service->drain_told_ms = sg_now_ms();
	tell_draining(service);
}

/* Ten times a second at most; the last change is always told. */
void desk_draining(struct service *service, bool at_once)
{
	int64_t now = sg_now_ms(), due = service->drain_told_ms + DRAINING_EVERY_MS;

	if (service->waiters == NULL)
		return;
	if (at_once || now >= due) {
		service->drain_told_ms = now;
		tell_draining(service);
	} else if (!uv_is_active((uv_handle_t *)&service->beat)) {
		uv_update_time(service->loop);
		(void)uv_timer_start(&service->beat, told_late, (uint64_t)(due - now), 0);
	}
}

/* Ends. */

static json_t *lines_of(const char *text)
{
	json_t *lines = json_array();

	while (*text != '\0') {
		const char *end = strchrnul(text, '\n');
		char line[RELAY_TAIL_MAX + 1];

		snprintf(line, sizeof(line), "%.*s", (int)(end - text), text);
		json_array_append_new(lines, control_text(line));
		text = *end == '\n' ? end + 1 : end;
	}
	return lines;
}

static json_t *upgrade_end(const struct waiter *waiter, const char *outcome)
{
	json_t *end = event_for(waiter, outcome);

	json_object_del(end, "event");
	json_object_set_new(end, "outcome", json_string(outcome));
	return end;
}

void desk_upgrade_ended(struct service *service, enum control_exit code, const char *outcome,
                        const char *message)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		const struct generation *generation;
		json_t *end;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE ||
		    waiter->generation != service->upgrade.generation)
			continue;
		end = upgrade_end(waiter, outcome);
		generation = generation_by(service, waiter->generation);
		json_object_set_new(end, "output",
		                    lines_of(generation != NULL ? generation->output
		                                                : service->upgrade.output));
		control_end(release(service, waiter), code, message, end);
	}
}

/* How the drain of a predecessor ended, for a person. */
static void describe_drain(const struct waiter *waiter, const struct generation *generation,
                           char *text, size_t size)
{
	int len = snprintf(text, size, "generation %llu serves; generation %llu is gone",
	                   (unsigned long long)waiter->generation,
	                   (unsigned long long)generation->number);

	if (generation->cut > 0)
		len += snprintf(
			text + len, size - (size_t)len, ", and %llu of its connections %s cut (%s)",
			(unsigned long long)generation->cut, generation->cut == 1 ? "was" : "were",
			generation->cut_why != NULL ? generation->cut_why : "see --drain-timeout");
	if (generation->killed > 0)
		snprintf(text + len, size - (size_t)len,
		         "; %u of its workers did not end and %s killed, with what %s had open",
		         generation->killed, generation->killed == 1 ? "was" : "were",
		         generation->killed == 1 ? "it" : "they");
}

void desk_cut(struct worker *worker, enum worker_event event)
{
	struct generation *generation = worker->slot->generation;
	struct service *service = generation->service;
	struct waiter *next;

	generation->cut_why = event == WORKER_EVENT_CUT        ? "by 'segue cut'"
	                      : event == WORKER_EVENT_DEADLINE ? "at the deadline, see "
	                                                         "--drain-timeout"
	                                                       : "the service was stopped at once";
	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		json_t *line;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE || waiter->predecessor != generation->number)
			continue;
		line = event_for(waiter, "cut");
		json_object_update_new(line, json_pack("{sIss}", "cut", (json_int_t)generation->cut,
		                                       "text", generation->cut_why));
		control_event(waiter->client, line);
	}
}

/* Who waits for the one that failed is told, and who waits for one between the two, which has
 * gone; who waits for its successor takes over from another. */
void desk_taken_back(struct service *service, uint64_t failed, uint64_t back, const char *message)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		json_t *end;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE)
			continue;
		if (waiter->predecessor == failed)
			waiter->predecessor = back;
		if (waiter->generation > failed || waiter->generation <= back)
			continue;
		end = upgrade_end(waiter, "taken-back");
		control_end(release(service, waiter), EXIT_FAILED, message, end);
	}
}

/* It serves, and nobody drains whom it took over from. */
static void end_without_predecessor(struct service *service, const struct generation *successor)
{
	struct waiter *next;
	char message[100];

	snprintf(message, sizeof(message), "generation %llu serves",
	         (unsigned long long)successor->number);
	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		json_t *end;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE || waiter->predecessor != 0 ||
		    waiter->generation != successor->number)
			continue;
		end = upgrade_end(waiter, "upgraded");
		json_object_set_new(end, "cut", json_integer(0));
		control_end(release(service, waiter), EXIT_DONE, message, end);
	}
}

void desk_serving(struct service *service, const struct generation *successor)
{
	desk_event(service, "serving", successor, NULL, NULL);
	desk_draining(service, true);
	end_without_predecessor(service, successor);
}

/* The predecessor of an upgrade has gone: that is its end. */
void desk_generation_gone(struct service *service, const struct generation *generation)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		uint64_t cut = generation->cut;
		bool by_force = cut > 0 || generation->killed > 0;
		char message[400];
		json_t *line, *end;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE || waiter->predecessor != generation->number)
			continue;
		line = event_for(waiter, "gone");
		json_object_update_new(line, json_pack("{sIsI}", "connections", (json_int_t)0,
		                                       "cut", (json_int_t)cut));
		control_event(waiter->client, line);
		end = upgrade_end(waiter, by_force ? "cut" : "upgraded");
		json_object_update_new(
			end, json_pack("{sosI}", "connections",
		                       generation->drained_known
		                               ? json_integer((json_int_t)generation->drained_from)
		                               : json_null(),
		                       "cut", (json_int_t)cut));
		describe_drain(waiter, generation, message, sizeof(message));
		control_end(release(service, waiter), by_force ? EXIT_CUT : EXIT_DONE, message,
		            end);
	}
}

/* What becomes of the place of a worker whose replacement has failed: a clause. */
static void describe_place(const struct slot *slot, char *text, size_t size)
{
	int64_t left = slot->restart_ms - sg_now_ms();
	char span[SG_SPAN_MAX];

	text[0] = '\0';
	/* Its place goes with its generation, which is why it failed. */
	if (slot->generation->retired || slot->generation->service->stop_asked)
		return;
	if (slot->worker != NULL && slot->worker->state == WORKER_SERVING)
		snprintf(text, size, "; the worker serves as before");
	else if (slot->limit)
		snprintf(text, size, "; it is not started again (see --restart-limit)");
	else if (slot->ended)
		snprintf(text, size, "; it is not started again (see --restart)");
	else if (slot->timer != NULL && left > 0)
		snprintf(text, size, "; it is started again in %s", sg_span_text(span, left));
	else if (slot->timer != NULL)
		snprintf(text, size, "; it is started again at once");
}

static void end_restart(struct control_client *client, const struct slot *slot, const char *reason)
{
	bool lost = slot->generation->service->stop_asked;
	char message[REASON_MAX + 200], rest[100];

	if (reason == NULL) {
		snprintf(message, sizeof(message), "worker %u is now pid %ld", slot->index,
		         (long)slot->worker->process.pid);
		control_end(client, EXIT_DONE, message, json_pack("{ss}", "outcome", "done"));
		return;
	}
	describe_place(slot, rest, sizeof(rest));
	snprintf(message, sizeof(message), "the replacement of worker %u failed: %s%s", slot->index,
	         reason, rest);
	control_end(client, lost ? EXIT_LOST : EXIT_FAILED, message,
	            json_pack("{ss}", "outcome", lost ? "lost" : "failed"));
}

void desk_worker_replaced(const struct slot *slot, const char *reason)
{
	struct service *service = slot->generation->service;
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		next = waiter->next;
		if (waiter->kind == WAITS_FOR_WORKER && waiter->worker == slot->index &&
		    waiter->generation == slot->generation->number)
			end_restart(release(service, waiter), slot, reason);
	}
}

void desk_leave(struct service *service)
{
	char message[200] = "the service has stopped";

	if (service->cut > 0 || service->killed > 0)
		snprintf(message, sizeof(message),
		         "the service has stopped; %llu of its connections were cut and %u of its "
		         "workers killed (see --drain-timeout and --kill-timeout)",
		         (unsigned long long)service->cut, service->killed);
	while (service->waiters != NULL) {
		bool stop = service->waiters->kind == WAITS_FOR_STOP;

		control_end(release(service, service->waiters), stop ? EXIT_DONE : EXIT_LOST,
		            stop ? message : "the service was stopped",
		            json_pack("{sssI}", "outcome", stop ? "stopped" : "lost", "cut",
		                      (json_int_t)service->cut));
	}
}

/* Requests. */

static void verb_gone(void *ctx, struct control_client *client)
{
	struct service *service = ctx;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = waiter->next)
		if (waiter->client == client) {
			(void)release(service, waiter);
			return;
		}
}

static void refuse(struct control_client *client, const char *reason)
{
	control_end(client, EXIT_REFUSED, reason, json_pack("{ss}", "outcome", "refused"));
}

static void verb_upgrade(void *ctx, struct control_client *client, char **argv, bool wait)
{
	struct service *service = ctx;
	struct service_step step = table_service(service->state, SERVICE_EVENT_UPGRADE);
	struct waiter *waiter = NULL;
	char reason[REASON_MAX];
	int r;

	/* Who waits is known before the first event. */
	if (wait && step.action != SERVICE_ACTION_REFUSE) {
		waiter = wait_for(service, client, WAITS_FOR_UPGRADE);
		if (waiter == NULL)
			return;
		waiter->generation = service->last_number + 1;
		/* In a crash loop none serves, and none is waited for. */
		waiter->predecessor =
			service->serving != NULL && generation_alive(service->serving) > 0
				? service->serving->number
				: 0;
	}
	r = service_upgrade(service, argv, 0, reason, sizeof(reason));
	if (r < 0) {
		if (waiter != NULL)
			(void)release(service, waiter);
		refuse(client, reason);
	} else if (!wait) {
		control_end(client, EXIT_DONE, "the upgrade has begun",
		            json_pack("{sssI}", "outcome", "begun", "generation",
		                      (json_int_t)service->upgrade.generation));
	}
}

static void verb_stop(void *ctx, struct control_client *client, bool now)
{
	struct service *service = ctx;
	struct waiter *waiter = wait_for(service, client, WAITS_FOR_STOP);

	if (waiter == NULL)
		return;
	waiter->generation = service->serving != NULL ? service->serving->number : 0;
	/* Asked for again, the same is waited for; only 'now' makes it shorter. */
	if (now)
		service_post(service, SERVICE_EVENT_STOP_NOW);
	else if (service->state != SERVICE_STOPPING && service->state != SERVICE_ENDING)
		service_post(service, SERVICE_EVENT_STOP);
	service_look_whether_empty(service);
}

static void verb_cut(void *ctx, struct control_client *client)
{
	struct service *service = ctx;
	char message[100];
	unsigned int count = 0;

	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = { g->slots[i].worker, g->slots[i].leaving };

			for (size_t k = 0; k < 2; k++)
				if (worker_lives(workers[k]) &&
				    (workers[k]->state == WORKER_DRAINING ||
				     workers[k]->state == WORKER_STOPPING)) {
					worker_post(workers[k], WORKER_EVENT_CUT);
					count++;
				}
		}
	if (count == 0) {
		refuse(client, "no drain is running");
		return;
	}
	snprintf(message, sizeof(message), "the drain of %u worker%s was cut", count,
	         count == 1 ? "" : "s");
	control_end(client, EXIT_DONE, message, json_pack("{ss}", "outcome", "done"));
}

static void verb_restart(void *ctx, struct control_client *client, unsigned int worker)
{
	struct service *service = ctx;
	struct waiter *waiter;
	char reason[REASON_MAX];
	int r;

	if (service->serving == NULL || service->state == SERVICE_STOPPING ||
	    service->state == SERVICE_ENDING) {
		refuse(client, "no generation serves that a worker could be restarted of");
		return;
	}
	r = generation_replace(service->serving, worker, reason, sizeof(reason));
	if (r < 0) {
		refuse(client, reason);
		return;
	}
	if (r == 1) {
		control_end(client, EXIT_DONE, "the worker had ended; it is started again",
		            json_pack("{ss}", "outcome", "done"));
		return;
	}
	waiter = wait_for(service, client, WAITS_FOR_WORKER);
	if (waiter == NULL)
		return;
	waiter->worker = worker;
	waiter->generation = service->serving->number;
}

/* One that only starts may have yet to say what it does at a signal, and would die of USR1: it gets
 * what it has a handler for, and what is meant to end or to halt it. */
static bool is_for(const struct worker *worker, int number)
{
	static const int meant[] = { SIGTERM, SIGINT, SIGQUIT, SIGABRT, SIGKILL, SIGSTOP, SIGCONT };

	for (size_t i = 0; i < sizeof(meant) / sizeof(meant[0]); i++)
		if (number == meant[i])
			return true;
	return worker->was_ready || worker_catches(worker, number);
}

static void describe_sent(int number, unsigned int count, unsigned int spared, char *text,
                          size_t size)
{
	const char *name = sigabbrev_np(number);
	char shown[40];

	if (name != NULL)
		snprintf(shown, sizeof(shown), "%s (%d)", name, number);
	else
		snprintf(shown, sizeof(shown), "signal %d", number);
	if (count == 0 && spared == 0)
		snprintf(text, size, "no worker serves that could be signalled");
	else if (count == 0)
		snprintf(text, size, "%s was not sent: the worker%s and ha%s no handler for it",
		         shown, spared == 1 ? " only starts," : "s only start,",
		         spared == 1 ? "s" : "ve");
	else if (spared == 0)
		snprintf(text, size, "%s was sent to %u worker%s", shown, count,
		         count == 1 ? "" : "s");
	else
		snprintf(text, size,
		         "%s was sent to %u worker%s, and not to %u that only start%s and ha%s no "
		         "handler for it",
		         shown, count, count == 1 ? "" : "s", spared, spared == 1 ? "s" : "",
		         spared == 1 ? "s" : "ve");
}

static void verb_kill(void *ctx, struct control_client *client, int number)
{
	struct service *service = ctx;
	unsigned int count = 0, spared = 0;
	char message[200];

	for (unsigned int i = 0; service->serving != NULL && i < service->serving->slots_len; i++) {
		struct worker *worker = service->serving->slots[i].worker;

		if (!worker_lives(worker))
			continue;
		if (!is_for(worker, number))
			spared++;
		else if (worker_signal(worker, number) == 0)
			count++;
	}
	describe_sent(number, count, spared, message, sizeof(message));
	if (count == 0)
		refuse(client, message);
	else
		control_end(client, EXIT_DONE, message, json_pack("{ss}", "outcome", "done"));
}

static void verb_status(void *ctx, struct control_client *client)
{
	control_end(client, EXIT_DONE, NULL,
	            json_pack("{ssso}", "outcome", "done", "status", status_of(ctx)));
}

const struct control_verbs desk_verbs = {
	.upgrade = verb_upgrade,
	.status = verb_status,
	.stop = verb_stop,
	.cut = verb_cut,
	.restart = verb_restart,
	.kill = verb_kill,
	.gone = verb_gone,
};
