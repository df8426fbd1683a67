/* SPDX-License-Identifier: MIT */
/*
 * The identity that a linker wrote into a program.
 */
#ifndef SEGUE_COMMAND_BUILD_ID_H
#define SEGUE_COMMAND_BUILD_ID_H

#include <stdbool.h>

#define BUILD_ID_MAX 80

/* "build-id:HEX", of a Go program without one "go-id:TEXT"; false: the file has neither. Reads a
 * few headers and notes, by pread(). */
bool build_id_read(char ret_identity[static BUILD_ID_MAX], int fd);

#endif
