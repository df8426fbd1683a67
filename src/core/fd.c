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
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

const char *sg_span_text(char ret_text[static SG_SPAN_MAX], int64_t ms)
{
	long long seconds = (long long)(ms / 1000), tenths = (long long)(ms % 1000 / 100);

	if (ms < 1000)
		snprintf(ret_text, SG_SPAN_MAX, "%lld ms", (long long)ms);
	else if (seconds < 60 && tenths > 0)
		snprintf(ret_text, SG_SPAN_MAX, "%lld.%lld s", seconds, tenths);
	else
		snprintf(ret_text, SG_SPAN_MAX, "%lld s", seconds);
	return ret_text;
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

/*
 * PIDFD_GET_INFO of Linux 6.15, which most headers do not have yet.
 * Source: pidfd_open(2), include/uapi/linux/pidfd.h
 */
struct pidfd_exit_info {
	uint64_t mask, cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};
#define PIDFD_EXIT_INFO      _IOWR(0xff, 11, struct pidfd_exit_info)
#define PIDFD_EXIT_INFO_EXIT (UINT64_C(1) << 3)

/* Of a process that another has reaped, or -1. */
static int status_of_reaped(int pidfd)
{
	struct pidfd_exit_info info = { .mask = PIDFD_EXIT_INFO_EXIT };

	if (ioctl(pidfd, PIDFD_EXIT_INFO, &info) < 0 || !(info.mask & PIDFD_EXIT_INFO_EXIT))
		return -1;
	return info.exit_code;
}

/* Of a zombie that is another's to reap: the last number of its line, or -1. */
static int status_of_zombie(int pidfd)
{
	char path[40], text[1024];
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;
	pid_t pid = sg_pidfd_pid(pidfd);
	const char *last;
	ssize_t n;

	if (pid <= 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0 || text[n - 1] != '\n')
		return -1;
	text[n - 1] = '\0';
	last = strrchr(text, ' ');
	/* Reaped meanwhile, the pid may already be a stranger's. */
	if (last == NULL || sg_pidfd_pid(pidfd) != pid)
		return -1;
	return (int)strtol(last, NULL, 10);
}

int sg_pidfd_reap(int pidfd, int *ret_status)
{
	siginfo_t info = { 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0) {
		/* Reaped by the host's own waitpid(-1), SIGCHLD is ignored there, or it is a
		 * sibling. */
		if (errno != ECHILD)
			return -errno;
		if (sg_pidfd_dead(pidfd) <= 0)
			return 0;
		*ret_status = status_of_zombie(pidfd);
		if (*ret_status < 0)
			*ret_status = status_of_reaped(pidfd);
		return 1;
	}
	if (info.si_pid == 0)
		return 0;
	*ret_status = status_of(&info);
	return 1;
}
