/* SPDX-License-Identifier: MIT */
/*
 * The address grammar: what is taken, what it means, what it is called, and what is refused.
 */
#include "unit.h"

#include "core/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/un.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct sg_address parsed(const char *text)
{
	struct sg_address address;
	char reason[300] = "";

	if (sg_address_parse(&address, text, reason, sizeof(reason)) != 0)
		UNIT_FAIL("'%s' is refused: %s", text, reason);
	return address;
}

/* Refused, nothing is written, and the sentence names what was written and the grammar. */
static void check_refused(const char *text, const char *why)
{
	struct sg_address address = { .port = 4711 };
	char reason[400] = "";

	if (sg_address_parse(&address, text, reason, sizeof(reason)) != -EINVAL)
		UNIT_FAIL("'%s' is taken", text);
	CHECK_INT(address.port, 4711);
	if (strstr(reason, why) == NULL || strstr(reason, "use tcp://HOST:PORT") == NULL)
		UNIT_FAIL("'%s' is refused with: %s", text, reason);
}

UNIT_CASE(every_form_has_one_canonical_text)
{
	static const char *const forms[][2] = {
		{ ":8080", "tcp://*:8080" },
		{ "*:8080", "tcp://*:8080" },
		{ "tcp://:8080", "tcp://*:8080" },
		{ "tcp://*:8080", "tcp://*:8080" },
		{ "127.0.0.1:80", "tcp://127.0.0.1:80" },
		{ "tcp://127.0.0.1:80", "tcp://127.0.0.1:80" },
		{ "tcp://127.0.0.1:00080", "tcp://127.0.0.1:80" },
		{ "localhost:0", "tcp://localhost:0" },
		{ "tcp://www.example_1.org:65535", "tcp://www.example_1.org:65535" },
		{ "[::1]:80", "tcp://[::1]:80" },
		{ "tcp://[0:0:0:0:0:0:0:1]:80", "tcp://[::1]:80" },
		{ "tcp://[2001:DB8::00A]:80", "tcp://[2001:db8::a]:80" },
		{ "tcp://[fe80::1%eth0]:80", "tcp://[fe80::1%eth0]:80" },
		{ "udp://:53", "udp://*:53" },
		{ "udp://127.0.0.1:53", "udp://127.0.0.1:53" },
		{ "udp://[::]:53", "udp://[::]:53" },
		{ "unix:///run/app.sock", "unix:///run/app.sock" },
		{ "unix:///a=b:c", "unix:///a=b:c" },
		{ "unix://@app", "unix://@app" },
		{ "unix://@a/b", "unix://@a/b" },
	};

	for (size_t i = 0; i < COUNT(forms); i++) {
		struct sg_address address = parsed(forms[i][0]);

		CHECK_STRING(address.text, forms[i][1]);
		/* What is canonical stays what it is. */
		address = parsed(forms[i][1]);
		CHECK_STRING(address.text, forms[i][1]);
	}
}

UNIT_CASE(the_fields_say_what_was_written)
{
	static const uint8_t loopback[4] = { 127, 0, 0, 1 };
	struct sg_address address = parsed("udp://127.0.0.1:53");

	CHECK_INT(address.kind, SG_ADDRESS_UDP);
	CHECK_INT(address.family, AF_INET);
	CHECK_INT(address.port, 53);
	CHECK(!address.any && memcmp(address.ip, loopback, 4) == 0);
	CHECK_INT(sg_address_socket_type(&address), SOCK_DGRAM);

	address = parsed(":8080");
	CHECK_INT(address.kind, SG_ADDRESS_TCP);
	CHECK(address.any);
	CHECK_INT(sg_address_socket_type(&address), SOCK_STREAM);

	address = parsed("tcp://[::]:80");
	CHECK(!address.any);
	CHECK_INT(address.family, AF_INET6);

	address = parsed("example.org:80");
	CHECK_INT(address.family, AF_UNSPEC);
	CHECK_STRING(address.host, "example.org");

	address = parsed("unix:///run/a.sock");
	CHECK_INT(address.kind, SG_ADDRESS_UNIX);
	CHECK_STRING(address.path, "/run/a.sock");
	CHECK_INT(sg_address_socket_type(&address), SOCK_STREAM);

	address = parsed("unix://@a.sock");
	CHECK_INT(address.kind, SG_ADDRESS_ABSTRACT);
	CHECK_STRING(address.path, "a.sock");
}

UNIT_CASE(a_port_is_a_number_from_0_to_65535)
{
	struct sg_address address;
	char reason[400];

	CHECK_INT(parsed("h:0").port, 0);
	CHECK_INT(parsed("h:1").port, 1);
	CHECK_INT(parsed("h:65535").port, 65535);
	check_refused("h:65536", "port");
	check_refused("h:99999", "port");
	check_refused("h:100000", "port");
	check_refused("h:000080", "port");
	check_refused("h:-1", "port");
	check_refused("h:+1", "port");
	check_refused("h: 1", "port");
	check_refused("h:1 ", "port");
	check_refused("h:0x50", "port");
	check_refused("h:http", "port");
	check_refused("h:", "port");
	check_refused("tcp://h", "has no port");
	check_refused("tcp://[::1]", "has no port");
	check_refused("tcp://[::1]80", "has no port");
	check_refused("tcp://[::1", "has no port");
	if (sg_address_parse(&address, "8080", reason, sizeof(reason)) != -EINVAL)
		UNIT_FAIL("'8080' is taken");
	CHECK_STRING(reason, "'8080' is a port alone; write :8080");
	check_refused("", "has no port");
	check_refused("tcp://", "has no port");
}

UNIT_CASE(a_host_that_is_neither_number_nor_name_is_refused)
{
	static const char *const hosts[] = {
		"tcp://256.0.0.1:80", "tcp://127.1:80",       "tcp://1.2.3.4.5:80",
		"tcp://1:80",         "tcp://a b:80",         "tcp://a/b:80",
		"tcp://user@host:80", "tcp://[]:80",          "tcp://[*]:80",
		"tcp://[1.2.3.4]:80", "tcp://[localhost]:80", "tcp://[:::]:80",
		"tcp://[::1%]x]:80",  "tcp://**:80",          "tcp://\xc3\xa4.org:80",
		"tcp://[%eth0]:80",
	};

	for (size_t i = 0; i < COUNT(hosts); i++)
		check_refused(hosts[i], "");
	check_refused("tcp://::1:80", "without brackets");
	check_refused("::1:80", "without brackets");
	check_refused("http://h:80", "unknown scheme");
	check_refused("TCP://h:80", "unknown scheme");
	check_refused("tcp:/h:80", "");
	check_refused("tcp://h:80\n", "control characters");
	check_refused("tcp://h\t:80", "control characters");
	check_refused("unix:///a\x7f", "control characters");
}

UNIT_CASE(a_zone_belongs_to_the_address_and_has_to_name_something)
{
	CHECK_STRING(parsed("[fe80::1%2]:80").text, "tcp://[fe80::1%2]:80");
	CHECK_STRING(parsed("[fe80::1%2]:80").host, "fe80::1%2");
	check_refused("[fe80::1%]:80", "malformed host");
	check_refused("[fe80::1%eth 0]:80", "malformed host");
	check_refused("[fe80::1%a%b]:80", "malformed host");
	check_refused("[fe80::1%a[b]:80", "malformed host");
}

UNIT_CASE(a_host_of_255_bytes_passes_and_one_of_256_does_not)
{
	char text[400];

	memset(text, 'a', sizeof(text));
	strcpy(text + 255, ":1");
	CHECK_INT(strlen(parsed(text).host), 255);
	memset(text, 'a', sizeof(text));
	strcpy(text + 256, ":1");
	check_refused(text, "too long a host");
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	memcpy(text, "[::1%", 5);
	strcpy(text + 1 + 256, "]:1");
	check_refused(text, "too long a host");
	memset(text + 5, 'z', 251);
	strcpy(text + 1 + 255, "]:65535");
	CHECK_INT(strlen(parsed(text).text), strlen("tcp://") + 255 + strlen("[]:65535"));
}

UNIT_CASE(a_unix_path_is_absolute_and_of_at_most_107_bytes)
{
	char text[200] = "unix:///";

	memset(text + 8, 'p', 106);
	CHECK_INT(strlen(parsed(text).path), 107);
	text[8 + 106] = 'p';
	check_refused(text, "longer than a unix socket's path");
	check_refused("unix://", "does not begin with '/'");
	check_refused("unix://run/app.sock", "does not begin with '/'");
	check_refused("unix:/run/app.sock", "");
	check_refused("unix:///", "names no socket");
	check_refused("unix:///run/", "names no socket");
	check_refused("unix://@", "names no socket");
}

UNIT_CASE(an_abstract_name_is_of_at_most_107_bytes_with_its_mark)
{
	char text[200] = "unix://@";

	memset(text + 8, 'n', 106);
	CHECK_INT(strlen(parsed(text).path), 106);
	text[8 + 106] = 'n';
	check_refused(text, "longer than");
}

UNIT_CASE(a_reason_is_cut_to_the_room_for_it)
{
	struct sg_address address;
	char reason[8] = "1234567";

	CHECK_INT(sg_address_parse(&address, "nonsense", reason, sizeof(reason)), -EINVAL);
	CHECK_INT(strlen(reason), 7);
}

UNIT_CASE(a_name_is_1_to_63_bytes_of_few_kinds)
{
	char name[65];

	memset(name, 'n', sizeof(name));
	name[63] = '\0';
	CHECK(sg_name_valid(name));
	name[63] = 'n';
	name[64] = '\0';
	CHECK(!sg_name_valid(name));
	CHECK(sg_name_valid("a"));
	CHECK(sg_name_valid("http-2_x"));
	CHECK(!sg_name_valid(""));
	CHECK(!sg_name_valid("Http"));
	CHECK(!sg_name_valid("a b"));
	CHECK(!sg_name_valid("a.b"));
	CHECK(!sg_name_valid("a:b"));
	CHECK(!sg_name_valid("\xc3\xa4"));
}

static void check_spec(const char *spec, const char *name, const char *text)
{
	char got[SG_NAME_MAX + 1], reason[400];
	struct sg_address address;

	if (sg_address_parse_spec(got, &address, spec, reason, sizeof(reason)) != 0)
		UNIT_FAIL("'%s' is refused: %s", spec, reason);
	CHECK_STRING(got, name);
	CHECK_STRING(address.text, text);
}

static void check_spec_refused(const char *spec, const char *why)
{
	char name[SG_NAME_MAX + 1] = "before", reason[400];
	struct sg_address address;

	CHECK_INT(sg_address_parse_spec(name, &address, spec, reason, sizeof(reason)), -EINVAL);
	CHECK_STRING(name, "before");
	if (strstr(reason, why) == NULL)
		UNIT_FAIL("'%s' is refused with: %s", spec, reason);
}

UNIT_CASE(a_listener_is_named_or_called_by_its_address)
{
	char spec[100], name[64];

	check_spec("http=:80", "http", "tcp://*:80");
	check_spec(":80", "tcp://*:80", "tcp://*:80");
	check_spec("h-2_a=unix:///run/a.sock", "h-2_a", "unix:///run/a.sock");
	check_spec("unix:///a=b", "unix:///a=b", "unix:///a=b");
	check_spec("n=unix:///a=b", "n", "unix:///a=b");
	check_spec("unix://@a=b", "unix://@a=b", "unix://@a=b");
	memset(name, 'n', 63);
	name[63] = '\0';
	snprintf(spec, sizeof(spec), "%s=:80", name);
	check_spec(spec, name, "tcp://*:80");
	snprintf(spec, sizeof(spec), "%sn=:80", name);
	check_spec_refused(spec, "malformed");
	check_spec_refused("=:80", "malformed");
	check_spec_refused("Http=:80", "'Http' is malformed");
	check_spec_refused("a b=:80", "malformed");
	check_spec_refused("http=", "has no port");
	check_spec_refused("http=nonsense", "has no port");
	check_spec_refused("a=b=:80", "malformed host");
	check_spec_refused("", "has no port");
	/* What is said of it stays one line. */
	check_spec_refused("a\nb=:80", "name '?' is malformed");
}

/* v6only: 0, 1, or 2 for both. */
static void check_overlap(const char *a, const char *b, int v6only, bool expected)
{
	struct sg_address x = parsed(a), y = parsed(b);

	for (int v = 0; v < 2; v++) {
		if (v6only != 2 && v6only != v)
			continue;
		if (sg_address_overlaps(&x, v, &y, v) != expected ||
		    sg_address_overlaps(&y, v, &x, v) != expected)
			UNIT_FAIL("%s and %s: not %d (v6only %d)", a, b, expected, v);
	}
}

/* unit_listener.c asks the kernel the same question of the numeric ones. */
UNIT_CASE(addresses_that_cannot_be_bound_beside_each_other_overlap)
{
	check_overlap("127.0.0.1:80", "127.0.0.1:80", 2, true);
	check_overlap("127.0.0.1:80", "127.0.0.2:80", 2, false);
	check_overlap("127.0.0.1:80", "127.0.0.1:81", 2, false);
	check_overlap("127.0.0.1:80", "0.0.0.0:80", 2, true);
	check_overlap("127.0.0.1:80", ":80", 0, true);
	check_overlap("0.0.0.0:80", ":80", 0, true);
	check_overlap("0.0.0.0:80", ":80", 1, false);
	check_overlap("[::]:80", ":80", 2, true);
	check_overlap("[::1]:80", ":80", 2, true);
	check_overlap("[::1]:80", "[::]:80", 2, true);
	check_overlap("[::1]:80", "[0::1]:80", 2, true);
	check_overlap("[::1]:80", "[::2]:80", 2, false);
	check_overlap("0.0.0.0:80", "[::]:80", 0, true);
	check_overlap("0.0.0.0:80", "[::]:80", 1, false);
	check_overlap("127.0.0.1:80", "[::]:80", 0, true);
	check_overlap("127.0.0.1:80", "[::]:80", 1, false);
	check_overlap("127.0.0.1:80", "[::1]:80", 2, false);
	check_overlap("0.0.0.0:80", "[::1]:80", 2, false);
	check_overlap("[::ffff:127.0.0.1]:80", "127.0.0.1:80", 0, true);
	check_overlap("[::ffff:127.0.0.1]:80", "0.0.0.0:80", 0, true);
	check_overlap("[::ffff:127.0.0.1]:80", "127.0.0.2:80", 0, false);
	check_overlap("[::ffff:127.0.0.1]:80", "[::1]:80", 0, false);
	check_overlap("[fe80::1%a]:80", "[fe80::1%b]:80", 2, false);
	check_overlap("[fe80::1%a]:80", "[fe80::1%a]:80", 2, true);
}

UNIT_CASE(other_kinds_and_port_0_never_overlap)
{
	check_overlap("tcp://:80", "udp://:80", 2, false);
	check_overlap("udp://:80", "udp://127.0.0.1:80", 0, true);
	check_overlap(":0", ":0", 2, false);
	check_overlap("127.0.0.1:0", "127.0.0.1:0", 2, false);
	check_overlap("unix:///a", "unix:///a", 2, true);
	check_overlap("unix:///a", "unix:///b", 2, false);
	check_overlap("unix://@a", "unix://@a", 2, true);
	check_overlap("unix:///a", ":80", 2, false);
	check_overlap("unix://@/a", "unix:///a", 2, false);
}

/* A name may be any address: what is certain is said, and bind() finds the rest. */
UNIT_CASE(a_host_name_overlaps_itself_and_all_interfaces)
{
	check_overlap("example.org:80", "example.org:80", 2, true);
	check_overlap("example.org:80", ":80", 0, true);
	check_overlap("example.org:80", "example.net:80", 2, false);
	check_overlap("example.org:80", "127.0.0.1:80", 2, false);
	check_overlap("example.org:80", "example.org:81", 2, false);
}

static bool matches_inet(const char *text, const char *ip, uint16_t port)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sg_address address = parsed(text);

	CHECK_INT(inet_pton(AF_INET, ip, &name.sin_addr), 1);
	return sg_address_matches(&address, (struct sockaddr *)&name, sizeof(name));
}

static bool matches_inet6(const char *text, const char *ip, uint16_t port)
{
	struct sockaddr_in6 name = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sg_address address = parsed(text);

	CHECK_INT(inet_pton(AF_INET6, ip, &name.sin6_addr), 1);
	return sg_address_matches(&address, (struct sockaddr *)&name, sizeof(name));
}

static bool matches_unix(const char *text, const char *path, size_t path_len)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct sg_address address = parsed(text);

	memcpy(name.sun_path, path, path_len);
	return sg_address_matches(&address, (struct sockaddr *)&name,
	                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len));
}

UNIT_CASE(a_socket_matches_the_address_that_it_was_bound_to)
{
	CHECK(matches_inet("127.0.0.1:80", "127.0.0.1", 80));
	CHECK(!matches_inet("127.0.0.1:80", "127.0.0.2", 80));
	CHECK(!matches_inet("127.0.0.1:80", "127.0.0.1", 81));
	CHECK(!matches_inet("127.0.0.1:80", "0.0.0.0", 80));
	CHECK(!matches_inet("0.0.0.0:80", "127.0.0.1", 80));
	CHECK(matches_inet("127.0.0.1:0", "127.0.0.1", 40000));
	CHECK(!matches_inet("127.0.0.1:0", "127.0.0.2", 40000));
	CHECK(matches_inet(":80", "0.0.0.0", 80));
	CHECK(!matches_inet(":80", "127.0.0.1", 80));
	CHECK(!matches_inet(":80", "0.0.0.0", 81));
	CHECK(!matches_inet("[::]:80", "0.0.0.0", 80));
	CHECK(!matches_inet("unix:///a", "127.0.0.1", 80));
	CHECK(matches_inet6(":80", "::", 80));
	CHECK(!matches_inet6(":80", "::1", 80));
	CHECK(matches_inet6("[::1]:80", "::1", 80));
	CHECK(!matches_inet6("[::1]:80", "::2", 80));
	CHECK(matches_inet6("[fe80::1%eth0]:80", "fe80::1", 80));
	CHECK(!matches_inet6("127.0.0.1:80", "::ffff:127.0.0.1", 80));
	CHECK(matches_inet("example.org:80", "10.0.0.1", 80));
	CHECK(matches_inet6("example.org:0", "2001:db8::1", 1));
	CHECK(!matches_inet("example.org:80", "10.0.0.1", 81));
}

UNIT_CASE(a_unix_socket_matches_its_path_whatever_the_kernel_appends)
{
	CHECK(matches_unix("unix:///a", "/a", 2));
	CHECK(matches_unix("unix:///a", "/a\0", 3));
	CHECK(!matches_unix("unix:///a", "/ab", 3));
	CHECK(!matches_unix("unix:///ab", "/a", 2));
	CHECK(!matches_unix("unix:///a", "\0a", 2));
	CHECK(!matches_unix("unix:///a", "", 0));
	CHECK(matches_unix("unix://@a", "\0a", 2));
	CHECK(!matches_unix("unix://@a", "\0ab", 3));
	CHECK(!matches_unix("unix://@a", "\0a\0", 3));
	CHECK(!matches_unix("unix://@a", "@a", 2));
	CHECK(!matches_unix("unix://@a", "", 0));
	CHECK(!matches_unix(":80", "/a", 2));
}

UNIT_CASE(a_bound_socket_has_a_text_that_is_an_address)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(80) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(65535) };
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/run/a" };
	struct sockaddr other = { .sa_family = AF_NETLINK };
	char text[SG_ADDRESS_MAX];

	CHECK_INT(sg_address_format(text, sizeof(text), (void *)&in, sizeof(in), SOCK_STREAM), 0);
	CHECK_STRING(text, "tcp://0.0.0.0:80");
	CHECK_INT(sg_address_format(text, sizeof(text), (void *)&in6, sizeof(in6), SOCK_DGRAM), 0);
	CHECK_STRING(text, "udp://[::]:65535");
	CHECK_INT(sg_address_format(text, sizeof(text), (void *)&un, sizeof(un), SOCK_STREAM), 0);
	CHECK_STRING(text, "unix:///run/a");
	memcpy(un.sun_path, "\0abc", 4);
	CHECK_INT(sg_address_format(text, sizeof(text), (void *)&un,
	                            offsetof(struct sockaddr_un, sun_path) + 4, SOCK_STREAM),
	          0);
	CHECK_STRING(text, "unix://@abc");
	CHECK_INT(sg_address_format(text, 16, (void *)&in, sizeof(in), SOCK_STREAM), -ENOSPC);
	CHECK_INT(sg_address_format(text, 17, (void *)&in, sizeof(in), SOCK_STREAM), 0);
	CHECK_INT(sg_address_format(text, sizeof(text), &other, sizeof(other), SOCK_STREAM),
	          -EAFNOSUPPORT);
}

UNIT_MAIN
