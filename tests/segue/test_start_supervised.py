"""How the workers of the next generation are started: the program as it is found now, in the working
directory that the supervisor was started in, by its name, whatever workers have done to themselves.
"""

import os
import pathlib
import signal
import subprocess

import pytest

from functional import asking, copy
from harness import processes
from scenes import SERVER, Run


@pytest.fixture
def run(supervise, folder):
    """run(directory) starts the supervisor in a directory that $PWD names."""

    def start(*options, directory=None, env=None, **more):
        directory = directory or folder
        return Run(supervise, folder, *options, cwd=directory, env={"PWD": directory, **(env or {})},
                   **more)

    return start


@pytest.fixture
def program(build):
    return build.program(SERVER)


def upgraded(one):
    """The pid of the only worker of the next generation."""
    (pid,) = one.upgrade()
    return pid


def only(one):
    (pid,) = one.pids()
    return pid


def test_a_control_socket_may_have_a_relative_path(build, folder):
    """The one for notifications stands beside it, and workers hear its name."""
    segue = build.program("src/segue/segue")
    command = [segue, "run", "--control", "c.sock", "--log-format", "json", "--listen", "http=127.0.0.1:0",
               "--", build.program("examples/hello")]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as one:
        serving = any('"event":"serving"' in line and '"service"' in line for line in one.stdout)
        assert serving, "it ended before it served"
        (folder / "elsewhere").mkdir()
        stop = subprocess.run([segue, "stop", "--control", "../c.sock"], cwd=folder / "elsewhere", check=False)
        assert stop.returncode == 0
        one.stdout.read()
    assert one.returncode == 0 and not (folder / "c.sock").exists()


def test_a_relative_path_that_is_too_long_from_the_working_directory_is_refused_as_that(build, folder):
    (below := folder / ("x" * 100)).mkdir()
    done = subprocess.run([build.program("src/segue/segue"), "run", "--control", "c.sock", "--", "true"],
                          cwd=below, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"--control c.sock: the path is too long from the working directory: {below}/c.sock" in done.stderr


@pytest.mark.parametrize("listen, told", [(("--listen", "http=127.0.0.1:0"), True), ((), False)], ids=["listen", "none"])
def test_a_first_generation_that_exits_at_once_is_told_that_it_must_not_bind(build, folder, listen, told):
    done = subprocess.run([build.program("src/segue/segue"), "run", "--control", folder / "c", *listen, "--", "false"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "it exited with status 1 before it was ready" in done.stderr
    assert ("before it was ready (a server under --listen takes its sockets as descriptors 3" in done.stderr) == told


# The program.


def test_a_replaced_program_is_picked_up(run, build, folder):
    path = copy(build, folder / "app")
    one = run(program=path)
    for _ in range(2):
        copy(build, path)
        pid = upgraded(one)
        assert os.stat(f"/proc/{pid}/exe").st_ino == os.stat(path).st_ino


def test_a_relative_name_is_found_again(run, build, folder):
    """The next worker starts where the supervisor did, whatever the one before has made of it."""
    (folder / "bin").mkdir()
    path = copy(build, folder / "bin" / "app")
    one = run(program=pathlib.Path("bin/app"), config=["--behave", "ready:chdir:/"])
    assert processes.working_directory(only(one)) == "/"
    copy(build, path)
    one.configure()
    pid = upgraded(one)
    assert processes.program(pid) == str(path) and processes.working_directory(pid) == str(folder)
    assert processes.command_line(pid)[0] == "bin/app"


def test_a_name_is_looked_up_in_path_again(run, build, folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
    second = copy(build, folder / "two" / "segue-test-app")
    path = f"{folder}/one:{folder}/two:{os.environ['PATH']}"
    one = run(program=pathlib.Path("segue-test-app"), env={"PATH": path})
    assert processes.program(only(one)) == str(second)
    first = copy(build, folder / "one" / "segue-test-app")
    assert processes.program(upgraded(one)) == str(first)
    first.unlink()
    assert processes.program(upgraded(one)) == str(second)


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


def test_a_flipped_link_as_program_is_followed(run, folder, releases):
    one = run(program=folder / "current" / "app")
    assert processes.program(only(one)) == f"{folder}/releases/1/app"
    for number in (2, 1):
        releases(number)
        assert processes.program(upgraded(one)) == f"{folder}/releases/{number}/app"


@pytest.mark.parametrize("program", ["./app", "current/app"])
def test_a_flipped_link_as_working_directory_is_followed(run, folder, releases, program):
    """By the name in $PWD, and with --chdir."""
    if program == "./app":
        one = run(directory=folder / "current", program=Verbatim(program))
    else:
        one = run("--chdir", folder / "current", program=folder / program)
    for number in (2, 1):
        assert processes.working_directory(only(one)) == f"{folder}/releases/{3 - number}"
        releases(number)
        pid = upgraded(one)
        assert processes.working_directory(pid) == f"{folder}/releases/{number}"
        assert processes.program(pid) == f"{folder}/releases/{number}/app"


class Verbatim(os.PathLike):
    """A path that nothing makes shorter."""

    def __init__(self, text):
        self.text = text

    def __fspath__(self):
        return self.text

    __str__ = __fspath__


@pytest.mark.parametrize("pwd", [None, "/", "relative", "/does/not/exist"])
def test_without_a_name_the_working_directory_stays(run, folder, releases, pwd):
    """$PWD that is missing or names another place is no name of the working directory."""
    one = run(directory=folder / "current", program=Verbatim("./app"), env={"PWD": pwd})
    releases(2)
    pid = upgraded(one)
    assert processes.working_directory(pid) == f"{folder}/releases/1"
    assert processes.program(pid) == f"{folder}/releases/1/app"


# The working directory.


def test_a_deleted_working_directory_is_kept(run, program, folder):
    (folder / "gone").mkdir()
    one = run(directory=folder / "gone", program=program)
    (folder / "gone").rmdir()
    with asking(one.address) as clients:
        for _ in range(2):
            assert processes.working_directory(upgraded(one)) == f"{folder}/gone (deleted)"
        clients.wait_more()


def test_a_working_directory_that_is_made_again_is_followed(run, program, folder):
    """Deployments that replace the folder itself."""
    (folder / "app").mkdir()
    one = run(directory=folder / "app", program=program)
    (folder / "app").rename(folder / "old")
    (folder / "app").mkdir()
    assert processes.working_directory(upgraded(one)) == f"{folder}/app"


def test_a_moved_working_directory_is_kept(run, program, folder):
    (folder / "app").mkdir()
    one = run(directory=folder / "app", program=program)
    (folder / "app").rename(folder / "moved")
    assert processes.working_directory(upgraded(one)) == f"{folder}/moved"


def test_a_crashed_worker_is_started_again_in_the_same_working_directory(run, program, folder):
    """Also where that has been deleted meanwhile."""
    (folder / "gone").mkdir()
    one = run(directory=folder / "gone", program=program)
    first = only(one)
    (folder / "gone").rmdir()
    one.service.expected_exits = {0, -signal.SIGKILL}
    mark = one.log.mark()
    one.service.send(signal.SIGKILL, first)
    one.worker("serving", since=mark)
    assert processes.working_directory(only(one)) == f"{folder}/gone (deleted)"


def test_nohup_stays_nohup(run):
    """Of the supervisor and of its workers: HUP does nothing, the others do what they do."""
    one = run(preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    with asking(one.address) as clients:
        for _ in range(3):
            for pid in (one.pid, only(one)):
                assert int(processes.status(pid)["SigIgn"], 16) >> (signal.SIGHUP - 1) & 1
                one.service.send(signal.SIGHUP, pid)
            upgraded(one)
        clients.wait_more()
    assert len(one.log.find("serving", service="server")) == 4
