/* SPDX-License-Identifier: MIT */
/*
 * A list (listeners, variables) never holds a value that was refused: a configuration is whole at
 * each moment.
 */
#include "segue/settings.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/address.h"
#include "core/wire.h"
#include "segue/ready_mode.h"
#include "segue/words.h"

#define ENV_MAX 512
/* The channel to a worker carries milliseconds in 32 bits. */
#define DURATION_MAX_MS (24LL * 24 * 3600 * 1000)
/* Beside it stands another socket, whose name is longer by ".notify". */
#define CONTROL_PATH_MAX (SG_PATH_MAX - 8)

#define FIELD(member) .offset = offsetof(struct config, member)

const struct setting settings[] = {
	{ "name", 'n', "NAME", "of the service: a-z, 0-9, _ and - (the program's)", SETTING_NAME,
	  FIELD(name) },
	{ "listen", 'l', "[NAME=]ADDRESS",
	  "hold a socket: :8080, http=127.0.0.1:80, unix:///run/a.sock", SETTING_LISTEN,
	  .repeatable = true },
	{ "listen-mode", 0, "MODE", "of the paths of --listen unix://, octal (by the umask)",
	  SETTING_MODE, FIELD(listen_mode) },
	{ "workers", 'w', "N", "processes of a generation (1)", SETTING_NUMBER, FIELD(workers), 1,
	  CONFIG_WORKERS_MAX },
	{ "ready", 0, "MODE",
	  "how a worker says that it is ready: auto, segue, notify,\n"
	  "fd:N, exec:COMMAND, http://HOST:PORT/PATH, tcp://HOST:PORT,\n"
	  "unix:///PATH, delay:DURATION (auto)",
	  .kind = SETTING_READY },
	{ "start-timeout", 0, "DURATION", "a worker has to be ready within it (30s)",
	  SETTING_DURATION, FIELD(start_timeout_ms), 1 },
	{ "drain-timeout", 0, "DURATION", "a predecessor has to be gone within it (30s)",
	  SETTING_DURATION, FIELD(drain_timeout_ms), 0 },
	{ "stop-signal", 0, "SIGNAL", "tells a worker without libsegue to finish (TERM)",
	  SETTING_SIGNAL, FIELD(stop_signal) },
	{ "kill-timeout", 0, "DURATION", "from the end of a drain to SIGKILL (5s)",
	  SETTING_DURATION, FIELD(kill_timeout_ms), 0 },
	{ "preflight", 0, "COMMAND", "has to exit 0 before an upgrade starts anything (none)",
	  SETTING_TEXT, FIELD(preflight) },
	{ "preflight-timeout", 0, "DURATION", "it has to be done within it (10s)", SETTING_DURATION,
	  FIELD(preflight_timeout_ms), 1 },
	{ "restart", 0, "always|on-failure|never", "start a worker again that has ended (always)",
	  SETTING_CHOICE, FIELD(restart) },
	{ "restart-limit", 0, "N", "at most so often in a row; 0: without limit (10)",
	  SETTING_NUMBER, FIELD(restart_limit), 0, 1000000 },
	{ "restart-delay", 0, "DURATION", "before the second in a row, then doubled (100ms)",
	  SETTING_DURATION, FIELD(restart_delay_ms), 1 },
	{ "restart-delay-max", 0, "DURATION", "the longest of these (30s)", SETTING_DURATION,
	  FIELD(restart_delay_max_ms), 1 },
	{ "restart-reset", 0, "DURATION", "a worker that lived so long ends a row (10s)",
	  SETTING_DURATION, FIELD(restart_reset_ms), 1 },
	{ "user", 'u', "USER", "of the workers, a name or a number (unchanged)", SETTING_TEXT,
	  FIELD(user) },
	{ "group", 'g', "GROUP", "of the workers, a name or a number (the user's)", SETTING_TEXT,
	  FIELD(group) },
	{ "chdir", 0, "FOLDER", "the workers' working directory (unchanged)", SETTING_TEXT,
	  FIELD(directory) },
	{ "env", 'e', "NAME[=VALUE]", "set a variable for the workers, or take it out", SETTING_ENV,
	  .repeatable = true },
	{ "pid-file", 0, "FILE", "hold the supervisor's pid (none)", SETTING_TEXT,
	  FIELD(pid_file) },
	{ "log", 0, "plain|prefix|direct",
	  "workers' output: unchanged, each line with generation and\n"
	  "pid, or inherited, and nothing kept of it (plain)",
	  SETTING_CHOICE, FIELD(log) },
	{ "log-format", 0, "text|json", "of the supervisor's own lines (text)", SETTING_SWITCH,
	  FIELD(log_json) },
	{ "log-file", 0, "FILE", "for its lines and the workers', opened again at USR1 (none)",
	  SETTING_TEXT, FIELD(log_file) },
	{ "orphans", 0, "drain|serve", "what workers do without their supervisor (drain)",
	  SETTING_CHOICE, FIELD(orphans) },
	{ "control", 0, "PATH", "of the control socket (by the name)", SETTING_TEXT, FIELD(control),
	  .most = CONTROL_PATH_MAX },
	{ "program", 0, "PROGRAM [ARGUMENT]...", "quoted as for ExecStart= of systemd",
	  .kind = SETTING_PROGRAM },
	{ "config", 'c', "FILE", "read settings from a file too, see segue.conf(5)",
	  .kind = SETTING_CONFIG },
	{ "help", 'h', NULL, "print this and exit", .kind = SETTING_HELP },
	{ .name = NULL },
};

bool setting_in_file(const struct setting *setting)
{
	return setting->kind != SETTING_CONFIG && setting->kind != SETTING_HELP;
}

bool setting_on_line(const struct setting *setting)
{
	return setting->kind != SETTING_PROGRAM;
}

const struct setting *setting_find(const char *name, size_t len)
{
	for (const struct setting *setting = settings; setting->name; setting++)
		if (strlen(setting->name) == len && !memcmp(setting->name, name, len))
			return setting;
	return NULL;
}

const struct setting *setting_find_letter(char letter)
{
	for (const struct setting *setting = settings; setting->name; setting++)
		if (letter && setting->letter == letter)
			return setting;
	return NULL;
}

const struct setting *setting_guess(const char *name, size_t len)
{
	const struct setting *nearest = NULL;
	size_t best = 3; /* more letters than that make it another word */
	char word[32];

	if (len < 3 || len >= sizeof(word))
		return NULL;
	memcpy(word, name, len);
	word[len] = '\0';
	for (const struct setting *setting = settings; setting->name; setting++) {
		size_t distance = words_distance(word, setting->name);

		/* What was left unfinished is nearer than what is spelt wrong. */
		if (!strncmp(setting->name, word, len))
			distance = 0;
		if (distance < best) {
			best = distance;
			nearest = setting;
		}
	}
	return nearest;
}

static void *field_of(struct config *config, const struct setting *setting)
{
	return (char *)config + setting->offset;
}

static const void *value_of(const struct config *config, const struct setting *setting)
{
	return (const char *)config + setting->offset;
}

static int put_text(char **text, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

static int set_name(struct config *config, const char *value, char *reason, size_t reason_size)
{
	if (sg_name_valid(value))
		return put_text(&config->name, value);
	snprintf(reason, reason_size, "a name is 1 to 63 characters of a-z, 0-9, _ and -");
	return -EINVAL;
}

static int set_text(struct config *config, const struct setting *setting, const char *value,
                    char *reason, size_t reason_size)
{
	if (!*value) {
		snprintf(reason, reason_size, "it is empty; leave it out, or write %s",
		         setting->argument);
		return -EINVAL;
	}
	if (setting->most && strlen(value) > (size_t)setting->most) {
		snprintf(reason, reason_size, "it is longer than %lld bytes",
		         (long long)setting->most);
		return -EINVAL;
	}
	return put_text(field_of(config, setting), value);
}

static int set_mode(struct config *config, const struct setting *setting, const char *value,
                    char *reason, size_t reason_size)
{
	size_t len = strspn(value, "01234567");

	if (value[len] != '\0' || len == 0 || len > 4 || strtol(value, NULL, 8) > 0777 ||
	    strtol(value, NULL, 8) == 0) {
		snprintf(reason, reason_size, "it has to be octal, 1 to 777, such as 660");
		return -EINVAL;
	}
	return put_text(field_of(config, setting), value);
}

/* Appends to a list that ends with NULL. */
static int append(char ***list, size_t len, const char *value)
{
	char **larger = reallocarray(*list, len + 2, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	*list = larger;
	larger[len] = strdup(value);
	if (!larger[len])
		return -ENOMEM;
	larger[len + 1] = NULL;
	return 0;
}

/* Neither may two be told apart by nothing, nor can two addresses that overlap be bound. */
static int check_beside(const char *spec, const char *name, const struct sg_address *address,
                        char *reason, size_t reason_size)
{
	struct sg_address other;
	char other_name[SG_NAME_MAX + 1];

	if (sg_address_parse_spec(other_name, &other, spec, reason, reason_size) < 0)
		return -EINVAL;
	if (sg_address_overlaps(address, false, &other, false)) {
		snprintf(reason, reason_size,
		         "it cannot be bound beside %.200s; keep one of the two", spec);
		return -EINVAL;
	}
	if (!strcmp(name, other_name)) {
		snprintf(reason, reason_size,
		         "%.200s is called '%.63s' already; give each listener a name of its own",
		         spec, name);
		return -EINVAL;
	}
	return 0;
}

static int add_listen(struct config *config, const char *value, char *reason, size_t reason_size)
{
	struct sg_address address;
	char name[SG_NAME_MAX + 1];
	int r;

	if (config->listen_len == SG_WIRE_LISTENERS) {
		snprintf(reason, reason_size, "there are %d listeners already, which is the most",
		         SG_WIRE_LISTENERS);
		return -EINVAL;
	}
	r = sg_address_parse_spec(name, &address, value, reason, reason_size);
	for (size_t i = 0; r == 0 && i < config->listen_len; i++)
		r = check_beside(config->listen[i], name, &address, reason, reason_size);
	if (r < 0)
		return -EINVAL;
	r = append(&config->listen, config->listen_len, value);
	if (r == 0)
		config->listen_len++;
	return r;
}

static bool is_ours(const char *name, size_t len)
{
	static const char *const set[] = { "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
		                           "NOTIFY_SOCKET" };

	if (len >= 6 && !memcmp(name, "SEGUE_", 6))
		return true;
	for (size_t i = 0; i < sizeof(set) / sizeof(set[0]); i++)
		if (strlen(set[i]) == len && !memcmp(set[i], name, len))
			return true;
	return false;
}

static bool is_variable(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] <= ' ' || strchr("\"'\\$`\x7f", name[i]))
			return false;
	return len > 0;
}

static size_t count(char *const *list)
{
	size_t len = 0;

	while (list && list[len])
		len++;
	return len;
}

static int add_env(struct config *config, const char *value, char *reason, size_t reason_size)
{
	size_t name_len = strcspn(value, "="), len = count(config->env);

	if (!is_variable(value, name_len)) {
		snprintf(reason, reason_size,
		         "what stands before the first = is not the name of a variable; write "
		         "NAME=VALUE, or NAME to take one out");
		return -EINVAL;
	}
	if (is_ours(value, name_len)) {
		snprintf(reason, reason_size,
		         "segue sets this variable itself; choose another name");
		return -EINVAL;
	}
	for (size_t i = 0; i < len; i++)
		if (!strncmp(config->env[i], value, name_len) &&
		    strchr("=", config->env[i][name_len]))
			return put_text(&config->env[i], value);
	if (len == ENV_MAX) {
		snprintf(reason, reason_size, "there are %d variables already, which is the most",
		         ENV_MAX);
		return -EINVAL;
	}
	return append(&config->env, len, value);
}

static int set_number(unsigned int *field, const struct setting *setting, const char *value,
                      char *reason, size_t reason_size)
{
	uint64_t number;

	if (words_number(value, (uint64_t)setting->most, &number) < 0 ||
	    (int64_t)number < setting->least) {
		snprintf(reason, reason_size, "it has to be a number, %lld to %lld",
		         (long long)setting->least, (long long)setting->most);
		return -EINVAL;
	}
	*field = (unsigned int)number;
	return 0;
}

static int set_duration(int64_t *field, const struct setting *setting, const char *value,
                        char *reason, size_t reason_size)
{
	int64_t ms;

	if (words_duration(value, &ms) < 0) {
		snprintf(reason, reason_size, "it is not a duration such as 500ms, 30s, 2m or 1h");
		return -EINVAL;
	}
	if (ms < setting->least) {
		snprintf(reason, reason_size, "it has to be %lldms or more",
		         (long long)setting->least);
		return -EINVAL;
	}
	if (ms > DURATION_MAX_MS) {
		snprintf(reason, reason_size, "it has to be 24 days, which is 576h, or less");
		return -EINVAL;
	}
	*field = ms;
	return 0;
}

static int set_signal(int *field, const char *value, char *reason, size_t reason_size)
{
	int signal;

	if (words_signal(value, &signal) < 0) {
		snprintf(reason, reason_size,
		         "it is not a signal such as TERM, SIGQUIT, RTMIN+3 or 15");
		return -EINVAL;
	}
	if (signal == SIGKILL || signal == SIGSTOP) {
		snprintf(reason, reason_size,
		         "no program can act on it; use TERM, QUIT, INT, USR1, ...");
		return -EINVAL;
	}
	*field = signal;
	return 0;
}

/* Which word of "a|b|c" it is, or -1. */
static int choice_of(const char *choices, const char *value)
{
	size_t len;

	for (int i = 0;; i++) {
		len = strcspn(choices, "|");
		if (strlen(value) == len && !memcmp(choices, value, len))
			return i;
		if (!choices[len])
			return -1;
		choices += len + 1;
	}
}

static int set_choice(struct config *config, const struct setting *setting, const char *value,
                      char *reason, size_t reason_size)
{
	int choice = choice_of(setting->argument, value);

	if (choice < 0) {
		snprintf(reason, reason_size, "it has to be one of %s", setting->argument);
		return -EINVAL;
	}
	if (setting->kind == SETTING_SWITCH)
		*(bool *)field_of(config, setting) = choice;
	else
		*(unsigned int *)field_of(config, setting) = (unsigned int)choice;
	return 0;
}

static int set_program(struct config *config, const char *value, char *reason, size_t reason_size)
{
	char **words;
	int r = words_split(&words, value, reason, reason_size);

	if (r < 0)
		return r;
	if (!words[0] || !words[0][0]) {
		snprintf(reason, reason_size, "it names no program; write program ./server");
		words_free(words);
		return -EINVAL;
	}
	words_free(config->argv);
	config->argv = words;
	return 0;
}

int setting_set(struct config *config, const struct setting *setting, const char *value,
                char *reason, size_t reason_size)
{
	void *field = field_of(config, setting);

	reason[0] = '\0';
	switch (setting->kind) {
	case SETTING_NAME:
		return set_name(config, value, reason, reason_size);
	case SETTING_TEXT:
		return set_text(config, setting, value, reason, reason_size);
	case SETTING_MODE:
		return set_mode(config, setting, value, reason, reason_size);
	case SETTING_LISTEN:
		return add_listen(config, value, reason, reason_size);
	case SETTING_ENV:
		return add_env(config, value, reason, reason_size);
	case SETTING_NUMBER:
		return set_number(field, setting, value, reason, reason_size);
	case SETTING_DURATION:
		return set_duration(field, setting, value, reason, reason_size);
	case SETTING_SIGNAL:
		return set_signal(field, value, reason, reason_size);
	case SETTING_CHOICE:
	case SETTING_SWITCH:
		return set_choice(config, setting, value, reason, reason_size);
	case SETTING_READY:
		return ready_mode_set(config, value, reason, reason_size);
	case SETTING_PROGRAM:
		return set_program(config, value, reason, reason_size);
	case SETTING_CONFIG:
	case SETTING_HELP:
		break;
	}
	return 0;
}

size_t setting_count(const struct config *config, const struct setting *setting)
{
	switch (setting->kind) {
	case SETTING_NAME:
	case SETTING_MODE:
	case SETTING_TEXT:
		return *(char *const *)value_of(config, setting) ? 1 : 0;
	case SETTING_LISTEN:
		return config->listen_len;
	case SETTING_ENV:
		return count(config->env);
	case SETTING_PROGRAM:
		return config->argv && config->argv[0] ? 1 : 0;
	case SETTING_CONFIG:
	case SETTING_HELP:
		return 0;
	default:
		return 1;
	}
}

static char *choice_text(const char *choices, unsigned int choice)
{
	for (; choice; choice--)
		choices += strcspn(choices, "|") + 1;
	return strndup(choices, strcspn(choices, "|"));
}

static char *number_text(unsigned int number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	return strdup(text);
}

/* The words of a command line, quoted where they have to be. */
static char *program_text(char *const *argv)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (size_t i = 0; argv[i]; i++) {
		char *word = words_quote(argv[i]);

		fprintf(out, "%s%s", i ? " " : "", word ? word : "");
		free(word);
	}
	fclose(out);
	return text;
}

char *setting_text(const struct config *config, const struct setting *setting, size_t index)
{
	const void *value = value_of(config, setting);
	char text[WORDS_MAX];

	if (index >= setting_count(config, setting))
		return NULL;
	switch (setting->kind) {
	case SETTING_NAME:
	case SETTING_MODE:
	case SETTING_TEXT:
		return strdup(*(char *const *)value);
	case SETTING_LISTEN:
		return strdup(config->listen[index]);
	case SETTING_ENV:
		return strdup(config->env[index]);
	case SETTING_NUMBER:
		return number_text(*(const unsigned int *)value);
	case SETTING_DURATION:
		words_print_duration(text, *(const int64_t *)value);
		return strdup(text);
	case SETTING_SIGNAL:
		words_print_signal(text, *(const int *)value);
		return strdup(text);
	case SETTING_CHOICE:
		return choice_text(setting->argument, *(const unsigned int *)value);
	case SETTING_SWITCH:
		return choice_text(setting->argument, *(const bool *)value);
	case SETTING_READY:
		return strdup(config->ready_text);
	case SETTING_PROGRAM:
		return program_text(config->argv);
	case SETTING_CONFIG:
	case SETTING_HELP:
		break;
	}
	return NULL;
}

static void print_setting(FILE *out, const struct setting *setting)
{
	const char *line = setting->help;
	char left[48], letter[8] = "    ";

	if (setting->letter)
		snprintf(letter, sizeof(letter), "-%c, ", setting->letter);
	snprintf(left, sizeof(left), "%s--%s%s%s", letter, setting->name,
	         setting->argument ? " " : "", setting->argument ? setting->argument : "");
	fprintf(out, strlen(left) > 34 ? "  %s\n%38s" : "  %-34s%s", left, "  ");
	for (;;) {
		size_t len = strcspn(line, "\n");

		fprintf(out, "%.*s\n", (int)len, line);
		if (!line[len])
			return;
		line += len + 1;
		fprintf(out, "%38s", "");
	}
}

void settings_help(FILE *out)
{
	for (const struct setting *setting = settings; setting->name; setting++)
		if (setting_on_line(setting))
			print_setting(out, setting);
}
