"""The counting client, segue-load: started with shapes, stopped or waited for, its JSON read."""

import signal

from harness.deadline import until
from harness.service import Service


class Result(dict):
    """The report of a run, as `segue-load --help` explains it."""

    @property
    def lost(self):
        """Requests whose outcome counts against the server."""
        return self["lost"]

    @property
    def closed(self):
        """Connections that the server closed while idle, announced or not."""
        connections = self["connections"]
        return connections["idle_closed_announced"] + connections["idle_closed_unannounced"]

    @property
    def answers(self):
        """Answers by the value of --count-header, {} without it."""
        return self.get("header", {}).get("values", {})

    def __str__(self):
        """What a failed assertion should show."""
        return f"{self['outcomes']}, connections {self['connections']}, {self.get('losses')}"


class Load(Service):
    """Runs until its own limit, or until stop()."""

    def __init__(self, program, folder, *arguments, name="load"):
        super().__init__([program, "--json", *arguments], folder, name=name)
        # Losses are the test's to judge; a limit of its own or wrong usage is not expected.
        self.expected_exits = {0, 1}

    def wait_running(self, deadline=None):
        """Every connection has had the end of its first request."""
        self.log.wait_for("running", deadline=deadline)
        return self

    def stop(self, deadline=None):
        """No more requests; waits for the answers that are due, and returns the report."""
        self.first.send(signal.SIGINT)
        return self.result(deadline)

    def result(self, deadline=None):
        """Waits for the end and returns the report."""
        self.wait_end(until(deadline))
        found = self.log.find("result")
        if not found:
            code = self.exit_codes[self.first.pid]
            raise AssertionError(f"segue-load exited with {code}: {self.log.text()}")
        return Result(found[-1])
