"""`python -m tests.chaos`: runs of chaos, one for each seed, each judged by the effects counted at the sandbox.

Decides how a run goes: begin, ask, let faults come, lift them all, wait until everything is safe, judge. What the
faults are is `faults.py`, what must hold `judge.py`. Ends with 1 when a promise was not kept, and says
how to see it again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import psycopg
import structlog

from worker.config import load
from worker.wiring import Services

from .faults import FAULTS, Scene
from .judge import Effect, Facts, Row, judge, overwritten, rows_of, unsafe
from .load import Load, Shop, commands_of
from .plan import Plan, Planned
from .report import Run, read, what_stood_in, write
from .rig import Rig, RigError, Unit, opened
from .version import CHECKOUT

_RESULTS = Path(__file__).parent / "results"

#: After the last fault everything that is not finished must be safe within this, and a little for each that waits.
_SAFE_WITHIN = 60.0
_SAFE_FOR_EACH = 0.05

#: A worker takes one of the messages that are there within this.
_HEARD_WITHIN = 30.0


def main() -> int:
    """Read the arguments, run every seed, write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="so many runs, with the seeds from --seed on (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed, or the only one to see again")
    parser.add_argument("--commands", type=int, default=2_560, help="commands of a run (default 2,560)")
    parser.add_argument("--seconds", type=float, default=24.0, help="how long a run asks and is disturbed (default 24)")
    parser.add_argument("--faults", type=int, default=16, help="faults of a run (default 16)")
    parser.add_argument("--only", action="append", default=[], choices=sorted(FAULTS), help="only these faults")
    parser.add_argument("--short", action="store_true", help="one seed, a few hundred commands, about a minute")
    parser.add_argument("--add", action="store_true", help="add to the report that is there already")
    parser.add_argument("--results", type=Path, help="folder of the report")
    arguments = parser.parse_args()
    results = arguments.results or _RESULTS
    if arguments.short:
        results = arguments.results or CHECKOUT / "build" / "chaos"
        arguments.seeds, arguments.commands, arguments.seconds, arguments.faults = 1, 400, 14.0, 8
    plans = [
        Plan.of(
            seed,
            commands=arguments.commands,
            seconds=arguments.seconds,
            faults=arguments.faults,
            only=arguments.only,
        )
        for seed in range(arguments.seed, arguments.seed + arguments.seeds)
    ]

    # Whoever ends this program wants nothing of it left behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))

    return _run_all(plans, before=read(results) if arguments.add else [], results=results)


def _run_all(plans: Sequence[Plan], *, before: Sequence[Run], results: Path) -> int:
    folder = CHECKOUT / "build" / "chaos" / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    runs = list(before)
    # The shop's own lines would drown the progress.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with opened(folder) as rig:
        print(f"PostgreSQL {rig.postgres.version}, {rig.redis.version}; logs in {folder.relative_to(CHECKOUT)}")
        for line in what_stood_in(rig):
            print(f"note: {line}")
        for plan in plans:
            runs.append(_run(rig, plan))
            _tell(runs[-1])
            write(runs, rig=rig, folder=results)
    broken = [run for run in runs if run.breaches]
    for run in broken:
        print(f"BROKEN in seed {run.plan.seed}; see it again with: {run.plan.again()}", file=sys.stderr)
        for breach in run.breaches[:20]:
            print(f"  {breach.promise}: {breach.what}", file=sys.stderr)
    if not broken:
        commands, effects = sum(run.commands for run in runs), sum(run.effects for run in runs)
        print(f"{len(runs)} runs, {commands} commands, {effects} effects: nothing lost, nothing doubled")

    return 1 if broken else 0


def _tell(run: Run) -> None:
    states = ", ".join(f"{count} {state}" for state, count in run.states.items())
    verdict = "kept" if not run.breaches else f"BROKEN ({len(run.breaches)})"
    print(
        f"seed {run.plan.seed}: {run.commands} commands ({states}), {run.effects} effects, "
        f"{len(run.plan.faults)} faults, safe after {run.safe_after:.1f} s, {run.seconds:.0f} s in all: {verdict}",
        flush=True,
    )


def _run(rig: Rig, plan: Plan) -> Run:
    began = time.monotonic()
    print(f"seed {plan.seed}: {', '.join(each.name for each in plan.faults)}", flush=True)
    made = Load.of(plan.seed, commands=plan.commands)
    rig.begin(
        plan.seed,
        is_deployed=plan.is_deployed,
        is_upkeep_apart=plan.is_upkeep_apart,
        quota=plan.quota,
        orders=made.world,
    )
    commands = commands_of(made, rig.sandbox.control, seed=plan.seed)
    services = Services(load(environ=rig.environment(rig.shop_lines)))
    shop = Shop(services, commands, plan.lasts, random.Random(f"shop {plan.seed}"))
    try:
        _workers_ready(rig)
        asked = time.monotonic()
        shop.open()
        happened = _let_happen(rig, plan, begins=asked)
        rig.sandbox.control.clear_faults()
        lifted = time.monotonic()
        _wait_until_safe(rig, shop)
        safe_after = time.monotonic() - lifted
        with psycopg.connect(rig.postgres.url(rig.database).replace("+psycopg", "")) as connection:
            rows, links = rows_of(connection)
            changed = overwritten(connection)
        silent = _silent(rig, services)
        effects, seconds = rig.sandbox.control.effects(), rig.sandbox.control.quotas()["seconds"]
        breaches = judge(
            Facts(
                confirmed=shop.stored,
                rows=rows,
                links=links,
                effects=effects,
                seconds=seconds,
                overwritten=changed,
                silent=silent,
                quota=plan.quota,
            )
        )
        if breaches:
            _keep_evidence(rig, rig.folder / f"seed-{plan.seed}", effects=effects)
    finally:
        shop.close()
        services.close()
        rig.end()
    rig.drop()

    first, brought_back = _attempts_of_previous_version(rig.folder / f"seed-{plan.seed}" / "previous.log")

    return Run.of(
        plan,
        rows=rows,
        links=links,
        effects=effects,
        breaches=breaches,
        happened=happened,
        repeats=shop.repeats,
        by_previous_version=first,
        by_previous_version_brought_back=brought_back,
        throttled=sum(each["throttled"] for each in seconds),
        safe_after=safe_after,
        lifted_at=lifted - asked,
        seconds=time.monotonic() - began,
        machine_load=round(os.getloadavg()[0], 1),
    )


def _silent(rig: Rig, services: Services) -> list[str]:
    """Give every worker that was up something to do, and find those that do not take it."""
    heard = {unit.name: _received(unit) for unit in rig.workers if unit.is_ready}
    left = [unit for unit in rig.workers if unit.name in heard]
    ends = time.monotonic() + _HEARD_WITHIN
    while left and time.monotonic() < ends:
        for _ in range(10):
            services.upkeep_publisher.execute([uuid4()], label="of nobody")
        time.sleep(0.5)
        left = [unit for unit in left if unit.is_running and _received(unit) == heard[unit.name]]

    for unit in left:
        # Celery writes down where its threads stand.
        unit.tell(signal.SIGUSR1)
    if left:
        time.sleep(2)

    return [unit.name for unit in left]


def _received(unit: Unit) -> int:
    return unit.log_file.read_bytes().count(b"] received")


def _keep_evidence(rig: Rig, folder: Path, *, effects: Sequence[Effect]) -> None:
    """Write down what there is before it is gone: our tables, and what the provider saw."""
    with rig.postgres.connect(rig.database) as connection, connection.cursor() as cursor:
        for table in ("command", "attempt", "outcome", "reading", "ticket", "ticket_command", "pause"):
            with (
                (folder / f"{table}.csv").open("wb") as file,
                cursor.copy(f"COPY post_purchase_{table} TO STDOUT (FORMAT csv, HEADER)".encode()) as copied,
            ):
                for piece in copied:
                    file.write(piece)
    (folder / "effects.json").write_text(json.dumps(effects, indent=1), encoding="utf-8")
    (folder / "requests.json").write_text(json.dumps(rig.sandbox.control.requests(), indent=1), encoding="utf-8")


def _attempts_of_previous_version(log: Path) -> tuple[int, int]:
    """How many the worker of the previous version made before the new one came, and once it had been brought back."""
    if not log.exists():
        return 0, 0
    _, first, *again = (part.count(b'"attempt.finished"') for part in log.read_bytes().split(b'"worker.starting"'))

    return first, sum(again)


def _workers_ready(rig: Rig) -> None:
    """Wait for the first of them: the others may come when it has begun already."""
    ends = time.monotonic() + 60
    units = rig.workers if rig.previous is None else [rig.previous]
    while not any(unit.is_ready for unit in units):
        if time.monotonic() > ends:
            raise RigError(f"no worker is ready; see {units[0].log_file}")
        time.sleep(0.1)


def _let_happen(rig: Rig, plan: Plan, *, begins: float) -> list[tuple[str, float, float]]:
    """Let each fault come at its time; returns when all are lifted, with what came when."""
    happened: list[tuple[str, float, float]] = []
    broken: list[BaseException] = []

    def come(planned: Planned) -> None:
        time.sleep(max(0.0, begins + planned.at - time.monotonic()))
        scene = Scene(rig=rig, chance=random.Random(planned.chance), worker=planned.worker)
        at = time.monotonic() - begins
        try:
            with FAULTS[planned.name].act(scene):
                time.sleep(planned.seconds)
        except BaseException as error:  # noqa: BLE001  # told by whoever waits for it
            broken.append(error)
        happened.append((planned.name, at, time.monotonic() - begins))

    coming = [threading.Thread(target=come, args=(planned,), name=planned.name) for planned in plan.faults]
    for each in coming:
        each.start()
    for each in coming:
        each.join()
    time.sleep(max(0.0, begins + plan.lasts - time.monotonic()))
    if broken:
        raise RigError(f"a fault could not be carried out: {broken[0]!r}") from broken[0]

    return sorted(happened, key=lambda each: each[1])


def _wait_until_safe(rig: Rig, shop: Shop) -> None:
    """Wait until nothing moves any more; what does not come to rest in time is judged as it stands."""
    ends = None
    while True:
        left = _left(rig, shop)
        if left == []:
            return
        waiting = len(shop.commands) if left is None else len(left)
        if ends is None:
            ends = time.monotonic() + _SAFE_WITHIN + _SAFE_FOR_EACH * waiting
        if time.monotonic() > ends:
            return
        time.sleep(0.25)


def _left(rig: Rig, shop: Shop) -> list[Row] | None:
    """What is not safe yet; None where that cannot be known."""
    if not shop.is_done:
        return None
    try:
        with rig.postgres.connect(rig.database) as connection:
            return unsafe(*rows_of(connection))
    except psycopg.Error:
        return None


if __name__ == "__main__":
    sys.exit(main())
