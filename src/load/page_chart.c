/* SPDX-License-Identifier: MIT */
/*
 * The chart; see page_parts.h. Shapes are SVG that is stretched to whatever width there is, in
 * milliseconds of the run by 0..100 from the top; words are HTML over it, so that they keep their
 * size. Failures have a lane for each class, with marks that are never thinner than can be seen.
 */
#include "clock.h"
#include "figures.h"
#include "html.h"
#include "json.h"
#include "page_parts.h"
#include "report_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

struct chart {
	FILE *out;
	const struct load *load;
	const struct timeline *timeline;
	double step_ms, span_ms;
};

static void chart_init(struct chart *chart, FILE *out, const struct page *page)
{
	const struct load *load = page->load;
	const struct timeline *timeline = &load->client.tally.timeline;

	*chart = (struct chart){
		.out = out,
		.load = load,
		.timeline = timeline,
		.step_ms = (double)timeline->width_ns / NS_PER_MS,
	};
	chart->span_ms = figures_elapsed_ms(load);
	/* A loss may be the last that happened, and a run may have ended before it began. */
	if (timeline->count && chart->span_ms <= (double)(timeline->count - 1) * chart->step_ms)
		chart->span_ms = (double)timeline->count * chart->step_ms;
	if (chart->span_ms < 1)
		chart->span_ms = 1;
}

static double step_begin(const struct chart *chart, size_t step)
{
	return (double)step * chart->step_ms;
}

static double step_end(const struct chart *chart, size_t step)
{
	return fmin((double)(step + 1) * chart->step_ms, chart->span_ms);
}

static double percent(const struct chart *chart, double ms)
{
	return fmin(100, fmax(0, ms / chart->span_ms * 100));
}

static void open_plot(const struct chart *chart, const char *kind)
{
	fprintf(chart->out,
	        "<div class=\"plot %s\"><svg viewBox=\"0 0 %.0f 100\" preserveAspectRatio=\"none\" "
	        "aria-hidden=\"true\">\n",
	        kind, chart->span_ms);
}

static void close_plot(const struct chart *chart)
{
	fputs("</div>\n", chart->out);
}

static void grid_line(const struct chart *chart, double y)
{
	fprintf(chart->out, "<path class=\"grid\" d=\"M0 %.1fH%.0f\"/>\n", y, chart->span_ms);
}

__attribute__((format(printf, 3, 4))) static void scale(const struct chart *chart, double y,
                                                        const char *format, ...)
{
	va_list arguments;

	fprintf(chart->out, "<span class=\"scale\" style=\"top:%.1f%%\">", y);
	va_start(arguments, format);
	vfprintf(chart->out, format, arguments);
	va_end(arguments);
	fputs("</span>\n", chart->out);
}

/* A round number, at least @value. */
static double round_up(double value, const double *steps, size_t count)
{
	double power = pow(10, floor(log10(fmax(value, 1e-9))));

	for (size_t i = 0; i < count; i++) {
		if (value <= steps[i] * power)
			return steps[i] * power;
	}
	return 10 * power;
}

/* The end of an axis, whose half should be round too. */
static double round_rate(double value)
{
	static const double steps[] = { 1, 1.2, 1.6, 2, 3, 4, 5, 6, 8 };

	return round_up(value, steps, sizeof(steps) / sizeof(steps[0]));
}

static double round_time(double value)
{
	static const double steps[] = { 1, 2, 5 };

	return round_up(value, steps, sizeof(steps) / sizeof(steps[0]));
}

/* The last step is seldom a whole one; a fraction of one says nothing of a rate. */
static double rate_of(const struct chart *chart, size_t step)
{
	double ms = step_end(chart, step) - step_begin(chart, step);

	return figures_per_second(chart->timeline->steps[step].outcomes[OUTCOME_OK],
	                          fmax(ms, chart->step_ms / 2));
}

static void print_rates(const struct chart *chart, double top, const char *kind, bool closed)
{
	fprintf(chart->out, "<path class=\"%s\" d=\"M0 100", kind);
	for (size_t i = 0; i < chart->timeline->count; i++)
		fprintf(chart->out, "V%.1fH%.0f", 100 - rate_of(chart, i) / top * 100,
		        step_end(chart, i));
	fprintf(chart->out, "%s\"/>\n", closed ? "V100Z" : "");
}

static void print_requests(const struct chart *chart)
{
	double top = 1;

	for (size_t i = 0; i < chart->timeline->count; i++)
		top = fmax(top, rate_of(chart, i));
	top = fmax(2, round_rate(top * 1.02));
	fputs("<div class=\"panel\"><h3><span>Requests answered</span><span class=\"key\">per "
	      "second</span></h3>\n",
	      chart->out);
	open_plot(chart, "");
	grid_line(chart, 0);
	grid_line(chart, 50);
	print_rates(chart, top, "area", true);
	print_rates(chart, top, "edge", false);
	fputs("</svg>\n", chart->out);
	scale(chart, 0, "%s", figure_count((uint64_t)top).text);
	scale(chart, 50, "%s", figure_count((uint64_t)(top / 2)).text);
	close_plot(chart);
	fputs("</div>\n", chart->out);
}

/* What a lane of failures shows: an outcome, or a kind of close. */
struct lane {
	const char *key, *meaning;
	bool is_close;
	size_t index;
};

static uint64_t lane_count(const struct lane *lane, const struct timeline_step *step)
{
	return lane->is_close ? step->closes[lane->index] : step->outcomes[lane->index];
}

#define MAX_LANES (OUTCOMES + CLOSES)

static size_t find_lanes(const struct load *load, struct lane *lanes)
{
	const struct tally *tally = &load->client.tally;
	size_t count = 0;

	for (size_t i = OUTCOME_OK + 1; i < OUTCOMES; i++) {
		if (tally_sum(tally, (enum outcome)i))
			lanes[count++] = (struct lane){ outcome_infos[i].key,
				                        outcome_infos[i].meaning, false, i };
	}
	for (size_t i = CLOSE_UNANNOUNCED; i < CLOSES; i++) {
		if (tally->closes[i])
			lanes[count++] = (struct lane){ close_infos[i].key, close_infos[i].meaning,
				                        true, i };
	}
	return count;
}

/* A mark is as wide as its stroke; its height is logarithmic, so that a single loss can be seen. */
static void print_lane(const struct chart *chart, const struct lane *lane, uint64_t top)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < chart->timeline->count; i++)
		sum += lane_count(lane, &chart->timeline->steps[i]);
	fprintf(chart->out,
	        "<div class=\"panel lane-panel\"><h3><span class=\"wrong\">\xe2\x9c\x95 %s "
	        "%s</span><span "
	        "class=\"key\">%s</span></h3>\n",
	        figure_count(sum).text, lane->key, lane->meaning);
	open_plot(chart, "lane");
	fputs("<path class=\"failure\" d=\"", chart->out);
	for (size_t i = 0; i < chart->timeline->count; i++) {
		uint64_t count = lane_count(lane, &chart->timeline->steps[i]);
		double share = log1p((double)count) / log1p((double)top);

		if (count)
			fprintf(chart->out, "M%.0f 100V%.0f",
			        (step_begin(chart, i) + step_end(chart, i)) / 2, 55 - share * 55);
	}
	fputs("\"/></svg>\n", chart->out);
	close_plot(chart);
	fputs("</div>\n", chart->out);
}

static void print_calm(const struct chart *chart)
{
	fputs("<div class=\"panel\"><h3><span>Failures</span></h3><div class=\"plot "
	      "calm\"><p><span>"
	      "\xe2\x9c\x93 no request was lost, no connection was closed</span></p></div></div>\n",
	      chart->out);
}

static void print_failures(const struct chart *chart)
{
	struct lane lanes[MAX_LANES];
	size_t count = find_lanes(chart->load, lanes);
	uint64_t top = 1;

	if (!count)
		print_calm(chart);
	for (size_t i = 0; i < chart->timeline->count; i++) {
		for (size_t lane = 0; lane < count; lane++) {
			uint64_t here = lane_count(&lanes[lane], &chart->timeline->steps[i]);

			if (here > top)
				top = here;
		}
	}
	for (size_t lane = 0; lane < count; lane++)
		print_lane(chart, &lanes[lane], top);
}

/* The decades that the latencies of the run need, as powers of ten of a millisecond. */
static void find_decades(const struct chart *chart, int *ret_low, int *ret_high)
{
	double low = 1e9, high = 1e-3;

	for (size_t i = 0; i < chart->timeline->count; i++) {
		const struct timeline_step *step = &chart->timeline->steps[i];

		if (!step->answers)
			continue;
		low = fmin(low, (double)timeline_latency(step, 50000) / NS_PER_MS);
		high = fmax(high, (double)step->max_ns / NS_PER_MS);
	}
	*ret_high = (int)ceil(log10(high));
	*ret_low = (int)floor(log10(fmax(fmin(low, high), 1e-3) * 0.999));
	if (*ret_low >= *ret_high)
		*ret_low = *ret_high - 1;
}

static double latency_y(uint64_t ns, int low, int high)
{
	double place = log10(fmax((double)ns / NS_PER_MS, 1e-6));

	return 100 - fmin(100, fmax(1, (place - low) / (high - low) * 100));
}

/* Where there was no answer there is a gap. */
static void print_latencies(const struct chart *chart, const char *kind, unsigned int per_100k,
                            int low, int high)
{
	fprintf(chart->out, "<path class=\"latency %s\" d=\"", kind);
	for (size_t i = 0; i < chart->timeline->count; i++) {
		const struct timeline_step *step = &chart->timeline->steps[i];
		bool begins = i == 0 || !chart->timeline->steps[i - 1].answers;
		bool ends =
			i + 1 == chart->timeline->count || !chart->timeline->steps[i + 1].answers;

		if (!step->answers)
			continue;
		if (begins)
			fprintf(chart->out, "M%.0f 100", step_begin(chart, i));
		fprintf(chart->out, "V%.1fH%.0f",
		        latency_y(timeline_latency(step, per_100k), low, high), step_end(chart, i));
		if (ends)
			fputs("V100Z", chart->out);
	}
	fputs("\"/>\n", chart->out);
}

static void scale_decade(const struct chart *chart, double y, int decade)
{
	double ms = pow(10, decade);

	if (decade >= 3)
		scale(chart, y, "%.0f s", ms / 1000);
	else
		scale(chart, y, "%.*f ms", decade < 0 ? -decade : 0, ms);
}

static void print_latency(const struct chart *chart)
{
	int low, high;

	find_decades(chart, &low, &high);
	fputs("<div class=\"panel\"><h3><span>Time to answer</span>"
	      "<span class=\"key\"><i class=\"max\"></i>slowest</span>"
	      "<span class=\"key\"><i class=\"p99\"></i>99 of 100 within</span>"
	      "<span class=\"key\"><i></i>median</span></h3>\n",
	      chart->out);
	open_plot(chart, "tall");
	for (int decade = low; decade <= high; decade++)
		grid_line(chart, 100 - (double)(decade - low) / (high - low) * 100);
	print_latencies(chart, "max", 100000, low, high);
	print_latencies(chart, "p99", 99000, low, high);
	print_latencies(chart, "p50", 50000, low, high);
	fputs("</svg>\n", chart->out);
	for (int decade = low + 1; decade <= high; decade++)
		scale_decade(chart, 100 - (double)(decade - low) / (high - low) * 100, decade);
	close_plot(chart);
	fputs("</div>\n", chart->out);
}

static bool is_faulty(const struct timeline_step *step)
{
	return timeline_lost(step) || step->closes[CLOSE_UNANNOUNCED] ||
	       step->closes[CLOSE_UNSOLICITED];
}

/* Runs of steps in which something was lost, hatched through all panels. */
static void print_faults(const struct chart *chart)
{
	const struct timeline *timeline = chart->timeline;

	for (size_t i = 0; i < timeline->count; i++) {
		size_t first = i;

		while (i < timeline->count && is_faulty(&timeline->steps[i]))
			i++;
		if (i > first)
			fprintf(chart->out,
			        "<i class=\"fault\" style=\"left:%.3f%%;width:%.3f%%\"></i>\n",
			        percent(chart, step_begin(chart, first)),
			        percent(chart, step_end(chart, i - 1)) -
			                percent(chart, step_begin(chart, first)));
	}
}

static bool is_lossy(const struct restart *restart)
{
	return restart->failed || window_lost(&restart->window) || window_closed(&restart->window);
}

/*
 * Which restarts have a flag with their number: all of them where there is room, else every so
 * many, and those that lost something, as long as these are few.
 */
struct flags {
	size_t every, every_narrow;
	bool all_lossy, all_lossy_narrow;
};

#define FLAGS_WIDE   40
#define FLAGS_NARROW 10

static size_t stride(size_t count, size_t room)
{
	return count <= room ? 1 : (size_t)round_time((double)count / (double)room);
}

static void choose_flags(const struct restarts *restarts, struct flags *ret_flags)
{
	size_t count = restarts->begun, lossy = 0;

	for (size_t i = 1; i <= count; i++)
		lossy += is_lossy(&restarts->list[i]);
	*ret_flags = (struct flags){
		/* Three digits need more room than two. */
		.every = stride(count, count < 100 ? FLAGS_WIDE : FLAGS_WIDE / 2),
		.every_narrow = stride(count, FLAGS_NARROW),
		.all_lossy = lossy <= FLAGS_WIDE / 2,
		.all_lossy_narrow = lossy <= FLAGS_NARROW,
	};
}

/* A dashed line through all panels, and the flag over it. */
static void print_mark(const struct chart *chart, const struct flags *flags, size_t number,
                       double left)
{
	bool lossy = is_lossy(&chart->load->restarts.list[number]);
	bool wide = number % flags->every == 0 || (lossy && flags->all_lossy);
	bool narrow = number % flags->every_narrow == 0 || (lossy && flags->all_lossy_narrow);
	bool dense = flags->every > 1;

	fprintf(chart->out, "<i class=\"restart%s\" style=\"left:%.3f%%\"></i>\n",
	        dense && !narrow ? " minor" : "", left);
	if (wide || narrow)
		fprintf(chart->out, "<b class=\"flag%s%s\" style=\"left:%.3f%%\">%s%zu</b>\n",
		        lossy ? " lossy" : "", narrow ? "" : " minor", left,
		        lossy ? "\xe2\x9c\x95" : "", number);
}

static void print_through(const struct chart *chart)
{
	const struct restarts *restarts = &chart->load->restarts;
	struct flags flags;

	choose_flags(restarts, &flags);
	fprintf(chart->out, "<div class=\"through%s\" aria-hidden=\"true\">\n",
	        flags.every > 1 ? " dense" : "");
	print_faults(chart);
	for (size_t i = 1; restarts_wanted(restarts) && i <= restarts->begun; i++) {
		uint64_t begin_ns = restarts->list[i].window.begin_ns;
		double left = percent(chart, figures_since_start_ms(chart->load, begin_ns));

		print_mark(chart, &flags, i, left);
	}
	fputs("</div>\n", chart->out);
}

static void print_time(const struct chart *chart)
{
	double every = round_time(chart->span_ms / 12);

	fputs("<div class=\"time\" aria-hidden=\"true\">", chart->out);
	for (size_t i = 0; (double)i * every <= chart->span_ms - every * 0.45; i++) {
		double at = (double)i * every;

		fprintf(chart->out, "<span class=\"%s\" style=\"left:%.3f%%\">%g s</span>",
		        i % 3 || at > chart->span_ms * 0.8 ? "minor" : "", percent(chart, at),
		        at / 1000);
	}
	fprintf(chart->out, "<span class=\"last\" style=\"left:100%%\">%.1f s</span></div>\n",
	        chart->span_ms / 1000);
}

void page_chart(FILE *out, const struct page *page)
{
	struct chart chart;

	chart_init(&chart, out, page);
	fputs("<figure><div class=\"chart\" role=\"group\" aria-label=\"The run in steps\">\n",
	      out);
	print_through(&chart);
	print_requests(&chart);
	print_failures(&chart);
	print_latency(&chart);
	fputs("</div>\n", out);
	print_time(&chart);
	fprintf(out, "<figcaption>In steps of %g ms.", chart.step_ms);
	if (restarts_wanted(&page->load->restarts))
		fputs(" Dashed lines are restarts, at the start of the command; a cross on the "
		      "number says that this one lost something.",
		      out);
	fputs(" Hatched: requests were lost or connections closed. Time to answer is on a "
	      "logarithmic scale; a gap in it is a time without an answer.</figcaption></figure>\n",
	      out);
}

/* The script's copy of the timeline. */

static void put_steps(struct json *json, const char *key, const struct timeline *timeline,
                      const struct lane *lane)
{
	json_open(json, key, '[');
	for (size_t i = 0; i < timeline->count; i++)
		json_number(json, NULL, lane_count(lane, &timeline->steps[i]));
	json_close(json, ']');
}

void page_chart_data(FILE *out, const struct page *page)
{
	static const struct lane ok = { .index = OUTCOME_OK };
	const struct restarts *restarts = &page->load->restarts;
	struct json json = { .out = out };
	struct lane lanes[MAX_LANES];
	size_t count = find_lanes(page->load, lanes);
	struct chart chart;

	chart_init(&chart, out, page);
	json_open(&json, NULL, '{');
	json_decimal(&json, "step_ms", chart.step_ms);
	json_decimal(&json, "span_ms", chart.span_ms);
	json_number(&json, "steps", chart.timeline->count);
	put_steps(&json, "ok", chart.timeline, &ok);
	json_open(&json, "failures", '{');
	for (size_t i = 0; i < count; i++)
		put_steps(&json, lanes[i].key, chart.timeline, &lanes[i]);
	json_close(&json, '}');
	report_json_latencies(&json, chart.timeline);
	json_open(&json, "restarts", '[');
	for (size_t i = 1; restarts_wanted(restarts) && i <= restarts->begun; i++)
		json_decimal(&json, NULL,
		             figures_since_start_ms(page->load, restarts->list[i].window.begin_ns));
	json_close(&json, ']');
	json_close(&json, '}');
}
