from __future__ import annotations

from datetime import timedelta

import pytest

import worker
from worker import bluesnap
from worker.domain.errors import IdempotencyConflict, InvalidCommand
from worker.domain.ladder import Safety
from worker.providers.bluesnap import BlueSnap
from worker.providers.klarna import Klarna
from worker.wiring import COMMANDS, PROVIDERS

UNKEYED = {"accounts.bluesnap-us.keyed": False, "accounts.klarna-eu.keyed": False}


def stored(services, *commands):
    """Enqueue in a transaction of its own, and read back what was stored."""
    with services.store.engine.begin() as connection:
        enqueued = services.enqueue(connection, commands)
    with services.store.begin() as transaction:
        return [transaction.find(each.id) for each in enqueued]


def refund(**fields):
    return bluesnap.Refund(**{"account": "bluesnap-us", "order_id": "38486450", "reference": "return-1", **fields})


def capture(**fields):
    return bluesnap.Capture(
        **{"account": "bluesnap-us", "order_id": "38486450", "amount": 500, "currency": "USD", **fields}
    )


def test_each_account_speaks_to_the_provider_it_names(services):
    """A capture sent in the other's words would be refused, or worse, taken for something else."""
    accounts = services().accounts

    assert isinstance(accounts["klarna-eu"].provider, Klarna)
    assert isinstance(accounts["bluesnap-us"].provider, BlueSnap)


def test_every_provider_has_its_commands():
    """One without the other could be configured and not used."""
    assert set(COMMANDS) == set(PROVIDERS)


def test_the_keys_of_a_bluesnap_account_count_for_half_a_day(services):
    """BlueSnap keeps them for up to 24 h, which may be less; Klarna for 24 h."""
    accounts = services().accounts

    assert timedelta(hours=24) == accounts["klarna-eu"].policy.key_window
    assert timedelta(hours=12) == accounts["bluesnap-us"].policy.key_window


def test_an_account_may_have_a_key_window_of_its_own(services):
    """It says best how long its keys count."""
    made = services(
        **{
            "accounts.bluesnap-us.key_window_seconds": 3600,
            "providers.bluesnap.key_window_seconds": 7200,
            "retry.key_window_seconds": 600,
        }
    )

    assert timedelta(hours=1) == made.accounts["bluesnap-us"].policy.key_window
    assert timedelta(minutes=10) == made.accounts["klarna-eu"].policy.key_window


@pytest.mark.parametrize(
    "command",
    [
        worker.Capture(account="bluesnap-us", order_id="1", amount=500),
        bluesnap.Capture(account="klarna-eu", order_id="1", amount=500, currency="USD"),
        bluesnap.KeyedPost(account="klarna-eu", order_id="1", path="/vendors"),
    ],
    ids=["klarna's capture at bluesnap", "bluesnap's capture at klarna", "a kind klarna lacks"],
)
def test_an_account_takes_the_commands_of_its_own_provider_only(services, command):
    """Two providers have a kind called capture, and each means another call."""
    with pytest.raises(InvalidCommand, match="has no such command"):
        stored(services(), command)


def test_both_providers_store_side_by_side(services):
    """One shop may be at both."""
    captured = worker.Capture(account="klarna-eu", order_id="1", amount=500)

    kept = stored(services(), captured, capture(), refund(amount=500, currency="USD"))

    assert [("capture", True), ("capture", False), ("refund", True)] == [(each.kind, each.keyed) for each in kept]
    assert [500, 500, 500] == [each.amount for each in kept]


def test_what_is_sent_carries_the_key_it_is_stored_under(services):
    """A read at BlueSnap finds the command by it."""
    (kept,) = stored(services(), capture())

    assert kept.idempotency_key.encode() in kept.payload


def test_a_change_of_an_account_without_keys_is_stored_unkeyed(services):
    """Its provider would ignore the key, so a repeat is not safe, whatever the command asks for."""
    made = services(**UNKEYED)
    captured = worker.Capture(account="klarna-eu", order_id="1", amount=500)

    kept = stored(made, captured, refund())

    assert [False, False] == [each.keyed for each in kept]
    assert made.accounts["klarna-eu"].provider.safety("capture", keyed=True) is Safety.UNKEYED_READABLE
    assert made.accounts["bluesnap-us"].provider.safety("refund", keyed=True) is Safety.UNKEYED_READABLE
    assert made.accounts["bluesnap-us"].provider.safety("read_transaction", keyed=False) is Safety.READ


@pytest.mark.parametrize(("merchant_id", "is_found"), [({}, False), ({"accounts.bluesnap-us.merchant_id": 87}, True)])
def test_a_payment_can_be_read_back_where_the_account_says_its_number(services, merchant_id, is_found):
    """BlueSnap finds a payment by the caller's name only beside the merchant's own number."""
    provider = services(**merchant_id).accounts["bluesnap-us"].provider

    assert provider.reads_back("sale") is is_found
    assert provider.reads_back("capture")


def test_a_repeat_is_a_repeat_after_the_accounts_keys_were_switched_off(services):
    """The shop asks for the same; what changed is how safely it can be sent."""
    (before,) = stored(services(), refund())

    (after,) = stored(services(**UNKEYED), refund())

    assert before.id == after.id


def test_a_command_that_asks_for_no_key_is_another_than_one_that_does(services):
    """Even where the account has none: what was asked for differs, and the conflict names it."""
    made = services(**UNKEYED)
    stored(made, refund())

    with pytest.raises(IdempotencyConflict) as conflict:
        stored(made, refund(keyed=False))

    assert ("keyed",) == conflict.value.fields


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"amount": 500, "currency": "USD"}, ("amount",)),
        ({"cancel_subscriptions": True}, ("cancelSubscriptions",)),
        ({"reason": "damaged"}, ("reason",)),
    ],
)
def test_the_same_reference_with_another_payload_is_refused(services, changes, fields):
    """One intention has one payload; BlueSnap would refuse the second under the key as well."""
    made = services()
    stored(made, refund())

    with pytest.raises(IdempotencyConflict) as conflict:
        stored(made, refund(**changes))

    assert fields == conflict.value.fields
