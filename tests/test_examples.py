"""The examples do what their comments say, upgrades included."""

import contextlib
import re
import socket

import pytest

from harness import http, processes
from harness.builds import put_program
from harness.http import request
from harness.service import parse
from upgrades import Crowd, ask, generations, gone, upgrade

GREETING = b"hello, world\n"


# hello


def test_hello_answers_get_head_and_post(start):
    service = start("hello")
    with service.connect() as one:
        got = one.get()
        assert got.status == 200 and got.body == GREETING
        assert got.header("Content-Length") == str(len(GREETING))
        assert got.header("Content-Type").startswith("text/plain")
        assert got.header("Connection") is None
        assert (got.generation, got.pid) == (1, service.pid)
        head = one.ask("HEAD")
        assert head.status == 200 and head.body == b""
        assert head.header("Content-Length") == str(len(GREETING))
        post = one.ask("POST", body=b"whatever")
        assert post.status == 200 and post.body == GREETING
        assert one.is_idle()


def test_hello_refuses_what_it_does_not_offer_and_keeps_the_connection(start):
    service = start("hello")
    with service.connect() as one:
        assert one.get("/nowhere").status == 404
        refused = one.ask("DELETE")
        assert refused.status == 405
        assert {"GET", "HEAD", "POST"} <= set(re.split(r", *", refused.header("Allow")))
        assert one.get("/hello?delay=soon").status == 400
        assert one.get().status == 200


def test_hello_names_its_generation_and_pid(start):
    service = start("hello")
    with service.connect() as one:
        for generation in range(1, 4):
            answer = one.get()
            assert (answer.generation, answer.pid) == (generation, service.pid)
            upgrade(service)


def test_hello_waits_as_long_as_the_query_says(start):
    """The order of answers is the claim: what was asked for later and waits less comes first."""
    service = start("hello")
    with service.connect() as long, service.connect() as short, service.connect() as none:
        long.send(request(target="/hello?delay=2s"))
        short.send(request(target="/hello?delay=200ms"))
        assert none.get().status == 200
        assert short.response().status == 200
        assert long.is_idle()
        assert long.response().body == GREETING


def test_hello_waits_as_long_as_its_option_says_without_holding_a_thread(start):
    service = start("hello", "--delay", "1s", "--threads", 1)
    with Crowd(service.address, 1000) as crowd, service.connect() as other:
        threads = processes.threads(service.pid)
        crowd.send(request())
        assert other.get("/hello?delay=0").body == GREETING
        assert processes.threads(service.pid) == threads
        assert generations(crowd.answers()) == {1: 1000}


def test_hello_passes_its_options_on_to_the_successor(start):
    service = start("hello", "--delay", "300ms", "--threads", 1)
    upgrade(service)
    with service.connect() as slow, service.connect() as fast:
        slow.send(request())
        assert fast.get("/hello?delay=0").generation == 2
        assert slow.is_idle()
        assert slow.response().generation == 2


def test_hello_refuses_a_delay_that_is_none(start):
    service = start("hello", "--delay", "soon", wait=False)
    service.expected_exits = {2}
    assert service.wait_end() == {service.first.pid: 2}
    assert "soon" in service.log.text()


# echo


class Lines:
    """A client of echo: whole lines, or pieces of one."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def read(self):
        """(count of the connection's lines, generation, pid, line)"""
        match = re.fullmatch(rb"(\d+) generation (\d+) pid (\d+): (.*)\n", self.file.readline())
        count, generation, pid, line = match.groups()
        return int(count), int(generation), int(pid), line


@pytest.fixture
def echo(start, folder):
    """An echo that serves; its log is text."""
    service = start("echo", "127.0.0.1:0", folder / "echo.pid", bare=True,
                    pid_file=folder / "echo.pid")
    service.log.wait_for_line("^generation 1 pid .* serves")
    return service


def echo_upgrade(echo, generation):
    """The successor serves and the predecessor has gone."""
    pid = echo.pid
    echo.send(12)
    echo.log.wait_for_line(f"^generation {generation} pid .* serves")
    assert echo.wait_exit(pid) == 0


def test_echo_keeps_its_connections_over_upgrades(echo):
    address = parse(echo.addresses()[0])
    with Lines(address) as first, Lines(address) as silent, Lines(address) as half:
        assert first.send(b"one\n").read() == (1, 1, echo.pid, b"one")
        half.send(b"a line in ")
        # Read before the upgrade, since what came later on another connection has been answered.
        assert first.send(b"two\n").read()[:2] == (2, 1)
        echo_upgrade(echo, 2)
        assert first.send(b"three\n").read() == (3, 2, echo.pid, b"three")
        assert silent.send(b"hello\n").read() == (1, 2, echo.pid, b"hello")
        half.send(b"three ")
        assert first.send(b"four\n").read()[:2] == (4, 2)
        echo_upgrade(echo, 3)
        assert half.send(b"pieces\n").read() == (1, 3, echo.pid, b"a line in three pieces")
        assert first.send(b"five\nsix\n").read()[:2] == (5, 3)
        assert first.read() == (6, 3, echo.pid, b"six")


def test_echo_ends_its_connections_when_it_stops(echo):
    with Lines(parse(echo.addresses()[0])) as one:
        assert one.send(b"one\n").read()[0] == 1
        echo.stop()
        assert one.file.read() == b""


def echo_of_today(start, build, folder):
    """Its program, at a path where another version can be put, and the service."""
    program = put_program(build.program("echo"), folder / "echo-of-today")
    echo = start(program, "127.0.0.1:0", folder / "echo.pid", bare=True, pid_file=folder / "echo.pid",
                 env={"LD_LIBRARY_PATH": build.folder / "src/libsegue"})
    echo.log.wait_for_line("^generation 1 pid .* serves")
    return program, echo


def test_echo_keeps_what_its_successor_has_no_descriptors_for(start, build, folder):
    """It is not offered again and again, but ends with its next answer."""
    program, echo = echo_of_today(start, build, folder)
    pid, address = echo.pid, parse(echo.addresses()[0])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Lines(address)) for _ in range(100)]
        for client in clients:
            assert client.send(b"one\n").read()[1] == 1
        script = folder / "script"
        script.write_text(f"#!/bin/sh\nulimit -n 40\nexec {build.program('echo')} \"$@\"\n")
        script.chmod(0o755)
        put_program(script, program)
        echo.send(12)
        echo.log.wait_for_line("^generation 2 pid .* serves")
        answers = [client.send(b"two\n").read() for client in clients]
        assert {answer[0] for answer in answers} == {2}
        kept = [client for client, answer in zip(clients, answers) if answer[2] == pid]
        assert kept and all(client.file.read() == b"" for client in kept)
    assert echo.wait_exit(pid) == 0
    # Two batches, each declined once.
    assert echo.log.text().count("was declined") <= 2


def test_echo_keeps_what_its_successor_cannot_read(start, build, folder):
    program, echo = echo_of_today(start, build, folder)
    pid, address = echo.pid, parse(echo.addresses()[0])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Lines(address)) for _ in range(3)]
        for client in clients:
            assert client.send(b"one\n").read()[1] == 1
        script = folder / "script"
        script.write_text(f"#!/bin/sh\nexec {build.program('tests/programs/server')} --record 2 "
                          f"--listen 127.0.0.1:0 --pid-file {folder / 'echo.pid'}\n")
        script.chmod(0o755)
        put_program(script, program)
        echo.send(12)
        # What follows is said before the next line of a client is read.
        echo.log.wait_for_line(f"^generation 1 pid {pid}: standby -> draining")
        assert [client.send(b"two\n").read() for client in clients] == [(2, 1, pid, b"two")] * 3
        assert all(client.file.read() == b"" for client in clients)
    assert echo.wait_exit(pid) == 0


# state


def counted(service):
    with service.connect() as one:
        return int(one.get("/counter").body)


def test_state_counts_on_over_upgrades(start):
    service = start("state")
    with service.connect() as one:
        for number in range(1, 6):
            assert int(one.ask("POST", "/counter", body=b"").body) == number
            assert int(one.get("/counter").body) == number
            upgrade(service)


@pytest.mark.threads
def test_state_loses_no_increment_over_upgrades_under_load(start, load):
    """Each answered POST is in the count, exactly once, whichever generation counted it."""
    service = start("state", "--drain-timeout", "none", "--threads", 2)
    host, port = service.address
    url = f"http://{host}:{port}/counter"
    running = load("--keepalive", 6, "--new", 2, "--pipeline", "2:8", "--post", 2,
                   "--method", "POST", "--duration", "1h", url)
    running.wait_running()
    for generation in range(2, 32):
        assert upgrade(service) == generation
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    assert counted(service) == result["ok"] == result["requests"]


def test_state_adds_what_a_predecessor_counts_while_its_successor_serves(start):
    """Requests of both generations at once: bodies that come late are counted by the
    predecessor, and its final state brings them over."""
    service = start("state")
    late = [service.connect() for _ in range(5)]
    try:
        whole = request("POST", "/counter", body=b"late")
        for one in late:
            one.send(whole[:-2])
        assert counted(service) == 0
        ask(service)
        with service.connect() as other:
            for number in range(1, 4):
                assert int(other.ask("POST", "/counter", body=b"").body) == number
        assert [int(one.send(whole[-2:]).response().body) for one in late] == [1, 2, 3, 4, 5]
        gone(service, 1)
        assert counted(service) == 8
        # What has been inherited is inherited further.
        upgrade(service)
        assert counted(service) == 8
        assert [int(http.get(service.address, "/counter").body) for _ in range(2)] == [8, 8]
    finally:
        for one in late:
            one.close()
