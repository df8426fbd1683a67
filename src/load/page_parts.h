/* SPDX-License-Identifier: MIT */
/* The parts of the page that are large enough for a file of their own. */
#ifndef LOAD_PAGE_PARTS_H
#define LOAD_PAGE_PARTS_H

#include "page.h"

/** page_chart - panels of requests, failures by class and latency over the same time */
void page_chart(FILE *out, const struct page *page);

/** page_chart_data - the same as JSON, for the script that shows details */
void page_chart_data(FILE *out, const struct page *page);

void page_restarts(FILE *out, const struct page *page);
void page_outcomes(FILE *out, const struct page *page);
void page_losses(FILE *out, const struct page *page);
void page_measurement(FILE *out, const struct page *page);

#endif
