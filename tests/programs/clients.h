/* SPDX-License-Identifier: MIT */
/*
 * The server's connections: just enough HTTP/1.1 for the tests' strict client. A request is in
 * flight from the end of its head to the end of its body, so that a test holds one in flight by
 * holding its body back.
 */
#ifndef TEST_CLIENTS_H
#define TEST_CLIENTS_H

#include <poll.h>
#include <segue.h>

#define CLIENTS_MAX 1200

void clients_init(struct segue *handle);

/* Takes over an accepted connection. */
void clients_add(int fd);
/* Takes over one of the predecessor's. */
void clients_adopt(const struct segue_event *event);

/* Adds what is to be polled; the number of entries added. */
nfds_t clients_poll(struct pollfd *polled);
/* Serves what the entries say. */
void clients_serve(const struct pollfd *polled, nfds_t count);

/* successor: hands over what is idle, now and later; else closes it. */
void clients_drain(bool successor);
void clients_resume(void);
void clients_taken(void *cookie);
void clients_kept(void *cookie);
/* Closes all; how many there were. */
unsigned int clients_cut(void);
unsigned int clients_count(void);

/* Requests answered by all generations so far: the state that is handed over. */
extern uint64_t clients_total;

#endif
