/* SPDX-License-Identifier: MIT */
/*
 * actor: a service on libsegue alone that stays in whatever state a test wants to look at.
 *
 * It serves the line protocol of client.h, hands live connections over, tells each event as a
 * JSON line on stderr, and obeys the orders of orders.h:
 *
 *     start-timeout, drain-timeout, check-timeout, probation    milliseconds
 *     check ok | fail             there is a preflight check, which ends so
 *     check-hold, open-hold, start-hold, ready-hold, gone-hold  a FIFO that keeps the process in
 *                                 the check, before segue_open(), before segue_ready(), after it
 *                                 without dispatching, and between GONE and segue_close()
 *     drained never               says segue_drained() never, and closes nothing
 *     hand none                   hands nothing over
 *     record, record-min, record-max                            versions of connection records
 *     room N                      so many descriptors can be opened, and no more
 *     drain-nofile N              RLIMIT_NOFILE from the beginning of the drain
 *     blobs NAME:BYTES,...        the application state
 *     read NAME,...               blobs to tell about, before READY and when final state comes
 *     save fail | fail-final      save_state() fails
 *     namespace pid               what it starts lives in a pid namespace of its own
 */
#include "client.h"
#include "orders.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct segue *segue;
static int epoll_fd, listener_fd;
static bool accepting, draining, cut;

static void accept_from(bool on)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = &listener_fd };

	if (on != accepting)
		(void)epoll_ctl(epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener_fd, &event);
	accepting = on;
}

static void set_soft_limit(rlim_t soft)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void limit_room(void)
{
	long left = order_number("room", -1);
	int lowest;

	if (left < 0)
		return;
	lowest = dup(STDERR_FILENO);
	close(lowest);
	set_soft_limit((rlim_t)(lowest + left));
}

/* Application state. */

static void blob_content(char *data, size_t len, const char *name, bool final)
{
	char text[96];
	int n = snprintf(text, sizeof(text), "%s of %s by %llu;", final ? "final" : "snapshot",
	                 name, (unsigned long long)segue_generation(segue));

	for (size_t i = 0; i < len; i++)
		data[i] = text[i % (size_t)n];
}

static int put(struct segue *handle, const char *name, size_t len, bool final)
{
	bool real = len <= SEGUE_BLOB_MAX_BYTES;
	char *data = malloc(real ? len + 1 : 1);
	int r;

	if (data == NULL)
		return -ENOMEM;
	if (real)
		blob_content(data, len, name, final);
	r = segue_put_blob(handle, name, data, len);
	if (r < 0)
		tell("put", ", \"blob\": \"%s\", \"error\": %d, \"text\": \"%s\"", name, -r,
		     quoted(segue_error(handle)));
	free(data);
	return r;
}

static int save_state(struct segue *handle, bool final, void *ctx)
{
	const char *list = order("blobs");
	char copy[ORDER_MAX], *rest = NULL;

	(void)ctx;
	tell("save", ", \"final\": %s", final ? "true" : "false");
	snprintf(copy, sizeof(copy), "%s", list != NULL ? list : "");
	for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		char *colon = strchr(word, ':');

		if (colon == NULL)
			continue;
		*colon = '\0';
		(void)put(handle, word, strtoull(colon + 1, NULL, 10), final);
	}
	if (order_number("many", 0) > 0) {
		for (long i = 0; i < order_number("many", 0); i++) {
			char name[32];

			snprintf(name, sizeof(name), "many-%ld", i);
			if (put(handle, name, 8, final) < 0)
				break;
		}
	}
	return order_is("save", final ? "fail-final" : "fail") ? -EIO : 0;
}

static void tell_blob(const char *name, const char *when, uint64_t from)
{
	const void *data;
	size_t len = 0;
	int r = segue_blob(segue, name, &data, &len);
	const char *text = data;
	unsigned int sum = 0;
	char head[48] = "";

	for (size_t i = 0; r == 0 && i < len; i++)
		sum += (unsigned char)text[i];
	if (r == 0)
		snprintf(head, sizeof(head), "%.*s", (int)(len < 40 ? len : 40), text);
	tell("blob",
	     ", \"blob\": \"%s\", \"when\": \"%s\", \"error\": %d, \"len\": %zu, \"sum\": %u, "
	     "\"head\": \"%s\", \"from\": %llu",
	     name, when, -r, len, sum, quoted(head), (unsigned long long)from);
}

static void tell_blobs(const char *when, uint64_t from)
{
	const char *list = order("read");
	char copy[ORDER_MAX], *rest = NULL;

	snprintf(copy, sizeof(copy), "%s", list != NULL ? list : "");
	for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
		tell_blob(word, when, from);
}

/* Events. */

static void hand_all_over(void)
{
	if (order_is("hand", "none"))
		return;
	for (struct client *client = clients; client != NULL; client = client->next)
		client_hand_over(client);
}

static void close_all(bool busy_too)
{
	size_t closed = 0;

	for (struct client *client = clients; client != NULL; client = client->next) {
		if (client->closed || client->handed || (client->busy && !busy_too))
			continue;
		closed++;
		client_close(client);
	}
	tell("closed", ", \"connections\": %zu", closed);
}

static void begin_drain(const struct segue_event *event)
{
	accept_from(false);
	draining = true;
	tell("drain", ", \"successor\": %s, \"connections\": %zu, \"deadline\": %lld",
	     event->successor ? "true" : "false", clients_len, (long long)event->deadline_ms);
	if (order("drain-nofile") != NULL)
		set_soft_limit((rlim_t)order_number("drain-nofile", 64));
	if (event->successor)
		hand_all_over();
	else if (!order_is("drained", "never"))
		close_all(false);
}

static void begin_again(void)
{
	tell("resume", ", \"connections\": %zu", clients_len);
	draining = cut = false;
	for (struct client *client = clients; client != NULL; client = client->next)
		client->kept = false;
	accept_from(true);
}

static void tell_ended(const struct segue_event *event)
{
	tell("ended",
	     ", \"outcome\": \"%s\", \"of\": %llu, \"child\": %ld, \"error\": %d, \"reason\": "
	     "\"%s\", \"took\": %lld",
	     segue_outcome_name(event->outcome), (unsigned long long)event->generation,
	     (long)event->pid, event->error, quoted(event->reason), (long long)event->took_ms);
}

static void tell_state(const struct segue_event *event)
{
	tell("state", ", \"from\": \"%s\", \"to\": \"%s\", \"reason\": \"%s\", \"took\": %lld",
	     segue_state_name(event->from), segue_state_name(event->to), event->reason,
	     (long long)event->took_ms);
}

/* true: the program has to end. */
static bool handle(const struct segue_event *event)
{
	switch (event->type) {
	case SEGUE_EVENT_SERVE:
		tell("accepts", "%s", "");
		accept_from(true);
		break;
	case SEGUE_EVENT_UPGRADE_STARTED:
		tell("started", ", \"child\": %ld", (long)event->pid);
		break;
	case SEGUE_EVENT_UPGRADE_ENDED:
		tell_ended(event);
		break;
	case SEGUE_EVENT_COMMIT:
		accept_from(false);
		break;
	case SEGUE_EVENT_DRAIN:
		begin_drain(event);
		break;
	case SEGUE_EVENT_RESUME:
		begin_again();
		break;
	case SEGUE_EVENT_CUT:
		tell("cut", ", \"connections\": %zu", clients_len);
		draining = cut = true;
		accept_from(false);
		if (!order_is("drained", "never"))
			close_all(true);
		break;
	case SEGUE_EVENT_CONNECTION:
		client_adopt(event);
		break;
	case SEGUE_EVENT_TAKEN:
		client_taken(event->cookie);
		break;
	case SEGUE_EVENT_KEPT:
		client_kept(event->cookie, event->reason);
		break;
	case SEGUE_EVENT_FINAL_STATE:
		tell("final", ", \"from\": %llu", (unsigned long long)event->generation);
		tell_blobs("final", event->generation);
		break;
	case SEGUE_EVENT_STATE:
		tell_state(event);
		break;
	case SEGUE_EVENT_WARNING:
		tell("warning", ", \"reason\": \"%s\"", quoted(event->reason));
		break;
	case SEGUE_EVENT_GONE:
		tell("gone", ", \"error\": %d, \"reason\": \"%s\", \"connections\": %zu",
		     event->error, quoted(event->reason), clients_len);
		return true;
	default:
		break;
	}
	return false;
}

static bool dispatch(void)
{
	struct segue_event event;

	for (;;) {
		while (segue_dispatch(segue, &event) > 0)
			if (handle(&event))
				return true;
		/* Also what an older generation gave us while we were leaving. */
		if (draining && !cut && segue_current_state(segue) == SEGUE_DRAINING)
			hand_all_over();
		if (!draining || clients_len > 0 || order_is("drained", "never"))
			return false;
		draining = false;
		if (segue_drained(segue) < 0) {
			tell("pending", "%s", "");
			draining = true;
			return false;
		}
	}
}

static void accept_one(void)
{
	int fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		client_new_take(fd);
}

static void serve(void)
{
	struct epoll_event events[64];

	while (!dispatch()) {
		int count;

		clients_sweep();
		count = epoll_wait(epoll_fd, events, 64, -1);
		for (int i = 0; i < count; i++) {
			struct client *client = events[i].data.ptr;

			if (events[i].data.ptr == &segue)
				continue;
			if (events[i].data.ptr == &listener_fd) {
				accept_one();
				continue;
			}
			if (client->closed || client->handed)
				continue;
			client_readable(client);
			if (draining && !cut && segue_current_state(segue) == SEGUE_DRAINING &&
			    !order_is("hand", "none"))
				client_hand_over(client);
			else if (draining && segue_current_state(segue) == SEGUE_STOPPING &&
			         !client->busy)
				client_close(client);
		}
	}
}

static int begin(const char *listen)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = &segue };

	orders_generation(segue_generation(segue));
	tell("opened", "%s", "");
	limit_room();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, segue_fd(segue), &event) < 0)
		return -errno;
	clients_begin(epoll_fd, segue);
	listener_fd = segue_listen_spec(segue, listen, NULL);
	if (listener_fd < 0)
		return listener_fd;
	if (order_is("namespace", "pid") && unshare(CLONE_NEWPID) < 0)
		return -errno;
	hold("start-hold");
	tell_blobs("snapshot", 0);
	return segue_ready(segue);
}

static void set_options(struct segue_options *options, const char *const *check)
{
	segue_options_init(options);
	options->start_timeout_ms = order_number("start-timeout", 20000);
	options->drain_timeout_ms = order_number("drain-timeout", 20000);
	options->check_timeout_ms = order_number("check-timeout", 20000);
	options->probation_ms = order_number("probation", 0);
	options->save_state = save_state;
	options->record_version = (uint32_t)order_number("record", 1);
	options->record_version_min = (uint32_t)order_number("record-min", 1);
	options->record_version_max = (uint32_t)order_number("record-max", 1);
	if (order("check") != NULL)
		options->check_arguments = check;
}

int main(int argc, char **argv)
{
	static const struct option known[] = { { "listen", required_argument, NULL, 'l' },
		                               { "pid-file", required_argument, NULL, 'p' },
		                               { "log-format", required_argument, NULL, 'f' },
		                               { "orders", required_argument, NULL, 'o' },
		                               { "check", no_argument, NULL, 'c' },
		                               { NULL, 0, NULL, 0 } };
	const char *listen = "127.0.0.1:0", *pid_file = NULL, *orders = NULL;
	struct segue_options options;
	bool check = false;
	int option, r;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option == 'l')
			listen = optarg;
		else if (option == 'p')
			pid_file = optarg;
		else if (option == 'o')
			orders = optarg;
		else if (option == 'c')
			check = true;
		else if (option == '?')
			return 2;
	}
	orders_file(orders);
	/* A predecessor may have lowered its own. */
	set_soft_limit(RLIM_INFINITY);
	if (check) {
		hold("check-hold");
		return order_is("check", "fail") ? 1 : 0;
	}
	hold("open-hold");
	set_options(&options, (const char *const[]){ "--orders", orders, "--check", NULL });
	options.pid_file = pid_file;
	r = segue_open(&segue, &options);
	if (r == 0)
		r = begin(listen);
	if (r < 0) {
		tell("failed", ", \"error\": %d, \"reason\": \"%s\"", -r,
		     quoted(segue_error(segue)));
		segue_close(segue);
		return EXIT_FAILURE;
	}
	hold("ready-hold");
	serve();
	hold("gone-hold");
	for (struct client *client = clients; client != NULL; client = client->next)
		if (!client->closed)
			client_close(client);
	clients_sweep();
	segue_close(segue);
	close(epoll_fd);
	return EXIT_SUCCESS;
}
