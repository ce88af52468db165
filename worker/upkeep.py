"""The bootstep that does the duties in every worker, and tells `post-purchase check` of them.

It is a thread in the worker's main process with its own database engine. What the duties are and when they tick is
decided in `duties`.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps
from celery.worker.control import inspect_command

from .celery import app, services
from .duties import Duty, duties, keep_up


class Upkeep(bootsteps.StartStopStep):
    """A thread in the worker's main process that ticks dispatch and sweep."""

    requires = frozenset({"celery.worker.components:Pool"})
    work: list[Duty] = []  # noqa: RUF012  # shown by `show_upkeep` in the same process

    def __init__(self, worker: Any, **_: Any) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(worker)

    def start(self, worker: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Begin ticking."""
        Upkeep.work = duties(services())
        self._thread = threading.Thread(
            target=keep_up, args=(Upkeep.work, self._stop), name="post-purchase-upkeep", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002  # Celery's signature
        """End after the running tick."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    close = stop
    terminate = stop


@inspect_command(name="post_purchase_upkeep")
def show_upkeep(state: Any) -> dict[str, Any]:  # noqa: ARG001  # Celery's signature
    """Tell when this worker's upkeep last ticked; asked by `post-purchase check`."""
    return {
        duty.name: {
            "ticks": duty.ticks,
            "failures": duty.failures,
            "last_at": duty.last_at,
            "last_counts": duty.last_counts,
        }
        for duty in Upkeep.work
    }


app.steps["worker"].add(Upkeep)
