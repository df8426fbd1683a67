/* SPDX-License-Identifier: MIT */
/*
 * What both models share: the channels between generations, and the connections that move on
 * them. A process is a slot: 0, 1, ... in the order of their start, so that a channel is
 * pair(older, younger).
 */
#ifndef CONNS
#define CONNS 1
#endif
#ifndef DECLINES
#define DECLINES 0
#endif
#ifndef FINISH
#define FINISH 1
#endif
#define NOBODY 9

/* A process: its generation's state, as the table has it. */
mtype state[SLOTS];
bit alive[SLOTS];
bit settled[SLOTS];      /* as a predecessor: the receipt has come */
byte final_sent[SLOTS];  /* to whom it has sent its final state */

/*
 * A channel for each pair, by pair(predecessor, successor). The ends: nobody's yet, held by the
 * maker (an introduction), on the way in a message, held by the one it is for, closed.
 */
#if SLOTS > 3
#define CHANNELS 6
#else
#define CHANNELS 3
#endif
#define pair(p, s) ((s) * ((s) - 1) / 2 + (p))
#define END_NONE 0
#define END_MAKER 1
#define END_FLIES 2
#define END_HELD 3
#define END_CLOSED 4
chan down[CHANNELS] = [6] of { mtype, byte };
chan up[CHANNELS] = [6] of { mtype, byte };
byte low[CHANNELS];      /* the predecessor's end */
byte high[CHANNELS];     /* the successor's end */
bit serves[CHANNELS];    /* the predecessor knows that this successor serves */
bit deaf[CHANNELS];      /* the predecessor has read nonsense after COMMIT and reads no more */
bit cutoff[CHANNELS];    /* the predecessor has read to the end of the channel */
bit ended[CHANNELS];     /* the same, and the successor is proven dead */

/* A connection: who believes that it owns it, and the batch that it is in. */
bit owns[SLOTS * CONNS];
byte flies[CONNS];       /* the senders' side, bits: channels with an unanswered batch */
byte taken[CONNS];       /* the same, where the answer is written and not yet read */
byte lies[CONNS];        /* the receiver's side: channel + 1 of a batch queued or unacknowledged */
bit held[CONNS];         /* that batch has been read and is not yet acknowledged */
bit over[CONNS];         /* ended by itself, cut, or lost with its owner */
byte toucher[CONNS];     /* who has touched it last */
byte declined[CONNS];    /* bits: by whom */
#define own(g, c) owns[(g) * CONNS + (c)]

/* Of one step only; forget() ends it. */
mtype was, next, ev, ac, msg;
byte c, x, i, j, p, whom, count;
bit found;

#define accepts(g)                                                                             \
	(alive[g] && (state[g] == STATE_PROBATION || state[g] == STATE_SERVING ||             \
		      state[g] == STATE_CHECKING || state[g] == STATE_UPGRADING ||            \
		      state[g] == STATE_ABANDONING))
#define committed(g)                                                                           \
	(state[g] == STATE_STANDBY || state[g] == STATE_DRAINING ||                           \
	 state[g] == STATE_CUTTING || state[g] == STATE_DRAINED)

/* The successor that gets the connections, the youngest first. */
#define usable(p, s)                                                                           \
	(low[pair(p, s)] == END_HELD && serves[pair(p, s)] && !cutoff[pair(p, s)] &&          \
	 !deaf[pair(p, s)])

#ifdef MUTANT_DRAINED_ADOPTS
#define adopts(g) true
#else
#define adopts(g)                                                                              \
	(state[g] != STATE_CUTTING && state[g] != STATE_DRAINED && state[g] != STATE_ENDING)
#endif

#define tell(queue, end, m, what)                                                              \
	if                                                                                     \
	:: end == END_CLOSED                                                                   \
	:: else -> assert(nfull(queue)); queue!m, what                                         \
	fi

/* The receiver's end of a channel goes, with what lies in its queue. */
inline drop_down(y)
{
	do
	:: down[y]?_, _
	:: empty(down[y]) -> break
	od;
	i = 0;
	do
	:: i < CONNS ->
		if
		:: lies[i] == y + 1 ->
			lies[i] = 0;
			held[i] = 0;
			if
			:: !(flies[i] & (1 << y)) -> over[i] = 1
			:: else
			fi
		:: else
		fi;
		i++
	:: else -> break
	od;
	high[y] = END_CLOSED;
	lose_down(y)
}

inline drop_up(y)
{
	do
	:: up[y]?_, _
	:: empty(up[y]) -> break
	od;
	low[y] = END_CLOSED;
	lose_up(y)
}

/* The sender's part in unanswered batches ends: they are the receiver's, or lost. */
inline forget_batches(y)
{
	i = 0;
	do
	:: i < CONNS ->
		taken[i] = taken[i] & ~(1 << y);
		if
		:: flies[i] & (1 << y) ->
			flies[i] = flies[i] & ~(1 << y);
			if
			:: lies[i] == 0 -> over[i] = 1
			:: else
			fi
		:: else
		fi;
		i++
	:: else -> break
	od
}

inline close_all(g)
{
	i = 0;
	do
	:: i < CONNS ->
		if
		:: own(g, i) -> own(g, i) = 0; over[i] = 1
		:: else
		fi;
		i++
	:: else -> break
	od
}

/* The end of a process, of whatever kind: the kernel closes what it had. */
inline close_ends(g)
{
	j = 0;
	do
	:: j < g ->
		x = pair(j, g);
		if
		:: high[x] == END_HELD || high[x] == END_FLIES -> drop_down(x)
		:: else
		fi;
		j++
	:: else -> break
	od;
	j = g + 1;
	do
	:: j < SLOTS ->
		x = pair(g, j);
		if
		:: low[x] == END_HELD || low[x] == END_FLIES -> drop_up(x)
		:: else
		fi;
		forget_batches(x);
		j++
	:: else -> break
	od
}

/* The batches of a channel whose successor can answer no more are the sender's again. */
inline take_back(g, y)
{
	i = 0;
	do
	:: i < CONNS ->
		if
		:: (flies[i] | taken[i]) & (1 << y) ->
			flies[i] = flies[i] & ~(1 << y);
			taken[i] = taken[i] & ~(1 << y);
			assert(!own(g, i));
			assert(toucher[i] == g);
			if
			:: state[g] == STATE_DRAINED -> over[i] = 1
			:: else -> own(g, i) = 1
			fi
		:: else
		fi;
		i++
	:: else -> break
	od
}

inline answer(g, o)
{
	printf("ANSW %d to %d\n", g, o);
	ev = EVENT_NONE;
	x = pair(o, g);
	c = 0;
	do
	:: lies[c] == x + 1 && held[c] -> break
	:: else -> c++
	od;
	lies[c] = 0;
	held[c] = 0;
	if
	:: adopts(g) ->
		own(g, c) = 1;
		toucher[c] = g;
		flies[c] = flies[c] & ~(1 << x);
		if
		:: low[x] != END_CLOSED && !deaf[x] -> taken[c] = taken[c] | (1 << x)
		:: else
		fi;
		tell(up[x], low[x], MESSAGE_TAKEN, c)
	:: (!adopts(g) || declines > 0) && low[x] != END_CLOSED ->
		if
		:: adopts(g) -> declines--
		:: else
		fi;
		if
		:: deaf[x] -> over[c] = 1
		:: else -> tell(up[x], low[x], MESSAGE_DECLINED, c)
		fi
	:: !adopts(g) && low[x] == END_CLOSED -> over[c] = 1
	fi
}

#ifdef MUTANT_PROOF_BEFORE_READING
#define read_out(g, y) true
#else
#define read_out(g, y) (empty(up[pair(g, y)]) || deaf[pair(g, y)])
#endif

/* What became of a batch: its receiver's word. */
inline read_verdict(g, y)
{
	if
	:: msg == MESSAGE_TAKEN -> taken[c] = taken[c] & ~(1 << x)
	:: msg == MESSAGE_DECLINED ->
		assert(flies[c] & (1 << x));
		flies[c] = flies[c] & ~(1 << x);
		declined[c] = declined[c] | (1 << y);
		if
		:: state[g] == STATE_DRAINED || state[g] == STATE_CUTTING || state[g] == STATE_ENDING ->
			over[c] = 1
		:: else -> own(g, c) = 1
		fi
	fi
}

inline hand_over(g, y)
{
	printf("HAND %d to %d\n", g, y);
	ev = EVENT_NONE;
	x = pair(g, y);
	c = 0;
	do
	:: own(g, c) && !(declined[c] & (1 << y)) -> break
	:: else -> c++
	od;
	own(g, c) = 0;
	flies[c] = flies[c] | (1 << x);
	if
	:: high[x] == END_CLOSED
	:: else ->
		assert(nfull(down[x]));
		lies[c] = x + 1;
		down[x]!MESSAGE_CONNECTIONS, c
	fi
}

#if CONNS == 1
#define any_own(g) own(g, 0)
#define any_fly(g) sender(g, 0)
#define can_hand(g, y) (own(g, 0) && !(declined[0] & (1 << (y))))
#define any_held(x) (lies[0] == (x) + 1 && held[0])
#else
#define any_own(g) (own(g, 0) || own(g, 1))
#define any_fly(g) (sender(g, 0) || sender(g, 1))
#define can_hand(g, y)                                                                         \
	((own(g, 0) && !(declined[0] & (1 << (y)))) || (own(g, 1) && !(declined[1] & (1 << (y)))))
#define any_held(x) ((lies[0] == (x) + 1 && held[0]) || (lies[1] == (x) + 1 && held[1]))
#endif
/* channels 0, 1 and 3 are slot 0's, 2 and 4 slot 1's, 5 slot 2's */
#define sender(g, c)                                                                           \
	((g) == 0 && ((flies[c] | taken[c]) & 11) || (g) == 1 && ((flies[c] | taken[c]) & 20) ||   \
	 (g) == 2 && ((flies[c] | taken[c]) & 32))

inline finish(g)
{
	ev = EVENT_NONE;
	c = 0;
	do
	:: own(g, c) -> break
	:: else -> c++
	od;
	own(g, c) = 0;
	over[c] = 1
}

inline forget()
{
	was = 0; next = 0; ev = 0; ac = 0; msg = 0;
	c = 0; x = 0; i = 0; j = 0; p = 0; whom = 0; count = 0; found = 0
}

inline check_connections()
{
	c = 0;
	do
	:: c < CONNS ->
		count = 0;
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: own(i, c) -> assert(alive[i]); count++
			:: else
			fi;
			i++
		:: else -> break
		od;
		/* At most one owner; none ownerless but on its way, or lost with its owner. */
		assert(count <= 1);
		assert(count == 1 || over[c] || flies[c] != 0 || lies[c] != 0);
		c++
	:: else -> break
	od
}
