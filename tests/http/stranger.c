/* SPDX-License-Identifier: MIT */
/* A successor that speaks no HTTP and cannot read the HTTP module's records: it takes over the
 * listener of tests/http/test_handover.py and accepts nothing. */
#include <poll.h>
#include <segue.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct segue_options options;
	struct segue_event event;
	struct segue *segue;
	struct pollfd poll_fd;

	segue_options_init(&options);
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--pid-file"))
			options.pid_file = argv[i + 1];
	options.record_version_min = options.record_version_max = options.record_version = 77;
	if (segue_open(&segue, &options) < 0)
		return 1;
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--listen") && segue_listen_spec(segue, argv[i + 1], NULL) < 0)
			return 1;
	if (segue_ready(segue) < 0)
		return 1;
	poll_fd = (struct pollfd){ .fd = segue_fd(segue), .events = POLLIN };
	for (;;) {
		while (segue_dispatch(segue, &event) > 0) {
			if (event.type == SEGUE_EVENT_SERVE)
				fprintf(stderr, "{\"event\":\"serving\",\"generation\":%d}\n",
				        (int)segue_generation(segue));
			if (event.type == SEGUE_EVENT_DRAIN || event.type == SEGUE_EVENT_CUT)
				segue_drained(segue);
			if (event.type == SEGUE_EVENT_GONE) {
				segue_close(segue);
				return 0;
			}
		}
		poll(&poll_fd, 1, -1);
	}
}
