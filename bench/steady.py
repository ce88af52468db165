"""How long a command waits at a steady rate, and what a system costs that has nothing to do.

Decides the measurement: from the moment before the host stores a command to the moment at which its call comes in at
the provider, both by the clock of one machine. Idle comes first: CPU and queries of a system that only waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from .arena import Arena, Bout, result_of
from .client import quantiles
from .contestants import Contestant
from .drain import cost, per_thousand
from .sql import execute, scalar

_MINUTE = 60

#: Queries of the contestant's own database so far.
_QUERIES = (
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements(false)"
    " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def waits(offered: Sequence[tuple[str, float]], calls: Sequence[tuple[str, float]]) -> tuple[list[float], int]:
    """Seconds from each offer to the first call under its key, and how many offers had no call."""
    first: dict[str, float] = {}
    for key, at in calls:
        first.setdefault(key, at)

    return [first[key] - at for key, at in offered if key in first], sum(key not in first for key, _ in offered)


def play(
    arena: Arena,
    contestant: Contestant,
    *,
    rates: Sequence[int],
    seconds: float,
    idle: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Leave a contestant alone for a while, then offer each rate for a while; return both findings."""
    with arena.bout(contestant) as bout:
        execute(bout.database_url, "CREATE EXTENSION pg_stat_statements")
        bout.crew.start()
        bout.client("bulk", 20, 1)
        bout.wait_for_effects(1, within=30)
        time.sleep(2)
        alone = _idle(bout, idle)

        return alone, [offer(bout, rate, seconds) for rate in rates]


def _idle(bout: Bout, seconds: float) -> dict[str, Any]:
    _track(bout, "top")
    time.sleep(0.2)
    queries, before, began = scalar(bout.database_url, _QUERIES), bout.cpu(), time.monotonic()
    time.sleep(seconds)
    after, lasted = bout.cpu(), time.monotonic() - began
    asked = scalar(bout.database_url, _QUERIES) - queries - 1
    _track(bout, "none")
    a_minute = _MINUTE / lasted

    return {
        "seconds": round(lasted, 1),
        "queries_a_minute": round(float(asked) * a_minute),
        "cpu_ms_a_minute": {
            name: round((after[name] - before[name]) * 1000 * a_minute) for name in after if name != "stub"
        },
        **bout.crew.memory(),
    }


def _track(bout: Bout, what: str) -> None:
    execute(bout.arena.database.url, f"ALTER SYSTEM SET pg_stat_statements.track = '{what}'")
    execute(bout.arena.database.url, "SELECT pg_reload_conf()")


def offer(bout: Bout, rate: int, seconds: float) -> dict[str, Any]:
    """Offer a rate for a while."""
    stub = bout.arena.stub
    stub.ask("set", is_logged=True)
    stub.ask("reset")
    before = bout.cpu()
    told = result_of(bout.start_client("steady", rate, seconds), within=3 * seconds + 20, what="steady")
    offered = [(key, at) for key, at in told["offered"]]
    missing = _await_calls(bout, len(offered), within=5.0)
    cpu = {**per_thousand(before, bout.cpu(), effects=len(offered)), "client": _client(told, len(offered))}
    taken, without = waits(offered, [(key, at) for key, at in stub.ask("log")["log"]])
    count = stub.ask("count")

    return {
        "rate": rate,
        "offered_per_second": round(len(offered) / told["seconds"], 1),
        "stored": len(offered),
        "not_called": without,
        "late": missing,
        "repeated": count["repeated"],
        **quantiles(taken),
        "cpu_ms": cpu,
        "cpu_ms_all": cost(cpu),
    }


def _client(told: Mapping[str, Any], count: int) -> float:
    return round(float(told["cpu_seconds"]) * 1000 / max(1, count), 4)


def _await_calls(bout: Bout, count: int, *, within: float) -> int:
    """Wait a little for the last calls; return how many are missing."""
    gives_up = time.monotonic() + within
    while (made := bout.arena.stub.ask("count")["effects"]) < count and time.monotonic() < gives_up:
        time.sleep(0.02)

    return max(0, count - int(made))
