"""segue-load --restart: what a restart costs is told exactly, whatever the command does.

The server's generation is the size of a file, to which the command adds a byte: an answer after that
is the next generation's, and what goes wrong in it is a script (misbehaving.py).
"""

import fcntl
import html.parser
import json
import os
import pty
import re
import resource
import select
import shlex
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest

from harness import processes
from harness.builds import ROOT
from misbehaving import Server, answer

LIMIT = 60  # seconds that one run may take

# A closed loop would take both the machine from the command, and from everyone else.
RATE = ["--rate", "300"]


@pytest.fixture
def program(build):
    return build.program("src/load/segue-load")


class Generations:
    """A file whose size is the generation, and the command that makes the next one; it returns when
    that has answered, as a file says."""

    def __init__(self, folder):
        self.path = folder / "generation"
        self.path.touch()
        self.command = (
            f"echo >> {self.path}; until [ -e {self.path}.$(wc -c < {self.path}) ]; do sleep 0.01; done")

    def __call__(self):
        return self.path.stat().st_size

    def reply(self, connection, *, is_last=True, **more):
        """is_last: what this generation has to do wrong is done, and the next one may come."""
        number = self()
        connection.send(answer(headers=b"Segue-Generation: %d\r\n" % number, **more))
        if is_last:
            self.answered(number)

    def answered(self, number):
        self.path.with_name(f"generation.{number}").touch()

    def script(self, connection):
        """Serves as it should be."""
        while connection.request() is not None:
            self.reply(connection)


@pytest.fixture
def generation(folder):
    return Generations(folder)


class Done:
    def __init__(self, done):
        self.code, self.said = done.returncode, done.stderr
        self.events = [json.loads(line) for line in done.stdout.splitlines()]
        self.result = self.events[-1]
        if self.result["event"] == "result":
            self.check()

    def check(self):
        """Every request, loss and close of the run belongs to one window, and each restart was told
        of when it was over."""
        restarts = self.restarts
        windows = [self.result["before"], *restarts]
        for name in ("requests", "ok", "lost", "closed"):
            assert sum(window[name] for window in windows) == self.result[name]
        for window in windows:
            assert window["ok"] + sum(window["failures"].values()) == window["requests"]
            assert sum(window["closes"].values()) == window["closed"]
        assert [event["restart"] for event in self.events if event["event"] == "restart"] == restarts
        assert [restart["number"] for restart in restarts] == [*range(1, len(restarts) + 1)]

    @property
    def restarts(self):
        return self.result["restarts"]

    def of_each(self, name):
        return [restart[name] for restart in self.restarts]


@pytest.fixture
def run(program):
    """run(server, command, options...) runs segue-load to its end; a Done."""

    def run_one(server, command, *options, every="200ms", count=3, **more):
        done = subprocess.run(
            [program, "--json", "--restart", command, "--every", every, "--count", str(count),
             *RATE, *map(str, options), server.url],
            capture_output=True, text=True, timeout=LIMIT, check=False, **more,
        )
        return Done(done)

    return run_one


# What is told.


def test_restarts_that_lose_nothing_are_told_one_by_one(run, generation):
    with Server(generation.script) as server:
        done = run(server, generation.command)
    assert done.code == 0 and done.said == ""
    assert done.result["restarts_asked"] == 3 and not done.result["interrupted"]
    assert done.of_each("generation") == ["1", "2", "3"]
    assert done.of_each("lost") == done.of_each("closed") == [0, 0, 0]
    assert done.of_each("failed") == done.of_each("last_line") == [None] * 3
    began = done.of_each("began_ms")
    assert began[0] >= 200 and began[1] - began[0] >= 199 and began[2] - began[1] >= 199
    for restart in done.restarts:
        assert restart["first_answer_ms"] > 0 and restart["command_ms"] > 0
        assert restart["slowest_us"] > 0 and restart["pause_ms"] > 0
    # The last one is watched as long as the others.
    assert done.result["elapsed_ms"] >= began[2] + done.restarts[2]["command_ms"] + 199


def test_without_shapes_there_are_new_kept_and_idle_connections(run, generation):
    with Server(generation.script) as server:
        done = run(server, "true", count=1)
    shapes = done.result["shapes"]
    assert {name: shape["connections"] for name, shape in shapes.items()} == {
        "new": 4, "keepalive": 8, "idle": 20}


def test_a_loss_belongs_to_the_restart_after_which_it_happened(run, generation):
    """The first new generation answers three requests with 503, and closes three connections instead
    of an answer. Its restart has not ended before that."""
    wrong = ["busy"] * 3 + ["close"] * 3
    lock = threading.Lock()

    def script(connection):
        while connection.request() is not None:
            with lock:
                how = wrong.pop() if generation() == 1 and wrong else None
            if how == "close":
                connection.close()
                return
            generation.reply(connection, is_last=not wrong, status=b"503 Busy" if how else b"200 OK")

    with Server(script) as server:
        done = run(server, generation.command, "--keepalive", 3, count=2)
    assert done.code == 1
    assert done.result["before"]["lost"] == 0 and done.of_each("lost") == [6, 0]
    failures = done.restarts[0]["failures"]
    closed = failures.pop("used_closed", 0) + failures.pop("fresh_closed", 0)
    assert failures == {"status_5xx": 3} and closed == 3


def test_a_connection_that_closes_while_idle_is_counted_with_its_restart(run, generation):
    """What the first new generation has answered closes when the second one comes: by then it is idle,
    and would be for two seconds."""

    def script(connection):
        while connection.request() is not None:
            generation.reply(connection)
            born = generation()
            while born == 1 and not select.select([connection.sock], [], [], 0.01)[0]:
                if generation() == 2:
                    connection.close()
                    return

    with Server(script) as server:
        done = run(server, generation.command, "--idle", "5:2s", every="50ms", count=2)
    closed = done.of_each("closed")
    assert done.code == 1 and closed[0] == 0 and closed[1] > 0
    assert done.restarts[1]["closes"] == {"idle_closed_unannounced": closed[1]}


def test_the_pause_and_the_slowest_answer_are_those_of_the_restart(run, generation):
    """The first answer of the second generation takes 700 ms, and there is no other connection."""
    slow = [0.7]

    def script(connection):
        while connection.request() is not None:
            if generation() == 2 and slow:
                threading.Event().wait(slow.pop())
            generation.reply(connection)

    with Server(script) as server:
        done = run(server, generation.command, "--keepalive", 1, every="1s", count=2)
    assert done.of_each("generation") == ["1", "2"]
    pause, slowest = done.of_each("pause_ms"), done.of_each("slowest_us")
    assert pause[1] >= 700 and slowest[1] >= 700_000
    assert max(pause) == pause[1] and max(slowest) == slowest[1]
    assert done.restarts[1]["first_answer_ms"] >= 700


def test_an_answer_that_is_an_error_does_not_end_a_pause(run, generation):
    def script(connection):
        while connection.request() is not None:
            bad = generation() == 1
            generation.reply(connection, status=b"500 Oh" if bad else b"200 OK")

    with Server(script) as server:
        done = run(server, generation.command, "--keepalive", 2, every="1s", count=1)
    assert done.restarts[0]["lost"] > 0
    assert done.restarts[0]["pause_ms"] >= 500 and done.restarts[0]["generation"] == "1"


# The next generation is known by.


def test_a_generation_that_is_never_told_is_null(run):
    def script(connection):
        while connection.request() is not None:
            connection.send(answer())

    with Server(script) as server:
        done = run(server, "true", count=2)
    assert done.code == 0
    assert done.of_each("generation") == done.of_each("first_answer_ms") == [None, None]


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--generation-header", "version"], ["v1", "v2"]),
        (["--count-header", "VERSION"], ["v1", "v2"]),
        (["--generation-pattern", "number ([0-9]+)"], ["1", "2"]),
        (["--generation-pattern", "number [0-9]+"], ["number 1", "number 2"]),
        (["--generation-pattern", "^Version: (v[0-9])"], ["v1", "v2"]),
        (["--generation-pattern", "^Version: (.*)"], ["v1", "v2"]),
        (["--generation-pattern", "v[0-9]$"], ["v1", "v2"]),
        (["--generation-pattern", "[0-9], .*"], ["1, with a  [31m!", "2, with a  [31m!"]),
    ],
    ids=["header", "counted", "body", "whole", "head", "rest-of-line", "end-of-line", "escapes"],
)
def test_the_next_generation_is_known_by_a_header_or_a_pattern(run, generation, options, expected):
    def script(connection):
        while connection.request() is not None:
            number = generation()
            chunk = b"this is number %d, with a \033[31m!\0" % number
            whole = b"HTTP/1.1 200 OK\r\nVersion: v%d\r\nTransfer-Encoding: chunked\r\n\r\n" % number
            for byte in chunk:
                whole += b"1\r\n%c\r\n" % byte
            connection.send(whole + b"0\r\n\r\n")
            generation.answered(number)

    with Server(script) as server:
        done = run(server, generation.command, *options, count=2)
    assert done.code == 0 and done.of_each("generation") == expected
    assert sum(done.result["header"]["values"].values()) == done.result["ok"]


# The command.


@pytest.mark.parametrize(
    "command, reason",
    [
        ("echo bad configuration >&2; exit 3", "the command exited with status 3: bad configuration"),
        ("exit 1", "the command exited with status 1"),
        ("kill -9 $$", "the command was ended by signal 9 (Killed)"),
        ("/none/such", "the command exited with status 127: "),
        ("printf 'one\\ntwo \\033[31m\\n\\n'; false", "the command exited with status 1: two  [31m"),
    ],
    ids=["words", "silent", "signal", "missing", "escapes"],
)
def test_a_command_that_fails_is_one_sentence_and_the_last_one(run, generation, command, reason):
    with Server(generation.script) as server:
        done = run(server, command)
    assert done.code == 4
    assert len(done.restarts) == 1 and done.restarts[0]["failed"].startswith(reason)
    assert done.said == f"segue-load: restart 1 failed: {done.restarts[0]['failed']}\n"
    assert done.result["lost"] == 0 and done.result["ok"] > 0


def test_a_later_failure_and_losses_are_both_told(run, generation):
    def script(connection):
        while connection.request() is not None:
            generation.reply(connection, status=b"200 OK" if generation() < 2 else b"500 Oh")

    with Server(script) as server:
        done = run(server, f"{generation.command}; test $(wc -c < {generation.path}) -lt 2", count=9)
    assert done.code == 4 and len(done.restarts) == 2
    assert done.of_each("failed") == [None, "the command exited with status 1"]
    assert done.restarts[1]["lost"] > 0


def test_a_command_that_hangs_is_killed_with_all_that_it_started(run, generation, folder, reap):
    with Server(generation.script) as server:
        done = run(server, f"echo waiting; sleep 100 & echo $$ $! > {folder}/pids; wait",
                   "--restart-timeout", "300ms")
    assert done.code == 4
    assert done.restarts[0]["failed"] == (
        "the command had not ended after 0.3 s and was killed (see --restart-timeout): waiting")
    assert done.restarts[0]["command_ms"] >= 300
    for pid in (folder / "pids").read_text().split():
        assert has_ended(int(pid)), "of its own accord it would live for 100 s"
    reap()


def test_no_two_commands_run_at_once(run, generation, folder):
    with Server(generation.script) as server:
        done = run(server, f"mkdir {folder}/lock && sleep 0.3 && rmdir {folder}/lock", every="50ms")
    assert done.code == 0 and len(done.restarts) == 3
    assert all(restart["command_ms"] >= 300 for restart in done.restarts)


def test_what_a_command_leaves_running_may_go_on_writing(run, generation, folder, reap):
    for name in ("go", "alive"):
        os.mkfifo(folder / name)
    left = f"(read x < {folder}/go; echo out; echo err >&2; echo alive > {folder}/alive) & echo started"
    with Server(generation.script) as server:
        done = run(server, left, count=1)
    assert done.code == 0 and done.of_each("last_line") == ["started"]
    with open(folder / "go", "w", encoding="ascii") as go:
        go.write("now\n")
    assert (folder / "alive").read_text() == "alive\n"
    reap()


def test_a_command_inherits_what_segue_load_was_given(run, generation, folder):
    """Its descriptors, limit, signals and timer slack are as if the user had typed it; its group is
    its own, and it has no input."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = (f"exec 3> {folder}/found; ulimit -Sn >&3; grep SigBlk /proc/self/status >&3; "
               "cat /proc/$$/timerslack_ns >&3; cut -d' ' -f1,5,6 /proc/$$/stat >&3; cat >&3; "
               "ls -l /proc/$$/fd >&3")
    mine = open("/proc/self/timerslack_ns", encoding="ascii").read()
    with Server(generation.script) as server:
        done = run(server, command, "--idle", 400, count=1, preexec_fn=limit)
    assert done.code == 0, done.said
    soft, blocked, slack, ids, *descriptors = (folder / "found").read_text().splitlines()
    assert soft == "256" and blocked.split()[1] == "0" * 16
    assert slack == mine.strip()
    assert len(set(ids.split())) == 1, "leader of its group and its session"
    assert "/dev/null" in "".join(descriptors)
    assert not [line for line in descriptors if "socket:" in line or "anon_inode" in line]


# Signals.


def start(program, server, *options, **more):
    return subprocess.Popen(
        [program, *map(str, options), server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **more,
    )


def test_a_signal_ends_the_restarts_and_the_verdict_is_given(program, generation, folder):
    page = folder / "report.html"
    with Server(generation.script) as server:
        with start(program, server, *RATE, "--json", "--restart", f"echo >> {generation.path}", "--every", "50ms",
                   "--count", 1000, "--report", page) as load:
            for line in load.stdout:
                if json.loads(line)["event"] == "restart":
                    break
            load.send_signal(signal.SIGINT)
            rest, _ = load.communicate(timeout=LIMIT)
    result = json.loads(rest.splitlines()[-1])
    assert load.returncode == 0
    assert result["interrupted"] and result["lost"] == 0
    assert 1 <= len(result["restarts"]) < 1000 and result["restarts_asked"] == 1000
    assert "Interrupted before its time" in page.read_text()
    assert f"{len(result['restarts'])} of 1000 restarts (interrupted)" in page.read_text()


def test_a_command_that_runs_is_waited_for_and_killed_by_a_second_signal(program, generation, folder, reap):
    os.mkfifo(folder / "started")
    with Server(generation.script) as server:
        with start(program, server, *RATE, "--json", "--restart", f"echo > {folder}/started; sleep 100",
                   "--every", "50ms") as load:
            (folder / "started").read_text()
            load.send_signal(signal.SIGINT)
            # It has stopped sending when every connection is closed; the command is waited for.
            while sockets(load.pid):
                time.sleep(0.01)
            assert load.poll() is None
            load.send_signal(signal.SIGINT)
            output, _ = load.communicate(timeout=LIMIT)
    result = json.loads(output.splitlines()[-1])
    assert load.returncode == 4 and result["interrupted"]
    assert result["restarts"][0]["failed"] == "the command was killed, as a second signal said"
    reap()


def has_ended(pid):
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended = select.select([pidfd], [], [], LIMIT / 2)[0]
    os.close(pidfd)
    return bool(ended)


@pytest.fixture
def reap():
    """reap(): the test has adopted what a command had started, and waits for the end of all of it. What
    others have left running beside it, a machine with systemd say, is not its own."""
    others = {stat.pid for stat in processes.children()}

    def wait():
        for stat in processes.children():
            if stat.pid not in others:
                os.waitpid(stat.pid, 0)

    return wait


def sockets(pid):
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            pass
    return [link for link in links if link.startswith("socket:")]


# For people.


def test_the_text_has_a_line_for_each_restart_and_the_verdict(program, generation):
    with Server(generation.script) as server:
        with start(program, server, *RATE, "--restart", generation.command, "--every", "100ms", "--count", 2) as load:
            said, _ = load.communicate(timeout=LIMIT)
    assert "\033" not in said
    heading, first, second, empty, verdict, *_ = said.splitlines()
    assert heading.split() == ["restart", "at", "requests", "lost", "closed", "slowest", "pause",
                               "failures,", "next", "generation"]
    assert heading.index("failures") == first.index("1 after")
    assert re.match(r" +1 +0\.\d s +[\d,]+ +0 +0 +[\d.]+ m?s +[\d.]+ m?s  1 after [\d.]+ m?s$", first)
    assert second.split()[0] == "2" and empty == ""
    assert re.match(r"2 restarts, [\d,]+ requests, 0 lost, 0 connections closed, slowest [\d.]+ m?s\.$", verdict)


def test_where_nothing_was_answered_there_is_no_slowest_answer(program, folder):
    path = folder / "report.html"

    def script(connection):
        connection.request()

    with Server(script) as server:
        with start(program, server, *RATE, "--restart", "true", "--every", "100ms", "--count", 2,
                   "--report", path) as load:
            said, _ = load.communicate(timeout=LIMIT)
    _, first, second, _, verdict, *_ = said.splitlines()
    assert first.split()[6] == second.split()[6] == "none"
    assert verdict.endswith(" connections closed, nothing was answered.")
    assert "\nNothing was answered.\n" in said and "Latency" not in said
    before, *rows = Page(path).rows()
    assert [row[4] for row in (before, *rows)] == [["none"]] * 3


class Terminal:
    """segue-load on a terminal: a screen that knows the few sequences that it uses."""

    def __init__(self, command, columns, **environment):
        self.master, slave = pty.openpty()
        self.resize(columns)
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        self.load = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.raw = b""

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    def read(self, until=None):
        """To the end, or until these bytes have come."""
        while until is None or until not in self.raw:
            assert select.select([self.master], [], [], LIMIT)[0]
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            self.raw += data
        return self.raw.decode()

    def end(self):
        said = self.read()
        self.load.wait(LIMIT)
        os.close(self.master)
        return said


def frames(said):
    """What was drawn each time, without its colours."""
    plain = re.sub(r"\033\[[\d;]*m", "", said)
    return [frame.replace("\033[K", "").splitlines()[-6:] for frame in re.split(r"\033\[\d+A|\033\[J", plain)]


@pytest.mark.parametrize("columns", [30, 60, 100])
def test_a_terminal_shows_the_run_as_it_goes(program, generation, columns):
    """No line is wider than the terminal, or going up would miss the first one."""

    def script(connection):
        while connection.request() is not None:
            bad = generation() == 2
            generation.reply(connection, status=b"500 Oh" if bad else b"200 OK")

    command = [program, *RATE, "--restart", generation.command, "--every", "500ms", "--count", "3"]
    with Server(script) as server:
        terminal = Terminal([*command, server.url], columns)
        said = terminal.end()
    assert terminal.load.returncode == 1
    pictures = [frame for frame in frames(said) if any("answers" in line for line in frame)]
    if columns < 40:
        assert not pictures
        pictures = [frame for frame in frames(said) if frame and " requests," in frame[-1]]
        assert pictures
        return
    assert len(pictures) >= 5
    for frame in pictures:
        assert [line.split()[0] for line in frame[1:5]] == ["restarts", "answers", "failures", "slowest"]
        assert max(map(len, frame[:6])) < columns
        assert "requests, " in frame[5]
    last = pictures[-1]
    marks, failures = last[1], last[3]
    for number in ("1", "2", "3"):
        assert number in marks
    begun = marks.index("2")
    assert "\u2715" not in failures[:begun] and "\u2715" in failures[begun:]
    assert "\033[31;1m" in said
    assert re.search(r"^3 restarts, .* lost, 0 connections closed, slowest .*\.\r?$", said, re.M)


def test_no_color_is_respected_and_another_character_set_too(program, generation):
    command = [program, *RATE, "--restart", generation.command, "--every", "300ms", "--count", "1"]
    with Server(generation.script) as server:
        said = Terminal([*command, server.url], 80, NO_COLOR="1", LC_ALL="C").end()
    assert "answers" in said and not re.search(r"\033\[[\d;]*m", said) and said.isascii()


def test_a_dumb_terminal_gets_plain_lines(program, generation):
    command = [program, *RATE, "--restart", generation.command, "--every", "100ms", "--count", "1"]
    with Server(generation.script) as server:
        said = Terminal([*command, server.url], 80, TERM="dumb").end()
    assert "\033" not in said and "1 restart, " in said


def test_a_terminal_that_becomes_narrower_is_drawn_anew(program, generation):
    command = [program, *RATE, "--restart", generation.command, "--every", "400ms", "--count", "2"]
    with Server(generation.script) as server:
        terminal = Terminal([*command, server.url], 100)
        terminal.read(b"answers")
        terminal.resize(50)
        before = len(terminal.raw)
        said = terminal.end()
    # Each of the 99 cells of a full line has been wrapped into two; the sums may have been shorter.
    ups = [int(rows) for rows in re.findall(r"\033\[(\d+)A", said)]
    assert max(ups) > 6 and ups[-1] == 6
    pictures = [frame for frame in frames(terminal.raw[before:].decode()) if "answers" in "".join(frame)]
    assert max(map(len, pictures[-1][:6])) < 50


# The page.


VOID = {"meta", "link", "br", "img", "input", "hr", "path", "circle"}


class Page(html.parser.HTMLParser):
    """Checks that every element is closed in order, and keeps what the tests look for."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.attributes, self.tags, self.ids = [], {}, [], [], []
        self.source = path.read_bytes().decode("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def rows(self):
        """The cells of the table of restarts, as text."""
        found = re.search(r'<table class="restarts-table">.*?<tbody>(.*?)</tbody>', self.source, re.S)
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found[1], re.S)
        return [[re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
                for row in rows]

    @property
    def data(self):
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.S)[1])


def test_a_page_of_a_run_that_lost_nothing(run, generation, folder):
    path = folder / "report.html"
    with Server(generation.script) as server:
        done = run(server, generation.command, "--report", path, "--timeline")
    page = Page(path)
    assert page.texts["h1"] == "Nothing was lost"
    assert "3 restarts, " in page.texts["header"] and "0 lost, 0 connections closed" in page.texts["header"]
    assert "no request was lost, no connection was closed" in page.texts["figure"]
    before, *rows = page.rows()
    assert before[0] == ["before"] and [row[0] for row in rows] == [["1"], ["2"], ["3"]]
    for row, restart in zip(rows, done.restarts):
        assert row[2] == row[3] == ["0"]
        assert row[6][0] == restart["generation"]
        assert row[8] == [f"{restart['requests']:,}"]
    timeline = done.result["timeline"]
    assert page.data["ok"] == timeline["ok"] and page.data["failures"] == {}
    for key in ("p50", "p99", "max"):
        assert page.data[key] == timeline["latency_us"][key]
    uname = os.uname()
    assert f"{uname.sysname} {uname.release}" in page.texts["dd"]
    assert f"--report {path}" in page.texts["pre"] and generation.command in page.texts["pre"]
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", page.texts["dd"])
    assert os.listdir(folder).count("report.html") == 1
    assert not [name for name in os.listdir(folder) if name.startswith("report.html.")]


def test_a_page_of_a_run_with_losses_says_which_and_when(run, generation, folder):
    path = folder / "report.html"
    wrong = [1, 2]

    def script(connection):
        while connection.request() is not None:
            bad = generation() == 1 and wrong and wrong.pop()
            generation.reply(connection, is_last=not wrong, status=b"503 Busy" if bad else b"200 OK")

    with Server(script) as server:
        done = run(server, generation.command, "--keepalive", 1, "--report", path, count=2)
    page = Page(path)
    assert done.code == 1 and page.texts["h1"] == "2 requests lost"
    assert [row[2][:2] for row in page.rows()] == [["0"], ["\u2715", "2"], ["0"]]
    assert sum(page.data["failures"]["status_5xx"]) == 2
    assert "\u2715 2 status_5xx" in page.texts["h3"]
    assert ("i", "class", "fault") in page.attributes
    flags = re.findall(r'<b class="flag([^"]*)"[^>]*>([^<]*)</b>', page.source)
    assert [text for _, text in flags] == ["\u27151", "2"] and "lossy" in flags[0][0]
    assert "status 503" in page.texts["td"]


def test_a_page_needs_nothing_else(run, generation, folder):
    path = folder / "report.html"
    with Server(generation.script) as server:
        run(server, generation.command, "--report", path, count=1)
    page = Page(path)
    assert "link" not in page.tags and "img" not in page.tags and "iframe" not in page.tags
    assert not [pair for pair in page.attributes if pair[1] in ("src", "href", "srcset", "data")]
    assert "url(" not in page.texts["style"] and "@import" not in page.texts["style"]
    assert "prefers-color-scheme: dark" in page.texts["style"]
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy and policy[0].startswith("default-src 'none'")


@pytest.mark.parametrize("rate, said", [((), "was sent."), (("--rate", "200"), "was due (--rate), on idle and half ")])
def test_the_page_says_from_when_an_answer_is_timed(program, generation, folder, rate, said):
    path = folder / "report.html"
    with Server(generation.script) as server:
        with start(program, server, "--keepalive", 1, *rate, "--restart", "true", "--every", "100ms", "--count", 1,
                   "--report", path) as load:
            load.communicate(timeout=LIMIT)
    words = " ".join(Page(path).texts["p"].split())
    assert f"The slowest answer counts from when its request {said}" in words


def test_a_page_without_restarts_has_the_rest(program, generation, folder):
    path = folder / "report.html"
    with Server(generation.script) as server:
        done = subprocess.run([program, "--requests", "50", "--report", path, server.url], timeout=LIMIT,
                              stdout=subprocess.PIPE, check=False)
    page = Page(path)
    assert done.returncode == 0 and page.texts["h1"] == "Nothing was lost"
    assert "restarts-table" not in page.source.split("</style>")[1]


def test_what_others_wrote_is_text_in_the_page(run, folder):
    """A server, a command and a command line that try to be HTML, and bytes that are no UTF-8."""
    path = folder / "report.html"
    evil = "</script><script>alert(1)</script><b x='"

    def script(connection):
        while connection.request() is not None:
            value = evil.encode() + b"\xff\xc3(\xe2\x82\xac" + os.urandom(1).hex().encode()
            connection.send(answer(headers=b"Segue-Generation: %s\r\n" % value))

    with Server(script) as server:
        server_url = server.url + "?<b>&'\"x"
        server = type("Named", (), {"url": server_url})
        done = run(server, f"cat <<'E'\n{evil}\nE\nexit 1", "--report", path, "--expect", "hello")
    page = Page(path)
    assert done.code == 4
    assert page.tags.count("script") == 2 and "alert" not in page.texts["script"]
    assert not [pair for pair in page.attributes if pair[1] == "x"]
    assert evil in page.texts["main"] and server_url in page.texts["main"]
    assert page.texts["h1"] == "Restart 1 failed"


def test_what_a_header_holds_is_not_in_the_page(program, generation, folder):
    path = folder / "report.html"
    with Server(generation.script) as server:
        subprocess.run(
            [program, "--requests", "3", "--header", "Authorization: Bearer secret1", "--header=Cookie: secret2",
             "--report", path, server.url],
            stdout=subprocess.PIPE, check=True, timeout=LIMIT)
    page = Page(path)
    assert "secret" not in page.source
    assert "--header 'Authorization: ...' '--header=Cookie: ...'" in page.texts["pre"]


@pytest.mark.parametrize("place", ["none/report.html", "folder", "pipe", "closed/report.html"])
def test_a_place_where_no_page_can_be_is_refused_before_the_load(program, generation, folder, place):
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "closed").touch()
    with Server(generation.script) as server:
        done = subprocess.run(
            [program, "--json", "--requests", "3", "--report", folder / place, server.url],
            capture_output=True, text=True, check=False, timeout=LIMIT)
        assert server.accepted == 0
    assert done.returncode == 3
    assert done.stderr.startswith(f"segue-load: the report cannot be written to {folder / place}: ")
    assert done.stderr.endswith(" (see --report)\n") and done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["outcome"] == "failed"


def test_a_page_replaces_the_one_before_when_it_is_complete(program, generation, folder):
    """Also behind a link, whose target is replaced; others see either page, never half of one."""
    path, link = folder / "report.html", folder / "link.html"
    path.write_text("before")
    link.symlink_to(path)
    go = threading.Event()

    def script(connection):
        while connection.request() is not None:
            go.wait(LIMIT)
            connection.send(answer())

    with Server(script) as server:
        with start(program, server, "--requests", 1, "--report", link) as load:
            while not server.accepted:
                select.select([], [], [], 0.01)
            assert path.read_text() == "before"
            go.set()
            load.communicate(timeout=LIMIT)
    assert link.is_symlink() and Page(path).texts["h1"] == "Nothing was lost"
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_page_that_cannot_be_finished_is_an_error_and_leaves_no_half(program, generation, folder):
    """Its folder is gone when the load ends."""
    place = folder / "place"
    place.mkdir()
    go = threading.Event()

    def script(connection):
        while connection.request() is not None:
            go.wait(LIMIT)
            connection.send(answer())

    with Server(script) as server:
        with start(program, server, "--json", "--requests", 1, "--report", place / "report.html") as load:
            while not server.accepted:
                select.select([], [], [], 0.01)
            place.rmdir()
            go.set()
            output, said = load.communicate(timeout=LIMIT)
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert load.returncode == 3 and events[-2:] == ["result", "error"]
    assert said == f"segue-load: the report could not be written to {place}/report.html: No such file or directory\n"


# The README.


def test_the_line_of_the_readme_is_one_that_can_be_typed(program, generation, folder):
    """As it stands there, but for the command, the pace and the address."""
    part = (ROOT / "README.md").read_text().split("## Does your own restart lose requests?")[1].split("\n## ")[0]
    lines = [line[6:] for line in part.splitlines() if line.startswith("    $ ")]
    assert len(lines) == 3
    words = shlex.split(lines[1])
    assert words[0] == "build/src/load/segue-load" and words[2] == "nginx -s reload"
    # Which installs what the build needs.
    assert lines[0] == "./run build" and words[words.index("--report") + 1] == lines[2].split()[1]
    words[0], words[2] = program, generation.command
    words[words.index("2s")], words[words.index("20")] = "50ms", "2"
    (folder / "build").mkdir()
    with Server(generation.script) as server:
        words[-1:] = [*RATE, server.url]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    verdict = r"restarts, [\d,]+ requests, \d+ lost, \d+ connections\s+closed, slowest [\d.]+ m?s"
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(verdict, part) and re.search(verdict, done.stdout)
    assert Page(folder / "build/nginx.html").texts["h1"] == "Nothing was lost"


def keys(value, found):
    """The names of all members but those that are names of outcomes, shapes and the like themselves."""
    named = {"outcomes", "failures", "closes", "shapes", "values", "seen", "connections"}
    if isinstance(value, dict):
        for name, inner in value.items():
            found.add(name)
            if name not in named:
                keys(inner, found)
    for inner in value if isinstance(value, list) else []:
        keys(inner, found)
    return found


def test_every_member_of_the_json_is_in_the_manual_page(run, generation):
    def script(connection):
        while connection.request() is not None:
            generation.reply(connection, status=b"200 OK" if generation() == 0 else b"503 Busy")

    with Server(script) as server:
        done = run(server, generation.command, "--timeline", "--progress", "100ms", count=1)
    page = (ROOT / "doc/man/segue-load.1").read_text()
    words = set(re.findall(r"\w+", page[page.index(".Sh JSON") : page.index(".Sh SIGNALS")]))
    for event in done.events:
        assert event["event"] in words
        assert keys(event, set()) - words == set(), event["event"]


def unmarked(numbers):
    return {number.removeprefix("\u2715") for number in numbers}


def test_losses_are_marked_also_where_not_every_restart_has_room_for_its_number(run, generation, folder):
    """Of 44 restarts every second one has its number, and those two that lost something."""
    path = folder / "report.html"
    wrong = [33, 11]

    def script(connection):
        while connection.request() is not None:
            bad = wrong and generation() >= wrong[-1] and wrong.pop()
            generation.reply(connection, status=b"503 Busy" if bad else b"200 OK")

    with Server(script) as server:
        done = run(server, f"echo >> {generation.path}", "--idle", "1:5ms", "--report", path, every="1ms",
                   count=44)
    assert done.result["lost"] == 2
    source = Page(path).source
    numbers = re.findall(r'<b class="flag[^"]*"[^>]*>([^<]*)</b>', source)
    lossy = [f"\u2715{restart['number']}" for restart in done.restarts if restart["lost"]]
    assert set(lossy) <= set(numbers) and {"2", "30", "44"} <= unmarked(numbers) and "1" not in numbers
    # On a narrow screen one of five.
    narrow = re.findall(r'<b class="flag(?: lossy)?" [^>]*>([^<]*)</b>', source)
    assert set(lossy) <= set(narrow) and {"5", "40"} <= unmarked(narrow) and "2" not in narrow
