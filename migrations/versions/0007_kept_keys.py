"""The keys of pruned commands, which are kept for ever, and a way from a command to its tickets.

The version before would store and send a late duplicate of a pruned command. So there is no way back to it once
something was pruned.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_LINK = "ix_post_purchase_ticket_command_command_id"


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Add the table and the index."""
    _limit_locks()
    op.create_table(
        "post_purchase_key",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("finalized_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('cancelled', 'rejected', 'succeeded')", name=op.f("ck_post_purchase_key_state")),
        sa.PrimaryKeyConstraint("account", "idempotency_key", name=op.f("pk_post_purchase_key")),
        sa.UniqueConstraint("id", name=op.f("uq_post_purchase_key_id")),
    )
    # Without it, each command that is removed would have all links read for one that refers to it.
    op.create_index(_LINK, "post_purchase_ticket_command", ["command_id"])


def downgrade() -> None:
    """Take both away, where no key would be forgotten."""
    _limit_locks()
    _demand_that_nothing_is_forgotten()
    op.drop_index(_LINK, "post_purchase_ticket_command")
    op.drop_table("post_purchase_key")


def _demand_that_nothing_is_forgotten() -> None:
    """A key whose command is still there is known without the table."""
    pruned = op.get_bind().scalar(
        sa.text(
            "SELECT count(*) FROM post_purchase_key AS kept WHERE NOT EXISTS "
            "(SELECT 1 FROM post_purchase_command AS command WHERE command.id = kept.id)"
        )
    )
    if pruned:
        message = (
            f"keys of pruned commands: {pruned}. The version before would pay a late duplicate of them again. Whoever "
            "accepts that, deletes the rows of post_purchase_key first"
        )
        raise CommandError(message)
