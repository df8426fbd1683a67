/* SPDX-License-Identifier: MIT */
/*
 * Descriptors: one owner each, close-on-exec from birth, never 0, 1 or 2.
 */
#ifndef SG_CORE_FD_H
#define SG_CORE_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SG_CLEANUP(function) __attribute__((cleanup(function)))

/* Closes the descriptor unless it is negative; errno stays as it was. Returns -1, so that
 * "fd = sg_fd_close(fd)" leaves nothing behind. */
int sg_fd_close(int fd);

/* For SG_CLEANUP on an int. */
void sg_fd_cleanup(int *fd);

/* Gives the descriptor away from under a SG_CLEANUP. */
int sg_fd_steal(int *fd);

/* The same open file at a number of 3 or more, close-on-exec; consumes the argument. */
int sg_fd_above_stdio_take(int fd);

/* A second descriptor of the same open file, 3 or more, close-on-exec. */
int sg_fd_dup(int fd);

int sg_fd_set_cloexec(int fd, int on);

/* Milliseconds and microseconds of CLOCK_MONOTONIC. */
int64_t sg_now_ms(void);
int64_t sg_now_us(void);
/* A duration as a person reads it: "250 ms", "1.2 s", "30 s". Returns ret_text. */
#define SG_SPAN_MAX 32
const char *sg_span_text(char ret_text[static SG_SPAN_MAX], int64_t ms);

/* A pollable descriptor of a process, or -errno. */
int sg_pidfd_open(pid_t pid);

/* Is the process of a pidfd dead? 1, 0, or -errno. */
int sg_pidfd_dead(int pidfd);

/* Which process a pidfd stands for; -EBADF where it is no pidfd, -ESRCH where it is dead. */
pid_t sg_pidfd_pid(int pidfd);

/* SIGKILL and its like by pidfd. */
int sg_pidfd_signal(int pidfd, int signal);

/*
 * Reaps a dead child. ret_status is a waitpid() status, or -1 where another waiter of the
 * process was faster. 1 when it was dead, 0 when it lives. A sibling is left to whoever reaps
 * it.
 */
int sg_pidfd_reap(int pidfd, int *ret_status);

#endif
