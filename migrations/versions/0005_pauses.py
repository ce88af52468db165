"""Pauses of accounts, by breaker, credentials or hand, and since when a command has met nothing but 429."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Add what is new."""
    _limit_locks()
    op.add_column("post_purchase_command", sa.Column("throttled_at", _MOMENT))
    op.create_table(
        "post_purchase_pause",
        sa.Column("seq", _SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("began_at", _MOMENT, nullable=False),
        sa.Column("edge_seconds", sa.Float(), nullable=False),
        sa.Column("probe_at", _MOMENT),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("ended_by", sa.String(length=255)),
        sa.Column("ended_why", sa.Text()),
        sa.CheckConstraint(
            "cause IN ('breaker', 'credentials', 'operator')", name=op.f("ck_post_purchase_pause_cause")
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (ended_by IS NULL) AND (ended_at IS NULL) = (ended_why IS NULL)",
            name=op.f("ck_post_purchase_pause_ended"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_post_purchase_pause")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_post_purchase_pause_open",
        "post_purchase_pause",
        ["account", "kind", "cause"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    """Take away what was new; what was paused goes on."""
    _limit_locks()
    op.drop_table("post_purchase_pause")
    op.drop_column("post_purchase_command", "throttled_at")
