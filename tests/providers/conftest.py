"""Small real servers that do exactly what a test tells them, and what it takes to ask them something."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import trustme

from worker.ports import Held, Request
from worker.providers.transport import CurlTransport
from worker.testing import ManualClock, SandboxTransport

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it came over the wire, header names as spelled."""

    method: str
    path: str
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for spelled, value in self.headers if spelled.lower() == name.lower()]


@dataclass(slots=True, kw_only=True)
class Line:
    """One accepted connection, in the hands of the test's script."""

    socket: socket.socket
    number: int
    server: Server
    buffered: bytes = b""

    def read(self, count: int) -> bytes:
        """Read exactly so many bytes, fewer only when the client has gone."""
        while len(self.buffered) < count and (chunk := self.socket.recv(65536)):
            self.buffered += chunk
        taken, self.buffered = self.buffered[:count], self.buffered[count:]
        return taken

    def read_request(self) -> Received | None:
        while b"\r\n\r\n" not in self.buffered:
            chunk = self.socket.recv(65536)
            if not chunk:
                return None
            self.buffered += chunk
        head, _, self.buffered = self.buffered.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        method, path, version = first.split(" ")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in rest))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        request = Received(
            method=method, path=path, version=version, headers=headers, body=self.read(length), connection=self.number
        )
        with self.server.changed:
            self.server.requests.append(request)
            self.server.changed.notify_all()
        return request

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def until_the_client_leaves(self) -> None:
        while self.socket.recv(65536):
            pass

    def reset(self) -> None:
        """Close so that the client sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass(slots=True, kw_only=True)
class Server:
    """A server on loopback that runs `script` once per connection, each in a thread of its own."""

    script: Callable[[Line], None]
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    failed_handshakes: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    port: int = 0
    _listener: socket.socket | None = None
    _lines: list[Line] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._run(self._accept, self._listener)
        return self

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def wait_for(self, fact: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(fact, PATIENCE_SECONDS)

    def stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self.stop_listening()
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _run(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._run(self._talk, accepted, self.connections)

    def _talk(self, accepted: socket.socket, number: int) -> None:
        try:
            spoken = self.tls.wrap_socket(accepted, server_side=True) if self.tls else accepted
        except OSError:
            accepted.close()
            with self.changed:
                self.failed_handshakes += 1
                self.changed.notify_all()
            return
        line = Line(socket=spoken, number=number, server=self)
        self._lines.append(line)
        with spoken, contextlib.suppress(OSError):
            self.script(line)


def _answering(raw: bytes) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        while line.read_request():
            line.send(raw)

    return script


@pytest.fixture
def serve():
    servers = []

    def start(does: Callable[[Line], None] | bytes, *, tls=None):
        """Start a server that follows a script, or gives every request the same answer."""
        servers.append(Server(script=_answering(does) if isinstance(does, bytes) else does, tls=tls).start())
        return servers[-1]

    yield start

    for server in servers:
        server.close()


@pytest.fixture
def open_transport():
    opened = []

    def start(**settings) -> CurlTransport:
        opened.append(CurlTransport(**{"connect_timeout": 5.0, "total_timeout": 10.0} | settings))
        return opened[-1]

    yield start

    for transport in opened:
        transport.close()


@pytest.fixture
def transport(open_transport):
    return open_transport()


@pytest.fixture
def ask():
    """Build a request; what a test does not mention is a keyed change."""

    def build(url: str, **changes) -> Request:
        plain = {
            "method": "POST",
            "headers": {"Content-Type": "application/json", "Klarna-Idempotency-Key": "b5f5c4a2"},
            "body": b'{"captured_amount":1000}',
            "authorization": "Basic c2VjcmV0OnNlY3JldA==",
            "repeatable": True,
        }
        return Request(url=url, **(plain | changes))

    return build


@pytest.fixture
def collect_all():
    """Collect until nothing is in flight."""

    def collect(transport) -> dict[UUID, object]:
        ended = {}
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while transport.in_flight and time.monotonic() < give_up_at:
            ended.update(transport.collect(1.0))
        assert transport.in_flight == 0
        return ended

    return collect


@pytest.fixture
def answer_to(collect_all):
    """Send one request and wait for what comes of it."""

    def send(transport, request):
        tag = uuid4()
        transport.send(tag, request)
        return collect_all(transport)[tag]

    return send


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def tls_for(authority):
    """A server's TLS context with a certificate for the given name, signed by the tests' authority."""

    def build(name: str, *, signed_by: trustme.CA = authority, alpn: tuple[str, ...] = (), **terms) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signed_by.issue_cert(name, **terms).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    return build


@pytest.fixture
def held():
    """A command a worker holds the lease of; what a test does not mention is a keyed capture."""

    def build(**changes) -> Held:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        plain = {
            "id": UUID("018f6a3e-0000-7000-8000-000000000001"),
            "account": "klarna-eu",
            "kind": "capture",
            "order_id": "4ba29b50-be7b-44f5-a492-113e6a865e22",
            "target": None,
            "keyed": True,
            "payload": b'{"captured_amount":1000}',
            "idempotency_key": "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11",
            "claims": 1,
            "attempt": 1,
            "failures": 0,
            "throttles": 0,
            "in_doubt": False,
            "first_sent_at": now,
            "lease_until": now + timedelta(seconds=90),
            "problem": None,
        }
        return Held(**(plain | changes))

    return build


@dataclass(slots=True, kw_only=True)
class StandIn:
    """The sandbox in this process, asked through the shipped stand-in of the transport."""

    transport: SandboxTransport

    @property
    def world(self):
        return self.transport.world

    def ask(self, request: Request) -> object:
        """Send one request, and let time pass on the clock until it has ended."""
        tag = uuid4()
        self.transport.send(tag, request)
        for _ in range(100):
            for ended, answer in self.transport.collect(1.0):
                assert ended == tag
                return answer
        raise AssertionError("it never ended")


@pytest.fixture
def stand_in():
    return StandIn(transport=SandboxTransport(clock=ManualClock(datetime(2026, 11, 22, 12, 0, tzinfo=UTC))))


@pytest.fixture
def held_of(held):
    """A command as enqueue stores it, in a worker's hands."""

    def build(command, *, key="b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11", **changes) -> Held:
        stored = {
            "account": command.account,
            "kind": command.kind,
            "order_id": command.order_id,
            "target": command.target,
            "keyed": command.keyed,
            "payload": command.payload(key),
            "idempotency_key": key,
        }
        return held(**(stored | changes))

    return build
