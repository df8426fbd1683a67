/* SPDX-License-Identifier: MIT */
/*
 * The progress of an upgrade or a stop. The supervisor's events are the truth; the live line
 * adds only the time that has passed since.
 */
#include "segue/display.h"
#include "core/fd.h"
#include "segue/control.h"
#include "segue/printable.h"
#include "segue/view.h"

#include <inttypes.h>
#include <langinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#define TICK_MS     100
#define BAR_CELLS   20
#define PLAIN_MS    1000 /* between two plain lines of one drain */
#define COLUMNS     80   /* where the terminal does not say */
#define COLUMNS_MAX 500

enum mark { MARK_GOOD, MARK_BAD, MARK_NOTE };

void display_init(struct display *display, bool json)
{
	const char *term = getenv("TERM");
	const char *no_colour = getenv("NO_COLOR");
	bool terminal =
		isatty(STDOUT_FILENO) && term != NULL && *term != '\0' && strcmp(term, "dumb") != 0;

	*display = (struct display){ .connections = -1, .drain_said = -1 };
	display->mode = json ? DISPLAY_JSON : terminal ? DISPLAY_LIVE : DISPLAY_PLAIN;
	display->colour =
		display->mode == DISPLAY_LIVE && (no_colour == NULL || *no_colour == '\0');
	display->utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	display->began_ms = sg_now_ms();
}

/* The live line. */

static void hide_line(struct display *display)
{
	if (display->line_shown)
		fputs("\r\033[K", stdout);
	display->line_shown = false;
}

static size_t columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return COLUMNS;
	return size.ws_col < COLUMNS_MAX ? size.ws_col : COLUMNS_MAX;
}

/* Ends the text where it would leave the line: a live line that wraps cannot be drawn over. */
static void fit(char *text, size_t most)
{
	mbstate_t state = { 0 };
	size_t used = 0;

	while (*text != '\0') {
		wchar_t wide;
		size_t len = mbrtowc(&wide, text, MB_CUR_MAX, &state);
		int width = len == 0 || len > MB_CUR_MAX ? -1 : wcwidth(wide);

		if (width < 0 || used + (size_t)width > most)
			break;
		used += (size_t)width;
		text += len;
	}
	*text = '\0';
}

__attribute__((format(printf, 3, 4))) static void add(char *text, size_t size, const char *format,
                                                      ...)
{
	size_t len = strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + len, size - len, format, arguments);
	va_end(arguments);
}

static void add_bar(const struct display *display, char *text, size_t size)
{
	int64_t most = display->most > 0 ? display->most : 1;
	int64_t done = (most - display->connections) * BAR_CELLS / most;

	add(text, size, display->utf8 ? "  " : "  [");
	for (int64_t cell = 0; cell < BAR_CELLS; cell++) {
		if (display->utf8)
			add(text, size, "%s", cell < done ? "\u2588" : "\u2591");
		else
			add(text, size, "%c", cell < done ? '#' : '-');
	}
	add(text, size, display->utf8 ? "  " : "]  ");
}

static void add_count(const struct display *display, char *text, size_t size)
{
	if (display->connections < 0)
		return;
	add_bar(display, text, size);
	add(text, size, "%" PRId64 " of %" PRId64 " connection%s left", display->connections,
	    display->most, display->most == 1 ? "" : "s");
}

static void add_times(const struct display *display, char *text, size_t size)
{
	char span[VIEW_SPAN_MAX];
	int64_t now = sg_now_ms();

	view_span(span, now - display->began_ms, true);
	add(text, size, "  %s", span);
	if (display->deadline_ms == 0)
		return;
	view_span(span, display->deadline_ms - now + 999, false);
	add(text, size, ", %s left", span);
}

static void add_doing(const struct display *display, char *text, size_t size)
{
	switch (display->doing) {
	case DISPLAY_NOTHING:
		break;
	case DISPLAY_CHECKING:
		add(text, size, "the preflight command runs");
		break;
	case DISPLAY_STARTING:
		add(text, size, "generation %" PRId64 " starts", display->generation);
		if (display->workers > 1)
			add(text, size, "  %" PRId64 " of %" PRId64 " workers ready",
			    display->ready, display->workers);
		break;
	case DISPLAY_DRAINING:
		add(text, size, "generation %" PRId64 " drains", display->predecessor);
		add_count(display, text, size);
		break;
	case DISPLAY_ABANDONING:
		add(text, size, "generation %" PRId64 " is being ended", display->generation);
		break;
	case DISPLAY_STOPPING:
		add(text, size, "the service stops");
		add_count(display, text, size);
		break;
	}
}

int display_tick(struct display *display)
{
	static const char *const dots[] = { "\u280b", "\u2819", "\u2839", "\u2838", "\u283c",
		                            "\u2834", "\u2826", "\u2827", "\u2807", "\u280f" };
	static const char *const ascii[] = { "|", "/", "-", "\\" };
	char text[COLUMNS_MAX * 4] = "";
	unsigned int frame = display->frame++;

	if (display->mode != DISPLAY_LIVE || display->doing == DISPLAY_NOTHING)
		return -1;
	add(text, sizeof(text), "%s ", display->utf8 ? dots[frame % 10] : ascii[frame % 4]);
	add_doing(display, text, sizeof(text));
	add_times(display, text, sizeof(text));
	fit(text, columns() - 1);
	/* Written over what stands there, and only the rest erased, so that nothing flickers. */
	printf("\r%s\033[K", text);
	display->line_shown = true;
	fflush(stdout);
	return TICK_MS;
}

/* Lines that stay. */

__attribute__((format(printf, 3, 4))) static void say(struct display *display, enum mark mark,
                                                      const char *format, ...)
{
	static const char *const signs[] = { "\u2714", "\u2718", "\u00b7" };
	static const char *const ascii[] = { "+", "!", "-" };
	static const char *const colours[] = { "\033[32m", "\033[31m", "\033[2m" };
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	view_clean(text, display->utf8);
	hide_line(display);
	if (display->mode == DISPLAY_LIVE)
		printf("%s%s%s ", display->colour ? colours[mark] : "",
		       display->utf8 ? signs[mark] : ascii[mark], display->colour ? "\033[0m" : "");
	puts(text);
	fflush(stdout);
}

/* "generation 8", or "worker 1 of generation 8" where there are several. */
static void name_worker(const struct display *display, const json_t *event, char *name, size_t size)
{
	const json_t *worker = json_object_get(event, "worker");

	if (json_is_integer(worker) && display->workers != 1)
		snprintf(name, size, "worker %" PRId64 " of generation %" PRId64,
		         (int64_t)json_integer_value(worker), display->generation);
	else
		snprintf(name, size, "generation %" PRId64, display->generation);
}

static const char *text_of(const json_t *event)
{
	const char *text = json_string_value(json_object_get(event, "text"));

	return text != NULL ? text : "no reason was given";
}

static void on_checking(struct display *display, const json_t *event)
{
	display->doing = DISPLAY_CHECKING;
	if (display->mode == DISPLAY_PLAIN)
		say(display, MARK_NOTE, "the preflight command runs");
}

static void on_starting(struct display *display, const json_t *event)
{
	display->doing = DISPLAY_STARTING;
	if (display->mode != DISPLAY_PLAIN)
		return;
	if (display->predecessor > 0)
		say(display, MARK_NOTE,
		    "generation %" PRId64 " starts; generation %" PRId64 " serves",
		    display->generation, display->predecessor);
	else
		say(display, MARK_NOTE, "generation %" PRId64 " starts", display->generation);
}

static void on_started(struct display *display, const json_t *event)
{
	char name[64];

	name_worker(display, event, name, sizeof(name));
	say(display, MARK_NOTE, "%s runs: pid %" PRId64, name, view_number(event, "pid", 0));
}

static void on_note(struct display *display, const json_t *event)
{
	char name[64];

	name_worker(display, event, name, sizeof(name));
	say(display, MARK_NOTE, "%s: %s", name, text_of(event));
}

static void on_ready(struct display *display, const json_t *event)
{
	char name[64], span[VIEW_SPAN_MAX];

	display->ready++;
	name_worker(display, event, name, sizeof(name));
	view_span(span, view_number(event, "ms", 0), true);
	say(display, MARK_GOOD, "%s is ready after %s", name, span);
}

static void on_serving(struct display *display, const json_t *event)
{
	char span[VIEW_SPAN_MAX];

	view_span(span, view_number(event, "ms", 0), true);
	say(display, MARK_GOOD, "generation %" PRId64 " serves after %s", display->generation,
	    span);
	display->doing = DISPLAY_NOTHING;
}

/* Plain lines of a drain: when the count has changed, and not more than one a second. How many it
 * is about comes soon after the beginning. */
static void say_drain(struct display *display, const char *what)
{
	bool known = display->drain_said < 0 && display->connections > 0;
	int64_t now = sg_now_ms();
	char span[VIEW_SPAN_MAX] = "", text[128] = "";

	if (display->drain_said_ms > 0 && !known &&
	    (now - display->drain_said_ms < PLAIN_MS ||
	     display->drain_said == display->connections))
		return;
	display->drain_said_ms = now;
	display->drain_said = display->connections;
	if (display->connections >= 0)
		add(text, sizeof(text), ": %" PRId64 " connection%s left", display->connections,
		    display->connections == 1 ? "" : "s");
	if (display->deadline_ms > 0) {
		view_span(span, display->deadline_ms - now + 999, false);
		add(text, sizeof(text), "%s %s until the deadline", *text != '\0' ? "," : ":",
		    span);
	}
	say(display, MARK_NOTE, "%s%s", what, text);
}

static void on_drain(struct display *display, const json_t *event, enum display_doing doing)
{
	char what[64];

	if (display->doing != doing)
		display->most = 0;
	display->doing = doing;
	display->connections = view_number(event, "connections", -1);
	if (display->connections > display->most)
		display->most = display->connections;
	if (display->mode != DISPLAY_PLAIN)
		return;
	snprintf(what, sizeof(what), "generation %" PRId64 " drains", display->predecessor);
	say_drain(display, doing == DISPLAY_STOPPING ? "the service stops" : what);
}

static void on_draining(struct display *display, const json_t *event)
{
	on_drain(display, event, DISPLAY_DRAINING);
}

static void on_stopping(struct display *display, const json_t *event)
{
	on_drain(display, event, DISPLAY_STOPPING);
}

static void on_cut(struct display *display, const json_t *event)
{
	int64_t cut = view_number(event, "cut", 0);

	if (cut == 0) {
		say(display, MARK_BAD, "what is left is cut: %s", text_of(event));
		return;
	}
	say(display, MARK_BAD, "%" PRId64 " connection%s cut: %s", cut,
	    cut == 1 ? " was" : "s were", text_of(event));
}

static void on_gone(struct display *display, const json_t *event)
{
	char span[VIEW_SPAN_MAX];

	view_span(span, view_number(event, "ms", 0), true);
	say(display, MARK_GOOD, "generation %" PRId64 " is gone after %s", display->predecessor,
	    span);
	display->doing = DISPLAY_NOTHING;
}

static void on_failed(struct display *display, const json_t *event)
{
	char name[64];

	name_worker(display, event, name, sizeof(name));
	say(display, MARK_BAD, "%s failed: %s", name, text_of(event));
	display->doing = DISPLAY_ABANDONING;
}

static void on_resumed(struct display *display, const json_t *event)
{
	say(display, MARK_BAD, "generation %" PRId64 " serves again: %s", display->predecessor,
	    text_of(event));
	display->doing = DISPLAY_ABANDONING;
}

struct show {
	const char *name;
	bool stage; /* something else goes on from now on, with a deadline of its own */
	void (*show)(struct display *display, const json_t *event);
};

static const struct show shows[] = {
	{ "checking", true, on_checking }, { "starting", true, on_starting },
	{ "started", false, on_started },  { "note", false, on_note },
	{ "ready", false, on_ready },      { "serving", true, on_serving },
	{ "draining", true, on_draining }, { "cut", false, on_cut },
	{ "gone", true, on_gone },         { "failed", true, on_failed },
	{ "resumed", true, on_resumed },   { "stopping", true, on_stopping },
};

/* What every event tells. */
static void take_in(struct display *display, const json_t *event)
{
	int64_t now = sg_now_ms();

	display->generation = view_number(event, "generation", display->generation);
	display->predecessor = view_number(event, "predecessor", display->predecessor);
	display->workers = view_number(event, "workers", display->workers);
	display->began_ms = now - view_number(event, "ms", now - display->began_ms);
}

static void show(struct display *display, const struct show *show, const json_t *event)
{
	int64_t left = view_number(event, "deadline_ms", -1);

	if (left >= 0 || show->stage)
		display->deadline_ms = left >= 0 ? sg_now_ms() + left : 0;
	show->show(display, event);
}

void display_event(struct display *display, const json_t *event, const char *line)
{
	const char *name = json_string_value(json_object_get(event, "event"));

	if (display->mode == DISPLAY_JSON) {
		puts(line);
		fflush(stdout);
		return;
	}
	if (name == NULL)
		return;
	take_in(display, event);
	for (size_t i = 0; i < sizeof(shows) / sizeof(shows[0]); i++)
		if (!strcmp(shows[i].name, name))
			show(display, &shows[i], event);
	display_tick(display);
}

void display_remark(struct display *display, const char *sentence)
{
	hide_line(display);
	fflush(stdout);
	fprintf(stderr, "segue: %s\n", sentence);
	display_tick(display);
}

/* The end. */

static void say_output(struct display *display, const json_t *output)
{
	size_t i;
	json_t *line;

	if (json_array_size(output) == 0)
		return;
	puts("its last lines:");
	json_array_foreach(output, i, line)
	{
		char *text = strdup(json_is_string(line) ? json_string_value(line) : "");

		if (text == NULL)
			return;
		view_clean(text, display->utf8);
		printf("  | %s\n", text);
		free(text);
	}
}

void display_end(struct display *display, const json_t *end, const char *line)
{
	const char *message = json_string_value(json_object_get(end, "message"));
	bool good = json_integer_value(json_object_get(end, "exit")) == EXIT_DONE;
	char text[2048];

	display->doing = DISPLAY_NOTHING;
	hide_line(display);
	if (display->mode == DISPLAY_JSON) {
		puts(line);
		fflush(stdout);
		return;
	}
	say_output(display, json_object_get(end, "output"));
	fflush(stdout);
	if (good && message == NULL)
		return;
	snprintf(text, sizeof(text), "%s", message != NULL ? message : "it failed");
	view_clean(text, display->utf8);
	if (good)
		puts(text);
	else
		fprintf(stderr, "segue: %s\n", text);
	fflush(stdout);
}
