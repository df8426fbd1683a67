"""Deadlines and bounds: what a slow or greedy client can cost."""

import os
import re
import resource
import select
import signal
import socket
import time

import pytest

from functional import eventually
from harness.http import Closed, Connection, request

pytestmark = pytest.mark.threads


def memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024


def drip(connection, data, interval):
    """Sends byte by byte until the server has something to say; the answer's status."""
    connection.socket.settimeout(interval)
    for i in range(len(data)):
        try:
            connection.socket.send(data[i : i + 1])
            if connection.socket.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
    return connection.response()


def test_a_slow_head_is_answered_by_408_at_its_deadline(start):
    service = start("hello", "--head-timeout", "500ms")
    with Connection(service.address) as connection:
        began = time.monotonic()
        answer = drip(connection, request("GET", headers=[("X", "y" * 1000)]), 0.05)
        took = time.monotonic() - began
        assert answer.status == 408 and answer.header("Connection") == "close"
        assert connection.rest() == b""
    assert 0.45 < took < 5


def test_the_deadline_of_a_head_begins_with_its_first_byte(start):
    service = start("hello", "--head-timeout", "400ms", "--idle-timeout", "30s")
    with Connection(service.address) as connection:
        assert connection.get().status == 200
        with pytest.raises(TimeoutError):
            connection.socket.settimeout(0.8)
            connection.socket.recv(1)
        connection.send(b"GET /hello HTTP/1.1\r\n")
        assert connection.response().status == 408


def test_an_idle_connection_is_closed_in_silence(start):
    service = start("hello", "--idle-timeout", "300ms")
    with Connection(service.address) as used, Connection(service.address) as fresh:
        assert used.get().status == 200
        assert used.rest() == b"" and fresh.rest() == b""


def test_a_slow_body_is_answered_by_408(start):
    service = start("hello", "--body-timeout", "400ms", "--min-rate", "1000")
    with Connection(service.address) as connection:
        connection.send(request("POST", headers=[("Content-Length", "10000")]))
        assert drip(connection, b"x" * 1000, 0.05).status == 408
        assert connection.rest() == b""


def test_a_long_body_that_keeps_the_rate_is_not_slow(start):
    service = start("hello", "--body-timeout", "300ms", "--min-rate", "1000")
    with Connection(service.address) as connection:
        connection.send(request("POST", headers=[("Content-Length", "10000")]))
        for _ in range(9):
            connection.send(b"x" * 1000)
            with pytest.raises(TimeoutError):
                connection.socket.settimeout(0.1)
                connection.socket.recv(1, socket.MSG_PEEK)
        connection.send(b"x" * 1000)
        assert connection.response().status == 200


def test_a_slow_reader_is_cut(server):
    service = server("--response-timeout", "500ms", "--min-rate", "100000000")
    with Connection(service.address, receive_buffer=4096) as connection:
        connection.send(request("GET", "/stream?n=400&size=65536"))
        waiting = select.poll()
        waiting.register(connection.socket, 0)  # Errors only: nothing is read.
        assert waiting.poll(20_000), "it was not cut"


@pytest.mark.plain
@pytest.mark.parametrize(
    "piece,begin,statuses",
    [
        (b"a" * 65536, b"GET /", {414}),
        (b"a" * 65536, b"GET /hello HTTP/1.1\r\nHost: a\r\nX: ", {431}),
        (b"X: y\r\n" * 10000, b"GET /hello HTTP/1.1\r\nHost: a\r\n", {431}),
        (b"a" * 65536, b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", {400}),
        (
            b"1;" + b"a" * 200 + b"\r\nx\r\n",
            b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            {400},
        ),
        (b"0" * 65536, b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", {400}),
    ],
    ids=["target", "value", "fields", "extension", "extensions", "zeros"],
)
def test_endless_input_costs_bounded_memory(start, piece, begin, statuses):
    service = start("hello")
    with Connection(service.address) as connection:
        connection.get()
    before = memory(service.pid)
    for _ in range(5):
        with Connection(service.address, deadline=30) as connection:
            connection.send(begin)
            try:
                sent = 0
                while sent < 10_000_000:
                    connection.send(piece)
                    sent += len(piece)
            except Closed:
                pass
            try:
                assert connection.response().status in statuses
            except Closed as error:
                assert error.reset, "closed without a word"
    assert memory(service.pid) - before < 4 << 20


def test_a_hundred_thousand_fields_are_refused_at_the_limit(start):
    service = start("hello")
    with Connection(service.address, deadline=30) as connection:
        try:
            connection.send(request("GET", headers=[(f"X-{i}", "y") for i in range(100_000)]))
        except Closed:
            pass
        assert connection.response().status == 431


def test_beyond_the_limit_clients_wait_until_a_connection_is_free(start):
    service = start("hello", "--max-connections", "4")
    connections = [Connection(service.address) for _ in range(4)]
    for connection in connections:
        assert connection.get().status == 200
    with Connection(service.address) as late:
        late.send(request())
        with pytest.raises(TimeoutError):
            late.socket.settimeout(0.3)
            late.socket.recv(1)
        connections[0].close()
        assert late.response().status == 200
    for connection in connections:
        connection.close()


def test_who_waits_beyond_the_limit_is_served_by_a_stop(start):
    service = start("hello", "--max-connections", "2", "--threads", "1")
    with Connection(service.address) as busy, Connection(service.address) as other:
        busy.send(request("GET", "/hello?delay=1s"))
        assert other.get().status == 200
        late = [Connection(service.address).send(request()) for _ in range(20)]
        service.send(signal.SIGTERM)
        for connection in late + [busy]:
            assert connection.response().status == 200
            connection.close()
    service.wait_end()


def test_an_empty_line_begins_no_head(start):
    service = start("hello", "--head-timeout", "200ms", "--idle-timeout", "1s")
    for data in (b"\r", b"\r\n"):
        with Connection(service.address) as fresh, Connection(service.address) as used:
            assert used.get().status == 200
            for connection in (fresh, used):
                connection.send(data)
            assert fresh.rest() == b"" and used.rest() == b""
        with Connection(service.address) as connection:
            connection.send(data)
            with pytest.raises(TimeoutError):
                connection.socket.settimeout(0.4)
                connection.socket.recv(1)
            connection.send(b"\r\n"[len(data) :] + request())
            assert connection.response().status == 200


def test_an_empty_line_does_not_hold_a_stop_up(start):
    service = start("hello", "--head-timeout", "60s", "--threads", "1")
    with Connection(service.address, deadline=30) as connection, Connection(service.address) as other:
        assert connection.get().status == 200
        connection.send(b"\r\n")
        assert other.get().status == 200
        service.send(signal.SIGTERM)
        assert connection.rest() == b""
    service.wait_end()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        words = stat.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_clients_wait_and_the_loop_does_not_spin(start):
    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    service = start("hello", "--threads", "1", "--max-connections", "1000", preexec=few_descriptors)
    assert service.log.find("warning")[0]["connections"] == 32
    address = service.address
    connections = [Connection(address).send(request()) for _ in range(100)]
    assert connections[0].response().status == 200
    with pytest.raises(TimeoutError):
        connections[-1].socket.settimeout(1)
        connections[-1].socket.recv(1)
    before = cpu_seconds(service.pid)
    with pytest.raises(TimeoutError):
        connections[-1].socket.recv(1)
    assert cpu_seconds(service.pid) - before < 0.5
    for connection in connections:
        if connection is not connections[0]:
            assert connection.response().status == 200
        connection.close()


def test_a_handler_that_blocks_for_ever_does_not_outlive_the_drain(server, folder):
    service = server("--drain-timeout", "300ms")
    os.mkfifo(folder / "fifo")
    with Connection(service.address) as connection:
        connection.send(request("GET", f"/block?fifo={folder / 'fifo'}"))
        with Connection(service.address) as other:
            assert other.get("/status").status == 200
        service.send(signal.SIGTERM)
        with pytest.raises(Closed):
            connection.response()
    assert service.log.wait_for("drained")["cut_requests"] == 1
    service.wait_end()


def test_a_client_that_stays_after_the_last_answer_is_not_waited_for(start):
    service = start("hello")
    with Connection(service.address) as connection:
        connection.send(b"nonsense\r\n\r\n")
        assert connection.response().status == 400
        assert connection.rest() == b""
        # Our end stays open; the server's must not, for long.
        eventually(lambda: other_end(connection), None)


def other_end(connection):
    """The server's end of a connection while a process has it; one that is left to the kernel has no
    inode."""
    own, other = (f"{name()[1]:04X}" for name in (connection.socket.getsockname, connection.socket.getpeername))
    with open("/proc/net/tcp", encoding="ascii") as table:
        for row in [line.split() for line in table][1:]:
            if row[1].endswith(f":{other}") and row[2].endswith(f":{own}") and row[9] != "0":
                return row
    return None
