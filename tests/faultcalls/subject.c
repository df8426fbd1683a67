/* SPDX-License-Identifier: MIT */
/*
 * The service whose calls are made to fail: the HTTP module with all that it and libsegue do at an
 * upgrade (a path to listen at, state as snapshot and as final part), linked whole, so that each
 * call's place is known.
 */
#include <inttypes.h>
#include <segue/http.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic uint64_t answered;
static uint64_t told;

static void add_number(struct segue_http_request *req, const char *name, uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, number);
	segue_http_add_header(req, name, text);
}

static void hello(struct segue_http_request *req, void *ctx)
{
	struct segue_http_server *server = segue_http_server_of(req);

	(void)ctx;
	add_number(req, "Segue-Answered", atomic_fetch_add(&answered, 1) + 1);
	add_number(req, "Segue-Generation", segue_http_generation(server));
	add_number(req, "Segue-Pid", (uint64_t)getpid());
	segue_http_reply(req, 200, "text/plain", "hello\n");
}

static int save_state(struct segue_http_server *server, bool final, void *ctx)
{
	uint64_t value = atomic_load(&answered), part = final ? value - told : value;

	(void)ctx;
	told = value;
	return segue_put_blob(segue_http_handle(server), "answered", &part, sizeof(part));
}

static void take_over(struct segue_http_server *server)
{
	const void *data;
	uint32_t worker;
	uint64_t part;
	size_t len;

	for (size_t i = 0;
	     segue_blob_of(segue_http_handle(server), "answered", i, &data, &len, &worker) == 0;
	     i++) {
		memcpy(&part, data, sizeof(part));
		atomic_fetch_add(&answered, part);
	}
}

static int start(struct segue_http_server *server, void *ctx, char *reason, size_t reason_size)
{
	(void)ctx;
	(void)reason;
	(void)reason_size;
	take_over(server);
	return 0;
}

static void final_state(struct segue_http_server *server, void *ctx)
{
	(void)ctx;
	take_over(server);
}

int main(int argc, char **argv)
{
	struct segue_http_server *server = segue_http_server_new();
	struct segue_http_options options;

	segue_http_options_init(&options);
	options.start = start;
	options.save_state = save_state;
	options.final_state = final_state;
	segue_http_configure(server, &options);
	segue_http_route(server, "GET", "/hello", hello, NULL);
	return segue_http_main(server, argc, argv);
}
