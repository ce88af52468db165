from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from worker.domain.quota import (
    AccountRates,
    KindNotAllowed,
    Learned,
    Level,
    Quota,
    QuotaPolicy,
    RateTable,
    back_off,
    observed,
    quota_in_force,
)

NETWORK = RateTable(
    name="two-levels",
    category_by_kind={"capture": "payment-transaction-capture", "*": "payment-transaction-management"},
    quota_by_category={
        "payment-transaction-capture": Quota(partner=50, acquiring_partner=200),
        "payment-transaction-management": Quota(partner=200, acquiring_partner=500),
        "settlement": Quota(partner=0, acquiring_partner=150),
    },
    first=frozenset({"capture"}),
    has_levels=True,
)
SHOP = AccountRates(account="shop", host="api.example", table=NETWORK, acquiring_partner="acquirer")
PUBLISHED = '40, 40;w=1;name="account_payment-request-capture",100;w=1;name="psp_payment-request-capture"'


def read(limit, **others):
    return observed({"x-ratelimit-limit": limit} | {f"x-ratelimit-{name}": value for name, value in others.items()})


def policy(quota, name, window=1):
    return QuotaPolicy(quota=quota, window_seconds=window, name=name)


# --- the headers -------------------------------------------------------------------------------------------


def test_the_published_form_is_read():
    """This is the one example there is: the nearest quota, then one policy for each level."""
    seen = read(PUBLISHED, remaining="15", reset="1")

    assert 40 == seen.nearest
    assert (policy(40, "account_payment-request-capture"), policy(100, "psp_payment-request-capture")) == seen.policies
    assert (15, 1, ()) == (seen.remaining, seen.reset_seconds, seen.unread)


@pytest.mark.parametrize(
    ("limit", "policies"),
    [
        pytest.param('1,2;w=1;name="a"', [policy(2, "a")], id="no space"),
        pytest.param('1 , 2 ; w = 1 ; name = "a" , 3;w=1;name="b"', [policy(2, "a"), policy(3, "b")], id="spaces"),
        pytest.param('1, 2;w=1;name="a, b;c"', [policy(2, "a, b;c")], id="comma and semicolon in quotes"),
        pytest.param(r'1, 2;w=1;name="a\"b, c"', [policy(2, 'a"b, c')], id="quote in quotes"),
        pytest.param('1, 2;name="a";w=60', [policy(2, "a", 60)], id="other order, other window"),
        pytest.param('1, 2;name="a"', [policy(2, "a")], id="no window"),
        pytest.param("1, 2;w=1;name=a", [policy(2, "a")], id="no quotes"),
        pytest.param('1, 2;w=1;name="a";new="x"', [policy(2, "a")], id="a parameter that is new"),
        pytest.param('2;w=1;name="a"', [policy(2, "a")], id="no nearest"),
        pytest.param("", [], id="empty"),
        pytest.param("200", [], id="the nearest alone"),
    ],
)
def test_what_follows_the_grammar_is_read(limit, policies):
    """Klarna writes commas with a space and without, and a name may hold anything."""
    seen = read(limit)

    assert policies == list(seen.policies)
    assert () == seen.unread


@pytest.mark.parametrize(
    "limit",
    [
        "forty",
        "40;w=1",
        '-1;w=1;name="a"',
        '1e3;w=1;name="a"',
        '4;w=0;name="a"',
        '9999999;w=1;name="a"',
        "٣",
        "x" * 9999,
    ],
)
def test_rubbish_is_left_unread_and_told(limit):
    """A limiter that believes nonsense stops all payments; one line in the log is all that it deserves."""
    seen = read(limit)

    assert (None, ()) == (seen.nearest, seen.policies)
    assert 1 == len(seen.unread)
    assert len(seen.unread[0]) <= 80


def test_one_good_policy_among_rubbish_counts():
    """A provider that adds something new has not taken back the rest."""
    seen = read('40, later, 40;w=1;name="account_x", {}', remaining="-")

    assert (policy(40, "account_x"),) == seen.policies
    assert ("later", "{}", "-") == seen.unread


@given(st.text(max_size=200))
def test_no_header_breaks_the_reading(text):
    """What stands in front of a provider may send anything."""
    assert observed({"x-ratelimit-limit": text}) is not None


def test_an_answer_without_quota_headers_says_nothing():
    """BlueSnap sends none."""
    assert observed({"content-type": "text/html"}) is None


@pytest.mark.parametrize(
    ("name", "level", "category"),
    [
        ("account_payment-transaction-capture", Level.PARTNER, "payment-transaction-capture"),
        ("psp_dispute", Level.ACQUIRING_PARTNER, "dispute"),
        ("platform_dispute", None, "platform_dispute"),
    ],
)
def test_a_policys_name_says_level_and_category(name, level, category):
    """Two numbers come in one header, and each belongs to another bucket."""
    assert (level, category) == (policy(1, name).level, policy(1, name).category)


# --- what it means for buckets -----------------------------------------------------------------------------


def said(limit, *, rates=SHOP, category="payment-transaction-capture"):
    quotas = read(limit).quota_by_bucket(rates, category)

    return {(bucket.level, bucket.category): quota for bucket, quota in quotas.items()}


def test_a_name_that_is_unknown_is_about_the_command_that_was_answered():
    """The published example itself names a category that stands in no table."""
    assert {
        (Level.PARTNER, "payment-transaction-capture"): 40,
        (Level.ACQUIRING_PARTNER, "payment-transaction-capture"): 100,
    } == said(PUBLISHED)


def test_a_category_that_is_known_is_taken_at_its_word():
    """The provider knows best in which of its categories a call counts."""
    assert {(Level.PARTNER, "payment-transaction-management"): 30} == said(
        '30, 30;w=1;name="account_payment-transaction-management"'
    )


def test_a_longer_window_is_brought_down_to_a_second():
    """Buckets are filled by the second."""
    assert {(Level.PARTNER, "payment-transaction-capture"): 10} == said('600, 600;w=60;name="account_x"')


def test_an_unknown_level_changes_nothing():
    """A third level that somebody introduces must not lower the wrong bucket."""
    assert {} == said('1, 1;w=1;name="region_payment-transaction-capture"')


def test_a_lone_number_is_the_accounts_where_there_is_but_one_level():
    """With two levels nobody can tell whose quota it is."""
    alone = AccountRates(account="shop", host="api.example", table=NETWORK)

    assert {(Level.PARTNER, "payment-transaction-capture"): 25} == said("25", rates=alone)
    assert {} == said("25")


def test_the_exhausted_level_is_the_one_whose_quota_is_the_nearest():
    """A 429 keeps one bucket still, and it should be the right one."""
    assert Level.ACQUIRING_PARTNER is read('100, 40;w=1;name="account_x",100;w=1;name="psp_x"').exhausted
    assert read('40, 40;w=1;name="account_x",40;w=1;name="psp_x"').exhausted is None
    assert read("40").exhausted is None


def test_a_command_counts_in_its_accounts_bucket_and_in_its_acquiring_partners():
    """Two accounts share what their acquiring partner has, at one data centre only."""
    other = AccountRates(account="other", host="api.example", table=NETWORK, acquiring_partner="acquirer")
    abroad = AccountRates(account="shop", host="api.elsewhere", table=NETWORK, acquiring_partner="acquirer")

    own, shared = SHOP.buckets("capture")

    assert (50, 200) == (own.quota, shared.quota)
    assert shared == other.buckets("capture")[1]
    assert own != other.buckets("capture")[0]
    assert shared != abroad.buckets("capture")[1]
    assert (
        4 == len({each.key for rates in (SHOP, other, abroad) for each in rates.buckets("refund")} - {shared.key}) - 1
    )


def test_an_account_without_an_acquiring_partner_has_one_bucket():
    """Most shops are their own partner."""
    assert 1 == len(AccountRates(account="shop", host="h", table=NETWORK).buckets("capture"))


def test_a_quota_of_0_is_refused_and_says_what_to_do():
    """Zero is no rate to wait for: the command would wait for ever."""
    with_zero = RateTable(
        name="none", category_by_kind={"*": "settlement"}, quota_by_category=NETWORK.quota_by_category, has_levels=True
    )

    with pytest.raises(KindNotAllowed, match=r"refund counts as settlement.*quota of 0.*partner.*another rate_table"):
        AccountRates(account="shop", host="h", table=with_zero).require_allowed("refund")
    SHOP.require_allowed("refund")


# --- what follows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "quota"), [(0, 100), (599, 100), (600, 100), (900, 150), (1_199.9, 200), (1_200, 200), (9_999, 200)]
)
def test_what_was_learned_goes_back_to_what_is_configured(age, quota):
    """A lesson of last week may be wrong by now, and a jump at midnight would be as bad."""
    found = quota_in_force(200, Learned(quota=100, age_seconds=age), keep_seconds=600)

    assert quota == pytest.approx(found, abs=0.1)


def test_where_nothing_is_configured_a_lesson_holds_until_it_is_forgotten():
    """BlueSnap publishes nothing; if one day it says something, that is all there is."""
    assert 5 == quota_in_force(None, Learned(quota=5, age_seconds=1_199), keep_seconds=600)
    assert quota_in_force(None, Learned(quota=5, age_seconds=1_200), keep_seconds=600) is None


@pytest.mark.parametrize(("configured", "learned", "quota"), [(200, 500, 60), (None, None, 60), (200, 20, 20)])
def test_a_ceiling_is_never_exceeded(configured, learned, quota):
    """An installation may have promised somebody to stay below."""
    lesson = None if learned is None else Learned(quota=learned, age_seconds=0)

    assert quota == quota_in_force(configured, lesson, keep_seconds=600, ceiling=60)


def test_a_back_off_doubles_up_to_its_cap_and_is_wholly_random():
    """Full jitter: whoever waits the same time as everybody else comes back with everybody else."""
    longest = [back_off(count, base=0.1, cap=60, chance=1.0) for count in (1, 2, 3, 11, 10_000)]

    assert [0.1, 0.2, 0.4, 60, 60] == pytest.approx(longest)
    assert 0 == back_off(5, base=0.1, cap=60, chance=0.0)
    assert 0.2 == pytest.approx(back_off(3, base=0.1, cap=60, chance=0.5))
