from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest
from sqlalchemy.exc import StatementError

from worker.domain.state import State
from worker.ports import Filter
from worker.store.engine import SqlStore

PUBLISHED_FOR = timedelta(seconds=10)


def test_a_command_is_stored_as_it_was_asked(store, given, clock):
    """What is sent later is what the caller asked for, byte by byte."""
    asked = given.new(
        kind="refund",
        order_id="o-1",
        reference="return ⚐ 1",
        target="capture-1",
        amount=2**53,
        keyed=False,
        payload='{"note":"ümlaut"}\x00\xff'.encode("latin-1"),
        trace_context={"traceparent": "00-1-2-01"},
    )

    given.store_all([asked])

    row = given.row(asked.id)
    for name in (
        *("id", "account", "kind", "order_id", "reference", "target", "amount", "keyed", "payload"),
        *("fingerprint", "idempotency_key", "trace_context"),
    ):
        assert getattr(asked, name) == getattr(row, name)
    assert (State.PENDING, 0, 0, 0, 0, False) == (
        *(row.state, row.claims, row.attempts, row.failures, row.throttles, row.in_doubt),
    )
    assert [None] * 7 == [
        *(row.lease_until, row.first_sent_at, row.published_until, row.replaces, row.result, row.problem),
        row.finalized_at,
    ]
    assert (clock.now, clock.now) == (row.created_at, row.due_at)


def test_times_come_from_the_clock_of_the_database(database, given):
    """Host and worker machines disagree about the time; the database is the one they share."""
    store = SqlStore(database)
    with store.begin() as transaction:
        before = transaction.now
    asked = given.new(published=True)

    with store.begin() as transaction:
        transaction.insert_commands([asked], published_for=timedelta(hours=1))

    with store.begin() as transaction:
        row, after = transaction.find(asked.id), transaction.now
    assert before <= row.created_at <= row.due_at <= after
    assert timedelta(0) <= row.published_until - row.created_at - timedelta(hours=1) <= after - before


def test_a_moment_in_the_future_is_kept_to_the_microsecond_in_utc(given):
    """A shop names the moment in its own zone; due means the same instant everywhere."""
    due_at = datetime(2030, 6, 1, 14, 30, 1, 123456, tzinfo=timezone(timedelta(hours=2)))

    row = given.row(given.one(due_at=due_at))

    assert due_at == row.due_at
    assert UTC == row.due_at.tzinfo


def test_a_naive_moment_is_refused(given):
    """Nobody could say which instant is meant."""
    with pytest.raises((StatementError, ValueError), match="naive datetime"):
        given.one(due_at=datetime(2030, 6, 1, 14, 30))  # noqa: DTZ001  # the point of the test


def test_only_a_command_whose_message_follows_is_left_alone_by_dispatch(given, clock):
    """The other one would otherwise wait for a message that nobody sends."""
    following, left = given.store_all([given.new(published=True), given.new(published=False)])

    assert clock.now + PUBLISHED_FOR == given.row(following).published_until
    assert given.row(left).published_until is None


def test_commands_keep_the_order_in_which_they_were_given(store, given):
    """Order rules go by it, and one call may fill several statements."""
    asked = [given.new() for _ in range(2_300)]

    with store.begin() as transaction:
        stored = transaction.insert_commands(asked, published_for=PUBLISHED_FOR)

    with store.begin() as transaction:
        listed = [row.id for row in transaction.listed(Filter(), limit=3_000)]
    assert {each.id for each in asked} == stored
    assert [each.id for each in asked] == listed[::-1]


def test_a_key_is_stored_once_for_an_account(store, given):
    """The second row would be paid a second time."""
    first = given.new(idempotency_key="key", amount=1)
    again = given.new(idempotency_key="key", amount=2)
    given.store_all([first])

    with store.begin() as transaction:
        stored = transaction.insert_commands([given.new(), again, given.new()], published_for=PUBLISHED_FOR)

    assert again.id not in stored
    assert 2 == len(stored)
    assert 1 == given.row(first.id).amount


def test_two_accounts_may_use_the_same_key(given):
    """A key is a promise between one merchant account and the provider."""
    ids = given.store_all([given.new(idempotency_key="key", account=name) for name in ("klarna-eu", "klarna-na")])

    assert ["klarna-eu", "klarna-na"] == [given.row(each).account for each in ids]


def test_storing_nothing_stores_nothing(store):
    """A shop may have nothing to ship today."""
    with store.begin() as transaction:
        assert set() == transaction.insert_commands([], published_for=PUBLISHED_FOR)
        assert {} == transaction.find_by_key([])
        transaction.delete_commands([])


def test_a_transaction_that_raises_stores_nothing(store, given):
    """The caller's business change and its commands stand or fall together."""
    asked = given.new()

    def fail_halfway():
        with store.begin() as transaction:
            transaction.insert_commands([asked], published_for=PUBLISHED_FOR)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with store.begin() as transaction:
        assert transaction.find(asked.id) is None


def test_commands_are_found_by_account_and_key(store, given):
    """A repeat must get the id of the command that is there, not one of another account."""
    one, other = given.store_all([given.new(idempotency_key="a"), given.new(idempotency_key="b")])
    wanted = {("klarna-eu", "a"), ("klarna-eu", "b"), ("klarna-na", "a"), ("klarna-eu", "c")}

    with store.begin() as transaction:
        found = transaction.find_by_key(wanted)

    assert {("klarna-eu", "a"): one, ("klarna-eu", "b"): other} == {key: row.id for key, row in found.items()}


def test_any_number_of_keys_is_found_in_one_statement(store, given):
    """A night's import may be enqueued again as a whole; databases limit parameters and the depth of conditions."""
    wanted = given.one(idempotency_key="key")
    keys = [("klarna-eu", str(uuid4())) for _ in range(5_000)]

    with store.begin() as transaction:
        found = transaction.find_by_key([*keys, ("klarna-eu", "key")])

    assert [wanted] == [row.id for row in found.values()]


def test_a_transaction_takes_back_what_it_stored(store, given):
    """A refused call must leave nothing behind in a transaction that goes on."""
    kept = given.one()
    asked = [given.new(), given.new()]

    with store.begin() as transaction:
        transaction.insert_commands(asked, published_for=PUBLISHED_FOR)
        transaction.delete_commands({each.id for each in asked})

    with store.begin() as transaction:
        assert [kept] == [row.id for row in transaction.listed(Filter(), limit=10)]


def test_any_number_of_commands_is_taken_back(store, given):
    """PostgreSQL takes at most 65,535 parameters."""
    taken, kept = given.pending(2)

    with store.begin() as transaction:
        transaction.delete_commands([taken, *(uuid4() for _ in range(66_000))])

    with store.begin() as transaction:
        assert [kept] == [row.id for row in transaction.listed(Filter(), limit=10)]
