from __future__ import annotations

from datetime import timedelta
from itertools import product
from uuid import uuid4

import pytest

from worker.domain import state
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.domain.order_rules import WAITS_FOR
from worker.domain.outcome import Problem
from worker.domain.state import FINAL, State
from worker.ports import Filter, Move

LEASE = timedelta(seconds=90)
NEVER = timedelta(days=365)
PAIRS = list(product(sorted(KLARNA_COMMANDS), repeat=2))
PROBLEM = Problem(code="no_answer", message="No answer.")


def claimed(store, ids=None, *, limit=1_000):
    return {each.id for each in store.claim(ids, limit=limit, lease=LEASE)}


def test_a_claim_gives_what_the_call_needs(store, given, clock):
    """Request, fence and lease come out of one statement; a second look could see another command."""
    asked = given.new(kind="refund", target="capture-1", payload=b"{}", published=True)
    given.store_all([asked])

    (held,) = store.claim([asked.id], limit=1, lease=LEASE)

    for name in ("id", "account", "kind", "order_id", "target", "keyed", "payload", "idempotency_key"):
        assert getattr(asked, name) == getattr(held, name)
    assert (1, 0, 0, 0, False, None, None) == (
        *(held.claims, held.attempt, held.failures, held.throttles, held.in_doubt),
        *(held.first_sent_at, held.problem),
    )
    assert clock.now + LEASE == held.lease_until


def test_a_claimed_command_is_executing_under_its_lease(given, clock):
    """Sweep finds it by the lease, and dispatch must not hand it out again."""
    held = given.held(published=True)

    row = given.row(held.id)

    assert (State.EXECUTING, 1, clock.now + LEASE, None) == (
        *(row.state, row.claims, row.lease_until, row.published_until),
    )


def test_each_claim_raises_the_fence(given, clock):
    """The number of the claim is what keeps a worker that was presumed dead from overwriting its successor."""
    held = given.held()
    back = state.hand_back(clock.now, failures=0, throttles=0, in_doubt=False, problem=None)
    given.moved(held, back)

    again = given.claim(held.id)

    assert (1, 2) == (held.claims, again.claims)


def test_only_due_commands_are_claimed(store, given, clock):
    """A rung is a wait that the provider asked for."""
    due = given.one()
    later = given.one(due_at=clock.now + timedelta(microseconds=1))

    assert {due} == claimed(store, [due, later])
    assert set() == claimed(store, [later])
    clock.advance(timedelta(microseconds=1))
    assert {later} == claimed(store, [later])


def test_named_commands_are_claimed_and_no_others(store, given):
    """A message names its commands; the rest of the backlog belongs to other messages."""
    wanted, _other = given.pending(2)

    assert {wanted} == claimed(store, [wanted, uuid4()])
    assert set() == claimed(store, [])


def test_without_names_whatever_is_due_is_claimed_longest_waiting_first(store, given, clock):
    """A task that stays while a backlog lasts must not starve what has waited longest."""
    late = given.one(due_at=clock.now - timedelta(hours=1))
    latest = given.one(due_at=clock.now - timedelta(hours=2))
    now, _too_many = given.pending(2)

    assert {latest, late} == claimed(store, limit=2)
    assert {now} == claimed(store, limit=1)


@pytest.mark.parametrize("other", [each for each in State if each is not State.PENDING])
def test_only_pending_commands_are_claimed(store, given, other):
    """What is executing, final or with a person is nobody else's to take."""
    command_id = given.now(other)

    assert set() == claimed(store, [command_id])
    assert set() == claimed(store)


def test_one_command_of_an_order_is_claimed_at_a_time(store, given):
    """Two changes of one order at once would race each other at the provider."""
    commands = [given.new(kind="add_order_shipping_info", order_id=order) for order in ("a", "b", "a", "b", "a")]
    ids = given.store_all(commands)

    assert {ids[0], ids[1]} == claimed(store, ids)
    assert set() == claimed(store, ids)


def test_the_earliest_command_of_an_order_is_claimed_first(store, given, clock):
    """Order is the order of storing; how long something has been due does not change it."""
    first = given.one(kind="add_order_shipping_info", order_id="a")
    second = given.one(kind="add_order_shipping_info", order_id="a", due_at=clock.now - timedelta(hours=1))

    assert {first} == claimed(store, [second, first])


@pytest.mark.parametrize("other", [{"account": "klarna-na"}, {"order_id": "order-b"}], ids=["account", "order"])
def test_orders_and_accounts_do_not_hold_each_other_back(store, given, other):
    """An outage of one order, or of one account, must not become an outage of all."""
    given.held(kind="capture", order_id="order-a")
    waiting = given.new(**{"kind": "refund", "order_id": "order-a", **other})

    given.store_all([waiting])

    assert {waiting.id} == claimed(store)


@pytest.mark.parametrize("earlier_state", sorted(State))
def test_a_command_waits_for_exactly_what_the_order_rules_name(store, given, clock, earlier_state):
    """The rules are a table; for every pair of kinds and every state the claim must read it in the same way."""
    earlier = {pair: given.new(kind=pair[0], order_id="/".join(pair)) for pair in PAIRS}
    ids = given.store_all(list(earlier.values()))
    bring(store, given, ids, earlier_state, clock)
    later = {pair: given.new(kind=pair[1], order_id="/".join(pair)) for pair in PAIRS}
    given.store_all(list(later.values()))

    taken = claimed(store)

    expected = {
        pair
        for pair in PAIRS
        if earlier_state in FINAL
        or (earlier_state is not State.EXECUTING and pair[0] not in WAITS_FOR.get(pair[1], frozenset()))
    }
    assert expected == {pair for pair, command in later.items() if command.id in taken}


def bring(store, given, ids, wanted, clock):
    """Bring many commands into one state; those that stay pending wait for their five-hour rung."""
    held = store.claim(ids, limit=len(ids), lease=LEASE)
    assert len(ids) == len(held)
    transition = {
        State.PENDING: state.retry_at(clock.now + NEVER, failures=3, in_doubt=True, problem=PROBLEM),
        State.EXECUTING: None,
        State.SUCCEEDED: state.succeed(failures=0, result={}),
        State.REJECTED: state.reject(failures=0, problem=PROBLEM),
        State.ESCALATED: state.escalate(failures=4, in_doubt=True, problem=PROBLEM),
        State.CANCELLED: state.escalate(failures=4, in_doubt=True, problem=PROBLEM),
    }[wanted]
    if transition is not None:
        with store.begin() as transaction:
            transaction.apply([Move(held=each, transition=transition) for each in held])
    if wanted is State.CANCELLED:
        cancel = state.cancel(failures=4, problem=PROBLEM)
        with store.begin() as transaction:
            for row in transaction.listed(Filter(), limit=len(ids)):
                transaction.operate(row, cancel, given.action(row, verb="cancel"))


def test_what_was_stored_later_holds_nothing_back(store, given, clock):
    """Otherwise a capture and a refund could wait for each other for ever."""
    refund = given.one(kind="refund", order_id="a")
    given.one(kind="capture", order_id="a", due_at=clock.now + NEVER)

    assert {refund} == claimed(store)


@pytest.mark.parametrize("decided", sorted(FINAL))
def test_deciding_an_escalated_capture_lets_its_refund_go(store, given, decided):
    """Whatever the operator decided, the provider's answer to the refund will be right."""
    capture = given.now(State.ESCALATED, kind="capture", order_id="a")
    refund = given.one(kind="refund", order_id="a")
    assert set() == claimed(store)

    match decided:
        case State.CANCELLED:
            given.operated(capture, state.cancel(failures=1, problem=None), verb="cancel")
        case State.SUCCEEDED:
            given.operated(capture, state.resolve(failures=1, result={}, problem=None), verb="resolve")
        case State.REJECTED:
            given.operated(
                capture, state.start_over(given.row(capture).due_at, in_doubt=False, problem=None), verb="retry"
            )
            given.moved(given.claim(capture), state.reject(failures=0, problem=PROBLEM))

    assert {refund} == claimed(store)


def test_commands_that_wait_use_up_no_place(store, given):
    """A limit counts what can be claimed; held-back rows in front would otherwise starve the rest."""
    given.held(kind="capture", order_id="a")
    for _ in range(5):
        given.one(kind="refund", order_id="a")
    free = given.one()

    assert {free} == claimed(store, limit=1)
