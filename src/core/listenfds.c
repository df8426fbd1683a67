/* SPDX-License-Identifier: MIT */
/*
 * sd_listen_fds(3) without its leniency: variables that were meant for another process, or
 * do not add up, are an error with a sentence, because ignoring them would bind the address
 * a second time or serve nothing.
 */
#include "core/listenfds.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 255

/* What is quoted in a sentence: a line stays a line. */
static const char *quoted(const char *text)
{
	for (const char *at = text; *at != '\0'; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f)
			return "?";
	return text;
}

static int parse_number(const char *text, unsigned long *ret_value)
{
	unsigned long value = 0;
	size_t len = strlen(text);

	if (len == 0 || len > 9 || strspn(text, "0123456789") != len)
		return -EINVAL;
	for (; *text != '\0'; text++)
		value = value * 10 + (unsigned long)(*text - '0');
	*ret_value = value;
	return 0;
}

static int parse_names(struct sg_listenfds *listenfds, size_t expected, const char *names,
                       char *reason, size_t reason_size)
{
	size_t count = 0;

	for (;;) {
		size_t len = strcspn(names, ":");

		if (len > NAME_MAX_BYTES) {
			snprintf(reason, reason_size,
			         "LISTEN_FDNAMES has a name of %zu bytes; %d are allowed", len,
			         NAME_MAX_BYTES);
			return -EINVAL;
		}
		if (count < expected)
			snprintf(listenfds->names[count], sizeof(listenfds->names[0]), "%.*s",
			         (int)len, names);
		count++;
		if (names[len] == '\0')
			break;
		names += len + 1;
	}
	if (count == expected)
		return 0;
	snprintf(reason, reason_size,
	         "LISTEN_FDNAMES has %zu names for LISTEN_FDS=%zu descriptors; unset all LISTEN_ "
	         "variables or mend who sets them",
	         count, expected);
	return -EINVAL;
}

int sg_listenfds_parse(struct sg_listenfds *ret_listenfds, const char *listen_pid,
                       const char *listen_fds, const char *listen_fdnames, pid_t pid, char *reason,
                       size_t reason_size)
{
	unsigned long count, owner;
	int r;

	ret_listenfds->count = 0;
	if (listen_fds == NULL)
		return 0;
	if (parse_number(listen_fds, &count) < 0 || count > SG_LISTENFDS_MAX) {
		snprintf(reason, reason_size, "LISTEN_FDS='%.40s' is no number from 0 to %d",
		         quoted(listen_fds), SG_LISTENFDS_MAX);
		return -EINVAL;
	}
	if (count == 0)
		return 0;
	if (listen_pid == NULL || parse_number(listen_pid, &owner) < 0) {
		snprintf(reason, reason_size,
		         "LISTEN_FDS is set but LISTEN_PID='%.40s' is no pid; both come together",
		         listen_pid != NULL ? quoted(listen_pid) : "");
		return -EINVAL;
	}
	if (owner != (unsigned long)pid) {
		snprintf(reason, reason_size,
		         "LISTEN_PID=%lu names another process than this one (%ld); a wrapper "
		         "between the service manager and this program has to exec it, or unset "
		         "LISTEN_PID and LISTEN_FDS",
		         owner, (long)pid);
		return -EINVAL;
	}
	for (size_t i = 0; i < count; i++)
		strcpy(ret_listenfds->names[i], "unknown");
	if (listen_fdnames != NULL) {
		r = parse_names(ret_listenfds, count, listen_fdnames, reason, reason_size);
		if (r < 0)
			return r;
	}
	ret_listenfds->count = count;
	return 0;
}
