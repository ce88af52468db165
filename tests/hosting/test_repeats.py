from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from worker import (
    Address,
    Cancel,
    CommandClosed,
    IdempotencyConflict,
    InvalidCommand,
    ReadOrder,
    Refund,
    UnknownAccount,
    UpdateCustomerDetails,
)
from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.state import State
from worker.ports import Action, Move

LEASE = timedelta(seconds=90)
REFUSED = Problem(code="CAPTURE_NOT_ALLOWED")


def enqueue(host, *commands):
    with host.engine.begin() as connection:
        return host.enqueue(connection, *commands)


@pytest.fixture
def end(host):
    """Bring a stored command to an end."""

    def bring(command_id, wanted):
        store = host.services.store
        if wanted is State.CANCELLED:
            with store.begin() as transaction:
                row = transaction.lock_command(command_id)
                seen = {"state_before": row.state, "in_doubt_before": False}
                done = Action(command_id=command_id, verb="cancel", by="operator", why="not wanted", **seen)
                transaction.operate(row, state.cancel(failures=0, problem=None), done)
            return
        (held,) = store.claim([command_id], limit=1, lease=LEASE)
        transitions = {
            State.SUCCEEDED: state.succeed(failures=0, result={"capture_id": "c-1"}),
            State.REJECTED: state.reject(failures=0, problem=REFUSED),
            State.ESCALATED: state.escalate(failures=4, in_doubt=True, problem=REFUSED),
        }
        with store.begin() as transaction:
            if wanted in transitions:
                transaction.apply([Move(held=held, transition=transitions[wanted])])

    return bring


@pytest.mark.parametrize("now", [State.PENDING, State.EXECUTING, State.ESCALATED, State.SUCCEEDED])
def test_a_repeat_gives_the_command_that_is_stored(host, end, now):
    """The shop's own retry, a doubled webhook, a button pressed twice: one payment, and everybody learns its id."""
    (first,) = enqueue(host, host.capture(reference="parcel-1"))
    if now is not State.PENDING:
        end(first.id, now)

    (again,) = enqueue(host, host.capture(reference="parcel-1"))

    assert (True, True, State.PENDING) == (first.was_stored, first.published, first.state)
    assert replace(first, was_stored=False, published=False, state=now) == again
    assert [first.id] == [row.id for row in host.commands()]


def test_a_repeat_in_the_transaction_of_the_first_is_recognised_too(host):
    """Two parts of the host handle the same parcel within one request."""
    with host.engine.begin() as connection:
        (first,) = host.enqueue(connection, host.capture(reference="parcel-1"))
        (again,) = host.enqueue(connection, host.capture(reference="parcel-1"))

    assert (first.id, False) == (again.id, again.was_stored)
    assert [first.id] == host.publisher.published


def test_a_repeat_within_one_call_is_stored_once(host):
    """A file that holds a line twice."""
    commands = [host.capture(reference=name) for name in ("parcel-1", "parcel-2", "parcel-1")]

    first, other, again = enqueue(host, *commands)

    assert (first.id, True, False) == (again.id, first.was_stored, again.was_stored)
    assert [first.id, other.id] == [row.id for row in host.commands()]
    assert [first.id, other.id] == host.publisher.published


def test_without_a_reference_every_enqueue_is_a_new_intention(host):
    """Two parcels of one order may well cost the same."""
    first, second = enqueue(host, host.capture(), host.capture())

    assert first.id != second.id
    assert first.idempotency_key != second.idempotency_key
    assert 2 == len(host.commands())


def test_what_the_key_is_made_of_tells_commands_apart(host):
    """The same parcel number may be captured and refunded, in two orders."""
    enqueued = enqueue(
        host,
        host.capture(reference="7"),
        Refund(account="klarna-eu", order_id="order-1", amount=1000, reference="7"),
        host.capture(reference="7", order_id="order-2"),
    )

    assert [True] * 3 == [each.was_stored for each in enqueued]


def test_a_moment_is_not_part_of_what_is_repeated(host):
    """A repeat an hour later names another moment, and still means the same payment."""
    (first,) = enqueue(host, host.capture(reference="parcel-1", due_at="2040-01-01T00:00:00Z"))

    (again,) = enqueue(host, host.capture(reference="parcel-1"))

    assert (first.id, False) == (again.id, again.was_stored)


# --- conflicts ---------------------------------------------------------------------------------------------


def test_another_payload_under_the_same_key_is_refused_with_the_fields_that_differ(host):
    """Whether 10 or 12 euros are meant is for the shop to say; guessing pays wrongly."""
    (first,) = enqueue(host, host.capture(reference="parcel-1", amount=1000, description="Shoes"))

    with pytest.raises(IdempotencyConflict, match="captured_amount, description") as raised:
        enqueue(host, host.capture(reference="parcel-1", amount=1200, description="Boots"))

    assert (first.id, first.idempotency_key) == (raised.value.command_id, raised.value.idempotency_key)
    assert ("captured_amount", "description") == raised.value.fields
    assert [1000] == [row.amount for row in host.commands()]


def test_a_conflict_names_fields_and_no_values(host):
    """The error goes to a log, and the values are somebody's address."""
    details = [
        UpdateCustomerDetails(
            account="klarna-eu",
            order_id="order-1",
            reference="change-1",
            shipping_address=Address(city=city, email=f"{city}@example.com"),
        )
        for city in ("Uppsala", "Malmo")
    ]
    enqueue(host, details[0])

    with pytest.raises(IdempotencyConflict) as raised:
        enqueue(host, details[1])

    assert ("shipping_address.city", "shipping_address.email") == raised.value.fields
    assert "Malmo" not in str(raised.value)
    assert "Uppsala" not in str(raised.value)


def test_sending_without_the_key_is_another_command(host):
    """A keyed command may be repeated and an unkeyed one may not: the caller must say which it is."""
    enqueue(host, host.capture(reference="parcel-1"))

    with pytest.raises(IdempotencyConflict) as raised:
        enqueue(host, host.capture(reference="parcel-1", keyed=False))

    assert ("keyed",) == raised.value.fields


def test_a_conflict_within_one_call_stores_nothing(host):
    """A file that holds two meanings of one parcel; neither may win by standing first."""
    commands = [host.capture(reference="parcel-0"), *(host.capture(reference="7", amount=each) for each in (1, 2))]

    with pytest.raises(IdempotencyConflict, match="captured_amount"):
        enqueue(host, *commands)

    assert [] == host.commands()


def test_a_transaction_goes_on_after_a_conflict(host, transaction):
    """The host catches the error, ships the parcel and goes on; PostgreSQL must not have given its transaction up."""
    enqueue(host, host.capture(reference="parcel-1"))
    host.publisher.published.clear()
    host.ship(transaction, 1)
    (mine,) = host.enqueue(transaction, host.capture(order_id="order-2", reference="mine"))
    calls = [host.capture(order_id=f"o-{number}", reference=str(number)) for number in range(20)]
    calls.insert(10, host.capture(reference="parcel-1", amount=7))

    with pytest.raises(IdempotencyConflict):
        host.enqueue(transaction, *calls)

    host.ship(transaction, 2)
    (after,) = host.enqueue(transaction, host.capture(order_id="order-3"))
    transaction.commit()
    transaction.close()
    assert [1, 2] == host.parcels()
    assert [mine.id, after.id] == [row.id for row in host.commands()][1:]
    assert [mine.id, after.id] == host.publisher.published


def test_what_a_refused_call_took_back_can_be_enqueued_again(host):
    """The host leaves the conflicting one out and tries once more, in the same transaction."""
    enqueue(host, host.capture(reference="parcel-1"))
    good = [host.capture(reference=f"good-{number}") for number in range(3)]
    with host.engine.begin() as connection:
        with pytest.raises(IdempotencyConflict):
            host.enqueue(connection, *good, host.capture(reference="parcel-1", amount=7))

        enqueued = host.enqueue(connection, *good)

    assert [True] * 3 == [each.was_stored for each in enqueued]
    assert [each.id for each in enqueued] == [row.id for row in host.commands()][1:]


# --- commands that have ended ------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [State.REJECTED, State.CANCELLED])
@pytest.mark.parametrize("amount", [1000, 1200])
def test_the_key_of_a_command_that_ended_without_effect_is_closed(host, end, ended, amount):
    """Answering with its id would look like a payment on its way; sending it again is what somebody decided against."""
    (first,) = enqueue(host, host.capture(reference="parcel-1"))
    end(first.id, ended)

    with pytest.raises(CommandClosed, match=f"is {ended}. Enqueue what should happen now under a new ref") as raised:
        enqueue(host, host.capture(reference="parcel-1", amount=amount))

    assert (first.id, ended, first.idempotency_key) == (
        *(raised.value.command_id, raised.value.state, raised.value.idempotency_key),
    )
    assert [ended] == [row.state for row in host.commands()]


def test_a_transaction_goes_on_after_a_closed_command(host, end):
    """The rest of the call is taken back, the host's own change stays."""
    (first,) = enqueue(host, host.capture(reference="parcel-1"))
    end(first.id, State.REJECTED)

    with host.engine.begin() as connection:
        host.ship(connection)
        with pytest.raises(CommandClosed):
            host.enqueue(connection, host.capture(order_id="order-2"), host.capture(reference="parcel-1"))

    assert [1] == host.parcels()
    assert [first.id] == [row.id for row in host.commands()]


# --- accounts ----------------------------------------------------------------------------------------------


def test_an_account_that_is_not_configured_is_refused_with_those_that_are(host):
    """A slip of the pen must not wait in a table for a worker that will never know the account."""
    with host.engine.begin() as connection:
        host.ship(connection)
        with pytest.raises(UnknownAccount, match="'klarna-us'; configured are: bluesnap-us, klarna-eu") as raised:
            host.enqueue(connection, host.capture(), host.capture(account="klarna-us"))

    assert "klarna-us" == raised.value.account
    assert ([1], []) == (host.parcels(), host.commands())


def test_a_command_that_the_accounts_provider_does_not_know_is_refused(host):
    """Each provider has its own operations; the worker would find out when it is too late to ask the caller."""

    class Foreign(Cancel):
        pass

    with pytest.raises(InvalidCommand, match="kind: the provider of account 'klarna-eu' has no such command"):
        enqueue(host, Foreign(account="klarna-eu", order_id="order-1"))


def test_a_read_is_enqueued_like_any_other_command(host):
    """A look at the order waits for the changes before it, and is kept with them."""
    (enqueued,) = enqueue(host, ReadOrder(account="klarna-eu", order_id="order-1", reference="after the capture"))

    (row,) = host.commands()
    assert (enqueued.id, "read_order", b"", False) == (row.id, row.kind, row.payload, row.keyed)


def test_enqueuing_nothing_stores_nothing(host):
    """A night without parcels."""
    assert [] == enqueue(host)


def test_a_thousand_commands_are_stored_in_their_order(host):
    """An import of one night comes in one call."""
    host.publisher.grants = False
    asked = [host.capture(order_id=f"o-{number}") for number in range(1_000)]

    enqueued = enqueue(host, *asked)

    assert [each.id for each in enqueued] == [row.id for row in host.commands()]
    assert [f"o-{number}" for number in range(1_000)] == [row.order_id for row in host.commands()]
