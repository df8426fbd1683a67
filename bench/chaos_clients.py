"""The clients of bench/chaos: every shape of load at once, in one thread, and each loss accounted for.

A client never repeats a request. Whatever is not a whole, right answer is a violation, unless it is
excused: by an excuse that was put on this very connection before the process that held its descriptor
was ended, or by the stop of the whole service, which may close what no answer has begun on.
"""

import collections
import heapq
import os
import random
import select
import socket
import threading
import time
import traceback

PATIENCE = 30.0  # seconds for an answer; nothing that chaos does takes a tenth of it
BIG = 300000  # bytes of an answer for a slow reader

# How many clients there are of each shape.
SHAPES = {"new": 3, "kept": 6, "post": 4, "pipelined": 3, "idle": 15, "half": 8, "slow": 3,
          "waiting": 5, "silent": 4}


class Excuse:
    """Why connections may be lost: who held them was ended. pids: of whom."""

    def __init__(self, why, pids=()):
        self.why = why
        self.pids = set(pids)
        self.at = time.monotonic()
        self.lost = 0  # connections that ended with requests due, or an answer begun
        self.closed = 0  # and without


class Life:
    """One service, from its start to its end."""

    def __init__(self, number, address):
        self.number = number
        self.address = address
        self.ending = False  # it was told to stop, or nobody is left who serves for long
        self.unheld = None  # the Excuse since which nobody holds the listener
        self.deaths = 0  # processes of it that were ended
        self.hurt = False  # something of it was ended or stopped, ever
        self.unsettled = False  # something of it was ended since it has last come to rest
        self.rested_at = 0.0  # which was then


class Connection:
    def __init__(self, life, client, number):
        self.life = life
        self.client = client
        self.number = number
        self.sent = 0
        self.answered = 0
        self.due = collections.deque()  # (id, expected body or its length, when it was sent)
        self.data = bytearray()
        self.generation = 0
        self.pid = None
        self.excuse = None
        self.announced = False
        self.connected = False
        self.watched = True
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.setblocking(False)
        self.began = time.monotonic()

    def __repr__(self):
        return (f"connection {self.number} ({self.client.shape}) to service {self.life.number}, "
                f"{self.answered} of {self.sent} answered, last by pid {self.pid} of generation "
                f"{self.generation}, {len(self.data)} bytes of an answer")

    @property
    def port(self):
        return self.socket.getsockname()[1]


class Client:
    """A shape, and the connection that it has at the moment."""

    def __init__(self, clients, shape):
        self.clients = clients
        self.shape = shape
        self.connection = None

    def later(self, low, high, function):
        """Calls it in some ms, if the connection is the same by then."""
        connection = self.connection
        ms = self.clients.random.uniform(low, high)

        def then():
            if self.connection is connection:
                function()

        self.clients.at(time.monotonic() + ms / 1000, then)

    def open(self):
        if self.connection is None:
            self.connection = self.clients.open(self)
        if self.connection is None:
            self.later(10, 30, self.open)

    def reopen(self, low=5, high=30):
        self.connection = None
        self.later(low, high, self.open)

    # What each shape does.

    def connected(self):
        if self.shape == "silent":
            self.later(50, 600, self.ask)
        elif self.shape == "pipelined":
            for _ in range(6):
                self.ask()
        else:
            self.ask()

    def ask(self):
        query, body, expected = "", None, b""
        if self.shape == "slow":
            query, expected = f"&size={BIG}", BIG
        elif self.shape == "waiting":
            query = f"&delay={self.clients.random.randrange(20, 250)}ms"
        elif self.shape == "post":
            expected = body = bytes(self.clients.random.randbytes(500).hex(), "ascii")
        data = self.clients.request(self.connection, query, body, expected)
        if self.shape == "half":
            self.clients.send(self.connection, data[:25])
            self.later(5, 120, lambda: self.clients.send(self.connection, data[25:]))
        else:
            self.clients.send(self.connection, data)

    def answered(self):
        if self.shape in ("new", "silent"):
            self.clients.close(self.connection)
            self.reopen(1, 10)
        elif self.shape == "idle":
            self.later(10, 200, self.ask)
        else:
            self.later(1, 12, self.ask)


class Clients(threading.Thread):
    def __init__(self, seed, shapes=tuple(SHAPES)):
        super().__init__(name="clients", daemon=True)
        self.random = random.Random(f"{seed} clients")
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.life = None
        self.answers = 0  # whole and right
        self.losses = 0  # excused
        self.at_the_end = 0  # closed by a stop, before any answer
        self.announced = 0
        self.violations = []
        self._poll = select.epoll()
        self._by_fd = {}
        self._times = []
        self._serial = 0
        self._finished = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake_fd, select.EPOLLIN)
        self._clients = [Client(self, shape) for shape in shapes for _ in range(SHAPES[shape])]

    # For the thread of chaos.

    def serve(self, life):
        """There is a service to ask."""
        with self.lock:
            self.life = life

    def leave(self, life):
        """There is none any more; what is open is closed."""
        with self.lock:
            self.life = None
            for connection in self._of(life):
                self.close(connection)
                connection.client.reopen()
        os.eventfd_write(self._wake_fd, 1)

    def _of(self, life):
        return [one for one in self._by_fd.values() if one.life is life]

    def excuse(self, life, excuse, ports=None):
        """The connections with these ports of ours (all) may be lost from now on; how many."""
        found = [one for one in self._of(life) if ports is None or one.port in ports]
        for one in found:
            one.excuse = excuse
        return len(found)

    def count(self, life):
        with self.lock:
            return len(self._of(life))

    def wait_answers(self, count, seconds):
        """Until so many more were given, False where that took longer. A violation ends it, too."""
        with self.changed:
            wanted = self.answers + count
            self.changed.wait_for(lambda: self.answers >= wanted or self.violations, seconds)
            return self.answers >= wanted

    def stop(self):
        with self.lock:
            self._finished = True
        os.eventfd_write(self._wake_fd, 1)
        self.join(10)
        for connection in list(self._by_fd.values()):
            connection.socket.close()
        self._poll.close()
        os.close(self._wake_fd)

    # The loop.

    def at(self, moment, function):
        self._serial += 1
        heapq.heappush(self._times, (moment, self._serial, function))

    def run(self):
        try:
            with self.lock:
                for client in self._clients:
                    client.open()
                self._watch_deadlines()
            while not self._finished:
                with self.lock:
                    left = self._times[0][0] - time.monotonic() if self._times else 1
                events = self._poll.poll(max(0.0, left))
                with self.lock:
                    self._step(events)
        except Exception:  # pylint: disable=broad-except
            with self.changed:
                self.violations.append("the clients broke: " + traceback.format_exc())
                self.changed.notify_all()

    def _step(self, events):
        for fd, what in events:
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif fd in self._by_fd:
                self._ready(self._by_fd[fd], what)
        now = time.monotonic()
        while self._times and self._times[0][0] <= now:
            heapq.heappop(self._times)[2]()
        self.changed.notify_all()

    def _watch_deadlines(self):
        now = time.monotonic()
        for one in list(self._by_fd.values()):
            since = one.due[0][2] if one.due else one.began
            if (one.due or not one.connected) and now - since > PATIENCE:
                self._violation(one, f"waited {PATIENCE:g} s")
        self.at(now + 0.5, self._watch_deadlines)

    # Connections.

    def open(self, client):
        if self.life is None:
            return None
        self._serial += 1
        one = Connection(self.life, client, self._serial)
        if client.shape == "slow":
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        try:
            one.socket.connect(one.life.address)
        except BlockingIOError:
            pass
        except OSError as error:
            return self._not_connected(one, error)
        if one.life.unheld:
            one.excuse = one.life.unheld
        self._by_fd[one.socket.fileno()] = one
        self._poll.register(one.socket, select.EPOLLOUT)
        return one

    def _not_connected(self, one, error):
        """Nobody listens, or the queue that it waited in was closed."""
        known = one.socket.fileno() in self._by_fd
        excused = one.excuse or one.life.unheld or one.life.ending or self.life is not one.life
        if not excused:
            self._violation(one, f"could not connect: {error}")
        elif known:
            self.close(one)
            one.client.reopen(20, 60)
        else:
            one.socket.close()

    def close(self, one):
        if self._by_fd.pop(one.socket.fileno(), None) is None:
            return
        if one.watched:
            self._poll.unregister(one.socket)
        one.socket.close()

    def request(self, one, query, body, expected):
        """The bytes of the next request; its answer is due from now on."""
        one.sent += 1
        name = f"{one.number}.{one.sent}"
        method = "GET" if body is None else "POST"
        head = f"{method} /ask?id={name}{query} HTTP/1.1\r\nHost: chaos\r\n"
        if body is not None:
            head += f"Content-Length: {len(body)}\r\n"
        one.due.append((name, expected, time.monotonic()))
        return head.encode() + b"\r\n" + (body or b"")

    def send(self, one, data):
        if one.socket.fileno() < 0:
            return
        try:
            if one.socket.send(data) != len(data):
                self._violation(one, "did not take a request as a whole")
        except OSError:
            pass  # It is read to its end, what came before the end first.

    def _ready(self, one, what):
        if one.connected:
            self._readable(one)
            return
        error = one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._not_connected(one, os.strerror(error))
            return
        one.connected = True
        if one.client.shape == "slow":
            # An end that comes early would wake us again and again.
            self._poll.unregister(one.socket)
            one.watched = False
            one.client.later(1, 5, lambda: self._read_slowly(one))
        else:
            self._poll.modify(one.socket, select.EPOLLIN)
        one.client.connected()
        if what & select.EPOLLHUP and one.socket.fileno() >= 0 and one.watched:
            self._readable(one)

    def _read_slowly(self, one):
        self._readable(one, 8192)
        if one.client.connection is one:
            one.client.later(1, 5, lambda: self._read_slowly(one))

    def _readable(self, one, most=65536):
        try:
            data = one.socket.recv(most)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(one, str(error))
            return
        if not data:
            self._lost(one, "closed")
            return
        one.data += data
        while one.client.connection is one and one.data and self._take(one):
            pass

    def _take(self, one):
        """One answer out of what has come; False where it is not whole."""
        end = one.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = one.data[:end].decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", -1))
        if lines[0] != "HTTP/1.1 200 OK" or length < 0 or not one.due:
            self._violation(one, f"answered {lines}")
            return False
        if len(one.data) < end + 4 + length:
            return False
        body = bytes(one.data[end + 4 : end + 4 + length])
        del one.data[: end + 4 + length]
        self._judge(one, fields, body)
        return True

    def _judge(self, one, fields, body):
        name, expected, sent_at = one.due.popleft()
        begin, _, rest = body.partition(b"\n")
        right = len(rest) == expected if isinstance(expected, int) else rest == expected
        if begin.decode() != name or not right:
            self._violation(one, f"the answer to {name} is {body[:80]!r}, {len(body)} bytes")
            return
        generation, pid = int(fields["segue-generation"]), int(fields["segue-pid"])
        if generation < one.generation and not one.life.deaths:
            self._violation(one, f"went back from generation {one.generation} to {generation}")
            return
        if one.excuse and sent_at > one.excuse.at and pid not in one.excuse.pids:
            one.excuse = None  # Somebody else has it, who lives.
        one.generation, one.pid = generation, pid
        one.answered += 1
        self.answers += 1
        if fields.get("connection") == "close":
            one.announced = True
            self.announced += 1
            # Whose receiver has died cannot move, and may hear so with what was asked by then.
            if not (one.life.ending or one.life.unsettled or sent_at < one.life.rested_at):
                self._violation(one, "was told that it closes, and nobody had died")
                return
            self._gone(one)
            return
        one.client.answered()

    def _lost(self, one, what):
        if one.excuse:
            # A life that is over has no more connections.
            one.excuse.lost += bool(one.due or one.data)
            one.excuse.closed += not (one.due or one.data)
            self.losses += bool(one.due or one.data)
        elif one.life.ending and not one.data:
            self.at_the_end += 1
        else:
            self._violation(one, what)
            return
        self._gone(one)

    def _gone(self, one):
        self.close(one)
        one.client.reopen()

    def _violation(self, one, what):
        self.violations.append(f"{one}: {what}")
        self.close(one)
        one.client.reopen()
