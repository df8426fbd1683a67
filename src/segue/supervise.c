/* SPDX-License-Identifier: MIT */
/*
 * 'segue run': sets the supervisor up, runs its loop, and takes it down. What it is asked by
 * signals becomes events of the service.
 */
#include "core/fd.h"
#include "segue/command.h"
#include "segue/log.h"
#include "segue/paths.h"
#include "segue/ready.h"
#include "segue/supervisor.h"
#include "segue/words.h"

#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const int signals[] = { SIGUSR2, SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGCHLD };
#define SIGNALS       (sizeof(signals) / sizeof(signals[0]))
#define REAP_AGAIN_MS 20

struct run {
	struct service service;
	struct config *config;
	uv_loop_t loop;
	uv_signal_t signals[SIGNALS];
	uv_timer_t reap;
	char reason[REASON_MAX];
};

/* Orphans. */

static bool is_ours(struct service *service, pid_t pid)
{
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = { g->slots[i].worker, g->slots[i].replacement,
				                     g->slots[i].leaving };

			for (size_t k = 0; k < 3; k++)
				if (workers[k] != NULL && !workers[k]->dead &&
				    workers[k]->process.pid == pid)
					return true;
		}
	return false;
}

static void reap_again(uv_timer_t *timer);

/*
 * Whoever was left to this process is reaped, as pid 1 and as sub-reaper. The workers are
 * not: their end is read by their pidfd, after their last words. One that is dead and not
 * yet read may hide others, which are looked for again.
 */
static void reap(struct run *run)
{
	struct service *service = &run->service;

	for (;;) {
		siginfo_t info = { 0 };

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		if (is_ours(service, info.si_pid)) {
			(void)uv_timer_start(&run->reap, reap_again, REAP_AGAIN_MS, 0);
			return;
		}
		(void)waitpid(info.si_pid, NULL, WNOHANG);
		if (service->relay != NULL && relay_is(service->relay, info.si_pid)) {
			log_say("warning", NULL, "the relay's process died; a new one is started");
			relay_died(service->relay);
		}
	}
}

static void reap_again(uv_timer_t *timer)
{
	reap(timer->data);
}

/* Signals. */

static void upgrade_by_signal(struct service *service, const char *name)
{
	char reason[REASON_MAX];

	if (service_upgrade(service, NULL, 0, reason, sizeof(reason)) < 0)
		log_say("refused", NULL, "%s: the upgrade is refused: %s", name, reason);
}

/* To those who have a handler for it: the rest would die of it. */
static void pass_on(struct service *service, int number)
{
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; i < g->slots_len; i++) {
			struct worker *workers[] = WORKERS_OF(&g->slots[i]);

			for (size_t k = 0; k < WORKERS_A_SLOT; k++)
				if (worker_lives(workers[k]) && worker_catches(workers[k], number))
					(void)worker_signal(workers[k], number);
		}
}

static void signalled(uv_signal_t *handle, int number)
{
	struct run *run = handle->data;
	struct service *service = &run->service;
	int r;

	switch (number) {
	case SIGCHLD:
		reap(run);
		return;
	case SIGUSR2:
	case SIGHUP:
		upgrade_by_signal(service, number == SIGHUP ? "SIGHUP" : "SIGUSR2");
		return;
	case SIGUSR1:
		r = log_reopen();
		if (r < 0)
			log_say("warning", NULL, "the log file could not be opened anew: %s",
			        strerror(-r));
		relay_reopen(service->relay);
		pass_on(service, number);
		return;
	case SIGQUIT:
		service_post(service, SERVICE_EVENT_STOP_NOW);
		break;
	default:
		service_post(service, SERVICE_EVENT_STOP);
	}
	service_look_whether_empty(service);
}

/*
 * nohup, and "&" in a script: what a terminal sends stays ignored if it was so at the start. QUIT
 * is ignored there too, but is what a service manager sends.
 */
static bool is_heard(const struct service *service, int number)
{
	return (number != SIGHUP && number != SIGINT) ||
	       sigismember(&service->terms->origin.ignored, number) != 1;
}

static int watch_signals(struct run *run)
{
	for (size_t i = 0; i < SIGNALS; i++) {
		int r = uv_signal_init(&run->loop, &run->signals[i]);

		run->signals[i].data = run;
		if (r == 0 && is_heard(&run->service, signals[i]))
			r = uv_signal_start(&run->signals[i], signalled, signals[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The workers' words. */

/* Once for each version: it may say so again and again. */
static void say_stranger(struct service *service, pid_t pid)
{
	if (service->stranger_told == service->last_number)
		return;
	service->stranger_told = service->last_number;
	log_say("warning", NULL,
	        "process %ld said READY=1 and is in the session of no worker, or has ended "
	        "since: it is not heard (start the server by exec, without setsid)",
	        (long)pid);
}

static void delivered(void *ctx, const struct inbox_message *message)
{
	struct service *service = ctx;
	struct worker *worker = generation_worker_of(service, message->pid);

	if (worker == NULL && message->ready)
		say_stranger(service, message->pid);
	if (worker == NULL)
		return;
	if (message->status != NULL) {
		snprintf(worker->text, sizeof(worker->text), "%s", message->status);
		desk_event(service, "note", worker->slot->generation, worker, message->status);
	}
	if (!message->ready)
		return;
	if (message->pid != worker->process.pid && worker->state == WORKER_STARTING)
		log_say("wrapper", NULL,
		        "worker %llu:%u is a wrapper: process %ld says that it is ready, not %s "
		        "(pid "
		        "%ld), to which LISTEN_PID and signals go; start the server by exec",
		        (unsigned long long)worker->slot->generation->number, worker->slot->index,
		        (long)message->pid, worker->slot->generation->argv[0],
		        (long)worker->process.pid);
	worker_is_ready(worker, KIND_NOTIFY);
}

/* Set-up. */

static int open_descriptors(struct service *service, char *reason)
{
	service->null_fd = sg_fd_above_stdio_take(open("/dev/null", O_RDWR | O_CLOEXEC));
	service->self_pidfd = sg_pidfd_open(getpid());
	if (service->null_fd >= 0 && service->self_pidfd >= 0)
		return 0;
	snprintf(reason, REASON_MAX,
	         "/dev/null or a pidfd cannot be opened: %s; Segue needs Linux "
	         "5.14 or newer",
	         strerror(errno));
	return -ENOSYS;
}

static int open_pid_file(struct service *service, char *reason)
{
	const char *path = service->config->pid_file;
	pid_t holder = 0;
	int r;

	if (path == NULL)
		return 0;
	r = sg_pidfile_claim(&service->pidfile, path, &holder);
	if (r == 0) {
		service->pidfile_held = true;
		r = sg_pidfile_write(&service->pidfile, getpid());
	}
	if (r == -EEXIST)
		snprintf(reason, REASON_MAX,
		         "pid file %s is held by a service that runs (pid %ld); stop it or choose "
		         "another with --pid-file",
		         path, (long)holder);
	else if (r < 0)
		snprintf(reason, REASON_MAX, "pid file %s: %s", path, strerror(-r));
	return r;
}

/* The workers are told of the socket beside it, and may be in another directory. */
static int name_sockets(struct service *service, const char *control, char *reason)
{
	char directory[PATH_MAX] = "", path[2 * PATH_MAX];

	if (control[0] != '/' && getcwd(directory, sizeof(directory)) == NULL) {
		int r = -errno;

		snprintf(reason, REASON_MAX, "--control %s: the working directory: %s", control,
		         strerror(-r));
		return r;
	}
	snprintf(path, sizeof(path), "%s%s%s", directory, directory[0] != '\0' ? "/" : "", control);
	if (strlen(path) >= sizeof(service->control_path) - 8) {
		/* One that begins with a slash is short enough (settings.c). */
		snprintf(reason, REASON_MAX,
		         "--control %.300s: the path is too long from the working directory: "
		         "%.300s",
		         control, path);
		return -ENAMETOOLONG;
	}
	memcpy(service->control_path, path, strlen(path) + 1);
	snprintf(service->inbox_path, sizeof(service->inbox_path), "%.99s.notify",
	         service->control_path);
	return 0;
}

static int open_sockets(struct service *service, char *reason)
{
	const struct config *config = service->config;
	char folder[PATHS_MAX];
	int r = 0;

	if (config->control != NULL) {
		r = name_sockets(service, config->control, reason);
	} else {
		r = paths_make_folder(folder, sizeof(folder), reason, REASON_MAX);
		if (r == 0)
			r = paths_control(service->control_path, sizeof(service->control_path),
			                  config->name);
		if (r == 0)
			r = paths_notify(service->inbox_path, sizeof(service->inbox_path),
			                 config->name);
	}
	if (r < 0) {
		if (reason[0] == '\0')
			snprintf(reason, REASON_MAX, "the control socket: %s; see --control",
			         strerror(-r));
		return r;
	}
	r = control_open(&service->control, service->loop, service->control_path, &desk_verbs,
	                 service, reason, REASON_MAX);
	if (r == 0)
		r = inbox_open(&service->inbox, service->loop, service->inbox_path, delivered,
		               service, reason, REASON_MAX);
	return r;
}

static int set_up(struct run *run)
{
	struct service *service = &run->service;
	char *reason = run->reason;
	int r;

	service->config = run->config;
	service->loop = &run->loop;
	service->null_fd = service->self_pidfd = -1;
	service->pidfile.dir_fd = service->pidfile.lock_fd = -1;
	service->began_ms = service->since_ms = sg_now_ms();
	service->since = time(NULL);
	(void)uv_timer_init(&run->loop, &service->timer);
	(void)uv_timer_init(&run->loop, &service->beat);
	(void)uv_timer_init(&run->loop, &service->sweep);
	(void)uv_timer_init(&run->loop, &service->rebind);
	(void)uv_timer_init(&run->loop, &run->reap);
	service->timer.data = service->beat.data = service->sweep.data = service;
	service->rebind.data = service;
	run->reap.data = run;
	r = log_watch(&run->loop);
	if (r == 0)
		r = manager_open(&service->manager, &run->loop, reason, REASON_MAX);
	if (r == 0) {
		r = sg_origin_take(&service->origin);
		if (r < 0)
			snprintf(reason, REASON_MAX,
			         "the environment could not be read; is /proc mounted?");
	}
	if (r == 0) {
		r = terms_new_take(&service->terms, run->config, &service->origin, reason,
		                   REASON_MAX);
		run->config = NULL;
		/* A user that is not there is as wrong as an option. */
		if (r == -EINVAL || r == -EPERM)
			service->exit_code = EXIT_USAGE;
	}
	if (r == 0) {
		service->first = terms_ref(service->upgrade.terms = terms_ref(service->terms));
		r = open_descriptors(service, reason);
	}
	if (r == 0)
		r = open_pid_file(service, reason);
	if (r == 0)
		r = open_sockets(service, reason);
	if (r == 0)
		r = relay_open(&service->relay, &run->loop, service->config->log,
		               service->config->log_file, reason, REASON_MAX);
	if (r == 0)
		r = held_open(service, reason, REASON_MAX);
	if (r == 0)
		r = watch_signals(run);
	return r;
}

static void begin(struct service *service)
{
	struct upgrade *upgrade = &service->upgrade;

	upgrade->generation = 1;
	upgrade->began_ms = sg_now_ms();
	upgrade->running = true;
	if (generation_new(&service->starting, service, service->config->argv, service->terms) <
	    0) {
		service_failed(service, "no memory");
		service_post(service, SERVICE_EVENT_FAILED);
	} else {
		(void)generation_start(service->starting);
	}
	service_look_whether_empty(service);
}

/* Taking down. */

static void close_handle(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

static void take_down(struct run *run)
{
	struct service *service = &run->service;

	while (service->generations != NULL)
		generation_free(service->generations);
	held_close(service);
	control_close(service->control);
	if (service->inbox != NULL)
		inbox_close(service->inbox);
	if (service->relay != NULL)
		relay_close(service->relay);
	if (service->manager != NULL)
		manager_close(service->manager);
	ready_reap_killed();
	log_unwatch();
	(void)uv_run(&run->loop, UV_RUN_NOWAIT);
	uv_walk(&run->loop, close_handle, NULL);
	(void)uv_run(&run->loop, UV_RUN_DEFAULT);
	(void)uv_loop_close(&run->loop);
	if (service->pidfile_held) {
		sg_pidfile_remove(&service->pidfile);
		sg_pidfile_done(&service->pidfile);
	}
	sg_fd_close(service->null_fd);
	sg_fd_close(service->self_pidfd);
	words_free(service->upgrade.argv);
	terms_unref(service->upgrade.terms);
	terms_unref(service->terms);
	terms_unref(service->first);
	sg_origin_done(&service->origin);
	config_free(run->config);
}

int command_run(int argc, char **argv)
{
	static struct run run;
	int r = config_from_arguments(&run.config, argc, argv, run.reason);

	if (r == 1)
		return EXIT_DONE;
	if (r < 0) {
		fprintf(stderr, "segue run: %s\n", run.reason);
		return EXIT_USAGE;
	}
	r = log_open(run.config->name, run.config->log_json, run.config->log_file);
	if (r < 0) {
		fprintf(stderr, "segue run: log file %s: %s\n", run.config->log_file, strerror(-r));
		config_free(run.config);
		return EXIT_FAILED;
	}
	run.service.argc = argc;
	run.service.argv = argv;
	(void)signal(SIGPIPE, SIG_IGN);
	/* A line on a terminal that belongs to others ("stty tostop") must not stop the loop. */
	(void)signal(SIGTTOU, SIG_IGN);
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	r = uv_loop_init(&run.loop);
	if (r < 0) {
		log_say("failed", NULL, "the event loop: %s", uv_strerror(r));
		log_close();
		config_free(run.config);
		return EXIT_FAILED;
	}
	r = set_up(&run);
	if (r < 0) {
		log_say("failed", NULL, "%s", run.reason[0] != '\0' ? run.reason : strerror(-r));
		if (run.service.exit_code == 0)
			run.service.exit_code = EXIT_FAILED;
	} else {
		begin(&run.service);
		if (run.service.state != SERVICE_GONE)
			(void)uv_run(&run.loop, UV_RUN_DEFAULT);
	}
	r = run.service.exit_code;
	take_down(&run);
	log_close();
	return r;
}
