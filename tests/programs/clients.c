/* SPDX-License-Identifier: MIT */
#include "clients.h"
#include "say.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What travels with a connection. */
struct record {
	uint32_t requests;
};

struct client {
	int fd;      /* -1: free */
	bool handed; /* waits for its verdict */
	bool stuck;  /* cannot be handed over: closed after its next response */
	uint32_t requests;
	size_t len;
	char bytes[16384];
};

enum drain { NO_DRAIN, TO_SUCCESSOR, TO_THE_END };

uint64_t clients_total;

static struct client clients[CLIENTS_MAX];
static struct segue *segue;
static enum drain drain;
static char body[65536];

void clients_init(struct segue *handle)
{
	segue = handle;
	for (int i = 0; i < CLIENTS_MAX; i++)
		clients[i].fd = -1;
}

static struct client *client_new(int fd)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &clients[i];

		if (client->fd >= 0)
			continue;
		*client = (struct client){ .fd = fd };
		return client;
	}
	close(fd);
	return NULL;
}

static void client_close(struct client *client)
{
	close(client->fd);
	client->fd = -1;
}

/* The head's length, 0 where it is not whole. */
static size_t head_len(const struct client *client)
{
	const char *end = memmem(client->bytes, client->len, "\r\n\r\n", 4);

	return end != NULL ? (size_t)(end - client->bytes) + 4 : 0;
}

static size_t body_len(const struct client *client, size_t head)
{
	static char text[sizeof(client->bytes) + 1];
	const char *at;

	memcpy(text, client->bytes, head);
	text[head] = '\0';
	at = strcasestr(text, "\r\nContent-Length:");
	return at != NULL ? strtoul(at + 17, NULL, 10) : 0;
}

static bool busy(const struct client *client)
{
	return head_len(client) > 0;
}

static void add(size_t *len, const char *text)
{
	int n = snprintf(body + *len, sizeof(body) - *len, "%s\n", text);

	if (n > 0 && (size_t)n < sizeof(body) - *len)
		*len += (size_t)n;
}

/* "/upgrade/N" asks N times at once: a line for each answer. */
static void body_upgrade(size_t *len, long times)
{
	for (long i = 0; i < times; i++) {
		char line[1024];
		int r = segue_upgrade(segue);

		snprintf(line, sizeof(line), "%d %s", r, r < 0 ? segue_error(segue) : "");
		add(len, line);
	}
}

static size_t body_of(const char *path)
{
	size_t len = 0;

	if (strncmp(path, "/upgrade/", 9) == 0)
		body_upgrade(&len, atol(path + 9));
	else if (strcmp(path, "/environ") == 0)
		for (char **variable = environ; *variable != NULL; variable++)
			add(&len, *variable);
	else if (strcmp(path, "/state") == 0)
		add(&len, segue_state_name(segue_current_state(segue)));
	else if (strcmp(path, "/stop") == 0)
		segue_stop(segue, false);
	else if (strcmp(path, "/cut") == 0)
		add(&len, segue_cut(segue) < 0 ? segue_error(segue) : "cut");
	else if (strncmp(path, "/status/", 8) == 0)
		segue_status(segue, path + 8);
	else
		add(&len, "hello");
	return len;
}

static void answer(struct client *client, bool last)
{
	static char text[sizeof(body) + 512];
	char path[256] = "/";
	size_t len;
	int n;

	(void)sscanf(client->bytes, "%*15s %255s", path);
	len = body_of(path);
	clients_total++;
	client->requests++;
	n = snprintf(text, sizeof(text),
	             "HTTP/1.1 200 OK\r\nSegue-Generation: %llu\r\nSegue-Pid: %ld\r\n"
	             "Segue-Requests: %u\r\nSegue-Total: %llu\r\nContent-Length: %zu\r\n%s\r\n%.*s",
	             (unsigned long long)segue_generation(segue), (long)getpid(), client->requests,
	             (unsigned long long)clients_total, len, last ? "Connection: close\r\n" : "",
	             (int)len, body);
	if (send(client->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
		last = true;
	if (last)
		client_close(client);
}

static void hand_over(struct client *client)
{
	struct record record = { client->requests };

	if (segue_handover(segue, client->fd, client->bytes, client->len, &record, sizeof(record),
	                   client) == 0) {
		client->handed = true;
		return;
	}
	say_begin("not-handed-over");
	say_text("reason", segue_error(segue));
	say_end();
	client->stuck = true;
}

static void client_idle(struct client *client)
{
	if (drain == TO_SUCCESSOR && !client->stuck && !client->handed && !busy(client))
		hand_over(client);
	else if (drain == TO_THE_END && client->len == 0)
		client_close(client);
}

/* Answers every whole request. */
static void client_requests(struct client *client)
{
	size_t head;

	while (client->fd >= 0 && (head = head_len(client)) > 0) {
		size_t whole = head + body_len(client, head);

		if (client->len < whole)
			return;
		client->len -= whole;
		answer(client, client->stuck || drain == TO_THE_END);
		memmove(client->bytes, client->bytes + whole, client->len);
	}
	if (client->fd >= 0)
		client_idle(client);
}

static void client_read(struct client *client)
{
	ssize_t n = recv(client->fd, client->bytes + client->len,
	                 sizeof(client->bytes) - client->len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(client);
		return;
	}
	client->len += (size_t)n;
	client_requests(client);
}

void clients_add(int fd)
{
	struct client *client = client_new(fd);

	if (client != NULL)
		client_idle(client);
}

void clients_adopt(const struct segue_event *event)
{
	struct record record = { 0 };
	struct client *client = client_new(event->fd);

	if (client == NULL)
		return;
	if (event->record_len == sizeof(record))
		memcpy(&record, event->record, sizeof(record));
	client->requests = record.requests;
	client->len = event->bytes_len;
	memcpy(client->bytes, event->bytes, event->bytes_len);
	client_requests(client);
}

nfds_t clients_poll(struct pollfd *polled)
{
	nfds_t count = 0;

	for (int i = 0; i < CLIENTS_MAX; i++)
		if (clients[i].fd >= 0 && !clients[i].handed)
			polled[count++] = (struct pollfd){ .fd = clients[i].fd, .events = POLLIN };
	return count;
}

void clients_serve(const struct pollfd *polled, nfds_t count)
{
	int i = 0;

	for (nfds_t at = 0; at < count; at++) {
		if (polled[at].revents == 0)
			continue;
		/* The entries are in the order of the clients. */
		while (i < CLIENTS_MAX && (clients[i].fd != polled[at].fd || clients[i].handed))
			i++;
		if (i < CLIENTS_MAX)
			client_read(&clients[i]);
		else
			i = 0;
	}
}

void clients_drain(bool successor)
{
	drain = successor ? TO_SUCCESSOR : TO_THE_END;
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (clients[i].fd >= 0 && !clients[i].handed)
			client_idle(&clients[i]);
}

void clients_resume(void)
{
	drain = NO_DRAIN;
	for (int i = 0; i < CLIENTS_MAX; i++)
		clients[i].stuck = false;
}

void clients_taken(void *cookie)
{
	client_close(cookie);
}

void clients_kept(void *cookie)
{
	struct client *client = cookie;

	client->handed = false;
	client->stuck = drain == TO_SUCCESSOR;
	client_idle(client);
}

unsigned int clients_cut(void)
{
	unsigned int count = 0;

	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].fd < 0 || clients[i].handed)
			continue;
		client_close(&clients[i]);
		count++;
	}
	return count;
}

unsigned int clients_count(void)
{
	unsigned int count = 0;

	for (int i = 0; i < CLIENTS_MAX; i++)
		count += clients[i].fd >= 0;
	return count;
}
