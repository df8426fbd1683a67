/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's own service manager, with a stand-in for its socket: what is said in which
 * words, and that nobody waits for it.
 */
#include "unit.h"

/* 3 and more are what LISTEN_FDS counts from: kept free from libuv's own descriptors. */
#define PASSED     3
#define PASSED_MAX 4

__attribute__((constructor(101))) static void reserve(void)
{
	for (int fd = PASSED; fd < PASSED + PASSED_MAX; fd++)
		if (open("/dev/null", O_RDONLY | O_CLOEXEC) != fd)
			abort();
}

#include "unit_loop.h"

#include "core/fd.h"
#include "segue/manager.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct bench {
	uv_loop_t loop;
	uv_timer_t others; /* the loop lives by others: the manager does not keep it */
	struct manager *manager;
	char folder[64], path[100], reason[512];
	int fd; /* the stand-in's end */
};

struct heard {
	char text[1024];
	int fd;
};

static void set(const char *name, const char *value)
{
	MUST(setenv(name, value, 1));
}

static void set_number(const char *name, long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", value);
	set(name, text);
}

static void on_others(uv_timer_t *timer)
{
	UNIT_FAIL("a quarter of an hour has passed");
}

static void bench_prepare(struct bench *bench)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*bench = (struct bench){ .folder = "/tmp/segue-unit-XXXXXX" };
	CHECK(mkdtemp(bench->folder) != NULL);
	snprintf(bench->path, sizeof(bench->path), "%s/notify", bench->folder);
	strcpy(address.sun_path, bench->path);
	bench->fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(bind(bench->fd, (struct sockaddr *)&address, sizeof(address)));
	CHECK_INT(uv_loop_init(&bench->loop), 0);
	CHECK_INT(uv_timer_init(&bench->loop, &bench->others), 0);
	CHECK_INT(uv_timer_start(&bench->others, on_others, 1000000, 0), 0);
	set("NOTIFY_SOCKET", bench->path);
}

static int bench_try(struct bench *bench)
{
	return manager_open(&bench->manager, &bench->loop, bench->reason, sizeof(bench->reason));
}

static void bench_open(struct bench *bench)
{
	if (bench_try(bench) < 0)
		UNIT_FAIL("%s", bench->reason);
}

static void bench_close(struct bench *bench)
{
	CHECK_INT(uv_timer_stop(&bench->others), 0);
	uv_close((uv_handle_t *)&bench->others, NULL);
	manager_close(bench->manager);
	CHECK_INT(uv_run(&bench->loop, UV_RUN_DEFAULT), 0);
	CHECK_INT(uv_loop_close(&bench->loop), 0);
	MUST(close(bench->fd));
	MUST(unlink(bench->path));
	MUST(rmdir(bench->folder));
}

/* The next message; "" where none comes within so many milliseconds. */
static const struct heard *hear_within(struct bench *bench, int ms)
{
	static struct heard heard;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = heard.text, .iov_len = sizeof(heard.text) - 1 };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control.space) };
	struct pollfd poller = { .fd = bench->fd, .events = POLLIN };
	ssize_t n;

	heard = (struct heard){ .fd = -1 };
	if (MUST(poll(&poller, 1, ms)) == 0)
		return &heard;
	n = MUST(recvmsg(bench->fd, &msg, MSG_CMSG_CLOEXEC));
	heard.text[n] = '\0';
	if (msg.msg_controllen >= CMSG_LEN(sizeof(int)))
		memcpy(&heard.fd, CMSG_DATA(&control.header), sizeof(int));
	return &heard;
}

static void hears(struct bench *bench, const char *text)
{
	CHECK_STRING(hear_within(bench, 10000)->text, text);
}

static void hears_nothing(struct bench *bench)
{
	CHECK_STRING(hear_within(bench, 0)->text, "");
}

/* A listening socket at a number of its own. */
static int listener_at(int fd)
{
	int made = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	MUST(listen(made, 5));
	MUST(dup2(made, fd));
	MUST(close(made));
	return fd;
}

static void give_back(int fd)
{
	int null = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));

	if (null == fd)
		return;
	MUST(dup3(null, fd, O_CLOEXEC));
	MUST(close(null));
}

static ino_t inode(int fd)
{
	struct stat file;

	MUST(fstat(fd, &file));
	return file.st_ino;
}

static void pass(int count, const char *names)
{
	set_number("LISTEN_PID", getpid());
	set_number("LISTEN_FDS", count);
	set("LISTEN_FDNAMES", names);
}

UNIT_CASE(where_nobody_listens_nothing_is_said_and_nothing_fails)
{
	struct manager_socket socket;
	struct bench bench;

	bench_prepare(&bench);
	MUST(unsetenv("NOTIFY_SOCKET"));
	bench_open(&bench);
	manager_ready(bench.manager, "x");
	manager_reloading(bench.manager, "x");
	manager_status(bench.manager, "x");
	manager_extend(bench.manager, 1000);
	manager_store(bench.manager, "http", bench.fd);
	manager_unstore(bench.manager, "http");
	manager_stopping(bench.manager, "x");
	CHECK(!manager_take_socket(bench.manager, &socket));
	hears_nothing(&bench);
	bench_close(&bench);
}

UNIT_CASE(a_socket_that_cannot_be_reached_is_no_error)
{
	struct bench bench;

	bench_prepare(&bench);
	set("NOTIFY_SOCKET", "/tmp/segue-unit-nobody/there");
	bench_open(&bench);
	manager_ready(bench.manager, "x");
	hears_nothing(&bench);
	bench_close(&bench);
}

UNIT_CASE(the_variables_are_taken_out_of_the_environment)
{
	static const char *const names[] = { "NOTIFY_SOCKET",    "WATCHDOG_USEC", "WATCHDOG_PID",
		                             "LISTEN_PID",       "LISTEN_FDS",    "LISTEN_FDNAMES",
		                             "SYSTEMD_EXEC_PID", "FDSTORE" };
	struct bench bench;

	bench_prepare(&bench);
	pass(0, "");
	set_number("WATCHDOG_PID", 1);
	set_number("WATCHDOG_USEC", 1000);
	set_number("SYSTEMD_EXEC_PID", getpid());
	set_number("FDSTORE", 7);
	bench_open(&bench);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (getenv(names[i]) != NULL)
			UNIT_FAIL("%s is still there", names[i]);
	bench_close(&bench);
}

UNIT_CASE(what_is_said_is_said_in_order_and_in_these_words)
{
	struct bench bench;
	const char *reloading;
	long long before, told;
	char status[10];

	bench_prepare(&bench);
	bench_open(&bench);
	manager_ready(bench.manager, "Generation 1 serves");
	hears(&bench, "READY=1\nSTATUS=Generation 1 serves");
	before = sg_now_us();
	manager_reloading(bench.manager, "Upgrading");
	reloading = hear_within(&bench, 10000)->text;
	CHECK_INT(sscanf(reloading, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=%9s", &told, status),
	          2);
	CHECK(told >= before && told <= sg_now_us());
	CHECK_STRING(status, "Upgrading");
	manager_extend(bench.manager, 20000);
	hears(&bench, "EXTEND_TIMEOUT_USEC=20000000");
	manager_status(bench.manager, "2 of 4");
	hears(&bench, "STATUS=2 of 4");
	manager_ready(bench.manager, NULL);
	hears(&bench, "READY=1");
	manager_stopping(bench.manager, "Stopping");
	hears(&bench, "STOPPING=1\nSTATUS=Stopping");
	hears_nothing(&bench);
	bench_close(&bench);
}

UNIT_CASE(a_status_is_one_line_and_is_cut)
{
	struct bench bench;
	char status[2000];

	bench_prepare(&bench);
	bench_open(&bench);
	manager_status(bench.manager, "failed\nREADY=1\tx\x7f");
	hears(&bench, "STATUS=failed READY=1 x ");
	memset(status, 'x', sizeof(status));
	status[sizeof(status) - 1] = '\0';
	manager_ready(bench.manager, status);
	CHECK_INT(strlen(hear_within(&bench, 10000)->text), strlen("READY=1\nSTATUS=") + 255);
	bench_close(&bench);
}

UNIT_CASE(the_watchdog_is_answered_as_long_as_the_loop_turns)
{
	struct bench bench;

	bench_prepare(&bench);
	set_number("WATCHDOG_USEC", 100000);
	set_number("WATCHDOG_PID", getpid());
	bench_open(&bench);
	for (int i = 0; i < 4; i++) {
		int64_t began = sg_now_ms();

		while (hear_within(&bench, 0)->text[0] == '\0') {
			(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
			if (sg_now_ms() - began > 10000)
				UNIT_FAIL("the watchdog was not answered");
		}
	}
	CHECK_STRING(hear_within(&bench, 300)->text, "");
	bench_close(&bench);
}

UNIT_CASE(the_watchdog_is_answered_twice_an_interval)
{
	struct bench bench;
	int64_t first;

	bench_prepare(&bench);
	set_number("WATCHDOG_USEC", 2000000);
	bench_open(&bench);
	(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
	hears(&bench, "WATCHDOG=1");
	first = sg_now_ms();
	while (hear_within(&bench, 1)->text[0] == '\0')
		(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
	CHECK(sg_now_ms() - first >= 900 && sg_now_ms() - first < 2000);
	bench_close(&bench);
}

UNIT_CASE(a_watchdog_of_another_process_is_not_answered)
{
	struct bench bench;

	bench_prepare(&bench);
	set_number("WATCHDOG_USEC", 1000);
	set_number("WATCHDOG_PID", 1);
	bench_open(&bench);
	for (int i = 0; i < 20; i++) {
		(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
		CHECK_STRING(hear_within(&bench, 1)->text, "");
	}
	bench_close(&bench);
}

static int64_t extension(struct bench *bench)
{
	const struct heard *heard;
	long long usec;

	while ((heard = hear_within(bench, 1))->text[0] == '\0')
		(void)uv_run(&bench->loop, UV_RUN_NOWAIT);
	CHECK_INT(sscanf(heard->text, "EXTEND_TIMEOUT_USEC=%lld", &usec), 1);
	return usec / 1000;
}

UNIT_CASE(a_stop_that_goes_on_asks_for_more_time_before_what_it_had_is_over)
{
	struct bench bench;
	int64_t began, more;

	bench_prepare(&bench);
	bench_open(&bench);
	manager_stopping(bench.manager, NULL);
	hears(&bench, "STOPPING=1");
	(void)extension(&bench);
	began = sg_now_ms();
	more = extension(&bench);
	CHECK(sg_now_ms() - began < more / 2);
	bench_close(&bench);
}

static void count_active(uv_handle_t *handle, void *arg)
{
	*(int *)arg += uv_is_active(handle) != 0;
}

static int active(struct bench *bench)
{
	int count = 0;

	uv_walk(&bench->loop, count_active, &count);
	return count;
}

UNIT_CASE(a_stop_that_has_no_end_asks_for_no_more_time)
{
	struct bench bench;
	int before;

	bench_prepare(&bench);
	bench_open(&bench);
	manager_stopping(bench.manager, NULL);
	hears(&bench, "STOPPING=1");
	before = active(&bench);
	manager_give_up(bench.manager);
	CHECK_INT(active(&bench), before - 1);
	/* Asked for once more, by an operator, it has deadlines again. */
	manager_stopping(bench.manager, NULL);
	hears(&bench, "STOPPING=1");
	CHECK_INT(active(&bench), before);
	bench_close(&bench);
}

UNIT_CASE(a_listener_is_stored_under_a_name_that_no_listener_has)
{
	const struct heard *heard;
	struct bench bench;
	int fd = listener_at(PASSED);

	bench_prepare(&bench);
	bench_open(&bench);
	manager_store(bench.manager, "http", fd);
	heard = hear_within(&bench, 10000);
	CHECK_STRING(heard->text, "FDSTORE=1\nFDNAME=stored.http\nFDPOLL=0");
	CHECK_INT(inode(heard->fd), inode(fd));
	MUST(close(heard->fd));
	manager_unstore(bench.manager, "http");
	hears(&bench, "FDSTOREREMOVE=1\nFDNAME=stored.http");
	bench_close(&bench);
	give_back(fd);
}

UNIT_CASE(passed_sockets_come_with_their_names_and_are_not_stored_again)
{
	struct manager_socket first, second, third;
	struct bench bench;

	listener_at(PASSED);
	listener_at(PASSED + 1);
	bench_prepare(&bench);
	pass(2, "web:stored.http");
	bench_open(&bench);
	CHECK(manager_take_socket(bench.manager, &first));
	CHECK(manager_take_socket(bench.manager, &second));
	CHECK(!manager_take_socket(bench.manager, &third));
	CHECK_STRING(first.name, "web");
	CHECK(!first.stored);
	CHECK_INT(first.fd, PASSED);
	CHECK_STRING(second.name, "http");
	CHECK(second.stored);
	CHECK_INT(second.fd, PASSED + 1);
	CHECK(MUST(fcntl(second.fd, F_GETFL)) & O_NONBLOCK);
	CHECK(MUST(fcntl(second.fd, F_GETFD)) & FD_CLOEXEC);
	manager_store(bench.manager, "web", first.fd);
	manager_store(bench.manager, "http", second.fd);
	hears_nothing(&bench);
	bench_close(&bench);
	give_back(PASSED);
	give_back(PASSED + 1);
}

UNIT_CASE(a_socket_that_is_stored_and_passed_by_a_unit_comes_once)
{
	struct manager_socket socket;
	struct bench bench;

	listener_at(PASSED);
	MUST(dup2(PASSED, PASSED + 1));
	bench_prepare(&bench);
	pass(2, "stored.http:web");
	bench_open(&bench);
	CHECK(manager_take_socket(bench.manager, &socket));
	CHECK_STRING(socket.name, "web");
	CHECK(!socket.stored);
	CHECK(!manager_take_socket(bench.manager, &socket));
	hears(&bench, "FDSTOREREMOVE=1\nFDNAME=stored.http");
	CHECK_INT(fcntl(PASSED, F_GETFD), -1);
	bench_close(&bench);
	give_back(PASSED);
	give_back(PASSED + 1);
}

UNIT_CASE(sockets_that_nobody_takes_are_closed)
{
	struct bench bench;

	listener_at(PASSED);
	bench_prepare(&bench);
	pass(1, "web");
	bench_open(&bench);
	bench_close(&bench);
	CHECK_INT(fcntl(PASSED, F_GETFD), -1);
	give_back(PASSED);
}

UNIT_CASE(what_is_malformed_is_refused_with_a_sentence)
{
	static const struct {
		const char *name, *value, *reason;
	} cases[] = {
		{ "NOTIFY_SOCKET", "relative", "NOTIFY_SOCKET='relative' is neither a path" },
		{ "WATCHDOG_USEC", "soon", "WATCHDOG_USEC='soon'" },
		{ "WATCHDOG_PID", "-1", "WATCHDOG_PID='-1'" },
		{ "LISTEN_FDS", "many", "LISTEN_FDS='many' is no number" },
		{ "LISTEN_PID", "1", "LISTEN_PID=1 names another process" },
		{ "LISTEN_FDNAMES", "a:b:c", "LISTEN_FDNAMES has 3 names" },
		{ "LISTEN_FDS", "2", "descriptor 4 of LISTEN_FDS=2 is no socket" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bench bench;

		bench_prepare(&bench);
		listener_at(PASSED);
		pass(1, "web");
		if (i == 6)
			MUST(unsetenv("LISTEN_FDNAMES"));
		set(cases[i].name, cases[i].value);
		CHECK_INT(bench_try(&bench), -EINVAL);
		if (strstr(bench.reason, cases[i].reason) == NULL)
			UNIT_FAIL("'%s' does not say '%s'", bench.reason, cases[i].reason);
		CHECK(getenv("LISTEN_FDS") == NULL);
		/* What may be somebody else's is left alone. */
		CHECK_INT(MUST(fcntl(PASSED, F_GETFD)), 0);
		bench_close(&bench);
		give_back(PASSED);
	}
}

UNIT_CASE(a_manager_that_does_not_read_holds_nobody_up)
{
	struct bench bench;
	char text[40];
	int64_t began;
	int count = 0;

	bench_prepare(&bench);
	bench_open(&bench);
	began = sg_now_ms();
	for (int i = 0; i < 50; i++)
		manager_extend(bench.manager, i);
	for (int i = 0; i < 5; i++)
		manager_status(bench.manager, i < 4 ? "stale" : "last");
	CHECK(sg_now_ms() - began < 200);
	for (; count < 50; count++) {
		snprintf(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%d000", count);
		if (count == 0)
			strcpy(text, "EXTEND_TIMEOUT_USEC=0");
		(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
		hears(&bench, text);
	}
	(void)uv_run(&bench.loop, UV_RUN_NOWAIT);
	hears(&bench, "STATUS=last");
	hears_nothing(&bench);
	bench_close(&bench);
}

UNIT_CASE(what_waits_for_a_manager_is_bounded_and_given_up_at_the_end)
{
	struct bench bench;

	bench_prepare(&bench);
	bench_open(&bench);
	for (int i = 0; i < 1000; i++)
		manager_store(bench.manager, "http", bench.fd);
	bench_close(&bench);
}

UNIT_MAIN
