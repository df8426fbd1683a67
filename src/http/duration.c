/* SPDX-License-Identifier: MIT */
/* Durations as people write them: a whole number and a unit. A bare number is refused, because
 * half of its readers would take it for seconds; 0 alone needs no unit. */
#include <errno.h>
#include <string.h>

#include "duration.h"

#define CENTURY_MS (100LL * 366 * 24 * 3600 * 1000)

static int64_t unit_ms(const char *unit)
{
	if (!strcmp(unit, "ms"))
		return 1;
	if (!strcmp(unit, "s"))
		return 1000;
	if (!strcmp(unit, "m"))
		return 60 * 1000LL;
	if (!strcmp(unit, "h"))
		return 3600 * 1000LL;
	return -EINVAL;
}

int sgh_duration_parse(const char *text, int64_t *ret_ms)
{
	int64_t number = 0, unit;
	const char *at = text;

	for (; *at >= '0' && *at <= '9'; at++) {
		number = number * 10 + (*at - '0');
		if (number > CENTURY_MS)
			return -ERANGE;
	}
	if (at == text)
		return -EINVAL;
	if (!*at && number == 0) {
		*ret_ms = 0;
		return 0;
	}
	unit = unit_ms(at);
	if (unit <= 0)
		return -EINVAL;
	if (number > CENTURY_MS / unit)
		return -ERANGE;
	*ret_ms = number * unit;
	return 0;
}
