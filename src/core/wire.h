/* SPDX-License-Identifier: MIT */
/*
 * What generations say to each other: messages as bytes.
 *
 * Pure: no system call. Little-endian whatever the machine; every message begins with the
 * same header, is bounded, and is refused whole where a length or a count does not add up.
 * Golden copies of every version's messages are in tests/golden and are kept for ever.
 */
#ifndef SG_CORE_WIRE_H
#define SG_CORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SG_WIRE_VERSION_MIN 1
#define SG_WIRE_VERSION_MAX 2

/*
 * name, text, number (never reused), direction. Those from SUPERVISE on, and LISTENER up and
 * DROPPED down, are spoken between a supervisor and a worker only, since version 2.
 */
#define SG_MESSAGES(X)                                                                             \
	X(HELLO, "hello", 1, "both")       /* versions, generation; carries a pidfd */             \
	X(LISTENER, "listener", 2, "both") /* one listener; carries it */                          \
	X(PID_FILE, "pid-file", 3, "down") /* carries the lock */                                  \
	X(OFFERED, "offered", 4, "down")   /* these were all the listeners */                      \
	X(WANT_STATE, "want-state", 5, "up")                                                       \
	X(BLOB, "blob", 6, "down")     /* one blob; carries a sealed memfd */                      \
	X(STATE, "state", 7, "down")   /* these were all the blobs of the snapshot */              \
	X(READY, "ready", 8, "up")     /* and which listeners are wanted */                        \
	X(FAILED, "failed", 9, "both") /* up: why the sender exits; down: the start is given up */ \
	X(COMMIT, "commit", 10, "down")                                                            \
	X(CONFIRM, "confirm", 11, "down")         /* probation has ended well */                   \
	X(CONNECTIONS, "connections", 12, "down") /* a batch; carries them */                      \
	X(TAKEN, "taken", 13, "up")               /* the batch is the receiver's */                \
	X(DECLINED, "declined", 14, "up")         /* the batch stays the sender's */               \
	X(INTRODUCE, "introduce", 15, "both")     /* carries a channel to another generation */    \
	X(FINAL, "final", 16, "down")             /* drained; these were all the final blobs */    \
	X(RECEIPT, "receipt", 17, "up")           /* the final state has come */                   \
	X(STOPS, "stops", 18, "up")               /* the sender stops the service on request */    \
	X(DROPPED, "dropped", 19, "both")         /* nobody wants this listener any more */        \
	X(SUPERVISE, "supervise", 20, "down")     /* the sender is a supervisor */                 \
	X(RETIRE, "retire", 21, "down")           /* others serve: accept no more, drain */        \
	X(RESUME, "resume", 22, "down")           /* serve again */                                \
	X(STOP, "stop", 23, "down")               /* the service stops */                          \
	X(CUT, "cut", 24, "down")                 /* end the drain */                              \
	X(PROGRESS, "progress", 25, "up")         /* for whoever looks on */                       \
	X(ASK, "ask", 26, "up")                   /* an upgrade is asked for */                    \
	X(ANSWER, "answer", 27, "down")           /* how it ended */

#define SG_MESSAGE_ENUM(name, text, number, direction) SG_MESSAGE_##name = (number),
enum sg_message_type { SG_MESSAGES(SG_MESSAGE_ENUM) };

#define SG_WIRE_HEADER    16
#define SG_WIRE_BODY_MAX  65536
#define SG_WIRE_MAX       (SG_WIRE_HEADER + SG_WIRE_BODY_MAX)
#define SG_WIRE_FDS_MAX   64
#define SG_WIRE_TEXT_MAX  512
#define SG_WIRE_LISTENERS 128

/*
 * One message, decoded. Texts and bytes point into the buffer that was decoded. The fields
 * of a type are the ones named in its row; the rest is 0.
 */
struct sg_message {
	enum sg_message_type type;
	uint64_t serial; /* CONNECTIONS: the batch; TAKEN, DECLINED: which batch is meant */

	uint32_t version_min, version_max; /* HELLO */
	uint64_t generation; /* HELLO: the sender's; INTRODUCE: whose channel; ANSWER: asked for */
	uint32_t pid;        /* HELLO, INTRODUCE */
	uint32_t record_min, record_max; /* HELLO */
	uint32_t predecessors;           /* HELLO: generations that still drain to the sender */
	uint32_t start_ms;               /* HELLO: left of the start deadline */
	uint32_t worker;  /* HELLO: the sender's; INTRODUCE: whose; SUPERVISE: the receiver's */
	uint32_t workers; /* HELLO: of the sender's generation; SUPERVISE: of the receiver's */

	char name[SG_WIRE_TEXT_MAX]; /* LISTENER, BLOB; PID_FILE: the path */
	char text[SG_WIRE_TEXT_MAX]; /* LISTENER, DROPPED: address; FAILED, ANSWER: reason */
	uint32_t flags;              /* LISTENER: SG_LISTENER_*; SUPERVISE: SG_SUPERVISE_* */
	uint64_t dev, ino;           /* LISTENER: the file that a unix socket made */

	uint32_t count;                    /* OFFERED, STATE, FINAL, CONNECTIONS, READY */
	uint8_t wanted[SG_WIRE_LISTENERS]; /* READY: one for each listener in the order offered */
	uint64_t size;                     /* BLOB */
	uint32_t error;                    /* FAILED, DECLINED: errno */
	uint32_t probation_ms;             /* COMMIT, RETIRE */
	uint32_t drain_ms;                 /* SUPERVISE, RETIRE, STOP: SG_WIRE_FOREVER: no end */
	uint32_t now;                      /* STOPS, STOP: do not wait */
	uint32_t upstream;                 /* INTRODUCE: 1: the one introduced is a predecessor */

	uint32_t state;       /* PROGRESS: an enum sg_state */
	uint64_t connections; /* PROGRESS: that the sender has */
	uint64_t cut;         /* PROGRESS: that it has closed by force */
	uint32_t outcome;     /* ANSWER: an enum segue_outcome */

	uint32_t record_version; /* CONNECTIONS */
	const uint8_t *items;    /* CONNECTIONS: sg_wire_connection() walks them */
	size_t items_len;
};

/* A unix socket which the service made itself, and so removes at its end. */
#define SG_LISTENER_OURS 1u
/* Passed by a service manager or a supervisor, so none of the program's own configuration. */
#define SG_LISTENER_PASSED 2u

/* A worker that has lost its supervisor serves on; without it, it drains. */
#define SG_SUPERVISE_ORPHANS_SERVE 1u

/* PROGRESS: the program does not say how many connections it has. */
#define SG_WIRE_UNKNOWN UINT64_MAX

/* A drain without a deadline. */
#define SG_WIRE_FOREVER 0xffffffffu

/* One connection of a batch. */
struct sg_wire_connection {
	const uint8_t *bytes, *record;
	size_t bytes_len, record_len;
};

/* How many descriptors belong to a message of the type; -1: as many as count says. */
int sg_wire_fds(enum sg_message_type type);

/* The text of a type, "?" for a number that is none. */
const char *sg_wire_text(unsigned int type);

/* Encodes into a buffer of SG_WIRE_MAX bytes: the length, or -EMSGSIZE. */
ssize_t sg_wire_encode(uint8_t *buffer, const struct sg_message *message);

/* Decodes a whole message: 0, or -EPROTO where anything does not add up. Bytes behind the
 * last known field are a later version's and are skipped. */
int sg_wire_decode(struct sg_message *ret_message, const uint8_t *buffer, size_t len);

/* Appends one connection to a batch under construction: the new length, or -EMSGSIZE. */
ssize_t sg_wire_add_connection(uint8_t *items, size_t len, size_t size,
                               const struct sg_wire_connection *connection);

/* Takes the next connection off the items; 0, or -EPROTO. */
int sg_wire_next_connection(const uint8_t **items, size_t *len,
                            struct sg_wire_connection *ret_connection);

/* The version that two sides speak: the highest of both, or -EPROTONOSUPPORT. */
int sg_wire_agree(uint32_t min, uint32_t max);

#endif
