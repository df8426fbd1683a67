"""What `segue upgrade`, `status`, `list`, `stop` and the others say, show and exit with."""

import json
import os
import shutil
import signal
import subprocess
import time

import control_schema
import pytest
from control_host import Command, Host, Screen
from harness.deadline import Deadline, Expired, readable

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


@pytest.fixture
def control_host(build, folder, _guard):
    """control_host('web') is the service of that name in the test's folder of services."""

    def start(name="web", **options):
        program = build.program("tests/programs/control_host")
        log = folder / f"host-{name}-{time.monotonic_ns()}.log"
        return _guard.own(Host(program, folder / f"{name}.sock", log, **options))

    return start


@pytest.fixture
def host(control_host):
    return control_host()


@pytest.fixture
def segue(build, folder, _guard):
    """segue('upgrade', 'web', columns=80) starts the command."""

    def start(*arguments, **options):
        program = options.pop("program", None) or build.program("src/segue/segue")
        return _guard.own(Command(program, arguments, folder, **options))

    return start


def script_upgrade(host, client):
    """An upgrade from 7 to 8 that goes well, up to its end."""
    host.event(client, "starting", workers=1, deadline_ms=30000)
    host.event(client, "started", ms=3, worker=0, pid=4321)
    host.event(client, "ready", ms=412, worker=0, pid=4321)
    host.event(client, "serving", ms=413, workers=1)
    host.event(client, "draining", ms=414, connections=132, deadline_ms=30000, cut=0)
    host.event(client, "draining", ms=900, connections=0, deadline_ms=29000, cut=0)
    host.event(client, "gone", ms=1207, connections=0, cut=0)


DONE = "generation 8 serves; generation 7 is gone"
PLAIN = [
    "generation 8 starts; generation 7 serves",
    "generation 8 runs: pid 4321",
    "generation 8 is ready after 0.4 s",
    "generation 8 serves after 0.4 s",
    "generation 7 drains: 132 connections left, 30 s until the deadline",
    "generation 7 is gone after 1.2 s",
    DONE,
]
# As it stands on a terminal: the live line has gone.
LIVE = [
    "\u00b7 generation 8 runs: pid 4321",
    "\u2714 generation 8 is ready after 0.4 s",
    "\u2714 generation 8 serves after 0.4 s",
    "\u2714 generation 7 is gone after 1.2 s",
    DONE,
]
ASCII = ["- " + LIVE[0][2:], *("+ " + line[2:] for line in LIVE[1:4]), DONE]


# What is asked for.


@pytest.mark.parametrize("arguments, told", [
    (["upgrade"], {"call": "upgrade", "argv": None, "wait": True}),
    (["upgrade", "web", "--no-wait", "--", "./server", "--json", "--", "x"],
     {"call": "upgrade", "argv": ["./server", "--json", "--", "x"], "wait": False}),
    (["upgrade", "--json", "web"], {"call": "upgrade", "argv": None, "wait": True}),
    (["status"], {"call": "status"}),
    (["stop", "web"], {"call": "stop", "now": False}),
    (["stop", "--now"], {"call": "stop", "now": True}),
    (["cut"], {"call": "cut"}),
    (["restart", "3"], {"call": "restart", "worker": 3}),
    (["restart", "web", "0"], {"call": "restart", "worker": 0}),
    (["kill", "TERM"], {"call": "kill", "signal": 15}),
    (["kill", "web", "SIGHUP"], {"call": "kill", "signal": 1}),
    (["kill", "web", "10"], {"call": "kill", "signal": 10}),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_command_asks_for_what_it_says(host, segue, arguments, told):
    command = segue(*arguments)
    assert host.told() == {**told, "client": 1}
    host.end(1, message="it is done")
    if told["call"] == "stop":
        host.close()
    code, said, errors = command.wait()
    assert (code, errors) == (0, "")
    assert "it is done" in said


@pytest.mark.parametrize("arguments, word", [
    (["upgrade", "--now"], "--now"),
    (["upgrade", "web", "api"], "api"),
    (["upgrade", "--"], "--"),
    (["upgrade", "Web"], "Web"),
    (["upgrade", "../web"], "../web"),
    (["upgrade", "--control"], "--control"),
    (["upgrade", "web", "--control", "/x"], "--control"),
    (["upgrade", "--control", "/" + "x" * 200], "--control"),
    (["status", "--no-wait"], "--no-wait"),
    (["list", "web"], "web"),
    (["restart"], "WORKER"),
    (["restart", "web", "first"], "first"),
    (["restart", "web", "99999"], "99999"),
    (["kill"], "SIGNAL"),
    (["kill", "web", "FISH"], "FISH"),
    (["kill", "-9"], "-9"),
], ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "")
def test_wrong_arguments_are_named_in_one_sentence_and_nothing_is_asked(host, segue, arguments, word):
    code, said, errors = segue(*arguments).wait()
    assert (code, said) == (2, "")
    assert word in errors and errors.count("\n") == 1
    assert host.answers()


def test_a_command_line_that_is_no_utf8_is_refused(host, segue):
    code, _, errors = segue("upgrade", "--", os.fsdecode(b"./serv\xff")).wait()
    assert (code, "UTF-8" in errors) == (2, True)
    assert host.answers()


# Which service.


def test_no_service_is_an_answer_of_its_own(segue, folder):
    for arguments in (["upgrade"], ["status", "web"], ["stop"]):
        code, said, errors = segue(*arguments).wait()
        assert (code, said) == (5, "")
        assert str(folder) in errors


def test_the_name_of_the_only_service_may_be_left_out_beside_dead_ones(control_host, segue):
    control_host("api").kill()
    host = control_host("web")
    command = segue("cut")
    host.end(host.call("cut"))
    assert command.wait()[0] == 0


def test_of_two_services_one_has_to_be_named(control_host, segue):
    hosts = {name: control_host(name) for name in ("web", "api")}
    control_host("dead").kill()
    code, _, errors = segue("upgrade").wait()
    assert code == 2
    assert "2 services run: api, web" in errors
    command = segue("cut", "api")
    hosts["api"].end(hosts["api"].call("cut"))
    assert command.wait()[0] == 0


def test_a_name_that_nobody_has_is_answered_by_those_that_exist(control_host, segue):
    control_host("web")
    control_host("dead").kill()
    for name in ("wbe", "dead"):
        code, _, errors = segue("status", name).wait()
        assert code == 5
        assert f"'{name}'" in errors and errors.rstrip().endswith("web")


def test_a_control_socket_can_be_named_by_its_path(control_host, segue, folder):
    host = control_host("elsewhere")
    command = segue("cut", f"--control={host.path}", env={"SEGUE_RUNTIME_DIR": "/nowhere"})
    host.end(host.call("cut"))
    assert command.wait()[0] == 0
    code, _, errors = segue("cut", "--control", folder / "missing").wait()
    assert (code, "missing" in errors) == (5, True)


@needs_root
def test_another_user_is_told_who_may(build, host, segue, folder):
    folder.chmod(0o755)
    program = shutil.copy(build.program("src/segue/segue"), folder)
    options = {"program": program, "user": NOBODY, "group": NOBODY, "extra_groups": [],
               "cwd": folder}
    code, _, errors = segue("upgrade", "--control", host.path, **options).wait()
    assert (code, "belongs to another user" in errors) == (6, True)
    os.chmod(host.path, 0o666)
    code, _, errors = segue("upgrade", "--control", host.path, **options).wait()
    assert (code, "root may" in errors) == (6, True)
    assert host.answers()


# How it ends.


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 7])
def test_the_exit_code_and_the_sentence_are_the_supervisors(host, segue, code):
    command = segue("upgrade")
    host.end(host.call("upgrade"), code, "so it ended")
    result, said, errors = command.wait()
    assert result == code
    assert (said, errors) == (("so it ended\n", "") if code == 0 else ("", "segue: so it ended\n"))


def test_the_last_lines_of_a_failed_successor_are_shown(host, segue):
    command = segue("upgrade")
    client = host.call("upgrade")
    host.event(client, "starting", workers=1, deadline_ms=30000)
    host.event(client, "failed", ms=120, worker=0, text="it exited with 1")
    host.end(client, 1, "generation 8 failed; generation 7 serves", outcome="failed",
             output=["opening \x1b[31mx.conf", "no such file \u2713"])
    code, said, errors = command.wait()
    assert code == 1
    assert said.splitlines()[1:] == [
        "generation 8 failed: it exited with 1",
        "its last lines:",
        "  | opening ?[31mx.conf",
        "  | no such file \u2713",
    ]
    assert errors == "segue: generation 8 failed; generation 7 serves\n"


def test_a_supervisor_that_dies_in_the_middle_is_lost(host, segue):
    command = segue("upgrade")
    host.event(host.call("upgrade"), "starting", workers=1)
    command.until("starts")
    host.kill()
    code, _, errors = command.wait()
    assert (code, "has gone" in errors) == (7, True)


def test_a_supervisor_that_ends_the_connection_but_lives_is_not_said_to_be_gone(host, segue):
    command = segue("upgrade", "web")
    client = host.call("upgrade")
    # It is as slow a reader as can be.
    command.send(signal.SIGSTOP)
    event = {"event": "note", "generation": 8, "ms": 0, "text": "x" * 1000}
    host.do(do="events", client=client, count=5000, event=event)
    assert host.told() == {"gone": client}
    command.send(signal.SIGCONT)
    code, _, errors = command.wait()
    assert code == 7
    assert f"pid {host.pid}" in errors and "segue status web" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("columns", [None, 80], ids=["pipe", "terminal"])
def test_an_interrupted_client_says_that_the_upgrade_goes_on(host, segue, number, columns):
    command = segue("upgrade", "web", columns=columns)
    client = host.call("upgrade")
    host.event(client, "starting", workers=1)
    command.until("starts")
    command.send(number)
    code, _, errors = command.wait()
    assert code == 130
    assert "the upgrade goes on: see 'segue status web'" in errors
    assert host.told() == {"gone": client}


def test_connections_that_are_not_known_yet_are_told_as_soon_as_they_are(host, segue):
    command = segue("upgrade", "web")
    client = host.call("upgrade")
    for connections in (None, 132, None):
        host.event(client, "draining", connections=connections, deadline_ms=30000, cut=0)
    host.end(client, 0, DONE, outcome="upgraded")
    assert command.wait()[1].splitlines() == [
        "generation 7 drains: 30 s until the deadline",
        "generation 7 drains: 132 connections left, 30 s until the deadline", DONE]


def test_a_stop_ends_when_the_supervisor_has(host, segue):
    command = segue("stop")
    client = host.call("stop")
    host.event(client, "stopping", connections=2, deadline_ms=20000)
    command.until("the service stops: 2 connections left, 20 s until the deadline")
    host.end(client, 0, "the service has stopped", outcome="stopped")
    assert host.answers(), "the supervisor is still there"
    with pytest.raises(Expired):
        readable(command.output, Deadline(1), "the client's last words")
    host.close()
    code, said, _ = command.wait()
    assert (code, said.splitlines()[-1]) == (0, "the service has stopped")
    assert host.process.wait(30) == 0


def test_who_asked_for_the_stop_need_not_be_answered_before_the_end(host, segue):
    command = segue("stop")
    host.call("stop")
    host.close()
    assert command.wait()[0] == 0


def test_a_silent_supervisor_is_named_and_waited_for(host, segue):
    command = segue("upgrade")
    client = host.call("upgrade")
    host.handle.stop()
    line = command.errors.next(20)
    assert f"pid {host.pid}" in line and "has not answered for 5 s" in line
    host.handle.go_on()
    assert "answers again" in command.errors.next()
    host.end(client)
    assert command.wait()[0] == 0


def test_a_supervisor_with_nothing_new_is_not_called_silent(host, segue):
    command = segue("upgrade")
    client = host.call("upgrade")
    began = time.monotonic()
    while time.monotonic() - began < 7:
        # The host's own signs of life, every 2 s, are all that comes.
        with pytest.raises(Expired):
            host.told(1)
    host.end(client)
    assert command.wait() == (0, "it is done\n", "")


def test_status_of_a_stopped_supervisor_ends_after_ten_seconds(host, segue):
    host.handle.stop()
    began = time.monotonic()
    code, _, errors = segue("status").wait()
    assert code == 7
    assert f"pid {host.pid}" in errors and "within 10 s" in errors
    assert 9 < time.monotonic() - began < 25
    host.handle.go_on()
    assert host.told()["call"] == "status"


def test_nonsense_from_the_supervisor_is_no_success(segue, folder):
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "odd.sock"))
        listener.listen()
        for answer, word in ((b"hello\n", "no JSON"), (b"x" * 9_000_000, "without end")):
            # By its path: looking for services would connect once more.
            command = segue("upgrade", "--control", folder / "odd.sock")
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                try:
                    connection.sendall(answer)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                code, _, errors = command.wait()
            assert (code, word in errors) == (7, True), errors


# What is seen.


def test_where_the_output_is_no_terminal_there_are_plain_lines(host, segue):
    command = segue("upgrade")
    client = host.call("upgrade")
    script_upgrade(host, client)
    host.end(client, 0, DONE)
    code, said, errors = command.wait()
    assert (code, said.splitlines(), errors) == (0, PLAIN, "")


@pytest.mark.parametrize("env, shown, coloured", [
    ({}, LIVE, True),
    ({"NO_COLOR": "1"}, LIVE, False),
    ({"NO_COLOR": ""}, LIVE, True),
    ({"LC_ALL": "C"}, ASCII, True),
    ({"TERM": "dumb"}, PLAIN, False),
    ({"TERM": ""}, PLAIN, False),
], ids=["", "NO_COLOR", "NO_COLOR-empty", "C", "dumb", "no-TERM"])
def test_what_stands_on_the_terminal_in_the_end(host, segue, env, shown, coloured):
    command = segue("upgrade", columns=80, env=env)
    client = host.call("upgrade")
    script_upgrade(host, client)
    host.end(client, 0, DONE)
    code, said, _ = command.wait()
    screen = Screen(80).feed(said)
    assert (code, screen.shown) == (0, shown)
    assert bool(screen.colours) is coloured
    if env.get("LC_ALL") == "C":
        assert said.isascii()


def frame(host, segue, columns, **options):
    """The live line while 33 of 132 connections are left, and its command."""
    command = segue("upgrade", columns=columns, **options)
    client = host.call("upgrade")
    script_upgrade_to_drain(host, client)
    command.until("33 of 132" if columns >= 60 else "generation 7 drains")
    return command, client


def script_upgrade_to_drain(host, client):
    host.event(client, "starting", workers=1, deadline_ms=30000)
    for left in (132, 33):
        host.event(client, "draining", ms=1000, connections=left, deadline_ms=9500, cut=0)


def test_the_live_line_shows_a_bar_the_count_and_the_time(host, segue):
    command, client = frame(host, segue, 100)
    line = Screen(100).feed(command.said.decode()).shown[-1]
    bar = "\u2588" * 15 + "\u2591" * 5
    assert line[2:].startswith(f"generation 7 drains  {bar}  33 of 132 connections left  1.")
    assert line.endswith(" s, 10 s left")
    host.end(client)
    command.wait()


def test_the_bar_is_ascii_where_the_locale_is(host, segue):
    command, client = frame(host, segue, 100, env={"LC_ALL": "C"})
    line = Screen(100).feed(command.said.decode("ascii")).shown[-1]
    assert f"[{'#' * 15}{'-' * 5}]  33 of 132 connections left" in line
    host.end(client)
    command.wait()


def test_the_time_goes_on_while_nothing_happens(host, segue):
    command = segue("upgrade", columns=80)
    client = host.call("upgrade")
    host.event(client, "starting", workers=1, deadline_ms=3000)
    command.until("0.3 s, 3 s left").until("1.1 s, 2 s left")
    host.end(client)
    command.wait()


def test_a_live_line_never_wraps_however_narrow_the_terminal_becomes(host, segue):
    command, client = frame(host, segue, 40)
    for columns in (20, 7, 2):
        command.resize(columns)
        command.send(signal.SIGWINCH)
        # Two frames later all that comes is as wide as the terminal.
        count = command.said.count(b"\x1b[K")
        while command.said.count(b"\x1b[K") < count + 3:
            command._read()
        last = command.said.decode(errors="ignore").split("\x1b[K")[-2]
        assert len(last.rpartition("\r")[2]) <= columns - 1
    host.end(client)
    code, said, _ = command.wait()
    assert (code, Screen(40).feed(said).shown) == (0, ["it is done"])


def test_several_workers_are_told_apart(host, segue):
    command = segue("upgrade")
    client = host.call("upgrade")
    host.event(client, "starting", workers=4, deadline_ms=30000)
    host.event(client, "note", worker=2, text="load\x1b[31ming\n")
    host.event(client, "ready", worker=2, ms=1500)
    host.event(client, "failed", worker=3, text="it was killed by SIGSEGV")
    host.end(client, 1, "no")
    _, said, _ = command.wait()
    assert said.splitlines()[1:] == [
        "worker 2 of generation 8: load?[31ming?",
        "worker 2 of generation 8 is ready after 1.5 s",
        "worker 3 of generation 8 failed: it was killed by SIGSEGV",
    ]


def test_every_event_and_every_gap_in_it_is_shown_without_harm(host, segue):
    for columns in (None, 80):
        command = segue("upgrade", columns=columns)
        client = host.call("upgrade")
        for event in control_schema.events():
            host.event(client, event, generation=8, predecessor=None)
            host.event(client, event, **dict.fromkeys(control_schema.events()[event]))
        host.event(client, "of a later version", colour="blue")
        host.do(do="event", client=client, event={"event": 7})
        host.do(do="event", client=client, event={"nothing": [1]})
        host.end(client)
        assert command.wait()[0] == 0


# JSON.

SAMPLES = {"string": "x", "integer": 3, "boolean": False, "array of strings": ["x"]}


def sample(types, known=()):
    return {name: SAMPLES[kind.split(" or ")[0]] for name, kind in types.items() if name in known}


def test_json_is_an_event_a_line_as_documented(host, segue):
    command = segue("upgrade", "--json", columns=80)
    client = host.call("upgrade")
    types = control_schema.members("Events")
    sent = []
    for event, known in control_schema.events().items():
        more = {"generation": 8, "predecessor": 7, "ms": 5, **sample(types, known)}
        sent.append({"event": event} if event == "alive" else {"event": event, **more})
        host.do(do="event", client=client, event=sent[-1])
    host.end(client, 0, DONE, outcome="upgraded", generation=8, predecessor=7, ms=9, cut=0,
             connections=None, output=[])
    code, said, _ = command.wait()
    lines = [json.loads(line) for line in said.splitlines()]
    for line in lines:
        control_schema.check_line(line)
    assert (code, lines[:-1]) == (0, [event for event in sent if event["event"] != "alive"])
    assert lines[-1]["outcome"] == "upgraded"


def test_json_has_an_end_where_the_client_alone_knows_it(control_host, segue):
    def end(command, code, outcome):
        result, said, _ = command.wait()
        line = json.loads(said.splitlines()[-1])
        control_schema.check_end(line)
        assert (result, line["exit"], line["outcome"]) == (code, code, outcome)

    end(segue("upgrade", "--json"), 5, "no-service")
    end(segue("status", "--json", "web"), 5, "no-service")
    host = control_host()
    command = segue("upgrade", "--json")
    host.call("upgrade")
    command.send(signal.SIGINT)
    end(command, 130, "interrupted")
    assert "gone" in host.told()
    command = segue("stop", "--json")
    host.call("stop")
    host.kill()
    end(command, 7, "lost")


# Status and list.

HOUR = 3_600_000


def worker(index, **more):
    return {"worker": index, "pid": 4321 + index, "state": "serving", "since": "2026-01-02T03:04:05Z",
            "age_ms": 100 * HOUR, "kind": "segue", "connections": 132, "restarts": 0, "status": None,
            "last_exit": None, "restart_ms": None, **more}


def generation(number, workers, **more):
    return {"number": number, "state": "serving", "since": "2026-01-02T03:04:05Z",
            "age_ms": 100 * HOUR, "deadline_ms": None,
            "program": {"path": "/srv/app/server", "script": False, "size": 421_888,
                        "identity": "build-id:1a2b3c4d5e6f7a8b9c0d", "script_file": None},
            "command": ["./server", "--port", "80"], "workers": workers, **more}


STATUS = {
    "version": 1, "name": "web", "pid": 1234, "state": "serving", "since": "2026-01-02T03:04:05Z",
    "age_ms": 100 * HOUR, "uptime_ms": 300 * HOUR, "control": "/run/segue/web.sock",
    "config": "/etc/segue/web.conf",
    "listeners": [{"name": "http", "address": "tcp://0.0.0.0:80"},
                  {"name": "admin", "address": "unix:///run/admin.sock"}],
    "restarts": 3, "workers_wanted": 2,
    "generations": [
        generation(8, [worker(0, status="ready to serve"),
                       worker(1, pid=None, state="waiting", age_ms=2000, kind="notify",
                              connections=None, restarts=3, last_exit="killed by SIGSEGV",
                              restart_ms=400)]),
        generation(7, [worker(0, pid=99, state="draining", age_ms=12_000, connections=1)],
                   state="draining", age_ms=12_000, deadline_ms=18_000, program=None, command=[]),
    ],
    "upgrade": {"generation": 8, "predecessor": 7, "state": "draining", "ms": 12_100,
                "deadline_ms": 18_000},
    "last_upgrade": {"generation": 7, "outcome": "upgraded", "message": "generation 7 serves",
                     "at": "2026-01-02T03:04:05Z", "age_ms": 5 * HOUR, "ms": 400},
}
STATUS_SHOWN = """\
web  serving for 4 d 4 h
  supervisor pid 1234, up 12 d 12 h, 3 restarts of workers
  listener   http  tcp://0.0.0.0:80
  listener   admin  unix:///run/admin.sock
  config     /etc/segue/web.conf
  upgrade    to generation 8: draining, 12.1 s so far, 18 s left
  last one   to generation 7, 5 h 0 min ago: upgraded: generation 7 serves

generation 8  serving for 4 d 4 h
  command    ./server --port 80
  program    /srv/app/server, 412 KiB, build-id:1a2b3c4d5e6f
  worker 0  pid 4321  serving   4 d 4 h  segue   132 connections              ready to serve
  worker 1  no pid    waiting   2 s      notify                   3 restarts  killed by SIGSEGV; again in 0.4 s

generation 7  draining for 12 s, 18 s left
  worker 0  pid 99    draining  12 s     segue   1 connection
"""


def ask_status(host, command, status):
    host.end(host.call("status"), 0, None, status=status)
    return command.wait()


def test_the_status_is_short_and_aligned(host, segue):
    control_schema.check_status(STATUS)
    code, said, errors = ask_status(host, segue("status"), STATUS)
    assert (code, errors) == (0, "")
    assert [line.rstrip() for line in said.splitlines()] == STATUS_SHOWN.splitlines()


def test_a_status_without_a_worker_says_so_first(host, segue):
    """That its generation serves is true of the listeners alone: clients wait."""
    waiting = worker(0, pid=None, state="waiting", last_exit="it exited with status 1", restart_ms=9000)
    status = {**STATUS, "upgrade": None, "generations": [generation(8, [waiting])]}
    code, said, _ = ask_status(host, segue("status", columns=200, env={"NO_COLOR": "1"}), status)
    lines = said.splitlines()
    assert (code, lines[0].strip()) == (0, "web  without a worker, serving for 4 d 4 h")
    assert "generation 8  without a worker, serving for 4 d 4 h" in [line.strip() for line in lines]
    code, said, _ = ask_status(host, segue("status", columns=200, env={"NO_COLOR": "1"}),
                               {**status, "state": "stopping"})
    assert said.splitlines()[0].strip() == "web  stopping for 4 d 4 h, no worker runs"


@pytest.mark.parametrize(("verb", "wrong", "meant"), [
    ("upgrade", "--nowait", "--no-wait"), ("upgrade", "--jsn", "--json"), ("stop", "--nwo", "--now"),
    ("cut", "--contrl=x", "--control"), ("cut", "--no-wait", None), ("list", "--controls", None),
    ("status", "--workers", None)])
def test_an_option_that_is_not_there_is_guessed_as_those_of_run_are(build, verb, wrong, meant):
    done = subprocess.run([build.program("src/segue/segue"), verb, wrong], capture_output=True, text=True,
                          timeout=30, check=False)
    rest = f"did you mean {meant}?" if meant else f"see 'segue {verb} --help'"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"segue {verb}: there is no option '{wrong}'; {rest}\n"


def test_the_status_has_colours_at_a_terminal_unless_unwanted(host, segue):
    code, said, _ = ask_status(host, segue("status", columns=200), STATUS)
    screen = Screen(200).feed(said)
    assert (code, screen.shown) == (0, [line.rstrip() for line in STATUS_SHOWN.splitlines()])
    assert screen.colours
    _, said, _ = ask_status(host, segue("status", columns=200, env={"NO_COLOR": "1"}), STATUS)
    assert "\x1b" not in said


FILE = {"path": "/srv/app/server.py", "size": 2_049}


@pytest.mark.parametrize("identity, shown", [
    ("sha256:" + "0123456789abcdef" * 4, "sha256:0123456789ab"),
    ("go-id:TWy0FhTlFmh2WySO5j3z", "go-id:TWy0FhTlFmh2"),
    ("size:2049,mtime:1767323045.000000007", "mtime:1767323045.000000007"),
])
def test_a_script_is_shown_by_its_own_identity_beside_its_interpreters(host, segue, identity, shown):
    program = {"path": "/usr/bin/python3.11", "script": True, "size": 6_831_736,
               "identity": "build-id:1a2b3c4d5e6f7a8b9c0d", "script_file": {**FILE, "identity": identity}}
    status = {**STATUS, "generations": [generation(8, [worker(0)], program=program)]}
    control_schema.check_status(status)
    _, said, _ = ask_status(host, segue("status"), status)
    lines = [line for line in said.splitlines() if line.startswith(("  program", "  run by"))]
    assert lines == [f"  program    /srv/app/server.py, 3 KiB, {shown}",
                     "  run by     /usr/bin/python3.11, 6672 KiB, build-id:1a2b3c4d5e6f"]


def test_a_status_as_json_is_the_object_alone(host, segue):
    code, said, _ = ask_status(host, segue("status", "--json"), STATUS)
    assert (code, said.count("\n"), json.loads(said)) == (0, 1, STATUS)


def test_a_status_with_gaps_and_escapes_is_shown_without_harm(host, segue):
    status = {"name": "web", "state": "starting", "generations": [
        {}, {"workers": [{}, {"status": "\x1b[2J\u00e9", "worker": 1}]}, 7],
        "listeners": [{}, "x"], "upgrade": {}, "last_upgrade": {}}
    code, said, _ = ask_status(host, segue("status", columns=200, env={"NO_COLOR": "1"}), status)
    assert code == 0
    assert "?[2J\u00e9" in said and "\x1b" not in said


def test_a_status_that_cannot_be_had_has_its_exit_code(host, segue):
    command = segue("status")
    host.end(host.call("status"), 3, "not now")
    assert command.wait() == (3, "", "segue: not now\n")


def test_list_names_the_services_that_live(control_host, segue):
    hosts = [control_host(name) for name in ("api", "web")]
    control_host("dead").kill()
    command = segue("list")
    for host, state in zip(hosts, ("serving", "upgrading"), strict=True):
        host.end(host.call("status"), 0, None, status={**STATUS, "state": state})
    code, said, _ = command.wait()
    assert code == 0
    assert [line.split() for line in said.splitlines()] == [
        ["api", "pid", str(hosts[0].pid), "serving", hosts[0].path],
        ["web", "pid", str(hosts[1].pid), "upgrading", hosts[1].path],
    ]


def test_list_names_a_service_that_does_not_answer(control_host, segue):
    host = control_host("web")
    host.handle.stop()
    code, said, _ = segue("list", "--json").wait()
    host.handle.go_on()
    assert code == 0
    assert json.loads(said) == {"name": "web", "pid": host.pid, "state": "silent",
                                "control": host.path}


def test_an_empty_list_is_no_failure(segue):
    code, said, errors = segue("list").wait()
    assert (code, said) == (0, "")
    assert "no service runs" in errors
