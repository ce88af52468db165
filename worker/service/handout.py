"""Group due commands into messages: those due now in batches, those due soon by the second they are due in.

Decides which ids share a message and after how long it may arrive. Used wherever commands go to the broker: by
dispatch, and by execute for the retries it has just decided on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from uuid import UUID

from ..domain.label import batch_label, command_label
from ..ports import Due, Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    ids: list[UUID]
    label: str
    countdown: float | None


def hand_out(publisher: Publisher, due: Sequence[Due], *, now: datetime, size: int, tries: int) -> int:
    """Hand commands to the broker; return how many messages it took. Stops at the first that it does not take."""
    taken = 0
    for message in _messages(due, now=now, size=size, tries=tries):
        if not publisher.execute(message.ids, label=message.label, countdown=message.countdown):
            break
        taken += 1

    return taken


def _messages(due: Sequence[Due], *, now: datetime, size: int, tries: int) -> Iterator[_Message]:
    by_second: defaultdict[int, list[Due]] = defaultdict(list)
    for each in due:
        by_second[max(0, ceil((each.due_at - now).total_seconds()))].append(each)
    for second in sorted(by_second):
        together = by_second[second]
        for start in range(0, len(together), size):
            part = together[start : start + size]
            last = max((each.due_at - now).total_seconds() for each in part)
            yield _Message(
                ids=[each.id for each in part],
                label=batch_label([_label(each, tries) for each in part]),
                countdown=last if second else None,
            )


def _label(due: Due, tries: int) -> str:
    return command_label(kind=due.kind, account=due.account, order_id=due.order_id, failures=due.failures, tries=tries)
