/* SPDX-License-Identifier: MIT */
/*
 * Listening sockets: bound fresh, or inherited and verified before use.
 *
 * A unix path belongs to the service, not to a process: it is replaced only when nothing
 * answers on it, and unlinked only by the last generation, and only if the file is still the
 * one that was bound.
 */
#ifndef SG_CORE_LISTENER_H
#define SG_CORE_LISTENER_H

#include "core/address.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sg_bind_options {
	int backlog; /* 0: SOMAXCONN */
	bool v6only;
	unsigned int mode; /* 0: 0777 less the umask */
	const char *owner; /* NULL: unchanged */
	const char *group;
	bool reuseport;
};

/* Which file a unix listener made. */
struct sg_file_id {
	uint64_t dev, ino; /* both 0: none */
};

/*
 * Binds and listens: a non-blocking, close-on-exec descriptor of 3 or more, or -errno with a
 * sentence in reason. ret_file is set for a unix path, zero otherwise.
 */
int sg_listener_bind(const struct sg_address *address, const struct sg_bind_options *options,
                     struct sg_file_id *ret_file, char *reason, size_t reason_size);

/*
 * Is this socket what a listener of the address should be (socket, type, listening state,
 * local address)? 0, or -errno with a sentence in reason.
 */
int sg_listener_verify(int fd, const struct sg_address *address, char *reason, size_t reason_size);

/* Is fd a listening or bound socket at all? 0, or -errno with a sentence in reason. */
int sg_listener_is_socket(int fd, char *reason, size_t reason_size);

/* Does an address mean something else there than here: is the socket of another network namespace?
 * A path does not. */
bool sg_listener_is_elsewhere(int fd);

/* The file at a unix path, if it is there; zero otherwise. */
struct sg_file_id sg_listener_file(const char *path);

/* Unlinks the path if it is still the file that was bound. */
void sg_listener_unlink(const char *path, struct sg_file_id file);

/* Does an IPv6 socket serve IPv6 alone? */
bool sg_listener_is_v6only(int fd);

/* The text of what a socket is bound to. */
int sg_listener_text(int fd, char *text, size_t size);

#endif
