"""A server program with all its generations, from start to last exit.

Each service runs in a session of its own in a fresh folder, so that its generations are found
whatever they were forked by, zombies included. Nothing of it outlives finish(), which says what
was not as it should be.
"""

import os
import re
import signal
import subprocess

from harness import processes
from harness.deadline import Expired, until
from harness.http import Connection
from harness.log import Log

# How a service that logs JSON says the one thing that the harness itself has to know. Everything
# else is the tests' own business.


def is_serving(event):
    """A generation accepts from now on."""
    return event.name == "serving" or may_be_upgraded(event)


def may_be_upgraded(event):
    """The same, and the commit and any probation are behind it."""
    return event.name == "state" and event.get("to") == "serving"


class Service:
    def __init__(self, command, folder, *, pid_file=None, env=None, cwd=None, umask=-1,
                 name="service", preexec=None, pass_fds=()):
        """Starts a program. env: changes to the environment, None as value removes a name.
        preexec: runs in the child before exec (an open signal mask, ignored signals, ...)."""
        self.folder = folder
        self.command = [str(word) for word in command]
        self.pid_file = pid_file
        self.log = Log(folder / f"{name}.log")
        self.exit_codes = {}
        self.expected_exits = {0}
        self._known = {}
        self._retired = []
        full = dict(os.environ)
        for key, value in (env or {}).items():
            full.pop(key, None)
            if value is not None:
                full[key] = str(value)
        try:
            with open(os.devnull, "rb") as nothing:
                child = subprocess.Popen(
                    self.command,
                    stdin=nothing,
                    stdout=self.log.descriptor,
                    stderr=self.log.descriptor,
                    cwd=cwd or folder,
                    env=full,
                    umask=umask,
                    start_new_session=True,
                    preexec_fn=preexec,
                    pass_fds=pass_fds,
                )
        finally:
            self.log.started()
        child.returncode = 0  # Reaped here, not by subprocess.
        self.session = child.pid
        self.first = self._hold(child.pid)

    def __repr__(self):
        return f"<service {os.path.basename(self.command[0])} {self.session}>"

    # Generations.

    def sessions(self):
        """The sessions that the service's processes are in."""
        return {self.session}

    def members(self):
        """Stats of the service's processes, zombies too. Only of those below this process: the number
        of a session that has ended may be a stranger's by now."""
        sessions = self.sessions()
        return [stat for stat in processes.descendants() if stat.session in sessions]

    def _hold(self, pid):
        """The Process of a pid; looked up once, held until finish()."""
        known = self._known.get(pid)
        if known is not None and known.exit_code is not None and os.path.exists(f"/proc/{pid}"):
            # Reaped, and the kernel has given the number to another process since.
            self._retired.append(known)
            self.exit_codes.pop(pid, None)
            known = None
        if known is None:
            known = self._known[pid] = processes.Process(pid)
        return known

    def reap(self):
        """Takes the exit codes of the orphans that have ended, so that they do not pile up."""
        for session in self.sessions():
            self._reap_group(session)

    def _reap_group(self, session):
        while True:
            try:
                info = os.waitid(os.P_PGID, session, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if info is None:
                return
            self.exit_codes[info.si_pid] = processes.exit_code(info)
            if info.si_pid in self._known:
                self._known[info.si_pid].exit_code = self.exit_codes[info.si_pid]

    @property
    def running(self):
        """The pids of the session that are alive, oldest first (helpers of the service too)."""
        alive = [stat for stat in self.members() if not stat.zombie]
        return [stat.pid for stat in sorted(alive, key=lambda stat: (stat.start_ticks, stat.pid))]

    @property
    def pid(self):
        """The pid that the pid file names; without a pid file, that of the youngest process."""
        if self.pid_file is None:
            return self.running[-1]
        with open(self.pid_file, encoding="ascii") as file:
            return int(file.read())

    @property
    def serving(self):
        """The Process that the pid file names."""
        return self._hold(self.pid)

    def process(self, pid):
        """The Process of any pid of this service (from a log event, a header)."""
        stat = processes.Stat(pid)
        if stat.session not in self.sessions():
            raise AssertionError(f"process {pid} ({stat.name}) is none of {self}")
        return self._hold(pid)

    def send(self, number, pid=None):
        """A signal to the serving generation (to a pid of this service)."""
        return (self.serving if pid is None else self.process(pid)).send(number)

    def send_group(self, number):
        """A signal to the whole process group, as a terminal does."""
        os.killpg(self.session, number)

    def wait_generation(self, number, deadline=None):
        """The event with which a generation came to serve."""
        return self.log.wait_for(
            deadline=deadline,
            where=lambda event: is_serving(event) and event.get("generation") == number,
        )

    def wait_serving(self, since=0, deadline=None):
        return self.log.wait_for(since=since, deadline=deadline, where=is_serving)

    def upgrade(self, deadline=None, number=signal.SIGUSR2):
        """Asks for an upgrade and waits until the successor serves, and may itself be upgraded where
        the program says so much; its event. The predecessor may still be draining."""
        self.reap()
        says = may_be_upgraded if self.log.find("state") else is_serving
        mark = self.log.mark()
        before = self.pid
        self.send(number)
        return self.log.wait_for(
            since=mark,
            deadline=deadline,
            where=lambda event: says(event) and event.get("pid") != before,
        )

    def wait_exit(self, pid, deadline=None):
        """Waits for the end of one process; its exit code, negative for a signal, None where its
        own parent reaped it."""
        if self.exit_codes.get(pid) is not None:
            return self.exit_codes[pid]
        try:
            process = self._known.get(pid) or self.process(pid)
        except (FileNotFoundError, ProcessLookupError):
            return self.exit_codes.get(pid)
        # None may become a number: an unreaped process is ours once its parent has gone.
        self.exit_codes[pid] = process.reap(deadline)
        return self.exit_codes[pid]

    # Addresses.

    def addresses(self, pid=None):
        """What the serving generation listens on, as the kernel sees it."""
        return processes.listening(pid or self.pid)

    @property
    def address(self):
        """(host, port) or the path of the only listener, for Connection and Load."""
        found = self.addresses()
        if len(found) != 1:
            raise AssertionError(f"{self} listens on {found}, not on one address")
        return parse(found[0])

    @property
    def url(self):
        return url(self.address)

    def connect(self, **options):
        return Connection(self.address, **options)

    # The end.

    def stop(self, deadline=None):
        """TERM to the serving generation; waits until nobody is left; the exit codes by pid."""
        self.send(signal.SIGTERM)
        return self.wait_end(deadline)

    def wait_end(self, deadline=None):
        """Waits until no process of the service is left, and reaps each that is ours."""
        deadline = until(deadline)
        while True:
            left = self.members()
            if not left:
                break
            for stat in left:
                try:
                    self._hold(stat.pid)
                except ProcessLookupError:
                    continue
                self.wait_exit(stat.pid, deadline)
                # Its own parent has yet to reap it; that parent is in this session as well.
            deadline.check(f"the end of {self}")
        self.log.wait_end(deadline)
        return dict(self.exit_codes)

    def finish(self):
        """Ends what is left. Returns a text for each thing that was not as it should be."""
        wrong = []
        left = self.members()
        if any(not stat.zombie for stat in left):
            try:
                self.stop(20)
            except (AssertionError, OSError, ValueError, IndexError) as error:
                wrong.append(f"{self} did not stop at TERM: {error}")
        else:
            wrong += self._reap_rest(left)
        left = self.members()
        if left:
            wrong += [f"{self} left {text}" for text in processes.kill_all(left)]
            wrong += [f"{self} left {text}" for text in
                      processes.kill_all(self.members())]
        for pid, code in self.exit_codes.items():
            if code is not None and code not in self.expected_exits:
                wrong.append(f"{self}: process {pid} exited with {code}")
        try:
            self.log.wait_end(10)
        except Expired as error:
            wrong.append(f"somebody outside {self} holds its log: {error}")
        for process in [*self._known.values(), *self._retired]:
            process.close()
        return wrong

    def _reap_rest(self, left):
        try:
            self.wait_end(20)
        except (AssertionError, ProcessLookupError) as error:
            return [f"{self} left zombies {[stat.pid for stat in left]}: {error}"]
        return []


def parse(address):
    """(host, port) of 'tcp://host:port', the path of 'unix://path'; '@' stays for abstract."""
    if address.startswith("unix://"):
        return address[len("unix://") :]
    host, port = re.fullmatch(r"tcp://(.*):(\d+)", address).groups()
    host = host.strip("[]")
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return anywhere.get(host, host), int(port)


def url(address, path="/hello"):
    """What segue-load takes for an address that parse() returned."""
    if isinstance(address, str):
        socket = address.replace(":", "%3A")
        return f"http+unix://{socket}:{path}"
    host, port = address
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"
