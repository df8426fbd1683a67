/* SPDX-License-Identifier: MIT */
/* Stands in for the supervisor until that is built: what it was asked to do is checked. */
#include <errno.h>
#include <stdio.h>

#include "segue/command.h"
#include "segue/control.h"

int command_run(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	fprintf(stderr, "segue run: not built yet\n");
	return EXIT_FAILED;
}
