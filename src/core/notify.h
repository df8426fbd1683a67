/* SPDX-License-Identifier: MIT */
/*
 * The service manager's notification socket, without libsystemd.
 * Source: sd_notify(3)
 */
#ifndef SG_CORE_NOTIFY_H
#define SG_CORE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sg_notify {
	int fd;              /* -1: nobody listens */
	int64_t watchdog_us; /* 0: none */
};

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. -EINVAL where the socket's name is
 * malformed. */
int sg_notify_open(struct sg_notify *ret_notify);

void sg_notify_close(struct sg_notify *notify);

/* Sends one message, with one descriptor where fd is not negative. 0 also where nobody
 * listens; -errno where the manager does not take it within a quarter of a second. */
int sg_notify_send(struct sg_notify *notify, const char *text, int fd);

/* Sends a barrier: a descriptor that hangs up when all earlier messages were processed, or
 * -ENOTCONN where nobody listens. */
int sg_notify_barrier(struct sg_notify *notify);

#endif
