from __future__ import annotations

import pytest

from bench.limits import missed, settled_after
from bench.rig import CAPTURE, MANAGEMENT, Traffic


@pytest.fixture
def traffic():
    """Ten requests a second for ten seconds, then five a second and one 429 each for two seconds, then five."""
    rows = []
    for tenth in range(200):
        at = tenth / 10
        if at < 10 or tenth % 2 == 0:
            rows.append((at, 0, tenth % 2, True))
        if 10 <= at < 12 and tenth % 10 == 5:
            rows.append((at, 0, 0, False))

    return Traffic.read(
        {
            "rows": rows,
            "ill": [],
            "reads": [],
            "categories": [CAPTURE, MANAGEMENT],
            "accounts": ["a", "b"],
            **dict.fromkeys(["effects", "repeated", "doubled"], 0),
        }
    )


def test_a_change_is_settled_when_the_new_quota_is_used_and_kept(traffic):
    """Either alone would be easy: to send nothing, or to go on as before."""
    assert 1.5 <= settled_after(traffic, CAPTURE, change=10.0, quota=5, ends=19.0) <= 2.0
    assert settled_after(traffic, CAPTURE, change=10.0, quota=10, ends=19.0) is None


def test_the_most_in_a_second_counts_what_was_refused_too(traffic):
    """What a worker sends too fast is too fast, whatever becomes of it."""
    assert 10 == traffic.most_in_a_second(CAPTURE)


def test_a_target_that_is_missed_is_named():
    """A bench that always ends well is no check."""
    used = {"used": 0.9, "quota": 200, "most_in_a_second": 200}
    steady = {"scenario": "steady", "processes": 4, "throttled": 0.02, "categories": {CAPTURE: used}}

    assert [
        "steady (production, 4 processes): 2.0 % of the answers are 429",
        f"steady (production, 4 processes): 90.0 % of {CAPTURE} used",
    ] == missed([steady])
