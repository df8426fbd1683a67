/* SPDX-License-Identifier: MIT */
/*
 * Starting a program: what it inherits is an explicit list, and a failure to execute comes
 * back with its errno and the path.
 */
#ifndef SG_CORE_SPAWN_H
#define SG_CORE_SPAWN_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * How this process was started, so that a successor is started the same way. Taken by
 * sg_origin_take(), freed by sg_origin_done().
 */
struct sg_origin {
	char *program;    /* AT_EXECFN */
	char **argv;      /* NULL-terminated */
	char **envp;      /* NULL-terminated */
	char *directory;  /* $PWD where it names the directory, else NULL */
	int directory_fd; /* the directory itself, -1: it could not be opened */
	mode_t umask;
	sigset_t mask;    /* blocked at start */
	sigset_t ignored; /* ignored at start */
};

/* 0, or -errno with nothing to free. */
int sg_origin_take(struct sg_origin *ret_origin);
void sg_origin_done(struct sg_origin *origin);

/* An open descriptor and the number that it gets in the program. */
struct sg_spawn_fd {
	int fd, number;
};

/* Whom the program runs as. */
struct sg_identity {
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	size_t groups_len;
};

struct sg_spawn {
	const struct sg_origin *origin;
	char *const *argv;     /* NULL: the origin's */
	const char *program;   /* looked up as by execvp(3), in place of the origin's; NULL: its */
	const int *program_fd; /* executed in place of any name; NULL: none */
	/* Besides 0, 1 and 2; numbers may be 0 and up, each once, and cross the sources freely. */
	const struct sg_spawn_fd *fds;
	size_t fds_len;
	const struct sg_identity *identity; /* NULL: the caller's */
	const char *directory;              /* NULL: the origin's */
	bool sibling;     /* the caller's parent becomes its parent, and reaps it */
	bool own_session; /* no terminal, and a process group of its own */
	/* Sent when the calling thread dies; 0: none. A witness with a session of its own ends all
	 * of that by SIGKILL then. */
	int death_signal;
	int ignore_signal; /* ignored by the new program until it handles it; 0: none */
	bool witness;      /* exec_fd says how the program ended, whoever reaps children here */
	/* Names of variables that are left out, ends with NULL; may be NULL. */
	const char *const *unset;
	/* "NAME=value" to add; a value of "@pid" becomes the pid of the new process. */
	const char *const *set;
};

struct sg_spawned {
	pid_t pid;
	int pidfd;
	int exec_fd; /* ends without a byte when the program runs, else see sg_spawn_result() */
};

enum sg_spawn_step {
	SG_SPAWN_EXECUTE,
	SG_SPAWN_DIRECTORY,
	SG_SPAWN_IDENTITY,
	SG_SPAWN_DESCRIPTORS,
	SG_SPAWN_FORK,
};

struct sg_exec_error {
	enum sg_spawn_step step; /* that failed */
	int status;              /* of a program with a witness: as of waitpid() */
	int error;               /* a positive errno */
	char path[PATH_MAX];     /* what could not be executed, or the directory */
};

/*
 * Starts the program. It is looked up anew: argv[0] through PATH where it was found so, else
 * by the name it was started with. 0, or -errno when no process could be made.
 */
int sg_spawn(struct sg_spawned *ret_spawned, const struct sg_spawn *spawn);

/*
 * Reads the outcome from exec_fd: 1 the program runs, 2 it has ended with the status (witness),
 * 0 not known yet, -errno with the path where it could not be executed.
 */
int sg_spawn_result(int exec_fd, struct sg_exec_error *ret_error);

/* "PATH could not be executed: No such file or directory", or what else failed, as a clause. */
void sg_spawn_error_text(const struct sg_exec_error *error, char *text, size_t size);

#endif
