/* SPDX-License-Identifier: MIT */
/*
 * For cases that run a libuv loop: libuv's own two descriptors, which it opens with its first
 * loop and keeps, are there before the harness counts.
 */
#ifndef TESTS_UNIT_LOOP_H
#define TESTS_UNIT_LOOP_H

#include <uv.h>

__attribute__((constructor)) static void unit_loop_prepare(void)
{
	uv_loop_t loop;

	if (uv_loop_init(&loop) == 0)
		uv_loop_close(&loop);
}

#endif
