/* SPDX-License-Identifier: MIT */
/*
 * The control socket, the client's side: upgrade, status, list, stop, cut, restart and kill.
 * Each says one request, shows the answer (display.h) and returns the exit code that is in it.
 *
 * A client never hangs for ever: a supervisor that does not answer is named after some seconds.
 */
#ifndef SEGUE_COMMAND_CLIENT_H
#define SEGUE_COMMAND_CLIENT_H

/* Does what the verb says, with the arguments as main() got them: argv[0] is the verb. Returns the
 * exit code (control.h). */
int client_command(const char *verb, int argc, char **argv);

#endif
