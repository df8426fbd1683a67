"""Connections that wait go live from worker to worker under `segue run`: between two requests, in the
middle of a head, and before their first byte; with as many workers in the next generation as in the
one before, and with fewer or more.
"""

import contextlib

import pytest

from harness import http, processes
from turns import ask, gone, pids, spread
from upgrades import Crowd, begun, field, generations

PATIENT = ("--drain-timeout", "1h")
SLOW_TO_TIRE = ("--head-timeout", "100s", "--idle-timeout", "100s")
REQUEST = http.request()
HALF = len(REQUEST) - 9
DRAIN_TO_GONE_MS = 5000  # below every timer of the server's that could be mistaken for its leaving


@pytest.fixture
def service(supervise, folder):
    """service(workers) starts hello; its set_workers() changes their number for the next generation."""
    config = folder / "service.conf"

    def start(workers):
        config.write_text(f"workers {workers}\n")
        one = supervise("--config", config, *PATIENT, arguments=SLOW_TO_TIRE)
        one.set_workers = lambda number: config.write_text(f"workers {number}\n")
        return one

    return start


def worker_of(head):
    """The pid that answered."""
    return int(field(head, "Segue-Pid"))


def figure(one, count):
    """What moving cost, for those who run pytest -s."""
    gone_events = [event for pid in pids(one, 1)
                   for event in one.log.find("worker", pid=pid, to="gone")]
    took = max(event["took_ms"] for event in gone_events)
    print(f"\n{count} connections: {took} ms from RETIRE to the last predecessor's end, "
          f"{took * 1000 / count:.1f} us each")


def left_because_empty(one, generation):
    """None of its workers waited for anything but its last connection."""
    for pid in pids(one, generation):
        states = one.log.find("state", pid=pid)
        assert [event["reason"] for event in states[-2:]] == ["empty", "settled"]
        assert states[-1]["took_ms"] < DRAIN_TO_GONE_MS


def move(service, before, after, count, half, silent=0):
    """count connections that have had an answer, half of which have sent a part of their next
    request, and some that have sent nothing at all. All live on in the next generation."""
    one = service(before)
    with contextlib.ExitStack() as kept:
        crowd = kept.enter_context(Crowd(one.address, 0))
        spread(one, crowd, count)
        mute = kept.enter_context(Crowd(one.address, silent))
        everyone = crowd.all()
        # Some of each worker's.
        halves = everyone[::count // half][:half]
        others = list(set(everyone) - set(halves))
        crowd.send(REQUEST[:HALF], halves)
        # From here on a part of a head is in the memory of a worker, and has to travel as bytes.
        begun(one)

        one.set_workers(after)
        assert ask(one) == 2
        drained = gone(one, 1, deadline=60)
        assert drained["moved"] >= count + silent
        left_because_empty(one, 1)
        assert len(one.workers()) == after
        assert crowd.silent() and mute.silent()

        crowd.send(REQUEST[HALF:], halves)
        crowd.send(REQUEST, others)
        mute.send(REQUEST)
        assert generations(crowd.answers(deadline=60)) == {2: count}
        assert generations(mute.answers(deadline=60)) == ({2: silent} if silent else {})
        assert crowd.silent() and mute.silent()
        figure(one, count + silent)


@pytest.mark.plain
@pytest.mark.parametrize("before, after", [(1, 1), (4, 4), (4, 2)])
def test_10000_idle_connections_1000_of_them_within_a_head_go_on(service, before, after):
    move(service, before, after, 10000, half=1000)


@pytest.mark.parametrize("before, after", [(1, 1), (4, 2), (2, 4), (3, 2)])
def test_idle_half_and_silent_connections_go_on(service, before, after):
    move(service, before, after, 300, half=100, silent=100)


def test_worker_i_hands_over_to_worker_i_mod_n(service):
    """Each connection is asked who has it, before and after."""
    one = service(4)
    with Crowd(one.address, 0) as crowd:
        last = {kept: index for index, some in spread(one, crowd, 40).items() for kept in some}
        for generation, number in enumerate([3, 2, 4, 1], start=2):
            one.set_workers(number)
            assert ask(one) == generation
            gone(one, generation - 1)
            place = {worker["pid"]: worker["worker"] for worker in one.workers(generation)}
            crowd.send(REQUEST)
            now = {kept: place[worker_of(head)] for kept, (head, _) in crowd.answers().items()}
            assert now == {kept: index % number for kept, index in last.items()}
            last = now


def test_requests_that_arrive_while_their_connections_move_are_answered_once(service):
    """Nobody waits for the end of the move: each request meets its connection before, during or
    after it, and has one answer; the next one comes from the next generation."""
    one = service(2)
    with Crowd(one.address, 400) as crowd:
        for generation, number in enumerate([4, 1, 3, 2, 2], start=1):
            crowd.send(REQUEST[:HALF], crowd.all()[::2])
            one.set_workers(number)
            client = one.popen("upgrade", "--json")
            one.log.wait_for("started", generation=generation + 1)
            # From here on the predecessors may begin to drain at any moment.
            for at, kept in enumerate(crowd.all()):
                crowd.send(REQUEST[HALF:] if at % 2 == 0 else REQUEST, [kept])
            answered = generations(crowd.answers())
            assert set(answered) <= {generation, generation + 1}
            assert sum(answered.values()) == len(crowd)
            client.communicate(timeout=30)
            assert client.returncode == 0
            crowd.send(REQUEST)
            assert generations(crowd.answers()) == {generation + 1: len(crowd)}
        assert crowd.silent()


def test_connections_are_held_by_workers_and_never_by_the_supervisor(service):
    """Nor by its relay: a connection goes from worker to worker on their own channel."""
    one = service(2)

    def sockets():
        family = [one.pid, *(stat.pid for stat in processes.children(one.pid)
                             if stat.pid not in pids(one, 1) + pids(one, 2))]
        return {pid: sum(target.startswith("socket:") for target in processes.descriptors(pid).values())
                for pid in family}

    before = sockets()
    with Crowd(one.address, 100) as crowd:
        crowd.send(REQUEST)
        crowd.answers()
        assert sockets() == before
        ask(one)
        gone(one, 1)
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == {2: 100}
        assert sockets() == before
