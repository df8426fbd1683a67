/* SPDX-License-Identifier: MIT */
/*
 * The handle: opening, closing, and the dispatch that everything else hangs on. One epoll
 * descriptor holds whatever the handle waits for; the application polls that one.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CHANNEL_VARIABLE "SEGUE_CHANNEL"

#define SAME_NUMBER(name, text, limit)                            \
	_Static_assert((int)SEGUE_##name == (int)SG_STATE_##name, \
	               "segue.h and the table number the states alike");
SG_STATES(SAME_NUMBER)
_Static_assert(SEGUE_LISTENERS_MAX == SG_WIRE_LISTENERS, "READY names every listener");
_Static_assert(SEGUE_CONNECTION_MAX + 256 < SG_WIRE_BODY_MAX, "a connection fits in a message");

/* The one handle of the process. */
static struct segue *the_handle;

int sg_fail(struct segue *segue, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(segue->error, sizeof(segue->error), format, args);
	va_end(args);
	return error;
}

int sg_watch_add(struct segue *segue, struct watch *watch, int fd, uint32_t events, void *owner,
                 void (*ready)(struct segue *, struct watch *, uint32_t))
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	watch->fd = fd;
	watch->owner = owner;
	watch->ready = ready;
	if (epoll_ctl(segue->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	watch->fd = -1;
	return -errno;
}

void sg_watch_change(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	(void)epoll_ctl(segue->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

/* Always before the close: the registration would survive it while another process holds the
 * same description. */
void sg_watch_remove(struct segue *segue, struct watch *watch)
{
	if (watch->fd < 0 || watch->ready == NULL)
		return;
	(void)epoll_ctl(segue->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
}

void sg_timer_arm(struct segue *segue)
{
	int64_t due = sg_manager_due(segue);
	struct itimerspec when = { 0 };

	if (segue->retry_due_ms >= 0 && (due < 0 || segue->retry_due_ms < due))
		due = segue->retry_due_ms;
	if (segue->progress.due_ms >= 0 && (due < 0 || segue->progress.due_ms < due))
		due = segue->progress.due_ms;
	if (segue->lost_due_ms >= 0 && (due < 0 || segue->lost_due_ms < due))
		due = segue->lost_due_ms;
	if (segue->deadline_ms >= 0 && (due < 0 || segue->deadline_ms < due))
		due = segue->deadline_ms;
	if (due >= 0) {
		due = due > 0 ? due : 1;
		when.it_value.tv_sec = due / 1000;
		when.it_value.tv_nsec = due % 1000 * 1000000;
	}
	(void)timerfd_settime(segue->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void drain_counter(int fd)
{
	uint64_t count;

	(void)!read(fd, &count, sizeof(count));
}

static void timer_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	int64_t now = sg_now_ms();

	(void)events;
	drain_counter(watch->fd);
	sg_peer_look(segue, false);
	sg_machine_timer(segue, now);
	sg_manager_timer(segue, now);
	sg_peer_retry(segue, now);
	sg_supervised_timer(segue, now);
	sg_timer_arm(segue);
}

static void wake_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	(void)events;
	drain_counter(watch->fd);
	sg_signals_deliver(segue);
	sg_handover_pump(segue);
}

void segue_wake(struct segue *segue)
{
	uint64_t one = 1;
	int saved = errno;

	(void)!write(segue->wake_fd, &one, sizeof(one));
	errno = saved;
}

int segue_dispatch(struct segue *segue, struct segue_event *ret_event)
{
	struct epoll_event event;
	int found = 0;

	segue->dispatching = true;
	for (;;) {
		struct watch *watch;

		sg_peer_sweep(segue);
		if (sg_queue_pop(segue, ret_event)) {
			found = 1;
			break;
		}
		/* One at a time: what one handler removes, the next must not find. */
		if (epoll_wait(segue->epoll_fd, &event, 1, 0) <= 0)
			break;
		watch = event.data.ptr;
		sg_signals_deliver(segue);
		/* The delivery may have ended what the event is about. */
		if (watch->fd >= 0)
			watch->ready(segue, watch, event.events);
	}
	segue->dispatching = false;
	return found;
}

void segue_options_init(struct segue_options *options)
{
	*options = (struct segue_options){ .size = sizeof(*options),
		                           .upgrade_signal = SIGUSR2,
		                           .stop_signals = { SIGTERM, SIGINT },
		                           .now_signal = SEGUE_NO_SIGNAL,
		                           .start_timeout_ms = 30000,
		                           .drain_timeout_ms = 30000,
		                           .check_timeout_ms = 10000 };
}

/* A program that was built against an older header has a shorter structure. */
static int copy_options(struct segue *segue, const struct segue_options *options)
{
	size_t size;

	segue_options_init(&segue->options);
	if (options == NULL)
		return 0;
	size = options->size;
	if (size < offsetof(struct segue_options, start_timeout_ms) || size > 65536)
		return sg_fail(segue, -EINVAL,
		               "the options were not set up by segue_options_init()");
	memcpy(&segue->options, options,
	       size < sizeof(segue->options) ? size : sizeof(segue->options));
	if (segue->options.probation_ms < 0 || segue->options.probation_ms > 86400000)
		return sg_fail(segue, -EINVAL, "a probation is 0 ms to one day");
	if (segue->options.start_timeout_ms > INT32_MAX ||
	    segue->options.drain_timeout_ms > INT32_MAX ||
	    segue->options.check_timeout_ms > INT32_MAX)
		return sg_fail(segue, -EINVAL, "a deadline is below 24 days, or SEGUE_FOREVER");
	if (segue->options.pid_file == NULL)
		return 0;
	segue->pid_file_path = strdup(segue->options.pid_file);
	if (segue->pid_file_path == NULL)
		return sg_fail(segue, -ENOMEM, "no memory");
	if (strlen(segue->pid_file_path) >= SG_WIRE_TEXT_MAX)
		return sg_fail(segue, -ENAMETOOLONG, "the pid file's path is too long");
	return 0;
}

/* argv[0] and the check's arguments, in memory of our own. */
static int copy_check(struct segue *segue)
{
	const char *const *arguments = segue->options.check_arguments;
	size_t count = 0;

	if (arguments == NULL)
		return 0;
	while (arguments[count] != NULL)
		count++;
	segue->check_argv = calloc(count + 2, sizeof(char *));
	if (segue->check_argv == NULL)
		return -ENOMEM;
	segue->check_argv[0] = strdup(segue->origin.argv[0]);
	for (size_t i = 0; i < count; i++)
		segue->check_argv[i + 1] = strdup(arguments[i]);
	for (size_t i = 0; i <= count; i++)
		if (segue->check_argv[i] == NULL)
			return -ENOMEM;
	return 0;
}

static int probe_kernel(struct segue *segue)
{
	segue->self_pidfd = sg_pidfd_open(getpid());
	if (segue->self_pidfd < 0)
		return sg_fail(segue, -ENOSYS, "Segue needs Linux 5.14 or newer: pidfd_open: %s",
		               strerror(-segue->self_pidfd));
	if (syscall(SYS_close_range, ~0U, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return sg_fail(segue, -ENOSYS, "Segue needs Linux 5.14 or newer: close_range: %s",
		               strerror(errno));
	return 0;
}

static int open_descriptors(struct segue *segue)
{
	int r;

	segue->epoll_fd = sg_fd_above_stdio_take(epoll_create1(EPOLL_CLOEXEC));
	segue->wake_fd = sg_fd_above_stdio_take(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	segue->timer_fd =
		sg_fd_above_stdio_take(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	if (segue->epoll_fd < 0 || segue->wake_fd < 0 || segue->timer_fd < 0)
		return sg_fail(segue, -EMFILE, "no descriptors left; raise RLIMIT_NOFILE");
	r = sg_watch_add(segue, &segue->wake_watch, segue->wake_fd, EPOLLIN, segue, wake_ready);
	if (r == 0)
		r = sg_watch_add(segue, &segue->timer_watch, segue->timer_fd, EPOLLIN, segue,
		                 timer_ready);
	return r < 0 ? sg_fail(segue, r, "epoll: %s", strerror(-r)) : 0;
}

/* The channel that a predecessor or a supervisor left open for us, -1: none. It leaves the
 * environment. */
static int take_channel(struct segue *segue)
{
	const char *text = getenv(CHANNEL_VARIABLE);
	int type = 0, fd;
	socklen_t len = sizeof(type);
	char *end;
	long number;

	if (text == NULL)
		return -1;
	number = strtol(text, &end, 10);
	fd = *text != '\0' && *end == '\0' && number > 2 && number < INT32_MAX ? (int)number : -1;
	unsetenv(CHANNEL_VARIABLE);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
	    type != SOCK_SEQPACKET) {
		(void)sg_fail(segue, -EPROTO,
		              CHANNEL_VARIABLE
		              " names no channel; it is set by a predecessor or a supervisor only");
		return -EPROTO;
	}
	(void)sg_fd_set_cloexec(fd, 1);
	return fd;
}

static int open_steps(struct segue *segue, const struct segue_options *options)
{
	int channel, r = copy_options(segue, options);

	/* Before anything is opened: what is not passed must not be one of our own. */
	if (r == 0)
		r = sg_listeners_from_manager(segue);
	if (r == 0)
		r = probe_kernel(segue);
	if (r == 0)
		r = open_descriptors(segue);
	if (r < 0)
		return r;
	channel = take_channel(segue);
	if (channel < -1)
		return channel;
	/* The environment of every successor: without what was meant for this process only. */
	if (sg_origin_take(&segue->origin) < 0)
		r = sg_fail(
			segue, -ENOMEM,
			"the arguments and the environment could not be read; is /proc mounted?");
	if (r == 0 && copy_check(segue) < 0)
		r = sg_fail(segue, -ENOMEM, "no memory for the check's arguments");
	if (r < 0) {
		sg_fd_close(channel);
		return r;
	}
	if (channel >= 0)
		r = sg_upstream_join(segue, channel);
	if (r == 0)
		r = sg_manager_open(segue);
	if (r == 0 && sg_signals_install(segue) < 0)
		r = sg_fail(segue, -EINVAL, "a signal of the options cannot be caught");
	return r;
}

/* A successor that gives up while it starts: its predecessor reports the reason. */
static void say_failed(struct segue *segue)
{
	struct sg_message failed = { .type = SG_MESSAGE_FAILED, .error = (uint32_t)segue->unfit };
	struct peer *peer = sg_peer_upstream(segue);

	if (peer == NULL || segue->unfit == 0 || segue->state != SG_STATE_STARTING)
		return;
	snprintf(failed.text, sizeof(failed.text), "%.500s", segue->error);
	(void)sg_peer_send(peer, &failed, NULL, 0);
	segue->unfit = 0;
}

int segue_open(struct segue **ret_segue, const struct segue_options *options)
{
	struct segue *segue;
	int r;

	*ret_segue = NULL;
	if (the_handle != NULL)
		return -EALREADY;
	segue = calloc(1, sizeof(*segue));
	if (segue == NULL)
		return -ENOMEM;
	*ret_segue = the_handle = segue;
	segue->epoll_fd = segue->wake_fd = segue->timer_fd = segue->self_pidfd = -1;
	segue->wake_watch.fd = segue->timer_watch.fd = segue->barrier_watch.fd = -1;
	segue->attempt.process.pidfd = segue->attempt.process.exec_fd = -1;
	segue->attempt.pidfd_watch.fd = segue->attempt.exec_watch.fd = -1;
	segue->notify.fd = segue->barrier_fd = -1;
	segue->pidfile.dir_fd = segue->pidfile.lock_fd = -1;
	segue->origin.directory_fd = -1;
	segue->watchdog_due_ms = segue->extend_due_ms = segue->deadline_ms = -1;
	segue->retry_due_ms = segue->progress.due_ms = segue->lost_due_ms = -1;
	segue->progress.connections = SG_WIRE_UNKNOWN;
	segue->start_ms = SEGUE_FOREVER;
	segue->events_last = &segue->events_first;
	segue->generation = 1;
	segue->state = SG_STATE_STARTING;
	segue->state_since_ms = sg_now_ms();
	r = open_steps(segue, options);
	if (r < 0) {
		segue->unfit = -r;
		say_failed(segue);
		return r;
	}
	segue->opened = true;
	segue->owner = sg_peer_upstream(segue) == NULL && !segue->supervised;
	if (!segue->owner && segue->start_ms >= 0) {
		segue->deadline_ms = segue->state_since_ms + segue->start_ms;
		sg_timer_arm(segue);
	}
	return 0;
}

/* The last of the service: at the final stop, or because nothing ever came to serve. Under a
 * supervisor it is the supervisor; of orphans that serve on, nobody knows. */
static bool is_last(struct segue *segue)
{
	if (segue->supervised &&
	    (!sg_supervised_alone(segue) || (segue->orphans_serve && segue->workers > 1)))
		return false;
	return segue->owner && (segue->state == SG_STATE_GONE || !segue->opened ||
	                        segue->state == SG_STATE_STARTING);
}

void segue_close(struct segue *segue)
{
	bool last;

	if (segue == NULL)
		return;
	/* Before the word that makes the predecessor kill. */
	if (!segue->served)
		sg_listeners_unbind(segue);
	say_failed(segue);
	last = is_last(segue);
	sg_signals_restore(segue);
	sg_handover_done(segue);
	sg_attempt_done(segue);
	sg_peer_done_all(segue);
	sg_queue_done(segue);
	sg_state_done(segue);
	sg_listeners_done(segue, last);
	sg_manager_close(segue);
	sg_origin_done(&segue->origin);
	for (size_t i = 0; segue->check_argv != NULL && segue->check_argv[i] != NULL; i++)
		free(segue->check_argv[i]);
	free(segue->check_argv);
	free(segue->pid_file_path);
	sg_fd_close(segue->timer_fd);
	sg_fd_close(segue->wake_fd);
	sg_fd_close(segue->epoll_fd);
	sg_fd_close(segue->self_pidfd);
	if (the_handle == segue)
		the_handle = NULL;
	free(segue);
}

const char *segue_error(const struct segue *segue)
{
	return segue != NULL ? segue->error : "";
}

int segue_fd(const struct segue *segue)
{
	return segue->epoll_fd;
}

int segue_ready(struct segue *segue)
{
	int r;

	if (segue->said_ready)
		return sg_fail(segue, -EALREADY, "segue_ready() was called before");
	r = sg_listeners_check_claimed(segue);
	segue->unfit = r < 0 ? -r : 0;
	if (r < 0)
		return r;
	segue->said_ready = true;
	sg_machine_post(segue, segue->supervised || sg_peer_upstream(segue) != NULL
	                               ? SG_EVENT_READY
	                               : SG_EVENT_READY_ALONE);
	return 0;
}

/* Those that still drain: a successor would have to be known to each of them. */
static int predecessors_forbid(struct segue *segue)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && peer->broken && !peer->doomed)
			return sg_fail(segue, -EBUSY,
			               "upgrade refused: generation %llu (pid %ld) still drains "
			               "and cannot "
			               "be told of another one; wait for its end or end it",
			               (unsigned long long)peer->generation, (long)peer->pid);
	if (sg_peer_count(segue, PEER_PREDECESSOR) >= SEGUE_PREDECESSORS_MAX)
		return sg_fail(segue, -EBUSY,
		               "upgrade refused: %d older generations still drain (see "
		               "--drain-timeout); generation %llu serves",
		               SEGUE_PREDECESSORS_MAX, (unsigned long long)segue->generation);
	return 0;
}

int segue_upgrade(struct segue *segue)
{
	const char *forbidden = segue->supervised ? NULL : sg_manager_forbids();
	char reason[SG_ERROR_MAX / 2] = "";

	if (segue->options.never_upgrade)
		forbidden = "this program does not upgrade itself";
	if (forbidden != NULL)
		return sg_fail(segue, -EPERM, "upgrade refused: %s", forbidden);
	if (sg_machine_refuses(segue, reason, sizeof(reason)))
		return sg_fail(segue, -EBUSY, "upgrade refused: %s", reason);
	if (!segue->supervised && predecessors_forbid(segue) < 0)
		return -EBUSY;
	if (segue->options.may_upgrade != NULL &&
	    segue->options.may_upgrade(segue->options.ctx, reason, sizeof(reason)) != 0)
		return sg_fail(segue, -ECANCELED, "upgrade refused by the program: %s",
		               reason[0] != '\0' ? reason : "no reason given");
	if (segue->supervised)
		return sg_supervised_ask(segue);
	sg_machine_post(segue, SG_EVENT_UPGRADE);
	return 0;
}

int segue_stop(struct segue *segue, bool now)
{
	bool second = segue->stop_noted;

	segue->stop_noted = true;
	sg_machine_post(segue, now || second ? SG_EVENT_STOP_NOW : SG_EVENT_STOP);
	return 0;
}

int segue_cut(struct segue *segue)
{
	struct sg_step step = sg_lifecycle_step(segue->state, SG_EVENT_CUT);

	if (step.action == SG_ACTION_IGNORE)
		return sg_fail(segue, -EINVAL, "no drain is running");
	sg_machine_post(segue, SG_EVENT_CUT);
	return 0;
}

int segue_drained(struct segue *segue)
{
	if (sg_handover_pending(segue))
		return sg_fail(segue, -EBUSY,
		               "a connection has no verdict yet, or waits in an event");
	segue->empty_waits = sg_manager_stays(segue);
	if (!segue->empty_waits)
		sg_machine_post(segue, SG_EVENT_EMPTY);
	return 0;
}

uint64_t segue_generation(const struct segue *segue)
{
	return segue->generation;
}

enum segue_state segue_current_state(const struct segue *segue)
{
	return (enum segue_state)segue->state;
}

const char *segue_state_name(enum segue_state state)
{
	return sg_state_text((enum sg_state)state);
}

const char *segue_outcome_name(enum segue_outcome outcome)
{
	switch (outcome) {
	case SEGUE_UPGRADED:
		return "upgraded";
	case SEGUE_FAILED:
		return "failed";
	case SEGUE_REFUSED:
		return "refused";
	case SEGUE_TAKEN_BACK:
		return "taken-back";
	}
	return "?";
}
