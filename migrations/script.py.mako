"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def _limit_locks() -> None:
    """Rather fail and be run again than queue behind a long transaction and hold up every worker."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")


def upgrade() -> None:
    """${message}."""
    _limit_locks()
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo it."""
    _limit_locks()
    ${downgrades if downgrades else "pass"}
