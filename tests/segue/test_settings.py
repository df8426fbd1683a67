"""An upgrade reads the configuration file again."""

import pytest

from harness import http
from harness.supervised import Supervised


@pytest.fixture
def configured(build, folder, _guard):
    """configured(...) starts a service on a file; .write(...) replaces that file."""
    file = folder / "hello.conf"

    def write(*lines, listen="http=tcp://127.0.0.1:0", program="hello --log-format json"):
        text = [f"listen {listen}", f"program {build.program('hello').parent}/{program}", *lines]
        file.write_text("\n".join(text) + "\n")

    def start(*lines, **more):
        write(*lines, **more)
        segue = build.program("src/segue/segue")
        service = _guard.own(Supervised(segue, folder, "--config", file))
        service.write = write
        service.wait_serving()
        return service

    return start


def environment(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)


def command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode().split("\0")[:-1]


def test_an_upgrade_takes_what_the_file_says_by_then(configured):
    service = configured("env TONE=a", "workers 1")
    (before,) = service.workers()
    assert environment(before["pid"])[b"TONE"] == b"a"
    service.write("env TONE=b", "workers 3", program="hello --log-format json --threads 1")
    service.upgrade()
    workers = service.workers(2)
    assert len(workers) == 3
    for worker in workers:
        assert environment(worker["pid"])[b"TONE"] == b"b"
        assert command(worker["pid"])[-2:] == ["--threads", "1"]
    assert http.get(service.address).status == 200


def test_a_new_command_line_goes_on_until_the_file_has_another(configured, build):
    service = configured()
    service.upgrade("--", build.program("hello"), "--log-format", "json", "--threads", "2")
    assert command(service.workers(2)[0]["pid"])[-1] == "2"
    service.upgrade()
    assert command(service.workers(3)[0]["pid"])[-1] == "2"
    service.write(program="hello --log-format json --threads 3")
    service.upgrade()
    assert command(service.workers(4)[0]["pid"])[-1] == "3"


@pytest.mark.parametrize("change, word", [
    ({"listen": "http=tcp://127.0.0.1:1"}, "listen"),
    ({"lines": ["pid-file other"]}, "pid-file"),
    ({"lines": ["log prefix"]}, "log"),
    ({"lines": ["workers none"]}, "workers"),
], ids=["listen", "pid-file", "log", "wrong"])
def test_what_cannot_change_refuses_the_upgrade_and_is_named(configured, change, word):
    service = configured()
    # The parameters are those of the next build, too.
    rest = {name: value for name, value in change.items() if name != "lines"}
    service.write(*change.get("lines", []), **rest)
    answer = service.ask("upgrade")
    assert answer.code == 3 and word in answer.message, answer
    assert http.get(service.address).generation == 1
    service.write()
    service.upgrade()
