"""How the successor is started: the program as it is found now, by the name it was started with,
and everything else as it was at the first start, whatever the generations have done to themselves.
"""

import fcntl
import os
import pathlib
import signal

import pytest

from functional import PROGRAM, Subject, asking, copy, eventually
from harness import processes
from harness.http import Connection


@pytest.fixture
def subject(start, folder):
    return lambda *options, **more: Subject(start, folder, *options, **more)


@pytest.fixture
def by_shell(subject):
    """Starts the server from a shell script; "$@" are its arguments, without the program."""

    def make(script, *options, **more):
        before = ["/bin/sh", "-c", f"shift; {script}", "sh"]
        return subject(*options, before=before, **more)

    return make


@pytest.fixture
def program(build):
    return build.program(PROGRAM)


def body(one, path):
    with Connection(one.address()) as connection:
        return connection.get(path).body.decode()


# The program.


def test_a_replaced_program_is_picked_up(subject, build, folder):
    path = copy(build, folder / "app")
    one = subject(program=path)
    for _ in range(2):
        copy(build, path)
        pid = one.upgrade()
        assert processes.program(pid) == str(path)
        assert os.stat(f"/proc/{pid}/exe").st_ino == os.stat(path).st_ino


def test_a_relative_name_is_found_again(by_shell, build, folder):
    (folder / "bin").mkdir()
    path = copy(build, folder / "bin" / "app")
    one = by_shell(f'cd {folder} && exec bin/app "$@"')
    copy(build, path)
    pid = one.upgrade()
    assert processes.program(pid) == str(path) and processes.working_directory(pid) == str(folder)
    assert processes.command_line(pid)[0] == "bin/app"


def test_a_relative_name_is_found_although_the_program_has_changed_its_directory(
    by_shell, build, folder
):
    path = copy(build, folder / "app")
    one = by_shell(f'cd {folder} && exec ./app "$@"', config=["--behave", "ready:chdir:/"])
    assert processes.working_directory(one.pid) == "/"
    one.configure()
    pid = one.upgrade()
    assert processes.program(pid) == str(path)
    assert processes.working_directory(pid) == str(folder)


def test_a_name_is_looked_up_in_path_again(by_shell, build, folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
    second = copy(build, folder / "two" / "segue-test-app")
    path = f"{folder}/one:{folder}/two:{os.environ['PATH']}"
    one = by_shell('exec segue-test-app "$@"', env={"PATH": path})
    assert processes.program(one.pid) == str(second)
    first = copy(build, folder / "one" / "segue-test-app")
    assert processes.program(one.upgrade()) == str(first)
    # What is there and may not be run does not hide what comes later in PATH.
    first.chmod(0o644)
    assert processes.program(one.upgrade()) == str(second)
    second.unlink()
    assert "Permission denied" in one.fails()
    first.unlink()
    assert "No such file or directory" in one.fails()
    copy(build, second)
    assert processes.program(one.upgrade()) == str(second)


def test_an_absolute_name_with_a_name_of_its_own_choice_is_kept(subject, build, folder):
    """`exec -a other /path/app`: what counts is the file, argv[0] is only passed on."""
    path = copy(build, folder / "app")
    one = subject(before=["/bin/bash", "-c", f'shift; exec -a "another name" {path} "$@"', "bash"])
    pid = one.upgrade()
    assert processes.program(pid) == str(path)
    assert processes.command_line(pid)[0] == "another name"


@pytest.fixture
def releases(build, folder):
    """releases/1 and releases/2 with a program each, and current -> releases/1; a function that
    flips it."""
    for number in "12":
        (folder / "releases" / number).mkdir(parents=True)
        copy(build, folder / "releases" / number / "app")
    (folder / "current").symlink_to("releases/1")

    def flip(number):
        (folder / "next").symlink_to(f"releases/{number}")
        os.replace(folder / "next", folder / "current")

    return flip


def test_a_flipped_link_as_program_is_followed(by_shell, folder, releases):
    one = by_shell(f'cd / && exec {folder}/current/app "$@"')
    assert processes.program(one.pid) == f"{folder}/releases/1/app"
    releases(2)
    assert processes.program(one.upgrade()) == f"{folder}/releases/2/app"
    releases(1)
    assert processes.program(one.upgrade()) == f"{folder}/releases/1/app"


def test_a_flipped_link_as_working_directory_is_followed(by_shell, folder, releases):
    """The shell's $PWD names the link, not what it led to."""
    one = by_shell(f'cd {folder}/current && exec ./app "$@"')
    assert processes.working_directory(one.pid) == f"{folder}/releases/1"
    releases(2)
    pid = one.upgrade()
    assert processes.working_directory(pid) == f"{folder}/releases/2"
    assert processes.program(pid) == f"{folder}/releases/2/app"
    # And on: the name is passed from generation to generation.
    releases(1)
    pid = one.upgrade()
    assert processes.working_directory(pid) == f"{folder}/releases/1"
    assert processes.program(pid) == f"{folder}/releases/1/app"


@pytest.mark.parametrize("pwd", [None, "/", "relative", "/does/not/exist"])
def test_without_a_name_the_working_directory_stays(by_shell, folder, releases, pwd):
    """$PWD that is missing or names another place is no name of the working directory."""
    change = "unset PWD" if pwd is None else f"export PWD={pwd}"
    one = by_shell(f'cd {folder}/current && {change} && exec ./app "$@"')
    releases(2)
    pid = one.upgrade()
    assert processes.working_directory(pid) == f"{folder}/releases/1"
    assert processes.program(pid) == f"{folder}/releases/1/app"


# The working directory.


def test_a_deleted_working_directory_is_kept(by_shell, program, folder):
    (folder / "gone").mkdir()
    one = by_shell(f'cd {folder}/gone && exec {program} "$@"')
    (folder / "gone").rmdir()
    with asking(one.address()):
        for _ in range(2):
            pid = one.upgrade()
            assert processes.working_directory(pid) == f"{folder}/gone (deleted)"


def test_a_working_directory_that_is_made_again_is_followed(by_shell, program, folder):
    """Deployments that replace the folder itself."""
    (folder / "app").mkdir()
    one = by_shell(f'cd {folder}/app && exec {program} "$@"')
    (folder / "app").rename(folder / "old")
    (folder / "app").mkdir()
    assert processes.working_directory(one.upgrade()) == f"{folder}/app"


def test_a_moved_working_directory_is_kept(by_shell, program, folder):
    (folder / "app").mkdir()
    one = by_shell(f'cd {folder}/app && exec {program} "$@"')
    (folder / "app").rename(folder / "moved")
    assert processes.working_directory(one.upgrade()) == f"{folder}/moved"


# What generations do to themselves.


def test_the_successor_has_the_umask_of_the_start(subject):
    one = subject(umask=0o027, config=["--behave", "ready:umask:0777"])
    assert processes.status(one.pid)["Umask"] == "0777"
    one.configure()
    assert processes.status(one.upgrade())["Umask"] == "0027"


def test_the_successor_has_the_environment_of_the_start(subject):
    one = subject(env={"FRUIT": "apple"}, config=["--behave", "ready:setenv:FRUIT=pear",
                                                  "--behave", "ready:setenv:NEW=1"])
    assert "FRUIT=pear" in body(one, "/environ").splitlines()
    one.configure()
    one.upgrade()
    lines = body(one, "/environ").splitlines()
    assert "FRUIT=apple" in lines and "NEW=1" not in lines


def signals(pid, kind):
    """The numbers of the signals that a process ignores ('SigIgn'), blocks ('SigBlk')."""
    bits = int(processes.status(pid)[kind], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def test_the_successor_ignores_and_blocks_what_the_start_did(subject):
    def before():
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])

    one = subject(preexec=before, config=["--behave", f"ready:ignore:{signal.SIGALRM.value}",
                                          "--behave", f"ready:block:{signal.SIGURG.value}"])
    first = one.pid
    ignored, blocked = signals(first, "SigIgn"), signals(first, "SigBlk")
    assert {signal.SIGWINCH, signal.SIGALRM} <= ignored
    assert {signal.SIGTSTP, signal.SIGURG} <= blocked
    one.configure()
    for _ in range(3):
        pid = one.upgrade()
        assert signals(pid, "SigIgn") == ignored - {signal.SIGALRM}
        assert signals(pid, "SigBlk") == blocked - {signal.SIGURG}


def test_nohup_stays_nohup(subject):
    one = subject(before=["nohup"])
    with asking(one.address()) as clients:
        for _ in range(4):
            assert signal.SIGHUP in signals(one.pid, "SigIgn")
            one.service.send(signal.SIGHUP)
            one.upgrade()
        clients.wait_more()


def test_the_upgrade_signal_is_not_left_ignored(subject):
    """It is ignored until the successor can handle it, and not longer, whatever it started with."""
    one = subject()
    for _ in range(3):
        pid = one.upgrade()
        assert signal.SIGUSR2 not in signals(pid, "SigIgn")


# What goes through every start.

AWKWARD = ["two words", "", "a\nb\tc", "'\"$HOME`*", "ä€"]
AWKWARD = [word for note in AWKWARD for word in ("--note", note)]


def test_arguments_stay_byte_for_byte(subject):
    one = subject(*AWKWARD)
    before = processes.command_line(one.pid)
    at = before.index(AWKWARD[0])
    assert before[at : at + len(AWKWARD)] == AWKWARD
    for _ in range(3):
        assert processes.command_line(one.upgrade()) == before


def test_the_environment_is_unchanged_at_generation_10(subject):
    one = subject(env={"EMPTY": "", "SPACED": "a b = c", "LINES": "x\ny", "SEGUE_OTHER": "1"})
    before = body(one, "/environ")
    assert "SEGUE_OTHER=1" in before and "SPACED=a b = c" in before
    for _ in range(9):
        one.upgrade()
    assert one.log.find("serving", generation=10)
    assert body(one, "/environ") == before
    for name in ("SEGUE_CHANNEL", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        assert f"{name}=" not in before


def test_generation_10_has_the_descriptors_of_generation_2(subject):
    one = subject()

    def picture():
        """What differs from generation to generation left out: inodes, and the order of opening."""
        found = processes.descriptors(one.pid)
        return sorted(target.partition(":[")[0] for target in found.values())

    one.upgrade()
    before = None
    for generation in range(2, 11):
        if before is None:
            eventually(lambda: picture().count("socket"), 1)
            before = picture()
        if generation < 10:
            one.upgrade()
    eventually(picture, before)


def test_stdio_is_kept_and_nothing_else_is_inherited(subject, folder):
    """Descriptors that whoever started the service left open, and those that it opened itself."""
    stray = os.open(folder, os.O_RDONLY)
    high = fcntl.fcntl(stray, fcntl.F_DUPFD, 100)
    try:
        one = subject(pass_fds=(high,))
        first = processes.descriptors(one.pid)
        assert first[high] == str(folder)
        second = processes.descriptors(one.upgrade())
        assert high not in second
        assert [second[fd] for fd in range(3)] == [first[fd] for fd in range(3)]
    finally:
        os.close(stray)
        os.close(high)


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&-", "1>&-"])
def test_closed_stdio_is_not_filled_with_sockets(by_shell, program, closed):
    """Whatever a generation opens is 3 or above: a library's print must not reach a client."""
    one = by_shell(f'exec {program} "$@" {closed}')
    numbers = [int(word[0]) for word in closed.split()]
    for _ in range(3):
        found = processes.descriptors(one.upgrade())
        assert not set(numbers) & set(found)


def test_a_stray_channel_variable_is_an_error(start):
    variables = {"SEGUE_CHANNEL": "77"}
    service = start(PROGRAM, "--listen", "tcp://127.0.0.1:0", bare=True, env=variables)
    service.expected_exits = {1}
    reason = service.log.wait_for("failed")["reason"]
    assert reason == "SEGUE_CHANNEL names no channel; it is set by a predecessor or a supervisor only"
    service.wait_end()


def test_the_parent_of_a_successor_is_not_signalled(subject):
    """Elsewhere successors signal getppid(): here a service whose starter lives on."""
    one = subject()
    parent = os.getpid()
    for _ in range(3):
        one.upgrade()
    assert processes.Stat(parent).state in "RS"
    assert pathlib.Path(f"/proc/{one.pid}").exists()
