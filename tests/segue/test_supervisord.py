"""Under Debian's supervisord, which runs as Debian starts it, in a systemd of its own."""

import pathlib
import signal

import pytest

from functional import eventually
from harness import processes
from harness.builds import ROOT
from harness.systemd import inside

PORT = 8080
URL = f"http://127.0.0.1:{PORT}/hello"
PACKAGING = ROOT / "packaging"
DEBIAN = pathlib.Path("/lib/systemd/system/supervisor.service")
SECTION = """
[program:hello]
command=/usr/local/bin/hello --listen http=:8080
redirect_stderr=true
stdout_logfile=/dev/kmsg
stdout_logfile_maxbytes=0
"""


class Supervisord:
    """Debian's supervisor.service with one program, hello."""

    def __init__(self, machine, section):
        self.machine = machine
        machine.put("/etc/supervisor/conf.d/hello.conf", section)
        self.unit = machine.install(DEBIAN)
        self.unit.start()
        eventually(lambda: self.status()[0], "RUNNING")

    def control(self, *words):
        """What supervisorctl says."""
        return self.machine.run("supervisorctl", *words, check_code=False)[1]

    def status(self):
        """(state, pid) of hello as supervisord has it; the pid is that of this side."""
        words = self.control("status", "hello").split()
        state = words[1] if len(words) > 1 else None
        pid = self.machine.outside(int(words[3].rstrip(","))) if state == "RUNNING" else 0
        return state, pid


@pytest.fixture
def supervisord(machine):
    if not DEBIAN.exists():
        pytest.skip("supervisord is not there; install the package supervisor")
    yield lambda section: Supervisord(machine, section)
    machine.path("/etc/supervisor/conf.d/hello.conf").unlink(missing_ok=True)


def ask(machine, target="/hello"):
    with machine.connect(PORT) as connection:
        return connection.get(target)


def test_a_service_that_would_change_its_pid_refuses_the_upgrade_and_goes_on(machine, supervisord):
    daemon = supervisord(SECTION)
    eventually(lambda: machine.accepts(PORT), True)
    _, pid = daemon.status()
    mark = machine.log.mark_line()
    daemon.control("signal", "USR2", "hello")
    machine.log.wait_for_line(
        "upgrade refused: supervisord watches its direct child, and an upgrade changes the pid; start "
        "it as 'segue run -- program', whose pid stays", since=mark)
    assert daemon.status() == ("RUNNING", pid)
    answer = ask(machine)
    assert (answer.generation, answer.pid) == (1, inside(pid))
    assert daemon.control("stop", "hello").strip() == "hello: stopped"
    assert not machine.accepts(PORT)


@pytest.fixture
def supervised(machine, supervisord):
    """The section of packaging/, as it is; its output goes to the log."""
    machine.put("/etc/segue/hello.conf", (PACKAGING / "hello.conf").read_text())
    section = (PACKAGING / "supervisord/hello.conf").read_text()
    yield supervisord(section + "stdout_logfile=/dev/kmsg\nstdout_logfile_maxbytes=0\n")
    machine.path("/etc/segue/hello.conf").unlink()


def workers(daemon):
    return [pid for pid in daemon.unit.pids if processes.Stat(pid).name == "hello"]


@pytest.mark.plain
def test_ten_upgrades_of_a_supervised_service_under_load(machine, supervised, load):
    _, pid = supervised.status()
    pids = workers(supervised)
    with machine.network():
        running = load("--new", 2, "--keepalive", 8, "--post", 8, "--expect", "hello, world\n",
                       "--duration", "1h", URL).wait_running()
    for generation in range(2, 12):
        machine.run("segue", "upgrade", "hello")
        pids += workers(supervised)
        assert supervised.status() == ("RUNNING", pid)
        answer = ask(machine)
        assert (answer.generation, answer.pid) == (generation, inside(pids[-1]))
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert len(set(pids)) == 11


def test_a_signal_of_supervisorctl_is_an_upgrade(machine, supervised):
    before = supervised.status()
    supervised.control("signal", "HUP", "hello")
    eventually(lambda: ask(machine).generation, 2)
    assert supervised.status() == before


def test_a_stop_finishes_what_was_begun_and_leaves_nothing(machine, supervised):
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=1s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)
        assert supervised.control("stop", "hello").strip() == "hello: stopped"
        assert slow.response().status == 200
    names = {processes.Stat(pid).name for pid in supervised.unit.pids}
    assert names == {"supervisord"}


def test_a_supervisor_that_crashes_is_started_again(machine, supervised):
    _, pid = supervised.status()
    with processes.Process(pid) as process:
        process.send(signal.SIGKILL)
        process.wait()
    eventually(lambda: supervised.status()[0] == "RUNNING" and supervised.status()[1] != pid, True)
    eventually(lambda: len(workers(supervised)), 1)
    assert ask(machine).pid == inside(workers(supervised)[0])


def test_a_worker_that_crashes_is_started_again_by_the_supervisor(machine, supervised):
    before = supervised.status()
    (worker,) = workers(supervised)
    with processes.Process(worker) as process:
        process.send(signal.SIGKILL)
        process.wait()
    assert ask(machine).generation == 1
    assert supervised.status() == before
