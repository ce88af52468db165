"""The bootstep that does the duties in a worker, and tells `post-purchase check` of them.

It is a thread in the worker's main process with its own database engine. What the duties are and when they tick is
decided in `duties`. Another thread watches whether the worker still hears its broker, which `watch` decides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.control import inspect_command

from .duties import Duty, duties, keep_up
from .publish import EXECUTE_QUEUE, UPKEEP_QUEUE
from .watch import Watch
from .wiring import Services, task_seconds


def takes_ours(worker: Any) -> bool:
    """Whether a worker takes messages from one of our queues; a worker of a host's may be there for other work."""
    return not {EXECUTE_QUEUE, UPKEEP_QUEUE}.isdisjoint(worker.app.amqp.queues.consume_from)


def upkeep_step(
    services: Callable[[], Services], *, begin: Callable[[Any], None] = lambda _worker: None, may_end: bool = False
) -> type[Upkeep]:
    """Return the bootstep for the worker steps of a Celery app.

    Args:
        services: What it ticks with.
        begin: Told of the worker before any of its parts starts, and only of one that carries upkeep.
        may_end: A worker that does not hear its broker is ours to end.
    """
    parts = {
        "services": staticmethod(services),
        "begin": staticmethod(begin),
        "may_end": may_end,
        "__module__": __name__,
    }

    return type("Upkeep", (Upkeep,), parts)


class Upkeep(bootsteps.StartStopStep):
    """A thread in the worker's main process that ticks dispatch, sweep and probe."""

    requires = frozenset({"celery.worker.components:Pool"})
    services: Callable[[], Services]
    begin: Callable[[Any], None]
    may_end: bool
    work: list[Duty] = []  # noqa: RUF012  # shown by `show_upkeep` in the same process

    def __init__(self, worker: Any, **_: Any) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(worker)

    def include_if(self, worker: Any) -> bool:
        """Leave workers alone that are there for other work."""
        return takes_ours(worker)

    def create(self, worker: Any) -> None:
        """Be there before the pool forks and before the first message is taken."""
        self.begin(worker)

    def start(self, worker: Any) -> None:
        """Begin ticking and watching."""
        services = self.services()
        Upkeep.work = duties(services)
        self._thread = threading.Thread(
            target=keep_up, args=(Upkeep.work, self._stop), name="post-purchase-upkeep", daemon=True
        )
        self._thread.start()
        self._watch = Watch(
            worker,
            waiting=partial(services.messages_in, EXECUTE_QUEUE),
            seconds=services.settings.broker.watch_seconds,
            task_seconds=task_seconds(services.settings) if self.may_end else None,
        )
        # Nobody waits for it: it may be asking a broker that is slow, and has nothing to leave undone.
        threading.Thread(target=self._watch.keep, args=(self._stop,), name="post-purchase-watch", daemon=True).start()

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
