"""Store commands in the caller's transaction; never twice under one key.

Decides id, key, payload and fingerprint of each command, and what a key that is stored already means, be its command
pruned or not: the same command, a conflict, or one that has ended. Leaves the caller's transaction to the caller: on
any error nothing of the call is left in it, and it can go on. Publishing follows the commit and is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from ..domain import key
from ..domain.commands import Command, differing_fields
from ..domain.errors import CommandClosed, FieldProblem, IdempotencyConflict, InvalidCommand, UnknownAccount
from ..domain.state import State
from ..ports import NewCommand, PrunedCommand, StoredCommand, Transaction

#: A command that amends another is known by the other's id. It never changes: keys are derived from it.
_AMENDS = "amends:"

#: States in which a key's command has ended without effect.
_CLOSED = frozenset({State.REJECTED, State.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What became of an enqueue.

    `was_stored` is False when the same command was stored before; `published` says that its message is to follow
    the commit at once, otherwise dispatch hands it out.
    """

    id: UUID
    account: str
    kind: str
    order_id: str
    idempotency_key: str
    state: State
    was_stored: bool
    published: bool


def enqueue(
    transaction: Transaction,
    commands: Sequence[Command],
    *,
    kinds: Mapping[str, Collection[type[Command]]],
    unkeyed: Collection[str],
    published_for: timedelta,
    reserve: Callable[[], bool],
    replaces: StoredCommand | None = None,
) -> list[Enqueued]:
    """Store commands in the given order; all of them or none.

    Args:
        transaction: The caller's own.
        commands: In the order in which their order rules shall see them.
        kinds: Account name → the classes of command that its provider takes.
        unkeyed: Accounts whose provider honours no key; their commands are stored unkeyed, whatever they ask for.
        published_for: How long dispatch leaves a command alone whose message follows the commit.
        reserve: Asked once per command; True when its message will follow the commit at once.
        replaces: The command that the given one amends: its key is then derived from that, not from the reference.

    Raises:
        UnknownAccount: A command names an account that is not configured.
        InvalidCommand: The account's provider has no such command.
        IdempotencyConflict: A key is stored with another payload, or twice in this call.
        CommandClosed: A key's command was rejected or cancelled.
    """
    offered = [_offer(command, kinds, unkeyed, reserve, replaces) for command in commands]
    first: dict[tuple[str, str], NewCommand] = {}
    for each in offered:
        earlier = first.setdefault((each.account, each.idempotency_key), each)
        _demand_same(earlier, each)

    stored = transaction.insert_commands(list(first.values()), published_for=published_for)
    known = transaction.find_by_key([name for name, each in first.items() if each.id not in stored])
    try:
        for name, existing in known.items():
            _demand_repeat(existing, first[name])
    except (IdempotencyConflict, CommandClosed):
        transaction.delete_commands(stored)
        raise

    return [_answer(each, first, known) for each in offered]


def _offer(
    command: object,
    kinds: Mapping[str, Collection[type[Command]]],
    unkeyed: Collection[str],
    reserve: Callable[[], bool],
    replaces: StoredCommand | None,
) -> NewCommand:
    if not isinstance(command, Command):
        given = FieldProblem(field="", message=f"must be a command such as Capture(...), not {type(command).__name__}")
        raise InvalidCommand(None, [given])
    taken = kinds.get(command.account)
    if taken is None:
        raise UnknownAccount(command.account, sorted(kinds))
    if type(command) not in taken:
        message = f"the provider of account {command.account!r} has no such command"
        raise InvalidCommand(command.kind, [FieldProblem(field="kind", message=message)])

    command_id = key.new_id()
    named = command.reference or str(command_id)
    idempotency_key = str(
        key.idempotency_key(
            account=command.account,
            kind=command.kind,
            order_id=command.order_id,
            target=command.target,
            reference=named if replaces is None else f"{_AMENDS}{replaces.id}",
        )
    )
    payload = command.payload(idempotency_key)

    return NewCommand(
        id=command_id,
        account=command.account,
        kind=command.kind,
        order_id=command.order_id,
        reference=command.reference,
        target=command.target,
        amount=command.amount,
        keyed=command.keyed and command.account not in unkeyed,
        payload=payload,
        # Of what the caller asked for, not of the account's setting: when that changes, a repeat is a repeat still.
        fingerprint=key.fingerprint(payload, keyed=command.keyed),
        idempotency_key=idempotency_key,
        replaces=None if replaces is None else replaces.id,
        turn=None if replaces is None else replaces.turn or replaces.seq,
        # An operator's process need not be the host's, and does not know that the host wants to be told.
        tell_at=None if replaces is None else replaces.tell_at or replaces.told_at,
        due_at=command.due_at,
        published=command.due_at is None and reserve(),
    )


def _demand_repeat(existing: StoredCommand | PrunedCommand, offered: NewCommand) -> None:
    if existing.state in _CLOSED:
        raise CommandClosed(
            command_id=existing.id, state=existing.state.value, idempotency_key=existing.idempotency_key
        )
    match existing:
        case StoredCommand():
            _demand_same(existing, offered)
        case PrunedCommand() if existing.fingerprint != offered.fingerprint:
            raise IdempotencyConflict(
                command_id=existing.id,
                idempotency_key=existing.idempotency_key,
                fields=(),
                pruned_state=existing.state.value,
            )


def _demand_same(existing: StoredCommand | NewCommand, offered: NewCommand) -> None:
    if existing.fingerprint == offered.fingerprint:
        return

    fields = [*differing_fields(existing.payload, offered.payload)]
    if existing.keyed is not offered.keyed or not fields:
        fields.append("keyed")
    raise IdempotencyConflict(command_id=existing.id, idempotency_key=existing.idempotency_key, fields=fields)


def _answer(
    offered: NewCommand,
    first: Mapping[tuple[str, str], NewCommand],
    known: Mapping[tuple[str, str], StoredCommand | PrunedCommand],
) -> Enqueued:
    name = (offered.account, offered.idempotency_key)
    existing = known.get(name)
    kept = existing or first[name]
    was_stored = existing is None and kept is offered

    return Enqueued(
        id=kept.id,
        account=offered.account,
        kind=offered.kind,
        order_id=offered.order_id,
        idempotency_key=offered.idempotency_key,
        state=State.PENDING if existing is None else existing.state,
        was_stored=was_stored,
        published=was_stored and offered.published,
    )
