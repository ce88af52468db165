"""How requests travel: concurrently, over pooled and verified connections, on libcurl's multi interface.

Decides which addresses a request may go to, how a connection is made, kept and trusted, and what is known of a
request that ended: a complete answer, one that broke off, or none, and then whether the connection ever came up.
Leaves to each provider what goes into a request and what an answer means. Never repeats a request by itself; where
libcurl might (a kept-alive connection that turns out to be dead), a request that must not be repeated gets a
connection of its own.
"""

from __future__ import annotations

import ipaddress
import os
import re
import selectors
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import certifi
import pycurl

from ..domain.errors import PostPurchaseError
from ..domain.redact import printable
from ..ports import Answer, NoAnswer, Request

#: An answer longer than this is cut off and counts as incomplete. The longest a provider sends is an order, below 1 MB.
MAX_BODY_BYTES = 4 * 1024 * 1024

#: Klarna closes a connection that was idle for 59 s. One that is about to be closed is not used again: what is sent
#: on it may be lost.
IDLE_SECONDS = 45

#: Where systems keep the authorities they trust, for a Python whose own OpenSSL was built for another system.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)

#: What libcurl's errors are called here. Any other one means that something came which was no HTTP answer.
CODES: Mapping[int, str] = {
    pycurl.E_COULDNT_RESOLVE_HOST: "resolve_failed",
    pycurl.E_COULDNT_CONNECT: "connect_failed",
    pycurl.E_SSL_CONNECT_ERROR: "tls_failed",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls_failed",
    pycurl.E_SSL_CIPHER: "tls_failed",
    pycurl.E_SSL_ISSUER_ERROR: "tls_failed",
    pycurl.E_SSL_CACERT_BADFILE: "tls_failed",
    pycurl.E_SEND_ERROR: "send_failed",
    pycurl.E_RECV_ERROR: "reset",
    pycurl.E_HTTP2: "reset",
    pycurl.E_OPERATION_TIMEDOUT: "no_answer",
    pycurl.E_GOT_NOTHING: "no_answer",
}

_ENDED_BEFORE_THE_CONNECTION = frozenset({"resolve_failed", "connect_failed", "tls_failed"})
_LONGEST_MESSAGE = 300
_FIRST_FINAL_STATUS = 200

_ORIGIN = re.compile(r"(https?)://([0-9a-z._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ +([0-9]{3})(?![0-9])")
_INTEREST = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
_READY = {
    selectors.EVENT_READ: pycurl.CSELECT_IN,
    selectors.EVENT_WRITE: pycurl.CSELECT_OUT,
    selectors.EVENT_READ | selectors.EVENT_WRITE: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}


class UnsafeAddress(PostPurchaseError):
    """Requests go to https addresses, and by plain http to this machine only."""

    def __init__(self, origin: str) -> None:
        super().__init__(f"{origin!r}. Give a base URL such as https://api.klarna.com or http://127.0.0.1:8080")
        self.origin = origin


class BrokenHeader(PostPurchaseError):
    """A header of the request holds something other than printable ASCII."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r}. Nothing was sent; mend the value it is made from")
        self.name = name


class AlreadyInFlight(PostPurchaseError):
    """A request with this tag is under way; a second one was not sent."""

    def __init__(self, tag: UUID) -> None:
        super().__init__(str(tag))
        self.tag = tag


class AuthoritiesMissing(PostPurchaseError):
    """The file of trusted certificate authorities is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}. Name one that exists, or none for the system's own")
        self.path = path


def require_safe_address(url: str) -> str:
    """Return the origin of a URL to which credentials may go; raise `UnsafeAddress` for any other.

    Only the plainest form is taken (scheme, host, port), so that no two readers of URLs can differ about the host.
    """
    origin = _origin(url)
    parts = _ORIGIN.fullmatch(origin)
    if parts is None or (parts[1].lower() == "http" and not _is_loopback(parts[2].lower())):
        raise UnsafeAddress(origin.rpartition("@")[2])

    return origin


def find_authorities(ca_file: str | None) -> str:
    """Choose the file of trusted authorities: the given one, `SSL_CERT_FILE`, the system's, else certifi's."""
    chosen = ca_file or os.environ.get("SSL_CERT_FILE")
    if chosen:
        if not Path(chosen).is_file():
            raise AuthoritiesMissing(chosen)
        return chosen
    candidates = (ssl.get_default_verify_paths().openssl_cafile, *SYSTEM_BUNDLES)

    return next((path for path in candidates if Path(path).is_file()), certifi.where())


class CurlTransport:
    """`ports.Transport` on libcurl. An instance belongs to one thread of one process."""

    def __init__(
        self,
        *,
        connect_timeout: float = 5.0,
        total_timeout: float = 30.0,
        ca_file: str | None = None,
        connections: int = 200,
    ) -> None:
        """Keep up to so many connections open, idle ones included.

        With fewer of them than requests under way, each answer would close a connection that the next request needs.
        Left to itself, an older libcurl lets the number follow the requests under way: most close after a batch.
        """
        self._connect_ms = round(connect_timeout * 1000)
        self._total_ms = round(total_timeout * 1000)
        self._authorities = find_authorities(ca_file)
        self._in_flight: dict[UUID, _Call] = {}
        self._idle: dict[bool, list[_Call]] = {True: [], False: []}
        self._safe_origins: set[str] = set()
        self._wake_at: float | None = None
        # libcurl's own waiting (perform, select) cannot watch a file descriptor above 1023.
        self._sockets = selectors.DefaultSelector()
        # No limit on connections and no PIPEWAIT: libcurl does not time out requests that queue for a connection.
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)

    @property
    def in_flight(self) -> int:
        """How many requests were sent and not yet collected."""
        return len(self._in_flight)

    def send(self, tag: UUID, request: Request) -> None:
        """Take one request; returns at once. Raises before anything is sent, or not at all."""
        if tag in self._in_flight:
            raise AlreadyInFlight(tag)
        self._require_safe(request.url)
        headers = _header_lines(request)

        idle = self._idle[request.repeatable]
        call = idle.pop() if idle else self._open(repeatable=request.repeatable)
        call.load(tag, request, headers)
        self._multi.add_handle(call.curl)
        self._in_flight[tag] = call

    def flush(self) -> None:
        """Have leave what was taken: many at once cost libcurl less than one by one.

        Those on new connections, too, where these come up at once: it may take a while until answers are collected.
        """
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._advance(0.0)

    def collect(self, within: float) -> Sequence[tuple[UUID, Answer | NoAnswer]]:
        """Return what has ended, waiting at most `within` seconds for the first."""
        give_up_at = time.monotonic() + within
        ended = self._take_ended()
        while self._in_flight and not ended:
            left = give_up_at - time.monotonic()
            self._advance(left)
            ended = self._take_ended()
            if left <= 0:
                break

        return ended

    def close(self) -> None:
        """Close every connection; what is in flight is given up."""
        for call in self._in_flight.values():
            self._multi.remove_handle(call.curl)
        for call in (*self._in_flight.values(), *self._idle[True], *self._idle[False]):
            call.curl.close()
        self._in_flight.clear()
        self._idle = {True: [], False: []}
        self._multi.close()
        self._sockets.close()

    def _require_safe(self, url: str) -> None:
        if _origin(url) not in self._safe_origins:
            self._safe_origins.add(require_safe_address(url))

    def _open(self, *, repeatable: bool) -> _Call:
        call = _Call(repeatable=repeatable)
        curl = call.curl
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, self._connect_ms)
        curl.setopt(pycurl.TIMEOUT_MS, self._total_ms)

        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PATH_AS_IS, 1)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOPROXY, "*")
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)

        curl.setopt(pycurl.SSL_VERIFYPEER, 1)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.CAINFO, self._authorities)
        # A folder built into libcurl would be trusted beside the file, and its authorities read for each connection.
        curl.unsetopt(pycurl.CAPATH)

        curl.setopt(pycurl.MAXAGE_CONN, IDLE_SECONDS)
        if repeatable:
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        else:
            # libcurl sends a request again, unasked, when a connection it had kept alive dies without an answer.
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
            curl.setopt(pycurl.FRESH_CONNECT, 1)
            curl.setopt(pycurl.FORBID_REUSE, 1)
        return call

    def _advance(self, within: float) -> None:
        """Wait for the first thing that happens, and let libcurl act on all that has happened."""
        wait = within if self._wake_at is None else min(within, self._wake_at - time.monotonic())
        for key, events in self._sockets.select(max(0.0, wait)):
            self._multi.socket_action(key.fd, _READY[events])
        if self._wake_at is not None and time.monotonic() >= self._wake_at:
            self._wake_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _take_ended(self) -> list[tuple[UUID, Answer | NoAnswer]]:
        _, succeeded, failed = self._multi.info_read()
        ended = [self._finish(curl.call, pycurl.E_OK, "") for curl in succeeded]
        ended += [self._finish(curl.call, error, message) for curl, error, message in failed]

        return ended

    def _finish(self, call: _Call, error: int, message: str) -> tuple[UUID, Answer | NoAnswer]:
        self._multi.remove_handle(call.curl)
        del self._in_flight[call.tag]
        ended = call.answer(complete=error == pycurl.E_OK) or call.no_answer(error, message)
        call.clear()
        self._idle[call.repeatable].append(call)

        return call.tag, ended

    def _watch(self, interest: int, fd: int, _multi: object, _data: object) -> None:
        """Called by libcurl: what it wants to know of a socket from now on."""
        if interest == pycurl.POLL_REMOVE:
            self._sockets.unregister(fd)
        elif fd in self._sockets.get_map():
            self._sockets.modify(fd, _INTEREST[interest])
        else:
            self._sockets.register(fd, _INTEREST[interest])

    def _set_timer(self, milliseconds: int) -> None:
        """Called by libcurl: when it wants to be woken without any socket's doing; -1 for never."""
        self._wake_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


class _Call:
    """One easy handle, used again and again, and what has come in on it."""

    __slots__ = ("chunks", "curl", "lines", "repeatable", "room", "sendings", "tag")

    def __init__(self, *, repeatable: bool) -> None:
        self.repeatable = repeatable
        self.tag = UUID(int=0)
        self.lines: list[bytes] = []
        self.chunks: list[bytes] = []
        self.room = MAX_BODY_BYTES
        self.sendings = 0
        self.curl: Any = pycurl.Curl()
        self.curl.call = self
        self.curl.setopt(pycurl.HEADERFUNCTION, self.lines.append)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._receive)
        self.curl.setopt(pycurl.PREREQFUNCTION, self._count)

    def load(self, tag: UUID, request: Request, headers: list[str]) -> None:
        self.tag = tag
        self.curl.setopt(pycurl.URL, request.url)
        self.curl.setopt(pycurl.HTTPHEADER, headers)
        if request.body is None and request.method == "GET":
            self.curl.setopt(pycurl.HTTPGET, 1)
        else:
            self.curl.setopt(pycurl.POSTFIELDS, request.body or b"")  # an empty one is announced: Content-Length: 0
        self.curl.setopt(pycurl.CUSTOMREQUEST, request.method)

    def clear(self) -> None:
        self.sendings = 0
        self.lines.clear()
        self.chunks.clear()
        self.room = MAX_BODY_BYTES

    def answer(self, *, complete: bool) -> Answer | None:
        """Put together what came in; None when no final status line did."""
        status, headers, has_ended = _read_head(self.lines)
        if status < _FIRST_FINAL_STATUS:
            return None

        # libcurl is content with headers that the end of the connection cut off.
        return Answer(
            status=status,
            headers=headers,
            body=b"".join(self.chunks),
            complete=complete and has_ended,
            was_repeated=self.sendings > 1,
        )

    def no_answer(self, error: int, message: str) -> NoAnswer:
        """Say how far a request came that nobody answered."""
        code = CODES.get(error, "no_answer")
        if self._came_up():
            # A kept-alive connection may die with the request on it, and the new one libcurl asks for be refused.
            sent, code = True, "reset" if code in _ENDED_BEFORE_THE_CONNECTION else code
        else:
            code = self._waited_for() if error == pycurl.E_OPERATION_TIMEDOUT else code
            sent = code not in _ENDED_BEFORE_THE_CONNECTION

        return NoAnswer(sent=sent, code=code, message=printable(message)[:_LONGEST_MESSAGE])

    def _came_up(self) -> bool:
        """Whether a connection was ready for the request at any time, be it one that died before the last."""
        is_tls = self.curl.getinfo(pycurl.EFFECTIVE_URL).lower().startswith("https:")
        ready_after = self.curl.getinfo(pycurl.APPCONNECT_TIME if is_tls else pycurl.CONNECT_TIME)

        return bool(ready_after or self.curl.getinfo(pycurl.REQUEST_SIZE))

    def _waited_for(self) -> str:
        if not self.curl.getinfo(pycurl.NAMELOOKUP_TIME):
            return "resolve_failed"
        if not self.curl.getinfo(pycurl.CONNECT_TIME):
            return "connect_failed"
        return "tls_failed"

    def _count(self, *_connection: object) -> int:
        """Called by libcurl right before it writes the request to a connection, the second time for a repeat."""
        self.sendings += 1

        return int(pycurl.PREREQFUNC_OK)

    def _receive(self, chunk: bytes) -> int | None:
        """Called by libcurl with a piece of the body; returning a number other than its length ends the request."""
        self.room -= len(chunk)
        if self.room < 0:
            return 0
        self.chunks.append(chunk)

        return None


def _header_lines(request: Request) -> list[str]:
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    lines.append(f"Authorization: {request.authorization}")
    for line in lines:
        if not (line.isascii() and line.isprintable()):
            raise BrokenHeader(line.partition(":")[0])
    # Without a value: not to be sent. libcurl would wait for a go-ahead on long bodies, and call an empty one a form.
    lines.append("Expect:")
    if request.body is None:
        lines.append("Content-Type:")

    return lines


def _read_head(lines: Sequence[bytes]) -> tuple[int, dict[str, str], bool]:
    """Read status and headers of the last block, and whether it has ended.

    Interim answers come before the last block, trailers behind the body. A line that was cut off is left out: half
    an id is worse than none.
    """
    status, headers, is_open = 0, dict[str, str](), False
    for line in lines:
        if not line.endswith(b"\n"):
            break
        text = line.decode("latin-1").rstrip("\r\n")
        if not text:
            is_open = False
            if status >= _FIRST_FINAL_STATUS:
                break
        elif is_open:
            name, _, value = text.partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        elif first := _STATUS_LINE.match(text):
            status, headers, is_open = int(first[1]), {}, True

    return status, headers, not is_open


def _origin(url: str) -> str:
    path_at = url.find("/", len("https://"))

    return url if path_at < 0 else url[:path_at]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
