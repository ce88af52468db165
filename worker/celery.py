"""The Celery app: `celery -A worker worker` and `celery -A worker flower` find it here.

Decides what happens at the edges of a worker process: settings are read, the database is waited for, each pool
process makes its own services, and a stop lets calls in flight end. Leaves tasks to `tasks`, the ticking of dispatch
and sweep to `upkeep`.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import structlog
from celery import signals

from .config import ConfigurationError, Settings, load
from .domain.errors import PostPurchaseError
from .logs import configure
from .ports import StoreUnavailable
from .wiring import BROKER_FIX, DATABASE_FIX, BrokerUnavailable, Services, build_celery

log = structlog.get_logger(__name__)


def _load() -> Settings:
    """Read the settings; what is wrong with them is all that a person gets to read, not a traceback of the import."""
    try:
        return load(require_credentials=False)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None


_settings = _load()
app = build_celery("post-purchase", _settings)
app.conf.include = ["worker.tasks", "worker.upkeep"]

#: One byte that a worker's processes share: its main process says in it that tasks take nothing new. Not an Event,
#: whose lock would stay taken for ever by a process that is killed while it looks.
_stopping = mmap.mmap(-1, 1)

#: A task of this process was told to end: it finishes its calls in flight and takes nothing new.
_told_to_end = False

#: A worker's main process; None in a process that no worker started, or that shares no memory with it.
_main_pid: int | None = None

_services: dict[int, Services] = {}


def services() -> Services:
    """Return the services of this process; a forked one makes its own.

    What it inherited stays referenced and untouched: collecting it would close connections of the main process.
    """
    found = _services.get(os.getpid())
    if found is None:
        found = _services[os.getpid()] = Services(load(), stopping=lambda: _stopping[0] == 1 or _told_to_end)

    return found


@contextmanager
def at_work() -> Iterator[None]:
    """Let a task end when its process is told to: supervisors signal the whole group, and its calls are in flight.

    Only here, because the pool sets its own handler after every hook for the start of a process. A main process, and a
    pool of threads, end after their tasks by themselves.
    """
    global _told_to_end  # noqa: PLW0603  # one flag for one process, set by its signal handler
    if os.getpid() == _main_pid or threading.current_thread() is not threading.main_thread():
        yield
        return

    _told_to_end = False
    before = signal.signal(signal.SIGTERM, _end_after_task)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(_settings.log)


@signals.worker_init.connect
def _start(**_: Any) -> None:
    """Refuse to start with settings, accounts or a schema that cannot work, and say how to mend it."""
    global _main_pid  # noqa: PLW0603  # known once the process knows that it is a worker
    _main_pid = os.getpid()
    configure(_settings.log)  # Celery asks for it only after this
    try:
        found = services()
        log.info(
            "worker.starting", profile=found.settings.profile, accounts=sorted(found.accounts), desk=found.desk.name
        )
        patience = timedelta(seconds=found.settings.database.patience_seconds)
        found.await_database(patience=patience)
        found.await_broker(patience=patience)
    except BrokerUnavailable as error:
        log.error("worker.not_started", problem=str(error), fix=BROKER_FIX)  # noqa: TRY400  # these say it all
        raise SystemExit(2) from None
    except StoreUnavailable as error:
        log.error("worker.not_started", problem=str(error), fix=DATABASE_FIX)  # noqa: TRY400  # these say it all
        raise SystemExit(2) from None
    except PostPurchaseError as error:
        log.error("worker.not_started", problem=str(error))  # noqa: TRY400  # the message says it all
        raise SystemExit(2) from None


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    _stopping[0] = 1


def _end_after_task(_signal: int, _frame: Any) -> None:
    global _told_to_end  # noqa: PLW0603  # as above
    _told_to_end = True
