"""Hand due commands to the broker: the one guarantee that none is forgotten.

Decides which rows get a message: those whose message was lost, those that waited for a far rung, those that were
enqueued faster than single publishing pays. Leaves claiming to execute; a message for a row that is no longer due
does nothing. Any number of dispatchers may run at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from ..ports import Publisher, Store
from .handout import hand_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """Hands out due commands, a bounded number at a time.

    Attributes:
        message: How many ids share a message.
        limit: How many rows one run takes.
        window: How many rows may be handed out and unclaimed at once, over all dispatchers.
        horizon: How close `due_at` must be for a message with a countdown.
        published_for: After how long a row that nobody claimed is handed out again.
        tries: How many attempts the ladder has, for labels.
    """

    store: Store
    publisher: Publisher
    message: int
    limit: int
    window: int
    horizon: timedelta
    published_for: timedelta
    tries: int

    def run_once(self) -> Counter[str]:
        """Hand out what is due; return counts of commands and messages.

        Raises:
            StoreUnavailable: The database is away; nothing was handed out.
        """
        horizon = self.horizon if self.publisher.may_hold() else timedelta(0)
        with self.store.begin() as transaction:
            due = transaction.take_due(
                limit=self.limit, window=self.window, horizon=horizon, published_for=self.published_for
            )
            now = transaction.now if due else None
        if now is None:
            return Counter(commands=0, messages=0)

        messages = hand_out(self.publisher, due, now=now, size=self.message, tries=self.tries)

        return Counter(commands=len(due), messages=messages)
