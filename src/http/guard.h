/* SPDX-License-Identifier: MIT */
/*
 * The strict guard in front of the parser.
 *
 * It sees each byte of a head once, as it arrives, and lets a head through only where every
 * reader of RFC 9112 would read it in the same way. It makes no system call and allocates
 * nothing; what it keeps is a few dozen bytes, whatever the client sends.
 */
#ifndef SGH_GUARD_H
#define SGH_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sgh_guard_limits {
	uint32_t head_bytes;
	uint32_t target_bytes;
	uint32_t fields;
};

enum sgh_form {
	SGH_FORM_ORIGIN,   /* /path?query */
	SGH_FORM_ABSOLUTE, /* http://host/path?query */
	SGH_FORM_ASTERISK, /* OPTIONS * */
};

/* All zero is the beginning of a head. Positions count from the first byte given. */
struct sgh_guard {
	uint32_t scanned; /* bytes that have been looked at */
	uint32_t line;    /* where the line begins that is being looked at */
	uint32_t head;    /* where the request line begins, after an empty line */
	bool in_fields;   /* the request line is complete */

	/* What the head says, once it is whole. */
	uint32_t fields;
	uint32_t method_len;
	uint32_t target, target_len;
	uint32_t authority, authority_len; /* of the absolute form */
	uint64_t length;                   /* of the body, where has_length */
	uint8_t minor;                     /* HTTP/1.minor */
	uint8_t form;
	bool has_host;
	bool has_length;
	bool chunked;
	bool close;
	bool keep_alive;
	bool expects_continue;

	int status;        /* of the answer to a head that is refused */
	const char *error; /* and why, for a person */
};

/*
 * Look at what has arrived: @data begins with the first byte that belongs to the head and has
 * grown since the last call. Returns the length of the whole head, 0 while it is not whole, or
 * -EBADMSG with status and error set.
 */
ssize_t sgh_guard_scan(struct sgh_guard *guard, const struct sgh_guard_limits *limits,
                       const char *data, size_t len);

/* Is every byte a token character, and is there at least one? */
bool sgh_is_token(const char *text, size_t len);

/* May the text be a field's value? No control byte but HTAB. */
bool sgh_is_field_value(const char *text, size_t len);

#endif
