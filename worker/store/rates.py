"""The rows in which processes without a Redis share the provider's quotas.

Decides the table, the order of locks and the clock. Leaves what a row's state means to `limits.slots`. A row says
nothing that must not be lost: without it a bucket begins anew, and the provider's next answer teaches it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Connection, Engine, String, Table, Text, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from .clock import Clock
from .engine import patience
from .schema import metadata

State = dict[str, Any]

#: A bucket's key is made of names: host, level, account or acquiring partner, category.
_LONGEST_KEY = 512

#: One row per bucket. Written by whoever reserves slots; a row that is lost begins anew.
rate = Table(
    "post_purchase_rate",
    metadata,
    Column("bucket", String(_LONGEST_KEY), primary_key=True),
    Column("state", Text, nullable=False),  # JSON; its meaning is `limits.slots`'s own
)

_INSERT: Mapping[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class RateRows:
    """The rows of buckets; implements `limits.database.Rows`."""

    def __init__(self, engine: Engine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @contextmanager
    def locked(self, keys: Sequence[str]) -> Iterator[tuple[int, Sequence[State]]]:
        """Lock the rows of `keys`, made where there is none; give the database's time in ms and their states.

        States are changed in place, and written when the block ends.

        Raises:
            StoreUnavailable: The database was away; nothing was written.
        """
        with patience(), self._engine.begin() as connection:
            found = self._take(connection, keys)
            states: list[State] = [json.loads(found[key]) for key in keys]
            # Read after the locks are held: a moment before them, others may have been at work.
            now = connection.scalars(select(self._clock.expression(connection.dialect.name))).one()
            yield round(now.timestamp() * 1_000), states
            connection.execute(
                update(rate).where(rate.c.bucket == bindparam("key")).values(state=bindparam("written")),
                [{"key": key, "written": json.dumps(state)} for key, state in zip(keys, states, strict=True)],
            )

    def _take(self, connection: Connection, keys: Sequence[str]) -> dict[str, str]:
        """Lock rows in the order of their keys, which is the same in every process."""
        rows = [{"bucket": key, "state": "{}"} for key in sorted(keys)]
        wanted = (
            select(rate.c.bucket, rate.c.state).where(rate.c.bucket.in_(keys)).order_by(rate.c.bucket).with_for_update()
        )
        found = {row.bucket: row.state for row in connection.execute(wanted)}
        if len(found) < len(rows):
            insert = _INSERT[connection.dialect.name]
            connection.execute(insert(rate).on_conflict_do_nothing(), rows)
            found = {row.bucket: row.state for row in connection.execute(wanted)}

        return found
