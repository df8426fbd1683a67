"""Workers that crash under `segue run`: they are started again from the file that was running, with a
growing delay and up to a limit; clients wait meanwhile and are not refused; a good version heals it.
"""

import os
import signal
import sys

import pytest

from functional import asking, copy, eventually
from harness.http import Connection, get
from scenes import PLAIN, SERVER, Run, gate

CRASH = "serve:signal:11"


@pytest.fixture
def run(supervise, folder):
    return lambda *options, **more: Run(supervise, folder, *options, **more)


def crashes(one):
    return one.log.find("crashed")


def delays(one):
    """How long each restart was waited for, in ms, as the log says."""
    return [event["restart_ms"] for event in crashes(one)]


def kill(one, pid):
    """One worker; the pid of the one in its place."""
    mark = one.log.mark()
    one.process(pid).send(signal.SIGKILL)
    return one.worker("serving", since=mark)["pid"]


# The row.


def test_the_delay_grows_up_to_the_limit_and_status_answers_throughout(run):
    one = run("--restart-limit", 6, "--restart-delay", "20ms", "--restart-delay-max", "100ms")
    one.behave(CRASH)
    one.process(one.pids()[0]).send(signal.SIGKILL)
    while not one.log.find("limit"):
        status = one.service.status()
        assert status["state"] == "serving" and status["generations"][0]["number"] == 1
    assert delays(one) == [0, 20, 40, 80, 100, 100]
    assert "worker 1:0 crashed 7 times in a row" in one.log.find("limit")[0]["text"]
    (worker,) = one.service.status()["generations"][0]["workers"]
    assert worker["pid"] is None and worker["restarts"] == 6
    assert "killed by signal 11" in worker["last_exit"]
    # Clients are not refused: they wait for whoever comes.
    with Connection(one.address) as client:
        client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        one.configure()
        answer = one.service.upgrade()
        assert answer.end["generation"] == 2
        assert client.again().response().generation == 2
    assert len(one.pids()) == 1 and len(crashes(one)) == 6
    # And from there on all is as ever.
    with asking(one.address):
        one.upgrade()


def test_an_upgrade_in_the_middle_of_the_loop_heals_it(run):
    one = run("--workers", 2, "--restart-limit", 0, "--restart-delay", "50ms",
              "--restart-delay-max", "10s")
    one.behave(CRASH)
    for pid in one.pids():
        one.process(pid).send(signal.SIGKILL)
    for _ in range(3):
        one.log.wait_for("crashed", since=one.log.mark())
    one.configure()
    one.upgrade()
    count = len(crashes(one))
    with asking(one.address):
        one.upgrade()
    # No restart of what has been retired is left.
    assert len(crashes(one)) == count and len(one.pids()) == 2


def test_an_upgrade_waits_for_a_worker_that_is_about_to_serve(run, folder):
    one = run()
    with gate(folder) as go:
        one.behave(f"ready:gate:{folder}/gate")
        mark = one.log.mark()
        one.process(one.pids()[0]).send(signal.SIGKILL)
        restarted = one.worker("committed", since=mark)["pid"]
        one.configure()
        assert one.service.ask("upgrade", "--no-wait").code == 0
        assert one.state("checking", since=mark)
        assert one.service.status()["state"] == "checking"
        assert not one.log.find("started", generation=2)
        go()
        one.log.wait_for("serving", generation=2)
    assert one.worker("serving", since=mark, generation=1)["pid"] == restarted


def test_one_that_never_serves_ends_the_upgrade_that_waits_for_it(run, folder):
    one = run("--preflight-timeout", "50ms", "--start-timeout", "1s")
    with gate(folder):
        one.behave(f"ready:gate:{folder}/gate")
        mark = one.log.mark()
        one.process(one.pids()[0]).send(signal.SIGKILL)
        one.worker("committed", since=mark)
        message = one.fails()["message"]
        assert "a worker of generation 1 was started again and did not say that it serves" in message
        one.configure()
        # It is killed when its own time is over; its like comes, and the service goes on.
        one.worker("serving", since=mark)
    one.upgrade()


def test_a_bad_upgrade_in_the_loop_leaves_it_as_it_was(run):
    one = run("--restart-limit", 1)
    one.behave(CRASH)
    one.process(one.pids()[0]).send(signal.SIGKILL)
    one.log.wait_for("limit")
    one.behave("listen:exit:1")
    message = one.fails()["message"]
    assert message == ("generation 2 failed: it exited with status 1 before it was ready; generation 1 "
                       "is as before, without a worker")
    one.configure()
    one.upgrade()


def test_a_worker_that_has_lived_long_enough_begins_a_new_row(run):
    one = run("--restart-reset", "1ms", "--restart-limit", 2, "--restart-delay", "10s")
    pid = one.pids()[0]
    for _ in range(5):
        pid = kill(one, pid)
    assert delays(one) == [0] * 5 and not one.log.find("limit")


def test_the_restart_command_goes_before_the_delay(run):
    one = run("--restart-delay", "1h", "--restart-delay-max", "1h")
    one.behave(CRASH)
    one.process(one.pids()[0]).send(signal.SIGKILL)
    one.log.wait_for("crashed", restart_ms=3600000, where=lambda event: "in 3600 s" in event["text"])
    (worker,) = one.service.status()["generations"][0]["workers"]
    assert worker["state"] == "waiting" and worker["restart_ms"] > 3500000
    one.configure()
    assert one.service.ask("restart", 0).code == 0
    eventually(lambda: [worker["state"] for worker in one.service.workers()], ["serving"])
    assert get(one.address).body == b"hello\n"


def test_a_stop_in_the_loop_ends_at_once(run):
    one = run("--restart-delay", "1h", "--restart-delay-max", "1h")
    one.behave(CRASH)
    one.process(one.pids()[0]).send(signal.SIGKILL)
    one.log.wait_for("crashed", restart_ms=3600000, where=lambda event: "in 3600 s" in event["text"])
    one.service.first.send(signal.SIGTERM)
    one.service.wait_end()
    assert one.service.exit_codes[one.pid] == 0


@pytest.mark.parametrize("policy, code, restarted", [("on-failure", 0, False), ("on-failure", 4, True),
                                                     ("always", 0, True), ("never", 4, False)])
def test_the_policy_says_which_end_is_followed_by_a_start(supervise, folder, policy, code, restarted):
    leave = f"signal.signal(signal.SIGUSR2, lambda *_: os._exit({code}))"
    service = supervise("--restart", policy, program=sys.executable, arguments=[PLAIN, leave],
                        json=False)
    pid = service.workers()[0]["pid"]
    service.send(signal.SIGUSR2, pid)
    if restarted:
        eventually(lambda: [one["state"] for one in service.workers() if one["pid"] != pid], ["serving"])
        return
    service.wait_end()
    assert service.exit_codes[service.pid] == code
    service.expected_exits = {0, code}


# Under load.


def test_a_crash_under_load_refuses_nobody(run, load):
    one = run("--workers", 2)
    # Each connection is new: what is lost was a killed worker's, one a client at most.
    running = load("--new", 6, "--duration", "1h", one.service).wait_running()
    for turn in range(6):
        kill(one, one.pids()[turn % 2])
    result = running.stop()
    assert result["outcomes"].get("refused", 0) == 0, result
    assert result.lost <= 6 * 6 and result["ok"] > 100, result
    assert len(crashes(one)) == 6


def test_clients_wait_while_no_worker_is_there(run, folder):
    with gate(folder) as let:
        one = run()
        one.behave(f"listen:gate:{folder}/gate")
        one.process(one.pids()[0]).send(signal.SIGKILL)
        one.log.wait_for("gate")
        waiting = [Connection(one.address) for _ in range(20)]
        for client in waiting:
            client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        let()
        for client in waiting:
            with client:
                assert client.again().response().status == 200


# From which file.


def marked(build, path):
    """Another version of the server: it is told by its build id."""
    copy(build, path)
    changed = path.with_suffix(".changed")
    data = path.read_bytes()
    # The note of the build id: its header, "GNU", then the id.
    at = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16
    changed.write_bytes(data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 20]) + data[at + 20 :])
    changed.chmod(0o755)
    os.replace(changed, path)


def identity(one):
    return one.service.status()["generations"][0]["program"]["identity"]


def test_a_crashed_worker_is_started_from_the_file_that_was_running(run, build, folder):
    path = copy(build, folder / "app")
    one = run("--workers", 2, program=path)
    was = identity(one)
    assert was.startswith("build-id:")
    marked(build, path)
    pid = kill(one, one.pids()[0])
    kill(one, one.pids()[1])
    assert identity(one) == was and not one.log.find("warning")
    assert os.readlink(f"/proc/{pid}/exe").endswith("app (deleted)")
    # Once more, from what was itself started by descriptor.
    assert kill(one, pid) != pid and identity(one) == was
    path.unlink()
    kill(one, one.pids()[0])
    assert identity(one) == was
    # What lies at the path is for the next generation.
    marked(build, path)
    one.upgrade()
    assert identity(one) != was and identity(one).startswith("build-id:")


def test_a_script_that_lies_at_the_path_by_now_does_not_run_in_its_place(run, build, folder):
    """Not at the second crash either, when the process was itself started by descriptor."""
    path = copy(build, folder / "app")
    one = run(program=path)
    broken = folder / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    os.replace(broken, path)
    pid = kill(one, one.pids()[0])
    assert not one.service.status()["generations"][0]["program"]["script"]
    pid = kill(one, pid)
    assert one.service.ask("restart", 0).code == 0
    assert not one.log.find("warning")


def test_a_script_is_started_from_the_path_and_the_log_says_so(run, build, folder):
    path = folder / "script"
    path.write_text(f'#!/bin/sh\nexec "{build.program(SERVER)}" "$@"\n')
    path.chmod(0o755)
    one = run(program=path)
    kill(one, one.pids()[0])
    text = one.log.find("warning")[0]["text"]
    assert f"worker 1:0 is restarted from what lies at {path} now: it is a script" in text, text


def test_a_file_that_was_overwritten_in_place_is_started_from_the_path_and_the_log_says_so(
        run, build, folder):
    path = copy(build, folder / "app")
    one = run("--restart-delay", "1h", "--restart-delay-max", "1h", program=path)
    one.behave(CRASH)
    one.process(one.pids()[0]).send(signal.SIGKILL)
    one.log.wait_for("crashed", restart_ms=3600000, where=lambda event: "in 3600 s" in event["text"])
    # No longer busy: a file that runs could not be written to.
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"another version")
    one.configure()
    assert one.service.ask("restart", 0).code == 0
    text = one.log.wait_for("warning")["text"]
    assert (f"worker 1:0 is restarted from what lies at {path} now: the file was overwritten in "
            "place") in text, text
    eventually(lambda: [worker["state"] for worker in one.service.workers()], ["serving"])


# Just after the commit.


def test_a_successor_that_crashes_while_its_predecessor_drains_is_taken_back(run):
    one = run("--drain-timeout", "20s")
    first = one.pids()
    held = Connection(one.address)
    held.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\nPOST /hello HTTP/1.1\r\nHost: a\r\n"
              b"Content-Length: 2\r\n\r\nx").response()
    upgrade = one.service.popen("upgrade", "--json")
    one.worker("draining", generation=1)
    second = one.worker("serving", generation=2)["pid"]
    one.process(second).send(signal.SIGKILL)
    out, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 1 and '"outcome":"taken-back"' in out, (out, err)
    assert "generation 1 serves again" in out
    eventually(lambda: one.pids(), first)
    assert held.again().send(b"y").response().pid == first[0]
    assert held.get().pid == first[0]
    held.close()
    assert get(one.address).pid == first[0]
    last = one.service.status()["last_upgrade"]
    assert last["outcome"] == "taken-back" and last["generation"] == 2
    one.configure()
    with asking(one.address):
        one.upgrade()


@pytest.mark.parametrize("then", ["serves", "crashes again"])
def test_a_successor_that_crashes_at_its_commit_is_waited_for_once(run, folder, then):
    with gate(folder) as let:
        one = run("--workers", 2, "--restart-limit", 0, "--restart-delay", "50ms",
                  "--restart-delay-max", "50ms")
        kept = [Connection(one.address) for _ in range(8)]
        for client in kept:
            client.get()
        one.behave(f"ready:gate:{folder}/gate")
        upgrade = one.service.popen("upgrade", "--json")
        pids = [one.worker("committed", generation=2, worker=at)["pid"] for at in range(2)]
        if then == "serves":
            one.configure()
        else:
            one.behave("listen:exit:1")
        mark = one.log.mark()
        one.process(pids[0]).send(signal.SIGKILL)
        one.log.wait_for("crashed", since=mark)
        for _ in range(4):
            let()
        out, err = upgrade.communicate(timeout=30)
        assert upgrade.returncode == 0, (out, err)
    told = one.log.events.index(one.worker("draining", generation=1, worker=0, since=mark))
    if then == "serves":
        again = one.worker("serving", generation=2, worker=0, since=mark)
        assert one.log.events.index(again) < told
    else:
        # The other one takes over from both, and nobody waits for the first any more.
        assert not one.log.find("worker", generation=2, worker=0, to="serving")
    served = {client.again().get().pid for client in kept}
    assert served <= set(one.pids(2))
    for client in kept:
        client.close()
