"""The worker with the settings of the Django project: `celery -A worker.contrib.django worker`.

Decides that such a worker also tells the host of what is final, in a thread of its own: a host that takes its time
must not hold up dispatch and sweep. Everything else is the worker's own app.
"""

from __future__ import annotations

import threading
from typing import Any

import django
from celery import bootsteps

# Before the app is made: it reads the settings, and the project's are known only after this.
django.setup()

from ...celery import app  # noqa: E402  # as the line above says
from ...duties import Duty, keep_up  # noqa: E402  # the same, for what it imports
from . import conf  # noqa: E402  # as the line above says
from .finished import tick  # noqa: E402  # as the line above says

__all__ = ["app"]

#: Seconds between two looks for final commands; a hundred are told at each.
_INTERVAL_SECONDS = 1.0


class Telling(bootsteps.StartStopStep):
    """A thread in the worker's main process that tells the host."""

    requires = frozenset({"celery.worker.components:Pool"})

    def __init__(self, worker: Any, **_: Any) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(worker)

    def include_if(self, worker: Any) -> bool:  # noqa: ARG002  # Celery's signature
        """Only where the host wants to be told."""
        return conf.on_finished() is not None

    def start(self, worker: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Begin telling."""
        work = [Duty("tell", _INTERVAL_SECONDS, tick)]
        self._thread = threading.Thread(
            target=keep_up, args=(work, self._stop), name="post-purchase-telling", daemon=True
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002  # Celery's signature
        """End after the running tick; what it has not told is told by the next worker."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    close = stop
    terminate = stop


app.steps["worker"].add(Telling)
