"""The two tasks, thin: parse ids, call one service, return for Flower what came of it: counts, or ticket and desk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_tb
from uuid import UUID

import structlog
from celery import Task

from .celery import app, at_work, services
from .domain.errors import PostPurchaseError
from .logs import bound
from .ports import StoreUnavailable
from .publish import ESCALATE_TASK, EXECUTE_TASK

log = structlog.get_logger(__name__)


class TaskFailed(PostPurchaseError):
    """Nobody foresaw this; the worker's log says what and where, in the line `task.failed` with the id of this task."""

    def __init__(self, reason: str) -> None:
        # All of it is the argument: the pool makes the error again from that, in another process.
        Exception.__init__(self, reason)


@app.task(name=EXECUTE_TASK, bind=True, max_retries=None)
def execute(self: Task, ids: list[str]) -> dict[str, int]:
    """Try commands once each, and whatever else is due while it lasts; the database decides which of them are due."""
    with _edge(self):
        try:
            counts = services().executor.execute([UUID(each) for each in ids])
        except StoreUnavailable as error:
            # Nothing was taken; dispatch hands the ids out again once the database is back.
            log.warning("execute.database_away", step="claim", problem=str(error))
            return {"claimed": 0}

        # What was counted last says most, and Flower's list cuts off the end.
        return {name: count for name, count in reversed(counts.items()) if count} or {"claimed": 0}


@app.task(name=ESCALATE_TASK, bind=True, max_retries=None)
def escalate(self: Task, ticket_id: str) -> dict[str, str]:
    """Tell the desk what it does not know of a ticket yet."""
    with _edge(self):
        try:
            telling = services().escalator.escalate(UUID(ticket_id))
        except StoreUnavailable as error:
            # The ticket is still due; sweep hands it out again once the database is back.
            log.warning("escalate.database_away", problem=str(error))
            return {"postponed": "the database is away", "ticket": ticket_id}

        return {telling.verb: telling.external_ref or telling.problem or "new", "ticket": ticket_id}


@contextmanager
def _edge(task: Task) -> Iterator[None]:
    """Name the task on every line, let it end with its calls, and show Flower no error that quotes a row."""
    with bound(task_id=task.request.id), at_work():
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the outermost step: whatever it is, it is told and ends here
            # Not the whole error: a database quotes the row that it refused, and Celery shows an error as it is.
            problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            stack = "".join(format_tb(error.__traceback__))
            log.error("task.failed", problem=problem, stack=stack)  # noqa: TRY400  # see above
            raise TaskFailed(f"{type(error).__name__}, see task.failed of this task in the worker's log") from None
