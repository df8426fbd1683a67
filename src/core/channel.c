/* SPDX-License-Identifier: MIT */
/*
 * Message passing. A truncated control message has already installed some of its
 * descriptors: they are closed here, so that a message is taken whole or not at all.
 */
#include "core/channel.h"
#include "core/fd.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SOCKET_BUFFER (4 * SG_WIRE_MAX)

struct sg_outgoing {
	struct sg_outgoing *next;
	size_t len, fds_len;
	int fds[SG_WIRE_FDS_MAX];
	uint8_t bytes[];
};

int sg_channel_pair(int ret_fds[2])
{
	int size = SOCKET_BUFFER;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		fds[i] = sg_fd_above_stdio_take(fds[i]);
		/* Without it a system with a small default could not send the largest message. */
		if (fds[i] >= 0)
			(void)setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	if (fds[0] < 0 || fds[1] < 0) {
		sg_fd_close(fds[0]);
		sg_fd_close(fds[1]);
		return -EMFILE;
	}
	ret_fds[0] = fds[0];
	ret_fds[1] = fds[1];
	return 0;
}

void sg_channel_init_take(struct sg_channel *channel, int fd)
{
	*channel = (struct sg_channel){ .fd = fd };
	channel->last = &channel->first;
}

static void outgoing_free(struct sg_outgoing *outgoing)
{
	for (size_t i = 0; i < outgoing->fds_len; i++)
		sg_fd_close(outgoing->fds[i]);
	free(outgoing);
}

void sg_channel_done(struct sg_channel *channel)
{
	struct sg_outgoing *next;

	if (channel->last == NULL)
		return;
	for (; channel->first != NULL; channel->first = next) {
		next = channel->first->next;
		outgoing_free(channel->first);
	}
	channel->last = &channel->first;
	channel->queued = 0;
	channel->fd = sg_fd_close(channel->fd);
}

static int send_now(int fd, const uint8_t *bytes, size_t len, const int *fds, size_t fds_len)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(SG_WIRE_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fds_len > 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fds_len * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fds_len * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, fds_len * sizeof(int));
	}
	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* Memory, or descriptors in flight, of the whole user: the socket stays writable, and a wait
 * for it would spin. */
bool sg_channel_passes(int error)
{
	return error == -ENOBUFS || error == -ENOMEM || error == -ETOOMANYREFS;
}

static int enqueue(struct sg_channel *channel, const uint8_t *bytes, size_t len, const int *fds,
                   size_t fds_len)
{
	struct sg_outgoing *outgoing = malloc(sizeof(*outgoing) + len);

	if (outgoing == NULL)
		return -ENOMEM;
	outgoing->next = NULL;
	outgoing->len = len;
	memcpy(outgoing->bytes, bytes, len);
	for (outgoing->fds_len = 0; outgoing->fds_len < fds_len; outgoing->fds_len++) {
		int copy = sg_fd_dup(fds[outgoing->fds_len]);

		if (copy < 0) {
			outgoing_free(outgoing);
			return copy;
		}
		outgoing->fds[outgoing->fds_len] = copy;
	}
	*channel->last = outgoing;
	channel->last = &outgoing->next;
	channel->queued++;
	channel->enqueued++;
	return 0;
}

/* Encodes into a buffer that serves until the next message. */
static ssize_t encode(const struct sg_channel *channel, const struct sg_message *message,
                      size_t fds_len, uint8_t **ret_buffer)
{
	static __thread uint8_t buffer[SG_WIRE_MAX];

	if (channel->fd < 0)
		return -EPIPE;
	if (fds_len > SG_WIRE_FDS_MAX)
		return -EMSGSIZE;
	*ret_buffer = buffer;
	return sg_wire_encode(buffer, message);
}

static int try_encoded(struct sg_channel *channel, const uint8_t *buffer, size_t len,
                       const int *fds, size_t fds_len)
{
	int r = channel->first == NULL ? send_now(channel->fd, buffer, len, fds, fds_len) : -EAGAIN;

	return r == -ECONNRESET ? -EPIPE : r;
}

int sg_channel_try(struct sg_channel *channel, const struct sg_message *message, const int *fds,
                   size_t fds_len)
{
	uint8_t *buffer;
	ssize_t len = encode(channel, message, fds_len, &buffer);

	return len < 0 ? (int)len : try_encoded(channel, buffer, (size_t)len, fds, fds_len);
}

int sg_channel_send(struct sg_channel *channel, const struct sg_message *message, const int *fds,
                    size_t fds_len)
{
	uint8_t *buffer;
	ssize_t len = encode(channel, message, fds_len, &buffer);
	int r;

	if (len < 0)
		return (int)len;
	r = try_encoded(channel, buffer, (size_t)len, fds, fds_len);
	if (r == -EAGAIN || sg_channel_passes(r))
		return enqueue(channel, buffer, (size_t)len, fds, fds_len);
	return r;
}

int sg_channel_flush(struct sg_channel *channel)
{
	while (channel->first != NULL) {
		struct sg_outgoing *first = channel->first;
		int r = send_now(channel->fd, first->bytes, first->len, first->fds, first->fds_len);

		if (r < 0)
			return r == -ECONNRESET ? -EPIPE : r;
		channel->first = first->next;
		if (channel->first == NULL)
			channel->last = &channel->first;
		channel->queued--;
		outgoing_free(first);
	}
	return 0;
}

static size_t collect_fds(struct msghdr *msg, int *fds)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (count < SG_WIRE_FDS_MAX)
				fds[count++] = fd;
			else
				sg_fd_close(fd);
		}
	}
	return count;
}

static void close_all(int *fds, size_t *fds_len)
{
	for (size_t i = 0; i < *fds_len; i++)
		sg_fd_close(fds[i]);
	*fds_len = 0;
}

/* Descriptors 0, 1 and 2 can come where the program was started without them. */
static int lift_all(int *fds, size_t fds_len)
{
	int r = 0;

	for (size_t i = 0; i < fds_len; i++) {
		fds[i] = sg_fd_above_stdio_take(fds[i]);
		if (fds[i] < 0)
			r = -EMFILE;
	}
	return r;
}

/*
 * A peer that went with messages of ours unread leaves ECONNRESET, and the kernel reports it
 * once, before what the peer had sent: only the end of the file is the end. Where there is no
 * memory for a message it stays where it is, and is read when the socket is looked at again.
 */
static ssize_t receive_now(int fd, struct msghdr *msg)
{
	ssize_t n;

	do {
		n = recvmsg(fd, msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0 && (errno == ENOMEM || errno == ENOBUFS))
		return -EAGAIN;
	return n < 0 ? -errno : n;
}

int sg_channel_receive(struct sg_channel *channel, uint8_t *buffer, struct sg_message *ret_message,
                       int *ret_fds, size_t *ret_fds_len)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(SG_WIRE_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = buffer, .iov_len = SG_WIRE_MAX };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control) };
	int expected, lifted, r;
	ssize_t n;

	*ret_fds_len = 0;
	if (channel->fd < 0)
		return -EPIPE;
	n = receive_now(channel->fd, &msg);
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	*ret_fds_len = collect_fds(&msg, ret_fds);
	if (n == 0 && *ret_fds_len == 0)
		return -EPIPE;
	lifted = lift_all(ret_fds, *ret_fds_len);
	/* Decoded in any case: who cannot take a batch has to say which. */
	r = sg_wire_decode(ret_message, buffer, (size_t)n);
	if (msg.msg_flags & MSG_TRUNC)
		r = -EPROTO;
	if (r == 0 && (lifted < 0 || (msg.msg_flags & MSG_CTRUNC)))
		r = -EMFILE;
	if (r == 0) {
		expected = sg_wire_fds(ret_message->type);
		if (expected < 0)
			expected = (int)ret_message->count;
		if ((size_t)expected != *ret_fds_len)
			r = -EPROTO;
	}
	if (r < 0)
		close_all(ret_fds, ret_fds_len);
	return r < 0 ? r : 1;
}
