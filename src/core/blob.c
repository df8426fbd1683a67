/* SPDX-License-Identifier: MIT */
/*
 * Sealed memfds. Without the seals a sender could truncate the file and the receiver's next
 * read would be a SIGBUS.
 */
#include "core/blob.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int sg_blob_make(const char *name, const void *data, size_t len)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	fd = sg_fd_above_stdio_take(fd);
	if (fd < 0)
		return -EMFILE;
	r = write_all(fd, data, len);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	return sg_fd_steal(&fd);
}

int sg_blob_map(const void **ret_data, int fd, size_t len, size_t max)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	void *data;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 ||
	    (size_t)st.st_size != len)
		return -EPROTO;
	if (len > max)
		return -E2BIG;
	if (len == 0) {
		*ret_data = "";
		return 0;
	}
	data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return -errno;
	*ret_data = data;
	return 0;
}

void sg_blob_unmap(const void *data, size_t len)
{
	if (data != NULL && len > 0)
		munmap((void *)data, len);
}
