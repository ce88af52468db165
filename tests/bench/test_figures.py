from __future__ import annotations

import tomllib

import pytest

from bench import outage
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
    assert 3 == traffic.most_in_a_second(CAPTURE, after=10.0, until=10.5)


def test_a_target_that_is_missed_is_named():
    """A bench that always ends well is no check."""
    used = {
        "used": 0.9,
        "quota": 200,
        "most_in_a_second": 221,
        "partner_quota": 50,
        "most_in_a_second_of_a_partner": 56,
    }
    steady = {"scenario": "steady", "processes": 4, "throttled": 0.02, "categories": {CAPTURE: used}}

    assert [
        "steady (production, 4 processes): 2.0 % of the answers are 429",
        f"steady (production, 4 processes): 221 of 200 {CAPTURE} in a second",
        f"steady (production, 4 processes): 56 of 50 {CAPTURE} in a second",
        f"steady (production, 4 processes): 90.0 % of {CAPTURE} used",
    ] == missed([steady])


def test_after_an_outage_nothing_may_be_forgotten_doubled_or_told_in_vain():
    """Each of these is a promise; a ticket for each account is as many as a person reads."""
    used = {
        "quota": 200,
        "used": 0.97,
        "most_in_a_second": 205,
        "partner_quota": 50,
        "most_in_a_second_of_a_partner": 50,
    }
    good = {
        "tickets": {"ladder_exhausted, open": 5},
        "tickets_of_what_succeeded": 0,
        "neither_done_nor_in_a_ticket": 0,
        "doubled": 0,
        "at_full_quota_seconds": 10.0,
        "categories": {CAPTURE: used},
    }
    bad = {
        **good,
        "tickets": {"ladder_exhausted, open": 5, "key_window_closed, closed": 1},
        "tickets_of_what_succeeded": 2,
        "neither_done_nor_in_a_ticket": 3,
        "doubled": 4,
        "categories": {CAPTURE: {**used, "used": 0.5}},
    }

    stuck = {"scenario": "outage", "processes": 4, "not_ended": 7, **good}

    assert [] == outage.missed(good)
    assert ["outage (production, 4 processes): 7 not ended, 0 carried out twice"] == missed([stuck])
    assert [
        "6 tickets, more than one an account",
        "2 open tickets of commands that succeeded",
        "3 commands are neither done nor in a ticket",
        "4 carried out twice",
        f"50.0 % of {CAPTURE} used while draining",
    ] == outage.missed(bad)


def test_a_burst_after_an_outage_is_named():
    """All that waited would leave at once, if nothing held it."""
    captures = {
        "quota": 200,
        "used": 0.97,
        "most_in_a_second": 300,
        "partner_quota": 50,
        "most_in_a_second_of_a_partner": 50,
    }
    row = {
        "scenario": "outage",
        "processes": 4,
        "tickets": {},
        "tickets_of_what_succeeded": 0,
        "neither_done_nor_in_a_ticket": 0,
        "doubled": 0,
        "at_full_quota_seconds": 10.0,
        "categories": {CAPTURE: captures},
    }

    assert [f"outage (production, 4 processes): 300 of 200 {CAPTURE} in a second"] == missed([row])


def test_how_a_backlog_leaves_is_judged_from_the_first_send_after_the_outage():
    """What was sent before says nothing, and the last few are spread too thinly to fill a quota."""
    before = [(at / 300, 0, 0, True) for at in range(300)]
    after = [(12.0 + at / 200, 0, 0, True) for at in range(2_000)]
    told = {"rows": before + after, "ill": [], "reads": [], "categories": [CAPTURE, MANAGEMENT], "accounts": ["shop-1"]}
    traffic = Traffic.read({**told, **dict.fromkeys(["effects", "repeated", "doubled"], 0)})

    drained = outage.drained(traffic, 10.0, {CAPTURE: 200})

    found = drained["categories"][CAPTURE]
    assert (1.0, 200, 2_000) == (found["used"], found["most_in_a_second"], found["sent_after"])
    assert (2.0, 12.0, 10.0) == (
        drained["sends_again_after_seconds"],
        drained["drained_after_seconds"],
        drained["at_full_quota_seconds"],
    )


def test_an_hour_is_scaled_and_what_must_fit_real_processes_is_not():
    """The ladder of 5 h 5 min 5 s must end within the outage, or the outage proves nothing about it."""
    first = outage.FULL[0]
    settings = tomllib.loads(first.settings)

    assert [0.0139, 0.8333, 50.0] == settings["retry"]["ladder_seconds"]
    assert sum(settings["retry"]["ladder_seconds"]) < 6 * first.hour
    assert 240 == settings["retry"]["key_window_seconds"]
