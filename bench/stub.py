"""A provider that is fast enough to be no part of the measurement: Klarna's captures and refunds, and its quotas.

Decides like the sandbox which requests are too many: per category, at two levels at once, in a window of one second
that slides, and it says so in the same headers. It keeps no orders. What came in is remembered, moment by moment, and
is told on request; a key that was carried out before is answered again and counted. Below `/-/` it listens to the
bench.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import sys
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

#: The last part of a path → the category that it counts in; every other path is the second one.
CATEGORIES = ("payment-transaction-capture", "payment-transaction-management")

_REFUSED = b'{"error_code":"TOO_MANY_REQUESTS","error_messages":["too many requests"],"correlation_id":"bench"}'


@dataclass(slots=True)
class Provider:
    """The quotas, and everything that came in."""

    latency: float
    quotas: dict[str, list[int]] = field(default_factory=dict)
    factor: float = 1.0
    has_headers: bool = True
    is_up: bool = True
    accounts: list[str] = field(default_factory=list)
    rows: list[tuple[float, int, int, bool]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    repeated: int = 0
    taken: defaultdict[tuple[int, int, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _account_by_header: dict[bytes, str] = field(default_factory=dict)

    def answer(self, path: bytes, headers: dict[bytes, bytes]) -> bytes:
        """Decide about one request of a merchant."""
        now = time.time()
        is_capture = path.endswith(b"/captures")
        category, account = (0 if is_capture else 1), self._account(headers.get(b"authorization", b""))
        limits = [round(quota * self.factor) for quota in self.quotas.get(CATEGORIES[category], [])]
        logs = [self.taken[category, level, "" if level else account] for level in range(len(limits))]
        for log in logs:
            while log and log[0] <= now - 1.0:
                log.popleft()
        is_admitted = all(len(log) < limit for log, limit in zip(logs, limits, strict=True))
        if is_admitted:
            for log in logs:
                log.append(now)
            key = headers.get(b"klarna-idempotency-key", b"")
            self.repeated += key in self.keys
            self.keys.add(key)
        if account not in self.accounts:
            self.accounts.append(account)
        self.rows.append((now, category, self.accounts.index(account), is_admitted))
        quota = self._quota_headers(CATEGORIES[category], limits, [len(log) for log in logs])
        if not is_admitted:
            return _response(b"429 Too Many Requests", _REFUSED, quota)
        made = uuid4().hex.encode()
        name = b"Capture-Id" if is_capture else b"Refund-Id"

        return _response(b"201 Created", b"", b"%s: %s\r\nLocation: %s/%s\r\n%s" % (name, made, path, made, quota))

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

    def control(self, path: bytes, body: bytes) -> bytes:
        """Do what the bench asks: set quotas and switches, forget what came in, or tell it."""
        told: dict[str, Any] = {}
        if path == b"/-/set":
            for name, value in json.loads(body).items():
                setattr(self, name, value)
            told["at"] = time.time()
        elif path == b"/-/reset":
            self.rows.clear()
            self.taken.clear()
            self.keys.clear()
            self.repeated = 0
        elif path == b"/-/count":
            told["requests"] = len(self.rows)
        else:
            told.update(categories=CATEGORIES, accounts=self.accounts, rows=self.rows, repeated=self.repeated)

        return _response(b"200 OK", json.dumps(told).encode(), b"")


def _response(status: bytes, body: bytes, headers: bytes) -> bytes:
    kind = b"Content-Type: application/json\r\n" if body else b""

    return b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s" % (status, headers, kind, len(body), body)


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests are answered in their order."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._heard = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way back."""
        self._transport = transport
        if not self._provider.is_up:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
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
            self._take(first.split(b" ")[1], headers, body)

    def _take(self, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        if path.startswith(b"/-/"):
            self._transport.write(self._provider.control(path, body))
        elif not self._provider.is_up:
            self._transport.abort()
        else:
            answer = self._provider.answer(path, headers)
            asyncio.get_running_loop().call_later(self._provider.latency, self._transport.write, answer)


async def serve(provider: Provider, port: int) -> None:
    """Serve on a loopback port until the process is told to end; the port's number goes to standard output."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(provider), "127.0.0.1", port, backlog=1_000
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


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
