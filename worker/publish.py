"""Hand messages to the broker through Celery: ids only, under a readable label, and never at a caller's expense.

Decides how fast a process publishes by itself, how long it leaves publishing to dispatch after the broker did not
answer, and how many messages with a countdown it lets the broker hold. A message is a hint; whatever goes wrong here
is logged and made good by dispatch. Source of the limits: Celery keeps held countdowns in worker memory and loses
them for up to the visibility timeout when a worker is killed.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from celery import Celery

log = structlog.get_logger(__name__)

EXECUTE_TASK = "post-purchase.execute"
ESCALATE_TASK = "post-purchase.escalate"
EXECUTE_QUEUE = "post-purchase.execute"
UPKEEP_QUEUE = "post-purchase.upkeep"


class CeleryPublisher:
    """Publishes from this process; may be shared by its threads. Implements `ports.Publisher`."""

    def __init__(
        self,
        app: Celery,
        *,
        rate: int,
        pause: float,
        held: int,
        monotonic: Callable[[], float],
    ) -> None:
        """Publish through `app`.

        Args:
            app: Knows the broker; its timeouts bound how long a publish may take.
            rate: How many single messages a second `reserve` grants.
            pause: Seconds for which publishing is left to others after it failed.
            held: How many messages with a countdown may be held at once.
            monotonic: This process's own clock, in seconds.
        """
        self._app = app
        self._rate = rate
        self._pause = pause
        self._held = held
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._resumes = 0.0
        self._tokens = float(rate)
        self._counted = monotonic()
        self._countdowns: list[float] = []

    def reserve(self) -> bool:
        """Take one place among the single messages of this second; False: leave this command to dispatch."""
        with self._lock:
            now = self._monotonic()
            if now < self._resumes:
                return False
            self._tokens = min(float(self._rate), self._tokens + (now - self._counted) * self._rate)
            self._counted = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0

            return True

    def may_hold(self) -> bool:
        """Whether one more message with a countdown may be handed to the broker now."""
        with self._lock:
            now = self._monotonic()
            while self._countdowns and self._countdowns[0] <= now:
                heapq.heappop(self._countdowns)

            return now >= self._resumes and len(self._countdowns) < self._held

    def execute(self, ids: Sequence[UUID], *, label: str, countdown: float | None = None) -> bool:
        """Ask a worker to execute commands, after `countdown` seconds if given; False when it was not handed over."""
        sent = self._send(EXECUTE_TASK, EXECUTE_QUEUE, [[str(each) for each in ids]], label, countdown)
        if sent and countdown is not None:
            with self._lock:
                heapq.heappush(self._countdowns, self._monotonic() + countdown)

        return sent

    def escalate(self, ticket_id: UUID, *, label: str) -> bool:
        """Ask a worker to tell a ticket to its desk; False when it was not handed over."""
        return self._send(ESCALATE_TASK, UPKEEP_QUEUE, [str(ticket_id)], label, None)

    def _send(self, task: str, queue: str, args: list[object], label: str, countdown: float | None) -> bool:
        if self._monotonic() < self._resumes:
            return False
        try:
            self._app.send_task(
                task, args, queue=queue, countdown=countdown, argsrepr=label, kwargsrepr="{}", retry=False
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, the commit stands and dispatch makes it good
            self._resumes = self._monotonic() + self._pause
            log.warning("publish.failed", task=task, problem=type(error).__name__, left_to_dispatch_seconds=self._pause)
            return False

        return True
