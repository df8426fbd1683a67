/* SPDX-License-Identifier: MIT */
/*
 * An attempt: the preflight check, the start of the successor, and how that ends.
 *
 * Until the commit the successor is ours to kill, and every failure of it is a non-event
 * here. From the commit on it is never killed: its death alone changes anything.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

static void exec_ready(struct segue *segue, struct watch *watch, uint32_t events);
static void process_ready(struct segue *segue, struct watch *watch, uint32_t events);

/* The first reason stands: what follows from it is noise. */
void sg_attempt_failed(struct segue *segue, int error, const char *format, ...)
{
	va_list args;

	if (segue->attempt.reason[0] != '\0')
		return;
	segue->attempt.error = error < 0 ? -error : error;
	va_start(args, format);
	vsnprintf(segue->attempt.reason, sizeof(segue->attempt.reason), format, args);
	va_end(args);
}

static void begin(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;
	struct segue_event begins = { .type = SEGUE_EVENT_UPGRADE_BEGINS,
		                      .generation = segue->generation + 1,
		                      .fd = -1 };

	*attempt = (struct attempt){ .generation = segue->generation + 1,
		                     .running = true,
		                     .check_status = -1,
		                     .process = { .pidfd = -1, .exec_fd = -1 },
		                     .pidfd_watch = { .fd = -1 },
		                     .exec_watch = { .fd = -1 },
		                     .began_ms = sg_now_ms() };
	sg_queue_event(segue, &begins);
	sg_manager_reloading(segue);
}

static void forget_process(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;

	sg_watch_remove(segue, &attempt->pidfd_watch);
	sg_watch_remove(segue, &attempt->exec_watch);
	attempt->process.pidfd = sg_fd_close(attempt->process.pidfd);
	attempt->process.exec_fd = sg_fd_close(attempt->process.exec_fd);
}

static int start(struct segue *segue, const struct sg_spawn *spawn)
{
	struct attempt *attempt = &segue->attempt;
	int r = sg_spawn(&attempt->process, spawn);

	if (r < 0) {
		attempt->process = (struct sg_spawned){ .pidfd = -1, .exec_fd = -1 };
		return r;
	}
	r = sg_watch_add(segue, &attempt->pidfd_watch, attempt->process.pidfd, EPOLLIN, attempt,
	                 process_ready);
	if (r == 0)
		r = sg_watch_add(segue, &attempt->exec_watch, attempt->process.exec_fd, EPOLLIN,
		                 attempt, exec_ready);
	return r;
}

void sg_attempt_check(struct segue *segue)
{
	struct sg_spawn spawn = { .origin = &segue->origin,
		                  .argv = segue->check_argv,
		                  .witness = true };
	int r;

	begin(segue);
	if (segue->check_argv == NULL) {
		sg_machine_post(segue, SG_EVENT_CHECKED);
		return;
	}
	segue->attempt.checking = true;
	r = start(segue, &spawn);
	if (r < 0) {
		sg_attempt_failed(segue, r, "the preflight check could not be started: %s",
		                  strerror(-r));
		sg_machine_post(segue, SG_EVENT_CHECK_FAILED);
	}
}

void sg_attempt_spawn(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;
	const char *set[] = { "SEGUE_CHANNEL=3", NULL, NULL };
	/* Always this number, free here or not: each generation starts with the same environment.
	 */
	struct sg_spawn_fd channel = { .number = 3 };
	struct sg_spawn spawn = {
		.origin = &segue->origin, .set = set, .fds = &channel, .fds_len = 1
	};
	int fds[2], r;

	attempt->checking = false;
	r = sg_channel_pair(fds);
	if (r < 0) {
		sg_attempt_failed(segue, r, "no channel could be made: %s", strerror(-r));
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	if (segue->notify.watchdog_us > 0)
		set[1] = "WATCHDOG_PID=@pid";
	channel.fd = fds[1];
	/*
	 * systemd waits only for a main process that is its own child when it is named: the stop
	 * of any other goes from SIGTERM to SIGKILL at once.
	 */
	spawn.sibling = segue->notify.fd >= 0;
	/* "pkill -USR2" reaches the successor too, perhaps before it can handle the signal. */
	spawn.ignore_signal = segue->options.upgrade_signal;
	r = start(segue, &spawn);
	sg_fd_close(fds[1]);
	attempt->peer = r < 0 ? NULL
	                      : sg_peer_new_take(segue, PEER_SUCCESSOR, fds[0],
	                                         sg_fd_dup(attempt->process.pidfd));
	if (r < 0)
		sg_fd_close(fds[0]);
	if (attempt->peer == NULL) {
		sg_attempt_failed(segue, r < 0 ? r : ENOMEM,
		                  "the successor could not be started: %s",
		                  strerror(r < 0 ? -r : ENOMEM));
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	attempt->peer->pid = attempt->process.pid;
	attempt->peer->generation = attempt->generation;
	(void)sg_peer_send_hello(attempt->peer);
}

/* Kills what runs and waits for its death; where nothing runs that is now. */
void sg_attempt_abandon(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;
	struct sg_message failed = { .type = SG_MESSAGE_FAILED, .error = (uint32_t)attempt->error };
	int r;

	if (attempt->process.pidfd < 0) {
		sg_machine_post(segue, SG_EVENT_REAPED);
		return;
	}
	/* For one that cannot be killed. */
	snprintf(failed.text, sizeof(failed.text), "%.500s", attempt->reason);
	if (attempt->peer != NULL)
		(void)sg_peer_send(attempt->peer, &failed, NULL, 0);
	/* Its death is the end of the attempt, also where it could not be watched before. */
	if (attempt->pidfd_watch.fd < 0)
		(void)sg_watch_add(segue, &attempt->pidfd_watch, attempt->process.pidfd, EPOLLIN,
		                   attempt, process_ready);
	r = sg_pidfd_signal(attempt->process.pidfd, SIGKILL);
	if (r < 0 && r != -ESRCH)
		sg_queue_warning(
			segue, r,
			"generation %llu (pid %ld) failed and cannot be killed: %s; it does not "
			"serve, end it yourself",
			(unsigned long long)attempt->generation, (long)attempt->process.pid,
			strerror(-r));
}

static void say_ended(struct segue *segue, enum segue_outcome outcome)
{
	struct attempt *attempt = &segue->attempt;
	struct segue_event ended = { .type = SEGUE_EVENT_UPGRADE_ENDED,
		                     .outcome = outcome,
		                     .generation = attempt->generation,
		                     .pid = attempt->process.pid,
		                     .error = attempt->error,
		                     .reason = attempt->reason,
		                     .took_ms = sg_now_ms() - attempt->began_ms,
		                     .fd = -1 };

	sg_queue_event(segue, &ended);
}

/* The service stops while a successor starts: that is the end of the upgrade. */
void sg_attempt_cancel(struct segue *segue)
{
	if (!segue->attempt.running)
		return;
	sg_attempt_failed(segue, ECANCELED, "the service stops");
	sg_attempt_abandon(segue);
	say_ended(segue, SEGUE_FAILED);
}

void sg_attempt_report(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;

	/* Before its death is proven its channel must not end: it would take that for ours. */
	if (attempt->peer != NULL && attempt->process.pidfd >= 0) {
		sg_watch_remove(segue, &attempt->peer->channel_watch);
		attempt->peer->role = PEER_ABANDONED;
		attempt->peer = NULL;
	}
	forget_process(segue);
	if (attempt->peer != NULL)
		sg_peer_doom(attempt->peer);
	snprintf(segue->scratch, sizeof(segue->scratch),
	         "generation %llu failed: %.500s; generation %llu serves as before",
	         (unsigned long long)attempt->generation, attempt->reason,
	         (unsigned long long)segue->generation);
	snprintf(attempt->reason, sizeof(attempt->reason), "%s", segue->scratch);
	say_ended(segue, SEGUE_FAILED);
	sg_manager_upgrade_failed(segue, attempt->reason);
	attempt->running = false;
}

void sg_attempt_commit(struct segue *segue)
{
	struct attempt *attempt = &segue->attempt;
	struct sg_message commit = { .type = SG_MESSAGE_COMMIT,
		                     .probation_ms = (uint32_t)segue->options.probation_ms };
	struct peer *peer = attempt->peer;

	segue->owner = false;
	segue->had_successor = true;
	peer->committed = true;
	/* The manager knows the new main process before that one knows that it serves. */
	sg_manager_committed(segue, attempt->process.pid, attempt->generation);
	forget_process(segue);
	attempt->peer = NULL;
	attempt->running = false;
	attempt->error = 0;
	/*
	 * A successor that is already dead is noticed by its pidfd: the service is taken back. One
	 * that lives behind a broken channel would wait for this word as long as this generation
	 * is there, and nobody would accept: it was not given, so it may be killed.
	 */
	if (sg_peer_send(peer, &commit, NULL, 0) < 0)
		(void)sg_pidfd_signal(peer->pidfd, SIGKILL);
	sg_queue_simple(segue, SEGUE_EVENT_COMMIT);
	sg_listeners_drop(segue);
	snprintf(attempt->reason, sizeof(attempt->reason), "generation %llu serves",
	         (unsigned long long)attempt->generation);
	say_ended(segue, SEGUE_UPGRADED);
}

void sg_attempt_look(struct segue *segue)
{
	if (segue->attempt.exec_watch.fd >= 0)
		exec_ready(segue, &segue->attempt.exec_watch, EPOLLIN);
}

static void describe_death(struct segue *segue, int status)
{
	const char *what = segue->attempt.checking ? "the preflight check" : "it";
	const char *when = segue->attempt.checking ? "" : " before it was ready";

	if (status < 0)
		sg_attempt_failed(segue, ECHILD, "%s ended%s", what, when);
	else if (WIFEXITED(status))
		sg_attempt_failed(segue, ECHILD, "%s exited with status %d%s", what,
		                  WEXITSTATUS(status), when);
	else
		sg_attempt_failed(segue, ECHILD, "%s was killed by signal %d (%s)%s", what,
		                  WTERMSIG(status), strsignal(WTERMSIG(status)), when);
}

/* Did it run, and how did a check end? */
static void exec_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct attempt *attempt = watch->owner;
	struct segue_event started = { .type = SEGUE_EVENT_UPGRADE_STARTED,
		                       .generation = attempt->generation,
		                       .pid = attempt->process.pid,
		                       .fd = -1 };
	struct sg_exec_error error = { 0 };
	char text[PATH_MAX + 100];
	int r = sg_spawn_result(attempt->process.exec_fd, &error);

	(void)events;
	if (r == 0)
		return;
	sg_watch_remove(segue, watch);
	attempt->process.exec_fd = sg_fd_close(attempt->process.exec_fd);
	if (r == 2)
		attempt->check_status = error.status;
	if (r > 0) {
		if (!attempt->checking)
			sg_queue_event(segue, &started);
		return;
	}
	sg_spawn_error_text(&error, text, sizeof(text));
	sg_attempt_failed(segue, r, "%s", text);
	/* A check is ended by its death, which follows at once and has to be reaped. */
	if (!attempt->checking)
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
}

/* The death of the check or of a successor without a commit. */
static void process_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct attempt *attempt = watch->owner;
	bool checking = attempt->checking;
	int status = -1;

	(void)events;
	/* What it wrote before it died is the better reason. */
	sg_attempt_look(segue);
	if (attempt->peer != NULL)
		sg_peer_read(attempt->peer);
	if (!attempt->running || attempt->process.pidfd < 0)
		return;
	(void)sg_pidfd_reap(attempt->process.pidfd, &status);
	if (checking)
		status = attempt->check_status;
	forget_process(segue);
	if (checking && segue->state == SG_STATE_CHECKING && status == 0) {
		sg_machine_post(segue, SG_EVENT_CHECKED);
		return;
	}
	/* A channel ends with its process: how that one ended, if not by our own hand, is why. */
	if (attempt->hung_up && status >= 0 &&
	    !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
		attempt->reason[0] = '\0';
	describe_death(segue, status);
	if (segue->state == SG_STATE_CHECKING)
		sg_machine_post(segue, SG_EVENT_CHECK_FAILED);
	else if (segue->state == SG_STATE_UPGRADING)
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
	else
		sg_machine_post(segue, SG_EVENT_REAPED);
}

void sg_attempt_done(struct segue *segue)
{
	forget_process(segue);
}
