/* SPDX-License-Identifier: MIT */
/*
 * A loop: one thread, one libuv loop, many connections.
 *
 * libuv watches one descriptor for all connections: an epoll set of our own, edge-triggered. A
 * connection then costs no watcher of libuv's, is registered once in its life, and can be taken out
 * of the set before its descriptor goes to another process.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define EVENTS_MAX  256
#define BATCHES_MAX 4

_Thread_local struct sgh_loop *sgh_this_loop;

uint64_t sgh_loop_now(struct sgh_loop *loop)
{
	return uv_now(&loop->uv);
}

/* The value of Date, made once a second. */
const char *sgh_loop_date(struct sgh_loop *loop)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (now.tv_sec != loop->date_second) {
		static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
		static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
			                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };

		gmtime_r(&now.tv_sec, &tm);
		/* Not strftime(): the program's locale would show. */
		snprintf(loop->date, sizeof(loop->date), "%s, %02d %s %04d %02d:%02d:%02d GMT",
		         days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon],
		         (tm.tm_year + 1900) % 10000, tm.tm_hour, tm.tm_min, tm.tm_sec);
		loop->date_second = now.tv_sec;
	}
	return loop->date;
}

void sgh_loop_post(struct sgh_loop *loop, struct sgh_message *message)
{
	bool closed;

	message->next = NULL;
	pthread_mutex_lock(&loop->lock);
	closed = loop->closed;
	if (!closed) {
		*loop->last = message;
		loop->last = &message->next;
		uv_async_send(&loop->async);
	}
	pthread_mutex_unlock(&loop->lock);
	if (closed && !message->embedded)
		free(message);
}

struct call {
	struct sgh_message message;
	void (*call)(struct sgh_loop *loop);
};

static void run_call(struct sgh_loop *loop, struct sgh_message *message)
{
	struct call *call = (struct call *)message;

	call->call(loop);
	free(call);
}

int sgh_loop_call(struct sgh_loop *loop, void (*function)(struct sgh_loop *loop))
{
	struct call *call = malloc(sizeof(*call));

	if (!call)
		return -ENOMEM;
	call->message = (struct sgh_message){ .run = run_call };
	call->call = function;
	sgh_loop_post(loop, &call->message);
	return 0;
}

static struct sgh_message *take_messages(struct sgh_loop *loop)
{
	struct sgh_message *first;

	pthread_mutex_lock(&loop->lock);
	first = loop->first;
	loop->first = NULL;
	loop->last = &loop->first;
	pthread_mutex_unlock(&loop->lock);
	return first;
}

static void on_async(uv_async_t *async)
{
	struct sgh_loop *loop = async->data;
	struct sgh_message *message = take_messages(loop);

	while (message) {
		struct sgh_message *next = message->next;

		message->run(loop, message);
		message = next;
	}
	sgh_loop_settle(loop);
}

static void on_events(uv_poll_t *poll, int status, int events)
{
	struct sgh_loop *loop = poll->data;
	struct epoll_event batch[EVENTS_MAX];

	for (int round = 0; round < BATCHES_MAX; round++) {
		int n = epoll_wait(loop->epoll_fd, batch, EVENTS_MAX, 0);

		for (int i = 0; i < n; i++) {
			/* Listeners are odd numbers, connections are aligned pointers. */
			if (batch[i].data.u64 & 1)
				sgh_accept_event(loop, batch[i].data.u64 >> 1);
			else
				sgh_connection_event(batch[i].data.ptr, batch[i].events);
		}
		if (n < EVENTS_MAX)
			break;
	}
	sgh_loop_settle(loop);
}

static void on_idle(uv_idle_t *idle)
{
	sgh_loop_settle(idle->data);
}

static void on_timer(uv_timer_t *timer)
{
	struct sgh_loop *loop = timer->data;
	uint64_t now = sgh_loop_now(loop);
	struct sgh_timer *due;

	loop->timer_set = NULL;
	while ((due = sgh_timer_due(&loop->timers, now)))
		due->fire(due);
	sgh_loop_settle(loop);
}

static void on_prepare(uv_prepare_t *prepare)
{
	struct sgh_loop *loop = prepare->data;

	if (loop->access_len)
		sgh_access_flush(loop);
}

static void arm_timer(struct sgh_loop *loop)
{
	uint64_t now, at;

	if (!loop->timers.count || loop->stopping)
		return;
	at = loop->timers.heap[0]->at_ms;
	/* It may stand too early, never too late: early ones are put right when they fire. */
	if (loop->timer_set && uv_is_active((uv_handle_t *)&loop->timer) &&
	    uv_timer_get_due_in(&loop->timer) + sgh_loop_now(loop) <= at)
		return;
	now = sgh_loop_now(loop);
	loop->timer_set = loop->timers.heap[0];
	uv_timer_start(&loop->timer, on_timer, at > now ? at - now : 0, 0);
}

static void run_runnable(struct sgh_loop *loop)
{
	struct sgh_connection *conn = loop->runnable;

	loop->runnable = NULL;
	loop->runnable_last = &loop->runnable;
	while (conn) {
		struct sgh_connection *next = conn->runnable;

		conn->runnable = NULL;
		conn->is_runnable = 0;
		if (!conn->killed && !conn->moving)
			sgh_connection_run(conn);
		conn = next;
	}
}

static void bury(struct sgh_loop *loop)
{
	while (loop->graveyard) {
		struct sgh_connection *conn = loop->graveyard;

		if (conn->is_runnable)
			return;
		loop->graveyard = conn->next;
		free(conn);
	}
}

/* What every callback of libuv's ends with. A connection that asks to run while the others
 * do waits for the next round, so that none keeps the loop to itself. */
void sgh_loop_settle(struct sgh_loop *loop)
{
	if (loop->runnable)
		run_runnable(loop);
	if (loop->stopping)
		return;
	if (loop->runnable)
		uv_idle_start(&loop->idle, on_idle);
	else if (uv_is_active((uv_handle_t *)&loop->idle))
		uv_idle_stop(&loop->idle);
	if (loop->graveyard)
		bury(loop);
	arm_timer(loop);
}

static int open_handles(struct sgh_loop *loop)
{
	int r = uv_async_init(&loop->uv, &loop->async, on_async);

	if (r < 0)
		return r;
	r = uv_poll_init(&loop->uv, &loop->poll, loop->epoll_fd);
	if (r < 0) {
		uv_close((uv_handle_t *)&loop->async, NULL);
		return r;
	}
	uv_timer_init(&loop->uv, &loop->timer);
	uv_idle_init(&loop->uv, &loop->idle);
	uv_prepare_init(&loop->uv, &loop->prepare);
	loop->async.data = loop;
	loop->poll.data = loop;
	loop->timer.data = loop;
	loop->idle.data = loop;
	loop->prepare.data = loop;
	uv_poll_start(&loop->poll, UV_READABLE, on_events);
	uv_prepare_start(&loop->prepare, on_prepare);
	return 0;
}

static int open_parts(struct sgh_loop *loop)
{
	int r;

	loop->scratch = malloc(SGH_INPUT_BYTES);
	loop->cork = malloc(SGH_CORK_BYTES);
	if (!loop->scratch || !loop->cork ||
	    sgh_timers_init(&loop->timers, &loop->accept_timer) < 0)
		return -ENOMEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return -errno;
	r = uv_loop_init(&loop->uv);
	if (r < 0)
		return r;
	r = open_handles(loop);
	if (r < 0) {
		uv_run(&loop->uv, UV_RUN_DEFAULT);
		uv_loop_close(&loop->uv);
	}
	return r;
}

static void free_parts(struct sgh_loop *loop)
{
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	loop->epoll_fd = -1;
	free(loop->scratch);
	free(loop->cork);
	free(loop->access);
	free(loop->listeners);
	loop->scratch = loop->cork = loop->access = NULL;
	loop->listeners = NULL;
	sgh_timers_done(&loop->timers);
	sgh_requests_free_spare(loop);
	pthread_mutex_destroy(&loop->lock);
	pthread_cond_destroy(&loop->written);
}

int sgh_loop_open(struct sgh_loop *loop, struct segue_http_server *server, unsigned int index)
{
	int r;

	*loop = (struct sgh_loop){ .server = server, .index = index, .epoll_fd = -1 };
	loop->last = &loop->first;
	loop->runnable_last = &loop->runnable;
	sgh_timer_init(&loop->accept_timer, sgh_accept_timer);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->written, NULL);
	r = open_parts(loop);
	if (r < 0)
		free_parts(loop);
	return r;
}

static void *thread_main(void *arg)
{
	sgh_loop_run(arg);
	return NULL;
}

int sgh_loop_start(struct sgh_loop *loop)
{
	int r = pthread_create(&loop->thread, NULL, thread_main, loop);

	loop->has_thread = r == 0;
	return -r;
}

void sgh_loop_run(struct sgh_loop *loop)
{
	sgh_this_loop = loop;
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	sgh_this_loop = NULL;
}

void sgh_loop_join(struct sgh_loop *loop)
{
	if (loop->has_thread)
		pthread_join(loop->thread, NULL);
	loop->has_thread = false;
}

/* On the loop's thread: let go of everything, so that uv_run() returns. */
void sgh_loop_end(struct sgh_loop *loop)
{
	if (loop->stopping)
		return;
	loop->stopping = true;
	pthread_mutex_lock(&loop->lock);
	loop->closed = true;
	pthread_cond_broadcast(&loop->written);
	pthread_mutex_unlock(&loop->lock);
	sgh_accept_stop(loop);
	while (loop->connections)
		sgh_connection_kill(loop->connections);
	if (loop->access_len)
		sgh_access_flush(loop);
	uv_close((uv_handle_t *)&loop->async, NULL);
	uv_close((uv_handle_t *)&loop->poll, NULL);
	uv_close((uv_handle_t *)&loop->timer, NULL);
	uv_close((uv_handle_t *)&loop->idle, NULL);
	uv_close((uv_handle_t *)&loop->prepare, NULL);
}

/* After uv_run() has returned, or where it was never called. */
void sgh_loop_close(struct sgh_loop *loop)
{
	struct sgh_message *message;

	if (loop->epoll_fd < 0)
		return;
	sgh_loop_end(loop);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	uv_loop_close(&loop->uv);
	message = take_messages(loop);
	while (message) {
		struct sgh_message *next = message->next;

		if (!message->embedded)
			free(message);
		message = next;
	}
	while (loop->graveyard) {
		struct sgh_connection *conn = loop->graveyard;

		loop->graveyard = conn->next;
		free(conn);
	}
	free_parts(loop);
}
