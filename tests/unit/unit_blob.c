/* SPDX-License-Identifier: MIT */
/*
 * Blobs: bytes that cannot change once they are on their way.
 */
#include "unit.h"

#include "core/blob.h"

#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

static const char state[] = "counter=42";

/* A memfd made by somebody who does not keep to the rules. */
static int memfd(const void *data, size_t len, int seals)
{
	int fd = (int)MUST(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));

	CHECK_INT(MUST(write(fd, data, len)), len);
	if (seals != 0)
		MUST(fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

UNIT_CASE(a_blob_comes_out_as_it_went_in)
{
	int fd = (int)MUST(sg_blob_make("counter", state, sizeof(state)));
	const void *data;

	CHECK(fd > 2);
	CHECK(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC);
	CHECK_INT(sg_blob_map(&data, fd, sizeof(state), sizeof(state)), 0);
	CHECK(memcmp(data, state, sizeof(state)) == 0);
	MUST(close(fd));
	/* What is mapped outlives the descriptor. */
	CHECK(memcmp(data, state, sizeof(state)) == 0);
	sg_blob_unmap(data, sizeof(state));
}

UNIT_CASE(an_empty_blob_is_a_blob)
{
	int fd = (int)MUST(sg_blob_make("empty", "", 0));
	const void *data = NULL;

	CHECK_INT(sg_blob_map(&data, fd, 0, 0), 0);
	CHECK(data != NULL);
	sg_blob_unmap(data, 0);
	MUST(close(fd));
}

UNIT_CASE(nobody_can_change_a_blob)
{
	int fd = (int)MUST(sg_blob_make("counter", state, sizeof(state)));
	char path[40];
	int again;

	CHECK(write(fd, "x", 1) < 0 && errno == EPERM);
	CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM);
	CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
	CHECK(ftruncate(fd, 4096) < 0 && errno == EPERM);
	CHECK(mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
	/* Opened anew it is the same file. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(close(again));
	CHECK(truncate(path, 0) < 0);
	MUST(close(fd));
}

UNIT_CASE(a_blob_that_lacks_any_seal_is_refused)
{
	static const int seals[] = { F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_SEAL };
	int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
	const void *data = NULL;
	int fd;

	for (int i = 0; i < 4; i++) {
		fd = memfd(state, sizeof(state), all & ~seals[i]);
		CHECK_INT(sg_blob_map(&data, fd, sizeof(state), 4096), -EPROTO);
		MUST(close(fd));
	}
	fd = memfd(state, sizeof(state), 0);
	CHECK_INT(sg_blob_map(&data, fd, sizeof(state), 4096), -EPROTO);
	MUST(close(fd));
	fd = memfd(state, sizeof(state), all);
	CHECK_INT(sg_blob_map(&data, fd, sizeof(state), 4096), 0);
	sg_blob_unmap(data, sizeof(state));
	MUST(close(fd));
}

UNIT_CASE(what_is_no_memfd_is_refused)
{
	int file = (int)MUST(open("/dev/zero", O_RDONLY | O_CLOEXEC)), pipe_fds[2];
	const void *data = NULL;

	MUST(pipe2(pipe_fds, O_CLOEXEC));
	CHECK_INT(sg_blob_map(&data, file, 0, 4096), -EPROTO);
	CHECK_INT(sg_blob_map(&data, pipe_fds[0], 0, 4096), -EPROTO);
	CHECK_INT(sg_blob_map(&data, -1, 0, 4096), -EPROTO);
	CHECK(data == NULL);
	MUST(close(file));
	MUST(close(pipe_fds[0]));
	MUST(close(pipe_fds[1]));
}

UNIT_CASE(a_blob_of_another_size_than_was_said_is_refused)
{
	int fd = (int)MUST(sg_blob_make("counter", state, sizeof(state)));
	const void *data = NULL;

	CHECK_INT(sg_blob_map(&data, fd, sizeof(state) - 1, 4096), -EPROTO);
	CHECK_INT(sg_blob_map(&data, fd, sizeof(state) + 1, 4096), -EPROTO);
	CHECK_INT(sg_blob_map(&data, fd, 0, 4096), -EPROTO);
	CHECK_INT(sg_blob_map(&data, fd, SIZE_MAX, SIZE_MAX), -EPROTO);
	MUST(close(fd));
}

UNIT_CASE(a_blob_above_the_receivers_bound_is_refused)
{
	int fd = (int)MUST(sg_blob_make("counter", state, sizeof(state)));
	const void *data = NULL;

	CHECK_INT(sg_blob_map(&data, fd, sizeof(state), sizeof(state) - 1), -E2BIG);
	CHECK_INT(sg_blob_map(&data, fd, sizeof(state), 0), -E2BIG);
	CHECK(data == NULL);
	MUST(close(fd));
}

UNIT_CASE(a_name_too_long_for_the_kernel_leaves_nothing_open)
{
	char name[300];

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	CHECK_INT(sg_blob_make(name, state, sizeof(state)), -EINVAL);
}

/* A machine without room for it, by the limit on the size of files. */
UNIT_CASE(a_blob_that_cannot_be_written_leaves_nothing_open)
{
	struct rlimit before, none;
	int r;

	MUST(getrlimit(RLIMIT_FSIZE, &before));
	none = (struct rlimit){ 4, before.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	MUST(setrlimit(RLIMIT_FSIZE, &none));
	r = sg_blob_make("counter", state, sizeof(state));
	MUST(setrlimit(RLIMIT_FSIZE, &before));
	CHECK_INT(r, -EFBIG);
}

UNIT_MAIN
