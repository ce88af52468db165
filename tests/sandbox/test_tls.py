import socket
import ssl
import threading
from http.client import HTTPException
from urllib.parse import urlsplit

import pytest
import trustme

from worker.sandbox import Sandbox, SandboxControl


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def sandbox(authority):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with Sandbox(tls=tls, create_orders=700) as sandbox:
        yield sandbox


@pytest.fixture
def shop(sandbox, authority, new_shop):
    """A client that believes the sandbox's certificate."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)

    return new_shop(sandbox.base_url, tls=tls)


def test_one_with_a_certificate_is_asked_by_https(sandbox, shop):
    """Credentials go to another host by https only, so a sandbox on one has to speak it."""
    answer = shop.capture("order", 700)

    assert (201, "https") == (answer.status, urlsplit(sandbox.base_url).scheme)
    assert [700] == [effect["amount"] for effect in sandbox.effects()]


def test_its_control_port_needs_none(sandbox):
    """It is for whoever runs the sandbox, on the same host, and carries nothing secret."""
    control = SandboxControl(sandbox.control_url)

    assert control.health()["base_url"] == sandbox.base_url


@pytest.mark.parametrize(
    ("kind", "options", "effects"),
    [("drop_reply", {}, 1), ("reset", {"executed": True}, 1), ("reset", {}, 0), ("truncated", {"executed": True}, 1)],
)
def test_its_answers_are_lost_in_the_same_ways(sandbox, shop, kind, options, effects):
    """What a network does to plain text it does to what is encrypted."""
    sandbox.fault(kind, **options)

    with pytest.raises((OSError, HTTPException)):
        shop.capture("order", 700)

    assert effects == len(sandbox.effects())


def test_a_client_that_says_no_word_of_tls_costs_it_nothing(sandbox, shop):
    """A port scan, or a worker whose address says http by mistake, must not end a test of others."""
    parts = urlsplit(sandbox.base_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: sandbox\r\n\r\n")
        while stranger.recv(4096):
            pass

    assert 201 == shop.capture("order", 700).status


def test_a_client_that_does_not_believe_it_sends_nothing(sandbox, new_shop):
    """The certificate is looked at before the first byte of a request leaves."""
    unbelieving = new_shop(sandbox.base_url, tls=ssl.create_default_context())

    with pytest.raises(ssl.SSLCertVerificationError):
        unbelieving.capture("order", 700)

    assert [] == sandbox.requests()


def test_it_ends_while_clients_hold_their_connections(authority):
    """A supervisor waits for it, and idle connections stay open for a minute."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    sandbox = Sandbox(tls=tls).start()
    parts = urlsplit(sandbox.base_url)

    with socket.create_connection((parts.hostname, parts.port), timeout=10):
        ending = threading.Thread(target=sandbox.stop)
        ending.start()
        ending.join(timeout=10)

    assert not ending.is_alive()
