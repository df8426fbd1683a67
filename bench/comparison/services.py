"""What every peer is to the measurement: a service that is started in a fresh folder, asked over new
connections, and restarted by steps of its own, each of which begins when something has been observed.
"""

import contextlib
import os
import pathlib
import select
import socket
import subprocess
import time

from harness import processes
from harness.deadline import Deadline
from harness.http import Connection, Malformed
from harness.service import Service

CONFIGURATION = pathlib.Path(__file__).resolve().parents[1] / "peers.d"
BODY = b"hello, world\n"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(address, seconds=10, path="/hello"):
    """The generation that answers on a new connection; an OSError or AssertionError where none does."""
    with Connection(address, seconds) as one:
        answer = one.get(path)
    if answer.status != 200 or answer.body != BODY:
        raise Malformed(f"{answer}")
    return answer.generation


class Followed(Service):
    """A service whose daemons may be in sessions of their own: those of the pids that its pid file
    has named belong to it as well."""

    def __init__(self, *arguments, **more):
        self._more = set()
        super().__init__(*arguments, **more)

    def sessions(self):
        if self.pid_file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._more.add(os.getsid(self.pid))
        return {self.session} | self._more


class Refused(Exception):
    """The check before a restart said no: exit code and words."""

    def __init__(self, code, words):
        super().__init__(f"exit code {code}: {words}")
        self.code, self.words = code, words


class Peer:
    """One server. Subclasses say how it is started, what a deployment changes, and what a restart is."""

    key = title = summary = None
    commands = ()  # what an operator types, for the result file
    slow = "/slow"  # the path that takes 300 ms
    application = True  # False: what it serves is its configuration
    workers = 1  # processes that answer
    hasty = ()  # options for the experiment with a version that hangs
    proxy = False  # its slow answer comes from a backend
    shapes = tuple("new get post idle slow".split())  # of the load
    alike = None  # the key of a peer that fails in the same way
    note = {}  # shape: why it is not measured
    remark = ""  # what a reader should know beside the figures

    def __init__(self, build, folder, backend):
        self.build, self.folder, self.backend = build, folder, backend
        self.generation = 1
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.service = None

    @classmethod
    def prepare(cls, build):
        """What takes time and is no part of what is measured: compiling."""

    # What a subclass has to say.

    def begin(self):
        """Starts the service; self.service is set."""
        raise NotImplementedError

    def deploy(self):
        """Puts the version self.generation in place."""
        (self.folder / "generation").write_text(f"{self.generation}\n", encoding="ascii")

    def check(self):
        """What is run before the signal; Refused where it says no."""

    def signal(self):
        """The signal or command that begins the restart."""
        raise NotImplementedError

    def answered(self):
        """The next version answers: what its documentation says to do then."""

    def ended(self, left):
        """Called as processes of the last version end; left: {pid} of those that have not."""

    def masters(self):
        """The pids that serve nobody themselves: those that have started others."""
        stats = self.service.members()
        pids = {stat.pid for stat in stats}
        return {stat.parent for stat in stats if not stat.zombie} & pids

    def staying(self):
        """The pids that are still there after a restart."""
        return self.masters()

    def told(self):
        """What the service has said so far: lines."""
        return self.service.log.text().splitlines()

    def break_next(self, how):
        """Makes the next version 'missing', 'exits' or 'hangs'; the words for what was done, or None
        where that cannot happen."""
        raise NotImplementedError

    def repair(self):
        """Undoes that."""

    # What they share.

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hello"

    @property
    def slow_url(self):
        return f"http://127.0.0.1:{self.port}{self.slow}"

    def fill(self, name, **more):
        """A file of peers.d with its @WORDS@ filled in; its path."""
        words = {"PORT": self.port, "FOLDER": self.folder, "GENERATION": self.generation,
                 "BACKEND": self.backend, **more}
        text = (CONFIGURATION / name).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        target = self.folder / name
        target.write_text(text, encoding="utf-8")
        return target

    def run(self, *command, seconds=5):
        """A command that an operator runs before a restart; Refused where it fails."""
        try:
            done = subprocess.run([str(word) for word in command], cwd=self.folder, timeout=seconds,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
        except subprocess.TimeoutExpired as error:
            raise Refused("none", f"still running after {seconds} s") from error
        except FileNotFoundError as error:
            raise Refused(127, str(error)) from error
        if done.returncode:
            raise Refused(done.returncode, done.stdout.strip())

    def start(self, *options):
        self.deploy()
        self.begin(*options)
        deadline = Deadline(30)
        while not self._whole():
            deadline.check(f"the start of {self.key}: {self.service.log.text()}")
            select.select([], [], [], 0.02)
        # Workers that nobody has asked may still be loading what the next step takes away.
        calm = 0
        while calm < 5:
            deadline.check(f"{self.key} to have started")
            used = self.cpu_seconds()
            select.select([], [], [], 0.1)
            waiting = all(stat.state in "SZ" for stat in self.service.members())
            calm = calm + 1 if waiting and used == self.cpu_seconds() else 0
        return self

    def _whole(self):
        try:
            ask(self.address, 1)
        except (OSError, AssertionError):
            return False
        return len(self.pids() - self.masters()) == self.workers

    def pids(self):
        return {stat.pid for stat in self.service.members() if not stat.zombie}

    def cpu_seconds(self):
        tick = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / tick

    def memory(self):
        """{'master': bytes, 'workers': bytes, 'count': workers}, proportional set sizes."""
        pids, masters = self.pids(), self.masters()
        sizes = {pid: processes.memory(pid)["Pss"] for pid in pids}
        return {"master": sum(size for pid, size in sizes.items() if pid in masters),
                "workers": sum(size for pid, size in sizes.items() if pid not in masters),
                "count": len(pids - masters)}

    def restart(self, pause=0.0, deadline=30):
        """One restart to the next version, observed over new connections, one after the other with
        a pause between them. {begun, answered, gone}: moments of the monotonic clock; failed: how many of
        the new connections were not answered."""
        self.service.reap()
        leaving = self.pids() - self.staying()
        self.generation += 1
        self.deploy()
        self.check()
        with Watch(leaving) as watch:
            begun = time.monotonic()
            self.signal()
            return {"begun": begun, **self._observe(watch, pause, Deadline(deadline))}

    def _observe(self, watch, pause, deadline):
        answered, failed = None, 0
        # Asks on until they have gone: a server of Go may wait in accept() for one connection more.
        while answered is None or watch.left():
            deadline.check(f"the next version of {self.key} and the end of {watch.left()}: "
                           + self.service.log.text()[-2000:])
            try:
                number = ask(self.address)
            except (OSError, AssertionError):
                failed += 1
            else:
                if answered is None and number == self.generation:
                    answered = time.monotonic()
                    self.answered()
            if watch.wait(pause if answered is None else max(pause, 0.002)):
                self.ended(watch.left())
        return {"answered": answered, "gone": watch.last, "failed": failed}

    def stop(self, gently=True):
        """Ends it; what it exits with is not what is measured."""
        if not self.service:
            return
        while not gently and (left := self.service.members()):
            processes.kill_all(left)
        self.service.finish()


class Watch:
    """Processes, and when the last of them ended."""

    def __init__(self, pids):
        self._held, self.last = {}, time.monotonic()
        self._poll = select.poll()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                self._held[pidfd] = pid
                self._poll.register(pidfd, select.POLLIN)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pidfd in self._held:
            os.close(pidfd)

    def left(self):
        return set(self._held.values())

    def wait(self, seconds):
        """Waits so long for some of them to end; whether any did."""
        ended = self._poll.poll(seconds * 1000)
        for pidfd, _ in ended:
            self.last = time.monotonic()
            self._poll.unregister(pidfd)
            os.close(pidfd)
            del self._held[pidfd]
        return bool(ended)


def send(pid, number):
    """A signal by pidfd; whether there was such a process."""
    try:
        with processes.Process(pid) as process:
            return process.send(number)
    except ProcessLookupError:
        return False
