"""Workers that are killed again and again, with calls in flight: what is lost, what is called twice, when all is safe.

Decides the storm: a steady rate at a slow provider, so that about fifty calls are in flight, and a worker killed with
SIGKILL every few seconds and replaced at once. The provider judges. A call that is made again under its key has no
second effect at a provider that honours keys; it is counted all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .arena import Arena, Bout, result_of
from .contestants import OURS, OURS_APART, Contestant
from .machinery import NotInTime, wait_until
from .sql import scalar

#: Seconds; with the rest below it is the shortest lease that start-up allows for such timeouts, and a round number.
LEASE = 20

_ENVIRONMENT: Mapping[str, str] = {
    "POST_PURCHASE_LEASE__SECONDS": str(LEASE),
    "POST_PURCHASE_LEASE__RESERVE_SECONDS": "5",
    "POST_PURCHASE_HTTP__TOTAL_TIMEOUT_SECONDS": "5",
    "POST_PURCHASE_HTTP__CONNECT_TIMEOUT_SECONDS": "2",
}

_LATENCY = 0.5
_RATE = 100

#: Commands of before the storm.
_FIRST = 51
_IN_FLIGHT = "SELECT count(*) FROM post_purchase_command WHERE state = 'executing'"
_HELD = "SELECT count(*) FROM post_purchase_command WHERE state = 'executing' AND lease_until < to_timestamp({})"
_UNFINISHED = "SELECT count(*) FROM post_purchase_command WHERE finalized_at IS NULL"


def storm(arena: Arena, contestant: Contestant, *, kills: int, every: float, within: float) -> dict[str, Any]:
    """Kill workers while commands are offered, then wait until all is safe, or for so long."""
    is_ours = contestant.module == OURS.module
    who = OURS_APART if is_ours else contestant
    with arena.bout(who, environment=_ENVIRONMENT if is_ours else None) as bout:
        bout.crew.start()
        # Each worker has begun to work before one is killed.
        bout.client("bulk", _FIRST - 1, 1)
        bout.wait_for_effects(_FIRST, within=30)
        arena.stub.ask("set", latency=_LATENCY)
        host = bout.start_client("steady", _RATE, every * (kills + 0.5))
        in_flight = []
        for number in range(kills):
            time.sleep(every)
            if is_ours:
                in_flight.append(int(scalar(bout.database_url, _IN_FLIGHT)))
            bout.crew.replace(number % len(bout.crew.processes))
        killed, at = time.monotonic(), time.time()
        told = result_of(host, within=every + 30, what="steady")
        stored = int(told["stored"])
        back = _await_handed_back(bout, killed_at=at) if is_ours else None
        safe = _await_safe(bout, stored + _FIRST, is_ours=is_ours, within=within)
        count = arena.stub.ask("count")
        done = {key for key, _ in arena.stub.ask("effects")["effects"]}
        lost = sum(key not in done for key, _ in told["offered"])

        return {
            "kills": kills,
            "stored": stored + _FIRST,
            "in_flight_at_a_kill": in_flight,
            "not_done": lost,
            "called_again": count["repeated"],
            "calls": count["calls"],
            "waited_seconds": within,
            "safe_after_seconds": round(safe - killed, 1) if safe is not None else None,
            **({} if back is None else {"lease_seconds": LEASE, "handed_back_after_seconds": round(back - killed, 1)}),
        }


def _await_handed_back(bout: Bout, *, killed_at: float) -> float:
    """Wait until nothing is held under a lease of before the last kill; return when that was."""
    held = _HELD.format(killed_at + LEASE)
    wait_until(lambda: scalar(bout.database_url, held) == 0, within=2 * LEASE, what="all to be handed back")

    return time.monotonic()


def _await_safe(bout: Bout, count: int, *, is_ours: bool, within: float) -> float | None:
    """Wait until all have had their effect and, of ours, are recorded; return when that was."""

    def is_safe() -> bool:
        if is_ours and scalar(bout.database_url, _UNFINISHED) > 0:
            return False

        return bool(bout.arena.stub.ask("count")["effects"] >= count)

    try:
        wait_until(is_safe, within=within, what="all to be safe")
    except NotInTime:
        return None

    return time.monotonic()
