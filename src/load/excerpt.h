/* SPDX-License-Identifier: MIT */
/*
 * The beginning of an answer, head and body, kept so that a pattern can be looked for in it. Pure
 * but for its memory.
 */
#ifndef LOAD_EXCERPT_H
#define LOAD_EXCERPT_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define EXCERPT_MAX_BYTES 65536

struct excerpt {
	char *bytes;
	size_t size, room;
};

void excerpt_done(struct excerpt *excerpt);
void excerpt_clear(struct excerpt *excerpt);

/** excerpt_add - returns 0 (what is behind the first 64 KiB is left out), or -ENOMEM */
int excerpt_add(struct excerpt *excerpt, const char *data, size_t size);

/**
 * excerpt_find - looks for a pattern in a whole answer, whose lines end with LF from then on
 *
 * Returns: whether it is there; @ret_text (within the excerpt) is what the first pair of
 *          parentheses matches, or the pattern where it has none
 */
bool excerpt_find(struct excerpt *excerpt, const regex_t *pattern, const char **ret_text,
                  size_t *ret_size);

#endif
