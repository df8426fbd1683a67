/* SPDX-License-Identifier: MIT */
/* Stands in for the supervisor until that is built: what it was asked to do is checked. */
#include <stdio.h>

#include "segue/command.h"
#include "segue/config.h"
#include "segue/control.h"

int command_run(int argc, char **argv)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config;
	int r = config_from_arguments(&config, argc, argv, reason);

	if (r == 1)
		return EXIT_DONE;
	if (r < 0) {
		fprintf(stderr, "segue run: %s\n", reason);
		return EXIT_USAGE;
	}
	config_free(config);
	fprintf(stderr, "segue run: not built yet\n");
	return EXIT_FAILED;
}
