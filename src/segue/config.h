/* SPDX-License-Identifier: MIT */
/*
 * What 'segue run' is asked to do: from the command line and from a configuration file, by
 * one table (settings.c) that the parser, --help, segue.conf(5) and 'segue check' share.
 *
 * Pure, but for reading the file. A configuration is whole and valid, or it is not there. Whether
 * the program, the user and the like exist on this machine is not asked here (check.c).
 */
#ifndef SEGUE_COMMAND_CONFIG_H
#define SEGUE_COMMAND_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_REASON_MAX  768
#define CONFIG_WORKERS_MAX 64

/* How a generation says that it is ready. */
enum config_ready {
	CONFIG_READY_AUTO,   /* by libsegue's channel or by READY=1, whichever comes */
	CONFIG_READY_SEGUE,  /* by libsegue's channel */
	CONFIG_READY_NOTIFY, /* by READY=1 */
	CONFIG_READY_FD,     /* by a newline on a descriptor: ready_fd */
	CONFIG_READY_EXEC,   /* by a command that exits 0: ready_argument, given to /bin/sh -c */
	CONFIG_READY_HTTP,   /* by a 2xx answer: ready_argument is the whole URL */
	CONFIG_READY_TCP,    /* by an accepted connection: ready_argument is the address */
	CONFIG_READY_DELAY,  /* by having lived so long: ready_delay_ms */
};

enum config_restart { CONFIG_RESTART_ALWAYS, CONFIG_RESTART_ON_FAILURE, CONFIG_RESTART_NEVER };

enum config_log {
	CONFIG_LOG_PLAIN,  /* output of workers passes through unchanged */
	CONFIG_LOG_PREFIX, /* each line begins with generation and pid */
	CONFIG_LOG_DIRECT, /* workers inherit standard output and error; nothing is kept */
};

enum config_orphans { CONFIG_ORPHANS_DRAIN, CONFIG_ORPHANS_SERVE };

struct config {
	char *file;    /* of --config; NULL: none */
	char *name;    /* of the service: 1..63 bytes of [a-z0-9_-] */
	char **listen; /* "[NAME=]ADDRESS", each well formed; NULL-terminated, never NULL itself */
	size_t listen_len;
	unsigned int workers; /* 1..CONFIG_WORKERS_MAX */

	enum config_ready ready;
	char *ready_text;     /* as it was given, "auto" */
	char *ready_argument; /* NULL where the mode has none */
	int ready_fd;
	int64_t ready_delay_ms;

	int64_t start_timeout_ms; /* 30,000: from a worker's start to its word */
	int64_t drain_timeout_ms; /* 30,000 */
	int64_t kill_timeout_ms;  /* 5,000: from the end of a drain, or the first signal, to SIGKILL
	                           */
	int stop_signal;          /* SIGTERM */

	char *preflight;              /* a command for /bin/sh -c; NULL: none */
	int64_t preflight_timeout_ms; /* 10,000 */

	enum config_restart restart;
	int64_t restart_delay_ms; /* 100: before the second restart in a row; doubled each time */
	int64_t restart_delay_max_ms; /* 30,000 */
	unsigned int restart_limit;   /* 10 in a row; 0: no limit */
	int64_t restart_reset_ms;     /* 10,000: who has lived so long begins a new row */

	char *user, *group; /* names or numbers; NULL: unchanged */
	char *directory;    /* NULL: the supervisor's own */
	char *listen_mode;  /* of the paths of --listen, octal; NULL: 777 less the umask */
	char **env;         /* "NAME=value" or "NAME" (taken out); NULL-terminated, never NULL */
	char *pid_file;     /* the supervisor's; NULL: none */

	enum config_log log;
	bool log_json;  /* the supervisor's own lines */
	char *log_file; /* NULL: standard error (and output); else both, reopened at USR1 */

	enum config_orphans orphans;
	char *control; /* path of the control socket; NULL: by the name (paths.h) */

	char **argv; /* the program and its arguments; NULL-terminated, at least one */
};

/*
 * Reads the command line behind "segue run" (argv[0] is "run"): options, "--", program. With
 * --config the file is read first and the command line wins: its --listen replace those of the
 * file, its --env are added. 0 with a configuration for config_free(), 1 when help was asked for
 * and printed, or -EINVAL with one sentence in reason (-ENOMEM too).
 */
int config_from_arguments(struct config **ret_config, int argc, char **argv,
                          char reason[static CONFIG_REASON_MAX]);

/* Reads a file alone, as 'segue check FILE' does; the sentence begins with "FILE:LINE: ", or
 * "FILE: " where no line is to blame. */
int config_from_file(struct config **ret_config, const char *path,
                     char reason[static CONFIG_REASON_MAX]);

/* The same for a file's bytes; path is for the sentence. */
int config_from_text(struct config **ret_config, const char *path, const char *text, size_t len,
                     char reason[static CONFIG_REASON_MAX]);

/* Every setting as a line of a file; what is not set, as a comment. 0 or -ENOMEM. */
int config_print(const struct config *config, FILE *out);

/* NULL is welcome. */
void config_free(struct config *config);

#endif
