/* SPDX-License-Identifier: MIT */
/*
 * The strict guard: see guard.h.
 *
 * Request smuggling lives on bytes that two readers take differently. So whatever RFC 9112
 * leaves to the recipient's taste is refused here: bare CR and LF, folded lines, white space
 * around names, repeated Host or length, length together with a transfer coding, control
 * bytes. What is let through is exactly one reading.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "guard.h"

#define TCHAR  1 /* of a token */
#define LINE   2 /* inside a line: no control byte but HTAB */
#define TARGET 4 /* of a request target */
#define HOST   8 /* of a registered name */
#define DIGIT  16
#define HEX    32

/* A length of more digits could overflow what counts it. */
#define LENGTH_DIGITS_MAX 18
#define METHOD_MAX        32
/* " HTTP/1.1" and the two spaces of a request line, roughly. */
#define REQUEST_LINE_EXTRA 16

#define ALPHA (TCHAR | LINE | TARGET | HOST)

static const uint8_t octets[256] = {
	['\t'] = LINE,
	[' '] = LINE,
	['!'] = ALPHA,
	['"'] = LINE | TARGET,
	['#'] = TCHAR | LINE,
	['$'] = ALPHA,
	['%'] = ALPHA,
	['&'] = ALPHA,
	['\''] = ALPHA,
	['('] = LINE | TARGET | HOST,
	[')'] = LINE | TARGET | HOST,
	['*'] = ALPHA,
	['+'] = ALPHA,
	[','] = LINE | TARGET | HOST,
	['-'] = ALPHA,
	['.'] = ALPHA,
	['/'] = LINE | TARGET,
	['0' ... '9'] = ALPHA | DIGIT | HEX,
	[':'] = LINE | TARGET,
	[';'] = LINE | TARGET | HOST,
	['<'] = LINE | TARGET,
	['='] = LINE | TARGET | HOST,
	['>'] = LINE | TARGET,
	['?'] = LINE | TARGET,
	['@'] = LINE | TARGET,
	['A' ... 'F'] = ALPHA | HEX,
	['G' ... 'Z'] = ALPHA,
	['['] = LINE | TARGET,
	['\\'] = LINE | TARGET,
	[']'] = LINE | TARGET,
	['^'] = TCHAR | LINE | TARGET,
	['_'] = ALPHA,
	['`'] = TCHAR | LINE | TARGET,
	['a' ... 'f'] = ALPHA | HEX,
	['g' ... 'z'] = ALPHA,
	['{'] = LINE | TARGET,
	['|'] = TCHAR | LINE | TARGET,
	['}'] = LINE | TARGET,
	['~'] = ALPHA,
	[0x80 ... 0xff] = LINE,
};

struct text {
	const char *at;
	size_t len;
};

static bool all_of(struct text text, uint8_t class)
{
	for (size_t i = 0; i < text.len; i++)
		if (!(octets[(unsigned char)text.at[i]] & class))
			return false;
	return true;
}

bool sgh_is_token(const char *text, size_t len)
{
	return len > 0 && all_of((struct text){ text, len }, TCHAR);
}

bool sgh_is_field_value(const char *text, size_t len)
{
	return all_of((struct text){ text, len }, LINE);
}

static bool same(struct text text, const char *word)
{
	return text.len == strlen(word) && !strncasecmp(text.at, word, text.len);
}

static struct text trimmed(struct text text)
{
	while (text.len && (*text.at == ' ' || *text.at == '\t')) {
		text.at++;
		text.len--;
	}
	while (text.len && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
		text.len--;
	return text;
}

/* The next member of a comma-separated list, trimmed; false at its end. */
static bool next_member(struct text *list, struct text *ret_member)
{
	const char *comma;

	if (!list->at)
		return false;
	comma = memchr(list->at, ',', list->len);
	if (comma) {
		*ret_member = trimmed((struct text){ list->at, comma - list->at });
		list->len -= comma + 1 - list->at;
		list->at = comma + 1;
	} else {
		*ret_member = trimmed(*list);
		list->at = NULL;
	}
	return true;
}

static int refuse(struct sgh_guard *guard, int status, const char *error)
{
	guard->status = status;
	guard->error = error;
	return -EBADMSG;
}

static bool port_is_valid(struct text port)
{
	unsigned long number = 0;

	if (port.len > 5 || !all_of(port, DIGIT))
		return false;
	for (size_t i = 0; i < port.len; i++)
		number = number * 10 + (port.at[i] - '0');
	return number <= 65535;
}

/* "%" has to be followed by two hexadecimal digits. */
static bool escapes_are_valid(struct text text)
{
	for (size_t i = 0; i < text.len; i++) {
		if (text.at[i] != '%')
			continue;
		if (i + 2 >= text.len || !all_of((struct text){ text.at + i + 1, 2 }, HEX))
			return false;
		i += 2;
	}
	return true;
}

/* uri-host [ ":" port ] of RFC 3986, without user information and not empty. */
static bool authority_is_valid(struct text authority)
{
	const char *colon;
	struct text host = authority;

	if (authority.len && authority.at[0] == '[') {
		const char *end = memchr(authority.at, ']', authority.len);

		if (!end)
			return false;
		for (const char *at = authority.at + 1; at < end; at++)
			if (!(octets[(unsigned char)*at] & HEX) && *at != ':' && *at != '.')
				return false;
		host = (struct text){ end + 1, authority.at + authority.len - end - 1 };
		if (end - authority.at < 3 || (host.len && *host.at != ':'))
			return false;
		return !host.len || port_is_valid((struct text){ host.at + 1, host.len - 1 });
	}
	colon = memchr(authority.at, ':', authority.len);
	if (colon) {
		host.len = colon - authority.at;
		if (!port_is_valid((struct text){ colon + 1, authority.len - host.len - 1 }))
			return false;
	}
	return host.len && all_of(host, HOST) && escapes_are_valid(host);
}

static int take_absolute_target(struct sgh_guard *guard, const char *data, struct text target)
{
	size_t scheme = same((struct text){ target.at, target.len < 7 ? target.len : 7 }, "http://")
	                        ? 7
	                        : 8;
	struct text authority;

	if (scheme == 8 &&
	    !same((struct text){ target.at, target.len < 8 ? target.len : 8 }, "https://"))
		return refuse(guard, 400, "the request target is neither a path nor an http URI");
	authority.at = target.at + scheme;
	authority.len = 0;
	while (scheme + authority.len < target.len && authority.at[authority.len] != '/' &&
	       authority.at[authority.len] != '?')
		authority.len++;
	if (!authority_is_valid(authority))
		return refuse(guard, 400, "the host in the request target is not valid");
	guard->form = SGH_FORM_ABSOLUTE;
	guard->authority = authority.at - data;
	guard->authority_len = authority.len;
	return 0;
}

static int take_target(struct sgh_guard *guard, const char *data, struct text method,
                       struct text target)
{
	if (!target.len || !all_of(target, TARGET))
		return refuse(guard, 400,
		              "the request target has a byte that does not belong there");
	guard->target = target.at - data;
	guard->target_len = target.len;
	if (target.at[0] == '/') {
		guard->form = SGH_FORM_ORIGIN;
		return 0;
	}
	if (target.len == 1 && target.at[0] == '*') {
		if (method.len != 7 || memcmp(method.at, "OPTIONS", 7) != 0)
			return refuse(guard, 400, "the target * is for OPTIONS only");
		guard->form = SGH_FORM_ASTERISK;
		return 0;
	}
	return take_absolute_target(guard, data, target);
}

static int take_version(struct sgh_guard *guard, struct text version)
{
	if (version.len != 8 || memcmp(version.at, "HTTP/", 5) != 0 || version.at[6] != '.' ||
	    !all_of((struct text){ version.at + 5, 1 }, DIGIT) ||
	    !all_of((struct text){ version.at + 7, 1 }, DIGIT))
		return refuse(guard, 400, "the request line does not end with an HTTP version");
	if (version.at[5] != '1' || version.at[7] > '1')
		return refuse(guard, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
	guard->minor = version.at[7] - '0';
	return 0;
}

static int take_request_line(struct sgh_guard *guard, const struct sgh_guard_limits *limits,
                             const char *data, struct text line)
{
	const char *first = memchr(line.at, ' ', line.len);
	const char *second = first ? memchr(first + 1, ' ', line.at + line.len - first - 1) : NULL;
	struct text method, target, version;
	int r;

	if (!second)
		return refuse(guard, 400, "the request line is not method, target and version");
	method = (struct text){ line.at, first - line.at };
	target = (struct text){ first + 1, second - first - 1 };
	version = (struct text){ second + 1, line.at + line.len - second - 1 };
	if (!sgh_is_token(method.at, method.len))
		return refuse(guard, 400, "the method is not a token");
	r = take_version(guard, version);
	if (r < 0)
		return r;
	if (target.len > limits->target_bytes)
		return refuse(guard, 414, "the request target is too long");
	if (method.len > METHOD_MAX || (method.len == 7 && !memcmp(method.at, "CONNECT", 7)))
		return refuse(guard, 501, "the method is not implemented");
	guard->method_len = method.len;
	guard->in_fields = true;
	return take_target(guard, data, method, target);
}

static int take_host(struct sgh_guard *guard, struct text value)
{
	if (guard->has_host)
		return refuse(guard, 400, "more than one Host");
	if (!authority_is_valid(value))
		return refuse(guard, 400, "the Host is not valid");
	guard->has_host = true;
	return 0;
}

static int take_length(struct sgh_guard *guard, struct text value)
{
	if (guard->has_length)
		return refuse(guard, 400, "more than one Content-Length");
	if (!value.len || value.len > LENGTH_DIGITS_MAX || !all_of(value, DIGIT))
		return refuse(guard, 400, "the Content-Length is not a number");
	guard->has_length = true;
	guard->length = 0;
	for (size_t i = 0; i < value.len; i++)
		guard->length = guard->length * 10 + (value.at[i] - '0');
	return 0;
}

/* RFC 9112 6.1 and 6.3: a body whose last coding is not chunked has no end; a coding that we
 * do not know under chunked is well-formed, but not for us. */
static int take_transfer_coding(struct sgh_guard *guard, struct text value)
{
	struct text list = value, member;
	unsigned int members = 0, chunked = 0;
	bool last_is_chunked = false;

	if (guard->chunked)
		return refuse(guard, 400, "more than one Transfer-Encoding");
	while (next_member(&list, &member)) {
		if (!sgh_is_token(member.at, member.len))
			return refuse(guard, 400, "the Transfer-Encoding is malformed");
		last_is_chunked = same(member, "chunked");
		chunked += last_is_chunked;
		members++;
	}
	if (!last_is_chunked || chunked != 1)
		return refuse(guard, 400, "the last transfer coding is not chunked, once");
	if (members > 1)
		return refuse(guard, 501, "no transfer coding but chunked is understood");
	guard->chunked = true;
	return 0;
}

static int take_connection(struct sgh_guard *guard, struct text value)
{
	struct text list = value, member;

	while (next_member(&list, &member)) {
		if (member.len && !sgh_is_token(member.at, member.len))
			return refuse(guard, 400, "the Connection field is malformed");
		if (same(member, "close"))
			guard->close = true;
		else if (same(member, "keep-alive"))
			guard->keep_alive = true;
	}
	return 0;
}

static int take_expectation(struct sgh_guard *guard, struct text value)
{
	if (!same(value, "100-continue"))
		return refuse(guard, 417, "no expectation but 100-continue is understood");
	guard->expects_continue = true;
	return 0;
}

static int take_field(struct sgh_guard *guard, const struct sgh_guard_limits *limits,
                      struct text line)
{
	const char *colon = memchr(line.at, ':', line.len), *behind;
	struct text name, value;

	if (line.at[0] == ' ' || line.at[0] == '\t')
		return refuse(guard, 400, "a folded field line");
	if (!colon)
		return refuse(guard, 400, "a field line without a colon");
	name = (struct text){ line.at, colon - line.at };
	value = trimmed((struct text){ colon + 1, line.at + line.len - colon - 1 });
	if (!sgh_is_token(name.at, name.len))
		return refuse(guard, 400, "a field name that is not a token");
	if (++guard->fields > limits->fields)
		return refuse(guard, 431, "too many fields");
	/* Well-formed as white space (RFC 9110 5.5), and read differently by parsers (llhttp's
	 * among them), so not where the length of a body depends on it. */
	behind = value.at + value.len;
	if (memchr(behind, '\t', line.at + line.len - behind) &&
	    (same(name, "Content-Length") || same(name, "Transfer-Encoding")))
		return refuse(guard, 400, "a tab behind the field that says how long the body is");
	switch (name.len) {
	case 4:
		return same(name, "Host") ? take_host(guard, value) : 0;
	case 6:
		return same(name, "Expect") ? take_expectation(guard, value) : 0;
	case 10:
		return same(name, "Connection") ? take_connection(guard, value) : 0;
	case 14:
		return same(name, "Content-Length") ? take_length(guard, value) : 0;
	case 17:
		return same(name, "Transfer-Encoding") ? take_transfer_coding(guard, value) : 0;
	}
	return 0;
}

static int take_end(struct sgh_guard *guard)
{
	if (guard->minor >= 1 && !guard->has_host)
		return refuse(guard, 400, "no Host");
	if (guard->chunked && guard->has_length)
		return refuse(guard, 400, "Content-Length together with Transfer-Encoding");
	if (guard->chunked && guard->minor == 0)
		return refuse(guard, 400, "Transfer-Encoding in HTTP/1.0");
	if (guard->minor == 0)
		guard->expects_continue = false;
	return 0;
}

/* One line without its CRLF. Returns 1 at the end of the head. */
static int take_line(struct sgh_guard *guard, const struct sgh_guard_limits *limits,
                     const char *data, struct text line)
{
	int r;

	if (guard->in_fields) {
		if (line.len)
			return take_field(guard, limits, line);
		r = take_end(guard);
		return r < 0 ? r : 1;
	}
	if (line.len)
		return take_request_line(guard, limits, data, line);
	/* RFC 9112 2.2: one empty line before the request line is a client's old mistake. */
	if (guard->head)
		return refuse(guard, 400, "empty lines before the request line");
	guard->head = 2;
	return 0;
}

static int check_size(struct sgh_guard *guard, const struct sgh_guard_limits *limits, size_t end)
{
	if (!guard->in_fields &&
	    end - guard->head > (size_t)limits->target_bytes + METHOD_MAX + REQUEST_LINE_EXTRA)
		return refuse(guard, 414, "the request line is too long");
	if (end > limits->head_bytes)
		return refuse(guard, guard->in_fields ? 431 : 414, "the head is too large");
	return 0;
}

static int bad_byte(struct sgh_guard *guard, char byte)
{
	if (byte == '\n')
		return refuse(guard, 400, "a line that ends with LF alone");
	if (byte == '\r')
		return refuse(guard, 400, "CR that no LF follows");
	return refuse(guard, 400, "a control byte in the head");
}

ssize_t sgh_guard_scan(struct sgh_guard *guard, const struct sgh_guard_limits *limits,
                       const char *data, size_t len)
{
	size_t i = guard->scanned;
	int r;

	if (guard->status)
		return -EBADMSG;
	while (i < len) {
		if (octets[(unsigned char)data[i]] & LINE) {
			i++;
			continue;
		}
		r = check_size(guard, limits, i);
		if (r < 0)
			return r;
		if (data[i] != '\r')
			return bad_byte(guard, data[i]);
		if (i + 1 == len)
			break;
		if (data[i + 1] != '\n')
			return bad_byte(guard, '\r');
		r = take_line(guard, limits, data,
		              (struct text){ data + guard->line, i - guard->line });
		if (r < 0)
			return r;
		i += 2;
		guard->line = i;
		guard->scanned = i;
		if (r > 0)
			return i > limits->head_bytes ? refuse(guard, 431, "the head is too large")
			                              : (ssize_t)i;
	}
	guard->scanned = i;
	return check_size(guard, limits, i);
}
