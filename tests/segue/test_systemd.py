"""Under a real systemd, with the unit files of packaging/ as they are: reloads under load, stops,
crashes, the watchdog, socket activation. What a test changes it changes by a drop-in, as an operator
would.
"""

import contextlib
import os
import pathlib
import re
import signal

import pytest

from functional import eventually
from harness import processes
from harness.builds import ROOT
from harness.http import Closed
from harness.systemd import inside

UNITS = ROOT / "packaging/systemd"
PORT = 8080
URL = f"http://127.0.0.1:{PORT}/hello"
SHAPES = ("--new", 2, "--keepalive", 8, "--post", 8, "--idle", "20:50ms", "--slow", "2:4096")
COUNTED = ("--count-header", "Segue-Generation", "--expect", "hello, world\n", "--duration", "1h")
REQUEST = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"


def is_up(unit):
    return unit.show("ActiveState", "SubState") == ("active", "running")


def ask(machine, target="/hello"):
    with machine.connect(PORT) as connection:
        return connection.get(target)


@contextlib.contextmanager
def loaded(machine, load):
    """Every shape of load while what stands in the block happens; nothing is lost."""
    with machine.network():
        running = load("--progress", "5ms", *SHAPES, *COUNTED, URL)
    running.wait_running()
    yield running
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["ok"] == result["requests"] and result["not_started"] == 0, result
    assert result["header"]["connections_backwards"] == 0


def meet(running, requests=100):
    """Blocks until the load has had so many more answers."""
    mark = running.log.mark()
    first = running.log.wait_for("progress", since=mark)
    running.log.wait_for("progress", since=mark,
                         where=lambda event: event["ok"] >= first["ok"] + requests)


# A service that replaces itself.


@pytest.fixture
def hello(machine):
    """hello.service, not started."""
    return machine.install(UNITS / "hello.service")


def settled(unit, pid):
    """The main process is this one, nothing else runs, and systemd is content."""
    eventually(lambda: (unit.main_pid, unit.pids, is_up(unit)), (pid, [pid], True))


def reload(unit):
    """systemctl reload, until the successor is the main process and the predecessor has gone; its
    pid."""
    before = unit.main
    unit.reload()
    before.wait()
    eventually(lambda: unit.main_pid not in (0, before.pid), True)
    settled(unit, pid := unit.main_pid)
    return pid


@pytest.mark.plain
def test_ten_reloads_under_load_lose_nothing_and_move_the_main_pid(machine, hello, load):
    hello.start()
    pids = [hello.main_pid]
    with loaded(machine, load) as running:
        for generation in range(2, 12):
            meet(running)
            pids.append(reload(hello))
            assert hello.show("StatusText") == f"Generation {generation} serves"
            answer = ask(machine)
            assert (answer.generation, answer.pid) == (generation, inside(pids[-1]))
        meet(running)
    assert len(set(pids)) == 11
    assert hello.show("NRestarts", "Result") == ("0", "success")
    hello.stop()
    assert hello.show("ActiveState", "Result") == ("inactive", "success")
    assert hello.pids == []


def test_a_reload_to_a_broken_program_leaves_the_service_active(machine, hello):
    hello.start()
    pid = hello.main_pid
    machine.put("/usr/local/bin/hello", pathlib.Path("/bin/false"))
    hello.reload()
    eventually(lambda: "failed: " in hello.show("StatusText"), True)
    settled(hello, pid)
    # systemd reaps the successor; before Linux 6.15 nobody else may be told its exit status then.
    assert re.search(r"it (ended|closed its channel|exited with status 1) before it was ready", hello.show("StatusText"))
    assert ask(machine).pid == inside(pid)


def test_a_stop_during_a_drain_ends_every_generation_and_counts_what_is_cut(machine, hello):
    """systemd sends a second SIGTERM to what is left when the main process has gone, and that cuts."""
    hello.start()
    first = hello.main
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=60s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)  # The slow one was there before: it has been read.
        mark = machine.log.mark_line()
        hello.reload()
        eventually(lambda: hello.main_pid not in (0, first.pid), True)
        assert not first.ended
        hello.stop()
        machine.log.wait_for_line("generation 1 .* drained: .* 1 requests .* cut", since=mark)
        with pytest.raises(Closed):
            slow.response()
    assert hello.show("ActiveState", "Result") == ("inactive", "success")
    assert hello.pids == []


def test_a_stop_after_a_reload_finishes_what_was_begun(machine, hello):
    """systemd must see the successor as its own child: the stop of any other main process goes from
    SIGTERM to SIGKILL at once."""
    hello.start()
    pid = inside(reload(hello))
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=500ms HTTP/1.1\r\nHost: test\r\n\r\n")
        assert ask(machine).pid == pid
        hello.stop()
        assert slow.response().pid == pid
    assert hello.show("ActiveState", "Result") == ("inactive", "success")


def test_a_crash_is_restarted(machine, hello):
    hello.start()
    reload(hello)
    crashed = hello.main
    crashed.send(signal.SIGKILL)
    eventually(lambda: hello.show("NRestarts"), "1")
    eventually(lambda: is_up(hello), True)
    settled(hello, pid := hello.main_pid)
    assert pid != crashed.pid
    answer = ask(machine)
    assert (answer.generation, answer.pid) == (1, inside(pid))


def test_the_watchdog_hears_each_generation_and_restarts_one_that_hangs(machine, hello):
    hello.drop_in("WatchdogSec=1")
    hello.start()
    for _ in range(2):
        reload(hello)
        heard = {hello.show("WatchdogTimestampMonotonic")}
        for count in (2, 3, 4):
            eventually(lambda: len(heard | {hello.show("WatchdogTimestampMonotonic")}) >= count, True)
            heard.add(hello.show("WatchdogTimestampMonotonic"))
    assert hello.show("NRestarts") == "0"
    hanging = hello.main
    hanging.stop()
    hanging.wait()
    eventually(lambda: (hello.show("NRestarts"), is_up(hello)), ("1", True))
    assert ask(machine).generation == 1


def test_the_socket_of_systemd_is_used_over_reloads_under_load(machine, hello, load):
    socket = machine.install(UNITS / "hello.socket")
    socket.start()
    assert hello.show("ActiveState") == "inactive"
    with machine.connect(PORT) as first:
        assert first.get().generation == 1  # This has started the service.
    with loaded(machine, load) as running:
        for generation in (2, 3, 4):
            meet(running)
            pid = reload(hello)
            answer = ask(machine)
            assert (answer.generation, answer.pid) == (generation, inside(pid))


def test_clients_wait_in_the_queue_of_the_socket_while_the_service_restarts(machine, hello):
    machine.install(UNITS / "hello.socket").start()
    os.mkfifo(machine.path("/run/gate"))
    hello.drop_in("ExecStartPre=/bin/sh -c 'read go </run/gate'", "StandardInput=null")
    gate = os.open(machine.path("/run/gate"), os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(gate, b"go\n")
        hello.start()
        before = hello.main
        pid = inside(before.pid)
        hello.restart("--no-block")
        before.wait()
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(machine.connect(PORT)) for _ in range(10)]
            for one in waiting:
                one.send(REQUEST)
            os.write(gate, b"go\n")
            answers = [one.response() for one in waiting]
        assert {one.pid for one in answers} == {inside(hello.main_pid)} != {pid}
    finally:
        os.close(gate)
        machine.path("/run/gate").unlink()


def test_without_notifications_a_reload_is_refused_with_a_sentence(machine, hello):
    hello.drop_in("Type=exec", "NotifyAccess=none", "WatchdogSec=0")
    hello.start()
    pid = hello.main_pid
    eventually(lambda: can_connect(machine), True)
    mark = machine.log.mark_line()
    hello.reload()
    machine.log.wait_for_line(
        "upgrade refused: systemd watches this pid, and an upgrade changes it; set Type=notify in the "
        "unit, or start it as 'segue run -- program'", since=mark)
    assert ask(machine).pid == inside(pid)
    settled(hello, pid)


def can_connect(machine):
    try:
        machine.connect(PORT).close()
    except ConnectionRefusedError:
        return False
    return True
