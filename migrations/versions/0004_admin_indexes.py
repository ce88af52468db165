"""What Django's admin looks for among finished rows, and the mark that the host must be told of a command's end.

A search by order or reference looks among all rows. Its two indexes hold finished ones, so that a command enters them
once and not at each of its steps; those that are not finished have an index already. They are made with the operator
class that a search for a beginning needs in any collation. The others hold exceptions only: a command that simply
succeeds never enters them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COMMAND = "post_purchase_command"
_ENDED_OTHERWISE = "state IN ('cancelled', 'escalated', 'rejected')"
_IS_UNTOLD = "finalized_at IS NOT NULL AND tell_at IS NOT NULL"
_IS_FINAL = "finalized_at IS NOT NULL"
_IN_DOUBT = "in_doubt"


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """Add the mark and the indexes."""
    _limit_locks()
    op.add_column(_COMMAND, sa.Column("tell_at", sa.DateTime(timezone=True)))
    op.create_index("ix_post_purchase_command_untold", _COMMAND, ["tell_at", "seq"], **_where(_IS_UNTOLD))
    op.create_index("ix_post_purchase_command_ended", _COMMAND, ["state", "id"], **_where(_ENDED_OTHERWISE))
    op.create_index("ix_post_purchase_command_doubt", _COMMAND, ["id"], **_where(_IN_DOUBT))
    op.create_index(
        "ix_post_purchase_command_order_id",
        _COMMAND,
        ["order_id"],
        postgresql_ops={"order_id": "varchar_pattern_ops"},
        **_where(_IS_FINAL),
    )
    op.create_index(
        "ix_post_purchase_command_reference",
        _COMMAND,
        ["reference"],
        postgresql_ops={"reference": "varchar_pattern_ops"},
        **_where(_IS_FINAL),
    )


def downgrade() -> None:
    """Take them away; whom the host was not told of yet is forgotten."""
    _limit_locks()
    for name in ("reference", "order_id", "doubt", "ended", "untold"):
        op.drop_index(f"ix_post_purchase_command_{name}", _COMMAND)
    op.drop_column(_COMMAND, "tell_at")
