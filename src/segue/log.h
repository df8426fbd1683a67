/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's own lines, on standard error or in the log file: text for people, or one
 * JSON object a line. One write() a line, so that none is torn.
 */
#ifndef SEGUE_COMMAND_LOG_H
#define SEGUE_COMMAND_LOG_H

#include <jansson.h>
#include <stdbool.h>

/* path NULL: standard error. 0 or -errno. */
int log_open(const char *service, bool json, const char *path);
/* Opens the path anew; the earlier file stays where that fails. */
int log_reopen(void);

/* fields (may be NULL) is consumed; its members stand in the JSON form beside "time",
 * "service", "event" and "text". */
void log_say(const char *event, json_t *fields, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
