"""A provider that is fast enough to be no part of the measurement: Klarna's captures and refunds, and its quotas.

Decides like the sandbox which requests are too many: per category, at two levels at once, in a window of one second
that slides, and it says so in the same headers. It keeps no orders. What came in is remembered, moment by moment, and
is told on request; a key that was carried out before is answered again and counted. It can be down in three ways. The
bench is listened to on a port of its own, below `/-/`, which stays open meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

#: The last part of a path → the category that it counts in; every other path is the second one.
CATEGORIES = ("payment-transaction-capture", "payment-transaction-management")

#: No connection comes up · a request is heard and never answered, and every second change carried out · 503.
REFUSED, HANGS, ERROR = "refused", "hangs", "503"

_REFUSED = b'{"error_code":"TOO_MANY_REQUESTS","error_messages":["too many requests"],"correlation_id":"bench"}'


@dataclass(slots=True)
class Provider:
    """The quotas, and everything that came in."""

    latency: float
    quotas: dict[str, list[int]] = field(default_factory=dict)
    factor: float = 1.0
    has_headers: bool = True
    down: str = ""
    accounts: list[str] = field(default_factory=list)
    rows: list[tuple[float, int, int, bool]] = field(default_factory=list)
    ill: list[tuple[float, int, int, str]] = field(default_factory=list)
    reads: list[tuple[float, bool]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    effects: defaultdict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    repeated: int = 0
    taken: defaultdict[tuple[int, int, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _account_by_header: dict[bytes, str] = field(default_factory=dict)

    def answer(self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes = b"") -> bytes | None:
        """Decide about one request of a merchant; None: it is never answered."""
        now = time.time()
        is_read, is_capture = method == b"GET", path.endswith(b"/captures")
        category, account = (0 if is_capture else 1), self._account(headers.get(b"authorization", b""))
        if account not in self.accounts:
            self.accounts.append(account)
        if is_read:
            self.reads.append((now, not self.down))
        elif self.down:
            self.ill.append((now, category, self.accounts.index(account), self.down))
            if self.down == HANGS and len(self.ill) % 2:
                self._carry_out(path, headers, body)
        if self.down:
            return _response(b"503 Service Unavailable", b"", b"") if self.down == ERROR else None
        is_admitted, quota = self._admit(now, category, account)
        if not is_read:
            self.rows.append((now, category, self.accounts.index(account), is_admitted))
        if not is_admitted:
            return _response(b"429 Too Many Requests", _REFUSED, quota)
        if is_read:
            return _response(b"200 OK", self._order(path), quota)
        self._carry_out(path, headers, body)
        made = uuid4().hex.encode()
        name = b"Capture-Id" if is_capture else b"Refund-Id"

        return _response(b"201 Created", b"", b"%s: %s\r\nLocation: %s/%s\r\n%s" % (name, made, path, made, quota))

    def _admit(self, now: float, category: int, account: str) -> tuple[bool, bytes]:
        limits = [round(quota * self.factor) for quota in self.quotas.get(CATEGORIES[category], [])]
        logs = [self.taken[category, level, "" if level else account] for level in range(len(limits))]
        for log in logs:
            while log and log[0] <= now - 1.0:
                log.popleft()
        is_admitted = all(len(log) < limit for log, limit in zip(logs, limits, strict=True))
        if is_admitted:
            for log in logs:
                log.append(now)

        return is_admitted, self._quota_headers(CATEGORIES[category], limits, [len(log) for log in logs])

    def _carry_out(self, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        key = headers.get(b"klarna-idempotency-key", b"")
        if key in self.keys:
            self.repeated += 1
        else:
            self.effects[path].append(body)
        self.keys.add(key)

    def _order(self, path: bytes) -> bytes:
        """Show what was carried out of an order."""
        shown: dict[str, Any] = {"order_id": path.rpartition(b"/")[2].decode()}
        for listed, amount, name in (
            ("captures", "captured_amount", "capture_id"),
            ("refunds", "refunded_amount", "refund_id"),
        ):
            bodies = [json.loads(body) for body in self.effects.get(b"%s/%s" % (path, listed.encode()), [])]
            shown[listed] = [{name: f"{number}", **body} for number, body in enumerate(bodies)]
            shown[amount] = sum(body[amount] for body in bodies)

        return json.dumps(shown).encode()

    def _quota_headers(self, category: str, limits: list[int], used: list[int]) -> bytes:
        if not self.has_headers or not limits:
            return b""
        left = [max(0, limit - count) for limit, count in zip(limits, used, strict=True)]
        nearest = left.index(min(left))
        policies = ",".join(
            f'{limit};w=1;name="{prefix}_{category}"' for prefix, limit in zip(("account", "psp"), limits, strict=False)
        )

        return (
            f"X-Ratelimit-Limit: {limits[nearest]}, {policies}\r\n"
            f"X-Ratelimit-Remaining: {left[nearest]}\r\nX-Ratelimit-Reset: 1\r\n"
        ).encode()

    def _account(self, header: bytes) -> str:
        found = self._account_by_header.get(header)
        if found is None:
            user = base64.b64decode(header.partition(b" ")[2]).partition(b":")[0].decode()
            found = self._account_by_header[header] = user.partition("+")[2]

        return found

    def tell(self, path: bytes, body: bytes) -> bytes:
        """Do what the bench asks: set quotas and switches, forget what came in, or tell it."""
        told: dict[str, Any] = {}
        if path == b"/-/set":
            for name, value in json.loads(body).items():
                setattr(self, name, value)
            told["at"] = time.time()
        elif path == b"/-/reset":
            for each in (self.rows, self.ill, self.reads, self.taken, self.keys, self.effects):
                each.clear()
            self.repeated = 0
        elif path == b"/-/count":
            told["requests"] = len(self.rows)
        else:
            told.update(categories=CATEGORIES, accounts=self.accounts, rows=self.rows, ill=self.ill, reads=self.reads)
            told.update(repeated=self.repeated, effects=sum(map(len, self.effects.values())))
            told.update(doubled=sum(len(bodies) - 1 for bodies in self.effects.values()))

        return _response(b"200 OK", json.dumps(told).encode(), b"")


def _response(status: bytes, body: bytes, headers: bytes) -> bytes:
    kind = b"Content-Type: application/json\r\n" if body else b""

    return b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s" % (status, headers, kind, len(body), body)


class _Connection(asyncio.Protocol, ABC):
    """One kept-alive connection; requests are taken in their order."""

    def __init__(self) -> None:
        self._heard = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take every request that is complete."""
        self._heard += data
        while (end := self._heard.find(b"\r\n\r\n")) >= 0:
            first, *lines = bytes(self._heard[:end]).split(b"\r\n")
            pairs = (line.partition(b":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            ends = end + 4 + int(headers.get(b"content-length", b"0"))
            if len(self._heard) < ends:
                return
            body = bytes(self._heard[end + 4 : ends])
            del self._heard[:ends]
            method, path, *_ = first.split(b" ")
            self._take(method, path, headers, body)

    @abstractmethod
    def _take(self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        """Answer one request."""


class _Merchant(_Connection):
    """A connection of a merchant's."""

    def __init__(self, provider: Provider, all_of_them: set[_Merchant]) -> None:
        super().__init__()
        self._provider = provider
        self._all = all_of_them
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the signature of asyncio
        """Forget it."""
        self._all.discard(self)

    def cut(self) -> None:
        """End it in the middle of whatever is said."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        answer = self._provider.answer(method, path, headers, body)
        if answer is not None:
            asyncio.get_running_loop().call_later(self._provider.latency, self._transport.write, answer)


class _Bench(_Connection):
    """A connection of the bench's."""

    def __init__(self, tell: Callable[[bytes, bytes], Awaitable[bytes]]) -> None:
        super().__init__()
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()

    def _take(self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:  # noqa: ARG002  # one path, one meaning
        task = asyncio.get_running_loop().create_task(self._answer(path, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, path: bytes, body: bytes) -> None:
        self._transport.write(await self._tell(path, body))


class _Site:
    """The port that merchants know: open, or closed and kept, so that nobody else is met there meanwhile."""

    def __init__(self, provider: Provider, port: int) -> None:
        self._provider = provider
        self._merchants: set[_Merchant] = set()
        self._server: asyncio.Server | None = None
        # Bound and never listening: what connects is refused, and the number is given to nobody.
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._kept.bind(("127.0.0.1", port))
        self.port: int = self._kept.getsockname()[1]

    async def tell(self, path: bytes, body: bytes) -> bytes:
        """Do what the bench asks."""
        answer = self._provider.tell(path, body)
        if (self._provider.down == REFUSED) is (self._server is not None):
            await self.open_or_close()

        return answer

    async def open_or_close(self) -> None:
        """Listen, or refuse: as the provider is."""
        if self._provider.down != REFUSED:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Merchant(self._provider, self._merchants),
                "127.0.0.1",
                self.port,
                backlog=1_000,
                reuse_port=True,
            )
        elif self._server is not None:
            self._server.close()
            self._server = None
            for each in list(self._merchants):
                each.cut()

    def close(self) -> None:
        """Give the port back."""
        self._kept.close()


async def serve(provider: Provider, port: int) -> None:
    """Serve on loopback until the process is told to end; the ports go to standard output, the bench's own last."""
    site = _Site(provider, port)
    await site.open_or_close()
    control = await asyncio.get_running_loop().create_server(lambda: _Bench(site.tell), "127.0.0.1", 0)
    sys.stdout.write(f"{site.port} {control.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    try:
        await control.serve_forever()
    finally:
        site.close()


def main() -> None:
    """Be the provider."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds from a request to its answer")
    given = parser.parse_args()
    # It stands in for another machine: a busy worker must not delay the moment that it notes for a request.
    with contextlib.suppress(OSError):
        os.nice(-10)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Provider(latency=given.latency), given.port))


if __name__ == "__main__":
    main()
