"""`post-purchase retry`, `recheck`, `amend`, `resolve`, `cancel`: what a named operator does, with a reason.

Decides that each id is a decision of its own: one that is refused does not hold back the others. Leaves to the service
which verb is safe in which state, and to `lines` what a line is that amends a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from uuid import UUID

import typer

from ..domain.commands import Command
from ..domain.errors import CommandNotFound, IdempotencyConflict, InvalidCommand, VerbRefused
from ..ports import StoredCommand
from ..service.operate import Operator
from .edge import REFUSED, BadInput, examples, invocation
from .enqueue import kinds_of, opened
from .lines import BadLine, Kinds, Line, read_lines
from .output import AsJson, Columns, print_json, print_rows, tell

if TYPE_CHECKING:
    from ..wiring import Services

#: What the column that keeps the name takes.
_NAME_CHARACTERS = 255

_EXAMPLE_ID = "019ab3c4-0000-7000-8000-00000000000f"

_AMENDED: Columns = {
    "id": lambda row: row["id"],
    "replaces": lambda row: row["replaces"],
    "idempotency key": lambda row: row["idempotency_key"],
    "state": lambda row: row["state"],
    "new": lambda row: row["was_stored"],
}

_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "verb": lambda row: row["verb"],
    "done": lambda row: row["was_done"],
    "state": lambda row: row["state"],
}


def _named(text: str) -> str:
    name = text.strip()
    if not name:
        raise typer.BadParameter("is empty; it must name who decides this")
    if not name.isprintable() or len(name) > _NAME_CHARACTERS:
        raise typer.BadParameter(f"must be one line of at most {_NAME_CHARACTERS} characters")

    return name


def _explained(text: str) -> str:
    reason = text.strip()
    if not reason:
        raise typer.BadParameter("is empty; it must say why")

    return reason


Ids = Annotated[list[UUID], typer.Argument(metavar="ID", help="The ids of commands, one or several.")]
By = Annotated[str, typer.Option(metavar="NAME", callback=_named, help="Who decides this. Kept with the command.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", callback=_explained, help="Why. Kept with the command.")]

_Verb: TypeAlias = Callable[[Operator, UUID], StoredCommand]


def add_to(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    reasons: dict[Callable[..., None], str] = {
        retry: "provider is back",
        recheck: "it can be read again",
        amend: "captured too much",
        resolve: "captured, seen in its portal",
        cancel: "customer kept the goods",
    }
    for command, reason in reasons.items():
        name = command.__name__
        given = f"{name} {_EXAMPLE_ID}{' amended.json' if command is amend else ''}"
        example = f'post-purchase {given} --by "on call" --reason "{reason}"'
        app.command(name, epilog=examples(example))(command)


def retry(ctx: typer.Context, ids: Ids, *, by: By, reason: Reason, as_json: AsJson = False) -> None:
    """Send escalated commands up the ladder again.

    Each is sent under its own key, and only where that is safe. Those that are refused are named (exit 1).
    """
    with invocation(ctx).services() as services:
        _answer(_act(services, Operator.retry, ids, by=by, reason=reason), as_json=as_json)


def recheck(ctx: typer.Context, ids: Ids, *, by: By, reason: Reason, as_json: AsJson = False) -> None:
    """Read at the provider what became of escalated commands.

    The workers read it, twice with a minute between where nothing is found; `show` tells what they found. What is there
    has succeeded, and its ticket closes; anything else stays escalated. Those that are refused are named (exit 1).
    """
    with invocation(ctx).services() as services:
        _answer(_act(services, Operator.recheck, ids, by=by, reason=reason), as_json=as_json)


def amend(
    ctx: typer.Context,
    command_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id of the command to replace.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="One command as a JSON line; - reads stdin.")],
    *,
    by: By,
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Replace a rejected or escalated command by another one, under a new key.

    The line is a whole command as `enqueue` takes it, of the same kind, account and order. An escalated command must be
    known to be absent at the provider (`recheck`); it is then cancelled. What is refused is named (exit 1), and a line
    that is no command too (exit 2); nothing is stored then.
    """
    with invocation(ctx).services() as services:
        amended = _amended(file, kinds_of(services))
        try:
            enqueued = services.operator(by=by, why=reason).amend(command_id, amended)
        except InvalidCommand as error:
            raise BadInput([str(error)]) from None
        except (CommandNotFound, IdempotencyConflict, VerbRefused) as error:
            tell(str(error))
            raise typer.Exit(REFUSED) from None

    row = {
        "id": str(enqueued.id),
        "replaces": str(command_id),
        "idempotency_key": enqueued.idempotency_key,
        "state": enqueued.state.value,
        "was_stored": enqueued.was_stored,
    }
    if as_json:
        print_json(row)
    else:
        print_rows(_AMENDED, [row])


def _amended(file: str, kinds: Kinds) -> Command:
    """Read the one command of a file."""
    with opened(file) as stream:
        found = list(read_lines(stream, kinds))
    match found:
        case [Line(command=command)]:
            return command
        case [BadLine(reason=reason)]:
            raise BadInput([f"{file}: {reason}"])
        case _:
            raise BadInput([f"{file}: holds {len(found)} lines; it must hold one command"])


def resolve(ctx: typer.Context, ids: Ids, *, by: By, reason: Reason, as_json: AsJson = False) -> None:
    """State that the effect is there at the provider.

    For a final command, state that its ticket is dealt with. Those that are refused are named (exit 1).
    """
    with invocation(ctx).services() as services:
        _answer(_act(services, Operator.resolve, ids, by=by, reason=reason), as_json=as_json)


def cancel(ctx: typer.Context, ids: Ids, *, by: By, reason: Reason, as_json: AsJson = False) -> None:
    """Take pending or escalated commands back.

    They will not be sent, or not again. Those that are refused are named (exit 1).
    """
    with invocation(ctx).services() as services:
        _answer(_act(services, Operator.cancel, ids, by=by, reason=reason), as_json=as_json)


def _act(services: Services, verb: _Verb, ids: Sequence[UUID], *, by: str, reason: str) -> Iterator[dict[str, Any]]:
    operator = services.operator(by=by, why=reason)
    for command_id in ids:
        try:
            verb(operator, command_id)
        except (CommandNotFound, VerbRefused) as error:
            tell(str(error))
            why_not: str | None = str(error)
        else:
            why_not = None
        with services.store.read() as transaction:
            command = transaction.find(command_id)
        yield {
            "id": str(command_id),
            "verb": verb.__name__,
            "was_done": why_not is None,
            "why_not": why_not,
            "state": None if command is None else command.state.value,
        }


def _answer(acted: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    rows = list(acted)
    if as_json:
        print_json(rows)
    else:
        print_rows(_COLUMNS, rows)
    if not all(row["was_done"] for row in rows):
        raise typer.Exit(REFUSED)
