/* SPDX-License-Identifier: MIT */
/*
 * Which program a worker runs: its file, held open, so that a crashed worker is started again
 * from what was running, whatever lies at the path by then.
 */
#ifndef SEGUE_COMMAND_PROGRAM_H
#define SEGUE_COMMAND_PROGRAM_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct program {
	char path[PATH_MAX]; /* as the kernel names it, e.g. of /proc/PID/exe */
	int fd;              /* O_PATH of the running file, close-on-exec; -1: none */
	bool script;         /* the running file is an interpreter: path is the interpreter's */
	int64_t size;
	struct timespec mtime;
	dev_t dev;
	ino_t ino;
	/* "build-id:HEX", of a Go program without one "go-id:TEXT"; else what tells a deployed file
	 * from another, though not from a copy with its time: "size:BYTES,mtime:SECONDS" */
	char identity[80];
};

/*
 * Describes the program of a process which has executed it. argv0 is what was asked for: where the
 * running file is another than the one found there, which begins with "#!", it is a script.
 * 0 or -errno. The identity of a file is worked out once per (dev, ino, size, mtime).
 */
int program_of(struct program *ret_program, pid_t pid, const char *argv0);

/* May the descriptor be executed again, and is it what was running? Else false, with the reason as
 * a clause: "it is a script", "the file was overwritten in place". */
bool program_restartable(const struct program *program, char *reason, size_t reason_size);

void program_copy(struct program *ret_copy, const struct program *program);
void program_done(struct program *program);

#endif
