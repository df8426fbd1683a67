/* SPDX-License-Identifier: MIT */
/*
 * Answering, from any thread.
 *
 * Each public function checks on the caller's thread what can be checked there; the deed is
 * done on the request's loop: at once where the caller is on it, else by a message. Messages
 * keep their order, so an answer in pieces arrives in order, and the last one releases the request.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "internal.h"

/* A head without the program's own fields and type fits into it. */
#define HEAD_BASE  320
#define HEAD_STACK 1024
/* An unread body up to this size is read to its end, so that the connection can go on. */
#define DISCARD_MAX 65536

static const char *reason_of(int status)
{
	switch (status) {
	case 100:
		return "Continue";
	case 200:
		return "OK";
	case 201:
		return "Created";
	case 202:
		return "Accepted";
	case 203:
		return "Non-Authoritative Information";
	case 204:
		return "No Content";
	case 205:
		return "Reset Content";
	case 206:
		return "Partial Content";
	case 300:
		return "Multiple Choices";
	case 301:
		return "Moved Permanently";
	case 302:
		return "Found";
	case 303:
		return "See Other";
	case 304:
		return "Not Modified";
	case 307:
		return "Temporary Redirect";
	case 308:
		return "Permanent Redirect";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 406:
		return "Not Acceptable";
	case 408:
		return "Request Timeout";
	case 409:
		return "Conflict";
	case 410:
		return "Gone";
	case 411:
		return "Length Required";
	case 412:
		return "Precondition Failed";
	case 413:
		return "Content Too Large";
	case 414:
		return "URI Too Long";
	case 415:
		return "Unsupported Media Type";
	case 416:
		return "Range Not Satisfiable";
	case 417:
		return "Expectation Failed";
	case 421:
		return "Misdirected Request";
	case 422:
		return "Unprocessable Content";
	case 428:
		return "Precondition Required";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 501:
		return "Not Implemented";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	case 505:
		return "HTTP Version Not Supported";
	default:
		return "-";
	}
}

/* Text that grows inside of room that is known to be enough. */
static char *put(char *to, const char *text, size_t len)
{
	memcpy(to, text, len);
	return to + len;
}

static char *put_text(char *to, const char *text)
{
	return put(to, text, strlen(text));
}

#define PUT_LITERAL(to, text) put(to, text, sizeof(text) - 1)

static char *put_number(char *to, uint64_t number)
{
	char digits[20];
	int n = sizeof(digits);

	do {
		digits[--n] = '0' + number % 10;
		number /= 10;
	} while (number);
	return put(to, digits + n, sizeof(digits) - n);
}

static char *put_status(char *to, struct sgh_loop *loop, int status)
{
	if (status == 200) {
		to = PUT_LITERAL(to, "HTTP/1.1 200 OK\r\nDate: ");
	} else {
		to = PUT_LITERAL(to, "HTTP/1.1 ");
		to = put_number(to, status);
		*to++ = ' ';
		to = put_text(to, reason_of(status));
		to = PUT_LITERAL(to, "\r\nDate: ");
	}
	to = put_text(to, sgh_loop_date(loop));
	return PUT_LITERAL(to, "\r\n");
}

static bool has_no_body(int status)
{
	return status == 204 || status == 304 || status < 200;
}

/* Has the connection to end after this answer? */
static bool must_close(const struct segue_http_request *req)
{
	if (req->client_closes || req->want_close || !sgh_connection_can_keep(req->conn))
		return true;
	return req->body != SGH_BODY_DONE &&
	       (req->chunked_body || req->left > DISCARD_MAX || req->expects_continue);
}

static char *put_framing(struct segue_http_request *req, char *to, int status, int64_t length)
{
	req->chunked_answer = length < 0 && req->minor >= 1 && !has_no_body(status);
	if (length < 0 && !req->chunked_answer && !has_no_body(status))
		req->closes = true;
	if (req->chunked_answer) {
		to = PUT_LITERAL(to, "Transfer-Encoding: chunked\r\n");
	} else if (length >= 0 && !has_no_body(status)) {
		to = PUT_LITERAL(to, "Content-Length: ");
		to = put_number(to, length);
		to = PUT_LITERAL(to, "\r\n");
	}
	if (req->closes)
		return PUT_LITERAL(to, "Connection: close\r\n");
	if (req->minor == 0)
		return PUT_LITERAL(to, "Connection: keep-alive\r\n");
	return to;
}

/* The head, and with it the body where there is one already. */
static void send_head(struct segue_http_request *req, int status, const char *type, int64_t length,
                      const char *data, size_t len)
{
	size_t type_len = type ? strlen(type) : 0;
	size_t most = HEAD_BASE + type_len + req->extra_len;
	char stack[HEAD_STACK];
	char *head = most <= sizeof(stack) ? stack : malloc(most);
	struct iovec parts[2];
	char *to = head;

	if (!head) {
		req->conn->dead = 1;
		return;
	}
	req->closes = must_close(req);
	req->status = status;
	req->head_sent = true;
	to = put_status(to, req->loop, status);
	if (type) {
		to = PUT_LITERAL(to, "Content-Type: ");
		to = put(to, type, type_len);
		to = PUT_LITERAL(to, "\r\n");
	}
	to = put_framing(req, to, status, length);
	to = put(to, req->extra_len ? req->extra : "", req->extra_len);
	to = PUT_LITERAL(to, "\r\n");
	parts[0] = (struct iovec){ head, to - head };
	parts[1] = (struct iovec){ (void *)data, len };
	if (has_no_body(status) || req->is_head)
		len = 0;
	req->sent = len;
	sgh_output_write(req->conn, parts, len ? 2 : 1);
	if (head != stack)
		free(head);
}

/* The answer is whole, as far as the program is concerned. */
static void ended(struct segue_http_request *req)
{
	req->ended = true;
	sgh_after_free(req);
	if (!req->conn) {
		sgh_request_release(req);
		return;
	}
	if (req->body != SGH_BODY_DONE && !req->closes)
		req->body = SGH_BODY_DISCARD;
	req->paused = false;
	if (req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

static void do_reply(struct segue_http_request *req, int status, const char *type, const char *data,
                     size_t len)
{
	if (req->conn)
		send_head(req, status, type, len, data, len);
	ended(req);
}

static void do_begin(struct segue_http_request *req, int status, const char *type, int64_t length)
{
	if (!req->conn)
		return;
	send_head(req, status, type, length, NULL, 0);
	if (req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

static void do_write(struct segue_http_request *req, const char *data, size_t len)
{
	struct iovec parts[3] = { { NULL, 0 }, { (void *)data, len }, { (void *)"\r\n", 2 } };
	char size[24];

	if (!req->conn || !len || req->is_head || has_no_body(req->status))
		return;
	req->sent += len;
	if (req->chunked_answer) {
		parts[0] = (struct iovec){ size, snprintf(size, sizeof(size), "%zx\r\n", len) };
		sgh_output_write(req->conn, parts, 3);
	} else {
		sgh_output_write(req->conn, parts + 1, 1);
	}
	if (req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

/* @missing bytes of the promised length never came: the client has to see that. */
static void do_end(struct segue_http_request *req, int64_t missing)
{
	struct iovec last = { (void *)"0\r\n\r\n", 5 };

	if (req->conn && !req->head_sent) {
		do_reply(req, 500, NULL, NULL, 0);
		return;
	}
	if (req->conn && req->chunked_answer && !req->is_head)
		sgh_output_write(req->conn, &last, 1);
	if (missing > 0 && !req->is_head && !has_no_body(req->status))
		req->closes = true;
	ended(req);
}

struct sgh_after {
	struct sgh_timer timer;
	struct sgh_after *next, **prev;
	struct segue_http_request *req;
	void (*fn)(struct segue_http_request *req, void *ctx);
	void *ctx;
};

static void after_unlink(struct sgh_after *after)
{
	*after->prev = after->next;
	if (after->next)
		after->next->prev = after->prev;
}

static void fire_after(struct sgh_timer *timer)
{
	struct sgh_after *after = (struct sgh_after *)timer;
	struct segue_http_request *req = after->req;

	after_unlink(after);
	req->guards++;
	after->fn(req, after->ctx);
	free(after);
	req->guards--;
	sgh_request_release(req);
}

static void start_after(struct sgh_after *after, int64_t ms)
{
	struct segue_http_request *req = after->req;
	struct sgh_loop *loop = req->loop;

	if (!req->conn && atomic_load(&req->gone))
		ms = 0;
	after->next = req->afters;
	after->prev = &req->afters;
	if (after->next)
		after->next->prev = &after->next;
	req->afters = after;
	/* The clock of the loop may stand a little behind: never early. */
	if (sgh_timer_set(&loop->timers, &after->timer, sgh_loop_now(loop) + ms + (ms > 0)) < 0) {
		uv_update_time(&loop->uv);
		fire_after(&after->timer);
	}
}

void sgh_after_free(struct segue_http_request *req)
{
	while (req->afters) {
		struct sgh_after *after = req->afters;

		sgh_timer_stop(&req->loop->timers, &after->timer);
		after_unlink(after);
		free(after);
	}
}

/* The client has gone: whoever waits need not wait on. */
void sgh_after_hurry(struct segue_http_request *req)
{
	for (struct sgh_after *after = req->afters; after; after = after->next)
		sgh_timer_set(&req->loop->timers, &after->timer, sgh_loop_now(req->loop));
}

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
		do_reply(req, op->status, op->type, op->data, op->len);
		break;
	case OP_BEGIN:
		do_begin(req, op->status, op->type, op->number);
		break;
	case OP_WRITE:
		do_write(req, op->data, op->len);
		break;
	case OP_END:
		do_end(req, op->number);
		break;
	case OP_AFTER:
		start_after(op->after, op->number);
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
	struct segue_http_request *req = op->req;

	if (op->what == OP_WRITE) {
		pthread_mutex_lock(&loop->lock);
		req->posted -= op->len;
		pthread_mutex_unlock(&loop->lock);
	}
	do_op(op);
	free(op);
}

static bool on_loop(const struct segue_http_request *req)
{
	return sgh_this_loop == req->loop;
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
	sgh_loop_post(loop, &copy->message);
	return 0;
}

static void run_last(struct sgh_loop *loop, struct sgh_message *message)
{
	struct segue_http_request *req =
		(struct segue_http_request *)((char *)message -
	                                      offsetof(struct segue_http_request, last));

	do_end(req, 1);
}

/* The last word about a request must arrive, also where there is no memory for it. */
static int submit_last(const struct op *op)
{
	int r = submit(op);

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
		do_reply(req, op.status, op.type, op.data, op.len);
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
	do_write(req, data, len);
	if (req->conn->dead)
		return -EPIPE;
	if (sgh_output_waiting(req->conn) <= req->loop->server->options.max_unsent_bytes)
		return 0;
	req->wants_writable = true;
	return 1;
}

int segue_http_write(struct segue_http_request *req, const void *data, size_t len)
{
	struct op op = { .req = req, .what = OP_WRITE, .data = data, .len = len };
	int r, s;

	if (!req->begun || (req->promised >= 0 && len > (uint64_t)req->promised))
		return -EINVAL;
	if (!len)
		return 0;
	if (on_loop(req)) {
		r = write_on_loop(req, data, len);
	} else {
		r = wait_for_client(req, len);
		if (r < 0)
			return r;
		s = submit(&op);
		if (s < 0)
			return s;
	}
	if (r >= 0 && req->promised >= 0)
		req->promised -= len;
	return r;
}

int segue_http_end(struct segue_http_request *req)
{
	struct op op = { .req = req, .what = OP_END, .number = req->promised };

	if (on_loop(req)) {
		do_end(req, op.number);
		return 0;
	}
	return submit_last(&op);
}

int segue_http_after(struct segue_http_request *req, int64_t ms,
                     void (*fn)(struct segue_http_request *req, void *ctx), void *ctx)
{
	struct op op = { .req = req, .what = OP_AFTER, .number = ms > 0 ? ms : 0 };
	int r;

	op.after = malloc(sizeof(*op.after));
	if (!op.after)
		return -ENOMEM;
	sgh_timer_init(&op.after->timer, fire_after);
	op.after->req = req;
	op.after->fn = fn;
	op.after->ctx = ctx;
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
	to = put(req->extra + req->extra_len, name, name_len);
	to = PUT_LITERAL(to, ": ");
	to = put(to, value, value_len);
	to = PUT_LITERAL(to, "\r\n");
	req->extra_len = to - req->extra;
	return 0;
}

/* What the module itself answers. */

void sgh_response_refuse(struct segue_http_request *req, int status, const char *error)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "%d %s: %s\n", status, reason_of(status), error);

	req->begun = true;
	do_reply(req, status, "text/plain", text, n);
}

void sgh_response_allow(struct segue_http_request *req, int status, const char *path,
                        size_t path_len)
{
	char allow[256];

	sgh_route_allow(req->loop->server->routes, path, path_len, allow, sizeof(allow));
	segue_http_add_header(req, "Allow", allow);
	req->begun = true;
	if (status == 405)
		sgh_response_refuse(req, status, "see the Allow field");
	else
		do_reply(req, status, NULL, NULL, 0);
}

/* An answer to what never became a request. */
void sgh_response_raw(struct sgh_connection *conn, int status, const char *error)
{
	char text[160], head[HEAD_BASE];
	int n = snprintf(text, sizeof(text), "%d %s: %s\n", status, reason_of(status), error);
	struct iovec parts[2] = { { head, 0 }, { text, n } };
	char *to = put_status(head, conn->loop, status);

	to = PUT_LITERAL(to, "Content-Type: text/plain\r\nContent-Length: ");
	to = put_number(to, n);
	to = PUT_LITERAL(to, "\r\nConnection: close\r\n\r\n");
	parts[0].iov_len = to - head;
	sgh_output_write(conn, parts, 2);
}

void sgh_response_continue(struct segue_http_request *req)
{
	struct iovec part = { (void *)"HTTP/1.1 100 Continue\r\n\r\n", 25 };

	req->expects_continue = false;
	/* A client that has begun to send does not wait. */
	if (req->conn && !req->head_sent &&
	    (req->loop->current != req->conn || req->loop->input_at == req->loop->input_end))
		sgh_output_write(req->conn, &part, 1);
}

/* Tell the program that it may write on; true where it was told. */
bool sgh_response_progress(struct segue_http_request *req)
{
	if (!req->wants_writable || req->ended)
		return false;
	sgh_output_flush(req->conn);
	if (sgh_output_waiting(req->conn) > req->loop->server->options.max_unsent_bytes / 2)
		return false;
	req->wants_writable = false;
	if (req->writable)
		req->writable(req, req->writable_ctx);
	return true;
}

/* Other threads wait for how much the kernel has taken. */
void sgh_response_publish(struct segue_http_request *req)
{
	struct sgh_loop *loop = req->loop;

	if (!atomic_load_explicit(&req->threaded, memory_order_relaxed))
		return;
	pthread_mutex_lock(&loop->lock);
	req->waiting = sgh_output_waiting(req->conn);
	pthread_cond_broadcast(&loop->written);
	pthread_mutex_unlock(&loop->lock);
}
