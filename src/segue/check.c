/* SPDX-License-Identifier: MIT */
/* 'segue check FILE'. */
#include <stdio.h>

#include "segue/command.h"
#include "segue/control.h"

int command_check(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	fprintf(stderr, "segue check: not built yet\n");
	return EXIT_USAGE;
}
