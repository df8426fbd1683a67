/* SPDX-License-Identifier: MIT */
/* The supervisor's own lines. */
#include "segue/log.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *service_name = "segue", *file_path;
static bool as_json;
static int log_fd = STDERR_FILENO;

int log_open(const char *service, bool json, const char *path)
{
	service_name = service;
	as_json = json;
	file_path = path;
	return path != NULL ? log_reopen() : 0;
}

int log_reopen(void)
{
	int fd;

	if (file_path == NULL)
		return 0;
	fd = sg_fd_above_stdio_take(
		open(file_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
	if (fd < 0)
		return -errno;
	if (log_fd != STDERR_FILENO)
		sg_fd_close(log_fd);
	log_fd = fd;
	return 0;
}

static void write_line(const char *line, size_t len)
{
	ssize_t n;

	do {
		n = write(log_fd, line, len);
	} while (n < 0 && errno == EINTR);
}

static void say_json(const char *event, json_t *fields, const char *text)
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
	if (dumped == NULL)
		return;
	/* In place of the end: one write is one line. */
	{
		size_t len = strlen(dumped);

		dumped[len] = '\n';
		write_line(dumped, len + 1);
	}
	free(dumped);
}

void log_say(const char *event, json_t *fields, const char *format, ...)
{
	char text[2048], line[2200];
	va_list args;
	int len;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (char *at = text; *at != '\0'; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	if (as_json) {
		say_json(event, fields, text);
	} else {
		len = snprintf(line, sizeof(line), "segue[%s]: %s\n", service_name, text);
		write_line(line, len < (int)sizeof(line) ? (size_t)len : sizeof(line) - 1);
	}
	json_decref(fields);
}
