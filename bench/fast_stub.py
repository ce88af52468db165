"""A provider that costs next to nothing: it takes captures, counts each key, and answers after a while.

Decides what a call's effect is: the first success under a key; later ones are repeats and have none. It knows no
quotas and no orders (`stub` does), so that a drain measures the worker and not the provider. It answers the first so
many calls of each key with 503 when it is told to. Below `/-/` it listens to the bench.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_KEY = re.compile(rb"\r\n(?:klarna-)?idempotency-key: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DONE = (
    b"HTTP/1.1 201 Created\r\nCapture-Id: 4ba29b50-be7b-44f5-a492-113e6a865e22\r\n"
    b"Location: /captures/4ba29b50-be7b-44f5-a492-113e6a865e22\r\nContent-Length: 0\r\n\r\n"
)
_UNWELL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

#: A read from a socket takes so much at once: a capture is a fortieth of it.
_CHUNK = 65_536


@dataclass(slots=True)
class Counted:
    """Everything that came in: how often each key was called, and when it had its effect."""

    latency: float = 0.0
    failures: int = 0
    calls: int = 0
    repeated: int = 0
    tries: dict[bytes, int] = field(default_factory=dict)
    effects: dict[bytes, float] = field(default_factory=dict)
    is_logged: bool = False
    log: list[tuple[str, float]] = field(default_factory=list)

    def answer(self, request: bytes) -> bytes:
        """Decide about one call."""
        self.calls += 1
        found = _KEY.search(request)
        key = found[1] if found is not None else b""
        if self.is_logged:
            self.log.append((key.decode(), time.time()))
        if self.failures:
            tries = self.tries[key] = self.tries.get(key, 0) + 1
            if tries <= self.failures:
                return _UNWELL
        if key in self.effects:
            self.repeated += 1
        else:
            self.effects[key] = time.time()

        return _DONE

    def control(self, what: bytes, body: bytes) -> dict[str, Any]:
        """Do what the bench asks: set what it wants, forget what came in, or tell it."""
        match what:
            case b"set":
                for name, value in json.loads(body).items():
                    setattr(self, name, value)
            case b"reset":
                self.calls = self.repeated = 0
                self.tries.clear()
                self.effects.clear()
                self.log.clear()
            case b"log":
                return {"log": self.log}
            case b"effects":
                return {"effects": [(key.decode(), at) for key, at in self.effects.items()]}

        return {"calls": self.calls, "effects": len(self.effects), "repeated": self.repeated, "at": time.time()}


class Server:
    """One thread, one loop; answers that are not due yet stand in a queue."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4_096)
        self._listener.setblocking(False)  # noqa: FBT003  # a socket's own signature
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._heard: dict[socket.socket, bytes] = {}
        self._later: deque[tuple[float, socket.socket, bytes]] = deque()
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Serve until the process is told to end."""
        while True:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else 1.0
            for ready, _ in self._selector.select(wait):
                if ready.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(ready.fileobj)  # type: ignore[arg-type]  # only sockets are registered
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                _, connection, answer = self._later.popleft()
                self._say(connection, answer)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)  # noqa: FBT003  # a socket's own signature
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(connection, selectors.EVENT_READ)
                self._heard[connection] = b""

    def _hear(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            del self._heard[connection]
            connection.close()
            return

        heard = self._heard[connection] + data
        while (end := heard.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(heard, 0, end + 2)
            ends = end + 4 + (int(found[1]) if found is not None else 0)
            if len(heard) < ends:
                break
            self._take(connection, heard[: end + 2], heard[end + 4 : ends])
            heard = heard[ends:]
        self._heard[connection] = heard

    def _take(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/-/"):
            told = json.dumps(self._counted.control(path[3:], body)).encode()
            self._say(connection, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
        elif self._counted.latency:
            due = time.monotonic() + self._counted.latency
            self._later.append((due, connection, self._counted.answer(head)))
        else:
            self._say(connection, self._counted.answer(head))

    def _say(self, connection: socket.socket, answer: bytes) -> None:
        if connection not in self._heard:
            return  # it hung up meanwhile
        sent = 0
        with contextlib.suppress(OSError):
            while sent < len(answer):
                try:
                    sent += connection.send(answer[sent:])
                except BlockingIOError:  # only the bench's own long answers come here
                    time.sleep(0.001)


def main() -> None:
    """Be the provider; its port goes to standard output, twice, because the bench asks it on the same one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds from a request to its answer")
    given = parser.parse_args()
    # It stands in for another machine: a busy worker must not delay the moment that it notes for a request.
    with contextlib.suppress(OSError):
        os.nice(-10)
    server = Server(Counted(latency=given.latency))
    sys.stdout.write(f"{server.port} {server.port}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


if __name__ == "__main__":
    main()
