"""The corpus of malformed and smuggling requests, whole and byte by byte."""

import socket

import corpus
import pytest
from harness.deadline import Deadline
from harness.http import Closed, Connection

pytestmark = pytest.mark.threads


def outcome(service, data, expected, stays_open, in_bytes=False):
    """What is wrong with the server's behaviour towards these bytes; '' where nothing is."""
    with Connection(service.address, deadline=20) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if in_bytes:
                for i in range(len(data)):
                    connection.send(data[i : i + 1])
            else:
                connection.send(data)
        except Closed:
            pass  # It was refused before its end; the answer is what counts.
        statuses = []
        try:
            for _ in expected:
                statuses.append(connection.response().status)
            if stays_open:
                statuses.append(connection.get().status)
            else:
                rest = connection.rest()
                if rest:
                    return f"answered {statuses}, and then sent {rest[:80]!r}"
        except Closed as closed:
            return f"answered {statuses} and {'reset' if closed.reset else 'closed'} the connection"
        wanted = expected + ([200] if stays_open else [])
        return "" if statuses == wanted else f"answered {statuses} where {wanted} was expected"


def run(service, in_bytes):
    wrong = []
    for name, data, expected, stays_open in corpus.CASES:
        if in_bytes and len(data) > 2000:
            continue
        problem = outcome(service, data, expected, stays_open, in_bytes)
        if problem:
            wrong.append(f"{name}: {problem}")
    return wrong


def test_the_corpus_is_large_and_its_names_are_unique():
    names = [name for name, *_ in corpus.CASES]
    assert len(names) == len(set(names))
    assert len([1 for *_, statuses, stays in corpus.CASES if not stays and statuses[0] >= 400]) >= 60


def test_each_malformed_request_is_refused_and_nothing_hidden_in_it_is_answered(start):
    service = start("hello", "--threads", "1")
    wrong = run(service, in_bytes=False)
    assert not wrong, "\n".join(wrong)


def test_the_same_holds_where_each_byte_comes_alone(start):
    service = start("hello", "--threads", "1")
    wrong = run(service, in_bytes=True)
    assert not wrong, "\n".join(wrong)


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
