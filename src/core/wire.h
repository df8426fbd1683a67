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
#define SG_WIRE_VERSION_MAX 1

/* name, text, number (never reused), direction */
#define SG_MESSAGES(X)                                                                           \
	X(HELLO, "hello", 1, "both")            /* versions, generation; carries a pidfd */      \
	X(LISTENER, "listener", 2, "down")      /* one listener; carries it */                   \
	X(PID_FILE, "pid-file", 3, "down")      /* carries the lock */                           \
	X(OFFERED, "offered", 4, "down")        /* these were all the listeners */               \
	X(WANT_STATE, "want-state", 5, "up")                                                     \
	X(BLOB, "blob", 6, "down")              /* one blob; carries a sealed memfd */           \
	X(STATE, "state", 7, "down")            /* these were all the blobs of the snapshot */   \
	X(READY, "ready", 8, "up")              /* and which listeners are wanted */             \
	X(FAILED, "failed", 9, "up")            /* the reason; the sender exits */               \
	X(COMMIT, "commit", 10, "down")                                                          \
	X(CONFIRM, "confirm", 11, "down")       /* probation has ended well */                   \
	X(CONNECTIONS, "connections", 12, "down") /* a batch; carries them */                    \
	X(TAKEN, "taken", 13, "up")             /* the batch is the receiver's */                \
	X(DECLINED, "declined", 14, "up")       /* the batch stays the sender's */               \
	X(INTRODUCE, "introduce", 15, "down")   /* carries a channel to another generation */    \
	X(FINAL, "final", 16, "down")           /* drained; these were all the final blobs */    \
	X(RECEIPT, "receipt", 17, "up")         /* the final state has come */                   \
	X(STOPS, "stops", 18, "up")             /* the sender stops the service on request */

#define SG_MESSAGE_ENUM(name, text, number, direction) SG_MESSAGE_##name = (number),
enum sg_message_type { SG_MESSAGES(SG_MESSAGE_ENUM) };

#endif
