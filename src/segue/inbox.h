/* SPDX-License-Identifier: MIT */
/*
 * NOTIFY_SOCKET for the workers: a datagram socket on which they say READY=1, STATUS=...,
 * as they would to systemd. The kernel says who the sender is (SCM_CREDENTIALS).
 * Source: sd_notify(3)
 */
#ifndef SEGUE_COMMAND_INBOX_H
#define SEGUE_COMMAND_INBOX_H

#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

struct inbox;

struct inbox_message {
	pid_t pid; /* the sender */
	bool ready, stopping, reloading, watchdog;
	const char *status; /* NULL: not said; printable, 255 bytes at most */
};

/* Binds the path, mode 0666 (senders are judged by their pid). A BARRIER's descriptor is
 * closed once what came before it has been delivered. */
int inbox_open(struct inbox **ret_inbox, uv_loop_t *loop, const char *path,
               void (*deliver)(void *ctx, const struct inbox_message *message), void *ctx,
               char *reason, size_t reason_size);
void inbox_close(struct inbox *inbox);

/* Delivers what has come and not yet been dispatched: before a death or a deadline counts. */
void inbox_look(struct inbox *inbox);

#endif
