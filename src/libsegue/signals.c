/* SPDX-License-Identifier: MIT */
/*
 * Signals: a handler that counts and writes to the handle's eventfd. Not signalfd, which
 * would need the signals blocked in every thread of the host.
 */
#include "libsegue/handle.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static atomic_int counts[NSIG];
static atomic_bool any;
static atomic_int wake_fd = -1;
static struct sigaction before[NSIG];
static sigset_t installed;

static void handler(int signal)
{
	int saved = errno, fd = atomic_load(&wake_fd);
	uint64_t one = 1;

	atomic_fetch_add(&counts[signal], 1);
	atomic_store(&any, true);
	if (fd >= 0)
		(void)!write(fd, &one, sizeof(one));
	errno = saved;
}

static int install(struct segue *segue, int signal)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

	if (signal <= 0)
		return 0;
	if (signal >= NSIG)
		return -EINVAL;
	/* nohup, and "&" in a script: what was ignored at start stays ignored. */
	if ((signal == SIGHUP || signal == SIGINT || signal == SIGQUIT) &&
	    sigismember(&segue->origin.ignored, signal) == 1)
		return 0;
	if (sigismember(&installed, signal) == 1)
		return 0;
	sigemptyset(&action.sa_mask);
	if (sigaction(signal, &action, &before[signal]) < 0)
		return -errno;
	sigaddset(&installed, signal);
	return 0;
}

int sg_signals_install(struct segue *segue)
{
	const struct segue_options *options = &segue->options;
	int r;

	sigemptyset(&installed);
	for (int i = 0; i < NSIG; i++)
		atomic_store(&counts[i], 0);
	atomic_store(&wake_fd, segue->wake_fd);
	r = install(segue, options->upgrade_signal);
	for (size_t i = 0; r == 0 && i < sizeof(options->stop_signals) / sizeof(int); i++)
		r = install(segue, options->stop_signals[i]);
	if (r == 0)
		r = install(segue, options->now_signal);
	return r;
}

static int take(int signal)
{
	return signal > 0 && signal < NSIG ? atomic_exchange(&counts[signal], 0) : 0;
}

void sg_signals_deliver(struct segue *segue)
{
	const struct segue_options *options = &segue->options;
	int stops = 0, r;

	if (!atomic_exchange(&any, false))
		return;
	/* A death that came first is looked at first: the service must stop, not be taken back. */
	sg_peer_look(segue, true);
	if (take(options->now_signal) > 0)
		(void)segue_stop(segue, true);
	for (size_t i = 0; i < sizeof(options->stop_signals) / sizeof(int); i++)
		stops += take(options->stop_signals[i]);
	for (int i = 0; i < stops && i < 2; i++)
		(void)segue_stop(segue, false);
	r = take(options->upgrade_signal) > 0 ? segue_upgrade(segue) : 0;
	if (r < 0) {
		struct segue_event refused = { .type = SEGUE_EVENT_UPGRADE_ENDED,
			                       .outcome = SEGUE_REFUSED,
			                       .generation = segue->generation + 1,
			                       .error = -r,
			                       .reason = segue->error,
			                       .fd = -1 };

		sg_queue_event(segue, &refused);
	}
}

void sg_signals_restore(struct segue *segue)
{
	const struct sigaction ignored = { .sa_handler = SIG_IGN };

	atomic_store(&wake_fd, -1);
	for (int signal = 1; signal < NSIG; signal++) {
		bool deadly = before[signal].sa_handler == SIG_DFL;

		/* One that leaves is not killed by an upgrade signal that went to the whole group,
		 * nor by the second of two that told it to stop. */
		if (sigismember(&installed, signal) == 1)
			(void)sigaction(signal,
			                segue->state == SG_STATE_GONE && deadly ? &ignored
			                                                        : &before[signal],
			                NULL);
	}
	sigemptyset(&installed);
}
