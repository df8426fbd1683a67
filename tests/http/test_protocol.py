"""What a client may expect of the HTTP module, one thing a test."""

import os
import re
import socket
import struct

import pytest

from functional import eventually
from harness import processes
from harness.http import Closed, Connection, request

pytestmark = pytest.mark.threads


def lines(response):
    return response.body.decode("latin-1").split("\n")


def test_a_head_request_is_answered_by_the_handler_of_get_without_body(server):
    with Connection(server().address) as connection:
        whole = connection.get("/echo")
        head = connection.ask("HEAD", "/echo")
        assert head.status == 200 and head.body == b""
        assert int(head.header("Content-Length")) > 0
        assert connection.get("/echo").status == whole.status == 200


def test_a_request_says_what_the_client_sent(server):
    with Connection(server().address) as connection:
        answer = lines(
            connection.ask(
                "POST", "/echo?q=a%20b+c%2F&x", headers=[("X-Test", " some value ")], body=b"the body"
            )
        )
    assert "method POST" in answer and "path /echo" in answer
    assert "query q=a%20b+c%2F&x" in answer and "q a b c/" in answer
    assert "field X-Test: some value" in answer and "body 8 the body" in answer
    assert any(re.fullmatch(r"peer 127\.0\.0\.1:\d+", line) for line in answer)


def test_a_path_is_matched_decoded_and_its_parameters_come_out(server):
    with Connection(server().address) as connection:
        answer = lines(connection.ask("PUT", "/user/j%C3%BCrg"))
        assert "id j\u00c3\u00bcrg" in answer
        assert connection.ask("PUT", "/user/").status == 404
        assert connection.ask("PUT", "/user/a/b").status == 404
        assert "rest a/b.txt" in lines(connection.get("/static/a/b.txt"))
        assert "rest " in lines(connection.get("/static/"))
        assert connection.get("/%65cho").status == 200


def test_an_exact_route_goes_before_one_with_a_parameter(server):
    with Connection(server().address) as connection:
        assert connection.get("/user/me").body == b"here\n"
        other = connection.get("/user/you")
        assert other.status == 405 and other.header("Allow") == "PUT, OPTIONS"


def test_options_names_the_methods_of_a_path(server):
    with Connection(server().address) as connection:
        answer = connection.ask("OPTIONS", "/echo")
        assert answer.status == 204
        assert set(answer.header("Allow").split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
        assert answer.header("Content-Length") is None


def test_a_request_is_answered_from_another_thread(server):
    with Connection(server().address) as connection:
        for _ in range(20):
            assert connection.get("/later").body == b"from a thread\n"


def test_pipelined_requests_are_answered_in_order_whoever_answers(server):
    targets = ["/echo?q=1", "/later", "/stream?n=3", "/echo?q=2", "/watch?ms=20", "/stream-blocking", "/echo?q=3"]
    with Connection(server().address) as connection:
        connection.send(b"".join(request("GET", target) for target in targets))
        answers = [connection.response() for _ in targets]
    assert [answer.status for answer in answers] == [200] * len(targets)
    assert [lines(answers[i])[3] for i in (0, 3, 6)] == [lines(answers[i])[3] for i in (0, 3, 6)]
    assert "q 1" in lines(answers[0]) and "q 2" in lines(answers[3]) and "q 3" in lines(answers[6])
    assert answers[1].body == b"from a thread\n" and answers[2].body == b"x" * 30
    assert answers[4].body == b"here\n" and answers[5].body == b"x" * 100


def test_a_thousand_pipelined_requests_are_answered(server):
    with Connection(server().address) as connection:
        connection.send(request("GET", "/status?code=200") * 1000)
        for _ in range(1000):
            assert connection.response().status == 200


def test_a_streamed_answer_is_chunked_and_has_no_length(server):
    with Connection(server().address) as connection:
        answer = connection.get("/stream?n=3&size=10")
        assert answer.body == b"x" * 30 and answer.header("Transfer-Encoding") == "chunked"
        assert connection.get("/stream?n=3&size=10&length=30").header("Content-Length") == "30"
        assert connection.ask("HEAD", "/stream?n=3").body == b""
        assert connection.get("/stream?n=0").body == b""


def test_a_streamed_answer_to_1_0_ends_with_the_connection(server):
    with Connection(server().address) as connection:
        answer = connection.get("/stream?n=3", version="1.0", headers=[("Connection", "keep-alive")])
        assert answer.header("Transfer-Encoding") is None and answer.header("Connection") == "close"
        assert answer.body == b"x" * 30


def test_an_answer_shorter_than_its_length_closes_the_connection(server):
    with Connection(server().address) as connection:
        with pytest.raises(Closed):
            connection.get("/stream?n=1&size=10&length=30")


@pytest.mark.parametrize("target", ["/stream", "/stream-blocking"])
def test_a_large_answer_comes_whole_through_a_small_window(server, target):
    service = server()
    with Connection(service.address, deadline=60, receive_buffer=4096) as connection:
        answer = connection.get(f"{target}?n=200&size=65536")
        assert len(answer.body) == 200 * 65536 and answer.body.count(b"x") == len(answer.body)


@pytest.mark.parametrize("target", ["/stream", "/stream-blocking"])
@pytest.mark.parametrize("method,code", [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_the_writer_of_an_answer_without_body_does_not_wait(server, target, method, code):
    with Connection(server().address) as connection:
        # More often than the pool has threads.
        for _ in range(4):
            answer = connection.ask(method, f"{target}?n=50&size=65536&code={code}")
            assert answer.status == code and answer.body == b""
        assert connection.get("/stream-blocking?n=2&size=10").body == b"x" * 20


def test_an_answer_is_written_on_from_another_loop(server):
    service = server("--threads", "2")
    with Connection(service.address, deadline=60, receive_buffer=4096) as reader:
        for _ in range(20):
            # Each on a loop of the kernel's choice: not always on two.
            reader.send(request("GET", "/subscribe?n=40&size=65536"))
            status = 404
            while status == 404:
                with Connection(service.address) as writer:
                    status = writer.get("/publish").status
            assert reader.response().body == b"x" * 40 * 65536


def test_what_a_loop_writes_waits_its_turn_behind_what_a_thread_has_written(server):
    with Connection(server().address) as connection:
        for _ in range(20):
            assert connection.get("/in-turn").body == b"thread\n" * 3 + b"loop\n"


def memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024


@pytest.mark.plain
@pytest.mark.parametrize("target", ["/stream", "/stream-blocking"])
def test_a_client_that_does_not_read_stops_the_one_who_writes(server, target):
    service = server()
    before = memory(service.pid)
    with Connection(service.address, receive_buffer=4096) as connection:
        connection.send(request("GET", f"{target}?n=4000&size=65536"))
        with Connection(service.address) as other:
            for _ in range(200):
                assert other.get("/status").status == 200
        assert memory(service.pid) - before < 16 << 20
    with Connection(service.address) as other:
        assert other.get("/status").status == 200


def test_a_client_that_waits_for_100_gets_it_when_the_body_is_wanted(server):
    with Connection(server().address) as connection:
        head = request("POST", "/echo", headers=[("Content-Length", "3"), ("Expect", "100-continue")])
        connection.send(head)
        assert connection.response(interim=True).status == 100
        connection.send(b"abc")
        assert "body 3 abc" in lines(connection.response())
        connection.send(head.replace(b"/echo", b"/upload"))
        assert connection.response(interim=True).status == 100
        connection.send(b"abc")
        assert connection.response().body == b"took 3\n"


def test_a_client_that_waits_for_100_gets_the_refusal_instead(server):
    with Connection(server().address) as connection:
        fields = [("Content-Length", "2000000"), ("Expect", "100-continue")]
        connection.send(request("POST", "/echo", headers=fields))
        answer = connection.response(interim=True)
        assert answer.status == 413 and answer.header("Connection") == "close"
        assert connection.rest() == b""


def test_a_client_that_does_not_wait_for_100_gets_none(server):
    with Connection(server().address) as connection:
        head = request("POST", "/echo", headers=[("Content-Length", "3"), ("Expect", "100-continue")])
        connection.send(head + b"abc")
        assert connection.response(interim=True).status == 200


def test_a_body_is_streamed_in_pieces(server):
    with Connection(server().address, deadline=60) as connection:
        assert connection.ask("POST", "/upload", body=b"x" * 3_000_000).body == b"took 3000000\n"
        assert connection.ask("POST", "/upload", body=b"").body == b"took 0\n"
        chunks = b"".join(b"%x\r\n%s\r\n" % (n, b"y" * n) for n in (1, 10, 1000, 70000))
        connection.send(request("POST", "/upload", headers=[("Transfer-Encoding", "chunked")]))
        connection.send(chunks + b"0\r\n\r\n")
        assert connection.response().body == b"took 71011\n"


def test_a_paused_body_waits_in_the_kernel(server):
    service = server()
    with Connection(service.address, deadline=60) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.send(request("POST", "/upload?pause=500", headers=[("Content-Length", "6000000")]))
        connection.socket.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += connection.socket.send(b"x" * 65536)
        assert sent < 6_000_000
        connection.send(b"x" * (6_000_000 - sent))
        assert connection.response().body == b"took 6000000\n"


def test_a_streamed_body_beyond_its_limit_is_refused(server):
    service = server()
    with Connection(service.address) as connection:
        connection.send(request("POST", "/upload", headers=[("Content-Length", str(9 << 20))]))
        assert connection.response().status == 413
    with Connection(service.address, deadline=60) as connection:
        connection.send(request("POST", "/upload", headers=[("Transfer-Encoding", "chunked")]))
        try:
            for _ in range(10):
                connection.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        except Closed:
            pass
        assert connection.response().status == 413


def test_a_body_that_nobody_wants_is_skipped_or_ends_the_connection(server):
    service = server()
    with Connection(service.address) as connection:
        small = connection.ask("POST", "/refuse", body=b"x" * 1000)
        assert small.status == 403 and small.header("Connection") is None
        assert connection.get("/status").status == 200
    with Connection(service.address) as connection:
        connection.send(request("POST", "/refuse", headers=[("Content-Length", "500000")]))
        large = connection.response()
        assert large.status == 403 and large.header("Connection") == "close"
        # The client may finish sending: it is not reset while it does.
        connection.send(b"x" * 500_000)
        assert connection.end_sending().rest() == b""


def test_the_pool_refuses_with_503_when_its_queue_is_full_and_the_loop_serves_on(server, folder):
    service = server("--threads", "1")
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    waiting = [Connection(service.address) for _ in range(4)]  # 2 threads, 2 in the queue.
    try:
        for place, connection in enumerate(waiting):
            if place == 2:  # The queue is empty when both threads wait for the FIFO.
                eventually(lambda: list(processes.descriptors(service.pid).values())
                           .count(str(fifo)), 2)
            connection.send(request("GET", f"/block?fifo={fifo}"))
            with Connection(service.address) as other:  # Its answer proves that ours was read.
                assert other.get("/status").status == 200
        with Connection(service.address) as connection:
            refused = connection.get(f"/block?fifo={fifo}")
            assert refused.status == 503 and refused.header("Retry-After") == "1"
            assert connection.get("/status").status == 200
    finally:
        os.write(writer, b"x" * 16)
        for connection in waiting:
            assert connection.response().body == b"unblocked\n"
            connection.close()
        os.close(writer)


@pytest.mark.parametrize("count,delay", [(500, "3s"), pytest.param(5000, "20s", marks=pytest.mark.long)])
def test_requests_that_wait_cost_no_thread(start, count, delay):
    service = start("hello", "--threads", "1")
    with open(f"/proc/{service.pid}/status", encoding="ascii") as status:
        before = re.search(r"Threads:\s+(\d+)", status.read()).group(1)
    address = service.address
    connections = [Connection(address, deadline=60) for _ in range(count)]
    for connection in connections:
        connection.send(request("GET", f"/hello?delay={delay}"))
    with Connection(service.address) as other:
        assert other.get().status == 200
    with open(f"/proc/{service.pid}/status", encoding="ascii") as status:
        assert re.search(r"Threads:\s+(\d+)", status.read()).group(1) == before
    for connection in connections:
        assert connection.response().status == 200
        connection.close()


def reset(connection):
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_counts(service, wanted, target="/counts"):
    with Connection(service.address) as connection:
        for _ in range(20000):
            counts = connection.get(target).body
            if wanted in counts:
                return
    raise AssertionError(f"{counts!r} where {wanted!r} was expected")


def test_a_handler_is_told_that_its_client_has_closed_or_reset(server):
    service = server("--threads", "1")
    with Connection(service.address) as connection:
        connection.send(request("GET", "/watch?ms=300")).end_sending()
        assert connection.response().body == b"here\n"
        assert connection.rest() == b""
    wait_counts(service, b"closed 1 reset 0")
    with Connection(service.address) as connection:
        connection.send(request("GET", "/watch?ms=600000"))
        wait_counts(service, b"closed 1 reset 0")
        reset(connection)
    wait_counts(service, b"closed 1 reset 1")


@pytest.mark.parametrize("ms", [0, 1, 50])
@pytest.mark.parametrize("stays", [True, False], ids=["client_stays", "client_resets"])
def test_a_handler_that_waits_again_and_again_leaves_the_loop_to_others(server, ms, stays):
    service = server("--threads", "1")
    with Connection(service.address) as connection, Connection(service.address) as other:
        connection.send(request("GET", f"/poll?ms={ms}"))
        while b"polls 0 " in other.get("/polled").body:
            continue
        if not stays:
            reset(connection)
        for _ in range(50):
            assert other.get("/status").status == 200
        assert other.get("/release").status == 200
        if stays:
            assert connection.response().body == b"released\n"
    if not stays:
        wait_counts(service, b" gone 1\n", "/polled")


def test_a_wait_ends_early_once_when_the_client_has_gone(server):
    service = server("--threads", "1", "--drain-timeout", "0")
    with Connection(service.address) as connection:
        connection.send(request("GET", "/poll?ms=600000"))
        wait_counts(service, b"polls 1 ", "/polled")
        reset(connection)
    wait_counts(service, b"polls 2 ", "/polled")
    with Connection(service.address) as other:
        for _ in range(200):
            assert other.get("/polled").body == b"polls 2 gone 0\n"


def test_a_header_that_would_break_the_framing_is_refused(server):
    with Connection(server().address) as connection:
        answer = connection.get("/bad-headers")
        assert answer.status == 200 and answer.header("X") == "fine"
        assert answer.header("Set-Cookie") is None


def test_an_impossible_status_becomes_500(server):
    with Connection(server().address) as connection:
        assert connection.get("/status?code=99").status == 500
        assert connection.get("/status?code=204").body == b""
        assert connection.get("/status?code=304").header("Content-Length") is None


def test_a_unix_socket_is_served(server, folder):
    path = folder / "http.sock"
    service = server(listen=[f"unix://{path}"])
    with Connection(str(path)) as connection:
        answer = lines(connection.get("/echo"))
        assert "peer unix" in answer
    assert service.log.find("listening", address=f"unix://{path}")


def test_both_listeners_are_served_by_name(server):
    service = server(listen=["a=tcp://127.0.0.1:0", "b=tcp://127.0.0.1:0"])
    ports = {event["name"]: event["address"] for event in service.log.find("listening")}
    assert set(ports) == {"a", "b"} and ports["a"] != ports["b"]
    for address in ports.values():
        with Connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            assert connection.get("/status").status == 200


def test_a_connection_that_is_closed_by_the_client_is_forgotten(server):
    service = server("--threads", "1")
    with Connection(service.address) as keeper:
        keeper.get("/status")
        descriptors = len(os.listdir(f"/proc/{service.pid}/fd"))
        for _ in range(50):
            with Connection(service.address) as connection:
                connection.get("/status")
        for _ in range(1000):
            keeper.get("/status")
            if len(os.listdir(f"/proc/{service.pid}/fd")) == descriptors:
                return
    raise AssertionError("descriptors are left")


def test_a_client_that_ends_sending_gets_all_its_answers(server):
    service = server()
    for target in ("/status", "/stream?n=100&size=65536", "/later"):
        with Connection(service.address, deadline=60) as connection:
            connection.send(request("GET", target) * 3).end_sending()
            assert [connection.response().status for _ in range(3)] == [200] * 3
            assert connection.rest() == b""
