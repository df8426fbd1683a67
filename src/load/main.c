/* SPDX-License-Identifier: MIT */
/*
 * segue-load: a load client that never retries and counts what becomes of each request. Exit
 * status: 0 nothing lost, 1 something lost, 2 wrong usage, 3 it could not run, 4 a command of
 * --restart failed.
 */
#include "clock.h"
#include "display.h"
#include "draft.h"
#include "figures.h"
#include "load.h"
#include "machine.h"
#include "page.h"
#include "report.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
	EXIT_NOTHING_LOST = 0,
	EXIT_LOST = 1,
	EXIT_USAGE = 2,
	EXIT_CANNOT_RUN = 3,
	EXIT_RESTART_FAILED = 4,
};

/* Standard streams, epoll, signals, and some for the C library. */
#define OWN_DESCRIPTORS 16

/* Makes room for all descriptors; says on failure what is missing. */
static int raise_limit(const struct options *options)
{
	uint64_t needed = options_total(options) + OWN_DESCRIPTORS;
	struct rlimit limit;
	char message[256];

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	if (limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur >= needed)
		return 0;
	snprintf(message, sizeof(message),
	         "%" PRIu64 " connections need %" PRIu64
	         " descriptors, but the hard limit is %" PRIu64 " (see ulimit -Hn, LimitNOFILE=)",
	         options_total(options), needed, (uint64_t)limit.rlim_max);
	report_error(options, outcome_infos[OUTCOME_OWN_LIMIT].key, message);
	return -1;
}

static int find_target(const struct options *options, struct target *ret_target)
{
	char message[512];
	const char *why;

	if (target_find(options, ret_target, &why) == 0)
		return 0;
	snprintf(message, sizeof(message), "%s cannot be looked up: %s", options->url.host, why);
	report_error(options, "unresolvable", message);
	return -1;
}

static int exit_status(const struct load *load)
{
	if (tally_sum(&load->client.tally, OUTCOME_OWN_LIMIT)) {
		fprintf(stderr, "segue-load: this machine ran out of descriptors, local ports or "
		                "memory: the count of losses is not the server's\n");
		return EXIT_CANNOT_RUN;
	}
	if (load->restarts.failed)
		return EXIT_RESTART_FAILED;
	return figures_losses(load) > load->options->max_lost ? EXIT_LOST : EXIT_NOTHING_LOST;
}

/* Before the load, so that nothing was in vain. */
static int check_report(const struct options *options)
{
	char message[512];
	int r;

	if (!options->report)
		return 0;
	r = draft_check(options->report);
	if (r == 0)
		return 0;
	snprintf(message, sizeof(message), "the report cannot be written to %s: %s (see --report)",
	         options->report, r == -EINVAL ? "it is no file" : strerror(-r));
	report_error(options, "failed", message);
	return -1;
}

static int write_report(const struct page *page)
{
	const struct options *options = page->load->options;
	struct draft draft;
	char message[512];
	int r;

	if (!options->report)
		return 0;
	r = draft_open(&draft, options->report);
	if (r == 0) {
		page_print(draft.out, page);
		r = draft_commit(&draft);
	}
	if (r == 0)
		return 0;
	snprintf(message, sizeof(message), "the report could not be written to %s: %s",
	         options->report, strerror(-r));
	report_error(options, "failed", message);
	return -1;
}

/* Half a result must not pass for a good one. */
static int end_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	fprintf(stderr, "segue-load: the result could not be written whole to standard output\n");
	return -1;
}

/* What is said goes above the display, which is drawn again at once. */

static struct display display;

static void say_progress(const struct load *load)
{
	display_clear(&display);
	report_progress(load);
	display_draw(&display, load);
}

static void say_restart(const struct load *load, size_t number)
{
	display_clear(&display);
	report_restart(load, number);
	display_draw(&display, load);
}

static void draw(const struct load *load)
{
	display_draw(&display, load);
}

static void set_up_display(struct load *load, const struct options *options)
{
	display_init(&display, options);
	load->on_progress = say_progress;
	load->on_restart = say_restart;
	if (!display.active)
		return;
	load->on_tick = draw;
	load->tick_every_ns = DISPLAY_EVERY_NS;
}

static int run(const struct options *options, const struct target *target,
               const struct command_setting *setting, struct page *page)
{
	static struct load load;
	int r, status = EXIT_CANNOT_RUN;
	uint64_t waited_ns;

	r = load_init(&load, options, target, setting);
	if (r < 0) {
		report_error(options, "failed", strerror(-r));
		return EXIT_CANNOT_RUN;
	}
	load.on_running = report_running;
	set_up_display(&load, options);
	waited_ns = machine_waited_ns();
	r = load_run(&load);
	load.waited_ns = machine_waited_ns() - waited_ns;
	display_draw(&display, &load);
	if (r < 0) {
		report_error(options, "failed", strerror(-r));
	} else {
		report_result(&load);
		page->load = &load;
		status = write_report(page) < 0 ? EXIT_CANNOT_RUN : exit_status(&load);
		if (end_output() < 0)
			status = EXIT_CANNOT_RUN;
	}
	load_done(&load);
	return status;
}

int main(int argc, char **argv)
{
	struct page page = { .argc = argc, .argv = argv, .started_at = time(NULL) };
	struct command_setting setting;
	struct options_error error;
	struct options options;
	struct target target;
	int status = EXIT_CANNOT_RUN;

	command_setting_get(&setting);
	if (options_parse(argc, argv, &options, &error) < 0) {
		fprintf(stderr, "segue-load: %s\n", error.text);
		return EXIT_USAGE;
	}
	if (options.help) {
		options_help(stdout);
		return EXIT_NOTHING_LOST;
	}
	if (options.version) {
		printf("segue-load %s\n", SEGUE_VERSION);
		return EXIT_NOTHING_LOST;
	}
	if (raise_limit(&options) == 0 && check_report(&options) == 0 &&
	    find_target(&options, &target) == 0)
		status = run(&options, &target, &setting, &page);
	options_done(&options);
	return status;
}
