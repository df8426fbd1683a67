"""Service managers: sockets handed over, notifications in their order as a real datagram socket
sees them, and the shapes in which an upgrade cannot be had.
"""

import contextlib
import os
import queue
import re
import signal
import socket
import threading
import time

import pytest

from functional import PROGRAM, Subject, asking, gate, held
from harness import processes
from harness.deadline import Expired, until
from harness.http import Connection
from harness.manager import NotifySocket, activation, close_all
from harness.service import parse


@pytest.fixture
def subject(start, folder):
    return lambda *options, **more: Subject(start, folder, *options, **more)


@pytest.fixture
def activated(subject):
    """Starts the server with sockets as a service manager does."""

    def make(sockets, *options, listen=(), names=None, **more):
        given = activation(sockets, names)
        try:
            return subject(*options, listen=list(listen), **given, **more)
        finally:
            close_all(given["pass_fds"])

    return make


@pytest.fixture
def refused(start):
    """Starts the server with sockets and variables that are wrong; its sentence."""

    def run(sockets, *arguments, listen=("tcp://127.0.0.1:0",), **variables):
        given = activation(sockets, **variables)
        words = [word for address in listen for word in ("--listen", address)]
        try:
            service = start(PROGRAM, *words, *arguments, bare=True, **given)
        finally:
            close_all(given["pass_fds"])
        service.expected_exits = {1}
        reason = service.log.wait_for("failed")["reason"]
        service.wait_end()
        assert not service.log.find("serving")
        return reason

    return run


@pytest.fixture
def tcp():
    """A listening socket of the manager, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}"


# LISTEN_FDS, each thing that can be wrong with it.


def test_a_wrong_pid_is_an_error(refused, tcp):
    reason = refused([tcp[0]], pid="1")
    assert re.fullmatch(
        r"LISTEN_PID=1 names another process than this one \(\d+\); a wrapper between the service "
        r"manager and this program has to exec it, or unset LISTEN_PID and LISTEN_FDS", reason)


@pytest.mark.parametrize("pid", ["", "abc", "-1", "12x"])
def test_a_pid_that_is_no_number_is_an_error(refused, tcp, pid):
    reason = refused([tcp[0]], pid=f"'{pid}'")
    assert reason == f"LISTEN_FDS is set but LISTEN_PID='{pid}' is no pid; both come together"


@pytest.mark.parametrize("count", ["abc", "-1", "99999999", "1x", ""])
def test_a_count_that_is_no_number_is_an_error(refused, tcp, count):
    reason = refused([tcp[0]], count=f"'{count}'")
    assert re.fullmatch(rf"LISTEN_FDS='{count}' is no number from 0 to \d+", reason)


def test_a_count_that_is_too_high_is_an_error(refused, tcp):
    assert refused([tcp[0]], listen=[tcp[1]], count=2) == "descriptor 4 is not open"


def test_a_count_of_0_is_none(start, tcp):
    service = start(PROGRAM, "--listen", "tcp://127.0.0.1:0", bare=True, **activation([], count=0))
    service.wait_serving()
    service.send(signal.SIGTERM)
    service.wait_end()


def test_names_that_do_not_match_the_count_are_an_error(refused, tcp):
    assert refused([tcp[0]], names=["a", "b"]) == (
        "LISTEN_FDNAMES has 2 names for LISTEN_FDS=1 descriptors; unset all LISTEN_ variables or "
        "mend who sets them"
    )


def test_a_plain_file_is_an_error(refused, folder):
    with open(folder / "file", "w", encoding="ascii") as file:
        assert refused([file]) == "descriptor 3 is not a socket"


def test_a_socket_that_does_not_listen_is_an_error(refused, tcp):
    with socket.create_connection(tcp[0].getsockname()) as connection:
        assert refused([connection]) == "descriptor 3 is a socket that does not listen"


def test_a_socket_that_nobody_asks_for_is_an_error(refused, tcp):
    assert refused([tcp[0]], names=["web"]) == (
        f"the service manager passed socket web ({tcp[1]}), which no listener asks for; its "
        "clients would hang: mend the socket unit or the addresses"
    )


def test_a_socket_of_a_name_with_another_address_is_an_error(refused, tcp):
    reason = refused([tcp[0]], listen=["web=tcp://127.0.0.1:1"], names=["web"])
    assert reason == (
        f"listener web from the service manager: the socket is bound to {tcp[1]}, not to "
        "tcp://127.0.0.1:1; mend the socket unit or the address"
    )


def test_a_socket_of_a_name_with_another_type_is_an_error(refused):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        reason = refused([datagrams], listen=["web=tcp://127.0.0.1:1"], names=["web"])
    assert reason == (
        "listener web from the service manager: the socket is of another type than "
        "tcp://127.0.0.1:1 needs; mend the socket unit or the address"
    )


# Sockets handed over.


@pytest.mark.parametrize("names", [["web"], None, ["other"]])
def test_a_socket_of_the_manager_is_used_over_upgrades(activated, tcp, names):
    """By its name, or by its address where the name says nothing."""
    listener, address = tcp
    one = activated([listener], listen=[f"web={address}"], names=names)
    listener.close()
    first = one.pid
    with asking(one.address()) as clients:
        for _ in range(3):
            last = one.upgrade()
        clients.wait_more()
    assert first in clients.pids() and last in clients.pids()
    with Connection(one.address()) as connection:
        variables = connection.get("/environ").body.decode().splitlines()
    assert not [line for line in variables if line.startswith("LISTEN_")]
    assert processes.listening(last) == [address]


def test_the_socket_stays_the_managers(activated, folder):
    """A unix path that the manager made is not removed at the final stop, and its queue is kept."""
    path = str(folder / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        one = activated([listener], listen=[f"unix://{path}"])
        one.upgrade()
        one.service.stop()
        assert os.path.exists(path)
        with Connection(path) as waiting:
            waiting.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            two = activated([listener], listen=[f"unix://{path}"])
            assert waiting.response().pid == two.pid


def test_several_sockets_and_one_of_our_own(activated, tcp, folder):
    listener, address = tcp
    path = str(folder / "app.sock")
    datagrams = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(*datagrams) as udp:
        unix.bind(path)
        unix.listen()
        udp.bind(("127.0.0.1", 0))
        udp_address = f"udp://127.0.0.1:{udp.getsockname()[1]}"
        one = activated([unix, listener, udp],
                        listen=["tcp://127.0.0.1:0", f"web={address}", f"local=unix://{path}",
                                f"dns={udp_address}"],
                        names=["local", "web", "dns"])
        pid = one.upgrade()
        for place in (path, listener.getsockname(), one.address("tcp://127.0.0.1:0")):
            with Connection(place) as connection:
                assert connection.get().pid == pid
        with socket.socket(*datagrams) as client:
            client.settimeout(20)
            client.sendto(b"who?", udp.getsockname())
            assert client.recv(100).decode() == f"2 {pid}"


def test_a_blocking_socket_of_the_manager_is_made_non_blocking(activated, tcp):
    listener, address = tcp
    listener.setblocking(True)
    one = activated([listener], listen=[address])
    with asking(one.address()):
        one.upgrade()


# Notifications.


@pytest.fixture
def notified(subject, folder):
    """A service with a notification socket."""

    @contextlib.contextmanager
    def make(*options, env=None, hold_barriers=False, **more):
        with Manager(folder / "notify", hold_barriers) as notify:
            one = subject(*options, env={"NOTIFY_SOCKET": notify.path, **(env or {})}, **more)
            yield one, notify

    return make


class Manager:
    """A NotifySocket that is always read, as a manager reads: no barrier waits for a test."""

    def __init__(self, path, hold_barriers=False):
        self._socket = NotifySocket(path, hold_barriers)
        self.path = self._socket.path
        self._messages = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopping.is_set():
            with contextlib.suppress(Expired):
                self._messages.put(self._socket.receive(0.05))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def release_barriers(self):
        self._socket.hold_barriers = False
        self._socket.release_barriers()

    def receive(self, deadline=None):
        """The next message."""
        deadline = until(deadline)
        try:
            return self._messages.get(timeout=deadline.left())
        except queue.Empty as error:
            raise Expired(f"waited {deadline.seconds:g} s for a message") from error

    def wait_for(self, line, deadline=None):
        """The first message from now on that has this line."""
        deadline = until(deadline)
        while line not in (message := self.receive(deadline)).text.splitlines():
            pass
        return message


def served(message, pid, generation):
    return message.pid == pid and message.fields == {
        "READY": "1", "STATUS": f"Generation {generation} serves", "MAINPID": str(pid)}


def reloading(message, pid, generation):
    """The start of an upgrade, at a time of CLOCK_MONOTONIC that is now."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message.pid == pid
    assert message.fields["RELOADING"] == "1"
    assert message.fields["STATUS"] == f"Generation {generation} starts"
    assert now - 20_000_000 < int(message.fields["MONOTONIC_USEC"]) <= now


def extends(message, pid):
    assert message.pid == pid and list(message.fields) == ["EXTEND_TIMEOUT_USEC"]
    assert int(message.fields["EXTEND_TIMEOUT_USEC"]) >= 10_000_000


def test_the_messages_of_a_start_an_upgrade_and_a_stop(notified):
    with notified() as (one, notify):
        first = one.pid
        assert served(notify.receive(), first, 1)
        second = one.upgrade()
        reloading(notify.receive(), first, 2)
        extends(notify.receive(), first)
        committed = notify.receive()
        # The manager listens to its main process: the predecessor names the successor.
        assert committed.pid == first and committed.fields == {
            "MAINPID": str(second), "READY": "1", "STATUS": "Generation 2 serves"}
        rest = [notify.receive(), notify.receive()]
        barrier = next(message for message in rest if message.fields == {"BARRIER": "1"})
        assert barrier.pid == first and barrier.descriptors == 1
        assert [served(m, second, 2) for m in rest if m is not barrier] == [True]
        one.service.stop()
        stopping = notify.receive()
        assert stopping.pid == second
        assert stopping.fields == {"STOPPING": "1", "STATUS": "Stopping"}


def test_the_messages_of_a_failed_upgrade(notified):
    """READY=1 ends the reload; the status says why; and another attempt is another reload."""
    with notified() as (one, notify):
        pid = one.pid
        # The successor is the manager's own child, so that its exit is told to us.
        one.service.expected_exits.add(3)
        notify.wait_for("READY=1")
        for _ in range(2):
            one.behave("listen:exit:3")
            reason = one.fails()
            reloading(notify.receive(), pid, 2)
            message = notify.receive()
            if "EXTEND_TIMEOUT_USEC" in message.fields:
                message = notify.receive()
            assert message.pid == pid
            assert message.fields == {
                "READY": "1", "STATUS": f"Upgrade to generation 2 failed: {reason}"}
        one.configure()
        one.upgrade()


def test_a_refused_upgrade_tells_the_manager_nothing(notified, folder):
    (folder / "why").write_text("no\n")
    with notified("--refuse-file", folder / "why") as (one, notify):
        notify.wait_for("READY=1")
        assert one.ended(one.ask())["outcome"] == "refused"
        one.service.stop()
        assert "STOPPING" in notify.receive().fields


def test_the_predecessor_waits_for_the_barrier(notified):
    """It is the only one whom the manager hears: it may leave when the manager has read that."""
    with notified(hold_barriers=True) as (one, notify):
        first = one.service.serving
        second = one.upgrade(wait_exit=False)
        notify.wait_for("BARRIER=1")
        one.log.wait_for("state", pid=first.pid, to="drained")
        one.log.wait_for("final_state", pid=second)
        # The successor has everything, the barrier alone is missing.
        with Connection(one.address()) as connection:
            assert connection.get().pid == second
        assert not first.ended and not one.log.find("gone", pid=first.pid)
        notify.release_barriers()
        assert one.service.wait_exit(first.pid) == 0
        assert one.log.wait_for("state", pid=first.pid, to="gone")["reason"] == "settled"


def test_the_service_taken_back_is_announced(notified, folder):
    os.mkfifo(folder / "gate")
    with notified("--probation", 20000) as (one, notify), gate(folder) as go:
        first = one.pid
        one.service.expected_exits.add(1)
        notify.wait_for("READY=1")
        one.behave(f"serve:gate:{folder}/gate", "serve:exit:1")
        mark = one.ask()
        second = one.ended(mark)["successor_pid"]
        assert notify.wait_for(f"MAINPID={second}").pid == first
        go()
        one.log.wait_for("resume")
        message = notify.wait_for(f"MAINPID={first}")
        assert served(message, first, 1)
        assert one.pid == first


def test_a_status_of_the_program_is_one_line(notified):
    with notified() as (one, notify):
        notify.wait_for("READY=1")
        with Connection(one.address()) as connection:
            connection.get("/status/7_jobs_waiting")
        assert notify.receive().text.strip() == "STATUS=7_jobs_waiting"


def test_an_abstract_notification_socket_works(subject, folder):
    name = f"segue-test-{folder.name}"
    with Manager(f"\0{name}") as notify:
        one = subject(env={"NOTIFY_SOCKET": f"@{name}"})
        assert served(notify.receive(), one.pid, 1)
        second = one.upgrade()
        notify.wait_for(f"MAINPID={second}")


def test_a_notification_socket_that_nobody_has_is_a_warning(subject, folder):
    """The service serves; whether its manager is content is the manager's business."""
    one = subject(env={"NOTIFY_SOCKET": f"{folder}/nobody"})
    reason = one.log.wait_for("warning")["reason"]
    assert reason == (
        f"NOTIFY_SOCKET='{folder}/nobody' cannot be reached: No such file or directory")
    one.upgrade()


def test_a_manager_that_goes_away_is_a_warning(notified, folder):
    with notified() as (one, notify):
        notify.wait_for("READY=1")
    mark = one.log.mark()
    with asking(one.address()):
        one.upgrade()
        warning = one.log.wait_for("warning", since=mark)
        assert warning["reason"].startswith("the service manager does not listen: ")


@pytest.mark.long
def test_a_long_start_extends_the_managers_patience(notified, folder):
    os.mkfifo(folder / "gate")
    with notified() as (one, notify), gate(folder) as go:
        one.behave(f"listen:gate:{folder}/gate")
        pid = one.pid
        one.ask()
        reloading_at = notify.wait_for("STATUS=Generation 2 starts")
        assert reloading_at.pid == pid
        extends(notify.receive(), pid)
        extends(notify.receive(), pid)  # 5 s later
        go()
        notify.wait_for("BARRIER=1")


# The watchdog.


@pytest.fixture
def watched(notified):
    """A service whose manager wants WATCHDOG=1 every 400 ms from this very process."""

    def make(*options, **more):
        script = 'export WATCHDOG_PID=$$; exec "$@"'
        return notified(*options, env={"WATCHDOG_USEC": "400000"},
                        before=["/bin/sh", "-c", script, "sh"], **more)

    return make


def alive(notify, deadline=None):
    return notify.wait_for("WATCHDOG=1", deadline).pid


def test_the_watchdog_is_answered_by_the_main_process(watched):
    with watched() as (one, notify):
        first = one.pid
        assert [alive(notify) for _ in range(3)] == [first] * 3
        with held(one) as busy:
            second = one.upgrade(wait_exit=False)
            notify.wait_for(f"MAINPID={second}")
            # The predecessor drains: it is alive and silent.
            assert [alive(notify) for _ in range(3)] == [second] * 3
            with Connection(one.address()) as connection:
                variables = connection.get("/environ").body.decode().splitlines()
            assert f"WATCHDOG_PID={second}" in [line.strip() for line in variables]
            assert "WATCHDOG_USEC=400000" in variables
            assert busy.send(b"y").response().pid == first
        third = one.upgrade()
        notify.wait_for(f"MAINPID={third}")
        assert alive(notify) == third


def test_the_watchdog_is_answered_while_the_successor_starts(watched, folder):
    os.mkfifo(folder / "gate")
    with watched() as (one, notify), gate(folder) as go:
        first = one.pid
        one.behave(f"listen:gate:{folder}/gate")
        one.ask()
        one.log.wait_for("gate")
        notify.wait_for("STATUS=Generation 2 starts")
        assert [alive(notify) for _ in range(2)] == [first] * 2
        go()
        assert one.service.wait_exit(first) == 0


def test_the_watchdog_is_answered_again_by_who_took_the_service_back(watched, folder):
    os.mkfifo(folder / "gate")
    with watched("--probation", 20000) as (one, notify), gate(folder) as go:
        first = one.pid
        one.service.expected_exits.add(1)
        notify.wait_for("READY=1")
        one.behave(f"serve:gate:{folder}/gate", "serve:exit:1")
        one.ask()
        one.log.wait_for("gate")
        go()
        one.log.wait_for("resume")
        notify.wait_for(f"MAINPID={first}")
        assert [alive(notify) for _ in range(2)] == [first] * 2


def test_a_watchdog_of_another_process_is_not_answered(notified):
    with notified(env={"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}) as (one, notify):
        notify.wait_for("READY=1")
        with pytest.raises(Expired):
            alive(notify, 0.5)


# Shapes in which the pid must not change.

SUPERVISED = "start it as 'segue run -- program', whose pid stays"


def says_no(one):
    ended = one.ended(one.ask())
    assert ended["outcome"] == "refused" and not one.log.find("upgrade_begins")
    return ended["reason"]


def test_under_supervisord_an_upgrade_is_refused(subject):
    one = subject(env={"SUPERVISOR_ENABLED": "1"})
    with asking(one.address()):
        assert says_no(one) == (
            "upgrade refused: supervisord watches its direct child, and an upgrade changes the "
            "pid; " + SUPERVISED
        )


def test_under_systemd_without_notifications_an_upgrade_is_refused(subject):
    one = subject(before=["/bin/sh", "-c", 'export SYSTEMD_EXEC_PID=$$; exec "$@"', "sh"])
    with asking(one.address()):
        assert says_no(one) == (
            "upgrade refused: systemd watches this pid, and an upgrade changes it; set Type=notify "
            "in the unit, or start it as 'segue run -- program'"
        )


def test_under_systemd_with_notifications_an_upgrade_works(notified):
    script = 'export SYSTEMD_EXEC_PID=$$; exec "$@"'
    with notified(before=["/bin/sh", "-c", script, "sh"]) as (one, _):
        for _ in range(3):
            one.upgrade()


def test_below_something_that_systemd_started_an_upgrade_works(subject):
    one = subject(env={"SYSTEMD_EXEC_PID": str(os.getpid())})
    one.upgrade()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a pid namespace")
def test_as_process_1_an_upgrade_is_refused(start):
    """No pid file here: the number in it would mean another process outside."""
    service = start(PROGRAM, "--listen", "tcp://127.0.0.1:0", bare=True,
                    before=["unshare", "--pid", "--fork", "--kill-child"])
    service.expected_exits = {0}
    serving = service.wait_serving()
    assert serving["pid"] == 1
    outside = service.running[-1]
    assert processes.Stat(outside).name == "server"
    service.send(signal.SIGUSR2, outside)
    ended = service.log.wait_for("upgrade_ended")
    assert ended["outcome"] == "refused"
    assert ended["reason"] == (
        "upgrade refused: this is process 1 of its container, which ends with it, and an upgrade "
        "changes the pid; " + SUPERVISED
    )
    with Connection(parse(service.log.find("listener")[0]["address"])) as connection:
        assert connection.get().status == 200
    service.send(signal.SIGTERM, outside)
    service.wait_end()
