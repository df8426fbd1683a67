/* SPDX-License-Identifier: MIT */
/*
 * The options of the command line: one table, from which the parser and --help both read.
 *
 * Each option sets a field of struct segue_http_options, so that a program can set in code
 * whatever can be typed.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "duration.h"
#include "internal.h"

#define USAGE 2

#define THREADS_MAX 1024
#define HEAD_MIN    64

enum kind {
	DURATION,
	DURATION_OR_NONE, /* SEGUE_FOREVER */
	SIGNAL,
	NUMBER, /* uint32_t */
	LARGE,  /* int64_t */
	TEXT,
	FORMAT,
	LISTEN,
	PREFLIGHT,
	QUIET,
	CHECK,
	HELP,
	VERSION,
};

struct sgh_option {
	const char *name;
	const char *argument;
	enum kind kind;
	size_t offset;
	const char *help;
};

#define FIELD(name) offsetof(struct segue_http_options, name)

static const struct sgh_option table[] = {
	{ "listen", "[NAME=]ADDRESS", LISTEN, 0,
	  ":8080, 127.0.0.1:80, unix:///run/app.sock; repeatable (what is passed, else :8080)" },
	{ "pid-file", "FILE", TEXT, FIELD(segue.pid_file), "hold the pid of the one that serves" },
	{ "start-timeout", "DURATION", DURATION_OR_NONE, FIELD(segue.start_timeout_ms),
	  "a successor has to be ready within it (30s)" },
	{ "drain-timeout", "DURATION", DURATION_OR_NONE, FIELD(segue.drain_timeout_ms),
	  "then what still runs is cut; none: never (30s)" },
	{ "probation", "DURATION", DURATION, FIELD(segue.probation_ms),
	  "a successor that fails within it gives the service back (0)" },
	{ "upgrade-signal", "SIGNAL", SIGNAL, FIELD(segue.upgrade_signal),
	  "USR2, HUP, ..., none (USR2)" },
	{ "preflight", NULL, PREFLIGHT, 0,
	  "run the next version with --check before it is started" },
	{ "threads", "N", NUMBER, FIELD(threads), "loops; 0: one for each usable core (0)" },
	{ "log-format", "text|json", FORMAT, FIELD(log_format), "of the events (text)" },
	{ "access-log", "FILE", TEXT, FIELD(access_log), "a line for each request; - is stdout" },
	{ "quiet", NULL, QUIET, 0, "no events but why it cannot serve" },
	{ "head-timeout", "DURATION", DURATION, FIELD(head_timeout_ms), "(10s)" },
	{ "idle-timeout", "DURATION", DURATION, FIELD(idle_timeout_ms), "(75s)" },
	{ "body-timeout", "DURATION", DURATION, FIELD(body_timeout_ms), "(30s)" },
	{ "response-timeout", "DURATION", DURATION, FIELD(response_timeout_ms), "(30s)" },
	{ "min-rate", "BYTES", NUMBER, FIELD(min_rate), "a second, beyond those two (1024)" },
	{ "max-head", "BYTES", NUMBER, FIELD(max_head_bytes), "(32768)" },
	{ "max-body", "BYTES", LARGE, FIELD(max_body_bytes), "(1048576)" },
	{ "max-connections", "N", NUMBER, FIELD(max_connections),
	  "0: what the descriptor limit leaves (0)" },
	{ "check", NULL, CHECK, 0, "check the arguments and exit" },
	{ "help", NULL, HELP, 0, "print this and exit" },
	{ "version", NULL, VERSION, 0, "print the version and exit" },
};

#define TABLE_LEN (sizeof(table) / sizeof(table[0]))

/* What cannot ask for an upgrade: it stops the service, reopens its logs, has the kernel's
 * meaning, or cannot be caught. */
static const int taken_signals[] = {
	SIGTERM, SIGINT, SIGUSR1, SIGKILL, SIGSTOP, SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS,
	SIGFPE,  SIGILL, SIGABRT, SIGTRAP, SIGSYS,  SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU,
};

void segue_http_options_init(struct segue_http_options *options)
{
	*options = (struct segue_http_options){
		.size = sizeof(*options),
		.max_head_bytes = 32768,
		.max_target_bytes = 8192,
		.max_fields = 100,
		.max_body_bytes = 1 << 20,
		.max_streamed_bytes = -1,
		.max_chunk_line_bytes = 256,
		.max_unsent_bytes = 262144,
		.head_timeout_ms = 10000,
		.idle_timeout_ms = 75000,
		.body_timeout_ms = 30000,
		.response_timeout_ms = 30000,
		.linger_timeout_ms = 2000,
		.min_rate = 1024,
		.blocking_threads = 64,
		.blocking_queue = 256,
	};
	segue_options_init(&options->segue);
}

/* Times in which nothing can be done: such a service would look as if it ran. */
static int check_times(const struct segue_http_options *options, char *reason, size_t size)
{
	const struct {
		const char *name;
		int64_t ms;
	} times[] = {
		{ "head_timeout_ms (--head-timeout)", options->head_timeout_ms },
		{ "idle_timeout_ms (--idle-timeout)", options->idle_timeout_ms },
		{ "body_timeout_ms (--body-timeout)", options->body_timeout_ms },
		{ "response_timeout_ms (--response-timeout)", options->response_timeout_ms },
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		if (times[i].ms <= 0) {
			snprintf(reason, size, "%s is %lld; it has to be 1 or more", times[i].name,
			         (long long)times[i].ms);
			return -EINVAL;
		}
	}
	if (options->segue.start_timeout_ms == 0) {
		snprintf(reason, size,
		         "start_timeout_ms (--start-timeout) is 0; no successor could be ready");
		return -EINVAL;
	}
	return 0;
}

static int check_limits(const struct segue_http_options *options, char *reason, size_t size)
{
	if (options->max_head_bytes < HEAD_MIN || options->max_head_bytes > SEGUE_HTTP_HEAD_MAX) {
		snprintf(reason, size, "max_head_bytes (--max-head) is %u; it has to be %d to %d",
		         options->max_head_bytes, HEAD_MIN, SEGUE_HTTP_HEAD_MAX);
		return -EINVAL;
	}
	if (options->max_fields < 1 || options->max_fields > 10000) {
		snprintf(reason, size, "max_fields is %u; it has to be 1 to 10000",
		         options->max_fields);
		return -EINVAL;
	}
	if (options->max_chunk_line_bytes < 20) {
		snprintf(reason, size, "max_chunk_line_bytes is %u; it has to be 20 or more",
		         options->max_chunk_line_bytes);
		return -EINVAL;
	}
	if (options->threads > THREADS_MAX) {
		snprintf(reason, size, "threads (--threads) is %u; it has to be 0 to %d",
		         options->threads, THREADS_MAX);
		return -EINVAL;
	}
	return 0;
}

int sgh_options_check(const struct segue_http_options *options, char *reason, size_t size)
{
	char why[200];

	if (options->size != sizeof(*options)) {
		snprintf(reason, size,
		         "the options were not made by segue_http_options_init() of this version");
		return -EINVAL;
	}
	for (size_t i = 0; i < options->listen_count; i++) {
		if (segue_address_check(options->listen[i], why, sizeof(why)) < 0) {
			snprintf(reason, size, "cannot listen on %s: %s", options->listen[i], why);
			return -EINVAL;
		}
	}
	if (check_times(options, reason, size) < 0)
		return -EINVAL;
	return check_limits(options, reason, size);
}

static int parse_number(const char *text, int64_t most, int64_t *ret_number)
{
	int64_t number = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		number = number * 10 + (*text - '0');
		if (number > most)
			return -ERANGE;
	}
	*ret_number = number;
	return 0;
}

static bool signal_taken(int number)
{
	for (size_t i = 0; i < sizeof(taken_signals) / sizeof(taken_signals[0]); i++)
		if (taken_signals[i] == number)
			return true;
	return false;
}

static int parse_signal(const char *text, int *ret_number)
{
	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	if (!strcasecmp(text, "none")) {
		*ret_number = SEGUE_NO_SIGNAL;
		return 0;
	}
	for (int number = 1; number < SIGRTMIN; number++) {
		const char *name = sigabbrev_np(number);

		if (name && !strcasecmp(text, name) && !signal_taken(number)) {
			*ret_number = number;
			return 0;
		}
	}
	return -EINVAL;
}

static int add_listen(struct segue_http_server *server, const char *spec, char *reason, size_t size)
{
	struct segue_http_options *options = &server->options;
	const char **larger;

	if (segue_address_check(spec, reason, size) < 0)
		return -EINVAL;
	/* What is typed replaces what the program had as its default. */
	if (options->listen != server->listen)
		options->listen_count = 0;
	larger = reallocarray(server->listen, options->listen_count + 1, sizeof(*larger));
	if (!larger)
		return -ENOMEM;
	larger[options->listen_count++] = spec;
	server->listen = larger;
	options->listen = larger;
	return 0;
}

static int set_duration(const struct sgh_option *option, void *field, const char *value,
                        char *reason, size_t size)
{
	int64_t ms;

	if (option->kind == DURATION_OR_NONE && !strcmp(value, "none"))
		ms = SEGUE_FOREVER;
	else if (sgh_duration_parse(value, &ms) < 0) {
		snprintf(reason, size, "it is not a duration such as 500ms, 30s or 2m");
		return -EINVAL;
	}
	*(int64_t *)field = ms;
	return 0;
}

struct range {
	int64_t least, most;
};

static struct range range_of(const struct sgh_option *option)
{
	switch (option->offset) {
	case FIELD(threads):
		return (struct range){ 0, THREADS_MAX };
	case FIELD(max_head_bytes):
		return (struct range){ HEAD_MIN, SEGUE_HTTP_HEAD_MAX };
	default:
		return (struct range){ 0, option->kind == NUMBER ? UINT32_MAX : INT64_MAX / 16 };
	}
}

static int set_number(const struct sgh_option *option, void *field, const char *value, char *reason,
                      size_t size)
{
	struct range range = range_of(option);
	int64_t number;

	if (parse_number(value, range.most, &number) < 0 || number < range.least) {
		snprintf(reason, size, "it is not a whole number, %lld to %lld",
		         (long long)range.least, (long long)range.most);
		return -EINVAL;
	}
	if (option->kind == NUMBER)
		*(uint32_t *)field = number;
	else
		*(int64_t *)field = number;
	return 0;
}

static int set_format(void *field, const char *value, char *reason, size_t size)
{
	bool json = !strcmp(value, "json");

	if (!json && strcmp(value, "text") != 0) {
		snprintf(reason, size, "it is neither text nor json");
		return -EINVAL;
	}
	*(enum segue_http_log_format *)field = json ? SEGUE_HTTP_LOG_JSON : SEGUE_HTTP_LOG_TEXT;
	return 0;
}

/* One that takes an argument. */
static int set_value(struct segue_http_server *server, const struct sgh_option *option,
                     const char *value, char *reason, size_t size)
{
	void *field = (char *)&server->options + option->offset;

	switch (option->kind) {
	case DURATION:
	case DURATION_OR_NONE:
		return set_duration(option, field, value, reason, size);
	case NUMBER:
	case LARGE:
		return set_number(option, field, value, reason, size);
	case SIGNAL:
		if (parse_signal(value, field) == 0)
			return 0;
		snprintf(reason, size,
		         "it is no signal that is free for it; use USR2, HUP, QUIT, WINCH or none");
		return -EINVAL;
	case FORMAT:
		return set_format(field, value, reason, size);
	case LISTEN:
		return add_listen(server, value, reason, size);
	default:
		*(const char **)field = value;
		return 0;
	}
}

static const char *program_name(const struct segue_http_server *server, const char *argv0)
{
	const char *slash;

	if (server->options.name)
		return server->options.name;
	slash = argv0 ? strrchr(argv0, '/') : NULL;
	return slash ? slash + 1 : argv0 ? argv0 : "server";
}

static void print_option(const char *name, const char *argument, const char *help)
{
	char left[64];

	snprintf(left, sizeof(left), "--%s%s%s", name, argument ? " " : "",
	         argument ? argument : "");
	printf("  %-28s  %s\n", left, help ? help : "");
}

static void print_help(const struct segue_http_server *server, const char *name)
{
	printf("usage: %s [OPTION]...\n\n", name);
	for (const struct sgh_own_option *own = server->own_options; own; own = own->next)
		print_option(own->name, own->argument, own->help);
	for (size_t i = 0; i < TABLE_LEN; i++)
		print_option(table[i].name, table[i].argument, table[i].help);
	printf("\nSignals: the upgrade signal starts the next version; TERM and INT drain and "
	       "exit,\n"
	       "a second one cuts; USR1 opens the logs again.\n"
	       "Exit codes: 0 it served and left as told, 1 it could not serve, 2 a wrong "
	       "argument.\n");
}

static void print_version(const struct segue_http_server *server, const char *name)
{
	if (server->options.version)
		printf("%s %s (segue %s)\n", name, server->options.version, SEGUE_VERSION);
	else
		printf("%s (segue %s)\n", name, SEGUE_VERSION);
}

/* The arguments as they are, but for --preflight, and --check. */
static int prepare_preflight(struct segue_http_server *server, int argc, char **argv)
{
	const char **arguments = calloc(argc + 1, sizeof(*arguments));
	int n = 0;

	if (!arguments)
		return -ENOMEM;
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--preflight") != 0)
			arguments[n++] = argv[i];
	arguments[n] = "--check";
	free(server->check_arguments);
	server->check_arguments = arguments;
	server->options.segue.check_arguments = arguments;
	return 0;
}

struct parse {
	struct segue_http_server *server;
	const char *program;
	char **argv;
	int argc, at;
	bool check, preflight;
};

static int complain(const struct parse *parse, const char *text)
{
	fprintf(stderr, "%s: %s; %s --help lists the options\n", parse->program, text,
	        parse->program);
	return -EINVAL;
}

/* The argument of the option at hand: after "=", or the next word. */
static int take_value(struct parse *parse, const char *name, size_t name_len,
                      const char **ret_value)
{
	const char *word = parse->argv[parse->at] + 2;
	char text[160];

	if (word[name_len] == '=') {
		*ret_value = word + name_len + 1;
		return 0;
	}
	if (parse->at + 1 >= parse->argc) {
		snprintf(text, sizeof(text), "--%s needs an argument", name);
		return complain(parse, text);
	}
	*ret_value = parse->argv[++parse->at];
	return 0;
}

/* One without argument must not be given one: --quiet=no would say the opposite. */
static int take_none(struct parse *parse, const char *name, size_t name_len)
{
	char text[160];

	if (parse->argv[parse->at][2 + name_len] != '=')
		return 0;
	snprintf(text, sizeof(text), "--%s takes no argument", name);
	return complain(parse, text);
}

static int apply_own(struct parse *parse, const struct sgh_own_option *own, size_t name_len)
{
	const char *value = NULL;
	char reason[200] = "";
	char text[512];
	int r;

	r = own->argument ? take_value(parse, own->name, name_len, &value)
	                  : take_none(parse, own->name, name_len);
	if (r < 0)
		return r;
	r = own->apply(own->ctx, value, reason, sizeof(reason));
	if (r == 0)
		return 0;
	snprintf(text, sizeof(text), "--%s %s: %s", own->name, value ? value : "",
	         reason[0] ? reason : "it is refused");
	return complain(parse, text);
}

static int apply_flag(struct parse *parse, const struct sgh_option *option, int *ret_exit_code)
{
	switch (option->kind) {
	case HELP:
		print_help(parse->server, parse->program);
		*ret_exit_code = 0;
		return 1;
	case VERSION:
		print_version(parse->server, parse->program);
		*ret_exit_code = 0;
		return 1;
	case CHECK:
		parse->check = true;
		return 0;
	case PREFLIGHT:
		parse->preflight = true;
		return 0;
	default:
		parse->server->options.quiet = true;
		return 0;
	}
}

static int apply(struct parse *parse, const struct sgh_option *option, int *ret_exit_code)
{
	char reason[200] = "";
	char text[512];
	const char *value;
	int r;

	if (!option->argument) {
		r = take_none(parse, option->name, strlen(option->name));
		return r < 0 ? r : apply_flag(parse, option, ret_exit_code);
	}
	r = take_value(parse, option->name, strlen(option->name), &value);
	if (r < 0)
		return r;
	r = set_value(parse->server, option, value, reason, sizeof(reason));
	if (r == 0)
		return 0;
	snprintf(text, sizeof(text), "--%s %s: %s", option->name, value,
	         reason[0] ? reason : strerror(-r));
	return complain(parse, text);
}

static bool is_option(const char *word, size_t len, const char *name)
{
	return strlen(name) == len && !memcmp(word, name, len);
}

/* 0 go on, 1 leave with the exit code, or negative. */
static int parse_word(struct parse *parse, int *ret_exit_code)
{
	const char *word = parse->argv[parse->at];
	char text[300];
	size_t len;

	if (strncmp(word, "--", 2) != 0 || !word[2]) {
		snprintf(text, sizeof(text), "the argument %.200s is not an option", word);
		return complain(parse, text);
	}
	word += 2;
	len = strcspn(word, "=");
	for (const struct sgh_own_option *own = parse->server->own_options; own; own = own->next)
		if (is_option(word, len, own->name))
			return apply_own(parse, own, len);
	for (size_t i = 0; i < TABLE_LEN; i++)
		if (is_option(word, len, table[i].name))
			return apply(parse, &table[i], ret_exit_code);
	snprintf(text, sizeof(text), "there is no option --%.200s", word);
	return complain(parse, text);
}

/* 0 run, 1 leave with the exit code. */
int sgh_options_parse(struct segue_http_server *server, int argc, char **argv, int *ret_exit_code)
{
	struct parse parse = { .server = server, .argv = argv, .argc = argc };
	char reason[300];

	parse.program = program_name(server, argc ? argv[0] : NULL);
	*ret_exit_code = USAGE;
	for (parse.at = 1; parse.at < argc; parse.at++) {
		int r = parse_word(&parse, ret_exit_code);

		if (r)
			return 1;
	}
	if (sgh_options_check(&server->options, reason, sizeof(reason)) < 0) {
		complain(&parse, reason);
		return 1;
	}
	if (parse.preflight && prepare_preflight(server, argc, argv) < 0) {
		complain(&parse, "no memory");
		return 1;
	}
	*ret_exit_code = 0;
	return parse.check ? 1 : 0;
}
