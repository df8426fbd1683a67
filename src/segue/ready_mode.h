/* SPDX-License-Identifier: MIT */
/*
 * The grammar of --ready: auto, segue, notify, fd:N, exec:COMMAND, http://..., tcp://...,
 * delay:DURATION. Pure.
 */
#ifndef SEGUE_COMMAND_READY_MODE_H
#define SEGUE_COMMAND_READY_MODE_H

#include <stddef.h>

#include "segue/config.h"

#define READY_FD_MAX 1023

/* Sets ready and all that belongs to it. 0, -ENOMEM, or -EINVAL with a clause in reason. */
int ready_mode_set(struct config *config, const char *text, char *reason, size_t reason_size);

#endif
