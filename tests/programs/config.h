/* SPDX-License-Identifier: MIT */
/*
 * What the server is told: pairs of an option and a value, from the command line and then from
 * the file that --config names, one word a line. The file is read at every start, so that a test
 * can change what the next generation is and does.
 */
#ifndef TEST_CONFIG_H
#define TEST_CONFIG_H

#include <segue.h>

#define CONFIG_MAX 160

struct config {
	struct segue_options options;
	struct segue_listen_options listen;
	const char *listens[CONFIG_MAX];
	size_t listens_len;
	const char *behaviours[CONFIG_MAX]; /* see behave.h */
	size_t behaviours_len;
	const char *check_arguments[CONFIG_MAX];
	size_t check_arguments_len;
	const char *check;       /* this run is a preflight check: the file that says how it ends */
	const char *refuse_file; /* upgrades are refused with its first line, while there is one */
	const char *save_file;   /* save_state() fails while it exists */
	bool state;              /* ask for the predecessor's state */
	bool passed;             /* listen on whatever was passed */
};

/* Exits with a "failed" event where an option is unknown. */
void config_read(struct config *config, int argc, char **argv);

#endif
