"""How a Celery worker outlives its broker, and what it leaves out on quorum queues.

Celery 5.7.0 closes a lost connection before it reconnects. On Redis, with a message unacknowledged, that close asks
the dead connection to put the message back, raises, and ends the worker; 5.6.3 did not close and lived. This consumer
leaves the dead connection to the garbage collector. `tests/processes/test_broker_restart.py` restarts Redis under a
busy worker: once it passes without this override, drop it.

On quorum queues Celery makes 28 further queues for countdowns to wait in. Ours wait in the database: they are not made.
"""

from __future__ import annotations

import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer as CeleryConsumer


class Consumer(CeleryConsumer):
    """Celery's consumer, but a lost connection is let go instead of closed, and RabbitMQ holds no countdowns."""

    class Blueprint(CeleryConsumer.Blueprint):
        """The steps of its start."""

        default_steps = tuple(step for step in CeleryConsumer.Blueprint.default_steps if "DelayedDelivery" not in step)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect without asking anything of the connection that was lost."""
        lost = self.connection
        if lost is not None:
            lost.close = lost.release = _leave
        with warnings.catch_warnings():
            # It asks to have running tasks cancelled, which would cut off calls in flight.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)


def _leave(*_args: Any, **_kwargs: Any) -> None:
    """Do nothing: there is nobody at the other end."""
