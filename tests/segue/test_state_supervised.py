"""Application state from worker to worker: a snapshot before READY and the final state after the
drain, with as many workers as before, fewer, and more. A blob says whose it is.
"""

import contextlib

import pytest

from functional import HOLD, eventually
from harness.http import Connection, get
from scenes import SERVER
from turns import accepting, alone, ask, draining, gone, pids
from upgrades import meet_load


@pytest.fixture
def service(supervise, folder):
    """service(workers, program=...) starts one; its set_workers() changes their number for the next
    generation."""
    config = folder / "service.conf"

    def start(workers, **more):
        config.write_text(f"workers {workers}\n")
        one = supervise("--config", config, "--drain-timeout", "1h", **more)
        one.set_workers = lambda number: config.write_text(f"workers {number}\n")
        return one

    return start


CHANGES = pytest.mark.parametrize("before, after", [(1, 1), (3, 3), (4, 2), (2, 4), (5, 3)])


def sources(index, before, after):
    """The workers of the generation before that hand over to this one."""
    return [number for number in range(before) if number % after == index]


@CHANGES
def test_snapshot_and_final_state_come_from_those_that_hand_over(service, before, after):
    """Worker i has answered i + 1 requests, and one more while its successor serves already."""
    one = service(before, program=SERVER, arguments=("--passed", "yes", "--state", "yes"))
    with contextlib.ExitStack() as kept:
        busy = []
        for index, pid in accepting(one).items():
            with alone(one, pid):
                for _ in range(index):
                    assert get(one.address).pid == pid
                connection = kept.enter_context(Connection(one.address))
                # One segment: the answer to its first request says that all of it has been read.
                connection.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
                busy.append(connection)
        one.set_workers(after)
        client = one.popen("upgrade", "--json")
        one.wait_generation(2)
        successors = accepting(one)
        assert len(successors) == after
        for index, pid in successors.items():
            taken = one.log.find("state_taken", pid=pid)
            assert [(event["worker"], event["total"]) for event in taken] == [
                (number, number + 1) for number in sources(index, before, after)]
        assert not one.log.find("final_state")
        for connection in busy:
            assert connection.again().send(b"y").response().generation == 1
        client.communicate(timeout=30)
        assert client.returncode == 0
    for index, pid in successors.items():
        for number in sources(index, before, after):
            one.log.wait_for("final_state", pid=pid, predecessor=1, worker=number)
        final = one.log.find("final_state", pid=pid)
        assert {(event["worker"], event["total"]) for event in final} == {
            (number, number + 2) for number in sources(index, before, after)}
        assert len(final) == len(sources(index, before, after))


def test_the_final_states_of_two_generations_both_arrive(service):
    """The elder one drains longer: its final state comes last, and to those that serve then."""
    one = service(2, program=SERVER, arguments=("--passed", "yes", "--state", "yes"))
    busy = []
    with contextlib.ExitStack() as kept:
        for generation, workers in ((1, 2), (2, 3), (3, 2)):
            if generation > 1:
                one.set_workers(workers)
                ask(one)
                draining(one, generation - 1)
            if generation < 3:
                for pid in accepting(one).values():
                    with alone(one, pid):
                        connection = kept.enter_context(Connection(one.address))
                        connection.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
                        busy.append((generation, connection))
        successors = accepting(one)
        assert not one.log.find("final_state")
        for generation, connection in sorted(busy, key=lambda pair: -pair[0]):
            assert connection.again().send(b"y").response().generation == generation
    wanted = {(generation, number, number % 2) for generation, number in
              ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2))}
    place = {pid: index for index, pid in successors.items()}

    def arrived():
        return {(event["predecessor"], event["worker"], place.get(event["pid"]))
                for event in one.log.find("final_state")}

    eventually(arrived, wanted)
    assert len(one.log.find("final_state")) == len(wanted)


def test_a_worker_that_cannot_save_its_state_fails_the_upgrade(service, folder):
    one = service(2, program=SERVER, arguments=("--passed", "yes", "--state", "yes", "--save-file",
                                                folder / "full"))
    (folder / "full").touch()
    answer = one.ask("upgrade")
    assert answer.code == 1 and "could not save its state" in answer.message, answer
    (folder / "full").unlink()
    one.upgrade()


def counts(one):
    """What each worker has counted."""
    found = []
    for pid in accepting(one).values():
        with alone(one, pid):
            answer = get(one.address, "/counter")
            found.append(int(answer.body))
    return found


def test_state_loses_no_increment_while_workers_become_fewer_and_more(service, load):
    """Each answered POST is in the count of one worker, exactly once, whichever generation counted."""
    one = service(1, program="state")
    host, port = one.address
    running = load("--progress", "5ms", "--keepalive", 6, "--new", 2, "--pipeline", "2:8", "--post", 2,
                   "--method", "POST", "--duration", "1h", f"http://{host}:{port}/counter")
    running.wait_running()
    for workers in (4, 2, 4, 1, 3, 3, 2, 1, 4, 2):
        meet_load(running)
        one.set_workers(workers)
        one.upgrade()
    meet_load(running)
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["ok"] == result["requests"]
    # The last final state is taken a moment after its sender has gone.
    eventually(lambda: sum(counts(one)), result["ok"], 10)
    assert len(counts(one)) == 2


def test_state_counts_over_generations_that_drain(service, load):
    """Elder workers count on while one, and then another generation serves."""
    one = service(3, program="state")
    late = []
    whole = b"POST /counter HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nlate"
    with contextlib.ExitStack() as kept:
        for generation, workers in enumerate((3, 2, 3), start=1):
            elders = []
            if generation > 1:
                one.set_workers(workers)
                ask(one)
                elders = [one.process(pid) for pid in pids(one, generation - 1)]
            # They accept until they hear of it, and what they count then their successors count late.
            for elder in elders:
                elder.stop()
            # Each has some, and stays for them.
            for pid in accepting(one).values():
                with alone(one, pid):
                    for _ in range(6 // workers):
                        late.append(kept.enter_context(Connection(one.address)))
                        # The first answer says that what stands behind it has been read as well.
                        late[-1].send(whole + whole[:-2]).response()
            for elder in elders:
                elder.go_on()
        # One of the elders may answer still.
        eventually(lambda: sum(counts(one)), 18, 10)
        for connection in late:
            connection.again().send(b"te").response()
        for generation in (1, 2):
            gone(one, generation)
        eventually(lambda: sum(counts(one)), 36, 10)
