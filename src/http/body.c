/* SPDX-License-Identifier: MIT */
/*
 * The body of a request: kept whole, given to the program piece by piece, or read to be
 * forgotten, so that the connection can go on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define BODY_MIN 1024

/* When so many bytes must have moved that began at @since_ms. */
uint64_t sgh_rate_deadline(uint64_t since_ms, int64_t base_ms, uint64_t bytes, uint32_t rate)
{
	return since_ms + base_ms + (rate ? bytes * 1000 / rate : 0);
}

static void set_deadline(struct sgh_connection *conn, const struct segue_http_request *req)
{
	const struct segue_http_options *options = &conn->loop->server->options;

	sgh_connection_deadline(conn,
	                        sgh_rate_deadline(req->body_since_ms, options->body_timeout_ms,
	                                          req->rated, options->min_rate));
}

/* The body cannot be read to its end: who has the request just now decides what is said. */
static void refuse(struct sgh_connection *conn, struct segue_http_request *req, int status,
                   const char *error)
{
	if (req->ended) {
		req->closes = true;
	} else if (!req->handed) {
		req->want_close = true;
		sgh_response_refuse(req, status, error);
	} else {
		/* The program learns that the body has no end; the client gets the reason where
		 * the program has not begun to answer. */
		conn->req = NULL;
		if (req->head_sent) {
			conn->dead = 1;
		} else {
			req->status = status;
			sgh_connection_refuse(conn, status, error);
		}
		sgh_request_orphan(req);
	}
}

/* The clock has run out, perhaps: bytes that came since may have moved the deadline. */
void sgh_body_late(struct sgh_connection *conn, struct segue_http_request *req)
{
	if (req->body == SGH_BODY_DONE || req->body == SGH_BODY_WAITS || req->paused)
		return;
	refuse(conn, req, 408, "the body did not come in time");
	sgh_connection_wake(conn);
}

static int append(struct segue_http_request *req, const char *data, size_t len)
{
	size_t room = req->body_room ? req->body_room : BODY_MIN;
	char *larger;

	while (room < req->body_len + len + 1)
		room *= 2;
	if (room != req->body_room) {
		larger = realloc(req->body_data, room);
		if (!larger)
			return -ENOMEM;
		req->body_data = larger;
		req->body_room = room;
	}
	memcpy(req->body_data + req->body_len, data, len);
	req->body_len += len;
	/* A body that is text can be used as a string. */
	req->body_data[req->body_len] = '\0';
	return 0;
}

/* 0, or the status of a refusal. */
static int deliver(struct segue_http_request *req, const char *data, size_t len)
{
	const struct segue_http_options *options = &req->loop->server->options;

	req->received += len;
	req->rated += len;
	if (req->body == SGH_BODY_WHOLE) {
		if (req->received > (uint64_t)options->max_body_bytes)
			return 413;
		if (append(req, data, len) < 0)
			return 503;
	} else if (req->body == SGH_BODY_PIECES) {
		if (options->max_streamed_bytes >= 0 &&
		    req->received > (uint64_t)options->max_streamed_bytes)
			return 413;
		if (!req->answered)
			req->take(req, data, len, req->take_ctx);
	}
	return 0;
}

static void finish(struct sgh_connection *conn, struct segue_http_request *req)
{
	enum sgh_body how = req->body;

	req->body = SGH_BODY_DONE;
	sgh_connection_deadline(conn, 0);
	if (how == SGH_BODY_WHOLE)
		sgh_request_dispatch(req);
	else if (how == SGH_BODY_PIECES && !req->answered)
		req->take(req, "", 0, req->take_ctx);
}

static bool take_plain(struct sgh_connection *conn, struct segue_http_request *req)
{
	struct sgh_loop *loop = conn->loop;
	size_t len = loop->input_end - loop->input_at;
	const char *data = loop->input + loop->input_at;
	int status;

	if (len > req->left)
		len = req->left;
	loop->input_at += len;
	req->left -= len;
	status = deliver(req, data, len);
	if (status)
		refuse(conn, req, status, "the body is too large");
	else if (!req->left)
		finish(conn, req);
	return true;
}

static bool take_chunked(struct sgh_connection *conn, struct segue_http_request *req)
{
	struct sgh_loop *loop = conn->loop;
	const struct segue_http_options *options = &loop->server->options;
	struct sgh_chunk_limits limits = { options->max_chunk_line_bytes, options->max_head_bytes };
	const char *piece = NULL;
	size_t used = 0, len = 0;
	int status = 0;
	int r = sgh_chunk_read(&req->chunk, &limits, loop->input + loop->input_at,
	                       loop->input_end - loop->input_at, &used, &piece, &len);

	if (r < 0) {
		loop->input_at = loop->input_end;
		refuse(conn, req, req->chunk.status, req->chunk.error);
		return true;
	}
	loop->input_at += used;
	if (len)
		status = deliver(req, piece, len);
	if (status)
		refuse(conn, req, status, "the body is too large");
	else if (r == 1)
		finish(conn, req);
	return true;
}

/* One piece. False where nothing can be done now. */
bool sgh_body_step(struct sgh_connection *conn, struct segue_http_request *req)
{
	struct sgh_loop *loop = conn->loop;
	int r;

	if (req->body == SGH_BODY_WAITS || req->paused) {
		sgh_connection_deadline(conn, 0);
		return sgh_response_progress(req);
	}
	if (loop->input_at == loop->input_end) {
		r = sgh_connection_fill(conn);
		if (r < 0)
			conn->dead = 1;
		if (r == 0) {
			set_deadline(conn, req);
			return sgh_response_progress(req);
		}
		if (r < 0)
			return false;
	}
	return req->chunked_body ? take_chunked(conn, req) : take_plain(conn, req);
}
