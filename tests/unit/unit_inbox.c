/* SPDX-License-Identifier: MIT */
/*
 * The workers' notification socket: real datagrams from real processes.
 */
#include "unit.h"
#include "unit_loop.h"

#include "segue/inbox.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct heard {
	unsigned int count, ready;
	pid_t pid;
	struct inbox_message last;
	char status[512];
	struct inbox *close; /* closed by the first delivery */
	int echo;            /* each delivery sends another message here; 0: none */
};

struct bench {
	uv_loop_t loop;
	struct inbox *inbox;
	struct heard heard;
	char folder[64], path[100], reason[256];
};

static void on_message(void *ctx, const struct inbox_message *message)
{
	struct heard *heard = ctx;

	heard->count++;
	heard->ready += message->ready;
	heard->pid = message->pid;
	heard->last = *message;
	snprintf(heard->status, sizeof(heard->status), "%s",
	         message->status ? message->status : "(none)");
	heard->last.status = NULL;
	if (heard->echo)
		(void)send(heard->echo, "WATCHDOG=1", 10, MSG_DONTWAIT);
	if (heard->close)
		inbox_close(heard->close);
	heard->close = NULL;
}

static int bench_try(struct bench *bench)
{
	return inbox_open(&bench->inbox, &bench->loop, bench->path, on_message, &bench->heard,
	                  bench->reason, sizeof(bench->reason));
}

static void bench_prepare(struct bench *bench)
{
	*bench = (struct bench){ .folder = "/tmp/segue-unit-XXXXXX" };
	CHECK(mkdtemp(bench->folder) != NULL);
	snprintf(bench->path, sizeof(bench->path), "%s/notify", bench->folder);
	CHECK_INT(uv_loop_init(&bench->loop), 0);
}

static void bench_open(struct bench *bench)
{
	bench_prepare(bench);
	CHECK_INT(bench_try(bench), 0);
}

static void bench_close(struct bench *bench)
{
	inbox_close(bench->inbox);
	CHECK_INT(uv_run(&bench->loop, UV_RUN_DEFAULT), 0);
	CHECK_INT(uv_loop_close(&bench->loop), 0);
	MUST(rmdir(bench->folder));
}

static int sender(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	strcpy(address.sun_path, path);
	MUST(connect(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

static void send_bytes(struct bench *bench, const void *bytes, size_t len)
{
	int fd = sender(bench->path);

	MUST(send(fd, bytes, len, 0));
	MUST(close(fd));
}

static void send_text(struct bench *bench, const char *text)
{
	send_bytes(bench, text, strlen(text));
}

static void send_with_fd(struct bench *bench, const char *text, int passed)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = &control,
		              .msg_controllen = sizeof(control) };
	int fd = sender(bench->path);

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &passed, sizeof(passed));
	MUST(sendmsg(fd, &msg, 0));
	MUST(close(fd));
}

UNIT_CASE(the_sender_is_known_by_its_pid)
{
	struct bench bench;
	int status;
	pid_t pid;

	bench_open(&bench);
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		send_text(&bench, "READY=1\nSTATUS=warm");
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0));
	CHECK_INT(status, 0);
	uv_run(&bench.loop, UV_RUN_ONCE);
	CHECK_INT(bench.heard.count, 1);
	CHECK_INT(bench.heard.pid, pid);
	CHECK(bench.heard.last.ready && !bench.heard.last.stopping);
	CHECK_STRING(bench.heard.status, "warm");
	bench_close(&bench);
}

UNIT_CASE(a_look_delivers_what_the_loop_has_not_dispatched)
{
	struct bench bench;

	bench_open(&bench);
	send_text(&bench, "STATUS=one");
	send_text(&bench, "STOPPING=1\nWATCHDOG=1\nRELOADING=1\n");
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.count, 2);
	CHECK(bench.heard.last.stopping && bench.heard.last.watchdog);
	CHECK(bench.heard.last.reloading && !bench.heard.last.ready);
	CHECK_STRING(bench.heard.status, "(none)");
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.count, 2);
	bench_close(&bench);
}

UNIT_CASE(nonsense_is_not_delivered)
{
	struct bench bench;
	char *large = malloc(8192);

	bench_open(&bench);
	memset(large, 'x', 8192);
	memcpy(large, "READY=1\n", 8);
	send_bytes(&bench, large, 8192);
	send_bytes(&bench, "", 0);
	send_bytes(&bench, "READY=1\0READY=1", 15);
	send_text(&bench, "READY=11");
	send_text(&bench, " READY=1");
	send_text(&bench, "FDSTORE=1\nFDNAME=x\nMAINPID=1\nWATCHDOG_USEC=7");
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.count, 0);
	send_bytes(&bench, "READY=1", 8);
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.ready, 1);
	free(large);
	bench_close(&bench);
}

UNIT_CASE(a_barrier_ends_after_what_came_before_it)
{
	struct bench bench;
	struct pollfd poller = { .events = POLLIN };
	int fds[2];

	bench_open(&bench);
	MUST(pipe2(fds, O_CLOEXEC));
	poller.fd = fds[0];
	send_text(&bench, "READY=1");
	send_with_fd(&bench, "BARRIER=1", fds[1]);
	MUST(close(fds[1]));
	CHECK_INT(poll(&poller, 1, 0), 0);
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.ready, 1);
	CHECK_INT(poll(&poller, 1, 0), 1);
	CHECK(poller.revents & POLLHUP);
	MUST(close(fds[0]));
	bench_close(&bench);
}

UNIT_CASE(a_status_is_printable_and_bounded)
{
	struct bench bench;
	char text[600] = "STATUS=";

	bench_open(&bench);
	send_text(&bench, "STATUS=a\x1b[31mb\xff\xc3\xa4\xc2\x85\xed\xa0\x80");
	inbox_look(bench.inbox);
	CHECK_STRING(bench.heard.status, "a?[31mb?\xc3\xa4?"
	                                 "?"
	                                 "?"
	                                 "?"
	                                 "?");
	for (int i = 0; i < 200; i++)
		strcat(text, "\xc3\xa4");
	send_text(&bench, text);
	inbox_look(bench.inbox);
	CHECK_INT(strlen(bench.heard.status), 254);
	bench_close(&bench);
}

UNIT_CASE(a_flood_leaves_the_loop_its_turn)
{
	struct bench bench;
	unsigned int sent = 0;
	int fd;

	bench_open(&bench);
	fd = sender(bench.path);
	/* As many as the kernel queues; more than a wakeup takes only where it queues many. */
	while (send(fd, "WATCHDOG=1", 10, MSG_DONTWAIT) == 10)
		sent++;
	CHECK(sent >= 1);
	uv_run(&bench.loop, UV_RUN_NOWAIT);
	CHECK(bench.heard.count == (sent < 64 ? sent : 64));
	while (bench.heard.count < sent)
		uv_run(&bench.loop, UV_RUN_ONCE);
	MUST(close(fd));
	bench_close(&bench);
}

/* As from a sender that sends on and on: for each message that is taken another one comes. */
UNIT_CASE(a_sender_without_end_does_not_hold_the_loop)
{
	struct bench bench;

	bench_open(&bench);
	bench.heard.echo = sender(bench.path);
	send_text(&bench, "READY=1");
	uv_run(&bench.loop, UV_RUN_NOWAIT);
	CHECK(bench.heard.count >= 1 && bench.heard.count <= 64);
	inbox_look(bench.inbox);
	CHECK(bench.heard.count > 64);
	MUST(close(bench.heard.echo));
	bench_close(&bench);
}

UNIT_CASE(anybody_may_write_to_the_path_from_birth)
{
	struct bench bench;
	struct stat st;

	umask(077);
	bench_open(&bench);
	MUST(stat(bench.path, &st));
	CHECK_INT(st.st_mode & 07777, 0666);
	CHECK_INT(umask(0), 077);
	bench_close(&bench);
	CHECK_INT(access(bench.path, F_OK), -1);
}

static void bind_stale(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	strcpy(address.sun_path, path);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(close(fd));
}

UNIT_CASE(a_path_that_nobody_has_is_replaced)
{
	struct bench bench;

	bench_prepare(&bench);
	bind_stale(bench.path);
	CHECK_INT(bench_try(&bench), 0);
	send_text(&bench, "READY=1");
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.ready, 1);
	bench_close(&bench);
}

UNIT_CASE(a_path_that_somebody_has_is_left_alone)
{
	struct bench bench, second;

	bench_open(&bench);
	second = bench;
	CHECK_INT(bench_try(&second), -EADDRINUSE);
	CHECK(strstr(second.reason, bench.path) != NULL);
	send_text(&bench, "READY=1");
	inbox_look(bench.inbox);
	CHECK_INT(bench.heard.ready, 1);
	bench_close(&bench);
}

UNIT_CASE(a_file_that_is_no_socket_is_left_alone)
{
	struct bench bench;
	int fd;

	bench_prepare(&bench);
	fd = (int)MUST(open(bench.path, O_CREAT | O_CLOEXEC | O_WRONLY, 0600));
	MUST(close(fd));
	CHECK_INT(bench_try(&bench), -EADDRINUSE);
	MUST(unlink(bench.path));
	CHECK_INT(uv_loop_close(&bench.loop), 0);
	MUST(rmdir(bench.folder));
}

UNIT_CASE(who_has_replaced_the_path_keeps_it)
{
	struct bench bench;

	bench_open(&bench);
	MUST(unlink(bench.path));
	bind_stale(bench.path);
	inbox_close(bench.inbox);
	bench.inbox = NULL;
	MUST(unlink(bench.path));
	bench_close(&bench);
}

UNIT_CASE(the_receiver_may_close_out_of_a_delivery)
{
	struct bench bench;

	bench_open(&bench);
	bench.heard.close = bench.inbox;
	send_text(&bench, "READY=1");
	send_text(&bench, "READY=1");
	uv_run(&bench.loop, UV_RUN_ONCE);
	CHECK_INT(bench.heard.count, 1);
	bench.inbox = NULL;
	bench_close(&bench);
}

UNIT_MAIN
