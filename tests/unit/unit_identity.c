/* SPDX-License-Identifier: MIT */
/*
 * What the supervisor does as a worker's user, and what it is afterwards.
 */
#include "unit.h"

#include "segue/supervisor.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#define NOBODY 65534

static const gid_t nogroup = NOBODY;
static const struct sg_identity nobody = {
	.uid = NOBODY, .gid = NOBODY, .groups = &nogroup, .groups_len = 1
};

static int death_signal(void)
{
	int number = -1;

	MUST(prctl(PR_GET_PDEATHSIG, &number));
	return number;
}

UNIT_CASE(who_would_be_told_of_the_death_of_its_starter_still_is)
{
	static const int signals[] = { 0, SIGTERM };

	if (geteuid() != 0)
		return;
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		MUST(prctl(PR_SET_PDEATHSIG, signals[i]));
		CHECK(identity_put_on(&nobody));
		CHECK(access("/proc/1/environ", R_OK) == 0);
		identity_take_off(&nobody);
		CHECK_INT(death_signal(), signals[i]);
		CHECK_INT(prctl(PR_GET_DUMPABLE), 1);
	}
}

static void on_signal(int number)
{
	static const char byte = 'x';

	_exit(write(STDIN_FILENO, &byte, 1) == 1 ? number : 0);
}

/* Its starter dies while it is another's: the kernel has nobody to tell. */
static _Noreturn void be_left(int told_fd, int go_fd)
{
	char byte;

	MUST(dup2(told_fd, STDIN_FILENO));
	(void)signal(SIGTERM, on_signal);
	MUST(prctl(PR_SET_PDEATHSIG, SIGTERM));
	CHECK(identity_put_on(&nobody));
	CHECK_INT(death_signal(), 0);
	MUST(write(told_fd, "r", 1));
	CHECK_INT(read(go_fd, &byte, 1), 1);
	identity_take_off(&nobody);
	_exit(0);
}

UNIT_CASE(a_starter_that_dies_meanwhile_is_not_missed)
{
	int told[2], go[2];
	pid_t starter;
	char byte;

	if (geteuid() != 0)
		return;
	unit_adopt_orphans();
	MUST(pipe2(told, O_CLOEXEC));
	MUST(pipe2(go, O_CLOEXEC));
	starter = (pid_t)MUST(fork());
	if (starter == 0) {
		if (MUST(fork()) == 0)
			be_left(told[1], go[0]);
		CHECK_INT(read(told[0], &byte, 1), 1);
		_exit(0);
	}
	MUST(waitpid(starter, NULL, 0));
	MUST(write(go[1], "g", 1));
	MUST(close(told[1]));
	CHECK_INT(read(told[0], &byte, 1), 1);
	CHECK_INT(byte, 'x');
	MUST(close(told[0]));
	MUST(close(go[0]));
	MUST(close(go[1]));
	unit_reap_orphans();
}

UNIT_MAIN
