/* SPDX-License-Identifier: MIT */
/*
 * The chunked transfer coding, strictly: see chunk.h.
 *
 * A byte-wise machine. It is here and not left to the parser because Debian's llhttp takes
 * extensions without end and is content with a CR that something else than LF follows.
 */
#include <errno.h>
#include <stdbool.h>

#include "chunk.h"
#include "guard.h"

/* A size of more digits could overflow what counts it. */
#define DIGITS_MAX 15
/* Extensions of all chunks: so much, and in proportion to the data. */
#define OVERHEAD_BASE  16384
#define OVERHEAD_RATIO 64

enum state {
	SIZE,
	EXTENSION,
	SIZE_LF,
	DATA,
	DATA_CR,
	DATA_LF,
	TRAILER_START,
	TRAILER_NAME,
	TRAILER_VALUE,
	TRAILER_LF,
	END_LF,
	DONE,
};

static int refuse(struct sgh_chunk *chunk, int status, const char *error)
{
	chunk->status = status;
	chunk->error = error;
	return -EBADMSG;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static int take_size(struct sgh_chunk *chunk, char c)
{
	int digit = hex_digit(c);

	if (digit >= 0) {
		if (++chunk->digits > DIGITS_MAX)
			return refuse(chunk, 400, "a chunk size of too many digits");
		chunk->left = chunk->left << 4 | digit;
		return 0;
	}
	if (!chunk->digits)
		return refuse(chunk, 400, "a chunk without a size");
	if (c == '\r')
		chunk->state = SIZE_LF;
	else if (c == ';')
		chunk->state = EXTENSION;
	else
		return refuse(chunk, 400, "a chunk size that is not a hexadecimal number");
	return 0;
}

static int take_extension(struct sgh_chunk *chunk, char c)
{
	if (c == '\r') {
		chunk->state = SIZE_LF;
		return 0;
	}
	if (!sgh_is_field_value(&c, 1))
		return refuse(chunk, 400, "a control byte in a chunk extension");
	if (++chunk->overhead > OVERHEAD_BASE + chunk->body / OVERHEAD_RATIO)
		return refuse(chunk, 400, "too many bytes of chunk extensions");
	return 0;
}

static int take_trailer(struct sgh_chunk *chunk, const struct sgh_chunk_limits *limits, char c)
{
	if (++chunk->trailer > limits->trailer_bytes)
		return refuse(chunk, 431, "the trailers are too large");
	if (chunk->state == TRAILER_START && c == '\r') {
		chunk->state = END_LF;
	} else if (chunk->state == TRAILER_VALUE) {
		if (c == '\r')
			chunk->state = TRAILER_LF;
		else if (!sgh_is_field_value(&c, 1))
			return refuse(chunk, 400, "a control byte in a trailer");
	} else if (chunk->state == TRAILER_NAME && c == ':') {
		chunk->state = TRAILER_VALUE;
	} else if (sgh_is_token(&c, 1)) {
		chunk->state = TRAILER_NAME;
	} else {
		return refuse(chunk, 400, "a trailer name that is not a token");
	}
	return 0;
}

static int expect(struct sgh_chunk *chunk, char c, char wanted, enum state next)
{
	if (c != wanted)
		return refuse(chunk, 400, "a line of the chunked body that does not end with CRLF");
	chunk->state = next;
	return 0;
}

static int take_framing(struct sgh_chunk *chunk, const struct sgh_chunk_limits *limits, char c)
{
	int r;

	switch (chunk->state) {
	case SIZE:
	case EXTENSION:
		if (++chunk->line > limits->line_bytes)
			return refuse(chunk, 400, "a chunk's size line is too long");
		return chunk->state == SIZE ? take_size(chunk, c) : take_extension(chunk, c);
	case SIZE_LF:
		return expect(chunk, c, '\n', chunk->left ? DATA : TRAILER_START);
	case DATA_CR:
		return expect(chunk, c, '\r', DATA_LF);
	case DATA_LF:
		chunk->line = 0;
		chunk->digits = 0;
		return expect(chunk, c, '\n', SIZE);
	case TRAILER_LF:
		return expect(chunk, c, '\n', TRAILER_START);
	case END_LF:
		r = expect(chunk, c, '\n', DONE);
		return r < 0 ? r : 1;
	default:
		return take_trailer(chunk, limits, c);
	}
}

int sgh_chunk_read(struct sgh_chunk *chunk, const struct sgh_chunk_limits *limits, const char *data,
                   size_t len, size_t *ret_used, const char **ret_piece, size_t *ret_piece_len)
{
	size_t i = 0;
	int r = 0;

	*ret_piece_len = 0;
	if (chunk->status)
		return -EBADMSG;
	while (i < len && r == 0) {
		if (chunk->state == DATA) {
			size_t piece = len - i;

			if (piece > chunk->left)
				piece = chunk->left;
			*ret_piece = data + i;
			*ret_piece_len = piece;
			chunk->left -= piece;
			chunk->body += piece;
			i += piece;
			if (!chunk->left)
				chunk->state = DATA_CR;
			break;
		}
		r = take_framing(chunk, limits, data[i++]);
	}
	*ret_used = i;
	return r;
}
