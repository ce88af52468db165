"""Read commands from a file, one JSON object a line.

Decides which lines are commands and says of each other one what is wrong with it, in one sentence. Reads in bounded
pieces: a line that is too long is passed over, never held. Leaves to each kind what its fields may be, and the storing
to `enqueue`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..domain.card import dotted
from ..domain.commands import MAX_PAYLOAD_BYTES, Command, parse
from ..domain.errors import InvalidCommand, UnknownAccount

#: A command's payload has at most 1,000,000 bytes; this leaves room for what surrounds it in a line.
LINE_BYTES = 1_048_576

#: Below this length of a line no payload can be too large: the provider's names of fields are longer than ours, but
#: not by so much.
_MAY_BE_TOO_LARGE = MAX_PAYLOAD_BYTES - 1000

#: Account → kind → class.
Kinds = Mapping[str, Mapping[str, type[Command]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that is a command."""

    number: int
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that cannot be stored, and why."""

    number: int
    reason: str


class _NotACommand(ValueError):
    """The line is not a JSON object; the sentence says what it is."""


def read_lines(stream: BinaryIO, kinds: Kinds) -> Iterator[Line | BadLine]:
    """Read a stream to its end; empty lines are passed over.

    Args:
        stream: Where the lines come from.
        kinds: The configured accounts, each with the commands that its provider takes.
    """
    for number, raw in enumerate(_bounded(stream), start=1):
        if raw is None:
            yield BadLine(number=number, reason=f"is longer than {LINE_BYTES} bytes")
        elif raw.strip():
            try:
                yield Line(number=number, command=_command(raw, kinds))
            except (InvalidCommand, UnknownAccount, _NotACommand) as error:
                yield BadLine(number=number, reason=str(error))


def _bounded(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield each line, or None for one that is too long."""
    most = LINE_BYTES + len(b"\r\n")
    while piece := stream.readline(most):
        is_whole = piece.endswith(b"\n") or len(piece) < most
        yield piece if is_whole and len(piece.rstrip(b"\r\n")) <= LINE_BYTES else None
        while not is_whole:
            piece = stream.readline(most)
            is_whole = piece.endswith(b"\n") or not piece


def _command(raw: bytes, kinds: Kinds) -> Command:
    fields = _fields(raw)
    account = fields.get("account")
    if isinstance(account, str) and account not in kinds:
        raise UnknownAccount(dotted("", account), sorted(kinds))
    # A line without an account is refused for that, by whatever kind it names.
    known = kinds[account] if isinstance(account, str) else {k: c for each in kinds.values() for k, c in each.items()}
    command = parse(fields, known)
    if len(raw) > _MAY_BE_TOO_LARGE:
        command.payload("")

    return command


def _fields(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _NotACommand(f"is not UTF-8 text (byte {error.start + 1})") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _NotACommand(f"is not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise _NotACommand("is nested too deeply") from None
    except _NotACommand:
        raise
    except ValueError:
        raise _NotACommand("holds a number of too many digits") from None
    if not isinstance(value, dict):
        raise _NotACommand('is not a JSON object, such as {"kind": "capture", …}')

    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _NotACommand(f"names {dotted('', name)} twice in one object; only one of the values could count")
        fields[name] = value

    return fields


def _refuse_constant(name: str) -> None:
    raise _NotACommand(f"holds {name}, which is not a JSON number")
