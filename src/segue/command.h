/* SPDX-License-Identifier: MIT */
/*
 * What main() hands a subcommand's arguments to. argv[0] is the subcommand's own word ("run"); the
 * exit code comes back (control.h).
 */
#ifndef SEGUE_COMMAND_COMMAND_H
#define SEGUE_COMMAND_COMMAND_H

/* 'segue run': the supervisor, until the service has ended. */
int command_run(int argc, char **argv);

/* 'segue check FILE': is it a configuration that could be run here? */
int command_check(int argc, char **argv);

#endif
