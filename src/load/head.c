/* SPDX-License-Identifier: MIT */
/* Reads the head of an answer; see head.h. Makes no system call and allocates nothing. */
#include "head.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static int refuse(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EBADMSG;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool starts_like_http(const char *data, size_t size)
{
	static const char prefix[] = "HTTP/1.";
	size_t known = sizeof(prefix) - 1;

	return memcmp(data, prefix, size < known ? size : known) == 0;
}

int head_end(const char *data, size_t size, size_t *scanned, const char **ret_why)
{
	if (!starts_like_http(data, size))
		return refuse(ret_why, "the answer does not begin with HTTP/1.");
	for (;;) {
		const char *line = data + *scanned;
		const char *feed = memchr(line, '\n', size - *scanned);

		if (!feed)
			break;
		if (feed == data || feed[-1] != '\r')
			return refuse(ret_why, "a line ends with a bare line feed");
		*scanned = (size_t)(feed + 1 - data);
		if (*scanned > HEAD_MAX_BYTES)
			break;
		if (feed == line + 1)
			return (int)*scanned;
	}
	if (size > HEAD_MAX_BYTES)
		return refuse(ret_why, "the head is larger than 65536 bytes");
	return 0;
}

/* HTTP/1.1 SP 200 SP reason; the second blank is there even without a reason. */
static int parse_status_line(const char *line, size_t size, struct head *head, const char **ret_why)
{
	if (size < 9 || !starts_like_http(line, size) || !is_digit(line[7]) || line[8] != ' ')
		return refuse(ret_why, "the version in the status line is malformed");
	head->is_http10 = line[7] == '0';
	if (size < 12 || !is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]))
		return refuse(ret_why, "the status code is not three digits");
	head->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
	if (head->status < 100 || head->status > 599)
		return refuse(ret_why, "the status code is not between 100 and 599");
	if (size < 13 || line[12] != ' ')
		return refuse(ret_why, "no blank follows the status code");
	for (size_t i = 13; i < size; i++) {
		unsigned char byte = (unsigned char)line[i];

		if ((byte < ' ' && byte != '\t') || byte == 0x7f)
			return refuse(ret_why, "the status line holds a control byte");
	}
	return 0;
}

/* 1 for what a field name is made of (RFC 9110 section 5.6.2), 2 for what its value may hold. */
static unsigned char byte_class[256];

__attribute__((constructor)) static void fill_byte_class(void)
{
	for (int byte = 0; byte < 256; byte++) {
		bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
		bool token = letter || (byte >= '0' && byte <= '9') ||
		             (byte && byte < 128 && strchr("!#$%&'*+-.^_`|~", byte));
		bool value = byte == '\t' || (byte >= ' ' && byte != 0x7f);

		byte_class[byte] = (unsigned char)((token ? 1 : 0) | (value ? 2 : 0));
	}
}

int head_field_check(const char *line, size_t size, const char **ret_why)
{
	size_t name = 0;

	while (name < size && byte_class[(unsigned char)line[name]] & 1)
		name++;
	if (size && (*line == ' ' || *line == '\t'))
		return refuse(ret_why, "a header line is folded");
	if (name == 0 || name == size || line[name] != ':')
		return refuse(ret_why, "the name of a header is malformed");
	for (size_t i = name + 1; i < size; i++) {
		if (!(byte_class[(unsigned char)line[i]] & 2))
			return refuse(ret_why, "the value of a header holds a control byte");
	}
	return (int)name;
}

static bool is_name(const char *name, size_t size, const char *wanted)
{
	return strncasecmp(name, wanted, size) == 0 && wanted[size] == '\0';
}

static void trim(const char **value, size_t *size)
{
	while (*size && (**value == ' ' || **value == '\t')) {
		(*value)++;
		(*size)--;
	}
	while (*size && ((*value)[*size - 1] == ' ' || (*value)[*size - 1] == '\t'))
		(*size)--;
}

static int take_length(const char *value, size_t size, struct head *head, const char **ret_why)
{
	uint64_t length = 0;

	if (head->has_length)
		return refuse(ret_why, "there are two Content-Length headers");
	if (size == 0 || size > 18)
		return refuse(ret_why, "the Content-Length is not a number");
	for (size_t i = 0; i < size; i++) {
		if (!is_digit(value[i]))
			return refuse(ret_why, "the Content-Length is not a number");
		length = length * 10 + (uint64_t)(value[i] - '0');
	}
	head->has_length = true;
	head->length = length;
	return 0;
}

static void take_connection(const char *value, size_t size, struct head *head)
{
	const char *end = value + size;

	while (value < end) {
		const char *comma = memchr(value, ',', (size_t)(end - value));
		const char *token = value;
		size_t token_size = (size_t)((comma ? comma : end) - value);

		trim(&token, &token_size);
		if (is_name(token, token_size, "close"))
			head->close = true;
		else if (is_name(token, token_size, "keep-alive"))
			head->keep_alive = true;
		value = comma ? comma + 1 : end;
	}
}

static int take_field(const char *line, size_t name, size_t size, const char *count_name,
                      struct head *head, const char **ret_why)
{
	const char *value = line + name + 1;
	size_t value_size = size - name - 1;

	trim(&value, &value_size);
	if (count_name && is_name(line, name, count_name)) {
		head->counted = value;
		head->counted_size = value_size;
	}
	if (is_name(line, name, "content-length"))
		return take_length(value, value_size, head, ret_why);
	if (is_name(line, name, "connection"))
		take_connection(value, value_size, head);
	if (is_name(line, name, "transfer-encoding")) {
		if (head->chunked || !is_name(value, value_size, "chunked"))
			return refuse(ret_why, "the Transfer-Encoding is not just \"chunked\"");
		head->chunked = true;
	}
	return 0;
}

static int check_framing(const struct head *head, const char **ret_why)
{
	if (head->chunked && head->has_length)
		return refuse(ret_why, "there are both Content-Length and Transfer-Encoding");
	if (head->chunked && head->is_http10)
		return refuse(ret_why, "an HTTP/1.0 answer has a Transfer-Encoding");
	if ((head->status < 200 || head->status == 204) && (head->chunked || head->has_length))
		return refuse(ret_why, "an answer that has no body states its length");
	if (head->status == 101)
		return refuse(ret_why, "the protocol is switched without having been asked");
	return 0;
}

int head_parse(const char *data, size_t size, const char *count_name, struct head *ret_head,
               const char **ret_why)
{
	const char *line = data, *end = data + size - 2;
	struct head head = { 0 };
	int r;

	while (line < end) {
		const char *feed = memchr(line, '\n', (size_t)(end - line));
		size_t line_size = (size_t)(feed - line) - 1;

		if (line == data) {
			r = parse_status_line(line, line_size, &head, ret_why);
		} else {
			r = head_field_check(line, line_size, ret_why);
			if (r >= 0)
				r = take_field(line, (size_t)r, line_size, count_name, &head,
				               ret_why);
		}
		if (r < 0)
			return r;
		line = feed + 1;
	}
	r = check_framing(&head, ret_why);
	if (r < 0)
		return r;
	*ret_head = head;
	return 0;
}
