/* SPDX-License-Identifier: MIT */
/*
 * See inbox.h. Whoever may reach the path may write to it: what does not parse is dropped
 * without a word, descriptors are closed, and a wakeup takes so many messages and no more.
 */
#include "segue/inbox.h"

#include "core/fd.h"
#include "segue/printable.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT_MAX   4096
#define STATUS_MAX 255
#define FDS_MAX    253
#define WAKEUP_MAX 64   /* messages, before others of the loop have their turn */
#define LOOK_MAX   4096 /* messages: more than the kernel queues, and an end under a flood */

struct inbox {
	uv_poll_t poll;
	int fd; /* -1: closed, freed when libuv lets go of the handle */
	struct sockaddr_un address;
	dev_t dev;
	ino_t ino;
	void (*deliver)(void *ctx, const struct inbox_message *message);
	void *ctx;
};

struct envelope {
	char text[TEXT_MAX + 1];
	pid_t pid;
	bool whole;
};

/* Descriptors are not wanted: closing a BARRIER's is the answer to it, since messages are
 * taken in order. */
static void close_rights(struct cmsghdr *cmsg)
{
	size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int fd;

	for (size_t i = 0; i < count; i++) {
		memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
		sg_fd_close(fd);
	}
}

static pid_t read_control(struct msghdr *msg)
{
	struct ucred cred = { 0 };

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS)
			close_rights(c);
		if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(cred)))
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
	}
	return cred.pid;
}

/* 1 with a message, which may be none of ours (not whole); 0 where there is none. */
static int take(struct inbox *inbox, struct envelope *ret_envelope)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret_envelope->text, .iov_len = TEXT_MAX };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control.space) };
	ssize_t n;

	do
		n = recvmsg(inbox->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return 0;
	ret_envelope->pid = read_control(&msg);
	/* One zero byte at the end is let pass, as systemd does. */
	if (n > 0 && ret_envelope->text[n - 1] == '\0')
		n--;
	ret_envelope->text[n] = '\0';
	ret_envelope->whole = !(msg.msg_flags & MSG_TRUNC) && ret_envelope->pid > 0 &&
	                      memchr(ret_envelope->text, '\0', (size_t)n) == NULL;
	return 1;
}

static bool parse_line(struct inbox_message *message, char *line)
{
	size_t len = strlen(line);

	if (strcmp(line, "READY=1") == 0) {
		message->ready = true;
	} else if (strcmp(line, "STOPPING=1") == 0) {
		message->stopping = true;
	} else if (strcmp(line, "RELOADING=1") == 0) {
		message->reloading = true;
	} else if (strcmp(line, "WATCHDOG=1") == 0) {
		message->watchdog = true;
	} else if (strncmp(line, "STATUS=", 7) == 0) {
		printable_make(line + 7, len - 7, false);
		line[7 + printable_cut(line + 7, STATUS_MAX)] = '\0';
		message->status = line + 7;
	} else {
		return false;
	}
	return true;
}

static void open_envelope(struct inbox *inbox, struct envelope *envelope)
{
	struct inbox_message message = { .pid = envelope->pid };
	char *rest = envelope->text, *line;
	bool said = false;

	while ((line = strsep(&rest, "\n")) != NULL)
		if (parse_line(&message, line))
			said = true;
	if (said)
		inbox->deliver(inbox->ctx, &message);
}

/* The receiver may close the inbox out of a delivery: fd then is -1, the memory still there. */
static void empty(struct inbox *inbox, unsigned int max)
{
	struct envelope envelope;

	while (max-- > 0 && inbox->fd >= 0 && take(inbox, &envelope) > 0)
		if (envelope.whole)
			open_envelope(inbox, &envelope);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	empty(poll->data, WAKEUP_MAX);
}

void inbox_look(struct inbox *inbox)
{
	empty(inbox, LOOK_MAX);
}

/* Does anybody have the socket at the path? Errors other than "refused" are not proof that
 * nobody has. */
static bool is_stale(const struct sockaddr_un *address)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
		return false;
	return fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
	       errno == ECONNREFUSED;
}

/* The umask belongs to the whole process; nothing else runs between the two calls. */
static int bind_open_to_all(int fd, const struct sockaddr_un *address)
{
	mode_t before;
	int r;

	if (fchmod(fd, 0666) < 0)
		return -errno;
	before = umask(0);
	r = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
	umask(before);
	return r;
}

static int bind_path(struct inbox *inbox)
{
	struct stat st;
	int r = bind_open_to_all(inbox->fd, &inbox->address);

	if (r == -EADDRINUSE && is_stale(&inbox->address) && unlink(inbox->address.sun_path) == 0)
		r = bind_open_to_all(inbox->fd, &inbox->address);
	if (r < 0)
		return r;
	if (lstat(inbox->address.sun_path, &st) < 0)
		return -errno;
	inbox->dev = st.st_dev;
	inbox->ino = st.st_ino;
	return 0;
}

static void unlink_own(const struct inbox *inbox)
{
	struct stat st;

	if (lstat(inbox->address.sun_path, &st) == 0 && st.st_dev == inbox->dev &&
	    st.st_ino == inbox->ino)
		unlink(inbox->address.sun_path);
}

static int listen_on(struct inbox *inbox, uv_loop_t *loop)
{
	const int on = 1;
	int r;

	inbox->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (inbox->fd < 0)
		return -errno;
	inbox->fd = sg_fd_above_stdio_take(inbox->fd);
	if (inbox->fd < 0)
		return inbox->fd;
	if (setsockopt(inbox->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return -errno;
	r = bind_path(inbox);
	if (r < 0)
		return r;
	r = uv_poll_init(loop, &inbox->poll, inbox->fd);
	if (r < 0)
		unlink_own(inbox);
	return r;
}

int inbox_open(struct inbox **ret_inbox, uv_loop_t *loop, const char *path,
               void (*deliver)(void *ctx, const struct inbox_message *message), void *ctx,
               char *reason, size_t reason_size)
{
	struct inbox *inbox = calloc(1, sizeof(*inbox));
	int r = inbox == NULL ? -ENOMEM : 0;

	if (r == 0 && strlen(path) >= sizeof(inbox->address.sun_path))
		r = -ENAMETOOLONG;
	if (r == 0) {
		inbox->fd = -1;
		inbox->address.sun_family = AF_UNIX;
		strcpy(inbox->address.sun_path, path);
		inbox->deliver = deliver;
		inbox->ctx = ctx;
		r = listen_on(inbox, loop);
	}
	if (r < 0) {
		snprintf(reason, reason_size, "the socket for notifications %s: %s", path,
		         strerror(-r));
		if (inbox != NULL)
			sg_fd_close(inbox->fd);
		free(inbox);
		return r;
	}
	inbox->poll.data = inbox;
	uv_poll_start(&inbox->poll, UV_READABLE, on_readable);
	*ret_inbox = inbox;
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void inbox_close(struct inbox *inbox)
{
	if (inbox == NULL)
		return;
	unlink_own(inbox);
	uv_close((uv_handle_t *)&inbox->poll, on_closed);
	inbox->fd = sg_fd_close(inbox->fd);
}
