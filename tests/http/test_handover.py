"""Live connections over an upgrade: what moves, what stays, what is counted."""

import pathlib
import signal

import pytest

from harness.builds import put_program
from harness.http import Closed, Connection, request
from upgrades import HELD, begun, follows

pytestmark = pytest.mark.threads


def upgrade(service, number=2):
    service.send(signal.SIGUSR2)
    return service.wait_generation(number)


def gone(service, generation=1):
    return service.log.wait_for("gone", generation=generation)


def drained(service, generation=1):
    return service.log.wait_for("drained", generation=generation)


def test_idle_connections_live_on_in_the_successor(start):
    service = start("hello")
    with Connection(service.address) as used, Connection(service.address) as fresh:
        assert used.get().generation == 1
        upgrade(service)
        gone(service)
        assert drained(service)["moved"] == 2
        assert used.get().generation == 2 and fresh.get().generation == 2
        upgrade(service, 3)
        gone(service, 2)
        assert used.get().generation == 3 and fresh.get().generation == 3


def test_half_a_head_travels_with_its_connection(start):
    service = start("hello")
    data = request("POST", body=b"abc")
    # Not the body: with its head whole the request has begun, and its predecessor answers.
    ends = range(1, data.index(b"\r\n\r\n") + 4)
    connections = [Connection(service.address) for _ in ends]
    for end, connection in zip(ends, connections):
        connection.send(data[:end])
    with Connection(service.address) as other:
        assert other.get().generation == 1
    upgrade(service)
    gone(service)
    for end, connection in zip(ends, connections):
        assert connection.send(data[end:]).response().generation == 2
        assert connection.get().generation == 2
        connection.close()
    assert drained(service)["cut_requests"] == 0


def test_a_request_in_flight_is_answered_here_and_its_connection_follows(start):
    service = start("hello", "--threads", "1")
    with Connection(service.address) as connection, Connection(service.address) as idle:
        assert idle.get().generation == 1
        connection.send(HELD[:-1])
        begun(service)
        upgrade(service)
        follows(idle)
        answer = connection.send(HELD[-1:]).response()
        assert answer.generation == 1 and answer.header("Connection") is None
        assert connection.get().generation == 2
    gone(service)


def test_pipelined_requests_behind_one_in_flight_are_answered_by_the_successor(start):
    service = start("hello", "--threads", "1")
    with Connection(service.address) as connection, Connection(service.address) as idle:
        assert idle.get().generation == 1
        connection.send(HELD[:-1])
        begun(service)
        upgrade(service)
        follows(idle)
        connection.send(HELD[-1:] + request() * 3)
        assert [connection.response().generation for _ in range(4)] == [1, 2, 2, 2]
    gone(service)


def test_a_body_that_has_begun_is_read_to_its_end_here(start):
    service = start("hello", "--threads", "1")
    with Connection(service.address) as connection, Connection(service.address) as idle:
        assert idle.get().generation == 1
        data = request("POST", body=b"x" * 1000)
        connection.send(data[:-500])
        begun(service)
        upgrade(service)
        follows(idle)
        connection.send(data[-500:])
        assert connection.response().generation == 1
        assert connection.get().generation == 2
    gone(service)


def test_a_stream_in_flight_is_finished_here(server):
    service = server()
    with Connection(service.address, deadline=60, receive_buffer=4096) as connection:
        connection.send(request("GET", "/stream?n=100&size=65536"))
        with Connection(service.address) as other:
            assert other.get("/later").status == 200
        upgrade(service)
        answer = connection.response()
        assert answer.generation == 1 and len(answer.body) == 100 * 65536
        assert connection.get("/echo").generation == 2
    gone(service)


def test_what_the_drain_deadline_cuts_is_counted(start):
    service = start("hello", "--drain-timeout", "500ms")
    with Connection(service.address) as connection, Connection(service.address) as idle:
        connection.send(request("GET", "/hello?delay=60s"))
        assert idle.get().generation == 1
        upgrade(service)
        with pytest.raises(Closed):
            connection.response()
        event = drained(service)
        assert (event["cut_requests"], event["cut_idle"], event["moved"]) == (1, 0, 1)
        assert service.log.wait_for("cut", generation=1)["requests"] == 1
        assert idle.get().generation == 2
    gone(service)


def test_the_idle_deadline_travels(start):
    service = start("hello", "--idle-timeout", "2s")
    with Connection(service.address) as connection:
        assert connection.get().generation == 1
        for number in range(2, 5):
            upgrade(service, number)
            gone(service, number - 1)
        assert connection.rest() == b""


def test_a_connection_that_was_reset_before_the_move_harms_nothing(start):
    service = start("hello")
    connections = [Connection(service.address) for _ in range(20)]
    for connection in connections:
        connection.get()
    for connection in connections[::2]:
        connection.end_sending()
    upgrade(service)
    for connection in connections[::2]:
        assert connection.rest() == b""
        connection.close()
    for connection in connections[1::2]:
        assert connection.get().generation == 2
        connection.close()
    gone(service)


def test_a_final_stop_answers_what_is_in_flight_and_closes_what_is_idle(start):
    service = start("hello", "--threads", "1")
    with Connection(service.address) as busy, Connection(service.address) as idle:
        with Connection(service.address) as half:
            half.send(request()[:20])
            busy.send(HELD[:-1])
            assert idle.get().generation == 1
            begun(service)
            service.send(signal.SIGTERM)
            assert idle.rest() == b""
            half.send(request()[20:])
            busy.send(HELD[-1:])
            for connection in (half, busy):
                answer = connection.response()
                assert answer.status == 200 and answer.header("Connection") == "close"
                assert connection.rest() == b""
    event = drained(service)
    assert (event["finished"], event["cut_requests"], event["cut_idle"]) == (2, 0, 0)
    assert service.log.find("draining")[0]["to_successor"] is False
    gone(service)
    service.wait_end()


def test_thousand_idle_connections_move(start):
    service = start("hello")
    address = service.address
    connections = [Connection(address, deadline=60) for _ in range(1000)]
    for connection in connections:
        connection.send(request())
    for connection in connections:
        assert connection.response().generation == 1
    upgrade(service)
    gone(service)
    assert drained(service)["moved"] == 1000
    for connection in connections:
        assert connection.get().generation == 2
        connection.close()


def test_a_counter_is_carried_over(start):
    service = start("state")
    for number in range(1, 4):
        with Connection(service.address) as connection:
            answers = [int(connection.ask("POST", "/counter").body) for _ in range(5)]
        assert answers == list(range(number * 5 - 4, number * 5 + 1))
        upgrade(service, number + 1)
        gone(service, number)


@pytest.fixture
def with_stranger(start, compile_c, folder):
    """A hello whose next version will be stranger.c."""

    def start_one(*arguments):
        hello = compile_c(pathlib.Path("examples/hello.c"), http=True)
        program = put_program(hello, folder / "program")
        service = start(program, *arguments)
        put_program(compile_c(pathlib.Path("tests/http/stranger.c")), folder / "program")
        return service

    return start_one


def test_a_connection_that_cannot_move_is_told_to_close_by_its_next_answer(with_stranger):
    service = with_stranger()
    with Connection(service.address) as connection:
        assert connection.get().generation == 1
        upgrade(service)
        # The drain has begun; the order is on its way to the loop, which may answer once before.
        assert service.log.wait_for("draining", generation=1)["to_successor"] is True
        answer = connection.get()
        if answer.header("Connection") is None:
            assert answer.generation == 1
            answer = connection.get()
        assert answer.generation == 1 and answer.header("Connection") == "close"
        assert connection.rest() == b""
    gone(service)
    assert drained(service)["moved"] == 0


def test_a_connection_that_cannot_move_and_stays_silent_is_cut_and_counted(with_stranger):
    service = with_stranger("--drain-timeout", "500ms")
    with Connection(service.address) as connection:
        assert connection.get().generation == 1
        upgrade(service)
        assert connection.rest() == b""
    gone(service)
    event = drained(service)
    assert (event["moved"], event["cut_idle"], event["cut_requests"]) == (0, 1, 0)


def test_when_the_successor_dies_the_predecessor_serves_again(start):
    service = start("hello")
    service.expected_exits.add(-signal.SIGKILL)
    address = service.address
    with Connection(address) as busy:
        busy.send(HELD[:-1])
        begun(service)
        successor = upgrade(service)["pid"]
        service.log.wait_for("draining", generation=1)
        service.send(signal.SIGKILL, successor)
        service.log.wait_for("resumed", generation=1)
        with Connection(address) as other:
            assert other.get().generation == 1
            assert busy.send(HELD[-1:]).response().generation == 1
            assert busy.get().generation == 1
            after = service.upgrade()
            assert after["pid"] != successor and gone(service)
            assert other.get().pid == busy.get().pid == after["pid"]


def test_connections_that_come_back_after_a_cut_are_served(start):
    """A drain that has cut is no reason to close what comes back from a later one."""
    service = start("hello", "--threads", "2", "--drain-timeout", "500ms", "--probation", "2s")
    service.expected_exits.add(-signal.SIGKILL)
    address = service.address

    def resume_after(event):
        """An upgrade whose successor stops, and dies when the predecessor has come that far."""
        mark = service.log.mark()
        successor = upgrade(service, 2)["pid"] if not service.log.find("cut") else again(mark)
        service.send(signal.SIGSTOP, successor)
        service.log.wait_for(event, since=mark, generation=1)
        service.send(signal.SIGKILL, successor)
        return service.log.wait_for("resumed", since=mark, generation=1)

    def again(mark):
        service.send(signal.SIGUSR2)
        return service.log.wait_for("serving", since=mark, where=lambda event: event["generation"] > 1)["pid"]

    with Connection(address) as busy:
        busy.send(request("GET", "/hello?delay=60s"))
        with Connection(address) as other:
            assert other.get().generation == 1
        resume_after("drained")
    connections = [Connection(address) for _ in range(20)]
    for connection in connections:
        assert connection.get().generation == 1
    resumed = resume_after("draining")
    assert resumed["cut_requests"] == resumed["cut_idle"] == 0
    for connection in connections:
        assert connection.get().generation == 1
        connection.close()


@pytest.mark.parametrize("target", ["/stream?n=1&size=6000000", "/stream?n=1&size=6000000&length=6000000"])
def test_a_response_that_is_cut_is_not_finished(server, target):
    service = server("--threads", "1", "--drain-timeout", "500ms")
    with Connection(service.address, receive_buffer=2048) as slow, Connection(service.address) as other:
        slow.send(request("GET", target))
        assert other.get("/status").status == 200
        upgrade(service)
        gone(service)
        counted = drained(service)
        assert (counted["finished"], counted["cut_requests"], counted["moved"]) == (0, 1, 1)
        with pytest.raises(Closed):
            slow.response()


@pytest.mark.parametrize("target", ["/later", "/status"])
def test_connections_that_are_to_run_again_leave_when_it_is_their_turn(server, target):
    """More is pipelined than one turn of a connection answers, and answered by other threads."""
    service = server("--threads", "4")
    connections = [Connection(service.address, deadline=60) for _ in range(16)]
    for number in range(2, 8):
        for connection in connections:
            connection.send(request("GET", target) * 200)
        service.send(signal.SIGUSR2)
        for connection in connections:
            for _ in range(200):
                assert connection.response().status == 200
        service.wait_generation(number)
        gone(service, number - 1)
    for connection in connections:
        connection.close()
