"""Whose clock the store goes by: the database's, or in tests one that is set by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import ColumnElement, bindparam, func, literal, type_coerce

from .schema import UtcDateTime


class Clock(Protocol):
    """Gives the present moment as an SQL expression, so that every process goes by one clock.

    Statements are built once, so the expression gives the moment at which they are run.
    """

    def expression(self, dialect: str, *, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Return the present moment, moved by `plus`."""

    def __hash__(self) -> int:
        """Each clock has statements of its own."""


class DatabaseClock:
    """The database server's own clock; on SQLite that of the machine the file is on."""

    def expression(self, dialect: str, *, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Return the present moment, moved by `plus`. Microseconds on PostgreSQL, milliseconds on SQLite."""
        if dialect == "sqlite":
            moved: tuple[Any, ...] = (f"{plus.total_seconds():+.3f} seconds",) if plus else ()

            return type_coerce(func.strftime("%Y-%m-%d %H:%M:%f000", "now", *moved), UtcDateTime())

        present = func.clock_timestamp(type_=UtcDateTime())

        return type_coerce(present + literal(plus), UtcDateTime()) if plus else present


class ManualClock:
    """A clock that stands still until it is moved; for tests."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    @property
    def now(self) -> datetime:
        """The moment it stands at."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move it forward."""
        self._now += by

    def expression(self, dialect: str, *, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:  # noqa: ARG002  # the Protocol's signature
        """Return the moment it stands at when the statement is run, moved by `plus`."""
        return bindparam(None, callable_=lambda: self._now + plus, type_=UtcDateTime(), unique=True)
