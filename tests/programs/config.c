/* SPDX-License-Identifier: MIT */
#include "config.h"
#include "say.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void push(const char **list, size_t *len, const char *value)
{
	if (*len < CONFIG_MAX - 1)
		list[(*len)++] = value;
}

static int64_t milliseconds(const char *text)
{
	return strcmp(text, "none") == 0 ? SEGUE_FOREVER : strtoll(text, NULL, 10);
}

static int signal_of(const char *text)
{
	return strcmp(text, "none") == 0 ? SEGUE_NO_SIGNAL : atoi(text);
}

static bool set_option(struct segue_options *options, const char *name, const char *value)
{
	if (strcmp(name, "--pid-file") == 0)
		options->pid_file = value;
	else if (strcmp(name, "--start-timeout") == 0)
		options->start_timeout_ms = milliseconds(value);
	else if (strcmp(name, "--drain-timeout") == 0)
		options->drain_timeout_ms = milliseconds(value);
	else if (strcmp(name, "--check-timeout") == 0)
		options->check_timeout_ms = milliseconds(value);
	else if (strcmp(name, "--probation") == 0)
		options->probation_ms = milliseconds(value);
	else if (strcmp(name, "--upgrade-signal") == 0)
		options->upgrade_signal = signal_of(value);
	else if (strcmp(name, "--now-signal") == 0)
		options->now_signal = signal_of(value);
	else if (strcmp(name, "--never") == 0)
		options->never_upgrade = true;
	else if (strcmp(name, "--record") == 0)
		options->record_version = options->record_version_min =
			options->record_version_max = (uint32_t)atoi(value);
	else
		return false;
	return true;
}

static bool set_listen(struct segue_listen_options *listen, const char *name, const char *value)
{
	if (strcmp(name, "--mode") == 0)
		listen->mode = (unsigned int)strtoul(value, NULL, 8);
	else if (strcmp(name, "--owner") == 0)
		listen->owner = value;
	else if (strcmp(name, "--group") == 0)
		listen->group = value;
	else if (strcmp(name, "--backlog") == 0)
		listen->backlog = atoi(value);
	else if (strcmp(name, "--v6only") == 0)
		listen->v6only = true;
	else
		return false;
	return true;
}

static bool set_own(struct config *config, const char *name, const char *value)
{
	if (strcmp(name, "--listen") == 0)
		push(config->listens, &config->listens_len, value);
	else if (strcmp(name, "--behave") == 0)
		push(config->behaviours, &config->behaviours_len, value);
	else if (strcmp(name, "--check-argument") == 0)
		push(config->check_arguments, &config->check_arguments_len, value);
	else if (strcmp(name, "--check") == 0)
		config->check = value;
	else if (strcmp(name, "--refuse-file") == 0)
		config->refuse_file = value;
	else if (strcmp(name, "--save-file") == 0)
		config->save_file = value;
	else if (strcmp(name, "--state") == 0)
		config->state = true;
	else if (strcmp(name, "--passed") == 0)
		config->passed = true;
	else
		return strcmp(name, "--log-format") == 0 || strcmp(name, "--note") == 0;
	return true;
}

static void set(struct config *config, const char *name, const char *value)
{
	if (set_option(&config->options, name, value) || set_listen(&config->listen, name, value) ||
	    set_own(config, name, value))
		return;
	say_begin("failed");
	say_text("reason", "unknown option");
	say_text("option", name);
	say_end();
	exit(EXIT_FAILURE);
}

/* The lines stay in memory: the options point to them. */
static void read_file(struct config *config, const char *path)
{
	static char text[65536];
	FILE *file = fopen(path, "re");
	size_t len = file != NULL ? fread(text, 1, sizeof(text) - 1, file) : 0;
	char *at = text, *name;

	if (file != NULL)
		fclose(file);
	text[len] = '\0';
	while ((name = strsep(&at, "\n")) != NULL && at != NULL)
		set(config, name, strsep(&at, "\n"));
}

void config_read(struct config *config, int argc, char **argv)
{
	const char *file = NULL;

	memset(config, 0, sizeof(*config));
	segue_options_init(&config->options);
	config->options.record_version = config->options.record_version_min =
		config->options.record_version_max = 1;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--config") == 0)
			file = argv[i + 1];
		else
			set(config, argv[i], argv[i + 1]);
	}
	if (file != NULL)
		read_file(config, file);
	if (config->check_arguments_len > 0)
		config->options.check_arguments = config->check_arguments;
}
