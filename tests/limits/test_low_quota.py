from __future__ import annotations

from worker.domain.quota import Quota, RateTable
from worker.ports import Want


def test_at_a_low_quota_the_others_get_what_captures_leave(local_place, new_limiter):
    """A share of each moment would be nearly nothing of a quota that has a slot in every fifth moment only."""
    table = RateTable(
        name="one",
        category_by_kind={"*": "all"},
        quota_by_category={"all": Quota(partner=10.0)},
        first=frozenset({"capture"}),
    )
    limiter = new_limiter(local_place, table)
    limiter.reserve([Want(account="shop", kind="capture", count=1)])

    granted = limiter.reserve([Want(account="shop", kind="refund", count=20)])[0]

    assert 6 <= len(granted.slots) <= 8
