"""Every statement of the project, in the order of a command's life.

Enqueue, claim, send, record, tickets, dispatch and sweep, escalate, prune, operate, look. Decides
what is read and written, under which guard. Every write out of `executing` names the fence
(`state = 'executing' AND claims = :mine`) and returns what it wrote. Leaves decisions to the services and
connections to `engine`. Statements are built once per dialect, so SQLAlchemy compiles each once.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    CompoundSelect,
    Connection,
    Delete,
    FromClause,
    Insert,
    Integer,
    Select,
    String,
    Subquery,
    Table,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

from ..domain.key import RANDOM_BYTES, new_id, uuid7
from ..domain.order_rules import WAITS_FOR
from ..domain.outcome import Outcome, Problem, Succeeded
from ..domain.pause import Cause, Pause
from ..domain.read_back import Purpose, ReadBack
from ..domain.state import State, Transition
from ..domain.ticket import MOVED, SYSTEMIC, AttemptLine, Closing, Ended, ReadingLine, Reason, TicketState
from ..ports import (
    Action,
    ActionLine,
    Due,
    Ending,
    Escalation,
    Expired,
    Filter,
    Held,
    Move,
    NewCommand,
    Probe,
    Prunable,
    PrunedCommand,
    Reading,
    StoredCommand,
    TicketLine,
    TicketWork,
)
from .clock import Clock
from .records import encode, records
from .schema import (
    EXECUTING,
    IS_FINAL,
    IS_UNFINISHED,
    IS_UNTOLD,
    OPEN_INCIDENT,
    OPEN_LINK,
    OPEN_PAUSE,
    PENDING,
    TICKET_DUE,
    UtcDateTime,
    action,
    attempt,
    command,
    kept_key,
    outcome,
    pause,
    reading,
    ticket,
    ticket_command,
)

_Inserts = TypeVar("_Inserts", bound=Insert)

_COMMAND_COLUMNS = tuple(command.c)
_HELD_COLUMNS = (
    command.c.id,
    command.c.account,
    command.c.kind,
    command.c.order_id,
    command.c.target,
    command.c.keyed,
    command.c.payload,
    command.c.idempotency_key,
    command.c.claims,
    command.c.attempts,
    command.c.failures,
    command.c.throttles,
    command.c.in_doubt,
    command.c.first_sent_at,
    command.c.lease_until,
    command.c.problem,
    command.c.result,
    command.c.read_back,
    command.c.absent_at,
    command.c.throttled_at,
)

#: How much is kept of what a desk said when it did not take a ticket.
_PROBLEM_CHARACTERS = 500

#: An id carries the clock of the process that enqueued, everything else that of the database. Too little would leave
#: the newest prunable commands for later; each day more is a day of young commands to look at in vain.
_CLOCKS_DIFFER = timedelta(days=1)


# --- enqueue -----------------------------------------------------------------------------------------------


#: What an enqueue gives of a command, beside the moments that are reckoned from it.
_GIVEN_COLUMNS = (
    *(command.c.id, command.c.account, command.c.kind, command.c.order_id, command.c.reference, command.c.target),
    *(command.c.amount, command.c.keyed, command.c.payload, command.c.fingerprint, command.c.idempotency_key),
    *(command.c.replaces, command.c.turn, command.c.trace_context, command.c.state, command.c.claims),
    *(command.c.attempts, command.c.failures, command.c.throttles, command.c.in_doubt),
)
_GIVEN_MOMENTS: Mapping[str, TypeEngine[Any]] = {
    "not_before": UtcDateTime(),
    "published": Boolean(),
    "tell_from": UtcDateTime(),
}


@lru_cache(maxsize=16)
def _insert_commands(dialect: str, clock: Clock, published_for: timedelta, *, tells_host: bool) -> Insert:
    """Store commands unless their account has the key already; say which were stored, and which of those were pruned.

    A key in the narrow table is seen by this very statement, at every level of isolation: `service.prune` says why. The
    look costs a probe of an index.
    """
    now = clock.expression(dialect)

    def reckoned(given: Callable[[str], ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        return {
            "created_at": now,
            "due_at": func.coalesce(given("not_before"), now),
            "published_until": case((given("published"), clock.expression(dialect, plus=published_for)), else_=None),
            "tell_at": func.coalesce(given("tell_from"), now if tells_host else None),
        }

    statement: sqlite.Insert | postgresql.Insert
    if dialect == "sqlite":
        # Its JSON cannot carry bytes.
        statement = sqlite.insert(command).values(**reckoned(lambda name: bindparam(name, type_=_GIVEN_MOMENTS[name])))
    else:
        # A thousand rows of parameters are two megabytes of SQL, which the driver reads letter by letter.
        named = {column.name: column.type for column in _GIVEN_COLUMNS}
        given = records(dialect, {**named, **_GIVEN_MOMENTS})
        moments = reckoned(lambda name: given.c[name])
        rows = select(*(given.c[name] for name in named), *moments.values())
        statement = postgresql.insert(command).from_select([*named, *moments], rows)

    return statement.on_conflict_do_nothing(index_elements=[command.c.account, command.c.idempotency_key]).returning(
        command.c.id, literal_column(_KEPT_ID, Uuid()).label("kept_id")
    )


#: The id under which a key is kept. As text, because SQLAlchemy does not let a subquery of `RETURNING` speak of the row
#: that was inserted; no `EXISTS`, for which PostgreSQL may choose to read the whole table at once.
_KEPT_ID = (
    "(SELECT kept.id FROM post_purchase_key AS kept WHERE kept.account = post_purchase_command.account "
    "AND kept.idempotency_key = post_purchase_command.idempotency_key)"
)


@cache
def _find_by_key(dialect: str) -> Select[Any]:
    """Read commands by account and key."""
    given = records(dialect, {"account": String(64), "idempotency_key": String(64)})
    same = and_(command.c.account == given.c.account, command.c.idempotency_key == given.c.idempotency_key)

    return select(*_COMMAND_COLUMNS).join(given, same)


@cache
def _find_kept(dialect: str) -> Select[Any]:
    """Read what is kept of pruned commands by account and key."""
    given = records(dialect, {"account": String(64), "idempotency_key": String(64)})
    same = and_(kept_key.c.account == given.c.account, kept_key.c.idempotency_key == given.c.idempotency_key)

    return select(*kept_key.c).join(given, same)


@cache
def _delete_commands(dialect: str) -> Delete:
    """Take back rows that the same transaction inserted."""
    given = records(dialect, {"id": Uuid()})

    return delete(command).where(command.c.id.in_(select(given.c.id)))


# --- claim -------------------------------------------------------------------------------------------------


def _unlit(condition: str) -> ColumnElement[bool]:
    """A condition exactly as the partial index has it: a bound constant would hide the index from the planner.

    It carries no Boolean type, for which SQLite would be asked `condition = 1`: another condition than the index's.
    """
    return literal_column(condition)


def _is_held_back() -> ColumnElement[bool]:
    """Whether an order rule holds a command back: its order is in flight, or an earlier command must end first."""
    other = command.alias("other")
    waits = or_(
        *(
            and_(
                command.c.kind == literal_column(f"'{kind}'"),
                other.c.kind.in_([literal_column(f"'{k}'") for k in sorted(kinds)]),
            )
            for kind, kinds in WAITS_FOR.items()
        )
    )
    unfinished = _unlit(f"other.{IS_UNFINISHED}")
    # What is only followed until it is settled is done, and holds nobody back.
    is_settling = other.c.read_back["purpose"].as_string() == literal_column(f"'{Purpose.SETTLEMENT}'")

    return exists(
        select(literal_column("1"))
        .select_from(other)
        .where(
            other.c.account == command.c.account,
            other.c.order_id == command.c.order_id,
            unfinished,
            or_(
                _unlit(f"other.{EXECUTING}"),
                and_(_turn(other) < _turn(command), waits, or_(other.c.read_back.is_(None), ~is_settling)),
                # A second one of its kind would make what is read ambiguous.
                and_(_turn(other) < _turn(command), other.c.kind == command.c.kind, ~is_settling),
            ),
        )
    )


def _turn(of: FromClause) -> ColumnElement[Any]:
    """A command's place within its order: its own, or that of the command it amends."""
    return func.coalesce(of.c.turn, of.c.seq)


def _pending() -> ColumnElement[bool]:
    return _unlit(f"post_purchase_command.{PENDING}")


def _is_paused(dialect: str) -> ColumnElement[bool]:
    """Whether nothing of a command's account or kind is sent; one whose key ends leaves the pause."""
    edge = _moved(dialect, bindparam("now", type_=UtcDateTime()), -pause.c.edge_seconds)

    return exists(
        select(literal_column("1"))
        .select_from(pause)
        .where(
            pause.c.account == command.c.account,
            _unlit(f"post_purchase_pause.{OPEN_PAUSE}"),
            or_(pause.c.kind == literal_column("''"), pause.c.kind == command.c.kind),
            or_(~command.c.keyed, command.c.first_sent_at.is_(None), command.c.first_sent_at > edge),
        )
    )


@cache
def _claim(dialect: str, named: bool, choosy: bool) -> Update:  # noqa: FBT001  # one of four fixed statements
    """Take the lease on due commands, at most one per order, skipping what others are looking at."""
    wanted = (
        select(command.c.seq, command.c.account, command.c.order_id, _turn(command).label("turn"))
        .where(
            _pending(),
            command.c.due_at <= bindparam("now", type_=UtcDateTime()),
            ~_is_held_back(),
            ~_is_paused(dialect),
        )
        .order_by(command.c.due_at, command.c.seq)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True, of=command)
    )
    if named:
        wanted = wanted.where(command.c.id.in_(bindparam("ids", expanding=True)))
    if choosy:
        wanted = wanted.where(command.c.account.not_in(bindparam("without", expanding=True)))
    found = wanted.cte("found")
    turn = (
        select(
            found.c.seq,
            func.row_number()
            .over(partition_by=(found.c.account, found.c.order_id), order_by=found.c.turn)
            .label("place"),
        )
        .select_from(found)
        .subquery("turns")
    )
    chosen = select(turn.c.seq).where(turn.c.place == literal_column("1"))

    return (
        update(command)
        .where(command.c.seq.in_(chosen))
        .values(
            state=literal_column(f"'{State.EXECUTING}'"),
            claims=command.c.claims + literal_column("1"),
            lease_until=bindparam("lease_until", type_=UtcDateTime()),
            published_until=None,
        )
        .returning(*_HELD_COLUMNS)
    )


# --- send --------------------------------------------------------------------------------------------------


@cache
def _note_attempts(dialect: str) -> Insert:
    """Write intents."""
    return _from_rows(insert(attempt), attempt, dialect)


@cache
def _open_attempts(dialect: str) -> Update:
    """Count the send and start the key's clock, where the lease is still ours."""
    given = records(dialect, {"id": Uuid(), "claims": Integer()})

    return (
        update(command)
        .where(
            command.c.id == given.c.id,
            command.c.claims == given.c.claims,
            _unlit(f"post_purchase_command.{EXECUTING}"),
        )
        .values(
            attempts=command.c.attempts + literal_column("1"),
            first_sent_at=func.coalesce(command.c.first_sent_at, bindparam("now", type_=UtcDateTime())),
        )
        .returning(command.c.id, command.c.attempts, command.c.first_sent_at)
    )


# --- record ------------------------------------------------------------------------------------------------

_JSON = command.c.result.type


@cache
def _apply(dialect: str) -> Update:
    """Write transitions out of `executing`, where the fence matches; say which were written."""
    given = records(
        dialect,
        {
            "id": Uuid(),
            "claims": Integer(),
            "state": String(16),
            "failures": Integer(),
            "throttles": Integer(),
            "throttled_at": UtcDateTime(),
            "in_doubt": Boolean(),
            "due_at": UtcDateTime(),
            "published_until": UtcDateTime(),
            "result": _JSON,
            "problem": _JSON,
            "read_back": _JSON,
            "absent_at": UtcDateTime(),
            "finalized": Boolean(),
        },
    )

    return (
        update(command)
        .where(
            command.c.id == given.c.id,
            command.c.claims == given.c.claims,
            _unlit(f"post_purchase_command.{EXECUTING}"),
        )
        .values(
            state=given.c.state,
            failures=given.c.failures,
            throttles=given.c.throttles,
            throttled_at=given.c.throttled_at,
            in_doubt=given.c.in_doubt,
            due_at=func.coalesce(given.c.due_at, command.c.due_at),
            published_until=given.c.published_until,
            lease_until=None,
            result=given.c.result,
            problem=given.c.problem,
            read_back=given.c.read_back,
            absent_at=given.c.absent_at,
            finalized_at=case((given.c.finalized, bindparam("now", type_=UtcDateTime())), else_=None),
        )
        .returning(command.c.id)
    )


@cache
def _close_attempts(dialect: str) -> Insert:
    """Write what came of attempts; a second word on the same attempt is dropped."""
    construct = sqlite.insert if dialect == "sqlite" else postgresql.insert

    return _from_rows(construct(outcome), outcome, dialect).on_conflict_do_nothing()


def _from_rows(statement: _Inserts, into: Table, dialect: str) -> _Inserts:
    """Insert all rows of one parameter: a statement for each row would cost ten times as much."""
    columns = {column.name: column.type for column in into.c}
    given = records(dialect, columns)
    # SQLite takes ON CONFLICT after a SELECT for a join's condition, unless there is a WHERE.
    rows = select(*(given.c[name] for name in columns)).where(true())

    return statement.from_select(list(columns), rows)


@cache
def _known_outcomes() -> Select[Any]:
    """Read what is written of attempts already."""
    return select(outcome.c.command_id, outcome.c.number, outcome.c.outcome, outcome.c.correlation_id).where(
        outcome.c.command_id.in_(bindparam("ids", expanding=True)), ~outcome.c.late
    )


# --- tickets -----------------------------------------------------------------------------------------------


@cache
def _close_other_links(dialect: str) -> Update:
    """Unlink commands from tickets of another reason than the one they now have."""
    given = records(dialect, {"id": Uuid(), "reason": String(32)})
    same = select(ticket.c.id).where(ticket.c.id == ticket_command.c.ticket_id, ticket.c.reason == given.c.reason)

    return (
        update(ticket_command)
        .where(ticket_command.c.command_id == given.c.id, ticket_command.c.closed_at.is_(None), ~exists(same))
        .values(closed_at=bindparam("now", type_=UtcDateTime()))
        .returning(ticket_command.c.ticket_id)
    )


@cache
def _open_incident(dialect: str) -> Insert:
    """Open the incident of an account and a systemic reason unless one is open."""
    construct = sqlite.insert if dialect == "sqlite" else postgresql.insert

    return construct(ticket).on_conflict_do_nothing(
        index_elements=[ticket.c.account, ticket.c.reason], index_where=text(OPEN_INCIDENT)
    )


@cache
def _lock_incident() -> Select[Any]:
    """Find the open incident and keep it from being closed meanwhile."""
    return (
        select(ticket.c.id)
        .where(
            ticket.c.account == bindparam("account"),
            ticket.c.reason == bindparam("reason"),
            ticket.c.state != literal_column(f"'{TicketState.CLOSED}'"),
        )
        .with_for_update()
    )


@cache
def _lock_own_ticket() -> Select[Any]:
    """Find the open ticket of one command under one reason."""
    return (
        select(ticket.c.id)
        .join(ticket_command, ticket_command.c.ticket_id == ticket.c.id)
        .where(
            ticket_command.c.command_id == bindparam("command_id", type_=Uuid()),
            ticket_command.c.closed_at.is_(None),
            ticket.c.reason == bindparam("reason"),
        )
        .with_for_update(of=ticket)
    )


@cache
def _link(dialect: str) -> Insert:
    """Link a command to a ticket, or link it again: its desk must then be told again."""
    construct = sqlite.insert if dialect == "sqlite" else postgresql.insert

    return construct(ticket_command).on_conflict_do_update(
        index_elements=[ticket_command.c.ticket_id, ticket_command.c.command_id],
        set_={"announced_at": None, "closed_at": None},
    )


def _is_closed() -> ColumnElement[bool]:
    return ticket.c.state == literal_column(f"'{TicketState.CLOSED}'")


@cache
def _ticket_must_tell() -> Update:
    """Have the desk told soon, unless that is planned already."""
    return (
        update(ticket)
        .where(ticket.c.id.in_(bindparam("ids", expanding=True)), ticket.c.due_at.is_(None))
        .values(due_at=bindparam("now", type_=UtcDateTime()), published_until=None)
    )


@cache
def _close_links() -> Update:
    """Unlink decided commands, but from tickets of the reasons that are kept."""
    kept: Select[Any] = select(literal_column("1")).where(
        ticket.c.id == ticket_command.c.ticket_id, ticket.c.reason.in_(bindparam("kept", expanding=True))
    )

    return (
        update(ticket_command)
        .where(
            ticket_command.c.command_id.in_(bindparam("ids", expanding=True)),
            ticket_command.c.closed_at.is_(None),
            ~exists(kept),
        )
        .values(closed_at=bindparam("now", type_=UtcDateTime()))
        .returning(ticket_command.c.ticket_id)
    )


@cache
def _lock_tickets() -> Select[Any]:
    """Keep others from linking to tickets that may be about to close."""
    return (
        select(ticket.c.id)
        .where(ticket.c.id.in_(bindparam("ids", expanding=True)))
        .order_by(ticket.c.id)
        .with_for_update()
    )


@cache
def _close_empty_tickets() -> Update:
    """Close tickets in which every command has been decided, and have that told where somebody may have heard of them.

    Nobody has where the desk gave no reference and no worker is telling it, or died over that. A lease stays: until it
    has run out, a desk may yet be told of what was still open.
    """
    was_told = or_(ticket.c.external_ref.is_not(None), ticket.c.lease_until.is_not(None))
    still_open = exists(
        select(literal_column("1"))
        .select_from(ticket_command)
        .where(ticket_command.c.ticket_id == ticket.c.id, ticket_command.c.closed_at.is_(None))
    )

    return (
        update(ticket)
        .where(
            ticket.c.id.in_(bindparam("ids", expanding=True)),
            ticket.c.state != literal_column(f"'{TicketState.CLOSED}'"),
            ~still_open,
        )
        .values(
            state=literal_column(f"'{TicketState.CLOSED}'"),
            closed_at=bindparam("now", type_=UtcDateTime()),
            due_at=case((was_told, bindparam("now", type_=UtcDateTime())), else_=None),
        )
    )


# --- dispatch and sweep ------------------------------------------------------------------------------------


@cache
def _handed_out() -> Select[Any]:
    """Count due rows that were handed to the broker and not claimed yet, as far as the window reaches."""
    rows = (
        select(literal_column("1"))
        .select_from(command)
        .where(
            _pending(),
            command.c.due_at <= bindparam("now", type_=UtcDateTime()),
            command.c.published_until > bindparam("now", type_=UtcDateTime()),
        )
        .limit(bindparam("window", type_=Integer()))
        .subquery("handed_out")
    )

    return select(func.count()).select_from(rows)


@cache
def _take_due(dialect: str) -> Update:
    """Mark due rows as handed out: those nobody was told of, and those whose message should have arrived."""
    until = bindparam("until", type_=UtcDateTime())
    found = (
        select(command.c.seq)
        .where(
            _pending(),
            command.c.due_at <= bindparam("before", type_=UtcDateTime()),
            or_(
                command.c.published_until.is_(None),
                command.c.published_until <= bindparam("now", type_=UtcDateTime()),
            ),
            ~_is_held_back(),
            ~_is_paused(dialect),
        )
        .order_by(command.c.due_at, command.c.seq)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True, of=command)
        .cte("found")
    )
    due = command.c.due_at
    later = _moved(dialect, due, bindparam("published_for_seconds"))

    return (
        update(command)
        .where(command.c.seq.in_(select(found.c.seq)))
        .values(published_until=case((due > bindparam("now", type_=UtcDateTime()), later), else_=until))
        .returning(
            command.c.id,
            command.c.account,
            command.c.kind,
            command.c.order_id,
            command.c.failures,
            command.c.due_at,
        )
    )


def _moved(dialect: str, moment: ColumnElement[Any], seconds: ColumnElement[Any]) -> ColumnElement[Any]:
    """A stored moment moved by a number of seconds."""
    if dialect == "sqlite":
        by = func.printf("%+.3f seconds", seconds)

        return type_coerce(func.strftime("%Y-%m-%d %H:%M:%f000", moment, by), UtcDateTime())

    return type_coerce(moment + func.make_interval(0, 0, 0, 0, 0, 0, seconds), UtcDateTime())


@cache
def _take_expired() -> Select[Any]:
    """Lock commands whose lease has run out, and say whether a send was begun under that lease."""
    opened = exists(
        select(literal_column("1"))
        .select_from(attempt)
        .where(attempt.c.command_id == command.c.id, attempt.c.claim == command.c.claims)
    )

    return (
        select(*_HELD_COLUMNS, opened.label("unanswered"))
        .where(
            _unlit(f"post_purchase_command.{EXECUTING}"),
            command.c.lease_until < bindparam("now", type_=UtcDateTime()),
        )
        .order_by(command.c.lease_until)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True, of=command)
    )


@cache
def _due_tickets() -> Update:
    """Mark tickets that their desk must be told of as handed out."""
    now = bindparam("now", type_=UtcDateTime())
    found = (
        select(ticket.c.id)
        .where(
            _unlit(f"post_purchase_ticket.{TICKET_DUE}"),
            ticket.c.due_at <= now,
            or_(ticket.c.published_until.is_(None), ticket.c.published_until <= now),
            or_(ticket.c.lease_until.is_(None), ticket.c.lease_until <= now),
        )
        .order_by(ticket.c.due_at)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("found")
    )

    return (
        update(ticket)
        .where(ticket.c.id.in_(select(found.c.id)))
        .values(published_until=bindparam("until", type_=UtcDateTime()))
        .returning(ticket.c.id, ticket.c.account, ticket.c.reason)
    )


@cache
def _next_moments() -> CompoundSelect[Any]:
    """When the first command, lease and ticket become due that are not yet, or are handed out and not taken."""
    now = bindparam("now", type_=UtcDateTime())
    untold = exists(
        select(literal_column("1"))
        .select_from(ticket_command)
        .where(
            ticket_command.c.ticket_id == ticket.c.id,
            ticket_command.c.closed_at.is_(None),
            ticket_command.c.announced_at.is_(None),
        )
    )

    return union_all(
        select(func.min(command.c.due_at, type_=UtcDateTime())).where(
            _pending(), command.c.due_at > now, ~_is_held_back()
        ),
        select(func.min(command.c.published_until, type_=UtcDateTime())).where(
            _pending(), command.c.due_at <= now, command.c.published_until > now, ~_is_held_back()
        ),
        select(func.min(command.c.lease_until, type_=UtcDateTime())).where(
            _unlit(f"post_purchase_command.{EXECUTING}")
        ),
        *(
            select(func.min(moment, type_=UtcDateTime())).where(
                _unlit(f"post_purchase_ticket.{TICKET_DUE}"), moment > now, or_(_is_closed(), untold)
            )
            for moment in (ticket.c.due_at, ticket.c.published_until, ticket.c.lease_until)
        ),
    )


# --- pauses --------------------------------------------------------------------------------------------------


@cache
def _begin_pause(dialect: str) -> Insert:
    """Pause unless that is so already for this cause."""
    construct = sqlite.insert if dialect == "sqlite" else postgresql.insert

    return (
        construct(pause)
        .on_conflict_do_nothing(
            index_elements=[pause.c.account, pause.c.kind, pause.c.cause], index_where=text(OPEN_PAUSE)
        )
        .returning(pause.c.seq)
    )


@cache
def _end_pauses() -> Update:
    """End open pauses of one account and kind."""
    return (
        update(pause)
        .where(
            pause.c.account == bindparam("of_account"),
            pause.c.kind == bindparam("of_kind"),
            pause.c.cause.in_(bindparam("causes", expanding=True)),
            _unlit(f"post_purchase_pause.{OPEN_PAUSE}"),
        )
        .values(
            ended_at=bindparam("now", type_=UtcDateTime()),
            ended_by=bindparam("by_whom"),
            ended_why=bindparam("reason"),
            probe_at=None,
        )
        .returning(pause.c.cause)
    )


@cache
def _due_probes() -> Select[Any]:
    """Lock the pauses that are to be probed, with an order of theirs of which something waits.

    With a person for refused credentials is waiting too: it is sent again when the pause ends.
    """
    waiting = (
        select(command.c.order_id)
        .where(_pending(), command.c.account == pause.c.account)
        .order_by(command.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    with_a_person = (
        select(command.c.order_id)
        .where(
            _unlit(f"post_purchase_command.{IS_UNFINISHED}"),
            command.c.account == pause.c.account,
            pause.c.cause == literal_column(f"'{Cause.CREDENTIALS}'"),
        )
        .order_by(command.c.order_id)
        .limit(1)
        .scalar_subquery()
    )
    order_id = func.coalesce(waiting, with_a_person).label("order_id")

    return (
        select(pause.c.seq, pause.c.account, pause.c.kind, pause.c.cause, pause.c.probes, order_id)
        .where(
            _unlit(f"post_purchase_pause.{OPEN_PAUSE}"),
            pause.c.probe_at <= bindparam("now", type_=UtcDateTime()),
            pause.c.account.in_(bindparam("accounts", expanding=True)),
        )
        .with_for_update(skip_locked=True, of=pause)
    )


@cache
def _take_escalated() -> Select[Any]:
    """Lock escalated commands of one account whose open ticket has one reason."""
    return (
        select(*_COMMAND_COLUMNS)
        .join(ticket_command, ticket_command.c.command_id == command.c.id)
        .join(ticket, ticket.c.id == ticket_command.c.ticket_id)
        .where(
            ticket_command.c.closed_at.is_(None),
            ticket.c.reason == bindparam("reason"),
            command.c.account == bindparam("account"),
            _unlit(f"post_purchase_command.{IS_UNFINISHED}"),  # lets SQLite use the index that has only these
            command.c.state == literal_column(f"'{State.ESCALATED}'"),
        )
        .order_by(command.c.seq)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True, of=command)
    )


# --- escalate ----------------------------------------------------------------------------------------------


@cache
def _claim_ticket() -> Update:
    """Take the lease on a ticket that its desk must be told of, also of its closing."""
    now = bindparam("now", type_=UtcDateTime())

    return (
        update(ticket)
        .where(
            ticket.c.id == bindparam("ticket_id", type_=Uuid()),
            ticket.c.due_at <= now,
            or_(ticket.c.lease_until.is_(None), ticket.c.lease_until <= now),
        )
        .values(lease_until=bindparam("until", type_=UtcDateTime()), published_until=None)
        .returning(*ticket.c)
    )


@cache
def _untold_commands() -> Select[Any]:
    """Read the commands of a ticket that its desk has not been told of, oldest first."""
    return (
        select(*_COMMAND_COLUMNS)
        .join(ticket_command, ticket_command.c.command_id == command.c.id)
        .where(
            ticket_command.c.ticket_id == bindparam("ticket_id", type_=Uuid()),
            ticket_command.c.closed_at.is_(None),
            ticket_command.c.announced_at.is_(None),
        )
        .order_by(command.c.seq)
        .limit(bindparam("limit", type_=Integer()))
    )


@cache
def _open_links() -> Select[Any]:
    """Count the undecided commands of a ticket."""
    return select(func.count()).where(
        ticket_command.c.ticket_id == bindparam("ticket_id", type_=Uuid()), ticket_command.c.closed_at.is_(None)
    )


@cache
def _tell() -> Update:
    """Note that the desk has been told of these commands."""
    return (
        update(ticket_command)
        .where(
            ticket_command.c.ticket_id == bindparam("of_ticket", type_=Uuid()),
            ticket_command.c.command_id.in_(bindparam("ids", expanding=True)),
        )
        .values(announced_at=bindparam("now", type_=UtcDateTime()))
    )


#: What operators do that ends a command; the others have it sent or read again.
_DECIDING_VERBS = ("amend", "cancel", "resolve")


@cache
def _endings() -> Subquery:
    """How each command of a closed ticket ended, and whether an operator decided it, at the moment at which it left."""
    decided_later = or_(command.c.finalized_at.is_(None), command.c.finalized_at > ticket_command.c.closed_at)
    by_operator = exists(
        select(literal_column("1"))
        .select_from(action)
        .where(
            action.c.command_id == ticket_command.c.command_id,
            action.c.at == ticket_command.c.closed_at,
            action.c.verb.in_([literal_column(f"'{verb}'") for verb in _DECIDING_VERBS]),
        )
    )

    return (
        select(
            ticket_command.c.command_id,
            ticket_command.c.closed_at,
            command.c.seq,
            command.c.kind,
            command.c.order_id,
            command.c.reference,
            command.c.amount,
            case((decided_later, literal_column(f"'{MOVED}'")), else_=command.c.state).label("how"),
            by_operator.label("by_operator"),
        )
        .join(command, command.c.id == ticket_command.c.command_id)
        .where(ticket_command.c.ticket_id == bindparam("ticket_id", type_=Uuid()))
        .subquery("ended")
    )


@cache
def _count_endings() -> Select[Any]:
    """Count them, and say when the last of each sort left."""
    ended = _endings()

    return select(
        ended.c.how, ended.c.by_operator, func.count().label("size"), func.max(ended.c.closed_at).label("last_at")
    ).group_by(ended.c.how, ended.c.by_operator)


@cache
def _first_endings() -> Select[Any]:
    """Read the first of them."""
    ended = _endings()
    columns = (ended.c.command_id, ended.c.kind, ended.c.order_id, ended.c.reference, ended.c.amount)

    return (
        select(*columns, ended.c.how, ended.c.by_operator)
        .order_by(ended.c.seq)
        .limit(bindparam("limit", type_=Integer()))
    )


# --- tell the host -----------------------------------------------------------------------------------------


def _is_untold() -> ColumnElement[bool]:
    return _unlit(f"post_purchase_command.{IS_UNTOLD.replace(' AND ', ' AND post_purchase_command.')}")


@cache
def _take_untold() -> Update:
    """Mark the final command that has waited longest as told to the host, skipping what others are telling."""
    found = (
        select(command.c.seq)
        .where(
            _is_untold(),
            command.c.tell_at <= bindparam("now", type_=UtcDateTime()),
        )
        .order_by(command.c.tell_at, command.c.seq)
        .limit(literal_column("1"))
        .with_for_update(skip_locked=True, of=command)
        .cte("found")
    )

    return (
        update(command)
        .where(command.c.seq.in_(select(found.c.seq)))
        .values(tell_at=None, told_at=bindparam("now", type_=UtcDateTime()))
        .returning(*_COMMAND_COLUMNS)
    )


# --- prune -------------------------------------------------------------------------------------------------


def _is_prunable() -> ColumnElement[bool]:
    """Whether a command ended early enough, and nobody waits for it; what is final is never in doubt."""
    other = command.alias("other")
    # A ticket that is closed may still have to be told to its desk, with how its commands ended.
    link: Select[Any] = (
        select(literal_column("1"))
        .select_from(ticket_command.join(ticket, ticket.c.id == ticket_command.c.ticket_id))
        .where(
            ticket_command.c.command_id == command.c.id,
            or_(_unlit(f"post_purchase_ticket_command.{OPEN_LINK}"), ticket.c.due_at.is_not(None)),
        )
    )
    # One that amends another is about the same order: that is the index by which it is found.
    replaced: Select[Any] = (
        select(literal_column("1"))
        .select_from(other)
        .where(
            other.c.account == command.c.account,
            other.c.order_id == command.c.order_id,
            _unlit(f"other.{IS_UNFINISHED}"),
            other.c.replaces == command.c.id,
        )
    )

    return and_(
        command.c.finalized_at < bindparam("before", type_=UtcDateTime()),
        command.c.tell_at.is_(None),
        ~exists(link),
        ~exists(replaced),
    )


@cache
def _prunable() -> Select[Any]:
    """Find commands that may be pruned, along their ids, which are of version 7: no index has the moment of an end."""
    return (
        select(command.c.id, command.c.account, command.c.state)
        .where(
            command.c.id > bindparam("after", type_=Uuid()),
            command.c.id < bindparam("until", type_=Uuid()),
            _is_prunable(),
        )
        .order_by(command.c.id)
        .limit(bindparam("limit", type_=Integer()))
    )


@cache
def _keep_keys(dialect: str) -> Insert:
    """Note the keys of final commands; one that is noted stays as it is."""
    construct = sqlite.insert if dialect == "sqlite" else postgresql.insert
    given = records(dialect, {"id": Uuid()})
    columns = [command.c[each.name] for each in kept_key.c]
    final = select(*columns).where(command.c.id.in_(select(given.c.id)), _unlit(f"post_purchase_command.{IS_FINAL}"))

    return construct(kept_key).from_select([each.name for each in kept_key.c], final).on_conflict_do_nothing()


#: Every transaction holds the lock on its own number from its beginning to its end, and everybody may see it.
_OPEN_TRANSACTIONS = text(
    "SELECT held.virtualtransaction FROM pg_locks AS held JOIN pg_stat_activity AS session ON session.pid = held.pid "
    "WHERE held.locktype = 'virtualxid' AND held.mode = 'ExclusiveLock' AND held.pid <> pg_backend_pid() "
    "AND session.usesysid IS NOT NULL "  # no vacuum, which goes on for hours and stores nothing
    "AND session.datid = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@cache
def _lock_commands(dialect: str) -> Select[Any]:
    """Lock commands, but for those that others hold."""
    given = records(dialect, {"id": Uuid()})

    return (
        select(command.c.id)
        .where(command.c.id.in_(select(given.c.id)))
        .order_by(command.c.id)
        .with_for_update(skip_locked=True, of=command)
    )


@cache
def _still_prunable(dialect: str) -> Select[Any]:
    """Say which of these may be pruned and have their keys kept."""
    given = records(dialect, {"id": Uuid()})
    kept: Select[Any] = select(literal_column("1")).where(kept_key.c.id == command.c.id)

    return (
        select(command.c.id)
        .where(command.c.id.in_(select(given.c.id)), _is_prunable(), exists(kept))
        .order_by(command.c.id)
    )


@cache
def _commands(dialect: str) -> Select[Any]:
    """Read commands by their ids."""
    given = records(dialect, {"id": Uuid()})

    return select(*_COMMAND_COLUMNS).where(command.c.id.in_(select(given.c.id))).order_by(command.c.seq)


#: What belongs to a command, by its name in the archive.
_BELONGINGS: Mapping[str, Table] = {"attempts": attempt, "outcomes": outcome, "readings": reading, "actions": action}


@cache
def _belonging(dialect: str, table: Table) -> Select[Any]:
    """Read what belongs to commands, as it is stored."""
    given = records(dialect, {"id": Uuid()})

    return select(*table.c).where(table.c.command_id.in_(select(given.c.id))).order_by(*table.primary_key)


@cache
def _tickets_of(dialect: str) -> Select[Any]:
    """Read the tickets of commands."""
    given = records(dialect, {"id": Uuid()})

    return (
        select(ticket_command.c.command_id, ticket_command.c.linked_at, *ticket.c)
        .join(ticket, ticket.c.id == ticket_command.c.ticket_id)
        .where(ticket_command.c.command_id.in_(select(given.c.id)))
        .order_by(ticket_command.c.linked_at)
    )


@cache
def _delete_belonging(dialect: str, table: Table) -> Delete:
    """Remove what belongs to commands."""
    given = records(dialect, {"id": Uuid()})

    return delete(table).where(table.c.command_id.in_(select(given.c.id)))


@cache
def _delete_empty_tickets() -> Delete:
    """Remove closed tickets in which no command is left."""
    left: Select[Any] = select(literal_column("1")).where(ticket_command.c.ticket_id == ticket.c.id)

    return delete(ticket).where(
        ticket.c.id.in_(bindparam("ids", expanding=True)),
        ticket.c.state == literal_column(f"'{TicketState.CLOSED}'"),
        ~exists(left),
    )


# --- look --------------------------------------------------------------------------------------------------


@cache
def _attempts() -> Select[Any]:
    """Read attempts with what came of them; a late answer is a second row of its attempt."""
    return (
        select(
            attempt.c.command_id,
            attempt.c.number,
            attempt.c.started_at,
            outcome.c.finished_at,
            outcome.c.outcome,
            outcome.c.status,
            outcome.c.code,
            outcome.c.correlation_id,
            func.coalesce(outcome.c.late, literal_column("false", Boolean())).label("late"),
        )
        .outerjoin(outcome, and_(outcome.c.command_id == attempt.c.command_id, outcome.c.number == attempt.c.number))
        .where(attempt.c.command_id.in_(bindparam("ids", expanding=True)))
        .order_by(attempt.c.command_id, attempt.c.number, outcome.c.late)
    )


@cache
def _readings() -> Select[Any]:
    """Read what read-backs told."""
    return (
        select(reading.c.command_id, reading.c.purpose, reading.c.verdict, reading.c.evidence, reading.c.read_at)
        .where(reading.c.command_id.in_(bindparam("ids", expanding=True)))
        .order_by(reading.c.command_id, reading.c.claim)
    )


class SqlTransaction:
    """One transaction; implements `ports.Transaction` on an open connection. The caller commits."""

    def __init__(self, connection: Connection, clock: Clock, *, tells_host: bool = False) -> None:
        self._connection = connection
        self._clock = clock
        self._tells_host = tells_host
        self._dialect = connection.dialect.name
        self._now: datetime | None = None

    @property
    def now(self) -> datetime:
        """Database time at which this transaction first asked for it."""
        if self._now is None:
            moment = self._connection.scalar(select(self._clock.expression(self._dialect)))
            assert moment is not None  # noqa: S101  # a clock always answers
            self._now = moment

        return self._now

    # enqueue

    def insert_commands(self, commands: Sequence[NewCommand], *, published_for: timedelta) -> set[UUID]:
        """Store the commands whose key is new to their account, pruned ones included; return the ids stored."""
        if not commands:
            return set()

        rows = [_new_row(each) for each in commands]
        statement = _insert_commands(self._dialect, self._clock, published_for, tells_host=self._tells_host)
        if self._dialect == "sqlite":
            stored = self._connection.execute(statement, rows if len(rows) > 1 else rows[0]).all()
        else:
            stored = self._connection.execute(statement, encode(self._dialect, rows)).all()
        known = [row.id for row in stored if row.kept_id is not None]
        self.delete_commands(known)

        return {row.id for row in stored}.difference(known)

    def find_by_key(self, keys: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], StoredCommand | PrunedCommand]:
        """Find commands by (account, idempotency key); of one that is pruned, what is kept of it."""
        if not keys:
            return {}

        found: dict[tuple[str, str], StoredCommand | PrunedCommand] = {}
        rows = self._connection.execute(_find_by_key(self._dialect), self._keys(keys))
        found.update({(each.account, each.idempotency_key): each for each in map(_stored, rows)})
        # In this order: a key is kept before its command goes, so that one of the two looks finds it.
        missing = [each for each in keys if each not in found]
        if missing:
            rows = self._connection.execute(_find_kept(self._dialect), self._keys(missing))
            found.update({(each.account, each.idempotency_key): each for each in map(_pruned, rows)})

        return found

    def _keys(self, keys: Collection[tuple[str, str]]) -> dict[str, str]:
        return encode(self._dialect, ({"account": name, "idempotency_key": key} for name, key in keys))

    def _ids(self, ids: Collection[UUID]) -> dict[str, str]:
        return encode(self._dialect, ({"id": each} for each in ids))

    def delete_commands(self, ids: Collection[UUID]) -> None:
        """Take back what this same transaction inserted."""
        if ids:
            self._connection.execute(_delete_commands(self._dialect), self._ids(ids))

    # execute

    def claim(
        self, ids: Sequence[UUID] | None, *, limit: int, lease: timedelta, without: Collection[str] = ()
    ) -> Sequence[Held]:
        """Take the lease on due commands: of `ids`, or of whatever is due. At most one per order."""
        given: dict[str, Any] = {"now": self.now, "limit": limit, "lease_until": self.now + lease}
        if ids is not None:
            given["ids"] = list(ids)
        if without:
            given["without"] = sorted(without)

        return [
            _held(row) for row in self._connection.execute(_claim(self._dialect, ids is not None, bool(without)), given)
        ]

    def open_attempts(self, held: Sequence[Held], *, holder: str) -> Sequence[Held]:
        """Write the intents of those whose lease is still ours; return them with `attempt` and `first_sent_at`."""
        if not held:
            return []

        given = encode(self._dialect, ({"id": each.id, "claims": each.claims} for each in held))
        found = self._connection.execute(_open_attempts(self._dialect), {**given, "now": self.now})
        counted = {row.id: row for row in found}
        opened = [
            _with_attempt(each, number=row.attempts, first_sent_at=row.first_sent_at)
            for each in held
            if (row := counted.get(each.id)) is not None
        ]
        if opened:
            rows = (
                {
                    "command_id": each.id,
                    "number": each.attempt,
                    "claim": each.claims,
                    "holder": holder,
                    "started_at": self.now,
                }
                for each in opened
            )
            self._connection.execute(_note_attempts(self._dialect), encode(self._dialect, rows))

        return opened

    def apply(self, moves: Sequence[Move]) -> set[UUID]:
        """Write transitions out of `executing`, each only where the fence still matches; return the ids written."""
        if not moves:
            return set()

        given = encode(self._dialect, (_move_row(each) for each in moves))

        return set(self._connection.scalars(_apply(self._dialect), {**given, "now": self.now}))

    def close_attempts(self, endings: Sequence[Ending], *, late: bool = False) -> None:
        """Write what came of attempts. `late` marks an answer that arrived after the lease was lost."""
        rows = [_ending_row(each, late=late) for each in endings]
        if late and rows:
            rows = self._unknown(rows)
        if rows:
            self._connection.execute(_close_attempts(self._dialect), encode(self._dialect, rows))

    def _unknown(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out what is written on time already: the commit that wrote it was done, its confirmation was lost."""
        known = {
            tuple(row) for row in self._connection.execute(_known_outcomes(), {"ids": [r["command_id"] for r in rows]})
        }

        return [
            row
            for row in rows
            if (row["command_id"], row["number"], row["outcome"], row["correlation_id"]) not in known
        ]

    def note_readings(self, readings: Sequence[Reading]) -> None:
        """Write what the reads of read-backs told."""
        if readings:
            self._connection.execute(
                insert(reading),
                [
                    {
                        "command_id": each.held.id,
                        "claim": each.held.claims,
                        "purpose": each.purpose.value,
                        "verdict": each.verdict,
                        "evidence": each.evidence,
                        "read_at": each.read_at,
                    }
                    for each in readings
                ],
            )

    def link_tickets(self, escalations: Sequence[Escalation], *, desk: str) -> Sequence[UUID]:
        """Link each command to exactly one open ticket, opening it where needed; return the tickets touched."""
        if not escalations:
            return []

        given = encode(self._dialect, ({"id": each.command_id, "reason": each.reason} for each in escalations))
        left = self._connection.scalars(_close_other_links(self._dialect), {**given, "now": self.now}).all()
        incidents: dict[tuple[str, Reason], UUID] = {}
        links: list[dict[str, Any]] = []
        # In one order everywhere: two processes that open the same incidents must not wait for each other.
        for each in sorted(escalations, key=lambda one: (one.account, one.reason, one.command_id)):
            cause = (each.account, each.reason)
            if each.reason not in SYSTEMIC:
                ticket_id = self._own_ticket(each, desk)
            elif cause in incidents:
                ticket_id = incidents[cause]
            else:
                ticket_id = incidents[cause] = self._incident(each, desk)
            links.append({"ticket_id": ticket_id, "command_id": each.command_id, "linked_at": self.now})
        self._connection.execute(_link(self._dialect), links)
        touched = list(dict.fromkeys(each["ticket_id"] for each in links))
        self._connection.execute(_ticket_must_tell(), {"ids": touched, "now": self.now})
        self._close_tickets(left)

        return touched

    def _incident(self, escalation: Escalation, desk: str) -> UUID:
        """Find or open the incident; repeated, because another may close it in between."""
        while True:
            self._connection.execute(_open_incident(self._dialect), self._ticket_row(escalation, desk))
            found: UUID | None = self._connection.scalar(
                _lock_incident(), {"account": escalation.account, "reason": escalation.reason.value}
            )
            if found is not None:
                return found

    def _own_ticket(self, escalation: Escalation, desk: str) -> UUID:
        found: UUID | None = self._connection.scalar(
            _lock_own_ticket(), {"command_id": escalation.command_id, "reason": escalation.reason.value}
        )
        if found is not None:
            return found

        row = self._ticket_row(escalation, desk)
        self._connection.execute(insert(ticket), row)

        return cast("UUID", row["id"])

    def _ticket_row(self, escalation: Escalation, desk: str) -> dict[str, Any]:
        return {
            "id": new_id(),
            "account": escalation.account,
            "reason": escalation.reason.value,
            "is_incident": escalation.reason in SYSTEMIC,
            "state": TicketState.UNSENT.value,
            "desk": desk,
            "opened_at": self.now,
            "due_at": self.now,
            "tries": 0,
        }

    def close_links(self, command_ids: Collection[UUID], *, kept: Collection[Reason] = ()) -> None:
        """Unlink decided commands, but not from tickets of the reasons `kept`; one without open links is closed."""
        if command_ids:
            given = {"ids": list(command_ids), "kept": list(kept), "now": self.now}
            left = self._connection.scalars(_close_links(), given).all()
            self._close_tickets(left)

    def _close_tickets(self, ticket_ids: Collection[UUID]) -> None:
        if ticket_ids:
            ids = sorted(set(ticket_ids))
            self._connection.execute(_lock_tickets(), {"ids": ids})
            self._connection.execute(_close_empty_tickets(), {"ids": ids, "now": self.now})

    # dispatch and sweep

    def take_due(self, *, limit: int, window: int, horizon: timedelta, published_for: timedelta) -> Sequence[Due]:
        """Mark due rows as handed out and return them; never more than `window` handed out and unclaimed."""
        waiting = self._connection.scalar(_handed_out(), {"now": self.now, "window": window}) or 0
        free = min(limit, window - waiting)
        if free <= 0:
            return []

        rows = self._connection.execute(
            _take_due(self._dialect),
            {
                "now": self.now,
                "before": self.now + horizon,
                "until": self.now + published_for,
                "published_for_seconds": published_for.total_seconds(),
                "limit": free,
            },
        )

        return sorted((Due(**row._mapping) for row in rows), key=lambda due: due.due_at)  # noqa: SLF001  # public in SQLAlchemy

    def take_expired(self, *, limit: int) -> Sequence[Expired]:
        """Lock commands whose lease has run out."""
        rows = self._connection.execute(_take_expired(), {"now": self.now, "limit": limit})

        return [Expired(**_held_fields(row), unanswered=bool(row.unanswered)) for row in rows]

    def begin_pause(self, new: Pause) -> bool:
        """Pause an account, or a kind of it; False when it is paused already for this cause."""
        written = self._connection.scalar(
            _begin_pause(self._dialect),
            {
                "account": new.account,
                "kind": new.kind,
                "cause": new.cause.value,
                "by": new.by,
                "why": new.why,
                "began_at": self.now,
                "edge_seconds": new.edge.total_seconds(),
                "probe_at": new.probe_at,
                "probes": 0,
            },
        )

        return written is not None

    def end_pauses(self, account: str, *, kind: str, causes: Collection[Cause], by: str, why: str) -> Sequence[Cause]:
        """End open pauses; return the causes of those that were ended."""
        given = {
            "of_account": account,
            "of_kind": kind,
            "causes": sorted(causes),
            "now": self.now,
            "by_whom": by,
            "reason": why,
        }

        return [Cause(each) for each in self._connection.scalars(_end_pauses(), given)]

    def pauses(self) -> Sequence[tuple[Pause, datetime]]:
        """Read the open pauses, each with when it began, oldest first."""
        rows = self._connection.execute(
            select(pause).where(_unlit(f"post_purchase_pause.{OPEN_PAUSE}")).order_by(pause.c.seq)
        )

        return [
            (
                Pause(
                    account=row.account,
                    kind=row.kind,
                    cause=Cause(row.cause),
                    by=row.by,
                    why=row.why,
                    edge=timedelta(seconds=row.edge_seconds),
                    probe_at=row.probe_at,
                ),
                row.began_at,
            )
            for row in rows
        ]

    def take_probes(self, accounts: Collection[str], *, every: timedelta, cap: timedelta) -> list[Probe]:
        """Take the probes that are due, of accounts of which something waits; each is due again after a longer wait."""
        taken = []
        for row in self._connection.execute(_due_probes(), {"now": self.now, "accounts": sorted(accounts)}).all():
            if row.order_id is None:
                continue
            wait = min(cap, every * 2 ** min(row.probes, 30))
            self._connection.execute(
                update(pause)
                .where(pause.c.seq == row.seq)
                .values(probes=pause.c.probes + literal_column("1"), probe_at=self.now + wait)
            )
            taken.append(Probe(account=row.account, kind=row.kind, cause=Cause(row.cause), order_id=row.order_id))

        return taken

    def take_escalated(self, account: str, reason: Reason, *, limit: int) -> Sequence[StoredCommand]:
        """Lock escalated commands whose open ticket has this reason."""
        given = {"account": account, "reason": reason.value, "limit": limit}

        return [_stored(row) for row in self._connection.execute(_take_escalated(), given)]

    def due_tickets(self, *, limit: int, published_for: timedelta) -> Sequence[tuple[UUID, str]]:
        """Mark tickets that must be told to their desk as handed out; return (ticket id, label)."""
        rows = self._connection.execute(
            _due_tickets(), {"now": self.now, "until": self.now + published_for, "limit": limit}
        )

        return [(row.id, f"ticket {row.id} {row.reason} {row.account}") for row in rows]

    # escalate

    def claim_ticket(self, ticket_id: UUID, *, lease: timedelta, cases: int) -> TicketWork | None:
        """Take the lease on a ticket that has something to tell; None when there is nothing to do now."""
        found = self._connection.execute(
            _claim_ticket(), {"ticket_id": ticket_id, "now": self.now, "until": self.now + lease}
        ).one_or_none()
        if found is None:
            return None
        if found.closed_at is not None:
            return self._closing_work(found, cases)

        rows = self._connection.execute(_untold_commands(), {"ticket_id": ticket_id, "limit": cases + 1}).all()
        commands = tuple(_stored(row) for row in rows[:cases])
        if not commands:
            self._update_ticket(ticket_id, due_at=None, lease_until=None)
            return None

        return TicketWork(
            ticket_id=ticket_id,
            account=found.account,
            reason=Reason(found.reason),
            opened_at=found.opened_at,
            desk=found.desk,
            external_ref=found.external_ref,
            tries=found.tries,
            commands=commands,
            attempts=self.attempts([each.id for each in commands]),
            readings=self.readings([each.id for each in commands]),
            total=self._connection.scalar(_open_links(), {"ticket_id": ticket_id}) or 0,
            more=len(rows) > cases,
        )

    def _closing_work(self, closed: Any, cases: int) -> TicketWork:
        counted = self._connection.execute(_count_endings(), {"ticket_id": closed.id}).all()
        first = self._connection.execute(_first_endings(), {"ticket_id": closed.id, "limit": cases})
        counts: dict[str, int] = {}
        for row in counted:
            counts[row.how] = counts.get(row.how, 0) + row.size

        return TicketWork(
            ticket_id=closed.id,
            account=closed.account,
            reason=Reason(closed.reason),
            opened_at=closed.opened_at,
            desk=closed.desk,
            external_ref=closed.external_ref,
            tries=closed.tries,
            commands=(),
            attempts={},
            readings={},
            total=sum(counts.values()),
            more=False,
            closing=Closing(
                closed_at=closed.closed_at,
                by_operator=any(row.by_operator and row.last_at == closed.closed_at for row in counted),
                counts=counts,
                decided_by_operator=sum(row.size for row in counted if row.by_operator),
                first=tuple(Ended(**row._mapping) for row in first),  # noqa: SLF001  # public in SQLAlchemy
            ),
        )

    def land_ticket(self, work: TicketWork, *, desk: str, external_ref: str, next_in: timedelta) -> None:
        """The desk took it: mark its cases announced; the rest follows after `next_in`.

        A ticket that closed meanwhile is due at once: the desk must hear of that last. With the closing all is told.
        """
        landed = {"tries": 0, "problem": None, "lease_until": None, "published_until": None}
        if work.closing is not None:
            self._update_ticket(work.ticket_id, due_at=None, **landed)
            return

        told = {"of_ticket": work.ticket_id, "ids": [each.id for each in work.commands], "now": self.now}
        self._connection.execute(_tell(), told)
        self._update_ticket(
            work.ticket_id,
            state=case((_is_closed(), ticket.c.state), else_=TicketState.OPEN.value),
            desk=desk,
            external_ref=external_ref,
            due_at=case((_is_closed(), _moment(self.now)), else_=_moment(self.now + next_in)),
            **landed,
        )

    def postpone_ticket(self, work: TicketWork, *, retry_in: timedelta, problem: str) -> None:
        """The desk did not take it: try again later, unless it closed meanwhile and nobody ever heard of it."""
        unheard_of = and_(_is_closed(), ticket.c.external_ref.is_(None))
        later = _moment(self.now + retry_in)
        self._update_ticket(
            work.ticket_id,
            tries=ticket.c.tries + 1,
            problem=problem[:_PROBLEM_CHARACTERS],
            lease_until=None,
            due_at=later if work.closing is not None else case((unheard_of, None), else_=later),
            published_until=None,
        )

    def _update_ticket(self, ticket_id: UUID, **values: Any) -> None:
        self._connection.execute(update(ticket).where(ticket.c.id == ticket_id).values(**values))

    # tell the host

    def take_untold(self) -> StoredCommand | None:
        """Mark one final command as told to the host and return it; None when there is none to tell now."""
        row = self._connection.execute(_take_untold(), {"now": self.now}).one_or_none()

        return None if row is None else _stored(row)

    def oldest_untold(self) -> datetime | None:
        """When the final command ended that waits longest for the host to be told."""
        oldest: datetime | None = self._connection.scalar(
            select(func.min(command.c.finalized_at, type_=UtcDateTime())).where(_is_untold())
        )

        return oldest

    def tell_later(self, command_id: UUID, *, at: datetime) -> None:
        """Have the host told again from `at` on, because it could not be told."""
        still_untold = command.c.tell_at.is_not(None)
        self._connection.execute(update(command).where(command.c.id == command_id, still_untold).values(tell_at=at))

    # prune

    def prunable(self, *, before: datetime, after: UUID | None, limit: int) -> Sequence[Prunable]:
        """Find commands that ended before a moment and that nobody waits for, in the order of their ids."""
        made_by = int((before + _CLOCKS_DIFFER).timestamp() * 1000)
        given = {
            "before": before,
            "after": after or UUID(int=0),
            "until": uuid7(made_by, random_bytes=bytes(RANDOM_BYTES)),
            "limit": limit,
        }

        return [
            Prunable(id=row.id, account=row.account, state=State(row.state))
            for row in self._connection.execute(_prunable(), given)
        ]

    def keep_keys(self, ids: Collection[UUID]) -> None:
        """Note the keys of final commands for ever; the commands stay."""
        self._connection.execute(_keep_keys(self._dialect), self._ids(ids))

    def open_transactions(self) -> Collection[str]:
        """Name the transactions of others on this database that are open now; on SQLite no snapshot outlives a write.

        There, a transaction that has read before another wrote may not write any more.
        """
        return frozenset() if self._dialect == "sqlite" else frozenset(self._connection.scalars(_OPEN_TRANSACTIONS))

    def lock_prunable(self, ids: Collection[UUID], *, before: datetime) -> Sequence[UUID]:
        """Lock those whose keys are kept and that still may be pruned, but for what others hold."""
        held = self._connection.scalars(_lock_commands(self._dialect), self._ids(ids)).all()
        # What was read while others held the row may have changed since: from here on nothing refers to it anew.
        rows = self._connection.scalars(_still_prunable(self._dialect), {**self._ids(held), "before": before})

        return rows.all()

    def archived(self, ids: Collection[UUID]) -> Sequence[Mapping[str, Any]]:
        """Read all that is stored of commands, ready for JSON."""
        given = self._ids(ids)
        commands = {row.id: _plain(row) for row in self._connection.execute(_commands(self._dialect), given)}
        parts = {name: _belonging(self._dialect, table) for name, table in _BELONGINGS.items()}
        for name, statement in {**parts, "tickets": _tickets_of(self._dialect)}.items():
            for found in commands.values():
                found[name] = []
            for row in self._connection.execute(statement, given):
                line = _plain(row)
                del line["command_id"]
                commands[row.command_id][name].append(line)

        return list(commands.values())

    def prune(self, ids: Collection[UUID]) -> int:
        """Remove commands with all that belongs to them; return how many tickets went with them."""
        given = self._ids(ids)
        for table in (outcome, attempt, reading, action):
            self._connection.execute(_delete_belonging(self._dialect, table), given)
        links = _delete_belonging(self._dialect, ticket_command).returning(ticket_command.c.ticket_id)
        touched = sorted(set(self._connection.scalars(links, given)))
        emptied = 0
        if touched:
            emptied = self._connection.execute(_delete_empty_tickets(), {"ids": touched}).rowcount
        self._connection.execute(_delete_commands(self._dialect), given)

        return emptied

    def find_pruned(self, command_id: UUID) -> PrunedCommand | None:
        """Read what is kept of a command that was pruned."""
        still_there = exists(select(literal_column("1")).where(command.c.id == kept_key.c.id))
        row = self._connection.execute(
            select(*kept_key.c).where(kept_key.c.id == command_id, ~still_there)
        ).one_or_none()

        return None if row is None else _pruned(row)

    # operate

    def lock_command(self, command_id: UUID) -> StoredCommand | None:
        """Read a command and keep others from changing it until this transaction ends."""
        row = self._connection.execute(
            select(*_COMMAND_COLUMNS).where(command.c.id == command_id).with_for_update()
        ).one_or_none()

        return None if row is None else _stored(row)

    def operate(self, stored: StoredCommand, transition: Transition, done: Action) -> bool:
        """Write an operator's transition where state and fence are still those of `stored`; keep the action."""
        values: dict[str, Any] = {
            "state": transition.to.value,
            "failures": transition.failures,
            "throttles": transition.throttles,
            "throttled_at": transition.throttled_at,
            "in_doubt": transition.in_doubt,
            "published_until": None,
            "result": None if transition.result is None else dict(transition.result),
            "problem": _problem_json(transition.problem),
            "read_back": _read_back_json(transition.read_back),
            "absent_at": transition.absent_at,
            "finalized_at": self.now if transition.finalized else None,
        }
        if transition.due_at is not None:
            values["due_at"] = transition.due_at
        written = self._connection.execute(
            update(command)
            .where(
                command.c.id == stored.id,
                command.c.state == stored.state.value,
                command.c.claims == stored.claims,
            )
            .values(**values)
        )
        if written.rowcount != 1:
            return False

        self.note_action(done)

        return True

    def note_action(self, done: Action) -> None:
        """Keep an operator's action."""
        self._connection.execute(
            insert(action),
            {**asdict(done), "state_before": done.state_before.value, "at": self.now},
        )

    # look

    def find(self, command_id: UUID) -> StoredCommand | None:
        """Read a command."""
        row = self._connection.execute(select(*_COMMAND_COLUMNS).where(command.c.id == command_id)).one_or_none()

        return None if row is None else _stored(row)

    def listed(self, wanted: Filter, *, limit: int) -> Sequence[StoredCommand]:
        """Read commands, newest first."""
        given = {
            command.c.state: None if wanted.state is None else wanted.state.value,
            command.c.account: wanted.account,
            command.c.order_id: wanted.order_id,
            command.c.kind: wanted.kind,
            command.c.in_doubt: wanted.in_doubt,
        }
        conditions = [column == value for column, value in given.items() if value is not None]
        rows = self._connection.execute(
            select(*_COMMAND_COLUMNS).where(true(), *conditions).order_by(command.c.seq.desc()).limit(limit)
        )

        return [_stored(row) for row in rows]

    def attempts(self, command_ids: Collection[UUID]) -> Mapping[UUID, Sequence[AttemptLine]]:
        """Read the attempts of commands in order; a late answer follows the attempt it belongs to."""
        lines: dict[UUID, list[AttemptLine]] = {each: [] for each in command_ids}
        if lines:
            for row in self._connection.execute(_attempts(), {"ids": list(lines)}):
                fields = dict(row._mapping)  # noqa: SLF001  # public in SQLAlchemy
                lines[fields.pop("command_id")].append(AttemptLine(**fields))

        return lines

    def readings(self, command_ids: Collection[UUID]) -> Mapping[UUID, Sequence[ReadingLine]]:
        """Read what the read-backs of commands told, oldest first."""
        lines: dict[UUID, list[ReadingLine]] = {each: [] for each in command_ids}
        if lines:
            for row in self._connection.execute(_readings(), {"ids": list(lines)}):
                fields = dict(row._mapping)  # noqa: SLF001  # public in SQLAlchemy
                lines[fields.pop("command_id")].append(ReadingLine(**fields))

        return lines

    def tickets(self, *, command_id: UUID | None = None, open_only: bool = False, limit: int) -> Sequence[TicketLine]:
        """Read tickets, newest first."""
        size = (
            select(func.count())
            .select_from(ticket_command)
            .where(ticket_command.c.ticket_id == ticket.c.id)
            .scalar_subquery()
        )
        columns = (ticket.c.id, ticket.c.account, ticket.c.reason, ticket.c.state, ticket.c.desk)
        times = (ticket.c.external_ref, ticket.c.opened_at, ticket.c.closed_at, ticket.c.problem)
        query = select(*columns, *times, size.label("commands")).order_by(ticket.c.opened_at.desc(), ticket.c.id.desc())
        if command_id is not None:
            linked = select(ticket_command.c.ticket_id).where(ticket_command.c.command_id == command_id)
            query = query.where(ticket.c.id.in_(linked))
        if open_only:
            query = query.where(ticket.c.state != TicketState.CLOSED.value)

        return [_ticket_line(row) for row in self._connection.execute(query.limit(limit))]

    def actions(self, command_id: UUID) -> Sequence[ActionLine]:
        """Read what operators did to a command, oldest first."""
        columns = (action.c.verb, action.c.by, action.c.why, action.c.state_before, action.c.at)
        rows = self._connection.execute(
            select(*columns).where(action.c.command_id == command_id).order_by(action.c.seq)
        )

        return [ActionLine(**row._mapping) for row in rows]  # noqa: SLF001  # public in SQLAlchemy

    def counts(self) -> Sequence[tuple[str, State, bool, int, int]]:
        """Count commands by (account, state, in doubt); with the sum of their amounts in minor units."""
        group = (command.c.account, command.c.state, command.c.in_doubt)
        rows = self._connection.execute(
            select(*group, func.count(), func.coalesce(func.sum(command.c.amount), 0)).group_by(*group).order_by(*group)
        )

        return [(account, State(state), doubt, count, int(total)) for account, state, doubt, count, total in rows]

    def first_sends_in_doubt(self) -> Mapping[str, datetime]:
        """When, by account, the longest-known command in doubt was first sent under its key: that key ends first."""
        oldest = func.min(command.c.first_sent_at, type_=UtcDateTime())
        rows = self._connection.execute(
            select(command.c.account, oldest)
            .where(_unlit(f"post_purchase_command.{IS_UNFINISHED}"), command.c.in_doubt, command.c.keyed)
            .group_by(command.c.account)
        )

        return {account: moment for account, moment in rows if moment is not None}

    def oldest_due_at(self) -> datetime | None:
        """When the longest-waiting due command became due: the age that tells whether anybody works."""
        oldest: datetime | None = self._connection.scalar(
            select(func.min(command.c.due_at, type_=UtcDateTime())).where(
                _pending(), command.c.due_at <= self.now, ~_is_held_back(), ~_is_paused(self._dialect)
            ),
            {"now": self.now},
        )

        return oldest

    def next_moment(self) -> datetime | None:
        """When the next thing becomes due by itself: a command, the end of a lease, a ticket; None: nothing does."""
        moments = self._connection.scalars(_next_moments(), {"now": self.now}).all()

        return min((each for each in moments if each is not None), default=None)


# --- rows and values ---------------------------------------------------------------------------------------


def _new_row(new: NewCommand) -> dict[str, Any]:
    return {
        "id": new.id,
        "account": new.account,
        "kind": new.kind,
        "order_id": new.order_id,
        "reference": new.reference,
        "target": new.target,
        "amount": new.amount,
        "keyed": new.keyed,
        "payload": new.payload,
        "fingerprint": new.fingerprint,
        "idempotency_key": new.idempotency_key,
        "replaces": new.replaces,
        "turn": new.turn,
        "trace_context": None if new.trace_context is None else dict(new.trace_context),
        "state": State.PENDING.value,
        "claims": 0,
        "attempts": 0,
        "failures": 0,
        "throttles": 0,
        "in_doubt": False,
        "not_before": new.due_at,
        "tell_from": new.tell_at,
        "published": new.published,
    }


def _stored(row: Any) -> StoredCommand:
    fields = dict(row._mapping)  # noqa: SLF001  # public in SQLAlchemy
    fields["state"] = State(fields["state"])
    fields["problem"] = _problem(fields["problem"])
    fields["read_back"] = _read_back(fields["read_back"])

    return StoredCommand(**fields)


def _pruned(row: Any) -> PrunedCommand:
    fields = dict(row._mapping)  # noqa: SLF001  # public in SQLAlchemy
    fields["state"] = State(fields["state"])

    return PrunedCommand(**fields)


def _plain(row: Any) -> dict[str, Any]:
    """A row as JSON has it. Bytes are text where they are; what is not becomes base64, under another name."""
    plain: dict[str, Any] = {}
    for name, value in row._mapping.items():  # noqa: SLF001  # public in SQLAlchemy
        match value:
            case bytes():
                try:
                    plain[name] = value.decode()
                except UnicodeDecodeError:
                    plain[f"{name}_base64"] = b64encode(value).decode()
            case UUID():
                plain[name] = str(value)
            case datetime():
                plain[name] = value.isoformat()
            case _:
                plain[name] = value

    return plain


def _held_fields(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "account": row.account,
        "kind": row.kind,
        "order_id": row.order_id,
        "target": row.target,
        "keyed": row.keyed,
        "payload": row.payload,
        "idempotency_key": row.idempotency_key,
        "claims": row.claims,
        "attempt": row.attempts,
        "failures": row.failures,
        "throttles": row.throttles,
        "in_doubt": row.in_doubt,
        "first_sent_at": row.first_sent_at,
        "lease_until": row.lease_until,
        "problem": _problem(row.problem),
        "result": row.result,
        "read_back": _read_back(row.read_back),
        "absent_at": row.absent_at,
        "throttled_at": row.throttled_at,
    }


def _held(row: Any) -> Held:
    return Held(**_held_fields(row))


def _with_attempt(held: Held, *, number: int, first_sent_at: datetime) -> Held:
    fields = {name: getattr(held, name) for name in Held.__slots__}

    return Held(**{**fields, "attempt": number, "first_sent_at": first_sent_at})


def _move_row(move: Move) -> dict[str, Any]:
    transition = move.transition

    return {
        "id": move.held.id,
        "claims": move.held.claims,
        "state": transition.to.value,
        "failures": transition.failures,
        "throttles": transition.throttles,
        "throttled_at": transition.throttled_at,
        "in_doubt": transition.in_doubt,
        "due_at": transition.due_at,
        "published_until": move.published_until,
        "result": None if transition.result is None else dict(transition.result),
        "problem": _problem_json(transition.problem),
        "read_back": _read_back_json(transition.read_back),
        "absent_at": transition.absent_at,
        "finalized": transition.finalized,
    }


def _ending_row(ending: Ending, *, late: bool) -> dict[str, Any]:
    return {
        "command_id": ending.held.id,
        "number": ending.held.attempt,
        "late": late,
        "outcome": ending.outcome.name,
        "finished_at": ending.ended_at,
        **_said(ending.outcome),
    }


def _said(came: Outcome) -> dict[str, Any]:
    if isinstance(came, Succeeded):
        return {"status": came.status, "code": None, "message": None, "correlation_id": came.correlation_id}
    problem = came.problem

    return {
        "status": problem.status,
        "code": problem.code,
        "message": problem.message,
        "correlation_id": problem.correlation_id,
    }


def _moment(moment: datetime) -> ColumnElement[datetime]:
    """A moment within an expression, whose type nothing else would tell."""
    return literal(moment, UtcDateTime())


def _problem_json(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else asdict(problem)


def _problem(stored: Mapping[str, Any] | None) -> Problem | None:
    return None if stored is None else Problem(**stored)


def _read_back_json(read_back: ReadBack | None) -> dict[str, Any] | None:
    if read_back is None:
        return None

    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(read_back).items()
        if value is not None
    }


def _read_back(stored: Mapping[str, Any] | None) -> ReadBack | None:
    if stored is None:
        return None
    moments = {name: datetime.fromisoformat(stored[name]) for name in ("resume_at", "until") if name in stored}

    return ReadBack(**{**stored, **moments, "purpose": Purpose(stored["purpose"]), "reason": Reason(stored["reason"])})


def _ticket_line(row: Any) -> TicketLine:
    fields = dict(row._mapping)  # noqa: SLF001  # public in SQLAlchemy
    fields["reason"] = Reason(fields["reason"])
    fields["state"] = TicketState(fields["state"])

    return TicketLine(**fields)
