/* SPDX-License-Identifier: MIT */
/* A run of the server, from the handle to the last descriptor. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

/* Descriptors that are not connections: logs, loops, listeners, the program's own. */
#define DESCRIPTORS_SPARED 64

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
	sgh_log_failure(server, reason);
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

/* A listener of the handle, by what it was asked for. */
static int add_listener(struct segue_http_server *server, int fd, const char *spec)
{
	const char *name;
	char address[256], *copy;
	int type = 0;
	socklen_t len = sizeof(type);

	if (fd < 0)
		return fail_by(server, fd);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM) {
		char reason[400];

		snprintf(reason, sizeof(reason),
		         "listener %s takes no connections; HTTP needs tcp:// or unix://", spec);
		return fail(server, reason);
	}
	sgh_accept_begins(fd);
	name = segue_listener_name(server->segue, fd);
	copy = strdup(name);
	if (!copy)
		return fail(server, "no memory");
	server->listener_names[server->listener_count] = copy;
	server->listener_fds[server->listener_count++] = fd;
	if (segue_address_text(fd, address, sizeof(address)) < 0)
		snprintf(address, sizeof(address), "?");
	sgh_log(server, "listening",
	        SGH_FIELDS(SGH_TEXT("name", name), SGH_TEXT("address", address)),
	        "listening on %s (%s)", address, name);
	return 0;
}

static int listen_spec(struct segue_http_server *server, const char *spec)
{
	int fd = segue_listen_spec(server->segue, spec, &server->options.listen_options);

	return add_listener(server, fd, spec);
}

/* Without addresses of its own: whatever a service manager or a supervisor passed. */
static int listen_passed(struct segue_http_server *server)
{
	const struct segue_listen_options *options = &server->options.listen_options;
	const char *name;
	char address[320];
	int r;

	while ((r = segue_passed(server->segue, 0, &name, address, sizeof(address))) == 0) {
		int fd = segue_listen(server->segue, name, address, options);

		if (add_listener(server, fd, address) < 0)
			return -1;
	}
	if (r != -ENOENT)
		return fail_by(server, r);
	return server->listener_count ? 0 : listen_spec(server, ":8080");
}

static int open_listeners(struct segue_http_server *server)
{
	const struct segue_http_options *options = &server->options;
	size_t room = options->listen_count ? options->listen_count : SEGUE_LISTENERS_MAX;

	server->listener_fds = calloc(room, sizeof(*server->listener_fds));
	server->listener_names = calloc(room, sizeof(char *));
	server->drops = calloc(room, sizeof(*server->drops));
	if (!server->listener_fds || !server->listener_names || !server->drops)
		return fail(server, "no memory");
	if (!options->listen_count)
		return listen_passed(server);
	for (size_t i = 0; i < options->listen_count; i++)
		if (listen_spec(server, options->listen[i]) < 0)
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
	most = limit.rlim_cur > 2UL * DESCRIPTORS_SPARED ? limit.rlim_cur - DESCRIPTORS_SPARED
	                                                 : limit.rlim_cur / 2;
	if (server->connections_max > most)
		sgh_log(server, "warning",
		        SGH_FIELDS(SGH_TEXT("reason", "RLIMIT_NOFILE leaves fewer connections "
		                                      "than max_connections"),
		                   SGH_NUMBER("connections", (int64_t)most)),
		        "RLIMIT_NOFILE leaves %lu connections, fewer than max_connections (%u)",
		        (unsigned long)most, server->connections_max);
	if (!server->connections_max || server->connections_max > most)
		server->connections_max = most;
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
	int r = sgh_events_begin(server);
	char reason[100];

	if (r < 0) {
		snprintf(reason, sizeof(reason), "the handle cannot be watched: %s", strerror(-r));
		return fail(server, reason);
	}
	for (unsigned int i = 1; i < server->loop_count; i++)
		if (sgh_loop_start(&server->loops[i]) < 0)
			return fail(server, "a thread cannot be started");
	r = segue_ready(server->segue);
	return r < 0 ? fail_by(server, r) : 0;
}

static void free_listeners(struct segue_http_server *server)
{
	for (size_t i = 0; i < server->listener_count; i++)
		free(server->listener_names[i]);
	free(server->listener_names);
	free(server->listener_fds);
	free(server->drops);
	server->drops = NULL;
	server->listener_names = NULL;
	server->listener_fds = NULL;
	server->listener_count = 0;
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
		server->abandoned = true;
		sgh_abandoned = server;
		return;
	}
	for (unsigned int i = 0; i < server->loop_count; i++)
		sgh_loop_close(&server->loops[i]);
	free(server->loops);
	free(server->spare_orders);
	server->loops = NULL;
	server->spare_orders = NULL;
	server->loop_count = 0;
	free_listeners(server);
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
	server->committed = server->draining = server->cutting = false;
	atomic_store(&server->leaving, false);
	server->exit_code = 1;
	server->next_loop = 0;
	server->orders = server->drops_under_way = 0;
	server->resume_waits = false;
	server->at_drain = server->drained = (struct segue_http_counts){ 0 };
	server->watching = false;
	atomic_store(&server->check_posted, false);
	atomic_store(&server->connections, 0);
	atomic_store(&server->held, 0);
	sgh_log_remember(server);
	if (prepare(server) == 0) {
		watched = true;
		if (start(server) == 0)
			sgh_loop_run(&server->loops[0]);
		else
			sgh_events_end(server);
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
