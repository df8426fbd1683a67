"""What comes too late or twice: a program that greets after a probe has found it ready, a restart
asked for beside a crash, a take-back beside the next upgrade.
"""

import os
import pathlib
import signal
import sys

import pytest

from functional import HOLD, eventually
from harness.http import Connection, get
from scenes import PLAIN


class Gate:
    """A FIFO at which a program waits once it is there; open() lets through all who wait."""

    def __init__(self, path):
        self.path = path

    def close(self):
        os.mkfifo(self.path)

    def open(self):
        with open(self.path, "w", encoding="ascii"):
            os.unlink(self.path)


@pytest.fixture
def gate(folder):
    return Gate(folder / "late")


@pytest.fixture
def waiting(build, gate):
    """The command of a hello that waits at the gate first."""
    script = f"test ! -e {gate.path} || read -r nothing <{gate.path}; exec \"$@\""
    return ["/bin/sh", "-c", script, "sh", build.program("hello"), "--log-format", "json"]


def test_a_program_that_greets_after_its_probe_serves_all_the_same(supervise, gate, waiting):
    service = supervise("--ready", "delay:100ms", program=pathlib.Path(waiting[0]), arguments=waiting[1:],
                        json=False, wait=False)
    service.wait_serving()
    address = service.address
    assert get(address).generation == 1
    gate.close()
    # The delay is over, the program is not there: clients wait in the queue.
    assert service.upgrade().end["generation"] == 2
    with Connection(address) as client:
        client.send(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
        gate.open()
        assert client.response().generation == 2
    assert service.stop()


def test_a_restart_beside_crashes_leaves_one_worker(supervise, gate):
    wait = f"os.path.exists({str(gate.path)!r}) and open({str(gate.path)!r}).read()"
    service = supervise("--restart-delay", "20s", program=pathlib.Path(sys.executable),
                        arguments=[PLAIN, wait], json=False, wait=False)
    service.expected_exits.add(-signal.SIGKILL)
    service.wait_serving()
    (before,) = service.workers()
    gate.close()
    mark = service.log.mark()
    client = service.popen("restart", "--json", "0")
    service.log.wait_for("started", since=mark)
    # The first crash starts the worker again at once, the second one after a while.
    pid = before["pid"]
    for _ in range(2):
        mark = service.log.mark()
        service.process(pid).send(signal.SIGKILL)
        service.log.wait_for("crashed", since=mark)
        if pid == before["pid"]:
            pid = service.log.wait_for("started", since=mark)["pid"]
    gate.open()
    out, err = client.communicate(timeout=30)
    assert client.returncode == 0, (out, err)
    (after,) = service.workers()
    assert after["pid"] not in (before["pid"], pid) and after["state"] == "serving"
    assert after["restart_ms"] is None
    eventually(lambda: {stat.pid for stat in service.members()
                        if stat.name.startswith("python") and not stat.zombie}, {after["pid"]})


def test_a_restart_whose_replacement_crashes_while_the_first_drains_has_failed(supervise):
    """The client is told at once, and that a third is started; the first drains on."""
    service = supervise("--restart-delay", "20s")
    address = service.address
    with Connection(address) as slow:
        first = slow.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response().pid
        mark = service.log.mark()
        client = service.popen("restart", "--json", "0")
        # Its own word: till then it accepts.
        service.log.wait_for("draining", since=mark, pid=first)
        (second,) = {one["pid"] for one in service.workers()} - {first}
        mark = service.log.mark()
        service.process(second).send(signal.SIGKILL)
        service.expected_exits.add(-signal.SIGKILL)
        out, err = client.communicate(timeout=30)
        assert client.returncode == 1 and '"failed"' in out, (out, err)
        assert "the replacement of worker 0 failed: it was killed by signal 9" in out, out
        assert "; it is started again at once" in out, out
        third = get(address)
        assert third.pid not in (first, second) and third.generation == 1
        assert slow.send(b"y").response().pid == first
    service.log.wait_for("worker", since=mark, pid=first, to="gone")
    service.log.wait_for("worker", since=mark, pid=third.pid, to="serving")
    assert service.ask("restart", 0).message.startswith("worker 0 is now pid")


def test_a_restart_that_an_upgrade_overtakes_names_that(supervise):
    """The second worker is gone, as it was told, before the first has finished."""
    service = supervise()
    with Connection(service.address) as slow:
        first = slow.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response().pid
        mark = service.log.mark()
        client = service.popen("restart", "--json", "0")
        service.log.wait_for("draining", since=mark, pid=first)
        second = service.log.wait_for("started", since=mark)["pid"]
        upgrade = service.popen("upgrade", "--json")
        service.log.wait_for("worker", since=mark, pid=second, to="gone")
        slow.send(b"y").response()
        out, err = client.communicate(timeout=30)
        assert client.returncode == 1, (out, err)
        assert '"the replacement of worker 0 failed: generation 2 has taken over meanwhile"' in out, out
    out, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 0, (out, err)


def test_a_generation_serves_since_its_commit_whichever_worker_is_replaced(supervise):
    service = supervise("--ready", "delay:100ms", program=pathlib.Path(sys.executable), arguments=[PLAIN],
                        json=False, wait=False)
    service.wait_serving()
    assert service.ask("restart", "0").code == 0
    (generation,) = service.status()["generations"]
    (worker,) = generation["workers"]
    assert generation["state"] == worker["state"] == "serving"
    assert generation["age_ms"] >= worker["age_ms"] + 100


# Says that a USR1 has come.
USR1 = "signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b'usr1 of %d\\n' % os.getpid()))"


def test_usr1_ends_no_worker_that_only_starts(supervise, gate):
    """As a worker that crashed does; of the signals that are meant to end it it may die."""
    wait = f"os.path.exists({str(gate.path)!r}) and open({str(gate.path)!r}).read()"
    service = supervise("--restart-delay", "10ms", program=pathlib.Path(sys.executable),
                        arguments=[PLAIN, wait, USR1], json=False, wait=False)
    service.expected_exits.add(-signal.SIGKILL)
    service.wait_serving()
    (before,) = service.workers()
    gate.close()
    mark = service.log.mark()
    service.process(before["pid"]).send(signal.SIGKILL)
    pid = service.log.wait_for("started", since=mark)["pid"]
    answer = service.ask("kill", "USR1")
    assert answer.code == 3 and "USR1 (10) was not sent: the worker only starts" in answer.message, answer
    mark = service.log.mark()
    assert service.ask("kill", "KILL").message == "KILL (9) was sent to 1 worker"
    assert service.log.wait_for("crashed", since=mark)["pid"] == pid
    gate.open()
    pid = service.log.wait_for("worker", since=mark, to="serving")["pid"]
    assert service.ask("kill", "USR1").message == "USR1 (10) was sent to 1 worker"
    service.log.wait_for_line(f"usr1 of {pid}$")


def test_usr1_is_passed_on_to_a_worker_that_drains(supervise, gate):
    """It writes logs as well."""
    last = f"sys.exit = lambda _: os.path.exists({str(gate.path)!r}) and open({str(gate.path)!r}).read()"
    service = supervise(program=pathlib.Path(sys.executable), arguments=[PLAIN, last, USR1],
                        json=False, wait=False)
    service.wait_serving()
    (first,) = service.workers()
    gate.close()
    mark = service.log.mark()
    client = service.popen("restart", "--json", "0")
    service.log.wait_for("worker", since=mark, pid=first["pid"], to="draining")
    service.first.send(signal.SIGUSR1)
    service.log.wait_for_line(f"usr1 of {first['pid']}$")
    gate.open()
    out, err = client.communicate(timeout=30)
    assert client.returncode == 0, (out, err)


def test_a_take_back_beside_the_next_upgrade_is_told_to_both(supervise, gate, waiting):
    service = supervise(program=pathlib.Path(waiting[0]), arguments=waiting[1:], json=False, wait=False)
    service.wait_serving()
    address = service.address
    with Connection(address) as slow:
        slow.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        second = service.popen("upgrade", "--json")
        service.wait_generation(2)
        gate.close()
        third = service.popen("upgrade", "--json")
        service.log.wait_for("started", generation=3)
        (worker,) = service.workers(2)
        service.process(worker["pid"]).send(signal.SIGKILL)
        service.expected_exits.add(-signal.SIGKILL)
        out, err = second.communicate(timeout=30)
        assert second.returncode == 1 and '"taken-back"' in out, (out, err)
        assert get(address).generation == 1
        gate.open()
        assert slow.send(b"y").response().generation == 1
    out, err = third.communicate(timeout=60)
    assert third.returncode == 0 and "generation 3 serves; generation 1 is gone" in out, (out, err)
    assert get(address).generation == 3


def test_who_waits_for_a_generation_that_a_take_back_skips_is_told(supervise):
    """The second has gone when the third crashes, and the first serves again: whose end the client of
    the second waited for."""
    service = supervise()
    address = service.address
    with Connection(address) as slow:
        slow.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        second = service.popen("upgrade", "--json")
        service.wait_generation(2)
        third = service.popen("upgrade", "--json")
        service.wait_generation(3)
        out, err = third.communicate(timeout=30)
        assert third.returncode == 0 and "generation 2 is gone" in out, (out, err)
        (worker,) = service.workers(3)
        service.process(worker["pid"]).send(signal.SIGKILL)
        service.expected_exits.add(-signal.SIGKILL)
        out, err = second.communicate(timeout=30)
        assert second.returncode == 1 and '"taken-back"' in out, (out, err)
        assert "generation 3 failed after it had served" in out and "generation 1 serves again" in out
        assert slow.send(b"y").response().generation == 1
    assert get(address).generation == 1
