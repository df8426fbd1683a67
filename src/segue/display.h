/* SPDX-License-Identifier: MIT */
/*
 * What a person sees of an upgrade, a stop, a status: what happens as it happens.
 *
 * At a terminal the last line is live: the time, and a bar while connections drain. Elsewhere,
 * and on a dumb terminal, there are plain lines. With --json the supervisor's own lines are
 * passed on. What a service says of itself reaches the terminal without control characters.
 * Colours follow NO_COLOR, signs that are not ASCII the locale.
 */
#ifndef SEGUE_COMMAND_DISPLAY_H
#define SEGUE_COMMAND_DISPLAY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum display_mode { DISPLAY_PLAIN, DISPLAY_LIVE, DISPLAY_JSON };

enum display_doing {
	DISPLAY_NOTHING,
	DISPLAY_CHECKING,
	DISPLAY_STARTING,
	DISPLAY_DRAINING,
	DISPLAY_ABANDONING,
	DISPLAY_STOPPING,
};

struct display {
	enum display_mode mode;
	bool colour, utf8;
	/* What goes on, by the last events. */
	enum display_doing doing;
	int64_t generation, predecessor; /* 0: none */
	int64_t workers, ready;
	int64_t connections, most; /* -1: nobody tells; most: when the drain began */
	int64_t began_ms;          /* of CLOCK_MONOTONIC, as are the next two */
	int64_t deadline_ms;       /* 0: none */
	int64_t drain_said_ms;     /* by a plain line */
	int64_t drain_said;        /* so many connections */
	unsigned int frame;        /* of the live line */
	bool line_shown;           /* a live line stands on the terminal */
};

/* Finds out what standard output is. The locale has been set. */
void display_init(struct display *display, bool json);

/* An event and the line that it came in. */
void display_event(struct display *display, const json_t *event, const char *line);

/* Draws the live line anew. To be called again after so many ms; -1: there is none. */
int display_tick(struct display *display);

/* A sentence about the client itself, on standard error. */
void display_remark(struct display *display, const char *sentence);

/* The last line of all, by what is in it: on standard output where it went well. */
void display_end(struct display *display, const json_t *end, const char *line);

/* 'segue status': the object of doc/control.md. */
void display_status(struct display *display, const json_t *status);

/* 'segue list': an array of {"name", "pid", "state", "control"}. */
void display_list(struct display *display, const json_t *list);

#endif
