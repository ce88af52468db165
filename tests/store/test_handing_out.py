from __future__ import annotations

from datetime import timedelta

import pytest

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.state import State

HORIZON = timedelta(minutes=6)
LEASE = timedelta(seconds=90)
PUBLISHED_FOR = timedelta(seconds=10)
MICROSECOND = timedelta(microseconds=1)
PROBLEM = Problem(code="no_answer", message="No answer.")


def take(store, *, limit=100, window=5_000, horizon=HORIZON):
    with store.begin() as transaction:
        return list(transaction.take_due(limit=limit, window=window, horizon=horizon, published_for=PUBLISHED_FOR))


def taken(store, **bounds):
    return [each.id for each in take(store, **bounds)]


def expired(store, limit=100):
    with store.begin() as transaction:
        return list(transaction.take_expired(limit=limit))


def test_a_due_command_that_nobody_was_told_of_is_handed_out(store, given):
    """Its message was lost, or was never sent because the process died between commit and publish."""
    asked = given.new(kind="refund")
    given.store_all([asked])

    (due,) = take(store)

    assert (asked.id, asked.account, "refund", asked.order_id, 0, given.row(asked.id).due_at) == (
        *(due.id, due.account, due.kind, due.order_id, due.failures, due.due_at),
    )


def test_what_was_handed_out_is_left_alone_until_its_message_should_have_arrived(store, given, clock):
    """The next tick comes in a second; it must not send the same message again."""
    command_id = given.one()

    assert [command_id] == taken(store)
    clock.advance(PUBLISHED_FOR - MICROSECOND)
    assert [] == taken(store)
    clock.advance(MICROSECOND)
    assert [command_id] == taken(store)


def test_a_command_whose_message_follows_the_commit_is_left_alone_first(store, given, clock):
    """The publisher of the host's process is faster than any tick."""
    command_id = given.one(published=True)

    assert [] == taken(store)
    clock.advance(PUBLISHED_FOR)
    assert [command_id] == taken(store)


def test_a_wait_is_handed_out_once_it_lies_within_the_horizon(store, given, clock):
    """A countdown beyond it would be lost with its worker, or run twice."""
    far = given.one(due_at=clock.now + HORIZON + MICROSECOND)
    near = given.one(due_at=clock.now + HORIZON)

    assert [near] == taken(store)
    clock.advance(MICROSECOND)
    assert [far] == taken(store)


def test_without_a_horizon_only_what_is_due_is_handed_out(store, given, clock):
    """A process that may hold no more countdowns still works off what is due."""
    given.one(due_at=clock.now + MICROSECOND)
    due = given.one()

    assert [due] == taken(store, horizon=timedelta(0))


@pytest.mark.parametrize("wait", [timedelta(seconds=5), timedelta(seconds=299, milliseconds=123, microseconds=456)])
def test_a_countdown_is_left_alone_until_it_has_run_and_its_message_should_have_arrived(store, given, clock, wait):
    """A second message for a wait of five minutes would come while the first is still being held."""
    command_id = given.one(due_at=clock.now + wait)

    assert [command_id] == taken(store)
    clock.advance(wait + PUBLISHED_FOR - timedelta(milliseconds=1))
    assert [] == taken(store)
    clock.advance(timedelta(milliseconds=1))
    assert [command_id] == taken(store)


def test_the_longest_waiting_are_handed_out_first_and_in_order(store, given, clock):
    """Messages are made of neighbours in time, and a bounded run must not starve the oldest."""
    ids = [given.one(due_at=clock.now - timedelta(seconds=wait)) for wait in (1, 4, 2, 3)]

    assert [ids[1], ids[3], ids[2]] == taken(store, limit=3)
    assert [ids[0]] == taken(store, limit=3)


def test_no_more_than_the_window_is_handed_out_and_unclaimed(store, given, clock):
    """A million messages in the broker would only be a second, worse copy of the table."""
    given.pending(10)

    assert 6 == len(taken(store, window=6))
    assert [] == taken(store, window=6)
    store.claim(None, limit=2, lease=LEASE)
    assert 2 == len(taken(store, window=6))
    clock.advance(PUBLISHED_FOR)
    assert 6 == len(taken(store, window=6))


def test_countdowns_take_up_no_place_in_the_window(store, given, clock):
    """They are bounded by their own limit; a hundred thousand waits must not stop what is due."""
    given.pending(5, due_at=clock.now + timedelta(seconds=30))
    assert 5 == len(taken(store, window=3, limit=5) + taken(store, window=3, limit=5))
    due = given.one()

    assert [due] == taken(store, window=1)


@pytest.mark.parametrize("other", [each for each in State if each is not State.PENDING])
def test_only_pending_commands_are_handed_out(store, given, clock, other):
    """Finished rows are nobody's work any more."""
    given.now(other)
    clock.advance(timedelta(days=1))

    assert [] == taken(store)


def test_commands_that_wait_for_others_are_not_handed_out(store, given, clock):
    """Their messages could only find that they have to wait, over and over."""
    capture = given.held(kind="capture", order_id="a")
    refund = given.one(kind="refund", order_id="a")
    update = given.one(kind="add_order_shipping_info", order_id="a")
    assert [] == taken(store)

    given.moved(capture, state.retry_at(clock.now + timedelta(hours=5), failures=3, in_doubt=True, problem=PROBLEM))
    assert [update] == taken(store)

    clock.advance(timedelta(hours=5))
    given.moved(given.claim(capture.id), state.succeed(failures=3, result={}))
    assert refund in taken(store)


def test_a_lease_that_ran_out_is_taken_over(store, given, clock):
    """Its worker is gone or stands still; what it held must not wait for it."""
    held = given.held()

    clock.advance(LEASE)
    assert [] == expired(store)
    clock.advance(MICROSECOND)
    (found,) = expired(store)

    for name in ("id", "account", "kind", "order_id", "keyed", "payload", "idempotency_key", "claims", "lease_until"):
        assert getattr(held, name) == getattr(found, name)
    assert not found.unanswered


def test_a_lease_under_which_a_send_was_begun_is_told_from_one_without(store, given, clock):
    """Only the first may have moved money; the second is handed back as if nothing had been."""
    sent, held = given.sent(), given.held()
    sent_before = given.sent()
    given.moved(sent_before, state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM))
    again = given.claim(sent_before.id)
    clock.advance(LEASE + MICROSECOND)

    found = {each.id: each for each in expired(store)}

    assert {sent.id: True, held.id: False, again.id: False} == {key: each.unanswered for key, each in found.items()}
    assert (1, sent.first_sent_at) == (found[sent.id].attempt, found[sent.id].first_sent_at)


def test_an_expired_command_carries_what_its_decision_needs(store, given, clock):
    """Failures, doubt and the last problem decide what follows, and they were written by an earlier claim."""
    held = given.sent()
    given.moved(held, state.defer_until(clock.now, failures=2, throttles=3, in_doubt=True, problem=PROBLEM))
    given.claim(held.id)
    clock.advance(LEASE + MICROSECOND)

    (found,) = expired(store)

    assert (2, 2, 3, True, PROBLEM) == (
        *(found.claims, found.failures, found.throttles, found.in_doubt, found.problem),
    )


def test_leases_are_taken_over_oldest_first_and_no_more_than_asked(store, given, clock):
    """A bounded sweep must not starve the oldest."""
    held = []
    for _ in range(3):
        held.append(given.held().id)
        clock.advance(timedelta(seconds=1))
    clock.advance(LEASE)

    assert held[:2] == [each.id for each in expired(store, limit=2)]
