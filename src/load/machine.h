/* SPDX-License-Identifier: MIT */
/* The machine that measures, in words. */
#ifndef LOAD_MACHINE_H
#define LOAD_MACHINE_H

struct machine {
	char kernel[256], cpus[256], memory[64];
};

/** machine_look - "" for what cannot be found out */
void machine_look(struct machine *ret_machine);

#endif
