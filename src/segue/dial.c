/* SPDX-License-Identifier: MIT */
/*
 * Who listens on the socket is known from the kernel: SO_PEERCRED of a connection names the
 * process that called listen(), which is the supervisor.
 */
#include "segue/dial.h"
#include "core/address.h"
#include "core/fd.h"
#include "segue/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MAX_BYTES (8UL * 1024 * 1024)

void dial_init(struct dial *dial)
{
	*dial = (struct dial){ .fd = -1, .pidfd = -1 };
}

static void identify(struct dial *dial)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(dial->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 0)
		return;
	dial->pid = peer.pid;
	dial->pidfd = sg_pidfd_open(peer.pid);
}

int dial_open(struct dial *dial, const char *path, int wait_ms)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct timeval wait = { .tv_sec = wait_ms / 1000, .tv_usec = wait_ms % 1000 * 1000L };
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;

	dial_init(dial);
	if (strlen(path) >= sizeof(name.sun_path))
		return -ENAMETOOLONG;
	strcpy(name.sun_path, path);
	strcpy(dial->path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (wait_ms == 0 ? SOCK_NONBLOCK : 0), 0);
	if (fd < 0)
		return -errno;
	/* connect() waits for room in the queue as long as this says. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0)
		return -errno;
	/* With that a stop and SIGCONT interrupt it: the connection was not begun. */
	while (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0)
		if (errno != EINTR)
			return -errno;
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	dial->fd = sg_fd_steal(&fd);
	identify(dial);
	return 0;
}

void dial_close(struct dial *dial)
{
	dial->fd = sg_fd_close(dial->fd);
	dial->pidfd = sg_fd_close(dial->pidfd);
	free(dial->buffer);
	dial_init(dial);
}

int dial_say(struct dial *dial, const char *line, int wait_ms)
{
	size_t len = strlen(line), sent = 0;
	int64_t deadline = sg_now_ms() + wait_ms;

	while (sent < len) {
		struct pollfd room = { .fd = dial->fd, .events = POLLOUT };
		ssize_t n = send(dial->fd, line + sent, len - sent, MSG_NOSIGNAL);
		int64_t left = deadline - sg_now_ms();

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0 && (left <= 0 || (poll(&room, 1, (int)left) < 0 && errno != EINTR)))
			return -EAGAIN;
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int make_room(struct dial *dial)
{
	size_t wanted = dial->size > 0 ? dial->size * 2 : 4096;
	char *larger;

	if (dial->len < dial->size)
		return 0;
	if (wanted > LINE_MAX_BYTES)
		return -EMSGSIZE;
	larger = realloc(dial->buffer, wanted);
	if (larger == NULL)
		return -ENOMEM;
	dial->buffer = larger;
	dial->size = wanted;
	return 0;
}

static void drop_taken(struct dial *dial)
{
	dial->len -= dial->taken;
	if (dial->taken > 0)
		memmove(dial->buffer, dial->buffer + dial->taken, dial->len);
	dial->taken = 0;
}

int dial_read(struct dial *dial)
{
	ssize_t n;
	int r;

	drop_taken(dial);
	r = make_room(dial);
	if (r < 0)
		return r;
	n = recv(dial->fd, dial->buffer + dial->len, dial->size - dial->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -EPIPE;
	dial->len += (size_t)n;
	return 0;
}

const char *dial_line(struct dial *dial)
{
	char *newline;

	drop_taken(dial);
	newline = dial->len > 0 ? memchr(dial->buffer, '\n', dial->len) : NULL;
	if (newline == NULL)
		return NULL;
	*newline = '\0';
	dial->taken = (size_t)(newline - dial->buffer) + 1;
	return dial->buffer;
}

/* Finding a service. */

struct search {
	unsigned int count; /* of those that answer */
	char path[PATHS_MAX];
	char names[DIAL_REASON_MAX / 2];
};

/* A socket file that nobody listens on is no service. */
static int look_at(void *ctx, const char *name, const char *path)
{
	struct search *search = ctx;
	size_t len = strlen(search->names);
	struct dial dial;
	int r = dial_open(&dial, path, 0);

	dial_close(&dial);
	if (r < 0 && r != -EAGAIN)
		return 0;
	search->count++;
	snprintf(search->path, sizeof(search->path), "%s", path);
	snprintf(search->names + len, sizeof(search->names) - len, "%s%s", len > 0 ? ", " : "",
	         name);
	return 0;
}

__attribute__((format(printf, 3, 4))) static int refuse(int code, char *reason, const char *format,
                                                        ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, DIAL_REASON_MAX, format, arguments);
	va_end(arguments);
	return code;
}

/* A user sees the services of that user alone. */
static const char *whose(void)
{
	return geteuid() == 0 ? "" : "; those of root and of other users are seen by them only";
}

static int find_only(char *ret_path, const struct search *search, const char *folder, char *reason)
{
	if (search->count == 0)
		return refuse(EXIT_NO_SERVICE, reason, "no service runs (looked in %s)%s", folder,
		              whose());
	if (search->count > 1)
		return refuse(EXIT_USAGE, reason, "%u services run: %s; name one of them",
		              search->count, search->names);
	strcpy(ret_path, search->path);
	return 0;
}

int dial_find(char ret_path[static PATHS_MAX], const char *service,
              char reason[static DIAL_REASON_MAX])
{
	struct search search = { 0 };
	char folder[PATHS_MAX];
	struct dial dial;
	int r = paths_folder(folder, sizeof(folder));

	if (service != NULL && !sg_name_valid(service))
		return refuse(EXIT_USAGE, reason,
		              "'%.64s' is no name of a service: those are 1 to 63 of a-z, 0-9, '_' "
		              "and '-'",
		              service);
	if (r < 0)
		return refuse(EXIT_NO_SERVICE, reason,
		              "neither SEGUE_RUNTIME_DIR nor XDG_RUNTIME_DIR names the folder of "
		              "the services (see --control)");
	if (service == NULL) {
		paths_each(look_at, &search);
		return find_only(ret_path, &search, folder, reason);
	}
	r = paths_control(ret_path, PATHS_MAX, service);
	if (r == 0)
		r = dial_open(&dial, ret_path, 0);
	if (r == 0)
		dial_close(&dial);
	if (r != -ENOENT && r != -ECONNREFUSED && r != -ENAMETOOLONG)
		return 0;
	paths_each(look_at, &search);
	if (search.count == 0)
		return refuse(EXIT_NO_SERVICE, reason,
		              "service '%s' does not run, nor does another (looked in %s)%s",
		              service, folder, whose());
	return refuse(EXIT_NO_SERVICE, reason, "service '%s' does not run; %s: %s", service,
	              search.count == 1 ? "one does" : "these do", search.names);
}
