"""One upgrade at a time: however many ask, one successor starts, everybody else gets one exact
answer, and nobody is killed by mistake.
"""

import contextlib
import os
import re
import signal

import pytest

from functional import Subject, asking, eventually, gate, held
from harness.http import Connection


@pytest.fixture
def subject(start, folder):
    return lambda *options, **more: Subject(start, folder, *options, **more)


@pytest.fixture
def starting(subject, folder):
    """A service whose successors wait at the gate before they are ready."""
    os.mkfifo(folder / "gate")

    def make(*options):
        one = subject(*options)
        one.behave(f"listen:gate:{folder}/gate")
        return one

    return make


def refused(one, pid, ask=None):
    """Asks one process; the reason why it refuses."""
    mark = one.log.mark()
    if ask is None:
        one.service.send(signal.SIGUSR2, pid)
    else:
        ask()
    return one.log.wait_for("upgrade_ended", since=mark, pid=pid, outcome="refused")["reason"]


def says(reason, text):
    """Is it this text, with a number of seconds in place of N? The number."""
    found = re.fullmatch(re.escape(text).replace("N", r"(\d+)"), reason)
    assert found, reason
    return int(found[1])


@pytest.mark.parametrize("times", [2, 10, 100])
def test_signals_at_once_start_one_successor(subject, times):
    one = subject()
    first = one.service.serving
    with asking(one.address()) as clients:
        mark = one.log.mark()
        for _ in range(times):
            first.send(signal.SIGUSR2)
        one.log.wait_for("upgrade_ended", since=mark, outcome="upgraded")
        assert one.service.wait_exit(first.pid) == 0
        clients.wait_more()
    begun = one.log.find("upgrade_begins")
    assert len(begun) == 1 and len(one.log.find("start")) == 2
    successor = one.pid
    assert one.service.running == [successor]
    assert clients.pids() == {first.pid, successor}
    # What was not merged by the kernel into one signal was refused.
    outcomes = {event["outcome"] for event in one.log.find("upgrade_ended")}
    assert outcomes <= {"upgraded", "refused"}


@pytest.mark.parametrize("times", [2, 10, 100])
def test_calls_at_once_start_one_successor(starting, folder, times):
    one = starting()
    pid = one.pid
    with gate(folder) as go, asking(one.address()):
        with Connection(one.address()) as connection:
            answers = connection.get(f"/upgrade/{times}").body.decode().splitlines()
        assert len(answers) == times and answers[0] == "0 "
        for answer in answers[1:]:
            left = says(answer, f"-16 {STARTS}")
            assert 0 < left <= 20000
        one.log.wait_for("gate")
        assert len(one.log.find("upgrade_started")) == 1
        go()
        assert one.service.wait_exit(pid) == 0
    # A refused call is answered by its return value; no event follows.
    assert [event["outcome"] for event in one.log.find("upgrade_ended")] == ["upgraded"]


@pytest.mark.parametrize("times", [1, 10, 100])
def test_signals_to_the_whole_group_kill_nobody(subject, times):
    """`pkill -USR2 server`: each generation gets it, at whatever moment of its start."""
    one = subject()
    with asking(one.address()):
        for _ in range(times):
            one.service.send_group(signal.SIGUSR2)
            one.service.reap()
        one.log.wait_for("upgrade_ended", outcome="upgraded")
        # The service comes to rest: as many ended upgrades as began, and one process.
        eventually(lambda: at_rest(one), True)
    assert not [event for event in one.log.find("upgrade_ended") if event["outcome"] == "failed"]
    assert set(one.service.exit_codes.values()) <= {0, None}


def at_rest(one):
    ended = one.log.find("upgrade_ended", outcome="upgraded")
    return len(ended) == len(one.log.find("upgrade_begins")) and one.service.running == [one.pid]


# The exact answers.

STARTS = "upgrade refused: generation 2 starts; it may take N s more; ask again then"


def test_while_one_starts_the_answer_is_exact(starting, folder):
    one = starting()
    pid = one.pid
    with gate(folder) as go, asking(one.address()):
        one.ask()
        one.log.wait_for("gate")
        reason = refused(one, pid)
        left = says(reason, STARTS)
        assert 10 < left <= 20
        # The answer is the present one, not a remembered one.
        eventually(lambda: says(refused(one, pid), STARTS) < left, True)
        assert one.service.running[0] == pid and len(one.service.running) == 2
        go()
        one.log.wait_for("upgrade_ended", outcome="upgraded")
        assert one.service.wait_exit(pid) == 0


def test_without_a_deadline_the_answer_names_none(starting, folder):
    one = starting("--start-timeout", "none")
    pid = one.pid
    with gate(folder) as go:
        one.ask()
        one.log.wait_for("gate")
        assert refused(one, pid) == "upgrade refused: generation 2 starts; ask again then"
        go()
        assert one.service.wait_exit(pid) == 0


def test_while_the_check_runs_the_answer_is_exact(subject, folder):
    (folder / "verdict").write_text("hang")
    one = subject("--check-argument", "--check", "--check-argument", folder / "verdict",
                  "--check-timeout", 20000)
    mark = one.ask()
    check = one.service.process(one.log.wait_for("check", since=mark)["pid"])
    reason = refused(one, one.pid)
    left = says(reason, "upgrade refused: generation 2 is being checked; it may take N s more; "
                "ask again then")
    assert 10 < left <= 20
    (folder / "verdict").write_text("ok")
    check.send(signal.SIGKILL)
    one.log.wait_for("upgrade_ended", since=mark, outcome="failed")
    one.service.expected_exits.add(-signal.SIGKILL)
    one.upgrade()


def test_on_probation_both_answer_exactly(subject):
    one = subject("--probation", 3000)
    first = one.pid
    mark = one.ask()
    second = one.ended(mark)["successor_pid"]
    one.log.wait_for("serving", since=mark, pid=second)
    says(refused(one, first), "upgrade refused: generation 2 is on probation; it may take N s "
         "more; ask it then")
    says(refused(one, second), "upgrade refused: generation 2 is on probation; it may take N s "
         "more; ask again then")
    # Its end is said, and from then on the successor may be upgraded.
    one.log.wait_for("state", since=mark, pid=second, to="serving", deadline=15)
    assert one.service.wait_exit(first) == 0
    mark = one.ask()
    assert one.ended(mark)["outcome"] == "upgraded"
    one.service.send_group(signal.SIGTERM)
    one.service.wait_end()


def test_who_drains_names_who_serves(subject):
    one = subject()
    first = one.pid
    with held(one) as busy:
        one.upgrade(wait_exit=False)
        one.log.wait_for("drain", pid=first)
        says(refused(one, first), "upgrade refused: generation 1 is draining; it may take N s "
             "more; generation 2 serves, ask it")
        assert busy.send(b"y").response().pid == first
    assert one.service.wait_exit(first) == 0


def test_who_stops_says_so(subject):
    one = subject()
    pid = one.pid
    with held(one) as busy:
        one.service.send(signal.SIGTERM)
        one.log.wait_for("state", to="stopping")
        says(refused(one, pid), "upgrade refused: generation 1 is stopping; it may take N s more")
        assert busy.send(b"y").response().pid == pid
    assert one.service.wait_exit(pid) == 0


# While older generations drain.


def test_an_upgrade_works_while_an_older_generation_drains(subject):
    """Three generations with a connection each: the oldest's ends up at the youngest, which takes it from
    the one between where it had not greeted the oldest yet."""
    one = subject()
    first = one.pid
    with contextlib.ExitStack() as stack:
        oldest = stack.enter_context(held(one))
        second = one.upgrade(wait_exit=False)
        middle = stack.enter_context(held(one))
        third = one.upgrade(wait_exit=False)
        youngest = stack.enter_context(held(one))
        assert len(one.service.running) == 3
        assert [c.send(b"y").response().pid for c in (oldest, middle, youngest)] == [
            first, second, third]
        # What was in flight has been answered where it was read, and lives on where it is served.
        assert [c.get().pid for c in (oldest, middle, youngest)] == [third] * 3
        assert [c.get().header("Segue-Requests") for c in (oldest, middle, youngest)] == ["4"] * 3
        assert one.service.wait_exit(first) == 0
        # Its status is the first one's, while that one lives; finish() looks at those that are ours.
        assert one.service.wait_exit(second) in (0, None)
    eventually(lambda: len(one.log.find("connection", pid=third)), 2)
    moved = [event["predecessor"] for event in one.log.find("connection", pid=third)]
    between = [event["predecessor"] for event in one.log.find("connection", pid=second)]
    assert (sorted(moved), between) in (([1, 2], []), ([2, 2], [1]))


def test_seventeen_generations_are_too_many(subject):
    """Sixteen older ones may drain; the next upgrade waits for one of them to end."""
    one = subject("--drain-timeout", "none")
    with contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(16):
            waiting.append(stack.enter_context(held(one)))
            one.upgrade(wait_exit=False)
        serves = one.pid
        assert len(one.service.running) == 17
        assert refused(one, serves) == (
            "upgrade refused: 16 older generations still drain (see --drain-timeout); "
            "generation 17 serves"
        )
        pids = [connection.send(b"y").response().pid for connection in waiting]
        assert len(set(pids)) == 16 and serves not in pids
        assert {connection.get().pid for connection in waiting} == {serves}
        for pid in pids:
            # The status of one whose elder still lives is that one's.
            assert one.service.wait_exit(pid) in (0, None)
        one.upgrade()


# By which signal.


def test_another_signal_can_ask_for_upgrades(subject):
    one = subject("--upgrade-signal", signal.SIGHUP.value)
    first = one.pid
    mark = one.ask(signal.SIGHUP)
    assert one.ended(mark)["outcome"] == "upgraded"
    assert one.service.wait_exit(first) == 0


def test_without_a_signal_only_a_call_asks(subject):
    one = subject("--upgrade-signal", "none",
                  preexec=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN))
    first = one.pid
    one.service.send(signal.SIGUSR2)
    with Connection(one.address()) as connection:
        assert connection.get("/state").body == b"serving\n"
        assert not one.log.find("upgrade_begins")
        assert connection.get("/upgrade/1").body == b"0 \n"
    assert one.service.wait_exit(first) == 0


def test_a_trigger_while_the_failed_one_is_being_ended_is_refused_or_works(starting, folder):
    """Right after a failure the next attempt works; in between, the answer says what goes on."""
    one = starting()
    with gate(folder), asking(one.address()):
        for _ in range(5):
            mark = one.ask()
            pid = one.log.wait_for("gate", since=mark)["pid"]
            one.service.process(pid).send(signal.SIGKILL)
            again = refused_or_begun(one, mark)
            assert again in ("failed", "refused")
    one.configure()
    one.upgrade()


def refused_or_begun(one, mark):
    one.service.send(signal.SIGUSR2)
    ended = one.log.wait_for("upgrade_ended", since=mark)
    if ended["outcome"] == "refused":
        one.log.wait_for("upgrade_ended", since=mark, outcome="failed")
    else:
        # It was a trigger of its own, and has begun by now or will: end that one as well.
        begun = one.log.wait_for(
            "gate", since=mark, where=lambda event: event["pid"] != ended["successor_pid"])
        one.service.process(begun["pid"]).send(signal.SIGKILL)
        one.log.wait_for("upgrade_ended", since=mark, outcome="failed", successor_pid=begun["pid"])
    return ended["outcome"]
