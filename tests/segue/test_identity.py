"""What `segue status` says of the program that a generation runs: its identity, by which an operator
tells two versions from each other, of a program with a build id, without one, and of a script.
"""

import ctypes
import hashlib
import os
import signal
import subprocess

import pytest

import control_schema
from functional import asking, copy, eventually
from harness import processes
from scenes import SERVER, Run

MEBIBYTE = 1 << 20
LARGE = 240 * MEBIBYTE  # bytes whose hash takes a while
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000  # __WALL: of a thread, too


@pytest.fixture
def run(supervise, folder):
    return lambda *options, **more: Run(supervise, folder, *options, **more)


def program(one):
    status = one.service.status()
    control_schema.check_status(status)
    return status["generations"][0]["program"]


def sha256(path):
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def put_script(build, path, version):
    """A script of some version, put in place as a deployment does it."""
    part = path.with_suffix(".part")
    part.write_text(f'#!/bin/sh\n# version {version}\nexec "{build.program(SERVER)}" "$@"\n')
    part.chmod(0o755)
    os.replace(part, path)
    return path


def put_bare(build, path):
    """The test server without a build id."""
    copy(build, path.with_suffix(".part"))
    subprocess.run(["objcopy", "--remove-section=.note.gnu.build-id", path.with_suffix(".part")],
                   check=True)
    os.replace(path.with_suffix(".part"), path)
    return path


def put_large(build, path):
    put_bare(build, path)
    os.truncate(path, LARGE)
    return path


def test_a_script_is_known_by_its_hash_and_another_version_by_another(run, build, folder):
    path = put_script(build, folder / "app", 1)
    one = run(program=path)
    first = sha256(path)
    eventually(lambda: program(one)["script_file"]["identity"], first)
    found = program(one)
    assert found["script"] and found["identity"] != first
    assert found["script_file"]["path"] == str(path)
    assert found["script_file"]["size"] == path.stat().st_size
    # The same file again, then another version of it.
    with asking(one.address):
        one.upgrade()
        eventually(lambda: program(one)["script_file"]["identity"], first)
        put_script(build, path, 2)
        one.upgrade()
        assert sha256(path) != first
        eventually(lambda: program(one)["script_file"]["identity"], sha256(path))
    _, said, _ = one.service.call("status")
    assert f"  program    {path}, 1 KiB, {sha256(path)[:19]}\n  run by     /" in said


def test_a_program_without_a_build_id_is_known_by_the_hash_of_what_runs(run, build, folder):
    path = put_bare(build, folder / "app")
    one = run(program=path)
    first = sha256(path)
    eventually(lambda: program(one)["identity"], first)
    found = program(one)
    assert not found["script"] and found["script_file"] is None
    assert f"  program    {path}, " in one.service.call("status")[1]
    assert f" KiB, {first[:19]}\n" in one.service.call("status")[1]
    # Another file lies at the path; the worker that is started again is the one that was running.
    put_bare(build, path)
    with open(path, "ab") as file:
        file.write(b"another version")
    mark = one.log.mark()
    one.process(one.pids()[0]).send(signal.SIGKILL)
    one.worker("serving", since=mark)
    eventually(lambda: program(one)["identity"], first)
    one.upgrade()
    eventually(lambda: program(one)["identity"], sha256(path))
    assert sha256(path) != first


def test_nothing_is_left_of_the_hashing(run, build, folder):
    one = run("--workers", 2, program=put_script(build, folder / "app", 0))
    eventually(lambda: program(one)["script_file"]["identity"], sha256(folder / "app"))
    before = len(processes.descriptors(one.pid))
    for version in range(5):
        put_script(build, folder / "app", version)
        one.upgrade()
    eventually(lambda: program(one)["script_file"]["identity"], sha256(folder / "app"))
    eventually(lambda: len(processes.descriptors(one.pid)), before)
    eventually(lambda: len(processes.threads(one.pid)), 1)


def freeze(pid):
    """Stops the one thread of a process that is not its first, as a dead disk would; its id."""
    eventually(lambda: len(processes.threads(pid)), 2)
    (thread,) = set(processes.threads(pid)) - {pid}
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            pytest.skip(f"no ptrace: {os.strerror(ctypes.get_errno())}")
    assert os.WIFSTOPPED(os.waitpid(thread, WALL)[1])
    return thread


@pytest.mark.plain  # The leak sanitizer would wait for the frozen thread.
def test_a_disk_that_does_not_answer_holds_up_neither_upgrade_nor_stop(run, build, folder):
    path = put_large(build, folder / "app")
    one = run(program=path)
    thread = freeze(one.pid)
    # Another program meanwhile: it has no hash, and nothing waits for one.
    with asking(one.address):
        one.upgrade("--", put_bare(build, folder / "other"), "--config", one.config)
        assert program(one)["identity"].startswith("size:")
        assert program(one)["path"] == str(folder / "other")
    one.service.first.send(signal.SIGTERM)
    # It goes with the process, which is whole only when its tracer has seen that.
    status = os.waitpid(thread, WALL)[1]
    while os.WIFSTOPPED(status):
        status = os.waitpid(thread, WALL)[1]
    assert one.service.wait_end()[one.pid] == 0
