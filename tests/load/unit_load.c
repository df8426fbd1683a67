/* SPDX-License-Identifier: MIT */
/* The pure parts of segue-load: answers, addresses, histogram, timers, counting, options. */
#include "unit.h"

#include "load/clock.h"
#include "load/excerpt.h"
#include "load/histogram.h"
#include "load/html.h"
#include "load/options.h"
#include "load/plan.h"
#include "load/response.h"
#include "load/tally.h"
#include "load/timeline.h"
#include "load/timers.h"
#include "load/url.h"
#include "load/window.h"

/* Feeds a text in pieces of @step bytes, then the end; the result of the last call. */
static int feed(struct response *response, const char *text, size_t size, size_t step, size_t *used)
{
	*used = 0;
	while (*used < size) {
		size_t piece = size - *used < step ? size - *used : step, taken = 0;
		int r = response_feed(response, text + *used, piece, &taken);

		if (r < 0)
			return r;
		*used += taken;
		if (r > 0)
			return r;
		CHECK_INT(taken, piece);
	}
	return 0;
}

static const struct response_rules no_rules = { .count_name = "generation" };
static const struct response_rules head_rules = { .is_head = true };

struct answer {
	const char *text;
	int result;       /* of response_feed() */
	int end;          /* of response_end() where the result is 0 */
	const char *rest; /* what belongs to the next answer */
};

/* However an answer is cut, it is read the same. */
static void check_answer(const struct answer *answer, const struct response_rules *rules)
{
	size_t size = strlen(answer->text);

	for (size_t step = 1; step <= size; step++) {
		struct response response;
		size_t used;
		int r;

		response_init(&response, rules);
		r = feed(&response, answer->text, size, step, &used);
		if (r != answer->result)
			UNIT_FAIL("in steps of %zu: %d (%s) for %s", step, r,
			          response.why ? response.why : "", answer->text);
		if (r == 0)
			CHECK_INT(response_end(&response), answer->end);
		if (r > 0 && step == size)
			CHECK_STRING(answer->text + used, answer->rest ? answer->rest : "");
		if (r < 0)
			CHECK(response.why);
		response_done(&response);
	}
}

#define HEAD "HTTP/1.1 200 OK\r\n"

UNIT_CASE(a_whole_answer_is_complete_however_it_is_cut)
{
	static const struct answer answers[] = {
		{ HEAD "Content-Length: 5\r\n\r\nhello", 1, 0, "" },
		{ HEAD "Content-Length: 5\r\n\r\nhelloHTTP", 1, 0, "HTTP" },
		{ HEAD "Content-Length: 0\r\n\r\n", 1, 0, "" },
		{ HEAD "content-LENGTH:5  \r\nX:\r\n\r\nhello", 1, 0, "" },
		{ "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 1, 0, "" },
		{ "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 1, 0, "" },
		{ "HTTP/1.1 204 No Content\r\n\r\n", 1, 0, "" },
		{ "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 1, 0, "" },
		{ "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" HEAD
		  "Content-Length: 1\r\n\r\nx",
		  1, 0, "" },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1, 0, "" },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n"
		       "2;a=b\r\nhe\r\n003 ;c\r\nllo\r\n0\r\nT: x\r\n\r\nHTTP",
		  1, 0, "HTTP" },
		{ HEAD "\r\nuntil the end", 0, 1, NULL },
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		check_answer(&answers[i], &no_rules);
}

UNIT_CASE(the_answer_to_a_head_request_has_no_body)
{
	static const struct answer answer = { HEAD "Content-Length: 5\r\n\r\nHTTP", 1, 0, "HTTP" };

	check_answer(&answer, &head_rules);
}

UNIT_CASE(an_answer_that_ends_early_is_truncated)
{
	static const struct answer answers[] = {
		{ "H", 0, -EPIPE, NULL },
		{ "HTTP/1.1 20", 0, -EPIPE, NULL },
		{ HEAD "Content-Length: 5\r\n", 0, -EPIPE, NULL },
		{ HEAD "Content-Length: 5\r\n\r\nhell", 0, -EPIPE, NULL },
		{ "HTTP/1.1 100 Continue\r\n\r\n", 0, -EPIPE, NULL },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", 0, -EPIPE, NULL },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", 0, -EPIPE, NULL },
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		check_answer(&answers[i], &no_rules);
}

UNIT_CASE(what_rfc_9112_forbids_is_malformed)
{
	static const char *const texts[] = {
		"SSH-2.0-x",
		"HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.x 200 OK\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/1.1 099 No\r\n\r\n",
		"HTTP/1.1 600 No\r\n\r\n",
		"HTTP/1.1 200\r\n\r\n",
		"HTTP/1.1 2000 OK\r\n\r\n",
		"HTTP/1.1 200 O\x01K\r\n\r\n",
		"HTTP/1.1 200 OK\n\n",
		HEAD "A: b\n\r\n",
		HEAD "A: b\rc\r\n\r\n",
		HEAD " folded\r\n\r\n",
		HEAD "A: b\r\n\tfolded\r\n\r\n",
		HEAD "No colon\r\n\r\n",
		HEAD ": x\r\n\r\n",
		HEAD "A : b\r\n\r\n",
		HEAD "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		HEAD "Content-Length: 5, 5\r\n\r\nhello",
		HEAD "Content-Length: +5\r\n\r\nhello",
		HEAD "Content-Length: \r\n\r\n",
		HEAD "Content-Length: 99999999999999999999\r\n\r\n",
		HEAD "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n",
		HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching\r\n\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\nx\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n5\nhello",
		HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
		HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\rX",
		HEAD "Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n",
		HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		check_answer(&(struct answer){ texts[i], -EBADMSG, 0, NULL }, &no_rules);
}

UNIT_CASE(what_has_no_end_is_malformed_at_a_bound)
{
	static const char *const begins[] = {
		HEAD "A: ",
		HEAD "Transfer-Encoding: chunked\r\n\r\n1;",
		HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nA: ",
	};

	for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
		struct response response;
		char more[1000];
		size_t used, rounds = 0;

		memset(more, 'x', sizeof(more));
		response_init(&response, &no_rules);
		CHECK_INT(feed(&response, begins[i], strlen(begins[i]), 100, &used), 0);
		while (response_feed(&response, more, sizeof(more), &used) == 0)
			CHECK(rounds++ < 100);
		response_done(&response);
	}
}

static int read_one(struct response *response, const char *text)
{
	size_t used;

	response_next(response);
	return response_feed(response, text, strlen(text), &used);
}

UNIT_CASE(a_closing_answer_is_known_as_such)
{
	static const struct {
		const char *text;
		bool close;
	} answers[] = {
		{ HEAD "Content-Length: 0\r\n\r\n", false },
		{ HEAD "Content-Length: 0\r\nConnection: close\r\n\r\n", true },
		{ HEAD "Content-Length: 0\r\nConnection: a, Close ,b\r\n\r\n", true },
		{ HEAD "Content-Length: 0\r\nConnection: closed\r\n\r\n", false },
		{ "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true },
		{ "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", false },
	};
	struct response response;

	response_init(&response, &no_rules);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		CHECK_INT(read_one(&response, answers[i].text), 1);
		CHECK_INT(response.close, answers[i].close);
	}
	response_done(&response);
}

UNIT_CASE(the_counted_header_is_the_one_of_the_last_answer)
{
	struct response response;

	response_init(&response, &no_rules);
	CHECK_INT(read_one(&response, HEAD "Generation:  17 \r\nContent-Length: 0\r\n\r\n"), 1);
	CHECK(response.has_counted);
	CHECK_INT(response.counted_size, 2);
	CHECK(memcmp(response.counted, "17", 2) == 0);
	CHECK_INT(read_one(&response, HEAD "Content-Length: 0\r\n\r\n"), 1);
	CHECK(!response.has_counted);
	response_done(&response);
}

UNIT_CASE(a_body_is_compared_with_the_expected_one)
{
	static const struct response_rules rules = { .expected = "hello", .expected_size = 5 };
	static const struct {
		const char *text;
		bool is_wrong;
	} answers[] = {
		{ HEAD "Content-Length: 5\r\n\r\nhello", false },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
		  false },
		{ HEAD "Content-Length: 5\r\n\r\nhellO", true },
		{ HEAD "Content-Length: 4\r\n\r\nhell", true },
		{ HEAD "Content-Length: 6\r\n\r\nhello!", true },
		{ HEAD "Content-Length: 0\r\n\r\n", true },
		{ HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n5\r\nhello\r\n0\r\n\r\n",
		  true },
		{ "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", false },
	};
	struct response response;

	response_init(&response, &rules);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		CHECK_INT(read_one(&response, answers[i].text), 1);
		if (response.is_wrong != answers[i].is_wrong)
			UNIT_FAIL("%d for %s", response.is_wrong, answers[i].text);
	}
	response_done(&response);
}

UNIT_CASE(an_address_is_taken_apart)
{
	static const struct {
		const char *text, *host, *port, *authority, *path;
	} addresses[] = {
		{ "http://host", "host", "80", "host", "/" },
		{ "http://host/", "host", "80", "host", "/" },
		{ "http://127.0.0.1:8080/a?b=c:/d", "127.0.0.1", "8080", "127.0.0.1:8080",
		  "/a?b=c:/d" },
		{ "http://[::1]:1/x", "::1", "1", "[::1]:1", "/x" },
		{ "http://[fe80::1%25lo]", "fe80::1%25lo", "80", "[fe80::1%25lo]", "/" },
	};

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		struct url url;
		const char *why;

		CHECK_INT(url_parse(addresses[i].text, &url, &why), 0);
		CHECK(!url.is_unix);
		CHECK_STRING(url.host, addresses[i].host);
		CHECK_STRING(url.port, addresses[i].port);
		CHECK_STRING(url.authority, addresses[i].authority);
		CHECK_STRING(url.path, addresses[i].path);
	}
}

UNIT_CASE(a_unix_address_is_taken_apart)
{
	struct url url;
	const char *why;

	CHECK_INT(url_parse("http+unix:///run/a.sock:/x/:/y", &url, &why), 0);
	CHECK(url.is_unix);
	CHECK_STRING(url.socket, "/run/a.sock");
	CHECK_INT(url.socket_size, 11);
	CHECK_STRING(url.path, "/x/:/y");
	CHECK_INT(url_parse("http+unix:///run/a%3A%2fb", &url, &why), 0);
	CHECK_STRING(url.socket, "/run/a:/b");
	CHECK_STRING(url.path, "/");
	CHECK_INT(url_parse("http+unix://@name:/", &url, &why), 0);
	CHECK_INT(url.socket_size, 5);
	CHECK(memcmp(url.socket, "\0name", 5) == 0);
}

UNIT_CASE(an_address_that_is_none_is_refused_with_a_reason)
{
	static const char *const texts[] = {
		"",
		"host:80",
		"https://host/",
		"http://",
		"http:///path",
		"http://:80/",
		"http://host:/",
		"http://host:0/",
		"http://host:65536/",
		"http://host:8o/",
		"http://user@host/",
		"http://[::1/",
		"http://[::1]x/",
		"http://[]/",
		"http://host?x",
		"http://host/a b",
		"http://host/a#b",
		"http://host/a\r\nX: y",
		"http+unix://relative:/",
		"http+unix://",
		"http+unix:///",
		"http+unix:///a%00b",
		"http+unix:///a%4",
		"http+unix:///a%zz",
	};
	char longer[400] = "http+unix:///";

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct url url;
		const char *why = NULL;

		if (url_parse(texts[i], &url, &why) != -EINVAL || !why)
			UNIT_FAIL("'%s' is not refused", texts[i]);
	}
	memset(longer + 13, 'x', 300);
	CHECK_INT(url_parse(longer, &(struct url){ 0 }, &(const char *){ NULL }), -EINVAL);
	memcpy(longer, "http://host.x", 13);
	CHECK_INT(url_parse(longer, &(struct url){ 0 }, &(const char *){ NULL }), -EINVAL);
}

UNIT_CASE(a_histogram_knows_its_percentiles_to_two_per_cent)
{
	static struct histogram histogram;

	for (uint64_t value = 1; value <= 100000; value++)
		histogram_add(&histogram, value * 1000);
	for (unsigned int share = 1; share < 100000; share += 7) {
		uint64_t exact = (uint64_t)share * 1000;
		uint64_t found = histogram_at(&histogram, share);

		if (found < exact || found > exact + exact / 50 + 1000)
			UNIT_FAIL("%llu for %llu", (unsigned long long)found,
			          (unsigned long long)exact);
	}
	CHECK_INT(histogram_at(&histogram, 100000), 100000000);
	CHECK_INT(histogram.max, 100000000);
	CHECK_INT(histogram_mean(&histogram), 50000500);
}

UNIT_CASE(a_histogram_takes_every_value)
{
	static struct histogram histogram, sum;

	CHECK_INT(histogram_at(&histogram, 50000), 0);
	CHECK_INT(histogram_mean(&histogram), 0);
	for (unsigned int bit = 0; bit < 64; bit++) {
		histogram_add(&histogram, UINT64_C(1) << bit);
		histogram_add(&histogram, (UINT64_C(1) << bit) - 1);
	}
	CHECK_INT(histogram.count, 128);
	CHECK_INT(histogram_at(&histogram, 1), 0);
	CHECK(histogram_at(&histogram, 100000) == UINT64_C(1) << 63);
	histogram_merge(&sum, &histogram);
	histogram_merge(&sum, &histogram);
	CHECK_INT(sum.count, 256);
	CHECK(sum.max == histogram.max);
}

UNIT_CASE(a_timeline_has_a_step_for_every_100_ms)
{
	struct timeline timeline;

	CHECK_INT(timeline_init(&timeline), 0);
	timeline.start_ns = 7 * NS_PER_S;
	timeline_outcome(&timeline, 7 * NS_PER_S, OUTCOME_OK);
	timeline_outcome(&timeline, 7 * NS_PER_S + 100 * NS_PER_MS - 1, OUTCOME_REFUSED);
	timeline_outcome(&timeline, 7 * NS_PER_S + 100 * NS_PER_MS, OUTCOME_OWN_LIMIT);
	timeline_close(&timeline, 7 * NS_PER_S + 350 * NS_PER_MS, CLOSE_UNANNOUNCED);
	CHECK_INT(timeline.count, 4);
	timeline_extend(&timeline, 7 * NS_PER_S + 400 * NS_PER_MS);
	CHECK_INT(timeline.count, 4);
	timeline_extend(&timeline, 7 * NS_PER_S + 401 * NS_PER_MS);
	CHECK_INT(timeline.count, 5);
	CHECK_INT(timeline.steps[0].outcomes[OUTCOME_OK], 1);
	CHECK_INT(timeline_lost(&timeline.steps[0]), 1);
	CHECK_INT(timeline_lost(&timeline.steps[1]), 0);
	CHECK_INT(timeline.steps[3].closes[CLOSE_UNANNOUNCED], 1);
	CHECK_INT(timeline_latency(&timeline.steps[3], 50000), 0);
	timeline_done(&timeline);
}

UNIT_CASE(a_step_knows_its_percentiles_to_four_per_cent)
{
	struct timeline timeline;

	CHECK_INT(timeline_init(&timeline), 0);
	for (uint64_t value = 1; value <= 20000; value++)
		timeline_answer(&timeline, 5, value * 10 * NS_PER_US);
	for (unsigned int share = 100; share <= 100000; share += 100) {
		uint64_t exact = (uint64_t)share * 2 * NS_PER_US;
		uint64_t found = timeline_latency(&timeline.steps[0], share);

		if (found < exact || found > exact + exact / 25 + 1)
			UNIT_FAIL("%llu for %llu", (unsigned long long)found,
			          (unsigned long long)exact);
	}
	for (unsigned int bit = 0; bit < 64; bit++)
		timeline_answer(&timeline, 5, UINT64_C(1) << bit);
	CHECK(timeline_latency(&timeline.steps[0], 100000) == UINT64_C(1) << 63);
	timeline_done(&timeline);
}

UNIT_CASE(the_steps_of_a_long_run_are_wider_and_lose_nothing)
{
	struct timeline timeline;
	uint64_t sums[3] = { 0 };

	CHECK_INT(timeline_init(&timeline), 0);
	/* Three answers a second, one of them slow, for an hour. */
	for (uint64_t s = 0; s < 3600; s++) {
		for (uint64_t i = 0; i < 3; i++) {
			uint64_t at_ns = s * NS_PER_S + i * 300 * NS_PER_MS;

			timeline_outcome(&timeline, at_ns, i ? OUTCOME_OK : OUTCOME_TIMEOUT);
			timeline_answer(&timeline, at_ns, (i ? 1 : 1000) * NS_PER_MS);
		}
		timeline_close(&timeline, s * NS_PER_S, CLOSE_ANNOUNCED);
	}
	CHECK_INT(timeline.width_ns, 1600 * NS_PER_MS);
	CHECK_INT(timeline.count, 2250);
	for (size_t i = 0; i < timeline.count; i++) {
		sums[0] += timeline.steps[i].outcomes[OUTCOME_OK];
		sums[1] += timeline.steps[i].answers;
		sums[2] += timeline.steps[i].closes[CLOSE_ANNOUNCED];
		CHECK(timeline.steps[i].max_ns == NS_PER_S);
		CHECK(timeline_latency(&timeline.steps[i], 50000) < 2 * NS_PER_MS);
	}
	CHECK_INT(sums[0], 7200);
	CHECK_INT(sums[1], 10800);
	CHECK_INT(sums[2], 3600);
	timeline_done(&timeline);
}

UNIT_CASE(a_window_knows_its_longest_pause_and_nothing_behind_its_end)
{
	struct window window;

	window_begin(&window, 100);
	window_outcome(&window, OUTCOME_REFUSED, 130);
	window_outcome(&window, OUTCOME_OK, 150);
	window_outcome(&window, OUTCOME_OK, 160);
	window_outcome(&window, OUTCOME_STATUS_5XX, 200);
	window_outcome(&window, OUTCOME_OK, 240);
	CHECK_INT(window.pause_ns, 80);
	CHECK_INT(window.pause_at_ns, 240);
	window_end(&window, 300);
	window_outcome(&window, OUTCOME_OK, 900);
	window_outcome(&window, OUTCOME_ABANDONED, 900);
	window.closes[CLOSE_ANNOUNCED] = 5;
	window.closes[CLOSE_UNSOLICITED] = 2;
	CHECK_INT(window.pause_ns, 80);
	CHECK_INT(window_requests(&window), 7);
	CHECK_INT(window_lost(&window), 2);
	CHECK_INT(window_closed(&window), 2);
	CHECK_INT(window_closed_idle(&window), 7);
	window_generation(&window, "7", 250);
	window_generation(&window, "8", 260);
	CHECK_INT(window.generation_ns, 250);
	CHECK_STRING(window.generation, "7");
}

UNIT_CASE(a_pause_that_goes_on_belongs_to_each_window_with_its_own_part)
{
	struct window window;

	window_begin(&window, 100);
	window_outcome(&window, OUTCOME_OK, 110);
	window_end(&window, 200);
	CHECK_INT(window.pause_ns, 90);
	window_begin(&window, 200);
	window_outcome(&window, OUTCOME_OK, 230);
	window_end(&window, 240);
	CHECK_INT(window.pause_ns, 30);
}

/* What a pattern finds in an answer, fed byte by byte: 1 group, or the whole. */
static void check_pattern(const char *pattern, const char *text, size_t size, const char *expected)
{
	struct response_rules rules = { 0 };
	struct response response;
	regex_t regex;
	size_t used;

	CHECK_INT(regcomp(&regex, pattern, REG_EXTENDED | REG_NEWLINE), 0);
	rules.pattern = &regex;
	response_init(&response, &rules);
	for (int round = 0; round < 2; round++) {
		CHECK_INT(feed(&response, text, size, 1, &used), 1);
		CHECK_INT(response.has_counted, expected != NULL);
		if (expected) {
			CHECK_INT(response.counted_size, strlen(expected));
			CHECK(memcmp(response.counted, expected, strlen(expected)) == 0);
		}
		response_next(&response);
	}
	response_done(&response);
	regfree(&regex);
}

UNIT_CASE(a_pattern_is_looked_for_in_head_and_body)
{
	static const char chunked[] = HEAD
		"X: y7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nver\0s\r\n4\r\nion9\r\n0\r\n\r\n";
	size_t size = sizeof(chunked) - 1;

	check_pattern("sion([0-9])", chunked, size, "9");
	check_pattern("sion[0-9]", chunked, size, "sion9");
	check_pattern("^X: (.)", chunked, size, "y");
	check_pattern("sion([a-z])", chunked, size, NULL);
	check_pattern("ion9|(none)", chunked, size, NULL);
}

UNIT_CASE(an_excerpt_has_a_bound)
{
	static char data[EXCERPT_MAX_BYTES];
	struct excerpt excerpt = { 0 };
	regex_t regex;
	const char *text;
	size_t size;

	CHECK_INT(regcomp(&regex, "b", REG_EXTENDED), 0);
	CHECK(!excerpt_find(&excerpt, &regex, &text, &size));
	memset(data, 'a', sizeof(data));
	for (int i = 0; i < 3; i++)
		CHECK_INT(excerpt_add(&excerpt, data, sizeof(data) - 1), 0);
	CHECK_INT(excerpt_add(&excerpt, "b", 1), 0);
	CHECK_INT(excerpt.size, EXCERPT_MAX_BYTES);
	CHECK(!excerpt_find(&excerpt, &regex, &text, &size));
	excerpt_clear(&excerpt);
	CHECK_INT(excerpt_add(&excerpt, "ab", 2), 0);
	CHECK(excerpt_find(&excerpt, &regex, &text, &size));
	CHECK_INT(size, 1);
	excerpt_done(&excerpt);
	regfree(&regex);
}

UNIT_CASE(text_stays_text_in_html)
{
	static const struct {
		const char *text, *expected;
	} texts[] = {
		{ "a & b < c > d \" e ' f", "a &amp; b &lt; c &gt; d &quot; e &#39; f" },
		{ "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x8e\xb5",
		  "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x8e\xb5" },
		{ "a\x01\x1b\x7f\tb\n", "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\tb\n" },
		/* Overlong, a surrogate, too large, cut, a lone continuation. */
		{ "\xc0\xbc", "\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xe0\x80\xbc.", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd." },
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xc3<", "\xef\xbf\xbd&lt;" },
		{ "\x80", "\xef\xbf\xbd" },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *out = NULL;
		size_t size = 0;
		FILE *file = open_memstream(&out, &size);

		html_text(file, texts[i].text);
		fclose(file);
		CHECK_STRING(out, texts[i].expected);
		free(out);
	}
}

/* Timers are set, moved and cleared at random; a plain array says what is right. */
UNIT_CASE(timers_come_up_when_they_are_due_and_in_order)
{
	enum { COUNT = 200 };
	static struct timer all[COUNT];
	uint64_t due[COUNT] = { 0 }, now = 1;
	struct timers timers;

	srandom(1);
	CHECK_INT(timers_init(&timers, COUNT), 0);
	for (int round = 0; round < 20000; round++) {
		int which = (int)(random() % COUNT);
		struct timer *timer;

		due[which] = random() % 4 ? now + 1 + (uint64_t)random() % 1000 : 0;
		timers_set(&timers, &all[which], due[which]);
		now += (uint64_t)random() % 10;
		for (int i = 0; i < COUNT; i++)
			CHECK(!due[i] || timers_next(&timers) <= due[i]);
		while ((timer = timers_take(&timers, now))) {
			CHECK(due[timer - all] && due[timer - all] <= now);
			due[timer - all] = 0;
		}
		for (int i = 0; i < COUNT; i++)
			CHECK(!due[i] || due[i] > now);
	}
	timers_done(&timers);
}

UNIT_CASE(header_values_are_counted_one_by_one)
{
	struct tally tally;
	uint32_t at = 0;
	char text[16];

	CHECK_INT(tally_init(&tally), 0);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 10000; i++) {
			snprintf(text, sizeof(text), "%d", i);
			at = tally_value(&tally, text, strlen(text), at, 7);
			CHECK(at);
			CHECK_STRING(tally.values[at - 1].text, text);
		}
	}
	CHECK_INT(tally.values_count, 10000);
	for (int i = 0; i < 10000; i++)
		CHECK_INT(tally.values[i].count, 3);
	for (int i = 0; i < TALLY_MAX_VALUES; i++) {
		snprintf(text, sizeof(text), "x%d", i);
		tally_value(&tally, text, strlen(text), 0, 7);
	}
	CHECK_INT(tally.values_count + tally.value_other, 10000 + TALLY_MAX_VALUES);
	tally_done(&tally);
}

static int parse(struct options *options, struct options_error *error, const char *words)
{
	static char text[512];
	char *argv[24] = { text };
	int argc = 1;

	snprintf(text, sizeof(text), "%s", words);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	error->text[0] = '\0';
	return options_parse(argc, argv, options, error);
}

UNIT_CASE(options_are_read)
{
	struct options_error error;
	struct options options;

	CHECK_INT(parse(&options, &error,
	                "--pipeline 4:16 --idle=10:1500ms --slow 2:99 --rate 50 --duration 2m "
	                "--header A:b --expect= --json http://h/"),
	          0);
	CHECK_INT(options.connections[SHAPE_PIPELINE], 4);
	CHECK_INT(options.depth, 16);
	CHECK_INT(options.connections[SHAPE_IDLE], 10);
	CHECK_INT(options.idle_think_ns, 1500 * NS_PER_MS);
	CHECK_INT(options.slow_bytes, 99);
	CHECK_INT(options.duration_ns, 120 * NS_PER_S);
	CHECK_INT(options.headers_count, 1);
	CHECK_STRING(options.expect, "");
	CHECK(options.json);
	CHECK_INT(options_total(&options), 16);
	CHECK_INT(parse(&options, &error, "http://h/"), 0);
	CHECK_INT(options.connections[SHAPE_KEEPALIVE], 1);
	CHECK_INT(options.duration_ns, 10 * NS_PER_S);
	CHECK_INT(parse(&options, &error, "--requests 5 http://h/"), 0);
	CHECK_INT(options.duration_ns, 0);
}

UNIT_CASE(restarts_have_defaults_and_say_how_long_the_load_lasts)
{
	struct options_error error;
	struct options options;

	CHECK_INT(parse(&options, &error, "--restart true http://h/"), 0);
	CHECK_INT(options.every_ns, 2 * NS_PER_S);
	CHECK_INT(options.count, 10);
	CHECK_INT(options.restart_timeout_ns, 60 * NS_PER_S);
	CHECK_INT(options.duration_ns, 0);
	CHECK_INT(options.requests, 0);
	CHECK_STRING(options.generation_header, "Segue-Generation");
	CHECK_INT(options_total(&options), 32);
	options_done(&options);
	CHECK_INT(parse(&options, &error, "--restart true --count-header A --new 2 http://h/"), 0);
	CHECK_STRING(options.generation_header, "A");
	CHECK_INT(options_total(&options), 2);
	CHECK_INT(parse(&options, &error,
	                "--restart true --count-header A --generation-header a http://h/"),
	          0);
	CHECK_INT(parse(&options, &error, "--restart true --generation-pattern v([0-9]) http://h/"),
	          0);
	CHECK(!options.generation_header);
	options_done(&options);
	CHECK_INT(parse(&options, &error, "http://h/"), 0);
	CHECK(!options.generation_header);
}

UNIT_CASE(options_that_are_wrong_are_refused_with_a_reason)
{
	static const char *const lines[] = {
		"",
		"http://h/ http://i/",
		"--nonsense http://h/",
		"-x http://h/",
		"--new",
		"--new x http://h/",
		"--new -1 http://h/",
		"--new 1:2 http://h/",
		"--new 1000001 http://h/",
		"--new 99999999999999999999 http://h/",
		"--new 600000 --post 600000 http://h/",
		"--pipeline 1:0 http://h/",
		"--pipeline 1:1025 http://h/",
		"--idle 1:5 http://h/",
		"--idle 1:0s http://h/",
		"--duration 10 http://h/",
		"--duration 10days http://h/",
		"--duration 9999999999999h http://h/",
		"--rate 0 http://h/",
		"--timeout 0s http://h/",
		"--header nocolon http://h/",
		"--json=yes http://h/",
		"--ipv4 --ipv6 http://h/",
		"--method G@T http://h/",
		"--echo --expect x --post 1 http://h/",
		"--timeline http://h/",
		"--every 1s http://h/",
		"--count 3 http://h/",
		"--restart-timeout 1s http://h/",
		"--generation-header A http://h/",
		"--generation-pattern A http://h/",
		"--restart true --every 0s http://h/",
		"--restart true --restart-timeout 0s http://h/",
		"--restart true --count 0 http://h/",
		"--restart true --count 100001 http://h/",
		"--restart true --duration 5s http://h/",
		"--restart true --requests 5 http://h/",
		"--restart= http://h/",
		"--restart true --generation-pattern ( http://h/",
		"--restart true --generation-header A --generation-pattern B http://h/",
		"--restart true --count-header A --generation-pattern B http://h/",
		"--restart true --count-header A --generation-header B http://h/",
		"--restart true --generation-header A:b http://h/",
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct options_error error;
		struct options options;

		if (parse(&options, &error, lines[i]) != -EINVAL || !error.text[0])
			UNIT_FAIL("'%s' is not refused", lines[i]);
	}
}

UNIT_CASE(requests_are_formatted_once_and_repeated)
{
	static const char expected[] = "GET /x HTTP/1.1\r\nHost: h:1\r\nA: b\r\n\r\n";
	struct options_error error;
	struct options options;
	struct plan plan;

	CHECK_INT(parse(&options, &error, "--pipeline 1:3 --header A:%b http://h:1/x"), 0);
	options.headers[0] = "A: b";
	CHECK_INT(plan_init(&plan, SHAPE_PIPELINE, &options), 0);
	CHECK_INT(plan.request_size, sizeof(expected) - 1);
	for (int i = 0; i < 3; i++)
		CHECK(memcmp(plan.bytes + (size_t)i * plan.request_size, expected,
		             plan.request_size) == 0);
	CHECK(plan.half_size > 0 && plan.half_size < plan.request_size);
	plan_done(&plan);

	CHECK_INT(parse(&options, &error, "--post 1 --body-size 3 --echo --header Host:x http://h"),
	          0);
	CHECK_INT(plan_init(&plan, SHAPE_POST, &options), 0);
	CHECK_STRING(plan.bytes, "POST / HTTP/1.1\r\nHost:x\r\nContent-Length: 3\r\n\r\nabc");
	CHECK_INT(plan.rules.expected_size, 3);
	plan_done(&plan);
}

UNIT_MAIN
