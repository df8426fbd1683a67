/* SPDX-License-Identifier: MIT */
/*
 * Application state on its way: bytes in a sealed memfd, so that what the receiver maps
 * cannot change or shrink under it.
 */
#ifndef SG_CORE_BLOB_H
#define SG_CORE_BLOB_H

#include <stddef.h>

/* A sealed memfd with these bytes, or -errno. */
int sg_blob_make(const char *name, const void *data, size_t len);

/* Maps a memfd read-only after having checked its seals and that it has len bytes (at most
 * max). An empty one maps to a valid pointer to nothing. -EPROTO, -E2BIG, or mmap's errno. */
int sg_blob_map(const void **ret_data, int fd, size_t len, size_t max);

void sg_blob_unmap(const void *data, size_t len);

#endif
