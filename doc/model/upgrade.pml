/* SPDX-License-Identifier: MIT */
/*
 * The life of an upgrade, for spin: three generations, what they say to each other, and what may
 * go wrong. doc/protocol.md says in words what is modelled, what was found and what is left out.
 *
 * The table is in lifecycle.pml, what moves connections in handover.pml: supervised.pml has them as
 * well. tests/test_model.py runs spin.
 *
 * What holds in every reachable state is in check(); what holds when nothing can happen any more
 * is in the process rest. A process that is stopped (SIGSTOP) is one that spin does not schedule
 * for a while; all deadlines of the others may fire meanwhile.
 *
 * Scope: -DCONNS -DTRIGGERS -DKILLS -DSTOPS -DBREAKS -DDECLINES are how many of each a run has at
 * most, -DSLOTS how many processes; -DGROUP: one TERM to all processes at once; -DFINISH=0: no
 * connection ends by itself; -DQUIET: no deadline fires but that of a probation; -DCHECKS=1: the
 * preflight check may fail or hang. Each -DMUTANT_... breaks one rule, and spin has to find it.
 */
#ifndef SLOTS
#define SLOTS 3
#endif
#ifndef TRIGGERS
#define TRIGGERS 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef BREAKS
#define BREAKS 0
#endif
#ifndef CHECKS
#define CHECKS 0
#endif

#include "lifecycle.pml"
#include "handover.pml"

/* What a generation knows. */
bit offered[SLOTS];      /* has all listeners: holds them until its end */
bit alone[SLOTS];        /* has seen the end of its predecessor's channel */
bit yields[SLOTS];       /* has read nonsense after COMMIT: never serves again */
bit term[SLOTS];         /* a TERM to the group that it has not yet looked at */
byte pred[SLOTS];        /* who spawned it */
byte succ[SLOTS];        /* whom it spawned last */
byte spawning[SLOTS];    /* the steps of a spawn: 1 fork, 2 and 3 introduce, 4 offer, 0 done */
byte slots;              /* processes so far */

byte triggers = TRIGGERS, kills = KILLS, stops = STOPS, breaks = BREAKS, declines = DECLINES;
bit stopped;             /* the generation that serves was asked to stop */
bit orphaned;            /* the only process that held the listeners was killed */
bit grouped;

#define holds(g) (alive[g] && offered[g] && !yields[g])
#if SLOTS > 2
#define others_hold(g) (holds(((g) + 1) % 3) || holds(((g) + 2) % 3))
#else
#define others_hold(g) holds(1 - (g))
#endif

/* A younger one that could still serve, or that has served and is not proven dead. */
#define waits_for(p, s) (low[pair(p, s)] == END_HELD && !ended[pair(p, s)])

/* An introduction that was on its way to the end of this channel. */
inline lose_down(y)
{
	if
	:: y == 2 && high[1] == END_FLIES -> high[1] = END_CLOSED
	:: else
	fi
}

inline lose_up(y)
{
	if
	:: y == 0 && low[1] == END_FLIES -> low[1] = END_CLOSED
	:: else
	fi
}

/* Older and younger ones of g, by slot. */
inline tell_older(g, m, introduced_too)
{
	j = 0;
	do
	:: j < g ->
		x = pair(j, g);
		if
		:: high[x] == END_HELD && (pred[g] == j || introduced_too) ->
			tell(up[x], low[x], m, 0)
		:: else
		fi;
		j++
	:: else -> break
	od
}

/* The ends of an introduction that have not been sent. */
inline drop_made(g)
{
	if
	:: SLOTS > 2 && g == 1 && low[1] == END_MAKER -> low[1] = END_CLOSED
	:: else
	fi;
	if
	:: SLOTS > 2 && g == 1 && high[1] == END_MAKER -> high[1] = END_CLOSED
	:: else
	fi
}

inline bury(g)
{
	alive[g] = 0;
	drop_made(g);
	close_ends(g);
	close_all(g);
	alone[g] = 0;
	yields[g] = 0;
	settled[g] = 0;
	final_sent[g] = 0;
	spawning[g] = 0;
	term[g] = 0
}

inline say_hello(g)
{
	j = 0;
	do
	:: j < g ->
		x = pair(j, g);
		if
		:: pred[g] != j && high[x] == END_HELD -> tell(up[x], low[x], MESSAGE_HELLO, 0)
		:: else
		fi;
		j++
	:: else -> break
	od
}

/* To kill a successor that has not served: nothing is lost with it. */
inline kill_starting(g)
{
	whom = succ[g];
	if
	:: whom != NOBODY && alive[whom] && !committed(g) && low[pair(g, whom)] == END_HELD ->
		assert(!accepts(whom));
		bury(whom)
	:: else
	fi;
#ifndef MUTANT_HEARS_THE_ABANDONED
	if
	:: whom != NOBODY && !committed(g) -> deaf[pair(g, whom)] = 1
	:: else
	fi;
#endif
	drop_made(g);
	spawning[g] = 0
}

inline stop_service(g)
{
	stopped = 1;
	tell_older(g, MESSAGE_STOPS, true)
}

inline leave(g)
{
	if
	:: stopped || others_hold(g) || !holds(g) || orphaned
	:: else -> assert(false)
	fi;
	bury(g)
}

inline introduce_begin(g)
{
	/* The older one learns of the successor before that one can serve. */
	if
	:: g == 1 && low[0] == END_HELD && high[0] == END_HELD ->
		low[1] = END_FLIES;
		high[1] = END_MAKER;
		tell(up[0], low[0], MESSAGE_INTRODUCE, 0)
	:: else
	fi
}

inline introduce_end(g)
{
	if
	:: g == 1 && high[1] == END_MAKER ->
		high[1] = END_FLIES;
		tell(down[2], high[2], MESSAGE_INTRODUCE, 0);
		if
		:: high[2] == END_CLOSED -> high[1] = END_CLOSED
		:: else
		fi
	:: else
	fi
}

inline act(g)
{
	state[g] = next;
	if
	:: ac == ACTION_IGNORE || ac == ACTION_REFUSE || ac == ACTION_NOTE || ac == ACTION_CHECK
	:: ac == ACTION_SAY_READY -> tell(up[pair(pred[g], g)], low[pair(pred[g], g)], MESSAGE_READY, 0)
	:: ac == ACTION_SERVE -> say_hello(g)
	:: ac == ACTION_CONFIRM
	:: ac == ACTION_GIVE_UP ->
		tell_older(g, MESSAGE_FAILED, false);
		leave(g)
	:: ac == ACTION_SPAWN ->
		succ[g] = slots;
		slots++;
		spawning[g] = 1;
		settled[g] = 0;
		final_sent[g] = 0
	:: ac == ACTION_ABANDON ->
		assert(accepts(g));
#ifdef MUTANT_EOF_BEFORE_KILL
		if
		:: succ[g] != NOBODY && low[pair(g, succ[g])] == END_HELD ->
			drop_up(pair(g, succ[g]))
		:: else
		fi;
		spawning[g] = 0
#else
		kill_starting(g)
#endif
	:: ac == ACTION_REPORT -> assert(accepts(g))
	:: ac == ACTION_COMMIT ->
		x = pair(g, succ[g]);
		serves[x] = 1;
		tell(down[x], high[x], MESSAGE_COMMIT, 0)
#ifdef MUTANT_INTRODUCE_AT_COMMIT
		;
		introduce_begin(g);
		spawning[g] = 2
#endif
	:: ac == ACTION_DRAIN ->
		x = pair(g, succ[g]);
		tell(down[x], high[x], MESSAGE_CONFIRM, 0)
	:: ac == ACTION_RESUME ->
		settled[g] = 0;
		final_sent[g] = 0
	:: ac == ACTION_CUT -> close_all(g)
	:: ac == ACTION_SETTLE -> close_all(g)
	:: ac == ACTION_STOP ->
		kill_starting(g);
		stop_service(g);
		if
		:: next == STATE_ENDING -> close_all(g)
		:: else
		fi
	:: ac == ACTION_FOLLOW ->
		stop_service(g);
		if
		:: next == STATE_ENDING -> close_all(g)
		:: else
		fi
	:: ac == ACTION_LEAVE ->
		if
		:: was == STATE_DRAINED && ev == EVENT_SUCCESSOR_STOPS -> stop_service(g)
		:: was == STATE_DRAINED && ev != EVENT_SUCCESSOR_STOPS
		:: was == STATE_STARTING || was == STATE_READY ->
#ifndef MUTANT_READY_LEAVES_SILENTLY
			tell_older(g, MESSAGE_STOPS, low[pair(pred[g], g)] == END_CLOSED);
#endif
			if
			:: !others_hold(g) -> stopped = 1
			:: else
			fi
		:: was == STATE_ENDING -> close_all(g)
		:: was == STATE_STOPPING
		fi;
		i = 0;
		do
		:: i < CONNS -> assert(!own(g, i)); i++
		:: else -> break
		od;
		leave(g)
	fi
}

/* What the successor side reads. nonsense: the message is not what was sent. */
inline read_down(g, o)
{
	ev = EVENT_NONE;
	x = pair(o, g);
	down[x]?msg, c;
	printf("READ %d: %e from %d\n", g, msg, o);
	if
	:: breaks > 0 && alive[o] ->
		breaks--;
		if
		:: pred[g] == o -> ev = EVENT_PREDECESSOR_BROKE
		:: else
		fi;
		if
		:: msg == MESSAGE_INTRODUCE && high[1] == END_FLIES -> high[1] = END_CLOSED
		:: else
		fi;
		drop_down(x)
	:: msg == MESSAGE_OFFERED -> offered[g] = 1
	:: msg == MESSAGE_COMMIT -> ev = EVENT_COMMIT
	:: msg == MESSAGE_CONFIRM -> ev = EVENT_CONFIRM
	:: msg == MESSAGE_INTRODUCE ->
		high[1] = END_HELD;
		/* It comes before OFFERED, so nothing has been said to the older one yet. */
#ifdef MUTANT_INTRODUCE_AT_COMMIT
		if
		:: state[g] != STATE_STARTING && state[g] != STATE_READY ->
			tell(up[1], low[1], MESSAGE_HELLO, 0)
		:: else
		fi
#else
		assert(!offered[g])
#endif
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
	:: breaks > 0 && alive[y] ->
		breaks--;
		if
		:: msg == MESSAGE_INTRODUCE -> low[1] = END_CLOSED
		:: else
		fi;
		if
		:: state[g] == STATE_UPGRADING && succ[g] == y -> ev = EVENT_SUCCESSOR_FAILED
		:: else -> deaf[x] = 1; yields[g] = 1; forget_batches(x)
		fi
	:: msg == MESSAGE_READY -> ev = EVENT_SUCCESSOR_READY
	:: msg == MESSAGE_FAILED ->
		/* After COMMIT the death that follows is what counts. */
		if
		:: state[g] == STATE_UPGRADING -> ev = EVENT_SUCCESSOR_FAILED
		:: else
		fi
	:: msg == MESSAGE_STOPS -> ev = EVENT_SUCCESSOR_STOPS
	:: msg == MESSAGE_HELLO -> serves[x] = 1
	:: msg == MESSAGE_INTRODUCE -> low[1] = END_HELD
	:: msg == MESSAGE_RECEIPT -> settled[g] = 1
	:: msg == MESSAGE_TAKEN || msg == MESSAGE_DECLINED -> read_verdict(g, y)
	fi
}

#ifdef MUTANT_NO_PIDFD_PROOF
#define dead(g, y) true
#else
/* One that was introduced and never said hello has never served: no process has its end. */
#define dead(g, y) (!alive[y] || pred[y] != g && !serves[pair(g, y)])
#endif

/* The end of a younger one's channel, read to the end; dead: proven by its pidfd. */
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
	:: dead(g, y) ->
		ended[x] = 1;
		do
		:: up[x]?_, _
		:: empty(up[x]) -> break
		od;
		found = 0;
		j = g + 1;
		do
		:: j < SLOTS ->
			if
			:: waits_for(g, j) -> found = 1
			:: else
			fi;
			j++
		:: else -> break
		od;
		if
		:: state[g] == STATE_ABANDONING && succ[g] == y -> ev = EVENT_REAPED
		:: state[g] == STATE_UPGRADING && succ[g] == y -> ev = EVENT_SUCCESSOR_FAILED
		:: committed(g) && !found && !yields[g] -> ev = EVENT_SUCCESSOR_FAILED
		:: else
		fi
	:: else
	fi
}

#define at_end(g, y)                                                                           \
	(low[pair(g, y)] == END_HELD && !ended[pair(g, y)] &&                                  \
	 high[pair(g, y)] == END_CLOSED && read_out(g, y) &&                                  \
	 (!cutoff[pair(g, y)] || dead(g, y)))

#if SLOTS > 2
#define older_lives(g)                                                                         \
	((g) == 1 && alive[0] && high[0] == END_HELD ||                                        \
	 (g) == 2 && (high[1] == END_HELD && alive[0] || high[2] == END_HELD && alive[1]))
#define younger_lives(g)                                                                       \
	((g) == 0 && (waits_for(0, 1) && serves[0] && alive[1] ||                             \
		      waits_for(0, 2) && serves[1] && alive[2]) ||                            \
	 (g) == 1 && waits_for(1, 2) && serves[2] && alive[2])
#else
#define older_lives(g) ((g) == 1 && alive[0])
#define younger_lives(g) ((g) == 0 && alive[1])
#endif

/* A limit on the stay, and the look that is taken before a generation ends itself at it. */
#ifdef MUTANT_LEAVE_WITHOUT_A_LOOK
#define armed(g)                                                                               \
	(state[g] == STATE_DRAINED || armed_always(g) ||                                       \
	 (state[g] == STATE_STARTING || state[g] == STATE_READY))
#else
#define armed(g)                                                                               \
	(state[g] == STATE_DRAINED && (younger_lives(g) || yields[g]) || armed_always(g) ||                   \
	 state[g] == STATE_STARTING && older_lives(g) ||                                       \
	 state[g] == STATE_READY && alive[pred[g]] && empty(down[pair(pred[g], g)]))
#endif
#ifdef QUIET
#define armed_always(g) (state[g] == STATE_STANDBY)
#undef armed
#define armed armed_always
#else
#define armed_always(g)                                                                        \
	(state[g] == STATE_PROBATION || state[g] == STATE_UPGRADING ||                         \
	 state[g] == STATE_ABANDONING || state[g] == STATE_STANDBY ||                          \
	 state[g] == STATE_DRAINING || state[g] == STATE_CUTTING ||                            \
	 state[g] == STATE_STOPPING || state[g] == STATE_ENDING ||                             \
	 state[g] == STATE_CHECKING && CHECKS)
#endif

/* What holds at every moment. */
inline check()
{
	count = 0;
	i = 0;
	do
	:: i < SLOTS ->
		if
		:: accepts(i) -> count++
		:: else
		fi;
		i++
	:: else -> break
	od;
	assert(count <= 1);
	check_connections();
	forget()
}

/* Cannot tell its living predecessor of a successor, so may have none. */
#define estranged(g) (g == 1 && alive[0] && high[0] == END_CLOSED)
/* Signals come before channels, and the successor's death before both. */
#define looked(g) (!committed(g) || younger_lives(g) || yields[g])
#define on (alive[g] && (!term[g] || !looked(g)))
#define older_reads(o)                                                                         \
	(g > o && high[pair(o, g)] == END_HELD && nempty(down[pair(o, g)]) &&                  \
	 !any_held(pair(o, g)))
#define younger_reads(y)                                                                       \
	(g < y && low[pair(g, y)] == END_HELD && nempty(up[pair(g, y)]) && !deaf[pair(g, y)])

/* One thing that a generation does: an event is chosen, the table asked, the action done. */
proctype generation(byte g)
{
end:
	do
	:: atomic {
		if
		/* Signals are looked at before channels. */
		:: alive[g] && term[g] && looked(g) -> term[g] = 0; ev = EVENT_STOP
		:: on && stops > 0 && looked(g) -> stops--;
			if
			:: ev = EVENT_STOP
			:: ev = EVENT_STOP_NOW
			:: ev = EVENT_CUT
			fi
		:: on && triggers > 0 && slots < SLOTS && !estranged(g) ->
			triggers--;
			ev = EVENT_UPGRADE
		:: on && state[g] == STATE_CHECKING ->
			if
			:: estranged(g) -> ev = EVENT_CHECK_FAILED
			:: else -> ev = EVENT_CHECKED
			fi
		:: on && state[g] == STATE_CHECKING && CHECKS -> ev = EVENT_CHECK_FAILED
		:: on && state[g] == STATE_STARTING && offered[g] ->
			if
			:: alone[g] -> ev = EVENT_READY_ALONE
			:: else -> ev = EVENT_READY
			fi
		:: on && older_reads(0) -> read_down(g, 0)
#if SLOTS > 2
		:: on && older_reads(1) -> read_down(g, 1)
		:: on && g > 1 && any_held(2) -> answer(g, 1)
#endif
		:: on && g > 0 && any_held(pair(0, g)) -> answer(g, 0)
		/* The bare end of a channel; before OFFERED there is nothing to serve with. */
		:: on && g > 0 && !alone[g] && high[pair(pred[g], g)] == END_HELD &&
		   low[pair(pred[g], g)] == END_CLOSED && empty(down[pair(pred[g], g)]) ->
			alone[g] = 1;
			if
			:: offered[g] -> ev = EVENT_PREDECESSOR_GONE
			:: else -> ev = EVENT_PREDECESSOR_BROKE
			fi
		:: on && younger_reads(1) -> read_up(g, 1)
#if SLOTS > 2
		:: on && younger_reads(2) -> read_up(g, 2)
		:: on && g < 2 && at_end(g, 2) -> note_end(g, 2)
#endif
		:: on && g < 1 && at_end(g, 1) -> note_end(g, 1)
		:: on && state[g] == STATE_ABANDONING && succ[g] != NOBODY && !alive[succ[g]] ->
			ev = EVENT_REAPED
		:: on && spawning[g] == 1 ->
			ev = EVENT_NONE;
			x = pair(g, succ[g]);
			low[x] = END_HELD;
			high[x] = END_HELD;
			pred[succ[g]] = g;
			state[succ[g]] = STATE_STARTING;
			alive[succ[g]] = 1;
			spawning[g] = 2
		:: on && spawning[g] == 2 ->
			ev = EVENT_NONE;
#ifdef MUTANT_INTRODUCE_AT_COMMIT
			if
			:: state[g] != STATE_UPGRADING -> introduce_end(g); spawning[g] = 0
			:: else -> spawning[g] = 3
			fi
#else
			if
			:: estranged(g) -> ev = EVENT_SUCCESSOR_FAILED
			:: else -> introduce_begin(g); spawning[g] = 3
			fi
#endif
		:: on && spawning[g] == 3 ->
			ev = EVENT_NONE;
			introduce_end(g);
			spawning[g] = 4
		:: on && spawning[g] == 4 ->
			ev = EVENT_NONE;
			tell(down[pair(g, succ[g])], high[pair(g, succ[g])], MESSAGE_OFFERED, 0);
			spawning[g] = 0
#if SLOTS > 2
		:: on && state[g] == STATE_DRAINING && g < 2 && usable(g, 2) && can_hand(g, 2) ->
			hand_over(g, 2)
		:: on && state[g] == STATE_DRAINING && g < 1 && usable(g, 1) && !usable(g, 2) &&
		   can_hand(g, 1) -> hand_over(g, 1)
#else
		:: on && state[g] == STATE_DRAINING && g < 1 && usable(g, 1) && can_hand(g, 1) ->
			hand_over(g, 1)
#endif
		:: on && any_own(g) && (state[g] == STATE_STOPPING || state[g] == STATE_CUTTING ||
		   state[g] == STATE_ENDING || state[g] == STATE_DRAINING && FINISH) -> finish(g)
		:: on && !any_own(g) && !any_fly(g) && (state[g] == STATE_DRAINING ||
		   state[g] == STATE_CUTTING || state[g] == STATE_STOPPING || state[g] == STATE_ENDING) ->
			ev = EVENT_EMPTY
#if SLOTS > 2
		:: on && state[g] == STATE_DRAINED && !final_sent[g] && g < 2 && usable(g, 2) ->
			ev = EVENT_NONE;
			final_sent[g] = 2;
			tell(down[pair(g, 2)], high[pair(g, 2)], MESSAGE_FINAL, 0)
		:: on && state[g] == STATE_DRAINED && !final_sent[g] && g < 1 && usable(g, 1) &&
		   !usable(g, 2) ->
#else
		:: on && state[g] == STATE_DRAINED && !final_sent[g] && g < 1 && usable(g, 1) ->
#endif
			ev = EVENT_NONE;
			final_sent[g] = 1;
			tell(down[pair(g, 1)], high[pair(g, 1)], MESSAGE_FINAL, 0)
		:: on && state[g] == STATE_DRAINED && settled[g] && younger_lives(g) ->
			ev = EVENT_SETTLED
		:: on && armed(g) -> ev = EVENT_DEADLINE;
#ifdef MUTANT_TAKE_BACK_ON_TIMEOUT
			if
			:: g == 0 && state[g] == STATE_DRAINING -> take_back(g, 0)
			:: else
			fi
#endif
#ifdef MUTANT_EOF_BEFORE_KILL
		:: on && state[g] == STATE_ABANDONING && succ[g] != NOBODY && alive[succ[g]] ->
			ev = EVENT_NONE;
			bury(succ[g])
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
		fi;
		kills--;
		if
		:: holds(p) && !others_hold(p) -> orphaned = 1
		:: else
		fi;
		printf("KILL %d\n", p);
		bury(p);
		check()
	   }
#ifdef GROUP
	:: atomic {
		!grouped ->
		grouped = 1;
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

/* What holds when nothing can happen any more: nobody waits, and the service is where it should be. */
proctype rest()
{
	atomic {
		timeout ->
		count = 0;
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: alive[i] -> assert(state[i] == STATE_SERVING); count++
			:: else
			fi;
			i++
		:: else -> break
		od;
		assert(count == 1 || stopped || orphaned);
#if KILLS == 0 && BREAKS == 0
		assert(!stopped || count == 0);
#ifdef GROUP
		assert(count == 0);
#endif
#endif
		c = 0;
		do
		:: c < CONNS -> assert(over[c] || flies[c] == 0 && lies[c] == 0 && taken[c] == 0); c++
		:: else -> break
		od;
		check()
	}
}

init {
	atomic {
		i = 0;
		do
		:: i < SLOTS -> pred[i] = NOBODY; succ[i] = NOBODY; i++
		:: else -> break
		od;
		c = 0;
		do
		:: c < CONNS -> own(0, c) = 1; c++
		:: else -> break
		od;
		alive[0] = 1;
		offered[0] = 1;
		state[0] = STATE_SERVING;
		slots = 1;
		i = 0;
		do
		:: i < SLOTS -> run generation(i); i++
		:: else -> break
		od;
		forget();
		run fate();
		run rest()
	}
}
