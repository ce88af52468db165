"""The two tasks of our own Celery app, thin: what they do, and what Flower sees of it, is decided in `process`."""

from __future__ import annotations

from celery import Task

from .celery import app, process
from .publish import ESCALATE_TASK, EXECUTE_TASK


@app.task(name=EXECUTE_TASK, bind=True, max_retries=None)
def execute(self: Task, ids: list[str]) -> dict[str, int]:
    """Try commands once each, and whatever else is due while it lasts; the database decides which of them are due."""
    return process.execute(ids, task_id=self.request.id)


@app.task(name=ESCALATE_TASK, bind=True, max_retries=None)
def escalate(self: Task, ticket_id: str) -> dict[str, str]:
    """Tell the desk what it does not know of a ticket yet."""
    return process.escalate(ticket_id, task_id=self.request.id)
