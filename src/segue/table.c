/* SPDX-License-Identifier: MIT */
/*
 * The tables as arrays, made from the rows of the header.
 */
#include "segue/table.h"

#include <stdbool.h>

struct worker_entry {
	bool row;
	struct worker_step step;
};

struct service_entry {
	bool row;
	struct service_step step;
};

#define WORKER_ENTRY(state, event, next, action)         \
	[WORKER_##state][WORKER_EVENT_##event] = { true, \
		                                   { WORKER_##next, WORKER_ACTION_##action } },
#define SERVICE_ENTRY(state, event, next, action)       \
	[SERVICE_##                                     \
		state][SERVICE_EVENT_##event] = { true, \
		                                  { SERVICE_##next, SERVICE_ACTION_##action } },

static const struct worker_entry workers[WORKER_STATE_COUNT][WORKER_EVENT_COUNT] = { WORKER_ROWS(
	WORKER_ENTRY) };
static const struct service_entry services[SERVICE_STATE_COUNT][SERVICE_EVENT_COUNT] = {
	SERVICE_ROWS(SERVICE_ENTRY)
};

struct worker_step table_worker(enum worker_state state, enum worker_event event)
{
	const struct worker_entry *entry = &workers[state][event];

	return entry->row ? entry->step : (struct worker_step){ state, WORKER_ACTION_IGNORE };
}

struct service_step table_service(enum service_state state, enum service_event event)
{
	const struct service_entry *entry = &services[state][event];

	return entry->row ? entry->step : (struct service_step){ state, SERVICE_ACTION_IGNORE };
}

#define TEXT2(name, text)         text,
#define TEXT3(name, text, limit)  text,
#define LIMIT3(name, text, limit) limit,

const char *table_worker_state_text(enum worker_state state)
{
	static const char *const texts[] = { WORKER_STATES(TEXT3) };

	return texts[state];
}

const char *table_worker_event_text(enum worker_event event)
{
	static const char *const texts[] = { WORKER_EVENTS(TEXT2) };

	return texts[event];
}

const char *table_worker_limit(enum worker_state state)
{
	static const char *const limits[] = { WORKER_STATES(LIMIT3) };

	return limits[state];
}

const char *table_service_state_text(enum service_state state)
{
	static const char *const texts[] = { SERVICE_STATES(TEXT3) };

	return texts[state];
}

const char *table_service_event_text(enum service_event event)
{
	static const char *const texts[] = { SERVICE_EVENTS(TEXT2) };

	return texts[event];
}

const char *table_service_limit(enum service_state state)
{
	static const char *const limits[] = { SERVICE_STATES(LIMIT3) };

	return limits[state];
}
