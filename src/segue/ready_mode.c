/* SPDX-License-Identifier: MIT */
/*
 * What is probed may hold "{generation}", "{worker}" and "{pid}", so that each worker can have
 * an address of its own; it is checked with a number in their places.
 */
#include "segue/ready_mode.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/address.h"
#include "segue/words.h"

#define MODES                                                                                  \
	"auto, segue, notify, fd:N, exec:COMMAND, http://..., tcp://HOST:PORT, unix:///PATH, " \
	"delay:2s"
#define PLACES "{generation}, {worker} and {pid}"

struct mode {
	enum config_ready ready;
	const char *argument; /* in the text; NULL: none */
	int fd;
	int64_t delay_ms;
};

__attribute__((format(printf, 3, 4))) static int refuse(char *reason, size_t reason_size,
                                                        const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, reason_size, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

/* A copy with "1" in each place; -EINVAL where something else stands in braces. */
static int fill_places(char **ret_text, const char *text, char *reason, size_t reason_size)
{
	static const char *const places[] = { "{generation}", "{worker}", "{pid}" };
	char *copy = strdup(text), *out = copy;

	if (!copy)
		return -ENOMEM;
	while (*text) {
		size_t len = 0;

		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
			if (!strncmp(text, places[i], strlen(places[i])))
				len = strlen(places[i]);
		if (len == 0 && strchr("{}", *text)) {
			free(copy);
			return refuse(reason, reason_size,
			              "nothing but " PLACES " may stand in braces");
		}
		*out++ = len ? '1' : *text;
		text += len ? len : 1;
	}
	*out = '\0';
	*ret_text = copy;
	return 0;
}

/* A name would have to be looked up again and again while the supervisor waits. */
static bool needs_look_up(const struct sg_address *address)
{
	return address->family == AF_UNSPEC && strcmp(address->host, "localhost") != 0;
}

/* "http://HOST[:PORT][/PATH]": the host and port as those of an address; or
 * "http://unix:/SOCKET:/PATH". */
static int check_url(const char *url, char *reason, size_t reason_size)
{
	const char *host = url + strlen("http://");
	size_t len = strcspn(host, "/?#");
	struct sg_address address;
	char spec[SG_ADDRESS_MAX], why[400];

	for (const char *at = url; *at; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f)
			return refuse(reason, reason_size,
			              "a blank cannot stand in a URL; write %%20");
	if (!strncmp(host, "unix:/", 6)) {
		if (!strstr(host + 6, ":/"))
			return refuse(reason, reason_size,
			              "the URL has no path behind the socket; write "
			              "http://unix:/SOCKET:/PATH");
		return 0;
	}
	if (len == 0 || len > 280 || *host == ':')
		return refuse(reason, reason_size, "the URL has no host; write http://HOST:PORT/");
	if (memchr(host, '@', len))
		return refuse(reason, reason_size, "the URL cannot have a user or password");
	snprintf(spec, sizeof(spec), "tcp://%.*s", (int)len, host);
	if (host[len - 1] == ']' || !memchr(host, ':', len))
		snprintf(spec, sizeof(spec), "tcp://%.*s:80", (int)len, host);
	if (sg_address_parse(&address, spec, why, sizeof(why)) < 0 || address.port == 0)
		return refuse(reason, reason_size,
		              "the URL's host or port is malformed; write http://HOST:PORT/PATH");
	if (needs_look_up(&address))
		return refuse(reason, reason_size,
		              "the URL's host has to be a number or localhost: write "
		              "http://127.0.0.1:PORT/PATH");
	return 0;
}

static int check_tcp(const char *text, char *reason, size_t reason_size)
{
	struct sg_address address;

	if (sg_address_parse(&address, text, reason, reason_size) < 0)
		return -EINVAL;
	if (address.kind == SG_ADDRESS_UNIX)
		return 0;
	if (address.port == 0 || address.any || needs_look_up(&address))
		return refuse(
			reason, reason_size,
			"a probe needs the host, by number or localhost, and the port that it is "
			"to connect to; write tcp://127.0.0.1:8081");
	return 0;
}

static int check_probe(const char *text, bool http, char *reason, size_t reason_size)
{
	char *filled = NULL;
	int r = fill_places(&filled, text, reason, reason_size);

	if (filled == NULL)
		return r;
	r = http ? check_url(filled, reason, reason_size) : check_tcp(filled, reason, reason_size);
	free(filled);
	return r;
}

static int parse_fd(struct mode *mode, const char *text, char *reason, size_t reason_size)
{
	uint64_t number;

	if (words_number(text, READY_FD_MAX, &number) < 0 || number < 3)
		return refuse(reason, reason_size, "a descriptor is a number, 3 to %d",
		              READY_FD_MAX);
	mode->ready = CONFIG_READY_FD;
	mode->fd = (int)number;
	return 0;
}

static int parse_delay(struct mode *mode, const char *text, char *reason, size_t reason_size)
{
	if (words_duration(text, &mode->delay_ms) < 0)
		return refuse(reason, reason_size,
		              "what follows delay: is not a duration such as 500ms or 2s");
	mode->ready = CONFIG_READY_DELAY;
	return 0;
}

static int parse_exec(struct mode *mode, const char *text, char *reason, size_t reason_size)
{
	if (!text[strspn(text, " \t")])
		return refuse(reason, reason_size,
		              "no command follows exec:; write exec:./healthy");
	mode->ready = CONFIG_READY_EXEC;
	mode->argument = text;
	return 0;
}

static int parse_word(struct mode *mode, const char *text, char *reason, size_t reason_size)
{
	if (!strcmp(text, "auto"))
		mode->ready = CONFIG_READY_AUTO;
	else if (!strcmp(text, "segue"))
		mode->ready = CONFIG_READY_SEGUE;
	else if (!strcmp(text, "notify"))
		mode->ready = CONFIG_READY_NOTIFY;
	else if (!strncmp(text, "https://", 8))
		return refuse(reason, reason_size,
		              "https is not probed; use http://, or exec: with a client of yours");
	else
		return refuse(reason, reason_size, "it has to be one of " MODES);
	return 0;
}

static int parse(struct mode *mode, const char *text, char *reason, size_t reason_size)
{
	if (!strncmp(text, "fd:", 3))
		return parse_fd(mode, text + 3, reason, reason_size);
	if (!strncmp(text, "exec:", 5))
		return parse_exec(mode, text + 5, reason, reason_size);
	if (!strncmp(text, "delay:", 6))
		return parse_delay(mode, text + 6, reason, reason_size);
	if (!strncmp(text, "http://", 7)) {
		mode->ready = CONFIG_READY_HTTP;
		mode->argument = text;
		return check_probe(text, true, reason, reason_size);
	}
	if (!strncmp(text, "tcp://", 6) || !strncmp(text, "unix://", 7)) {
		mode->ready = CONFIG_READY_TCP;
		mode->argument = text;
		return check_probe(text, false, reason, reason_size);
	}
	return parse_word(mode, text, reason, reason_size);
}

int ready_mode_set(struct config *config, const char *text, char *reason, size_t reason_size)
{
	struct mode mode = { .fd = -1 };
	char *copy, *argument = NULL;
	int r = parse(&mode, text, reason, reason_size);

	if (r < 0)
		return r;
	copy = strdup(text);
	if (mode.argument)
		argument = strdup(mode.argument);
	if (!copy || (mode.argument && !argument)) {
		free(copy);
		free(argument);
		return -ENOMEM;
	}
	free(config->ready_text);
	free(config->ready_argument);
	config->ready = mode.ready;
	config->ready_text = copy;
	config->ready_argument = argument;
	config->ready_fd = mode.fd;
	config->ready_delay_ms = mode.delay_ms;
	return 0;
}
