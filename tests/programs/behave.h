/* SPDX-License-Identifier: MIT */
/*
 * Misbehaviour on request. A behaviour is "STAGE:WHAT" or "STAGE:WHAT:ARGUMENT"; several of one
 * stage happen in their order.
 *
 * Stages: "start" before segue_open(), "open" after it, "listen" after segue_listen(), "ready"
 * after segue_ready(), "serve" at SEGUE_EVENT_SERVE, "commit" at SEGUE_EVENT_COMMIT.
 *
 * What: "exit" with a code; "signal", killed by one; "hang", for ever and deaf to TERM; "gate",
 * waits for a byte from a fifo; "delay" for milliseconds; "raw", writes one message past the
 * library to the predecessor's channel, see raw() for the kinds. What a program may do to itself
 * and what its successor must not get: "chdir", "umask" (octal), "user" (a number), "setenv"
 * (NAME=VALUE), "ignore" and "block" a signal.
 */
#ifndef TEST_BEHAVE_H
#define TEST_BEHAVE_H

#include "config.h"

/* Notes the channel, which segue_open() will take out of the environment. */
void behave_init(void);

void behave(const struct config *config, const char *stage);

#endif
