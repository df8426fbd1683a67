/* SPDX-License-Identifier: MIT */
/*
 * The address that the load goes to. Pure: nothing is looked up here.
 *
 *   http://HOST[:PORT][/PATH]           HOST is a name, an IPv4 address or an IPv6 one in brackets
 *   http+unix:///SOCKET/PATH[:/PATH]    the first ":/" divides the socket's path from the request's
 *   http+unix://@NAME[:/PATH]           a socket in the abstract namespace
 *
 * In a socket's path, %XX stands for the byte XX (%3A for a colon). The path of the request goes
 * out as it is; without one, "/" is asked for.
 */
#ifndef LOAD_URL_H
#define LOAD_URL_H

#include <stdbool.h>
#include <stddef.h>

#define URL_MAX_HOST   255
#define URL_MAX_SOCKET 107

struct url {
	bool is_unix;
	char host[URL_MAX_HOST + 1]; /* without brackets */
	char port[6];
	char authority[URL_MAX_HOST + 16]; /* what the Host header says */
	/* As sockaddr_un wants it: an abstract name starts with a zero byte. */
	char socket[URL_MAX_SOCKET + 1];
	size_t socket_size;
	const char *path; /* points into the text that was parsed, or to "/" */
};

/**
 * url_parse - takes an address apart
 * @text:    lives as long as @ret_url
 * @ret_why: on failure a sentence for the user
 *
 * Returns: 0, or -EINVAL
 */
int url_parse(const char *text, struct url *ret_url, const char **ret_why);

#endif
