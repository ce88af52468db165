"""How PostgreSQL keeps the rows of commands, which change four times and then never again.

A page that is filled to 70 % has room for the next version of its rows, so that the changes that touch no index touch
none, and a page takes up its own dead versions. Autovacuum looks after every 2 % of changed rows and not after 20 %,
which at a million rows is once an hour of work and not once a day.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COMMAND = "post_purchase_command"


def upgrade() -> None:
    """Say how; rows that are there stay as they are."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute(
            f"ALTER TABLE {_COMMAND} SET (fillfactor = 70, "
            "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)"
        )


def downgrade() -> None:
    """Let the server's own settings hold again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
        op.execute(
            f"ALTER TABLE {_COMMAND} RESET (fillfactor, "
            "autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor)"
        )
