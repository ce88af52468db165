"""Plans and loads: what a seed decides, it decides again."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.load import Load
from tests.chaos.plan import Plan
from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.klarna_commands import KLARNA_COMMANDS

SIZE = {"commands": 2_560, "seconds": 24.0, "faults": 16}


def test_a_seed_decides_the_plan_and_the_load():
    """What broke once must be seen again."""
    assert Plan.of(7, **SIZE) == Plan.of(7, **SIZE)
    assert Plan.of(7, **SIZE) != Plan.of(8, **SIZE)
    assert Load.of(7, commands=500) == Load.of(7, commands=500)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults_that_need_the_same_for_themselves_do_not_overlap(seed):
    """A server that one of them stops is not there for the other to break."""
    planned = Plan.of(seed, **SIZE).faults

    seats = [pair for pair in combinations(planned, 2) if pair[0].seat is not None and pair[0].seat == pair[1].seat]

    assert [] == [(one.name, other.name) for one, other in seats if one.at < other.ends and other.at < one.ends]


def test_twenty_seeds_let_every_fault_come_that_can_be_had():
    """A fault that never comes proves nothing."""
    came = {each.name for seed in range(1, 21) for each in Plan.of(seed, **SIZE).faults}

    assert {name for name, fault in FAULTS.items() if fault.is_possible()} == came


def test_a_load_holds_every_kind_of_both_providers():
    """A kind that is never asked for is never proven."""
    asked = {(account, kind) for account, (kind, _, _) in Load.of(1, commands=400).wishes}

    every = {("klarna-eu", kind) for kind in KLARNA_COMMANDS} | {("bluesnap-us", kind) for kind in BLUESNAP_COMMANDS}
    assert every == asked
