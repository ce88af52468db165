"""Statements of the bench itself, each on a connection of its own that commits by itself.

Decides nothing; contestants are not measured through it.
"""

from __future__ import annotations

from typing import Any

import psycopg


def execute(url: str, statement: str) -> None:
    """Run a statement."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute(statement.encode())


def scalar(url: str, statement: str) -> Any:
    """Return the one value of a query."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()

    return None if row is None else row[0]


def plain(url: str) -> str:
    """Return a URL of SQLAlchemy's as libpq has it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
