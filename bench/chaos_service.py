"""A service as bench/chaos sees it: what its next generation is made of, how a process of it is ended so
that what is lost with it is known, and what holds when it is at rest. Its shapes are in chaos_shapes.py.
"""

import signal
import time

from chaos_clients import Excuse, Life
from chaos_kernel import Growth, inodes, sockets
from chaos_tables import Tables
from harness import processes
from harness.builds import put_program, sanitizer_environment


class Violation(Exception):
    """What must not be."""


class Subject:
    """One service. world: folder, program, clients, note()."""

    DEATHS = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT)

    def __init__(self, world, number, drawn):
        self.world = world
        self.clients = world.clients
        self.drawn = drawn
        self.folder = world.folder / f"service{number}"
        self.folder.mkdir()
        self.path = put_program(world.program, self.folder / "version")
        self.tables = Tables()
        self.ended = {}  # pid: by what chaos has ended it
        self.growth = Growth()
        self._judged = 0
        self._stopped = set()
        self.put("options", "\n".join(drawn["options"]))
        self.environment = {"CHAOS": self.folder, **sanitizer_environment(self.folder)}
        # Who is killed at its work has not given back what it had.
        self.environment["ASAN_OPTIONS"] += ":detect_leaks=0"
        self.service = self.begin()
        self.service.wait_serving()
        self.life = Life(number, self.address())
        self.clients.serve(self.life)

    def put(self, name, text):
        """A file of the service's, whole from the beginning."""
        unfinished = self.folder / f".{name}"
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.rename(self.folder / name)

    # What the next generation is.

    def stage(self, version, drawn):
        """Returns how an upgrade to it has to end where nothing else happens; None: in many ways."""
        self.put("options", "\n".join([*drawn["options"], *self.start_timeout(drawn)]))
        self.put("drain", str(drawn["drain_ms"]))
        if version in ("missing", "not-executable", "garbage", "folder"):
            self._break_file(version)
            return "failed"
        if version.split()[0] in ("exit", "crash", "refuse", "hang"):
            self.put("orders", version)
            return "failed"
        if version.split()[0] in ("late", "slow", "serves", "request"):
            self.put("orders", version)
            return "upgraded" if version.startswith(("late", "slow")) else None
        return self.stage_refusal(version)

    def start_timeout(self, _):
        return []

    def _break_file(self, how):
        unfinished = self.path.with_name(".broken")
        if how in ("not-executable", "garbage"):
            unfinished.write_bytes(b"This is no program.\n")
            unfinished.chmod(0o755 if how == "garbage" else 0o644)
            unfinished.rename(self.path)
            return
        self.path.unlink()
        if how == "folder":
            self.path.mkdir()

    def unstage(self):
        """The next one is whole again."""
        if self.path.is_dir():
            self.path.rmdir()
        put_program(self.world.program, self.path)
        for name in ("orders", "check", "refuse"):
            (self.folder / name).unlink(missing_ok=True)

    # Who there is.

    def members(self):
        """{pid: Stat} of what lives, the oldest first."""
        alive = [stat for stat in self.service.members() if not stat.zombie]
        return {stat.pid: stat for stat in sorted(alive, key=lambda one: (one.start_ticks, one.pid))}

    def log_since(self, mark):
        return self.service.log.events[mark:]

    # Ending and stopping processes.

    def _process(self, pid):
        try:
            return self.service.process(pid)
        except (AssertionError, FileNotFoundError, ProcessLookupError):
            return None

    def end(self, pids, why, number=signal.SIGKILL):
        """Ends processes. They are stopped first, so that the connections that they hold are known:
        these may be lost from now on, and no others. Where nobody else holds the listener, whatever
        waits in its queue may be lost as well, and clients may find nobody."""
        with self.clients.lock:
            victims = self._stop_all(pids)
            if not victims:
                return []
            pids = [one.pid for one in victims]
            self._excuse(pids, why)
            for one in victims:
                self.ended[one.pid] = why
                one.send(number)
                one.send(signal.SIGCONT)
        for one in victims:
            one.wait()
        return pids

    def _stop_all(self, pids):
        """The Processes of those that could be stopped. pids: None: of all, also of what one of them
        starts before it stops itself."""
        stopped = {}
        while True:
            more = set(self.members() if pids is None else pids) - set(stopped)
            for process in filter(None, map(self._process, more)):
                stopped[process.pid] = process if self._stop(process) else None
            if pids is not None or not more:
                return [one for one in stopped.values() if one is not None]

    def _excuse(self, pids, why):
        table = sockets(self.life.address[1])
        held = {pid: {table[inode] for inode in inodes(pid) if inode in table} for pid in pids}
        # A copy of one that is to become a successor has its descriptors, and closes them when it does.
        known = {event.get("pid") for event in self.service.log.events} | {self.service.first.pid}
        others = [set(inodes(pid)) for pid in self.members() if pid not in pids and pid in known]
        excuse = Excuse(why, pids)
        self.life.deaths += len(pids)
        self.life.unsettled = self.life.hurt = True
        count = self.clients.excuse(self.life, excuse, set().union(*held.values()))
        listeners = {inode for inode, client in table.items() if client is None}
        alone = not any(listeners & other for other in others)
        if alone:
            # The queue is no process's: what nobody has accepted goes with the listener.
            elsewhere = {table.get(inode) for other in others for inode in other}
            ports = {one.port for one in self.clients._of(self.life)} - elsewhere
            count = self.clients.excuse(self.life, excuse, ports)
            self.life.unheld = excuse
        self.world.note(ended=pids, why=why, held=count, nobody_listens=alone)

    def _stop(self, process):
        """False where it has ended meanwhile."""
        try:
            if processes.Stat(process.pid).state != "T":
                process.stop()
        except (AssertionError, FileNotFoundError, ProcessLookupError):
            return False
        return not process.ended

    def pause(self, pids, ms):
        """Stops processes for a while; what they own waits."""
        paused = [one for one in map(self._process, pids) if one is not None]
        self._stopped |= {one.pid for one in paused}
        paused = [one for one in paused if self._stop(one)]
        self.clients.wait_answers(1 << 60, ms / 1000)
        for one in paused:
            one.go_on()
            self._stopped.discard(one.pid)
        self.life.hurt = True
        self._stopped -= set(pids)
        return [one.pid for one in paused]

    def tend(self):
        """What has happened by itself: who stopped in order to die is ended, what the log says is
        judged."""
        self.service.reap()
        for pid, stat in self.members().items():
            if stat.state == "T" and pid not in self._stopped:
                # A sanitizer would take another signal for a finding.
                crash = (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL)[len(self.ended) % 3]
                self.end([pid], "the version died", signal.SIGKILL if self.world.sanitized else crash)
        events = self.service.log.events
        while self._judged < len(events):
            event = events[self._judged]
            self._judged += 1
            self.judge(event)

    def judge(self, event):
        wrong = self.tables.judge(event)
        if wrong:
            raise Violation(f"no legal change of a state: {wrong}")

    # At rest.

    def settled(self):
        """Whom a client may be answered by, all other processes having gone; None: not yet."""
        raise NotImplementedError

    def at_rest(self, serving):
        """Nothing has grown. serving: pids."""
        self.life.address = self.address()
        self.life.unsettled = False
        self.life.rested_at = time.monotonic()
        self.life.unheld = None
        found = []

        def grown():
            found[:] = self.growth.look(self, serving)
            return not found

        # A connection that was closed a moment ago is a descriptor still.
        self.world.until(grown, 10, lambda: "; ".join(found))

    # The end.

    def wait_over(self, seconds=90):
        self.world.until(self.is_over, seconds, "the end of the service")
        self.over()

    def is_over(self):
        return not self.members()

    def over(self):
        """Nobody is left: is all as it was told to be?"""
        self.clients.leave(self.life)
        self.service.wait_end(10)
        self.tend()
        wrong = []
        for pid, code in self.service.exit_codes.items():
            if code is not None and code not in self.exits(pid):
                wrong.append(f"process {pid} exited with {code}")
        self.service.expected_exits = set(self.service.exit_codes.values())
        wrong += self.service.finish()
        wrong += [str(path) for path in self.folder.glob("sanitizer.*")]
        if wrong:
            raise Violation("; ".join(wrong))

    def dies_yet(self):
        """Somebody is to die at a request that has not come."""
        return any(self.orders(pid).startswith(("request", "serves")) for pid in self.members())

    def orders(self, pid):
        """What it was ordered to do, "" where it is whole."""
        try:
            return (self.folder / f"orders.{pid}").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def broken(self, pid):
        """It took the orders of a version that ends."""
        return self.orders(pid).partition(" ")[0].strip() not in ("", "late", "slow")

    def exits(self, pid):
        """The exit codes that a process may have."""
        if pid in self.ended:
            # TERM, where its last act was to give back what TERM meant before.
            return (*self.DEATHS, -signal.SIGTERM, 0, 1)
        if self.broken(pid):
            return (0, 1, 3, -signal.SIGKILL, -signal.SIGSEGV)
        # Who starts while others die, stand still or stop may give up, or be given up; 127 is said by
        # one that could not be executed, to whoever reaps it.
        return (0, 1, 127, -signal.SIGKILL) if self.life.hurt or self.life.ending else (0,)


class Asked:
    """One upgrade that was asked for: who was asked, and how it ended."""

    def __init__(self, subject, pid, mark, version):
        self.subject = subject
        self.pid = pid
        self.mark = mark
        self.version = version
        self.outcome = None
        self.said = None

    def done(self):
        if self.outcome is None:
            self.outcome = self.look()
        return self.outcome is not None
