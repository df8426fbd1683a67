/* SPDX-License-Identifier: MIT */
/* Counting between two points in time; see window.h. */
#include "window.h"

#include <string.h>

void window_begin(struct window *window, uint64_t now_ns)
{
	*window = (struct window){ .begin_ns = now_ns, .last_ok_ns = now_ns };
}

static void measure_pause(struct window *window, uint64_t until_ns)
{
	uint64_t pause_ns;

	if (window->end_ns || until_ns < window->last_ok_ns)
		return;
	pause_ns = until_ns - window->last_ok_ns;
	window->last_ok_ns = until_ns;
	if (pause_ns <= window->pause_ns)
		return;
	window->pause_ns = pause_ns;
	window->pause_at_ns = until_ns;
}

void window_end(struct window *window, uint64_t now_ns)
{
	measure_pause(window, now_ns);
	window->end_ns = now_ns;
}

void window_outcome(struct window *window, enum outcome outcome, uint64_t now_ns)
{
	window->outcomes[outcome]++;
	if (outcome == OUTCOME_OK)
		measure_pause(window, now_ns);
}

void window_answer(struct window *window, uint64_t latency_ns)
{
	if (latency_ns > window->slowest_ns)
		window->slowest_ns = latency_ns;
}

void window_generation(struct window *window, const char *text, uint64_t now_ns)
{
	if (window->generation_ns)
		return;
	window->generation_ns = now_ns;
	strncpy(window->generation, text, WINDOW_GENERATION_BYTES);
}

uint64_t window_requests(const struct window *window)
{
	uint64_t requests = 0;

	for (size_t i = 0; i < OUTCOMES; i++)
		requests += window->outcomes[i];
	return requests;
}

uint64_t window_lost(const struct window *window)
{
	uint64_t lost = 0;

	for (size_t i = 0; i < OUTCOMES; i++) {
		if (outcome_infos[i].kind == OUTCOME_LOST)
			lost += window->outcomes[i];
	}
	return lost;
}

uint64_t window_closed(const struct window *window)
{
	return window->closes[CLOSE_UNANNOUNCED] + window->closes[CLOSE_UNSOLICITED];
}

uint64_t window_closed_idle(const struct window *window)
{
	uint64_t closed = 0;

	for (size_t i = 0; i < CLOSES; i++)
		closed += window->closes[i];
	return closed;
}
