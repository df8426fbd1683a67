/* SPDX-License-Identifier: MIT */
/*
 * How a worker that does not speak to its channel is known to be ready: one probe a worker.
 * The words on the channel and READY=1 are not probed for; the supervisor hears them.
 *
 * A probe of an address must not be answered by the predecessor: it is asked before the
 * worker is started, and where something answers already the upgrade is refused by name. In the
 * argument "{generation}", "{worker}" and "{pid}" are replaced; an address with "{pid}" is the
 * worker's own without a look.
 *
 * Besides http://HOST:PORT/PATH and tcp://HOST:PORT: http://unix:/PATH:/PATH and unix:///PATH. A
 * command runs in config->directory with its standard streams at /dev/null, every 250 ms until
 * it exits with 0, for 5 s at most.
 */
#ifndef SEGUE_COMMAND_READY_H
#define SEGUE_COMMAND_READY_H

#include "segue/config.h"

#include <sys/types.h>
#include <uv.h>

struct ready;

struct ready_target {
	uint64_t generation;
	unsigned int worker;
	pid_t pid;
	/* For the command of exec, besides the supervisor's own environment (without what the
	 * service manager put there): "NAME=value", NULL-terminated; may be NULL, is copied. */
	const char *const *env;
};

/* Called once: error 0: ready; else a negative errno and a sentence: it will never be. */
typedef void (*ready_done)(void *ctx, int error, const char *reason);

/*
 * Before the worker is started: makes what it inherits. Mode FD: ret_fd is the writing end of a
 * pipe, to become descriptor config->ready_fd of the worker, the caller's to close after the
 * spawn; otherwise -1. Modes HTTP and TCP: a blocking look of 200 ms at most whether something
 * answers already: -EADDRINUSE with a sentence.
 */
int ready_prepare(struct ready **ret_ready, uv_loop_t *loop, const struct config *config,
                  uint64_t generation, unsigned int worker, int *ret_fd, char *reason,
                  size_t reason_size);

/* After the start: probes until it is ready; no deadline of its own. */
int ready_begin(struct ready *ready, const struct ready_target *target, ready_done done, void *ctx);

/* Why the last attempt did not find it ready, as a clause ("it answered with status 503"), or
 * "": for the sentence about a missed deadline. */
const char *ready_last(const struct ready *ready);

/* Ends the probe, its command too. NULL is welcome. Not called back any more. */
void ready_end(struct ready *ready);

/* Before the loop ends: waits for the death of what has been killed, and reaps it. */
void ready_reap_killed(void);

#endif
