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

static json_t *number_or_null(int64_t value)
{
	return value < 0 ? json_null() : json_integer(value);
}

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
				number_or_null(generation->terms->config->start_timeout_ms));
		if (text != NULL)
			json_object_set_new(line, "text", control_text(text));
		control_event(waiter->client, line);
	}
}

/* What the operator set, not what is added to it for a worker that keeps it itself. */
static int64_t worker_left_ms(const struct worker *worker)
{
	int64_t left = worker->deadline_ms - sg_now_ms();
	bool keeps = worker->state == WORKER_DRAINING || worker->state == WORKER_STOPPING;

	if (worker->deadline_ms < 0)
		return -1;
	if (worker->kind == KIND_SEGUE && keeps)
		left -= WORKER_MARGIN_MS;
	return left > 0 ? left : 0;
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

			if (worker_lives(worker) && worker_left_ms(worker) > left)
				left = worker_left_ms(worker);
		}
		line = event_for(waiter, "draining");
		json_object_update_new(
			line,
			json_pack("{sosIso}", "connections",
		                  known ? json_integer((json_int_t)connections) : json_null(),
		                  "cut", (json_int_t)cut, "deadline_ms", number_or_null(left)));
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

/* The predecessor of an upgrade has gone: that is its end. */
void desk_generation_gone(struct service *service, const struct generation *generation)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		uint64_t cut = generation->cut;
		char message[200];
		json_t *line, *end;

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_UPGRADE || waiter->predecessor != generation->number)
			continue;
		line = event_for(waiter, "gone");
		json_object_update_new(line, json_pack("{sIsI}", "connections", (json_int_t)0,
		                                       "cut", (json_int_t)cut));
		control_event(waiter->client, line);
		end = upgrade_end(waiter, cut > 0 ? "cut" : "upgraded");
		json_object_update_new(
			end, json_pack("{sosI}", "connections",
		                       generation->drained_known
		                               ? json_integer((json_int_t)generation->drained_from)
		                               : json_null(),
		                       "cut", (json_int_t)cut));
		if (cut > 0)
			snprintf(message, sizeof(message),
			         "generation %llu serves; generation %llu is gone, and %llu of its "
			         "connections %s cut (see --drain-timeout)",
			         (unsigned long long)waiter->generation,
			         (unsigned long long)generation->number, (unsigned long long)cut,
			         cut == 1 ? "was" : "were");
		else
			snprintf(message, sizeof(message),
			         "generation %llu serves; generation %llu is gone",
			         (unsigned long long)waiter->generation,
			         (unsigned long long)generation->number);
		control_end(release(service, waiter), cut > 0 ? EXIT_CUT : EXIT_DONE, message, end);
	}
}

void desk_worker_replaced(struct service *service, const struct worker *worker, bool well,
                          const char *reason)
{
	struct waiter *next;

	for (struct waiter *waiter = service->waiters; waiter != NULL; waiter = next) {
		char message[REASON_MAX + 100];

		next = waiter->next;
		if (waiter->kind != WAITS_FOR_WORKER || waiter->worker != worker->slot->index)
			continue;
		if (well)
			snprintf(message, sizeof(message), "worker %u is now pid %ld",
			         worker->slot->index, (long)worker->process.pid);
		else
			snprintf(message, sizeof(message),
			         "the replacement of worker %u failed: %s; the worker serves as "
			         "before",
			         worker->slot->index, reason);
		control_end(release(service, waiter), well ? EXIT_DONE : EXIT_FAILED, message,
		            json_pack("{ss}", "outcome", well ? "done" : "failed"));
	}
}

void desk_leave(struct service *service)
{
	while (service->waiters != NULL) {
		bool stop = service->waiters->kind == WAITS_FOR_STOP;

		control_end(release(service, service->waiters), stop ? EXIT_DONE : EXIT_LOST,
		            stop ? "the service has stopped" : "the service was stopped",
		            json_pack("{ss}", "outcome", stop ? "stopped" : "lost"));
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
		waiter->predecessor = service->serving != NULL ? service->serving->number : 0;
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
	service_post(service, now ? SERVICE_EVENT_STOP_NOW : SERVICE_EVENT_STOP);
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

static void verb_kill(void *ctx, struct control_client *client, int number)
{
	struct service *service = ctx;
	char message[100];
	unsigned int count = 0;

	for (unsigned int i = 0; service->serving != NULL && i < service->serving->slots_len; i++) {
		struct worker *worker = service->serving->slots[i].worker;

		if (worker_lives(worker) && worker_signal(worker, number) == 0)
			count++;
	}
	if (count == 0) {
		refuse(client, "no worker serves that could be signalled");
		return;
	}
	snprintf(message, sizeof(message), "signal %d (%s) was sent to %u worker%s", number,
	         strsignal(number), count, count == 1 ? "" : "s");
	control_end(client, EXIT_DONE, message, json_pack("{ss}", "outcome", "done"));
}

/* Status. */

static json_t *time_text(time_t when)
{
	char text[40];
	struct tm tm;

	gmtime_r(&when, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *text_or_null(const char *text)
{
	return control_text(text[0] != '\0' ? text : NULL);
}

static json_t *worker_status(const struct slot *slot, const struct worker *worker)
{
	static const char *const kinds[] = { "other", "notify", "segue" };
	int64_t now = sg_now_ms();
	json_t *out = json_object();

	json_object_set_new(out, "worker", json_integer((json_int_t)slot->index));
	json_object_set_new(out, "pid", worker ? json_integer(worker->process.pid) : json_null());
	json_object_set_new(out, "state",
	                    json_string(worker        ? table_worker_state_text(worker->state)
	                                : slot->timer ? "waiting"
	                                              : "gone"));
	json_object_set_new(out, "since",
	                    time_text(worker ? worker->since : slot->generation->since));
	json_object_set_new(
		out, "age_ms",
		json_integer(now - (worker ? worker->since_ms : slot->generation->since_ms)));
	json_object_set_new(out, "kind",
	                    json_string(!worker ? "unknown"
	                                : worker->kind == KIND_OTHER && !worker->was_ready
	                                        ? "unknown"
	                                        : kinds[worker->kind]));
	json_object_set_new(out, "connections",
	                    worker && worker->counts ? json_integer((json_int_t)worker->connections)
	                                             : json_null());
	json_object_set_new(out, "restarts", json_integer((json_int_t)slot->restarts));
	json_object_set_new(out, "status", worker ? text_or_null(worker->text) : json_null());
	json_object_set_new(out, "last_exit", text_or_null(slot->last_exit));
	json_object_set_new(
		out, "restart_ms",
		slot->timer ? json_integer(slot->restart_ms > now ? slot->restart_ms - now : 0)
			    : json_null());
	return out;
}

static const struct worker *first_worker(const struct generation *generation)
{
	const struct worker *first = NULL;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (worker_lives(worker) && (first == NULL || worker->state < first->state))
			first = worker;
	}
	return first;
}

static json_t *program_status(const struct worker *worker)
{
	if (worker == NULL || !worker->runs)
		return json_null();
	return json_pack("{sosbsIss}", "path", text_or_null(worker->program.path), "script",
	                 worker->program.script, "size", (json_int_t)worker->program.size,
	                 "identity", worker->program.identity);
}

static json_t *generation_status(const struct generation *generation)
{
	const struct worker *first = first_worker(generation);
	json_t *workers = json_array(), *command = json_array(), *out = json_object();
	bool waits = false;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct slot *slot = &generation->slots[i];

		waits = waits || slot->timer != NULL;
		if (slot->worker != NULL || slot->timer != NULL || slot->limit)
			json_array_append_new(workers, worker_status(slot, slot->worker));
		if (slot->replacement != NULL)
			json_array_append_new(workers, worker_status(slot, slot->replacement));
		if (slot->leaving != NULL)
			json_array_append_new(workers, worker_status(slot, slot->leaving));
	}
	for (char **word = generation->argv; *word != NULL; word++)
		json_array_append_new(command, control_text(*word));
	json_object_set_new(out, "number", json_integer((json_int_t)generation->number));
	json_object_set_new(out, "state",
	                    json_string(first   ? table_worker_state_text(first->state)
	                                : waits ? "waiting"
	                                        : "gone"));
	json_object_set_new(out, "since", time_text(first ? first->since : generation->since));
	json_object_set_new(
		out, "age_ms",
		json_integer(sg_now_ms() - (first ? first->since_ms : generation->since_ms)));
	json_object_set_new(out, "deadline_ms",
	                    first ? number_or_null(worker_left_ms(first)) : json_null());
	json_object_set_new(out, "program", program_status(first));
	json_object_set_new(out, "command", command);
	json_object_set_new(out, "workers", workers);
	return out;
}

static json_t *listeners_status(const struct service *service)
{
	json_t *out = json_array();

	for (const struct held *held = service->held; held != NULL; held = held->next) {
		char text[SG_ADDRESS_MAX];

		if (sg_listener_text(held->fd, text, sizeof(text)) < 0)
			snprintf(text, sizeof(text), "%s", held->address);
		json_array_append_new(out,
		                      json_pack("{ssss}", "name", held->name, "address", text));
	}
	return out;
}

static json_t *upgrade_status(const struct service *service)
{
	const struct upgrade *upgrade = &service->upgrade;

	if (!upgrade->running)
		return json_null();
	return json_pack(
		"{sIsosssIso}", "generation", (json_int_t)upgrade->generation, "predecessor",
		upgrade->predecessor ? json_integer((json_int_t)upgrade->predecessor) : json_null(),
		"state", table_service_state_text(service->state), "ms",
		(json_int_t)(sg_now_ms() - upgrade->began_ms), "deadline_ms",
		number_or_null(service_deadline_left(service)));
}

static json_t *last_upgrade_status(const struct service *service)
{
	const struct upgrade *upgrade = &service->upgrade;

	if (upgrade->outcome == NULL)
		return json_null();
	return json_pack("{sIsssosososI}", "generation", (json_int_t)upgrade->generation, "outcome",
	                 upgrade->outcome, "message", control_text(upgrade->reason), "at",
	                 time_text(upgrade->ended), "age_ms",
	                 json_integer(sg_now_ms() - upgrade->ended_ms), "ms",
	                 (json_int_t)(upgrade->ended_ms - upgrade->began_ms));
}

static void verb_status(void *ctx, struct control_client *client)
{
	struct service *service = ctx;
	json_t *generations = json_array(), *out = json_object();

	for (struct generation *g = service->generations; g != NULL; g = g->next)
		(void)json_array_insert_new(generations, 0, generation_status(g));
	json_object_set_new(out, "version", json_integer(1));
	json_object_set_new(out, "name", json_string(service->config->name));
	json_object_set_new(out, "pid", json_integer(getpid()));
	json_object_set_new(out, "state", json_string(table_service_state_text(service->state)));
	json_object_set_new(out, "since", time_text(service->since));
	json_object_set_new(out, "age_ms", json_integer(sg_now_ms() - service->since_ms));
	json_object_set_new(out, "uptime_ms", json_integer(sg_now_ms() - service->began_ms));
	json_object_set_new(out, "control", json_string(service->control_path));
	json_object_set_new(out, "config", control_text(service->config->file));
	json_object_set_new(out, "listeners", listeners_status(service));
	json_object_set_new(out, "restarts", json_integer((json_int_t)service->restarts));
	json_object_set_new(out, "workers_wanted",
	                    json_integer((json_int_t)service->terms->config->workers));
	json_object_set_new(out, "generations", generations);
	json_object_set_new(out, "upgrade", upgrade_status(service));
	json_object_set_new(out, "last_upgrade", last_upgrade_status(service));
	control_end(client, EXIT_DONE, NULL, json_pack("{ssso}", "outcome", "done", "status", out));
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
