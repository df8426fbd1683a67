"""Supervisor, predecessor and successor killed, and stopped, in each state of the supervisor's two
tables, with connections on the move: the service goes on, only what the killed process owned is lost,
nothing is answered twice, nothing is left.

A scene brings a service into a state and holds it there; the scenes are checked against the rows of
src/segue/table.h. Of several workers the first one of a generation is killed.
"""

import ctypes
import os
import re
import signal
import sys

import pytest

from functional import HOLD, eventually
from harness import processes
from harness.builds import ROOT
from harness.http import Closed, Connection, request
from matrix.load import Load
from scenes import Run, family

KILLED = (None, -signal.SIGKILL)
ACTIONS = ("kill", "stop", "stop-kill")

# What lasts no time and cannot be held: the supervisor ends in the same step.
MOMENTS = {("service", "gone")}


class Client(Connection):
    """A connection between requests, or in the middle of one, and who may own it."""

    def __init__(self, address, owners=None):
        super().__init__(address)
        self.count = 0
        self.left = b""
        self.leaves = False  # the server has said that it closes it
        self.owners = owners or {self.take(self.get()).pid}

    def take(self, response):
        """The server counts the answers of a connection from generation to generation."""
        self.count += 1
        self.leaves = response.header("Connection") == "close"
        assert int(response.header("Segue-Requests")) == self.count, "an answer was lost or given twice"
        return response

    def half(self):
        """Half a request is on its way."""
        data = request()
        self.left = data[10:]
        self.send(data[:10])
        return self

    def busy(self):
        """A request is in flight: its head has been read."""
        self.send(request() + HOLD)
        self.owners = {self.take(self.response()).pid}
        self.left = b"y"
        return self

    def finish(self):
        """The answer to what has been begun, or to one more request."""
        self.again().send(self.left or request())
        self.left = b""
        return self.take(self.response())


def start_load(address):
    """Other load, each of whose clients knows who answered it last."""

    def ask(client):
        client.owners = {client.finish().pid}
        return not client.leaves

    def fresh():
        with Connection(address) as one:
            one.get()

    return Load([Client(address) for _ in range(6)], ask, fresh, Closed)


class Held:
    """A service held in a state."""

    def __init__(self, make, folder, workers, role, action):
        self.make, self.folder, self.workers = make, folder, workers
        self.role, self.action = role, action
        self.one = None
        self.a, self.b = [], []  # pids by worker
        self.idle, self.busy = [], []
        self.upgrading = None  # the client that waits
        self.code = {}  # of that one, by the role that was killed; else 0
        self.release = []
        self.commands = set()  # go with the supervisor, whatever they do
        self.dead = set()  # besides whom the test kills
        self.ends = False  # the service is ending anyway
        self.cut = False  # what is open is closed by force
        self.asks = False  # there is other load
        self.load = None  # which is then a Load
        self.gate = folder / "gate"
        os.mkfifo(self.gate)
        self.fifo = os.open(self.gate, os.O_RDWR | os.O_CLOEXEC)

    def close(self):
        os.close(self.fifo)
        for client in self.idle + self.busy + (self.load.clients if self.load else []):
            client.close()
        if self.upgrading is not None and self.upgrading.poll() is None:
            self.upgrading.kill()
        if self.upgrading is not None:
            self.upgrading.communicate()

    def begin(self, *options, idle=8, **more):
        """Generation 1, with connections."""
        self.one = self.make("--workers", self.workers, "--start-timeout", "20s", "--drain-timeout",
                             "20s", "--restart-limit", 0, *options, **more)
        self.a = self.one.pids()
        self.idle = [Client(self.one.address) for _ in range(idle)]
        for client in self.idle[::2]:
            client.half()
        self.hold_busy(self.a)
        if self.asks:
            self.load = start_load(self.one.address)
        return self.one

    def hold_busy(self, pids):
        """A request in flight in each of these."""
        owners = set()
        while set(pids) - owners:
            self.busy.append(Client(self.one.address).busy())
            owners |= self.busy[-1].owners

    def upgrade(self, *words):
        self.upgrading = self.one.service.popen("upgrade", "--json", *words)

    def at_gate(self, stage, *options, count=1):
        """The next generation waits there, as many of its workers as are started meanwhile."""
        self.one.behave(f"{stage}:gate:{self.gate}", options=options)
        self.upgrade()
        self.wait_gates(count)

    def wait_gates(self, count):
        mark = 0
        while len(self.b) < count:
            self.b.append(self.one.log.wait_for("gate", since=mark)["pid"])
            mark = next(at for at, event in enumerate(self.one.log.events)
                        if event.name == "gate" and event["pid"] == self.b[-1]) + 1
        self.release.append(self.open_gate)

    def open_gate(self):
        self.one.configure()
        os.write(self.fifo, b"x" * 64)

    def serving(self, generation):
        """The pids of a generation, all of whose workers serve."""
        return [self.one.worker("serving", generation=generation, worker=at)["pid"]
                for at in range(self.workers)]

    def settle(self):
        """Each idle connection has moved: its successor has answered it."""
        for client in self.idle:
            while (pid := client.finish().pid) not in self.b:
                assert pid in client.owners
            client.owners = {pid}

    def target(self):
        """Whom the test acts on."""
        if self.role == "supervisor":
            return self.one.service.first
        return self.one.process((self.a if self.role == "predecessor" else self.b)[0])


# The scenes.

SCENES = {}
ALL = ("supervisor", "predecessor", "successor")


def scene(*states, roles=ALL, workers=(1, 2)):
    def register(function):
        SCENES[function.__name__.replace("_", "-")] = (states, roles, workers, function)
        return function

    return register


@scene("worker starting", "service upgrading")
def starting(held):
    held.begin()
    held.at_gate("listen")
    held.code = {"successor": 1}


@scene("worker ready", workers=(2,))
def ready(held):
    """The first worker is ready, the second is not."""
    one = held.begin()
    held.upgrade(*one.by_worker(1, "--behave", f"listen:gate:{held.gate}"))
    held.b = [one.worker("ready", generation=2)["pid"]]
    held.wait_gates(2)
    held.code = {"successor": 1}


@scene("worker committed", "service committing")
def committed(held):
    held.begin()
    held.at_gate("ready", count=held.workers)
    for at in range(held.workers):
        held.one.worker("committed", generation=2, worker=at)
    # Of two the other one serves, and the killed one is started again.
    held.code = {"successor": 1 if held.workers == 1 else 0}


@scene("worker serving", "service serving", roles=("supervisor", "predecessor"))
def serving_alone(held):
    held.begin()


@scene("worker draining", "worker serving", "service serving")
def draining(held):
    """What was idle has moved, what was busy has not."""
    held.begin()
    held.upgrade()
    held.b = held.serving(2)
    held.one.worker("draining", generation=1)
    held.settle()
    held.idle += [Client(held.one.address) for _ in range(4)]
    held.code = {"successor": 1 if held.workers == 1 else 0}


@scene("worker draining")
def draining_on_the_move(held):
    """More than the window of batches has been sent, and not one message was read."""
    held.begin(idle=150)
    held.at_gate("serve", count=held.workers)
    held.b = held.serving(2)
    for at in range(held.workers):
        held.one.worker("draining", generation=1, worker=at)
    held.code = {"successor": 1 if held.workers == 1 else 0}
    if held.role == "predecessor":
        # It may have sent what nobody has acknowledged; else the sender has it still.
        for client in held.idle:
            client.owners |= set(held.b)


@scene("worker draining")
def draining_as_requests_finish(held):
    """Connections that have just become idle are on the move, behind others that were idle before."""
    held.begin()
    for _ in range(5):
        held.hold_busy(held.a)
    held.at_gate("serve", count=held.workers)
    held.b = held.serving(2)
    for at in range(held.workers):
        held.one.worker("draining", generation=1, worker=at)
    while held.busy:
        client = held.busy.pop()
        assert client.finish().pid in client.owners
        held.idle.append(client)
    held.code = {"successor": 1 if held.workers == 1 else 0}
    if held.role == "predecessor":
        for client in held.idle:
            client.owners |= set(held.b)


@scene("worker stopping", "service stopping", roles=("supervisor", "predecessor"))
def stopping(held):
    held.begin()
    held.one.service.first.send(signal.SIGTERM)
    for at in range(held.workers):
        held.one.worker("stopping", worker=at)
    held.ends = True


@scene("worker stopping")
def stopping_in_a_drain(held):
    draining(held)
    held.hold_busy(held.b)
    held.one.service.first.send(signal.SIGTERM)
    held.one.worker("stopping", generation=2)
    held.ends = True


@scene("worker cutting", "service ending", roles=("supervisor", "predecessor"))
def cutting(held):
    """Stopped, so that they do not hear that they are to end."""
    one = held.begin("--kill-timeout", "20s")
    stopped = [one.process(pid) for pid in held.a]
    for process in stopped:
        process.stop()
        held.release.append(process.go_on)
    one.service.first.send(signal.SIGQUIT)
    for at in range(held.workers):
        one.worker("cutting", worker=at)
    held.ends = held.cut = True


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_SEIZE, PTRACE_DETACH, PTRACE_O_TRACEEXIT = 0x4206, 17, 0x40


@scene("worker killing", roles=("supervisor", "successor"))
def killing(held):
    """The predecessor is deaf, is killed, and is kept from dying by a tracer."""
    one = held.begin("--kill-timeout", "300ms", config=("--behave", "commit:hang"))
    one.configure()
    held.upgrade()
    held.b = held.serving(2)
    for at in range(held.workers):
        one.worker("draining", generation=1, worker=at)
    for pid in held.a:
        if libc.ptrace(PTRACE_SEIZE, pid, None, PTRACE_O_TRACEEXIT) < 0:
            pytest.skip("needs the right to trace a process, to keep a killed one from dying")
        held.release.append(lambda pid=pid: let_die(pid))
    assert one.service.ask("cut").code == 0
    for at in range(held.workers):
        one.worker("killing", generation=1, worker=at)
    for pid in held.a:
        eventually(lambda pid=pid: processes.Stat(pid).state, "t")
    held.dead = set(held.a)
    held.idle += [Client(one.address) for _ in range(4)]
    # Nobody is left who could serve again, and what was open was closed by force.
    held.code = dict.fromkeys(("successor", None), 4)


def let_die(pid):
    try:
        os.waitpid(pid, 0x40000000)  # __WALL: it has stopped on its way out
    except ChildProcessError:
        pass
    libc.ptrace(PTRACE_DETACH, pid, None, None)


@scene("worker gone", roles=("supervisor",))
def gone(held):
    """Dead, and the supervisor does not know yet."""
    one = held.begin()
    one.service.first.stop()
    victim = one.process(held.a[0])
    victim.send(signal.SIGKILL)
    victim.wait()
    held.dead = {victim.pid}


@scene("service starting", roles=("supervisor", "successor"))
def the_first_starts(held):
    held.one = held.make("--workers", held.workers, config=("--behave", f"listen:gate:{held.gate}"),
                         wait=False)
    held.wait_gates(1)
    held.one.address = held.one.service.address
    held.ends = held.action != "stop"


@scene("service checking")
def checking(held):
    one = held.begin("--preflight", f"exec head -c 1 {held.gate}")
    held.upgrade()
    one.state("checking")
    # The supervisor's child waits for the command, which it leads.
    while not held.b:
        held.b = [pid for child in family(one.pid) - set(held.a) for pid in family(child)]
        held.commands = {*held.b, *family(one.pid)} - set(held.a)
    held.release.append(held.open_gate)
    held.code = {"successor": 1}


# Ready, and deaf to the stop signal.
DEAF = """
import os, signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


@scene("service abandoning", workers=(2,))
def abandoning(held):
    """The second worker has failed, and the first one does not end."""
    one = held.begin("--kill-timeout", "20s")
    script = 'if [ "$SEGUE_WORKER" = 0 ]; then exec "$0" -c "$1"; else exit 1; fi'
    held.upgrade("--", "/bin/sh", "-c", script, sys.executable, DEAF)
    held.b = [one.worker("ready", generation=2, worker=0)["pid"]]
    one.state("abandoning")
    # Nobody else would end it without the supervisor; with it this is its own SIGKILL, at once.
    deaf = one.process(held.b[0])
    held.release.append(lambda: deaf.send(signal.SIGKILL))
    held.dead = {deaf.pid}
    held.code = dict.fromkeys(("predecessor", "successor", None), 1)


# What is claimed.


def act(held):
    process = held.target()
    if held.action != "kill" and processes.Stat(process.pid).state != "T":
        process.stop()
    if held.action == "stop":
        process.go_on()
        return
    process.send(signal.SIGKILL)
    held.dead.add(process.pid)
    process.wait()


def may_be_closed(held, client):
    return held.cut or bool(client.owners & held.dead)


def check_busy(held):
    """A request that has begun is answered by the process that read it, or was lost with it."""
    for client in held.busy:
        try:
            assert client.finish().pid in client.owners
            assert not client.owners & held.dead
            # What cannot move, since the one that it was for died, stays until its next answer.
            assert not client.leaves or held.dead or held.ends
        except Closed:
            assert may_be_closed(held, client), f"one of {client.owners} closed, {held.dead} died"
        if held.dead:
            client.close()


def check_load(held):
    """Other load: nobody is refused as long as the service goes on; closed is what was the killed
    process's, or had moved to it since its last answer."""
    load = held.load
    for client in load.end():
        assert not client.leaves or held.dead
        client.close()
    assert load.fresh_closed <= len(held.dead)
    for client in load.closed:
        assert held.cut or (client.owners | set(held.b)) & held.dead, f"one of {client.owners} closed"


def check_idle(held):
    """The ones that live."""
    alive = []
    for client in held.idle:
        try:
            client.finish()
            assert not client.leaves or held.dead
            alive += [] if client.leaves else [client]
        except Closed:
            assert may_be_closed(held, client), f"one of {client.owners} closed, {held.dead} died"
    return alive


def finish_ending(held):
    """Whoever lives answers what it has begun, everybody ends, and nothing is left."""
    check_busy(held)
    for client in held.idle + held.busy:
        client.close()
    service = held.one.service
    service.wait_end()
    assert service.members() == []
    if held.load:
        # Whoever it asked may have closed, or nobody was there any more; nothing else.
        held.load.stop()


def finish(held):
    one = held.one
    check_busy(held)
    alive = check_idle(held)
    number = 1
    if held.upgrading is not None:
        # Nothing but the connections holds the drain.
        out, err = held.upgrading.communicate(timeout=60)
        code = held.code.get(held.role if held.action != "stop" else None, 0)
        assert held.upgrading.returncode == code, (out, err)
        number = 1 if code == 1 else 2
    eventually(lambda: [(generation["number"], [worker["state"] for worker in generation["workers"]])
                        for generation in one.service.status()["generations"]],
               [(number, ["serving"] * held.workers)], 20)
    pids = set(one.pids())
    for client in alive:
        assert client.finish().pid in pids
    # Its children are those, and who relays their output.
    eventually(lambda: len(family(one.pid)), held.workers + 1, 10)
    # And the next upgrade finds everything in order.
    one.configure()
    successors = set(one.upgrade())
    assert not successors & pids
    assert {client.finish().pid for client in alive} <= successors


def cases():
    for name, (_, roles, numbers, _) in SCENES.items():
        for workers in numbers:
            for role in roles:
                for action in ACTIONS:
                    # One of each in the short form; with several workers where it is the death
                    # that makes the difference.
                    short = action == "kill" or (action == "stop" and workers == numbers[-1])
                    yield case(name, workers, role, action, "alone", short)
                    # With other load one kill of each scene, now of the one, now of the other.
                    sample = (workers, role) == (numbers[-1], roles[len(name) % len(roles)])
                    if states_hold_load(name):
                        yield case(name, workers, role, action, "load", action == "kill" and sample)


def case(*words_and_short):
    *words, short = words_and_short
    return pytest.param(*words, marks=[] if short else [pytest.mark.long], id="-".join(map(str, words)))


def states_hold_load(name):
    """There is somebody whom the load could ask."""
    return name != "the-first-starts"


@pytest.fixture
def hold(supervise, folder):
    """hold(workers, role, action): a Held that has not begun."""
    made = []

    def make(*words):
        made.append(Held(lambda *options, **more: Run(supervise, folder, *options, **more), folder,
                         *words))
        return made[-1]

    yield make
    for held in made:
        held.close()


@pytest.mark.parametrize("name, workers, role, action, load", cases())
def test_the_service_outlives(hold, monkeypatch, name, workers, role, action, load):
    # The leak sanitizer calls it a finding when it is killed at its work, or traced.
    monkeypatch.setenv("ASAN_OPTIONS", os.environ["ASAN_OPTIONS"] + ":detect_leaks=0")
    held = hold(workers, role, action)
    held.asks = load == "load"
    SCENES[name][3](held)
    service = held.one.service
    service.sessions()
    try:
        act(held)
    finally:
        for release in held.release:
            release()
    ends = held.ends or (role == "supervisor" and action != "stop")
    if held.load and not ends:
        check_load(held)
    if ends:
        finish_ending(held)
    else:
        finish(held)
    service.reap()
    for pid, code in service.exit_codes.items():
        # Who has not served gives up without its supervisor.
        assert code in ((*KILLED, 0) if pid in held.dead | held.commands else (None, 0, 1, 137, -15)), (pid, code)
    service.expected_exits = {0, 1, 137, -15, -signal.SIGKILL}


def states(macro):
    text = (ROOT / "src/segue/table.h").read_text(encoding="utf-8")
    body = re.search(rf"#define {macro}\(X\)(.*?)\n\n", text, re.S).group(1)
    return re.findall(r'X\(\w+, "([a-z-]+)", "', body)


def test_every_state_of_both_tables_has_a_scene():
    rows = {("worker", state) for state in states("WORKER_STATES")}
    rows |= {("service", state) for state in states("SERVICE_STATES")}
    assert len(rows) > 16
    held = {tuple(state.split()) for states_of, _, _, _ in SCENES.values() for state in states_of}
    assert held == rows - MOMENTS
