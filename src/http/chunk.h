/* SPDX-License-Identifier: MIT */
/* The chunked transfer coding, strictly. Makes no system call and allocates nothing. */
#ifndef SGH_CHUNK_H
#define SGH_CHUNK_H

#include <stddef.h>
#include <stdint.h>

struct sgh_chunk_limits {
	uint32_t line_bytes;    /* size and extensions of one chunk */
	uint32_t trailer_bytes; /* all trailer lines together */
};

/* All zero is the beginning of a body. */
struct sgh_chunk {
	uint64_t left;     /* of the chunk's data */
	uint64_t body;     /* bytes of data in all chunks so far */
	uint64_t overhead; /* bytes of extensions in all chunks so far */
	uint32_t line;     /* bytes of the line so far */
	uint32_t trailer;  /* bytes of trailers so far */
	uint8_t state;
	uint8_t digits;
	int status; /* of the answer to a body that is refused */
	const char *error;
};

/*
 * Read from @data: at most one piece of the body comes out at a time, as a part of @data.
 * Returns 0 with @ret_used bytes read (call again while some are left), 1 at the end of
 * the body, or -EBADMSG with status and error set. Trailers are checked and dropped.
 */
int sgh_chunk_read(struct sgh_chunk *chunk, const struct sgh_chunk_limits *limits, const char *data,
                   size_t len, size_t *ret_used, const char **ret_piece, size_t *ret_piece_len);

#endif
