/* SPDX-License-Identifier: MIT */
/*
 * A file that appears whole or not at all: written beside its place under a name of its own, and
 * renamed when it is complete. What is there already stays until then.
 */
#ifndef LOAD_DRAFT_H
#define LOAD_DRAFT_H

#include <limits.h>
#include <stdio.h>

struct draft {
	char path[PATH_MAX], name[PATH_MAX + 16];
	FILE *out;
};

/** draft_check - whether a file could be written there: 0, or the reason why not */
int draft_check(const char *path);

/** draft_open - returns 0 (draft->out is to be written to), or the reason why not */
int draft_open(struct draft *draft, const char *path);

/** draft_commit - puts it into its place; 0, or the reason why it is not there */
int draft_commit(struct draft *draft);

#endif
