"""What every peer's job does at the provider, and the tables that a peer without its own store needs.

Decides the call: libcurl, kept alive, one handle a thread (`call`) or aiohttp in an event loop (`call_async`). Both
are the cheapest clients measured, so that what differs between contestants is not the client. An answer that is not a
success is an error, and the peer's own retries see to it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import aiohttp
import psycopg
import pycurl

PROVIDER_URL = os.environ.get("BENCH_PROVIDER_URL", "")
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
DATABASE_URL = os.environ.get("BENCH_DATABASE_URL", "").replace("postgresql+psycopg://", "postgresql://", 1)

#: What the ladder of the worker begins with.
RETRY_SECONDS = 5
RETRIES = 3

_CREATED = 201
_BODY = '{"captured_amount":1000}'

_per_thread = threading.local()


class ProviderFailed(Exception):
    """The provider did not say that it is done."""


def url() -> str:
    """Where a capture is made."""
    return f"{PROVIDER_URL}/ordermanagement/v1/orders/o/captures"


def call(key: str) -> int:
    """Call the provider from this thread."""
    handle: pycurl.Curl | None = getattr(_per_thread, "handle", None)
    if handle is None:
        handle = _per_thread.handle = pycurl.Curl()
        handle.setopt(pycurl.URL, url())
        handle.setopt(pycurl.POSTFIELDS, _BODY)
        handle.setopt(pycurl.TIMEOUT, 30)
        handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", f"Idempotency-Key: {key}"])
    handle.setopt(pycurl.WRITEDATA, BytesIO())
    handle.perform()
    status = int(handle.getinfo(pycurl.RESPONSE_CODE))
    if status != _CREATED:
        raise ProviderFailed(str(status))

    return status


async def call_async(session: aiohttp.ClientSession, key: str) -> int:
    """Call the provider from an event loop."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    async with session.post(url(), data=_BODY, headers=headers) as answer:
        await answer.read()
        if answer.status != _CREATED:
            raise ProviderFailed(str(answer.status))

        return answer.status


def session() -> aiohttp.ClientSession:
    """The connections of one event loop, as many as are needed."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30))


def connection() -> psycopg.Connection[Any]:
    """This thread's connection; each statement commits."""
    found: psycopg.Connection[Any] | None = getattr(_per_thread, "connection", None)
    if found is None:
        found = _per_thread.connection = psycopg.connect(DATABASE_URL, autocommit=True)

    return found


def make_command_table() -> None:
    """Make the table of commands, for a peer whose jobs are in Redis only."""
    connection().execute(
        "CREATE TABLE bench_command (key uuid PRIMARY KEY, state text NOT NULL DEFAULT 'pending', status int,"
        " created_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz)"
    )


def store_commands(keys: Sequence[str]) -> None:
    """Store commands; each statement commits."""
    with connection().cursor() as cursor:
        cursor.execute("INSERT INTO bench_command (key) SELECT unnest(%s::uuid[])", [list(keys)])


def finish_command(key: str, status: int) -> None:
    """Store what came of a command."""
    connection().execute(
        "UPDATE bench_command SET state = 'succeeded', status = %s, finished_at = now() WHERE key = %s", [status, key]
    )


def make_outcome_table() -> None:
    """Make the table of outcomes, for a peer that stores its jobs itself."""
    connection().execute(
        "CREATE TABLE bench_outcome (key uuid PRIMARY KEY, status int NOT NULL,"
        " finished_at timestamptz NOT NULL DEFAULT now())"
    )


#: What stores an outcome; a job that runs again finds it there.
KEEP_OUTCOME = "INSERT INTO bench_outcome (key, status) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
