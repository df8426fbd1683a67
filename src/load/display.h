/* SPDX-License-Identifier: MIT */
/*
 * The run as a picture on a terminal while it goes on: some lines at the bottom that are drawn
 * again and again in one write each. Everything else that is said is said above them.
 */
#ifndef LOAD_DISPLAY_H
#define LOAD_DISPLAY_H

#include "load.h"

#define DISPLAY_LINES    6
#define DISPLAY_EVERY_NS (NS_PER_S / 5)

struct display {
	bool active, colour, unicode;
	unsigned int columns;              /* of the terminal, when it was drawn last */
	unsigned int sizes[DISPLAY_LINES]; /* cells of each line that stands there */
	size_t drawn;                      /* lines */
	uint64_t last_ns, last_ok, rate;
};

/** display_init - active where standard output is a terminal that can do it, and not for JSON */
void display_init(struct display *display, const struct options *options);

/** display_draw - draws it over what was drawn before */
void display_draw(struct display *display, const struct load *load);

/** display_clear - takes it away, so that something else can be printed */
void display_clear(struct display *display);

#endif
