"""What every scenario of `limits` is played on, and what came in there.

Decides which accounts and quotas there are, how a run is prepared and ended, and how a provider's log is counted.
Leaves what is played, and how it is judged, to the scenarios; `machinery` starts and stops the parts.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from worker import Capture, Command, Refund
from worker.config import load
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.schema import command
from worker.wiring import Services

from .machinery import Database, RedisServer, Stub, Workers, cpu_seconds, postgresql, wait_until

CAPTURE, MANAGEMENT = "payment-transaction-capture", "payment-transaction-management"

#: Environment → category → the quotas of a partner and of the acquiring partner, as in settings/rates.toml.
QUOTAS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "production": {CAPTURE: (50, 200), MANAGEMENT: (200, 500)},
    "playground": {CAPTURE: (12, 50), MANAGEMENT: (50, 125)},
}

PARTNERS = tuple(f"shop-{number}" for number in range(1, 6))

#: Seconds between two points of a chart.
STEP = 0.1

_FINAL = ("succeeded", "rejected", "cancelled", "escalated")


# -------------------------------------------------------------------------------------------------------- what came in


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What came in at the provider; moments are seconds since the first request."""

    began: float
    admitted: Mapping[tuple[str, str], Sequence[float]]
    throttled: Mapping[tuple[str, str], Sequence[float]]
    unanswered: Mapping[tuple[str, str], Sequence[float]]
    reads: Sequence[float]
    effects: int
    repeated: int
    doubled: int

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Traffic:
        """Sort what the stub tells by category and account."""
        rows = told["rows"]
        began = rows[0][0]

        def sorted_out(those: Iterable[Sequence[Any]]) -> dict[tuple[str, str], list[float]]:
            found: dict[tuple[str, str], list[float]] = {}
            for at, category, account, _ in those:
                found.setdefault((told["categories"][category], told["accounts"][account]), []).append(at - began)
            return found

        return cls(
            began=began,
            admitted=sorted_out(row for row in rows if row[3]),
            throttled=sorted_out(row for row in rows if not row[3]),
            unanswered=sorted_out(told["ill"]),
            reads=[at - began for at, _ in told["reads"]],
            effects=told["effects"],
            repeated=told["repeated"],
            doubled=told["doubled"],
        )

    def moments(self, category: str, account: str | None = None) -> tuple[list[float], list[float]]:
        """The moments of what was let through, and of what was not."""
        first, second = (
            sorted(
                at
                for (what, who), moments in those.items()
                if what == category and account in {None, who}
                for at in moments
            )
            for those in (self.admitted, self.throttled)
        )

        return first, second

    def most_in_a_second(
        self, category: str, account: str | None = None, *, after: float = 0.0, until: float = math.inf
    ) -> int:
        """The most requests of any second of a stretch, whatever became of them."""
        admitted, throttled = self.moments(category, account)
        moments, most, begins = sorted(at for at in (*admitted, *throttled) if after <= at < until), 0, 0
        for ends, at in enumerate(moments):
            while moments[begins] <= at - 1.0 + 1e-9:
                begins += 1
            most = max(most, ends - begins + 1)

        return most


def within(moments: Sequence[float], begins: float, ends: float) -> int:
    """How many of sorted moments lie after `begins` and not after `ends`."""
    return bisect_right(moments, ends) - bisect_right(moments, begins)


def share(part: float, whole: float) -> float:
    """A part of a whole that may be nothing."""
    return round(part / whole, 4) if whole else 0.0


# ------------------------------------------------------------------------------------------------------------ the rig


@dataclass(slots=True, kw_only=True)
class Rig:
    """Everything that a run needs, and the run that is under way."""

    folder: Path
    database: Database
    redis: RedisServer
    stub: Stub
    services: Services | None = None
    workers: Workers | None = None

    def prepare(
        self,
        *,
        environment: str,
        processes: int,
        made: Sequence[Command],
        headers: bool = True,
        settings: str = "",
    ) -> None:
        """Fill a new database with commands, set the quotas, and start the workers, with further `settings`."""
        database_url = self.database.empty("bench")
        profile = self.folder / "bench.toml"
        standing = _profile(database_url, self.redis.url, self.stub.url, environment)
        profile.write_text(standing + settings, encoding="utf-8")
        told = {"POST_PURCHASE_PROFILE": str(profile)}
        self.services = Services(load(environ=told))
        migrate.upgrade(self.services.store.engine, migrations_dir())
        self.store(made)
        self.analyze()
        # As after an outage: dispatch hands the backlog out, and nothing of an earlier run is known of any quota.
        self.redis.client.flushall()
        self.stub.ask("reset")
        self.stub.ask("set", quotas=QUOTAS[environment], factor=1.0, has_headers=headers, down="")
        split = [processes] if processes == 1 else [processes // 2, processes - processes // 2]
        self.workers = Workers(folder=self.folder, environment=told, processes=split)
        self.workers.start()
        wait_until(lambda: self.stub.ask("count")["requests"], what="the first request")

    def store(self, made: Sequence[Command]) -> None:
        """Store commands, a thousand in a transaction; the broker is not told of them."""
        assert self.services is not None  # noqa: S101  # it was prepared before
        for start in range(0, len(made), 1_000):
            with self.services.store.engine.begin() as connection:
                self.services.enqueue(connection, made[start : start + 1_000])

    def analyze(self) -> None:
        """Do what autovacuum does within its minute: without statistics each claim looks through the whole backlog."""
        assert self.services is not None  # noqa: S101  # it was prepared before
        with self.services.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))

    def finish(self) -> dict[str, int]:
        """End the workers; return how many commands are in which state, with their claims and sends."""
        assert self.services is not None  # noqa: S101  # it was prepared before
        assert self.workers is not None  # noqa: S101  # it was prepared before
        self.workers.stop()
        with self.services.store.engine.connect() as connection:
            rows = connection.execute(select(command.c.state, func.count()).group_by(command.c.state))
            found = {str(state): int(count) for state, count in rows}
            sums = connection.execute(select(func.sum(command.c.claims), func.sum(command.c.attempts))).one()
        self.services.close()

        return {**found, "claims": int(sums[0]), "sends": int(sums[1])}

    def unfinished(self) -> int:
        """How many commands have not ended."""
        assert self.services is not None  # noqa: S101  # it was prepared before
        statement = select(func.count()).where(command.c.state.not_in(_FINAL))
        with self.services.store.engine.connect() as connection:
            return int(connection.scalar(statement) or 0)

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each part has used so far."""
        assert self.workers is not None  # noqa: S101  # it was prepared before
        assert self.redis.process is not None  # noqa: S101  # it was started before

        return {
            "workers": self.workers.cpu_seconds(),
            "redis": cpu_seconds(self.redis.process.pid),
            "postgresql": cpu_seconds(self.database.pid),
        }

    def traffic(self) -> Traffic:
        """What came in so far."""
        return Traffic.read(self.stub.ask("log"))


@contextmanager
def rig(latency: float) -> Iterator[Rig]:
    """Start what all runs share; nothing of it is left when the block ends."""
    with tempfile.TemporaryDirectory(prefix="pp-bench-") as name, postgresql() as database:
        made = Rig(folder=Path(name), database=database, redis=RedisServer(Path(name)), stub=Stub(latency))
        try:
            made.redis.start()
            made.stub.start()
            yield made
        finally:
            if made.workers is not None:
                made.workers.stop()
            made.stub.stop()
            made.redis.stop()


def _profile(database_url: str, redis_url: str, provider_url: str, environment: str) -> str:
    accounts = "\n".join(
        f'[accounts.{name}]\nprovider = "klarna"\nbase_url = "{provider_url}"\nusername = "bench+{name}"\n'
        f'password = "bench"\nenvironment = "{environment}"\nrate_table = "klarna-network"\n'
        'acquiring_partner = "acquirer"\n'
        for name in PARTNERS
    )

    return f'[database]\nurl = "{database_url}"\n\n[broker]\nurl = "{redis_url}"\n\n[log]\nlevel = "info"\n\n{accounts}'


def commands(counts: Mapping[str, int]) -> list[Command]:
    """Make commands in a random order, each about an order of its own, evenly spread over the partners."""
    chance = random.Random(1)  # noqa: S311  # no secret
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    chance.shuffle(kinds)

    return [
        (Capture if kind == CAPTURE else Refund)(
            account=PARTNERS[number % len(PARTNERS)], order_id=f"order-{number}", amount=1000, reference=f"r-{number}"
        )
        for number, kind in enumerate(kinds)
    ]


def backlog(environment: str, seconds: float) -> dict[str, int]:
    """So many commands that neither quota runs out of them."""
    return {category: round(levels[1] * seconds) for category, levels in QUOTAS[environment].items()}


# ----------------------------------------------------------------------------------------------------------- the report


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found so far."""

    scenarios: list[dict[str, Any]] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result, and show it to whoever waits."""
        self.scenarios.append(result)
        print(json.dumps(result), flush=True)

    def keep_chart(
        self,
        name: str,
        title: str,
        *,
        traffic: Traffic,
        environment: str,
        ends: float,
        factors: Sequence[tuple[float, float]] = ((0.0, 1.0),),
        marks: Sequence[tuple[float, str]] = (),
    ) -> None:
        """Keep the series of a run: what was let through and what was not in the second before each moment."""
        steps = [round(number * STEP, 1) for number in range(int(ends / STEP) + 1)]
        panels = []
        for category, (_, shared) in QUOTAS[environment].items():
            admitted, throttled = traffic.moments(category)
            unanswered = sorted(
                at for (what, _), those in traffic.unanswered.items() if what == category for at in those
            )
            panels.append(
                {
                    "title": f"{category.replace('-', ' ')}, quota {shared} a second",
                    "seconds": steps,
                    "admitted": [within(admitted, at - 1, at) for at in steps],
                    "throttled": [within(throttled, at - 1, at) for at in steps],
                    "unanswered": [within(unanswered, at - 1, at) for at in steps] if unanswered else [],
                    "quota": [(round(at, 2), factor * shared) for at, factor in factors],
                    "marks": [(round(at, 2), what) for at, what in marks],
                }
            )
        self.charts[name] = {"title": title, "panels": panels}


def in_percent(part: float) -> str:
    """Write a share for people."""
    return f"{100 * part:.1f} %"


def in_seconds(number: float | None) -> str:
    """Write a time for people."""
    return "never" if number is None else f"{number:.1f} s"
