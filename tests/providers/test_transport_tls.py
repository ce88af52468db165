from __future__ import annotations

import ssl
import warnings
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import certifi
import pytest
import trustme

from worker.providers import transport as transport_module
from worker.providers.transport import AuthoritiesMissing, CurlTransport, find_authorities

DONE = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture
def open_trusting(open_transport, ca_file):
    return partial(open_transport, ca_file=ca_file)


@pytest.fixture
def trusting(open_trusting):
    return open_trusting()


def test_a_server_with_the_right_certificate_is_asked(serve, tls_for, trusting, ask, answer_to):
    """This is what every other refusal here is compared with."""
    server = serve(DONE, tls=tls_for("localhost"))

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert answer.status == 204
    assert len(server.requests) == 1


def test_a_certificate_for_another_name_is_refused(serve, tls_for, trusting, ask, answer_to):
    """Somebody else answers under the provider's address; nothing was sent to them."""
    server = serve(DONE, tls=tls_for("api.example.org"))

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")
    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(serve, tls_for, trusting, ask, answer_to):
    """Anyone can sign a certificate for any name; only the named authorities count."""
    server = serve(DONE, tls=tls_for("localhost", signed_by=trustme.CA()))

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")
    assert server.requests == []


def test_the_systems_authorities_do_not_vouch_for_a_stranger(serve, tls_for, transport, ask, answer_to):
    """Without a file of one's own the public authorities decide, and they have not signed this one."""
    server = serve(DONE, tls=tls_for("localhost"))

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")


def test_a_certificate_that_has_run_out_is_refused(serve, tls_for, trusting, ask, answer_to):
    """Its key may have been given up since."""
    run_out = tls_for(
        "localhost", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2021, 1, 1, tzinfo=UTC)
    )
    server = serve(DONE, tls=run_out)

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")
    assert server.requests == []


def test_a_request_that_must_not_be_repeated_is_verified_like_any_other(serve, tls_for, trusting, ask, answer_to):
    """Its handle is set up apart, and must not forget it."""
    server = serve(DONE, tls=tls_for("api.example.org"))

    answer = answer_to(trusting, ask(f"{server.url}/captures", repeatable=False))

    assert (answer.sent, answer.code) == (False, "tls_failed")
    assert server.requests == []


def test_a_server_of_many_names_is_told_which_one_is_meant(serve, tls_for, trusting, ask, answer_to):
    """Klarna's hosts need SNI: without it they show a certificate for another name."""
    named, meant = [], tls_for("localhost")
    of_many_names = tls_for("other.example.org")

    def choose(connection, name, _context):
        named.append(name)
        if name == "localhost":
            connection.context = meant

    of_many_names.sni_callback = choose
    server = serve(DONE, tls=of_many_names)

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert named == ["localhost"]
    assert answer.status == 204


def test_tls_of_today_is_spoken(serve, tls_for, trusting, ask, answer_to):
    """Klarna takes 1.2 and newer."""
    old, new = tls_for("localhost"), tls_for("localhost")
    old.maximum_version, new.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

    answers = [answer_to(trusting, ask(f"{serve(DONE, tls=terms).url}/captures")) for terms in (old, new)]

    assert [answer.status for answer in answers] == [204, 204]


def test_tls_of_yesterday_is_refused(serve, tls_for, trusting, ask, answer_to):
    """TLS 1.1 can be broken, so a server that knows no better is not talked to."""
    context = tls_for("localhost")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    server = serve(DONE, tls=context)

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")
    assert server.requests == []


def test_a_handshake_that_stalls_means_not_sent(serve, open_transport, ask, answer_to):
    """The connection was made and TLS was not: no byte of the request has left."""
    server = serve(lambda line: line.until_the_client_leaves())
    transport = open_transport(connect_timeout=0.3)

    answer = answer_to(transport, ask(f"https://localhost:{server.port}/captures"))

    assert not answer.sent
    assert answer.code in {"tls_failed", "connect_failed"}  # an older libcurl counts the handshake to the connection


def test_a_server_that_speaks_no_tls_means_not_sent(serve, transport, ask, answer_to):
    """A wrong port is found out before anything is given away."""

    def script(line):
        line.read(5)
        line.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    server = serve(script)

    answer = answer_to(transport, ask(f"https://localhost:{server.port}/captures"))

    assert (answer.sent, answer.code) == (False, "tls_failed")


def test_silence_after_the_handshake_leaves_it_sent(serve, tls_for, open_trusting, ask, answer_to):
    """From the end of the handshake on, the server may have read and executed it."""
    server = serve(lambda line: line.until_the_client_leaves(), tls=tls_for("localhost"))
    transport = open_trusting(total_timeout=0.5)

    answer = answer_to(transport, ask(f"{server.url}/captures"))

    assert (answer.sent, answer.code) == (True, "no_answer")


def test_a_body_cut_off_without_a_farewell_is_incomplete(serve, tls_for, trusting, ask, answer_to):
    """Without a length only TLS's own goodbye tells a whole body from one that an attacker cut off."""

    def script(line):
        line.read_request()
        line.send(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"captures":[]')

    server = serve(script, tls=tls_for("localhost"))

    answer = answer_to(trusting, ask(f"{server.url}/captures"))

    assert (answer.status, answer.complete) == (200, False)


def test_a_given_file_of_authorities_counts_alone(monkeypatch, tmp_path, ca_file):
    """Whoever names one means that one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))

    assert ca_file == find_authorities(ca_file)


def test_the_usual_variable_names_the_authorities(monkeypatch, ca_file):
    """Operators behind a firm's own authority set `SSL_CERT_FILE` for every program."""
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)

    assert ca_file == find_authorities(None)


def test_a_file_of_authorities_that_is_not_there_is_named(monkeypatch, tmp_path):
    """Falling back in silence would trust others than the operator meant."""
    missing = str(tmp_path / "ca.pem")

    with pytest.raises(AuthoritiesMissing, match=r"ca\.pem"):
        CurlTransport(ca_file=missing)

    monkeypatch.setenv("SSL_CERT_FILE", missing)
    with pytest.raises(AuthoritiesMissing, match=r"ca\.pem"):
        CurlTransport()


def test_the_systems_authorities_are_found(monkeypatch):
    """The libcurl that comes with pycurl knows only the place of the system it was built on."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    assert "BEGIN CERTIFICATE" in Path(find_authorities(None)).read_text(encoding="utf-8")


def test_a_system_without_authorities_gets_those_of_certifi(monkeypatch, tmp_path):
    """A slim container has none, and no verification is no choice."""
    nowhere = ssl.get_default_verify_paths()._replace(openssl_cafile=str(tmp_path / "none.pem"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(transport_module, "SYSTEM_BUNDLES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)

    assert certifi.where() == find_authorities(None)
