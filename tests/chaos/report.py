"""What the runs came to, as JSON, Markdown and a chart.

Decides how the figures are put, and nothing about them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from .faults import FAULTS, has_clock
from .judge import Breach, Effect, Link, Row, counted
from .plan import Plan
from .rig import LEASE_SECONDS, SETTINGS, WORKERS, Rig
from .version import previous_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One seed and what came of it."""

    plan: Plan
    commands: int
    states: dict[str, int]
    kinds: dict[str, int]
    effects: int
    in_doubt: int
    tickets: dict[str, int]
    repeated_sends: int
    breaches: Sequence[Breach]
    happened: Sequence[tuple[str, float, float]]
    repeats: int
    by_previous_version: int
    by_previous_version_brought_back: int
    throttled: int
    safe_after: float
    lifted_at: float
    seconds: float
    machine_load: float | None

    @classmethod
    def of(
        cls, plan: Plan, *, rows: Sequence[Row], links: Sequence[Link], effects: Sequence[Effect], **told: Any
    ) -> Self:
        """Count it."""
        return cls(
            plan=plan,
            commands=len(rows),
            states=counted(rows, lambda row: row.state),
            kinds=counted(rows, lambda row: f"{row.account} {row.kind}"),
            effects=sum(effect["actor"] == "client" for effect in effects),
            in_doubt=sum(row.in_doubt for row in rows),
            tickets=counted(links, lambda link: link.reason),
            repeated_sends=sum(max(0, row.sends - 1) for row in rows),
            **told,
        )

    @classmethod
    def read(cls, shown: dict[str, Any]) -> Self:
        """Read one that was written down."""
        given = {each.name: shown[each.name] for each in fields(cls)}

        return cls(
            **{
                **given,
                "plan": Plan.read(shown["plan"]),
                "breaches": [Breach(**each) for each in shown["breaches"]],
                "happened": [tuple(each) for each in shown["happened"]],
            }
        )

    def shown(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "seed": self.plan.seed,
            "lost": self.count("lost"),
            "doubled": self.count("doubled"),
            **asdict(self),
        }

    def count(self, *promises: str) -> int:
        """Count the breaches of some promises."""
        return sum(breach.promise in promises for breach in self.breaches)


def what_stood_in(rig: Rig) -> list[str]:
    """Say what could not be had here, and what stood in for it."""
    lines = [
        "network namespaces: a TCP proxy on every line between two parts cuts, delays, holds and halves",
        (
            f"waits are scaled: lease {LEASE_SECONDS:g} s for 90 s, ladder {SETTINGS['RETRY__LADDER_SECONDS']} s for "
            f"5 s, 5 min, 5 h, read-back pause {SETTINGS['READ_BACK__PAUSE_SECONDS']} s for 60 s; "
            "a lock of 60 s is one of 2 to 4.5 s beside statements that may take 3 s"
        ),
    ]
    if rig.postgres.disk is None:
        lines.append("disk full: no small disk can be mounted here, a trigger refuses every write with SQLSTATE 53100")
    if not has_clock():
        lines.append("clock jumps: left out, for libfaketime is not installed (apt-get install faketime)")
    if previous_version() is None:
        lines.append("new version deployed: left out, for there is no history to get the previous one's code from")

    return lines


def read(folder: Path) -> list[Run]:
    """Read the runs that a folder's report is about."""
    facts = json.loads((folder / "chaos.json").read_text(encoding="utf-8"))

    return [Run.read(each) for each in facts["each"]]


def write(runs: Sequence[Run], *, rig: Rig, folder: Path) -> None:
    """Write all three."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(runs, rig)
    (folder / "chaos.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chaos.md").write_text(_markdown(runs, facts), encoding="utf-8")
    _draw(runs, folder / "chaos")


def _facts(runs: Sequence[Run], rig: Rig) -> dict[str, Any]:
    by_fault = Counter(name for run in runs for name, *_ in run.happened)
    older = previous_version()

    return {
        "runs": len(runs),
        "commands": sum(run.commands for run in runs),
        "effects": sum(run.effects for run in runs),
        "lost": sum(run.count("lost") for run in runs),
        "doubled": sum(run.count("doubled") for run in runs),
        "stuck": sum(run.count("stuck") for run in runs),
        "other_breaches": sum(run.count("untrue", "untold", "exceeded", "overwritten", "silent") for run in runs),
        "worst_seconds_to_safe": round(max(run.safe_after for run in runs), 2),
        "median_seconds_to_safe": round(statistics.median(run.safe_after for run in runs), 2),
        "faults": sum(by_fault.values()),
        "faults_by_kind": {name: by_fault[name] for name in FAULTS},
        "workers": WORKERS,
        "throttled": sum(run.throttled for run in runs),
        "attempts_by_previous_version": sum(run.by_previous_version for run in runs),
        "attempts_by_previous_version_brought_back": sum(run.by_previous_version_brought_back for run in runs),
        "previous_version": None if older is None else older.commit,
        "versions": {
            "PostgreSQL": rig.postgres.version,
            "Redis": rig.redis.version,
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("celery", "kombu", "psycopg", "redis", "pycurl")},
        },
        "stood_in": what_stood_in(rig),
        "each": [run.shown() for run in runs],
    }


def _markdown(runs: Sequence[Run], facts: dict[str, Any]) -> str:
    states: Counter[str] = Counter()
    tickets: Counter[str] = Counter()
    for run in runs:
        states.update(run.states)
        tickets.update(run.tickets)
    groups: dict[str, list[str]] = {}
    for name, fault in FAULTS.items():
        groups.setdefault(fault.group, []).append(f"{name} {facts['faults_by_kind'][name]}")
    lines = [
        "# Chaos: what the provider saw",
        "",
        "![How long until everything was safe](chaos.png)",
        "",
        "| figure | value |",
        "| --- | --- |",
        f"| runs, one seed each | {facts['runs']} |",
        f"| commands | {facts['commands']:,} |",
        f"| effects at the sandbox | {facts['effects']:,} |",
        f"| **lost** | **{facts['lost']}** |",
        f"| **doubled** | **{facts['doubled']}** |",
        f"| not safe within the deadline | {facts['stuck']} |",
        f"| other promises broken | {facts['other_breaches']} |",
        f"| faults | {facts['faults']} |",
        f"| worst time from the last fault to safe | {facts['worst_seconds_to_safe']:g} s |",
        f"| median of it | {facts['median_seconds_to_safe']:g} s |",
        f"| how they ended | {', '.join(f'{count:,} {state}' for state, count in states.most_common())} |",
        f"| sends beyond a command's first | {sum(run.repeated_sends for run in runs):,} |",
        f"| still in doubt, with a person | {sum(run.in_doubt for run in runs):,} |",
        f"| with a person, by reason | {', '.join(f'{name} {count:,}' for name, count in tickets.most_common())} |",
        "",
        "A command that is `pending` at the end waits for a person's decision about an earlier one of its order.",
        "",
        "## Faults by kind",
        "",
        "| group | how often |",
        "| --- | --- |",
        *(f"| {group} | {', '.join(names)} |" for group, names in groups.items()),
        "",
        "## Each run",
        "",
        "The time to safe is the time to work off what had piled up; a machine that others use has less of it to give.",
        "",
        "| seed | commands | effects | faults | safe after | processes that wanted the machine | lost | doubled |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {run.plan.seed} | {run.commands:,} | {run.effects:,} | {len(run.happened)} | {run.safe_after:.1f} s "
            f"| {'not noted' if run.machine_load is None else f'{run.machine_load:.0f}'} "
            f"| {run.count('lost')} | {run.count('doubled')} |"
            for run in runs
        ),
        "",
        "## What it ran on, and what stood in",
        "",
        f"{', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.",
        "",
        (
            f"{facts['workers']} workers of two processes each; in every second run upkeep runs apart from them, in "
            f"every third Klarna's side has a quota ({facts['throttled']:,} answers were a 429 for it). The worker of "
            f"the previous version is commit {facts['previous_version']}, one migration older: in every fourth run the "
            "schema is migrated under it, it works beside the new one and ends "
            f"({facts['attempts_by_previous_version']:,} attempts); then, under load, the new ones are stopped, the "
            "schema goes back, the previous version works alone "
            f"({facts['attempts_by_previous_version_brought_back']:,} attempts), and the new one follows again."
        ),
        "",
        *(f"* {line}" for line in facts["stood_in"]),
        "",
        f"The last run is seen again with `{runs[-1].plan.again()}`; every plan stands in `chaos.json`.",
        "",
    ]

    return "\n".join(lines)


def _draw(runs: Sequence[Run], file: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415  # only who writes a report needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # after the choice above

    ink, grey, blue, red = "#1c1c1c", "#6b6b6b", "#1f5fa8", "#c0392b"
    figure, axis = plt.subplots(figsize=(10, 1.8 + 0.3 * len(runs)))
    for number, run in enumerate(runs):
        axis.barh(number, run.safe_after, left=run.lifted_at, height=0.5, color=blue, label="until safe")
        for _, at, ends in run.happened:
            axis.barh(number, max(ends - at, 0.15), left=at, height=0.5, color=red, alpha=0.35, label="a fault")
        axis.annotate(
            f" {run.commands:,} commands, lost {run.count('lost')}, doubled {run.count('doubled')}",
            (run.lifted_at + run.safe_after, number),
            va="center",
            fontsize=8,
            color=ink,
        )
    axis.set_yticks(range(len(runs)), [f"seed {run.plan.seed}" for run in runs], fontsize=8, color=ink)
    axis.invert_yaxis()
    axis.set_xlim(0, max(run.lifted_at + run.safe_after for run in runs) * 1.45)
    axis.set_xlabel("seconds since the first command", color=ink)
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.suptitle("Faults, and how long until everything was safe", x=0.02, ha="left", fontweight="bold", color=ink)
    axis.legend(unique.values(), unique.keys(), loc="lower right", frameon=False, fontsize=9)
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=grey)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file.with_suffix(".png"), dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)
