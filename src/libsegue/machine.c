/* SPDX-License-Identifier: MIT */
/*
 * The one writer of the state. Other files post events; here they meet the table, the change
 * is reported, and the action is done. An action that causes another event posts it: it runs
 * after the action has ended.
 */
#include "libsegue/handle.h"
#include "core/fd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ABANDON_MS 10000
#define CUT_MS     5000
#define SETTLE_MS  10000
#define MARGIN_MS  5000

static int64_t limit_of(struct segue *segue, enum sg_state state)
{
	const char *limit = sg_state_limit(state);

	if (strcmp(limit, "start") == 0)
		return state == SG_STATE_UPGRADING ? segue->options.start_timeout_ms
		                                   : segue->start_ms;
	if (strcmp(limit, "probation") == 0)
		return state == SG_STATE_STANDBY ? segue->options.probation_ms : segue->start_ms;
	if (strcmp(limit, "check") == 0)
		return segue->options.check_timeout_ms;
	if (strcmp(limit, "drain") == 0)
		return segue->options.drain_timeout_ms;
	if (strcmp(limit, "abandon") == 0)
		return ABANDON_MS;
	if (strcmp(limit, "cut") == 0)
		return CUT_MS;
	if (strcmp(limit, "settle") == 0)
		return SETTLE_MS;
	return SEGUE_FOREVER;
}

static void enter(struct segue *segue, enum sg_event event, enum sg_state next)
{
	int64_t now = sg_now_ms(), limit = limit_of(segue, next);
	/* A successor that stops as well does not give the drain a second deadline. */
	bool goes_on = event == SG_EVENT_SUCCESSOR_STOPS && segue->state == SG_STATE_DRAINING;
	struct segue_event change = { .type = SEGUE_EVENT_STATE,
		                      .from = (enum segue_state)segue->state,
		                      .to = (enum segue_state)next,
		                      .generation = segue->generation,
		                      .reason = sg_event_text(event),
		                      .took_ms = now - segue->state_since_ms,
		                      .fd = -1 };

	segue->state = next;
	segue->state_since_ms = now;
	if (!goes_on)
		segue->deadline_ms = limit < 0 ? -1 : now + limit;
	sg_queue_event(segue, &change);
	sg_timer_arm(segue);
	sg_supervised_progress(segue);
}

static int64_t left_ms(const struct segue *segue)
{
	int64_t left;

	if (segue->deadline_ms < 0)
		return SEGUE_FOREVER;
	left = segue->deadline_ms - sg_now_ms();
	return left > 0 ? left : 0;
}

static void say_drain(struct segue *segue, bool successor)
{
	struct segue_event drain = { .type = SEGUE_EVENT_DRAIN,
		                     .generation = segue->generation,
		                     .successor = successor,
		                     .deadline_ms = left_ms(segue),
		                     .fd = -1 };

	segue->had_drain = successor;
	sg_queue_event(segue, &drain);
}

/* One that has not served says it to the direct predecessor alone, while that one lives: the
 * older ones are that one's to tell. */
static void tell_predecessors(struct segue *segue, bool now)
{
	struct sg_message stops = { .type = SG_MESSAGE_STOPS, .now = now };
	bool served = segue->owner || segue->had_successor;
	bool direct_only = !served && sg_peer_direct(segue, PEER_PREDECESSOR) != NULL;

	/* A supervisor has told them itself, or it is this worker alone that stops. */
	if (segue->supervised)
		return;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && !(direct_only && peer->introduced))
			(void)sg_peer_send(peer, &stops, NULL, 0);
}

static void confirm_successor(struct segue *segue)
{
	struct peer *peer = sg_peer_direct(segue, PEER_SUCCESSOR);

	if (peer != NULL)
		(void)sg_peer_send_type(peer, SG_MESSAGE_CONFIRM);
}

static void serve(struct segue *segue)
{
	struct queued *queued;

	segue->owner = segue->served = true;
	segue->stop_noted = false;
	sg_manager_serving(segue);
	sg_listeners_close_unwanted(segue);
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR && peer->introduced)
			(void)sg_peer_send_hello(peer);
	queued = sg_queued_new(segue, SEGUE_EVENT_SERVE, NULL);
	if (queued == NULL)
		return;
	queued->event.generation = segue->generation;
	sg_queue_push(segue, queued);
	sg_supervised_progress(segue);
}

/* What is under way to a successor that lives has its answer still to come. Those that served
 * are not given more: whoever serves next says so. */
static void take_back(struct segue *segue)
{
	if (!segue->supervised) {
		sg_handover_end(segue, "the successor is gone");
		return;
	}
	segue->lost_due_ms = -1;
	sg_handover_pump(segue);
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (peer->role != PEER_SUCCESSOR)
			continue;
		peer->declines = peer->committed;
		peer->final_sent = peer->receipt = false;
	}
}

static void resume(struct segue *segue)
{
	struct segue_event ended = { .type = SEGUE_EVENT_UPGRADE_ENDED,
		                     .outcome = SEGUE_TAKEN_BACK,
		                     .generation = segue->attempt.generation,
		                     .error = EOWNERDEAD,
		                     .fd = -1 };

	segue->owner = true;
	segue->stop_noted = false;
	segue->had_drain = false;
	snprintf(segue->scratch, sizeof(segue->scratch),
	         "generation %llu ended after its commit; generation %llu serves again",
	         (unsigned long long)segue->attempt.generation,
	         (unsigned long long)segue->generation);
	ended.reason = segue->scratch;
	ended.took_ms = sg_now_ms() - segue->attempt.began_ms;
	take_back(segue);
	sg_manager_resumed(segue);
	sg_listeners_rebind(segue);
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_PREDECESSOR)
			(void)sg_peer_send_hello(peer);
	sg_queue_event(segue, &ended);
	sg_queue_simple(segue, SEGUE_EVENT_RESUME);
}

static void cut(struct segue *segue)
{
	if (segue->state == SG_STATE_CUTTING)
		confirm_successor(segue);
	sg_handover_end(segue, "the drain has ended");
	sg_queue_simple(segue, SEGUE_EVENT_CUT);
	sg_manager_look(segue);
}

static void stop(struct segue *segue)
{
	sg_manager_stopping(segue);
	tell_predecessors(segue, segue->state == SG_STATE_ENDING);
	sg_attempt_cancel(segue);
	if (segue->state == SG_STATE_ENDING)
		sg_queue_simple(segue, SEGUE_EVENT_CUT);
	else
		say_drain(segue, false);
}

static void follow(struct segue *segue)
{
	tell_predecessors(segue, false);
	sg_handover_end(segue, "the service stops");
	if (segue->state == SG_STATE_STOPPING)
		say_drain(segue, false);
}

/* A process closes its channel before it is dead. */
static bool successor_may_be_dying(struct segue *segue)
{
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
		if (peer->role == PEER_SUCCESSOR && !peer->doomed && peer->channel.fd < 0)
			return true;
	return false;
}

/*
 * The final state goes to whoever serves now; again, where that one died before its receipt.
 * While it may be dying nobody leaves: its death hands the service back, or the deadline ends
 * the wait.
 */
void sg_machine_settle(struct segue *segue)
{
	struct peer *target = sg_peer_target(segue);
	int r = target != NULL ? sg_state_send_final(target) : -ENOTCONN;

	if (r >= 0)
		target->final_sent = true;
	else if (segue->supervised && r == -ENOTCONN && sg_supervised_has_successor(segue))
		return; /* its word that it serves, its death or the deadline comes */
	else if (r != -EPIPE && (segue->supervised || !successor_may_be_dying(segue)))
		sg_machine_post(segue, SG_EVENT_SETTLED);
}

static void leave(struct segue *segue, enum sg_event event)
{
	struct segue_event gone = { .type = SEGUE_EVENT_GONE,
		                    .generation = segue->generation,
		                    .fd = -1 };

	/* On request, before it has served or after it has drained: its elders must not serve
	 * again. A COMMIT may be on its way, and its end would look like a failure. */
	if (event == SG_EVENT_SUCCESSOR_STOPS ||
	    (!segue->had_successor && (event == SG_EVENT_STOP || event == SG_EVENT_STOP_NOW)))
		tell_predecessors(segue, event == SG_EVENT_STOP_NOW);
	sg_queue_event(segue, &gone);
}

static void give_up(struct segue *segue, enum sg_event event)
{
	struct segue_event gone = { .type = SEGUE_EVENT_GONE,
		                    .generation = segue->generation,
		                    .error = event == SG_EVENT_DEADLINE ? ETIMEDOUT : EPROTO,
		                    .fd = -1 };
	struct sg_message failed = { .type = SG_MESSAGE_FAILED };
	struct peer *peer = sg_peer_upstream(segue);
	const char *who = segue->supervised ? "supervisor" : "predecessor", *what;
	char reason[SG_ERROR_MAX];

	what = event == SG_EVENT_DEADLINE          ? "did not hand the service over in time"
	       : event == SG_EVENT_SUPERVISOR_GONE ? "is gone"
	       : segue->given_up                   ? "has given this start up"
	                                           : "sent a message that makes no sense";
	snprintf(reason, sizeof(reason), "the %s %s", who, what);
	gone.reason = reason;
	if (peer != NULL) {
		failed.error = (uint32_t)gone.error;
		snprintf(failed.text, sizeof(failed.text), "%.500s", reason);
		(void)sg_peer_send(peer, &failed, NULL, 0);
	}
	sg_queue_event(segue, &gone);
}

static void say_ready(struct segue *segue)
{
	struct sg_message ready = { .type = SG_MESSAGE_READY };
	struct peer *peer = sg_peer_upstream(segue);

	if (segue->supervised && peer != NULL)
		sg_listeners_pass_up(segue, peer);
	sg_listeners_wanted(segue, &ready);
	/* A predecessor that is gone is noticed by its pidfd; the event follows. */
	if (peer != NULL)
		(void)sg_peer_send(peer, &ready, NULL, 0);
}

static void refuse(struct segue *segue)
{
	char text[SG_ERROR_MAX];
	struct segue_event refused = { .type = SEGUE_EVENT_UPGRADE_ENDED,
		                       .outcome = SEGUE_REFUSED,
		                       .generation = segue->generation + 1,
		                       .error = EBUSY,
		                       .fd = -1 };

	if (!sg_machine_refuses(segue, text, sizeof(text)))
		return;
	refused.reason = text;
	sg_queue_event(segue, &refused);
}

static void act(struct segue *segue, enum sg_action action, enum sg_event event)
{
	char span[SG_SPAN_MAX];

	switch (action) {
	case SG_ACTION_SAY_READY:
		say_ready(segue);
		break;
	case SG_ACTION_SERVE:
		serve(segue);
		break;
	case SG_ACTION_GIVE_UP:
		give_up(segue, event);
		break;
	case SG_ACTION_CHECK:
		sg_attempt_check(segue);
		break;
	case SG_ACTION_SPAWN:
		sg_attempt_spawn(segue);
		break;
	case SG_ACTION_ABANDON:
		if (event == SG_EVENT_DEADLINE)
			sg_attempt_failed(
				segue, ETIMEDOUT,
				segue->attempt.checking
					? "the preflight check did not end within %s"
					: "it was not ready within %s (see --start-timeout)",
				sg_span_text(span, segue->attempt.checking
			                                   ? segue->options.check_timeout_ms
			                                   : segue->options.start_timeout_ms));
		sg_attempt_abandon(segue);
		break;
	case SG_ACTION_REPORT:
		sg_attempt_report(segue);
		break;
	case SG_ACTION_COMMIT:
		sg_attempt_commit(segue);
		break;
	case SG_ACTION_DRAIN:
		if (event == SG_EVENT_STOP)
			segue->stop_noted = true;
		confirm_successor(segue);
		say_drain(segue, !segue->supervised || sg_supervised_has_successor(segue));
		break;
	case SG_ACTION_RETIRE:
		sg_supervised_retire(segue);
		break;
	case SG_ACTION_RESUME:
		resume(segue);
		break;
	case SG_ACTION_CUT:
		/* A second request to stop the service is one to all that belongs to it. */
		if (segue->state == SG_STATE_ENDING && event == SG_EVENT_STOP_NOW)
			tell_predecessors(segue, true);
		cut(segue);
		break;
	case SG_ACTION_SETTLE:
		sg_handover_end(segue, "the drain has ended");
		sg_machine_settle(segue);
		break;
	case SG_ACTION_STOP:
		stop(segue);
		break;
	case SG_ACTION_FOLLOW:
		follow(segue);
		break;
	case SG_ACTION_LEAVE:
		leave(segue, event);
		break;
	case SG_ACTION_REFUSE:
		refuse(segue);
		break;
	case SG_ACTION_NOTE:
	case SG_ACTION_CONFIRM:
	case SG_ACTION_IGNORE:
	case SG_ACTION_NONE:
	case SG_ACTION_COUNT:
		break;
	}
}

/*
 * A generation that has drained goes only when another one lives that serves. A death that
 * has not been dispatched yet will be the next event; one that still starts is waited for.
 */
static bool must_stay(struct segue *segue, enum sg_event event)
{
	struct peer *target = sg_peer_target(segue);

	/* The supervisor holds the listeners, and starts whoever is missing. */
	if (segue->supervised || segue->state != SG_STATE_DRAINED ||
	    (event != SG_EVENT_SETTLED && event != SG_EVENT_DEADLINE && event != SG_EVENT_STOP_NOW))
		return false;
	if (target != NULL)
		return sg_pidfd_dead(target->pidfd) == 1;
	for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next) {
		if (peer->role != PEER_SUCCESSOR || peer->doomed || peer->dead || peer->deaf ||
		    (peer->broken && peer->committed))
			continue;
		segue->deadline_ms = sg_now_ms() + SETTLE_MS;
		sg_timer_arm(segue);
		return true;
	}
	return false;
}

static void step(struct segue *segue, enum sg_event event)
{
	struct sg_step step = sg_lifecycle_step(segue->state, event);

	if (must_stay(segue, event))
		return;
	if (step.next != segue->state)
		enter(segue, event, step.next);
	act(segue, step.action, event);
}

void sg_machine_post(struct segue *segue, enum sg_event event)
{
	size_t room = sizeof(segue->pending) / sizeof(segue->pending[0]);

	if (segue->pending_len < room)
		segue->pending[segue->pending_len++] = event;
	if (segue->machine_runs)
		return;
	segue->machine_runs = true;
	while (segue->pending_len > 0) {
		event = segue->pending[0];
		segue->pending_len--;
		memmove(segue->pending, segue->pending + 1,
		        segue->pending_len * sizeof(segue->pending[0]));
		step(segue, event);
	}
	segue->machine_runs = false;
}

void sg_machine_timer(struct segue *segue, int64_t now_ms)
{
	if (segue->deadline_ms < 0 || segue->deadline_ms > now_ms)
		return;
	segue->deadline_ms = -1;
	sg_machine_post(segue, SG_EVENT_DEADLINE);
}

static const char *state_phrase(enum sg_state state)
{
	switch (state) {
	case SG_STATE_CHECKING:
		return "is being checked";
	case SG_STATE_UPGRADING:
		return "starts";
	case SG_STATE_ABANDONING:
		return "failed and is being ended";
	default:
		return "serves";
	}
}

/* The exact answer: which generation is in which state and how long it may take. */
bool sg_machine_refuses(struct segue *segue, char *text, size_t size)
{
	struct sg_step step = sg_lifecycle_step(segue->state, SG_EVENT_UPGRADE);
	unsigned long long own = segue->generation, next = segue->attempt.generation;
	int64_t left = left_ms(segue);
	char wait[64] = "";

	if (step.action != SG_ACTION_REFUSE)
		return false;
	if (left >= 0)
		snprintf(wait, sizeof(wait), "; it may take %lld s more",
		         (long long)(left + 999) / 1000);
	switch (segue->state) {
	case SG_STATE_CHECKING:
	case SG_STATE_UPGRADING:
	case SG_STATE_ABANDONING:
		snprintf(text, size, "generation %llu %s%s; ask again then", next,
		         state_phrase(segue->state), wait);
		break;
	case SG_STATE_STANDBY:
		snprintf(text, size, "generation %llu is on probation%s; ask it then", next, wait);
		break;
	case SG_STATE_PROBATION:
		snprintf(text, size, "generation %llu is on probation%s; ask again then", own,
		         wait);
		break;
	case SG_STATE_DRAINING:
	case SG_STATE_CUTTING:
	case SG_STATE_DRAINED:
		snprintf(text, size,
		         "generation %llu is draining%s; generation %llu serves, ask it", own, wait,
		         next);
		break;
	default:
		snprintf(text, size, "generation %llu is %s%s", own, sg_state_text(segue->state),
		         wait);
	}
	return true;
}
