"""This worker beside what a shop could install instead: `make bench`, `make bench-quick`.

Decides what is played, how often, in which order and for how long at most; the modules of the scenarios measure, and
`report` judges. What was found is written after each part, a part that fails is named and skipped, and nothing
of what was started is left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import baselines, crash, drain, fill, flame, host, peer_tables, report, steady, tables
from .arena import DURABILITY, POSTGRESQL, Arena, arena, deadline
from .contestants import ABSENT, OURS, PEERS, Contestant
from .machinery import CHECKOUT
from .ours import MAX_IN_FLIGHT, QUOTA_PER_SECOND
from .sql import scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything, in commands, seconds and rounds."""

    form: str
    scenarios: Sequence[str]
    rounds: int
    slow_rounds: int
    backlog: int
    drain: float
    latencies: Sequence[float]
    slice: float
    peer_rounds: int
    peers: Sequence[str]
    yardstick: float
    rates: Sequence[int]
    steady: float
    peer_steady: float
    idle: float
    peer_idle: float
    host: float
    bulk: int
    peer_store: float
    kills: int
    peer_storm_patience: float
    sizes: Sequence[int]
    beside: int
    peer_tables: peer_tables.Measure
    waiting: int
    due: int
    due_seconds: float
    failing: int


FULL = Plan(
    form="full",
    scenarios=("drain", "steady", "enqueue", "crash", "rows", "waiting", "failing", "peers"),
    rounds=3,
    slow_rounds=2,
    backlog=50_000,
    drain=30,
    latencies=(0.0, 0.05, 0.2),
    slice=3,
    peer_rounds=2,
    peers=tuple(PEERS),
    yardstick=1,
    rates=(50, 500),
    steady=10,
    peer_steady=5,
    idle=12,
    peer_idle=4,
    host=5,
    bulk=100_000,
    peer_store=2,
    kills=2,
    peer_storm_patience=10,
    sizes=(10_000, 1_000_000, 5_000_000),
    beside=20_000,
    peer_tables=peer_tables.Measure(
        failing=1_000, failing_seconds=17, history=200_000, slice=2, waiting=10_000, rate=50, steady=3
    ),
    waiting=500_000,
    due=500,
    due_seconds=10,
    failing=30_000,
)

QUICK = Plan(
    form="quick",
    scenarios=("drain", "steady", "enqueue"),
    rounds=1,
    slow_rounds=1,
    backlog=10_000,
    drain=10,
    latencies=(0.0, 0.2),
    slice=3,
    peer_rounds=1,
    peers=("celery_retry",),
    yardstick=1,
    rates=(50,),
    steady=4,
    peer_steady=4,
    idle=4,
    peer_idle=4,
    host=2,
    bulk=10_000,
    peer_store=1,
    kills=1,
    peer_storm_patience=5,
    sizes=(10_000, 50_000),
    beside=5_000,
    peer_tables=peer_tables.Measure(
        failing=200, failing_seconds=15, history=20_000, slice=2, waiting=1_000, rate=50, steady=2
    ),
    waiting=20_000,
    due=100,
    due_seconds=4,
    failing=3_000,
)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was found so far; on disk after each part."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    yardsticks: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    def add(self, scenario: str, contestant: Contestant, found: Mapping[str, Any], **more: object) -> None:
        """Keep a finding, and show it to whoever waits."""
        row = {"scenario": scenario, "contestant": contestant.name, **more, **found}
        if self.yardsticks and "per_second" in found:
            row.update(baselines.ratios(found["per_second"], self.yardsticks[-1]))
        self.results.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def as_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "settings": self.settings,
            "yardsticks": self.yardsticks,
            "results": self.results,
            "problems": self.problems,
            "took_seconds": self.took,
        }

    def write(self) -> None:
        """Put it on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bench.json").write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """The arena, the plan, and what was found."""

    arena: Arena
    plan: Plan
    findings: Findings

    @property
    def peers(self) -> list[Contestant]:
        """Those that are installed and asked for."""
        return [PEERS[name] for name in self.plan.peers if self.arena.peers_python is not None]

    def attempt(self, scenario: str, who: Contestant, part: Callable[[], None], *, within: float) -> None:
        """Play one part; if it fails, say so and go on."""
        print(f"… {scenario}: {who.title}", file=sys.stderr, flush=True)
        try:
            with deadline(within, what=f"{scenario} of {who.name}"):
                part()
        except Exception as error:  # noqa: BLE001  # whatever it is, the other parts are still worth playing
            what = str(error).strip() or type(error).__name__
            # The rest of it names files of this machine, which a result that others read should not.
            last = what.splitlines()[-1]
            self.findings.problems.append({"scenario": scenario, "contestant": who.name, "what": last})
            print(f"failed: {scenario} of {who.name}: {what}", file=sys.stderr, flush=True)
            self.findings.write()


# ------------------------------------------------------------------------------------------------------- the scenarios


def play_drain(game: Game) -> None:
    """A stored backlog, at each latency; peers a slice of theirs, in turn with us."""
    plan, found = game.plan, game.findings
    game.attempt("bulk", OURS, lambda: _make_backlog(game), within=240)
    for number in range(1, plan.rounds + 1):
        _take_yardsticks(game)
        for latency in plan.latencies:

            def once(latency: float = latency, number: int = number) -> None:
                told = drain.drain(game.arena, count=plan.backlog, latency=latency, within=plan.drain)
                found.add("drain", OURS, told, round=number)

            if number <= plan.slow_rounds or not latency:
                game.attempt("drain", OURS, once, within=plan.drain + 60)
        if number > plan.peer_rounds:
            continue
        for peer in game.peers:

            def slices(peer: Contestant = peer, number: int = number) -> None:
                # What waits for an answer is steadier than what waits for a core: once is enough.
                latencies = plan.latencies if number == 1 else plan.latencies[:1]
                for told in drain.slices(game.arena, peer, latencies=latencies, seconds=plan.slice):
                    found.add("drain", peer, told, round=number)

            game.attempt("drain", peer, slices, within=120)


def _make_backlog(game: Game) -> None:
    told = drain.make_backlog(game.arena, game.plan.backlog)
    print(json.dumps(told), flush=True)


def _take_yardsticks(game: Game) -> None:
    taken = baselines.take(game.arena.stub, game.arena.database.empty("bench_yardstick"), seconds=game.plan.yardstick)
    game.findings.yardsticks.append(taken)
    print(json.dumps({"yardsticks": taken}), flush=True)
    game.findings.write()


def play_steady(game: Game) -> None:
    """Idle, then steady rates."""
    plan = game.plan
    for who in (OURS, *game.peers):
        is_ours = who is OURS

        def once(who: Contestant = who, *, is_ours: bool = is_ours) -> None:
            idle, offered = steady.play(
                game.arena,
                who,
                rates=plan.rates,
                seconds=plan.steady if is_ours else plan.peer_steady,
                idle=plan.idle if is_ours else plan.peer_idle,
            )
            game.findings.add("idle", who, idle)
            for each in offered:
                game.findings.add("steady", who, each)

        game.attempt("steady", who, once, within=180)


def play_enqueue(game: Game) -> None:
    """What storing costs a host."""
    plan, found = game.plan, game.findings
    game.attempt("host", OURS, lambda: found.add("host", OURS, host.measure(game.arena, seconds=plan.host)), within=120)
    for who in (OURS, *game.peers):
        most, seconds = (plan.bulk, 60) if who is OURS else (plan.bulk, plan.peer_store)

        def once(who: Contestant = who, most: int = most, seconds: float = seconds) -> None:
            with game.arena.bout(who) as bout:
                one = bout.client("one", plan.peer_store, within=60)
                found.add("store one", who, {**one, "per_second": round(one["stored"] / one["seconds"], 1)})
                bulk = bout.client("bulk", most, seconds, within=120)
                found.add("store many", who, {**bulk, "per_second": round(bulk["stored"] / bulk["seconds"], 1)})

        game.attempt("store", who, once, within=150)


def play_crash(game: Game) -> None:
    """A worker killed every 5 s."""
    plan = game.plan
    for who in (OURS, *game.peers):
        within = crash.LEASE + 15 if who is OURS else plan.peer_storm_patience

        def once(who: Contestant = who, within: float = within) -> None:
            told = crash.storm(game.arena, who, kills=plan.kills, every=5, within=within)
            game.findings.add("crash", who, told)

        game.attempt("crash", who, once, within=150)


def play_rows(game: Game) -> None:
    """Finished rows in the table."""
    plan, found = game.plan, game.findings

    def make() -> None:
        found.settings["seconds_to_fill"] = tables.make_finished(game.arena, plan.sizes)

    game.attempt("rows", OURS, make, within=400)
    try:
        for number in range(1, min(2, plan.rounds) + 1):
            for size in plan.sizes:

                def once(size: int = size, number: int = number) -> None:
                    told = tables.drain_beside(game.arena, size=size, count=plan.beside, within=60)
                    found.add("rows", OURS, told, round=number)

                game.attempt("rows", OURS, once, within=90)
    finally:
        for size in plan.sizes:
            game.arena.database.drop(f"bench_rows_{size}")


def play_waiting(game: Game) -> None:
    """Commands that wait for their 5 h rung."""
    plan = game.plan

    def once() -> None:
        fill.make_seed(game.arena)
        told = tables.waiting(game.arena, count=plan.waiting, due=plan.due, seconds=plan.due_seconds)
        game.findings.add("waiting", OURS, told)

    game.attempt("waiting", OURS, once, within=200)


def play_failing(game: Game) -> None:
    """Commands that all fail at once, twice."""

    def once() -> None:
        fill.make_seed(game.arena)
        game.findings.add("failing", OURS, tables.failing(game.arena, count=game.plan.failing, failures=2, within=120))

    game.attempt("failing", OURS, once, within=170)


def play_peers(game: Game) -> None:
    """What a long history, many that wait and many that fail at once are to the peers."""
    for peer in game.peers:

        def once(peer: Contestant = peer) -> None:
            for scenario, told in peer_tables.play(game.arena, peer, game.plan.peer_tables):
                game.findings.add(scenario, peer, told)

        game.attempt("tables", peer, once, within=120)


SCENARIOS: Mapping[str, Callable[[Game], None]] = {
    "drain": play_drain,
    "steady": play_steady,
    "enqueue": play_enqueue,
    "crash": play_crash,
    "rows": play_rows,
    "waiting": play_waiting,
    "failing": play_failing,
    "peers": play_peers,
}


# ---------------------------------------------------------------------------------------------------------- the command


def settings_of(arena: Arena, plan: Plan) -> dict[str, Any]:
    """Versions and settings that a figure depends on; nothing that names the machine."""
    durable = {name: scalar(arena.database.url, f"SHOW {name}") for name in DURABILITY}
    names = sorted({name for each in PEERS.values() for name in each.packages})

    return {
        "form": plan.form,
        "machine": f"{os.cpu_count()} cores; {platform.system()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in OURS.packages},
        "peers": _versions(arena.peers_python, names),
        "contestants": {each.name: {"title": each.title, "remark": each.remark} for each in (OURS, *PEERS.values())},
        "absent": dict(ABSENT),
        "redis": f"{arena.redis.version}, without persistence",
        "postgresql": {"version": arena.database.version, **durable, **POSTGRESQL},
        "worker": {"max_in_flight": MAX_IN_FLIGHT, "quota_per_second": QUOTA_PER_SECOND},
        "load_average_at_start": round(os.getloadavg()[0], 1),
    }


def _versions(python: str | None, names: Sequence[str]) -> dict[str, str]:
    if python is None:
        return {}
    program = (
        "import json, sys; from importlib.metadata import version;"
        " print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    told = subprocess.run([python, "-c", program, *names], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] = json.loads(told.stdout)

    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios and write the results; with `--strict`, return 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes, with the cheapest peer only")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, help="these scenarios")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="these peers; none after the option: no peer")
    parser.add_argument("--peers-python", help="interpreter of the environment that the peers are installed in")
    parser.add_argument("--rounds", type=int, help="how often each drain is repeated")
    parser.add_argument("--flame", action="store_true", help="only a flame graph of a drain, with py-spy")
    parser.add_argument("--report", action="store_true", help="only write the tables and charts of results that exist")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a target was missed")
    parser.add_argument("--results", type=Path, help="folder (default: bench/results; with --quick build/bench)")
    given = parser.parse_args(arguments)
    chosen = QUICK if given.quick else FULL
    folder = given.results or CHECKOUT / ("build/bench" if given.quick else "bench/results")
    # What is told to end must leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.report:
        return _finish(json.loads((folder / "bench.json").read_text(encoding="utf-8")), folder, strict=given.strict)

    changed = {"rounds": given.rounds, "peers": given.peers}
    plan = Plan(
        **{
            **{name: getattr(chosen, name) for name in Plan.__dataclass_fields__},
            **{name: value for name, value in changed.items() if value is not None},
        }
    )
    with arena(given.peers_python) as made:
        if given.flame:
            return flame.draw(made, folder=folder)
        findings = Findings(folder=folder, settings=settings_of(made, plan))
        game = Game(arena=made, plan=plan, findings=findings)
        only = given.only or plan.scenarios
        if "drain" not in only:
            _take_yardsticks(game)
        for name in only:
            began = time.monotonic()
            SCENARIOS[name](game)
            findings.took[name] = round(time.monotonic() - began, 1)
            findings.write()

    return _finish(findings.as_dict(), folder, strict=given.strict)


def _finish(found: dict[str, Any], folder: Path, *, strict: bool) -> int:
    targets = report.judge(found["results"], report.limits_of(CHECKOUT / "bench" / "results" / "limits.json"))
    text = report.markdown(found, targets)
    (folder / "bench.md").write_text(text, encoding="utf-8")
    report.draw_charts(found, folder=folder)
    print(text)
    missed = [each for each in targets if each.is_met is False]
    for each in missed:
        print(f"missed: {each.figure}: {each.measured}, target {each.target}")
    for problem in found["problems"]:
        print(f"failed: {problem['scenario']} of {problem['contestant']}")
    if not missed:
        print("no target that was measured is missed")

    return 1 if strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
