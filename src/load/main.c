/* SPDX-License-Identifier: MIT */
/*
 * segue-load: a load client that never retries and counts what becomes of each request. Exit
 * status: 0 nothing lost, 1 something lost, 2 wrong usage, 3 it could not run.
 */
#include "load.h"
#include "report.h"

#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

enum {
	EXIT_NOTHING_LOST = 0,
	EXIT_LOST = 1,
	EXIT_USAGE = 2,
	EXIT_CANNOT_RUN = 3,
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
	return report_losses(load) > load->options->max_lost ? EXIT_LOST : EXIT_NOTHING_LOST;
}

static int run(const struct options *options, const struct target *target)
{
	static struct load load;
	int r, status = EXIT_CANNOT_RUN;

	r = load_init(&load, options, target);
	if (r < 0) {
		report_error(options, "failed", strerror(-r));
		return EXIT_CANNOT_RUN;
	}
	load.on_running = report_running;
	load.on_progress = report_progress;
	r = load_run(&load);
	if (r < 0) {
		report_error(options, "failed", strerror(-r));
	} else {
		report_result(&load);
		status = exit_status(&load);
	}
	load_done(&load);
	return status;
}

int main(int argc, char **argv)
{
	struct options_error error;
	struct options options;
	struct target target;

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
	if (raise_limit(&options) < 0 || find_target(&options, &target) < 0)
		return EXIT_CANNOT_RUN;
	return run(&options, &target);
}
