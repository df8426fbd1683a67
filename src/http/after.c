/* SPDX-License-Identifier: MIT */
/* Handlers that wait without a thread: each wait is one timer among those of the loop. */
#include <stdlib.h>

#include "internal.h"

struct sgh_after {
	struct sgh_timer timer;
	struct sgh_after *next, **prev;
	struct segue_http_request *req;
	void (*fn)(struct segue_http_request *req, void *ctx);
	void *ctx;
};

static void after_unlink(struct sgh_after *after)
{
	*after->prev = after->next;
	if (after->next)
		after->next->prev = after->prev;
}

static void fire_after(struct sgh_timer *timer)
{
	struct sgh_after *after = (struct sgh_after *)timer;
	struct segue_http_request *req = after->req;

	after_unlink(after);
	req->guards++;
	if (!sgh_request_is_over(req))
		after->fn(req, after->ctx);
	free(after);
	req->guards--;
	sgh_request_release(req);
}

struct sgh_after *sgh_after_new(struct segue_http_request *req,
                                void (*fn)(struct segue_http_request *req, void *ctx), void *ctx)
{
	struct sgh_after *after = malloc(sizeof(*after));

	if (!after)
		return NULL;
	sgh_timer_init(&after->timer, fire_after);
	after->req = req;
	after->fn = fn;
	after->ctx = ctx;
	return after;
}

void sgh_after_start(struct sgh_after *after, int64_t ms)
{
	struct segue_http_request *req = after->req;
	struct sgh_loop *loop = req->loop;

	/* Only the first: whoever waits again although the client has gone waits for something
	 * else, and has the time that it asked for. */
	if (!req->conn && atomic_load(&req->gone) && !req->hurried) {
		req->hurried = true;
		ms = 0;
	}
	after->next = req->afters;
	after->prev = &req->afters;
	if (after->next)
		after->next->prev = &after->next;
	req->afters = after;
	/* The clock of the loop may stand a little behind: never early. And never due in the
	 * round that runs, which a handler that waits again and again would keep for itself. */
	if (sgh_timer_set(&loop->timers, &after->timer, sgh_loop_now(loop) + ms + 1) < 0) {
		uv_update_time(&loop->uv);
		fire_after(&after->timer);
	}
}

void sgh_after_free(struct segue_http_request *req)
{
	while (req->afters) {
		struct sgh_after *after = req->afters;

		sgh_timer_stop(&req->loop->timers, &after->timer);
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): prev of the first is req->afters. */
		after_unlink(after);
		free(after);
	}
}

/* The client has gone: whoever waits need not wait on. */
void sgh_after_hurry(struct segue_http_request *req)
{
	req->hurried = req->afters != NULL;
	for (struct sgh_after *after = req->afters; after; after = after->next)
		sgh_timer_set(&req->loop->timers, &after->timer, sgh_loop_now(req->loop));
}
