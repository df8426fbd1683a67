"""What the tests of upgrades under load share: the load, an upgrade as the log tells it, and many
connections that are held by one thread.
"""

import select
import signal
import socket
import time

from functional import HOLD, eventually
from harness.deadline import until
from harness.http import Connection, get, request

SHAPES = ("--new", 2, "--keepalive", 8, "--post", 8, "--pipeline", "4:8", "--idle", "20:50ms",
          "--half", "10:100ms", "--slow", "2:4096")
# Without an end of its own: the test stops it.
COUNTED = ("--count-header", "Segue-Generation", "--expect", "hello, world\n", "--duration", "1h")
WITNESSES = 16
SHARE = 100  # requests of the load that each generation has to answer


def ask(service, deadline=None):
    """Sends the upgrade signal, waits until the upgrade has ended well and the successor takes an
    upgrade itself; its 'upgrade-ended'. The predecessor may drain on."""
    service.reap()
    mark = service.log.mark()
    service.send(signal.SIGUSR2)
    ended = service.log.wait_for("upgrade-ended", since=mark, deadline=deadline)
    assert ended["outcome"] == "upgraded", ended
    service.log.wait_for("state", since=mark, generation=ended["successor"], to="serving",
                         deadline=deadline)
    return ended


def gone(service, generation, deadline=None, since=0):
    """Waits until a generation has gone, nothing having been cut; its 'drained'."""
    service.log.wait_for("gone", generation=generation, exit=0, deadline=deadline, since=since)
    drained = service.log.find("drained", generation=generation, since=since)
    assert len(drained) == 1, drained
    assert drained[0]["cut_requests"] == drained[0]["cut_idle"] == 0, drained
    return drained[0]


def upgrade(service, deadline=None):
    """One upgrade, whole: the successor serves, the predecessor has gone. The successor's number."""
    mark = service.log.mark()
    ended = ask(service, deadline)
    gone(service, ended["generation"], deadline, since=mark)
    assert ended["successor"] == ended["generation"] + 1
    return ended["successor"]


def upgraded(service):
    """How many upgrades the log tells of; each has to have ended well."""
    ended = service.log.find("upgrade-ended")
    assert all(event["outcome"] == "upgraded" for event in ended)
    return len(ended)


def nothing_cut(service):
    """No generation that has gone cut anything."""
    drained = service.log.find("drained")
    assert not [event for event in drained if event["cut_requests"] or event["cut_idle"]]


def nothing_lost(running, generation):
    """Ends the load: nothing was lost, nothing closed, nobody went back to an older generation; the
    answers of each generation."""
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert result["ok"] == result["requests"] and result["not_started"] == 0, result
    assert result["header"]["connections_backwards"] == 0, result["header"]
    assert result["header"]["missing"] == 0
    answered = {int(value): number for value, number in result.answers.items()}
    assert set(answered) <= set(range(1, generation + 1)) and generation in answered
    for shape, of_shape in result["shapes"].items():
        assert of_shape["requests"] >= 2 * of_shape["connections"], f"{shape}: hardly any load"
    return answered


def unread(port):
    """The server's ends of connections in whose queues something waits for the server to read it, those
    that it has not accepted yet among them."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return [row[2] for row in rows
            if row[1] == f"0100007F:{port:04X}" and not row[4].endswith(":00000000")]


def begun(service):
    """Blocks until the server has read what was sent before, on whichever of its loops."""
    _, port = service.address
    eventually(lambda: unread(port), [])


# A request whose last byte is to come: it is in flight for as long as a test likes. And a moment more,
# in its handler.
HELD = request("POST", target="/hello?delay=100ms", body=b"hello")


def follows(connection, generation=2):
    """An idle connection goes to the next generation. What it asks before its loop has heard of the drain
    is answered there still; afterwards every connection of that loop has heard of it."""
    eventually(lambda: connection.get().generation, generation)


class Crowd:
    """Many connections, each with at most one answer due: all ask at once, and each answer is
    awaited by one epoll. An end of file, a reset and bytes that nobody asked for are errors."""

    def __init__(self, address, count):
        self.address = address
        self.sockets = {}
        self.buffers = {}
        self._poll = select.epoll()
        try:
            self.more(count)
        except BaseException:
            self.close()
            raise

    def more(self, count):
        """Opens so many connections more; their sockets."""
        added = []
        for _ in range(count):
            family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
            one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self.sockets[one.fileno()] = one
            one.settimeout(30)
            one.connect(self.address)
            one.setblocking(False)
            self._poll.register(one, select.EPOLLIN)
            added.append(one)
        return added

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._poll.close()
        for one in self.sockets.values():
            one.close()

    def __len__(self):
        return len(self.sockets)

    def all(self):
        return list(self.sockets.values())

    def send(self, data, whom=None):
        for one in self.all() if whom is None else whom:
            assert one.send(data) == len(data)

    def silent(self):
        """Nothing has come on any of them, not even its end."""
        return not self._poll.poll(0)

    def answers(self, count=None, deadline=None, then_ends=False):
        """Waits until so many connections (all) have one whole answer each; {socket: (head, body)}.
        Heads are decoded, bodies bytes. then_ends: the server closes each after its answer."""
        deadline = until(deadline)
        wanted = len(self) if count is None else count
        found, parts = {}, {}
        while len(found) < wanted:
            ready = self._poll.poll(deadline.left())
            if not ready:
                deadline.check(f"{wanted - len(found)} of {wanted} answers")
            for descriptor, _ in ready:
                one = self.sockets[descriptor]
                data = one.recv(65536)
                if then_ends and one in found and not data:
                    self._poll.unregister(one)
                    continue
                assert data, f"closed after {len(found)} answers: {parts.get(one, b'')!r}"
                assert one not in found, f"unasked: {data[:200]!r}"
                parts[one] = parts.get(one, b"") + data
                if answer := whole(parts[one]):
                    found[one] = answer
        return found


def whole(data):
    """(head, body) where these bytes are exactly one answer with a length, else None."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    head = head.decode("latin-1")
    length = int(field(head, "Content-Length"))
    assert len(body) <= length, f"more than one answer: {data[:400]!r}"
    return (head, body) if len(body) == length else None


def field(head, name):
    """The value of the only header of this name in the text of a head."""
    found = [line for line in head.split("\r\n")[1:] if line.lower().startswith(f"{name.lower()}:")]
    assert len(found) == 1, f"{len(found)} times {name} in {head!r}"
    return found[0].partition(":")[2].strip()


def generations(answers):
    """{generation: number of answers}; each has to be hello's 200."""
    counts = {}
    for head, body in answers.values():
        assert head.startswith("HTTP/1.1 200 ") and body == b"hello, world\n", (head, body)
        number = int(field(head, "Segue-Generation"))
        counts[number] = counts.get(number, 0) + 1
    return counts


class Held:
    """Requests that are not whole until later: however fast upgrades are, each generation has one to
    finish for some more of them."""

    MOST = 3

    def __init__(self, address):
        self.address = address
        self.held = []

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        while self.held:
            if error is None:
                self._finish()
            else:
                self.held.pop().close()

    def one_more(self):
        """By whoever accepts; the oldest of more than three is finished."""
        one = Connection(self.address)
        self.held.append(one)
        # One segment: the answer to its first request says that all of it has been read.
        one.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        if len(self.held) > self.MOST:
            self._finish()

    def _finish(self):
        with self.held.pop(0) as one:
            assert one.send(b"y").response().status == 200


class Witnesses:
    """Kept connections on which the exact claim is checked: asked once after each upgrade."""

    def __init__(self, service):
        self.address = service.address
        self.kept = [Connection(self.address) for _ in range(WITNESSES)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.kept:
            one.close()

    def agree_on(self, generation):
        """The first request of each since the predecessor has gone, and that of a new connection."""
        answers = [one.again().get() for one in self.kept] + [get(self.address)]
        assert [answer.generation for answer in answers] == [generation] * len(answers)


def meet_load(running):
    """Blocks until the load has had its share of answers from the generation that serves now. What
    the load counted before, and the log has not read yet, does not count."""
    mark, now = running.log.mark(), time.monotonic() * 1000
    first = running.log.wait_for(
        "progress", since=mark, where=lambda event: event["monotonic_ms"] + event["at_ms"] >= now
    )
    running.log.wait_for(
        "progress", since=mark, where=lambda event: event["ok"] >= first["ok"] + SHARE
    )
