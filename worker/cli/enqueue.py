"""`post-purchase enqueue`: store the commands of a file, all of them or none.

Decides that one transaction holds the whole file, and which line a refusal belongs to. Leaves reading the lines to
`lines`, and what may be stored to the service.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ..domain.errors import CommandClosed, IdempotencyConflict, InvalidCommand, UnknownAccount
from ..service.enqueue import Enqueued
from .edge import BadInput, invocation
from .lines import BadLine, Line, read_lines
from .output import AsJson, Columns, print_json, print_problem, print_rows

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..wiring import Services

#: Commands in one statement: enough to make the round trips cheap, few enough to look through when one is refused.
_BATCH = 400

#: A file that is refused in so many lines is the wrong file; finding the rest takes a statement a line.
_MOST_REFUSALS = 1000

_REFUSALS = (CommandClosed, IdempotencyConflict, InvalidCommand, UnknownAccount)

_COLUMNS: Columns = {
    "line": lambda row: row["line"],
    "id": lambda row: row["id"],
    "kind": lambda row: row["kind"],
    "account": lambda row: row["account"],
    "order": lambda row: row["order_id"],
    "idempotency key": lambda row: row["idempotency_key"],
    "state": lambda row: row["state"],
    "": lambda row: "stored" if row["was_stored"] else "known already",
}


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command(
        "enqueue",
        epilog="Examples: post-purchase enqueue orders.jsonl — or from a program that writes commands: "
        "… | post-purchase enqueue - --json",
    )(enqueue)


def enqueue(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Commands, one JSON object a line; - reads stdin.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Store commands, all of them or none.

    A line is one command: {"kind": "capture", "account": "klarna-eu", "order_id": "…", "reference": "parcel-7",
    "amount": 1000}. Lines that cannot be stored are listed on stderr, each with its number and its reason, and then
    nothing is stored (exit 2). A command that is stored already under the same reference is not stored twice.
    """
    with invocation(ctx).services() as services, _progress() as progress:
        lines, bad = _read(services, file, progress)
        stored: list[tuple[Line, Enqueued]] = []
        if not bad and lines:
            stored, bad = _store(services, lines, progress)
    if bad:
        name = "stdin" if file == "-" else file
        raise BadInput([*(f"{name} line {each.number}: {each.reason}" for each in bad), f"{name}: nothing was stored"])

    rows = [_row(line, enqueued) for line, enqueued in stored]
    if as_json:
        print_json(rows)
    else:
        print_rows(_COLUMNS, rows)
        new = sum(row["was_stored"] for row in rows)
        print_problem(f"{new} commands stored, {len(rows) - new} known already")


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


def _read(services: Services, file: str, progress: Progress) -> tuple[list[Line], list[BadLine]]:
    from ..wiring import COMMANDS  # noqa: PLC0415  # --help must be quick

    kinds = {name: COMMANDS[account.provider] for name, account in services.settings.accounts.items()}
    lines: list[Line] = []
    bad: list[BadLine] = []
    with _opened(file) as (stream, size):
        watched = progress.add_task("reading", total=size)
        for each in read_lines(stream, kinds):
            (lines if isinstance(each, Line) else bad).append(each)  # type: ignore[arg-type]  # one list each
            progress.update(watched, completed=each.number)

    return lines, bad


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    try:
        stream = sys.stdin.buffer if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise BadInput([f"{file} cannot be read: {error.strerror}"]) from None
    with stream:
        yield stream


def _store(services: Services, lines: Sequence[Line], progress: Progress) -> tuple[list[Enqueued], list[BadLine]]:
    ...
