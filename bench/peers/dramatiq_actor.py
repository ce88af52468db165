"""Dramatiq: an actor with its retries, its message in Redis, and a row in the shop's own table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import dramatiq
from dramatiq import cli
from dramatiq.brokers.redis import RedisBroker

from . import job

_THREADS = 32

dramatiq.set_broker(RedisBroker(url=job.REDIS_URL))


@dramatiq.actor(
    actor_name="capture",
    max_retries=job.RETRIES,
    min_backoff=job.RETRY_SECONDS * 1_000,
    max_backoff=job.RETRY_SECONDS * 1_000,
)
def capture(key: str) -> None:
    """Call the provider and store what came of it."""
    job.finish_command(key, job.call(key))


def work() -> None:
    """Be one worker process."""
    sys.argv = ["dramatiq", __name__, "--processes", "1", "--threads", str(_THREADS)]
    cli.main()


class Contestant:
    """What `client` calls."""

    def prepare(self) -> None:
        """Make the shop's table."""
        job.make_command_table()

    def store(self, keys: Sequence[str]) -> None:
        """Store the rows, then send a message for each."""
        job.store_commands(keys)
        for key in keys:
            capture.send(key)

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Store the rows, then send delayed messages."""
        job.store_commands(keys)
        for key in keys:
            capture.send_with_options(args=(key,), delay=round(seconds * 1_000))

    def store_one(self, key: str) -> str:
        """Store the row, then send the message."""
        job.store_commands([key])
        capture.send(key)

        return key
