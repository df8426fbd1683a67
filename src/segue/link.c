/* SPDX-License-Identifier: MIT */
/*
 * The channel to a worker: the supervisor speaks down, as one who hands over, and is never a
 * generation. Nonsense before the worker serves ends the worker; after that the channel is
 * closed, which to the worker is the supervisor's death, and so it is ended as well, by a drain.
 *
 * So is a worker that has missed a message for want of memory or descriptors: it may wait for that
 * for ever. The channel stays open, but nothing more is said on it.
 */
#include "core/channel.h"
#include "core/fd.h"
#include "core/lifecycle.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PF_EXITING 0x4 /* include/linux/sched.h; proc(5), the flags of /proc/PID/stat */

/* Messages of one worker at a time. */
#define WAKEUP_MAX 64
#define LOOK_MAX   4096

#define AGAIN_MS 50 /* where a message could not be sent for want of something else than room */

struct link {
	struct worker *worker;
	struct sg_channel channel;
	uv_poll_t poll;
	uv_timer_t again;
	int events;
	bool stalled; /* the timer runs: that the socket is writable says nothing */
	bool greeted;
	int lost;             /* why a message was, -errno; 0: none was */
	bool lost_said;       /* the worker has been ended for it */
	bool ended;           /* the descriptor is closed, the handles are being closed */
	unsigned int handles; /* of the two, those that are not closed yet */
	bool released;        /* by the worker: freed as soon as the handles are closed */
};

static void channel_ready(uv_poll_t *poll, int status, int events);

static void handle_closed(uv_handle_t *handle)
{
	struct link *link = handle->data;

	if (--link->handles == 0 && link->released)
		free(link);
}

static void update(struct link *link)
{
	bool room = link->channel.queued > 0 && !link->stalled;
	int events = UV_READABLE | (room ? UV_WRITABLE : 0);

	if (link->ended || events == link->events)
		return;
	link->events = events;
	(void)uv_poll_start(&link->poll, events, channel_ready);
}

static void send_again(uv_timer_t *timer);

static void flush(struct link *link)
{
	int r = sg_channel_flush(&link->channel);

	link->stalled = sg_channel_passes(r);
	if (!link->stalled)
		return;
	uv_update_time(link->again.loop);
	(void)uv_timer_start(&link->again, send_again, AGAIN_MS, 0);
}

/* From the loop, since whoever sends is in the middle of something. */
static void end_deaf(struct link *link)
{
	struct worker *worker = link->worker;

	link->lost_said = true;
	worker_failed(worker, "it could not be told what to do: %s", strerror(-link->lost));
	log_say("lost", NULL,
	        "worker %llu:%u (pid %ld) could not be told what to do: %s; it is ended",
	        (unsigned long long)worker->slot->generation->number, worker->slot->index,
	        (long)worker->process.pid, strerror(-link->lost));
	worker_post(worker, WORKER_EVENT_ABANDON);
}

static void send_again(uv_timer_t *timer)
{
	struct link *link = timer->data;

	if (link->lost < 0 && !link->lost_said)
		end_deaf(link);
	if (link->ended)
		return;
	flush(link);
	update(link);
}

int link_open(struct link **ret_link, struct worker *worker, int *ret_fd)
{
	struct service *service = worker->slot->generation->service;
	struct link *link = calloc(1, sizeof(*link));
	int fds[2], r;

	if (link == NULL)
		return -ENOMEM;
	r = sg_channel_pair(fds);
	if (r < 0) {
		free(link);
		return r;
	}
	link->worker = worker;
	sg_channel_init_take(&link->channel, fds[0]);
	r = uv_poll_init(service->loop, &link->poll, fds[0]);
	if (r < 0) {
		sg_channel_done(&link->channel);
		sg_fd_close(fds[1]);
		free(link);
		return r;
	}
	(void)uv_timer_init(service->loop, &link->again);
	link->poll.data = link->again.data = link;
	link->handles = 2;
	update(link);
	*ret_link = link;
	*ret_fd = fds[1];
	return 0;
}

/* The handles before the descriptor: libuv takes whatever has the number by then out of its set. */
static void end(struct link *link)
{
	if (link->ended)
		return;
	link->ended = true;
	uv_close((uv_handle_t *)&link->poll, handle_closed);
	uv_close((uv_handle_t *)&link->again, handle_closed);
	sg_channel_done(&link->channel);
}

void link_close(struct link *link)
{
	if (link == NULL)
		return;
	end(link);
	link->released = true;
	if (link->handles == 0)
		free(link);
}

bool link_greeted(const struct link *link)
{
	return link != NULL && link->greeted;
}

bool link_speaks(const struct link *link)
{
	return link_greeted(link) && link->channel.fd >= 0 && link->lost == 0;
}

/* What cannot be sent at once waits; the loop says when the socket has room, or that it is not
 * room that is wanted. */
int link_send_or_not(struct link *link, const struct sg_message *message, const int *fds,
                     size_t fds_len)
{
	int r;

	if (link->channel.fd < 0 || link->lost < 0)
		return -EPIPE;
	r = sg_channel_send(&link->channel, message, fds, fds_len);
	update(link);
	return r;
}

int link_send(struct link *link, const struct sg_message *message, const int *fds, size_t fds_len)
{
	int r = link_send_or_not(link, message, fds, fds_len);

	if (r == 0 || r == -EPIPE)
		return r;
	link->lost = r;
	uv_update_time(link->again.loop);
	(void)uv_timer_start(&link->again, send_again, 0, 0);
	return r;
}

/* Who speaks, and as whom the worker is to begin. It may not be one who listens. */
void link_greet(struct link *link)
{
	struct slot *slot = link->worker->slot;
	struct service *service = slot->generation->service;
	const struct config *config = slot->generation->terms->config;
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = 2,
		                    .version_max = SG_WIRE_VERSION_MAX,
		                    .generation = slot->generation->number - 1,
		                    .pid = (uint32_t)getpid(),
		                    .start_ms = (uint32_t)config->start_timeout_ms };
	struct sg_message supervise = { .type = SG_MESSAGE_SUPERVISE,
		                        .worker = slot->index,
		                        .workers = slot->generation->slots_len,
		                        .flags = config->orphans == CONFIG_ORPHANS_SERVE
		                                         ? SG_SUPERVISE_ORPHANS_SERVE
		                                         : 0,
		                        .drain_ms = (uint32_t)config->drain_timeout_ms };

	(void)link_send(link, &hello, &service->self_pidfd, 1);
	(void)link_send(link, &supervise, NULL, 0);
}

static void nonsense(struct link *link, const char *what)
{
	struct worker *worker = link->worker;

	worker_failed(worker, "it sent %s on its channel", what);
	log_say("nonsense", NULL, "worker %llu:%u (pid %ld) sent %s on its channel; it is ended",
	        (unsigned long long)worker->slot->generation->number, worker->slot->index,
	        (long)worker->process.pid, what);
	end(link);
	worker_post(worker, WORKER_EVENT_ABANDON);
}

static void greeted(struct link *link, const struct sg_message *message, int pidfd)
{
	struct worker *worker = link->worker;
	pid_t pid = sg_pidfd_pid(pidfd);

	sg_fd_close(pidfd);
	if (link->greeted || (pid != -ESRCH && pid != worker->process.pid)) {
		nonsense(link, pid == worker->process.pid
		                       ? "a second greeting"
		                       : "a greeting of another process (does the program fork?)");
		return;
	}
	if (sg_wire_agree(message->version_min, message->version_max) < 2) {
		worker_failed(worker,
		              "no common protocol version: it speaks %u to %u, this supervisor 2 "
		              "to %u",
		              message->version_min, message->version_max, SG_WIRE_VERSION_MAX);
		worker_post(worker, WORKER_EVENT_ABANDON);
		return;
	}
	link->greeted = true;
	worker->kind = KIND_SEGUE;
	generation_greeted(worker);
}

static void asked(struct link *link)
{
	struct worker *worker = link->worker;
	struct service *service = worker->slot->generation->service;
	struct sg_message answer = { .type = SG_MESSAGE_ANSWER,
		                     .outcome = 3, /* refused */
		                     .generation = service->last_number + 1 };
	char reason[REASON_MAX];

	if (service_upgrade(service, NULL, worker->key, reason, sizeof(reason)) == 0)
		return;
	snprintf(answer.text, sizeof(answer.text), "%.500s", reason);
	(void)link_send(link, &answer, NULL, 0);
}

/* Of one that has been told to drain what it counted before it does is of no use: its program may
 * count once a second. */
static void progress(struct worker *worker, const struct sg_message *message)
{
	bool drains = message->state != SG_STATE_PROBATION && message->state != SG_STATE_SERVING &&
	              message->state != SG_STATE_STANDBY;

	worker->counts = message->connections != SG_WIRE_UNKNOWN;
	worker->aged = worker->aged && worker->state == WORKER_DRAINING && !drains;
	worker->connections = message->connections;
	worker->cut = message->cut;
	generation_counted(worker);
}

static void message(struct link *link, struct sg_message *m, int *fds, size_t fds_len)
{
	struct worker *worker = link->worker;
	struct service *service = worker->slot->generation->service;

	if (!link->greeted && m->type != SG_MESSAGE_HELLO && m->type != SG_MESSAGE_FAILED) {
		nonsense(link, "something before its greeting");
		goto out;
	}
	switch (m->type) {
	case SG_MESSAGE_HELLO:
		greeted(link, m, fds[0]);
		return;
	case SG_MESSAGE_LISTENER:
		held_take(service, worker, m, fds[0]);
		return;
	case SG_MESSAGE_READY:
		held_wanted(service, worker, m);
		worker_is_ready(worker, KIND_SEGUE);
		break;
	case SG_MESSAGE_FAILED:
		worker_failed(worker, "%s", m->text);
		break;
	case SG_MESSAGE_PROGRESS:
		progress(worker, m);
		if (m->state == SG_STATE_PROBATION || m->state == SG_STATE_SERVING)
			worker_post(worker, WORKER_EVENT_SERVES);
		desk_draining(service, false);
		break;
	case SG_MESSAGE_ASK:
		asked(link);
		break;
	case SG_MESSAGE_STOPS:
		/* This worker was asked to stop, by a signal of its own. */
		break;
	default:
		nonsense(link, "a message that makes no sense");
		break;
	}
out:
	for (size_t i = 0; i < fds_len; i++)
		sg_fd_close(fds[i]);
}

/* Is it on its way out? Its descriptors are closed a moment before its death can be seen. */
static bool is_dying(const struct worker *worker)
{
	char path[64], text[1024];
	unsigned int flags = 0;
	const char *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)worker->process.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	sg_fd_close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strrchr(text, ')');
	/* NOLINTNEXTLINE(cert-err34-c): the numbers are the kernel's. */
	if (at == NULL || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
		return true;
	return flags & PF_EXITING;
}

/*
 * A program that does not know the channel may close it; one that does and lives on could not be
 * told to drain. The death of one that dies has a better reason, and comes by itself.
 */
static void closed(struct link *link)
{
	struct worker *worker = link->worker;

	end(link);
	/* One that was asked away says so by that: its last word has been read. */
	if (!link->greeted || worker->asked_away || is_dying(worker))
		return;
	worker_failed(worker, "it closed its channel%s",
	              worker->was_ready ? "" : " before it was ready");
	log_say("closed", NULL, "worker %llu:%u (pid %ld) closed its channel; it is ended",
	        (unsigned long long)worker->slot->generation->number, worker->slot->index,
	        (long)worker->process.pid);
	worker_post(worker, WORKER_EVENT_ABANDON);
}

/* What one message does may end the worker, and with it the channel; never the link itself,
 * whose memory goes with the loop. */
static void look(struct link *link, unsigned int most)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message m;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;
	int r;

	while (link->channel.fd >= 0 && most-- > 0) {
		r = sg_channel_receive(&link->channel, buffer, &m, fds, &fds_len);
		if (r == 0)
			return;
		if (r == 1) {
			message(link, &m, fds, fds_len);
			continue;
		}
		if (r == -EPIPE) {
			closed(link);
			return;
		}
		nonsense(link, r == -EMFILE ? "descriptors for which there is no room"
		                            : "a message that makes no sense");
		return;
	}
}

/* Before a death or a deadline counts; a flood ends the look, not the supervisor. */
void link_look(struct link *link)
{
	if (link != NULL)
		look(link, LOOK_MAX);
}

static void channel_ready(uv_poll_t *poll, int status, int events)
{
	struct link *link = poll->data;

	if (status < 0)
		events = UV_READABLE;
	/* One that has stalled is the timer's. */
	if ((events & UV_WRITABLE) && !link->stalled)
		flush(link);
	if (events & UV_READABLE)
		look(link, WAKEUP_MAX);
	update(link);
}
