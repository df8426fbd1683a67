/* SPDX-License-Identifier: MIT */
/* Runs a command; see command.h. */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_BYTES 4096 /* at the end of the output, for its last line */

void command_setting_get(struct command_setting *ret_setting)
{
	int slack_ns = prctl(PR_GET_TIMERSLACK);

	ret_setting->timer_slack_ns = slack_ns > 0 ? (unsigned long)slack_ns : 50000;
	if (getrlimit(RLIMIT_NOFILE, &ret_setting->descriptors) < 0)
		ret_setting->descriptors = (struct rlimit){ RLIM_INFINITY, RLIM_INFINITY };
}

/* In the process that becomes the command. */
__attribute__((noreturn)) static void become(const char *text, int output_fd,
                                             const struct command_setting *setting)
{
	int null_fd = open("/dev/null", O_RDONLY);
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_NOFILE, &setting->descriptors);
	prctl(PR_SET_TIMERSLACK, setting->timer_slack_ns);
	if (null_fd >= 0)
		dup2(null_fd, STDIN_FILENO);
	if (null_fd > STDERR_FILENO)
		close(null_fd);
	dup2(output_fd, STDOUT_FILENO);
	dup2(output_fd, STDERR_FILENO);
	execl("/bin/sh", "sh", "-c", text, (char *)NULL);
	_exit(127);
}

int command_start(struct command *command, const char *text, const struct command_setting *setting)
{
	int output_fd, r;
	pid_t pid;

	output_fd = memfd_create("segue-load restart", MFD_CLOEXEC);
	if (output_fd < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become(text, output_fd, setting);
	r = -errno;
	if (pid > 0) {
		/* It cannot be another process's number: nobody but us may reap it. */
		*command = (struct command){ .pid = pid, .output_fd = output_fd };
		command->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (command->pidfd >= 0)
			return 0;
		r = -errno;
		command_kill(command);
		waitpid(pid, NULL, 0);
		command->pid = 0;
	}
	close(output_fd);
	return r;
}

void command_kill(const struct command *command)
{
	if (!command->pid)
		return;
	/* The group exists as soon as setsid() was called. */
	if (kill(-command->pid, SIGKILL) < 0)
		kill(command->pid, SIGKILL);
}

/* The last line that is not empty, with everything replaced that a terminal could obey. */
static void last_line(const char *text, size_t size, char *line, size_t room)
{
	size_t begin, length;

	while (size && (unsigned char)text[size - 1] <= ' ')
		size--;
	for (begin = size; begin && text[begin - 1] != '\n'; begin--)
		;
	length = size - begin;
	if (length >= room)
		length = room - 1;
	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)text[begin + i];

		line[i] = byte < ' ' || byte == 0x7f ? ' ' : (char)byte;
	}
	line[length] = '\0';
}

static void read_last_line(int fd, char *line, size_t room)
{
	char text[LOOK_BYTES];
	struct stat stat;
	off_t from;
	ssize_t got;

	line[0] = '\0';
	if (fstat(fd, &stat) < 0)
		return;
	from = stat.st_size > LOOK_BYTES ? stat.st_size - LOOK_BYTES : 0;
	got = pread(fd, text, sizeof(text), from);
	if (got > 0)
		last_line(text, (size_t)got, line, room);
}

int command_end(struct command *command, char *line, size_t size)
{
	int status = 0;

	while (waitpid(command->pid, &status, 0) < 0 && errno == EINTR)
		;
	read_last_line(command->output_fd, line, size);
	command_forget(command);
	return status;
}

void command_forget(struct command *command)
{
	if (!command->pid)
		return;
	close(command->pidfd);
	close(command->output_fd);
	command->pid = 0;
}
