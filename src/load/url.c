/* SPDX-License-Identifier: MIT */
/* Takes the target's address apart; see url.h for the grammar. Makes no system call. */
#include "url.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int refuse(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EINVAL;
}

/* The request line is made of it, so nothing may end that line or divide it. */
static bool path_is_clean(const char *path)
{
	for (; *path; path++) {
		unsigned char byte = (unsigned char)*path;

		if (byte <= ' ' || byte >= 0x7f || byte == '#')
			return false;
	}
	return true;
}

static int take_path(const char *path, struct url *url, const char **ret_why)
{
	if (*path == '\0')
		path = "/";
	if (*path != '/')
		return refuse(ret_why, "the path of the request must begin with '/'");
	if (!path_is_clean(path))
		return refuse(ret_why,
		              "the path of the request holds a blank, '#' or a byte outside ASCII");
	url->path = path;
	return 0;
}

static bool host_is_clean(const char *host, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)host[i];

		if (byte <= ' ' || byte >= 0x7f || strchr("@[]?#\\\"<>", byte))
			return false;
	}
	return size > 0 && size <= URL_MAX_HOST;
}

static int take_port(const char *text, size_t size, struct url *url, const char **ret_why)
{
	unsigned int port = 0;

	if (size == 0 || size > 5)
		return refuse(ret_why, "the port must be a number from 1 to 65535");
	for (size_t i = 0; i < size; i++) {
		if (text[i] < '0' || text[i] > '9')
			return refuse(ret_why, "the port must be a number from 1 to 65535");
		port = port * 10 + (unsigned int)(text[i] - '0');
	}
	if (port == 0 || port > 65535)
		return refuse(ret_why, "the port must be a number from 1 to 65535");
	memcpy(url->port, text, size);
	url->port[size] = '\0';
	return 0;
}

static int parse_tcp(const char *text, struct url *url, const char **ret_why)
{
	size_t size = strcspn(text, "/?#");
	const char *host = text, *end, *rest;
	int r;

	if (size + 1 > sizeof(url->authority))
		return refuse(ret_why, "the host is too long");
	memcpy(url->authority, text, size);
	if (*text == '[') {
		host = text + 1;
		end = memchr(host, ']', size - 1);
		if (!end)
			return refuse(ret_why, "the IPv6 address has no closing bracket");
		rest = end + 1;
	} else {
		end = memchr(text, ':', size);
		if (!end)
			end = text + size;
		rest = end;
	}
	if (!host_is_clean(host, (size_t)(end - host)))
		return refuse(ret_why, "the host is missing or malformed");
	memcpy(url->host, host, (size_t)(end - host));

	strcpy(url->port, "80");
	if (rest < text + size) {
		if (*rest != ':')
			return refuse(ret_why, "only a port may follow the host");
		rest++;
		r = take_port(rest, (size_t)(text + size - rest), url, ret_why);
		if (r < 0)
			return r;
	}
	return take_path(text + size, url, ret_why);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int take_socket(const char *text, size_t size, struct url *url, const char **ret_why)
{
	size_t used = 0;

	for (size_t i = 0; i < size; i++) {
		char byte = text[i];

		if (byte == '%') {
			int high = i + 2 < size ? hex_digit(text[i + 1]) : -1;
			int low = high >= 0 ? hex_digit(text[i + 2]) : -1;

			if (low < 0 || (high | low) == 0)
				return refuse(ret_why,
				              "'%' in the socket's path needs two hex digits");
			byte = (char)(high << 4 | low);
			i += 2;
		}
		if (used == URL_MAX_SOCKET)
			return refuse(ret_why, "the socket's path is longer than 107 bytes");
		url->socket[used++] = byte;
	}
	if (used < 2)
		return refuse(ret_why, "the socket's path is missing");
	if (url->socket[0] == '@')
		url->socket[0] = '\0';
	url->socket_size = used;
	return 0;
}

static int parse_unix(const char *text, struct url *url, const char **ret_why)
{
	const char *divider = strstr(text, ":/");
	size_t size = divider ? (size_t)(divider - text) : strlen(text);
	int r;

	url->is_unix = true;
	if (*text != '/' && *text != '@')
		return refuse(ret_why, "the socket is an absolute path, or '@' and a name");
	r = take_socket(text, size, url, ret_why);
	if (r < 0)
		return r;
	strcpy(url->authority, "localhost");
	return take_path(divider ? divider + 1 : "", url, ret_why);
}

int url_parse(const char *text, struct url *ret_url, const char **ret_why)
{
	struct url url = { 0 };
	int r;

	if (strncmp(text, "http://", 7) == 0)
		r = parse_tcp(text + 7, &url, ret_why);
	else if (strncmp(text, "http+unix://", 12) == 0)
		r = parse_unix(text + 12, &url, ret_why);
	else if (strncmp(text, "https:", 6) == 0)
		r = refuse(ret_why, "https is not supported");
	else
		r = refuse(ret_why, "an address begins with http:// or http+unix://");
	if (r < 0)
		return r;
	*ret_url = url;
	return 0;
}
