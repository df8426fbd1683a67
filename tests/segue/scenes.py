"""What the tests of faults under `segue run` share: the test server as a supervised service with a
configuration that the next generation reads, and the claims for an upgrade that fails.
"""

import contextlib
import os
import pathlib
import shlex

from functional import asking, eventually
from harness import processes

SERVER = "tests/programs/server"


class Run:
    """The test server under a supervisor. Its options are those of tests/programs/config.h;
    configure() says what the next generation is and does."""

    def __init__(self, supervise, folder, *options, base=("--passed", "yes"), config=(),
                 program=None, **more):
        """base: of each configuration; by default the program serves what it is passed."""
        self.folder = folder
        self.config = folder / "config"
        self.base = base
        self.configure(*config)
        self.service = supervise(*options, program=program or SERVER,
                                 arguments=["--config", self.config], **more)
        self.log = self.service.log
        self.address = self.service.address if more.get("wait", True) else None

    def configure(self, *words):
        """Options and their values, in place of the earlier ones, read at the next start."""
        self.config.write_text("".join(f"{word}\n" for word in (*self.base, *words)))

    @property
    def command(self):
        """What runs, as the words behind 'segue upgrade --'."""
        return [str(word) for word in self.service.status()["generations"][0]["command"]]

    def by_worker(self, index, *words):
        """The same for a command that gives one worker more options than the others."""
        usual = shlex.join(self.command)
        return ["--", "/bin/sh", "-c", f'case "$SEGUE_WORKER" in {index}) exec {usual} '
                f'{shlex.join(words)};; *) exec {usual};; esac']

    def behave(self, *behaviours, options=()):
        self.configure(*options, *(word for one in behaviours for word in ("--behave", one)))

    @property
    def pid(self):
        return self.service.pid

    def pids(self, generation=None):
        """The pids of the workers, by their index."""
        workers = sorted(self.service.workers(generation), key=lambda one: one["worker"])
        return [worker["pid"] for worker in workers]

    def process(self, pid):
        return self.service.process(pid)

    def upgrade(self, *words):
        """An upgrade that has to end well, whole; the new workers' pids."""
        answer = self.service.upgrade(*words)
        return self.pids(answer.end["generation"])

    def fails(self, *words):
        """An upgrade that has to fail; how it ended."""
        answer = self.service.ask("upgrade", *words)
        assert answer.code == 1 and answer.end["outcome"] == "failed", answer
        return answer.end

    def state(self, to, since=0, deadline=None, **fields):
        """The supervisor's line that the service entered a state."""
        return self.log.wait_for("state", since=since, deadline=deadline, to=to,
                                 where=lambda event: event.get("service"), **fields)

    def worker(self, to, since=0, deadline=None, **fields):
        """The supervisor's line that a worker entered a state."""
        return self.log.wait_for("worker", since=since, deadline=deadline, to=to, **fields)


def failed(reason, generation=2, predecessor=1):
    """The sentence for an upgrade that failed."""
    return f"generation {generation} failed: {reason}; generation {predecessor} serves as before"


def family(pid):
    """The pids of a process's children."""
    return {stat.pid for stat in processes.children(pid)}


def descriptors(pid):
    """{(number, target)}; a file is the same after its name was taken from it."""
    return {(fd, target.removesuffix(" (deleted)"))
            for fd, target in processes.descriptors(pid).items()}


@contextlib.contextmanager
def unharmed(run):
    """Whatever fails in the block: clients lose nothing, the same workers answer all of them, the
    supervisor has no descriptor and no child more, nor have they, and the next upgrade works."""
    pids = run.pids()
    before = {pid: descriptors(pid) for pid in (run.pid, *pids)}
    children = family(run.pid)
    with asking(run.address) as clients:
        yield clients
    assert clients.pids() <= set(pids)
    assert run.pids() == pids
    for pid, had in before.items():
        eventually(lambda pid=pid, had=had: descriptors(pid) - had, set(), 10)
    eventually(lambda: family(run.pid), children, 10)
    assert not run.log.find("crashed")
    run.configure()
    with asking(run.address) as clients:
        successors = run.upgrade()
        clients.wait_more()
    assert clients.pids() <= {*pids, *successors} and not set(pids) & set(successors)


@contextlib.contextmanager
def gate(folder, name="gate"):
    """A fifo that processes wait at; calling what comes out lets one through."""
    os.mkfifo(folder / name)
    fifo = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield lambda: os.write(fifo, b"x")
    finally:
        os.close(fifo)


# See there.
PLAIN = pathlib.Path(__file__).with_name("plain_server.py")
