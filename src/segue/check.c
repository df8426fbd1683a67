/* SPDX-License-Identifier: MIT */
/*
 * 'segue check FILE': what the file says, and whether what it names is there on this machine. It
 * starts nothing and binds nothing.
 */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/address.h"
#include "segue/command.h"
#include "segue/config.h"
#include "segue/control.h"
#include "segue/words.h"

struct check {
	const char *path;
	const struct config *config;
	char *reason; /* CONFIG_REASON_MAX */
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct check *check,
                                                        const char *format, ...)
{
	char text[CONFIG_REASON_MAX], why[CONFIG_REASON_MAX];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	words_clean(why, sizeof(why), text);
	snprintf(check->reason, CONFIG_REASON_MAX, "%.200s: %.560s", check->path, why);
	return -EINVAL;
}

/* Users and groups are names, or numbers that need no name. */
static int check_identity(const struct check *check)
{
	const struct config *config = check->config;
	uint64_t number;

	if (config->user && words_number(config->user, UINT32_MAX - 1, &number) < 0 &&
	    !getpwnam(config->user))
		return refuse(check, "user %.100s: there is no such user on this machine",
		              config->user);
	if (config->group && words_number(config->group, UINT32_MAX - 1, &number) < 0 &&
	    !getgrnam(config->group))
		return refuse(check, "group %.100s: there is no such group on this machine",
		              config->group);
	return 0;
}

static int check_folder(const struct check *check, const char *setting, const char *path)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return refuse(check, "%s %.300s: %s", setting, path, strerror(errno));
	if (!S_ISDIR(info.st_mode))
		return refuse(check, "%s %.300s: it is not a folder", setting, path);
	return 0;
}

/* The folder in which a file is to be made. */
static int check_place(const struct check *check, const char *setting, const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;
	char folder[PATH_MAX];

	if (!slash || slash == path)
		return 0;
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	if (access(folder, F_OK) < 0)
		return refuse(check, "%s %.300s: its folder: %s", setting, path, strerror(errno));
	return 0;
}

static int check_places(const struct check *check)
{
	const struct config *config = check->config;
	struct sg_address address;
	char name[SG_NAME_MAX + 1], why[400];
	int r;

	r = check_place(check, "pid-file", config->pid_file);
	if (r == 0)
		r = check_place(check, "log-file", config->log_file);
	if (r == 0)
		r = check_place(check, "control", config->control);
	if (r == 0 && config->directory)
		r = check_folder(check, "chdir", config->directory);
	for (size_t i = 0; r == 0 && i < config->listen_len; i++)
		if (sg_address_parse_spec(name, &address, config->listen[i], why, sizeof(why)) ==
		            0 &&
		    address.kind == SG_ADDRESS_UNIX)
			r = check_place(check, "listen", address.path);
	return r;
}

/* May it be executed? 0 or -errno. */
static int executable(const char *path)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return -errno;
	if (S_ISDIR(info.st_mode))
		return -EISDIR;
	return !S_ISREG(info.st_mode) || access(path, X_OK) < 0 ? -EACCES : 0;
}

/* Through PATH, as execvp(3): a file that may not be executed is passed over. */
static int find_in_path(const char *program)
{
	const char *folders = getenv("PATH");
	char path[PATH_MAX];
	int found = -ENOENT;

	if (!folders)
		folders = "/usr/local/bin:/usr/bin:/bin";
	for (;;) {
		size_t len = strcspn(folders, ":");
		int r;

		snprintf(path, sizeof(path), "%.*s/%s", len ? (int)len : 1, len ? folders : ".",
		         program);
		r = executable(path);
		if (r == 0)
			return 0;
		if (r == -EACCES)
			found = r;
		if (!folders[len])
			return found;
		folders += len + 1;
	}
}

static int check_program(const struct check *check)
{
	const char *program = check->config->argv[0], *folder = check->config->directory;
	char path[PATH_MAX];
	int r;

	if (!strchr(program, '/')) {
		r = find_in_path(program);
		if (r == -ENOENT)
			return refuse(check,
			              "program %.200s: there is no such program in PATH; write its "
			              "whole path",
			              program);
	} else {
		snprintf(path, sizeof(path), "%s%s%s", program[0] != '/' && folder ? folder : "",
		         program[0] != '/' && folder ? "/" : "", program);
		program = path;
		r = executable(path);
	}
	if (r == -EACCES)
		return refuse(check, "program %.300s: it may not be executed; see chmod(1)",
		              program);
	return r < 0 ? refuse(check, "program %.300s: %s", program, strerror(-r)) : 0;
}

static int check_machine(const struct config *config, const char *path, char *reason)
{
	struct check check = { .path = path, .config = config, .reason = reason };
	int r = check_identity(&check);

	if (r == 0)
		r = check_places(&check);
	return r == 0 ? check_program(&check) : r;
}

int command_check(int argc, char **argv)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config = NULL;
	int r;

	if (argc != 2 || argv[1][0] == '-') {
		fprintf(stderr, "segue check: it takes one file; write segue check FILE\n");
		return EXIT_USAGE;
	}
	r = config_from_file(&config, argv[1], reason);
	if (r == 0)
		r = check_machine(config, argv[1], reason);
	if (r == 0 && config_print(config, stdout) == 0 && fflush(stdout) == 0) {
		config_free(config);
		return EXIT_DONE;
	}
	config_free(config);
	if (r == 0) {
		fprintf(stderr, "segue check: standard output: %s\n", strerror(errno));
		return EXIT_FAILED;
	}
	fprintf(stderr, "segue check: %s\n", reason);
	return EXIT_USAGE;
}
