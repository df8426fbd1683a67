/* SPDX-License-Identifier: MIT */
/*
 * Draws; see display.h. A line is never wider than the terminal, so that going up by their number
 * leads to the first one; after a resize the terminal may have wrapped them, which is reckoned
 * with.
 */
#include "display.h"
#include "clock.h"
#include "figures.h"

#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LABEL_CELLS 10
#define MIN_CELLS   40  /* of a terminal; below, only the sums are shown */
#define MAX_CELLS   160 /* that are used */
#define LEVELS      8

#define RED    "\033[31;1m"
#define GREEN  "\033[32m"
#define DIM    "\033[2m"
#define NORMAL "\033[0m"

void display_init(struct display *display, const struct options *options)
{
	const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");

	*display = (struct display){ 0 };
	if (options->json || !isatty(STDOUT_FILENO) || !term || strcmp(term, "dumb") == 0)
		return;
	setlocale(LC_CTYPE, "");
	display->active = true;
	display->unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	display->colour = !no_color || !no_color[0];
}

static unsigned int terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return 80;
	return size.ws_col;
}

/* What is printed at a time, with the number of cells of its lines. */
struct frame {
	FILE *out;
	const struct display *display;
	const struct load *load;
	unsigned int cells, sizes[DISPLAY_LINES];
	size_t count;
	size_t steps; /* of the timeline in a row */
};

static void colour(const struct frame *frame, const char *code)
{
	if (frame->display->colour)
		fputs(code, frame->out);
}

/* Words, cut where the line ends. */
__attribute__((format(printf, 2, 3))) static void words(struct frame *frame, const char *format,
                                                        ...)
{
	unsigned int *size = &frame->sizes[frame->count];
	char text[MAX_CELLS + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, frame->cells - *size + 1, format, arguments);
	va_end(arguments);
	*size += (unsigned int)strlen(text);
	fputs(text, frame->out);
}

static void cell(struct frame *frame, const char *text)
{
	fputs(text, frame->out);
	frame->sizes[frame->count]++;
}

static void end_line(struct frame *frame)
{
	fputs("\033[K\n", frame->out);
	frame->count++;
}

/* How long the run will take as far as it is known, so that the picture fills from the left. */
static uint64_t expected_ns(const struct load *load)
{
	const struct options *options = load->options;
	uint64_t so_far_ns =
		load->client.tally.timeline.count * load->client.tally.timeline.width_ns;
	uint64_t planned_ns = options->duration_ns;

	if (options->restart)
		planned_ns = (options->count + 1) * options->every_ns;
	return planned_ns > so_far_ns ? planned_ns : so_far_ns;
}

static unsigned int row_cells(const struct frame *frame)
{
	return frame->cells - LABEL_CELLS;
}

/* How many steps of the timeline the row is about. */
static void scale_rows(struct frame *frame)
{
	uint64_t width_ns = frame->load->client.tally.timeline.width_ns;

	frame->steps = (expected_ns(frame->load) + width_ns - 1) / width_ns;
	if (frame->steps == 0)
		frame->steps = 1;
}

/* What a cell of a row is about. */
struct part {
	uint64_t ok, failed, slowest_ns;
	bool begun;
};

static struct part part_of(const struct frame *frame, unsigned int cell_at)
{
	const struct timeline *timeline = &frame->load->client.tally.timeline;
	size_t begin = cell_at * frame->steps / row_cells(frame);
	size_t end = (cell_at + 1) * frame->steps / row_cells(frame);
	struct part part = { 0 };

	for (size_t at = begin; at < end || at == begin; at++) {
		const struct timeline_step *step = &timeline->steps[at];

		if (at >= timeline->count)
			break;
		part.begun = true;
		part.ok += step->outcomes[OUTCOME_OK];
		part.failed += timeline_lost(step) + step->closes[CLOSE_UNANNOUNCED] +
		               step->closes[CLOSE_UNSOLICITED];
		if (step->max_ns > part.slowest_ns)
			part.slowest_ns = step->max_ns;
	}
	return part;
}

/* 0 is nothing at all. */
static void level(struct frame *frame, double share)
{
	static const char *const blocks[] = { " ",
		                              "\xe2\x96\x81",
		                              "\xe2\x96\x82",
		                              "\xe2\x96\x83",
		                              "\xe2\x96\x84",
		                              "\xe2\x96\x85",
		                              "\xe2\x96\x86",
		                              "\xe2\x96\x87",
		                              "\xe2\x96\x88" };
	static const char *const signs[] = { " ", "_", ".", ":", "-", "=", "+", "*", "#" };
	int at = share <= 0 ? 0 : 1 + (int)(share * (LEVELS - 1) + 0.5);

	if (at > LEVELS)
		at = LEVELS;
	cell(frame, frame->display->unicode ? blocks[at] : signs[at]);
}

static void label(struct frame *frame, const char *text)
{
	colour(frame, DIM);
	words(frame, "%-*s", LABEL_CELLS, text);
	colour(frame, NORMAL);
}

static void draw_head(struct frame *frame)
{
	const struct load *load = frame->load;
	const struct options *options = load->options;

	words(frame, "%.1f s", figures_since_start_ms(load, clock_now_ns()) / 1000);
	if (options->restart || options->duration_ns)
		words(frame, " of %.0f s", (double)expected_ns(load) / NS_PER_S);
	if (options->restart)
		words(frame, ", restart %zu of %" PRIu64, load->restarts.begun, options->count);
	words(frame, ", %s answers per second", figure_count(frame->display->rate).text);
	if (load->stopping)
		words(frame, ", ending");
	end_line(frame);
}

/* Numbers where the restarts began; where there is no room for one, a stroke. */
static void draw_restarts(struct frame *frame)
{
	const struct restarts *restarts = &frame->load->restarts;
	double row_ns = (double)(frame->steps * frame->load->client.tally.timeline.width_ns);
	char row[MAX_CELLS + 1];
	unsigned int free_from = 0;

	memset(row, ' ', sizeof(row));
	for (size_t i = 1; i <= restarts->begun; i++) {
		uint64_t since_ns = restarts->list[i].window.begin_ns - frame->load->start_ns;
		uint64_t at = (uint64_t)((double)since_ns / row_ns * row_cells(frame));
		char number[24];
		int size = snprintf(number, sizeof(number), "%zu", i);

		if (at >= row_cells(frame))
			continue;
		if (at < free_from || at + (unsigned int)size > row_cells(frame)) {
			row[at] = row[at] == ' ' ? '|' : row[at];
			continue;
		}
		memcpy(&row[at], number, (size_t)size);
		free_from = (unsigned int)at + (unsigned int)size + 1;
	}
	row[row_cells(frame)] = '\0';
	label(frame, "restarts");
	words(frame, "%s", row);
	end_line(frame);
}

static void draw_answers(struct frame *frame)
{
	uint64_t top = 1;

	for (unsigned int i = 0; i < row_cells(frame); i++) {
		struct part part = part_of(frame, i);

		if (part.ok > top)
			top = part.ok;
	}
	label(frame, "answers");
	for (unsigned int i = 0; i < row_cells(frame); i++)
		level(frame, (double)part_of(frame, i).ok / (double)top);
	end_line(frame);
}

static void draw_failures(struct frame *frame)
{
	label(frame, "failures");
	for (unsigned int i = 0; i < row_cells(frame); i++) {
		struct part part = part_of(frame, i);

		if (part.failed) {
			colour(frame, RED);
			cell(frame, frame->display->unicode ? "\xe2\x9c\x95" : "X");
			colour(frame, NORMAL);
		} else {
			cell(frame, !part.begun ? " " : frame->display->unicode ? "\xc2\xb7" : ".");
		}
	}
	end_line(frame);
}

/* From 0.1 ms to 10 s, by powers of ten. */
static void draw_slowest(struct frame *frame)
{
	label(frame, "slowest");
	for (unsigned int i = 0; i < row_cells(frame); i++) {
		double ms = (double)part_of(frame, i).slowest_ns / NS_PER_MS;

		level(frame, ms > 0 ? fmax(0.001, (log10(ms) + 1) / 5) : 0);
	}
	end_line(frame);
}

static void draw_sums(struct frame *frame)
{
	const struct tally *tally = &frame->load->client.tally;
	uint64_t losses = figures_losses(frame->load);

	words(frame, "%s requests, ", figure_count(tally->finished).text);
	colour(frame, losses ? RED : GREEN);
	words(frame, "%s lost, ", figure_count(tally->lost).text);
	words(frame, "%s connections closed", figure_count(figures_closed(tally)).text);
	colour(frame, NORMAL);
	words(frame, ", slowest %s", figure_latency(figures_slowest_ns(frame->load)).text);
	end_line(frame);
}

static void draw_lines(struct frame *frame)
{
	if (frame->cells >= MIN_CELLS) {
		scale_rows(frame);
		draw_head(frame);
		if (restarts_wanted(&frame->load->restarts))
			draw_restarts(frame);
		draw_answers(frame);
		draw_failures(frame);
		draw_slowest(frame);
	}
	draw_sums(frame);
}

/* Back to the first line of what stands there; what a narrower terminal has wrapped is longer. */
static void go_up(const struct display *display, FILE *out, unsigned int columns)
{
	size_t lines = 0;

	for (size_t i = 0; i < display->drawn; i++)
		lines += display->sizes[i] ? (display->sizes[i] + columns - 1) / columns : 1;
	if (lines)
		fprintf(out, "\033[%zuA", lines);
	fputs("\r", out);
	if (columns != display->columns)
		fputs("\033[J", out);
}

static void measure_rate(struct display *display, const struct load *load)
{
	uint64_t now_ns = clock_now_ns(), ok = load->client.tally.ok;
	uint64_t since_ns = now_ns - (display->last_ns ? display->last_ns : load->start_ns);

	if (since_ns < NS_PER_S && display->last_ns)
		return;
	display->rate =
		(uint64_t)figures_per_second(ok - display->last_ok, (double)since_ns / NS_PER_MS);
	display->last_ns = now_ns;
	display->last_ok = ok;
}

static void put_at_once(const char *text, size_t size)
{
	fflush(stdout);
	while (size) {
		ssize_t written = write(STDOUT_FILENO, text, size);

		if (written < 0)
			return;
		text += written;
		size -= (size_t)written;
	}
}

void display_draw(struct display *display, const struct load *load)
{
	unsigned int columns = terminal_columns();
	struct frame frame = { .display = display, .load = load };
	char *text = NULL;
	size_t size = 0;

	if (!display->active)
		return;
	measure_rate(display, load);
	/* The last column stays free: some terminals wrap as soon as it is written to. */
	frame.cells = columns > MAX_CELLS ? MAX_CELLS : columns > 1 ? columns - 1 : 1;
	frame.out = open_memstream(&text, &size);
	if (!frame.out)
		return;
	go_up(display, frame.out, columns);
	draw_lines(&frame);
	/* A frame of fewer lines than the last one leaves nothing of that. */
	fputs("\033[J", frame.out);
	if (fclose(frame.out) == 0) {
		put_at_once(text, size);
		display->columns = columns;
		display->drawn = frame.count;
		memcpy(display->sizes, frame.sizes, sizeof(frame.sizes));
	}
	free(text);
}

void display_clear(struct display *display)
{
	if (!display->drawn)
		return;
	go_up(display, stdout, terminal_columns());
	fputs("\033[J", stdout);
	fflush(stdout);
	display->drawn = 0;
}
