/* SPDX-License-Identifier: MIT */
/*
 * Where supervisors are found: one control socket a service, in a folder of the user's own.
 */
#ifndef SEGUE_COMMAND_PATHS_H
#define SEGUE_COMMAND_PATHS_H

#include <stddef.h>

#define PATHS_MAX 108 /* of a unix socket's path, its end included */

/*
 * The folder: $SEGUE_RUNTIME_DIR, else for root /run/segue, else $XDG_RUNTIME_DIR/segue. The
 * supervisor makes it (0700; /run/segue 0755) and checks that it is the user's own. 0, -ENOENT
 * where the environment names none, -ENAMETOOLONG.
 */
int paths_folder(char *ret_path, size_t size);
int paths_make_folder(char *ret_path, size_t size, char *reason, size_t reason_size);

/* FOLDER/NAME.sock, and FOLDER/NAME.notify for the workers' messages. */
int paths_control(char *ret_path, size_t size, const char *name);
int paths_notify(char *ret_path, size_t size, const char *name);

/* Calls for each service that has a socket in the folder, in the order of their names; its
 * return value other than 0 ends the walk and is returned. */
int paths_each(int (*found)(void *ctx, const char *name, const char *path), void *ctx);

#endif
