/* SPDX-License-Identifier: MIT */
/*
 * What a client asks for: one line of JSON, read strictly. A verb or a member that is not known
 * is refused, never ignored: who asks for more than this supervisor can do must hear so.
 *
 * Pure. doc/control.md prints the same verbs and members.
 */
#ifndef SEGUE_COMMAND_REQUEST_H
#define SEGUE_COMMAND_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define REQUEST_REASON_MAX 256

enum request_verb {
	REQUEST_NONE,
	REQUEST_UPGRADE,
	REQUEST_STATUS,
	REQUEST_STOP,
	REQUEST_CUT,
	REQUEST_RESTART,
	REQUEST_KILL,
};

struct request {
	enum request_verb verb;
	bool wait;           /* upgrade */
	char **argv;         /* upgrade: NULL, or a command line that ends with NULL */
	bool now;            /* stop */
	unsigned int worker; /* restart */
	int signal;          /* kill */
};

/* Reads a line without its newline. 0 with a request for request_done(), or -EINVAL with one
 * sentence, which may quote bytes of the line. */
int request_read(struct request *ret_request, const char *line, size_t len,
                 char reason[static REQUEST_REASON_MAX]);
void request_done(struct request *request);

#endif
