/* SPDX-License-Identifier: MIT */
/*
 * The library in this process: what it answers to a program that calls it wrongly, and to a
 * predecessor or successor, played by the test, that says what makes no sense.
 *
 * The words of a predecessor lie in the channel before segue_open() reads them. A successor is
 * this program, started again by the library: it finds a channel in its environment and plays
 * the part whose number lies in the file "part".
 */
#include "unit.h"

#include "core/channel.h"
#include "core/fd.h"
#include "segue.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PATIENCE_MS 30000
#define ANY         "tcp://127.0.0.1:0"

/* Of the predecessor; where this process plays the successor, to it. */
static struct sg_channel above;
static uint64_t own_generation = 1;

static void say(const struct sg_message *message, const int *fds, size_t fds_len)
{
	CHECK_INT(sg_channel_send(&above, message, fds, fds_len), 0);
}

static void say_type(enum sg_message_type type)
{
	say(&(struct sg_message){ .type = type }, NULL, 0);
}

static void say_hello(uint32_t version_min, uint32_t version_max, pid_t pid)
{
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = version_min,
		                    .version_max = version_max,
		                    .generation = own_generation,
		                    .pid = (uint32_t)pid,
		                    .record_max = 9,
		                    .start_ms = PATIENCE_MS };
	int pidfd = (int)MUST(sg_pidfd_open(getpid()));

	say(&hello, &pidfd, 1);
	sg_fd_close(pidfd);
}

/* What a message on its way needs, and nothing else here does: so much is not to be had. */
#define MESSAGE_BYTES 256

/* The names are the linker's: --wrap=malloc. */
void *real_malloc(size_t size) __asm__("__real_malloc");
void *malloc_where_there_is_memory(size_t size) __asm__("__wrap_malloc");

static bool no_memory_for_messages;

void *malloc_where_there_is_memory(size_t size)
{
	if (!no_memory_for_messages || size < MESSAGE_BYTES)
		return real_malloc(size);
	errno = ENOMEM;
	return NULL;
}

/* Of the successor's end, which it fills with answers that nobody reads; 0: as it is. */
static int room_bytes;

/* The channel of a successor: this process is both. */
static void begin(void)
{
	char text[16];
	int fds[2];

	CHECK_INT(sg_channel_pair(fds), 0);
	if (room_bytes > 0)
		MUST(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room_bytes, sizeof(room_bytes)));
	sg_channel_init_take(&above, fds[0]);
	snprintf(text, sizeof(text), "%d", fds[1]);
	setenv("SEGUE_CHANNEL", text, 1);
}

static void greet(void)
{
	begin();
	say_hello(1, 2, getpid());
}

/* The next message of a type, with its descriptors closed. */
static struct sg_message hear(enum sg_message_type type)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct pollfd poller = { .fd = above.fd, .events = POLLIN };
	struct sg_message message;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	for (;;) {
		CHECK_INT(MUST(poll(&poller, 1, PATIENCE_MS)), 1);
		CHECK_INT(sg_channel_receive(&above, buffer, &message, fds, &fds_len), 1);
		for (size_t i = 0; i < fds_len; i++)
			sg_fd_close(fds[i]);
		if (message.type == type)
			return message;
	}
}

/* The library. */

static struct segue *open_with(const struct segue_options *options)
{
	struct segue *segue;
	int r = segue_open(&segue, options);

	if (r < 0)
		UNIT_FAIL("segue_open(): %s", segue_error(segue));
	return segue;
}

static void check_open_fails(const struct segue_options *options, int error, const char *words)
{
	struct segue *segue;

	CHECK_INT(segue_open(&segue, options), error);
	CHECK(segue != NULL);
	if (strstr(segue_error(segue), words) == NULL)
		UNIT_FAIL("'%s' is not '%s'", segue_error(segue), words);
	segue_close(segue);
}

static void check_says(struct segue *segue, int r, int error, const char *words)
{
	CHECK_INT(r, error);
	if (strstr(segue_error(segue), words) == NULL)
		UNIT_FAIL("'%s' is not '%s'", segue_error(segue), words);
}

/* The next event of a type; those before it are passed over. */
static struct segue_event next(struct segue *segue, enum segue_event_type type)
{
	struct pollfd poller = { .fd = segue_fd(segue), .events = POLLIN };
	struct segue_event event;

	for (;;) {
		while (segue_dispatch(segue, &event) == 1)
			if (event.type == type)
				return event;
		CHECK_INT(MUST(poll(&poller, 1, PATIENCE_MS)), 1);
	}
}

static void take_what_is_there(struct segue *segue)
{
	struct pollfd poller = { .fd = segue_fd(segue), .events = POLLIN };
	struct segue_event event;

	CHECK_INT(MUST(poll(&poller, 1, PATIENCE_MS)), 1);
	while (segue_dispatch(segue, &event) == 1)
		CHECK(event.type != SEGUE_EVENT_CONNECTION);
}

static void warns(struct segue *segue, const char *words)
{
	const char *reason = next(segue, SEGUE_EVENT_WARNING).reason;

	if (strstr(reason, words) == NULL)
		UNIT_FAIL("the warning is '%s', not '%s'", reason, words);
}

/* A program that calls it wrongly. */

UNIT_CASE(options_that_make_no_sense_are_refused)
{
	struct segue_options options;
	char path[1000];

	segue_options_init(&options);
	options.size = 3;
	check_open_fails(&options, -EINVAL, "segue_options_init()");
	segue_options_init(&options);
	options.probation_ms = -2;
	check_open_fails(&options, -EINVAL, "a probation is 0 ms to one day");
	segue_options_init(&options);
	options.drain_timeout_ms = 1LL << 40;
	check_open_fails(&options, -EINVAL, "below 24 days");
	segue_options_init(&options);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	options.pid_file = path;
	check_open_fails(&options, -ENAMETOOLONG, "pid file's path is too long");
	segue_options_init(&options);
	options.upgrade_signal = SIGKILL;
	check_open_fails(&options, -EINVAL, "cannot be caught");
	segue_options_init(&options);
	options.upgrade_signal = NSIG;
	check_open_fails(&options, -EINVAL, "cannot be caught");
	setenv("NOTIFY_SOCKET", "nonsense", 1);
	check_open_fails(NULL, -EINVAL, "NOTIFY_SOCKET='nonsense'");
}

UNIT_CASE(a_pid_file_of_a_service_that_runs_is_left_to_it)
{
	struct unit_descriptors before;
	struct segue_options options;
	struct segue *segue;
	int told[2], hold[2];
	pid_t pid;
	char byte;

	unit_descriptors_now(&before);
	segue_options_init(&options);
	options.pid_file = "held.pid";
	MUST(pipe2(told, O_CLOEXEC));
	MUST(pipe2(hold, O_CLOEXEC));
	pid = (pid_t)MUST(fork());
	if (pid == 0) {
		sg_fd_close(hold[1]);
		segue = open_with(&options);
		CHECK_INT(segue_ready(segue), 0);
		(void)next(segue, SEGUE_EVENT_SERVE);
		MUST(write(told[1], "s", 1));
		_exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
	}
	CHECK_INT(MUST(read(told[0], &byte, 1)), 1);
	check_open_fails(&options, -EEXIST, "pid file held.pid is held by a service that runs");
	for (int i = 0; i < 2; i++) {
		sg_fd_close(told[i]);
		sg_fd_close(hold[i]);
	}
	CHECK_INT(MUST(waitpid(pid, NULL, 0)), pid);
	unit_check_descriptors(&before);
}

UNIT_CASE(a_process_has_one_handle)
{
	struct segue *segue = open_with(NULL), *second = segue;

	CHECK_INT(segue_open(&second, NULL), -EALREADY);
	CHECK(second == NULL);
	segue_close(second);
	segue_close(segue);
	segue_close(open_with(NULL));
}

UNIT_CASE(what_is_asked_of_listeners_out_of_turn_is_refused)
{
	struct segue *segue = open_with(NULL);
	int fd = segue_listen(segue, "web", ANY, NULL);

	CHECK(fd > 2);
	check_says(segue, segue_listen(segue, "web", ANY, NULL), -EALREADY, "asked for twice");
	check_says(segue, segue_listen(segue, "Web", ANY, NULL), -EINVAL, "name 'Web'");
	check_says(segue, segue_listen(segue, "x", "tcp://", NULL), -EINVAL, "tcp://");
	check_says(segue, segue_listen_spec(segue, "x=1", NULL), -EINVAL, "1");
	CHECK_INT(segue_listener_fd(segue, "web"), fd);
	CHECK_STRING(segue_listener_name(segue, fd), "web");
	CHECK(segue_listener_name(segue, fd + 1) == NULL);
	check_says(segue, segue_listener_fd(segue, "x"), -ENOENT, "no listener x");
	check_says(segue, segue_unlisten(segue, "x"), -ENOENT, "no listener x");
	CHECK(segue_listen(segue, "more", ANY, NULL) > 2);
	CHECK_INT(segue_unlisten(segue, "more"), 0);
	check_says(segue, segue_unlisten(segue, "more"), -ENOENT, "no listener more");
	CHECK_INT(segue_ready(segue), 0);
	check_says(segue, segue_ready(segue), -EALREADY, "called before");
	check_says(segue, segue_listen(segue, "late", ANY, NULL), -EBUSY, "after segue_ready()");
	segue_close(segue);
}

UNIT_CASE(more_listeners_than_there_may_be_are_refused)
{
	struct segue *segue = open_with(NULL);
	char name[16];

	for (int i = 0; i < SEGUE_LISTENERS_MAX; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		CHECK(segue_listen(segue, name, ANY, NULL) > 2);
	}
	check_says(segue, segue_listen(segue, "one-more", ANY, NULL), -E2BIG, "more than 128");
	segue_close(segue);
}

UNIT_CASE(what_is_asked_of_a_generation_out_of_turn_is_refused)
{
	struct segue *segue = open_with(NULL);
	const void *data;
	size_t len;

	CHECK_INT(segue_put_blob(segue, "a", "b", 1), -EPERM);
	CHECK_INT(segue_blob(segue, "a", &data, &len), -ENOENT);
	CHECK_INT(segue_ready(segue), 0);
	(void)next(segue, SEGUE_EVENT_SERVE);
	CHECK(segue_cut(segue) < 0);
	CHECK(segue_handover(segue, segue_fd(segue), NULL, 0, NULL, 0, NULL) < 0);
	CHECK_STRING(segue_outcome_name((enum segue_outcome)99), "?");
	CHECK_STRING(segue_state_name((enum segue_state)99), "?");
	CHECK_INT(segue_stop(segue, false), 0);
	(void)next(segue, SEGUE_EVENT_DRAIN);
	CHECK_INT(segue_drained(segue), 0);
	(void)next(segue, SEGUE_EVENT_GONE);
	segue_close(segue);
	segue_close(NULL);
	CHECK_STRING(segue_error(NULL), "");
}

UNIT_CASE(a_channel_that_is_none_is_refused)
{
	static const char *const texts[] = { "", "x", "1", "-5", "99999999999", "1000" };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		setenv("SEGUE_CHANNEL", texts[i], 1);
		check_open_fails(NULL, -EPROTO, "SEGUE_CHANNEL names no channel");
		CHECK(getenv("SEGUE_CHANNEL") == NULL);
	}
}

/* A predecessor that talks nonsense, before it has offered its listeners. */

UNIT_CASE(a_predecessor_of_no_common_version_is_told_of)
{
	begin();
	say_hello(90, 99, getpid());
	check_open_fails(NULL, -EPROTO, "no common protocol version: generation 1 speaks 90 to 99");
	sg_channel_done(&above);
}

UNIT_CASE(a_predecessor_is_greeted_once_and_first)
{
	begin();
	say_type(SG_MESSAGE_OFFERED);
	check_open_fails(NULL, -EPROTO, "the predecessor sent a message that makes no sense");
	sg_channel_done(&above);
	begin();
	say_hello(1, 2, 1);
	check_open_fails(NULL, -EPROTO, "the predecessor sent a message that makes no sense");
	sg_channel_done(&above);
	greet();
	say_hello(1, 2, getpid());
	check_open_fails(NULL, -EPROTO, "the predecessor sent a message that makes no sense");
	sg_channel_done(&above);
}

UNIT_CASE(bytes_that_are_no_message_end_the_start)
{
	begin();
	CHECK_INT(MUST(send(above.fd, "nonsense", 8, 0)), 8);
	check_open_fails(NULL, -EPROTO, "the predecessor sent a message that makes no sense");
	sg_channel_done(&above);
}

UNIT_CASE(an_offer_that_does_not_add_up_ends_the_start)
{
	greet();
	say(&(struct sg_message){ .type = SG_MESSAGE_OFFERED, .count = 3 }, NULL, 0);
	check_open_fails(NULL, -EPROTO, "the predecessor sent a message that makes no sense");
	sg_channel_done(&above);
}

UNIT_CASE(a_start_that_is_given_up_before_it_began_says_so)
{
	greet();
	say(&(struct sg_message){ .type = SG_MESSAGE_FAILED, .error = ETIMEDOUT }, NULL, 0);
	check_open_fails(NULL, -EPROTO, "the predecessor has given this start up");
	sg_channel_done(&above);
}

UNIT_CASE(a_predecessor_that_says_nothing_is_waited_for_ten_seconds)
{
	int64_t began = sg_now_ms();

	begin();
	check_open_fails(NULL, -ETIMEDOUT, "the predecessor did not talk for 10000 ms");
	CHECK(sg_now_ms() - began >= 10000);
	sg_channel_done(&above);
}

UNIT_CASE(a_supervisor_that_goes_on_as_a_predecessor_ends_the_start)
{
	greet();
	say(&(struct sg_message){ .type = SG_MESSAGE_SUPERVISE, .workers = 1 }, NULL, 0);
	say_type(SG_MESSAGE_STATE);
	say_type(SG_MESSAGE_WANT_STATE);
	check_open_fails(NULL, -EPROTO, "the supervisor sent a message that makes no sense");
	sg_channel_done(&above);
}

/* And behind it. */

static struct segue *join(const struct segue_options *options)
{
	struct segue *segue;

	greet();
	say_type(SG_MESSAGE_OFFERED);
	segue = open_with(options);
	(void)hear(SG_MESSAGE_HELLO);
	CHECK_INT(segue_generation(segue), 2);
	return segue;
}

static void leave(struct segue *segue)
{
	segue_close(segue);
	sg_channel_done(&above);
}

UNIT_CASE(nonsense_from_a_predecessor_ends_a_start_that_it_has_not_committed)
{
	static const enum sg_message_type types[] = { SG_MESSAGE_READY, SG_MESSAGE_OFFERED,
		                                      SG_MESSAGE_WANT_STATE, SG_MESSAGE_TAKEN };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct segue *segue = join(NULL);
		struct segue_event gone;

		say_type(types[i]);
		gone = next(segue, SEGUE_EVENT_GONE);
		CHECK(gone.error != 0);
		leave(segue);
	}
}

UNIT_CASE(a_start_that_is_given_up_ends)
{
	struct segue *segue = join(NULL);

	CHECK_INT(segue_ready(segue), 0);
	(void)hear(SG_MESSAGE_READY);
	say(&(struct sg_message){ .type = SG_MESSAGE_FAILED, .error = ETIMEDOUT }, NULL, 0);
	CHECK(next(segue, SEGUE_EVENT_GONE).error != 0);
	leave(segue);
}

static struct segue *serve(const struct segue_options *options)
{
	struct segue *segue = join(options);

	CHECK_INT(segue_ready(segue), 0);
	(void)hear(SG_MESSAGE_READY);
	say_type(SG_MESSAGE_COMMIT);
	(void)next(segue, SEGUE_EVENT_SERVE);
	return segue;
}

UNIT_CASE(nonsense_from_a_predecessor_that_drains_closes_its_channel_and_no_more)
{
	struct segue *segue = serve(NULL);

	say_type(SG_MESSAGE_READY);
	warns(segue, "generation 1 sent a message that makes no sense; its channel is closed");
	CHECK_INT(segue_current_state(segue), SEGUE_SERVING);
	/* It could not be told of a successor. */
	check_says(segue, segue_upgrade(segue), -EBUSY, "cannot be told of another one");
	leave(segue);
}

static int connection(void)
{
	int fds[2];

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
	sg_fd_close(fds[1]);
	return fds[0];
}

static void hand_over(uint64_t serial, uint32_t record_version, const char *record)
{
	uint8_t items[1000];
	struct sg_wire_connection one = { .record = (const uint8_t *)record,
		                          .record_len = strlen(record) };
	struct sg_message message = { .type = SG_MESSAGE_CONNECTIONS,
		                      .serial = serial,
		                      .count = 1,
		                      .record_version = record_version,
		                      .items = items };
	int fd = connection();

	message.items_len = (size_t)MUST(sg_wire_add_connection(items, 0, sizeof(items), &one));
	say(&message, &fd, 1);
	sg_fd_close(fd);
}

UNIT_CASE(connections_with_a_record_of_another_version_stay_where_they_are)
{
	struct segue_options options;
	struct segue_event event;
	struct sg_message declined;
	struct segue *segue;

	segue_options_init(&options);
	options.record_version_min = options.record_version_max = options.record_version = 3;
	segue = serve(&options);
	hand_over(1, 4, "later");
	hand_over(2, 3, "ours");
	event = next(segue, SEGUE_EVENT_CONNECTION);
	CHECK_INT(event.record_len, 4);
	CHECK(memcmp(event.record, "ours", 4) == 0);
	sg_fd_close(event.fd);
	declined = hear(SG_MESSAGE_DECLINED);
	CHECK_INT(declined.serial, 1);
	CHECK_INT(declined.error, EPROTONOSUPPORT);
	CHECK_INT(hear(SG_MESSAGE_TAKEN).serial, 2);
	leave(segue);
}

UNIT_CASE(connections_that_come_when_all_has_been_said_stay_where_they_are)
{
	struct segue *segue = serve(NULL);
	struct sg_message declined;

	CHECK_INT(segue_stop(segue, true), 0);
	(void)next(segue, SEGUE_EVENT_CUT);
	hand_over(7, 0, "");
	take_what_is_there(segue);
	declined = hear(SG_MESSAGE_DECLINED);
	CHECK_INT(declined.serial, 7);
	leave(segue);
}

/* What has been written for the predecessor until the end of the channel: so many TAKEN. */
static uint64_t taken_until_the_end(void)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message message;
	int fds[SG_WIRE_FDS_MAX], r;
	uint64_t taken = 0;
	size_t fds_len;

	while ((r = sg_channel_receive(&above, buffer, &message, fds, &fds_len)) == 1) {
		CHECK_INT(fds_len, 0);
		if (message.type == SG_MESSAGE_TAKEN)
			CHECK_INT(message.serial, ++taken);
	}
	CHECK_INT(r, -EPIPE);
	return taken;
}

#define NOTHING_YET ((enum segue_event_type)0)

/* One batch more, and what comes of it: a connection, a warning, or nothing yet. */
static enum segue_event_type give_one(struct segue *segue, uint64_t serial)
{
	struct pollfd poller = { .fd = segue_fd(segue), .events = POLLIN };
	struct segue_event event;

	hand_over(serial, 0, "");
	CHECK_INT(MUST(poll(&poller, 1, PATIENCE_MS)), 1);
	while (segue_dispatch(segue, &event) == 1) {
		if (event.type == SEGUE_EVENT_CONNECTION)
			sg_fd_close(event.fd);
		if (event.type == SEGUE_EVENT_CONNECTION || event.type == SEGUE_EVENT_WARNING)
			return event.type;
	}
	return NOTHING_YET;
}

UNIT_CASE(a_predecessor_that_cannot_be_told_what_was_taken_reads_the_end_of_the_channel)
{
	uint64_t connections = 0;
	enum segue_event_type came;
	struct segue *segue;

	room_bytes = 1;
	segue = serve(NULL);
	no_memory_for_messages = true;
	while ((came = give_one(segue, connections + 1)) == SEGUE_EVENT_CONNECTION)
		connections++;
	no_memory_for_messages = false;
	CHECK_INT(came, SEGUE_EVENT_WARNING);
	CHECK(connections > 0);
	/* Each has an owner, and one only. */
	CHECK_INT(taken_until_the_end(), connections);
	CHECK_INT(segue_current_state(segue), SEGUE_SERVING);
	leave(segue);
}

UNIT_CASE(a_batch_that_cannot_be_declined_ends_the_channel)
{
	enum segue_event_type came;
	uint64_t serial = 0;
	struct segue *segue;

	room_bytes = 1;
	segue = serve(NULL);
	CHECK_INT(segue_stop(segue, true), 0);
	(void)next(segue, SEGUE_EVENT_CUT);
	no_memory_for_messages = true;
	while ((came = give_one(segue, ++serial)) == NOTHING_YET)
		continue;
	no_memory_for_messages = false;
	CHECK_INT(came, SEGUE_EVENT_WARNING);
	CHECK_INT(taken_until_the_end(), 0);
	leave(segue);
}

UNIT_CASE(a_connection_is_nobodys_before_its_acknowledgement_is_written_nor_after_nonsense)
{
	uint64_t connections = 0, serial = 0;
	struct segue_event event;
	struct segue *segue;

	room_bytes = 1;
	segue = serve(NULL);
	while (give_one(segue, ++serial) == SEGUE_EVENT_CONNECTION)
		connections++;
	CHECK(connections > 0);
	say_type(SG_MESSAGE_READY);
	warns(segue, "sent a message that makes no sense");
	while (segue_dispatch(segue, &event) == 1)
		CHECK(event.type != SEGUE_EVENT_CONNECTION);
	CHECK_INT(taken_until_the_end(), connections);
	leave(segue);
}

UNIT_CASE(blobs_that_make_no_sense_are_not_taken)
{
	struct segue *segue = join(NULL);
	struct sg_message blob = { .type = SG_MESSAGE_BLOB, .name = "Name", .size = 1 };
	int file = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
	const void *data;
	size_t len;

	say(&blob, &file, 1);
	snprintf(blob.name, sizeof(blob.name), "large");
	blob.size = SEGUE_BLOB_MAX_BYTES + 1;
	say(&blob, &file, 1);
	snprintf(blob.name, sizeof(blob.name), "unsealed");
	blob.size = 1;
	say(&blob, &file, 1);
	say(&blob, &file, 1);
	say(&(struct sg_message){ .type = SG_MESSAGE_STATE, .count = 4 }, NULL, 0);
	CHECK_INT(segue_blob(segue, "large", &data, &len), -ENOENT);
	CHECK(segue_blob(segue, "unsealed", &data, &len) < 0);
	warns(segue, "blob 'Name' was not taken");
	warns(segue, "blob 'large' was not taken");
	warns(segue, "blob 'unsealed' was not taken");
	sg_fd_close(file);
	leave(segue);
}

/* A successor that talks nonsense. */

enum part {
	PART_GREETS_TWICE,
	PART_GREETS_FOR_ANOTHER,
	PART_SPEAKS_ANOTHER_VERSION,
	PART_COMMITS,
	PART_INTRODUCES,
	PART_IS_STOPPED,
	PART_WANTS_TOO_MUCH,
	PART_STAMMERS,
	PART_CLOSES,
	PART_ASKS_TOO_LATE,
	PART_TAKES_LATER,
	PART_TAKES_ONE_AND_CLOSES,
};

static void play_before_ready(enum part part)
{
	struct sg_message introduce = { .type = SG_MESSAGE_INTRODUCE, .generation = 7, .pid = 1 };
	int fds[2] = { STDIN_FILENO, STDIN_FILENO };

	switch (part) {
	case PART_GREETS_TWICE:
		say_hello(1, 2, getpid());
		break;
	case PART_COMMITS:
		say_type(SG_MESSAGE_COMMIT);
		break;
	case PART_INTRODUCES:
		say(&introduce, fds, 2);
		break;
	case PART_IS_STOPPED:
		say_type(SG_MESSAGE_STOPS);
		break;
	case PART_WANTS_TOO_MUCH:
		say(&(struct sg_message){ .type = SG_MESSAGE_READY, .count = 9 }, NULL, 0);
		break;
	case PART_STAMMERS:
		MUST(send(above.fd, "nonsense", 8, 0));
		break;
	case PART_CLOSES:
		sg_channel_done(&above);
		(void)pause();
		break;
	default:
		break;
	}
}

static void answer(enum sg_message_type type, uint64_t serial, int error)
{
	say(&(struct sg_message){ .type = type, .serial = serial, .error = (uint32_t)error }, NULL,
	    0);
}

static void play_after_commit(enum part part)
{
	uint64_t serial;

	say_type(SG_MESSAGE_READY);
	(void)hear(SG_MESSAGE_COMMIT);
	if (part == PART_ASKS_TOO_LATE) {
		say_type(SG_MESSAGE_WANT_STATE);
		_exit(0);
	}
	serial = hear(SG_MESSAGE_CONNECTIONS).serial;
	if (part == PART_TAKES_ONE_AND_CLOSES) {
		answer(SG_MESSAGE_TAKEN, serial, 0);
		(void)hear(SG_MESSAGE_CONNECTIONS);
		sg_channel_done(&above);
		/* It lives until the test lets it go. */
		(void)open("leave", O_WRONLY | O_CLOEXEC);
		_exit(0);
	}
	answer(SG_MESSAGE_DECLINED, serial + 100, EAGAIN); /* of no batch */
	answer(SG_MESSAGE_DECLINED, serial, EAGAIN);
	say_hello(1, 2, getpid());
	answer(SG_MESSAGE_TAKEN, hear(SG_MESSAGE_CONNECTIONS).serial, 0);
	(void)hear(SG_MESSAGE_FINAL);
	say_type(SG_MESSAGE_RECEIPT);
}

/* Comes back in the process that the test is about only. */
static void play(void)
{
	const char *channel = getenv("SEGUE_CHANNEL");
	enum part part;
	char byte;
	int fd;

	if (channel == NULL)
		return;
	own_generation = 2;
	sg_channel_init_take(&above, (int)strtol(channel, NULL, 10));
	fd = (int)MUST(open("part", O_RDONLY | O_CLOEXEC));
	CHECK_INT(MUST(read(fd, &byte, 1)), 1);
	part = (enum part)(byte - 'a');
	if (part == PART_SPEAKS_ANOTHER_VERSION)
		say_hello(90, 99, getpid());
	else
		say_hello(1, 2, part == PART_GREETS_FOR_ANOTHER ? 1 : getpid());
	play_before_ready(part);
	if (part >= PART_ASKS_TOO_LATE)
		play_after_commit(part);
	/* Until it is ended. */
	while (poll(&(struct pollfd){ .fd = above.fd }, 1, PATIENCE_MS) < 0)
		continue;
	_exit(0);
}

static void give_part(enum part part)
{
	int fd = (int)MUST(open("part", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	char byte = (char)('a' + (int)part);

	CHECK_INT(MUST(write(fd, &byte, 1)), 1);
	sg_fd_close(fd);
}

UNIT_CASE(nonsense_from_a_successor_ends_the_successor)
{
	static const struct {
		enum part part;
		const char *words;
	} rows[] = {
		{ PART_GREETS_TWICE, "it sent a second greeting" },
		{ PART_GREETS_FOR_ANOTHER, "it sent a greeting that makes no sense" },
		{ PART_SPEAKS_ANOTHER_VERSION, "no common protocol version" },
		{ PART_COMMITS, "it sent a message that makes no sense" },
		{ PART_INTRODUCES, "it sent a message that makes no sense" },
		{ PART_IS_STOPPED, "it was asked to stop" },
		{ PART_WANTS_TOO_MUCH, "it sent a message that makes no sense" },
		{ PART_STAMMERS, "it sent a message that makes no sense" },
		{ PART_CLOSES, "it closed its channel before it was ready" },
	};
	struct unit_descriptors before;
	struct segue *segue;

	play();
	unit_descriptors_now(&before);
	segue = open_with(NULL);
	CHECK_INT(segue_ready(segue), 0);
	(void)next(segue, SEGUE_EVENT_SERVE);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct segue_event ended;

		give_part(rows[i].part);
		CHECK_INT(segue_upgrade(segue), 0);
		ended = next(segue, SEGUE_EVENT_UPGRADE_ENDED);
		CHECK_INT(ended.outcome, SEGUE_FAILED);
		if (strstr(ended.reason, rows[i].words) == NULL)
			UNIT_FAIL("'%s' is not '%s'", ended.reason, rows[i].words);
		CHECK_INT(segue_current_state(segue), SEGUE_SERVING);
	}
	segue_close(segue);
	unit_reap_orphans();
	unit_check_descriptors(&before);
}

UNIT_CASE(a_successor_whose_words_could_not_be_read_is_not_followed_when_it_dies)
{
	struct segue *segue;

	play();
	segue = open_with(NULL);
	CHECK_INT(segue_ready(segue), 0);
	(void)next(segue, SEGUE_EVENT_SERVE);
	give_part(PART_ASKS_TOO_LATE);
	CHECK_INT(segue_upgrade(segue), 0);
	CHECK_INT(next(segue, SEGUE_EVENT_UPGRADE_ENDED).outcome, SEGUE_UPGRADED);
	warns(segue, "generation 2 sent a request for state after it was ready");
	warns(segue, "generation 2 is dead, and what it said could not be read");
	CHECK_INT(segue_drained(segue), 0);
	(void)next(segue, SEGUE_EVENT_GONE);
	segue_close(segue);
}

UNIT_CASE(a_batch_that_is_declined_for_now_is_offered_again_to_a_successor_that_serves_again)
{
	int fd, cookie;
	struct segue *segue;

	play();
	segue = open_with(NULL);
	CHECK_INT(segue_ready(segue), 0);
	(void)next(segue, SEGUE_EVENT_SERVE);
	give_part(PART_TAKES_LATER);
	CHECK_INT(segue_upgrade(segue), 0);
	CHECK(next(segue, SEGUE_EVENT_DRAIN).successor);
	fd = connection();
	CHECK_INT(segue_handover(segue, fd, NULL, 0, "r", 1, &cookie), 0);
	CHECK_INT(segue_drained(segue), -EBUSY);
	CHECK(next(segue, SEGUE_EVENT_TAKEN).cookie == &cookie);
	sg_fd_close(fd);
	CHECK_INT(segue_drained(segue), 0);
	(void)next(segue, SEGUE_EVENT_GONE);
	segue_close(segue);
	unit_reap_orphans();
}

UNIT_CASE(what_a_successor_has_not_taken_when_it_closes_its_channel_stays_here)
{
	int first, second, fds[2];
	struct segue *segue;

	play();
	MUST(mkfifo("leave", 0600));
	segue = open_with(NULL);
	CHECK_INT(segue_ready(segue), 0);
	(void)next(segue, SEGUE_EVENT_SERVE);
	give_part(PART_TAKES_ONE_AND_CLOSES);
	CHECK_INT(segue_upgrade(segue), 0);
	CHECK(next(segue, SEGUE_EVENT_DRAIN).successor);
	fds[0] = connection();
	fds[1] = connection();
	CHECK_INT(segue_handover(segue, fds[0], NULL, 0, "r", 1, &first), 0);
	CHECK(next(segue, SEGUE_EVENT_TAKEN).cookie == &first);
	CHECK_INT(segue_handover(segue, fds[1], NULL, 0, "r", 1, &second), 0);
	CHECK(next(segue, SEGUE_EVENT_KEPT).cookie == &second);
	sg_fd_close(fds[0]);
	sg_fd_close(fds[1]);
	CHECK_INT(segue_drained(segue), 0);
	(void)next(segue, SEGUE_EVENT_GONE);
	segue_close(segue);
	sg_fd_close((int)MUST(open("leave", O_RDONLY | O_CLOEXEC)));
	unit_reap_orphans();
}

UNIT_MAIN
