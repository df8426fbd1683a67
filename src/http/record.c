/* SPDX-License-Identifier: MIT */
/* The record of a live connection, version 1, little-endian:
 * 0 flags, 1..3 zero, 4 requests, 8 deadline, 16 since. */
#include <errno.h>

#include "record.h"

#define FLAG_IN_HEAD 1

static void put(unsigned char *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = value >> (8 * i);
}

static uint64_t get(const unsigned char *at, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

void sgh_record_write(const struct sgh_record *record, unsigned char bytes[SGH_RECORD_BYTES])
{
	put(bytes, record->in_head ? FLAG_IN_HEAD : 0, 4);
	put(bytes + 4, record->requests, 4);
	put(bytes + 8, record->deadline_ms, 8);
	put(bytes + 16, record->since_ms, 8);
}

int sgh_record_read(struct sgh_record *ret_record, const void *bytes, size_t len)
{
	const unsigned char *at = bytes;

	if (len < SGH_RECORD_BYTES || (get(at, 4) & ~(uint64_t)FLAG_IN_HEAD))
		return -EBADMSG;
	ret_record->in_head = at[0] & FLAG_IN_HEAD;
	ret_record->requests = get(at + 4, 4);
	ret_record->deadline_ms = get(at + 8, 8);
	ret_record->since_ms = get(at + 16, 8);
	return 0;
}
