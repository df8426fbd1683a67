/* SPDX-License-Identifier: MIT */
/*
 * The service manager's socket: a real datagram socket at the other end, by path and by
 * abstract name.
 */
#include "unit.h"

#include "core/notify.h"

#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

/* A manager that listens; its path is in the fresh folder where it is none of the abstract. */
struct manager {
	int fd;
	char folder[64], name[108];
};

static struct manager manager_open(bool abstract)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct manager manager = { .folder = "/tmp/segue-unit-XXXXXX" };
	size_t len;

	CHECK(mkdtemp(manager.folder) != NULL);
	len = (size_t)snprintf(manager.name, sizeof(manager.name), "%s%s/notify",
	                       abstract ? "@" : "", manager.folder);
	memcpy(address.sun_path, manager.name, len);
	if (abstract)
		address.sun_path[0] = '\0';
	manager.fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(bind(manager.fd, (struct sockaddr *)&address,
	          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)));
	MUST(setenv("NOTIFY_SOCKET", manager.name, 1));
	return manager;
}

static void manager_close(struct manager *manager)
{
	MUST(close(manager->fd));
	if (manager->name[0] == '/')
		MUST(unlink(manager->name));
	MUST(rmdir(manager->folder));
}

/* The next message, and the descriptor that came with it, or -1. */
static int manager_read(struct manager *manager, char *text, size_t size)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = text, .iov_len = size - 1 };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control) };
	struct pollfd poller = { .fd = manager->fd, .events = POLLIN };
	int fd = -1;

	CHECK_INT(poll(&poller, 1, 10000), 1);
	text[MUST(recvmsg(manager->fd, &msg, MSG_CMSG_CLOEXEC))] = '\0';
	if (CMSG_FIRSTHDR(&msg) != NULL)
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void check_told(bool abstract)
{
	struct manager manager = manager_open(abstract);
	struct sg_notify notify;
	char text[256];

	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK(notify.fd > 2);
	CHECK(MUST(fcntl(notify.fd, F_GETFD)) & FD_CLOEXEC);
	CHECK_INT(sg_notify_send(&notify, "READY=1\nMAINPID=4711", -1), 0);
	CHECK_INT(sg_notify_send(&notify, "STATUS=serving", -1), 0);
	CHECK_INT(manager_read(&manager, text, sizeof(text)), -1);
	CHECK_STRING(text, "READY=1\nMAINPID=4711");
	CHECK_INT(manager_read(&manager, text, sizeof(text)), -1);
	CHECK_STRING(text, "STATUS=serving");
	sg_notify_close(&notify);
	CHECK_INT(notify.fd, -1);
	manager_close(&manager);
}

UNIT_CASE(a_manager_at_a_path_is_told_in_order)
{
	check_told(false);
}

UNIT_CASE(a_manager_with_an_abstract_name_is_told_in_order)
{
	check_told(true);
}

UNIT_CASE(a_descriptor_travels_with_a_message)
{
	struct manager manager = manager_open(true);
	struct sg_notify notify;
	char text[256], byte = 0;
	int fds[2], copy;

	MUST(pipe2(fds, O_CLOEXEC));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(sg_notify_send(&notify, "FDSTORE=1", fds[1]), 0);
	copy = manager_read(&manager, text, sizeof(text));
	CHECK_STRING(text, "FDSTORE=1");
	CHECK(copy >= 0);
	MUST(write(copy, "x", 1));
	MUST(read(fds[0], &byte, 1));
	CHECK_INT(byte, 'x');
	MUST(close(copy));
	MUST(close(fds[0]));
	MUST(close(fds[1]));
	sg_notify_close(&notify);
	manager_close(&manager);
}

static bool hung_up(int fd, int timeout_ms)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };

	MUST(poll(&poller, 1, timeout_ms));
	return poller.revents & POLLHUP;
}

UNIT_CASE(a_barrier_hangs_up_when_the_manager_has_come_to_it)
{
	struct manager manager = manager_open(false);
	struct sg_notify notify;
	int barrier, theirs;
	char text[256];

	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(sg_notify_send(&notify, "READY=1", -1), 0);
	barrier = sg_notify_barrier(&notify);
	CHECK(barrier > 2);
	CHECK(MUST(fcntl(barrier, F_GETFD)) & FD_CLOEXEC);
	CHECK(!hung_up(barrier, 0));
	CHECK_INT(manager_read(&manager, text, sizeof(text)), -1);
	CHECK_STRING(text, "READY=1");
	theirs = manager_read(&manager, text, sizeof(text));
	CHECK_STRING(text, "BARRIER=1");
	CHECK(theirs >= 0);
	CHECK(!hung_up(barrier, 0));
	MUST(close(theirs));
	CHECK(hung_up(barrier, 10000));
	MUST(close(barrier));
	sg_notify_close(&notify);
	manager_close(&manager);
}

/* A manager that dies has processed nothing more, and nobody waits for it. */
UNIT_CASE(a_barrier_hangs_up_when_the_manager_dies)
{
	struct manager manager = manager_open(false);
	struct sg_notify notify;
	int barrier;

	CHECK_INT(sg_notify_open(&notify), 0);
	barrier = sg_notify_barrier(&notify);
	CHECK(barrier > 2);
	manager_close(&manager);
	CHECK(hung_up(barrier, 10000));
	MUST(close(barrier));
	CHECK_INT(sg_notify_barrier(&notify), -ECONNREFUSED);
	CHECK(sg_notify_send(&notify, "READY=1", -1) < 0);
	sg_notify_close(&notify);
}

UNIT_CASE(without_a_manager_nothing_is_sent_and_nothing_is_wrong)
{
	struct sg_notify notify;

	MUST(unsetenv("NOTIFY_SOCKET"));
	MUST(setenv("WATCHDOG_USEC", "1000000", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.fd, -1);
	CHECK_INT(notify.watchdog_us, 0);
	CHECK_INT(sg_notify_send(&notify, "READY=1", -1), 0);
	CHECK_INT(sg_notify_barrier(&notify), -ENOTCONN);
	sg_notify_close(&notify);
	MUST(setenv("NOTIFY_SOCKET", "", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.fd, -1);
}

UNIT_CASE(a_name_that_is_no_socket_is_refused)
{
	char name[200] = "/";
	struct sg_notify notify;
	int fd;

	MUST(setenv("NOTIFY_SOCKET", "run/notify", 1));
	CHECK_INT(sg_notify_open(&notify), -EINVAL);
	MUST(setenv("NOTIFY_SOCKET", "vsock:2:1", 1));
	CHECK_INT(sg_notify_open(&notify), -EINVAL);
	MUST(setenv("NOTIFY_SOCKET", "/", 1));
	CHECK_INT(sg_notify_open(&notify), -EINVAL);
	MUST(setenv("NOTIFY_SOCKET", "@", 1));
	CHECK_INT(sg_notify_open(&notify), -EINVAL);
	memset(name + 1, 'n', 107);
	MUST(setenv("NOTIFY_SOCKET", name, 1));
	CHECK_INT(sg_notify_open(&notify), -EINVAL);
	CHECK_INT(notify.fd, -1);
	MUST(setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1));
	CHECK_INT(sg_notify_open(&notify), -ENOENT);
	fd = (int)MUST(open("file", O_CREAT | O_CLOEXEC, 0600));
	MUST(close(fd));
	CHECK(realpath("file", name) != NULL);
	MUST(setenv("NOTIFY_SOCKET", name, 1));
	CHECK_INT(sg_notify_open(&notify), -ECONNREFUSED);
	MUST(unlink("file"));
}

UNIT_CASE(a_watchdog_is_for_the_process_that_it_names)
{
	struct manager manager = manager_open(true);
	struct sg_notify notify;
	char pid[24];

	MUST(setenv("WATCHDOG_USEC", "2000000", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.watchdog_us, 2000000);
	sg_notify_close(&notify);
	snprintf(pid, sizeof(pid), "%ld", (long)getpid());
	MUST(setenv("WATCHDOG_PID", pid, 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.watchdog_us, 2000000);
	sg_notify_close(&notify);
	MUST(setenv("WATCHDOG_PID", "1", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.watchdog_us, 0);
	sg_notify_close(&notify);
	MUST(setenv("WATCHDOG_PID", pid, 1));
	MUST(setenv("WATCHDOG_USEC", "-5", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.watchdog_us, 0);
	sg_notify_close(&notify);
	MUST(setenv("WATCHDOG_USEC", "soon", 1));
	CHECK_INT(sg_notify_open(&notify), 0);
	CHECK_INT(notify.watchdog_us, 0);
	sg_notify_close(&notify);
	manager_close(&manager);
}

UNIT_CASE(a_manager_that_does_not_read_is_waited_for_a_moment_only)
{
	struct manager manager = manager_open(true);
	struct sg_notify notify;
	struct timespec before, after;
	char text[256];
	int r = 0, sent = 0;

	CHECK_INT(sg_notify_open(&notify), 0);
	while (r == 0) {
		clock_gettime(CLOCK_MONOTONIC, &before);
		r = sg_notify_send(&notify, "STATUS=busy", -1);
		clock_gettime(CLOCK_MONOTONIC, &after);
		sent += r == 0;
	}
	CHECK_INT(r, -EAGAIN);
	CHECK(sent > 0);
	CHECK((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 >=
	      200);
	CHECK(after.tv_sec - before.tv_sec < 10);
	manager_read(&manager, text, sizeof(text));
	CHECK_INT(sg_notify_send(&notify, "STATUS=busy", -1), 0);
	sg_notify_close(&notify);
	manager_close(&manager);
}

UNIT_MAIN
