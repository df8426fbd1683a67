/* SPDX-License-Identifier: MIT */
/* The machine that measures, in words, and whether it had time for that. */
#ifndef LOAD_MACHINE_H
#define LOAD_MACHINE_H

#include <stdint.h>

struct machine {
	char kernel[256], cpus[256], memory[64];
};

/** machine_look - "" for what cannot be found out */
void machine_look(struct machine *ret_machine);

/** machine_waited_ns - how long this program was ready to run and did not; 0 where nobody knows */
uint64_t machine_waited_ns(void);

#endif
