"""Upgrades in which one call fails, and what must hold after each: in both shapes, whoever made it.

A service lives through many of them. After each one a generation serves in a legal state, no process
and no descriptor is left, how the upgrade ended has been said, and the next upgrade, in which nothing
fails, ends well. A request may be lost only where the fault itself was a client's: that of the
connection which the failing thread was at work for, or one whose loss the log tells.
"""

import collections
import json
import os
import random
import re
import select
import signal
import socket

from faultcalls import Counter, Page, places
from harness import processes
from harness.deadline import until
from harness.service import parse

SUBJECT = "tests/faultcalls/subject"
LIBRARY = "tests/faultcalls/faultcalls.so"
TIMES = ["--start-timeout", "10s", "--drain-timeout", "5s"]
LIMIT = 60  # seconds for an upgrade with a fault to come to its end; its own deadlines are shorter
DRY_RUNS = 3
ATTEMPTS = 4  # for a call to be made

# What ends a generation that gives up, and one that is given up; 4 is the leak sanitizer's own process,
# where the one that it looks at is killed. Anything else is a crash.
EXITS = {0, 1, 2, 4, 127, -signal.SIGKILL, -signal.SIGTERM, None}

# What a service goes on without, and says so when it is needed: the predecessor's state, the
# descriptors of its working directory, and of the program's file for a restart.
MAY_LACK = r"/memfd:|/tmp/segue-[^/]*$|.*/subject$"

# The relay of the workers' output is no part of an upgrade: that its channel breaks while it lives is
# not a fault of one.
NOT_OF_AN_UPGRADE = {("EPIPE", "relay_message_send")}


class Illegal(AssertionError):
    """What must not be after an upgrade in which a call failed."""


def kinds(pid):
    """How many descriptors of each kind a process has."""
    try:
        found = processes.descriptors(pid).values()
    except OSError as error:
        found = [str(error)]
    return collections.Counter(re.sub(r"\[\d+\]| \(deleted\)|/proc/\d+", "", text) for text in found)


class Outcome:
    """How an upgrade ended, by the service's own word, and what was lost on the way."""

    def __init__(self, word, reason):
        self.word, self.reason = word, reason
        self.lost = []

    def __repr__(self):
        return f"{self.word} ({self.reason})"


class Shape:
    """What both shapes share. make(count, env) starts a service; subclasses say how it is upgraded
    and which processes it has."""

    def __init__(self, make, folder, build):
        self.page = Page(folder / "faultcalls")
        self.make = make
        self.library = build.program(LIBRARY)
        self.modules = {"libsegue": build.program("src/libsegue/libsegue.so"),
                        "libsegue-http": build.program("src/http/libsegue-http.so")}
        self.programs = {"supervisor": build.program("src/segue/segue")}
        self.subject = build.program(SUBJECT)
        self.count = 0
        self.service = self.counter = self.usual = None
        self.fired, self.port, self.frames = False, 0, []
        self.begin()

    def environment(self):
        """Nothing but what the service needs: each variable is memory to be had."""
        kept = ("PATH", "UBSAN_OPTIONS")
        dropped = {name: None for name in os.environ if name not in kept}
        asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return {**dropped, "LD_PRELOAD": str(self.library), "FAULTCALLS": str(self.page.path),
                "ASAN_OPTIONS": asan}

    def begin(self):
        """A service whose first upgrades, without a fault, say what is usual."""
        self.count += 1
        self.usual = None
        self.service = self.make(self.count, self.environment())
        self.service.expected_exits |= EXITS
        self.counter = Counter(self.address())
        self.counter.go()
        self.upgrade_well()
        self.upgrade_well()
        self.usual = self.steady_kinds()

    def end(self):
        self.page.disarm()
        self.counter.end()

    def close(self):
        self.end()
        self.page.close()

    def give_up(self):
        """After what is illegal: another service."""
        self.end()
        processes.kill_all(self.service.members())
        self.service.finish()
        self.begin()

    # One upgrade.

    def run(self, case=None):
        """An upgrade, with a fault or without; its Outcome, when it has come to rest."""
        self.service.reap()
        self.counter.go()
        roles, line, mark = self.roles(), self.service.log.mark_line(), self.service.log.mark()
        self.page.arm(roles, case)
        try:
            # What serving takes is met at least so often by both generations.
            self.counter.wait_more(4)
            outcome = self.upgrade(mark, until(LIMIT))
            self.counter.wait_more(4)
            self.counter.rest()
        finally:
            self.page.disarm()
            self.fired, self.port = self.page.fired, self.page.port
            self.frames = self.page.frames()
        self.check_state(outcome)
        outcome.lost = self.counter.take_lost()
        self.look_for_crashes(line)
        return outcome

    def check_state(self, outcome):
        """That it is legal, where more than the processes can be asked."""

    def look_for_crashes(self, line):
        for pid, code in self.service.exit_codes.items():
            if code not in EXITS:
                raise Illegal(f"process {pid} crashed: {code}")
        for text in self.service.log.lines[line:]:
            crash = re.search(r"killed by signal (\d+)", text)
            if crash and int(crash[1]) != signal.SIGKILL:
                raise Illegal(f"crashed: {text}")

    # Descriptors.

    def steady_kinds(self):
        """Of each process, when they do not change any more."""
        last, same = None, 0
        while same < 10:
            now = self.kinds()
            last, same = now, same + 1 if now == last else 0
            select.select([], [], [], 0.005)
        return last

    def wrong_descriptors(self, mark):
        """More than always, or fewer without a warning."""
        warned = self.service.log.find("warning", since=mark)
        found = []
        for who, now in self.kinds().items():
            more, fewer = now - self.usual[who], self.usual[who] - now
            fewer = {kind: count for kind, count in fewer.items() if not re.match(MAY_LACK, kind)}
            if more or (fewer and not warned):
                found.append(f"{who} has {dict(more)} too many, {fewer} too few")
        return found

    def check_descriptors(self, mark):
        deadline = until(3)
        while (wrong := self.wrong_descriptors(mark)) and deadline.left():
            select.select([], [], [], 0.003)
        if wrong:
            raise Illegal("; ".join(wrong))

    # The claims.

    def upgrade_well(self):
        """Nothing fails, and nothing is lost."""
        before, mark = self.pids(), self.service.log.mark()
        outcome = self.run()
        if outcome.word != "upgraded" or outcome.lost or self.pids() & before:
            raise Illegal(f"an upgrade in which nothing fails: {outcome}, lost {outcome.lost}")
        if self.usual is not None:
            self.check_descriptors(mark)

    def judge(self, case):
        """One case: how it ended, None where the call was not made. Raises where something is wrong."""
        before, mark = self.pids(), self.service.log.mark()
        outcome = self.run(case)
        fired, frames = self.fired, self.frames
        if not fired:
            return None
        after = self.pids()
        if outcome.word == "upgraded" and after & before:
            raise Illegal(f"{outcome}, but the predecessor serves")
        if outcome.word in ("failed", "refused", "nonsense", "not begun") and after != before:
            raise Illegal(f"{outcome}, but {after} serves, not {before}")
        if outcome.word in ("failed", "refused", "nonsense", "taken-back") and not outcome.reason:
            raise Illegal(f"{outcome.word} without a reason")
        self.check_lost(outcome, mark)
        self.check_descriptors(mark)
        try:
            self.upgrade_well()
        finally:
            self.frames = frames
        return outcome

    def check_lost(self, outcome, mark):
        """One on the connection that the fault was about, and those that the log tells of: cut at
        the drain deadline, no memory for it in the successor, or idle with a worker whose channel to
        the supervisor broke, which is stopped then."""
        find = self.service.log.find
        told = sum(event.get("cut_idle", 0) for event in find("drained", since=mark))
        told += sum("connection of the predecessor is lost" in event.get("reason", "")
                    for event in find("warning", since=mark))
        told += bool(find("closed", since=mark)
                     or find("state", since=mark, reason="supervisor-gone"))
        others = [lost for lost in outcome.lost if lost[0] != self.port or not lost[0]]
        if len(others) > told or len(outcome.lost) - len(others) > 1:
            raise Illegal(f"{outcome}: lost {outcome.lost}, the fault was at port {self.port}")

    # All cases.

    def where(self, role):
        return places({**self.modules, "program": self.programs.get(role, self.subject)}, self.frames)

    def cases(self, role):
        """The calls that every upgrade makes, each with all its faults, in their order."""
        self.run()
        found = [case for case in self.page.cases() if case.role == role]
        for _ in range(DRY_RUNS - 1):
            self.run()
            again = set(self.page.cases())
            found = [case for case in found if case in again]
        return found

    def concerns(self, role, case):
        if case.fault not in {fault for fault, _ in NOT_OF_AN_UPGRADE}:
            return True
        self.frames = [(case.module, case.site)]
        return not any(case.fault == fault and place in self.where(role)
                       for fault, place in NOT_OF_AN_UPGRADE)


def sample(cases, seed):
    """One case for each call by its name, of memory a few, the same ones each time; none that a
    drain's or the channel's deadline ends, which takes ten seconds."""
    by_name = collections.defaultdict(list)
    for case in cases:
        if case.fault != "EPIPE":
            by_name[case.name].append(case)
    rng = random.Random(seed)
    found = []
    for name in sorted(by_name):
        found += rng.sample(by_name[name], min(4 if name in MEMORY else 1, len(by_name[name])))
    return found


def every_case(shape, role, cases):
    """Runs the cases; (what became of them, what is wrong with which)."""
    count, wrong = collections.Counter(), []
    for case in cases:
        if not shape.concerns(role, case):
            continue
        try:
            # Where the call was not made nothing has failed: what clients do meanwhile decides.
            for _ in range(ATTEMPTS):
                outcome = shape.judge(case)
                if outcome is not None:
                    break
            count["not met" if outcome is None else outcome.word] += 1
            count["lost by the fault"] += len(outcome.lost) if outcome else 0
        except (AssertionError, OSError, LookupError, ValueError) as error:
            count["wrong"] += 1
            wrong.append(f"{case}: {type(error).__name__}: {error}\n    at {shape.where(role)}")
            shape.give_up()
    return count, wrong


class SelfUpgrade(Shape):
    """The service starts its own successor. Roles: predecessor and successor."""

    def address(self):
        (found,) = [one for one in self.service.addresses() if one.startswith("tcp:")]
        return parse(found)

    def pids(self):
        return {self.service.pid}

    def roles(self):
        return {self.service.pid: "predecessor"}

    def kinds(self):
        return {"the service": kinds(self.service.pid)}

    def upgrade(self, mark, deadline):
        """Asks, and waits until one process is left; what the one that was asked said last."""
        before = self.service.serving
        before.send(signal.SIGUSR2)
        while not self.told(mark, before.pid) and not before.ended and deadline.left():
            # A word that could not be written is told as lost with the next one that could.
            if self.service.log.find("state", since=mark, to="serving") and self.lines_lost(mark):
                break
            select.select([], [], [], 0.002)
        while True:
            self.service.reap()
            running = self.service.running
            if len(running) == 1 and self.in_pid_file() == running[0]:
                break
            if deadline.left() == 0 or not running:
                raise Illegal(f"{running} run, the pid file has {self.in_pid_file()}: "
                              f"{self.service.log.lines[-12:]}")
            select.select([], [], [], 0.003)
        outcome = self.last_word(mark, before.pid)
        if outcome.word == "upgraded" and self.service.pid == before.pid:
            self.service.log.wait_for("upgrade-ended", since=mark, outcome="taken-back", deadline=5)
            outcome = self.told(mark, before.pid)
        return outcome

    def in_pid_file(self):
        """The pid; None where there is no file for a moment, between one generation and the next."""
        try:
            return self.service.pid
        except (FileNotFoundError, ValueError):
            return None

    def told(self, mark, pid):
        ends = self.service.log.find("upgrade-ended", since=mark, pid=pid)
        return Outcome(ends[-1]["outcome"], ends[-1]["reason"]) if ends else None

    def lines_lost(self, mark):
        return [event for event in self.service.log.find("warning", since=mark) if event.get("lost")]

    def last_word(self, mark, pid):
        """What was written before the end is read soon; what could not be is told as lost."""
        deadline = until(5)
        while (outcome := self.told(mark, pid)) is None:
            if lost := self.lines_lost(mark):
                return Outcome("log line lost", lost[0]["reason"])
            if deadline.left() == 0:
                raise Illegal(f"how it ended was not told: {self.service.log.lines[-12:]}")
            select.select([], [], [], 0.002)
        return outcome


class Supervised(Shape):
    """`segue run` starts every generation. Roles: its own, and those of the two generations."""

    generation = 0  # that was to be replaced

    def address(self):
        (found,) = [one["address"] for one in self.status()["listeners"] if one["name"] == "http"]
        return parse(found)

    def ask(self, verb, deadline=None, **more):
        """What the supervisor answers, {} where it does not: as the command would, without a process
        for each question."""
        answer = {}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(until(deadline).left())
            try:
                client.connect(str(self.service.control))
                client.sendall(json.dumps({"verb": verb, **more}).encode() + b"\n")
                with client.makefile("rb") as lines:
                    for line in lines:
                        answer = json.loads(line)
            except (OSError, ValueError):
                pass
        return answer if answer.get("end") else {}

    def status(self):
        answer = self.ask("status")
        if "status" not in answer:
            raise Illegal(f"the supervisor does not say how it is: {answer}")
        return answer["status"]

    def workers(self):
        return [worker for one in self.status()["generations"] for worker in one["workers"]
                if worker["pid"] is not None]

    def pids(self):
        return {worker["pid"] for worker in self.workers()}

    def roles(self):
        supervisor = self.service.pid
        (serving,) = self.status()["generations"]
        self.generation = serving["number"]
        roles = {stat.pid: "bystander" for stat in processes.children(supervisor)}
        roles.update({worker["pid"]: "predecessor" for worker in serving["workers"]})
        roles[supervisor] = "supervisor"
        return roles

    def kinds(self):
        return {"the supervisor": kinds(self.service.pid),
                "the worker": kinds(self.workers()[0]["pid"])}

    def upgrade(self, mark, deadline):
        """Asks, and waits until one worker is left, and the relay. The supervisor is asked nothing
        more meanwhile: its calls are counted."""
        answer = self.ask("upgrade", deadline, wait=True)
        if "outcome" in answer:
            outcome = Outcome(answer["outcome"], answer.get("message", ""))
        else:
            outcome = self.not_told(deadline)
        while True:
            self.service.reap()
            if self.service.first.ended:
                raise Illegal(f"{outcome}: the supervisor is gone, {self.service.running} run")
            left = processes.children(self.service.pid)
            if len(left) == 2:
                return outcome
            if deadline.left() == 0:
                raise Illegal(f"{outcome}: the supervisor has {left}")
            select.select([], [], [], 0.002)

    def not_told(self, deadline):
        """The fault spoiled the answer: the status tells, where the request was heard."""
        while (status := self.status())["upgrade"] is not None and deadline.left():
            select.select([], [], [], 0.005)
        last = status["last_upgrade"]
        if last is None or last["generation"] <= self.generation:
            return Outcome("not begun", "")
        return Outcome(last["outcome"], last["message"])

    def check_state(self, outcome):
        deadline = until(LIMIT)
        while True:
            status = self.status()
            states = [worker["state"] for one in status["generations"] for worker in one["workers"]]
            if states == ["serving"] and status["state"] == "serving":
                return
            if deadline.left() == 0:
                raise Illegal(f"{outcome}: {status}")
            select.select([], [], [], 0.003)


MEMORY = {"malloc", "calloc", "realloc", "reallocarray"}

# What an upgrade cannot do without: if one of these is not seen, the library sees too little.
NEEDED = {
    "self predecessor": {"accept4", "clone", "epoll_ctl", "fcntl", "memfd_create", "pipe2", "recv",
                         "recvmsg", "send", "sendmsg", "socketpair"},
    "self successor": {"accept4", "epoll_create1", "eventfd", "execve", "getsockname", "mmap", "open",
                       "poll", "read", "recvmsg", "renameat", "sendmsg", "timerfd_create"},
    "supervised predecessor": {"accept4", "epoll_ctl", "memfd_create", "recv", "recvmsg", "send",
                               "sendmsg"},
    "supervised successor": {"accept4", "epoll_create1", "eventfd", "execve", "mmap", "open", "poll",
                             "read", "recvmsg", "sendmsg", "timerfd_create"},
    "supervised supervisor": {"accept4", "clone", "fcntl", "open", "pipe2", "read", "recvmsg",
                              "sendmsg", "socketpair", "uv_poll_init"},
}
NEEDED_MEMORY = {"malloc", "calloc"}


def everything(request):
    """With --all, but for the sanitized build, which is slow: that one is there to find what a fault
    leaks in the sample."""
    return request.config.getoption("--all") and request.getfixturevalue("build").name in ("plain", "coverage")


def check(shape, what, memory, every, tell):
    """What all tests do: the cases of a role, or a sample of them, and their numbers."""
    role = what.split()[1]
    found = [case for case in shape.cases(role) if (case.name in MEMORY) == memory]
    names = {case.name for case in found}
    needed = NEEDED_MEMORY if memory else NEEDED[what]
    assert names >= needed, f"not seen: {needed - names}"
    chosen = found if every else sample(found, role)
    count, wrong = every_case(shape, role, chosen)
    lost = count.pop("lost by the fault")
    kind = "allocations" if memory else "system calls"
    tell(f"{what}, {kind}: {sum(count.values())} of {len(found)} faults in {len(names)} functions: "
         + ", ".join(f"{number} {word}" for word, number in sorted(count.items()))
         + f"; {lost} requests lost, each by its fault")
    assert not wrong, "\n".join(wrong)
    assert count["not met"] <= max(3, 0.1 * len(chosen)), count
