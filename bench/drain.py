"""How fast a stored backlog is carried out, and what that costs.

Decides the measurement: this worker drains all of it, a peer a slice of its own backlog at each latency. Rates are
the provider's own count, from the first effect on; CPU is per 1,000 effects, by process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .arena import Arena, Bout, result_of
from .contestants import OURS, Contestant
from .machinery import NotInTime, wait_until
from .sql import execute, scalar

#: Seconds after the first effect that are not judged: processes start one after another.
_WARM = 1.5

#: After the provider's latency changed, until all calls of before are answered.
_SETTLE = 1.0

#: Seconds for which a peer's backlog is stored.
_FILL = 12

#: The database that each drain of this worker is a copy of.
TEMPLATE = "bench_backlog"


def per_thousand(before: Mapping[str, float], after: Mapping[str, float], *, effects: int) -> dict[str, float]:
    """CPU seconds a thousand effects, by process; that is milliseconds an effect."""
    return {name: round((after[name] - before[name]) * 1000 / max(1, effects), 4) for name in after}


def cost(cpu: Mapping[str, float]) -> float:
    """CPU of all processes but the stub, which stands for another machine."""
    return round(sum(value for name, value in cpu.items() if name != "stub"), 4)


def make_backlog(arena: Arena, count: int) -> dict[str, Any]:
    """Store the backlog once, as hosts do; each drain begins with a copy of its database."""
    with arena.bout(OURS) as bout:
        told = bout.client("store", count, within=180)
    arena.database.empty(TEMPLATE, like=f"bench_{OURS.name}")

    return {"stored": told["stored"], "per_second": round(told["stored"] / told["seconds"], 1)}


def drain(arena: Arena, *, count: int, latency: float, within: float) -> dict[str, Any]:
    """Have this worker carry out a whole backlog, or as much of it as it can in that time."""
    with arena.bout(OURS, like=TEMPLATE) as bout:
        # As autovacuum does within its minute: without statistics each claim looks through the whole backlog.
        execute(bout.database_url, "VACUUM ANALYZE")
        arena.stub.ask("set", latency=latency)
        bout.crew.start()
        bout.wait_for_effects(1, within=30)
        before, began, started = bout.cpu(), time.monotonic(), arena.stub.ask("count")["effects"]
        is_whole = bout.may_reach(count, within=within)
        lasted, done = time.monotonic() - began, arena.stub.ask("count")["effects"]
        if is_whole:
            await_final(bout, within=15)
        cpu = per_thousand(before, bout.cpu(), effects=done - started)
        told = arena.stub.ask("count")

        return {
            "latency_ms": latency * 1000,
            "effects": done,
            "lost": count - told["effects"] if is_whole else None,
            "repeated": told["repeated"],
            "seconds": round(lasted, 3),
            "per_second": round((done - started) / lasted, 1),
            "cpu_ms": cpu,
            "cpu_ms_all": cost(cpu),
            **bout.crew.memory(),
        }


def await_final(bout: Bout, *, within: float) -> None:
    """Wait until this worker has recorded the end of every command."""
    # By an index: to look through millions of finished rows would cost more than what is measured.
    statement = "SELECT count(*) FROM post_purchase_command WHERE state IN ('pending', 'executing')"
    wait_until(lambda: scalar(bout.database_url, statement) == 0, within=within, what="the last records")


def slices(
    arena: Arena, contestant: Contestant, *, latencies: Sequence[float], seconds: float
) -> Iterator[dict[str, Any]]:
    """Have a peer carry out its backlog for so many seconds at each latency, without a pause between."""
    with arena.bout(contestant) as bout:
        backlog = store_backlog(bout, _FILL)
        execute(bout.database_url, "VACUUM ANALYZE")
        arena.stub.ask("set", latency=latencies[0])
        bout.crew.start()
        bout.wait_for_effects(1, within=30)
        time.sleep(_WARM)
        for latency in latencies:
            arena.stub.ask("set", latency=latency)
            time.sleep(_SETTLE)
            yield {"latency_ms": latency * 1000, **slice_of(bout, seconds, backlog=backlog)}


def store_backlog(bout: Bout, seconds: float) -> int:
    """Store what the peer has to do, by two hosts at once and for so long at most; return how much that is."""
    clients = [bout.start_client("bulk", bout.contestant.backlog // 2, seconds) for _ in range(2)]

    return sum(int(result_of(each, within=3 * seconds + 20, what="store")["stored"]) for each in clients)


def slice_of(bout: Bout, seconds: float, *, backlog: int) -> dict[str, Any]:
    """See how much of its backlog a peer carries out in so many seconds."""
    before, first, began = bout.cpu(), bout.arena.stub.ask("count"), time.monotonic()
    last = first
    while time.monotonic() - began < seconds and last["effects"] < backlog:
        time.sleep(0.1)
        last = bout.arena.stub.ask("count")
    lasted, effects = time.monotonic() - began, last["effects"] - first["effects"]
    cpu = per_thousand(before, bout.cpu(), effects=effects)
    bout.crew.require_running()
    if not effects:
        why = "its backlog is used up" if last["effects"] >= backlog else f"for {lasted:.1f} s"
        raise NotInTime(f"{bout.contestant.name}: nothing was carried out: {why}")

    return {
        "effects": effects,
        "repeated": last["repeated"],
        "seconds": round(lasted, 3),
        "per_second": round(effects / lasted, 1),
        "cpu_ms": cpu,
        "cpu_ms_all": cost(cpu),
        **bout.crew.memory(),
    }
