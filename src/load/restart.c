/* SPDX-License-Identifier: MIT */
/* When commands run, and what became of them; see restart.h. */
#include "restart.h"
#include "clock.h"

#include <errno.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>

/* So long a command that was killed is waited for; only the kernel can keep it longer. */
#define KILLED_NS (5 * NS_PER_S)

int restarts_init(struct restarts *restarts, const struct options *options, struct tally *tally,
                  int epoll_fd, const struct command_setting *setting)
{
	*restarts = (struct restarts){
		.options = options,
		.tally = tally,
		.epoll_fd = epoll_fd,
		.setting = *setting,
	};
	if (!options->restart)
		return 0;
	restarts->list = calloc(options->count + 1, sizeof(*restarts->list));
	return restarts->list ? 0 : -ENOMEM;
}

void restarts_done(struct restarts *restarts)
{
	command_kill(&restarts->command);
	command_forget(&restarts->command);
	free(restarts->list);
	restarts->list = NULL;
}

bool restarts_wanted(const struct restarts *restarts)
{
	return restarts->list != NULL;
}

bool restarts_running(const struct restarts *restarts)
{
	return restarts->command.pid != 0;
}

static struct restart *current(struct restarts *restarts)
{
	return &restarts->list[restarts->begun];
}

static void begin_window(struct restarts *restarts, uint64_t now_ns)
{
	window_begin(&current(restarts)->window, now_ns);
	restarts->tally->window = &current(restarts)->window;
}

void restarts_start(struct restarts *restarts, uint64_t now_ns)
{
	if (!restarts_wanted(restarts))
		return;
	begin_window(restarts, now_ns);
	restarts->next_ns = now_ns + restarts->options->every_ns;
}

/* The sentence that says why; the last line of the output is most often the cause. */
__attribute__((format(printf, 2, 3))) static void fail(struct restarts *restarts,
                                                       const char *format, ...)
{
	struct restart *restart = current(restarts);
	va_list arguments;
	size_t size;

	va_start(arguments, format);
	vsnprintf(restart->reason, sizeof(restart->reason), format, arguments);
	va_end(arguments);
	size = strlen(restart->reason);
	if (restart->line[0])
		snprintf(restart->reason + size, sizeof(restart->reason) - size, ": %s",
		         restart->line);
	restart->failed = true;
	restarts->failed = true;
}

/* The command of the current restart is no more. */
static void settle(struct restarts *restarts, uint64_t now_ns)
{
	struct restart *restart = current(restarts);
	uint64_t due_ns = restart->window.begin_ns + restarts->options->every_ns;
	bool is_last = restarts->failed || restarts->begun == restarts->options->count;

	restart->ended_ns = now_ns;
	if (is_last)
		due_ns = now_ns + restarts->options->every_ns;
	restarts->next_ns = due_ns > now_ns ? due_ns : now_ns;
}

static void begin(struct restarts *restarts, uint64_t now_ns)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = RESTART_SOURCE };
	int r;

	window_end(&current(restarts)->window, now_ns);
	if (restarts->begun && restarts->on_end)
		restarts->on_end(restarts, restarts->begun);
	restarts->begun++;
	begin_window(restarts, now_ns);
	restarts->kill_ns = now_ns + restarts->options->restart_timeout_ns;
	r = command_start(&restarts->command, restarts->options->restart, &restarts->setting);
	if (r == 0 &&
	    epoll_ctl(restarts->epoll_fd, EPOLL_CTL_ADD, restarts->command.pidfd, &event) < 0) {
		r = -errno;
		command_kill(&restarts->command);
		command_end(&restarts->command, current(restarts)->line, RESTART_LINE_BYTES);
	}
	if (r < 0) {
		fail(restarts, "the command could not be started: %s", strerror(-r));
		settle(restarts, now_ns);
	}
}

static void fail_of_time(struct restarts *restarts)
{
	current(restarts)->timed_out = true;
	fail(restarts,
	     "the command had not ended after %.3g s and was killed (see "
	     "--restart-timeout)",
	     (double)restarts->options->restart_timeout_ns / NS_PER_S);
}

static void take_deadline(struct restarts *restarts, uint64_t now_ns)
{
	if (!restarts_running(restarts) || now_ns < restarts->kill_ns)
		return;
	if (restarts->killed) {
		command_forget(&restarts->command);
		fail_of_time(restarts);
		settle(restarts, now_ns);
		return;
	}
	restarts->killed = true;
	restarts->kill_ns = now_ns + KILLED_NS;
	command_kill(&restarts->command);
}

bool restarts_take_time(struct restarts *restarts, uint64_t now_ns)
{
	if (!restarts_wanted(restarts))
		return false;
	take_deadline(restarts, now_ns);
	if (restarts->stopped || restarts_running(restarts) || now_ns < restarts->next_ns)
		return false;
	if (restarts->failed || restarts->begun == restarts->options->count)
		return true;
	begin(restarts, now_ns);
	return false;
}

uint64_t restarts_next_time(const struct restarts *restarts)
{
	if (!restarts_wanted(restarts))
		return UINT64_MAX;
	if (restarts_running(restarts))
		return restarts->kill_ns;
	return restarts->stopped ? UINT64_MAX : restarts->next_ns;
}

void restarts_take_event(struct restarts *restarts, uint64_t now_ns)
{
	struct restart *restart = current(restarts);
	int status;

	status = command_end(&restarts->command, restart->line, sizeof(restart->line));
	if (restarts->killed && !restarts->abandoned)
		fail_of_time(restarts);
	else if (WIFSIGNALED(status) && !restarts->abandoned)
		fail(restarts, "the command was ended by signal %d (%s)", WTERMSIG(status),
		     strsignal(WTERMSIG(status)));
	else if (WIFSIGNALED(status))
		fail(restarts, "the command was killed, as a second signal said");
	else if (WEXITSTATUS(status))
		fail(restarts, "the command exited with status %d", WEXITSTATUS(status));
	settle(restarts, now_ns);
}

void restarts_stop(struct restarts *restarts, uint64_t at_ns)
{
	if (!restarts_wanted(restarts) || restarts->stopped)
		return;
	restarts->stopped = true;
	window_end(&current(restarts)->window, at_ns);
}

void restarts_abandon(struct restarts *restarts, uint64_t now_ns)
{
	if (!restarts_running(restarts))
		return;
	restarts->abandoned = restarts->killed = true;
	restarts->kill_ns = now_ns + KILLED_NS;
	command_kill(&restarts->command);
}

void restarts_finish(struct restarts *restarts)
{
	if (restarts_wanted(restarts) && restarts->begun && restarts->on_end)
		restarts->on_end(restarts, restarts->begun);
}
