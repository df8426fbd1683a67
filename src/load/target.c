/* SPDX-License-Identifier: MIT */
/* Address and sockets of the target; see target.h. */
#include "target.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static void take_unix(const struct url *url, struct target *ret_target)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t size = offsetof(struct sockaddr_un, sun_path) + url->socket_size;

	memcpy(address.sun_path, url->socket, url->socket_size);
	if (url->socket[0])
		size++;
	memset(ret_target, 0, sizeof(*ret_target));
	memcpy(&ret_target->address, &address, sizeof(address));
	ret_target->size = (socklen_t)size;
}

int target_find(const struct options *options, struct target *ret_target, const char **ret_why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	int r;

	if (options->url.is_unix) {
		take_unix(&options->url, ret_target);
		return 0;
	}
	if (options->ipv4)
		hints.ai_family = AF_INET;
	if (options->ipv6)
		hints.ai_family = AF_INET6;
	r = getaddrinfo(options->url.host, options->url.port, &hints, &found);
	if (r != 0) {
		*ret_why = gai_strerror(r);
		return -ENOENT;
	}
	memset(ret_target, 0, sizeof(*ret_target));
	memcpy(&ret_target->address, found->ai_addr, found->ai_addrlen);
	ret_target->size = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

int target_connect_again(const struct target *target, int fd)
{
	if (connect(fd, (const struct sockaddr *)&target->address, target->size) == 0)
		return 0;
	/* On TCP it means that no local port is left. */
	if (errno == EAGAIN && target->address.ss_family != AF_UNIX)
		return -EADDRNOTAVAIL;
	return -errno;
}

int target_connect(const struct target *target, int receive_bytes, int *ret_fd)
{
	int one = 1, fd, r;

	fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (target->address.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (receive_bytes)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
	r = target_connect_again(target, fd);
	if (r < 0 && r != -EINPROGRESS && r != -EAGAIN) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return r;
}
