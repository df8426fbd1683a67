/* SPDX-License-Identifier: MIT */
/* Where connections go to: the address of the URL, looked up once. */
#ifndef LOAD_TARGET_H
#define LOAD_TARGET_H

#include "options.h"

#include <sys/socket.h>

struct target {
	struct sockaddr_storage address;
	socklen_t size;
};

/**
 * target_find - looks the host up, or takes the path of the socket
 *
 * Returns: 0, or -ENOENT and @ret_why. Where a host has several addresses the first one of
 *          getaddrinfo(3) is taken.
 * Blocks:  as long as getaddrinfo(3)
 */
int target_find(const struct options *options, struct target *ret_target, const char **ret_why);

/**
 * target_connect - a new non-blocking socket, on its way to the target
 * @receive_bytes: for a small receive buffer; 0 for the usual one
 *
 * Returns: 0 when it is connected, -EINPROGRESS when the socket will say so, -EAGAIN when the
 *          backlog of a unix socket is full (target_connect_again() later); with these three
 *          @ret_fd is the caller's. Else the reason, and no socket. -EMFILE, -ENFILE, -ENOMEM,
 *          -ENOBUFS and -EADDRNOTAVAIL are limits of this machine.
 */
int target_connect(const struct target *target, int receive_bytes, int *ret_fd);

/** target_connect_again - after -EAGAIN; returns as target_connect() does, never closes @fd */
int target_connect_again(const struct target *target, int fd);

#endif
