/* SPDX-License-Identifier: MIT */
/*
 * The page; see page.h. page/page.html is its frame: what stands between double braces there is
 * the name of a part in the table below.
 */
#include "page.h"
#include "clock.h"
#include "figures.h"
#include "html.h"
#include "page_parts.h"

#include <inttypes.h>
#include <string.h>

/* page/, by embed.py. */
extern const char page_html[], page_css[], page_js[];

static bool is_bad(const struct page *page)
{
	const struct load *load = page->load;
	const struct tally *tally = &load->client.tally;

	return figures_losses(load) || load->restarts.failed || !tally->finished ||
	       tally_sum(tally, OUTCOME_OWN_LIMIT);
}

static void put_css(FILE *out, const struct page *page)
{
	fputs(page_css, out);
}

static void put_js(FILE *out, const struct page *page)
{
	fputs(page_js, out);
}

static void put_tone(FILE *out, const struct page *page)
{
	fputs(is_bad(page) ? "bad" : "good", out);
}

static void put_headline(FILE *out, const struct page *page)
{
	const struct load *load = page->load;
	const struct tally *tally = &load->client.tally;
	uint64_t closed = figures_closed(tally);

	if (tally_sum(tally, OUTCOME_OWN_LIMIT))
		fputs("This machine was at its limit", out);
	else if (tally->lost)
		fprintf(out, "%s request%s lost", figure_count(tally->lost).text,
		        tally->lost == 1 ? "" : "s");
	else if (load->restarts.failed)
		fprintf(out, "Restart %zu failed", load->restarts.begun);
	else if (closed)
		fprintf(out, "%s connection%s closed", figure_count(closed).text,
		        closed == 1 ? "" : "s");
	else
		fputs(tally->finished ? "Nothing was lost" : "Nothing was measured", out);
}

static void put_title(FILE *out, const struct page *page)
{
	put_headline(out, page);
	fputs(": ", out);
	html_text(out, page->load->options->url_text);
}

static void put_target(FILE *out, const struct page *page)
{
	const char *command = page->load->options->restart;

	html_text(out, page->load->options->url_text);
	if (!command)
		return;
	fputs(" under <code>", out);
	html_text(out, command);
	fputs("</code>", out);
}

static void put_mark(FILE *out, const struct page *page)
{
	const char *good = "M6 12.5l4 4 8-9";
	const char *bad = "M7 7l10 10M17 7L7 17";

	fprintf(out,
	        "<svg viewBox=\"0 0 24 24\" role=\"img\" aria-label=\"%s\"><circle cx=\"12\" "
	        "cy=\"12\" r=\"12\" fill=\"currentColor\"/><path d=\"%s\" fill=\"none\" "
	        "stroke=\"var(--card)\" stroke-width=\"2.6\" stroke-linecap=\"round\" "
	        "stroke-linejoin=\"round\"/></svg>",
	        is_bad(page) ? "bad" : "good", is_bad(page) ? bad : good);
}

static void put_sentence(FILE *out, const struct page *page)
{
	char verdict[256];

	figures_verdict(page->load, verdict, sizeof(verdict));
	html_text(out, verdict);
	fputs(".", out);
}

static void put_notes(FILE *out, const struct page *page)
{
	const struct load *load = page->load;
	const struct restarts *restarts = &load->restarts;

	if (restarts->failed) {
		fprintf(out, "<p class=\"note\">Restart %zu failed: ", restarts->begun);
		html_text(out, restarts->list[restarts->begun].reason);
		fputs(".</p>\n", out);
	}
	if (tally_sum(&load->client.tally, OUTCOME_OWN_LIMIT))
		fputs("<p class=\"note\">The machine that measured ran out of descriptors, local "
		      "ports or memory: what was lost is not the server's doing alone.</p>\n",
		      out);
	if (load->interrupted)
		fputs("<p class=\"note plain\">Interrupted before its time.</p>\n", out);
	if (load->options->max_lost && figures_losses(load) <= load->options->max_lost &&
	    figures_losses(load))
		fprintf(out,
		        "<p class=\"note plain\">Not more than <code>--max-lost %" PRIu64
		        "</code> allows.</p>\n",
		        load->options->max_lost);
}

static void put_tile(FILE *out, const char *name, bool wrong, const char *value, const char *more)
{
	fprintf(out, "<div%s><dt>%s</dt><dd>%s%s", wrong ? " class=\"wrong\"" : "", name,
	        wrong ? "\xe2\x9c\x95 " : "", value);
	if (more[0])
		fprintf(out, "<small>%s</small>", more);
	fputs("</dd></div>\n", out);
}

static void put_before(char *text, size_t size, struct figure before)
{
	snprintf(text, size, "%s before the first restart", before.text);
}

/* The longest pause of the restarts beside that of the time before them. */
static void put_restart_tiles(FILE *out, const struct load *load)
{
	const struct restarts *restarts = &load->restarts;
	uint64_t slowest_ns = 0, pause_ns = 0;
	char more[64];

	for (size_t i = 1; i <= restarts->begun; i++) {
		const struct window *window = &restarts->list[i].window;

		if (window->slowest_ns > slowest_ns)
			slowest_ns = window->slowest_ns;
		if (window->pause_ns > pause_ns)
			pause_ns = window->pause_ns;
	}
	put_before(more, sizeof(more), figure_latency(restarts->list[0].window.slowest_ns));
	put_tile(out, "Slowest answer", false, figure_latency(slowest_ns).text, more);
	put_before(more, sizeof(more), figure_duration(restarts->list[0].window.pause_ns));
	put_tile(out, "Longest pause", false, figure_duration(pause_ns).text, more);
}

static void put_tiles(FILE *out, const struct page *page)
{
	const struct load *load = page->load;
	const struct tally *tally = &load->client.tally;
	const struct restarts *restarts = &load->restarts;
	double elapsed_ms = figures_elapsed_ms(load);
	uint64_t per_second = (uint64_t)figures_per_second(tally->ok, elapsed_ms);
	char more[64];

	if (restarts_wanted(restarts)) {
		snprintf(more, sizeof(more), "of %" PRIu64 ", one every %g s", load->options->count,
		         (double)load->options->every_ns / NS_PER_S);
		put_tile(out, "Restarts", restarts->failed, figure_count(restarts->begun).text,
		         more);
	}
	snprintf(more, sizeof(more), "%s answers per second", figure_count(per_second).text);
	put_tile(out, "Requests", false, figure_count(tally->finished).text, more);
	put_tile(out, "Requests lost", tally->lost, figure_count(tally->lost).text, "");
	put_tile(out, "Connections closed", figures_closed(tally),
	         figure_count(figures_closed(tally)).text, "while idle, unannounced");
	if (restarts_wanted(restarts) && restarts->begun)
		put_restart_tiles(out, load);
	else
		put_tile(out, "Slowest answer", false,
		         figure_latency(figures_slowest_ns(load)).text, "");
}

static void put_footer(FILE *out, const struct page *page)
{
	fputs("Made by segue-load " SEGUE_VERSION ", which never sends a request again and counts "
	      "what becomes of each. This page needs no network and can be passed on as it is.",
	      out);
}

static const struct {
	const char *name;
	void (*put)(FILE *out, const struct page *page);
} parts[] = {
	{ "css", put_css },
	{ "js", put_js },
	{ "title", put_title },
	{ "tone", put_tone },
	{ "target", put_target },
	{ "mark", put_mark },
	{ "headline", put_headline },
	{ "sentence", put_sentence },
	{ "notes", put_notes },
	{ "tiles", put_tiles },
	{ "chart", page_chart },
	{ "restarts", page_restarts },
	{ "outcomes", page_outcomes },
	{ "losses", page_losses },
	{ "measurement", page_measurement },
	{ "footer", put_footer },
	{ "data", page_chart_data },
};

static void put_part(FILE *out, const struct page *page, const char *name, size_t size)
{
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (strlen(parts[i].name) == size && memcmp(parts[i].name, name, size) == 0)
			parts[i].put(out, page);
	}
}

void page_print(FILE *out, const struct page *page)
{
	const char *at = page_html;

	for (const char *open; (open = strstr(at, "{{"));) {
		const char *close = strstr(open, "}}");

		fwrite(at, 1, (size_t)(open - at), out);
		if (!close)
			return;
		put_part(out, page, open + 2, (size_t)(close - open) - 2);
		at = close + 2;
	}
	fputs(at, out);
}
