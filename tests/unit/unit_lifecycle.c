/* SPDX-License-Identifier: MIT */
/*
 * The table of a generation's life: total, with a way out of every state, and with the rules
 * of an upgrade in it. Each claim iterates the table, so that a new state or event is under
 * it from the first day.
 */
#include "unit.h"

#include "core/lifecycle.h"

#define EACH_STATE(s) (enum sg_state s = SG_STATE_NONE + 1; (s) < SG_STATE_COUNT; (s)++)
#define EACH_EVENT(e) (enum sg_event e = SG_EVENT_NONE + 1; (e) < SG_EVENT_COUNT; (e)++)

#define STEP_FAIL(state, event, step, why)                                      \
	UNIT_FAIL("%s: in %s, %s leads to %s by %s", why, sg_state_text(state), \
	          sg_event_text(event), sg_state_text((step).next), sg_action_text((step).action))

static bool waits(enum sg_state state)
{
	return strcmp(sg_state_limit(state), "none") != 0;
}

/* Has the successor been told that it serves, and may it be serving still? */
static bool after_commit(enum sg_state state)
{
	return state == SG_STATE_STANDBY || state == SG_STATE_DRAINING ||
	       state == SG_STATE_CUTTING || state == SG_STATE_DRAINED;
}

static bool before_serving(enum sg_state state)
{
	return state == SG_STATE_STARTING || state == SG_STATE_READY;
}

/* An upgrade is under way, and this generation serves. */
static bool attempts(enum sg_state state)
{
	return state == SG_STATE_CHECKING || state == SG_STATE_UPGRADING ||
	       state == SG_STATE_ABANDONING;
}

static bool ends(enum sg_state state)
{
	return state == SG_STATE_STOPPING || state == SG_STATE_ENDING || state == SG_STATE_GONE;
}

UNIT_CASE(every_event_means_something_in_every_state)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (step.next == SG_STATE_NONE || step.action == SG_ACTION_NONE ||
			            step.next >= SG_STATE_COUNT || step.action >= SG_ACTION_COUNT)
					STEP_FAIL(s, e, step, "no entry");
			}
}

UNIT_CASE(what_is_no_state_or_no_event_means_nothing)
{
	static const unsigned int states[] = { SG_STATE_NONE, SG_STATE_COUNT, 1000, 0xffffffff };
	static const unsigned int events[] = { SG_EVENT_NONE, SG_EVENT_COUNT, 1000, 0xffffffff };

	for (size_t i = 0; i < 4; i++) {
		struct sg_step step =
			sg_lifecycle_step((enum sg_state)states[i], SG_EVENT_DEADLINE);

		CHECK_INT(step.next, SG_STATE_NONE);
		CHECK_INT(step.action, SG_ACTION_NONE);
		step = sg_lifecycle_step(SG_STATE_SERVING, (enum sg_event)events[i]);
		CHECK_INT(step.next, SG_STATE_NONE);
		CHECK_INT(step.action, SG_ACTION_NONE);
		CHECK_STRING(sg_state_text((enum sg_state)states[i]), "?");
		CHECK_STRING(sg_event_text((enum sg_event)events[i]), "?");
	}
}

UNIT_CASE(every_text_is_there_and_stands_for_one_thing)
{
	for
		EACH_STATE(s)
		{
			CHECK(strcmp(sg_state_text(s), "?") != 0);
			CHECK(strcmp(sg_state_limit(s), "?") != 0);
			for (enum sg_state t = s + 1; t < SG_STATE_COUNT; t++)
				CHECK(strcmp(sg_state_text(s), sg_state_text(t)) != 0);
		}
	for
		EACH_EVENT(e)
		{
			CHECK(strcmp(sg_event_text(e), "?") != 0);
			for (enum sg_event f = e + 1; f < SG_EVENT_COUNT; f++)
				CHECK(strcmp(sg_event_text(e), sg_event_text(f)) != 0);
		}
	for (enum sg_action a = SG_ACTION_NONE + 1; a < SG_ACTION_COUNT; a++) {
		CHECK(strcmp(sg_action_text(a), "?") != 0);
		for (enum sg_action b = a + 1; b < SG_ACTION_COUNT; b++)
			CHECK(strcmp(sg_action_text(a), sg_action_text(b)) != 0);
	}
}

UNIT_CASE(every_state_that_waits_is_left_at_its_deadline)
{
	for
		EACH_STATE(s)
		{
			struct sg_step step = sg_lifecycle_step(s, SG_EVENT_DEADLINE);

			if (waits(s) && (step.next == s || step.action == SG_ACTION_IGNORE))
				STEP_FAIL(s, SG_EVENT_DEADLINE, step, "a wait without an end");
			if (!waits(s) && (step.next != s || step.action != SG_ACTION_IGNORE))
				STEP_FAIL(s, SG_EVENT_DEADLINE, step, "a deadline without a wait");
		}
}

/* Nothing but time passes: does it come to rest where nobody waits? */
UNIT_CASE(deadlines_alone_lead_from_every_state_to_serving_or_gone)
{
	for
		EACH_STATE(s)
		{
			enum sg_state now = s;

			for (int steps = 0; waits(now); steps++) {
				if (steps > SG_STATE_COUNT)
					UNIT_FAIL("from %s the deadlines go round",
					          sg_state_text(s));
				now = sg_lifecycle_step(now, SG_EVENT_DEADLINE).next;
			}
			CHECK(now == SG_STATE_SERVING || now == SG_STATE_GONE);
		}
}

/* Two requests to stop, and then nothing but time. */
UNIT_CASE(two_requests_to_stop_and_time_end_every_state)
{
	for
		EACH_STATE(s)
		{
			enum sg_state now = sg_lifecycle_step(s, SG_EVENT_STOP).next;

			now = sg_lifecycle_step(now, SG_EVENT_STOP_NOW).next;
			for (int steps = 0; steps < SG_STATE_COUNT && now != SG_STATE_GONE; steps++)
				now = sg_lifecycle_step(now, SG_EVENT_DEADLINE).next;
			if (now != SG_STATE_GONE)
				UNIT_FAIL("%s is not ended by two requests: %s", sg_state_text(s),
				          sg_state_text(now));
		}
}

static void reach(enum sg_state from, bool *reached)
{
	reached[from] = true;
	for
		EACH_EVENT(e)
		{
			enum sg_state next = sg_lifecycle_step(from, e).next;

			if (!reached[next])
				reach(next, reached);
		}
}

UNIT_CASE(every_state_can_be_reached_from_starting_and_reaches_gone)
{
	bool from_start[SG_STATE_COUNT] = { false };

	reach(SG_STATE_STARTING, from_start);
	for
		EACH_STATE(s)
		{
			bool reached[SG_STATE_COUNT] = { false };

			reach(s, reached);
			if (!from_start[s] || !reached[SG_STATE_GONE])
				UNIT_FAIL("%s: reached %d, reaches gone %d", sg_state_text(s),
				          from_start[s], reached[SG_STATE_GONE]);
		}
}

UNIT_CASE(gone_is_the_end)
{
	for
		EACH_EVENT(e)
		{
			struct sg_step step = sg_lifecycle_step(SG_STATE_GONE, e);

			CHECK_INT(step.next, SG_STATE_GONE);
			CHECK(step.action == SG_ACTION_IGNORE || step.action == SG_ACTION_REFUSE);
		}
}

UNIT_CASE(an_upgrade_is_refused_everywhere_but_while_serving)
{
	for
		EACH_STATE(s)
		{
			struct sg_step step = sg_lifecycle_step(s, SG_EVENT_UPGRADE);

			if (s == SG_STATE_SERVING) {
				CHECK_INT(step.next, SG_STATE_CHECKING);
				CHECK_INT(step.action, SG_ACTION_CHECK);
			} else if (step.next != s || step.action != SG_ACTION_REFUSE) {
				STEP_FAIL(s, SG_EVENT_UPGRADE, step, "a second upgrade");
			}
		}
}

UNIT_CASE(only_an_upgrade_is_refused)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (step.action == SG_ACTION_REFUSE && e != SG_EVENT_UPGRADE)
					STEP_FAIL(s, e, step, "refused");
			}
}

UNIT_CASE(what_means_nothing_changes_nothing)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);
				bool nothing = step.action == SG_ACTION_IGNORE ||
			                       step.action == SG_ACTION_REFUSE ||
			                       step.action == SG_ACTION_NOTE;

				if (nothing != (step.next == s))
					STEP_FAIL(s, e, step, nothing ? "changes" : "stays");
			}
}

/* Before it serves, a generation starts nothing, ends nobody and commits to nothing. */
UNIT_CASE(a_generation_that_has_not_served_only_serves_or_goes)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);
				bool serves = step.next == SG_STATE_SERVING ||
			                      step.next == SG_STATE_PROBATION;

				if (!before_serving(s))
					continue;
				if (!before_serving(step.next) && !serves &&
			            step.next != SG_STATE_GONE)
					STEP_FAIL(s, e, step, "neither serves nor goes");
				if (serves && step.action != SG_ACTION_SERVE)
					STEP_FAIL(s, e, step, "serves without saying so");
				if (step.next == SG_STATE_GONE &&
			            step.action != SG_ACTION_GIVE_UP &&
			            step.action != SG_ACTION_LEAVE)
					STEP_FAIL(s, e, step, "goes in another way");
			}
}

UNIT_CASE(nobody_serves_without_a_word_or_a_death_that_allows_it)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (step.action != SG_ACTION_SERVE)
					continue;
				if (!((s == SG_STATE_STARTING && e == SG_EVENT_READY_ALONE) ||
			              (s == SG_STATE_READY &&
			               (e == SG_EVENT_COMMIT || e == SG_EVENT_PREDECESSOR_GONE))))
					STEP_FAIL(s, e, step, "serves");
			}
}

/* It is killed, so it must not serve: only before the commit, and never before a spawn. */
UNIT_CASE(a_successor_is_given_up_only_before_the_commit)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (step.action != SG_ACTION_ABANDON)
					continue;
				if (s != SG_STATE_CHECKING && s != SG_STATE_UPGRADING)
					STEP_FAIL(s, e, step, "kills");
				CHECK_INT(step.next, SG_STATE_ABANDONING);
			}
}

/* STOP kills what starts; after the commit another action ends this generation alone. */
UNIT_CASE(after_the_commit_no_action_kills)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (after_commit(s) && (step.action == SG_ACTION_ABANDON ||
			                                step.action == SG_ACTION_STOP ||
			                                step.action == SG_ACTION_GIVE_UP))
					STEP_FAIL(s, e, step, "kills");
			}
}

UNIT_CASE(the_commit_is_given_once_to_a_successor_that_is_ready)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);
				bool expected =
					s == SG_STATE_UPGRADING && e == SG_EVENT_SUCCESSOR_READY;
				bool retires = step.action == SG_ACTION_RETIRE;

				if (expected != (step.action == SG_ACTION_COMMIT))
					STEP_FAIL(s, e, step, "commits");
				if (!after_commit(s) &&
			            after_commit(step.next) != (expected || retires))
					STEP_FAIL(s, e, step, "goes behind the commit");
			}
}

UNIT_CASE(a_failed_upgrade_leaves_a_generation_that_serves)
{
	static const enum sg_event failures[] = { SG_EVENT_CHECK_FAILED, SG_EVENT_SUCCESSOR_FAILED,
		                                  SG_EVENT_SUCCESSOR_STOPS, SG_EVENT_REAPED,
		                                  SG_EVENT_DEADLINE };

	for
		EACH_STATE(s)
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		struct sg_step step = sg_lifecycle_step(s, failures[i]);

		if (attempts(s) && !attempts(step.next) && step.next != SG_STATE_SERVING)
			STEP_FAIL(s, failures[i], step, "an upgrade that is an outage");
	}
}

/* Whoever leaves an attempt for serving says how it ended. */
UNIT_CASE(a_failed_upgrade_is_reported)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (attempts(s) && step.next == SG_STATE_SERVING &&
			            step.action != SG_ACTION_REPORT)
					STEP_FAIL(s, e, step, "not reported");
				if (!attempts(s) && step.action == SG_ACTION_REPORT)
					STEP_FAIL(s, e, step, "reported without an attempt");
			}
}

UNIT_CASE(a_successor_that_fails_after_the_commit_is_replaced_at_once)
{
	for
		EACH_STATE(s)
		{
			struct sg_step step = sg_lifecycle_step(s, SG_EVENT_SUCCESSOR_FAILED);

			if (after_commit(s) &&
			    (step.next != SG_STATE_SERVING || step.action != SG_ACTION_RESUME))
				STEP_FAIL(s, SG_EVENT_SUCCESSOR_FAILED, step, "nobody serves");
			if (!after_commit(s) && step.action == SG_ACTION_RESUME)
				STEP_FAIL(s, SG_EVENT_SUCCESSOR_FAILED, step, "resumes");
		}
}

UNIT_CASE(who_ends_the_service_does_not_serve_again)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (ends(s) && !ends(step.next))
					STEP_FAIL(s, e, step, "comes back");
			}
}

/* A drain of an upgrade was asked for by nobody who stops: the first request is only noted. */
UNIT_CASE(the_first_request_to_stop_cuts_nothing_that_drains)
{
	struct sg_step step = sg_lifecycle_step(SG_STATE_DRAINING, SG_EVENT_STOP);

	CHECK_INT(step.next, SG_STATE_DRAINING);
	CHECK_INT(step.action, SG_ACTION_NOTE);
	step = sg_lifecycle_step(SG_STATE_STOPPING, SG_EVENT_STOP);
	CHECK_INT(step.next, SG_STATE_STOPPING);
	CHECK_INT(step.action, SG_ACTION_NOTE);
	for
		EACH_STATE(s)
	CHECK(sg_lifecycle_step(s, SG_EVENT_STOP).action != SG_ACTION_CUT);
}

UNIT_CASE(a_cut_happens_only_to_what_drains)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);

				if (step.action == SG_ACTION_CUT && s != SG_STATE_STANDBY &&
			            s != SG_STATE_DRAINING && s != SG_STATE_STOPPING)
					STEP_FAIL(s, e, step, "cuts");
			}
}

/* Leaving is for who has nothing left, or has been told twice, or whose time is over. */
UNIT_CASE(nobody_who_serves_is_gone_in_one_step)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);
				bool serves = s == SG_STATE_SERVING || s == SG_STATE_PROBATION ||
			                      attempts(s);

				if (serves && step.next == SG_STATE_GONE)
					STEP_FAIL(s, e, step, "gone");
			}
}

UNIT_CASE(a_predecessor_that_dies_or_talks_nonsense_does_not_end_who_serves)
{
	for
		EACH_STATE(s)
		{
			if (before_serving(s) || ends(s))
				continue;
			CHECK(!ends(sg_lifecycle_step(s, SG_EVENT_PREDECESSOR_GONE).next));
			CHECK(!ends(sg_lifecycle_step(s, SG_EVENT_PREDECESSOR_BROKE).next));
		}
	CHECK(!ends(sg_lifecycle_step(SG_STATE_STARTING, SG_EVENT_PREDECESSOR_GONE).next));
}

/* Who serves under a supervisor goes behind the commit at its word alone. */
UNIT_CASE(a_supervisor_retires_who_serves_and_nobody_else)
{
	for
		EACH_STATE(s)
		for
			EACH_EVENT(e)
			{
				struct sg_step step = sg_lifecycle_step(s, e);
				bool serves = s == SG_STATE_SERVING || s == SG_STATE_PROBATION;

				if ((step.action == SG_ACTION_RETIRE) !=
			            (serves && e == SG_EVENT_RETIRE))
					STEP_FAIL(s, e, step, "retires");
				if (e == SG_EVENT_RETIRE && serves && step.next != SG_STATE_STANDBY)
					STEP_FAIL(s, e, step, "does not stand by");
			}
}

UNIT_CASE(a_supervisor_has_whoever_it_retired_serve_again_and_nobody_else)
{
	for
		EACH_STATE(s)
		{
			struct sg_step step = sg_lifecycle_step(s, SG_EVENT_RESUME);

			if (after_commit(s) &&
			    (step.next != SG_STATE_SERVING || step.action != SG_ACTION_RESUME))
				STEP_FAIL(s, SG_EVENT_RESUME, step, "does not serve");
			if (!after_commit(s) && step.action != SG_ACTION_IGNORE)
				STEP_FAIL(s, SG_EVENT_RESUME, step, "resumes");
		}
}

UNIT_CASE(without_its_supervisor_who_has_not_served_goes_and_who_serves_drains)
{
	for
		EACH_STATE(s)
		{
			struct sg_step step = sg_lifecycle_step(s, SG_EVENT_SUPERVISOR_GONE);

			if (before_serving(s) &&
			    (step.next != SG_STATE_GONE || step.action != SG_ACTION_GIVE_UP))
				STEP_FAIL(s, SG_EVENT_SUPERVISOR_GONE, step, "does not give up");
			if (!before_serving(s) && step.next == SG_STATE_GONE && s != SG_STATE_GONE)
				STEP_FAIL(s, SG_EVENT_SUPERVISOR_GONE, step, "is gone at once");
			if ((s == SG_STATE_SERVING || s == SG_STATE_PROBATION) &&
			    step.next != SG_STATE_STOPPING)
				STEP_FAIL(s, SG_EVENT_SUPERVISOR_GONE, step, "does not stop");
			if (s == SG_STATE_STANDBY && step.next != SG_STATE_DRAINING)
				STEP_FAIL(s, SG_EVENT_SUPERVISOR_GONE, step, "waits on");
		}
}

UNIT_CASE(probation_ends_well_by_word_by_death_and_by_time)
{
	static const enum sg_event events[] = { SG_EVENT_CONFIRM, SG_EVENT_PREDECESSOR_GONE,
		                                SG_EVENT_PREDECESSOR_BROKE, SG_EVENT_DEADLINE };

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		struct sg_step step = sg_lifecycle_step(SG_STATE_PROBATION, events[i]);

		CHECK_INT(step.next, SG_STATE_SERVING);
		CHECK_INT(step.action, SG_ACTION_CONFIRM);
	}
}

UNIT_MAIN
