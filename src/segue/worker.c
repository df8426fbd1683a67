/* SPDX-License-Identifier: MIT */
/*
 * One process: its start, what it says, and its end. The one writer of a worker's state.
 *
 * Its death is known by its pidfd, and counts only after what it had still said has been read.
 * Nothing here decides whether it is started again: that is its slot's (slot.c).
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REAP_MS 10000

bool worker_lives(const struct worker *worker)
{
	return worker != NULL && worker->state != WORKER_GONE;
}

bool worker_owns(const struct worker *worker, pid_t pid)
{
	/* Each worker leads a session of its own. */
	return worker_lives(worker) && worker->process.pid > 0 &&
	       (pid == worker->process.pid || getsid(pid) == worker->process.pid);
}

int worker_signal(struct worker *worker, int signal)
{
	if (worker->process.pid == 0 || worker->dead)
		return -ESRCH;
	return sg_pidfd_signal(worker->process.pidfd, signal);
}

bool worker_catches(const struct worker *worker, int signal)
{
	unsigned long long caught = 0;
	char path[64], *line = NULL;
	size_t size = 0;
	FILE *file;

	/* What stands there before it has executed its program is the supervisor's. */
	if (!worker->runs)
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/status", (long)worker->process.pid);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	/* The line of groups before it may be as long as there are groups. */
	while (getline(&line, &size, file) >= 0)
		if (strncmp(line, "SigCgt:", 7) == 0)
			caught = strtoull(line + 7, NULL, 16);
	free(line);
	(void)fclose(file);
	return caught >> (signal - 1) & 1;
}

void worker_failed(struct worker *worker, const char *format, ...)
{
	va_list args;

	if (worker->reason[0] != '\0')
		return;
	va_start(args, format);
	vsnprintf(worker->reason, sizeof(worker->reason), format, args);
	va_end(args);
}

/* State, deadline and timer. */

static int64_t limit_of(const struct worker *worker, enum worker_state state)
{
	const struct config *config = worker_config(worker);
	const char *limit = table_worker_limit(state);

	/* Whoever is ready waits for others that may take as long: their deadline comes first. */
	if (strcmp(limit, "start") == 0)
		return config->start_timeout_ms + (state == WORKER_READY ? WORKER_MARGIN_MS : 0);
	if (strcmp(limit, "drain") == 0)
		return config->drain_timeout_ms < 0 ? -1
		       : worker->kind == KIND_SEGUE ? config->drain_timeout_ms + WORKER_MARGIN_MS
		                                    : config->drain_timeout_ms;
	if (strcmp(limit, "kill") == 0)
		return config->kill_timeout_ms;
	return strcmp(limit, "reap") == 0 ? REAP_MS : -1;
}

static void deadline_passed(uv_timer_t *timer)
{
	struct worker *worker = timer->data;

	link_look(worker->link);
	if (worker_service(worker)->inbox != NULL)
		inbox_look(worker_service(worker)->inbox);
	/* What was read may have changed the state, and with it the deadline. */
	if (worker->deadline_ms < 0 || sg_now_ms() < worker->deadline_ms)
		return;
	worker->deadline_ms = -1;
	worker_post(worker, WORKER_EVENT_DEADLINE);
}

static void arm(struct worker *worker, int64_t limit)
{
	int64_t now = sg_now_ms();

	(void)uv_timer_stop(&worker->timer);
	worker->deadline_ms = limit < 0 ? -1 : now + limit;
	uv_update_time(worker_service(worker)->loop);
	if (limit >= 0)
		(void)uv_timer_start(&worker->timer, deadline_passed, (uint64_t)limit + 1, 0);
}

static json_t *fields_of(const struct worker *worker)
{
	return json_pack("{sIsIsI}", "generation", (json_int_t)worker->slot->generation->number,
	                 "worker", (json_int_t)worker->slot->index, "pid",
	                 (json_int_t)worker->process.pid);
}

static void enter(struct worker *worker, enum worker_event event, enum worker_state next)
{
	int64_t now = sg_now_ms(), took = now - worker->since_ms;
	enum worker_state from = worker->state;
	json_t *fields = fields_of(worker);
	char span[SG_SPAN_MAX];

	/* A worker that is ready waits as long as the others may take to start: they begin when the
	 * first is ready. */
	if (next != from || event == WORKER_EVENT_DEADLINE)
		arm(worker, limit_of(worker, next));
	if (next == from) {
		json_decref(fields);
		return;
	}
	worker->state = next;
	worker->since_ms = now;
	worker->since = time(NULL);
	json_object_update_new(
		fields, json_pack("{sssssssI}", "from", table_worker_state_text(from), "to",
	                          table_worker_state_text(next), "reason",
	                          table_worker_event_text(event), "took_ms", (json_int_t)took));
	log_say("worker", fields, "worker %llu:%u (pid %ld) %s -> %s: %s after %s",
	        (unsigned long long)worker->slot->generation->number, worker->slot->index,
	        (long)worker->process.pid, table_worker_state_text(from),
	        table_worker_state_text(next), table_worker_event_text(event),
	        sg_span_text(span, took));
}

/* Actions. */

static bool speaks(const struct worker *worker)
{
	return link_speaks(worker->link);
}

/* False where it will not hear of it: link.c ends it, but what it was to do may be its end. */
static bool tell(struct worker *worker, const struct sg_message *message)
{
	int r = link_send(worker->link, message, NULL, 0);

	return r == 0 || r == -EPIPE;
}

static void stop_signal(struct worker *worker)
{
	int r = worker_signal(worker, worker_config(worker)->stop_signal);

	if (r < 0 && r != -ESRCH)
		log_say("warning", fields_of(worker),
		        "worker %llu:%u (pid %ld) cannot be signalled: %s",
		        (unsigned long long)worker->slot->generation->number, worker->slot->index,
		        (long)worker->process.pid, strerror(-r));
}

/* All of it: a wrapper must not leave behind what it started. */
static void kill_group(struct worker *worker)
{
	(void)worker_signal(worker, SIGKILL);
	/* The group is its own while the pid is: the process has not been reaped. */
	if (worker->process.pid > 0 && getpgid(worker->process.pid) == worker->process.pid)
		(void)kill(-worker->process.pid, SIGKILL);
}

/* RETIRE or STOP: by its channel, else by the stop signal. */
static void ask_away(struct worker *worker, enum sg_message_type type)
{
	struct sg_message message = { .type = type,
		                      .drain_ms =
		                              (uint32_t)worker_config(worker)->drain_timeout_ms };

	worker->asked_away = true;
	if (!speaks(worker) || !tell(worker, &message))
		stop_signal(worker);
}

static void cut(struct worker *worker)
{
	struct sg_message message = { .type = SG_MESSAGE_CUT };
	/* One that serves is stopped first: there is no drain to cut. */
	struct sg_message now = { .type = SG_MESSAGE_STOP, .now = 1 };

	if (!speaks(worker) || !tell(worker, worker->asked_away ? &message : &now))
		stop_signal(worker);
	worker->asked_away = true;
}

static void not_ready_in_time(struct worker *worker)
{
	const struct config *config = worker_config(worker);
	const char *last = worker->ready != NULL ? ready_last(worker->ready) : "";
	char wrapper[256], span[SG_SPAN_MAX];

	wrapper_describe(worker, wrapper, sizeof(wrapper));
	worker_failed(worker, "it was not ready within %s%s%s%s%s",
	              sg_span_text(span, config->start_timeout_ms),
	              worker->kind == KIND_OTHER && config->ready == CONFIG_READY_AUTO
	                      ? ": it neither spoke to its channel nor sent READY=1 (see --ready "
	                        "and --start-timeout)"
	                      : " (see --start-timeout)",
	              last[0] != '\0' ? "; the last probe: " : "", last, wrapper);
}

/* One that speaks to its channel has accepted nothing and is none to wait for. */
static void abandon(struct worker *worker, enum worker_event event)
{
	worker->asked_away = true;
	/* The probe still knows what it was told last. */
	if (event == WORKER_EVENT_DEADLINE)
		not_ready_in_time(worker);
	ready_end(worker->ready);
	worker->ready = NULL;
	if (link_greeted(worker->link) && !worker->was_committed)
		kill_group(worker);
	else
		stop_signal(worker);
}

/* The commonest mistake of a first start: the server binds the address that is held for it. */
static const char *bind_hint(const struct worker *worker)
{
	if (worker->slot->generation->number != 1 || worker->was_ready ||
	    worker->kind == KIND_SEGUE || worker_config(worker)->listen_len == 0)
		return "";
	return " (a server under --listen takes its sockets as descriptors 3, 4, ... and does not "
	       "bind; see LISTEN_FDS in segue(1))";
}

static void describe_end(struct worker *worker)
{
	const char *when = worker->was_ready ? "" : " before it was ready";
	const char *hint = wrapper_hint(worker);

	hint = hint[0] != '\0' ? hint : bind_hint(worker);
	int status = worker->status;

	if (status < 0)
		worker_failed(worker, "it ended%s", when);
	else if (WIFEXITED(status))
		worker_failed(worker, "it exited with status %d%s%s", WEXITSTATUS(status), when,
		              hint);
	else
		worker_failed(worker, "it was killed by signal %d (%s)%s", WTERMSIG(status),
		              strsignal(WTERMSIG(status)), when);
}

static void say_commit(struct worker *worker)
{
	struct sg_message commit = { .type = SG_MESSAGE_COMMIT };

	if (!worker->told_commit)
		(void)tell(worker, &commit);
	worker->told_commit = true;
}

static void act(struct worker *worker, enum worker_action action, enum worker_event event)
{
	struct sg_message resume = { .type = SG_MESSAGE_RESUME };

	switch (action) {
	case WORKER_ACTION_NOTE_READY:
		worker->was_ready = true;
		generation_worker_ready(worker);
		break;
	case WORKER_ACTION_COMMIT:
		worker->was_committed = true;
		if (link_greeted(worker->link) && worker->said_ready)
			say_commit(worker);
		else /* nobody will say so: it has been accepting all the while */
			worker_post(worker, WORKER_EVENT_SERVES);
		break;
	case WORKER_ACTION_NOTE_SERVES:
		generation_worker_serves(worker);
		break;
	case WORKER_ACTION_RETIRE:
		worker->aged = true;
		ask_away(worker, SG_MESSAGE_RETIRE);
		break;
	case WORKER_ACTION_RESUME:
		worker->asked_away = false;
		(void)tell(worker, &resume);
		break;
	case WORKER_ACTION_STOP:
		worker->abandoned = event == WORKER_EVENT_ABANDON;
		ask_away(worker, SG_MESSAGE_STOP);
		break;
	case WORKER_ACTION_ABANDON:
		abandon(worker, event);
		break;
	case WORKER_ACTION_CUT:
		desk_cut(worker, event);
		cut(worker);
		break;
	case WORKER_ACTION_KILL:
		worker->asked_away = worker->killed = true;
		kill_group(worker);
		break;
	case WORKER_ACTION_COMPLAIN:
		log_say("warning", fields_of(worker),
		        "worker %llu:%u (pid %ld) was killed and is not dead: the kernel still "
		        "holds it",
		        (unsigned long long)worker->slot->generation->number, worker->slot->index,
		        (long)worker->process.pid);
		service_look_whether_stuck(worker_service(worker));
		break;
	case WORKER_ACTION_REPORT:
		describe_end(worker);
		generation_worker_gone(worker);
		break;
	case WORKER_ACTION_NOTE:
	case WORKER_ACTION_IGNORE:
	case WORKER_ACTION_COUNT:
		break;
	}
}

void worker_post(struct worker *worker, enum worker_event event)
{
	struct worker_step step = table_worker(worker->state, event);

	if (step.action == WORKER_ACTION_IGNORE)
		return;
	enter(worker, event, step.next);
	act(worker, step.action, event);
}

/* What happens to it. */

void worker_is_ready(struct worker *worker, enum worker_kind kind)
{
	enum config_ready mode = worker_config(worker)->ready;

	bool probes = mode != CONFIG_READY_AUTO && mode != CONFIG_READY_SEGUE &&
	              mode != CONFIG_READY_NOTIFY;

	if (kind == KIND_SEGUE)
		worker->said_ready = true;
	/* It greeted when a probe had already found it ready: it waits for the word to serve. */
	if (kind == KIND_SEGUE && worker_is_committed(worker)) {
		say_commit(worker);
		return;
	}
	if (worker->state != WORKER_STARTING)
		return;
	/* One that speaks to its channel says it there, beside what the operator asks for. */
	if (kind == KIND_NOTIFY && (speaks(worker) || probes || mode == CONFIG_READY_SEGUE))
		return;
	if (probes && !worker->probe_ready)
		return;
	if (kind == KIND_NOTIFY)
		worker->kind = KIND_NOTIFY;
	ready_end(worker->ready);
	worker->ready = NULL;
	worker_post(worker, WORKER_EVENT_READY);
}

static void probed(void *ctx, int error, const char *reason)
{
	struct worker *worker = ctx;

	if (error == 0) {
		worker->probe_ready = true;
		if (!link_greeted(worker->link) || worker->said_ready)
			worker_post(worker, WORKER_EVENT_READY);
		return;
	}
	worker_failed(worker, "%s", reason);
	worker_post(worker, WORKER_EVENT_ABANDON);
}

static void begin_probe(struct worker *worker)
{
	char generation[40], index[32], pid[32], name[100];
	const char *env[] = { generation, index, pid, name, NULL };
	struct ready_target target = { .generation = worker->slot->generation->number,
		                       .worker = worker->slot->index,
		                       .pid = worker->process.pid,
		                       .env = env };
	int r;

	if (worker->ready == NULL)
		return;
	snprintf(name, sizeof(name), "SEGUE_NAME=%s", worker_config(worker)->name);
	snprintf(generation, sizeof(generation), "SEGUE_GENERATION=%llu",
	         (unsigned long long)target.generation);
	snprintf(index, sizeof(index), "SEGUE_WORKER=%u", target.worker);
	snprintf(pid, sizeof(pid), "SEGUE_PID=%ld", (long)target.pid);
	r = ready_begin(worker->ready, &target, probed, worker);
	if (r < 0)
		probed(worker, r, strerror(-r));
}

static void handle_closed(uv_handle_t *handle)
{
	struct worker *worker = handle->data;

	if (--worker->handles == 0)
		free(worker);
}

static void exec_look(struct worker *worker)
{
	struct sg_exec_error error = { 0 };
	char text[REASON_MAX];
	int r;

	if (worker->process.exec_fd < 0)
		return;
	r = sg_spawn_result(worker->process.exec_fd, &error);
	if (r == 0)
		return;
	/* The handle before the descriptor: libuv takes whatever has the number by then out of its
	 * set. */
	uv_close((uv_handle_t *)&worker->exec_poll, handle_closed);
	worker->process.exec_fd = sg_fd_close(worker->process.exec_fd);
	if (r < 0) {
		sg_spawn_error_text(&error, text, sizeof(text));
		if (r == -ENOENT && error.step == SG_SPAWN_EXECUTE &&
		    strchr(worker->slot->generation->argv[0], '/') == NULL)
			worker_failed(worker, "there is no program '%s' in PATH; write its path",
			              worker->slot->generation->argv[0]);
		worker_failed(worker, "%s", text);
		return; /* its death follows */
	}
	worker->runs = true;
	/* Where it was started by descriptor, what lies at the path by now has nothing to do with
	 * it. */
	(void)program_of(&worker->program, worker->process.pid,
	                 worker->from_held ? NULL : worker->slot->generation->argv[0]);
	desk_event(worker_service(worker), "started", worker->slot->generation, worker, NULL);
	begin_probe(worker);
}

static void exec_ready(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	exec_look(poll->data);
}

static void process_ready(uv_poll_t *poll, int status, int events)
{
	struct worker *worker = poll->data;

	(void)status;
	(void)events;
	if (worker->dead || sg_pidfd_dead(worker->process.pidfd) != 1)
		return;
	(void)uv_poll_stop(&worker->pidfd_poll);
	/* What it wrote before it died is the better reason. */
	exec_look(worker);
	link_look(worker->link);
	if (worker_service(worker)->inbox != NULL)
		inbox_look(worker_service(worker)->inbox);
	worker->wraps = !worker->was_ready && wrapper_has_others(worker);
	/* What it had started goes with it; its pid names them until it is reaped. */
	if (getpgid(worker->process.pid) == worker->process.pid)
		(void)kill(-worker->process.pid, SIGKILL);
	(void)sg_pidfd_reap(worker->process.pidfd, &worker->status);
	worker->dead = true;
	worker_post(worker, WORKER_EVENT_EXIT);
}

void worker_free(struct worker *worker)
{
	if (worker == NULL)
		return;
	ready_end(worker->ready);
	link_close(worker->link);
	worker->link = NULL;
	program_done(&worker->program);
	if (worker->watched > 0)
		uv_close((uv_handle_t *)&worker->pidfd_poll, handle_closed);
	if (worker->watched > 1 && worker->process.exec_fd >= 0)
		uv_close((uv_handle_t *)&worker->exec_poll, handle_closed);
	uv_close((uv_handle_t *)&worker->timer, handle_closed);
	sg_fd_close(worker->process.pidfd);
	sg_fd_close(worker->process.exec_fd);
}

/* Where it fails the worker is to be freed, and nothing of it is called back. */
int worker_watch(struct worker *worker)
{
	struct service *service = worker_service(worker);
	int r;

	(void)uv_timer_init(service->loop, &worker->timer);
	worker->handles = 1;
	r = uv_poll_init(service->loop, &worker->pidfd_poll, worker->process.pidfd);
	worker->watched += r == 0;
	if (r == 0)
		r = uv_poll_init(service->loop, &worker->exec_poll, worker->process.exec_fd);
	worker->watched += r == 0;
	worker->handles += worker->watched;
	worker->pidfd_poll.data = worker->exec_poll.data = worker->timer.data = worker;
	if (r == 0)
		r = uv_poll_start(&worker->pidfd_poll, UV_READABLE, process_ready);
	if (r == 0)
		r = uv_poll_start(&worker->exec_poll, UV_READABLE | UV_DISCONNECT, exec_ready);
	return r;
}

/* It runs from now on: its first state and deadline. */
void worker_begin(struct worker *worker)
{
	struct slot *slot = worker->slot;

	worker->state = WORKER_STARTING;
	worker->began_ms = worker->since_ms = sg_now_ms();
	worker->since = time(NULL);
	arm(worker, limit_of(worker, WORKER_STARTING));
	log_say("started", fields_of(worker), "worker %llu:%u (pid %ld) starts: %s",
	        (unsigned long long)slot->generation->number, slot->index,
	        (long)worker->process.pid, slot->generation->argv[0]);
}
