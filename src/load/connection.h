/* SPDX-License-Identifier: MIT */
/*
 * One connection: closed, connecting or open, with the requests that are in flight on it. It does
 * what it is told (begin, release, close), watches the socket and the time, and counts what
 * becomes of each request. It never starts a request by itself, and never one again: when to send
 * the next is the business of load.c, which looks after each call.
 *
 * The invariant: every request that began is in flights[] until exactly one outcome is counted.
 */
#ifndef LOAD_CONNECTION_H
#define LOAD_CONNECTION_H

#include "plan.h"
#include "response.h"
#include "tally.h"
#include "target.h"
#include "timers.h"

/* What all connections share. */
struct client {
	int epoll_fd;
	uint64_t timeout_ns, connect_timeout_ns;
	struct target target;
	struct tally tally;
	struct timers timers;
	size_t connecting; /* connections in that state */
	char *buffer;      /* for reading */
	size_t buffer_size;
};

enum connection_state {
	CONNECTION_CLOSED,
	CONNECTION_CONNECTING,
	CONNECTION_OPEN,
};

struct flight {
	uint64_t due_ns;  /* latency counts from here */
	uint64_t sent_ns; /* the timeout from here */
};

struct connection {
	struct client *client;
	const struct plan *plan;
	uint32_t index; /* names the source of an event */
	int fd;
	enum connection_state state;
	bool held;     /* only half of the head is sent, connection_release() sends the rest */
	bool lost;     /* a request was lost since load.c looked last */
	bool backward; /* its header value has become smaller, and that is counted */
	bool queued, settled; /* load.c's */
	unsigned int in_flight, first;
	struct flight *flights; /* a ring of plan->depth */
	size_t out_left, out_offset;
	uint64_t answered; /* on this socket */
	uint64_t ended;    /* requests with an outcome, over all sockets */
	uint64_t limit_ns; /* when what is awaited counts as a timeout; 0: nothing is */
	uint64_t tick_ns;  /* the next slow read, or try to connect; 0: none */
	uint64_t wake_ns;  /* when load.c wants to be called; 0: never */
	struct timer timer;
	struct response response;
	uint32_t value; /* the last header value, 1 + index into the tally's */
	uint64_t number;
	struct connection *next; /* in load.c's queue */
};

void connection_init(struct connection *connection, struct client *client, const struct plan *plan,
                     uint32_t index, struct flight *flights);
void connection_done(struct connection *connection);

/**
 * connection_begin - starts @count requests that are due at @due_ns, connecting if need be
 *
 * Shape: only with room in flight (in_flight + count <= plan->depth) and not while held
 */
void connection_begin(struct connection *connection, unsigned int count, uint64_t due_ns);

/** connection_begin_half - sends half a head; only when open and without a request in flight */
void connection_begin_half(struct connection *connection);

/** connection_release - sends what connection_begin_half() held back */
void connection_release(struct connection *connection);

/** connection_event - the socket has something to say: @events as of epoll_wait(2) */
void connection_event(struct connection *connection, uint32_t events);

/** connection_expire - a deadline or tick may have passed */
void connection_expire(struct connection *connection, uint64_t now_ns);

/** connection_close - closes; requests in flight count as abandoned */
void connection_close(struct connection *connection);

/** connection_arm - sets the timer to the earliest of the connection's points in time */
void connection_arm(struct connection *connection);

#endif
