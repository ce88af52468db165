"""What every provider's requests and answers have in common over HTTP with JSON.

Decides how credentials, ids and our own name are written, how JSON and ids of a stranger are read without surprises,
and what the lack of an answer, some HTTP statuses and a page in place of an answer mean, which is the same for all.
Leaves to each provider which call is made and what its own answers mean.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import NoReturn, TypeVar
from urllib.parse import quote

from ..domain.errors import FieldProblem, InvalidCommand, UnknownKind
from ..domain.outcome import InDoubt, NotNow, NotSent, Problem, Rejected, Throttled, Unauthorized
from ..domain.redact import printable, readable
from ..ports import Answer, Held, NoAnswer

DONE = range(200, 300)
REFUSED = range(400, 500)

#: Longer texts of a stranger are cut, before and after they are made fit to be kept.
LONGEST_RAW_MESSAGE = 2_000
LONGEST_MESSAGE = 500
LONGEST_CODE = 100
LONGEST_ID = 255

Failure = type[Rejected | NotNow | Unauthorized | Throttled | InDoubt]

#: Statuses that speak for themselves, whatever the body, and our code where the provider named no error.
BY_STATUS: Mapping[int, tuple[Failure, str]] = {
    401: (Unauthorized, "unauthorized"),
    408: (InDoubt, "request_timeout"),
    409: (InDoubt, "conflict"),
    413: (Rejected, "request_too_large"),
    429: (Throttled, "too_many_requests"),
}

_T = TypeVar("_T")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def basic(username: str, password: str) -> str:
    """Write the value of the Authorization header: UTF-8, one space behind the word."""
    return f"Basic {b64encode(f'{username}:{password}'.encode()).decode('ascii')}"


def user_agent() -> str:
    """Name the program that asks."""
    try:
        return f"post-purchase-worker/{version('post-purchase-worker')}"
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "post-purchase-worker/unknown"


def segment(kind: str, name: str, value: str) -> str:
    """Write an id so that it is one segment of a path and nothing else.

    Raises:
        InvalidCommand: It is one of the values that have a meaning in a path and cannot be escaped.
    """
    if value in {"", ".", ".."}:
        raise InvalidCommand(kind, [FieldProblem(field=name, message=f"{value!r} cannot stand in a path")])

    return quote(value, safe="")


def operation_of(kind: str, operations: Mapping[str, _T]) -> _T:
    """Find how a kind of command is asked for.

    Raises:
        UnknownKind: The provider has no such kind.
    """
    operation = operations.get(kind)
    if operation is None:
        raise UnknownKind(kind, known=list(operations), nearest=None)

    return operation


def unanswered(answer: NoAnswer) -> NotSent | InDoubt:
    """Say what it means that no answer came."""
    problem = Problem(code=answer.code, message=readable(answer.message, LONGEST_MESSAGE))

    return InDoubt(problem=problem) if answer.sent else NotSent(problem=problem)


def unexplained(answer: Answer) -> str:
    """Our code for an answer that names no error."""
    return f"unexplained_{answer.status}" if answer.complete else f"truncated_{answer.status}"


def unread(answer: Answer) -> str:
    """Our code for a success that does not hold what was asked for."""
    return "unreadable_answer" if answer.complete else "truncated_answer"


def may_be_a_strangers(answer: Answer) -> bool:
    """Whether some gateway, firewall or login page may have given the answer: a page of markup, or a fragment."""
    text = answer.body.removeprefix(_BYTE_ORDER_MARK).lstrip()

    return not answer.complete or text[:1] == b"<" or "html" in answer.headers.get("content-type", "").lower()


def sent_in(held: Held) -> dict[str, object]:
    """Read what a command sends; empty for one without a body."""
    return (json_object(held.payload) if held.payload else None) or {}


def content_of(answer: Answer) -> dict[str, object] | list[object] | None:
    """Read what a success holds; None for a fragment, and for what is no JSON object or list."""
    return json_answer(answer.body) if answer.complete else None


def identifier(value: object) -> str:
    """Read an id, a number or text, as bounded text of one line; empty for anything else."""
    match value:
        case bool():
            return ""
        case int() | str():
            return printable(str(value)[:LONGEST_ID]).strip()
        case _:
            return ""


def json_answer(body: bytes) -> dict[str, object] | list[object] | None:
    """Read what was asked for; None for what is no JSON object or list, or holds a number that is none."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return None

    return content if isinstance(content, dict | list) else None


def json_object(body: bytes) -> dict[str, object] | None:
    """Read an object that somebody else may have written, broken text and all; None for anything else."""
    try:
        content = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None

    return content if isinstance(content, dict) else None


def _finite(number: str) -> float:
    value = float(number)
    if not isfinite(value):
        _refuse_constant(number)

    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
