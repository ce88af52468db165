"""What is shown of commands: one in full, many in lines, all in counts.

Decides the shape of what `show --json` and `stats --json` print, which others script against. Payloads are not
shown: they may hold addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ..domain.errors import CommandNotFound, CommandPruned
from ..domain.ladder import Policy, key_end
from ..ports import Account, PrunedCommand, StoredCommand, Transaction
from .accounts import key_window_left

_TICKETS = 100


def show(
    transaction: Transaction, command_id: UUID, *, accounts: Mapping[str, Account], fallback: Policy
) -> dict[str, Any]:
    """Return everything known of one command, ready for JSON; it may also be named by its idempotency key.

    Raises:
        CommandPruned: It has ended long ago, and only its key is kept.
        CommandNotFound: No such command.
    """
    command = transaction.find(command_id) or next(
        (each for each in _by_key(transaction, command_id, accounts) if isinstance(each, StoredCommand)), None
    )
    if command is None:
        raise not_found(transaction, command_id, accounts)

    command_id = command.id
    left = key_window_left(command, accounts, fallback, now=transaction.now)

    return {
        **line(command),
        "key_window_left_seconds": None if left is None else round(left.total_seconds(), 3),
        "result": None if command.result is None else dict(command.result),
        "attempts": [
            {
                "number": each.number,
                "outcome": each.outcome,
                "status": each.status,
                "code": each.code,
                "correlation_id": each.correlation_id,
                "started_at": _text(each.started_at),
                "finished_at": _text(each.finished_at),
                "late": each.late,
            }
            for each in transaction.attempts([command_id])[command_id]
        ],
        "readings": [
            {
                "purpose": each.purpose,
                "verdict": each.verdict,
                "evidence": each.evidence,
                "read_at": _text(each.read_at),
            }
            for each in transaction.readings([command_id])[command_id]
        ],
        "tickets": [
            {
                "id": str(each.id),
                "reason": each.reason.value,
                "state": each.state.value,
                "desk": each.desk,
                "external_ref": each.external_ref,
                "opened_at": _text(each.opened_at),
                "closed_at": _text(each.closed_at),
            }
            for each in transaction.tickets(command_id=command_id, limit=_TICKETS)
        ],
        "actions": [
            {
                "verb": each.verb,
                "by": each.by,
                "why": each.why,
                "state_before": each.state_before,
                "at": _text(each.at),
            }
            for each in transaction.actions(command_id)
        ],
    }


def not_found(transaction: Transaction, named: UUID, accounts: Collection[str] = ()) -> CommandNotFound:
    """Say that there is no such command or, where it was pruned, how it ended."""
    kept = transaction.find_pruned(named) or next(
        (each for each in _by_key(transaction, named, accounts) if isinstance(each, PrunedCommand)), None
    )

    return CommandNotFound(str(named)) if kept is None else _is_pruned(kept)


def _by_key(
    transaction: Transaction, key: UUID, accounts: Collection[str]
) -> Collection[StoredCommand | PrunedCommand]:
    return transaction.find_by_key([(name, str(key)) for name in accounts]).values()


def _is_pruned(pruned: PrunedCommand) -> CommandPruned:
    return CommandPruned(
        command_id=pruned.id,
        account=pruned.account,
        state=pruned.state.value,
        finalized_at=pruned.finalized_at,
        idempotency_key=pruned.idempotency_key,
    )


def line(command: StoredCommand) -> dict[str, Any]:
    """Return one command as it is listed, ready for JSON."""
    problem = command.problem

    return {
        "id": str(command.id),
        "kind": command.kind,
        "account": command.account,
        "order_id": command.order_id,
        "reference": command.reference,
        "target": command.target,
        "amount": command.amount,
        "keyed": command.keyed,
        "state": command.state.value,
        "in_doubt": command.in_doubt,
        "read_back": None if command.read_back is None else command.read_back.purpose.value,
        "absent_at": _text(command.absent_at),
        "replaces": None if command.replaces is None else str(command.replaces),
        "claims": command.claims,
        "attempts_count": command.attempts,
        "failures": command.failures,
        "due_at": _text(command.due_at),
        "idempotency_key": command.idempotency_key,
        "problem": None
        if problem is None
        else {
            "code": problem.code,
            "message": problem.message,
            "status": problem.status,
            "correlation_id": problem.correlation_id,
        },
        "created_at": _text(command.created_at),
        "finalized_at": _text(command.finalized_at),
    }


def stats(transaction: Transaction, *, accounts: Mapping[str, Account], fallback: Policy) -> dict[str, Any]:
    """Return counts by account and state, the money in doubt, and how long the oldest due command has waited.

    `key_windows` tells, for each account with a command in doubt under a key, for how long the first of those keys
    still counts; less than zero once it does not.
    """
    counts = [
        {"account": account, "state": state.value, "in_doubt": in_doubt, "commands": commands, "amount": amount}
        for account, state, in_doubt, commands, amount in transaction.counts()
    ]
    oldest = transaction.oldest_due_at()
    waited = timedelta(0) if oldest is None else transaction.now - oldest

    return {
        "counts": counts,
        "key_windows": [
            {
                "account": account,
                "left_seconds": round((deadline - transaction.now).total_seconds(), 3),
            }
            for account, deadline in _deadlines(transaction, accounts, fallback)
        ],
        "pauses": [
            {
                "account": pause.account,
                "kind": pause.kind or None,
                "cause": pause.cause.value,
                "by": pause.by,
                "why": pause.why,
                "began_at": _text(began_at),
                "probe_at": _text(pause.probe_at),
            }
            for pause, began_at in transaction.pauses()
        ],
        "open_tickets": len(transaction.tickets(open_only=True, limit=10_000)),
        "oldest_due_seconds": round(waited.total_seconds(), 3),
    }


def _deadlines(
    transaction: Transaction, accounts: Mapping[str, Account], fallback: Policy
) -> Iterator[tuple[str, datetime]]:
    for name, first_sent_at in sorted(transaction.first_sends_in_doubt().items()):
        account = accounts.get(name)
        yield name, key_end(first_sent_at, fallback if account is None else account.policy)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
