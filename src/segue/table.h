/* SPDX-License-Identifier: MIT */
/*
 * What the supervisor knows of a worker, and the life of the service: two total tables.
 *
 * Pure. Each row is written once, here; what has no row means nothing in that state. worker.c
 * is the one writer of a worker's state, service.c of the service's. segue(7) and
 * doc/protocol.md print the same rows; a test compares them.
 */
#ifndef SEGUE_COMMAND_TABLE_H
#define SEGUE_COMMAND_TABLE_H

/* name, text, which duration limits the stay ("none": not a waiting state) */
#define WORKER_STATES(X)                                                                       \
	X(STARTING, "starting", "start")   /* runs, and has not said that it is ready */       \
	X(READY, "ready", "start")         /* waits for the others of its generation */        \
	X(COMMITTED, "committed", "start") /* was told to serve, has not said that it does */  \
	X(SERVING, "serving", "none")                                                          \
	X(DRAINING, "draining", "drain") /* another generation serves: finishes what it has */ \
	X(STOPPING, "stopping", "drain") /* the service stops: finishes what it has */         \
	X(CUTTING, "cutting", "kill")    /* has to end now */                                  \
	X(KILLING, "killing", "reap")    /* SIGKILL is sent */                                 \
	X(GONE, "gone", "none")

#define WORKER_EVENTS(X)                                                                  \
	X(READY, "ready")       /* its word, or that of a probe */                        \
	X(COMMIT, "commit")     /* every worker of its generation is ready */             \
	X(SERVES, "serves")     /* its word that it serves */                             \
	X(RETIRE, "retire")     /* another generation serves */                           \
	X(RESUME, "resume")     /* that one has failed */                                 \
	X(ABANDON, "abandon")   /* its generation has failed, or broke what was agreed */ \
	X(STOP, "stop")         /* the service, or this worker, is to stop */             \
	X(STOP_NOW, "stop-now") /* at once */                                             \
	X(CUT, "cut")           /* a running drain is to end */                           \
	X(EXIT, "exit")         /* it is dead */                                          \
	X(DEADLINE, "deadline")

#define WORKER_ACTIONS(X)                                                                         \
	X(IGNORE, "ignore")                                                                       \
	X(NOTE_READY, "note-ready")   /* tell its generation */                                   \
	X(COMMIT, "commit")           /* tell it that it serves */                                \
	X(NOTE_SERVES, "note-serves") /* tell its generation */                                   \
	X(RETIRE, "retire")           /* tell it to drain: by channel, else by the stop signal */ \
	X(RESUME, "resume")           /* tell it to serve again */                                \
	X(NOTE, "note")               /* remembered: it drains already */                         \
	X(STOP, "stop")               /* by channel, else by the stop signal */                   \
	X(ABANDON, "abandon")         /* one that speaks to its channel by SIGKILL, for it has */ \
	/* accepted nothing; any other by the stop signal */                                      \
	X(CUT, "cut")           /* by channel, else by the stop signal once more */               \
	X(KILL, "kill")         /* SIGKILL to its process group */                                \
	X(COMPLAIN, "complain") /* it does not die: say so, and wait on */                        \
	X(REPORT, "report")     /* how it ended */

/* state, event, next, action */
#define WORKER_ROWS(X)                             \
	X(STARTING, READY, READY, NOTE_READY)      \
	X(STARTING, ABANDON, CUTTING, ABANDON)     \
	X(STARTING, STOP, CUTTING, ABANDON)        \
	X(STARTING, STOP_NOW, KILLING, KILL)       \
	X(STARTING, DEADLINE, CUTTING, ABANDON)    \
	X(STARTING, EXIT, GONE, REPORT)            \
	X(READY, COMMIT, COMMITTED, COMMIT)        \
	X(READY, ABANDON, CUTTING, ABANDON)        \
	X(READY, STOP, CUTTING, ABANDON)           \
	X(READY, STOP_NOW, KILLING, KILL)          \
	X(READY, DEADLINE, CUTTING, ABANDON)       \
	X(READY, EXIT, GONE, REPORT)               \
	X(COMMITTED, SERVES, SERVING, NOTE_SERVES) \
	X(COMMITTED, RETIRE, DRAINING, RETIRE)     \
	X(COMMITTED, ABANDON, KILLING, KILL)       \
	X(COMMITTED, STOP, STOPPING, STOP)         \
	X(COMMITTED, STOP_NOW, CUTTING, CUT)       \
	X(COMMITTED, DEADLINE, KILLING, KILL)      \
	X(COMMITTED, EXIT, GONE, REPORT)           \
	X(SERVING, RETIRE, DRAINING, RETIRE)       \
	X(SERVING, ABANDON, STOPPING, STOP)        \
	X(SERVING, STOP, STOPPING, STOP)           \
	X(SERVING, STOP_NOW, CUTTING, CUT)         \
	X(SERVING, EXIT, GONE, REPORT)             \
	X(DRAINING, RESUME, SERVING, RESUME)       \
	X(DRAINING, STOP, DRAINING, NOTE)          \
	X(DRAINING, STOP_NOW, CUTTING, CUT)        \
	X(DRAINING, CUT, CUTTING, CUT)             \
	X(DRAINING, DEADLINE, CUTTING, CUT)        \
	X(DRAINING, EXIT, GONE, REPORT)            \
	X(STOPPING, STOP, STOPPING, NOTE)          \
	X(STOPPING, STOP_NOW, CUTTING, CUT)        \
	X(STOPPING, CUT, CUTTING, CUT)             \
	X(STOPPING, DEADLINE, CUTTING, CUT)        \
	X(STOPPING, EXIT, GONE, REPORT)            \
	X(CUTTING, STOP_NOW, KILLING, KILL)        \
	X(CUTTING, DEADLINE, KILLING, KILL)        \
	X(CUTTING, EXIT, GONE, REPORT)             \
	X(KILLING, DEADLINE, KILLING, COMPLAIN)    \
	X(KILLING, EXIT, GONE, REPORT)

#define SERVICE_STATES(X)                                                                        \
	X(STARTING, "starting", "none") /* the first generation starts */                        \
	X(SERVING, "serving", "none")                                                            \
	X(CHECKING, "checking", "preflight")   /* serves; the preflight command runs */          \
	X(UPGRADING, "upgrading", "none")      /* serves; the successor's workers start */       \
	X(COMMITTING, "committing", "none")    /* the successor is told; not all of it serves */ \
	X(ABANDONING, "abandoning", "abandon") /* serves; a failed successor is being ended */   \
	X(STOPPING, "stopping", "none")        /* its workers' deadlines limit the stay */       \
	X(ENDING, "ending", "none")            /* the same, at once */                           \
	X(GONE, "gone", "none")

#define SERVICE_EVENTS(X)                                                                       \
	X(READY, "ready")         /* every worker of the generation that starts */              \
	X(SERVES, "serves")       /* every worker that was told to serve does */                \
	X(FAILED, "failed")       /* one of them, or the preflight command */                   \
	X(UPGRADE, "upgrade")     /* asked for */                                               \
	X(CHECKED, "checked")     /* the preflight command exited 0, or there is none */        \
	X(REAPED, "reaped")       /* what was abandoned is dead */                              \
	X(TAKE_BACK, "take-back") /* the last worker that serves died, its predecessor lives */ \
	X(STOP, "stop")                                                                         \
	X(STOP_NOW, "stop-now")                                                                 \
	X(EMPTY, "empty") /* no worker is left, and none is to be started */                    \
	X(DEADLINE, "deadline")

#define SERVICE_ACTIONS(X)                                                      \
	X(IGNORE, "ignore")                                                     \
	X(REFUSE, "refuse")   /* answer which generation is in which state */   \
	X(CHECK, "check")     /* run the preflight command, if there is one */  \
	X(SPAWN, "spawn")     /* start the successor's workers */               \
	X(COMMIT, "commit")   /* tell the successor that it serves */           \
	X(RETIRE, "retire")   /* it does: the predecessor drains */             \
	X(ABANDON, "abandon") /* end the successor, or the preflight command */ \
	X(REPORT, "report")   /* say how the upgrade failed */                  \
	X(RESUME, "resume")   /* the predecessor serves again */                \
	X(STOP, "stop")       /* stop every worker */                           \
	X(STOP_NOW, "stop-now")                                                 \
	X(LEAVE, "leave") /* exit */

#define SERVICE_ROWS(X)                              \
	X(STARTING, READY, COMMITTING, COMMIT)       \
	X(STARTING, FAILED, STOPPING, STOP)          \
	X(STARTING, UPGRADE, STARTING, REFUSE)       \
	X(STARTING, STOP, STOPPING, STOP)            \
	X(STARTING, STOP_NOW, ENDING, STOP_NOW)      \
	X(SERVING, UPGRADE, CHECKING, CHECK)         \
	X(SERVING, TAKE_BACK, SERVING, RESUME)       \
	X(SERVING, STOP, STOPPING, STOP)             \
	X(SERVING, STOP_NOW, ENDING, STOP_NOW)       \
	X(SERVING, EMPTY, GONE, LEAVE)               \
	X(CHECKING, CHECKED, UPGRADING, SPAWN)       \
	X(CHECKING, FAILED, SERVING, REPORT)         \
	X(CHECKING, UPGRADE, CHECKING, REFUSE)       \
	X(CHECKING, TAKE_BACK, CHECKING, RESUME)     \
	X(CHECKING, STOP, STOPPING, STOP)            \
	X(CHECKING, STOP_NOW, ENDING, STOP_NOW)      \
	X(CHECKING, DEADLINE, ABANDONING, ABANDON)   \
	X(UPGRADING, READY, COMMITTING, COMMIT)      \
	X(UPGRADING, FAILED, ABANDONING, ABANDON)    \
	X(UPGRADING, UPGRADE, UPGRADING, REFUSE)     \
	X(UPGRADING, TAKE_BACK, UPGRADING, RESUME)   \
	X(UPGRADING, STOP, STOPPING, STOP)           \
	X(UPGRADING, STOP_NOW, ENDING, STOP_NOW)     \
	X(COMMITTING, SERVES, SERVING, RETIRE)       \
	X(COMMITTING, FAILED, ABANDONING, ABANDON)   \
	X(COMMITTING, UPGRADE, COMMITTING, REFUSE)   \
	X(COMMITTING, TAKE_BACK, COMMITTING, RESUME) \
	X(COMMITTING, STOP, STOPPING, STOP)          \
	X(COMMITTING, STOP_NOW, ENDING, STOP_NOW)    \
	X(ABANDONING, REAPED, SERVING, REPORT)       \
	X(ABANDONING, UPGRADE, ABANDONING, REFUSE)   \
	X(ABANDONING, TAKE_BACK, ABANDONING, RESUME) \
	X(ABANDONING, STOP, STOPPING, STOP)          \
	X(ABANDONING, STOP_NOW, ENDING, STOP_NOW)    \
	X(ABANDONING, DEADLINE, SERVING, REPORT)     \
	X(STOPPING, UPGRADE, STOPPING, REFUSE)       \
	X(STOPPING, STOP, ENDING, STOP_NOW)          \
	X(STOPPING, STOP_NOW, ENDING, STOP_NOW)      \
	X(STOPPING, EMPTY, GONE, LEAVE)              \
	X(ENDING, UPGRADE, ENDING, REFUSE)           \
	X(ENDING, EMPTY, GONE, LEAVE)                \
	X(GONE, UPGRADE, GONE, REFUSE)

#define TABLE_WORKER_STATE(name, text, limit)  WORKER_##name,
#define TABLE_WORKER_EVENT(name, text)         WORKER_EVENT_##name,
#define TABLE_WORKER_ACTION(name, text)        WORKER_ACTION_##name,
#define TABLE_SERVICE_STATE(name, text, limit) SERVICE_##name,
#define TABLE_SERVICE_EVENT(name, text)        SERVICE_EVENT_##name,
#define TABLE_SERVICE_ACTION(name, text)       SERVICE_ACTION_##name,

enum worker_state { WORKER_STATES(TABLE_WORKER_STATE) WORKER_STATE_COUNT };
enum worker_event { WORKER_EVENTS(TABLE_WORKER_EVENT) WORKER_EVENT_COUNT };
enum worker_action { WORKER_ACTIONS(TABLE_WORKER_ACTION) WORKER_ACTION_COUNT };
enum service_state { SERVICE_STATES(TABLE_SERVICE_STATE) SERVICE_STATE_COUNT };
enum service_event { SERVICE_EVENTS(TABLE_SERVICE_EVENT) SERVICE_EVENT_COUNT };
enum service_action { SERVICE_ACTIONS(TABLE_SERVICE_ACTION) SERVICE_ACTION_COUNT };

struct worker_step {
	enum worker_state next;
	enum worker_action action;
};

struct service_step {
	enum service_state next;
	enum service_action action;
};

/* What an event means in a state; the same state and IGNORE where it means nothing. */
struct worker_step table_worker(enum worker_state state, enum worker_event event);
struct service_step table_service(enum service_state state, enum service_event event);

const char *table_worker_state_text(enum worker_state state);
const char *table_worker_event_text(enum worker_event event);
const char *table_service_state_text(enum service_state state);
const char *table_service_event_text(enum service_event event);

/* "start", "drain", "kill", "reap", "preflight", "abandon" or "none". */
const char *table_worker_limit(enum worker_state state);
const char *table_service_limit(enum service_state state);

#endif
