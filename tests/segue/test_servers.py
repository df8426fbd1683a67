"""The servers of examples/servers, which know nothing of Segue, each replaced 20 times under load.

A client is never refused, whatever the server. What the server then loses of the connections that it
has accepted is its platform's doing: these figures are printed, and doc/servers.md explains them. Where
it can be told to lose nothing, that is the claim.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

from harness.builds import ROOT
from harness.http import get

pytestmark = [pytest.mark.plain, pytest.mark.long]

SERVERS = ROOT / "examples/servers"
UPGRADES = 20
LINGER = 1  # seconds; the connections of the load are idle for less
SHARE = 100  # requests of the load that each generation has to answer
SHAPES = ("--new", 4, "--keepalive", 8, "--post", 8, "--idle", "4:300ms")
COUNTED = ("--count-header", "Segue-Generation", "--expect", "hello, world\n", "--duration", "1h")



class Example:
    """How one of them is run, and what may become of requests where it closes connections at once: on
    kept ones, and with some on such as they have accepted and not read from."""

    def __init__(self, *command, options=(), keeps=True, may_lose=("used_closed",)):
        self.command = [str(word) for word in command]
        self.options = options
        self.may_lose = set(may_lose)
        self.keeps = keeps  # connections, for more than one request

    @property
    def missing(self):
        """The programs that the machine lacks."""
        needs = [self.command[0], *(["/usr/bin/socat"] if "socat" in self.command[0] else [])]
        return [name for name in needs if not os.path.exists(name)]


def gunicorn(*options, folder=SERVERS):
    return ("/usr/bin/gunicorn", "--chdir", folder, "--config", folder / "gunicorn.conf.py", *options,
            "hello_wsgi:app")


EXAMPLES = {
    "asyncio": Example("/usr/bin/python3", SERVERS / "hello-asyncio.py",
                       may_lose=("used_closed", "fresh_closed")),
    "node": Example("/usr/bin/nodejs", SERVERS / "hello-node.js", options=("--ready", "fd:4")),
    # Shutdown() does not know of a connection between its accept() and its first state.
    "go": Example("/usr/bin/go", may_lose=("used_closed", "fresh_closed")),
    "gunicorn": Example(*gunicorn()),
    "gunicorn-sync": Example(*gunicorn("-k", "sync", "--threads", "1", "--workers", "4"), keeps=False),
    "socat": Example(SERVERS / "hello-socat.sh", options=("--ready", "fd:4"), keeps=False),
}
KEEPERS = [name for name, example in EXAMPLES.items() if example.keeps]


@pytest.fixture
def command(build, folder):
    """command('go') is the command line of an example, compiled where it has to be."""

    def find(name):
        example = EXAMPLES[name]
        if example.missing:
            pytest.skip(f"missing: {', '.join(example.missing)}")
        if name != "go":
            return example.command
        program = folder / "hello"
        subprocess.run(
            ["/usr/bin/go", "build", "-o", program, SERVERS / "hello.go"], check=True,
            env={**os.environ, "CGO_ENABLED": "0", "GOPATH": str(folder / "go"), "GOPROXY": "off",
                 "GOCACHE": str(build.folder / "go-cache")},
        )
        return [str(program)]

    return find


@pytest.fixture
def run(supervise):
    """run(command, options..., LINGER=1) runs a command under 'segue run'; the Supervised."""

    def start(command, *options, wait=True, **env):
        return supervise(
            *options, program=pathlib.Path(command[0]), arguments=command[1:], json=False, wait=wait,
            env={"PYTHONDONTWRITEBYTECODE": "1", **env},
        )

    return start


def meet_load(running):
    """Blocks until the load has had its share of answers from now on."""
    mark = running.log.mark()
    first = running.log.wait_for("progress", since=mark)
    running.log.wait_for("progress", since=mark, where=lambda event: event["ok"] >= first["ok"] + SHARE)


def upgrades_under_load(service, load):
    running = load("--progress", "20ms", *SHAPES, *COUNTED, service).wait_running()
    for generation in range(2, UPGRADES + 2):
        meet_load(running)
        assert service.upgrade().end["generation"] == generation
    meet_load(running)
    return running.stop()


def lost(counts):
    return {name: count for name, count in counts["outcomes"].items() if name != "ok" and count}


def tell(capsys, what, result):
    """The measured figures, for the table of doc/servers.md."""
    shapes, closes = result["shapes"], result["connections"]
    parts = [f"{name} {shape['requests']} lost {lost(shape) or 0}" for name, shape in shapes.items()]
    with capsys.disabled():
        print(f"\n{what}, {UPGRADES} upgrades: {'; '.join(parts)}; closed while idle:"
              f" {closes['idle_closed_announced']} announced,"
              f" {closes['idle_closed_unannounced']} not", flush=True)


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", EXAMPLES)
def test_20_upgrades_of_a_server_that_lingers_lose_nothing(name, command, run, load, capsys):
    example = EXAMPLES[name]
    service = run(command(name), *example.options, LINGER=LINGER)
    result = upgrades_under_load(service, load)
    tell(capsys, f"{name}, lingering" if example.keeps else name, result)
    assert result.lost == 0, result
    assert result["connections"]["idle_closed_unannounced"] == 0, result
    assert sorted(map(int, result.answers)) == list(range(1, UPGRADES + 2))
    assert result["header"]["connections_backwards"] == 0


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KEEPERS)
def test_20_upgrades_of_a_server_that_closes_at_once_refuse_nobody(name, command, run, load, capsys):
    example = EXAMPLES[name]
    service = run(command(name), *example.options, LINGER=0)
    result = upgrades_under_load(service, load)
    tell(capsys, f"{name}, closing at once", result)
    assert set(lost(result)) <= example.may_lose, result
    assert sorted(map(int, result.answers)) == list(range(1, UPGRADES + 2))
    # The difference to the test before is there to see.
    assert result["connections"]["idle_closed_unannounced"] + result.lost > UPGRADES


def test_a_gunicorn_whose_application_does_not_load_is_not_ready(command, run, folder):
    command("gunicorn")
    copy = folder / "servers"
    shutil.copytree(SERVERS, copy)
    service = run([str(word) for word in gunicorn(folder=copy)], LINGER=LINGER)
    (copy / "hello_wsgi.py").write_text("import what_is_not_there\n")
    answer = service.ask("upgrade")
    assert answer.code == 1 and "what_is_not_there" in "".join(answer.end["output"]), answer
    assert get(service.address).generation == 1


# Wrappers: a shell that stays, and starts the server as another process.

READY = """
import os, signal, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
    to.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


def test_a_wrapper_whose_server_says_ready_is_named(run):
    service = run(["/bin/sh", "-c", f"/usr/bin/python3 -c '{READY}'; exit 0"])
    service.expected_exits = {0, -9}  # TERM ends the wrapper, and what is left of it is killed.
    said = service.log.find("wrapper")[0]["text"]
    assert "/bin/sh" in said and f"pid {service.workers()[0]['pid']}" in said and "exec" in said


def test_a_wrapper_whose_server_is_never_ready_is_named(command, run):
    """Silent, since it sees no sockets that were meant for it."""
    service = run(command("asyncio"), "--start-timeout", "5s", LINGER=LINGER)
    silent = ["/usr/bin/python3", "-c", "'import signal; signal.pause()'"]
    answer = service.ask("upgrade", "--", "/bin/sh", "-c", " ".join(silent) + "; exit 1")
    assert answer.code == 1, answer
    for word in ("/bin/sh", "wrapper", "python3", "LISTEN_PID", "exec"):
        assert word in answer.message, answer
    assert get(service.address).generation == 1


def test_a_wrapper_that_hides_listen_pid_is_no_upgrade(command, run):
    """The server sees that the sockets are meant for another process, and says so."""
    words = command("asyncio")
    service = run(words, LINGER=LINGER)
    answer = service.ask("upgrade", "--", "/bin/sh", "-c", " ".join(words) + "; exit 1")
    assert answer.code == 1, answer
    assert "no socket is meant for me" in "".join(answer.end["output"]), answer
    assert get(service.address).generation == 1
