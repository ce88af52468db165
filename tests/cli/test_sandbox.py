from __future__ import annotations

import base64
import json
import signal
import socket
import ssl
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

import pytest
import trustme

ORDER = "4ba29b50-be7b-44f5-a492-113e6a865e22"


@pytest.fixture
def sandbox(start):
    """Starts the sandbox on free ports; gives the process and its provider's address."""

    def call(*options, **changes):
        process = start("sandbox", "--port", "0", "--control-port", "0", "--json", *options, **changes)
        urls = json.loads(process.stdout.readline())
        return process, urls

    return call


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def pair(authority, tmp_path):
    """A folder with a certificate for this host, and its key."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")

    return tmp_path


def status_of(url, *, username="sandbox", password="sandbox", order=ORDER, tls=None):
    """Read an order as the account would."""
    parts = urlsplit(url)
    if tls is None:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=10)
    else:
        connection = HTTPSConnection(parts.hostname, parts.port, timeout=10, context=tls)
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    connection.request("GET", f"/ordermanagement/v1/orders/{order}", headers={"Authorization": f"Basic {credentials}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()

    return answer.status


def test_it_says_where_it_can_be_reached(start):
    """Whoever starts it waits for this line."""
    process = start("sandbox", "--port", "0", "--control-port", "0")

    words = process.stdout.readline().split()

    assert ("sandbox", "control") == (words[0], words[2])
    assert words[1].startswith("http://127.0.0.1:")
    assert words[3].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told(sandbox, number):
    """It runs under the same supervisor as the worker."""
    process, _ = sandbox()

    process.send_signal(number)

    out, err = process.communicate(timeout=30)
    assert (0, "", "") == (process.returncode, out, err)


def test_it_demands_the_credentials_of_the_account(sandbox):
    """With others the worker must meet the 401 that it would meet at the provider."""
    _, urls = sandbox(
        "--create-orders",
        "1000",
        ACCOUNTS__KLARNA_EU__USERNAME="shop",
        ACCOUNTS__KLARNA_EU__PASSWORD="of-the-account",
    )

    assert 200 == status_of(urls["base_url"], username="shop", password="of-the-account")
    assert 401 == status_of(urls["base_url"])


def test_it_takes_the_credentials_of_every_account_that_points_at_it(sandbox):
    """Several accounts are rehearsed against one sandbox, each with its own name, and only at its own provider."""
    _, urls = sandbox(
        "--create-orders",
        "1000",
        ACCOUNTS__KLARNA_NA__PROVIDER="klarna",
        ACCOUNTS__KLARNA_NA__BASE_URL="http://127.0.0.1:8090",
        ACCOUNTS__KLARNA_NA__USERNAME="overseas",
        ACCOUNTS__KLARNA_NA__PASSWORD="sandbox",
        ACCOUNTS__BLUESNAP_US__USERNAME="elsewhere",
    )

    assert 200 == status_of(urls["base_url"])
    assert 200 == status_of(urls["base_url"], username="overseas")
    assert 401 == status_of(urls["base_url"], username="elsewhere")


def test_orders_are_there_from_the_beginning(sandbox, file):
    """A demonstration starts with orders, and without a second program that makes them."""
    orders = file({"order_id": ORDER, "amount": 1000})

    _, urls = sandbox("--orders", orders)

    assert 200 == status_of(urls["base_url"])
    assert 404 == status_of(urls["base_url"], order=ORDER.replace("4", "5"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--orders", "no-such-file.jsonl"], "cannot read the orders file no-such-file.jsonl"),
        (["--create-orders", "0"], "'--create-orders'"),
        (["--port", "-1"], "'--port'"),
    ],
)
def test_what_it_cannot_do_is_one_line(run, options, said):
    """A stand-in that starts half is worse than none."""
    done = run("sandbox", *options)

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--certificate", "cert.pem"), "--certificate and --key go together"),
        (("--key", "key.pem"), "--certificate and --key go together"),
        (("--certificate", "nowhere.pem", "--key", "key.pem"), "cannot use nowhere.pem with the key key.pem (No such"),
        (("--certificate", "cert.pem", "--key", "cert.pem"), "they must be a pair of PEM files"),
    ],
)
def test_a_certificate_that_does_not_do_is_one_line(run, pair, monkeypatch, given, said):
    """A sandbox that fell back to plain http would be refused by every worker on another host, and nobody told why."""
    monkeypatch.chdir(pair)

    done = run("sandbox", *given)

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err


def test_with_a_certificate_it_speaks_https(sandbox, pair, authority):
    """Another host reaches it by https only: plain http leads no further than this machine."""
    _, urls = sandbox("--create-orders", "1000", "--certificate", pair / "cert.pem", "--key", pair / "key.pem")

    tls = ssl.create_default_context()
    authority.configure_trust(tls)

    assert urls["base_url"].startswith("https://")
    assert 200 == status_of(urls["base_url"], tls=tls)


def test_a_port_that_is_taken_is_one_line(run):
    """A forgotten sandbox is the usual cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("sandbox", "--port", taken.getsockname()[1])

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert str(taken) not in done.err
