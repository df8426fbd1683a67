/* SPDX-License-Identifier: MIT */
/*
 * The life of a connection; see connection.h.
 *
 * Sockets are registered once, edge-triggered, for everything, so that a request costs one write
 * and one read. An event therefore must be followed by reading until the socket is empty: a read
 * that fills less than its buffer proves that, unless the end of the stream was announced.
 */
#include "connection.h"
#include "clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_AGAIN_NS   (5 * NS_PER_MS)
#define SLOW_TICK_NS       (NS_PER_S / PLAN_SLOW_TICKS)
#define SLOW_RECEIVE_BYTES 4096

void connection_init(struct connection *connection, struct client *client, const struct plan *plan,
                     uint32_t index, struct flight *flights)
{
	*connection = (struct connection){
		.client = client,
		.plan = plan,
		.index = index,
		.fd = -1,
		.flights = flights,
	};
	response_init(&connection->response, &plan->rules);
}

void connection_done(struct connection *connection)
{
	connection_close(connection);
	response_done(&connection->response);
}

static struct flight *flight_at(struct connection *connection, unsigned int position)
{
	return &connection->flights[(connection->first + position) % connection->plan->depth];
}

/* Leaves the state CONNECTING, which is counted. */
static void set_state(struct connection *connection, enum connection_state state)
{
	if (connection->state == CONNECTION_CONNECTING)
		connection->client->connecting--;
	if (state == CONNECTION_CONNECTING)
		connection->client->connecting++;
	connection->state = state;
}

/* Nothing may be in flight any more. */
static void drop_socket(struct connection *connection)
{
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = -1;
	set_state(connection, CONNECTION_CLOSED);
	connection->held = false;
	connection->out_left = 0;
	connection->limit_ns = 0;
	connection->tick_ns = 0;
	response_next(&connection->response);
}

/* A request leaves the ring; whoever calls has counted its outcome. */
static void pop_flight(struct connection *connection)
{
	connection->first = (connection->first + 1) % connection->plan->depth;
	connection->in_flight--;
	connection->ended++;
}

static void lose_first(struct connection *connection, enum outcome outcome, int error,
                       const char *why)
{
	struct tally *tally = &connection->client->tally;
	struct loss loss = {
		.at_ns = clock_now_ns(),
		.shape = connection->plan->shape,
		.outcome = outcome,
		.error = error,
		.why = why,
		.answered_before = connection->answered,
		.status = connection->response.status,
	};

	if (connection->value)
		strcpy(loss.after, tally->values[connection->value - 1].text);
	tally_outcome(tally, connection->plan->shape, outcome, loss.at_ns, &loss);
	pop_flight(connection);
	connection->lost = true;
}

/* All requests in flight end: the first, whose answer was due next, and those behind it. */
static void lose_all(struct connection *connection, enum outcome first, enum outcome behind,
                     int error, const char *why)
{
	if (connection->in_flight)
		lose_first(connection, first, error, why);
	connection->response.status = 0;
	while (connection->in_flight)
		lose_first(connection, behind, error, NULL);
	drop_socket(connection);
}

void connection_close(struct connection *connection)
{
	lose_all(connection, OUTCOME_ABANDONED, OUTCOME_ABANDONED, 0, NULL);
}

static enum outcome outcome_of_closing(const struct connection *connection)
{
	return connection->answered ? OUTCOME_USED_CLOSED : OUTCOME_FRESH_CLOSED;
}

static enum outcome outcome_of_connect(int error)
{
	switch (error) {
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOBUFS:
	case EADDRNOTAVAIL:
		return OUTCOME_OWN_LIMIT;
	case ETIMEDOUT:
		return OUTCOME_CONNECT_TIMEOUT;
	case ECONNRESET:
	case ECONNABORTED:
	case EPIPE:
		return OUTCOME_RESET_CONNECTING;
	default:
		return OUTCOME_REFUSED;
	}
}

static void fail_connect(struct connection *connection, int error)
{
	enum outcome outcome = outcome_of_connect(error);

	lose_all(connection, outcome, outcome, error, NULL);
}

/* The deadline of the answer that is due next. */
static void set_limit(struct connection *connection)
{
	if (connection->in_flight == 0 || connection->held)
		connection->limit_ns = 0;
	else
		connection->limit_ns =
			flight_at(connection, 0)->sent_ns + connection->client->timeout_ns;
}

static void count_value(struct connection *connection, uint64_t now_ns)
{
	struct tally *tally = &connection->client->tally;
	struct response *response = &connection->response;
	uint64_t number;
	char *end;

	if (!response->rules->count_name && !response->rules->pattern)
		return;
	if (!response->has_counted) {
		tally->value_missing++;
		return;
	}
	connection->value = tally_value(tally, response->counted, response->counted_size,
	                                connection->value, now_ns);
	if (!connection->value)
		return;
	number = strtoull(tally->values[connection->value - 1].text, &end, 10);
	if (number < connection->number && !connection->backward) {
		connection->backward = true;
		tally->backwards++;
	}
	connection->number = number;
}

static enum outcome outcome_of_answer(const struct response *response)
{
	if (response->status >= 500)
		return OUTCOME_STATUS_5XX;
	if (response->status >= 400)
		return OUTCOME_STATUS_4XX;
	return response->is_wrong ? OUTCOME_WRONG_BODY : OUTCOME_OK;
}

static void count_answer(struct connection *connection)
{
	struct tally *tally = &connection->client->tally;
	enum shape shape = connection->plan->shape;
	enum outcome outcome = outcome_of_answer(&connection->response);
	uint64_t now_ns = clock_now_ns();

	tally_answer(tally, shape, now_ns - flight_at(connection, 0)->due_ns, now_ns);
	if (outcome == OUTCOME_OK) {
		tally_outcome(tally, shape, outcome, now_ns, NULL);
		pop_flight(connection);
	} else {
		lose_first(connection, outcome, 0, NULL);
	}
	connection->answered++;
	count_value(connection, now_ns);
}

/* The whole answer to the first request in flight is there. */
static void take_answer(struct connection *connection)
{
	bool announced = connection->response.close;

	/* An answer that came before its request was sent leaves a stream of no use. */
	bool must_close = announced || connection->held || connection->out_left > 0 ||
	                  connection->plan->closes;

	count_answer(connection);
	response_next(&connection->response);
	if (!must_close) {
		set_limit(connection);
		return;
	}
	if (announced && !connection->plan->closes)
		tally_close(&connection->client->tally, CLOSE_ANNOUNCED, clock_now_ns());
	lose_all(connection, OUTCOME_USED_CLOSED, OUTCOME_USED_CLOSED, 0, NULL);
}

static void take_bytes(struct connection *connection, const char *data, size_t size)
{
	connection->client->tally.bytes_received += size;
	while (size) {
		size_t used = 0;
		int r;

		if (connection->in_flight == 0) {
			tally_close(&connection->client->tally, CLOSE_UNSOLICITED, clock_now_ns());
			drop_socket(connection);
			return;
		}
		r = response_feed(&connection->response, data, size, &used);
		if (r < 0) {
			enum outcome outcome = r == -ENOMEM ? OUTCOME_OWN_LIMIT : OUTCOME_MALFORMED;

			lose_all(connection, outcome, outcome, 0, connection->response.why);
			return;
		}
		if (r > 0)
			take_answer(connection);
		if (connection->state != CONNECTION_OPEN)
			return;
		data += used;
		size -= used;
	}
}

/* The stream has ended, in order (0) or with an error. */
static void take_end(struct connection *connection, int error)
{
	int r;

	if (connection->in_flight == 0) {
		tally_close(&connection->client->tally, CLOSE_UNANNOUNCED, clock_now_ns());
		drop_socket(connection);
		return;
	}
	r = response_end(&connection->response);
	if (r > 0 && error == 0) {
		take_answer(connection);
		return;
	}
	if (r == 0)
		lose_all(connection, outcome_of_closing(connection), outcome_of_closing(connection),
		         error, NULL);
	else
		lose_all(connection, OUTCOME_TRUNCATED, OUTCOME_USED_CLOSED, error, NULL);
}

/* Returns whether there may be more to read. */
static bool receive_once(struct connection *connection, size_t room, bool to_end)
{
	struct client *client = connection->client;
	ssize_t got = recv(connection->fd, client->buffer, room, 0);

	if (got > 0) {
		take_bytes(connection, client->buffer, (size_t)got);
		return connection->state == CONNECTION_OPEN && ((size_t)got == room || to_end);
	}
	if (got < 0 && errno == EINTR)
		return true;
	if (got < 0 && errno == EAGAIN)
		return false;
	take_end(connection, got < 0 ? errno : 0);
	return false;
}

/* A slow reader takes a little and comes again by the clock, until nothing is there. */
static void receive_slowly(struct connection *connection)
{
	size_t room = connection->plan->read_bytes;
	uint64_t before = connection->client->tally.bytes_received;

	if (room > connection->client->buffer_size)
		room = connection->client->buffer_size;
	connection->tick_ns = 0;
	while (receive_once(connection, room, false)) {
		if (connection->client->tally.bytes_received != before)
			break;
	}
	if (connection->state == CONNECTION_OPEN &&
	    connection->client->tally.bytes_received != before)
		connection->tick_ns = clock_now_ns() + SLOW_TICK_NS;
}

static void receive_all(struct connection *connection, bool to_end)
{
	if (connection->plan->read_bytes && !to_end) {
		if (!connection->tick_ns)
			receive_slowly(connection);
		return;
	}
	while (receive_once(connection, connection->client->buffer_size, to_end))
		;
}

/*
 * When the server has reset the connection, an answer may still lie in front of the error: reading
 * finds out what became of the requests.
 */
static void send_more(struct connection *connection)
{
	const struct plan *plan = connection->plan;

	while (connection->out_left) {
		ssize_t sent = send(connection->fd, plan->bytes + connection->out_offset,
		                    connection->out_left, MSG_NOSIGNAL);

		if (sent >= 0) {
			connection->out_left -= (size_t)sent;
			connection->out_offset =
				(connection->out_offset + (size_t)sent) % plan->request_size;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN)
			return;
		receive_all(connection, true);
		return;
	}
}

static int watch(struct connection *connection)
{
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.u64 = connection->index,
	};

	return epoll_ctl(connection->client->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0
	               ? -errno
	               : 0;
}

static void become_open(struct connection *connection)
{
	set_state(connection, CONNECTION_OPEN);
	connection->client->tally.opened++;
	set_limit(connection);
	send_more(connection);
}

/* What the first or a further try to connect has said. */
static void take_connect(struct connection *connection, int r)
{
	connection->tick_ns = 0;
	if (r == -EAGAIN) {
		connection->tick_ns = clock_now_ns() + CONNECT_AGAIN_NS;
		return;
	}
	if (r == 0 || r == -EINPROGRESS) {
		int watched = watch(connection);

		if (watched < 0) {
			lose_all(connection, OUTCOME_OWN_LIMIT, OUTCOME_OWN_LIMIT, -watched, NULL);
			return;
		}
	}
	if (r == 0)
		become_open(connection);
	else if (r != -EINPROGRESS)
		fail_connect(connection, -r);
}

static void open_socket(struct connection *connection, uint64_t now_ns)
{
	int receive_bytes = connection->plan->read_bytes ? SLOW_RECEIVE_BYTES : 0;
	int r;

	connection->answered = 0;
	connection->out_offset = 0;
	connection->value = 0;
	connection->number = 0;
	connection->backward = false;
	r = target_connect(&connection->client->target, receive_bytes, &connection->fd);
	set_state(connection, CONNECTION_CONNECTING);
	connection->limit_ns = now_ns + connection->client->connect_timeout_ns;
	take_connect(connection, r);
}

static void add_flights(struct connection *connection, unsigned int count, uint64_t due_ns,
                        uint64_t now_ns)
{
	struct tally *tally = &connection->client->tally;

	for (unsigned int i = 0; i < count; i++) {
		*flight_at(connection, connection->in_flight) =
			(struct flight){ .due_ns = due_ns, .sent_ns = now_ns };
		connection->in_flight++;
	}
	tally->started += count;
	tally->shapes[connection->plan->shape].started += count;
}

void connection_begin(struct connection *connection, unsigned int count, uint64_t due_ns)
{
	uint64_t now_ns = clock_now_ns();

	add_flights(connection, count, due_ns, now_ns);
	connection->out_left += count * connection->plan->request_size;
	if (connection->state == CONNECTION_CLOSED)
		open_socket(connection, now_ns);
	if (connection->state != CONNECTION_OPEN || !connection->in_flight)
		return;
	if (connection->in_flight == count)
		set_limit(connection);
	send_more(connection);
}

void connection_begin_half(struct connection *connection)
{
	uint64_t now_ns = clock_now_ns();

	add_flights(connection, 1, now_ns, now_ns);
	connection->held = true;
	connection->out_left = connection->plan->half_size;
	send_more(connection);
}

void connection_release(struct connection *connection)
{
	uint64_t now_ns = clock_now_ns();

	if (!connection->held)
		return;
	*flight_at(connection, 0) = (struct flight){ .due_ns = now_ns, .sent_ns = now_ns };
	connection->held = false;
	connection->out_left += connection->plan->request_size - connection->plan->half_size;
	set_limit(connection);
	send_more(connection);
}

static void finish_connect(struct connection *connection)
{
	int error = 0;
	socklen_t size = sizeof(error);

	getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		fail_connect(connection, error);
	else
		become_open(connection);
}

void connection_event(struct connection *connection, uint32_t events)
{
	bool to_end = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);

	if (connection->state == CONNECTION_CONNECTING)
		finish_connect(connection);
	else if (events & EPOLLOUT && connection->out_left)
		send_more(connection);
	if (connection->state == CONNECTION_OPEN && (events & EPOLLIN || to_end))
		receive_all(connection, to_end && !connection->plan->read_bytes);
}

void connection_expire(struct connection *connection, uint64_t now_ns)
{
	if (connection->tick_ns && connection->tick_ns <= now_ns) {
		if (connection->state == CONNECTION_CONNECTING)
			take_connect(connection, target_connect_again(&connection->client->target,
			                                              connection->fd));
		else
			receive_slowly(connection);
	}
	if (!connection->limit_ns || connection->limit_ns > now_ns)
		return;
	if (connection->state == CONNECTION_CONNECTING)
		lose_all(connection, OUTCOME_CONNECT_TIMEOUT, OUTCOME_CONNECT_TIMEOUT, 0, NULL);
	else
		lose_all(connection, OUTCOME_TIMEOUT, OUTCOME_TIMEOUT, 0, NULL);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	if (!a || !b)
		return a | b;
	return a < b ? a : b;
}

void connection_arm(struct connection *connection)
{
	uint64_t due_ns = earlier(connection->limit_ns, connection->tick_ns);

	timers_set(&connection->client->timers, &connection->timer,
	           earlier(due_ns, connection->wake_ns));
}
