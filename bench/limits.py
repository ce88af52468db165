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
import signal
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker.config import load

from . import outage
from .machinery import CHECKOUT, NotInTime, wait_until
from .rig import (
    CAPTURE,
    MANAGEMENT,
    PARTNERS,
    QUOTAS,
    STEP,
    Report,
    Rig,
    Traffic,
    backlog,
    commands,
    in_percent,
    in_seconds,
    rig,
    share,
    within,
)

#: Seconds after the first request that are not judged: processes start one after another.
_WARM = 3.0

#: What a busy machine sends late comes in denser than it was sent, and is refused; a burst is many times the quota.
_MOST_ABOVE = 1.1


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
    outages: Sequence[outage.Outage]


FULL = Plan(
    steady=60,
    processes=(1, 4, 8),
    environments=("production", "playground"),
    change=20,
    withheld=30,
    before_trouble=10,
    redis_away=30,
    outages=outage.FULL,
)
SHORT = Plan(
    steady=10,
    processes=(4,),
    environments=("production",),
    change=7,
    withheld=6,
    before_trouble=4,
    redis_away=5,
    outages=outage.SHORT,
)


# ------------------------------------------------------------------------------------------------------- the scenarios


def settled_after(traffic: Traffic, category: str, *, change: float, quota: float, ends: float) -> float | None:
    """Seconds from a change of the quota to two seconds that use ≥ 90 % of it with < 1 % of 429; None: never."""
    admitted, throttled = traffic.moments(category)
    at = change
    while at + 2 <= ends:
        good, bad = within(admitted, at, at + 2), within(throttled, at, at + 2)
        # A second of the old quota may still be in the window: twice as much as the new one is not settled.
        if 0.9 * 2 * quota <= good <= 1.02 * 2 * quota and bad < 0.01 * (good + bad):
            return round(at - change, 1)
        at += STEP

    return None


def steady(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 1: both quotas of an acquiring partner at once, over five partners."""
    for environment in plan.environments:
        for processes in plan.processes:
            rig.prepare(
                environment=environment,
                processes=processes,
                made=commands(backlog(environment, 1.1 * plan.steady + 12)),
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
                report.keep_chart("steady", title, traffic=traffic, environment=environment, ends=start + plan.steady)


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
            "most_in_a_second": traffic.most_in_a_second(category, after=begins, until=ends),
            "partner_quota": own,
            "most_in_a_second_of_a_partner": max(
                traffic.most_in_a_second(category, who, after=begins, until=ends) for who in PARTNERS
            ),
        }

    return {"categories": used, "throttled": share(all_bad, all_good + all_bad)}


def changed(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 2: the provider halves its quotas in mid-run, and doubles them again later."""
    processes = 4
    rig.prepare(
        environment="production", processes=processes, made=commands(backlog("production", 2.7 * plan.change + 8))
    )
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
    report.keep_chart(
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
        made=commands(backlog("production", 1.1 * plan.withheld + 12)),
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
    made = commands(backlog("production", 3 * pause + 2))
    rig.prepare(environment="production", processes=processes, made=made)
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
            "commands": len(made),
            "ended": {state: ended[state] for state in ended if state not in {"claims", "sends"}},
            "not_ended": lost,
            "repeated": traffic.repeated,
            "categories": found,
            "load_average": round(load_average, 1),
        }
    )
    report.keep_chart(
        "redis",
        f"Redis flushed, restarted, and stopped for {plan.redis_away:g} s, {processes} worker processes",
        traffic=traffic,
        environment="production",
        ends=max(moments[-1] for moments in traffic.admitted.values()) + 1,
        marks=[(at - traffic.began, what) for at, what in marks],
    )


def down(rig: Rig, plan: Plan, report: Report) -> None:
    """Scenario 4: the provider is down for hours, and then back."""
    for each in plan.outages:
        outage.play(rig, each, report)


SCENARIOS: Mapping[str, Callable[[Rig, Plan, Report], None]] = {
    "steady": steady,
    "changed": changed,
    "withheld": withheld,
    "outage": down,
    "redis": redis_in_trouble,
}


# ----------------------------------------------------------------------------------------------------------- the report


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
            f"| {in_percent(capture['used'])} | {in_percent(management['used'])} | {in_percent(row['throttled'])} "
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
                f"| {category} | {row['processes']} | {in_seconds(each['settled_down_seconds'])} "
                f"| {in_seconds(each['settled_up_seconds'])} | {each['throttled_before']} "
                f"| {each['throttled_after_halving']} | {each['throttled_after_doubling']} | {row['load_average']} |"
            )

    return lines


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
            f"| {row['processes']} | {in_percent(used[CAPTURE]['used'])} | {in_percent(used[MANAGEMENT]['used'])} "
            f"| {in_percent(row['throttled'])} | {row['load_average']} |"
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
                f"| {in_seconds(each['sends_again_after_seconds'])} | {row['commands']} "
                f"| {row['commands'] - row['not_ended']} | {row['repeated']} | {row['load_average']} |"
            )

    return lines


_TABLES: Mapping[str, Callable[[Sequence[dict[str, Any]]], list[str]]] = {
    "steady": _steady_table,
    "changed": _changed_table,
    "withheld": _withheld_table,
    "outage": outage.table,
    "redis": _redis_table,
}


# ---------------------------------------------------------------------------------------------------------- the targets


def missed(scenarios: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what is not as it should be."""
    found = []
    for row in scenarios:
        name = f"{row['scenario']} ({row.get('environment', 'production')}, {row['processes']} processes)"
        if row.get("throttled", 0.0) >= 0.01:  # noqa: PLR2004  # the target
            found.append(f"{name}: {in_percent(row['throttled'])} of the answers are 429")
        if row.get("not_ended") or row.get("repeated"):
            found.append(f"{name}: {row.get('not_ended', 0)} not ended, {row.get('repeated', 0)} carried out twice")
        if row["scenario"] == "outage":
            found += [f"{name}: {each}" for each in outage.missed(row)]
        if row["scenario"] in {"steady", "withheld", "outage"}:
            found += [f"{name}: {each}" for each in _bursts(row["categories"])]
        for category, each in row["categories"].items():
            if row["scenario"] == "steady" and each["used"] < 0.95:  # noqa: PLR2004  # the target
                found.append(f"{name}: {in_percent(each['used'])} of {category} used")
            if row["scenario"] == "redis" and each["most_in_a_second"] > 2 * each["quota"]:
                found.append(f"{name}: {each['most_in_a_second']} of {category} in a second")
            if row["scenario"] == "changed":
                settled = (each["settled_down_seconds"], each["settled_up_seconds"])
                if any(seconds is None or seconds > 3 for seconds in settled):  # noqa: PLR2004  # the target
                    found.append(
                        f"{name}: {category} settled after {in_seconds(settled[0])} and {in_seconds(settled[1])}"
                    )

    return found


def _bursts(categories: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the seconds in which more was asked for than a quota and a little, refused requests included."""
    return [
        f"{each[most]} of {each[quota]} {category} in a second"
        for category, each in categories.items()
        for most, quota in (("most_in_a_second", "quota"), ("most_in_a_second_of_a_partner", "partner_quota"))
        if each[most] > _MOST_ABOVE * each[quota]
    ]


def broken(scenarios: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a command was forgotten or carried out twice, which no load of a machine excuses."""
    marks = ("not_ended", "repeated", "neither_done_nor_in_a_ticket", "doubled")

    return any(row.get(mark) for row in scenarios for mark in marks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios, write the results, and return 1 where a promise was broken.

    With `--strict`, also where a target was missed: what is fast enough depends on what else the machine does.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less than 90 s, for a build")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="these scenarios")
    parser.add_argument("--processes", type=int, nargs="+", help="for the steady run (default: 1 4 8)")
    parser.add_argument("--seconds", type=float, help="how long each steady run is measured (default: 60)")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a target was missed, too")
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

    return 1 if broken(report.scenarios) or (given.strict and problems) else 0


if __name__ == "__main__":
    sys.exit(main())
