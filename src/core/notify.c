/* SPDX-License-Identifier: MIT */
/*
 * Datagrams to the service manager. A full queue is waited for briefly: READY=1 or MAINPID=
 * that was dropped would end the service.
 */
#include "core/notify.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_MS 250

static int connect_to(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;
	size_t len = strlen(name);

	if ((name[0] != '/' && name[0] != '@') || len < 2 || len >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, name, len);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	fd = sg_fd_above_stdio_take(fd);
	if (connect(fd, (struct sockaddr *)&address,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len +
	                        (name[0] == '/' ? 1 : 0))) < 0)
		return -errno;
	return sg_fd_steal(&fd);
}

static int64_t read_watchdog(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	long long value = usec != NULL ? strtoll(usec, NULL, 10) : 0;

	if (value <= 0)
		return 0;
	/* A predecessor writes its successor's pid there. */
	if (pid != NULL && strtol(pid, NULL, 10) != (long)getpid())
		return 0;
	return value;
}

int sg_notify_open(struct sg_notify *ret_notify)
{
	const char *name = getenv("NOTIFY_SOCKET");
	int fd;

	*ret_notify = (struct sg_notify){ .fd = -1 };
	if (name == NULL || name[0] == '\0')
		return 0;
	fd = connect_to(name);
	if (fd < 0)
		return fd;
	ret_notify->fd = fd;
	ret_notify->watchdog_us = read_watchdog();
	return 0;
}

void sg_notify_close(struct sg_notify *notify)
{
	notify->fd = sg_fd_close(notify->fd);
}

int sg_notify_send(struct sg_notify *notify, const char *text, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct pollfd poller = { .fd = notify->fd, .events = POLLOUT };

	if (notify->fd < 0)
		return 0;
	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	for (int tries = 0;; tries++) {
		if (sendmsg(notify->fd, &msg, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || tries > 0 || poll(&poller, 1, PATIENCE_MS) <= 0)
			return -errno;
	}
}

int sg_notify_barrier(struct sg_notify *notify)
{
	SG_CLEANUP(sg_fd_cleanup) int theirs = -1;
	int fds[2], r;

	if (notify->fd < 0)
		return -ENOTCONN;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	fds[0] = sg_fd_above_stdio_take(fds[0]);
	theirs = sg_fd_above_stdio_take(fds[1]);
	r = fds[0] < 0 || theirs < 0 ? -EMFILE : sg_notify_send(notify, "BARRIER=1", theirs);
	if (r < 0) {
		sg_fd_close(fds[0]);
		return r;
	}
	return fds[0];
}
