"""Live connections on their way: each has one owner, who alone answers; nothing is taken back by time,
and what nobody could take stays and is served where it was.
"""

import collections
import os
import pathlib
import random
import signal
import stat
import subprocess
import time

import pytest

from harness import processes
from matrix.service import PROGRAM, Closed, actor, kinds, pause, wait_until  # noqa: F401, a fixture

CONNECTION_MAX = 61440
RECORD = 48  # the actor's connection record, without its padding
BATCH = 64
WINDOW = 4  # batches that may be without an answer


def connect(actor, count, name="c"):
    return [actor.connect(f"{name}{at}") for at in range(count)]


def generations(clients):
    """How many of the clients were answered by which generation; each answers once."""
    found = collections.Counter()
    for client in clients:
        found[client.again().ask().generation] += 1
        assert client.silent()
    return dict(found)


def adopted(actor, since=0, **fields):
    return {event["client"] for event in actor.log.find("adopted", since=since, **fields)}


def taken(actor, since=0, **fields):
    return {event["client"] for event in actor.log.find("taken", since=since, **fields)}


# Verdicts.


def test_idle_connections_are_taken_and_answered_by_the_successor(actor):
    actor.start()
    clients = connect(actor, 100)
    before = actor.service.pid
    actor.service.upgrade()
    actor.service.wait_exit(before)
    assert generations(clients) == {2: 100}
    assert not actor.log.find("kept")


def test_a_successor_that_cannot_read_the_records_leaves_connections_where_they_are(actor):
    actor.start()
    clients = connect(actor, 20)
    actor.order("*", "record-min", 2).order("*", "record-max", 3)
    first = actor.service.serving
    actor.service.upgrade()
    kept = actor.log.wait_for("kept", generation=1)
    assert "cannot read connection records of version 1" in kept["reason"]
    assert generations(clients) == {1: 20}
    assert generations([actor.connect()]) == {2: 1}
    for client in clients:
        client.close()
    actor.service.wait_exit(first.pid)
    assert not adopted(actor)


def test_a_range_that_has_the_version_is_readable(actor):
    actor.start()
    clients = connect(actor, 5)
    actor.order("*", "record-min", 0).order("*", "record-max", 7)
    actor.service.upgrade()
    assert generations(clients) == {2: 5}


def test_a_batch_that_does_not_fit_stays_with_the_predecessor_as_a_whole(actor):
    actor.start()
    clients = connect(actor, 100)
    actor.order("2", "room", 45)
    first = actor.service.serving
    successor = actor.service.upgrade()["pid"]
    actor.log.wait_for("warning", generation=2)
    found = generations(clients)
    assert found == {1: BATCH, 2: 100 - BATCH}
    declined = actor.log.find("kept", generation=1)
    assert len(declined) == BATCH
    assert {event["reason"] for event in declined} == {os.strerror(24)}
    # What had come of the batch before the limit is not kept open.
    asking = actor.connect()
    count = [name for name in kinds(successor).elements() if name == "socket:[N]"]
    assert asking.ask().generation == 2
    assert len(count) <= 1 + 2 + (100 - BATCH) + 1
    for client in clients:
        client.close()
    actor.service.wait_exit(first.pid)


def test_what_was_kept_moves_with_the_upgrade_after_the_successors_death(actor):
    actor.start()
    clients = connect(actor, 70)
    actor.order("2", "room", 20)
    first = actor.service.serving
    second = actor.service.process(actor.service.upgrade()["pid"])
    for client in clients:
        wait_until(
            lambda name=client.name: actor.log.find("kept", client=name) or name in taken(actor),
            client.name,
            client.again().ask,
        )
    lost = taken(actor)
    second.send(signal.SIGKILL)
    actor.log.wait_for("resume", generation=1)
    actor.order("2", "room", "-")
    alive = [client for client in clients if client.name not in lost]
    assert len(alive) >= BATCH
    assert generations(alive) == {1: len(alive)}
    actor.service.upgrade()
    actor.service.wait_exit(first.pid)
    assert generations(alive) == {2: len(alive)}
    actor.service.expected_exits.add(-signal.SIGKILL)


# What a connection carries.


@pytest.mark.parametrize("length", [0, 1, 255, 4096, 40000, CONNECTION_MAX - RECORD])
def test_unread_bytes_travel(actor, length):
    actor.start()
    client = actor.connect("carrier")
    asking = actor.connect("asking")
    if length:
        client.sent += 1
        client.raw(f"{client.sent} ping".ljust(length).encode()[:length])
    wait_until(
        lambda: asking.ask("buffered carrier").text == str(length), "the bytes", lambda: None
    )
    before = actor.service.pid
    actor.service.upgrade()
    actor.service.wait_exit(before)
    assert actor.log.wait_for("adopted", client="carrier")["bytes"] == length
    if length == 1:
        client.raw(b" ping")
    answer = client.raw(b"\n").read() if length else client.ask()
    assert answer.generation == 2
    assert client.silent()


def test_one_byte_more_than_the_limit_stays(actor):
    actor.start()
    client = actor.connect("carrier")
    asking = actor.connect("asking")
    length = CONNECTION_MAX - RECORD + 1
    client.sent += 1
    client.raw(f"{client.sent} ping".ljust(length).encode())
    wait_until(
        lambda: asking.ask("buffered carrier").text == str(length), "the bytes", lambda: None
    )
    before = actor.service.pid
    actor.service.upgrade()
    assert "carries more than 61440 bytes" in actor.log.wait_for("kept", client="carrier")["reason"]
    assert client.raw(b"\n").read().generation == 1
    # Idle again, and small: the actor tries no second time.
    client.close()
    actor.service.wait_exit(before)
    assert asking.ask().generation == 2


@pytest.mark.parametrize("padding, generation", [(CONNECTION_MAX - RECORD, 2), (CONNECTION_MAX - RECORD + 1, 1)])
def test_a_record_travels_up_to_the_limit(actor, padding, generation):
    actor.start()
    client = actor.connect("carrier")
    client.ask(f"record {padding}")
    actor.service.upgrade()
    actor.log.wait_for("taken" if generation == 2 else "kept", client="carrier")
    assert client.ask().generation == generation
    assert not actor.log.find("damaged")
    client.close()


def test_large_connections_fill_a_message_each(actor):
    actor.start()
    clients = connect(actor, 40)
    for client in clients:
        client.sent += 1
        client.raw(f"{client.sent} ping".ljust(60000).encode())
    with_all = actor.connect("asking")
    for client in clients:
        wait_until(
            lambda name=client.name: with_all.again().ask(f"buffered {name}").text == "60000",
            client.name,
            lambda: None,
        )
    before = actor.service.pid
    actor.service.upgrade()
    actor.service.wait_exit(before)
    for client in clients:
        assert client.again().raw(b"\n").read().generation == 2
        assert client.silent()


# Many.


def test_5000_connections_move_in_batches(actor):
    actor.start()
    clients = connect(actor, 5000)
    before = actor.service.pid
    began = time.monotonic()
    actor.service.upgrade()
    actor.service.wait_exit(before, 60)
    print(f"{(time.monotonic() - began) * 1e6 / 5000:.1f} us for each connection, the start included")
    assert generations(clients) == {2: 5000}
    assert len(adopted(actor, generation=2)) == 5000


def fds_in_flight(pid):
    """The largest number of descriptors that wait in one unix socket of a process."""
    largest = 0
    for number in processes.descriptors(pid):
        text = pathlib.Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="ascii")
        for line in text.splitlines():
            if line.startswith("scm_fds:"):
                largest = max(largest, int(line.split()[1]))
    return largest


def everyone_may_run(path):
    """Can a user without rights execute it?"""
    for parent in [path, *path.parents]:
        if not parent.stat().st_mode & stat.S_IXOTH:
            return False
    return True


# Sends itself 240 descriptors and reads none of them until its input ends.
HOARDER = """
import array, os, socket, sys
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for _ in range(4):
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 60))])
print("ready", flush=True)
sys.stdin.read()
"""


def without_rights(actor, build):
    """What to start a program by, so that the limit of descriptors in flight holds for it: who has
    CAP_SYS_RESOURCE or CAP_SYS_ADMIN has none. A user of its own, since all of a user's count."""
    if os.geteuid() != 0:
        return []
    if not everyone_may_run(build.program(PROGRAM).resolve()):
        pytest.skip("another user cannot run the build")
    user = 60000 + os.getpid() % 5000
    os.chown(actor.folder, user, user)
    rights = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *rights]


def test_the_limit_of_descriptors_in_flight_is_survived(actor, build):
    actor.order(1, "drain-nofile", 100)
    actor.start(before=without_rights(actor, build))
    clients = connect(actor, 300)
    held = actor.hold(2, "ready-hold")
    first = actor.service.serving
    actor.upgrade()
    successor = held.wait()["pid"]
    actor.log.wait_for("drain", generation=1)
    wait_until(lambda: fds_in_flight(successor) >= 2 * BATCH, "two batches in flight", lambda: None)
    assert fds_in_flight(successor) < 3 * BATCH
    assert not actor.log.find("taken")
    held.release()
    actor.service.wait_exit(first.pid)
    assert generations(clients) == {2: 300}


def test_descriptors_in_flight_of_another_program_are_waited_for(actor, build):
    """No answer to a batch of our own comes then, which could be the sign to go on."""
    before = without_rights(actor, build)
    actor.order(1, "drain-nofile", 100)
    actor.start(before=before)
    clients = connect(actor, 100)
    held = actor.hold(2, "start-hold")
    first = actor.service.serving
    actor.upgrade()
    held.wait()
    # The limit that the predecessor has in its drain is passed by this alone.
    command = [*before, "/usr/bin/python3", "-c", HOARDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hoarder:
        assert hoarder.stdout.readline() == b"ready\n"
        held.release()
        actor.service.wait_generation(2)
        actor.log.wait_for("drain", generation=1)
        actor.read_log()
        assert not actor.log.find("taken") and not actor.log.find("kept")
        hoarder.stdin.close()
        hoarder.wait()
    actor.service.wait_exit(first.pid)
    assert generations(clients) == {2: 100}
    assert not actor.log.find("kept")


# A successor that stands still.


@pytest.mark.parametrize("how", ["held", "stopped"])
def test_nothing_is_taken_back_by_time_and_the_drain_deadline_cuts_the_rest(actor, how):
    actor.order("*", "drain-timeout", 1000)
    actor.start()
    in_flight = WINDOW * BATCH
    clients = connect(actor, in_flight + 40)
    held = actor.hold(2, "ready-hold")
    first = actor.service.serving
    actor.upgrade()
    successor = actor.service.process(held.wait()["pid"])
    if how == "stopped":
        successor.stop()
    actor.log.wait_for("drain", generation=1)
    actor.wait_state("drained", 1)
    closed = actor.log.wait_for("closed", generation=1)
    assert closed["connections"] == 40
    assert len(taken(actor, generation=1)) == in_flight
    assert len(actor.log.find("kept", generation=1)) == 40
    held.release()
    successor.go_on()
    actor.service.wait_exit(first.pid)
    alive = taken(actor, generation=1)
    for client in clients:
        if client.name in alive:
            assert client.again().ask().generation == 2
            assert client.silent()
        else:
            with pytest.raises(Closed):
                client.again().ask()
    assert adopted(actor, generation=2) == alive


def test_what_was_in_flight_to_a_dead_successor_comes_back(actor):
    actor.start()
    clients = connect(actor, WINDOW * BATCH + 40)
    held = actor.hold(2, "ready-hold")
    actor.upgrade()
    successor = actor.service.process(held.wait()["pid"])
    actor.log.wait_for("drain", generation=1)
    successor.stop()
    successor.send(signal.SIGKILL)
    actor.log.wait_for("resume", generation=1)
    assert generations(clients) == {1: len(clients)}
    held.release()
    actor.service.upgrade()
    assert generations(clients) == {2: len(clients)}
    actor.service.expected_exits.add(-signal.SIGKILL)


def test_what_was_in_flight_from_a_dead_predecessor_arrives(actor):
    actor.start()
    in_flight = WINDOW * BATCH
    clients = connect(actor, in_flight + 40)
    held = actor.hold(2, "ready-hold")
    actor.upgrade()
    held.wait()
    first = actor.service.first
    actor.log.wait_for("drain", generation=1)
    wait_until(
        lambda: fds_in_flight(held.wait()["pid"]) == in_flight, "the batches", lambda: None
    )
    first.send(signal.SIGKILL)
    first.wait()
    held.release()
    alive = 0
    for client in clients:
        try:
            assert client.again().ask().generation == 2
            alive += 1
        except Closed:
            continue
    assert alive == in_flight
    assert len(adopted(actor, generation=2)) == in_flight
    actor.service.expected_exits.add(-signal.SIGKILL)


# Kills at any moment.

CONNECTIONS = 200


class Killing:
    """Runs of an upgrade with 200 connections, with a kill at a random moment of it."""

    def __init__(self, actor, seed):
        self.actor = actor
        self.random = random.Random(seed)
        self.number = 0
        self.outcomes = collections.Counter()
        self.start()
        self.fresh = kinds(actor.service.pid)
        began = time.monotonic()
        before = actor.service.serving
        actor.service.upgrade()
        before.wait()
        self.span = time.monotonic() - began

    def start(self):
        # The leak sanitizer calls it a finding when it is killed at its work.
        leaks = os.environ["ASAN_OPTIONS"] + ":detect_leaks=0"
        self.actor.start(pid_file=self.actor.folder / "pid", env={"ASAN_OPTIONS": leaks})

    def clients(self):
        return connect(self.actor, CONNECTIONS, f"r{self.number}-")

    def run(self):
        actor, service = self.actor, self.actor.service
        self.number += 1
        clients = self.clients()
        mark = actor.log.mark()
        first = service.serving
        name = self.random.choice(["predecessor", "successor"])
        delay = self.random.uniform(0, 0.7 * self.span)
        from_drain = self.random.random() < 0.6
        actor.upgrade()
        second = actor.successor(since=mark)
        if from_drain:
            # The move itself takes a small part of the time.
            actor.log.wait_for("drain", since=mark, pid=first.pid)
            delay = self.random.uniform(0, 0.006)
        for client in clients[::2]:
            client.send("ping")
        victim = first if name == "predecessor" else second
        if not pause(victim, delay):
            name, victim = "nobody", None
        else:
            victim.send(signal.SIGKILL)
            victim.wait()
        self.judge(clients, mark, name, first, second)

    def survivor(self, mark, name, first, second):
        """Who serves after that; None where the predecessor had left before the successor died."""
        if name != "successor":
            survivor = second
        else:
            survivor = first
            wait_until(
                lambda: first.ended
                or self.actor.log.find("state", since=mark, pid=first.pid, to="serving"),
                f"{first} to serve again, or to end",
                lambda: pause(first, 0.01),
            )
            if first.ended:
                return None
        self.actor.log.wait_for("state", since=mark, pid=survivor.pid, to="serving")
        return survivor

    def judge(self, clients, mark, name, first, second):
        survivor = self.survivor(mark, name, first, second)
        lost = []
        for at, client in enumerate(clients):
            try:
                if at % 2 == 0:
                    client.again().read()
                answer = client.again().ask()
                assert survivor is not None and answer.pid == survivor.pid
                assert client.silent()
            except Closed:
                lost.append(client.name)
        if survivor is None:
            self.actor.service.wait_end()
            self.actor.service.expected_exits.add(-signal.SIGKILL)
        else:
            self.actor.read_log()
        moved = adopted(self.actor, since=mark, pid=second.pid)
        acknowledged = taken(self.actor, since=mark, pid=first.pid)
        if name == "predecessor":
            assert not set(lost) & moved, "connections of the successor were lost"
        elif name == "successor":
            assert set(lost) <= acknowledged, "connections of the predecessor were lost"
        else:
            assert not lost
        self.outcomes[name, "lost" if lost else "none lost", "moved" if moved else "none moved"] += 1
        for client in clients:
            client.close()
        self.actor.clients.clear()
        if survivor is None:
            self.start()
        else:
            self.nothing_left(survivor)

    def nothing_left(self, survivor):
        service = self.actor.service
        asking = self.actor.connect()

        def clean():
            more = kinds(survivor.pid)
            service.reap()
            alone = [one.pid for one in processes.of_session(service.session)] == [survivor.pid]
            return alone and more - self.fresh == {"socket:[N]": 1} and not self.fresh - more

        wait_until(
            clean,
            lambda: f"only {survivor} with {self.fresh}; there is {kinds(survivor.pid)} in "
            f"{processes.of_session(service.session)}",
            asking.again().ask,
        )
        assert service.pid == survivor.pid
        asking.close()
        self.actor.clients.clear()


def kill_at_random_moments(actor, shard, runs):
    seed = int(os.environ.get("SEGUE_SEED", random.SystemRandom().randrange(2**32))) + shard
    print(f"SEGUE_SEED={seed - shard}, shard {shard}")
    killing = Killing(actor, seed)
    for _ in range(runs):
        killing.run()
    actor.service.expected_exits.add(-signal.SIGKILL)
    print(dict(killing.outcomes))


@pytest.mark.parametrize("shard", range(4))
def test_a_kill_at_any_moment_loses_what_the_dead_one_owned_and_no_more(actor, shard):
    kill_at_random_moments(actor, shard, 25)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(4, 8))
def test_a_kill_at_any_of_1000_moments(actor, shard):
    kill_at_random_moments(actor, shard, 250)
