/* SPDX-License-Identifier: MIT */
/*
 * Descriptors, the monotonic clock and pidfds: the thin layer over the kernel on which the
 * rest of the core stands.
 */
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int sg_fd_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

void sg_fd_cleanup(int *fd)
{
	*fd = sg_fd_close(*fd);
}

int sg_fd_steal(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

int sg_fd_dup(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return copy < 0 ? -errno : copy;
}

int sg_fd_above_stdio_take(int fd)
{
	int copy;

	if (fd > 2 || fd < 0)
		return fd;
	copy = sg_fd_dup(fd);
	sg_fd_close(fd);
	return copy;
}

int sg_fd_set_cloexec(int fd, int on)
{
	int flags = fcntl(fd, F_GETFD);

	if (flags < 0)
		return -errno;
	flags = on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
	return fcntl(fd, F_SETFD, flags) < 0 ? -errno : 0;
}

int64_t sg_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t sg_now_ms(void)
{
	return sg_now_us() / 1000;
}

int sg_pidfd_open(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);

	/* The kernel sets close-on-exec on every pidfd. */
	return fd < 0 ? -errno : sg_fd_above_stdio_take((int)fd);
}

int sg_pidfd_dead(int pidfd)
{
	struct pollfd poller = { .fd = pidfd, .events = POLLIN };
	int n = poll(&poller, 1, 0);

	return n < 0 ? -errno : n > 0;
}

pid_t sg_pidfd_pid(int pidfd)
{
	char path[40], text[512];
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;
	const char *line;
	ssize_t n;
	long pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	line = strstr(text, "\nPid:");
	if (line == NULL)
		return -EBADF;
	pid = strtol(line + 5, NULL, 10);
	return pid > 0 ? (pid_t)pid : -ESRCH;
}

int sg_pidfd_signal(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

static int status_of(const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return (info->si_status & 0xff) << 8;
	return (info->si_status & 0x7f) | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

int sg_pidfd_reap(int pidfd, int *ret_status)
{
	siginfo_t info = { 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0) {
		/* Reaped by the host's own waitpid(-1), or SIGCHLD is ignored there. */
		if (errno != ECHILD)
			return -errno;
		if (sg_pidfd_dead(pidfd) <= 0)
			return 0;
		*ret_status = -1;
		return 1;
	}
	if (info.si_pid == 0)
		return 0;
	*ret_status = status_of(&info);
	return 1;
}
