"""A worker process, whichever Celery app it was started with: its services, its start, its end, and the two tasks.

Decides that each pool process makes its own services, what a worker must find before it takes a message, that a stop
lets calls in flight end, and what Flower gets to see of an error. Leaves to `celery` and `contrib.celery` which app
asks, and when; leaves the work itself to the services.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from traceback import format_tb
from typing import Any
from uuid import UUID

import structlog

from .domain.errors import PostPurchaseError
from .logs import bound
from .ports import StoreUnavailable
from .wiring import BROKER_FIX, DATABASE_FIX, BrokerUnavailable, Services

log = structlog.get_logger(__name__)


class TaskFailed(PostPurchaseError):
    """Nobody foresaw this; the worker's log says what and where, in the line `task.failed` with the id of this task."""

    def __init__(self, reason: str) -> None:
        # All of it is the argument: the pool makes the error again from that, in another process.
        Exception.__init__(self, reason)


class WorkerProcess:
    """The processes of one worker, as each of them sees itself; made before the pool forks."""

    def __init__(self, build: Callable[[Callable[[], bool]], Services]) -> None:
        """Work with the services that `build` makes; it is given what tells them that they shall take nothing new."""
        self._build = build
        self._services: dict[int, Services] = {}
        #: One byte that a worker's processes share: its main process says in it that tasks take nothing new. Not an
        #: Event, whose lock would stay taken for ever by a process that is killed while it looks.
        self._stopping = mmap.mmap(-1, 1)
        #: A task of this process was told to end: it finishes its calls in flight and takes nothing new.
        self._told_to_end = False
        #: A worker's main process; None in a process that no worker started, or that shares no memory with it.
        self._main_pid: int | None = None

    def services(self) -> Services:
        """Return the services of this process; a forked one makes its own.

        What it inherited stays referenced and untouched: collecting it would close connections of the main process.
        """
        found = self._services.get(os.getpid())
        if found is None:
            found = self._services[os.getpid()] = self._build(self._takes_nothing_new)
            # All that was imported and made so far stays. To go through it again takes the collector 0.1 s, in which
            # every send that is due comes late.
            gc.collect()
            gc.freeze()

        return found

    def start(self, *, demand: Callable[[Services], None] = lambda _: None) -> None:
        """Refuse to start with settings, accounts or a schema that cannot work, and say how to mend it.

        Args:
            demand: What else must hold before the database and the broker are waited for.
        """
        self._main_pid = os.getpid()
        try:
            found = self.services()
            log.info(
                "worker.starting", profile=found.settings.profile, accounts=sorted(found.accounts), desk=found.desk.name
            )
            demand(found)
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

    def stop(self) -> None:
        """Let the tasks of all processes take nothing new."""
        self._stopping[0] = 1

    def execute(self, ids: Sequence[str], *, task_id: str) -> dict[str, int]:
        """Try commands once each, and whatever else is due while it lasts."""
        with self._edge(task_id):
            try:
                counts = self.services().executor.execute([UUID(each) for each in ids])
            except StoreUnavailable as error:
                # Nothing was taken; dispatch hands the ids out again once the database is back.
                log.warning("execute.database_away", step="claim", problem=str(error))
                return {"claimed": 0}

            # What was counted last says most, and Flower's list cuts off the end.
            return {name: count for name, count in reversed(counts.items()) if count} or {"claimed": 0}

    def escalate(self, ticket_id: str, *, task_id: str) -> dict[str, str]:
        """Tell the desk what it does not know of a ticket yet; return what came of it, and the ticket."""
        with self._edge(task_id):
            try:
                telling = self.services().escalator.escalate(UUID(ticket_id))
            except StoreUnavailable as error:
                # The ticket is still due; sweep hands it out again once the database is back.
                log.warning("escalate.database_away", problem=str(error))
                return {"postponed": "the database is away", "ticket": ticket_id}

            return {telling.verb: telling.external_ref or telling.problem or "new", "ticket": ticket_id}

    def _takes_nothing_new(self) -> bool:
        return self._stopping[0] == 1 or self._told_to_end

    @contextmanager
    def _edge(self, task_id: str) -> Iterator[None]:
        """Name the task on every line, let it end with its calls, and show Flower no error that quotes a row."""
        with bound(task_id=task_id), self._at_work():
            try:
                yield
            except Exception as error:  # noqa: BLE001  # the outermost step: whatever it is, it is told and ends here
                # Not the whole error: a database quotes the row that it refused, and Celery shows an error as it is.
                problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                stack = "".join(format_tb(error.__traceback__))
                log.error("task.failed", problem=problem, stack=stack)  # noqa: TRY400  # see above
                raise TaskFailed(f"{type(error).__name__}, see task.failed of this task in the worker's log") from None

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Let a task end when its process is told to: supervisors signal the whole group, and its calls are in flight.

        Only here, because the pool sets its own handler after every hook for the start of a process. A main process,
        and a pool of threads, end after their tasks by themselves.
        """
        if os.getpid() == self._main_pid or threading.current_thread() is not threading.main_thread():
            yield
            return

        self._told_to_end = False
        before = signal.signal(signal.SIGTERM, self._end_after_task)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _end_after_task(self, _signal: int, _frame: Any) -> None:
        self._told_to_end = True
