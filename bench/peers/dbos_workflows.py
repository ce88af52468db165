"""DBOS: a durable workflow of one step in a queue; workflow, step and result are its own rows.

Each worker has an id that stays, so that it takes up again what it had when it died.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from dbos import DBOS, DBOSClient, EnqueueOptions

from . import job

_QUEUE = "bench"
_AT_ONCE = 100

_WORKFLOW: EnqueueOptions = {"workflow_name": "capture", "queue_name": _QUEUE}

#: It asks for work at an interval; by default each second, which would be all that is measured.
_POLL_SECONDS = 0.05


@DBOS.step(
    name="call",
    retries_allowed=True,
    interval_seconds=job.RETRY_SECONDS,
    max_attempts=job.RETRIES + 1,
    backoff_rate=1.0,
)
def call(key: str) -> int:
    """Call the provider; what came of it is the step's result."""
    return job.call(key)


@DBOS.workflow(name="capture")
def capture(key: str) -> int:
    """Call the provider."""
    return call(key)


def _configure() -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": job.DATABASE_URL,
            "executor_id": f"bench-{os.environ.get('BENCH_NUMBER', '0')}",
            "application_version": "bench",
            "log_level": "ERROR",
            "sys_db_pool_size": 40,
        }
    )
    DBOS.launch()
    DBOS.register_queue(_QUEUE, worker_concurrency=_AT_ONCE, polling_interval_sec=_POLL_SECONDS)


def work() -> None:
    """Be one worker process."""
    _configure()
    threading.Event().wait()


class Contestant:
    """What `client` calls."""

    def __init__(self) -> None:
        self._client: DBOSClient | None = None

    def prepare(self) -> None:
        """Make its tables."""
        _configure()
        DBOS.destroy()

    def store(self, keys: Sequence[str]) -> None:
        """Enqueue one after the other: there is no batch."""
        for key in keys:
            self.store_one(key)

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Do the same with a delay."""
        for key in keys:
            self._enqueue({"workflow_id": key, "delay_seconds": seconds, **_WORKFLOW}, key)

    def store_one(self, key: str) -> str:
        """Enqueue one workflow, under the key."""
        self._enqueue({"workflow_id": key, **_WORKFLOW}, key)

        return key

    def _enqueue(self, options: EnqueueOptions, key: str) -> None:
        if self._client is None:
            self._client = DBOSClient(system_database_url=job.DATABASE_URL)
        self._client.enqueue(options, key)
