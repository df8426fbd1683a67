/* SPDX-License-Identifier: MIT */
/* Formats requests; see plan.h. */
#include "plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A body in which a shifted or repeated piece shows. */
static char *make_body(size_t size)
{
	char *body = malloc(size + 1);

	if (!body)
		return NULL;
	for (size_t i = 0; i < size; i++)
		body[i] = (char)('a' + (i + i / 26) % 26);
	body[size] = '\0';
	return body;
}

static bool has_header(const struct options *options, const char *name)
{
	size_t size = strlen(name);

	for (size_t i = 0; i < options->headers_count; i++) {
		const char *header = options->headers[i];

		if (strncasecmp(header, name, size) == 0 && header[size] == ':')
			return true;
	}
	return false;
}

static void print_request(FILE *out, const struct plan *plan, const struct options *options)
{
	bool is_post = plan->shape == SHAPE_POST;

	fprintf(out, "%s %s HTTP/1.1\r\n", is_post ? "POST" : options->method, options->url.path);
	if (!has_header(options, "Host"))
		fprintf(out, "Host: %s\r\n", options->url.authority);
	for (size_t i = 0; i < options->headers_count; i++)
		fprintf(out, "%s\r\n", options->headers[i]);
	if (plan->closes)
		fputs("Connection: close\r\n", out);
	if (is_post)
		fprintf(out, "Content-Length: %zu\r\n", (size_t)options->body_size);
	fputs("\r\n", out);
	if (is_post)
		fwrite(plan->body, 1, options->body_size, out);
}

static int format(struct plan *plan, const struct options *options)
{
	char *bytes = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&bytes, &size);

	if (!out)
		return -ENOMEM;
	for (unsigned int i = 0; i < plan->depth; i++)
		print_request(out, plan, options);
	if (fclose(out) != 0) {
		free(bytes);
		return -ENOMEM;
	}
	plan->bytes = bytes;
	/* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a depth is 1 at least. */
	plan->request_size = size / plan->depth;
	/* Within the Host header or thereabouts, and never behind the head of a POST. */
	plan->half_size = strlen(options->url.path) + strlen(options->method) + 14;
	return 0;
}

static void expect(struct plan *plan, const struct options *options)
{
	plan->rules.is_head = plan->shape != SHAPE_POST && strcmp(options->method, "HEAD") == 0;
	plan->rules.count_name = options->generation_header;
	if (options->generation_pattern)
		plan->rules.pattern = &options->pattern;
	if (plan->shape == SHAPE_POST && options->echo) {
		plan->rules.expected = plan->body;
		plan->rules.expected_size = options->body_size;
	} else if (options->expect) {
		plan->rules.expected = options->expect;
		plan->rules.expected_size = strlen(options->expect);
	}
}

int plan_init(struct plan *plan, enum shape shape, const struct options *options)
{
	*plan = (struct plan){
		.shape = shape,
		.depth = shape == SHAPE_PIPELINE ? (unsigned int)options->depth : 1,
		.closes = shape == SHAPE_NEW,
	};
	if (shape == SHAPE_IDLE)
		plan->think_ns = options->idle_think_ns;
	if (shape == SHAPE_HALF)
		plan->think_ns = options->half_think_ns;
	if (shape == SHAPE_SLOW)
		plan->read_bytes =
			(size_t)(options->slow_bytes + PLAN_SLOW_TICKS - 1) / PLAN_SLOW_TICKS;
	if (shape == SHAPE_POST) {
		plan->body = make_body(options->body_size);
		if (!plan->body)
			return -ENOMEM;
	}
	expect(plan, options);
	return format(plan, options);
}

void plan_done(struct plan *plan)
{
	free(plan->bytes);
	free(plan->body);
	*plan = (struct plan){ 0 };
}
