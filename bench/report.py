"""The results as tables and charts, and the targets beside what was measured.

Decides how runs become one figure (the median, with the least and the most), and whether a target is met. Reads the
results only, so that a report can be written again without a run. A target that was not measured says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import le
from pathlib import Path
from statistics import median
from typing import Any

#: Contestants whose jobs are in the database, beside which a target is set; the others keep them in Redis.
STORING = ("procrastinate_jobs", "pgqueuer_jobs", "dbos_workflows")
IN_REDIS = ("celery_retry", "dramatiq_actor")

OURS = "ours"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several runs of one thing."""

    middle: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Sum runs up; None where there were none."""
        if not values:
            return None

        return cls(middle=median(values), least=min(values), most=max(values), runs=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A line of the table of targets; `is_met` is None where nothing was measured."""

    figure: str
    target: str
    measured: str
    is_met: bool | None


def chosen(rows: Iterable[Row], **like: object) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in like.items())]


def spread(rows: Iterable[Row], name: str) -> Spread | None:
    """Sum up one figure of several runs."""
    return Spread.of([float(row[name]) for row in rows if row.get(name) is not None])


def number(value: float) -> str:
    """Write a number as a reader wants it: thousands apart, small ones with three digits."""
    if abs(value) >= 100:  # noqa: PLR2004  # from here on fractions say nothing
        return f"{value:,.0f}"

    return f"{value:.3g}"


def shown(of: Spread | None, unit: str = "") -> str:
    """Write a median with what the runs lay between."""
    if of is None:
        return "–"
    around = f" ({number(of.least)}–{number(of.most)})" if of.runs > 1 else ""

    return f"{number(of.middle)}{unit}{around}"


# ---------------------------------------------------------------------------------------------------------- the targets


def limits_of(file: Path) -> list[Row]:
    """What `make bench-limits` found, if it was run."""
    if not file.exists():
        return []
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["scenarios"]

    return rows


def judge(rows: Sequence[Row], limits: Sequence[Row]) -> list[Target]:
    """Compare every target with what was measured."""
    return [
        *_drain_targets(rows),
        *_quota_targets(limits),
        *_enqueue_targets(rows),
        *_wait_targets(rows),
        *_table_targets(rows),
        *_crash_targets(rows),
    ]


def _target(figure: str, target: str, value: float | None, measured: str, is_met: Callable[[float], bool]) -> Target:
    if value is None:
        return Target(figure=figure, target=target, measured="not measured", is_met=None)

    return Target(figure=figure, target=target, measured=measured, is_met=is_met(value))


def _middle(rows: Sequence[Row], name: str, **like: object) -> Spread | None:
    return spread(chosen(rows, **like), name)


def _drain_targets(rows: Sequence[Row]) -> list[Target]:
    ours = _middle(rows, "per_second", scenario="drain", contestant=OURS, latency_ms=0.0)
    slow = _middle(rows, "per_second", scenario="drain", contestant=OURS, latency_ms=200.0)
    cpu = _middle(rows, "cpu_ms_all", scenario="drain", contestant=OURS, latency_ms=0.0)
    found = [
        _target(
            "drain of a backlog, provider at 0 ms",
            "≥ 4,000 commands/s",
            ours.middle if ours else None,
            f"{shown(ours)}/s",
            lambda value: value >= 4_000,  # noqa: PLR2004  # the target
        )
    ]
    for what, names, times in (
        ("the best peer that stores its jobs", STORING, 10),
        ("the fastest that does not", IN_REDIS, 2),
    ):
        rates = [
            (rate.middle, name)
            for name in names
            if (rate := _middle(rows, "per_second", scenario="drain", contestant=name, latency_ms=0.0))
        ]
        ratio = ours.middle / max(rates)[0] if ours and rates else None
        found.append(
            _target(
                f"the same, beside {what}",
                f"≥ {times} ×",
                ratio,
                f"{ratio or 0:.1f} × {max(rates)[1] if rates else ''}",
                partial(le, times),
            )
        )
    found.append(
        _target(
            "CPU per command in that drain, all processes but the stub",
            "≤ 0.4 ms",
            cpu.middle if cpu else None,
            f"{shown(cpu)} ms",
            lambda value: value <= 0.4,  # noqa: PLR2004  # the target
        )
    )
    found.append(
        _target(
            "drain, provider at 200 ms",
            "≥ 3,000 commands/s",
            slow.middle if slow else None,
            f"{shown(slow)}/s",
            lambda value: value >= 3_000,  # noqa: PLR2004  # the target
        )
    )

    return found


def _quota_targets(limits: Sequence[Row]) -> list[Target]:
    steady = [row for row in limits if row["scenario"] == "steady" and row["environment"] == "production"]
    used = min((each["used"] for row in steady for each in row["categories"].values()), default=None)
    refused = max((row["throttled"] for row in steady), default=0.0)
    cores = max((sum(row["cpu_cores"].values()) for row in steady), default=0.0)

    return [
        _target(
            "acquiring-partner quota, 200/s captures and 500/s management at once (`make bench-limits`)",
            "≥ 95 % used, < 1 % 429, less than one core",
            used,
            f"{100 * (used or 0):.1f} % used, {100 * refused:.1f} % 429, {cores:.2f} cores",
            lambda value: value >= 0.95 and refused < 0.01 and cores < 1,  # noqa: PLR2004  # the target
        )
    ]


def _enqueue_targets(rows: Sequence[Row]) -> list[Target]:
    host: Row = next(iter(chosen(rows, scenario="host")), {})
    away = [host[name]["max_ms"] for name in ("broker_stopped", "broker_silent") if name in host]
    bulk = _middle(rows, "per_second", scenario="store many", contestant=OURS)

    return [
        _target(
            "enqueue inside the host's transaction, over a bare INSERT and commit on the same driver",
            "≤ 1.3 ×",
            host.get("ratio_to_driver"),
            f"{host.get('ratio_to_driver')} × the driver, {host.get('ratio_to_core')} × SQLAlchemy Core",
            lambda value: value <= 1.3,  # noqa: PLR2004  # the target
        ),
        _target(
            "enqueue and commit, p99",
            "≤ 5 ms",
            host["ours"]["p99_ms"] if host else None,
            f"{host['ours']['p99_ms'] if host else 0:.3g} ms",
            lambda value: value <= 5,  # noqa: PLR2004  # the target
        ),
        _target(
            "the publish after it, p50",
            "≤ 1 ms",
            host["publish"]["p50_ms"] if host else None,
            f"{host['publish']['p50_ms'] if host else 0:.3g} ms",
            lambda value: value <= 1,
        ),
        _target(
            "the longest enqueue with its publish while the broker is stopped / silent",
            "never waited for: within the publish timeout of 500 ms and 50 ms more, once in 30 s",
            max(away, default=None),
            " / ".join(f"{each:.3g} ms" for each in away),
            lambda value: value <= 550,  # noqa: PLR2004  # the target
        ),
        _target(
            "enqueue in bulk",
            "≥ 7,500/s",
            bulk.middle if bulk else None,
            f"{shown(bulk)}/s",
            lambda value: value >= 7_500,  # noqa: PLR2004  # the target
        ),
    ]


def _wait_targets(rows: Sequence[Row]) -> list[Target]:
    found: Row = next(iter(chosen(rows, scenario="steady", contestant=OURS, rate=50)), {})
    half, most = found.get("p50_ms"), found.get("p99_ms")

    return [
        _target(
            "enqueue to provider call, 50/s",
            "p50 ≤ 50 ms, p99 ≤ 250 ms",
            half,
            f"p50 {half} ms, p99 {most} ms",
            lambda value: value <= 50 and most is not None and most <= 250,  # noqa: PLR2004  # the target
        )
    ]


def _table_targets(rows: Sequence[Row]) -> list[Target]:
    sizes = sorted({row["finished_rows"] for row in chosen(rows, scenario="rows", contestant=OURS)})
    rates = [_middle(rows, "per_second", scenario="rows", contestant=OURS, finished_rows=size) for size in sizes]
    first, last = (rates[0], rates[-1]) if len(rates) > 1 else (None, None)
    slower = 1 - last.middle / first.middle if first and last else None
    waiting: Row = next(iter(chosen(rows, scenario="waiting", contestant=OURS)), {})
    latest = waiting["crowded"].get("max_ms") if waiting else None
    grown = waiting["crowded"]["pss_mib"] / waiting["alone"]["pss_mib"] if waiting else 0.0

    return [
        _target(
            f"{sizes[-1] if sizes else 5_000_000:,} finished rows in the table, beside 10 thousand",
            "≤ 10 % slower",
            slower,
            f"{100 * (slower or 0):.1f} % slower",
            lambda value: value <= 0.1,  # noqa: PLR2004  # the target
        ),
        _target(
            f"{waiting.get('waiting', 500_000):,} commands waiting for their 5 h rung",
            "worker memory unchanged (within 5 %); due ones leave within 2 s",
            latest,
            f"memory {100 * (grown - 1):+.1f} %; the latest left after {(latest or 0) / 1000:.2f} s",
            lambda value: value <= 2_000 and grown <= 1.05,  # noqa: PLR2004  # the target
        ),
    ]


def _crash_targets(rows: Sequence[Row]) -> list[Target]:
    found: Row = next(iter(chosen(rows, scenario="crash", contestant=OURS)), {})
    lease = found.get("lease_seconds", 0)
    back, safe = found.get("handed_back_after_seconds"), found.get("safe_after_seconds")
    if found and safe is None:
        safe = float("inf")

    return [
        _target(
            "crash of a worker with commands in flight",
            "all safe within lease + 5 s; 0 lost, 0 doubled",
            safe,
            f"handed back after {back} s of a lease of {lease} s, safe after {safe} s; {found.get('not_done')} lost,"
            f" 0 doubled ({found.get('called_again')} called again under their key)",
            lambda value: value <= lease + 5 and found["not_done"] == 0,
        )
    ]


# ----------------------------------------------------------------------------------------------------------- the tables


def markdown(found: Mapping[str, Any], targets: Sequence[Target]) -> str:
    """Write everything as one page."""
    rows, names = found["results"], _names(found)
    parts = [
        _head(found["settings"]),
        _target_table(targets),
        _yardstick_table(found["yardsticks"]),
        _drain_table(rows, names),
        _cpu_table(rows, names),
        _steady_table(rows, names),
        _idle_table(rows, names),
        _host_table(rows),
        _store_table(rows, names),
        _crash_table(rows, names),
        _rows_table(rows, names),
        _waiting_table(rows),
        _peers_waiting_table(rows, names),
        _failing_table(rows, names),
        _foot(found),
    ]

    return "\n\n".join(part for part in parts if part) + "\n"


def _names(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: each["title"] for name, each in found["settings"]["contestants"].items()}


def table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; nothing where there is no line."""
    written = [f"| {' | '.join(line)} |" for line in lines]
    if not written:
        return ""

    return "\n".join([f"| {' | '.join(headers)} |", f"|{' --- |' * len(headers)}", *written])


def _section(title: str, note: str, content: str) -> str:
    return f"## {title}\n\n{note}\n\n{content}" if content else ""


def _head(known: Mapping[str, Any]) -> str:
    settings = known["postgresql"]

    versions, peers = (_listed(known["packages"]), _listed(known["peers"]))
    server = _listed(settings)
    text = (
        f"The {known['form']} form, on {known['machine']}, load average {known['load_average_at_start']} before; "
        f"Python {known['python']}; {known['redis']}; PostgreSQL {server}; {versions}. Peers: {peers or 'none'}. "
        "Medians, with the least and the most of several runs in brackets. How to read it: [README](../README.md)."
    )

    return f"# What `make bench` found\n\n{text}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _target_table(targets: Sequence[Target]) -> str:
    words = {True: "met", False: "**missed**", None: "–"}

    return _section(
        "Targets",
        "A target that was missed stays here.",
        table(
            ["figure", "target", "measured", ""],
            [[each.figure, each.target, each.measured, words[each.is_met]] for each in targets],
        ),
    )


def _yardstick_table(yardsticks: Sequence[Row]) -> str:
    lines = [
        [
            str(turn),
            number(each["python_loop_ms"]),
            number(each["curl"]["calls_per_second"]),
            number(each["curl"]["stub_ceiling_per_second"]),
            number(each["pgbench"].get("inserts_per_second", 0)),
            number(each["pgbench"].get("updates_per_second", 0)),
        ]
        for turn, each in enumerate(yardsticks, 1)
    ]

    return _section(
        "Yardsticks of each round",
        "How fast the machine was: a fixed Python loop, one process of bare libcurl calls with nothing stored, what "
        "the stub could answer on a core of its own, and pgbench with 8 clients on one INSERT or UPDATE a transaction.",
        table(["round", "loop, ms", "bare calls/s", "stub's ceiling/s", "INSERT/s", "UPDATE/s"], lines),
    )


def _contestants(rows: Sequence[Row], scenario: str, names: Mapping[str, str]) -> list[str]:
    there = {row["contestant"] for row in chosen(rows, scenario=scenario)}

    return [name for name in names if name in there]


def _latencies(rows: Sequence[Row]) -> list[float]:
    return sorted({row["latency_ms"] for row in chosen(rows, scenario="drain")})


def _drain_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    latencies = _latencies(rows)
    lines = []
    for name in _contestants(rows, "drain", names):
        mine = chosen(rows, scenario="drain", contestant=name)
        by_latency = [shown(_middle(mine, "per_second", latency_ms=each)) for each in latencies]
        memory, twice = spread(mine, "peak_rss_mib"), sum(row["repeated"] for row in mine)
        known = [row["lost"] for row in mine if row.get("lost") is not None]
        lines.append(
            [
                names[name],
                *by_latency,
                shown(_middle(mine, "of_bare_calls", latency_ms=latencies[0])),
                shown(_middle(mine, "of_bare_inserts", latency_ms=latencies[0])),
                number(memory.most) if memory else "–",
                f"{sum(known) if known else '–'} / {twice}",
            ]
        )

    return _section(
        "Drain of a stored backlog, commands a second",
        "By the provider's own count. This worker drains all of it, peers a slice of theirs; losses are known of "
        "what ended.",
        table(
            [
                "",
                *(f"at {each:g} ms" for each in latencies),
                "of the bare calls, at 0 ms",
                "of bare INSERTs",
                "peak memory, MiB",
                "lost / called twice",
            ],
            lines,
        ),
    )


def _cpu_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = []
    for name in _contestants(rows, "drain", names):
        mine = chosen(rows, scenario="drain", contestant=name, latency_ms=0.0)
        parts = [
            shown(Spread.of([row["cpu_ms"][part] for row in mine]))
            for part in ("worker", "postgresql", "redis", "stub")
        ]
        lines.append([names[name], shown(spread(mine, "cpu_ms_all")), *parts])

    return _section(
        "CPU in that drain at 0 ms, seconds a thousand commands (milliseconds a command)",
        "All is without the stub, which stands for another machine, and without the host, which was done before.",
        table(["", "all", "worker", "PostgreSQL", "Redis", "stub"], lines),
    )


def _steady_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [
        [
            names[row["contestant"]],
            f"{row['rate']}/s",
            number(row["offered_per_second"]),
            number(row.get("p50_ms", 0)),
            number(row.get("p99_ms", 0)),
            number(row.get("max_ms", 0)),
            f"{row['not_called']} / {row['repeated']}",
            number(row["cpu_ms_all"]),
            number(row["cpu_ms"]["client"]),
        ]
        for row in sorted(chosen(rows, scenario="steady"), key=lambda row: (row["rate"], row["contestant"] != OURS))
    ]

    return _section(
        "From enqueue to the provider's call at a steady rate, milliseconds",
        "Counted from before the host stores it; the provider answers at once.",
        table(
            ["", "rate", "offered/s", "p50", "p99", "longest", "not called / called twice", "CPU ms", "of it host"],
            lines,
        ),
    )


def _idle_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [
        [
            names[row["contestant"]],
            number(row["queries_a_minute"]),
            *(number(row["cpu_ms_a_minute"][part]) for part in ("worker", "postgresql", "redis")),
            number(row["pss_mib"]),
        ]
        for row in chosen(rows, scenario="idle")
    ]

    return _section(
        "A system that has nothing to do",
        "A minute's worth, scaled up from a shorter stretch. Memory is the processes' own and their share of pages.",
        table(["", "queries", "worker CPU, ms", "PostgreSQL CPU, ms", "Redis CPU, ms", "memory, MiB"], lines),
    )


def _host_table(rows: Sequence[Row]) -> str:
    host: Row = next(iter(chosen(rows, scenario="host")), {})
    words = {
        "driver": "bare INSERT of a like row and commit, psycopg",
        "core": "the same, SQLAlchemy Core",
        "ours": "enqueue and commit",
        "publish": "the publish after it",
        "with_publish": "both",
        "broker_stopped": "both, broker stopped",
        "broker_silent": "both, broker takes connections and is silent",
    }
    lines = [
        [words[name], *(number(host[name][each]) for each in ("p50_ms", "p99_ms", "max_ms"))]
        for name in words
        if name in host
    ]

    return _section(
        "One command inside a host's transaction, milliseconds",
        "Turn by turn in one process, each published.",
        table(["", "p50", "p99", "longest"], lines),
    )


def _store_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = []
    for name in _contestants(rows, "store one", names):
        one = chosen(rows, scenario="store one", contestant=name)
        many = chosen(rows, scenario="store many", contestant=name)
        lines.append(
            [
                names[name],
                shown(spread(one, "per_second")),
                shown(spread(one, "of_bare_inserts")),
                shown(spread(one, "p50_ms")),
                shown(spread(one, "p99_ms")),
                shown(spread(many, "per_second")),
                number(sum(row["stored"] for row in many)),
            ]
        )

    return _section(
        "Storing, one host, no worker",
        "One after the other with a commit and, where it is the contestant's way, a publish each; and as many as it "
        "can in its fastest documented way.",
        table(["", "one by one/s", "of bare INSERTs", "p50, ms", "p99, ms", "in bulk/s", "stored in bulk"], lines),
    )


def _crash_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = []
    for row in chosen(rows, scenario="crash"):
        safe = row["safe_after_seconds"]
        lines.append(
            [
                names[row["contestant"]],
                str(row["kills"]),
                number(row["stored"]),
                str(max(row["in_flight_at_a_kill"], default="–")),
                f"{row['not_done']} after {row['waited_seconds']:g} s" if safe is None else "0",
                str(row["called_again"]),
                f"{safe} s" if safe is not None else "not in time",
            ]
        )

    return _section(
        "A worker killed every 5 s at 100 commands a second and 500 ms",
        "Called again: a call under a key that had its effect; without keys it would be a second capture. A peer that "
        "is not done in the time given may be later, when its broker or its heartbeat gives the jobs back.",
        table(["", "kills", "stored", "in flight", "not done", "called again", "all safe after the last kill"], lines),
    )


def _rows_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = []
    for name in _contestants(rows, "rows", names):
        mine = chosen(rows, scenario="rows", contestant=name)
        bare = _middle(rows, "per_second", scenario="drain", contestant=name, latency_ms=0.0)
        for size in sorted({row["finished_rows"] for row in mine}):
            rate = _middle(mine, "per_second", finished_rows=size)
            lines.append(
                [
                    names[name],
                    f"{size:,}",
                    shown(rate),
                    "–" if rate is None or bare is None else f"{100 * rate.middle / bare.middle:.0f} %",
                    shown(_middle(mine, "cpu_ms_all", finished_rows=size)),
                ]
            )

    return _section(
        "Finished rows in the table, drain at 0 ms",
        "Ours: each command with its attempt and its outcome; the sizes take turns. A peer: what it leaves behind of a "
        "finished job, and some that wait.",
        table(["", "finished", "commands/s", "of the drain above", "CPU ms"], lines),
    )


def _waiting_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in chosen(rows, scenario="waiting", contestant=OURS):
        for name, count in (("alone", 0), ("crowded", row["waiting"])):
            each = row[name]
            lines.append(
                [
                    f"{count:,}",
                    number(each["pss_mib"]),
                    number(each["peak_rss_mib"]),
                    *(number(each[lag]) for lag in ("p50_ms", "p99_ms", "max_ms")),
                    f"{each['cpu_cores']['worker']:.3f} / {each['cpu_cores']['postgresql']:.3f}",
                ]
            )

    return _section(
        "Commands that wait for their 5 h rung",
        "Some come due meanwhile, evenly over some seconds; late is from their due time to their call.",
        table(
            ["waiting", "memory, MiB", "peak", "late p50, ms", "p99", "latest", "CPU cores, worker / PostgreSQL"], lines
        ),
    )


def _peers_waiting_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [
        [
            names[row["contestant"]],
            number(row["waiting"]),
            number(row["pss_mib_before"]),
            number(row["pss_mib"]),
            *(number(row[lag]) for lag in ("p50_ms", "p99_ms", "max_ms")),
            number(row["not_called"]),
            number(row["cpu_ms_all"]),
        ]
        for row in chosen(rows, scenario="waiting")
        if row["contestant"] != OURS
    ]

    return _section(
        "Jobs of peers that wait for five hours",
        "Others are stored meanwhile at 50 a second; the wait is from the offer to the call.",
        table(
            [
                "",
                "waiting",
                "memory before, MiB",
                "with them",
                "wait p50, ms",
                "p99",
                "longest",
                "not called",
                "CPU ms",
            ],
            lines,
        ),
    )


def _failing_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [
        [
            names[row["contestant"]],
            number(row["commands"]),
            number(row.get("done", row["commands"])),
            number(row["calls"]),
            number(row["seconds"]),
            number(row["calls_per_second"]),
            *(number(row[name]) if name in row else "–" for name in ("late_p50_ms", "late_p99_ms", "late_max_ms")),
            number(row["cpu_ms_all"]),
            number(row["peak_rss_mib"]),
        ]
        for row in chosen(rows, scenario="failing")
    ]

    return _section(
        "Commands that all fail at once, twice, and are tried again after 5 s",
        "No breaker holds them. Late is a retry's call after its 5 s, the queue before it included; what is less than "
        "nothing came before its time.",
        table(
            [
                *("", "commands", "done", "calls", "seconds", "calls/s", "late p50, ms", "p99", "latest"),
                *("CPU ms a call", "peak, MiB"),
            ],
            lines,
        ),
    )


def _foot(found: Mapping[str, Any]) -> str:
    known = found["settings"]
    lines = ["## Who was measured", ""]
    lines += [f"* {each['title']}: {each['remark']}." for each in known["contestants"].values()]
    lines += [f"* {name} is not here: {why}." for name, why in known["absent"].items()]
    for problem in found["problems"]:
        what = problem["what"].splitlines()[-1]
        lines.append(f"* Failed and left out: {problem['scenario']} of {problem['contestant']}: {what}")
    took = ", ".join(f"{name} {number(seconds)} s" for name, seconds in found["took_seconds"].items())

    return "\n".join([*lines, "", f"It took {took}."])


# ----------------------------------------------------------------------------------------------------------- the charts


def draw_charts(found: Mapping[str, Any], *, folder: Path) -> None:
    """Draw the drains and what they cost."""
    from . import bars  # noqa: PLC0415  # a bench without charts needs no plotting library

    rows, names = found["results"], _names(found)
    who = _contestants(rows, "drain", names)
    if not who:
        return
    titles, note = [names[name] for name in who], f"{found['settings']['machine']}; by the provider's own count"
    bars.beside(
        titles,
        {
            f"at {each:g} ms": [
                of.middle
                if (of := _middle(rows, "per_second", scenario="drain", contestant=name, latency_ms=each))
                else 0
                for name in who
            ]
            for each in _latencies(rows)
        },
        title="Drain of a stored backlog",
        unit="commands a second",
        note=note,
        file=folder / "bench-drain",
    )
    costs = {name: chosen(rows, scenario="drain", contestant=name, latency_ms=0.0) for name in who}
    bars.stacked(
        titles,
        {
            title: [of.middle if (of := Spread.of([row["cpu_ms"][part] for row in costs[name]])) else 0 for name in who]
            for part, title in (("worker", "worker"), ("postgresql", "PostgreSQL"), ("redis", "Redis"))
        },
        title="CPU of one command in a drain at 0 ms",
        unit="milliseconds",
        note=note,
        file=folder / "bench-cpu",
    )
