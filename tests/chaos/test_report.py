"""The report: what is written is what happened, and can be read again."""

from __future__ import annotations

import json

from tests.chaos.judge import Breach
from tests.chaos.plan import Plan
from tests.chaos.report import Run


def test_a_run_that_was_written_down_is_read_as_it_was():
    """Runs of several sittings make one report, breaches included."""
    run = Run(
        plan=Plan.of(7, commands=100, seconds=20.0, faults=5),
        commands=100,
        states={"succeeded": 100},
        kinds={"klarna-eu capture": 100},
        effects=100,
        in_doubt=0,
        tickets={},
        repeated_sends=3,
        breaches=[Breach(promise="doubled", what="a capture")],
        happened=[("worker killed", 1.0, 2.0)],
        repeats=0,
        by_previous_version=0,
        by_previous_version_brought_back=0,
        throttled=0,
        safe_after=1.5,
        lifted_at=20.0,
        seconds=40.0,
        machine_load=None,
    )

    again = Run.read(json.loads(json.dumps(run.shown())))

    assert json.dumps(run.shown()) == json.dumps(again.shown())
    assert (0, 1) == (run.shown()["lost"], run.shown()["doubled"])
