"""Upgrades of services under `segue run`, under every shape of load: nothing is lost, no connection
is closed, and the supervisor's pid stays.
"""

import pytest

SHAPES = ("--new", 2, "--keepalive", 8, "--post", 8, "--pipeline", "4:8", "--idle", "20:50ms",
          "--half", "10:100ms", "--slow", "2:4096")
COUNTED = ("--count-header", "Segue-Generation", "--expect", "hello, world\n", "--duration", "1h")


def nothing_lost(running, generation):
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["ok"] == result["requests"] and result["not_started"] == 0, result
    assert str(generation) in result.answers
    return result


def upgrades_in_a_row(service, load, count):
    pid = service.pid
    running = load("--progress", "5ms", *SHAPES, *COUNTED, service).wait_running()
    for generation in range(2, count + 2):
        answer = service.upgrade()
        assert answer.end["generation"] == generation, answer
        assert answer.end["cut"] == 0
    result = nothing_lost(running, count + 1)
    assert result["header"]["connections_backwards"] == 0
    assert service.pid == pid and not service.log.find("crashed")
    return result


@pytest.mark.parametrize("workers", [1, 4])
def test_20_upgrades_lose_nothing(supervise, load, workers):
    upgrades_in_a_row(supervise("--workers", workers), load, 20)
