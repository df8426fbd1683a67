/* SPDX-License-Identifier: MIT */
/*
 * The address grammar. What is written is brought to one canonical text, because a listener
 * is recognised in the successor by the address it was configured with: getsockname() of
 * port 0 or of a unix socket says something else.
 */
#include "core/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define GRAMMAR "use tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH, unix://@NAME or :PORT"

static int refuse(char *reason, size_t reason_size, const char *text, const char *why)
{
	snprintf(reason, reason_size, "address '%.80s' %s; " GRAMMAR, text, why);
	return -EINVAL;
}

bool sg_name_valid(const char *name)
{
	size_t len = strlen(name);

	return len >= 1 && len <= 63 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
}

/* Plain ASCII without control bytes, so that a log line stays a line. */
static bool printable(const char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text < 0x20 || (unsigned char)*text == 0x7f)
			return false;
	return true;
}

static int parse_port(const char *text, uint16_t *ret_port)
{
	unsigned long value = 0;
	size_t len = strlen(text);

	if (len == 0 || len > 5 || strspn(text, "0123456789") != len)
		return -EINVAL;
	for (; *text != '\0'; text++)
		value = value * 10 + (unsigned long)(*text - '0');
	if (value > 65535)
		return -EINVAL;
	*ret_port = (uint16_t)value;
	return 0;
}

static bool host_name_valid(const char *host)
{
	return strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") ==
	       strlen(host);
}

static bool looks_numeric(const char *host)
{
	return strspn(host, "0123456789.") == strlen(host);
}

/* The name of an interface, or its number. */
static bool zone_valid(const char *zone)
{
	return zone[0] != '\0' && host_name_valid(zone);
}

static int parse_host(struct sg_address *address, bool bracketed)
{
	if (address->host[0] == '\0' || strcmp(address->host, "*") == 0) {
		if (bracketed)
			return -EINVAL;
		address->any = true;
		address->family = AF_INET6;
		strcpy(address->host, "*");
		return 0;
	}
	if (bracketed) {
		char number[SG_HOST_MAX + 1];
		char *zone;

		strcpy(number, address->host);
		zone = strchr(number, '%');
		if (zone != NULL && !zone_valid(zone + 1))
			return -EINVAL;
		if (zone != NULL)
			*zone = '\0';
		address->family = AF_INET6;
		return inet_pton(AF_INET6, number, address->ip) == 1 ? 0 : -EINVAL;
	}
	address->family = AF_INET;
	if (inet_pton(AF_INET, address->host, address->ip) == 1)
		return 0;
	address->family = AF_UNSPEC;
	return !looks_numeric(address->host) && host_name_valid(address->host) ? 0 : -EINVAL;
}

static void write_text(struct sg_address *address)
{
	const char *scheme = address->kind == SG_ADDRESS_UDP ? "udp" : "tcp";
	char number[INET6_ADDRSTRLEN + SG_HOST_MAX];
	const char *zone;

	if (address->any || address->family != AF_INET6) {
		snprintf(address->text, sizeof(address->text), "%s://%s:%u", scheme, address->host,
		         address->port);
		return;
	}
	inet_ntop(AF_INET6, address->ip, number, INET6_ADDRSTRLEN);
	zone = strchr(address->host, '%');
	snprintf(address->text, sizeof(address->text), "%s://[%s%s]:%u", scheme, number,
	         zone != NULL ? zone : "", address->port);
}

static int parse_inet(struct sg_address *address, const char *rest, const char *whole, char *reason,
                      size_t reason_size)
{
	bool bracketed = rest[0] == '[';
	const char *end = bracketed ? strchr(rest, ']') : strrchr(rest, ':');
	const char *host = bracketed ? rest + 1 : rest;

	if (end == NULL && whole[0] != '\0' && strspn(whole, "0123456789") == strlen(whole)) {
		snprintf(reason, reason_size, "'%.80s' is a port alone; write :%.80s", whole,
		         whole);
		return -EINVAL;
	}
	if (end == NULL || (bracketed && end[1] != ':'))
		return refuse(reason, reason_size, whole, "has no port");
	if ((size_t)(end - host) > SG_HOST_MAX)
		return refuse(reason, reason_size, whole, "has too long a host");
	memcpy(address->host, host, (size_t)(end - host));
	address->host[end - host] = '\0';
	if (!bracketed && strchr(address->host, ':') != NULL)
		return refuse(reason, reason_size, whole,
		              "has an IPv6 host without brackets ([::1]:80)");
	if (parse_port(bracketed ? end + 2 : end + 1, &address->port) < 0)
		return refuse(reason, reason_size, whole, "has a port that is no number 0..65535");
	if (parse_host(address, bracketed) < 0)
		return refuse(reason, reason_size, whole, "has a malformed host");
	write_text(address);
	return 0;
}

static int parse_unix(struct sg_address *address, const char *path, const char *whole, char *reason,
                      size_t reason_size)
{
	bool abstract = path[0] == '@';

	if (!abstract && path[0] != '/')
		return refuse(reason, reason_size, whole,
		              "has a path that does not begin with '/'");
	path += abstract ? 1 : 0;
	if (strlen(path) > (abstract ? SG_PATH_MAX - 1 : SG_PATH_MAX))
		return refuse(reason, reason_size, whole,
		              "is longer than a unix socket's path may be (107 bytes)");
	if (path[0] == '\0' || (!abstract && path[strlen(path) - 1] == '/'))
		return refuse(reason, reason_size, whole, "names no socket");
	address->kind = abstract ? SG_ADDRESS_ABSTRACT : SG_ADDRESS_UNIX;
	address->family = AF_UNIX;
	strcpy(address->path, path);
	snprintf(address->text, sizeof(address->text), "unix://%s%s", abstract ? "@" : "", path);
	return 0;
}

int sg_address_parse(struct sg_address *ret_address, const char *text, char *reason,
                     size_t reason_size)
{
	struct sg_address address = { .kind = SG_ADDRESS_TCP };
	const char *rest = text;
	int r;

	if (!printable(text))
		return refuse(reason, reason_size, "?", "has control characters");
	if (strncmp(text, "unix://", 7) == 0) {
		r = parse_unix(&address, text + 7, text, reason, reason_size);
	} else {
		if (strncmp(text, "tcp://", 6) == 0) {
			rest = text + 6;
		} else if (strncmp(text, "udp://", 6) == 0) {
			rest = text + 6;
			address.kind = SG_ADDRESS_UDP;
		} else if (strstr(text, "://") != NULL) {
			return refuse(reason, reason_size, text, "has an unknown scheme");
		}
		r = parse_inet(&address, rest, text, reason, reason_size);
	}
	if (r == 0)
		*ret_address = address;
	return r;
}

int sg_address_parse_spec(char *ret_name, struct sg_address *ret_address, const char *spec,
                          char *reason, size_t reason_size)
{
	const char *equals = strchr(spec, '=');
	const char *colon = strchr(spec, ':');
	char name[64];
	int r;

	/* A '=' behind the first ':' belongs to the address (a unix path may have one). */
	if (equals == NULL || (colon != NULL && colon < equals)) {
		r = sg_address_parse(ret_address, spec, reason, reason_size);
		if (r == 0)
			snprintf(ret_name, SG_NAME_MAX + 1, "%.*s", SG_NAME_MAX, ret_address->text);
		return r;
	}
	snprintf(name, sizeof(name), "%.*s", (int)(equals - spec > 63 ? 63 : equals - spec), spec);
	if (equals - spec > 63 || !sg_name_valid(name)) {
		snprintf(reason, reason_size,
		         "name '%.63s' is malformed; use 1 to 63 characters of a-z, 0-9, _ and -",
		         printable(name) ? name : "?");
		return -EINVAL;
	}
	r = sg_address_parse(ret_address, equals + 1, reason, reason_size);
	if (r == 0)
		strcpy(ret_name, name);
	return r;
}

int sg_address_socket_type(const struct sg_address *address)
{
	return address->kind == SG_ADDRESS_UDP ? SOCK_DGRAM : SOCK_STREAM;
}

/* What the kernel compares: an IPv4 number may be written as an IPv6 one. */
struct number {
	int family;
	const uint8_t *ip;
};

static struct number number_of(const struct sg_address *address)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (address->family == AF_INET6 && memcmp(address->ip, mapped, sizeof(mapped)) == 0)
		return (struct number){ AF_INET, address->ip + sizeof(mapped) };
	return (struct number){ address->family, address->ip };
}

static bool is_wildcard(struct number number)
{
	static const uint8_t zero[16];

	return memcmp(number.ip, zero, number.family == AF_INET ? 4 : 16) == 0;
}

/* Does a take b's address as well? Equal numbers of different zones are two addresses. */
static bool covers(const struct sg_address *a, const struct sg_address *b, bool v6only)
{
	struct number x = number_of(a), y = number_of(b);

	if (is_wildcard(x))
		return x.family == y.family || (x.family == AF_INET6 && !v6only);
	return x.family == AF_INET && y.family == AF_INET && memcmp(x.ip, y.ip, 4) == 0;
}

bool sg_address_overlaps(const struct sg_address *a, bool a_v6only, const struct sg_address *b,
                         bool b_v6only)
{
	if (a->kind != b->kind)
		return false;
	if (a->family == AF_UNIX || b->family == AF_UNIX)
		return strcmp(a->text, b->text) == 0;
	if (a->port != b->port || a->port == 0)
		return false;
	if (strcmp(a->text, b->text) == 0)
		return true;
	if (a->family == AF_UNSPEC || b->family == AF_UNSPEC)
		return a->any || b->any;
	return covers(a, b, a_v6only) || covers(b, a, b_v6only);
}

static bool unix_matches(const struct sg_address *address, const struct sockaddr_un *name,
                         socklen_t name_len)
{
	size_t len = name_len - offsetof(struct sockaddr_un, sun_path);

	if (address->kind == SG_ADDRESS_ABSTRACT)
		return len == strlen(address->path) + 1 && name->sun_path[0] == '\0' &&
		       memcmp(name->sun_path + 1, address->path, len - 1) == 0;
	return len >= 1 && strnlen(name->sun_path, len) == strlen(address->path) &&
	       strncmp(name->sun_path, address->path, len) == 0;
}

bool sg_address_matches(const struct sg_address *address, const struct sockaddr *name,
                        socklen_t name_len)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)name;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)name;
	uint16_t port;

	if (address->family == AF_UNIX)
		return name->sa_family == AF_UNIX &&
		       unix_matches(address, (const struct sockaddr_un *)name, name_len);
	if (name->sa_family != AF_INET && name->sa_family != AF_INET6)
		return false;
	port = ntohs(name->sa_family == AF_INET ? in->sin_port : in6->sin6_port);
	if (address->port != 0 && address->port != port)
		return false;
	if (address->family == AF_UNSPEC)
		return true;
	if (address->any) {
		static const uint8_t zero[16];

		return name->sa_family == AF_INET ? in->sin_addr.s_addr == 0
		                                  : memcmp(&in6->sin6_addr, zero, 16) == 0;
	}
	if (address->family != name->sa_family)
		return false;
	return name->sa_family == AF_INET ? memcmp(&in->sin_addr, address->ip, 4) == 0
	                                  : memcmp(&in6->sin6_addr, address->ip, 16) == 0;
}

int sg_address_format(char *text, size_t size, const struct sockaddr *name, socklen_t name_len,
                      int socket_type)
{
	const char *scheme = socket_type == SOCK_DGRAM ? "udp" : "tcp";
	const struct sockaddr_in *in = (const struct sockaddr_in *)name;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)name;
	const struct sockaddr_un *un = (const struct sockaddr_un *)name;
	size_t path_len = name_len - offsetof(struct sockaddr_un, sun_path);
	char number[INET6_ADDRSTRLEN];
	int n;

	switch (name->sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &in->sin_addr, number, sizeof(number));
		n = snprintf(text, size, "%s://%s:%u", scheme, number, ntohs(in->sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &in6->sin6_addr, number, sizeof(number));
		n = snprintf(text, size, "%s://[%s]:%u", scheme, number, ntohs(in6->sin6_port));
		break;
	case AF_UNIX:
		if (path_len >= 1 && un->sun_path[0] == '\0')
			n = snprintf(text, size, "unix://@%.*s", (int)(path_len - 1),
			             un->sun_path + 1);
		else
			n = snprintf(text, size, "unix://%.*s",
			             (int)strnlen(un->sun_path, path_len), un->sun_path);
		break;
	default:
		return -EAFNOSUPPORT;
	}
	return (size_t)n < size ? 0 : -ENOSPC;
}
