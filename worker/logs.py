"""How a process tells what it does: one line per event, as JSON or for a terminal, with nothing secret in it.

Decides the shape of a line, that lines of other libraries get the same shape, and what is masked on the way out.
Leaves to the callers what is worth a line: an event's name is a constant of theirs, its data are fields.

Masking here is the last net, not the first: callers log ids and not objects. What it knows is names that mean a
secret or a person, credentials inside text, and numbers that may be those of cards.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import KeyValueRenderer, StackInfoRenderer, TimeStamper, format_exc_info
from structlog.stdlib import BoundLogger, LoggerFactory, PositionalArgumentsFormatter, ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from .domain.card import card_problems

MASK = "***"


class LogOptions(Protocol):
    """The settings that matter here."""

    @property
    def format(self) -> str:
        """`json` or `console`."""

    @property
    def level(self) -> str:
        """`debug`, `info`, `warning`, `error` or `critical`."""


def configure(log: LogOptions) -> None:
    """Send every log line of the process, of structlog and of the standard library, to stderr in one shape.

    The last call counts; handlers that others have put on the root logger stay.
    """
    _FINISH[:] = [redact, *_RENDERERS[log.format]()]
    handler = _StderrHandler()
    handler.setFormatter(
        ProcessorFormatter(foreign_pre_chain=_CONTEXT, processors=[ProcessorFormatter.remove_processors_meta, *_FINISH])
    )
    root = logging.getLogger()
    for earlier in [installed for installed in root.handlers if isinstance(installed, _StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(log.level.upper())
    # It tells of every look at the schema's version, twice.
    logging.getLogger("alembic").setLevel(max(logging.WARNING, root.level))
    # A warning printed as it is would be a line that no reader of JSON understands.
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=_CHAIN,
        logger_factory=_Logger,
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def join() -> None:
    """Hand our lines to the logging of a host's process, masked; what the host has decided there is left alone.

    A host that has set structlog up has decided about our lines too.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                format_exc_info,
                redact,
                KeyValueRenderer(key_order=["event"]),
            ],
            logger_factory=LoggerFactory(),
            wrapper_class=BoundLogger,
        )


@contextmanager
def bound(**context: object) -> Iterator[None]:
    """Put fields on every line that is logged inside, and leave nothing behind.

    Whatever was bound inside, by this call or further down, is gone afterwards; what was bound before is back.
    """
    before = get_contextvars()
    bind_contextvars(**context)
    try:
        yield
    finally:
        clear_contextvars()
        bind_contextvars(**before)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the time of the line, which a test or a supervisor may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            _write(self.format(record))
        except Exception:  # noqa: BLE001 - as in every handler of the standard library: a lost line stops no payment
            self.handleError(record)


class _Logger:
    """The standard library's logger, but that what is routine takes the short way to stderr.

    A line is written for each attempt, and a record of the standard library costs as much as all the rest of it. What
    is graver goes through the standard library, where an error reporter may listen.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def info(self, line: str) -> None:
        """Write a line; one that is lost stops no payment."""
        with suppress(Exception):
            _write(line)

    debug = info


def _write(line: str) -> None:
    """Write a whole line at once, so that the lines of several processes do not run into each other."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# ---------------------------------------------------------------------------------------------------------- rendering


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What a person looks for first comes first."""
    leading = {name: event[name] for name in ("timestamp", "level", "event", "logger") if name in event}

    return leading | {name: value for name, value in event.items() if name not in leading}


_STAMP = TimeStamper(fmt="iso", utc=True)

#: Made once: `json.dumps` makes one for every line that is not written by its defaults.
_ENCODER = json.JSONEncoder(allow_nan=False)


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _ENCODER.encode(event)


def _json() -> list[Processor]:
    return [_STAMP, _in_order, _as_json]


def _console() -> list[Processor]:
    # https://no-color.org. Plain tracebacks: the pretty ones print the values of local variables, credentials included.
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")

    return [_STAMP, ConsoleRenderer(colors=colors, exception_formatter=plain_traceback)]


_RENDERERS = {"json": _json, "console": _console}

#: What every line gets, whoever logs it.
_CONTEXT: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    StackInfoRenderer(),
    format_exc_info,
]
#: What makes a line of an event, as the last configuration has it.
_FINISH: list[Processor] = []


def _hand_over(logger: WrappedLogger, method: str, event: EventDict) -> Any:
    """Finish what is routine here; leave the rest to the formatter of whatever handler gets it."""
    if method not in {"debug", "info"}:
        return ProcessorFormatter.wrap_for_formatter(logger, method, event)
    line: Any = event
    for finish in _FINISH:
        line = finish(logger, method, line)

    return line


#: One object for the life of the process: loggers that have logged once keep it.
_CHAIN: list[Processor] = [
    structlog.stdlib.filter_by_level,  # first: what is not wanted costs nothing
    PositionalArgumentsFormatter(),
    *_CONTEXT,
    _hand_over,
]


# ---------------------------------------------------------------------------------------------------------- redaction

#: A field whose name contains one of these words holds a secret.
_SECRET_WORDS = frozenset(
    {
        *("auth", "card", "cards", "cookie", "credential", "credentials", "cvc", "cvv", "iban", "pan", "passphrase"),
        *("passwd", "password", "passwords", "pwd", "secret", "secrets", "token", "tokens"),
    }
)
#: Whole names, without separators. `authorization` is a header and not a word: `update_authorization` is a kind.
_SECRET_NAMES = frozenset(
    {
        *(
            "accesskey",
            "apikey",
            "authorization",
            "cardnumber",
            "httpauthorization",
            "privatekey",
            "proxyauthorization",
        ),
        *("securitycode", "xapikey"),
    }
)
#: The names under which the providers keep what identifies a person.
_PERSONAL_NAMES = frozenset(
    {
        *("billingaddress", "customer", "dateofbirth", "email", "familyname", "firstname", "givenname", "lastname"),
        *("nationalidentificationnumber", "phone", "postalcode", "shippingaddress", "streetaddress", "streetaddress2"),
    }
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

#: Credentials inside a text: in a URL, in a header, after a telling name.
_CREDENTIALS = (
    # Where PostgreSQL quotes the row that it refused: a payload is somebody's address.
    (re.compile(r"(?m)^(\s*DETAIL:).*$"), rf"\1 {MASK}"),
    (re.compile(r"(?i)(https?://)[^\s/@]+@"), rf"\1{MASK}@"),
    (re.compile(r"(://[^\s:/?#@]*):\S*@"), rf"\1:{MASK}@"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer)\s+)?[^\s\"',}]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(basic|bearer)(\s+)[a-z0-9+/=_.~-]{16,}"), rf"\1\2{MASK}"),
    (
        re.compile(r"(?i)((?:passw(?:or)?d|passphrase|secret|token|api[_-]?key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}]+"),
        rf"\1{MASK}",
    ),
)
#: What stands between a telling name and its secret. Nearly every text, such as an id, has none and is let go by this
#: one question; a line is written for each attempt, and this is most of what it costs.
_PARTS_A_NAME = re.compile(r"[:=\s]")
_MAY_HOLD_CREDENTIALS = re.compile(r"(?i)detail:|://|authorization|basic|bearer|pass|secret|token|api[_-]?key")
#: The same question for numbers: are there as many digits as the shortest card number has?
_MAY_BE_A_CARD = re.compile(r"[0-9](?:[ -]?[0-9]){12}")
_SHORTEST_CARD = 13
_BELOW_ANY_CARD = 10**12
#: Digits that may be written in groups, and that no letter touches.
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]++(?![A-Za-z])(?:[ -][0-9]++(?![A-Za-z]))*+")

#: Deeper than any event is; what lies below is not shown.
_DEEPEST = 8


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what must not leave the process, and turn what remains into plain values."""
    return {name: _redacted_field(name, value, _DEEPEST) for name, value in event.items()}


def _redacted_field(name: str, value: object, depth: int) -> Any:
    # That a secret is absent, or whether there is one, is no secret.
    if value is None or isinstance(value, bool) or not _means_a_secret(name):
        return _redacted(value, depth)
    return MASK


def _redacted(value: object, depth: int) -> Any:
    match value:
        case str():
            return _redacted_text(value)
        case None | bool():
            return value
        case UUID():
            return str(value)  # which may look like a card's number, and is how a thing is found
        case int() | float():
            is_plain = abs(value) < _BELOW_ANY_CARD or (math.isfinite(value) and not card_problems(value))
            return value if is_plain else _redacted_text(str(value) if isinstance(value, int) else f"{value:.0f}")
        case bytes():
            return _redacted_text(value.decode(errors="replace"))
        case _ if depth == 0:
            return "..."
        case Mapping():
            return {
                _redacted_text(str(name)): _redacted_field(str(name), inner, depth - 1) for name, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_redacted(inner, depth - 1) for inner in value]
        case BaseException():
            return _redacted_text(repr(value))
        case _:
            return _redacted_text(str(value))


@lru_cache(maxsize=1024)
def _means_a_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]

    return not _SECRET_WORDS.isdisjoint(words) or "".join(words) in _SECRET_NAMES | _PERSONAL_NAMES


def _redacted_text(text: str) -> str:
    if _PARTS_A_NAME.search(text) and _MAY_HOLD_CREDENTIALS.search(text):
        for pattern, replacement in _CREDENTIALS:
            text = pattern.sub(replacement, text)
    if len(text) >= _SHORTEST_CARD and _MAY_BE_A_CARD.search(text):
        text = _NUMBER.sub(_masked_card, text)
    return text


def _masked_card(found: re.Match[str]) -> str:
    return MASK if card_problems(found.group()) else found.group()
