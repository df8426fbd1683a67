/* SPDX-License-Identifier: MIT */
/*
 * Messages as bytes: what one side says is what the other understands, and nothing that does
 * not add up is understood at all.
 *
 * tests/golden/vN/MESSAGE.bin are the messages of protocol version N as they were first
 * written. They are never changed: a generation of today meets one of then. A new version
 * gets a folder of its own, which `unit-wire --write-golden FOLDER` fills: v2 has all that
 * version 2 says, of which HELLO and INTRODUCE have grown.
 */
#include "unit.h"

#include "core/wire.h"

struct sample {
	const char *file;
	struct sg_message message;
};

/* Two connections: one with unread bytes and a record, one with neither. */
static const uint8_t two_items[] = {
	5, 0, 0, 0, 3, 0, 0, 0, 'G', 'E', 'T', ' ', '/', 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0,
};

/* Every field of every message has a value of its own, each byte of which is different. */
static const struct sample samples[] = {
	{ "hello",
	  { .type = SG_MESSAGE_HELLO,
	    .serial = 0x01020304,
	    .version_min = 1,
	    .version_max = 2,
	    .generation = 0x1112131415161718,
	    .pid = 0x21222324,
	    .record_min = 0x31323334,
	    .record_max = 0x41424344,
	    .predecessors = 0x51525354,
	    .start_ms = 0x61626364,
	    .worker = 0x71727374,
	    .workers = 0x81828384 } },
	{ "listener",
	  { .type = SG_MESSAGE_LISTENER,
	    .name = "http",
	    .text = "unix:///run/app.sock",
	    .flags = SG_LISTENER_OURS,
	    .dev = 0x1112131415161718,
	    .ino = 0x2122232425262728 } },
	{ "pid-file", { .type = SG_MESSAGE_PID_FILE, .name = "/run/app.pid" } },
	{ "offered", { .type = SG_MESSAGE_OFFERED, .count = 3 } },
	{ "want-state", { .type = SG_MESSAGE_WANT_STATE } },
	{ "blob", { .type = SG_MESSAGE_BLOB, .name = "counter", .size = 0x1112131415161718 } },
	{ "state", { .type = SG_MESSAGE_STATE, .count = 2 } },
	{ "ready", { .type = SG_MESSAGE_READY, .count = 3, .wanted = { 1, 0, 1 } } },
	{ "failed", { .type = SG_MESSAGE_FAILED, .error = 98, .text = "port 80 is taken" } },
	{ "commit", { .type = SG_MESSAGE_COMMIT, .probation_ms = 0x11121314 } },
	{ "confirm", { .type = SG_MESSAGE_CONFIRM } },
	{ "connections",
	  { .type = SG_MESSAGE_CONNECTIONS,
	    .serial = 0x01020304,
	    .record_version = 0x11121314,
	    .count = 2,
	    .items = two_items,
	    .items_len = sizeof(two_items) } },
	{ "taken", { .type = SG_MESSAGE_TAKEN, .serial = 0x01020304 } },
	{ "declined", { .type = SG_MESSAGE_DECLINED, .serial = 0x01020304, .error = 24 } },
	{ "introduce",
	  { .type = SG_MESSAGE_INTRODUCE,
	    .generation = 0x1112131415161718,
	    .pid = 0x21222324,
	    .upstream = 1,
	    .worker = 0x31323334 } },
	{ "final", { .type = SG_MESSAGE_FINAL, .count = 1 } },
	{ "receipt", { .type = SG_MESSAGE_RECEIPT } },
	{ "stops", { .type = SG_MESSAGE_STOPS, .now = 1 } },
	{ "dropped", { .type = SG_MESSAGE_DROPPED, .text = "tcp://*:8080" } },
	{ "supervise",
	  { .type = SG_MESSAGE_SUPERVISE,
	    .worker = 0x11121314,
	    .workers = 0x21222324,
	    .flags = SG_SUPERVISE_ORPHANS_SERVE,
	    .drain_ms = 0x31323334 } },
	{ "retire",
	  { .type = SG_MESSAGE_RETIRE, .probation_ms = 0x11121314, .drain_ms = SG_WIRE_FOREVER } },
	{ "resume", { .type = SG_MESSAGE_RESUME } },
	{ "stop", { .type = SG_MESSAGE_STOP, .now = 1, .drain_ms = 0x11121314 } },
	{ "cut", { .type = SG_MESSAGE_CUT } },
	{ "progress",
	  { .type = SG_MESSAGE_PROGRESS,
	    .state = 0x11121314,
	    .connections = 0x2122232425262728,
	    .cut = 0x3132333435363738 } },
	{ "ask", { .type = SG_MESSAGE_ASK } },
	{ "answer",
	  { .type = SG_MESSAGE_ANSWER,
	    .outcome = 3,
	    .generation = 0x1112131415161718,
	    .text = "generation 7 is draining" } },
};

#define SAMPLES (sizeof(samples) / sizeof(samples[0]))

static const enum sg_message_type types[] = {
#define TYPE(name, text, number, direction) SG_MESSAGE_##name,
	SG_MESSAGES(TYPE)
};

#define TYPES (sizeof(types) / sizeof(types[0]))

/* The types of version 1 are the first ones. */
#define TYPES_OF_VERSION_1 19

/* What version 1 knew of a sample. */
static struct sample as_version_1(const struct sample *sample)
{
	struct sample one = *sample;

	if (one.message.type == SG_MESSAGE_HELLO)
		one.message.version_max = 1;
	one.message.worker = one.message.workers = 0;
	return one;
}

/* How many bytes version 2 has appended. */
static size_t added(enum sg_message_type type)
{
	return type == SG_MESSAGE_HELLO ? 8 : type == SG_MESSAGE_INTRODUCE ? 4 : 0;
}

static void check_bytes(const struct sample *sample, const void *a, size_t a_len, const void *b,
                        size_t b_len)
{
	if (a_len != b_len || (a_len > 0 && memcmp(a, b, a_len) != 0))
		UNIT_FAIL("the bytes of %s differ (%zu, %zu)", sample->file, a_len, b_len);
}

/* The items point into a buffer; everything else is compared as memory. */
static void check_message(const struct sample *sample, const struct sg_message *got)
{
	struct sg_message a = sample->message, b = *got;

	check_bytes(sample, a.items, a.items_len, b.items, b.items_len);
	CHECK_INT(a.type, b.type);
	CHECK_INT(a.serial, b.serial);
	CHECK_INT(a.version_min, b.version_min);
	CHECK_INT(a.version_max, b.version_max);
	CHECK_INT(a.generation, b.generation);
	CHECK_INT(a.pid, b.pid);
	CHECK_INT(a.record_min, b.record_min);
	CHECK_INT(a.record_max, b.record_max);
	CHECK_INT(a.predecessors, b.predecessors);
	CHECK_INT(a.start_ms, b.start_ms);
	CHECK_INT(a.worker, b.worker);
	CHECK_INT(a.workers, b.workers);
	CHECK_STRING(b.name, a.name);
	CHECK_STRING(b.text, a.text);
	CHECK_INT(a.flags, b.flags);
	CHECK_INT(a.dev, b.dev);
	CHECK_INT(a.ino, b.ino);
	CHECK_INT(a.count, b.count);
	CHECK(memcmp(a.wanted, b.wanted, sizeof(a.wanted)) == 0);
	CHECK_INT(a.size, b.size);
	CHECK_INT(a.error, b.error);
	CHECK_INT(a.probation_ms, b.probation_ms);
	CHECK_INT(a.drain_ms, b.drain_ms);
	CHECK_INT(a.state, b.state);
	CHECK_INT(a.connections, b.connections);
	CHECK_INT(a.cut, b.cut);
	CHECK_INT(a.outcome, b.outcome);
	CHECK_INT(a.now, b.now);
	CHECK_INT(a.upstream, b.upstream);
	CHECK_INT(a.record_version, b.record_version);
}

static ssize_t encode(uint8_t *buffer, const struct sample *sample)
{
	ssize_t len = sg_wire_encode(buffer, &sample->message);

	if (len < SG_WIRE_HEADER)
		UNIT_FAIL("%s is not encoded: %zd", sample->file, len);
	return len;
}

/* A copy at the very end of its memory, so that a read behind it is found. */
static int decode_copy(struct sg_message *ret_message, const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	CHECK(copy != NULL);
	memcpy(copy, bytes, len);
	r = sg_wire_decode(ret_message, copy, len);
	free(copy);
	return r;
}

static void patch_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

UNIT_CASE(every_type_has_one_sample_and_its_text_is_the_name_of_its_file)
{
	CHECK_INT(SAMPLES, TYPES);
	for (size_t i = 0; i < TYPES; i++) {
		CHECK_INT(samples[i].message.type, types[i]);
		CHECK_STRING(sg_wire_text(types[i]), samples[i].file);
	}
	CHECK_STRING(sg_wire_text(0), "?");
	CHECK_STRING(sg_wire_text(TYPES + 1), "?");
	CHECK_STRING(sg_wire_text(0xffffffff), "?");
}

UNIT_CASE(every_message_means_the_same_after_a_round_trip)
{
	static uint8_t buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		struct sg_message got;
		ssize_t len = encode(buffer, &samples[i]);

		CHECK_INT(sg_wire_decode(&got, buffer, (size_t)len), 0);
		check_message(&samples[i], &got);
	}
}

UNIT_CASE(a_message_cut_at_any_byte_is_refused)
{
	static uint8_t buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		ssize_t len = encode(buffer, &samples[i]);

		for (ssize_t cut = 0; cut < len; cut++) {
			struct sg_message got;

			if (decode_copy(&got, buffer, (size_t)cut) != -EPROTO)
				UNIT_FAIL("%s of %zd bytes passes with %zd", samples[i].file, len,
				          cut);
		}
	}
}

/* The same with a header that says so: then the body's own fields have to find it out. */
UNIT_CASE(a_body_cut_at_any_byte_is_refused_although_the_header_agrees)
{
	static uint8_t buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		ssize_t len = encode(buffer, &samples[i]);

		for (ssize_t cut = SG_WIRE_HEADER; cut < len; cut++) {
			struct sg_message got;

			/* That is the message of version 1, or half of what has been added. */
			if (cut + (ssize_t)added(samples[i].message.type) >= len &&
			    (len - cut) % 4 == 0)
				continue;
			patch_u32(buffer + 8, (uint32_t)(cut - SG_WIRE_HEADER));
			if (decode_copy(&got, buffer, (size_t)cut) != -EPROTO)
				UNIT_FAIL("%s passes with a body of %zd bytes", samples[i].file,
				          cut - SG_WIRE_HEADER);
		}
	}
}

UNIT_CASE(what_a_later_version_appends_is_skipped)
{
	static uint8_t buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		struct sg_message got;
		ssize_t len = encode(buffer, &samples[i]);

		if (samples[i].message.type == SG_MESSAGE_CONNECTIONS)
			continue;
		memset(buffer + len, 0xff, 9);
		patch_u32(buffer + 8, (uint32_t)(len + 9 - SG_WIRE_HEADER));
		CHECK_INT(decode_copy(&got, buffer, (size_t)len + 9), 0);
		check_message(&samples[i], &got);
	}
}

UNIT_CASE(a_header_that_is_not_ours_is_refused)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message got;
	size_t len = (size_t)encode(buffer, &samples[0]);

	for (int i = 0; i < 4; i++) {
		buffer[i] ^= 1;
		CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
		buffer[i] ^= 1;
	}
	for (int lie = -1; lie <= 1; lie += 2) {
		patch_u32(buffer + 8, (uint32_t)((int)len - SG_WIRE_HEADER + lie));
		CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
	}
	patch_u32(buffer + 8, 0xffffffff);
	CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
	patch_u32(buffer + 8, (uint32_t)len - SG_WIRE_HEADER);
	CHECK_INT(decode_copy(&got, buffer, len), 0);
}

UNIT_CASE(an_unknown_type_is_refused)
{
	static const uint32_t unknown[] = { 0, TYPES + 1, 255, 256 + 1, 0x7fffffff, 0xffffffff };
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message got;

	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		size_t len = (size_t)encode(buffer, &samples[0]);

		patch_u32(buffer + 4, unknown[i]);
		CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
	}
}

UNIT_CASE(a_text_that_lies_about_its_length_is_refused)
{
	static const uint32_t lies[] = { 16, 511, 512, 65536, 0x7fffffff, 0xffffffff };
	static uint8_t buffer[SG_WIRE_MAX];
	struct sample sample = { "pid-file",
		                 { .type = SG_MESSAGE_PID_FILE, .name = "/run/app.pid" } };
	size_t len = (size_t)encode(buffer, &sample);
	struct sg_message got;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		patch_u32(buffer + SG_WIRE_HEADER, lies[i]);
		CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
	}
}

UNIT_CASE(a_text_with_a_zero_byte_in_it_is_refused)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sample sample = { "pid-file", { .type = SG_MESSAGE_PID_FILE, .name = "/run/p" } };
	size_t len = (size_t)encode(buffer, &sample);
	struct sg_message got;

	buffer[len - 2] = '\0';
	CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
}

UNIT_CASE(a_text_of_511_bytes_passes_and_an_empty_one_too)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sample sample = { "listener", { .type = SG_MESSAGE_LISTENER } };
	struct sg_message got;

	memset(sample.message.text, 'x', SG_WIRE_TEXT_MAX - 1);
	CHECK_INT(decode_copy(&got, buffer, (size_t)encode(buffer, &sample)), 0);
	CHECK_STRING(got.name, "");
	CHECK_INT(strlen(got.text), SG_WIRE_TEXT_MAX - 1);
}

UNIT_CASE(a_text_of_512_bytes_is_refused)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sample sample = { "pid-file", { .type = SG_MESSAGE_PID_FILE } };
	struct sg_message got;
	size_t len;

	memset(sample.message.name, 'x', SG_WIRE_TEXT_MAX - 1);
	len = (size_t)encode(buffer, &sample);
	buffer[len] = 'x';
	patch_u32(buffer + 8, (uint32_t)(len + 1 - SG_WIRE_HEADER));
	patch_u32(buffer + SG_WIRE_HEADER, SG_WIRE_TEXT_MAX);
	CHECK_INT(decode_copy(&got, buffer, len + 1), -EPROTO);
}

UNIT_CASE(ready_speaks_of_0_to_128_listeners)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sample sample = { "ready", { .type = SG_MESSAGE_READY } };
	struct sg_message got;
	size_t len;

	CHECK_INT(decode_copy(&got, buffer, (size_t)encode(buffer, &sample)), 0);
	sample.message.count = SG_WIRE_LISTENERS;
	memset(sample.message.wanted, 1, SG_WIRE_LISTENERS);
	len = (size_t)encode(buffer, &sample);
	CHECK_INT(decode_copy(&got, buffer, len), 0);
	CHECK_INT(got.count, SG_WIRE_LISTENERS);
	CHECK_INT(got.wanted[SG_WIRE_LISTENERS - 1], 1);
	sample.message.count++;
	CHECK_INT(sg_wire_encode(buffer, &sample.message), -EMSGSIZE);
	/* The same said by a peer that has the room for it. */
	buffer[len] = 1;
	patch_u32(buffer + 8, (uint32_t)(len + 1 - SG_WIRE_HEADER));
	patch_u32(buffer + SG_WIRE_HEADER, SG_WIRE_LISTENERS + 1);
	CHECK_INT(decode_copy(&got, buffer, len + 1), -EPROTO);
	patch_u32(buffer + SG_WIRE_HEADER, 0xffffffff);
	CHECK_INT(decode_copy(&got, buffer, len + 1), -EPROTO);
}

static struct sample batch(uint32_t count, uint8_t *items, size_t size)
{
	struct sample sample = { "batch", { .type = SG_MESSAGE_CONNECTIONS, .count = count } };
	struct sg_wire_connection connection = { .record = (const uint8_t *)"r", .record_len = 1 };
	ssize_t len = 0;

	for (uint32_t i = 0; i < count; i++) {
		len = sg_wire_add_connection(items, (size_t)len, size, &connection);
		CHECK(len > 0);
	}
	sample.message.items = items;
	sample.message.items_len = (size_t)len;
	return sample;
}

UNIT_CASE(a_batch_has_1_to_64_connections)
{
	static uint8_t buffer[SG_WIRE_MAX], items[1024];
	static const uint32_t counts[] = { 0, 1, 64, 65 };

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct sample sample = batch(counts[i], items, sizeof(items));
		size_t len = (size_t)encode(buffer, &sample);
		struct sg_message got;

		CHECK_INT(decode_copy(&got, buffer, len),
		          counts[i] >= 1 && counts[i] <= 64 ? 0 : -EPROTO);
	}
}

UNIT_CASE(a_batch_that_counts_more_than_it_has_is_refused)
{
	static uint8_t buffer[SG_WIRE_MAX], items[1024];
	struct sample sample = batch(3, items, sizeof(items));
	size_t len = (size_t)encode(buffer, &sample);
	struct sg_message got;

	patch_u32(buffer + SG_WIRE_HEADER + 4, 4);
	CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
}

UNIT_CASE(a_connection_that_lies_about_its_lengths_is_refused)
{
	static const uint32_t lies[] = { 2, 9, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff };
	static uint8_t buffer[SG_WIRE_MAX], items[1024];
	struct sg_message got;

	for (size_t field = 0; field < 2; field++) {
		for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
			struct sample sample = batch(1, items, sizeof(items));
			size_t len = (size_t)encode(buffer, &sample);

			patch_u32(buffer + SG_WIRE_HEADER + 8 + 4 * field, lies[i]);
			CHECK_INT(decode_copy(&got, buffer, len), -EPROTO);
		}
	}
}

UNIT_CASE(connections_come_out_as_they_went_in)
{
	const uint8_t *items = two_items;
	struct sg_wire_connection got;
	size_t len = sizeof(two_items);
	uint8_t built[sizeof(two_items)];
	ssize_t at = 0;

	while (len > 0) {
		CHECK_INT(sg_wire_next_connection(&items, &len, &got), 0);
		at = sg_wire_add_connection(built, (size_t)at, sizeof(built), &got);
		CHECK(at > 0);
	}
	CHECK_INT(at, sizeof(two_items));
	CHECK(memcmp(built, two_items, sizeof(built)) == 0);
	CHECK_INT(sg_wire_next_connection(&items, &len, &got), -EPROTO);
}

UNIT_CASE(a_connection_that_does_not_fit_is_said_so)
{
	struct sg_wire_connection connection = { .bytes = (const uint8_t *)"abc", .bytes_len = 3 };
	uint8_t items[12];

	CHECK_INT(sg_wire_add_connection(items, 0, 11, &connection), 11);
	CHECK_INT(sg_wire_add_connection(items, 0, 10, &connection), -EMSGSIZE);
	CHECK_INT(sg_wire_add_connection(items, 5, 12, &connection), -EMSGSIZE);
	CHECK_INT(sg_wire_add_connection(items, 12, 12, &connection), -EMSGSIZE);
}

UNIT_CASE(the_descriptors_of_each_type_are_few_and_known)
{
	for (size_t i = 0; i < TYPES; i++) {
		int expected = 0;

		switch (types[i]) {
		case SG_MESSAGE_HELLO:
		case SG_MESSAGE_LISTENER:
		case SG_MESSAGE_PID_FILE:
		case SG_MESSAGE_BLOB:
			expected = 1;
			break;
		case SG_MESSAGE_INTRODUCE:
			expected = 2;
			break;
		case SG_MESSAGE_CONNECTIONS:
			expected = -1;
			break;
		default:
			break;
		}
		CHECK_INT(sg_wire_fds(types[i]), expected);
	}
}

UNIT_CASE(two_sides_agree_on_the_highest_version_that_both_speak)
{
	CHECK_INT(sg_wire_agree(SG_WIRE_VERSION_MIN, SG_WIRE_VERSION_MAX), SG_WIRE_VERSION_MAX);
	CHECK_INT(sg_wire_agree(0, 0xffffffff), SG_WIRE_VERSION_MAX);
	CHECK_INT(sg_wire_agree(SG_WIRE_VERSION_MAX, 0xffffffff), SG_WIRE_VERSION_MAX);
	CHECK_INT(sg_wire_agree(SG_WIRE_VERSION_MAX + 1, 0xffffffff), -EPROTONOSUPPORT);
	CHECK_INT(sg_wire_agree(0, SG_WIRE_VERSION_MIN - 1), -EPROTONOSUPPORT);
	CHECK_INT(sg_wire_agree(5, 1), -EPROTONOSUPPORT);
}

/* The golden messages. */

static FILE *golden_open(const char *folder, const char *file, const char *mode)
{
	char path[512];
	FILE *stream;

	snprintf(path, sizeof(path), "%s/%s.bin", folder, file);
	stream = fopen(path, mode);
	if (stream == NULL)
		UNIT_FAIL("%s: %s", path, strerror(errno));
	return stream;
}

static size_t golden_read(const char *version, const char *file, uint8_t *buffer)
{
	char folder[512];
	FILE *stream;
	size_t len;

	snprintf(folder, sizeof(folder), "%s/%s", GOLDEN, version);
	stream = golden_open(folder, file, "rbe");
	len = fread(buffer, 1, SG_WIRE_MAX, stream);
	fclose(stream);
	return len;
}

UNIT_CASE(every_message_is_written_as_version_2_wrote_it)
{
	static uint8_t golden[SG_WIRE_MAX], buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		size_t golden_len = golden_read("v2", samples[i].file, golden);
		ssize_t len = encode(buffer, &samples[i]);

		check_bytes(&samples[i], buffer, (size_t)len, golden, golden_len);
	}
}

/* A program of version 1 reads what it knows and skips what has been appended. */
UNIT_CASE(every_message_of_version_1_is_written_as_it_wrote_it_but_for_what_was_appended)
{
	static uint8_t golden[SG_WIRE_MAX], buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < TYPES_OF_VERSION_1; i++) {
		struct sample one = as_version_1(&samples[i]);
		size_t golden_len = golden_read("v1", one.file, golden);
		size_t len = (size_t)encode(buffer, &one);

		CHECK_INT(len, golden_len + added(one.message.type));
		patch_u32(buffer + 8, (uint32_t)(golden_len - SG_WIRE_HEADER));
		check_bytes(&one, buffer, golden_len, golden, golden_len);
	}
}

UNIT_CASE(every_message_of_version_2_is_understood)
{
	static uint8_t golden[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		struct sg_message got;
		size_t len = golden_read("v2", samples[i].file, golden);

		CHECK_INT(sg_wire_decode(&got, golden, len), 0);
		check_message(&samples[i], &got);
	}
}

UNIT_CASE(every_message_of_version_1_is_understood)
{
	static uint8_t golden[SG_WIRE_MAX];

	for (size_t i = 0; i < TYPES_OF_VERSION_1; i++) {
		struct sample one = as_version_1(&samples[i]);
		struct sg_message got;
		size_t len = golden_read("v1", one.file, golden);

		CHECK_INT(sg_wire_decode(&got, golden, len), 0);
		check_message(&one, &got);
	}
}

/* Not by the encoder's own word: the first message byte by byte. */
UNIT_CASE(the_golden_hello_is_little_endian_after_its_header)
{
	static const uint8_t expected[] = {
		'E',  'U',  'G',  'S',  1,    0,    0,    0,
		44,   0,    0,    0,    4,    3,    2,    1,    /* header */
		1,    0,    0,    0,    2,    0,    0,    0,    /* versions */
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, /* generation */
		0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, /* pid, record_min */
		0x44, 0x43, 0x42, 0x41, 0x54, 0x53, 0x52, 0x51, /* record_max, predecessors */
		0x64, 0x63, 0x62, 0x61, 0x74, 0x73, 0x72, 0x71, /* start_ms, worker */
		0x84, 0x83, 0x82, 0x81,                         /* workers */
	};
	static uint8_t golden[SG_WIRE_MAX];

	CHECK_INT(golden_read("v2", "hello", golden), sizeof(expected));
	CHECK(memcmp(golden, expected, sizeof(expected)) == 0);
}

static int write_golden(const char *folder)
{
	static uint8_t buffer[SG_WIRE_MAX];

	for (size_t i = 0; i < SAMPLES; i++) {
		FILE *stream = golden_open(folder, samples[i].file, "wbxe");
		size_t len = (size_t)encode(buffer, &samples[i]);

		if (fwrite(buffer, 1, len, stream) != len || fclose(stream) != 0)
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--write-golden") == 0)
		return write_golden(argv[2]);
	return unit_main(argc, argv);
}
