/* SPDX-License-Identifier: MIT */
/*
 * The handle, seen from inside the library.
 *
 * A generation has up to three relations at once: to predecessors that still drain towards
 * it, to the successor that it starts, and to later generations that were introduced to it
 * while it drains. Each is a struct peer with a channel and a pidfd. What they say becomes
 * events of the one state machine (machine.c), which alone writes the state and calls back
 * into the other files to act.
 *
 * Under a supervisor (supervised.c) it is a worker: the direct relation is to the supervisor,
 * predecessors and successors are all introduced, and who serves is decided by the supervisor
 * alone: no death of a peer makes a worker serve, or serve again.
 */
#ifndef SG_LIBSEGUE_HANDLE_H
#define SG_LIBSEGUE_HANDLE_H

#include "core/address.h"
#include "core/channel.h"
#include "core/lifecycle.h"
#include "core/listener.h"
#include "core/notify.h"
#include "core/pidfile.h"
#include "core/spawn.h"
#include "segue.h"

#include <stdatomic.h>

#define SG_ERROR_MAX 768

/* A descriptor in the handle's epoll set; ready() is called with what epoll says. */
struct watch {
	int fd; /* -1: not watched; borrowed */
	void (*ready)(struct segue *segue, struct watch *watch, uint32_t events);
	void *owner;
};

struct listener {
	char name[SG_NAME_MAX + 1];
	struct sg_address address; /* as configured */
	int fd;
	bool wanted;  /* asked for by segue_listen() of this process */
	bool systemd; /* came by LISTEN_FDS to this process */
	bool passed;  /* came by LISTEN_FDS to this process or to an earlier generation */
	bool ours;    /* the unix path was made by this service */
	bool dropped; /* the successor does not want it */
	bool told;    /* the application has been told so, and has not closed it yet */
	int returned; /* what the supervisor gave back before that, -1: none */
	int adopted;  /* place in the predecessor's offer to us, -1: none */
	int offered;  /* place in our offer to the successor, -1: none */
	struct sg_file_id file;
	struct sg_bind_options bind; /* to bind it again after a successor's failure */
};

/* One event on its way to the application, with what it owns. */
struct queued {
	struct queued *next;
	struct segue_event event;
	void *memory;        /* freed when the next event is asked for */
	struct blob *blobs;  /* FINAL_STATE: they become the current ones when it is handed out */
	uint64_t peer_id;    /* FINAL_STATE: whom the receipt is for */
	uint64_t taken;      /* CONNECTION: the place of its TAKEN among what was enqueued */
	struct spare *spare; /* it is this one's; NULL: it is the heap's */
	char reason[];
};

/* Without memory an event still has to reach the application: what it was told to do, and how an
 * upgrade ended. These are there from the beginning; of the reason as much as there is room for. */
#define SPARES 16

struct spare {
	bool taken;
	union {
		struct queued queued;
		char bytes[sizeof(struct queued) + SG_ERROR_MAX];
	};
};

/* A connection between segue_handover() and its verdict. */
struct handed {
	struct handed *next;
	int fd; /* the application's */
	void *cookie;
	size_t bytes_len, record_len;
	uint8_t data[];
};

struct handed_list {
	struct handed *first, **last;
	size_t count;
};

/* A batch that was sent and not yet answered. */
struct batch {
	struct batch *next;
	uint32_t serial;
	struct handed_list entries;
};

/* Abandoned: a successor that failed, was killed and does not die; its channel stays open. */
enum peer_role { PEER_PREDECESSOR, PEER_SUCCESSOR, PEER_ABANDONED, PEER_SUPERVISOR };

struct peer {
	struct peer *next;
	struct segue *segue;
	uint64_t id; /* never used again */
	enum peer_role role;
	struct sg_channel channel;
	struct watch channel_watch, pidfd_watch;
	uint32_t channel_events; /* what epoll is asked for */
	bool wants_room;         /* a batch waits for the channel to become writable */
	bool stalled;            /* for memory or descriptors in flight: tried again by the timer */
	int pidfd;
	pid_t pid;
	uint64_t generation;
	uint32_t worker, workers; /* workers: of its generation; 0: it is alone */
	uint32_t record_min, record_max;
	uint32_t predecessors; /* generations that drained towards it at its greeting */
	int version;           /* agreed, or -EPROTONOSUPPORT */
	bool greeted;          /* its HELLO has come */
	bool committed;        /* successor: it serves, or did: it may be given connections */
	bool introduced;       /* not the direct predecessor or successor */
	bool broken;           /* said nonsense, or closed its channel and lives on */
	bool deaf;  /* successor: said nonsense after its commit, which may have been a word that
	             * somebody else serves: never serve again (doc/protocol.md, rule 18) */
	bool ready; /* predecessor: has offered everything; successor: said READY */
	bool dead;
	bool ended;    /* its channel has been read to its end: no answer will come any more */
	bool declines; /* successor: drains itself, and has not said that it serves again */
	bool doomed;   /* freed as soon as nobody is in the middle of it */
	/* predecessor: the snapshot was asked for, and has come or will not; successor: it has
	 * asked for ours */
	bool asked, answered;
	/* successor: batches on their way */
	struct batch *batches;
	size_t batches_len;
	bool final_sent, receipt;
	struct blob *arriving; /* predecessor: the blobs of a state that is not yet whole */
	/* predecessor: connections whose acknowledgement has not been written yet */
	struct queued *held_first, **held_last;
};

/* A blob, received or to be sent. */
struct blob {
	struct blob *next;
	char name[64];
	uint32_t worker; /* whose it was */
	int fd;
	size_t len;
	const void *data; /* mapped when it is first asked for */
};

/* The upgrade that runs: preflight check, then successor. */
struct attempt {
	uint64_t generation;
	bool running;
	bool checking;
	int check_status;          /* how the check ended, as of waitpid(); -1: not known */
	bool hung_up;              /* failed because its channel ended: how it ended says more */
	struct sg_spawned process; /* pid 0: none */
	struct watch pidfd_watch, exec_watch;
	struct peer *peer;
	int64_t began_ms;
	int error;                 /* a positive errno */
	char reason[SG_ERROR_MAX]; /* why it failed; the first reason stands */
};

/* What a supervisor is told, and when next. */
struct progress {
	uint64_t connections, cut;
	int64_t said_ms, due_ms; /* due -1: there is nothing to say */
};

struct segue {
	struct segue_options options;
	char *pid_file_path;
	char **check_argv;
	char error[SG_ERROR_MAX];
	char scratch[SG_ERROR_MAX];

	int epoll_fd, wake_fd, timer_fd, self_pidfd;
	struct watch wake_watch, timer_watch;

	struct sg_origin origin;
	uint64_t generation;

	/* machine.c */
	enum sg_state state;
	int64_t state_since_ms, deadline_ms; /* deadline -1: none */
	enum sg_event pending[16];
	size_t pending_len;
	bool machine_runs;
	bool stop_noted;
	bool owner;     /* this generation has the service: pid file, paths, manager */
	bool had_drain; /* SEGUE_EVENT_DRAIN with a successor has been said */
	bool said_ready;
	bool served;         /* at some time, whoever does now */
	bool no_descriptors; /* left for what the predecessor hands over */
	int lacks;           /* errno: what there was none of, to take a listener over */
	bool given_up;       /* the predecessor says so */
	bool had_successor;  /* has committed one */
	bool empty_waits;    /* drained at a stop, and stays for those who are not */
	int unfit;           /* errno: a listener that the program asked for could not be had */
	bool opened;

	struct queued *events_first, **events_last;
	struct queued *current; /* returned by the last segue_dispatch() */
	struct spare spares[SPARES];
	bool dispatching;

	struct listener *listeners;
	size_t listeners_len;
	uint32_t offers; /* of the predecessor, those that were refused included */

	struct peer *peers;
	uint64_t next_peer;
	int64_t start_ms; /* what the predecessor left of the start deadline */
	struct attempt attempt;
	uint32_t next_serial;
	struct handed_list waiting; /* for a place in a batch */

	struct blob *received; /* the predecessors' snapshot, or the final state of one */
	struct blob *saving;   /* inside save_state() */
	bool in_save, snapshot_asked;
	int snapshot_error; /* a predecessor could not save it; the reason is in scratch */

	/* supervised.c */
	bool supervised;    /* started by a supervisor, which may have gone */
	bool orphans_serve; /* without it they serve on */
	uint32_t worker, workers;
	bool asked; /* for an upgrade; the answer is to come */
	int64_t asked_ms;
	struct progress progress;
	int64_t lost_due_ms; /* how long another successor is waited for; -1: none died */

	struct sg_pidfile pidfile;
	bool pidfile_held;

	struct sg_notify notify;
	int barrier_fd;
	struct watch barrier_watch;
	int64_t watchdog_due_ms, extend_due_ms; /* -1: none */
	int64_t retry_due_ms;                   /* -1: no channel is stalled */
};

/* segue.c */
int sg_fail(struct segue *segue, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int sg_watch_add(struct segue *segue, struct watch *watch, int fd, uint32_t events, void *owner,
                 void (*ready)(struct segue *, struct watch *, uint32_t));
void sg_watch_change(struct segue *segue, struct watch *watch, uint32_t events);
void sg_watch_remove(struct segue *segue, struct watch *watch);
void sg_timer_arm(struct segue *segue);

/* queue.c */
struct queued *sg_queued_new(struct segue *segue, enum segue_event_type type, const char *reason);
void sg_queued_free(struct queued *queued);
void sg_queue_push(struct segue *segue, struct queued *queued);
void sg_queue_event(struct segue *segue, const struct segue_event *event);
void sg_queue_simple(struct segue *segue, enum segue_event_type type);
void sg_queue_warning(struct segue *segue, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
bool sg_queue_pop(struct segue *segue, struct segue_event *ret_event);
void sg_queue_done(struct segue *segue);

/* machine.c */
void sg_machine_post(struct segue *segue, enum sg_event event);
void sg_machine_settle(struct segue *segue);
void sg_machine_timer(struct segue *segue, int64_t now_ms);
bool sg_machine_refuses(struct segue *segue, char *text, size_t size);

/* peer.c */
struct peer *sg_peer_new_take(struct segue *segue, enum peer_role role, int channel_fd, int pidfd);
void sg_peer_doom(struct peer *peer);
void sg_peer_sweep(struct segue *segue);
int sg_peer_send(struct peer *peer, const struct sg_message *message, const int *fds,
                 size_t fds_len);
int sg_peer_try(struct peer *peer, const struct sg_message *message, const int *fds,
                size_t fds_len);
void sg_peer_stall(struct peer *peer);
void sg_peer_retry(struct segue *segue, int64_t now_ms);
int sg_peer_send_type(struct peer *peer, enum sg_message_type type);
int sg_peer_send_hello(struct peer *peer);
struct peer *sg_peer_direct(struct segue *segue, enum peer_role role);
struct peer *sg_peer_upstream(struct segue *segue);
struct peer *sg_peer_target(struct segue *segue);
bool sg_peer_pairs(uint32_t elder, uint32_t younger, uint32_t workers);
size_t sg_peer_count(struct segue *segue, enum peer_role role);
void sg_peer_read(struct peer *peer);
void sg_peer_look(struct segue *segue, bool deaths_only);
void sg_peer_gone(struct peer *peer);
void sg_peer_drop_channel(struct peer *peer);
int sg_peer_take_hello(struct peer *peer, const struct sg_message *message, int pidfd);
void sg_peer_done_all(struct segue *segue);

/* upstream.c: what predecessors say */
int sg_upstream_join(struct segue *segue, int channel_fd);
void sg_upstream_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                         int error);
void sg_upstream_introduction(struct segue *segue, const struct sg_message *message, int *fds);
void sg_upstream_gone(struct peer *peer);
void sg_upstream_release(struct peer *peer);
void sg_upstream_give_back(struct peer *peer);
void sg_upstream_receipt(struct segue *segue, uint64_t peer_id);
bool sg_upstream_handshake(struct peer *peer, struct sg_message *message, int *fds);
void sg_upstream_commit(struct segue *segue, const struct sg_message *message);
void sg_upstream_given_up(struct peer *peer);
int sg_upstream_wait(struct segue *segue, bool (*done)(struct segue *), int64_t timeout_ms);

/* supervised.c: what a supervisor says, and is told */
void sg_supervised_begin(struct peer *peer, const struct sg_message *message);
void sg_supervised_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                           int error);
void sg_supervised_gone(struct peer *peer);
void sg_supervised_retire(struct segue *segue);
void sg_supervised_successor_serves(struct segue *segue);
bool sg_supervised_has_successor(struct segue *segue);
bool sg_supervised_alone(struct segue *segue);
void sg_supervised_lost(struct segue *segue, bool served);
bool sg_supervised_waits(struct segue *segue);
int sg_supervised_ask(struct segue *segue);
void sg_supervised_progress(struct segue *segue);
void sg_supervised_timer(struct segue *segue, int64_t now_ms);

/* attempt.c: check and start of the successor, until its commit or its end */
void sg_attempt_check(struct segue *segue);
void sg_attempt_spawn(struct segue *segue);
void sg_attempt_look(struct segue *segue);
void sg_attempt_failed(struct segue *segue, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void sg_attempt_abandon(struct segue *segue);
void sg_attempt_cancel(struct segue *segue);
void sg_attempt_report(struct segue *segue);
void sg_attempt_commit(struct segue *segue);
void sg_attempt_done(struct segue *segue);

/* downstream.c: what successors say */
void sg_downstream_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                           int error);
void sg_downstream_gone(struct peer *peer);

/* handover.c */
void sg_handover_pump(struct segue *segue);
void sg_handover_answer(struct peer *peer, uint32_t serial, bool taken, int error);
void sg_handover_take_back(struct peer *peer);
bool sg_handover_comes_back(const struct peer *peer);
void sg_handover_end(struct segue *segue, const char *reason);
bool sg_handover_pending(struct segue *segue);
void sg_handover_done(struct segue *segue);

/* state.c */
bool sg_state_send_snapshot(struct peer *peer);
int sg_state_send_final(struct peer *peer);
void sg_state_take_blob(struct peer *peer, const struct sg_message *message, int fd);
void sg_state_take_snapshot(struct peer *peer);
void sg_state_take_refusal(struct peer *peer, const struct sg_message *message);
void sg_state_replace_take(struct segue *segue, struct blob *blobs);
void sg_state_forget(struct peer *peer);
void sg_state_done(struct segue *segue);

/* listeners.c */
int sg_listeners_from_manager(struct segue *segue);
int sg_listeners_adopt_take(struct segue *segue, const struct sg_message *message, int fd);
void sg_listeners_offer(struct segue *segue, struct peer *peer);
void sg_listeners_pass_up(struct segue *segue, struct peer *peer);
void sg_listeners_return_take(struct segue *segue, const struct sg_message *message, int fd);
void sg_listeners_wanted(struct segue *segue, struct sg_message *ready);
void sg_listeners_mark(struct segue *segue, const struct sg_message *ready);
void sg_listeners_drop(struct segue *segue);
void sg_listeners_drop_address(struct segue *segue, const char *address);
void sg_listeners_close_unwanted(struct segue *segue);
void sg_listeners_rebind(struct segue *segue);
void sg_listeners_unbind(struct segue *segue);
void sg_listeners_done(struct segue *segue, bool unlink_paths);
int sg_listeners_check_claimed(struct segue *segue);

/* signals.c */
int sg_signals_install(struct segue *segue);
void sg_signals_deliver(struct segue *segue);
void sg_signals_restore(struct segue *segue);

/* manager.c: service manager and pid file */
int sg_manager_open(struct segue *segue);
void sg_manager_close(struct segue *segue);
const char *sg_manager_forbids(void);
void sg_manager_serving(struct segue *segue);
void sg_manager_reloading(struct segue *segue);
void sg_manager_upgrade_failed(struct segue *segue, const char *reason);
void sg_manager_committed(struct segue *segue, pid_t pid, uint64_t generation);
void sg_manager_resumed(struct segue *segue);
void sg_manager_stopping(struct segue *segue);
void sg_manager_timer(struct segue *segue, int64_t now_ms);
int64_t sg_manager_due(struct segue *segue);
bool sg_manager_settled(struct segue *segue);
bool sg_manager_stays(struct segue *segue);
void sg_manager_look(struct segue *segue);

#endif
