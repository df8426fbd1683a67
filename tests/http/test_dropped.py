"""A listener that the successor does not want, while a loop of the predecessor is busy: whichever comes
first, that loop's turn or the successor's end, the listener is closed or served, and nothing between.
"""

import contextlib
import errno
import os
import pathlib
import select
import signal

import pytest

from functional import eventually, free_port
from harness.http import Connection, get, request

SERVER = pathlib.Path("tests/http/server.c")


class Module:
    """A program of the HTTP module with two threads; the file says what the next one listens on."""

    def __init__(self, folder):
        self.file = folder / "listen"
        self.options = ["--threads", "2", "--drain-timeout", "1h"]
        self.a, self.b = (("127.0.0.1", free_port()) for _ in range(2))
        self.listen("a", "b")

    def listen(self, *names):
        self.file.write_text(" ".join(f"{name}=127.0.0.1:{getattr(self, name)[1]}" for name in names))

    def serving(self, since=0):
        """The pid of whoever comes to serve."""
        return self.service.log.wait_for("serving", since=since, where=lambda event: "pid" in event)["pid"]

    def upgrade(self):
        mark = self.service.log.mark()
        self.ask()
        return self.serving(mark)


class Itself(Module):
    def __init__(self, folder, start, program, _supervise):
        super().__init__(folder)
        self.service = start(program, *self.options, listen=[], env={"LISTEN_FILE": str(self.file)})

    def ask(self):
        self.service.send(signal.SIGUSR2)

    def let_back(self, since):
        """It has never been closed."""


class Supervised(Module):
    def __init__(self, folder, _start, program, supervise):
        super().__init__(folder)
        self.service = supervise("--drain-timeout", "1h", "--env", f"LISTEN_FILE={self.file}", listen=None,
                                 program=program, arguments=self.options)

    def ask(self):
        assert self.service.ask("upgrade", "--no-wait").code == 0

    def let_back(self, since):
        """Closed by the late one and bound by the supervisor: who connects in that moment is reset."""
        self.service.log.wait_for("rebound", since=since)


@pytest.fixture(params=[Itself, Supervised], ids=["self", "supervised"])
def one(request, folder, start, supervise, compile_c):
    made = request.param(folder, start, compile_c(SERVER, http=True), supervise)
    made.service.expected_exits = {0, None, -signal.SIGKILL}
    return made


@contextlib.contextmanager
def busy_loop(address, fifo):
    """Some loop but the first waits at the fifo meanwhile."""
    os.mkfifo(fifo)
    writing, waiting = None, []
    try:
        while writing is None:
            asking = Connection(address)
            waiting.append(asking)
            asking.send(request("GET", f"/block-loop?fifo={fifo}"))
            while writing is None and not select.select([asking.socket], [], [], 0.01)[0]:
                with contextlib.suppress(OSError):
                    writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        yield lambda: os.write(writing, b"x")
        assert asking.response().body == b"unblocked\n"
    finally:
        for connection in waiting:
            connection.close()
        if writing is not None:
            os.close(writing)


def answers(address):
    """The pid that answers there, None where nobody listens."""
    try:
        return get(address, "/echo").pid
    except OSError as error:
        assert error.errno == errno.ECONNREFUSED
        return None


def test_a_successor_that_dies_before_a_dropped_listener_is_closed_leaves_it_served(one, folder):
    first = one.serving()
    one.listen("a")
    with busy_loop(one.a, folder / "fifo") as let_go:
        second = one.upgrade()
        one.service.log.wait_for("state", pid=first, to="draining")
        mark = one.service.log.mark()
        one.service.process(second).send(signal.SIGKILL)
        one.service.log.wait_for("resumed", since=mark, pid=first)
        # The other loop does not wait for the busy one.
        assert answers(one.a) == first
        let_go()
    one.let_back(mark)
    eventually(lambda: answers(one.b), first)
    assert answers(one.a) == first
    assert not one.service.log.find("unlisten")
    one.listen("a", "b")
    third = one.upgrade()
    eventually(lambda: {answers(one.a), answers(one.b)}, {third})


def test_a_listener_that_is_bound_again_holds_no_answer_back(one):
    """What is set on a listener goes with its socket."""
    first = one.serving()
    one.listen("a")
    with Connection(one.a) as slow:
        # A body that is not whole keeps the first draining.
        slow.send(request("GET", f"/nodelay?port={one.b[1]}") + request("POST", "/echo", body=b"xy")[:-1])
        assert slow.response().body == b"at once\n"
        second = one.upgrade()
        one.service.log.wait_for("unlisten", pid=first, listener="b")
        one.service.process(second).send(signal.SIGKILL)
        eventually(lambda: answers(one.b), first)
        assert get(one.b, f"/nodelay?port={one.b[1]}").body == b"at once\n"
        slow.send(b"y").response()
