"""Remove what ended long ago, and keep its key for ever.

Decides what may go: a final command that ended before the retention, whose host was told, that stands in no open ticket
and that no unfinished command replaces. What belongs to it goes along, and tickets in which no command is left.

Decides the order of it, on which "once in effect" rests. First the keys of a batch are kept in the narrow table, in a
transaction of their own. Then every transaction that was open at that moment is let end. Only then the rows are
archived and removed. So whoever finds a key free in the index of commands began after it was kept, and sees it there:
in one statement, and at every level of isolation. If keys were kept and rows removed in one commit, an enqueue that
began before it would wait at the index for that commit, find the key free, and still not see it in the narrow table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from ..ports import Archive, Prunable, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Commands whose keys are kept, and the transactions that may not have seen it."""

    ids: Sequence[UUID]
    before: datetime
    open: Collection[str]


@dataclass(slots=True, kw_only=True)
class Pruner:
    """Prunes a bounded number of commands at a time, along their ids. Any number may run at once.

    Attributes:
        retention: How long a command is kept after its end.
        limit: How many commands one run takes.
        archive: Where they are written before they go; None: nowhere.
    """

    store: Store
    retention: timedelta
    limit: int
    archive: Archive | None
    _batch: _Batch | None = None
    _after: UUID | None = None

    def run_once(self) -> Counter[str]:
        """Keep the keys of a batch and remove it, if nobody is left who may not see them; return counts.

        `waiting` counts commands that are removed by a later run: a transaction is open that is older than their keys.
        `left` counts those that changed meanwhile, or are held by others.

        Raises:
            StoreUnavailable: The database is away; nothing was changed.
            ArchiveUnavailable: The archive is; nothing was removed.
        """
        batch = self._batch or self._keep_keys()
        if batch is None:
            return Counter(commands=0, tickets=0, left=0, waiting=0)
        with self.store.begin() as transaction:
            still_open = set(batch.open).intersection(transaction.open_transactions())
        if still_open:
            self._batch = _Batch(ids=batch.ids, before=batch.before, open=still_open)
            return Counter(commands=0, tickets=0, left=0, waiting=len(batch.ids))

        counts = self._remove(batch)
        self._batch = None

        return counts

    def preview(self) -> Iterator[Sequence[Prunable]]:
        """Find what would be pruned, as many at a time as a run takes; change nothing."""
        after = None
        while True:
            with self.store.begin() as transaction:
                found = transaction.prunable(before=transaction.now - self.retention, after=after, limit=self.limit)
            if not found:
                return
            after = found[-1].id
            yield found

    def _keep_keys(self) -> _Batch | None:
        with self.store.begin() as transaction:
            before = transaction.now - self.retention
            found = transaction.prunable(before=before, after=self._after, limit=self.limit)
            ids = [each.id for each in found]
            if ids:
                transaction.keep_keys(ids)
        # At the end it begins anew: what was passed over may have been let go.
        self._after = ids[-1] if len(ids) == self.limit else None
        if not ids:
            return None
        with self.store.begin() as transaction:  # after the commit, or one that begins in between would be missed
            return _Batch(ids=ids, before=before, open=transaction.open_transactions())

    def _remove(self, batch: _Batch) -> Counter[str]:
        with self.store.begin() as transaction:
            ids = transaction.lock_prunable(batch.ids, before=batch.before)
            if ids and self.archive is not None:
                self.archive.keep(transaction.archived(ids), at=transaction.now)
            tickets = transaction.prune(ids) if ids else 0

        return Counter(commands=len(ids), tickets=tickets, left=len(batch.ids) - len(ids), waiting=0)
