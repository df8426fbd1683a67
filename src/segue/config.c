/* SPDX-License-Identifier: MIT */
/*
 * The command line is read twice: once for what is there (and whether it is understood), then,
 * after the file that it names, for what it sets.
 */
#include "segue/config.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "segue/config_file.h"
#include "segue/settings.h"
#include "segue/words.h"

#define SHOWN_MAX 200 /* of what a user wrote, in a sentence */

/* One option of the command line. */
struct given {
	const struct setting *setting;
	const char *value;
	char shown[40]; /* "--workers" or "-w", as it was written */
};

struct line {
	int argc, at;
	char **argv;
	struct given *given; /* at most argc */
	size_t given_len;
	const char *file;
	char *const *program; /* NULL: none */
	char *reason;
};

__attribute__((format(printf, 2, 3))) static int refuse(char *reason, const char *format, ...)
{
	char text[CONFIG_REASON_MAX];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	words_clean(reason, CONFIG_REASON_MAX, text);
	return -EINVAL;
}

static struct config *config_new(void)
{
	struct config *config = calloc(1, sizeof(*config));

	if (!config)
		return NULL;
	*config = (struct config){
		.workers = 1,
		.ready = CONFIG_READY_AUTO,
		.ready_fd = -1,
		.start_timeout_ms = 30000,
		.drain_timeout_ms = 30000,
		.kill_timeout_ms = 5000,
		.stop_signal = SIGTERM,
		.preflight_timeout_ms = 10000,
		.restart_delay_ms = 100,
		.restart_delay_max_ms = 30000,
		.restart_limit = 10,
		.restart_reset_ms = 10000,
	};
	config->ready_text = strdup("auto");
	config->listen = calloc(1, sizeof(char *));
	config->env = calloc(1, sizeof(char *));
	if (config->ready_text && config->listen && config->env)
		return config;
	config_free(config);
	return NULL;
}

void config_free(struct config *config)
{
	if (!config)
		return;
	words_free(config->listen);
	words_free(config->env);
	words_free(config->argv);
	free(config->file);
	free(config->name);
	free(config->ready_text);
	free(config->ready_argument);
	free(config->preflight);
	free(config->user);
	free(config->group);
	free(config->directory);
	free(config->listen_mode);
	free(config->pid_file);
	free(config->log_file);
	free(config->control);
	free(config);
}

/* The base name of the program, made a valid name. */
static char *default_name(const char *program)
{
	const char *slash = strrchr(program, '/');
	char *name = strndup(slash ? slash + 1 : program, 63);

	if (!name)
		return NULL;
	for (char *at = name; *at; at++) {
		if (*at >= 'A' && *at <= 'Z')
			*at |= 0x20;
		else if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_-", *at))
			*at = '-';
	}
	if (*name)
		return name;
	free(name);
	return strdup("service");
}

/* What no setting can know alone. dashes: "--" or "". */
static int check_together(const struct config *config, const char *dashes, char *reason)
{
	size_t first_free = 3 + config->listen_len;

	if (config->ready == CONFIG_READY_FD && (size_t)config->ready_fd < first_free)
		return refuse(reason,
		              "%sready %s: descriptor %d is the listener %.*s; use fd:%zu or more",
		              dashes, config->ready_text, config->ready_fd, SHOWN_MAX,
		              config->listen[config->ready_fd - 3], first_free);
	if (config->ready == CONFIG_READY_DELAY &&
	    config->ready_delay_ms >= config->start_timeout_ms)
		return refuse(reason,
		              "%sready %.*s: no worker could be ready before %sstart-timeout ends; "
		              "wait less, or set that higher",
		              dashes, SHOWN_MAX, config->ready_text, dashes);
	if (config->restart_delay_ms > config->restart_delay_max_ms)
		return refuse(reason,
		              "%srestart-delay is more than %srestart-delay-max; set that higher",
		              dashes, dashes);
	return 0;
}

/* Without memory the sentence is this one. */
static int finish(struct config **ret_config, struct config *config_take, int r, char *reason)
{
	if (r == 0 && !config_take->name) {
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): without a program, r < 0. */
		config_take->name = default_name(config_take->argv[0]);
		r = config_take->name ? 0 : -ENOMEM;
	}
	if (r == -ENOMEM)
		snprintf(reason, CONFIG_REASON_MAX, "there is no memory for the configuration");
	if (r < 0) {
		config_free(config_take);
		return r;
	}
	*ret_config = config_take;
	return 0;
}

static int check_file(const struct config *config, const char *path, char *reason)
{
	char why[CONFIG_REASON_MAX];

	if (!config->argv)
		return refuse(reason,
		              "%.*s: no program is named; add a line such as 'program ./server'",
		              SHOWN_MAX, path);
	if (check_together(config, "", why) < 0)
		return refuse(reason, "%.*s: %s", SHOWN_MAX, path, why);
	return 0;
}

int config_from_text(struct config **ret_config, const char *path, const char *text, size_t len,
                     char reason[static CONFIG_REASON_MAX])
{
	struct config *config = config_new();
	int r = -ENOMEM;

	if (config)
		r = config_file_apply(config, path, text, len, reason);
	if (r == 0)
		r = check_file(config, path, reason);
	return finish(ret_config, config, r, reason);
}

int config_from_file(struct config **ret_config, const char *path,
                     char reason[static CONFIG_REASON_MAX])
{
	size_t len;
	char *text;
	int r = config_file_read(&text, &len, path, reason);

	if (r < 0)
		return r;
	r = config_from_text(ret_config, path, text, len, reason);
	free(text);
	return r;
}

static int refuse_option(const struct line *line, const char *word)
{
	size_t len = strcspn(word + 2, "=");
	const struct setting *meant = NULL;

	if (!strncmp(word, "--", 2))
		meant = setting_guess(word + 2, len);
	if (meant && setting_on_line(meant))
		return refuse(line->reason, "there is no option --%.*s; did you mean --%s?",
		              (int)(len > 60 ? 60 : len), word + 2, meant->name);
	return refuse(line->reason, "there is no option %.60s; 'segue run --help' lists them",
	              word);
}

/* "--name", "--name=value", "-n": the option and, where it is in the same word, its value. */
static const struct setting *read_option(const char *word, struct given *given)
{
	const struct setting *setting;
	size_t len;

	if (word[1] != '-') {
		setting = word[1] && !word[2] ? setting_find_letter(word[1]) : NULL;
		snprintf(given->shown, sizeof(given->shown), "%.2s", word);
		return setting;
	}
	len = strcspn(word + 2, "=");
	setting = setting_find(word + 2, len);
	if (!setting || !setting_on_line(setting))
		return NULL;
	snprintf(given->shown, sizeof(given->shown), "--%s", setting->name);
	given->value = word[2 + len] ? word + 2 + len + 1 : NULL;
	return setting;
}

/* 1: help is asked for. */
static int take_option(struct line *line)
{
	struct given *given = &line->given[line->given_len];
	const char *word = line->argv[line->at];

	given->value = NULL;
	given->setting = read_option(word, given);
	if (!given->setting)
		return refuse_option(line, word);
	if (!given->setting->argument && given->value)
		return refuse(line->reason, "%s takes no value", given->shown);
	if (given->setting->kind == SETTING_HELP)
		return 1;
	/* The -- before the program is no value: what was forgotten is the value. */
	if (!given->value &&
	    (line->at + 1 >= line->argc || !strcmp(line->argv[line->at + 1], "--")))
		return refuse(line->reason, "%s needs a value: %s %s", given->shown, given->shown,
		              given->setting->argument);
	if (!given->value)
		given->value = line->argv[++line->at];
	if (given->setting->kind == SETTING_CONFIG)
		line->file = given->value;
	line->given_len++;
	return 0;
}

static int read_line(struct line *line)
{
	for (line->at = 1; line->at < line->argc; line->at++) {
		const char *word = line->argv[line->at];
		int r;

		if (!strcmp(word, "--")) {
			if (line->at + 1 < line->argc && line->argv[line->at + 1][0])
				line->program = &line->argv[line->at + 1];
			else
				return refuse(line->reason,
				              "no program follows --; write -- ./server");
			return 0;
		}
		if (word[0] != '-')
			return refuse(line->reason,
			              "'%.*s' is no option; put -- before the program: segue run "
			              "[OPTION]... -- %.*s",
			              SHOWN_MAX, word, SHOWN_MAX, word);
		r = take_option(line);
		if (r)
			return r;
	}
	return 0;
}

static int apply_file(struct config *config, const struct line *line)
{
	char why[CONFIG_REASON_MAX];
	size_t len;
	char *text;
	int r = config_file_read(&text, &len, line->file, why);

	if (r < 0) {
		refuse(line->reason, "--config %s", why);
		return r;
	}
	r = config_file_apply(config, line->file, text, len, line->reason);
	free(text);
	if (r == 0) {
		config->file = strdup(line->file);
		r = config->file != NULL ? 0 : -ENOMEM;
	}
	return r;
}

/* What was typed is the whole list of listeners. */
static int drop_listeners(struct config *config, const struct line *line)
{
	char **none;

	for (size_t i = 0; i < line->given_len; i++) {
		if (line->given[i].setting->kind != SETTING_LISTEN)
			continue;
		none = calloc(1, sizeof(char *));
		if (!none)
			return -ENOMEM;
		words_free(config->listen);
		config->listen = none;
		config->listen_len = 0;
		return 0;
	}
	return 0;
}

static int apply_given(struct config *config, const struct line *line)
{
	char why[CONFIG_REASON_MAX / 2];

	for (size_t i = 0; i < line->given_len; i++) {
		const struct given *given = &line->given[i];
		int r = setting_set(config, given->setting, given->value, why, sizeof(why));

		if (r == -EINVAL)
			return refuse(line->reason, "%s %.*s: %s", given->shown, SHOWN_MAX,
			              given->value, why);
		if (r < 0)
			return r;
	}
	return 0;
}

static int apply_program(struct config *config, const struct line *line)
{
	size_t len = 0;
	char **argv;

	while (line->program[len])
		len++;
	argv = calloc(len + 1, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	words_free(config->argv);
	config->argv = argv;
	for (size_t i = 0; i < len; i++) {
		argv[i] = strdup(line->program[i]);
		if (!argv[i])
			return -ENOMEM;
	}
	return 0;
}

static int apply_line(struct config *config, const struct line *line)
{
	int r = 0;

	if (line->file)
		r = apply_file(config, line);
	if (r == 0)
		r = drop_listeners(config, line);
	if (r == 0)
		r = apply_given(config, line);
	if (r == 0 && line->program)
		r = apply_program(config, line);
	if (r < 0)
		return r;
	if (!config->argv)
		return refuse(line->reason,
		              "no program is named; write it behind --: segue run -- ./server");
	return check_together(config, "--", line->reason);
}

static void print_help(void)
{
	printf("usage: segue run [OPTION]... -- PROGRAM [ARGUMENT]...\n\n");
	settings_help(stdout);
	printf("\nDURATION is written 500ms, 30s, 2m, 1h or 0. What the command line sets goes "
	       "before\nwhat the file sets.\n"
	       "Signals: USR2 and HUP upgrade, TERM and INT stop and the second one at once, QUIT "
	       "stops\nat once, USR1 opens the logs again and is passed on.\n");
}

int config_from_arguments(struct config **ret_config, int argc, char **argv,
                          char reason[static CONFIG_REASON_MAX])
{
	struct line line = { .argc = argc, .argv = argv, .reason = reason };
	struct config *config = config_new();
	int r = -ENOMEM;

	line.given = calloc((size_t)argc + 1, sizeof(*line.given));
	if (config && line.given)
		r = read_line(&line);
	if (r == 0)
		r = apply_line(config, &line);
	free(line.given);
	if (r == 1) {
		config_free(config);
		print_help();
		return 1;
	}
	return finish(ret_config, config, r, reason);
}

int config_print(const struct config *config, FILE *out)
{
	for (const struct setting *setting = settings; setting->name; setting++) {
		size_t count = setting_count(config, setting);

		if (count == 0 && setting_in_file(setting))
			fprintf(out, "# %s is not set\n", setting->name);
		for (size_t i = 0; i < count; i++) {
			char *text = setting_text(config, setting, i);

			if (!text)
				return -ENOMEM;
			fprintf(out, "%s %s\n", setting->name, text);
			free(text);
		}
	}
	return 0;
}
