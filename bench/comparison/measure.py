"""One repetition: everything that is measured of one peer, on one service that is started for it.

The load is the same for each peer, and never retries. Where it is an open loop, so many requests come
whether the peer is fast or slow; in a closed loop a connection asks again as soon as it has its answer,
which is the hardest case for whoever closes connections between two requests.
"""

import contextlib
import pathlib
import signal
import tempfile
import time

from comparison.services import BODY
from figures import ends_before
from harness.load import Load

# name: (what it is, connections, options of segue-load, whether connections are kept)
SHAPES = {
    "new": ("new connections, 200 a second", 4, ("--new", 4, "--rate", 200), False),
    "get": ("kept, GET after GET", 8, ("--keepalive", 8), True),
    "post": ("kept, POST after POST", 8, ("--post", 8), True),
    "idle": ("1,000 kept, each asks every 1.25 s", 1000, ("--keepalive", 1000, "--rate", 800), True),
    "slow": ("kept, GET that takes 300 ms", 8, ("--keepalive", 8), True),
}
RESTARTS = 3  # in each part of a repetition; 1 of a quick one
CYCLE = 1.4  # seconds from one restart under load to the next, at least: each connection has asked again
EVEN = ("--new", 5, "--keepalive", 25, "--rate", 500)
ENDLESS = ("--duration", "1h")  # it is stopped
STEADY = 1.5
SETTLED = 0.3  # seconds after the last version has gone that still count as its restart
PAUSE = 0.005  # of the client that looks for the next version, under load


@contextlib.contextmanager
def load(build, folder, peer, *options, slow=False, name="load"):
    url = peer.slow_url if slow else peer.url
    running = Load(build.program("src/load/segue-load"), pathlib.Path(tempfile.mkdtemp(dir=folder)),
                   "--count-header", "Segue-Generation", "--expect", BODY.decode(), "--timeout", "10s",
                   "--timeline", *options, url, name=name)
    running.expected_exits = {0, 1, 3}
    try:
        yield running
    finally:
        wrong = running.finish()
        if wrong:
            raise RuntimeError("\n".join(wrong))


def quiet(peer, count):
    """Restarts with nobody there but the client that looks for the next version."""
    found = []
    for _ in range(count):
        one = peer.restart()
        found.append({"first": one["answered"] - one["begun"], "gone": one["gone"] - one["begun"],
                      "failed": one["failed"]})
        # Some of them take the next signal only when they have noticed that the last version is gone.
        ends_before(peer.service.first, time.monotonic() + 0.1)
    return found


def efficiency(build, folder, peer, seconds):
    """Answers for each CPU second of the peer, at 64 connections in closed loop."""
    with load(build, folder, peer, "--keepalive", 64, "--duration", f"{seconds * 1000:g}ms") as running:
        before = peer.cpu_seconds()
        result = running.result(seconds + 30)
        used = peer.cpu_seconds() - before
    return {"per_cpu_second": result["ok"] / used, "per_second": result["per_second"], "lost": result.lost}


def restarts(peer, first, count, cycle=CYCLE):
    """Restarts under a load, of which first is one process; moments of the monotonic clock."""
    found = []
    for _ in range(count):
        found.append(peer.restart(pause=PAUSE))
        until = max(found[-1]["begun"] + cycle, found[-1]["gone"] + SETTLED)
        if ends_before(first, until):
            raise RuntimeError("the load ended by itself")
    return found


def worst(result, spans):
    """The slowest answer of those that ended in one of these spans of the monotonic clock, in ms."""
    timeline, start = result["timeline"], result["monotonic_ms"]
    step, slowest = timeline["step_ms"], timeline["latency_us"]["max"]
    found = [0]
    for begin, end in spans:
        first, last = ((int(moment * 1000 - start)) // step for moment in (begin, end))
        found += [value for value in slowest[max(first, 0):last + 1] if value is not None]
    return max(found) / 1000


def even(build, folder, peer, count):
    """The slowest request with restarts and without, at 500 requests a second."""
    with load(build, folder, peer, *EVEN, *ENDLESS) as running:
        running.wait_running()
        begin = time.monotonic()
        ends_before(running.first, begin + STEADY)
        moments = restarts(peer, running.first, count, cycle=0.5)
        result = running.stop()
    spans = [(one["begun"], one["gone"] + SETTLED) for one in moments]
    return {"steady_ms": worst(result, [(begin, moments[0]["begun"] - 0.1)]),
            "restart_ms": worst(result, spans), "lost": result.lost, "restarts": count}


def losses(build, folder, peer, count):
    """Restarts under all shapes at once; what each shape lost, and which connections were closed."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name in peer.shapes:
            options = SHAPES[name][2]
            running[name] = stack.enter_context(
                load(build, folder, peer, *options, *ENDLESS, slow=name == "slow", name=f"load-{name}"))
        for one in running.values():
            one.wait_running()
        moments = restarts(peer, running["get"].first, count)
        for one in running.values():
            one.first.send(signal.SIGINT)
        results = {name: one.result() for name, one in running.items()}
    shapes = {name: of_shape(result) for name, result in results.items()}
    return {"restarts": count, "shapes": shapes,
            "first": [one["answered"] - one["begun"] for one in moments],
            "gone": [one["gone"] - one["begun"] for one in moments],
            "timeline": merged([results["new"], results["idle"]], moments)}


def of_shape(result):
    connections = result["connections"]
    return {"requests": result["requests"], "ok": result["ok"], "lost": result.lost,
            "own": result["outcomes"]["own_limit"], "not_started": result["not_started"],
            "outcomes": {key: count for key, count in result["outcomes"].items() if count and key != "ok"},
            "announced": connections["idle_closed_announced"],
            "unannounced": connections["idle_closed_unannounced"]}


def merged(results, moments):
    """The timelines of several loads as one that begins with the latest of them: answers and lost
    requests for each step, and the restarts in seconds."""
    step = results[0]["timeline"]["step_ms"]
    start = max(result["monotonic_ms"] for result in results)
    skipped = [round((start - result["monotonic_ms"]) / step) for result in results]
    count = min(result["timeline"]["steps"] - skip for result, skip in zip(results, skipped))
    answers, lost = [0] * count, [0] * count
    for result, skip in zip(results, skipped):
        timeline = result["timeline"]
        for at in range(count):
            answers[at] += timeline["ok"][at + skip]
            lost[at] += sum(values[at + skip] for values in timeline["failures"].values())
    return {"step_ms": step, "ok": answers, "lost": lost,
            "restarts": [one["begun"] - start / 1000 for one in moments],
            "gone": [one["gone"] - start / 1000 for one in moments]}


def repetition(build, top, make, backend, quick=False):
    """All figures of one peer, once. make: its class."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=top))
    peer = make(build, folder, backend)
    try:
        peer.start()
        count = 1 if quick else RESTARTS
        return {"memory": peer.memory(), "quiet": quiet(peer, count),
                "efficiency": efficiency(build, folder, peer, 1 if quick else 1.5),
                "even": even(build, folder, peer, count), "losses": losses(build, folder, peer, count)}
    finally:
        peer.stop()
