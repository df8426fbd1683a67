/* SPDX-License-Identifier: MIT */
/* A file, written whole; see draft.h. */
#include "draft.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A link is followed: it is the file that is replaced. */
static int find_place(struct draft *draft, const char *path)
{
	struct stat stat_of;

	if (strlen(path) >= sizeof(draft->path))
		return -ENAMETOOLONG;
	strcpy(draft->path, path);
	if (stat(path, &stat_of) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISDIR(stat_of.st_mode))
		return -EISDIR;
	/* A device or a pipe would be replaced by the file. */
	if (!S_ISREG(stat_of.st_mode))
		return -EINVAL;
	return realpath(path, draft->path) ? 0 : -errno;
}

static mode_t usual_mode(void)
{
	mode_t mask = umask(0);

	umask(mask);
	return 0666 & ~mask;
}

int draft_open(struct draft *draft, const char *path)
{
	int fd, r;

	r = find_place(draft, path);
	if (r < 0)
		return r;
	snprintf(draft->name, sizeof(draft->name), "%s.XXXXXX", draft->path);
	fd = mkostemp(draft->name, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	draft->out = fdopen(fd, "w");
	if (draft->out && fchmod(fd, usual_mode()) == 0)
		return 0;
	r = -errno;
	unlink(draft->name);
	if (draft->out)
		fclose(draft->out);
	else
		close(fd);
	return r;
}

int draft_check(const char *path)
{
	struct draft draft;
	int r;

	r = draft_open(&draft, path);
	if (r < 0)
		return r;
	fclose(draft.out);
	unlink(draft.name);
	return 0;
}

int draft_commit(struct draft *draft)
{
	int r = 0;

	/* A full disk shows when the last bytes are written. */
	if (fflush(draft->out) != 0 || ferror(draft->out))
		r = errno ? -errno : -EIO;
	if (fclose(draft->out) != 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(draft->name, draft->path) < 0)
		r = -errno;
	if (r < 0)
		unlink(draft->name);
	return r;
}
