"""Desks: where people are told of what the machine must not decide.

Decides what the desks have in common at the border to the network: when a connection may go without TLS, whose
certificates are believed, how long a conversation may take, and in which words a failed one is reported. Leaves to
each module here one desk, to `case_text` the words of the case file, to `service/escalate` when a desk is tried again.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import certifi

from ..domain.errors import PostPurchaseError

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

#: The three things a desk is told. The strings are logged and posted and never change.
TICKET_OPENED = "ticket.opened"
TICKET_APPENDED = "ticket.appended"
TICKET_CLOSED = "ticket.closed"

#: What a failed connection means and what to look at, the first that fits. OSError ends it, being the class of most.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "shows a certificate that does not hold. Check its name, dates and issuer (system's bundle, or SSL_CERT_FILE)",
    ),
    (ssl.SSLError, "does not speak TLS there. Check the port, and which security it is meant for"),
    (socket.gaierror, "has a host name that does not resolve. Check its spelling and this machine's DNS"),
    (ConnectionRefusedError, "refused the connection. Check the port, and whether the server runs"),
    (TimeoutError, "did not answer in time. Check the host, the firewall between, and the timeout in the settings"),
    (http.client.HTTPException, "did not answer in HTTP, or hung up first. Check the port and the server's log"),
    (ConnectionError, "hung up before it answered. Check the port and the server's log"),
    (OSError, "cannot be reached. Check the host, the port and this machine's network"),
)


class DeskMisconfigured(PostPurchaseError):
    """The settings of the ticket desk cannot work."""


def is_host(text: str) -> bool:
    """Say whether a text can be the name or the address of a host; names beyond ASCII stand in their `xn--` form."""
    return bool(_HOST_NAME.fullmatch(text)) or _ip_address(text) is not None


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine itself, where nobody listens in between."""
    address = _ip_address(host)

    return host.lower() == "localhost" if address is None else address.is_loopback


def verified_tls() -> ssl.SSLContext:
    """Build a TLS context that believes the system's certificates, or certifi's where the system has none."""
    context = ssl.create_default_context()
    found = ssl.get_default_verify_paths()
    if not (found.cafile or found.capath):
        context.load_verify_locations(certifi.where())

    return context


def explain_failure(error: OSError | http.client.HTTPException) -> str:
    """Say what a failed connection means and what to check, without a word of what either side has sent."""
    return next(words for kind, words in _FAILURES if isinstance(error, kind))


@contextlib.contextmanager
def hang_up_at(deadline: float, connected: Callable[[], socket.socket | None], late: threading.Event) -> Iterator[None]:
    """End a conversation that takes too long as a whole, and say so in `late`.

    The time-out of a socket starts anew with every byte, and a ticket's lease does not.

    Args:
        deadline: When to end it, in the seconds of `time.monotonic`.
        connected: Gives the socket in use, which STARTTLS replaces on the way.
        late: Is set when it had to be ended.
    """

    def hang_up() -> None:
        late.set()
        # By the method of the plain socket: that of a TLS socket would take its state away under the reader.
        if (connection := connected()) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(deadline - time.monotonic(), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
