/* SPDX-License-Identifier: MIT */
/*
 * The access log: a line for each request, gathered by each loop and written once a round.
 * All loops write to one descriptor; opening the file again replaces what is under its number.
 * A head that the guard refuses never becomes a request, and has a line without method and target.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
	server->access_is_file = sgh_log_is_file(fd);
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

/* As many whole lines as a pipe takes at once. */
static size_t portion(const char *data, size_t len)
{
	const char *end;

	if (len <= PIPE_BUF)
		return len;
	end = memrchr(data, '\n', PIPE_BUF);
	return end ? (size_t)(end - data) + 1 : PIPE_BUF;
}

void sgh_access_flush(struct sgh_loop *loop)
{
	struct segue_http_server *server = loop->server;
	size_t at = 0;

	while (at < loop->access_len) {
		const char *data = loop->access + at;
		size_t len = loop->access_len - at;
		ssize_t n;

		if (!server->access_is_file)
			len = portion(data, len);
		n = sgh_log_write(server->access_fd, server->access_is_file, data, len);
		if (n <= 0)
			break;
		at += n;
	}
	for (; at < loop->access_len; at++)
		if (loop->access[at] == '\n')
			atomic_fetch_add(&server->lines_lost, 1);
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

/* What a line says. */
struct entry {
	const struct sgh_peer *peer;
	const char *method, *target, *version;
	int status;
	int64_t bytes, ms;
};

static void add_text(struct sgh_line *line, struct sgh_loop *loop, const struct entry *entry,
                     const char *peer)
{
	sgh_line_add(line, peer);
	sgh_line_add(line, " - - [");
	sgh_line_add(line, access_time(loop));
	sgh_line_add(line, "] \"");
	sgh_line_escaped(line, entry->method);
	sgh_line_add(line, " ");
	sgh_line_escaped(line, entry->target);
	sgh_line_add(line, " ");
	sgh_line_add(line, entry->version);
	sgh_line_add(line, "\" ");
	sgh_line_number(line, entry->status);
	sgh_line_add(line, " ");
	sgh_line_number(line, entry->bytes);
	sgh_line_add(line, " ");
	sgh_line_number(line, entry->ms);
	sgh_line_add(line, "ms");
}

static void add_json(struct sgh_line *line, struct sgh_loop *loop, const struct entry *entry,
                     const char *peer)
{
	sgh_line_add(line, "{\"time\":");
	sgh_line_json(line, access_time(loop));
	sgh_line_add(line, ",\"generation\":");
	sgh_line_number(line, (int64_t)segue_http_generation(loop->server));
	sgh_line_add(line, ",\"peer\":");
	sgh_line_json(line, peer);
	sgh_line_add(line, ",\"method\":");
	sgh_line_json(line, entry->method);
	sgh_line_add(line, ",\"status\":");
	sgh_line_number(line, entry->status);
	sgh_line_add(line, ",\"bytes\":");
	sgh_line_number(line, entry->bytes);
	sgh_line_add(line, ",\"took_ms\":");
	sgh_line_number(line, entry->ms);
	sgh_line_add(line, ",\"target\":");
	sgh_line_json(line, entry->target);
	sgh_line_add(line, "}");
}

static void add_line(struct sgh_loop *loop, const struct entry *entry)
{
	struct sgh_line line = { 0 };
	char peer[64];

	if (!loop->access)
		loop->access = malloc(BUFFER_BYTES);
	if (!loop->access) {
		atomic_fetch_add(&loop->server->lines_lost, 1);
		return;
	}
	sgh_peer_text(entry->peer, peer, sizeof(peer));
	if (loop->server->options.log_format == SEGUE_HTTP_LOG_JSON)
		add_json(&line, loop, entry, peer);
	else
		add_text(&line, loop, entry, peer);
	line.data[line.len++] = '\n';
	if (loop->access_len + line.len > BUFFER_BYTES)
		sgh_access_flush(loop);
	memcpy(loop->access + loop->access_len, line.data, line.len);
	loop->access_len += line.len;
}

void sgh_access_write(struct segue_http_request *req)
{
	char target[1025];
	struct entry entry = {
		.peer = &req->peer,
		.method = req->method ? req->method : "-",
		.target = target,
		.version = req->minor ? "HTTP/1.1" : "HTTP/1.0",
		.status = req->status,
		.bytes = (int64_t)req->sent,
		.ms = (int64_t)(sgh_loop_now(req->loop) - req->since_ms),
	};

	snprintf(target, sizeof(target), "%s", req->target ? req->target : "-");
	add_line(req->loop, &entry);
}

/* @since_ms: when its head began. */
void sgh_access_refused(struct sgh_connection *conn, int status, uint64_t since_ms)
{
	struct entry entry = {
		.peer = &conn->peer,
		.method = "-",
		.target = "-",
		.version = "-",
		.status = status,
		.ms = (int64_t)(sgh_loop_now(conn->loop) - since_ms),
	};

	if (conn->loop->server->access_fd >= 0)
		add_line(conn->loop, &entry);
}
