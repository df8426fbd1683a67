/* SPDX-License-Identifier: MIT */
/* The server before it runs: routes and options; and what may be asked of it from any thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duration.h"
#include "log.h"

/* Where a handler still blocks at the end of the process, what it may touch stays. */
struct segue_http_server *sgh_abandoned;

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
	if (!server || server->abandoned)
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
	struct sgh_own_option *own, **at;

	if (!server)
		return -EINVAL;
	own = calloc(1, sizeof(*own));
	if (!own)
		return -ENOMEM;
	*own = (struct sgh_own_option){ NULL, name, argument, help, apply, ctx };
	at = &server->own_options;
	while (*at)
		at = &(*at)->next;
	*at = own;
	return 0;
}

int segue_http_configure(struct segue_http_server *server, const struct segue_http_options *options)
{
	if (!server || options->size != sizeof(*options))
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
