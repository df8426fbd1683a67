/* SPDX-License-Identifier: MIT */
/*
 * Responses, as they are written: heads, framing, and what the module itself answers. All of it
 * on the loop of the request.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void sgh_do_reply(struct segue_http_request *req, int status, const char *type, const char *data,
                  size_t len)
{
	if (req->conn)
		send_head(req, status, type, len, data, len);
	ended(req);
}

void sgh_do_begin(struct segue_http_request *req, int status, const char *type, int64_t length)
{
	if (!req->conn)
		return;
	send_head(req, status, type, length, NULL, 0);
	if (req->loop->current != req->conn)
		sgh_connection_wake(req->conn);
}

void sgh_do_write(struct segue_http_request *req, const char *data, size_t len)
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
void sgh_do_end(struct segue_http_request *req, int64_t missing)
{
	struct iovec last = { (void *)"0\r\n\r\n", 5 };

	if (req->conn && !req->head_sent) {
		sgh_do_reply(req, 500, NULL, NULL, 0);
		return;
	}
	if (req->conn && req->chunked_answer && !req->is_head)
		sgh_output_write(req->conn, &last, 1);
	if (missing > 0 && !req->is_head && !has_no_body(req->status))
		req->closes = true;
	ended(req);
}

/* What the module itself answers. */

void sgh_response_refuse(struct segue_http_request *req, int status, const char *error)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "%d %s: %s\n", status, reason_of(status), error);

	req->begun = true;
	sgh_do_reply(req, status, "text/plain", text, n);
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
		sgh_do_reply(req, status, NULL, NULL, 0);
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
	if (!req->wants_writable || sgh_request_is_over(req))
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
