"""The tables, column by column: what each holds, who moves it, and what the law of the table is.

Decides names, types, checks and indexes. Leaves their creation to Alembic (`migrations/`), which is tested to
equal this metadata, and every statement to `statements`. Finished rows must cost nothing, so every index that
work needs is partial on unfinished rows; the only full ones are the two that identity needs. A finished row enters
those by which people search once, with its end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from ..domain.finding import VERDICTS
from ..domain.outcome import OUTCOMES
from ..domain.pause import Cause
from ..domain.read_back import Purpose
from ..domain.state import FINAL, UNFINISHED, State
from ..domain.ticket import TicketState


def in_utc(moment: datetime) -> datetime:
    """Move a moment to UTC; nobody could say which instant a naive one means."""
    if moment.tzinfo is None:
        message = "a naive datetime cannot be stored; give it a time zone"
        raise ValueError(message)

    return moment.astimezone(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: `timestamptz` on PostgreSQL, UTC text with microseconds on SQLite; always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; store UTC."""
        if value is None:
            return None
        moment = in_utc(value)

        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy's signature
        """Give every time its zone."""
        if value is None:
            return None

        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _words(values: Any) -> str:
    return ", ".join(f"'{value}'" for value in sorted(str(value) for value in values))


#: Identity columns: 64 bit on PostgreSQL; on SQLite only `INTEGER` counts by itself.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
_Json = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

PENDING = f"state = '{State.PENDING}'"
EXECUTING = f"state = '{State.EXECUTING}'"
IS_UNFINISHED = f"state IN ({_words(UNFINISHED)})"
OPEN_INCIDENT = f"is_incident AND state <> '{TicketState.CLOSED}'"
ENDED_OTHERWISE = f"state IN ({_words(FINAL - {State.SUCCEEDED} | {State.ESCALATED})})"
IS_FINAL = "finalized_at IS NOT NULL"
IS_UNTOLD = "finalized_at IS NOT NULL AND tell_at IS NOT NULL"
TICKET_DUE = "due_at IS NOT NULL"
OPEN_LINK = "closed_at IS NULL"
OPEN_PAUSE = "ended_at IS NULL"

command = Table(
    "post_purchase_command",
    metadata,
    # What was asked; written once at enqueue.
    Column("seq", _Serial, Identity(), primary_key=True),  # the order of commands within an order
    Column("id", Uuid, nullable=False, unique=True),  # UUIDv7, made by the caller's process
    Column("account", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("order_id", String(255), nullable=False),
    Column("reference", String(255)),  # the caller's business name for this intention
    Column("target", String(255)),  # the capture, refund or transaction it is about
    Column("amount", BigInteger),  # minor units, for people; the payload is what is sent
    Column("keyed", Boolean, nullable=False),  # whether the key is sent
    Column("payload", LargeBinary, nullable=False),  # the exact bytes of every attempt; empty: no body
    Column("fingerprint", String(64), nullable=False),  # hash of payload and keyed
    Column("idempotency_key", String(64), nullable=False),
    Column("replaces", Uuid),  # the command this one amends
    Column("turn", BigInteger),  # the seq of the command it amends, in whose place it stands within the order
    Column("trace_context", _Json),  # the caller's trace, for logs
    Column("created_at", UtcDateTime, nullable=False),
    # Where it stands; moved by transitions only.
    Column("state", String(16), nullable=False),
    Column("claims", Integer, nullable=False),  # the fence: +1 at each claim, in every guarded write
    Column("attempts", Integer, nullable=False),  # sends: +1 with each intent
    Column("failures", Integer, nullable=False),  # rungs climbed, 0 to 4; nothing else drives the ladder
    Column("throttles", Integer, nullable=False),  # 429s in a row; drives the back-off, never the ladder
    Column("throttled_at", UtcDateTime),  # the first of those 429s, or when a person was last told of them
    Column("in_doubt", Boolean, nullable=False),  # an attempt's fate is unknown; cleared by a definite answer
    Column("due_at", UtcDateTime, nullable=False),  # may be claimed from here on
    Column("lease_until", UtcDateTime),  # set exactly while executing; sweep takes over after it
    Column("first_sent_at", UtcDateTime),  # when the first intent was written; the key window runs from here
    Column("published_until", UtcDateTime),  # handed to the broker; dispatch leaves it alone until then
    Column("result", _Json),  # what the provider gave: ids, a read's answer
    Column("problem", _Json),  # why the last attempt did not succeed
    Column("read_back", _Json),  # the next claim reads at the provider and sends nothing; what for, how far it has come
    Column("absent_at", UtcDateTime),  # when the provider was known to show no effect, with no attempt since
    Column("finalized_at", UtcDateTime),  # set exactly in final states
    Column("tell_at", UtcDateTime),  # once final, the host is told from here on; NULL: never asked for, or told
    Column("told_at", UtcDateTime),  # when the host was told
    UniqueConstraint("account", "idempotency_key"),
    CheckConstraint(f"state IN ({_words(State)})", name="state"),
    CheckConstraint(f"(finalized_at IS NOT NULL) = (state IN ({_words(FINAL)}))", name="final"),
    CheckConstraint(f"(lease_until IS NOT NULL) = ({EXECUTING})", name="lease"),
    CheckConstraint("failures BETWEEN 0 AND 4", name="failures"),
    CheckConstraint("attempts <= claims", name="attempts"),
    CheckConstraint("attempts = 0 OR first_sent_at IS NOT NULL", name="first_sent"),
    CheckConstraint(f"NOT (in_doubt AND state IN ({_words(FINAL)}))", name="doubt"),
    CheckConstraint(f"read_back IS NULL OR state IN ({_words({State.PENDING, State.EXECUTING})})", name="read_back"),
    Index("ix_post_purchase_command_due", "due_at", "seq", postgresql_where=text(PENDING), sqlite_where=text(PENDING)),
    Index(
        "ix_post_purchase_command_lease", "lease_until", postgresql_where=text(EXECUTING), sqlite_where=text(EXECUTING)
    ),
    Index(
        "ix_post_purchase_command_order",
        "account",
        "order_id",
        "seq",
        postgresql_where=text(IS_UNFINISHED),
        sqlite_where=text(IS_UNFINISHED),
    ),
    # The law that one command per (account, order) is in flight; a race for it loses here, and claims again.
    Index(
        "uq_post_purchase_command_in_flight",
        "account",
        "order_id",
        unique=True,
        postgresql_where=text(EXECUTING),
        sqlite_where=text(EXECUTING),
    ),
    # What people look for in Django's admin: how an exception ended, and any order or reference by its beginning.
    Index(
        "ix_post_purchase_command_ended",
        "state",
        "id",
        postgresql_where=text(ENDED_OTHERWISE),
        sqlite_where=text(ENDED_OTHERWISE),
    ),
    Index("ix_post_purchase_command_doubt", "id", postgresql_where=text("in_doubt"), sqlite_where=text("in_doubt")),
    Index(
        "ix_post_purchase_command_order_id",
        "order_id",
        postgresql_ops={"order_id": "varchar_pattern_ops"},
        postgresql_where=text(IS_FINAL),
        sqlite_where=text(IS_FINAL),
    ),
    Index(
        "ix_post_purchase_command_reference",
        "reference",
        postgresql_ops={"reference": "varchar_pattern_ops"},
        postgresql_where=text(IS_FINAL),
        sqlite_where=text(IS_FINAL),
    ),
    Index(
        "ix_post_purchase_command_untold",
        "tell_at",
        "seq",
        postgresql_where=text(IS_UNTOLD),
        sqlite_where=text(IS_UNTOLD),
    ),
    sqlite_autoincrement=True,
)

#: The intent, committed before the send. Insert only.
attempt = Table(
    "post_purchase_attempt",
    metadata,
    Column("command_id", Uuid, ForeignKey(command.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1
    Column("claim", Integer, nullable=False),  # the fence under which it was opened
    Column("holder", String(255), nullable=False),  # host and process, for people
    Column("started_at", UtcDateTime, nullable=False),
)

#: What came of an attempt. Insert only. `late`: the answer arrived after another had taken the lease over;
#: it is kept for people and changed nothing.
outcome = Table(
    "post_purchase_outcome",
    metadata,
    Column("command_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("late", Boolean, primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer),
    Column("code", String(255)),
    Column("message", Text),
    Column("correlation_id", String(255)),
    Column("finished_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["command_id", "number"], [attempt.c.command_id, attempt.c.number]),
    CheckConstraint(f"outcome IN ({_words(OUTCOMES)})", name="outcome"),
)

#: What the reads of read-backs told. Insert only; a claim reads once.
reading = Table(
    "post_purchase_reading",
    metadata,
    Column("command_id", Uuid, ForeignKey(command.c.id), primary_key=True),
    Column("claim", Integer, primary_key=True),  # the fence under which it was read
    Column("purpose", String(16), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("evidence", Text, nullable=False),
    Column("read_at", UtcDateTime, nullable=False),
    CheckConstraint(f"purpose IN ({_words(Purpose)})", name="purpose"),
    CheckConstraint(f"verdict IN ({_words(VERDICTS)})", name="verdict"),
)

ticket = Table(
    "post_purchase_ticket",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account", String(64), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("is_incident", Boolean, nullable=False),  # its cause lies outside one command: others join it
    Column("state", String(16), nullable=False),
    Column("desk", String(64), nullable=False),
    Column("external_ref", String(255)),  # the desk's own name for it; set when the desk took it
    Column("opened_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),  # when the desk must next be told; NULL: it knows everything
    Column("published_until", UtcDateTime),  # handed to the broker; sweep leaves it alone until then
    Column("lease_until", UtcDateTime),  # a worker is telling the desk
    Column("tries", Integer, nullable=False),  # failed tellings in a row
    Column("problem", Text),  # why the last telling failed
    Column("closed_at", UtcDateTime),
    CheckConstraint(f"state IN ({_words(TicketState)})", name="state"),
    CheckConstraint(f"(closed_at IS NOT NULL) = (state = '{TicketState.CLOSED}')", name="closed"),
    CheckConstraint(f"state <> '{TicketState.OPEN}' OR external_ref IS NOT NULL", name="open"),
    # One open incident per account and reason.
    Index(
        "uq_post_purchase_ticket_incident",
        "account",
        "reason",
        unique=True,
        postgresql_where=text(OPEN_INCIDENT),
        sqlite_where=text(OPEN_INCIDENT),
    ),
    Index("ix_post_purchase_ticket_due", "due_at", postgresql_where=text(TICKET_DUE), sqlite_where=text(TICKET_DUE)),
)

ticket_command = Table(
    "post_purchase_ticket_command",
    metadata,
    Column("ticket_id", Uuid, ForeignKey(ticket.c.id), primary_key=True),
    Column("command_id", Uuid, ForeignKey(command.c.id), primary_key=True, index=True),
    Column("linked_at", UtcDateTime, nullable=False),
    Column("announced_at", UtcDateTime),  # when the desk was told of this command
    Column("closed_at", UtcDateTime),  # when the command was decided, or moved to another ticket
    # Exactly one open ticket per command.
    Index(
        "uq_post_purchase_ticket_command_open",
        "command_id",
        unique=True,
        postgresql_where=text(OPEN_LINK),
        sqlite_where=text(OPEN_LINK),
    ),
)

#: Accounts, or kinds of theirs, of which nothing is sent for a while. Ended ones stay, for people.
pause = Table(
    "post_purchase_pause",
    metadata,
    Column("seq", _Serial, Identity(), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("kind", String(64), nullable=False),  # empty: all kinds
    Column("cause", String(16), nullable=False),
    Column("by", String(255), nullable=False),
    Column("why", Text, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("edge_seconds", Float, nullable=False),  # a command first sent longer ago leaves the pause
    Column("probe_at", UtcDateTime),  # when it is tried again; NULL: a person ends it
    Column("probes", Integer, nullable=False),  # probes so far
    Column("ended_at", UtcDateTime),
    Column("ended_by", String(255)),
    Column("ended_why", Text),
    CheckConstraint(f"cause IN ({_words(Cause)})", name="cause"),
    CheckConstraint(
        "(ended_at IS NULL) = (ended_by IS NULL) AND (ended_at IS NULL) = (ended_why IS NULL)", name="ended"
    ),
    Index(
        "uq_post_purchase_pause_open",
        "account",
        "kind",
        "cause",
        unique=True,
        postgresql_where=text(OPEN_PAUSE),
        sqlite_where=text(OPEN_PAUSE),
    ),
    sqlite_autoincrement=True,
)

#: What operators did, who, why. Insert only.
action = Table(
    "post_purchase_action",
    metadata,
    Column("seq", _Serial, Identity(), primary_key=True),
    Column("command_id", Uuid, ForeignKey(command.c.id), nullable=False, index=True),
    Column("verb", String(32), nullable=False),
    Column("by", String(255), nullable=False),
    Column("why", Text, nullable=False),
    Column("state_before", String(16), nullable=False),
    Column("in_doubt_before", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

#: What is kept for ever of a command that is pruned, so that a late duplicate is still recognised. Insert only. The key
#: is here before the command is gone: see `service.prune`.
kept_key = Table(
    "post_purchase_key",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("idempotency_key", String(64), primary_key=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("finalized_at", UtcDateTime, nullable=False),
    CheckConstraint(f"state IN ({_words(FINAL)})", name="state"),
)
