"""A program's log: each line kept, each JSON line an event that can be waited for.

A thread drains the pipe into a list and a file, so that the program never blocks on its log, and
wakes whoever waits. Whoever asks drains it too: what was written before the question is found. The
pipe's end is the proof that no process holds its writing end any more.
"""

import json
import os
import re
import select
import threading

from harness.deadline import Expired, until


class Event(dict):
    """A line of a JSON log. event.name is what happened; fields by key."""

    @property
    def name(self):
        return self.get("event", "")

    def matches(self, name, fields):
        if name is not None and self.name != name:
            return False
        return all(key in self and self[key] == value for key, value in fields.items())


class Log:
    def __init__(self, path):
        self.path = path
        self._lines = []
        self.events = []
        self.ended = False
        self._changed = threading.Condition()
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading, False)
        self._writing = writing
        self._begun = b""  # A line whose end has not been written yet.
        self._copy = open(path, "ab", buffering=0)
        self._thread = threading.Thread(target=self._read, name=f"log {path}", daemon=True)
        self._thread.start()

    @property
    def descriptor(self):
        """The end that the program writes to; hand it over, then started()."""
        return self._writing

    def started(self):
        """The program has its copy: from now on the log ends with the program."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def _read(self):
        readable = select.poll()
        readable.register(self._reading, select.POLLIN)
        while not self.ended:
            readable.poll()
            with self._changed:
                self._drain()
        self._copy.close()
        os.close(self._reading)

    def _drain(self):
        """Takes all that is in the pipe. The caller holds the lock."""
        while not self.ended:
            try:
                read = os.read(self._reading, 1 << 16)
            except BlockingIOError:
                return
            *lines, self._begun = (self._begun + read).split(b"\n")
            if not read:
                self.ended = True
                lines, self._begun = [self._begun] if self._begun else [], b""
            for line in lines:
                self._take(line)
            self._changed.notify_all()

    def _take(self, line):
        self._copy.write(line + b"\n")
        line = line.decode(errors="replace")
        self._lines.append(line)
        if line.startswith("{"):
            try:
                self.events.append(Event(json.loads(line)))
            except ValueError:
                pass  # A line that is not JSON is kept as a line.

    @property
    def lines(self):
        """The lines so far."""
        with self._changed:
            self._drain()
            return self._lines[:]

    def mark(self):
        """A point in the log, for since=."""
        with self._changed:
            self._drain()
            return len(self.events)

    def find(self, name=None, since=0, **fields):
        """The events so far that match."""
        with self._changed:
            self._drain()
            events = self.events[since:]
        return [event for event in events if event.matches(name, fields)]

    def wait_for(self, name=None, since=0, deadline=None, where=None, **fields):
        """The first event with this name and these fields (and where(event)), soon if not yet."""
        deadline = until(deadline)
        at = since
        with self._changed:
            while True:
                while at < len(self.events):
                    event = self.events[at]
                    at += 1
                    if event.matches(name, fields) and (where is None or where(event)):
                        return event
                if self.ended:
                    raise Expired(f"the log ended without {self._wanted(name, fields)}")
                if not self._changed.wait(deadline.left()) and deadline.left() == 0:
                    raise Expired(
                        f"waited {deadline.seconds:g} s for {self._wanted(name, fields)}; the log:\n"
                        + "\n".join(self._lines[-20:])
                    )

    def mark_line(self):
        """A point in the log, for since= of wait_for_line()."""
        with self._changed:
            self._drain()
            return len(self._lines)

    def wait_for_line(self, pattern, deadline=None, since=0):
        """The first line in which a regular expression is found."""
        deadline = until(deadline)
        with self._changed:
            while True:
                for line in self._lines[since:]:
                    if re.search(pattern, line):
                        return line
                if self.ended or deadline.left() == 0:
                    raise Expired(f"no line with '{pattern}' in the log:\n" + "\n".join(self._lines))
                self._changed.wait(deadline.left())

    def wait_end(self, deadline=None):
        """Blocks until no process holds the log open."""
        deadline = until(deadline)
        self._thread.join(deadline.left())
        if self._thread.is_alive():
            raise Expired(f"waited {deadline.seconds:g} s for the end of {self.path}")

    @staticmethod
    def _wanted(name, fields):
        pairs = "".join(f" {key}={value!r}" for key, value in fields.items())
        return f"event {name or 'of any name'}{pairs}"

    def text(self):
        with self._changed:
            return "\n".join(self._lines)
