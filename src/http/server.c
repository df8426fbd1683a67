/* SPDX-License-Identifier: MIT */
/*
 * The server: routes and options before it runs; then the thread of the handle, which turns
 * libsegue's events into messages for the loops.
 *
 * Nothing is left here when no connection and no held request is counted. They are counted by
 * atomics that all loops share; whoever takes the last one away wakes this thread, which alone
 * decides that the drain has ended.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "duration.h"
#include "log.h"

/* Descriptors that are not connections: logs, loops, listeners, the program's own. */
#define DESCRIPTORS_SPARED 64

/* Where a handler still blocks at the end of the process, what it may touch stays. */
static struct segue_http_server *abandoned;

struct segue_http_server *segue_http_server_new(void)
{
	struct segue_http_server *server = calloc(1, sizeof(*server));

	if (!server)
		return NULL;
	segue_http_options_init(&server->options);
	server->access_fd = -1;
	return server;
}

void segue_http_server_free(struct segue_http_server *server)
{
	if (!server || server == abandoned)
		return;
	while (server->own_options) {
		struct sgh_own_option *next = server->own_options->next;

		free(server->own_options);
		server->own_options = next;
	}
	sgh_routes_free(server->routes);
	free(server->listen);
	free(server->check_arguments);
	free(server->log_path);
	free(server);
}

static int add_route(struct segue_http_server *server, const char *method, const char *pattern,
                     enum sgh_route_kind kind,
                     void (*handler)(struct segue_http_request *req, void *ctx), void *ctx)
{
	int r;

	if (!server)
		return -EINVAL;
	r = sgh_route_add(&server->routes, method, pattern, kind, handler, ctx);
	if (r < 0 && !server->route_error[0])
		snprintf(server->route_error, sizeof(server->route_error),
		         "the route %s %s could not be added: %s", method ? method : "(null)",
		         pattern ? pattern : "(null)",
		         r == -EEXIST ? "it is there already" : strerror(-r));
	return r;
}

int segue_http_route(struct segue_http_server *server, const char *method, const char *pattern,
                     void (*handler)(struct segue_http_request *req, void *ctx), void *ctx)
{
	return add_route(server, method, pattern, SGH_ROUTE_WHOLE, handler, ctx);
}

int segue_http_route_blocking(struct segue_http_server *server, const char *method,
                              const char *pattern,
                              void (*handler)(struct segue_http_request *req, void *ctx), void *ctx)
{
	return add_route(server, method, pattern, SGH_ROUTE_BLOCKING, handler, ctx);
}

int segue_http_route_streaming(struct segue_http_server *server, const char *method,
                               const char *pattern,
                               void (*handler)(struct segue_http_request *req, void *ctx),
                               void *ctx)
{
	return add_route(server, method, pattern, SGH_ROUTE_STREAMING, handler, ctx);
}

int segue_http_option(struct segue_http_server *server, const char *name, const char *argument,
                      const char *help,
                      int (*apply)(void *ctx, const char *value, char *reason, size_t reason_size),
                      void *ctx)
{
	struct sgh_own_option **at = &server->own_options;
	struct sgh_own_option *own = calloc(1, sizeof(*own));

	if (!own)
		return -ENOMEM;
	*own = (struct sgh_own_option){ NULL, name, argument, help, apply, ctx };
	while (*at)
		at = &(*at)->next;
	*at = own;
	return 0;
}

int segue_http_configure(struct segue_http_server *server, const struct segue_http_options *options)
{
	if (options->size != sizeof(*options))
		return -EINVAL;
	server->options = *options;
	return 0;
}

struct segue *segue_http_handle(struct segue_http_server *server)
{
	return server->segue;
}

uint64_t segue_http_generation(const struct segue_http_server *server)
{
	return atomic_load_explicit(&((struct segue_http_server *)server)->generation,
	                            memory_order_relaxed);
}

int segue_http_parse_duration(const char *text, int64_t *ret_ms)
{
	return sgh_duration_parse(text, ret_ms);
}

static void stop_from_loop(struct sgh_loop *loop)
{
	segue_stop(loop->server->segue, false);
	segue_wake(loop->server->segue);
}

void segue_http_stop(struct segue_http_server *server)
{
	if (server->loops)
		sgh_loop_call(&server->loops[0], stop_from_loop);
}

static void upgrade_from_loop(struct sgh_loop *loop)
{
	struct segue_http_server *server = loop->server;

	if (segue_upgrade(server->segue) < 0)
		sgh_log(server, "upgrade-refused",
		        SGH_FIELDS(SGH_TEXT("reason", segue_error(server->segue))),
		        "upgrade refused: %s", segue_error(server->segue));
	segue_wake(server->segue);
}

void segue_http_upgrade(struct segue_http_server *server)
{
	if (server->loops)
		sgh_loop_call(&server->loops[0], upgrade_from_loop);
}

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

static void end_drain(struct segue_http_server *server)
{
	struct segue_http_counts counts;

	counts_now(server, &counts);
	sgh_log(server, "drained",
	        SGH_FIELDS(SGH_NUMBER("moved", (int64_t)counts.moved),
	                   SGH_NUMBER("finished", (int64_t)counts.finished),
	                   SGH_NUMBER("cut_requests", (int64_t)counts.cut_requests),
	                   SGH_NUMBER("cut_idle", (int64_t)counts.cut_idle)),
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

	if (!server->draining || server->orders || atomic_load(&server->connections) > 0)
		return;
	/* A program that never answers a request must not hold the end up beyond the deadline. */
	if (!server->cutting && atomic_load(&server->held) > 0)
		return;
	if (segue_drained(server->segue) < 0)
		return;
	server->draining = false;
	end_drain(server);
	segue_wake(server->segue);
}

static void wake_check(struct segue_http_server *server)
{
	/* Without memory the next message, or the deadline, does it. */
	sgh_loop_call(&server->loops[0], check_drained);
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
	size_t count;
	int fds[];
};

static void order_is_carried_out(struct sgh_loop *loop, struct sgh_message *message)
{
	loop->server->orders--;
	check_drained(loop);
	free(message);
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
		        "a loop cannot watch a listener: %s", strerror(-r));
	*message = (struct sgh_message){ .run = order_is_carried_out };
	sgh_loop_post(&loop->server->loops[0], message);
}

static void order_all(struct segue_http_server *server, int what)
{
	size_t bytes = server->listener_count * sizeof(int);

	for (unsigned int i = 0; i < server->loop_count; i++) {
		struct order *order = malloc(sizeof(*order) + bytes);

		/* There is no way on without these few bytes; the deadlines stay armed. */
		if (!order) {
			sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", "no memory")),
			        "no memory for an order to loop %u", i);
			continue;
		}
		order->message = (struct sgh_message){ .run = carry_out };
		order->what = what;
		order->count = server->listener_count;
		memcpy(order->fds, server->listener_fds, bytes);
		server->orders++;
		sgh_loop_post(&server->loops[i], &order->message);
	}
}

static void on_serve(struct segue_http_server *server, bool again)
{
	server->draining = false;
	server->cutting = false;
	atomic_store(&server->leaving, false);
	order_all(server, ACCEPT);
	sgh_log(server, again ? "resumed" : "serving", NULL,
	        again ? "serves again: the successor is gone" : "serves");
	if (server->options.serves)
		server->options.serves(server, server->options.ctx);
}

struct drop {
	struct sgh_message message;
	unsigned int loop; /* whose turn it is */
	char name[SEGUE_NAME_MAX + 1];
};

static void forget_listener(struct segue_http_server *server, int fd)
{
	for (size_t i = 0; i < server->listener_count; i++)
		if (server->listener_fds[i] == fd)
			server->listener_fds[i] = server->listener_fds[--server->listener_count];
}

/* Goes from loop to loop. Behind the order to hold: where it has been, nobody watches the
 * listener any more. */
static void run_drop(struct sgh_loop *loop, struct sgh_message *message)
{
	struct segue_http_server *server = loop->server;
	struct drop *drop = (struct drop *)message;
	int fd;

	if (drop->loop > 0) {
		*message = (struct sgh_message){ .run = run_drop };
		sgh_loop_post(&server->loops[--drop->loop], message);
		return;
	}
	fd = segue_listener_fd(server->segue, drop->name);
	if (fd >= 0 && !sgh_accept_all(loop, fd))
		sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("listener", drop->name)),
		        "no room for the last connections of listener %s", drop->name);
	if (fd >= 0)
		forget_listener(server, fd);
	segue_unlisten(server->segue, drop->name);
	sgh_log(server, "unlisten", SGH_FIELDS(SGH_TEXT("listener", drop->name)),
	        "listener %s is closed: the successor does not want it", drop->name);
	free(drop);
}

static void on_dropped(struct segue_http_server *server, const char *name)
{
	struct drop *drop = calloc(1, sizeof(*drop));

	if (!drop)
		return;
	drop->message.run = run_drop;
	drop->loop = server->loop_count - 1;
	snprintf(drop->name, sizeof(drop->name), "%s", name);
	sgh_loop_post(&server->loops[drop->loop], &drop->message);
}

static void begin_drain(struct segue_http_server *server, bool cutting)
{
	server->cutting = cutting;
	atomic_store(&server->leaving, true);
	if (server->draining)
		return;
	server->draining = true;
	server->at_drain = (struct segue_http_counts){ 0 };
	counts_now(server, &server->at_drain);
}

static void on_drain(struct segue_http_server *server, const struct segue_event *event)
{
	unsigned long connections = atomic_load(&server->connections);
	unsigned long in_flight = SUM(server, in_flight);

	begin_drain(server, false);
	sgh_log(server, "draining",
	        SGH_FIELDS(SGH_NUMBER("successor", event->successor),
	                   SGH_NUMBER("connections", (int64_t)connections),
	                   SGH_NUMBER("requests", (int64_t)in_flight),
	                   SGH_NUMBER("deadline_ms", event->deadline_ms)),
	        "draining %lu connections, %lu requests in flight (%s)", connections, in_flight,
	        event->successor ? "to the successor" : "the service stops");
	if (server->options.drain)
		server->options.drain(server, event->successor, server->options.ctx);
	order_all(server, event->successor ? MOVE : FINISH);
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
	sgh_log(server, "gone",
	        SGH_FIELDS(SGH_TEXT("reason", reason), SGH_NUMBER("exit", server->exit_code)),
	        "gone (%s)", reason);
}

static void on_upgrade_ended(struct segue_http_server *server, const struct segue_event *event)
{
	const char *outcome = segue_outcome_name(event->outcome);
	const char *reason = event->reason ? event->reason : "";

	sgh_log(server, "upgrade-ended",
	        SGH_FIELDS(SGH_TEXT("outcome", outcome), SGH_TEXT("reason", reason),
	                   SGH_NUMBER("successor", (int64_t)event->generation),
	                   SGH_NUMBER("successor_pid", event->pid),
	                   SGH_NUMBER("error", event->error),
	                   SGH_NUMBER("took_ms", event->took_ms)),
	        "upgrade to generation %llu: %s after %lld ms%s%s",
	        (unsigned long long)event->generation, outcome, (long long)event->took_ms,
	        reason[0] ? ": " : "", reason);
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
		sgh_log(server, "warning", SGH_FIELDS(SGH_TEXT("reason", strerror(-r))),
		        "a connection of the predecessor is lost: %s", strerror(-r));
}

static void on_event(struct segue_http_server *server, const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_SERVE:
		on_serve(server, false);
		break;
	case SEGUE_EVENT_RESUME:
		on_serve(server, true);
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

static void leave(struct segue_http_server *server)
{
	for (unsigned int i = 1; i < server->loop_count; i++)
		while (sgh_loop_call(&server->loops[i], sgh_loop_end) < 0)
			sched_yield();
	uv_close((uv_handle_t *)&server->segue_poll, NULL);
	uv_close((uv_handle_t *)&server->reopen_signal, NULL);
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
		leave(server);
	else
		sgh_loop_settle(&server->loops[0]);
}

static void on_reopen(uv_signal_t *handle, int number)
{
	struct segue_http_server *server = handle->data;

	sgh_log_reopen(server);
	sgh_access_reopen(server);
}

/* The hooks of the handle, passed on. */

static int may_upgrade(void *ctx, char *reason, size_t size)
{
	struct segue_http_server *server = ctx;

	return server->options.may_upgrade(server, server->options.ctx, reason, size);
}

static int save_state(struct segue *segue, bool final, void *ctx)
{
	struct segue_http_server *server = ctx;

	return server->options.save_state(server, final, server->options.ctx);
}

static int fail(struct segue_http_server *server, const char *reason)
{
	sgh_log(server, "failed", SGH_FIELDS(SGH_TEXT("reason", reason)), "cannot serve: %s",
	        reason);
	return -1;
}

static int fail_by(struct segue_http_server *server, int error)
{
	const char *text = segue_error(server->segue);

	return fail(server, text[0] ? text : strerror(-error));
}

static int open_handle(struct segue_http_server *server)
{
	struct segue_options options = server->options.segue;
	int r;

	options.record_version = SEGUE_HTTP_RECORD_VERSION;
	options.record_version_min = SEGUE_HTTP_RECORD_VERSION;
	options.record_version_max = SEGUE_HTTP_RECORD_VERSION;
	options.ctx = server;
	options.may_upgrade = server->options.may_upgrade ? may_upgrade : NULL;
	options.save_state = server->options.save_state ? save_state : NULL;
	r = segue_open(&server->segue, &options);
	if (r < 0)
		return fail_by(server, r);
	atomic_store(&server->generation, segue_generation(server->segue));
	return 0;
}

/* The name of "NAME=ADDRESS", or the address. */
static void name_of(const char *spec, char *name, size_t size)
{
	size_t len = strspn(spec, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	if (spec[len] == '=' && len > 0)
		snprintf(name, size, "%.*s", (int)len, spec);
	else
		snprintf(name, size, "%s", spec);
}

static int listen_one(struct segue_http_server *server, const char *spec)
{
	int fd = segue_listen_spec(server->segue, spec, &server->options.listen_options);
	char name[SEGUE_NAME_MAX + 1], address[256];
	int type = 0, one = 1;
	socklen_t len = sizeof(type);

	if (fd < 0)
		return fail_by(server, fd);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM) {
		char reason[400];

		snprintf(reason, sizeof(reason),
		         "listener %s takes no connections; HTTP needs tcp:// or unix://", spec);
		return fail(server, reason);
	}
	/* Accepted sockets inherit it; responses leave whole, so there is nothing to wait for. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	server->listener_fds[server->listener_count++] = fd;
	name_of(spec, name, sizeof(name));
	if (segue_address_text(fd, address, sizeof(address)) < 0)
		snprintf(address, sizeof(address), "?");
	sgh_log(server, "listening",
	        SGH_FIELDS(SGH_TEXT("name", name), SGH_TEXT("address", address)),
	        "listening on %s (%s)", address, name);
	return 0;
}

static int open_listeners(struct segue_http_server *server)
{
	static const char *const fallback[] = { ":8080" };
	const struct segue_http_options *options = &server->options;
	size_t count = options->listen_count ? options->listen_count : 1;
	const char *const *specs = options->listen_count ? options->listen : fallback;

	server->listener_fds = calloc(count, sizeof(*server->listener_fds));
	if (!server->listener_fds)
		return fail(server, "no memory");
	for (size_t i = 0; i < count; i++)
		if (listen_one(server, specs[i]) < 0)
			return -1;
	return 0;
}

static unsigned int usable_cores(void)
{
	cpu_set_t set;
	int count;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	count = CPU_COUNT(&set);
	return count > 0 ? count : 1;
}

/* Each connection is a descriptor: ask for as many as the administrator allows. */
static void set_connection_limit(struct segue_http_server *server)
{
	struct rlimit limit;
	rlim_t most = 1 << 20;

	server->connections_max = server->options.max_connections;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (limit.rlim_max < most)
		most = limit.rlim_max;
	if (limit.rlim_cur < most) {
		limit.rlim_cur = most;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			getrlimit(RLIMIT_NOFILE, &limit);
	}
	if (!server->connections_max)
		server->connections_max = limit.rlim_cur > 2 * DESCRIPTORS_SPARED
		                                  ? limit.rlim_cur - DESCRIPTORS_SPARED
		                                  : limit.rlim_cur / 2;
}

static int open_loops(struct segue_http_server *server)
{
	unsigned int count = server->options.threads ? server->options.threads : usable_cores();
	int r;

	server->loops = calloc(count, sizeof(*server->loops));
	if (!server->loops)
		return fail(server, "no memory");
	for (unsigned int i = 0; i < count; i++) {
		r = sgh_loop_open(&server->loops[i], server, i);
		if (r < 0)
			return fail(server, "a loop cannot be made: no descriptors or memory");
		server->loop_count++;
	}
	r = sgh_pool_new(&server->pool, server->options.blocking_threads,
	                 server->options.blocking_queue);
	return r < 0 ? fail(server, "no memory") : 0;
}

static int watch_handle(struct segue_http_server *server)
{
	uv_loop_t *uv = &server->loops[0].uv;

	if (uv_poll_init(uv, &server->segue_poll, segue_fd(server->segue)) < 0)
		return fail(server, "the handle cannot be watched");
	server->segue_poll.data = server;
	uv_poll_start(&server->segue_poll, UV_READABLE, on_segue);
	uv_signal_init(uv, &server->reopen_signal);
	server->reopen_signal.data = server;
	uv_signal_start(&server->reopen_signal, on_reopen, SIGUSR1);
	return 0;
}

static int call_start(struct segue_http_server *server)
{
	char reason[256] = "";
	int r;

	if (!server->options.start)
		return 0;
	r = server->options.start(server, server->options.ctx, reason, sizeof(reason));
	return r ? fail(server, reason[0] ? reason : "the start hook failed") : 0;
}

static void no_action(int number)
{
}

/* A log that nobody reads must not end the service. A handler rather than SIG_IGN: programs
 * that handlers start then get the default back. */
static void survive_broken_pipes(void)
{
	struct sigaction now, empty = { .sa_handler = no_action, .sa_flags = SA_RESTART };

	if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
		sigaction(SIGPIPE, &empty, NULL);
}

static int prepare(struct segue_http_server *server)
{
	char reason[300];
	int r;

	if (server->route_error[0])
		return fail(server, server->route_error);
	if (sgh_options_check(&server->options, reason, sizeof(reason)) < 0)
		return fail(server, reason);
	if (open_handle(server) < 0)
		return -1;
	survive_broken_pipes();
	set_connection_limit(server);
	r = sgh_access_open(server);
	if (r < 0) {
		snprintf(reason, sizeof(reason), "access log %s: %s", server->options.access_log,
		         strerror(-r));
		return fail(server, reason);
	}
	if (open_listeners(server) < 0 || open_loops(server) < 0)
		return -1;
	return call_start(server);
}

static int start(struct segue_http_server *server)
{
	int r;

	if (watch_handle(server) < 0)
		return -1;
	for (unsigned int i = 1; i < server->loop_count; i++)
		if (sgh_loop_start(&server->loops[i]) < 0)
			return fail(server, "a thread cannot be started");
	r = segue_ready(server->segue);
	return r < 0 ? fail_by(server, r) : 0;
}

/* Release what run has made. What a handler that still blocks may touch is left alone. */
static void clean_up(struct segue_http_server *server)
{
	bool still_used;

	for (unsigned int i = 1; i < server->loop_count; i++)
		sgh_loop_join(&server->loops[i]);
	still_used = !sgh_pool_free(server->pool) || atomic_load(&server->held) > 0;
	if (server->access_fd >= 0 && !still_used) {
		close(server->access_fd);
		server->access_fd = -1;
	}
	segue_close(server->segue);
	server->segue = NULL;
	if (still_used) {
		abandoned = server;
		return;
	}
	for (unsigned int i = 0; i < server->loop_count; i++)
		sgh_loop_close(&server->loops[i]);
	free(server->loops);
	server->loops = NULL;
	server->loop_count = 0;
	free(server->listener_fds);
	server->listener_fds = NULL;
	server->listener_count = 0;
	server->pool = NULL;
	atomic_store(&server->generation, 0);
}

int segue_http_run(struct segue_http_server *server, const struct segue_http_options *options)
{
	bool watched = false;

	if (options && segue_http_configure(server, options) < 0) {
		fail(server, "the options were not made by segue_http_options_init()");
		return 1;
	}
	server->gone = false;
	server->exit_code = 1;
	server->next_loop = 0;
	server->orders = 0;
	atomic_store(&server->connections, 0);
	atomic_store(&server->held, 0);
	sgh_log_remember(server);
	if (prepare(server) == 0) {
		watched = true;
		if (start(server) == 0)
			sgh_loop_run(&server->loops[0]);
		else
			leave(server);
	}
	if (watched)
		uv_run(&server->loops[0].uv, UV_RUN_DEFAULT);
	clean_up(server);
	return server->exit_code;
}

int segue_http_main(struct segue_http_server *server, int argc, char **argv)
{
	int exit_code;

	if (!server) {
		fprintf(stderr, "%s: no memory\n", argc ? argv[0] : "server");
		return 1;
	}
	if (sgh_options_parse(server, argc, argv, &exit_code) == 0)
		exit_code = segue_http_run(server, NULL);
	segue_http_server_free(server);
	return exit_code;
}
