/* SPDX-License-Identifier: MIT */
/*
 * Writing: at once where the kernel takes it, else from a buffer.
 *
 * What a connection writes while it runs is corked, so that the responses to pipelined requests
 * leave together. From outside of a run it goes to the kernel directly.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "internal.h"

#define OUTPUT_MIN 4096

size_t sgh_output_waiting(const struct sgh_connection *conn)
{
	size_t waiting = conn->out ? conn->out->end - conn->out->at : 0;

	if (conn->loop->current == conn)
		waiting += conn->loop->cork_len;
	return waiting;
}

/* How much the kernel took; 0 where it takes nothing now or ever. */
static size_t send_parts(struct sgh_connection *conn, struct iovec *parts, int count)
{
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
	ssize_t n;

	if (!conn->can_write || conn->dead)
		return 0;
	do {
		n = count == 1 ? send(conn->fd, parts->iov_base, parts->iov_len, MSG_NOSIGNAL)
		               : sendmsg(conn->fd, &message, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		conn->can_write = 0;
	else
		conn->dead = 1;
	return 0;
}

static void set_write_deadline(struct sgh_connection *conn)
{
	const struct segue_http_options *options = &conn->loop->server->options;

	sgh_connection_deadline(conn,
	                        sgh_rate_deadline(conn->out->since_ms, options->response_timeout_ms,
	                                          conn->out->sent, options->min_rate));
}

/* The clock runs while bytes wait, and goes on where it stopped when they wait again: a client
 * that takes a response in small sips is as slow as one that takes nothing. */
static void start_clock(struct sgh_connection *conn, struct sgh_output *out, size_t len)
{
	const struct segue_http_request *req = conn->req;

	out->since_ms = sgh_loop_now(conn->loop);
	out->sent = 0;
	if (req) {
		out->since_ms -= req->waited_ms;
		out->sent = req->sent > len ? req->sent - len : 0;
	}
}

/* Keep what the kernel did not take. */
static int keep(struct sgh_connection *conn, const char *data, size_t len)
{
	struct sgh_output *out = conn->out;
	size_t used = out ? out->end - out->at : 0;

	if (!out || out->end + len > out->room) {
		size_t room = OUTPUT_MIN;
		struct sgh_output *larger;

		while (room < used + len)
			room *= 2;
		larger = malloc(sizeof(*larger) + room);
		if (!larger)
			return -ENOMEM;
		*larger = (struct sgh_output){ .end = used, .room = room };
		if (out) {
			larger->since_ms = out->since_ms;
			larger->sent = out->sent;
		} else {
			start_clock(conn, larger, len);
		}
		if (used)
			memcpy(larger->data, out->data + out->at, used);
		free(out);
		conn->out = out = larger;
	}
	memcpy(out->data + out->end, data, len);
	out->end += len;
	return 0;
}

static int keep_rest(struct sgh_connection *conn, const struct iovec *parts, int count, size_t sent)
{
	for (int i = 0; i < count; i++) {
		size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
		int r = 0;

		sent -= skip;
		if (skip < parts[i].iov_len)
			r = keep(conn, (const char *)parts[i].iov_base + skip,
			         parts[i].iov_len - skip);
		if (r < 0) {
			/* A hole in the stream would be worse than its end. */
			conn->dead = 1;
			return r;
		}
	}
	if (conn->out)
		set_write_deadline(conn);
	return 0;
}

static size_t total(const struct iovec *parts, int count)
{
	size_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += parts[i].iov_len;
	return sum;
}

/* At most three parts. */
int sgh_output_write(struct sgh_connection *conn, const struct iovec *parts, int count)
{
	struct sgh_loop *loop = conn->loop;
	bool corked = loop->current == conn;
	struct iovec all[4];
	int n = 0;
	int r;

	if (conn->dead)
		return -EPIPE;
	if (conn->out)
		return keep_rest(conn, parts, count, 0);
	if (corked && loop->cork_len + total(parts, count) <= SGH_CORK_BYTES) {
		for (int i = 0; i < count; i++) {
			memcpy(loop->cork + loop->cork_len, parts[i].iov_base, parts[i].iov_len);
			loop->cork_len += parts[i].iov_len;
		}
		return 0;
	}
	if (corked && loop->cork_len)
		all[n++] = (struct iovec){ loop->cork, loop->cork_len };
	for (int i = 0; i < count; i++)
		all[n++] = parts[i];
	r = keep_rest(conn, all, n, send_parts(conn, all, n));
	if (corked)
		loop->cork_len = 0;
	return conn->dead ? -EPIPE : r;
}

static bool flush_kept(struct sgh_connection *conn)
{
	struct sgh_output *out = conn->out;
	struct iovec part = { out->data + out->at, out->end - out->at };
	size_t n = send_parts(conn, &part, 1);

	out->at += n;
	out->sent += n;
	if (out->at < out->end) {
		if (n)
			set_write_deadline(conn);
		return false;
	}
	if (conn->req)
		conn->req->waited_ms = sgh_loop_now(conn->loop) - out->since_ms;
	free(out);
	conn->out = NULL;
	if (conn->req)
		sgh_connection_deadline(conn, 0);
	else
		sgh_connection_idle(conn);
	return true;
}

/* Is everything with the kernel? */
bool sgh_output_flush(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	if (loop->current == conn && loop->cork_len) {
		struct iovec part = { loop->cork, loop->cork_len };

		loop->cork_len = 0;
		if (conn->out)
			keep_rest(conn, &part, 1, 0);
		else
			keep_rest(conn, &part, 1, send_parts(conn, &part, 1));
	}
	while (conn->out && conn->can_write && !conn->dead)
		if (flush_kept(conn))
			break;
	return !conn->out && !conn->dead;
}
