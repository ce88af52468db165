"""When the host was told of a command's end, so that who amends it knows that the host waits for the next one too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Add the column; of ends that were told before, nothing is known."""
    _limit_locks()
    op.add_column("post_purchase_command", sa.Column("told_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Take it away."""
    _limit_locks()
    op.drop_column("post_purchase_command", "told_at")
