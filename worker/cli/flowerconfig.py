"""How `post-purchase flower` sets Flower up: what it keeps, which columns it shows, and that nobody acts in it.

Flower runs this file and takes the names it knows. Decides how a task looks in it; leaves who may look to `flower`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

#: Revoking a task or stopping a worker by a click leaves no trace of who and why; operators have verbs for it.
read_only = True

persistent = True

#: Milliseconds. It also saves when it ends, so this is what a crash may cost.
state_save_interval = 10_000

#: All of them are written at each save; ten times as many would take seconds of every ten.
max_tasks = 10_000

#: Seconds. Restarted containers have new names; without this, each of them would stay in the list for ever.
purge_offline_workers = 3_600

tasks_columns = "received,args,state,eta,result,uuid"


def format_task(task: Any) -> Any:
    """Show a task as people read it; what is searched for is as Celery has it."""
    if task.eta:
        if task.state == "RECEIVED":
            task.state = "SCHEDULED"
        task.eta = _on_one_line(datetime.fromisoformat(task.eta))
    task.result = (task.result or "").strip("{}").replace("'", "")
    if task.traceback:
        # One column for what came of it, or the list would not fit on a screen.
        task.result = task.exception = _reason(task.traceback)
        # The rest of it are places in Celery and folders of this machine; where our code failed stands in the log.
        task.traceback = None
    # A retry is a task of its own here, and the label says which try it is.
    task.retries = None

    return task


def _on_one_line(moment: datetime) -> str:
    """Write a moment without its year and with spaces that do not break; the column is narrow."""
    return f"{moment.astimezone(UTC):%d %b %H:%M:%S} UTC".replace(" ", "\N{NO-BREAK SPACE}")


def _reason(traceback: str) -> str:
    """Return the last line of a traceback, and of its error's name the last part.

    The exception itself does not do: where a pool process died, Celery names it by a wrapper and without its text.
    """
    name, separator, text = traceback.rstrip().rpartition("\n")[2].partition(": ")

    return f"{name.rpartition('.')[2]}{separator}{text}"
