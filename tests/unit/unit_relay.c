/* SPDX-License-Identifier: MIT */
/*
 * The relay of the workers' output: real writers, and a reader that counts.
 */
#include "unit.h"
#include "unit_loop.h"

#include "core/fd.h"
#include "segue/relay.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#define WRITERS 8
#define LINES   2000

/* Workers that are left without a supervisor: one is stopped, one may stay. */
#define ORPHANS 4
#define STOPPED 1
#define ENDLESS 2

/* How the relay's process sees the time and waits, where a case says so: shared with it. */
static struct {
	pid_t test;
	_Atomic int64_t ahead_ms;   /* of the real time */
	_Atomic unsigned int waits; /* how often it has begun to wait, */
	_Atomic int wait_ms;        /* and how long for */
} * watch;

/* In place of libc's. */
int clock_gettime(clockid_t clock_id, struct timespec *tp)
{
	int r = (int)syscall(SYS_clock_gettime, clock_id, tp);

	if (watch != NULL)
		tp->tv_sec += watch->ahead_ms / 1000;
	return r;
}

int poll(struct pollfd *fds, nfds_t nfds, int timeout)
{
	struct timespec step = { .tv_nsec = 2000000 };
	int64_t began = watch != NULL ? sg_now_ms() : 0;
	long r;

	if (watch == NULL || getpid() == watch->test) {
		struct timespec real = { timeout / 1000, timeout % 1000 * 1000000L };

		return (int)syscall(SYS_ppoll, fds, nfds, timeout < 0 ? NULL : &real, NULL, 0);
	}
	watch->wait_ms = timeout;
	watch->waits++;
	do
		r = syscall(SYS_ppoll, fds, nfds, &step, NULL, 0);
	while (r == 0 && (timeout < 0 || sg_now_ms() - began < timeout));
	return (int)r;
}

struct bench {
	uv_loop_t loop;
	struct relay *relay;
	int out;    /* where the relay's standard output (and error) can be read */
	int shared; /* the writing end that it was given */
	unsigned int called;
	char tail[RELAY_TAIL_MAX + 1];
};

/* How long the workers may outlive the supervisor. */
static int64_t linger_ms = -1;

static void open_relay(struct bench *bench, enum config_log mode, const char *log_file)
{
	int saved1 = (int)MUST(fcntl(1, F_DUPFD_CLOEXEC, 10));
	int saved2 = (int)MUST(fcntl(2, F_DUPFD_CLOEXEC, 10));
	char reason[256];
	int r;

	fflush(NULL);
	MUST(dup2(bench->shared, 1));
	MUST(dup2(bench->shared, 2));
	r = relay_open(&bench->relay, &bench->loop, mode, log_file, reason, sizeof(reason));
	MUST(dup2(saved1, 1));
	MUST(dup2(saved2, 2));
	MUST(close(saved1));
	MUST(close(saved2));
	if (r < 0)
		UNIT_FAIL("%s", reason);
}

static void bench_open(struct bench *bench, enum config_log mode, const char *log_file)
{
	int fds[2];

	*bench = (struct bench){ 0 };
	CHECK_INT(uv_loop_init(&bench->loop), 0);
	MUST(pipe2(fds, O_CLOEXEC));
	bench->out = fds[0];
	bench->shared = fds[1];
	open_relay(bench, mode, log_file);
}

/* From here on the output ends with the relay's process. */
static void only_the_relay_writes(struct bench *bench)
{
	MUST(close(bench->shared));
	bench->shared = -1;
}

static void bench_close(struct bench *bench)
{
	relay_close(bench->relay);
	uv_run(&bench->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&bench->loop), 0);
	if (bench->shared >= 0)
		MUST(close(bench->shared));
	if (bench->out >= 0)
		MUST(close(bench->out));
}

/* A worker whose standard output and error are the relay's; it runs in a process of its own. */
static pid_t start_worker(struct bench *bench, uint64_t key, const char *tag,
                          void (*work)(unsigned int number))
{
	int fds[2];
	pid_t pid;

	CHECK_INT(relay_worker(bench->relay, key, tag, fds), 0);
	CHECK(fds[0] < 0 || (MUST(fcntl(fds[0], F_GETFD)) & FD_CLOEXEC));
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		if (fds[0] >= 0) {
			MUST(dup2(fds[0], 1));
			MUST(dup2(fds[1], 2));
		}
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		alarm(UNIT_DEADLINE_S);
		work((unsigned int)key);
		_exit(0);
	}
	if (fds[0] >= 0) {
		MUST(close(fds[0]));
		MUST(close(fds[1]));
	}
	relay_pid(bench->relay, key, pid, linger_ms);
	return pid;
}

static void reap(pid_t pid)
{
	MUST(waitpid(pid, NULL, 0));
}

static void work_nothing(unsigned int number)
{
}

/* How long the dots of a line are: some are written in pieces, since they do not fit into what
 * a pipe takes whole. */
static unsigned int dots_of(unsigned int number, unsigned int i)
{
	return i % 16 == 5 ? 9000 + i : (i * 7 + number * 31) % 600;
}

static void work_lines(unsigned int number)
{
	static char line[16384];

	for (unsigned int i = 0; i < LINES; i++) {
		unsigned int dots = dots_of(number, i);
		int at = sprintf(line, "w%u %u ", number, i);

		memset(line + at, '.', dots);
		memcpy(line + at + dots, "!\n", 2);
		MUST(write(i % 3 ? 1 : 2, line, (size_t)at + dots + 2));
	}
}

/* Standard output and error of one worker are two pipes: each is in order for itself. */
static void check_line(const char *line, pid_t *pids, unsigned int next[][2], bool prefixed)
{
	unsigned int number, i;
	const char *dots;
	char expected[64];
	int at = 0;

	if (prefixed) {
		CHECK_INT(sscanf(line, "3:%u", &number), 1);
		CHECK(number < WRITERS);
		at = snprintf(expected, sizeof(expected), "3:%u[%d] ", number, (int)pids[number]);
		if (strncmp(line, expected, (size_t)at) != 0)
			UNIT_FAIL("'%.80s' begins otherwise than '%s'", line, expected);
	}
	if (sscanf(line + at, "w%u %u ", &number, &i) != 2 || number >= WRITERS)
		UNIT_FAIL("torn: '%.80s'", line);
	dots = strrchr(line, ' ') + 1;
	CHECK_INT(strspn(dots, "."), dots_of(number, i));
	CHECK_STRING(dots + dots_of(number, i), "!");
	while (next[number][i % 3 != 0] % 3 != 0 ? i % 3 == 0 : i % 3 != 0)
		next[number][i % 3 != 0]++;
	CHECK_INT(i, next[number][i % 3 != 0]);
	next[number][i % 3 != 0] += i % 3 == 1 ? 1 : i % 3 == 2 ? 2 : 3;
}

static void check_writers(enum config_log mode)
{
	unsigned int next[WRITERS][2] = { 0 }, count = 0;
	pid_t pids[WRITERS];
	struct bench bench;
	static char line[16384];
	char tag[16];
	FILE *out;

	for (int i = 0; i < WRITERS; i++)
		next[i][1] = 1;
	bench_open(&bench, mode, NULL);
	for (unsigned int i = 0; i < WRITERS; i++) {
		snprintf(tag, sizeof(tag), "3:%u", i);
		pids[i] = start_worker(&bench, i, tag, work_lines);
	}
	out = fdopen(bench.out, "r");
	while (count < WRITERS * LINES && fgets(line, sizeof(line), out)) {
		CHECK(line[strlen(line) - 1] == '\n');
		line[strlen(line) - 1] = '\0';
		check_line(line, pids, next, mode == CONFIG_LOG_PREFIX);
		count++;
	}
	CHECK_INT(count, WRITERS * LINES);
	for (int i = 0; i < WRITERS; i++)
		reap(pids[i]);
	only_the_relay_writes(&bench);
	relay_close(bench.relay);
	CHECK(!fgets(line, sizeof(line), out));
	bench.relay = NULL;
	fclose(out);
	bench.out = -1;
	bench_close(&bench);
}

UNIT_CASE(lines_of_eight_writers_are_not_torn)
{
	check_writers(CONFIG_LOG_PLAIN);
}

UNIT_CASE(lines_of_eight_writers_are_tagged_and_not_torn)
{
	check_writers(CONFIG_LOG_PREFIX);
}

/* Reads exactly so many bytes, or fails. */
static void read_bytes(int fd, char *ret_bytes, size_t len)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	size_t at = 0;
	ssize_t n;

	while (at < len) {
		CHECK_INT(poll(&poller, 1, 20000), 1);
		n = MUST(read(fd, ret_bytes + at, len - at));
		CHECK(n > 0);
		at += (size_t)n;
	}
}

static void expect(int fd, const char *text)
{
	char read_back[512] = "";

	read_bytes(fd, read_back, strlen(text));
	CHECK_STRING(read_back, text);
}

static void work_prompt(unsigned int number)
{
	MUST(write(1, "name? ", 6));
	pause();
}

UNIT_CASE(half_a_line_passes_when_no_more_comes)
{
	struct bench bench;
	pid_t pid;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	pid = start_worker(&bench, 1, "1:1", work_prompt);
	expect(bench.out, "name? ");
	MUST(kill(pid, SIGKILL));
	reap(pid);
	bench_close(&bench);
}

static void work_bytes(unsigned int number)
{
	static char bytes[256 << 10];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)((i * 2654435761u) >> 13);
	for (size_t at = 0; at < sizeof(bytes); at += 4096)
		MUST(write(1, bytes + at, 4096));
}

UNIT_CASE(bytes_pass_unchanged)
{
	char *bytes = malloc(256 << 10);
	struct bench bench;
	pid_t pid;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	pid = start_worker(&bench, 1, "1:1", work_bytes);
	read_bytes(bench.out, bytes, 256 << 10);
	for (size_t i = 0; i < (256 << 10); i++)
		CHECK(bytes[i] == (char)((i * 2654435761u) >> 13));
	reap(pid);
	free(bytes);
	bench_close(&bench);
}

static void work_long_line(unsigned int number)
{
	static char bytes[150000];

	memset(bytes, 'x', sizeof(bytes));
	MUST(write(1, bytes, sizeof(bytes)));
}

/* 65,536 twice, the rest, and a newline that was not there. */
UNIT_CASE(a_line_without_end_passes_in_pieces)
{
	static const size_t pieces[] = { 65536, 65536, 150000 - 2 * 65536 };
	char *bytes = malloc(70000), prefix[32];
	struct bench bench;
	pid_t pid;

	bench_open(&bench, CONFIG_LOG_PREFIX, NULL);
	pid = start_worker(&bench, 1, "12:3", work_long_line);
	snprintf(prefix, sizeof(prefix), "12:3[%d] ", (int)pid);
	for (int i = 0; i < 3; i++) {
		expect(bench.out, prefix);
		read_bytes(bench.out, bytes, pieces[i]);
		CHECK(memchr(bytes, '\n', pieces[i]) == NULL);
		expect(bench.out, "\n");
	}
	reap(pid);
	free(bytes);
	bench_close(&bench);
}

/* Tails. */

static void on_tail(void *ctx, const char *text)
{
	struct bench *bench = ctx;

	bench->called++;
	snprintf(bench->tail, sizeof(bench->tail), "%s", text);
}

static const char *tail_of(struct bench *bench, uint64_t key)
{
	uint64_t began = uv_hrtime();

	bench->called = 0;
	uv_update_time(&bench->loop);
	relay_tail(bench->relay, key, on_tail, bench);
	CHECK_INT(bench->called, 0);
	while (bench->called == 0)
		uv_run(&bench->loop, UV_RUN_ONCE);
	CHECK_INT(bench->called, 1);
	CHECK(uv_hrtime() - began < 1500000000);
	return bench->tail;
}

static void work_last_words(unsigned int number)
{
	MUST(write(1, "starting\n", 9));
	MUST(write(2, "no \x1b[1mport\xff\n", 13));
	MUST(write(1, "dying", 5));
	raise(SIGKILL);
}

UNIT_CASE(the_last_words_of_a_killed_worker_are_its_tail)
{
	struct bench bench;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	reap(start_worker(&bench, 1, "1:1", work_last_words));
	tail_of(&bench, 1);
	CHECK(strstr(bench.tail, "starting\n") != NULL);
	CHECK(strstr(bench.tail, "no ?[1mport?\n") != NULL);
	CHECK(strstr(bench.tail, "dying") != NULL);
	CHECK_STRING(tail_of(&bench, 2), "");
	bench_close(&bench);
}

static void work_numbers(unsigned int number)
{
	char line[32];

	for (unsigned int i = 0; i < 3000; i++)
		MUST(write(1, line, (size_t)snprintf(line, sizeof(line), "number %u\n", i)));
}

UNIT_CASE(a_tail_begins_at_a_line_and_is_bounded)
{
	struct bench bench;
	unsigned int first = 0, count = 0;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	reap(start_worker(&bench, 1, "1:1", work_numbers));
	tail_of(&bench, 1);
	CHECK(strlen(bench.tail) <= RELAY_TAIL_MAX && strlen(bench.tail) > RELAY_TAIL_MAX - 16);
	CHECK_INT(sscanf(bench.tail, "number %u\n", &first), 1);
	for (const char *at = bench.tail; (at = strchr(at, '\n')); at++)
		count++;
	CHECK_INT(first + count, 3000);
	bench_close(&bench);
}

static void work_flood(unsigned int number)
{
	static char line[1000];

	memset(line, 'f', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	for (;;)
		MUST(write(1, line, sizeof(line)));
}

/* Nobody reads the relay's output: the flooder waits, the supervisor does not. */
static void check_blocked(enum config_log mode)
{
	struct bench bench;
	pid_t flooder;
	uint64_t began;

	bench_open(&bench, mode, NULL);
	flooder = start_worker(&bench, 1, "1:1", work_flood);
	/* The output has no room once the flooder has filled both pipes. */
	for (struct pollfd full = { .fd = bench.shared, .events = POLLOUT };
	     poll(&full, 1, 0) == 1;)
		CHECK(tail_of(&bench, 1)[0] == 'f' || bench.tail[0] == '\0');
	reap(start_worker(&bench, 2, "1:2", work_last_words));
	tail_of(&bench, 2);
	CHECK(strstr(bench.tail, "dying") != NULL);
	began = uv_hrtime();
	relay_close(bench.relay);
	bench.relay = NULL;
	/* Long before it would be killed, ten seconds. */
	CHECK(uv_hrtime() - began < 8000000000);
	MUST(kill(flooder, SIGKILL));
	reap(flooder);
	bench_close(&bench);
}

UNIT_CASE(a_reader_that_does_not_read_holds_up_no_tail)
{
	check_blocked(CONFIG_LOG_PLAIN);
}

UNIT_CASE(a_reader_that_does_not_read_holds_up_no_tail_of_tagged_lines)
{
	check_blocked(CONFIG_LOG_PREFIX);
}

/* Its process. */

static pid_t process_of(const struct bench *bench)
{
	char path[64];
	FILE *file;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	file = fopen(path, "re");
	CHECK(file != NULL);
	while (fscanf(file, "%d", &pid) == 1)
		if (relay_is(bench->relay, pid)) {
			fclose(file);
			return pid;
		}
	UNIT_FAIL("the relay has no process");
}

UNIT_CASE(a_relay_that_does_not_answer_is_waited_for_a_second)
{
	struct bench bench;
	pid_t pid;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	pid = process_of(&bench);
	reap(start_worker(&bench, 1, "1:1", work_last_words));
	MUST(kill(pid, SIGSTOP));
	CHECK_STRING(tail_of(&bench, 1), "");
	MUST(kill(pid, SIGCONT));
	CHECK(strstr(tail_of(&bench, 1), "dying") != NULL);
	bench_close(&bench);
}

static void work_few_lines(unsigned int number)
{
	char line[32];

	for (unsigned int i = 0; i < 1000; i++)
		MUST(write(1, line,
		           (size_t)snprintf(line, sizeof(line), "line %03u of 1000\n", i)));
}

/* The stopped process reads nothing; all of it is there for the one that follows. */
UNIT_CASE(a_relay_that_dies_is_replaced_and_what_it_had_not_read_is_not_lost)
{
	struct bench bench;
	pid_t pid;

	bench_open(&bench, CONFIG_LOG_PREFIX, NULL);
	pid = process_of(&bench);
	MUST(kill(pid, SIGSTOP));
	reap(start_worker(&bench, 1, "1:1", work_nothing));
	relay_forget(bench.relay, 1);
	CHECK(!relay_is(bench.relay, getpid()));
	bench.called = 0;
	pid = start_worker(&bench, 2, "1:2", work_few_lines);
	reap(pid);
	relay_tail(bench.relay, 2, on_tail, &bench);
	MUST(kill(process_of(&bench), SIGKILL));
	reap(process_of(&bench));
	/* Another in its place has the same output as this one had. */
	{
		int saved = (int)MUST(fcntl(1, F_DUPFD_CLOEXEC, 10));

		MUST(dup2(bench.shared, 1));
		relay_died(bench.relay);
		for (int i = 0; i < 1000; i++) {
			struct pollfd poller = { .fd = bench.out, .events = POLLIN };
			char expected[64];
			int n = snprintf(expected, sizeof(expected), "1:2[%d] line %03d of 1000\n",
			                 (int)pid, i);

			while (poll(&poller, 1, 0) == 0)
				uv_run(&bench.loop, UV_RUN_NOWAIT);
			CHECK(n < (int)sizeof(expected));
			expect(bench.out, expected);
		}
		MUST(dup2(saved, 1));
		MUST(close(saved));
	}
	CHECK(strstr(tail_of(&bench, 2), "line 999 of 1000\n") != NULL);
	bench_close(&bench);
}

static void work_one_line(unsigned int number)
{
	MUST(write(1, "one line\n", 9));
}

UNIT_CASE(a_signal_for_the_whole_group_does_not_end_it)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	struct bench bench;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	/* It has set its signals before it answers. */
	reap(start_worker(&bench, 1, "1:1", work_nothing));
	tail_of(&bench, 1);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		MUST(kill(process_of(&bench), signals[i]));
	reap(start_worker(&bench, 2, "1:2", work_one_line));
	expect(bench.out, "one line\n");
	bench_close(&bench);
}

static void work_after_the_supervisor(unsigned int number)
{
	while (getppid() == (pid_t)number)
		poll(NULL, 0, 1);
	work_few_lines(0);
}

/* The supervisor dies without a word. The output of its workers comes through to the end, and
 * ends with them. */
UNIT_CASE(the_output_outlives_the_supervisor)
{
	struct bench bench;
	char expected[64], byte;
	int fds[2];
	pid_t pid;

	unit_adopt_orphans();
	MUST(pipe2(fds, O_CLOEXEC));
	bench = (struct bench){ .out = fds[0], .shared = fds[1] };
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		CHECK_INT(uv_loop_init(&bench.loop), 0);
		open_relay(&bench, CONFIG_LOG_PLAIN, NULL);
		start_worker(&bench, (uint64_t)getpid(), "1:1", work_after_the_supervisor);
		tail_of(&bench, (uint64_t)getpid());
		raise(SIGKILL);
	}
	MUST(close(fds[1]));
	reap(pid);
	for (int i = 0; i < 1000; i++) {
		snprintf(expected, sizeof(expected), "line %03d of 1000\n", i);
		expect(bench.out, expected);
	}
	CHECK_INT(read(bench.out, &byte, 1), 0);
	MUST(close(bench.out));
	unit_reap_orphans();
}

/* A pipe is full of them, and not all that the relay reads ahead. */
#define LEFT_LINES 4000

static void work_many_lines(unsigned int number)
{
	char text[32];

	for (unsigned int i = 0; i < LEFT_LINES; i++)
		MUST(write(1, text, (size_t)snprintf(text, sizeof(text), "line %06u\n", i)));
}

/* The supervisor has died, its worker has written more than there is room for, and is gone; the
 * relay waits for a reader, for so long as it says. */
static void leave_unread(struct bench *bench)
{
	pid_t pid;
	int fds[2];

	unit_adopt_orphans();
	watch = mmap(NULL, sizeof(*watch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	             0);
	CHECK(watch != MAP_FAILED);
	watch->test = getpid();
	MUST(pipe2(fds, O_CLOEXEC));
	*bench = (struct bench){ .out = fds[0], .shared = fds[1] };
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		CHECK_INT(uv_loop_init(&bench->loop), 0);
		open_relay(bench, CONFIG_LOG_PREFIX, NULL);
		start_worker(bench, 1, "1:1", work_many_lines);
		raise(SIGKILL);
	}
	MUST(close(fds[1]));
	reap(pid);
	/* The worker: the relay cannot have ended. */
	MUST(waitpid(-1, NULL, 0));
	/* For nothing else it waits so long. */
	while (watch->wait_ms < 10000)
		poll(NULL, 0, 1);
}

/* The time that it waits for passes, and it has either seen that or ended. */
static void let_the_wait_pass(void)
{
	unsigned int before = watch->waits;
	siginfo_t info = { 0 };

	watch->ahead_ms += watch->wait_ms + 1000;
	while (watch->waits == before && info.si_pid == 0) {
		poll(NULL, 0, 1);
		MUST(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT));
	}
}

UNIT_CASE(a_relay_without_supervisor_and_workers_does_not_wait_for_ever_for_who_never_reads)
{
	struct bench bench;

	leave_unread(&bench);
	CHECK(watch->wait_ms <= 30000);
	let_the_wait_pass();
	unit_reap_orphans();
	MUST(close(bench.out));
}

UNIT_CASE(it_waits_for_who_reads_little_at_a_time_and_writes_it_all)
{
	char text[100], line[64], *end;
	unsigned int count = 0;
	struct bench bench;
	FILE *out;

	leave_unread(&bench);
	/* Much less than the page that has to be read before there is room again. */
	for (int i = 0; i < 5; i++) {
		CHECK_INT(read(bench.out, text, sizeof(text)), sizeof(text));
		let_the_wait_pass();
		for (size_t at = 0; at < sizeof(text); at++)
			count += text[at] == '\n';
	}
	out = fdopen(bench.out, "r");
	while (fgets(line, sizeof(line), out))
		count++;
	CHECK_INT(count, LEFT_LINES);
	end = strstr(line, "line ");
	CHECK(end != NULL);
	CHECK_INT(strtol(end + 5, NULL, 10), LEFT_LINES - 1);
	fclose(out);
	unit_reap_orphans();
}

static void work_for_ever(unsigned int number)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };

	/* Its group is the worker's own, as under a supervisor. */
	MUST(setsid());
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_IGN);
	if (number == STOPPED)
		raise(SIGSTOP);
	for (;;)
		poll(NULL, 0, -1);
}

/* Four workers, of which three may stay for a moment; their pids come by the pipe. */
static void leave_workers(struct bench *bench, enum config_log mode, int pids_fd)
{
	CHECK_INT(uv_loop_init(&bench->loop), 0);
	open_relay(bench, mode, NULL);
	for (unsigned int number = 0; number < ORPHANS; number++) {
		pid_t pid;

		linger_ms = number == ENDLESS ? -1 : 50;
		pid = start_worker(bench, number, "1:1", work_for_ever);
		MUST(write(pids_fd, &pid, sizeof(pid)));
	}
	raise(SIGKILL);
}

static void check_orphans(enum config_log mode)
{
	pid_t supervisor, pids[ORPHANS];
	struct bench bench;
	int out[2], told[2], status;

	unit_adopt_orphans();
	MUST(pipe2(out, O_CLOEXEC));
	MUST(pipe2(told, O_CLOEXEC));
	bench = (struct bench){ .out = out[0], .shared = out[1] };
	supervisor = (pid_t)MUST(fork());
	if (supervisor == 0)
		leave_workers(&bench, mode, told[1]);
	MUST(close(out[1]));
	reap(supervisor);
	CHECK_INT(read(told[0], pids, sizeof(pids)), sizeof(pids));
	for (unsigned int number = 0; number < ORPHANS; number++) {
		if (number == ENDLESS)
			continue;
		MUST(waitpid(pids[number], &status, 0));
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	/* One that nobody kills is there still, with the others long gone. */
	CHECK_INT(waitpid(pids[ENDLESS], &status, WNOHANG), 0);
	MUST(kill(pids[ENDLESS], SIGKILL));
	MUST(close(bench.out));
	MUST(close(told[0]));
	MUST(close(told[1]));
	unit_reap_orphans();
}

UNIT_CASE(a_worker_that_does_not_leave_is_killed_without_a_supervisor)
{
	check_orphans(CONFIG_LOG_PLAIN);
}

UNIT_CASE(a_worker_that_does_not_leave_is_killed_though_it_writes_past_the_relay)
{
	check_orphans(CONFIG_LOG_DIRECT);
}

UNIT_CASE(it_keeps_nothing_open_and_is_called_what_it_is)
{
	struct bench bench;
	char path[64], name[32] = "";
	unsigned int count = 0;
	struct dirent *entry;
	int fd;
	DIR *dir;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	reap(start_worker(&bench, 1, "1:1", work_nothing));
	/* Asked behind it: the answer, or none, says that it has been forgotten. */
	relay_forget(bench.relay, 1);
	tail_of(&bench, 1);
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)process_of(&bench));
	CHECK((dir = opendir(path)) != NULL);
	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	closedir(dir);
	/* 0, 1, 2, the socket, and the output opened once more. */
	CHECK_INT(count, 5);
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)process_of(&bench));
	fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(read(fd, name, sizeof(name) - 1));
	MUST(close(fd));
	CHECK_STRING(name, "segue-relay\n");
	CHECK(!(MUST(fcntl(bench.shared, F_GETFL)) & O_NONBLOCK));
	bench_close(&bench);
}

/* Ends. */

static unsigned int open_descriptors(void)
{
	struct unit_descriptors now;

	unit_descriptors_now(&now);
	return (unsigned int)now.count;
}

UNIT_CASE(a_worker_that_is_forgotten_leaves_nothing)
{
	struct bench bench;
	unsigned int before;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	before = open_descriptors();
	for (uint64_t key = 1; key <= 300; key++) {
		reap(start_worker(&bench, key, "1:1", work_one_line));
		relay_forget(bench.relay, key);
		expect(bench.out, "one line\n");
	}
	while (open_descriptors() > before)
		uv_run(&bench.loop, UV_RUN_ONCE);
	CHECK_STRING(tail_of(&bench, 300), "");
	bench_close(&bench);
}

UNIT_CASE(closing_lets_out_what_is_in_the_pipes)
{
	struct bench bench;
	char expected[64], byte;
	pid_t sleeper;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	MUST(fcntl(bench.out, F_SETPIPE_SZ, 1 << 17));
	sleeper = start_worker(&bench, 1, "1:1", work_prompt);
	/* What is written after the close is nobody's. */
	while (strcmp(tail_of(&bench, 1), "name? ") != 0)
		;
	MUST(kill(process_of(&bench), SIGSTOP));
	reap(start_worker(&bench, 2, "1:2", work_few_lines));
	MUST(kill(process_of(&bench), SIGCONT));
	only_the_relay_writes(&bench);
	relay_close(bench.relay);
	bench.relay = NULL;
	MUST(kill(sleeper, SIGKILL));
	reap(sleeper);
	/* The sleeper's half line is somewhere among them. */
	for (int i = 0, j = 0; i < 1001; i++) {
		char first;

		read_bytes(bench.out, &first, 1);
		if (first == 'n') {
			expect(bench.out, "ame? ");
			continue;
		}
		snprintf(expected, sizeof(expected), "ine %03d of 1000\n", j++);
		expect(bench.out, expected);
	}
	CHECK_INT(read(bench.out, &byte, 1), 0);
	bench_close(&bench);
}

UNIT_CASE(without_a_reader_workers_live_on)
{
	struct bench bench;
	pid_t pid;
	int status;

	bench_open(&bench, CONFIG_LOG_PLAIN, NULL);
	only_the_relay_writes(&bench);
	MUST(close(bench.out));
	bench.out = -1;
	pid = start_worker(&bench, 1, "1:1", work_lines);
	MUST(waitpid(pid, &status, 0));
	CHECK_INT(status, 0);
	CHECK(strstr(tail_of(&bench, 1), "w1 199") != NULL);
	bench_close(&bench);
}

UNIT_CASE(the_log_file_is_opened_anew)
{
	char folder[] = "/tmp/segue-unit-XXXXXX", path[64], moved[64], reason[256];
	struct bench bench;
	struct stat st;
	struct relay *relay;

	CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/log", folder);
	snprintf(moved, sizeof(moved), "%s/log.1", folder);
	bench_open(&bench, CONFIG_LOG_PLAIN, path);
	reap(start_worker(&bench, 1, "1:1", work_one_line));
	tail_of(&bench, 1);
	reap(start_worker(&bench, 2, "1:2", work_one_line));
	tail_of(&bench, 2);
	MUST(rename(path, moved));
	relay_reopen(bench.relay);
	reap(start_worker(&bench, 3, "1:3", work_one_line));
	tail_of(&bench, 3);
	bench_close(&bench);
	MUST(stat(moved, &st));
	CHECK_INT(st.st_size, 18);
	CHECK_INT(st.st_mode & 07777, 0640);
	MUST(stat(path, &st));
	CHECK_INT(st.st_size, 9);
	CHECK_INT(uv_loop_init(&bench.loop), 0);
	CHECK_INT(relay_open(&relay, &bench.loop, CONFIG_LOG_PLAIN, folder, reason, sizeof(reason)),
	          -EISDIR);
	CHECK(strstr(reason, folder) != NULL);
	uv_run(&bench.loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&bench.loop), 0);
	MUST(unlink(path));
	MUST(unlink(moved));
	MUST(rmdir(folder));
}

UNIT_CASE(direct_output_is_the_workers_own)
{
	struct bench bench;
	int fds[2] = { 7, 7 };
	char byte;

	bench_open(&bench, CONFIG_LOG_DIRECT, NULL);
	CHECK_INT(relay_worker(bench.relay, 1, "1:1", fds), 0);
	CHECK_INT(fds[0], -1);
	CHECK_INT(fds[1], -1);
	relay_pid(bench.relay, 1, 4711, -1);
	CHECK_STRING(tail_of(&bench, 1), "");
	/* Nor does its process keep it open. */
	only_the_relay_writes(&bench);
	CHECK_INT(read(bench.out, &byte, 1), 0);
	relay_forget(bench.relay, 1);
	relay_reopen(bench.relay);
	CHECK(!relay_is(bench.relay, 0));
	bench_close(&bench);
}

UNIT_MAIN
