/* SPDX-License-Identifier: MIT */
/*
 * One exchange: connect, say the request, show what comes until the end. All waiting is in
 * exchange(): for the supervisor, for a signal, for the next frame of the live line.
 *
 * A supervisor that has nothing new says so every 2 s; one that says nothing is stopped or
 * overloaded.
 */
#include "segue/client.h"
#include "core/fd.h"
#include "segue/control.h"
#include "segue/dial.h"
#include "segue/display.h"
#include "segue/words.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define SILENCE_MS   5000  /* until it is said that the supervisor does not answer */
#define IMPATIENT_MS 10000 /* for connecting, and for an answer that takes no time */
#define LIST_MS      2000  /* for each service of a list */
#define GONE_MS      10000 /* from the end of a stop to the end of the supervisor */
#define WORKER_MAX   65535

enum operand { OPERAND_NONE, OPERAND_WORKER, OPERAND_SIGNAL };

struct verb {
	const char *name;
	enum operand operand;
	bool patient;     /* it may take long; "alive" tells that it goes on */
	const char *goes; /* what goes on when the client is interrupted; NULL: nothing */
};

static const struct verb verbs[] = {
	{ "upgrade", OPERAND_NONE, true, "the upgrade" },
	{ "status", OPERAND_NONE, false, NULL },
	{ "list", OPERAND_NONE, false, NULL },
	{ "stop", OPERAND_NONE, true, "the stop" },
	{ "cut", OPERAND_NONE, false, NULL },
	{ "restart", OPERAND_WORKER, true, "the restart" },
	{ "kill", OPERAND_SIGNAL, false, NULL },
};

struct client {
	const struct verb *verb;
	/* The command line. */
	bool json, no_wait, now;
	const char *control, *service, *operand;
	char **argv; /* NULL, or a new command line */
	/* The exchange. */
	struct display display;
	struct dial dial;
	int signals;
	int64_t began_ms, heard_ms;
	bool complained;
};

/* The client's own end. */

__attribute__((format(printf, 4, 5))) static int end(struct client *client, enum control_exit code,
                                                     const char *outcome, const char *format, ...)
{
	char message[2048];
	va_list arguments;
	json_t *object;
	char *line;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	object = json_pack("{s:b, s:i, s:o, s:s}", "end", 1, "exit", (int)code, "message",
	                   control_text(message), "outcome", outcome);
	line = json_dumps(object, JSON_COMPACT);
	if (line != NULL)
		display_end(&client->display, object, line);
	else /* no memory for the form that is wanted */
		fprintf(stderr, "segue: %s\n", message);
	free(line);
	json_decref(object);
	return code;
}

/* How 'segue status' is asked about the same service: " web", " --control PATH", or nothing. */
static const char *hint(const struct client *client)
{
	static char text[PATHS_MAX + 16];

	*text = '\0';
	if (client->control != NULL)
		snprintf(text, sizeof(text), " --control %s", client->control);
	else if (client->service != NULL)
		snprintf(text, sizeof(text), " %s", client->service);
	return text;
}

static int end_lost(struct client *client)
{
	/* The socket of a process that dies is closed a moment before it is dead. */
	struct pollfd dead = { .fd = client->dial.pidfd, .events = POLLIN };

	if (client->dial.pidfd >= 0 && poll(&dead, 1, 1000) == 0)
		return end(client, EXIT_LOST, "lost",
		           "the supervisor (pid %d) has ended the connection; see 'segue status%s'",
		           (int)client->dial.pid, hint(client));
	return end(client, EXIT_LOST, "lost", "the supervisor has gone without an answer");
}

/* What the supervisor says. */

/* The answer to 'stop' comes before the supervisor ends; whoever asked wants to know it gone. */
static int await_death(struct client *client, int64_t ms)
{
	int64_t deadline = sg_now_ms() + ms;

	while (client->dial.pidfd >= 0) {
		struct pollfd fds[] = { { .fd = client->dial.pidfd, .events = POLLIN },
			                { .fd = client->signals, .events = POLLIN } };
		int64_t left = deadline - sg_now_ms();
		int n = poll(fds, 2, left > 0 ? (int)left : 0);

		if (fds[0].revents != 0)
			return 0;
		if (n == 0 || fds[1].revents != 0)
			return -ETIMEDOUT;
	}
	return 0;
}

static int take_end(struct client *client, const json_t *object, const char *line)
{
	int code = (int)json_integer_value(json_object_get(object, "exit"));
	const json_t *status = json_object_get(object, "status");

	if (code == EXIT_DONE && !strcmp(client->verb->name, "stop") &&
	    await_death(client, GONE_MS) < 0)
		return end(client, EXIT_LOST, "lost",
		           "the service has stopped, but the supervisor (pid %d) has not ended",
		           (int)client->dial.pid);
	if (code == EXIT_DONE && json_is_object(status))
		display_status(&client->display, status);
	else
		display_end(&client->display, object, line);
	return code;
}

/* The exit code once the end has come, -1 before. */
static int take_line(struct client *client, const char *line)
{
	json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	const char *event = json_string_value(json_object_get(object, "event"));
	int code = -1;

	if (client->complained)
		display_remark(&client->display, "the supervisor answers again");
	client->complained = false;
	client->heard_ms = sg_now_ms();
	if (object == NULL)
		code = end(client, EXIT_LOST, "lost", "the supervisor has said what is no JSON");
	else if (json_is_true(json_object_get(object, "end")))
		code = take_end(client, object, line);
	else if (event != NULL && strcmp(event, "alive") != 0)
		display_event(&client->display, object, line);
	json_decref(object);
	return code;
}

static int take_lines(struct client *client)
{
	int r = dial_read(&client->dial), code = -1;
	const char *line;

	while (code < 0 && (line = dial_line(&client->dial)) != NULL)
		code = take_line(client, line);
	if (code >= 0 || r == 0)
		return code;
	if (r == -EMSGSIZE)
		return end(client, EXIT_LOST, "lost", "the supervisor has said a line without end");
	return end_lost(client);
}

static int take_signal(struct client *client)
{
	struct signalfd_siginfo info;

	if (read(client->signals, &info, sizeof(info)) != sizeof(info) ||
	    info.ssi_signo == SIGWINCH)
		return -1; /* The next frame is drawn as wide as the terminal is now. */
	if (client->verb->goes == NULL)
		return end(client, EXIT_INTERRUPTED, "interrupted", "interrupted");
	return end(client, EXIT_INTERRUPTED, "interrupted",
	           "interrupted; %s goes on: see 'segue status%s'", client->verb->goes,
	           hint(client));
}

/* Nothing has come. */
static int take_silence(struct client *client)
{
	int64_t now = sg_now_ms();
	char text[256];

	if (!client->verb->patient && now - client->began_ms >= IMPATIENT_MS)
		return end(client, EXIT_LOST, "lost",
		           "the supervisor (pid %d) has not answered within %d s; is it stopped?",
		           (int)client->dial.pid, IMPATIENT_MS / 1000);
	if (client->complained || now - client->heard_ms < SILENCE_MS)
		return -1;
	client->complained = true;
	snprintf(text, sizeof(text), "the supervisor (pid %d) has not answered for %d s; waiting%s",
	         (int)client->dial.pid, SILENCE_MS / 1000,
	         client->verb->patient ? " on (Ctrl-C ends the waiting)" : "");
	display_remark(&client->display, text);
	return -1;
}

static int timeout_of(const struct client *client, int tick_ms)
{
	int64_t now = sg_now_ms();
	int64_t wait = tick_ms >= 0 ? tick_ms : IMPATIENT_MS;

	if (!client->complained && client->heard_ms + SILENCE_MS - now < wait)
		wait = client->heard_ms + SILENCE_MS - now;
	if (!client->verb->patient && client->began_ms + IMPATIENT_MS - now < wait)
		wait = client->began_ms + IMPATIENT_MS - now;
	return wait > 0 ? (int)wait : 0;
}

static int exchange(struct client *client)
{
	int code = -1;

	while (code < 0) {
		struct pollfd fds[] = { { .fd = client->dial.fd, .events = POLLIN },
			                { .fd = client->signals, .events = POLLIN } };
		int n = poll(fds, 2, timeout_of(client, display_tick(&client->display)));

		if (n < 0)
			continue; /* EINTR: the client was stopped and goes on */
		if (fds[1].revents != 0)
			code = take_signal(client);
		if (code < 0 && fds[0].revents != 0)
			code = take_lines(client);
		if (code < 0 && n == 0)
			code = take_silence(client);
	}
	return code;
}

/* What is asked. */

static json_t *words_of(char **argv)
{
	json_t *words = json_array();

	for (char **word = argv; *word != NULL; word++) {
		if (json_array_append_new(words, json_string(*word)) < 0) {
			json_decref(words);
			return NULL;
		}
	}
	return words;
}

/* What is asked for beside the verb. 0, -ENOMEM, or -EINVAL when what is wrong has been said. */
static int add_words(struct client *client, json_t *request)
{
	uint64_t worker = 0;
	int number = 0, r = 0;

	if (client->no_wait)
		r |= json_object_set_new(request, "wait", json_false());
	if (client->now)
		r |= json_object_set_new(request, "now", json_true());
	errno = 0;
	if (client->argv != NULL &&
	    json_object_set_new(request, "argv", words_of(client->argv)) < 0) {
		if (errno == ENOMEM)
			return -ENOMEM;
		end(client, EXIT_USAGE, "nonsense", "the new command line is not UTF-8");
		return -EINVAL;
	}
	if (client->verb->operand == OPERAND_WORKER) {
		if (words_number(client->operand, WORKER_MAX, &worker) < 0) {
			end(client, EXIT_USAGE, "nonsense",
			    "'%s' is no number of a worker (see 'segue status')", client->operand);
			return -EINVAL;
		}
		r |= json_object_set_new(request, "worker", json_integer((json_int_t)worker));
	}
	if (client->verb->operand == OPERAND_SIGNAL) {
		if (words_signal(client->operand, &number) < 0) {
			end(client, EXIT_USAGE, "nonsense", "'%s' is no signal", client->operand);
			return -EINVAL;
		}
		r |= json_object_set_new(request, "signal", json_integer(number));
	}
	return r == 0 ? 0 : -ENOMEM;
}

/* The request as a line, for free(). 0, or the exit code: why has been said. */
static int make_request(struct client *client, char **ret_line)
{
	json_t *request = json_pack("{s:s}", "verb", client->verb->name);
	int r = request != NULL ? add_words(client, request) : -ENOMEM;
	char *line = r == 0 ? json_dumps(request, JSON_COMPACT) : NULL;

	json_decref(request);
	if (r == -EINVAL)
		return EXIT_USAGE;
	if (line == NULL)
		return end(client, EXIT_FAILED, "failed", "no memory for the request");
	*ret_line = line;
	return 0;
}

static int end_unconnected(struct client *client, const char *path, int error)
{
	if (error == -ENOENT || error == -ECONNREFUSED)
		return end(client, EXIT_NO_SERVICE, "no-service",
		           "no supervisor is there: nobody listens on %s", path);
	if (error == -EACCES || error == -EPERM)
		return end(client, EXIT_FORBIDDEN, "forbidden",
		           "%s belongs to another user; only that user and root may do that", path);
	if (error == -EAGAIN)
		return end(client, EXIT_LOST, "lost",
		           "the supervisor takes no client from %s; is it stopped?", path);
	return end(client, EXIT_NO_SERVICE, "no-service", "%s: %s", path, strerror(-error));
}

static int say(struct client *client, const char *request)
{
	int r = dial_say(&client->dial, request, IMPATIENT_MS);

	if (r == 0)
		r = dial_say(&client->dial, "\n", IMPATIENT_MS);
	/* -EPIPE: turned away, and why stands in what can be read. */
	if (r < 0 && r != -EPIPE)
		return end(client, EXIT_LOST, "lost", "the supervisor takes no request: %s",
		           strerror(-r));
	client->began_ms = client->heard_ms = sg_now_ms();
	return exchange(client);
}

/* Before this, Ctrl-C ends the client as it ends any: nothing has been asked for. */
static int catch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int ask(struct client *client)
{
	char path[PATHS_MAX], reason[DIAL_REASON_MAX];
	char *request = NULL;
	int code = 0, r;

	if (client->control != NULL && strlen(client->control) >= sizeof(path))
		return end(client, EXIT_USAGE, "nonsense", "--control %s: the path is too long",
		           client->control);
	if (client->control != NULL)
		strcpy(path, client->control);
	else
		code = dial_find(path, client->service, reason);
	if (code != 0)
		return end(client, (enum control_exit)code,
		           code == EXIT_USAGE ? "nonsense" : "no-service", "%s", reason);
	code = make_request(client, &request);
	if (code != 0)
		return code;
	r = dial_open(&client->dial, path, IMPATIENT_MS);
	if (r < 0) {
		code = end_unconnected(client, path, r);
	} else {
		client->signals = catch_signals();
		code = say(client, request);
		sg_fd_close(client->signals);
	}
	dial_close(&client->dial);
	free(request);
	return code;
}

/* 'segue list'. */

/* The end line of a status, or NULL where none comes in time. */
static json_t *ask_status(struct dial *dial)
{
	int64_t deadline = sg_now_ms() + LIST_MS;

	if (dial_say(dial, "{\"verb\":\"status\"}\n", LIST_MS) < 0)
		return NULL;
	for (;;) {
		struct pollfd ready = { .fd = dial->fd, .events = POLLIN };
		int64_t left = deadline - sg_now_ms();
		const char *line = dial_line(dial);
		json_t *object = line != NULL ? json_loads(line, 0, NULL) : NULL;

		if (json_is_true(json_object_get(object, "end")))
			return object;
		json_decref(object);
		if (line != NULL)
			continue;
		if (left <= 0 || poll(&ready, 1, (int)left) == 0 || dial_read(dial) < 0)
			return NULL;
	}
}

static int list_one(void *ctx, const char *name, const char *path)
{
	json_t *list = ctx, *answer, *service;
	const char *state;
	struct dial dial;
	int r = dial_open(&dial, path, 0);

	if (r < 0 && r != -EAGAIN)
		return 0;
	answer = r == 0 ? ask_status(&dial) : NULL;
	state = json_string_value(json_object_get(json_object_get(answer, "status"), "state"));
	service = json_pack("{s:s, s:i, s:s, s:s}", "name", name, "pid", (int)dial.pid, "state",
	                    state != NULL ? state : "silent", "control", path);
	json_array_append_new(list, service);
	json_decref(answer);
	dial_close(&dial);
	return 0;
}

static int list(struct client *client)
{
	json_t *services = json_array();
	char folder[PATHS_MAX];

	paths_each(list_one, services);
	display_list(&client->display, services);
	if (json_array_size(services) == 0 && !client->json &&
	    paths_folder(folder, sizeof(folder)) == 0)
		fprintf(stderr, "segue: no service runs (looked in %s)\n", folder);
	json_decref(services);
	return EXIT_DONE;
}

/* The command line. */

__attribute__((format(printf, 2, 3))) static int misused(const struct client *client,
                                                         const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "segue %s: ", client->verb->name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "; see 'segue %s --help'\n", client->verb->name);
	return -EINVAL;
}

static bool knows(const struct client *client, const char *option)
{
	const char *verb = client->verb->name;

	if (!strcmp(option, "--no-wait"))
		return !strcmp(verb, "upgrade");
	if (!strcmp(option, "--now"))
		return !strcmp(verb, "stop");
	return strcmp(option, "--control") != 0 || strcmp(verb, "list") != 0;
}

/* With the name that was meant, where one is near. */
static int unknown(const struct client *client, const char *option, const char *next)
{
	static const char *const options[] = { "--json", "--control", "--no-wait", "--now",
		                               "--help" };
	char name[40];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(option, "="), option);
	if ((!strcmp(name, "--name") || !strcmp(name, "-n")) &&
	    strcmp(client->verb->name, "list") != 0) {
		const char *equals = strchr(option, '=');

		next = equals != NULL ? equals + 1 : next;
		if (next == NULL || next[0] == '-' || next[0] == '\0')
			next = "SERVICE";
		fprintf(stderr,
		        "segue %s: there is no option '%s'; the service's name stands by itself: "
		        "segue %s %.64s\n",
		        client->verb->name, name, client->verb->name, next);
		return -EINVAL;
	}
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (knows(client, options[i]) && words_distance(name, options[i]) <= 2) {
			fprintf(stderr, "segue %s: there is no option '%.64s'; did you mean %s?\n",
			        client->verb->name, option, options[i]);
			return -EINVAL;
		}
	return misused(client, "there is no option '%.64s'", option);
}

static int take_option(struct client *client, int argc, char **argv, int *at)
{
	const char *option = argv[*at];
	bool is_list = !strcmp(client->verb->name, "list");

	if (!strcmp(option, "--json"))
		client->json = true;
	else if (!strcmp(option, "--no-wait") && !strcmp(client->verb->name, "upgrade"))
		client->no_wait = true;
	else if (!strcmp(option, "--now") && !strcmp(client->verb->name, "stop"))
		client->now = true;
	else if (!strncmp(option, "--control=", 10) && !is_list)
		client->control = option + 10;
	else if (!strcmp(option, "--control") && !is_list && *at + 1 < argc)
		client->control = argv[++*at];
	else if (!strcmp(option, "--control") && !is_list)
		return misused(client, "--control needs a path");
	else
		return unknown(client, option, argv[*at + 1]);
	return 0;
}

/* "[SERVICE] OPERAND": the last word is the operand. */
static int take_words(struct client *client, const char **words, size_t count)
{
	size_t operands = client->verb->operand != OPERAND_NONE;
	size_t most = operands + (strcmp(client->verb->name, "list") != 0);

	if (count < operands)
		return misused(client, "%s is missing",
		               client->verb->operand == OPERAND_WORKER ? "WORKER" : "SIGNAL");
	if (count > most)
		return misused(client, "'%.64s' is one word too many", words[most]);
	if (operands > 0)
		client->operand = words[--count];
	if (count > 0)
		client->service = words[0];
	if (client->service != NULL && client->control != NULL)
		return misused(client, "SERVICE and --control exclude each other");
	return 0;
}

static int read_arguments(struct client *client, int argc, char **argv)
{
	const char *words[4];
	size_t count = 0;
	int r = 0;

	for (int i = 1; i < argc && r == 0; i++) {
		if (!strcmp(argv[i], "--") && !strcmp(client->verb->name, "upgrade")) {
			client->argv = argv + i + 1;
			break;
		}
		if (argv[i][0] == '-' && argv[i][1] != '\0')
			r = take_option(client, argc, argv, &i);
		else if (count < 4)
			words[count++] = argv[i];
	}
	if (r == 0 && client->argv != NULL && client->argv[0] == NULL)
		r = misused(client, "no program stands behind --");
	return r < 0 ? r : take_words(client, words, count);
}

int client_command(const char *verb, int argc, char **argv)
{
	struct client client = { .signals = -1 };

	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i].name, verb))
			client.verb = &verbs[i];
	if (client.verb == NULL || read_arguments(&client, argc, argv) < 0)
		return EXIT_USAGE;
	setlocale(LC_CTYPE, "");
	dial_init(&client.dial);
	display_init(&client.display, client.json);
	return !strcmp(verb, "list") ? list(&client) : ask(&client);
}
