/* SPDX-License-Identifier: MIT */
/*
 * A head, cut into its parts: see head.h.
 *
 * The guard alone decides what is let through; llhttp is the second reader. Where the two
 * disagree about the framing nobody can know what the client meant, and the head is refused.
 */
#include <errno.h>
#include <llhttp.h>
#include <stdbool.h>
#include <string.h>

#include "head.h"

struct reading {
	llhttp_t parser;
	const char *head;
	struct sgh_field *fields;
	uint32_t count, room;
	bool complete;
};

static struct reading *reading_of(llhttp_t *parser)
{
	return (struct reading *)parser;
}

static int on_name(llhttp_t *parser, const char *at, size_t len)
{
	struct reading *reading = reading_of(parser);
	struct sgh_field *field = &reading->fields[reading->count];

	if (reading->count >= reading->room)
		return -1;
	if (!field->name_len)
		field->name = at - reading->head;
	field->name_len = at + len - reading->head - field->name;
	return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t len)
{
	struct reading *reading = reading_of(parser);
	struct sgh_field *field = &reading->fields[reading->count];

	if (reading->count >= reading->room)
		return -1;
	if (!field->value_len)
		field->value = at - reading->head;
	field->value_len = at + len - reading->head - field->value;
	return 0;
}

static int on_field_complete(llhttp_t *parser)
{
	struct reading *reading = reading_of(parser);
	struct sgh_field *field = &reading->fields[reading->count];

	while (field->value_len && (reading->head[field->value + field->value_len - 1] == ' ' ||
	                            reading->head[field->value + field->value_len - 1] == '\t'))
		field->value_len--;
	reading->count++;
	return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
	reading_of(parser)->complete = true;
	return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
	.on_header_field = on_name,
	.on_header_value = on_value,
	.on_header_value_complete = on_field_complete,
	.on_headers_complete = on_headers_complete,
};

static bool framing_agrees(const struct sgh_guard *guard, const llhttp_t *parser)
{
	bool chunked = parser->flags & F_CHUNKED;

	if (chunked != guard->chunked || parser->http_major != 1 ||
	    parser->http_minor != guard->minor)
		return false;
	return chunked || parser->content_length == (guard->has_length ? guard->length : 0);
}

int sgh_head_parse(const struct sgh_guard *guard, const char *head, size_t len,
                   struct sgh_field *fields)
{
	struct reading reading = { .head = head, .fields = fields, .room = guard->fields };
	llhttp_errno_t error;

	memset(fields, 0, guard->fields * sizeof(*fields));
	llhttp_init(&reading.parser, HTTP_REQUEST, &settings);
	error = llhttp_execute(&reading.parser, head, len);
	/* It also knows the methods of RTSP and the like, and says of those only that the version
	 * does not fit. */
	if (error == HPE_INVALID_METHOD ||
	    (error != HPE_PAUSED &&
	     (reading.parser.method >= HTTP_PRI || reading.parser.method == HTTP_SOURCE)))
		return -ENOSYS;
	if (error != HPE_PAUSED || !reading.complete || reading.count != guard->fields ||
	    !framing_agrees(guard, &reading.parser))
		return -EBADMSG;
	return 0;
}
