"""A TCP proxy between two parts, which can be told to cut, delay, hold, halve or swallow what goes through it.

Decides what happens to the bytes of a connection; which connections, and for how long, is `faults.py`. What a client
has given up is never delivered afterwards: a connection that died takes with it what it had not yet said.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

_LINGER_NOT = struct.pack("ii", 1, 0)


class Line:
    """An event loop on a thread of its own, on which all proxies of a run live."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def close(self) -> None:
        """End it; what is still connected is torn down."""

        async def end() -> None:
            for server in self.servers:
                server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass(slots=True, kw_only=True)
class Obstacle:
    """What stands in the way of the bytes, as long as it does."""

    delay: float = 0.0
    #: The share of pieces after whose first half the connection is reset.
    halved: float = 0.0
    is_held: bool = False
    is_refused: bool = False


@dataclass(slots=True, eq=False)
class Proxy:
    """One listening port, and where what arrives there is passed on to."""

    line: Line
    name: str
    target: tuple[str, int]
    port: int = 0
    #: What is always in the way, such as the distance to a provider.
    usual: Obstacle = field(default_factory=Obstacle)
    obstacle: Obstacle = field(default_factory=Obstacle)
    chance: random.Random = field(default_factory=random.Random)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _clients: set[asyncio.StreamWriter] = field(default_factory=set)
    #: Those who are told nothing any more.
    _deaf: frozenset[asyncio.StreamWriter] = frozenset()

    def start(self) -> Proxy:
        """Open the port; returns when it accepts connections."""
        self.obstacle = self.usual
        self.line.do(self._open())

        return self

    def meet(self, obstacle: Obstacle) -> None:
        """Put something in the way, in place of what was."""
        self.obstacle = obstacle

    def clear(self) -> None:
        """Let everything pass again as usual."""
        self.obstacle = self.usual

    def forget(self) -> None:
        """Let nobody who is connected now hear another word, as a firewall does that has forgotten them."""
        self._deaf = frozenset(self._clients)

    def reset(self) -> None:
        """Tear down every connection there is."""

        async def tear() -> None:
            for writer in list(self._writers):
                _tear_down(writer)

        self.line.do(tear())

    async def _open(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self.line.servers.append(server)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.obstacle.is_refused:
            _tear_down(to_client)
            return
        try:
            server, to_server = await asyncio.open_connection(*self.target)
        except OSError:
            _tear_down(to_client)
            return
        pair = {to_client, to_server}
        self._writers |= pair
        self._clients.add(to_client)
        for each in pair:
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            asyncio.ensure_future(self._pass_on(client, to_server, client)),
            asyncio.ensure_future(self._pass_on(server, to_client, client)),
        ]
        try:
            # Neither of ours leaves one half open for long; the first end ends both.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers -= pair
            self._clients.discard(to_client)
            for each in pair:
                each.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamReader
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                if not await self._is_let_through(client):
                    return
                if writer in self._deaf:
                    continue
                if self.obstacle.halved and self.chance.random() < self.obstacle.halved:
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    _tear_down(writer)
                    return
                writer.write(piece)
                await writer.drain()

    async def _is_let_through(self, client: asyncio.StreamReader) -> bool:
        """Wait for what stands in the way; whoever asked may have given up meanwhile."""
        if not self.obstacle.delay and not self.obstacle.is_held:
            return True
        await asyncio.sleep(self.obstacle.delay)
        while self.obstacle.is_held and not client.at_eof():  # noqa: ASYNC110  # two facts, each of another's making
            await asyncio.sleep(0.02)

        return not client.at_eof()


def _tear_down(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
