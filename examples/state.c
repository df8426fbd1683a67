/* SPDX-License-Identifier: MIT */
/*
 * state - a counter in memory that outlives the process that counts
 *
 *         $ ./state --pid-file state.pid &
 *         $ curl -X POST localhost:8080/counter
 *         1
 *         $ kill -USR2 "$(cat state.pid)" && curl -X POST localhost:8080/counter
 *         2
 *
 * The predecessor's count comes in two parts. The snapshot comes before this generation is
 * ready, and is what it starts from. While it then serves, the predecessor still finishes
 * requests, and counts; its final state is what it has counted since the snapshot. Parts may
 * come from several processes and in any order, since each is only added.
 *
 * Under 'segue run --workers N' each worker counts for itself.
 */
#include <inttypes.h>
#include <segue/http.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static _Atomic uint64_t counter;
static uint64_t told; /* how much of it was in the last snapshot */

static void answer(struct segue_http_request *req, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64 "\n", value);
	segue_http_reply(req, 200, "text/plain", text);
}

static void add(struct segue_http_request *req, void *ctx)
{
	answer(req, atomic_fetch_add(&counter, 1) + 1);
}

static void show(struct segue_http_request *req, void *ctx)
{
	answer(req, atomic_load(&counter));
}

static int save_state(struct segue_http_server *server, bool final, void *ctx)
{
	uint64_t value = atomic_load(&counter), part = final ? value - told : value;

	told = value;
	return segue_put_blob(segue_http_handle(server), "counter", &part, sizeof(part));
}

/* Of every worker that hands over to this one. */
static void take_over(struct segue_http_server *server)
{
	const void *data;
	uint32_t worker;
	uint64_t part;
	size_t len;

	for (size_t i = 0;
	     segue_blob_of(segue_http_handle(server), "counter", i, &data, &len, &worker) == 0;
	     i++) {
		if (len != sizeof(part))
			continue;
		memcpy(&part, data, sizeof(part));
		atomic_fetch_add(&counter, part);
	}
}

static int start(struct segue_http_server *server, void *ctx, char *reason, size_t reason_size)
{
	take_over(server);
	return 0;
}

static void final_state(struct segue_http_server *server, void *ctx)
{
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
	segue_http_route(server, "POST", "/counter", add, NULL);
	segue_http_route(server, "GET", "/counter", show, NULL);
	return segue_http_main(server, argc, argv);
}
