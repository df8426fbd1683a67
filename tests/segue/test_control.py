"""The control socket withstands its clients: nonsense, silence, floods, strangers."""

import ctypes
import fcntl
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import time

import control_schema
import pytest
from control_host import Host, end_of, everything
from harness.builds import ROOT
from harness.deadline import readable, until

CLIENTS = 128
STATUS = b'{"verb":"status"}\n'
UPGRADE = b'{"verb":"upgrade"}\n'
NOBODY = 65534
SOURCE = ROOT / "src" / "segue"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


@pytest.fixture
def control_host(build, folder, _guard):
    """control_host('web.sock') listens there, in the test's folder."""
    count = 0

    def start(path="web.sock", **options):
        nonlocal count
        count += 1
        program = build.program("tests/programs/control_host")
        return _guard.own(Host(program, folder / path, folder / f"host{count}.log", **options))

    return start


@pytest.fixture
def host(control_host):
    return control_host()


# What is said.

NONSENSE = {
    "no JSON": (b"hello\n", "not JSON"),
    "an empty line": (b"\n", "not JSON"),
    "an HTTP request": (b"GET / HTTP/1.1\r\n\r\n", "something follows"),
    "a NUL": (b"\0\n", "not JSON"),
    "a NUL behind the request": (b'{"verb":"status"}\0x\n', "not JSON"),
    "a NUL in a string": (b'{"verb":"upgrade","argv":["a\\u0000b"]}\n', "not JSON"),
    "no UTF-8": (b'{"verb":"\xff"}\n', "not JSON"),
    "nested 60,000 deep": (b"[" * 60000 + b"\n", "depth"),
    "no object": (b"[]\n", "no object"),
    "a member twice": (b'{"verb":"stop","verb":"status"}\n', "duplicate"),
    "no verb": (b"{}\n", '"verb"'),
    "a verb that is no string": (b'{"verb":1}\n', '"verb"'),
    "an unknown verb": (b'{"verb":"fly"}\n', "fly"),
    "an unknown member": (b'{"verb":"status","now":true}\n', '"now"'),
    "argv empty": (b'{"verb":"upgrade","argv":[]}\n', '"argv"'),
    "argv no array": (b'{"verb":"upgrade","argv":"x"}\n', '"argv"'),
    "argv of numbers": (b'{"verb":"upgrade","argv":["x",1]}\n', '"argv"'),
    "argv without a program": (b'{"verb":"upgrade","argv":[""]}\n', '"argv"'),
    "wait no boolean": (b'{"verb":"upgrade","wait":1}\n', '"wait"'),
    "now no boolean": (b'{"verb":"stop","now":null}\n', '"now"'),
    "worker missing": (b'{"verb":"restart"}\n', '"worker"'),
    "worker negative": (b'{"verb":"restart","worker":-1}\n', '"worker"'),
    "worker huge": (b'{"verb":"restart","worker":4294967296}\n', '"worker"'),
    "worker a fraction": (b'{"verb":"restart","worker":1.0}\n', '"worker"'),
    "signal 0": (b'{"verb":"kill","signal":0}\n', '"signal"'),
    "signal 65": (b'{"verb":"kill","signal":65}\n', '"signal"'),
    "a second request": (STATUS + STATUS, "something follows"),
    "more than 64 KiB": (b"x" * 66000, "64 KiB"),
    "half a line": (b'{"verb":"st', "middle"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_answered_by_its_cause_and_reaches_nobody(host, case):
    data, cause = NONSENSE[case]
    with host.say(data) as client:
        client.shutdown(socket.SHUT_WR)
        end = end_of(client)
    control_schema.check_end(end)
    assert (end["exit"], end["outcome"]) == (2, "nonsense")
    assert cause in end["message"]
    assert host.answers(), "what reaches the host first is the next client's request"


@pytest.mark.parametrize("request_, told", [
    ({"verb": "upgrade"}, {"argv": None, "wait": True}),
    ({"verb": "upgrade", "wait": False, "argv": ["./a b", "\u00e9", ""]},
     {"argv": ["./a b", "\u00e9", ""], "wait": False}),
    ({"verb": "status"}, {}),
    ({"verb": "stop"}, {"now": False}),
    ({"verb": "stop", "now": True}, {"now": True}),
    ({"verb": "cut"}, {}),
    ({"verb": "restart", "worker": 63}, {"worker": 63}),
    ({"verb": "kill", "signal": 64}, {"signal": 64}),
], ids=lambda value: json.dumps(value))
def test_a_request_arrives_as_it_was_said(host, request_, told):
    with host.say(json.dumps(request_).encode() + b"\n"):
        assert host.told() == {"call": request_["verb"], "client": 1, **told}


def test_a_request_that_comes_byte_by_byte_is_one(host):
    with host.connect() as client:
        for byte in UPGRADE:
            client.send(bytes([byte]))
        assert host.call("upgrade") == 1


def test_a_client_that_ends_its_own_direction_is_still_answered(host):
    with host.say(STATUS) as client:
        client.shutdown(socket.SHUT_WR)
        number = host.call("status")
        readable(client.fileno(), until(20), "a sign of life")
        host.end(number, message="here it is")
        assert end_of(client)["message"] == "here it is"


def test_a_client_that_goes_is_reported_at_once(host):
    began = time.monotonic()
    for _ in range(5):
        with host.say(UPGRADE):
            number = host.call("upgrade")
        assert host.told() == {"gone": number}
    # Each would be found out by the next sign of life as well, after two seconds.
    assert time.monotonic() - began < 8


def test_a_client_that_says_more_while_it_waits_is_ended(host):
    with host.say(UPGRADE) as client:
        number = host.call("upgrade")
        client.sendall(b"and another thing\n")
        assert host.told() == {"gone": number}
        assert everything(client) == b""
    assert host.answers()


def test_a_client_that_only_connects_costs_nothing(host):
    for _ in range(300):
        host.connect().close()
    assert host.answers()


def test_who_waits_hears_every_two_seconds_that_nothing_is_new(host):
    with host.say(UPGRADE) as client:
        number = host.call("upgrade")
        began = time.monotonic()
        readable(client.fileno(), until(20), "a sign of life")
        assert client.recv(100) == b'{"event":"alive"}\n'
        assert time.monotonic() - began > 1.5
        host.end(number)
        assert end_of(client)["exit"] == 0


def test_text_of_any_bytes_arrives_as_json(host):
    with host.say(UPGRADE) as client:
        number = host.call("upgrade")
        host.do(do="raw", client=number, hex="41ff42c3a9eda0800d1b5b33316dc3")
        host.end(number)
        event, end = map(json.loads, everything(client).decode().splitlines())
    control_schema.check_event(event)
    assert event["text"].startswith("A?B\u00e9???")
    assert end["end"] is True


# How much.


def test_a_client_that_says_nothing_or_half_a_request_is_ended_after_ten_seconds(host):
    began = time.monotonic()
    with host.connect() as silent, host.say(UPGRADE[:-1]) as half:
        for client in (silent, half):
            end = end_of(client)
            assert (end["exit"], "10 s" in end["message"]) == (2, True)
        assert 9 < time.monotonic() - began < 25
    assert host.answers()


def test_of_two_hundred_connections_those_beyond_the_limit_are_told_so(host):
    clients = [host.connect() for _ in range(200)]
    try:
        for client in clients[CLIENTS:]:
            end = end_of(client)
            assert (end["exit"], end["outcome"]) == (3, "refused")
            assert str(CLIENTS) in end["message"]
        clients[0].sendall(STATUS)
        host.end(host.call("status"))
        assert end_of(clients[0])["exit"] == 0
    finally:
        for client in clients:
            client.close()
    assert host.answers()


def test_a_hundred_requests_at_once_are_all_answered(host):
    clients = [host.say(UPGRADE) for _ in range(100)]
    try:
        for _ in clients:
            host.end(host.call("upgrade"), 3, "one runs", outcome="refused")
        assert [end_of(client)["exit"] for client in clients] == [3] * 100
    finally:
        for client in clients:
            client.close()


NOTE = {"event": "note", "generation": 8, "ms": 0, "text": "x" * 1000}


def test_a_client_that_reads_late_gets_a_mebibyte(host):
    with host.say(UPGRADE) as slow:
        number = host.call("upgrade")
        host.do(do="events", client=number, count=900, event=NOTE)
        assert host.answers(), "nothing waits for the slow one"
        host.end(number)
        assert len(everything(slow).splitlines()) == 901


def test_a_client_that_does_not_read_is_ended_at_a_mebibyte(host):
    with host.say(UPGRADE) as slow:
        number = host.call("upgrade")
        before = resident(host.pid)
        host.do(do="events", client=number, count=10000, event=NOTE)
        assert host.told() == {"gone": number}
        # The sanitizer keeps what was freed for a while.
        assert resident(host.pid) - before < 32 << 20
        assert b'"end"' not in everything(slow)
    assert host.answers()


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_clients_wait_and_the_loop_does_not_spin(control_host):
    host = control_host(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)))
    clients = [host.connect() for _ in range(60)]
    try:
        before = cpu_seconds(host.pid)
        # The last one waits in the queue; nothing comes for it.
        clients[-1].settimeout(1.5)
        with pytest.raises(TimeoutError):
            clients[-1].recv(1)
        assert cpu_seconds(host.pid) - before < 0.7
        for client in clients[:-1]:
            client.close()
        clients[-1].settimeout(30)
        clients[-1].sendall(STATUS)
        host.end(host.call("status"))
        assert end_of(clients[-1])["exit"] == 0
    finally:
        for client in clients:
            client.close()


def test_the_spare_descriptor_keeps_one_client_served_when_there_is_none_left(control_host):
    host = control_host()
    # So many as are open now, the spare one among them: accept() finds none.
    used = len(os.listdir(f"/proc/{host.pid}/fd"))
    assert max(map(int, os.listdir(f"/proc/{host.pid}/fd"))) == used - 1
    limit(host.pid, used)
    assert host.answers()
    assert host.answers()


def limit(pid, count):
    class Limit(ctypes.Structure):
        _fields_ = [("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64)]

    libc = ctypes.CDLL(None, use_errno=True)
    value = Limit(count, count)
    assert libc.prlimit(pid, resource.RLIMIT_NOFILE, ctypes.byref(value), None) == 0


# Who.


def as_nobody(host, data):
    """What another user hears who connects and says this; None where it may not even connect."""
    code = f"""
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(30)
try:
    client.connect({host.path!r})
except PermissionError:
    sys.exit(77)
try:
    client.sendall({data!r})
except BrokenPipeError:
    pass
try:
    while more := client.recv(65536):
        sys.stdout.buffer.write(more)
except ConnectionResetError:
    pass  # Its request was not read any more; the answer has come before.
"""
    done = subprocess.run(["/usr/bin/python3", "-c", code], user=NOBODY, group=NOBODY,
                          extra_groups=[], stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode in (0, 77)
    return json.loads(done.stdout) if done.returncode == 0 else None


@needs_root
def test_another_user_cannot_connect(host, folder):
    folder.chmod(0o755)
    assert as_nobody(host, UPGRADE) is None
    assert host.answers()


@needs_root
def test_another_user_is_refused_even_where_the_path_lets_everybody_in(host, folder):
    folder.chmod(0o755)
    os.chmod(host.path, 0o666)
    end = as_nobody(host, UPGRADE)
    control_schema.check_end(end)
    assert (end["exit"], end["outcome"]) == (6, "forbidden")
    assert host.answers(), "nothing of the other user's has reached the host"


@needs_root
def test_root_may_ask_a_service_of_another_user(build, folder, control_host):
    folder.chmod(0o777)
    program = shutil.copy(build.program("tests/programs/control_host"), folder)
    host = Host(program, folder / "theirs.sock", folder / "host.log", user=NOBODY, group=NOBODY,
                extra_groups=[])
    try:
        assert "listens" in host.first
        assert host.answers()
    finally:
        assert host.finish() == []


# The path.


def test_the_path_has_its_mode_whatever_the_umask(control_host):
    for umask in (0o000, 0o077, 0o777):
        host = control_host(f"mode{umask:o}.sock", umask=umask)
        assert os.stat(host.path).st_mode & 0o7777 == 0o600


def test_a_socket_that_a_dead_supervisor_left_is_replaced(control_host):
    first = control_host()
    first.kill()
    assert os.path.exists(first.path)
    assert control_host().answers()


def test_a_socket_that_is_answered_is_left_alone_and_named(control_host, host):
    second = control_host()
    second.expected = (1,)
    assert second.first["failed"] < 0
    assert host.path in second.first["reason"] and "--name" in second.first["reason"]
    assert host.answers()


def test_a_stopped_supervisor_still_has_its_socket(control_host, host):
    host.handle.stop()
    second = control_host()
    second.expected = (1,)
    assert "answers there already" in second.first["reason"]
    host.handle.go_on()
    assert host.answers()


def test_a_file_that_is_no_socket_is_left_alone(control_host, folder):
    (folder / "web.sock").write_text("precious")
    host = control_host()
    host.expected = (1,)
    assert "not a socket" in host.first["reason"]
    assert (folder / "web.sock").read_text() == "precious"


def test_of_eight_that_start_at_once_on_a_stale_path_one_listens(build, folder, control_host):
    control_host().kill()
    program = build.program("tests/programs/control_host")
    path = str(folder / "web.sock")
    many = [subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(8)]
    said = [json.loads(process.stdout.readline()) for process in many]
    try:
        assert sum("listens" in line for line in said) == 1, said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    finally:
        for process in many:
            process.communicate(timeout=30)


def test_who_starts_beside_another_start_waits_for_it_and_gives_up(control_host, folder):
    control_host().kill()
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host = control_host()
        host.expected = (1,)
        assert "is locked" in host.first["reason"]
    finally:
        os.close(lock)
    assert control_host().answers()


def test_the_path_goes_with_the_supervisor_unless_it_is_another_ones(control_host, host):
    host.close()
    host.process.wait(30)
    assert not os.path.exists(host.path)
    first = control_host()
    os.unlink(first.path)
    second = control_host()
    first.close()
    first.process.wait(30)
    assert second.answers()


def test_at_the_end_who_stopped_it_hears_so_and_the_others_that_it_is_lost(host):
    with host.say(b'{"verb":"stop"}\n') as stop, host.say(UPGRADE) as upgrade:
        assert {host.told()["call"], host.told()["call"]} == {"stop", "upgrade"}
        host.close()
        ends = [end_of(client) for client in (stop, upgrade)]
        assert host.process.wait(30) == 0
    for end in ends:
        control_schema.check_end(end)
    assert [(end["exit"], end["outcome"]) for end in ends] == [(0, "stopped"), (7, "lost")]


# The document and the code.


def strings(*names):
    return set(re.findall(r'"((?:[^"\\\n]|\\.)*)"', "".join((SOURCE / name).read_text()
                                                           for name in names)))


def test_the_document_lists_the_requests_of_the_code():
    text = (SOURCE / "request.c").read_text()
    verbs = set(re.findall(r'\[REQUEST_\w+\] = "(\w+)"', text))
    members = {(verb.lower(), name)
               for verb, name in re.findall(r'\{ REQUEST_(\w+), "(\w+)", MEMBER_', text)}
    rows = control_schema.table("Requests", "verb").rows
    assert {row["verb"] for row in rows} == verbs
    assert {(row["verb"], row["member"]) for row in rows if row["member"]} == members


def test_the_document_lists_the_exit_codes_of_the_code():
    text = (SOURCE / "control.h").read_text()
    codes = {int(code) for code in re.findall(r"\bEXIT_\w+ = (\d+)", text)}
    assert set(control_schema.exits()) == codes


def test_the_display_knows_the_events_of_the_document():
    text = (SOURCE / "display.c").read_text()
    shown = set(re.findall(r'\{ "(\w+)", (?:true|false), on_\w+ \}', text))
    assert shown == set(control_schema.events()) - {"alive"}


def test_the_client_reads_no_member_that_is_not_documented():
    text = "".join((SOURCE / name).read_text() for name in ("display.c", "view.c", "client.c"))
    read = set(re.findall(r'(?:view_number|word|json_object_get)\([^;"]*?, "(\w+)"', text))
    documented = set()
    for table in control_schema.TABLES:
        documented |= {row["member"] for row in table.rows if "member" in row}
    assert len(read) > 25
    assert read - documented == set()


def test_limits_of_the_document_are_those_of_the_code():
    code = (SOURCE / "control.c").read_text()
    text = re.sub(r"\s+", " ", control_schema.DOCUMENT.read_text(encoding="utf-8"))
    for name, value, said in (("CLIENTS_MAX", "128", "128 clients at once"),
                              ("REQUEST_MAX", "(64 * 1024UL)", "64 KiB at most"),
                              ("OUTPUT_MAX", "(1024 * 1024UL)", "1 MiB of answer"),
                              ("REQUEST_MS", "10000", "10 s for saying the request"),
                              ("ALIVE_MS", "2000", "every 2 s of silence")):
        assert re.search(rf"#define {name}\s+{re.escape(value)}", code), name
        assert said in text


# The supervisor itself.


def test_the_supervisor_says_what_the_document_says(supervise):
    service = supervise("--workers", 2)
    seen = set()
    for arguments, code in (([], 0), (["--", "/nonexistent"], 1),
                            (["--", "/bin/sh", "-c", "echo no >&2; exit 3"], 1)):
        control_schema.check_status(service.status())
        answer = service.ask("upgrade", *arguments)
        assert answer.code == code, answer
        assert [line for line in answer.lines if "end" in line] == answer.lines[-1:]
        for line in answer.lines:
            control_schema.check_line(line)
            seen.add(line.get("event"))
    assert {"starting", "started", "ready", "serving", "draining", "gone", "failed"} <= seen
    assert answer.end["output"] == ["no"]
    status = service.status()
    control_schema.check_status(status)
    assert status["last_upgrade"]["outcome"] == "failed"
    for verb, *arguments in (("cut",), ("restart", 1), ("restart", 9), ("kill", "URG")):
        for line in service.ask(verb, *arguments).lines:
            control_schema.check_line(line)
    answer = service.ask("stop")
    for line in answer.lines:
        control_schema.check_line(line)
    assert answer.code == 0
    service.wait_end()
