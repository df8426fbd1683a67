"""Predecessor, successor and both killed, and stopped, in each state of the table, with connections
on the move: the service goes on, only what the killed process owned is lost, nothing is answered
twice, nothing is left.

A scene brings a pair into a state and holds it there; the table of scenes is checked against the
states that the code has. A scene's Pair says who serves afterwards.
"""

import os
import random
import signal
import subprocess
import sys

import pytest

from harness import processes
from harness.manager import NotifySocket
from matrix.service import Closed, actor, actors, kinds, pause, wait_until  # noqa: F401, fixtures

IDLE = 10


class Pair:
    """Two processes held in a state."""

    def __init__(self, actor):
        self.actor = actor
        self.a = None
        self.b = None
        self.release = []  # what lets them go
        self.orphans = set()
        self.meanwhile = {}  # role: waits for what happens while that one is stopped
        self.serves = {"a": "b", "b": "a", "both": None}  # who serves when that one was killed
        self.idle = []
        self.busy = []
        self.cut = False  # the drain deadline may close what is left
        self.ends = False  # the service is ending anyway
        self.fresh = None  # kinds() of generation 1 before anything happened
        self.notify = None
        self.namespace = False
        self.again = True  # another upgrade is tried where the first one failed
        self.listens = None  # who alone has the listener
        self.asks = False  # there is other load
        self.load = None  # which is then a Load

    def begin(self, **options):
        """Generation 1 with connections between requests, some in the middle of one."""
        self.actor.start(**options)
        self.a = self.actor.first
        self.fresh = kinds(self.a.pid)
        self.connect("idle", IDLE)
        if self.asks:
            self.load = self.actor.load()
        return self

    def connect(self, name, count):
        for at in range(count):
            self.idle.append(self.actor.connect(f"{name}{at}"))
        for client in self.idle[-count:][::2]:
            client.sent += 1
            client.raw(f"{client.sent} pi".encode())
            client.half = True

    def hold_busy(self, name):
        client = self.actor.connect(name).send("hold")
        # The answer to a question on another connection: the line above has been read by now.
        self.ask_until(lambda: self.question(f"busy {name}") == "1")
        self.busy.append(client)
        return client

    def question(self, what):
        client = self.actor.connect()
        try:
            return client.ask(what).text
        finally:
            client.close()
            self.actor.clients.remove(client)

    def ask_until(self, condition):
        wait_until(condition, "the actor's answer", lambda: None)

    def upgrade(self):
        self.actor.upgrade()
        return self

    def role(self, name):
        return {"a": self.a, "b": self.b}[name]


# The scenes. Each returns a Pair in which a (and b) are held in the state of the scene's name.

SCENES = {}


def scene(state, roles=("a", "b", "both")):
    def register(function):
        SCENES[function.__name__.replace("_", "-")] = (state, roles, function)
        return function

    return register


def stopped_short(action, role, who):
    return action != "kill" and role == who


def wait_failed(pair):
    assert pair.actor.log.wait_for("ended")["outcome"] == "failed"


@scene("starting")
def starting(pair, action, role):
    if stopped_short(action, role, "b"):
        pair.actor.order("*", "start-timeout", 2500)
        pair.meanwhile["b"] = lambda: wait_failed(pair)
    pair.begin()
    held = pair.actor.hold("*", "start-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.release.append(held.release)


@scene("upgrading")
def upgrading(pair, action, role):
    if stopped_short(action, role, "b"):
        pair.actor.order("*", "start-timeout", 2500)
        pair.meanwhile["b"] = lambda: wait_failed(pair)
    pair.begin()
    held = pair.actor.hold("*", "open-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.listens = "a"
    pair.release.append(held.release)
    pair.actor.wait_state("upgrading", 1)


@scene("ready")
def ready(pair, action, role):
    """The successor waits for the word of a predecessor that is stopped."""
    pair.begin()
    held = pair.actor.hold(2, "start-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.a.stop()
    held.release()
    pair.actor.wait_state("ready", 2)
    if role == "b":
        # With b stopped, a commits and its drain waits.
        pair.release.append(pair.a.go_on)
        if action != "kill":
            pair.meanwhile["b"] = lambda: (pair.a.go_on(), pair.actor.wait_state("draining", 1))


@scene("probation")
def probation(pair, action, role):
    pair.actor.order("*", "probation", 60000 if action == "kill" else 2500)
    pair.again = False
    pair.begin()
    pair.hold_busy("busy")
    pair.upgrade()
    pair.b = pair.actor.process(pair.actor.wait_state("probation", 2))
    pair.actor.wait_state("standby", 1)
    if stopped_short(action, role, "b"):
        pair.meanwhile["b"] = lambda: pair.actor.wait_state("draining", 1)


@scene("standby")
def standby(pair, action, role):
    probation(pair, action, role)


@scene("serving", roles=("a",))
def serving_alone(pair, action, role):
    pair.begin()
    pair.serves = {"a": None}


@scene("serving")
def serving_while_another_drains(pair, action, role):
    draining(pair, action, role)
    pair.connect("late", 4)


@scene("checking")
def checking(pair, action, role):
    pair.actor.order("*", "check", "ok")
    if stopped_short(action, role, "b"):
        pair.actor.order("*", "check-timeout", 2500)
        pair.meanwhile["b"] = lambda: wait_failed(pair)
    pair.begin()
    held = pair.actor.hold("*", "check-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.actor.wait_state("checking", 1)
    # It dies with the process that waits for it, and nobody hears of it.
    pair.orphans.add(pair.b.pid)
    pair.release.append(held.release)
    pair.serves = {"a": None, "b": "a", "both": None}


# A process that is the first of its pid namespace dies only when everyone in it has been reaped. This
# child of ours in there is not, until its parent is told to.
UNDERTAKER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
inside = os.open(f"/proc/{sys.argv[1]}/ns/pid", os.O_RDONLY)
if libc.setns(inside, 0x20000000) != 0:
    sys.exit(f"setns: {ctypes.get_errno()}")
child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print("ready", flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""


def can_make_namespaces():
    try:
        return subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode == 0
    except OSError:
        return False


@scene("abandoning")
def abandoning(pair, action, role):
    if not can_make_namespaces():
        pytest.skip("needs the right to make a pid namespace, to keep a killed process from dying")
    pair.actor.order("*", "start-timeout", 1500).order(1, "namespace", "pid")
    # The leak sanitizer starts a process of its own, which the dead namespace does not allow.
    leaks = os.environ["ASAN_OPTIONS"] + ":detect_leaks=0"
    pair.begin(env={"ASAN_OPTIONS": leaks})
    held = pair.actor.hold("*", "open-hold")
    pair.upgrade()
    pair.b = pair.actor.successor()
    pair.namespace = True
    pair.again = False  # A dead namespace takes no process.
    held.wait()
    undertaker = subprocess.Popen(
        [sys.executable, "-c", UNDERTAKER, str(pair.b.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def bury():
        undertaker.communicate()
        assert undertaker.returncode == 0

    pair.release.append(bury)
    assert undertaker.stdout.readline() == b"ready\n"
    pair.actor.wait_state("abandoning", 1)
    assert not pair.b.ended
    pair.serves = {"a": None, "b": "a", "both": None}


@scene("draining")
def draining(pair, action, role):
    """Idle connections have moved, a busy one has not."""
    pair.begin()
    pair.hold_busy("busy")
    pair.upgrade()
    pair.b = pair.actor.process(pair.actor.wait_state("serving", 2))
    pair.actor.wait_state("draining", 1)
    for client in pair.idle:
        pair.actor.log.wait_for("adopted", client=client.name, generation=2)
        pair.actor.log.wait_for("taken", client=client.name, generation=1)


@scene("draining")
def draining_with_connections_on_the_move(pair, action, role):
    """More than the window of batches has been sent, and not one message was read."""
    pair.begin()
    pair.connect("more", 290)
    pair.hold_busy("busy")
    held = pair.actor.hold(2, "ready-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.actor.log.wait_for("drain", generation=1)
    pair.release.append(held.release)


@scene("draining")
def draining_as_requests_finish(pair, action, role):
    """Connections that have just become idle are on the move, behind others that were idle before."""
    pair.begin()
    finishing = [pair.hold_busy(f"finishing{at}") for at in range(20)]
    pair.busy.clear()
    pair.hold_busy("busy")
    held = pair.actor.hold(2, "ready-hold")
    pair.upgrade()
    pair.b = pair.actor.process(held.wait())
    pair.actor.log.wait_for("drain", generation=1)
    for client in finishing:
        assert client.again().raw(b"go\n").read().pid == pair.a.pid
    pair.idle += finishing
    pair.release.append(held.release)


@scene("cutting")
def cutting(pair, action, role):
    pair.actor.order("*", "drain-timeout", 500).order(1, "drained", "never")
    pair.begin()
    pair.hold_busy("busy")
    pair.upgrade()
    pair.b = pair.actor.process(pair.actor.wait_state("serving", 2))
    for client in pair.idle:
        pair.actor.log.wait_for("adopted", client=client.name, generation=2)
    pair.actor.wait_state("cutting", 1)
    pair.release.append(lambda: pair.actor.order("*", "drained", "-"))
    pair.cut = True


@scene("drained")
def drained(pair, action, role):
    """The service manager does not answer the barrier."""
    with NotifySocket(pair.actor.folder / "notify", hold_barriers=True) as pair.notify:
        pair.begin(env={"NOTIFY_SOCKET": pair.notify.path})
        pair.upgrade()
        pair.b = pair.actor.process(pair.actor.wait_state("serving", 2))
        pair.notify.wait_for("BARRIER=1")
        pair.actor.wait_state("drained", 1)
        if role == "b" and action != "stop":
            # Otherwise the manager's answer may come first, and there is nobody left who could serve.
            pair.release.append(lambda: pair.actor.log.wait_for("resume"))
        pair.release.append(pair.notify.release_barriers)
        pair.again = False
        yield


@scene("stopping", roles=("a",))
def stopping_alone(pair, action, role):
    pair.begin()
    pair.hold_busy("busy")
    pair.actor.service.send(signal.SIGTERM)
    pair.actor.wait_state("stopping", 1)
    pair.ends = pair.cut = True


@scene("stopping")
def stopping_with_a_predecessor(pair, action, role):
    draining(pair, action, role)
    pair.hold_busy("later")
    pair.actor.service.send(signal.SIGTERM, pair.b.pid)
    pair.actor.wait_state("stopping", 2)
    pair.actor.wait_state("stopping", 1)
    pair.ends = pair.cut = True


@scene("ending", roles=("a",))
def ending_alone(pair, action, role):
    pair.actor.order("*", "drained", "never")
    pair.begin()
    pair.hold_busy("busy")
    pair.actor.service.send(signal.SIGTERM)
    pair.actor.wait_state("stopping", 1)
    pair.actor.service.send(signal.SIGTERM)
    pair.actor.wait_state("ending", 1)
    pair.release.append(lambda: pair.actor.order("*", "drained", "-"))
    pair.ends = pair.cut = True


@scene("ending")
def ending_with_a_predecessor(pair, action, role):
    pair.actor.order("*", "drained", "never").order("*", "drain-timeout", 500)
    draining(pair, action, role)
    pair.actor.wait_state("cutting", 1)
    pair.actor.service.send(signal.SIGTERM, pair.b.pid)
    pair.actor.wait_state("stopping", 2)
    pair.actor.service.send(signal.SIGTERM, pair.b.pid)
    pair.actor.wait_state("ending", 2)
    pair.actor.wait_state("ending", 1)
    pair.release.append(lambda: pair.actor.order("*", "drained", "-"))
    pair.ends = pair.cut = True


@scene("gone")
def gone(pair, action, role):
    """Between its last event and its exit."""
    pair.begin()
    held = pair.actor.hold(1, "gone-hold")
    pair.upgrade()
    pair.b = pair.actor.process(pair.actor.wait_state("serving", 2))
    held.wait()
    pair.release.append(held.release)
    pair.serves = {"a": "b", "b": None, "both": None}


# What is claimed.


def killed(pair, role):
    return [pair.role(name) for name in ("a", "b") if role in (name, "both") and pair.role(name)]


def check_idle(pair, client, dead):
    """An idle connection lives, or it was the killed process's."""
    try:
        if getattr(client, "half", False):
            client.raw(b"ng\n")
            answer = client.again().read()
        else:
            answer = client.again().ask()
    except Closed:
        check_closed(pair, client, dead)
        return None
    assert answer.pid not in {pair.role(name).pid for name in dead}
    return answer


def check_closed(pair, client, dead):
    """It was the killed process's, by what both say of it."""
    log = pair.actor.log
    if dead and pair.serves["both" if len(dead) == 2 else min(dead)]:
        pair.actor.read_log()
    if dead == {"a"}:
        assert not log.find("adopted", client=client.name, generation=2), (
            f"{client} was the successor's, which was not killed"
        )
    elif dead == {"b"}:
        taken = log.find("taken", client=client.name, generation=1)
        assert taken or client.name.startswith("late"), (
            f"{client} was the predecessor's, which was not killed"
        )
    else:
        assert dead == {"a", "b"} or pair.cut, f"{client} was closed, and nobody was killed"


def check_load(pair, role, dead):
    """Other load: nobody is refused as long as somebody serves; closed is what the killed process had,
    and of the clients with a connection for each request the one that it was about to answer."""
    load = pair.load
    who = serving_process(pair, role, dead)
    if who is None:
        load.stop()
        return
    pair.actor.log.wait_for("state", pid=who.pid, to="serving")
    # A successor that has not been heard yet has no listener: it binds its own.
    refused = pair.listens in dead
    for client in load.end(may_be_refused=refused):
        client.close()
    # The dead's descriptors are closed one by one: with the listener goes the one in its queue, too.
    assert load.fresh_closed <= len(dead) + refused
    for client in load.closed:
        check_closed(pair, client, dead)


def check_busy(pair, client, dead, owner):
    """A request that has begun is answered by the process that read it, once."""
    try:
        answer = client.again().raw(b"go\n").read()
    except Closed:
        assert owner in dead or pair.cut, f"{client} was of {owner}, which was not killed"
        return
    assert answer.pid == pair.role(owner).pid
    assert owner not in dead


def serving_process(pair, role, dead):
    """Who has to serve in the end; None: nobody can."""
    if dead:
        name = pair.serves[role]
        return pair.role(name) if name else None
    if pair.b is None:
        return pair.a
    ended = pair.actor.log.wait_for("ended")
    return pair.actor.service.process(ended["child"]) if ended["outcome"] == "upgraded" else pair.a


def finish(pair, role, dead):
    """The claims for a service that goes on: who serves, and that nothing else is there."""
    service = pair.actor.service
    who = serving_process(pair, role, dead)
    if who is None:
        service.wait_end()
        with pytest.raises((OSError, Closed)):
            pair.actor.connect().ask()
        return
    pair.actor.log.wait_for("state", pid=who.pid, to="serving")
    busy_owners = {"busy": "a", "later": "b"}
    for client in pair.busy:
        check_busy(pair, client, dead, busy_owners[client.name])
    answers = [check_idle(pair, client, dead) for client in pair.idle]
    # Whoever could go on serving beside it has ended, or ends now.
    for process in (pair.a, pair.b):
        if process is not None and process is not who:
            service.wait_exit(process.pid)
    assert {pair.actor.connect().ask().pid for _ in range(4)} == {who.pid}
    assert service.pid == who.pid
    # Each connection has one owner now, and answers once.
    for client, answer in zip(pair.idle, answers):
        if answer is not None:
            assert client.again().ask().pid == who.pid
            assert client.silent()
    check_nothing_left(pair, who)
    if who is pair.a and dead and pair.again:
        check_next_upgrade(pair)


def check_next_upgrade(pair):
    """The failure of the last one stands in nobody's way."""
    client = pair.actor.connect()
    before = client.ask().pid
    event = pair.actor.service.upgrade()
    assert event["pid"] != before
    pair.actor.service.wait_exit(before)
    assert client.again().ask().pid == event["pid"]


def check_nothing_left(pair, who):
    service = pair.actor.service
    for client in pair.actor.clients:
        client.close()
    asking = pair.actor.connect()
    # Its own connection is one socket more than there was at the beginning.
    wait_until(
        lambda: kinds(who.pid) - pair.fresh == {"socket:[N]": 1} and not pair.fresh - kinds(who.pid),
        lambda: f"{who} has {kinds(who.pid)} open, generation 1 began with {pair.fresh}",
        asking.again().ask,
        deadline=10,
    )
    service.reap()
    stats = processes.of_session(service.session)
    assert [stat.pid for stat in stats] == [who.pid], "processes were left"
    asking.close()


def finish_ending(pair, dead):
    """The service was stopping: whoever lives answers what it has begun, and everyone ends."""
    owners = {"busy": "a", "later": "b"}
    for client in pair.busy:
        check_busy(pair, client, dead, owners[client.name])
    for client in pair.idle:
        client.close()
    for client in pair.busy:
        client.close()
    pair.actor.service.wait_end()
    if pair.load:
        # Whoever it asked may have closed, or nobody was there any more; nothing else.
        pair.load.stop()


def expected_codes(pair, dead, abandoned):
    service = pair.actor.service
    service.reap()
    killed_pids = {pair.role(name).pid for name in dead}
    for pid, code in service.exit_codes.items():
        if pid in killed_pids or pid in abandoned:
            assert code in (-signal.SIGKILL, None) or (pid in pair.orphans and code == 0)
        else:
            assert code in (0, None), f"process {pid} exited with {code}"
    service.expected_exits = {0, -signal.SIGKILL}


def cases():
    for name, (state, roles, _) in SCENES.items():
        for role in roles:
            for action in ("kill", "stop", "stop-kill"):
                for load in ("alone", "load"):
                    # With other load the short form has one kill of each scene, now of the one, now
                    # of the other.
                    sample = action == "kill" and role == roles[len(name) % min(2, len(roles))]
                    marks = [pytest.mark.long] if load == "load" and not sample else []
                    yield pytest.param(name, role, action, load, marks=marks,
                                       id=f"{name}-{role}-{action}-{load}")


def abandoned(pair):
    """Successors and checks that the predecessor has killed."""
    failed = {event["child"] for event in pair.actor.log.find("ended") if event["outcome"] == "failed"}
    return failed | pair.orphans | ({pair.b.pid} if pair.namespace else set())


@pytest.mark.parametrize("name, role, action, load", cases())
def test_the_service_outlives(actor, name, role, action, load):
    pair = Pair(actor)
    pair.asks = load == "load"
    _, _, setup = SCENES[name]
    held = setup(pair, action, role)
    if held is not None:
        next(held)
    try:
        act(pair, role, action)
    finally:
        for release in pair.release:
            release()
    dead = {"a", "b"} if role == "both" else {role}
    dead = {one for one in dead if pair.role(one) is not None and action != "stop"}
    if pair.load and not pair.ends:
        check_load(pair, role, dead)
    if pair.ends:
        finish_ending(pair, dead)
    else:
        finish(pair, role, dead)
    expected_codes(pair, dead, abandoned(pair))
    if held is not None:
        next(held, None)


def act(pair, role, action):
    targets = killed(pair, role)
    if action == "kill":
        for process in targets:
            process.send(signal.SIGKILL)
        for process in targets:
            if process.pid not in dying(pair):
                process.wait()
        return
    for process in targets:
        if not process.ended and processes.Stat(process.pid).state != "T" and process.pid not in dying(pair):
            process.stop()
    if role in pair.meanwhile:
        pair.meanwhile[role]()
    for process in targets:
        if action == "stop-kill":
            process.send(signal.SIGKILL)
        else:
            process.go_on()


def dying(pair):
    """A process that was killed and is kept from dying: it stops no more."""
    return {pair.b.pid} if pair.namespace else set()


def test_every_state_of_the_table_has_a_case(build):
    printed = subprocess.run(
        [build.program("tests/matrix/states")], capture_output=True, check=True, text=True
    ).stdout
    states = {line.split()[0] for line in printed.splitlines()}
    assert states == {state for state, _, _ in SCENES.values()}


# Three generations: the first drains, the second serves, the third comes.

STEPS = ("open", "start", "ready", "serving")
LEFT = {  # who serves when these were killed
    "": "c",
    "a": "c",
    "b": "c",
    "c": "b",
    "bc": "a",
}


class Trio:
    def __init__(self, actor, **options):
        self.actor = actor.start(**options)
        self.a = actor.first
        self.idle = [actor.connect(f"idle{at}") for at in range(6)]
        self.busy = {"a": [self.hold(f"a{at}") for at in range(3)]}
        self.b = actor.service.process(actor.service.upgrade()["pid"])
        for client in self.idle:
            actor.log.wait_for("adopted", client=client.name, generation=2)
        self.idle += [actor.connect(f"later{at}") for at in range(4)]
        self.busy["b"] = [self.hold("b0")]
        self.busy["c"] = []
        self.c = None
        self.release = []

    def hold(self, name):
        client = self.actor.connect(name).send("hold")
        with_others = self.actor.connect()
        wait_until(lambda: with_others.ask(f"busy {name}").text == "1", name, lambda: None)
        with_others.close()
        self.actor.clients.remove(with_others)
        return client

    def reach(self, step):
        """Brings the third generation to a step, and keeps it there."""
        actor = self.actor
        held = None
        if step != "serving":
            held = actor.hold("*" if step == "open" else 3, f"{step}-hold")
        mark = actor.log.mark()
        actor.service.send(signal.SIGUSR2, self.b.pid)
        self.c = actor.successor(since=mark)
        if held is not None:
            held.wait()
            self.release.append(held.release)
        if step == "ready":
            actor.log.wait_for("drain", generation=2)
        if step == "serving":
            actor.wait_state("serving", 3)
            for client in self.idle:
                actor.log.wait_for("taken", client=client.name, generation=2)


def may_be_closed(trio, client, dead):
    log = trio.actor.log
    trio.actor.read_log()
    moved = log.find("adopted", client=client.name, generation=3)
    if "b" in dead and not moved:
        return True
    return "c" in dead and (moved or log.find("taken", client=client.name, generation=2))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dead", LEFT, ids=lambda dead: dead or "none")
def test_of_three_generations_whoever_is_left_serves_all(actor, step, dead):
    trio = Trio(actor)
    trio.reach(step)
    for name in dead:
        getattr(trio, name).send(signal.SIGKILL)
    for name in dead:
        getattr(trio, name).wait()
    for release in trio.release:
        release()
    left = LEFT[dead]
    if dead == "b" and step == "open":
        left = "a"  # The third cannot know that the first lives: it ends, so that only one serves.
    who = getattr(trio, left)
    actor.log.wait_for("state", pid=who.pid, to="serving")
    alive = []
    for client in trio.idle:
        try:
            client.again().ask()
            alive.append(client)
        except Closed:
            assert may_be_closed(trio, client, dead), f"{client} was closed"
    for name, clients in trio.busy.items():
        for client in clients:
            try:
                assert client.again().raw(b"go\n").read().pid == getattr(trio, name).pid
                assert name not in dead
                alive.append(client)
            except Closed:
                assert name in dead, f"{client} was closed"
    service = actor.service
    for process in (trio.a, trio.b, trio.c):
        if process is not who:
            service.wait_exit(process.pid)
    assert {actor.connect().ask().pid for _ in range(4)} == {who.pid} == {service.pid}
    for client in alive:
        assert client.again().ask().pid == who.pid
        assert client.silent()
    if dead:
        event = service.upgrade()
        service.wait_exit(who.pid)
        assert {client.again().ask().pid for client in alive} <= {event["pid"]}
    service.reap()
    assert [stat.pid for stat in processes.of_session(service.session)] == [service.pid]
    for name in dead:
        assert service.exit_codes.get(getattr(trio, name).pid) in (-signal.SIGKILL, None)
    service.expected_exits = {0, 1, -signal.SIGKILL}


def kill_one_of_three(trio, rng):
    """At a random moment of the upgrade to the third; which one, or None where it was too late."""
    actor = trio.actor
    name = rng.choice("abbcc")
    mark = actor.log.mark()
    actor.service.send(signal.SIGUSR2, trio.b.pid)
    if name == "c" or rng.random() < 0.5:
        trio.c = actor.successor(since=mark)
    if not pause(getattr(trio, name), rng.uniform(0, 0.06)):
        return None
    getattr(trio, name).send(signal.SIGKILL)
    getattr(trio, name).wait()
    return name


def judge_three(trio, dead):
    actor, service = trio.actor, trio.actor.service
    alive, lost = [], []
    for name, clients in trio.busy.items():
        for client in clients:
            try:
                assert client.again().raw(b"go\n").read().pid == getattr(trio, name).pid
                alive.append(client)
            except Closed:
                assert name == dead, f"{client} was closed"
    for client in trio.idle:
        try:
            client.again().ask()
            alive.append(client)
        except Closed:
            lost.append(client)
    one = actor.connect()
    wait_until(
        lambda: service.reap() or len(processes.of_session(service.session)) == 1,
        lambda: f"one of {service.running} to be left",
        lambda: pause(trio.a, 0.01),
    )
    who = processes.of_session(service.session)[0].pid
    try:
        one.ask()
    except Closed:
        # Accepted, perhaps, by the one that was about to end at its stop.
        assert dead is not None
    assert {actor.connect().ask().pid for _ in range(4)} == {who} == {service.pid}
    for client in alive:
        assert client.again().ask().pid == who
        assert client.silent()
    for client in lost:
        assert may_be_closed(trio, client, dead or ""), f"{client} was closed, {dead} was killed"


@pytest.mark.parametrize("shard", range(2))
def test_of_three_generations_one_may_die_at_any_moment(actors, shard):
    seed = int(os.environ.get("SEGUE_SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEGUE_SEED={seed}, shard {shard}")
    rng = random.Random(seed + shard)
    told = []
    for at in range(15):
        actor = actors(f"run{at}")
        # The leak sanitizer calls it a finding when it is killed at its work.
        trio = Trio(actor, env={"ASAN_OPTIONS": os.environ["ASAN_OPTIONS"] + ":detect_leaks=0"})
        dead = kill_one_of_three(trio, rng)
        told.append(dead)
        judge_three(trio, dead)
        actor.service.expected_exits = {0, 1, -signal.SIGKILL}
        actor.close()
        actor.service.stop()
    print(told)
