/* SPDX-License-Identifier: MIT */
/*
 * A loop's side of a drain: what is idle goes to the successor, what is busy follows.
 *
 * A connection leaves when nothing of it is unsent and no request is in flight. From then until
 * the verdict it belongs to the thread of the handle: the loop neither watches nor lists it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

struct passing {
	struct sgh_message message;
	struct sgh_connection *conn;
	bool taken;
};

/* Back from the thread of the handle. */
static void come_back(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;

	conn->moving = 0;
	sgh_connection_link(conn);
	conn->kept = loop->draining;
	if (loop->cutting || loop->stopping || sgh_connection_watch(conn) < 0) {
		sgh_count(&loop->counters.cut_idle, 1);
		sgh_connection_kill(conn);
		return;
	}
	/* What came meanwhile is announced again by the registration; unread bytes are not. */
	conn->can_read = 1;
	sgh_connection_deadline(conn, conn->deadline_ms);
	sgh_connection_wake(conn);
}

static void run_verdict(struct sgh_loop *loop, struct sgh_message *message)
{
	struct passing *passing = (struct passing *)message;
	struct sgh_connection *conn = passing->conn;

	if (passing->taken) {
		sgh_count(&loop->counters.moved, 1);
		conn->killed = 1;
		conn->dead = 1;
		sgh_connection_free(conn);
	} else {
		come_back(conn);
	}
	free(passing);
}

/* On the thread of the handle: the verdict goes to the connection's loop. */
void sgh_verdict(struct sgh_connection *conn, bool taken)
{
	struct passing *passing = conn->passing;

	passing->message = (struct sgh_message){ .run = run_verdict };
	passing->taken = taken;
	sgh_loop_post(conn->loop, &passing->message);
}

static void run_handover(struct sgh_loop *loop, struct sgh_message *message)
{
	struct passing *passing = (struct passing *)message;
	struct sgh_connection *conn = passing->conn;
	struct sgh_record record = { .in_head = conn->in_head,
		                     .requests = conn->requests,
		                     .deadline_ms = conn->deadline_ms,
		                     .since_ms = conn->since_ms };
	unsigned char bytes[SGH_RECORD_BYTES];
	const struct sgh_input *in = conn->in;
	int r;

	conn->passing = passing;
	sgh_record_write(&record, bytes);
	r = segue_handover(loop->server->segue, conn->fd, in ? in->data + in->at : NULL,
	                   in ? in->end - in->at : 0, bytes, sizeof(bytes), conn);
	if (r < 0)
		sgh_verdict(conn, false);
}

/* The last that the loop does with it; the message makes it the other thread's. False where it
 * stays for want of memory, and is served until its next response. */
static bool send_off(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	struct passing *passing = malloc(sizeof(*passing));

	if (!passing) {
		conn->kept = 1;
		return false;
	}
	if (!sgh_connection_put_by(conn)) {
		free(passing);
		conn->dead = 1;
		return true;
	}
	sgh_timer_stop(&loop->timers, &conn->timer);
	sgh_connection_unwatch(conn);
	sgh_connection_unlink(conn);
	passing->message = (struct sgh_message){ .run = run_handover };
	passing->conn = conn;
	sgh_loop_post(&loop->server->loops[0], &passing->message);
	return true;
}

/* Called when a connection runs and no request is in flight. True where it has left, or waits
 * for its last bytes to be taken. */
bool sgh_drain_leave(struct sgh_connection *conn)
{
	struct sgh_loop *loop = conn->loop;
	uint32_t unread = loop->input_end - loop->input_at;
	bool begun = sgh_head_has_begun(loop);

	if (!loop->successor) {
		/* The service stops. A request that has come is served, silence is not. */
		if (begun)
			return false;
		if (sgh_connection_fill(conn) > 0)
			return false;
		loop->input_at = loop->input_end;
		conn->closing = 1;
		conn->close_now = 1;
		sgh_connection_wake(conn);
		return true;
	}
	if (conn->kept || unread > SGH_TRAVEL_MAX || conn->eof)
		return false;
	/* It stands in the list of those that are to run, which must not touch what has left: it
	 * leaves when it is its turn. */
	if (conn->is_runnable)
		return true;
	if (!sgh_output_flush(conn))
		return true;
	if (begun && !conn->in_head) {
		conn->in_head = 1;
		sgh_connection_deadline(conn,
		                        sgh_loop_now(loop) + loop->server->options.head_timeout_ms);
	}
	return send_off(conn);
}

static void say_no_room(struct sgh_loop *loop)
{
	static const char reason[] = "no descriptors for the last connections of a listener";

	sgh_log(loop->server, "warning", SGH_FIELDS(SGH_TEXT("reason", reason)), "%s", reason);
}

/* On a loop: the drain begins. */
void sgh_drain_begin(struct sgh_loop *loop, bool successor)
{
	struct sgh_connection *conn = loop->connections;

	if (!successor) {
		/* Whoever waits in the backlog has been promised a connection. */
		for (size_t i = 0; i < loop->listener_count && loop->accepting; i++)
			if (!sgh_accept_all(loop, loop->listeners[i].fd))
				say_no_room(loop);
		conn = loop->connections;
	}
	sgh_accept_stop(loop);
	loop->draining = true;
	loop->successor = successor;
	while (conn) {
		struct sgh_connection *next = conn->next;

		if (!conn->req && !conn->lingering) {
			/* Bytes may have come that no event has announced yet. */
			conn->can_read = 1;
			sgh_connection_run(conn);
		}
		conn = next;
	}
}

/* On a loop: the successor is gone, this generation serves again. */
void sgh_drain_end(struct sgh_loop *loop)
{
	loop->draining = false;
	loop->successor = false;
	loop->cutting = false;
	for (struct sgh_connection *conn = loop->connections; conn; conn = conn->next)
		conn->kept = 0;
}

/* On a loop: close what is left. */
void sgh_drain_cut(struct sgh_loop *loop)
{
	sgh_accept_stop(loop);
	loop->draining = true;
	loop->cutting = true;
	while (loop->connections) {
		struct sgh_connection *conn = loop->connections;

		if (conn->req || conn->out)
			sgh_count(&loop->counters.cut_requests, 1);
		else if (!conn->lingering)
			sgh_count(&loop->counters.cut_idle, 1);
		sgh_connection_kill(conn);
	}
}

struct adoption {
	struct sgh_message message;
	int fd;
	bool known; /* the record could be read */
	struct sgh_record record;
	size_t len;
	char bytes[];
};

static struct sgh_input *input_of(const struct adoption *adoption)
{
	struct sgh_input *in = malloc(sizeof(*in) + adoption->len);

	if (!in)
		return NULL;
	in->at = 0;
	in->end = in->room = adoption->len;
	in->guard = (struct sgh_guard){ 0 };
	memcpy(in->data, adoption->bytes, adoption->len);
	return in;
}

/* Deadlines travel as they are; one that is later than we ourselves would set it is ours. */
static void set_deadline(struct sgh_connection *conn, const struct sgh_record *record)
{
	const struct segue_http_options *options = &conn->loop->server->options;
	uint64_t most = sgh_loop_now(conn->loop) +
	                (record->in_head ? options->head_timeout_ms : options->idle_timeout_ms);

	conn->requests = record->requests;
	conn->since_ms = record->since_ms;
	conn->in_head = record->in_head;
	sgh_connection_deadline(conn, record->deadline_ms && record->deadline_ms < most
	                                      ? record->deadline_ms
	                                      : most);
}

void sgh_say_lost(struct segue_http_server *server)
{
	static const char reason[] = "a connection of the predecessor is lost: no memory";

	sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", reason)), "%s", reason);
}

static void run_adoption(struct sgh_loop *loop, struct sgh_message *message)
{
	struct adoption *adoption = (struct adoption *)message;
	struct sockaddr_storage address = { 0 };
	socklen_t len = sizeof(address);
	struct sgh_peer peer = { 0 };
	struct sgh_connection *conn;

	if (getpeername(adoption->fd, (struct sockaddr *)&address, &len) == 0)
		sgh_peer_set(&peer, &address);
	conn = sgh_connection_new(loop, adoption->fd, &peer);
	if (!conn) {
		sgh_say_lost(loop->server);
		close(adoption->fd);
		sgh_server_connection_gone(loop->server);
		free(adoption);
		return;
	}
	if (loop->cutting || loop->stopping) {
		sgh_count(&loop->counters.cut_idle, 1);
		sgh_connection_kill(conn);
		free(adoption);
		return;
	}
	/* There was no memory for its deadline. */
	if (conn->closing)
		sgh_say_lost(loop->server);
	if (adoption->known)
		set_deadline(conn, &adoption->record);
	if (adoption->len) {
		conn->in = input_of(adoption);
		if (!conn->in) {
			sgh_say_lost(loop->server);
			conn->dead = 1;
		}
	}
	conn->can_read = 1;
	sgh_connection_wake(conn);
	free(adoption);
}

/* On the thread of the handle: a connection of the predecessor's goes to one of the loops. */
int sgh_adopt(struct segue_http_server *server, int fd, const void *bytes, size_t len,
              const void *record, size_t record_len)
{
	struct adoption *adoption = malloc(sizeof(*adoption) + len);
	struct sgh_loop *loop = &server->loops[server->next_loop++ % server->loop_count];

	if (!adoption) {
		close(fd);
		return -ENOMEM;
	}
	adoption->message = (struct sgh_message){ .run = run_adoption };
	adoption->fd = fd;
	adoption->len = len;
	if (len)
		memcpy(adoption->bytes, bytes, len);
	adoption->known = sgh_record_read(&adoption->record, record, record_len) == 0;
	atomic_fetch_add(&server->connections, 1);
	sgh_loop_post(loop, &adoption->message);
	return 0;
}
