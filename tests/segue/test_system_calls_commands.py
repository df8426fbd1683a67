"""Every call that can fail for want of something, in a command of segue and in the start of a service,
fails once: see tests/test_system_calls.py, which has the upgrades. Here nothing serves yet, or not by
this process: it says in one sentence what went wrong and ends with a documented exit code, or does
what it was asked to do.
"""

import collections
import os
import random
import subprocess

import pytest

from faultcalls import MODULES, Page, places
from faultcalls.runs import LIBRARY, MEMORY, everything
from functional import eventually
from harness import processes

SEED = 4
EXITS = range(8)
# What ends nothing: the call is made again, or the rest is read.
HARMLESS = {"EINTR", "short"}
# What does not survive it itself: libc's look-up of a user, and jansson's reading of a string.
NOT_OURS = (("libc", "find_user"), ("libjansson", "take_line"))

CONFIG = """name one
listen http=tcp://127.0.0.1:0
listen unix=unix://{folder}/unix
workers 2
env A=1
env B=two words
start-timeout 5s
stop-signal TERM
ready exec:test -e /nowhere
preflight true
control {folder}/other
pid-file {folder}/pid
log-file {folder}/log
program {program} 'one word' "an\\"other"
"""


class Command:
    """A command that is run again and again, each time with another fault."""

    def __init__(self, build, folder, words, environment=()):
        self.page = Page(folder / "faultcalls")
        self.segue = build.program("src/segue/segue")
        self.words = [self.segue, *map(str, words)]
        asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        kept = {name: os.environ[name] for name in ("PATH", "UBSAN_OPTIONS") if name in os.environ}
        self.environment = {**kept, "LD_PRELOAD": str(build.program(LIBRARY)), "ASAN_OPTIONS": asan,
                            "FAULTCALLS": str(self.page.path), **dict(environment)}
        self.usual = None
        self.known = {stat.pid for stat in processes.children()}

    def reap_the_rest(self):
        """What a supervisor that gave up leaves to init is dead, or soon is."""
        def reap():
            left = {stat.pid for stat in processes.children()} - self.known
            return {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == 0}
        eventually(reap, set())

    def run(self, case=None):
        self.page.arm({}, case)
        try:
            return subprocess.run(self.words, env=self.environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  timeout=30, check=False)
        finally:
            self.page.disarm()

    def cases(self):
        self.usual = self.run()
        return self.page.cases()

    def where(self):
        return places({"program": self.segue}, self.page.frames())

    def judge(self, case):
        """None, or what is wrong."""
        try:
            done = self.run(case)
        except subprocess.TimeoutExpired as error:
            return f"{case}: it does not end: {error.stderr!r}\n    at {self.where()}"
        self.reap_the_rest()
        if not self.page.fired:
            return None
        said = done.stderr + done.stdout
        if done.returncode not in EXITS:
            wrong = f"it ended with {done.returncode}"
        elif done.returncode != self.usual.returncode and not said.strip():
            wrong = f"it ended with {done.returncode} and said nothing"
        elif done.returncode != self.usual.returncode and case.fault in HARMLESS:
            wrong = f"it ended with {done.returncode}"
        else:
            return None
        where = self.where()
        if any(case.module == MODULES.index(module) and function in where
               for module, function in NOT_OURS):
            return None
        return f"{case}: {wrong}: {said!r}\n    at {where}"


def chosen(cases, every):
    """All of them, or a sample: each function's calls by some, and memory by more."""
    if every:
        return cases
    by_name = collections.defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    rng = random.Random(SEED)
    return [case for name in sorted(by_name)
            for case in rng.sample(by_name[name], min(6 if name in MEMORY else 1, len(by_name[name])))]


def check(command, what, every, tell, rest=lambda: None):
    """rest() comes back when the last one has left nothing that the next one would meet."""
    cases = command.cases()
    some = chosen(cases, every)
    wrong = []
    for case in some:
        rest()
        wrong += filter(None, [command.judge(case)])
    tell(f"segue {what}: {len(some)} of {len(cases)} faults")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def faulty(build, folder):
    """faulty('status', ...) is a Command."""
    made = []

    def make(*words, **more):
        made.append(Command(build, folder, words, **more))
        return made[-1]

    yield make
    for one in made:
        one.page.close()


@pytest.fixture
def conf(folder, build):
    path = folder / "a.conf"
    path.write_text(CONFIG.format(folder=folder, program=build.program("examples/hello")))
    return path


@pytest.mark.timeout(900)
def test_whichever_call_of_check_fails_it_says_so(faulty, conf, request, tell):
    check(faulty("check", conf), "check", everything(request), tell)


# What asks a service: the service is none the worse for it.
ASKS = {"status": (), "status --json": (), "list": (), "upgrade": (), "upgrade --json": (),
        "upgrade --no-wait": (), "upgrade that fails": (), "cut": (), "restart": (0,),
        "kill": ("USR1",)}


@pytest.mark.parametrize("verb", ASKS)
@pytest.mark.timeout(900)
def test_whichever_call_of_a_client_fails_it_says_so(faulty, supervise, request, folder, tell, verb):
    service = supervise("--start-timeout", "5s")
    name, *options = verb.replace("upgrade that fails", "upgrade").split()
    where = () if name == "list" else ("--control", service.control)
    more = ("--", "/nowhere/program") if verb == "upgrade that fails" else ASKS[verb]
    environment = {"SEGUE_RUNTIME_DIR": str(folder)}
    command = faulty(name, *where, *options, *more, environment=environment)
    check(command, verb, everything(request), tell,
          rest=lambda: eventually(lambda: service.status()["upgrade"], None))
    eventually(lambda: service.status()["state"], "serving")


STARTS = {
    "plain": (),
    "relay": ("--log", "prefix", "--pid-file", "{folder}/pid", "--log-file", "{folder}/log"),
    "settings": ("--workers", "2", "--env", "A=1", "--user", "root", "--chdir", "/", "--stop-signal", "HUP",
                 "--preflight", "true", "--listen", "b=unix://{folder}/b", "--listen-mode", "600"),
    "file": ("--config", "{folder}/a.conf"),
    "fd": ("--ready", "fd:9"),
    "exec": ("--ready", "exec:test -e /nowhere"),
    "tcp": ("--ready", "tcp://127.0.0.1:1"),
    "http": ("--ready", "http://localhost:1/ready"),
}


@pytest.mark.parametrize("shape", STARTS)
@pytest.mark.timeout(900)
def test_whichever_call_of_a_start_fails_it_ends_and_says_so(faulty, conf, request, folder, tell, shape):
    """The program ends before it is ready, and so the supervisor does."""
    words = [word.format(folder=folder) for word in STARTS[shape]]
    command = faulty("run", "--control", folder / "control", "--env", "LD_PRELOAD=", "--listen",
                     "http=tcp://127.0.0.1:0", *words, "--", "/bin/sh", "-c", "exit 3")
    check(command, f"run, {shape}", everything(request), tell)
