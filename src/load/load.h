/* SPDX-License-Identifier: MIT */
/*
 * The run: opens all connections, decides who sends when (closed loop, open loop, think time),
 * and ends when time or number is reached or a signal says so. One thread, one epoll.
 */
#ifndef LOAD_LOAD_H
#define LOAD_LOAD_H

#include "connection.h"
#include "options.h"
#include "plan.h"
#include "restart.h"

struct load {
	const struct options *options;
	struct client client;
	struct plan plans[SHAPES];
	struct connection *connections;
	struct flight *flights;
	size_t count, begun; /* connections, and how many of them have been told to start */
	size_t settled;      /* connections that have had the end of their first request */
	struct restarts restarts;
	int signal_fd;
	bool stopping, interrupted;
	uint64_t start_ns, stop_ns, end_ns;
	uint64_t issued;    /* of an open loop's requests */
	uint64_t waited_ns; /* for a processor; main.c's */
	struct connection *free_first, *free_last;

	/* Called as it goes; may be NULL. */
	void (*on_running)(const struct load *load);
	void (*on_progress)(const struct load *load);
	void (*on_restart)(const struct load *load, size_t number);
	void (*on_tick)(const struct load *load);
	uint64_t progress_ns;            /* when on_progress is called next, 0: never */
	uint64_t tick_ns, tick_every_ns; /* the same for on_tick */
};

/**
 * load_init - takes memory and descriptors
 * @setting: what the commands of restarts inherit
 *
 * Returns: 0, or the reason. INT and TERM are blocked afterwards and belong to the load.
 */
int load_init(struct load *load, const struct options *options, const struct target *target,
              const struct command_setting *setting);
void load_done(struct load *load);

/** load_run - runs to the end; 0, or the reason why it could not */
int load_run(struct load *load);

/** load_not_started - requests of an open loop that were due and found no free connection */
uint64_t load_not_started(const struct load *load);

#endif
