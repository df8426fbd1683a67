/* SPDX-License-Identifier: MIT */
/*
 * Listening addresses: one grammar, "[NAME=]ADDRESS", everywhere.
 *
 * Pure: parsing and comparing make no system call. A host that is not a number is kept as
 * text and resolved when it is bound.
 */
#ifndef SG_CORE_ADDRESS_H
#define SG_CORE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define SG_NAME_MAX    255
#define SG_ADDRESS_MAX 320
#define SG_HOST_MAX    255
#define SG_PATH_MAX    107

enum sg_address_kind { SG_ADDRESS_TCP = 1, SG_ADDRESS_UDP, SG_ADDRESS_UNIX, SG_ADDRESS_ABSTRACT };

struct sg_address {
	enum sg_address_kind kind;
	bool any;                   /* "*" or no host: both families, all interfaces */
	int family;                 /* AF_INET, AF_INET6, AF_UNIX, or AF_UNSPEC: a host name */
	uint8_t ip[16];             /* network order, family's length */
	char host[SG_HOST_MAX + 1]; /* as written, without brackets */
	uint16_t port;              /* host order */
	char path[SG_PATH_MAX + 1]; /* unix: the path; abstract: the name without "@" */
	char text[SG_ADDRESS_MAX];  /* canonical form; equal addresses have equal texts */
};

/* Parses an address. -EINVAL with a sentence in reason. */
int sg_address_parse(struct sg_address *ret_address, const char *text, char *reason,
                     size_t reason_size);

/*
 * Splits "[NAME=]ADDRESS" and parses both. The name defaults to the canonical address.
 * ret_name has room for SG_NAME_MAX + 1 bytes. -EINVAL with a sentence in reason.
 */
int sg_address_parse_spec(char *ret_name, struct sg_address *ret_address, const char *spec,
                          char *reason, size_t reason_size);

/* Is it 1..63 bytes of [a-z0-9_-]? */
bool sg_name_valid(const char *name);

/* Can the two not be bound beside each other? Equal addresses overlap, port 0 never does. */
bool sg_address_overlaps(const struct sg_address *a, bool a_v6only, const struct sg_address *b,
                         bool b_v6only);

/* SOCK_STREAM or SOCK_DGRAM. */
int sg_address_socket_type(const struct sg_address *address);

/*
 * Is this what getsockname() says of a socket bound to the address? Port 0 matches every
 * port, a host name every host.
 */
bool sg_address_matches(const struct sg_address *address, const struct sockaddr *name,
                        socklen_t name_len);

/* "tcp://127.0.0.1:80" for a getsockname() result; socket_type decides tcp or udp. -ENOSPC,
 * -EAFNOSUPPORT. */
int sg_address_format(char *text, size_t size, const struct sockaddr *name, socklen_t name_len,
                      int socket_type);

#endif
