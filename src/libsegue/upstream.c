/* SPDX-License-Identifier: MIT */
/*
 * The successor's side: joining a predecessor or a supervisor, and what predecessors say later.
 *
 * Before the commit any error here ends this process and nothing else. A connection that
 * arrives is given to the application only after its acknowledgement has been written: until
 * then the sender may have to take it back.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOIN_MS   10000
#define MARGIN_MS 5000

static void close_fds(const int *fds, size_t fds_len)
{
	for (size_t i = 0; i < fds_len; i++)
		sg_fd_close(fds[i]);
}

/* What is not acknowledged goes back to the sender, which reads the end of the channel. */
static void end_channel(struct peer *peer)
{
	if (!peer->introduced)
		sg_machine_post(peer->segue, SG_EVENT_PREDECESSOR_BROKE);
	/* It is remembered until it is dead: it could not be told of a successor. */
	peer->broken = true;
	sg_upstream_give_back(peer);
	sg_peer_drop_channel(peer);
}

static void broke(struct peer *peer)
{
	sg_queue_warning(
		peer->segue, EPROTO,
		"generation %llu sent a message that makes no sense; its channel is closed",
		(unsigned long long)peer->generation);
	end_channel(peer);
}

/* Introductions come before the offer, so that a successor which has its listeners is known
 * to every generation that could otherwise serve beside it. An older generation is introduced
 * by its successor, a younger one by its predecessor, and both by a supervisor. */
void sg_upstream_introduction(struct segue *segue, const struct sg_message *message, int *fds)
{
	struct peer *peer = sg_peer_new_take(
		segue, message->upstream ? PEER_PREDECESSOR : PEER_SUCCESSOR, fds[0], fds[1]);

	if (peer == NULL) {
		sg_queue_warning(segue, ENOMEM, "generation %llu could not be introduced",
		                 (unsigned long long)message->generation);
		return;
	}
	peer->introduced = true;
	peer->generation = message->generation;
	peer->worker = message->worker;
	peer->pid = (pid_t)message->pid;
	/* Whoever drains says hello at once; the successor answers when it serves, as it may do
	 * already. */
	if (peer->role == PEER_SUCCESSOR || segue->owner)
		(void)sg_peer_send_hello(peer);
}

static struct queued *make_connection(struct peer *peer, const struct sg_message *message,
                                      const struct sg_wire_connection *connection, int fd)
{
	size_t len = connection->bytes_len + connection->record_len;
	struct queued *queued = sg_queued_new(peer->segue, SEGUE_EVENT_CONNECTION, NULL);
	uint8_t *memory = malloc(len + 1);

	if (queued == NULL || memory == NULL) {
		sg_queued_free(queued);
		free(memory);
		return NULL;
	}
	if (connection->bytes_len > 0)
		memcpy(memory, connection->bytes, connection->bytes_len);
	if (connection->record_len > 0)
		memcpy(memory + connection->bytes_len, connection->record, connection->record_len);
	queued->memory = memory;
	queued->event.fd = fd;
	queued->event.generation = peer->generation;
	queued->event.worker = peer->worker;
	queued->event.bytes = memory;
	queued->event.bytes_len = connection->bytes_len;
	queued->event.record = memory + connection->bytes_len;
	queued->event.record_len = connection->record_len;
	queued->event.record_version = message->record_version;
	return queued;
}

static void free_connections(struct queued *first)
{
	struct queued *next;

	for (; first != NULL; first = next) {
		next = first->next;
		sg_queued_free(first);
	}
}

/* All connections of a batch as events, or none where there is no memory for one of them. */
static struct queued *make_connections(struct peer *peer, struct sg_message *message,
                                       const int *fds, size_t fds_len)
{
	struct queued *first = NULL, **last = &first;
	struct sg_wire_connection connection;

	for (size_t i = 0; i < fds_len; i++) {
		(void)sg_wire_next_connection(&message->items, &message->items_len, &connection);
		*last = make_connection(peer, message, &connection, fds[i]);
		if (*last == NULL)
			break;
		last = &(*last)->next;
		if (i + 1 == fds_len)
			return first;
	}
	free_connections(first);
	return NULL;
}

/* Those whose acknowledgement has been written, or which nobody is left to take back. */
void sg_upstream_release(struct peer *peer)
{
	uint64_t written = peer->channel.enqueued - peer->channel.queued;
	struct queued *queued;

	while ((queued = peer->held_first) != NULL && queued->taken <= written) {
		peer->held_first = queued->next;
		sg_queue_push(peer->segue, queued);
	}
	if (peer->held_first == NULL)
		peer->held_last = &peer->held_first;
}

/* Before this end of a channel is closed while its sender lives: what it cannot know to be
 * taken it takes back. */
void sg_upstream_give_back(struct peer *peer)
{
	sg_upstream_release(peer);
	/* One that has gone takes nothing back: what it gave is ours. */
	if (peer->dead || (peer->pidfd >= 0 && sg_pidfd_dead(peer->pidfd) == 1)) {
		for (struct queued *queued = peer->held_first; queued != NULL;
		     queued = queued->next)
			queued->taken = 0;
		sg_upstream_release(peer);
		return;
	}
	for (struct queued *queued = peer->held_first; queued != NULL; queued = queued->next)
		sg_fd_close(queued->event.fd);
	free_connections(peer->held_first);
	peer->held_first = NULL;
	peer->held_last = &peer->held_first;
}

/* What becomes of a batch; -EPIPE: nobody is left to be told. */
static int answer(struct peer *peer, enum sg_message_type type, uint32_t serial, int error)
{
	struct sg_message message = { .type = type, .serial = serial, .error = (uint32_t)error };

	return sg_peer_send(peer, &message, NULL, 0);
}

/* A sender that could not be told would wait until its drain ends and then take the batch for
 * ours: the end of the channel tells it. No copy of the batch is left here by then. */
static void not_told(struct peer *peer, int error)
{
	sg_queue_warning(peer->segue, error,
	                 "generation %llu could not be told what became of its connections: %s; "
	                 "its channel is closed",
	                 (unsigned long long)peer->generation, strerror(-error));
	end_channel(peer);
}

static void decline(struct peer *peer, uint32_t serial, int error)
{
	int r = answer(peer, SG_MESSAGE_DECLINED, serial, error);

	if (r < 0 && r != -EPIPE)
		not_told(peer, r);
}

/* Has the application already said, or been told, that nothing is left here? */
static bool leaves(struct segue *segue)
{
	return segue->state == SG_STATE_CUTTING || segue->state == SG_STATE_DRAINED ||
	       segue->state == SG_STATE_ENDING || segue->state == SG_STATE_GONE;
}

static void take_connections(struct peer *peer, struct sg_message *message, int *fds,
                             size_t fds_len)
{
	struct segue *segue = peer->segue;
	struct queued *connections;
	int r;

	if (message->record_version < segue->options.record_version_min ||
	    message->record_version > segue->options.record_version_max) {
		close_fds(fds, fds_len);
		decline(peer, (uint32_t)message->serial, EPROTONOSUPPORT);
		return;
	}
	if (leaves(segue)) {
		close_fds(fds, fds_len);
		decline(peer, (uint32_t)message->serial, EAGAIN);
		return;
	}
	connections = make_connections(peer, message, fds, fds_len);
	if (connections == NULL && fds_len > 0) {
		close_fds(fds, fds_len);
		decline(peer, (uint32_t)message->serial, ENOMEM);
		return;
	}
	r = answer(peer, SG_MESSAGE_TAKEN, (uint32_t)message->serial, 0);
	if (r < 0 && r != -EPIPE) {
		/* Not acknowledged: not ours. */
		free_connections(connections);
		close_fds(fds, fds_len);
		not_told(peer, r);
		return;
	}
	*peer->held_last = connections;
	while (*peer->held_last != NULL) {
		(*peer->held_last)->taken = r == 0 ? peer->channel.enqueued : 0;
		peer->held_last = &(*peer->held_last)->next;
	}
	sg_upstream_release(peer);
}

static void take_final(struct peer *peer)
{
	struct segue *segue = peer->segue;
	struct queued *queued = sg_queued_new(segue, SEGUE_EVENT_FINAL_STATE, NULL);

	if (queued == NULL)
		return;
	queued->event.generation = peer->generation;
	queued->event.worker = peer->worker;
	queued->peer_id = peer->id;
	queued->blobs = peer->arriving;
	peer->arriving = NULL;
	sg_queue_push(segue, queued);
}

/*
 * The application has dealt with the final state, and so with all that came before it: it
 * serves. Only now may the predecessor go, which until then takes the service back.
 */
void sg_upstream_receipt(struct segue *segue, uint64_t peer_id)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && peer->id == peer_id)
			(void)sg_peer_send_type(peer, SG_MESSAGE_RECEIPT);
}

/* What comes before the end of the offer. False where it makes no sense now. */
bool sg_upstream_handshake(struct peer *peer, struct sg_message *message, int *fds)
{
	struct segue *segue = peer->segue;
	int r;

	if (segue->opened || !peer->greeted)
		return false;
	switch (message->type) {
	case SG_MESSAGE_LISTENER:
		if (segue->offers >= SEGUE_LISTENERS_MAX)
			return false;
		r = sg_listeners_adopt_take(segue, message, fds[0]);
		if (sg_channel_passes(r)) {
			/* Bound again it could be another: one with port 0 would be. */
			segue->lacks = -r;
			peer->broken = true;
		} else if (r < 0) {
			sg_queue_warning(segue, r, "listener %s could not be taken over",
			                 message->name);
		}
		return true;
	case SG_MESSAGE_PID_FILE:
		if (segue->pid_file_path == NULL || segue->pidfile_held ||
		    strcmp(segue->pid_file_path, message->name) != 0) {
			sg_fd_close(fds[0]);
			return true;
		}
		r = sg_pidfile_adopt_take(&segue->pidfile, message->name, fds[0]);
		segue->pidfile_held = r == 0;
		return true;
	case SG_MESSAGE_OFFERED:
		peer->ready = message->count == segue->offers;
		return peer->ready;
	default:
		return false;
	}
}

static bool take_greeting(struct peer *peer, struct sg_message *message, int *fds)
{
	struct segue *segue = peer->segue;

	if (peer->greeted || sg_peer_take_hello(peer, message, fds[0]) < 0)
		return false;
	if (peer->introduced)
		return true;
	segue->generation = message->generation + 1;
	segue->start_ms =
		message->start_ms > 0 ? (int64_t)message->start_ms + MARGIN_MS : SEGUE_FOREVER;
	snprintf(segue->scratch, sizeof(segue->scratch),
	         "no common protocol version: generation %llu speaks %u to %u, this program %u to "
	         "%u",
	         (unsigned long long)message->generation, message->version_min,
	         message->version_max, SG_WIRE_VERSION_MIN, SG_WIRE_VERSION_MAX);
	return true;
}

/* Without a probation its end need not be waited for: an upgrade may follow at once. */
void sg_upstream_commit(struct segue *segue, const struct sg_message *message)
{
	segue->start_ms = (int64_t)message->probation_ms + MARGIN_MS;
	sg_machine_post(segue, SG_EVENT_COMMIT);
	if (message->probation_ms == 0)
		sg_machine_post(segue, SG_EVENT_CONFIRM);
}

void sg_upstream_given_up(struct peer *peer)
{
	struct segue *segue = peer->segue;

	if (segue->state != SG_STATE_STARTING && segue->state != SG_STATE_READY)
		return;
	segue->given_up = true;
	peer->broken = !segue->opened;
	sg_machine_post(segue, SG_EVENT_PREDECESSOR_BROKE);
}

/* Under a supervisor a predecessor hands over what it has; orders are the supervisor's. */
static bool may_say(const struct peer *peer, enum sg_message_type type)
{
	return !peer->segue->supervised || type == SG_MESSAGE_HELLO || type == SG_MESSAGE_BLOB ||
	       type == SG_MESSAGE_STATE || type == SG_MESSAGE_FAILED ||
	       type == SG_MESSAGE_CONNECTIONS || type == SG_MESSAGE_FINAL;
}

void sg_upstream_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                         int error)
{
	struct segue *segue = peer->segue;

	if (error == -EMFILE && message->type == SG_MESSAGE_CONNECTIONS) {
		decline(peer, (uint32_t)message->serial, EMFILE);
		sg_queue_warning(segue, EMFILE,
		                 "a batch of connections was declined; raise RLIMIT_NOFILE");
		return;
	}
	if (error < 0) {
		segue->no_descriptors = error == -EMFILE;
		broke(peer);
		return;
	}
	if (!may_say(peer, message->type)) {
		close_fds(fds, fds_len);
		broke(peer);
		return;
	}
	switch (message->type) {
	case SG_MESSAGE_HELLO:
		if (peer->greeted)
			break;
		if (take_greeting(peer, message, fds))
			return;
		fds_len = 0;
		break;
	case SG_MESSAGE_SUPERVISE:
		if (peer->introduced || !peer->greeted || segue->opened)
			break;
		sg_supervised_begin(peer, message);
		return;
	case SG_MESSAGE_INTRODUCE:
		sg_upstream_introduction(segue, message, fds);
		return;
	case SG_MESSAGE_BLOB:
		sg_state_take_blob(peer, message, fds[0]);
		return;
	case SG_MESSAGE_STATE:
		sg_state_take_snapshot(peer);
		return;
	case SG_MESSAGE_COMMIT:
		sg_upstream_commit(segue, message);
		return;
	case SG_MESSAGE_CONFIRM:
		sg_machine_post(segue, SG_EVENT_CONFIRM);
		return;
	case SG_MESSAGE_FAILED:
		if (segue->supervised)
			sg_state_take_refusal(peer, message);
		else
			sg_upstream_given_up(peer);
		return;
	case SG_MESSAGE_CONNECTIONS:
		take_connections(peer, message, fds, fds_len);
		return;
	case SG_MESSAGE_FINAL:
		take_final(peer);
		return;
	default:
		if (sg_upstream_handshake(peer, message, fds))
			return;
		break;
	}
	close_fds(fds, fds_len);
	broke(peer);
}

void sg_upstream_gone(struct peer *peer)
{
	bool direct = !peer->introduced;
	struct segue *segue = peer->segue;

	if (peer->broken && !peer->dead)
		return;
	/* Before the commit only a death makes this generation serve; its pidfd will tell. */
	if (direct && !peer->dead && peer->pidfd >= 0 && sg_pidfd_dead(peer->pidfd) == 0 &&
	    (segue->state == SG_STATE_STARTING || segue->state == SG_STATE_READY) && segue->opened)
		return;
	sg_peer_doom(peer);
	sg_manager_look(segue);
	/* With nobody left who could serve, there is no deadline for the application's start. */
	if (segue->state == SG_STATE_STARTING && !segue->supervised &&
	    sg_peer_count(segue, PEER_PREDECESSOR) == 0) {
		segue->deadline_ms = -1;
		sg_timer_arm(segue);
	}
	/* Inside segue_open() the absence of the peer is noticed by whoever waits. */
	if (direct && segue->opened)
		sg_machine_post(segue, SG_EVENT_PREDECESSOR_GONE);
}

struct waiting {
	struct pollfd *pollers;
	struct peer **peers;
	nfds_t count;
};

static bool speaks_to_us(const struct peer *peer)
{
	return (peer->role == PEER_PREDECESSOR || peer->role == PEER_SUPERVISOR) && !peer->doomed &&
	       peer->channel.fd >= 0;
}

static int waiting_init(struct segue *segue, struct waiting *waiting)
{
	size_t count = 0;

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		count += speaks_to_us(peer);
	waiting->count = 0;
	/* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): whom we wait for speaks. */
	waiting->pollers = calloc(count, sizeof(*waiting->pollers));
	waiting->peers = calloc(count, sizeof(struct peer *));
	if (waiting->pollers == NULL || waiting->peers == NULL)
		return -ENOMEM;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (!speaks_to_us(peer))
			continue;
		waiting->pollers[waiting->count] =
			(struct pollfd){ .fd = peer->channel.fd,
			                 .events = peer->channel.queued > 0 ? POLLIN | POLLOUT
			                                                    : POLLIN };
		waiting->peers[waiting->count++] = peer;
	}
	return 0;
}

/* One round: waits for words from above and takes them. */
static int hear(struct segue *segue, int64_t left_ms)
{
	struct waiting waiting;
	int r = waiting_init(segue, &waiting);

	if (r == 0 && poll(waiting.pollers, waiting.count, (int)left_ms) < 0 && errno != EINTR)
		r = -errno;
	for (nfds_t i = 0; r == 0 && i < waiting.count; i++) {
		struct peer *peer = waiting.peers[i];

		if (waiting.pollers[i].revents == 0 || peer->doomed)
			continue;
		if (waiting.pollers[i].revents & POLLOUT)
			(void)sg_channel_flush(&peer->channel);
		sg_peer_read(peer);
		if (peer->introduced && peer->channel.fd < 0 && !peer->doomed)
			sg_peer_gone(peer);
	}
	free(waiting.pollers);
	free(waiting.peers);
	return r;
}

/* Waits for messages from above: only in segue_open() and segue_blob(). */
int sg_upstream_wait(struct segue *segue, bool (*done)(struct segue *), int64_t timeout_ms)
{
	int64_t deadline = sg_now_ms() + timeout_ms;

	for (;;) {
		struct peer *peer = sg_peer_upstream(segue);
		int64_t left = deadline - sg_now_ms();
		int r;

		if (done(segue))
			return 0;
		if (peer == NULL)
			return -EPIPE;
		if (peer->channel.fd < 0) {
			sg_peer_gone(peer);
			return -EPIPE;
		}
		if (left <= 0)
			return -ETIMEDOUT;
		r = hear(segue, left);
		if (r < 0)
			return r;
		if (peer->broken)
			return -EPROTO;
	}
}

static bool greeted(struct segue *segue)
{
	struct peer *peer = sg_peer_upstream(segue);

	return peer != NULL && peer->greeted;
}

static bool offered(struct segue *segue)
{
	struct peer *peer = sg_peer_upstream(segue);

	return peer != NULL && peer->ready;
}

static int join_fails(struct segue *segue, int error)
{
	const char *who = segue->supervised ? "supervisor" : "predecessor";

	switch (error) {
	case -EPROTONOSUPPORT:
		(void)sg_fail(segue, -EPROTO, "%s", segue->scratch);
		break;
	case -ETIMEDOUT:
		(void)sg_fail(segue, error, "the %s did not talk for %d ms", who, JOIN_MS);
		break;
	case -EPIPE:
		(void)sg_fail(segue, error, "the %s ended before it had handed over its listeners",
		              who);
		break;
	case -ENOMEM:
		(void)sg_fail(segue, error, "no memory");
		break;
	default:
		if (segue->lacks != 0)
			(void)sg_fail(segue, -segue->lacks,
			              "the listeners of the %s could not be taken over: %s", who,
			              strerror(segue->lacks));
		else if (segue->no_descriptors)
			(void)sg_fail(segue, -EPROTO,
			              "there is no room for the descriptors of the %s; raise "
			              "RLIMIT_NOFILE",
			              who);
		else
			(void)sg_fail(segue, -EPROTO,
			              segue->given_up ? "the %s has given this start up"
			                              : "the %s sent a message that makes no sense",
			              who);
		break;
	}
	return error == -EPROTONOSUPPORT ? -EPROTO : error;
}

/* A process that dies closes its channel before, maybe, its listeners and the lock of its pid
 * file: they are free when its pidfd says so. */
static int wait_for_death(const struct peer *peer)
{
	struct pollfd poller = { .fd = peer->pidfd, .events = POLLIN };
	int r;

	do {
		r = poll(&poller, 1, JOIN_MS);
	} while (r < 0 && errno == EINTR);
	return r > 0 ? 0 : r < 0 ? -errno : -ETIMEDOUT;
}

/*
 * Joins the predecessor or supervisor at the other end: greetings, introductions, listeners.
 * Where a predecessor dies before it has offered its listeners, this generation serves alone,
 * unless older ones still drain: they will serve again, and two must not. Without its
 * supervisor a worker never begins; one whose supervisor dies right behind its greeting does
 * not know it for one, so a supervisor greets as one to whom others drain.
 */
int sg_upstream_join(struct segue *segue, int channel_fd)
{
	struct peer *peer = sg_peer_new_take(segue, PEER_PREDECESSOR, channel_fd, -1);
	uint32_t others;
	int r;

	if (peer == NULL)
		return sg_fail(segue, -ENOMEM, "no memory for the channel to the predecessor");
	r = sg_upstream_wait(segue, greeted, JOIN_MS);
	if (r < 0)
		return join_fails(segue, r);
	if (peer->version < 0)
		return join_fails(segue, peer->version);
	others = peer->predecessors;
	(void)sg_peer_send_hello(peer);
	r = sg_upstream_wait(segue, offered, JOIN_MS);
	if (r == -EPIPE && others == 0 && !segue->supervised) {
		r = wait_for_death(peer);
		if (r < 0)
			return join_fails(segue, r);
		sg_queue_warning(segue, EOWNERDEAD,
		                 "the predecessor died during the handover; serving alone");
		return 0;
	}
	if (r < 0)
		return join_fails(segue, r);
	peer->ready = false;
	return 0;
}
