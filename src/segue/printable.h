/* SPDX-License-Identifier: MIT */
/*
 * Text of other programs, made fit for a terminal and for JSON: valid UTF-8 without control
 * characters. Pure.
 */
#ifndef SEGUE_COMMAND_PRINTABLE_H
#define SEGUE_COMMAND_PRINTABLE_H

#include <stdbool.h>
#include <stddef.h>

/* Replaces each byte that is not fit by "?", in place; lines: newlines and tabs stay. */
void printable_make(char *text, size_t len, bool lines);

/* The greatest length of at most max bytes that cuts no character of a valid text in two. */
size_t printable_cut(const char *text, size_t max);

#endif
