"""The actor as a service, and clients that notice an answer that is lost or given twice."""

import collections
import os
import re
import select
import signal
import socket

import pytest

from harness import processes
from harness.deadline import Expired, until
from matrix.load import Load

PROGRAM = "tests/matrix/actor"


class Closed(AssertionError):
    """The server closed the connection."""


class Wrong(AssertionError):
    """An answer that does not belong to the request: given twice, or another's."""


class Answer:
    def __init__(self, line):
        self.id, generation, pid, count, self.text = line.split(" ", 4)
        self.generation, self.pid, self.count = int(generation), int(pid), int(count)

    def __repr__(self):
        return f"<{self.id} by {self.generation}, pid {self.pid}, no. {self.count}: {self.text[:60]}>"


class Client:
    """One connection. Every request has an id of its own, and the server counts the answers of a
    connection, also from generation to generation."""

    def __init__(self, address, name=None, deadline=None):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.deadline = until(deadline)
        self.buffer = b""
        self.sent = 0
        self.answered = 0
        self.name = name
        try:
            self.socket.settimeout(self.deadline.left() or 0.001)
            self.socket.connect(address)
            if name is not None:
                self.ask(f"name {name}")
        except BaseException:
            self.socket.close()
            raise

    def __repr__(self):
        return f"<client {self.name}>"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def again(self, deadline=None):
        self.deadline = until(deadline)
        return self

    def raw(self, data):
        self.socket.settimeout(self.deadline.left() or 0.001)
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(f"{self} was closed before it could send") from error
        return self

    def send(self, what):
        self.sent += 1
        return self.raw(f"{self.sent} {what}\n".encode())

    def read(self):
        """The next answer, which has to be the one to the next request that has none."""
        while b"\n" not in self.buffer:
            self.socket.settimeout(self.deadline.left() or 0.001)
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            except TimeoutError as error:
                raise Expired(
                    f"{self} waited {self.deadline.seconds:g} s for answer {self.answered + 1}"
                ) from error
            if not data:
                raise Closed(f"{self} was closed with {self.sent - self.answered} answers due")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer = Answer(line.decode())
        self.answered += 1
        if answer.id != str(self.answered) or answer.count != self.answered:
            raise Wrong(f"{self}: {answer} is not the answer no. {self.answered}")
        if self.answered > self.sent:
            raise Wrong(f"{self}: {answer} was not asked for")
        return answer

    def ask(self, what="ping"):
        self.send(what)
        return self.read()

    def silent(self):
        """Nothing more has come, neither an answer nor the end."""
        self.socket.setblocking(False)
        try:
            data = self.socket.recv(1)
        except BlockingIOError:
            return not self.buffer
        if not data:
            raise Closed(f"{self} was closed while idle")
        return False


class Hold:
    """Keeps a process of the service at one point until release()."""

    def __init__(self, actor, generation, key):
        self.actor = actor
        self.generation = generation
        self.key = key
        self.path = actor.folder / f"{key}-{generation if generation != '*' else 'all'}-{actor.next()}"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._mark = actor.log.mark() if actor.service else 0
        actor.order(generation, key, self.path)

    def wait(self, deadline=None):
        """The event of a process that is held now."""
        return self.actor.log.wait_for("held", since=self._mark, at=self.key, deadline=deadline)

    def release(self):
        """Lets go who is held, and keeps nobody from now on."""
        if self._fd >= 0:
            self.actor.order(self.generation, self.key, "-")
            os.write(self._fd, b"go on, all of you")

    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Actor:
    """A Service of the actor, with its orders and clients."""

    def __init__(self, start, folder, name="actor"):
        self._start = start
        self.folder = folder
        self.orders = folder / f"{name}.orders"
        self.orders.write_text("")
        self.service = None
        self.clients = []
        self.holds = []
        self._count = 0

    def next(self):
        self._count += 1
        return self._count

    def order(self, generation, key, value):
        with open(self.orders, "a", encoding="ascii") as file:
            file.write(f"{generation} {key} {value}\n")
        return self

    def hold(self, generation, key):
        self.holds.append(Hold(self, generation, key))
        return self.holds[-1]

    def start(self, listen=None, **options):
        """Starts generation 1 at a unix path, which a successor can bind where it has to."""
        listen = listen or f"unix://{self.folder}/a.sock"
        self.service = self._start(PROGRAM, "--orders", self.orders, listen=[listen], **options)
        self.address = self.service.address
        return self

    @property
    def log(self):
        return self.service.log

    @property
    def first(self):
        return self.service.first

    def connect(self, name=None, deadline=None):
        client = Client(self.address, name, deadline)
        self.clients.append(client)
        return client

    def load(self):
        """Other load, of named clients."""

        def ask(client):
            client.again().ask()
            return True

        def fresh():
            with Client(self.address) as client:
                client.ask()

        return Load([self.connect(f"load{at}") for at in range(6)], ask, fresh, Closed)

    def upgrade(self):
        """Asks for an upgrade and waits for nothing."""
        self.service.send(signal.SIGUSR2)

    def process(self, event):
        return self.service.process(event["pid"])

    def wait_state(self, state, generation, since=0, deadline=None):
        return self.log.wait_for("state", since=since, to=state, generation=generation, deadline=deadline)

    def successor(self, deadline=None, since=0):
        """The Process of the successor that has just been started."""
        event = self.log.wait_for("started", since=since, deadline=deadline)
        return self.service.process(event["child"])

    def read_log(self):
        """All that was told until now has been read: the generations share one pipe."""
        text = f"mark-{self.next()}"
        with Client(self.address) as client:
            client.ask(f"say {text}")
        self.log.wait_for("said", text=text)

    def close(self):
        for client in self.clients:
            client.close()
        for hold in self.holds:
            hold.release()
            hold.close()


@pytest.fixture
def actor(start, folder):
    """An Actor that is not started yet: give orders first."""
    one = Actor(start, folder)
    yield one
    one.close()


@pytest.fixture
def actors(start, folder):
    """actors(name): more than one of them."""
    made = []

    def make(name):
        made.append(Actor(start, folder, name))
        return made[-1]

    yield make
    for one in made:
        one.close()


def kinds(pid):
    """What a process has open, without the numbers that differ from one to the next."""
    targets = processes.descriptors(pid).values()
    return collections.Counter(re.sub(r"[0-9]+", "N", target) for target in targets)


def wait_until(condition, what, pace, deadline=None):
    """Until condition() is true. pace() is something that takes a moment of the service's time, as
    a question that it answers does."""
    deadline = until(deadline)
    while not condition():
        deadline.check(what() if callable(what) else what)
        pace()


def pause(process, seconds):
    """Waits for a moment that is meant to be random; False where the process ended meanwhile."""
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    return not poll.poll(seconds * 1000)
