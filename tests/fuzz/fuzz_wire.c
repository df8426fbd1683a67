/* SPDX-License-Identifier: MIT */
/*
 * Messages on the channel: what is decoded can be encoded, and decodes to the same bytes again.
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

	while (len > 0 && sg_wire_next_connection(&items, &len, &connection) == 0) {
		read_all(connection.bytes, connection.bytes_len);
		read_all(connection.record, connection.record_len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t first[SG_WIRE_MAX], second[SG_WIRE_MAX];
	static struct sg_message message, again;
	ssize_t n, m;

	if (sg_wire_decode(&message, data, size) != 0)
		return 0;
	if (message.type == SG_MESSAGE_CONNECTIONS)
		walk_connections(&message);
	n = sg_wire_encode(first, &message);
	if (n < 0 || sg_wire_decode(&again, first, (size_t)n) != 0)
		abort();
	m = sg_wire_encode(second, &again);
	if (m != n || memcmp(first, second, (size_t)n) != 0)
		abort();
	return 0;
}
