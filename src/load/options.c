/* SPDX-License-Identifier: MIT */
/*
 * The option table and what reads it. An option's value is stored by its type at its place in
 * struct options; shapes take "N" or "N:MORE".
 */
#include "options.h"
#include "clock.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

enum option_type {
	OPTION_FLAG,
	OPTION_NUMBER,
	OPTION_DURATION,
	OPTION_TEXT,
	OPTION_HEADER,
};

struct option_info {
	const char *name;
	const char *argument; /* NULL for a flag */
	const char *help;
	enum option_type type;
	size_t place;      /* in struct options */
	uint64_t min, max; /* of a number */
	/* What may follow a number and a colon: a second value. */
	bool has_more;
	bool is_shape;
	enum option_type more_type;
	size_t more_place;
	uint64_t more_max;
};

#define AT(member) offsetof(struct options, member)
#define SHAPE(which)                                                    \
	.type = OPTION_NUMBER, .place = AT(connections[SHAPE_##which]), \
	.max = OPTIONS_MAX_CONNECTIONS, .is_shape = true
#define MORE(kind, member, most) \
	.has_more = true, .more_type = OPTION_##kind, .more_place = AT(member), .more_max = (most)
#define NUMBER(member, least, most) \
	.type = OPTION_NUMBER, .place = AT(member), .min = (least), .max = (most)
#define DURATION(member) .type = OPTION_DURATION, .place = AT(member)
#define TEXT(member)     .type = OPTION_TEXT, .place = AT(member)
#define FLAG(member)     .type = OPTION_FLAG, .place = AT(member)

/* An entry with help alone is a heading. */
static const struct option_info option_infos[] = {
	{ .help = "Connections, as many shapes in one run as wanted (default: --keepalive 1)" },
	{ "new", "N", "a new connection for every request", SHAPE(NEW) },
	{ "keepalive", "N", "one request after the other on each connection", SHAPE(KEEPALIVE) },
	{ "post", "N", "the same with POST and a body", SHAPE(POST) },
	{ "pipeline", "N[:DEPTH]", "up to DEPTH requests ahead of the answers (8)", SHAPE(PIPELINE),
	  MORE(NUMBER, depth, OPTIONS_MAX_DEPTH) },
	{ "idle", "N[:THINK]", "idle between requests for THINK (1s)", SHAPE(IDLE),
	  MORE(DURATION, idle_think_ns, 0) },
	{ "half", "N[:THINK]", "the same with half a request's head sent beforehand (1s)",
	  SHAPE(HALF), MORE(DURATION, half_think_ns, 0) },
	{ "slow", "N[:BYTES]", "read the answer at BYTES per second (1024)", SHAPE(SLOW),
	  MORE(NUMBER, slow_bytes, UINT32_MAX) },
	{ .help = "How much and for how long" },
	{ "rate", "R",
	  "open loop: R requests a second over all shapes but idle and half; latency\n"
	  "counts from when a request was due (default: closed loop)",
	  NUMBER(rate, 1, 10000000) },
	{ "duration", "TIME", "send for TIME (10s, or without end if --requests is given)",
	  DURATION(duration_ns) },
	{ "requests", "N", "send N requests in all", NUMBER(requests, 1, UINT64_MAX) },
	{ "timeout", "TIME", "for one request from start to whole answer (30s)",
	  DURATION(timeout_ns) },
	{ "connect-timeout", "TIME", "for one connection (10s)", DURATION(connect_timeout_ns) },
	{ "pause", "TIME", "in closed loop, what a connection waits for after a loss (10ms)",
	  DURATION(pause_ns) },
	{ .help = "What is sent, what is expected" },
	{ "method", "NAME", "of all shapes but post (GET)", TEXT(method) },
	{ "header", "'K: V'", "send this header, too; repeatable", .type = OPTION_HEADER },
	{ "body-size", "N", "bytes in the body of a POST (64)",
	  NUMBER(body_size, 0, OPTIONS_MAX_BODY) },
	{ "expect", "TEXT", "the body that every 2xx answer must have", TEXT(expect) },
	{ "echo", NULL, "the answer to a POST must have the POST's body", FLAG(echo) },
	{ "count-header", "NAME", "count answers by this header's value", TEXT(count_header) },
	{ "ipv4", NULL, "use an IPv4 address of the host", FLAG(ipv4) },
	{ "ipv6", NULL, "use an IPv6 address of the host", FLAG(ipv6) },
	{ .help = "Restarts under load (default: --new 4 --keepalive 8 --idle 20)" },
	{ "restart", "COMMAND", "run COMMAND with sh during the load, and tell what it costs",
	  TEXT(restart) },
	{ "every", "TIME", "so often, never two at once (2s)", DURATION(every_ns) },
	{ "count", "N", "so many times (10); sets how long the load lasts",
	  NUMBER(count, 1, OPTIONS_MAX_RESTARTS) },
	{ "restart-timeout", "TIME", "for one COMMAND, which is then killed (60s)",
	  DURATION(restart_timeout_ns) },
	{ "generation-header", "NAME",
	  "an answer with a value of this header that was never seen before is the\n"
	  "first of a new generation (Segue-Generation, or what --count-header says)",
	  TEXT(generation_header) },
	{ "generation-pattern", "REGEX",
	  "the same with what REGEX, or its first parentheses, match in head or body",
	  TEXT(generation_pattern) },
	{ .help = "Result" },
	{ "json", NULL, "one JSON object a line, see below", FLAG(json) },
	{ "timeline", NULL, "with --json: the run in steps of 100 ms is part of the result",
	  FLAG(timeline) },
	{ "report", "FILE", "write the result as a page of HTML that needs nothing else",
	  TEXT(report) },
	{ "progress", "TIME", "say how it goes every TIME", DURATION(progress_ns) },
	{ "max-lost", "N", "exit 0 with up to N losses and unannounced closes (0)",
	  NUMBER(max_lost, 0, UINT64_MAX) },
	{ "help", NULL, "this text", FLAG(help) },
	{ "version", NULL, "the version", FLAG(version) },
};

/* Of a number or a time whose being there is an error where something else is not. */
#define UNTOLD UINT64_MAX

#define OPTION_INFOS (sizeof(option_infos) / sizeof(option_infos[0]))

__attribute__((format(printf, 2, 3))) static int refuse(struct options_error *error,
                                                        const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return -EINVAL;
}

/* Digits up to @end; refuses what does not fit. */
static int parse_number(const char *text, const char **ret_end, uint64_t *ret_value)
{
	uint64_t value = 0;

	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): such an option has an argument. */
	if (*text < '0' || *text > '9')
		return -EINVAL;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -ERANGE;
	}
	*ret_end = text;
	*ret_value = value;
	return 0;
}

static int parse_duration(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *unit;
		uint64_t ns;
	} units[] = {
		{ "us", NS_PER_US },    { "ms", NS_PER_MS },      { "s", NS_PER_S },
		{ "m", 60 * NS_PER_S }, { "h", 3600 * NS_PER_S },
	};
	const char *unit;
	uint64_t value;
	int r;

	r = parse_number(text, &unit, &value);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(unit, units[i].unit) != 0)
			continue;
		/* A year is more than anyone waits for, and keeps all sums small. */
		if (value > 365ULL * 86400 * NS_PER_S / units[i].ns)
			return -ERANGE;
		*ret_ns = value * units[i].ns;
		return 0;
	}
	return -EINVAL;
}

static void *place_of(struct options *options, size_t place)
{
	return (char *)options + place;
}

static int set_duration(const struct option_info *info, const char *text, uint64_t *place,
                        struct options_error *error)
{
	if (parse_duration(text, place) < 0)
		return refuse(error, "--%s: '%s' is no duration; write 500ms, 30s, 2m", info->name,
		              text);
	return 0;
}

static int set_more(const struct option_info *info, const char *text, struct options *options,
                    struct options_error *error)
{
	uint64_t *place = place_of(options, info->more_place);
	const char *end;
	uint64_t value;

	if (info->more_type == OPTION_DURATION)
		return set_duration(info, text, place, error);
	if (parse_number(text, &end, &value) < 0 || *end || value < 1 || value > info->more_max)
		return refuse(error, "--%s: '%s' is not a number from 1 to %llu", info->name, text,
		              (unsigned long long)info->more_max);
	*place = value;
	return 0;
}

static int set_number(const struct option_info *info, const char *text, struct options *options,
                      struct options_error *error)
{
	uint64_t *place = place_of(options, info->place);
	const char *end;
	uint64_t value;

	if (parse_number(text, &end, &value) < 0 || (*end && !(info->has_more && *end == ':')))
		return refuse(error, "--%s: '%s' is not of the form %s", info->name, text,
		              info->argument);
	if (value < info->min || value > info->max)
		return refuse(error, "--%s: %s is not between %llu and %llu", info->name, text,
		              (unsigned long long)info->min, (unsigned long long)info->max);
	*place = value;
	options->named |= info->is_shape;
	return *end ? set_more(info, end + 1, options, error) : 0;
}

static bool is_token(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)text[i];

		if (byte <= ' ' || byte >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", byte))
			return false;
	}
	return size > 0;
}

static int add_header(const char *text, struct options *options, struct options_error *error)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): this option has an argument. */
	const char *colon = strchr(text, ':');

	if (!colon || !is_token(text, (size_t)(colon - text)) || strpbrk(text, "\r\n"))
		return refuse(error, "--header: '%s' is not of the form 'Name: value'", text);
	if (options->headers_count == OPTIONS_MAX_HEADERS)
		return refuse(error, "--header: more than %d", OPTIONS_MAX_HEADERS);
	options->headers[options->headers_count++] = text;
	return 0;
}

static int set_option(const struct option_info *info, const char *text, struct options *options,
                      struct options_error *error)
{
	switch (info->type) {
	case OPTION_FLAG:
		*(bool *)place_of(options, info->place) = true;
		return 0;
	case OPTION_NUMBER:
		return set_number(info, text, options, error);
	case OPTION_DURATION:
		return set_duration(info, text, place_of(options, info->place), error);
	case OPTION_TEXT:
		*(const char **)place_of(options, info->place) = text;
		return 0;
	case OPTION_HEADER:
		return add_header(text, options, error);
	}
	return -EINVAL;
}

static const struct option_info *find_option(const char *name, size_t size)
{
	for (size_t i = 0; i < OPTION_INFOS; i++) {
		const struct option_info *info = &option_infos[i];

		if (info->name && strlen(info->name) == size && !memcmp(info->name, name, size))
			return info;
	}
	return NULL;
}

/* Takes the option at argv[*at], and its value, which may be the next argument. */
static int take_option(int argc, char **argv, int *at, struct options *options,
                       struct options_error *error)
{
	const char *name = argv[*at] + 2, *value = NULL;
	size_t size = strcspn(name, "=");
	const struct option_info *info = find_option(name, size);

	if (!info)
		return refuse(error, "there is no option --%.*s (see --help)", (int)size, name);
	if (name[size] == '=')
		value = name + size + 1;
	if (info->argument && !value) {
		if (*at + 1 >= argc)
			return refuse(error, "--%s needs a value: %s", info->name, info->argument);
		value = argv[++*at];
	} else if (!info->argument && value) {
		return refuse(error, "--%s takes no value", info->name);
	}
	return set_option(info, value, options, error);
}

void options_done(struct options *options)
{
	if (options->generation_pattern)
		regfree(&options->pattern);
}

uint64_t options_total(const struct options *options)
{
	uint64_t total = 0;

	for (size_t shape = 0; shape < SHAPES; shape++)
		total += options->connections[shape];
	return total;
}

/* Which header is counted; without restarts nothing but --count-header asks for one. */
static int check_generation(struct options *options, struct options_error *error)
{
	const char *named = options->generation_header, *counted = options->count_header;

	if (!options->restart && (named || options->generation_pattern))
		return refuse(error, "--%s is for --restart; --count-header counts without it",
		              named ? "generation-header" : "generation-pattern");
	if (named && options->generation_pattern)
		return refuse(error,
		              "--generation-header and --generation-pattern exclude each other");
	if (counted && options->generation_pattern)
		return refuse(error, "--count-header and --generation-pattern exclude each other");
	if (named && counted && strcasecmp(named, counted) != 0)
		return refuse(error,
		              "--generation-header %s and --count-header %s: only one "
		              "header can be counted",
		              named, counted);
	if (named && !is_token(named, strlen(named)))
		return refuse(error, "--generation-header: '%s' is no name of a header", named);
	if (!named)
		options->generation_header = counted;
	if (options->restart && !options->generation_header && !options->generation_pattern)
		options->generation_header = "Segue-Generation";
	return 0;
}

static int check_restart(struct options *options, struct options_error *error)
{
	bool told = options->every_ns != UNTOLD || options->count != UNTOLD ||
	            options->restart_timeout_ns != UNTOLD;

	if (!options->restart && told)
		return refuse(error, "--every, --count and --restart-timeout are for --restart");
	if (options->restart && (options->duration_ns || options->requests))
		return refuse(error, "--restart says how long the load lasts (--count times "
		                     "--every): --duration and --requests exclude it");
	if (options->restart && !options->restart[strspn(options->restart, " \t\n")])
		return refuse(error, "--restart: the command is empty");
	if (!options->restart)
		return 0;
	if (!options->every_ns || !options->restart_timeout_ns)
		return refuse(error, "--every and --restart-timeout must be more than 0");
	if (options->every_ns == UNTOLD)
		options->every_ns = 2 * NS_PER_S;
	if (options->count == UNTOLD)
		options->count = 10;
	if (options->restart_timeout_ns == UNTOLD)
		options->restart_timeout_ns = 60 * NS_PER_S;
	return 0;
}

/* What of connections there is where the user names none. */
static void choose_connections(struct options *options)
{
	if (options->named)
		return;
	options->connections[SHAPE_KEEPALIVE] = options->restart ? 8 : 1;
	if (!options->restart)
		return;
	options->connections[SHAPE_NEW] = 4;
	options->connections[SHAPE_IDLE] = 20;
}

static int check_options(struct options *options, struct options_error *error)
{
	int r;

	const char *why;

	if (!options->url_text)
		return refuse(error, "no address is given (see --help)");
	if (url_parse(options->url_text, &options->url, &why) < 0)
		return refuse(error, "%s: %s", options->url_text, why);
	if (!is_token(options->method, strlen(options->method)))
		return refuse(error, "--method: '%s' is no method", options->method);
	if (options->timeout_ns == 0 || options->connect_timeout_ns == 0)
		return refuse(error, "--timeout and --connect-timeout must be more than 0");
	if (options->idle_think_ns == 0 || options->half_think_ns == 0)
		return refuse(error, "--idle and --half need a think time of more than 0");
	if (options->timeline && !options->json)
		return refuse(error, "--timeline is a part of the result with --json");
	if (options->ipv4 && options->ipv6)
		return refuse(error, "--ipv4 and --ipv6 exclude each other");
	if (options->echo && options->expect && options->connections[SHAPE_POST])
		return refuse(error, "--expect and --echo exclude each other with --post");
	if (options->report && strcmp(options->report, "-") == 0)
		return refuse(error, "--report: '-' is no name of a file; standard output has the "
		                     "result as text");
	choose_connections(options);
	if (options_total(options) == 0)
		return refuse(error, "0 connections send nothing: name at least one (see --help)");
	if (options_total(options) > OPTIONS_MAX_CONNECTIONS)
		return refuse(error, "more than %d connections", OPTIONS_MAX_CONNECTIONS);
	r = check_restart(options, error);
	if (r < 0)
		return r;
	if (options->duration_ns == 0 && options->requests == 0 && !options->restart)
		options->duration_ns = 10 * NS_PER_S;
	return check_generation(options, error);
}

/* In its place: a compiled pattern is not to be copied. */
static int compile_pattern(struct options *options, struct options_error *error)
{
	char why[128];
	int r;

	if (!options->generation_pattern)
		return 0;
	r = regcomp(&options->pattern, options->generation_pattern, REG_EXTENDED | REG_NEWLINE);
	if (r == 0)
		return 0;
	regerror(r, &options->pattern, why, sizeof(why));
	return refuse(error, "--generation-pattern: '%s' is no regular expression: %s",
	              options->generation_pattern, why);
}

int options_parse(int argc, char **argv, struct options *ret_options, struct options_error *error)
{
	struct options options = {
		.depth = 8,
		.idle_think_ns = NS_PER_S,
		.half_think_ns = NS_PER_S,
		.slow_bytes = 1024,
		.timeout_ns = 30 * NS_PER_S,
		.connect_timeout_ns = 10 * NS_PER_S,
		.pause_ns = 10 * NS_PER_MS,
		.body_size = 64,
		.every_ns = UNTOLD,
		.count = UNTOLD,
		.restart_timeout_ns = UNTOLD,
		.method = "GET",
	};
	int r;

	for (int at = 1; at < argc; at++) {
		if (strncmp(argv[at], "--", 2) == 0)
			r = take_option(argc, argv, &at, &options, error);
		else if (argv[at][0] == '-')
			r = refuse(error, "there is no option %s (see --help)", argv[at]);
		else if (options.url_text)
			r = refuse(error, "two addresses: %s and %s", options.url_text, argv[at]);
		else
			r = 0, options.url_text = argv[at];
		if (r < 0)
			return r;
	}
	if (!options.help && !options.version) {
		r = check_options(&options, error);
		if (r < 0)
			return r;
	}
	*ret_options = options;
	return compile_pattern(ret_options, error);
}

static const char help_begin[] =
	"Usage: segue-load [OPTION]... URL\n"
	"\n"
	"Sends requests to an HTTP/1.1 server and counts what becomes of each. A lost request is\n"
	"never sent again.\n"
	"\n"
	"URL is one of\n"
	"  http://HOST[:PORT][/PATH]\n"
	"  http+unix:///SOCKET/PATH[:/PATH]   in the socket's path %3A stands for a colon\n"
	"  http+unix://@NAME[:/PATH]          a socket in the abstract namespace\n";

static const char help_end[] =
	"\n"
	"TIME and THINK are written 500ms, 30s, 2m.\n"
	"\n"
	"INT and TERM end the load: no request is sent any more, answers that are due are waited\n"
	"for (each up to --timeout), so is a command of --restart. A second signal ends that, "
	"too.\n"
	"\n"
	"With --json there is one object a line, its kind in \"event\":\n"
	"  running   every connection has had the end of its first request\n"
	"  progress  every --progress: requests, ok, lost, per_second since the last one\n"
	"  result    the last one. requests: the sum of outcomes; lost: those that count\n"
	"            against the server; closed: connections that the server closed while\n"
	"            idle, by kind in connections; not_started: requests of an open loop that\n"
	"            were due and found no free connection; latency_us: of whole answers, in\n"
	"            open loop from when they were due; header: {values: {VALUE: answers},\n"
	"            seen: {VALUE: {first_ms, last_ms}}, missing, other,\n"
	"            connections_backwards: those on which the number became smaller};\n"
	"            shapes: the same for each; losses: the first 20 in detail; timeline (with\n"
	"            --timeline): arrays with an element for each step of step_ms, 100 or, in a\n"
	"            run of more than 2400 steps, doubled as often as needed: ok, failures by\n"
	"            outcome, closes by kind (those that occurred), latency_us p50, p99, max\n"
	"            (null without an answer); interrupted: by a signal; waited_ms: for a\n"
	"            processor; with --restart: restarts_asked, before (the window before the\n"
	"            first), restarts\n"
	"  restart   a restart's window has ended, which begins with its command and ends with\n"
	"            the next one's: number, began_ms, command_ms, failed (why, or null),\n"
	"            last_line of the command, generation (null: not told), first_answer_ms\n"
	"            of that since the command began, requests, ok, lost, closed, failures,\n"
	"            closes, slowest_us, pause_ms (the longest time without a good answer)\n"
	"  error     it could not run: outcome own_limit, unresolvable or failed, and a message\n"
	"Times in ms count from monotonic_ms of the same line, which is CLOCK_MONOTONIC.\n"
	"\n"
	"Exit status: 0 nothing lost; 1 more than --max-lost requests lost or connections closed\n"
	"unannounced while idle; 2 wrong usage; 3 it could not run, could not write the\n"
	"report or the result, or met a limit of its own; 4 a command of --restart failed.\n";

static void print_option(FILE *out, const struct option_info *info)
{
	const char *line = info->help;
	char left[40];

	snprintf(left, sizeof(left), "--%s%s%s", info->name, info->argument ? " " : "",
	         info->argument ? info->argument : "");
	fprintf(out, "  %-24s", left);
	for (;;) {
		size_t size = strcspn(line, "\n");

		fprintf(out, " %.*s\n", (int)size, line);
		if (line[size] == '\0')
			return;
		line += size + 1;
		fprintf(out, "  %-24s", "");
	}
}

void options_help(FILE *out)
{
	fputs(help_begin, out);
	for (size_t i = 0; i < OPTION_INFOS; i++) {
		if (option_infos[i].name)
			print_option(out, &option_infos[i]);
		else
			fprintf(out, "\n%s\n", option_infos[i].help);
	}
	fprintf(out, "\nOutcomes of a request (the first is as it should be)\n");
	for (size_t i = 0; i < OUTCOMES; i++)
		fprintf(out, "  %-24s %s\n", outcome_infos[i].key, outcome_infos[i].meaning);
	fprintf(out, "\nConnections that close while no request is in flight\n");
	for (size_t i = 0; i < CLOSES; i++)
		fprintf(out, "  %-24s %s\n", close_infos[i].key, close_infos[i].meaning);
	fputs(help_end, out);
}
