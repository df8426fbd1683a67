"""The two shapes of a service: how an upgrade is asked for, and who is who meanwhile."""

import json
import os
import signal
import socket
import time

from chaos_clients import Excuse
from chaos_kernel import accepts, inodes, sockets
from chaos_service import Asked, Subject, Violation
from harness import processes
from harness.deadline import until
from harness.service import Service
from harness.supervised import Supervised

LONG = ("--head-timeout", "1h", "--idle-timeout", "1h", "--body-timeout", "1h",
        "--response-timeout", "1h")
SHORT_START, LONG_START = "2s", "60s"


# The program that replaces itself.


class AskedItself(Asked):
    def events(self):
        """(its kind, event) of what may be about it: begins, refused, ended; or its process has gone."""
        kinds = {"upgrade-begins": "begins", "upgrade-refused": "refused", "upgrade-ended": "ended",
                 "gone": "gone"}
        for event in self.subject.log_since(self.mark):
            if event.get("pid") == self.pid and event.name in kinds:
                yield "refused" if event.get("outcome") == "refused" else kinds[event.name], event

    def begun(self):
        return any(kind in ("begins", "refused") for kind, _ in self.events())

    def look(self):
        begun = False
        for kind, event in self.events():
            if kind == "begins":
                begun = True
            # Who is refused by now asked later, and what ends without having begun was asked before.
            elif kind == "gone" or kind == ("ended" if begun else "refused"):
                self.said = event.get("reason")
                return "asked-gone" if kind == "gone" else event.get("outcome", "refused")
        return "asked-died" if self.pid in self.subject.ended else None


class SelfUpgrade(Subject):
    def begin(self):
        self.pid_file = self.folder / "pid"
        self.short = {}
        command = [self.path, "--listen", "tcp://127.0.0.1:0", "--pid-file", self.pid_file,
                   "--log-format", "json", "--drain-timeout", "10m", *LONG]
        command += ["--preflight"] if self.drawn["preflight"] else []
        return Service(command, self.folder, pid_file=self.pid_file, env=self.environment)

    def address(self):
        return self.service.address

    def start_timeout(self, drawn):
        return ["--start-timeout", SHORT_START if drawn["short"] else LONG_START]

    def stage_refusal(self, version):
        if version == "may-upgrade":
            self.put("refuse", "")
            return "refused"
        if version == "check":
            self.put("check", "")
            return "failed" if self.drawn["preflight"] else "upgraded"
        return "upgraded"

    def ask(self, drawn):
        process = self._process(self.service.pid)
        if process is None:
            return None
        mark = self.service.log.mark()
        if not process.send(signal.SIGUSR2):
            return None
        return AskedItself(self, process.pid, mark, drawn["version"])

    def ask_again(self, asked, drawn):
        """Two signals at once would be one."""
        self.world.until(lambda: asked.begun() or asked.done(), 30, "the upgrade to begin")
        return self.ask(drawn)

    def whom(self, asked, name, _):
        alive = list(self.members())
        predecessor = [pid for pid in alive if pid == asked.pid]
        successor = [pid for pid in alive[-1:] if pid != asked.pid and len(alive) > 1 or not predecessor]
        return {"predecessor": predecessor, "successor": successor, "both": predecessor + successor,
                "oldest": alive[:1]}[name]

    def is_last(self, pids):
        return not set(self.members()) - set(pids)

    def hangs(self):
        """Where the predecessor is patient, or dead, chaos itself ends a version that hangs."""
        return [pid for pid in self.members() if self.orders(pid).startswith("hang")]

    def draining(self):
        """Those that will stay so: somebody serves, who is not about to end."""
        members = list(self.members()) or [None]
        states = {pid: self.tables.state("generation", pid) for pid in members}
        if states[members[-1]] != "serving" or processes.Stat(members[-1]).state == "T":
            return []
        return [pid for pid in members if states[pid] == "draining"]

    def cut(self, asked, act):
        """TERM twice to one that drains; the first is noted."""
        self.tend()
        for pid in self.draining()[:1]:
            process = self._process(pid)
            # What one that still accepts holds by the time that it is cut is not known.
            if process is None or self._accepts(process) or not self._settle_term(process):
                return []
            with self.clients.lock:
                if not self._stop(process):
                    return []
                table = sockets(self.life.address[1])
                ports = {table.get(inode) for inode in inodes(pid)}
                count = self.clients.excuse(self.life, Excuse("cut", [pid]), ports)
                self.ended.setdefault(pid, "it was cut")
                self.world.note(cut=pid, held=count)
                process.send(signal.SIGTERM)
                process.go_on()
            return [pid]
        return []

    def _accepts(self, process):
        if not self._stop(process):
            return True
        found = accepts(process.pid, sockets(self.life.address[1]))
        process.go_on()
        return found

    def _settle_term(self, process):
        """The first TERM, until it was taken; two at once would be one. False where it never will be."""
        process.send(signal.SIGTERM)
        deadline = until(10)
        bit = 1 << (signal.SIGTERM - 1)
        try:
            while int(processes.status(process.pid)["ShdPnd"], 16) & bit:
                deadline.check("a signal to be taken")
                if processes.Stat(process.pid).state == "T":
                    return False
                time.sleep(0.0005)
        except (FileNotFoundError, ProcessLookupError, KeyError):
            return False
        return not process.ended

    def reopen(self, pids):
        """Only who has said a word can handle the signal; it ends any other."""
        for process in filter(None, map(self._process, pids)):
            if self.tables.state("generation", process.pid) or process is self.service.first:
                process.send(signal.SIGUSR1)

    def settled(self):
        members = self.members()
        if len(members) != 1:
            return None
        (pid,) = members
        try:
            named = self.service.pid
        except (OSError, ValueError):
            return None
        if named != pid or self.tables.state("generation", pid) != "serving":
            return None
        # Another one than before, where nobody held it any more.
        self.life.address = self.address()
        return None if self.dies_yet() else [pid]

    def role(self, pid):
        return f"generation of {len(processes.threads(pid))} threads"

    def tell_to_stop(self, now):
        self._told = set()
        self._tell(now)

    def _tell(self, now):
        """Whom the pid file names. It may drain already, and only note it: then its successor is told,
        once the pid file names that."""
        try:
            process = self._process(self.service.pid)
        except (OSError, ValueError):
            return
        if process is None or process.pid in self._told:
            return
        self._told.add(process.pid)
        process.send(signal.SIGTERM)
        if now and self._settle_term(process):
            process.send(signal.SIGTERM)

    def is_over(self):
        if self.life.ending:
            self._tell(False)
        return super().is_over()

    def end_all(self, _):
        return self.end(None, "all are killed")


# Under a supervisor.


class AskedCommand(Asked):
    def __init__(self, subject, client, mark, version):
        super().__init__(subject, client.pid, mark, version)
        self.client = client
        self.said = ""

    def look(self):
        if self.client.poll() is None:
            return None
        out, err = self.client.communicate()
        lines = [json.loads(line) for line in out.splitlines() if line]
        end = lines[-1] if lines else {}
        if not end.get("end") or end.get("exit") != self.client.returncode:
            raise Violation(f"segue upgrade exited with {self.client.returncode}: {out} {err}")
        self.said = end.get("message")
        return end["outcome"]


class AskedBySignal(Asked):
    WORDS = {"serving": "upgraded", "failed": "failed", "refused": "refused", "resumed": "taken-back",
             "upgrade-refused": "refused"}

    def look(self):
        for event in self.subject.log_since(self.mark):
            if event.name == "upgrade-ended" and event["pid"] == self.pid:
                self.said = event["reason"]
                return event["outcome"]
            own = "service" in event or event.name == "upgrade-refused"
            if own and event.name in self.WORDS:
                self.said = event.get("text")
                return self.WORDS[event.name]
        return "asked-died" if self.pid in self.subject.ended else None


class Supervision(Subject):
    """`segue run`, whose workers are the version."""

    def begin(self):
        self.config = self.folder / "segue.conf"
        self.workers = self.drawn["workers"]
        self.suspicious = []  # what the supervisor says of workers that ended
        self.signalled = False
        self.configure()
        words = ["--config", self.config, "--restart-limit", "0", "--restart-delay", "20ms", "--restart-delay-max", "200ms", "--drain-timeout", "10m",
                 "--log", self.drawn["log"], "--orphans", self.drawn["orphans"]]
        return Supervised(self.world.build.program("src/segue/segue"), self.folder, *words, "--",
                          self.path, "--log-format", "json", *LONG, env=self.environment)

    def configure(self, *more, start_timeout=LONG_START):
        lines = [f"workers {self.workers}", f"start-timeout {start_timeout}", *more]
        if not any(line.startswith("listen ") for line in more):
            lines.append("listen http=tcp://127.0.0.1:0")
        self.put("segue.conf", "\n".join(lines))

    def address(self):
        return self.service.listener()

    def stage(self, version, drawn):
        if drawn["workers"]:
            self.workers = drawn["workers"]
        self.configure(start_timeout=SHORT_START if version == "hang" else LONG_START)
        return super().stage(version, drawn)

    def stage_refusal(self, version):
        more = {"preflight": ("failed", "preflight exit 1"), "mistake": ("refused", "workers many"),
                "listen": ("refused", "listen other=tcp://127.0.0.1:0")}
        if version not in more:
            return "upgraded"
        self.configure(more[version][1])
        return more[version][0]

    def unstage(self):
        super().unstage()
        self.configure()

    # Who there is.

    def started(self):
        """{generation: {worker: its youngest pid}}, by the supervisor's log."""
        found = {}
        for event in self.service.log.events:
            if event.name == "started" and "worker" in event:
                found.setdefault(event["generation"], {})[event["worker"]] = event["pid"]
        return found

    def whom(self, asked, name, worker):
        if name == "supervisor":
            return [self.service.first.pid]
        if name == "relay":
            return self.relay()
        alive = self.members()
        generations = [(number, [pid for _, pid in sorted(workers.items()) if pid in alive])
                       for number, workers in sorted(self.started().items())]
        generations = [pids for number, pids in generations if pids]
        if not generations:
            return []
        one = {"successor": generations[-1], "oldest": generations[0],
               "predecessor": generations[-2] if len(generations) > 1 else generations[-1],
               "both": generations[-1] + (generations[-2] if len(generations) > 1 else [])}[name]
        return one if name == "both" else [one[worker % len(one)]]

    def relay(self):
        """Whoever copies the output: the supervisor's oldest child that runs the same program."""
        own = processes.program(self.service.first.pid)
        for stat in sorted(processes.children(self.service.first.pid), key=lambda one: one.start_ticks):
            try:
                if not stat.zombie and processes.program(stat.pid) == own:
                    return [stat.pid]
            except (FileNotFoundError, ProcessLookupError):
                continue
        return []

    def end(self, pids, why, number=signal.SIGKILL):
        if pids and set(pids) & set(self.relay() if not self.service.first.ended else ()):
            self.tables.gaps = True  # What it had read and not written is lost.
        return super().end(pids, why, number)

    def is_last(self, _):
        return False

    def ask(self, drawn):
        way = drawn["way"]
        mark = self.service.log.mark()
        if way == "command":
            return AskedCommand(self, self.service.popen("upgrade", "--json"), mark, drawn["version"])
        pid = self.service.first.pid
        if way == "worker":
            alive = self.members()
            serving = [pid for _, workers in sorted(self.started().items())[-1:]
                       for pid in workers.values() if pid in alive
                       and self.tables.state("generation", pid) == "serving"]
            if not serving:
                return None
            pid = serving[0]
        process = self._process(pid)
        number = signal.SIGHUP if way == "HUP" else signal.SIGUSR2
        if process is None or not process.send(number):
            return None
        return AskedBySignal(self, pid, mark, drawn["version"])

    def ask_again(self, _, drawn):
        return self.ask({**drawn, "way": "command"})

    def hangs(self):
        return []

    def command(self, verb, *words):
        """A client whose answer is not waited for here."""
        return AskedCommand(self, self.service.popen(verb, "--json", *words), 0, verb)

    def cut(self, asked, act):
        """Whoever may drain by the time that the command arrives is stopped meanwhile, so that what it
        holds is known: all but the generation that serves, or is on its way to. Nothing is cut while
        one of them accepts."""
        alive, started = self.members(), self.started()
        generations = [number for number, workers in started.items() if set(workers.values()) & set(alive)]
        if len(generations) < 2:
            return []
        others = [one for one in self.world.asked if one is not asked and not one.done()]
        begun = [event["generation"] for event in self.log_since(asked.mark) if event.name == "started"]
        newest = max(generations)
        spared = not others and (asked.done() or newest in begun)
        pids = [pid for number in generations if number != newest or not spared
                for pid in started[number].values() if pid in alive]
        found = [one for one in map(self._process, pids) if one is not None]
        self._stopped |= set(pids)
        with self.clients.lock:
            found = [one for one in found if self._stop(one)]
            table = sockets(self.life.address[1])
            if any(accepts(one.pid, table) for one in found):
                for one in found:
                    one.go_on()
                self._stopped -= set(pids)
                return []
            ports = {table.get(inode) for one in found for inode in inodes(one.pid)}
            count = self.clients.excuse(self.life, Excuse("cut", pids), ports)
            self.world.note(cut=pids, held=count)
        # Whoever is stopped hears of it later; the command itself is answered by the supervisor.
        self.world.asked.append(self.command("cut"))
        self.world.until(self.world.asked[-1].done, 60, "segue cut")
        for one in found:
            one.go_on()
        self._stopped -= set(pids)
        return pids

    def restart(self, worker):
        self.world.asked.append(self.command("restart", worker % self.workers))

    def signal_workers(self):
        self.signalled = True
        self.world.asked.append(self.command("kill", "USR1"))

    def connect(self):
        """A client of the control socket that says half a request, and goes."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(10)
                one.connect(str(self.service.control))
                one.sendall(b'{"verb":"upg')
        except OSError:
            pass

    def reopen(self, pids):
        """Only who has said a word can handle the signal; it ends any other."""
        for process in filter(None, map(self._process, pids)):
            if self.tables.state("generation", process.pid) or process is self.service.first:
                process.send(signal.SIGUSR1)

    def status(self):
        """What the supervisor says of itself; None where it is dead."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(20)
                one.connect(str(self.service.control))
                one.sendall(b'{"verb":"status"}\n')
                data = b""
                while part := one.recv(65536):
                    data += part
        except (ConnectionError, FileNotFoundError):
            return None
        return json.loads(data)["status"]

    def settled(self):
        status = self.status()
        if status is None:
            return None
        self.judge_status(status)
        if status["state"] != "serving" or status["upgrade"] or len(status["generations"]) != 1:
            return None
        workers = status["generations"][0]["workers"]
        # One that was replaced may drain still, though its restart has ended: with a crash of the next.
        if any(one["state"] != "serving" for one in workers):
            return None
        if len(workers) != status["workers_wanted"]:
            raise Violation(f"{len(workers)} workers of {status['workers_wanted']}")
        pids = [one["pid"] for one in workers]
        expected = {self.service.first.pid, *pids, *self.relay()}
        if self.drawn["log"] != "direct" and not self.relay() or self.dies_yet():
            return None
        return pids if set(self.members()) == expected else None

    def judge_status(self, status):
        """Only one generation serves, and numbers fall."""
        generations = status["generations"]
        numbers = [one["number"] for one in generations]
        serving = [one["number"] for one in generations
                   if any(worker["state"] == "serving" for worker in one["workers"])]
        if numbers != sorted(set(numbers), reverse=True):
            raise Violation(f"generations {numbers}")
        if len(serving) > 1 and status["state"] not in ("committing", "abandoning"):
            raise Violation(f"generations {serving} serve while the service is {status['state']}")

    def judge(self, event):
        super().judge(event)
        if event.name in ("nonsense", "limit"):
            raise Violation(f"the supervisor says: {dict(event)}")
        if event.name in ("crashed", "closed"):
            self.suspicious.append(event["text"])

    def judge_suspicious(self):
        """A worker that ended was killed, or broken; or it had drained when its successor died, and did
        not hear any more that it was to serve again. That it had, its own lines say. A signal that is sent
        to all ends one that starts, and has not said yet what it does at it."""
        for text in self.suspicious:
            pid = int(text.partition("(pid ")[2].partition(")")[0])
            drained = self.tables.gaps or self.tables.state("generation", pid) == "gone"
            if self.signalled and "by signal 10" in text and "before it was ready" in text:
                continue
            if pid not in self.ended and not self.broken(pid) and not (self.life.hurt and drained):
                raise Violation(f"a worker ended that nobody killed: {text}")
        self.suspicious = []

    def at_rest(self, serving):
        self.judge_suspicious()
        super().at_rest(serving)

    def exits(self, pid):
        """The supervisor ends with the code of a worker that did not end as it was told to."""
        codes = super().exits(pid)
        if pid == self.service.first.pid and self.life.deaths:
            codes += tuple(128 - code for code in Subject.DEATHS)
        if self.service.first.pid in self.ended and pid not in self._spoke():
            # It was being started when the supervisor was killed, and the kernel told it.
            codes += (-signal.SIGTERM,)
        return codes

    def _spoke(self):
        """The pids of those that have written a line of their own."""
        return {event.get("pid") for event in self.service.log.events if not event.get("service")}

    def role(self, pid):
        if pid == self.service.first.pid:
            return f"supervisor of {len(self.members())} processes"
        if pid in self.relay():
            return f"relay of {len(self.members())} processes"
        return f"worker of {len(processes.threads(pid))} threads"

    def tell_to_stop(self, now):
        if not self.service.first.ended:
            self.world.asked.append(self.command("stop", *(["--now"] if now else [])))

    def end_all(self, supervisor_only):
        if not supervisor_only:
            return self.end(None, "all are killed")
        return self.end([self.service.first.pid], "the supervisor is killed")

    def stop_orphans(self):
        for process in filter(None, map(self._process, self.members())):
            if process.pid not in self.relay_orphans():
                process.send(signal.SIGTERM)

    def relay_orphans(self):
        segue = str(self.world.build.program("src/segue/segue"))
        found = []
        for pid in self.members():
            try:
                if os.path.samefile(processes.program(pid), segue):
                    found.append(pid)
            except OSError:
                continue
        return found


SHAPES = {"self": SelfUpgrade, "run": Supervision}

