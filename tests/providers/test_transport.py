from __future__ import annotations

import logging
import os
import resource
import socket
import threading
import time
from uuid import UUID, uuid4

import pytest

from worker.ports import Answer, NoAnswer
from worker.providers.transport import MAX_BODY_BYTES, AlreadyInFlight, BrokenHeader, UnsafeAddress

DONE = b"HTTP/1.1 204 No Content\r\nKlarna-Correlation-Id: 7c1\r\n\r\n"
SECRET = "Basic bm9ib2R5Om11c3Qtc2VlLXRoaXM="


@pytest.fixture
def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def full_backlog():
    """A port that takes no further connection and refuses none: the queue of its listener is full."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.settimeout(0)
        client.connect_ex(listener.getsockname())
        waiting.append(client)

    yield listener.getsockname()[1]

    for client in waiting:
        client.close()
    listener.close()


# --- what goes out -----------------------------------------------------------------------------------------


def test_a_request_arrives_as_it_was_built(serve, transport, ask, answer_to):
    """A provider compares headers and bytes, so not one of them may be changed on the way."""
    server = serve(DONE)
    body = b'{"description":"a\x00b\xc3\xa4"}'
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "post-purchase-worker/1"}

    answer = answer_to(
        transport,
        ask(f"{server.url}/a/../b%2Fc?d", method="PATCH", headers=headers, body=body, authorization="Basic eA=="),
    )

    (request,) = server.requests
    assert answer.status == 204
    assert (request.method, request.path, request.body) == ("PATCH", "/a/../b%2Fc?d", body)
    assert {name.lower(): value for name, value in request.headers} == {
        "host": f"127.0.0.1:{server.port}",
        "authorization": "Basic eA==",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "accept": "application/json",
        "user-agent": "post-purchase-worker/1",
    }


def test_a_post_without_a_body_announces_that_it_is_empty(serve, transport, ask, answer_to):
    """Servers answer 411 to a POST of unknown length, and an empty body has no type."""
    server = serve(DONE)

    answer_to(transport, ask(f"{server.url}/cancel", headers={}, body=None))

    (request,) = server.requests
    assert (request.method, request.all("content-length"), request.body) == ("POST", ["0"], b"")
    assert request.all("content-type") == request.all("transfer-encoding") == []


def test_a_get_after_a_post_on_the_same_handle_has_no_body(serve, transport, ask, answer_to):
    """Handles are used again; nothing of the last request may stay behind."""
    server = serve(DONE)
    answer_to(transport, ask(f"{server.url}/captures"))

    answer_to(transport, ask(f"{server.url}/captures", method="GET", headers={}, body=None))

    request = server.requests[1]
    assert (request.method, request.body) == ("GET", b"")
    assert request.all("content-length") == request.all("content-type") == []
    assert request.all("klarna-idempotency-key") == []


def test_a_long_body_is_sent_without_asking_first(serve, transport, ask, answer_to):
    """An `Expect: 100-continue` costs a second with servers that do not know it, and proxies refuse it."""
    server = serve(DONE)
    body = b"x" * 2_000_000

    answer_to(transport, ask(f"{server.url}/captures", body=body))

    (request,) = server.requests
    assert request.all("expect") == []
    assert request.body == body


def test_cookies_are_not_kept(serve, transport, ask, answer_to):
    """Requests of different commands have nothing to do with each other."""
    server = serve(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
    answer_to(transport, ask(f"{server.url}/one"))

    answer_to(transport, ask(f"{server.url}/two"))

    assert server.requests[1].all("cookie") == []


def test_a_proxy_of_the_environment_is_not_used(serve, transport, ask, answer_to, monkeypatch):
    """Credentials must not pass through whatever a shell profile happens to name."""
    proxy, server = serve(DONE), serve(DONE)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    answer_to(transport, ask(f"{server.url}/captures"))

    assert (len(server.requests), proxy.connections) == (1, 0)


def test_a_redirect_is_not_followed_and_credentials_stay_where_they_belong(serve, transport, ask, answer_to):
    """A redirect to another host would hand it the account's credentials and the command."""
    elsewhere = serve(DONE)
    server = serve(
        f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
    )

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.status, answer.headers["location"]) == (307, f"{elsewhere.url}/x")
    assert (len(server.requests), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.klarna.com/x",
        "http://localhost.example.org/x",
        "http://127.0.0.1.example.org/x",
        "http://127.0.0.1@api.klarna.com/x",
        "http://127.0.0.1:80@api.klarna.com/x",
        "http://127.0.0.1\\@api.klarna.com/x",
        "http://127.0.0.1#@api.klarna.com/x",
        "http://127.1/x",
        "http://0.0.0.0/x",
        "http://10.0.0.1/x",
        "http://[::2]/x",
        "https://user:pass@api.klarna.com/x",
        "HTTP://api.klarna.com/x",
        "https:///x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "api.klarna.com/x",
        "",
    ],
)
def test_an_address_that_is_neither_https_nor_this_machine_is_refused(transport, ask, url):
    """Plain http elsewhere shows credentials to the network; odd forms mean different hosts to different readers."""
    with pytest.raises(UnsafeAddress, match=r"Give a base URL such as https://"):
        transport.send(uuid4(), ask(url))

    assert transport.in_flight == 0


def test_a_refused_address_is_named_without_the_credentials_in_it(transport, ask):
    """The error lands in logs."""
    with pytest.raises(UnsafeAddress) as refused:
        transport.send(uuid4(), ask("https://user:hunter2@api.klarna.com/x"))

    assert "hunter2" not in str(refused.value) + repr(refused.value) + refused.value.origin


def test_an_address_that_was_safe_once_does_not_vouch_for_a_longer_one(serve, transport, ask, answer_to):
    """Safe origins are remembered, and a remembered prefix must not let another host through."""
    server = serve(DONE)
    answer_to(transport, ask(f"{server.url}/x"))

    with pytest.raises(UnsafeAddress):
        transport.send(uuid4(), ask(f"{server.url}.example.org"))
    with pytest.raises(UnsafeAddress):
        transport.send(uuid4(), ask(f"{server.url}@"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost"])
def test_plain_http_to_this_machine_is_allowed(serve, transport, ask, answer_to, host):
    """The sandbox and tests run without certificates."""
    server = serve(DONE)

    answer = answer_to(transport, ask(f"http://{host}:{server.port}/x"))

    assert answer.status == 204


@pytest.mark.parametrize("value", ["a\r\nX-Evil: b", "a\nb", "a\x00b", "schön"])
def test_a_header_that_would_break_out_of_its_line_is_refused(transport, ask, value):
    """A value with a line break could add headers or a second request."""
    with pytest.raises(BrokenHeader, match="Klarna-Idempotency-Key"):
        transport.send(uuid4(), ask("http://127.0.0.1:1/x", headers={"Klarna-Idempotency-Key": value}))
    with pytest.raises(BrokenHeader, match="Authorization") as refused:
        transport.send(uuid4(), ask("http://127.0.0.1:1/x", authorization=f"Basic {value}"))

    assert value not in str(refused.value)
    assert transport.in_flight == 0


# --- what comes back ---------------------------------------------------------------------------------------


def test_header_names_come_in_lower_case_and_repeated_ones_joined(serve, transport, ask, answer_to):
    """Tables look headers up by one spelling."""
    server = serve(
        b"HTTP/1.1 201 Created\r\nCAPTURE-ID:  abc \r\nX-RateLimit-Limit: 40\r\nx-ratelimit-limit: 100\r\n"
        b"X-Empty:\r\nContent-Length: 2\r\n\r\n{}"
    )

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert answer == Answer(
        status=201,
        headers={"capture-id": "abc", "x-ratelimit-limit": "40, 100", "x-empty": "", "content-length": "2"},
        body=b"{}",
    )


def test_interim_answers_are_passed_over(serve, transport, ask, answer_to):
    """Only the last block of headers belongs to the answer."""
    server = serve(
        b"HTTP/1.1 100 Continue\r\nCapture-Id: no\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 201 Created\r\nCapture-Id: yes\r\nContent-Length: 0\r\n\r\n"
    )

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert answer == Answer(status=201, headers={"capture-id": "yes", "content-length": "0"}, body=b"")


def test_trailers_are_not_taken_for_headers(serve, transport, ask, answer_to):
    """What stands behind the body was written by someone who may no longer know what stands before it."""
    server = serve(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nKlarna-Correlation-Id: late\r\n"
        b"HTTP/1.1 500 x: y\r\n\r\n"
    )

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert answer == Answer(status=200, headers={"transfer-encoding": "chunked"}, body=b"{}")


def test_nothing_of_an_earlier_answer_stays_behind(serve, transport, ask, answer_to, unused_port):
    """Handles are used again; an id of another command would be a wrong id."""
    full = serve(b"HTTP/1.1 201 Created\r\nCapture-Id: abc\r\nContent-Length: 3\r\n\r\nabc")
    plain = serve(DONE)
    answer_to(transport, ask(f"{full.url}/captures"))

    refused = answer_to(transport, ask(f"http://127.0.0.1:{unused_port}/captures"))
    answer = answer_to(transport, ask(f"{plain.url}/captures"))

    assert isinstance(refused, NoAnswer)
    assert answer == Answer(status=204, headers={"klarna-correlation-id": "7c1"}, body=b"")


# --- not sent ----------------------------------------------------------------------------------------------


def test_a_refused_connection_means_not_sent(transport, ask, answer_to, unused_port):
    """Nobody heard a byte of it, so it may be repeated freely."""
    answer = answer_to(transport, ask(f"http://127.0.0.1:{unused_port}/captures"))

    assert (answer.sent, answer.code) == (False, "connect_failed")
    assert str(unused_port) in answer.message


def test_a_name_that_does_not_resolve_means_not_sent(open_transport, ask, answer_to):
    """There was no address to send it to."""
    transport = open_transport(connect_timeout=2.0, total_timeout=4.0)

    answer = answer_to(transport, ask("https://no-such-provider.invalid/captures"))

    assert (answer.sent, answer.code) == (False, "resolve_failed")


def test_a_connection_that_does_not_come_up_in_time_means_not_sent(open_transport, ask, answer_to, full_backlog):
    """A host that drops packets is as silent as one that executes, but nothing was sent to it."""
    transport = open_transport(connect_timeout=0.3, total_timeout=5.0)
    started = time.monotonic()

    answer = answer_to(transport, ask(f"http://127.0.0.1:{full_backlog}/captures"))

    assert (answer.sent, answer.code) == (False, "connect_failed")
    assert time.monotonic() - started < 4.0


def test_a_total_time_shorter_than_the_connection_takes_means_not_sent_either(
    open_transport, ask, answer_to, full_backlog
):
    """Which of the two limits ended it says nothing about whether it was sent."""
    transport = open_transport(connect_timeout=5.0, total_timeout=0.3)

    answer = answer_to(transport, ask(f"http://127.0.0.1:{full_backlog}/captures"))

    assert (answer.sent, answer.code) == (False, "connect_failed")


# --- sent, and no answer -----------------------------------------------------------------------------------


def test_a_server_that_hangs_up_before_answering_leaves_it_sent(serve, transport, ask, answer_to):
    """It may have executed the request first."""
    server = serve(lambda line: line.read_request())

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (True, "no_answer")
    assert len(server.requests) == 1


def test_a_server_that_hangs_up_in_the_middle_of_the_request_leaves_it_sent(serve, transport, ask, answer_to):
    """The connection was up, and from here nobody can tell how much was read and acted on."""

    def script(line):
        line.read(1000)
        line.reset()

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures", body=b"x" * 20_000_000))

    assert answer.sent
    assert answer.code in {"reset", "send_failed"}


def test_a_reset_before_the_answer_leaves_it_sent(serve, transport, ask, answer_to):
    """A reset is what a crashing server looks like, after whatever it did."""

    def script(line):
        line.read_request()
        line.reset()

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (True, "reset")


def test_a_server_that_never_answers_leaves_it_sent(serve, open_transport, ask, answer_to):
    """Time ran out here; there it may have been executed."""
    server = serve(lambda line: line.until_the_client_leaves())
    transport = open_transport(total_timeout=0.3)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (True, "no_answer")


def test_an_interim_answer_alone_is_no_answer(serve, transport, ask, answer_to):
    """`100 Continue` promises an answer and is none."""

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert isinstance(answer, NoAnswer)
    assert answer.sent


def test_something_that_is_not_http_is_no_answer(serve, transport, ask, answer_to):
    """Another service may listen on that port; it got our bytes all the same."""

    def script(line):
        line.read_request()
        line.send(b"220 mail.example.org ready\r\n")

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (True, "no_answer")


# --- answers that break off --------------------------------------------------------------------------------


def _then_leave(line):
    """The server closes in good order."""


@pytest.mark.parametrize(
    "breaking_off",
    [
        pytest.param((b"Content-Length: 100\r\n\r\n{", _then_leave), id="shorter than announced"),
        pytest.param((b"Content-Length: 100\r\n\r\n{", lambda line: line.reset()), id="reset in the body"),
        pytest.param((b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", _then_leave), id="within a chunk"),
        pytest.param((b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", _then_leave), id="last chunk missing"),
        pytest.param((b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", _then_leave), id="garbage for a chunk"),
        pytest.param((b"Content-Type: application/js", _then_leave), id="within the headers"),
    ],
)
def test_an_answer_that_breaks_off_keeps_its_status(serve, transport, ask, answer_to, breaking_off):
    """A 201 whose body is cut off still says that the capture was made."""
    raw, leave = breaking_off

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 201 Created\r\nCapture-Id: abc\r\n" + raw)
        leave(line)

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.status, answer.headers["capture-id"], answer.complete) == (201, "abc", False)


@pytest.mark.parametrize("rest", [b"-be7b", b"-be7b\r", b"-be7b\r\n", b"-be7b\r\nX: y\r\n\r"])
def test_headers_that_break_off_are_incomplete_and_give_no_half_id(serve, transport, ask, answer_to, rest):
    """To libcurl that is a complete answer, and half a capture id would be looked up in vain for ever."""

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 201 Created\r\nCapture-Id: 4ba29b50" + rest)

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.status, answer.complete) == (201, False)
    assert answer.headers.get("capture-id") in {None, "4ba29b50-be7b"}


def test_a_body_that_comes_too_slowly_is_cut_off_with_its_status(serve, open_transport, ask, answer_to):
    """The time limit counts for the whole answer, and what came before it is not thrown away."""

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 201 Created\r\nCapture-Id: abc\r\nContent-Length: 100\r\n\r\n{")
        line.until_the_client_leaves()

    server = serve(script)
    transport = open_transport(total_timeout=0.4)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.status, answer.headers["capture-id"], answer.body, answer.complete) == (201, "abc", b"{", False)


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n", b"Connection: close\r\n\r\n"])
def test_a_body_above_the_limit_is_cut_off(serve, transport, ask, answer_to, framing):
    """A server gone wild must not fill the worker's memory."""
    too_long = MAX_BODY_BYTES + 1

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 200 OK\r\n" + (framing % too_long if b"%" in framing else framing))
        line.send(b"x" * too_long)

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/orders"))

    assert (answer.status, answer.complete) == (200, False)
    assert len(answer.body) <= MAX_BODY_BYTES


def test_a_body_at_the_limit_is_complete(serve, transport, ask, answer_to):
    """The limit is the longest body that is taken."""

    def script(line):
        line.read_request()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MAX_BODY_BYTES + b"x" * MAX_BODY_BYTES)

    server = serve(script)

    answer = answer_to(transport, ask(f"{server.url}/orders"))

    assert (len(answer.body), answer.complete) == (MAX_BODY_BYTES, True)


def test_the_limit_counts_for_each_body_anew(serve, transport, ask, answer_to):
    """Handles are used again; what earlier answers took up is free by then."""
    length = MAX_BODY_BYTES * 2 // 3
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)

    answers = [answer_to(transport, ask(f"{server.url}/orders")) for _ in range(3)]

    assert [(len(answer.body), answer.complete) for answer in answers] == [(length, True)] * 3


# --- connections kept alive, and never a silent repeat that could hurt -------------------------------------


def _dies_at_the_second_request(line):
    """Execute and answer the first request of a connection, execute the next and hang up."""
    line.read_request()
    line.send(DONE)
    line.read_request()


def test_a_kept_connection_is_used_again(serve, transport, ask, answer_to):
    """A new connection per command would cost a handshake each."""
    server = serve(DONE)

    for _ in range(5):
        answer_to(transport, ask(f"{server.url}/captures"))

    assert (len(server.requests), server.connections) == (5, 1)


def test_a_request_that_must_not_be_repeated_is_executed_once(serve, transport, ask, answer_to):
    """Left alone, libcurl sends it again after the kept connection died, and that would be two captures."""
    server = serve(_dies_at_the_second_request)
    answer_to(transport, ask(f"{server.url}/warm-up"))

    answers = [answer_to(transport, ask(f"{server.url}/unkeyed", repeatable=False)) for _ in range(2)]

    executed = [request for request in server.requests if request.path == "/unkeyed"]
    assert [answer.status for answer in answers] == [204, 204]
    assert [request.connection for request in executed] == [2, 3]


def test_a_request_that_must_not_be_repeated_and_gets_no_answer_was_sent_once(serve, transport, ask, answer_to):
    """Sent once, fate unknown: a person or a read-back decides, not a library."""
    server = serve(lambda line: line.read_request())

    answer = answer_to(transport, ask(f"{server.url}/unkeyed", repeatable=False))

    assert answer.sent
    assert len(server.requests) == 1


def test_a_connection_of_a_request_that_must_not_be_repeated_is_not_kept(serve, transport, ask, answer_to):
    """Nothing may ride on a connection whose end would be in doubt."""
    server = serve(DONE)
    answer_to(transport, ask(f"{server.url}/unkeyed", repeatable=False))

    answer_to(transport, ask(f"{server.url}/keyed"))

    assert server.connections == 2


def test_a_repeatable_request_may_be_repeated_when_its_kept_connection_dies(serve, transport, ask, answer_to):
    """The same key and the same bytes: the provider knows the second for the first, and the caller has an answer."""
    server = serve(_dies_at_the_second_request)
    answer_to(transport, ask(f"{server.url}/warm-up"))

    answer = answer_to(transport, ask(f"{server.url}/keyed"))

    sent = [request for request in server.requests if request.path == "/keyed"]
    assert answer.status == 204
    assert [request.connection for request in sent] == [1, 2]
    assert (sent[0].headers, sent[0].body) == (sent[1].headers, sent[1].body)


def test_a_repeat_that_finds_nobody_does_not_make_the_first_send_unsent(serve, transport, ask, answer_to):
    """The error is about the new connection, but the request went out on the old one and was executed."""

    def script(line):
        _dies_at_the_second_request(line)
        line.server.stop_listening()

    server = serve(script)
    answer_to(transport, ask(f"{server.url}/warm-up"))

    answer = answer_to(transport, ask(f"{server.url}/keyed"))

    assert [request.path for request in server.requests] == ["/warm-up", "/keyed"]
    assert (answer.sent, answer.code) == (True, "reset")


# --- many at once ------------------------------------------------------------------------------------------


def test_one_slow_answer_holds_up_none_of_two_hundred(serve, transport, ask, collect_all):
    """A batch is as fast as its answers, not as slow as its slowest."""
    release = threading.Event()

    def script(line):
        while request := line.read_request():
            if request.path == "/slow":
                release.wait(20)
            line.send(DONE)

    server = serve(script)
    slow, fast = uuid4(), [uuid4() for _ in range(199)]
    transport.send(slow, ask(f"{server.url}/slow"))
    for tag in fast:
        transport.send(tag, ask(f"{server.url}/fast"))

    arrived = set()
    while len(arrived) < len(fast):
        arrived.update(tag for tag, _ in transport.collect(5.0))
    still_out = transport.in_flight
    release.set()
    last = collect_all(transport)

    assert (arrived, still_out) == (set(fast), 1)
    assert last[slow].status == 204
    assert len(server.requests) == 200


def test_answers_come_back_under_their_own_tags(serve, transport, ask, collect_all):
    """A mixed-up answer would finish the wrong command."""

    def script(line):
        while request := line.read_request():
            line.send(f"HTTP/1.1 201 Created\r\nCapture-Id: {request.path[1:]}\r\nContent-Length: 0\r\n\r\n".encode())

    server = serve(script)
    tags = [uuid4() for _ in range(100)]
    for tag in tags:
        transport.send(tag, ask(f"{server.url}/{tag}", repeatable=tag.int % 2 == 0))

    answers = collect_all(transport)

    assert {tag: UUID(answer.headers["capture-id"]) for tag, answer in answers.items()} == {tag: tag for tag in tags}


def test_connections_stay_open_in_quiet_times(serve, transport, ask, answer_to, collect_all):
    """Left to itself, an older libcurl closes one with each lone request after a batch, and opens them anew later."""
    batch = 50
    together = threading.Barrier(batch)

    def script(line):
        while request := line.read_request():
            if request.path == "/batch":
                together.wait(20)
            line.send(DONE)

    def send_a_batch():
        for _ in range(batch):
            transport.send(uuid4(), ask(f"{server.url}/batch"))
        collect_all(transport)

    server = serve(script)
    send_a_batch()
    for _ in range(batch):
        answer_to(transport, ask(f"{server.url}/alone"))

    send_a_batch()

    assert (len(server.requests), server.connections) == (3 * batch, batch)


def test_as_many_connections_are_kept_as_requests_may_be_under_way(serve, open_transport, ask, collect_all):
    """With fewer, each answer of a slow provider closes a connection, and the next request shakes hands again."""
    batch = 260
    together = threading.Barrier(batch)

    def script(line):
        while line.read_request():
            together.wait(20)
            line.send(DONE)

    server = serve(script)
    transport = open_transport(connections=batch)
    for _ in range(2):
        for _ in range(batch):
            transport.send(uuid4(), ask(f"{server.url}/batch"))
        collect_all(transport)

    assert (len(server.requests), server.connections) == (2 * batch, batch)


def test_more_than_a_thousand_open_files_do_no_harm(serve, open_transport, ask, answer_to):
    """`select` fails, or worse, above file descriptor 1023, and a host process may have that many open."""
    server = serve(DONE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard) if soft < 2048 else (soft, hard))
    null = os.open(os.devnull, os.O_RDONLY)
    copies = [os.dup(null) for _ in range(1100)]

    try:
        answer = answer_to(open_transport(), ask(f"{server.url}/captures"))
    finally:
        for fd in (null, *copies):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert answer.status == 204


def test_a_tag_in_flight_is_not_sent_again(serve, transport, ask):
    """The same command twice at once is the one thing this worker must never do."""
    server = serve(lambda line: line.until_the_client_leaves())
    tag = uuid4()
    transport.send(tag, ask(f"{server.url}/captures"))

    with pytest.raises(AlreadyInFlight, match=str(tag)):
        transport.send(tag, ask(f"{server.url}/captures"))

    assert transport.in_flight == 1


def test_collect_comes_back_empty_handed_when_the_time_is_up(serve, transport, ask):
    """The caller has other things to do: leases to watch, results to record."""
    server = serve(lambda line: line.until_the_client_leaves())
    transport.send(uuid4(), ask(f"{server.url}/captures"))
    started = time.monotonic()

    ended = transport.collect(0.2)

    assert (list(ended), transport.in_flight) == ([], 1)
    assert 0.15 < time.monotonic() - started < 5.0


def test_collect_wakes_up_for_a_time_limit(serve, open_transport, ask):
    """A request whose time is up ends then, however long the caller is ready to wait."""
    server = serve(lambda line: line.until_the_client_leaves())
    transport = open_transport(total_timeout=0.3)
    transport.send(uuid4(), ask(f"{server.url}/captures"))
    started = time.monotonic()

    ended = transport.collect(15.0)

    assert [answer.code for _, answer in ended] == ["no_answer"]
    assert time.monotonic() - started < 5.0


def test_collect_does_not_wait_when_nothing_is_in_flight(transport):
    """There is nothing to wait for."""
    started = time.monotonic()

    ended = transport.collect(30.0)

    assert list(ended) == []
    assert time.monotonic() - started < 5.0


def test_a_look_without_waiting_gets_things_done(serve, transport, ask):
    """`collect(0)` is how a busy caller drives its requests."""
    server = serve(DONE)
    transport.send(uuid4(), ask(f"{server.url}/captures"))

    ended, give_up_at = [], time.monotonic() + 10
    while not ended and time.monotonic() < give_up_at:
        ended = transport.collect(0)

    assert [answer.status for _, answer in ended] == [204]


def test_what_needs_a_new_connection_leaves_without_anybody_collecting(serve, transport, ask):
    """After an outage all connections are new, and whoever sends is busy with the database: sends would bunch up."""
    server = serve(lambda line: line.read_request() and line.until_the_client_leaves())
    transport.send(uuid4(), ask(f"{server.url}/captures"))

    for _ in range(3):
        transport.flush()

    server.wait_for(lambda: server.requests)


def test_closing_gives_up_what_is_in_flight(serve, open_transport, ask):
    """A process on its way out leaves no connection behind."""
    left = threading.Event()

    def script(line):
        line.read_request()
        line.until_the_client_leaves()
        left.set()

    server = serve(script)
    transport = open_transport()
    transport.send(uuid4(), ask(f"{server.url}/captures"))
    while not server.requests:
        transport.collect(0.05)

    transport.close()

    assert left.wait(10)
    assert transport.in_flight == 0


@pytest.fixture
def shown(caplog, capfd):
    """Whatever the program has logged and printed so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: (caplog.text, *capfd.readouterr())


def test_the_authorization_shows_nowhere(serve, transport, ask, answer_to, shown):
    """Whoever reads logs, errors or a debugger's output must not be able to act for the shop."""
    server = serve(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    request = ask(f"{server.url}/captures", authorization=SECRET)

    answer = answer_to(transport, request)
    server.close()
    refused = answer_to(transport, request)

    assert server.requests[0].all("authorization") == [SECRET]
    everything = (request, answer, refused, transport, vars(transport), *shown())
    assert SECRET.split()[1] not in "".join(map(repr, everything))
