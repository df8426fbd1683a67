/* SPDX-License-Identifier: MIT */
/*
 * A connection: what is read from it becomes requests, one after the other.
 *
 * Between requests a connection is no more than its descriptor, the bytes that were read and
 * not used, and a few counters: that is what can travel to the successor. While it runs, its
 * unread bytes lie in the loop's scratch room, so that a connection that waits holds no buffer.
 *
 * While a request is in flight nothing is read: what the client sends on waits in the kernel,
 * which is back-pressure, and travels with the descriptor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

/* Steps of one turn; then the others have theirs. */
#define STEPS_MAX 64
/* What is read from a client after the last response. */
#define DISCARD_MAX (1 << 20)
#define INPUT_MIN   512

enum step {
	AGAIN, /* there may be more to do at once */
	WAIT,  /* until the descriptor, a timer or the program has something */
};

static void on_deadline(struct sgh_timer *timer);

void sgh_connection_link(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	conn->next = loop->connections;
	conn->prev = &loop->connections;
	if (conn->next)
		conn->next->prev = &conn->next;
	loop->connections = conn;
}

void sgh_connection_unlink(struct sgh_connection *conn)
{
	*conn->prev = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	conn->next = NULL;
	conn->prev = NULL;
}

int sgh_connection_watch(struct sgh_connection *conn)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		                     .data.ptr = conn };

	if (epoll_ctl(conn->loop->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) < 0)
		return -errno;
	conn->watched = 1;
	return 0;
}

/* Before the descriptor is closed or given away: while another process has the same
 * description, close() would not end the registration. */
void sgh_connection_unwatch(struct sgh_connection *conn)
{
	if (conn->watched)
		epoll_ctl(conn->loop->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
	conn->watched = 0;
}

/* The caller has counted it already. */
struct sgh_connection *sgh_connection_new(struct sgh_loop *loop, int fd,
                                          const struct sgh_peer *peer)
{
	struct sgh_connection *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->loop = loop;
	conn->fd = fd;
	conn->peer = *peer;
	conn->can_write = 1;
	conn->since_ms = sgh_loop_now(loop);
	sgh_timer_init(&conn->timer, on_deadline);
	if (sgh_connection_watch(conn) < 0) {
		free(conn);
		return NULL;
	}
	sgh_connection_link(conn);
	sgh_connection_idle(conn);
	return conn;
}

/* Extending a deadline costs nothing: the timer, which then stands too early, is put right
 * when it fires. */
void sgh_connection_deadline(struct sgh_connection *conn, uint64_t deadline_ms)
{
	conn->deadline_ms = deadline_ms;
	if (!deadline_ms)
		return;
	if (conn->timer.index == SGH_TIMER_OFF || conn->timer.at_ms > deadline_ms) {
		/* Without memory for its deadline a connection cannot be kept. */
		if (sgh_timer_set(&conn->loop->timers, &conn->timer, deadline_ms) < 0)
			conn->closing = conn->close_now = 1;
	}
}

void sgh_connection_idle(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	conn->in_head = 0;
	sgh_connection_deadline(conn, sgh_loop_now(loop) + loop->server->options.idle_timeout_ms);
}

void sgh_connection_free(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	close(conn->fd);
	conn->fd = -1;
	free(conn->in);
	free(conn->out);
	conn->in = NULL;
	conn->out = NULL;
	/* Events of this batch may still name it: it is released when they are done. */
	conn->next = loop->graveyard;
	loop->graveyard = conn;
	sgh_server_connection_gone(loop->server);
	sgh_accept_again(loop);
}

/* What the client has not taken would stay in the kernel for as long as it likes: a reset
 * gives that up, and says that the response is not whole. */
static void give_up_unsent(const struct sgh_connection *conn)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	if (conn->out)
		setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* Close at once. Where it runs just now, the run ends it. */
void sgh_connection_kill(struct sgh_connection *conn)
{
	struct segue_http_request *req = conn->req;

	conn->dead = 1;
	if (conn->loop->current == conn || conn->killed)
		return;
	conn->killed = 1;
	give_up_unsent(conn);
	sgh_timer_stop(&conn->loop->timers, &conn->timer);
	sgh_connection_unwatch(conn);
	sgh_connection_unlink(conn);
	conn->req = NULL;
	/* In this order: at no instant are both uncounted. */
	if (req)
		sgh_request_orphan(req);
	sgh_connection_free(conn);
}

void sgh_connection_wake(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	if (conn->is_runnable || conn->killed)
		return;
	conn->is_runnable = 1;
	conn->runnable = NULL;
	*loop->runnable_last = conn;
	loop->runnable_last = &conn->runnable;
}

/* The unread bytes, where they can grow: the scratch room, or those kept from before. */
static void open_input(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	struct sgh_input *in = conn->in;

	if (in) {
		loop->input = in->data;
		loop->input_at = in->at;
		loop->input_end = in->end;
		loop->input_room = in->room;
		loop->guard = in->guard;
		return;
	}
	loop->input = loop->scratch;
	loop->input_at = loop->input_end = 0;
	loop->input_room = SGH_INPUT_BYTES;
	loop->guard = (struct sgh_guard){ 0 };
}

static bool keep_input(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	uint32_t len = loop->input_end - loop->input_at;
	uint32_t room = INPUT_MIN;
	struct sgh_input *in;

	while (room < len)
		room *= 2;
	in = malloc(sizeof(*in) + room);
	if (!in)
		return false;
	in->at = 0;
	in->end = len;
	in->room = room;
	memcpy(in->data, loop->input + loop->input_at, len);
	conn->in = in;
	return true;
}

static void close_input(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	if (loop->input_at == loop->input_end) {
		free(conn->in);
		conn->in = NULL;
		return;
	}
	if (conn->in) {
		conn->in->at = loop->input_at;
		conn->in->end = loop->input_end;
	} else if (!keep_input(conn)) {
		conn->dead = 1;
		return;
	}
	conn->in->guard = loop->guard;
}

/* From here on the connection is not the loop's: its unread bytes go with it. */
bool sgh_connection_put_by(struct sgh_connection *conn)
{
	close_input(conn);
	conn->moving = !conn->dead;
	return conn->moving;
}

static bool make_room(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	struct sgh_input *in;
	uint32_t room;

	if (loop->input_at == loop->input_end)
		loop->input_at = loop->input_end = 0;
	if (loop->input_end < loop->input_room)
		return true;
	if (loop->input_at > 0) {
		memmove(loop->input, loop->input + loop->input_at,
		        loop->input_end - loop->input_at);
		loop->input_end -= loop->input_at;
		loop->input_at = 0;
		return true;
	}
	room = loop->input_room * 2;
	if (room > SGH_INPUT_BYTES || loop->input == loop->scratch)
		return false;
	in = realloc(conn->in, sizeof(*in) + room);
	if (!in)
		return false;
	in->room = room;
	conn->in = in;
	loop->input = in->data;
	loop->input_room = room;
	return true;
}

/* Read what is there: 1 something, 0 nothing now, -1 nothing ever again. */
int sgh_connection_fill(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	size_t room;
	ssize_t n;

	if (conn->eof)
		return -1;
	if (!conn->can_read)
		return 0;
	if (!make_room(conn)) {
		conn->dead = 1;
		return -1;
	}
	room = loop->input_room - loop->input_end;
	do {
		n = recv(conn->fd, loop->input + loop->input_end, room, 0);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		loop->input_end += n;
		/* A short read has emptied the socket; an end-of-file would have been announced. */
		if ((size_t)n < room && !conn->peer_closed)
			conn->can_read = 0;
		return 1;
	}
	if (n < 0 && errno == EAGAIN) {
		conn->can_read = 0;
		return 0;
	}
	conn->eof = 1;
	if (n < 0)
		conn->dead = 1;
	return -1;
}

/* After a response, will there be another request? */
bool sgh_connection_can_keep(const struct sgh_connection *conn)
{
	const struct sgh_loop *loop = conn->loop;

	return !conn->closing && !(loop->draining && (!loop->successor || conn->kept));
}

/* An answer of the module's to something that is not a request; the connection ends. */
void sgh_connection_refuse(struct sgh_connection *conn, int status, const char *error)
{
	conn->closing = 1;
	sgh_response_raw(conn, status, error);
}

/* One empty line before the request line is a client's old mistake, and begins nothing. */
bool sgh_head_has_begun(const struct sgh_loop *loop)
{
	uint32_t len = loop->input_end - loop->input_at;

	return len > 2 || memcmp(loop->input + loop->input_at, "\r\n", len) != 0;
}

/* The same for a head that does not become a request. */
static void refuse_head(struct sgh_connection *conn, int status, const char *error)
{
	uint64_t now = sgh_loop_now(conn->loop);
	int64_t most = conn->loop->server->options.head_timeout_ms;
	int64_t left = conn->in_head ? (int64_t)(conn->deadline_ms - now) : most;

	sgh_access_refused(conn, status, left < most ? now - (most - left) : now);
	sgh_connection_refuse(conn, status, error);
}

/* The client sends no more. What it asked before is answered first. */
static enum step end_of_input(struct sgh_connection *conn)
{
	if (sgh_output_flush(conn))
		conn->dead = 1;
	return WAIT;
}

static enum step read_head(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	const struct segue_http_options *options = &loop->server->options;
	struct sgh_guard_limits limits = { options->max_head_bytes, options->max_target_bytes,
		                           options->max_fields };
	uint32_t len = loop->input_end - loop->input_at;
	const char *data = loop->input + loop->input_at;
	ssize_t n = 0;
	int r;

	if (len)
		n = sgh_guard_scan(&loop->guard, &limits, data, len);
	if (n < 0) {
		loop->input_at = loop->input_end;
		refuse_head(conn, loop->guard.status, loop->guard.error);
		return AGAIN;
	}
	if (n > 0) {
		loop->input_at += n;
		conn->in_head = 0;
		sgh_connection_deadline(conn, 0);
		sgh_request_begin(conn, data, n);
		loop->guard = (struct sgh_guard){ 0 };
		return AGAIN;
	}
	r = sgh_connection_fill(conn);
	if (r < 0)
		return end_of_input(conn);
	if (r > 0)
		return AGAIN;
	if (!conn->in_head && sgh_head_has_begun(loop)) {
		conn->in_head = 1;
		sgh_connection_deadline(conn, sgh_loop_now(loop) + options->head_timeout_ms);
	}
	return WAIT;
}

static enum step linger(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	int r;

	loop->input_at = loop->input_end = 0;
	r = sgh_connection_fill(conn);
	if (r < 0) {
		conn->dead = 1;
		return WAIT;
	}
	conn->discarded += loop->input_end;
	loop->input_end = 0;
	if (conn->discarded > DISCARD_MAX) {
		conn->dead = 1;
		return WAIT;
	}
	return r > 0 ? AGAIN : WAIT;
}

/*
 * The last response is written. Closing with unread bytes would reset the connection and could
 * destroy the response on its way: so our side is closed first, and the client's
 * is waited for. A client that itself has asked to close sends no more, and need not be waited for.
 */
static enum step begin_closing(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	if (!sgh_output_flush(conn))
		return WAIT;
	if (conn->close_now && loop->input_at == loop->input_end &&
	    sgh_connection_fill(conn) == 0) {
		conn->dead = 1;
		return WAIT;
	}
	if (conn->eof || conn->dead || shutdown(conn->fd, SHUT_WR) < 0) {
		conn->dead = 1;
		return WAIT;
	}
	conn->lingering = 1;
	conn->in_head = 0;
	sgh_connection_deadline(conn, sgh_loop_now(loop) + loop->server->options.linger_timeout_ms);
	return AGAIN;
}

static enum step request_step(struct sgh_connection *conn)
{
	struct segue_http_request *req = conn->req;

	if (req->body != SGH_BODY_DONE && !(req->ended && req->closes))
		return sgh_body_step(conn, req) ? AGAIN : WAIT;
	if (!req->ended) {
		if (conn->peer_closed && req->disconnected && !req->answered) {
			void (*notice)(struct segue_http_request *, bool, void *) =
				req->disconnected;

			req->disconnected = NULL;
			notice(req, false, req->disconnected_ctx);
			return AGAIN;
		}
		return sgh_response_progress(req) ? AGAIN : WAIT;
	}
	/* While draining only what the kernel has is finished: the rest may be cut yet. */
	if (conn->loop->draining && !sgh_output_flush(conn))
		return WAIT;
	if (req->closes) {
		conn->closing = 1;
		conn->close_now = req->client_closes && req->body == SGH_BODY_DONE;
	}
	conn->req = NULL;
	conn->requests++;
	sgh_connection_idle(conn);
	sgh_request_free(req);
	return AGAIN;
}

static enum step step(struct sgh_connection *conn)
{
	if (conn->out && !sgh_output_flush(conn))
		return WAIT;
	if (conn->lingering)
		return linger(conn);
	if (conn->req)
		return request_step(conn);
	if (conn->closing)
		return begin_closing(conn);
	if (conn->loop->draining && sgh_drain_leave(conn))
		return WAIT;
	return read_head(conn);
}

/* Do all that can be done at once. */
void sgh_connection_run(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	int steps;

	if (conn->dead) {
		sgh_connection_kill(conn);
		return;
	}
	if (loop->current) {
		sgh_connection_wake(conn);
		return;
	}
	loop->current = conn;
	loop->cork_len = 0;
	open_input(conn);
	for (steps = 0; steps < STEPS_MAX; steps++)
		if (conn->dead || step(conn) == WAIT)
			break;
	if (conn->moving) {
		loop->current = NULL;
		return;
	}
	if (!conn->dead && !sgh_output_flush(conn))
		steps = 0;
	if (conn->req)
		sgh_response_publish(conn->req);
	if (!conn->dead)
		close_input(conn);
	loop->current = NULL;
	if (conn->dead)
		sgh_connection_kill(conn);
	else if (steps == STEPS_MAX)
		sgh_connection_wake(conn);
}

void sgh_connection_event(struct sgh_connection *conn, uint32_t events)
{
	if (conn->killed || conn->moving)
		return;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->can_read = 1;
	if (events & EPOLLOUT)
		conn->can_write = 1;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->peer_closed = 1;
	if (events & (EPOLLHUP | EPOLLERR) && (conn->req || conn->out)) {
		/* Nobody is left to read the answer. */
		sgh_connection_kill(conn);
		return;
	}
	sgh_connection_run(conn);
}

static void on_deadline(struct sgh_timer *timer)
{
	struct sgh_connection *conn =
		(struct sgh_connection *)((char *)timer - offsetof(struct sgh_connection, timer));

	if (!conn->deadline_ms)
		return;
	if (conn->deadline_ms > sgh_loop_now(conn->loop)) {
		sgh_connection_deadline(conn, conn->deadline_ms);
		return;
	}
	if (conn->out || conn->lingering || (!conn->req && !conn->in_head)) {
		sgh_connection_kill(conn);
	} else if (conn->req) {
		sgh_body_late(conn, conn->req);
	} else {
		free(conn->in);
		conn->in = NULL;
		refuse_head(conn, 408, "the head did not come in time");
		sgh_connection_wake(conn);
	}
}
