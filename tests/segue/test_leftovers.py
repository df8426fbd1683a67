"""What a worker leaves behind, and what it says that is not so: neither costs anybody else a file, an
address or a client.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess

import pytest

from functional import eventually, free_port
from harness.http import get
from scenes import PLAIN

PYTHON = pathlib.Path("/usr/bin/python3")
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

# Speaks the wire by hand: HELLO, one LISTENER, and what the rest of the command line says.
LIAR = r"""
import array, ctypes, os, socket, struct, sys

kind, name, address, dev, ino = sys.argv[1:6]
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=int(os.environ["SEGUE_CHANNEL"]))

def send(number, body, fd):
    channel.sendmsg([struct.pack("<4sIII", b"EUGS", number, len(body), 0) + body],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

def text(words):
    return struct.pack("<I", len(words)) + words.encode()

send(1, struct.pack("<IIQIIIIIII", 2, 2, 1, os.getpid(), 0, 0, 0, 0, 0, 1), os.pidfd_open(os.getpid()))
if kind == "elsewhere":
    assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET
    listener = socket.create_server(("0.0.0.0", 0))
elif kind == "tcp":
    listener = socket.create_server(("127.0.0.1", 0))
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    if kind == "listening":
        listener.listen()
send(2, text("liar") + text(address) + struct.pack("<IQQ", 1, int(dev), int(ino)), listener.fileno())
sys.exit(7)
"""


def run_liar(supervise, kind, own, address, file, *options):
    """The supervisor's warning, after the worker and the service have ended."""
    service = supervise(*options, "--chdir", "/", program=PYTHON, listen=None, json=False, wait=False,
                        arguments=["-c", LIAR, kind, own, address, file.st_dev, file.st_ino])
    service.expected_exits = {0, 1, 7}
    service.wait_end()
    assert service.log.find("failed")
    return [event["text"] for event in service.log.find("warning")]


@needs_root
@pytest.mark.parametrize("kind", ["tcp", "listening", "bound"])
def test_a_worker_that_names_somebody_elses_socket_does_not_have_it_removed(supervise, folder, kind):
    os.chmod(folder, 0o711)
    place = folder / "victim"
    place.mkdir(0o755)
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(place / "sock"))
        victim.listen()
        (word,) = run_liar(supervise, kind, f"{mine(folder)}/own", f"unix://{place}/sock",
                           os.stat(place / "sock"), "--user", "nobody")
        assert (place / "sock").exists()
        assert word.startswith("listener liar of worker 1:0 is not kept: ")


@needs_root
def test_a_listener_of_another_network_namespace_is_not_kept(supervise, folder):
    """What the next worker would find at that address is not what this one has bound."""
    (word,) = run_liar(supervise, "elsewhere", "none", "tcp://0.0.0.0:0", os.stat(folder))
    assert word == ("listener liar of worker 1:0 is not kept: it belongs to another network namespace "
                    "than the supervisor's, where no other worker could take it over")


def mine(folder):
    """A folder of the unprivileged worker's."""
    place = folder / "nobody"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    return place


@needs_root
@pytest.mark.parametrize("whose", ["its own", "of root's folder"])
def test_the_path_that_a_worker_has_bound_goes_by_the_rights_of_its_user(supervise, folder, whose):
    """The folder is taken from it while it runs: what its user may not remove stays."""
    os.chmod(folder, 0o711)
    place = mine(folder)
    service = supervise("--user", "nobody", "--chdir", "/", listen=None,
                        own_listen=[f"http=unix://{place}/sock"])
    assert get(f"{place}/sock").status == 200
    if whose != "its own":
        os.chown(place, 0, 0)
    service.stop()
    assert (place / "sock").exists() == (whose != "its own")


def test_more_sockets_than_a_worker_can_be_passed_are_refused(build, folder):
    """Those of LISTEN_FDS and those of --listen together."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(128)]
    listen = [word for i in range(12) for word in ("--listen", f"x{i}=unix://{folder}/{i}")]
    script = "import os,sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"

    def place():
        high = [os.dup(one.fileno()) for one in listeners]
        above = 400
        for i, fd in enumerate(high):
            os.dup2(fd, above + i)
        for i in range(128):
            os.dup2(above + i, 3 + i, inheritable=True)

    try:
        done = subprocess.run(
            [PYTHON, "-c", script, build.program("src/segue/segue"), "run", "--control",
             f"{folder}/control", *listen, "--", "/bin/true"],
            env={**os.environ, "LISTEN_FDS": "128"}, preexec_fn=place, close_fds=False,
            capture_output=True, text=True, timeout=30, check=False)
    finally:
        for one in listeners:
            one.close()
    assert done.returncode == 1, done
    assert "more than 128 listeners: those of --listen and those" in done.stderr
    assert not [path for path in folder.iterdir() if path.is_socket()]


# A daemon of two processes, which take clients from the sockets that they have inherited.
DAEMON = r"""
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.fork()
    listener = socket.socket(fileno=3)
    listener.setblocking(True)
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        listener.accept()[0].close()
while len(open(os.environ["PIDS"]).read().split()) < 2:
    pass
"""


def left_pids(path):
    return [int(word) for word in path.read_text().split()]


def alive(pids):
    """Where the supervisor has ended as well, the dead are this process's."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_successor_that_became_a_daemon_takes_no_client(supervise, folder):
    pids = folder / "pids"
    pids.touch()
    service = supervise("--env", f"PIDS={pids}", program=PYTHON, json=False, arguments=[PLAIN])
    (worker,) = service.workers()
    code = f"import os, socket, sys\n{DAEMON}os._exit(0)\n"
    answer = service.ask("upgrade", "--", PYTHON, "-c", code)
    assert answer.code == 1 and "it exited with status 0" in answer.message, answer
    left = left_pids(pids)
    assert len(left) == 2
    eventually(lambda: alive(left), [])
    eventually(lambda: {event["text"].split()[1] for event in service.log.find("leftover")},
               set(map(str, left)))
    assert {get(service.address).pid for _ in range(20)} == {worker["pid"]}


def test_what_a_worker_started_in_a_session_of_its_own_ends_with_it_and_with_no_other(supervise, folder):
    """The two workers in the same place, one after the other, are told apart."""
    pids = folder / "pids"
    helper = ("import os, subprocess; one = subprocess.Popen(['/bin/sleep', '1000'], "
              f"start_new_session=True); file = open({str(pids)!r}, 'a'); "
              "print(one.pid, file=file, flush=True)")
    service = supervise(program=PYTHON, json=False, arguments=[PLAIN, helper])
    (first,) = left_pids(pids)
    assert service.ask("restart", 0).code == 0
    _, second = left_pids(pids)
    eventually(lambda: alive([first]), [])
    assert alive([second]) == [second]
    assert get(service.address).status == 200
    # Killed just before the supervisor ends, which may leave it to be reaped here.
    service.expected_exits.add(-signal.SIGKILL)
    service.stop()
    eventually(lambda: alive([second]), [])


# What cannot be, and why.


def refused(supervise, *options, program=PYTHON, arguments=(), code=1, **more):
    """The sentence with which a service ends that did not start."""
    service = supervise(*options, program=program, json=False, wait=False, arguments=arguments, **more)
    service.expected_exits = {0, 1, 3, -signal.SIGKILL, code}
    service.wait_end()
    (failed,) = service.log.find("failed")
    return service, failed["text"]


def test_a_directory_that_is_not_there_is_no_fault_of_the_program(supervise, folder):
    _, text = refused(supervise, "--chdir", folder / "none", arguments=["-c", ""], code=127)
    assert text.endswith(f"the directory {folder}/none could not be entered: No such file or directory")


def test_a_descriptor_for_readiness_that_is_a_passed_socket_is_refused(build, folder):
    """--listen alone is seen without opening anything; what the service manager passes is not."""
    script = "import os,sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [PYTHON, "-c", script, build.program("src/segue/segue"), "run", "--control",
             f"{folder}/control", "--ready", "fd:3", "--", "/bin/true"],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}, close_fds=False,
            preexec_fn=lambda: os.dup2(listener.fileno(), 3, inheritable=True),
            capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done
    assert "--ready fd:3: descriptor 3 is the listener web; use fd:4 or more" in done.stderr


def test_a_worker_beside_which_no_other_can_be_probed_is_not_restarted(supervise, folder):
    """The address is the same for whoever takes its place."""
    port = free_port()
    service = supervise("--ready", f"tcp://127.0.0.1:{port}", listen=None,
                        own_listen=[f"http=tcp://127.0.0.1:{port}"])
    (worker,) = service.workers()
    answer = service.ask("restart", 0)
    assert answer.code not in (0, None)
    assert "worker 0 answers at the address of --ready itself" in answer.message
    assert "put {pid} into the address" in answer.message
    assert [one["pid"] for one in service.workers()] == [worker["pid"]]


@pytest.mark.parametrize("script, hint", [
    ("echo bad config >&2; exit 3", False),
    ("true", True),
    ("sleep 1000 & exit 3", True),
])
def test_a_shell_is_blamed_only_where_it_wrapped_something(supervise, script, hint):
    service, text = refused(supervise, program=pathlib.Path("/bin/sh"), arguments=["-c", script])
    assert not service.log.find("leftover")
    assert ("it is a wrapper, and LISTEN_PID is its own" in text) == hint, text


def test_readiness_from_a_session_of_its_own_is_not_heard_and_that_is_said_once(supervise):
    again = "os.setsid() if os.fork() == 0 else os.wait(); os.environ['LISTEN_PID'] = str(os.getpid())"
    more = ("notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
            "[notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET']) for _ in range(3)]")
    service, text = refused(supervise, "--start-timeout", "1s", "--kill-timeout", "500ms",
                            arguments=[PLAIN, again, more])
    assert "it was not ready within 1 s" in text
    (warning,) = service.log.find("warning")
    eventually(lambda: alive([int(warning["text"].split()[1])]), [])
    assert "said READY=1 and is in the session of no worker" in warning["text"]


# The path of a socket.


@needs_root
@pytest.mark.parametrize("mode", [None, "606", "0660"])
def test_the_path_of_a_socket_is_the_workers_users_and_has_the_mode_that_is_said(supervise, folder, mode):
    path = folder / "sock"
    options = ["--listen-mode", mode] if mode else []
    supervise("--user", "nobody", "--chdir", "/", *options, listen=[f"http=unix://{path}"], umask=0o27)
    found = os.stat(path)
    assert (found.st_uid, found.st_gid) == (NOBODY, NOBODY)
    assert found.st_mode & 0o777 == (int(mode, 8) if mode else 0o750)
    assert get(str(path)).status == 200


@pytest.mark.parametrize("mode", ["9", "", "1777", "0", "rw"])
def test_a_mode_that_is_none_is_refused(build, folder, mode):
    done = subprocess.run([build.program("src/segue/segue"), "run", "--listen-mode", mode, "--", "true"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and "it has to be octal, 1 to 777" in done.stderr, done


# Without a supervisor.


@pytest.mark.parametrize("log", ["plain", "prefix", "direct"])
def test_what_a_wrapper_runs_does_not_outlive_it_when_the_supervisor_is_killed(supervise, folder, log):
    """The kernel's signal reaches the wrapper alone; the server below it would keep the address."""
    pids = folder / "pids"
    script = f"sleep 1000 & echo $! > {pids}; wait"
    service = supervise("--ready", "delay:300ms", "--log", log, program=pathlib.Path("/bin/sh"), json=False,
                        arguments=["-c", script])
    (left,) = left_pids(pids)
    address = service.address
    service.sessions()
    service.expected_exits = {0, -signal.SIGKILL, -signal.SIGTERM}
    service.first.send(signal.SIGKILL)
    service.wait_end()
    assert alive([left]) == []
    socket.create_server(address).close()
