"""A plain Celery task with `autoretry_for` and a row in the shop's own table, as most shops have it today.

Two worker processes with a pool of threads, for the job waits for a network; late acknowledgement, which Celery
advises for a task that may run twice.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from celery import Celery

from . import job

_THREADS = 32

app = Celery("bench", broker=job.REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(
    name="bench.capture",
    autoretry_for=(Exception,),
    retry_kwargs={"max_retries": job.RETRIES, "countdown": job.RETRY_SECONDS},
)
def capture(key: str) -> None:
    """Call the provider and store what came of it."""
    job.finish_command(key, job.call(key))


def work() -> None:
    """Be one worker process."""
    name = f"bench-{socket.gethostname()}@%h"
    options = ["--pool", "threads", "--concurrency", str(_THREADS), "--hostname", f"%i-{name}", "--loglevel", "ERROR"]
    app.worker_main(["worker", *options, "--without-gossip", "--without-mingle"])


class Contestant:
    """What `client` calls."""

    def prepare(self) -> None:
        """Make the shop's table."""
        job.make_command_table()

    def store(self, keys: Sequence[str]) -> None:
        """Store the rows, then publish a message for each over one connection."""
        self.store_later(keys, 0)

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Do the same with a countdown, which the workers keep in memory."""
        job.store_commands(keys)
        with app.producer_pool.acquire(block=True) as producer:
            for key in keys:
                capture.apply_async([key], producer=producer, countdown=seconds or None)

    def store_one(self, key: str) -> str:
        """Store the row, then publish."""
        job.store_commands([key])
        capture.delay(key)

        return key
