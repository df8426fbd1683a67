/* SPDX-License-Identifier: MIT */
/* Asks the kernel; see machine.h. */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* The value of the first line "KEY : value" of a file, "" where there is none. */
static void read_value(const char *path, const char *key, char *value, size_t size)
{
	FILE *file = fopen(path, "re");
	char line[512];

	value[0] = '\0';
	while (file && fgets(line, sizeof(line), file)) {
		const char *colon = strchr(line, ':');

		if (!colon || strncmp(line, key, strlen(key)) != 0)
			continue;
		colon += 1 + strspn(colon + 1, " \t");
		snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
		break;
	}
	if (file)
		fclose(file);
}

void machine_look(struct machine *ret_machine)
{
	struct machine *machine = ret_machine;
	long count = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned long long kib;
	struct utsname name;
	char value[200];

	*machine = (struct machine){ 0 };
	if (uname(&name) == 0)
		snprintf(machine->kernel, sizeof(machine->kernel), "%s %s (%s)", name.sysname,
		         name.release, name.machine);
	read_value("/proc/cpuinfo", "model name", value, sizeof(value));
	snprintf(machine->cpus, sizeof(machine->cpus), "%ld%s%s", count, value[0] ? " x " : "",
	         value);
	read_value("/proc/meminfo", "MemTotal", value, sizeof(value));
	/* NOLINTNEXTLINE(cert-err34-c): the number is the kernel's. */
	if (sscanf(value, "%llu kB", &kib) == 1)
		snprintf(machine->memory, sizeof(machine->memory), "%.1f GiB",
		         (double)kib / (1 << 20));
}

/* Two numbers and more: how long it ran, and how long it waited to run. */
uint64_t machine_waited_ns(void)
{
	FILE *file = fopen("/proc/self/schedstat", "re");
	uint64_t waited_ns = 0;
	char line[128], *end;

	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file)) {
		strtoull(line, &end, 10);
		waited_ns = strtoull(end, NULL, 10);
	}
	fclose(file);
	return waited_ns;
}
