/* SPDX-License-Identifier: MIT */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

uint64_t say_generation;

static char line[8192];
static size_t len;

__attribute__((format(printf, 1, 2))) static void add(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line + len, sizeof(line) - len, format, args);
	va_end(args);
	if (n > 0 && (size_t)n < sizeof(line) - len)
		len += (size_t)n;
}

void say_begin(const char *event)
{
	len = 0;
	add("{\"event\":\"%s\",\"pid\":%ld", event, (long)getpid());
	if (say_generation > 0)
		say_number("generation", (int64_t)say_generation);
}

void say_text(const char *key, const char *value)
{
	add(",\"%s\":\"", key);
	for (; value != NULL && *value != '\0'; value++) {
		unsigned char c = (unsigned char)*value;

		if (c < 0x20 || c == '"' || c == '\\')
			add("\\u%04x", c);
		else
			add("%c", c);
	}
	add("\"");
}

void say_number(const char *key, int64_t value)
{
	add(",\"%s\":%lld", key, (long long)value);
}

void say_end(void)
{
	add("}\n");
	(void)!write(STDERR_FILENO, line, len);
}
