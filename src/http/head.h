/* SPDX-License-Identifier: MIT */
/* A head that the guard has let through, cut into its parts by llhttp. No system call. */
#ifndef SGH_HEAD_H
#define SGH_HEAD_H

#include <stddef.h>
#include <stdint.h>

#include "guard.h"

/* Positions in the head. */
struct sgh_field {
	uint32_t name, name_len;
	uint32_t value, value_len;
};

/*
 * Fill in @fields, which has room for guard->fields, from the head without a leading empty
 * line. Returns 0; -ENOSYS where llhttp does not know the method; -EBADMSG where it and the
 * guard read the head differently.
 */
int sgh_head_parse(const struct sgh_guard *guard, const char *head, size_t len,
                   struct sgh_field *fields);

#endif
