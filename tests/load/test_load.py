"""segue-load against a server that misbehaves in every way it has a name for: the counts are exact.

Whatever happens, each request that was started has one outcome; every run here checks that.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from misbehaving import Server, answer

LIMIT = 60  # seconds that one run may take

CLOSE = b"Connection: close\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Done:
    """A run that has ended: its exit code, its last object, and the events before that."""

    def __init__(self, code, output):
        self.code = code
        self.events = [json.loads(line) for line in output.splitlines()]
        self.result = self.events[-1]
        if self.result["event"] == "result":
            self.check()

    def check(self):
        result = self.result
        assert sum(result["outcomes"].values()) == result["requests"]
        assert sum(shape["requests"] for shape in result["shapes"].values()) == result["requests"]
        for shape in result["shapes"].values():
            assert sum(shape["outcomes"].values()) == shape["requests"]
        assert result["ok"] == result["outcomes"]["ok"]

    @property
    def outcomes(self):
        """Those that are not zero."""
        return {name: count for name, count in self.result["outcomes"].items() if count}

    @property
    def closes(self):
        return {
            name: count
            for name, count in self.result["connections"].items()
            if count and name.startswith("idle_")
        }


@pytest.fixture
def program(build):
    return build.program("src/load/segue-load")


@pytest.fixture
def run(program):
    """run(url, options...) runs segue-load to its end; a Done."""

    def run_one(url, *options, **more):
        done = subprocess.run(
            [program, "--json", *map(str, options), getattr(url, "url", url)],
            stdout=subprocess.PIPE, timeout=LIMIT, check=False, **more,
        )
        return Done(done.returncode, done.stdout)

    return run_one


def serving(reply):
    """A script that gives reply(connection, how manieth request) to each request."""

    def script(connection):
        count = 0
        while connection.request() is not None:
            connection.send(reply(connection, count) if callable(reply) else reply)
            count += 1

    return script


def once(reply, end="close"):
    """A script that gives one reply (none if empty) and ends the connection."""

    def script(connection):
        if connection.request() is not None:
            connection.send(reply)
            getattr(connection, end)()

    return script


# What is as it should be.


@pytest.mark.parametrize(
    "shape", ["new", "keepalive", "post", "pipeline", "idle", "half", "slow"]
)
def test_all_requests_of_a_shape_are_answered(run, shape):
    received = []

    def reply(connection, _):
        received.append(connection)
        return answer()

    more = ":20ms" if shape in ("idle", "half") else ":4000" if shape == "slow" else ""
    with Server(serving(reply)) as server:
        done = run(server, f"--{shape}", f"3{more}", "--requests", 30, "--expect", "hello")
    assert done.code == 0
    assert done.outcomes == {"ok": 30}
    assert len(received) == 30
    assert done.closes == {}
    assert done.result["connections"]["opened"] == (30 if shape == "new" else 3)
    assert done.result["latency_us"]["count"] == 30
    running = [event for event in done.events if event["event"] == "running"]
    assert len(running) == 1 and running[0]["connections"] == 3


def test_shapes_are_mixed_and_counted_apart(run):
    with Server(serving(answer())) as server:
        done = run(
            server, "--new", 2, "--keepalive", 2, "--post", 2, "--pipeline", "2:5",
            "--idle", "2:50ms", "--half", "2:50ms", "--slow", "2:2000", "--requests", 2000,
        )
    assert done.code == 0
    assert done.outcomes == {"ok": 2000}
    assert len(done.result["shapes"]) == 7
    assert all(shape["requests"] >= 2 for shape in done.result["shapes"].values())


@pytest.mark.parametrize(
    "bytes_of_answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(),
        CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["continue", "early_hints", "chunked", "http10"],
)
def test_every_form_of_a_whole_answer_is_ok(run, bytes_of_answer):
    def in_pieces(connection):
        while connection.request() is not None:
            for byte in bytes_of_answer:
                connection.send(bytes([byte]))

    with Server(serving(bytes_of_answer)) as server:
        done = run(server, "--requests", 20, "--expect", "hello")
    assert done.outcomes == {"ok": 20} and done.result["connections"]["opened"] == 1
    with Server(in_pieces) as server:
        done = run(server, "--requests", 20, "--expect", "hello")
    assert done.outcomes == {"ok": 20} and done.result["connections"]["opened"] == 1


def test_a_body_may_be_ended_by_the_end_of_the_connection(run):
    with Server(once(answer(length=False))) as server:
        done = run(server, "--requests", 3, "--expect", "hello")
    assert done.outcomes == {"ok": 3}
    assert done.closes == {"idle_closed_announced": 3}


def test_the_answer_to_head_has_no_body(run):
    head = answer(b"hello").removesuffix(b"hello")
    with Server(serving(head)) as server:
        done = run(server, "--method", "HEAD", "--requests", 5)
    assert done.code == 0 and done.outcomes == {"ok": 5}


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unix_socket_is_served(run, folder, abstract):
    path = f"{folder}/a:b"
    name = b"\0" + path.encode() if abstract else path
    url = "@" + path.replace(":", "%3A") if abstract else path.replace(":", "%3A")
    heads = []

    def script(connection):
        while (head := connection.request()) is not None:
            heads.append(head)
            connection.send(answer())

    with Server(script, address=name) as server:
        done = run(f"http+unix://{url}:/path?x=:/", "--new", 2, "--post", 2, "--requests", 20)
        assert server.accepted > 2
    assert done.code == 0 and done.outcomes == {"ok": 20}
    assert any(head.startswith(b"GET /path?x=:/ HTTP/1.1\r\nHost: localhost") for head in heads)


def test_a_full_backlog_of_a_unix_socket_is_waited_for(run, folder):
    with Server(serving(answer()), address=f"{folder}/socket", backlog=0):
        done = run(f"http+unix://{folder}/socket", "--keepalive", 50, "--requests", 500)
    assert done.code == 0 and done.outcomes == {"ok": 500}


def test_ipv6_is_served(run):
    with Server(serving(answer()), address=("::1", 0)) as server:
        done = run(f"http://[::1]:{server.port}/", "--requests", 5)
    assert done.code == 0 and done.outcomes == {"ok": 5}


def test_headers_are_sent(run):
    heads = []

    def script(connection):
        while (head := connection.request()) is not None:
            heads.append(head)
            connection.send(answer())

    with Server(script) as server:
        run(server, "--requests", 1, "--header", "A: b", "--header", "Host: other")
    assert heads[0].split(b"\r\n")[1:] == [b"A: b", b"Host: other"]


# Losses, each by its name.


def test_nothing_listens_is_refused(run, folder):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        done = run(url, "--keepalive", 2, "--requests", 5)
    assert done.code == 1 and done.outcomes == {"refused": 5}
    assert done.result["losses"][0]["error"] == "Connection refused"
    assert run(f"http+unix://{folder}/none", "--requests", 2).outcomes == {"refused": 2}
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/stale")
    assert run(f"http+unix://{folder}/stale", "--requests", 2).outcomes == {"refused": 2}


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_no_connection_in_time_is_a_connect_timeout(run, folder, family):
    if family == "tcp":
        address = ("127.0.0.1", 0)
        listener = socket.socket()
    else:
        address = f"{folder}/socket"
        listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(address)
        listener.listen(0)
        address = listener.getsockname()
        url = f"http://127.0.0.1:{address[1]}/" if family == "tcp" else f"http+unix://{address}"
        waiting = [socket.socket(listener.family) for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        done = run(url, "--connect-timeout", "300ms", "--keepalive", 2, "--requests", 4)
        for sock in waiting:
            sock.close()
    assert done.code == 1 and done.outcomes == {"connect_timeout": 4}


def test_a_reset_before_the_connection_is_made_is_reset_connecting(run, build):
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{build.folder}/tests/load/slow_connect.so",
        "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0",
    }
    with Server(lambda connection: connection.reset()) as server:
        done = run(server, "--requests", 3, env=environment)
        assert server.accepted == 3
    assert done.code == 1 and done.outcomes == {"reset_connecting": 3}


@pytest.mark.parametrize("end", ["close", "reset"])
def test_closed_before_the_first_answer_is_fresh_closed(run, end):
    with Server(once(b"", end)) as server:
        done = run(server, "--new", 1, "--keepalive", 1, "--requests", 6)
        assert server.accepted == 6
    assert done.code == 1 and done.outcomes == {"fresh_closed": 6}
    assert {loss["answered_before"] for loss in done.result["losses"]} == {0}
    errors = {loss.get("error") for loss in done.result["losses"]}
    assert errors == ({None} if end == "close" else {"Connection reset by peer"})


def test_a_connection_that_nobody_accepted_is_fresh_closed(program):
    """It waits in the backlog, its request sent, when the listener closes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        # Two requests on one connection: the first is answered by hand, the second is not read.
        with subprocess.Popen(
            [program, "--json", "--new", "1", "--requests", "2", url], stdout=subprocess.PIPE
        ) as load:
            first, _ = listener.accept()
            with first:
                first.recv(65536)
                first.sendall(answer())
            # The second one is in the backlog as soon as the listener is readable.
            assert select.select([listener], [], [], LIMIT)[0]
            listener.close()
            output, _ = load.communicate(timeout=LIMIT)
    done = Done(load.returncode, output)
    lost = done.outcomes.pop("fresh_closed", 0) + done.outcomes.pop("reset_connecting", 0)
    assert done.result["ok"] == 1 and lost == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_closed_instead_of_a_further_answer_is_used_closed(run, end):
    received = []

    def script(connection):
        if connection.request() is not None:
            received.append(1)
            connection.send(answer())
            if connection.request() is not None:
                received.append(2)
                getattr(connection, end)()

    with Server(script) as server:
        done = run(server, "--post", 1, "--requests", 6)
    assert done.code == 1 and done.outcomes == {"ok": 3, "used_closed": 3}
    assert received == [1, 2] * 3, "a lost request is never sent again"
    assert {loss["answered_before"] for loss in done.result["losses"]} == {1}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "part",
    [
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        answer()[:-1],
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["first_byte", "head", "body", "chunk", "last_chunk", "interim"],
)
def test_a_part_of_an_answer_is_truncated(run, part, end):
    with Server(once(part, end)) as server:
        done = run(server, "--requests", 3)
    assert done.code == 1 and done.outcomes == {"truncated": 3}


def test_a_reset_within_a_body_that_the_end_delimits_is_truncated(run):
    with Server(once(answer(length=False), "reset")) as server:
        done = run(server, "--requests", 3)
    assert done.outcomes == {"truncated": 3}


def test_answers_are_told_apart_by_status(run):
    statuses = [b"200 OK", b"302 Found", b"404 Not Found", b"500 Oh", b"503 Busy", b"201 Made"]

    def reply(_, count):
        return answer(status=statuses[count % 6])

    with Server(serving(reply)) as server:
        done = run(server, "--requests", 12)
    assert done.code == 1
    assert done.outcomes == {"ok": 6, "status_4xx": 2, "status_5xx": 4}
    assert done.result["connections"]["opened"] == 1, "an error leaves the connection alive"
    assert [loss["status"] for loss in done.result["losses"]] == [404, 500, 503] * 2


@pytest.mark.parametrize(
    "bytes_of_answer",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        answer(headers=b"Content-Length: 5\r\n"),
        CHUNKED + b"five\r\n",
        CHUNKED + b"5\r\nhelloXX",
    ],
    ids=["other_protocol", "status", "line_feed", "folded", "two_lengths", "chunk_size", "chunk"],
)
def test_what_is_no_answer_is_malformed(run, bytes_of_answer):
    with Server(serving(bytes_of_answer)) as server:
        done = run(server, "--requests", 3)
        assert server.accepted == 3, "nothing more is read from such a connection"
    assert done.code == 1 and done.outcomes == {"malformed": 3}
    assert done.result["losses"][0]["why"]


def test_no_answer_in_time_is_a_timeout(run):
    def script(connection):
        while connection.more():
            pass

    with Server(script) as server:
        done = run(server, "--keepalive", 2, "--timeout", "200ms", "--requests", 4)
    assert done.code == 1 and done.outcomes == {"timeout": 4}


def test_half_an_answer_in_time_is_a_timeout(run):
    def script(connection):
        connection.request()
        connection.send(answer()[:-1])
        connection.request()

    with Server(script) as server:
        done = run(server, "--timeout", "200ms", "--requests", 2)
    assert done.outcomes == {"timeout": 2}


def test_a_wrong_body_is_counted(run):
    def reply(connection, count):
        return answer(connection.body if count % 3 else b"other")

    with Server(serving(reply)) as server:
        done = run(server, "--post", 1, "--body-size", 5000, "--echo", "--requests", 9)
        assert done.outcomes == {"ok": 6, "wrong_body": 3}
        done = run(server, "--expect", "hello", "--requests", 1)
        assert done.code == 1 and done.outcomes == {"wrong_body": 1}


@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_answer_before_the_whole_request_was_sent_counts(run, end):
    def script(connection):
        while b"\r\n\r\n" not in connection.unread:
            connection.more()
        connection.send(answer(status=b"413 Too Large", headers=CLOSE))
        getattr(connection, end)()

    with Server(script) as server:
        done = run(server, "--post", 1, "--body-size", 16 << 20, "--requests", 5)
        assert server.accepted == 5
    assert done.outcomes == {"status_4xx": 5}


def test_a_connection_with_half_a_request_behind_an_answer_is_not_used_again(run):
    """Nothing but its head is read of a request, so that its rest (more than the kernel keeps on both
    sides together) is never sent; and nobody but the client can end the connection."""

    def script(connection):
        while b"\r\n\r\n" not in connection.unread and connection.more():
            pass
        connection.send(answer())
        connection.hold()

    with Server(script, receive_buffer=4096) as server:
        done = run(server, "--post", 1, "--body-size", 16 << 20, "--requests", 3)
        assert server.accepted == 3
    assert done.code == 0 and done.outcomes == {"ok": 3} and done.closes == {}


# Pipelining: who is lost with whom.


def pipelined(reply, end="close", count=4):
    """A script that waits for a number of requests, gives one reply for all, and ends."""

    def script(connection):
        for _ in range(count):
            if connection.request() is None:
                return
        connection.send(reply)
        if end:
            getattr(connection, end)()
        else:
            connection.request()

    return script


@pytest.mark.parametrize(
    "reply, outcomes",
    [
        (b"", {"fresh_closed": 4}),
        (answer(), {"ok": 1, "used_closed": 3}),
        (answer() * 2 + b"HTTP", {"ok": 2, "truncated": 1, "used_closed": 1}),
        (answer() + b"nonsense", {"ok": 1, "malformed": 3}),
        (answer(status=b"500 Oh") * 3, {"status_5xx": 3, "used_closed": 1}),
        (answer() * 4, {"ok": 4}),
    ],
    ids=["none", "one", "part", "nonsense", "errors", "all"],
)
def test_a_closed_pipeline_loses_all_that_is_in_flight(run, reply, outcomes):
    with Server(pipelined(reply)) as server:
        done = run(server, "--pipeline", "1:4", "--requests", 4)
    assert done.outcomes == outcomes


def test_what_is_in_flight_behind_an_announced_close_is_lost(run):
    with Server(pipelined(answer() + answer(headers=CLOSE) + answer())) as server:
        done = run(server, "--pipeline", "1:4", "--requests", 4)
    assert done.outcomes == {"ok": 2, "used_closed": 2}
    assert done.closes == {"idle_closed_announced": 1}


def test_the_timeout_of_a_pipeline_ends_all_that_is_in_flight(run):
    with Server(pipelined(answer(), end=None)) as server:
        done = run(server, "--pipeline", "1:4", "--requests", 4, "--timeout", "200ms")
    assert done.outcomes == {"ok": 1, "timeout": 3}


# Idle connections.


def test_an_announced_close_is_counted_apart_and_costs_nothing(run):
    with Server(once(answer(headers=CLOSE))) as server:
        done = run(server, "--idle", "1:10ms", "--keepalive", 1, "--requests", 6)
        assert server.accepted == 6
    assert done.code == 0 and done.outcomes == {"ok": 6}
    assert done.closes == {"idle_closed_announced": 6}
    assert done.result["closed"] == 6


@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_unannounced_close_while_idle_is_counted_apart(run, end):
    def script(connection):
        connection.request()
        connection.send(answer())
        if connection.number < 2:
            getattr(connection, end)()
        else:
            connection.request()

    with Server(script) as server:
        done = run(server, "--idle", "1:500ms", "--requests", 3)
        assert server.accepted == 3
    assert done.outcomes == {"ok": 3}
    assert done.closes == {"idle_closed_unannounced": 2}
    assert done.code == 1


def test_bytes_that_answer_nothing_are_counted_apart(run):
    timeout = answer(status=b"408 Request Timeout", headers=CLOSE)
    with Server(serving(answer() + timeout)) as server:
        done = run(server, "--idle", "1:20ms", "--requests", 3)
    assert done.outcomes == {"ok": 3}
    assert done.closes == {"idle_unsolicited": 3}
    assert done.code == 1


def test_a_new_connection_that_asked_for_the_close_counts_none(run):
    with Server(once(answer(headers=CLOSE))) as server:
        done = run(server, "--new", 2, "--requests", 10)
    assert done.code == 0 and done.outcomes == {"ok": 10} and done.closes == {}


# Half a head.


def test_half_a_head_is_sent_and_completed_after_the_think_time(run):
    halves = []

    def script(connection):
        while connection.request() is not None:
            connection.send(answer())
            connection.more()
            halves.append(connection.unread)

    with Server(script) as server:
        done = run(server, "--half", "1:200ms", "--requests", 4, "--expect", "hello")
    assert done.code == 0 and done.outcomes == {"ok": 4}
    # With the last request there is nothing to wait for: it is completed at once.
    assert halves[:2] == [b"GET /hello HTTP/1.1\r\nHo"] * 2 and len(halves) == 4
    assert done.result["latency_us"]["max"] < 200000, "latency counts from the completion"


def test_a_close_after_half_a_head_loses_that_request(run):
    def script(connection):
        connection.request()
        connection.send(answer())
        connection.more()
        connection.close()

    with Server(script) as server:
        done = run(server, "--half", "1:20s", "--requests", 4)
    assert done.outcomes == {"ok": 2, "used_closed": 2}
    assert done.closes == {}


# Time.


def test_a_slow_reader_takes_its_time(run):
    with Server(serving(answer(b"x" * 3000))) as server:
        done = run(server, "--slow", "1:10000", "--keepalive", 1, "--requests", 20)
        slow, fast = done.result["shapes"]["slow"], done.result["shapes"]["keepalive"]
        assert done.outcomes == {"ok": 20}
        assert fast["latency_us"]["p50"] < slow["latency_us"]["p50"]
        done = run(server, "--slow", "1:10000", "--requests", 2)
    assert done.outcomes == {"ok": 2}
    assert done.result["elapsed_ms"] > 500


def test_an_open_loop_counts_latency_from_when_a_request_was_due(program):
    """The first answer is held until half a second is over; the requests that were due meanwhile
    are late, though each is answered at once when it is sent."""
    go = threading.Event()

    def reply(_, count):
        assert count or go.wait(LIMIT)
        return answer()

    command = [program, "--json", "--rate", "100", "--duration", "1s", "--progress", "500ms"]
    with Server(serving(reply)) as server:
        with subprocess.Popen([*command, server.url], stdout=subprocess.PIPE) as load:
            first = load.stdout.readline()
            go.set()
            output, _ = load.communicate(timeout=LIMIT)
    done = Done(load.returncode, first + output)
    assert done.events[0]["event"] == "progress" and done.events[0]["ok"] == 0
    assert done.code == 0
    assert done.result["requests"] + done.result["not_started"] == 100
    assert done.result["latency_us"]["p90"] > 200000


def test_an_open_loop_tells_what_it_could_not_start(run):
    def script(connection):
        while connection.more():
            pass

    with Server(script) as server:
        done = run(server, "--rate", 100, "--duration", "500ms", "--timeout", "1s",
                   "--keepalive", 3)
    assert done.outcomes == {"timeout": 3}
    assert done.result["not_started"] == 47


def test_an_open_loop_keeps_its_rate(run):
    with Server(serving(answer())) as server:
        done = run(server, "--rate", 200, "--new", 2, "--keepalive", 2, "--pipeline", "2:4",
                   "--duration", "1s")
    assert done.code == 0
    assert done.result["requests"] + done.result["not_started"] == 200
    assert all(shape["requests"] > 20 for shape in done.result["shapes"].values())


def test_an_open_loop_goes_on_after_losses(run):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        done = run(url, "--rate", 200, "--keepalive", 2, "--requests", 50)
    assert done.outcomes == {"refused": 50}


# Counting by a header.


def test_answers_are_counted_by_a_header(run):
    generations = [b"1", b"1", b"2", None, b"1", b"2", b"1"]

    def reply(_, count):
        value = generations[count]
        return answer(headers=b"segue-generation: %s\r\n" % value if value else b"")

    with Server(serving(reply)) as server:
        done = run(server, "--requests", 7, "--count-header", "Segue-Generation")
    header = done.result["header"]
    assert header["values"] == {"1": 4, "2": 2}
    assert header["missing"] == 1 and header["other"] == 0
    assert header["connections_backwards"] == 1
    assert header["seen"]["1"]["first_ms"] <= header["seen"]["2"]["first_ms"]
    assert header["seen"]["2"]["last_ms"] <= header["seen"]["1"]["last_ms"]


def test_a_number_that_grows_is_not_backwards(run):
    def reply(connection, count):
        return answer(headers=b"G: %d\r\n" % (count + 8 - connection.number))

    with Server(serving(reply)) as server:
        done = run(server, "--keepalive", 3, "--requests", 60, "--count-header", "g")
    assert sum(done.result["header"]["values"].values()) == 60
    assert done.result["header"]["connections_backwards"] == 0


# The run in steps.


def test_the_timeline_tells_when(run):
    """Half a second with good answers, then with bad ones and closes: the sums are the result's, and
    each kind stands where it happened."""
    begun = []

    def script(connection):
        begun.append(time.monotonic())
        while connection.request() is not None:
            good = time.monotonic() - begun[0] < 0.5
            connection.send(answer(status=b"200 OK" if good else b"503 Busy"))
            if not good:
                connection.close()
                return

    with Server(script) as server:
        done = run(server, "--idle", "2:10ms", "--duration", "1s", "--timeline")
    line = done.result["timeline"]
    assert line["step_ms"] == 100 and line["steps"] >= 10
    rows = [line["ok"], *line["failures"].values(), *line["closes"].values(), *line["latency_us"].values()]
    assert {len(row) for row in rows} == {line["steps"]}
    assert sum(line["ok"]) == done.result["ok"] and line["ok"][0] > 0
    assert set(line["failures"]) == {"status_5xx"}
    assert sum(line["failures"]["status_5xx"]) == done.outcomes["status_5xx"]
    assert sum(line["failures"]["status_5xx"][:5]) == 0
    assert sum(line["closes"]["idle_closed_unannounced"]) == done.closes["idle_closed_unannounced"]
    answered = [longest for longest in line["latency_us"]["max"] if longest is not None]
    assert max(answered) == int(done.result["latency_us"]["max"])
    for p50, p99, longest in zip(*line["latency_us"].values()):
        assert p50 is None or p50 <= p99 <= longest


def test_steps_in_which_nothing_was_answered_are_there_and_say_so(run):
    def script(connection):
        connection.request()
        connection.send(answer())
        while connection.more():
            pass

    with Server(script) as server:
        done = run(server, "--requests", 2, "--timeout", "500ms", "--timeline")
    line = done.result["timeline"]
    assert line["latency_us"]["p50"][1:4] == [None] * 3 and line["ok"][1:4] == [0] * 3
    assert done.outcomes == {"ok": 1, "timeout": 1}
    assert line["steps"] >= 5 and sum(line["failures"]["timeout"]) == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the kernel keeps no such account")
def test_the_time_without_a_processor_is_told(program):
    """It shares one with a program that never rests."""
    processor = min(os.sched_getaffinity(0))

    def share():
        os.sched_setaffinity(0, {processor})

    def yield_to_it():
        share()
        os.nice(5)

    with Server(serving(answer())) as server:
        with subprocess.Popen(["sh", "-c", "while :; do :; done"], preexec_fn=share) as busy:
            command = [program, "--duration", "500ms", server.url]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=yield_to_it).stdout
            done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True, preexec_fn=yield_to_it)
            busy.kill()
    waited = json.loads(done.stdout.splitlines()[-1])["waited_ms"]
    assert waited >= 50
    assert re.search(r"^This program waited \d+\.\d s for a processor", said, re.M)


def test_without_the_option_there_is_no_timeline(run):
    with Server(serving(answer())) as server:
        assert "timeline" not in run(server, "--requests", 2).result


# The end.


def hold(program, *options):
    """A load whose only request has reached the server, which holds the answer until go is set."""
    go, reached = threading.Event(), threading.Event()

    def reply(_, count):
        reached.set()
        assert go.wait(LIMIT)
        return answer()

    server = Server(serving(reply))
    load = subprocess.Popen(
        [program, "--json", *options, "--duration", "50s", server.url], stdout=subprocess.PIPE
    )
    return server, load, go, reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_in_flight_end(program, number):
    server, load, go, reached = hold(program)
    with server, load:
        assert reached.wait(LIMIT)
        load.send_signal(number)
        # It has heard when the signal is pending no more.
        pending = 1
        while pending:
            with open(f"/proc/{load.pid}/status", encoding="ascii") as status:
                fields = dict(line.split(":", 1) for line in status)
            pending = int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)
        go.set()
        output, _ = load.communicate(timeout=LIMIT)
    done = Done(load.returncode, output)
    assert done.code == 0 and done.outcomes == {"ok": 1}


def test_a_second_signal_abandons_what_is_in_flight(program):
    server, load, go, reached = hold(program)
    with server, load:
        assert reached.wait(LIMIT)
        load.send_signal(signal.SIGINT)
        load.send_signal(signal.SIGTERM)
        output, _ = load.communicate(timeout=LIMIT)
        go.set()
    done = Done(load.returncode, output)
    assert done.outcomes == {"abandoned": 1} and done.result["lost"] == 0


def test_a_signal_completes_half_heads(program):
    with Server(serving(answer())) as server:
        with subprocess.Popen(
            [program, "--json", "--half", "5:40s", "--duration", "50s", server.url],
            stdout=subprocess.PIPE,
        ) as load:
            running = load.stdout.readline()
            load.send_signal(signal.SIGTERM)
            output, _ = load.communicate(timeout=LIMIT)
    done = Done(load.returncode, running + output)
    assert json.loads(running)["event"] == "running"
    assert done.code == 0 and done.outcomes == {"ok": 10}


def test_the_duration_ends_the_load(run):
    with Server(serving(answer())) as server:
        done = run(server, "--duration", "300ms", "--keepalive", 2)
    assert done.code == 0 and done.result["elapsed_ms"] >= 300


def test_some_losses_may_be_allowed(run):
    with Server(once(b"")) as server:
        assert run(server, "--requests", 3, "--max-lost", 2).code == 1
        assert run(server, "--requests", 3, "--max-lost", 3).code == 0


def test_more_connections_than_descriptors_is_said_before_the_start(run):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    done = run("http://127.0.0.1:1/", "--idle", 100, preexec_fn=limit, stderr=subprocess.DEVNULL)
    assert done.code == 3
    assert done.result["event"] == "error" and done.result["outcome"] == "own_limit"
    assert "100 connections need 116 descriptors" in done.result["message"]


def test_a_limit_that_is_met_on_the_way_is_its_own(run):
    """The limit has room for the connections, but others have taken half of it."""
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 12, max(taken) + 12))

    with Server(serving(answer())) as server:
        done = run(server, "--keepalive", max(taken) - 10, "--requests", 200, "--pause", "1ms",
                   preexec_fn=limit, pass_fds=taken, stderr=subprocess.DEVNULL)
    for fd in taken:
        os.close(fd)
    assert done.code == 3
    assert set(done.outcomes) == {"ok", "own_limit"} and done.result["lost"] == 0


def test_an_unknown_host_and_wrong_usage_have_their_own_exit_codes(program):
    def code(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, check=False).returncode

    assert code("http://[1:2:3]/") == 3
    assert code("--nonsense") == 2
    assert code() == 2
    assert code("https://localhost/") == 2
    assert code("--help") == 0
    assert code("--version") == 0


NOTHING = "0 connections send nothing: name at least one (see --help)"


@pytest.mark.parametrize("options, said", [
    (("--keepalive", "0", "--requests", "1"), NOTHING),
    (("--new", "0", "--idle", "0:1s", "--restart", "true", "--count", "1"), NOTHING),
    (("--report", "-", "--requests", "1"), "--report: '-' is no name of a file; standard output has the result as text"),
])
def test_what_could_only_be_a_mistake_is_refused_before_anything_is_sent(program, folder, options, said):
    with Server(serving(answer())) as server:
        done = subprocess.run([program, *options, server.url], capture_output=True, check=False, text=True,
                              timeout=LIMIT, cwd=folder)
        assert server.accepted == 0
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"segue-load: {said}\n")
    assert os.listdir(folder) == []


def test_no_connection_of_one_shape_is_none_where_there_are_others(run):
    with Server(serving(answer())) as server:
        done = run(server, "--keepalive", 0, "--new", 2, "--requests", 4)
    assert {name: shape["connections"] for name, shape in done.result["shapes"].items()} == {"new": 2}


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_result_that_cannot_be_written_is_no_good_one(program, options):
    with Server(serving(answer())) as server, open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run([program, *options, "--requests", "4", server.url], stdout=full,
                              stderr=subprocess.PIPE, check=False, text=True, timeout=LIMIT)
    assert done.returncode == 3
    assert done.stderr == "segue-load: the result could not be written whole to standard output\n"


def test_the_text_result_says_it_in_a_sentence(program):
    def text(server, *options):
        done = subprocess.run(
            [program, "--requests", "4", *options, server.url], stdout=subprocess.PIPE,
            check=False, text=True, timeout=LIMIT,
        )
        return done.stdout

    with Server(serving(answer(headers=b"G: 7\r\n"))) as server:
        said = text(server, "--count-header", "G")
    assert said.startswith("None of 4 requests was lost")
    assert "Answers by G\n  7 " in said and "refused" not in said
    with Server(once(b"")) as server:
        said = text(server)
    assert said.startswith("4 of 4 requests were lost")
    assert "fresh_closed" in said


# Many.


def serve_many(listener, stop):
    """Answers whatever ends with an empty line, in one thread."""
    epoll, socks = select.epoll(), {}
    listener.setblocking(False)
    epoll.register(listener, select.EPOLLIN)
    epoll.register(stop, select.EPOLLIN)
    reply = answer()
    while True:
        for fd, _ in epoll.poll():
            if fd == stop.fileno():
                for sock in socks.values():
                    sock.close()
                epoll.close()
                return
            if fd == listener.fileno():
                try:
                    while True:
                        sock, _ = listener.accept()
                        socks[sock.fileno()] = sock
                        epoll.register(sock, select.EPOLLIN)
                except BlockingIOError:
                    continue
            data = socks[fd].recv(65536)
            if data.endswith(b"\r\n\r\n"):
                socks[fd].send(reply)
            elif not data:
                socks.pop(fd).close()


@pytest.mark.plain
def test_ten_thousand_connections_idle_in_one_thread(run):
    stopped, stop = socket.socketpair()
    with socket.socket() as listener, stopped:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        thread = threading.Thread(target=serve_many, args=(listener, stopped), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        done = run(url, "--idle", "9000:2s", "--half", "1000:2s", "--requests", 20000)
        stop.close()
        thread.join(LIMIT)
    assert done.code == 0 and done.outcomes == {"ok": 20000}
    assert done.closes == {} and done.result["connections"]["opened"] == 10000
