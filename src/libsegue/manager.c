/* SPDX-License-Identifier: MIT */
/*
 * The service manager and the pid file: who the main process is, told by the one that is.
 *
 * Under NotifyAccess=main the manager hears only the main process. So the predecessor names
 * its successor before it commits, and may leave only when the manager has read that (the
 * barrier).
 * Source: sd_notify(3), systemd.service(5)
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EXTEND_EVERY_MS 5000
#define EXTEND_BY_US    "20000000"

/* A supervisor hears all of this on its channel; what it gets here is the program's own word. */
static void tell(struct segue *segue, const char *text)
{
	int r = segue->supervised ? 0 : sg_notify_send(&segue->notify, text, -1);

	if (r < 0)
		sg_queue_warning(segue, r, "the service manager does not listen: %s", strerror(-r));
}

int sg_manager_open(struct segue *segue)
{
	pid_t holder = 0;
	int r = sg_notify_open(&segue->notify);

	if (r == -EINVAL)
		return sg_fail(segue, r, "NOTIFY_SOCKET='%.100s' is neither a path nor an @name",
		               getenv("NOTIFY_SOCKET"));
	/* The service can do without its manager; its upgrades, too. */
	if (r < 0)
		sg_queue_warning(segue, r, "NOTIFY_SOCKET='%.100s' cannot be reached: %s",
		                 getenv("NOTIFY_SOCKET"), strerror(-r));
	if (segue->pid_file_path == NULL || segue->pidfile_held)
		return 0;
	if (segue->supervised) {
		sg_queue_warning(segue, EINVAL,
		                 "pid file %s is not written: the pid that stays is the "
		                 "supervisor's (see its --pid-file)",
		                 segue->pid_file_path);
		return 0;
	}
	r = sg_pidfile_claim(&segue->pidfile, segue->pid_file_path, &holder);
	if (r == -EEXIST)
		return sg_fail(segue, r,
		               "pid file %s is held by a service that runs (pid %ld); stop it or "
		               "choose another pid file",
		               segue->pid_file_path, (long)holder);
	if (r < 0)
		return sg_fail(segue, r, "pid file %s: %s", segue->pid_file_path,
		               r == -ELOOP ? "it is a symbolic link, which is not followed"
		                           : strerror(-r));
	segue->pidfile_held = true;
	return 0;
}

void sg_manager_close(struct segue *segue)
{
	sg_watch_remove(segue, &segue->barrier_watch);
	segue->barrier_fd = sg_fd_close(segue->barrier_fd);
	sg_notify_close(&segue->notify);
	if (!segue->pidfile_held)
		return;
	sg_pidfile_remove(&segue->pidfile);
	sg_pidfile_done(&segue->pidfile);
	segue->pidfile_held = false;
}

/* Why an upgrade cannot be had in this shape, or NULL. */
const char *sg_manager_forbids(void)
{
	const char *exec_pid = getenv("SYSTEMD_EXEC_PID"), *notify = getenv("NOTIFY_SOCKET");

	if (getpid() == 1)
		return "this is process 1 of its container, which ends with it, and an upgrade "
		       "changes the pid; start it as 'segue run -- program', whose pid stays";
	if (getenv("SUPERVISOR_ENABLED") != NULL)
		return "supervisord watches its direct child, and an upgrade changes the pid; "
		       "start it as 'segue run -- program', whose pid stays";
	if (exec_pid != NULL && strtol(exec_pid, NULL, 10) == (long)getpid() &&
	    (notify == NULL || notify[0] == '\0'))
		return "systemd watches this pid, and an upgrade changes it; set Type=notify in "
		       "the "
		       "unit, or start it as 'segue run -- program'";
	return NULL;
}

static void write_pid_file(struct segue *segue)
{
	int r;

	if (!segue->pidfile_held)
		return;
	r = sg_pidfile_write(&segue->pidfile, getpid());
	if (r < 0)
		sg_queue_warning(segue, r,
		                 "pid file %s could not be written: %s; it names another pid than "
		                 "%ld now",
		                 segue->pid_file_path, strerror(-r), (long)getpid());
}

static void watchdog_begin(struct segue *segue)
{
	segue->watchdog_due_ms = -1;
	if (segue->notify.watchdog_us <= 0)
		return;
	tell(segue, "WATCHDOG=1");
	segue->watchdog_due_ms = sg_now_ms() + segue->notify.watchdog_us / 2000;
	sg_timer_arm(segue);
}

static void extend_begin(struct segue *segue)
{
	segue->extend_due_ms = -1;
	if (segue->notify.fd < 0 || segue->supervised)
		return;
	segue->extend_due_ms = sg_now_ms();
	sg_timer_arm(segue);
}

void sg_manager_serving(struct segue *segue)
{
	char text[128], main_pid[40] = "";

	write_pid_file(segue);
	/* A supervisor is the main process itself. */
	if (!segue->supervised)
		snprintf(main_pid, sizeof(main_pid), "\nMAINPID=%ld", (long)getpid());
	snprintf(text, sizeof(text), "READY=1\nSTATUS=Generation %llu serves%s",
	         (unsigned long long)segue->generation, main_pid);
	tell(segue, text);
	watchdog_begin(segue);
}

void sg_manager_reloading(struct segue *segue)
{
	char text[160];

	snprintf(text, sizeof(text),
	         "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=Generation %llu starts",
	         (long long)sg_now_us(), (unsigned long long)segue->attempt.generation);
	tell(segue, text);
	extend_begin(segue);
}

void sg_manager_upgrade_failed(struct segue *segue, const char *reason)
{
	char text[SG_ERROR_MAX + 64];

	segue->extend_due_ms = -1;
	snprintf(text, sizeof(text), "READY=1\nSTATUS=Upgrade to generation %llu failed: %s",
	         (unsigned long long)segue->attempt.generation, reason);
	tell(segue, text);
}

static void barrier_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct peer *target = sg_peer_target(segue);

	(void)events;
	sg_watch_remove(segue, watch);
	segue->barrier_fd = sg_fd_close(segue->barrier_fd);
	if (segue->state == SG_STATE_DRAINED &&
	    (target == NULL || (target->final_sent && target->receipt)))
		sg_machine_post(segue, SG_EVENT_SETTLED);
}

void sg_manager_committed(struct segue *segue, pid_t pid, uint64_t generation)
{
	char text[128];

	segue->extend_due_ms = segue->watchdog_due_ms = -1;
	if (segue->notify.fd < 0)
		return;
	snprintf(text, sizeof(text), "MAINPID=%ld\nREADY=1\nSTATUS=Generation %llu serves",
	         (long)pid, (unsigned long long)generation);
	tell(segue, text);
	segue->barrier_fd = sg_notify_barrier(&segue->notify);
	if (segue->barrier_fd < 0 || sg_watch_add(segue, &segue->barrier_watch, segue->barrier_fd,
	                                          EPOLLIN, segue, barrier_ready) < 0)
		segue->barrier_fd = sg_fd_close(segue->barrier_fd);
}

void sg_manager_resumed(struct segue *segue)
{
	sg_watch_remove(segue, &segue->barrier_watch);
	segue->barrier_fd = sg_fd_close(segue->barrier_fd);
	sg_manager_serving(segue);
}

void sg_manager_stopping(struct segue *segue)
{
	tell(segue, "STOPPING=1\nSTATUS=Stopping");
	extend_begin(segue);
}

bool sg_manager_settled(struct segue *segue)
{
	return segue->barrier_fd < 0;
}

/*
 * At a stop the main process stays until no older generation drains any more: systemd ends
 * whatever is left of the unit as soon as it has gone.
 */
bool sg_manager_stays(struct segue *segue)
{
	return segue->state == SG_STATE_STOPPING && segue->owner && segue->notify.fd >= 0 &&
	       sg_peer_count(segue, PEER_PREDECESSOR) > 0;
}

/* Has the reason to stay gone, a generation or the time to drain? */
void sg_manager_look(struct segue *segue)
{
	if (!segue->empty_waits || sg_manager_stays(segue))
		return;
	segue->empty_waits = false;
	sg_machine_post(segue, SG_EVENT_EMPTY);
}

int64_t sg_manager_due(struct segue *segue)
{
	int64_t a = segue->watchdog_due_ms, b = segue->extend_due_ms;

	return a < 0 ? b : b < 0 || a < b ? a : b;
}

void sg_manager_timer(struct segue *segue, int64_t now_ms)
{
	if (segue->watchdog_due_ms >= 0 && segue->watchdog_due_ms <= now_ms) {
		tell(segue, "WATCHDOG=1");
		segue->watchdog_due_ms = now_ms + segue->notify.watchdog_us / 2000;
	}
	if (segue->extend_due_ms >= 0 && segue->extend_due_ms <= now_ms) {
		tell(segue, "EXTEND_TIMEOUT_USEC=" EXTEND_BY_US);
		segue->extend_due_ms = now_ms + EXTEND_EVERY_MS;
	}
}

int segue_status(struct segue *segue, const char *text)
{
	char line[SG_ERROR_MAX];
	int r;

	snprintf(line, sizeof(line), "STATUS=%s", text);
	for (char *at = line; *at != '\0'; at++)
		if (*at == '\n')
			*at = ' ';
	r = sg_notify_send(&segue->notify, line, -1);
	return r < 0 ? sg_fail(segue, r, "the service manager does not listen") : 0;
}
