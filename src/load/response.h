/* SPDX-License-Identifier: MIT */
/*
 * One answer after the other off a connection's bytes, however they are cut. Interim answers (1xx)
 * are passed over. Pure: memory is only taken when a head arrives in pieces, and kept until
 * response_done().
 */
#ifndef LOAD_RESPONSE_H
#define LOAD_RESPONSE_H

#include "excerpt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is asked of every answer; shared by all connections of a shape. */
struct response_rules {
	bool is_head;           /* the request was a HEAD: no body follows */
	const char *count_name; /* header whose value is wanted, or NULL */
	const regex_t *pattern; /* the same for a part of the answer that matches */
	const char *expected;   /* the body every 2xx must have, or NULL */
	size_t expected_size;
};

enum response_state {
	RESPONSE_HEAD,
	RESPONSE_BODY,        /* of known length */
	RESPONSE_UNTIL_CLOSE, /* the end of the connection ends the body */
	RESPONSE_CHUNK_SIZE,
	RESPONSE_CHUNK_DATA,
	RESPONSE_CHUNK_END,
	RESPONSE_TRAILER,
	RESPONSE_COMPLETE,
};

struct response {
	const struct response_rules *rules;
	enum response_state state;
	bool started;  /* a first byte has come */
	bool close;    /* the server will close, or must be taken to */
	bool is_wrong; /* the body is not the expected one */
	int status;
	bool has_counted;
	uint8_t counted_size;
	char counted[64]; /* value of rules->count_name or pattern, cut to fit */
	uint64_t left;    /* of the body or the chunk */
	uint64_t body_size;
	const char *why; /* after -EBADMSG: what is malformed */

	/* A head or a line of which only the beginning has come. */
	char *kept;
	size_t kept_size, kept_room, scanned;
	size_t lines_size;      /* bytes of trailers */
	struct excerpt excerpt; /* where there is a pattern */
};

void response_init(struct response *response, const struct response_rules *rules);
void response_done(struct response *response);

/** response_next - be ready for the next answer; forgets a partial one */
void response_next(struct response *response);

/**
 * response_feed - reads on
 * @ret_used: how much of @data belongs to this answer; the rest belongs to the next one
 *
 * Returns: 1 when the answer is complete (then call response_next()), 0 when more is needed (all
 *          of @data is used), -EBADMSG when it is malformed, -ENOMEM
 */
int response_feed(struct response *response, const char *data, size_t size, size_t *ret_used);

/**
 * response_end - the connection has ended
 *
 * Returns: 1 when that completes the answer, 0 when it has not begun, -EPIPE when it is truncated
 */
int response_end(struct response *response);

#endif
