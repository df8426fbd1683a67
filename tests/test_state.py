"""Application state: named blobs, as a snapshot before READY and once more after the drain."""

import fcntl
import os

import pytest

from harness import processes
from matrix.service import actor, actors  # noqa: F401, fixtures

F_GET_SEALS = 1034
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


def content(final, name, generation, length):
    text = f"{'final' if final else 'snapshot'} of {name} by {generation};"
    return (text * (length // len(text) + 1))[:length]


def check(event, final, name, generation, length):
    wanted = content(final, name, generation, length)
    assert event["error"] == 0
    assert event["len"] == length
    assert event["head"] == wanted[:40]
    assert event["sum"] == sum(wanted.encode()) % 2**32


def test_the_snapshot_comes_before_ready_and_the_final_state_after_the_drain(actor):
    actor.order("*", "blobs", "users:100000,empty:0,counters:8")
    actor.order("*", "read", "users,empty,counters,missing")
    actor.start()
    busy = actor.connect("busy").send("hold")
    actor.upgrade()
    ready = actor.wait_state("ready", 2)
    for name, length in (("users", 100000), ("empty", 0), ("counters", 8)):
        event = actor.log.wait_for("blob", when="snapshot", blob=name, generation=2)
        assert actor.log.events.index(event) < actor.log.events.index(ready)
        check(event, False, name, 1, length)
    actor.wait_state("draining", 1)
    assert not actor.log.find("final")
    assert actor.log.find("blob", when="snapshot", blob="missing", generation=2)[0]["error"] == 2
    assert not actor.log.find("save", final=True)
    busy.raw(b"go\n").read()
    actor.wait_state("gone", 1)
    final = actor.log.wait_for("final", generation=2)
    assert final["from"] == 1
    for name, length in (("users", 100000), ("empty", 0), ("counters", 8)):
        check(actor.log.wait_for("blob", when="final", blob=name), True, name, 1, length)


def test_a_blob_is_sealed(actor):
    actor.order("*", "blobs", "users:4096").order("*", "read", "users").start()
    held = actor.hold(2, "ready-hold")
    actor.upgrade()
    pid = held.wait()["pid"]
    found = [
        number
        for number, target in processes.descriptors(pid).items()
        if target.startswith("/memfd:users")
    ]
    assert len(found) == 1
    fd = os.open(f"/proc/{pid}/fd/{found[0]}", os.O_RDWR | os.O_CLOEXEC)
    try:
        assert fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
    held.release()
    actor.service.wait_generation(2)


def test_a_program_without_state_finds_none(actor):
    actor.order("*", "read", "users").start()
    actor.upgrade()
    assert actor.log.wait_for("blob", generation=2, when="snapshot")["error"] == 2
    actor.service.wait_generation(2)
    assert actor.log.wait_for("final", generation=2)


def test_generation_1_finds_none(actor):
    actor.order("*", "read", "users").start()
    assert actor.log.wait_for("blob", generation=1, when="snapshot")["error"] == 2


@pytest.mark.parametrize(
    "blobs, name, error",
    [
        ("good:10,large:1073741825", "large", 7),
        ("good:10,good:11", "good", 17),
        ("good:10,Bad:11", "Bad", 22),
    ],
)
def test_a_blob_that_is_refused_leaves_the_others(actor, blobs, name, error):
    actor.order("*", "blobs", blobs).order("*", "read", "good").start()
    actor.upgrade()
    assert actor.log.wait_for("put", blob=name)["error"] == error
    check(actor.log.wait_for("blob", blob="good", when="snapshot", generation=2), False, "good", 1, 10)
    actor.service.wait_generation(2)


def test_one_blob_more_than_the_limit_is_refused_and_64_arrive(actor):
    names = ",".join(f"many-{at}" for at in (0, 1, 31, 63, 64))
    actor.order("*", "many", 70).order("*", "read", names).start()
    actor.upgrade()
    assert actor.log.wait_for("put", blob="many-64")["error"] == 7
    for at in (0, 1, 31, 63):
        name = f"many-{at}"
        check(actor.log.wait_for("blob", blob=name, when="snapshot", generation=2), False, name, 1, 8)
    assert actor.log.wait_for("blob", blob="many-64", generation=2)["error"] == 2
    actor.service.wait_generation(2)


def test_a_blob_of_64_MiB_arrives_whole(actor):
    length = 64 << 20
    actor.order("*", "blobs", f"big:{length}").order("*", "read", "big").start()
    actor.upgrade()
    event = actor.log.wait_for("blob", blob="big", when="snapshot", generation=2)
    text = content(False, "big", 1, len("snapshot of big by 1;"))
    whole, rest = divmod(length, len(text))
    assert event["len"] == length
    assert event["sum"] == (whole * sum(text.encode()) + sum(text[:rest].encode())) % 2**32
    actor.service.wait_generation(2)


def test_a_snapshot_that_cannot_be_saved_is_a_failed_upgrade(actor):
    actor.order("*", "blobs", "users:100").order("*", "read", "users").order("*", "save", "fail")
    actor.start()
    client = actor.connect("idle")
    actor.upgrade()
    ended = actor.log.wait_for("ended")
    assert ended["outcome"] == "failed"
    assert "state could not be saved" in ended["reason"]
    assert client.ask().generation == 1
    actor.order("*", "save", "-")
    mark = actor.log.mark()
    actor.upgrade()
    actor.wait_state("serving", 2, since=mark)
    assert client.ask().generation == 2
    actor.service.wait_exit(actor.first.pid)
    # The successor of the failed upgrade was killed by its predecessor, who has reaped it.
    assert [stat.pid for stat in processes.of_session(actor.service.session)] == [actor.service.pid]


def test_a_final_state_that_cannot_be_saved_is_a_warning(actor):
    actor.order("*", "blobs", "users:100").order("*", "read", "users")
    actor.order("*", "save", "fail-final").start()
    actor.upgrade()
    actor.log.wait_for("warning", generation=1, reason="the final state could not be saved")
    final = actor.log.wait_for("final", generation=2)
    assert final["from"] == 1
    # Nothing came, so that the snapshot is no longer the state.
    assert actor.log.wait_for("blob", when="final", generation=2)["error"] == 2
    actor.wait_state("gone", 1)


def test_the_final_states_of_two_predecessors_both_arrive(actor):
    actor.order("*", "blobs", "users:100").order("*", "read", "users").start()
    first = actor.connect("first").send("hold")
    actor.upgrade()
    actor.service.wait_generation(2)
    second = actor.connect("second").send("hold")
    actor.upgrade()
    actor.service.wait_generation(3)
    actor.wait_state("draining", 2)
    assert first.raw(b"go\n").read().generation == 1
    final = actor.log.wait_for("final", generation=3, **{"from": 1})
    check(actor.log.wait_for("blob", when="final", generation=3, **{"from": 1}), True, "users", 1, 100)
    assert second.raw(b"go\n").read().generation == 2
    later = actor.log.wait_for("final", generation=3, **{"from": 2})
    assert actor.log.events.index(later) > actor.log.events.index(final)
    check(actor.log.wait_for("blob", when="final", generation=3, **{"from": 2}), True, "users", 2, 100)
    assert first.ask().generation == second.ask().generation == 3
