/* SPDX-License-Identifier: MIT */
/*
 * The variables by which a service manager passes sockets: LISTEN_PID, LISTEN_FDS,
 * LISTEN_FDNAMES. Pure: the caller reads and removes them.
 * Source: sd_listen_fds(3), sd_listen_fds_with_names(3)
 */
#ifndef SG_CORE_LISTENFDS_H
#define SG_CORE_LISTENFDS_H

#include <stddef.h>
#include <sys/types.h>

#define SG_LISTENFDS_START 3
#define SG_LISTENFDS_MAX   128

struct sg_listenfds {
	size_t count;                      /* descriptors 3, 4, ... */
	char names[SG_LISTENFDS_MAX][256]; /* "unknown" where there were none */
};

/*
 * Parses the three values (NULL: not set). No LISTEN_FDS is a count of 0. -EINVAL with a
 * sentence in reason where a value is malformed, the pid is another's, or the names are not
 * as many as the descriptors.
 */
int sg_listenfds_parse(struct sg_listenfds *ret_listenfds, const char *listen_pid,
                       const char *listen_fds, const char *listen_fdnames, pid_t pid, char *reason,
                       size_t reason_size);

#endif
