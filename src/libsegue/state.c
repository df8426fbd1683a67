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

static int blob_add_take(struct blob **list, const char *name, int fd, size_t len)
{
	struct blob *blob = calloc(1, sizeof(*blob));

	if (blob == NULL) {
		sg_fd_close(fd);
		return -ENOMEM;
	}
	snprintf(blob->name, sizeof(blob->name), "%.63s", name);
	blob->fd = fd;
	blob->len = len;
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
	return blob_add_take(&segue->saving, name, fd, len);
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

/* False: nobody may ask now. */
bool sg_state_send_snapshot(struct peer *peer)
{
	struct segue *segue = peer->segue;
	int r;

	if (segue->attempt.peer != peer || peer->ready)
		return false;
	r = save(segue, false);
	if (r == 0)
		r = send_blobs(peer, SG_MESSAGE_STATE);
	if (r == 0)
		return true;
	blobs_free(&segue->saving);
	sg_attempt_failed(segue, r, "the state could not be saved: %s",
	                  r < 0 ? strerror(-r) : "save_state() refused");
	sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
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
	if (blob_add_take(&peer->arriving, message->name, fd, message->size) < 0)
		sg_queue_warning(segue, ENOMEM, "blob '%s' was not taken", message->name);
}

/* All blobs of one state have come: they replace those of the earlier one. */
void sg_state_replace_take(struct segue *segue, struct blob *blobs)
{
	blobs_free(&segue->received);
	segue->received = blobs;
}

static bool snapshot_done(struct segue *segue)
{
	return segue->snapshot_done;
}

static int ask_snapshot(struct segue *segue)
{
	struct peer *peer = sg_peer_direct(segue, PEER_PREDECESSOR);
	int r;

	if (segue->snapshot_asked || segue->said_ready || peer == NULL)
		return 0;
	segue->snapshot_asked = true;
	(void)sg_peer_send_type(peer, SG_MESSAGE_WANT_STATE);
	r = sg_upstream_wait(segue, snapshot_done, SNAPSHOT_MS);
	if (r == -ETIMEDOUT)
		return sg_fail(segue, r, "the predecessor did not send its state");
	return 0;
}

int segue_blob(struct segue *segue, const char *name, const void **ret_data, size_t *ret_len)
{
	int r = ask_snapshot(segue);
	struct blob *blob;

	if (r < 0)
		return r;
	blob = blob_find(segue->received, name);
	if (blob == NULL)
		return sg_fail(segue, -ENOENT, "the predecessor handed over no blob '%.63s'", name);
	if (blob->data == NULL) {
		r = sg_blob_map(&blob->data, blob->fd, blob->len, SEGUE_BLOB_MAX_BYTES);
		if (r < 0)
			return sg_fail(segue, r, "blob '%s': %s", name, strerror(-r));
	}
	*ret_data = blob->data;
	*ret_len = blob->len;
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
