from __future__ import annotations

from uuid import uuid4

import pytest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
STATUS_204 = b"\x89"  # the ninth entry of HPACK's static table


def _frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _requests(line):
    """Speak just enough HTTP/2 to know when a request is complete; yield its stream."""
    assert line.read(len(PREFACE)) == PREFACE
    line.send(_frame(SETTINGS, 0, 0))
    while head := line.read(9):
        length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
        payload = line.read(length)
        match kind:
            case 4 if not flags & ACK:
                line.send(_frame(SETTINGS, ACK, 0))
            case 6 if not flags & ACK:
                line.send(_frame(PING, ACK, 0, payload))
            case 0 | 1 if flags & END_STREAM:
                line.server.requests.append((line.number, stream))
                yield stream


def _speak(line):
    if line.socket.selected_alpn_protocol() != "h2":
        while line.read_request():
            line.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        return
    for stream in _requests(line):
        line.send(_frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_204))


@pytest.fixture
def offering(tls_for):
    return tls_for("localhost", alpn=("h2", "http/1.1"))


@pytest.fixture
def trusting(open_transport, ca_file):
    return open_transport(ca_file=ca_file)


def test_http_2_is_spoken_where_it_is_offered(serve, offering, trusting, ask, collect_all):
    """Many requests then share one connection and one handshake."""
    server = serve(_speak, tls=offering)
    trusting.send(uuid4(), ask(f"{server.url}/captures"))
    collect_all(trusting)

    for _ in range(20):
        trusting.send(uuid4(), ask(f"{server.url}/captures"))
    answers = collect_all(trusting)

    assert [answer.status for answer in answers.values()] == [204] * 20
    assert len({stream for _, stream in server.requests}) == 21
    assert server.connections == 1


def test_a_request_that_must_not_be_repeated_has_http_1_1_and_a_connection_of_its_own(
    serve, offering, trusting, ask, answer_to
):
    """HTTP/2 has more ways of repeating a request in silence, and shares the fate of a connection."""
    server = serve(_speak, tls=offering)
    answer_to(trusting, ask(f"{server.url}/keyed"))

    answer = answer_to(trusting, ask(f"{server.url}/unkeyed", repeatable=False))

    assert answer.status == 204
    assert (server.requests[1].version, server.requests[1].connection) == ("HTTP/1.1", 2)


def test_a_repeat_that_finds_nobody_does_not_make_a_send_over_http_2_unsent(serve, offering, trusting, ask, answer_to):
    """The request was complete on the old connection; that the new one is refused says nothing about it."""

    def script(line):
        for number, stream in enumerate(_requests(line)):
            if number == 1:
                line.server.stop_listening()
                return
            line.send(_frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_204))

    server = serve(script, tls=offering)
    answer_to(trusting, ask(f"{server.url}/warm-up"))

    answer = answer_to(trusting, ask(f"{server.url}/keyed"))

    assert server.requests == [(1, 1), (1, 3)]
    assert answer.sent
