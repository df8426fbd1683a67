/* SPDX-License-Identifier: MIT */
/*
 * The life of the service: the one writer of its state. Others post events; an action that
 * causes another event posts it, and it runs after the action has ended.
 *
 * Whatever happens to an upgrade, the generation that serves is not touched before its
 * successor's workers have all said that they are ready.
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"
#include "segue/words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define ABANDON_MS      15000
#define GENERATIONS_MAX 16
#define EXTEND_MS       10000

static unsigned long long number(const struct generation *generation)
{
	return generation != NULL ? (unsigned long long)generation->number : 0;
}

void service_failed(struct service *service, const char *format, ...)
{
	va_list args;

	if (service->upgrade.reason[0] != '\0')
		return;
	va_start(args, format);
	vsnprintf(service->upgrade.reason, sizeof(service->upgrade.reason), format, args);
	va_end(args);
}

void service_note_exit(struct service *service, int status)
{
	if (status < 0 || service->exit_code != 0)
		return;
	if (WIFEXITED(status))
		service->exit_code = WEXITSTATUS(status);
	/* Ended by the signal that asks it to is as asked. */
	else if (WTERMSIG(status) != service->terms->config->stop_signal)
		service->exit_code = 128 + WTERMSIG(status);
}

/* What is left of the longest deadline that the state waits for; -1: none. */
int64_t service_deadline_left(const struct service *service)
{
	int64_t now = sg_now_ms(), left = -1;

	if (service->state == SERVICE_CHECKING || service->state == SERVICE_ABANDONING) {
		uint64_t due = uv_timer_get_due_in(&service->timer);

		return (int64_t)due;
	}
	for (const struct generation *g = service->generations; g != NULL; g = g->next) {
		if ((service->state == SERVICE_UPGRADING || service->state == SERVICE_COMMITTING) &&
		    g != service->starting)
			continue;
		for (unsigned int i = 0; i < g->slots_len; i++) {
			const struct worker *worker = g->slots[i].worker;

			if (worker != NULL && worker->deadline_ms >= 0 &&
			    worker->deadline_ms - now > left)
				left = worker->deadline_ms - now;
		}
	}
	return left;
}

static void deadline_passed(uv_timer_t *timer)
{
	service_post(timer->data, SERVICE_EVENT_DEADLINE);
}

static void enter(struct service *service, enum service_event event, enum service_state next)
{
	const char *limit = table_service_limit(next);
	int64_t now = sg_now_ms(), took = now - service->since_ms;
	enum service_state from = service->state;
	int64_t ms = strcmp(limit, "preflight") == 0
	                     ? service->upgrade.terms->config->preflight_timeout_ms
	             : strcmp(limit, "abandon") == 0 ? ABANDON_MS + service->config->kill_timeout_ms
	                                             : -1;
	char span[SG_SPAN_MAX];

	service->state = next;
	service->since_ms = now;
	service->since = time(NULL);
	(void)uv_timer_stop(&service->timer);
	uv_update_time(service->loop);
	if (ms >= 0)
		(void)uv_timer_start(&service->timer, deadline_passed, (uint64_t)ms, 0);
	log_say("state",
	        json_pack("{sssssssI}", "from", table_service_state_text(from), "to",
	                  table_service_state_text(next), "reason", table_service_event_text(event),
	                  "took_ms", (json_int_t)took),
	        "%s -> %s: %s after %s", table_service_state_text(from),
	        table_service_state_text(next), table_service_event_text(event),
	        sg_span_text(span, took));
}

/* The worker that asked hears how it ended. */
static void answer_asker(struct service *service, uint32_t outcome, const char *text)
{
	struct sg_message answer = { .type = SG_MESSAGE_ANSWER,
		                     .outcome = outcome,
		                     .generation = service->upgrade.generation };

	if (service->upgrade.asker == 0)
		return;
	snprintf(answer.text, sizeof(answer.text), "%.500s", text);
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *worker = g->slots[i].worker;

			if (worker_lives(worker) && worker->key == service->upgrade.asker &&
			    link_greeted(worker->link))
				(void)link_send(worker->link, &answer, NULL, 0);
		}
	service->upgrade.asker = 0;
}

static void ended(struct service *service, const char *outcome)
{
	service->upgrade.running = false;
	service->upgrade.outcome = outcome;
	service->upgrade.ended_ms = sg_now_ms();
	service->upgrade.ended = time(NULL);
}

static void spawn(struct service *service)
{
	struct upgrade *upgrade = &service->upgrade;
	char **argv = upgrade->argv != NULL      ? upgrade->argv
	              : service->serving != NULL ? service->serving->argv
	                                         : service->config->argv;
	int r = generation_new(&service->starting, service, argv, upgrade->terms);

	if (r < 0) {
		service_failed(service, "no memory");
		service_post(service, SERVICE_EVENT_FAILED);
		return;
	}
	desk_event(service, "starting", service->starting, NULL, NULL);
	(void)generation_start(service->starting);
}

static void say_serving(struct service *service)
{
	char status[100];

	snprintf(status, sizeof(status), "Generation %llu serves", number(service->serving));
	manager_ready(service->manager, status);
}

/* The predecessors accept until every successor has said that it serves: a COMMIT on its way is
 * no proof (doc/protocol.md, rule 21). */
static void commit(struct service *service)
{
	generation_commit(service->starting);
	if (generation_serves(service->starting))
		service_post(service, SERVICE_EVENT_SERVES);
}

static void sweep(uv_timer_t *timer)
{
	service_look_whether_empty(timer->data);
}

static void retire(struct service *service)
{
	struct generation *successor = service->starting, *predecessor = service->serving;
	char text[100];

	service->starting = NULL;
	service->serving = successor;
	terms_unref(service->terms);
	service->terms = terms_ref(successor->terms);
	held_commit(service, successor);
	snprintf(text, sizeof(text), "generation %llu serves", number(successor));
	/* Before it is told to drain: one that has nothing left is gone at once. */
	answer_asker(service, 1, text);
	if (predecessor != NULL)
		generation_retire(predecessor);
	log_say("serving",
	        json_pack("{sIsI}", "generation", (json_int_t)number(successor), "workers",
	                  (json_int_t)successor->slots_len),
	        "%s", text);
	snprintf(service->upgrade.reason, sizeof(service->upgrade.reason), "%s", text);
	ended(service, predecessor != NULL ? "upgraded" : NULL);
	desk_serving(service, successor);
	say_serving(service);
	if (predecessor != NULL)
		service_generation_gone(service, predecessor);
	/* Of one that was without a worker nothing is left that could end. */
	uv_update_time(service->loop);
	(void)uv_timer_start(&service->sweep, sweep, 0, 0);
}

static void log_failure(const struct upgrade *upgrade, const char *rest)
{
	log_say("failed",
	        json_pack("{sIso}", "generation", (json_int_t)upgrade->generation, "reason",
	                  control_text(upgrade->reason)),
	        "generation %llu failed: %s%s", (unsigned long long)upgrade->generation,
	        upgrade->reason, rest);
}

static void report(struct service *service)
{
	struct upgrade *upgrade = &service->upgrade;
	char message[REASON_MAX + 400];
	char text[200];

	if (service->serving != NULL)
		snprintf(text, sizeof(text), "; generation %llu %s", number(service->serving),
		         generation_alive(service->serving) > 0 ? "serves as before"
		                                                : "is as before, without a worker");
	else
		text[0] = '\0';
	snprintf(message, sizeof(message), "generation %llu failed: %s%s",
	         (unsigned long long)upgrade->generation, upgrade->reason, text);
	log_failure(upgrade, text);
	answer_asker(service, 2, message);
	if (service->starting != NULL)
		held_forget(service, service->starting->number);
	ended(service, "failed");
	desk_upgrade_ended(service, EXIT_FAILED, "failed", message);
	snprintf(upgrade->reason, sizeof(upgrade->reason), "%.*s", REASON_MAX - 1, message);
	service->starting = NULL;
	say_serving(service);
}

/* The preflight command, or the workers. */
static void abandon(struct service *service, enum service_event event)
{
	char span[SG_SPAN_MAX];

	if (event == SERVICE_EVENT_DEADLINE && service->upgrade.checked)
		service_failed(service,
		               "a worker of generation %llu was started again and did not say "
		               "that it serves (see --preflight-timeout)",
		               number(service->serving));
	else if (event == SERVICE_EVENT_DEADLINE)
		service_failed(
			service,
			"the preflight command did not end within %s (see "
			"--preflight-timeout)",
			sg_span_text(span, service->upgrade.terms->config->preflight_timeout_ms));
	preflight_end(service);
	if (service->serving == NULL) {
		service_post(service, SERVICE_EVENT_STOP);
		return;
	}
	desk_event(service, "failed", service->starting, NULL, service->upgrade.reason);
	if (service->starting != NULL)
		generation_abandon(service->starting);
	else
		service_post(service, SERVICE_EVENT_REAPED);
}

static void resume(struct service *service)
{
	struct generation *failed = service->serving, *back = NULL;
	char message[REASON_MAX + 160];

	for (struct generation *g = service->generations; g != NULL; g = g->next)
		if (generation_resumable(g))
			back = g;
	if (back == NULL)
		return;
	snprintf(message, sizeof(message),
	         "generation %llu failed after it had served: %s; generation %llu serves again",
	         number(failed), service->given_up, number(back));
	service->serving = back;
	terms_unref(service->terms);
	service->terms = terms_ref(back->terms);
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is what has served till now. */
	failed->retired = failed->failed = true;
	generation_stop(failed, WORKER_EVENT_STOP);
	held_resume(service, back);
	generation_resume(back);
	log_say("resumed",
	        json_pack("{sIsI}", "generation", (json_int_t)number(failed), "predecessor",
	                  (json_int_t)number(back)),
	        "%s", message);
	desk_event(service, "resumed", failed, NULL, message);
	desk_taken_back(service, failed->number, back->number, message);
	if (service->upgrade.running) {
		service->upgrade.predecessor = back->number;
	} else {
		ended(service, "taken-back");
		snprintf(service->upgrade.reason, sizeof(service->upgrade.reason), "%.*s",
		         REASON_MAX - 1, message);
	}
	if (!service->upgrade.running)
		say_serving(service);
}

static void stop(struct service *service, bool now)
{
	enum worker_event event = now ? WORKER_EVENT_STOP_NOW : WORKER_EVENT_STOP;
	bool first_failed = service->serving == NULL && service->upgrade.reason[0] != '\0';

	service->stop_asked = true;
	held_forget_unbound(service);
	/* Perhaps for what was stored: its program binds an address that overlaps it, or binds one
	 * itself without libsegue, or its probe is answered there. The next start is to find none.
	 */
	if (first_failed)
		held_forget(service, 0);
	preflight_end(service);
	manager_stopping(service->manager, "Stopping");
	manager_extend(service->manager, EXTEND_MS);
	if (service->upgrade.running) {
		service_failed(service, "the service stops");
		if (first_failed)
			service->exit_code = EXIT_FAILED;
		/* A start that a stop interrupts is no failure; an upgrade has to have an end. */
		if (first_failed || service->serving != NULL)
			log_failure(&service->upgrade, "");
		answer_asker(service, 2, service->upgrade.reason);
		ended(service, "failed");
		desk_upgrade_ended(service, EXIT_LOST, "lost",
		                   "the upgrade was given up: the service is being stopped");
	}
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		generation_stop(g, event);
	desk_event(service, "stopping", service->serving, NULL, NULL);
	service_look_whether_empty(service);
}

static void act(struct service *service, enum service_action action, enum service_event event)
{
	switch (action) {
	case SERVICE_ACTION_CHECK:
		manager_reloading(service->manager, "Upgrading");
		if (service->upgrade.terms->config->preflight == NULL) {
			service_checked(service);
			break;
		}
		desk_event(service, "checking", NULL, NULL, NULL);
		if (preflight_start(service) < 0)
			service_post(service, SERVICE_EVENT_FAILED);
		break;
	case SERVICE_ACTION_SPAWN:
		spawn(service);
		break;
	case SERVICE_ACTION_COMMIT:
		commit(service);
		break;
	case SERVICE_ACTION_RETIRE:
		retire(service);
		break;
	case SERVICE_ACTION_ABANDON:
		abandon(service, event);
		break;
	case SERVICE_ACTION_REPORT:
		report(service);
		break;
	case SERVICE_ACTION_RESUME:
		resume(service);
		break;
	case SERVICE_ACTION_STOP:
		stop(service, false);
		break;
	case SERVICE_ACTION_STOP_NOW:
		stop(service, true);
		break;
	case SERVICE_ACTION_LEAVE:
		desk_leave(service);
		uv_stop(service->loop);
		break;
	case SERVICE_ACTION_REFUSE: /* service_upgrade() has answered */
	case SERVICE_ACTION_IGNORE:
	case SERVICE_ACTION_COUNT:
		break;
	}
}

static void step(struct service *service, enum service_event event)
{
	struct service_step step = table_service(service->state, event);

	if (step.next != service->state)
		enter(service, event, step.next);
	act(service, step.action, event);
}

void service_post(struct service *service, enum service_event event)
{
	size_t room = sizeof(service->pending) / sizeof(service->pending[0]);

	if (service->pending_len < room)
		service->pending[service->pending_len++] = event;
	if (service->machine_runs)
		return;
	service->machine_runs = true;
	while (service->pending_len > 0) {
		event = service->pending[0];
		service->pending_len--;
		memmove(service->pending, service->pending + 1,
		        service->pending_len * sizeof(service->pending[0]));
		step(service, event);
	}
	service->machine_runs = false;
}

/* The exact answer: which generation is in which state, and how long it may take. */
static void refusal(const struct service *service, char *text, size_t size)
{
	unsigned long long next = service->upgrade.generation;
	int64_t left = service_deadline_left(service);
	char wait[64] = "";

	if (left >= 0)
		snprintf(wait, sizeof(wait), "; it may take %lld s more",
		         (long long)(left + 999) / 1000);
	switch (service->state) {
	case SERVICE_STARTING:
		snprintf(text, size, "generation %llu starts, and none serves yet%s", next, wait);
		break;
	case SERVICE_CHECKING:
		snprintf(text, size, "generation %llu is being checked%s; ask again then", next,
		         wait);
		break;
	case SERVICE_UPGRADING:
		snprintf(text, size, "generation %llu starts%s; ask again then", next, wait);
		break;
	case SERVICE_COMMITTING:
		snprintf(text, size, "generation %llu is about to serve%s; ask again then", next,
		         wait);
		break;
	case SERVICE_ABANDONING:
		snprintf(text, size, "generation %llu failed and is being ended%s; ask again then",
		         next, wait);
		break;
	default:
		snprintf(text, size, "the service stops%s", wait);
	}
}

static size_t generations_count(const struct service *service)
{
	size_t count = 0;

	for (const struct generation *g = service->generations; g != NULL; g = g->next)
		count++;
	return count;
}

static int take_argv(struct upgrade *upgrade, char **argv)
{
	words_free(upgrade->argv);
	upgrade->argv = argv != NULL ? words_copy(argv) : NULL;
	return argv == NULL || upgrade->argv != NULL ? 0 : -ENOMEM;
}

int service_upgrade(struct service *service, char **argv, uint64_t asker, char *reason,
                    size_t reason_size)
{
	struct service_step step = table_service(service->state, SERVICE_EVENT_UPGRADE);
	struct upgrade *upgrade = &service->upgrade;
	struct terms *terms;
	int r;

	if (step.action == SERVICE_ACTION_REFUSE) {
		refusal(service, reason, reason_size);
		return -EBUSY;
	}
	if (generations_count(service) >= GENERATIONS_MAX) {
		snprintf(reason, reason_size,
		         "%d generations still drain; wait, or end their drain with 'segue cut'",
		         GENERATIONS_MAX - 1);
		return -EBUSY;
	}
	r = terms_again(&terms, service, reason, reason_size);
	if (r < 0)
		return r;
	if (argv == NULL && terms_new_command(service->terms, terms))
		argv = terms->config->argv;
	if (take_argv(upgrade, argv) < 0) {
		terms_unref(terms);
		snprintf(reason, reason_size, "no memory");
		return -ENOMEM;
	}
	terms_unref(upgrade->terms);
	upgrade->terms = terms;
	upgrade->generation = service->last_number + 1;
	upgrade->predecessor = service->serving != NULL ? service->serving->number : 0;
	upgrade->began_ms = sg_now_ms();
	upgrade->running = true;
	upgrade->checked = false;
	upgrade->outcome = NULL;
	upgrade->reason[0] = upgrade->output[0] = '\0';
	upgrade->asker = asker;
	log_say("upgrade",
	        json_pack("{sIsI}", "generation", (json_int_t)upgrade->generation, "predecessor",
	                  (json_int_t)upgrade->predecessor),
	        "an upgrade to generation %llu is asked for",
	        (unsigned long long)upgrade->generation);
	service_post(service, SERVICE_EVENT_UPGRADE);
	service_look_whether_empty(service);
	return 0;
}

/* Nothing of it is left: whoever waits for that is told. It is freed by the sweep. */
void service_generation_gone(struct service *service, struct generation *generation)
{
	if (generation_goes_on(generation))
		return;
	if (generation->retired && !generation->failed)
		desk_generation_gone(service, generation);
}

static bool is_over(const struct service *service, const struct generation *generation)
{
	return generation != service->serving && generation != service->starting &&
	       !generation_goes_on(generation);
}

/*
 * A worker of the generation that serves may have been started again and not have said yet that
 * it serves: the successor is started when it has, or has ended.
 */
void service_look_whether_confirmed(struct service *service)
{
	if (service->state == SERVICE_CHECKING && service->upgrade.checked &&
	    generation_confirmed(service->serving))
		service_post(service, SERVICE_EVENT_CHECKED);
}

/* The deadlines are over, and the service manager's are all that is left. */
void service_look_whether_stuck(struct service *service)
{
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = WORKERS_OF(&g->slots[i]);

			for (size_t k = 0; k < WORKERS_A_SLOT; k++)
				if (worker_lives(workers[k]) && workers[k]->state != WORKER_KILLING)
					return;
		}
	if (service->stop_asked)
		manager_give_up(service->manager);
}

/* The preflight command has ended well, or there is none. */
void service_checked(struct service *service)
{
	service->upgrade.checked = true;
	service_look_whether_confirmed(service);
}

/*
 * Generations of which nothing is left are freed; and where nothing is left of the service
 * either, and nothing will be started, it ends. Called last by whoever has seen an end.
 */
void service_look_whether_empty(struct service *service)
{
	struct generation *next;
	bool empty = true;

	if (service->machine_runs)
		return;
	service_look_whether_confirmed(service);
	for (struct generation *g = service->generations; g != NULL; g = next) {
		next = g->next;
		if (is_over(service, g)) {
			service_generation_gone(service, g);
			generation_free(g);
		}
	}
	for (struct generation *g = service->generations; g != NULL; g = g->next) {
		if (generation_goes_on(g))
			empty = false;
		for (unsigned int i = 0; i < g->slots_len; i++)
			/* What crashed too often waits for an upgrade. */
			if (g->slots[i].limit && !service->stop_asked)
				empty = false;
	}
	if (empty && !(service->upgrade.running && !service->stop_asked))
		service_post(service, SERVICE_EVENT_EMPTY);
}
