/* SPDX-License-Identifier: MIT */
/*
 * The result as one page of HTML that needs nothing else: no network, no script to be read, no
 * fonts. Its frame, style and script are the files in page/, its figures are those of the result.
 */
#ifndef LOAD_PAGE_H
#define LOAD_PAGE_H

#include "load.h"

#include <time.h>

struct page {
	const struct load *load;
	int argc;
	char **argv;       /* shown, but for what headers hold */
	time_t started_at; /* by the calendar */
};

/** page_print - the whole page */
void page_print(FILE *out, const struct page *page);

#endif
