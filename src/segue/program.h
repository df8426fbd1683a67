/* SPDX-License-Identifier: MIT */
/*
 * Which program a worker runs: its file, held open, so that a crashed worker is started again
 * from what was running, whatever lies at the path by then.
 */
#ifndef SEGUE_COMMAND_PROGRAM_H
#define SEGUE_COMMAND_PROGRAM_H

#include "segue/image.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct program {
	int fd;               /* O_PATH of the running file, close-on-exec; -1: none */
	struct image *file;   /* the running file; NULL where there is no fd */
	struct image *script; /* what that interprets; NULL: it is no script */
};

/*
 * Describes the program of a process which has executed it. argv0 is what was asked for: where the
 * running file is another than the one found there, which begins with "#!", it is a script. NULL:
 * it was not asked for by name. 0 or -errno.
 */
int program_of(struct program *ret_program, pid_t pid, const char *argv0);

/* May the descriptor be executed again, and is it what was running? Else false, with the reason as
 * a clause: "it is a script", "the file was overwritten in place". */
bool program_restartable(const struct program *program, char *reason, size_t reason_size);

void program_copy(struct program *ret_copy, const struct program *program);
void program_done(struct program *program);

#endif
