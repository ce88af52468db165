"""The Celery app: `celery -A worker worker` and `celery -A worker flower` find it here.

Decides what happens at the edges of a worker process: settings are read, the database is waited for, each pool
process makes its own services, and a stop lets calls in flight end. Leaves tasks to `tasks`, the ticking of dispatch
and sweep to `upkeep`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import structlog
from celery import signals

from .config import load
from .domain.errors import PostPurchaseError
from .logs import configure
from .wiring import Services, build_celery

log = structlog.get_logger(__name__)

#: How long a starting worker waits for its database before it says how to mend it and ends.
DATABASE_PATIENCE = timedelta(seconds=60)

app = build_celery("post-purchase", load(require_credentials=False))
app.conf.include = ["worker.tasks", "worker.upkeep"]

#: Set in the worker's main process on shutdown and seen by its pool processes: tasks take nothing new.
_stopping = multiprocessing.Event()
_services: dict[int, Services] = {}
_tasks_running = 0


def services() -> Services:
    """Return the services of this process; a forked one makes its own."""
    found = _services.get(os.getpid())
    if found is None:
        _services.clear()
        found = _services[os.getpid()] = Services(load(), stopping=_stopping.is_set)

    return found


@contextmanager
def at_work() -> Iterator[None]:
    """Mark this process as in the middle of a task, which a SIGTERM lets end."""
    global _tasks_running  # noqa: PLW0603  # one flag for one process, read by its signal handler
    _tasks_running += 1
    try:
        yield
    finally:
        _tasks_running -= 1


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(load(require_credentials=False).log)


@signals.worker_init.connect
def _start(**_: Any) -> None:
    """Refuse to start with settings, accounts or a schema that cannot work, and say how to mend it."""
    try:
        found = services()
        log.info("worker.starting", profile=found.settings.profile, accounts=sorted(found.accounts), desk=found.desk.name)
        found.await_database(patience=DATABASE_PATIENCE)
    except PostPurchaseError as error:
        log.error("worker.not_started", problem=str(error))  # noqa: TRY400  # the message says it all
        raise SystemExit(2) from None


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    _stopping.set()


@signals.worker_process_init.connect
def _start_pool_process(**_: Any) -> None:
    """Let a task end when the whole process group is told to (supervisors do): its calls are in flight."""
    signal.signal(signal.SIGTERM, _end_after_task)


def _end_after_task(_signal: int, _frame: Any) -> None:
    _stopping.set()
    if not _tasks_running:
        raise SystemExit(0)
