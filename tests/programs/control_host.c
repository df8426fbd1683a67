/* SPDX-License-Identifier: MIT */
/*
 * A control socket without a supervisor: control_host PATH. What clients ask for is told on
 * standard output, a JSON object a line; what is to be answered is read from standard input:
 *
 *     {"do":"event","client":1,"event":{...}}
 *     {"do":"events","client":1,"count":N,"event":{...}}
 *     {"do":"end","client":1,"exit":0,"message":"...","more":{...}}
 *     {"do":"raw","client":1,"hex":"..."}     a text of any bytes, as an event's "text"
 *     {"do":"close"}                          as at the supervisor's end
 *
 * At the end of standard input it ends without a word, as a supervisor that is killed.
 */
#include "segue/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLIENTS_MAX 1000

static struct control *control;
static struct control_client *clients[CLIENTS_MAX];
static uv_poll_t input;
static char line[65536];
static size_t line_len;

static void tell(json_t *object_take)
{
	char *text = json_dumps(object_take, JSON_COMPACT);

	puts(text);
	fflush(stdout);
	free(text);
	json_decref(object_take);
}

static int number_of(const struct control_client *client)
{
	for (int i = 1; i < CLIENTS_MAX; i++)
		if (clients[i] == client)
			return i;
	abort();
}

static void call(struct control_client *client, const char *verb, json_t *more_take)
{
	json_t *said = json_object();
	int i = 1;

	while (clients[i] != NULL)
		i++;
	clients[i] = client;
	json_object_set_new(said, "call", json_string(verb));
	json_object_set_new(said, "client", json_integer(i));
	json_object_update(said, more_take);
	json_decref(more_take);
	tell(said);
}

static void on_upgrade(void *ctx, struct control_client *client, char **argv, bool wait)
{
	json_t *words = argv != NULL ? json_array() : json_null();

	for (char **word = argv; word != NULL && *word != NULL; word++)
		json_array_append_new(words, json_string(*word));
	call(client, "upgrade", json_pack("{s:o, s:b}", "argv", words, "wait", wait));
}

static void on_status(void *ctx, struct control_client *client)
{
	call(client, "status", json_object());
}

static void on_stop(void *ctx, struct control_client *client, bool now)
{
	call(client, "stop", json_pack("{s:b}", "now", now));
}

static void on_cut(void *ctx, struct control_client *client)
{
	call(client, "cut", json_object());
}

static void on_restart(void *ctx, struct control_client *client, unsigned int worker)
{
	call(client, "restart", json_pack("{s:i}", "worker", (int)worker));
}

static void on_kill(void *ctx, struct control_client *client, int number)
{
	call(client, "kill", json_pack("{s:i}", "signal", number));
}

static void on_gone(void *ctx, struct control_client *client)
{
	int number = number_of(client);

	clients[number] = NULL;
	tell(json_pack("{s:i}", "gone", number));
}

static const struct control_verbs verbs = {
	.upgrade = on_upgrade,
	.status = on_status,
	.stop = on_stop,
	.cut = on_cut,
	.restart = on_restart,
	.kill = on_kill,
	.gone = on_gone,
};

static json_t *of_hex(const char *hex)
{
	size_t len = strlen(hex) / 2;
	char *text = calloc(1, len + 1);
	unsigned int byte;
	json_t *string;

	for (size_t i = 0; i < len && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
		text[i] = (char)byte;
	string = control_text(text);
	free(text);
	return string;
}

static void do_end(json_t *order, json_int_t number)
{
	struct control_client *client = clients[number];
	json_t *more = json_object_get(order, "more");

	clients[number] = NULL;
	control_end(client, (enum control_exit)json_integer_value(json_object_get(order, "exit")),
	            json_string_value(json_object_get(order, "message")), json_incref(more));
}

static void do_order(json_t *order)
{
	const char *what = json_string_value(json_object_get(order, "do"));
	json_int_t number = json_integer_value(json_object_get(order, "client"));
	json_int_t count = json_integer_value(json_object_get(order, "count"));
	json_t *event = json_object_get(order, "event");
	const char *hex = json_string_value(json_object_get(order, "hex"));

	if (!strcmp(what, "event"))
		control_event(clients[number], json_incref(event));
	for (; !strcmp(what, "events") && count > 0; count--)
		control_event(clients[number], json_incref(event));
	if (!strcmp(what, "raw"))
		control_event(clients[number],
		              json_pack("{s:s, s:i, s:i, s:o}", "event", "note", "generation", 2,
		                        "ms", 0, "text", of_hex(hex)));
	if (!strcmp(what, "end"))
		do_end(order, number);
	if (!strcmp(what, "close")) {
		control_close(control);
		control = NULL;
		uv_close((uv_handle_t *)&input, NULL);
	}
}

static void on_input(uv_poll_t *poll, int status, int events)
{
	ssize_t n = read(0, line + line_len, sizeof(line) - line_len);
	char *newline;

	if (n <= 0)
		_exit(0);
	line_len += (size_t)n;
	while ((newline = memchr(line, '\n', line_len)) != NULL) {
		size_t len = (size_t)(newline - line) + 1;
		json_t *order = json_loadb(line, len, 0, NULL);

		line_len -= len;
		memmove(line, newline + 1, line_len);
		if (order == NULL)
			abort();
		do_order(order);
		json_decref(order);
	}
}

int main(int argc, char **argv)
{
	uv_loop_t loop;
	char reason[512];
	int r;

	if (argc != 2 || uv_loop_init(&loop) < 0)
		return 2;
	r = control_open(&control, &loop, argv[1], &verbs, NULL, reason, sizeof(reason));
	if (r < 0) {
		tell(json_pack("{s:i, s:s}", "failed", r, "reason", reason));
		_exit(1);
	}
	uv_poll_init(&loop, &input, 0);
	uv_poll_start(&input, UV_READABLE, on_input);
	tell(json_pack("{s:s}", "listens", argv[1]));
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	return 0;
}
