"""The corpus of malformed and smuggling requests, whole and byte by byte."""

import contextlib
import signal
import socket

import corpus
import pytest
from harness.deadline import Deadline
from harness.http import Closed, Connection

pytestmark = pytest.mark.threads


@pytest.fixture(params=["alone", "supervised"])
def service(request, start, supervise):
    if request.param == "alone":
        return start("hello", "--threads", "1")
    return supervise("--workers", 2, arguments=("--threads", "1"))


@contextlib.contextmanager
def connections(service, cases=corpus.CASES):
    """{name of a case: a connection for it}, all at once."""
    address, kept = service.address, {}
    with contextlib.ExitStack() as stack:
        for name, *_ in cases:
            one = kept[name] = stack.enter_context(Connection(address, deadline=60))
            one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield kept


def send(kept, part):
    """part(bytes of a case) of each."""
    for name, data, *_ in corpus.CASES:
        if name in kept and part(data):
            try:
                kept[name].send(part(data))
            except Closed:
                pass  # It was refused before its end; the answer is what counts.


def outcome(connection, expected, stays_open, generation):
    """What is wrong with the server's behaviour towards a case; '' where nothing is. generation: who
    has the connection in the end."""
    statuses = []
    try:
        for _ in expected:
            statuses.append(connection.response().status)
        if stays_open:
            last = connection.get()
            if (last.status, last.generation) != (200, generation):
                return f"answered {statuses}, and then {last.status} by {last.generation}"
        else:
            rest = connection.rest()
            if rest:
                return f"answered {statuses}, and then sent {rest[:80]!r}"
    except Closed as closed:
        return f"answered {statuses} and {'reset' if closed.reset else 'closed'} the connection"
    return "" if statuses == expected else f"answered {statuses} where {expected} was expected"


def judge(kept, generation=1):
    wrong = []
    for name, _, expected, stays_open in corpus.CASES:
        if name in kept:
            problem = outcome(kept[name], expected, stays_open, generation)
            if problem:
                wrong.append(f"{name}: {problem}")
    assert not wrong, "\n".join(wrong)


def upgrade(service):
    """Until every predecessor drains."""
    service.send(signal.SIGUSR2)
    service.wait_generation(2)
    for pid in {event["pid"] for event in service.log.find("serving", generation=1)
                if not event.get("service")}:
        service.log.wait_for("state", pid=pid, to="draining")


def test_the_corpus_is_large_and_its_names_are_unique():
    names = [name for name, *_ in corpus.CASES]
    assert len(names) == len(set(names))
    assert len([1 for *_, statuses, stays in corpus.CASES if not stays and statuses[0] >= 400]) >= 60


def test_each_malformed_request_is_refused_and_nothing_hidden_in_it_is_answered(service):
    with connections(service) as kept:
        send(kept, lambda data: data)
        judge(kept)


def test_the_same_holds_where_each_byte_comes_alone(service):
    """One of each of a few connections in turn: what follows a last answer comes while the server still
    reads it away (linger_timeout_ms)."""
    cases = sorted((case for case in corpus.CASES if len(case[1]) <= 2000), key=lambda case: len(case[1]))
    for first in range(0, len(cases), 8):
        some = cases[first : first + 8]
        with connections(service, some) as kept:
            for at in range(len(some[-1][1])):
                send(kept, lambda data, at=at: data[at : at + 1])
            judge(kept)


def test_the_same_holds_where_an_upgrade_comes_in_the_middle_of_each(service):
    with connections(service) as kept:
        send(kept, lambda data: data[: len(data) // 2])
        upgrade(service)
        send(kept, lambda data: data[len(data) // 2 :])
        judge(kept, generation=2)


def test_a_request_cut_off_at_any_byte_is_answered_by_nothing(start):
    service = start("hello", "--threads", "1")
    data = corpus.chunked(b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n")
    for end in range(1, len(data)):
        with Connection(service.address, deadline=Deadline(20)) as connection:
            connection.send(data[:end]).end_sending()
            try:
                assert connection.rest() == b"", end
            except Closed:
                pass
