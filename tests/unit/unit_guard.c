/* SPDX-License-Identifier: MIT */
/* The guard, and llhttp behind it: what they take from a head, however it is cut into pieces. */
#include "http/guard.h"
#include "http/head.h"
#include "unit.h"

static const struct sgh_guard_limits limits = { 1000, 200, 10 };

/* The same head in one piece and byte by byte; the guard must come to the same end. */
static ssize_t scan(struct sgh_guard *guard, const char *head)
{
	struct sgh_guard again = { 0 };
	size_t len = strlen(head);
	ssize_t whole, r = 0;

	*guard = (struct sgh_guard){ 0 };
	whole = sgh_guard_scan(guard, &limits, head, len);
	for (size_t i = 1; i <= len && r == 0; i++)
		r = sgh_guard_scan(&again, &limits, head, i);
	CHECK_INT(r, whole);
	CHECK_INT(again.status, guard->status);
	CHECK_INT(again.fields, guard->fields);
	return whole;
}

static int status(const char *head)
{
	struct sgh_guard guard;
	ssize_t r = scan(&guard, head);

	if (r >= 0)
		return (int)r;
	CHECK(guard.error && guard.error[0]);
	return -guard.status;
}

UNIT_CASE(a_plain_head_is_let_through)
{
	const char *head = "GET /a?b HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\nrest";
	struct sgh_guard guard;

	CHECK_INT(scan(&guard, head), strlen(head) - 4);
	CHECK_INT(guard.fields, 2);
	CHECK_INT(guard.method_len, 3);
	CHECK_INT(guard.target, 4);
	CHECK_INT(guard.target_len, 4);
	CHECK_INT(guard.form, SGH_FORM_ORIGIN);
	CHECK(guard.has_host && !guard.has_length && !guard.chunked && !guard.close);
}

UNIT_CASE(the_framing_is_read)
{
	struct sgh_guard guard;

	CHECK(scan(&guard, "POST / HTTP/1.1\r\nHost: h\r\ncontent-LENGTH: 0042\r\n\r\n") > 0);
	CHECK(guard.has_length && guard.length == 42);
	CHECK(scan(&guard, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\tCHUNKED \r\n\r\n") >
	      0);
	CHECK(guard.chunked && !guard.has_length);
	CHECK(scan(&guard,
	           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\n") > 0);
	CHECK(guard.length == 999999999999999999ULL);
}

UNIT_CASE(the_connection_field_is_a_list_of_tokens_in_any_case)
{
	struct sgh_guard guard;

	CHECK(scan(&guard, "GET / HTTP/1.1\r\nHost: h\r\nConnection: a,Close ,\tb\r\n\r\n") > 0);
	CHECK(guard.close && !guard.keep_alive);
	CHECK(scan(&guard, "GET / HTTP/1.0\r\nConnection: x\r\nConnection: Keep-Alive\r\n\r\n") >
	      0);
	CHECK(guard.keep_alive && !guard.close && guard.minor == 0);
	CHECK(scan(&guard, "GET / HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n") > 0);
	CHECK(!guard.close);
}

UNIT_CASE(what_can_be_read_in_two_ways_is_refused)
{
	CHECK_INT(status("GET / HTTP/1.1\nHost: h\r\n\r\n"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\n\n"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\n\rX"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"), -400);
	CHECK_INT(status("GET / HTTP/1.1\r\n\r\n"), -400);
	CHECK_INT(status("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
	                 "Transfer-Encoding: chunked\r\n\r\n"),
	          -400);
	CHECK_INT(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), -400);
	CHECK_INT(status("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
	          -501);
}

UNIT_CASE(limits_are_met_exactly)
{
	char head[2048];
	int n = snprintf(head, sizeof(head), "GET / HTTP/1.1\r\nHost: h\r\nX: ");

	memset(head + n, 'x', 1000 - n - 4);
	memcpy(head + 996, "\r\n\r\n", 5);
	CHECK_INT(status(head), 1000);
	memmove(head + n + 1, head + n, 1000 - n + 1);
	CHECK_INT(status(head), -431);
	n = snprintf(head, sizeof(head), "GET /%0199d HTTP/1.1\r\nHost: h\r\n\r\n", 0);
	CHECK_INT(status(head), n);
	snprintf(head, sizeof(head), "GET /%0200d HTTP/1.1\r\nHost: h\r\n\r\n", 0);
	CHECK_INT(status(head), -414);
	CHECK(status("GET / HTTP/1.1\r\nHost: h\r\n"
	             "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\n\r\n") > 0);
	CHECK_INT(status("GET / HTTP/1.1\r\nHost: h\r\n"
	                 "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\n\r\n"),
	          -431);
}

UNIT_CASE(a_refused_guard_stays_refused)
{
	struct sgh_guard guard = { 0 };
	const char *head = "\001";

	CHECK_INT(sgh_guard_scan(&guard, &limits, head, 1), -EBADMSG);
	CHECK_INT(sgh_guard_scan(&guard, &limits, head, 1), -EBADMSG);
}

UNIT_CASE(every_control_byte_is_refused_everywhere)
{
	const char *whole = "GET /a HTTP/1.1\r\nHost: h\r\nX: a b\r\n\r\n";

	for (size_t at = 0; at < strlen(whole); at++) {
		for (int byte = 1; byte < 0x20; byte++) {
			char head[64];

			snprintf(head, sizeof(head), "%s", whole);
			if (head[at] == byte || (byte == '\t' && at >= 22))
				continue;
			head[at] = (char)byte;
			if (status(head) >= 0)
				UNIT_FAIL("byte %d at %zu was let through", byte, at);
		}
	}
}

UNIT_CASE(llhttp_finds_the_fields_where_they_are)
{
	const char *head = "GET / HTTP/1.1\r\nHost: h\r\nEmpty:\r\nX:  a b \t\r\n\r\n";
	struct sgh_field fields[3];
	struct sgh_guard guard;

	CHECK(scan(&guard, head) > 0);
	CHECK_INT(sgh_head_parse(&guard, head, strlen(head), fields), 0);
	CHECK(!memcmp(head + fields[0].name, "Host", fields[0].name_len));
	CHECK_INT(fields[0].value_len, 1);
	CHECK_INT(fields[1].value_len, 0);
	CHECK_INT(fields[2].value_len, 3);
	CHECK(!memcmp(head + fields[2].value, "a b", 3));
}

UNIT_CASE(a_method_that_llhttp_does_not_know_is_not_implemented)
{
	const char *head = "FROB / HTTP/1.1\r\nHost: h\r\n\r\n";
	struct sgh_field fields[1];
	struct sgh_guard guard;

	CHECK(scan(&guard, head) > 0);
	CHECK_INT(sgh_head_parse(&guard, head, strlen(head), fields), -ENOSYS);
}

UNIT_MAIN
