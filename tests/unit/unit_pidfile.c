/* SPDX-License-Identifier: MIT */
/*
 * The pid file: held by a lock and not by a number, replaced as a whole, removed by its owner.
 */
#include "unit.h"

#include "core/fd.h"
#include "core/pidfile.h"

#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* Each case works in a folder of its own, and leaves it empty. */
static char folder[] = "/tmp/segue-unit-XXXXXX";

static void enter(void)
{
	CHECK(mkdtemp(folder) != NULL);
	MUST(chdir(folder));
}

/* Fails where a temporary file was left. */
static void leave(void)
{
	MUST(chdir("/"));
	MUST(rmdir(folder));
}

static long pid_in(const char *path)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = MUST(read(fd, text, sizeof(text) - 1));
	MUST(close(fd));
	return n == 0 ? 0 : strtol(text, NULL, 10);
}

static void put(const char *path, const char *text)
{
	int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));

	CHECK_INT(MUST(write(fd, text, strlen(text))), strlen(text));
	MUST(close(fd));
}

static ino_t inode(const char *path)
{
	struct stat st;

	MUST(lstat(path, &st));
	return st.st_ino;
}

/* A claim by another process: its result, and the holder that it was told. */
static int claim_elsewhere(const char *path, pid_t *ret_holder)
{
	int fds[2], said[2], status;
	pid_t pid;

	MUST(pipe2(fds, O_CLOEXEC));
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		struct sg_pidfile pidfile;
		pid_t holder = -1;
		int answer[2];

		answer[0] = sg_pidfile_claim(&pidfile, path, &holder);
		answer[1] = (int)holder;
		_exit(write(fds[1], answer, sizeof(answer)) == sizeof(answer) ? 0 : 1);
	}
	CHECK_INT(MUST(read(fds[0], said, sizeof(said))), sizeof(said));
	MUST(waitpid(pid, &status, 0));
	MUST(close(fds[0]));
	MUST(close(fds[1]));
	*ret_holder = said[1];
	return said[0];
}

UNIT_CASE(a_free_path_is_claimed_and_has_our_pid)
{
	struct sg_pidfile pidfile;
	struct stat st;
	pid_t holder;

	enter();
	umask(022);
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	CHECK_INT(pid_in("app.pid"), getpid());
	MUST(stat("app.pid", &st));
	CHECK_INT(st.st_mode & 07777, 0644);
	CHECK(MUST(fcntl(pidfile.lock_fd, F_GETFD)) & FD_CLOEXEC);
	CHECK(MUST(fcntl(pidfile.dir_fd, F_GETFD)) & FD_CLOEXEC);
	sg_pidfile_remove(&pidfile);
	CHECK_INT(pid_in("app.pid"), -ENOENT);
	sg_pidfile_done(&pidfile);
	sg_pidfile_done(&pidfile);
	leave();
}

UNIT_CASE(a_file_that_nobody_holds_is_replaced_whatever_it_says)
{
	static const char *const stale[] = { "1\n", "4194304\n", "", "nonsense", "99999999999999" };
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	for (size_t i = 0; i < sizeof(stale) / sizeof(stale[0]); i++) {
		put("app.pid", stale[i]);
		CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
		CHECK_INT(pid_in("app.pid"), getpid());
		sg_pidfile_remove(&pidfile);
		sg_pidfile_done(&pidfile);
	}
	leave();
}

UNIT_CASE(a_held_path_is_refused_and_its_holder_named)
{
	struct sg_pidfile pidfile;
	pid_t holder = -1;

	enter();
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	CHECK_INT(claim_elsewhere("app.pid", &holder), -EEXIST);
	CHECK_INT(holder, getpid());
	CHECK_INT(pid_in("app.pid"), getpid());
	/* Also after the file was replaced, as every generation does. */
	CHECK_INT(sg_pidfile_write(&pidfile, 4711), 0);
	CHECK_INT(claim_elsewhere("app.pid", &holder), -EEXIST);
	CHECK_INT(holder, 4711);
	sg_pidfile_done(&pidfile);
	/* Closed without having been removed: stale. */
	CHECK_INT(pid_in("app.pid"), 4711);
	CHECK_INT(claim_elsewhere("app.pid", &holder), 0);
	MUST(unlink("app.pid"));
	leave();
}

/* The reason for a lock that is handed over: the first holder's death frees nothing. */
UNIT_CASE(a_path_stays_held_as_long_as_somebody_has_the_lock)
{
	struct sg_pidfile ours, theirs;
	pid_t holder;
	int lock;

	enter();
	CHECK_INT(sg_pidfile_claim(&ours, "app.pid", &holder), 0);
	lock = sg_fd_dup(ours.lock_fd);
	CHECK_INT(sg_pidfile_adopt_take(&theirs, "app.pid", lock), 0);
	sg_pidfile_done(&ours);
	CHECK_INT(claim_elsewhere("app.pid", &holder), -EEXIST);
	CHECK_INT(sg_pidfile_write(&theirs, getpid()), 0);
	CHECK_INT(claim_elsewhere("app.pid", &holder), -EEXIST);
	sg_pidfile_remove(&theirs);
	sg_pidfile_done(&theirs);
	leave();
}

UNIT_CASE(of_many_claimers_at_once_one_wins)
{
	enum { CLAIMERS = 8, ROUNDS = 25 };

	enter();
	for (int round = 0; round < ROUNDS; round++) {
		int start[2], won = 0, status;
		pid_t pids[CLAIMERS];

		if (round % 2 == 1)
			put("app.pid", "1\n");
		MUST(pipe2(start, O_CLOEXEC));
		for (int i = 0; i < CLAIMERS; i++) {
			pids[i] = (pid_t)MUST(fork());
			if (pids[i] == 0) {
				struct sg_pidfile pidfile;
				pid_t holder;
				char byte;
				int r;

				MUST(close(start[1]));
				(void)!read(start[0], &byte, 1);
				r = sg_pidfile_claim(&pidfile, "app.pid", &holder);
				if (r == 0 && pid_in("app.pid") != getpid())
					_exit(3);
				/* The winner lives until all others have asked. */
				if (r == 0)
					raise(SIGSTOP);
				_exit(r == 0 ? 0 : r == -EEXIST ? 1 : 2);
			}
		}
		MUST(close(start[0]));
		MUST(close(start[1]));
		for (int ended = 0; ended < CLAIMERS - 1 + won;) {
			pid_t pid = (pid_t)MUST(waitpid(-1, &status, WUNTRACED));

			if (WIFSTOPPED(status)) {
				won++;
				CHECK_INT(won, 1);
				CHECK_INT(pid_in("app.pid"), pid);
				if (ended == CLAIMERS - 1)
					MUST(kill(pid, SIGCONT));
				pids[0] = pid;
				continue;
			}
			ended++;
			CHECK(WIFEXITED(status));
			CHECK_INT(WEXITSTATUS(status), ended == CLAIMERS ? 0 : 1);
			if (ended == CLAIMERS - 1 && won == 1)
				MUST(kill(pids[0], SIGCONT));
		}
		if (won == 0) {
			/* All but one had ended before it stopped. */
			pid_t pid = (pid_t)MUST(waitpid(-1, &status, WUNTRACED));

			CHECK(WIFSTOPPED(status));
			MUST(kill(pid, SIGCONT));
			MUST(waitpid(pid, &status, 0));
			CHECK_INT(status, 0);
		}
		MUST(unlink("app.pid"));
	}
	leave();
}

UNIT_CASE(a_reader_sees_one_pid_or_the_other_and_never_half_of_one)
{
	struct sg_pidfile pidfile;
	int stop[2], status;
	pid_t reader, holder;

	enter();
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	CHECK_INT(sg_pidfile_write(&pidfile, 7), 0);
	MUST(pipe2(stop, O_CLOEXEC));
	reader = (pid_t)MUST(fork());
	if (reader == 0) {
		struct pollfd poller = { .fd = stop[0], .events = POLLIN };
		long reads = 0;

		close(stop[1]);
		for (; reads < 100 || poll(&poller, 1, 0) == 0; reads++) {
			long pid = pid_in("app.pid");

			if (pid != 7 && pid != 1234567)
				_exit(1);
		}
		_exit(0);
	}
	for (int i = 0; i < 1000; i++)
		CHECK_INT(sg_pidfile_write(&pidfile, i % 2 ? 1234567 : 7), 0);
	MUST(close(stop[0]));
	MUST(close(stop[1]));
	MUST(waitpid(reader, &status, 0));
	CHECK_INT(status, 0);
	MUST(unlink("app.pid"));
	sg_pidfile_done(&pidfile);
	leave();
}

UNIT_CASE(only_our_own_file_is_removed)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	/* The successor has written its pid. */
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	CHECK_INT(sg_pidfile_write(&pidfile, getpid() + 1), 0);
	sg_pidfile_remove(&pidfile);
	CHECK_INT(pid_in("app.pid"), getpid() + 1);
	/* Somebody has put another file there, even with our number in it. */
	CHECK_INT(sg_pidfile_write(&pidfile, getpid()), 0);
	MUST(rename("app.pid", "moved.pid"));
	put("app.pid", "5\n");
	sg_pidfile_remove(&pidfile);
	CHECK_INT(pid_in("app.pid"), 5);
	MUST(unlink("app.pid"));
	/* Nothing there at all. */
	sg_pidfile_remove(&pidfile);
	CHECK_INT(pid_in("moved.pid"), getpid());
	MUST(unlink("moved.pid"));
	sg_pidfile_done(&pidfile);
	sg_pidfile_remove(&pidfile);
	leave();
}

UNIT_CASE(the_folder_is_remembered_over_chdir)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	MUST(chdir("/"));
	CHECK_INT(sg_pidfile_write(&pidfile, 4711), 0);
	MUST(chdir(folder));
	CHECK_INT(pid_in("app.pid"), 4711);
	MUST(chdir("/"));
	CHECK_INT(sg_pidfile_write(&pidfile, getpid()), 0);
	sg_pidfile_remove(&pidfile);
	sg_pidfile_done(&pidfile);
	leave();
}

UNIT_CASE(a_symlink_is_not_followed)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	put("victim", "precious\n");
	MUST(symlink("victim", "app.pid"));
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), -ELOOP);
	MUST(unlink("app.pid"));
	MUST(symlink("nowhere", "app.pid"));
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), -ELOOP);
	CHECK_INT(pid_in("nowhere"), -ENOENT);
	MUST(unlink("app.pid"));
	/* One that comes later is replaced, not written through. */
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), 0);
	MUST(unlink("app.pid"));
	MUST(symlink("victim", "app.pid"));
	CHECK_INT(sg_pidfile_write(&pidfile, 4711), 0);
	CHECK_INT(pid_in("app.pid"), 4711);
	CHECK_INT(pid_in("victim"), 0);
	MUST(unlink("app.pid"));
	MUST(unlink("victim"));
	sg_pidfile_done(&pidfile);
	leave();
}

UNIT_CASE(what_is_no_plain_file_is_refused)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	MUST(mkdir("app.pid", 0755));
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), -EISDIR);
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid/", &holder), -EISDIR);
	MUST(rmdir("app.pid"));
	MUST(mkfifo("app.pid", 0644));
	CHECK_INT(sg_pidfile_claim(&pidfile, "app.pid", &holder), -EINVAL);
	MUST(unlink("app.pid"));
	CHECK_INT(sg_pidfile_claim(&pidfile, "no/app.pid", &holder), -ENOENT);
	CHECK_INT(sg_pidfile_claim(&pidfile, "", &holder), -EISDIR);
	leave();
}

/* Runs the rest of a case as nobody in a child that cannot write the folder. */
static int as_nobody(int (*run)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
			_exit(99);
		_exit(run());
	}
	MUST(waitpid(pid, &status, 0));
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static struct sg_pidfile inherited;

static int write_as_nobody(void)
{
	return sg_pidfile_write(&inherited, 23) == 0 ? 0 : 1;
}

static int claim_as_nobody(void)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	return sg_pidfile_claim(&pidfile, "app.pid", &holder) == -EACCES ? 0 : 1;
}

UNIT_CASE(where_the_folder_may_not_be_written_the_pid_goes_through_the_descriptor)
{
	pid_t holder;
	ino_t before;

	if (getuid() != 0)
		SKIP("dropping privileges needs root");
	enter();
	MUST(chmod(folder, 0755));
	CHECK_INT(as_nobody(claim_as_nobody), 0);
	CHECK_INT(sg_pidfile_claim(&inherited, "app.pid", &holder), 0);
	CHECK_INT(sg_pidfile_write(&inherited, 1234567), 0);
	before = inode("app.pid");
	CHECK_INT(as_nobody(write_as_nobody), 0);
	CHECK_INT(pid_in("app.pid"), 23);
	CHECK_INT(inode("app.pid"), before);
	/* And it is held as before. */
	CHECK_INT(claim_elsewhere("app.pid", &holder), -EEXIST);
	CHECK_INT(holder, 23);
	MUST(unlink("app.pid"));
	sg_pidfile_done(&inherited);
	leave();
}

/* A file system with room for files but not for what is in them. */
static void full_disk(void)
{
	static char block[4096];
	int fd;

	MUST(mkdir("disk", 0755));
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "disk", "tmpfs", 0, "size=32k,mode=755") < 0) {
		rmdir("disk");
		leave();
		SKIP("a full disk needs the right to mount a tmpfs");
	}
	fd = (int)MUST(open("disk/filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	while (write(fd, block, sizeof(block)) > 0)
		;
	CHECK_INT(errno, ENOSPC);
	MUST(close(fd));
}

UNIT_CASE(on_a_full_disk_a_claim_fails_and_leaves_nothing)
{
	struct sg_pidfile pidfile;
	pid_t holder;

	enter();
	full_disk();
	CHECK_INT(sg_pidfile_claim(&pidfile, "disk/app.pid", &holder), -ENOSPC);
	CHECK_INT(pid_in("disk/app.pid"), -ENOENT);
	MUST(unlink("disk/filler"));
	CHECK_INT(sg_pidfile_claim(&pidfile, "disk/app.pid", &holder), 0);
	sg_pidfile_remove(&pidfile);
	sg_pidfile_done(&pidfile);
	MUST(umount("disk"));
	MUST(rmdir("disk"));
	leave();
}

UNIT_CASE(on_a_full_disk_a_file_that_we_hold_gets_the_new_pid)
{
	static char byte[4096];
	struct sg_pidfile pidfile;
	pid_t holder;
	int fd;

	enter();
	full_disk();
	MUST(unlink("disk/filler"));
	CHECK_INT(sg_pidfile_claim(&pidfile, "disk/app.pid", &holder), 0);
	fd = (int)MUST(open("disk/filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	while (write(fd, byte, sizeof(byte)) > 0)
		;
	MUST(close(fd));
	CHECK_INT(sg_pidfile_write(&pidfile, 4711), 0);
	CHECK_INT(pid_in("disk/app.pid"), 4711);
	MUST(unlink("disk/filler"));
	MUST(unlink("disk/app.pid"));
	sg_pidfile_done(&pidfile);
	/* Nothing else was left there. */
	MUST(chdir("disk"));
	MUST(chdir(".."));
	MUST(umount("disk"));
	MUST(rmdir("disk"));
	leave();
}

UNIT_MAIN
