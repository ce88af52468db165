"""PgQueuer: the job in PostgreSQL, its outcome in a row of the shop's; in batches, retried by the database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, SyncPsycopgDriver
from pgqueuer.executors import DatabaseRetryEntrypointExecutor
from pgqueuer.models import Job
from pgqueuer.queries import Queries, SyncQueries

from . import job

_BATCH = 100


async def _work() -> None:
    async with job.session() as session, asyncpg.create_pool(job.DATABASE_URL, max_size=20) as pool:
        pgq = PgQueuer.from_asyncpg_pool(pool)

        @pgq.entrypoint(
            "capture",
            executor_factory=lambda parameters: DatabaseRetryEntrypointExecutor(
                parameters=parameters,
                max_attempts=job.RETRIES + 1,
                initial_delay=timedelta(seconds=job.RETRY_SECONDS),
                backoff_multiplier=1.0,
            ),
        )
        async def capture(given: Job) -> None:
            key = (given.payload or b"").decode()
            status = await job.call_async(session, key)
            await pool.execute(job.KEEP_OUTCOME, key, status)

        # No cap, as by default: with one, a worker that has reached it sleeps until a notice or a timeout.
        await pgq.run(batch_size=_BATCH)


def work() -> None:
    """Be one worker process."""
    asyncio.run(_work())


class Contestant:
    """What `client` calls."""

    def __init__(self) -> None:
        self._per_thread = threading.local()

    def prepare(self) -> None:
        """Make its tables and the shop's."""
        asyncio.run(self._install())
        job.make_outcome_table()

    async def _install(self) -> None:
        connection = await asyncpg.connect(job.DATABASE_URL)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    def _queries(self) -> SyncQueries:
        found: Any = getattr(self._per_thread, "queries", None)
        if found is None:
            connection = psycopg.connect(job.DATABASE_URL, autocommit=True)
            found = self._per_thread.queries = SyncQueries(SyncPsycopgDriver(connection))

        return found

    def store(self, keys: Sequence[str]) -> None:
        """Enqueue a batch in one statement."""
        self.store_later(keys, 0)

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Do the same with a time to come."""
        count, after = len(keys), timedelta(seconds=seconds) if seconds else None
        self._queries().enqueue(["capture"] * count, [key.encode() for key in keys], [0] * count, [after] * count)

    def store_one(self, key: str) -> str:
        """Enqueue one."""
        self._queries().enqueue("capture", key.encode())

        return key
