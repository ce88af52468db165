import http.client
import socket
import ssl

import pytest

from worker.desks import explain_failure, is_host, is_loopback, verified_tls


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"])
def test_this_machine_is_known_by_these_names(host):
    """Only here may a connection go without TLS."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "127.0.0.1.example", "10.0.0.1", "::", "example.com"])
def test_other_hosts_are_not_this_machine(host):
    """A name that only looks local leads through a network where others listen."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "text", ["mail.example.com", "mail_1", "xn--bcher-kva.example", "10.0.0.1", "::1", "a.example."]
)
def test_names_and_addresses_of_hosts_are_known(text):
    """They are what the settings hold."""
    assert is_host(text)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "a\x00", "a..b", ".a", "a" * 64, "bücher.example", "a/b", "[::1]"])
def test_what_can_be_no_host_is_refused(text):
    """The resolver would raise what no desk expects."""
    assert not is_host(text)


def test_certificates_and_names_are_always_verified():
    """Without both, anybody on the way could read the log-in and the tickets."""
    context = verified_tls()

    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)


def test_a_system_without_certificates_gets_those_of_certifi(tmp_path, monkeypatch):
    """Slim containers have none, and verification must not be what gets dropped."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))

    context = verified_tls()

    assert context.cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ssl.SSLCertVerificationError(), "certificate"),
        (ssl.SSLEOFError(), "TLS"),
        (socket.gaierror(), "resolve"),
        (ConnectionRefusedError(), "refused"),
        (TimeoutError(), "in time"),
        (http.client.BadStatusLine("x"), "HTTP"),
        (http.client.RemoteDisconnected(), "hung up"),
        (ConnectionResetError(), "hung up"),
        (BrokenPipeError(), "hung up"),
        (OSError(101, "Network is unreachable"), "cannot be reached"),
    ],
)
def test_each_failure_is_told_with_what_to_check(error, expected):
    """An operator reads this sentence and nothing else."""
    words = explain_failure(error)

    assert expected in words
    assert "Check" in words
