/* SPDX-License-Identifier: MIT */
/*
 * What the supervisor does to files at a worker's word it does as the worker's user: what that one
 * may not do, it does not get done. By the identity for files alone, so that nobody else may
 * signal the supervisor meanwhile; the effective capabilities over files go with it.
 */
#include "segue/supervisor.h"

#include <signal.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GROUPS_MAX 256

static gid_t own_groups[GROUPS_MAX];
static int own_len, own_dumpable, own_death_signal;
static pid_t own_starter;

/* By the system call: the only thread that matters is this one. False: it is not to be done. */
bool identity_put_on(const struct sg_identity *identity)
{
	if (identity == NULL)
		return true;
	/* The kernel takes a change for the beginning of a set-user-ID program. */
	own_dumpable = prctl(PR_GET_DUMPABLE);
	own_starter = getppid();
	if (prctl(PR_GET_PDEATHSIG, &own_death_signal) < 0)
		own_death_signal = 0;
	own_len = getgroups(GROUPS_MAX, own_groups);
	if (own_len < 0 || syscall(SYS_setgroups, identity->groups_len, identity->groups) < 0)
		return false;
	(void)setfsgid(identity->gid);
	(void)setfsuid(identity->uid);
	/* They tell no error: asked for what is none, they say what is. */
	if (setfsgid((gid_t)-1) == (int)identity->gid && setfsuid((uid_t)-1) == (int)identity->uid)
		return true;
	identity_take_off(identity);
	return false;
}

/* Each change has taken away what the supervisor was to get at the death of its starter; had that
 * one died meanwhile it would never come. */
static void restore_death_signal(void)
{
	if (own_death_signal == 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, own_death_signal);
	if (getppid() != own_starter)
		(void)raise(own_death_signal);
}

void identity_take_off(const struct sg_identity *identity)
{
	if (identity == NULL)
		return;
	(void)setfsuid(geteuid());
	(void)setfsgid(getegid());
	(void)syscall(SYS_setgroups, own_len, own_groups);
	(void)prctl(PR_SET_DUMPABLE, own_dumpable == 1);
	restore_death_signal();
}
