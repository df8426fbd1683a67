"""Waits end: one absolute point in time for a whole operation, whatever it is made of."""

import select
import time

DEFAULT = 30.0  # seconds; generous, since a sanitized build on a busy machine is slow


class Expired(AssertionError):
    """A deadline has passed. An AssertionError: the test fails, nothing is broken."""


class Deadline:
    def __init__(self, seconds=DEFAULT):
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def left(self):
        """Seconds until the deadline, 0 when it has passed."""
        return max(0.0, self.at - time.monotonic())

    def check(self, what):
        if self.left() == 0:
            raise Expired(f"waited {self.seconds:g} s for {what}")


def until(deadline):
    """A Deadline from a Deadline, a number of seconds or None (the default)."""
    if isinstance(deadline, Deadline):
        return deadline
    return Deadline(DEFAULT if deadline is None else deadline)


def readable(fd, deadline, what):
    """Blocks until fd is readable (or at its end); Expired when the deadline passes first."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not poll.poll(deadline.left() * 1000 + 1):
        deadline.check(what)
