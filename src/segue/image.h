/* SPDX-License-Identifier: MIT */
/*
 * What is known of a file that workers run: its path, size and identity. One object for each file,
 * however many workers run it and however often they are restarted, and for as long as one of them
 * refers to it. Used by one thread; the reading of a whole file is another thread's work.
 */
#ifndef SEGUE_COMMAND_IMAGE_H
#define SEGUE_COMMAND_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define IMAGE_IDENTITY_MAX 80
#define IMAGE_HASHED_MAX   (256 << 20) /* bytes: a larger file has no hash */

struct image;

/*
 * The image of an open file (O_PATH will do), to be given back by image_unref(). The descriptor is
 * borrowed; the path is what is shown, nothing is opened by it. NULL with errno.
 */
struct image *image_of(int fd, const char *path);
struct image *image_ref(struct image *image);
void image_unref(struct image *image);

const char *image_path(const struct image *image);
int64_t image_size(const struct image *image);

/*
 * "build-id:HEX", of a Go program without one "go-id:TEXT", else "sha256:HEX" of the content when
 * it was read, at the start of the first worker that ran it. "size:BYTES,mtime:SECONDS", which a
 * copy with its time shares: until the content has been read, and for good where that cannot be: no
 * permission, more than IMAGE_HASHED_MAX, written to meanwhile.
 */
void image_identity(struct image *image, char ret_identity[static IMAGE_IDENTITY_MAX]);

/* Is it this file? And has that not been written to since? Not by the change time, which moves when
 * the file's name is taken away: what an ordinary deployment does. */
bool image_is_file(const struct image *image, const struct stat *st);
bool image_is_unchanged(const struct image *image, const struct stat *st);

#endif
