"""What no history may do to a bucket: whoever asked, gave back and asked again, at whatever moment."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import chain

import pytest

from worker.domain.quota import Observation, Quota, QuotaPolicy, RateTable
from worker.limits.local import LocalPlace
from worker.limits.redis import RedisPlace
from worker.ports import Want

SHOPS = ("shop-1", "shop-2", "shop-3")


@pytest.fixture(params=["local", pytest.param("redis", marks=pytest.mark.slow)])
def place(request, time):
    if request.param == "local":
        yield LocalPlace(now=time.milliseconds)
    else:
        made = RedisPlace(request.getfixturevalue("server").url, prefix="pp:", timeout=2.0, now=time.milliseconds)
        yield made
        made.close()


def one_category(partner, acquirer):
    return RateTable(
        name="one",
        category_by_kind={"*": "all"},
        quota_by_category={"all": Quota(partner=partner, acquiring_partner=acquirer)},
        first=frozenset({"capture"}),
        has_levels=True,
    )


def history(limiter, time, chance):
    """Ask and give back for a while; return the moment of each slot that was kept, by account."""
    kept, held = {shop: [] for shop in SHOPS}, []
    for _ in range(150):
        time.seconds += chance.choice([0, 0.001, 0.02, 0.05, 0.3, 1.0, 2.5])
        held = [(grant, moments) for grant, moments in held if moments[-1] > time.seconds]
        if held and chance.random() < 0.3:
            grant, moments = held.pop(chance.randrange(len(held)))
            ahead = [moment for moment in moments if moment > time.seconds]
            limiter.release(grant, count=len(ahead))
            for moment in ahead:
                kept[grant.want.account].remove(moment)
            continue
        shop, kind = chance.choice(SHOPS), chance.choice(["capture", "refund"])
        (grant,) = limiter.reserve([Want(account=shop, kind=kind, count=chance.randint(1, 30))])
        moments = [time.seconds + slot for slot in grant.slots]
        kept[shop] += moments
        if moments:
            held.append((grant, moments))

    return kept


def fullest_second(moments):
    ordered = sorted(moments)

    return max(bisect_left(ordered, begins + 1 - 1e-6) - at for at, begins in enumerate(ordered))


@pytest.mark.parametrize(("partner", "acquirer"), [(1, 3), (2, 12), (12, 20), (50, 100)])
def test_no_second_holds_more_than_a_quota(place, new_limiter, time, partner, acquirer):
    """What an account could not use carries on, and what is given back lies before what others have taken since."""
    table = one_category(partner, acquirer)
    for seed in range(20):
        chance = random.Random(seed)
        time.seconds += 1_000
        kept = history(new_limiter(place, table, names=SHOPS, chance=chance.random), time, chance)

        assert max(fullest_second(moments) for moments in kept.values()) <= partner, seed
        assert fullest_second([*chain.from_iterable(kept.values())]) <= acquirer, seed


def test_what_an_opening_bucket_has_is_given_once(place, new_limiter, time):
    """It carries on when the acquiring partner is full, and must not be there once more when that has room again."""
    limiter = new_limiter(place, one_category(2, 3), names=SHOPS)
    opening, busy, _ = SHOPS

    def moments(shop, count):
        (grant,) = limiter.reserve([Want(account=shop, kind="refund", count=count)])
        return grant, [time.seconds + slot for slot in grant.slots]

    fast = QuotaPolicy(quota=50, window_seconds=1, name="account_all")
    limiter.observe(busy, "refund", Observation(policies=(fast,)))
    moments(busy, 3)
    time.seconds += 0.5
    given_back, _ = moments(busy, 1)
    time.seconds += 0.59
    _, carried_on = moments(opening, 2)
    limiter.release(given_back, count=1)
    _, more = moments(opening, 1)

    assert 2 == len(carried_on)
    assert fullest_second(carried_on + more) <= 2
