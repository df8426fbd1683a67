/* SPDX-License-Identifier: MIT */
/*
 * What a shape sends and expects: its request, formatted once and repeated as often as it may be
 * in flight, so that any run of requests is one write from one buffer. Pure.
 */
#ifndef LOAD_PLAN_H
#define LOAD_PLAN_H

#include "options.h"
#include "response.h"

struct plan {
	enum shape shape;
	unsigned int depth; /* requests that may be in flight on a connection */
	bool closes;        /* the request says Connection: close */
	char *bytes;        /* depth times the request */
	size_t request_size;
	size_t half_size;  /* a point within the head */
	size_t read_bytes; /* that a slow reader takes at a time; 0: as much as there is */
	uint64_t think_ns; /* between answer and next request; 0: none */
	char *body;        /* expected of an echo */
	struct response_rules rules;
};

#define PLAN_SLOW_TICKS 20 /* reads a second of a slow reader */

/** plan_init - returns 0, or -ENOMEM */
int plan_init(struct plan *plan, enum shape shape, const struct options *options);
void plan_done(struct plan *plan);

#endif
