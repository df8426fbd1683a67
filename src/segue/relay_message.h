/* SPDX-License-Identifier: MIT */
/*
 * What the supervisor and the relay's process say to each other, on a SOCK_SEQPACKET pair. The
 * two are one program: no version. Sending never blocks.
 */
#ifndef SEGUE_COMMAND_RELAY_MESSAGE_H
#define SEGUE_COMMAND_RELAY_MESSAGE_H

#include "segue/relay.h"

#include <stdint.h>

enum relay_verb {
	/* To the process. */
	RELAY_WORKER = 1, /* with two reading ends, or without any; text: the tag */
	RELAY_PID,
	RELAY_TAIL,
	RELAY_FORGET,
	RELAY_REOPEN,
	RELAY_CLOSE,
	/* From it. */
	RELAY_TEXT, /* text: the tail */
	RELAY_GONE, /* forgotten: both ends were read to their end */
};

struct relay_message {
	uint32_t verb;
	int32_t pid;
	uint64_t key;
	int64_t linger_ms; /* RELAY_PID; see relay_pid() */
	char text[RELAY_TAIL_MAX + 1];
};

/* fds: two, or NULL. 0 or -errno. */
int relay_message_send(int fd, const struct relay_message *message, const int *fds);

/* ret_fds become -1 where there are none. 1, 0 where nothing is there, -EPIPE at the end. */
int relay_message_receive(int fd, struct relay_message *ret_message, int ret_fds[2]);

/* The relay's process; never returns. log_fd: where all goes, -1: standard output and error.
 * log_file: what it is opened anew from. */
_Noreturn void relay_process_run(int control_fd, enum config_log mode, int log_fd,
                                 const char *log_file);

/* 0 or more, or -errno. */
int relay_log_open(const char *log_file);

#endif
