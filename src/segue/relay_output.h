/* SPDX-License-Identifier: MIT */
/*
 * Where the relay writes: a file, a pipe, a terminal or a socket, which others have open as well.
 * Writing never blocks but on a regular file, and never changes a flag that others share.
 */
#ifndef SEGUE_COMMAND_RELAY_OUTPUT_H
#define SEGUE_COMMAND_RELAY_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct relay_output {
	int fd;
	bool own;     /* fd was opened here */
	bool socket;  /* never blocks by a flag of the call */
	bool careful; /* may block: asked for room first, little at a time */
	bool dead;    /* nobody reads it any more: what is written is lost */
	char *rest;   /* what there was no room for */
	size_t rest_len;
};

/* Borrows the descriptor. */
void relay_output_init(struct relay_output *ret_output, int fd);

/* Only where there is no rest; what there is no room for becomes the rest. */
void relay_output_write(struct relay_output *output, const char *data, size_t len);

/* Writes the rest, or some of it. */
void relay_output_flush(struct relay_output *output);

/* What was written and not read yet, in bytes or whatever the kernel counts; 0 where it does not.
 */
uint64_t relay_output_unread(const struct relay_output *output);

#endif
