/* SPDX-License-Identifier: MIT */
/*
 * LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES: taken as they are meant, or refused with a
 * sentence that names the variable.
 */
#include "unit.h"

#include "core/listenfds.h"

#define PID 4711

static struct sg_listenfds parsed(const char *pid, const char *fds, const char *names)
{
	struct sg_listenfds got = { .count = 99 };
	char reason[300] = "";

	if (sg_listenfds_parse(&got, pid, fds, names, PID, reason, sizeof(reason)) != 0)
		UNIT_FAIL("refused: %s", reason);
	return got;
}

static void check_refused(const char *pid, const char *fds, const char *names, const char *why)
{
	static struct sg_listenfds got;
	char reason[300] = "";

	CHECK_INT(sg_listenfds_parse(&got, pid, fds, names, PID, reason, sizeof(reason)), -EINVAL);
	CHECK_INT(got.count, 0);
	if (strstr(reason, why) == NULL)
		UNIT_FAIL("refused with: %s", reason);
}

UNIT_CASE(without_listen_fds_there_are_none)
{
	CHECK_INT(parsed(NULL, NULL, NULL).count, 0);
	CHECK_INT(parsed("1", NULL, "a:b").count, 0);
}

UNIT_CASE(no_descriptors_are_nobodys)
{
	CHECK_INT(parsed("4711", "0", NULL).count, 0);
	CHECK_INT(parsed("1", "0", "").count, 0);
	CHECK_INT(parsed(NULL, "0", NULL).count, 0);
}

UNIT_CASE(descriptors_without_names_are_called_unknown)
{
	struct sg_listenfds got = parsed("4711", "2", NULL);

	CHECK_INT(got.count, 2);
	CHECK_STRING(got.names[0], "unknown");
	CHECK_STRING(got.names[1], "unknown");
}

UNIT_CASE(names_come_in_the_order_of_the_descriptors)
{
	struct sg_listenfds got = parsed("4711", "3", "http:https:http");

	CHECK_INT(got.count, 3);
	CHECK_STRING(got.names[0], "http");
	CHECK_STRING(got.names[1], "https");
	CHECK_STRING(got.names[2], "http");
	got = parsed("4711", "3", ":x:");
	CHECK_STRING(got.names[0], "");
	CHECK_STRING(got.names[1], "x");
	CHECK_STRING(got.names[2], "");
	CHECK_STRING(parsed("4711", "1", "").names[0], "");
}

UNIT_CASE(another_number_of_names_than_of_descriptors_is_refused)
{
	check_refused("4711", "2", "http", "LISTEN_FDNAMES has 1 names for LISTEN_FDS=2");
	check_refused("4711", "1", "http:https", "LISTEN_FDNAMES has 2 names");
	check_refused("4711", "1", "http:", "LISTEN_FDNAMES has 2 names");
	check_refused("4711", "2", "", "LISTEN_FDNAMES has 1 names");
}

UNIT_CASE(another_process_is_named_and_refused)
{
	check_refused("4712", "1", NULL, "LISTEN_PID=4712 names another process");
	check_refused("1", "1", "http", "(4711)");
	check_refused(NULL, "1", NULL, "LISTEN_PID='' is no pid");
}

UNIT_CASE(a_pid_that_is_no_number_is_refused)
{
	static const char *const pids[] = { "",       "0x1267",
		                            "4711 ",  " 4711",
		                            "+4711",  "-4711",
		                            "4711\n", "47110000000000000000004711" };

	for (size_t i = 0; i < sizeof(pids) / sizeof(pids[0]); i++)
		check_refused(pids[i], "1", NULL, "LISTEN_PID");
}

UNIT_CASE(a_count_that_is_no_number_up_to_128_is_refused)
{
	static const char *const counts[] = { "",          "-1",         "+1",
		                              " 1",        "1 ",         "one",
		                              "1.0",       "0x",         "129",
		                              "999999999", "4294967297", "18446744073709551617" };

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		check_refused("4711", counts[i], NULL, "LISTEN_FDS");
	CHECK_INT(parsed("4711", "128", NULL).count, 128);
	CHECK_STRING(parsed("4711", "128", NULL).names[127], "unknown");
	CHECK_INT(parsed("004711", "01", NULL).count, 1);
}

/* The service manager's own bound is 255 bytes. */
UNIT_CASE(a_name_longer_than_255_bytes_is_refused)
{
	char name[300];

	memset(name, 'n', sizeof(name));
	name[255] = '\0';
	CHECK_INT(strlen(parsed("4711", "1", name).names[0]), 255);
	name[255] = 'n';
	name[256] = '\0';
	check_refused("4711", "1", name, "LISTEN_FDNAMES");
}

UNIT_CASE(a_reason_stays_one_line_whatever_the_variables_have)
{
	static struct sg_listenfds got;
	char reason[300] = "";

	CHECK_INT(sg_listenfds_parse(&got, "4711", "1\nforged: line", NULL, PID, reason,
	                             sizeof(reason)),
	          -EINVAL);
	CHECK(strchr(reason, '\n') == NULL);
	CHECK_INT(sg_listenfds_parse(&got, "\033[2J\n", "1", NULL, PID, reason, sizeof(reason)),
	          -EINVAL);
	CHECK(strchr(reason, '\n') == NULL && strchr(reason, '\033') == NULL);
}

UNIT_MAIN
