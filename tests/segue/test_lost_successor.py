"""A worker drains, and the one that it hands over to dies: its connections go on all the same, to
another worker of that generation, or to the one that is started in its place. None is closed.
"""

import contextlib
import signal

import pytest

from harness.http import Connection, request
from turns import accepting, alone, ask, draining, gone, pids

NEVER = ("--restart-delay", "1h", "--restart-delay-max", "1h")  # but at once for the first time
POST = request("POST", body=b"hello")


@pytest.fixture
def service(supervise):
    def start(workers, *options):
        one = supervise("--workers", workers, "--drain-timeout", "1h", *options,
                        arguments=("--response-timeout", "100s", "--body-timeout", "100s",
                                   "--threads", 1))
        one.expected_exits = {0, -signal.SIGKILL}
        return one

    return start


@contextlib.contextmanager
def begun(one, pid, count):
    """So many connections of a worker's with a request in flight, which ends when the rest of its
    body comes."""
    with contextlib.ExitStack() as stack:
        with alone(one, pid):
            kept = [stack.enter_context(Connection(one.address, deadline=100))
                    for _ in range(count)]
            for connection in kept:
                assert connection.get().pid == pid
                connection.send(POST[:-1])
        yield kept


def finish(connection, pid):
    """The request in flight ends where it began, and nothing is said of an end of the connection."""
    response = connection.send(POST[-1:]).response()
    assert response.status == 200 and response.pid == pid
    assert response.header("Connection") != "close"


def kill(one, pid):
    """One worker; from when on the log is about its end."""
    mark = one.log.mark()
    one.send(signal.SIGKILL, pid)
    return mark


def restarted(one, mark, worker):
    """The pid of the worker in its place, which serves."""
    return one.log.wait_for("worker", since=mark, worker=worker, to="serving")["pid"]


@pytest.mark.parametrize("workers", [2, 4])
def test_what_comes_free_while_a_successor_is_dead_moves_to_another_one(service, workers):
    one = service(workers, *NEVER)
    elder = accepting(one)[1]
    with begun(one, elder, 3) as (at_once, meanwhile, later):
        assert ask(one) == 2
        draining(one, 1)
        # Nobody waits: it is still being noticed.
        mark = kill(one, accepting(one)[1])
        finish(at_once, elder)
        second = restarted(one, mark, 1)
        assert at_once.get().pid in accepting(one).values()
        # The one in its place dies as well, with what it may have had, and none comes until it is
        # told to.
        mark = kill(one, second)
        one.log.wait_for("crashed", since=mark, where=lambda event: "3600 s" in event["text"])
        finish(meanwhile, elder)
        others = accepting(one)
        assert 1 not in others and meanwhile.get().pid in others.values()
        mark = one.log.mark()
        assert one.ask("restart", 1).code == 0
        third = restarted(one, mark, 1)
        finish(later, elder)
        assert later.get().pid == third
        assert gone(one, 1)["moved"] >= 3
        for connection in (meanwhile, later):
            assert connection.get().generation == 2 and connection.is_idle()
    assert elder in pids(one, 1) and one.status()["state"] == "serving"


def test_a_worker_that_was_replaced_hands_over_to_the_one_that_is_started_again(service):
    """'segue restart', and the one that took its place dies while it drains."""
    one = service(2, *NEVER)
    elder = accepting(one)[1]
    with begun(one, elder, 2) as (at_once, later):
        client = one.popen("restart", "1", "--json")
        one.log.wait_for("state", pid=elder, to="draining")
        replacement = accepting(one)[1]
        mark = kill(one, replacement)
        finish(at_once, elder)
        third = restarted(one, mark, 1)
        assert at_once.get().pid in accepting(one).values()
        finish(later, elder)
        assert later.get().pid == third
        client.communicate(timeout=30)


def test_with_one_worker_the_predecessor_serves_again_and_keeps_all(service):
    one = service(1, *NEVER)
    elder = accepting(one)[0]
    with begun(one, elder, 2) as (at_once, later):
        assert ask(one) == 2
        draining(one, 1)
        kill(one, accepting(one)[0])
        finish(at_once, elder)
        one.log.wait_for("state", pid=elder, **{"from": "draining"}, to="serving")
        finish(later, elder)
        for connection in (at_once, later):
            assert connection.get().pid == elder and connection.is_idle()


def test_with_one_worker_a_restart_during_a_drain_is_followed(service):
    one = service(1)
    elder = accepting(one)[0]
    with begun(one, elder, 2) as (before, after):
        assert ask(one) == 2
        draining(one, 1)
        second = accepting(one)[0]
        finish(before, elder)
        assert before.get().pid == second
        mark = one.log.mark()
        assert one.ask("restart", 0).code == 0
        third = restarted(one, mark, 0)
        finish(after, elder)
        for connection in (before, after):
            assert connection.get().pid == third and connection.is_idle()
        gone(one, 1)
