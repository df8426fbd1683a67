"""'segue run' as process 1 of a pid namespace, by the entrypoint of packaging/. The namespace is made
inside a systemd of our own, whose unit says what is left and how it ended.
"""

import os
import signal

import pytest

from functional import eventually
from harness import processes
from harness.builds import ROOT
from harness.systemd import inside

PORT = 8080
PACKAGING = ROOT / "packaging"
UNIT = """
[Service]
Type=exec
Environment=PATH=/usr/local/bin:/usr/bin:/bin
ExecStart=/usr/bin/unshare --pid --fork --kill-child --mount-proc {command}
"""


class Container:
    def __init__(self, machine, folder, command):
        self.machine = machine
        file = folder / "container.service"
        file.write_text(UNIT.format(command=command))
        self.unit = machine.install(file)
        self.unit.start()
        self.unshare = self.unit.main
        eventually(lambda: len(processes.children(self.unshare.pid)), 1)
        self.init = processes.Process(processes.children(self.unshare.pid)[0].pid)
        eventually(lambda: processes.Stat(self.init.pid).name, "segue")
        assert inside(self.init.pid) == 1

    def segue(self, *words, **options):
        """Runs the client in the container."""
        outer = inside_machine(self.init.pid)
        return self.machine.run("nsenter", f"--target={outer}", "--all", "--root", "--wd", "--",
                                "segue", *words, **options)

    def workers(self):
        return [stat.pid for stat in processes.children(self.init.pid) if stat.name == "hello"]

    def wait_end(self):
        """(exit code or signal of process 1, as its starter passes it on)."""
        self.unshare.wait()
        eventually(lambda: self.unit.show("ActiveState") in ("inactive", "failed"), True)
        assert self.unit.pids == []
        return int(self.unit.show("ExecMainStatus"))


def inside_machine(pid):
    """The pid of a process of the container by which the machine knows it."""
    return int(processes.status(pid)["NSpid"].split()[-2])


@pytest.fixture
def container(machine, folder):
    machine.put("/etc/segue/hello.conf", (PACKAGING / "hello.conf").read_text())
    entrypoint = machine.path("/usr/local/bin/entrypoint")
    entrypoint.write_text((PACKAGING / "container/entrypoint").read_text())
    entrypoint.chmod(0o755)
    made = []

    def make(command="/usr/local/bin/entrypoint"):
        made.append(Container(machine, folder, command))
        return made[-1]

    yield make
    for one in made:
        one.init.send(signal.SIGKILL)
        one.init.close()
    machine.path("/etc/segue/hello.conf").unlink()


def ask(machine, target="/hello"):
    with machine.connect(PORT) as connection:
        return connection.get(target)


def test_process_1_upgrades_its_service_and_stays(machine, container):
    one = container()
    eventually(lambda: machine.accepts(PORT), True)
    assert ask(machine).generation == 1
    first = one.workers()
    one.segue("upgrade", "hello")
    answer = ask(machine)
    assert answer.generation == 2 and answer.pid == inside(one.workers()[0])
    one.init.send(signal.SIGHUP)
    eventually(lambda: ask(machine).generation, 3)
    eventually(lambda: len(one.workers()), 1)
    assert one.workers() != first and not one.init.ended


def test_process_1_stops_at_term_and_ends_with_0(machine, container):
    one = container()
    eventually(lambda: machine.accepts(PORT), True)
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=1s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)
        one.init.send(signal.SIGTERM)
        assert slow.response().status == 200
    assert one.wait_end() == 0


def test_a_term_to_every_process_cuts_nothing(machine, container):
    """As a service manager or a runtime sends it that knows the whole group."""
    one = container()
    eventually(lambda: machine.accepts(PORT), True)
    with machine.connect(PORT) as slow:
        slow.send(b"GET /hello?delay=1s HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(machine)
        for stat in processes.children(one.init.pid):
            os.kill(stat.pid, signal.SIGTERM)
        one.init.send(signal.SIGTERM)
        assert slow.response().status == 200
    assert one.wait_end() == 0


@pytest.mark.parametrize("words, code", [("exit 7", 7), ("exit 0", 0)])
def test_process_1_ends_with_the_exit_code_of_the_service(container, folder, words, code, machine):
    """A service that is not to be started again ends the container."""
    machine.put("/usr/local/bin/service", f"#!/bin/sh\nread go </run/gate\n{words}\n")
    machine.path("/usr/local/bin/service").chmod(0o755)
    gate = machine.path("/run/gate")
    machine.run("mkfifo", "/run/gate")
    try:
        one = container("/usr/local/bin/segue run --name hello --restart never --ready delay:10ms "
                        "-- /usr/local/bin/service")
        # There may be no supervisor to ask yet.
        eventually(lambda: "serving" in one.segue("status", "hello", check_code=False)[1], True)
        gate.write_text("go\n")
        assert one.wait_end() == code
    finally:
        gate.unlink()


def test_process_1_reaps_what_is_left_to_it(machine, container):
    """A daemon's way: the one between ends, and its child is process 1's."""
    machine.put("/usr/local/bin/service",
                "#!/bin/sh\nfor i in 1 2 3 4 5; do (/bin/sh -c 'read end </run/gate' &); done\n"
                "exec /usr/local/bin/hello --listen http=:8080\n")
    machine.path("/usr/local/bin/service").chmod(0o755)
    machine.run("mkfifo", "/run/gate")
    gate = machine.path("/run/gate")
    # Open for as long as one of them may still be about to open it.
    fifo = os.open(gate, os.O_RDWR | os.O_CLOEXEC)
    try:
        one = container("/usr/local/bin/segue run --name hello --listen http=:8080 "
                        "-- /usr/local/bin/service")
        eventually(lambda: machine.accepts(PORT), True)
        eventually(lambda: names(one).count("sh"), 5)
        os.write(fifo, b"end\n" * 5)
        eventually(lambda: names(one).count("sh"), 0)
        assert ask(machine).status == 200
        one.segue("upgrade", "hello")
        assert ask(machine).generation == 2
    finally:
        os.close(fifo)
        gate.unlink()


def names(one):
    """Of the children of process 1, zombies too."""
    return [stat.name for stat in processes.children(one.init.pid)]


@pytest.mark.parametrize("name", ["SIGWINCH", "SIGURG", "SIGPIPE", "SIGALRM", "SIGCONT", "SIGUSR1"])
def test_process_1_forwards_nothing_odd(machine, container, name):
    one = container()
    eventually(lambda: machine.accepts(PORT), True)
    ask(machine)  # The service has begun.
    workers = one.workers()
    one.init.send(getattr(signal, name))
    assert one.segue("status", "hello")[0] == 0
    assert ask(machine).status == 200
    assert one.workers() == workers
