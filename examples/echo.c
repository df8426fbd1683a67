/* SPDX-License-Identifier: MIT */
/*
 * echo: a line protocol on libsegue alone, with plain poll(2).
 *
 *     $ ./echo 127.0.0.1:7777 echo.pid &
 *     $ kill -USR2 "$(cat echo.pid)"        the next version; no connection is closed
 *
 * Each line comes back with the generation and pid that answered it. Live connections move
 * to the successor together with the half line that was read from them.
 */
#include <segue.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS_MAX    1024
#define LINE_MAX_BYTES 1024

/* Counts for the successor: the connection record of version 1. */
struct record {
	unsigned int lines;
};

struct client {
	int fd;     /* -1: free */
	int handed; /* waits for the successor's word; hands off */
	int kept;   /* it cannot move: ends with its next answer */
	unsigned int lines;
	size_t len;
	char line[LINE_MAX_BYTES];
};

static struct client clients[CLIENTS_MAX];
static int accepting, draining, moving;

static struct client *client_new(int fd)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].fd >= 0)
			continue;
		memset(&clients[i], 0, sizeof(clients[i]));
		clients[i].fd = fd;
		return &clients[i];
	}
	close(fd);
	return NULL;
}

static void client_close(struct client *client)
{
	close(client->fd);
	client->fd = -1;
}

static void answer(struct segue *segue, struct client *client, const char *line, int len)
{
	char text[LINE_MAX_BYTES + 80];
	int n = snprintf(text, sizeof(text), "%u generation %llu pid %ld: %.*s\n", ++client->lines,
	                 (unsigned long long)segue_generation(segue), (long)getpid(), len, line);

	/* A client that does not read is not waited for: this is an example. */
	if (send(client->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n || client->kept)
		client_close(client);
}

static void client_lines(struct segue *segue, struct client *client)
{
	char *end;

	while (client->fd >= 0 && (end = memchr(client->line, '\n', client->len)) != NULL) {
		size_t used = (size_t)(end - client->line) + 1;

		answer(segue, client, client->line, (int)used - 1);
		memmove(client->line, client->line + used, client->len - used);
		client->len -= used;
	}
	if (client->fd >= 0 && client->len == sizeof(client->line))
		client_close(client);
}

static void client_read(struct segue *segue, struct client *client)
{
	ssize_t n = recv(client->fd, client->line + client->len, sizeof(client->line) - client->len,
	                 MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		client_close(client);
		return;
	}
	if (n > 0)
		client->len += (size_t)n;
	client_lines(segue, client);
}

static int clients_count(void)
{
	int count = 0;

	for (int i = 0; i < CLIENTS_MAX; i++)
		count += clients[i].fd >= 0;
	return count;
}

/* Whatever is between two lines, or in the middle of one, can go. */
static void hand_over(struct segue *segue)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct record record = { clients[i].lines };

		if (clients[i].fd < 0 || clients[i].handed || clients[i].kept)
			continue;
		if (segue_handover(segue, clients[i].fd, clients[i].line, clients[i].len, &record,
		                   sizeof(record), &clients[i]) == 0)
			clients[i].handed = 1;
		else
			clients[i].kept = 1;
	}
}

static void take_over(struct segue *segue, const struct segue_event *event)
{
	struct client *client;
	struct record record;

	if (event->record_len != sizeof(record) || event->bytes_len > LINE_MAX_BYTES) {
		close(event->fd);
		return;
	}
	client = client_new(event->fd);
	if (client == NULL)
		return;
	memcpy(&record, event->record, sizeof(record));
	client->lines = record.lines;
	memcpy(client->line, event->bytes, event->bytes_len);
	client->len = event->bytes_len;
	client_lines(segue, client);
}

/* 1 when the program has to end. */
static int handle(struct segue *segue, const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_SERVE:
		accepting = 1;
		fprintf(stderr, "generation %llu pid %ld serves\n",
		        (unsigned long long)segue_generation(segue), (long)getpid());
		break;
	case SEGUE_EVENT_RESUME:
		accepting = 1;
		draining = moving = 0;
		for (int i = 0; i < CLIENTS_MAX; i++)
			clients[i].kept = 0;
		break;
	case SEGUE_EVENT_COMMIT:
		accepting = 0;
		break;
	case SEGUE_EVENT_DRAIN:
		accepting = 0;
		draining = 1;
		moving = event->successor;
		if (!moving)
			for (int i = 0; i < CLIENTS_MAX; i++)
				if (clients[i].fd >= 0)
					client_close(&clients[i]);
		break;
	case SEGUE_EVENT_CUT:
		moving = 0;
		for (int i = 0; i < CLIENTS_MAX; i++)
			if (clients[i].fd >= 0)
				client_close(&clients[i]);
		draining = 1;
		break;
	case SEGUE_EVENT_CONNECTION:
		take_over(segue, event);
		break;
	case SEGUE_EVENT_TAKEN:
		client_close(event->cookie);
		break;
	case SEGUE_EVENT_KEPT:
		((struct client *)event->cookie)->handed = 0;
		((struct client *)event->cookie)->kept = draining;
		break;
	case SEGUE_EVENT_UPGRADE_ENDED:
		fprintf(stderr, "upgrade to generation %llu: %s (%s)\n",
		        (unsigned long long)event->generation, segue_outcome_name(event->outcome),
		        event->reason);
		break;
	case SEGUE_EVENT_STATE:
		fprintf(stderr, "generation %llu pid %ld: %s -> %s (%s)\n",
		        (unsigned long long)event->generation, (long)getpid(),
		        segue_state_name(event->from), segue_state_name(event->to), event->reason);
		break;
	case SEGUE_EVENT_WARNING:
		fprintf(stderr, "warning: %s\n", event->reason);
		break;
	case SEGUE_EVENT_GONE:
		return 1;
	default:
		break;
	}
	return 0;
}

static int dispatch(struct segue *segue)
{
	struct segue_event event;

	while (segue_dispatch(segue, &event) > 0)
		if (handle(segue, &event))
			return 1;
	/* Also what an older generation gave us while we were leaving. */
	if (moving)
		hand_over(segue);
	if (draining && clients_count() == 0) {
		if (segue_drained(segue) < 0)
			return 0; /* a connection is still on its way; an event will tell */
		draining = moving = 0;
		return dispatch(segue);
	}
	return 0;
}

static void serve(struct segue *segue, int listener)
{
	struct pollfd polled[CLIENTS_MAX + 2];
	struct client *who[CLIENTS_MAX + 2];

	while (!dispatch(segue)) {
		nfds_t count = 1;

		polled[0] = (struct pollfd){ .fd = segue_fd(segue), .events = POLLIN };
		if (accepting)
			polled[count++] = (struct pollfd){ .fd = listener, .events = POLLIN };
		for (int i = 0; i < CLIENTS_MAX; i++) {
			if (clients[i].fd < 0 || clients[i].handed)
				continue;
			who[count] = &clients[i];
			polled[count++] = (struct pollfd){ .fd = clients[i].fd, .events = POLLIN };
		}
		if (poll(polled, count, -1) < 0)
			continue;
		for (nfds_t i = 1; i < count; i++) {
			if (!polled[i].revents)
				continue;
			if (polled[i].fd == listener) {
				int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

				if (fd >= 0)
					client_new(fd);
			} else {
				client_read(segue, who[i]);
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct segue_options options;
	struct segue *segue;
	int listener;

	for (int i = 0; i < CLIENTS_MAX; i++)
		clients[i].fd = -1;
	segue_options_init(&options);
	options.pid_file = argc > 2 ? argv[2] : NULL;
	options.record_version = options.record_version_min = options.record_version_max = 1;
	if (segue_open(&segue, &options) < 0 ||
	    (listener = segue_listen_spec(segue, argc > 1 ? argv[1] : ":7777", NULL)) < 0 ||
	    segue_ready(segue) < 0) {
		fprintf(stderr, "echo: %s\n", segue_error(segue));
		segue_close(segue);
		return EXIT_FAILURE;
	}
	serve(segue, listener);
	segue_close(segue);
	return EXIT_SUCCESS;
}
