"""What bench/chaos does: each step drawn from the seed, the shape and the step's number alone, so that
a run can be repeated, and any step of it begun with.

When something of a step happens is a count of events of the log or of answers; only how long a process
stays stopped is a time, and that is drawn as well. What a step finds by then is the machine's business:
an act whose target is not there (any more) is left out, and the replay log says so.
"""

import random

SHAPES = ("self", "run")

# What is wrong with the version that a step upgrades to.
FILES = ("missing", "not-executable", "garbage", "folder")  # there is no program to start
ORDERS = ("exit 0", "exit 3", "crash", "refuse", "hang")  # it ends, or hangs, before it is ready
LATER = ("serves", "request 0", "request 40")  # it dies after it was ready
REFUSALS = {"self": ("may-upgrade", "check"), "run": ("preflight", "mistake", "listen")}


def _draw(rng, weights):
    return rng.choices(list(weights), list(weights.values()))[0]


def life(seed, shape, step):
    """What a service that is started before a step is like."""
    rng = random.Random(f"{seed} {shape} {step} life")
    return {
        "steps": rng.randrange(20, 60),  # then it is told to stop
        "workers": rng.randrange(1, 5),
        "orphans": rng.choice(("drain", "drain", "serve")),
        "log": rng.choice(("plain", "plain", "direct")),
        "preflight": rng.random() < 0.3,
        "options": _options(rng, shape),
    }


def _options(rng, shape):
    """The command line of the next generation."""
    words = ["--threads", str(rng.choice((1, 1, 2, 4)))]
    if shape == "self" and rng.random() < 0.2:
        words += ["--probation", f"{rng.randrange(20, 400)}ms"]
    return words


def _ms(rng):
    return int(2 ** rng.uniform(1, 8))


def _version(rng, shape):
    kind = _draw(rng, {"good": 38, "late": 12, "slow": 12, "file": 8, "order": 14, "later": 10, "refusal": 8})
    if kind in ("late", "slow"):
        return f"{kind} {_ms(rng)}"
    choices = {"file": FILES, "order": ORDERS, "later": LATER, "refusal": REFUSALS[shape]}
    return rng.choice(choices[kind]) if kind in choices else kind


def _when(rng):
    kind = _draw(rng, {"events": 60, "answers": 25, "ended": 15})
    return {"events": ("events", rng.randrange(0, 24)), "answers": ("answers", rng.randrange(1, 300)),
            "ended": ("ended", 0)}[kind]


def _act(rng, shape):
    acts = {"kill": 30, "stop": 25, "cut": 8, "again": 8, "reopen": 4}
    whom = {"predecessor": 40, "successor": 40, "both": 8, "oldest": 12}
    if shape == "run":
        acts.update({"restart": 6, "signal": 4, "connect": 4})
        whom.update({"supervisor": 8, "relay": 12})
    act = _draw(rng, acts)
    target = _draw(rng, whom)
    if act == "kill" and target == "supervisor":
        target = "relay"  # That is an end, see there.
    return {"act": act, "when": _when(rng), "whom": target, "worker": rng.randrange(4),
            "us": int(2 ** rng.uniform(0, 14)), "ms": _ms(rng), "last_too": rng.random() < 0.15}


def step(seed, shape, number):
    rng = random.Random(f"{seed} {shape} {number}")
    ways = ("USR2",) if shape == "self" else ("command", "command", "command", "USR2", "HUP", "worker")
    drawn = {
        "step": number,
        "version": _version(rng, shape),
        "way": rng.choice(ways),
        "acts": [_act(rng, shape) for _ in range(_draw(rng, {0: 40, 1: 38, 2: 16, 3: 6}))],
        "drain_ms": _ms(rng) if rng.random() < 0.3 else 0,
        "settle": rng.random() < 0.7,
        "options": _options(rng, shape),
        "workers": rng.randrange(1, 5) if rng.random() < 0.4 else None,
        "end": None,
    }
    if rng.random() < 0.05 and drawn["version"] != "hang":
        drawn["end"] = rng.choice(("stop", "stop-now", "kill-all", "kill-supervisor"))
        drawn["end_when"] = _when(rng)
    # A version that hangs is only worth its time where the deadline is short.
    drawn["short"] = _version_of(seed, shape, number + 1) == "hang"
    return drawn


def _version_of(seed, shape, number):
    return _version(random.Random(f"{seed} {shape} {number}"), shape)
