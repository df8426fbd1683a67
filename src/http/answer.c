/* SPDX-License-Identifier: MIT */
/*
 * Answering, from any thread.
 *
 * Each public function checks on the caller's thread what can be checked there; the deed is
 * done on the request's loop: at once where the caller is on it and nothing is on its way there,
 * else by a message. Messages keep their order, so an answer in pieces arrives in order, whoever
 * calls, and the last one releases the request.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

/* What is told to a request's loop from another thread. */
struct op {
	struct sgh_message message;
	struct segue_http_request *req;
	enum {
		OP_REPLY,
		OP_BEGIN,
		OP_WRITE,
		OP_END,
		OP_AFTER,
		OP_RESUME,
		OP_PAUSE,
		OP_ON_BODY,
		OP_ON_WRITABLE,
		OP_ON_DISCONNECT,
	} what;
	int status;
	int64_t number;
	struct sgh_after *after;
	void (*take)(struct segue_http_request *req, const void *data, size_t len, void *ctx);
	void (*notice)(struct segue_http_request *req, bool reset, void *ctx);
	void (*writable)(struct segue_http_request *req, void *ctx);
	void *ctx;
	const char *type;
	const char *data;
	size_t len;
	char copy[];
};

static void do_resume(struct segue_http_request *req)
{
	req->paused = false;
	req->body_since_ms = sgh_loop_now(req->loop);
	req->rated = 0;
	if (req->conn && req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

static void do_on_body(struct segue_http_request *req, const struct op *op)
{
	req->take = op->take;
	req->take_ctx = op->ctx;
	if (!req->conn && atomic_load(&req->gone)) {
		req->take(req, NULL, 0, req->take_ctx);
		return;
	}
	if (req->body == SGH_BODY_DONE) {
		req->take(req, "", 0, req->take_ctx);
		return;
	}
	if (req->body == SGH_BODY_WAITS)
		req->body = SGH_BODY_PIECES;
	if (req->expects_continue)
		sgh_response_continue(req);
	do_resume(req);
}

/* The writer was told to wait: it is called when the client has taken enough, or has gone. */
static void promise_writable(struct segue_http_request *req)
{
	if (req->conn) {
		req->wants_writable = true;
		if (req->loop->current != req->conn)
			sgh_connection_wake(req->conn);
	} else if (req->writable && !req->answered) {
		req->writable(req, req->writable_ctx);
	}
}

/* A piece from another thread. Whoever waits there is woken here, for not every piece reaches the
 * client: the answer to HEAD has no body. */
static void do_posted_write(struct segue_http_request *req, const struct op *op)
{
	struct sgh_loop *loop = req->loop;

	sgh_do_write(req, op->data, op->len);
	pthread_mutex_lock(&loop->lock);
	req->posted -= op->len;
	req->waiting = req->conn ? sgh_output_waiting(req->conn) : 0;
	pthread_cond_broadcast(&loop->written);
	pthread_mutex_unlock(&loop->lock);
	if (op->number)
		promise_writable(req);
}

static void do_on_disconnect(struct segue_http_request *req, const struct op *op)
{
	if (!req->conn) {
		op->notice(req, true, op->ctx);
		return;
	}
	req->disconnected = op->notice;
	req->disconnected_ctx = op->ctx;
	if (req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

static void do_op(struct op *op)
{
	struct segue_http_request *req = op->req;

	req->guards++;
	switch (op->what) {
	case OP_REPLY:
		sgh_do_reply(req, op->status, op->type, op->data, op->len);
		break;
	case OP_BEGIN:
		sgh_do_begin(req, op->status, op->type, op->number);
		break;
	case OP_WRITE:
		do_posted_write(req, op);
		break;
	case OP_END:
		sgh_do_end(req, op->number);
		break;
	case OP_AFTER:
		sgh_after_start(op->after, op->number);
		break;
	case OP_RESUME:
		do_resume(req);
		break;
	case OP_PAUSE:
		req->paused = true;
		break;
	case OP_ON_BODY:
		do_on_body(req, op);
		break;
	case OP_ON_WRITABLE:
		req->writable = op->writable;
		req->writable_ctx = op->ctx;
		break;
	case OP_ON_DISCONNECT:
		do_on_disconnect(req, op);
		break;
	}
	req->guards--;
	sgh_request_release(req);
}

static void run_op(struct sgh_loop *loop, struct sgh_message *message)
{
	struct op *op = (struct op *)message;

	atomic_fetch_sub(&op->req->posted_calls, 1);
	do_op(op);
	free(op);
}

static bool on_loop(const struct segue_http_request *req)
{
	return sgh_this_loop == req->loop && !atomic_load(&req->posted_calls);
}

/* Do it at once where we are on the request's loop, else send a copy there. */
static int submit(const struct op *op)
{
	struct sgh_loop *loop = op->req->loop;
	size_t type_len = op->type ? strlen(op->type) + 1 : 0;
	struct op *copy;

	if (on_loop(op->req)) {
		do_op((struct op *)op);
		return 0;
	}
	copy = malloc(sizeof(*copy) + type_len + op->len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, op, sizeof(*op));
	if (type_len) {
		memcpy(copy->copy, op->type, type_len);
		copy->type = copy->copy;
	}
	if (op->len) {
		memcpy(copy->copy + type_len, op->data, op->len);
		copy->data = copy->copy + type_len;
	}
	copy->message = (struct sgh_message){ .run = run_op };
	atomic_fetch_add(&op->req->posted_calls, 1);
	sgh_loop_post(loop, &copy->message);
	return 0;
}

static void run_last(struct sgh_loop *loop, struct sgh_message *message)
{
	struct segue_http_request *req =
		(struct segue_http_request *)((char *)message -
	                                      offsetof(struct segue_http_request, last));

	sgh_do_end(req, 1);
}

/* The last word about a request must arrive, also where there is no memory for it. */
static int submit_last(const struct op *op)
{
	int r;

	if (sgh_this_loop == op->req->loop)
		op->req->answered = true;
	r = submit(op);
	if (r < 0) {
		op->req->last = (struct sgh_message){ .run = run_last, .embedded = true };
		sgh_loop_post(op->req->loop, &op->req->last);
	}
	return r;
}

static bool type_is_valid(const char *type)
{
	return !type || sgh_is_field_value(type, strlen(type));
}

int segue_http_reply_bytes(struct segue_http_request *req, int status, const char *type,
                           const void *data, size_t len)
{
	struct op op = { .req = req,
		         .what = OP_REPLY,
		         .status = status,
		         .type = type,
		         .data = data,
		         .len = len };
	int r = 0;

	if (req->begun) {
		segue_http_end(req);
		return -EALREADY;
	}
	if (status < 200 || status > 599 || !type_is_valid(type)) {
		op.status = 500;
		op.type = NULL;
		op.len = 0;
		r = -EINVAL;
	}
	req->begun = true;
	if (on_loop(req)) {
		sgh_do_reply(req, op.status, op.type, op.data, op.len);
		return r;
	}
	return submit_last(&op) < 0 ? -ENOMEM : r;
}

int segue_http_reply(struct segue_http_request *req, int status, const char *type, const char *text)
{
	return segue_http_reply_bytes(req, status, type, text, text ? strlen(text) : 0);
}

int segue_http_begin(struct segue_http_request *req, int status, const char *type, int64_t length)
{
	struct op op = { .req = req,
		         .what = OP_BEGIN,
		         .status = status,
		         .type = type,
		         .number = length < 0 ? -1 : length };
	int r;

	if (req->begun)
		return -EALREADY;
	if (status < 200 || status > 599 || !type_is_valid(type))
		return -EINVAL;
	r = submit(&op);
	if (r < 0)
		return r;
	req->begun = true;
	req->promised = op.number;
	return 0;
}

/* From other threads: wait until the client has taken enough, then count what is coming. */
static int wait_for_client(struct segue_http_request *req, size_t len)
{
	struct sgh_loop *loop = req->loop;
	uint32_t most = loop->server->options.max_unsent_bytes;
	bool may_block = !sgh_this_loop;
	int r = 0;

	atomic_store(&req->threaded, true);
	pthread_mutex_lock(&loop->lock);
	while (may_block && req->posted + req->waiting > most && !atomic_load(&req->gone) &&
	       !loop->closed)
		pthread_cond_wait(&loop->written, &loop->lock);
	if (atomic_load(&req->gone) || loop->closed)
		r = -EPIPE;
	else
		req->posted += len;
	if (r == 0 && !may_block && req->posted + req->waiting > most)
		r = 1;
	pthread_mutex_unlock(&loop->lock);
	return r;
}

static int write_on_loop(struct segue_http_request *req, const void *data, size_t len)
{
	if (!req->conn || req->conn->dead)
		return -EPIPE;
	sgh_do_write(req, data, len);
	if (req->conn->dead)
		return -EPIPE;
	if (sgh_output_waiting(req->conn) <= req->loop->server->options.max_unsent_bytes)
		return 0;
	req->wants_writable = true;
	return 1;
}

/* From another thread. Once it is posted the request may be written on by the loop already. */
static int post_write(struct segue_http_request *req, const void *data, size_t len)
{
	struct op op = { .req = req, .what = OP_WRITE, .data = data, .len = len };
	int64_t promised = req->promised;
	int r = wait_for_client(req, len);
	int s;

	if (r < 0)
		return r;
	op.number = r;
	if (promised >= 0)
		req->promised -= len;
	s = submit(&op);
	if (s == 0)
		return r;
	req->promised = promised;
	pthread_mutex_lock(&req->loop->lock);
	req->posted -= len;
	pthread_mutex_unlock(&req->loop->lock);
	return s;
}

int segue_http_write(struct segue_http_request *req, const void *data, size_t len)
{
	int r;

	if (!req->begun || (req->promised >= 0 && len > (uint64_t)req->promised))
		return -EINVAL;
	if (!len)
		return 0;
	if (!on_loop(req))
		return post_write(req, data, len);
	r = write_on_loop(req, data, len);
	if (r >= 0 && req->promised >= 0)
		req->promised -= len;
	return r;
}

int segue_http_end(struct segue_http_request *req)
{
	struct op op = { .req = req, .what = OP_END, .number = req->promised };

	if (on_loop(req)) {
		sgh_do_end(req, op.number);
		return 0;
	}
	return submit_last(&op);
}

int segue_http_after(struct segue_http_request *req, int64_t ms,
                     void (*fn)(struct segue_http_request *req, void *ctx), void *ctx)
{
	struct op op = { .req = req, .what = OP_AFTER, .number = ms > 0 ? ms : 0 };
	int r;

	op.after = sgh_after_new(req, fn, ctx);
	if (!op.after)
		return -ENOMEM;
	r = submit(&op);
	if (r < 0)
		free(op.after);
	return r;
}

int segue_http_on_body(struct segue_http_request *req,
                       void (*take)(struct segue_http_request *req, const void *data, size_t len,
                                    void *ctx),
                       void *ctx)
{
	struct op op = { .req = req, .what = OP_ON_BODY, .take = take, .ctx = ctx };

	return submit(&op);
}

int segue_http_pause(struct segue_http_request *req)
{
	struct op op = { .req = req, .what = OP_PAUSE };

	return submit(&op);
}

int segue_http_resume(struct segue_http_request *req)
{
	struct op op = { .req = req, .what = OP_RESUME };

	return submit(&op);
}

int segue_http_on_writable(struct segue_http_request *req,
                           void (*writable)(struct segue_http_request *req, void *ctx), void *ctx)
{
	struct op op = { .req = req, .what = OP_ON_WRITABLE, .writable = writable, .ctx = ctx };

	return submit(&op);
}

int segue_http_on_disconnect(struct segue_http_request *req,
                             void (*notice)(struct segue_http_request *req, bool reset, void *ctx),
                             void *ctx)
{
	struct op op = { .req = req, .what = OP_ON_DISCONNECT, .notice = notice, .ctx = ctx };

	return submit(&op);
}

int segue_http_close_after(struct segue_http_request *req)
{
	if (req->begun)
		return -EALREADY;
	req->want_close = true;
	return 0;
}

/* Framing and connection are the module's business: two writers of them would be a hole. */
static bool is_ours(const char *name)
{
	static const char *const ours[] = { "Connection",        "Content-Length",
		                            "Content-Type",      "Date",
		                            "Keep-Alive",        "Upgrade",
		                            "Transfer-Encoding", "Trailer" };

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (!strcasecmp(name, ours[i]))
			return true;
	return false;
}

int segue_http_add_header(struct segue_http_request *req, const char *name, const char *value)
{
	size_t name_len = strlen(name), value_len = strlen(value);
	size_t room = req->extra_room ? req->extra_room : 256;
	char *to;

	if (req->begun)
		return -EALREADY;
	if (!sgh_is_token(name, name_len) || !sgh_is_field_value(value, value_len) || is_ours(name))
		return -EINVAL;
	while (room < req->extra_len + name_len + value_len + 4)
		room *= 2;
	if (room != req->extra_room) {
		char *larger = realloc(req->extra, room);

		if (!larger)
			return -ENOMEM;
		req->extra = larger;
		req->extra_room = room;
	}
	to = mempcpy(req->extra + req->extra_len, name, name_len);
	to = mempcpy(to, ": ", 2);
	to = mempcpy(to, value, value_len);
	to = mempcpy(to, "\r\n", 2);
	req->extra_len = to - req->extra;
	return 0;
}
