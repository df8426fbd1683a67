"""The four parts of bench/run; each returns its piece of the result file, and what to conclude."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import statistics
import struct
import time

from harness.deadline import Deadline
from harness.http import Connection, get, request
from servers import hello, load, nginx
from upgrades import Crowd, generations, upgrade

TITLE = """# What an upgrade costs, and what serving costs beside nginx

Written by `{command}`. A ratio is the median of the ratios of the repetitions, in each of which the
compared things ran in turn; in brackets the smallest and the largest. Times are of this machine and
stand here to make the ratios readable; no conclusion rests on them."""


def spread(values, form="{:.2f}"):
    """The median, and in brackets the smallest and the largest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def ratios(above, below):
    return [one / other for one, other in zip(above, below)]


# Throughput.


def loaded(build, folder, server, seconds):
    """(requests per second, requests per CPU second of the server) at 64 kept connections."""
    before = server.cpu_seconds()
    with load(build, folder, "--keepalive", 64, "--duration", f"{seconds}s", server.url,
              core=1) as running:
        result = running.result(seconds + 30)
    assert result.lost == 0 and result["ok"] == result["requests"], result
    return result["per_second"], result["ok"] / (server.cpu_seconds() - before)


def throughput(build, folder, quick):
    repetitions, seconds = (3, 1) if quick else (9, 5)
    with hello(build, folder, core=0) as ours, nginx(folder, core=0) as theirs:
        sizes = ours.answer_bytes(), theirs.answer_bytes()
        for server in ours, theirs:
            loaded(build, folder, server, 1)
        figures = {ours: [], theirs: []}
        for number in range(repetitions):
            for server in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                figures[server].append(loaded(build, folder, server, seconds))
    rows, conclusion = [], []
    for at, what in enumerate(("requests per second", "requests per CPU second")):
        one, other = ([figure[at] for figure in figures[server]] for server in (ours, theirs))
        rows.append((what, spread(one, "{:,.0f}"), spread(other, "{:,.0f}"), spread(ratios(one, other))))
        conclusion.append(f"{what} at 64 kept connections, hello / nginx: {rows[-1][-1]}; aim: 1 or more")
    text = "\n\n".join([
        "## Throughput",
        f"64 kept connections, `GET /hello`, {repetitions} repetitions of {seconds} s; one loop, or one "
        f"worker, on one core, the client on the other. An answer has {sizes[0]} bytes of hello's and "
        f"{sizes[1]} of nginx's (`return 200`, no access log). CPU seconds are utime + stime of the "
        "server's processes.",
        table(["", "hello", "nginx", "hello / nginx"], rows),
    ])
    return text, conclusion


# Memory.


def per_connection(server, count):
    """Bytes that each of so many kept connections costs, once it has been answered."""
    get(server.address)
    before = server.memory()
    with Crowd(server.address, count) as crowd:
        crowd.send(request())
        assert len(crowd.answers()) == count
        return (server.memory() - before) / count


def memory(build, folder, quick):
    repetitions, count = (1, 2000) if quick else (5, 10000)
    ours, theirs, moved = [], [], []
    for _ in range(repetitions):
        with hello(build, folder, "--idle-timeout", "1h") as server:
            ours.append(per_connection(server, count))
        with nginx(folder) as server:
            theirs.append(per_connection(server, count))
        with hello(build, folder, "--idle-timeout", "1h") as server:
            moved.append(per_moved_connection(server, count))
    conclusion = [f"bytes for an idle connection: {spread(ours, '{:.0f}')}, after an upgrade "
                  f"{spread(moved, '{:.0f}')}, nginx {spread(theirs, '{:.0f}')}; aim: 512"]
    text = "\n\n".join([
        "## Memory per idle connection",
        f"The difference of the server's proportional set size (/proc/PID/smaps_rollup) with {count:,} "
        f"kept connections that have been answered once and without any, divided by their number; "
        f"{repetitions} repetitions, each on a fresh server. The kernel's own memory is not in it.",
        table(["bytes", "hello", "hello, after an upgrade", "nginx", "hello / nginx"],
              [("per connection", spread(ours, "{:.0f}"), spread(moved, "{:.0f}"),
                spread(theirs, "{:.0f}"), spread(ratios(ours, theirs)))]),
    ])
    return text, conclusion


def per_moved_connection(server, count):
    """The same in a successor, which was given the connections: against a successor without any."""
    upgrade(server.service)
    get(server.address)
    before = server.memory()
    with Crowd(server.address, count) as crowd:
        crowd.send(request())
        crowd.answers()
        upgrade(server.service)
        crowd.send(request())
        assert generations(crowd.answers()) == {3: count}
        return (server.memory() - before) / count


# Latency.


def under_rate(build, folder, server, seconds, upgrading):
    """The report of an open loop of 2,000 requests a second, upgraded once a second or not."""
    with load(build, folder, "--rate", 2000, "--keepalive", 50, "--new", 10, "--duration", f"{seconds}s",
              "--count-header", "Segue-Generation", server.url) as running:
        running.wait_running()
        count = 0
        next_at = time.monotonic() + 0.5
        while not ends_before(running.first, next_at):
            if upgrading:
                upgrade(server.service)
                count += 1
            next_at += 1
        result = running.result()
    assert result.lost == 0 and result.closed == 0, result
    return result, count


def ends_before(process, moment):
    """Waits for the end of a process or for a moment of the monotonic clock, whichever comes first."""
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    return bool(poll.poll(max(0, moment - time.monotonic()) * 1000))


def latency(build, folder, quick):
    repetitions, seconds = (2, 4) if quick else (7, 12)
    found = {True: [], False: []}
    upgrades = 0
    for number in range(repetitions):
        for upgrading in (False, True) if number % 2 == 0 else (True, False):
            with hello(build, folder) as server:
                result, count = under_rate(build, folder, server, seconds, upgrading)
            upgrades += count
            found[upgrading].append(result)
    rows = []
    for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p99_9"), ("worst", "max")):
        one, other = ([result["latency_us"][key] / 1000 for result in found[upgrading]]
                      for upgrading in (True, False))
        rows.append((name, spread(one), spread(other), spread(ratios(one, other))))
    answered = sum(result["ok"] for result in found[True])
    late = sum(result["not_started"] for result in found[True] + found[False])
    conclusion = [f"{upgrades} upgrades under {answered:,} requests, one a second at 2,000 requests a "
                  "second: 0 requests lost, 0 connections closed",
                  f"with an upgrade a second / without: p99.9 {rows[2][-1]}, worst {rows[3][-1]}"]
    text = "\n\n".join([
        "## Latency with an upgrade a second",
        f"2,000 requests a second (open loop: latency counts from when a request was due) over 50 kept "
        f"connections and 10 that are opened for each request; {repetitions} repetitions of {seconds} s "
        f"with an upgrade a second and without. {upgrades} upgrades under {answered:,} requests: 0 lost, "
        f"0 connections closed, {late} that were due but found no free connection.",
        table(["ms", "with an upgrade a second", "without", "ratio"], rows),
    ])
    return text, conclusion


# The time of an upgrade.


@contextlib.contextmanager
def listening():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(64)
        yield one


def bare_start(build, folder):
    """Seconds from exec to the first answer of a hello that is started alone. Its listener is
    inherited and the request waits in it, so that nobody has to ask when it is ready."""
    program = str(build.program("hello"))
    with listening() as listener, Connection(listener.getsockname()) as client:
        client.send(request())
        address = "tcp://127.0.0.1:%d" % listener.getsockname()[1]
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                high = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)
                os.dup2(high, 3)
                os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
                os.write(writing, struct.pack("d", time.monotonic()))
                os.execv(program, [program, "--listen", address, "--threads", "1", "--quiet"])
            finally:
                os._exit(127)
        try:
            assert client.response().generation == 1
            answered = time.monotonic()
        finally:
            os.close(writing)
            started = struct.unpack("d", os.read(reading, 8))[0]
            os.close(reading)
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
    return answered - started


def one_upgrade(build, folder, idle):
    """Seconds from the signal to the successor's first answer, and to the predecessor's end."""
    with hello(build, folder, "--idle-timeout", "1h") as server:
        with Crowd(server.address, idle) as crowd, Connection(server.address) as asking:
            crowd.send(request())
            crowd.answers()
            assert asking.get().generation == 1
            predecessor = server.service.serving
            end = select.poll()
            end.register(predecessor.pidfd, select.POLLIN)
            deadline = Deadline(60)
            ended = answered = None
            begun = time.monotonic()
            predecessor.send(signal.SIGUSR2)
            while answered is None or ended is None:
                deadline.check("the upgrade")
                if answered is None and asking.get().generation == 2:
                    answered = time.monotonic()
                if ended is None and end.poll(0 if answered is None else 1000):
                    ended = time.monotonic()
            if idle:
                crowd.send(request())
                assert generations(crowd.answers()) == {2: idle}
    return answered - begun, ended - begun


def upgrade_time(build, folder, quick):
    repetitions, many = (3, 1000) if quick else (31, 10000)
    bare, first, exit_, crowded, crowded_exit = [], [], [], [], []
    for number in range(repetitions):
        bare.append(bare_start(build, folder))
        answered, ended = one_upgrade(build, folder, 0)
        first.append(answered)
        exit_.append(ended)
        if number % 3 == 0:
            answered, ended = one_upgrade(build, folder, many)
            crowded.append(answered)
            crowded_exit.append(ended)
    start = statistics.median(bare)

    def row(name, values):
        return (name, spread([value * 1000 for value in values]),
                spread([value / start for value in values]))

    each = [(long - statistics.median(exit_)) / many * 1e6 for long in crowded_exit]
    beyond = [one - start for one in first]
    conclusion = [
        "in bare starts of hello, from the signal: "
        f"{spread([value / start for value in beyond])} to the successor's first answer beyond its own "
        f"start, {spread([value / start for value in exit_])} to the predecessor's exit; with "
        f"{many:,} idle connections {spread([value / start for value in crowded_exit])} to its exit"]
    text = "\n\n".join([
        "## The time of an upgrade",
        f"{repetitions} repetitions, each on a fresh server. The bare start is the time from exec of "
        "hello to its first answer when it is started alone, with the request waiting in an inherited "
        "listener; the other times count from the signal. A client asks without a pause on one kept "
        f"connection; the last two rows have {many:,} idle connections more to move "
        f"({len(crowded)} repetitions).",
        table(["", "ms", "bare starts"], [
            row("bare start", bare),
            row("signal to the successor's first answer", first),
            row("the same beyond the bare start", beyond),
            row("signal to the predecessor's exit", exit_),
            row(f"first answer, {many:,} idle connections", crowded),
            row(f"exit, {many:,} idle connections", crowded_exit),
        ]),
        f"Each idle connection adds {spread(each, '{:.1f}')} us to the predecessor's exit, which is "
        f"{spread([value / 1e6 / start for value in each], '{:.4f}')} bare starts.",
    ])
    return text, conclusion


PARTS = {"throughput": throughput, "memory": memory, "latency": latency, "upgrade": upgrade_time}
