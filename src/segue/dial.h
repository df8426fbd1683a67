/* SPDX-License-Identifier: MIT */
/*
 * The client's connection to a supervisor: finding the socket, connecting, lines.
 */
#ifndef SEGUE_COMMAND_DIAL_H
#define SEGUE_COMMAND_DIAL_H

#include "segue/paths.h"

#include <stddef.h>
#include <sys/types.h>

#define DIAL_REASON_MAX 1024

struct dial {
	char path[PATHS_MAX];
	int fd;    /* non-blocking */
	int pidfd; /* of the supervisor; -1: it cannot be had */
	pid_t pid; /* as the kernel names the one that listens; 0: of another pid namespace */
	char *buffer;
	size_t len, size;
	size_t taken; /* of the buffer, by the line that was given out last */
};

/* An object that dial_close() may be called for. */
void dial_init(struct dial *dial);

/*
 * Connects. -ECONNREFUSED and -ENOENT: no supervisor there; -EACCES: the user may not; -EAGAIN:
 * its queue is full and it took nobody within wait_ms.
 */
int dial_open(struct dial *dial, const char *path, int wait_ms);
void dial_close(struct dial *dial);

/* Sends one line, within wait_ms. -EPIPE: it has been turned away, and may read why. */
int dial_say(struct dial *dial, const char *line, int wait_ms);

/* Reads what has come. 0, -EPIPE at the end, -EMSGSIZE for a line without an end. */
int dial_read(struct dial *dial);

/* The next whole line, without its newline and good until the next call; NULL: none yet. */
const char *dial_line(struct dial *dial);

/*
 * The path of the control socket of a service, NULL: of the only one that runs. 0, or the exit
 * code with one sentence.
 */
int dial_find(char ret_path[static PATHS_MAX], const char *service,
              char reason[static DIAL_REASON_MAX]);

#endif
