"""Tell the host of each command that is final, in one transaction with what the host makes of it.

Decides that the mark "told" and the host's own writes are one transaction on Django's connection: they commit together
or not at all, so the host is told at least once, and what it writes is written once. What fails is told again, later
each time. Why not in the transaction that records the end: docs/decisions/0012-django-lends-its-cursor.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from traceback import format_tb
from typing import Any
from uuid import UUID

import structlog
from django.db import close_old_connections

from ...ports import StoredCommand
from . import conf
from .lending import DjangoServices

log = structlog.get_logger(__name__)

#: How many are told in one run: a bound for the run, not for the rate, because the next one follows at once.
MOST = 100

#: What failed waits as long again as it has waited already, within these bounds: a lock that is soon let go costs
#: seconds, and an error that needs a new release asks the database twelve times an hour.
_SOONEST = timedelta(seconds=5)
_LATEST = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that is final: `state` is `succeeded`, `rejected` or `cancelled`.

    `amount` is in minor units. `result` is what the provider gave, such as the id of the capture; `problem` says in a
    code why it was refused.
    """

    id: UUID
    account: str
    kind: str
    order_id: str
    reference: str | None
    target: str | None
    amount: int | None
    state: str
    result: Mapping[str, Any] | None
    problem: str | None
    finalized_at: datetime


def tell_finished(*, limit: int = MOST) -> Counter[str]:
    """Tell `on_finished` of up to `limit` final commands, each in a transaction of its own; return counts.

    A worker that was started as `celery -A worker.contrib.django worker` does this by itself.

    Raises:
        ConfigurationError: `POST_PURCHASE` cannot be used.
        StoreUnavailable: The database is away; nothing was changed.
    """
    services, hook = conf.services(), conf.on_finished()
    counts: Counter[str] = Counter(told=0, failed=0)
    while hook is not None and counts.total() < limit and (came := _tell_one(services, hook)) is not None:
        counts[came] += 1

    return counts


def tick() -> Counter[str]:
    """Tell once, in a thread that lives on: a connection that broke or is too old is not kept."""
    close_old_connections()
    try:
        return tell_finished()
    finally:
        close_old_connections()


def _tell_one(services: DjangoServices, hook: Callable[[Finished], None]) -> str | None:
    command: StoredCommand | None = None
    now: datetime | None = None
    try:
        with services.store.begin() as ours:
            # Taken before the host is asked: where two take at once, the second finds nothing or waits for the first.
            command, now = ours.take_untold(), ours.now
            if command is None:
                return None
            hook(_finished(command))
    except Exception as error:
        if command is None or now is None:
            raise
        _postpone(services, command, now, error)
        return "failed"

    return "told"


def _postpone(services: DjangoServices, command: StoredCommand, now: datetime, error: Exception) -> None:
    waited = now - (command.finalized_at or now)
    wait = min(max(waited, _SOONEST), _LATEST)
    with services.store.begin() as ours:
        ours.tell_later(command.id, at=now + wait)
    # Only its kind: an error of the host's may quote a row.
    log.error(
        "host.not_told",
        command_id=str(command.id),
        problem=type(error).__name__,
        stack="".join(format_tb(error.__traceback__)),
        again_in_seconds=round(wait.total_seconds(), 3),
    )


def _finished(command: StoredCommand) -> Finished:
    assert command.finalized_at is not None  # noqa: S101  # only final commands are taken

    return Finished(
        id=command.id,
        account=command.account,
        kind=command.kind,
        order_id=command.order_id,
        reference=command.reference,
        target=command.target,
        amount=command.amount,
        state=command.state.value,
        result=command.result,
        problem=None if command.problem is None else command.problem.code,
        finalized_at=command.finalized_at,
    )
