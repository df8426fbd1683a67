"""The command line: each mistake is one clear sentence, and --check does nothing else."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess

import pytest

from harness.http import Connection


@pytest.fixture
def run(build):
    def run_one(*arguments):
        return subprocess.run(
            [build.program("hello"), *arguments], capture_output=True, text=True, timeout=30, check=False
        )

    return run_one


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--nonsense"], ["--nonsense", "--help"]),
        (["nonsense"], ["nonsense"]),
        (["--"], ["--"]),
        (["--listen"], ["--listen", "argument"]),
        (["--listen", "127.0.0.1:70000"], ["127.0.0.1:70000"]),
        (["--listen=127.0.0.1"], ["127.0.0.1"]),
        (["--drain-timeout", "30"], ["--drain-timeout", "30s"]),
        (["--drain-timeout", "-1s"], ["--drain-timeout"]),
        (["--drain-timeout", "99999999999999999999s"], ["--drain-timeout"]),
        (["--threads", "many"], ["--threads", "many", "0 to 1024"]),
        (["--threads", "5000"], ["5000"]),
        (["--threads", "-1"], ["--threads"]),
        (["--log-format", "xml"], ["xml", "json"]),
        (["--upgrade-signal", "KILL"], ["KILL", "USR2"]),
        (["--upgrade-signal", "TERM"], ["TERM", "USR2"]),
        (["--upgrade-signal", "31"], ["31", "USR2"]),
        (["--max-head", "1000000"], ["--max-head", "1000000"]),
        (["--max-head", "0"], ["--max-head", "64 to"]),
        (["--listen", "8080"], ["'8080' is a port alone; write :8080"]),
        (["--delay", "soon"], ["--delay", "soon"]),
        (["--head-timeout", "0"], ["--head-timeout", "0"]),
        (["--idle-timeout", "0s"], ["--idle-timeout", "0"]),
        (["--body-timeout", "0"], ["--body-timeout", "0"]),
        (["--response-timeout", "0ms"], ["--response-timeout", "0"]),
        (["--start-timeout", "0"], ["--start-timeout", "0"]),
        (["--quiet=no"], ["--quiet", "argument"]),
        (["--check=1"], ["--check", "argument"]),
        (["--help=x"], ["--help", "argument"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_argument_is_named_in_one_sentence(run, arguments, words):
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.strip().split("\n")) == 1
    for word in words:
        assert word in result.stderr


def test_help_lists_every_option(run):
    result = run("--help")
    assert result.returncode == 0 and result.stderr == ""
    for name in ("listen", "pid-file", "start-timeout", "drain-timeout", "upgrade-signal", "threads",
                 "log-format", "access-log", "help", "version", "check", "probation", "delay"):
        assert re.search(rf"^  --{name}\b", result.stdout, re.M), name


def test_version_and_check_end_with_0(run):
    assert run("--version").stdout.startswith("hello (segue ")
    for drain in ("2m", "0", "none"):
        result = run("--listen", ":1", "--drain-timeout", drain, "--probation", "0", "--check")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_port_that_is_taken_is_said_and_ends_with_1(start, run):
    service = start("hello")
    result = run("--listen", f"127.0.0.1:{service.address[1]}")
    assert result.returncode == 1 and str(service.address[1]) in result.stderr


def test_why_it_cannot_serve_is_said_where_no_events_are_wanted(start, run):
    service = start("hello")
    result = run("--quiet", "--listen", f"127.0.0.1:{service.address[1]}")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert f" cannot serve: listener tcp://127.0.0.1:{service.address[1]}: another program" in result.stderr


def test_what_is_not_known_yet_or_known_already_is_not_said(run, folder):
    result = run("--pid-file", "/nowhere/pid", "--listen", f"unix://{folder}/a")
    assert result.returncode == 1 and "generation" not in result.stderr and "cannot serve" in result.stderr
    result = run("--pid-file", "/nowhere/pid", "--listen", f"unix://{folder}/a", "--log-format", "json")
    assert "generation" not in json.loads(result.stderr) and "/nowhere" in json.loads(result.stderr)["reason"]
    result = run("--listen", f"unix://{folder}/none/a")
    assert result.stderr.count(f"unix://{folder}/none/a") == 1
    assert f"there is no folder {folder}/none\n" in result.stderr


def test_a_listener_without_connections_is_refused(run):
    result = run("--listen", "udp://127.0.0.1:0")
    assert result.returncode == 1 and "udp://127.0.0.1:0" in result.stderr


def test_logs_are_opened_again(start, folder):
    log = folder / "access.log"
    service = start("hello", "--access-log", log)
    with Connection(service.address) as connection:
        connection.get("/hello?first")
        os.rename(log, folder / "access.log.1")
        service.send(signal.SIGUSR1)
        while not log.exists():
            connection.get()
        connection.get("/hello?second")
        connection.get()
    assert "/hello?first" in (folder / "access.log.1").read_text()
    for _ in range(1000):
        with Connection(service.address) as connection:
            connection.get()
        if "/hello?second" in log.read_text():
            return
    raise AssertionError("nothing is written to the new file")


def test_what_a_client_sends_cannot_forge_a_line_of_the_log(start, folder):
    log = folder / "access.log"
    service = start("hello", "--access-log", log)
    with Connection(service.address) as connection:
        connection.get('/"\\x%0a')
        connection.get()
    service.stop()
    targets = [json.loads(line)["target"] for line in log.read_text().splitlines()]
    assert targets[0] == '/"\\x%0a'


def test_a_log_that_was_removed_is_not_opened_again_by_another_name(build, folder):
    path = folder / "log"
    with open(path, "wb+") as log:
        path.unlink()
        service = subprocess.Popen(
            [build.program("hello"), "--listen", f"s=unix://{folder}/s", "--log-format", "json"], stderr=log
        )
        try:
            while b'"serving"' not in os.pread(log.fileno(), 65536, 0):
                assert service.poll() is None
            service.send_signal(signal.SIGUSR1)
            with Connection(f"{folder}/s") as connection:
                for _ in range(100):
                    assert connection.get().status == 200
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0
            assert b'"gone"' in os.pread(log.fileno(), 65536, 0)
        finally:
            service.kill()
            service.wait()
    assert not list(folder.glob("log*"))


REFUSED = [
    (b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /" + b"x" * 9000, 414),
    (b"\x16\x03\x01\x02", 400),
]


def test_heads_that_are_refused_are_in_the_access_log(start, folder):
    log = folder / "access.log"
    service = start("hello", "--access-log", log, "--head-timeout", "200ms", "--threads", "1")
    for data, status in REFUSED + [(b"GET / HTTP/1.1\r\n", 408)]:
        with Connection(service.address) as connection:
            assert connection.send(data).response().status == status
    service.stop()
    lines = log.read_text().splitlines()
    assert len(lines) == len(REFUSED) + 1
    entries = [json.loads(line) for line in lines]
    assert [entry["status"] for entry in entries] == [400, 414, 400, 408]
    assert {(entry["method"], entry["target"]) for entry in entries} == {("-", "-")}
    assert all(entry["peer"].startswith("127.0.0.1:") for entry in entries)
    assert entries[-1]["took_ms"] >= 200 and all(entry["took_ms"] >= 0 for entry in entries)


def full_pipe():
    """A pipe of one page whose reader does not read."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    return reading, writing


def test_an_access_log_that_nobody_reads_does_not_stop_the_service(start, folder):
    fifo = folder / "access"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    service = start("hello", "--access-log", fifo, "--threads", "1")
    with Connection(service.address, deadline=60) as connection:
        for _ in range(3000):
            assert connection.get().status == 200
    service.stop()
    warning = service.log.find("warning")[0]
    data = b""
    while piece := os.read(reading, 65536):
        data += piece
    os.close(reading)
    lines = data.splitlines(keepends=True)
    assert all(line.endswith(b"}\n") and json.loads(line)["status"] == 200 for line in lines)
    assert warning["lost"] + len(lines) == 3000
    assert warning["reason"] == f"log lines lost: {warning['lost']}"


def test_a_log_that_nobody_reads_does_not_stop_the_service(build):
    reading, writing = full_pipe()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = subprocess.Popen(
        [build.program("hello"), "--listen", f"127.0.0.1:{port}", "--log-format", "json"], stderr=writing
    )
    try:
        events = os.fdopen(reading, "rb")
        while b'"serving"' not in events.readline():
            continue
        with Connection(("127.0.0.1", port)) as connection:
            assert connection.get().status == 200
        while True:  # Nothing more fits.
            try:
                os.set_blocking(writing, False)
                os.write(writing, b"x" * 100)
            except BlockingIOError:
                break
            finally:
                os.set_blocking(writing, True)
        with Connection(("127.0.0.1", port)) as connection:
            service.send_signal(signal.SIGTERM)
            assert connection.rest() == b""
        assert service.wait(30) == 0
    finally:
        service.kill()
        service.wait()
        os.close(writing)
        events.close()


def test_preflight_lets_the_next_version_check_its_arguments(start):
    service = start("hello", "--preflight")
    service.send(signal.SIGUSR2)
    service.wait_generation(2)
    service.log.wait_for("gone", generation=1)


def test_any_signal_that_is_free_can_ask_for_the_upgrade(start):
    service = start("hello", "--upgrade-signal", "SIGPWR")
    service.send(signal.SIGPWR)
    service.wait_generation(2)
    with service.connect() as one:
        assert one.get().generation == 2
