"""The quotas that a test or a bench sets, and what the sandbox says of them."""

import base64

import pytest

from worker.sandbox import SandboxError


def named(account):
    return "Basic " + base64.b64encode(f"sandbox+{account}:sandbox".encode()).decode()


@pytest.fixture
def account(sandbox, new_shop):
    """One of several accounts of the merchant."""
    return lambda name: new_shop(sandbox.base_url, authorization=named(name))


def statuses(shop, order_id, count):
    return [shop.order(order_id).status for _ in range(count)]


def test_without_a_quota_nothing_is_counted_and_nothing_is_said(sandbox, shop, order_id):
    """Every other test plays with a provider that has all the time in the world."""
    answers = [shop.order(order_id) for _ in range(5)]

    assert [200] * 5 == [answer.status for answer in answers]
    assert [None] * 5 == [answer.headers["X-Ratelimit-Limit"] for answer in answers]
    assert {"quotas": [], "seconds": []} == sandbox.quotas()


def test_what_is_above_an_accounts_quota_is_refused_and_not_carried_out(driver, shop, order_id):
    """429 means that nothing was done: the same key is sent again later."""
    driver.quota("payment-transaction-capture", partner=2, kinds=["capture"])

    answers = [shop.capture(order_id, 1).status for _ in range(4)]

    assert [201, 201, 429, 429] == answers
    assert 2 == len(driver.effects())


def test_two_levels_are_checked_and_the_nearest_is_named_first(driver, account, order_id):
    """The exact form is what the worker learns from: the first number is the quota nearest to exhaustion."""
    driver.quota("payment-transaction-management", partner=40, acquiring_partner=2)

    first, second, third = (account(name).order(order_id) for name in ("shop-1", "shop-2", "shop-3"))

    assert [200, 200, 429] == [first.status, second.status, third.status]
    assert (
        '2, 40;w=1;name="account_payment-transaction-management",2;w=1;name="psp_payment-transaction-management"',
        "1",
        "1",
    ) == tuple(first.headers[f"X-Ratelimit-{name}"] for name in ("Limit", "Remaining", "Reset"))
    assert "0" == third.headers["X-Ratelimit-Remaining"]
    assert third.headers["Retry-After"] is None


def test_each_account_has_a_quota_of_its_own(driver, account, order_id):
    """Five partners under one acquiring partner are five buckets and one."""
    driver.quota("orders", partner=1, acquiring_partner=10)

    answers = [statuses(account(name), order_id, 2) for name in ("shop-1", "shop-2")]

    assert [[200, 429], [200, 429]] == answers


def test_a_quota_counts_in_any_second(driver, shop, order_id):
    """A window that slides is the strictest reading of so many a second."""
    driver.quota("orders", partner=2)
    before = statuses(shop, order_id, 3)

    driver.advance(1.0)

    assert [200, 200, 429] == before
    assert [200, 200, 429] == statuses(shop, order_id, 3)


def test_a_quota_can_be_halved_and_doubled_while_it_runs(driver, shop, order_id):
    """Limits change without notice."""
    driver.quota("orders", partner=4)

    driver.switch(quota_factor=0.5)
    halved = statuses(shop, order_id, 3)
    driver.advance(1.0)
    driver.switch(quota_factor=2)
    doubled = shop.order(order_id)

    assert [200, 200, 429] == halved
    assert '8, 8;w=1;name="account_orders"' == doubled.headers["X-Ratelimit-Limit"]


def test_the_headers_can_be_withheld(driver, shop, order_id):
    """A proxy may drop what it does not know."""
    driver.quota("orders", partner=1)
    driver.switch(quota_headers=False)

    answers = [shop.order(order_id) for _ in range(2)]

    assert [(200, None), (429, None)] == [(each.status, each.headers["X-Ratelimit-Limit"]) for each in answers]


def test_each_second_tells_what_was_let_through_and_what_was_not(driver, account, order_id):
    """A bench is judged by it."""
    driver.quota("orders", partner=2)

    statuses(account("shop-1"), order_id, 5)

    (second,) = driver.quotas()["seconds"][-1:]
    total = [sum(each[name] for each in driver.quotas()["seconds"]) for name in ("admitted", "throttled")]
    assert ("orders", "shop-1") == (second["category"], second["account"])
    assert 5 == sum(total)
    assert total[1] >= 1


def test_bluesnap_says_nothing_of_its_quota(driver, blue_shop, transaction_id):
    """It publishes none, and answers a line of XML."""
    driver.quota("api", partner=1, provider="bluesnap")

    first, second = (blue_shop.call("GET", f"transactions/{transaction_id}") for _ in range(2))

    assert [200, 429] == [first.status, second.status]
    assert second.headers["X-Ratelimit-Limit"] is None


def test_a_stranger_with_a_plus_sign_stays_a_stranger(sandbox, new_shop, order_id):
    """The account is what follows the merchant's name, not a way past the password."""
    wrong = "Basic " + base64.b64encode(b"sandbox+shop-1:guess").decode()
    other = "Basic " + base64.b64encode(b"other+shop-1:sandbox").decode()

    answers = [new_shop(sandbox.base_url, authorization=each).order(order_id).status for each in (wrong, other)]

    assert [401, 401] == answers


def test_clearing_the_quotas_lets_all_through_again(driver, shop, order_id):
    """One sandbox serves many trials."""
    driver.quota("orders", partner=0)
    before = shop.order(order_id).status

    driver.clear_quotas()

    assert [429, 200] == [before, shop.order(order_id).status]


def test_an_impossible_quota_is_refused(driver):
    """A slip in a script must not pass for a generous provider."""
    with pytest.raises(SandboxError, match="0 or more requests a second"):
        driver.quota("orders", partner=-1)
