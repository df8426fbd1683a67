/* SPDX-License-Identifier: MIT */
/**
 * segue.h - replace a running server by its next version while clients notice nothing
 *
 * The library is a program's own end of a handover. It starts no thread, owns no loop and
 * prints nothing: the program watches one descriptor, calls segue_dispatch() when it is
 * readable, and acts on the events that come out.
 *
 *         struct segue_options options;
 *         struct segue *segue;
 *         struct segue_event event;
 *
 *         segue_options_init(&options);
 *         segue_open(&segue, &options);               first thing in main()
 *         fd = segue_listen(segue, "http", ":8080", NULL);
 *         segue_ready(segue);
 *         while (poll on segue_fd(segue) and your own descriptors)
 *                 while (segue_dispatch(segue, &event) > 0)
 *                         SEGUE_EVENT_SERVE     accept from the listeners
 *                         SEGUE_EVENT_COMMIT    accept no more; the successor serves
 *                         SEGUE_EVENT_DRAIN     hand over what is idle, finish the rest,
 *                                               then segue_drained()
 *                         SEGUE_EVENT_CUT       close what is left, then segue_drained()
 *                         SEGUE_EVENT_GONE      segue_close() and leave main()
 *
 * What holds for every function, unless its comment says otherwise:
 *
 * Errors:   0 or more is success, a negative errno is the reason; segue_error() then has a
 *           sentence which names the thing, the cause and what would help.
 * Owns:     what is passed in is borrowed; strings and blobs are copied.
 * Blocks:   no; but a message to a service manager that does not read waits a quarter of a
 *           second at most.
 * Threads:  a handle is used by one thread at a time; segue_wake() alone may be called
 *           from any thread.
 * Time:     durations are milliseconds of CLOCK_MONOTONIC; SEGUE_FOREVER is no deadline.
 *
 * A process has at most one handle: signals, the pid file and the listeners are the
 * process's, not the handle's.
 *
 * Under a supervisor (`segue run`) the same calls and events hold. The process is a worker: one
 * of several of its generation, perhaps. The supervisor starts the next generation and decides
 * who serves: an upgrade that the program asks for is asked of it, the pid file and the service
 * manager are its business, and its drain deadline stands in place of the program's.
 */
#ifndef SEGUE_H
#define SEGUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SEGUE_VERSION "0.1.0"

/** A duration without end. */
#define SEGUE_FOREVER (-1)
/** In place of a signal's number: never by signal. */
#define SEGUE_NO_SIGNAL (-1)
/** The most that one live connection may carry: unread bytes and record together. */
#define SEGUE_CONNECTION_MAX 61440
/** Application state: blobs in one snapshot, and bytes in one blob. */
#define SEGUE_BLOBS_MAX      64
#define SEGUE_BLOB_MAX_BYTES ((size_t)1 << 30)
/** Listeners of one program. */
#define SEGUE_LISTENERS_MAX 128
/** A listener's name, without its end: 1..63 bytes of [a-z0-9_-], or an address. */
#define SEGUE_NAME_MAX 255
/** Generations that may still drain towards one that serves; one more upgrade is refused. */
#define SEGUE_PREDECESSORS_MAX 16

struct segue;

/** The states of a generation; segue_state_name() has their names. The table of what leads
 * from one to the next is src/core/lifecycle.c, and the manual prints it. */
enum segue_state {
	SEGUE_STARTING = 1, /**< the application initialises; nothing is accepted */
	SEGUE_READY,        /**< waits for the predecessor's word; nothing is accepted */
	SEGUE_PROBATION,    /**< serves; its predecessor stands by to take the service back */
	SEGUE_SERVING,      /**< serves */
	SEGUE_CHECKING,     /**< serves; the preflight check of the next version runs */
	SEGUE_UPGRADING,    /**< serves; its successor starts */
	SEGUE_ABANDONING,   /**< serves; a failed successor has been killed and is not yet dead */
	SEGUE_STANDBY,      /**< accepts nothing new; the successor is on probation */
	SEGUE_DRAINING,     /**< hands over what is idle, finishes the rest */
	SEGUE_CUTTING,      /**< the drain deadline has passed; the rest is being closed */
	SEGUE_DRAINED,      /**< nothing left; waits until the successor has the final state */
	SEGUE_STOPPING,     /**< the service stops: finishes what it has; no successor */
	SEGUE_ENDING,       /**< the same, after its deadline: the rest is being closed */
	SEGUE_GONE          /**< may exit */
};

/** How an upgrade ended. */
enum segue_outcome {
	SEGUE_UPGRADED = 1, /**< the successor serves */
	SEGUE_FAILED,       /**< the successor was not ready; this generation serves as before */
	SEGUE_REFUSED,   /**< nothing was started: another upgrade runs, a hook or the shape forbids
	                  */
	SEGUE_TAKEN_BACK /**< the successor failed after its commit; this generation serves again */
};

enum segue_event_type {
	/** The generation serves from now on: accept. Also after segue_ready() of generation 1. */
	SEGUE_EVENT_SERVE = 1,
	/** An upgrade has begun: @generation is the successor's number. */
	SEGUE_EVENT_UPGRADE_BEGINS,
	/** The successor's process runs: @pid, @generation. */
	SEGUE_EVENT_UPGRADE_STARTED,
	/** An upgrade has ended: @outcome, @generation, @pid (0: none), @error, @reason, @took_ms.
	 */
	SEGUE_EVENT_UPGRADE_ENDED,
	/** The next generation serves: stop accepting. Live connections stay here until
	   SEGUE_EVENT_DRAIN. */
	SEGUE_EVENT_COMMIT,
	/** Accept from @fd (listener @name) until EAGAIN, then segue_unlisten(): nobody wants it
	 * any more. Comes after SEGUE_EVENT_COMMIT. */
	SEGUE_EVENT_LISTENER_DROPPED,
	/** Hand over idle connections (@successor true) or close them (false: the service stops,
	 * or a supervisor has nobody to hand them to), finish the rest until @deadline_ms from
	 * now, then segue_drained(). Accept nothing more. */
	SEGUE_EVENT_DRAIN,
	/** The next generation has failed: accept again from every listener (ask
	 * segue_listener_fd() again; what was closed by segue_unlisten() is another socket now,
	 * on which socket options have to be set again). Once more where a listener could not be
	 * bound again at once. */
	SEGUE_EVENT_RESUME,
	/** The drain has to end now: close what is left, count it, then segue_drained(). */
	SEGUE_EVENT_CUT,
	/** Nothing is left to do: segue_close() and exit. @error is not 0 where the generation
	 * could not come to serve, with @reason. */
	SEGUE_EVENT_GONE,
	/** A live connection of the predecessor: @fd is yours now, with @bytes read ahead and the
	 * predecessor's @record. It may come while this generation drains itself: hand it over
	 * like your own. */
	SEGUE_EVENT_CONNECTION,
	/** A connection given to segue_handover() is the successor's: close your descriptor.
	   @cookie. */
	SEGUE_EVENT_TAKEN,
	/** A connection given to segue_handover() is still yours: @cookie, @reason. It will not be
	 * taken later, unless a SEGUE_EVENT_RESUME and another upgrade follow. */
	SEGUE_EVENT_KEPT,
	/** A predecessor has drained; its final state can be read by segue_blob(). @generation,
	 * @worker. It leaves when the next event is asked for: until then it would take the
	 * service back. Under a supervisor there is one event for each predecessor. */
	SEGUE_EVENT_FINAL_STATE,
	/** The generation's state has changed: @from, @to, @reason (the event's name), @took_ms
	 * spent in @from. One for each change; for the log. */
	SEGUE_EVENT_STATE,
	/** Something that is not right and does not stop the service: @error, @reason. */
	SEGUE_EVENT_WARNING
};

/** What segue_dispatch() returns. Pointers are valid until the next call with the handle. */
struct segue_event {
	enum segue_event_type type;
	enum segue_outcome outcome;
	enum segue_state from, to;
	uint64_t generation;
	pid_t pid;
	int error; /**< a positive errno, or 0 */
	const char *reason;
	int64_t took_ms;
	int64_t deadline_ms; /**< from now; SEGUE_FOREVER where there is none */
	bool successor;
	uint32_t worker; /**< of @generation: whose connection or final state it is */
	const char *name;
	int fd;
	void *cookie;
	const void *bytes;
	size_t bytes_len;
	const void *record;
	size_t record_len;
	uint32_t record_version;
};

/** Set by segue_options_init(), then changed by the program. */
struct segue_options {
	size_t size; /**< sizeof(struct segue_options), by segue_options_init() */

	int upgrade_signal;  /**< SIGUSR2; SEGUE_NO_SIGNAL: by segue_upgrade() only */
	int stop_signals[4]; /**< SIGTERM, SIGINT; 0 ends the list; the second one cuts */
	int now_signal;      /**< SEGUE_NO_SIGNAL; cuts at once, e.g. SIGQUIT */
	bool never_upgrade;  /**< refuse every upgrade */

	int64_t start_timeout_ms; /**< 30,000: from the start of the successor to its word */
	int64_t drain_timeout_ms; /**< 30,000; 0: cut at once */
	int64_t probation_ms;     /**< 0 */

	const char *pid_file; /**< NULL: none */

	/** The preflight check: the program itself is run with these arguments in place of its
	 * own (without argv[0]) before the successor is started, and has to exit 0. NULL: none. */
	const char *const *check_arguments;
	int64_t check_timeout_ms; /**< 10,000 */

	/** Asked before anything is started; not 0 refuses, with a sentence in @reason. */
	int (*may_upgrade)(void *ctx, char *reason, size_t reason_size);
	/** Save application state: call segue_put_blob() for each blob; not 0 is a failed
	 * upgrade (snapshot) or a warning (final). */
	int (*save_state)(struct segue *segue, bool final, void *ctx);
	void *ctx;

	/** The range of versions of connection records that this program can read, and the
	 * version that it writes. A successor that cannot read it leaves connections where
	 * they are. */
	uint32_t record_version_min, record_version_max, record_version;
};

/** How a listener is bound; all zero is the default. */
struct segue_listen_options {
	int backlog;       /**< 0: SOMAXCONN */
	bool v6only;       /**< an IPv6 address serves IPv6 alone */
	unsigned int mode; /**< unix path: permission bits; 0: 0777 less the umask */
	const char *owner; /**< unix path: user name or number; NULL: unchanged */
	const char *group; /**< unix path: group name or number; NULL: unchanged */
	bool reuseport;    /**< SO_REUSEPORT, for a group of sockets made by other means */
};

/** segue_options_init - the defaults, as the comments of struct segue_options say */
void segue_options_init(struct segue_options *options);

/**
 * segue_open - join the predecessor, or begin as generation 1
 * @ret_segue: the handle; set on success, and on failure where the handle holds the sentence
 *             (segue_error()); NULL otherwise. Give it to segue_close() in any case.
 * @options:   NULL: the defaults
 *
 * Shape:    once per process, first thing in main(): the working directory, environment,
 *           umask and arguments as they are now are those of every successor
 * Errors:   -EALREADY   the process has a handle
 *           -EPROTO     the predecessor talks nonsense or a version that we do not
 *           -ETIMEDOUT  the predecessor does not talk
 *           -EINVAL     an option, or LISTEN_FDS and its like, is malformed
 *           -EEXIST     another live service holds the pid file
 *           -ENOSYS     the kernel is older than 5.14
 * Blocks:   as a successor, until the listeners have come, 10 s at most
 * Source:   sd_listen_fds(3) for LISTEN_*; daemon(7)
 */
int segue_open(struct segue **ret_segue, const struct segue_options *options);

/** segue_close - release everything; unix paths and pid file go where this was the last
 * generation at the final stop. Signals mean again what they did before; after
 * SEGUE_EVENT_GONE those that would end the process are ignored, so that its exit code is its own.
 * NULL is welcome. */
void segue_close(struct segue *segue);

/** segue_error - the sentence for the last negative return; "" where there was none. Valid
 * until the next call. NULL is welcome. */
const char *segue_error(const struct segue *segue);

/** segue_fd - the descriptor to watch for reading (an epoll descriptor); the handle's */
int segue_fd(const struct segue *segue);

/**
 * segue_dispatch - do what is due, and say what has happened
 *
 * Shape:    call until it returns 0 whenever segue_fd() is readable
 * Returns:  1 with an event, 0 with none
 */
int segue_dispatch(struct segue *segue, struct segue_event *ret_event);

/** segue_wake - make segue_fd() readable once; from any thread and from signal handlers */
void segue_wake(struct segue *segue);

/**
 * segue_listen - the listening socket of a name, inherited or fresh
 * @name:    1..63 bytes of [a-z0-9_-]; NULL: the address is the name
 * @address: "tcp://127.0.0.1:8080", "tcp://[::1]:8080", ":8080" (both families, all
 *           interfaces), "unix:///run/app.sock", "unix://@abstract", "udp://[::]:53"
 * @options: NULL: the defaults
 *
 * Shape:    once per name, after segue_open() and before segue_ready()
 * Returns:  a non-blocking, close-on-exec descriptor, 0 or more
 * Errors:   -EADDRINUSE another program has the address, or it overlaps another listener's
 *           -E2BIG      more than SEGUE_LISTENERS_MAX
 *           -EALREADY   the name was handed out before
 *           -EINVAL     name or address malformed; an inherited socket is not what it should be
 *           -EBUSY      called after segue_ready()
 *           and those of bind(2)
 * Owns:     the descriptor stays the handle's; segue_close() closes it
 * Source:   sd_listen_fds(3) for the inherited case
 */
int segue_listen(struct segue *segue, const char *name, const char *address,
                 const struct segue_listen_options *options);

/** segue_listen_spec - the same for "[NAME=]ADDRESS" */
int segue_listen_spec(struct segue *segue, const char *spec,
                      const struct segue_listen_options *options);

/** segue_listener_fd - the descriptor of a listener by its name, or -ENOENT */
int segue_listener_fd(struct segue *segue, const char *name);

/** segue_listener_name - the name of one of the handle's listeners, by its descriptor; NULL: none
 */
const char *segue_listener_name(struct segue *segue, int fd);

/** segue_unlisten - close a listener for good; the answer to SEGUE_EVENT_LISTENER_DROPPED.
 * -ENOENT: no such name. -ECANCELED: the answer comes after the generation serves again, and the
 * listener with it: SEGUE_EVENT_RESUME follows when it can be accepted from. */
int segue_unlisten(struct segue *segue, const char *name);

/**
 * segue_address_text - the address that a socket is really bound to
 * @fd:   a listener
 * @text: receives "tcp://127.0.0.1:34567", "unix:///run/app.sock", ...
 * @size: of @text; 256 is always enough
 *
 * Errors:   -ENOTSOCK, -EAFNOSUPPORT, -ENOSPC
 */
int segue_address_text(int fd, char *text, size_t size);

/** segue_address_check - is "[NAME=]ADDRESS" well formed? 0, or -EINVAL with a sentence in @reason
 */
int segue_address_check(const char *spec, char *reason, size_t reason_size);

/**
 * segue_passed - what the program was given to listen on, without having been told of it
 * @index:    0, 1, ... of those that no segue_listen() has asked for yet
 * @ret_name: NULL where its name cannot be used (the address is the name then); valid until
 *            the next call with the handle
 * @text:     receives the address, for segue_listen()
 * @size:     of @text; 320 is always enough
 *
 * For a program without addresses of its own: it listens on whatever the service manager or
 * the supervisor passed (LISTEN_FDS), to this generation or an earlier one.
 *
 *         while (segue_passed(segue, 0, &name, text, sizeof(text)) == 0)
 *                 fd = segue_listen(segue, name, text, NULL);
 *
 * Errors:   -ENOENT       there is none, or no further one
 *           -EAFNOSUPPORT, -ENOSPC
 * Source:   sd_listen_fds_with_names(3)
 */
int segue_passed(struct segue *segue, size_t index, const char **ret_name, char *text, size_t size);

/**
 * segue_ready - the program can serve
 *
 * The word that a predecessor (and a service manager) waits for. SEGUE_EVENT_SERVE follows
 * when this generation is to accept.
 * Errors:   -EALREADY   said before
 *           -EINVAL     a socket that systemd or the supervisor passed is not asked for by any
 *                       segue_listen()
 */
int segue_ready(struct segue *segue);

/**
 * segue_upgrade - start the successor, as the upgrade signal does
 *
 * Under a supervisor it is asked for one.
 *
 * Returns:  0: it has begun, or been asked for; SEGUE_EVENT_UPGRADE_ENDED will tell
 * Errors:   -EBUSY, -EPERM, -ECANCELED refused; segue_error() says which generation is in
 *           which state and how long it may take. No event follows.
 */
int segue_upgrade(struct segue *segue);

/** segue_stop - drain and exit, as the first TERM does (@now: as the second one does) */
int segue_stop(struct segue *segue, bool now);

/** segue_cut - end a running drain at once; -EINVAL where there is none */
int segue_cut(struct segue *segue);

/** segue_drained - the answer to SEGUE_EVENT_DRAIN and SEGUE_EVENT_CUT: nothing is left here,
 * each segue_handover() has got its verdict and each SEGUE_EVENT_CONNECTION has come out.
 * -EBUSY where one has not: call again after the next events. */
int segue_drained(struct segue *segue);

/**
 * segue_handover - give a live connection to the successor
 * @fd:      the connection; nothing may be unsent in the program's own buffers
 * @bytes:   what was read from it and not yet used
 * @record:  what the successor has to know besides, in the version of the options
 * @cookie:  comes back with the verdict
 *
 * Shape:    after SEGUE_EVENT_DRAIN with @successor true. Do not touch @fd until the
 *           verdict: SEGUE_EVENT_TAKEN (then close it) or SEGUE_EVENT_KEPT (yours as before)
 * Errors:   -ENOTCONN   there is no successor that could take it: keep it
 *           -EPROTONOSUPPORT the successor cannot read records of this version: keep it
 *           -EMSGSIZE   more than SEGUE_CONNECTION_MAX: keep it
 *           -EBADF      @fd is not open
 *           -ENOMEM
 */
int segue_handover(struct segue *segue, int fd, const void *bytes, size_t bytes_len,
                   const void *record, size_t record_len, void *cookie);

/** segue_put_blob - inside save_state(): one blob; @name 1..63 bytes of [a-z0-9_-].
 * -EEXIST twice the same name, -E2BIG more than SEGUE_BLOBS_MAX or SEGUE_BLOB_MAX_BYTES,
 * -EPERM outside save_state() */
int segue_put_blob(struct segue *segue, const char *name, const void *data, size_t len);

/**
 * segue_blob - a blob of the predecessor's state
 * @ret_data: mapped read-only; valid until segue_close() or the next SEGUE_EVENT_FINAL_STATE
 *
 * Before segue_ready() it is the snapshot (the first call asks for it), after
 * SEGUE_EVENT_FINAL_STATE the final one of that predecessor. Under a supervisor several
 * workers may hand over to this one: then it is the first's that has one of the name.
 * Errors:   -ENOENT     no such blob, no predecessor, or it saved nothing
 *           -ETIMEDOUT  the predecessor did not send it
 *           -EPIPE      the supervisor has gone
 *           another     a worker's save_state() failed; segue_error() says whose
 * Blocks:   the first call, until the snapshot has come, 10 s at most
 */
int segue_blob(struct segue *segue, const char *name, const void **ret_data, size_t *ret_len);

/** segue_blob_of - the same for one of several predecessors: @index 0, 1, ... of those that have
 * a blob of the name, by the number of the worker, which is in @ret_worker; then -ENOENT */
int segue_blob_of(struct segue *segue, const char *name, size_t index, const void **ret_data,
                  size_t *ret_len, uint32_t *ret_worker);

/** segue_status - STATUS= for the service manager, where there is one */
int segue_status(struct segue *segue, const char *text);

/** segue_supervised - was this process started by a supervisor? NULL is welcome. */
bool segue_supervised(const struct segue *segue);

/** segue_worker - this worker's number among those of its generation, from 0; 0 where it is
 * alone. NULL is welcome. */
unsigned int segue_worker(const struct segue *segue);

/** segue_report - how many connections the program has, and has cut so far: what `segue status`
 * shows and an upgrade's progress is. Costs next to nothing where nothing has changed or nobody
 * looks; call it as often as you like. NULL is welcome. */
void segue_report(struct segue *segue, uint64_t connections, uint64_t cut);

/** segue_generation - 1, 2, 3, ... */
uint64_t segue_generation(const struct segue *segue);

/** segue_current_state - the state of this generation */
enum segue_state segue_current_state(const struct segue *segue);

/** segue_state_name - "serving", ...; "?" for a number that is none */
const char *segue_state_name(enum segue_state state);

/** segue_outcome_name - "upgraded", "failed", "refused", "taken-back" */
const char *segue_outcome_name(enum segue_outcome outcome);

#ifdef __cplusplus
}
#endif

#endif
