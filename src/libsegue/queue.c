/* SPDX-License-Identifier: MIT */
/*
 * Events on their way to the application, in order. What an event points to is copied into its
 * own allocation, freed when the next event is asked for. Where there is no memory it is one of
 * the spare ones: an event that got lost would be an order that the application never carries
 * out. The events of a single step of the machine are fewer than those.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct queued *take_spare(struct segue *segue)
{
	for (size_t i = 0; i < SPARES; i++) {
		struct spare *spare = &segue->spares[i];

		if (spare->taken)
			continue;
		spare->taken = true;
		memset(spare->bytes, 0, sizeof(spare->bytes));
		spare->queued.spare = spare;
		return &spare->queued;
	}
	return NULL;
}

struct queued *sg_queued_new(struct segue *segue, enum segue_event_type type, const char *reason)
{
	size_t len = reason != NULL ? strnlen(reason, SG_ERROR_MAX - 1) : 0;
	struct queued *queued = calloc(1, sizeof(*queued) + len + 1);

	if (queued == NULL)
		queued = take_spare(segue);
	if (queued == NULL)
		return NULL;
	queued->event.type = type;
	queued->event.fd = -1;
	queued->event.deadline_ms = SEGUE_FOREVER;
	queued->event.reason = queued->reason;
	queued->event.name = "";
	if (len > 0)
		memcpy(queued->reason, reason, len);
	return queued;
}

void sg_queue_push(struct segue *segue, struct queued *queued)
{
	queued->next = NULL;
	*segue->events_last = queued;
	segue->events_last = &queued->next;
	if (!segue->dispatching)
		segue_wake(segue);
}

void sg_queue_event(struct segue *segue, const struct segue_event *event)
{
	struct queued *queued = sg_queued_new(segue, event->type, event->reason);
	const char *reason;

	if (queued == NULL)
		return;
	reason = queued->event.reason;
	queued->event = *event;
	queued->event.reason = reason;
	if (event->name == NULL)
		queued->event.name = "";
	sg_queue_push(segue, queued);
}

void sg_queue_simple(struct segue *segue, enum segue_event_type type)
{
	struct queued *queued = sg_queued_new(segue, type, NULL);

	if (queued == NULL)
		return;
	queued->event.generation = segue->generation;
	sg_queue_push(segue, queued);
}

void sg_queue_warning(struct segue *segue, int error, const char *format, ...)
{
	char text[SG_ERROR_MAX];
	struct queued *queued;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	queued = sg_queued_new(segue, SEGUE_EVENT_WARNING, text);
	if (queued == NULL)
		return;
	queued->event.error = error < 0 ? -error : error;
	queued->event.generation = segue->generation;
	sg_queue_push(segue, queued);
}

void sg_queued_free(struct queued *queued)
{
	if (queued == NULL)
		return;
	free(queued->memory);
	if (queued->spare != NULL)
		queued->spare->taken = false;
	else
		free(queued);
}

/* The application has dealt with an event when it asks for the next one. */
static void finish_current(struct segue *segue)
{
	struct queued *current = segue->current;

	segue->current = NULL;
	if (current != NULL && current->event.type == SEGUE_EVENT_FINAL_STATE)
		sg_upstream_receipt(segue, current->peer_id);
	sg_queued_free(current);
}

bool sg_queue_pop(struct segue *segue, struct segue_event *ret_event)
{
	finish_current(segue);
	segue->current = segue->events_first;
	if (segue->current == NULL)
		return false;
	segue->events_first = segue->current->next;
	if (segue->events_first == NULL)
		segue->events_last = &segue->events_first;
	if (segue->current->event.type == SEGUE_EVENT_FINAL_STATE) {
		sg_state_replace_take(segue, segue->current->blobs);
		segue->current->blobs = NULL;
	}
	*ret_event = segue->current->event;
	return true;
}

void sg_queue_done(struct segue *segue)
{
	struct segue_event event;

	/* A connection that the application never saw is this process's to close. */
	while (sg_queue_pop(segue, &event))
		if (event.type == SEGUE_EVENT_CONNECTION)
			sg_fd_close(event.fd);
}
