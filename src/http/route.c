/* SPDX-License-Identifier: MIT */
/*
 * Which handler answers a method and a path: see route.h.
 *
 * The list is kept in order of precedence, so the first route that matches is the one. Paths
 * come decoded, and a decoded path holds no slash that was hidden in an escape: what the
 * handler sees cannot mean another segment than what was matched.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guard.h"
#include "route.h"

static const char *segment_end(const char *at, const char *end)
{
	const char *slash = memchr(at, '/', end - at);

	return slash ? slash : end;
}

static bool add_param(struct sgh_match *match, const char *name, size_t name_len, const char *value,
                      size_t value_len)
{
	struct sgh_param *param = &match->param[match->params++];

	*param = (struct sgh_param){ name, name_len, value, value_len };
	return true;
}

/* Both begin with a slash. */
static bool match_segments(const struct sgh_route *route, const char *path, size_t path_len,
                           struct sgh_match *match)
{
	const char *at = path, *end = path + path_len;
	const char *wanted = route->pattern, *wanted_end = wanted + route->pattern_len;

	match->params = 0;
	for (;;) {
		const char *part, *part_end;

		if (route->prefix && wanted == wanted_end - 1)
			return add_param(match, "*", 1, at, end - at);
		if (wanted == wanted_end || at == end)
			return wanted == wanted_end && at == end;
		if (*wanted != *at)
			return false;
		if (*wanted != '/' || wanted[1] != ':') {
			wanted++;
			at++;
			continue;
		}
		part = ++at;
		part_end = segment_end(at, end);
		wanted += 2;
		if (part == part_end)
			return false;
		add_param(match, wanted, segment_end(wanted, wanted_end) - wanted, part,
		          part_end - part);
		wanted = segment_end(wanted, wanted_end);
		at = part_end;
	}
}

static bool match_path(const struct sgh_route *route, const char *path, size_t path_len,
                       struct sgh_match *match)
{
	if (!route->params && !route->prefix) {
		match->params = 0;
		return route->pattern_len == path_len && !memcmp(route->pattern, path, path_len);
	}
	return match_segments(route, path, path_len, match);
}

static bool method_is(const struct sgh_route *route, const char *method, size_t len)
{
	return route->method_len == len && !memcmp(route->method, method, len);
}

void sgh_route_find(const struct sgh_route *routes, const char *method, size_t method_len,
                    const char *path, size_t path_len, struct sgh_match *ret_match)
{
	bool head = method_len == 4 && !memcmp(method, "HEAD", 4);
	struct sgh_match stand_in = { 0 };

	ret_match->path_known = false;
	for (const struct sgh_route *route = routes; route; route = route->next) {
		if (!match_path(route, path, path_len, ret_match))
			continue;
		ret_match->path_known = true;
		ret_match->route = route;
		if (method_is(route, method, method_len))
			return;
		if (head && !stand_in.route && method_is(route, "GET", 3))
			stand_in = *ret_match;
	}
	stand_in.path_known = ret_match->path_known;
	*ret_match = stand_in;
}

/* Append a method unless it is there already. */
static void allow(char *text, size_t size, const char *method)
{
	size_t len = strlen(text), method_len = strlen(method);
	const char *at = text;

	for (; (at = strstr(at, method)); at += method_len)
		if ((at == text || at[-1] == ' ') && (!at[method_len] || at[method_len] == ','))
			return;
	if (len + method_len + 3 > size)
		return;
	if (len) {
		memcpy(text + len, ", ", 2);
		len += 2;
	}
	memcpy(text + len, method, method_len + 1);
}

void sgh_route_allow(const struct sgh_route *routes, const char *path, size_t path_len, char *text,
                     size_t size)
{
	struct sgh_match match;

	text[0] = '\0';
	for (const struct sgh_route *route = routes; route; route = route->next) {
		if (path && !match_path(route, path, path_len, &match))
			continue;
		allow(text, size, route->method);
		if (method_is(route, "GET", 3))
			allow(text, size, "HEAD");
	}
	allow(text, size, "OPTIONS");
}

/* Literal text, ":name" segments, and at most one asterisk as the last segment. */
static int check_pattern(struct sgh_route *route)
{
	const char *at = route->pattern, *end = at + route->pattern_len;

	if (*at != '/')
		return -EINVAL;
	for (; at < end; at++) {
		if ((unsigned char)*at <= ' ' || *at == 0x7f || *at == '?' || *at == '#')
			return -EINVAL;
		if (*at == '*') {
			if (at + 1 != end || at[-1] != '/')
				return -EINVAL;
			route->prefix = true;
			route->params++;
		}
		if (at[0] == '/' && at[1] == ':') {
			if (segment_end(at + 2, end) == at + 2)
				return -EINVAL;
			route->params++;
		}
	}
	return route->params > SEGUE_HTTP_PARAMS_MAX ? -EINVAL : 0;
}

/* Smaller goes first. */
static int precedence(const struct sgh_route *route)
{
	if (route->prefix)
		return 2;
	return route->params ? 1 : 0;
}

static bool goes_before(const struct sgh_route *a, const struct sgh_route *b)
{
	if (precedence(a) != precedence(b))
		return precedence(a) < precedence(b);
	return a->prefix && a->pattern_len > b->pattern_len;
}

static void route_free(struct sgh_route *route)
{
	if (!route)
		return;
	free(route->method);
	free(route->pattern);
	free(route);
}

static int insert(struct sgh_route **routes, struct sgh_route *route)
{
	struct sgh_route **at = routes;
	int r = check_pattern(route);

	if (r < 0)
		return r;
	for (struct sgh_route *other = *routes; other; other = other->next)
		if (!strcmp(other->method, route->method) &&
		    !strcmp(other->pattern, route->pattern))
			return -EEXIST;
	while (*at && !goes_before(route, *at))
		at = &(*at)->next;
	route->next = *at;
	*at = route;
	return 0;
}

int sgh_route_add(struct sgh_route **routes, const char *method, const char *pattern,
                  enum sgh_route_kind kind,
                  void (*handler)(struct segue_http_request *req, void *ctx), void *ctx)
{
	struct sgh_route *route;
	int r = -ENOMEM;

	if (!method || !pattern || !handler || !sgh_is_token(method, strlen(method)))
		return -EINVAL;
	route = calloc(1, sizeof(*route));
	if (!route)
		return -ENOMEM;
	route->method = strdup(method);
	route->pattern = strdup(pattern);
	route->kind = kind;
	route->handler = handler;
	route->ctx = ctx;
	if (route->method && route->pattern) {
		route->method_len = strlen(method);
		route->pattern_len = strlen(pattern);
		r = insert(routes, route);
	}
	if (r < 0)
		route_free(route);
	return r;
}

void sgh_routes_free(struct sgh_route *routes)
{
	while (routes) {
		struct sgh_route *next = routes->next;

		route_free(routes);
		routes = next;
	}
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* The byte of an escape, or -1 where it is none. */
static int escape(const char *at, const char *end)
{
	int high, low;

	if (end - at < 3 || *at != '%')
		return -1;
	high = hex_digit(at[1]);
	low = hex_digit(at[2]);
	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool has_dot_segment(const char *path, size_t len)
{
	const char *at = path, *end = path + len;

	while (at < end) {
		const char *stop;

		at++;
		stop = segment_end(at, end);
		if ((stop - at == 1 && *at == '.') || (stop - at == 2 && !memcmp(at, "..", 2)))
			return true;
		at = stop;
	}
	return false;
}

ssize_t sgh_path_decode(char *path, size_t len)
{
	const char *end = path + len;
	char *to = path;

	for (const char *at = path; at < end; at++) {
		int byte;

		if (*at != '%') {
			*to++ = *at;
			continue;
		}
		byte = escape(at, end);
		if (byte <= 0 || byte == '/')
			return -EINVAL;
		*to++ = byte;
		at += 2;
	}
	len = to - path;
	return has_dot_segment(path, len) ? -EINVAL : (ssize_t)len;
}

size_t sgh_query_decode(char *text, size_t len)
{
	const char *end = text + len;
	char *to = text;

	for (const char *at = text; at < end; at++) {
		int byte = escape(at, end);

		if (byte > 0) {
			*to++ = byte;
			at += 2;
		} else {
			*to++ = *at == '+' ? ' ' : *at;
		}
	}
	return to - text;
}
