/* SPDX-License-Identifier: MIT */
/*
 * The verbs, their members, and the place of each member in struct request: one table.
 */
#include "segue/request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIGNAL_MAX 64
#define WORKER_MAX 65535

enum member_kind { MEMBER_BOOL, MEMBER_WORKER, MEMBER_SIGNAL, MEMBER_ARGV };

struct member {
	enum request_verb verb;
	const char *name;
	enum member_kind kind;
	bool required;
	size_t place;
};

static const char *const verbs[] = {
	[REQUEST_UPGRADE] = "upgrade", [REQUEST_STATUS] = "status",   [REQUEST_STOP] = "stop",
	[REQUEST_CUT] = "cut",         [REQUEST_RESTART] = "restart", [REQUEST_KILL] = "kill",
};

static const struct member members[] = {
	{ REQUEST_UPGRADE, "wait", MEMBER_BOOL, false, offsetof(struct request, wait) },
	{ REQUEST_UPGRADE, "argv", MEMBER_ARGV, false, offsetof(struct request, argv) },
	{ REQUEST_STOP, "now", MEMBER_BOOL, false, offsetof(struct request, now) },
	{ REQUEST_RESTART, "worker", MEMBER_WORKER, true, offsetof(struct request, worker) },
	{ REQUEST_KILL, "signal", MEMBER_SIGNAL, true, offsetof(struct request, signal) },
};

#define VERBS   (sizeof(verbs) / sizeof(verbs[0]))
#define MEMBERS (sizeof(members) / sizeof(members[0]))

__attribute__((format(printf, 2, 3))) static int refuse(char *reason, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, REQUEST_REASON_MAX, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

static const struct member *find_member(enum request_verb verb, const char *name)
{
	for (size_t i = 0; i < MEMBERS; i++)
		if (members[i].verb == verb && !strcmp(members[i].name, name))
			return &members[i];
	return NULL;
}

static int read_verb(struct request *request, const json_t *root, char *reason)
{
	const char *verb = json_string_value(json_object_get(root, "verb"));

	if (verb == NULL)
		return refuse(reason, "the request has no member \"verb\" that is a string");
	for (size_t i = 1; i < VERBS; i++) {
		if (!strcmp(verbs[i], verb)) {
			request->verb = (enum request_verb)i;
			return 0;
		}
	}
	return refuse(reason, "this supervisor knows no verb '%.40s'", verb);
}

static int read_argv(char ***ret_argv, const json_t *value, char *reason)
{
	size_t len = json_array_size(value);
	char **argv;

	if (!json_is_array(value) || len == 0)
		return refuse(reason,
		              "\"argv\" is no array of strings with the program as its first");
	argv = calloc(len + 1, sizeof(*argv));
	if (argv == NULL)
		return refuse(reason, "no memory for the command line");
	/* Stored at once, so that request_done() frees what a failure leaves. */
	*ret_argv = argv;
	for (size_t i = 0; i < len; i++) {
		const char *word = json_string_value(json_array_get(value, i));

		if (word == NULL)
			return refuse(reason, "\"argv\" holds something that is no string");
		argv[i] = strdup(word);
		if (argv[i] == NULL)
			return refuse(reason, "no memory for the command line");
	}
	return **argv != '\0' ? 0 : refuse(reason, "the program in \"argv\" is empty");
}

static int read_member(struct request *request, const struct member *member, const json_t *value,
                       char *reason)
{
	void *place = (char *)request + member->place;
	json_int_t number = json_integer_value(value);

	switch (member->kind) {
	case MEMBER_BOOL:
		if (!json_is_boolean(value))
			return refuse(reason, "\"%s\" is neither true nor false", member->name);
		*(bool *)place = json_is_true(value);
		return 0;
	case MEMBER_WORKER:
		if (!json_is_integer(value) || number < 0 || number > WORKER_MAX)
			return refuse(reason, "\"%s\" is no number from 0 to %d", member->name,
			              WORKER_MAX);
		*(unsigned int *)place = (unsigned int)number;
		return 0;
	case MEMBER_SIGNAL:
		if (!json_is_integer(value) || number < 1 || number > SIGNAL_MAX)
			return refuse(reason, "\"%s\" is no number from 1 to %d", member->name,
			              SIGNAL_MAX);
		*(int *)place = (int)number;
		return 0;
	case MEMBER_ARGV:
		return read_argv(place, value, reason);
	}
	return -EINVAL;
}

static int read_members(struct request *request, json_t *root, char *reason)
{
	const char *name;
	json_t *value;

	json_object_foreach(root, name, value)
	{
		const struct member *member = find_member(request->verb, name);
		int r;

		if (!strcmp(name, "verb"))
			continue;
		if (member == NULL)
			return refuse(reason, "this supervisor knows no member \"%.40s\" of '%s'",
			              name, verbs[request->verb]);
		r = read_member(request, member, value, reason);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < MEMBERS; i++)
		if (members[i].verb == request->verb && members[i].required &&
		    json_object_get(root, members[i].name) == NULL)
			return refuse(reason, "'%s' needs the member \"%s\"", verbs[request->verb],
			              members[i].name);
	return 0;
}

int request_read(struct request *ret_request, const char *line, size_t len,
                 char reason[static REQUEST_REASON_MAX])
{
	struct request request = { .wait = true };
	json_error_t error;
	json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	int r;

	if (root == NULL)
		return refuse(reason, "the request is not JSON: %s", error.text);
	if (!json_is_object(root))
		r = refuse(reason, "the request is JSON, but no object");
	else
		r = read_verb(&request, root, reason);
	if (r == 0)
		r = read_members(&request, root, reason);
	json_decref(root);
	if (r < 0)
		request_done(&request);
	else
		*ret_request = request;
	return r;
}

void request_done(struct request *request)
{
	for (char **word = request->argv; word != NULL && *word != NULL; word++)
		free(*word);
	free(request->argv);
	*request = (struct request){ 0 };
}
