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

from functional import HOLD, eventually
from harness import processes
from harness.builds import ROOT
from harness.http import Connection
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


def test_a_stop_during_a_drain_ends_every_generation_and_cuts_nothing(machine, hello):
    """The main process stays for the older one, so that systemd does not end that."""
    hello.start()
    first = hello.main
    with machine.connect(PORT) as slow:
        # One segment: the answer to its first request says that all of it has been read.
        slow.send(REQUEST + HOLD).response()
        hello.reload()
        eventually(lambda: hello.main_pid not in (0, first.pid), True)
        assert not first.ended
        hello.stop("--no-block")
        eventually(lambda: hello.show("ActiveState"), "deactivating")
        assert slow.send(b"y").response().generation == 1
    eventually(lambda: hello.show("ActiveState", "Result"), ("inactive", "success"))
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


def hear(unit, times):
    """Waits until the watchdog has been answered so many times: twice an interval."""
    heard = set()

    def count():
        heard.add(unit.show("WatchdogTimestampMonotonic"))
        return len(heard) > times

    eventually(count, True)


def test_the_watchdog_hears_a_successor_and_restarts_one_that_hangs(machine, hello):
    hello.drop_in("WatchdogSec=2")
    hello.start()
    reload(hello)
    hear(hello, 4)
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
    eventually(lambda: machine.accepts(PORT), True)
    mark = machine.log.mark_line()
    hello.reload()
    machine.log.wait_for_line(
        "upgrade refused: systemd watches this pid, and an upgrade changes it; set Type=notify in the "
        "unit, or start it as 'segue run -- program'", since=mark)
    assert ask(machine).pid == inside(pid)
    settled(hello, pid)


# 'segue run': the supervisor.


@pytest.fixture
def supervised(machine):
    """segue@hello.service, not started."""
    machine.put("/etc/segue/hello.conf", (ROOT / "packaging/hello.conf").read_text())
    return machine.install(UNITS / "segue@.service", "segue@hello.service")


def bind_itself(machine, *addresses):
    """From its next start on the service's program binds these, and its supervisor nothing."""
    options = " ".join(f"--listen {address}" for address in addresses)
    machine.put("/etc/segue/hello.conf", f"program /usr/local/bin/hello {options}\n")


@pytest.fixture(params=["listen", "bound"])
def stored(machine, supervised, request):
    """The same, with the listener of its configuration, or with one that its worker binds itself."""
    if request.param == "bound":
        bind_itself(machine, f":{PORT}")
    return supervised


def worker_pids(unit):
    """Those processes of the unit that run hello."""
    return [pid for pid in unit.pids if processes.Stat(pid).name == "hello"]


@pytest.mark.plain
def test_ten_reloads_of_a_supervised_service_under_load(machine, supervised, load):
    supervised.start()
    main = supervised.main_pid
    assert processes.Stat(main).name == "segue"
    workers = worker_pids(supervised)
    with loaded(machine, load) as running:
        for generation in range(2, 12):
            meet(running)
            supervised.reload()
            # The predecessor has gone: the reload has waited.
            assert len(worker_pids(supervised)) == 1
            workers += worker_pids(supervised)
            assert supervised.main_pid == main
            assert supervised.show("StatusText") == f"Generation {generation} serves"
            answer = ask(machine)
            assert (answer.generation, answer.pid) == (generation, inside(workers[-1]))
        meet(running)
    assert len(set(workers)) == 11
    assert is_up(supervised)
    assert supervised.show("NRestarts", "Result") == ("0", "success")
    supervised.stop()
    assert supervised.show("ActiveState", "Result") == ("inactive", "success")
    assert supervised.pids == []


def test_a_reload_that_fails_fails_and_the_service_stays_active(machine, supervised):
    supervised.start()
    pid, workers = supervised.main_pid, worker_pids(supervised)
    machine.put("/usr/local/bin/hello", pathlib.Path("/bin/false"))
    code, _ = supervised.reload(check_code=False)
    assert code != 0
    assert is_up(supervised)
    assert (supervised.main_pid, worker_pids(supervised)) == (pid, workers)
    assert ask(machine).pid == inside(workers[0])


def test_a_stop_of_a_supervised_service_finishes_what_was_begun(machine, supervised):
    """On both sides of an upgrade."""
    supervised.start()
    with machine.connect(PORT) as first, machine.connect(PORT) as second:
        first.send(b"GET /hello?delay=2s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)
        machine.run("segue", "upgrade", "--no-wait", "hello")
        eventually(lambda: second.get("/hello").generation, 2)
        second.send(b"GET /hello?delay=1s HTTP/1.1\r\nHost: test\r\n\r\n")
        supervised.stop()
        assert [first.response().generation, second.response().generation] == [1, 2]
    assert supervised.show("ActiveState", "Result") == ("inactive", "success")
    assert supervised.pids == []


@pytest.mark.long
def test_a_stop_that_goes_on_gets_the_time_that_it_needs(machine, supervised):
    """Longer than TimeoutStopSec=: the supervisor asks for more as long as its own deadlines run."""
    supervised.drop_in("TimeoutStopSec=2")
    supervised.start()
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=14s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)
        supervised.stop()
        assert slow.response().status == 200
    assert supervised.show("ActiveState", "Result") == ("inactive", "success")


def test_a_worker_that_crashes_is_started_again_and_nobody_is_refused(machine, supervised):
    supervised.start()
    main, (worker,) = supervised.main_pid, worker_pids(supervised)
    crashed = inside(worker)
    with processes.Process(worker) as process:
        process.send(signal.SIGKILL)
        process.wait()
    answer = ask(machine)
    assert answer.generation == 1 and answer.pid != crashed
    assert supervised.main_pid == main
    assert supervised.show("NRestarts") == "0"


@contextlib.contextmanager
def gated(machine, unit):
    """Each start of the unit waits for a word on the pipe that comes out."""
    os.mkfifo(machine.path("/run/gate"))
    unit.drop_in("ExecStartPre=/bin/sh -c 'read go </run/gate'")
    gate = os.open(machine.path("/run/gate"), os.O_RDWR | os.O_CLOEXEC)
    try:
        yield lambda: os.write(gate, b"go\n")
    finally:
        os.close(gate)
        machine.path("/run/gate").unlink()


def ten_wait(machine, go):
    """Ten clients that connect and ask while nobody serves, and the pid that answers all of them."""
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(machine.connect(PORT)) for _ in range(10)]
        for one in waiting:
            one.send(REQUEST)
        go()
        (pid,) = {one.response().pid for one in waiting}
    return pid


def test_a_supervisor_that_is_killed_is_started_again_with_its_listeners(machine, stored):
    """systemd has stored them: clients that come meanwhile wait."""
    with gated(machine, stored) as go:
        go()
        stored.start()
        eventually(lambda: stored.show("NFileDescriptorStore"), "1")
        for count in ("1", "2"):
            before = stored.main
            before.send(signal.SIGKILL)
            before.wait()
            eventually(lambda: stored.show("SubState"), "start-pre")
            pid = ten_wait(machine, go)
            eventually(lambda: is_up(stored), True)
            assert pid == inside(worker_pids(stored)[0])
            assert stored.main_pid != before.pid
            assert stored.show("NRestarts", "NFileDescriptorStore") == (count, "1")
        stored.reload()
        assert ask(machine).generation == 2


@pytest.mark.parametrize("then", ["program", "listen"])
def test_a_stored_listener_that_is_in_the_way_ends_one_start_and_no_more(machine, supervised, then):
    """The next version binds an address that overlaps it; what fails lets it go."""
    bind_itself(machine, f"127.0.0.1:{PORT}")
    supervised.start()
    eventually(lambda: supervised.show("NFileDescriptorStore"), "1")
    if then == "program":
        bind_itself(machine, f"0.0.0.0:{PORT}")
    else:
        machine.put("/etc/segue/hello.conf", (ROOT / "packaging/hello.conf").read_text())
    supervised.restart("--no-block")
    eventually(lambda: (supervised.show("NRestarts"), is_up(supervised)), ("1", True))
    assert ask(machine).generation == 1
    eventually(lambda: supervised.show("NFileDescriptorStore"), "1")


def test_a_port_of_two_protocols_comes_back_from_the_store(machine, supervised):
    machine.put("/etc/segue/hello.conf",
                f"listen udp=udp://127.0.0.1:{PORT}\nlisten http=tcp://127.0.0.1:{PORT}\n"
                "ready delay:100ms\nprogram /bin/sleep 1000\n")
    supervised.start()
    eventually(lambda: supervised.show("NFileDescriptorStore"), "2")
    supervised.restart()
    assert supervised.show("NRestarts", "NFileDescriptorStore") == ("0", "2")


def test_what_is_stored_follows_what_the_workers_bind(machine, supervised):
    """Over an upgrade, a failed one, and a start of the next supervisor; a path goes with its worker."""
    bind_itself(machine, f"a=:{PORT}", "b=127.0.0.1:8081", "unix:///run/hello.sock")
    supervised.start()
    eventually(lambda: supervised.show("NFileDescriptorStore"), "2")
    failed = machine.run("segue", "upgrade", "hello", "--", "/usr/local/bin/hello", "--listen", f"a=:{PORT}",
                         "--listen", "c=192.0.2.1:8082", check_code=False)
    assert failed[0] == 1, failed
    assert supervised.show("NFileDescriptorStore") == "2"
    machine.run("segue", "upgrade", "hello", "--", "/usr/local/bin/hello", "--listen", f"a=:{PORT}")
    eventually(lambda: supervised.show("NFileDescriptorStore"), "1")
    # Nobody of the next ones wants it.
    bind_itself(machine, "127.0.0.1:8083")
    supervised.restart()
    eventually(lambda: supervised.show("NFileDescriptorStore"), "1")
    with machine.network(), pytest.raises(ConnectionRefusedError):
        machine.connect(PORT)
    with machine.connect(8083) as connection:
        assert connection.get("/hello").generation == 1


@pytest.mark.plain
def test_a_supervisor_that_is_killed_under_load_loses_nothing_that_was_begun(machine, supervised, load):
    """Its workers finish, the next one's serve. A connection may be closed when nothing is under way on
    it, be it a new one, and a request that is sent at that moment finds it closed."""
    supervised.start()
    with machine.network():
        running = load("--progress", "5ms", "--new", 4, "--keepalive", 8, "--post", 4, *COUNTED,
                       URL + "?delay=20ms").wait_running()
    for count in ("1", "2", "3"):
        meet(running)
        before = supervised.main
        before.send(signal.SIGKILL)
        before.wait()
        eventually(lambda: (supervised.show("NRestarts"), is_up(supervised)), (count, True))
    meet(running)
    result = running.stop()
    outcomes = {name: number for name, number in result["outcomes"].items() if number}
    closed = {"used_closed", "fresh_closed"}
    assert set(outcomes) <= {"ok"} | closed, result
    assert result["ok"] == result["requests"] - sum(outcomes.get(name, 0) for name in closed)
    eventually(lambda: len(worker_pids(supervised)), 1)


def test_clients_wait_while_a_supervised_service_is_restarted(machine, stored):
    with gated(machine, stored) as go:
        go()
        stored.start()
        stored.restart("--no-block")
        eventually(lambda: stored.show("SubState"), "start-pre")
        pid = ten_wait(machine, go)
        eventually(lambda: is_up(stored), True)
        assert pid == inside(worker_pids(stored)[0])
    stored.stop()
    with machine.network(), pytest.raises(ConnectionRefusedError):
        machine.connect(PORT)


def test_a_listener_that_is_not_configured_any_more_does_not_come_back(machine, supervised):
    supervised.start()
    machine.put("/etc/segue/hello.conf",
                (ROOT / "packaging/hello.conf").read_text().replace("8080", "8081"))
    supervised.restart()
    with machine.connect(8081) as connection:
        assert connection.get().status == 200
    assert not machine.accepts(PORT)
    assert supervised.show("NFileDescriptorStore") == "1"


def test_a_unix_path_is_the_services_after_a_crash_too(machine, supervised):
    text = (ROOT / "packaging/hello.conf").read_text().replace(":8080", "unix:///run/hello.sock")
    machine.put("/etc/segue/hello.conf", text)
    path = machine.path("/run/hello.sock")
    supervised.start()
    before = supervised.main
    before.send(signal.SIGKILL)
    before.wait()
    eventually(lambda: (supervised.show("NRestarts"), is_up(supervised)), ("1", True))
    with Connection(str(path)) as connection:
        assert connection.get().status == 200
    supervised.restart()
    with Connection(str(path)) as connection:
        assert connection.get().status == 200
    supervised.stop()
    assert not path.exists()


def test_a_supervisor_that_hangs_is_restarted_by_the_watchdog(machine, supervised):
    supervised.drop_in("WatchdogSec=2")
    supervised.start()
    hear(supervised, 4)
    assert supervised.show("NRestarts") == "0"
    hanging = supervised.main
    hanging.stop()
    hanging.wait()
    eventually(lambda: (supervised.show("NRestarts"), is_up(supervised)), ("1", True))
    assert ask(machine).generation == 1


def test_a_supervised_service_takes_the_socket_of_systemd(machine, supervised):
    machine.install(UNITS / "segue@hello.socket").start()
    assert supervised.show("ActiveState") == "inactive"
    assert ask(machine).generation == 1  # This has started the service.
    eventually(lambda: is_up(supervised), True)
    supervised.reload()
    assert ask(machine).generation == 2
    # systemd holds it anyway, and would pass it twice.
    assert supervised.show("NFileDescriptorStore") == "0"
    supervised.restart()
    assert ask(machine).generation == 1


def test_the_main_process_reloading_is_seen_by_systemd(machine, supervised):
    """RELOADING and READY: asked by another way than systemctl, the unit says so all the same."""
    machine.put("/etc/segue/hello.conf", (ROOT / "packaging/hello.conf").read_text() +
                "preflight read go </run/gate\n")
    os.mkfifo(machine.path("/run/gate"))
    gate = os.open(machine.path("/run/gate"), os.O_RDWR | os.O_CLOEXEC)
    try:
        supervised.start()
        machine.run("segue", "upgrade", "--no-wait", "hello")
        eventually(lambda: supervised.show("ActiveState"), "reloading")
        os.write(gate, b"go\n")
        eventually(lambda: is_up(supervised), True)
        assert ask(machine).generation == 2
    finally:
        os.close(gate)
        machine.path("/run/gate").unlink()
