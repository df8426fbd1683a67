"""Upgrades of services under `segue run`, under every shape of load at once: each request is
answered, no connection is closed, what comes after a predecessor has gone is answered by the
generation that serves, and the supervisor's pid stays.

A connection goes from a generation to a later one and never back, with any number of workers: a
worker hands over to younger generations only, and none of these tests has one taken back. So
connections_backwards is 0 in each of them.
"""

import itertools

import pytest

from harness.http import Connection
from turns import WAYS, ask, gone, unharmed
from upgrades import COUNTED, SHAPES, SHARE, Held, Witnesses, meet_load, nothing_cut, nothing_lost

ANY_PORT = "tcp://127.0.0.1:0"


def upgrades_in_a_row(service, load, count, before_each=lambda: None, way=lambda: "command"):
    """Each upgrade, whole. The command ends when the predecessor has gone."""
    pid = service.pid
    running = load("--progress", "5ms", *SHAPES, *COUNTED, service).wait_running()
    with Witnesses(service) as witnesses:
        witnesses.agree_on(1)
        for generation in range(2, count + 2):
            meet_load(running)
            before_each()
            how = way()
            if how == "command":
                answer = service.upgrade()
                assert answer.end["generation"] == generation and answer.end["cut"] == 0, answer
            else:
                assert ask(service, how) == generation
                gone(service, generation - 1)
            witnesses.agree_on(generation)
        meet_load(running)
    answered = nothing_lost(running, count + 1)
    assert sorted(answered) == list(range(1, count + 2))
    assert min(answered.values()) >= SHARE
    nothing_cut(service)
    unharmed(service, pid, count + 1)


PATIENT = ("--drain-timeout", "1h")  # so that nothing is hurried


@pytest.mark.plain
@pytest.mark.parametrize("workers", [1, 4])
def test_200_upgrades_in_a_row_lose_nothing(supervise, load, workers):
    upgrades_in_a_row(supervise("--workers", workers, *PATIENT), load, 200)


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", [1, 4])
def test_2000_upgrades_in_a_row_lose_nothing(supervise, load, workers):
    upgrades_in_a_row(supervise("--workers", workers, *PATIENT), load, 2000)


def with_other_numbers(supervise, load, folder, count):
    """The number of workers is another in each generation: the file is read at each upgrade."""
    config = folder / "service.conf"
    numbers = itertools.cycle([1, 4, 2, 3])

    def change():
        config.write_text(f"workers {next(numbers)}\n")

    change()
    service = supervise("--config", config, *PATIENT)
    upgrades_in_a_row(service, load, count, before_each=change)
    serving = [event for event in service.log.find("serving") if event.get("service")]
    expected = itertools.islice(itertools.cycle([1, 4, 2, 3]), count + 1)
    assert [event["workers"] for event in serving] == list(expected)


@pytest.mark.plain
def test_200_upgrades_each_with_another_number_of_workers_lose_nothing(supervise, load, folder):
    with_other_numbers(supervise, load, folder, 200)


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_2000_upgrades_each_with_another_number_of_workers_lose_nothing(supervise, load, folder):
    with_other_numbers(supervise, load, folder, 2000)


@pytest.mark.parametrize("orphans", ["drain", "serve"])
def test_10_upgrades_in_the_sanitizers_lose_nothing(supervise, load, folder, orphans):
    """Where orphans serve, every worker is introduced to every one of the next generation."""
    with_other_numbers(lambda *options: supervise(*options, "--orphans", orphans), load, folder, 10)


def test_upgrades_by_every_way_to_ask_lose_nothing(supervise, load):
    """The command, USR2 and HUP to the supervisor, USR2 to a worker, which asks the supervisor."""
    ways = itertools.cycle(WAYS)
    service = supervise("--workers", 2, *PATIENT)
    upgrades_in_a_row(service, load, 3 * len(WAYS), way=lambda: next(ways))
    # Who asked was told.
    told = service.log.find("upgrade-ended")
    assert [event["outcome"] for event in told] == ["upgraded"] * 3


@pytest.mark.parametrize("workers", [1, 4])
def test_upgrades_of_a_program_that_binds_for_itself_lose_nothing(supervise, load, workers):
    """Its listener is bound once, passed up, and held by the supervisor for all that follow."""
    service = supervise("--workers", workers, *PATIENT, listen=None, own_listen=[ANY_PORT])
    upgrades_in_a_row(service, load, 12)
    (listener,) = service.status()["listeners"]
    assert listener["address"].startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("whose", ["supervisor", "program"])
def test_upgrades_on_a_unix_socket_lose_nothing(supervise, load, folder, whose):
    address = f"unix://{folder}/s"
    place = {"supervisor": {"listen": [address]},
             "program": {"listen": None, "own_listen": [address]}}
    service = supervise("--workers", 2, *PATIENT, **place[whose])
    upgrades_in_a_row(service, load, 12)


def upgrades_over_generations_that_drain(service, load, count):
    """Each request of one more load waits longer than some upgrades take, so that several older
    generations drain still when the next upgrade is asked for."""
    pid = service.pid
    # Few upgrades may be slow ones; of many, sixteen at most drain at once.
    slow = service.url + ("?delay=3s" if count <= 12 else "?delay=500ms")
    waiting = load("--keepalive", 12, "--post", 4, "--new", 2, *COUNTED, slow).wait_running()
    running = load(*SHAPES, *COUNTED, service).wait_running()
    draining = 0
    with Held(service.address) as held:
        for generation in range(1, count + 1):
            held.one_more()
            assert ask(service) == generation + 1
            draining = max(draining, len(service.status()["generations"]) - 1)
    assert draining >= 2, "no upgrade was asked for while two older generations drained"
    for generation in range(1, count + 1):
        gone(service, generation)
    with Connection(service.address) as one:
        assert one.get().generation == count + 1
    result = waiting.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["header"]["connections_backwards"] == 0, result["header"]
    nothing_lost(running, count + 1)
    nothing_cut(service)
    unharmed(service, pid, count + 1)


@pytest.mark.plain
@pytest.mark.parametrize("workers", [1, 4])
def test_upgrades_as_soon_as_each_successor_serves_lose_nothing(supervise, load, workers):
    service = supervise("--workers", workers, *PATIENT)
    upgrades_over_generations_that_drain(service, load, 40 // workers)


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 4])
def test_500_upgrades_as_soon_as_each_successor_serves_lose_nothing(supervise, load, workers):
    upgrades_over_generations_that_drain(supervise("--workers", workers, *PATIENT), load, 500)
