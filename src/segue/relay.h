/* SPDX-License-Identifier: MIT */
/*
 * The output of workers: a process of its own that copies it, line by line, to the
 * supervisor's standard output and error (or a log file), and keeps the last of it. In the
 * mode DIRECT the workers have the supervisor's own, and the process copies nothing.
 *
 * Not the supervisor itself: a reader of the log that does not read must not hold up an
 * upgrade, and the death of the supervisor must not take the workers' output away from
 * under them (SIGPIPE). The supervisor keeps the reading ends as well, so that the relay can
 * be replaced should it die. It ends by itself when nobody writes any more.
 *
 * Since it outlives a supervisor that was killed, it ends what that one would have ended: workers
 * that do not leave in time, and what any of them leaves in its process group.
 */
#ifndef SEGUE_COMMAND_RELAY_H
#define SEGUE_COMMAND_RELAY_H

#include "segue/config.h"

#include <sys/types.h>
#include <uv.h>

#define RELAY_TAIL_MAX 4096

struct relay;

/* Starts the process. log_file: NULL, or where both streams go. 0 or -errno. */
int relay_open(struct relay **ret_relay, uv_loop_t *loop, enum config_log mode,
               const char *log_file, char *reason, size_t reason_size);

/*
 * Pipes for one worker: the writing ends become its standard output and error and are the
 * caller's to close after the spawn. key names the worker from now on (not used twice); the
 * tag ("3:1", generation and worker) stands in front of its lines in the mode PREFIX,
 * together with the pid, once relay_pid() has told it. Without a supervisor the process may
 * live for linger_ms more, and is then killed; -1: for ever.
 */
int relay_worker(struct relay *relay, uint64_t key, const char *tag, int ret_fds[2]);
void relay_pid(struct relay *relay, uint64_t key, pid_t pid, int64_t linger_ms);

/* The last lines of a worker, what is still in its pipes included; called back once, with ""
 * where there is nothing or the relay does not answer within a second. */
void relay_tail(struct relay *relay, uint64_t key, void (*done)(void *ctx, const char *text),
                void *ctx);

/* The worker is dead, or was never started, and its tail is not wanted any more: read to the end
 * (of whoever else has its output), then forget. */
void relay_forget(struct relay *relay, uint64_t key);

/* Opens the log file anew (USR1). */
void relay_reopen(struct relay *relay);

/* Is this pid the relay's own process? For whoever reaps: relay_died() then starts it anew. */
bool relay_is(const struct relay *relay, pid_t pid);
void relay_died(struct relay *relay);

/* Lets what is in the pipes out, then ends the process, blocking: until the outputs have taken
 * nothing for a second, or after ten. Who still waits for a tail is called back with "". */
void relay_close(struct relay *relay);

#endif
