"""Listeners over upgrades: added, removed, moved, renamed; unix paths from birth to the end."""

import contextlib
import grp
import os
import pwd
import re
import signal
import socket
import stat

import pytest

from functional import HOLD, Subject, asking, eventually, free_port, gate
from harness import processes
from harness.http import Closed, Connection

TCP = "tcp://127.0.0.1:0"


@pytest.fixture
def subject(start, folder):
    """Listeners are in the configuration here, so that they can change; [] leaves out the one that
    start() would add."""

    def make(*listens, options=(), **more):
        words = [word for listen in listens for word in ("--listen", listen)]
        return Subject(start, folder, *options, listen=[], config=words, **more)

    return make


def listen(one, *listens, options=()):
    one.configure(*options, *(word for listen in listens for word in ("--listen", listen)))


def inode(port):
    """The inode of what listens on a port of 127.0.0.1, for 'it is the same socket'."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    found = [row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"]
    assert len(found) == 1
    return found[0]


def ask(address):
    with Connection(address) as connection:
        return connection.get()


# Added, removed, moved, renamed.


def test_an_added_listener_serves_after_the_upgrade(subject):
    one = subject(f"a={TCP}")
    first = one.pid
    with asking(one.address("a")) as clients:
        mark = one.log.mark()
        listen(one, f"a={TCP}", f"b={TCP}")
        second = one.upgrade()
        assert ask(one.address("b", since=mark)).pid == second
        assert one.address("a", since=mark) == one.address("a")
        clients.wait_more()
    assert clients.pids() == {first, second}


def test_a_removed_listener_is_closed_and_its_queue_served(subject, folder):
    """Whoever has connected is served, the one that still waits in the queue too; who comes later
    is refused, since nobody listens."""
    one = subject(f"a={TCP}", f"b={TCP}")
    first, removed = one.pid, one.address("b")
    os.mkfifo(folder / "gate")
    with gate(folder) as go, Connection(removed) as kept:
        assert kept.get().pid == first
        one.configure("--listen", f"a={TCP}", "--behave", f"listen:gate:{folder}/gate")
        mark = one.ask()
        one.log.wait_for("gate", since=mark)
        predecessor = one.service.serving
        predecessor.stop()
        go()
        second = one.log.wait_for("state", since=mark, to="ready")["pid"]
        # In the queue of a process that is stopped, and which finds READY when it goes on.
        with Connection(removed) as queued:
            queued.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            predecessor.go_on()
            assert queued.response().pid in (first, second)
            dropped = one.log.wait_for("listener_dropped", since=mark)
            assert dropped["pid"] == first and dropped["name"] == "b"
            assert one.service.wait_exit(first) == 0
            # Its connections live on, only the address is gone.
            assert queued.get().pid == second
        assert kept.get().pid == second
    with pytest.raises(ConnectionRefusedError):
        Connection(removed)
    assert len(processes.listening(second)) == 1


def test_a_listener_that_was_removed_can_come_back(subject):
    port = free_port()
    one = subject(f"a={TCP}", f"b=tcp://127.0.0.1:{port}")
    listen(one, f"a={TCP}")
    one.upgrade()
    with pytest.raises(ConnectionRefusedError):
        Connection(("127.0.0.1", port))
    listen(one, f"a={TCP}", f"b=tcp://127.0.0.1:{port}")
    third = one.upgrade()
    assert ask(("127.0.0.1", port)).pid == third


def test_a_listener_moved_to_another_port_is_a_new_binding(subject):
    old, new = free_port(), free_port()
    one = subject(f"web=tcp://127.0.0.1:{old}")
    first = one.pid
    with Connection(("127.0.0.1", old)) as kept:
        assert kept.get().pid == first
        listen(one, f"web=tcp://127.0.0.1:{new}")
        second = one.upgrade()
        assert ask(("127.0.0.1", new)).pid == second
        assert kept.get().pid == second
    with pytest.raises(ConnectionRefusedError):
        Connection(("127.0.0.1", old))
    assert processes.listening(second) == [f"tcp://127.0.0.1:{new}"]


def test_one_of_128_listeners_can_change_and_a_129th_is_refused(subject):
    """What is inherited and not wanted any more does not count."""
    many = [f"n{number}={TCP}" for number in range(128)]
    one = subject(*many)
    listen(one, *many[:-1], "other=tcp://127.0.0.1:0")
    second = one.upgrade()
    assert len(processes.listening(second)) == 128
    assert ask(one.address("other")).pid == second
    listen(one, *many, "other=tcp://127.0.0.1:0")
    assert "more than 128" in one.fails()


def test_v6only_leaves_room_for_the_same_port_of_ipv4(subject):
    """Whichever of the two is asked for first."""
    port = free_port(socket.AF_INET6, "::")
    one = subject(f"six=tcp://[::]:{port}", f"four=tcp://0.0.0.0:{port}", options=("--v6only", "yes"))
    assert sorted(processes.listening(one.pid)) == [f"tcp://0.0.0.0:{port}", f"tcp://[::]:{port}"]
    one.upgrade()


def test_a_renamed_listener_is_the_same_socket(subject):
    port = free_port()
    one = subject(f"old=tcp://127.0.0.1:{port}")
    first = one.pid
    before = inode(port)
    with asking(("127.0.0.1", port)) as clients:
        listen(one, f"new=tcp://127.0.0.1:{port}")
        second = one.upgrade()
        clients.wait_more()
    assert clients.pids() == {first, second}
    assert inode(port) == before and processes.listening(second) == [f"tcp://127.0.0.1:{port}"]
    assert not one.log.find("listener_dropped")


def test_two_listeners_can_exchange_their_names(subject):
    a, b = free_port(), free_port()
    one = subject(f"x=tcp://127.0.0.1:{a}", f"y=tcp://127.0.0.1:{b}")
    with asking(("127.0.0.1", a)), asking(("127.0.0.1", b)):
        listen(one, f"y=tcp://127.0.0.1:{a}", f"x=tcp://127.0.0.1:{b}")
        mark = one.log.mark()
        one.upgrade()
    assert one.address("y", since=mark) == ("127.0.0.1", a)
    assert one.address("x", since=mark) == ("127.0.0.1", b)
    assert not one.log.find("listener_dropped")


def test_a_name_used_twice_is_refused(subject):
    one = subject(f"a={TCP}")
    listen(one, f"a={TCP}", f"a={TCP}")
    assert one.fails() == (
        "generation 2 failed: listener a was asked for twice; give each its own name; generation 1 "
        "serves as before"
    )
    listen(one, f"a={TCP}")
    one.upgrade()


# Port 0, and the families.


def test_port_0_keeps_its_port_over_upgrades(subject):
    one = subject(f"a={TCP}", f"b={TCP}", TCP)
    addresses = {name: one.address(name) for name in ("a", "b", TCP)}
    assert len(set(addresses.values())) == 3
    before = [inode(port) for _, port in addresses.values()]
    for _ in range(5):
        mark = one.log.mark()
        pid = one.upgrade()
        for name, address in addresses.items():
            assert one.address(name, since=mark) == address
            assert ask(address).pid == pid
    assert [inode(port) for _, port in addresses.values()] == before


def test_a_port_alone_is_both_families_and_all_interfaces(subject):
    port = free_port()
    one = subject(f":{port}")
    with asking(("127.0.0.1", port)), asking(("::1", port)):
        one.upgrade()
    assert processes.listening(one.pid) == [f"tcp://[::]:{port}"]


def test_an_ipv6_address_can_serve_ipv6_alone_beside_ipv4(subject):
    port = free_port()
    options = ["--v6only", "yes"]
    one = subject(f"six=tcp://[::]:{port}", f"four=tcp://0.0.0.0:{port}", options=options)
    with asking(("127.0.0.1", port)), asking(("::1", port)):
        one.upgrade()
    assert len(processes.listening(one.pid)) == 2


def test_a_udp_listener_answers_through_upgrades(subject):
    one = subject(TCP, "dns=udp://127.0.0.1:0")
    text = one.log.wait_for(where=lambda event: event.get("name") == "dns")["address"]
    host, port = re.fullmatch(r"udp://(.*):(\d+)", text).groups()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect((host, int(port)))
        for generation in (1, 2, 3):
            client.send(b"who?")
            assert client.recv(100).decode() == f"{generation} {one.pid}"
            # A datagram that comes while nobody reads waits in the socket's queue.
            one.upgrade()
        client.send(b"who?")
        assert client.recv(100).decode() == f"4 {one.pid}"


def test_datagrams_sent_during_an_upgrade_are_answered_once(subject, folder):
    """The successor, or the predecessor, but each by exactly one of them."""
    one = subject(TCP, "dns=udp://127.0.0.1:0")
    text = one.log.wait_for(where=lambda event: event.get("name") == "dns")["address"]
    port = int(text.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        one.ask()
        pids = set()
        while len(pids) < 2:
            client.send(b"who?")
            pids.add(client.recv(100).decode())
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)


def test_an_abstract_address_is_kept_over_upgrades(subject, folder):
    name = f"@segue-test-{os.getpid()}-{folder.name}"
    one = subject(f"unix://{name}")
    first = one.pid
    with asking(name) as clients:
        second = one.upgrade()
        clients.wait_more()
    assert clients.pids() == {first, second}
    one.service.stop()
    with pytest.raises(ConnectionRefusedError):
        Connection(name)


# Unix paths.


def test_a_unix_path_is_there_until_the_final_stop(subject, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    born = os.stat(path).st_ino
    with asking(str(path)) as clients:
        for _ in range(10):
            one.upgrade()
            assert os.stat(path).st_ino == born
            clients.wait_more(2)
    one.service.stop()
    assert not path.exists()


def test_a_failed_upgrade_leaves_the_path(subject, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    for behaviour in ("open:exit:1", "listen:exit:0", "listen:signal:9"):
        one.configure("--listen", f"unix://{path}", "--behave", behaviour)
        one.fails()
        assert ask(str(path)).status == 200
    listen(one, f"unix://{path}")
    one.upgrade()
    one.service.stop()
    assert not path.exists()


def test_a_path_that_a_failed_successor_bound_is_removed_by_it(subject, folder):
    path = folder / "second.sock"
    one = subject(TCP)
    listen(one, TCP, f"unix://{path}", TCP)
    assert "asked for twice" in one.fails()
    assert not path.exists()


def test_a_dropped_path_is_removed(subject, folder):
    path = folder / "app.sock"
    one = subject(f"a={TCP}", f"b=unix://{path}")
    first = one.pid
    with Connection(str(path)) as kept:
        assert kept.get().pid == first
        listen(one, f"a={TCP}")
        second = one.upgrade()
        assert kept.get().pid == second
    assert not path.exists()


def test_a_foreign_file_at_the_path_is_not_removed(subject, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    one.upgrade()
    path.unlink()
    path.write_text("someone else's")
    one.upgrade()
    one.service.stop()
    assert path.read_text() == "someone else's"


def test_a_foreign_socket_at_the_path_is_not_removed(subject, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        one.upgrade()
        one.service.stop()
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_stale_path_is_replaced_at_start(subject, folder):
    path = folder / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    one = subject(f"unix://{path}")
    assert ask(str(path)).pid == one.pid


@pytest.fixture
def refused(start):
    """Starts a second server that has to fail to start; its sentence."""

    def run(*arguments):
        service = start("tests/programs/server", *arguments, bare=True)
        service.expected_exits = {1}
        reason = service.log.wait_for("failed")["reason"]
        service.wait_end()
        return reason

    return run


ALIVE = "another program listens there; stop it or choose another path"


def test_a_live_path_is_refused_at_start(subject, folder, refused):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    name = f"unix://{path}"
    assert refused("--listen", name) == f"listener {name}: {ALIVE}"
    assert ask(str(path)).pid == one.pid


def test_a_live_path_with_a_full_backlog_is_refused_at_start(folder, refused):
    path = folder / "app.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            one.connect(str(path))
            two.setblocking(False)
            with pytest.raises(BlockingIOError):
                two.connect(str(path))
            name = f"unix://{path}"
            assert refused("--listen", name) == f"listener {name}: {ALIVE}"
        assert path.exists()


def test_a_file_at_the_path_is_left_alone_at_start(folder, refused):
    path = folder / "app.sock"
    path.write_text("mine")
    name = f"unix://{path}"
    reason = refused("--listen", name)
    assert reason == (
        f"listener {name}: the path exists and is not a socket; it is left alone")
    assert path.read_text() == "mine"


def test_a_taken_port_is_refused_at_start(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        name = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert refused("--listen", f"web={name}") == (
            f"listener web: {name}: another program has this address, or one that overlaps it; "
            "stop it or choose another port"
        )


def test_two_of_our_own_that_overlap_are_refused_at_start(refused):
    port = free_port()
    reason = refused("--listen", f"tcp://127.0.0.1:{port}", "--listen", f":{port}")
    assert "overlaps listener" in reason and "one address can be served once" in reason


@pytest.mark.parametrize("mode", ["600", "660", "666"])
def test_a_unix_path_has_its_mode_whatever_the_umask(subject, folder, mode):
    path = folder / "app.sock"
    one = subject(f"unix://{path}", options=["--mode", mode], umask=0o077)
    assert stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8)
    one.upgrade()
    assert stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8)


def test_without_a_mode_the_umask_decides(subject, folder):
    path = folder / "app.sock"
    subject(f"unix://{path}", umask=0o027)
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o666 == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a path away")
def test_a_unix_path_has_its_owner_and_group(subject, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}", options=["--owner", "daemon", "--group", "nogroup"])
    for _ in range(2):
        found = os.stat(path)
        assert pwd.getpwuid(found.st_uid).pw_name == "daemon"
        assert grp.getgrgid(found.st_gid).gr_name == "nogroup"
        one.upgrade()


@pytest.mark.parametrize("option, kind", [("--owner", "user"), ("--group", "group")])
def test_an_unknown_owner_is_an_error_and_leaves_no_path(folder, refused, option, kind):
    path = folder / "app.sock"
    reason = refused("--listen", f"unix://{path}", option, "nobody-of-that-name")
    assert reason.endswith(f"no {kind} 'nobody-of-that-name'")
    assert not path.exists()


def test_after_a_kill_the_path_is_stale_and_replaced(subject, start, folder):
    path = folder / "app.sock"
    one = subject(f"unix://{path}")
    one.service.expected_exits.add(-signal.SIGKILL)
    one.service.send(signal.SIGKILL)
    one.service.wait_end()
    assert path.exists()
    with pytest.raises(ConnectionRefusedError):
        Connection(str(path))
    two = Subject(start, folder, listen=[f"unix://{path}"])
    assert ask(str(path)).pid == two.pid


def drop_and_die(one, folder):
    """Asks for a successor that wants a alone, and dies as soon as the gate lets it."""
    one.configure("--listen", f"a={TCP}", "--behave", f"serve:gate:{folder}/gate",
                  "--behave", "serve:exit:1")
    mark = one.ask()
    one.log.wait_for("gate", since=mark)
    return mark


def test_a_listener_taken_back_is_bound_again(subject, folder):
    """The successor drops a listener and dies: whoever serves again listens on it again."""
    port, path = free_port(), folder / "app.sock"
    one = subject(f"a={TCP}", f"b=tcp://127.0.0.1:{port}", f"c=unix://{path}",
                  options=["--probation", 20000])
    first = one.pid
    os.mkfifo(folder / "gate")
    with gate(folder) as go:
        mark = drop_and_die(one, folder)
        eventually(lambda: len(one.log.find("listener_dropped")), 2)
        with pytest.raises(ConnectionRefusedError):
            Connection(("127.0.0.1", port))
        go()
        one.log.wait_for("resume", since=mark)
    for address in (one.address("a"), ("127.0.0.1", port), str(path)):
        assert ask(address).pid == first
    one.service.stop()
    assert not path.exists()


def test_a_client_in_the_queue_of_a_closed_listener_is_reset(subject, folder):
    """The one hole that closing a listener has: who completes its handshake after the queue was
    emptied. Here: nobody does, and who comes after the close is refused and not left hanging."""
    one = subject(f"a={TCP}", f"b={TCP}")
    removed = one.address("b")
    listen(one, f"a={TCP}")
    one.ask()
    outcomes = set()
    while "refused" not in outcomes:
        try:
            with Connection(removed) as connection:
                connection.get()
                outcomes.add("answered")
        except Closed:
            outcomes.add("reset")
        except ConnectionResetError:
            outcomes.add("reset")
        except ConnectionRefusedError:
            outcomes.add("refused")
    assert outcomes <= {"answered", "reset", "refused"}
    eventually(lambda: len(one.service.running), 1)


def test_an_address_that_somebody_has_taken_meanwhile_is_told_and_the_rest_serves_again(subject, folder):
    port = free_port()
    one = subject(f"a={TCP}", f"b=tcp://127.0.0.1:{port}", options=["--probation", 20000])
    first = one.pid
    os.mkfifo(folder / "gate")
    with gate(folder) as go:
        mark = drop_and_die(one, folder)
        one.log.wait_for("listener_dropped", since=mark)
        with socket.create_server(("127.0.0.1", port)):
            go()
            warning = one.log.wait_for("warning", since=mark, pid=first)
            assert warning["reason"].startswith("listener b could not be bound again: ")
            one.log.wait_for("resume", since=mark)
            assert ask(one.address("a")).pid == first


def test_a_listener_that_a_younger_generation_drops_is_let_go_by_all(subject):
    """Two that drain hold it as well: while one of them did, the kernel would queue its clients."""
    port = free_port()
    one = subject(f"a={TCP}", f"b=tcp://127.0.0.1:{port}")
    with contextlib.ExitStack() as held:
        pids = []
        for generation in (1, 2):
            pids.append(one.pid)
            busy = held.enter_context(Connection(one.address("a")))
            # One segment: the answer to its first request says that all of it has been read.
            busy.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
            if generation == 2:
                listen(one, f"a={TCP}")
            one.ask()
            one.service.wait_generation(generation + 1)
        for pid in pids:
            one.log.wait_for("listener_dropped", pid=pid, where=lambda event: event["name"] == "b")
        with pytest.raises(ConnectionRefusedError):
            while True:
                Connection(("127.0.0.1", port)).close()
