/* SPDX-License-Identifier: MIT */
/*
 * Accepting, by all loops from the same listeners.
 *
 * Listeners are watched level-triggered, and a few connections are taken at a time, so that the
 * loops share them. Where descriptors or the limit of connections are used up the loop looks
 * away until one is free or a short time has passed: clients wait in the backlog, and the loop
 * does not spin.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

#define ACCEPTS_MAX 16
#define PAUSE_MS    50

static int poll_listener(struct sgh_loop *loop, size_t index)
{
	struct sgh_listener *listener = &loop->listeners[index];
	struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE,
		                     .data.u64 = (uint64_t)index << 1 | 1 };

	if (listener->polled || listener->fd < 0)
		return 0;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, listener->fd, &event) < 0)
		return -errno;
	listener->polled = true;
	return 0;
}

static void look_away(struct sgh_loop *loop)
{
	for (size_t i = 0; i < loop->listener_count; i++) {
		if (loop->listeners[i].polled)
			epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, loop->listeners[i].fd, NULL);
		loop->listeners[i].polled = false;
	}
}

/* A listener that this program has not had yet: accepted sockets inherit what is set on it.
 * Responses leave whole, so there is nothing to wait for. */
void sgh_accept_begins(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int sgh_accept_prepare(struct sgh_loop *loop, size_t count)
{
	loop->listeners = calloc(count ? count : 1, sizeof(*loop->listeners));
	return loop->listeners ? 0 : -ENOMEM;
}

/* Those that cannot be watched for want of memory are tried again. */
static int poll_listeners(struct sgh_loop *loop)
{
	int r = 0;

	for (size_t i = 0; i < loop->listener_count; i++) {
		int one = poll_listener(loop, i);

		if (one < 0)
			r = one;
	}
	if (r < 0)
		sgh_timer_set(&loop->timers, &loop->accept_timer, sgh_loop_now(loop) + PAUSE_MS);
	return r;
}

int sgh_accept_start(struct sgh_loop *loop, const int *fds, size_t count)
{
	look_away(loop);
	loop->listener_count = count;
	loop->accepting = true;
	for (size_t i = 0; i < count; i++)
		loop->listeners[i] = (struct sgh_listener){ .fd = fds[i] };
	return poll_listeners(loop);
}

void sgh_accept_stop(struct sgh_loop *loop)
{
	look_away(loop);
	loop->accepting = false;
	sgh_timer_stop(&loop->timers, &loop->accept_timer);
}

static void pause_accepting(struct sgh_loop *loop)
{
	look_away(loop);
	sgh_timer_set(&loop->timers, &loop->accept_timer, sgh_loop_now(loop) + PAUSE_MS);
}

/* A connection has been closed: there is room again. */
void sgh_accept_again(struct sgh_loop *loop)
{
	if (!loop->accepting || loop->accept_timer.index == SGH_TIMER_OFF)
		return;
	sgh_timer_stop(&loop->timers, &loop->accept_timer);
	poll_listeners(loop);
}

void sgh_accept_timer(struct sgh_timer *timer)
{
	struct sgh_loop *loop =
		(struct sgh_loop *)((char *)timer - offsetof(struct sgh_loop, accept_timer));

	if (loop->accepting)
		poll_listeners(loop);
}

enum accepted {
	ACCEPTED,
	NOTHING, /* nobody waits */
	NO_ROOM,
};

static enum accepted accept_one(struct sgh_loop *loop, int listener, uint32_t most)
{
	struct segue_http_server *server = loop->server;
	struct sockaddr_storage address = { 0 };
	socklen_t len = sizeof(address);
	struct sgh_peer peer = { 0 };
	int fd;

	if (atomic_load_explicit(&server->connections, memory_order_relaxed) >= most)
		return NO_ROOM;
	fd = accept4(listener, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		switch (errno) {
		case EAGAIN:
			return NOTHING;
		case EMFILE:
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			return NO_ROOM;
		case EBADF:
		case EINVAL:
		case EOPNOTSUPP:
		case ENOTSOCK:
			return NOTHING;
		default:
			/* The client gave up, or the network did: accept(2). */
			return ACCEPTED;
		}
	}
	atomic_fetch_add(&server->connections, 1);
	sgh_peer_set(&peer, &address);
	if (!sgh_connection_new(loop, fd, &peer)) {
		close(fd);
		sgh_server_connection_gone(server);
		return NO_ROOM;
	}
	return ACCEPTED;
}

void sgh_accept_event(struct sgh_loop *loop, size_t index)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		/* An event of the same batch may have changed the set. */
		if (!loop->accepting || index >= loop->listener_count ||
		    !loop->listeners[index].polled)
			return;
		switch (accept_one(loop, loop->listeners[index].fd,
		                   loop->server->connections_max)) {
		case ACCEPTED:
			continue;
		case NOTHING:
			return;
		case NO_ROOM:
			pause_accepting(loop);
			return;
		}
	}
}

/* Empty the backlog of a listener that is about to go, whatever the limit of connections: who
 * waits there would be reset. False where descriptors ran out. */
bool sgh_accept_all(struct sgh_loop *loop, int fd)
{
	enum accepted what;

	do {
		what = accept_one(loop, fd, UINT32_MAX);
	} while (what == ACCEPTED);
	return what == NOTHING;
}
