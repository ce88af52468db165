"""What must be done again and again: dispatch, sweep, probe and prune, and the loop that ticks them.

Decides when a tick happens: at the interval, a little early or late by chance, so that many processes do not ask the
database at once. Each tick is a bounded `run_once`; locking in the store makes any number of tickers safe, so there
is no beat and no leader. A tick that fails is logged and the next one comes. What waits for somebody outside ticks in a
thread of its own: a provider that hangs must not keep other accounts' commands from being dispatched.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from .ports import ArchiveUnavailable, StoreUnavailable
from .wiring import Services

log = structlog.get_logger(__name__)

#: How far a tick may come early or late, as a share of its interval.
_JITTER = 0.2


@dataclass(slots=True)
class Duty:
    """Something that must be done again and again. `is_slow`: a tick may last as long as a call to a provider."""

    name: str
    interval: float
    run_once: Callable[[], Mapping[str, int]]
    is_slow: bool = False
    ticks: int = 0
    failures: int = 0
    last_at: str | None = None
    last_counts: dict[str, int] = field(default_factory=dict)

    def tick(self) -> None:
        """Do it once; a failure is a log line."""
        try:
            counts = dict(self.run_once())
        except StoreUnavailable as error:
            self.failures += 1
            log.warning("upkeep.database_away", duty=self.name, problem=str(error))
        except ArchiveUnavailable as error:
            self.failures += 1
            # A full disk is not a bug of ours: one line each tick, and nothing was removed.
            log.error("upkeep.archive_away", duty=self.name, problem=str(error))  # noqa: TRY400  # as the comment says
        except Exception:
            self.failures += 1
            log.exception("upkeep.failed", duty=self.name)
        else:
            self.ticks += 1
            self.last_at = datetime.now(UTC).isoformat()
            self.last_counts = counts
            if any(counts.values()):
                log.info("upkeep.done", duty=self.name, **counts)


def duties(of: Services) -> list[Duty]:
    """Return what upkeep does, with its intervals; it prunes only where somebody has said what may go."""
    work = [
        Duty("dispatch", of.settings.dispatch.interval_seconds, of.dispatcher.run_once),
        Duty("sweep", of.settings.sweep.interval_seconds, of.sweeper.run_once),
        Duty("probe", of.settings.breaker.interval_seconds, of.prober.run_once, is_slow=True),
    ]
    prune = of.settings.prune
    if prune.retention_days:
        pruner = of.pruner(retention_days=prune.retention_days, archive_folder=prune.archive_folder)
        work.append(Duty("prune", prune.interval_seconds, pruner.run_once))

    return work


def keep_up(work: list[Duty], stop: threading.Event) -> None:
    """Tick each duty at its interval until `stop` is set."""
    groups = [[duty for duty in work if not duty.is_slow], *([duty] for duty in work if duty.is_slow)]
    threads = [
        threading.Thread(target=_tick, args=(group, stop), name=f"post-purchase-{group[0].name}", daemon=True)
        for group in groups
        if group
    ]
    for each in threads:
        each.start()
    stop.wait()
    for each in threads:
        each.join()


def _tick(work: list[Duty], stop: threading.Event) -> None:
    due = dict.fromkeys(range(len(work)), 0.0)
    now = 0.0
    while not stop.is_set():
        for number, duty in enumerate(work):
            if due[number] <= now:
                duty.tick()
                due[number] = now + duty.interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
        pause = max(0.0, min(due.values()) - now)
        stop.wait(pause)
        now += pause
