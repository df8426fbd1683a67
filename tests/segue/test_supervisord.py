"""Under Debian's supervisord, which runs as Debian starts it, in a systemd of its own."""

import contextlib
import pathlib
import signal

import pytest

from functional import eventually
from harness import processes
from harness.systemd import inside

PORT = 8080
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


def accepts(machine):
    try:
        machine.connect(PORT).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_service_that_would_change_its_pid_refuses_the_upgrade_and_goes_on(machine, supervisord):
    daemon = supervisord(SECTION)
    eventually(lambda: accepts(machine), True)
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
    assert not accepts(machine)
