/* SPDX-License-Identifier: MIT */
/*
 * Every file that is at the path was locked before it came there, so whoever can lock the
 * file at the path knows that its writer, and everyone who was handed the lock, is dead.
 */
#include "core/pidfile.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE 0644

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

static int open_folder(const char *path)
{
	char *folder = strdup(path);
	char *slash;
	int fd;

	if (folder == NULL)
		return -ENOMEM;
	slash = strrchr(folder, '/');
	if (slash != NULL)
		slash[slash == folder ? 1 : 0] = '\0';
	fd = open(slash != NULL ? folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = fd < 0 ? -errno : sg_fd_above_stdio_take(fd);
	free(folder);
	return fd;
}

static int init(struct sg_pidfile *pidfile, const char *path)
{
	*pidfile = (struct sg_pidfile){ .dir_fd = -1, .lock_fd = -1 };
	if (base_name(path)[0] == '\0')
		return -EISDIR;
	pidfile->dir_fd = open_folder(path);
	if (pidfile->dir_fd < 0)
		return pidfile->dir_fd;
	pidfile->path = strdup(path);
	if (pidfile->path == NULL) {
		pidfile->dir_fd = sg_fd_close(pidfile->dir_fd);
		return -ENOMEM;
	}
	return 0;
}

static bool same_file(int fd, int dir_fd, const char *name)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstatat(dir_fd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int write_pid(int fd, pid_t pid)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%ld\n", (long)pid), done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, text + done, (size_t)(len - done), done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		done += (int)n;
	}
	while (ftruncate(fd, len) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static pid_t read_pid(int fd)
{
	char text[24] = { 0 };

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return 0;
	return (pid_t)strtol(text, NULL, 10);
}

/* A locked file with the pid under a name of its own beside the path. */
static int make_file(struct sg_pidfile *pidfile, pid_t pid, char *name, size_t name_size)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;
	int r;

	snprintf(name, name_size, ".%.200s.%ld", base_name(pidfile->path), (long)pid);
	/* Left by a process of the same pid that died while it wrote. */
	(void)unlinkat(pidfile->dir_fd, name, 0);
	fd = openat(pidfile->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
	            MODE);
	if (fd < 0)
		return -errno;
	fd = sg_fd_above_stdio_take(fd);
	r = fd < 0 ? -EMFILE : flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : write_pid(fd, pid);
	if (r < 0) {
		(void)unlinkat(pidfile->dir_fd, name, 0);
		return r;
	}
	return sg_fd_steal(&fd);
}

int sg_pidfile_write(struct sg_pidfile *pidfile, pid_t pid)
{
	char name[256];
	int fd = make_file(pidfile, pid, name, sizeof(name));

	if (fd < 0)
		return pidfile->lock_fd >= 0 ? write_pid(pidfile->lock_fd, pid) : fd;
	if (renameat(pidfile->dir_fd, name, pidfile->dir_fd, base_name(pidfile->path)) < 0) {
		int r = -errno;

		(void)unlinkat(pidfile->dir_fd, name, 0);
		sg_fd_close(fd);
		/* The file that is there names a predecessor, who would take it away at its end. */
		return pidfile->lock_fd >= 0 ? write_pid(pidfile->lock_fd, pid) : r;
	}
	sg_fd_close(pidfile->lock_fd);
	pidfile->lock_fd = fd;
	return 0;
}

/* A path at which nothing is: the new file gets there only if that is still so. */
static int claim_free(struct sg_pidfile *pidfile)
{
	const char *base = base_name(pidfile->path);
	char name[256];
	int fd = make_file(pidfile, getpid(), name, sizeof(name));
	int r = 0;

	if (fd < 0)
		return fd;
	if (linkat(pidfile->dir_fd, name, pidfile->dir_fd, base, 0) < 0)
		r = -errno;
	(void)unlinkat(pidfile->dir_fd, name, 0);
	if (r < 0)
		sg_fd_close(fd);
	else
		pidfile->lock_fd = fd;
	return r;
}

/* 1: the file at the path is locked by us; 0: look again. */
static int claim_existing(struct sg_pidfile *pidfile, pid_t *ret_holder)
{
	const char *base = base_name(pidfile->path);
	SG_CLEANUP(sg_fd_cleanup)
	int fd = openat(pidfile->dir_fd, base, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	fd = sg_fd_above_stdio_take(fd);
	if (fd < 0)
		return -EMFILE;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EINVAL;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		*ret_holder = read_pid(fd);
		return -EEXIST;
	}
	if (!same_file(fd, pidfile->dir_fd, base))
		return 0;
	pidfile->lock_fd = sg_fd_steal(&fd);
	return 1;
}

int sg_pidfile_claim(struct sg_pidfile *ret_pidfile, const char *path, pid_t *ret_holder)
{
	struct sg_pidfile pidfile;
	int r = init(&pidfile, path);

	if (r < 0)
		return r;
	/* Another one that begins at the same moment can make us look again a few times. */
	for (int tries = 0; tries < 100; tries++) {
		r = claim_existing(&pidfile, ret_holder);
		if (r != 0)
			break;
		r = claim_free(&pidfile);
		if (r != -EEXIST)
			break;
	}
	if (r == 1)
		r = sg_pidfile_write(&pidfile, getpid());
	if (r < 0) {
		sg_pidfile_done(&pidfile);
		return r;
	}
	*ret_pidfile = pidfile;
	return 0;
}

int sg_pidfile_adopt_take(struct sg_pidfile *ret_pidfile, const char *path, int lock_fd)
{
	struct sg_pidfile pidfile;
	int r = init(&pidfile, path);

	if (r < 0) {
		sg_fd_close(lock_fd);
		return r;
	}
	pidfile.lock_fd = lock_fd;
	*ret_pidfile = pidfile;
	return 0;
}

void sg_pidfile_remove(struct sg_pidfile *pidfile)
{
	const char *base;

	if (pidfile->path == NULL || pidfile->lock_fd < 0)
		return;
	base = base_name(pidfile->path);
	/* The successor may have written its pid through the descriptor that we share. */
	if (same_file(pidfile->lock_fd, pidfile->dir_fd, base) &&
	    read_pid(pidfile->lock_fd) == getpid())
		(void)unlinkat(pidfile->dir_fd, base, 0);
}

void sg_pidfile_done(struct sg_pidfile *pidfile)
{
	if (pidfile->path == NULL)
		return;
	free(pidfile->path);
	sg_fd_close(pidfile->dir_fd);
	sg_fd_close(pidfile->lock_fd);
	*pidfile = (struct sg_pidfile){ .dir_fd = -1, .lock_fd = -1 };
}
