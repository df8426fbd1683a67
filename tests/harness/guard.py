"""What a test must have given back when it ends: descriptors, children, and no sanitizer's report."""

import os
import pathlib
import shutil
import tempfile

from harness import builds, processes


class Guard:
    """Made before a test, asked after it. Each test has a fresh folder with a short path, since a
    unix socket's path must be below 108 bytes; it is kept where the test failed."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="segue-"))
        self._services = []
        self._environment = dict(os.environ)
        os.environ.update(builds.sanitizer_environment(self.folder))
        self._directory = os.getcwd()
        self._descriptors = processes.descriptors()
        self._children = {stat.pid for stat in processes.children()}

    def own(self, service):
        """finish() of a service is called at the end, whatever the test did."""
        self._services.append(service)
        return service

    def finish(self):
        """Ends what is left and returns a text for each thing that was not given back."""
        wrong = []
        for service in reversed(self._services):
            wrong += service.finish()
        left = [stat for stat in processes.children() if stat.pid not in self._children]
        wrong += [f"the test left process {text}" for text in processes.kill_all(left)]
        os.environ.clear()
        os.environ.update(self._environment)
        if os.getcwd() != self._directory:
            os.chdir(self._directory)
        wrong += self._leaked_descriptors()
        for name, text in builds.sanitizer_reports(self.folder):
            wrong.append(f"sanitizer report in {name}:\n{text}")
        return wrong

    def _leaked_descriptors(self):
        now = processes.descriptors()
        leaked = {fd: now[fd] for fd in now if self._descriptors.get(fd) != now[fd]}
        return [f"the test left descriptor {fd} open: {leaked[fd]}" for fd in sorted(leaked)]

    def logs(self):
        """(name, text) of what the programs of the test said, for the report of a failure."""
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            yield path.name, "\n".join(lines[-40:])

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
