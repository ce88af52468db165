"""The two tasks, thin: parse ids, call one service, return counts for Flower."""

from __future__ import annotations

from uuid import UUID

import structlog
from celery import Task

from .celery import app, at_work, services
from .logs import bound
from .ports import StoreUnavailable
from .publish import ESCALATE_TASK, EXECUTE_TASK

log = structlog.get_logger(__name__)


@app.task(name=EXECUTE_TASK, bind=True, max_retries=None)
def execute(self: Task, ids: list[str]) -> dict[str, int]:
    """Try commands once each, and whatever else is due while it lasts; the database decides which of them are due."""
    with bound(task_id=self.request.id), at_work():
        try:
            return dict(services().executor.execute([UUID(each) for each in ids]))
        except StoreUnavailable as error:
            # Nothing was taken; dispatch hands the ids out again once the database is back.
            log.warning("execute.database_away", step="claim", problem=str(error))
            return {"claimed": 0}


@app.task(name=ESCALATE_TASK, bind=True, max_retries=None)
def escalate(self: Task, ticket_id: str) -> str:
    """Tell the desk what it does not know of a ticket yet."""
    with bound(task_id=self.request.id), at_work():
        try:
            return services().escalator.escalate(UUID(ticket_id))
        except StoreUnavailable as error:
            # The ticket is still due; sweep hands it out again once the database is back.
            log.warning("escalate.database_away", problem=str(error))
            return "postponed"
