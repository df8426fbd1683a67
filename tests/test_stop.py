"""The end of the service: what is in flight is answered, idle connections are closed, a second
request to stop cuts, and an upgrade at the same moment changes none of that.
"""

import contextlib
import os
import signal

import pytest

from functional import Subject, asking, eventually, gate, held
from harness.http import Closed, Connection

STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)


@pytest.fixture
def subject(start, folder):
    return lambda *options, **more: Subject(start, folder, *options, **more)


def finish(connection):
    """The held request's response, which has to be the connection's last."""
    response = connection.send(b"y").response()
    assert response.header("Connection") == "close" and connection.rest() == b""
    return response


@pytest.fixture
def draining(subject):
    """A service whose generation 1 drains and 2 serves, each with a request in flight; and an idle
    connection of generation 2."""

    @contextlib.contextmanager
    def make(*options):
        one = subject(*options)
        first = one.pid
        with held(one) as older:
            second = one.upgrade(wait_exit=False)
            one.log.wait_for("drain", pid=first)
            with held(one) as newer, Connection(one.address()) as idle:
                assert idle.get().pid == second
                yield one, (first, older), (second, newer), idle

    return make


def gone(one, killed=False):
    """Everybody has left, on their own and in order, and the pid file is gone. killed: a successor
    that had not served may have been killed, by its predecessor, which does not wait for its death,
    or by the signal itself, which it was too young to catch."""
    codes = one.service.wait_end()
    for pid, code in codes.items():
        if killed and code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            assert not one.log.find("serving", pid=pid)
            one.service.expected_exits.add(code)
        else:
            assert code in (0, None), codes
    assert not os.path.exists(one.service.pid_file)


# One generation.


@STOPS
def test_a_stop_answers_what_is_in_flight_and_closes_what_is_idle(subject, number):
    one = subject()
    with held(one) as busy, Connection(one.address()) as idle:
        idle.get()
        one.service.send(number)
        assert idle.rest() == b""
        one.log.wait_for("drain", to_successor=0)
        assert finish(busy).status == 200
    gone(one)


def test_a_stop_by_a_call_is_the_same(subject):
    one = subject()
    with held(one) as busy:
        with Connection(one.address()) as other:
            assert other.get("/stop").status == 200
        assert finish(busy).status == 200
    gone(one)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_second_stop_cuts_and_counts(subject, second):
    one = subject()
    with held(one) as busy:
        one.service.send(signal.SIGTERM)
        one.log.wait_for("state", to="stopping")
        assert busy.is_idle()
        one.service.send(second)
        with pytest.raises(Closed):
            busy.response()
        assert one.log.wait_for("cut")["count"] == 1
    gone(one)


def test_a_signal_of_choice_cuts_at_once(subject):
    one = subject("--now-signal", signal.SIGQUIT.value)
    with held(one) as busy:
        one.service.send(signal.SIGQUIT)
        with pytest.raises(Closed):
            busy.response()
        assert one.log.wait_for("cut")["count"] == 1
    gone(one)


def test_a_call_ends_a_running_drain(subject):
    one = subject()
    first = one.pid
    with held(one) as busy, held(one) as other:
        one.upgrade(wait_exit=False)
        one.log.wait_for("drain", pid=first)
        other.send(b"yGET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
        # Pipelined with the held one's end, so that the draining generation reads it.
        assert [other.response().pid, other.response().body] == [first, b"cut\n"]
        with pytest.raises(Closed):
            busy.response()
        assert one.log.wait_for("cut", pid=first)["count"] >= 1
    assert one.service.wait_exit(first) == 0


def test_without_a_drain_there_is_nothing_to_cut(subject):
    one = subject()
    with Connection(one.address()) as connection:
        assert connection.get("/cut").body == b"no drain is running\n"


def test_the_drain_deadline_cuts_and_counts(subject):
    one = subject("--drain-timeout", 400)
    with held(one) as busy:
        one.service.send(signal.SIGTERM)
        assert one.log.wait_for("drain")["deadline_ms"] <= 400
        with pytest.raises(Closed):
            busy.response()
        assert one.log.wait_for("cut")["count"] == 1
        change = one.log.wait_for("state", to="ending")
        assert change["reason"] == "deadline" and 400 <= change["took_ms"] < 5000
    gone(one)


def test_a_drain_deadline_of_0_cuts_at_once(subject):
    one = subject("--drain-timeout", 0)
    with held(one) as busy:
        one.service.send(signal.SIGTERM)
        with pytest.raises(Closed):
            busy.response()
    gone(one)


def test_without_a_drain_deadline_nothing_is_cut(subject):
    one = subject("--drain-timeout", "none")
    with held(one) as busy:
        one.service.send(signal.SIGTERM)
        assert one.log.wait_for("drain")["deadline_ms"] == -1
        assert finish(busy).status == 200
    gone(one)


def test_the_drain_deadline_of_an_upgrade_cuts_and_counts(subject):
    one = subject("--drain-timeout", 400)
    first = one.pid
    with held(one) as busy, Connection(one.address()) as idle:
        idle.get()
        second = one.upgrade(wait_exit=False)
        with pytest.raises(Closed):
            busy.response()
        assert one.log.wait_for("cut", pid=first)["count"] == 1
        assert one.service.wait_exit(first) == 0
        assert idle.get().pid == second


# The whole group, during a drain.


@STOPS
def test_a_stop_to_the_whole_group_during_a_drain_cuts_nothing(draining, number):
    with draining() as (one, (first, older), (second, newer), idle):
        one.service.send_group(number)
        assert idle.rest() == b""
        one.log.wait_for("state", pid=first, to="stopping")
        one.log.wait_for("state", pid=second, to="stopping")
        assert older.is_idle() and newer.is_idle()
        assert finish(older).pid == first
        assert finish(newer).pid == second
        gone(one)
        assert not one.log.find("cut")


def test_a_stop_to_who_serves_reaches_who_drains(draining):
    """A request to the one that serves is passed on to the one that drains; one is not two."""
    with draining() as (one, (first, older), (second, newer), _):
        one.service.send(signal.SIGTERM, second)
        one.log.wait_for("state", pid=first, to="stopping")
        assert older.is_idle() and newer.is_idle()
        assert finish(newer).pid == second
        assert finish(older).pid == first
        gone(one)
        assert not one.log.find("cut")


def test_the_second_stop_to_the_whole_group_cuts_both(draining):
    with draining() as (one, (first, older), (second, newer), _):
        one.service.send_group(signal.SIGTERM)
        one.log.wait_for("state", pid=first, to="stopping")
        one.log.wait_for("state", pid=second, to="stopping")
        one.service.send_group(signal.SIGTERM)
        for connection in (older, newer):
            with pytest.raises(Closed):
                connection.response()
        assert [one.log.wait_for("cut", pid=pid)["count"] for pid in (first, second)] == [1, 1]
        gone(one)


def test_the_second_stop_to_who_serves_cuts_who_drains(draining):
    """A second request to stop is meant for the service, and a part of it still drains."""
    with draining() as (one, (first, older), (second, newer), _):
        one.service.send(signal.SIGTERM, second)
        one.log.wait_for("state", pid=first, to="stopping")
        one.service.send(signal.SIGTERM, second)
        for connection in (older, newer):
            with pytest.raises(Closed):
                connection.response()
        assert [one.log.wait_for("cut", pid=pid)["count"] for pid in (first, second)] == [1, 1]
        gone(one)


def test_a_stop_to_who_drains_is_noted_and_the_successor_serves_on(draining):
    with draining() as (one, (first, older), (second, newer), idle):
        one.service.send(signal.SIGTERM, first)
        assert idle.get().pid == second
        assert older.send(b"y").response().pid == first
        assert older.get().pid == second
        assert newer.send(b"y").response().pid == second
        assert one.service.wait_exit(first) == 0
        assert one.pid == second and not one.log.find("cut")


def test_a_second_stop_to_who_drains_cuts_there_alone(draining):
    with draining() as (one, (first, older), (second, newer), idle):
        # Two signals, since two of one kind may become one in the kernel.
        one.service.send(signal.SIGTERM, first)
        one.service.send(signal.SIGINT, first)
        with pytest.raises(Closed):
            older.response()
        assert one.log.wait_for("cut", pid=first)["count"] == 1
        assert one.service.wait_exit(first) == 0
        assert idle.get().pid == second
        assert newer.send(b"y").response().pid == second


# An upgrade at the same moment.


@pytest.mark.parametrize("turn", range(6))
def test_an_upgrade_and_a_stop_at_once_end_the_service(subject, turn):
    """Whichever is first, and whoever it reaches: the request in flight is answered, all leave."""
    one = subject()
    first = one.service.serving
    with held(one) as busy:
        first.send(signal.SIGUSR2)
        if turn % 3 == 1:
            one.log.wait_for("upgrade_started")
        elif turn % 3 == 2:
            one.log.wait_for("start", where=lambda event: event["pid"] != first.pid)
        if turn < 3:
            first.send(signal.SIGTERM)
        else:
            one.service.send_group(signal.SIGTERM)
        eventually(lambda: len(one.log.find("drain")) > 0, True)
        assert busy.send(b"y").response().pid == first.pid
    # Reached only the predecessor, after its commit: the successor serves, and has to be told.
    eventually(lambda: settled(one), True)
    if one.service.running:
        one.service.send(signal.SIGTERM)
    gone(one, killed=True)
    assert not one.log.find("cut")


def settled(one):
    """Nobody is left, or one generation that serves."""
    running = one.service.running
    return not running or (len(running) == 1 and one.log.find("serving", pid=running[0]) != []
                           and not one.log.find("state", pid=running[0], to="stopping"))


@pytest.fixture
def starting(subject, folder):
    """A service whose successor waits at the gate before it is ready."""
    os.mkfifo(folder / "gate")

    @contextlib.contextmanager
    def make(*options, stage="listen"):
        one = subject(*options)
        first = one.service.serving
        one.behave(f"{stage}:gate:{folder}/gate")
        with gate(folder) as go, held(one) as busy:
            one.ask()
            second = one.service.process(one.log.wait_for("gate")["pid"])
            yield one, first, second, busy, go

    return make


@STOPS
def test_a_stop_while_the_successor_starts_ends_it(starting, number):
    with starting() as (one, first, second, busy, _):
        first.send(number)
        second.wait()
        assert busy.is_idle()
        assert finish(busy).pid == first.pid
        gone(one)
        assert not one.log.find("serving", pid=second.pid)
        # Whoever asked for the upgrade is told how it ended.
        ended = one.log.find("upgrade_ended", successor_pid=second.pid)
        assert [event["outcome"] for event in ended] == ["failed"]
        assert "stop" in ended[0]["reason"]


@STOPS
def test_a_stop_to_the_whole_group_while_the_successor_starts_ends_both(starting, number):
    with starting() as (one, first, second, busy, _):
        one.service.send_group(number)
        second.wait()
        assert finish(busy).pid == first.pid
        gone(one)
        assert not one.log.find("serving", pid=second.pid)


def test_a_second_stop_while_the_successor_starts_cuts(starting):
    with starting() as (one, first, second, busy, _):
        first.send(signal.SIGTERM)
        first.send(signal.SIGINT)
        second.wait()
        with pytest.raises(Closed):
            busy.response()
        gone(one, killed=True)


def test_a_stop_during_the_preflight_check_ends_it(subject, folder):
    (folder / "verdict").write_text("hang")
    one = subject("--check-argument", "--check", "--check-argument", folder / "verdict")
    with held(one) as busy:
        mark = one.ask()
        check = one.service.process(one.log.wait_for("check", since=mark)["pid"])
        one.service.send(signal.SIGTERM)
        check.wait()
        assert finish(busy).status == 200
    gone(one, killed=True)


def test_a_stop_to_the_successor_before_it_serves_loses_nothing(starting):
    """It looks at the signal after it has said READY: either it stops the service, or it leaves
    before it has served and the predecessor takes the service back."""
    with starting() as (one, first, second, busy, go):
        second.send(signal.SIGTERM)
        go()
        second.wait()
        eventually(lambda: one.log.find("resume") != []
                   or one.log.find("state", pid=first.pid, to="stopping") != [], True)
        assert busy.send(b"y").response().pid == first.pid
        if one.log.find("resume"):
            assert busy.get().pid == first.pid
            one.service.send(signal.SIGTERM)
    # Where its COMMIT finds nobody who listens any more, the predecessor kills what is about to go.
    gone(one, killed=True)


# Probation.


@pytest.fixture
def probation(subject):
    @contextlib.contextmanager
    def make(*options):
        one = subject("--probation", 20000, *options)
        first = one.pid
        with held(one) as older:
            mark = one.ask()
            second = one.ended(mark)["successor_pid"]
            one.log.wait_for("serving", since=mark, pid=second)
            one.log.wait_for("state", since=mark, pid=first, to="standby")
            with held(one) as newer:
                yield one, (first, older), (second, newer)

    return make


@STOPS
def test_a_stop_to_the_whole_group_on_probation_ends_both_and_cuts_nothing(probation, number):
    with probation() as (one, (first, older), (second, newer)):
        one.service.send_group(number)
        one.log.wait_for("state", pid=first, to="stopping")
        one.log.wait_for("state", pid=second, to="stopping")
        assert older.send(b"y").response().pid == first
        assert finish(newer).pid == second
        gone(one)
        assert not one.log.find("cut")


def test_a_stop_to_the_successor_on_probation_ends_both(probation):
    """It was asked to end the service, and did not fail: the predecessor does not take it back."""
    with probation() as (one, (first, older), (second, newer)):
        one.service.send(signal.SIGTERM, second)
        one.log.wait_for("state", pid=first, to="stopping")
        assert finish(newer).pid == second
        assert finish(older).pid == first
        gone(one)
        assert not one.log.find("resume") and not one.log.find("cut")


def test_a_stop_to_the_predecessor_on_probation_ends_the_probation(probation):
    with probation() as (one, (first, older), (second, newer)):
        one.service.send(signal.SIGTERM, first)
        one.log.wait_for("state", pid=second, to="serving")
        assert older.send(b"y").response().pid == first
        assert older.get().pid == second
        assert newer.send(b"y").response().pid == second
        assert one.service.wait_exit(first) == 0
        assert one.pid == second


def test_a_second_stop_to_the_whole_group_on_probation_cuts(probation):
    with probation() as (one, (first, older), (second, newer)):
        one.service.send_group(signal.SIGTERM)
        one.log.wait_for("state", pid=first, to="stopping")
        one.log.wait_for("state", pid=second, to="stopping")
        one.service.send_group(signal.SIGTERM)
        for connection in (older, newer):
            with pytest.raises(Closed):
                connection.response()
        gone(one)


# What was ignored at start.


def test_an_interrupt_that_was_ignored_at_start_stays_ignored(subject):
    """`server &` in a script: the shell ignores INT for it, and Ctrl-C is not meant for it."""
    one = subject(preexec=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    with asking(one.address()):
        one.service.send_group(signal.SIGINT)
        one.upgrade()
        one.service.send_group(signal.SIGINT)
    assert not one.log.find("state", to="stopping")
