"""The facts that hold wherever quotas are shared: in one process, in Redis, in rows of both databases."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from worker.domain.quota import AccountRates, Level, Observation, Quota, QuotaPolicy, RateTable
from worker.limits.database import DatabasePlace
from worker.limits.limiter import Limiter, Terms
from worker.limits.local import LocalPlace
from worker.limits.redis import RedisPlace
from worker.ports import Want
from worker.store.clock import ManualClock
from worker.store.engine import build_engine
from worker.store.rates import RateRows

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TERMS = Terms(near=1.0, use=1 / 1.02, headroom=0.2, keep=600.0, base=0.4, cap=60.0, away=1.0, alarm=30.0)
TABLE = RateTable(
    name="table",
    category_by_kind={"capture": "capture", "read_order": "unbounded", "*": "management"},
    quota_by_category={
        "capture": Quota(partner=50, acquiring_partner=100),
        "management": Quota(partner=200, acquiring_partner=500),
    },
    first=frozenset({"capture"}),
    has_levels=True,
)
ONE_BUCKET = RateTable(
    name="one",
    category_by_kind={"*": "all"},
    quota_by_category={"all": Quota(partner=200)},
    first=frozenset({"capture"}),
)


def postgresql_or_sqlite(url, clock):
    engine = build_engine(
        url,
        pool_size=8,
        busy_timeout=timedelta(seconds=20),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=20),
    )

    return DatabasePlace(RateRows(engine, clock=clock)), engine.dispose


@pytest.fixture
def clock():
    return ManualClock(NOON)


@pytest.fixture(
    params=[
        "local",
        pytest.param("redis", marks=pytest.mark.slow),
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.slow),
    ]
)
def new_place(request, clock):
    """Makes places that share their buckets, as processes do."""

    def milliseconds():
        return clock.now.timestamp() * 1_000

    made = []
    if request.param == "local":
        shared = LocalPlace(now=milliseconds)
        yield lambda: shared
    elif request.param == "redis":
        url, prefix = request.getfixturevalue("broker_server"), f"limiter-{uuid4()}:"
        yield lambda: made.append(RedisPlace(url, prefix=prefix, timeout=5.0, now=milliseconds)) or made[-1]
        for place in made:
            place.close()
    else:
        place, close = postgresql_or_sqlite(request.getfixturevalue(f"{request.param}_url"), clock)
        yield lambda: place
        close()


class Chance:
    value = 0.5

    def __call__(self):
        return self.value


@pytest.fixture
def chance():
    return Chance()


@pytest.fixture
def accounts():
    under = {f"shop-{number}": "acquirer" for number in range(1, 6)} | {"alone": None}
    rates = {
        name: AccountRates(account=name, host="api.example", table=TABLE, acquiring_partner=partner)
        for name, partner in under.items()
    }
    rates["old"] = AccountRates(account="old", host="api.example", table=ONE_BUCKET)
    rates["promised"] = AccountRates(account="promised", host="api.example", table=TABLE, ceiling=10)

    return rates


@pytest.fixture
def process(new_place, accounts, clock, chance):
    """Makes a limiter as another process would have it."""

    def seconds():
        return (clock.now - NOON).total_seconds()

    def start():
        return Limiter(
            place=new_place(),
            accounts=accounts,
            terms=TERMS,
            monotonic=seconds,
            chance=chance,
        )

    return start


@pytest.fixture
def limiter(process):
    return process()


def ask(limiter, account="alone", kind="capture", count=1):
    (grant,) = limiter.reserve([Want(account=account, kind=kind, count=count)])

    return grant


def told(level_quotas, nearest=None):
    policies = tuple(
        QuotaPolicy(quota=quota, window_seconds=1, name=f"{prefix}_capture") for prefix, quota in level_quotas.items()
    )

    return Observation(nearest=nearest, policies=policies)


def most_in_a_second(moments):
    """The most that any window of one second holds."""
    ordered = sorted(moments)
    most = begins = 0
    for ends, moment in enumerate(ordered):
        while ordered[begins] <= moment - 1.0 + 1e-9:
            begins += 1
        most = max(most, ends - begins + 1)

    return most


# --- slots -------------------------------------------------------------------------------------------------


def test_a_command_of_an_idle_account_goes_at_once(limiter):
    """Most days nobody is near a quota, and then it must cost nothing."""
    assert (0.0,) == ask(limiter).slots


def test_slots_are_spread_over_the_second_and_the_rest_comes_back(limiter):
    """A batch does not burst: it is paced, and what does not fit goes back to the database."""
    grant = ask(limiter, count=120)

    assert 120 == len(grant.slots) + len(grant.later)
    assert 45 <= len(grant.slots) <= 47
    assert list(grant.slots) == sorted(grant.slots)
    gaps = [later - sooner for sooner, later in zip(grant.slots, grant.slots[1:], strict=False)]
    assert min(gaps) >= 0.019
    assert max(grant.slots) <= 1.02


def test_after_a_quiet_second_a_bucket_gives_one_cell_and_the_next_ones_a_tenth_of_a_second_later(limiter, clock):
    """Who begins after a stop is not ready at once: all that had its slot meanwhile would leave in one go."""
    first = ask(limiter, account="old", count=20)
    clock.advance(timedelta(seconds=3))
    again = ask(limiter, account="old", count=20)

    for grant in (first, again):
        assert 4 == sum(slot < 0.02 for slot in grant.slots)
        assert 0.08 <= grant.slots[4] <= 0.1


def test_single_commands_after_a_quiet_second_do_not_wait_for_one_another(limiter, clock):
    """One cell's worth is theirs, whenever in that tenth of a second they come."""
    for _ in range(4):
        assert ask(limiter, account="old").slots[0] <= 0.001
        clock.advance(timedelta(seconds=0.021))


@pytest.mark.parametrize("still_ms", [30, 60, 90])
def test_a_429_that_comes_when_all_is_quiet_does_not_make_the_next_second_hold_more(process, clock, chance, still_ms):
    """A stillness ends within that tenth of a second, and the one cell's worth comes late in it."""
    limiter = process()
    chance.value = still_ms / 400
    limiter.throttled("promised", "capture", None, sent_ago=0.0)
    begins, moments = clock.now, []
    for _ in range(4):
        ago = (clock.now - begins).total_seconds()
        moments += [ago + slot for slot in ask(limiter, account="promised", count=20).slots]
        clock.advance(timedelta(seconds=0.5))

    assert moments == sorted(moments)
    assert max(sum(begin <= each < begin + 1 for each in moments) for begin in moments) <= 10


def test_a_clock_that_goes_back_a_little_does_not_close_a_bucket(limiter, clock):
    """Another server has taken over, whose clock is half a second behind."""
    ask(limiter)
    clock.advance(timedelta(seconds=-0.6))

    assert ask(limiter).slots[0] <= 0.1


def test_a_bucket_that_is_in_use_has_no_such_pause(limiter, clock):
    """It would cost a part of the quota each time that one process finds nothing to do for a moment."""
    ask(limiter, account="old", count=20)
    clock.advance(timedelta(seconds=0.9))

    slots = ask(limiter, account="old", count=20).slots

    assert max(slots) <= 0.1
    assert max(later - sooner for sooner, later in pairwise(slots)) <= 0.01


def test_what_comes_back_is_spread_and_takes_nothing(limiter, clock):
    """A herd that wakes at once claims a thousand commands for fifty slots, over and over."""
    grant = ask(limiter, count=120)

    gaps = [later - sooner for sooner, later in zip(grant.later, grant.later[1:], strict=False)]
    assert min(grant.later) >= 0.4
    assert 1 / 49.02 / 1.1 == pytest.approx(sum(gaps) / len(gaps), rel=0.01)
    clock.advance(timedelta(seconds=5))
    assert 45 <= len(ask(limiter, count=120).slots) <= 47


def test_a_second_batch_queues_behind_the_first(process):
    """Two processes that are told the same moment would be a herd of two."""
    first, second = ask(process(), count=100), ask(process(), count=100)

    assert () == second.slots
    assert first.later[-1] < second.later[0]
    assert second.queue_seconds > first.queue_seconds > 1.0


def test_all_processes_draw_on_one_quota(process):
    """Eight processes at the full rate each are eight times the quota."""
    slots = [slot for _ in range(8) for slot in ask(process(), count=20).slots]

    assert 45 <= len(slots) <= 47
    assert len(slots) == len(set(slots))


def test_threads_at_once_never_share_a_slot(process):
    """Between the look at a bucket and the taking of its slot nobody may come in."""
    slots, errors = [], []

    def run():
        try:
            limiter = process()
            for _ in range(5):
                slots.extend(ask(limiter, count=5).slots)
        except Exception as error:  # noqa: BLE001  # a thread's error must reach the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == errors
    assert 45 <= len(slots) <= 47
    assert len(slots) == len(set(slots))


def test_a_kind_without_a_quota_goes_at_once(limiter):
    """Where nobody published a number, the provider's own answers have to do."""
    assert (0.0,) * 300 == ask(limiter, kind="read_order", count=300).slots


def test_an_account_that_is_not_known_is_not_held_up(limiter):
    """Whoever looks for its settings finds none and says so; a quota has no part in that."""
    assert (0.0, 0.0) == ask(limiter, account="gone", count=2).slots


def test_a_batch_of_many_wants_is_answered_in_order(limiter):
    """The executor asks once for all the commands it has claimed."""
    wants = [
        Want(account="shop-1", kind="capture", count=2),
        Want(account="gone", kind="capture", count=1),
        Want(account="alone", kind="refund", count=3),
    ]

    grants = limiter.reserve(wants)

    assert wants == [grant.want for grant in grants]
    assert [2, 1, 3] == [len(grant.slots) for grant in grants]
    assert [] == limiter.reserve([])


def test_what_is_given_back_is_there_for_others(process):
    """A lease that has run short leaves its slots to those that can still use them."""
    one, other = process(), process()
    taken = ask(one, count=60)
    before = ask(other, count=10).slots

    one.release(taken, count=10)

    assert () == before
    assert taken.slots[-10:] == pytest.approx(ask(other, count=10).slots, abs=0.021)


# --- two levels --------------------------------------------------------------------------------------------


def test_no_level_is_exceeded(limiter, clock, accounts):
    """Five accounts of 50 a second share 100: whichever is reached first answers 429."""
    sent = []
    for _ in range(40):
        began = (clock.now - NOON).total_seconds()
        for name in ("shop-1", "shop-2", "shop-3", "shop-4", "shop-5"):
            sent += [(name, began + slot) for slot in ask(limiter, account=name, count=40).slots]
        clock.advance(timedelta(seconds=0.1))

    assert most_in_a_second([moment for _, moment in sent]) <= 100
    assert len([moment for _, moment in sent if 1 <= moment < 4]) >= 0.95 * 3 * 100
    for name in ("shop-1", "shop-5"):
        assert most_in_a_second([moment for who, moment in sent if who == name]) <= 50


def test_what_one_level_refuses_is_not_taken_at_the_other(limiter):
    """An account at its own quota must not use up what its acquiring partner has for the others."""
    for _ in range(5):
        ask(limiter, account="shop-1", count=100)

    used = {line.bucket.level: line.used + line.ahead for line in _lines(limiter, "capture", "shop-1", "acquirer")}

    assert used[Level.PARTNER] == used[Level.ACQUIRING_PARTNER] <= 51


def _lines(limiter, category, *names):
    return [line for line in limiter.snapshot() if line.bucket.category == category and line.bucket.name in names]


def test_no_account_starves_another(limiter, clock):
    """One shop's sale must not hold up the refunds of all the others."""
    sent = Counter()
    for turn in range(80):
        for name in ("shop-1", "shop-2", "shop-3"):
            sent[name] += len(ask(limiter, account=name, count=60).slots)
        if turn >= 15:
            sent["shop-4"] += len(ask(limiter, account="shop-4", count=60).slots)
        if turn == 25:
            sent.clear()
        clock.advance(timedelta(seconds=0.1))

    assert max(sent.values()) <= 1.25 * min(sent.values())


def test_what_others_leave_is_used(limiter, clock):
    """A fair share is no fence: four quiet accounts leave the fifth its whole quota."""
    sent = []
    for turn in range(40):
        began = (clock.now - NOON).total_seconds()
        if turn % 10 == 0:
            for name in ("shop-2", "shop-3", "shop-4"):
                ask(limiter, account=name, count=1)
        sent += [began + slot for slot in ask(limiter, account="shop-1", count=20).slots]
        clock.advance(timedelta(seconds=0.1))

    assert len([moment for moment in sent if 1 <= moment < 4]) >= 0.95 * 3 * 50


# --- first things first ------------------------------------------------------------------------------------


def test_captures_find_room_where_other_kinds_have_filled_the_bucket(limiter):
    """A bulk update of addresses must not hold up the money."""
    ask(limiter, account="old", count=1)
    updates = ask(limiter, account="old", kind="update_customer_details", count=400)

    captures = ask(limiter, account="old", count=20)

    assert 142 <= len(updates.slots) <= 150
    assert 20 == len(captures.slots)
    assert captures.slots[-1] < 0.65


def test_without_captures_other_kinds_have_the_whole_bucket(limiter):
    """A headroom that nobody uses is a fifth of the quota thrown away."""
    updates = ask(limiter, account="old", kind="update_customer_details", count=400)

    assert 180 <= len(updates.slots) <= 185


# --- learning ----------------------------------------------------------------------------------------------


def test_a_lowered_quota_counts_at_once_for_all_processes(process, clock):
    """Limits change without notice, and one process's answer is news for all."""
    one, other = process(), process()
    ask(other)
    clock.advance(timedelta(seconds=5))

    one.observe("alone", "capture", told({"account": 10}))

    assert 9 <= len(ask(other, count=100).slots) <= 11


def test_a_raised_quota_is_followed(process):
    """What the provider gives is not left lying."""
    one, other = process(), process()

    one.observe("shop-1", "capture", told({"account": 80, "psp": 300}))

    assert 72 <= len(ask(other, account="shop-1", count=100).slots) <= 76


def test_a_quota_that_is_back_to_normal_is_believed_by_who_never_saw_the_other(process):
    """Each process sees different answers; none may hold all the others down with an old one."""
    one, other = process(), process()
    one.observe("alone", "capture", told({"account": 10}))
    ask(other)

    other.observe("alone", "capture", told({"account": 50}))

    (line,) = _lines(one, "capture", "alone")
    assert (None, 50.0) == (line.learned, line.in_force)


def test_a_quota_is_never_raised_above_the_installations_own_ceiling(limiter):
    """It was promised to somebody."""
    limiter.observe("promised", "capture", told({"account": 500}))

    assert len(ask(limiter, account="promised", count=100).slots) <= 11


def test_what_was_learned_outlives_the_process_and_fades(process, clock):
    """A restart must not begin with a flood, and an old lesson must not hold for ever."""
    process().observe("alone", "capture", told({"account": 10}))

    shown = []
    for _ in range(4):
        (line,) = _lines(process(), "capture", "alone")
        shown.append((line.learned, line.in_force, line.bucket.quota))
        clock.advance(timedelta(seconds=450))

    assert [(10.0, 10.0, 50), (10.0, 10.0, 50), (10.0, 30.0, 50), (10.0, 50.0, 50)] == shown


def test_a_lesson_that_is_repeated_does_not_fade(process, clock):
    """As long as the provider says so, it is so."""
    limiter = process()

    for _ in range(20):
        limiter.observe("alone", "capture", told({"account": 10}))
        clock.advance(timedelta(seconds=100))

    (line,) = _lines(limiter, "capture", "alone")
    assert 10.0 == line.in_force


def test_a_quota_of_0_stops_the_bucket_without_a_storm(limiter):
    """The provider has closed the door; asking every second does not open it."""
    limiter.observe("alone", "capture", told({"account": 0}))

    grant = ask(limiter, count=3)

    assert () == grant.slots
    assert min(grant.later) >= 60


# --- 429 ---------------------------------------------------------------------------------------------------


def test_after_a_429_all_keep_still_and_do_not_wake_together(process, clock, chance):
    """All slow down together; if they came back together, the next second would be the same again."""
    chance.value = 0.5
    one, other = process(), process()

    wait = one.throttled("alone", "capture", None)
    grant = ask(other, count=60)

    assert 0.2 == pytest.approx(wait, abs=0.002)
    assert min(grant.slots) >= wait - 0.002
    assert most_in_a_second(grant.slots) <= 50
    gaps = [later - sooner for sooner, later in zip(grant.slots, grant.slots[1:], strict=False)]
    assert min(gaps) >= 0.019


def test_many_429s_of_one_moment_count_once(limiter):
    """Fifty calls were under way when the first was refused; that is one refusal, not fifty."""
    waits = [limiter.throttled("alone", "capture", None) for _ in range(50)]

    assert waits == [waits[0]] * 50
    (line,) = _lines(limiter, "capture", "alone")
    assert 50 == line.throttled


def test_a_429_in_a_row_doubles_the_back_off_and_peace_ends_the_row(limiter, clock):
    """Exponential, or a provider in distress is asked as often as one in health."""
    waits = []
    for _ in range(4):
        waits.append(limiter.throttled("alone", "capture", None))
        clock.advance(timedelta(seconds=waits[-1] + 0.1))
    clock.advance(timedelta(seconds=30))
    afterwards = limiter.throttled("alone", "capture", None)

    assert [0.2, 0.4, 0.8, 1.6] == pytest.approx(waits, abs=0.002)
    assert 0.2 == pytest.approx(afterwards, abs=0.002)


def test_a_long_back_off_sends_commands_back_and_spreads_them_behind_it(limiter, clock):
    """Nothing waits in a process longer than its lease is good for."""
    for _ in range(6):
        wait = limiter.throttled("alone", "capture", None)
        clock.advance(timedelta(seconds=wait + 0.01))
    wait = limiter.throttled("alone", "capture", None)

    grant = ask(limiter, count=30)

    assert wait > 10
    assert () == grant.slots
    assert wait - 0.01 <= min(grant.later) <= wait + 0.05
    assert len(set(grant.later)) == 30


def test_a_429_of_the_acquiring_partner_keeps_all_its_accounts_still(limiter):
    """The headers say whose quota it was; without them it is the account's own that is known to be full."""
    limiter.throttled("shop-1", "capture", told({"account": 50, "psp": 100}, nearest=100))
    limiter.throttled("alone", "capture", None)

    assert min(ask(limiter, account="shop-2").slots) >= 0.19
    assert (0.0,) == ask(limiter, account="shop-2", kind="refund").slots
