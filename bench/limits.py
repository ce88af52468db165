"""How well a provider's quotas are used and kept, by real workers, a real Redis and PostgreSQL: `make bench-limits`.

Decides what is played, what is measured and how it is judged; `machinery` starts and stops the parts, `stub` is the
provider, `chart` draws. Everything is on loopback. Figures are what came in at the provider, by its own clock: what a
worker thinks it sent counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from worker import Capture, Refund
from worker.config import load
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.schema import command
from worker.wiring import Services

from .machinery import CHECKOUT, Database, NotInTime, RedisServer, Stub, Workers, cpu_seconds, postgresql, wait_until

CAPTURE, MANAGEMENT = "payment-transaction-capture", "payment-transaction-management"

#: Environment → category → the quotas of a partner and of the acquiring partner, as in settings/rates.toml.
QUOTAS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "production": {CAPTURE: (50, 200), MANAGEMENT: (200, 500)},
    "playground": {CAPTURE: (12, 50), MANAGEMENT: (50, 125)},
}

PARTNERS = tuple(f"shop-{number}" for number in range(1, 6))

#: Seconds after the first request that are not judged: processes start one after another.
_WARM = 3.0

_STEP = 0.1

_FINAL = ("succeeded", "rejected", "cancelled", "escalated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each part lasts, in seconds, and with how many processes."""

    steady: float
    processes: Sequence[int]
    environments: Sequence[str]
    change: float
    withheld: float
    before_trouble: float
    redis_away: float


FULL = Plan(
    steady=60,
    processes=(1, 4, 8),
    environments=("production", "playground"),
    change=20,
    withheld=30,
    before_trouble=10,
    redis_away=30,
)
SHORT = Plan(
    steady=10,
    processes=(4,),
    environments=("production",),
    change=7,
    withheld=6,
    before_trouble=4,
    redis_away=5,
)


# -------------------------------------------------------------------------------------------------------- what came in


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What came in at the provider; moments are seconds since the first request."""

    began: float
    admitted: Mapping[tuple[str, str], Sequence[float]]
    throttled: Mapping[tuple[str, str], Sequence[float]]
    repeated: int

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Traffic:
        """Sort what the stub tells by category and account."""
        rows = told["rows"]
        began = rows[0][0]
        admitted: dict[tuple[str, str], list[float]] = {}
        throttled: dict[tuple[str, str], list[float]] = {}
        for at, category, account, is_admitted in rows:
            moments = admitted if is_admitted else throttled
            moments.setdefault((told["categories"][category], told["accounts"][account]), []).append(at - began)

        return cls(began=began, admitted=admitted, throttled=throttled, repeated=told["repeated"])

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

    def most_in_a_second(self, category: str, account: str | None = None) -> int:
        """The most requests of any second, whatever became of them."""
        admitted, throttled = self.moments(category, account)
        moments, most, begins = sorted([*admitted, *throttled]), 0, 0
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


def settled_after(traffic: Traffic, category: str, *, change: float, quota: float, ends: float) -> float | None:
    """Seconds from a change of the quota to two seconds that use ≥ 90 % of it with < 1 % of 429; None: never."""
    admitted, throttled = traffic.moments(category)
    at = change
    while at + 2 <= ends:
        good, bad = within(admitted, at, at + 2), within(throttled, at, at + 2)
        # A second of the old quota may still be in the window: twice as much as the new one is not settled.
        if 0.9 * 2 * quota <= good <= 1.02 * 2 * quota and bad < 0.01 * (good + bad):
            return round(at - change, 1)
        at += _STEP

    return None


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

    def prepare(self, *, environment: str, processes: int, counts: Mapping[str, int], headers: bool = True) -> None:
        """Fill a new database with due commands, set the quotas, and start the workers."""
        database_url = self.database.empty("bench")
        profile = self.folder / "bench.toml"
        profile.write_text(_profile(database_url, self.redis.url, self.stub.url, environment), encoding="utf-8")
        told = {"POST_PURCHASE_PROFILE": str(profile)}
        self.services = Services(load(environ=told))
        migrate.upgrade(self.services.store.engine, migrations_dir())
        _enqueue(self.services, counts)
        # As after an outage: dispatch hands the backlog out, and nothing of an earlier run is known of any quota.
        self.redis.client.flushall()
        self.stub.ask("reset")
        self.stub.ask("set", quotas=QUOTAS[environment], factor=1.0, has_headers=headers)
        split = [processes] if processes == 1 else [processes // 2, processes - processes // 2]
        self.workers = Workers(folder=self.folder, environment=told, processes=split)
        self.workers.start()
        wait_until(lambda: self.stub.ask("count")["requests"], what="the first request")

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


def _enqueue(services: Services, counts: Mapping[str, int]) -> None:
    """Store commands in a random order, each about an order of its own, evenly spread over the partners."""
    chance = random.Random(1)  # noqa: S311  # no secret
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    chance.shuffle(kinds)
    made = [
        (Capture if kind == CAPTURE else Refund)(
            account=PARTNERS[number % len(PARTNERS)], order_id=f"order-{number}", amount=1000, reference=f"r-{number}"
        )
        for number, kind in enumerate(kinds)
    ]
    for start in range(0, len(made), 1_000):
        with services.store.engine.begin() as connection:
            services.enqueue(connection, made[start : start + 1_000])
    with services.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As autovacuum does within its minute: without statistics each claim looks through the whole backlog.
        connection.execute(text("ANALYZE"))


def _backlog(environment: str, seconds: float) -> dict[str, int]:
    """So many commands that neither quota runs out of them."""
    return {category: round(levels[1] * seconds) for category, levels in QUOTAS[environment].items()}


# ------------------------------------------------------------------------------------------------------- the scenarios


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found so far."""

    scenarios: list[dict[str, Any]] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result, and show it to whoever waits."""
        self.scenarios.append(result)
        print(json.dumps(result), flush=True)


def steady(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 1: both quotas of an acquiring partner at once, over five partners."""
    for environment in plan.environments:
        for processes in plan.processes:
            rig.prepare(
                environment=environment, processes=processes, counts=_backlog(environment, 1.1 * plan.steady + 12)
            )
            time.sleep(_WARM)
            before, began = rig.cpu(), time.time()
            time.sleep(plan.steady)
            after, load_average = rig.cpu(), os.getloadavg()[0]
            lasted = time.time() - began
            traffic = rig.traffic()
            ended = rig.finish()
            start = began - traffic.began
            result = {
                "scenario": "steady",
                "environment": environment,
                "processes": processes,
                **_use(traffic, environment, start, start + plan.steady),
                "cpu_cores": {name: round((after[name] - before[name]) / lasted, 3) for name in after},
                "claims_a_send": share(ended["claims"], ended["sends"]),
                "repeated": traffic.repeated,
                "load_average": round(load_average, 1),
            }
            report.add(result)
            if (environment, processes) == (plan.environments[0], plan.processes[len(plan.processes) // 2]):
                title = f"Both {environment} quotas of an acquiring partner, {processes} worker processes"
                _keep_chart(report, "steady", title, traffic=traffic, environment=environment, ends=start + plan.steady)


def _use(traffic: Traffic, environment: str, begins: float, ends: float) -> dict[str, Any]:
    """How much of the quotas was used in a stretch, and how much of it was refused."""
    used, all_good, all_bad = {}, 0, 0
    for category, (own, shared) in QUOTAS[environment].items():
        admitted, throttled = traffic.moments(category)
        good, bad = within(admitted, begins, ends), within(throttled, begins, ends)
        all_good, all_bad = all_good + good, all_bad + bad
        used[category] = {
            "quota": shared,
            "used": share(good, shared * (ends - begins)),
            "throttled": share(bad, good + bad),
            "most_in_a_second": traffic.most_in_a_second(category),
            "partner_quota": own,
            "most_in_a_second_of_a_partner": max(traffic.most_in_a_second(category, who) for who in PARTNERS),
        }

    return {"categories": used, "throttled": share(all_bad, all_good + all_bad)}


def changed(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 2: the provider halves its quotas in mid-run, and doubles them again later."""
    processes = 4
    rig.prepare(environment="production", processes=processes, counts=_backlog("production", 2.7 * plan.change + 8))
    time.sleep(_WARM + plan.change / 2)
    halved = rig.stub.ask("set", factor=0.5)["at"]
    time.sleep(plan.change)
    doubled = rig.stub.ask("set", factor=1.0)["at"]
    time.sleep(plan.change)
    load_average = os.getloadavg()[0]
    traffic = rig.traffic()
    rig.finish()
    down, up = halved - traffic.began, doubled - traffic.began
    found = {}
    for category, (_, shared) in QUOTAS["production"].items():
        _, throttled = traffic.moments(category)
        found[category] = {
            "settled_down_seconds": settled_after(traffic, category, change=down, quota=shared / 2, ends=up),
            "settled_up_seconds": settled_after(traffic, category, change=up, quota=shared, ends=up + plan.change),
            "throttled_before": within(throttled, 0, down),
            "throttled_after_halving": within(throttled, down, up),
            "throttled_after_doubling": within(throttled, up, up + plan.change),
        }
    report.add(
        {"scenario": "changed", "processes": processes, "categories": found, "load_average": round(load_average, 1)}
    )
    _keep_chart(
        report,
        "changed",
        f"The provider halves its quotas, and doubles them again, {processes} worker processes",
        traffic=traffic,
        environment="production",
        ends=up + plan.change,
        factors=[(0.0, 1.0), (down, 0.5), (up, 1.0)],
        marks=[(down, "halved"), (up, "doubled")],
    )


def withheld(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 3: no answer says anything about quotas."""
    processes = 4
    rig.prepare(
        environment="production",
        processes=processes,
        counts=_backlog("production", 1.1 * plan.withheld + 12),
        headers=False,
    )
    time.sleep(_WARM)
    began = time.time()
    time.sleep(plan.withheld)
    load_average = os.getloadavg()[0]
    traffic = rig.traffic()
    rig.finish()
    start = began - traffic.began
    report.add(
        {
            "scenario": "withheld",
            "processes": processes,
            **_use(traffic, "production", start, start + plan.withheld),
            "load_average": round(load_average, 1),
        }
    )


def redis_in_trouble(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 5: Redis is flushed, restarted, and stopped for a while; every command must still end once."""
    processes, pause = 4, plan.before_trouble
    counts = _backlog("production", 3 * pause + 2)
    rig.prepare(environment="production", processes=processes, counts=counts)
    marks: list[tuple[float, str]] = []

    def happens(what: str, do: Callable[[], object]) -> None:
        marks.append((time.time(), what))
        do()

    def restart() -> None:
        rig.redis.stop()
        rig.redis.start()

    time.sleep(pause)
    happens("flushed", rig.redis.client.flushall)
    time.sleep(pause)
    happens("restarted", restart)
    time.sleep(pause)
    happens("stopped", rig.redis.stop)
    time.sleep(plan.redis_away)
    happens("back", rig.redis.start)
    lost = 0
    try:
        wait_until(lambda: rig.unfinished() == 0, within=90, what="the end of all commands")
    except NotInTime:
        lost = rig.unfinished()
    load_average = os.getloadavg()[0]
    traffic = rig.traffic()
    ended = rig.finish()
    found = {}
    for category, (own, shared) in QUOTAS["production"].items():
        admitted, throttled = traffic.moments(category)
        back = marks[-1][0] - traffic.began
        first = bisect_left(admitted, back)
        found[category] = {
            "quota": shared,
            "most_in_a_second": traffic.most_in_a_second(category),
            "partner_quota": own,
            "most_in_a_second_of_a_partner": max(traffic.most_in_a_second(category, who) for who in PARTNERS),
            "throttled": len(throttled),
            "sends_again_after_seconds": round(admitted[first] - back, 1) if first < len(admitted) else None,
        }
    report.add(
        {
            "scenario": "redis",
            "processes": processes,
            "commands": sum(counts.values()),
            "ended": {state: ended[state] for state in ended if state not in {"claims", "sends"}},
            "not_ended": lost,
            "repeated": traffic.repeated,
            "categories": found,
            "load_average": round(load_average, 1),
        }
    )
    _keep_chart(
        report,
        "redis",
        f"Redis flushed, restarted, and stopped for {plan.redis_away:g} s, {processes} worker processes",
        traffic=traffic,
        environment="production",
        ends=max(moments[-1] for moments in traffic.admitted.values()) + 1,
        marks=[(at - traffic.began, what) for at, what in marks],
    )


SCENARIOS: Mapping[str, Callable[[Rig, Plan, Report], None]] = {
    "steady": steady,
    "changed": changed,
    "withheld": withheld,
    "redis": redis_in_trouble,
}


# ----------------------------------------------------------------------------------------------------------- the report


def _keep_chart(
    report: Report,
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
    steps = [round(number * _STEP, 1) for number in range(int(ends / _STEP) + 1)]
    panels = []
    for category, (_, shared) in QUOTAS[environment].items():
        admitted, throttled = traffic.moments(category)
        panels.append(
            {
                "title": f"{category.replace('-', ' ')}, quota {shared} a second",
                "seconds": steps,
                "admitted": [within(admitted, at - 1, at) for at in steps],
                "throttled": [within(throttled, at - 1, at) for at in steps],
                "quota": [(round(at, 2), factor * shared) for at, factor in factors],
                "marks": [(round(at, 2), what) for at, what in marks],
            }
        )
    report.charts[name] = {"title": title, "panels": panels}


def draw_charts(charts: Mapping[str, Any], *, note: str, folder: Path) -> None:
    """Write each kept chart as PNG and SVG."""
    from .chart import Panel, draw  # noqa: PLC0415  # a bench without charts needs no plotting library

    for name, chart in charts.items():
        panels = [Panel(**panel) for panel in chart["panels"]]
        draw(panels, title=chart["title"], note=note, file=folder / f"limits-{name}")


def settings_of(rig: Rig, latency: float) -> dict[str, Any]:
    """Versions and settings that a figure depends on; nothing that names the machine."""
    defaults = load(environ={"POST_PURCHASE_PROFILE": str(rig.folder / "bench.toml")})

    return {
        "machine": f"{os.cpu_count()} cores, shared; {platform.system()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "pycurl")},
        "redis": rig.redis.version,
        "postgresql": f"{rig.database.version}, fsync on",
        "provider_latency_seconds": latency,
        "limits": {
            name: getattr(defaults.limits, name)
            for name in ("use", "headroom", "learned_seconds", "back_off_base_seconds", "away_seconds")
        },
        "pacing_seconds": defaults.lease.pacing_seconds,
        "execute": {"batch_size": defaults.execute.batch_size, "pump_seconds": defaults.execute.pump_seconds},
    }


def markdown(found: Mapping[str, Any]) -> str:
    """Write the results as tables."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for each in found["scenarios"]:
        by_name.setdefault(each["scenario"], []).append(each)
    known = found["settings"]
    lines = [
        "# What `make bench-limits` found",
        "",
        (
            f"The {known['form']} form, on {known['machine']}; Python {known['python']}; {known['redis']}; "
            f"PostgreSQL {known['postgresql']}; "
            f"{', '.join(f'{name} {number}' for name, number in known['packages'].items())}. "
            f"The provider answers after {known['provider_latency_seconds'] * 1000:g} ms. "
            "How to read it: [README](../README.md)."
        ),
    ]
    for name, rows in by_name.items():
        lines += ["", *_TABLES[name](rows)]

    return "\n".join(lines) + "\n"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _steady_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Both quotas of an acquiring partner at once, five partners",
        "",
        (
            "| quotas | processes | captures used | management used | 429 | most in a second, captures | management "
            "| most of a partner, captures | management | CPU cores: workers / Redis / PostgreSQL | claims a send "
            "| load |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        capture, management, cpu = row["categories"][CAPTURE], row["categories"][MANAGEMENT], row["cpu_cores"]
        lines.append(
            f"| {row['environment']} {capture['quota']} + {management['quota']}/s | {row['processes']} "
            f"| {_percent(capture['used'])} | {_percent(management['used'])} | {_percent(row['throttled'])} "
            f"| {capture['most_in_a_second']} of {capture['quota']} "
            f"| {management['most_in_a_second']} of {management['quota']} "
            f"| {capture['most_in_a_second_of_a_partner']} of {capture['partner_quota']} "
            f"| {management['most_in_a_second_of_a_partner']} of {management['partner_quota']} "
            f"| {cpu['workers']:.2f} / {cpu['redis']:.2f} / {cpu['postgresql']:.2f} | {row['claims_a_send']:.2f} "
            f"| {row['load_average']} |"
        )

    return lines


def _changed_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## The provider halves its quotas, and doubles them again",
        "",
        (
            "| category | processes | settled after halving | after doubling | 429 before | after halving "
            "| after doubling | load |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for category, each in row["categories"].items():
            lines.append(
                f"| {category} | {row['processes']} | {_seconds(each['settled_down_seconds'])} "
                f"| {_seconds(each['settled_up_seconds'])} | {each['throttled_before']} "
                f"| {each['throttled_after_halving']} | {each['throttled_after_doubling']} | {row['load_average']} |"
            )

    return lines


def _seconds(number: float | None) -> str:
    return "never" if number is None else f"{number:.1f} s"


def _withheld_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Quota headers withheld",
        "",
        "| processes | captures used | management used | 429 | load |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        used = row["categories"]
        lines.append(
            f"| {row['processes']} | {_percent(used[CAPTURE]['used'])} | {_percent(used[MANAGEMENT]['used'])} "
            f"| {_percent(row['throttled'])} | {row['load_average']} |"
        )

    return lines


def _redis_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Redis flushed, restarted, and stopped for a while",
        "",
        (
            "| category | processes | most in a second | of a partner | 429 | sends again after it is back | commands "
            "| ended | carried out twice | load |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for category, each in row["categories"].items():
            lines.append(
                f"| {category} | {row['processes']} | {each['most_in_a_second']} of {each['quota']} "
                f"| {each['most_in_a_second_of_a_partner']} of {each['partner_quota']} | {each['throttled']} "
                f"| {_seconds(each['sends_again_after_seconds'])} | {row['commands']} "
                f"| {row['commands'] - row['not_ended']} | {row['repeated']} | {row['load_average']} |"
            )

    return lines


_TABLES: Mapping[str, Callable[[Sequence[dict[str, Any]]], list[str]]] = {
    "steady": _steady_table,
    "changed": _changed_table,
    "withheld": _withheld_table,
    "redis": _redis_table,
}


# ---------------------------------------------------------------------------------------------------------- the targets


def missed(scenarios: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what is not as it should be."""
    found = []
    for row in scenarios:
        name = f"{row['scenario']} ({row.get('environment', 'production')}, {row['processes']} processes)"
        if row.get("throttled", 0.0) >= 0.01:  # noqa: PLR2004  # the target
            found.append(f"{name}: {_percent(row['throttled'])} of the answers are 429")
        if row.get("not_ended") or row.get("repeated"):
            found.append(f"{name}: {row.get('not_ended', 0)} not ended, {row['repeated']} carried out twice")
        for category, each in row["categories"].items():
            if row["scenario"] == "steady" and each["used"] < 0.95:  # noqa: PLR2004  # the target
                found.append(f"{name}: {_percent(each['used'])} of {category} used")
            if row["scenario"] == "redis" and each["most_in_a_second"] > 2 * each["quota"]:
                found.append(f"{name}: {each['most_in_a_second']} of {category} in a second")
            if row["scenario"] == "changed":
                settled = (each["settled_down_seconds"], each["settled_up_seconds"])
                if any(seconds is None or seconds > 3 for seconds in settled):  # noqa: PLR2004  # the target
                    found.append(f"{name}: {category} settled after {_seconds(settled[0])} and {_seconds(settled[1])}")

    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios, write the results, and return 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less than 90 s, for a build")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="these scenarios")
    parser.add_argument("--processes", type=int, nargs="+", help="for the steady run (default: 1 4 8)")
    parser.add_argument("--seconds", type=float, help="how long each steady run is measured (default: 60)")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the provider takes to answer")
    parser.add_argument("--results", type=Path, help="folder (default: bench/results; with --short build/bench)")
    given = parser.parse_args(arguments)
    plan = SHORT if given.short else FULL
    plan = Plan(
        **{
            **{name: getattr(plan, name) for name in Plan.__dataclass_fields__},
            **({"processes": given.processes} if given.processes else {}),
            **({"steady": given.seconds} if given.seconds else {}),
        }
    )
    folder = given.results or CHECKOUT / ("build/bench" if given.short else "bench/results")
    report = Report()
    # A build that gives up must leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with rig(given.latency) as made:
        for name in given.only:
            SCENARIOS[name](made, plan, report)
        settings = {"form": "short" if given.short else "full", **settings_of(made, given.latency)}
    found = {"settings": settings, "scenarios": report.scenarios}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "limits.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (folder / "limits.md").write_text(markdown(found), encoding="utf-8")
    draw_charts(report.charts, note=f"{settings['machine']}; what came in, by the provider's own clock", folder=folder)
    print(markdown(found))
    problems = missed(report.scenarios)
    print("\n".join(f"missed: {each}" for each in problems) or "all targets reached")
    states = Counter(each["scenario"] for each in report.scenarios)
    print(f"runs: {dict(states)}; written to {folder.name}")

    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
