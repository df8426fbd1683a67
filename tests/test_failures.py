"""A failed upgrade is a non-event: whatever is wrong with the successor, the predecessor serves on,
says why, leaks nothing, and the next attempt works.
"""

import contextlib
import os
import select
import signal
import socket
import time

import pytest

from functional import Subject, asking, copy, eventually, free_port, gate, held, unharmed
from harness import processes
from harness.builds import put_program
from harness.http import Connection


@pytest.fixture
def subject(start, folder):
    return lambda *options, **more: Subject(start, folder, *options, **more)


def failed(reason):
    """The sentence with which generation 1 reports that generation 2 failed."""
    return f"generation 2 failed: {reason}; generation 1 serves as before"


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


def dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere")


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
    dangling_link: "No such file or directory",
    link_to_itself: "Too many levels of symbolic links",
}


@pytest.mark.parametrize("damage", PROGRAMS, ids=lambda damage: damage.__name__)
def test_a_program_that_cannot_be_executed_is_named(subject, build, folder, damage):
    path = copy(build, folder / "app")
    one = subject(program=path)
    with unharmed(one) as clients:
        damage(path)
        assert one.fails() == failed(f"{path} could not be executed: {PROGRAMS[damage]}")
        clients.wait_more()
        # Again: a failure leaves nothing that would be in the way of the next.
        assert one.fails() == failed(f"{path} could not be executed: {PROGRAMS[damage]}")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        copy(build, path)


# The successor's end before it is ready.

STAGES = ["start", "open", "listen"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "end, reason",
    [
        ("exit:1", "it exited with status 1 before it was ready"),
        ("exit:0", "it exited with status 0 before it was ready"),
        ("signal:6", "it was killed by signal 6 (Aborted) before it was ready"),
        ("signal:11", "it was killed by signal 11 (Segmentation fault) before it was ready"),
    ],
)
def test_a_successor_that_ends_before_it_is_ready_changes_nothing(subject, stage, end, reason):
    one = subject()
    with unharmed(one) as clients:
        one.behave(f"{stage}:{end}")
        assert one.fails() == failed(reason)
        clients.wait_more()


def test_a_successor_that_is_killed_is_reported_as_killed(subject, folder):
    os.mkfifo(folder / "gate")
    one = subject()
    with unharmed(one):
        one.behave(f"listen:gate:{folder}/gate")
        with gate(folder):
            mark = one.ask()
            pid = one.log.wait_for("upgrade_started", since=mark)["successor_pid"]
            one.log.wait_for("gate", since=mark)
            one.service.process(pid).send(signal.SIGKILL)
            ended = one.ended(mark)
        # That it was not this generation's own doing cannot be told from the status.
        assert ended["outcome"] == "failed"
        assert ended["reason"] in (
            failed("it was killed by signal 9 (Killed) before it was ready"),
            failed("it closed its channel before it was ready"),
        )


@pytest.mark.parametrize("stage", STAGES)
def test_a_successor_that_hangs_ends_at_the_deadline(subject, stage):
    one = subject("--start-timeout", 1000)
    with unharmed(one) as clients:
        one.behave(f"{stage}:hang")
        mark = one.ask()
        one.log.wait_for("hang", since=mark)
        clients.wait_more()
        ended = one.ended(mark)
        assert ended["reason"] == failed("it was not ready within 1 s (see --start-timeout)")
        assert 1000 <= ended["took_ms"] < 6000


def test_a_stopped_successor_ends_at_the_deadline(subject, folder):
    os.mkfifo(folder / "gate")
    one = subject("--start-timeout", 1000)
    with unharmed(one), gate(folder):
        one.behave(f"listen:gate:{folder}/gate")
        mark = one.ask()
        one.service.process(one.log.wait_for("gate", since=mark)["pid"]).stop()
        reason = one.ended(mark)["reason"]
        assert reason == failed("it was not ready within 1 s (see --start-timeout)")


# Refusals.


def test_a_hook_refuses_with_its_reason(subject, folder):
    one = subject("--refuse-file", folder / "why")
    with unharmed(one) as clients:
        (folder / "why").write_text('the "cache" is being rebuilt\n')
        mark = one.ask()
        ended = one.ended(mark)
        assert ended["outcome"] == "refused"
        assert ended["reason"] == 'upgrade refused by the program: the "cache" is being rebuilt'
        # Nothing was started, and the service manager was told nothing.
        assert not one.log.find("upgrade_begins") and not one.log.find("state", since=mark)
        clients.wait_more()
        (folder / "why").unlink()


def test_a_hook_that_refuses_without_a_reason_is_reported_as_such(subject, folder):
    one = subject("--refuse-file", folder / "why")
    with unharmed(one):
        (folder / "why").write_text("")
        reason = one.ended(one.ask())["reason"]
        assert reason == "upgrade refused by the program: no reason given"
        (folder / "why").unlink()


def test_a_program_that_never_upgrades_says_so(subject):
    one = subject("--never", "yes")
    pid = one.pid
    with asking(one.address()):
        ended = one.ended(one.ask())
        assert ended["outcome"] == "refused"
        assert ended["reason"] == "upgrade refused: this program does not upgrade itself"
    assert one.pid == pid


def checked(subject, folder, *options):
    (folder / "verdict").write_text("ok")
    words = ["--check-argument", "--check", "--check-argument", folder / "verdict"]
    return subject(*words, *options)


def test_why_a_successor_cannot_even_open_reaches_the_predecessor(subject, folder):
    one = subject()
    one.configure("--pid-file", folder / "missing/file.pid")
    with unharmed(one):
        reason = one.fails()
        assert reason == failed(f"pid file {folder}/missing/file.pid: No such file or directory")
        one.configure()


IGNORES_CHILDREN = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_preflight_check_works_where_the_host_ignores_its_children(subject, folder):
    """The kernel reaps them at once then, and their status with them."""
    before = ["/usr/bin/python3", "-c", IGNORES_CHILDREN]
    (folder / "verdict").write_text("ok")
    words = ["--check-argument", "--check", "--check-argument", folder / "verdict"]
    one = subject(*words, before=before)
    (folder / "verdict").write_text("bad")
    assert one.fails() == failed("the preflight check exited with status 3")
    (folder / "verdict").write_text("ok")
    one.upgrade()


# Answers ENOSYS to clone3(), as the filters of containers do.
FILTERED = """
import ctypes, os, struct, sys
code = struct.pack("=HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, 435, 6, 0, 0, 0x50026,
                   6, 0, 0, 0x7fff0000)
program = struct.pack("HP", 4, ctypes.addressof(ctypes.create_string_buffer(code, len(code))))
keep = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HP", 4, ctypes.addressof(keep))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0):
    sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter names a call by its number here")
def test_an_upgrade_works_where_clone3_is_filtered(subject):
    one = subject(before=["/usr/bin/python3", "-c", FILTERED])
    one.upgrade()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program of another user")
def test_a_failed_successor_that_cannot_be_killed_never_serves(start, build, folder):
    """It has changed its user, so it cannot be killed by who started it. It is told to go."""
    before = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all",
              "--bounding-set=-all"]
    os.chown(folder, 65533, 65533)
    folder.chmod(0o755)
    program = copy(build, folder / "app")
    one = Subject(start, folder, "--start-timeout", 700, program=program, before=before)
    pid = one.pid
    # The next version is another user's, and takes that user for good.
    os.mkfifo(folder / "gate")
    os.chown(folder / "gate", 65532, 65532)
    copy(build, program)
    os.chown(program, 65532, 65532)
    program.chmod(0o4755)
    one.behave("open:user:65532", f"open:gate:{folder}/gate")
    with gate(folder) as go:
        mark = one.ask()
        assert "not ready within 700 ms" in one.ended(mark, outcome="failed")["reason"]
        successor = one.service.process(one.log.find("upgrade_started", since=mark)[0]["successor_pid"])
        go()
        successor.wait()
    assert one.log.find("serving", pid=successor.pid) == []
    with Connection(one.address()) as fresh:
        assert fresh.get().pid == pid
    one.service.expected_exits.add(1)


def test_a_preflight_check_that_fails_starts_nothing(subject, folder):
    one = checked(subject, folder)
    with unharmed(one) as clients:
        (folder / "verdict").write_text("bad")
        mark = one.ask()
        ended = one.ended(mark)
        assert ended["reason"] == failed("the preflight check exited with status 3")
        assert one.log.find("check", since=mark, word="bad")
        assert not one.log.find("upgrade_started") and not one.log.find("start", since=mark)
        clients.wait_more()
        (folder / "verdict").write_text("ok")


def test_a_preflight_check_that_hangs_ends_at_its_own_deadline(subject, folder):
    one = checked(subject, folder, "--check-timeout", 800)
    with unharmed(one) as clients:
        (folder / "verdict").write_text("hang")
        mark = one.ask()
        one.log.wait_for("check", since=mark, word="hang")
        clients.wait_more()
        reason = one.ended(mark)["reason"]
        assert reason == failed("the preflight check did not end within 800 ms")
        # The program dies with the process that waited for it, as an orphan.
        one.service.expected_exits.add(-signal.SIGKILL)
        (folder / "verdict").write_text("ok")


def test_a_preflight_check_whose_program_is_missing_fails(subject, build, folder):
    path = copy(build, folder / "app")
    words = ["--check-argument", "--check", "--check-argument", folder / "verdict"]
    (folder / "verdict").write_text("ok")
    one = subject(*words, program=path)
    with unharmed(one):
        path.unlink()
        assert one.fails() == failed(f"{path} could not be executed: No such file or directory")
        copy(build, path)


def test_state_that_cannot_be_saved_fails_the_upgrade(subject, folder):
    one = subject("--state", "yes", "--save-file", folder / "full")
    with unharmed(one):
        (folder / "full").write_text("")
        assert one.fails() == failed("the state could not be saved: Input/output error")
        (folder / "full").unlink()


# Addresses.


def test_a_taken_port_of_an_additional_listener_is_named(subject):
    one = subject()
    with socket.create_server(("127.0.0.1", 0)) as taken, unharmed(one) as clients:
        port = taken.getsockname()[1]
        one.configure("--listen", f"second=tcp://127.0.0.1:{port}")
        assert one.fails() == failed(
            f"listener second: tcp://127.0.0.1:{port}: another program has this address, or one "
            "that overlaps it; stop it or choose another port"
        )
        clients.wait_more()


def test_an_overlapping_address_is_named(subject, folder):
    """A port of our own choice, so that the configured address and 0.0.0.0 overlap."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    one = subject(listen=[address])
    with unharmed(one):
        one.configure("--listen", f"all=tcp://0.0.0.0:{port}")
        assert one.fails() == failed(
            f"listener all (tcp://0.0.0.0:{port}) overlaps listener {address} ({address}); one "
            "address can be served once"
        )


def test_an_address_that_overlaps_the_predecessors_is_named(subject, folder):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    one = subject(listen=[], config=["--listen", address])
    with unharmed_with(one, ["--listen", address]):
        one.configure("--listen", f"tcp://0.0.0.0:{port}")
        assert one.fails() == failed(
            f"listener tcp://0.0.0.0:{port} (tcp://0.0.0.0:{port}) overlaps {address} ({address}), "
            "which the predecessor still holds; move to it by way of another port"
        )


@contextlib.contextmanager
def unharmed_with(one, good):
    """unharmed(), where a good successor needs words in its configuration."""
    plain, one.configure = one.configure, lambda *words: plain(*(words or good))
    with unharmed(one) as clients:
        yield clients


def test_a_malformed_address_is_named(subject):
    one = subject()
    with unharmed(one):
        one.configure("--listen", "second=tcp://127.0.0.1:99999")
        reason = one.fails()
        assert reason.startswith("generation 2 failed: ") and "99999" in reason


# A successor that talks nonsense.

SENSELESS = "it sent a message that makes no sense"
GREETING = "it sent a greeting that makes no sense (does the program fork?)"


@pytest.mark.parametrize(
    "stage, kind, reason",
    [
        ("start", "nonsense", SENSELESS),
        ("start", "zeroes", SENSELESS),
        ("start", "oversized", SENSELESS),
        ("start", "descriptors", SENSELESS),
        ("start", "ready", SENSELESS),  # without HELLO
        ("start", "hello-of-another", GREETING),
        ("start", "hello-with-a-lie", GREETING),
        ("start", "hello-with-a-socket", GREETING),
        ("start", "hello-without-a-pidfd", SENSELESS),
        ("start", "close", "it closed its channel before it was ready"),
        ("open", "nonsense", SENSELESS),
        ("open", "descriptors", SENSELESS),
        ("open", "hello", "it sent a second greeting"),
        ("open", "commit", SENSELESS),
        ("open", "introduce", SENSELESS),
        ("open", "ready-for-100", SENSELESS),
        ("open", "ready-for-4-billion", SENSELESS),
        ("open", "close", "it closed its channel before it was ready"),
    ],
)
def test_a_successor_that_talks_nonsense_is_ended(subject, stage, kind, reason):
    one = subject()
    with unharmed(one) as clients:
        one.behave(f"{stage}:raw:{kind}", f"{stage}:hang")
        assert one.fails() == failed(reason)
        clients.wait_more()


def test_no_common_protocol_version_is_said(subject):
    one = subject()
    with unharmed(one):
        one.behave("start:raw:hello-of-the-future", "start:hang")
        assert one.fails() == failed("no common protocol version")


@pytest.mark.parametrize("kind", ["taken", "receipt"])
def test_an_answer_to_nothing_before_it_is_ready_is_harmless(subject, kind):
    one = subject()
    with asking(one.address()):
        one.behave(f"open:raw:{kind}")
        one.upgrade()


def test_a_program_that_knows_nothing_of_segue_fails_with_its_end(subject, build, folder):
    path = copy(build, folder / "app")
    one = subject(program=path)
    with unharmed(one):
        put_program("/bin/true", path)
        assert one.fails() == failed("it exited with status 0 before it was ready")
        copy(build, path)


# READY, and what can happen around it.


def test_ready_twice_is_warned_of_and_changes_nothing(subject):
    one = subject()
    pid = one.pid
    with asking(one.address()) as clients:
        one.behave("ready:raw:ready")
        mark = one.log.mark()
        successor = one.upgrade()
        warning = one.log.wait_for("warning", since=mark)
        assert warning["reason"] == "generation 2 said ready twice; ignored"
        clients.wait_more()
        one.configure()
        last = one.upgrade()
    assert clients.pids() <= {pid, successor, last} and last in clients.pids()


@pytest.mark.parametrize("kind", ["nonsense", "descriptors", "hello", "commit", "close"])
def test_nonsense_after_the_commit_ends_the_channel_and_nobody(subject, kind):
    """What cannot be handed over is finished by the predecessor: an idle connection is told to
    close with its next response, and no request is lost. What was on its way counts as the
    successor's, whose word for it is not heard any more: the wait for that is the drain's."""
    one = subject("--drain-timeout", 1000)
    pid = one.pid
    with Connection(one.address()) as kept, held(one) as busy:
        assert kept.get().pid == pid
        one.behave(f"serve:raw:{kind}")
        mark = one.ask()
        ended = one.ended(mark)
        assert ended["outcome"] == "upgraded"
        successor = one.log.wait_for("serving", since=mark, pid=ended["successor_pid"])["pid"]
        one.log.wait_for("drain", since=mark, pid=pid)
        response = busy.send(b"y").response()
        assert response.pid == pid
        with Connection(one.address()) as fresh:
            assert fresh.get().pid == successor
        # Handed over before the nonsense was read, or kept because of it; never lost.
        assert kept.get().pid in (pid, successor)
    if kind == "close":
        # A channel that has ended may mean a successor that is dying: that is waited for.
        one.log.wait_for("state", since=mark, pid=pid, to="drained")
        one.service.send(signal.SIGTERM, pid)
        one.service.send(signal.SIGINT, pid)
    assert one.service.wait_exit(pid) == 0
    one.configure()
    one.upgrade()


def test_a_committed_successor_that_hangs_is_not_killed(subject):
    """Without probation the commit is the last word. The predecessor drains and goes; the clients
    wait in the listener's queue, and what ends the wait is whoever ends the successor."""
    one = subject("--drain-timeout", 300)
    pid = one.pid
    predecessor = one.service.serving
    one.behave("ready:hang")
    mark = one.ask()
    ended = one.ended(mark)
    assert ended["outcome"] == "upgraded"
    successor = one.service.process(ended["successor_pid"])
    one.log.wait_for("state", since=mark, pid=pid, to="drained")
    # It would wait 10 s for a receipt of the final state; the second request to stop ends that too.
    predecessor.send(signal.SIGTERM)
    predecessor.send(signal.SIGINT)
    assert one.service.wait_exit(pid) == 0
    with Connection(one.address()) as waiting:
        waiting.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not successor.ended and waiting.is_idle()
        successor.send(signal.SIGKILL)
        successor.wait()
    one.service.expected_exits.add(-signal.SIGKILL)


def test_a_committed_successor_that_hangs_can_be_ended_while_the_predecessor_drains(subject):
    """The predecessor takes the service back, the queue included."""
    one = subject()
    pid = one.pid
    with held(one) as busy:
        one.behave("ready:hang")
        mark = one.ask()
        successor = one.ended(mark)["successor_pid"]
        one.log.wait_for("drain", since=mark)
        with Connection(one.address()) as waiting:
            waiting.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            one.service.process(successor).send(signal.SIGKILL)
            assert waiting.response().pid == pid
        assert busy.send(b"y").response().pid == pid
        assert busy.get().pid == pid
    assert one.pid == pid
    taken_back = one.ended(mark, outcome="taken-back")["reason"]
    assert taken_back == "generation 2 ended after its commit; generation 1 serves again"
    one.configure()
    one.upgrade()


def test_a_successor_that_dies_right_after_it_was_ready_costs_nothing(subject):
    """Without probation and with nothing to drain: the predecessor has almost gone, and comes back
    whichever of its steps the death meets. (Later, when it has gone, only probation helps.)"""
    one = subject()
    pid = one.pid
    for _ in range(10):
        one.behave("ready:signal:9")
        mark = one.ask()
        one.ended(mark, outcome="taken-back")
        one.log.wait_for("resume", since=mark)
        with Connection(one.address()) as fresh:
            assert fresh.get().pid == pid
    one.configure()
    one.upgrade()


def test_a_successor_that_dies_over_its_first_event_gives_the_service_back(subject):
    """The predecessor goes when the successor has dealt with all that it was told, not before."""
    one = subject()
    pid = one.pid
    for _ in range(10):
        one.behave("serve:signal:9")
        mark = one.ask()
        one.ended(mark, outcome="taken-back")
        one.log.wait_for("resume", since=mark)
        with Connection(one.address()) as fresh:
            assert fresh.get().pid == pid
    one.configure()
    one.upgrade()


def test_a_drained_predecessor_waits_for_what_a_closed_channel_means(subject, folder):
    """A process that dies closes its channel first: until its death is certain, nobody leaves."""
    os.mkfifo(folder / "gate")
    one = subject()
    pid = one.pid
    one.behave(f"ready:gate:{folder}/gate", "ready:raw:close", f"ready:gate:{folder}/gate",
               "ready:signal:9")
    with gate(folder) as go:
        mark = one.ask()
        # It closes what the COMMIT is in: one that could not be sent ends the attempt.
        one.log.wait_for("commit", since=mark, pid=pid)
        one.log.wait_for("gate", since=mark)
        go()
        one.log.wait_for("raw", since=mark)
        one.log.wait_for("state", since=mark, pid=pid, to="drained")
        with Connection(one.address()) as waiting:
            waiting.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            go()
            assert waiting.response().pid == pid
    one.ended(mark, outcome="taken-back")
    one.configure()
    one.upgrade()


@pytest.mark.parametrize("end", ["exit:1", "exit:0", "signal:6", "signal:9"])
def test_a_successor_that_dies_on_probation_gives_the_service_back(subject, folder, end):
    one = subject("--probation", 20000)
    pid = one.pid
    descriptors = sorted(processes.descriptors(pid).values())
    os.mkfifo(folder / "gate")
    with gate(folder) as go, Connection(one.address()) as kept:
        assert kept.get().pid == pid
        one.behave(f"serve:gate:{folder}/gate", f"serve:{end}")
        mark = one.ask()
        one.log.wait_for("gate", since=mark)
        # Live connections stay where they are while the successor is on probation.
        assert kept.get().pid == pid
        with Connection(one.address()) as waiting:
            waiting.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            go()
            assert waiting.response().pid == pid
        assert kept.get().pid == pid
    reason = one.ended(mark, outcome="taken-back")["reason"]
    assert reason == "generation 2 ended after its commit; generation 1 serves again"
    assert one.pid == pid
    eventually(lambda: sorted(processes.descriptors(pid).values()), descriptors)
    assert not processes.children(pid)
    one.configure()
    mark = one.ask()
    assert one.ended(mark)["outcome"] == "upgraded"
    one.service.send_group(signal.SIGTERM)
    one.service.wait_end()


def coincidences(one, folder, times):
    """READY is written while the predecessor is stopped, and its start deadline passes before it
    goes on: it finds both at once."""
    outcomes = []
    while len(outcomes) < times:
        one.behave(f"listen:gate:{folder}/gate")
        with gate(folder) as go:
            predecessor = one.service.serving
            mark = one.ask()
            asked = time.monotonic()
            met = one.log.wait_for(
                since=mark, where=lambda event: event.name in ("gate", "upgrade_ended")
            )
            if met.name == "upgrade_ended":
                # A slow machine: the deadline passed alone, which is no coincidence.
                check_one_serves(one, mark, met, predecessor.pid, met["successor_pid"])
                continue
            successor = met["pid"]
            predecessor.stop()
            go()
            one.log.wait_for("state", since=mark, pid=successor, to="ready")
            select.select([], [], [], max(0.0, asked + COINCIDENCE / 1000 - time.monotonic()))
            predecessor.go_on()
            ended = one.ended(mark)
        outcomes.append(ended["outcome"])
        check_one_serves(one, mark, ended, predecessor.pid, successor)
    return outcomes


COINCIDENCE = 350  # ms


def check_one_serves(one, mark, ended, before, successor):
    """After an upgrade that went either way."""
    if ended["outcome"] == "upgraded":
        one.log.wait_for("serving", since=mark, pid=successor)
        assert one.service.wait_exit(before) == 0
        serves = successor
    else:
        assert ended["outcome"] == "failed"
        assert not one.log.find("serving", since=mark, pid=successor)
        serves = before
    assert one.pid == serves
    eventually(lambda: one.service.running, [serves])
    with Connection(one.address()) as fresh:
        assert fresh.get().pid == serves


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.long)])
def test_ready_and_the_deadline_at_once_leave_one_generation(subject, folder, times):
    os.mkfifo(folder / "gate")
    one = subject("--start-timeout", COINCIDENCE)
    with asking(one.address()):
        outcomes = coincidences(one, folder, times)
    assert len(outcomes) == times


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.long)])
def test_ready_in_the_moment_of_the_deadline_leaves_one_generation(subject, times):
    """A start that takes as long as the deadline, give or take: both ways come up."""
    one = subject("--start-timeout", 200)
    with asking(one.address()):
        for turn in range(times):
            one.behave(f"listen:delay:{160 + turn * 40 // times}")
            before = one.pid
            mark = one.ask()
            ended = one.ended(mark)
            check_one_serves(one, mark, ended, before, ended["successor_pid"])
