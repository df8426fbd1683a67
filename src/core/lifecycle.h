/* SPDX-License-Identifier: MIT */
/*
 * The life of a generation: one total table of states and events.
 *
 * Pure: no system call, no memory. Whoever runs a generation holds its state, asks
 * sg_lifecycle_step() what an event means, and does the action. The Promela model in
 * doc/model and the manual use the same names; a test compares them.
 */
#ifndef SG_CORE_LIFECYCLE_H
#define SG_CORE_LIFECYCLE_H

/* name, text, which duration limits the stay ("none": not a waiting state) */
#define SG_STATES(X)                           \
	X(STARTING, "starting", "start")       \
	X(READY, "ready", "start")             \
	X(PROBATION, "probation", "probation") \
	X(SERVING, "serving", "none")          \
	X(CHECKING, "checking", "check")       \
	X(UPGRADING, "upgrading", "start")     \
	X(ABANDONING, "abandoning", "abandon") \
	X(STANDBY, "standby", "probation")     \
	X(DRAINING, "draining", "drain")       \
	X(CUTTING, "cutting", "cut")           \
	X(DRAINED, "drained", "settle")        \
	X(STOPPING, "stopping", "drain")       \
	X(ENDING, "ending", "cut")             \
	X(GONE, "gone", "none")

#define SG_EVENTS(X)                                                                               \
	/* the application's and the predecessor's words */                                        \
	X(READY, "ready")                         /* said, and a predecessor waits for it */       \
	X(READY_ALONE, "ready-alone")             /* said, and there is none */                    \
	X(COMMIT, "commit")                       /* the predecessor: you serve */                 \
	X(CONFIRM, "confirm")                     /* the predecessor: probation has ended well */  \
	X(PREDECESSOR_GONE, "predecessor-gone")   /* died, or its channel has ended */             \
	X(PREDECESSOR_BROKE, "predecessor-broke") /* said something that makes no sense */         \
	/* a supervisor's, which alone decides who serves */                                       \
	X(SUPERVISOR_GONE, "supervisor-gone") /* died, or said something that makes no sense */    \
	X(RETIRE, "retire")                   /* the next generation serves */                     \
	X(RESUME, "resume")                   /* it does not after all: serve again */             \
	/* an upgrade */                                                                           \
	X(UPGRADE, "upgrade")                   /* asked for, and no hook refused */               \
	X(CHECKED, "checked")                   /* the preflight check passed, or there is none */ \
	X(CHECK_FAILED, "check-failed")         /* it did not */                                   \
	X(SUCCESSOR_READY, "successor-ready")   /* the successor: I can serve */                   \
	X(SUCCESSOR_FAILED, "successor-failed") /* did not start, died, broke, said so */          \
	X(SUCCESSOR_STOPS, "successor-stops")   /* the successor stops the service on request */   \
	X(REAPED, "reaped")                     /* what was killed is dead */                      \
	/* the end */                                                                              \
	X(EMPTY, "empty")       /* the application: nothing is left here */                        \
	X(SETTLED, "settled")   /* the successor has the final state, the manager its message */   \
	X(STOP, "stop")         /* the first request to stop */                                    \
	X(STOP_NOW, "stop-now") /* the second, or one that does not wait */                        \
	X(CUT, "cut")           /* a request to end the running drain */                           \
	X(DEADLINE, "deadline")

#define SG_ACTIONS(X)                                                                            \
	X(IGNORE, "ignore") /* means nothing here */                                             \
	X(REFUSE, "refuse") /* answer which state this is and how long it may take */            \
	X(SAY_READY, "say-ready")                                                                \
	X(SERVE, "serve")     /* accept; own pid file and manager from now on */                 \
	X(CONFIRM, "confirm") /* an upgrade may be asked for from now on */                      \
	X(GIVE_UP, "give-up") /* this generation never served: exit with the reason */           \
	X(CHECK, "check")     /* run the preflight check, if there is one */                     \
	X(SPAWN, "spawn")     /* start the successor */                                          \
	X(ABANDON, "abandon") /* kill the check or the successor, wait for its death */          \
	X(REPORT, "report")   /* say how the upgrade failed; nothing else changes */             \
	X(COMMIT, "commit")   /* tell the successor, accept no more */                           \
	X(RETIRE, "retire")   /* accept no more: the supervisor has the successors serve */      \
	X(DRAIN, "drain")     /* confirm the successor, hand over, finish */                     \
	X(RESUME, "resume")   /* serve again, take back pid file and manager */                  \
	X(NOTE, "note")       /* remembered: it drains already */                                \
	X(CUT, "cut")         /* close what is left */                                           \
	X(SETTLE, "settle")   /* send the final state, wait for its receipt and the manager's */ \
	X(STOP, "stop")       /* drain without a successor, kill one that starts */              \
	X(FOLLOW, "follow")   /* the same at the successor's word: the drain goes on */          \
	X(LEAVE, "leave")     /* exit */

#define SG_STATE_ENUM(name, text, limit) SG_STATE_##name,
#define SG_EVENT_ENUM(name, text)        SG_EVENT_##name,
#define SG_ACTION_ENUM(name, text)       SG_ACTION_##name,

enum sg_state { SG_STATE_NONE, SG_STATES(SG_STATE_ENUM) SG_STATE_COUNT };
enum sg_event { SG_EVENT_NONE, SG_EVENTS(SG_EVENT_ENUM) SG_EVENT_COUNT };
enum sg_action { SG_ACTION_NONE, SG_ACTIONS(SG_ACTION_ENUM) SG_ACTION_COUNT };

/* What an event means in a state. next equals the state where nothing changes. */
struct sg_step {
	enum sg_state next;
	enum sg_action action;
};

/* The entry of the table; {NONE, NONE} only for numbers that are no state or event. */
struct sg_step sg_lifecycle_step(enum sg_state state, enum sg_event event);

/* Texts, "?" for a number that is none. */
const char *sg_state_text(enum sg_state state);
const char *sg_event_text(enum sg_event event);
const char *sg_action_text(enum sg_action action);

/* Which duration limits the stay in a state: "start", "drain", ... or "none". */
const char *sg_state_limit(enum sg_state state);

#endif
