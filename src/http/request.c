/* SPDX-License-Identifier: MIT */
/*
 * A request, from its head to its release.
 *
 * The head is copied once and cut into strings in place; what the program asks for are
 * pointers into that copy, which stay valid on any thread until the request is answered.
 */
#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "head.h"
#include "internal.h"

#define SPARES_MAX  256
#define BLOCK_BYTES 4096

void *sgh_request_alloc(struct segue_http_request *req, size_t size)
{
	char *at;

	size = (size + 7) & ~(size_t)7;
	if (size > (size_t)(req->room_end - req->room)) {
		size_t bytes = size > BLOCK_BYTES ? size : BLOCK_BYTES;
		struct sgh_block *block = malloc(sizeof(*block) + bytes);

		if (!block)
			return NULL;
		block->next = req->blocks;
		req->blocks = block;
		req->room = block->data;
		req->room_end = block->data + bytes;
	}
	at = req->room;
	req->room += size;
	return at;
}

static struct segue_http_request *request_new(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	struct segue_http_request *req = loop->spare_requests;

	if (req) {
		loop->spare_requests = req->next;
		loop->spare_count--;
	} else {
		req = malloc(sizeof(*req));
		if (!req)
			return NULL;
	}
	memset(req, 0, offsetof(struct segue_http_request, inline_room));
	req->loop = loop;
	req->conn = conn;
	req->promised = -1;
	req->room = req->inline_room;
	req->room_end = req->inline_room + sizeof(req->inline_room);
	req->since_ms = sgh_loop_now(loop);
	req->peer = conn->peer;
	conn->req = req;
	sgh_count(&loop->counters.in_flight, 1);
	return req;
}

/* Nobody holds it any more. */
void sgh_request_free(struct segue_http_request *req)
{
	struct sgh_loop *loop = req->loop;
	bool was_held = atomic_load_explicit(&req->gone, memory_order_relaxed);

	if (loop->server->access_fd >= 0)
		sgh_access_write(req);
	sgh_after_free(req);
	sgh_count(&loop->counters.in_flight, -1);
	if (req->ended && req->conn)
		sgh_count(&loop->counters.answered, 1);
	while (req->blocks) {
		struct sgh_block *next = req->blocks->next;

		free(req->blocks);
		req->blocks = next;
	}
	free(req->body_data);
	free(req->extra);
	if (loop->spare_count < SPARES_MAX) {
		req->next = loop->spare_requests;
		loop->spare_requests = req;
		loop->spare_count++;
	} else {
		free(req);
	}
	if (was_held)
		sgh_server_request_released(loop->server);
}

void sgh_requests_free_spare(struct sgh_loop *loop)
{
	while (loop->spare_requests) {
		struct segue_http_request *req = loop->spare_requests;

		loop->spare_requests = req->next;
		free(req);
	}
	loop->spare_count = 0;
}

/* Release a request without connection, where neither the program nor a call into it has it. */
void sgh_request_release(struct segue_http_request *req)
{
	if (!req->conn && req->ended && !req->guards)
		sgh_request_free(req);
}

static void call_the_gone(struct segue_http_request *req)
{
	if (req->disconnected && !req->answered)
		req->disconnected(req, true, req->disconnected_ctx);
	if (!sgh_request_is_over(req) && req->body == SGH_BODY_PIECES)
		req->take(req, NULL, 0, req->take_ctx);
	if (!sgh_request_is_over(req) && req->wants_writable && req->writable) {
		req->wants_writable = false;
		req->writable(req, req->writable_ctx);
	}
}

/* The connection is gone; the caller has taken the request off it. */
void sgh_request_orphan(struct segue_http_request *req)
{
	struct sgh_loop *loop = req->loop;

	req->conn = NULL;
	if (req->ended || !req->handed) {
		sgh_request_free(req);
		return;
	}
	atomic_fetch_add(&loop->server->held, 1);
	pthread_mutex_lock(&loop->lock);
	atomic_store(&req->gone, true);
	pthread_cond_broadcast(&loop->written);
	pthread_mutex_unlock(&loop->lock);
	req->guards++;
	call_the_gone(req);
	req->guards--;
	if (!req->ended)
		sgh_after_hurry(req);
	sgh_request_release(req);
}

static int cut_fields(struct segue_http_request *req, char *head, size_t len,
                      const struct sgh_guard *guard)
{
	struct sgh_field *fields = sgh_request_alloc(req, guard->fields * sizeof(*fields));
	int r;

	req->fields = sgh_request_alloc(req, guard->fields * sizeof(*req->fields));
	if (!fields || !req->fields)
		return -ENOMEM;
	r = sgh_head_parse(guard, head, len, fields);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < guard->fields; i++) {
		head[fields[i].name + fields[i].name_len] = '\0';
		req->fields[i].name = head + fields[i].name;
		req->fields[i].value = "";
		if (!fields[i].value_len)
			continue;
		head[fields[i].value + fields[i].value_len] = '\0';
		req->fields[i].value = head + fields[i].value;
	}
	req->field_count = guard->fields;
	return 0;
}

/* RFC 9112 3.2.2: the host of an absolute target is the host, whatever the Host field says. */
static int take_authority(struct segue_http_request *req, const char *authority, size_t len)
{
	char *copy = sgh_request_alloc(req, len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, authority, len);
	copy[len] = '\0';
	for (uint32_t i = 0; i < req->field_count; i++)
		if (!strcasecmp(req->fields[i].name, "Host"))
			req->fields[i].value = copy;
	return 0;
}

static int cut_target(struct segue_http_request *req, char *head, const struct sgh_guard *guard)
{
	char *target = head + guard->target;
	char *end = target + guard->target_len;
	char *query;

	*end = '\0';
	if (req->loop->server->access_fd >= 0) {
		char *copy = sgh_request_alloc(req, guard->target_len + 1);

		if (!copy)
			return -ENOMEM;
		req->target = memcpy(copy, target, guard->target_len + 1);
	}
	if (guard->form == SGH_FORM_ABSOLUTE) {
		char *authority = head + guard->authority;
		int r = take_authority(req, authority, guard->authority_len);

		if (r < 0)
			return r;
		target = authority + guard->authority_len;
	}
	query = memchr(target, '?', end - target);
	req->query = "";
	if (query) {
		*query = '\0';
		req->query = query + 1;
		req->query_len = end - query - 1;
	}
	req->path = target;
	req->path_len = (query ? query : end) - target;
	if (!req->path_len) {
		req->path = "/";
		req->path_len = 1;
	}
	return 0;
}

static int cut(struct segue_http_request *req, const char *head, size_t len,
               struct sgh_guard *guard)
{
	char *copy;
	int r;

	/* The empty line that may have come first is not part of it. */
	head += guard->head;
	len -= guard->head;
	guard->target -= guard->head;
	guard->authority -= guard->head;
	copy = sgh_request_alloc(req, len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, head, len);
	req->minor = guard->minor;
	req->client_closes = guard->close || (guard->minor == 0 && !guard->keep_alive);
	r = cut_fields(req, copy, len, guard);
	if (r < 0)
		return r;
	copy[guard->method_len] = '\0';
	req->method = copy;
	req->method_len = guard->method_len;
	req->is_head = req->method_len == 4 && !memcmp(copy, "HEAD", 4);
	return cut_target(req, copy, guard);
}

static void refuse_head(struct segue_http_request *req, int error)
{
	req->want_close = true;
	if (!req->method)
		req->method = "-";
	if (error == -ENOSYS)
		sgh_response_refuse(req, 501, "the method is not implemented");
	else if (error == -ENOMEM)
		sgh_response_refuse(req, 503, "no memory");
	else
		sgh_response_refuse(req, 400, "the head can be read in more than one way");
}

static int keep_params(struct segue_http_request *req, const struct sgh_match *match)
{
	req->params = sgh_request_alloc(req, match->params * sizeof(*req->params));
	if (!req->params)
		return -ENOMEM;
	for (unsigned int i = 0; i < match->params; i++) {
		const struct sgh_param *param = &match->param[i];
		char *text = sgh_request_alloc(req, param->name_len + param->value_len + 2);

		if (!text)
			return -ENOMEM;
		memcpy(text, param->name, param->name_len);
		text[param->name_len] = '\0';
		req->params[i].name = text;
		text += param->name_len + 1;
		memcpy(text, param->value, param->value_len);
		text[param->value_len] = '\0';
		req->params[i].value = text;
	}
	req->param_count = match->params;
	return 0;
}

/* The body is wanted: say so where the client waits for it. */
static void begin_body(struct segue_http_request *req, enum sgh_body how)
{
	req->body = how;
	req->body_since_ms = sgh_loop_now(req->loop);
	if (req->expects_continue)
		sgh_response_continue(req);
}

static void route(struct segue_http_request *req)
{
	const struct segue_http_options *options = &req->loop->server->options;
	bool streaming = req->route->kind == SGH_ROUTE_STREAMING;
	int64_t most = streaming ? options->max_streamed_bytes : options->max_body_bytes;

	if (req->body == SGH_BODY_WAITS && !req->chunked_body && most >= 0 &&
	    req->left > (uint64_t)most) {
		sgh_response_refuse(req, 413, "the body is too large");
		return;
	}
	if (streaming || req->body == SGH_BODY_DONE)
		sgh_request_dispatch(req);
	else
		begin_body(req, SGH_BODY_WHOLE);
}

static void find_route(struct segue_http_request *req, enum sgh_form form)
{
	const struct segue_http_server *server = req->loop->server;
	struct sgh_match match;
	ssize_t len;

	if (form == SGH_FORM_ASTERISK) {
		sgh_response_allow(req, 204, NULL, 0);
		return;
	}
	len = memchr(req->path, '%', req->path_len) || memchr(req->path, '.', req->path_len)
	              ? sgh_path_decode((char *)req->path, req->path_len)
	              : (ssize_t)req->path_len;
	if (len < 0) {
		sgh_response_refuse(req, 400, "the path is not one that can be served");
		return;
	}
	req->path_len = len;
	if (req->path[len])
		((char *)req->path)[len] = '\0';
	sgh_route_find(server->routes, req->method, req->method_len, req->path, len, &match);
	if (!match.path_known) {
		sgh_response_refuse(req, 404, "nothing is here");
	} else if (!match.route) {
		bool asks = req->method_len == 7 && !memcmp(req->method, "OPTIONS", 7);

		sgh_response_allow(req, asks ? 204 : 405, req->path, len);
	} else if (match.params && keep_params(req, &match) < 0) {
		sgh_response_refuse(req, 503, "no memory");
	} else {
		req->route = match.route;
		route(req);
	}
}

/* A whole head has come: @head is the loop's input, and its guard has let it through. */
void sgh_request_begin(struct sgh_connection *conn, const char *head, size_t len)
{
	struct sgh_guard *guard = &conn->loop->guard;
	struct segue_http_request *req = request_new(conn);
	int r;

	if (!req) {
		conn->dead = 1;
		return;
	}
	if (guard->chunked || (guard->has_length && guard->length)) {
		req->body = SGH_BODY_WAITS;
		req->body_since_ms = req->since_ms;
		req->chunked_body = guard->chunked;
		req->left = guard->length;
		req->expects_continue = guard->expects_continue;
	}
	r = cut(req, head, len, guard);
	if (r < 0)
		refuse_head(req, r);
	else
		find_route(req, guard->form);
}

/* The head, and where it is wanted the body, have come: the program's turn. */
void sgh_request_dispatch(struct segue_http_request *req)
{
	req->handed = true;
	if (req->route->kind != SGH_ROUTE_BLOCKING) {
		req->route->handler(req, req->route->ctx);
		return;
	}
	if (sgh_pool_submit(req->loop->server->pool, req) < 0) {
		req->handed = false;
		segue_http_add_header(req, "Retry-After", "1");
		sgh_response_refuse(req, 503, "too many requests wait");
	}
}

/* What the program asks. */

struct segue_http_server *segue_http_server_of(const struct segue_http_request *req)
{
	return req->loop->server;
}

const char *segue_http_method(const struct segue_http_request *req)
{
	return req->method;
}

const char *segue_http_path(const struct segue_http_request *req)
{
	return req->path;
}

const char *segue_http_query_string(const struct segue_http_request *req)
{
	return req->query;
}

static int cut_query(struct segue_http_request *req)
{
	char *copy = sgh_request_alloc(req, req->query_len + 1);
	uint32_t count = 1;
	char *at = copy;

	for (size_t i = 0; i < req->query_len; i++)
		count += req->query[i] == '&';
	req->query_parts = sgh_request_alloc(req, count * sizeof(*req->query_parts));
	if (!copy || !req->query_parts)
		return -ENOMEM;
	memcpy(copy, req->query, req->query_len + 1);
	for (uint32_t i = 0; i < count; i++) {
		char *end = strchrnul(at, '&');
		char *next = *end ? end + 1 : end;
		char *equal = memchr(at, '=', end - at);
		struct sgh_text_field *part = &req->query_parts[i];

		*end = '\0';
		part->value = "";
		if (equal) {
			*equal = '\0';
			equal[1 + sgh_query_decode(equal + 1, end - equal - 1)] = '\0';
			part->value = equal + 1;
		}
		at[sgh_query_decode(at, strlen(at))] = '\0';
		part->name = at;
		at = next;
	}
	req->query_count = count;
	return 0;
}

static const char *find(const struct sgh_text_field *fields, uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(fields[i].name, name))
			return fields[i].value;
	return NULL;
}

const char *segue_http_query(struct segue_http_request *req, const char *name)
{
	if (!req->query_len)
		return NULL;
	if (!req->query_parts && cut_query(req) < 0)
		return NULL;
	return find(req->query_parts, req->query_count, name);
}

const char *segue_http_param(const struct segue_http_request *req, const char *name)
{
	return find(req->params, req->param_count, name);
}

const char *segue_http_header(const struct segue_http_request *req, const char *name)
{
	for (uint32_t i = 0; i < req->field_count; i++)
		if (!strcasecmp(req->fields[i].name, name))
			return req->fields[i].value;
	return NULL;
}

bool segue_http_header_at(const struct segue_http_request *req, size_t index, const char **ret_name,
                          const char **ret_value)
{
	if (index >= req->field_count)
		return false;
	*ret_name = req->fields[index].name;
	*ret_value = req->fields[index].value;
	return true;
}

const void *segue_http_body(const struct segue_http_request *req, size_t *ret_len)
{
	*ret_len = req->body_len;
	return req->body_data;
}

bool segue_http_gone(const struct segue_http_request *req)
{
	return atomic_load(&req->gone);
}

void sgh_peer_set(struct sgh_peer *peer, const struct sockaddr_storage *address)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

	peer->family = address->ss_family;
	if (address->ss_family == AF_INET) {
		peer->port = ntohs(v4->sin_port);
		memcpy(peer->address, &v4->sin_addr, 4);
	} else if (address->ss_family == AF_INET6) {
		peer->port = ntohs(v6->sin6_port);
		memcpy(peer->address, &v6->sin6_addr, 16);
		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
			peer->family = AF_INET;
			memmove(peer->address, peer->address + 12, 4);
		}
	}
}

int sgh_peer_text(const struct sgh_peer *peer, char *text, size_t size)
{
	char address[INET6_ADDRSTRLEN];
	int n;

	if (peer->family == AF_INET || peer->family == AF_INET6) {
		inet_ntop(peer->family, peer->address, address, sizeof(address));
		n = snprintf(text, size, peer->family == AF_INET ? "%s:%u" : "[%s]:%u", address,
		             peer->port);
	} else {
		n = snprintf(text, size, "%s", peer->family == AF_UNIX ? "unix" : "unknown");
	}
	return n < 0 || (size_t)n >= size ? -ENOSPC : 0;
}

int segue_http_peer(const struct segue_http_request *req, char *text, size_t size)
{
	return sgh_peer_text(&req->peer, text, size);
}
