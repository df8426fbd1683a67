"""control_host and `segue` as a test holds them: what is told, what is asked, what is seen."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios

from harness.deadline import Expired, readable, until
from harness.processes import Process


class Lines:
    """Lines out of a descriptor, with a deadline."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = b""

    def next(self, deadline=None):
        """The next line without its newline, None at the end."""
        deadline = until(deadline)
        while b"\n" not in self.buffer:
            readable(self.fd, deadline, f"a line after {self.buffer[-200:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except (ConnectionResetError, OSError):
                data = b""
            if not data:
                assert not self.buffer, f"half a line: {self.buffer!r}"
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()


class Host:
    """A control socket whose answers the test gives."""

    def __init__(self, program, path, log, **options):
        self.path = str(path)
        self.log = open(log, "ab")
        self.process = subprocess.Popen(
            [program, self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            **options,
        )
        self.pid = self.process.pid
        self.handle = Process(self.pid)
        self.lines = Lines(self.process.stdout.fileno())
        self.first = json.loads(self.lines.next() or "null")

    def told(self, deadline=None):
        """What it tells next: {"call":...} or {"gone":...}."""
        line = self.lines.next(deadline)
        assert line is not None, "the host has ended"
        return json.loads(line)

    def call(self, verb, deadline=None):
        """Awaits this call; the number of its client."""
        said = self.told(deadline)
        assert said.get("call") == verb, said
        return said["client"]

    def do(self, **order):
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def event(self, client, event, **more):
        more = {"generation": 8, "predecessor": 7, "ms": 0, **more}
        self.do(do="event", client=client, event={"event": event, **more})

    def end(self, client, code=0, message="it is done", **more):
        self.do(do="end", client=client, exit=code, message=message, more=more)

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(self.path)
        return client

    def say(self, data):
        client = self.connect()
        try:
            client.sendall(data)
        except BrokenPipeError:
            pass  # It has said enough already; the answer is what counts.
        return client

    def answers(self):
        """Does a client still get what it asks for?"""
        with self.say(b'{"verb":"status"}\n') as client:
            number = self.call("status")
            self.end(number, message="alive")
            return json.loads(everything(client))["message"] == "alive"

    def close(self):
        """As a supervisor that ends."""
        self.do(do="close")

    def kill(self):
        self.handle.send(signal.SIGKILL)
        self.process.wait(30)

    def finish(self):
        wrong = []
        self.handle.send(signal.SIGCONT)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            code = self.process.wait(30)
            wrong = [] if code in (0, -signal.SIGKILL, *self.expected) else [f"host: exit {code}"]
        except subprocess.TimeoutExpired:
            wrong = ["the host does not end"]
        self.process.stdout.close()
        self.handle.close()
        self.log.close()
        return wrong

    expected = ()


def everything(client, deadline=30):
    """What a socket says until its end."""
    deadline = until(deadline)
    data = b""
    while True:
        readable(client.fileno(), deadline, f"the end after {data[-200:]!r}")
        try:
            more = client.recv(65536)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more


def end_of(client):
    """The last line that a socket says, read as JSON."""
    return json.loads(everything(client).splitlines()[-1])


class Command:
    """A running `segue`; its standard output a pipe, or a terminal of so many columns."""

    def __init__(self, program, arguments, folder, *, columns=None, env=(), **options):
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8",
                       "SEGUE_RUNTIME_DIR": str(folder), **dict(env)}
        environment.pop("NO_COLOR", None)
        environment.update(env)
        self.master = None
        self.said = b""
        output = subprocess.PIPE
        if columns:
            self.master, output = pty.openpty()
            self.resize(columns)
        self.process = subprocess.Popen(
            [program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.PIPE, env=environment, **options,
        )
        if columns:
            os.close(output)
        self.output = self.master if columns else self.process.stdout.fileno()
        self.errors = Lines(self.process.stderr.fileno())
        self.result = None

    def resize(self, columns):
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def send(self, number):
        self.process.send_signal(number)

    def _read(self):
        try:
            data = os.read(self.output, 65536)
        except OSError:  # a terminal nobody holds any more
            return False
        self.said += data
        return bool(data)

    def until(self, text, deadline=None):
        """Blocks until standard output holds the text."""
        deadline = until(deadline)
        while text.encode() not in self.said:
            readable(self.output, deadline, f"{text!r} after {self.said[-300:]!r}")
            if not self._read():
                raise Expired(f"{text!r} did not come before the end: {self.said!r}")
        return self

    def wait(self, deadline=None):
        """(exit code, standard output, standard error); the output of a terminal is raw."""
        deadline = until(deadline)
        while True:
            readable(self.output, deadline, f"the end of segue after {self.said[-300:]!r}")
            if not self._read():
                break
        errors = b""
        while True:
            readable(self.errors.fd, deadline, "the end of standard error")
            data = os.read(self.errors.fd, 65536)
            if not data:
                break
            errors += data
        errors = self.errors.buffer + errors
        code = self.process.wait(deadline.left() + 1)
        return code, self.said.decode(), errors.decode()

    def finish(self):
        wrong = []
        if self.process.poll() is None:
            wrong = [f"segue still runs: {self.said[-300:]!r}"]
            self.process.kill()
            self.process.wait(30)
        if self.master is not None:
            os.close(self.master)
        else:
            self.process.stdout.close()
        self.process.stderr.close()
        return wrong


class Screen:
    """What a terminal shows after all that: as much of one as `segue` uses. The colours that were
    asked for are kept apart."""

    def __init__(self, columns):
        self.columns = columns
        self.rows = [""]
        self.column = 0
        self.colours = set()

    def feed(self, text):
        for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\x1b.|[^\x1b]", text, re.S):
            self._take(part)
        return self

    def _take(self, part):
        if part == "\x1b[K":
            self.rows[-1] = self.rows[-1][: self.column]
        elif re.fullmatch(r"\x1b\[[0-9;]*m", part):
            self.colours.add(part)
        elif part == "\r":
            self.column = 0
        elif part == "\n":
            self.rows.append("")
        elif part < " " or part.startswith("\x1b"):
            raise AssertionError(f"the terminal was sent {part!r}")
        else:
            if self.column == self.columns:
                self.rows.append("")
                self.column = 0
            row = self.rows[-1].ljust(self.column)
            self.rows[-1] = row[: self.column] + part + row[self.column + 1 :]
            self.column += 1

    @property
    def shown(self):
        """The lines that stand there, without blanks at their ends and without empty last ones."""
        lines = [row.rstrip() for row in self.rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines
