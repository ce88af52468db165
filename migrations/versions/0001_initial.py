"""The tables of the first release: commands, their ledger, tickets and what operators did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Make the tables."""
    _limit_locks()
    op.create_table(
        "post_purchase_command",
        sa.Column("seq", _SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("order_id", sa.String(length=255), nullable=False),
        sa.Column("reference", sa.String(length=255)),
        sa.Column("target", sa.String(length=255)),
        sa.Column("amount", sa.BigInteger()),
        sa.Column("keyed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("replaces", sa.Uuid()),
        sa.Column("trace_context", _JSON),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("throttles", sa.Integer(), nullable=False),
        sa.Column("in_doubt", sa.Boolean(), nullable=False),
        sa.Column("due_at", _MOMENT, nullable=False),
        sa.Column("lease_until", _MOMENT),
        sa.Column("first_sent_at", _MOMENT),
        sa.Column("published_until", _MOMENT),
        sa.Column("result", _JSON),
        sa.Column("problem", _JSON),
        sa.Column("finalized_at", _MOMENT),
        sa.CheckConstraint(
            "(finalized_at IS NOT NULL) = (state IN ('cancelled', 'rejected', 'succeeded'))",
            name=op.f("ck_post_purchase_command_final"),
        ),
        sa.CheckConstraint(
            "(lease_until IS NOT NULL) = (state = 'executing')", name=op.f("ck_post_purchase_command_lease")
        ),
        sa.CheckConstraint(
            "NOT (in_doubt AND state IN ('cancelled', 'rejected', 'succeeded'))",
            name=op.f("ck_post_purchase_command_doubt"),
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'escalated', 'executing', 'pending', 'rejected', 'succeeded')",
            name=op.f("ck_post_purchase_command_state"),
        ),
        sa.CheckConstraint("attempts <= claims", name=op.f("ck_post_purchase_command_attempts")),
        sa.CheckConstraint(
            "attempts = 0 OR first_sent_at IS NOT NULL", name=op.f("ck_post_purchase_command_first_sent")
        ),
        sa.CheckConstraint("failures BETWEEN 0 AND 4", name=op.f("ck_post_purchase_command_failures")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_post_purchase_command")),
        sa.UniqueConstraint(
            "account", "idempotency_key", name=op.f("uq_post_purchase_command_account_idempotency_key")
        ),
        sa.UniqueConstraint("id", name=op.f("uq_post_purchase_command_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_post_purchase_command_due",
        "post_purchase_command",
        ["due_at", "seq"],
        unique=False,
        **_where("state = 'pending'"),
    )
    op.create_index(
        "ix_post_purchase_command_lease",
        "post_purchase_command",
        ["lease_until"],
        unique=False,
        **_where("state = 'executing'"),
    )
    op.create_index(
        "ix_post_purchase_command_order",
        "post_purchase_command",
        ["account", "order_id", "seq"],
        unique=False,
        **_where("state IN ('escalated', 'executing', 'pending')"),
    )
    op.create_index(
        "uq_post_purchase_command_in_flight",
        "post_purchase_command",
        ["account", "order_id"],
        unique=True,
        **_where("state = 'executing'"),
    )
    op.create_table(
        "post_purchase_ticket",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("desk", sa.String(length=64), nullable=False),
        sa.Column("external_ref", sa.String(length=255)),
        sa.Column("opened_at", _MOMENT, nullable=False),
        sa.Column("due_at", _MOMENT),
        sa.Column("published_until", _MOMENT),
        sa.Column("lease_until", _MOMENT),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text()),
        sa.Column("closed_at", _MOMENT),
        sa.CheckConstraint("(closed_at IS NOT NULL) = (state = 'closed')", name=op.f("ck_post_purchase_ticket_closed")),
        sa.CheckConstraint(
            "reason IN ('credentials_refused', 'key_window_closed', 'ladder_exhausted', 'not_safe_to_retry', "
            "'refused', 'refused_after_doubt')",
            name=op.f("ck_post_purchase_ticket_reason"),
        ),
        sa.CheckConstraint("state <> 'open' OR external_ref IS NOT NULL", name=op.f("ck_post_purchase_ticket_open")),
        sa.CheckConstraint("state IN ('closed', 'open', 'unsent')", name=op.f("ck_post_purchase_ticket_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_post_purchase_ticket")),
    )
    op.create_index(
        "ix_post_purchase_ticket_due",
        "post_purchase_ticket",
        ["due_at"],
        unique=False,
        **_where("due_at IS NOT NULL AND state <> 'closed'"),
    )
    op.create_index(
        "uq_post_purchase_ticket_incident",
        "post_purchase_ticket",
        ["account", "reason"],
        unique=True,
        **_where(
            "reason IN ('credentials_refused', 'key_window_closed', 'ladder_exhausted', 'not_safe_to_retry') "
            "AND state <> 'closed'"
        ),
    )
    op.create_table(
        "post_purchase_action",
        sa.Column("seq", _SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("state_before", sa.String(length=16), nullable=False),
        sa.Column("in_doubt_before", sa.Boolean(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["command_id"], ["post_purchase_command.id"], name=op.f("fk_post_purchase_action_command_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_post_purchase_action")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_post_purchase_action_command_id"), "post_purchase_action", ["command_id"], unique=False)
    op.create_table(
        "post_purchase_attempt",
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["command_id"], ["post_purchase_command.id"], name=op.f("fk_post_purchase_attempt_command_id")
        ),
        sa.PrimaryKeyConstraint("command_id", "number", name=op.f("pk_post_purchase_attempt")),
    )
    op.create_table(
        "post_purchase_ticket_command",
        sa.Column("ticket_id", sa.Uuid(), nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("linked_at", _MOMENT, nullable=False),
        sa.Column("announced_at", _MOMENT),
        sa.Column("closed_at", _MOMENT),
        sa.ForeignKeyConstraint(
            ["command_id"], ["post_purchase_command.id"], name=op.f("fk_post_purchase_ticket_command_command_id")
        ),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["post_purchase_ticket.id"], name=op.f("fk_post_purchase_ticket_command_ticket_id")
        ),
        sa.PrimaryKeyConstraint("ticket_id", "command_id", name=op.f("pk_post_purchase_ticket_command")),
    )
    op.create_index(
        "uq_post_purchase_ticket_command_open",
        "post_purchase_ticket_command",
        ["command_id"],
        unique=True,
        **_where("closed_at IS NULL"),
    )
    op.create_table(
        "post_purchase_outcome",
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("code", sa.String(length=255)),
        sa.Column("message", sa.Text()),
        sa.Column("correlation_id", sa.String(length=255)),
        sa.Column("finished_at", _MOMENT, nullable=False),
        sa.CheckConstraint(
            "outcome IN ('in_doubt', 'not_now', 'not_sent', 'rejected', 'succeeded', 'throttled', 'unauthorized')",
            name=op.f("ck_post_purchase_outcome_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["command_id", "number"],
            ["post_purchase_attempt.command_id", "post_purchase_attempt.number"],
            name=op.f("fk_post_purchase_outcome_command_id_number"),
        ),
        sa.PrimaryKeyConstraint("command_id", "number", "late", name=op.f("pk_post_purchase_outcome")),
    )


def downgrade() -> None:
    """Drop the tables."""
    _limit_locks()
    for table in ("outcome", "ticket_command", "attempt", "action", "ticket", "command"):
        op.drop_table(f"post_purchase_{table}")
