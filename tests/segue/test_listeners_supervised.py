"""Listeners under `segue run`: those of --listen, which the supervisor holds for ever, and those that
the program binds itself, which it passes up: added, removed, moved and renamed by a new version.
"""

import os
import re
import signal
import socket
import stat

import pytest

from functional import HOLD, asking, eventually, free_port
from harness import processes
from harness.http import Connection, get
from harness.service import parse
from scenes import SERVER, Run, gate
from turns import ask

TCP = "tcp://127.0.0.1:0"


def inode(port):
    """The inode of what listens on a port of 127.0.0.1, for 'it is the same socket'."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    found = [row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"]
    assert len(found) == 1
    return found[0]


class Own:
    """The test server with listeners of its own, which a new version may have others of."""

    def __init__(self, supervise, folder, *listens, workers=2, options=()):
        self.config = folder / "config"
        self.listen(*listens)
        self.service = supervise("--workers", workers, *options, program=SERVER, listen=None,
                                 arguments=["--config", self.config])
        self.log = self.service.log

    def listen(self, *listens, behave=()):
        """Of the next generation."""
        words = [word for listen in listens for word in ("--listen", listen)]
        words += [word for one in behave for word in ("--behave", one)]
        self.config.write_text("".join(f"{word}\n" for word in words))

    def upgrade(self, *listens):
        """To a version with these listeners; the pids of its workers."""
        self.listen(*listens)
        answer = self.service.upgrade()
        assert answer.end["cut"] == 0
        return {worker["pid"] for worker in self.service.workers(answer.end["generation"])}

    def held(self):
        """What the supervisor holds: {name: address}."""
        listeners = self.service.status()["listeners"]
        assert len({one["name"] for one in listeners}) == len(listeners)
        return {one["name"]: parse(one["address"]) for one in listeners}

    def listening(self):
        """What each process of the service listens on, but for the control socket: the supervisor,
        then every worker."""
        pids = [self.service.pid, *(worker["pid"] for worker in self.service.workers())]
        control = f"unix://{self.service.control}"
        return [[one for one in processes.listening(pid) if one != control] for pid in pids]


@pytest.fixture
def own(supervise, folder):
    return lambda *listens, **more: Own(supervise, folder, *listens, **more)


def agree(found):
    """The one thing that all are."""
    assert all(one == found[0] for one in found), found
    return found[0]


# The program's own: added, removed, moved, renamed.


def test_a_listener_is_bound_once_for_all_workers_and_generations(own):
    one = own(f"a={TCP}", workers=3)
    port = one.held()["a"][1]
    before = inode(port)
    with asking(one.held()["a"]) as clients:
        for _ in range(5):
            one.upgrade(f"a={TCP}")
            assert agree(one.listening()) == [f"tcp://127.0.0.1:{port}"]
            clients.wait_more(2)
    assert inode(port) == before


def test_an_added_listener_serves_after_the_upgrade_in_every_worker(own):
    one = own(f"a={TCP}")
    first = one.held()["a"]
    with asking(first) as clients:
        second = one.upgrade(f"a={TCP}", f"b={TCP}")
        assert one.held()["a"] == first and set(one.held()) == {"a", "b"}
        with asking(one.held()["b"]) as others:
            others.wait_more()
        assert others.pids() <= second
        assert len(agree(one.listening())) == 2
        clients.wait_more()


def test_a_removed_listener_is_closed_everywhere_and_its_queue_served(own, folder):
    """Whoever has connected is served, the one that still waits in the queue too; who comes later
    is refused, since nobody listens. The other one, that has port 0 as well, is not touched."""
    one = own(f"a={TCP}", f"b={TCP}")
    removed = one.held()["b"]
    firsts = {worker["pid"] for worker in one.service.workers()}
    with gate(folder) as go, Connection(removed) as kept, asking(one.held()["a"]) as clients:
        assert kept.get().pid in firsts
        one.listen(f"a={TCP}", behave=[f"listen:gate:{folder}/gate"])
        client = one.service.popen("upgrade", "--json")
        one.log.wait_for("gate")
        predecessors = [one.service.process(pid) for pid in firsts]
        for predecessor in predecessors:
            predecessor.stop()
        # In the queue of processes that are stopped, and which find RETIRE when they go on.
        with Connection(removed) as queued:
            queued.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            go()
            go()
            one.service.wait_generation(2)
            for predecessor in predecessors:
                predecessor.go_on()
            queued.response()
            client.communicate(timeout=30)
            assert client.returncode == 0
            seconds = {worker["pid"] for worker in one.service.workers()}
            # Its connections live on, only the address is gone.
            assert queued.get().pid in seconds and kept.get().pid in seconds
        clients.wait_more()
    dropped = one.log.find("listener_dropped")
    assert {(event["pid"], event["name"]) for event in dropped} == {(pid, "b") for pid in firsts}
    with pytest.raises(ConnectionRefusedError):
        Connection(removed)
    assert set(one.held()) == {"a"} and len(agree(one.listening())) == 1


def test_a_listener_that_was_removed_can_come_back(own):
    port = free_port()
    one = own(f"a={TCP}", f"b=tcp://127.0.0.1:{port}")
    one.upgrade(f"a={TCP}")
    with pytest.raises(ConnectionRefusedError):
        Connection(("127.0.0.1", port))
    third = one.upgrade(f"a={TCP}", f"b=tcp://127.0.0.1:{port}")
    assert get(("127.0.0.1", port)).pid in third


def test_a_listener_moved_to_another_port_is_a_new_binding(own):
    old, new = free_port(), free_port()
    one = own(f"web=tcp://127.0.0.1:{old}")
    with Connection(("127.0.0.1", old)) as kept:
        kept.get()
        second = one.upgrade(f"web=tcp://127.0.0.1:{new}")
        assert get(("127.0.0.1", new)).pid in second
        assert kept.get().pid in second
    with pytest.raises(ConnectionRefusedError):
        Connection(("127.0.0.1", old))
    assert agree(one.listening()) == [f"tcp://127.0.0.1:{new}"]
    assert one.held() == {"web": ("127.0.0.1", new)}


def test_a_renamed_listener_is_the_same_socket(own):
    port = free_port()
    one = own(f"old=tcp://127.0.0.1:{port}")
    before = inode(port)
    with asking(("127.0.0.1", port)) as clients:
        one.upgrade(f"new=tcp://127.0.0.1:{port}")
        clients.wait_more()
        # By the next one it is found under that name as well.
        one.upgrade(f"new=tcp://127.0.0.1:{port}")
        clients.wait_more()
        assert list(one.held().values()) == [("127.0.0.1", port)]
    assert inode(port) == before
    assert not one.log.find("listener_dropped") and not one.log.find("dropped")


def test_two_listeners_can_exchange_their_names(own):
    a, b = free_port(), free_port()
    one = own(f"x=tcp://127.0.0.1:{a}", f"y=tcp://127.0.0.1:{b}")
    before = inode(a), inode(b)
    with asking(("127.0.0.1", a)), asking(("127.0.0.1", b)):
        for _ in range(2):
            mark = one.log.mark()
            one.upgrade(f"y=tcp://127.0.0.1:{a}", f"x=tcp://127.0.0.1:{b}")
            told = {(event["name"], parse(event["address"])[1])
                    for event in one.log.find("listener", since=mark)}
            assert told == {("y", a), ("x", b)}
    assert (inode(a), inode(b)) == before
    assert not one.log.find("dropped")


def test_a_failed_upgrade_takes_with_it_what_it_had_bound(own, folder):
    """Path and port of the added ones are free again, and the next attempt can have them. A path
    that nobody has been told of stays behind, as that of any program that dies, and is replaced."""
    port, path = free_port(), folder / "second.sock"
    more = (f"a={TCP}", f"b=tcp://127.0.0.1:{port}", f"c=unix://{path}")
    one = own(f"a={TCP}")
    held = one.held()
    for behaviour in ("listen:exit:1", "ready:signal:9"):
        one.listen(*more, behave=[behaviour])
        answer = one.service.ask("upgrade")
        assert answer.code == 1, answer
        assert one.held() == held
        assert path.exists() == (behaviour == "listen:exit:1")
        with pytest.raises(ConnectionRefusedError):
            Connection(("127.0.0.1", port))
    pids = one.upgrade(*more)
    assert get(("127.0.0.1", port)).pid in pids and get(str(path)).pid in pids


def test_every_generation_may_have_another_listener(own):
    """Nothing of the earlier ones is left, with the supervisor or with a worker."""
    one = own(f"a={TCP}", "n0=tcp://127.0.0.1:0")
    fresh = len(processes.descriptors(one.service.pid))
    with asking(one.held()["a"]) as clients:
        for number in range(1, 21):
            one.upgrade(f"a={TCP}", f"n{number}=tcp://127.0.0.1:0")
            assert set(one.held()) == {"a", f"n{number}"}
            assert len(agree(one.listening())) == 2
        clients.wait_more()
    eventually(lambda: len(processes.descriptors(one.service.pid)), fresh)


def test_a_generation_that_serves_again_has_the_listeners_that_it_had(own, folder):
    """Its successor had dropped some and bound another, and crashes while it drains still."""
    path, port = folder / "app.sock", free_port()
    before = (f"a={TCP}", f"b={TCP}", f"c=unix://{path}")
    one = own(*before, workers=1)
    held = one.held()
    (first,) = one.service.workers()
    mode = os.stat(path).st_mode
    with Connection(held["b"]) as busy:
        # One segment: the answer to its first request says that all of it has been read.
        busy.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        one.listen(f"a={TCP}", f"d=tcp://127.0.0.1:{port}")
        assert ask(one.service) == 2
        for name in ("b", "c"):
            one.log.wait_for("listener_dropped", pid=first["pid"],
                             where=lambda event, name=name: event["name"] == name)
        assert set(one.held()) == {"a", "d"} and not path.exists()
        (second,) = one.service.workers(2)
        one.service.expected_exits.add(-signal.SIGKILL)
        mark = one.log.mark()
        one.service.process(second["pid"]).send(signal.SIGKILL)
        one.log.wait_for("resume", since=mark, pid=first["pid"])
        resumed = one.log.wait_for("resumed", since=mark)
        assert "generation 2 failed after it had served: it was killed by signal 9" in resumed["text"]
        assert one.held() == held
        assert os.stat(path).st_mode == mode
        for address in held.values():
            assert get(address).pid == first["pid"]
        with pytest.raises(ConnectionRefusedError):
            Connection(("127.0.0.1", port))
        assert busy.send(b"y").response().pid == first["pid"]
    third = one.upgrade(*before)
    assert one.held() == held
    for address in held.values():
        assert get(address).pid in third


def test_an_address_that_somebody_has_taken_meanwhile_is_bound_again_when_it_is_free(own):
    """Its generation had it, a successor that crashed had dropped it, and another program was quicker."""
    b = f"b=tcp://127.0.0.1:{free_port()}"
    one = own(f"a={TCP}", b, workers=1)
    held = one.held()
    (first,) = one.service.workers()
    with Connection(held["a"]) as busy:
        busy.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
        one.listen(f"a={TCP}")
        assert ask(one.service) == 2
        one.log.wait_for("listener_dropped", pid=first["pid"])
        (second,) = one.service.workers(2)
        one.log.wait_for("serving", pid=second["pid"])  # It has closed its copy of what it does not want.
        with socket.create_server(held["b"]):
            one.service.expected_exits.add(-signal.SIGKILL)
            one.service.process(second["pid"]).send(signal.SIGKILL)
            warning = one.log.wait_for("warning", where=lambda event: event.get("service"))
            assert warning["text"].startswith("listener b could not be bound again: ")
            assert warning["text"].endswith("; it is tried again")
            assert set(one.held()) == {"a"}
        one.log.wait_for("rebound")
        assert one.held() == held
        assert get(held["b"]).pid == first["pid"]
        assert busy.send(b"y").response().pid == first["pid"]
    one.upgrade(f"a={TCP}", b)
    assert one.held() == held


def test_a_program_of_the_module_listens_again_on_what_it_gets_back_late(supervise, build):
    """It has said before that it serves again, and does not say so twice."""
    a, b = (("127.0.0.1", free_port()) for _ in range(2))
    words = ["--listen", f"a={a[0]}:{a[1]}"]
    one = supervise("--drain-timeout", "1h", listen=None, own_listen=(words[1], f"b={b[0]}:{b[1]}"))
    one.expected_exits = {0, -signal.SIGKILL}
    (first,) = one.workers()
    with Connection(a) as busy:
        busy.send(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        hello = [build.program("hello"), *words, "--log-format", "json"]
        assert one.ask("upgrade", "--no-wait", "--", *hello).code == 0
        one.log.wait_for("unlisten", pid=first["pid"], listener="b")
        (second,) = one.workers(2)
        one.log.wait_for("serving", pid=second["pid"])  # It has closed its copy of what it does not want.
        with socket.create_server(b):
            one.send(signal.SIGKILL, second["pid"])
            one.log.wait_for("resumed", pid=first["pid"])
        one.log.wait_for("relistening", pid=first["pid"])
        assert get(b).pid == get(a).pid == first["pid"]
        assert len([event for event in one.log.find("resumed") if not event.get("service")]) == 1
        assert busy.send(b"y").response().status == 200


# Those of the supervisor.


@pytest.mark.parametrize("address", ["tcp", "unix"])
def test_clients_wait_while_no_worker_lives_and_are_answered_then(supervise, folder, address):
    """Killed, all of them, and the next ones are held at a gate: connections are taken by nobody
    and refused by nobody."""
    listen = TCP if address == "tcp" else f"unix://{folder}/s"
    one = Run(supervise, folder, "--workers", 2, listen=[f"http={listen}"])
    one.behave(f"start:gate:{folder}/gate")
    before = one.pids()
    with gate(folder) as go:
        one.service.expected_exits.add(-signal.SIGKILL)
        for pid in before:
            one.process(pid).send(signal.SIGKILL)
        for pid in before:
            one.log.wait_for("worker", pid=pid, to="gone")
            one.log.wait_for("gate", where=lambda event: event["pid"] not in before)
        waiting = [Connection(one.address) for _ in range(20)]
        try:
            for connection in waiting:
                connection.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not one.log.find("serving", since=one.log.mark())
            assert all(connection.is_idle() for connection in waiting)
            go()
            go()
            pids = {connection.response().pid for connection in waiting}
        finally:
            for connection in waiting:
                connection.close()
    assert not pids & set(before) and pids <= set(one.pids())
    assert one.service.status()["restarts"] == 2


def test_a_listener_of_the_supervisor_stays_though_a_version_does_not_want_it(supervise, folder):
    """Which one is wanted is for the operator to say, not for a version that happens to run. Clients
    of it wait; the next version that wants it answers them."""
    config = folder / "config"
    config.write_text("--passed\nyes\n")
    service = supervise("--workers", 2, program=SERVER, arguments=["--config", config],
                        listen=(f"a={TCP}", f"b={TCP}"))
    held = service.status()["listeners"]
    ports = {one["name"]: parse(one["address"]) for one in held}
    before = {name: inode(port) for name, (_, port) in ports.items()}
    config.write_text(f"--listen\na={TCP}\n")
    answer = service.ask("upgrade")
    assert answer.code == 1, answer
    assert "b" in answer.message, answer
    config.write_text("--passed\nyes\n")
    service.upgrade()
    for name, address in ports.items():
        assert get(address).status == 200
        assert inode(address[1]) == before[name]
    assert service.status()["listeners"] == held


def test_port_0_keeps_its_port_over_upgrades(supervise):
    service = supervise("--workers", 2, listen=(f"a={TCP}", f"b={TCP}", TCP), program="hello")
    held = [(one["name"], parse(one["address"])) for one in service.status()["listeners"]]
    assert len({address for _, address in held}) == 3
    before = [inode(port) for _, (_, port) in held]
    for generation in range(2, 7):
        service.upgrade()
        assert [get(address).generation for _, address in held] == [generation] * 3
    assert [(one["name"], parse(one["address"])) for one in service.status()["listeners"]] == held
    assert [inode(port) for _, (_, port) in held] == before


def test_a_port_alone_is_both_families_and_all_interfaces(supervise):
    port = free_port()
    service = supervise("--workers", 2, listen=(f":{port}",))
    with_ipv4, with_ipv6 = ("127.0.0.1", port), ("::1", port)
    for generation in (1, 2):
        assert get(with_ipv4).generation == get(with_ipv6).generation == generation
        if generation == 1:
            service.upgrade()


def test_a_udp_listener_answers_through_upgrades(supervise, folder):
    """A datagram that comes while nobody reads waits in the socket's queue."""
    service = supervise("--workers", 2, program=SERVER, arguments=("--passed", "yes"),
                        listen=("dns=udp://127.0.0.1:0",))
    (listener,) = service.status()["listeners"]
    port = int(re.fullmatch(r"udp://127.0.0.1:(\d+)", listener["address"])[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        for generation in range(1, 5):
            client.send(b"who?")
            number, pid = map(int, client.recv(100).split())
            assert number == generation
            assert pid in [worker["pid"] for worker in service.workers(generation)]
            service.upgrade()


# Unix paths.


def unix(supervise, folder, whose):
    path = folder / "app.sock"
    if whose == "supervisor":
        return path, supervise("--workers", 2, listen=(f"unix://{path}",))
    return path, supervise("--workers", 2, listen=None, own_listen=(f"unix://{path}",))


@pytest.mark.parametrize("whose", ["supervisor", "program"])
def test_a_unix_path_is_there_until_the_final_stop(supervise, folder, whose):
    path, service = unix(supervise, folder, whose)
    born = os.stat(path).st_ino
    for generation in range(2, 12):
        service.upgrade()
        assert os.stat(path).st_ino == born and stat.S_ISSOCK(os.stat(path).st_mode)
        assert get(str(path)).generation == generation
    service.stop()
    assert not path.exists()


@pytest.mark.parametrize("whose", ["supervisor", "program"])
def test_a_foreign_file_at_the_path_is_not_removed(supervise, folder, whose):
    path, service = unix(supervise, folder, whose)
    path.unlink()
    path.write_text("someone else's")
    service.upgrade()
    service.stop()
    assert path.read_text() == "someone else's"


def test_a_dropped_path_is_removed_at_the_upgrade(own, folder):
    path = folder / "app.sock"
    one = own(f"a={TCP}", f"b=unix://{path}")
    with Connection(str(path)) as kept:
        kept.get()
        second = one.upgrade(f"a={TCP}")
        assert not path.exists()
        assert kept.get().pid in second


@pytest.mark.parametrize("whose", ["supervisor", "program"])
def test_a_stale_path_is_replaced_at_start(supervise, folder, whose):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "app.sock"))
        dead.listen()
    path, _ = unix(supervise, folder, whose)
    assert get(str(path)).generation == 1


ALIVE = "another program listens there; stop it or choose another path"


@pytest.mark.parametrize("whose", ["supervisor", "program"])
@pytest.mark.parametrize("full", [False, True], ids=["answers", "full-backlog"])
def test_a_live_path_is_refused_at_start(supervise, folder, whose, full):
    path = folder / "app.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0 if full else 5)
        if full:
            client.connect(str(path))
        place = {"supervisor": {"listen": (f"unix://{path}",)},
                 "program": {"listen": None, "own_listen": (f"unix://{path}",)}}
        service = supervise(wait=False, **place[whose])
        # A worker that has said that it fails may be killed while it leaves.
        service.expected_exits = {1, -signal.SIGKILL}
        service.log.wait_for_line(re.escape(ALIVE))
        service.wait_end()
        assert service.exit_codes[service.pid] == 1
        assert path.exists()


def test_a_file_at_the_path_is_left_alone_at_start(supervise, folder):
    path = folder / "app.sock"
    path.write_text("mine")
    service = supervise(wait=False, listen=(f"unix://{path}",))
    service.expected_exits = {1}
    service.log.wait_for_line("the path exists and is not a socket; it is left alone")
    service.wait_end()
    assert path.read_text() == "mine"
