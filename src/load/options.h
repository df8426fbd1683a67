/* SPDX-License-Identifier: MIT */
/*
 * What the user asked for. One table says what every option is called, what it takes, what it does
 * by default; --help is printed from it. Pure but for printing --help.
 */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include "outcome.h"
#include "url.h"

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define OPTIONS_MAX_HEADERS     32
#define OPTIONS_MAX_CONNECTIONS 1000000
#define OPTIONS_MAX_DEPTH       1024
#define OPTIONS_MAX_BODY        (16 << 20)
#define OPTIONS_MAX_RESTARTS    100000

struct options {
	const char *url_text;
	struct url url;
	uint64_t connections[SHAPES];
	uint64_t depth;
	uint64_t idle_think_ns, half_think_ns;
	uint64_t slow_bytes; /* per second */
	uint64_t rate;       /* requests per second, 0: closed loop */
	uint64_t duration_ns, requests;
	uint64_t timeout_ns, connect_timeout_ns, pause_ns, progress_ns;
	uint64_t body_size, max_lost;
	const char *method, *expect, *count_header, *report;
	/* Restarts; generation_header is count_header without them. */
	const char *restart, *generation_header, *generation_pattern;
	uint64_t every_ns, count, restart_timeout_ns;
	regex_t pattern; /* where generation_pattern is given */
	const char *headers[OPTIONS_MAX_HEADERS];
	size_t headers_count;
	bool echo, json, timeline, ipv4, ipv6, help, version;
	bool named; /* connections, and be it none */
};

/** struct options_error - a sentence that says what is wrong and with which option */
struct options_error {
	char text[256];
};

/**
 * options_parse - reads the command line
 *
 * Returns: 0 (with help or version set, the rest is not checked), or -EINVAL and a sentence
 */
int options_parse(int argc, char **argv, struct options *ret_options, struct options_error *error);

/** options_done - frees what a pattern needs */
void options_done(struct options *options);

/** options_total - how many connections are asked for */
uint64_t options_total(const struct options *options);

void options_help(FILE *out);

#endif
