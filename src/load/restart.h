/* SPDX-License-Identifier: MIT */
/*
 * Restarts during the load: a command every so often, one at a time, and what each of them costs.
 * The first begins --every after the start, each further one --every after the one before has
 * begun, or when that has ended where it takes longer. The load ends --every after the last has
 * ended, and one that fails is the last.
 */
#ifndef LOAD_RESTART_H
#define LOAD_RESTART_H

#include "command.h"
#include "options.h"
#include "tally.h"
#include "window.h"

#define RESTART_LINE_BYTES   256
#define RESTART_REASON_BYTES 384

struct restart {
	struct window window; /* from the start of the command to that of the next one */
	uint64_t ended_ns;    /* the command; 0: it runs */
	bool failed, timed_out;
	char line[RESTART_LINE_BYTES];     /* the last one of its output */
	char reason[RESTART_REASON_BYTES]; /* why it failed, or "" */
};

struct restarts {
	const struct options *options;
	struct tally *tally;
	int epoll_fd;
	struct command_setting setting;
	struct command command;
	struct restart *list; /* 1 is the first one, 0 what was before it */
	size_t begun;
	uint64_t next_ns; /* when the next one is due, or the end after the last */
	uint64_t kill_ns; /* when the command that runs is killed, or waited for no more */
	bool stopped, failed;
	bool killed, abandoned; /* the command that runs: by its deadline, by the user */
	/* Called when the window of a restart has ended; may be NULL. */
	void (*on_end)(const struct restarts *restarts, size_t number);
};

/** restarts_init - returns 0 (also where the user wants none), or -ENOMEM */
int restarts_init(struct restarts *restarts, const struct options *options, struct tally *tally,
                  int epoll_fd, const struct command_setting *setting);
void restarts_done(struct restarts *restarts);

/** restarts_wanted - whether there are any */
bool restarts_wanted(const struct restarts *restarts);

void restarts_start(struct restarts *restarts, uint64_t now_ns);

/** restarts_take_time - what is due at @now_ns; returns whether the load has to end now */
bool restarts_take_time(struct restarts *restarts, uint64_t now_ns);

/** restarts_next_time - no call is due before this point in time; UINT64_MAX for none */
uint64_t restarts_next_time(const struct restarts *restarts);

/** restarts_take_event - the command has ended (RESTART_SOURCE of the epoll) */
void restarts_take_event(struct restarts *restarts, uint64_t now_ns);

/** restarts_stop - none begins from now on; one that runs is waited for */
void restarts_stop(struct restarts *restarts, uint64_t at_ns);

/** restarts_abandon - one that runs is killed */
void restarts_abandon(struct restarts *restarts, uint64_t now_ns);

/** restarts_running - whether a command runs that must be waited for */
bool restarts_running(const struct restarts *restarts);

/** restarts_finish - the load has ended, and every request has its outcome */
void restarts_finish(struct restarts *restarts);

#define RESTART_SOURCE (UINT64_MAX - 1)

#endif
