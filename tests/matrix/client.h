/* SPDX-License-Identifier: MIT */
/*
 * The actor's connections and its line protocol.
 *
 * A request is a line "ID COMMAND [ARGUMENT]", its answer the line "ID GENERATION PID COUNT
 * TEXT": COUNT is the number of this answer on its connection and travels in the record, so
 * that an answer that was given twice, or lost, shows. A connection is idle or busy (with
 * "hold", until the line "go"); what is idle can be handed over with its half line.
 */
#ifndef MATRIX_CLIENT_H
#define MATRIX_CLIENT_H

#include <segue.h>

#include <stdbool.h>
#include <stddef.h>

#define LINE_MAX_BYTES (SEGUE_CONNECTION_MAX + 4096)

struct client {
	struct client *next, *previous;
	int fd;
	bool handed; /* waits for its verdict: hands off */
	bool kept;   /* is not handed over (again) */
	bool busy;
	bool closed; /* freed by clients_sweep() */
	unsigned int count;
	char id[24];
	char name[32];
	size_t padding; /* of the record */
	size_t len, size;
	char *line;
};

extern struct client *clients;
extern size_t clients_len;

/* epoll_fd watches the clients; the handle answers questions about the generation. */
void clients_begin(int watching_fd, struct segue *handle);

void client_new_take(int fd);

/* From the predecessor. */
void client_adopt(const struct segue_event *event);

void client_readable(struct client *client);
void client_close(struct client *client);

/* Gives an idle one to the successor where it will have it. */
void client_hand_over(struct client *client);
void client_taken(struct client *client);
void client_kept(struct client *client, const char *reason);

/* Frees what has been closed: only when no pointer to a client is on the way. */
void clients_sweep(void);

#endif
