/* SPDX-License-Identifier: MIT */
/*
 * See relay_output.h. O_NONBLOCK belongs to the open file, which the operator's shell and the
 * supervisor share: a pipe or a terminal is opened once more by its name in /proc instead. Where
 * that may not be, the kernel is asked for room before each write of a page.
 * Source: pipe(7), proc(5)
 */
#include "segue/relay_output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

void relay_output_init(struct relay_output *ret_output, int fd)
{
	struct relay_output output = { .fd = fd };
	struct stat st;
	char path[40];
	int again;

	if (fstat(fd, &st) < 0)
		output.dead = true;
	else if (S_ISSOCK(st.st_mode))
		output.socket = true;
	else if (!S_ISREG(st.st_mode))
		output.careful = true;
	if (output.careful) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		again = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (again >= 0) {
			output.fd = again;
			output.own = true;
			output.careful = false;
		}
	}
	*ret_output = output;
}

static bool has_room(const struct relay_output *output)
{
	struct pollfd poller = { .fd = output->fd, .events = POLLOUT };

	return poll(&poller, 1, 0) == 1;
}

static ssize_t write_some(const struct relay_output *output, const char *data, size_t len)
{
	ssize_t n;

	if (output->careful && !has_room(output))
		return -EAGAIN;
	if (output->careful && len > PIPE_BUF)
		len = PIPE_BUF;
	do
		n = output->socket ? send(output->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
		                   : write(output->fd, data, len);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* How much was written, or lost for ever: a full disk must not stop the workers. */
static size_t write_all(struct relay_output *output, const char *data, size_t len)
{
	size_t at = 0;

	while (at < len && !output->dead) {
		ssize_t n = write_some(output, data + at, len - at);

		if (n == -EAGAIN)
			return at;
		if (n == -ENOSPC || n == -EDQUOT || n == -EFBIG)
			return len;
		if (n < 0)
			output->dead = true;
		else
			at += (size_t)n;
	}
	return len;
}

void relay_output_write(struct relay_output *output, const char *data, size_t len)
{
	size_t done = write_all(output, data, len);

	if (done == len)
		return;
	output->rest = malloc(len - done);
	if (output->rest == NULL)
		return;
	output->rest_len = len - done;
	memcpy(output->rest, data + done, len - done);
}

void relay_output_flush(struct relay_output *output)
{
	size_t done = write_all(output, output->rest, output->rest_len);

	output->rest_len -= done;
	memmove(output->rest, output->rest + done, output->rest_len);
	if (output->rest_len == 0) {
		free(output->rest);
		output->rest = NULL;
	}
}

/* A pipe has one number for both of its ends; a terminal and a socket have one for each. */
uint64_t relay_output_unread(const struct relay_output *output)
{
	struct stat st;
	int count = 0;

	if (output->fd < 0 || fstat(output->fd, &st) < 0 ||
	    ioctl(output->fd, S_ISFIFO(st.st_mode) ? FIONREAD : TIOCOUTQ, &count) < 0)
		return 0;
	return count > 0 ? (uint64_t)count : 0;
}
