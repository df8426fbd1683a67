/* SPDX-License-Identifier: MIT */
/*
 * The events of a server, on standard error, one a line.
 *
 * A log that nobody reads must not stop the service: what a full pipe, socket or terminal does not
 * take at once is dropped in whole lines, and the next event that is written is preceded by their
 * number.
 *
 * A line leaves in one write, so that lines of two generations do not mix. Whatever a client or a
 * file name may have put into a text is escaped.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static void add_bytes(struct sgh_line *line, const char *bytes, size_t len)
{
	/* Room is left for what closes a line. */
	size_t room = sizeof(line->data) - 8 - line->len;

	if (line->len + 8 >= sizeof(line->data) || len > room)
		return;
	memcpy(line->data + line->len, bytes, len);
	line->len += len;
}

void sgh_line_add(struct sgh_line *line, const char *text)
{
	add_bytes(line, text, strlen(text));
}

void sgh_line_number(struct sgh_line *line, int64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, number);
	sgh_line_add(line, text);
}

void sgh_line_escaped(struct sgh_line *line, const char *text)
{
	for (; *text; text++) {
		unsigned char c = *text;
		char escape[8];

		if (c >= ' ' && c != 0x7f) {
			add_bytes(line, text, 1);
			continue;
		}
		snprintf(escape, sizeof(escape), "\\x%02x", c);
		sgh_line_add(line, escape);
	}
}

/* Length of the UTF-8 character at @text, or 0. */
static int utf8_length(const unsigned char *text)
{
	int len = text[0] < 0x80                      ? 1
	          : text[0] >= 0xc2 && text[0] < 0xe0 ? 2
	          : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
	          : text[0] >= 0xf0 && text[0] < 0xf5 ? 4
	                                              : 0;

	for (int i = 1; i < len; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

void sgh_line_json(struct sgh_line *line, const char *text)
{
	add_bytes(line, "\"", 1);
	/* Room is left for what closes it, and the object around it. */
	while (*text && line->len + 32 < sizeof(line->data)) {
		unsigned char c = *text;
		int len = utf8_length((const unsigned char *)text);
		char escape[8];

		if (c == '"' || c == '\\') {
			escape[0] = '\\';
			escape[1] = c;
			add_bytes(line, escape, 2);
		} else if (c < ' ' || c == 0x7f) {
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			sgh_line_add(line, escape);
		} else if (!len) {
			sgh_line_add(line, "\\ufffd");
		} else {
			add_bytes(line, text, len);
		}
		text += len ? len : 1;
	}
	add_bytes(line, "\"", 1);
}

static void add_time(struct sgh_line *line, bool json)
{
	struct timespec now;
	struct tm tm;
	char text[64];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	if (json) {
		gmtime_r(&now.tv_sec, &tm);
		n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
		snprintf(text + n, sizeof(text) - n, ".%03ldZ", now.tv_nsec / 1000000);
	} else {
		localtime_r(&now.tv_sec, &tm);
		n = strftime(text, sizeof(text), "%H:%M:%S", &tm);
		snprintf(text + n, sizeof(text) - n, ".%03ld", now.tv_nsec / 1000000);
	}
	sgh_line_add(line, text);
}

static void add_json(struct sgh_line *line, struct segue_http_server *server, const char *event,
                     const struct sgh_log_field *fields)
{
	sgh_line_add(line, "{\"time\":\"");
	add_time(line, true);
	sgh_line_add(line, "\"");
	/* It is not known before the handle is open. */
	if (segue_http_generation(server)) {
		sgh_line_add(line, ",\"generation\":");
		sgh_line_number(line, (int64_t)segue_http_generation(server));
	}
	sgh_line_add(line, ",\"pid\":");
	sgh_line_number(line, getpid());
	sgh_line_add(line, ",\"event\":");
	sgh_line_json(line, event);
	for (; fields && fields->key; fields++) {
		sgh_line_add(line, ",");
		sgh_line_json(line, fields->key);
		sgh_line_add(line, ":");
		if (fields->text)
			sgh_line_json(line, fields->text);
		else if (fields->is_truth)
			sgh_line_add(line, fields->number ? "true" : "false");
		else
			sgh_line_number(line, fields->number);
	}
	add_bytes(line, "}", 1);
}

static void add_text(struct sgh_line *line, struct segue_http_server *server, const char *text)
{
	add_time(line, false);
	if (segue_http_generation(server)) {
		sgh_line_add(line, " generation ");
		sgh_line_number(line, (int64_t)segue_http_generation(server));
	}
	sgh_line_add(line, " pid ");
	sgh_line_number(line, getpid());
	sgh_line_add(line, " ");
	sgh_line_escaped(line, text);
}

bool sgh_log_is_file(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

ssize_t sgh_log_write(int fd, bool is_file, const char *data, size_t len)
{
	struct iovec part = { (void *)data, len };
	struct pollfd room = { .fd = fd, .events = POLLOUT };
	ssize_t n;

	do {
		if (is_file) {
			n = write(fd, data, len);
			continue;
		}
		/* The description is not ours alone: O_NONBLOCK would be seen by others. */
		n = pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
		if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL))
			continue;
		/* Kernels before 6.4, and terminals. */
		if (poll(&room, 1, 0) == 0)
			return -EAGAIN;
		n = write(fd, data, len);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int write_line(struct segue_http_server *server, struct sgh_line *line)
{
	line->data[line->len++] = '\n';
	return sgh_log_write(STDERR_FILENO, server->log_is_file, line->data, line->len) < 0 ? -1
	                                                                                    : 0;
}

/* Lines that nobody could be told about when they were due. */
static void say_lost(struct segue_http_server *server)
{
	unsigned long lost = atomic_exchange(&server->lines_lost, 0);
	struct sgh_line line = { 0 };
	char text[64];

	if (!lost)
		return;
	snprintf(text, sizeof(text), "log lines lost: %lu", lost);
	if (server->options.log_format == SEGUE_HTTP_LOG_JSON)
		add_json(&line, server, "warning",
		         SGH_FIELDS(SGH_TEXT("reason", text), SGH_NUMBER("lost", (int64_t)lost)));
	else
		add_text(&line, server, text);
	if (write_line(server, &line) < 0)
		atomic_fetch_add(&server->lines_lost, lost);
}

static void say(struct segue_http_server *server, const char *event,
                const struct sgh_log_field *fields, const char *human)
{
	struct sgh_line line;

	say_lost(server);
	line.len = 0;
	if (server->options.log_format == SEGUE_HTTP_LOG_JSON)
		add_json(&line, server, event, fields);
	else
		add_text(&line, server, human);
	if (write_line(server, &line) < 0)
		atomic_fetch_add(&server->lines_lost, 1);
}

void sgh_log(struct segue_http_server *server, const char *event,
             const struct sgh_log_field *fields, const char *text, ...)
{
	char human[1024];
	va_list args;

	if (server->options.quiet)
		return;
	va_start(args, text);
	vsnprintf(human, sizeof(human), text, args);
	va_end(args);
	say(server, event, fields, human);
}

void sgh_log_failure(struct segue_http_server *server, const char *reason)
{
	char human[1024];

	snprintf(human, sizeof(human), "cannot serve: %s", reason);
	say(server, "failed", SGH_FIELDS(SGH_TEXT("reason", reason)), human);
}

void sgh_log_remember(struct segue_http_server *server)
{
	char path[4096];
	ssize_t n;

	struct stat named, ours;

	server->log_is_file = sgh_log_is_file(STDERR_FILENO);
	if (!server->log_is_file)
		return;
	n = readlink("/proc/self/fd/2", path, sizeof(path) - 1);
	if (n <= 0)
		return;
	path[n] = '\0';
	/* A file that has been removed is called "x (deleted)": no name to open again. */
	if (fstat(STDERR_FILENO, &ours) < 0 || stat(path, &named) < 0 ||
	    ours.st_dev != named.st_dev || ours.st_ino != named.st_ino)
		return;
	free(server->log_path);
	server->log_path = strdup(path);
}

void sgh_log_reopen(struct segue_http_server *server)
{
	int fd;

	if (!server->log_path)
		return;
	fd = open(server->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
	if (fd < 0) {
		sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", strerror(errno))),
		        "the log cannot be opened again: %s: %s", server->log_path,
		        strerror(errno));
		return;
	}
	dup2(fd, STDERR_FILENO);
	close(fd);
}
