/* SPDX-License-Identifier: MIT */
/*
 * See ready.h. One attempt at a time, each with a limit of its own; between two attempts the
 * timer runs. What an attempt needs is in one struct attempt, freed by libuv's callback, so
 * that a probe can end in the middle of one.
 *
 * The exit status of a command comes through a pipe and not from its being reaped: the
 * supervisor may be pid 1, where another hand reaps everything.
 */
#include "segue/ready.h"

#include "core/fd.h"
#include "segue/probe.h"
#include "segue/words.h"

#include <errno.h>
#include <fcntl.h>
#include <llhttp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS    200
#define AGAIN_MS   100  /* between two looks at an address */
#define COMMAND_MS 250  /* between two runs of a command */
#define REAP_MS    1000 /* for one that is killed, when the loop ends */
#define ATTEMPT_MS 5000
#define HEAD_MAX   (64 << 10)
#define TEXT_MAX   8192

/* One connection, one run of a command, or the wait for the newline. */
struct attempt {
	uv_poll_t poll;
	struct ready *ready; /* NULL: given up */
	int fd;              /* the socket, the pipe, or the pidfd */
	int result_fd;       /* of a command */
	pid_t pid;
	size_t received;
	llhttp_t parser;
	int status; /* of HTTP; 0: not known yet */
	struct attempt *next;
};

struct ready {
	uv_loop_t *loop;
	uv_timer_t timer;
	enum config_ready mode;
	char *argument, *directory;
	int inherited; /* the descriptor's number in the worker */
	int64_t delay_ms;
	int fd; /* the reading end, until it is watched */
	struct ready_target target;
	char **env;
	struct probe probe;
	struct attempt *attempt;
	unsigned int attempts;
	ready_done done;
	void *ctx;
	char last[256];
};

__attribute__((format(printf, 2, 3))) static void note(struct ready *ready, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(ready->last, sizeof(ready->last), format, list);
	va_end(list);
}

const char *ready_last(const struct ready *ready)
{
	return ready != NULL ? ready->last : "";
}

/* Replaces the names in braces. -ENAMETOOLONG. */
static int expand(char *ret_text, size_t size, const char *text, const struct ready_target *target)
{
	const char *const names[] = { "{generation}", "{worker}", "{pid}" };
	const unsigned long long values[] = { target->generation, target->worker,
		                              (unsigned long long)target->pid };
	size_t at = 0;

	while (*text != '\0') {
		size_t taken = 0;

		for (size_t i = 0; i < 3 && taken == 0; i++) {
			if (strncmp(text, names[i], strlen(names[i])) != 0)
				continue;
			taken = strlen(names[i]);
			at += (size_t)snprintf(ret_text + at, size - at, "%llu", values[i]);
		}
		if (taken == 0)
			ret_text[at++] = *text;
		text += taken > 0 ? taken : 1;
		if (at + 24 > size)
			return -ENAMETOOLONG;
	}
	ret_text[at] = '\0';
	return 0;
}

static int parse_address(struct ready *ready, const struct ready_target *target, char *reason,
                         size_t reason_size)
{
	char text[TEXT_MAX];

	if (expand(text, sizeof(text), ready->argument, target) < 0) {
		snprintf(reason, reason_size, "the address of the probe is too long");
		return -ENAMETOOLONG;
	}
	return probe_parse(&ready->probe, text, reason, reason_size);
}

/* Before the worker is there. An address with its pid in it is nobody else's. */
static int look(struct ready *ready, const struct ready_target *target, char *reason,
                size_t reason_size)
{
	struct ready_target assumed = *target;
	int r;

	assumed.pid = 1;
	r = parse_address(ready, &assumed, reason, reason_size);
	if (r < 0 || strstr(ready->argument, "{pid}") != NULL ||
	    !probe_is_answered(&ready->probe, LOOK_MS))
		return r;
	snprintf(
		reason, reason_size,
		"something answers at %s already, before worker %u of generation %llu was started: "
		"a probe needs an address of the successor's own (see --ready; {generation} and "
		"{worker} in the address are replaced)",
		ready->argument, target->worker, (unsigned long long)target->generation);
	return -EADDRINUSE;
}

static int make_pipe(struct ready *ready, int *ret_fd)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	ready->fd = sg_fd_above_stdio_take(fds[0]);
	*ret_fd = sg_fd_above_stdio_take(fds[1]);
	if (ready->fd >= 0 && *ret_fd >= 0)
		return 0;
	*ret_fd = sg_fd_close(*ret_fd);
	return -EMFILE;
}

static bool copy_text(char **ret_copy, const char *text)
{
	*ret_copy = text != NULL ? strdup(text) : NULL;
	return text == NULL || *ret_copy != NULL;
}

static void free_ready(struct ready *ready)
{
	sg_fd_close(ready->fd);
	words_free(ready->env);
	free(ready->argument);
	free(ready->directory);
	free(ready);
}

static int prepare(struct ready *ready, const struct config *config, int *ret_fd, char *reason,
                   size_t reason_size)
{
	int r = 0;

	ready->mode = config->ready;
	ready->inherited = config->ready_fd;
	ready->delay_ms = config->ready_delay_ms;
	if (!copy_text(&ready->argument, config->ready_argument) ||
	    !copy_text(&ready->directory, config->directory))
		r = -ENOMEM;
	if (r == 0 && ready->mode == CONFIG_READY_FD)
		r = make_pipe(ready, ret_fd);
	if (r < 0)
		snprintf(reason, reason_size, "the probe of readiness: %s", strerror(-r));
	if (r == 0 && (ready->mode == CONFIG_READY_HTTP || ready->mode == CONFIG_READY_TCP))
		r = look(ready, &ready->target, reason, reason_size);
	return r;
}

int ready_prepare(struct ready **ret_ready, uv_loop_t *loop, const struct config *config,
                  uint64_t generation, unsigned int worker, int *ret_fd, char *reason,
                  size_t reason_size)
{
	struct ready *ready = calloc(1, sizeof(*ready));
	int r, fd = -1;

	if (ready == NULL) {
		snprintf(reason, reason_size, "the probe of readiness: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	ready->loop = loop;
	ready->fd = -1;
	ready->target.generation = generation;
	ready->target.worker = worker;
	r = prepare(ready, config, &fd, reason, reason_size);
	if (r < 0) {
		free_ready(ready);
		return r;
	}
	uv_timer_init(loop, &ready->timer);
	ready->timer.data = ready;
	*ret_fd = fd;
	*ret_ready = ready;
	return 0;
}

static void on_attempt_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void close_attempt(struct attempt *attempt)
{
	if (attempt->ready != NULL)
		attempt->ready->attempt = NULL;
	uv_close((uv_handle_t *)&attempt->poll, on_attempt_closed);
	attempt->fd = sg_fd_close(attempt->fd);
	attempt->result_fd = sg_fd_close(attempt->result_fd);
}

/* An attempt that watches the descriptor, or the descriptor is closed. */
static struct attempt *watch_take(struct ready *ready, int fd, int events, uv_poll_cb callback)
{
	struct attempt *attempt = calloc(1, sizeof(*attempt));

	if (attempt == NULL || uv_poll_init(ready->loop, &attempt->poll, fd) < 0) {
		free(attempt);
		sg_fd_close(fd);
		return NULL;
	}
	attempt->poll.data = attempt;
	attempt->ready = ready;
	attempt->fd = fd;
	attempt->result_fd = -1;
	uv_poll_start(&attempt->poll, events, callback);
	ready->attempt = attempt;
	return attempt;
}

/* The process group, while its first process has not been reaped: then the number is its. */
static void kill_command(const struct attempt *attempt)
{
	if (sg_pidfd_dead(attempt->fd) == 0)
		kill(-attempt->pid, SIGKILL);
}

/* Commands that were killed and have not been reaped: one loop has them all. */
static struct attempt *killed;

/* A command is killed and stays watched until it can be reaped. */
static void give_up_attempt(struct ready *ready)
{
	struct attempt *attempt = ready->attempt;

	if (attempt == NULL)
		return;
	if (attempt->pid == 0) {
		close_attempt(attempt);
		return;
	}
	kill_command(attempt);
	attempt->next = killed;
	killed = attempt;
	attempt->ready = NULL;
	ready->attempt = NULL;
}

static void unlink_killed(const struct attempt *attempt)
{
	struct attempt **at = &killed;

	while (*at != attempt)
		at = &(*at)->next;
	*at = attempt->next;
}

static void finish(struct ready *ready, int error, const char *reason)
{
	uv_timer_stop(&ready->timer);
	give_up_attempt(ready);
	ready->done(ready->ctx, error, reason);
}

static void on_timer(uv_timer_t *timer);

static void again(struct ready *ready, unsigned int after_ms)
{
	give_up_attempt(ready);
	uv_timer_start(&ready->timer, on_timer, after_ms, 0);
}

/* The newline on a descriptor. */

static void on_pipe(uv_poll_t *poll, int status, int events)
{
	struct attempt *attempt = poll->data;
	struct ready *ready = attempt->ready;
	char text[256], reason[128];
	ssize_t n = read(attempt->fd, text, sizeof(text));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0 && memchr(text, '\n', (size_t)n) == NULL)
		return;
	if (n > 0) {
		finish(ready, 0, "");
		return;
	}
	snprintf(reason, sizeof(reason), "descriptor %d was closed without a newline on it",
	         ready->inherited);
	finish(ready, -EPIPE, reason);
}

/* A connection. */

static int on_headers_complete(llhttp_t *parser)
{
	struct attempt *attempt = parser->data;

	/* What is only provisional is followed by the answer. */
	if (parser->status_code >= 200 || parser->status_code == 101)
		attempt->status = parser->status_code;
	return attempt->status != 0 ? HPE_PAUSED : 0;
}

static const llhttp_settings_t http_settings = { .on_headers_complete = on_headers_complete };

/* 1 where the answer is known, 0 not yet, or -errno. */
static int receive(struct attempt *attempt)
{
	char buffer[4096];
	ssize_t n = recv(attempt->fd, buffer, sizeof(buffer), 0);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	attempt->received += (size_t)n;
	if (llhttp_execute(&attempt->parser, buffer, (size_t)n) != HPE_OK && attempt->status == 0)
		return -EPROTO;
	if (attempt->status == 0 && attempt->received > HEAD_MAX)
		return -EPROTO;
	return attempt->status != 0;
}

static void failed(struct ready *ready, int error)
{
	note(ready, "%s",
	     error == -EPROTO ? "what answered does not speak HTTP" : strerror(-error));
	again(ready, AGAIN_MS);
}

static void on_answer(uv_poll_t *poll, int status, int events)
{
	struct attempt *attempt = poll->data;
	struct ready *ready = attempt->ready;
	int r = receive(attempt);

	if (r < 0) {
		failed(ready, r);
	} else if (r > 0 && attempt->status / 100 == 2) {
		finish(ready, 0, "");
	} else if (r > 0) {
		note(ready, "it answered with status %d", attempt->status);
		again(ready, AGAIN_MS);
	}
}

static void on_connected(uv_poll_t *poll, int status, int events)
{
	struct attempt *attempt = poll->data;
	struct ready *ready = attempt->ready;
	size_t len = strlen(ready->probe.request);
	int r = probe_connected(attempt->fd);

	if (r == 0 && len == 0) {
		finish(ready, 0, "");
		return;
	}
	if (r == 0 && send(attempt->fd, ready->probe.request, len, MSG_NOSIGNAL) != (ssize_t)len)
		r = -ECONNRESET;
	if (r < 0) {
		failed(ready, r);
		return;
	}
	llhttp_init(&attempt->parser, HTTP_RESPONSE, &http_settings);
	attempt->parser.data = attempt;
	uv_poll_start(poll, UV_READABLE, on_answer);
}

static void attempt_connection(struct ready *ready)
{
	int fd = probe_connect(&ready->probe, ready->attempts++);

	if (fd < 0)
		failed(ready, fd);
	else if (watch_take(ready, fd, UV_WRITABLE, on_connected) == NULL)
		failed(ready, -ENOMEM);
}

/* A command. */

static int read_status(int fd)
{
	char text[16];
	ssize_t n = read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return -1;
	text[n] = '\0';
	return (int)strtol(text, NULL, 10);
}

static void on_command_dead(uv_poll_t *poll, int status, int events)
{
	struct attempt *attempt = poll->data;
	struct ready *ready = attempt->ready;
	int result, ignored;

	if (sg_pidfd_reap(attempt->fd, &ignored) == 0)
		return;
	result = read_status(attempt->result_fd);
	attempt->pid = 0;
	if (ready == NULL)
		unlink_killed(attempt);
	close_attempt(attempt);
	if (ready == NULL)
		return;
	if (result == 0) {
		finish(ready, 0, "");
		return;
	}
	if (result > 0)
		note(ready, "the command exited with %d", result);
	else
		note(ready, "the command was killed");
	again(ready, COMMAND_MS);
}

/* Everything at its default, nothing inherited but the pipe for its status, a process group of
 * its own: its processes can be killed together. */
static int spawn_shell(pid_t *ret_pid, const struct ready *ready, char *command, int result_fd)
{
	static char shell[] = "/bin/sh", flag[] = "-c", name[] = "segue-ready";
	static char script[] = "/bin/sh -c \"$1\" 3>&-; echo $? >&3";
	char *argv[] = { shell, flag, script, name, command, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t all, none;
	int r;

	sigfillset(&all);
	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
	                                              POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_init(&actions);
	r = posix_spawn_file_actions_adddup2(&actions, result_fd, 3);
	for (int fd = 0; fd < 3 && r == 0; fd++)
		r = posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	if (r == 0)
		r = posix_spawn_file_actions_addclosefrom_np(&actions, 4);
	if (r == 0 && ready->directory != NULL)
		r = posix_spawn_file_actions_addchdir_np(&actions, ready->directory);
	if (r == 0)
		r = posix_spawn(ret_pid, shell, &actions, &attributes, argv, ready->env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

/* Nobody can watch it: it goes before it has done much. */
static void undo_spawn(pid_t pid)
{
	kill(-pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int start_command(struct ready *ready)
{
	SG_CLEANUP(sg_fd_cleanup) int theirs = -1, ours = -1;
	char command[TEXT_MAX];
	struct attempt *attempt;
	int fds[2], pidfd, r;
	pid_t pid;

	r = expand(command, sizeof(command), ready->argument, &ready->target);
	if (r == 0 && pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		r = -errno;
	if (r != 0)
		return r;
	ours = sg_fd_above_stdio_take(fds[0]);
	theirs = sg_fd_above_stdio_take(fds[1]);
	r = ours < 0 || theirs < 0 ? -EMFILE : spawn_shell(&pid, ready, command, theirs);
	if (r != 0)
		return r;
	/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): spawn_shell() says 0 with a pid. */
	pidfd = sg_pidfd_open(pid);
	attempt = pidfd < 0 ? NULL : watch_take(ready, pidfd, UV_READABLE, on_command_dead);
	if (attempt == NULL) {
		undo_spawn(pid);
		return -EMFILE;
	}
	attempt->pid = pid;
	attempt->result_fd = sg_fd_steal(&ours);
	return 0;
}

static void attempt_command(struct ready *ready)
{
	int r = start_command(ready);

	if (r == 0)
		return;
	note(ready, "the command could not be started: %s", strerror(-r));
	again(ready, COMMAND_MS);
}

/* All of them. */

static void on_timer(uv_timer_t *timer)
{
	struct ready *ready = timer->data;

	if (ready->mode == CONFIG_READY_DELAY) {
		finish(ready, 0, "");
		return;
	}
	if (ready->attempt != NULL) {
		note(ready, "no answer within %d s", ATTEMPT_MS / 1000);
		give_up_attempt(ready);
	}
	uv_timer_start(&ready->timer, on_timer, ATTEMPT_MS, 0);
	if (ready->mode == CONFIG_READY_EXEC)
		attempt_command(ready);
	else
		attempt_connection(ready);
}

static bool same_name(const char *a, const char *b)
{
	size_t len = strcspn(a, "=");

	return strncmp(a, b, len) == 0 && (b[len] == '=' || b[len] == '\0');
}

static bool is_listed(const char *variable, const char *const *list)
{
	for (; *list != NULL; list++)
		if (same_name(variable, *list))
			return true;
	return false;
}

/* The supervisor's own, without what its service manager meant for it alone. */
static int copy_environment(struct ready *ready, const char *const *additions)
{
	static const char *const private[] = {
		"NOTIFY_SOCKET", "LISTEN_FDS",    "LISTEN_PID", "LISTEN_FDNAMES",
		"WATCHDOG_PID",  "WATCHDOG_USEC", NULL
	};
	size_t count = 0, room = 1;

	for (char **e = environ; *e != NULL; e++)
		room++;
	for (const char *const *a = additions; *a != NULL; a++)
		room++;
	ready->env = calloc(room, sizeof(*ready->env));
	if (ready->env == NULL)
		return -ENOMEM;
	for (char **e = environ; *e != NULL; e++)
		if (!is_listed(*e, private) && !is_listed(*e, additions) &&
		    !copy_text(&ready->env[count++], *e))
			return -ENOMEM;
	for (; *additions != NULL; additions++)
		if (!copy_text(&ready->env[count++], *additions))
			return -ENOMEM;
	return 0;
}

static int begin_probe(struct ready *ready)
{
	char reason[512];
	int r;

	if (ready->mode != CONFIG_READY_EXEC) {
		r = parse_address(ready, &ready->target, reason, sizeof(reason));
		if (r < 0)
			return r;
	}
	return uv_timer_start(&ready->timer, on_timer, 0, 0);
}

int ready_begin(struct ready *ready, const struct ready_target *target, ready_done done, void *ctx)
{
	static const char *const none[] = { NULL };
	int r = 0;

	if (ready->mode == CONFIG_READY_EXEC)
		r = copy_environment(ready, target->env != NULL ? target->env : none);

	if (r < 0)
		return r;
	ready->target = *target;
	ready->target.env = NULL;
	ready->done = done;
	ready->ctx = ctx;
	switch (ready->mode) {
	case CONFIG_READY_FD:
		return watch_take(ready, sg_fd_steal(&ready->fd), UV_READABLE, on_pipe) == NULL
		               ? -ENOMEM
		               : 0;
	case CONFIG_READY_DELAY:
		/* From now, not from when the loop last looked. */
		uv_update_time(ready->loop);
		return uv_timer_start(&ready->timer, on_timer, (uint64_t)ready->delay_ms, 0);
	case CONFIG_READY_EXEC:
	case CONFIG_READY_HTTP:
	case CONFIG_READY_TCP:
		return begin_probe(ready);
	default:
		return 0;
	}
}

static void on_ready_closed(uv_handle_t *handle)
{
	free_ready(handle->data);
}

void ready_end(struct ready *ready)
{
	if (ready == NULL)
		return;
	give_up_attempt(ready);
	uv_close((uv_handle_t *)&ready->timer, on_ready_closed);
}

void ready_reap_killed(void)
{
	struct attempt *attempt;
	int ignored;

	while ((attempt = killed) != NULL) {
		struct pollfd dead = { .fd = attempt->fd, .events = POLLIN };

		/* Where the kernel does not let it go it is init's. */
		while (poll(&dead, 1, REAP_MS) < 0 && errno == EINTR)
			continue;
		(void)sg_pidfd_reap(attempt->fd, &ignored);
		killed = attempt->next;
		close_attempt(attempt);
	}
}
