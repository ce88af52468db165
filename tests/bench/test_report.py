from __future__ import annotations

import pytest

from bench import report
from bench.report import Spread, judge, markdown


def drained(contestant, per_second, *, latency_ms=0.0, cpu=0.3):
    return {
        "scenario": "drain",
        "contestant": contestant,
        "latency_ms": latency_ms,
        "per_second": per_second,
        "cpu_ms_all": cpu,
        "cpu_ms": {"worker": cpu, "postgresql": 0.0, "redis": 0.0, "stub": 0.03},
        "repeated": 0,
        "peak_rss_mib": 100.0,
    }


def verdicts(rows, limits=()):
    return {each.figure: each.is_met for each in judge(rows, limits)}


def found(rows):
    titles = {"ours": "post-purchase-worker", "celery_retry": "Celery task", "dbos_workflows": "DBOS"}

    return {
        "settings": {
            "form": "quick",
            "machine": "2 cores",
            "load_average_at_start": 0.1,
            "python": "3.11.7",
            "redis": "redis 7",
            "postgresql": {"version": "18", "fsync": "on"},
            "packages": {"celery": "5.7.0"},
            "peers": {},
            "contestants": {name: {"title": title, "remark": "as advised"} for name, title in titles.items()},
            "absent": {"Another": "a reason"},
        },
        "yardsticks": [],
        "results": rows,
        "problems": [{"scenario": "drain", "contestant": "dbos_workflows", "what": "line one\nit ended"}],
        "took_seconds": {"drain": 12.0},
    }


def test_runs_are_summed_up_by_their_median():
    """One run of a machine that others share may be half or twice of what the next one is."""
    assert Spread(middle=30.0, least=10.0, most=90.0, runs=3) == Spread.of([90.0, 10.0, 30.0])


def test_what_was_not_measured_is_neither_met_nor_missed():
    """A part that failed must not pass for a target that was reached."""
    assert {None} == set(verdicts([]).values())


def test_a_peer_is_beaten_by_the_median_of_the_best_of_its_sort():
    """A target beside the weakest peer would be no target."""
    rows = [drained("ours", 4_200.0), drained("dbos_workflows", 100.0), drained("procrastinate_jobs", 430.0)]

    met = verdicts(rows)

    assert met["drain of a backlog, provider at 0 ms"] is True
    assert met["the same, beside the best peer that stores its jobs"] is False
    assert met["the same, beside the fastest that does not"] is None


def test_a_figure_at_its_edge_meets_its_target():
    """The targets say at least and at most, so the edge itself is inside."""
    assert verdicts([drained("ours", 4_000.0, cpu=0.4)])["drain of a backlog, provider at 0 ms"] is True
    assert verdicts([drained("ours", 3_999.0)])["drain of a backlog, provider at 0 ms"] is False


def test_what_never_became_safe_missed_its_target():
    """No time is not a short time."""
    row = {
        "scenario": "crash",
        "contestant": "ours",
        "lease_seconds": 20,
        "safe_after_seconds": None,
        "not_done": 0,
        "called_again": 3,
    }

    assert verdicts([row])["crash of a worker with commands in flight"] is False


@pytest.mark.parametrize(("last", "is_met"), [(900.0, True), (899.0, False)])
def test_a_large_table_is_judged_beside_the_small_one(last, is_met):
    """A rate alone says more about the machine than about the table."""
    rows = [
        {"scenario": "rows", "contestant": "ours", "finished_rows": size, "per_second": rate}
        for size, rate in ((10_000, 1_000.0), (5_000_000, last))
    ]

    assert verdicts(rows)["5,000,000 finished rows in the table, beside 10 thousand"] is is_met


def test_a_quota_that_was_half_used_missed_its_target():
    """The figures of the other bench stand in the same table."""
    steady = {
        "scenario": "steady",
        "environment": "production",
        "categories": {"capture": {"used": 0.5}},
        "throttled": 0.0,
        "cpu_cores": {"workers": 0.4},
    }

    [(figure, is_met)] = [(name, met) for name, met in verdicts([], [steady]).items() if "quota" in name]

    assert is_met is False, figure


def test_a_missed_target_stays_in_the_page():
    """A page from which misses are left out is an advertisement."""
    rows = [drained("ours", 1_000.0), drained("celery_retry", 600.0)]

    page = markdown(found(rows), judge(rows, []))

    assert "| drain of a backlog, provider at 0 ms | ≥ 4,000 commands/s | 1,000/s | **missed** |" in page


def test_the_page_names_who_failed_and_who_is_absent():
    """What is not in a table is otherwise taken for forgotten."""
    page = markdown(found([drained("ours", 1_000.0)]), [])

    assert "* Failed and left out: drain of dbos_workflows: it ended" in page
    assert "* Another is not here: a reason." in page


def test_an_empty_scenario_makes_no_table():
    """A run of chosen scenarios has a page with these alone."""
    assert "" == report.table(["a"], [])
