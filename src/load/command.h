/* SPDX-License-Identifier: MIT */
/*
 * A command of the user's, run by sh in a session of its own, so that nothing typed at the terminal
 * reaches it and it can be killed as a whole. Its output is kept in memory, in a file rather than
 * a pipe: a server that it leaves behind may write to it for ever and is not killed by our end.
 */
#ifndef LOAD_COMMAND_H
#define LOAD_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

/* What a command inherits as it was before this program changed it. */
struct command_setting {
	struct rlimit descriptors;
	unsigned long timer_slack_ns;
};

struct command {
	pid_t pid; /* 0: none runs */
	int pidfd; /* readable when it has ended */
	int output_fd;
};

void command_setting_get(struct command_setting *ret_setting);

/** command_start - returns 0, or the reason why it could not be started */
int command_start(struct command *command, const char *text, const struct command_setting *setting);

/** command_kill - kills it with all that it has started and that has not left its session */
void command_kill(const struct command *command);

/**
 * command_end - when the pidfd is readable: takes its end, and closes
 * @line: gets the last line that it wrote, printable, "" where there is none
 *
 * Returns: the status as of waitpid(2)
 */
int command_end(struct command *command, char *line, size_t size);

/** command_forget - closes without waiting for it */
void command_forget(struct command *command);

#endif
