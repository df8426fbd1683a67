/* SPDX-License-Identifier: MIT */
/*
 * What a probe of readiness connects to: "tcp://HOST:PORT", "unix:///PATH",
 * "http://HOST[:PORT][/PATH]" and "http://unix:/PATH:/PATH". Hosts are numbers or "localhost": a
 * name would have to be looked up again and again while the loop waits.
 */
#ifndef SEGUE_COMMAND_PROBE_H
#define SEGUE_COMMAND_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define PROBE_REQUEST_MAX 2048

struct probe_address {
	struct sockaddr_storage name;
	socklen_t len;
};

struct probe {
	struct probe_address addresses[2]; /* two for "localhost" */
	unsigned int addresses_len;
	char request[PROBE_REQUEST_MAX]; /* of HTTP, "" otherwise */
};

/* -EINVAL with a sentence. */
int probe_parse(struct probe *ret_probe, const char *text, char *reason, size_t reason_size);

/* Begins to connect to one of the addresses: a descriptor that is writable when it has been
 * decided, or -errno. */
int probe_connect(const struct probe *probe, unsigned int attempt);

/* What became of it: 0 or -errno. */
int probe_connected(int fd);

/* Does something answer at any of the addresses? Blocks so long at most; what has not refused
 * by then is taken to be there. */
bool probe_is_answered(const struct probe *probe, int patience_ms);

#endif
