"""Large tables: millions of finished rows, hundreds of thousands that wait, tens of thousands that fail at once.

Decides what is stored beforehand and what is measured; `fill` makes the rows. Only this worker plays: what a peer
does with its own history is its own affair.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import psycopg

from . import fill
from .arena import Arena, Bout
from .client import quantiles
from .contestants import OURS
from .drain import await_final, cost, per_thousand
from .sql import execute, plain
from .steady import waits

_HOURS = 5

#: Seconds after which worker processes have started and looked around.
_UP = 5


def make_finished(arena: Arena, sizes: Sequence[int]) -> dict[str, float]:
    """Make a database of each size, each grown from the one before; return the seconds that each took."""
    fill.make_seed(arena)
    took, like, held = {}, fill.SEED, 1
    for size in sizes:
        began = time.monotonic()
        name = f"bench_rows_{size}"
        fill.finished(arena.database.empty(name, like=like), size - held)
        took[str(size)], like, held = round(time.monotonic() - began, 1), name, size

    return took


def drain_beside(arena: Arena, *, size: int, count: int, within: float) -> dict[str, Any]:
    """Drain a backlog in the database of that size."""
    with arena.bout(OURS, database=f"bench_rows_{size}") as bout:
        fill.pending(bout.database_url, count)
        bout.crew.start()
        bout.wait_for_effects(1, within=30)
        before, began, started = bout.cpu(), time.monotonic(), arena.stub.ask("count")["effects"]
        bout.wait_for_effects(count, within=within)
        lasted = time.monotonic() - began
        await_final(bout, within=15)
        cpu = per_thousand(before, bout.cpu(), effects=count - started)
        _leave_one(bout)

        return {
            "finished_rows": size,
            "per_second": round((count - started) / lasted, 1),
            "repeated": arena.stub.ask("count")["repeated"],
            "cpu_ms": cpu,
            "cpu_ms_all": cost(cpu),
        }


def _leave_one(bout: Bout) -> None:
    """Leave a pending command to multiply the next time."""
    bout.crew.stop()
    bout.client("store", 1)
    execute(bout.database_url, "UPDATE post_purchase_command SET published_until = NULL WHERE state = 'pending'")


def waiting(arena: Arena, *, count: int, due: int, seconds: float) -> dict[str, Any]:
    """Have so many commands wait for their 5 h rung while some come due, one after the other."""
    alone = _waiting(arena, count=0, due=due, seconds=seconds)
    crowded = _waiting(arena, count=count, due=due, seconds=seconds)

    return {"waiting": count, "due": due, "alone": alone, "crowded": crowded}


def _waiting(arena: Arena, *, count: int, due: int, seconds: float) -> dict[str, Any]:
    with arena.bout(OURS, like=fill.SEED) as bout:
        url = bout.database_url
        later = {
            "failures": "3",
            "attempts": "3",
            "claims": "3",
            "first_sent_at": "now()",
            "in_doubt": "true",
            "due_at": f"now() + interval '{_HOURS} hours' + n * interval '1 millisecond'",
        }
        if count:
            fill.pending(url, count, replaced=later)
        fill.pending(url, due, replaced={**later, "reference": "'soon-' || n"})
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute("DELETE FROM post_purchase_command WHERE state = 'pending' AND failures = 0")
            connection.execute("VACUUM ANALYZE post_purchase_command")
        arena.stub.ask("set", is_logged=True)
        bout.crew.start()
        time.sleep(_UP)
        with psycopg.connect(plain(url), autocommit=True) as connection:
            rows = connection.execute(
                "UPDATE post_purchase_command SET due_at = now() + interval '5 seconds'"
                " + substr(reference, 6)::int * %s * interval '1 second' WHERE reference LIKE 'soon-%%'"
                " RETURNING idempotency_key, extract(epoch FROM due_at)::float8",
                [seconds / due],
            ).fetchall()
        before, began = bout.cpu(), time.monotonic()
        bout.wait_for_effects(due, within=seconds + 30)
        lasted, after = time.monotonic() - began, bout.cpu()
        lags, without = waits(rows, [(key, at) for key, at in arena.stub.ask("log")["log"]])

        return {
            **quantiles(lags),
            "not_called": without,
            "cpu_cores": {name: round((after[name] - before[name]) / lasted, 4) for name in after},
            **bout.crew.memory(),
        }


def failing(arena: Arena, *, count: int, failures: int, within: float) -> dict[str, Any]:
    """Have every command fail so many times, and be tried again each 5 s; no breaker holds them."""
    environment = {
        "POST_PURCHASE_RETRY__LADDER_SECONDS": "5,5.001,5.002",
        "POST_PURCHASE_BREAKER__FAILURES": str(10 * count),
    }
    with arena.bout(OURS, like=fill.SEED, environment=environment) as bout:
        fill.pending(bout.database_url, count - 1)
        arena.stub.ask("set", failures=failures, is_logged=True)
        before = bout.cpu()
        bout.crew.start()
        bout.wait_for_effects(1, within=60)
        began = time.monotonic()
        bout.wait_for_effects(count, within=within)
        await_final(bout, within=15)
        cpu = bout.cpu()
        calls: list[tuple[str, float]] = [(key, at) for key, at in arena.stub.ask("log")["log"]]
        first = min(at for _, at in calls)
        lasted = max(at for _, at in calls) - first

        return {
            "commands": count,
            "calls": len(calls),
            "seconds": round(lasted, 1),
            "calls_per_second": round(len(calls) / lasted, 1),
            "done_after_first_seconds": round(time.monotonic() - began, 1),
            **{f"late_{name}": value for name, value in quantiles(lateness(calls, wait=5.0)).items()},
            "repeated": arena.stub.ask("count")["repeated"],
            "cpu_ms": (spent := per_thousand(before, cpu, effects=len(calls))),
            "cpu_ms_all": cost(spent),
            **bout.crew.memory(),
        }


def lateness(calls: Sequence[tuple[str, float]], *, wait: float) -> list[float]:
    """Seconds by which each call but the first of a key came later than its wait after the one before."""
    by_key: Mapping[str, list[float]] = defaultdict(list)
    for key, at in calls:
        by_key[key].append(at)

    return [later - earlier - wait for moments in by_key.values() for earlier, later in pairwise(moments)]
