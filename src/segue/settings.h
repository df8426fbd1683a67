/* SPDX-License-Identifier: MIT */
/*
 * The table of what 'segue run' can be told: the parser of the command line, that of the file,
 * --help and 'segue check' all read it. Pure.
 */
#ifndef SEGUE_COMMAND_SETTINGS_H
#define SEGUE_COMMAND_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "segue/config.h"

enum setting_kind {
	SETTING_NAME,     /* of the service */
	SETTING_TEXT,     /* char *, not empty */
	SETTING_MODE,     /* char *, octal */
	SETTING_LISTEN,   /* one more of config->listen */
	SETTING_ENV,      /* one more of config->env, or another value of one */
	SETTING_NUMBER,   /* unsigned int, least..most */
	SETTING_DURATION, /* int64_t in milliseconds, least or more */
	SETTING_SIGNAL,   /* int */
	SETTING_CHOICE,   /* unsigned int: which word of the argument's A|B|C */
	SETTING_SWITCH,   /* bool: is it the second word of the argument's A|B? */
	SETTING_READY,    /* config->ready and what belongs to it */
	SETTING_PROGRAM,  /* config->argv; in a file only, since -- does it on the command line */
	SETTING_CONFIG,   /* the file to read; on the command line only, like the next */
	SETTING_HELP,
};

struct setting {
	const char *name;
	char letter;          /* 0: none */
	const char *argument; /* NULL: none */
	const char *help;     /* the default in parentheses at its end */
	enum setting_kind kind;
	size_t offset; /* in struct config */
	int64_t least, most;
	bool repeatable;
};

/* The table ends with an entry without name. */
extern const struct setting settings[];

bool setting_in_file(const struct setting *setting);
bool setting_on_line(const struct setting *setting);

/* The first len bytes are the name; NULL: there is none. */
const struct setting *setting_find(const char *name, size_t len);
const struct setting *setting_find_letter(char letter);

/* The one whose name is nearest to what was written, or NULL where none is near. */
const struct setting *setting_guess(const char *name, size_t len);

/* Sets the field. 0, -ENOMEM, or -EINVAL with a clause in reason: "it has to be 1 to 64". */
int setting_set(struct config *config, const struct setting *setting, const char *value,
                char *reason, size_t reason_size);

/*
 * How often it is set, and the text of one of them, as a line of a file has it, to be freed; NULL:
 * there is none, or no memory.
 */
size_t setting_count(const struct config *config, const struct setting *setting);
char *setting_text(const struct config *config, const struct setting *setting, size_t index);

/* The options as --help has them. */
void settings_help(FILE *out);

#endif
