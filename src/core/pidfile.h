/* SPDX-License-Identifier: MIT */
/*
 * The pid file: who serves now.
 *
 * It is replaced as a whole (a reader sees one pid or the other), and its holder is alive as
 * long as the file is locked: the lock's descriptor is handed over, so that a pid that was
 * used again never counts as a live service.
 */
#ifndef SG_CORE_PIDFILE_H
#define SG_CORE_PIDFILE_H

#include <stdbool.h>
#include <sys/types.h>

struct sg_pidfile {
	char *path;
	int dir_fd;  /* of the path's folder: survives chdir() */
	int lock_fd; /* the locked file; -1: not ours */
};

/*
 * Claims the path for a service that begins. -EEXIST where a live service holds it (ret_holder
 * is its pid, 0 where the file is being written).
 */
int sg_pidfile_claim(struct sg_pidfile *ret_pidfile, const char *path, pid_t *ret_holder);

/* Takes over the path with the predecessor's lock. */
int sg_pidfile_adopt_take(struct sg_pidfile *ret_pidfile, const char *path, int lock_fd);

/*
 * Writes this process's pid: by a new file that replaces the old one, or, where the folder
 * may not be written (privileges were dropped), through the descriptor.
 */
int sg_pidfile_write(struct sg_pidfile *pidfile, pid_t pid);

/* Removes the file if it is still ours and has our pid. */
void sg_pidfile_remove(struct sg_pidfile *pidfile);

/* Closes, and removes nothing. */
void sg_pidfile_done(struct sg_pidfile *pidfile);

#endif
