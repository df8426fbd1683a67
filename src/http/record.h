/* SPDX-License-Identifier: MIT */
/* What travels with a live connection besides its descriptor and unread bytes. Pure. */
#ifndef SGH_RECORD_H
#define SGH_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SGH_RECORD_BYTES 24

struct sgh_record {
	bool in_head;         /* the deadline is that of the head, else that of idling */
	uint32_t requests;    /* answered on this connection so far */
	uint64_t deadline_ms; /* of CLOCK_MONOTONIC, which all generations share; 0: none */
	uint64_t since_ms;    /* when the connection was accepted */
};

void sgh_record_write(const struct sgh_record *record, unsigned char bytes[SGH_RECORD_BYTES]);

/* -EBADMSG where it is none. Longer ones are taken: a later version may append. */
int sgh_record_read(struct sgh_record *ret_record, const void *bytes, size_t len);

#endif
