"""A service under `segue run`: the supervisor, its workers, and the command that talks to it.

Each worker is in a session of its own; they are found by their parent, the supervisor, and once seen
they are not forgotten: an orphan is the test's to reap.
"""

import json
import os
import signal
import subprocess

import pytest

from harness import processes
from harness.deadline import until
from harness.service import Service


class Answer:
    """What a client of the supervisor said: its exit code, and its lines of JSON."""

    def __init__(self, code, out, err):
        self.code = code
        self.lines = [json.loads(line) for line in out.splitlines() if line]
        self.error = err

    @property
    def end(self):
        """The last line: exit, message, outcome."""
        return self.lines[-1] if self.lines else {}

    @property
    def message(self):
        return self.end.get("message")

    def events(self, name):
        return [line for line in self.lines if line.get("event") == name]

    def __repr__(self):
        return f"<exit {self.code}: {self.lines} {self.error}>"


class Supervised(Service):
    """The log holds the supervisor's lines and the workers', all JSON. pid is the supervisor's."""

    def __init__(self, segue, folder, *words, name="service", **more):
        self.segue = segue
        self.control = folder / f"{name}.control"
        self._sessions = set()
        command = [segue, "run", "--control", self.control, "--log-format", "json", *words]
        super().__init__(command, folder, name=name, **more)

    def sessions(self):
        mine = getattr(self, "first", None)
        if mine is not None:
            for stat in processes.children(mine.pid):
                self._sessions.add(stat.session)
        for event in self.log.find("started"):
            if "pid" in event:
                self._sessions.add(event["pid"])
        return {self.session, *self._sessions}

    @property
    def pid(self):
        return self.first.pid

    def wait_generation(self, number, deadline=None):
        """The supervisor's word that a generation serves."""
        return self.log.wait_for("serving", generation=number, deadline=deadline,
                                 where=lambda event: event.get("service"))

    def wait_serving(self, since=0, deadline=None):
        return self.log.wait_for("serving", since=since, deadline=deadline,
                                 where=lambda event: event.get("service"))

    def workers(self, generation=None):
        """The living workers by the supervisor's status, [{'worker', 'pid', 'state', ...}]."""
        found = self.status()["generations"]
        return [worker for one in found for worker in one["workers"]
                if worker["pid"] is not None and generation in (None, one["number"])]

    def listener(self):
        """(host, port) or path of the only listener, by the supervisor's status."""
        from harness.service import parse

        (one,) = self.status()["listeners"]
        return parse(one["address"])

    @property
    def address(self):
        return self.listener()

    # The command.

    def popen(self, verb, *words):
        """Starts a client; stdout and stderr are pipes."""
        return subprocess.Popen([self.segue, verb, "--control", self.control, *map(str, words)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def call(self, verb, *words, deadline=None):
        """Runs a client to its end."""
        client = self.popen(verb, *words)
        try:
            out, err = client.communicate(timeout=until(deadline).left())
        except subprocess.TimeoutExpired:
            client.kill()
            client.communicate()
            raise
        return client.returncode, out, err

    def ask(self, verb, *words, deadline=None):
        """The same with --json; an Answer."""
        return Answer(*self.call(verb, "--json", *words, deadline=deadline))

    def status(self):
        code, out, err = self.call("status", "--json")
        assert code == 0, (code, out, err)
        return json.loads(out)

    def upgrade(self, *words, deadline=None):
        """One upgrade, whole, that has to end well; its Answer."""
        answer = self.ask("upgrade", *words, deadline=deadline)
        assert answer.code == 0, answer
        return answer

    def stop(self, deadline=None):
        if os.path.exists(f"/proc/{self.first.pid}") and not processes.Stat(self.first.pid).zombie:
            self.first.send(signal.SIGTERM)
        else:
            # Orphans: each by itself.
            for stat in self.members():
                if not stat.zombie:
                    self._hold(stat.pid).send(signal.SIGTERM)
        return self.wait_end(deadline)


@pytest.fixture
def supervise(build, folder, _guard):
    """supervise('--workers', 4, program='hello', arguments=[...]) starts `segue run` with these
    options before an example (or a program by its path), waits until generation 1 serves, and
    returns the Supervised. listen: of the supervisor; None: the program binds for itself."""
    count = 0

    def start_one(*options, program="hello", arguments=(), listen=("http=tcp://127.0.0.1:0",),
                  own_listen=(), json=True, wait=True, **more):
        nonlocal count
        count += 1
        name = "service" if count == 1 else f"service{count}"
        words = [word for address in listen or () for word in ("--listen", address)]
        path = build.program(program) if isinstance(program, str) else program
        command = [path]
        for address in own_listen:
            command += ["--listen", address]
        if json:
            command += ["--log-format", "json"]
        segue = build.program("src/segue/segue")
        service = _guard.own(
            Supervised(segue, folder, *words, *options, "--", *command, *arguments,
                       name=name, **more))
        if wait:
            service.wait_serving()
        return service

    return start_one
