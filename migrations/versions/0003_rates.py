"""The rows in which processes without a Redis share the provider's quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Make the table."""
    _limit_locks()
    op.create_table(
        "post_purchase_rate",
        sa.Column("bucket", sa.String(length=512), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name=op.f("pk_post_purchase_rate")),
    )


def downgrade() -> None:
    """Take it away; quotas are shared anew."""
    _limit_locks()
    op.drop_table("post_purchase_rate")
