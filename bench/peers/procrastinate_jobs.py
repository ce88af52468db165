"""Procrastinate: the job in PostgreSQL, its outcome in a row of the shop's; asynchronous jobs, a hundred at once.

A periodic task takes stalled jobs up again, as its documentation has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from procrastinate import App, PsycopgConnector, RetryStrategy

from . import job

_AT_ONCE = 100

app = App(connector=PsycopgConnector(conninfo=job.DATABASE_URL, max_size=20))

_open: dict[str, Any] = {}


@app.task(name="capture", retry=RetryStrategy(max_attempts=job.RETRIES + 1, wait=job.RETRY_SECONDS))
async def capture(key: str) -> None:
    """Call the provider and store what came of it."""
    status = await job.call_async(_open["session"], key)
    await _open["pool"].execute(job.KEEP_OUTCOME, key, status)


@app.periodic(cron="*/10 * * * * *")
@app.task(queueing_lock="retry_stalled", pass_context=True)
async def retry_stalled(context: Any, timestamp: int) -> None:  # noqa: ARG001  # what the scheduler passes
    """Take up again what a dead worker had."""
    for each in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(each)


async def _work() -> None:
    async with job.session() as session, asyncpg.create_pool(job.DATABASE_URL, max_size=20) as pool:
        _open.update(session=session, pool=pool)
        async with app.open_async():
            await app.run_worker_async(concurrency=_AT_ONCE)


def work() -> None:
    """Be one worker process."""
    asyncio.run(_work())


class Contestant:
    """What `client` calls."""

    def __init__(self) -> None:
        app.open()

    def prepare(self) -> None:
        """Make its tables and the shop's."""
        app.schema_manager.apply_schema()
        job.make_outcome_table()

    def store(self, keys: Sequence[str]) -> None:
        """Defer a batch in one statement."""
        capture.batch_defer(*({"key": key} for key in keys))

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Do the same with a time to come."""
        capture.configure(schedule_in={"seconds": round(seconds)}).batch_defer(*({"key": key} for key in keys))

    def store_one(self, key: str) -> str:
        """Defer one."""
        capture.defer(key=key)

        return key
