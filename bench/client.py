"""The host that stores commands, in a process of its own: `python -m bench.client MODULE VERB …`.

Decides how commands are offered and timed, the same for every contestant; its module says how one is stored. Runs in
the contestant's own interpreter and tells what it found as one line of JSON, its last.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

#: Threads that offer a steady rate together: one that waits for a commit must not hold the others up.
_THREADS = 4

#: A host that cannot keep to the rate goes on for so many times as long, and offers less.
_PATIENCE = 1.5

#: What is stored in bulk between two looks at the clock.
_STEP = 1_000


class Contestant(Protocol):
    """What a contestant's module has under this name."""

    def prepare(self) -> None:
        """Make tables and whatever else is needed once."""

    def store(self, keys: Sequence[str]) -> None:
        """Store many in the fastest way that is documented."""

    def store_later(self, keys: Sequence[str], seconds: float) -> None:
        """Store many that come due in so many seconds; only peers are asked to."""

    def store_one(self, key: str) -> str:
        """Store one in a transaction of its own; return the key that the provider will see."""


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst, in milliseconds; the nearest rank, so that each really happened."""
    if not seconds:
        return {}
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 3)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


def new_keys(count: int) -> list[str]:
    """Make keys that nobody had before."""
    return [str(uuid4()) for _ in range(count)]


def store(contestant: Contestant, count: str) -> dict[str, Any]:
    """Store a backlog."""
    keys = new_keys(int(count))
    began = time.perf_counter()
    contestant.store(keys)

    return {"stored": len(keys), "seconds": time.perf_counter() - began}


def bulk(contestant: Contestant, most: str, seconds: str) -> dict[str, Any]:
    """Store in bulk until `most` are stored or the time is up."""
    contestant.store(new_keys(1))  # what is only done once is not the rate

    return _stepwise(contestant.store, int(most), seconds=float(seconds))


def later(contestant: Contestant, most: str, seconds: str, due_in: str) -> dict[str, Any]:
    """Store in bulk what comes due in so many seconds."""
    return _stepwise(lambda keys: contestant.store_later(keys, float(due_in)), int(most), seconds=float(seconds))


def _stepwise(store: Callable[[Sequence[str]], None], most: int, *, seconds: float) -> dict[str, Any]:
    stored, step = 0, min(_STEP, most)
    began = time.perf_counter()
    while stored < most and time.perf_counter() - began < seconds:
        store(new_keys(step))
        stored += step

    return {"stored": stored, "seconds": time.perf_counter() - began}


def one(contestant: Contestant, seconds: str) -> dict[str, Any]:
    """Store one after the other, each with its own commit and publish."""
    for _ in range(20):
        contestant.store_one(*new_keys(1))
    took: list[float] = []
    ends = time.perf_counter() + float(seconds)
    while (began := time.perf_counter()) < ends:
        contestant.store_one(*new_keys(1))
        took.append(time.perf_counter() - began)

    return {"stored": len(took), "seconds": sum(took), **quantiles(took)}


def steady(contestant: Contestant, rate: str, seconds: str) -> dict[str, Any]:
    """Offer so many a second; tell when each was offered, by its key at the provider."""
    offered: list[tuple[str, float]] = []
    every, count = 1 / float(rate), round(float(rate) * float(seconds))
    starts = time.time() + 0.2

    def offer(first: int) -> None:
        for number in range(first, count, _THREADS):
            if time.time() > starts + _PATIENCE * float(seconds):
                return  # this host cannot offer so much
            time.sleep(max(0.0, starts + number * every - time.time()))
            at = time.time()
            offered.append((contestant.store_one(*new_keys(1)), at))

    threads = [threading.Thread(target=offer, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    return {"offered": offered, "stored": len(offered), "seconds": time.time() - starts}


def prepare(contestant: Contestant) -> dict[str, Any]:
    """Make what is needed once."""
    contestant.prepare()

    return {}


VERBS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "store": store,
    "bulk": bulk,
    "later": later,
    "one": one,
    "steady": steady,
}


def main() -> None:
    """Do one thing for one contestant."""
    module, verb, *arguments = sys.argv[1:]
    found = importlib.import_module(module)
    if verb == "work":
        found.work()
        return
    contestant = found.Contestant()
    began = time.process_time()
    told = VERBS[verb](contestant, *arguments)
    print(json.dumps({**told, "cpu_seconds": time.process_time() - began}))


if __name__ == "__main__":
    main()
