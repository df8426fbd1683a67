/* SPDX-License-Identifier: MIT */
/*
 * A worker's side of the channel to its supervisor.
 *
 * The supervisor alone decides who serves: COMMIT, RETIRE, RESUME, STOP and CUT are its orders,
 * and the deaths of other workers change nothing here but what becomes of connections. It is
 * taken for dead when its channel ends or what it says makes no sense: then there will be no
 * order any more, and whoever has not served gives up. Who serves drains, or serves on where
 * the supervisor has said so beforehand, until a successor is heard to serve.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#define PROGRESS_EVERY_MS 100
#define LOST_MS           10000

static int64_t duration(uint32_t ms)
{
	return ms == SG_WIRE_FOREVER ? SEGUE_FOREVER : (int64_t)ms;
}

/* The other end is no generation: from here on it is spoken to as a supervisor. */
void sg_supervised_begin(struct peer *peer, const struct sg_message *message)
{
	struct segue *segue = peer->segue;

	peer->role = PEER_SUPERVISOR;
	segue->supervised = true;
	segue->worker = message->worker;
	segue->workers = message->workers;
	segue->orphans_serve = message->flags & SG_SUPERVISE_ORPHANS_SERVE;
	segue->options.drain_timeout_ms = duration(message->drain_ms);
	/* Its death is seen on the channel. The kernel would send its signal once for each thread
	 * that a supervisor loses before its last one, and a second stop cuts. */
	(void)prctl(PR_SET_PDEATHSIG, 0);
}

/* A worker whose supervisor has gone. */
bool sg_supervised_alone(struct segue *segue)
{
	return segue->supervised && sg_peer_direct(segue, PEER_SUPERVISOR) == NULL;
}

/* Its successor has died; does it wait for the supervisor to introduce another? */
bool sg_supervised_waits(struct segue *segue)
{
	return segue->lost_due_ms >= 0;
}

/* Is there somebody who could be handed over to, now or when it serves? */
bool sg_supervised_has_successor(struct segue *segue)
{
	if (sg_supervised_waits(segue))
		return true;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && !peer->doomed && !peer->dead && !peer->broken &&
		    !peer->declines)
			return true;
	return false;
}

/* What the dead had not taken goes to whoever is left, or is finished here. */
static void turn_to_another(struct segue *segue)
{
	struct peer *target = sg_peer_target(segue);

	sg_handover_pump(segue);
	if (segue->state == SG_STATE_DRAINED && (target == NULL || !target->final_sent))
		sg_machine_settle(segue);
}

/*
 * A successor has died, or is about to. Who serves now is the supervisor's to say; where nobody is
 * left to hand over to it introduces another that serves, or the one that it starts in its place.
 * One of an attempt that failed before it served is missed by nobody.
 */
void sg_supervised_lost(struct segue *segue, bool served)
{
	if ((served || !segue->owner) && !sg_supervised_has_successor(segue) &&
	    !sg_supervised_alone(segue)) {
		segue->lost_due_ms = sg_now_ms() + LOST_MS;
		sg_timer_arm(segue);
	}
	turn_to_another(segue);
}

static void wait_no_more(struct segue *segue)
{
	if (!sg_supervised_waits(segue))
		return;
	segue->lost_due_ms = -1;
	turn_to_another(segue);
}

/* The youngest that was introduced: the next one, or its own where one worker is replaced. */
static uint64_t successor(struct segue *segue)
{
	uint64_t generation = 0;

	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && !peer->doomed && peer->generation > generation)
			generation = peer->generation;
	return generation > 0 ? generation : segue->generation + 1;
}

void sg_supervised_retire(struct segue *segue)
{
	segue->owner = false;
	segue->had_successor = true;
	segue->attempt.generation = successor(segue);
	segue->attempt.began_ms = sg_now_ms();
	sg_queue_simple(segue, SEGUE_EVENT_COMMIT);
}

/* Nobody is left who could give the order: the word of a successor that it serves stands for it,
 * while it lives. */
static bool retires_alone(struct segue *segue)
{
	struct peer *target = sg_peer_target(segue);

	if (target == NULL || sg_pidfd_dead(target->pidfd) == 1)
		return false;
	segue->options.probation_ms = 0;
	sg_machine_post(segue, SG_EVENT_RETIRE);
	return true;
}

void sg_supervised_successor_serves(struct segue *segue)
{
	if (sg_supervised_alone(segue) && segue->state == SG_STATE_SERVING)
		(void)retires_alone(segue);
}

static void answered(struct segue *segue, uint32_t outcome, uint64_t generation, const char *text)
{
	struct segue_event ended = { .type = SEGUE_EVENT_UPGRADE_ENDED,
		                     .outcome = (enum segue_outcome)outcome,
		                     .generation = generation,
		                     .error = outcome == SEGUE_UPGRADED  ? 0
		                              : outcome == SEGUE_REFUSED ? EBUSY
		                                                         : ECANCELED,
		                     .reason = text,
		                     .took_ms = sg_now_ms() - segue->asked_ms,
		                     .fd = -1 };

	if (!segue->asked)
		return;
	segue->asked = false;
	sg_queue_event(segue, &ended);
}

int sg_supervised_ask(struct segue *segue)
{
	struct peer *peer = sg_peer_direct(segue, PEER_SUPERVISOR);

	if (segue->asked)
		return sg_fail(segue, -EBUSY,
		               "upgrade refused: the supervisor has been asked, and its answer is "
		               "to come");
	if (peer == NULL || sg_peer_send_type(peer, SG_MESSAGE_ASK) < 0)
		return sg_fail(segue, -EPERM,
		               "upgrade refused: the supervisor is gone, and nobody else could "
		               "start the next generation");
	segue->asked = true;
	segue->asked_ms = sg_now_ms();
	return 0;
}

/*
 * The service stops. For one that drains towards successors this is their stop as well: what is
 * idle is closed rather than handed to somebody who leaves.
 */
static void take_stop(struct segue *segue, const struct sg_message *message)
{
	enum sg_event event = SG_EVENT_STOP;

	if (segue->had_successor && !segue->owner)
		event = SG_EVENT_SUCCESSOR_STOPS;
	else if (message->now)
		event = SG_EVENT_STOP_NOW;
	/* Not noted as a first request: one by signal may go to the whole group as well. */
	segue->options.drain_timeout_ms = duration(message->drain_ms);
	sg_machine_post(segue, event);
	if (message->now && segue->state == SG_STATE_STOPPING)
		sg_machine_post(segue, SG_EVENT_STOP_NOW);
}

static bool take_order(struct peer *peer, const struct sg_message *message)
{
	struct segue *segue = peer->segue;

	switch (message->type) {
	case SG_MESSAGE_COMMIT:
		sg_upstream_commit(segue, message);
		return true;
	case SG_MESSAGE_CONFIRM:
		sg_machine_post(segue, SG_EVENT_CONFIRM);
		return true;
	case SG_MESSAGE_FAILED:
		sg_upstream_given_up(peer);
		return true;
	case SG_MESSAGE_RETIRE:
		segue->options.probation_ms = message->probation_ms;
		segue->options.drain_timeout_ms = duration(message->drain_ms);
		sg_machine_post(segue, SG_EVENT_RETIRE);
		return true;
	case SG_MESSAGE_RESUME:
		sg_machine_post(segue, SG_EVENT_RESUME);
		return true;
	case SG_MESSAGE_STOP:
		take_stop(segue, message);
		return true;
	case SG_MESSAGE_CUT:
		sg_machine_post(segue, SG_EVENT_CUT);
		return true;
	case SG_MESSAGE_DROPPED:
		sg_listeners_drop_address(segue, message->text);
		return true;
	case SG_MESSAGE_ANSWER:
		if (message->outcome < SEGUE_UPGRADED || message->outcome > SEGUE_TAKEN_BACK)
			return false;
		answered(segue, message->outcome, message->generation, message->text);
		return true;
	default:
		return false;
	}
}

/* With what it carries; false where it makes no sense, and the descriptors are the caller's. */
static bool take(struct peer *peer, struct sg_message *message, int *fds)
{
	struct segue *segue = peer->segue;

	switch (message->type) {
	case SG_MESSAGE_INTRODUCE:
		sg_upstream_introduction(segue, message, fds);
		return true;
	case SG_MESSAGE_LISTENER:
		if (!segue->opened)
			return sg_upstream_handshake(peer, message, fds);
		sg_listeners_return_take(segue, message, fds[0]);
		return true;
	case SG_MESSAGE_OFFERED:
		return sg_upstream_handshake(peer, message, fds);
	default:
		return take_order(peer, message);
	}
}

/* Nonsense is its end: an order may have been in it. */
static void broke(struct peer *peer)
{
	sg_queue_warning(peer->segue, EPROTO,
	                 "the supervisor sent a message that makes no sense; it counts as gone");
	peer->broken = true;
	sg_peer_drop_channel(peer);
	if (peer->segue->opened)
		sg_supervised_gone(peer);
}

void sg_supervised_message(struct peer *peer, struct sg_message *message, int *fds, size_t fds_len,
                           int error)
{
	/* It drains without a successor then: each connection ends with its next answer. */
	if (error == -EMFILE && message->type == SG_MESSAGE_INTRODUCE && peer->segue->served) {
		sg_queue_warning(peer->segue, EMFILE,
		                 "generation %llu could not be introduced; raise RLIMIT_NOFILE",
		                 (unsigned long long)message->generation);
		return;
	}
	if (error == -EMFILE)
		peer->segue->no_descriptors = true;
	if (error == 0 && take(peer, message, fds))
		return;
	for (size_t i = 0; error == 0 && i < fds_len; i++)
		sg_fd_close(fds[i]);
	broke(peer);
}

/* Its channel has ended, with its process or without: there will be no order any more. */
void sg_supervised_gone(struct peer *peer)
{
	struct segue *segue = peer->segue;
	bool serves = segue->state == SG_STATE_SERVING || segue->state == SG_STATE_PROBATION;

	sg_peer_doom(peer);
	/* Inside segue_open() its absence is noticed by whoever waits. */
	if (!segue->opened)
		return;
	wait_no_more(segue);
	answered(segue, SEGUE_FAILED, segue->generation + 1, "the supervisor is gone");
	if (!serves || !segue->orphans_serve) {
		sg_machine_post(segue, SG_EVENT_SUPERVISOR_GONE);
	} else if (!retires_alone(segue)) {
		sg_queue_warning(segue, EOWNERDEAD,
		                 "the supervisor is gone; worker %u of generation %llu serves on, "
		                 "and nobody can upgrade it",
		                 segue->worker, (unsigned long long)segue->generation);
	}
}

static void say_progress(struct segue *segue, int64_t now_ms)
{
	struct peer *peer = sg_peer_direct(segue, PEER_SUPERVISOR);
	struct sg_message message = { .type = SG_MESSAGE_PROGRESS,
		                      .state = segue->state,
		                      .connections = segue->progress.connections,
		                      .cut = segue->progress.cut };

	segue->progress.due_ms = -1;
	if (peer == NULL)
		return;
	segue->progress.said_ms = now_ms;
	/* A supervisor that does not read is told later, and then how it is then. */
	if (sg_peer_try(peer, &message, NULL, 0) < 0)
		segue->progress.due_ms = now_ms + PROGRESS_EVERY_MS;
	sg_timer_arm(segue);
}

/*
 * Something has changed: said now, or when the last word is old enough; the end is said now. In a
 * drain by the timer alone, which waits until the program has had its events: it counts anew when
 * it hears that it drains, and what it has told before is of no use then.
 */
void sg_supervised_progress(struct segue *segue)
{
	struct progress *progress = &segue->progress;
	int64_t now = sg_now_ms(), due = progress->said_ms + PROGRESS_EVERY_MS;

	if (!segue->supervised || !segue->served)
		return;
	if (segue->state == SG_STATE_GONE || (segue->state != SG_STATE_DRAINING && due <= now)) {
		say_progress(segue, now);
	} else if (progress->due_ms < 0) {
		progress->due_ms = due > now ? due : now;
		sg_timer_arm(segue);
	}
}

void sg_supervised_timer(struct segue *segue, int64_t now_ms)
{
	/* What was read a moment ago may be the order to drain: the program has its events first.
	 */
	if (segue->progress.due_ms >= 0 && segue->progress.due_ms <= now_ms &&
	    segue->events_first == NULL)
		say_progress(segue, now_ms);
	if (sg_supervised_waits(segue) && segue->lost_due_ms <= now_ms)
		wait_no_more(segue);
}

void segue_report(struct segue *segue, uint64_t connections, uint64_t cut)
{
	if (segue == NULL || !segue->supervised ||
	    (segue->progress.connections == connections && segue->progress.cut == cut))
		return;
	segue->progress.connections = connections;
	segue->progress.cut = cut;
	sg_supervised_progress(segue);
}

unsigned int segue_worker(const struct segue *segue)
{
	return segue != NULL ? segue->worker : 0;
}

bool segue_supervised(const struct segue *segue)
{
	return segue != NULL && segue->supervised;
}
