/* SPDX-License-Identifier: MIT */
/*
 * The form of a configuration file (segue.conf(5)): "setting value" lines. Pure, but for
 * config_file_read().
 */
#ifndef SEGUE_COMMAND_CONFIG_FILE_H
#define SEGUE_COMMAND_CONFIG_FILE_H

#include <stddef.h>

#include "segue/config.h"

#define CONFIG_FILE_MAX (1 << 20)

/* Applies each line. 0, -ENOMEM, or -EINVAL with "PATH:LINE: ..." in reason; what stood before that
 * line has been applied. */
int config_file_apply(struct config *config, const char *path, const char *text, size_t len,
                      char reason[static CONFIG_REASON_MAX]);

/* The bytes of a file, to be freed. -EINVAL with "PATH: ..." in reason, whatever went wrong. */
int config_file_read(char **ret_text, size_t *ret_len, const char *path,
                     char reason[static CONFIG_REASON_MAX]);

#endif
