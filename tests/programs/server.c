/* SPDX-License-Identifier: MIT */
/*
 * The server of the functional tests, on libsegue alone with plain poll(2). It says every event
 * of the library as one JSON line, and does what config.h and behave.h tell it to.
 */
#include "behave.h"
#include "clients.h"
#include "config.h"
#include "say.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct place {
	char name[SEGUE_NAME_MAX + 1];
	int fd; /* -1: closed for good */
	bool datagrams;
};

static struct config config;
static struct place places[CONFIG_MAX];
static size_t places_len;
static uint64_t cut_so_far;
static struct segue *segue;
static bool accepting, draining;

static void say_state(const struct segue_event *event)
{
	say_begin("state");
	say_text("from", segue_state_name(event->from));
	say_text("to", segue_state_name(event->to));
	say_text("reason", event->reason);
	say_number("took_ms", event->took_ms);
	say_end();
}

static void say_upgrade(const char *name, const struct segue_event *event)
{
	say_begin(name);
	say_number("successor", (int64_t)event->generation);
	say_number("successor_pid", event->pid);
	if (event->type == SEGUE_EVENT_UPGRADE_ENDED) {
		say_text("outcome", segue_outcome_name(event->outcome));
		say_text("reason", event->reason);
		say_number("error", event->error);
		say_number("took_ms", event->took_ms);
	}
	say_end();
}

static void say_reason(const char *name, const struct segue_event *event)
{
	say_begin(name);
	say_text("reason", event->reason);
	say_number("error", event->error);
	say_end();
}

static void say_simple(const char *name)
{
	say_begin(name);
	say_end();
}

static void say_count(const char *name, int64_t count)
{
	say_begin(name);
	say_number("count", count);
	say_end();
}

static void datagram(int fd)
{
	struct sockaddr_storage from;
	socklen_t from_len = sizeof(from);
	char text[512];
	ssize_t n =
		recvfrom(fd, text, sizeof(text), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);

	if (n < 0)
		return;
	n = snprintf(text, sizeof(text), "%llu %ld", (unsigned long long)segue_generation(segue),
	             (long)getpid());
	(void)!sendto(fd, text, (size_t)n, MSG_DONTWAIT, (struct sockaddr *)&from, from_len);
}

/* Until EAGAIN. */
static void accept_all(const struct place *place)
{
	int fd;

	if (place->datagrams) {
		datagram(place->fd);
		return;
	}
	while ((fd = accept4(place->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		clients_add(fd);
}

static void drop(const struct segue_event *event)
{
	for (size_t i = 0; i < places_len; i++) {
		if (strcmp(places[i].name, event->name) != 0)
			continue;
		say_begin("listener_dropped");
		say_text("name", event->name);
		say_number("accepted_before", clients_count());
		accept_all(&places[i]);
		say_number("accepted", clients_count());
		places[i].fd = -1;
		/* Who reads the line may count on it: nobody listens here any more. */
		segue_unlisten(segue, event->name);
		say_end();
	}
}

static void resume(void)
{
	say_simple("resume");
	accepting = true;
	draining = false;
	clients_resume();
	for (size_t i = 0; i < places_len; i++)
		places[i].fd = segue_listener_fd(segue, places[i].name);
}

static void say_final_state(const struct segue_event *event)
{
	const void *data;
	size_t len;

	say_begin("final_state");
	say_number("predecessor", (int64_t)event->generation);
	say_number("worker", event->worker);
	if (segue_blob(segue, "total", &data, &len) == 0 && len == sizeof(clients_total))
		say_number("total", (int64_t) * (const uint64_t *)data);
	say_end();
}

static void begin_drain(const struct segue_event *event)
{
	say_begin("drain");
	say_number("to_successor", event->successor);
	say_number("deadline_ms", event->deadline_ms);
	say_number("clients", clients_count());
	say_end();
	accepting = false;
	draining = true;
	/* Where others serve, who cannot take connections now, each ends with its next answer. */
	clients_drain(event->successor || segue_current_state(segue) == SEGUE_DRAINING);
}

static void cut(void)
{
	unsigned int count = clients_cut();

	accepting = false;
	draining = true;
	cut_so_far += count;
	segue_report(segue, clients_count(), cut_so_far);
	say_count("cut", count);
}

static void serving(void)
{
	say_simple("serving");
	accepting = true;
	behave(&config, "serve");
}

/* Connections and verdicts. */
static void handle_connection(const struct segue_event *event)
{
	if (event->type == SEGUE_EVENT_CONNECTION) {
		say_begin("connection");
		say_number("predecessor", (int64_t)event->generation);
		say_number("bytes", (int64_t)event->bytes_len);
		say_end();
		clients_adopt(event);
	} else if (event->type == SEGUE_EVENT_TAKEN) {
		say_simple("taken");
		clients_taken(event->cookie);
	} else {
		say_reason("kept", event);
		clients_kept(event->cookie);
	}
}

/* 1 when the program has to end. */
static int handle(const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_SERVE:
		serving();
		break;
	case SEGUE_EVENT_UPGRADE_BEGINS:
		say_upgrade("upgrade_begins", event);
		break;
	case SEGUE_EVENT_UPGRADE_STARTED:
		say_upgrade("upgrade_started", event);
		break;
	case SEGUE_EVENT_UPGRADE_ENDED:
		say_upgrade("upgrade_ended", event);
		break;
	case SEGUE_EVENT_COMMIT:
		accepting = false;
		say_simple("commit");
		behave(&config, "commit");
		break;
	case SEGUE_EVENT_LISTENER_DROPPED:
		drop(event);
		break;
	case SEGUE_EVENT_DRAIN:
		begin_drain(event);
		break;
	case SEGUE_EVENT_RESUME:
		resume();
		break;
	case SEGUE_EVENT_CUT:
		cut();
		break;
	case SEGUE_EVENT_CONNECTION:
	case SEGUE_EVENT_TAKEN:
	case SEGUE_EVENT_KEPT:
		handle_connection(event);
		break;
	case SEGUE_EVENT_FINAL_STATE:
		say_final_state(event);
		break;
	case SEGUE_EVENT_STATE:
		say_state(event);
		break;
	case SEGUE_EVENT_WARNING:
		say_reason("warning", event);
		break;
	case SEGUE_EVENT_GONE:
		say_reason("gone", event);
		return event->error != 0 ? 2 : 1;
	}
	return 0;
}

/* 1 and 2 as handle() says. */
static int dispatch(void)
{
	struct segue_event event;
	int end;

	do {
		while (segue_dispatch(segue, &event) > 0) {
			end = handle(&event);
			if (end)
				return end;
		}
		segue_report(segue, clients_count(), cut_so_far);
		if (!draining || clients_count() > 0 || segue_drained(segue) < 0)
			return 0;
		draining = false;
	} while (true);
}

static nfds_t poll_places(struct pollfd *polled)
{
	nfds_t count = 0;

	for (size_t i = 0; i < places_len; i++)
		if (accepting && places[i].fd >= 0)
			polled[count++] = (struct pollfd){ .fd = places[i].fd, .events = POLLIN };
	return count;
}

static int serve(void)
{
	static struct pollfd polled[CLIENTS_MAX + CONFIG_MAX + 1];
	int end;

	while ((end = dispatch()) == 0) {
		nfds_t listeners, clients;

		polled[0] = (struct pollfd){ .fd = segue_fd(segue), .events = POLLIN };
		listeners = poll_places(polled + 1);
		clients = clients_poll(polled + 1 + listeners);
		if (poll(polled, 1 + listeners + clients, -1) < 0)
			continue;
		clients_serve(polled + 1 + listeners, clients);
		for (size_t i = 0; i < places_len && accepting; i++)
			if (places[i].fd >= 0)
				accept_all(&places[i]);
	}
	return end == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int may_upgrade(void *ctx, char *reason, size_t size)
{
	FILE *file = config.refuse_file != NULL ? fopen(config.refuse_file, "re") : NULL;

	(void)ctx;
	if (file == NULL)
		return 0;
	if (fgets(reason, (int)size, file) == NULL)
		reason[0] = '\0';
	reason[strcspn(reason, "\n")] = '\0';
	fclose(file);
	return 1;
}

static int save_state(struct segue *handle, bool final, void *ctx)
{
	(void) final;
	(void)ctx;
	if (config.save_file != NULL && access(config.save_file, F_OK) == 0)
		return -EIO;
	return segue_put_blob(handle, "total", &clients_total, sizeof(clients_total));
}

static int add_place(int fd)
{
	struct place *place = &places[places_len];
	socklen_t len = sizeof(int);
	char text[256] = "?";
	int type = 0;

	if (fd < 0)
		return fd;
	places_len++;
	segue_address_text(fd, text, sizeof(text));
	(void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	place->fd = fd;
	place->datagrams = type == SOCK_DGRAM;
	snprintf(place->name, sizeof(place->name), "%s", segue_listener_name(segue, fd));
	say_begin("listener");
	say_text("name", place->name);
	say_text("address", text);
	say_end();
	return 0;
}

static int listen_passed(void)
{
	const char *name;
	char text[320];
	int r;

	while ((r = segue_passed(segue, 0, &name, text, sizeof(text))) == 0) {
		r = add_place(segue_listen(segue, name, text, &config.listen));
		if (r < 0)
			return r;
	}
	return r == -ENOENT ? 0 : r;
}

static int listen_all(void)
{
	int r = 0;

	if (config.passed)
		return listen_passed();
	for (size_t i = 0; r == 0 && i < config.listens_len; i++)
		r = add_place(segue_listen_spec(segue, config.listens[i], &config.listen));
	return r;
}

/* Of all predecessors that hand over to this one. */
static int take_state(void)
{
	const void *data;
	uint32_t worker;
	size_t len;
	int r = 0;

	for (size_t i = 0; config.state; i++) {
		r = segue_blob_of(segue, "total", i, &data, &len, &worker);
		if (r < 0)
			break;
		clients_total += *(const uint64_t *)data;
		say_begin("state_taken");
		say_number("worker", worker);
		say_number("total", (int64_t) * (const uint64_t *)data);
		say_end();
	}
	return r == -ENOENT ? 0 : r;
}

static int begin(void)
{
	int r;

	behave(&config, "start");
	r = segue_open(&segue, &config.options);
	if (r < 0)
		return r;
	say_generation = segue_generation(segue);
	clients_init(segue);
	behave(&config, "open");
	r = listen_all();
	if (r == 0)
		r = take_state();
	if (r < 0)
		return r;
	behave(&config, "listen");
	r = segue_ready(segue);
	if (r == 0)
		behave(&config, "ready");
	return r;
}

/* A preflight check: the file's first word says how it ends. */
static int check(void)
{
	FILE *file = fopen(config.check, "re");
	char word[32] = "";
	bool hangs, fails;

	if (file != NULL && fscanf(file, "%31s", word) != 1)
		word[0] = '\0';
	if (file != NULL)
		fclose(file);
	hangs = strcmp(word, "hang") == 0;
	fails = strcmp(word, "ok") != 0;
	say_begin("check");
	say_text("word", word);
	say_end();
	if (hangs)
		for (;;)
			pause();
	return fails ? 3 : 0;
}

int main(int argc, char **argv)
{
	int r;

	behave_init();
	config_read(&config, argc, argv);
	if (config.check != NULL)
		return check();
	say_simple("start");
	config.options.may_upgrade = may_upgrade;
	config.options.save_state = save_state;
	r = begin();
	if (r < 0) {
		say_begin("failed");
		say_text("reason", segue_error(segue));
		say_number("error", -r);
		say_end();
		segue_close(segue);
		/* The predecessor may kill from here on; a leak check would leave an orphan. */
		_exit(EXIT_FAILURE);
	}
	r = serve();
	segue_close(segue);
	return r;
}
