"""The parts of bench/supervised; each returns its piece of the result file, and what to conclude."""

import os
import select
import statistics
import struct
import time

from figures import bare_start, loaded, one_upgrade, ratios, spread, table
from harness import processes
from harness.deadline import Deadline
from harness.http import Connection
from servers import hello, supervised

TITLE = """# What the supervisor costs

Written by `{command}`. A ratio is the median of the ratios of the repetitions, in each of which the
compared things ran in turn; in brackets the smallest and the largest. Times are of this machine and
stand here to make the ratios readable; no conclusion rests on them."""


# Serving.


def serving(build, folder, quick):
    repetitions, seconds = (3, 1) if quick else (9, 5)
    with supervised(build, folder, core=0) as under, hello(build, folder, core=0) as alone:
        figures = {under: [], alone: []}
        for server in under, alone:
            loaded(build, folder, server, 1)
        for number in range(repetitions):
            for server in (under, alone) if number % 2 == 0 else (alone, under):
                figures[server].append(loaded(build, folder, server, seconds))
    rows = []
    for at, what in enumerate(("requests per second", "requests per CPU second")):
        one, other = ([figure[at] for figure in figures[server]] for server in (under, alone))
        rows.append((what, spread(one, "{:,.0f}"), spread(other, "{:,.0f}"),
                     spread(ratios(one, other), "{:.3f}")))
    conclusion = [f"{row[0]} at 64 kept connections, supervised / alone: {row[-1]}" for row in rows]
    text = "\n\n".join([
        "## Serving",
        f"64 kept connections, `GET /hello`, {repetitions} repetitions of {seconds} s; one worker with "
        "one loop and its supervisor on one core, the client on the other. CPU seconds are utime + "
        "stime of all of the service's processes: supervisor, relay and worker.",
        table(["", "under `segue run`", "alone", "ratio"], rows),
    ])
    return text, conclusion


# Memory.


def of_parts(server):
    """{'supervisor', 'relay'}: its smaps_rollup."""
    service = server.service
    workers = {worker["pid"] for worker in service.workers()}
    (relay,) = [stat.pid for stat in processes.children(service.pid) if stat.pid not in workers]
    return {"supervisor": processes.memory(service.pid), "relay": processes.memory(relay)}


def memory(build, folder, quick):
    repetitions, upgrades = (1, 5) if quick else (5, 50)
    moments = (("1 worker", 1, 0), ("4 workers", 4, 0),
               (f"1 worker, after {upgrades} upgrades", 1, upgrades))
    rows, conclusion = [], []
    for name, workers, count in moments:
        found = []
        for _ in range(repetitions):
            with supervised(build, folder, workers=workers) as server:
                for _ in range(count):
                    server.service.upgrade()
                found.append(of_parts(server))
        for part in ("supervisor", "relay"):
            cells = [spread([one[part][kind] / 1024 for one in found], "{:,.0f}")
                     for kind in ("Pss", "Rss", "Private_Dirty")]
            rows.append((part, name, *cells))
        sums = {kind: spread([sum(one[part][kind] for part in one) / (1 << 20) for one in found])
                for kind in ("Pss", "Rss")}
        alone = spread([one["supervisor"]["Rss"] / (1 << 20) for one in found])
        conclusion.append(f"MiB of supervisor and relay together, {name}: {sums['Pss']} of PSS, "
                          f"{sums['Rss']} of RSS, the supervisor's part of which is {alone}; aim: 2")
    text = "\n\n".join([
        "## Memory",
        "KiB of /proc/PID/smaps_rollup: the proportional set size (pages of libraries that others map "
        "as well count in parts: fewer where other supervisors run beside this one), the resident set "
        "size (they count whole, and in both processes, which run one program), and what the process has "
        f"written to alone; {repetitions} repetitions, each on a fresh supervisor.",
        table(["", "", "PSS", "RSS", "private, written"], rows),
    ])
    return text, conclusion


# The time of an upgrade.


def begin(command):
    """Starts a program whose output nobody reads; (pid, the moment before its exec)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.write(writing, struct.pack("d", time.monotonic()))
            os.execv(command[0], command)
        finally:
            os._exit(127)
    moment = struct.unpack("d", os.read(reading, 8))[0]
    os.close(reading)
    os.close(writing)
    return pid, moment


def one_supervised_upgrade(build, folder, workers):
    """Seconds from the exec of `segue upgrade` to the first answer of the next generation, and to the
    command's end, which is behind the predecessor's."""
    with supervised(build, folder, workers=workers) as server:
        with Connection(server.address) as asking:
            assert asking.get().generation == 1
            deadline = Deadline(60)
            pid, begun = begin([str(build.program("src/segue/segue")), "upgrade", "--control",
                                str(server.service.control), "--json"])
            while asking.get().generation == 1:
                deadline.check("the upgrade")
            answered = time.monotonic()
            with processes.Process(pid) as client:
                end = select.poll()
                end.register(client.pidfd, select.POLLIN)
                assert end.poll(60000)
                ended = time.monotonic()
                assert client.reap() == 0
    return answered - begun, ended - begun


def upgrade_time(build, folder, quick):
    repetitions = 3 if quick else 31
    bare, alone, one, four = [], [], [], []
    for _ in range(repetitions):
        bare.append(bare_start(build, folder))
        alone.append(one_upgrade(build, folder, 0))
        one.append(one_supervised_upgrade(build, folder, 1))
        four.append(one_supervised_upgrade(build, folder, 4))
    start = statistics.median(bare)

    def row(name, values):
        return (name, spread([value * 1000 for value in values]),
                spread([value / start for value in values]))

    def firsts(pairs):
        return [first for first, _ in pairs]

    def beyond(pairs):
        return [first - start for first, _ in pairs]

    conclusion = [
        "in bare starts of hello, to the successor's first answer beyond its own start: "
        f"{spread([value / start for value in beyond(one)])} from the exec of `segue upgrade`; "
        f"{spread([value / start for value in beyond(alone)])} from the signal where hello upgrades "
        "itself"]
    text = "\n\n".join([
        "## The time of an upgrade",
        f"{repetitions} repetitions, each on a fresh service. The bare start is the time from exec of "
        "hello to its first answer when it is started alone, with the request waiting in an inherited "
        "listener. The times under `segue run` count from the exec of `segue upgrade`, its own start "
        "and its way to the supervisor among them; those of hello alone from the signal. A client asks "
        "without a pause on one kept connection. The command ends when the predecessor has gone. With "
        "four workers the first one starts alone, then the others: all have to be ready.",
        table(["", "ms", "bare starts"], [
            row("bare start", bare),
            row("`segue upgrade` to the successor's first answer", firsts(one)),
            row("the same beyond the bare start", beyond(one)),
            row("`segue upgrade` to its end", [ended for _, ended in one]),
            row("to the first answer, four workers", firsts(four)),
            row("to its end, four workers", [ended for _, ended in four]),
            row("hello alone, signal to the successor's first answer", firsts(alone)),
            row("the same beyond the bare start", beyond(alone)),
        ]),
    ])
    return text, conclusion


PARTS = {"serving": serving, "memory": memory, "upgrade": upgrade_time}
