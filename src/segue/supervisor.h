/* SPDX-License-Identifier: MIT */
/*
 * The supervisor, seen from inside: a service has generations, a generation has slots (one a
 * worker), a slot has the worker that runs there and, while that one is replaced, a second.
 *
 * Three writers of state: worker.c of a worker's, service.c of the service's, slot.c of
 * what lies between (slots: when to start a worker again). Everything else asks them. All of
 * it runs in one thread, on one libuv loop. (image.c reads files in another, which touches nothing
 * of this.)
 */
#ifndef SEGUE_COMMAND_SUPERVISOR_H
#define SEGUE_COMMAND_SUPERVISOR_H

#include "core/address.h"
#include "core/listener.h"
#include "core/pidfile.h"
#include "core/spawn.h"
#include "core/wire.h"
#include "segue/config.h"
#include "segue/control.h"
#include "segue/inbox.h"
#include "segue/manager.h"
#include "segue/program.h"
#include "segue/ready.h"
#include "segue/relay.h"
#include "segue/table.h"

#include <time.h>
#include <uv.h>

#define REASON_MAX 768
/* A worker that keeps the drain deadline itself cuts first, and tells how much. */
#define WORKER_MARGIN_MS 3000

struct service;
struct generation;
struct slot;
struct link;

/*
 * On what terms a generation runs: the settings as they were when it was started (the file of
 * --config is read again at each upgrade), and what follows from them.
 */
struct terms {
	unsigned int refs;
	struct config *config;
	struct sg_origin origin; /* the service's, but for the environment, which is clean */
	struct sg_identity identity, *as; /* NULL: the supervisor's own */
	gid_t *groups;
};

/* How a worker talks to the supervisor. */
enum worker_kind {
	KIND_OTHER,  /* not at all: a probe says that it is ready */
	KIND_NOTIFY, /* by READY=1 */
	KIND_SEGUE,  /* by its channel */
};

/* One process. Ends GONE, and is freed when generation.c has heard of it. */
struct worker {
	struct slot *slot;
	uint64_t key; /* of its output, never used twice */
	enum worker_state state;
	int64_t began_ms, since_ms, deadline_ms; /* deadline -1: none */
	time_t since;
	enum worker_kind kind;
	bool replaces;   /* a worker that serves, at the operator's word */
	bool asked_away; /* its end was asked for: no crash */
	bool killed;     /* by this supervisor */
	bool abandoned;  /* it served, and broke what was agreed: no end of its own */
	bool wraps;      /* another process of its session outlived it */
	bool was_ready, was_committed;
	bool said_ready;  /* on its channel */
	bool probe_ready; /* by a probe */
	bool told_commit; /* on its channel */

	struct sg_spawned process; /* pid 0: none */
	uv_poll_t pidfd_poll, exec_poll;
	uv_timer_t timer;
	unsigned int handles; /* of the three, those that are not closed yet */
	unsigned int watched; /* of the two descriptors, those that the loop knows */
	bool runs;            /* has executed its program */
	bool dead;
	int status; /* as of waitpid(); -1: not known */

	struct link *link;
	uint64_t another; /* whom it met in place of its successor that died: a key; 0: nobody */
	struct ready *ready;
	struct program program;
	bool from_held; /* was started from the file that ran before it */

	bool counts; /* has told how many connections it has, */
	bool aged;   /* but not since it was told to drain */
	uint64_t connections, cut;
	uint64_t drained_from;   /* the most of both since its generation was retired */
	char text[256];          /* its STATUS= */
	char reason[REASON_MAX]; /* why it failed; the first reason stands */
};

/* The place of one worker in its generation. */
struct slot {
	struct generation *generation;
	unsigned int index;
	struct worker *worker;      /* NULL: none */
	struct worker *replacement; /* starts, to take over from the worker */
	struct worker *leaving;     /* was replaced, drains */
	unsigned int restarts;      /* for ever */
	unsigned int row;           /* in a row */
	uv_timer_t *timer;          /* runs: a restart waits; NULL: none does */
	int64_t restart_ms;         /* when */
	struct program last;        /* what ran here last */
	char last_exit[128];        /* how it ended; "": never did */
	bool awaited;               /* its generation does not serve before it does */
	bool ended;                 /* not to be started again */
	bool limit;                 /* because it crashed too often */
};

struct generation {
	struct generation *next; /* younger */
	struct service *service;
	struct terms *terms;
	uint64_t number;
	bool committed; /* has served */
	bool retired;   /* another one serves */
	bool failed;    /* is being ended */
	char **argv;
	struct slot *slots;
	unsigned int slots_len;
	int64_t since_ms;
	time_t since;
	bool tells_wanted;               /* a worker that speaks to its channel has said READY */
	uint64_t cut;                    /* of workers that are gone */
	unsigned int killed;             /* workers whose drain ended so */
	const char *cut_why;             /* a clause: who ended its drain; NULL: nobody */
	bool drained_known;              /* a worker has told since: */
	uint64_t drained_from;           /* connections when the drain began */
	char output[RELAY_TAIL_MAX + 1]; /* the last lines of the worker that failed */
};

/* A listener that the supervisor holds. */
struct held {
	struct held *next;
	char name[SG_NAME_MAX + 1];
	char address[SG_ADDRESS_MAX]; /* as configured */
	int fd;
	bool own;    /* by --listen or from the service manager: passed by LISTEN_FDS, for ever */
	bool ours;   /* the unix path was made by this service */
	bool stored; /* by the service manager; not kept for those that are own */
	bool wanted; /* by the generation that starts */
	uint64_t generation; /* that bound it; 0: own */
	struct terms *terms; /* of that generation: at whose word its path is unlinked */
	struct sg_file_id file;

	uint64_t closed_by;         /* the generation that did not want it; 0: none yet */
	char bound[SG_ADDRESS_MAX]; /* where it was then, and how */
	struct sg_bind_options bind;
	bool unbound_said; /* that it could not be bound again */
};

/* A client that waits for an end. */
struct waiter {
	struct waiter *next;
	struct control_client *client;
	enum { WAITS_FOR_UPGRADE, WAITS_FOR_STOP, WAITS_FOR_WORKER } kind;
	uint64_t generation, predecessor;
	unsigned int worker;
	int64_t began_ms;
};

/* The upgrade that runs, or ran last. */
struct upgrade {
	uint64_t generation, predecessor;
	int64_t began_ms, ended_ms;
	time_t ended;
	bool running;        /* until the commit or the report */
	bool checked;        /* the preflight command has ended well */
	char **argv;         /* NULL: as the one that serves */
	struct terms *terms; /* of the successor */
	uint64_t asker;      /* the key of the worker that asked; 0: none did */
	const char *outcome; /* NULL: none yet */
	char reason[REASON_MAX];
	char output[RELAY_TAIL_MAX + 1]; /* the last lines of the preflight command */
};

struct service {
	int argc; /* of 'segue run' */
	char **argv;
	const struct config *config; /* as at the start: name, sockets, logs */
	struct terms *first;         /* keeps that */
	struct terms *terms;         /* of the generation that was started last */
	uv_loop_t *loop;
	enum service_state state;
	int64_t began_ms, since_ms;
	time_t since;
	uv_timer_t timer, sweep;
	enum service_event pending[16];
	size_t pending_len;
	bool machine_runs;

	struct sg_origin origin; /* of the supervisor, as it was started */

	struct generation *generations; /* the oldest first */
	struct generation *serving, *starting;
	uint64_t last_number, last_key;
	uint64_t stranger_told; /* the last number when READY=1 came from no worker */
	unsigned int restarts;
	struct held *held;
	struct held *closed;  /* by a commit that may be taken back */
	struct held *unbound; /* taken back, and somebody has the address: tried again */
	uv_timer_t rebind;
	unsigned int rebind_tries;

	struct upgrade upgrade;
	char given_up[REASON_MAX]; /* why the predecessor was asked to serve again */
	struct preflight *preflight;
	struct waiter *waiters;

	struct manager *manager;
	struct inbox *inbox;
	char inbox_path[108];
	char control_path[108];
	struct relay *relay;
	struct control *control;
	struct sg_pidfile pidfile;
	bool pidfile_held;
	int null_fd, self_pidfd;
	int exit_code;
	uint64_t cut;        /* at the stop: connections closed by force, */
	unsigned int killed; /* and workers */
	bool stop_asked;
	int64_t drain_told_ms;
	uv_timer_t beat; /* "draining" to those who wait, ten times a second at most */
};

/* Every worker of a slot, whatever its place. */
#define WORKERS_OF(slot)                                             \
	{                                                            \
		(slot)->worker, (slot)->replacement, (slot)->leaving \
	}
#define WORKERS_A_SLOT 3

static inline struct service *worker_service(const struct worker *worker)
{
	return worker->slot->generation->service;
}

static inline const struct config *worker_config(const struct worker *worker)
{
	return worker->slot->generation->terms->config;
}

/* Has it been told to serve? */
static inline bool worker_is_committed(const struct worker *worker)
{
	return worker->state == WORKER_COMMITTED || worker->state == WORKER_SERVING;
}

/* start.c */
int worker_start(struct slot *slot, const struct program *program, struct worker **ret_worker,
                 char reason[static REASON_MAX]);

/* worker.c */
int worker_watch(struct worker *worker);
void worker_begin(struct worker *worker);
void worker_post(struct worker *worker, enum worker_event event);
void worker_failed(struct worker *worker, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void worker_is_ready(struct worker *worker, enum worker_kind kind);
bool worker_lives(const struct worker *worker);
void worker_free(struct worker *worker);
/* A signal to the process itself; -errno. */
int worker_signal(struct worker *worker, int signal);
/* Is the process the worker's own or one that it started? */
bool worker_owns(const struct worker *worker, pid_t pid);
/* Has its program a handler for it? */
bool worker_catches(const struct worker *worker, int signal);

/* link.c: the channel to a worker that uses libsegue */
int link_open(struct link **ret_link, struct worker *worker, int *ret_fd);
void link_close(struct link *link);
/* Reads what is there: before a death or a deadline counts. */
void link_look(struct link *link);
/* Has it ever said HELLO; can it be told anything? */
bool link_greeted(const struct link *link);
bool link_speaks(const struct link *link);
void link_greet(struct link *link);
/* -EPIPE where the worker is gone, or has missed a message. Any other failure makes it miss this
 * one, and its end follows. */
int link_send(struct link *link, const struct sg_message *message, const int *fds, size_t fds_len);
/* The same for what it can do without. */
int link_send_or_not(struct link *link, const struct sg_message *message, const int *fds,
                     size_t fds_len);

/* wrapper.c */
/* Is the worker a wrapper around another process of its session? A clause, or "". */
void wrapper_describe(const struct worker *worker, char *text, size_t size);
/* The same for one that has ended before it was ready. */
const char *wrapper_hint(const struct worker *worker);
/* Is there any other process in the session of one that is dead and not reaped? */
bool wrapper_has_others(const struct worker *worker);

/* meet.c */
void meet_all(struct worker *worker, bool as_elder);
void meet_another(struct worker *elder, struct generation *next);
void meet_left_behind(struct generation *serving);

/* slot.c */
int slot_start(struct slot *slot, const struct program *program, char *reason);
void slot_forget_restart(struct slot *slot);
void slot_restart_after(struct slot *slot, int64_t ms);

/* status.c */
json_t *status_of(struct service *service);
json_t *status_number(int64_t value);
int64_t status_left_ms(const struct worker *worker);

/* generation.c */
void generation_look(struct generation *generation);
int generation_new(struct generation **ret_generation, struct service *service, char **argv,
                   struct terms *terms);
int generation_start(struct generation *generation);
void generation_free(struct generation *generation);
void generation_greeted(struct worker *worker);
void generation_worker_ready(struct worker *worker);
void generation_worker_serves(struct worker *worker);
void generation_worker_gone(struct worker *worker);
void generation_commit(struct generation *generation);
void generation_retire(struct generation *generation);
void generation_abandon(struct generation *generation);
bool generation_resumable(const struct generation *generation);
void generation_resume(struct generation *generation);
void generation_post(struct generation *generation, enum worker_event event);
void generation_stop(struct generation *generation, enum worker_event event);
/* Is a process left, or to be started? */
bool generation_goes_on(const struct generation *generation);
/* Has every living worker that was told to serve said that it does; and one at least? */
bool generation_serves(const struct generation *generation);
bool generation_confirmed(const struct generation *generation);
int generation_replace(struct generation *generation, unsigned int index, char *reason,
                       size_t reason_size);
unsigned int generation_alive(const struct generation *generation);
void generation_counted(struct worker *worker);
bool generation_connections(const struct generation *generation, uint64_t *ret_connections,
                            uint64_t *ret_cut);
struct worker *generation_worker_of(struct service *service, pid_t pid);

/* held.c */
int held_open(struct service *service, char *reason, size_t reason_size);
void held_close(struct service *service);
size_t held_count(const struct service *service, bool own);
/* Is the number of --ready fd: none of a listener's? -EINVAL with a sentence. */
int held_check_ready(const struct service *service, const struct config *config, char *reason,
                     size_t reason_size);
void held_offer(struct service *service, struct worker *worker);
void held_take(struct service *service, struct worker *worker, const struct sg_message *message,
               int fd);
void held_wanted(struct service *service, struct worker *worker, const struct sg_message *ready);
void held_commit(struct service *service, struct generation *generation);
void held_resume(struct service *service, struct generation *generation);
void held_forget(struct service *service, uint64_t generation);
void held_forget_unbound(struct service *service);

/* leftovers.c */
/* Kills what an ended worker has left behind in sessions of its own. */
void leftovers_kill(const struct worker *worker);

/* identity.c: NULL is the supervisor's own */
bool identity_put_on(const struct sg_identity *identity);
void identity_take_off(const struct sg_identity *identity);

/* terms.c */
/* The origin has to outlive the terms. */
int terms_new_take(struct terms **ret_terms, struct config *config, const struct sg_origin *origin,
                   char *reason, size_t reason_size);
struct terms *terms_ref(struct terms *terms);
void terms_unref(struct terms *terms);
bool terms_new_command(const struct terms *before, const struct terms *now);
/* Reads the configuration file again, where there is one: else the terms stay as they are. */
int terms_again(struct terms **ret_terms, struct service *service, char *reason,
                size_t reason_size);

/* service.c */
void service_post(struct service *service, enum service_event event);
void service_failed(struct service *service, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* An upgrade is asked for: 0 when it has begun, or -EBUSY with the exact answer. */
int service_upgrade(struct service *service, char **argv, uint64_t asker, char *reason,
                    size_t reason_size);
void service_generation_gone(struct service *service, struct generation *generation);
void service_look_whether_empty(struct service *service);
void service_look_whether_confirmed(struct service *service);
/* At the stop: is nobody left but workers that do not even die of SIGKILL? */
void service_look_whether_stuck(struct service *service);
void service_checked(struct service *service);
/* How a worker that served ended, at the stop or for good: the exit code of 'segue run'. */
void service_note_exit(struct service *service, int status);
int64_t service_deadline_left(const struct service *service);

/* preflight.c: the command that is run before an upgrade */
int preflight_start(struct service *service);
void preflight_end(struct service *service);

/* desk.c: what clients ask for and are told */
extern const struct control_verbs desk_verbs;
void desk_event(struct service *service, const char *event, const struct generation *generation,
                const struct worker *worker, const char *text);
void desk_draining(struct service *service, bool at_once);
void desk_upgrade_ended(struct service *service, enum control_exit code, const char *outcome,
                        const char *message);
void desk_serving(struct service *service, const struct generation *successor);
/* The drain of a worker is ended by force, and why. */
void desk_cut(struct worker *worker, enum worker_event event);
void desk_taken_back(struct service *service, uint64_t failed, uint64_t back, const char *message);
void desk_generation_gone(struct service *service, const struct generation *generation);
/* reason: why not; NULL where it was. */
void desk_worker_replaced(const struct slot *slot, const char *reason);
void desk_leave(struct service *service);

#endif
