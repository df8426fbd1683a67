/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's own service manager: sd_notify(3) with READY, RELOADING, STATUS, STOPPING,
 * WATCHDOG and FDSTORE, and the sockets that it passed (LISTEN_FDS): by socket activation, or back
 * out of its store.
 *
 * Nothing here waits: while the manager does not read, up to 64 messages are kept and sent when it
 * does; beyond that the oldest is given up. Where nobody listens everything is a no-op.
 */
#ifndef SEGUE_COMMAND_MANAGER_H
#define SEGUE_COMMAND_MANAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct manager;

/* A socket that was passed to this process. */
struct manager_socket {
	char name[256]; /* FileDescriptorName=, or the name it was stored under */
	bool stored;    /* put into the store by an earlier supervisor of this service */
	int fd;         /* close-on-exec, non-blocking; the taker's */
};

/*
 * Reads and removes NOTIFY_SOCKET, WATCHDOG_*, LISTEN_*, FDSTORE and SYSTEMD_EXEC_PID from the
 * environment; a manager object is there even where nobody listens. -EINVAL with a sentence where a
 * value is malformed. Answers the watchdog from now on, as long as the loop turns.
 */
int manager_open(struct manager **ret_manager, uv_loop_t *loop, char *reason, size_t reason_size);

/* The loop has to run once more. What was stored stays there, so that clients wait in the queue
 * while the manager restarts the service. NULL is welcome. */
void manager_close(struct manager *manager);

/* Takes the next socket that was passed: true, or false when there is none left. One that was
 * both stored and passed by a socket unit comes once. */
bool manager_take_socket(struct manager *manager, struct manager_socket *ret_socket);

/* status: one line for 'systemctl status'; NULL: unchanged. */
void manager_ready(struct manager *manager, const char *status);
void manager_reloading(struct manager *manager, const char *status);
void manager_status(struct manager *manager, const char *status);
void manager_stopping(struct manager *manager, const char *status);
/* Asks for so much more time, from now. For a start, an upgrade and a stop that goes on more time
 * is asked for anyway, every five seconds, until READY=1 or manager_give_up(). */
void manager_extend(struct manager *manager, int64_t ms);
/* No more time is asked for: what is waited for has no end by itself. */
void manager_give_up(struct manager *manager);

/* Puts a listener into the manager's store, where it has one, under its name; a socket that the
 * manager holds already is left out. 0, or -ENAMETOOLONG. Takes it out. */
int manager_store(struct manager *manager, const char *name, int fd);
void manager_unstore(struct manager *manager, const char *name);

#endif
