"""Millions of rows in seconds: a real row of the worker's, multiplied by the database itself.

Decides how: what the worker left is copied column by column, whatever columns there are, with new ids, keys and
orders; without indexes, which are then built as they were. Nothing is made up about the state of a finished command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from .arena import Arena
from .contestants import OURS, Left
from .drain import await_final
from .sql import execute, plain

_COMMAND, _ATTEMPT, _OUTCOME = "post_purchase_command", "post_purchase_attempt", "post_purchase_outcome"

#: A database with one finished and one pending command, whose rows are multiplied.
SEED = "bench_seed"

#: Of each copy: its own identity, in the form that the worker gives it.
_IDENTITY: Mapping[str, str] = {
    "id": "uuidv7()",
    "order_id": "'order-' || gen_random_uuid()",
    "reference": "'parcel-' || gen_random_uuid()",
    "idempotency_key": "gen_random_uuid()::text",
}

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE (conrelid = ANY(%(tables)s::regclass[]) OR confrelid = ANY(%(tables)s::regclass[]))
    AND contype IN ('p', 'u', 'f')
    ORDER BY contype = 'f', conname
"""
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = ANY(%(tables)s::regclass[])
"""


def make_seed(arena: Arena) -> None:
    """Have the worker carry out one command, and leave another as it was stored."""
    with arena.bout(OURS) as bout:
        bout.client("store", 1)
        bout.crew.start()
        bout.wait_for_effects(1, within=30)
        await_final(bout, within=15)
        bout.crew.stop()
        bout.client("store", 1)
        execute(bout.database_url, "UPDATE post_purchase_command SET published_until = NULL WHERE state = 'pending'")
    arena.database.empty(SEED, like=f"bench_{OURS.name}")


def finished(url: str, count: int) -> None:
    """Add finished commands, each with its attempt and its outcome; on two cores at once."""
    tables = [_COMMAND, _ATTEMPT, _OUTCOME]
    with psycopg.connect(plain(url), autocommit=True) as connection:
        restore = _strip(connection, tables)
        [last] = connection.execute(f"SELECT max(seq) FROM {_COMMAND}").fetchone() or [0]  # noqa: S608  # our own table
        seed = "state = 'succeeded' ORDER BY seq LIMIT 1"
        halves = (count // 2, count - count // 2)
        _at_once(url, [_multiplied(connection, _COMMAND, seed=seed, count=half, replaced=_IDENTITY) for half in halves])
        _at_once(url, [_copied(connection, table, after=last) for table in (_ATTEMPT, _OUTCOME)])
        connection.execute("SET maintenance_work_mem = '1GB'")
        for statement in restore:
            connection.execute(statement.encode())
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _at_once(url: str, statements: Sequence[str]) -> None:
    with ThreadPoolExecutor(len(statements)) as pool:
        for done in [pool.submit(execute, url, statement) for statement in statements]:
            done.result()


def _copied(connection: psycopg.Connection[Any], table: str, *, after: int) -> str:
    """Say how each new finished command gets its row of the ledger."""
    columns = _columns(connection, table)
    taken = ", ".join("c.id" if name == "command_id" else f"s.{name}" for name in columns)

    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {taken}"  # noqa: S608  # names of our own tables
        f" FROM {_COMMAND} c, (SELECT * FROM {table} LIMIT 1) s WHERE c.seq > {after} AND c.state = 'succeeded'"
    )


def history(url: str, left: Sequence[Left], count: int) -> None:
    """Add what a peer leaves behind of finished jobs; its triggers are for its own writes."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for each in left:
            statement = _multiplied(connection, each.table, seed=each.rows, count=count, replaced=each.own)
            connection.execute(statement.encode())
        connection.execute("VACUUM (ANALYZE)")


def pending(url: str, count: int, *, replaced: Mapping[str, str] | None = None) -> None:
    """Add commands that wait, due at once unless `replaced` says otherwise: column → SQL."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        seed = "state = 'pending' ORDER BY seq LIMIT 1"
        statement = _multiplied(
            connection, _COMMAND, seed=seed, count=count, replaced={**_IDENTITY, **(replaced or {})}
        )
        connection.execute(statement.encode())
        connection.execute("ANALYZE")


def _multiplied(
    connection: psycopg.Connection[Any], table: str, *, seed: str, count: int, replaced: Mapping[str, str]
) -> str:
    """Say how one row becomes many."""
    columns = _columns(connection, table)
    taken = ", ".join(f"{replaced[name]} AS {name}" if name in replaced else f"s.{name}" for name in columns)

    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {taken}"  # noqa: S608  # names of our own tables
        f" FROM (SELECT * FROM {table} WHERE {seed}) s, generate_series(1, {int(count)}) AS n"
    )


def _columns(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """Name the columns that the database does not fill by itself."""
    rows = connection.execute(
        "SELECT attname FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''"
        " AND coalesce(pg_get_expr(adbin, adrelid), '') NOT LIKE 'nextval(%%' ORDER BY attnum",
        [table],
    )

    return [str(row[0]) for row in rows]


def _strip(connection: psycopg.Connection[Any], tables: list[str]) -> list[str]:
    """Drop constraints and indexes; return the statements that bring them back."""
    constraints = connection.execute(_CONSTRAINTS, {"tables": tables}).fetchall()
    for table, name, _, _ in reversed(constraints):
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(_INDEXES, {"tables": tables}).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    built = [
        # What the database itself copied need not be looked up row by row; what comes later is checked as ever.
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}{' NOT VALID' if kind == 'f' else ''}"
        for table, name, kind, definition in constraints
    ]

    return [*(definition for _, definition in indexes), *built]
