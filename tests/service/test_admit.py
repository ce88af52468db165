"""What a quota does to commands, on a clock that no machine can slow down."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.service.stage import ACCOUNT, BLUESNAP, LEASE, NOON, Watched
from worker import bluesnap
from worker.domain.klarna_commands import Refund
from worker.domain.quota import AccountRates, Quota, RateTable
from worker.ports import LimiterUnavailable
from worker.service.admit import Admission

CAPTURE, MANAGEMENT = "payment-transaction-capture", "payment-transaction-management"


class Noted:
    """A transport that notes when each command was sent."""

    def __init__(self, transport, clock):
        self._transport, self._clock = transport, clock
        self.moments = {}

    def send(self, tag, request):
        self.moments[tag] = (self._clock.now - NOON).total_seconds()
        self._transport.send(tag, request)

    def flush(self):
        self._transport.flush()

    def collect(self, within):
        return self._transport.collect(within)


class Away:
    """A place of quotas that nobody reaches."""

    def carry_out(self, keys, order):
        raise LimiterUnavailable("told to be away")


def rates(account=ACCOUNT, *, captures=10.0, management=100.0):
    """An account with a quota for captures and one for everything else."""
    table = RateTable(
        name="own",
        category_by_kind={"capture": CAPTURE, "*": MANAGEMENT},
        quota_by_category={CAPTURE: Quota(partner=captures), MANAGEMENT: Quota(partner=management)},
        first=frozenset({"capture"}),
    )

    return AccountRates(account=account, host="127.0.0.1", table=table)


@pytest.fixture
def limited(stage):
    """A stage whose Klarna account has ten captures a second, and whose worker takes what it is given and no more."""
    stage.rates[ACCOUNT] = rates()
    stage.window = 200
    stage.is_stopping = True

    return stage


@pytest.fixture
def noted(limited):
    return Noted(limited.transport, limited.clock)


@pytest.fixture
def new_admission(limited):
    return lambda: Admission(
        limited.limiter,
        limited.breaker,
        limited.accounts,
        window=200,
        widest=800,
        monotonic=limited.monotonic,
        chance=lambda: 0.5,
    )


def states(stage, ids):
    return Counter(stage.command(each).state.value for each in ids)


def taken(stage):
    """How many slots are taken, of the second behind and the second ahead."""
    return {line.bucket.category: line.used + line.ahead for line in stage.limiter.snapshot()}


def test_near_slots_are_waited_for_with_the_lease_in_hand(limited, noted):
    """Each leaves in its own moment, in the task that claimed it: no second claim, no queue in between."""
    ids = [limited.capture() for _ in range(8)]

    limited.execute(*ids, transport=noted)

    moments = sorted(noted.moments.values())
    assert {"succeeded": 8} == states(limited, ids)
    assert all(later - sooner >= 0.08 for sooner, later in pairwise(moments[1:]))
    assert moments[-1] <= 1.0
    assert [1] * 8 == [limited.command(each).claims for each in ids]


def test_a_far_slot_costs_no_attempt_and_no_rung(limited, noted):
    """The command is put back until its slot is near, as if nobody had touched it."""
    ids = [limited.capture() for _ in range(40)]

    limited.execute(*ids, transport=noted)

    put_off = [limited.command(each) for each in ids if each not in noted.moments]
    assert 28 <= len(put_off) <= 31
    assert {("pending", 0, 0)} == {(each.state.value, each.attempts, each.failures) for each in put_off}
    assert all(each.due_at > NOON + timedelta(seconds=0.3) for each in put_off)
    assert len({each.due_at for each in put_off}) == len(put_off)


def test_what_was_put_off_is_sent_in_the_end_and_never_too_fast(limited, noted):
    """A quota delays commands and loses none."""
    limited.is_stopping = False
    ids = [limited.capture() for _ in range(40)]

    limited.execute(*ids, transport=noted)
    limited.work(timedelta(seconds=20), tick=timedelta(seconds=1))

    assert {"succeeded": 40} == states(limited, ids)
    moments = sorted(noted.moments.values())
    assert all(moments[number + 10] - moments[number] >= 0.99 for number in range(len(moments) - 10))


def test_when_a_tasks_time_is_up_what_waits_goes_back_with_its_slots_if_others_can_use_them(limited, noted):
    """While it waited for its last slots nobody would claim for the holes between them; another task does at once."""
    limited.is_stopping, limited.pump = False, timedelta(seconds=0.35)
    ids = [limited.capture() for _ in range(40)]

    limited.execute(*ids, transport=noted)

    put_back = [limited.command(each) for each in ids if each not in noted.moments]
    assert max(noted.moments.values()) <= 0.35 + 0.15
    assert len(noted.moments) == taken(limited)[CAPTURE]
    assert {("pending", 0, 0)} == {(each.state.value, each.attempts, each.failures) for each in put_back}


def test_a_task_whose_time_is_up_at_once_still_sends_what_has_its_slot(limited, noted):
    """Else a database as slow as a task's time would have all commands claimed for ever, and none sent."""
    limited.is_stopping, limited.pump = False, timedelta(microseconds=1)
    ids = [limited.capture() for _ in range(40)]

    limited.execute(*ids, transport=noted)

    assert {"succeeded": len(noted.moments), "pending": 40 - len(noted.moments)} == states(limited, ids)
    assert noted.moments


def test_when_a_tasks_time_is_up_the_last_commands_keep_their_slots(limited, noted):
    """Nobody else could use them, and these would only come later."""
    limited.is_stopping, limited.pump = False, timedelta(seconds=0.35)
    ids = [limited.capture() for _ in range(8)]

    limited.execute(*ids, transport=noted)

    assert {"succeeded": 8} == states(limited, ids)
    assert [1] * 8 == [limited.command(each).claims for each in ids]


def test_a_429_puts_off_what_waits_for_the_same_quota_and_gives_its_slots_back(limited, noted):
    """Each further one would earn a further 429; what counts elsewhere goes on."""
    orders = [limited.order() for _ in range(3)]
    for each in orders:
        limited.execute(limited.capture(each), transport=noted)
    limited.advance(2)
    limited.world.fault("throttle", times=1)
    captures = [limited.capture() for _ in range(8)]
    refunds = [limited.enqueue(Refund(account=ACCOUNT, order_id=each, amount=100)) for each in orders]

    limited.execute(*captures, *refunds, transport=noted)

    assert {"succeeded": 3} == states(limited, refunds)
    unsent = [each for each in captures if each not in noted.moments]
    assert 5 <= len(unsent)
    assert {("pending", 0)} == {(limited.command(each).state.value, limited.command(each).attempts) for each in unsent}
    assert len(captures) - len(unsent) == taken(limited)[CAPTURE]


def test_no_more_calls_of_an_account_are_under_way_than_it_may_have(limited):
    """Some providers count calls at once, and a slow one would take every place of a worker."""
    limited.rates.clear()
    limited.is_stopping = False
    limited.accounts[ACCOUNT] = replace(limited.accounts[ACCOUNT], max_in_flight=3)
    watched = Watched(limited.transport)
    limited.world.fault("delay", seconds=1.0, times=10)
    ids = [limited.capture() for _ in range(10)]

    limited.execute(*ids, transport=watched)

    assert {"succeeded": 10} == states(limited, ids)
    assert 3 == max(watched.seen)


def test_an_account_at_its_quota_does_not_hold_up_another(limited, noted):
    """A shop with a hundred captures to send must not make all the others wait."""
    captures = [limited.capture() for _ in range(60)]
    transaction_id = limited.world.create_transaction(amount="10.00")["transactionId"]
    other = limited.enqueue(bluesnap.Capture(account=BLUESNAP, order_id=transaction_id, amount=500, currency="USD"))

    limited.execute(*captures, other, transport=noted)

    assert noted.moments[other] < 0.1


def test_with_captures_used_up_the_account_is_claimed_for_other_kinds(limited, new_admission):
    """Two categories are two quotas: the one that is used up must not idle the other."""
    admission = new_admission()
    for _ in range(40):
        limited.capture()
    limited.enqueue(Refund(account=ACCOUNT, order_id=limited.order(), amount=100))
    held = limited.store.claim(None, limit=100, lease=LEASE)

    admission.sort([each for each in held if each.kind == "capture"])
    without_any = admission.left_alone()
    limited.advance(1)
    admission.sort(held)

    assert {ACCOUNT} == without_any
    assert frozenset() == admission.left_alone()


def test_a_quota_does_not_hold_a_command_past_the_end_of_its_key_window(limited, noted):
    """After it the provider may no longer know the key: sent again, it could be done twice."""
    limited.world.fault("drop_reply")
    command_id = limited.capture()
    limited.execute(command_id)
    limited.advance(24 * 3600 - 200)
    limited.execute(*[limited.capture() for _ in range(20)])

    limited.execute(command_id, transport=noted)

    assert command_id not in noted.moments
    assert limited.command(command_id).read_back is not None or limited.open_tickets(command_id)


def test_what_a_429_says_of_the_quota_is_learned(limited):
    """It is the moment in which a lowered quota is news."""
    limited.world.quota(CAPTURE, partner=2, kinds=["capture"])
    ids = [limited.capture() for _ in range(8)]

    limited.execute(*ids)

    assert [2.0] == [line.in_force for line in limited.limiter.snapshot() if line.bucket.category == CAPTURE]


def test_with_the_limiter_away_nothing_is_sent_and_nothing_is_lost(limited, noted):
    """Nobody knows then what the others send; what is not sent costs no attempt, and is sent once it is back."""
    place, limited.limiter.place = limited.limiter.place, Away()
    ids = [limited.capture() for _ in range(5)]

    limited.execute(*ids, transport=noted)
    unsent = dict(noted.moments)
    limited.limiter.place = place
    limited.is_stopping = False
    limited.work(timedelta(seconds=10), tick=timedelta(seconds=1))

    assert {} == unsent
    assert {"succeeded": 5} == states(limited, ids)
    assert [(1, 0)] * 5 == [(each.attempts, each.failures) for each in map(limited.command, ids)]


def test_a_process_that_stood_still_does_not_catch_up_in_one_go(limited, new_admission):
    """By the provider's count the slots of that time are over: sent now, they would be two seconds' worth in one."""
    admission = new_admission()
    for _ in range(9):
        limited.capture()
    admission.sort(limited.store.claim(None, limit=100, lease=LEASE))

    limited.clock.advance(timedelta(seconds=0.8))
    found = admission.due(under_way=0)

    assert len(found.now) <= 4


def test_what_waits_for_a_later_moment_takes_no_place_in_the_window(limited, new_admission):
    """A second's worth of slots lies ahead of a quota; with half of it held, one process could use half a quota."""
    limited.rates[ACCOUNT] = rates(captures=300.0)
    admission = new_admission()
    for _ in range(200):
        limited.capture()

    admission.sort(limited.store.claim(None, limit=200, lease=LEASE))

    assert admission.appetite(under_way=0) > 150


def test_a_slot_is_used_even_while_as_many_answers_as_the_window_holds_wait_to_be_recorded(limited, new_admission):
    """What was claimed for a slot and then missed it is a part of the quota that nobody gets back."""
    limited.rates[ACCOUNT] = rates(captures=300.0)
    admission = new_admission()
    for _ in range(20):
        limited.capture()
    admission.sort(limited.store.claim(None, limit=20, lease=LEASE))

    begun = admission.due(under_way=admission.window)

    assert len(begun.now) == 20


@pytest.mark.parametrize(("captures", "is_little"), [(5.0, True), (80.0, False), (100_000.0, False)])
def test_a_claim_that_brought_little_to_send_is_followed_by_a_rest(limited, new_admission, captures, is_little):
    """It costs the same whatever it brings; eight processes that share a quota would mostly claim in vain."""
    limited.rates[ACCOUNT] = rates(captures=captures)
    admission = new_admission()
    for _ in range(100):
        limited.capture()

    admission.sort(limited.store.claim(None, limit=100, lease=LEASE))

    assert is_little == admission.is_to_rest


@pytest.mark.parametrize(("seconds", "window"), [(0.001, 200), (0.05, 200), (0.1, 400), (0.2, 800), (30, 800)], ids=str)
def test_the_window_is_as_wide_as_the_provider_is_slow(limited, new_admission, seconds, window):
    """A fixed number of calls under way would make a slow provider a slow worker."""
    limited.rates[ACCOUNT] = rates(captures=100_000.0)
    admission = new_admission()
    limited.capture()
    (each,) = limited.store.claim(None, limit=1, lease=LEASE)

    for _ in range(400):
        admission.sort([each])
        admission.begun(admission.due(under_way=0).now)
        admission.ready()
        limited.advance(seconds)
        admission.ended([each])

    assert window == pytest.approx(admission.window, rel=0.02)
