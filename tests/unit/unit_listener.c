/* SPDX-License-Identifier: MIT */
/*
 * Listening sockets: bound as asked for, verified before use, and a unix path that belongs to
 * the service.
 */
#include "unit.h"

#include "core/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static char folder[] = "/tmp/segue-unit-XXXXXX";
static char path[64];
static const struct sg_bind_options defaults;

/* A folder of the case's own; path is a socket's in it. */
static void enter(void)
{
	CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/s", folder);
}

static void leave(void)
{
	MUST(rmdir(folder));
}

static struct sg_address parsed(const char *text)
{
	struct sg_address address;
	char reason[300];

	if (sg_address_parse(&address, text, reason, sizeof(reason)) != 0)
		UNIT_FAIL("%s", reason);
	return address;
}

static struct sg_address unix_address(void)
{
	char text[80];

	snprintf(text, sizeof(text), "unix://%s", path);
	return parsed(text);
}

static int bound_with(const struct sg_address *address, const struct sg_bind_options *options,
                      struct sg_file_id *ret_file)
{
	char reason[300] = "";
	int fd = sg_listener_bind(address, options, ret_file, reason, sizeof(reason));

	if (fd < 0)
		UNIT_FAIL("%s (%d)", reason, fd);
	return fd;
}

static int bound(const char *text)
{
	struct sg_address address = parsed(text);
	struct sg_file_id file;

	return bound_with(&address, &defaults, &file);
}

static void check_refused(const struct sg_address *address, const struct sg_bind_options *options,
                          int error, const char *why)
{
	struct sg_file_id file;
	char reason[300] = "";

	CHECK_INT(sg_listener_bind(address, options, &file, reason, sizeof(reason)), error);
	if (strstr(reason, why) == NULL || strstr(reason, address->text) == NULL)
		UNIT_FAIL("refused with: %s", reason);
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in6 name = { 0 };
	socklen_t len = sizeof(name);

	MUST(getsockname(fd, (struct sockaddr *)&name, &len));
	return ntohs(name.sin6_port);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	MUST(getsockopt(fd, level, name, &value, &len));
	return value;
}

static int connect_unix(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	strcpy(name.sun_path, path);
	if (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
		int error = errno;

		MUST(close(fd));
		return -error;
	}
	return fd;
}

static bool has_ipv6(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 name = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	bool has = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0;

	if (fd >= 0)
		MUST(close(fd));
	return has;
}

UNIT_CASE(a_tcp_listener_listens_non_blocking_and_close_on_exec)
{
	int fd = bound("tcp://127.0.0.1:0");

	CHECK(fd > 2);
	CHECK(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC);
	CHECK(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK);
	CHECK_INT(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
	CHECK_INT(option(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	CHECK_INT(option(fd, SOL_SOCKET, SO_REUSEPORT), 0);
	CHECK(port_of(fd) > 0);
	MUST(close(fd));
}

UNIT_CASE(a_udp_listener_is_bound_and_shares_its_port_with_nobody)
{
	int fd = bound("udp://127.0.0.1:0");
	char text[64];
	struct sg_address same;

	CHECK_INT(option(fd, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
	CHECK_INT(option(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	snprintf(text, sizeof(text), "udp://127.0.0.1:%u", port_of(fd));
	same = parsed(text);
	check_refused(&same, &defaults, -EADDRINUSE, "another program has this address");
	MUST(close(fd));
}

UNIT_CASE(the_short_form_takes_both_families)
{
	struct sg_address address = parsed(":0");
	struct sockaddr_in name = { .sin_family = AF_INET };
	struct sg_file_id file = { 1, 1 };
	int fd, client;

	if (!has_ipv6())
		SKIP("this machine has no IPv6");
	fd = bound_with(&address, &defaults, &file);
	CHECK_INT(file.ino, 0);
	CHECK_INT(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	name.sin_port = htons(port_of(fd));
	name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	client = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(connect(client, (struct sockaddr *)&name, sizeof(name)));
	MUST(close(client));
	MUST(close(fd));
}

UNIT_CASE(options_are_set_before_anybody_can_connect)
{
	struct sg_bind_options options = { .backlog = 1, .v6only = true, .reuseport = true };
	struct sg_address address = parsed("[::1]:0");
	struct sg_file_id file;
	struct tcp_info info;
	socklen_t len = sizeof(info);
	int fd;

	if (!has_ipv6())
		SKIP("this machine has no IPv6");
	fd = bound_with(&address, &options, &file);
	CHECK_INT(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	CHECK_INT(option(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	/* Of a listening socket this is the length of its backlog. */
	MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
	CHECK_INT(info.tcpi_sacked, 1);
	MUST(close(fd));
}

UNIT_CASE(a_host_name_is_resolved)
{
	int fd = bound("localhost:0");
	char text[SG_ADDRESS_MAX];
	struct sg_address nowhere = parsed("does-not-exist.invalid:0");

	CHECK_INT(sg_listener_text(fd, text, sizeof(text)), 0);
	CHECK(strncmp(text, "tcp://127.0.0.1:", 16) == 0 || strncmp(text, "tcp://[::1]:", 12) == 0);
	MUST(close(fd));
	check_refused(&nowhere, &defaults, -EADDRNOTAVAIL, "host not found");
}

UNIT_CASE(a_taken_port_is_refused_with_what_to_do)
{
	int fd = bound("tcp://127.0.0.1:0");
	struct sg_address same;
	char text[64];

	snprintf(text, sizeof(text), "tcp://127.0.0.1:%u", port_of(fd));
	same = parsed(text);
	check_refused(&same, &defaults, -EADDRINUSE, "choose another port");
	snprintf(text, sizeof(text), "tcp://0.0.0.0:%u", port_of(fd));
	same = parsed(text);
	check_refused(&same, &defaults, -EADDRINUSE, "overlaps");
	MUST(close(fd));
	same = parsed("tcp://192.0.2.1:0");
	check_refused(&same, &defaults, -EADDRNOTAVAIL, "bind");
}

/* Binds a, then b beside it: can it? The port is one that was free a moment ago. */
static bool kernel_overlaps(const struct sg_address *a, bool a_v6only, const struct sg_address *b,
                            bool b_v6only)
{
	struct sg_bind_options options = { .v6only = a_v6only }, others = { .v6only = b_v6only };
	struct sg_file_id file;
	char reason[300];
	int first = sg_listener_bind(a, &options, &file, reason, sizeof(reason)), second;

	if (first < 0)
		UNIT_FAIL("%s", reason);
	second = sg_listener_bind(b, &others, &file, reason, sizeof(reason));
	CHECK(second >= 0 || second == -EADDRINUSE);
	MUST(close(first));
	if (second >= 0)
		MUST(close(second));
	return second < 0;
}

UNIT_CASE(what_overlaps_is_what_the_kernel_refuses)
{
	static const char *const hosts[] = { "127.0.0.1", "127.0.0.2", "0.0.0.0",           "[::1]",
		                             "[::]",      "*",         "[::ffff:127.0.0.1]" };
	enum { HOSTS = sizeof(hosts) / sizeof(hosts[0]) };
	int probe;
	unsigned int port;

	if (!has_ipv6())
		SKIP("this machine has no IPv6");
	probe = bound(":0");
	port = port_of(probe);
	MUST(close(probe));
	for (int both = 0; both < 4; both++)
		for (int i = 0; i < HOSTS; i++)
			for (int j = 0; j < HOSTS; j++) {
				struct sg_address a, b;
				char text[2][64];
				bool v6only = both & 1, b_v6only = both & 2, said, is;

				/* A mapped number cannot be bound with IPV6_V6ONLY. */
				if ((v6only && i == HOSTS - 1) || (b_v6only && j == HOSTS - 1))
					continue;
				snprintf(text[0], 64, "%s:%u", hosts[i], port);
				snprintf(text[1], 64, "%s:%u", hosts[j], port);
				a = parsed(text[0]);
				b = parsed(text[1]);
				said = sg_address_overlaps(&a, v6only, &b, b_v6only);
				is = kernel_overlaps(&a, v6only, &b, b_v6only);
				if (said != is)
					UNIT_FAIL("%s and %s (v6only %d, %d): said %d, is %d",
					          a.text, b.text, v6only, b_v6only, said, is);
			}
}

UNIT_CASE(a_unix_path_has_its_mode_from_birth_whatever_the_umask)
{
	static const unsigned int modes[] = { 0600, 0660, 0666, 0777, 0620 };
	struct sg_address address;
	struct sg_file_id file;
	struct stat st;
	int fd;

	enter();
	address = unix_address();
	umask(077);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct sg_bind_options options = { .mode = modes[i] };

		fd = bound_with(&address, &options, &file);
		MUST(stat(path, &st));
		CHECK_INT(st.st_mode & 07777, modes[i]);
		CHECK(S_ISSOCK(st.st_mode));
		CHECK_INT(file.dev, st.st_dev);
		CHECK_INT(file.ino, st.st_ino);
		sg_listener_unlink(path, file);
		MUST(close(fd));
	}
	CHECK_INT(umask(022), 077);
	/* Without a mode: that of the umask. */
	fd = bound_with(&address, &defaults, &file);
	MUST(stat(path, &st));
	CHECK_INT(st.st_mode & 07777, 0755);
	sg_listener_unlink(path, file);
	MUST(close(fd));
	leave();
}

UNIT_CASE(a_unix_path_has_the_owner_and_group_asked_for)
{
	struct sg_bind_options options = { .owner = "daemon", .group = "12345" };
	struct sg_address address;
	struct sg_file_id file;
	struct stat st;
	int fd;

	if (getuid() != 0)
		SKIP("giving a file away needs root");
	enter();
	address = unix_address();
	fd = bound_with(&address, &options, &file);
	MUST(stat(path, &st));
	CHECK_INT(st.st_uid, 1);
	CHECK_INT(st.st_gid, 12345);
	sg_listener_unlink(path, file);
	MUST(close(fd));
	leave();
}

UNIT_CASE(an_unknown_owner_or_group_is_named_and_nothing_is_left)
{
	struct sg_bind_options owner = { .owner = "no-such-user" }, group = { .group = "12x" },
			       empty = { .owner = "" };
	struct sg_address address;

	enter();
	address = unix_address();
	check_refused(&address, &owner, -ESRCH, "no user 'no-such-user'");
	check_refused(&address, &group, -ESRCH, "no group '12x'");
	check_refused(&address, &empty, -ESRCH, "no user ''");
	CHECK(access(path, F_OK) < 0);
	leave();
}

UNIT_CASE(a_stale_path_is_replaced)
{
	struct sg_address address;
	struct sg_file_id first, second;
	int fd, client, stale;

	enter();
	address = unix_address();
	stale = bound_with(&address, &defaults, &first);
	MUST(close(stale));
	CHECK_INT(connect_unix(), -ECONNREFUSED);
	fd = bound_with(&address, &defaults, &second);
	CHECK(second.ino == sg_listener_file(path).ino);
	client = (int)MUST(connect_unix());
	MUST(close(client));
	sg_listener_unlink(path, second);
	MUST(close(fd));
	leave();
}

UNIT_CASE(a_live_path_is_left_alone_also_with_a_full_backlog)
{
	struct sg_bind_options options = { .backlog = 1 };
	struct sg_address address;
	struct sg_file_id file;
	int fd, clients[8], count = 0, r;

	enter();
	address = unix_address();
	fd = bound_with(&address, &options, &file);
	check_refused(&address, &defaults, -EADDRINUSE, "another program listens there");
	while ((r = connect_unix()) >= 0 && count < 8)
		clients[count++] = r;
	CHECK_INT(r, -EAGAIN);
	check_refused(&address, &defaults, -EADDRINUSE, "another program listens there");
	CHECK(sg_listener_file(path).ino == file.ino);
	while (count > 0)
		MUST(close(clients[--count]));
	sg_listener_unlink(path, file);
	MUST(close(fd));
	leave();
}

UNIT_CASE(a_datagram_socket_that_lives_at_the_path_is_left_alone)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct sg_address address;
	int fd;

	enter();
	address = unix_address();
	strcpy(name.sun_path, path);
	fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(bind(fd, (struct sockaddr *)&name, sizeof(name)));
	check_refused(&address, &defaults, -EADDRINUSE, "another program listens there");
	MUST(close(fd));
	MUST(unlink(path));
	leave();
}

UNIT_CASE(what_is_no_socket_at_the_path_is_left_alone)
{
	struct sg_address address;
	struct stat st;
	int fd;

	enter();
	address = unix_address();
	fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	MUST(close(fd));
	check_refused(&address, &defaults, -EEXIST, "not a socket");
	MUST(stat(path, &st));
	CHECK(S_ISREG(st.st_mode));
	MUST(unlink(path));
	MUST(symlink("nowhere", path));
	check_refused(&address, &defaults, -EEXIST, "not a socket");
	MUST(unlink(path));
	MUST(mkdir(path, 0755));
	check_refused(&address, &defaults, -EEXIST, "not a socket");
	MUST(rmdir(path));
	leave();
	check_refused(&address, &defaults, -ENOENT, "there is no folder /");
}

UNIT_CASE(only_the_file_that_was_bound_is_unlinked)
{
	struct sg_address address;
	struct sg_file_id file, none = { 0 }, other;
	int fd;

	enter();
	address = unix_address();
	fd = bound_with(&address, &defaults, &file);
	sg_listener_unlink(path, none);
	other = file;
	other.dev++;
	sg_listener_unlink(path, other);
	other = file;
	other.ino++;
	sg_listener_unlink(path, other);
	CHECK(sg_listener_file(path).ino == file.ino);
	sg_listener_unlink(path, file);
	CHECK_INT(sg_listener_file(path).ino, 0);
	sg_listener_unlink(path, file);
	MUST(close(fd));
	/* A plain file is nobody's socket. */
	fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	MUST(close(fd));
	CHECK_INT(sg_listener_file(path).ino, 0);
	MUST(unlink(path));
	leave();
}

UNIT_CASE(an_abstract_listener_makes_no_file)
{
	struct sg_address address;
	struct sg_file_id file = { 1, 1 };
	char text[80], reason[300], bound_to[SG_ADDRESS_MAX];
	int fd;

	snprintf(text, sizeof(text), "unix://@segue-unit-%ld", (long)getpid());
	address = parsed(text);
	fd = bound_with(&address, &defaults, &file);
	CHECK_INT(file.ino, 0);
	CHECK_INT(sg_listener_text(fd, bound_to, sizeof(bound_to)), 0);
	CHECK_STRING(bound_to, text);
	CHECK_INT(sg_listener_verify(fd, &address, reason, sizeof(reason)), 0);
	check_refused(&address, &defaults, -EADDRINUSE, "another program has this address");
	MUST(close(fd));
}

static void check_verify(int fd, const char *text, int expected, const char *why)
{
	struct sg_address address = parsed(text);
	char reason[400] = "";
	int r = sg_listener_verify(fd, &address, reason, sizeof(reason));

	if (r != expected || strstr(reason, why) == NULL)
		UNIT_FAIL("%s: %d: %s", text, r, reason);
}

UNIT_CASE(an_inherited_socket_is_verified_by_type_state_and_address)
{
	int tcp = bound("tcp://127.0.0.1:0"), udp = bound("udp://127.0.0.1:0");
	int fresh = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	int file = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
	char text[64];

	snprintf(text, sizeof(text), "tcp://127.0.0.1:%u", port_of(tcp));
	check_verify(tcp, text, 0, "");
	check_verify(tcp, "tcp://127.0.0.1:0", 0, "");
	check_verify(tcp, "tcp://localhost:0", 0, "");
	check_verify(udp, "udp://127.0.0.1:0", 0, "");
	check_verify(tcp, "udp://127.0.0.1:0", -EPROTOTYPE, "another type");
	check_verify(udp, "tcp://127.0.0.1:0", -EPROTOTYPE, "another type");
	snprintf(text, sizeof(text), "tcp://127.0.0.1:%u", port_of(tcp) ^ 1);
	check_verify(tcp, text, -EADDRNOTAVAIL, text);
	check_verify(tcp, ":0", -EADDRNOTAVAIL, "the socket is bound to tcp://127.0.0.1:");
	check_verify(tcp, "unix:///run/a", -EADDRNOTAVAIL, "not to unix:///run/a");
	check_verify(fresh, "tcp://127.0.0.1:0", -EINVAL, "does not listen");
	check_verify(file, "tcp://127.0.0.1:0", -ENOTSOCK, "is not a socket");
	MUST(close(file));
	check_verify(file, "tcp://127.0.0.1:0", -EBADF, "is not open");
	MUST(close(tcp));
	MUST(close(udp));
	MUST(close(fresh));
}

UNIT_CASE(an_inherited_unix_socket_is_verified_by_its_path)
{
	struct sg_address address;
	struct sg_file_id file;
	int fd;

	enter();
	address = unix_address();
	fd = bound_with(&address, &defaults, &file);
	check_verify(fd, address.text, 0, "");
	check_verify(fd, "unix:///run/other.sock", -EADDRNOTAVAIL, address.text);
	check_verify(fd, "unix://@other", -EADDRNOTAVAIL, "not to unix://@other");
	sg_listener_unlink(path, file);
	MUST(close(fd));
	leave();
}

UNIT_CASE(a_socket_of_another_network_is_told_from_one_of_this)
{
	static const char *const addresses[] = { "tcp://0.0.0.0:0",
		                                 "unix://@segue-unit-elsewhere" };
	int here = (int)MUST(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
	struct sg_bind_options options = { 0 };
	struct sg_address address;
	struct sg_file_id file;
	char reason[256];

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		int fd;

		CHECK_INT(sg_address_parse(&address, addresses[i], reason, sizeof(reason)), 0);
		for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
			/* Not everybody may. */
			if (elsewhere && unshare(CLONE_NEWNET) < 0)
				continue;
			fd = sg_listener_bind(&address, &options, &file, reason, sizeof(reason));
			MUST(fd);
			if (elsewhere)
				MUST(setns(here, CLONE_NEWNET));
			CHECK_INT(sg_listener_is_elsewhere(fd), elsewhere);
			MUST(close(fd));
		}
	}
	MUST(close(here));
}

UNIT_CASE(a_path_is_the_same_in_every_network)
{
	char place[] = "/tmp/segue-unit-XXXXXX", text[80], reason[256];
	int here = (int)MUST(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)), fd;
	struct sg_bind_options options = { 0 };
	struct sg_address address;
	struct sg_file_id file;

	CHECK(mkdtemp(place) != NULL);
	snprintf(text, sizeof(text), "unix://%s/sock", place);
	CHECK_INT(sg_address_parse(&address, text, reason, sizeof(reason)), 0);
	(void)unshare(CLONE_NEWNET);
	fd = sg_listener_bind(&address, &options, &file, reason, sizeof(reason));
	MUST(fd);
	(void)setns(here, CLONE_NEWNET);
	CHECK(!sg_listener_is_elsewhere(fd));
	MUST(close(fd));
	MUST(close(here));
	MUST(unlink(text + strlen("unix://")));
	MUST(rmdir(place));
}

UNIT_MAIN
