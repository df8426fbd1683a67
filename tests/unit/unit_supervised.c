/* SPDX-License-Identifier: MIT */
/*
 * A worker's side of its supervisor, with the supervisor played by the test: real processes of
 * the functional tests' server, real channels, real clients.
 *
 * The order of the messages is the one that a supervisor keeps: greeting and SUPERVISE; the
 * worker's greeting; listeners, introductions, OFFERED; the worker's listeners and READY; COMMIT.
 */
#include "unit.h"

#include "core/channel.h"
#include "core/fd.h"
#include "core/lifecycle.h"
#include "core/listener.h"
#include "segue.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define PATIENCE_MS 30000
#define UP_MAX      4
#define LISTEN      "web=127.0.0.1:0"

/* A listener that a worker has passed up. */
struct passed_up {
	struct sg_message message;
	int fd;
};

struct worker {
	pid_t pid;
	int pidfd, said_fd;
	struct sg_channel channel;
	uint64_t generation;
	uint32_t number;
	struct passed_up up[UP_MAX];
	size_t up_len;
	struct sg_message progress; /* the last one */
	unsigned int progress_count;
	size_t said_len, heard; /* heard: what has been looked at */
	char said[1 << 16];
};

/* How a worker is started; zero is the rule. */
struct order {
	uint64_t generation; /* 0: 1 */
	uint32_t number, workers;
	uint32_t flags;
	uint32_t drain_ms;              /* 0: a minute */
	const char *const *arguments;   /* NULL: LISTEN and --state */
	int listen_fd;                  /* 0: none; by LISTEN_FDS */
	bool ends;                      /* not greeted: the test does it */
	pid_t supervisor;               /* 0: the test */
	const struct passed_up *offers; /* by the channel */
	size_t offers_len;
	struct worker **elders; /* who hand over to it, ends with NULL */
};

static int64_t deadline(void)
{
	return sg_now_ms() + PATIENCE_MS;
}

static bool readable(int fd, int64_t until)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	int64_t left = until - sg_now_ms();

	return MUST(poll(&poller, 1, left > 0 ? (int)left : 0)) > 0;
}

/* What the worker says on standard error. */

static bool read_said(struct worker *worker)
{
	size_t room = sizeof(worker->said) - 1 - worker->said_len;
	ssize_t n = read(worker->said_fd, worker->said + worker->said_len, room);

	if (n <= 0)
		return false;
	worker->said_len += (size_t)n;
	worker->said[worker->said_len] = '\0';
	return true;
}

/* The next line that has the text; what is before it is passed over. */
static const char *line_with(struct worker *worker, const char *text)
{
	static char line[8192];
	int64_t until = deadline();

	for (;;) {
		char *begin = worker->said + worker->heard, *end = strchr(begin, '\n');

		if (end != NULL) {
			worker->heard = (size_t)(end + 1 - worker->said);
			snprintf(line, sizeof(line), "%.*s", (int)(end - begin), begin);
			if (strstr(line, text) != NULL)
				return line;
			continue;
		}
		if (!readable(worker->said_fd, until) || !read_said(worker))
			UNIT_FAIL("worker %u never said %s, but\n%s", worker->number, text,
			          worker->said);
	}
}

static bool has_said(struct worker *worker, const char *text)
{
	while (readable(worker->said_fd, 0) && read_said(worker))
		;
	return strstr(worker->said, text) != NULL;
}

/* The channel. */

static void say(struct worker *worker, const struct sg_message *message, const int *fds,
                size_t fds_len)
{
	CHECK_INT(sg_channel_send(&worker->channel, message, fds, fds_len), 0);
}

static void say_type(struct worker *worker, enum sg_message_type type)
{
	say(worker, &(struct sg_message){ .type = type }, NULL, 0);
}

static void keep(struct worker *worker, const struct sg_message *message, int fd)
{
	if (message->type == SG_MESSAGE_PROGRESS) {
		worker->progress = *message;
		worker->progress_count++;
		return;
	}
	CHECK(worker->up_len < UP_MAX);
	worker->up[worker->up_len++] = (struct passed_up){ *message, fd };
}

/* One message, if there is one in time: 1, 0, or -EPIPE at the end. */
static int receive(struct worker *worker, struct sg_message *ret_message, int *ret_fd,
                   int64_t until)
{
	static uint8_t buffer[SG_WIRE_MAX];
	int fds[SG_WIRE_FDS_MAX], r;
	size_t fds_len;

	if (!readable(worker->channel.fd, until))
		return 0;
	r = sg_channel_receive(&worker->channel, buffer, ret_message, fds, &fds_len);
	CHECK(r == 1 || r == 0 || r == -EPIPE);
	*ret_fd = r == 1 && fds_len > 0 ? fds[0] : -1;
	return r;
}

/* The next message, which has to be of the type; listeners and progress are kept. */
static struct sg_message hear(struct worker *worker, enum sg_message_type type)
{
	int64_t until = deadline();
	struct sg_message message;
	int fd;

	for (;;) {
		int r = receive(worker, &message, &fd, until);

		if (r <= 0)
			UNIT_FAIL("worker %u did not say %s (%d), but\n%s", worker->number,
			          sg_wire_text(type), r, worker->said);
		if (message.type == type && type != SG_MESSAGE_PROGRESS) {
			sg_fd_close(fd);
			return message;
		}
		if (message.type != SG_MESSAGE_LISTENER && message.type != SG_MESSAGE_PROGRESS)
			UNIT_FAIL("worker %u said %s, not %s: %s", worker->number,
			          sg_wire_text(message.type), sg_wire_text(type), message.text);
		keep(worker, &message, fd);
		if (message.type == type)
			return message;
	}
}

/* Starting. */

static void child(const struct order *order, int said_fd, int channel_fd)
{
	static const char *const defaults[] = { "--listen", LISTEN, "--state", "1", NULL };
	const char *const *arguments = order->arguments != NULL ? order->arguments : defaults;
	const char *argv[32] = { SERVER };
	char number[32];
	size_t argc = 1;

	for (; *arguments != NULL && argc < 31; arguments++)
		argv[argc++] = *arguments;
	/* A case that fails leaves nobody who serves on. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)dup2(said_fd, STDERR_FILENO);
	(void)dup2(channel_fd, 200);
	setenv("SEGUE_CHANNEL", "200", 1);
	if (order->listen_fd > 0) {
		if (order->listen_fd == 3)
			(void)fcntl(3, F_SETFD, 0);
		(void)dup2(order->listen_fd, 3);
		snprintf(number, sizeof(number), "%ld", (long)getpid());
		setenv("LISTEN_PID", number, 1);
		setenv("LISTEN_FDS", "1", 1);
		setenv("LISTEN_FDNAMES", "web", 1);
	}
	execv(SERVER, (char *const *)argv);
	_exit(127);
}

static void greet(struct worker *worker, const struct order *order)
{
	pid_t supervisor = order->supervisor != 0 ? order->supervisor : getpid();
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = 2,
		                    .version_max = 2,
		                    .generation = worker->generation - 1,
		                    .pid = (uint32_t)supervisor,
		                    .start_ms = PATIENCE_MS };
	struct sg_message supervise = { .type = SG_MESSAGE_SUPERVISE,
		                        .worker = order->number,
		                        .workers = order->workers != 0 ? order->workers : 1,
		                        .flags = order->flags,
		                        .drain_ms =
		                                order->drain_ms != 0 ? order->drain_ms : 60000 };
	int pidfd = (int)MUST(sg_pidfd_open(supervisor));

	say(worker, &hello, &pidfd, 1);
	sg_fd_close(pidfd);
	say(worker, &supervise, NULL, 0);
}

static void introduce(struct worker *elder, struct worker *younger)
{
	struct sg_message up = { .type = SG_MESSAGE_INTRODUCE,
		                 .generation = younger->generation,
		                 .worker = younger->number,
		                 .pid = (uint32_t)younger->pid };
	struct sg_message down = { .type = SG_MESSAGE_INTRODUCE,
		                   .generation = elder->generation,
		                   .worker = elder->number,
		                   .pid = (uint32_t)elder->pid,
		                   .upstream = 1 };
	int pair[2], fds[2];

	CHECK_INT(sg_channel_pair(pair), 0);
	fds[0] = pair[0];
	fds[1] = younger->pidfd;
	say(elder, &up, fds, 2);
	fds[0] = pair[1];
	fds[1] = elder->pidfd;
	say(younger, &down, fds, 2);
	sg_fd_close(pair[0]);
	sg_fd_close(pair[1]);
}

static void launch(struct worker *worker, const struct order *order)
{
	int pair[2], said[2];

	memset(worker, 0, sizeof(*worker));
	worker->generation = order->generation != 0 ? order->generation : 1;
	worker->number = order->number;
	CHECK_INT(sg_channel_pair(pair), 0);
	MUST(pipe2(said, O_CLOEXEC));
	worker->pid = (pid_t)MUST(fork());
	if (worker->pid == 0)
		child(order, said[1], pair[1]);
	close(said[1]);
	close(pair[1]);
	worker->said_fd = said[0];
	worker->pidfd = (int)MUST(sg_pidfd_open(worker->pid));
	sg_channel_init_take(&worker->channel, pair[0]);
}

static void offer(struct worker *worker, const struct order *order)
{
	struct sg_message offered = { .type = SG_MESSAGE_OFFERED,
		                      .count = (uint32_t)order->offers_len };

	for (size_t i = 0; i < order->offers_len; i++)
		say(worker, &order->offers[i].message, &order->offers[i].fd, 1);
	for (size_t i = 0; order->elders != NULL && order->elders[i] != NULL; i++)
		introduce(order->elders[i], worker);
	say(worker, &offered, NULL, 0);
}

/* Up to its word that it is ready. */
static void begin(struct worker *worker, struct order order)
{
	struct sg_message hello, ready;

	launch(worker, &order);
	greet(worker, &order);
	hello = hear(worker, SG_MESSAGE_HELLO);
	CHECK_INT(hello.generation, worker->generation);
	CHECK_INT(hello.worker, worker->number);
	CHECK_INT(hello.pid, worker->pid);
	offer(worker, &order);
	ready = hear(worker, SG_MESSAGE_READY);
	CHECK_INT(ready.count, order.offers_len);
	for (size_t i = 0; i < order.offers_len; i++)
		CHECK_INT(ready.wanted[i], 1);
}

static void commit(struct worker *worker)
{
	say_type(worker, SG_MESSAGE_COMMIT);
	line_with(worker, "\"event\":\"serving\"");
}

static void serve(struct worker *worker, struct order order)
{
	begin(worker, order);
	commit(worker);
}

static void retire(struct worker *worker, uint32_t drain_ms)
{
	say(worker, &(struct sg_message){ .type = SG_MESSAGE_RETIRE, .drain_ms = drain_ms }, NULL,
	    0);
}

static void stop(struct worker *worker, bool now)
{
	say(worker, &(struct sg_message){ .type = SG_MESSAGE_STOP, .now = now, .drain_ms = 60000 },
	    NULL, 0);
}

/* Its end, with this exit code; everything of it is closed. */
static void ends(struct worker *worker, int code)
{
	struct sg_message message;
	int status, fd;

	if (!readable(worker->pidfd, deadline()))
		UNIT_FAIL("worker %u does not end; it said\n%s", worker->number, worker->said);
	MUST(waitpid(worker->pid, &status, 0));
	while (worker->channel.fd >= 0 && receive(worker, &message, &fd, 0) == 1)
		if (message.type == SG_MESSAGE_PROGRESS)
			keep(worker, &message, fd);
		else
			sg_fd_close(fd);
	while (readable(worker->said_fd, 0) && read_said(worker))
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
		UNIT_FAIL("worker %u ended with 0x%x, not %d; it said\n%s", worker->number,
		          (unsigned int)status, code, worker->said);
	for (size_t i = 0; i < worker->up_len; i++)
		sg_fd_close(worker->up[i].fd);
	worker->up_len = 0;
	sg_channel_done(&worker->channel);
	worker->channel.fd = -1;
	close(worker->pidfd);
	close(worker->said_fd);
}

static void kill_and_reap(struct worker *worker)
{
	int status;

	MUST(kill(worker->pid, SIGKILL));
	MUST(waitpid(worker->pid, &status, 0));
	for (size_t i = 0; i < worker->up_len; i++)
		sg_fd_close(worker->up[i].fd);
	sg_channel_done(&worker->channel);
	close(worker->pidfd);
	close(worker->said_fd);
}

static void supervisor_dies(struct worker *worker)
{
	sg_channel_done(&worker->channel);
	worker->channel.fd = -1;
}

/* Clients. */

static int connect_to(int listener)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	MUST(getsockname(listener, (struct sockaddr *)&address, &len));
	MUST(connect(fd, (struct sockaddr *)&address, len));
	return fd;
}

static void send_text(int fd, const char *text)
{
	CHECK_INT(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static long header_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	if (at == NULL)
		UNIT_FAIL("no %s in %s", name, text);
	return atol(at + strlen(name));
}

/* One response, as text. */
static const char *response(int fd)
{
	static char text[65536];
	int64_t until = deadline();
	size_t len = 0;

	for (;;) {
		const char *end;
		ssize_t n;

		CHECK(readable(fd, until));
		n = recv(fd, text + len, sizeof(text) - 1 - len, 0);
		if (n <= 0)
			UNIT_FAIL("the connection was closed before the response: %zd", n);
		len += (size_t)n;
		text[len] = '\0';
		end = strstr(text, "\r\n\r\n");
		if (end != NULL &&
		    len >= (size_t)(end + 4 - text) + (size_t)header_of(text, "Content-Length: "))
			return text;
	}
}

static const char *get(int fd, const char *path)
{
	char text[256];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
	send_text(fd, text);
	return response(fd);
}

static long generation_of(const char *text)
{
	return header_of(text, "Segue-Generation: ");
}

static void closed(int fd)
{
	char byte;

	CHECK(readable(fd, deadline()));
	CHECK(recv(fd, &byte, 1, 0) <= 0);
	close(fd);
}

/* A connection with one answered request. */
static int client(int listener, long generation)
{
	int fd = connect_to(listener);

	CHECK_INT(generation_of(get(fd, "/")), generation);
	return fd;
}

/* A connection with a request that is half there, and read: one that came later is answered. */
static int busy_client(int listener, long generation)
{
	int fd = client(listener, generation), later;

	send_text(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n");
	later = client(listener, generation);
	MUST(shutdown(later, SHUT_WR));
	/* The worker has closed it as well: no drain counts it. */
	closed(later);
	return fd;
}

static int bind_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		                       .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, 100));
	return fd;
}

/* Beginning. */

UNIT_CASE(what_a_worker_has_bound_goes_up_before_its_word_that_it_is_ready)
{
	struct worker one;

	begin(&one, (struct order){ .number = 3, .workers = 5 });
	CHECK_INT(one.up_len, 1);
	CHECK_STRING(one.up[0].message.name, "web");
	CHECK_STRING(one.up[0].message.text, "tcp://127.0.0.1:0");
	CHECK_INT(one.up[0].message.flags, 0);
	CHECK(!has_said(&one, "\"event\":\"serving\""));
	commit(&one);
	close(client(one.up[0].fd, 1));
	stop(&one, false);
	ends(&one, 0);
}

UNIT_CASE(sockets_come_by_listen_fds_and_by_the_channel_at_once_and_none_goes_up_again)
{
	static const char *const arguments[] = { "--listen", LISTEN, "--listen",
		                                 "admin=127.0.0.1:0", NULL };
	int web = bind_tcp(), admin = bind_tcp();
	struct passed_up offers[] = {
		{ { .type = SG_MESSAGE_LISTENER, .name = "admin", .text = "tcp://127.0.0.1:0" },
		  admin }
	};
	struct worker one;

	serve(&one, (struct order){ .arguments = arguments,
	                            .listen_fd = web,
	                            .offers = offers,
	                            .offers_len = 1,
	                            .generation = 7 });
	CHECK_INT(one.up_len, 0);
	close(client(web, 7));
	close(client(admin, 7));
	stop(&one, false);
	ends(&one, 0);
	close(web);
	close(admin);
}

UNIT_CASE(a_program_without_addresses_takes_what_is_passed)
{
	static const char *const arguments[] = { "--passed", "1", NULL };
	struct worker one;
	int web = bind_tcp();

	serve(&one, (struct order){ .arguments = arguments, .listen_fd = web });
	CHECK(has_said(&one, "\"name\":\"web\",\"address\":\"tcp://127.0.0.1:"));
	close(client(web, 1));
	stop(&one, false);
	ends(&one, 0);
	close(web);
}

UNIT_CASE(a_passed_socket_that_nobody_asks_for_is_an_error_that_names_the_supervisor)
{
	static const char *const arguments[] = { NULL };
	struct order order = { .arguments = arguments, .listen_fd = bind_tcp() };
	struct sg_message failed;
	struct worker one;

	launch(&one, &order);
	greet(&one, &order);
	hear(&one, SG_MESSAGE_HELLO);
	offer(&one, &order);
	failed = hear(&one, SG_MESSAGE_FAILED);
	CHECK(strstr(failed.text, "the supervisor passed socket web") != NULL);
	ends(&one, 1);
	close(order.listen_fd);
}

UNIT_CASE(a_pid_file_is_the_supervisor_s)
{
	char path[64];
	const char *arguments[] = { "--listen", LISTEN, "--pid-file", path, NULL };
	struct worker one;

	snprintf(path, sizeof(path), "/tmp/segue-unit-%ld.pid", (long)getpid());
	serve(&one, (struct order){ .arguments = arguments });
	CHECK(has_said(&one, "is not written"));
	CHECK(access(path, F_OK) < 0);
	stop(&one, false);
	ends(&one, 0);
}

/* Handing over. */

UNIT_CASE(a_retired_worker_hands_its_connections_and_its_state_to_its_successor)
{
	struct worker one, two, *elders[] = { &one, NULL };
	int idle;

	serve(&one, (struct order){ 0 });
	idle = client(one.up[0].fd, 1);
	begin(&two, (struct order){
			    .generation = 2, .offers = one.up, .offers_len = 1, .elders = elders });
	CHECK(has_said(&two, "\"event\":\"state_taken\""));
	CHECK_INT(generation_of(get(idle, "/")), 1);
	commit(&two);
	retire(&one, 60000);
	line_with(&two, "\"event\":\"connection\"");
	CHECK(strstr(line_with(&two, "\"event\":\"final_state\""), "\"total\":2") != NULL);
	ends(&one, 0);
	CHECK_INT(one.progress.state, SG_STATE_GONE);
	CHECK_INT(generation_of(get(idle, "/")), 2);
	CHECK_INT(header_of(get(idle, "/"), "Segue-Requests: "), 4);
	close(idle);
	stop(&two, false);
	ends(&two, 0);
}

UNIT_CASE(two_workers_hand_over_to_one_that_tells_their_states_apart)
{
	struct worker one, other, two, *elders[] = { &other, &one, NULL };
	int first, second;

	serve(&one, (struct order){ .workers = 2 });
	serve(&other, (struct order){ .number = 1, .workers = 2 });
	first = client(one.up[0].fd, 1);
	second = client(other.up[0].fd, 1);
	get(second, "/");
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	line_with(&two, "\"worker\":0,\"total\":1}");
	line_with(&two, "\"worker\":1,\"total\":2}");
	stop(&two, false);
	ends(&two, 0);
	/* In the order of their numbers, in whichever they answer. */
	elders[0] = &one;
	elders[1] = &other;
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	line_with(&two, "\"worker\":0,\"total\":1}");
	line_with(&two, "\"worker\":1,\"total\":2}");
	commit(&two);
	retire(&one, 60000);
	CHECK(strstr(line_with(&two, "final_state"), "\"worker\":0,\"total\":1}") != NULL);
	ends(&one, 0);
	retire(&other, 60000);
	CHECK(strstr(line_with(&two, "final_state"), "\"worker\":1,\"total\":2}") != NULL);
	ends(&other, 0);
	CHECK_INT(generation_of(get(first, "/")), 2);
	CHECK_INT(generation_of(get(second, "/")), 2);
	close(first);
	close(second);
	stop(&two, false);
	ends(&two, 0);
}

UNIT_CASE(of_all_workers_to_whom_it_was_introduced_one_hands_over_to_its_own)
{
	struct worker zero, one, next_one, next_zero, *elders[] = { &zero, &one, NULL };
	struct order order = { .generation = 2, .workers = 2, .elders = elders };
	int idle;

	serve(&zero, (struct order){ .workers = 2 });
	serve(&one, (struct order){ .number = 1, .workers = 2 });
	idle = client(one.up[0].fd, 1);
	order.number = 1;
	begin(&next_one, order);
	line_with(&next_one, "\"worker\":1,\"total\":1}");
	order.number = 0;
	begin(&next_zero, order);
	line_with(&next_zero, "\"worker\":0,\"total\":0}");
	commit(&next_one);
	commit(&next_zero);
	retire(&one, 60000);
	line_with(&next_one, "\"event\":\"connection\"");
	ends(&one, 0);
	CHECK_INT(header_of(get(idle, "/"), "Segue-Pid: "), next_one.pid);
	/* Its own is gone: another takes over. */
	close(idle);
	idle = client(zero.up[0].fd, 1);
	kill_and_reap(&next_zero);
	retire(&zero, 60000);
	line_with(&next_one, "\"event\":\"connection\"");
	ends(&zero, 0);
	CHECK_INT(header_of(get(idle, "/"), "Segue-Pid: "), next_one.pid);
	close(idle);
	CHECK(strstr(next_one.said, "\"worker\":0,\"total\":0}") == NULL);
	stop(&next_one, false);
	ends(&next_one, 0);
}

UNIT_CASE(a_worker_whose_successor_has_died_keeps_its_connections_for_the_next_one)
{
	struct worker one, two, again, *elders[] = { &one, NULL };
	struct order order = { .generation = 2, .elders = elders };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, order);
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	kill_and_reap(&two);
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	send_text(busy, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
	begin(&again, order);
	commit(&again);
	line_with(&again, "\"event\":\"connection\"");
	CHECK_INT(header_of(response(busy), "Segue-Pid: "), again.pid);
	CHECK(strstr(line_with(&again, "\"event\":\"final_state\""), "\"total\":3}") != NULL);
	ends(&one, 0);
	close(busy);
	stop(&again, false);
	ends(&again, 0);
}

UNIT_CASE(a_worker_whose_successor_has_died_hands_over_to_another_that_serves_already)
{
	struct worker one, two, other, *elders[] = { &one, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .workers = 2, .elders = elders });
	serve(&other, (struct order){ .generation = 2, .workers = 2, .number = 1 });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	kill_and_reap(&two);
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	introduce(&one, &other);
	line_with(&other, "\"event\":\"connection\"");
	line_with(&other, "\"event\":\"final_state\"");
	ends(&one, 0);
	CHECK_INT(header_of(get(busy, "/"), "Segue-Pid: "), other.pid);
	close(busy);
	stop(&other, false);
	ends(&other, 0);
}

UNIT_CASE(another_successor_is_not_waited_for_for_ever)
{
	struct worker one, two, *elders[] = { &one, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	kill_and_reap(&two);
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	CHECK_INT(generation_of(get(busy, "/")), 1);
	closed(busy);
	ends(&one, 0);
}

UNIT_CASE(a_worker_that_has_drained_waits_for_the_word_of_its_successor)
{
	struct worker one, two, *elders[] = { &one, NULL };

	serve(&one, (struct order){ 0 });
	close(client(one.up[0].fd, 1));
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	retire(&one, 60000);
	while (one.progress.state != SG_STATE_DRAINED)
		hear(&one, SG_MESSAGE_PROGRESS);
	commit(&two);
	CHECK(strstr(line_with(&two, "\"event\":\"final_state\""), "\"total\":1}") != NULL);
	ends(&one, 0);
	stop(&two, false);
	ends(&two, 0);
}

UNIT_CASE(the_state_comes_from_the_generation_that_serves_and_not_from_one_that_drains)
{
	struct worker one, two, three, *elders[] = { &one, NULL, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	elders[1] = &two;
	begin(&three, (struct order){ .generation = 3, .elders = elders });
	line_with(&three, "\"event\":\"state_taken\"");
	commit(&three);
	CHECK(strstr(strstr(three.said, "state_taken") + 1, "state_taken") == NULL);
	/* To the youngest, past the one in the middle. */
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	line_with(&three, "\"event\":\"connection\"");
	CHECK_INT(generation_of(get(busy, "/")), 3);
	close(busy);
	ends(&one, 0);
	retire(&two, 60000);
	ends(&two, 0);
	stop(&three, false);
	ends(&three, 0);
}

UNIT_CASE(a_retired_worker_without_a_successor_ends_each_connection_with_its_next_answer)
{
	struct worker one;
	int idle, busy;

	serve(&one, (struct order){ 0 });
	idle = client(one.up[0].fd, 1);
	busy = busy_client(one.up[0].fd, 1);
	retire(&one, 60000);
	send_text(busy, "hi");
	response(busy);
	CHECK_INT(generation_of(get(busy, "/")), 1);
	closed(busy);
	CHECK_INT(generation_of(get(idle, "/")), 1);
	closed(idle);
	ends(&one, 0);
}

UNIT_CASE(a_snapshot_that_cannot_be_saved_fails_the_successor_with_the_reason)
{
	static const char *const arguments[] = { "--listen", LISTEN, "--save-file", "/", NULL };
	struct worker one, two, *elders[] = { &one, NULL };
	struct order order = { .generation = 2, .elders = elders };
	struct sg_message failed;
	int fd;

	serve(&one, (struct order){ .arguments = arguments, .number = 4 });
	launch(&two, &order);
	greet(&two, &order);
	hear(&two, SG_MESSAGE_HELLO);
	offer(&two, &order);
	failed = hear(&two, SG_MESSAGE_FAILED);
	CHECK(strstr(failed.text, "worker 4 of generation 1 could not save its state") != NULL);
	ends(&two, 1);
	fd = client(one.up[0].fd, 1);
	close(fd);
	stop(&one, false);
	ends(&one, 0);
}

/* Orders. */

UNIT_CASE(the_death_of_a_successor_changes_nothing_until_the_order_to_serve_again)
{
	struct worker one, two, *elders[] = { &one, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){
			    .generation = 2, .offers = one.up, .offers_len = 1, .elders = elders });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	kill_and_reap(&two);
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	/* Nobody is there to take it: the next response is its last. */
	CHECK_INT(generation_of(get(busy, "/")), 1);
	closed(busy);
	ends(&one, 0);
	CHECK(strstr(one.said, "\"event\":\"resume\"") == NULL);
}

UNIT_CASE(a_worker_serves_again_when_it_is_told)
{
	struct worker one;
	int busy, fresh;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	fresh = client(one.up[0].fd, 1);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	say_type(&one, SG_MESSAGE_RESUME);
	line_with(&one, "\"event\":\"resume\"");
	send_text(busy, "hi");
	response(busy);
	CHECK_INT(generation_of(get(busy, "/")), 1);
	CHECK_INT(generation_of(get(fresh, "/")), 1);
	close(busy);
	close(fresh);
	close(client(one.up[0].fd, 1));
	stop(&one, false);
	ends(&one, 0);
}

UNIT_CASE(what_is_on_its_way_at_the_order_to_serve_again_is_not_lost)
{
	struct worker one, two, *elders[] = { &one, NULL };
	int idle;

	serve(&one, (struct order){ 0 });
	idle = client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	commit(&two);
	/* Its greeting is in the channel: a batch goes out, and nobody answers. */
	MUST(kill(two.pid, SIGSTOP));
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	say_type(&one, SG_MESSAGE_RESUME);
	line_with(&one, "\"event\":\"resume\"");
	close(client(one.up[0].fd, 1));
	CHECK(!has_said(&one, "\"event\":\"taken\""));
	kill_and_reap(&two);
	CHECK_INT(generation_of(get(idle, "/")), 1);
	close(idle);
	stop(&one, false);
	ends(&one, 0);
}

UNIT_CASE(who_was_taken_back_from_is_given_nothing_more)
{
	struct worker one, two, three, *elders[] = { &one, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	say_type(&one, SG_MESSAGE_RESUME);
	line_with(&one, "\"event\":\"resume\"");
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	begin(&three, (struct order){ .generation = 3, .elders = elders });
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"to_successor\":1");
	commit(&three);
	line_with(&three, "\"event\":\"connection\"");
	CHECK_INT(generation_of(get(busy, "/")), 3);
	close(busy);
	ends(&one, 0);
	stop(&two, false);
	ends(&two, 0);
	stop(&three, false);
	ends(&three, 0);
}

UNIT_CASE(a_worker_that_stops_has_nothing_to_say_to_others)
{
	struct worker one, two, *elders[] = { &one, NULL };

	serve(&one, (struct order){ 0 });
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	stop(&two, false);
	ends(&two, 0);
	begin(&two, (struct order){ .generation = 3, .elders = elders });
	commit(&two);
	MUST(kill(two.pid, SIGTERM));
	ends(&two, 0);
	close(client(one.up[0].fd, 1));
	CHECK(!has_said(&one, "makes no sense"));
	stop(&one, false);
	ends(&one, 0);
}

UNIT_CASE(a_dropped_listener_is_given_back_before_the_order_to_serve_again)
{
	struct sg_message dropped = { .type = SG_MESSAGE_DROPPED };
	struct worker one;
	int busy;

	serve(&one, (struct order){ 0 });
	MUST(sg_listener_text(one.up[0].fd, dropped.text, sizeof(dropped.text)));
	busy = busy_client(one.up[0].fd, 1);
	retire(&one, SG_WIRE_FOREVER);
	say(&one, &dropped, NULL, 0);
	line_with(&one, "\"event\":\"listener_dropped\"");
	say(&one, &one.up[0].message, &one.up[0].fd, 1);
	say_type(&one, SG_MESSAGE_RESUME);
	line_with(&one, "\"event\":\"resume\"");
	CHECK(!has_said(&one, "has not been given back"));
	close(client(one.up[0].fd, 1));
	close(busy);
	stop(&one, false);
	ends(&one, 0);
}

/* A signal to the whole group comes as well, and is the first of its kind. */
UNIT_CASE(a_stop_lets_a_request_in_flight_finish_also_when_a_signal_says_the_same)
{
	struct worker one;
	int idle, busy;

	serve(&one, (struct order){ 0 });
	idle = client(one.up[0].fd, 1);
	busy = busy_client(one.up[0].fd, 1);
	stop(&one, false);
	closed(idle);
	stop(&one, false);
	MUST(kill(one.pid, SIGTERM));
	send_text(busy, "hi");
	response(busy);
	closed(busy);
	ends(&one, 0);
}

UNIT_CASE(a_stop_that_does_not_wait_cuts)
{
	struct worker one;
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	stop(&one, false);
	stop(&one, true);
	closed(busy);
	ends(&one, 0);
	CHECK_INT(one.progress.cut, 1);
	CHECK_INT(one.progress.connections, 0);
}

UNIT_CASE(a_stop_ends_a_worker_that_drains_towards_successors)
{
	struct worker one, two, *elders[] = { &one, NULL };
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	begin(&two, (struct order){ .generation = 2, .elders = elders });
	commit(&two);
	retire(&one, SG_WIRE_FOREVER);
	line_with(&one, "\"event\":\"drain\"");
	stop(&one, false);
	line_with(&one, "\"to_successor\":0");
	send_text(busy, "hi");
	CHECK_INT(generation_of(response(busy)), 1);
	closed(busy);
	ends(&one, 0);
	stop(&two, false);
	ends(&two, 0);
}

UNIT_CASE(a_drain_without_a_deadline_is_cut_by_order_and_what_was_cut_is_told)
{
	struct worker one;
	int busy;

	serve(&one, (struct order){ 0 });
	busy = busy_client(one.up[0].fd, 1);
	retire(&one, SG_WIRE_FOREVER);
	CHECK(strstr(line_with(&one, "\"event\":\"drain\""), "\"deadline_ms\":-1") != NULL);
	while (one.progress.state != SG_STATE_DRAINING || one.progress.connections != 1)
		hear(&one, SG_MESSAGE_PROGRESS);
	say_type(&one, SG_MESSAGE_CUT);
	closed(busy);
	ends(&one, 0);
	CHECK_INT(one.progress.state, SG_STATE_GONE);
	CHECK_INT(one.progress.cut, 1);
}

UNIT_CASE(the_drain_deadline_is_the_supervisor_s)
{
	static const char *const arguments[] = { "--listen", LISTEN, "--drain-timeout", "none",
		                                 NULL };
	struct worker one;
	int busy;

	serve(&one, (struct order){ .arguments = arguments });
	busy = busy_client(one.up[0].fd, 1);
	retire(&one, 1);
	closed(busy);
	ends(&one, 0);
	CHECK_INT(one.progress.cut, 1);
}

UNIT_CASE(a_start_that_is_given_up_ends_the_worker)
{
	struct sg_message failed = { .type = SG_MESSAGE_FAILED, .error = ETIMEDOUT, .text = "x" };
	struct worker one;

	begin(&one, (struct order){ 0 });
	say(&one, &failed, NULL, 0);
	line_with(&one, "the supervisor has given this start up");
	ends(&one, 1);
	begin(&one, (struct order){ 0 });
	stop(&one, false);
	ends(&one, 0);
}

/* Progress. */

UNIT_CASE(progress_is_told_and_not_more_often_than_ten_times_a_second)
{
	int64_t began = sg_now_ms(), took;
	struct worker one;
	int fds[40];

	serve(&one, (struct order){ 0 });
	for (size_t i = 0; i < 40; i++)
		fds[i] = client(one.up[0].fd, 1);
	while (one.progress.connections != 40)
		hear(&one, SG_MESSAGE_PROGRESS);
	took = sg_now_ms() - began;
	CHECK_INT(one.progress.state, SG_STATE_SERVING);
	if (one.progress_count > took / 100 + 2)
		UNIT_FAIL("%u messages in %lld ms", one.progress_count, (long long)took);
	for (size_t i = 0; i < 40; i++)
		close(fds[i]);
	stop(&one, false);
	ends(&one, 0);
}

/* An upgrade that the worker asks for. */

UNIT_CASE(a_worker_asks_the_supervisor_for_an_upgrade_and_says_its_answer)
{
	struct sg_message answer = { .type = SG_MESSAGE_ANSWER,
		                     .outcome = SEGUE_REFUSED,
		                     .generation = 2,
		                     .text = "generation 1 is on probation" };
	struct worker one;
	const char *line;
	int fd;

	serve(&one, (struct order){ 0 });
	MUST(kill(one.pid, SIGUSR2));
	hear(&one, SG_MESSAGE_ASK);
	fd = connect_to(one.up[0].fd);
	CHECK(strstr(get(fd, "/upgrade/1"), "its answer is to come") != NULL);
	say(&one, &answer, NULL, 0);
	line = line_with(&one, "\"event\":\"upgrade_ended\"");
	CHECK(strstr(line, "\"outcome\":\"refused\"") != NULL);
	CHECK(strstr(line, "generation 1 is on probation") != NULL);
	CHECK(strstr(get(fd, "/upgrade/1"), "\r\n\r\n0 \n") != NULL);
	hear(&one, SG_MESSAGE_ASK);
	supervisor_dies(&one);
	line = line_with(&one, "\"event\":\"upgrade_ended\"");
	CHECK(strstr(line, "the supervisor is gone") != NULL);
	close(fd);
	ends(&one, 0);
}

/* The supervisor's end. */

UNIT_CASE(without_its_supervisor_a_worker_that_starts_does_not_begin)
{
	struct order order = { 0 };
	struct worker one;

	/* Before it has said what it is, before its offer, and before its commit. */
	launch(&one, &order);
	greet(&one, &order);
	supervisor_dies(&one);
	line_with(&one, "\"event\":\"failed\"");
	ends(&one, 1);
	launch(&one, &order);
	greet(&one, &order);
	hear(&one, SG_MESSAGE_HELLO);
	supervisor_dies(&one);
	line_with(&one, "the supervisor ended before it had handed over its listeners");
	ends(&one, 1);
	begin(&one, order);
	supervisor_dies(&one);
	line_with(&one, "the supervisor is gone");
	ends(&one, 1);
	CHECK(strstr(one.said, "\"event\":\"serving\"") == NULL);
}

UNIT_CASE(without_its_supervisor_a_worker_that_serves_drains)
{
	struct worker one;
	int idle, busy;

	serve(&one, (struct order){ 0 });
	idle = client(one.up[0].fd, 1);
	busy = busy_client(one.up[0].fd, 1);
	supervisor_dies(&one);
	closed(idle);
	send_text(busy, "hi");
	response(busy);
	closed(busy);
	ends(&one, 0);
}

UNIT_CASE(without_its_supervisor_a_worker_serves_on_where_it_was_told_to)
{
	struct worker one;
	int listener;

	serve(&one, (struct order){ .flags = SG_SUPERVISE_ORPHANS_SERVE });
	listener = sg_fd_dup(one.up[0].fd);
	supervisor_dies(&one);
	line_with(&one, "serves on, and nobody can upgrade it");
	close(client(listener, 1));
	MUST(kill(one.pid, SIGUSR2));
	line_with(&one, "upgrade refused: the supervisor is gone");
	MUST(kill(one.pid, SIGTERM));
	ends(&one, 0);
	close(listener);
}

UNIT_CASE(an_orphan_retires_itself_when_its_successor_serves)
{
	struct worker one, two, *elders[] = { &one, NULL };
	struct order order = { .flags = SG_SUPERVISE_ORPHANS_SERVE };
	int listener, idle;

	serve(&one, order);
	listener = sg_fd_dup(one.up[0].fd);
	idle = client(listener, 1);
	order.generation = 2;
	order.offers = one.up;
	order.offers_len = 1;
	order.elders = elders;
	begin(&two, order);
	supervisor_dies(&one);
	line_with(&one, "serves on");
	commit(&two);
	supervisor_dies(&two);
	ends(&one, 0);
	CHECK_INT(generation_of(get(idle, "/")), 2);
	close(idle);
	close(client(listener, 2));
	MUST(kill(two.pid, SIGTERM));
	ends(&two, 0);
	close(listener);
}

UNIT_CASE(a_worker_that_knows_of_a_successor_that_serves_retires_when_its_supervisor_dies)
{
	struct worker one, two, *elders[] = { &one, NULL };
	struct order order = { .flags = SG_SUPERVISE_ORPHANS_SERVE };
	int idle;

	serve(&one, order);
	idle = client(one.up[0].fd, 1);
	order.generation = 2;
	order.elders = elders;
	begin(&two, order);
	commit(&two);
	close(client(one.up[0].fd, 1));
	supervisor_dies(&one);
	ends(&one, 0);
	CHECK_INT(generation_of(get(idle, "/")), 2);
	close(idle);
	stop(&two, false);
	ends(&two, 0);
}

UNIT_CASE(a_supervisor_is_dead_when_its_process_is_whoever_still_holds_its_channel)
{
	pid_t supervisor = (pid_t)MUST(fork());
	struct worker one;
	int status;

	if (supervisor == 0) {
		pause();
		_exit(0);
	}
	serve(&one, (struct order){ .supervisor = supervisor });
	MUST(kill(supervisor, SIGKILL));
	ends(&one, 0);
	MUST(waitpid(supervisor, &status, 0));
}

UNIT_CASE(nonsense_from_the_supervisor_counts_as_its_end)
{
	struct worker one;

	begin(&one, (struct order){ 0 });
	say_type(&one, SG_MESSAGE_RECEIPT);
	line_with(&one, "the supervisor sent a message that makes no sense");
	ends(&one, 1);
	serve(&one, (struct order){ 0 });
	CHECK_INT(send(one.channel.fd, "what?", 5, MSG_NOSIGNAL), 5);
	line_with(&one, "the supervisor sent a message that makes no sense");
	ends(&one, 0);
	serve(&one, (struct order){ 0 });
	say(&one, &(struct sg_message){ .type = SG_MESSAGE_ANSWER, .outcome = 77 }, NULL, 0);
	ends(&one, 0);
}

UNIT_CASE(orders_are_the_supervisor_s_alone)
{
	struct worker one, two, *elders[] = { &one, NULL };
	struct order order = { .generation = 2, .elders = elders };
	struct sg_message introduce = { .type = SG_MESSAGE_INTRODUCE,
		                        .generation = 1,
		                        .upstream = 1,
		                        .pid = (uint32_t)getpid() };
	int pair[2], fds[2];

	serve(&one, (struct order){ 0 });
	begin(&two, order);
	/* The test plays a predecessor that tells its successor to serve. */
	CHECK_INT(sg_channel_pair(pair), 0);
	fds[0] = pair[1];
	fds[1] = (int)MUST(sg_pidfd_open(getpid()));
	say(&two, &introduce, fds, 2);
	close(fds[1]);
	close(pair[1]);
	{
		struct sg_channel channel;
		struct sg_message order_to_serve = { .type = SG_MESSAGE_COMMIT };

		sg_channel_init_take(&channel, pair[0]);
		CHECK_INT(sg_channel_send(&channel, &order_to_serve, NULL, 0), 0);
		line_with(&two, "sent a message that makes no sense");
		sg_channel_done(&channel);
	}
	CHECK(!has_said(&two, "\"event\":\"serving\""));
	commit(&two);
	stop(&two, false);
	ends(&two, 0);
	stop(&one, false);
	ends(&one, 0);
}

/* A path belongs to the service. */

UNIT_CASE(a_unix_path_stays_until_the_supervisor_removes_it_but_for_a_worker_that_never_served)
{
	char path[64], spec[80];
	const char *arguments[] = { "--listen", spec, NULL };
	struct worker one, two, *elders[] = { &one, NULL };
	struct stat info;

	snprintf(path, sizeof(path), "/tmp/segue-unit-%ld.sock", (long)getpid());
	snprintf(spec, sizeof(spec), "web=unix://%s", path);
	begin(&one, (struct order){ .arguments = arguments });
	CHECK_INT(one.up[0].message.flags, SG_LISTENER_OURS);
	MUST(stat(path, &info));
	CHECK_INT(one.up[0].message.ino, info.st_ino);
	stop(&one, false);
	ends(&one, 0);
	CHECK(stat(path, &info) < 0);
	serve(&one, (struct order){ .arguments = arguments });
	begin(&two, (struct order){ .arguments = arguments,
	                            .generation = 2,
	                            .offers = one.up,
	                            .offers_len = 1,
	                            .elders = elders });
	commit(&two);
	retire(&one, 60000);
	ends(&one, 0);
	MUST(stat(path, &info));
	stop(&two, false);
	ends(&two, 0);
	MUST(stat(path, &info));
	MUST(unlink(path));
}

UNIT_MAIN
