/* SPDX-License-Identifier: MIT */
/*
 * Reads answers off a stream; see response.h. A head that lies whole in the data is parsed where
 * it is, and only one that is cut is copied together.
 */
#include "response.h"
#include "head.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A line of chunk framing or a trailer, and all trailers of an answer together. */
#define MAX_LINE_BYTES  1024
#define MAX_LINES_BYTES HEAD_MAX_BYTES

static int refuse(struct response *response, const char *why)
{
	response->why = why;
	return -EBADMSG;
}

void response_init(struct response *response, const struct response_rules *rules)
{
	*response = (struct response){ .rules = rules };
}

void response_done(struct response *response)
{
	free(response->kept);
	excerpt_done(&response->excerpt);
	response->kept = NULL;
	response->kept_size = response->kept_room = 0;
}

void response_next(struct response *response)
{
	response->state = RESPONSE_HEAD;
	response->started = false;
	response->close = false;
	response->is_wrong = false;
	response->has_counted = false;
	response->status = 0;
	response->body_size = 0;
	response->kept_size = 0;
	response->scanned = 0;
	response->lines_size = 0;
	excerpt_clear(&response->excerpt);
}

static int keep(struct response *response, const char *data, size_t size)
{
	size_t needed = response->kept_size + size;

	if (needed > response->kept_room) {
		size_t room = needed < 512 ? 512 : needed * 2;
		char *kept = realloc(response->kept, room);

		if (!kept)
			return -ENOMEM;
		response->kept = kept;
		response->kept_room = room;
	}
	memcpy(response->kept + response->kept_size, data, size);
	response->kept_size = needed;
	return 0;
}

/* It is shown on terminals: nothing that one could obey is kept. */
static void note_counted(struct response *response, const char *text, size_t size)
{
	if (size > sizeof(response->counted))
		size = sizeof(response->counted);
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)text[i];

		response->counted[i] = byte < ' ' || byte == 0x7f ? ' ' : (char)byte;
	}
	response->counted_size = (uint8_t)size;
	response->has_counted = true;
}

static int note_excerpt(struct response *response, const char *data, size_t size)
{
	return response->rules->pattern ? excerpt_add(&response->excerpt, data, size) : 0;
}

static enum response_state body_state(const struct response *response, const struct head *head)
{
	if (response->rules->is_head || head->status == 204 || head->status == 304)
		return RESPONSE_COMPLETE;
	if (head->chunked)
		return RESPONSE_CHUNK_SIZE;
	if (!head->has_length)
		return RESPONSE_UNTIL_CLOSE;
	return head->length ? RESPONSE_BODY : RESPONSE_COMPLETE;
}

static int take_head(struct response *response, const char *data, size_t size)
{
	struct head head;
	int r;

	r = head_parse(data, size, response->rules->count_name, &head, &response->why);
	if (r < 0)
		return r;
	response->kept_size = 0;
	response->scanned = 0;
	if (head.status < 200)
		return 0;
	response->status = head.status;
	response->left = head.length;
	response->state = body_state(response, &head);
	response->close = head.close || (head.is_http10 && !head.keep_alive) ||
	                  response->state == RESPONSE_UNTIL_CLOSE;
	if (head.counted)
		note_counted(response, head.counted, head.counted_size);
	return note_excerpt(response, data, size);
}

/* Returns how much of the data the head has taken. */
static ssize_t feed_head(struct response *response, const char *data, size_t size)
{
	size_t before = response->kept_size;
	int end, r;

	if (before) {
		r = keep(response, data, size);
		if (r < 0)
			return r;
		data = response->kept;
		size = response->kept_size;
	}
	end = head_end(data, size, &response->scanned, &response->why);
	if (end < 0)
		return end;
	if (end > 0) {
		r = take_head(response, data, (size_t)end);
		return r < 0 ? r : end - (ssize_t)before;
	}
	if (!before) {
		r = keep(response, data, size);
		if (r < 0)
			return r;
	}
	return (ssize_t)(size - before);
}

static void check_body(struct response *response, const char *data, size_t size)
{
	const struct response_rules *rules = response->rules;

	if (rules->expected && response->status < 300 &&
	    (response->body_size + size > rules->expected_size ||
	     memcmp(rules->expected + response->body_size, data, size) != 0)) {
		response->is_wrong = true;
		response->body_size = 0;
		return;
	}
	if (!response->is_wrong)
		response->body_size += size;
}

/* Returns how much of the data belongs to the body. */
static ssize_t feed_body(struct response *response, const char *data, size_t size)
{
	int r;

	if (response->state != RESPONSE_UNTIL_CLOSE && size > response->left)
		size = (size_t)response->left;
	check_body(response, data, size);
	r = note_excerpt(response, data, size);
	if (r < 0)
		return r;
	if (response->state == RESPONSE_UNTIL_CLOSE)
		return (ssize_t)size;
	response->left -= size;
	if (response->left == 0)
		response->state =
			response->state == RESPONSE_BODY ? RESPONSE_COMPLETE : RESPONSE_CHUNK_END;
	return (ssize_t)size;
}

/* The size in hex digits, then perhaps extensions, of which only the bytes are checked. */
static int take_chunk_size(struct response *response, const char *line, size_t size)
{
	uint64_t value = 0;
	size_t i;

	for (i = 0; i < size; i++) {
		char lower = line[i] | 0x20;
		int digit;

		if (line[i] >= '0' && line[i] <= '9')
			digit = line[i] - '0';
		else if (lower >= 'a' && lower <= 'f')
			digit = lower - 'a' + 10;
		else
			break;
		if (i == 15)
			return refuse(response, "the size of a chunk is too large");
		value = value << 4 | (uint64_t)digit;
	}
	if (i == 0 || (i < size && line[i] != ';' && line[i] != ' ' && line[i] != '\t'))
		return refuse(response, "the size of a chunk is malformed");
	for (; i < size; i++) {
		if (((unsigned char)line[i] < ' ' && line[i] != '\t') || line[i] == 0x7f)
			return refuse(response, "a chunk extension holds a control byte");
	}
	response->left = value;
	response->lines_size = 0;
	response->state = value ? RESPONSE_CHUNK_DATA : RESPONSE_TRAILER;
	return 0;
}

static int take_line(struct response *response, const char *line, size_t size)
{
	switch (response->state) {
	case RESPONSE_CHUNK_SIZE:
		return take_chunk_size(response, line, size);
	case RESPONSE_CHUNK_END:
		if (size)
			return refuse(response, "no CRLF follows the data of a chunk");
		response->state = RESPONSE_CHUNK_SIZE;
		return 0;
	default:
		if (size == 0) {
			response->state = RESPONSE_COMPLETE;
			return 0;
		}
		return head_field_check(line, size, &response->why);
	}
}

/* Only these two bytes may follow a chunk, so there is no need to wait for a whole line. */
static bool begins_crlf(const struct response *response, const char *data, size_t size)
{
	size_t left = 2 - response->kept_size;

	return memcmp(data, &"\r\n"[response->kept_size], size < left ? size : left) == 0;
}

/* Returns how much of the data belongs to the line. */
static ssize_t feed_line(struct response *response, const char *data, size_t size)
{
	const char *feed = memchr(data, '\n', size);
	size_t used = feed ? (size_t)(feed + 1 - data) : size;
	int r;

	if (response->state == RESPONSE_CHUNK_END && !begins_crlf(response, data, size))
		return refuse(response, "no CRLF follows the data of a chunk");
	response->lines_size += used;
	if (response->kept_size + used > MAX_LINE_BYTES || response->lines_size > MAX_LINES_BYTES)
		return refuse(response, "a chunk's line or the trailers are too long");
	if (response->kept_size || !feed) {
		r = keep(response, data, used);
		if (r < 0 || !feed)
			return r < 0 ? r : (ssize_t)used;
		data = response->kept;
		size = response->kept_size;
	} else {
		size = used;
	}
	if (size < 2 || data[size - 2] != '\r')
		return refuse(response, "a line ends with a bare line feed");
	response->kept_size = 0;
	r = take_line(response, data, size - 2);
	return r < 0 ? r : (ssize_t)used;
}

static ssize_t feed_some(struct response *response, const char *data, size_t size)
{
	switch (response->state) {
	case RESPONSE_HEAD:
		return feed_head(response, data, size);
	case RESPONSE_BODY:
	case RESPONSE_UNTIL_CLOSE:
	case RESPONSE_CHUNK_DATA:
		return feed_body(response, data, size);
	default:
		return feed_line(response, data, size);
	}
}

static void complete(struct response *response)
{
	const struct response_rules *rules = response->rules;
	const char *text;
	size_t size;

	response->state = RESPONSE_COMPLETE;
	if (rules->pattern && excerpt_find(&response->excerpt, rules->pattern, &text, &size))
		note_counted(response, text, size);
	if (rules->expected && !rules->is_head && response->status < 300 &&
	    response->body_size != rules->expected_size)
		response->is_wrong = true;
}

int response_feed(struct response *response, const char *data, size_t size, size_t *ret_used)
{
	size_t used = 0;

	if (size)
		response->started = true;
	while (used < size && response->state != RESPONSE_COMPLETE) {
		ssize_t r = feed_some(response, data + used, size - used);

		if (r < 0)
			return (int)r;
		used += (size_t)r;
	}
	*ret_used = used;
	if (response->state != RESPONSE_COMPLETE)
		return 0;
	complete(response);
	return 1;
}

int response_end(struct response *response)
{
	if (!response->started)
		return 0;
	if (response->state != RESPONSE_UNTIL_CLOSE)
		return -EPIPE;
	complete(response);
	return 1;
}
