/* SPDX-License-Identifier: MIT */
/*
 * 'segue status' and 'segue list': short, aligned, each number beside its word, since who reads
 * them may have been woken up for it. A member that is missing is left out, never guessed.
 */
#include "segue/view.h"
#include "segue/display.h"
#include "segue/printable.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#define CELL_MAX  256
#define CELLS_MAX 8
#define ROWS_MAX  512
#define WITHOUT   "without a worker" /* in place of "serving", which would be half the truth */

/* Cells whose columns are made equally wide; the last of a row has no width. */
struct table {
	size_t rows;
	char cells[ROWS_MAX][CELLS_MAX][CELL_MAX];
	const char *colours[ROWS_MAX]; /* of the cell STATE */
};

enum cell {
	CELL_NAME,
	CELL_PID,
	CELL_STATE,
	CELL_AGE,
	CELL_KIND,
	CELL_CONNECTIONS,
	CELL_RESTARTS,
	CELL_REMARK
};

void view_span(char ret_text[static VIEW_SPAN_MAX], int64_t ms, bool fine)
{
	int64_t s = (ms < 0 ? 0 : ms) / 1000;

	if (s < 60 && fine)
		snprintf(ret_text, VIEW_SPAN_MAX, "%" PRId64 ".%" PRId64 " s", s,
		         (ms < 0 ? 0 : ms) % 1000 / 100);
	else if (s < 60)
		snprintf(ret_text, VIEW_SPAN_MAX, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(ret_text, VIEW_SPAN_MAX, "%" PRId64 " min %" PRId64 " s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(ret_text, VIEW_SPAN_MAX, "%" PRId64 " h %" PRId64 " min", s / 3600,
		         s % 3600 / 60);
	else
		snprintf(ret_text, VIEW_SPAN_MAX, "%" PRId64 " d %" PRId64 " h", s / 86400,
		         s % 86400 / 3600);
}

void view_clean(char *text, bool utf8)
{
	printable_make(text, strlen(text), false);
	for (char *at = text; !utf8 && *at != '\0'; at++)
		if ((unsigned char)*at >= 0x80)
			*at = '?';
}

int64_t view_number(const json_t *object, const char *name, int64_t otherwise)
{
	const json_t *value = json_object_get(object, name);

	return json_is_integer(value) ? (int64_t)json_integer_value(value) : otherwise;
}

static const char *word(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "";
}

/* Printing. */

__attribute__((format(printf, 2, 3))) static void line(const struct display *display,
                                                       const char *format, ...)
{
	char text[4096];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	view_clean(text, display->utf8);
	puts(text);
}

static const char *colour_of(const struct display *display, const char *state)
{
	static const struct {
		const char *state, *colour;
	} colours[] = {
		{ "serving", "\033[32m" },   { "starting", "\033[36m" },
		{ "ready", "\033[36m" },     { "checking", "\033[36m" },
		{ "upgrading", "\033[36m" }, { "draining", "\033[33m" },
		{ "stopping", "\033[33m" },  { "ending", "\033[31m" },
		{ "cutting", "\033[31m" },   { "killing", "\033[31m" },
		{ "waiting", "\033[31m" },   { "abandoning", "\033[31m" },
		{ "silent", "\033[31m" },    { WITHOUT, "\033[31m" },
	};

	for (size_t i = 0; display->colour && i < sizeof(colours) / sizeof(colours[0]); i++)
		if (!strcmp(colours[i].state, state))
			return colours[i].colour;
	return "";
}

/* How many columns a cleaned text takes. */
static size_t width_of(const char *text)
{
	mbstate_t state = { 0 };
	size_t width = 0;

	while (*text != '\0') {
		wchar_t wide;
		size_t len = mbrtowc(&wide, text, strlen(text), &state);

		if (len == 0 || len > strlen(text))
			return width + strlen(text);
		width += wcwidth(wide) > 0 ? (size_t)wcwidth(wide) : 0;
		text += len;
	}
	return width;
}

__attribute__((format(printf, 4, 5))) static void
put(const struct display *display, struct table *table, size_t cell, const char *format, ...)
{
	char *text = table->cells[table->rows][cell];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, CELL_MAX, format, arguments);
	va_end(arguments);
	view_clean(text, display->utf8);
}

static void measure(const struct table *table, size_t widths[static CELLS_MAX])
{
	memset(widths, 0, CELLS_MAX * sizeof(*widths));
	for (size_t row = 0; row < table->rows; row++)
		for (size_t cell = 0; cell < CELLS_MAX; cell++)
			if (width_of(table->cells[row][cell]) > widths[cell])
				widths[cell] = width_of(table->cells[row][cell]);
}

static void print_row(const struct display *display, const struct table *table, size_t row,
                      const size_t *widths)
{
	size_t last = 0, behind = 0;

	for (size_t cell = 0; cell < CELLS_MAX; cell++)
		if (*table->cells[row][cell] != '\0')
			last = cell;
	for (size_t cell = 0; cell <= last; cell++) {
		const char *text = table->cells[row][cell];
		const char *colour = cell == CELL_STATE ? colour_of(display, text) : "";

		if (widths[cell] == 0)
			continue;
		printf("%*s%s%s%s", (int)behind + 2, "", colour, text, *colour ? "\033[0m" : "");
		behind = widths[cell] - width_of(text);
	}
	putchar('\n');
}

/* 'segue status'. */

static void put_worker(const struct display *display, struct table *table, const json_t *worker)
{
	int64_t connections = view_number(worker, "connections", -1);
	int64_t restarts = view_number(worker, "restarts", 0);
	int64_t pid = view_number(worker, "pid", 0);
	int64_t again = view_number(worker, "restart_ms", -1);
	char age[VIEW_SPAN_MAX], span[VIEW_SPAN_MAX];

	if (table->rows == ROWS_MAX)
		return;
	view_span(age, view_number(worker, "age_ms", 0), false);
	put(display, table, CELL_NAME, "worker %" PRId64, view_number(worker, "worker", 0));
	if (pid > 0)
		put(display, table, CELL_PID, "pid %" PRId64, pid);
	else
		put(display, table, CELL_PID, "no pid");
	put(display, table, CELL_STATE, "%s", word(worker, "state"));
	put(display, table, CELL_AGE, "%s", age);
	put(display, table, CELL_KIND, "%s", word(worker, "kind"));
	if (connections >= 0)
		put(display, table, CELL_CONNECTIONS, "%" PRId64 " connection%s", connections,
		    connections == 1 ? "" : "s");
	if (restarts > 0)
		put(display, table, CELL_RESTARTS, "%" PRId64 " restart%s", restarts,
		    restarts == 1 ? "" : "s");
	view_span(span, again, true);
	if (again >= 0)
		put(display, table, CELL_REMARK, "%s; again in %s", word(worker, "last_exit"),
		    span);
	else if (*word(worker, "status") != '\0' || restarts == 0)
		put(display, table, CELL_REMARK, "%s", word(worker, "status"));
	else
		put(display, table, CELL_REMARK, "%s", word(worker, "last_exit"));
	table->rows++;
}

/* Enough of a hash to tell two apart; the size is shown beside it, so that of size and time the
 * time is left. */
static void shorten_identity(char *ret_text, size_t size, const char *identity)
{
	const char *time = strncmp(identity, "size:", 5) == 0 ? strchr(identity, ',') : NULL;

	if (time != NULL)
		snprintf(ret_text, size, "%s", time + 1);
	else
		snprintf(ret_text, size, "%.*s", (int)(strcspn(identity, ":") + 13), identity);
}

static void print_file(const struct display *display, const char *what, const json_t *file,
                       const char *remark)
{
	int64_t size = view_number(file, "size", 0);
	char identity[48];

	shorten_identity(identity, sizeof(identity), word(file, "identity"));
	line(display, "  %-10s %s%s, %" PRId64 " KiB%s%s", what, word(file, "path"), remark,
	     (size + 1023) / 1024, *identity != '\0' ? ", " : "", identity);
}

static void print_program(const struct display *display, const json_t *program)
{
	const json_t *script = json_object_get(program, "script_file");

	if (!json_is_object(program))
		return;
	/* Two versions of a script have the same interpreter. */
	if (json_is_object(script))
		print_file(display, "program", script, "");
	print_file(display, json_is_object(script) ? "run by" : "program", program,
	           !json_is_object(script) && json_is_true(json_object_get(program, "script"))
	                   ? " (runs a script)"
	                   : "");
}

static void print_command(const struct display *display, const json_t *command)
{
	char text[1024] = "";
	size_t i, len = 0;
	json_t *argument;

	json_array_foreach(command, i, argument)
	{
		int n = snprintf(text + len, sizeof(text) - len, "%s%s", i > 0 ? " " : "",
		                 json_is_string(argument) ? json_string_value(argument) : "");

		len += n > 0 ? (size_t)n : 0;
		if (len >= sizeof(text))
			break;
	}
	if (*text != '\0')
		line(display, "  command    %s%s", text, len >= sizeof(text) ? "..." : "");
}

static bool has_worker(const json_t *generation)
{
	json_t *worker;
	size_t i;

	json_array_foreach(json_object_get(generation, "workers"), i,
	                   worker) if (view_number(worker, "pid", 0) > 0) return true;
	return false;
}

static bool anybody_runs(const json_t *generations)
{
	json_t *generation;
	size_t i;

	json_array_foreach(generations, i, generation) if (has_worker(generation)) return true;
	return false;
}

/* One that serves may be without a worker for the moment, or because they crashed too often. */
static const char *state_of(const json_t *object, bool runs)
{
	const char *state = word(object, "state");

	return !runs && !strcmp(state, "serving") ? WITHOUT : state;
}

static void print_generation(const struct display *display, const json_t *generation,
                             const struct table *table, size_t *row, const size_t *widths)
{
	const char *state = state_of(generation, has_worker(generation));
	const char *colour = colour_of(display, state);
	int64_t left = view_number(generation, "deadline_ms", -1);
	char age[VIEW_SPAN_MAX], span[VIEW_SPAN_MAX];
	size_t workers = json_array_size(json_object_get(generation, "workers"));

	view_span(age, view_number(generation, "age_ms", 0), false);
	view_span(span, left + 999, false);
	printf("\ngeneration %" PRId64 "  %s%s%s%s for %s%s%s%s\n",
	       view_number(generation, "number", 0), colour, state, *colour ? "\033[0m" : "",
	       !strcmp(state, WITHOUT) ? ", serving" : "", age, left >= 0 ? ", " : "",
	       left >= 0 ? span : "", left >= 0 ? " left" : "");
	print_command(display, json_object_get(generation, "command"));
	print_program(display, json_object_get(generation, "program"));
	for (size_t i = 0; i < workers && *row < table->rows; i++)
		print_row(display, table, (*row)++, widths);
}

static void print_head(const struct display *display, const json_t *status)
{
	bool runs = anybody_runs(json_object_get(status, "generations"));
	const char *state = state_of(status, runs), *colour = colour_of(display, state);
	int64_t restarts = view_number(status, "restarts", 0);
	char age[VIEW_SPAN_MAX], up[VIEW_SPAN_MAX];
	json_t *listener;
	size_t i;

	view_span(age, view_number(status, "age_ms", 0), false);
	view_span(up, view_number(status, "uptime_ms", 0), false);
	printf("%s  %s%s%s%s for %s%s\n", word(status, "name"), colour, state,
	       *colour ? "\033[0m" : "", !strcmp(state, WITHOUT) ? ", serving" : "", age,
	       runs || !strcmp(state, WITHOUT) ? "" : ", no worker runs");
	line(display, "  supervisor pid %" PRId64 ", up %s, %" PRId64 " restart%s of workers",
	     view_number(status, "pid", 0), up, restarts, restarts == 1 ? "" : "s");
	json_array_foreach(json_object_get(status, "listeners"), i, listener) line(
		display, "  listener   %s  %s", word(listener, "name"), word(listener, "address"));
	if (*word(status, "config") != '\0')
		line(display, "  config     %s", word(status, "config"));
}

static void print_upgrades(const struct display *display, const json_t *status)
{
	const json_t *upgrade = json_object_get(status, "upgrade");
	const json_t *last = json_object_get(status, "last_upgrade");
	int64_t left = view_number(upgrade, "deadline_ms", -1);
	bool ago = json_object_get(last, "age_ms") != NULL;
	char span[VIEW_SPAN_MAX], end[VIEW_SPAN_MAX];

	if (json_is_object(upgrade)) {
		view_span(span, view_number(upgrade, "ms", 0), true);
		view_span(end, left + 999, false);
		line(display, "  upgrade    to generation %" PRId64 ": %s, %s so far%s%s%s",
		     view_number(upgrade, "generation", 0), word(upgrade, "state"), span,
		     left >= 0 ? ", " : "", left >= 0 ? end : "", left >= 0 ? " left" : "");
	}
	if (json_is_object(last)) {
		view_span(span, view_number(last, "age_ms", 0), false);
		line(display, "  last one   to generation %" PRId64 "%s%s%s: %s: %s",
		     view_number(last, "generation", 0), ago ? ", " : "", ago ? span : "",
		     ago ? " ago" : "", word(last, "outcome"), word(last, "message"));
	}
}

void display_status(struct display *display, const json_t *status)
{
	static struct table table;
	const json_t *generations = json_object_get(status, "generations");
	size_t widths[CELLS_MAX], i, k, row = 0;
	json_t *generation, *worker;

	if (display->mode == DISPLAY_JSON) {
		json_dumpf(status, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	table.rows = 0;
	json_array_foreach(generations, i, generation)
		json_array_foreach(json_object_get(generation, "workers"), k, worker)
			put_worker(display, &table, worker);
	measure(&table, widths);
	print_head(display, status);
	print_upgrades(display, status);
	json_array_foreach(generations, i, generation)
		print_generation(display, generation, &table, &row, widths);
}

/* 'segue list'. */

void display_list(struct display *display, const json_t *list)
{
	static struct table table;
	size_t widths[CELLS_MAX], i;
	json_t *service;

	table.rows = 0;
	json_array_foreach(list, i, service)
	{
		int64_t pid = view_number(service, "pid", 0);

		if (display->mode == DISPLAY_JSON) {
			json_dumpf(service, stdout, JSON_COMPACT);
			putchar('\n');
			continue;
		}
		if (table.rows == ROWS_MAX)
			break;
		put(display, &table, CELL_NAME, "%s", word(service, "name"));
		put(display, &table, CELL_PID, "%s%" PRId64, "pid ", pid);
		put(display, &table, CELL_STATE, "%s", word(service, "state"));
		put(display, &table, CELL_REMARK, "%s", word(service, "control"));
		table.rows++;
	}
	measure(&table, widths);
	for (size_t row = 0; row < table.rows; row++)
		print_row(display, &table, row, widths);
}
