"""Connections that wait go to the successor live: between two requests, in the middle of a head,
and before their first byte. The predecessor goes when the last of them has moved, not later.

The drain has no deadline in these tests, so that nothing but the last connection's leaving can end
a predecessor.
"""

import contextlib
import datetime
import signal

import pytest

from harness import http
from upgrades import HELD, Crowd, ask, begun, follows, generations, gone, upgrade, upgraded

PATIENT = ("--drain-timeout", "none", "--head-timeout", "100s", "--idle-timeout", "100s")
REQUEST = http.request()
HALF = len(REQUEST) - 9
DRAIN_TO_GONE_MS = 5000  # below every timer of the server's that could be mistaken for its leaving


def moment(event):
    """Seconds; events carry the wall clock's milliseconds."""
    return datetime.datetime.strptime(event["time"], "%Y-%m-%dT%H:%M:%S.%fZ").timestamp()


def figure(service, count):
    """What moving cost, for those who run pytest -s."""
    draining = service.log.find("draining", generation=1)[0]
    left = service.log.find("gone", generation=1)[0]
    took = (moment(left) - moment(draining)) * 1000
    print(f"\n{count} connections: {took:.0f} ms from the drain's begin to the predecessor's end, "
          f"{took * 1000 / count:.1f} us each")


def move(start, count, half, silent=0, options=()):
    """count connections that have had an answer, half of which have sent a part of their next
    request, and some that have sent nothing at all. All live on in the successor."""
    service = start("hello", *PATIENT, *options)
    with contextlib.ExitStack() as kept:
        crowd = kept.enter_context(Crowd(service.address, count))
        mute = kept.enter_context(Crowd(service.address, silent))
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == ({1: count} if count else {})
        halves, others = crowd.all()[:half], crowd.all()[half:]
        crowd.send(REQUEST[:HALF], halves)
        # Who comes last and is answered has found nobody before it in the backlog.
        last = kept.enter_context(service.connect())
        assert last.get().generation == 1

        ended = ask(service)
        drained = gone(service, 1, deadline=60)
        assert ended["successor"] == 2 and drained["moved"] == count + silent + 1
        # It left because it was empty, and did not wait for anything else then.
        states = service.log.find("state", generation=1)
        assert [event["reason"] for event in states[-2:]] == ["empty", "settled"]
        assert states[-1]["took_ms"] < DRAIN_TO_GONE_MS
        assert crowd.silent() and mute.silent()

        crowd.send(REQUEST[HALF:], halves)
        crowd.send(REQUEST, others)
        mute.send(REQUEST)
        assert generations(crowd.answers(deadline=60)) == ({2: count} if count else {})
        assert generations(mute.answers(deadline=60)) == ({2: silent} if silent else {})
        assert crowd.silent() and mute.silent()
        figure(service, count + silent)


@pytest.mark.plain
def test_10000_idle_connections_1000_of_them_within_a_head_go_to_the_successor(start):
    move(start, 10000, half=1000)


@pytest.mark.plain
def test_1000_connections_that_never_sent_a_byte_go_to_the_successor(start):
    move(start, 0, half=0, silent=1000)


@pytest.mark.threads
def test_idle_half_and_silent_connections_go_to_the_successor_of_four_loops(start):
    move(start, 300, half=100, silent=100, options=("--threads", 4))


@pytest.mark.threads
def test_requests_that_arrive_while_their_connections_move_are_answered_once(start):
    """Nobody waits for the end of the move: each request meets its connection before, during or
    after it, and has one answer; the next one comes from the successor."""
    service = start("hello", *PATIENT, "--threads", 2)
    with Crowd(service.address, 500) as crowd:
        for generation in range(1, 6):
            crowd.send(REQUEST[:HALF], crowd.all()[::2])
            mark = service.log.mark()
            service.send(signal.SIGUSR2)
            service.log.wait_for("upgrade-started", since=mark)
            # From here on the predecessor may begin to drain at any moment.
            for at, one in enumerate(crowd.all()):
                crowd.send(REQUEST[HALF:] if at % 2 == 0 else REQUEST, [one])
            answered = generations(crowd.answers())
            assert set(answered) <= {generation, generation + 1}
            assert sum(answered.values()) == len(crowd)
            gone(service, generation)
            crowd.send(REQUEST)
            assert generations(crowd.answers()) == {generation + 1: len(crowd)}
        assert crowd.silent()


def test_a_head_that_arrives_in_pieces_moves_from_generation_to_generation(start):
    """Each piece is read by another generation; the last one answers the whole."""
    service = start("hello", *PATIENT)
    body = b"x" * 40
    text = http.request("POST", headers=[("X-Long", "y" * 3000)], body=body)
    head = len(text) - len(body)
    with service.connect() as one:
        for piece in range(6):
            one.again().send(text[piece * head // 6 : (piece + 1) * head // 6])
            if piece < 5:
                assert upgrade(service) == piece + 2
                assert one.is_idle()
        one.send(body)
        assert one.response().generation == 6
        assert one.get().generation == 6


def test_the_deadline_of_a_head_travels_with_its_connection(start):
    """Moving is no way to gain time: with an upgrade again and again, a head that does not become
    whole is refused all the same. Were its time to begin anew in each generation, the upgrades
    would never end."""
    service = start("hello", "--head-timeout", "2s", "--drain-timeout", "none")
    with service.connect() as moved:
        moved.send(REQUEST[:HALF])
        while moved.is_idle():
            assert upgrade(service) < 2000
        rest = moved.rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 "), rest
        assert upgraded(service) > 1


def test_the_unread_bytes_of_a_pipeline_travel_in_their_order(start):
    """A whole request and the beginning of one more stand behind one that ends in the drain."""
    service = start("hello", *PATIENT, "--body-timeout", "60s", "--threads", 1)
    with service.connect() as one, service.connect() as idle:
        assert one.get().generation == idle.get().generation == 1
        one.send(HELD[:-1])
        begun(service)
        ask(service)
        assert service.log.wait_for("draining", generation=1)["requests"] == 1
        follows(idle)
        one.send(HELD[-1:] + REQUEST + REQUEST[:HALF])
        first, second = one.response(), one.response()
        assert (first.generation, second.generation) == (1, 2)
        gone(service, 1)
        one.send(REQUEST[HALF:])
        assert one.response().generation == 2
        assert one.is_idle()
