"""Django's own connection, lent to the store: the same statements, in Django's transaction.

Decides how a SQLAlchemy Connection comes to stand on Django's cursor: every statement goes through
`connections[alias].cursor()`, so that Django's transaction, its query log, its errors and its guards hold; and nothing
that SQLAlchemy calls commit, rollback or close does anything, because they are Django's. Why so:
docs/decisions/0012-django-lends-its-cursor.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, cached_property, partial
from typing import Any
from uuid import UUID

import psycopg
from django.db import InterfaceError, OperationalError, connections, transaction
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.json import JsonbLoader
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.base import DATETIME
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.pool import NullPool
from sqlalchemy.types import DateTime

from ...config import Settings
from ...ports import Publisher, StoreUnavailable
from ...service.operate import Operator
from ...store.engine import SqlStore
from ...store.statements import SqlTransaction
from ...wiring import Services

#: Django reads these its own way, for its own fields; the store expects the driver's.
_LOADERS = {"jsonb": JsonbLoader, "timestamptz": TimestamptzLoader}


class _Moment(DATETIME):
    """A moment on SQLite. Django's connection turns what is declared DATETIME into one before SQLAlchemy sees it."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Read text, and let pass what is read already."""
        read: Any = super().result_processor(dialect, coltype)

        return lambda value: value if isinstance(value, datetime) else read(value)


class _OnSqlite(SQLiteDialect_pysqlite):
    supports_statement_cache = True
    colspecs = {**SQLiteDialect_pysqlite.colspecs, DateTime: _Moment}  # noqa: RUF012  # as in every dialect


@dataclass(frozen=True, slots=True)
class _Lent:
    """What SQLAlchemy takes for a connection of the driver: the calling thread's own of Django's, cursors only.

    `connections` is local to the thread, so the alias is all there is to keep.
    """

    alias: str

    def cursor(self) -> Any:
        """Open one of Django's cursors."""
        connection = connections[self.alias]
        cursor = connection.cursor()
        if connection.vendor == "postgresql":
            for kind, loader in _LOADERS.items():
                cursor.adapters.register_loader(kind, loader)  # of this cursor alone

        return cursor

    def commit(self) -> None:
        """Leave it to Django."""

    def rollback(self) -> None:
        """Leave it to Django."""

    def close(self) -> None:
        """Leave it to Django."""


def _lend(alias: str) -> Any:
    return _Lent(alias)


@cache
def engine_on(alias: str, vendor: str) -> Engine:
    """Make the engine that stands on Django's connection of this alias; it opens nothing and holds nothing."""
    dialect: Dialect
    match vendor:
        case "sqlite":
            dialect = _OnSqlite(dbapi=sqlite3, paramstyle="format")
        case _:
            dialect = PGDialect_psycopg(dbapi=psycopg)  # type: ignore[no-untyped-call]  # SQLAlchemy gives it no types
    # Made by hand, because `create_engine` asks a new server what it can do, in Django's transaction. What it would
    # find out is of no matter to our statements.
    pool = NullPool(partial(_lend, alias), reset_on_return=None, dialect=dialect)

    return Engine(pool, dialect, URL.create(dialect.name), hide_parameters=True)


@contextmanager
def lent(alias: str) -> Iterator[Connection]:
    """Lend Django's connection of this alias for a block; its transaction is Django's before, in and after it."""
    with engine_on(alias, connections[alias].vendor).connect() as connection:
        yield connection


@contextmanager
def in_transaction(alias: str) -> Iterator[None]:
    """Be in a transaction of Django's: the running one, without a savepoint, else one of this block's own.

    An error of ours must not spoil the host's transaction, as leaving an `atomic` with it would.
    """
    with nullcontext() if connections[alias].in_atomic_block else transaction.atomic(using=alias):
        yield


class DjangoStore(SqlStore):
    """Commands in one of Django's databases, on Django's connection of the calling thread."""

    def __init__(self, alias: str, *, tells_host: bool) -> None:
        super().__init__(engine_on(alias, connections[alias].vendor), tells_host=tells_host)
        self._alias = alias

    @contextmanager
    def begin(self) -> Iterator[SqlTransaction]:
        """Open a transaction, or a savepoint within one; a block that raises is rolled back."""
        with _patience(), transaction.atomic(using=self._alias), lent(self._alias) as connection:
            yield self.borrow(connection)

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """Look, in whatever transaction there is."""
        with _patience(), lent(self._alias) as connection:
            yield self.borrow(connection)


@contextmanager
def _patience() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise StoreUnavailable((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


@dataclass(frozen=True, slots=True)
class _AfterCommit:
    """Publishes once the running transaction of Django's has committed. Implements `ports.Publisher`."""

    publisher: Publisher
    alias: str

    def execute(self, ids: Sequence[UUID], *, label: str, countdown: float | None = None) -> bool:
        """Ask a worker to execute commands, after the commit."""
        on_commit(lambda: self.publisher.execute(ids, label=label, countdown=countdown), alias=self.alias)

        return True

    def escalate(self, ticket_id: UUID, *, label: str) -> bool:
        """Ask a worker to tell a ticket to its desk, after the commit."""
        on_commit(lambda: self.publisher.escalate(ticket_id, label=label), alias=self.alias)

        return True

    def may_hold(self) -> bool:
        """Whether one more message with a countdown may be handed to the broker now."""
        return self.publisher.may_hold()

    def reserve(self) -> bool:
        """Whether one more message may follow a commit at once."""
        return self.publisher.reserve()


def on_commit(call: Callable[[], object], *, alias: str) -> None:
    """Run `call` after the outermost commit of Django's transaction; what goes wrong in it fails nobody's request."""

    # Before Django 6.1 a robust callback needs a name of its own, which a partial has not.
    def published() -> None:
        call()

    transaction.on_commit(published, using=alias, robust=True)


class DjangoServices(Services):
    """The services of a process of the Django project, on Django's connection."""

    def __init__(self, settings: Settings, *, using: str) -> None:
        super().__init__(settings)
        self.using = using

    @cached_property
    def store(self) -> SqlStore:
        """The database, as Django is connected to it."""
        return DjangoStore(self.using, tells_host=self.settings.host.is_told)

    def operator(self, *, by: str, why: str) -> Operator:
        """Act for a named operator who gives a reason; what follows is published after the commit."""
        return replace(super().operator(by=by, why=why), publisher=_AfterCommit(self.publisher, self.using))

    def close(self) -> None:
        """Give nothing back: the connection is Django's."""
