/* SPDX-License-Identifier: MIT */
/*
 * The head of an answer: status line and header fields, read strictly as RFC 9112 has them. What
 * a lenient client would let pass (bare line feeds, folded fields, two lengths) is malformed here,
 * since one test of a server is that it sends nothing of the kind. Pure.
 */
#ifndef LOAD_HEAD_H
#define LOAD_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAD_MAX_BYTES 65536

struct head {
	int status;
	bool is_http10;
	bool close;      /* Connection: close */
	bool keep_alive; /* Connection: keep-alive */
	bool chunked;
	bool has_length;
	uint64_t length;
	const char *counted; /* value of the header that is counted, NULL when absent */
	size_t counted_size;
};

/**
 * head_end - looks for the empty line that ends a head
 * @scanned: how much of @data needs no second look; 0 at first, moved on by the call
 *
 * Returns: the size of the head with its empty line, 0 when more is needed, -EBADMSG (and
 *          @ret_why) as soon as a line shows that this is no head
 */
int head_end(const char *data, size_t size, size_t *scanned, const char **ret_why);

/**
 * head_parse - reads a whole head
 * @size:       what head_end() returned
 * @count_name: the header whose value is wanted in @ret_head->counted, or NULL
 *
 * Returns: 0, or -EBADMSG and @ret_why
 */
int head_parse(const char *data, size_t size, const char *count_name, struct head *ret_head,
               const char **ret_why);

/**
 * head_field_check - whether a line (without its CRLF) is a well-formed header field
 *
 * Returns: the size of the field's name, or -EBADMSG and @ret_why
 */
int head_field_check(const char *line, size_t size, const char **ret_why);

#endif
