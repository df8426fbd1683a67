/* SPDX-License-Identifier: MIT */
/* Stands in for the client until that is built. */
#include <stdio.h>

#include "segue/client.h"
#include "segue/control.h"

int client_command(const char *verb, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	fprintf(stderr, "segue %s: not built yet\n", verb);
	return EXIT_NO_SERVICE;
}
