/* SPDX-License-Identifier: MIT */
/*
 * See printable.h. A worker's status and its last lines are shown to operators: neither an
 * escape sequence nor a broken character may get there.
 * Source: RFC 3629, section 4
 */
#include "segue/printable.h"

#include <stdint.h>
#include <string.h>

/* The least code point that needs so many bytes. */
static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };

static size_t length_of(unsigned char first)
{
	if (first >= 0xf0)
		return first < 0xf5 ? 4 : 0;
	if (first >= 0xe0)
		return 3;
	return first >= 0xc2 ? 2 : 0;
}

/* Bytes of the character of several bytes at the beginning, 0 where it is none that prints. */
static size_t wide_character(const unsigned char *text, size_t len)
{
	size_t need = length_of(text[0]);
	uint32_t code;

	if (need == 0 || need > len)
		return 0;
	code = text[0] & (0xffu >> (need + 1));
	for (size_t i = 1; i < need; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3f);
	}
	if (code < least[need] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	/* The second set of control characters. */
	return code >= 0xa0 ? need : 0;
}

void printable_make(char *text, size_t len, bool lines)
{
	unsigned char *at = (unsigned char *)text;
	size_t i = 0;

	while (i < len) {
		size_t wide = at[i] < 0x80 ? 0 : wide_character(at + i, len - i);
		bool fits = at[i] >= 0x20 && at[i] < 0x7f;

		if (lines && (at[i] == '\n' || at[i] == '\t'))
			fits = true;
		if (wide == 0 && !fits)
			at[i] = '?';
		i += wide > 0 ? wide : 1;
	}
}

size_t printable_cut(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);

	if (len <= max)
		return len;
	while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80)
		max--;
	return max;
}
