"""A flame graph of a drain, by py-spy.

Decides what is recorded: the pool process of one worker that drains a backlog at 0 ms. Needs a system that lets one
process look into another; where there is none, it says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from .arena import Arena
from .contestants import OURS
from .drain import TEMPLATE, make_backlog

_BACKLOG = 50_000
_SECONDS = 8


def draw(arena: Arena, *, folder: Path) -> int:
    """Record a drain into `flame.svg`; return 1 if that cannot be had."""
    program = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        print("no flame graph: py-spy is not installed; `pip install py-spy` beside this interpreter")
        return 1
    make_backlog(arena, _BACKLOG)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "flame.svg"
    with arena.bout(OURS, like=TEMPLATE) as bout:
        bout.crew.start()
        bout.wait_for_effects(500, within=30)
        busiest = max(
            psutil.Process(bout.crew.processes[0].pid).children(recursive=True),
            key=lambda each: sum(each.cpu_times()[:2]),
        )
        options = ["--pid", str(busiest.pid), "--duration", str(_SECONDS), "--rate", "200", "--output", str(file)]
        done = subprocess.run(
            [program, "record", "--gil", *options], capture_output=True, text=True, timeout=60, check=False
        )
    if done.returncode != 0 or not file.exists():
        print(f"no flame graph: {done.stderr.strip()[-500:]}")
        return 1
    # Its title is the command line, with paths of this machine.
    drawn = file.read_text(encoding="utf-8").replace(program, "py-spy").replace(str(file), file.name)
    file.write_text(drawn, encoding="utf-8")
    print(f"written: {file.name}")

    return 0
