/* SPDX-License-Identifier: MIT */
#include "orders.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *file_path;
static uint64_t own_generation;

void orders_file(const char *path)
{
	file_path = path;
}

void orders_generation(uint64_t generation)
{
	own_generation = generation;
}

static bool line_fits(const char *line, const char *key, char *value)
{
	char whose[24], found[48];

	if (sscanf(line, "%23s %47s %511[^\n]", whose, found, value) != 3)
		return false;
	if (strcmp(found, key) != 0)
		return false;
	return strcmp(whose, "*") == 0 || strtoull(whose, NULL, 10) == own_generation;
}

const char *order(const char *key)
{
	static char bytes[16384], value[ORDER_MAX];
	char *line = bytes, *end, candidate[ORDER_MAX];
	bool known = false;
	ssize_t n = 0;
	int fd;

	if (file_path == NULL)
		return NULL;
	fd = open(file_path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, bytes, sizeof(bytes) - 1);
		close(fd);
	}
	bytes[n > 0 ? n : 0] = '\0';
	for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		*end = '\0';
		if (!line_fits(line, key, candidate))
			continue;
		memcpy(value, candidate, sizeof(value));
		known = true;
	}
	/* "-" takes an earlier order back. */
	return known && strcmp(value, "-") != 0 ? value : NULL;
}

bool order_is(const char *key, const char *value)
{
	const char *found = order(key);

	return found != NULL && strcmp(found, value) == 0;
}

long order_number(const char *key, long missing)
{
	const char *found = order(key);

	return found != NULL ? strtol(found, NULL, 10) : missing;
}

void hold(const char *key)
{
	const char *path = order(key);
	char byte;
	int fd;

	if (path == NULL)
		return;
	tell("held", ", \"at\": \"%s\"", key);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!read(fd, &byte, 1);
	close(fd);
	tell("released", ", \"at\": \"%s\"", key);
}

void tell(const char *name, const char *format, ...)
{
	char line[3000];
	int len = snprintf(line, sizeof(line),
	                   "{\"event\": \"%s\", \"generation\": %llu, \"pid\": %ld", name,
	                   (unsigned long long)own_generation, (long)getpid());
	va_list args;

	va_start(args, format);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len - 2, format, args);
	va_end(args);
	if (len > (int)sizeof(line) - 3)
		len = (int)sizeof(line) - 3;
	line[len++] = '}';
	line[len++] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)len);
}

const char *quoted(const char *text)
{
	static char safe[1024];
	size_t len = 0;

	for (; text != NULL && *text != '\0' && len < sizeof(safe) - 1; text++)
		safe[len++] =
			(unsigned char)*text < ' ' || *text == '"' || *text == '\\' ? '\'' : *text;
	safe[len] = '\0';
	return safe;
}
