/* SPDX-License-Identifier: MIT */
/*
 * What successors say: the one that starts, the one that serves, and later ones that were
 * introduced while this generation drains.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * Every older generation that still drains gets a channel to the new one, and the other way
 * round, before the new one gets its listeners: whatever dies from here on, each knows who
 * else could serve.
 */
static int introduce_one(struct peer *successor, struct peer *elder)
{
	struct sg_message up = { .type = SG_MESSAGE_INTRODUCE,
		                 .generation = successor->generation,
		                 .pid = (uint32_t)successor->pid };
	struct sg_message down = { .type = SG_MESSAGE_INTRODUCE,
		                   .generation = elder->generation,
		                   .pid = (uint32_t)elder->pid,
		                   .upstream = 1 };
	int fds[2], pair[2];
	int r = sg_channel_pair(fds);

	if (r < 0)
		return r;
	pair[0] = fds[0];
	pair[1] = successor->pidfd;
	r = sg_peer_send(elder, &up, pair, 2);
	if (r == 0) {
		pair[0] = fds[1];
		pair[1] = elder->pidfd;
		r = sg_peer_send(successor, &down, pair, 2);
	} else if (r == -EPIPE) {
		r = 0; /* it has gone meanwhile */
	}
	sg_fd_close(fds[0]);
	sg_fd_close(fds[1]);
	return r;
}

/* Where an elder cannot be told of the successor there is no upgrade: two could serve. */
static int introduce(struct segue *segue, struct peer *successor)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		int r;

		if (peer->role != PEER_PREDECESSOR || peer->doomed)
			continue;
		/* One that lives and whose channel was closed: it has not gone, and hears nothing.
		 */
		r = peer->broken ? -ENOTCONN : introduce_one(successor, peer);
		if (r < 0 && r != -EPIPE) {
			sg_attempt_failed(
				segue, r,
				"generation %llu, which still drains, could not be told of it: %s",
				(unsigned long long)peer->generation,
				peer->broken ? "its channel is closed" : strerror(-r));
			sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
			return r;
		}
	}
	return 0;
}

static void greeted(struct segue *segue, struct peer *peer)
{
	struct sg_message pid_file = { .type = SG_MESSAGE_PID_FILE };

	if (peer->introduced) {
		/* It says hello when it serves. */
		peer->committed = peer->version >= 0;
		segue->lost_due_ms = -1;
		if (segue->supervised && peer->committed)
			sg_supervised_successor_serves(segue);
		sg_handover_pump(segue);
		if (segue->state == SG_STATE_DRAINED)
			sg_machine_settle(segue);
		return;
	}
	if (peer->version < 0) {
		sg_attempt_failed(segue, EPROTONOSUPPORT, "no common protocol version");
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	if (introduce(segue, peer) < 0)
		return;
	if (segue->pidfile_held) {
		snprintf(pid_file.name, sizeof(pid_file.name), "%s", segue->pid_file_path);
		(void)sg_peer_send(peer, &pid_file, &segue->pidfile.lock_fd, 1);
	}
	sg_listeners_offer(segue, peer);
}

static bool is_attempt(struct peer *peer)
{
	return peer->segue->attempt.peer == peer;
}

/* Nonsense: before the commit it ends the successor, after it the channel. */
static void broke(struct peer *peer, const char *what)
{
	struct segue *segue = peer->segue;

	if (is_attempt(peer)) {
		sg_attempt_failed(segue, EPROTO, "it sent %s", what);
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	sg_queue_warning(segue, EPROTO,
	                 "generation %llu sent %s; what is not handed over is finished here",
	                 (unsigned long long)peer->generation, what);
	peer->broken = peer->deaf = true;
	sg_handover_pump(segue);
}

static void take_ready(struct segue *segue, struct peer *peer, const struct sg_message *message)
{
	if (!is_attempt(peer) || peer->ready) {
		sg_queue_warning(segue, EPROTO, "generation %llu said ready twice; ignored",
		                 (unsigned long long)peer->generation);
		return;
	}
	if (!peer->greeted || message->count > segue->listeners_len) {
		broke(peer, "a message that makes no sense");
		return;
	}
	/* That it runs has not been said where its word came first. */
	sg_attempt_look(segue);
	peer->ready = true;
	sg_listeners_mark(segue, message);
	sg_machine_post(segue, SG_EVENT_SUCCESSOR_READY);
}

void sg_downstream_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                           int error)
{
	struct segue *segue = peer->segue;

	if (peer->broken)
		goto out;
	if (error < 0) {
		broke(peer, error == -EMFILE
		                    ? "descriptors for which there is no room (see RLIMIT_NOFILE)"
		                    : "a message that makes no sense");
		return;
	}
	switch (message->type) {
	case SG_MESSAGE_HELLO:
		if (peer->greeted && peer->committed) {
			/* It serves again, after its own successor has failed. */
			peer->declines = false;
			sg_handover_pump(segue);
			break;
		}
		if (peer->greeted) {
			broke(peer, "a second greeting");
			break;
		}
		if (sg_peer_take_hello(peer, message, fds[0]) < 0)
			broke(peer, "a greeting that makes no sense (does the program fork?)");
		else
			greeted(segue, peer);
		return;
	case SG_MESSAGE_WANT_STATE:
		if (!sg_state_send_snapshot(peer))
			broke(peer, "a request for state after it was ready");
		break;
	case SG_MESSAGE_READY:
		take_ready(segue, peer, message);
		break;
	case SG_MESSAGE_FAILED:
		if (is_attempt(peer)) {
			sg_attempt_failed(segue, (int)message->error, "%s", message->text);
			sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		}
		break;
	case SG_MESSAGE_TAKEN:
		sg_handover_answer(peer, (uint32_t)message->serial, true, 0);
		break;
	case SG_MESSAGE_DECLINED:
		sg_handover_answer(peer, (uint32_t)message->serial, false, (int)message->error);
		break;
	case SG_MESSAGE_RECEIPT:
		peer->receipt = true;
		if (peer == sg_peer_target(segue) && peer->final_sent && sg_manager_settled(segue))
			sg_machine_post(segue, SG_EVENT_SETTLED);
		break;
	case SG_MESSAGE_DROPPED:
		sg_listeners_drop_address(segue, message->text);
		break;
	case SG_MESSAGE_INTRODUCE:
		/* Only who serves has a successor to introduce; a worker never. */
		if (is_attempt(peer) || segue->supervised) {
			broke(peer, "a message that makes no sense");
			break;
		}
		sg_upstream_introduction(segue, message, fds);
		return;
	case SG_MESSAGE_STOPS:
		if (segue->supervised) {
			broke(peer, "a message that makes no sense");
			break;
		}
		if (is_attempt(peer))
			sg_attempt_failed(segue, ECANCELED, "it was asked to stop");
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_STOPS);
		if (message->now && segue->state == SG_STATE_STOPPING)
			sg_machine_post(segue, SG_EVENT_STOP_NOW);
		break;
	default:
		broke(peer, "a message that makes no sense");
		break;
	}
out:
	for (size_t i = 0; i < fds_len; i++)
		sg_fd_close(fds[i]);
}

static bool successor_lives(struct segue *segue)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && !peer->doomed && !peer->dead)
			return true;
	return false;
}

/* The channel has ended, or the process is dead, or both. */
void sg_downstream_gone(struct peer *peer)
{
	struct segue *segue = peer->segue;
	int status;

	if (is_attempt(peer)) {
		/* Its process is watched by the attempt, which knows how it ended. */
		if (peer->dead)
			return;
		/* An exec error was written before the channel was closed by it. */
		sg_attempt_look(segue);
		segue->attempt.hung_up = segue->attempt.reason[0] == '\0';
		sg_attempt_failed(segue, EPIPE, "it closed its channel before it was ready");
		sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
		return;
	}
	if (!peer->dead) {
		/* Alive without a channel: nothing can be handed over, and what it has not taken
		 * comes back. It is so for a moment, too, before it is dead, and its death gives
		 * more back than that: it is waited for first. */
		peer->broken = true;
		if (sg_handover_comes_back(peer))
			sg_peer_stall(peer);
		if (segue->supervised)
			sg_supervised_lost(segue, peer->committed);
		else
			sg_handover_pump(segue);
		return;
	}
	(void)sg_pidfd_reap(peer->pidfd, &status);
	sg_handover_take_back(peer);
	sg_peer_doom(peer);
	if (segue->supervised) {
		sg_supervised_lost(segue, peer->committed);
		return;
	}
	if (peer->deaf) {
		sg_queue_warning(
			segue, EOWNERDEAD,
			"generation %llu is dead, and what it said could not be read: this "
			"generation does not serve again, for another one may",
			(unsigned long long)peer->generation);
		sg_handover_pump(segue);
		return;
	}
	if (successor_lives(segue)) {
		/* Another one serves, or will and says hello then: it gets what this one did not.
		 */
		sg_handover_pump(segue);
		if (segue->state == SG_STATE_DRAINED && sg_peer_target(segue) != NULL)
			sg_machine_settle(segue);
		return;
	}
	sg_machine_post(segue, SG_EVENT_SUCCESSOR_FAILED);
}
