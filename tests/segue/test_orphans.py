"""The supervisor dies: by choice its workers finish and leave, or serve on; nothing is left by accident,
and a new supervisor takes the place as soon as nobody serves there any more.
"""

import signal
import subprocess
import sys

import pytest

from functional import eventually
from harness import processes
from harness.http import Connection, get
from scenes import PLAIN, Run, gate

MIXED = ("--new", 2, "--keepalive", 4, "--post", 4, "--pipeline", "2:4", "--idle", "10:50ms",
         "--duration", "1h")


@pytest.fixture
def run(supervise, folder):
    return lambda *options, **more: Run(supervise, folder, *options, **more)


def kill_supervisor(service):
    service.sessions()
    service.first.send(signal.SIGKILL)
    service.first.wait()
    service.expected_exits = {0, -signal.SIGKILL, -signal.SIGTERM}


def ask_until(address, pids):
    """Answers until only these processes give them."""
    seen = []
    eventually(lambda: (seen.append(get(address).pid), set(seen[-8:]) <= set(pids))[1] and
               len(seen) >= 8, True)


DEATH_SIGNAL = r"""
#include <poll.h>
#include <segue.h>
#include <stdio.h>
#include <sys/prctl.h>

int main(void)
{
	struct segue *segue;
	struct segue_event event;
	int before = 0, after = -1;

	prctl(PR_GET_PDEATHSIG, &before);
	if (segue_open(&segue, NULL) < 0)
		return 1;
	prctl(PR_GET_PDEATHSIG, &after);
	fprintf(stderr, "{\"event\": \"death_signal\", \"before\": %d, \"after\": %d}\n", before, after);
	if (segue_listen(segue, "http", "tcp://127.0.0.1:0", NULL) < 0 || segue_ready(segue) < 0)
		return 1;
	for (;;) {
		struct pollfd poller = { .fd = segue_fd(segue), .events = POLLIN };

		poll(&poller, 1, -1);
		while (segue_dispatch(segue, &event) > 0) {
			if (event.type == SEGUE_EVENT_DRAIN)
				segue_drained(segue);
			if (event.type == SEGUE_EVENT_GONE)
				return segue_close(segue), 0;
		}
	}
}
"""


def test_a_worker_that_sees_the_supervisor_die_needs_no_signal_from_the_kernel(supervise, compile_c):
    """Which sends one for each thread of the supervisor that goes before its last: a second stop cuts."""
    one = supervise(program=compile_c(DEATH_SIGNAL), json=False)
    told = one.log.wait_for("death_signal")
    assert (told["before"], told["after"]) == (signal.SIGTERM, 0)
    one.stop()


@pytest.mark.parametrize("workers", [1, 3])
def test_by_default_workers_finish_and_leave_and_a_new_supervisor_starts_at_once(
        run, supervise, folder, workers):
    path = f"unix://{folder}/http.sock"
    options = ("--workers", workers, "--pid-file", folder / "pid")
    one = run(*options, listen=[f"http={path}"])
    busy = Connection(one.address)
    busy.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\nPOST /hello HTTP/1.1\r\nHost: a\r\n"
              b"Content-Length: 2\r\n\r\nx").response()
    kill_supervisor(one.service)
    # What has begun is answered, though nobody is there who could tell the worker to stop.
    assert busy.again().send(b"y").response().status == 200
    busy.close()
    one.service.wait_end()
    # Its sockets' names are still there, and stand in nobody's way.
    assert one.service.control.exists() and (folder / "pid").exists()
    again = supervise(*options, "--control", one.service.control, listen=[f"http={path}"])
    again.control = one.service.control
    assert get(again.listener()).status == 200


def test_orphans_that_serve_lose_nothing_and_hold_the_address(supervise, load):
    service = supervise("--workers", 2, "--orphans", "serve")
    pids = [worker["pid"] for worker in service.workers()]
    host, port = service.address
    running = load(*MIXED, service).wait_running()
    kill_supervisor(service)
    for _ in range(8):
        assert get((host, port)).pid in pids
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    # Nobody can upgrade them, and the place of the supervisor is not free.
    code, _, _ = service.call("upgrade")
    assert code == 5
    done = subprocess.run(
        [service.segue, "run", "--control", service.control, "--listen", f"tcp://{host}:{port}", "--",
         "true"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "another program has this address" in done.stderr, done
    assert get((host, port)).pid in pids
    for pid in pids:
        service.process(pid).send(signal.SIGTERM)
    service.wait_end()
    assert {service.exit_codes.get(pid) for pid in pids} == {0}
    with pytest.raises(ConnectionRefusedError):
        get((host, port))


def test_orphans_that_serve_end_an_upgrade_that_was_committed(run, folder):
    """The supervisor dies when its word has been given to a successor that has not heard it yet: that
    one serves, and the predecessor hears of it."""
    with gate(folder) as let:
        one = run("--orphans", "serve", "--workers", 2)
        first = one.pids()
        kept = [Connection(one.address) for _ in range(8)]
        for client in kept:
            client.get()
        one.behave(f"ready:gate:{folder}/gate")
        client = one.service.popen("upgrade")
        for worker in range(2):
            one.worker("committed", generation=2, worker=worker)
        second = [event["pid"] for event in one.log.find("worker", generation=2, to="committed")]
        # What it has logged it has also said when it answers.
        one.service.status()
        kill_supervisor(one.service)
        for _ in range(2):
            let()
        client.communicate(timeout=30)
        assert client.returncode == 7
        for pid in first:
            one.service.wait_exit(pid)
        # Whoever was idle is with the successors now, and noticed nothing.
        assert {client.again().get().pid for client in kept} <= set(second)
        ask_until(one.address, second)
        for client in kept:
            client.close()
        for pid in second:
            one.process(pid).send(signal.SIGTERM)
        one.service.wait_end()


@pytest.mark.parametrize("orphans", ["drain", "serve"])
def test_a_successor_that_was_not_ready_gives_up(run, folder, orphans):
    with gate(folder) as let:
        one = run("--orphans", orphans)
        (first,) = one.pids()
        one.behave(f"listen:gate:{folder}/gate")
        client = one.service.popen("upgrade")
        second = one.log.wait_for("gate")["pid"]
        kill_supervisor(one.service)
        one.service.expected_exits |= {1}
        let()
        assert one.service.wait_exit(second) in (0, 1, None)
        client.communicate(timeout=30)
        if orphans == "serve":
            assert get(one.address).pid == first
            one.process(first).send(signal.SIGTERM)
        one.service.wait_end()


@pytest.mark.parametrize("orphans", ["drain", "serve"])
def test_other_programs_get_the_stop_signal_or_serve_on(supervise, orphans):
    service = supervise("--workers", 2, "--orphans", orphans, program=sys.executable,
                        arguments=[PLAIN], json=False)
    pids = [worker["pid"] for worker in service.workers()]
    address = service.address
    kill_supervisor(service)
    if orphans == "serve":
        assert get(address).pid in pids
        for pid in pids:
            assert not processes.Stat(pid).zombie
            service.process(pid).send(signal.SIGTERM)
    service.wait_end()
    assert {service.exit_codes.get(pid) for pid in pids} == {0}


def test_what_a_preflight_command_had_started_goes_with_it(run, folder):
    with gate(folder):
        one = run("--preflight", "cat gate & cat gate")
        client = one.service.popen("upgrade")
        one.state("checking")
        eventually(lambda: sum(stat.name == "cat" for stat in one.service.members()), 2)
        kill_supervisor(one.service)
        client.communicate(timeout=30)
        one.service.wait_end()


# Nobody stays by accident.

STAYS = ("--drain-timeout", "200ms", "--kill-timeout", "100ms")
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal = lambda *_: None"


def is_killed(service, pids, address):
    """Nobody but the relay's process could have done it; the address is free."""
    service.expected_exits |= {-signal.SIGKILL}
    service.wait_end()
    assert {service.exit_codes.get(pid) for pid in pids} == {-signal.SIGKILL}
    with pytest.raises(ConnectionRefusedError):
        get(address)


@pytest.mark.parametrize("log", ["plain", "direct"])
def test_a_stopped_worker_does_not_outlive_the_supervisor_for_ever(run, log):
    one = run(*STAYS, "--workers", 2, "--log", log)
    pids = one.pids()
    for pid in pids:
        one.process(pid).send(signal.SIGSTOP)
    kill_supervisor(one.service)
    is_killed(one.service, pids, one.address)


def test_a_worker_whose_loop_hangs_does_not_outlive_the_supervisor_for_ever(run):
    one = run(*STAYS)
    one.behave("serve:hang")
    one.service.popen("upgrade", "--no-wait").communicate(timeout=30)
    hung = one.log.wait_for("started", generation=2)["pid"]
    # The supervisor says that it commits before it does.
    one.log.wait_for("hang", pid=hung)
    kill_supervisor(one.service)
    is_killed(one.service, [hung], one.address)


@pytest.mark.parametrize("log", ["plain", "direct"])
def test_a_program_that_is_deaf_to_the_stop_signal_does_not_outlive_the_supervisor_for_ever(
        supervise, log):
    service = supervise(*STAYS, "--log", log, program=sys.executable, json=False,
                        arguments=[PLAIN, DEAF])
    pids = [worker["pid"] for worker in service.workers()]
    address = service.address
    kill_supervisor(service)
    is_killed(service, pids, address)


@pytest.mark.parametrize("log", ["plain", "direct"])
def test_orphans_that_serve_stay_for_as_long_as_they_like(supervise, log):
    one = supervise(*STAYS, "--orphans", "serve", "--log", log)
    other = supervise(*STAYS, "--log", log)
    stopped = []
    for service in (one, other):
        (pid,) = [worker["pid"] for worker in service.workers()]
        stopped.append(service.process(pid))
        stopped[-1].send(signal.SIGSTOP)
    address, other_address = one.address, other.address
    kill_supervisor(one)
    kill_supervisor(other)
    # Its time began later, and is over.
    is_killed(other, [stopped[1].pid], other_address)
    stopped[0].send(signal.SIGCONT)
    assert get(address).pid == stopped[0].pid
    stopped[0].send(signal.SIGTERM)
    one.wait_end()
