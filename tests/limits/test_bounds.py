"""What no history may do to a bucket: whoever asked, gave back and asked again, at whatever moment."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import chain

import pytest

from worker.domain.quota import Quota, RateTable
from worker.ports import Want

SHOPS = ("shop-1", "shop-2", "shop-3")


def history(limiter, time, chance):
    """Ask and give back for a while; return the moment of each slot that was kept, by account."""
    kept, held = {shop: [] for shop in SHOPS}, []
    for _ in range(150):
        time.seconds += chance.choice([0, 0.001, 0.02, 0.05, 0.3, 1.0, 2.5])
        if held and chance.random() < 0.2:
            grant, moments = held.pop(chance.randrange(len(held)))
            ahead = [moment for moment in moments if moment > time.seconds]
            limiter.release(grant, count=len(ahead))
            for moment in ahead:
                kept[grant.want.account].remove(moment)
            continue
        shop, kind = chance.choice(SHOPS), chance.choice(["capture", "refund"])
        (grant,) = limiter.reserve([Want(account=shop, kind=kind, count=chance.randint(1, 30))])
        moments = [time.seconds + slot for slot in grant.slots]
        held.append((grant, moments))
        kept[shop] += moments

    return kept


def fullest_second(moments):
    ordered = sorted(moments)

    return max(bisect_left(ordered, begins + 1 - 1e-6) - at for at, begins in enumerate(ordered))


@pytest.mark.parametrize(("partner", "acquirer"), [(1, 3), (2, 12), (12, 20), (50, 100)])
def test_no_second_holds_more_than_a_quota(local_place, new_limiter, time, partner, acquirer):
    """What an account could not use carries on, and what is given back lies before what others have taken since."""
    table = RateTable(
        name="one",
        category_by_kind={"*": "all"},
        quota_by_category={"all": Quota(partner=partner, acquiring_partner=acquirer)},
        first=frozenset({"capture"}),
        has_levels=True,
    )
    for seed in range(20):
        chance = random.Random(seed)
        time.seconds += 1_000
        kept = history(new_limiter(local_place, table, names=SHOPS, chance=chance.random), time, chance)

        assert max(fullest_second(moments) for moments in kept.values()) <= partner, seed
        assert fullest_second([*chain.from_iterable(kept.values())]) <= acquirer, seed
