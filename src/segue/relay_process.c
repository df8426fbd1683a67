/* SPDX-License-Identifier: MIT */
/*
 * The relay's own process. It blocks nowhere but in poll(2) (and on a disk): an output that
 * takes nothing stops the reading of what would go there, the workers then wait in their own
 * writes as they would without a relay, and the supervisor is still answered.
 *
 * What has been read and not written yet is in a stream's buffer: one line, or what was read
 * ahead because the last words were asked for.
 *
 * When the supervisor has died the process stays until its last worker has gone and what that wrote
 * is written, or nobody reads it.
 */
#include "segue/relay_message.h"

#include "core/fd.h"
#include "segue/relay_output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_MAX_BYTES (64 << 10)
#define BUFFER_MAX     (LINE_MAX_BYTES + (64 << 10)) /* a line, and a whole pipe */
#define WRITE_MAX      4096                          /* whole in a pipe: PIPE_BUF */
#define PREFIX_MAX     96
#define PARTIAL_MS     250   /* so long half a line is waited for, without prefixes */
#define PID_MS         1000  /* so long the pid is waited for, with them */
#define STALLED_MS     1000  /* at the end: so long for an output that takes nothing, */
#define UNREAD_MS      30000 /* and so long where no supervisor waits for the end */

struct stream {
	int fd; /* -1: ended */
	struct relay_output *output;
	char *buffer;
	size_t at, len; /* what waits: len bytes from at */
	int64_t fresh_ms;
	bool dry;  /* nothing was in the pipe when it was last looked at */
	bool hung; /* nobody is left who could write to it */
};

struct source {
	struct source *next;
	uint64_t key;
	char tag[64];
	pid_t pid;
	int pidfd;         /* of the worker, until the supervisor has reaped it; -1: none */
	int64_t linger_ms; /* it may live so long without a supervisor; -1: for ever */
	int64_t began_ms;
	struct stream streams[2];
	char tail[RELAY_TAIL_MAX];
	size_t tail_len;
	const struct stream *tail_of; /* who has written its last byte */
	bool answer;                  /* the tail is due */
	bool forget;
};

struct process {
	int control;     /* -1: nobody is there any more, */
	int64_t gone_ms; /* since then */
	enum config_log mode;
	const char *log_file;
	int log_fd;
	bool closing;
	bool left;        /* without the supervisor, and without anybody who could write */
	int64_t moved_ms; /* since one of both: when an output has last taken something, */
	bool seen;        /* how much nobody had read after that: */
	uint64_t unread;
	bool one_output;
	struct relay_output outputs[2];
	struct source *first;
	struct pollfd *polls;
	size_t polls_room;
	int64_t now_ms;
};

/* Shared by all streams: the process has one thread and shall be small. */
static char scratch[LINE_MAX_BYTES];
static char line[PREFIX_MAX + LINE_MAX_BYTES + 1];

/* Reading. */

static void add_to_tail(struct source *source, const struct stream *stream, const char *data,
                        size_t len)
{
	size_t keep;

	/* Half a line of the one stream does not run into a line of the other. */
	if (source->tail_of != stream && source->tail_len > 0 &&
	    source->tail[source->tail_len - 1] != '\n') {
		source->tail_of = stream;
		add_to_tail(source, stream, "\n", 1);
	}
	source->tail_of = stream;
	if (len > RELAY_TAIL_MAX) {
		data += len - RELAY_TAIL_MAX;
		len = RELAY_TAIL_MAX;
	}
	keep = RELAY_TAIL_MAX - len;
	if (keep > source->tail_len)
		keep = source->tail_len;
	memmove(source->tail, source->tail + source->tail_len - keep, keep);
	memcpy(source->tail + keep, data, len);
	source->tail_len = keep + len;
}

static void add_to_buffer(struct stream *stream, const char *data, size_t len)
{
	char *larger;

	if (stream->at > 0) {
		memmove(stream->buffer, stream->buffer + stream->at, stream->len);
		stream->at = 0;
	}
	larger = realloc(stream->buffer, stream->len + len);
	if (larger == NULL)
		return;
	stream->buffer = larger;
	memcpy(larger + stream->len, data, len);
	stream->len += len;
}

/* 1: something came; 0: nothing is there, or no room; -1: the end. */
static int read_stream(struct process *process, struct source *source, struct stream *stream)
{
	size_t room = BUFFER_MAX - stream->len;
	ssize_t n;

	if (stream->fd < 0)
		return -1;
	if (room == 0)
		return 0;
	do
		n = read(stream->fd, scratch, room < sizeof(scratch) ? room : sizeof(scratch));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0) {
		stream->fd = sg_fd_close(stream->fd);
		return -1;
	}
	add_to_tail(source, stream, scratch, (size_t)n);
	add_to_buffer(stream, scratch, (size_t)n);
	stream->fresh_ms = process->now_ms;
	return 1;
}

static void read_ahead(struct process *process, struct source *source)
{
	for (int i = 0; i < 2; i++)
		while (read_stream(process, source, &source->streams[i]) > 0)
			;
}

/* Writing. */

static void consume(struct stream *stream, size_t len)
{
	stream->at += len;
	stream->len -= len;
	if (stream->len == 0) {
		free(stream->buffer);
		stream->buffer = NULL;
		stream->at = 0;
	}
}

/* The first line, its newline included; a piece of one that is too long; half a line where no more
 * is to come. 0: none yet. */
static size_t first_line(const struct stream *stream, bool half)
{
	const char *data = stream->buffer + stream->at, *end;
	size_t len = stream->len < LINE_MAX_BYTES ? stream->len : LINE_MAX_BYTES;

	end = memchr(data, '\n', len);
	if (end != NULL)
		return (size_t)(end - data) + 1;
	return len == LINE_MAX_BYTES || stream->fd < 0 || half ? len : 0;
}

/* As many whole lines as fit into one write that a pipe takes whole. */
static size_t whole_lines(const struct stream *stream, bool half)
{
	const char *data = stream->buffer + stream->at, *end;

	end = memrchr(data, '\n', stream->len < WRITE_MAX ? stream->len : WRITE_MAX);
	return end != NULL ? (size_t)(end - data) + 1 : first_line(stream, half);
}

static size_t write_plain(struct process *process, struct stream *stream)
{
	/* The other half may wait in the pipe, where the output was slow. */
	bool half = stream->dry && process->now_ms - stream->fresh_ms >= PARTIAL_MS;
	size_t len = whole_lines(stream, half);

	if (len > 0)
		relay_output_write(stream->output, stream->buffer + stream->at, len);
	return len;
}

static bool waits_for_pid(const struct process *process, const struct source *source)
{
	return source->pid == 0 && !source->forget && !process->closing &&
	       process->now_ms - source->began_ms < PID_MS;
}

static size_t write_prefixed(struct process *process, const struct source *source,
                             struct stream *stream)
{
	size_t len = first_line(stream, false), at;

	if (len == 0 || waits_for_pid(process, source))
		return 0;
	if (source->pid != 0)
		at = (size_t)snprintf(line, PREFIX_MAX, "%s[%ld] ", source->tag, (long)source->pid);
	else
		at = (size_t)snprintf(line, PREFIX_MAX, "%s ", source->tag);
	memcpy(line + at, stream->buffer + stream->at, len);
	at += len;
	if (line[at - 1] != '\n')
		line[at++] = '\n';
	relay_output_write(stream->output, line, at);
	return len;
}

/* One write at most, so that all streams have their turn. */
static bool write_once(struct process *process, struct source *source, struct stream *stream)
{
	size_t len;

	if (stream->len == 0 || stream->output->rest_len > 0)
		return false;
	len = process->mode == CONFIG_LOG_PREFIX ? write_prefixed(process, source, stream)
	                                         : write_plain(process, stream);
	consume(stream, len);
	return len > 0;
}

static void has_moved(struct process *process)
{
	process->moved_ms = process->now_ms;
	process->seen = false;
}

static void write_what_is_there(struct process *process)
{
	bool wrote;

	do {
		wrote = false;
		for (struct source *s = process->first; s != NULL; s = s->next)
			for (int i = 0; i < 2; i++)
				wrote |= write_once(process, s, &s->streams[i]);
		if (wrote)
			has_moved(process);
	} while (wrote);
}

/* Whoever was first is last the next time: else, where the output is slow, only the first would
 * ever be written. */
static void rotate(struct process *process)
{
	struct source *first = process->first, **end = &process->first;

	if (first == NULL || first->next == NULL)
		return;
	process->first = first->next;
	first->next = NULL;
	while (*end != NULL)
		end = &(*end)->next;
	*end = first;
}

/* The supervisor. */

/* Standard output and error are one where they lead to the same file, lest a line of the one end
 * up within a line of the other. */
static void open_outputs(struct process *process)
{
	struct stat out, err;

	process->one_output = process->log_fd >= 0;
	if (process->log_fd >= 0) {
		relay_output_init(&process->outputs[0], process->log_fd);
		return;
	}
	relay_output_init(&process->outputs[0], STDOUT_FILENO);
	if (fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
	    out.st_dev == err.st_dev && out.st_ino == err.st_ino)
		process->one_output = true;
	else
		relay_output_init(&process->outputs[1], STDERR_FILENO);
}

/* What waits for room was for the file of before; a name that cannot be opened changes nothing. */
static void reopen(struct process *process)
{
	struct relay_output *output = &process->outputs[0];
	int fd = process->log_file != NULL ? relay_log_open(process->log_file) : -1;

	if (fd < 0 || process->log_fd < 0) {
		sg_fd_close(fd);
		return;
	}
	if (output->own)
		sg_fd_close(output->fd);
	free(output->rest);
	sg_fd_close(process->log_fd);
	process->log_fd = fd;
	relay_output_init(output, fd);
}

static void add_source(struct process *process, const struct relay_message *message, const int *fds)
{
	struct source *source = calloc(1, sizeof(*source)), **end = &process->first;

	if (source == NULL) {
		sg_fd_close(fds[0]);
		sg_fd_close(fds[1]);
		return;
	}
	source->key = message->key;
	source->pidfd = -1;
	source->began_ms = process->now_ms;
	snprintf(source->tag, sizeof(source->tag), "%.63s", message->text);
	for (int i = 0; i < 2; i++) {
		source->streams[i].fd = fds[i];
		source->streams[i].output = &process->outputs[process->one_output ? 0 : i];
	}
	while (*end != NULL)
		end = &(*end)->next;
	*end = source;
}

static struct source *find_source(struct process *process, uint64_t key)
{
	struct source *source = process->first;

	while (source != NULL && source->key != key)
		source = source->next;
	return source;
}

static void hear_of(struct process *process, struct source *source,
                    const struct relay_message *message)
{
	switch (message->verb) {
	case RELAY_PID:
		source->pid = message->pid;
		source->linger_ms = message->linger_ms;
		sg_fd_close(source->pidfd);
		source->pidfd = sg_pidfd_open(message->pid);
		break;
	case RELAY_TAIL:
		read_ahead(process, source);
		source->answer = true;
		break;
	case RELAY_FORGET:
		source->forget = true;
		source->pidfd = sg_fd_close(source->pidfd);
		break;
	}
}

/* When a worker is killed that the supervisor left behind; -1: never. */
static int64_t killed_at(const struct process *process, const struct source *source)
{
	return process->control >= 0 || source->pidfd < 0 || source->linger_ms < 0
	               ? -1
	               : process->gone_ms + source->linger_ms;
}

/* It leads the group, whose number is its own while it lives and as a zombie; afterwards, while
 * nobody else has the pid. */
static void kill_group(const struct source *source)
{
	if (sg_pidfd_signal(source->pidfd, 0) == 0 || (kill(source->pid, 0) < 0 && errno == ESRCH))
		(void)kill(-source->pid, SIGKILL);
}

/*
 * Without the supervisor nobody else kills what does not leave in time, nor what a worker has left
 * in its process group when it ends: the death signal has reached the worker alone, which
 * may be a wrapper around a server that would keep the address.
 */
static void end_orphans(struct process *process)
{
	for (struct source *s = process->first; s != NULL && process->control < 0; s = s->next) {
		int64_t at = killed_at(process, s);

		if (at >= 0 && process->now_ms >= at) {
			kill_group(s);
			s->linger_ms = -1;
		}
		if (s->pidfd >= 0 && sg_pidfd_dead(s->pidfd) != 0) {
			kill_group(s);
			s->pidfd = sg_fd_close(s->pidfd);
		}
	}
}

static void supervisor_is_gone(struct process *process)
{
	process->control = sg_fd_close(process->control);
	process->gone_ms = process->now_ms;
	for (struct source *s = process->first; s != NULL; s = s->next)
		s->forget = true;
}

static void begin_to_close(struct process *process)
{
	process->closing = true;
	has_moved(process);
}

static void listen_to_supervisor(struct process *process)
{
	struct relay_message message;
	struct source *source;
	int fds[2], r;

	while (process->control >= 0 &&
	       (r = relay_message_receive(process->control, &message, fds)) != 0) {
		if (r < 0) {
			supervisor_is_gone(process);
			return;
		}
		if (message.verb == RELAY_WORKER)
			add_source(process, &message, fds);
		else if (message.verb == RELAY_REOPEN)
			reopen(process);
		else if (message.verb == RELAY_CLOSE)
			begin_to_close(process);
		else if ((source = find_source(process, message.key)) != NULL)
			hear_of(process, source, &message);
	}
}

static bool say(struct process *process, struct source *source, enum relay_verb verb,
                const char *text, size_t len)
{
	struct relay_message message = { .verb = verb, .key = source->key };

	if (process->control < 0)
		return true;
	memcpy(message.text, text, len);
	return relay_message_send(process->control, &message, NULL) != -EAGAIN;
}

/* Zero bytes would end the text. */
static bool say_tail(struct process *process, struct source *source)
{
	char text[RELAY_TAIL_MAX];
	size_t len = source->tail_len;

	for (size_t i = 0; i < len; i++)
		text[i] = source->tail[i] != '\0' ? source->tail[i] : '?';
	return say(process, source, RELAY_TEXT, text, len);
}

static bool is_over(const struct source *source)
{
	return source->forget && !source->answer && source->pidfd < 0 &&
	       source->streams[0].fd < 0 && source->streams[1].fd < 0 &&
	       source->streams[0].len == 0 && source->streams[1].len == 0;
}

static void speak_to_supervisor(struct process *process)
{
	struct source **at = &process->first, *source;

	while ((source = *at) != NULL) {
		if (source->answer && say_tail(process, source))
			source->answer = false;
		if (is_over(source) &&
		    (process->closing || say(process, source, RELAY_GONE, "", 0))) {
			*at = source->next;
			free(source);
		} else {
			at = &source->next;
		}
	}
}

/* The end: what is in the pipes now is read, what may come later is not waited for. */
static void read_to_close(struct process *process)
{
	for (struct source *s = process->first; s != NULL; s = s->next) {
		read_ahead(process, s);
		for (int i = 0; i < 2; i++)
			if (s->streams[i].len < BUFFER_MAX)
				s->streams[i].fd = sg_fd_close(s->streams[i].fd);
		s->forget = true;
		s->pidfd = sg_fd_close(s->pidfd);
		s->answer = false;
	}
}

/* Waiting. */

static bool wants_reading(const struct stream *stream)
{
	return stream->fd >= 0 && stream->output->rest_len == 0 && stream->len < LINE_MAX_BYTES;
}

/* When what is held back is let go without what it waits for; -1: nothing is held back. */
static int64_t held_until(const struct process *process, const struct source *source)
{
	int64_t until = -1;

	if (process->mode == CONFIG_LOG_PREFIX)
		return waits_for_pid(process, source) &&
		                       source->streams[0].len + source->streams[1].len > 0
		               ? source->began_ms + PID_MS
		               : -1;
	for (int i = 0; i < 2; i++) {
		const struct stream *stream = &source->streams[i];
		int64_t own = stream->fresh_ms + PARTIAL_MS;

		if (stream->len > 0 && stream->output->rest_len == 0 && (until < 0 || own < until))
			until = own;
	}
	return until;
}

/* -1: never. */
static int64_t sooner(int64_t one, int64_t other)
{
	return one < 0 || (other >= 0 && other < one) ? other : one;
}

/* When it ends though not everything is written, unless something is taken; -1: never. */
static int64_t given_up_at(const struct process *process)
{
	return process->closing ? process->moved_ms + STALLED_MS
	       : process->left  ? process->moved_ms + UNREAD_MS
	                        : -1;
}

static int timeout_of(const struct process *process)
{
	int64_t until = given_up_at(process), left;

	for (const struct source *s = process->first; s != NULL; s = s->next) {
		until = sooner(until, held_until(process, s));
		until = sooner(until, killed_at(process, s));
	}
	left = until - process->now_ms;
	return until < 0 ? -1 : left <= 0 ? 0 : left < INT_MAX ? (int)left : INT_MAX;
}

static bool owes_words(const struct process *process)
{
	for (const struct source *s = process->first; s != NULL; s = s->next)
		if (s->answer || is_over(s))
			return true;
	return false;
}

/* What is not to be read yet is only asked whether anybody is left who could write. */
static struct pollfd poll_of(const struct process *process, const struct stream *stream)
{
	bool wanted = wants_reading(stream), ends = process->control < 0 && !stream->hung;

	return (struct pollfd){ .fd = wanted || ends ? stream->fd : -1,
		                .events = wanted ? POLLIN : 0 };
}

/* Room for the supervisor, the outputs, and both streams and the pidfd of each source. */
static size_t fill_polls(struct process *process)
{
	size_t count = 3, at = 3;
	struct pollfd *larger;

	for (const struct source *s = process->first; s != NULL; s = s->next)
		count += 3;
	if (count > process->polls_room) {
		larger = reallocarray(process->polls, count, sizeof(*larger));
		if (larger == NULL)
			_exit(1);
		process->polls = larger;
		process->polls_room = count;
	}
	process->polls[0] = (struct pollfd){ .fd = process->control, .events = POLLIN };
	if (owes_words(process))
		process->polls[0].events |= POLLOUT;
	for (int i = 0; i < 2; i++)
		process->polls[1 + i] = (struct pollfd){
			.fd = process->outputs[i].rest_len > 0 ? process->outputs[i].fd : -1,
			.events = POLLOUT,
		};
	for (const struct source *s = process->first; s != NULL; s = s->next) {
		for (int i = 0; i < 2; i++)
			process->polls[at++] = poll_of(process, &s->streams[i]);
		process->polls[at++] = (struct pollfd){
			.fd = process->control < 0 ? s->pidfd : -1,
			.events = POLLIN,
		};
	}
	return count;
}

/* The list has not changed since the polls were filled. */
static void read_what_came(struct process *process)
{
	size_t at = 3;

	for (struct source *s = process->first; s != NULL; s = s->next) {
		for (int i = 0; i < 2; i++) {
			const struct pollfd *poller = &process->polls[at++];
			bool wanted = poller->events != 0 && poller->fd >= 0;

			s->streams[i].dry = wanted && poller->revents == 0;
			s->streams[i].hung |= (poller->revents & POLLHUP) != 0;
			if (wanted && poller->revents != 0)
				read_stream(process, s, &s->streams[i]);
		}
		at++;
	}
}

static void flush(struct process *process, struct relay_output *output)
{
	size_t before = output->rest_len;

	if (before > 0)
		relay_output_flush(output);
	if (output->rest_len < before)
		has_moved(process);
}

static void wait_and_read(struct process *process)
{
	size_t count = fill_polls(process);

	if (poll(process->polls, count, timeout_of(process)) < 0)
		return;
	process->now_ms = sg_now_ms();
	read_what_came(process);
	for (int i = 0; i < 2; i++)
		flush(process, &process->outputs[i]);
	listen_to_supervisor(process);
	end_orphans(process);
}

static bool is_left(const struct process *process)
{
	for (const struct source *s = process->first; s != NULL; s = s->next) {
		if (s->pidfd >= 0)
			return false;
		for (int i = 0; i < 2; i++)
			if (s->streams[i].fd >= 0 && !s->streams[i].hung)
				return false;
	}
	return process->control < 0;
}

/*
 * Nobody writes any more, and the reader may be one that holds the pipe and never reads. One that
 * reads little at a time makes room by the page, perhaps a minute later: it is slow, and known by
 * what waits for it.
 */
static void look_whether_it_is_read(struct process *process)
{
	uint64_t unread;

	if (!process->left) {
		if (!is_left(process))
			return;
		process->left = true;
		has_moved(process);
	}
	unread = relay_output_unread(&process->outputs[0]) +
	         relay_output_unread(&process->outputs[1]);
	if (process->seen && process->now_ms - process->moved_ms < UNREAD_MS)
		return;
	if (process->seen && unread < process->unread)
		has_moved(process);
	process->seen = true;
	process->unread = unread;
}

static bool has_more_to_do(const struct process *process)
{
	int64_t until = given_up_at(process);

	if (until >= 0 && process->now_ms >= until)
		return false;
	return (process->control >= 0 && !process->closing) || process->first != NULL ||
	       process->outputs[0].rest_len > 0 || process->outputs[1].rest_len > 0;
}

/* A signal for the whole group, or the terminal's, ends the workers; their last words are still
 * to be written. */
static void set_signals(void)
{
	static const int ignored[] = { SIGTERM, SIGINT,  SIGHUP,  SIGQUIT, SIGUSR1,
		                       SIGUSR2, SIGPIPE, SIGALRM, SIGTTOU };
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int signal = 1; signal < NSIG; signal++)
		(void)sigaction(signal, &action, NULL);
	action.sa_handler = SIG_IGN;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		(void)sigaction(ignored[i], &action, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Only standard output and error, the log file and the supervisor's socket stay open; where nothing
 * is written, no output either: whoever reads it waits for its end. */
static void keep_descriptors(struct process *process, int control_fd, int log_fd)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null >= 0)
		(void)dup3(null, STDIN_FILENO, O_CLOEXEC);
	for (int fd = 1; fd <= 2 && null >= 0 && process->mode == CONFIG_LOG_DIRECT; fd++)
		(void)dup3(null, fd, O_CLOEXEC);
	process->control = fcntl(control_fd, F_DUPFD_CLOEXEC, 10);
	process->log_fd = log_fd < 0 ? -1 : fcntl(log_fd, F_DUPFD_CLOEXEC, 10);
	if (process->control < 0)
		_exit(1);
	if (dup3(process->control, 3, O_CLOEXEC) < 0)
		_exit(1);
	process->control = 3;
	if (process->log_fd >= 0 && dup3(process->log_fd, 4, O_CLOEXEC) >= 0)
		process->log_fd = 4;
	(void)syscall(SYS_close_range, process->log_fd < 0 ? 4 : 5, ~0U, 0);
}

_Noreturn void relay_process_run(int control_fd, enum config_log mode, int log_fd,
                                 const char *log_file)
{
	struct process process = { .mode = mode, .log_file = log_file };

	set_signals();
	(void)prctl(PR_SET_NAME, "segue-relay");
	keep_descriptors(&process, control_fd, log_fd);
	process.now_ms = sg_now_ms();
	open_outputs(&process);
	while (has_more_to_do(&process)) {
		wait_and_read(&process);
		if (process.closing)
			read_to_close(&process);
		write_what_is_there(&process);
		speak_to_supervisor(&process);
		rotate(&process);
		look_whether_it_is_read(&process);
	}
	_exit(0);
}
