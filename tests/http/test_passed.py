"""A program on the HTTP module serves on whatever it is passed where it has no --listen, and so do the
generations after it; what a failed generation dropped is served again.
"""

import pathlib
import signal
import socket

import pytest

from harness.builds import put_program
from harness.http import Connection
from harness.manager import activation, close_all


@pytest.fixture
def sockets():
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for one in made:
        one.close()


@pytest.fixture
def activated(start):
    def make(sockets, names):
        given = activation(sockets, names)
        try:
            return start("hello", listen=(), **given)
        finally:
            close_all(given["pass_fds"])

    return make


def answers(sockets, generation):
    for one in sockets:
        with Connection(one.getsockname()) as connection:
            assert connection.get("/hello").generation == generation


def listening(service, since=0, **fields):
    return sorted(event["name"] for event in service.log.find("listening", since=since, **fields))


def test_without_listen_it_serves_on_the_sockets_that_it_is_passed(activated, sockets):
    service = activated(sockets, ["web", "admin"])
    answers(sockets, 1)
    assert listening(service) == ["admin", "web"]


def test_two_sockets_of_one_name_or_of_none_are_told_apart_by_their_addresses(activated, sockets):
    service = activated(sockets, ["web", "web"])
    answers(sockets, 1)
    second = f"tcp://127.0.0.1:{sockets[1].getsockname()[1]}"
    assert listening(service) == sorted(["web", second])


def test_the_next_generation_serves_on_them_as_well(activated, sockets):
    service = activated(sockets, ["web", "admin"])
    mark = service.log.mark()
    service.send(signal.SIGUSR2)
    service.wait_generation(2)
    assert listening(service, since=mark, generation=2) == ["admin", "web"]
    service.log.wait_for("gone", since=mark, generation=1)
    answers(sockets, 2)


def test_a_listener_that_the_successor_did_not_want_is_served_again_without_it(start, compile_c, folder):
    hello = compile_c(pathlib.Path("examples/hello.c"), http=True)
    program = put_program(hello, folder / "program")
    listen = [f"{name}=unix://{folder}/{name}" for name in ("first", "second")]
    service = start(program, "--probation", "60s", listen=listen)
    service.expected_exits.add(-signal.SIGKILL)
    script = folder / "script"
    script.write_text(f'#!/bin/bash\nshift 2\nexec {hello} "$@"\n')
    script.chmod(0o755)
    put_program(script, program)
    service.send(signal.SIGUSR2)
    successor = service.wait_generation(2)["pid"]
    service.log.wait_for("unlisten", listener="first")
    with pytest.raises(FileNotFoundError):
        Connection(str(folder / "first"))
    service.send(signal.SIGKILL, successor)
    service.log.wait_for("resumed", generation=1)
    for name in ("first", "second"):
        with Connection(str(folder / name)) as connection:
            assert connection.get("/hello").generation == 1
