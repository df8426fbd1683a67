/* SPDX-License-Identifier: MIT */
/*
 * The control socket, the supervisor's side: a stream socket on which a client says one
 * request, a line of JSON, and gets lines of JSON until one that has "end".
 *
 *     {"verb":"upgrade","wait":true,"argv":["./server","--listen","..."]}
 *     {"event":"starting","generation":2,...}
 *     {"end":true,"exit":0,"message":"generation 2 serves; generation 1 is gone"}
 *
 * doc/control.md lists what is said. A client that is slow, silent, or talks nonsense costs
 * nothing but its own connection: what is kept for it is bounded, and it is closed. Peers are
 * checked with SO_PEERCRED: the supervisor's own user and root.
 */
#ifndef SEGUE_COMMAND_CONTROL_H
#define SEGUE_COMMAND_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

/* Exit codes of the client, which are in the answers. segue(1) documents them. */
enum control_exit {
	EXIT_DONE = 0,       /* done; an upgrade: the successor serves, the predecessor is gone */
	EXIT_FAILED = 1,     /* the successor failed, the predecessor serves */
	EXIT_USAGE = 2,      /* arguments or configuration */
	EXIT_REFUSED = 3,    /* nothing was begun; the message says why */
	EXIT_CUT = 4,        /* upgraded, and the drain deadline cut connections */
	EXIT_NO_SERVICE = 5, /* no supervisor there */
	EXIT_FORBIDDEN = 6,  /* the peer may not */
	EXIT_LOST = 7,       /* the supervisor has gone in the middle */
	EXIT_INTERRUPTED = 130, /* the client was; the upgrade goes on */
};

struct control;
struct control_client;

/*
 * What the supervisor does for a client. A request is answered by exactly one
 * control_end(), at once or later; before it by any number of control_event(). The client
 * may be gone meanwhile: gone() says so, and the pointer must not be used any more. gone() is
 * called by the loop, never out of control_event() or control_end(), and not after control_end().
 * A client that hears nothing for 2 s is told {"event":"alive"} by this file.
 */
struct control_verbs {
	/* argv: NULL, or a new command line (borrowed). Events follow where wait is set. */
	void (*upgrade)(void *ctx, struct control_client *client, char **argv, bool wait);
	void (*status)(void *ctx, struct control_client *client);
	void (*stop)(void *ctx, struct control_client *client, bool now);
	void (*cut)(void *ctx, struct control_client *client);
	void (*restart)(void *ctx, struct control_client *client, unsigned int worker);
	void (*kill)(void *ctx, struct control_client *client, int signal);
	void (*gone)(void *ctx, struct control_client *client);
};

/*
 * Binds the path and listens. -EADDRINUSE where a live supervisor has it (a dead one's socket
 * is replaced), with a sentence.
 */
int control_open(struct control **ret_control, uv_loop_t *loop, const char *path,
                 const struct control_verbs *verbs, void *ctx, char *reason, size_t reason_size);

/*
 * Ends all clients and removes the path, if it is still its own; gone() is not called any more.
 * Clients that wait for an answer are told that the supervisor ends: for those of 'stop' that is
 * what they asked for (exit 0), so that nobody has to keep them. The handles are closed when
 * the loop has run once more. NULL is welcome.
 */
void control_close(struct control *control);

/* Consumes the object. Never fails: a client that cannot take it is ended. */
void control_event(struct control_client *client, json_t *event_take);

/* Any bytes as a JSON string: what is not UTF-8 becomes "?". NULL: null. */
json_t *control_text(const char *text);

/* The last line, after which the connection is closed and the pointer is dead. message may be
 * NULL. extra (may be NULL) is consumed: its members are added. */
void control_end(struct control_client *client, enum control_exit code, const char *message,
                 json_t *extra_take);

#endif
