"""What storing a command adds to a host's own transaction: `python -m bench.host SECONDS`.

Decides the comparison, turn by turn: a bare INSERT of a like row into a table with the same indexes and a commit, by
the driver itself; the same through SQLAlchemy Core; and a command of ours, its commit and its publish timed apart.
Runs in a process of its own, as a host does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import MetaData, Table, create_engine

from worker.config import load
from worker.wiring import Services

from .arena import Arena
from .client import new_keys, quantiles
from .contestants import OURS
from .machinery import NotInTime
from .ours import capture
from .sql import plain

#: Every command is published, not only so many a second: the publish is what is measured.
_ENVIRONMENT = {"POST_PURCHASE_BROKER__PUBLISH_RATE_PER_SECOND": "100000"}

#: Turns before the first that counts: statements are compiled and prepared.
_WARM = 30


def measure(arena: Arena, *, seconds: float) -> dict[str, Any]:
    """Compare in a new database; then again with the broker stopped, and with one that takes calls and is silent."""
    with arena.bout(OURS, environment=_ENVIRONMENT) as bout:
        found = _run(arena, bout.environment, seconds)
        arena.redis.stop()
        try:
            stopped = _run(arena, bout.environment, seconds / 2)
        finally:
            arena.redis.start()
        arena.redis.pause()
        try:
            silent = _run(arena, bout.environment, seconds / 2)
        finally:
            arena.redis.resume()

        return {**found, "broker_stopped": stopped["with_publish"], "broker_silent": silent["with_publish"]}


def _run(arena: Arena, environment: Mapping[str, str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.host", str(seconds)],
        env=environment,
        cwd=arena.folder,
        capture_output=True,
        text=True,
        timeout=3 * seconds + 30,
        check=False,
    )
    if done.returncode != 0:
        raise NotInTime(f"the host ended with {done.returncode}:\n{done.stderr[-1_500:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])

    return told


def compare(seconds: float) -> dict[str, Any]:
    """Take turns for a while; return quantiles of each, and their ratios."""
    services = Services(load(environ=os.environ))
    url = services.settings.database.url
    engine, driver = create_engine(url), psycopg.connect(plain(str(url)))
    with engine.begin() as connection:
        services.enqueue(connection, [capture(key) for key in new_keys(1)])
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS bench_bare (LIKE post_purchase_command INCLUDING ALL)")
        row = connection.exec_driver_sql("SELECT * FROM post_purchase_command LIMIT 1").mappings().one()
    like = {name: value for name, value in row.items() if name != "seq"}
    table = Table("bench_bare", MetaData(), autoload_with=engine)
    names = ", ".join(like)
    statement = f"INSERT INTO bench_bare ({names}) VALUES ({', '.join(f'%({name})s' for name in like)})"  # noqa: S608  # names of our own columns
    calls: list[Callable[[], None]] = []

    def new_row() -> dict[str, Any]:
        made = str(uuid4())
        return {**like, "id": uuid4(), "idempotency_key": made, "order_id": f"order-{made}", "reference": made}

    def by_driver() -> None:
        driver.execute(statement, new_row())
        driver.commit()

    def by_core() -> None:
        with engine.begin() as connection:
            connection.execute(table.insert(), new_row())

    def by_us() -> None:
        with engine.begin() as connection:
            services.enqueue(connection, [capture(str(uuid4()))], after_commit=lambda _, call: calls.append(call))

    took: dict[str, list[float]] = {"driver": [], "core": [], "ours": [], "publish": [], "with_publish": []}
    for _ in range(_WARM):
        by_driver()
        by_core()
        by_us()
    calls.clear()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, turn in (("driver", by_driver), ("core", by_core), ("ours", by_us)):
            took[name].append(_timed(turn))
        took["publish"].append(sum(_timed(call) for call in calls))
        calls.clear()
        took["with_publish"].append(took["ours"][-1] + took["publish"][-1])
    found = {name: quantiles(values) for name, values in took.items()}

    return {
        **found,
        "turns": len(took["ours"]),
        "ratio_to_driver": round(found["ours"]["p50_ms"] / found["driver"]["p50_ms"], 3),
        "ratio_to_core": round(found["ours"]["p50_ms"] / found["core"]["p50_ms"], 3),
    }


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()

    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(compare(float(sys.argv[1]))))
