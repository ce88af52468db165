"""`post-purchase enqueue`: store the commands of a file, all of them or none.

Decides that one transaction holds the whole file, and which line a refusal belongs to. Leaves reading the lines to
`lines`, and what may be stored to the service.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar
from uuid import UUID

import typer

from ..domain.errors import CommandClosed, IdempotencyConflict, InvalidCommand
from ..service.enqueue import Enqueued
from .edge import BadInput, examples, invocation
from .lines import BadLine, Kinds, Line, read_lines
from .output import AsJson, Columns, print_json, print_rows, tell

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..wiring import Services

_T = TypeVar("_T")

#: Commands in one statement: enough to make round trips cheap, few enough to try one by one when one is refused.
_BATCH = 400

#: A file of which so many lines are refused by the store is the wrong file; finding the rest takes a statement a line.
_MOST_REFUSALS = 1000

_REFUSALS = (CommandClosed, IdempotencyConflict, InvalidCommand)

_COLUMNS: Columns = {
    "line": lambda row: row["line"],
    "id": lambda row: row["id"],
    "kind": lambda row: row["kind"],
    "account": lambda row: row["account"],
    "order": lambda row: row["order_id"],
    "idempotency key": lambda row: row["idempotency_key"],
    "state": lambda row: row["state"],
    "new": lambda row: row["was_stored"],
}


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command(
        "enqueue",
        epilog=examples("post-purchase enqueue orders.jsonl", "generate-orders | post-purchase enqueue - --json"),
    )(enqueue)


def enqueue(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Commands, one JSON object a line; - reads stdin.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Store the commands of a file, all of them or none.

    A line is one command, such as {"kind": "capture", "account": "klarna-eu", "order_id": "4ba29b50",
    "reference": "parcel-7", "amount": 1000}. If any line cannot be stored, all such lines are listed on stderr with
    number and reason, and nothing is stored (exit 2). What is stored already under its reference is not stored again.
    """
    name = "stdin" if file == "-" else file
    with invocation(ctx).services() as services:
        stored = _store(services, _read(file, name, kinds_of(services)), name)

    rows = [_row(line, enqueued) for line, enqueued in stored]
    if not rows:
        tell(f"{name} holds no command")  # an export that failed looks like that, and would go unnoticed
    if as_json:
        print_json(rows)
        return
    print_rows(_COLUMNS, rows)
    new = sum(row["was_stored"] for row in rows)
    tell(f"{new} stored, {len(rows) - new} known already")


def kinds_of(services: Services) -> Kinds:
    """Say which commands each configured account takes."""
    from ..wiring import COMMANDS  # noqa: PLC0415  # --help must be quick

    return {name: COMMANDS[account.provider] for name, account in services.settings.accounts.items()}


def _read(file: str, name: str, kinds: Kinds) -> list[Line]:
    lines: list[Line] = []
    bad: list[BadLine] = []
    with opened(file) as stream:
        for each in _watched(read_lines(stream, kinds), "reading"):
            match each:
                case Line():
                    lines.append(each)
                case BadLine():
                    bad.append(each)
    _demand_none(bad, name)

    return lines


def opened(file: str) -> AbstractContextManager[BinaryIO]:
    """Open a file of commands, or stdin for `-`."""
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise BadInput([f"{file} cannot be read: {error.strerror}"]) from None


def _store(services: Services, lines: Sequence[Line], name: str) -> list[tuple[Line, Enqueued]]:
    from ..store.engine import patience  # noqa: PLC0415  # --help must be quick

    stored: list[tuple[Line, Enqueued]] = []
    refused: list[BadLine] = []
    line_by_id: dict[UUID, int] = {}
    with patience(), services.store.engine.begin() as connection:
        for start in _watched(range(0, len(lines), _BATCH), "storing"):
            batch = lines[start : start + _BATCH]
            try:
                together = services.enqueue(connection, [line.command for line in batch])
            except _REFUSALS:
                refused += _refused(services, connection, batch, line_by_id)
            else:
                stored += zip(batch, together, strict=True)
                line_by_id.update((enqueued.id, line.number) for line, enqueued in zip(batch, together, strict=True))
            if len(refused) >= _MOST_REFUSALS:
                break
        _demand_none(refused, name)  # inside: what was stored so far goes with the transaction

    return stored


def _refused(
    services: Services, connection: Connection, batch: Sequence[Line], line_by_id: dict[UUID, int]
) -> Iterator[BadLine]:
    """Try one by one the commands of a batch that was refused as a whole; say which are refused, and why."""
    for line in batch:
        try:
            (enqueued,) = services.enqueue(connection, [line.command])
        except IdempotencyConflict as error:
            earlier = line_by_id.get(error.command_id)
            fields = ", ".join(error.fields)
            again = f"repeats the reference of line {earlier}, but differs from it in {fields}"
            yield BadLine(number=line.number, reason=str(error) if earlier is None else again)
        except _REFUSALS as error:
            yield BadLine(number=line.number, reason=str(error))
        else:
            line_by_id.setdefault(enqueued.id, line.number)


def _demand_none(bad: Sequence[BadLine], name: str) -> None:
    if bad:
        raise BadInput([*(f"{name} line {each.number}: {each.reason}" for each in bad), f"{name}: nothing was stored"])


def _watched(steps: Iterable[_T], what: str) -> Iterable[_T]:
    """Show progress on a terminal; it goes to stderr, and away when it is done."""
    from rich.console import Console  # noqa: PLC0415  # --help must be quick
    from rich.progress import track  # noqa: PLC0415  # the same

    return track(steps, what, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _row(line: Line, enqueued: Enqueued) -> dict[str, Any]:
    return {
        "line": line.number,
        "id": str(enqueued.id),
        "kind": enqueued.kind,
        "account": enqueued.account,
        "order_id": enqueued.order_id,
        "idempotency_key": enqueued.idempotency_key,
        "state": enqueued.state.value,
        "was_stored": enqueued.was_stored,
    }
