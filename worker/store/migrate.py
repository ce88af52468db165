"""The schema's version: bring a database up to this code, down again, and tell where it stands.

Decides when schema and code fit. Leaves the versions themselves to `migrations/`. Two processes that upgrade at
once are kept apart by an advisory lock on PostgreSQL and by the file's write lock on SQLite. Behind a pooler that lock
can belong to one transaction only, so there all versions are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command as alembic
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Select, func, literal, select

from ..domain.errors import SchemaMismatch
from . import rates as _rates  # noqa: F401  # its table is part of the schema
from .engine import is_pooled, patience
from .schema import metadata

VERSION_TABLE = "post_purchase_schema_version"
PREFIX = "post_purchase_"

#: Any fixed number; it names the lock under which migrations run.
_LOCK = 7_216_054_118


def is_ours(name: str | None) -> bool:
    """Whether a table belongs to this package."""
    return name is not None and name.startswith(PREFIX) and name != VERSION_TABLE


def upgrade(engine: Engine, migrations: Path, *, to: str = "head") -> None:
    """Bring the schema to a version; the newest by default."""
    with _locked(engine) as connection:
        alembic.upgrade(_config(migrations, connection), to)


def downgrade(engine: Engine, migrations: Path, *, to: str) -> None:
    """Take the schema back to a version (`base`: nothing left). Loses what newer tables hold."""
    with _locked(engine) as connection:
        alembic.downgrade(_config(migrations, connection), to)


def current(engine: Engine) -> str | None:
    """Return the schema's version; None when there is no schema."""
    with patience(), engine.connect() as connection:
        return _context(connection).get_current_revision()


def newest(migrations: Path) -> str:
    """Return the version this code works with."""
    head = ScriptDirectory(str(migrations)).get_current_head()
    assert head is not None  # noqa: S101  # the wheel ships at least one version

    return head


def require(engine: Engine, migrations: Path) -> None:
    """Demand that schema and code fit.

    Raises:
        SchemaMismatch: The schema is missing, behind or ahead; the message names the fix.
    """
    found, expected = current(engine), newest(migrations)
    if found == expected:
        return
    known = {script.revision for script in ScriptDirectory(str(migrations)).walk_revisions()}
    behind = found is None or found in known
    fix = "Run `post-purchase db upgrade`" if behind else "It is newer than this code: install the version that made it"
    raise SchemaMismatch(found=found, expected=expected, fix=fix)


def differences(engine: Engine) -> list[str]:
    """Compare the database with this code's tables; empty when they are equal."""
    with patience(), engine.connect() as connection:
        return [str(each) for each in compare_metadata(_context(connection), metadata)]


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "include_name": lambda name, kind, _parents: kind != "table" or is_ours(name),
            "compare_type": True,
            "target_metadata": metadata,
        },
    )


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    with patience(), engine.connect() as connection:
        if connection.dialect.name == "postgresql" and not is_pooled(engine):
            connection.execute(_unhurried(for_transaction=False))
            connection.execute(select(func.pg_advisory_lock(_LOCK)))
            connection.commit()
            try:
                yield connection
            finally:
                # The connection carries the lock and the timeout; the server drops both with it.
                connection.invalidate()
        else:
            # Begun here, the transaction holds the lock before the version is read, and all versions are one change.
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(_unhurried(for_transaction=True))
                    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                yield connection


def _unhurried(*, for_transaction: bool) -> Select[Any]:
    """Another's migration, or an index on a large table, may take longer than a statement of ours ever should."""
    names = ("statement_timeout", "lock_timeout")

    return select(*(func.set_config(name, "0", literal(for_transaction)) for name in names))


def _config(migrations: Path, connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection

    return config
