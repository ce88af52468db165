"""How much of a quota several processes use together, on a clock that no machine can slow down.

Each process does what a worker does: it looks for due commands, asks once for all of them, sends those that have a slot
in it, and puts the others back until the moment they were told.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from worker.domain.quota import Observation, QuotaPolicy
from worker.ports import Want

SHOPS = [f"shop-{number}" for number in range(1, 6)]
WINDOW = 200


@dataclass(order=True)
class Waiting:
    due: float
    number: int
    account: str = field(compare=False)
    kind: str = field(compare=False)


@dataclass
class Run:
    """What was sent, as (moment, account, kind), and how often a command was claimed for it."""

    began: float
    sent: list = field(default_factory=list, repr=False)
    claimed: int = 0

    def moments(self, kind, account=None):
        return [moment - self.began for moment, who, what in self.sent if what == kind and account in {None, who}]

    def rate(self, kind, begins, ends):
        return len([moment for moment in self.moments(kind) if begins <= moment < ends]) / (ends - begins)


def work(time, limiters, backlog, *, seconds, seed, before_turn=lambda _elapsed: None):
    """Let processes work on a backlog of (account, kind) → count."""
    chance = random.Random(seed)
    run = Run(began=time.seconds)
    kinds = [kind for kind, count in backlog.items() for _ in range(count)]
    chance.shuffle(kinds)
    waiting = [Waiting(time.seconds, number, *kind) for number, kind in enumerate(kinds)]
    heapq.heapify(waiting)
    turns = [(time.seconds + chance.random() / 20, number) for number in range(len(limiters))]
    heapq.heapify(turns)
    while turns[0][0] < run.began + seconds:
        time.seconds, number = heapq.heappop(turns)
        before_turn(time.seconds - run.began)
        due = []
        while waiting and waiting[0].due <= time.seconds and len(due) < WINDOW:
            due.append(heapq.heappop(waiting))
        run.claimed += len(due)
        _admit(time.seconds, limiters[number], due, waiting, run)
        pause = 0.02 if waiting and waiting[0].due <= time.seconds else 0.25 * chance.uniform(0.5, 1)
        heapq.heappush(turns, (time.seconds + pause, number))

    return run


def _admit(now, limiter, due, waiting, run):
    counts = Counter((each.account, each.kind) for each in due)
    wants = [Want(account=who, kind=what, count=count) for (who, what), count in counts.items()]
    for grant in limiter.reserve(wants):
        those = [each for each in due if (each.account, each.kind) == (grant.want.account, grant.want.kind)]
        for slot in grant.slots:
            each = those.pop(0)
            run.sent.append((now + slot, each.account, each.kind))
        for later in grant.later:
            each = those.pop(0)
            heapq.heappush(waiting, Waiting(now + later, each.number, each.account, each.kind))


def most_in_a_second(moments):
    ordered = sorted(moments)
    most = begins = 0
    for ends, moment in enumerate(ordered):
        while ordered[begins] <= moment - 1.0 + 1e-9:
            begins += 1
        most = max(most, ends - begins + 1)

    return most


@pytest.mark.parametrize("processes", [1, 4, 8])
@pytest.mark.parametrize(
    ("environment", "partner", "acquirer"),
    [("production", (50, 200), (200, 500)), ("playground", (12, 50), (50, 125))],
)
def test_both_quotas_of_an_acquiring_partner_are_used_and_never_exceeded(
    time, published, local_place, new_limiter, environment, partner, acquirer, processes
):
    """At 95 % of what is published the backlog drains as fast as the provider lets it, and no 429 is earned."""
    limiters = [new_limiter(local_place, published[environment], names=SHOPS) for _ in range(processes)]
    sizes = dict(zip(("capture", "refund"), acquirer, strict=True))
    backlog = {(shop, kind): size * 4 for shop in SHOPS for kind, size in sizes.items()}

    run = work(time, limiters, backlog, seconds=14, seed=processes)

    for kind, own, shared in zip(("capture", "refund"), partner, acquirer, strict=True):
        assert run.rate(kind, 4, 13) >= 0.95 * shared
        assert most_in_a_second(run.moments(kind)) <= shared
        for shop in SHOPS:
            assert most_in_a_second(run.moments(kind, shop)) <= own


@pytest.mark.parametrize("seed", range(5))
def test_the_accounts_own_quota_is_used_and_never_exceeded(time, published, local_place, new_limiter, seed):
    """With two accounts it is their own quotas that bound them, and no interleaving of processes may get past those."""
    limiters = [new_limiter(local_place, published["production"], names=SHOPS[:2]) for _ in range(4)]
    backlog = {(shop, "capture"): 800 for shop in SHOPS[:2]}

    run = work(time, limiters, backlog, seconds=10, seed=seed)

    for shop in SHOPS[:2]:
        moments = run.moments("capture", shop)
        assert len([moment for moment in moments if 2 <= moment < 9]) >= 0.95 * 50 * 7
        assert most_in_a_second(moments) <= 50


def test_a_backlog_is_claimed_a_few_times_and_not_polled(time, published, local_place, new_limiter):
    """A command that is claimed over and over until its turn comes is a database busy with nothing."""
    limiters = [new_limiter(local_place, published["production"]) for _ in range(4)]

    run = work(time, limiters, {("shop", "capture"): 2_000}, seconds=60, seed=1)

    assert 2_000 == len(run.sent)
    assert run.claimed <= 2.5 * 2_000


def test_after_a_stop_the_backlog_leaves_at_the_quota_and_not_in_a_burst(time, published, local_place, new_limiter):
    """The hour after an outage is when a provider needs a flood least."""
    limiters = [new_limiter(local_place, published["production"]) for _ in range(4)]
    limiters[0].reserve([Want(account="shop", kind="capture", count=50)])
    time.seconds += 6 * 3_600

    run = work(time, limiters, {("shop", "capture"): 1_000}, seconds=10, seed=1)

    assert most_in_a_second(run.moments("capture")) <= 50
    assert run.rate("capture", 0, 9) >= 0.95 * 50


@pytest.mark.parametrize(("quota", "factor"), [(25, 0.5), (100, 2)])
def test_a_changed_quota_is_followed_within_three_seconds(time, published, local_place, new_limiter, quota, factor):
    """Halved, it must be kept at once; doubled, it is used by all that is not already told to wait."""
    limiters = [new_limiter(local_place, published["production"], partner=None) for _ in range(4)]
    policies = (QuotaPolicy(quota=quota, window_seconds=1, name="account_capture"),)
    arrivals = {("shop", "capture"): 400}

    def change(elapsed):
        if elapsed >= 4:
            limiters[0].observe("shop", "capture", Observation(policies=policies))

    run = work(time, limiters, arrivals, seconds=4, seed=1)
    changed = work(time, limiters, {("shop", "capture"): 1_500}, seconds=12, seed=2, before_turn=change)

    assert most_in_a_second(run.moments("capture")) <= 50
    late = [moment for moment in changed.moments("capture") if moment >= 7]
    assert most_in_a_second(late) <= max(quota, 50 * factor)
    if factor < 1:
        assert len([moment for moment in late if moment < 11]) >= 0.95 * quota * 4
