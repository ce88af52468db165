"""A host's own transaction: enqueue inside it, publish after its outermost commit.

Decides how a Session or Connection of the host becomes a transaction of ours, and when its commit has really
happened. SQLAlchemy announces a commit before it is done, and a Session announces the release of a savepoint
as one; the only sure sign is the engine's `commit` event followed by the connection's return to the pool or
its next transaction. Until then publishing waits; should neither come soon, dispatch finds the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

#: In a pooled connection's `info`: what to do once the running transaction has committed …
_AFTER_COMMIT = "post_purchase.after_commit"
#: … and what to do now that it has.
_COMMITTED = "post_purchase.committed"


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
    engine = connection.engine
    if not event.contains(engine, "commit", _on_commit):
        event.listen(engine, "commit", _on_commit)
        event.listen(engine, "commit_twophase", _on_commit_twophase)
        event.listen(engine, "rollback", _on_rollback)
        event.listen(engine, "rollback_twophase", _on_rollback_twophase)
        event.listen(engine, "begin", _run_committed)
        event.listen(engine, "checkin", _on_checkin)
    connection.info.setdefault(_AFTER_COMMIT, []).append(call)


def _on_commit(connection: Connection) -> None:
    waiting = connection.info.pop(_AFTER_COMMIT, None)
    if waiting:
        connection.info.setdefault(_COMMITTED, []).extend(waiting)


def _on_commit_twophase(connection: Connection, _xid: Any, _is_prepared: bool) -> None:  # noqa: FBT001  # SQLAlchemy's signature
    _on_commit(connection)


def _on_rollback(connection: Connection) -> None:
    connection.info.pop(_AFTER_COMMIT, None)
    # Rolled back after its commit was announced: the commit failed.
    connection.info.pop(_COMMITTED, None)


def _on_rollback_twophase(connection: Connection, _xid: Any, _is_prepared: bool) -> None:  # noqa: FBT001  # SQLAlchemy's signature
    _on_rollback(connection)


def _run_committed(connection: Connection) -> None:
    _run(connection.info)


def _on_checkin(_dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info.pop(_AFTER_COMMIT, None)
    _run(record.info)


def _run(info: dict[Any, Any]) -> None:
    for call in info.pop(_COMMITTED, ()):
        call()
