/* SPDX-License-Identifier: MIT */
/* What is worked out from the counts, and how it is written for people: JSON, text, page alike. */
#ifndef LOAD_FIGURES_H
#define LOAD_FIGURES_H

#include "load.h"

#define FIGURE_PERCENTILES 4

struct figure_percentile {
	const char *key;
	unsigned int per_100k;
};

extern const struct figure_percentile figure_percentiles[FIGURE_PERCENTILES];

double figures_us(uint64_t ns);
double figures_since_start_ms(const struct load *load, uint64_t at_ns);
double figures_per_second(uint64_t count, double ms);

/** figures_elapsed_ms - to the last answer, or to the end of sending where that was later */
double figures_elapsed_ms(const struct load *load);

/** figures_losses - what --max-lost is compared with: lost requests and unannounced closes */
uint64_t figures_losses(const struct load *load);

/** figures_closed - connections that closed while idle, unannounced or with bytes unasked for */
uint64_t figures_closed(const struct tally *tally);

/** figures_closed_idle - the same, announced ones too */
uint64_t figures_closed_idle(const struct tally *tally);

/** figures_latency - of all shapes */
void figures_latency(const struct load *load, struct histogram *ret_latency);
uint64_t figures_slowest_ns(const struct load *load);

/** struct figure - a number as people read it; passed by value so that one line can hold several */
struct figure {
	char text[32];
};

struct figure figure_count(uint64_t count);          /* 412,000 */
struct figure figure_duration(uint64_t duration_ns); /* 0.4 ms, 6 ms, 1.2 s */
struct figure figure_latency(uint64_t latency_ns);   /* the same; of no answer: none */

/** figures_verdict - one sentence without its full stop: what was lost */
void figures_verdict(const struct load *load, char *text, size_t size);

#endif
