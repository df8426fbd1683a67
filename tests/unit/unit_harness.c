/* SPDX-License-Identifier: MIT */
/* The harness of the unit tests runs cases, in the order of the file, and lets good ones pass. */
#include "unit.h"

UNIT_CASE(a_case_that_gives_back_what_it_took_passes)
{
	int fd = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));

	CHECK(fd >= 0);
	CHECK_INT(close(fd), 0);
	CHECK_STRING("text", "text");
}

UNIT_CASE(a_case_that_reaps_its_child_passes)
{
	int status;
	pid_t pid = (pid_t)MUST(fork());

	if (pid == 0)
		_exit(3);
	CHECK_INT(MUST(waitpid(pid, &status, 0)), pid);
	CHECK_INT(WEXITSTATUS(status), 3);
}

UNIT_MAIN
