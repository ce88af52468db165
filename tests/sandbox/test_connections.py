import http.client
import socket
from urllib.parse import urlsplit

import pytest

from worker.sandbox import Sandbox

HEAD = (
    b"POST /ordermanagement/v1/orders/%s/captures HTTP/1.1\r\n"
    b"Host: shop.example\r\nAuthorization: Basic c2FuZGJveDpzYW5kYm94\r\n"
)


@pytest.fixture
def head(order_id):
    return HEAD % order_id.encode()


def test_one_connection_serves_many_requests(sandbox, shop, order_id):
    """Pooled connections are the normal case, and their numbers show who reuses what."""
    for _ in range(3):
        shop.order(order_id)

    assert [1, 1, 1] == [request["connection"] for request in sandbox.requests()]


def test_each_new_connection_has_a_new_number(sandbox, new_shop, order_id):
    """A test can then demand that a request came on a fresh connection."""
    for _ in range(2):
        new_shop(sandbox.base_url).order(order_id)

    assert [1, 2] == [request["connection"] for request in sandbox.requests()]


def test_a_request_in_many_pieces_is_one_request(sandbox, order_id, head):
    """Networks cut where they like."""
    address = urlsplit(sandbox.base_url)
    whole = head + b'Content-Length: 23\r\nConnection: close\r\n\r\n{"captured_amount":100}'
    with socket.create_connection((address.hostname, address.port), timeout=10) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(whole), 7):
            wire.sendall(whole[start : start + 7])
        answer = wire.recv(65536)

    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    assert ['{"captured_amount":100}'] == [request["body"] for request in sandbox.requests()]


def test_requests_sent_at_once_are_answered_in_their_order(sandbox, raw, head):
    """Pipelining is allowed by the protocol, and each request counts."""
    body = b'Content-Length: 23\r\n\r\n{"captured_amount":100}'
    last = b'Connection: close\r\nContent-Length: 23\r\n\r\n{"captured_amount":100}'

    received = raw(head + body + head + last)

    assert 2 == received.count(b"HTTP/1.1 201 Created")
    assert 2 == len(sandbox.effects())


def test_a_chunked_body_is_read(sandbox, raw, head):
    """A client that streams does not know the length beforehand."""
    received = raw(
        head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b'11\r\n{"captured_amount\r\n6\r\n":100}\r\n0\r\n\r\n'
    )

    assert received.startswith(b"HTTP/1.1 201")
    assert [100] == [effect["amount"] for effect in sandbox.effects()]


def test_a_client_that_waits_for_leave_to_send_gets_it(sandbox, order_id, head):
    """A careful client asks first before it sends a large body."""
    address = urlsplit(sandbox.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as wire:
        wire.sendall(head + b"Content-Length: 23\r\nExpect: 100-continue\r\n\r\n")
        leave = wire.recv(65536)
        wire.sendall(b'{"captured_amount":100}')
        answer = wire.recv(65536)

    assert leave.startswith(b"HTTP/1.1 100")
    assert answer.startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(("size", "status"), [(1_000_000, 400), (1_000_001, 413), (5_000_000, 413)])
def test_a_body_above_one_megabyte_is_too_large(sandbox, shop, order_id, size, status):
    """The refusal is definite and must reach the client, so the body is read to its end."""
    answer = shop.order(order_id, "POST", "/captures", b" " * size)

    assert status == answer.status
    assert [] == sandbox.effects()


def test_a_refusal_for_size_has_an_error_object_and_keeps_the_connection(shop, order_id):
    """It is an answer of the provider like any other."""
    answer = shop.order(order_id, "POST", "/captures", b" " * 1_000_001)
    next_answer = shop.order(order_id)

    assert "REQUEST_TOO_LARGE" == answer.json["error_code"]
    assert 200 == next_answer.status


def test_a_head_above_20_kilobytes_is_refused(sandbox, raw, head):
    """Headers have their own limit."""
    received = raw(head + b"X-Long: " + b"x" * 30_000 + b"\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 431 ")
    assert [] == sandbox.requests()


@pytest.mark.parametrize(
    "sent", [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"]
)
def test_what_is_no_http_is_refused_and_closed(sandbox, shop, order_id, raw, sent):
    """TLS against a plain port looks like this, and it must not harm the next client."""
    received = raw(sent)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert 200 == shop.order(order_id).status


@pytest.mark.parametrize("sent", [b"", b"POST /x HT", HEAD % b"x" + b"Content-Length: 23\r\n\r\n{"])
def test_a_client_that_goes_away_early_leaves_no_request(sandbox, shop, order_id, sent):
    """Half a request was never sent, as far as the provider knows."""
    address = urlsplit(sandbox.base_url)
    with socket.create_connection((address.hostname, address.port)) as wire:
        wire.sendall(sent)
    shop.order(order_id)

    assert ["GET"] == [request["method"] for request in sandbox.requests()]


def test_half_a_request_gets_no_answer(sandbox, head):
    """An answer to what never fully arrived could be taken for a definite one."""
    address = urlsplit(sandbox.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as wire:
        wire.sendall(head + b"Content-Length: 23\r\n\r\n{")
        wire.shutdown(socket.SHUT_WR)
        received = wire.recv(65536)

    assert b"" == received
    assert [] == sandbox.requests()


def test_an_old_client_is_answered_and_its_connection_closed(raw):
    """HTTP/1.0 knows no kept-alive connections."""
    received = raw(b"GET /elsewhere HTTP/1.0\r\n\r\n")

    assert b"401 Unauthorized" in received
    assert b"connection: close" in received.lower()


def test_a_head_request_gets_no_body(raw):
    """Whatever page would have come, HEAD wants its head alone."""
    received = raw(b"HEAD /elsewhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 401")
    assert received.endswith(b"\r\n\r\n")


def test_an_idle_connection_is_closed_after_a_while(new_shop):
    """Klarna closes idle ones, so a pool must expect to find them dead."""
    with Sandbox(idle_seconds=0.4) as sandbox:
        shop = new_shop(sandbox.base_url)
        shop.ask("GET", "/elsewhere")

        gone = shop.connection.sock.recv(1)

        assert b"" == gone


def test_the_ledger_shows_requests_as_they_were_sent_but_no_credentials(sandbox, shop, order_id, new_key):
    """Byte-equal bodies and the exact header name are facts that others test with this."""
    key = new_key()
    shop.ask("POST", f"/ordermanagement/v1/orders/{order_id}/captures?x=1", b'{ "captured_amount":100}', key=key)

    request = sandbox.requests()[0]

    assert (1, "POST", 201) == (request["number"], request["method"], request["status"])
    assert f"/ordermanagement/v1/orders/{order_id}/captures?x=1" == request["path"]
    assert '{ "captured_amount":100}' == request["body"]
    assert key == request["headers"]["Klarna-Idempotency-Key"]
    assert "authorization" not in {name.lower() for name in request["headers"]}
    assert "c2FuZGJveDpzYW5kYm94" not in str(sandbox.requests())


def test_the_end_of_the_sandbox_ends_every_connection(new_shop):
    """A test that is over holds nothing open, not even what hangs."""
    with Sandbox() as sandbox:
        shop = new_shop(sandbox.base_url)
        sandbox.fault("hang")
        shop.begin("GET", "/elsewhere")
        port = shop.connection.port

    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        shop.end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
