/* SPDX-License-Identifier: MIT */
/*
 * A histogram of durations: log-linear buckets, so that a value is known to 1.6 per cent at any
 * size; the largest value and the sum are exact. Makes no system call and allocates nothing.
 */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

/* Each power of two is cut into 2^6 buckets; values from 2^44 ns (almost five hours) share one. */
#define HISTOGRAM_SUB_BITS 6
#define HISTOGRAM_MAX_BITS 44
#define HISTOGRAM_BUCKETS  ((HISTOGRAM_MAX_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t value);

/** histogram_bucket - the bucket into which a value falls */
size_t histogram_bucket(uint64_t value);

/** histogram_bucket_end - the largest value that falls into it */
uint64_t histogram_bucket_end(size_t bucket);

/** histogram_merge - adds all values of @from to @into */
void histogram_merge(struct histogram *into, const struct histogram *from);

/**
 * histogram_at - the value below which a share of all values lies
 * @per_100k: the share in steps of 0.001 per cent: 50000 is the median, 99900 is p99.9
 *
 * Returns: the upper end of the bucket, never more than the largest value seen; 0 when empty
 */
uint64_t histogram_at(const struct histogram *histogram, unsigned int per_100k);

/** histogram_mean - the average value, 0 when empty */
uint64_t histogram_mean(const struct histogram *histogram);

#endif
