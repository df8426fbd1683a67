"""Nothing leaks from generation to generation: the 300th looks like the 50th."""

import re
import signal

import pytest

from harness import processes
from matrix.service import actor, kinds, wait_until  # noqa: F401, a fixture


def portrait(actor):
    """Everything that a generation has, apart from its memory."""
    pid = actor.service.pid
    status = processes.status(pid)
    actor.service.reap()
    return {
        "descriptors": {
            fd: re.sub(r"[0-9]+", "N", target) for fd, target in processes.descriptors(pid).items()
        },
        "environment": processes.environment(pid),
        "arguments": processes.command_line(pid),
        "directory": processes.working_directory(pid),
        "threads": len(processes.threads(pid)),
        "children": [stat.pid for stat in processes.children(pid)],
        "session": len(processes.of_session(actor.service.session)),
        "listening": processes.listening(pid),
        "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
        "umask": status["Umask"],
        "files": sorted(path.name for path in actor.folder.iterdir()),
    }


def upgrade(actor):
    """One more generation, and the end of the one before; it is reaped and leaves no zombie."""
    before = actor.service.serving
    event = actor.service.upgrade()
    before.wait()
    actor.service.reap()
    left = processes.of_session(actor.service.session)
    assert [stat.pid for stat in left] == [event["pid"]], "a process was left"
    assert not left[0].zombie
    return event


def memory(pid):
    """What belongs to this process alone."""
    found = processes.memory(pid)
    return found["Private_Dirty"]


def slope(points):
    """Bytes a generation, by the least squares of (generation, bytes)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return above / sum((x - mean_x) ** 2 for x, _ in points)


def run(actor, last):
    """The portraits of generations 50 and last, and the slope of the memory between."""
    actor.order("*", "blobs", "users:1000,counters:8").order("*", "read", "users")
    actor.start()
    clients = [actor.connect(f"c{at}") for at in range(20)]
    early, points = None, []
    for _ in range(last - 1):
        mark = actor.log.mark()
        generation = upgrade(actor)["generation"]
        if generation % 10 == 0:
            # One that answers has done what there was to do after the commit.
            assert {client.again().ask().generation for client in clients} == {generation}
            actor.log.wait_for("final", since=mark, generation=generation)
        if generation >= 50 and generation % 5 == 0:
            points.append((generation, memory(actor.service.pid)))
        if generation == 50:
            early = portrait(actor)
    assert portrait(actor) == early
    assert all(client.silent() for client in clients)
    found = slope(points)
    print(f"{found:.1f} bytes a generation, from {points[0][1]} to {points[-1][1]}")
    return found


@pytest.mark.plain
def test_generation_300_looks_like_generation_50(actor):
    assert abs(run(actor, 300)) < 1024


@pytest.mark.plain
@pytest.mark.long
@pytest.mark.timeout(900)
def test_generation_3000_looks_like_generation_50(actor):
    assert abs(run(actor, 3000)) < 102


def test_no_leak_is_found_over_20_generations(actor):
    """With the leak sanitizer looking at each exit."""
    actor.order("*", "blobs", "users:1000").order("*", "read", "users").order("*", "check", "ok")
    actor.start()
    clients = [actor.connect(f"c{at}") for at in range(70)]
    for _ in range(19):
        upgrade(actor)
    assert {client.again().ask().generation for client in clients} == {20}


def test_failed_upgrades_leave_nothing(actor):
    actor.order("*", "check", "ok")
    actor.start()
    fresh = kinds(actor.service.pid)
    for at in range(20):
        actor.order("*", "save" if at % 2 else "check", "fail")
        actor.order("*", "blobs", "users:10").order("*", "read", "users")
        mark = actor.log.mark()
        actor.upgrade()
        assert actor.log.wait_for("ended", since=mark)["outcome"] == "failed"
        actor.order("*", "save", "-").order("*", "check", "ok")
        assert kinds(actor.service.pid) == fresh
        assert [stat.pid for stat in processes.of_session(actor.service.session)] == [
            actor.service.pid
        ]
    assert upgrade(actor)["generation"] == 2


@pytest.mark.plain
def test_300_failed_upgrades_cost_one_process_no_memory(actor):
    """Of all processes this one lives longest."""
    actor.order("*", "check", "ok").order("*", "blobs", "users:100").order("*", "read", "users")
    actor.order("*", "save", "fail")
    actor.start()
    pid, points = actor.service.pid, []
    for at in range(300):
        mark = actor.log.mark()
        actor.upgrade()
        assert actor.log.wait_for("ended", since=mark)["outcome"] == "failed"
        if at >= 50:
            points.append((at, memory(pid)))
    found = slope(points)
    print(f"{found:.1f} bytes a failed upgrade, from {points[0][1]} to {points[-1][1]}")
    assert abs(found) < 1024
    assert actor.service.pid == pid


def inherited(line):
    """{number: target} of what a program that the actor started has open."""
    found = {}
    for entry in line.split("|"):
        if match := re.search(r" (\d+) -> (.*)$", entry):
            found[int(match[1])] = match[2]
    return found


@pytest.mark.parametrize("moment", ["first", "later", "draining", "upgrading"])
def test_a_program_that_a_handler_starts_inherits_no_socket(actor, moment):
    actor.order("*", "blobs", "users:1000").order("*", "read", "users")
    actor.start()
    asking = actor.connect("asking")
    actor.connect("another")
    if moment == "later":
        upgrade(actor)
    elif moment == "draining":
        asking.send("hold")
        actor.upgrade()
        actor.service.wait_generation(2)
        # The answer and the next question are read at once, before the connection moves.
        asking.raw(b"go\n").send("ls")
        assert asking.read().generation == 1
    elif moment == "upgrading":
        held = actor.hold(2, "start-hold")
        actor.upgrade()
        held.wait()
    answer = asking.read() if moment == "draining" else asking.ask("ls")
    found = inherited(answer.text)
    folder = {number for number, target in found.items() if target.startswith("/proc/")}
    assert set(found) - folder == {0, 1, 2}
    assert found[0] == "/dev/null"
    assert not [target for target in found.values() if target.startswith(("socket:", "anon_inode:"))]
    # Nor a word of the channel, which it could take for its own.
    assert asking.ask("variable SEGUE_CHANNEL").text == "-"
    assert asking.ask("variable PATH").text != "-"
    if moment == "upgrading":
        held.release()
        actor.service.wait_generation(2)


def test_a_generation_inherits_what_is_listed_and_nothing_else(actor):
    """Stdio and the channel, while it starts."""
    actor.start()
    actor.connect("one")
    held = actor.hold("*", "open-hold")
    actor.upgrade()
    pid = held.wait()["pid"]
    found = processes.descriptors(pid)
    fifo = {fd for fd, target in found.items() if "open-hold" in target}
    sockets = [fd for fd, target in found.items() if target.startswith("socket:")]
    assert set(found) - fifo - set(sockets) == {0, 1, 2}
    assert len(sockets) == 1
    variables = processes.environment(pid)
    assert variables["SEGUE_CHANNEL"] == str(sockets[0])
    mine = processes.environment(actor.first.pid)
    assert {name for name in variables if variables.get(name) != mine.get(name)} == {"SEGUE_CHANNEL"}
    held.release()
    successor = actor.service.wait_generation(2)["pid"]
    assert "SEGUE_CHANNEL" not in upgrade_environment(actor, successor)


def upgrade_environment(actor, pid):
    """The environment that a successor gets from this one."""
    held = actor.hold("*", "open-hold")
    actor.service.send(signal.SIGUSR2, pid)
    started = held.wait()["pid"]
    variables = processes.environment(started)
    sockets = [
        fd for fd, target in processes.descriptors(started).items() if target.startswith("socket:")
    ]
    # Its own channel, and no trace of the one before.
    assert variables.pop("SEGUE_CHANNEL") == str(sockets[0])
    assert len(sockets) == 1
    held.release()
    actor.service.wait_generation(3)
    return variables
