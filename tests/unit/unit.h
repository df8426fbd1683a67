/* SPDX-License-Identifier: MIT */
/*
 * The harness of the C unit tests: one program per file, one process per case.
 *
 *         #include "unit.h"
 *
 *         UNIT_CASE(a_port_of_70000_is_refused)
 *         {
 *                 CHECK(parse("tcp://h:70000") == -EINVAL);
 *         }
 *
 *         UNIT_MAIN
 *
 * `program --list` prints the names of the cases, `program NAME` runs one, `program` runs all of
 * them, each in a process of its own. A case fails with exit code 1 and a line that names file,
 * line and expression; it fails as well when it ends with other descriptors open than it began
 * with, when it leaves a child, or when UNIT_DEADLINE_S seconds have passed. SKIP("reason") is
 * for what this machine cannot do.
 */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#ifndef UNIT_DEADLINE_S
#define UNIT_DEADLINE_S 60
#endif

#define UNIT_SKIPPED 77

struct unit_case {
	const char *name;
	void (*run)(void);
	struct unit_case *next;
};

static struct unit_case *unit_cases;
static struct unit_case **unit_last = &unit_cases;

#define UNIT_CASE(case_name)                                                        \
	static void case_name(void);                                                \
	static struct unit_case unit_##case_name = { #case_name, case_name, NULL }; \
	__attribute__((constructor)) static void unit_add_##case_name(void)         \
	{                                                                           \
		*unit_last = &unit_##case_name;                                     \
		unit_last = &unit_##case_name.next;                                 \
	}                                                                           \
	static void case_name(void)

#define UNIT_FAIL(...)                                          \
	do {                                                    \
		fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
		fprintf(stderr, __VA_ARGS__);                   \
		fputc('\n', stderr);                            \
		exit(1);                                        \
	} while (0)

/* True, or the case ends here. */
#define CHECK(expression)                                       \
	do {                                                    \
		if (!(expression))                              \
			UNIT_FAIL("not true: %s", #expression); \
	} while (0)

/* The same with both values in the message. */
#define CHECK_INT(value, expected)                                                            \
	do {                                                                                  \
		long long unit_value = (long long)(value);                                    \
		long long unit_expected = (long long)(expected);                              \
                                                                                              \
		if (unit_value != unit_expected)                                              \
			UNIT_FAIL("%s is %lld, not %lld", #value, unit_value, unit_expected); \
	} while (0)

#define CHECK_STRING(value, expected)                                                 \
	do {                                                                          \
		const char *unit_value = (value);                                     \
		const char *unit_expected = (expected);                               \
                                                                                      \
		if (!unit_value || strcmp(unit_value, unit_expected) != 0)            \
			UNIT_FAIL("%s is \"%s\", not \"%s\"", #value,                 \
			          unit_value ? unit_value : "(null)", unit_expected); \
	} while (0)

/* A system call of the test's own, which is not what it tests. */
#define MUST(call)                                                   \
	({                                                           \
		long long unit_result = (long long)(call);           \
                                                                     \
		if (unit_result < 0)                                 \
			UNIT_FAIL("%s: %s", #call, strerror(errno)); \
		unit_result;                                         \
	})

#define SKIP(reason)                \
	do {                        \
		puts(reason);       \
		exit(UNIT_SKIPPED); \
	} while (0)

/* What the case's processes leave behind comes to the case, and has to end there. */
static inline void unit_adopt_orphans(void)
{
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
}

static inline void unit_reap_orphans(void)
{
	while (waitpid(-1, NULL, 0) > 0)
		continue;
	CHECK_INT(errno, ECHILD);
}

struct unit_descriptors {
	size_t count;
	int fd[1024];
};

static inline void unit_descriptors_now(struct unit_descriptors *ret)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	ret->count = 0;
	if (!dir)
		UNIT_FAIL("/proc/self/fd: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(dir))
			continue;
		if (ret->count == sizeof(ret->fd) / sizeof(ret->fd[0]))
			UNIT_FAIL("more than %zu descriptors are open", ret->count);
		ret->fd[ret->count++] = fd;
	}
	closedir(dir);
}

static inline bool unit_was_open(const struct unit_descriptors *before, int fd)
{
	for (size_t i = 0; i < before->count; i++)
		if (before->fd[i] == fd)
			return true;
	return false;
}

static inline void unit_check_descriptors(const struct unit_descriptors *before)
{
	struct unit_descriptors after;

	unit_descriptors_now(&after);
	for (size_t i = 0; i < after.count; i++) {
		char path[64], target[256];
		ssize_t size;

		if (unit_was_open(before, after.fd[i]))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", after.fd[i]);
		size = readlink(path, target, sizeof(target) - 1);
		target[size < 0 ? 0 : size] = '\0';
		UNIT_FAIL("the case left descriptor %d open: %s", after.fd[i], target);
	}
	if (after.count < before->count)
		UNIT_FAIL("the case closed a descriptor that it did not open");
}

/* Runs one case in this process. */
static inline int unit_run(const struct unit_case *unit)
{
	struct unit_descriptors before;

	alarm(UNIT_DEADLINE_S);
	unit_descriptors_now(&before);
	unit->run();
	unit_check_descriptors(&before);
	if (waitid(P_ALL, 0, NULL, WEXITED | WNOHANG | WNOWAIT) == 0)
		UNIT_FAIL("the case left a child");
	return 0;
}

/* Runs all, each in a process; for a developer's hand. */
static inline int unit_run_all(void)
{
	int failed = 0;

	for (const struct unit_case *unit = unit_cases; unit; unit = unit->next) {
		int status;
		pid_t pid;

		fflush(NULL);
		pid = fork();
		if (pid == 0)
			exit(unit_run(unit));
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			return 1;
		if (WIFEXITED(status) &&
		    (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == UNIT_SKIPPED))
			continue;
		printf("failed: %s (status 0x%x)\n", unit->name, (unsigned int)status);
		failed = 1;
	}
	return failed;
}

static inline int unit_main(int argc, char **argv)
{
	if (argc == 1)
		return unit_run_all();
	for (const struct unit_case *unit = unit_cases; unit; unit = unit->next) {
		if (strcmp(argv[1], "--list") == 0)
			puts(unit->name);
		else if (strcmp(argv[1], unit->name) == 0)
			return unit_run(unit);
	}
	if (strcmp(argv[1], "--list") == 0)
		return 0;
	fprintf(stderr, "no case is named %s\n", argv[1]);
	return 2;
}

#define UNIT_MAIN                             \
	int main(int argc, char **argv)       \
	{                                     \
		return unit_main(argc, argv); \
	}

#endif
