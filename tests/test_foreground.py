"""tools/foreground: what `./run` leaves in the terminal while the service replaces itself."""

import fcntl
import os
import signal
import subprocess
import sys
import termios

import pytest

from harness import processes
from harness.builds import ROOT

FOREGROUND = ROOT / "tools/foreground"


@pytest.fixture
def watched(stand_in, folder):
    """The stand-in under tools/foreground; service.first is the watcher."""

    def start(**options):
        return stand_in(before=[sys.executable, FOREGROUND, folder / "stand_in.pid"], **options)

    return start


def test_the_watcher_stays_while_generations_come_and_go(watched):
    service = watched()
    for _ in range(3):
        before = service.pid
        service.upgrade()
        assert service.pid != before
        assert not service.first.ended
    service.send(signal.SIGTERM)
    assert service.wait_exit(service.first.pid) == 0


def test_a_signal_passes_by_a_predecessor_that_drains(watched):
    service = watched(env={"STAY": "1"})
    service.upgrade()
    service.first.send(signal.SIGTERM)
    assert service.log.wait_for("SIGTERM")["generation"] == 2
    assert service.wait_exit(service.first.pid) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_generation_that_serves(watched, number):
    service = watched(env={"CODE": "3"})
    service.upgrade()
    service.first.send(number)
    said = "SIGINT" if number == signal.SIGINT else "SIGTERM"
    assert service.log.wait_for(said)["generation"] == 2
    assert service.wait_exit(service.first.pid) == 3
    service.expected_exits = {3}


def test_the_exit_code_is_that_of_the_last_to_go(watched):
    service = watched(env={"CRASH": "9"})
    service.send(signal.SIGUSR2)
    assert service.wait_exit(service.first.pid) == 9
    service.expected_exits = {9}


def test_death_by_a_signal_is_told_as_a_shell_does(watched):
    service = watched()
    service.send(signal.SIGKILL)
    assert service.wait_exit(service.first.pid) == 128 + signal.SIGKILL
    service.expected_exits = {128 + signal.SIGKILL, None}


def test_a_program_that_is_missing_is_told_in_a_sentence(folder):
    done = subprocess.run(
        [FOREGROUND, folder / "pid", folder / "missing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"tools/foreground: cannot start {folder}/missing: No such file or directory\n"


def test_ctrl_c_after_an_upgrade_ends_the_service_once(watched):
    terminal, side = os.openpty()
    try:

        def own_terminal():
            fcntl.ioctl(side, termios.TIOCSCTTY, 0)

        service = watched(preexec=own_terminal, pass_fds=(side,))
        service.upgrade()
        os.write(terminal, b"\x03")
        assert service.wait_exit(service.first.pid) == 0
        service.log.wait_end()
        assert [event["generation"] for event in service.log.find("SIGINT")] == [2]
    finally:
        os.close(terminal)
        os.close(side)


def test_nothing_of_the_watcher_reaches_the_service(watched):
    service = watched()
    status = processes.status(service.pid)
    assert int(status["SigBlk"], 16) == 0
    assert sorted(processes.descriptors(service.pid)) == [0, 1, 2, 3]  # 3: the listener
