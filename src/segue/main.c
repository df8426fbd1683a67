/* SPDX-License-Identifier: MIT */
/*
 * segue: runs a service under a supervisor whose pid never changes, and talks to it.
 *
 * One table of subcommands, from which this file calls them and prints the help. The options of
 * 'run' are a table of their own (settings.c).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "segue/client.h"
#include "segue/command.h"
#include "segue/control.h"
#include "segue/words.h"

struct subcommand {
	const char *name;
	const char *arguments;
	const char *help;    /* one line, for 'segue --help' */
	const char *details; /* for 'segue NAME --help'; NULL: the function prints its own help */
	int (*run)(int argc, char **argv);
};

static int client(int argc, char **argv)
{
	return client_command(argv[0], argc, argv);
}

#define WHICH  "SERVICE may be left out where one service runs.\n"
#define JSON   "  --json          one JSON object a line\n"
#define COMMON "  --control PATH  of the control socket, in place of a service\n" JSON

static const struct subcommand subcommands[] = {
	{ "run", "[OPTION]... -- PROGRAM [ARGUMENT]...", "run a service under a supervisor", NULL,
	  command_run },
	{ "upgrade", "[SERVICE | --control PATH] [--no-wait] [--json] [-- PROGRAM [ARGUMENT]...]",
	  "replace the running generation by the next one",
	  "Starts the next generation, waits until it serves and the one before it is gone, and\n"
	  "says what happens meanwhile. Behind -- stands a new command line.\n" WHICH "\n"
	  "  --no-wait       return as soon as it has begun\n" COMMON,
	  client },
	{ "status", "[SERVICE | --control PATH] [--json]",
	  "say what runs, since when, and how the last upgrade went", WHICH "\n" COMMON, client },
	{ "list", "[--json]", "name the services of this user", JSON, client },
	{ "stop", "[SERVICE | --control PATH] [--now] [--json]", "drain, then end the service",
	  WHICH "\n  --now           cut what still runs\n" COMMON, client },
	{ "cut", "[SERVICE | --control PATH] [--json]", "end a running drain: close what is left",
	  WHICH "\n" COMMON, client },
	{ "restart", "[SERVICE | --control PATH] WORKER [--json]",
	  "replace one worker by another one of the same version",
	  "WORKER is a number of 'segue status'.\n" WHICH "\n" COMMON, client },
	{ "kill", "[SERVICE | --control PATH] SIGNAL [--json]",
	  "send a signal to the workers that serve",
	  "SIGNAL is a name or a number: HUP, SIGHUP, 1.\n" WHICH "\n" COMMON, client },
	{ "check", "FILE", "check a configuration file and print what it says",
	  "Prints the whole configuration, defaults included, in the form of a file. What is\n"
	  "wrong with it is one sentence on standard error, and the exit code is 2.\n",
	  command_check },
};

#define SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static void print_help(void)
{
	printf("usage: segue COMMAND [ARGUMENT]...\n\n");
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		printf("  %-10s  %s\n", subcommands[i].name, subcommands[i].help);
	printf("\n  --help      print this; after a command: what that takes\n"
	       "  --version   print the version\n");
}

static void print_subcommand_help(const struct subcommand *subcommand)
{
	printf("usage: segue %s %s\n\n%s", subcommand->name, subcommand->arguments,
	       subcommand->details);
}

static const struct subcommand *find(const char *name)
{
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		if (!strcmp(subcommands[i].name, name))
			return &subcommands[i];
	return NULL;
}

static int refuse(const char *name)
{
	char shown[40];

	words_clean(shown, sizeof(shown), name);
	for (size_t i = 0; i < SUBCOMMANDS; i++) {
		if (words_distance(shown, subcommands[i].name) > 2)
			continue;
		fprintf(stderr, "segue: there is no command '%s'; did you mean 'segue %s'?\n",
		        shown, subcommands[i].name);
		return EXIT_USAGE;
	}
	fprintf(stderr, "segue: there is no command '%s'; 'segue --help' lists them\n", shown);
	return EXIT_USAGE;
}

/* What stands behind -- is somebody else's. */
static int asks_for_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return 1;
	return 0;
}

/* Whatever else is opened must not become what a line or a worker's output is written to. */
static void fill_stdio(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		(void)close(fd);
}

int main(int argc, char **argv)
{
	const struct subcommand *subcommand;

	fill_stdio();
	if (argc < 2) {
		fprintf(stderr, "segue: what is to be done? 'segue --help' lists the commands\n");
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_help();
		return EXIT_DONE;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("segue %s\n", SEGUE_VERSION);
		return EXIT_DONE;
	}
	subcommand = find(argv[1]);
	if (!subcommand)
		return refuse(argv[1]);
	if (subcommand->details && asks_for_help(argc - 1, argv + 1)) {
		print_subcommand_help(subcommand);
		return EXIT_DONE;
	}
	return subcommand->run(argc - 1, argv + 1);
}
