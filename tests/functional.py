"""What the functional tests of the self-upgrade share: the test server with a configuration that
can be changed between generations, and clients that count every request while something happens.
"""

import contextlib
import os
import random
import select
import signal
import socket
import threading

from harness import processes
from harness.builds import put_program
from harness.deadline import until
from harness.http import Connection
from harness.service import parse

PROGRAM = "tests/programs/server"
START_TIMEOUT = 20000  # ms; generous, since no test here is about it


class Subject:
    """The test server. Its options are those of tests/programs/config.h; configure() says what the
    next generation is and does."""

    def __init__(self, start, folder, *options, config=(), program=None, **more):
        self.folder = folder
        self.config = folder / "config"
        self.configure(*config)
        options = [str(word) for word in options]
        if "--start-timeout" not in options:
            options += ["--start-timeout", str(START_TIMEOUT)]
        self.service = start(program or PROGRAM, "--config", self.config, *options, **more)
        self.log = self.service.log

    def configure(self, *words):
        """Options and their values, in place of the earlier ones, read at the next start."""
        self.config.write_text("".join(f"{word}\n" for word in words))

    def behave(self, *behaviours, options=()):
        self.configure(*options, *(word for one in behaviours for word in ("--behave", one)))

    @property
    def pid(self):
        return self.service.pid

    def address(self, name=None, since=0):
        """Where a listener is, as the youngest generation that said it sees it."""
        events = self.log.find("listener", since=since)
        if name is not None:
            events = [event for event in events if event["name"] == name]
        return parse(events[-1]["address"])

    def ask(self, number=signal.SIGUSR2, times=1):
        """The upgrade signal to the generation that serves; a mark in the log from before."""
        mark = self.log.mark()
        for _ in range(times):
            self.service.send(number)
        return mark

    def ended(self, since, **fields):
        return self.log.wait_for("upgrade_ended", since=since, **fields)

    def upgrade(self, wait_exit=True):
        """An upgrade that has to succeed; the pid of the successor."""
        before = self.pid
        mark = self.ask()
        ended = self.ended(mark)
        assert ended["outcome"] == "upgraded", ended
        serving = self.log.wait_for("serving", since=mark, pid=ended["successor_pid"])
        if wait_exit:
            assert self.service.wait_exit(before) == 0
        assert self.pid == serving["pid"]
        return serving["pid"]

    def fails(self):
        """An upgrade that has to fail; the reason. Nothing changes for the generation that serves,
        and of the successor nothing is left."""
        before = self.pid
        ended = self.ended(self.ask())
        assert ended["outcome"] == "failed", ended
        assert ended["pid"] == before == self.pid
        if ended["successor_pid"]:
            # Where a service manager is notified, it is who reaps: here that is the test.
            self.service.reap()
            assert not os.path.exists(f"/proc/{ended['successor_pid']}")
        return ended["reason"]


def eventually(question, expected, deadline=None):
    """Asks the kernel until it answers as expected; the difference is shown where it never does."""
    deadline = until(deadline)
    while (answer := question()) != expected:
        if deadline.left() == 0:
            raise AssertionError(f"{answer}\nis not\n{expected}")
        # The kernel has no descriptor for such a question.
        select.select([], [], [], 0.005)


def free_port(family=socket.AF_INET, host="127.0.0.1"):
    """A port that nobody has now. No other test takes it before it is bound: where tests run side by
    side each process has a range of its own, below the ports that the kernel gives away."""
    first = 12000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20)
    for port in random.sample(range(first, first + 1000), 1000):
        try:
            with socket.create_server((host, port), family=family):
                return port
        except OSError:
            pass
    raise AssertionError(f"no port from {first} on is free")


class Clients:
    """Two clients in a thread: one asks again and again on one connection, one opens a connection
    for each request. Whatever is not an answer is an error, and nothing is tried twice."""

    def __init__(self, address):
        self.address = address
        self.errors = []
        self.answers = []  # (kind, pid) in their order
        self._stop, self._stopping = os.pipe()
        self._answered = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)
        self._thread.start()
        self.wait_more()

    def _run(self):
        try:
            with Connection(self.address) as kept:
                count = 0
                while not select.select([self._stop], [], [], 0.003)[0]:
                    count += 1
                    response = kept.again().get()
                    # The count travels with the connection: no request is answered twice.
                    assert int(response.header("Segue-Requests")) == count
                    self._note("kept", response)
                    with Connection(self.address) as fresh:
                        self._note("fresh", fresh.get())
        except Exception as error:  # pylint: disable=broad-except
            with self._answered:
                self.errors.append(error)
                self._answered.notify_all()

    def _note(self, kind, response):
        assert response.status == 200 and response.body == b"hello\n"
        with self._answered:
            self.answers.append((kind, response.pid))
            self._answered.notify_all()

    def wait_more(self, count=4, deadline=None):
        """Blocks until so many more requests have been answered."""
        deadline = until(deadline)
        with self._answered:
            wanted = len(self.answers) + count
            while len(self.answers) < wanted and not self.errors:
                assert self._answered.wait(deadline.left()), f"no answer: {self.answers[-4:]}"
        assert not self.errors, self.errors

    def pids(self, kind=None):
        return {pid for known, pid in self.answers if kind in (None, known)}

    def stop(self):
        os.write(self._stopping, b"x")
        self._thread.join(30)
        os.close(self._stop)
        os.close(self._stopping)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def asking(address):
    """Clients that ask before, during and after what stands in the block, and lose nothing."""
    clients = Clients(address)
    try:
        yield clients
        if not clients.errors:
            clients.wait_more()
    finally:
        clients.stop()
    assert not clients.errors, clients.errors


@contextlib.contextmanager
def unharmed(subject):
    """Whatever fails in the block: clients lose nothing, the same process answers all of them, it
    keeps its descriptors, has no child more, and a good program takes over afterwards."""
    pid = subject.pid
    address = subject.address()
    before = processes.descriptors(pid)
    with asking(address) as clients:
        yield clients
    assert clients.pids() == {pid}
    eventually(lambda: processes.descriptors(pid), before)
    assert not processes.children(pid)
    subject.configure()
    with asking(address) as clients:
        successor = subject.upgrade()
        clients.wait_more()
    assert clients.pids() == {pid, successor}


@contextlib.contextmanager
def gate(folder):
    """Opens the fifo 'gate'; calling what comes out lets one process through."""
    fifo = os.open(folder / "gate", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield lambda: os.write(fifo, b"x")
    finally:
        os.close(fifo)


# A request whose last byte is to come.
HOLD = b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"


@contextlib.contextmanager
def held(one):
    """A request in flight: its head has been read, its body is not whole."""
    with Connection(one.address()) as connection:
        # One segment: the answer to its first request says that all of it has been read.
        connection.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        yield connection


def copy(build, path):
    """The test server at a path of its own, for tests that replace it."""
    return put_program(build.program(PROGRAM), path)
