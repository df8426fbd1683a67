/* SPDX-License-Identifier: MIT */
/* The events of a server, one a line, for people or as JSON. */
#ifndef SGH_LOG_H
#define SGH_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "internal.h"

/* One more key and value of an event. */
struct sgh_log_field {
	const char *key;
	const char *text; /* NULL: the number */
	int64_t number;
};

/* Text that is cut off rather than overrun; whole lines only leave it. */
struct sgh_line {
	size_t len;
	char data[8192];
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

/* Where standard error is a file: remember its name, and open it again. */
void sgh_log_remember(struct segue_http_server *server);
void sgh_log_reopen(struct segue_http_server *server);

#define SGH_TEXT(name, value)              \
	{                                  \
		.key = name, .text = value \
	}
#define SGH_NUMBER(name, value)              \
	{                                    \
		.key = name, .number = value \
	}
#define SGH_FIELDS(...) ((const struct sgh_log_field[]){ __VA_ARGS__, { .key = NULL } })

#endif
