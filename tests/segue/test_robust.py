"""What the supervisor is started with and what surrounds it: descriptors that are closed or that nobody
reads, signals that are ignored, a terminal that stops whoever writes, texts that are not UTF-8, a
configuration that is no file by now. None of it stops the loop, and the service is what it was.
"""

import fcntl
import json
import os
import pathlib
import pwd
import select
import signal
import subprocess
import sys

import pytest

from functional import eventually
from harness import processes
from harness.deadline import until
from scenes import PLAIN

QUIET = (sys.executable, PLAIN)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")


class Bare:
    """A supervisor of which the test holds every descriptor."""

    def __init__(self, build, folder, *options, command=(), **more):
        self.segue = build.program("src/segue/segue")
        self.control = folder / "control"
        self.process = subprocess.Popen(
            [*command, self.segue, "run", "--control", self.control, "--listen",
             "http=tcp://127.0.0.1:0", *options, "--", *QUIET], cwd=folder, **more)

    @property
    def pid(self):
        return self.process.pid

    def call(self, verb, *words):
        return subprocess.run([self.segue, verb, "--control", self.control, *words], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)

    def wait_serving(self):
        eventually(lambda: '"state":"serving"' in self.call("status", "--json").stdout, True, 10)

    def close(self):
        for child in processes.children(self.pid):
            processes.kill_all([child])
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bare(build, folder):
    started = []

    def start(*options, **more):
        started.append(Bare(build, folder, *options, **more))
        return started[-1]

    yield start
    for one in started:
        one.close()


# The log.


def test_a_log_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted(bare):
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(reading, "rb", buffering=0) as unread:
        with os.fdopen(writing, "wb") as theirs:
            one = bare("--log-format", "json", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=theirs)
        one.wait_serving()
        for _ in range(60):
            assert one.call("upgrade").returncode == 0
        assert "serving" in one.call("status").stdout
        # Read again: what was kept comes whole and in its order, then how many are lost.
        text = b""
        deadline = until(20)
        while b'"event":"lost"' not in text:
            deadline.check("the line about lost lines")
            if select.select([unread], [], [], deadline.left())[0]:
                text += unread.read(65536)
        kept = text.decode().splitlines()
        assert all(line.startswith("{") and line.endswith("}") for line in kept[:-1]), kept
        assert "lines of this log are lost: nobody read it" in text.decode()
        # And the flag that would be everybody's is not set.
        assert not fcntl.fcntl(unread, fcntl.F_GETFL) & os.O_NONBLOCK
        # Unread again to the end.
        assert one.call("stop").returncode == 0
        assert one.process.wait(30) == 0


def test_a_log_that_nobody_reads_does_not_keep_term_from_ending_the_service(bare):
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    one = None
    try:
        one = bare(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writing)
        one.wait_serving()
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"x")
        os.set_blocking(writing, True)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0
    finally:
        os.close(reading)
        os.close(writing)


# Descriptors.


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("log", ["plain", "direct"])
def test_a_supervisor_started_without_standard_descriptors_serves_and_ends(bare, folder, closed, log):
    def close_them():
        for number in closed:
            os.close(number)

    with open(folder / "output", "wb") as output:
        one = bare("--log", log, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                   preexec_fn=close_them)
    one.wait_serving()
    had = processes.descriptors(one.pid)
    assert [had[number] for number in closed] == ["/dev/null"] * len(closed)
    for _ in range(3):
        assert one.call("upgrade").returncode == 0
    assert one.call("stop").returncode == 0
    assert one.process.wait(30) == 0


# Is started with a listener out of the store of the service manager, bound in another network namespace.
STORED = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
here = os.open("/proc/self/ns/net", os.O_RDONLY)
assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET
listener = socket.socket()
listener.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
listener.bind(("127.0.0.1", 0))
listener.listen()
assert sys.argv[1] == "elsewhere" or libc.setns(here, 0) == 0
with open("port", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.dup2(os.dup(listener.fileno()), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="stored.http")
os.execv(sys.argv[2], sys.argv[2:])
"""


@needs_root
@pytest.mark.parametrize("whose", ["here", "elsewhere"])
def test_a_stored_listener_of_another_network_namespace_is_not_taken(bare, folder, whose):
    with open(folder / "output", "wb") as output:
        # The socket's namespace is the supervisor's own, or one that it has left.
        one = bare("--log-format", "json", stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                   command=(sys.executable, "-c", STORED, "elsewhere" if whose == "here" else "here"))
    one.wait_serving()
    (listener,) = json.loads(one.call("status", "--json").stdout)["listeners"]
    taken = listener["address"] == f"tcp://127.0.0.1:{(folder / 'port').read_text()}"
    assert taken == (whose == "here")
    said = "is refused: it belongs to another network namespace" in (folder / "output").read_text()
    assert said == (whose == "elsewhere")
    assert one.call("stop").returncode == 0


# Terminals and signals.

# Leads a terminal's session, with the supervisor as a job in the background.
TERMINAL = """
import os, pty, subprocess, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    flags = termios.tcgetattr(0)
    flags[3] |= termios.TOSTOP
    termios.tcsetattr(0, termios.TCSANOW, flags)
    sys.exit(subprocess.Popen(sys.argv[1:], preexec_fn=os.setpgrp).wait())
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_terminal_that_stops_jobs_which_write_does_not_stop_the_supervisor(bare):
    one = bare(command=[sys.executable, "-c", TERMINAL], stdin=subprocess.DEVNULL)
    one.wait_serving()
    assert one.call("upgrade").returncode == 0
    assert one.call("stop").returncode == 0
    assert one.process.wait(30) == 0


def ignore_what_scripts_ignore():
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda one: one.name)
def test_a_job_of_a_script_is_upgraded_and_stopped_by_signals(supervise, number):
    service = supervise(preexec=ignore_what_scripts_ignore)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        service.first.send(ignored)
    mark = service.log.mark()
    service.first.send(signal.SIGUSR2)
    service.wait_generation(2)
    assert not service.log.find("stopping", since=mark)
    service.first.send(number)
    service.expected_exits |= {-signal.SIGKILL}
    assert service.wait_end()[service.first.pid] == 0


# Texts.


def test_a_json_line_about_a_name_that_is_not_utf8_has_all_its_fields(supervise, folder):
    program = os.fsdecode(bytes(folder) + b"/server\xff")
    pathlib.Path(program).write_bytes(b"#!" + os.fsencode(sys.executable) + b"\n" + PLAIN.read_bytes())
    os.chmod(program, 0o755)
    service = supervise(program=pathlib.Path(program), json=False)
    os.unlink(program)
    answer = service.ask("upgrade")
    assert (answer.code, answer.end["outcome"]) == (1, "failed"), answer
    event = service.log.wait_for("failed", generation=2)
    assert event["reason"].startswith(f"{folder}/server? could not be executed"), event
    assert f"{folder}/server? could not be executed" in event["text"]


def test_a_listener_whose_name_is_not_utf8_is_in_the_status(supervise, folder):
    path = os.fsdecode(bytes(folder) + b"/socket\xff")
    service = supervise(listen=(f"unix://{path}",))
    (listener,) = service.status()["listeners"]
    assert listener["address"] == f"unix://{folder}/socket?"


def test_a_long_command_line_is_cut_in_the_status(supervise):
    service = supervise(program=pathlib.Path(sys.executable), json=False, arguments=[PLAIN, *["#" + "y" * 99_999] * 12])
    (generation,) = service.status()["generations"]
    assert generation["command"] == [sys.executable, str(PLAIN)] + ["#" + "y" * 999 + "..."] * 12
    assert service.upgrade().end["generation"] == 2


def test_a_command_line_of_many_words_ends_in_the_status(supervise):
    service = supervise(program=pathlib.Path(sys.executable), json=False, arguments=[PLAIN, *["#" + "y" * 899] * 1500])
    command = service.status()["generations"][0]["command"]
    assert command[-1] == "..." and sum(map(len, command)) < 40_000
    assert service.upgrade().end["generation"] == 2


# The configuration, read again.


def test_a_configuration_that_is_a_fifo_by_now_is_refused(supervise, folder):
    config = folder / "segue.conf"
    config.write_text("workers 1\n")
    service = supervise("--config", config)
    config.unlink()
    os.mkfifo(config)
    answer = service.ask("upgrade", deadline=10)
    assert answer.code == 3, answer
    assert answer.message == (f"the configuration is wrong by now: --config {config}: it is not a regular "
                              "file"), answer
    assert service.status()["state"] == "serving"


def test_a_link_that_was_flipped_is_followed_with_a_configuration_too(supervise, folder):
    for release in ("r1", "r2"):
        (folder / release).mkdir()
    current = folder / "current"
    current.symlink_to("r1")
    (folder / "segue.conf").write_text("workers 1\n")
    service = supervise("--config", folder / "segue.conf", cwd=current, env={"PWD": current})
    for release in ("r2", "r1", "r2"):
        (folder / "next").symlink_to(release)
        os.replace(folder / "next", current)
        generation = service.upgrade().end["generation"]
        (worker,) = service.workers(generation)
        assert processes.working_directory(worker["pid"]) == str(folder / release)


# Whom workers run as.

NOBODY = "nobody"


def user_variables(pid):
    had = processes.environment(pid)
    return {name: had.get(name) for name in ("HOME", "LOGNAME", "SHELL", "USER")}


@needs_root
def test_workers_of_a_user_have_its_home_and_name(supervise, folder):
    entry = pwd.getpwnam(NOBODY)
    os.chmod(folder, 0o755)
    service = supervise("--user", NOBODY, "--env", "SHELL=/bin/mine",
                        env={"HOME": "/root", "USER": "root", "LOGNAME": "root"})
    (worker,) = service.workers()
    assert user_variables(worker["pid"]) == {"HOME": entry.pw_dir, "LOGNAME": NOBODY,
                                             "SHELL": "/bin/mine", "USER": NOBODY}


@needs_root
def test_workers_of_a_number_have_no_name(supervise, folder):
    os.chmod(folder, 0o755)
    service = supervise("--user", "54321", "--env", "USER", env={"HOME": "/root", "USER": "root"})
    (worker,) = service.workers()
    assert user_variables(worker["pid"]) == dict.fromkeys(("HOME", "LOGNAME", "SHELL", "USER"))


@needs_root
def test_a_user_of_many_groups_has_all_of_them(bare, folder):
    groups = pathlib.Path("/etc/group").read_text(encoding="utf-8")
    groups += "".join(f"segue{number}:x:{number}:{NOBODY}\n" for number in range(60000, 60100))
    (folder / "group").write_text(groups, encoding="utf-8")
    os.chmod(folder, 0o755)
    mounted = ["unshare", "--mount", "sh", "-c",
               f'mount --bind "{folder}/group" /etc/group && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    one = bare("--user", NOBODY, command=mounted, stdin=subprocess.DEVNULL)
    one.wait_serving()
    numbers = [processes.status(child.pid)["Groups"].split()
               for child in processes.children(one.pid)]
    assert any(set(map(str, range(60000, 60100))) <= set(each) for each in numbers), numbers
    assert one.call("stop").returncode == 0
    assert one.process.wait(30) == 0
