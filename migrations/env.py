"""Run by Alembic: applies the versions beside it on the connection that `worker.store.migrate` hands over.

Looks only at `post_purchase_*` tables and keeps its own version table, so a host's own Alembic and ours do not
see each other.
"""

from __future__ import annotations

from typing import Any

from alembic import context

from worker.store.migrate import VERSION_TABLE, is_ours
from worker.store.schema import metadata


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave the host's tables alone."""
    return kind != "table" or is_ours(name)


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=include_name,
    compare_type=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
