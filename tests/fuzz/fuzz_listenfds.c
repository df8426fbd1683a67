/* SPDX-License-Identifier: MIT */
/* LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES as three lines; an empty line is a variable not set. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/listenfds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *next_line(char **rest)
{
	char *line = strsep(rest, "\n");

	return line && line[0] ? line : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct sg_listenfds listenfds;
	char reason[256] = "";
	char *text = malloc(size + 1), *rest = text;
	const char *pid, *fds, *names;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	pid = next_line(&rest);
	fds = next_line(&rest);
	names = next_line(&rest);
	if (sg_listenfds_parse(&listenfds, pid, fds, names, 77, reason, sizeof(reason)) == 0) {
		if (listenfds.count > SG_LISTENFDS_MAX)
			abort();
		for (size_t i = 0; i < listenfds.count; i++)
			if (strnlen(listenfds.names[i], 256) == 256)
				abort();
	} else if (!reason[0] || strchr(reason, '\n') || listenfds.count != 0) {
		abort();
	}
	free(text);
	return 0;
}
