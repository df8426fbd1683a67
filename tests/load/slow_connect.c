/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into segue-load: connect() returns as it would, but only after the peer has reset the
 * connection, so that the client finds the reset when it asks whether the connection is made.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

__attribute__((visibility("default"))) int connect(int fd, const struct sockaddr *addr,
                                                   socklen_t len)
{
	int (*real)(int, const struct sockaddr *, socklen_t);
	struct pollfd wait = { .fd = fd, .events = 0 };
	int r, error;

	*(void **)&real = dlsym(RTLD_NEXT, "connect");
	r = real(fd, addr, len);
	error = errno;
	/* Hanging up is always waited for. */
	poll(&wait, 1, 20000);
	errno = error;
	return r;
}
