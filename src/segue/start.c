/* SPDX-License-Identifier: MIT */
/*
 * The start of a worker: all that it inherits is made, passed and let go of here.
 */
#include "core/fd.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the worker inherits, until it has been started. */
struct passed {
	struct sg_spawn_fd fds[SG_WIRE_LISTENERS + 8];
	size_t fds_len;
	int output[2], channel, ready;
	char names[SG_WIRE_LISTENERS * (SG_NAME_MAX + 1) + 32];
	size_t listeners;
};

static void pass(struct passed *passed, int fd, int number)
{
	if (fd >= 0 && passed->fds_len < sizeof(passed->fds) / sizeof(passed->fds[0]))
		passed->fds[passed->fds_len++] = (struct sg_spawn_fd){ fd, number };
}

static void pass_listeners(struct service *service, struct passed *passed)
{
	char *at = passed->names + sprintf(passed->names, "LISTEN_FDNAMES=");

	for (struct held *held = service->held; held != NULL; held = held->next) {
		if (!held->own || passed->listeners == SG_WIRE_LISTENERS)
			continue;
		pass(passed, held->fd, 3 + (int)passed->listeners);
		at += sprintf(at, "%s%s", passed->listeners > 0 ? ":" : "", held->name);
		passed->listeners++;
	}
}

static void passed_done(struct passed *passed)
{
	sg_fd_close(passed->output[0]);
	sg_fd_close(passed->output[1]);
	sg_fd_close(passed->channel);
	sg_fd_close(passed->ready);
}

/* Everything that it is given, or a sentence why it cannot be started. */
static int prepare(struct worker *worker, struct passed *passed)
{
	struct service *service = worker_service(worker);
	struct generation *generation = worker->slot->generation;
	char tag[48], reason[REASON_MAX] = "";
	int r;

	passed->output[0] = passed->output[1] = passed->channel = passed->ready = -1;
	passed->fds_len = passed->listeners = 0;
	snprintf(tag, sizeof(tag), "%llu:%u", (unsigned long long)generation->number,
	         worker->slot->index);
	r = relay_worker(service->relay, worker->key, tag, passed->output);
	if (r < 0) {
		worker_failed(worker, "its output could not be set up: %s", strerror(-r));
		return r;
	}
	r = held_check_ready(service, worker_config(worker), reason, sizeof(reason));
	if (r < 0) {
		worker_failed(worker, "%s", reason);
		return r;
	}
	r = link_open(&worker->link, worker, &passed->channel);
	if (r < 0) {
		worker_failed(worker, "no channel could be made: %s", strerror(-r));
		return r;
	}
	r = ready_prepare(&worker->ready, service->loop, worker_config(worker), generation->number,
	                  worker->slot->index, &passed->ready, reason, sizeof(reason));
	if (r < 0) {
		worker_failed(worker, "%s", reason[0] != '\0' ? reason : strerror(-r));
		return r;
	}
	pass(passed, service->null_fd, 0);
	pass(passed, passed->output[0], 1);
	pass(passed, passed->output[1], 2);
	pass_listeners(service, passed);
	return 0;
}

/* A number for the channel that nothing else has. */
static int channel_number(const struct worker *worker, const struct passed *passed)
{
	int number = 3 + (int)passed->listeners;

	return passed->ready >= 0 && worker_config(worker)->ready_fd == number ? number + 1
	                                                                       : number;
}

static int spawn(struct worker *worker, struct passed *passed, const struct program *program)
{
	struct service *service = worker_service(worker);
	struct generation *generation = worker->slot->generation;
	char number[40], index[32], channel[40], listeners[40], notify[140], name[100];
	const char *set[11] = { name, number, index, channel, "SEGUE_PID=@pid" };
	size_t count = 5;
	int channel_fd = channel_number(worker, passed);
	struct sg_spawn spawn = { .origin = &generation->terms->origin,
		                  .argv = generation->argv,
		                  .program = generation->argv[0],
		                  .program_fd =
		                          program != NULL && program->fd >= 0 ? &program->fd : NULL,
		                  .fds = passed->fds,
		                  .identity = generation->terms->as,
		                  .directory = worker_config(worker)->directory,
		                  .own_session = true,
		                  .death_signal =
		                          worker_config(worker)->orphans == CONFIG_ORPHANS_DRAIN
		                                  ? worker_config(worker)->stop_signal
		                                  : 0,
		                  .set = set };

	snprintf(name, sizeof(name), "SEGUE_NAME=%s", worker_config(worker)->name);
	snprintf(number, sizeof(number), "SEGUE_GENERATION=%llu",
	         (unsigned long long)generation->number);
	snprintf(index, sizeof(index), "SEGUE_WORKER=%u", worker->slot->index);
	snprintf(channel, sizeof(channel), "SEGUE_CHANNEL=%d", channel_fd);
	pass(passed, passed->channel, channel_fd);
	pass(passed, passed->ready, worker_config(worker)->ready_fd);
	if (service->inbox != NULL) {
		snprintf(notify, sizeof(notify), "NOTIFY_SOCKET=%s", service->inbox_path);
		set[count++] = notify;
	}
	if (passed->listeners > 0) {
		snprintf(listeners, sizeof(listeners), "LISTEN_FDS=%zu", passed->listeners);
		set[count++] = listeners;
		set[count++] = "LISTEN_PID=@pid";
		set[count++] = passed->names;
	}
	set[count] = NULL;
	spawn.fds_len = passed->fds_len;
	return sg_spawn(&worker->process, &spawn);
}

/* It has begun to run, and nobody would hear of its end. Whoever is unknown is reaped at SIGCHLD.
 */
static void give_up_unwatched(struct worker *worker, int error)
{
	worker_failed(worker, "it could not be watched: %s", strerror(-error));
	(void)worker_signal(worker, SIGKILL);
	relay_forget(worker_service(worker)->relay, worker->key);
}

/* Where the supervisor is killed: as long as a stop by it would take. */
static int64_t linger_ms(const struct config *config)
{
	if (config->orphans != CONFIG_ORPHANS_DRAIN || config->drain_timeout_ms < 0)
		return -1;
	return config->drain_timeout_ms + WORKER_MARGIN_MS + config->kill_timeout_ms;
}

static void free_unstarted(struct worker *worker)
{
	struct service *service = worker_service(worker);

	ready_end(worker->ready);
	link_close(worker->link);
	relay_forget(service->relay, worker->key);
	free(worker);
}

/*
 * Starts a process in a slot. program: what to execute in place of what lies at the path now;
 * NULL: that. Where none could be started the reason is a clause, and the slot decides.
 */
int worker_start(struct slot *slot, const struct program *program, struct worker **ret_worker,
                 char reason[static REASON_MAX])
{
	struct service *service = slot->generation->service;
	struct worker *worker = calloc(1, sizeof(*worker));
	struct passed *passed = malloc(sizeof(*passed));
	int r = -ENOMEM;

	snprintf(reason, REASON_MAX, "no memory");
	if (worker == NULL || passed == NULL)
		goto fail;
	worker->slot = slot;
	worker->key = ++service->last_key;
	worker->program.fd = -1;
	worker->from_held = program != NULL && program->fd >= 0;
	worker->status = -1;
	worker->process = (struct sg_spawned){ .pidfd = -1, .exec_fd = -1 };
	r = prepare(worker, passed);
	if (r == 0) {
		r = spawn(worker, passed, program);
		if (r < 0)
			worker_failed(worker, "no process could be made: %s%s", strerror(-r),
			              r == -EAGAIN ? " (a limit of the user's or the cgroup's "
			                             "processes: RLIMIT_NPROC, pids.max)"
			                           : "");
	}
	passed_done(passed);
	if (r < 0) {
		snprintf(reason, REASON_MAX, "%s", worker->reason);
		free_unstarted(worker);
		worker = NULL;
		goto fail;
	}
	r = worker_watch(worker);
	if (r < 0) {
		give_up_unwatched(worker, r);
		snprintf(reason, REASON_MAX, "%s", worker->reason);
		worker_free(worker);
		worker = NULL;
		goto fail;
	}
	relay_pid(service->relay, worker->key, worker->process.pid,
	          linger_ms(worker_config(worker)));
	worker_begin(worker);
	link_greet(worker->link);
	*ret_worker = worker;
	free(passed);
	return 0;
fail:
	free(worker);
	free(passed);
	return r;
}
