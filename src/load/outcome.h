/* SPDX-License-Identifier: MIT */
/*
 * What can become of a request, and the shapes of connections that send them. Each list is written
 * once, here; names in the JSON result, rows of the text result and --help are made of it.
 */
#ifndef LOAD_OUTCOME_H
#define LOAD_OUTCOME_H

/*
 * X(name, key, kind, meaning). Each request that was started has exactly one of these outcomes.
 * GOOD is what should be; LOST counts against the server; OWN is the doing of this program.
 */
#define OUTCOME_TABLE(X)                                                                        \
	X(OK, "ok", GOOD, "answered with 2xx or 3xx, whole")                                    \
	X(REFUSED, "refused", LOST, "nothing listened at the address")                          \
	X(CONNECT_TIMEOUT, "connect_timeout", LOST, "no connection within --connect-timeout")   \
	X(RESET_CONNECTING, "reset_connecting", LOST, "reset while connecting")                 \
	X(FRESH_CLOSED, "fresh_closed", LOST,                                                   \
	  "reset or closed before the first byte of an answer, on a fresh connection")          \
	X(USED_CLOSED, "used_closed", LOST,                                                     \
	  "reset or closed before the first byte of an answer, on a used connection")           \
	X(TRUNCATED, "truncated", LOST, "reset or closed within the answer")                    \
	X(STATUS_5XX, "status_5xx", LOST, "answered with 5xx")                                  \
	X(STATUS_4XX, "status_4xx", LOST, "answered with 4xx")                                  \
	X(WRONG_BODY, "wrong_body", LOST, "answered with another body than --expect or --echo") \
	X(MALFORMED, "malformed", LOST, "what came is no HTTP/1.1 answer")                      \
	X(TIMEOUT, "timeout", LOST, "no whole answer within --timeout")                         \
	X(OWN_LIMIT, "own_limit", OWN, "this machine had no descriptor, port or memory left")   \
	X(ABANDONED, "abandoned", OWN, "a second signal ended the wait for the answer")

enum outcome {
#define X(name, key, kind, meaning) OUTCOME_##name,
	OUTCOME_TABLE(X)
#undef X
		OUTCOMES
};

enum outcome_kind {
	OUTCOME_GOOD,
	OUTCOME_LOST,
	OUTCOME_OWN,
};

struct outcome_info {
	const char *key;
	enum outcome_kind kind;
	const char *meaning;
};

extern const struct outcome_info outcome_infos[OUTCOMES];

/*
 * How a connection closed that had no request in flight, X(name, key, meaning). Only the first is
 * as it should be: a request that is sent in the moment of an unannounced close is lost.
 */
#define CLOSE_TABLE(X)                                                                            \
	X(ANNOUNCED, "idle_closed_announced", "closed after an answer with Connection: close")    \
	X(UNANNOUNCED, "idle_closed_unannounced", "closed by the server while idle, unannounced") \
	X(UNSOLICITED, "idle_unsolicited", "bytes came that answer no request")

enum close_kind {
#define X(name, key, meaning) CLOSE_##name,
	CLOSE_TABLE(X)
#undef X
		CLOSES
};

struct close_info {
	const char *key;
	const char *meaning;
};

extern const struct close_info close_infos[CLOSES];

/* X(name, key): the shapes, in the order in which connections are opened. */
#define SHAPE_TABLE(X)            \
	X(NEW, "new")             \
	X(KEEPALIVE, "keepalive") \
	X(POST, "post")           \
	X(PIPELINE, "pipeline")   \
	X(IDLE, "idle")           \
	X(HALF, "half")           \
	X(SLOW, "slow")

enum shape {
#define X(name, key) SHAPE_##name,
	SHAPE_TABLE(X)
#undef X
		SHAPES
};

extern const char *const shape_keys[SHAPES];

#endif
