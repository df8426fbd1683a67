/* SPDX-License-Identifier: MIT */
/*
 * The bytes of the messages. A body is a run of fixed fields in the order of the encoder;
 * later versions append and never move. The decoder trusts no length: a field that is not
 * whole makes the message bad as a whole.
 */
#include "core/wire.h"

#include <errno.h>
#include <string.h>

#define MAGIC 0x53475545u /* "SGUE" */

struct writer {
	uint8_t *at, *end;
	bool full;
};

struct reader {
	const uint8_t *at, *end;
	bool bad;
};

static void put(struct writer *w, const void *data, size_t len)
{
	if ((size_t)(w->end - w->at) < len) {
		w->full = true;
		return;
	}
	if (len > 0)
		memcpy(w->at, data, len);
	w->at += len;
}

static void put_number(struct writer *w, uint64_t value, unsigned int bytes)
{
	uint8_t little[8];

	for (unsigned int i = 0; i < bytes; i++)
		little[i] = (uint8_t)(value >> (8 * i));
	put(w, little, bytes);
}

static void put_u32(struct writer *w, uint32_t value)
{
	put_number(w, value, 4);
}

static void put_u64(struct writer *w, uint64_t value)
{
	put_number(w, value, 8);
}

static void put_text(struct writer *w, const char *text)
{
	size_t len = strnlen(text, SG_WIRE_TEXT_MAX - 1);

	put_u32(w, (uint32_t)len);
	put(w, text, len);
}

static const uint8_t *get(struct reader *r, size_t len)
{
	const uint8_t *at = r->at;

	if (r->bad || (size_t)(r->end - r->at) < len) {
		r->bad = true;
		return NULL;
	}
	r->at += len;
	return at;
}

static uint64_t get_number(struct reader *r, unsigned int bytes)
{
	const uint8_t *at = get(r, bytes);
	uint64_t value = 0;

	for (unsigned int i = 0; at != NULL && i < bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

static uint32_t get_u32(struct reader *r)
{
	return (uint32_t)get_number(r, 4);
}

static uint64_t get_u64(struct reader *r)
{
	return get_number(r, 8);
}

/* What a later version has appended: 0 where the sender did not know of it. */
static uint32_t get_added_u32(struct reader *r)
{
	return r->at < r->end ? get_u32(r) : 0;
}

static void get_text(struct reader *r, char *text)
{
	uint32_t len = get_u32(r);
	const uint8_t *at = len < SG_WIRE_TEXT_MAX ? get(r, len) : NULL;

	if (at == NULL || memchr(at, '\0', len) != NULL) {
		r->bad = true;
		return;
	}
	memcpy(text, at, len);
	text[len] = '\0';
}

int sg_wire_fds(enum sg_message_type type)
{
	switch (type) {
	case SG_MESSAGE_HELLO:
	case SG_MESSAGE_LISTENER:
	case SG_MESSAGE_PID_FILE:
	case SG_MESSAGE_BLOB:
		return 1;
	case SG_MESSAGE_INTRODUCE:
		return 2;
	case SG_MESSAGE_CONNECTIONS:
		return -1;
	default:
		return 0;
	}
}

const char *sg_wire_text(unsigned int type)
{
#define TEXT_OF(name, text, number, direction) [number] = (text),
	static const char *const texts[] = { SG_MESSAGES(TEXT_OF) };

	return type < sizeof(texts) / sizeof(texts[0]) && texts[type] != NULL ? texts[type] : "?";
}

static void encode_body(struct writer *w, const struct sg_message *m)
{
	switch (m->type) {
	case SG_MESSAGE_HELLO:
		put_u32(w, m->version_min);
		put_u32(w, m->version_max);
		put_u64(w, m->generation);
		put_u32(w, m->pid);
		put_u32(w, m->record_min);
		put_u32(w, m->record_max);
		put_u32(w, m->predecessors);
		put_u32(w, m->start_ms);
		put_u32(w, m->worker);
		put_u32(w, m->workers);
		break;
	case SG_MESSAGE_LISTENER:
		put_text(w, m->name);
		put_text(w, m->text);
		put_u32(w, m->flags);
		put_u64(w, m->dev);
		put_u64(w, m->ino);
		break;
	case SG_MESSAGE_PID_FILE:
		put_text(w, m->name);
		break;
	case SG_MESSAGE_OFFERED:
	case SG_MESSAGE_STATE:
	case SG_MESSAGE_FINAL:
		put_u32(w, m->count);
		break;
	case SG_MESSAGE_BLOB:
		put_text(w, m->name);
		put_u64(w, m->size);
		break;
	case SG_MESSAGE_READY:
		put_u32(w, m->count);
		put(w, m->wanted, m->count <= SG_WIRE_LISTENERS ? m->count : SIZE_MAX);
		break;
	case SG_MESSAGE_FAILED:
		put_u32(w, m->error);
		put_text(w, m->text);
		break;
	case SG_MESSAGE_COMMIT:
		put_u32(w, m->probation_ms);
		break;
	case SG_MESSAGE_CONNECTIONS:
		put_u32(w, m->record_version);
		put_u32(w, m->count);
		put(w, m->items, m->items_len);
		break;
	case SG_MESSAGE_DECLINED:
		put_u32(w, m->error);
		break;
	case SG_MESSAGE_INTRODUCE:
		put_u64(w, m->generation);
		put_u32(w, m->pid);
		put_u32(w, m->upstream);
		put_u32(w, m->worker);
		break;
	case SG_MESSAGE_STOPS:
		put_u32(w, m->now);
		break;
	case SG_MESSAGE_DROPPED:
		put_text(w, m->text);
		break;
	case SG_MESSAGE_SUPERVISE:
		put_u32(w, m->worker);
		put_u32(w, m->workers);
		put_u32(w, m->flags);
		put_u32(w, m->drain_ms);
		break;
	case SG_MESSAGE_RETIRE:
		put_u32(w, m->probation_ms);
		put_u32(w, m->drain_ms);
		break;
	case SG_MESSAGE_STOP:
		put_u32(w, m->now);
		put_u32(w, m->drain_ms);
		break;
	case SG_MESSAGE_PROGRESS:
		put_u32(w, m->state);
		put_u64(w, m->connections);
		put_u64(w, m->cut);
		break;
	case SG_MESSAGE_ANSWER:
		put_u32(w, m->outcome);
		put_u64(w, m->generation);
		put_text(w, m->text);
		break;
	case SG_MESSAGE_WANT_STATE:
	case SG_MESSAGE_CONFIRM:
	case SG_MESSAGE_TAKEN:
	case SG_MESSAGE_RECEIPT:
	case SG_MESSAGE_RESUME:
	case SG_MESSAGE_CUT:
	case SG_MESSAGE_ASK:
		break;
	}
}

ssize_t sg_wire_encode(uint8_t *buffer, const struct sg_message *message)
{
	struct writer w = { buffer, buffer + SG_WIRE_MAX, false };
	struct writer length = { buffer + 8, buffer + 12, false };

	put_u32(&w, MAGIC);
	put_u32(&w, (uint32_t)message->type);
	put_u32(&w, 0);
	put_u32(&w, (uint32_t)message->serial);
	encode_body(&w, message);
	if (w.full)
		return -EMSGSIZE;
	put_u32(&length, (uint32_t)(w.at - buffer - SG_WIRE_HEADER));
	return w.at - buffer;
}

static void decode_ready(struct reader *r, struct sg_message *m)
{
	const uint8_t *wanted;

	m->count = get_u32(r);
	wanted = m->count <= SG_WIRE_LISTENERS ? get(r, m->count) : NULL;
	if (wanted == NULL)
		r->bad = true;
	else
		memcpy(m->wanted, wanted, m->count);
}

static void decode_connections(struct reader *r, struct sg_message *m)
{
	struct sg_wire_connection connection;
	const uint8_t *items;
	size_t len;

	m->record_version = get_u32(r);
	m->count = get_u32(r);
	m->items_len = (size_t)(r->end - r->at);
	m->items = get(r, m->items_len);
	if (r->bad || m->count == 0 || m->count > SG_WIRE_FDS_MAX) {
		r->bad = true;
		return;
	}
	items = m->items;
	len = m->items_len;
	for (uint32_t i = 0; i < m->count && !r->bad; i++)
		r->bad = sg_wire_next_connection(&items, &len, &connection) < 0;
}

static void decode_body(struct reader *r, struct sg_message *m)
{
	switch (m->type) {
	case SG_MESSAGE_HELLO:
		m->version_min = get_u32(r);
		m->version_max = get_u32(r);
		m->generation = get_u64(r);
		m->pid = get_u32(r);
		m->record_min = get_u32(r);
		m->record_max = get_u32(r);
		m->predecessors = get_u32(r);
		m->start_ms = get_u32(r);
		m->worker = get_added_u32(r);
		m->workers = get_added_u32(r);
		break;
	case SG_MESSAGE_LISTENER:
		get_text(r, m->name);
		get_text(r, m->text);
		m->flags = get_u32(r);
		m->dev = get_u64(r);
		m->ino = get_u64(r);
		break;
	case SG_MESSAGE_PID_FILE:
		get_text(r, m->name);
		break;
	case SG_MESSAGE_OFFERED:
	case SG_MESSAGE_STATE:
	case SG_MESSAGE_FINAL:
		m->count = get_u32(r);
		break;
	case SG_MESSAGE_BLOB:
		get_text(r, m->name);
		m->size = get_u64(r);
		break;
	case SG_MESSAGE_READY:
		decode_ready(r, m);
		break;
	case SG_MESSAGE_FAILED:
		m->error = get_u32(r);
		get_text(r, m->text);
		break;
	case SG_MESSAGE_COMMIT:
		m->probation_ms = get_u32(r);
		break;
	case SG_MESSAGE_CONNECTIONS:
		decode_connections(r, m);
		break;
	case SG_MESSAGE_DECLINED:
		m->error = get_u32(r);
		break;
	case SG_MESSAGE_INTRODUCE:
		m->generation = get_u64(r);
		m->pid = get_u32(r);
		m->upstream = get_u32(r);
		m->worker = get_added_u32(r);
		break;
	case SG_MESSAGE_STOPS:
		m->now = get_u32(r);
		break;
	case SG_MESSAGE_DROPPED:
		get_text(r, m->text);
		break;
	case SG_MESSAGE_SUPERVISE:
		m->worker = get_u32(r);
		m->workers = get_u32(r);
		m->flags = get_u32(r);
		m->drain_ms = get_u32(r);
		break;
	case SG_MESSAGE_RETIRE:
		m->probation_ms = get_u32(r);
		m->drain_ms = get_u32(r);
		break;
	case SG_MESSAGE_STOP:
		m->now = get_u32(r);
		m->drain_ms = get_u32(r);
		break;
	case SG_MESSAGE_PROGRESS:
		m->state = get_u32(r);
		m->connections = get_u64(r);
		m->cut = get_u64(r);
		break;
	case SG_MESSAGE_ANSWER:
		m->outcome = get_u32(r);
		m->generation = get_u64(r);
		get_text(r, m->text);
		break;
	case SG_MESSAGE_WANT_STATE:
	case SG_MESSAGE_CONFIRM:
	case SG_MESSAGE_TAKEN:
	case SG_MESSAGE_RECEIPT:
	case SG_MESSAGE_RESUME:
	case SG_MESSAGE_CUT:
	case SG_MESSAGE_ASK:
		break;
	default:
		r->bad = true;
	}
}

int sg_wire_decode(struct sg_message *ret_message, const uint8_t *buffer, size_t len)
{
	struct reader r = { buffer, buffer + len, false };
	uint32_t magic = get_u32(&r), type = get_u32(&r), body = get_u32(&r);

	memset(ret_message, 0, sizeof(*ret_message));
	ret_message->serial = get_u32(&r);
	ret_message->type = (enum sg_message_type)type;
	if (r.bad || magic != MAGIC || body != (size_t)(r.end - r.at) || body > SG_WIRE_BODY_MAX)
		return -EPROTO;
	decode_body(&r, ret_message);
	return r.bad ? -EPROTO : 0;
}

ssize_t sg_wire_add_connection(uint8_t *items, size_t len, size_t size,
                               const struct sg_wire_connection *connection)
{
	struct writer w = { items + len, items + size, false };

	put_u32(&w, (uint32_t)connection->bytes_len);
	put_u32(&w, (uint32_t)connection->record_len);
	put(&w, connection->bytes, connection->bytes_len);
	put(&w, connection->record, connection->record_len);
	return w.full ? -EMSGSIZE : w.at - items;
}

int sg_wire_next_connection(const uint8_t **items, size_t *len,
                            struct sg_wire_connection *ret_connection)
{
	struct reader r = { *items, *items + *len, false };
	uint32_t bytes_len = get_u32(&r), record_len = get_u32(&r);
	const uint8_t *bytes = get(&r, bytes_len), *record = get(&r, record_len);

	if (r.bad)
		return -EPROTO;
	*ret_connection = (struct sg_wire_connection){
		.bytes = bytes, .record = record, .bytes_len = bytes_len, .record_len = record_len
	};
	*items = r.at;
	*len = (size_t)(r.end - r.at);
	return 0;
}

int sg_wire_agree(uint32_t min, uint32_t max)
{
	uint32_t highest = max < SG_WIRE_VERSION_MAX ? max : SG_WIRE_VERSION_MAX;
	uint32_t lowest = min > SG_WIRE_VERSION_MIN ? min : SG_WIRE_VERSION_MIN;

	return highest >= lowest ? (int)highest : -EPROTONOSUPPORT;
}
