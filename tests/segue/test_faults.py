"""Failures of a new version, of the machine and of whoever asks, under `segue run`: the service is
unharmed, the reason reaches who asked, nothing leaks, and the next attempt works.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys

import pytest

from functional import copy, eventually
from harness import processes
from scenes import PLAIN, Run, failed, gate, unharmed


@pytest.fixture
def run(supervise, folder):
    return lambda *options, **more: Run(supervise, folder, *options, **more)


# The program.


def missing(path):
    path.unlink()


def not_executable(path):
    path.chmod(0o644)


def wrong_format(path):
    path.unlink()
    path.write_text("this is no program\n")
    path.chmod(0o755)


def cut_short(path):
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:40])
    path.chmod(0o755)


def directory(path):
    path.unlink()
    path.mkdir()


def without_interpreter(path):
    path.unlink()
    path.write_text("#!/does/not/exist\n")
    path.chmod(0o755)


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


PROGRAMS = {
    missing: "No such file or directory",
    not_executable: "Permission denied",
    wrong_format: "Exec format error",
    cut_short: "Exec format error",
    directory: "Permission denied",
    without_interpreter: "No such file or directory",
    link_to_itself: "Too many levels of symbolic links",
}


@pytest.mark.parametrize("damage", PROGRAMS, ids=lambda damage: damage.__name__)
def test_a_program_that_cannot_be_executed_is_named(run, build, folder, damage):
    path = copy(build, folder / "app")
    one = run(program=path)
    with unharmed(one) as clients:
        damage(path)
        reason = f"{path} could not be executed: {PROGRAMS[damage]}"
        assert one.fails()["message"] == failed(reason)
        clients.wait_more()
        # Again: a failure leaves nothing that would be in the way of the next.
        assert one.fails()["message"] == failed(reason, generation=3)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        copy(build, path)


# The successor's end before it is ready.


@pytest.mark.parametrize("stage", ["start", "open", "listen"])
@pytest.mark.parametrize(
    "end, reason",
    [
        ("exit:1", "it exited with status 1 before it was ready"),
        ("exit:0", "it exited with status 0 before it was ready"),
        ("signal:11", "it was killed by signal 11 (Segmentation fault) before it was ready"),
    ],
)
def test_a_successor_that_ends_before_it_is_ready_changes_nothing(run, stage, end, reason):
    one = run()
    with unharmed(one) as clients:
        one.behave(f"{stage}:{end}")
        answer = one.fails()
        assert answer["message"] == failed(reason)
        # What it had said before it ended.
        assert any('"event":"start"' in line for line in answer["output"])
        clients.wait_more()


NOT_IN_TIME = "it was not ready within 1 s (see --start-timeout)"
NOT_A_WORD = ("it was not ready within 1 s: it neither spoke to its channel nor sent READY=1 "
              "(see --ready and --start-timeout)")


@pytest.mark.parametrize("stage, reason", [("start", NOT_A_WORD), ("listen", NOT_IN_TIME)])
def test_a_successor_that_hangs_is_ended_at_the_deadline(run, stage, reason):
    one = run("--start-timeout", "1s", "--kill-timeout", "500ms")
    with unharmed(one) as clients:
        one.behave(f"{stage}:hang")
        answer = one.fails()
        assert answer["message"] == failed(reason)
        assert 1000 <= answer["ms"] < 8000
        clients.wait_more()


def test_a_stopped_successor_is_ended_at_the_deadline(run, folder):
    one = run("--start-timeout", "1s")
    with unharmed(one), gate(folder):
        one.behave(f"listen:gate:{folder}/gate")
        client = one.service.popen("upgrade", "--json")
        one.process(one.log.wait_for("gate")["pid"]).stop()
        out, err = client.communicate(timeout=30)
        assert client.returncode == 1, (out, err)
        assert NOT_IN_TIME in out
        one.state("serving", reason="reaped")


@pytest.mark.parametrize(
    "what, reason",
    [("hang", NOT_IN_TIME), ("exit:7", "it exited with status 7 before it was ready")],
)
def test_one_of_four_workers_that_fails_fails_the_generation(run, what, reason):
    one = run("--workers", 4, "--start-timeout", "1s" if what == "hang" else "20s")
    with unharmed(one) as clients:
        usual = one.command
        answer = one.fails(*one.by_worker(2, "--behave", f"listen:{what}"))
        assert answer["message"] == failed(f"worker 2: {reason}")
        clients.wait_more()
        assert len(one.pids()) == 4
        # What the next one is to be is again what serves.
        assert one.command == usual


# The preflight command.


def test_a_preflight_command_that_exits_1_refuses_the_upgrade(run, folder):
    one = run("--preflight", "echo the schema is old; test -e ok")
    with unharmed(one) as clients:
        answer = one.fails()
        assert answer["message"] == failed(
            "the preflight command exited with status 1 (echo the schema is old; test -e ok)")
        assert answer["output"] == ["the schema is old"]
        assert not one.log.find("started", generation=2)
        clients.wait_more()
        (folder / "ok").touch()


def test_a_preflight_command_that_hangs_ends_at_its_deadline(run, folder):
    with gate(folder):
        one = run("--preflight-timeout", "1s", "--preflight", "test -e ok || cat gate | cat")
        with unharmed(one) as clients:
            answer = one.fails()
            assert answer["message"] == failed(
                "the preflight command did not end within 1 s (see --preflight-timeout)")
            clients.wait_more()
            (folder / "ok").touch()


def test_a_preflight_command_that_is_killed_is_reported_as_killed(run, folder):
    one = run("--preflight", "test -e ok || kill -9 $$")
    with unharmed(one):
        assert one.fails()["message"] == failed(
            "the preflight command was killed by signal 9 (test -e ok || kill -9 $$)")
        (folder / "ok").touch()


# The channel.

NONSENSE = "it sent a message that makes no sense on its channel"
EARLY = "it sent something before its greeting on its channel"

CHANNEL = {
    "nonsense": (NONSENSE, NONSENSE),
    "zeroes": (NONSENSE, NONSENSE),
    "oversized": (NONSENSE, NONSENSE),
    "descriptors": (NONSENSE, NONSENSE),
    "hello": ("it sent a second greeting on its channel",) * 2,
    "hello-of-the-future": (
        "no common protocol version: it speaks 3 to 3, this supervisor 2 to 2",
        "it sent a second greeting on its channel"),
    "hello-of-another": ("another process",) * 2,
    "hello-with-a-lie": ("another process",) * 2,
    "hello-without-a-pidfd": (NONSENSE, NONSENSE),
    "hello-with-a-socket": ("another process",) * 2,
    "ready-for-4-billion": (NONSENSE, NONSENSE),
    "commit": (EARLY, NONSENSE),
    "introduce": (EARLY, NONSENSE),
    "taken": (EARLY, NONSENSE),
    "receipt": (EARLY, NONSENSE),
    # Afterwards a READY with more wishes than were offered is one all the same.
    "ready": (EARLY,),
    "close": (NOT_A_WORD, "it closed its channel before it was ready"),
}


@pytest.mark.parametrize(
    "kind, stage, reason",
    [pytest.param(kind, stage, reason, id=f"{kind}-{stage}")
     for kind, reasons in CHANNEL.items() for stage, reason in zip(("start", "listen"), reasons)])
def test_nonsense_on_the_channel_ends_the_successor(run, kind, stage, reason):
    # A program that knows nothing of the channel may close it, and say READY=1 later.
    one = run("--start-timeout", "1s" if reason == NOT_A_WORD else "20s")
    with unharmed(one) as clients:
        # A greeting of its own is in order; the library's is then one too many.
        then = [] if stage == "start" and kind == "hello" else [f"{stage}:hang"]
        one.behave(f"{stage}:raw:{kind}", *then)
        answer = one.fails()
        assert reason in answer["message"], answer
        assert answer["ms"] < 15000
        clients.wait_more()


def test_a_worker_that_talks_nonsense_while_it_serves_has_crashed(run):
    """It is told to drain and ends well, but was not to end: --restart on-failure is for it too."""
    one = run("--restart", "on-failure")
    (killed,) = one.pids()
    one.behave("serve:raw:nonsense")
    one.service.expected_exits.add(-signal.SIGKILL)
    mark = one.log.mark()
    one.process(killed).send(signal.SIGKILL)
    broken = one.log.wait_for("raw", since=mark)["pid"]
    one.configure()
    one.log.wait_for("started", since=mark, where=lambda event: event["pid"] not in (killed, broken))


def test_ready_said_twice_counts_once(run):
    one = run()
    first = one.pids()
    one.behave("ready:raw:ready", "ready:raw:ready")
    second = one.upgrade()
    assert len(second) == 1 and second != first
    # Whoever answers for it next is next: no second commit was counted.
    one.configure()
    third = one.upgrade()
    assert third != second and len(one.log.find("serving", generation=3)) == 2


# Listeners of its own.


def own_listener(run, folder, *options):
    """A service that binds its only listener itself."""
    return run(*options, listen=None, base=("--listen", f"http=unix://{folder}/http.sock"))


def test_a_listener_whose_address_is_taken_fails_the_upgrade(run, folder):
    one = own_listener(run, folder)
    with socket.socket() as taken, unharmed(one) as clients:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        one.configure("--listen", f"more={address}")
        message = one.fails()["message"]
        assert f"{address}: another program has this address" in message
        clients.wait_more()
    assert [one["name"] for one in one.service.status()["listeners"]] == ["http"]


def test_a_listener_that_a_failed_successor_had_bound_is_let_go(run, folder):
    one = own_listener(run, folder, "--workers", 2)
    with unharmed(one):
        one.configure("--listen", f"more=unix://{folder}/more.sock")
        one.fails(*one.by_worker(1, "--behave", "listen:exit:1"))
        # The first worker had bound it, and was ready.
        assert any(event["name"] == "more" for event in one.log.find("listener", generation=2))
        assert not (folder / "more.sock").exists()
        assert [held["name"] for held in one.service.status()["listeners"]] == ["http"]


# Programs that know nothing of the channel.


def test_upgrades_to_a_program_that_does_not_use_libsegue_and_back_refuse_nobody(supervise, load):
    service = supervise("--workers", 2)
    usual = service.status()["generations"][0]["command"]
    running = load("--new", 4, "--expect", "hello, world\n", "--duration", "1h", service)
    running.wait_running()
    for generation, command in enumerate([[sys.executable, PLAIN], usual] * 2, 2):
        answer = service.upgrade("--", *command)
        assert answer.end["generation"] == generation
        kinds = {worker["kind"] for worker in service.status()["generations"][0]["workers"]}
        assert kinds == {"segue" if command == usual else "notify"}
    result = running.stop()
    assert result.lost == 0 and result["not_started"] == 0, result


# The machine.


def limit(one, what, soft):
    """A soft limit of the supervisor; the one before."""
    before = resource.prlimit(one.pid, what)
    resource.prlimit(one.pid, what, (soft, before[1]))
    return before[0]


def test_with_too_few_descriptors_an_upgrade_fails_by_its_reason(run):
    one = run("--workers", 2)
    with unharmed(one) as clients:
        before = limit(one, resource.RLIMIT_NOFILE, 1024)
        reasons = []
        # As many as an upgrade takes, and less; 4 for a client that asks.
        for room in range(4, 40):
            limit(one, resource.RLIMIT_NOFILE, max(processes.descriptors(one.pid)) + room)
            answer = one.service.ask("upgrade", "--", "/does/not/exist")
            assert answer.code == 1, answer
            reasons.append(answer.message)
            if "could not be executed" in answer.message:
                break
        else:
            raise AssertionError(reasons)
        assert any("Too many open files" in reason for reason in reasons), reasons
        limit(one, resource.RLIMIT_NOFILE, before)
        clients.wait_more()


def test_without_a_descriptor_for_a_client_the_service_goes_on(run):
    one = run()
    with unharmed(one) as clients:
        before = limit(one, resource.RLIMIT_NOFILE, 3)
        client = one.service.popen("status", "--json")
        clients.wait_more()
        # Each asks for what the supervisor has no descriptor for.
        one.service.first.send(signal.SIGUSR2)
        one.log.wait_for("failed", generation=2)
        one.state("serving", reason="reaped")
        limit(one, resource.RLIMIT_NOFILE, before)
        out, err = client.communicate(timeout=30)
        assert client.returncode in (0, 7), (out, err)
        assert one.service.status()["state"] == "serving"
        clients.wait_more()


USER = 50000 + os.getpid() % 10000  # of this test process's own
PROCESSES = 16


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user of its own: root's processes are not limited")
class TestWithoutProcesses:
    """The supervisor of a user that may have no process more."""

    @pytest.fixture
    def one(self, run, folder):
        def become():
            resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)

        # What the sanitizers would write goes there as well.
        os.chown(folder, USER, USER)
        return run("--restart-delay-max", "200ms", preexec=become)

    @contextlib.contextmanager
    def crowd(self):
        """The user has all the processes that it may have."""
        held = []
        try:
            for _ in range(PROCESSES):
                held.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=USER))
            yield
        finally:
            for process in held:
                process.communicate()

    def test_a_fork_that_is_refused_fails_the_upgrade(self, one):
        with unharmed(one) as clients, self.crowd():
            assert one.fails()["message"] == failed(
                "worker 0 could not be started: no process could be made: Resource temporarily "
                "unavailable (a limit of the user's or the cgroup's processes: RLIMIT_NPROC, "
                "pids.max)")
            clients.wait_more()

    def test_a_worker_that_cannot_be_started_again_is_when_it_can(self, one, load):
        running = load("--new", 2, "--duration", "1h", one.service).wait_running()
        with self.crowd():
            one.process(one.pids()[0]).send(signal.SIGKILL)
            mark = 0
            for _ in range(3):
                # The killed one's place is free: whatever else the user has may take it.
                one.log.wait_for("warning", since=mark,
                                 where=lambda event: "could not be restarted" in event["text"])
                mark = one.log.mark()
            assert one.service.status()["generations"][0]["state"] == "waiting"
        one.worker("serving", since=mark)
        result = running.stop()
        # What the killed one owned, and only that: nobody is refused.
        assert result["outcomes"].get("refused", 0) == 0 and result.lost <= 2, result


def test_a_cgroup_that_allows_no_process_fails_the_upgrade(run):
    """cgroup2's pids.max, or the pids controller of cgroup 1."""
    for root in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        group = f"{root}/segue-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        if os.path.exists(f"{group}/pids.max"):
            break
        os.rmdir(group)
    else:
        pytest.skip("needs the right to make a cgroup with the pids controller")
    one = run()

    def write(path, text):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)

    try:
        with unharmed(one) as clients:
            write(f"{group}/cgroup.procs", str(one.pid))
            write(f"{group}/pids.max", "1")
            message = one.fails()["message"]
            assert "no process could be made: Resource temporarily unavailable" in message
            clients.wait_more()
            write(f"{group}/pids.max", "max")
            write(f"{root}/cgroup.procs", str(one.pid))
        one.service.stop()
    finally:
        os.rmdir(group)


FULL = 'mount -t tmpfs -o size=4k none "$0" && { head -c 4096 /dev/zero >"$0/fill"; exec "$@"; }'


def test_a_full_disk_for_the_pid_file_ends_the_start(build, folder):
    full = folder / "full"
    full.mkdir()
    alone = ["unshare", "--mount"]
    if subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    done = subprocess.run(
        [*alone, "sh", "-c", FULL, full, build.program("src/segue/segue"), "run", "--control",
         folder / "control", "--pid-file", full / "pid", "--listen", f"unix://{folder}/http.sock",
         "--", build.program("examples/hello")],
        capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"pid file {full}/pid: No space left on device" in done.stderr
    # Nothing was begun, and nothing is left.
    assert not (folder / "http.sock").exists() and not (folder / "control").exists()


CLOCK = r"""
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Another day while the file exists. */
static time_t wrong(void)
{
	const char *path = getenv("WRONG_CLOCK");

	return path != NULL && access(path, F_OK) == 0 ? -86400 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	static int (*real)(clockid_t, struct timespec *);

	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	if (real(clock, ts) < 0)
		return -1;
	if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
		ts->tv_sec += wrong();
	return 0;
}

time_t time(time_t *at)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (at != NULL)
		*at = ts.tv_sec;
	return ts.tv_sec;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	*tv = (struct timeval){ ts.tv_sec, ts.tv_nsec / 1000 };
	return 0;
}
"""


@pytest.mark.plain
@pytest.mark.parametrize("when", ["during a start", "during a drain"])
def test_a_clock_that_is_set_back_moves_no_deadline(run, folder, when):
    """For the supervisor and its workers, who see it through a library of the test's: the
    machine's own clock is everybody's."""
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", folder / "clock.so",
                    folder / "clock.c", "-ldl"], check=True)
    env = {"LD_PRELOAD": folder / "clock.so", "WRONG_CLOCK": folder / "wrong"}
    one = run("--start-timeout", "1s", "--drain-timeout", "1s", env=env)
    with gate(folder):
        if when == "during a start":
            one.behave(f"listen:gate:{folder}/gate")
        client = one.service.connect()
        client.send(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
        eventually(lambda: one.service.workers(1)[0]["connections"], 1)
        asking = one.service.popen("upgrade", "--json")
        one.log.wait_for("gate") if when == "during a start" else one.worker("draining")
        (folder / "wrong").touch()
        out, _ = asking.communicate(timeout=20)
        client.close()
        assert asking.returncode == (1 if when == "during a start" else 4), out
        one.worker("gone")
        times = [event["time"] for event in one.log.find("worker")]
        assert times != sorted(times), f"the clock was not set back: {times}"
        end = [line for line in out.splitlines() if '"end":true' in line]
        assert 1000 <= int(end[0].split('"ms":')[1].split(",")[0].rstrip("}")) < 6000
        one.configure()
        one.upgrade()
        assert all(one["age_ms"] >= 0 for one in one.service.status()["generations"])
