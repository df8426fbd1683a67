/* SPDX-License-Identifier: MIT */
/* Escaping; see html.h. */
#include "html.h"

#include <stddef.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* How many bytes the character has that begins here; 0 where none does. */
static size_t character_size(const unsigned char *text)
{
	static const struct {
		unsigned char first, last, low, high; /* the second byte's range */
		size_t size;
	} forms[] = {
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	if (*text < 0x80)
		return 1;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (*text < forms[i].first || *text > forms[i].last)
			continue;
		if (text[1] < forms[i].low || text[1] > forms[i].high)
			return 0;
		for (size_t at = 2; at < forms[i].size; at++) {
			if ((text[at] & 0xc0) != 0x80)
				return 0;
		}
		return forms[i].size;
	}
	return 0;
}

static const char *entity_of(unsigned char byte)
{
	switch (byte) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		/* Control characters are no part of HTML, line feed and tab but for. */
		return (byte < ' ' && byte != '\n' && byte != '\t') || byte == 0x7f ? REPLACEMENT
		                                                                    : NULL;
	}
}

void html_text(FILE *out, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	while (*at) {
		size_t size = character_size(at);
		const char *entity = size == 1 ? entity_of(*at) : NULL;

		if (size == 0)
			entity = REPLACEMENT;
		if (entity)
			fputs(entity, out);
		else
			fwrite(at, 1, size, out);
		at += size ? size : 1;
	}
}
