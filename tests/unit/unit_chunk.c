/* SPDX-License-Identifier: MIT */
/* The chunked coding: the same body comes out however the input is cut. */
#include "http/chunk.h"
#include "unit.h"

static const struct sgh_chunk_limits limits = { 64, 128 };

/* What comes out where the input comes in pieces of @step bytes; 1 at the end, 0 before, or
 * the negative status. @ret_used counts the bytes of the coding. */
static int decode(const char *data, size_t len, size_t step, char *out, size_t *ret_out,
                  size_t *ret_used)
{
	struct sgh_chunk chunk = { 0 };
	size_t at = 0;
	int r = 0;

	*ret_out = 0;
	while (r == 0 && at < len) {
		const char *piece;
		size_t end = at + step < len ? at + step : len;
		size_t used, piece_len;

		while (r == 0 && at < end) {
			r = sgh_chunk_read(&chunk, &limits, data + at, end - at, &used, &piece,
			                   &piece_len);
			if (r < 0)
				return -chunk.status;
			if (piece_len)
				memcpy(out + *ret_out, piece, piece_len);
			*ret_out += piece_len;
			at += used;
		}
	}
	*ret_used = at;
	return r;
}

static int decode_text(const char *text, const char *wanted)
{
	char out[256];
	size_t out_len, used;
	int first = decode(text, strlen(text), 4096, out, &out_len, &used);

	for (size_t step = 1; step < 8; step++)
		CHECK_INT(decode(text, strlen(text), step, out, &out_len, &used), first);
	if (first < 0)
		return first;
	CHECK_INT(out_len, strlen(wanted));
	CHECK(!memcmp(out, wanted, out_len));
	return first == 1 ? (int)used : 0;
}

UNIT_CASE(chunks_are_put_together)
{
	CHECK_INT(decode_text("3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\nrest", "abcd"), 23);
	CHECK_INT(decode_text("A\r\n0123456789\r\n00\r\nX: y\r\nZ:\r\n\r\n", "0123456789"), 31);
	CHECK_INT(decode_text("3\r\nabc\r\n", "abc"), 0);
}

UNIT_CASE(what_can_be_read_in_two_ways_is_refused)
{
	static const char *const bad[] = {
		"\r\n",
		"g\r\n",
		"0x1\r\na\r\n",
		"+1\r\na\r\n",
		"1 \r\na\r\n",
		" 1\r\na\r\n",
		"1\na\r\n",
		"1\rXa\r\n",
		"1\r\nab\r\n",
		"1\r\na\n",
		"1;\n",
		"1;\r\r\n",
		"1;\001\r\n",
		"0\r\n\n",
		"0\r\n\rX",
		"0\r\nx\r\n",
		"0\r\n: y\r\n",
		"0\r\nx: y\n",
		"0\r\nx : y",
		"0\r\n x",
		"-1\r\n",
		"0\r\nx: \177\r\n",
		"1000000000000000\r\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (decode_text(bad[i], "") != -400)
			UNIT_FAIL("case %zu was taken: %s", i, bad[i]);
}

UNIT_CASE(lines_and_trailers_are_bounded)
{
	char text[512] = "1;";

	memset(text + 2, 'x', 61);
	CHECK_INT(decode_text(text, ""), 0);
	memset(text + 2, 'x', 63);
	CHECK_INT(decode_text(text, ""), -400);
	snprintf(text, sizeof(text), "0\r\nx: %0200d\r\n\r\n", 0);
	CHECK_INT(decode_text(text, ""), -431);
}

UNIT_CASE(extensions_of_all_chunks_are_bounded)
{
	struct sgh_chunk chunk = { 0 };
	const char *text = "1;0123456789012345678901234567890123456789\r\nx\r\n";
	size_t total = 0;
	int r = 0;

	while (r == 0) {
		size_t at = 0;

		while (r == 0 && at < strlen(text)) {
			const char *piece;
			size_t used, len;

			r = sgh_chunk_read(&chunk, &limits, text + at, strlen(text) - at, &used,
			                   &piece, &len);
			at += used;
		}
		total += at;
		CHECK(total < 100000);
	}
	CHECK_INT(chunk.status, 400);
}

UNIT_MAIN
