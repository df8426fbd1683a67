/* SPDX-License-Identifier: MIT */
/*
 * Where the control sockets are: the folder by the environment, made private, and what is found
 * in it.
 */
#include "unit.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "segue/paths.c"

static char folder[64];

static void begin(void)
{
	strcpy(folder, "/tmp/unit-paths-XXXXXX");
	CHECK(mkdtemp(folder) != NULL);
	MUST(setenv("SEGUE_RUNTIME_DIR", folder, 1));
}

static void end(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	CHECK_INT(system(command), 0);
}

/* A file of the folder; a socket, or an ordinary one. */
static void put_file(const char *name, bool is_socket)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	snprintf(address.sun_path, sizeof(address.sun_path), "%.60s/%.40s", folder, name);
	if (is_socket) {
		fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
		MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	} else {
		fd = (int)MUST(open(address.sun_path, O_CREAT | O_WRONLY, 0600));
	}
	close(fd);
}

struct walk {
	char names[256];
	int stop_after;
};

static int note(void *ctx, const char *name, const char *path)
{
	struct walk *walk = ctx;
	char expected[PATHS_MAX];

	CHECK_INT(paths_control(expected, sizeof(expected), name), 0);
	CHECK_STRING(path, expected);
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): an array is somewhere. */
	strcat(walk->names, name);
	strcat(walk->names, " ");
	return --walk->stop_after == 0 ? 7 : 0;
}

UNIT_CASE(the_folder_is_the_environments)
{
	char path[PATHS_MAX];

	MUST(setenv("SEGUE_RUNTIME_DIR", "/x", 1));
	MUST(setenv("XDG_RUNTIME_DIR", "/y", 1));
	CHECK_INT(paths_folder(path, sizeof(path)), 0);
	CHECK_STRING(path, "/x");
	CHECK_INT(paths_control(path, sizeof(path), "app"), 0);
	CHECK_STRING(path, "/x/app.sock");
	CHECK_INT(paths_notify(path, sizeof(path), "app"), 0);
	CHECK_STRING(path, "/x/app.notify");
	MUST(setenv("SEGUE_RUNTIME_DIR", "relative", 1));
	CHECK_INT(paths_folder(path, sizeof(path)), 0);
	CHECK_STRING(path, geteuid() == 0 ? "/run/segue" : "/y/segue");
}

UNIT_CASE(a_user_without_a_runtime_folder_is_told)
{
	char path[PATHS_MAX], reason[400];

	if (geteuid() == 0)
		MUST(seteuid(65534));
	unsetenv("SEGUE_RUNTIME_DIR");
	unsetenv("XDG_RUNTIME_DIR");
	CHECK_INT(paths_folder(path, sizeof(path)), -ENOENT);
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), -ENOENT);
	CHECK(strstr(reason, "XDG_RUNTIME_DIR names one; set one of them, or use --control"));
	MUST(setenv("XDG_RUNTIME_DIR", "/y", 1));
	CHECK_INT(paths_folder(path, sizeof(path)), 0);
	CHECK_STRING(path, "/y/segue");
	if (getuid() == 0) {
		/* The sanitizer looks for leaks at the end, and for that has to be allowed to. */
		MUST(seteuid(0));
		MUST(prctl(PR_SET_DUMPABLE, 1));
	}
}

UNIT_CASE(a_path_that_no_socket_can_have_is_refused)
{
	char path[200], long_folder[130];

	snprintf(long_folder, sizeof(long_folder), "/%099d", 0);
	MUST(setenv("SEGUE_RUNTIME_DIR", long_folder, 1));
	CHECK_INT(paths_control(path, sizeof(path), "ab"), -ENAMETOOLONG);
	CHECK_INT(paths_control(path, sizeof(path), "a"), 0);
	CHECK_INT(strlen(path), 107);
	snprintf(long_folder, sizeof(long_folder), "/%0120d", 0);
	MUST(setenv("SEGUE_RUNTIME_DIR", long_folder, 1));
	CHECK_INT(paths_control(path, sizeof(path), "a"), -ENAMETOOLONG);
	CHECK_INT(paths_each(note, NULL), -ENAMETOOLONG);
}

UNIT_CASE(the_folder_is_made_private)
{
	char path[PATHS_MAX], reason[400], inner[PATHS_MAX];
	struct stat info;

	begin();
	snprintf(inner, sizeof(inner), "%s/segue", folder);
	MUST(setenv("SEGUE_RUNTIME_DIR", inner, 1));
	umask(0777);
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), 0);
	CHECK_INT(umask(022), 0777);
	CHECK_STRING(path, inner);
	MUST(stat(path, &info));
	/* Workers of root's supervisor may be another user's: they pass, and see nothing. */
	CHECK_INT(info.st_mode & 07777, geteuid() == 0 ? 0711 : 0700);
	/* Again: it is there. */
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), 0);
	end();
}

UNIT_CASE(a_folder_that_others_can_write_to_is_refused)
{
	char path[PATHS_MAX], reason[400];

	begin();
	MUST(chmod(folder, 0770));
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), -EPERM);
	CHECK(strstr(reason, "can be written to by others"));
	MUST(chmod(folder, 0755));
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), 0);
	if (geteuid() == 0) {
		MUST(chown(folder, 65534, 65534));
		CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), -EPERM);
	}
	end();
}

UNIT_CASE(a_folder_that_is_none_is_refused)
{
	char path[PATHS_MAX], reason[400], inner[PATHS_MAX];

	begin();
	put_file("file", false);
	snprintf(inner, sizeof(inner), "%s/file", folder);
	MUST(setenv("SEGUE_RUNTIME_DIR", inner, 1));
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), -ENOTDIR);
	CHECK(strstr(reason, "it is not a folder"));
	snprintf(inner, sizeof(inner), "%s/none/x", folder);
	MUST(setenv("SEGUE_RUNTIME_DIR", inner, 1));
	CHECK_INT(paths_make_folder(path, sizeof(path), reason, sizeof(reason)), -ENOENT);
	CHECK(strstr(reason, "cannot be made: No such file"));
	snprintf(inner, sizeof(inner), "%s/link", folder);
	MUST(symlink("/tmp", inner));
	MUST(setenv("SEGUE_RUNTIME_DIR", inner, 1));
	CHECK(paths_make_folder(path, sizeof(path), reason, sizeof(reason)) < 0);
	end();
}

UNIT_CASE(services_are_found_in_the_order_of_their_names)
{
	struct walk walk = { .stop_after = -1 };

	begin();
	put_file("b.sock", true);
	put_file("a_1-x.sock", true);
	put_file("c.sock", true);
	put_file("c.notify", true);
	put_file("file.sock", false);
	put_file("UPPER.sock", true);
	put_file(".sock", true);
	CHECK_INT(paths_each(note, &walk), 0);
	CHECK_STRING(walk.names, "a_1-x b c ");
	walk = (struct walk){ .stop_after = 2 };
	CHECK_INT(paths_each(note, &walk), 7);
	CHECK_STRING(walk.names, "a_1-x b ");
	end();
}

UNIT_CASE(without_the_folder_there_is_no_service)
{
	struct walk walk = { .stop_after = -1 };

	begin();
	end();
	CHECK_INT(paths_each(note, &walk), 0);
	CHECK_STRING(walk.names, "");
}

UNIT_MAIN
