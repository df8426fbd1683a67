"""Upgrades under `segue run`, as the supervisor's log tells them: by whichever way one is asked for,
and the end of each worker of a generation.
"""

import contextlib
import signal

from harness.http import request

WAYS = ("command", "USR2", "HUP", "worker")


def ask(service, way="USR2", deadline=None):
    """One upgrade; returns its generation as soon as it serves. The predecessor may drain on."""
    mark = service.log.mark()
    if way == "command":
        service.upgrade("--no-wait", deadline=deadline)
    elif way == "worker":
        service.send(signal.SIGUSR2, service.workers()[-1]["pid"])
    else:
        service.send(getattr(signal, f"SIG{way}"))
    # The supervisor says nothing else under this name: 'failed' would be in its place.
    event = service.log.wait_for(
        since=mark, deadline=deadline,
        where=lambda event: event.get("service") and event.name in ("serving", "failed"))
    assert event.name == "serving", event
    return event["generation"]


def pids(service, generation):
    """Of all workers that a generation ever had."""
    return [event["pid"] for event in service.log.find("started", generation=generation)]


def begin_of(service, generation):
    """The point in the log from which on it tells of a generation: in a long one the same pid comes
    again, and who looks for an event should not begin with the first."""
    for at, event in enumerate(service.log.events):
        if event.matches("started", {"generation": generation}):
            return at
    raise AssertionError(f"generation {generation} was never started")


def draining(service, generation):
    """Waits until every worker of a generation has stopped to accept: it is told so a moment after
    the next generation serves, and until then both accept."""
    since = begin_of(service, generation)
    for pid in pids(service, generation):
        service.log.wait_for("state", since=since, pid=pid, to="draining")


def gone(service, generation, deadline=None):
    """Waits until every worker of a generation has gone, nothing having been cut; the sum of what
    their 'drained' events say. The supervisor has seen the end of each."""
    total = {}
    since = begin_of(service, generation)
    for pid in pids(service, generation):
        where = {"since": since, "generation": generation, "pid": pid, "deadline": deadline}
        service.log.wait_for("gone", exit=0, **where)
        service.log.wait_for("worker", to="gone", **where)
        drained = service.log.wait_for("drained", **where)
        for key in ("moved", "finished", "cut_requests", "cut_idle"):
            total[key] = total.get(key, 0) + drained[key]
    assert total["cut_requests"] == total["cut_idle"] == 0, total
    return total


def unharmed(service, pid, generations):
    """The supervisor has stayed, and what it tells is that many upgrades and nothing else."""
    assert service.pid == pid and not service.first.ended
    serving = [event["generation"] for event in service.log.find("serving") if event.get("service")]
    assert serving == list(range(1, generations + 1))
    for name in ("crashed", "failed", "resumed", "warning", "nonsense", "closed", "limit"):
        assert not service.log.find(name), service.log.find(name)
    status = service.status()
    assert [one["number"] for one in status["generations"]] == [generations]
    assert status["restarts"] == 0


def accepting(service):
    """The pids of the workers that serve, by their index; those that drain accept nothing."""
    return {worker["worker"]: worker["pid"] for worker in service.workers()
            if worker["state"] == "serving"}


@contextlib.contextmanager
def alone(service, pid):
    """Nobody but this worker accepts."""
    others = [service.process(other) for other in accepting(service).values() if other != pid]
    for other in others:
        other.stop()
    try:
        yield
    finally:
        for other in others:
            other.go_on()


def spread(service, crowd, count):
    """So many connections more, each answered once, the same number with each worker; the sockets by
    the worker's index. Left to the kernel one worker may get them all."""
    found = {}
    workers = accepting(service)
    for index, pid in workers.items():
        share = count // len(workers) + (index < count % len(workers))
        with alone(service, pid):
            found[index] = crowd.more(share)
            crowd.send(request(), found[index])
            crowd.answers(share)
    return found
