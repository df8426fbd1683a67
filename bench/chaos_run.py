"""The run of bench/chaos: steps, one after the other, against one service after the other."""

import argparse
import collections
import json
import pathlib
import random
import re
import resource
import shutil
import sys
import tempfile
import time

import chaos_plan
from chaos_clients import PATIENCE, SHAPES, Clients, Excuse
from chaos_service import Violation
from chaos_shapes import SHAPES as SUBJECTS
from harness import processes
from harness.builds import ROOT, Build, sanitizer_reports
from harness.http import Connection

OUTCOME = 90  # seconds for an upgrade to end, whatever happens meanwhile
REST = 90  # seconds for a service to come to rest


def seconds(text):
    found = re.fullmatch(r"(\d+)(s|m|h)", text)
    if not found:
        raise argparse.ArgumentTypeError("a duration is 30s, 5m or 8h")
    return int(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2)]


def parse(text):
    parser = argparse.ArgumentParser(prog="bench/chaos", description=text,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=seconds, default=60, metavar="TIME",
                        help="of each shape: 30s, 5m, 8h (60s)")
    parser.add_argument("--steps", type=int, metavar="N", help="so many steps instead")
    parser.add_argument("--from", type=int, default=0, metavar="STEP", dest="first", help="begin there")
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated (a fresh one)")
    parser.add_argument("--shape", choices=["self", "run", "both"], default="both",
                        help="self: the program replaces itself; run: segue run (both)")
    parser.add_argument("--build", choices=["plain", "sanitized", "coverage"], default="plain")
    parser.add_argument("--folder", type=pathlib.Path, metavar="FOLDER",
                        help="for logs, and kept; else it is kept after a violation only")
    return parser.parse_args()


class World:
    """One run of one shape."""

    def __init__(self, options, shape, folder):
        self.options = options
        self.shape = shape
        self.folder = folder
        self.build = Build(options.build)
        self.sanitized = self.build.sanitized
        self.program = self.build.compile(ROOT / "bench/chaos_version.c", http=True)
        self.clients = Clients(options.seed)
        self.subject = None
        self.asked = []  # whose outcome is awaited
        self.counts = collections.Counter()
        self.step = options.first
        self.at_rest = True  # the last step ended so, and nothing has happened since
        self._began = time.monotonic()
        self._lives = 0
        self._left = 0  # steps of this service
        self._replay = open(folder / "replay.jsonl", "w", encoding="utf-8", buffering=1)

    def note(self, **what):
        """A line for the replay log."""
        what = {"step": self.step, "s": round(time.monotonic() - self._began, 2), **what}
        if self.subject:
            what["events"] = self.subject.service.log.mark()
        self._replay.write(json.dumps(what, default=str) + "\n")

    def until(self, condition, limit, what):
        """Waits, and looks at everything meanwhile."""
        end = time.monotonic() + limit
        while True:
            self.look()
            if condition():
                return
            if time.monotonic() > end:
                raise Violation(f"waited {limit} s for {what() if callable(what) else what}")
            self.clients.wait_answers(1 << 60, 0.004)

    def look(self):
        if self.clients.violations:
            raise Violation("; ".join(self.clients.violations))
        if self.subject:
            self.subject.tend()

    # Services.

    def begin(self):
        drawn = chaos_plan.life(self.options.seed, self.shape, self.step)
        self._lives += 1
        self._left = drawn["steps"]
        self.note(begins=self._lives, **drawn)
        self.subject = SUBJECTS[self.shape](self, self._lives, drawn)
        self.at_rest = True
        self.counts["services"] += 1
        self.answered(20)

    def answered(self, count):
        """So many more answers: whoever serves does so."""
        if not self.clients.wait_answers(count, PATIENCE):
            self.look()
            raise Violation(f"no {count} answers in {PATIENCE:g} s")

    def close(self):
        """The service is over; its files go, unless they are wanted."""
        subject, self.subject = self.subject, None
        self.counts["changes of a state"] += subject.tables.judged
        self.asked = []
        if not self.options.folder:
            shutil.rmtree(subject.folder)

    def stop(self, now=False):
        subject = self.subject
        subject.life.ending = True
        if now:
            with self.clients.lock:
                self.clients.excuse(subject.life, Excuse("the service was stopped at once"))
        subject.tell_to_stop(now)
        subject.wait_over()
        self._judge_asked(None)
        self.close()

    # Steps.

    def run(self):
        self.clients.start()
        end = time.monotonic() + self.options.duration
        while not self._enough(end):
            if self.subject is None:
                self.begin()
            self._one(chaos_plan.step(self.options.seed, self.shape, self.step))
            self.step += 1
            self._left -= 1
            if self.subject and self._left <= 0:
                self.stop()
        if self.subject:
            self._rest()
        if self.subject:
            self.stop()
        self.look()

    def _enough(self, end):
        if self.options.steps:
            return self.step - self.options.first >= self.options.steps
        return time.monotonic() > end

    def _one(self, drawn):
        subject = self.subject
        self.note(**drawn)
        expected = subject.stage(drawn["version"], drawn)
        calm = self.at_rest and not drawn["acts"] and not drawn["end"]
        self.at_rest = False
        asked = subject.ask(drawn)
        if asked is None:
            self.note(left_out="upgrade")
            subject.unstage()
            return self._rest()
        self.asked.append(asked)
        for act in drawn["acts"]:
            self._when(act["when"], asked, act["us"])
            did = self._act(asked, act, drawn)
            self.note(did=act["act"], whom=act["whom"], what=did)
            self.counts[act["act"] if did else "left out"] += 1
        if drawn["end"]:
            self._when(drawn["end_when"], asked)
            return self._end(drawn["end"])
        if drawn["version"] == "hang":
            self._end_hanging(asked)
        self._judge_asked(expected if calm else None)
        if self._is_over():
            return None
        subject.unstage()
        if drawn["settle"]:
            self._rest()
        return None

    def _when(self, when, asked, us=0):
        kind, count = when
        mark, answers = self.subject.service.log.mark(), self.clients.answers
        condition = {
            "events": lambda: self.subject.service.log.mark() >= mark + count,
            "answers": lambda: self.clients.answers >= answers + count,
            "ended": lambda: False,
        }[kind]
        # A version that hangs says nothing more, nor does a drain that has ended. Nothing else is
        # looked at: moments are short.
        end, done = time.monotonic() + 1.5, False
        while not condition() and time.monotonic() < end:
            if not done and asked.done():
                done = True
                end = min(end, time.monotonic() + (0.2 if kind == "events" else 0))
            self.clients.wait_answers(1 << 60, 0.0005)
        self.clients.wait_answers(1 << 60, us / 1e6)

    def _act(self, asked, act, drawn):
        subject, name = self.subject, act["act"]
        if name == "again":
            again = subject.ask_again(asked, drawn)
            self.asked += [again] if again else []
            return [again.pid] if again else []
        if name == "cut":
            return subject.cut(asked, act)
        if name in ("restart", "signal", "connect"):
            return {"restart": lambda: subject.restart(act["worker"]), "signal": subject.signal_workers,
                    "connect": subject.connect}[name]() or [name]
        pids = subject.whom(asked, act["whom"], act["worker"])
        if name == "reopen":
            subject.reopen(pids)
        elif name == "stop":
            return subject.pause(pids, act["ms"])
        elif subject.is_last(pids) and not act["last_too"]:
            return []
        else:
            return subject.end(pids, f"{act['whom']} is killed")
        return pids

    def _end_hanging(self, asked):
        """By its deadline, or by chaos where that is long."""
        end = time.monotonic() + 6
        self.until(lambda: asked.done() or time.monotonic() > end, OUTCOME, "the end of a hang")
        if asked.outcome in (None, "asked-died"):
            self.subject.end(self.subject.hangs(), "it hangs")

    def _judge_asked(self, expected):
        """Each ends; a whole, undisturbed one in the way that it has to."""
        for asked in self.asked:
            self.until(asked.done, OUTCOME, f"the outcome of {asked.version} asked of {asked.pid}")
            self.note(outcome=asked.outcome, of=asked.version, said=asked.said)
            self.counts[asked.outcome] += 1
            late = asked.said and "was not ready within 2 s" in asked.said
            if expected and asked.outcome != expected and not late:
                raise Violation(f"an upgrade to '{asked.version}' had to be {expected}, and was "
                                f"{asked.outcome}: {asked.said}")
        self.asked = []

    def _is_over(self):
        """Whoever could serve was killed."""
        subject = self.subject
        if subject.members():
            return False
        if not subject.ended:
            raise Violation("the service has ended by itself")
        self.counts["services that were killed"] += 1
        subject.over()
        self.close()
        return True

    def _rest(self):
        """Waits until one generation serves alone; then nothing may have grown."""
        subject, found = self.subject, []

        def settled():
            found[:] = [subject.settled()]
            return found[0] or not subject.members()

        self.until(settled, REST, "the service to come to rest")
        if self._is_over():
            return
        serving = found[0]
        subject.at_rest(serving)
        for _ in range(4):
            with Connection(subject.life.address) as one:
                pid = one.get("/ask?id=probe").pid
            if pid not in serving:
                raise Violation(f"{pid} answers, and {serving} serve")
        self.answered(30)
        self.counts["times at rest"] += 1
        self.at_rest = True

    def _end(self, how):
        subject = self.subject
        self.counts[f"ended: {how}"] += 1
        if how in ("stop", "stop-now"):
            return self.stop(how == "stop-now")
        alone = how == "kill-supervisor"
        if alone and self.shape == "run" and subject.drawn["orphans"] == "drain":
            subject.life.ending = True
        subject.end_all(alone)
        if alone and self.shape == "run" and subject.drawn["orphans"] == "serve":
            # Whoever served serves on; nobody upgrades them.
            if subject.members():
                self.answered(50)
            subject.life.ending = True
            subject.stop_orphans()
        subject.wait_over()
        self._judge_asked(None)
        return self.close()

    # The end.

    def tell(self, error):
        """All that is known of a violation."""
        print(f"bench/chaos: VIOLATION in step {self.step} of --seed {self.options.seed} --shape "
              f"{self.shape} --build {self.options.build}: {error}")
        replay = (self.folder / "replay.jsonl").read_text(encoding="utf-8").splitlines()
        print("the last acts:", *replay[-15:], sep="\n    ")
        if self.subject:
            print("the service's log:", *self.subject.service.log.lines[-80:], sep="\n    ")
        for name, text in sanitizer_reports(self.subject.folder if self.subject else self.folder):
            print(name, text, sep="\n")
        print(f"all of it is in {self.folder}", flush=True)

    def finish(self):
        self.clients.stop()
        if self.subject:
            for asked in self.asked:
                if hasattr(asked, "client") and asked.client.poll() is None:
                    asked.client.kill()
                    asked.client.communicate()
            processes.kill_all(self.subject.service.members())
            self.subject.service.finish()
        self._replay.close()


def one_shape(options, shape, folder):
    world = World(options, shape, folder)
    began = time.monotonic()
    try:
        world.run()
    except (Violation, AssertionError, OSError, ValueError) as error:
        world.tell(f"{type(error).__name__}: {error}" if not isinstance(error, Violation) else error)
        return False
    finally:
        world.finish()
    clients = world.clients
    what = ", ".join(f"{count} {name}" for name, count in sorted(world.counts.items()))
    print(f"bench/chaos: {shape}: {world.step - options.first} steps in {time.monotonic() - began:.0f} s: "
          f"{clients.answers} answers, {clients.losses} lost with a process that chaos ended, "
          f"{clients.at_the_end} connections closed by a stop, {clients.announced} announced; {what}",
          flush=True)
    return True


def main(text):
    options = parse(text)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    shapes = ["self", "run"] if options.shape == "both" else [options.shape]
    processes.become_subreaper()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20000)), hard))
    print(f"bench/chaos: --seed {options.seed}, {sum(SHAPES.values())} clients", flush=True)
    for shape in shapes:
        folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix="segue-chaos-"))
        folder = folder / shape
        folder.mkdir(parents=True)
        if not one_shape(options, shape, folder):
            return 1
        if not options.folder:
            shutil.rmtree(folder.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main(__doc__))
