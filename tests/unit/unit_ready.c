/* SPDX-License-Identifier: MIT */
/*
 * Probes of readiness, against real sockets, pipes and commands.
 */
#include "unit.h"
#include "unit_loop.h"

#include "segue/ready.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

struct bench {
	uv_loop_t loop;
	struct config config;
	struct ready *ready;
	int fd; /* for the worker */
	char reason[512];
	unsigned int called;
	int error;
	char said[512];
	bool end; /* ends the probe out of the call */
};

static void on_done(void *ctx, int error, const char *reason)
{
	struct bench *bench = ctx;

	bench->called++;
	bench->error = error;
	snprintf(bench->said, sizeof(bench->said), "%s", reason);
	uv_stop(&bench->loop);
	if (bench->end) {
		ready_end(bench->ready);
		bench->ready = NULL;
	}
}

static void bench_init(struct bench *bench, enum config_ready mode, const char *argument)
{
	*bench = (struct bench){ .fd = -1 };
	bench->config.ready = mode;
	bench->config.ready_argument = (char *)argument;
	bench->config.ready_fd = 3;
	CHECK_INT(uv_loop_init(&bench->loop), 0);
}

static int prepare(struct bench *bench)
{
	return ready_prepare(&bench->ready, &bench->loop, &bench->config, 7, 2, &bench->fd,
	                     bench->reason, sizeof(bench->reason));
}

static void begin_with(struct bench *bench, const char *const *env)
{
	struct ready_target target = { .generation = 7, .worker = 2, .pid = getpid(), .env = env };

	CHECK_INT(ready_begin(bench->ready, &target, on_done, bench), 0);
	CHECK_INT(bench->called, 0);
}

static void begin(struct bench *bench)
{
	if (prepare(bench) != 0)
		UNIT_FAIL("refused: %s", bench->reason);
	begin_with(bench, NULL);
}

static void bench_done(struct bench *bench)
{
	ready_end(bench->ready);
	uv_run(&bench->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&bench->loop), 0);
}

static void run_until_called(struct bench *bench)
{
	while (bench->called == 0)
		uv_run(&bench->loop, UV_RUN_ONCE);
	CHECK_INT(bench->called, 1);
}

static void check_ready(struct bench *bench)
{
	run_until_called(bench);
	if (bench->error != 0)
		UNIT_FAIL("never ready: %s", bench->said);
}

static int listen_somewhere(uint16_t *ret_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	MUST(bind(fd, (struct sockaddr *)&address, len));
	MUST(getsockname(fd, (struct sockaddr *)&address, &len));
	*ret_port = ntohs(address.sin_port);
	return fd;
}

/* Answers one connection after the other with one text each, "" being none, and ends. */
static pid_t serve(int listener, const char *const *answers)
{
	pid_t pid = (pid_t)MUST(fork());
	char request[1024];
	int fd;

	if (pid != 0)
		return pid;
	for (; *answers != NULL; answers++) {
		fd = accept(listener, NULL, NULL);
		if (fd < 0 || read(fd, request, sizeof(request)) <= 0)
			_exit(1);
		if (strncmp(request, "GET /healthy?g=7 HTTP/1.1\r\nHost: ", 33) != 0)
			_exit(2);
		if (write(fd, *answers, strlen(*answers)) < 0)
			_exit(3);
		close(fd);
	}
	_exit(0);
}

static void check_served(pid_t pid)
{
	int status;

	MUST(waitpid(pid, &status, 0));
	CHECK_INT(status, 0);
}

/* Descriptor. */

UNIT_CASE(a_newline_on_the_descriptor_is_the_word)
{
	struct bench bench;

	bench_init(&bench, CONFIG_READY_FD, NULL);
	begin(&bench);
	CHECK(bench.fd > 2);
	CHECK(MUST(fcntl(bench.fd, F_GETFD)) & FD_CLOEXEC);
	CHECK(!(MUST(fcntl(bench.fd, F_GETFL)) & O_NONBLOCK));
	MUST(write(bench.fd, "warming up", 10));
	uv_run(&bench.loop, UV_RUN_ONCE);
	CHECK_INT(bench.called, 0);
	MUST(write(bench.fd, ", ready\n", 8));
	check_ready(&bench);
	MUST(close(bench.fd));
	bench_done(&bench);
	CHECK_INT(bench.called, 1);
}

UNIT_CASE(a_descriptor_closed_without_a_newline_is_never_ready)
{
	struct bench bench;

	bench_init(&bench, CONFIG_READY_FD, NULL);
	bench.end = true;
	begin(&bench);
	MUST(write(bench.fd, "ready", 5));
	MUST(close(bench.fd));
	run_until_called(&bench);
	CHECK_INT(bench.error, -EPIPE);
	CHECK_STRING(bench.said, "descriptor 3 was closed without a newline on it");
	bench_done(&bench);
}

UNIT_CASE(a_probe_that_ends_is_not_heard_of_again)
{
	struct bench bench;

	bench_init(&bench, CONFIG_READY_FD, NULL);
	begin(&bench);
	MUST(write(bench.fd, "\n", 1));
	ready_end(bench.ready);
	bench.ready = NULL;
	MUST(close(bench.fd));
	bench_done(&bench);
	CHECK_INT(bench.called, 0);
}

UNIT_CASE(modes_that_the_worker_says_itself_are_not_probed)
{
	static const enum config_ready modes[] = { CONFIG_READY_AUTO, CONFIG_READY_SEGUE,
		                                   CONFIG_READY_NOTIFY };
	struct bench bench;

	for (size_t i = 0; i < 3; i++) {
		bench_init(&bench, modes[i], NULL);
		begin(&bench);
		CHECK_INT(bench.fd, -1);
		CHECK_INT(uv_run(&bench.loop, UV_RUN_DEFAULT), 0);
		CHECK_INT(bench.called, 0);
		bench_done(&bench);
	}
}

UNIT_CASE(a_delay_lasts_as_long_as_it_says)
{
	struct bench bench;
	uint64_t began;

	bench_init(&bench, CONFIG_READY_DELAY, NULL);
	bench.config.ready_delay_ms = 300;
	began = uv_hrtime();
	begin(&bench);
	check_ready(&bench);
	CHECK(uv_hrtime() - began >= 299000000);
	bench_done(&bench);
}

/* Command. */

UNIT_CASE(a_command_is_run_until_it_exits_with_0)
{
	const char *env[] = { "COLOUR=blue", NULL };
	char folder[] = "/tmp/segue-unit-XXXXXX", command[512];
	struct bench bench;
	uint64_t began = uv_hrtime();

	CHECK(mkdtemp(folder) != NULL);
	snprintf(command, sizeof(command),
	         "[ \"$COLOUR$SHADE$NOTIFY_SOCKET\" = bluedark ] && [ {generation}.{worker}.{pid} "
	         "= 7.2.%d ] || exit 3; "
	         "[ \"$PWD\" = %s ] || exit 4; [ -e 2 ] && exit; [ -e 1 ] && echo >2; echo >1; "
	         "exit 9",
	         getpid(), folder);
	bench_init(&bench, CONFIG_READY_EXEC, command);
	bench.config.directory = folder;
	MUST(setenv("NOTIFY_SOCKET", "/run/systemd/notify", 1));
	MUST(setenv("COLOUR", "red", 1));
	MUST(setenv("SHADE", "dark", 1));
	CHECK_INT(prepare(&bench), 0);
	begin_with(&bench, env);
	env[0] = "COLOUR=green";
	check_ready(&bench);
	CHECK_STRING(ready_last(bench.ready), "the command exited with 9");
	/* The third run: two pauses. */
	CHECK(uv_hrtime() - began >= 490000000);
	bench_done(&bench);
	snprintf(command, sizeof(command), "cd %s && rm 1 2 && rmdir %s", folder, folder);
	CHECK_INT(system(command), 0);
}

UNIT_CASE(a_command_inherits_nothing)
{
	struct bench bench;
	int fd = (int)MUST(dup2(2, 50));

	bench_init(&bench, CONFIG_READY_EXEC,
	           "[ $(ls /proc/self/fd | wc -l) -le 5 ] && ! [ -e /proc/self/fd/50 ]");
	begin(&bench);
	check_ready(&bench);
	CHECK_STRING(ready_last(bench.ready), "");
	MUST(close(fd));
	bench_done(&bench);
}

/* The command's processes hold the writing end of a fifo. */
UNIT_CASE(a_command_that_hangs_is_killed_with_all_its_processes)
{
	char folder[] = "/tmp/segue-unit-XXXXXX", fifo[64], command[256];
	struct pollfd poller = { .events = POLLIN };
	struct bench bench;
	char byte;

	unit_adopt_orphans();
	CHECK(mkdtemp(folder) != NULL);
	snprintf(fifo, sizeof(fifo), "%s/fifo", folder);
	MUST(mkfifo(fifo, 0600));
	poller.fd = (int)MUST(open(fifo, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
	snprintf(command, sizeof(command), "exec >%s; echo; sleep 1000 & sleep 1000; wait", fifo);
	bench_init(&bench, CONFIG_READY_EXEC, command);
	begin(&bench);
	while (read(poller.fd, &byte, 1) != 1)
		uv_run(&bench.loop, UV_RUN_NOWAIT);
	ready_end(bench.ready);
	bench.ready = NULL;
	CHECK_INT(poll(&poller, 1, 20000), 1);
	CHECK(poller.revents & POLLHUP);
	MUST(close(poller.fd));
	bench_done(&bench);
	unit_reap_orphans();
	MUST(unlink(fifo));
	MUST(rmdir(folder));
}

UNIT_CASE(a_run_of_more_than_5_s_is_killed_and_another_begins)
{
	char folder[] = "/tmp/segue-unit-XXXXXX", command[256];
	uint64_t began = uv_hrtime();
	struct bench bench;

	unit_adopt_orphans();
	CHECK(mkdtemp(folder) != NULL);
	snprintf(command, sizeof(command), "rmdir %s || exit 0; sleep 1000", folder);
	bench_init(&bench, CONFIG_READY_EXEC, command);
	begin(&bench);
	check_ready(&bench);
	CHECK(uv_hrtime() - began >= 4900000000);
	CHECK(access(folder, F_OK) < 0);
	bench_done(&bench);
	unit_reap_orphans();
}

/* Addresses. */

UNIT_CASE(a_2xx_answer_is_the_word_and_503_is_not)
{
	static const char *const answers[] = { "HTTP/1.1 503 Not yet\r\nContent-Length: 0\r\n\r\n",
		                               "",
		                               "nonsense\r\n\r\n",
		                               "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
		                               "HTTP/1.1 204 Yes\r\n\r\n",
		                               NULL };
	struct bench bench;
	char url[128];
	uint16_t port;
	int listener;
	pid_t server;

	listener = listen_somewhere(&port);
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/healthy?g={generation}#x", port);
	bench_init(&bench, CONFIG_READY_HTTP, url);
	begin(&bench);
	MUST(listen(listener, 8));
	server = serve(listener, answers);
	MUST(close(listener));
	check_ready(&bench);
	CHECK_STRING(ready_last(bench.ready), "it answered with status 404");
	check_served(server);
	bench_done(&bench);
}

UNIT_CASE(the_status_that_was_answered_is_remembered)
{
	static const char *const answers[] = { "HTTP/1.1 503 Not yet\r\n\r\n", NULL };
	struct bench bench;
	char url[128];
	uint16_t port;
	int listener = listen_somewhere(&port);
	pid_t server;

	snprintf(url, sizeof(url), "http://127.0.0.1:%u/healthy?g=7", port);
	bench_init(&bench, CONFIG_READY_HTTP, url);
	begin(&bench);
	MUST(listen(listener, 8));
	server = serve(listener, answers);
	while (strcmp(ready_last(bench.ready), "it answered with status 503") != 0)
		uv_run(&bench.loop, UV_RUN_ONCE);
	check_served(server);
	MUST(close(listener));
	bench_done(&bench);
	CHECK_INT(bench.called, 0);
}

UNIT_CASE(a_connection_is_the_word_of_tcp)
{
	struct bench bench;
	char address[64];
	uint16_t port;
	int listener = listen_somewhere(&port);

	snprintf(address, sizeof(address), "tcp://localhost:%u", port);
	bench_init(&bench, CONFIG_READY_TCP, address);
	bench.end = true;
	begin(&bench);
	while (strcmp(ready_last(bench.ready), strerror(ECONNREFUSED)) != 0)
		uv_run(&bench.loop, UV_RUN_ONCE);
	MUST(listen(listener, 8));
	check_ready(&bench);
	MUST(close(listener));
	bench_done(&bench);
}

UNIT_CASE(an_address_that_answers_before_the_start_is_refused)
{
	struct bench bench;
	char address[64];
	uint16_t port;
	int listener = listen_somewhere(&port);

	MUST(listen(listener, 8));
	snprintf(address, sizeof(address), "tcp://127.0.0.1:%u", port);
	bench_init(&bench, CONFIG_READY_TCP, address);
	CHECK_INT(prepare(&bench), -EADDRINUSE);
	CHECK(strstr(bench.reason, address) != NULL);
	CHECK(strstr(bench.reason, "worker 2 of generation 7") != NULL);
	bench_done(&bench);
	snprintf(address, sizeof(address), "http://localhost:%u/", port);
	bench_init(&bench, CONFIG_READY_HTTP, address);
	CHECK_INT(prepare(&bench), -EADDRINUSE);
	bench_done(&bench);
	/* With its pid in it the address is the worker's own. */
	snprintf(address, sizeof(address), "http://127.0.0.1:%u/{pid}", port);
	bench_init(&bench, CONFIG_READY_HTTP, address);
	CHECK_INT(prepare(&bench), 0);
	bench_done(&bench);
	MUST(close(listener));
}

static int bind_unix(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	strcpy(address.sun_path, path);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

UNIT_CASE(unix_sockets_are_probed_by_path)
{
	static const char *const answers[] = { "HTTP/1.1 200 Yes\r\n\r\n", NULL };
	char folder[] = "/tmp/segue-unit-XXXXXX", path[64], url[128];
	struct bench bench, second;
	pid_t server;
	int listener, fd;

	CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/7.sock", folder);
	snprintf(url, sizeof(url), "unix://%s/{generation}.sock", folder);
	bench_init(&bench, CONFIG_READY_TCP, url);
	begin(&bench);
	snprintf(url, sizeof(url), "http://unix:%s/{generation}.sock:/healthy?g=7", folder);
	bench_init(&second, CONFIG_READY_HTTP, url);
	begin(&second);
	listener = bind_unix(path);
	MUST(listen(listener, 0));
	check_ready(&bench);
	bench_done(&bench);
	/* The probe's own connection is still in the queue, which now is full: that is an answer.
	 */
	bench_init(&bench, CONFIG_READY_HTTP, url);
	CHECK_INT(prepare(&bench), -EADDRINUSE);
	bench_done(&bench);
	fd = (int)MUST(accept(listener, NULL, NULL));
	MUST(close(fd));
	server = serve(listener, answers);
	check_ready(&second);
	MUST(close(listener));
	bench_done(&second);
	check_served(server);
	MUST(unlink(path));
	MUST(rmdir(folder));
}

static void check_refused(enum config_ready mode, const char *argument, const char *why)
{
	struct bench bench;

	bench_init(&bench, mode, argument);
	CHECK_INT(prepare(&bench), -EINVAL);
	if (strstr(bench.reason, why) == NULL)
		UNIT_FAIL("%s: %s", argument, bench.reason);
	bench_done(&bench);
}

UNIT_CASE(an_address_that_would_have_to_be_looked_up_is_refused)
{
	check_refused(CONFIG_READY_HTTP, "http://example.org/", "neither a number nor");
	check_refused(CONFIG_READY_TCP, "tcp://example.org:80", "neither a number nor");
	check_refused(CONFIG_READY_TCP, "tcp://127.0.0.1:0", "a port");
	check_refused(CONFIG_READY_TCP, "udp://127.0.0.1:53", "needs tcp");
	check_refused(CONFIG_READY_TCP, ":80", "a host");
	check_refused(CONFIG_READY_HTTP, "http:///x", "no host");
	check_refused(CONFIG_READY_HTTP, "http://unix:/:/x", "path of a socket");
	check_refused(CONFIG_READY_HTTP, "http://127.0.0.1/a b", "blank");
}

UNIT_MAIN
