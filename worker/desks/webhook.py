"""The desk that posts tickets as signed JSON to an address of the operator's choice.

Decides the body, its signature, the idempotency key, and that any 2xx means the ticket landed. Leaves the content
to `case_text`, the next try to `service/escalate`, and what becomes of the ticket to the receiver.

Receivers check a post with `verify_signature`; docs/tickets.md shows how, also without this package.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..domain.errors import DeskUnavailable
from ..domain.ticket import CaseFile
from . import (
    TICKET_APPENDED,
    TICKET_CLOSED,
    TICKET_OPENED,
    DeskMisconfigured,
    explain_failure,
    hang_up_at,
    is_host,
    is_loopback,
    verified_tls,
)
from .case_text import announcement, as_json

TIMESTAMP_HEADER = "Post-Purchase-Timestamp"
SIGNATURE_HEADER = "Post-Purchase-Signature"
IDEMPOTENCY_HEADER = "Idempotency-Key"

_VERSION = "v1="

_LANDED = range(200, 300)
_REDIRECTS = range(300, 400)

#: Of an answer, only a reference is wanted.
_ANSWER_BYTES = 65_536

#: Where an answer may carry the receiver's own reference, best first.
_REFERENCE_FIELDS = ("external_ref", "id", "url")

#: The column that keeps it.
_REFERENCE_LENGTH = 255

#: Digits of a timestamp that is one: enough for every year that matters.
_TIMESTAMP_LENGTH = 12


def verify_signature(
    secret: str, timestamp: str, body: bytes, signature: str, *, now: float, tolerance_seconds: float = 300
) -> bool:
    """Say whether a post comes from who knows the secret, unchanged and not long ago. For receivers.

    Args:
        secret: The one of tickets.webhook.secret.
        timestamp: The header Post-Purchase-Timestamp.
        body: The bytes as received, before anything parsed them.
        signature: The header Post-Purchase-Signature.
        now: Seconds since 1970 at the receiver.
        tolerance_seconds: How far the two clocks and the way may part; an older post is taken for a replay.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_LENGTH):
        return False
    expected = _sign(secret, timestamp, body).encode()
    is_genuine = hmac.compare_digest(expected, signature.encode(errors="replace"))

    return is_genuine and abs(now - int(timestamp)) <= tolerance_seconds


class WebhookDesk:
    """Posts a ticket, what is added to it, and that it has closed, as signed JSON.

    Its reference is the receiver's own, where a JSON answer names one, else `webhook:` and the ticket's id.

    Args:
        url: https, or http to this machine. It may hold a token, so no error and no `repr` shows more than its host.
        secret: What the receiver knows as well; the key of the signature.
        timeout: Seconds that one post may take.
        now: Seconds since 1970, for the signature.
    """

    name: str = "webhook"

    def __init__(self, url: str, *, secret: str, timeout: float, now: Callable[[], float] = time.time) -> None:
        parts, port = _address(url)
        if not secret:
            raise DeskMisconfigured("tickets.webhook.secret is empty. Set it, or tickets.webhook.secret_file")
        if not timeout > 0:
            raise DeskMisconfigured(f"tickets.webhook.timeout_seconds is {timeout}; it must be above 0")
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = port or (443 if self._is_tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secret = secret
        self._timeout = timeout
        self._now = now

    def __repr__(self) -> str:
        return f"{type(self).__name__}(host={self._host!r}, port={self._port!r})"

    def open(self, case_file: CaseFile) -> str:
        """Post the ticket."""
        body = {"event": TICKET_OPENED, **as_json(case_file)}
        answer = self._post(body, idempotency_key=str(case_file.ticket_id))

        return _reference(answer) or f"webhook:{case_file.ticket_id}"

    def append(self, external_ref: str, case_file: CaseFile) -> None:
        """Post the further commands."""
        self._follow(TICKET_APPENDED, external_ref, case_file)

    def close(self, external_ref: str, case_file: CaseFile) -> None:
        """Post that every command of the ticket has been decided."""
        self._follow(TICKET_CLOSED, external_ref, case_file)

    def _follow(self, event: str, external_ref: str, case_file: CaseFile) -> None:
        body = {"event": event, "external_ref": external_ref, **as_json(case_file)}
        self._post(body, idempotency_key=announcement(case_file))

    def _post(self, content: Mapping[str, Any], *, idempotency_key: str) -> bytes:
        body = json.dumps(content, separators=(",", ":")).encode()
        timestamp = str(int(self._now()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "post-purchase-worker",
            "Connection": "close",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: _sign(self._secret, timestamp, body),
            IDEMPOTENCY_HEADER: idempotency_key,
        }
        connection, late, deadline = self._connection(), threading.Event(), time.monotonic() + self._timeout
        try:
            connection.connect()
            connected = connection.sock  # http.client lets go of it as soon as the answer has begun
            with hang_up_at(deadline, lambda: connected, late):
                connection.request("POST", self._target, body=body, headers=headers)
                response = connection.getresponse()
                status, answer = response.status, _read(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(explain_failure(TimeoutError() if late.is_set() else error)) from error
        finally:
            connection.close()
        if status not in _LANDED:
            raise self._unavailable(_explain_status(status))

        return answer

    def _connection(self) -> http.client.HTTPConnection:
        # http.client follows no redirect and asks no proxy: the post reaches this host or nobody.
        if self._is_tls:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=verified_tls())
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _unavailable(self, words: str) -> DeskUnavailable:
        return DeskUnavailable(f"webhook receiver {self._host}:{self._port} {words}")


def _sign(secret: str, timestamp: str, body: bytes) -> str:
    signed = timestamp.encode("ascii") + b"." + body

    return _VERSION + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _address(url: str) -> tuple[SplitResult, int | None]:
    """Read the address of the settings. A refusal does not repeat it: it may hold a token."""
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise DeskMisconfigured(
            "tickets.webhook.url holds spaces, control or non-ASCII characters. Percent-encode them"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DeskMisconfigured("tickets.webhook.url has a port or a host that cannot be") from None
    if parts.scheme not in {"https", "http"} or not is_host(parts.hostname or ""):
        raise DeskMisconfigured("tickets.webhook.url is not an address such as https://desk.example.com/tickets")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise DeskMisconfigured(
            f"tickets.webhook.url is plain http, but {parts.hostname} is not this machine. Use https"
        )
    if "@" in parts.netloc:
        raise DeskMisconfigured("tickets.webhook.url holds a log-in, which is not sent. The signature says who posts")
    if parts.fragment:
        raise DeskMisconfigured("tickets.webhook.url holds a # part, which is never sent. Remove it")

    return parts, port


def _explain_status(status: int) -> str:
    if status in _REDIRECTS:
        return f"answered {status}. Redirects are not followed: set tickets.webhook.url to where it leads"
    if status in {401, 403}:
        return f"answered {status}. Check that tickets.webhook.secret is the receiver's, and both clocks"
    return f"answered {status}, wanted is any 2xx. Check the path of tickets.webhook.url and the receiver's log"


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read what came of the answer's body; the status has decided already."""
    try:
        return response.read(_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return b""


def _reference(answer: bytes) -> str | None:
    """Find the receiver's own reference in its answer, if it is one that can be stored and shown."""
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    found = (content.get(name) for name in _REFERENCE_FIELDS)

    return next((text for text in found if isinstance(text, str) and _is_reference(text)), None)


def _is_reference(text: str) -> bool:
    return 0 < len(text) <= _REFERENCE_LENGTH and text.isprintable() and not text.isspace()
