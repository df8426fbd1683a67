/* SPDX-License-Identifier: MIT */
/*
 * The preflight command: run before anything of an upgrade is started, by the workers' own user
 * and in their environment. It has to exit 0 before its deadline.
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct preflight {
	struct service *service;
	struct sg_spawned process;
	uv_poll_t poll;
	uint64_t key;
	int result; /* of sg_spawn_result(), with the report */
	struct sg_exec_error report;
	unsigned int users; /* the poll handle, and who waits for the last lines */
};

static void unuse(struct preflight *preflight)
{
	if (--preflight->users == 0)
		free(preflight);
}

static void closed(uv_handle_t *handle)
{
	unuse(handle->data);
}

/* Ends it, if it runs, and what it has started: its witness leads their session. */
void preflight_end(struct service *service)
{
	struct preflight *preflight = service->preflight;

	if (preflight == NULL)
		return;
	service->preflight = NULL;
	/* While the witness has not been reaped its pid is theirs. */
	if (sg_pidfd_signal(preflight->process.pidfd, SIGKILL) == 0)
		(void)kill(-preflight->process.pid, SIGKILL);
	relay_forget(service->relay, preflight->key);
	uv_close((uv_handle_t *)&preflight->poll, closed);
	/* Its death is reaped by whoever reaps orphans. */
	sg_fd_close(preflight->process.pidfd);
	sg_fd_close(preflight->process.exec_fd);
}

static void blame(struct service *service, int r, const struct sg_exec_error *report)
{
	int status = report->status;
	char text[REASON_MAX];

	sg_spawn_error_text(report, text, sizeof(text));
	if (r == 2 && WIFEXITED(status))
		service_failed(service, "the preflight command exited with status %d (%s)",
		               WEXITSTATUS(status), service->upgrade.terms->config->preflight);
	else if (r == 2)
		service_failed(service, "the preflight command was killed by signal %d (%s)",
		               WTERMSIG(status), service->upgrade.terms->config->preflight);
	else if (r == 1)
		service_failed(service, "the preflight command was killed (%s)",
		               service->upgrade.terms->config->preflight);
	else
		service_failed(service, "the preflight command could not be run: %s", text);
	service_post(service, SERVICE_EVENT_FAILED);
}

/* Its last lines are known: only now its failure counts, where nobody has ended it meanwhile. */
static void tail_read(void *ctx, const char *text)
{
	struct preflight *preflight = ctx;
	struct service *service = preflight->service;
	int result = preflight->result;
	struct sg_exec_error report = preflight->report;
	bool counts = service->preflight == preflight;

	if (counts) {
		snprintf(service->upgrade.output, sizeof(service->upgrade.output), "%s", text);
		preflight_end(service);
	}
	unuse(preflight);
	if (!counts)
		return;
	blame(service, result, &report);
	service_look_whether_empty(service);
}

static void ended(uv_poll_t *poll, int status, int events)
{
	struct preflight *preflight = poll->data;
	struct service *service = preflight->service;

	(void)status;
	(void)events;
	preflight->result = sg_spawn_result(preflight->process.exec_fd, &preflight->report);
	if (preflight->result == 0)
		return;
	if (preflight->result == 2 && preflight->report.status == 0) {
		preflight_end(service);
		service_checked(service);
		service_look_whether_empty(service);
		return;
	}
	(void)uv_poll_stop(poll);
	/* Its witness is reaped while the last lines are waited for: its group goes now. */
	if (sg_pidfd_signal(preflight->process.pidfd, SIGKILL) == 0)
		(void)kill(-preflight->process.pid, SIGKILL);
	preflight->users++;
	relay_tail(service->relay, preflight->key, tail_read, preflight);
}

static int start(struct service *service, struct preflight *preflight)
{
	char *argv[] = { (char *)"sh", (char *)"-c", service->upgrade.terms->config->preflight,
		         NULL };
	char name[100], generation[50];
	const char *set[] = { name, generation, NULL };
	int output[2] = { -1, -1 };
	struct sg_spawn spawn = { .origin = &service->upgrade.terms->origin,
		                  .argv = argv,
		                  .program = "/bin/sh",
		                  .identity = service->upgrade.terms->as,
		                  .directory = service->upgrade.terms->config->directory,
		                  .own_session = true,
		                  .death_signal = SIGTERM,
		                  .witness = true,
		                  .set = set };
	int r = relay_worker(service->relay, preflight->key, "preflight", output);
	struct sg_spawn_fd fds[] = { { service->null_fd, 0 }, { output[0], 1 }, { output[1], 2 } };

	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "SEGUE_NAME=%s", service->config->name);
	snprintf(generation, sizeof(generation), "SEGUE_GENERATION=%llu",
	         (unsigned long long)service->upgrade.generation);
	spawn.fds = fds;
	spawn.fds_len = output[0] >= 0 ? 3 : 1;
	r = sg_spawn(&preflight->process, &spawn);
	sg_fd_close(output[0]);
	sg_fd_close(output[1]);
	if (r < 0)
		relay_forget(service->relay, preflight->key);
	return r;
}

/* -errno with the reason noted where it could not be started. */
int preflight_start(struct service *service)
{
	struct preflight *preflight = calloc(1, sizeof(*preflight));
	int r = -ENOMEM;

	if (preflight != NULL) {
		preflight->service = service;
		preflight->key = ++service->last_key;
		r = start(service, preflight);
	}
	if (r < 0) {
		service_failed(service, "the preflight command could not be started: %s",
		               strerror(-r));
		free(preflight);
		return r;
	}
	(void)uv_poll_init(service->loop, &preflight->poll, preflight->process.exec_fd);
	preflight->poll.data = preflight;
	preflight->users = 1;
	(void)uv_poll_start(&preflight->poll, UV_READABLE | UV_DISCONNECT, ended);
	service->preflight = preflight;
	return 0;
}
