"""Upgrades in a row under every shape of load at once: each request is answered, no connection is
closed, and what comes after a predecessor has gone is answered by the generation that serves.
"""

import signal

import pytest

from harness.http import Connection
from upgrades import (COUNTED, SHAPES, SHARE, Held, Witnesses, ask, gone, meet_load, nothing_cut, nothing_lost,
                      upgrade, upgraded)


def all_is_well(service, running, count, generation):
    """Ends the load; nothing was lost, and each upgrade ended well. The answers of each generation."""
    answered = nothing_lost(running, generation)
    assert upgraded(service) == count
    nothing_cut(service)
    return answered


def upgrades_in_a_row(service, load, count):
    running = load("--progress", "5ms", *SHAPES, *COUNTED, service).wait_running()
    with Witnesses(service) as witnesses:
        witnesses.agree_on(1)
        for generation in range(2, count + 2):
            meet_load(running)
            assert upgrade(service) == generation
            witnesses.agree_on(generation)
        meet_load(running)
    answered = all_is_well(service, running, count, count + 1)
    assert sorted(answered) == list(range(1, count + 2))
    assert min(answered.values()) >= SHARE


@pytest.mark.plain
def test_200_upgrades_in_a_row_lose_nothing(start, load):
    upgrades_in_a_row(start("hello", "--drain-timeout", "none"), load, 200)


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_2000_upgrades_in_a_row_lose_nothing(start, load):
    upgrades_in_a_row(start("hello", "--drain-timeout", "none"), load, 2000)


@pytest.mark.threads
def test_20_upgrades_in_a_row_of_a_server_with_four_loops_lose_nothing(start, load):
    service = start("hello", "--drain-timeout", "none", "--threads", 4)
    upgrades_in_a_row(service, load, 20)


@pytest.mark.threads
def test_20_upgrades_in_a_row_on_a_unix_socket_lose_nothing(start, load, folder):
    service = start("hello", "--drain-timeout", "none", listen=[f"unix://{folder}/s"])
    running = load(*SHAPES, *COUNTED, service).wait_running()
    for generation in range(2, 22):
        assert upgrade(service) == generation
    all_is_well(service, running, 20, 21)


def upgrades_over_generations_that_drain(service, load, count):
    """Each request of one more load waits longer than an upgrade takes, so that older generations
    drain still when the next upgrade is asked for; some of them are in the middle, and hand over by
    an introduction."""
    slow = service.url + "?delay=300ms"
    waiting = load("--keepalive", 12, "--post", 4, "--new", 2, *COUNTED, slow).wait_running()
    running = load(*SHAPES, *COUNTED, service).wait_running()
    draining = 0
    with Held(service.address) as held:
        for generation in range(1, count + 1):
            held.one_more()
            assert ask(service)["successor"] == generation + 1
            alive = generation + 1 - len(service.log.find("gone"))
            draining = max(draining, alive - 1)
    assert draining >= 2, "no upgrade was asked for while two older generations drained"
    for generation in range(1, count + 1):
        gone(service, generation)
    with Connection(service.address) as one:
        assert one.get().generation == count + 1
    result = waiting.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["header"]["connections_backwards"] == 0, result["header"]
    all_is_well(service, running, count, count + 1)


@pytest.mark.plain
def test_50_upgrades_as_soon_as_each_successor_serves_lose_nothing(start, load):
    service = start("hello", "--drain-timeout", "none")
    upgrades_over_generations_that_drain(service, load, 50)


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(900)
def test_500_upgrades_as_soon_as_each_successor_serves_lose_nothing(start, load):
    service = start("hello", "--drain-timeout", "none")
    upgrades_over_generations_that_drain(service, load, 500)


@pytest.mark.threads
def test_10_upgrades_as_soon_as_each_successor_serves_with_four_loops_lose_nothing(start, load):
    service = start("hello", "--drain-timeout", "none", "--threads", 4)
    upgrades_over_generations_that_drain(service, load, 10)


def test_a_stop_under_load_answers_whatever_it_has_begun(start, load):
    """A request may find its connection closed, or nobody who listens; no answer is cut short."""
    service = start("hello", "--drain-timeout", "none")
    running = load("--keepalive", 8, "--post", 4, *COUNTED, service).wait_running()
    service.send(signal.SIGTERM)
    service.log.wait_for("gone", exit=0)
    service.wait_end()
    result = running.stop()
    outcomes = result["outcomes"]
    assert outcomes["truncated"] == outcomes["malformed"] == outcomes["wrong_body"] == 0, result
    nothing_cut(service)
