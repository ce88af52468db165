"""Buckets in the database, a row each: for several processes without a Redis.

Decides nothing but the order of steps: lock the rows, do the arithmetic, write them back. Slower than Redis by the
price of a commit, and every batch of every process waits for its turn at the row of its bucket.

The table stands with all others in `store`, because one migration history and one comparison of schemas guard it; a
sibling may not be imported, so the rows come through a port of this module's, which `store.rates` fulfils and `wiring`
puts in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ..ports import LimiterUnavailable, StoreUnavailable
from .slots import Order, Reply, State, carry_out


class Rows(Protocol):
    """The rows of buckets, one transaction at a time."""

    def locked(self, keys: Sequence[str]) -> AbstractContextManager[tuple[int, Sequence[State]]]:
        """Lock the rows of `keys`, made where there is none; give the database's time in ms and their states.

        States are changed in place, and written when the block ends.

        Raises:
            StoreUnavailable: The database was away; nothing was written.
        """


class DatabasePlace:
    """Keeps buckets in rows, on the database's clock."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def carry_out(self, keys: Sequence[str], order: Order) -> Reply:
        """Do what is asked of the buckets, with their rows locked.

        Raises:
            LimiterUnavailable: The database was away.
        """
        try:
            with self._rows.locked(keys) as (now, states):
                return carry_out(order, states, now=now)
        except StoreUnavailable as error:
            raise LimiterUnavailable(str(error)) from error

    def close(self) -> None:
        """The store closes its own engine."""
