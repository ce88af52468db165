"""What every provider's requests and answers have in common over HTTP with JSON.

Decides how credentials, ids and our own name are written, and that JSON of a stranger is read without surprises. Leaves
to each provider which call is made and what an answer means.
"""

from __future__ import annotations

import json
from base64 import b64encode
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import NoReturn
from urllib.parse import quote

from ..domain.errors import FieldProblem, InvalidCommand


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
