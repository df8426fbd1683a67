"""The parts of bench/storm; each returns its piece of the result file, and what to conclude."""

import statistics
import time

from figures import bare_start, spread, table
from harness import processes
from harness.http import get
from servers import hello, load, supervised
from turns import ask as ask_supervisor
from upgrades import COUNTED, SHAPES, ask, nothing_cut, nothing_lost

TITLE = """# Upgrades as fast as generations can follow each other

Written by `{command}`. Every request was counted, and none was sent twice. The bare start is the time from
exec of hello to its first answer when it is started alone, measured now and then between two upgrades, under
the same load: times are of this machine, and the ratio says how much of an upgrade is the start of a program."""

BARE = 50  # starts, evenly spread over the upgrades
AT_ONCE = 12  # generations that drain; beyond 15 an upgrade is refused


class Alone:
    def __init__(self, server):
        self.service = server.service

    def ask(self):
        return ask(self.service)["successor"]

    def wait_gone(self, generation, since):
        self.service.log.wait_for("gone", since=since, generation=generation)

    def serving(self):
        return [self.service.pid]


class Under(Alone):
    def __init__(self, server):
        super().__init__(server)
        self.workers = len(self.serving())

    def ask(self):
        return ask_supervisor(self.service, "USR2")

    def wait_gone(self, generation, since):
        """Its last worker; which one that is differs."""
        for worker in range(self.workers):
            self.service.log.wait_for("worker", since=since, generation=generation, worker=worker,
                                      to="gone")

    def serving(self):
        return [worker["pid"] for worker in self.service.workers()]


def looks(pids):
    """(descriptors, KiB that it alone has written to) of a generation's processes, summed up."""
    return (sum(len(processes.descriptors(pid)) for pid in pids),
            sum(processes.memory(pid)["Private_Dirty"] for pid in pids) // 1024)


def upgrades(subject, count, start):
    """(seconds for so many, bare starts in between); none is waited for longer than until its successor
    serves, but no more than AT_ONCE drain."""
    log = subject.service.log
    marks = {1: 0}
    bare = []
    begun = time.monotonic()
    for generation in range(2, count + 2):
        if generation % (count // BARE) == 0:
            paused = time.monotonic()
            bare.append(start())
            begun += time.monotonic() - paused
        marks[generation] = log.mark()
        assert subject.ask() == generation
        if generation > AT_ONCE:
            subject.wait_gone(generation - AT_ONCE, marks[generation - AT_ONCE])
    took = time.monotonic() - begun
    for generation in range(max(1, count + 1 - AT_ONCE), count + 1):
        subject.wait_gone(generation, marks[generation])
    return took, bare


def storm(build, folder, server, subject, count):
    """(seconds for all upgrades, bare starts, answers) under the load, nothing being lost."""
    with load(build, folder, *SHAPES, *COUNTED, server.url) as running:
        running.wait_running()
        took, bare = upgrades(subject, count, lambda: bare_start(build, folder))
        answered = nothing_lost(running, count + 1)
    nothing_cut(subject.service)
    assert get(server.address).generation == count + 1
    assert sorted(answered)[-1] == count + 1
    return took, bare, answered


def part(title, start, subject_of):
    def run(build, folder, quick):
        count = 100 if quick else 2000
        with start(build, folder) as server:
            subject = subject_of(server)
            subject.ask()  # Generation 2 is the first that was handed something.
            subject.wait_gone(1, 0)
            before = looks(subject.serving())
        with start(build, folder) as server:
            subject = subject_of(server)
            took, bare, answered = storm(build, folder, server, subject, count)
            after = looks(subject.serving())
        each = [took / count / one for one in bare]
        requests = sum(answered.values())
        quiet = len([number for number in range(1, count + 2) if number not in answered])
        text = "\n\n".join([
            f"## {title}",
            f"{count:,} upgrades in {took:.1f} s under {requests:,} requests ({' '.join(map(str, SHAPES))}): "
            "0 requests lost, 0 connections closed, 0 cut.",
            table(["", ""], [
                ("upgrades a second", f"{count / took:.1f}"),
                ("ms an upgrade", f"{took / count * 1000:.2f}"),
                ("ms of a bare start", spread([one * 1000 for one in bare])),
                ("bare starts an upgrade", spread(each)),
                ("generations that were replaced before they answered anybody", quiet),
                ("descriptors of generation 2, without connections", before[0]),
                (f"of generation {count + 1}", after[0]),
                ("KiB that generation 2 alone has written to", before[1]),
                (f"generation {count + 1}", after[1]),
            ]),
        ])
        conclusion = [f"{title}: {count:,} upgrades, {requests:,} requests, 0 lost, 0 closed; one upgrade "
                      f"takes {statistics.median(each):.2f} bare starts of the program"]
        return text, conclusion

    return run


PARTS = {
    "alone": part("A program that replaces itself", hello, Alone),
    "supervised": part("Under segue run, one worker", supervised, Under),
    "workers": part("Under segue run, four workers",
                    lambda build, folder: supervised(build, folder, workers=4), Under),
}
