/* SPDX-License-Identifier: MIT */
/*
 * The access log: a line for each request, gathered by each loop and written once a round.
 * All loops write to one descriptor; opening the file again replaces what is under its number.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define BUFFER_BYTES 32768

static int open_file(const char *path)
{
	int fd;

	if (!strcmp(path, "-"))
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	else
		fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
	return fd < 0 ? -errno : fd;
}

int sgh_access_open(struct segue_http_server *server)
{
	int fd;

	server->access_fd = -1;
	if (!server->options.access_log)
		return 0;
	fd = open_file(server->options.access_log);
	if (fd < 0)
		return fd;
	server->access_fd = fd;
	return 0;
}

void sgh_access_reopen(struct segue_http_server *server)
{
	int fd;

	if (server->access_fd < 0 || !strcmp(server->options.access_log, "-"))
		return;
	fd = open_file(server->options.access_log);
	if (fd < 0) {
		sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", strerror(-fd))),
		        "the access log cannot be opened again: %s: %s", server->options.access_log,
		        strerror(-fd));
		return;
	}
	dup3(fd, server->access_fd, O_CLOEXEC);
	close(fd);
}

void sgh_access_flush(struct sgh_loop *loop)
{
	size_t at = 0;

	while (at < loop->access_len) {
		ssize_t n =
			write(loop->server->access_fd, loop->access + at, loop->access_len - at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		at += n;
	}
	loop->access_len = 0;
}

static const char *access_time(struct sgh_loop *loop)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (now.tv_sec != loop->access_second) {
		localtime_r(&now.tv_sec, &tm);
		strftime(loop->access_time, sizeof(loop->access_time), "%Y-%m-%dT%H:%M:%S%z", &tm);
		loop->access_second = now.tv_sec;
	}
	return loop->access_time;
}

static void add_text(struct sgh_line *line, const struct segue_http_request *req, const char *peer,
                     const char *target, int64_t ms)
{
	sgh_line_add(line, peer);
	sgh_line_add(line, " - - [");
	sgh_line_add(line, access_time(req->loop));
	sgh_line_add(line, "] \"");
	sgh_line_escaped(line, req->method ? req->method : "-");
	sgh_line_add(line, " ");
	sgh_line_escaped(line, target);
	sgh_line_add(line, req->minor ? " HTTP/1.1\" " : " HTTP/1.0\" ");
	sgh_line_number(line, req->status);
	sgh_line_add(line, " ");
	sgh_line_number(line, (int64_t)req->sent);
	sgh_line_add(line, " ");
	sgh_line_number(line, ms);
	sgh_line_add(line, "ms");
}

static void add_json(struct sgh_line *line, const struct segue_http_request *req, const char *peer,
                     const char *target, int64_t ms)
{
	sgh_line_add(line, "{\"time\":");
	sgh_line_json(line, access_time(req->loop));
	sgh_line_add(line, ",\"generation\":");
	sgh_line_number(line, (int64_t)segue_http_generation(req->loop->server));
	sgh_line_add(line, ",\"peer\":");
	sgh_line_json(line, peer);
	sgh_line_add(line, ",\"method\":");
	sgh_line_json(line, req->method ? req->method : "-");
	sgh_line_add(line, ",\"status\":");
	sgh_line_number(line, req->status);
	sgh_line_add(line, ",\"bytes\":");
	sgh_line_number(line, (int64_t)req->sent);
	sgh_line_add(line, ",\"took_ms\":");
	sgh_line_number(line, ms);
	sgh_line_add(line, ",\"target\":");
	sgh_line_json(line, target);
	sgh_line_add(line, "}");
}

void sgh_access_write(struct segue_http_request *req)
{
	struct sgh_loop *loop = req->loop;
	struct sgh_line line;
	int64_t ms = sgh_loop_now(loop) - req->since_ms;
	char target[1025];
	char peer[64];

	if (!loop->access)
		loop->access = malloc(BUFFER_BYTES);
	if (!loop->access)
		return;
	line.len = 0;
	segue_http_peer(req, peer, sizeof(peer));
	snprintf(target, sizeof(target), "%s", req->target ? req->target : "-");
	if (loop->server->options.log_format == SEGUE_HTTP_LOG_JSON)
		add_json(&line, req, peer, target, ms);
	else
		add_text(&line, req, peer, target, ms);
	line.data[line.len++] = '\n';
	if (loop->access_len + line.len > BUFFER_BYTES)
		sgh_access_flush(loop);
	memcpy(loop->access + loop->access_len, line.data, line.len);
	loop->access_len += line.len;
}
