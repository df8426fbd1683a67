/* SPDX-License-Identifier: MIT */
/*
 * The thread of the handle: libsegue's events become orders for the loops.
 *
 * Nothing is left here when no connection and no held request is counted. They are counted by
 * atomics that all loops share; whoever takes the last one away wakes this thread, which alone
 * decides that the drain has ended.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define REPORT_MS          1000
#define DRAINING_REPORT_MS 100

static unsigned long sum(const struct segue_http_server *server, size_t offset)
{
	unsigned long total = 0;

	for (unsigned int i = 0; i < server->loop_count; i++)
		total += atomic_load_explicit(
			(atomic_ulong *)((char *)&server->loops[i].counters + offset),
			memory_order_relaxed);
	return total;
}

#define SUM(server, counter) sum(server, offsetof(struct sgh_counters, counter))

static void counts_now(const struct segue_http_server *server, struct segue_http_counts *counts)
{
	counts->moved = SUM(server, moved) - server->at_drain.moved;
	counts->finished = SUM(server, answered) - server->at_drain.finished;
	counts->cut_requests = SUM(server, cut_requests) - server->at_drain.cut_requests;
	counts->cut_idle = SUM(server, cut_idle) - server->at_drain.cut_idle;
}

/* For whoever looks on at the supervisor. */
static void report(struct segue_http_server *server)
{
	segue_report(server->segue, atomic_load(&server->connections),
	             SUM(server, cut_requests) + SUM(server, cut_idle));
}

static void on_report(uv_timer_t *timer)
{
	report(timer->data);
}

static void report_every(struct segue_http_server *server, uint64_t ms)
{
	if (!segue_supervised(server->segue))
		return;
	report(server);
	uv_timer_start(&server->report_timer, on_report, ms, ms);
}

#define COUNT_FIELDS(counts)                                                   \
	SGH_FIELDS(SGH_NUMBER("moved", (int64_t)(counts).moved),               \
	           SGH_NUMBER("finished", (int64_t)(counts).finished),         \
	           SGH_NUMBER("cut_requests", (int64_t)(counts).cut_requests), \
	           SGH_NUMBER("cut_idle", (int64_t)(counts).cut_idle))

static void end_drain(struct segue_http_server *server)
{
	struct segue_http_counts counts;

	counts_now(server, &counts);
	server->drained = counts;
	sgh_log(server, "drained", COUNT_FIELDS(counts),
	        "drained: %lu connections moved, %lu requests finished, %lu requests and %lu idle "
	        "connections cut",
	        (unsigned long)counts.moved, (unsigned long)counts.finished,
	        (unsigned long)counts.cut_requests, (unsigned long)counts.cut_idle);
	if (server->options.ended)
		server->options.ended(server, &counts, server->options.ctx);
}

static void check_drained(struct sgh_loop *loop)
{
	struct segue_http_server *server = loop->server;

	if (!server->draining || server->orders || server->drops_under_way ||
	    atomic_load(&server->connections) > 0)
		return;
	/* A program that never answers a request must not hold the end up beyond the deadline. */
	if (!server->cutting && atomic_load(&server->held) > 0)
		return;
	/* The last word about it goes before the word that nothing is left. */
	report(server);
	if (segue_drained(server->segue) < 0)
		return;
	server->draining = false;
	end_drain(server);
	segue_wake(server->segue);
}

static void run_check(struct sgh_loop *loop, struct sgh_message *message)
{
	/* First: what changes from here on has to be looked at again. */
	atomic_store(&loop->server->check_posted, false);
	check_drained(loop);
}

/* On any loop. */
static void wake_check(struct segue_http_server *server)
{
	if (atomic_exchange(&server->check_posted, true))
		return;
	server->check = (struct sgh_message){ .run = run_check, .embedded = true };
	sgh_loop_post(&server->loops[0], &server->check);
}

void sgh_server_connection_gone(struct segue_http_server *server)
{
	if (atomic_fetch_sub(&server->connections, 1) == 1 && atomic_load(&server->leaving))
		wake_check(server);
}

void sgh_server_request_released(struct segue_http_server *server)
{
	if (atomic_fetch_sub(&server->held, 1) == 1 && atomic_load(&server->leaving))
		wake_check(server);
}

/* An order for a loop; it comes back to the thread of the handle when it is carried out, for
 * only then can the count of connections be trusted. */
struct order {
	struct sgh_message message;
	enum { ACCEPT, HOLD, MOVE, FINISH, CUT } what;
	bool spare, taken;
	size_t count;
	int fds[];
};

/* There is no way on without an order: a generation would not accept, or not let go. Where there
 * is no memory these are taken, one of each kind for each loop. */
static size_t spare_size(const struct segue_http_server *server)
{
	size_t size = sizeof(struct order) + server->listener_count * sizeof(int);

	return (size + alignof(struct order) - 1) / alignof(struct order) * alignof(struct order);
}

static int make_spares(struct segue_http_server *server)
{
	server->spares = server->loop_count * (CUT + 1);
	server->spare_orders = calloc(server->spares, spare_size(server));
	return server->spare_orders ? 0 : -ENOMEM;
}

static struct order *order_new(struct segue_http_server *server)
{
	struct order *order = malloc(sizeof(*order) + server->listener_count * sizeof(int));

	if (order) {
		order->spare = false;
		return order;
	}
	for (unsigned int i = 0; i < server->spares; i++) {
		order = (struct order *)(server->spare_orders + i * spare_size(server));
		if (order->taken)
			continue;
		order->spare = order->taken = true;
		return order;
	}
	return NULL;
}

static void order_is_carried_out(struct sgh_loop *loop, struct sgh_message *message)
{
	struct order *order = (struct order *)message;

	loop->server->orders--;
	check_drained(loop);
	if (order->spare)
		order->taken = false;
	else
		free(order);
}

static void carry_out(struct sgh_loop *loop, struct sgh_message *message)
{
	struct order *order = (struct order *)message;
	int r = 0;

	switch (order->what) {
	case ACCEPT:
		sgh_drain_end(loop);
		r = sgh_accept_start(loop, order->fds, order->count);
		break;
	case HOLD:
		sgh_accept_stop(loop);
		break;
	case MOVE:
	case FINISH:
		sgh_drain_begin(loop, order->what == MOVE);
		break;
	case CUT:
		sgh_drain_cut(loop);
		break;
	}
	if (r < 0)
		sgh_log(loop->server, "warning", SGH_FIELDS(SGH_TEXT("reason", strerror(-r))),
		        "a loop cannot watch a listener yet: %s", strerror(-r));
	*message = (struct sgh_message){ .run = order_is_carried_out, .embedded = order->spare };
	sgh_loop_post(&loop->server->loops[0], message);
}

static void order_all(struct segue_http_server *server, int what)
{
	size_t bytes = server->listener_count * sizeof(int);

	for (unsigned int i = 0; i < server->loop_count; i++) {
		struct order *order = order_new(server);

		/* All of them are under way: the deadlines stay armed. */
		if (!order) {
			sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", "no memory")),
			        "no memory for an order to loop %u", i);
			continue;
		}
		order->message = (struct sgh_message){ .run = carry_out, .embedded = order->spare };
		order->what = what;
		order->count = server->listener_count;
		memcpy(order->fds, server->listener_fds, bytes);
		/* What is still on its way to be closed is watched when that is over. */
		for (size_t k = 0; k < server->listener_count && what == ACCEPT; k++)
			if (server->drops[k].under_way)
				order->fds[k] = -1;
		server->orders++;
		sgh_loop_post(&server->loops[i], &order->message);
	}
}

/* What the next generation did not want is served again. */
static void find_listeners(struct segue_http_server *server)
{
	for (size_t i = 0; i < server->listener_count; i++) {
		if (server->listener_fds[i] >= 0)
			continue;
		server->listener_fds[i] =
			segue_listener_fd(server->segue, server->listener_names[i]);
		/* It may be another socket, bound in the place of one that was closed. */
		if (server->listener_fds[i] >= 0)
			sgh_accept_begins(server->listener_fds[i]);
	}
}

static void on_serve(struct segue_http_server *server, bool again)
{
	struct segue_http_counts counts = server->drained;

	if (server->draining)
		counts_now(server, &counts);
	server->committed = false;
	server->draining = false;
	server->cutting = false;
	atomic_store(&server->leaving, false);
	report_every(server, REPORT_MS);
	if (again)
		find_listeners(server);
	order_all(server, ACCEPT);
	if (again)
		sgh_log(server, "resumed", COUNT_FIELDS(counts),
		        "serves again: the successor is gone, which took %lu connections",
		        (unsigned long)counts.moved);
	else
		sgh_log(server, "serving", NULL, "serves");
	server->drained = (struct segue_http_counts){ 0 };
	if (server->options.serves)
		server->options.serves(server, server->options.ctx);
}

static void listen_again(struct segue_http_server *server)
{
	find_listeners(server);
	order_all(server, ACCEPT);
	sgh_log(server, "relistening", NULL, "listens again on what was let go");
}

/* It serves again, or has done so and now gets a listener back that could not be bound at once. */
static void on_resume(struct segue_http_server *server)
{
	server->resume_waits = server->drops_under_way > 0;
	if (server->committed)
		on_serve(server, true);
	else
		listen_again(server);
}

static size_t index_of(const struct segue_http_server *server, const char *name)
{
	size_t i = 0;

	while (i < server->listener_count && strcmp(server->listener_names[i], name) != 0)
		i++;
	return i;
}

/* Goes from loop to loop. Behind the order to hold: where it has been, nobody watches the
 * listener any more. */
static void run_drop(struct sgh_loop *loop, struct sgh_message *message)
{
	struct segue_http_server *server = loop->server;
	struct sgh_drop *drop = (struct sgh_drop *)message;
	int fd;

	if (drop->loop > 0) {
		*message = (struct sgh_message){ .run = run_drop, .embedded = true };
		sgh_loop_post(&server->loops[--drop->loop], message);
		return;
	}
	fd = segue_listener_fd(server->segue, drop->name);
	if (fd >= 0 && !sgh_accept_all(loop, fd))
		sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("listener", drop->name)),
		        "no room for the last connections of listener %s", drop->name);
	/* It is wanted again where the successor has failed meanwhile. */
	if (segue_unlisten(server->segue, drop->name) == 0)
		sgh_log(server, "unlisten", SGH_FIELDS(SGH_TEXT("listener", drop->name)),
		        "listener %s is closed: the successor does not want it", drop->name);
	server->listener_fds[drop - server->drops] = -1;
	drop->under_way = false;
	if (--server->drops_under_way == 0 && server->resume_waits) {
		server->resume_waits = false;
		listen_again(server);
	}
	wake_check(server);
}

static void on_dropped(struct segue_http_server *server, const char *name)
{
	size_t i = index_of(server, name);
	struct sgh_drop *drop = &server->drops[i];

	if (i == server->listener_count || drop->under_way)
		return;
	*drop = (struct sgh_drop){ .message = { .run = run_drop, .embedded = true },
		                   .name = server->listener_names[i],
		                   .loop = server->loop_count - 1,
		                   .under_way = true };
	server->drops_under_way++;
	sgh_loop_post(&server->loops[drop->loop], &drop->message);
}

static void begin_drain(struct segue_http_server *server, bool cutting)
{
	server->cutting = cutting;
	server->resume_waits = false;
	atomic_store(&server->leaving, true);
	report_every(server, DRAINING_REPORT_MS);
	if (server->draining)
		return;
	server->draining = true;
	server->drained = server->at_drain = (struct segue_http_counts){ 0 };
	counts_now(server, &server->at_drain);
}

static void on_drain(struct segue_http_server *server, const struct segue_event *event)
{
	unsigned long connections = atomic_load(&server->connections);
	unsigned long in_flight = SUM(server, in_flight);
	bool goes_on = event->successor || segue_current_state(server->segue) == SEGUE_DRAINING;

	begin_drain(server, false);
	sgh_log(server, "draining",
	        SGH_FIELDS(SGH_TRUTH("to_successor", event->successor),
	                   SGH_NUMBER("connections", (int64_t)connections),
	                   SGH_NUMBER("requests", (int64_t)in_flight),
	                   SGH_NUMBER("deadline_ms", event->deadline_ms)),
	        "draining %lu connections, %lu requests in flight (%s)", connections, in_flight,
	        event->successor ? "to the successor"
	        : goes_on        ? "others serve; its next answer ends each"
	                         : "the service stops");
	if (server->options.drain)
		server->options.drain(server, event->successor, server->options.ctx);
	/* Where others serve who cannot take connections, none is closed in a client's face: it
	 * cannot move, and ends with its next answer. */
	order_all(server, goes_on ? MOVE : FINISH);
}

static void on_cut(struct segue_http_server *server)
{
	unsigned long connections = atomic_load(&server->connections);
	unsigned long in_flight = SUM(server, in_flight);

	begin_drain(server, true);
	sgh_log(server, "cut",
	        SGH_FIELDS(SGH_NUMBER("connections", (int64_t)connections),
	                   SGH_NUMBER("requests", (int64_t)in_flight)),
	        "the drain has to end: %lu connections are cut, %lu requests in flight",
	        connections, in_flight);
	order_all(server, CUT);
}

static void on_gone(struct segue_http_server *server, const struct segue_event *event)
{
	const char *reason = event->reason && event->reason[0] ? event->reason : "as told";

	server->gone = true;
	server->exit_code = event->error ? 1 : 0;
	if (event->error && server->options.quiet)
		sgh_log_failure(server, reason);
	sgh_log(server, "gone",
	        SGH_FIELDS(SGH_TEXT("reason", reason), SGH_NUMBER("exit", server->exit_code)),
	        "gone (%s)", reason);
}

static void on_upgrade_ended(struct segue_http_server *server, const struct segue_event *event)
{
	const char *outcome = segue_outcome_name(event->outcome);
	const char *reason = event->reason ? event->reason : "";
	char head[100] = "";

	/* A refusal says so itself. */
	if (event->outcome != SEGUE_REFUSED || !reason[0])
		snprintf(head, sizeof(head), "upgrade to generation %llu: %s after %lld ms",
		         (unsigned long long)event->generation, outcome, (long long)event->took_ms);

	sgh_log(server, "upgrade-ended",
	        SGH_FIELDS(SGH_TEXT("outcome", outcome), SGH_TEXT("reason", reason),
	                   SGH_NUMBER("successor", (int64_t)event->generation),
	                   SGH_NUMBER("successor_pid", event->pid),
	                   SGH_NUMBER("error", event->error),
	                   SGH_NUMBER("took_ms", event->took_ms)),
	        "%s%s%s", head, head[0] && reason[0] ? ": " : "", reason);
}

static void on_state(struct segue_http_server *server, const struct segue_event *event)
{
	const char *reason = event->reason ? event->reason : "";

	sgh_log(server, "state",
	        SGH_FIELDS(SGH_TEXT("from", segue_state_name(event->from)),
	                   SGH_TEXT("to", segue_state_name(event->to)), SGH_TEXT("reason", reason),
	                   SGH_NUMBER("took_ms", event->took_ms)),
	        "state %s -> %s (%s, %lld ms)", segue_state_name(event->from),
	        segue_state_name(event->to), reason, (long long)event->took_ms);
}

static void on_warning(struct segue_http_server *server, const struct segue_event *event)
{
	const char *reason = event->reason ? event->reason : "?";

	sgh_log(server, "warning",
	        SGH_FIELDS(SGH_TEXT("reason", reason), SGH_NUMBER("error", event->error)),
	        "warning: %s", reason);
}

/* Events about this generation's successor. */
static void on_upgrade(struct segue_http_server *server, const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_UPGRADE_BEGINS:
		sgh_log(server, "upgrade-begins",
		        SGH_FIELDS(SGH_NUMBER("successor", (int64_t)event->generation)),
		        "upgrade to generation %llu begins", (unsigned long long)event->generation);
		break;
	case SEGUE_EVENT_UPGRADE_STARTED:
		sgh_log(server, "upgrade-started",
		        SGH_FIELDS(SGH_NUMBER("successor", (int64_t)event->generation),
		                   SGH_NUMBER("successor_pid", event->pid)),
		        "generation %llu starts as pid %d", (unsigned long long)event->generation,
		        (int)event->pid);
		break;
	case SEGUE_EVENT_UPGRADE_ENDED:
		on_upgrade_ended(server, event);
		break;
	case SEGUE_EVENT_COMMIT:
		server->committed = true;
		server->resume_waits = false;
		order_all(server, HOLD);
		break;
	case SEGUE_EVENT_LISTENER_DROPPED:
		on_dropped(server, event->name);
		break;
	default:
		break;
	}
}

static void on_connection(struct segue_http_server *server, const struct segue_event *event)
{
	int r = sgh_adopt(server, event->fd, event->bytes, event->bytes_len, event->record,
	                  event->record_len);

	if (r < 0)
		sgh_say_lost(server);
}

static void on_event(struct segue_http_server *server, const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_SERVE:
		on_serve(server, false);
		break;
	case SEGUE_EVENT_RESUME:
		on_resume(server);
		break;
	case SEGUE_EVENT_DRAIN:
		on_drain(server, event);
		break;
	case SEGUE_EVENT_CUT:
		on_cut(server);
		break;
	case SEGUE_EVENT_GONE:
		on_gone(server, event);
		break;
	case SEGUE_EVENT_CONNECTION:
		on_connection(server, event);
		break;
	case SEGUE_EVENT_TAKEN:
		sgh_verdict(event->cookie, true);
		break;
	case SEGUE_EVENT_KEPT:
		sgh_verdict(event->cookie, false);
		break;
	case SEGUE_EVENT_FINAL_STATE:
		if (server->options.final_state)
			server->options.final_state(server, server->options.ctx);
		break;
	case SEGUE_EVENT_STATE:
		on_state(server, event);
		break;
	case SEGUE_EVENT_WARNING:
		on_warning(server, event);
		break;
	default:
		on_upgrade(server, event);
		break;
	}
}

void sgh_events_end(struct segue_http_server *server)
{
	for (unsigned int i = 1; i < server->loop_count; i++)
		while (sgh_loop_call(&server->loops[i], sgh_loop_end) < 0)
			sched_yield();
	if (server->watching) {
		uv_close((uv_handle_t *)&server->segue_poll, NULL);
		uv_close((uv_handle_t *)&server->reopen_signal, NULL);
		uv_close((uv_handle_t *)&server->report_timer, NULL);
	}
	server->watching = false;
	sgh_loop_end(&server->loops[0]);
}

static void on_segue(uv_poll_t *poll, int status, int events)
{
	struct segue_http_server *server = poll->data;
	struct segue_event event;

	while (!server->gone && segue_dispatch(server->segue, &event) > 0)
		on_event(server, &event);
	/* A verdict may have been the last thing that was missing. */
	check_drained(&server->loops[0]);
	if (server->gone)
		sgh_events_end(server);
	else
		sgh_loop_settle(&server->loops[0]);
}

static void on_reopen(uv_signal_t *handle, int number)
{
	struct segue_http_server *server = handle->data;

	sgh_log_reopen(server);
	sgh_access_reopen(server);
}

int sgh_events_begin(struct segue_http_server *server)
{
	uv_loop_t *uv = &server->loops[0].uv;
	int r = make_spares(server);

	for (unsigned int i = 0; r == 0 && i < server->loop_count; i++)
		r = sgh_accept_prepare(&server->loops[i], server->listener_count);
	if (r < 0)
		return r;
	r = uv_signal_init(uv, &server->reopen_signal);
	if (r < 0)
		return r;
	r = uv_poll_init(uv, &server->segue_poll, segue_fd(server->segue));
	if (r < 0) {
		uv_close((uv_handle_t *)&server->reopen_signal, NULL);
		return r;
	}
	uv_timer_init(uv, &server->report_timer);
	server->watching = true;
	server->segue_poll.data = server;
	uv_poll_start(&server->segue_poll, UV_READABLE, on_segue);
	server->report_timer.data = server;
	server->reopen_signal.data = server;
	uv_signal_start(&server->reopen_signal, on_reopen, SIGUSR1);
	return 0;
}
