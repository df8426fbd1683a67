/* SPDX-License-Identifier: MIT */
/* The events of a server, one a line, for people or as JSON. */
#ifndef SGH_LOG_H
#define SGH_LOG_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "internal.h"

/* One more key and value of an event. */
struct sgh_log_field {
	const char *key;
	const char *text; /* NULL: the number */
	int64_t number;
	bool is_truth; /* the number is true or false */
};

/* Text that is cut off rather than overrun; whole lines only leave it. A pipe takes one whole or
 * not at all: pipe(7). */
struct sgh_line {
	size_t len;
	char data[PIPE_BUF];
};

void sgh_line_add(struct sgh_line *line, const char *text);
/* Control bytes as \xNN. */
void sgh_line_escaped(struct sgh_line *line, const char *text);
/* A quoted JSON string; bytes that are not UTF-8 become U+FFFD. */
void sgh_line_json(struct sgh_line *line, const char *text);
void sgh_line_number(struct sgh_line *line, int64_t number);

/* One event; a field without key ends @fields. In the text form it is @text alone. */
void sgh_log(struct segue_http_server *server, const char *event,
             const struct sgh_log_field *fields, const char *text, ...)
	__attribute__((format(printf, 4, 5)));

/* Why the program cannot serve: said also where no events are wanted. */
void sgh_log_failure(struct segue_http_server *server, const char *reason);

/* Write without waiting, PIPE_BUF bytes at most where it is not a regular file; -EAGAIN where
 * nobody reads. */
ssize_t sgh_log_write(int fd, bool is_file, const char *data, size_t len);
bool sgh_log_is_file(int fd);

/* Where standard error is a file: remember its name, and open it again. */
void sgh_log_remember(struct segue_http_server *server);
void sgh_log_reopen(struct segue_http_server *server);

#define SGH_TEXT(name, value)                  \
	{                                      \
		.key = (name), .text = (value) \
	}
#define SGH_NUMBER(name, value)                  \
	{                                        \
		.key = (name), .number = (value) \
	}
#define SGH_TRUTH(name, value)                                     \
	{                                                          \
		.key = (name), .number = (value), .is_truth = true \
	}
#define SGH_FIELDS(...) ((const struct sgh_log_field[]){ __VA_ARGS__, { .key = NULL } })

#endif
