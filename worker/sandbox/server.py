"""Decides which bytes go down a socket: HTTP/1.1 with kept-alive connections, and every way of not answering properly.

What a request gets is decided elsewhere and arrives as a `Delivery`; this module only obeys, so that one loop serves
the provider's port and the control port alike.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from itertools import count

import h11

from .errors import SandboxError
from .wire import Answer, Delivery, Ending, Request

Respond = Callable[[Request], Awaitable[Delivery]]

#: Klarna's limits: above the first 413, and above the second the head is refused.
MOST_BODY_BYTES = 1_000_000
MOST_HEAD_BYTES = 20 * 1024

#: A connection on which nothing happens for so long is closed, as Klarna does.
IDLE_SECONDS = 59.0

_READ_BYTES = 64 * 1024

#: A slow body is spread over at most so many pieces.
_DRIP_PIECES = 50

_BACKLOG = 1024

_REASON_BY_STATUS = {status.value: status.phrase for status in HTTPStatus}


class Port:
    """One TCP port that listens, or that refuses connections while it still belongs to us."""

    def __init__(
        self,
        respond: Respond,
        *,
        host: str,
        port: int,
        idle_seconds: float = IDLE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._respond = respond
        self._host, self._idle_seconds, self._tls = host, idle_seconds, tls
        self._socket = _bound_socket(host, port)
        self.number: int = self._socket.getsockname()[1]
        self.is_listening = False
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._numbers = count(1)

    @property
    def url(self) -> str:
        """Say where the port is reached."""
        host = f"[{self._host}]" if ":" in self._host else self._host

        return f"{'http' if self._tls is None else 'https'}://{host}:{self.number}"

    def listen(self) -> None:
        """Accept connections from now on."""
        if not self.is_listening:
            self._socket.listen(_BACKLOG)
            asyncio.get_running_loop().add_reader(self._socket, self._accept)
            self.is_listening = True

    def refuse(self) -> None:
        """Refuse connections from now on; idle ones are closed, busy ones after their answer.

        A socket that is bound but does not listen refuses, and keeps the port from being given to someone else.
        """
        if self.is_listening:
            self._shut()
            self._socket = _bound_socket(self._host, self.number)
            for connection in self._connections.values():
                connection.close_when_idle()

    async def let_go(self) -> None:
        """End every exchange that is at work, without an answer; idle connections stay."""
        await _cancel([task for task, connection in self._connections.items() if connection.is_busy])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self._shut()
        await asyncio.sleep(0)  # A task that is cancelled before its first step would never close its socket.
        await _cancel(list(self._connections))

    def _shut(self) -> None:
        if self.is_listening:
            asyncio.get_running_loop().remove_reader(self._socket)
            self.is_listening = False
        self._socket.close()

    def _accept(self) -> None:
        """Begin the conversations with those who have connected."""
        for _ in range(_BACKLOG):
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            connection = _Connection(
                accepted, number=next(self._numbers), idle_seconds=self._idle_seconds, tls=self._tls
            )
            task = asyncio.ensure_future(connection.converse(self._respond))
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)


class _Connection:
    """One client's connection, from its first request to its end."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def __init__(
        self, accepted: socket.socket, *, number: int, idle_seconds: float, tls: ssl.SSLContext | None
    ) -> None:
        accepted.setblocking(False)  # noqa: FBT003  # the socket module's own signature
        self._socket, self._number, self._idle_seconds, self._tls = accepted, number, idle_seconds, tls
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._is_first = True
        self._is_last = False
        self.is_busy = False

    async def converse(self, respond: Respond) -> None:
        """Take request after request until either side has enough."""
        try:
            await self._open()
        except OSError:
            return  # The client does not believe the certificate, speaks no TLS, or went away before it was agreed.
        try:
            while (request := await self._receive()) is not None:
                self.is_busy = True
                await self._deliver(await respond(request), to=request)
                self.is_busy = False
                if self._http.our_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if not self._reader.at_eof():
                self._is_last = True
                self._writer.write(self._head(Answer(status=error.error_status_hint), content_length=0))
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass  # The client went away, or had nothing to say for too long.
        except asyncio.CancelledError:
            self._writer.transport.abort()
            raise
        finally:
            self._writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
                await self._writer.wait_closed()

    async def _open(self) -> None:
        """Read and write what the client does, by TLS if there is a certificate."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._socket, ssl=self._tls)
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def close_when_idle(self) -> None:
        """Let this be the connection's last exchange; without one at work, be done with listening to the client."""
        self._is_last = True
        if not self.is_busy:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    async def _receive(self) -> Request | None:
        """Read a request to its end; None when the client has closed in good order."""
        async with asyncio.timeout(self._idle_seconds):
            head = await self._next_event()
            if not isinstance(head, h11.Request):
                return None
            if sum(len(name) + len(value) for name, value in head.headers) > MOST_HEAD_BYTES:
                msg = f"the headers are above {MOST_HEAD_BYTES} bytes"
                raise h11.RemoteProtocolError(msg, error_status_hint=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            body, is_too_large = bytearray(), False
            while isinstance(event := await self._next_event(), h11.Data):
                is_too_large = is_too_large or len(body) + len(event.data) > MOST_BODY_BYTES
                if not is_too_large:
                    body += event.data
        path, _, query = head.target.decode("latin-1").partition("?")
        request = Request(
            method=head.method.decode("latin-1"),
            path=path,
            query=query,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items()
            ),
            body=b"" if is_too_large else bytes(body),
            is_too_large=is_too_large,
            connection=self._number,
            is_first_on_connection=self._is_first,
        )
        self._is_first = False

        return request

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            self._http.receive_data(await self._reader.read(_READ_BYTES))

        return event

    async def _deliver(self, delivery: Delivery, *, to: Request) -> None:
        self._is_last = self._is_last or delivery.ending is not Ending.KEEP
        if delivery.hold_seconds != 0:
            await self._hold(delivery.hold_seconds)
        if delivery.answer is not None:
            for piece, pause_seconds in self._pieces(delivery, delivery.answer, to=to):
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
                self._writer.write(piece)
                await self._writer.drain()
        if delivery.ending is Ending.RESET:
            self._tear_down()

    async def _hold(self, seconds: float | None) -> None:
        """Keep the client waiting until it goes away or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._reader.read(_READ_BYTES):
                    pass

    def _pieces(self, delivery: Delivery, answer: Answer, *, to: Request) -> Iterator[tuple[bytes, float]]:
        """Cut an answer into what is written at once, each with the pause before it."""
        head = self._head(answer, content_length=len(answer.body) + delivery.missing_bytes)
        body = b"" if to.method == "HEAD" else self._http.send(h11.Data(data=answer.body)) or b""
        if not delivery.missing_bytes:
            self._http.send(h11.EndOfMessage())
        if not delivery.drip_seconds:
            yield head + body, 0
            return
        if body:
            yield head, 0
        dripping = body or head
        size = -(-len(dripping) // _DRIP_PIECES)
        pieces = [dripping[start : start + size] for start in range(0, len(dripping), size)]
        for piece in pieces:
            yield piece, delivery.drip_seconds / len(pieces)

    def _head(self, answer: Answer, *, content_length: int) -> bytes:
        headers = list(answer.headers)
        if answer.status != HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(content_length)))
        if self._is_last:
            headers.append(("Connection", "close"))
        response = h11.Response(
            status_code=answer.status, headers=headers, reason=_REASON_BY_STATUS.get(answer.status, "")
        )

        return self._http.send(response) or b""

    def _tear_down(self) -> None:
        """Close so that the client sees a reset: no lingering, nothing more is sent."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        msg = f"cannot use port {port} on {host} ({error.strerror}); choose another, or 0 for any free one"
        raise SandboxError(msg) from error
    bound.setblocking(False)  # noqa: FBT003  # the socket module's own signature

    return bound


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
