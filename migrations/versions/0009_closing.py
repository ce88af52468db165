"""A closed ticket can be due: its desk is told that it has closed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TICKET = "post_purchase_ticket"
_DUE = "ix_post_purchase_ticket_due"


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def _index_due(condition: str) -> None:
    op.drop_index(_DUE, _TICKET)
    op.create_index(_DUE, _TICKET, ["due_at"], postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))


def upgrade() -> None:
    """Look among all tickets; those that closed before have been due no more."""
    _limit_locks()
    _index_due("due_at IS NOT NULL")


def downgrade() -> None:
    """Look among open ones only; closings not told yet are told by no one."""
    _limit_locks()
    _index_due("due_at IS NOT NULL AND state <> 'closed'")
