"""The harness itself: what a test leaves behind makes it fail, and a service is followed through
its generations. Each case runs pytest on a test that misbehaves in one way.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from harness import manager, processes
from harness.deadline import Expired
from harness.http import Closed, Connection, Malformed
from harness.service import Service, parse

TESTS = pathlib.Path(__file__).resolve().parent


@pytest.fixture
def outcomes(folder):
    """Runs pytest on a text; the outcomes by case, and what it printed."""

    def run(text, *options):
        results = folder / "results.json"
        (folder / "test_inner.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "harness.plugin", "-o", f"cache_dir={folder}/cache"]
        command += ["-c", TESTS / "pytest.ini", "--rootdir", folder, "--results", results, "-q"]
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(folder)}
        for name in [name for name in environment if name.startswith("PYTEST_")]:
            del environment[name]
        done = subprocess.run(
            [*command, *options, folder / "test_inner.py"],
            env=environment, capture_output=True, text=True, timeout=100, check=False,
        )
        found = json.loads(results.read_text())
        return {
            name.partition("::")[2]: case["outcome"] for name, case in found.items()
        }, done.stdout

    return run


def test_a_test_that_leaves_nothing_passes(outcomes):
    assert outcomes("def test_one(folder): (folder / 'file').write_text('')")[0] == {
        "test_one": "passed"
    }


def test_a_leaked_descriptor_fails_the_test_once(outcomes):
    found, said = outcomes(
        "import os\n"
        "def test_one(): os.open('/dev/zero', os.O_RDONLY)\n"
        "def test_two(): pass\n"
    )
    assert found == {"test_one": "failed", "test_two": "passed"}
    assert "left descriptor" in said and "/dev/zero" in said


def test_a_left_child_fails_the_test_and_is_ended(outcomes):
    found, said = outcomes(
        "import subprocess\n"
        "def test_one():\n"
        "    child = subprocess.Popen(['/usr/bin/tail', '-f', '/dev/null'])\n"
        "    child.returncode = 0\n"
        "    print('pid', child.pid)\n"
        "    assert False\n"
    )
    assert found == {"test_one": "failed"}
    assert "left process" in said and "(tail" in said
    pid = int(said.partition("pid ")[2].split()[0])
    assert not os.path.exists(f"/proc/{pid}")


def test_an_orphan_two_forks_away_is_found(outcomes):
    found, said = outcomes(
        "import subprocess\n"
        "def test_one():\n"
        "    subprocess.run(['/bin/sh', '-c', 'tail -f /dev/null & exit'])\n"
    )
    assert found == {"test_one": "failed"}
    assert "left process" in said


def test_a_zombie_is_found(outcomes):
    found, said = outcomes(
        "import os\n"
        "def test_one():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(0)\n"
        "    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
    )
    assert found == {"test_one": "failed"}
    assert "state Z" in said


def test_a_test_that_hangs_meets_its_deadline(outcomes):
    found, said = outcomes(
        "import select\ndef test_one(): select.select([], [], [])\n", "--timeout=1"
    )
    assert found == {"test_one": "failed"}
    assert "Timeout" in said


@pytest.mark.parametrize(
    "code, text",
    [
        ("char *p = malloc(8); return p[argc + 7];", "heap-buffer-overflow"),
        ("char *volatile p = malloc(8); p = 0; return 0;", "detected memory leaks"),
        ("volatile int i = 2147483647; return (i + argc) == 0;", "signed integer overflow"),
    ],
    ids=["overflow", "leak", "undefined"],
)
def test_a_sanitizer_report_fails_the_test(outcomes, folder, code, text):
    source = folder / "program.c"
    source.write_text("#include <stdlib.h>\nint main(int argc, char **argv) { %s }\n" % code)
    program = folder / "program"
    subprocess.run(
        ["gcc", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", program, source],
        check=True,
    )
    found, said = outcomes(
        "import subprocess\n"
        "def test_one(folder):\n"
        "    with open(folder / 'program.log', 'w') as log:\n"
        f"        subprocess.run(['{program}'], stderr=log)\n"
    )
    assert found == {"test_one": "failed"}
    assert text in said


def test_a_collection_error_counts_as_failed(outcomes):
    assert list(outcomes("import nothing_of_this_name\n")[0].values()) == ["failed"]


def test_a_crashing_worker_counts_as_failed(outcomes):
    found, _ = outcomes("import os\ndef test_one(): os.abort()\ndef test_two(): pass\n", "-n1")
    assert found == {"test_one": "failed", "test_two": "passed"}


# C unit tests.

UNIT = """
#include "unit.h"
UNIT_CASE(good) { CHECK(1); }
UNIT_CASE(wrong) { CHECK_INT(1 + 1, 3); }
UNIT_CASE(descriptor) { MUST(open("/dev/zero", O_RDONLY)); }
UNIT_CASE(closes) { close(0); }
UNIT_CASE(child) { if (MUST(fork()) == 0) _exit(0); }
UNIT_CASE(hangs) { for (;;) pause(); }
UNIT_CASE(skips) { SKIP("not on this machine"); }
UNIT_MAIN
"""


@pytest.fixture
def unit(folder):
    source, program = folder / "unit.c", folder / "unit"
    source.write_text(UNIT)
    subprocess.run(
        ["gcc", "-D_GNU_SOURCE", "-DUNIT_DEADLINE_S=1", "-Wall", "-Wextra", "-Werror",
         "-I", TESTS / "unit", "-o", program, source],
        check=True,
    )

    def run(*arguments):
        return subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    before = {stat.pid for stat in processes.children()}
    yield run
    # What the cases leave on purpose comes to us.
    processes.kill_all(stat for stat in processes.children() if stat.pid not in before)


def test_a_unit_program_lists_its_cases_in_the_order_of_the_file(unit):
    names = ["good", "wrong", "descriptor", "closes", "child", "hangs", "skips"]
    assert unit("--list").stdout.split() == names


@pytest.mark.parametrize(
    "case, code, text",
    [
        ("good", 0, ""),
        ("wrong", 1, "1 + 1 is 2, not 3"),
        ("descriptor", 1, "left descriptor 3 open: /dev/zero"),
        ("closes", 1, "closed a descriptor that it did not open"),
        ("child", 1, "left a child"),
        ("hangs", -signal.SIGALRM, ""),
        ("nonsense", 2, "no case is named nonsense"),
        ("skips", 77, ""),
    ],
)
def test_a_unit_case_that_misbehaves_fails(unit, case, code, text):
    done = unit(case)
    assert done.returncode == code
    assert text in done.stderr


def test_all_unit_cases_run_although_one_fails(unit):
    done = unit()
    assert done.returncode == 1
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")]
    assert failed == ["wrong", "descriptor", "closes", "child", "hangs"]


# A service and its generations, with harness/stand_in.py.


def test_a_service_is_followed_through_its_generations(stand_in):
    service = stand_in()
    pids = [service.pid]
    for number in range(2, 6):
        event = service.upgrade()
        pids.append(service.pid)
        assert (event["generation"], event["pid"]) == (number, service.pid)
        with service.connect() as connection:
            response = connection.get()
        assert (response.generation, response.pid, response.body) == (number, service.pid, b"hi")
    assert [service.wait_exit(pid) for pid in pids[:-1]] == [0, 0, 0, 0]
    assert service.running == [pids[-1]]
    assert service.stop()[pids[-1]] == 0
    assert service.running == []
    assert len(set(pids)) == 5


def test_the_exit_code_of_an_orphan_is_known(stand_in):
    service = stand_in(env={"CODE": "7"})
    service.upgrade()
    service.expected_exits = {0, 7}
    assert service.stop() == {service.session: 0, **{
        pid: 7 for pid in service.exit_codes if pid != service.session
    }}
    assert 7 in service.exit_codes.values()


def test_a_wrong_exit_code_is_told_at_the_end(stand_in):
    service = stand_in(env={"CODE": "7"})
    assert [text for text in service.finish() if "exited with 7" in text]
    service.expected_exits = {7}


def test_a_service_that_ignores_term_is_ended_and_told(stand_in):
    service = stand_in(env={"IGNORE": "1"})
    with pytest.raises(Expired):
        service.stop(0.2)
    processes.kill_all(processes.of_session(service.session))
    assert service.running == []
    assert service.finish() == []


def test_a_stopped_process_is_seen_stopped(stand_in):
    service = stand_in()
    service.serving.stop()
    assert processes.Stat(service.pid).state == "T"
    service.serving.go_on()


def test_the_facts_of_a_process_can_be_read(stand_in):
    service = stand_in(env={"NAME": "value"})
    assert processes.environment(service.pid)["NAME"] == "value"
    assert processes.memory(service.pid)["Pss"] > 1 << 20
    assert processes.threads(service.pid) == [service.pid]
    assert processes.status(service.pid)["Threads"] == "1"
    assert processes.command_line(service.pid)[-1] == str(service.pid_file)
    assert service.addresses() == [f"tcp://127.0.0.1:{service.address[1]}"]
    assert sorted(processes.descriptors(service.pid))[:3] == [0, 1, 2]
    assert service.pid in [stat.pid for stat in processes.children()]


def test_the_log_wait_names_what_it_waited_for(stand_in):
    service = stand_in()
    with pytest.raises(Expired, match="event never of=1"):
        service.log.wait_for("never", of=1, deadline=0.05)


@pytest.mark.parametrize(
    "text, address",
    [
        ("tcp://127.0.0.1:80", ("127.0.0.1", 80)),
        ("tcp://0.0.0.0:80", ("127.0.0.1", 80)),
        ("tcp://[::]:81", ("::1", 81)),
        ("unix:///run/x", "/run/x"),
        ("unix://@x", "@x"),
    ],
)
def test_addresses_become_what_a_client_connects_to(text, address):
    assert parse(text) == address


def test_the_load_is_counted_by_generation(stand_in, load):
    service = stand_in()
    running = load(service, "--new", 2, "--requests", 50, "--count-header", "Segue-Generation")
    result = running.wait_running().result()
    assert (result.lost, result.closed, result.answers) == (0, 0, {"1": 50}), result


def test_a_load_without_end_can_be_stopped(stand_in, load):
    running = load(stand_in(), "--new", 1, "--rate", 20, "--duration", "1h").wait_running()
    result = running.stop()
    assert result["outcomes"]["ok"] == result["requests"] >= 1, result


def test_the_losses_of_a_load_are_told(load):
    result = load("--requests", 3, "http://127.0.0.1:1/").result()
    assert result.lost == result["outcomes"]["refused"] == 3


# The client.


@pytest.fixture
def answers(folder):
    """A Connection whose other end has sent these bytes and then ended."""
    made = []

    def make(data):
        path = str(folder / f"socket{len(made)}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        connection = Connection(path, deadline=10)
        other = listener.accept()[0]
        other.sendall(data)
        other.close()
        listener.close()
        made.append(connection)
        return connection

    yield make
    for connection in made:
        connection.close()


def test_the_client_reads_two_responses_and_nothing_between(answers):
    connection = answers(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx"
    )
    first, second = connection.response(), connection.response()
    assert (first.status, first.body) == (200, b"abcde")
    assert (second.status, second.reason, second.body) == (404, "Not Found", b"x")
    assert connection.rest() == b""


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", Closed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", Closed),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n", Malformed),
        (b"HTTP/2 200 OK\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", Malformed),
        (b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n", Malformed),
    ],
)
def test_the_client_is_strict(answers, data, error):
    with pytest.raises(error):
        answers(data).response()


# The stand-in for a service manager.


def test_sockets_are_handed_over_as_systemd_does(folder, _guard):
    script = 'echo "{\\"event\\":\\"env\\",\\"pid\\":$LISTEN_PID,\\"fds\\":$LISTEN_FDS}"'
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    given = manager.activation(made, names=["http", "admin"])
    service = Service(
        [*given["before"], "/bin/sh", "-c", script], folder, pass_fds=given["pass_fds"]
    )
    _guard.own(service)
    manager.close_all(given["pass_fds"])
    event = service.log.wait_for("env")
    service.wait_end()
    for one in made:
        one.close()
    assert (event["pid"], event["fds"]) == (service.session, 2)


def test_a_notification_names_its_sender_and_its_descriptors(folder):
    with manager.NotifySocket(folder / "notify") as notify:
        pid = os.fork()
        if pid == 0:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(notify.path)
                sender.send(b"READY=1\nMAINPID=7\n")
                socket.send_fds(sender, [b"BARRIER=1"], [0])
            os._exit(0)
        message = notify.wait_for("READY=1")
        assert (message.pid, message.fields, message.descriptors) == (
            pid, {"READY": "1", "MAINPID": "7"}, 0
        )
        assert notify.receive().descriptors == 1
        os.waitpid(pid, 0)


def test_many_generations_leave_no_zombie_behind(stand_in):
    service = stand_in()
    pids = []
    for _ in range(5):
        pids.append(service.pid)
        service.upgrade()
    for pid in pids:
        service.wait_exit(pid)
    assert [stat.pid for stat in processes.children() if stat.zombie] == []
    assert list(service.exit_codes.values()) == [0] * 5
