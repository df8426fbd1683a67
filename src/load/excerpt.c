/* SPDX-License-Identifier: MIT */
/* The beginning of an answer; see excerpt.h. */
#include "excerpt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void excerpt_done(struct excerpt *excerpt)
{
	free(excerpt->bytes);
	*excerpt = (struct excerpt){ 0 };
}

void excerpt_clear(struct excerpt *excerpt)
{
	excerpt->size = 0;
}

int excerpt_add(struct excerpt *excerpt, const char *data, size_t size)
{
	size_t left = EXCERPT_MAX_BYTES - excerpt->size, needed;

	if (size > left)
		size = left;
	needed = excerpt->size + size;
	if (needed > excerpt->room) {
		size_t room = needed < 512 ? 512 : needed * 2;
		char *bytes = realloc(excerpt->bytes, room);

		if (!bytes)
			return -ENOMEM;
		excerpt->bytes = bytes;
		excerpt->room = room;
	}
	if (size)
		memcpy(excerpt->bytes + excerpt->size, data, size);
	excerpt->size = needed;
	return 0;
}

/* A line of a head ends with CR LF; "$" and ".*" are meant to end before both. */
static void end_lines(struct excerpt *excerpt)
{
	size_t size = 0;

	for (size_t i = 0; i < excerpt->size; i++) {
		bool ends = i + 1 < excerpt->size && memcmp(&excerpt->bytes[i], "\r\n", 2) == 0;

		if (!ends)
			excerpt->bytes[size++] = excerpt->bytes[i];
	}
	excerpt->size = size;
}

bool excerpt_find(struct excerpt *excerpt, const regex_t *pattern, const char **ret_text,
                  size_t *ret_size)
{
	regmatch_t matches[2];
	const regmatch_t *match = &matches[pattern->re_nsub ? 1 : 0];

	if (!excerpt->bytes)
		return false;
	end_lines(excerpt);
	matches[0] = (regmatch_t){ .rm_so = 0, .rm_eo = (regoff_t)excerpt->size };
	if (regexec(pattern, excerpt->bytes, 2, matches, REG_STARTEND) != 0)
		return false;
	if (match->rm_so < 0)
		return false;
	*ret_text = excerpt->bytes + match->rm_so;
	*ret_size = (size_t)(match->rm_eo - match->rm_so);
	return true;
}
