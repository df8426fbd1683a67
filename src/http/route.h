/* SPDX-License-Identifier: MIT */
/* Which handler answers a method and a path. Makes no system call. */
#ifndef SGH_ROUTE_H
#define SGH_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

#include <segue/http.h>

enum sgh_route_kind {
	SGH_ROUTE_WHOLE,     /* the body is read before the handler is called */
	SGH_ROUTE_BLOCKING,  /* the same, on the pool */
	SGH_ROUTE_STREAMING, /* the handler takes the body piece by piece */
};

struct sgh_route {
	struct sgh_route *next;
	char *method;
	char *pattern;
	size_t method_len;
	size_t pattern_len;
	unsigned int params;
	bool prefix; /* ends with the asterisk */
	enum sgh_route_kind kind;
	void (*handler)(struct segue_http_request *req, void *ctx);
	void *ctx;
};

/* A part of the path that the pattern names. The name is a part of the pattern. */
struct sgh_param {
	const char *name;
	size_t name_len;
	const char *value;
	size_t value_len;
};

struct sgh_match {
	const struct sgh_route *route; /* NULL: none has path and method */
	bool path_known;               /* some route has the path */
	unsigned int params;
	struct sgh_param param[SEGUE_HTTP_PARAMS_MAX];
};

/* Add a route to a list in order of precedence. -EINVAL, -EEXIST, -ENOMEM. */
int sgh_route_add(struct sgh_route **routes, const char *method, const char *pattern,
                  enum sgh_route_kind kind,
                  void (*handler)(struct segue_http_request *req, void *ctx), void *ctx);

void sgh_routes_free(struct sgh_route *routes);

/* Find the route; @path is decoded. GET stands in for HEAD. */
void sgh_route_find(const struct sgh_route *routes, const char *method, size_t method_len,
                    const char *path, size_t path_len, struct sgh_match *ret_match);

/* The methods that a path has (NULL: any path), as the value of Allow; cut off at @size. */
void sgh_route_allow(const struct sgh_route *routes, const char *path, size_t path_len, char *text,
                     size_t size);

/*
 * Decode percent escapes in place and return the length; @plus makes "+" a space, as in
 * queries. For paths: -EINVAL where an escape is malformed or hides a slash or NUL, or where
 * a segment is "." or "..".
 */
ssize_t sgh_path_decode(char *path, size_t len);
size_t sgh_query_decode(char *text, size_t len);

#endif
