/* SPDX-License-Identifier: MIT */
/*
 * Who sends when; see load.h.
 *
 * After anything has happened to a connection, look_after() decides what it does next. In closed
 * loop a connection with room sends at once; after a loss it pauses. In open loop connections with
 * room wait in a queue, and the clock hands them requests. Idle and half connections live by their
 * own think time in both.
 */
#include "load.h"
#include "clock.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

/*
 * At the start no more than these are connecting at a time, or ten thousand would overrun the
 * backlog of any server and wait a second for the kernel's next try.
 */
#define MAX_CONNECTING 256
#define MAX_EVENTS     256
#define READ_BYTES     (256 << 10)
#define SIGNAL_SOURCE  UINT64_MAX

static int init_plans(struct load *load, size_t *ret_flights)
{
	size_t flights = 0;

	for (size_t shape = 0; shape < SHAPES; shape++) {
		uint64_t count = load->options->connections[shape];
		int r;

		if (!count)
			continue;
		r = plan_init(&load->plans[shape], (enum shape)shape, load->options);
		if (r < 0)
			return r;
		load->count += count;
		flights += count * load->plans[shape].depth;
	}
	*ret_flights = flights;
	return 0;
}

static void init_connections(struct load *load)
{
	struct flight *flights = load->flights;
	uint32_t index = 0;

	for (size_t shape = 0; shape < SHAPES; shape++) {
		struct plan *plan = &load->plans[shape];

		for (uint64_t i = 0; i < load->options->connections[shape]; i++) {
			connection_init(&load->connections[index], &load->client, plan, index,
			                flights);
			flights += plan->depth;
			index++;
		}
	}
}

static int init_memory(struct load *load)
{
	struct client *client = &load->client;
	size_t flights;
	int r;

	r = init_plans(load, &flights);
	if (r < 0)
		return r;
	r = tally_init(&client->tally);
	if (r < 0)
		return r;
	r = timers_init(&client->timers, load->count);
	if (r < 0)
		return r;
	client->buffer_size = READ_BYTES;
	client->buffer = malloc(READ_BYTES);
	load->flights = calloc(flights, sizeof(*load->flights));
	load->connections = calloc(load->count, sizeof(*load->connections));
	if (!client->buffer || !load->flights || !load->connections)
		return -ENOMEM;
	init_connections(load);
	return 0;
}

static int init_descriptors(struct load *load)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = SIGNAL_SOURCE };
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	load->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
	if (load->signal_fd < 0)
		return -errno;
	load->client.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (load->client.epoll_fd < 0)
		return -errno;
	if (epoll_ctl(load->client.epoll_fd, EPOLL_CTL_ADD, load->signal_fd, &event) < 0)
		return -errno;
	return 0;
}

static void end_restart(const struct restarts *restarts, size_t number)
{
	size_t place = offsetof(struct load, restarts);
	const struct load *load = (const struct load *)((const char *)restarts - place);

	if (load->on_restart)
		load->on_restart(load, number);
}

int load_init(struct load *load, const struct options *options, const struct target *target,
              const struct command_setting *setting)
{
	int r;

	*load = (struct load){
		.options = options,
		.signal_fd = -1,
		.client = {
			.epoll_fd = -1,
			.timeout_ns = options->timeout_ns,
			.connect_timeout_ns = options->connect_timeout_ns,
			.target = *target,
		},
	};
	r = init_memory(load);
	if (r == 0)
		r = init_descriptors(load);
	if (r == 0)
		r = restarts_init(&load->restarts, options, &load->client.tally,
		                  load->client.epoll_fd, setting);
	load->restarts.on_end = end_restart;
	if (r < 0)
		load_done(load);
	return r;
}

void load_done(struct load *load)
{
	struct client *client = &load->client;

	for (size_t i = 0; load->connections && i < load->count; i++)
		connection_done(&load->connections[i]);
	for (size_t shape = 0; shape < SHAPES; shape++)
		plan_done(&load->plans[shape]);
	restarts_done(&load->restarts);
	free(load->connections);
	free(load->flights);
	free(client->buffer);
	timers_done(&client->timers);
	tally_done(&client->tally);
	if (client->epoll_fd >= 0)
		close(client->epoll_fd);
	if (load->signal_fd >= 0)
		close(load->signal_fd);
}

/* How many of @wanted requests may still be started. */
static unsigned int allowance(const struct load *load, unsigned int wanted)
{
	uint64_t limit = load->options->requests;
	uint64_t started = load->client.tally.started;

	if (load->stopping)
		return 0;
	if (limit && limit - started < wanted)
		return (unsigned int)(limit - started);
	return wanted;
}

static void push_free(struct load *load, struct connection *connection)
{
	if (connection->queued)
		return;
	connection->queued = true;
	connection->next = NULL;
	if (load->free_last)
		load->free_last->next = connection;
	else
		load->free_first = connection;
	load->free_last = connection;
}

static struct connection *pop_free(struct load *load)
{
	struct connection *connection = load->free_first;

	if (!connection)
		return NULL;
	load->free_first = connection->next;
	if (!load->free_first)
		load->free_last = NULL;
	connection->queued = false;
	return connection;
}

static bool thinks(const struct connection *connection)
{
	return connection->plan->think_ns > 0;
}

/* An open connection of the shape half, after its answer, sends half of the next request. */
static void think(struct load *load, struct connection *connection)
{
	if (connection->plan->shape == SHAPE_HALF && connection->state == CONNECTION_OPEN &&
	    allowance(load, 1))
		connection_begin_half(connection);
	connection->wake_ns = clock_now_ns() + connection->plan->think_ns;
}

static void begin(struct load *load, struct connection *connection)
{
	unsigned int room = connection->plan->depth - connection->in_flight;
	unsigned int count = allowance(load, room);

	if (count)
		connection_begin(connection, count, clock_now_ns());
}

/* Nothing is in flight on it, or there is room for more. */
static void send_next(struct load *load, struct connection *connection)
{
	bool is_first = connection->ended == 0;

	if (thinks(connection) && !is_first)
		think(load, connection);
	else if (load->options->rate && !thinks(connection))
		push_free(load, connection);
	else
		begin(load, connection);
}

static void settle(struct load *load, struct connection *connection)
{
	if (connection->settled || connection->ended == 0)
		return;
	connection->settled = true;
	load->settled++;
	if (load->settled == load->count && load->on_running)
		load->on_running(load);
}

/* Whether the connection has a loss behind it and is to wait before it goes on. */
static bool pauses(struct load *load, struct connection *connection)
{
	bool lost = connection->lost;

	connection->lost = false;
	if (!lost || connection->in_flight || (load->options->rate && !thinks(connection)))
		return false;
	connection->wake_ns = clock_now_ns() + load->options->pause_ns;
	return true;
}

static void decide(struct load *load, struct connection *connection)
{
	if (connection->state == CONNECTION_CONNECTING || connection->held)
		return;
	if (load->stopping) {
		if (!connection->in_flight)
			connection_close(connection);
		return;
	}
	if (connection->in_flight == connection->plan->depth || pauses(load, connection))
		return;
	if (connection->wake_ns)
		return;
	send_next(load, connection);
	pauses(load, connection);
}

static void look_after(struct load *load, struct connection *connection)
{
	decide(load, connection);
	settle(load, connection);
	connection_arm(connection);
}

/* The think time or the pause is over. */
static void wake(struct load *load, struct connection *connection)
{
	connection->wake_ns = 0;
	if (connection->held)
		connection_release(connection);
	else if (!connection->in_flight && (!load->options->rate || thinks(connection)))
		begin(load, connection);
}

/* No request is started from now on; those in flight are waited for. */
static void stop(struct load *load, uint64_t at_ns)
{
	if (load->stopping)
		return;
	load->stopping = true;
	load->stop_ns = at_ns;
	restarts_stop(&load->restarts, at_ns);
	for (size_t i = 0; i < load->count; i++) {
		struct connection *connection = &load->connections[i];

		connection->wake_ns = 0;
		connection_release(connection);
		look_after(load, connection);
	}
}

static void abandon(struct load *load)
{
	restarts_abandon(&load->restarts, clock_now_ns());
	for (size_t i = 0; i < load->count; i++)
		connection_close(&load->connections[i]);
}

static void take_signal(struct load *load)
{
	struct signalfd_siginfo info;

	while (read(load->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (load->interrupted)
			abandon(load);
		load->interrupted = true;
		stop(load, clock_now_ns());
	}
}

static void take_event(struct load *load, const struct epoll_event *event)
{
	struct connection *connection;

	if (event->data.u64 == SIGNAL_SOURCE) {
		take_signal(load);
		return;
	}
	if (event->data.u64 == RESTART_SOURCE) {
		restarts_take_event(&load->restarts, clock_now_ns());
		return;
	}
	/*
	 * A socket has at most one event in a batch, and only its own event makes a connection
	 * open another: so this one is about the socket that the connection has now, or it is
	 * closed and does not mind.
	 */
	connection = &load->connections[event->data.u64];
	connection_event(connection, event->events);
	look_after(load, connection);
}

static struct connection *connection_of(struct timer *timer)
{
	return (struct connection *)((char *)timer - offsetof(struct connection, timer));
}

static void take_timers(struct load *load, uint64_t now_ns)
{
	struct timer *timer;

	while ((timer = timers_take(&load->client.timers, now_ns))) {
		struct connection *connection = connection_of(timer);

		connection_expire(connection, now_ns);
		if (connection->wake_ns && connection->wake_ns <= now_ns)
			wake(load, connection);
		look_after(load, connection);
	}
}

/* When the open loop's request of this number is due. */
static uint64_t due_of(const struct load *load, uint64_t number)
{
	uint64_t rate = load->options->rate;

	return load->start_ns + number / rate * NS_PER_S + number % rate * NS_PER_S / rate;
}

static void take_schedule(struct load *load, uint64_t now_ns)
{
	if (!load->options->rate)
		return;
	while (load->free_first && allowance(load, 1)) {
		uint64_t due_ns = due_of(load, load->issued);
		struct connection *connection;

		if (due_ns > now_ns || (load->end_ns && due_ns >= load->end_ns))
			return;
		connection = pop_free(load);
		load->issued++;
		connection_begin(connection, 1, due_ns);
		look_after(load, connection);
	}
}

uint64_t load_not_started(const struct load *load)
{
	uint64_t rate = load->options->rate, ran_ns = load->stop_ns - load->start_ns, due;

	if (!rate || load->options->requests)
		return 0;
	due = ran_ns / NS_PER_S * rate + (ran_ns % NS_PER_S * rate + NS_PER_S - 1) / NS_PER_S;
	return due > load->issued ? due - load->issued : 0;
}

/* Tells connections to start, as long as not too many are on their way. */
static void ramp_up(struct load *load)
{
	while (load->begun < load->count && load->client.connecting < MAX_CONNECTING)
		look_after(load, &load->connections[load->begun++]);
}

static void take_time(struct load *load, uint64_t now_ns)
{
	uint64_t limit = load->options->requests;

	take_timers(load, now_ns);
	ramp_up(load);
	take_schedule(load, now_ns);
	if (load->progress_ns && load->progress_ns <= now_ns) {
		load->progress_ns += load->options->progress_ns;
		if (load->on_progress)
			load->on_progress(load);
	}
	if (load->tick_ns && load->tick_ns <= now_ns) {
		load->tick_ns = now_ns + load->tick_every_ns;
		load->on_tick(load);
	}
	if (restarts_take_time(&load->restarts, now_ns))
		stop(load, now_ns);
	if (load->end_ns && load->end_ns <= now_ns)
		stop(load, load->end_ns);
	if (limit && load->client.tally.started >= limit)
		stop(load, now_ns);
}

static uint64_t next_time(const struct load *load)
{
	uint64_t next = timers_next(&load->client.timers);
	uint64_t restart_ns = restarts_next_time(&load->restarts);

	if (load->progress_ns && load->progress_ns < next)
		next = load->progress_ns;
	if (load->tick_ns && load->tick_ns < next)
		next = load->tick_ns;
	if (restart_ns < next)
		next = restart_ns;
	if (load->stopping)
		return next;
	if (load->end_ns && load->end_ns < next)
		next = load->end_ns;
	if (load->options->rate && load->free_first && due_of(load, load->issued) < next)
		next = due_of(load, load->issued);
	return next;
}

static int wait_until(int epoll_fd, struct epoll_event *events, uint64_t until_ns)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	struct timespec left = {
		.tv_sec = (time_t)(left_ns / NS_PER_S),
		.tv_nsec = (long)(left_ns % NS_PER_S),
	};
	int count;

	count = epoll_pwait2(epoll_fd, events, MAX_EVENTS, until_ns == UINT64_MAX ? NULL : &left,
	                     NULL);
	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	return count;
}

static bool is_busy(const struct load *load)
{
	const struct tally *tally = &load->client.tally;

	return !load->stopping || tally->finished < tally->started ||
	       restarts_running(&load->restarts);
}

int load_run(struct load *load)
{
	struct epoll_event events[MAX_EVENTS];
	struct tally *tally = &load->client.tally;

	/* The kernel's usual slack of 50 us would show in an open loop's latency. */
	prctl(PR_SET_TIMERSLACK, 1);
	load->start_ns = clock_now_ns();
	tally->timeline.start_ns = load->start_ns;
	if (load->options->duration_ns)
		load->end_ns = load->start_ns + load->options->duration_ns;
	if (load->options->progress_ns)
		load->progress_ns = load->start_ns + load->options->progress_ns;
	if (load->on_tick)
		load->tick_ns = load->start_ns + load->tick_every_ns;
	restarts_start(&load->restarts, load->start_ns);
	take_time(load, load->start_ns);
	while (is_busy(load)) {
		int count = wait_until(load->client.epoll_fd, events, next_time(load));

		if (count < 0)
			return count;
		for (int i = 0; i < count; i++)
			take_event(load, &events[i]);
		take_time(load, clock_now_ns());
	}
	timeline_extend(&tally->timeline, load->stop_ns);
	restarts_finish(&load->restarts);
	return 0;
}
