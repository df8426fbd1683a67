"""Requests that have begun when the upgrade comes are answered by the worker that read them, whole,
and their connections live on in the next generation. Only the drain deadline may cut, and the client
of the supervisor is told how many.
"""

import pytest

from harness.http import get, request
from turns import accepting, alone, ask, draining, gone, pids, spread
from upgrades import Crowd, field, generations

REQUEST = request()
# In flight for as long as a test likes: the rest of the body ends it.
REST = b"lo"
BEGUN = request("POST", body=b"hel" + REST).removesuffix(REST)


@pytest.fixture
def service(supervise, folder):
    """service(workers) starts hello; its set_workers() changes their number for the next generation."""
    config = folder / "service.conf"

    def start(workers, *options):
        config.write_text(f"workers {workers}\n")
        one = supervise("--config", config, "--drain-timeout", "1h", *options,
                        arguments=("--response-timeout", "100s", "--threads", 1))
        one.set_workers = lambda number: config.write_text(f"workers {number}\n")
        return one

    return start


def begin(one, crowd, count):
    """So many requests in flight, the same number in each worker; {socket: pid}. A worker has read
    what was sent before once it has answered what was sent later: it has one loop."""
    held = {}
    for index, some in spread(one, crowd, count).items():
        pid = accepting(one)[index]
        with alone(one, pid):
            crowd.send(BEGUN, some)
            assert get(one.address).pid == pid
        held.update((kept, pid) for kept in some)
    assert crowd.silent()
    return held


@pytest.mark.parametrize("before, after", [(1, 1), (4, 4), (4, 2)])
def test_64_requests_in_flight_are_answered_where_they_began(service, before, after):
    one = service(before)
    address = one.address
    with Crowd(address, 0) as crowd, Crowd(address, 16) as idle:
        idle.send(REQUEST)
        assert generations(idle.answers()) == {1: 16}
        began = begin(one, crowd, 64)
        one.set_workers(after)
        assert ask(one) == 2
        drained = sum(one.log.wait_for("draining", pid=pid)["requests"] for pid in pids(one, 1))
        assert drained == 64
        # Meanwhile the next generation serves: what was idle, and what is new.
        idle.send(REQUEST)
        for _ in range(20):
            assert get(address).generation == 2
        assert generations(idle.answers()) == {2: 16}
        assert crowd.silent()
        assert not [pid for pid in pids(one, 1) if one.log.find("gone", pid=pid)]

        crowd.send(REST)
        answers = crowd.answers()
        assert generations(answers) == {1: 64}
        assert {kept: int(field(head, "Segue-Pid")) for kept, (head, _) in answers.items()} == began
        total = gone(one, 1)
        assert total["finished"] == 64 and total["moved"] >= 64 + 16
        for generation in (2, 3):
            crowd.send(REQUEST)
            assert generations(crowd.answers()) == {generation: 64}
            if generation == 2:
                assert ask(one) == 3
                gone(one, 2)
        assert crowd.silent() and idle.silent()


def test_requests_of_three_generations_are_answered_where_they_began(service):
    """The one in the middle drains beside the eldest; both hand over to the youngest."""
    one = service(2)
    with Crowd(one.address, 0) as eldest, Crowd(one.address, 0) as middle:
        began = [begin(one, eldest, 8)]
        one.set_workers(3)
        assert ask(one) == 2
        draining(one, 1)
        began.append(begin(one, middle, 9))
        one.set_workers(2)
        assert ask(one) == 3
        assert [len(part["workers"]) for part in one.status()["generations"]] == [2, 3, 2]
        for crowd, number, whom in ((eldest, 1, began[0]), (middle, 2, began[1])):
            crowd.send(REST)
            answers = crowd.answers()
            assert {kept: int(field(head, "Segue-Pid")) for kept, (head, _) in answers.items()} == whom
            gone(one, number)
            crowd.send(REQUEST)
            assert generations(crowd.answers()) == {3: len(crowd)}


def test_what_the_drain_deadline_cuts_is_counted_to_who_asked(service):
    one = service(2, "--drain-timeout", "1s")
    with Crowd(one.address, 0) as busy, Crowd(one.address, 7) as idle:
        idle.send(REQUEST)
        assert generations(idle.answers()) == {1: 7}
        begin(one, busy, 6)
        answer = one.ask("upgrade")
        assert answer.code == 4 and answer.end["outcome"] == "cut", answer
        assert answer.end["cut"] == 6 and answer.end["generation"] == 2
        assert "6" in answer.message
        for pid in pids(one, 1):
            one.log.wait_for("gone", pid=pid)
        drained = [event for pid in pids(one, 1) for event in one.log.find("drained", pid=pid)]
        assert [event["cut_requests"] for event in drained] == [3, 3]
        assert [event["cut_idle"] for event in drained] == [0, 0]
        # Those cut see their end, the others nothing at all.
        assert all(ended(kept) for kept in busy.all())
        assert idle.silent()
        idle.send(REQUEST)
        assert generations(idle.answers()) == {2: 7}


def ended(one):
    """The connection has come to its end, in order or by a reset, without a byte before."""
    one.settimeout(30)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_stop_answers_what_is_in_flight_in_every_worker(service):
    one = service(3)
    with Crowd(one.address, 0) as crowd, one.connect() as idle:
        idle.get()
        began = begin(one, crowd, 9)
        client = one.popen("stop", "--json")
        # Nobody waits for what is silent.
        assert idle.again().rest() == b""
        crowd.send(REST)
        answers = crowd.answers(then_ends=True)
        assert {kept: int(field(head, "Segue-Pid")) for kept, (head, _) in answers.items()} == began
        out, _ = client.communicate(timeout=30)
        assert client.returncode == 0, out
        gone(one, 1)
        one.wait_end()
