/* SPDX-License-Identifier: MIT */
#include "client.h"
#include "orders.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Version 1 of the connection record; padding follows. */
struct record {
	unsigned int count;
	char name[32];
	size_t padding;
};

struct client *clients;
size_t clients_len;

static int epoll_fd = -1;
static struct segue *segue;

void clients_begin(int watching_fd, struct segue *handle)
{
	epoll_fd = watching_fd;
	segue = handle;
}

static void watch(struct client *client, bool on)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };

	(void)epoll_ctl(epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, client->fd, &event);
}

static struct client *add(int fd)
{
	struct client *client = calloc(1, sizeof(*client));

	if (client == NULL) {
		close(fd);
		return NULL;
	}
	client->fd = fd;
	client->next = clients;
	if (clients != NULL)
		clients->previous = client;
	clients = client;
	clients_len++;
	watch(client, true);
	return client;
}

void client_new_take(int fd)
{
	(void)add(fd);
}

void client_close(struct client *client)
{
	if (client->closed)
		return;
	if (!client->handed)
		watch(client, false);
	close(client->fd);
	client->fd = -1;
	client->closed = true;
	clients_len--;
}

void clients_sweep(void)
{
	struct client *next;

	for (struct client *client = clients; client != NULL; client = next) {
		next = client->next;
		if (!client->closed)
			continue;
		if (client->previous != NULL)
			client->previous->next = next;
		else
			clients = next;
		if (next != NULL)
			next->previous = client->previous;
		free(client->line);
		free(client);
	}
}

static void answer(struct client *client, const char *id, const char *text)
{
	char line[4096];
	int n = snprintf(line, sizeof(line), "%s %llu %ld %u %s\n", id,
	                 (unsigned long long)segue_generation(segue), (long)getpid(),
	                 ++client->count, text);

	if (send(client->fd, line, (size_t)n, MSG_NOSIGNAL) != n)
		client_close(client);
}

static struct client *named(const char *name)
{
	for (struct client *client = clients; client != NULL; client = client->next)
		if (!client->closed && strcmp(client->name, name) == 0)
			return client;
	return NULL;
}

/* What a program that a handler starts has open, its lines joined by '|'. */
static void run_ls(char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;
	int fds[2];
	pid_t pid;

	if (pipe(fds) < 0)
		return;
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		close(fds[0]);
		close(fds[1]);
		execl("/bin/ls", "ls", "-l", "/proc/self/fd", (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	while (len < size - 1 && (n = read(fds[0], text + len, size - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	close(fds[0]);
	waitpid(pid, NULL, 0);
	for (char *at = text; *at != '\0'; at++)
		if (*at == '\n')
			*at = '|';
}

static void command(struct client *client, const char *id, const char *what, const char *argument)
{
	char text[3500] = "ok";

	if (strcmp(what, "hold") == 0) {
		client->busy = true;
		snprintf(client->id, sizeof(client->id), "%s", id);
		return;
	}
	if (strcmp(what, "name") == 0)
		snprintf(client->name, sizeof(client->name), "%s", argument);
	else if (strcmp(what, "record") == 0)
		client->padding = strtoul(argument, NULL, 10);
	else if (strcmp(what, "buffered") == 0)
		snprintf(text, sizeof(text), "%ld",
		         named(argument) != NULL ? (long)named(argument)->len : -1L);
	else if (strcmp(what, "busy") == 0)
		snprintf(text, sizeof(text), "%d",
		         named(argument) != NULL ? (int)named(argument)->busy : -1);
	else if (strcmp(what, "say") == 0)
		tell("said", ", \"text\": \"%s\"", quoted(argument));
	else if (strcmp(what, "state") == 0)
		snprintf(text, sizeof(text), "%s", segue_state_name(segue_current_state(segue)));
	else if (strcmp(what, "clients") == 0)
		snprintf(text, sizeof(text), "%zu", clients_len);
	else if (strcmp(what, "variable") == 0)
		snprintf(text, sizeof(text), "%s",
		         getenv(argument) != NULL ? getenv(argument) : "-");
	else if (strcmp(what, "ls") == 0)
		run_ls(text, sizeof(text));
	answer(client, id, text);
}

static void take_line(struct client *client, char *line)
{
	char id[24] = "?", what[24] = "", argument[64] = "";

	(void)sscanf(line, "%23s %23s %63s", id, what, argument);
	command(client, id, what, argument);
}

/* While busy only "go" is understood, and all else waits behind it. */
static void take_lines(struct client *client)
{
	char *end;

	while (!client->closed && client->len > 0 &&
	       (end = memchr(client->line, '\n', client->len)) != NULL) {
		size_t used = (size_t)(end - client->line) + 1;
		bool go = used == 3 && memcmp(client->line, "go\n", 3) == 0;

		if (client->busy && !go)
			return;
		*end = '\0';
		if (client->busy) {
			client->busy = false;
			answer(client, client->id, "held");
		} else {
			take_line(client, client->line);
		}
		memmove(client->line, client->line + used, client->len - used);
		client->len -= used;
	}
}

static bool room(struct client *client, size_t len)
{
	char *more;

	if (client->size >= len)
		return true;
	more = realloc(client->line, len);
	if (more == NULL)
		return false;
	client->line = more;
	client->size = len;
	return true;
}

void client_readable(struct client *client)
{
	ssize_t n;

	if (client->len == client->size &&
	    (client->size >= LINE_MAX_BYTES ||
	     !room(client, client->size == 0 ? 256 : client->size * 2))) {
		client_close(client);
		return;
	}
	n = recv(client->fd, client->line + client->len, client->size - client->len, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		client_close(client);
		return;
	}
	if (n > 0)
		client->len += (size_t)n;
	take_lines(client);
}

void client_adopt(const struct segue_event *event)
{
	struct record record;
	struct client *client;

	if (event->record_len < sizeof(record)) {
		close(event->fd);
		return;
	}
	memcpy(&record, event->record, sizeof(record));
	client = add(event->fd);
	if (client == NULL)
		return;
	client->count = record.count;
	client->padding = record.padding;
	memcpy(client->name, record.name, sizeof(client->name));
	if (event->bytes_len > 0 && room(client, event->bytes_len)) {
		memcpy(client->line, event->bytes, event->bytes_len);
		client->len = event->bytes_len;
	}
	if (event->record_len != sizeof(record) + record.padding)
		tell("damaged", ", \"client\": \"%s\"", client->name);
	if (client->name[0] != '\0')
		tell("adopted", ", \"client\": \"%s\", \"bytes\": %zu", client->name,
		     event->bytes_len);
	take_lines(client);
}

void client_hand_over(struct client *client)
{
	struct record record = { .count = client->count, .padding = client->padding };
	size_t len = sizeof(record) + client->padding;
	char *bytes;
	int r;

	if (client->closed || client->busy || client->handed || client->kept)
		return;
	bytes = calloc(1, len);
	if (bytes == NULL)
		return;
	memcpy(record.name, client->name, sizeof(record.name));
	memcpy(bytes, &record, sizeof(record));
	watch(client, false);
	client->handed = true;
	r = segue_handover(segue, client->fd, client->line, client->len, bytes, len, client);
	free(bytes);
	if (r < 0)
		client_kept(client, segue_error(segue));
}

void client_taken(struct client *client)
{
	if (client->name[0] != '\0')
		tell("taken", ", \"client\": \"%s\"", client->name);
	client_close(client);
}

void client_kept(struct client *client, const char *reason)
{
	if (client->name[0] != '\0')
		tell("kept", ", \"client\": \"%s\", \"reason\": \"%s\"", client->name,
		     quoted(reason));
	client->handed = false;
	client->kept = true;
	watch(client, true);
}
