/* SPDX-License-Identifier: MIT */
/*
 * What an ended worker has left behind: processes in a session of their own (daemons), to which
 * the signals for its group do not go. They would keep its listeners open and take clients.
 *
 * The supervisor is the sub-reaper of all of them, so they are among its descendants; and they
 * have the worker's environment: SEGUE_PID is told to no other. A process that has cleaned its
 * environment is not found.
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOUND_MAX  1024
#define ROUNDS_MAX 8

struct search {
	const struct worker *worker;
	char marks[2][100]; /* what stands in the environment of its processes */
	pid_t descendants[FOUND_MAX], killed[FOUND_MAX];
	size_t descendants_len, killed_len;
};

static bool is_listed(const pid_t *pids, size_t len, pid_t pid)
{
	for (size_t i = 0; i < len; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

static void add_children_of_thread(struct search *search, const char *process, const char *thread)
{
	char path[300];
	long pid;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%.20s/task/%.20s/children", process, thread);
	file = fopen(path, "re");
	while (file != NULL && search->descendants_len < FOUND_MAX &&
	       /* NOLINTNEXTLINE(cert-err34-c): the numbers are the kernel's. */
	       fscanf(file, "%ld", &pid) == 1)
		if (!is_listed(search->descendants, search->descendants_len, (pid_t)pid))
			search->descendants[search->descendants_len++] = (pid_t)pid;
	if (file != NULL)
		fclose(file);
}

static void add_children(struct search *search, const char *process)
{
	struct dirent *entry;
	char path[64];
	DIR *threads;

	snprintf(path, sizeof(path), "/proc/%.20s/task", process);
	threads = opendir(path);
	while (threads != NULL && (entry = readdir(threads)) != NULL)
		if (entry->d_name[0] != '.')
			add_children_of_thread(search, process, entry->d_name);
	if (threads != NULL)
		closedir(threads);
}

static bool has_marks(const struct search *search, pid_t pid)
{
	char path[64], *variable = NULL;
	size_t size = 0, found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%ld/environ", (long)pid);
	file = fopen(path, "re");
	while (file != NULL && found < 2 && getdelim(&variable, &size, '\0', file) > 0)
		found += strcmp(variable, search->marks[0]) == 0 ||
		         strcmp(variable, search->marks[1]) == 0;
	if (file != NULL)
		fclose(file);
	free(variable);
	return found == 2;
}

static void name_of(pid_t pid, char name[static 32])
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
	file = fopen(path, "re");
	if (file == NULL || fscanf(file, "%31[^\n]", name) != 1)
		strcpy(name, "?");
	if (file != NULL)
		fclose(file);
}

/* Nobody else has the number between the opening and the signal. The worker's group has been
 * killed already (see worker.c). */
static bool kill_one(struct search *search, pid_t pid)
{
	const struct worker *worker = search->worker;
	SG_CLEANUP(sg_fd_cleanup) int pidfd = sg_pidfd_open(pid);
	char name[32];

	if (pidfd < 0 || getpgid(pid) == worker->process.pid || !has_marks(search, pid))
		return false;
	name_of(pid, name);
	if (sg_pidfd_signal(pidfd, SIGKILL) < 0)
		return false;
	search->killed[search->killed_len++] = pid;
	log_say("leftover", NULL,
	        "process %ld (%s) stayed behind when worker %llu:%u (pid %ld) ended, and is "
	        "killed: "
	        "a server has to run in the foreground",
	        (long)pid, name, (unsigned long long)worker->slot->generation->number,
	        worker->slot->index, (long)worker->process.pid);
	return true;
}

/* True: there was one that had not been killed yet. */
static bool kill_round(struct search *search)
{
	bool killed = false;
	char process[24];

	search->descendants_len = 0;
	add_children(search, "self");
	for (size_t i = 0; i < search->descendants_len; i++) {
		pid_t pid = search->descendants[i];

		snprintf(process, sizeof(process), "%ld", (long)pid);
		add_children(search, process);
		if (!relay_is(worker_service(search->worker)->relay, pid) &&
		    search->killed_len < FOUND_MAX &&
		    !is_listed(search->killed, search->killed_len, pid))
			killed = kill_one(search, pid) || killed;
	}
	return killed;
}

/* Who is killed cannot fork any more: a second look finds what was born during the first. */
void leftovers_kill(const struct worker *worker)
{
	struct search *search;

	if (worker->process.pid <= 0)
		return;
	search = calloc(1, sizeof(*search));
	if (search == NULL)
		return;
	search->worker = worker;
	snprintf(search->marks[0], sizeof(search->marks[0]), "SEGUE_NAME=%s",
	         worker_service(worker)->config->name);
	snprintf(search->marks[1], sizeof(search->marks[1]), "SEGUE_PID=%ld",
	         (long)worker->process.pid);
	for (int round = 0; round < ROUNDS_MAX && kill_round(search); round++)
		continue;
	free(search);
}
