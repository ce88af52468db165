"""A host's own transaction: enqueue inside it, publish after its outermost commit.

Decides how a Session or Connection of the host becomes a transaction of ours, and when its commit has really
happened. SQLAlchemy announces a commit before it is done, and a Session announces the release of a savepoint
as one; the only sure sign is the connection's `commit` event, followed without an error by the connection's return
to the pool or its next transaction. Until then publishing waits; should neither come soon, dispatch finds the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

#: In a pooled connection's `info`: what to do once the running transaction has committed …
_AFTER_COMMIT = "post_purchase.after_commit"
#: … and what to do now that it has.
_COMMITTED = "post_purchase.committed"

#: What is listened to. SQLAlchemy's `event.contains` goes by `id`, and would take a new pool for one that is gone.
_followed: WeakSet[Any] = WeakSet()


@dataclass(slots=True)
class _Waiting:
    """What waits for the commit. The first `safe` calls were there before the present savepoint was begun."""

    calls: list[Callable[[], None]] = field(default_factory=list)
    safe: int = 0


def connection_of(connection_or_session: Connection | Session | Any) -> Connection:
    """Return the connection on which the host's transaction runs.

    Accepts a Connection, a Session, and what forwards to one (`scoped_session`, Flask-SQLAlchemy's `db.session`).

    Raises:
        TypeError: Something else was passed.
    """
    if isinstance(connection_or_session, Connection):
        return connection_or_session
    candidate = getattr(connection_or_session, "connection", None)
    connection = candidate() if callable(candidate) else None
    if isinstance(connection, Connection):
        return connection

    message = (
        "enqueue needs the SQLAlchemy Connection or Session in whose transaction the command is stored, "
        f"got {type(connection_or_session).__name__}"
    )
    raise TypeError(message)


def after_commit(connection: Connection, call: Callable[[], None]) -> None:
    """Run `call` in this thread after the outermost commit of the running transaction; never after a rollback.

    `call` must not raise and must not use the connection.
    """
    _follow(connection)
    waiting: _Waiting = connection.info.setdefault(_AFTER_COMMIT, _Waiting())
    waiting.calls.append(call)


def _follow(connection: Connection) -> None:
    """Listen to this connection; of all others, only to their return to the pool and to their errors."""
    pool, dialect = connection.engine.pool, connection.dialect
    if pool not in _followed:
        event.listen(pool, "checkin", _on_checkin)
        _followed.add(pool)
    if dialect not in _followed:
        event.listen(dialect, "handle_error", _on_error)
        _followed.add(dialect)
    if connection not in _followed:
        event.listen(connection, "begin", _on_begin)
        event.listen(connection, "savepoint", _on_savepoint)
        event.listen(connection, "rollback_savepoint", _on_rollback_savepoint)
        event.listen(connection, "rollback", _on_rollback)
        event.listen(connection, "commit", _on_commit)
        _followed.add(connection)


def _on_begin(connection: Connection) -> None:
    connection.info.pop(_AFTER_COMMIT, None)  # of a transaction that ended in two phases, which are not followed
    _run(connection.info)


def _on_savepoint(connection: Connection, _name: str | None) -> None:
    waiting: _Waiting | None = connection.info.get(_AFTER_COMMIT)
    # Within another savepoint it is safer to forget too much: dispatch finds what was forgotten.
    if waiting is not None and not connection.in_nested_transaction():
        waiting.safe = len(waiting.calls)


def _on_rollback_savepoint(connection: Connection, _name: str, _context: None) -> None:
    waiting: _Waiting | None = connection.info.get(_AFTER_COMMIT)
    if waiting is not None:
        del waiting.calls[waiting.safe :]


def _on_rollback(connection: Connection) -> None:
    # A connection that died has no `info` to ask for, and asking would hide the host's own error.
    if not connection.invalidated:
        connection.info.pop(_AFTER_COMMIT, None)


def _on_commit(connection: Connection) -> None:
    waiting: _Waiting | None = connection.info.pop(_AFTER_COMMIT, None)
    if waiting is not None:
        connection.info[_COMMITTED] = waiting.calls


def _on_error(context: ExceptionContext) -> None:
    connection = context.connection
    # Between an announced commit and what follows it, the one thing that can fail is the commit.
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info.pop(_COMMITTED, None)


def _on_checkin(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info.pop(_AFTER_COMMIT, None)
    if dbapi_connection is None:  # it died, perhaps before its commit
        record.info.pop(_COMMITTED, None)
    _run(record.info)


def _run(info: dict[Any, Any]) -> None:
    for call in info.pop(_COMMITTED, ()):
        call()
