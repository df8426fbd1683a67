/* SPDX-License-Identifier: MIT */
/*
 * Starting a program as this one was started: what it inherits, where and as what it runs,
 * and what is said when it cannot.
 */
#include "unit.h"

#include "core/fd.h"
#include "core/spawn.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char folder[] = "/tmp/segue-unit-XXXXXX";

static void enter(void)
{
	CHECK(mkdtemp(folder) != NULL);
	MUST(chdir(folder));
	MUST(setenv("PWD", folder, 1));
}

static void leave(void)
{
	MUST(chdir("/"));
	MUST(rmdir(folder));
}

static void replace(char **at, const char *text)
{
	free(*at);
	*at = text != NULL ? strdup(text) : NULL;
}

/* An origin as of a process that was started by this name. */
static struct sg_origin origin_of(const char *program, const char *argv0)
{
	struct sg_origin origin;

	CHECK_INT(sg_origin_take(&origin), 0);
	replace(&origin.program, program);
	replace(&origin.argv[0], argv0);
	return origin;
}

static void put(const char *path, const char *text, mode_t mode)
{
	int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));

	CHECK_INT(MUST(write(fd, text, strlen(text))), strlen(text));
	MUST(fchmod(fd, mode));
	MUST(close(fd));
}

static int result_of(int exec_fd, struct sg_exec_error *error)
{
	struct pollfd poller = { .fd = exec_fd, .events = POLLIN };

	CHECK_INT(poll(&poller, 1, 10000), 1);
	return sg_spawn_result(exec_fd, error);
}

static int end_of(struct sg_spawned *spawned)
{
	struct pollfd poller = { .fd = spawned->pidfd, .events = POLLIN };
	int status;

	CHECK_INT(poll(&poller, 1, 20000), 1);
	CHECK_INT(sg_pidfd_reap(spawned->pidfd, &status), 1);
	MUST(close(spawned->pidfd));
	MUST(close(spawned->exec_fd));
	return status;
}

/* Runs to the end with its standard output in a pipe: what it wrote. */
static const char *output_of(const struct sg_spawn *spawn)
{
	static char text[65536];
	struct sg_exec_error error = { 0 };
	struct sg_spawned spawned;
	int fds[2], saved, r;
	size_t len = 0;
	ssize_t n;

	MUST(pipe2(fds, O_CLOEXEC));
	fflush(stdout);
	saved = (int)MUST(fcntl(1, F_DUPFD_CLOEXEC, 100));
	MUST(dup2(fds[1], 1));
	r = sg_spawn(&spawned, spawn);
	MUST(dup2(saved, 1));
	MUST(close(saved));
	MUST(close(fds[1]));
	CHECK_INT(r, 0);
	r = result_of(spawned.exec_fd, &error);
	if (r != 1)
		UNIT_FAIL("%s: %s", error.path, strerror(-r));
	while ((n = MUST(read(fds[0], text + len, sizeof(text) - 1 - len))) > 0)
		len += (size_t)n;
	text[len] = '\0';
	MUST(close(fds[0]));
	CHECK_INT(end_of(&spawned), 0);
	return text;
}

/* The output of a shell's words in the origin's surroundings. */
static const char *shell(struct sg_spawn *spawn, const char *words)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)words, NULL };

	const char *text;

	spawn->argv = argv;
	text = output_of(spawn);
	spawn->argv = NULL;
	return text;
}

UNIT_CASE(the_origin_is_how_this_process_was_started)
{
	struct sg_origin origin;
	char here[4096];

	MUST(setenv("SEGUE_UNIT", "1", 1));
	CHECK_INT(sg_origin_take(&origin), 0);
	CHECK(strstr(origin.program, "unit") != NULL);
	CHECK(strstr(origin.argv[0], "unit") != NULL);
	CHECK(origin.directory_fd > 2);
	CHECK(MUST(fcntl(origin.directory_fd, F_GETFD)) & FD_CLOEXEC);
	CHECK(getcwd(here, sizeof(here)) != NULL);
	if (origin.directory != NULL) {
		struct stat a, b;

		MUST(stat(origin.directory, &a));
		MUST(stat(here, &b));
		CHECK_INT(a.st_ino, b.st_ino);
	}
	sg_origin_done(&origin);
	CHECK_INT(origin.directory_fd, -1);
	sg_origin_done(&origin);
}

UNIT_CASE(the_environment_is_the_one_at_start_less_what_is_unset_plus_what_is_set)
{
	static const char *const unset[] = { "SECRET", "GONE=", NULL };
	static const char *const set[] = { "CHANNEL=7", "EMPTY=", "KEPT=new", NULL };
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin, .unset = unset, .set = set };
	char *argv[] = { (char *)"env", NULL };
	const char *text;

	MUST(setenv("SECRET", "x", 1));
	MUST(setenv("SECRETS", "stays", 1));
	MUST(setenv("GONE", "x", 1));
	MUST(setenv("KEPT", "old", 1));
	origin = origin_of("/usr/bin/env", "env");
	MUST(setenv("LATER", "x", 1));
	MUST(unsetenv("SECRETS"));
	spawn.argv = argv;
	text = output_of(&spawn);
	CHECK(strstr(text, "SECRET=") == NULL);
	CHECK(strstr(text, "GONE=") == NULL);
	CHECK(strstr(text, "LATER=") == NULL);
	CHECK(strstr(text, "SECRETS=stays\n") != NULL);
	CHECK(strstr(text, "CHANNEL=7\n") != NULL);
	CHECK(strstr(text, "EMPTY=\n") != NULL);
	CHECK(strstr(text, "KEPT=new\n") != NULL);
	CHECK(strstr(text, "KEPT=old") == NULL);
	sg_origin_done(&origin);
}

UNIT_CASE(at_pid_becomes_the_pid_of_the_new_process)
{
	static const char *const set[] = { "LISTEN_PID=@pid", "WATCHDOG_PID=@pid", "MAIL=x@pid",
		                           NULL };
	struct sg_origin origin = origin_of("/bin/sh", "sh");
	struct sg_spawn spawn = { .origin = &origin, .set = set };

	CHECK_STRING(shell(&spawn, "test $LISTEN_PID = $$ && test $WATCHDOG_PID = $$ &&"
	                           "echo \"[$MAIL]\""),
	             "[x@pid]\n");
	sg_origin_done(&origin);
}

UNIT_CASE(the_arguments_are_the_ones_at_start)
{
	struct sg_origin origin = origin_of("/bin/echo", "anything");
	char *argv[] = { (char *)"echo", (char *)"a  b", (char *)"", (char *)"c", NULL };
	struct sg_spawn spawn = { .origin = &origin, .argv = argv };

	CHECK_STRING(output_of(&spawn), "a  b  c\n");
	sg_origin_done(&origin);
}

UNIT_CASE(nothing_but_0_1_2_and_the_given_descriptor_is_inherited)
{
	struct sg_origin origin = origin_of("/bin/sh", "sh");
	struct sg_spawn spawn = { .origin = &origin };
	int plain = (int)MUST(open("/dev/null", O_RDONLY)), high, given;
	struct sg_spawn_fd place;

	high = (int)MUST(fcntl(plain, F_DUPFD, 700));
	given = (int)MUST(fcntl(plain, F_DUPFD_CLOEXEC, 50));
	place = (struct sg_spawn_fd){ given, given };
	/* One more, the first free one, is the shell's own while it reads the folder. */
	CHECK_STRING(shell(&spawn, "cd /proc/$$/fd; echo *"), "0 1 2 3\n");
	spawn.fds = &place;
	spawn.fds_len = 1;
	{
		char expected[64];

		snprintf(expected, sizeof(expected), "0 1 2 3 %d\n", given);
		CHECK_STRING(shell(&spawn, "cd /proc/$$/fd; echo *"), expected);
	}
	/* Here nothing has changed. */
	CHECK_INT(MUST(fcntl(plain, F_GETFD)), 0);
	CHECK_INT(MUST(fcntl(given, F_GETFD)), FD_CLOEXEC);
	MUST(close(plain));
	MUST(close(high));
	MUST(close(given));
	sg_origin_done(&origin);
}

/* "SigBlk:\t0000..." of /proc/self/status, as a number. */
static unsigned long long status_mask(const char *status, const char *field)
{
	const char *at = strstr(status, field);

	CHECK(at != NULL);
	return strtoull(at + strlen(field), NULL, 16);
}

#define BIT(signal) (1ull << ((signal)-1))

UNIT_CASE(signals_are_as_they_were_at_start_and_not_as_the_host_has_them_now)
{
	struct sg_origin origin = origin_of("/bin/cat", "cat");
	char *argv[] = { (char *)"cat", (char *)"/proc/self/status", NULL };
	struct sg_spawn spawn = { .origin = &origin, .argv = argv };
	const char *status;
	sigset_t now, after;

	sigemptyset(&origin.mask);
	sigaddset(&origin.mask, SIGUSR2);
	sigaddset(&origin.mask, SIGRTMIN + 3);
	sigemptyset(&origin.ignored);
	sigaddset(&origin.ignored, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	sigemptyset(&now);
	sigaddset(&now, SIGTERM);
	sigaddset(&now, SIGINT);
	MUST(sigprocmask(SIG_SETMASK, &now, NULL));
	status = output_of(&spawn);
	CHECK_INT(status_mask(status, "SigBlk:\t"), BIT(SIGUSR2) | BIT(SIGRTMIN + 3));
	CHECK_INT(status_mask(status, "SigIgn:\t"), BIT(SIGHUP));
	CHECK_INT(status_mask(status, "SigCgt:\t"), 0);
	spawn.ignore_signal = SIGUSR2;
	CHECK_INT(status_mask(output_of(&spawn), "SigIgn:\t"), BIT(SIGHUP) | BIT(SIGUSR2));
	/* The host's own are untouched. */
	MUST(sigprocmask(SIG_SETMASK, NULL, &after));
	CHECK(sigismember(&after, SIGTERM) == 1 && sigismember(&after, SIGINT) == 1);
	CHECK(sigismember(&after, SIGUSR2) == 0 && sigismember(&after, SIGHUP) == 0);
	sg_origin_done(&origin);
}

UNIT_CASE(the_umask_is_the_one_at_start)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };

	umask(027);
	origin = origin_of("/bin/sh", "sh");
	umask(0);
	CHECK_STRING(shell(&spawn, "umask"), "0027\n");
	CHECK_INT(umask(022), 0);
	sg_origin_done(&origin);
}

UNIT_CASE(the_directory_is_found_by_the_name_that_pwd_gave_it)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };
	char current[64];

	enter();
	MUST(mkdir("v1", 0755));
	MUST(mkdir("v2", 0755));
	MUST(symlink("v1", "current"));
	snprintf(current, sizeof(current), "%s/current", folder);
	MUST(chdir(current));
	MUST(setenv("PWD", current, 1));
	origin = origin_of("/bin/sh", "sh");
	CHECK_STRING(origin.directory, current);
	/* A deployment: the name now means another directory. */
	MUST(chdir(folder));
	MUST(symlink("v2", "next"));
	MUST(rename("next", "current"));
	MUST(chdir("/"));
	CHECK_STRING(strrchr(shell(&spawn, "pwd -P"), '/'), "/v2\n");
	/* The name is gone: then the directory itself. */
	MUST(chdir(folder));
	MUST(unlink("current"));
	MUST(chdir("/"));
	CHECK_STRING(strrchr(shell(&spawn, "pwd -P"), '/'), "/v1\n");
	sg_origin_done(&origin);
	MUST(chdir(folder));
	MUST(rmdir("v1"));
	MUST(rmdir("v2"));
	leave();
}

UNIT_CASE(where_pwd_says_something_else_the_directory_itself_is_kept)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };

	enter();
	MUST(mkdir("here", 0755));
	MUST(chdir("here"));
	MUST(setenv("PWD", "/usr", 1));
	origin = origin_of("/bin/sh", "sh");
	CHECK(origin.directory == NULL);
	MUST(chdir(".."));
	MUST(rename("here", "there"));
	MUST(chdir("/"));
	CHECK_STRING(strrchr(shell(&spawn, "pwd -P"), '/'), "/there\n");
	sg_origin_done(&origin);
	MUST(setenv("PWD", "relative", 1));
	origin = origin_of("/bin/sh", "sh");
	CHECK(origin.directory == NULL);
	sg_origin_done(&origin);
	MUST(chdir(folder));
	MUST(rmdir("there"));
	leave();
}

UNIT_CASE(a_deleted_directory_does_not_keep_a_program_from_starting)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };
	char path[64];

	enter();
	MUST(mkdir("here", 0755));
	snprintf(path, sizeof(path), "%s/here", folder);
	MUST(chdir(path));
	MUST(setenv("PWD", path, 1));
	origin = origin_of("/bin/sh", "sh");
	MUST(chdir(folder));
	MUST(rmdir("here"));
	CHECK(strstr(shell(&spawn, "readlink /proc/$$/cwd"), "/here (deleted)") != NULL);
	sg_origin_done(&origin);
	leave();
}

static void check_exec_error(const char *program, int error, const char *path)
{
	struct sg_origin origin = origin_of(program, program);
	struct sg_spawn spawn = { .origin = &origin };
	struct sg_exec_error said = { 0 };
	struct sg_spawned spawned;
	int status;

	CHECK_INT(sg_spawn(&spawned, &spawn), 0);
	CHECK_INT(result_of(spawned.exec_fd, &said), -error);
	CHECK_INT(said.error, error);
	CHECK_STRING(said.path, path);
	status = end_of(&spawned);
	CHECK(WIFEXITED(status));
	CHECK_INT(WEXITSTATUS(status), 127);
	sg_origin_done(&origin);
}

UNIT_CASE(a_program_that_cannot_be_executed_is_named_with_the_reason)
{
	char longest[4096], deep[4200];

	enter();
	check_exec_error("./missing", ENOENT, "./missing");
	check_exec_error("/nonexistent/program", ENOENT, "/nonexistent/program");
	put("text", "not a program\n", 0755);
	check_exec_error("./text", ENOEXEC, "./text");
	put("empty", "", 0755);
	check_exec_error("./empty", ENOEXEC, "./empty");
	put("plain", "#!/bin/sh\n", 0644);
	check_exec_error("./plain", EACCES, "./plain");
	put("script", "#!/nonexistent/interpreter\n", 0755);
	check_exec_error("./script", ENOENT, "./script");
	MUST(mkdir("directory", 0755));
	check_exec_error("./directory", EACCES, "./directory");
	check_exec_error("./text/below", ENOTDIR, "./text/below");
	MUST(symlink("loop", "loop"));
	check_exec_error("./loop", ELOOP, "./loop");
	/* The longest path there is, whole; and one that is none. */
	memset(longest, '/', sizeof(longest));
	strcpy(longest + sizeof(longest) - 5, "none");
	check_exec_error(longest, ENOENT, longest);
	memset(deep, '/', sizeof(deep));
	strcpy(deep + sizeof(deep) - 5, "none");
	{
		char cut[4096];

		memcpy(cut, deep, sizeof(cut) - 1);
		cut[sizeof(cut) - 1] = '\0';
		check_exec_error(deep, ENAMETOOLONG, cut);
	}
	MUST(unlink("text"));
	MUST(unlink("empty"));
	MUST(unlink("plain"));
	MUST(unlink("script"));
	MUST(unlink("loop"));
	MUST(rmdir("directory"));
	leave();
}

UNIT_CASE(the_outcome_is_not_known_before_the_program_runs)
{
	struct sg_exec_error error;
	int fds[2];

	MUST(pipe2(fds, O_CLOEXEC | O_NONBLOCK));
	CHECK_INT(sg_spawn_result(fds[0], &error), 0);
	MUST(close(fds[1]));
	CHECK_INT(sg_spawn_result(fds[0], &error), 1);
	MUST(close(fds[0]));
}

/* A search path of three folders, as a process that a shell found in the second. */
static struct sg_origin searched(const char *name)
{
	char path[256], program[128];
	struct sg_origin origin;

	snprintf(path, sizeof(path), "%s/a:%s/b:%s/c", folder, folder, folder);
	snprintf(program, sizeof(program), "%s/b/%s", folder, name);
	MUST(setenv("PATH", path, 1));
	origin = origin_of(program, name);
	return origin;
}

UNIT_CASE(a_program_that_a_shell_found_is_looked_up_again)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };
	char *argv[] = { (char *)"app", NULL };

	enter();
	MUST(mkdir("a", 0755));
	MUST(mkdir("b", 0755));
	MUST(mkdir("c", 0755));
	put("b/app", "#!/bin/sh\necho b\n", 0755);
	origin = searched("app");
	spawn.argv = argv;
	CHECK_STRING(output_of(&spawn), "b\n");
	/* A version in front of it wins from now on. */
	put("a/app", "#!/bin/sh\necho a\n", 0755);
	CHECK_STRING(output_of(&spawn), "a\n");
	/* What may not be executed does not hide what may. */
	MUST(chmod("a/app", 0644));
	put("b/app", "#!/bin/sh\necho b2\n", 0755);
	CHECK_STRING(output_of(&spawn), "b2\n");
	MUST(unlink("b/app"));
	put("c/app", "#!/bin/sh\necho c\n", 0755);
	CHECK_STRING(output_of(&spawn), "c\n");
	/* None left but the one that may not: that is the reason, not the last miss. */
	MUST(unlink("c/app"));
	{
		struct sg_exec_error said = { 0 };
		struct sg_spawned spawned;
		char expected[64];

		CHECK_INT(sg_spawn(&spawned, &spawn), 0);
		CHECK_INT(result_of(spawned.exec_fd, &said), -EACCES);
		snprintf(expected, sizeof(expected), "%s/a/app", folder);
		CHECK_STRING(said.path, expected);
		end_of(&spawned);
	}
	sg_origin_done(&origin);
	MUST(unlink("a/app"));
	MUST(rmdir("a"));
	MUST(rmdir("b"));
	MUST(rmdir("c"));
	leave();
}

UNIT_CASE(a_program_started_by_a_path_is_not_searched_for)
{
	struct sg_origin origin;
	struct sg_spawn spawn = { .origin = &origin };
	char *argv[] = { (char *)"./app", NULL };

	enter();
	MUST(mkdir("a", 0755));
	put("a/app", "#!/bin/sh\necho wrong\n", 0755);
	put("app", "#!/bin/sh\necho right\n", 0755);
	MUST(setenv("PATH", "a", 1));
	origin = origin_of("./app", "./app");
	spawn.argv = argv;
	CHECK_STRING(output_of(&spawn), "right\n");
	/* The same name, replaced, as a deployment does it. */
	put("new", "#!/bin/sh\necho newer\n", 0755);
	MUST(rename("new", "app"));
	CHECK_STRING(output_of(&spawn), "newer\n");
	sg_origin_done(&origin);
	MUST(unlink("a/app"));
	MUST(rmdir("a"));
	MUST(unlink("app"));
	leave();
}

/* fexecve() names a descriptor that is closed long since; argv[0] is what is left. */
UNIT_CASE(a_program_started_through_a_descriptor_is_started_by_its_argument)
{
	struct sg_origin origin = origin_of("/dev/fd/9", "/bin/echo");
	char *argv[] = { (char *)"echo", (char *)"here", NULL };
	struct sg_spawn spawn = { .origin = &origin, .argv = argv };

	CHECK_STRING(output_of(&spawn), "here\n");
	sg_origin_done(&origin);
}

UNIT_CASE(a_process_without_free_descriptors_starts_nothing_and_leaks_nothing)
{
	struct sg_origin origin = origin_of("/bin/true", "true");
	struct sg_spawn spawn = { .origin = &origin };
	struct sg_spawned spawned;
	struct rlimit before, lowered;
	int highest = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC)), started = 0;

	MUST(getrlimit(RLIMIT_NOFILE, &before));
	/* Two descriptors for the pipe and one for the pidfd: with fewer, nothing starts. */
	for (rlim_t room = 0; room < 3; room++) {
		int r;

		lowered = (struct rlimit){ (rlim_t)highest + 1 + room, before.rlim_max };
		MUST(setrlimit(RLIMIT_NOFILE, &lowered));
		r = sg_spawn(&spawned, &spawn);
		MUST(setrlimit(RLIMIT_NOFILE, &before));
		if (r == 0) {
			started++;
			end_of(&spawned);
			continue;
		}
		CHECK_INT(r, -EMFILE);
	}
	CHECK_INT(started, 0);
	MUST(close(highest));
	sg_origin_done(&origin);
}

UNIT_CASE(the_pidfd_is_of_the_child_and_close_on_exec)
{
	struct sg_origin origin = origin_of("/bin/true", "true");
	struct sg_spawn spawn = { .origin = &origin };
	struct sg_spawned spawned;

	CHECK_INT(sg_spawn(&spawned, &spawn), 0);
	CHECK_INT(sg_pidfd_pid(spawned.pidfd), spawned.pid);
	CHECK(spawned.pidfd > 2 && spawned.exec_fd > 2);
	CHECK(MUST(fcntl(spawned.pidfd, F_GETFD)) & FD_CLOEXEC);
	CHECK(MUST(fcntl(spawned.exec_fd, F_GETFD)) & FD_CLOEXEC);
	CHECK_INT(end_of(&spawned), 0);
	sg_origin_done(&origin);
}

/* A host that ignores SIGCHLD, or waits for every child, leaves no status to whoever asks. */
UNIT_CASE(a_witness_says_how_a_program_ended_whoever_reaps_children_here)
{
	static const struct {
		const char *words;
		int exited, signalled;
	} cases[] = { { "exit 0", 0, 0 }, { "exit 3", 3, 0 }, { "kill -ABRT $$", 0, SIGABRT } };
	struct sg_origin origin = origin_of("/bin/sh", "sh");

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *argv[] = { (char *)"sh", (char *)"-c", (char *)cases[i].words, NULL };
		struct sg_spawn spawn = { .origin = &origin, .argv = argv, .witness = true };
		struct sg_exec_error report = { 0 };
		struct sg_spawned spawned;
		int status;

		CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
		CHECK_INT(sg_spawn(&spawned, &spawn), 0);
		CHECK_INT(result_of(spawned.exec_fd, &report), 2);
		CHECK_INT(WEXITSTATUS(report.status), cases[i].exited);
		CHECK_INT(WTERMSIG(report.status), cases[i].signalled);
		while (sg_pidfd_reap(spawned.pidfd, &status) == 0)
			(void)result_of(spawned.pidfd, &report);
		MUST(close(spawned.pidfd));
		MUST(close(spawned.exec_fd));
		CHECK(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
	}
	sg_origin_done(&origin);
}

/* In a process between: starts a sibling of itself, and says what it can see of its end. */
static int start_sibling(void)
{
	struct sg_origin origin = origin_of("/bin/sh", "sh");
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)"exit 3", NULL };
	struct sg_spawn spawn = { .origin = &origin, .argv = argv, .sibling = true };
	struct sg_exec_error report = { 0 };
	struct sg_spawned spawned;

	CHECK_INT(sg_spawn(&spawned, &spawn), 0);
	CHECK_INT(result_of(spawned.exec_fd, &report), 1);
	sg_origin_done(&origin);
	return end_of(&spawned);
}

UNIT_CASE(a_sibling_is_reaped_by_the_parent_and_its_end_is_seen_before)
{
	pid_t between = (pid_t)MUST(fork()), first, second;
	int status;

	if (between == 0)
		_exit(WEXITSTATUS(start_sibling()));
	/* Both say 3: the sibling by its own end, and the one between of what it saw. */
	first = (pid_t)MUST(waitpid(between, &status, 0));
	CHECK_INT(first, between);
	CHECK_INT(WEXITSTATUS(status), 3);
	second = (pid_t)MUST(waitpid(-1, &status, 0));
	CHECK(second != between);
	CHECK_INT(WEXITSTATUS(status), 3);
}

UNIT_CASE(a_witness_that_is_killed_takes_the_program_along)
{
	struct sg_origin origin = origin_of("/bin/sleep", "sleep");
	char *argv[] = { (char *)"sleep", (char *)"1000", NULL };
	struct sg_exec_error report = { 0 };
	struct sg_spawned spawned;
	int fds[2];
	char byte;

	unit_adopt_orphans();
	/* The program alone keeps the pipe open, as its standard output. */
	MUST(pipe2(fds, O_CLOEXEC));
	fflush(stdout);
	int saved = (int)MUST(fcntl(1, F_DUPFD_CLOEXEC, 100));
	struct sg_spawn spawn = { .origin = &origin, .argv = argv, .witness = true };

	MUST(dup2(fds[1], 1));
	CHECK_INT(sg_spawn(&spawned, &spawn), 0);
	MUST(dup2(saved, 1));
	MUST(close(saved));
	MUST(close(fds[1]));
	CHECK_INT(sg_pidfd_signal(spawned.pidfd, SIGKILL), 0);
	CHECK_INT(MUST(read(fds[0], &byte, 1)), 0);
	CHECK_INT(result_of(spawned.exec_fd, &report), 1);
	MUST(close(fds[0]));
	CHECK_INT(WTERMSIG(end_of(&spawned)), SIGKILL);
	/* Killed before it had started the program, it leaves nobody. */
	unit_reap_orphans();
	sg_origin_done(&origin);
}

UNIT_CASE(descriptors_get_the_numbers_asked_for_though_they_cross)
{
	struct sg_origin origin = origin_of("/bin/sh", "sh");
	int a = (int)MUST(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	int b = (int)MUST(open("/dev/full", O_RDONLY | O_CLOEXEC));
	/* Each wants the number of the other, and a third one the number of the report. */
	struct sg_spawn_fd fds[] = { { a, b }, { b, a }, { a, b + 1 }, { b, b + 2 } };
	struct sg_spawn spawn = { .origin = &origin, .fds = fds, .fds_len = 4 };
	char words[200], expected[200];

	CHECK_INT(b, a + 1);
	snprintf(words, sizeof(words), "for i in %d %d %d %d; do readlink /proc/$$/fd/$i; done", a,
	         b, b + 1, b + 2);
	CHECK_STRING(shell(&spawn, words), "/dev/full\n/dev/zero\n/dev/zero\n/dev/full\n");
	/* 3 is the shell's own, of the folder that it reads. */
	snprintf(expected, sizeof(expected), "0 1 2 3 %d %d %d %d\n", a, b, b + 1, b + 2);
	CHECK_STRING(shell(&spawn, "cd /proc/$$/fd; echo *"), expected);
	MUST(close(a));
	MUST(close(b));
	sg_origin_done(&origin);
}

UNIT_CASE(a_program_is_executed_by_its_descriptor_when_its_path_has_another)
{
	struct sg_origin origin = origin_of("/nowhere", "nowhere");
	int sh = (int)MUST(open("/bin/sh", O_PATH | O_CLOEXEC));
	struct sg_spawn spawn = { .origin = &origin, .program_fd = &sh, .program = "/nowhere" };

	CHECK_STRING(shell(&spawn, "echo here; cd /proc/$$/fd; echo *"), "here\n0 1 2 3\n");
	MUST(close(sh));
	sg_origin_done(&origin);
}

UNIT_CASE(a_program_is_looked_up_in_a_session_and_folder_of_its_own)
{
	struct sg_origin origin = origin_of("/nowhere", "nowhere");
	struct sg_spawn spawn = {
		.origin = &origin, .program = "sh", .directory = "/usr", .own_session = true
	};

	CHECK_STRING(shell(&spawn, "pwd; set -- $(cut -d' ' -f1,5,6 /proc/$$/stat);"
	                           "test $1 = $2 && test $1 = $3 && echo leads"),
	             "/usr\nleads\n");
	sg_origin_done(&origin);
}

UNIT_CASE(a_program_runs_as_another_user_with_no_group_of_ours)
{
	struct sg_origin origin = origin_of("/bin/sh", "sh");
	struct sg_identity identity = { .uid = 65534, .gid = 65533 };
	struct sg_spawn spawn = { .origin = &origin, .identity = &identity, .directory = "/" };

	if (getuid() != 0) {
		sg_origin_done(&origin);
		SKIP("another user can be taken by root only");
	}
	CHECK_STRING(shell(&spawn, "id -u; id -G"), "65534\n65533\n");
	sg_origin_done(&origin);
}

UNIT_MAIN
