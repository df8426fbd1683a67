/* SPDX-License-Identifier: MIT */
/*
 * Application state: named blobs, as a snapshot before the successor is ready and once more
 * when the predecessor has drained.
 */
#include "libsegue/handle.h"
#include "core/blob.h"
#include "core/fd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOT_MS 10000

static void blobs_free(struct blob **list)
{
	struct blob *next;

	for (struct blob *blob = *list; blob != NULL; blob = next) {
		next = blob->next;
		if (blob->data != NULL)
			sg_blob_unmap(blob->data, blob->len);
		sg_fd_close(blob->fd);
		free(blob);
	}
	*list = NULL;
}

static struct blob *blob_find(struct blob *list, const char *name)
{
	while (list != NULL && strcmp(list->name, name) != 0)
		list = list->next;
	return list;
}

static size_t blobs_count(const struct blob *list)
{
	size_t count = 0;

	for (; list != NULL; list = list->next)
		count++;
	return count;
}

static int blob_add_take(struct blob **list, const char *name, int fd, size_t len, uint32_t worker)
{
	struct blob *blob = calloc(1, sizeof(*blob));

	if (blob == NULL) {
		sg_fd_close(fd);
		return -ENOMEM;
	}
	snprintf(blob->name, sizeof(blob->name), "%.63s", name);
	blob->fd = fd;
	blob->len = len;
	blob->worker = worker;
	while (*list != NULL)
		list = &(*list)->next;
	*list = blob;
	return 0;
}

int segue_put_blob(struct segue *segue, const char *name, const void *data, size_t len)
{
	int fd;

	if (!segue->in_save)
		return sg_fail(segue, -EPERM, "segue_put_blob() outside save_state()");
	if (!sg_name_valid(name))
		return sg_fail(segue, -EINVAL, "blob name '%.63s' is malformed", name);
	if (blob_find(segue->saving, name) != NULL)
		return sg_fail(segue, -EEXIST, "blob '%s' has been put already", name);
	if (blobs_count(segue->saving) >= SEGUE_BLOBS_MAX || len > SEGUE_BLOB_MAX_BYTES)
		return sg_fail(segue, -E2BIG, "blob '%s' is one too many or too large", name);
	fd = sg_blob_make(name, data, len);
	if (fd < 0)
		return sg_fail(segue, fd, "blob '%s': %s", name, strerror(-fd));
	return blob_add_take(&segue->saving, name, fd, len, segue->worker);
}

static int save(struct segue *segue, bool final)
{
	int r = 0;

	if (segue->options.save_state == NULL)
		return 0;
	segue->in_save = true;
	r = segue->options.save_state(segue, final, segue->options.ctx);
	segue->in_save = false;
	return r;
}

/* Sends the blobs and the message that ends them. */
static int send_blobs(struct peer *peer, enum sg_message_type end)
{
	struct segue *segue = peer->segue;
	struct sg_message last = { .type = end };
	int r = 0;

	for (struct blob *blob = segue->saving; blob != NULL && r == 0; blob = blob->next) {
		struct sg_message message = { .type = SG_MESSAGE_BLOB, .size = blob->len };

		strcpy(message.name, blob->name);
		r = sg_peer_send(peer, &message, &blob->fd, 1);
		last.count++;
	}
	blobs_free(&segue->saving);
	return r < 0 ? r : sg_peer_send(peer, &last, NULL, 0);
}

/* Once, by the successor that starts; under a supervisor, by one that does not serve yet. */
static bool may_ask(const struct peer *peer)
{
	if (peer->segue->supervised)
		return !peer->committed && !peer->asked;
	return peer->segue->attempt.peer == peer && !peer->ready;
}

static void snapshot_failed(struct peer *peer, int error)
{
	const char *why = error < 0 ? strerror(-error) : "save_state() refused";
	struct segue *segue = peer->segue;
	struct sg_message failed = { .type = SG_MESSAGE_FAILED,
		                     .error = (uint32_t)(error < 0 ? -error : ECANCELED) };

	if (!segue->supervised) {
		sg_attempt_failed(segue, error, "the state could not be saved: %s", why);
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	/* It is the successor that fails then, and the supervisor hears why from it. */
	snprintf(failed.text, sizeof(failed.text), "%s", why);
	(void)sg_peer_send(peer, &failed, NULL, 0);
}

/* An elder worker that lives was given the state: what has become of it is that one's to tell.
 * Where the number of workers changes twice, one may have no predecessor but such as drain. */
static bool is_handed_on(const struct peer *asking)
{
	for (const struct peer *peer = asking->segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && peer->asked &&
		    peer->generation < asking->generation && sg_pidfd_dead(peer->pidfd) != 1)
			return true;
	return false;
}

/* False: nobody may ask now. */
bool sg_state_send_snapshot(struct peer *peer)
{
	struct segue *segue = peer->segue;
	int r;

	if (!may_ask(peer))
		return false;
	peer->asked = true;
	if (segue->supervised && is_handed_on(peer)) {
		(void)sg_peer_send_type(peer, SG_MESSAGE_STATE);
		return true;
	}
	r = save(segue, false);
	if (r == 0)
		r = send_blobs(peer, SG_MESSAGE_STATE);
	if (r == 0)
		return true;
	blobs_free(&segue->saving);
	snapshot_failed(peer, r);
	return true;
}

int sg_state_send_final(struct peer *peer)
{
	struct segue *segue = peer->segue;
	int r = save(segue, true);

	if (r == 0)
		return send_blobs(peer, SG_MESSAGE_FINAL);
	blobs_free(&segue->saving);
	sg_queue_warning(segue, r, "the final state could not be saved");
	return sg_peer_send_type(peer, SG_MESSAGE_FINAL);
}

void sg_state_take_blob(struct peer *peer, const struct sg_message *message, int fd)
{
	struct segue *segue = peer->segue;

	if (!sg_name_valid(message->name) || message->size > SEGUE_BLOB_MAX_BYTES ||
	    blobs_count(peer->arriving) >= SEGUE_BLOBS_MAX ||
	    blob_find(peer->arriving, message->name) != NULL) {
		sg_queue_warning(segue, EPROTO,
		                 "blob '%.63s' was not taken: malformed or too large",
		                 message->name);
		sg_fd_close(fd);
		return;
	}
	if (blob_add_take(&peer->arriving, message->name, fd, message->size, peer->worker) < 0)
		sg_queue_warning(segue, ENOMEM, "blob '%s' was not taken", message->name);
}

/* All blobs of a predecessor's snapshot have come: behind those of the workers before it. */
void sg_state_take_snapshot(struct peer *peer)
{
	struct blob *blobs = peer->arriving, **at = &peer->segue->received, **last = &blobs;

	peer->arriving = NULL;
	if (!peer->asked || peer->answered) {
		blobs_free(&blobs);
		return;
	}
	peer->answered = true;
	while (*last != NULL)
		last = &(*last)->next;
	while (*at != NULL && (*at)->worker <= peer->worker)
		at = &(*at)->next;
	*last = *at;
	*at = blobs;
}

/* A predecessor under the same supervisor could not save its state. */
void sg_state_take_refusal(struct peer *peer, const struct sg_message *message)
{
	struct segue *segue = peer->segue;

	if (!peer->asked || peer->answered)
		return;
	peer->answered = true;
	segue->snapshot_error = message->error != 0 ? -(int)message->error : -ECANCELED;
	snprintf(segue->scratch, sizeof(segue->scratch),
	         "worker %u of generation %llu could not save its state: %s", peer->worker,
	         (unsigned long long)peer->generation, message->text);
}

/* All blobs of a final state have come: they replace those of the earlier one. */
void sg_state_replace_take(struct segue *segue, struct blob *blobs)
{
	blobs_free(&segue->received);
	segue->received = blobs;
}

static bool snapshot_done(struct segue *segue)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && peer->asked && !peer->answered &&
		    !peer->doomed && !peer->broken)
			return false;
	return true;
}

/* Of the generation that serves: those that drain have handed theirs on. */
static uint64_t youngest(struct segue *segue)
{
	uint64_t generation = 0;

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && !peer->doomed &&
		    peer->generation > generation)
			generation = peer->generation;
	return generation;
}

static void ask_all(struct segue *segue)
{
	uint64_t generation = youngest(segue);

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (peer->role != PEER_PREDECESSOR || peer->doomed || peer->broken ||
		    peer->introduced != segue->supervised || peer->generation != generation)
			continue;
		/* All may have been introduced; some of them hand over to this one. */
		if (segue->supervised &&
		    !sg_peer_pairs(peer->worker, segue->worker, segue->workers))
			continue;
		peer->asked = true;
		(void)sg_peer_send_type(peer, SG_MESSAGE_WANT_STATE);
	}
}

static int ask_snapshot(struct segue *segue)
{
	int r;

	if (segue->snapshot_asked || segue->said_ready)
		return 0;
	segue->snapshot_asked = true;
	ask_all(segue);
	r = sg_upstream_wait(segue, snapshot_done, SNAPSHOT_MS);
	if (r == -ETIMEDOUT)
		return sg_fail(segue, r, "the predecessor did not send its state");
	if (r < 0 && segue->supervised)
		return sg_fail(segue, r, "the supervisor ended before the state had come");
	return 0;
}

static int find_blob(struct segue *segue, const char *name, size_t index, struct blob **ret_blob)
{
	struct blob *blob;
	int r = ask_snapshot(segue);

	if (r == 0 && segue->snapshot_error < 0 && !segue->said_ready)
		r = sg_fail(segue, segue->snapshot_error, "%s", segue->scratch);
	if (r < 0) {
		segue->unfit = -r;
		return r;
	}
	blob = blob_find(segue->received, name);
	while (blob != NULL && index-- > 0)
		blob = blob_find(blob->next, name);
	if (blob == NULL)
		return sg_fail(segue, -ENOENT, "the predecessor handed over no blob '%.63s'", name);
	if (blob->data == NULL) {
		r = sg_blob_map(&blob->data, blob->fd, blob->len, SEGUE_BLOB_MAX_BYTES);
		if (r < 0)
			return sg_fail(segue, r, "blob '%s': %s", name, strerror(-r));
	}
	*ret_blob = blob;
	return 0;
}

int segue_blob(struct segue *segue, const char *name, const void **ret_data, size_t *ret_len)
{
	uint32_t worker;

	return segue_blob_of(segue, name, 0, ret_data, ret_len, &worker);
}

int segue_blob_of(struct segue *segue, const char *name, size_t index, const void **ret_data,
                  size_t *ret_len, uint32_t *ret_worker)
{
	struct blob *blob = NULL;
	int r = find_blob(segue, name, index, &blob);

	if (r < 0)
		return r;
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): sg_fail() answers below 0. */
	*ret_data = blob->data;
	*ret_len = blob->len;
	*ret_worker = blob->worker;
	return 0;
}

void sg_state_forget(struct peer *peer)
{
	blobs_free(&peer->arriving);
}

void sg_state_done(struct segue *segue)
{
	blobs_free(&segue->received);
	blobs_free(&segue->saving);
}
