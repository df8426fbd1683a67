/* SPDX-License-Identifier: MIT */
/*
 * A head and a chunked body, as a client may send them.
 *
 * What the guard lets through llhttp has to read, and both have to see the same framing; how the
 * input was cut must make no difference; and the body that comes out of our chunks is what
 * llhttp makes of them.
 */
#include <errno.h>
#include <llhttp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/chunk.h"
#include "http/guard.h"
#include "http/head.h"
#include "http/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FIELDS 50

static const struct sgh_guard_limits head_limits = { 4096, 1024, FIELDS };
static const struct sgh_chunk_limits chunk_limits = { 128, 1024 };

static ssize_t scan_in_pieces(const char *data, size_t size, size_t step,
                              struct sgh_guard *ret_guard)
{
	ssize_t r = 0;

	*ret_guard = (struct sgh_guard){ 0 };
	for (size_t end = step; r == 0; end += step) {
		if (end > size)
			end = size;
		r = sgh_guard_scan(ret_guard, &head_limits, data, end);
		if (end == size)
			break;
	}
	return r;
}

struct body {
	const char *data;
	size_t len, at;
	int done;
};

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
	struct body *body = parser->data;

	if (body->at + len > body->len || memcmp(body->data + body->at, at, len) != 0)
		abort();
	body->at += len;
	return 0;
}

static int on_complete(llhttp_t *parser)
{
	struct body *body = parser->data;

	body->done = 1;
	return HPE_PAUSED;
}

/* Ours came to the end of the body: llhttp must come to the same. */
static void compare_body(const char *head, size_t head_len, const char *coded, size_t coded_len,
                         const char *out, size_t out_len)
{
	struct body body = { out, out_len, 0, 0 };
	llhttp_settings_t settings;
	llhttp_errno_t error;
	llhttp_t parser;

	llhttp_settings_init(&settings);
	settings.on_body = on_body;
	settings.on_message_complete = on_complete;
	llhttp_init(&parser, HTTP_REQUEST, &settings);
	parser.data = &body;
	if (llhttp_execute(&parser, head, head_len) != HPE_OK)
		abort();
	error = llhttp_execute(&parser, coded, coded_len);
	/* It refuses some extensions and trailers, which we drop. */
	if (error != HPE_OK && error != HPE_PAUSED)
		return;
	if (error != HPE_PAUSED || !body.done || body.at != out_len ||
	    llhttp_get_error_pos(&parser) < coded + coded_len - 1)
		abort();
}

static int decode(const char *data, size_t size, size_t step, char *out, size_t *ret_out,
                  size_t *ret_used)
{
	struct sgh_chunk chunk = { 0 };
	size_t at = 0;
	int r = 0;

	*ret_out = 0;
	while (r == 0 && at < size) {
		size_t end = at + step < size ? at + step : size;

		while (r == 0 && at < end) {
			const char *piece = NULL;
			size_t used = 0, len = 0;

			r = sgh_chunk_read(&chunk, &chunk_limits, data + at, end - at, &used,
			                   &piece, &len);
			if (r < 0)
				break;
			if (len)
				memcpy(out + *ret_out, piece, len);
			*ret_out += len;
			at += used;
		}
	}
	*ret_used = at;
	return r;
}

static void check_chunks(const char *head, size_t head_len, const char *data, size_t size)
{
	char *out = malloc(size + 1), *again = malloc(size + 1);
	size_t out_len, again_len, used, again_used;
	int r = decode(data, size, size + 1, out, &out_len, &used);

	if (r != decode(data, size, 1, again, &again_len, &again_used))
		abort();
	if (r == 1) {
		if (out_len != again_len || used != again_used || memcmp(out, again, out_len) != 0)
			abort();
		compare_body(head, head_len, data, used, out, out_len);
	}
	free(out);
	free(again);
}

static void check_head(const struct sgh_guard *guard, const char *data, size_t len, size_t size)
{
	struct sgh_field fields[FIELDS];
	const char *head = data + guard->head;
	int r = sgh_head_parse(guard, head, len - guard->head, fields);

	if (r == -ENOSYS)
		return;
	if (r < 0)
		abort();
	if (guard->chunked)
		check_chunks(head, len - guard->head, data + len, size - len);
}

static void check_path(const char *data, size_t size)
{
	char *copy = malloc(size + 1);
	ssize_t len;

	if (size)
		memcpy(copy, data, size);
	len = sgh_path_decode(copy, size);
	if (len > (ssize_t)size ||
	    (len > 0 && memchr(copy, '\0', len) && !memchr(data, '\0', size)))
		abort();
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	const char *data = (const char *)bytes;
	struct sgh_guard whole, pieces;
	ssize_t a = scan_in_pieces(data, size, size ? size : 1, &whole);
	ssize_t b = scan_in_pieces(data, size, 1, &pieces);

	if (a != b || whole.status != pieces.status || whole.fields != pieces.fields)
		abort();
	if (a > 0)
		check_head(&whole, data, a, size);
	check_path(data, size);
	return 0;
}
