"""The command line: each mistake is one clear sentence, and --check does nothing else."""

import json
import os
import re
import signal
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
        (["--threads", "many"], ["--threads", "many"]),
        (["--threads", "5000"], ["5000"]),
        (["--threads", "-1"], ["--threads"]),
        (["--log-format", "xml"], ["xml", "json"]),
        (["--upgrade-signal", "KILL"], ["KILL", "USR2"]),
        (["--max-head", "1000000"], ["1000000"]),
        (["--delay", "soon"], ["--delay", "soon"]),
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
    result = run("--listen", ":1", "--drain-timeout", "2m", "--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_port_that_is_taken_is_said_and_ends_with_1(start, run):
    service = start("hello")
    result = run("--listen", f"127.0.0.1:{service.address[1]}")
    assert result.returncode == 1 and str(service.address[1]) in result.stderr


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


def test_preflight_lets_the_next_version_check_its_arguments(start):
    service = start("hello", "--preflight")
    service.send(signal.SIGUSR2)
    service.wait_generation(2)
    service.log.wait_for("gone", generation=1)
