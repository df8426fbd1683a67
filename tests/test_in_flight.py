"""Requests that have begun when the upgrade comes are answered by the generation that read them,
whole; their connections live on in the successor. Only the drain deadline may cut, and it counts.
"""

import signal
import socket
import struct

import pytest

from functional import eventually
from harness.deadline import readable
from harness.http import Connection, get, request
from upgrades import HELD, Crowd, ask, begun, field, follows, generations, gone, upgrade

REQUEST = request()


def waiting(seconds):
    return request(target=f"/hello?delay={seconds}")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.threads
def test_64_requests_in_flight_are_answered_by_the_predecessor(start, threads):
    service = start("hello", "--threads", threads, "--body-timeout", "60s")
    pid = service.pid
    with Crowd(service.address, 64) as crowd, service.connect() as kept:
        assert kept.get().generation == 1
        crowd.send(HELD[:-1])
        begun(service)
        assert ask(service)["successor"] == 2
        draining = service.log.wait_for("draining", generation=1)
        assert draining["requests"] == 64
        # Meanwhile the successor serves: what was idle, and what is new.
        # What comes before a loop has heard of it is answered there still.
        follows(kept)
        address = service.address
        eventually(lambda: {get(address).generation for _ in range(20)}, {2})
        assert crowd.silent()
        assert not service.log.find("gone", generation=1)

        crowd.send(HELD[-1:])
        answers = crowd.answers()
        assert generations(answers) == {1: 64}
        assert {int(field(head, "Segue-Pid")) for head, _ in answers.values()} == {pid}
        drained = gone(service, 1)
        assert drained["finished"] == 64 and drained["moved"] >= 65
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == {2: 64}
        assert upgrade(service) == 3
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == {3: 64}
        assert kept.get().generation == 3


@pytest.mark.threads
def test_bodies_half_sent_at_the_upgrade_are_read_to_their_end_by_the_predecessor(start):
    service = start("hello", "--body-timeout", "60s")
    whole = request("POST", body=b"b" * 20000)
    cut = len(whole) - 9000
    with Crowd(service.address, 32) as crowd:
        crowd.send(whole[:cut])
        begun(service)
        ask(service)
        assert service.log.wait_for("draining", generation=1)["requests"] == 32
        # Two thirds go on, the rest once those have been answered; nobody is hurried.
        some, others = crowd.all()[:20], crowd.all()[20:]
        crowd.send(whole[cut:], some)
        answers = crowd.answers(len(some))
        assert set(answers) == set(some) and generations(answers) == {1: 20}
        assert not service.log.find("gone", generation=1)
        # What a loop reads before it has heard of the drain it answers still.
        eventually(lambda: crowd.send(REQUEST, some) or generations(crowd.answers(len(some))), {2: 20})
        crowd.send(whole[cut:], others)
        assert generations(crowd.answers(len(others))) == {1: 12}
        assert gone(service, 1)["moved"] >= 32
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == {2: 32}


def test_chunked_bodies_half_sent_at_the_upgrade_are_read_by_the_predecessor(start):
    service = start("hello", "--body-timeout", "60s", "--threads", 1)
    head = request("POST", headers=[("Transfer-Encoding", "chunked")])
    with service.connect() as one, service.connect() as idle:
        assert idle.get().generation == 1
        one.send(head + b"5\r\nab")
        begun(service)
        ask(service)
        follows(idle)
        one.send(b"cde\r\n3\r\nf")
        assert one.is_idle()
        one.send(b"gh\r\n0\r\n\r\n" + REQUEST)
        assert [one.response().generation, one.response().generation] == [1, 2]
        gone(service, 1)


@pytest.mark.threads
def test_requests_behind_one_in_flight_are_answered_in_order_by_the_successor(start):
    """The one in flight ends where it is; what stands behind it in the pipeline is no request yet,
    and goes with the connection."""
    service = start("hello", "--body-timeout", "60s", "--threads", 1)
    with Crowd(service.address, 16) as crowd, service.connect() as idle:
        assert idle.get().generation == 1
        crowd.send(HELD[:-1])
        begun(service)
        ask(service)
        follows(idle)
        assert service.log.wait_for("draining", generation=1)["requests"] == 16
        connections = [Pipelined(one) for one in crowd.all()]
        behind = [request("POST" if number % 2 else "GET", body=b"n" * number) for number in range(5)]
        for one in connections:
            one.send(HELD[-1:] + b"".join(behind))
        for one in connections:
            assert [one.next() for _ in range(6)] == [1, 2, 2, 2, 2, 2]
        gone(service, 1)
        crowd.send(REQUEST)
        assert generations(crowd.answers()) == {2: 16}


class Pipelined:
    """A socket of a crowd, on which more than one answer is due."""

    def __init__(self, one):
        self.socket = one
        self.buffer = b""

    def send(self, data):
        assert self.socket.send(data) == len(data)

    def next(self):
        """The generation of the next answer."""
        self.socket.settimeout(30)
        try:
            while b"\r\n\r\nhello, world\n" not in self.buffer:
                data = self.socket.recv(65536)
                assert data, self.buffer
                self.buffer += data
        finally:
            self.socket.setblocking(False)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\nhello, world\n")
        return int(field(head.decode(), "Segue-Generation"))


BIG = """
#include <segue/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void big(struct segue_http_request *req, void *ctx)
{
	size_t len = 8 << 20;
	char *body = malloc(len), text[32];

	memset(body, 'b', len);
	snprintf(text, sizeof(text), "%llu",
	         (unsigned long long)segue_http_generation(segue_http_server_of(req)));
	segue_http_add_header(req, "Segue-Generation", text);
	segue_http_reply_bytes(req, 200, "application/octet-stream", body, len);
	free(body);
}

int main(int argc, char **argv)
{
	struct segue_http_server *server = segue_http_server_new();

	segue_http_route(server, "GET", "/hello", big, NULL);
	return segue_http_main(server, argc, argv);
}
"""


def test_a_slow_reader_gets_the_whole_answer_of_the_predecessor(start, compile_c):
    """The answer is larger than what the sockets hold: the predecessor keeps the rest, and stays
    until it is read."""
    service = start(compile_c(BIG, http=True), "--response-timeout", "100s")
    with Connection(service.address, receive_buffer=4096) as reader:
        reader.send(REQUEST)
        readable(reader.socket.fileno(), reader.deadline, "the begin of the answer")
        ask(service)
        address = service.address
        eventually(lambda: get(address).generation, 2)
        assert not service.log.find("gone", generation=1)
        answer = reader.response()
        assert answer.generation == 1 and answer.body == b"b" * (8 << 20)
        assert gone(service, 1)["moved"] >= 1
        assert reader.get().generation == 2


# The deadline of the drain.


@pytest.mark.threads
def test_what_the_drain_deadline_cuts_is_counted(start):
    service = start("hello", "--drain-timeout", "1s", "--response-timeout", "100s")
    with Crowd(service.address, 5) as busy, Crowd(service.address, 7) as idle:
        idle.send(REQUEST)
        assert generations(idle.answers()) == {1: 7}
        busy.send(waiting("60s"))
        begun(service)
        ask(service)
        cut = service.log.wait_for("cut", generation=1)
        assert cut["requests"] == cut["connections"] == 5
        service.log.wait_for("gone", generation=1)
        drained = service.log.find("drained", generation=1)[0]
        assert drained["cut_requests"] == 5 and drained["cut_idle"] == 0
        assert drained["moved"] >= 7 and drained["finished"] == 0
        # Those cut see their end at once, the others nothing at all.
        for one in busy.all():
            assert ended(one)
        assert idle.silent()
        idle.send(REQUEST)
        assert generations(idle.answers()) == {2: 7}


def ended(one):
    """The connection has come to its end, in order or by a reset, without a byte before."""
    one.settimeout(30)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_without_a_drain_timeout_idle_connections_move_and_requests_are_cut_at_once(start):
    service = start("hello", "--drain-timeout", "0", "--response-timeout", "100s")
    with Crowd(service.address, 4) as busy, Crowd(service.address, 3) as idle:
        idle.send(REQUEST)
        assert generations(idle.answers()) == {1: 3}
        busy.send(waiting("60s"))
        begun(service)
        ask(service)
        service.log.wait_for("gone", generation=1)
        drained = service.log.find("drained", generation=1)[0]
        assert drained["cut_requests"] == 4
        for one in busy.all():
            assert ended(one)
        assert drained["moved"] + drained["cut_idle"] >= 3
        assert get(service.address).generation == 2


def test_a_client_that_resets_its_request_in_flight_delays_nobody(start):
    """The deadline would be far away: the predecessor goes because the client has gone. (One that
    merely closes might have closed its sending side only, and wait for its answer still.)"""
    service = start("hello", "--drain-timeout", "none", "--response-timeout", "100s")
    with service.connect() as leaving:
        leaving.send(waiting("100s"))
        begun(service)
        ask(service)
        assert service.log.wait_for("draining", generation=1)["requests"] == 1
        at_once = struct.pack("ii", 1, 0)
        leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    gone(service, 1)
    assert get(service.address).generation == 2


def test_a_stop_answers_what_is_in_flight(start):
    service = start("hello", "--body-timeout", "60s")
    with Crowd(service.address, 8) as crowd, service.connect() as idle:
        idle.get()
        crowd.send(HELD[:-1])
        begun(service)
        address = service.address
        service.send(signal.SIGTERM)
        assert service.log.wait_for("draining", generation=1)["requests"] == 8
        # Nobody waits for what is silent.
        assert idle.again().rest() == b""
        crowd.send(HELD[-1:])
        assert generations(crowd.answers(then_ends=True)) == {1: 8}
        service.wait_end()
        assert gone(service, 1)["finished"] == 8
        with pytest.raises(ConnectionRefusedError):
            get(address)
