/* SPDX-License-Identifier: MIT */
/*
 * See relay_message.h.
 */
#include "segue/relay_message.h"

#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(2 * sizeof(int))];
};

int relay_log_open(const char *log_file)
{
	int fd = open(log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);

	return fd < 0 ? -errno : sg_fd_above_stdio_take(fd);
}

int relay_message_send(int fd, const struct relay_message *message, const int *fds)
{
	struct iovec iov = { .iov_base = (void *)message,
		             .iov_len =
		                     offsetof(struct relay_message, text) + strlen(message->text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control control = { 0 };

	if (fds != NULL) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, 2 * sizeof(int));
	}
	while (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int relay_message_receive(int fd, struct relay_message *ret_message, int ret_fds[2])
{
	struct iovec iov = { .iov_base = ret_message, .iov_len = sizeof(*ret_message) - 1 };
	union control control;
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control.space) };
	struct cmsghdr *cmsg;
	ssize_t n;

	ret_fds[0] = ret_fds[1] = -1;
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	/* Without memory for it a message stays where it is. */
	if (n < 0 && (errno == EAGAIN || errno == ENOMEM || errno == ENOBUFS))
		return 0;
	if (n < (ssize_t)offsetof(struct relay_message, text))
		return -EPIPE;
	((char *)ret_message)[n] = '\0';
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg != NULL && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	return 1;
}
