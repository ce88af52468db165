"""The lines between the parts: what they hold back, what they cut, and what they never deliver."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.chaos.proxy import Line, Obstacle, Proxy


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


@pytest.fixture
def heard():
    return bytearray()


@pytest.fixture
def proxy(line, heard):
    """A line to somebody who keeps what he hears and says it back."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection) -> None:
        with connection, contextlib.suppress(OSError):
            while piece := connection.recv(100):
                heard.extend(piece)
                connection.sendall(piece)

    threading.Thread(target=serve, daemon=True).start()
    yield Proxy(line, "test", server.getsockname()).start()
    server.close()


def connected(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def test_what_is_said_arrives_and_is_answered(proxy):
    """A line that is not disturbed must not be noticed."""
    with connected(proxy) as client:
        client.sendall(b"hello")

        assert b"hello" == client.recv(100)


def test_what_is_held_arrives_once_it_is_let_go(proxy, heard):
    """A partition that ends is no loss."""
    with connected(proxy) as client:
        client.sendall(b"first")
        client.recv(100)
        proxy.meet(Obstacle(is_held=True))
        client.sendall(b"second")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)

        proxy.clear()
        client.settimeout(5)

        assert b"second" == client.recv(100)


def test_what_a_client_gave_up_is_never_delivered(proxy, heard):
    """Else a capture would arrive after it was read back as absent, and the harness would be the one that doubles."""
    client = connected(proxy)
    client.sendall(b"first")
    client.recv(100)
    proxy.meet(Obstacle(is_held=True))
    client.sendall(b"second")
    client.close()
    ends = time.monotonic() + 5
    while proxy._writers and time.monotonic() < ends:
        time.sleep(0.01)

    proxy.clear()

    assert not proxy._writers
    assert b"first" == heard


def test_a_halved_line_delivers_the_first_half_and_no_more(proxy, heard):
    """A cut in the middle of a message is what parsers and drivers fear most."""
    proxy.meet(Obstacle(halved=1.0))
    with connected(proxy) as client:
        client.sendall(b"12345678")
        with contextlib.suppress(ConnectionError):
            assert b"" == client.recv(100)

    assert b"1234".startswith(heard)


def test_a_line_that_was_reset_is_gone_for_both_ends(proxy):
    """Pools must notice."""
    with connected(proxy) as client:
        client.sendall(b"hello")
        client.recv(100)

        proxy.reset()

        with pytest.raises(ConnectionError):
            client.recv(100)


def test_a_line_that_was_forgotten_still_takes_what_is_said(proxy, heard):
    """That is what is hard about it: nobody is refused, and whoever connects anew is served."""
    with connected(proxy) as client:
        client.sendall(b"hello")
        client.recv(100)

        proxy.forget()

        client.settimeout(0.3)
        client.sendall(b"again")
        with pytest.raises(TimeoutError):
            client.recv(100)
    with connected(proxy) as other:
        other.sendall(b"new")
        assert b"new" == other.recv(100)
    assert b"helloagainnew" == heard
