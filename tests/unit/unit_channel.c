/* SPDX-License-Identifier: MIT */
/*
 * Channels: order, whole messages, and every descriptor taken or closed.
 */
#include "unit.h"

#include "core/channel.h"
#include "core/fd.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

struct two {
	struct sg_channel here, there;
};

static void two_open(struct two *two)
{
	int fds[2];

	CHECK_INT(sg_channel_pair(fds), 0);
	sg_channel_init_take(&two->here, fds[0]);
	sg_channel_init_take(&two->there, fds[1]);
}

static void two_close(struct two *two)
{
	sg_channel_done(&two->here);
	sg_channel_done(&two->there);
}

/* One message, after waiting for it; its bytes stay valid until the next. */
static int receive(struct sg_channel *channel, struct sg_message *ret, int *fds, size_t *fds_len)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct pollfd poller = { .fd = channel->fd, .events = POLLIN };

	CHECK_INT(poll(&poller, 1, 10000), 1);
	return sg_channel_receive(channel, buffer, ret, fds, fds_len);
}

static void close_fds(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		MUST(close(fds[i]));
}

/* A batch of so many empty connections; the items have to outlive the message. */
static struct sg_message batch(uint32_t count, uint8_t *items, size_t size)
{
	struct sg_wire_connection empty = { 0 };
	struct sg_message message = { .type = SG_MESSAGE_CONNECTIONS, .serial = 7, .count = count };
	ssize_t len = 0;

	for (uint32_t i = 0; i < count; i++) {
		len = sg_wire_add_connection(items, (size_t)len, size, &empty);
		CHECK(len > 0);
	}
	message.items = items;
	message.items_len = (size_t)len;
	return message;
}

static int open_null(void)
{
	return (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

/* The bytes of a message with the descriptors of the test's choice, past sg_channel_send(). */
static void send_raw(int fd, const struct sg_message *message, const int *fds, size_t fds_len)
{
	static uint8_t bytes[SG_WIRE_MAX];
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(253 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = bytes };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	iov.iov_len = (size_t)MUST(sg_wire_encode(bytes, message));
	if (fds_len > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fds_len * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fds_len * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, fds_len * sizeof(int));
	}
	MUST(sendmsg(fd, &msg, 0));
}

static size_t open_descriptors(void)
{
	struct unit_descriptors now;

	unit_descriptors_now(&now);
	return now.count;
}

UNIT_CASE(a_pair_is_close_on_exec_and_non_blocking)
{
	int fds[2];

	CHECK_INT(sg_channel_pair(fds), 0);
	for (int i = 0; i < 2; i++) {
		CHECK(fds[i] > 2);
		CHECK(MUST(fcntl(fds[i], F_GETFD)) & FD_CLOEXEC);
		CHECK(MUST(fcntl(fds[i], F_GETFL)) & O_NONBLOCK);
	}
	close_fds(fds, 2);
}

UNIT_CASE(a_message_arrives_as_it_was_sent)
{
	struct sg_message sent = { .type = SG_MESSAGE_FAILED, .error = 98, .text = "port taken" };
	struct sg_message got;
	int fds[SG_WIRE_FDS_MAX];
	size_t count;
	struct two two;

	two_open(&two);
	CHECK_INT(sg_channel_send(&two.here, &sent, NULL, 0), 0);
	CHECK_INT(receive(&two.there, &got, fds, &count), 1);
	CHECK_INT(got.type, SG_MESSAGE_FAILED);
	CHECK_INT(got.error, 98);
	CHECK_STRING(got.text, "port taken");
	CHECK_INT(count, 0);
	two_close(&two);
}

UNIT_CASE(nothing_there_is_no_error)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message got;
	int fds[SG_WIRE_FDS_MAX];
	size_t count;
	struct two two;

	two_open(&two);
	CHECK_INT(sg_channel_receive(&two.there, buffer, &got, fds, &count), 0);
	CHECK_INT(sg_channel_flush(&two.here), 0);
	two_close(&two);
}

UNIT_CASE(every_number_of_descriptors_from_1_to_64_arrives_whole)
{
	static uint8_t items[SG_WIRE_BODY_MAX];
	struct two two;
	int null = open_null();

	two_open(&two);
	for (uint32_t count = 1; count <= SG_WIRE_FDS_MAX; count++) {
		struct sg_message sent = batch(count, items, sizeof(items)), got;
		int fds[SG_WIRE_FDS_MAX];
		size_t fds_len;

		for (uint32_t i = 0; i < count; i++)
			fds[i] = null;
		CHECK_INT(sg_channel_send(&two.here, &sent, fds, count), 0);
		CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
		CHECK_INT(fds_len, count);
		for (uint32_t i = 0; i < count; i++) {
			CHECK(fds[i] > 2);
			CHECK(MUST(fcntl(fds[i], F_GETFD)) & FD_CLOEXEC);
		}
		close_fds(fds, fds_len);
	}
	MUST(close(null));
	two_close(&two);
}

UNIT_CASE(more_than_64_descriptors_are_not_sent)
{
	static uint8_t items[SG_WIRE_BODY_MAX];
	struct sg_message sent = batch(SG_WIRE_FDS_MAX, items, sizeof(items));
	int fds[SG_WIRE_FDS_MAX + 1] = { 0 };
	struct two two;

	two_open(&two);
	CHECK_INT(sg_channel_send(&two.here, &sent, fds, SG_WIRE_FDS_MAX + 1), -EMSGSIZE);
	two_close(&two);
}

/* The case of a peer that does not keep to the bound. */
UNIT_CASE(of_65_and_of_253_descriptors_none_stays_open)
{
	static const size_t counts[] = { 65, 66, 127, 253 };
	static uint8_t items[SG_WIRE_BODY_MAX];
	struct sg_message sent = batch(SG_WIRE_FDS_MAX, items, sizeof(items)), got;
	struct two two;
	int null = open_null(), fds[253];
	size_t before, fds_len;

	two_open(&two);
	before = open_descriptors();
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		for (size_t j = 0; j < counts[i]; j++)
			fds[j] = null;
		send_raw(two.here.fd, &sent, fds, counts[i]);
		CHECK(receive(&two.there, &got, fds, &fds_len) < 0);
		CHECK_INT(fds_len, 0);
		CHECK_INT(open_descriptors(), before);
	}
	MUST(close(null));
	two_close(&two);
}

UNIT_CASE(another_number_of_descriptors_than_the_message_needs_is_refused_and_closed)
{
	struct sg_message none = { .type = SG_MESSAGE_COMMIT },
			  one = { .type = SG_MESSAGE_PID_FILE, .name = "/p" }, got;
	struct two two;
	int null = open_null(), sent[3] = { null, null, null }, fds[SG_WIRE_FDS_MAX];
	size_t before, fds_len;

	two_open(&two);
	before = open_descriptors();
	send_raw(two.here.fd, &none, sent, 1);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPROTO);
	send_raw(two.here.fd, &one, sent, 0);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPROTO);
	send_raw(two.here.fd, &one, sent, 2);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPROTO);
	CHECK_INT(open_descriptors(), before);
	/* The channel itself has not suffered. */
	send_raw(two.here.fd, &one, sent, 1);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
	close_fds(fds, fds_len);
	MUST(close(null));
	two_close(&two);
}

static struct rlimit lower_limit(rlim_t limit)
{
	struct rlimit before, lowered;

	MUST(getrlimit(RLIMIT_NOFILE, &before));
	lowered = (struct rlimit){ limit, before.rlim_max };
	MUST(setrlimit(RLIMIT_NOFILE, &lowered));
	return before;
}

/* Every limit from "not one fits" to "one does not". */
UNIT_CASE(a_receiver_out_of_descriptors_takes_none_and_knows_which_batch_it_was)
{
	static uint8_t items[SG_WIRE_BODY_MAX];
	struct sg_message sent = batch(9, items, sizeof(items)), got;
	struct two two;
	int null = open_null(), fds[SG_WIRE_FDS_MAX];
	size_t before, fds_len;
	rlim_t first;

	two_open(&two);
	first = (rlim_t)two.there.fd + 1;
	before = open_descriptors();
	for (rlim_t room = 0; room < 9; room++) {
		struct rlimit limit;
		int r;

		for (int i = 0; i < 9; i++)
			fds[i] = null;
		send_raw(two.here.fd, &sent, fds, 9);
		limit = lower_limit(first + room);
		r = receive(&two.there, &got, fds, &fds_len);
		MUST(setrlimit(RLIMIT_NOFILE, &limit));
		CHECK_INT(r, -EMFILE);
		CHECK_INT(fds_len, 0);
		CHECK_INT(got.type, SG_MESSAGE_CONNECTIONS);
		CHECK_INT(got.serial, 7);
		CHECK_INT(open_descriptors(), before);
	}
	MUST(close(null));
	two_close(&two);
}

/* Without 0, 1 and 2 the kernel installs what arrives there; and there may be no other room. */
UNIT_CASE(descriptors_never_arrive_as_0_1_or_2)
{
	struct sg_message sent = { .type = SG_MESSAGE_PID_FILE, .name = "/run/p" }, got;
	struct two two;
	int null = open_null(), stdio[3], fds[SG_WIRE_FDS_MAX], r;
	size_t fds_len, count;
	struct rlimit limit;

	two_open(&two);
	for (int i = 0; i < 3; i++)
		stdio[i] = (int)MUST(fcntl(i, F_DUPFD_CLOEXEC, 100));
	CHECK_INT(sg_channel_send(&two.here, &sent, &null, 1), 0);
	CHECK_INT(sg_channel_send(&two.here, &sent, &null, 1), 0);
	for (int i = 0; i < 3; i++)
		MUST(close(i));
	r = receive(&two.there, &got, fds, &fds_len);
	count = fds_len;
	if (r == 1)
		sg_fd_close(fds[0] > 2 ? fds[0] : -1);
	limit = lower_limit((rlim_t)two.there.fd + 1);
	memset(&got, 0xff, sizeof(got));
	if (r == 1)
		r = receive(&two.there, &got, fds, &fds_len);
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < 3; i++) {
		MUST(dup2(stdio[i], i));
		MUST(close(stdio[i]));
	}
	CHECK_INT(count, 1);
	CHECK(fds[0] < 0 || fds[0] > 2);
	CHECK_INT(r, -EMFILE);
	CHECK_INT(got.type, SG_MESSAGE_PID_FILE);
	CHECK_INT(fds_len, 0);
	MUST(close(null));
	two_close(&two);
}

/* A pipe whose writing end travels: its reading end hangs up when the last copy is closed. */
static bool hung_up(int reading_end)
{
	struct pollfd poller = { .fd = reading_end, .events = POLLIN };

	MUST(poll(&poller, 1, 0));
	return poller.revents & POLLHUP;
}

UNIT_CASE(what_the_kernel_does_not_take_waits_in_order_with_its_descriptors)
{
	struct sg_message message = { .type = SG_MESSAGE_PID_FILE }, got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	uint32_t next = 0, sent;
	size_t fds_len;

	two_open(&two);
	memset(message.name, 'x', sizeof(message.name) - 1);
	for (sent = 0; two.here.queued < 100; sent++) {
		int pipe_fds[2];

		MUST(pipe2(pipe_fds, O_CLOEXEC));
		MUST(write(pipe_fds[1], &sent, sizeof(sent)));
		message.serial = sent;
		/* Borrowed: what the caller closes at once still arrives. */
		CHECK_INT(sg_channel_send(&two.here, &message, &pipe_fds[0], 1), 0);
		close_fds(pipe_fds, 2);
	}
	CHECK_INT(sg_channel_flush(&two.here), -EAGAIN);
	while (next < sent) {
		uint32_t number;

		CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
		CHECK_INT(got.serial, next);
		CHECK_INT(fds_len, 1);
		CHECK_INT(MUST(read(fds[0], &number, sizeof(number))), sizeof(number));
		CHECK_INT(number, next);
		MUST(close(fds[0]));
		next++;
		CHECK(sg_channel_flush(&two.here) == 0 || two.here.queued > 0);
	}
	CHECK_INT(two.here.queued, 0);
	two_close(&two);
}

/* The kernel has room again, but what waits comes first. */
UNIT_CASE(a_message_does_not_overtake_those_that_wait)
{
	struct sg_message message = { .type = SG_MESSAGE_TAKEN }, got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	uint32_t sent, next = 0;
	size_t fds_len;

	two_open(&two);
	for (sent = 0; two.here.queued < 3; sent++) {
		message.serial = sent;
		CHECK_INT(sg_channel_send(&two.here, &message, NULL, 0), 0);
	}
	for (; next < 100; next++)
		CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
	message.serial = sent++;
	CHECK_INT(sg_channel_send(&two.here, &message, NULL, 0), 0);
	CHECK_INT(two.here.queued, 4);
	CHECK_INT(sg_channel_flush(&two.here), 0);
	for (; next < sent; next++) {
		CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
		CHECK_INT(got.serial, next);
	}
	two_close(&two);
}

UNIT_CASE(the_largest_message_passes_and_one_byte_more_is_refused)
{
	static uint8_t items[SG_WIRE_BODY_MAX + 1], bytes[SG_WIRE_BODY_MAX];
	struct sg_message sent = { .type = SG_MESSAGE_CONNECTIONS, .count = 1 }, got;
	struct sg_wire_connection connection = { .bytes = bytes,
		                                 .bytes_len = SG_WIRE_BODY_MAX - 8 - 8 };
	struct two two;
	int null = open_null(), fds[SG_WIRE_FDS_MAX];
	size_t fds_len;
	ssize_t len = sg_wire_add_connection(items, 0, sizeof(items), &connection);

	two_open(&two);
	CHECK_INT(len, SG_WIRE_BODY_MAX - 8);
	sent.items = items;
	sent.items_len = (size_t)len;
	CHECK_INT(sg_channel_send(&two.here, &sent, &null, 1), 0);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
	CHECK_INT(got.items_len, len);
	close_fds(fds, fds_len);
	sent.items_len++;
	CHECK_INT(sg_channel_send(&two.here, &sent, &null, 1), -EMSGSIZE);
	MUST(close(null));
	two_close(&two);
}

UNIT_CASE(a_message_that_is_cut_by_the_buffer_is_refused_and_its_descriptors_closed)
{
	static uint8_t bytes[SG_WIRE_MAX + 1];
	struct sg_message got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	two_open(&two);
	MUST(send(two.here.fd, bytes, sizeof(bytes), 0));
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPROTO);
	two_close(&two);
}

UNIT_CASE(nonsense_is_refused_and_the_next_message_is_read)
{
	struct sg_message sent = { .type = SG_MESSAGE_CONFIRM }, got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	two_open(&two);
	MUST(send(two.here.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0));
	CHECK_INT(sg_channel_send(&two.here, &sent, NULL, 0), 0);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPROTO);
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), 1);
	CHECK_INT(got.type, SG_MESSAGE_CONFIRM);
	two_close(&two);
}

/* On a SOCK_SEQPACKET an empty message looks like the end: it ends the channel, no more. */
UNIT_CASE(an_empty_message_ends_the_channel)
{
	struct sg_message got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	two_open(&two);
	MUST(send(two.here.fd, "", 0, 0));
	CHECK_INT(receive(&two.there, &got, fds, &fds_len), -EPIPE);
	two_close(&two);
}

UNIT_CASE(the_other_end_gone_is_epipe_both_ways_after_what_it_had_sent)
{
	struct sg_message sent = { .type = SG_MESSAGE_TAKEN, .serial = 3 }, got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	two_open(&two);
	CHECK_INT(sg_channel_send(&two.there, &sent, NULL, 0), 0);
	sg_channel_done(&two.there);
	CHECK_INT(sg_channel_send(&two.here, &sent, NULL, 0), -EPIPE);
	CHECK_INT(receive(&two.here, &got, fds, &fds_len), 1);
	CHECK_INT(got.serial, 3);
	CHECK_INT(receive(&two.here, &got, fds, &fds_len), -EPIPE);
	CHECK_INT(receive(&two.here, &got, fds, &fds_len), -EPIPE);
	sg_channel_done(&two.here);
	CHECK_INT(sg_channel_send(&two.here, &sent, NULL, 0), -EPIPE);
}

/* The kernel says ECONNRESET before it gives out what the dead had sent. A TAKEN that is
 * overlooked here is a connection with two owners. */
UNIT_CASE(what_a_dead_peer_sent_is_read_although_it_left_messages_unread)
{
	struct sg_message commit = { .type = SG_MESSAGE_COMMIT },
			  taken = { .type = SG_MESSAGE_TAKEN, .serial = 5 }, got;
	struct two two;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;

	two_open(&two);
	CHECK_INT(sg_channel_send(&two.here, &commit, NULL, 0), 0);
	CHECK_INT(sg_channel_send(&two.there, &taken, NULL, 0), 0);
	sg_channel_done(&two.there);
	CHECK_INT(receive(&two.here, &got, fds, &fds_len), 1);
	CHECK_INT(got.type, SG_MESSAGE_TAKEN);
	CHECK_INT(got.serial, 5);
	CHECK_INT(receive(&two.here, &got, fds, &fds_len), -EPIPE);
	two_close(&two);
}

UNIT_CASE(a_channel_that_ends_closes_what_waited)
{
	struct sg_message message = { .type = SG_MESSAGE_PID_FILE, .name = "/run/p" };
	struct two two;
	int pipe_fds[2];

	two_open(&two);
	MUST(pipe2(pipe_fds, O_CLOEXEC));
	while (two.here.queued < 3)
		CHECK_INT(sg_channel_send(&two.here, &message, &pipe_fds[1], 1), 0);
	MUST(close(pipe_fds[1]));
	sg_channel_done(&two.there);
	CHECK(!hung_up(pipe_fds[0]));
	CHECK_INT(sg_channel_flush(&two.here), -EPIPE);
	sg_channel_done(&two.here);
	CHECK(hung_up(pipe_fds[0]));
	sg_channel_done(&two.here);
	MUST(close(pipe_fds[0]));
}

UNIT_CASE(a_queue_that_finds_no_descriptor_says_so_and_loses_nothing)
{
	struct sg_message message = { .type = SG_MESSAGE_PID_FILE, .name = "/run/p" };
	struct two two;
	int null = open_null(), r;
	size_t queued, before;
	struct rlimit limit;

	two_open(&two);
	while (two.here.queued < 2)
		CHECK_INT(sg_channel_send(&two.here, &message, &null, 1), 0);
	queued = two.here.queued;
	before = open_descriptors();
	limit = lower_limit(3);
	r = sg_channel_send(&two.here, &message, &null, 1);
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	/* F_DUPFD above the limit is EINVAL; either way the caller knows. */
	CHECK(r == -EMFILE || r == -EINVAL);
	CHECK_INT(two.here.queued, queued);
	CHECK_INT(open_descriptors(), before);
	MUST(close(null));
	two_close(&two);
}

UNIT_CASE(a_channel_of_zeroes_may_be_done)
{
	struct sg_channel channel = { 0 };

	sg_channel_done(&channel);
}

UNIT_MAIN
