/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's own lines, on standard error or in the log file: text for people, or one
 * JSON object a line. One write() a line, so that none is torn.
 *
 * Nothing here waits for a reader, and no flag of a descriptor that others have too is changed:
 * what there is no room for is kept, 64 KiB of it, and how many lines were lost beyond is said.
 */
#ifndef SEGUE_COMMAND_LOG_H
#define SEGUE_COMMAND_LOG_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

/* path NULL: standard error. 0 or -errno. */
int log_open(const char *service, bool json, const char *path);
/* Opens the path anew; the earlier file stays where that fails. */
int log_reopen(void);
/* Without a loop, what is kept is tried again with the next line only. */
int log_watch(uv_loop_t *loop);
void log_unwatch(void);
/* Waits up to a second for a reader, if something is kept. Lines said later still come. */
void log_close(void);

/* fields (may be NULL) is consumed; its members stand in the JSON form beside "time",
 * "service", "event" and "text". */
void log_say(const char *event, json_t *fields, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
