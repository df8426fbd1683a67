/* SPDX-License-Identifier: MIT */
/*
 * Live connections on their way to the successor.
 *
 * Invariant: every connection given to segue_handover() is in exactly one place, waiting or
 * in one unanswered batch of one peer, until its verdict. A batch comes back only when its
 * channel has been read to its end, for then it can be acknowledged no more; a batch that is
 * unanswered when the drain ends is the receiver's.
 */
#include "libsegue/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Batches on their way at once: enough to keep both sides busy, and few descriptors in
 * flight (they count against the user's RLIMIT_NOFILE). */
#define WINDOW 4

static void list_init(struct handed_list *list)
{
	list->first = NULL;
	list->last = &list->first;
	list->count = 0;
}

static void list_append(struct handed_list *list, struct handed *handed)
{
	handed->next = NULL;
	*list->last = handed;
	list->last = &handed->next;
	list->count++;
}

static struct handed *list_shift(struct handed_list *list)
{
	struct handed *handed = list->first;

	if (handed == NULL)
		return NULL;
	list->first = handed->next;
	if (list->first == NULL)
		list->last = &list->first;
	list->count--;
	return handed;
}

static void list_prepend(struct handed_list *list, struct handed *handed)
{
	handed->next = list->first;
	if (list->first == NULL)
		list->last = &handed->next;
	list->first = handed;
	list->count++;
}

/* Before the first use the list is all zero. */
static struct handed_list *waiting(struct segue *segue)
{
	if (segue->waiting.last == NULL)
		list_init(&segue->waiting);
	return &segue->waiting;
}

static void verdict(struct segue *segue, struct handed *handed, bool taken, const char *reason)
{
	struct segue_event event = { .type = taken ? SEGUE_EVENT_TAKEN : SEGUE_EVENT_KEPT,
		                     .fd = handed->fd,
		                     .cookie = handed->cookie,
		                     .reason = taken ? NULL : reason,
		                     .generation = segue->generation };

	sg_queue_event(segue, &event);
	free(handed);
}

static void verdicts(struct segue *segue, struct handed_list *list, bool taken, const char *reason)
{
	struct handed *handed;

	while ((handed = list_shift(list)) != NULL)
		verdict(segue, handed, taken, reason);
}

int segue_handover(struct segue *segue, int fd, const void *bytes, size_t bytes_len,
                   const void *record, size_t record_len, void *cookie)
{
	struct peer *target;
	struct handed *handed;

	if (segue->state != SG_STATE_DRAINING ||
	    (!sg_peer_count(segue, PEER_SUCCESSOR) && !sg_supervised_waits(segue)))
		return sg_fail(segue, -ENOTCONN, "there is no successor to hand over to");
	if (fcntl(fd, F_GETFD) < 0)
		return sg_fail(segue, -EBADF, "descriptor %d is not open", fd);
	if (bytes_len > SEGUE_CONNECTION_MAX || record_len > SEGUE_CONNECTION_MAX - bytes_len)
		return sg_fail(segue, -EMSGSIZE, "a connection carries more than %d bytes",
		               SEGUE_CONNECTION_MAX);
	target = sg_peer_target(segue);
	if (target != NULL && (segue->options.record_version < target->record_min ||
	                       segue->options.record_version > target->record_max))
		return sg_fail(segue, -EPROTONOSUPPORT,
		               "generation %llu cannot read connection records of version %u",
		               (unsigned long long)target->generation,
		               segue->options.record_version);
	handed = malloc(sizeof(*handed) + bytes_len + record_len);
	if (handed == NULL)
		return sg_fail(segue, -ENOMEM, "no memory to hand a connection over");
	handed->fd = fd;
	handed->cookie = cookie;
	handed->bytes_len = bytes_len;
	handed->record_len = record_len;
	if (bytes_len > 0)
		memcpy(handed->data, bytes, bytes_len);
	if (record_len > 0)
		memcpy(handed->data + bytes_len, record, record_len);
	list_append(waiting(segue), handed);
	/* Whole batches at once; the rest goes with the next dispatch. */
	if (segue->waiting.count >= SG_WIRE_FDS_MAX)
		sg_handover_pump(segue);
	else if (segue->waiting.count == 1)
		segue_wake(segue);
	return 0;
}

/* Moves connections from the waiting list into a batch and its message. */
static void fill(struct segue *segue, struct batch *batch, struct sg_message *message, int *fds,
                 uint8_t *items)
{
	struct handed *handed;

	while (message->count < SG_WIRE_FDS_MAX && (handed = waiting(segue)->first) != NULL) {
		struct sg_wire_connection connection = { .bytes = handed->data,
			                                 .bytes_len = handed->bytes_len,
			                                 .record = handed->data + handed->bytes_len,
			                                 .record_len = handed->record_len };
		ssize_t len = sg_wire_add_connection(items, message->items_len,
		                                     SG_WIRE_BODY_MAX - 64, &connection);

		if (len < 0)
			break;
		message->items_len = (size_t)len;
		fds[message->count++] = handed->fd;
		list_append(&batch->entries, list_shift(waiting(segue)));
	}
}

static void put_back(struct segue *segue, struct batch *batch)
{
	struct handed_list reversed;
	struct handed *handed;

	list_init(&reversed);
	while ((handed = list_shift(&batch->entries)) != NULL)
		list_prepend(&reversed, handed);
	while ((handed = list_shift(&reversed)) != NULL)
		list_prepend(waiting(segue), handed);
	free(batch);
}

static int send_batch(struct segue *segue, struct peer *target)
{
	static uint8_t items[SG_WIRE_BODY_MAX];
	struct sg_message message = { .type = SG_MESSAGE_CONNECTIONS,
		                      .serial = ++segue->next_serial,
		                      .record_version = segue->options.record_version,
		                      .items = items };
	struct batch *batch = calloc(1, sizeof(*batch)), **last = &target->batches;
	int fds[SG_WIRE_FDS_MAX];
	int r;

	if (batch == NULL) {
		sg_peer_stall(target);
		return -ENOMEM;
	}
	batch->serial = segue->next_serial;
	list_init(&batch->entries);
	fill(segue, batch, &message, fds, items);
	r = sg_peer_try(target, &message, fds, message.count);
	if (r < 0) {
		put_back(segue, batch);
		return r;
	}
	while (*last != NULL)
		last = &(*last)->next;
	*last = batch;
	target->batches_len++;
	return 0;
}

/* Is there nobody, now or later, who could take what waits? */
static bool hopeless(struct segue *segue)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && !peer->doomed && !peer->broken)
			return false;
	return !sg_supervised_waits(segue);
}

void sg_handover_pump(struct segue *segue)
{
	struct peer *target = sg_peer_target(segue);

	if (waiting(segue)->count == 0)
		return;
	if (segue->state != SG_STATE_DRAINING) {
		verdicts(segue, &segue->waiting, false, "the drain has ended");
		return;
	}
	if (target == NULL) {
		if (hopeless(segue))
			verdicts(segue, &segue->waiting, false, "no channel to the successor");
		return;
	}
	if (segue->options.record_version < target->record_min ||
	    segue->options.record_version > target->record_max) {
		verdicts(segue, &segue->waiting, false,
		         "the successor cannot read records of this version");
		return;
	}
	while (segue->waiting.count > 0 && target->batches_len < WINDOW && !target->stalled) {
		int r = send_batch(segue, target);

		/* Its death, room in the channel, or the timer comes and pumps again. */
		if (r == -EPIPE || r == -EAGAIN || sg_channel_passes(r))
			return;
		if (r < 0) {
			verdict(segue, list_shift(&segue->waiting), false, strerror(-r));
			continue;
		}
	}
}

void sg_handover_answer(struct peer *peer, uint32_t serial, bool taken, int error)
{
	struct batch **at = &peer->batches;
	struct batch *batch;

	while (*at != NULL && (*at)->serial != serial)
		at = &(*at)->next;
	batch = *at;
	if (batch == NULL)
		return;
	*at = batch->next;
	peer->batches_len--;
	if (!taken && error == EAGAIN) {
		/* It drains itself: its successor, or its own word that it serves again, will come.
		 */
		peer->declines = true;
		put_back(peer->segue, batch);
		sg_handover_pump(peer->segue);
		return;
	}
	verdicts(peer->segue, &batch->entries, taken, error != 0 ? strerror(error) : "declined");
	free(batch);
	sg_handover_pump(peer->segue);
}

/* Has it closed its channel with answers outstanding? What it said last must have been heard. */
bool sg_handover_comes_back(const struct peer *peer)
{
	return peer->ended && !peer->deaf && peer->batches != NULL;
}

/* Its channel has been read to its end: what it did not acknowledge is ours. */
void sg_handover_take_back(struct peer *peer)
{
	struct batch *batch, *reversed = NULL;

	while ((batch = peer->batches) != NULL) {
		peer->batches = batch->next;
		batch->next = reversed;
		reversed = batch;
	}
	peer->batches_len = 0;
	while ((batch = reversed) != NULL) {
		reversed = batch->next;
		put_back(peer->segue, batch);
	}
}

/* The drain ends: what waits stays the application's, what is under way is the receiver's. */
void sg_handover_end(struct segue *segue, const char *reason)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (sg_handover_comes_back(peer))
			sg_handover_take_back(peer);
	verdicts(segue, waiting(segue), false, reason);
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		struct batch *batch;

		while ((batch = peer->batches) != NULL) {
			peer->batches = batch->next;
			verdicts(segue, &batch->entries, true, NULL);
			free(batch);
		}
		peer->batches_len = 0;
	}
}

/* Both ways: without a verdict, or acknowledged and not yet seen by the application. */
bool sg_handover_pending(struct segue *segue)
{
	if (waiting(segue)->count > 0)
		return true;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->batches != NULL || peer->held_first != NULL)
			return true;
	for (struct queued *queued = segue->events_first; queued != NULL; queued = queued->next)
		if (queued->event.type == SEGUE_EVENT_CONNECTION)
			return true;
	return false;
}

void sg_handover_done(struct segue *segue)
{
	struct handed *handed;

	sg_handover_end(segue, "closed");
	while ((handed = list_shift(waiting(segue))) != NULL)
		free(handed);
}
