"""A running sandbox and the plainest client for it: `http.client`, and raw sockets where that is too polite."""

import base64
import http.client
import json
import socket
import ssl
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from worker.sandbox import Sandbox, SandboxControl

ROOT = "/ordermanagement/v1/orders"
BASIC = "Basic " + base64.b64encode(b"sandbox:sandbox").decode()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Shop:
    """A client with one kept-alive connection, which it opens anew when told to."""

    base_url: str
    authorization: str | None = BASIC
    timeout: float = 10
    tls: ssl.SSLContext | None = None
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self):
        place = urlsplit(self.base_url).netloc
        if self.tls is None:
            self.connection = http.client.HTTPConnection(place, timeout=self.timeout)
        else:
            self.connection = http.client.HTTPSConnection(place, timeout=self.timeout, context=self.tls)

    def ask(self, method, path, body=None, *, key=None, headers=None):
        self.begin(method, path, body, key=key, headers=headers)

        return self.end()

    def begin(self, method, path, body=None, *, key=None, headers=None):
        every = {"Content-Type": "application/json"}
        if self.authorization is not None:
            every["Authorization"] = self.authorization
        if key is not None:
            every["Klarna-Idempotency-Key"] = key
        text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, body=text, headers={**every, **(headers or {})})

    def end(self):
        answer = self.connection.getresponse()

        return Answer(answer.status, answer.headers, answer.read())

    def order(self, order_id, method="GET", rest="", body=None, *, key=None):
        return self.ask(method, f"{ROOT}/{order_id}{rest}", body, key=key)

    def capture(self, order_id, amount, *, key=None, **fields):
        return self.order(order_id, "POST", "/captures", {"captured_amount": amount, **fields}, key=key)

    def refund(self, order_id, amount, *, key=None, **fields):
        return self.order(order_id, "POST", "/refunds", {"refunded_amount": amount, **fields}, key=key)


@dataclass
class BlueShop(Shop):
    """A client of BlueSnap; what it sends with every request may be left out with None."""

    def call(self, method, path, body=None, *, key=None, **headers):
        told = {"bluesnap-version": "3.0", "Accept": "application/json", "Idempotency-Key": key, **headers}
        every = {name: value for name, value in told.items() if value is not None}

        return self.ask(method, f"/services/2/{path}", body, headers=every)

    def authorize(self, amount="10.00", *, kind="AUTH_ONLY", key=None, **fields):
        body = {"cardTransactionType": kind, "amount": amount, "currency": "USD", "vaultedShopperId": 7, **fields}

        return self.call("POST", "transactions", body, key=key)

    def capture(self, transaction_id, amount=None, *, key=None, **fields):
        body = {"cardTransactionType": "CAPTURE", "transactionId": transaction_id, **fields}

        return self.call("PUT", "transactions", body if amount is None else {**body, "amount": amount}, key=key)

    def reverse(self, transaction_id, *, key=None):
        body = {"cardTransactionType": "AUTH_REVERSAL", "transactionId": transaction_id}

        return self.call("PUT", "transactions", body, key=key)

    def refund(self, transaction_id, amount=None, *, key=None, **fields):
        body = fields if amount is None else {"amount": amount, **fields}

        return self.call("POST", f"transactions/refund/{transaction_id}", body, key=key)

    def cancel_refund(self, named, *, key=None):
        return self.call("DELETE", f"transactions/pending-refund/{named}", key=key)

    def read(self, transaction_id, **headers):
        return self.call("GET", f"transactions/{transaction_id}", **headers)


@pytest.fixture
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(params=["thread", "control port"])
def driver(request, sandbox):
    return sandbox if request.param == "thread" else SandboxControl(sandbox.control_url)


@pytest.fixture
def new_shop():
    shops = []

    def new_shop(base_url, *, kind=Shop, **options):
        shops.append(kind(base_url, **options))
        return shops[-1]

    yield new_shop
    for shop in shops:
        shop.connection.close()


@pytest.fixture
def shop(sandbox, new_shop):
    return new_shop(sandbox.base_url)


@pytest.fixture
def new_blue_shop(new_shop):
    return lambda base_url, **options: new_shop(base_url, kind=BlueShop, **options)


@pytest.fixture
def blue_shop(sandbox, new_blue_shop):
    return new_blue_shop(sandbox.base_url)


@pytest.fixture
def transaction_id(sandbox):
    return sandbox.create_transaction(amount="10.00")["transactionId"]


@pytest.fixture
def sale_id(sandbox):
    return sandbox.create_transaction(amount="10.00", captured=True)["transactionId"]


@pytest.fixture
def order_id(sandbox):
    return sandbox.create_order(amount=10_000)["order_id"]


@pytest.fixture
def new_key():
    return lambda: str(uuid.uuid4())


@pytest.fixture
def until():
    """Wait for a fact of the other thread to come true, and fail if it does not."""

    def until(fact, seconds=10):
        deadline = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.005)

    return until


@pytest.fixture
def raw(sandbox):
    """Bytes to the provider's port and all bytes back, until it closes."""
    address = urlsplit(sandbox.base_url)

    def raw(sent):
        with socket.create_connection((address.hostname, address.port), timeout=10) as wire:
            wire.sendall(sent)
            received = b""
            while piece := wire.recv(65536):
                received += piece
            return received

    return raw
