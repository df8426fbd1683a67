/* SPDX-License-Identifier: MIT */
/*
 * Programs that start the server instead of being it: sh -c, npm start. What they were told by
 * pid (LISTEN_PID, signals) is not true of the server, and that is said by name.
 */
#include "segue/supervisor.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first other process of the worker's session; 0: it is alone. */
static pid_t another(const struct worker *worker)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (proc != NULL && found == 0 && (entry = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid > 0 && pid != worker->process.pid && getsid(pid) == worker->process.pid)
			found = pid;
	}
	if (proc != NULL)
		closedir(proc);
	return found;
}

bool wrapper_has_others(const struct worker *worker)
{
	return another(worker) != 0;
}

/* What runs in the worker's session beside it: a shell or "npm start" is a wrapper, and what it
 * was told by pid is not true of the server below it. */
void wrapper_describe(const struct worker *worker, char *text, size_t size)
{
	pid_t pid = another(worker);
	char path[64], name[32];
	FILE *file;

	text[0] = '\0';
	if (pid == 0)
		return;
	snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
	file = fopen(path, "re");
	if (file == NULL || fscanf(file, "%31[^\n]", name) != 1)
		strcpy(name, "?");
	if (file != NULL)
		fclose(file);
	snprintf(text, size,
	         "; %s (pid %ld) is a wrapper around %s (pid %ld), for which LISTEN_PID is wrong: "
	         "start the server by exec",
	         worker->slot->generation->argv[0], (long)worker->process.pid, name, (long)pid);
}

/* A shell that was given sockets and ended too soon: what it started did not take them for its
 * own. */
const char *wrapper_hint(const struct worker *worker)
{
	static const char *const wrappers[] = { "sh", "bash", "dash", "zsh", "npm", "npx", "yarn" };
	const char *program = worker->slot->generation->argv[0];
	const char *name = strrchr(program, '/') != NULL ? strrchr(program, '/') + 1 : program;

	/* It was replaced by the server, by exec; or it failed by itself. */
	if (link_greeted(worker->link) || !(worker->wraps || worker->status == 0))
		return "";
	for (size_t i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++)
		if (!worker->was_ready && held_count(worker_service(worker), true) > 0 &&
		    strcmp(name, wrappers[i]) == 0)
			return "; it is a wrapper, and LISTEN_PID is its own: what it starts "
			       "by another pid does not take the sockets (start the server by "
			       "exec)";
	return "";
}
