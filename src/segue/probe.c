/* SPDX-License-Identifier: MIT */
/*
 * See probe.h.
 */
#include "segue/probe.h"

#include "core/address.h"
#include "core/fd.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static int refuse(char *reason, size_t reason_size, const char *text, const char *why)
{
	snprintf(reason, reason_size, "the address '%.200s' of the probe %s", text, why);
	return -EINVAL;
}

static void add_ip(struct probe *probe, int family, const uint8_t *ip, uint16_t port)
{
	struct probe_address *address = &probe->addresses[probe->addresses_len++];
	struct sockaddr_in *v4 = (struct sockaddr_in *)&address->name;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->name;

	if (family == AF_INET) {
		*v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
		memcpy(&v4->sin_addr, ip, 4);
		address->len = sizeof(*v4);
	} else {
		*v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
		memcpy(&v6->sin6_addr, ip, 16);
		address->len = sizeof(*v6);
	}
}

static void add_path(struct probe *probe, const char *path, size_t len, bool abstract)
{
	struct probe_address *address = &probe->addresses[probe->addresses_len++];
	struct sockaddr_un *name = (struct sockaddr_un *)&address->name;

	*name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(name->sun_path + (abstract ? 1 : 0), path, len);
	address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
}

static int add_address(struct probe *probe, const char *text, const char *whole, char *reason,
                       size_t reason_size)
{
	static const uint8_t local4[4] = { 127, 0, 0, 1 }, local6[16] = { [15] = 1 };
	struct sg_address address;

	if (sg_address_parse(&address, text, reason, reason_size) < 0)
		return -EINVAL;
	if (address.kind == SG_ADDRESS_UNIX || address.kind == SG_ADDRESS_ABSTRACT) {
		add_path(probe, address.path, strlen(address.path),
		         address.kind == SG_ADDRESS_ABSTRACT);
		return 0;
	}
	if (address.kind != SG_ADDRESS_TCP || address.any || address.port == 0)
		return refuse(reason, reason_size, whole, "needs tcp, a host and a port");
	if (address.family != AF_UNSPEC) {
		add_ip(probe, address.family, address.ip, address.port);
	} else if (strcmp(address.host, "localhost") == 0) {
		add_ip(probe, AF_INET, local4, address.port);
		add_ip(probe, AF_INET6, local6, address.port);
	} else {
		return refuse(reason, reason_size, whole,
		              "has a host that is neither a number nor 'localhost'");
	}
	return 0;
}

static int write_request(struct probe *probe, const char *url, const char *path, const char *host,
                         int host_len, char *reason, size_t reason_size)
{
	int n, len = (int)strcspn(path, "#");

	n = snprintf(probe->request, sizeof(probe->request),
	             "GET %s%.*s HTTP/1.1\r\nHost: %.*s\r\nUser-Agent: segue\r\n"
	             "Accept: */*\r\nConnection: close\r\n\r\n",
	             *path == '/' ? "" : "/", len, path, host_len, host);
	if (n < 0 || (size_t)n >= sizeof(probe->request))
		return refuse(reason, reason_size, url, "is too long");
	return 0;
}

/* "http://unix:/PATH:/REQUEST", as others write it; without the second part "/" is asked for. */
static int parse_http_unix(struct probe *probe, const char *url, char *reason, size_t reason_size)
{
	const char *path = url + strlen("http://unix:");
	const char *request = strstr(path, ":/");
	size_t len = request != NULL ? (size_t)(request - path) : strlen(path);

	if (len < 2 || len > SG_PATH_MAX)
		return refuse(reason, reason_size, url,
		              "has no path of a socket, or a too long one");
	add_path(probe, path, len, false);
	return write_request(probe, url, request != NULL ? request + 1 : "/", "localhost", 9,
	                     reason, reason_size);
}

static int parse_http(struct probe *probe, const char *url, char *reason, size_t reason_size)
{
	const char *host = url + strlen("http://");
	size_t len = strcspn(host, "/?#");
	char address[SG_ADDRESS_MAX];
	bool port;
	int r;

	for (const char *at = url; *at != '\0'; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f)
			return refuse(reason, reason_size, url, "has a blank in it");
	if (strncmp(host, "unix:/", 6) == 0)
		return parse_http_unix(probe, url, reason, reason_size);
	if (len == 0 || len > SG_HOST_MAX)
		return refuse(reason, reason_size, url, "has no host");
	port = host[len - 1] != ']' && memchr(host, ':', len) != NULL;
	snprintf(address, sizeof(address), "tcp://%.*s%s", (int)len, host, port ? "" : ":80");
	r = add_address(probe, address, url, reason, reason_size);
	return r < 0 ? r
	             : write_request(probe, url, host + len, host, (int)len, reason, reason_size);
}

int probe_parse(struct probe *ret_probe, const char *text, char *reason, size_t reason_size)
{
	*ret_probe = (struct probe){ 0 };
	if (strncmp(text, "http://", 7) == 0)
		return parse_http(ret_probe, text, reason, reason_size);
	return add_address(ret_probe, text, text, reason, reason_size);
}

int probe_connect(const struct probe *probe, unsigned int attempt)
{
	const struct probe_address *to = &probe->addresses[attempt % probe->addresses_len];
	SG_CLEANUP(sg_fd_cleanup)
	int fd = socket(to->name.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	fd = sg_fd_above_stdio_take(fd);
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&to->name, to->len) < 0 && errno != EINPROGRESS)
		return -errno;
	return sg_fd_steal(&fd);
}

/* Where nobody listens on a port of the range for clients, a socket may be given that very port
 * and meet itself. */
static bool met_itself(int fd)
{
	struct sockaddr_storage own = { 0 }, peer = { 0 };
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

	return getsockname(fd, (struct sockaddr *)&own, &own_len) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
	       own.ss_family != AF_UNIX && own_len == peer_len && memcmp(&own, &peer, own_len) == 0;
}

int probe_connected(int fd)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	if (error == 0 && met_itself(fd))
		return -ECONNREFUSED;
	return -error;
}

static bool is_answered(const struct probe *probe, unsigned int attempt, int64_t deadline_ms)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = probe_connect(probe, attempt);
	struct pollfd poller = { .fd = fd, .events = POLLOUT };
	int64_t left;
	int n;

	/* EAGAIN: a unix socket whose backlog is full. */
	if (fd < 0)
		return fd == -EAGAIN;
	do {
		left = deadline_ms - sg_now_ms();
		n = poll(&poller, 1, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	return n <= 0 || probe_connected(fd) == 0;
}

bool probe_is_answered(const struct probe *probe, int patience_ms)
{
	int64_t deadline_ms = sg_now_ms() + patience_ms;

	for (unsigned int i = 0; i < probe->addresses_len; i++)
		if (is_answered(probe, i, deadline_ms))
			return true;
	return false;
}
