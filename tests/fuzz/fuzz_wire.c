/* SPDX-License-Identifier: MIT */
/*
 * Messages on the channel: what is decoded can be encoded, to the same bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads each byte, so that a length beyond the buffer is seen. */
static void read_all(const uint8_t *bytes, size_t len)
{
	static volatile uint8_t sink;

	for (size_t i = 0; i < len; i++)
		sink = bytes[i];
	(void)sink;
}

static void walk_connections(const struct sg_message *message)
{
	struct sg_wire_connection connection;
	const uint8_t *items = message->items;
	size_t len = message->items_len;

	if (message->count < 1 || message->count > SG_WIRE_FDS_MAX)
		abort();
	for (uint32_t i = 0; i < message->count; i++) {
		if (sg_wire_next_connection(&items, &len, &connection) != 0)
			abort();
		read_all(connection.bytes, connection.bytes_len);
		read_all(connection.record, connection.record_len);
	}
}

/* What an earlier version did not say is 0. */
static void check_added(const struct sg_message *message, const uint8_t *added, size_t len)
{
	if (message->type != SG_MESSAGE_HELLO && message->type != SG_MESSAGE_INTRODUCE)
		abort();
	for (size_t i = 0; i < len; i++)
		if (added[i] != 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t again[SG_WIRE_MAX];
	static struct sg_message message;
	size_t both;
	ssize_t n;

	if (sg_wire_decode(&message, data, size) != 0)
		return 0;
	if (strcmp(sg_wire_text(message.type), "?") == 0)
		abort();
	if (message.type == SG_MESSAGE_CONNECTIONS)
		walk_connections(&message);
	n = sg_wire_encode(again, &message);
	if (n < SG_WIRE_HEADER)
		abort();
	/* All is the same but the length, where a later version's bytes follow, or where ones of
	 * this version have been missing. */
	both = (size_t)n < size ? (size_t)n : size;
	if (memcmp(again, data, 8) != 0 || memcmp(again + 12, data + 12, both - 12) != 0)
		abort();
	if ((size_t)n > size)
		check_added(&message, again + size, (size_t)n - size);
	if ((size_t)n == size && memcmp(again, data, size) != 0)
		abort();
	return 0;
}
