"""`post-purchase list`, `show`, `stats`, `tickets`: look, and change nothing.

Decides the columns that people see. Leaves what there is to see to `service.inspect`, whose JSON is printed as it is.
No credentials are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from ..domain.state import State
from ..ports import Filter, TicketLine
from ..service import inspect
from .edge import examples, invocation
from .output import AsJson, Columns, duration, moment, print_facts, print_json, print_rows

Limit = Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many at most, the newest first.")]

#: How many are listed unless told otherwise.
_LIMIT = 50

_COMMANDS: Columns = {
    "id": lambda line: line["id"],
    "kind": lambda line: line["kind"],
    "account": lambda line: line["account"],
    "order": lambda line: line["order_id"],
    "amount": lambda line: line["amount"],
    "state": lambda line: line["state"],
    "in doubt": lambda line: line["in_doubt"],
    "due at": lambda line: moment(line["due_at"]) if line["state"] == State.PENDING else None,
    "problem": lambda line: line["problem"] and line["problem"]["code"],
}

_ATTEMPTS: Columns = {
    "number": lambda line: line["number"],
    "outcome": lambda line: f"{line['outcome'] or 'unknown'}{' (late)' if line['late'] else ''}",
    "status": lambda line: line["status"],
    "code": lambda line: line["code"],
    "started at": lambda line: moment(line["started_at"]),
    "finished at": lambda line: moment(line["finished_at"]),
    "correlation id": lambda line: line["correlation_id"],
}

_READINGS: Columns = {
    "read at": lambda line: moment(line["read_at"]),
    "for": lambda line: line["purpose"],
    "verdict": lambda line: line["verdict"],
    "evidence": lambda line: line["evidence"],
}

_TICKETS: Columns = {
    "id": lambda line: line["id"],
    "reason": lambda line: line["reason"],
    "state": lambda line: line["state"],
    "desk": lambda line: line["desk"],
    "external ref": lambda line: line["external_ref"],
    "opened at": lambda line: moment(line["opened_at"]),
    "closed at": lambda line: moment(line["closed_at"]),
}

_ALL_TICKETS: Columns = {
    **_TICKETS,
    "account": lambda line: line["account"],
    "commands": lambda line: line["commands"],
    "problem": lambda line: line["problem"],
}

_ACTIONS: Columns = {
    "at": lambda line: moment(line["at"]),
    "verb": lambda line: line["verb"],
    "by": lambda line: line["by"],
    "reason": lambda line: line["why"],
    "state before": lambda line: line["state_before"],
}

_COUNTS: Columns = {
    "account": lambda line: line["account"],
    "state": lambda line: line["state"],
    "in doubt": lambda line: line["in_doubt"],
    "commands": lambda line: line["commands"],
    "amount": lambda line: line["amount"],
}

_PAUSES: Columns = {
    "account": lambda line: line["account"],
    "kind": lambda line: line["kind"],
    "cause": lambda line: line["cause"],
    "by": lambda line: line["by"],
    "why": lambda line: line["why"],
    "since": lambda line: moment(line["began_at"]),
    "tried again": lambda line: moment(line["probe_at"]),
}

#: What stands below the facts of one command.
_PARTS: Mapping[str, Columns] = {
    "attempts": _ATTEMPTS,
    "readings": _READINGS,
    "tickets": _TICKETS,
    "actions": _ACTIONS,
}


def add_to(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command(
        "list",
        epilog=examples(
            "post-purchase list --state escalated --in-doubt",
            "post-purchase list --account klarna-eu --order 4ba29b50 --kind capture --json",
        ),
    )(list_commands)
    app.command("show", epilog=examples("post-purchase show 019ab3c4-0000-7000-8000-00000000000f --json"))(show)
    app.command("stats", epilog=examples("post-purchase stats --json"))(stats)
    app.command("tickets", epilog=examples("post-purchase tickets --open"))(tickets)


def _kind(name: str | None) -> str | None:
    if name is None:
        return None
    from ..wiring import COMMANDS  # noqa: PLC0415  # --help must be quick

    known = dict.fromkeys(kind for commands in COMMANDS.values() for kind in commands)
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}")

    return name


def list_commands(
    ctx: typer.Context,
    *,
    state: Annotated[State | None, typer.Option(help="Only commands in this state.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Only commands of this account.")] = None,
    order: Annotated[str | None, typer.Option(metavar="ID", help="Only commands of this order.")] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", callback=_kind, help="Only commands of this kind, such as capture.")
    ] = None,
    in_doubt: Annotated[
        bool | None, typer.Option("--in-doubt/--not-in-doubt", help="Only those whose fate is unknown, or is known.")
    ] = None,
    limit: Limit = _LIMIT,
    as_json: AsJson = False,
) -> None:
    """List commands, the newest first. Filters narrow one another."""
    wanted = Filter(state=state, account=account, order_id=order, kind=kind, in_doubt=in_doubt)
    with invocation(ctx).services() as services, services.store.read() as transaction:
        lines = [inspect.line(command) for command in transaction.listed(wanted, limit=limit)]

    if as_json:
        print_json(lines)
    else:
        print_rows(_COMMANDS, lines)


def show(
    ctx: typer.Context,
    command_id: Annotated[UUID, typer.Argument(metavar="ID", help="The command's id, or its idempotency key.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one command with its attempts and tickets.

    Everything is shown that is known of it, what operators did included; its payload is not. Of a command that was
    pruned one line tells how it ended (exit 1).
    """
    with invocation(ctx).services() as services, services.store.read() as transaction:
        shown = inspect.show(transaction, command_id, accounts=services.accounts, fallback=services.fallback)

    if as_json:
        print_json(shown)
        return
    print_facts(_facts(shown), title=f"{shown['kind']} {shown['order_id']}")
    for title, columns in _PARTS.items():
        if shown[title]:
            print_rows(columns, shown[title], title=title)


def _facts(shown: Mapping[str, Any]) -> dict[str, object]:
    left, problem = shown["key_window_left_seconds"], shown["problem"]
    facts = {
        **{name: shown[name] for name in ("id", "kind", "account", "order_id", "reference", "target", "amount")},
        **{name: shown[name] for name in ("state", "in_doubt", "attempts_count", "failures", "claims", "replaces")},
        "being read back": shown["read_back"],
        **{name: moment(shown[name]) for name in ("created_at", "due_at", "absent_at", "finalized_at")},
        "idempotency_key": shown["idempotency_key"],
        "keyed": shown["keyed"],
        "key window": None if left is None else _window(left),
        **{f"result {name}": value for name, value in (shown["result"] or {}).items()},
        **{f"problem {name}": value for name, value in (problem or {}).items()},
    }

    return {name.replace("_", " "): value for name, value in facts.items() if value is not None}


def stats(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Count commands, their money, and what waits.

    Counted are commands and their amounts in minor units, by account, state and doubt, and open tickets. What is paused
    is named with who did it and why.
    """
    with invocation(ctx).services() as services, services.store.read() as transaction:
        counted = inspect.stats(transaction, accounts=services.accounts, fallback=services.fallback)

    if as_json:
        print_json(counted)
        return
    print_rows(_COUNTS, counted["counts"])
    windows = {f"key window of {each['account']}": _window(each["left_seconds"]) for each in counted["key_windows"]}
    waited = {"open tickets": counted["open_tickets"], "oldest due": duration(counted["oldest_due_seconds"])}
    print_facts({**waited, **windows}, title="waiting")
    if counted["pauses"]:
        print_rows(_PAUSES, counted["pauses"], title="paused")


def _window(left: float) -> str:
    return f"open for {duration(left)}" if left > 0 else "closed"


def tickets(
    ctx: typer.Context,
    *,
    only_open: Annotated[bool, typer.Option("--open", help="Only tickets that are not closed.")] = False,
    limit: Limit = _LIMIT,
    as_json: AsJson = False,
) -> None:
    """List tickets, the newest first."""
    with invocation(ctx).services() as services, services.store.read() as transaction:
        lines = [_ticket(line) for line in transaction.tickets(open_only=only_open, limit=limit)]

    if as_json:
        print_json(lines)
    else:
        print_rows(_ALL_TICKETS, lines)


def _ticket(line: TicketLine) -> dict[str, Any]:
    return {
        "id": str(line.id),
        "account": line.account,
        "reason": line.reason.value,
        "state": line.state.value,
        "desk": line.desk,
        "external_ref": line.external_ref,
        "opened_at": line.opened_at.isoformat(),
        "closed_at": None if line.closed_at is None else line.closed_at.isoformat(),
        "commands": line.commands,
        "problem": line.problem,
    }
