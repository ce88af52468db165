"""What a read-back needs: what it is for, what it told; the places of amended commands; incidents of any reason.

A ticket's reason is no longer checked by the database: reasons are added more often than tables should be rewritten.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_INCIDENT = "uq_post_purchase_ticket_incident"
_SYSTEMIC = "reason IN ('credentials_refused', 'key_window_closed', 'ladder_exhausted', 'not_safe_to_retry')"
_KNOWN = "'credentials_refused', 'key_window_closed', 'ladder_exhausted', 'not_safe_to_retry', 'refused'"
_BEFORE = f"reason IN ({_KNOWN}, 'refused_after_doubt')"
_READ_BACK_LAW = "read_back IS NULL OR state IN ('executing', 'pending')"

_TICKET_COLUMNS = (
    "id, account, reason, state, desk, external_ref, opened_at, due_at, published_until, lease_until, tries, problem, "
    "closed_at"
)


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def _is_postgresql() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if _is_postgresql():
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Add what is new."""
    _limit_locks()
    op.add_column("post_purchase_command", sa.Column("turn", sa.BigInteger()))
    op.add_column("post_purchase_command", sa.Column("absent_at", _MOMENT))
    op.create_table(
        "post_purchase_reading",
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("read_at", _MOMENT, nullable=False),
        sa.CheckConstraint(
            "purpose IN ('recheck', 'refusal', 'repeat', 'settlement', 'ticket')",
            name=op.f("ck_post_purchase_reading_purpose"),
        ),
        sa.CheckConstraint(
            "verdict IN ('absent', 'ambiguous', 'done', 'unread')", name=op.f("ck_post_purchase_reading_verdict")
        ),
        sa.ForeignKeyConstraint(
            ["command_id"], ["post_purchase_command.id"], name=op.f("fk_post_purchase_reading_command_id")
        ),
        sa.PrimaryKeyConstraint("command_id", "claim", name=op.f("pk_post_purchase_reading")),
    )
    if _is_postgresql():
        op.add_column("post_purchase_command", sa.Column("read_back", _JSON))
        # Not validated under the lock: no stored row can break it yet.
        law = f"ck_post_purchase_command_read_back CHECK ({_READ_BACK_LAW})"
        op.execute(f"ALTER TABLE post_purchase_command ADD CONSTRAINT {law} NOT VALID")
        op.execute("ALTER TABLE post_purchase_command VALIDATE CONSTRAINT ck_post_purchase_command_read_back")
        op.drop_constraint(op.f("ck_post_purchase_ticket_reason"), "post_purchase_ticket", type_="check")
        op.add_column("post_purchase_ticket", sa.Column("is_incident", sa.Boolean()))
        op.execute(f"UPDATE post_purchase_ticket SET is_incident = {_SYSTEMIC}")  # noqa: S608  # its parts stand here
        op.alter_column("post_purchase_ticket", "is_incident", nullable=False)
        op.drop_index(_INCIDENT, "post_purchase_ticket")
        _index_incidents("is_incident")
    else:
        # SQLite cannot add a check to a table, but can add a column that carries one.
        law = f"CONSTRAINT ck_post_purchase_command_read_back CHECK ({_READ_BACK_LAW})"
        op.execute(f"ALTER TABLE post_purchase_command ADD COLUMN read_back JSON {law}")
        _rewrite_tickets(values=f"{_TICKET_COLUMNS}, {_SYSTEMIC}", is_new=True)


def downgrade() -> None:
    """Take away what was new. Refused while a command is being read back or a ticket has a reason of this version."""
    _limit_locks()
    _demand_that_nothing_is_read()
    op.drop_table("post_purchase_reading")
    if _is_postgresql():
        op.drop_index(_INCIDENT, "post_purchase_ticket")
        op.drop_column("post_purchase_ticket", "is_incident")
        op.create_check_constraint(op.f("ck_post_purchase_ticket_reason"), "post_purchase_ticket", _BEFORE)
        _index_incidents(_SYSTEMIC)
        op.drop_constraint(op.f("ck_post_purchase_command_read_back"), "post_purchase_command", type_="check")
    else:
        _rewrite_tickets(values=_TICKET_COLUMNS, is_new=False)
    for column in ("read_back", "absent_at", "turn"):
        op.drop_column("post_purchase_command", column)


def _demand_that_nothing_is_read() -> None:
    """What is only to be read about would be sent by the version before: a pending refund a second time."""
    reads = op.get_bind().scalar(sa.text("SELECT count(*) FROM post_purchase_command WHERE read_back IS NOT NULL"))
    if reads:
        message = f"commands being read back: {reads}. Let the workers of this version finish them, and try again"
        raise CommandError(message)


def _index_incidents(condition: str) -> None:
    op.create_index(
        _INCIDENT,
        "post_purchase_ticket",
        ["account", "reason"],
        unique=True,
        **_where(f"{condition} AND state <> 'closed'"),
    )


def _rewrite_tickets(*, values: str, is_new: bool) -> None:
    """Make the table anew, and put the rows back: SQLite can change no check, nor rename what others refer to."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute(f"CREATE TEMPORARY TABLE kept_tickets AS SELECT {_TICKET_COLUMNS} FROM post_purchase_ticket")  # noqa: S608  # the same
    op.drop_table("post_purchase_ticket")
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
        *([sa.Column("is_incident", sa.Boolean(), nullable=False)] if is_new else []),
        sa.CheckConstraint("(closed_at IS NOT NULL) = (state = 'closed')", name=op.f("ck_post_purchase_ticket_closed")),
        *([] if is_new else [sa.CheckConstraint(_BEFORE, name=op.f("ck_post_purchase_ticket_reason"))]),
        sa.CheckConstraint("state <> 'open' OR external_ref IS NOT NULL", name=op.f("ck_post_purchase_ticket_open")),
        sa.CheckConstraint("state IN ('closed', 'open', 'unsent')", name=op.f("ck_post_purchase_ticket_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_post_purchase_ticket")),
    )
    columns = f"{_TICKET_COLUMNS}, is_incident" if is_new else _TICKET_COLUMNS
    op.execute(f"INSERT INTO post_purchase_ticket ({columns}) SELECT {values} FROM kept_tickets")  # noqa: S608  # the same
    op.execute("DROP TABLE kept_tickets")
    op.create_index(
        "ix_post_purchase_ticket_due",
        "post_purchase_ticket",
        ["due_at"],
        **_where("due_at IS NOT NULL AND state <> 'closed'"),
    )
    _index_incidents("is_incident" if is_new else _SYSTEMIC)
