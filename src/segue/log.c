/* SPDX-License-Identifier: MIT */
/*
 * See log.h. What there is no room for waits in a queue, whole lines in their order; what does
 * not fit there is counted, and nothing more is queued before the number has been said.
 */
#include "segue/log.h"
#include "core/fd.h"
#include "segue/printable.h"
#include "segue/relay_output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEXT_MAX  2048
#define QUEUE_MAX (64 * 1024)
#define AGAIN_MS  50   /* until there may be room */
#define END_MS    1000 /* for a reader that is slow, when the supervisor ends */

static char *service_name, *file_path; /* copies: the log outlives every configuration */
static bool as_json;
static int log_fd = STDERR_FILENO;
static struct relay_output output = { .fd = STDERR_FILENO };
static char queue[QUEUE_MAX];
static size_t queue_len;
static unsigned long lost;
static uv_timer_t timer;
static bool has_timer;

int log_open(const char *service, bool json, const char *path)
{
	service_name = strdup(service);
	as_json = json;
	file_path = path != NULL ? strdup(path) : NULL;
	if (path != NULL)
		return log_reopen();
	relay_output_init(&output, log_fd);
	return 0;
}

int log_reopen(void)
{
	struct relay_output next;
	int fd;

	if (file_path == NULL)
		return 0;
	/* A pipe that nobody reads is refused, not waited for. */
	fd = sg_fd_above_stdio_take(
		open(file_path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
	             0640));
	if (fd < 0)
		return -errno;
	relay_output_init(&next, fd);
	next.rest = output.rest;
	next.rest_len = output.rest_len;
	if (output.own)
		sg_fd_close(output.fd);
	if (log_fd != STDERR_FILENO)
		sg_fd_close(log_fd);
	log_fd = fd;
	output = next;
	return 0;
}

static char *compose_json(const char *event, json_t *fields, const char *text)
{
	struct timespec now;
	char when[64], stamp[40];
	struct tm tm;
	json_t *line = json_object();
	char *dumped;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(when, sizeof(when), "%s.%03ldZ", stamp, now.tv_nsec / 1000000);
	json_object_set_new(line, "time", json_string(when));
	json_object_set_new(line, "service", json_string(service_name));
	json_object_set_new(line, "event", json_string(event));
	if (fields != NULL)
		json_object_update(line, fields);
	json_object_set_new(line, "text", json_string(text));
	dumped = json_dumps(line, JSON_COMPACT);
	json_decref(line);
	return dumped;
}

/* The line without its end, for free(). NULL: no memory. */
static char *compose(const char *event, json_t *fields, const char *text)
{
	char *line = NULL;

	if (as_json)
		return compose_json(event, fields, text);
	return asprintf(&line, "segue[%s]: %s", service_name, text) >= 0 ? line : NULL;
}

static bool waits(void)
{
	return output.rest != NULL || queue_len > 0 || lost > 0;
}

static void add(const char *line)
{
	size_t len = strlen(line);

	if (len + 1 > sizeof(queue) - queue_len) {
		lost++;
		return;
	}
	memcpy(queue + queue_len, line, len);
	queue[queue_len + len] = '\n';
	queue_len += len + 1;
}

static void add_lost(void)
{
	char text[128];
	json_t *fields = json_pack("{sI}", "lines", (json_int_t)lost);
	char *line;

	snprintf(text, sizeof(text), "%lu lines of this log are lost: nobody read it", lost);
	line = compose("lost", fields, text);
	lost = 0;
	if (line != NULL)
		add(line);
	free(line);
	json_decref(fields);
}

/* Writes what there is room for, line by line: one write() a line. */
static void push(void)
{
	/* A fifo may have a reader again. */
	output.dead = false;
	if (output.rest != NULL)
		relay_output_flush(&output);
	while (output.rest == NULL && (queue_len > 0 || lost > 0)) {
		size_t len;

		if (queue_len == 0)
			add_lost();
		if (queue_len == 0)
			return;
		len = (size_t)((char *)memchr(queue, '\n', queue_len) - queue) + 1;
		relay_output_write(&output, queue, len);
		queue_len -= len;
		memmove(queue, queue + len, queue_len);
	}
}

static void on_timer(uv_timer_t *handle);

static void push_and_watch(void)
{
	push();
	if (has_timer && waits() && !uv_is_active((uv_handle_t *)&timer))
		(void)uv_timer_start(&timer, on_timer, AGAIN_MS, 0);
}

static void on_timer(uv_timer_t *handle)
{
	(void)handle;
	push_and_watch();
}

int log_watch(uv_loop_t *loop)
{
	int r = uv_timer_init(loop, &timer);

	if (r < 0)
		return r;
	uv_unref((uv_handle_t *)&timer);
	has_timer = true;
	push_and_watch();
	return 0;
}

void log_unwatch(void)
{
	if (has_timer)
		uv_close((uv_handle_t *)&timer, NULL);
	has_timer = false;
}

void log_close(void)
{
	int64_t deadline = sg_now_ms() + END_MS;

	for (push(); waits(); push()) {
		struct pollfd room = { .fd = output.fd, .events = POLLOUT };
		int64_t left = deadline - sg_now_ms();

		if (left <= 0 || poll(&room, 1, (int)left) <= 0)
			break;
	}
	free(output.rest);
	output.rest = NULL;
	output.rest_len = 0;
	if (output.own)
		sg_fd_close(output.fd);
	if (log_fd != STDERR_FILENO)
		sg_fd_close(log_fd);
	log_fd = STDERR_FILENO;
	output = (struct relay_output){ .fd = STDERR_FILENO };
}

void log_say(const char *event, json_t *fields, const char *format, ...)
{
	char text[TEXT_MAX];
	char *line;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (char *at = text; *at != '\0'; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	/* What is not UTF-8, and half a character at the end of a text that was cut. */
	printable_make(text, strlen(text), false);
	line = compose(event, fields, text);
	json_decref(fields);
	push();
	if (line == NULL || lost > 0)
		lost++;
	else
		add(line);
	free(line);
	push_and_watch();
}
