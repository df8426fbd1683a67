/* SPDX-License-Identifier: MIT */
/*
 * See program.h. Everything is read through the descriptor that is kept, never through the
 * path again: what lies there may be another file by now.
 * Source: https://docs.kernel.org (fs/binfmt_script.c)
 */
#include "segue/program.h"

#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The regular file here, for reading, if it is another than the running one and begins with "#!".
 * -ENOENT: nothing that could be executed lies here; -ENOEXEC: no script does. */
static int open_script(int folder, const char *path, const struct program *program)
{
	int fd = sg_fd_above_stdio_take(
		openat(folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
	struct stat st;
	char start[2];
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0)
		r = -ENOENT;
	else if (image_is_file(program->file, &st) || pread(fd, start, 2, 0) != 2 ||
	         memcmp(start, "#!", 2) != 0)
		r = -ENOEXEC;
	if (r < 0)
		sg_fd_close(fd);
	return r < 0 ? r : fd;
}

static int search_path(int folder, const char *name, const struct program *program)
{
	const char *path = getenv("PATH");
	char candidate[PATH_MAX];
	int r = -ENOENT;

	while (r == -ENOENT && path != NULL && *path != '\0') {
		const char *end = strchrnul(path, ':');
		int len = (int)(end - path);

		if (snprintf(candidate, sizeof(candidate), "%.*s%s%s", len, path,
		             len > 0 ? "/" : "./", name) < (int)sizeof(candidate))
			r = open_script(folder, candidate, program);
		path = *end == ':' ? end + 1 : end;
	}
	return r;
}

static int find_script(pid_t pid, const char *argv0, const struct program *program)
{
	SG_CLEANUP(sg_fd_cleanup) int folder = -1;
	char path[40];
	int r;

	/* A relative name was meant from where the worker was started. */
	snprintf(path, sizeof(path), "/proc/%ld/cwd", (long)pid);
	folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (strchr(argv0, '/') == NULL)
		return search_path(folder < 0 ? AT_FDCWD : folder, argv0, program);
	r = folder < 0 ? -ENOENT : open_script(folder, argv0, program);
	return r == -ENOENT ? open_script(AT_FDCWD, argv0, program) : r;
}

/* By the name that the kernel has for it. */
static struct image *image_by_link(int fd, const char *link)
{
	char path[PATH_MAX];
	ssize_t n = readlink(link, path, sizeof(path) - 1);

	if (n < 0)
		return NULL;
	path[n] = '\0';
	return image_of(fd, path);
}

static int hold(struct program *program, pid_t pid)
{
	char link[40];

	snprintf(link, sizeof(link), "/proc/%ld/exe", (long)pid);
	program->fd = open(link, O_PATH | O_CLOEXEC);
	if (program->fd < 0)
		return -errno;
	program->fd = sg_fd_above_stdio_take(program->fd);
	program->file = program->fd < 0 ? NULL : image_by_link(program->fd, link);
	return program->file != NULL ? 0 : -errno;
}

static int hold_script(struct program *program, pid_t pid, const char *argv0)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = find_script(pid, argv0, program);
	char link[40];

	if (fd < 0)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	program->script = image_by_link(fd, link);
	return program->script != NULL ? 0 : -errno;
}

int program_of(struct program *ret_program, pid_t pid, const char *argv0)
{
	struct program program = { .fd = -1 };
	int r = hold(&program, pid);

	if (r == 0 && argv0 != NULL)
		r = hold_script(&program, pid, argv0);
	if (r < 0) {
		program_done(&program);
		return r;
	}
	*ret_program = program;
	return 0;
}

static bool refuse(char *reason, size_t reason_size, const char *text)
{
	snprintf(reason, reason_size, "%s", text);
	return false;
}

bool program_restartable(const struct program *program, char *reason, size_t reason_size)
{
	struct stat st;

	if (program->fd < 0)
		return refuse(reason, reason_size, "its file is not held");
	if (program->script != NULL)
		return refuse(reason, reason_size, "it is a script");
	if (fstat(program->fd, &st) < 0)
		return refuse(reason, reason_size, strerror(errno));
	if (!image_is_unchanged(program->file, &st))
		return refuse(reason, reason_size, "the file was overwritten in place");
	if ((st.st_mode & 0111) == 0)
		return refuse(reason, reason_size, "the file may not be executed any more");
	return true;
}

void program_copy(struct program *ret_copy, const struct program *program)
{
	ret_copy->fd = program->fd >= 0 ? sg_fd_dup(program->fd) : -1;
	ret_copy->file = image_ref(program->file);
	ret_copy->script = image_ref(program->script);
}

void program_done(struct program *program)
{
	program->fd = sg_fd_close(program->fd);
	image_unref(program->file);
	image_unref(program->script);
	program->file = program->script = NULL;
}
