/* SPDX-License-Identifier: MIT */
/*
 * The same life under a supervisor, for spin: a process that is no generation starts the workers
 * of each, introduces them to one another and alone decides who serves. It may be killed at any
 * moment, and so may they. doc/protocol.md says in words what is modelled, what was found and what
 * is left out.
 *
 * The workers' table and the handover are those of upgrade.pml. What the supervisor knows of a
 * worker is view[], with the states of src/segue/table.h.
 *
 * Scope: -DFIRST workers are in generation 1, -DSECOND in each later one, -DSLOTS processes are
 * there at all, restarted ones included; -DTRIGGERS -DKILLS (of workers) -DSTOPS -DCUTS -DCONNS
 * -DDECLINES are how many of each a run has at most; -DDEATH: the supervisor may be killed;
 * -DSERVE: orphans serve, otherwise they drain; -DGROUP: one TERM to all processes at once;
 * -DQUIET: no deadline fires but that of a probation, which is 0. Each -DMUTANT_... breaks one
 * rule, and spin has to find it.
 */
#ifndef FIRST
#define FIRST 1
#endif
#ifndef SECOND
#define SECOND 1
#endif
#ifndef SLOTS
#define SLOTS (FIRST + SECOND)
#endif
#ifndef TRIGGERS
#define TRIGGERS 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef CUTS
#define CUTS 0
#endif

#include "lifecycle.pml"
#include "handover.pml"

mtype = {
	WORKER_NONE, WORKER_STARTING, WORKER_READY, WORKER_COMMITTED, WORKER_SERVING, WORKER_DRAINING,
	WORKER_STOPPING, WORKER_KILLING, WORKER_GONE
};

/* What a worker knows. */
bit offered[SLOTS];      /* has all that it is given */
bit orphan[SLOTS];       /* has seen the supervisor's end */
bit term[SLOTS];         /* a TERM to the group that it has not yet looked at */
bit hasten[SLOTS];       /* the second half of an order to stop now */

/* What the supervisor knows; nothing of it outlives it. */
bit reigns;              /* it lives */
mtype view[SLOTS];
byte gen[SLOTS];         /* 1, 2, ...; 0: not yet used */
byte place[SLOTS];       /* the worker's number in its generation: 0, 1, ... */
byte work[SLOTS];        /* of its start: 1 fork, 2.. introductions, the last OFFERED, 0 done */
bit replaced[SLOTS];     /* dead, and another was started in its place */
byte told[SLOTS];        /* how often it was told to stop */
byte current = 1;        /* the generation that serves */
byte attempt;            /* the one that starts; 0: none */
bit failing;             /* it is being ended */
byte youngest = 1;       /* the highest number given */
byte slots;              /* processes so far */
byte stopping;           /* how often the service was asked to stop */
bit sup_term;            /* a TERM to the group that it has not yet looked at */

chan word[SLOTS] = [8] of { mtype, byte };   /* the supervisor's channel to a worker */
chan report[SLOTS] = [5] of { mtype };       /* and back */

byte triggers = TRIGGERS, kills = KILLS, stops = STOPS, cuts = CUTS, declines = DECLINES;
bit murdered;            /* the supervisor was killed */
bit excuse;              /* so was a worker that served, or had been told to */
bit stopped;             /* somebody was asked to stop */
bit grouped;

#define count_of(generation) ((generation) == 1 -> FIRST : SECOND)

/* Whom a successor is introduced to: the predecessor that hands over to it; where orphans serve,
 * all of them, for each has to know of any that serves. */
#if defined(SERVE) && !defined(MUTANT_INTRODUCE_PAIRS_ONLY)
#define paired(o, w) true
#else
#define paired(o, w) (place[o] % count_of(gen[w]) == place[w])
#endif
/* It was told to serve; it has said that it does. */
#define to_serve(w) (view[w] == WORKER_COMMITTED || view[w] == WORKER_SERVING)
#define lives_in_view(w)                                                                       \
	(view[w] == WORKER_STARTING || view[w] == WORKER_READY || to_serve(w) ||               \
	 view[w] == WORKER_DRAINING)

/* For all slots, for any slot; one that does not exist is not counted. */
#if SLOTS > 3
#define ALL(what) (what(0) && what(1) && what(2) && what(3))
#define ANY(what) (what(0) || what(1) || what(2) || what(3))
#elif SLOTS > 2
#define ALL(what) (what(0) && what(1) && what(2))
#define ANY(what) (what(0) || what(1) || what(2))
#else
#define ALL(what) (what(0) && what(1))
#define ANY(what) (what(0) || what(1))
#endif

/* One that drains, and of whose successors in the generation that serves none lives; w serves. */
#define takes_over(o, y)                                                                       \
	(gen[y] == current && place[o] % count_of(current) == place[y] && lives_in_view(y))
#define takes_over_0(y) takes_over(0, y)
#define takes_over_1(y) takes_over(1, y)
#define left_behind(o, taker)                                                                  \
	(o < w && gen[o] != 0 && gen[o] < gen[w] && gen[w] == current && work[w] == 0 &&       \
	 view[o] == WORKER_DRAINING && view[w] == WORKER_SERVING &&                            \
	 low[pair(o, w)] == END_NONE && !ANY(taker))

#ifdef MUTANT_COMMIT_BEFORE_ALL_ARE_READY
#define attempt_ready(w)                                                                       \
	(gen[w] != attempt || view[w] == WORKER_READY || to_serve(w))
#else
#define attempt_ready(w) (gen[w] != attempt || view[w] == WORKER_READY)
#endif
#define attempt_gone(w) (gen[w] != attempt || view[w] == WORKER_GONE)
/* Nobody who is to serve has not yet said so. A worker that is started again is not waited for. */
#define sure(w)                                                                                \
	(gen[w] != current ||                                                                  \
	 (view[w] != WORKER_READY && view[w] != WORKER_COMMITTED))
#define serves_now(w) (gen[w] == current && (view[w] == WORKER_READY || to_serve(w)))
#define was_told(w) (gen[w] == current && to_serve(w))
#define could_resume(w)                                                                        \
	(gen[w] != 0 && gen[w] < current &&                                                    \
	 (to_serve(w) || view[w] == WORKER_DRAINING))
#define is_gone(w) (view[w] == WORKER_GONE || view[w] == WORKER_NONE)
#define accepting(w) accepts(w)

inline lose_down(y) { skip }
inline lose_up(y) { skip }

inline close_word(g)
{
	do
	:: word[g]?_, _
	:: empty(word[g]) -> break
	od
}

inline bury(g)
{
	alive[g] = 0;
	close_word(g);
	close_ends(g);
	close_all(g);
	settled[g] = 0;
	final_sent[g] = 0;
	term[g] = 0;
	hasten[g] = 0
}

/* To a worker that is dead nothing is said; it is noticed. */
inline say(g, m, what)
{
	if
	:: alive[g] -> assert(nfull(word[g])); word[g]!m, what
	:: else
	fi
}

inline tell_supervisor(g, m)
{
	if
	:: reigns -> assert(nfull(report[g])); report[g]!m
	:: else
	fi
}

/* The ends of introductions to w that have not been sent. */
inline drop_made(w)
{
	i = 0;
	do
	:: i < w ->
		if
		:: high[pair(i, w)] == END_MAKER -> high[pair(i, w)] = END_CLOSED
		:: else
		fi;
		i++
	:: else -> break
	od
}

/* SIGKILL by the supervisor: only to one that has not been told to serve, or has not done it. */
inline kill_worker(w)
{
	printf("KILL %d by the supervisor\n", w);
	if
	:: alive[w] -> assert(!accepts(w)); bury(w)
	:: else
	fi;
	if
	:: work[w] == 1 -> view[w] = WORKER_GONE
	:: else -> view[w] = WORKER_KILLING
	fi;
	drop_made(w);
	work[w] = 0
}

inline start_worker(n, number)
{
	gen[slots] = n;
	place[slots] = number;
	view[slots] = WORKER_STARTING;
	work[slots] = 1;
	slots++
}

inline say_hello(g)
{
	j = 0;
	do
	:: j < g ->
		x = pair(j, g);
		if
		:: high[x] == END_HELD -> tell(up[x], low[x], MESSAGE_HELLO, 0)
		:: else
		fi;
		j++
	:: else -> break
	od
}

inline act(g)
{
	state[g] = next;
	if
	:: ac == ACTION_IGNORE || ac == ACTION_NOTE || ac == ACTION_CONFIRM ||
	   ac == ACTION_RETIRE || ac == ACTION_DRAIN
	:: ac == ACTION_SAY_READY -> tell_supervisor(g, MESSAGE_READY)
	:: ac == ACTION_SERVE ->
		say_hello(g);
		tell_supervisor(g, MESSAGE_PROGRESS)
	:: ac == ACTION_GIVE_UP ->
		tell_supervisor(g, MESSAGE_FAILED);
		bury(g)
	:: ac == ACTION_RESUME ->
		settled[g] = 0;
		final_sent[g] = 0
	:: ac == ACTION_CUT || ac == ACTION_SETTLE -> close_all(g)
	:: ac == ACTION_STOP || ac == ACTION_FOLLOW ->
		if
		:: next == STATE_ENDING -> close_all(g)
		:: else
		fi
	:: ac == ACTION_LEAVE ->
		if
		:: was == STATE_ENDING -> close_all(g)
		:: else
		fi;
		i = 0;
		do
		:: i < CONNS -> assert(!own(g, i)); i++
		:: else -> break
		od;
		bury(g)
	fi
}

/* What the supervisor says. An introduction carries the other one's slot. */
inline read_word(g)
{
	ev = EVENT_NONE;
	word[g]?msg, c;
	printf("WORD %d: %e\n", g, msg);
	if
	:: msg == MESSAGE_OFFERED -> offered[g] = 1
	:: msg == MESSAGE_INTRODUCE ->
		if
		:: c < g ->
			high[pair(c, g)] = END_HELD;
#ifdef MUTANT_INTRODUCE_AFTER_COMMIT
			x = pair(c, g);
			tell(up[x], low[x], MESSAGE_HELLO, 0)
#else
			/* Before OFFERED nothing has been said to the older one. Later it is one that has
			 * lost its successor, and hears at once who serves. */
			if
			:: offered[g] && accepts(g) ->
				x = pair(c, g);
				tell(up[x], low[x], MESSAGE_HELLO, 0)
			:: else -> assert(!offered[g] || state[g] != STATE_READY)
			fi
#endif
		:: else -> low[pair(g, c)] = END_HELD
		fi
	:: msg == MESSAGE_COMMIT -> ev = EVENT_COMMIT
	:: msg == MESSAGE_RETIRE -> ev = EVENT_RETIRE
	:: msg == MESSAGE_RESUME -> ev = EVENT_RESUME
	:: msg == MESSAGE_CUT -> ev = EVENT_CUT
	:: msg == MESSAGE_STOP ->
		/* Whoever drains towards a successor hears that this one stops as well. */
		if
		:: committed(g) -> ev = EVENT_SUCCESSOR_STOPS; hasten[g] = c > 1
		:: !committed(g) && c > 1 -> ev = EVENT_STOP_NOW
		:: !committed(g) && c == 1 -> ev = EVENT_STOP
		fi
	fi
}

/* What the successor side reads on a direct channel. */
inline read_down(g, o)
{
	ev = EVENT_NONE;
	x = pair(o, g);
	down[x]?msg, c;
	printf("READ %d: %e from %d\n", g, msg, o);
	if
	:: msg == MESSAGE_CONNECTIONS ->
		held[c] = 1;
#ifdef MUTANT_TOUCH_BEFORE_ACK
		toucher[c] = g
#endif
	:: msg == MESSAGE_FINAL -> tell(up[x], low[x], MESSAGE_RECEIPT, 0)
	fi
}

/* What the predecessor side reads. */
inline read_up(g, y)
{
	ev = EVENT_NONE;
	x = pair(g, y);
	up[x]?msg, c;
	printf("READ %d: %e from %d\n", g, msg, y);
	if
	:: msg == MESSAGE_HELLO -> serves[x] = 1
	:: msg == MESSAGE_RECEIPT -> settled[g] = 1
	:: msg == MESSAGE_TAKEN || msg == MESSAGE_DECLINED -> read_verdict(g, y)
	fi
}

/* The end of a successor's channel, read to the end. Who serves then is not for g to say. */
inline note_end(g, y)
{
	printf("END  %d of %d\n", g, y);
	ev = EVENT_NONE;
	x = pair(g, y);
	cutoff[x] = 1;
	if
	:: final_sent[g] == y -> final_sent[g] = 0
	:: else
	fi;
	take_back(g, x);
	if
	:: !alive[y] ->
		ended[x] = 1;
#ifdef MUTANT_RESUME_WITHOUT_A_WORD
		if
		:: committed(g) && serves[x] -> ev = EVENT_SUCCESSOR_FAILED
		:: else
		fi
#endif
	:: else
	fi
}

#define at_end(g, y)                                                                           \
	(low[pair(g, y)] == END_HELD && !ended[pair(g, y)] &&                                  \
	 high[pair(g, y)] == END_CLOSED && read_out(g, y) && (!cutoff[pair(g, y)] || !alive[y]))

/* A successor that is known to serve, and is not dead. */
#define knows(g, y) (low[pair(g, y)] == END_HELD && serves[pair(g, y)] && alive[y])
#ifdef MUTANT_ORPHAN_NEVER_RETIRES
#define knows_any false
#elif SLOTS > 3
#define knows_any (g < 1 && knows(g, 1) || g < 2 && knows(g, 2) || g < 3 && knows(g, 3))
#elif SLOTS > 2
#define knows_any (g < 1 && knows(g, 1) || g < 2 && knows(g, 2))
#else
#define knows_any (g < 1 && knows(g, 1))
#endif

/* A limit on the stay, and the look that is taken before a worker ends itself at it. */
#ifdef QUIET
#define armed(g) (state[g] == STATE_STANDBY)
#else
#define armed(g)                                                                               \
	(state[g] == STATE_STANDBY || state[g] == STATE_PROBATION ||                           \
	 state[g] == STATE_DRAINING || state[g] == STATE_CUTTING || state[g] == STATE_DRAINED || \
	 state[g] == STATE_STOPPING || state[g] == STATE_ENDING ||                             \
	 (state[g] == STATE_STARTING || state[g] == STATE_READY) && empty(word[g]))
#endif

/* What holds at every moment. */
#ifdef SERVE
#define gap_allowed false
#else
#define gap_allowed murdered
#endif
inline check()
{
#ifndef GROUP
	/* Somebody accepts, unless one that did was killed or the service is to end. */
	assert(ANY(accepting) || excuse || stopped || gap_allowed);
#endif
	check_connections();
	forget()
}

/* Signals come before channels. */
#define on (alive[g] && !term[g])
#define older_reads(o)                                                                         \
	(g > o && high[pair(o, g)] == END_HELD && nempty(down[pair(o, g)]) &&                  \
	 !any_held(pair(o, g)))
#define younger_reads(y)                                                                       \
	(g < y && low[pair(g, y)] == END_HELD && nempty(up[pair(g, y)]))
#define could_hand(y) (g < y && usable(g, y) && can_hand(g, y))
#define could_settle(y) (g < y && usable(g, y))
#define draining (on && state[g] == STATE_DRAINING)
#define unsettled (on && state[g] == STATE_DRAINED && !final_sent[g])
#if SLOTS > 3
#define younger_than_1 (usable(g, 2) || usable(g, 3))
#define younger_than_2 (usable(g, 3))
#elif SLOTS > 2
#define younger_than_1 (usable(g, 2))
#define younger_than_2 false
#else
#define younger_than_1 false
#endif

inline send_final(g, y)
{
	ev = EVENT_NONE;
	final_sent[g] = y;
	tell(down[pair(g, y)], high[pair(g, y)], MESSAGE_FINAL, 0)
}

/* One thing that a worker does: an event is chosen, the table asked, the action done. */
proctype worker(byte g)
{
end:
	do
	:: atomic {
		if
		:: alive[g] && term[g] -> term[g] = 0; ev = EVENT_STOP
		:: on && hasten[g] ->
			hasten[g] = 0;
			if
			:: state[g] == STATE_STOPPING -> ev = EVENT_STOP_NOW
			:: else -> ev = EVENT_NONE
			fi
		:: on && nempty(word[g]) && !hasten[g] -> read_word(g)
		/* The end of the supervisor's channel, after all that it has said. */
		:: on && murdered && empty(word[g]) && !orphan[g] ->
			orphan[g] = 1;
			ev = EVENT_SUPERVISOR_GONE;
#ifdef SERVE
			if
			:: accepts(g) -> ev = EVENT_NONE
			:: else
			fi;
#endif
#ifdef MUTANT_ORPHAN_STARTS_SERVING
			if
			:: state[g] == STATE_READY -> ev = EVENT_PREDECESSOR_GONE
			:: else
			fi
#endif
#ifdef SERVE
		:: on && orphan[g] && accepts(g) && knows_any -> ev = EVENT_RETIRE
#endif
		:: on && state[g] == STATE_STARTING && offered[g] -> ev = EVENT_READY
		/* COMMIT with a probation of 0 */
		:: on && state[g] == STATE_PROBATION -> ev = EVENT_CONFIRM
		:: on && older_reads(0) -> read_down(g, 0)
		:: on && g > 0 && any_held(pair(0, g)) -> answer(g, 0)
		:: on && younger_reads(1) -> read_up(g, 1)
		:: on && g < 1 && at_end(g, 1) -> note_end(g, 1)
		:: draining && could_hand(1) && !younger_than_1 -> hand_over(g, 1)
		:: unsettled && could_settle(1) && !younger_than_1 -> send_final(g, 1)
#if SLOTS > 2
		:: on && older_reads(1) -> read_down(g, 1)
		:: on && g > 1 && any_held(pair(1, g)) -> answer(g, 1)
		:: on && younger_reads(2) -> read_up(g, 2)
		:: on && g < 2 && at_end(g, 2) -> note_end(g, 2)
		:: draining && could_hand(2) && !younger_than_2 -> hand_over(g, 2)
		:: unsettled && could_settle(2) && !younger_than_2 -> send_final(g, 2)
#endif
#if SLOTS > 3
		:: on && older_reads(2) -> read_down(g, 2)
		:: on && g > 2 && any_held(pair(2, g)) -> answer(g, 2)
		:: on && younger_reads(3) -> read_up(g, 3)
		:: on && g < 3 && at_end(g, 3) -> note_end(g, 3)
		:: draining && could_hand(3) -> hand_over(g, 3)
		:: unsettled && could_settle(3) -> send_final(g, 3)
#endif
		:: on && any_own(g) && (state[g] == STATE_STOPPING || state[g] == STATE_CUTTING ||
		   state[g] == STATE_ENDING || state[g] == STATE_DRAINING && FINISH) -> finish(g)
		:: on && !any_own(g) && !any_fly(g) && (state[g] == STATE_DRAINING ||
		   state[g] == STATE_CUTTING || state[g] == STATE_STOPPING || state[g] == STATE_ENDING) ->
			ev = EVENT_EMPTY
		:: on && state[g] == STATE_DRAINED && settled[g] -> ev = EVENT_SETTLED
		:: on && armed(g) -> ev = EVENT_DEADLINE;
#ifdef MUTANT_TAKE_BACK_ON_TIMEOUT
			if
			:: g == 0 && state[g] == STATE_DRAINING -> take_back(g, 0)
			:: else
			fi
#endif
		fi;
		if
		:: ev != EVENT_NONE && alive[g] ->
			was = state[g];
			lifecycle();
			printf("STEP %d: %e, %e -> %e, %e\n", g, was, ev, next, ac);
			act(g)
		:: else
		fi;
		check()
	}
	od
}

/*
 * An introduction is two steps: the pair is made and one end sent to the older worker, then the
 * other to w; after all of them OFFERED.
 */
inline introduce(w)
{
	p = (work[w] - 2) / 2;
	if
	:: p >= w ->
#ifndef MUTANT_INTRODUCE_AFTER_COMMIT
		say(w, MESSAGE_OFFERED, 0);
#endif
		work[w] = 0
	:: else ->
		x = pair(p, w);
		if
		:: (work[w] - 2) % 2 == 0 && gen[p] < gen[w] && lives_in_view(p) && paired(p, w) ->
			high[x] = END_MAKER;
			low[x] = (alive[p] -> END_FLIES : END_CLOSED);
			say(p, MESSAGE_INTRODUCE, w);
			work[w]++
		:: (work[w] - 2) % 2 == 0 &&
		   !(gen[p] < gen[w] && lives_in_view(p) && paired(p, w)) -> work[w] = work[w] + 2
		:: (work[w] - 2) % 2 == 1 ->
			if
			:: high[x] == END_MAKER ->
				high[x] = (alive[w] -> END_FLIES : END_CLOSED);
				say(w, MESSAGE_INTRODUCE, p)
			:: else
			fi;
			work[w]++
		fi
	fi
}

/* The same for one that has lost its successor, with one that serves. */
inline introduce_another(o)
{
	x = pair(o, w);
	high[x] = END_MAKER;
	low[x] = (alive[o] -> END_FLIES : END_CLOSED);
	printf("ANOTHER %d for %d\n", w, o);
	say(o, MESSAGE_INTRODUCE, w)
}

inline introduce_back(o)
{
	x = pair(o, w);
	high[x] = (alive[w] -> END_FLIES : END_CLOSED);
	say(w, MESSAGE_INTRODUCE, o)
}

#define half_made(o) (o < w && work[w] == 0 && high[pair(o, w)] == END_MAKER)

#ifdef MUTANT_KILL_WITHOUT_A_LOOK
#define looked(w) true
#else
#define looked(w) empty(report[w])
#endif
#define may (reigns && !sup_term)
#define rules (may && w == 0)

#ifdef MUTANT_RETIRE_BEFORE_COMMIT
#define may_retire(w) (attempt != 0 && gen[w] == current && !failing && ALL(attempt_ready))
#elif defined(MUTANT_RETIRE_BEFORE_THEY_SERVE)
#define none_waits(w) (gen[w] != current || view[w] != WORKER_READY)
#define may_retire(w) (gen[w] < current && ANY(was_told) && ALL(none_waits))
#else
#define may_retire(w) (gen[w] < current && ANY(was_told) && ALL(sure))
#endif

/* What the supervisor does about the worker in slot w; about the service where w is 0. */
proctype supervisor(byte w)
{
end:
	do
	:: atomic {
		if
		/* Signals come first. */
		:: reigns && w == 0 && sup_term -> sup_term = 0; stopping++; stopped = 1
		:: rules && stops > 0 && stopping < 2 -> stops--; stopping++; stopped = 1
		/* an upgrade: asked for, failed, all ready, ended in vain */
		:: rules && triggers > 0 && !stopping && attempt == 0 && ANY(was_told) && ALL(sure) &&
		   slots + count_of(youngest + 1) <= SLOTS ->
			triggers--;
			youngest++;
			attempt = youngest;
			count = 0;
			do
			:: count < count_of(youngest) -> start_worker(youngest, count); count++
			:: else -> break
			od
#ifndef QUIET
		:: rules && attempt != 0 && !failing -> failing = 1
#endif
		:: rules && attempt != 0 && failing && ALL(attempt_gone) -> attempt = 0; failing = 0
		:: rules && attempt != 0 && !failing && !stopping && ALL(attempt_ready) ->
			current = attempt;
			attempt = 0
		/* the last that serves has died, and an older generation is still there */
		:: rules && !stopping && !ANY(serves_now) && ANY(could_resume) ->
			p = 0;
			i = 0;
			do
			:: i < SLOTS ->
				if
				:: could_resume(i) && gen[i] > p -> p = gen[i]
				:: else
				fi;
				i++
			:: else -> break
			od;
			current = p
		:: rules && stopping && ALL(is_gone) ->
			reigns = 0;
			printf("the supervisor leaves\n")
		/* a worker's start */
		:: may && work[w] == 1 ->
			alive[w] = 1;
			state[w] = STATE_STARTING;
			work[w] = 2;
#ifdef MUTANT_INTRODUCE_AFTER_COMMIT
			say(w, MESSAGE_OFFERED, 0)
		:: may && work[w] >= 2 && to_serve(w) -> introduce(w)
#else
		:: may && work[w] >= 2 -> introduce(w)
#endif
		:: may && !stopping && left_behind(0, takes_over_0) -> introduce_another(0)
		:: may && half_made(0) -> introduce_back(0)
#if SLOTS > 2
		:: may && !stopping && left_behind(1, takes_over_1) -> introduce_another(1)
		:: may && half_made(1) -> introduce_back(1)
#endif
		/* what it says, and its death, after all that it has said */
		:: may && nempty(report[w]) ->
			report[w]?msg;
			printf("HEAR %d: %e\n", w, msg);
			if
			:: msg == MESSAGE_READY && view[w] == WORKER_STARTING -> view[w] = WORKER_READY
			:: msg == MESSAGE_PROGRESS && view[w] == WORKER_COMMITTED ->
				view[w] = WORKER_SERVING
			:: msg == MESSAGE_PROGRESS && view[w] != WORKER_COMMITTED
			:: msg == MESSAGE_FAILED || msg == MESSAGE_READY && view[w] != WORKER_STARTING
			fi
		:: may && !alive[w] && view[w] != WORKER_NONE && view[w] != WORKER_GONE &&
		   work[w] != 1 && empty(report[w]) ->
			view[w] = WORKER_GONE;
			drop_made(w);
			work[w] = 0;
			if
			:: gen[w] == attempt && attempt != 0 -> failing = 1
			:: else
			fi
		/* one that is not to serve any more: its attempt failed, its generation has yielded */
		:: may && (view[w] == WORKER_STARTING || view[w] == WORKER_READY) &&
		   (stopping || gen[w] == attempt && failing ||
		    gen[w] != attempt && gen[w] != current) -> kill_worker(w)
		/* who serves */
#ifdef MUTANT_COMMIT_BEFORE_ALL_ARE_READY
		:: may && !stopping && view[w] == WORKER_READY && gen[w] == attempt && !failing ->
			view[w] = WORKER_COMMITTED;
			say(w, MESSAGE_COMMIT, 0)
#endif
		:: may && !stopping && view[w] == WORKER_READY && gen[w] == current ->
			view[w] = WORKER_COMMITTED;
			say(w, MESSAGE_COMMIT, 0)
		:: may && !stopping && to_serve(w) && may_retire(w) ->
			view[w] = WORKER_DRAINING;
			say(w, MESSAGE_RETIRE, 0)
		:: may && !stopping && view[w] == WORKER_DRAINING && gen[w] == current ->
			view[w] = WORKER_SERVING;
			say(w, MESSAGE_RESUME, 0)
#ifndef QUIET
		/* It was told to serve and, at its deadline, has not said that it does. */
		:: may && view[w] == WORKER_COMMITTED && looked(w) -> kill_worker(w)
#endif
		:: may && cuts > 0 && view[w] == WORKER_DRAINING -> cuts--; say(w, MESSAGE_CUT, 0)
		:: may && told[w] < stopping &&
		   (to_serve(w) || view[w] == WORKER_DRAINING ||
		    view[w] == WORKER_STOPPING) ->
			told[w] = stopping;
			view[w] = (to_serve(w) -> WORKER_STOPPING : view[w]);
			say(w, MESSAGE_STOP, stopping)
		/* one that has died is started again, but not beside an upgrade */
		:: may && !stopping && attempt == 0 && view[w] == WORKER_GONE && gen[w] == current &&
		   !replaced[w] && slots < SLOTS && (ANY(serves_now) || !ANY(could_resume)) ->
			replaced[w] = 1;
			start_worker(current, place[w])
		fi;
		check()
	}
	od
}

/* A kill, at any moment, of whom it likes; and one TERM for the whole group. */
proctype fate()
{
end:
	do
	:: atomic {
		if
		:: kills > 0 && alive[0] -> p = 0
		:: kills > 0 && alive[1] -> p = 1
#if SLOTS > 2
		:: kills > 0 && alive[2] -> p = 2
#endif
#if SLOTS > 3
		:: kills > 0 && alive[3] -> p = 3
#endif
		fi;
		kills--;
		if
		:: accepts(p) || to_serve(p) -> excuse = 1
		:: else
		fi;
		printf("KILL %d\n", p);
		bury(p);
		check()
	   }
#ifdef DEATH
	:: atomic {
		reigns && !murdered ->
		printf("KILL the supervisor\n");
		murdered = 1;
		reigns = 0;
		p = 0;
		do
		:: p < SLOTS ->
			do
			:: report[p]?_
			:: empty(report[p]) -> break
			od;
			drop_made(p);
			work[p] = 0;
			p++
		:: else -> break
		od;
		check()
	   }
#endif
#ifdef GROUP
	:: atomic {
		!grouped ->
		grouped = 1;
		stopped = 1;
		sup_term = reigns;
		i = 0;
		do
		:: i < SLOTS -> term[i] = alive[i]; i++
		:: else -> break
		od;
		forget()
	   }
#endif
	od
}

/* What holds when nothing can happen any more. */
proctype rest()
{
	atomic {
		timeout ->
		count = 0;
		p = 0;
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: alive[i] ->
				assert(state[i] == STATE_SERVING);
				assert(!reigns || gen[i] == current && view[i] == WORKER_SERVING);
				/* Not two generations. */
				assert(p == 0 || p == gen[i]);
				p = gen[i];
				count++
			:: else
			fi;
			i++
		:: else -> break
		od;
		if
		:: stopped && !murdered -> assert(count == 0 && !reigns)
		:: murdered ->
#ifdef SERVE
			assert(count > 0 || excuse || stopped)
#else
			assert(count == 0)
#endif
		:: else ->
			/* Where no slot is left for another start, one could follow. */
			assert(count > 0 || excuse && slots == SLOTS);
			assert(reigns && attempt == 0)
		fi;
		c = 0;
		do
		:: c < CONNS -> assert(over[c] || flies[c] == 0 && lies[c] == 0 && taken[c] == 0); c++
		:: else -> break
		od;
		check_connections();
		forget()
	}
}

init {
	atomic {
		c = 0;
		do
		:: c < CONNS -> own(c % FIRST, c) = 1; toucher[c] = c % FIRST; c++
		:: else -> break
		od;
		i = 0;
		do
		:: i < SLOTS -> view[i] = WORKER_NONE; i++
		:: else -> break
		od;
		slots = 0;
		i = 0;
		do
		:: i < FIRST ->
			start_worker(1, i);
			work[i] = 0;
			alive[i] = 1;
			offered[i] = 1;
			state[i] = STATE_SERVING;
			view[i] = WORKER_SERVING;
			i++
		:: else -> break
		od;
		reigns = 1;
		i = 0;
		do
		:: i < SLOTS -> run worker(i); run supervisor(i); i++
		:: else -> break
		od;
		forget();
		run fate();
		run rest()
	}
}
