"""The page by which a test tells the processes of a service which call is to fail, and reads which
calls they made; shim.c has the same layout and says how it works. And a client that counts.
"""

import collections
import ctypes
import mmap
import os
import select
import subprocess
import threading

from harness.deadline import until
from harness.http import Connection

FAULTS = ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EAGAIN", "EINTR", "EPIPE", "ENOBUFS",
          "ECONNABORTED", "EADDRINUSE", "ETOOMANYREFS", "ENOLCK", "ECONNRESET", "short", "truncated")
ROLES = ("successor", "predecessor", "supervisor", "bystander")
MODULES = ("program", "libc", "libjansson", "libsegue", "libsegue-http")
PIDS_MAX, FRAMES_MAX, CALLS_MAX = 16, 12, 60000


class Call(ctypes.Structure):
    _fields_ = [("site", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("pid", ctypes.c_uint32),
                ("role", ctypes.c_uint8), ("module", ctypes.c_uint8), ("name", ctypes.c_char * 18)]


class Layout(ctypes.Structure):
    _fields_ = [
        ("armed", ctypes.c_uint32), ("calls_len", ctypes.c_uint32),
        ("pids", ctypes.c_uint32 * PIDS_MAX), ("roles", ctypes.c_uint32 * PIDS_MAX),
        ("fault", ctypes.c_int32), ("role", ctypes.c_uint32), ("module", ctypes.c_uint32),
        ("site", ctypes.c_uint32), ("nth", ctypes.c_uint32),
        ("met", ctypes.c_uint32), ("fired", ctypes.c_uint32), ("fired_pid", ctypes.c_uint32),
        ("fired_port", ctypes.c_uint32), ("frames_len", ctypes.c_uint32),
        ("frames", ctypes.c_uint32 * FRAMES_MAX), ("frame_modules", ctypes.c_uint32 * FRAMES_MAX),
        ("fired_name", ctypes.c_char * 20), ("calls", Call * CALLS_MAX)]


class Case(collections.namedtuple("Case", "role name module site nth fault")):
    """The nth call from a place, by a process of a role, and how it fails."""

    def __str__(self):
        return f"{self.role} {self.name}@{MODULES[self.module]}+{self.site:#x} no. {self.nth}: {self.fault}"


class Page:
    def __init__(self, path):
        self.path = path
        with open(path, "w+b") as file:
            file.truncate(ctypes.sizeof(Layout))
            self._memory = mmap.mmap(file.fileno(), ctypes.sizeof(Layout))
        self._page = Layout.from_buffer(self._memory)

    def close(self):
        del self._page
        self._memory.close()

    def arm(self, roles, case=None):
        """roles: {pid: role}; every other process that has the page is a successor."""
        page = self._page
        page.armed = 0
        for at, (pid, role) in enumerate([*roles.items(), *[(0, "bystander")] * PIDS_MAX][:PIDS_MAX]):
            page.pids[at] = pid
            page.roles[at] = ROLES.index(role)
        page.calls_len = page.met = page.fired = page.fired_port = page.frames_len = 0
        page.fault = -1
        if case is not None:
            page.role, page.module = ROLES.index(case.role), case.module
            page.site, page.nth = case.site, case.nth
            page.fault = FAULTS.index(case.fault)
        page.armed = 1

    def disarm(self):
        self._page.armed = 0

    @property
    def fired(self):
        return bool(self._page.fired)

    @property
    def port(self):
        """Of the client whose connection the failing thread was at work for, or 0."""
        return self._page.fired_port

    def frames(self):
        page = self._page
        return [(page.frame_modules[at], page.frames[at]) for at in range(page.frames_len)]

    def cases(self):
        """Every way in which a call could have failed, in the order of the calls."""
        page, seen, found = self._page, collections.Counter(), []
        assert page.calls_len <= CALLS_MAX
        for call in page.calls[: page.calls_len]:
            place = (call.role, call.module, call.site)
            nth = seen[place]
            seen[place] += 1
            for bit, fault in enumerate(FAULTS):
                if call.faults & 1 << bit:
                    found.append(Case(ROLES[call.role], call.name.decode(), call.module, call.site,
                                      nth, fault))
        return found


def place(modules, module, address):
    """'function (file:line)' of an address in a module that is known, or None."""
    path = modules.get(MODULES[module])
    if path is None:
        return None
    done = subprocess.run(["addr2line", "-f", "-s", "-e", str(path), hex(address - 1)],
                          capture_output=True, text=True, check=False)
    name, line = done.stdout.split("\n")[:2]
    return f"{name} ({line.split(' ')[0]})"


def places(modules, frames):
    """Where a call came from, the innermost place first."""
    found = [place(modules, module, address) for module, address in frames]
    return " <- ".join(one for one in found if one is not None)


class Counter:
    """A client of its own thread: asks again and again on one connection, and on a fresh one each
    time. Nothing is tried twice: what was not answered is noted with the port that it was asked from."""

    def __init__(self, address):
        self.address = address
        self.lost = []  # (port, kept or fresh, what happened)
        self.answered = 0
        self._kept = None
        self._change = threading.Condition()
        self._rest = True
        self._resting = False
        self._stop, self._stopping = os.pipe2(os.O_CLOEXEC)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="counter", daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ended:
            # Whoever looks at descriptors meanwhile expects that connection.
            if self._rest and self._kept is None and self.answered:
                self._ask("kept")
            with self._change:
                self._resting = self._rest
                self._change.notify_all()
                while self._rest and not self._ended:
                    self._change.wait()
                self._resting = False
            if not self._ended:
                self._ask("kept")
                self._ask("fresh")
                select.select([self._stop], [], [], 0.002)

    def _ask(self, kind):
        connection = self._kept if kind == "kept" else None
        port = 0
        try:
            if connection is None:
                connection = Connection(self.address, deadline=15)
            port = connection.socket.getsockname()[1]
            response = connection.again(15).get()
            assert response.status == 200 and response.body == b"hello\n", response
            leaves = response.header("Connection") == "close"
            self.answered += 1
        except (AssertionError, OSError) as error:
            self.lost.append((port, kind, repr(error)))
            leaves = True
        if kind == "kept":
            self._kept = None if leaves else connection
        if connection is not None and (leaves or kind == "fresh"):
            connection.close()

    def go(self):
        with self._change:
            self._rest = False
            self._change.notify_all()

    def rest(self, deadline=None):
        """Asks nothing more; what was asked has ended, and only the kept connection is open."""
        deadline = until(deadline)
        with self._change:
            self._rest = True
            while not self._resting:
                assert self._change.wait(deadline.left()), "a request does not end"

    def wait_more(self, count=4, deadline=None):
        """Until so many more requests have ended, well or not."""
        deadline = until(deadline)
        wanted = self.answered + len(self.lost) + count
        while self.answered + len(self.lost) < wanted:
            deadline.check("a request to end")
            select.select([], [], [], 0.002)

    def take_lost(self):
        lost, self.lost = self.lost, []
        return lost

    def end(self):
        with self._change:
            self._ended = True
            self._change.notify_all()
        self._thread.join(30)
        if self._kept is not None:
            self._kept.close()
        os.close(self._stop)
        os.close(self._stopping)
