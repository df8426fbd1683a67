/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's side of the relay. What the process is to know is kept here as state, and
 * told when its socket has room (push()); to a process that replaces a dead one everything is
 * told again. Nothing here blocks but relay_close().
 */
#include "segue/relay_message.h"

#include "core/fd.h"
#include "segue/printable.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAIL_MS   1000
#define CLOSE_MS  10000 /* the process gives up an output that takes nothing much earlier */
#define KILL_MS   1000
#define REVIVE_MS 1000 /* before another, where the last did not live so long */
#define AGAIN_MS  100  /* where a message could not be sent for want of something else than room */

struct worker {
	struct worker *next;
	uint64_t key;
	char tag[64];
	int fds[2]; /* reading ends; -1: it has none */
	pid_t pid;
	int64_t linger_ms;
	bool ask, forget;                 /* to be told */
	bool told, told_pid, told_forget; /* to this process */
};

/* Somebody who waits for a tail. */
struct tail {
	uv_timer_t timer;
	struct tail *next;
	struct relay *relay;
	uint64_t key;
	void (*done)(void *ctx, const char *text);
	void *ctx;
};

struct relay {
	uv_loop_t *loop;
	enum config_log mode;
	char *log_file;
	pid_t pid; /* 0: none */
	int pidfd, fd;
	uv_poll_t *poll;
	uv_timer_t timer;
	int64_t started_ms;
	bool reopen;
	struct worker *first;
	struct tail *tails;
};

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_timer(uv_timer_t *timer);

static void free_handle(uv_handle_t *handle)
{
	free(handle);
}

/* Telling. */

static int tell(struct relay *relay, struct worker *worker, enum relay_verb verb)
{
	struct relay_message message = {
		.verb = verb, .key = worker->key, .pid = worker->pid, .linger_ms = worker->linger_ms
	};
	bool introduce = verb == RELAY_WORKER;

	if (introduce)
		snprintf(message.text, sizeof(message.text), "%s", worker->tag);
	return relay_message_send(relay->fd, &message,
	                          introduce && worker->fds[0] >= 0 ? worker->fds : NULL);
}

static int tell_worker(struct relay *relay, struct worker *worker)
{
	int r = 0;

	if (!worker->told) {
		r = tell(relay, worker, RELAY_WORKER);
		worker->told = r == 0;
	}
	if (r == 0 && worker->pid != 0 && !worker->told_pid) {
		r = tell(relay, worker, RELAY_PID);
		worker->told_pid = r == 0;
	}
	if (r == 0 && worker->ask) {
		r = tell(relay, worker, RELAY_TAIL);
		worker->ask = r != 0;
	}
	if (r == 0 && worker->forget && !worker->told_forget) {
		r = tell(relay, worker, RELAY_FORGET);
		worker->told_forget = r == 0;
	}
	return r;
}

static int tell_all(struct relay *relay)
{
	struct relay_message message = { .verb = RELAY_REOPEN };
	int r = 0;

	if (relay->reopen) {
		r = relay_message_send(relay->fd, &message, NULL);
		relay->reopen = r != 0;
	}
	for (struct worker *w = relay->first; w != NULL && r == 0; w = w->next)
		r = tell_worker(relay, w);
	return r;
}

static void push(struct relay *relay)
{
	int events = UV_READABLE, r;

	if (relay->fd < 0)
		return;
	r = tell_all(relay);
	if (r == -EAGAIN)
		events |= UV_WRITABLE;
	else if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		uv_timer_start(&relay->timer, on_timer, AGAIN_MS, 0);
	uv_poll_start(relay->poll, events, on_poll);
}

/* Tails. */

static void end_tail(struct tail *tail, const char *text)
{
	uv_close((uv_handle_t *)&tail->timer, free_handle);
	tail->done(tail->ctx, text);
}

static void unlink_tail(struct relay *relay, const struct tail *tail)
{
	struct tail **at = &relay->tails;

	while (*at != tail)
		at = &(*at)->next;
	*at = tail->next;
}

static void on_tail_late(uv_timer_t *timer)
{
	struct tail *tail = timer->data;

	unlink_tail(tail->relay, tail);
	end_tail(tail, "");
}

/* The receivers may ask again: for a tail of their own, not for this one. */
static void end_tails(struct relay *relay, uint64_t key, const char *text)
{
	struct tail *due = NULL, **at = &relay->tails, *tail;

	while ((tail = *at) != NULL) {
		if (tail->key != key) {
			at = &tail->next;
			continue;
		}
		*at = tail->next;
		tail->next = due;
		due = tail;
	}
	while ((tail = due) != NULL) {
		due = tail->next;
		end_tail(tail, text);
	}
}

/* From the beginning of a line, and fit to be shown. */
static void hear_tail(struct relay *relay, struct relay_message *message)
{
	char *text = message->text, *line;
	size_t len = strlen(text);

	line = len >= RELAY_TAIL_MAX ? strchr(text, '\n') : NULL;
	if (line != NULL && line[1] != '\0')
		text = line + 1;
	printable_make(text, strlen(text), true);
	end_tails(relay, message->key, text);
}

/* Workers. */

static struct worker *find_worker(const struct relay *relay, uint64_t key)
{
	struct worker *worker = relay->first;

	while (worker != NULL && worker->key != key)
		worker = worker->next;
	return worker;
}

static void free_worker(struct worker *worker)
{
	sg_fd_close(worker->fds[0]);
	sg_fd_close(worker->fds[1]);
	free(worker);
}

static void remove_worker(struct relay *relay, uint64_t key)
{
	struct worker **at = &relay->first, *worker;

	while (*at != NULL && (*at)->key != key)
		at = &(*at)->next;
	worker = *at;
	if (worker == NULL)
		return;
	*at = worker->next;
	free_worker(worker);
}

/* The writing end blocks, as standard output does; the reading end does not. */
static int make_pipe(int *ret_read, int *ret_write)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	*ret_read = sg_fd_above_stdio_take(fds[0]);
	*ret_write = sg_fd_above_stdio_take(fds[1]);
	if (*ret_read >= 0 && *ret_write >= 0 && fcntl(*ret_read, F_SETFL, O_NONBLOCK) == 0)
		return 0;
	sg_fd_close(*ret_read);
	sg_fd_close(*ret_write);
	return -EMFILE;
}

static int make_pipes(struct worker *worker, int ret_fds[2])
{
	int r = make_pipe(&worker->fds[0], &ret_fds[0]);

	if (r < 0)
		return r;
	r = make_pipe(&worker->fds[1], &ret_fds[1]);
	if (r < 0) {
		sg_fd_close(worker->fds[0]);
		sg_fd_close(ret_fds[0]);
	}
	return r;
}

int relay_worker(struct relay *relay, uint64_t key, const char *tag, int ret_fds[2])
{
	struct worker *worker = calloc(1, sizeof(*worker)), **end = &relay->first;
	int fds[2] = { -1, -1 }, r = 0;

	if (worker == NULL)
		return -ENOMEM;
	worker->fds[0] = worker->fds[1] = -1;
	if (relay->mode != CONFIG_LOG_DIRECT)
		r = make_pipes(worker, fds);
	if (r < 0) {
		free(worker);
		return r;
	}
	worker->key = key;
	snprintf(worker->tag, sizeof(worker->tag), "%s", tag);
	while (*end != NULL)
		end = &(*end)->next;
	*end = worker;
	push(relay);
	memcpy(ret_fds, fds, sizeof(fds));
	return 0;
}

void relay_pid(struct relay *relay, uint64_t key, pid_t pid, int64_t linger_ms)
{
	struct worker *worker = find_worker(relay, key);

	if (worker == NULL)
		return;
	worker->pid = pid;
	worker->linger_ms = linger_ms;
	push(relay);
}

void relay_forget(struct relay *relay, uint64_t key)
{
	struct worker *worker = find_worker(relay, key);

	if (worker == NULL)
		return;
	worker->forget = true;
	push(relay);
}

void relay_tail(struct relay *relay, uint64_t key, void (*done)(void *ctx, const char *text),
                void *ctx)
{
	struct worker *worker = find_worker(relay, key);
	struct tail *tail = calloc(1, sizeof(*tail));

	if (tail == NULL) {
		done(ctx, "");
		return;
	}
	*tail = (struct tail){
		.relay = relay, .next = relay->tails, .key = key, .done = done, .ctx = ctx
	};
	relay->tails = tail;
	uv_timer_init(relay->loop, &tail->timer);
	tail->timer.data = tail;
	uv_timer_start(&tail->timer, on_tail_late, worker != NULL ? TAIL_MS : 0, 0);
	if (worker == NULL)
		return;
	worker->ask = true;
	push(relay);
}

void relay_reopen(struct relay *relay)
{
	relay->reopen = relay->log_file != NULL;
	push(relay);
}

/* The process. */

static void let_go(struct relay *relay)
{
	if (relay->poll != NULL)
		uv_close((uv_handle_t *)relay->poll, free_handle);
	relay->poll = NULL;
	relay->fd = sg_fd_close(relay->fd);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct relay *relay = poll->data;
	struct relay_message message;
	int fds[2], r;

	while (relay->fd >= 0 && (r = relay_message_receive(relay->fd, &message, fds)) != 0) {
		/* It has died: relay_died() will say so. */
		if (r < 0)
			let_go(relay);
		else if (message.verb == RELAY_TEXT)
			hear_tail(relay, &message);
		else if (message.verb == RELAY_GONE)
			remove_worker(relay, message.key);
	}
	push(relay);
}

static int make_channel(struct relay *relay, int *ret_theirs)
{
	int fds[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	relay->fd = sg_fd_above_stdio_take(fds[0]);
	*ret_theirs = sg_fd_above_stdio_take(fds[1]);
	relay->poll = calloc(1, sizeof(*relay->poll));
	r = relay->fd < 0 || *ret_theirs < 0 ? -EMFILE : relay->poll == NULL ? -ENOMEM : 0;
	if (r == 0)
		r = uv_poll_init(relay->loop, relay->poll, relay->fd);
	if (r == 0) {
		relay->poll->data = relay;
		return 0;
	}
	free(relay->poll);
	relay->poll = NULL;
	relay->fd = sg_fd_close(relay->fd);
	*ret_theirs = sg_fd_close(*ret_theirs);
	return r;
}

static int fork_process(struct relay *relay, int theirs, int log_fd)
{
	sigset_t all, before;
	pid_t pid;
	int error;

	/* libuv's handlers would write to the supervisor's loop from the process as well. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	error = errno;
	if (pid == 0)
		relay_process_run(theirs, relay->mode, log_fd, relay->log_file);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return -error;
	relay->pidfd = sg_pidfd_open(pid);
	if (relay->pidfd < 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return relay->pidfd;
	}
	relay->pid = pid;
	relay->started_ms = sg_now_ms();
	return 0;
}

/* log_fd is borrowed. */
static int start(struct relay *relay, int log_fd)
{
	SG_CLEANUP(sg_fd_cleanup) int theirs = -1;
	int r = make_channel(relay, &theirs);

	if (r < 0)
		return r;
	r = fork_process(relay, theirs, log_fd);
	if (r < 0) {
		let_go(relay);
		return r;
	}
	for (struct worker *w = relay->first; w != NULL; w = w->next)
		w->told = w->told_pid = w->told_forget = false;
	for (struct tail *t = relay->tails; t != NULL; t = t->next) {
		struct worker *worker = find_worker(relay, t->key);

		if (worker != NULL)
			worker->ask = true;
	}
	push(relay);
	return 0;
}

/* Where the log file cannot be opened any more, standard output and error are what is left. */
static void revive(struct relay *relay)
{
	SG_CLEANUP(sg_fd_cleanup)
	int log_fd = relay->log_file != NULL ? relay_log_open(relay->log_file) : -1;

	if (start(relay, log_fd < 0 ? -1 : log_fd) < 0)
		uv_timer_start(&relay->timer, on_timer, REVIVE_MS, 0);
}

static void on_timer(uv_timer_t *timer)
{
	struct relay *relay = timer->data;

	if (relay->pid == 0)
		revive(relay);
	else
		push(relay);
}

bool relay_is(const struct relay *relay, pid_t pid)
{
	return pid != 0 && relay->pid == pid;
}

void relay_died(struct relay *relay)
{
	int64_t lived_ms = sg_now_ms() - relay->started_ms;
	struct relay_message message;
	int fds[2];

	/* What it had said before counts: a worker that it has forgotten was read to its end. */
	while (relay->fd >= 0 && relay_message_receive(relay->fd, &message, fds) > 0) {
		if (message.verb == RELAY_TEXT)
			hear_tail(relay, &message);
		else if (message.verb == RELAY_GONE)
			remove_worker(relay, message.key);
	}
	let_go(relay);
	relay->pidfd = sg_fd_close(relay->pidfd);
	relay->pid = 0;
	if (lived_ms < REVIVE_MS)
		uv_timer_start(&relay->timer, on_timer, REVIVE_MS, 0);
	else
		revive(relay);
}

static int open_process(struct relay *relay, const char *log_file, char *reason, size_t reason_size)
{
	SG_CLEANUP(sg_fd_cleanup) int log_fd = -1;
	int r;

	if (log_file != NULL) {
		log_fd = relay_log_open(log_file);
		relay->log_file = strdup(log_file);
		if (log_fd < 0) {
			snprintf(reason, reason_size, "the log file %s: %s (see --log-file)",
			         log_file, strerror(-log_fd));
			return log_fd;
		}
	}
	r = start(relay, log_fd);
	if (r < 0)
		snprintf(reason, reason_size, "the relay of the workers' output: %s", strerror(-r));
	return r;
}

static void on_closed(uv_handle_t *handle)
{
	struct relay *relay = handle->data;

	free(relay->log_file);
	free(relay);
}

int relay_open(struct relay **ret_relay, uv_loop_t *loop, enum config_log mode,
               const char *log_file, char *reason, size_t reason_size)
{
	struct relay *relay = calloc(1, sizeof(*relay));
	int r;

	if (relay == NULL) {
		snprintf(reason, reason_size, "the relay: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	relay->loop = loop;
	relay->mode = mode;
	relay->pidfd = relay->fd = -1;
	uv_timer_init(loop, &relay->timer);
	relay->timer.data = relay;
	r = open_process(relay, mode != CONFIG_LOG_DIRECT ? log_file : NULL, reason, reason_size);
	if (r < 0) {
		uv_close((uv_handle_t *)&relay->timer, on_closed);
		return r;
	}
	*ret_relay = relay;
	return 0;
}

/* Closing. */

static int until(int64_t deadline_ms)
{
	int64_t left = deadline_ms - sg_now_ms();

	return left > 0 ? (int)left : 0;
}

static void tell_to_close(struct relay *relay, int64_t deadline_ms)
{
	struct relay_message message = { .verb = RELAY_CLOSE };
	struct pollfd poller = { .fd = relay->fd, .events = POLLOUT };
	int r;

	do {
		r = tell_all(relay);
		if (r == 0)
			r = relay_message_send(relay->fd, &message, NULL);
	} while (r == -EAGAIN && poll(&poller, 1, until(deadline_ms)) != 0);
}

static void end_process(struct relay *relay)
{
	int64_t deadline_ms = sg_now_ms() + CLOSE_MS;
	struct pollfd poller = { .fd = relay->pidfd, .events = POLLIN };
	int status, n;

	if (relay->fd >= 0)
		tell_to_close(relay, deadline_ms);
	while ((n = poll(&poller, 1, until(deadline_ms))) < 0 && errno == EINTR)
		;
	if (n <= 0) {
		(void)sg_pidfd_signal(relay->pidfd, SIGKILL);
		/* On a disk that does not answer not even that ends it. */
		deadline_ms = sg_now_ms() + KILL_MS;
		while (poll(&poller, 1, until(deadline_ms)) < 0 && errno == EINTR)
			;
	}
	(void)sg_pidfd_reap(relay->pidfd, &status);
	relay->pidfd = sg_fd_close(relay->pidfd);
	relay->pid = 0;
}

void relay_close(struct relay *relay)
{
	struct worker *worker;
	struct tail *tail;

	if (relay == NULL)
		return;
	/* It has died and its successor was still to come: somebody has to read the rest. */
	if (relay->pid == 0 && relay->first != NULL)
		revive(relay);
	if (relay->pid != 0)
		end_process(relay);
	let_go(relay);
	while ((tail = relay->tails) != NULL) {
		relay->tails = tail->next;
		end_tail(tail, "");
	}
	while ((worker = relay->first) != NULL) {
		relay->first = worker->next;
		free_worker(worker);
	}
	uv_close((uv_handle_t *)&relay->timer, on_closed);
}
