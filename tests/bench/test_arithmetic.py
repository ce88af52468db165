from __future__ import annotations

import pytest

from bench.baselines import ratios
from bench.client import quantiles
from bench.drain import cost, per_thousand
from bench.steady import waits
from bench.tables import lateness


def test_a_quantile_is_a_value_that_happened():
    """The 99th of a hundred is the ninety-ninth, and not something between it and the worst."""
    seconds = [number / 1000 for number in range(1, 101)]

    assert {"p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0} == quantiles(seconds)


def test_of_a_single_value_every_quantile_is_that_value():
    """A short run must not end with an index out of range."""
    assert {"p50_ms": 7.0, "p99_ms": 7.0, "max_ms": 7.0} == quantiles([0.007])


def test_cpu_is_counted_by_effects():
    """Seconds a thousand commands are milliseconds a command."""
    before, after = {"worker": 10.0, "stub": 1.0}, {"worker": 14.0, "stub": 2.0}

    assert {"worker": 0.4, "stub": 0.1} == per_thousand(before, after, effects=10_000)


def test_the_stub_costs_nothing():
    """It stands for another machine."""
    assert 0.5 == cost({"worker": 0.3, "postgresql": 0.2, "stub": 9.0})


def test_a_wait_ends_with_the_first_call():
    """A second call under the same key is a retry, and says nothing of the wait."""
    offered = [("a", 100.0), ("b", 101.0), ("c", 102.0)]
    calls = [("b", 101.25), ("a", 100.5), ("a", 109.0)]

    taken, without = waits(offered, calls)

    assert [0.5, 0.25] == taken
    assert 1 == without


def test_a_retry_is_late_by_what_exceeds_its_wait():
    """5 s are the ladder's, the rest is ours."""
    calls = [("a", 100.0), ("b", 100.0), ("a", 105.5), ("a", 110.75)]

    assert [0.5, 0.25] == pytest.approx(lateness(calls, wait=5.0))


def test_a_rate_stands_beside_what_the_machine_gave_in_that_round():
    """On shared cores the same code is half as fast a minute later."""
    yardstick = {"curl": {"calls_per_second": 10_000.0}, "pgbench": {"inserts_per_second": 5_000.0}}

    assert {"of_bare_calls": 0.4, "of_bare_inserts": 0.8} == ratios(4_000.0, yardstick)


def test_without_pgbench_there_is_no_ratio_to_it():
    """It comes with a PostgreSQL of the system, which not every machine has."""
    yardstick = {"curl": {"calls_per_second": 10_000.0}, "pgbench": {}}

    assert {"of_bare_calls": 0.4} == ratios(4_000.0, yardstick)
