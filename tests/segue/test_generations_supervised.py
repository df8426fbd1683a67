"""Nothing leaks from generation to generation under `segue run`: the 300th looks like the 50th, and so
do the supervisor, which has seen them all, and the relay of their output.
"""

import re
from collections import Counter

import pytest

from functional import eventually
from harness import processes
from harness.http import Connection
from scenes import SERVER
from turns import accepting, ask, gone

WORKERS = 2
PER_GENERATION = {"SEGUE_GENERATION", "SEGUE_PID", "LISTEN_PID"}


def relay(service):
    """The pid of the supervisor's other child."""
    workers = set(accepting(service).values())
    (found,) = [stat.pid for stat in processes.children(service.pid) if stat.pid not in workers]
    return found


def family(service):
    """{what it is: pid}, of every process of the service."""
    return {"supervisor": service.pid, "relay": relay(service),
            **{f"worker {index}": pid for index, pid in accepting(service).items()}}


def kinds(pid):
    """How many descriptors of which kind; their numbers depend on the order of events."""
    return Counter(re.sub(r"[0-9]+", "N", target) for target in processes.descriptors(pid).values())


def environment(service, index):
    """Of one worker, and apart from what names its generation or itself."""
    pid = accepting(service)[index]
    variables = processes.environment(pid)
    number = service.status()["generations"][0]["number"]
    assert variables["SEGUE_GENERATION"] == str(number)
    assert variables["LISTEN_PID"] == variables["SEGUE_PID"] == str(pid)
    assert variables["SEGUE_WORKER"] == str(index)
    return {name: value for name, value in variables.items() if name not in PER_GENERATION}


def portrait(service):
    """Everything that the service's processes have, apart from their memory."""
    found = {}
    for name, pid in family(service).items():
        status = processes.status(pid)
        found[name] = {
            "descriptors": kinds(pid),
            "arguments": processes.command_line(pid),
            "directory": processes.working_directory(pid),
            "threads": len(processes.threads(pid)),
            "children": len(processes.children(pid)),
            "listening": processes.listening(pid),
            "signals": [status[word] for word in ("SigBlk", "SigIgn", "SigCgt")],
            "umask": status["Umask"],
        }
    found["environments"] = [environment(service, index) for index in range(WORKERS)]
    found["files"] = sorted(path.name for path in service.folder.iterdir())
    found["processes"] = len(service.members())
    return found


def memory(service):
    """What belongs to each process alone."""
    return {name: processes.memory(pid)["Private_Dirty"] for name, pid in family(service).items()}


def slope(points):
    """Bytes a generation, by the least squares of (generation, bytes)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return above / sum((x - mean_x) ** 2 for x, _ in points)


def run(service, last):
    """Upgrades up to a generation, every tenth of them by the command; {process: bytes a generation}
    from the 50th on. The portraits of the 50th and the last have to be equal."""
    pid, points, early = service.pid, {}, None
    second = None
    clients = [Connection(service.address) for _ in range(20)]
    try:
        for generation in range(2, last + 1):
            assert ask(service, "command" if generation % 10 == 0 else "USR2") == generation
            gone(service, generation - 1)
            if generation == 2:
                second = [environment(service, index) for index in range(WORKERS)]
            if generation % 10 == 0:
                answers = {client.again().get().generation for client in clients}
                assert answers == {generation}
            if generation >= 50 and generation % 5 == 0:
                for name, size in memory(service).items():
                    points.setdefault(name, []).append((generation, size))
            if generation == 50:
                early = portrait(service)
        eventually(lambda: portrait(service), early, 10)
        assert [environment(service, index) for index in range(WORKERS)] == second
        assert all(client.is_idle() for client in clients)
    finally:
        for client in clients:
            client.close()
    assert service.pid == pid
    found = {name: slope(of_one) for name, of_one in points.items()}
    for name, of_one in points.items():
        print(f"{name}: {found[name]:.1f} bytes a generation, from {of_one[0][1]} to {of_one[-1][1]}")
    return found


@pytest.fixture
def hello(supervise):
    return lambda: supervise("--workers", WORKERS, arguments=("--threads", 1))


@pytest.mark.plain
def test_generation_300_looks_like_generation_50(hello):
    assert all(abs(found) < 1024 for found in run(hello(), 300).values())


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(900)
def test_generation_3000_looks_like_generation_50(hello):
    assert all(abs(found) < 102 for found in run(hello(), 3000).values())


@pytest.mark.plain
def test_100_failed_upgrades_leave_nothing_with_the_supervisor(supervise, folder):
    """Each in another way: before its greeting, before READY, with a listener that it had passed up
    or without one; also a request that is refused."""
    config = folder / "config"
    listen = "--listen\na=tcp://127.0.0.1:0\n"
    config.write_text(listen)
    service = supervise("--workers", 2, program=SERVER, listen=None, arguments=("--config", config))
    ways = ("start:exit:1", "open:exit:0", "listen:signal:9", "ready:exit:3")
    fresh, points = None, []
    for attempt in range(100):
        config.write_text(f"{listen}--listen\nmore=tcp://127.0.0.1:0\n"
                          f"--behave\n{ways[attempt % len(ways)]}\n")
        answer = service.ask("upgrade")
        assert answer.code == 1 and answer.end["outcome"] == "failed", answer
        if attempt == 8:
            fresh = kinds(service.pid), len(processes.children(service.pid))
        if attempt >= 20:
            points.append((attempt, processes.memory(service.pid)["Private_Dirty"]))
    # The answer of the ninth may have come before the last of it was closed: nothing is more now.
    eventually(lambda: (kinds(service.pid) - fresh[0],
                        len(processes.children(service.pid)) <= fresh[1]), (Counter(), True), 10)
    found = slope(points)
    print(f"{found:.1f} bytes a failed upgrade, from {points[0][1]} to {points[-1][1]}")
    assert abs(found) < 1024
    config.write_text(listen)
    service.upgrade()


@pytest.mark.plain
def test_100_restarts_leave_nothing_with_the_supervisor(hello):
    """At the operator's word, one worker after the other."""
    service = hello()
    fresh, points = None, []
    for attempt in range(100):
        before, at = accepting(service), attempt % WORKERS
        code, out, err = service.call("restart", str(at))
        assert code == 0, (out, err)
        now = accepting(service)
        assert now[at] != before[at] and now[1 - at] == before[1 - at]
        if attempt == 8:
            fresh = kinds(service.pid), len(service.members())
        if attempt >= 20:
            points.append((attempt, processes.memory(service.pid)["Private_Dirty"]))
    eventually(lambda: (kinds(service.pid), len(service.members())), fresh, 10)
    assert abs(slope(points)) < 1024
    assert len(service.workers()) == WORKERS


def test_no_leak_is_found_over_20_generations(hello):
    """With the leak sanitizer looking at each exit, the supervisor's in the end."""
    service = hello()
    clients = [Connection(service.address) for _ in range(70)]
    try:
        for generation in range(2, 21):
            assert ask(service, "command" if generation % 2 else "HUP") == generation
            gone(service, generation - 1)
        assert {client.again().get().generation for client in clients} == {20}
    finally:
        for client in clients:
            client.close()
