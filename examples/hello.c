/* SPDX-License-Identifier: MIT */
/*
 * hello - the smallest service that replaces itself
 *
 *         $ ./hello --listen :9999 --pid-file hello.pid &
 *         $ kill -USR2 "$(cat hello.pid)"
 *
 * GET, HEAD and POST of /hello are answered by a greeting, at once or after as long as
 * "?delay=20s" or the option --delay says. The headers name the generation and pid that answered.
 */
#include <segue/http.h>
#include <stdio.h>
#include <unistd.h>

static int64_t delay_ms;
static char pid[16];

static void greet(struct segue_http_request *req, void *ctx)
{
	char generation[24];

	snprintf(generation, sizeof(generation), "%llu",
	         (unsigned long long)segue_http_generation(segue_http_server_of(req)));
	segue_http_add_header(req, "Segue-Generation", generation);
	segue_http_add_header(req, "Segue-Pid", pid);
	segue_http_reply(req, 200, "text/plain", "hello, world\n");
}

static void hello(struct segue_http_request *req, void *ctx)
{
	const char *asked = segue_http_query(req, "delay");
	int64_t ms = delay_ms;

	if (asked && segue_http_parse_duration(asked, &ms) < 0)
		segue_http_reply(req, 400, "text/plain", "delay: not a duration such as 20s\n");
	else if (ms == 0 || segue_http_after(req, ms, greet, NULL) < 0)
		greet(req, NULL);
}

static int set_delay(void *ctx, const char *value, char *reason, size_t reason_size)
{
	int r = segue_http_parse_duration(value, &delay_ms);

	if (r < 0)
		snprintf(reason, reason_size, "it is not a duration such as 500ms, 30s or 2m");
	return r;
}

int main(int argc, char **argv)
{
	struct segue_http_server *server = segue_http_server_new();

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	segue_http_route(server, "GET", "/hello", hello, NULL);
	segue_http_route(server, "POST", "/hello", hello, NULL);
	segue_http_option(server, "delay", "DURATION", "wait so long before each answer (0)",
	                  set_delay, NULL);
	return segue_http_main(server, argc, argv);
}
