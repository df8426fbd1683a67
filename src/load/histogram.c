/* SPDX-License-Identifier: MIT */
/*
 * Log-linear buckets: below 2^6 each value has its own, above that the six bits after the leading
 * one choose the bucket within the power of two.
 */
#include "histogram.h"

size_t histogram_bucket(uint64_t value)
{
	unsigned int bits;

	if (value < (UINT64_C(1) << HISTOGRAM_SUB_BITS))
		return value;
	if (value >> HISTOGRAM_MAX_BITS)
		return HISTOGRAM_BUCKETS - 1;
	bits = 63 - (unsigned int)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
	return ((size_t)bits << HISTOGRAM_SUB_BITS) + (value >> bits);
}

uint64_t histogram_bucket_end(size_t bucket)
{
	size_t bits = bucket >> HISTOGRAM_SUB_BITS;
	uint64_t mantissa = bucket & ((1u << HISTOGRAM_SUB_BITS) - 1);

	if (bits == 0)
		return mantissa;
	bits--;
	mantissa += UINT64_C(1) << HISTOGRAM_SUB_BITS;
	return ((mantissa + 1) << bits) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
	histogram->count++;
	histogram->sum += value;
	if (value > histogram->max)
		histogram->max = value;
	histogram->buckets[histogram_bucket(value)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	into->count += from->count;
	into->sum += from->sum;
	if (from->max > into->max)
		into->max = from->max;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

uint64_t histogram_at(const struct histogram *histogram, unsigned int per_100k)
{
	uint64_t wanted, seen = 0;

	if (histogram->count == 0)
		return 0;
	wanted = (histogram->count * per_100k + 99999) / 100000;
	if (wanted == 0)
		wanted = 1;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		uint64_t end;

		seen += histogram->buckets[i];
		if (seen < wanted)
			continue;
		end = histogram_bucket_end(i);
		return end < histogram->max ? end : histogram->max;
	}
	return histogram->max;
}

uint64_t histogram_mean(const struct histogram *histogram)
{
	return histogram->count ? histogram->sum / histogram->count : 0;
}
