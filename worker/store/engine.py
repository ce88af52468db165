"""Connections: one engine per process, transactions on it, and a host's own transaction borrowed.

Decides how a connection is set up on PostgreSQL and SQLite, which database errors mean "away" and are worth
patience, and when a claim that lost a race is repeated. Leaves statements to `statements`. An engine must
not cross a fork: build a new `SqlStore` in each process.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, TimeoutError as PoolTimeout

from ..domain.errors import PostPurchaseError
from ..ports import Held, StoreUnavailable
from .clock import Clock, DatabaseClock
from .statements import SqlTransaction

log = structlog.get_logger(__name__)

#: A claim that lost the race for an order to another process is repeated; the winner's row is then visible.
_CLAIM_TRIES = 5

#: What PostgreSQL calls it when two claims hold what the other waits for; the one it ends is repeated as well.
_DEADLOCK = "40P01"

#: Seconds between two tries to give a new SQLite file its write-ahead log.
_WRITE_AHEAD_PAUSE = 0.01

#: PostgreSQL's codes for a server that is there but cannot be written to: a standby, before or after a fail-over.
_AWAY = frozenset({"25006", "25P03", "57P01", "57P02", "57P03"})

#: SQLite's codes for a file that holds something else, or nothing whole.
_NO_DATABASE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})

#: Option of a transaction that only reads: on SQLite it does not wait for writers.
_READS_ONLY = "post_purchase_reads_only"

#: Option of an engine whose connections change servers between transactions.
_POOLED = "post_purchase_pooled"


def build_engine(
    url: str | URL,
    *,
    pool_size: int,
    busy_timeout: timedelta,
    connect_timeout: timedelta,
    statement_timeout: timedelta,
    is_pooled: bool = False,
) -> Engine:
    """Make an engine for this process. Opens no connection yet.

    `is_pooled`: between us and PostgreSQL stands a pooler that lends a server connection for one transaction only.
    """
    target = make_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target, busy_timeout)

    session = _session(statement_timeout)
    engine = create_engine(
        target,
        hide_parameters=True,  # an answer or a payload is somebody's address
        pool_size=pool_size,
        max_overflow=2,
        pool_pre_ping=True,
        pool_timeout=connect_timeout.total_seconds(),
        execution_options={_POOLED: is_pooled},
        connect_args={
            "connect_timeout": max(2, int(connect_timeout.total_seconds())),
            "application_name": "post-purchase",
            # A prepared statement stays behind on a server connection that somebody else is lent next.
            **({"prepare_threshold": None} if is_pooled else {"options": _startup_options(session)}),
        },
    )
    if is_pooled:
        event.listen(engine, "begin", _setter(session))

    @event.listens_for(engine, "handle_error")
    def _leave_standby(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) in _AWAY:
            context.is_disconnect = True  # the pool asks for the server again, and finds the one that took over

    return engine


def is_pooled(engine: Engine) -> bool:
    """Whether a connection of this engine keeps nothing from one transaction to the next."""
    return bool(engine.get_execution_options().get(_POOLED))


def _startup_options(session: Mapping[str, object]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in session.items())


def _setter(session: Mapping[str, object]) -> Callable[[Connection], None]:
    """Return what sets up one transaction, in one statement: what was set at connect would stay with another server."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in session.items())

    def set_up(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT {calls}")

    return set_up


def _session(statement_timeout: timedelta) -> dict[str, object]:
    """Return PostgreSQL's settings for each of our transactions."""
    milliseconds = int(statement_timeout.total_seconds() * 1000)

    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "timezone": "UTC",
        # A backlog fills faster than statistics follow. Plans from before it, and those of foreign keys are kept for as
        # long as the connection, would read the whole table for every row.
        "enable_seqscan": "off",
    }


def _sqlite_engine(target: URL, busy_timeout: timedelta) -> Engine:
    if target.database and target.database != ":memory:":
        Path(target.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(target, hide_parameters=True, connect_args={"timeout": busy_timeout.total_seconds()})

    @event.listens_for(engine, "connect")
    def _set_up(dbapi_connection: sqlite3.Connection, _record: object) -> None:
        dbapi_connection.isolation_level = None  # SQLAlchemy begins; the driver must not
        _write_ahead(dbapi_connection, busy_timeout)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get(_READS_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: sqlite3.Connection, busy_timeout: timedelta) -> None:
    """Give a file its write-ahead log; SQLite refuses, and does not wait, while others are giving it theirs."""
    gives_up = time.monotonic() + busy_timeout.total_seconds()
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= gives_up:
                raise
            time.sleep(_WRITE_AHEAD_PAUSE)
        else:
            return


class NotADatabase(PostPurchaseError):
    """The file that database.url names is not an SQLite database."""


@contextmanager
def patience() -> Iterator[None]:
    """Turn errors that pass by themselves into `StoreUnavailable`; let bugs be bugs."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise StoreUnavailable(_first_line(error)) from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", None) in _NO_DATABASE:
            raise NotADatabase(_first_line(error)) from error
        if error.connection_invalidated:
            raise StoreUnavailable(_first_line(error)) from error
        raise


def _was_deadlock(error: StoreUnavailable) -> bool:
    """Whether PostgreSQL gave the transaction up because two waited for each other."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == _DEADLOCK


def _first_line(error: Exception) -> str:
    original = getattr(error, "orig", None) or error

    return (str(original).strip().splitlines() or [type(original).__name__])[0]


class SqlStore:
    """Commands in one database; implements `ports.Store`."""

    def __init__(self, engine: Engine, *, clock: Clock | None = None, tells_host: bool = False) -> None:
        """Keep commands on `engine`; with `tells_host`, mark what is enqueued so that the host is told of its end."""
        self.engine = engine
        self.clock = clock or DatabaseClock()
        self._tells_host = tells_host

    @contextmanager
    def begin(self) -> Iterator[SqlTransaction]:
        """Open a transaction that commits at the end of the block and rolls back when the block raises."""
        with patience(), self.engine.begin() as connection:
            yield self.borrow(connection)

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """Open a transaction that only looks."""
        with patience(), self.engine.connect() as connection:
            quiet = connection.execution_options(**{_READS_ONLY: True})
            with quiet.begin():
                if quiet.dialect.name == "postgresql":
                    quiet.exec_driver_sql("SET LOCAL enable_seqscan = on")  # what counts all rows does well to
                yield self.borrow(quiet)

    def claim(
        self, ids: Sequence[UUID] | None, *, limit: int, lease: timedelta, without: Collection[str] = ()
    ) -> Sequence[Held]:
        """Take the lease on due commands: of `ids`, or of whatever is due. At most one per order.

        `without` are accounts whose commands are left alone.
        """
        problem = ""
        for _ in range(_CLAIM_TRIES):
            try:
                with self.begin() as transaction:
                    return transaction.claim(ids, limit=limit, lease=lease, without=without)
            except IntegrityError as error:
                problem = _first_line(error)
            except StoreUnavailable as error:
                if not _was_deadlock(error):
                    raise
                problem = str(error)
        log.warning("claim.given_up", tries=_CLAIM_TRIES, problem=problem)

        return []

    def borrow(self, connection: Connection) -> SqlTransaction:
        """Take part in a host's own transaction; the host commits."""
        return SqlTransaction(connection, self.clock, tells_host=self._tells_host)

    def close(self) -> None:
        """Give every pooled connection back."""
        self.engine.dispose()
