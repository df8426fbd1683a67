/* SPDX-License-Identifier: MIT */
/*
 * Descriptors and pidfds: one owner, close-on-exec, never 0 to 2; and what became of a child,
 * whoever reaped it.
 */
#include "unit.h"

#include "core/fd.h"

#include <poll.h>
#include <signal.h>

static int open_null(void)
{
	return (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

UNIT_CASE(closing_keeps_errno_and_takes_minus_1)
{
	int fd = open_null();

	errno = ENOTTY;
	CHECK_INT(sg_fd_close(fd), -1);
	CHECK(!is_open(fd));
	errno = ENOTTY;
	CHECK_INT(sg_fd_close(-1), -1);
	CHECK_INT(sg_fd_close(-EMFILE), -1);
	CHECK_INT(errno, ENOTTY);
}

UNIT_CASE(a_cleanup_closes_what_was_not_stolen)
{
	int kept, closed;

	{
		SG_CLEANUP(sg_fd_cleanup) int a = open_null();
		SG_CLEANUP(sg_fd_cleanup) int b = open_null();

		closed = a;
		kept = sg_fd_steal(&b);
		CHECK_INT(b, -1);
	}
	CHECK(!is_open(closed));
	CHECK(is_open(kept));
	MUST(close(kept));
}

UNIT_CASE(a_duplicate_is_close_on_exec_and_3_or_more)
{
	int stdin_copy = (int)MUST(fcntl(0, F_DUPFD_CLOEXEC, 100)), fd;

	MUST(close(0));
	fd = sg_fd_dup(1);
	MUST(dup2(stdin_copy, 0));
	MUST(close(stdin_copy));
	CHECK(fd > 2);
	CHECK(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC);
	MUST(close(fd));
	CHECK_INT(sg_fd_dup(-1), -EBADF);
	CHECK_INT(sg_fd_dup(999), -EBADF);
}

UNIT_CASE(a_descriptor_among_stdio_is_lifted_and_its_number_freed)
{
	int stdin_copy = (int)MUST(fcntl(0, F_DUPFD_CLOEXEC, 100)), fd;
	bool freed;

	MUST(close(0));
	MUST(open("/dev/null", O_RDONLY | O_CLOEXEC)); /* becomes 0 */
	fd = sg_fd_above_stdio_take(0);
	freed = !is_open(0);
	MUST(dup2(stdin_copy, 0));
	MUST(close(stdin_copy));
	CHECK(freed);
	CHECK(fd > 2);
	CHECK(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC);
	CHECK_INT(sg_fd_above_stdio_take(fd), fd);
	CHECK_INT(sg_fd_above_stdio_take(-1), -1);
	MUST(close(fd));
}

UNIT_CASE(close_on_exec_is_switched_both_ways)
{
	int fd = open_null();

	CHECK_INT(sg_fd_set_cloexec(fd, 0), 0);
	CHECK_INT(MUST(fcntl(fd, F_GETFD)), 0);
	CHECK_INT(sg_fd_set_cloexec(fd, 1), 0);
	CHECK_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
	MUST(close(fd));
	CHECK_INT(sg_fd_set_cloexec(fd, 1), -EBADF);
}

UNIT_CASE(the_clock_does_not_go_back)
{
	int64_t us = sg_now_us(), ms = sg_now_ms();

	CHECK(ms >= us / 1000);
	CHECK(sg_now_us() >= us);
}

/* A child that waits for its pipe to end, so that it lives exactly as long as wanted. */
struct child {
	pid_t pid;
	int pidfd, keep;
};

static struct child start(int code)
{
	struct child child;
	int fds[2];
	char byte;

	MUST(pipe2(fds, O_CLOEXEC));
	child.pid = (pid_t)MUST(fork());
	if (child.pid == 0) {
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) == 0 ? code : 99);
	}
	MUST(close(fds[0]));
	child.keep = fds[1];
	child.pidfd = sg_pidfd_open(child.pid);
	CHECK(child.pidfd > 2);
	return child;
}

/* Until the pidfd says so; not reaped yet. */
static void wait_dead(const struct child *child)
{
	struct pollfd poller = { .fd = child->pidfd, .events = POLLIN };

	CHECK_INT(poll(&poller, 1, 10000), 1);
}

UNIT_CASE(a_child_lives_until_it_is_dead_and_is_reaped_once)
{
	struct child child = start(7);
	int status = -2;

	CHECK(MUST(fcntl(child.pidfd, F_GETFD)) & FD_CLOEXEC);
	CHECK_INT(sg_pidfd_dead(child.pidfd), 0);
	CHECK_INT(sg_pidfd_pid(child.pidfd), child.pid);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 0);
	CHECK_INT(status, -2);
	MUST(close(child.keep));
	wait_dead(&child);
	CHECK_INT(sg_pidfd_dead(child.pidfd), 1);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 1);
	CHECK(WIFEXITED(status));
	CHECK_INT(WEXITSTATUS(status), 7);
	CHECK_INT(sg_pidfd_pid(child.pidfd), -ESRCH);
	CHECK_INT(sg_pidfd_signal(child.pidfd, SIGKILL), -ESRCH);
	CHECK_INT(sg_pidfd_open(child.pid), -ESRCH);
	MUST(close(child.pidfd));
}

/* Since Linux 6.15 a pidfd says how its process ended after another has reaped it. */
static bool is_status_of_reaped(int status)
{
	return status == -1 || (WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

UNIT_CASE(a_child_reaped_by_another_waiter_is_dead_all_the_same)
{
	struct child child = start(7);
	int status = -2;

	MUST(close(child.keep));
	MUST(waitpid(-1, NULL, 0));
	CHECK_INT(sg_pidfd_dead(child.pidfd), 1);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 1);
	CHECK(is_status_of_reaped(status));
	MUST(close(child.pidfd));
}

UNIT_CASE(where_sigchld_is_ignored_a_live_child_is_not_taken_for_dead)
{
	struct child child;
	int status = -2;

	signal(SIGCHLD, SIG_IGN);
	child = start(7);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 0);
	MUST(close(child.keep));
	wait_dead(&child);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 1);
	CHECK(is_status_of_reaped(status));
	MUST(close(child.pidfd));
}

/* The handed-over case: the generation watched is not our child. */
UNIT_CASE(a_process_that_is_not_our_child_is_watched_too)
{
	int status = -2, self = sg_pidfd_open(getpid()), code;
	pid_t pid;

	CHECK(self > 2);
	CHECK_INT(sg_pidfd_pid(self), getpid());
	pid = (pid_t)MUST(fork());
	if (pid == 0)
		_exit(sg_pidfd_reap(self, &status) == 0 && sg_pidfd_dead(self) == 0 ? 0 : 1);
	MUST(waitpid(pid, &code, 0));
	CHECK_INT(code, 0);
	MUST(close(self));
}

UNIT_CASE(a_killed_child_says_by_which_signal)
{
	static const int signals[] = { SIGKILL, SIGTERM, SIGUSR1 };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct child child = start(7);
		int status = -2;

		CHECK_INT(sg_pidfd_signal(child.pidfd, signals[i]), 0);
		wait_dead(&child);
		CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 1);
		CHECK(WIFSIGNALED(status) && !WIFEXITED(status));
		CHECK_INT(WTERMSIG(status), signals[i]);
		MUST(close(child.keep));
		MUST(close(child.pidfd));
	}
}

UNIT_CASE(a_child_that_was_stopped_is_not_dead)
{
	struct child child = start(0);
	siginfo_t info;
	int status = -2;

	CHECK_INT(sg_pidfd_signal(child.pidfd, SIGSTOP), 0);
	MUST(waitid(P_PID, (id_t)child.pid, &info, WSTOPPED | WNOWAIT));
	CHECK_INT(sg_pidfd_dead(child.pidfd), 0);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 0);
	CHECK_INT(sg_pidfd_signal(child.pidfd, SIGKILL), 0);
	wait_dead(&child);
	CHECK_INT(sg_pidfd_reap(child.pidfd, &status), 1);
	MUST(close(child.keep));
	MUST(close(child.pidfd));
}

UNIT_CASE(what_is_no_pidfd_is_told_so)
{
	int fd = open_null(), status;

	CHECK_INT(sg_pidfd_pid(fd), -EBADF);
	CHECK_INT(sg_pidfd_signal(fd, 0), -EBADF);
	CHECK(sg_pidfd_reap(fd, &status) < 0);
	MUST(close(fd));
	CHECK(sg_pidfd_pid(fd) < 0);
	CHECK_INT(sg_pidfd_open(0), -EINVAL);
}

UNIT_CASE(a_duration_is_told_as_a_person_reads_it)
{
	static const struct {
		int64_t ms;
		const char *text;
	} cases[] = {
		{ 0, "0 ms" },       { 999, "999 ms" }, { 1000, "1 s" },
		{ 1099, "1 s" },     { 1250, "1.2 s" }, { 30000, "30 s" },
		{ 59999, "59.9 s" }, { 60500, "60 s" }, { 3600000, "3600 s" },
	};
	char text[SG_SPAN_MAX];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		CHECK_STRING(sg_span_text(text, cases[i].ms), cases[i].text);
}

UNIT_MAIN
