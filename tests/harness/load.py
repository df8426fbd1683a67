"""The counting client, segue-load: started with shapes, stopped or waited for, its JSON read."""

import signal

from harness.deadline import until
from harness.service import Service


class Result(dict):
    """The report of a run; see src/load for its fields."""

    @property
    def lost(self):
        return self["lost"]

    @property
    def closed(self):
        return self["closed"]


class Load(Service):
    """Runs until its own limit, or until stop(). The first event is 'running'."""

    def __init__(self, program, folder, *arguments, name="load"):
        super().__init__([program, "--json", *arguments], folder, name=name)

    def wait_running(self, deadline=None):
        self.log.wait_for("running", deadline=deadline)
        return self

    def stop(self, deadline=None):
        self.first.send(signal.SIGINT)
        return self.result(deadline)

    def result(self, deadline=None):
        """Waits for the end and returns the report, which is the last JSON line."""
        self.wait_end(until(deadline))
        code = self.exit_codes[self.first.pid]
        if not self.log.events or self.log.events[-1].name == "running":
            raise AssertionError(f"segue-load exited with {code}: {self.log.text()}")
        return Result(self.log.events[-1])


