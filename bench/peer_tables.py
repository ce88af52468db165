"""Peers with jobs that all fail at once, with a long history, and with many jobs that wait; what `tables` is for ours.

Decides the measurement: one bout for all three, and numbers that a peer reaches in its time. Failing comes first, so
that there is a finished job whose rows the database multiplies; a history comes last, for its drain is left half done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import fill
from .arena import Arena, Bout
from .client import quantiles
from .contestants import Contestant
from .drain import cost, per_thousand, slice_of, store_backlog
from .sql import execute
from .steady import offer
from .tables import lateness

_HOURS_SECONDS = 5 * 3_600

#: Seconds for which jobs are stored beforehand.
_FILL = 4

#: Seconds in which worker processes look around: what waits in a broker moves to them.
_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How much of each, in jobs and seconds."""

    failing: int
    failing_seconds: float
    history: int
    slice: float
    waiting: int
    rate: int
    steady: float


def play(arena: Arena, peer: Contestant, measure: Measure) -> Iterator[tuple[str, dict[str, Any]]]:
    """Play all three; yield each finding under the name of its scenario."""
    with arena.bout(peer) as bout:
        yield "failing", _failing(bout, measure)
        yield "waiting", _beside_waiting(bout, measure)
        yield "rows", _beside_history(bout, measure)


def _failing(bout: Bout, measure: Measure) -> dict[str, Any]:
    stored = int(bout.client("bulk", measure.failing - 1, 2 * _FILL)["stored"]) + 1
    stub = bout.arena.stub
    stub.ask("set", failures=2, is_logged=True)
    before = bout.cpu()
    bout.crew.start()
    bout.may_reach(stored, within=measure.failing_seconds)
    time.sleep(1)
    calls: list[tuple[str, float]] = [(key, at) for key, at in stub.ask("log")["log"]]
    cpu, count = bout.cpu(), stub.ask("count")
    lasted = max(at for _, at in calls) - min(at for _, at in calls)
    spent = per_thousand(before, cpu, effects=len(calls))
    found = {
        "commands": stored,
        "done": count["effects"],
        "calls": len(calls),
        "seconds": round(lasted, 1),
        "calls_per_second": round(len(calls) / lasted, 1),
        **{f"late_{name}": value for name, value in quantiles(lateness(calls, wait=5.0)).items()},
        "repeated": count["repeated"],
        "cpu_ms": spent,
        "cpu_ms_all": cost(spent),
        **bout.crew.memory(),
    }
    stub.ask("set", failures=0, is_logged=False)

    return found


def _beside_waiting(bout: Bout, measure: Measure) -> dict[str, Any]:
    """Offer a steady rate beside many that wait for an hour to come."""
    alone = bout.crew.memory()
    waiting = int(bout.client("later", measure.waiting, 2 * _FILL, _HOURS_SECONDS)["stored"])
    execute(bout.database_url, "VACUUM ANALYZE")
    time.sleep(_UP)

    return {
        "waiting": waiting,
        **offer(bout, measure.rate, measure.steady),
        **bout.crew.memory(),
        "pss_mib_before": alone["pss_mib"],
    }


def _beside_history(bout: Bout, measure: Measure) -> dict[str, Any]:
    """Drain beside rows of many finished jobs."""
    bout.crew.stop()
    fill.history(bout.database_url, bout.contestant.history, measure.history)
    bout.arena.redis.client.flushall()
    bout.arena.stub.ask("reset")
    backlog = store_backlog(bout, _FILL)
    execute(bout.database_url, "VACUUM ANALYZE")
    bout.crew.start()
    bout.wait_for_effects(1, within=30)
    time.sleep(1)

    return {"finished_rows": measure.history, **slice_of(bout, measure.slice, backlog=backlog)}
