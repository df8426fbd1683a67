/* SPDX-License-Identifier: MIT */
/*
 * Another generation: its channel, its pidfd, and the order in which its death is noticed.
 * The channel is always read to its end before a death counts: an acknowledgement that was
 * written before it is as good as any.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static void channel_ready(struct segue *segue, struct watch *watch, uint32_t events);
static void pidfd_ready(struct segue *segue, struct watch *watch, uint32_t events);

static void watch_pidfd(struct peer *peer)
{
	if (peer->pidfd >= 0)
		(void)sg_watch_add(peer->segue, &peer->pidfd_watch, peer->pidfd, EPOLLIN, peer,
		                   pidfd_ready);
}

struct peer *sg_peer_new_take(struct segue *segue, enum peer_role role, int channel_fd, int pidfd)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	struct peer **last = &segue->peers;

	if (peer == NULL) {
		sg_fd_close(channel_fd);
		sg_fd_close(pidfd);
		return NULL;
	}
	peer->segue = segue;
	peer->id = ++segue->next_peer;
	peer->role = role;
	peer->pidfd = pidfd;
	peer->channel_watch.fd = peer->pidfd_watch.fd = -1;
	peer->held_last = &peer->held_first;
	sg_channel_init_take(&peer->channel, channel_fd);
	peer->channel_events = EPOLLIN;
	if (sg_watch_add(segue, &peer->channel_watch, channel_fd, EPOLLIN, peer, channel_ready) <
	    0) {
		sg_channel_done(&peer->channel);
		sg_fd_close(pidfd);
		free(peer);
		return NULL;
	}
	watch_pidfd(peer);
	/* In the order of their coming: the youngest successor is the last. */
	while (*last != NULL)
		last = &(*last)->next;
	*last = peer;
	return peer;
}

void sg_peer_drop_channel(struct peer *peer)
{
	sg_watch_remove(peer->segue, &peer->channel_watch);
	sg_channel_done(&peer->channel);
}

/* Ends all dealings at once; the memory goes with the next sweep, because a caller may still
 * be in the middle of this peer's messages. */
void sg_peer_doom(struct peer *peer)
{
	if (peer->segue->attempt.peer == peer)
		peer->segue->attempt.peer = NULL;
	peer->doomed = true;
	sg_watch_remove(peer->segue, &peer->pidfd_watch);
	sg_peer_drop_channel(peer);
	sg_upstream_release(peer);
	sg_state_forget(peer);
}

static void peer_free(struct peer *peer)
{
	struct peer **at = &peer->segue->peers;

	while (*at != NULL && *at != peer)
		at = &(*at)->next;
	if (*at != NULL)
		*at = peer->next;
	sg_peer_doom(peer);
	sg_fd_close(peer->pidfd);
	free(peer);
}

void sg_peer_sweep(struct segue *segue)
{
	struct peer *next;

	for (struct peer *peer = segue->peers; peer != NULL; peer = next) {
		next = peer->next;
		if (peer->doomed)
			peer_free(peer);
	}
}

#define RETRY_MS 50

static void update_events(struct peer *peer)
{
	bool room = (peer->channel.queued > 0 || peer->wants_room) && !peer->stalled;
	uint32_t events = EPOLLIN | (room ? EPOLLOUT : 0);

	if (events == peer->channel_events || peer->channel_watch.fd < 0)
		return;
	peer->channel_events = events;
	sg_watch_change(peer->segue, &peer->channel_watch, events);
}

void sg_peer_stall(struct peer *peer)
{
	peer->stalled = true;
	peer->segue->retry_due_ms = sg_now_ms() + RETRY_MS;
	sg_timer_arm(peer->segue);
}

int sg_peer_send(struct peer *peer, const struct sg_message *message, const int *fds,
                 size_t fds_len)
{
	int r = sg_channel_send(&peer->channel, message, fds, fds_len);

	update_events(peer);
	return r;
}

int sg_peer_try(struct peer *peer, const struct sg_message *message, const int *fds, size_t fds_len)
{
	int r = sg_channel_try(&peer->channel, message, fds, fds_len);

	peer->wants_room = r == -EAGAIN;
	if (sg_channel_passes(r))
		sg_peer_stall(peer);
	update_events(peer);
	return r;
}

static void flush(struct peer *peer)
{
	int r = sg_channel_flush(&peer->channel);

	peer->wants_room = false;
	sg_upstream_release(peer);
	if (sg_channel_passes(r))
		sg_peer_stall(peer);
	update_events(peer);
}

void sg_peer_retry(struct segue *segue, int64_t now_ms)
{
	if (segue->retry_due_ms < 0 || segue->retry_due_ms > now_ms)
		return;
	segue->retry_due_ms = -1;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (!peer->stalled || peer->doomed)
			continue;
		peer->stalled = false;
		flush(peer);
		if (sg_handover_comes_back(peer))
			sg_handover_take_back(peer);
	}
	sg_handover_pump(segue);
}

int sg_peer_send_type(struct peer *peer, enum sg_message_type type)
{
	struct sg_message message = { .type = type };

	return sg_peer_send(peer, &message, NULL, 0);
}

int sg_peer_send_hello(struct peer *peer)
{
	struct segue *segue = peer->segue;
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = SG_WIRE_VERSION_MIN,
		                    .version_max = SG_WIRE_VERSION_MAX,
		                    .generation = segue->generation,
		                    .pid = (uint32_t)getpid(),
		                    .record_min = segue->options.record_version_min,
		                    .record_max = segue->options.record_version_max,
		                    .predecessors =
		                            (uint32_t)sg_peer_count(segue, PEER_PREDECESSOR),
		                    .start_ms = segue->options.start_timeout_ms < 0
		                                        ? 0
		                                        : (uint32_t)segue->options.start_timeout_ms,
		                    .worker = segue->worker,
		                    .workers = segue->workers };

	return sg_peer_send(peer, &hello, &segue->self_pidfd, 1);
}

/* Takes the pidfd. What the first message says has to fit what the kernel says. */
int sg_peer_take_hello(struct peer *peer, const struct sg_message *message, int pidfd)
{
	pid_t pid = sg_pidfd_pid(pidfd);

	if (pid != -ESRCH && pid != (pid_t)message->pid) {
		sg_fd_close(pidfd);
		return -EPROTO;
	}
	peer->greeted = true;
	peer->generation = message->generation;
	peer->worker = message->worker;
	peer->workers = message->workers;
	peer->record_min = message->record_min;
	peer->record_max = message->record_max;
	peer->predecessors = message->predecessors;
	peer->version = sg_wire_agree(message->version_min, message->version_max);
	if (peer->pidfd >= 0) {
		sg_fd_close(pidfd);
		return peer->pid == 0 || peer->pid == (pid_t)message->pid ? 0 : -EPROTO;
	}
	peer->pid = (pid_t)message->pid;
	peer->pidfd = pidfd;
	watch_pidfd(peer);
	return 0;
}

struct peer *sg_peer_direct(struct segue *segue, enum peer_role role)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == role && !peer->introduced && !peer->doomed)
			return peer;
	return NULL;
}

/* Whose word makes this generation serve: NULL where it is alone. */
struct peer *sg_peer_upstream(struct segue *segue)
{
	return sg_peer_direct(segue, segue->supervised ? PEER_SUPERVISOR : PEER_PREDECESSOR);
}

/* Does a worker hand over to this one of the workers of a younger generation? */
bool sg_peer_pairs(uint32_t elder, uint32_t younger, uint32_t workers)
{
	return workers > 0 && elder % workers == younger;
}

/* Is b the better one to hand over to? The later to come is, of two that are alike. */
static bool is_better(const struct peer *a, const struct peer *b)
{
	uint32_t worker = a->segue->worker;

	if (a->generation != b->generation)
		return b->generation > a->generation;
	return sg_peer_pairs(worker, b->worker, b->workers) ||
	       !sg_peer_pairs(worker, a->worker, a->workers);
}

/* The youngest generation that serves or did, and to which there is a way; of its workers the
 * one that this one pairs with. */
struct peer *sg_peer_target(struct segue *segue)
{
	struct peer *target = NULL;

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && peer->committed && !peer->broken &&
		    !peer->declines && !peer->dead && !peer->doomed &&
		    (target == NULL || is_better(target, peer)))
			target = peer;
	return target;
}

size_t sg_peer_count(struct segue *segue, enum peer_role role)
{
	size_t count = 0;

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		count += peer->role == role && !peer->doomed;
	return count;
}

static void message(struct peer *peer, struct sg_message *m, int *fds, size_t fds_len, int error)
{
	if (peer->role == PEER_SUPERVISOR)
		sg_supervised_message(peer, m, fds, fds_len, error);
	else if (peer->role == PEER_PREDECESSOR)
		sg_upstream_message(peer, m, fds, fds_len, error);
	else
		sg_downstream_message(peer, m, fds, fds_len, error);
}

void sg_peer_gone(struct peer *peer)
{
	int status;

	if (peer->role == PEER_ABANDONED) {
		(void)sg_pidfd_reap(peer->pidfd, &status);
		sg_peer_doom(peer);
	} else if (peer->role == PEER_SUPERVISOR)
		sg_supervised_gone(peer);
	else if (peer->role == PEER_PREDECESSOR)
		sg_upstream_gone(peer);
	else
		sg_downstream_gone(peer);
}

/*
 * Reads all that is there. The end of the channel is a death only for the pidfd: a peer that
 * closed its channel and lives on is broken, and what it has taken stays its own.
 */
void sg_peer_read(struct peer *peer)
{
	static uint8_t buffer[SG_WIRE_MAX];
	struct sg_message m;
	int fds[SG_WIRE_FDS_MAX];
	size_t fds_len;
	int r;

	while (peer->channel.fd >= 0) {
		r = sg_channel_receive(&peer->channel, buffer, &m, fds, &fds_len);
		if (r == 0)
			return;
		if (r == -EPIPE) {
			peer->ended = true;
			sg_peer_drop_channel(peer);
			return;
		}
		if (r < 0 && r != -EPROTO && r != -EMFILE) {
			sg_queue_warning(peer->segue, r, "the channel to generation %llu failed",
			                 (unsigned long long)peer->generation);
			sg_upstream_give_back(peer);
			sg_peer_drop_channel(peer);
			return;
		}
		message(peer, &m, fds, fds_len, r < 0 ? r : 0);
	}
}

static void channel_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct peer *peer = watch->owner;

	if (events & EPOLLOUT)
		flush(peer);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		sg_peer_read(peer);
	if (peer->doomed)
		return;
	if (peer->channel.fd < 0) {
		if (peer->role == PEER_SUCCESSOR && peer->pidfd >= 0 &&
		    sg_pidfd_dead(peer->pidfd) == 1)
			peer->dead = true;
		sg_peer_gone(peer);
		return;
	}
	sg_handover_pump(segue);
}

static void pidfd_ready(struct segue *segue, struct watch *watch, uint32_t events)
{
	struct peer *peer = watch->owner;

	(void)segue;
	(void)events;
	peer->dead = true;
	sg_watch_remove(peer->segue, &peer->pidfd_watch);
	sg_peer_read(peer);
	if (!peer->doomed)
		sg_peer_gone(peer);
}

/*
 * What has happened and was not yet dispatched: before a deadline ends anything, and, for
 * deaths, before a request to stop is noted as one to a generation that drains.
 */
void sg_peer_look(struct segue *segue, bool deaths_only)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (peer->doomed)
			continue;
		if (peer->pidfd_watch.fd >= 0 && sg_pidfd_dead(peer->pidfd) == 1)
			pidfd_ready(segue, &peer->pidfd_watch, EPOLLIN);
		else if (!deaths_only && peer->channel_watch.fd >= 0)
			channel_ready(segue, &peer->channel_watch, EPOLLIN);
	}
}

void sg_peer_done_all(struct segue *segue)
{
	while (segue->peers != NULL)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the list is no ring. */
		peer_free(segue->peers);
}
