/* SPDX-License-Identifier: MIT */
/* Routes, decoding, durations, records and timers: the small pure parts of the HTTP module. */
#include "http/duration.h"
#include "http/record.h"
#include "http/route.h"
#include "http/timer.h"
#include "unit.h"

static void handler(struct segue_http_request *req, void *ctx)
{
}

static struct sgh_route *routes;

static void add(const char *method, const char *pattern)
{
	CHECK_INT(sgh_route_add(&routes, method, pattern, SGH_ROUTE_WHOLE, handler, NULL), 0);
}

static const char *found(const char *method, const char *path, struct sgh_match *match)
{
	sgh_route_find(routes, method, strlen(method), path, strlen(path), match);
	return match->route ? match->route->pattern : "-";
}

static void make_routes(void)
{
	add("GET", "/files/*");
	add("GET", "/:any");
	add("GET", "/files/deep/*");
	add("GET", "/files/exact");
	add("POST", "/files/exact");
	add("GET", "/user/:id/posts/:post");
}

UNIT_CASE(the_most_particular_route_wins)
{
	struct sgh_match match;

	make_routes();
	CHECK_STRING(found("GET", "/files/exact", &match), "/files/exact");
	CHECK_STRING(found("HEAD", "/files/exact", &match), "/files/exact");
	CHECK_STRING(found("GET", "/files/deep/x", &match), "/files/deep/*");
	CHECK_STRING(found("GET", "/files/other", &match), "/files/*");
	CHECK_STRING(found("GET", "/files", &match), "/:any");
	CHECK_STRING(found("PUT", "/files/exact", &match), "-");
	CHECK(match.path_known);
	CHECK_STRING(found("GET", "/", &match), "-");
	CHECK(!match.path_known);
	CHECK_STRING(found("GET", "/user/1/posts/2", &match), "/user/:id/posts/:post");
	CHECK_INT(match.params, 2);
	CHECK(!memcmp(match.param[1].name, "post", match.param[1].name_len));
	CHECK(!memcmp(match.param[1].value, "2", match.param[1].value_len));
	CHECK_STRING(found("GET", "/user/1/posts/", &match), "-");
	sgh_routes_free(routes);
}

UNIT_CASE(allow_names_each_method_once)
{
	char text[64];

	make_routes();
	sgh_route_allow(routes, "/files/exact", 12, text, sizeof(text));
	CHECK_STRING(text, "GET, HEAD, POST, OPTIONS");
	sgh_route_allow(routes, NULL, 0, text, 12);
	CHECK(strlen(text) < 12);
	sgh_routes_free(routes);
}

UNIT_CASE(a_malformed_or_repeated_pattern_is_refused)
{
	static const char *const bad[] = { "",     "x",    "/a*",
		                           "/*/a", "/:",   "/:/a",
		                           "/a b", "/a?b", "/:a/:b/:c/:d/:e/:f/:g/:h/:i" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK_INT(sgh_route_add(&routes, "GET", bad[i], SGH_ROUTE_WHOLE, handler, NULL),
		          -EINVAL);
	CHECK_INT(sgh_route_add(&routes, "G T", "/", SGH_ROUTE_WHOLE, handler, NULL), -EINVAL);
	add("GET", "/");
	CHECK_INT(sgh_route_add(&routes, "GET", "/", SGH_ROUTE_WHOLE, handler, NULL), -EEXIST);
	sgh_routes_free(routes);
}

static void check_decode(const char *path, const char *wanted)
{
	char text[64];
	ssize_t len;

	snprintf(text, sizeof(text), "%s", path);
	len = sgh_path_decode(text, strlen(text));
	if (!wanted) {
		CHECK_INT(len, -EINVAL);
		return;
	}
	CHECK_INT(len, strlen(wanted));
	CHECK(!memcmp(text, wanted, len));
}

UNIT_CASE(paths_are_decoded_once_and_cannot_climb)
{
	check_decode("/a%20b/%63", "/a b/c");
	check_decode("/%252e%252e/", "/%2e%2e/");
	check_decode("/...", "/...");
	check_decode("/.hidden", "/.hidden");
	check_decode("/a/..", NULL);
	check_decode("/./a", NULL);
	check_decode("/%2e%2e/a", NULL);
	check_decode("/a%2fb", NULL);
	check_decode("/a%00", NULL);
	check_decode("/a%", NULL);
	check_decode("/a%4", NULL);
	check_decode("/a%4g", NULL);
}

UNIT_CASE(queries_are_decoded_as_forms_are)
{
	char text[] = "a+b%3d%%41%zz%00";
	size_t len = sgh_query_decode(text, strlen(text));

	CHECK_INT(len, 12);
	CHECK(!memcmp(text, "a b=%A%zz%00", 12));
}

UNIT_CASE(durations_have_units)
{
	static const char *const bad[] = { "",   "1",  "s",  "1 s",  "-1s", "1.5s",
		                           "1d", "ms", "1S", "0x1s", "none" };
	int64_t ms = -1;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK_INT(sgh_duration_parse(bad[i], &ms), -EINVAL);
	CHECK_INT(ms, -1);
	CHECK(sgh_duration_parse("500ms", &ms) == 0 && ms == 500);
	CHECK(sgh_duration_parse("30s", &ms) == 0 && ms == 30000);
	CHECK(sgh_duration_parse("2m", &ms) == 0 && ms == 120000);
	CHECK(sgh_duration_parse("1h", &ms) == 0 && ms == 3600000);
	CHECK(sgh_duration_parse("0", &ms) == 0 && ms == 0);
	CHECK_INT(sgh_duration_parse("99999999999999999999999h", &ms), -ERANGE);
	CHECK_INT(sgh_duration_parse("3000000000000h", &ms), -ERANGE);
}

UNIT_CASE(a_record_is_read_as_it_was_written)
{
	struct sgh_record record = { true, 70000, 0x1122334455667788, 42 }, again;
	unsigned char bytes[SGH_RECORD_BYTES + 1] = { 0 };

	sgh_record_write(&record, bytes);
	CHECK_INT(sgh_record_read(&again, bytes, SGH_RECORD_BYTES), 0);
	CHECK(again.in_head && again.requests == 70000 && again.since_ms == 42);
	CHECK(again.deadline_ms == record.deadline_ms && bytes[8] == 0x88);
	CHECK_INT(sgh_record_read(&again, bytes, SGH_RECORD_BYTES + 1), 0);
	CHECK_INT(sgh_record_read(&again, bytes, SGH_RECORD_BYTES - 1), -EBADMSG);
	bytes[0] = 2;
	CHECK_INT(sgh_record_read(&again, bytes, SGH_RECORD_BYTES), -EBADMSG);
}

UNIT_CASE(timers_come_in_order_however_they_are_moved)
{
	struct sgh_timers timers = { 0 };
	struct sgh_timer timer[500];
	uint64_t last = 0;
	unsigned int seed = 1, count = 0;
	struct sgh_timer *due;

	for (size_t i = 0; i < 500; i++) {
		sgh_timer_init(&timer[i], NULL);
		CHECK_INT(sgh_timer_set(&timers, &timer[i], rand_r(&seed) % 1000), 0);
	}
	for (size_t i = 0; i < 500; i += 2)
		CHECK_INT(sgh_timer_set(&timers, &timer[i], rand_r(&seed) % 1000), 0);
	for (size_t i = 0; i < 500; i += 5)
		sgh_timer_stop(&timers, &timer[i]);
	sgh_timer_stop(&timers, &timer[0]);
	while ((due = sgh_timer_due(&timers, 998))) {
		CHECK(due->at_ms >= last && due->at_ms <= 998);
		CHECK(due->index == SGH_TIMER_OFF && (due - timer) % 5);
		last = due->at_ms;
		count++;
	}
	while (sgh_timer_due(&timers, 1000))
		count++;
	CHECK_INT(count, 400);
	sgh_timers_done(&timers);
}

UNIT_MAIN
