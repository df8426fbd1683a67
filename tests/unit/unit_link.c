/* SPDX-License-Identifier: MIT */
/*
 * The channel to a worker: what is to be sent and cannot be for want of memory or of descriptors in
 * flight, while the socket stays writable; what cannot even wait; and what the worker tells of its
 * connections. The rest of the supervisor is stood in for.
 */
#include "unit.h"
#include "unit_loop.h"

#include "core/channel.h"
#include "core/fd.h"
#include "core/lifecycle.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define WAIT_MS 300
#define STEP_MS 50 /* between two attempts, at the least */

static int refused;           /* what each attempt fails with; 0: none does */
static unsigned int attempts; /* to send */
static unsigned int told;     /* by the worker */
static unsigned int ended;    /* the worker was */

/* In place of libc's. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	attempts++;
	if (refused == 0)
		return (ssize_t)syscall(SYS_sendmsg, fd, message, flags);
	errno = refused;
	return -1;
}

/* The rest of the supervisor. */

void worker_failed(struct worker *worker, const char *format, ...)
{
	told++;
}

void worker_post(struct worker *worker, enum worker_event event)
{
	CHECK(event == WORKER_EVENT_SERVES || event == WORKER_EVENT_ABANDON);
	ended += event == WORKER_EVENT_ABANDON;
}

void worker_is_ready(struct worker *worker, enum worker_kind kind)
{
}

void generation_greeted(struct worker *worker)
{
}

void generation_counted(struct worker *worker)
{
}

void held_take(struct service *service, struct worker *worker, const struct sg_message *message,
               int fd)
{
}

void held_wanted(struct service *service, struct worker *worker, const struct sg_message *ready)
{
}

void desk_draining(struct service *service, bool at_once)
{
}

int service_upgrade(struct service *service, char **argv, uint64_t asker, char *reason,
                    size_t reason_size)
{
	return -EBUSY;
}

void log_say(const char *event, json_t *fields, const char *format, ...)
{
	json_decref(fields);
}

/* The bench. */

struct bench {
	uv_loop_t loop;
	uv_timer_t timer;
	struct service service;
	struct generation generation;
	struct slot slot;
	struct worker worker;
	struct link *link;
	struct sg_channel far; /* the worker's end */
};

static void bench_open(struct bench *bench)
{
	int fd;

	*bench = (struct bench){ 0 };
	CHECK_INT(uv_loop_init(&bench->loop), 0);
	CHECK_INT(uv_timer_init(&bench->loop, &bench->timer), 0);
	bench->service.loop = &bench->loop;
	bench->generation.service = &bench->service;
	bench->slot.generation = &bench->generation;
	bench->worker.slot = &bench->slot;
	CHECK_INT(link_open(&bench->link, &bench->worker, &fd), 0);
	sg_channel_init_take(&bench->far, fd);
}

static void bench_close(struct bench *bench)
{
	link_close(bench->link);
	uv_close((uv_handle_t *)&bench->timer, NULL);
	CHECK_INT(uv_run(&bench->loop, UV_RUN_DEFAULT), 0);
	CHECK_INT(uv_loop_close(&bench->loop), 0);
	sg_channel_done(&bench->far);
}

static void on_timer(uv_timer_t *timer)
{
	uv_stop(timer->loop);
}

static void run_for(struct bench *bench, uint64_t ms)
{
	uv_update_time(&bench->loop);
	CHECK_INT(uv_timer_start(&bench->timer, on_timer, ms, 0), 0);
	(void)uv_run(&bench->loop, UV_RUN_DEFAULT);
}

static void answer(struct bench *bench, uint64_t number)
{
	struct sg_message message = { .type = SG_MESSAGE_ANSWER, .generation = number };

	CHECK_INT(link_send(bench->link, &message, NULL, 0), 0);
}

/* The number of the next answer; 0: none is there. */
static uint64_t hear(struct bench *bench)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message message;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;
	int r = sg_channel_receive(&bench->far, buffer, &message, fds, &fds_len);

	if (r == 0)
		return 0;
	CHECK_INT(r, 1);
	return message.generation;
}

static void be_refused_and_heard_later(int error)
{
	struct bench bench;

	bench_open(&bench);
	refused = error;
	attempts = 0;
	answer(&bench, 1);
	answer(&bench, 2);
	run_for(&bench, WAIT_MS);
	/* At once, when the socket is writable, and by the timer. */
	CHECK(attempts >= 2 && attempts <= 2 + WAIT_MS / STEP_MS);
	CHECK_INT(hear(&bench), 0);
	refused = 0;
	for (uint64_t next = 1; next <= 2;) {
		uint64_t heard = hear(&bench);

		if (heard == 0) {
			CHECK(uv_run(&bench.loop, UV_RUN_ONCE) != 0);
			continue;
		}
		CHECK_INT(heard, next);
		next++;
	}
	/* From here on as if nothing had been. */
	attempts = 0;
	answer(&bench, 3);
	CHECK_INT(attempts, 1);
	CHECK_INT(hear(&bench), 3);
	bench_close(&bench);
}

UNIT_CASE(what_too_many_descriptors_in_flight_keep_back_is_sent_later_and_costs_no_processor)
{
	be_refused_and_heard_later(ETOOMANYREFS);
}

UNIT_CASE(what_waits_for_memory_is_sent_later_and_costs_no_processor)
{
	be_refused_and_heard_later(ENOBUFS);
	be_refused_and_heard_later(ENOMEM);
}

/* What there is no room for goes as soon as there is some, and not by the timer. */
UNIT_CASE(what_there_is_no_room_for_is_sent_when_there_is)
{
	struct bench bench;
	uint64_t sent = 0, heard = 0;

	bench_open(&bench);
	while (attempts == sent)
		answer(&bench, ++sent);
	refused = 0;
	attempts = 0;
	while (heard < sent) {
		uint64_t next = hear(&bench);

		if (next != 0)
			CHECK_INT(next, ++heard);
		else
			(void)uv_run(&bench.loop, UV_RUN_ONCE);
	}
	bench_close(&bench);
}

UNIT_CASE(a_worker_is_heard_while_it_cannot_be_told_anything)
{
	struct sg_message failed = { .type = SG_MESSAGE_FAILED };
	struct bench bench;

	bench_open(&bench);
	refused = ETOOMANYREFS;
	answer(&bench, 1);
	run_for(&bench, STEP_MS);
	CHECK_INT(told, 0);
	refused = 0;
	snprintf(failed.text, sizeof(failed.text), "it cannot");
	CHECK_INT(sg_channel_send(&bench.far, &failed, NULL, 0), 0);
	refused = ETOOMANYREFS;
	run_for(&bench, STEP_MS);
	CHECK_INT(told, 1);
	/* It ends with a message that waits, and its timer. */
	bench_close(&bench);
}

/* What a worker says. */

static void say(struct bench *bench, const struct sg_message *message, const int *fds, size_t len)
{
	CHECK_INT(sg_channel_send(&bench->far, message, fds, len), 0);
	link_look(bench->link);
}

static void greet(struct bench *bench)
{
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = 2,
		                    .version_max = 2,
		                    .pid = (uint32_t)getpid() };
	int pidfd = sg_pidfd_open(getpid());

	bench->worker.process.pid = getpid();
	say(bench, &hello, &pidfd, 1);
	sg_fd_close(pidfd);
	CHECK(link_greeted(bench->link));
}

static void say_connections(struct bench *bench, enum sg_state state, uint64_t connections)
{
	struct sg_message progress = { .type = SG_MESSAGE_PROGRESS,
		                       .state = (uint32_t)state,
		                       .connections = connections };

	say(bench, &progress, NULL, 0);
	CHECK_INT(bench->worker.connections, connections);
}

UNIT_CASE(connections_that_a_worker_told_before_it_drains_are_not_those_of_its_drain)
{
	struct bench bench;

	bench_open(&bench);
	greet(&bench);
	bench.worker.state = WORKER_DRAINING;
	bench.worker.aged = true;
	say_connections(&bench, SG_STATE_SERVING, 3);
	say_connections(&bench, SG_STATE_STANDBY, 3);
	CHECK(bench.worker.counts && bench.worker.aged);
	say_connections(&bench, SG_STATE_DRAINING, 20);
	CHECK(bench.worker.counts && !bench.worker.aged);
	bench_close(&bench);
}

UNIT_CASE(connections_of_a_worker_that_serves_again_are_known_with_its_next_word)
{
	struct bench bench;

	bench_open(&bench);
	greet(&bench);
	bench.worker.state = WORKER_SERVING;
	bench.worker.aged = true;
	say_connections(&bench, SG_STATE_STANDBY, 3);
	CHECK(!bench.worker.aged);
	bench_close(&bench);
}

UNIT_MAIN

/* What cannot even wait. */

static int introduce(struct bench *bench,
                     int (*send)(struct link *, const struct sg_message *, const int *, size_t))
{
	struct sg_message message = { .type = SG_MESSAGE_INTRODUCE, .upstream = 1 };
	/* Of what waits a duplicate is kept, and there is no such descriptor. */
	int none[] = { 100000, 100000 };
	int r;

	refused = ENOBUFS;
	r = send(bench->link, &message, none, 2);
	refused = 0;
	return r;
}

UNIT_CASE(a_worker_that_misses_a_message_is_told_nothing_more_and_is_ended)
{
	struct sg_message commit = { .type = SG_MESSAGE_COMMIT };
	struct bench bench;

	bench_open(&bench);
	greet(&bench);
	answer(&bench, 1);
	told = ended = 0;
	CHECK_INT(introduce(&bench, link_send), -EBADF);
	CHECK(!link_speaks(bench.link) && link_greeted(bench.link));
	CHECK_INT(link_send(bench.link, &commit, NULL, 0), -EPIPE);
	/* Whoever sent it is in the middle of something. */
	CHECK_INT(ended, 0);
	run_for(&bench, STEP_MS);
	CHECK_INT(told, 1);
	CHECK_INT(ended, 1);
	/* Its channel is there, and has nothing after the answer: an end would be the supervisor's.
	 */
	CHECK_INT(hear(&bench), 1);
	CHECK_INT(hear(&bench), 0);
	run_for(&bench, 2L * STEP_MS);
	CHECK_INT(ended, 1);
	bench_close(&bench);
}

UNIT_CASE(a_worker_that_is_not_introduced_is_spoken_to_all_the_same)
{
	struct bench bench;

	bench_open(&bench);
	greet(&bench);
	told = ended = 0;
	CHECK_INT(introduce(&bench, link_send_or_not), -EBADF);
	CHECK(link_speaks(bench.link));
	answer(&bench, 1);
	run_for(&bench, STEP_MS);
	CHECK_INT(hear(&bench), 1);
	CHECK_INT(told + ended, 0);
	bench_close(&bench);
}
