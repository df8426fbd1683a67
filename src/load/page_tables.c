/* SPDX-License-Identifier: MIT */
/* The tables of the page; see page_parts.h. */
#include "clock.h"
#include "figures.h"
#include "html.h"
#include "machine.h"
#include "page_parts.h"

#include <inttypes.h>
#include <string.h>

/* A count that should be 0: a cross and the classes where it is not. */
static void put_lost(FILE *out, const struct window *window)
{
	const char *comma = "<small>";

	if (!window_lost(window)) {
		fputs("<td>0</td>", out);
		return;
	}
	fprintf(out, "<td class=\"wrong\">\xe2\x9c\x95 %s", figure_count(window_lost(window)).text);
	for (size_t i = 0; i < OUTCOMES; i++) {
		if (outcome_infos[i].kind != OUTCOME_LOST || !window->outcomes[i])
			continue;
		fprintf(out, "%s%s %s", comma, figure_count(window->outcomes[i]).text,
		        outcome_infos[i].key);
		comma = "<br>";
	}
	fputs("</small></td>", out);
}

static void put_closed(FILE *out, const struct window *window)
{
	uint64_t closed = window_closed(window);

	if (closed)
		fprintf(out, "<td class=\"wrong\">\xe2\x9c\x95 %s", figure_count(closed).text);
	else
		fputs("<td>0", out);
	if (window->closes[CLOSE_ANNOUNCED])
		fprintf(out, "<small>%s announced</small>",
		        figure_count(window->closes[CLOSE_ANNOUNCED]).text);
	fputs("</td>", out);
}

static void put_window(FILE *out, const struct window *window)
{
	put_lost(out, window);
	put_closed(out, window);
	fprintf(out, "<td>%s</td>", figure_latency(window->slowest_ns).text);
	fprintf(out, "<td>%s</td>", figure_duration(window->pause_ns).text);
}

static void put_generation(FILE *out, const struct window *window)
{
	if (!window->generation_ns) {
		fputs("<td class=\"muted\">not told</td>", out);
		return;
	}
	fputs("<td>", out);
	html_text(out, window->generation);
	fprintf(out, "<small class=\"beside\"> after %s</small></td>",
	        figure_duration(window->generation_ns - window->begin_ns).text);
}

static void put_command(FILE *out, const struct restart *restart)
{
	uint64_t took_ns = restart->ended_ns ? restart->ended_ns - restart->window.begin_ns : 0;

	if (restart->failed) {
		fputs("<td class=\"text words wrong\">\xe2\x9c\x95 failed<small>", out);
		html_text(out, restart->reason);
		fputs("</small></td>", out);
		return;
	}
	fprintf(out, "<td>%s</td>", figure_duration(took_ns).text);
}

static void put_restart(FILE *out, const struct load *load, size_t number)
{
	const struct restart *restart = &load->restarts.list[number];
	const struct window *window = &restart->window;
	bool lossy = restart->failed || window_lost(window) || window_closed(window);

	fprintf(out, "<tr%s><th scope=\"row\">%zu</th><td>%.1f s</td>",
	        lossy ? " class=\"lossy\"" : "", number,
	        figures_since_start_ms(load, window->begin_ns) / 1000);
	put_window(out, window);
	put_generation(out, window);
	put_command(out, restart);
	fprintf(out, "<td>%s</td></tr>\n", figure_count(window_requests(window)).text);
}

static const char restarts_begin[] =
	"<section aria-labelledby=\"restarts\"><h2 id=\"restarts\">Restart by restart</h2>\n"
	"<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"restarts\">\n"
	"<table class=\"restarts-table\"><thead><tr><th scope=\"col\">Restart</th>"
	"<th scope=\"col\">at</th><th scope=\"col\">requests<br>lost</th>"
	"<th scope=\"col\">connections<br>closed</th><th scope=\"col\">slowest<br>answer</th>"
	"<th scope=\"col\">longest<br>pause</th><th scope=\"col\">next generation,<br>first "
	"answer</th><th scope=\"col\">command<br>took</th><th scope=\"col\">requests</th></tr>"
	"</thead><tbody>\n";

/* From when an answer's time counts. */
static const char from_sending[] = "sent";
static const char from_schedule[] =
	"due (<code>--rate</code>), on idle and half connections, which "
	"have no rate, from when it was sent";

static const char restarts_end[] =
	"</tbody></table></div>\n"
	"<details><summary>What the columns say</summary><p>What belongs to a restart is what "
	"happens from the start of its command to that of the next one. <b>Requests lost</b> ended "
	"with a refusal, a reset, a close, an error status or a timeout; none was sent again. "
	"<b>Connections closed</b> were idle and closed without an announcement: a request sent in "
	"that moment would have been lost. The <b>slowest answer</b> counts from when its request "
	"was %s. The <b>longest pause</b> is the longest time without a good answer on any "
	"connection. The <b>next generation</b> is a value of the header or the pattern that no "
	"answer had before; its first answer counts from the start of the command. Where no answer "
	"says so it is not told (see <code>--generation-header</code>).</p></details>"
	"</section>\n";

void page_restarts(FILE *out, const struct page *page)
{
	const struct restarts *restarts = &page->load->restarts;

	if (!restarts_wanted(restarts))
		return;
	fputs(restarts_begin, out);
	fputs("<tr class=\"before\"><th scope=\"row\">before</th><td></td>", out);
	put_window(out, &restarts->list[0].window);
	fprintf(out, "<td></td><td></td><td>%s</td></tr>\n",
	        figure_count(window_requests(&restarts->list[0].window)).text);
	for (size_t i = 1; i <= restarts->begun; i++)
		put_restart(out, page->load, i);
	fprintf(out, restarts_end, page->load->options->rate ? from_schedule : from_sending);
}

static void put_count(FILE *out, const char *key, const char *meaning, uint64_t count, bool wrong)
{
	if (!count)
		return;
	fprintf(out, "<tr><th scope=\"row\" class=\"text\">%s</th><td%s>%s%s</td>", key,
	        wrong ? " class=\"wrong\"" : "", wrong ? "\xe2\x9c\x95 " : "",
	        figure_count(count).text);
	fprintf(out, "<td class=\"text words\">%s</td></tr>\n", meaning);
}

static void put_latency(FILE *out, const struct load *load)
{
	struct histogram latency;

	figures_latency(load, &latency);
	fputs("<table><thead><tr><th scope=\"col\" class=\"text\">Time to answer</th><th "
	      "scope=\"col\"></th></tr></thead><tbody>\n",
	      out);
	for (size_t i = 0; i < FIGURE_PERCENTILES; i++) {
		double share = (double)figure_percentiles[i].per_100k / 1000;

		fprintf(out,
		        "<tr><th scope=\"row\" class=\"text\">%g %% within</th><td>%s</td></tr>\n",
		        share,
		        figure_latency(histogram_at(&latency, figure_percentiles[i].per_100k))
		                .text);
	}
	fprintf(out, "<tr><th scope=\"row\" class=\"text\">slowest</th><td>%s</td></tr>\n",
	        figure_latency(latency.max).text);
	fputs("</tbody></table>\n", out);
}

void page_outcomes(FILE *out, const struct page *page)
{
	const struct tally *tally = &page->load->client.tally;

	fputs("<div class=\"pair\"><div><table class=\"outcomes\"><thead><tr>"
	      "<th scope=\"col\" class=\"text\">Outcome</th><th scope=\"col\">requests</th><th "
	      "scope=\"col\" class=\"text words\">which is</th>"
	      "</tr></thead><tbody>\n",
	      out);
	for (size_t i = 0; i < OUTCOMES; i++)
		put_count(out, outcome_infos[i].key, outcome_infos[i].meaning,
		          tally_sum(tally, (enum outcome)i), i != OUTCOME_OK);
	for (size_t i = 0; i < CLOSES; i++)
		put_count(out, close_infos[i].key, close_infos[i].meaning, tally->closes[i],
		          i != CLOSE_ANNOUNCED);
	put_count(out, "not_started", "due in the open loop, and no connection was free",
	          load_not_started(page->load), false);
	fputs("</tbody></table></div><div>", out);
	put_latency(out, page->load);
	fputs("</div></div>\n", out);
}

static void put_loss(FILE *out, const struct load *load, const struct loss *loss)
{
	const char *comma = "";

	fprintf(out, "<tr><th scope=\"row\">%.3f s</th><td class=\"text\">%s</td>",
	        figures_since_start_ms(load, loss->at_ns) / 1000, shape_keys[loss->shape]);
	fprintf(out, "<td class=\"text wrong\">\xe2\x9c\x95 %s</td><td class=\"text words\">",
	        outcome_infos[loss->outcome].key);
	if (loss->status)
		fprintf(out, "status %d", loss->status), comma = ", ";
	if (loss->error)
		fprintf(out, "%s%s", comma, strerror(loss->error)), comma = ", ";
	if (loss->why)
		fprintf(out, "%s%s", comma, loss->why), comma = ", ";
	if (loss->after[0]) {
		fprintf(out, "%sthe answer before was of ", comma);
		html_text(out, loss->after);
	}
	fprintf(out, "</td><td>%s</td></tr>\n", figure_count(loss->answered_before).text);
}

void page_losses(FILE *out, const struct page *page)
{
	const struct tally *tally = &page->load->client.tally;

	if (!tally->losses_kept)
		return;
	fputs("<section aria-labelledby=\"losses\"><h2 id=\"losses\">The first losses</h2>"
	      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"losses\">"
	      "<table><thead><tr><th scope=\"col\">at</th><th scope=\"col\" class=\"text\">"
	      "connection</th><th scope=\"col\" class=\"text\">outcome</th><th scope=\"col\" "
	      "class=\"text\">detail</th><th scope=\"col\">answers on the<br>connection before</th>"
	      "</tr></thead><tbody>\n",
	      out);
	for (size_t i = 0; i < tally->losses_kept; i++)
		put_loss(out, page->load, &tally->losses[i]);
	fputs("</tbody></table></div></section>\n", out);
}

/* A word as sh takes it; @size bytes of it. */
static void put_word(FILE *out, const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_=./:,%+@";
	char piece[2] = "";

	if (*word && word[strspn(word, plain)] == '\0') {
		html_text(out, word);
		return;
	}
	fputs("&#39;", out);
	for (const char *quote; (quote = strchr(word, '\'')); word = quote + 1) {
		for (; word < quote; word++) {
			piece[0] = *word;
			html_text(out, piece);
		}
		fputs("&#39;\\&#39;&#39;", out);
	}
	html_text(out, word);
	fputs("&#39;", out);
}

/* A header may be a password, and this page is passed on. */
static void put_header_word(FILE *out, const char *prefix, const char *header)
{
	char word[128];

	snprintf(word, sizeof(word), "%s%.*s: ...", prefix,
	         (int)strcspn(header, ":") < 80 ? (int)strcspn(header, ":") : 80, header);
	put_word(out, word);
}

static void put_command_line(FILE *out, const struct page *page)
{
	static const char option[] = "--header", with_value[] = "--header=";

	fputs("<pre><code>segue-load", out);
	for (int i = 1; i < page->argc; i++) {
		const char *word = page->argv[i];

		fputc(' ', out);
		if (strncmp(word, with_value, strlen(with_value)) == 0)
			put_header_word(out, with_value, word + strlen(with_value));
		else if (strcmp(page->argv[i - 1], option) == 0 && i > 1)
			put_header_word(out, "", word);
		else
			put_word(out, word);
	}
	fputs("</code></pre>\n", out);
}

static void put_fact(FILE *out, const char *name, const char *value)
{
	if (!value[0])
		return;
	fprintf(out, "<dt>%s</dt><dd>", name);
	html_text(out, value);
	fputs("</dd>\n", out);
}

static void put_connections(FILE *out, const struct load *load)
{
	const char *comma = "";

	fputs("<dt>Connections</dt><dd>", out);
	for (size_t shape = 0; shape < SHAPES; shape++) {
		if (!load->options->connections[shape])
			continue;
		fprintf(out, "%s%" PRIu64 " %s", comma, load->options->connections[shape],
		        shape_keys[shape]);
		comma = ", ";
	}
	fprintf(out, "; opened %s times</dd>\n", figure_count(load->client.tally.opened).text);
}

static void put_dates(FILE *out, const struct page *page)
{
	struct tm date;
	char text[96];

	if (localtime_r(&page->started_at, &date) &&
	    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &date))
		put_fact(out, "Started", text);
	snprintf(text, sizeof(text), "%.1f s, of which segue-load waited %.2f s for a processor",
	         figures_elapsed_ms(page->load) / 1000, (double)page->load->waited_ns / NS_PER_S);
	put_fact(out, "Took", text);
}

void page_measurement(FILE *out, const struct page *page)
{
	struct machine machine;

	machine_look(&machine);
	put_command_line(out, page);
	fputs("<dl class=\"facts\">\n", out);
	put_fact(out, "Server", page->load->options->url_text);
	put_dates(out, page);
	put_connections(out, page->load);
	put_fact(out, "Kernel", machine.kernel);
	put_fact(out, "Processors", machine.cpus);
	put_fact(out, "Memory", machine.memory);
	put_fact(out, "Program", "segue-load " SEGUE_VERSION);
	fputs("</dl>\n", out);
}
