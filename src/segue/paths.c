/* SPDX-License-Identifier: MIT */
/*
 * The folder is private to its user: whoever could put a socket into it could pose as a service.
 */
#include "segue/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/address.h"

#define ROOT_FOLDER "/run/segue"
#define SUFFIX      ".sock"

static int put(char *ret_path, size_t size, const char *folder, const char *rest)
{
	int n = snprintf(ret_path, size, "%s%s", folder, rest);

	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* A relative one would be another folder for each who asks. */
static const char *folder_variable(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

int paths_folder(char *ret_path, size_t size)
{
	const char *folder = folder_variable("SEGUE_RUNTIME_DIR");

	if (folder)
		return put(ret_path, size, folder, "");
	if (geteuid() == 0)
		return put(ret_path, size, ROOT_FOLDER, "");
	folder = folder_variable("XDG_RUNTIME_DIR");
	return folder ? put(ret_path, size, folder, "/segue") : -ENOENT;
}

/* The mode is final from the start, whatever the umask. Workers of root's supervisor may be
 * another user's, and have to reach their notification socket. */
static int make(const char *path)
{
	mode_t before = umask(0);
	int r = mkdir(path, strcmp(path, ROOT_FOLDER) == 0 ? 0755
	                    : geteuid() == 0               ? 0711
	                                                   : 0700) < 0
	                ? -errno
	                : 0;

	umask(before);
	return r == -EEXIST ? 0 : r;
}

static int check_folder(const char *path, char *reason, size_t reason_size)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat stat = { 0 };
	int r = fd < 0 || fstat(fd, &stat) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	if (r < 0) {
		snprintf(reason, reason_size,
		         "%s, the folder of the control socket: %s; set SEGUE_RUNTIME_DIR to "
		         "another, or use --control",
		         path, r == -ENOTDIR ? "it is not a folder" : strerror(-r));
		return r;
	}
	if (stat.st_uid == geteuid() && !(stat.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	snprintf(reason, reason_size,
	         "%s, the folder of the control socket, can be written to by others than user %u; "
	         "set SEGUE_RUNTIME_DIR to another, or use --control",
	         path, geteuid());
	return -EPERM;
}

int paths_make_folder(char *ret_path, size_t size, char *reason, size_t reason_size)
{
	int r = paths_folder(ret_path, size);

	if (r == -ENOENT) {
		snprintf(reason, reason_size,
		         "there is no folder for the control socket: neither SEGUE_RUNTIME_DIR nor "
		         "XDG_RUNTIME_DIR names one; set one of them, or use --control");
		return r;
	}
	if (r < 0) {
		snprintf(reason, reason_size,
		         "the folder of the control socket has too long a path; set "
		         "SEGUE_RUNTIME_DIR to a shorter one");
		return r;
	}
	r = make(ret_path);
	if (r < 0) {
		snprintf(reason, reason_size,
		         "%s, the folder of the control socket, cannot be made: %s; set "
		         "SEGUE_RUNTIME_DIR to another, or use --control",
		         ret_path, strerror(-r));
		return r;
	}
	return check_folder(ret_path, reason, reason_size);
}

static int in_folder(char *ret_path, size_t size, const char *name, const char *suffix)
{
	char folder[PATHS_MAX];
	int r = paths_folder(folder, sizeof(folder));
	int n;

	if (r < 0)
		return r;
	n = snprintf(ret_path, size, "%s/%s%s", folder, name, suffix);
	return n < 0 || (size_t)n >= size || n >= PATHS_MAX ? -ENAMETOOLONG : 0;
}

int paths_control(char *ret_path, size_t size, const char *name)
{
	return in_folder(ret_path, size, name, SUFFIX);
}

int paths_notify(char *ret_path, size_t size, const char *name)
{
	return in_folder(ret_path, size, name, ".notify");
}

/* The name of the service whose socket this is, in place; NULL: it is none. */
static const char *service_of(int folder_fd, struct dirent *entry)
{
	size_t len = strlen(entry->d_name);
	struct stat stat;

	if (len <= strlen(SUFFIX) || strcmp(entry->d_name + len - strlen(SUFFIX), SUFFIX) != 0)
		return NULL;
	if (fstatat(folder_fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISSOCK(stat.st_mode))
		return NULL;
	entry->d_name[len - strlen(SUFFIX)] = '\0';
	return sg_name_valid(entry->d_name) ? entry->d_name : NULL;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

int paths_each(int (*found)(void *ctx, const char *name, const char *path), void *ctx)
{
	char folder[PATHS_MAX], path[PATHS_MAX];
	struct dirent **entries;
	int folder_fd, count, r = paths_folder(folder, sizeof(folder));

	if (r < 0)
		return r;
	folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (folder_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	count = scandir(folder, &entries, NULL, by_name);
	if (count < 0)
		r = -errno;
	for (int i = 0; i < count; i++) {
		const char *name = r == 0 ? service_of(folder_fd, entries[i]) : NULL;

		if (name && paths_control(path, sizeof(path), name) == 0)
			r = found(ctx, name, path);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	close(folder_fd);
	return r;
}
