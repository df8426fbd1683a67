/* SPDX-License-Identifier: MIT */
/* Durations as people write them. Makes no system call. */
#ifndef SGH_DURATION_H
#define SGH_DURATION_H

#include <stdint.h>

/* "500ms", "30s", "2m", "1h" or "0" as milliseconds; -EINVAL for anything else, -ERANGE beyond
 * a hundred years. */
int sgh_duration_parse(const char *text, int64_t *ret_ms);

#endif
