"""PostgreSQL lets two transactions run at once; here the second meets the first at the worst moment, every time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from worker.domain import state
from worker.domain.state import State
from worker.domain.ticket import Reason, TicketState
from worker.ports import Escalation, Filter
from worker.store.engine import SqlStore

HORIZON = timedelta(minutes=6)
LEASE = timedelta(seconds=90)
PUBLISHED_FOR = timedelta(seconds=10)
PATIENCE_SECONDS = 20.0

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def database(on_postgresql):
    return on_postgresql


@pytest.fixture
def waiting(database):
    """Run something in a thread and go on as soon as it waits for a lock; gives what it comes to in the end."""
    with ThreadPoolExecutor(max_workers=4) as pool:

        def start(call):
            future = pool.submit(call)
            gives_up = time.monotonic() + PATIENCE_SECONDS
            while not locked():
                assert not future.done(), f"it did not wait: {future.result()!r}"
                assert time.monotonic() < gives_up, "it neither waits nor ends"
                time.sleep(0.005)
            return future

        def locked():
            with database.connect() as connection:
                return connection.scalar(text(WAITING))

        yield start


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_a_claim_that_meets_an_order_being_claimed_waits_and_then_obeys(store, given, waiting, committed):
    """Both rows looked free to both; the index alone decides, and the loser looks again."""
    first, second = (given.one(kind="add_order_shipping_info", order_id="a") for _ in range(2))

    with store.begin() as transaction:
        transaction.claim([first], limit=1, lease=LEASE)
        answer = waiting(lambda: store.claim([second], limit=1, lease=LEASE))
        if not committed:
            transaction._connection.rollback()

    assert ([] if committed else [second]) == [each.id for each in answer.result()]
    assert (State.PENDING if committed else State.EXECUTING) is given.row(second).state


def test_a_claim_that_loses_one_order_keeps_the_others(store, given, waiting):
    """A batch must not be lost over one order."""
    first, second = (given.one(kind="add_order_shipping_info", order_id="a") for _ in range(2))
    others = given.pending(3)

    with store.begin() as transaction:
        transaction.claim([first], limit=1, lease=LEASE)
        answer = waiting(lambda: store.claim([second, *others], limit=4, lease=LEASE))

    assert set(others) == {each.id for each in answer.result()}


def test_two_claims_that_wait_for_each_other_both_come_through(database, store, given, clock, waiting):
    """PostgreSQL ends such an embrace by failing one of them; the failed one tries again."""
    names = ("a", "b")
    mine = [given.one(kind="add_order_shipping_info", order_id=name) for name in names]
    theirs = [given.one(kind="trigger_send_out", order_id=name) for name in names]

    with store.begin() as transaction:
        transaction.claim(mine[:1], limit=1, lease=LEASE)
        # Claims both orders in one statement; while it waits for the first, it may already hold the second.
        answer = waiting(lambda: store.claim(theirs, limit=2, lease=LEASE))
        later = transaction.claim(mine[1:], limit=1, lease=LEASE)

    assert [mine[1]] == [each.id for each in later]
    assert [] == answer.result()


def test_a_claim_does_not_wait_for_rows_that_others_look_at(store, given):
    """A slow neighbour must not idle a worker."""
    ids = given.pending(3)

    with store.begin() as transaction:
        transaction.lock_command(ids[0])
        held = store.claim(None, limit=3, lease=LEASE)

    assert set(ids[1:]) == {each.id for each in held}


def test_dispatch_does_not_wait_for_rows_that_others_hand_out(store, given):
    """Each worker carries a dispatcher; they share the work instead of queueing for it."""
    given.pending(4)
    bounds = {"window": 10, "horizon": HORIZON, "published_for": PUBLISHED_FOR}

    with store.begin() as one:
        first = {each.id for each in one.take_due(limit=2, **bounds)}
        with store.begin() as other:
            second = {each.id for each in other.take_due(limit=4, **bounds)}

    assert (2, 2, set()) == (len(first), len(second), first & second)


def test_sweep_does_not_wait_for_leases_that_others_take_over(store, given, clock):
    """Two sweeps that both took a lease over would record its attempt twice."""
    given.sent_many(3)
    clock.advance(LEASE * 2)

    with store.begin() as one:
        first = {each.id for each in one.take_expired(limit=2)}
        with store.begin() as other:
            second = {each.id for each in other.take_expired(limit=3)}

    assert (2, 1, set()) == (len(first), len(second), first & second)


def test_sweep_leaves_a_command_whose_answer_is_being_recorded(store, given, clock):
    """The answer came at the last moment; it is worth more than a doubt."""
    held = given.sent()
    clock.advance(LEASE * 2)

    with store.begin() as worker:
        worker.lock_command(held.id)
        with store.begin() as sweep:
            assert [] == list(sweep.take_expired(limit=10))


def test_tickets_are_handed_out_by_one_of_two_sweeps(store, given):
    """A ticket told twice at once could be opened twice."""
    ticket_id = given.linked(given.now(State.ESCALATED), Reason.REFUSED)

    with store.begin() as one, store.begin() as other:
        handed_out = [list(each.due_tickets(limit=10, published_for=PUBLISHED_FOR)) for each in (one, other)]

    assert [[(ticket_id, f"ticket {ticket_id} refused klarna-eu")], []] == handed_out


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_the_same_key_waits_for_the_one_that_came_first(store, given, waiting, committed):
    """Whether it is a repeat is known only when the first has committed."""
    first, again = given.new(idempotency_key="key"), given.new(idempotency_key="key")

    def store_again():
        with store.begin() as transaction:
            stored = transaction.insert_commands([again], published_for=PUBLISHED_FOR)
            return stored, {row.id for row in transaction.find_by_key([("klarna-eu", "key")]).values()}

    with store.begin() as transaction:
        transaction.insert_commands([first], published_for=PUBLISHED_FOR)
        answer = waiting(store_again)
        if not committed:
            transaction._connection.rollback()

    assert ((set(), {first.id}) if committed else ({again.id}, {again.id})) == answer.result()


def test_a_key_that_was_taken_back_is_free_for_the_one_that_waits(store, given, waiting):
    """A refused call leaves nothing behind, not even a reason to refuse others."""
    first, again = given.new(idempotency_key="key"), given.new(idempotency_key="key")

    with store.begin() as transaction:
        transaction.insert_commands([first], published_for=PUBLISHED_FOR)
        answer = waiting(lambda: given.store_all([again]))
        transaction.delete_commands([first.id])

    assert [again.id] == answer.result()
    with store.begin() as transaction:
        assert [again.id] == [row.id for row in transaction.listed(Filter(), limit=10)]


def test_an_escalation_that_meets_an_incident_being_closed_opens_the_next_one(store, given, waiting):
    """Linked to the closed one, it would wait for a person who has already gone home."""
    decided, further = given.now(State.ESCALATED), given.now(State.ESCALATED)
    closing = given.linked(decided, Reason.LADDER_EXHAUSTED)

    with store.begin() as transaction:
        transaction.close_links([decided])
        answer = waiting(lambda: given.linked(further, Reason.LADDER_EXHAUSTED))

    opened = answer.result()
    with store.begin() as transaction:
        states = {each.id: each.state for each in transaction.tickets(limit=10)}
    assert {closing: TicketState.CLOSED, opened: TicketState.UNSENT} == states


def test_a_decision_that_meets_an_incident_being_joined_leaves_it_open(store, given, waiting):
    """The ticket is empty for the one who closes the last link, and not for the one who has just joined it."""
    decided, further = given.now(State.ESCALATED), given.now(State.ESCALATED)
    incident = given.linked(decided, Reason.LADDER_EXHAUSTED)

    def decide():
        with store.begin() as transaction:
            transaction.close_links([decided])

    with store.begin() as transaction:
        joining = Escalation(command_id=further, account="klarna-eu", reason=Reason.LADDER_EXHAUSTED)
        transaction.link_tickets([joining], desk="log")
        answer = waiting(decide)

    assert answer.result() is None
    with store.begin() as transaction:
        assert {incident: TicketState.UNSENT} == {each.id: each.state for each in transaction.tickets(limit=10)}


def test_an_incident_that_was_found_open_is_not_closed_before_it_is_joined(store, given, waiting):
    """Between the look and the link lies a moment in which the last of its commands may be decided."""
    decided, further = given.now(State.ESCALATED), given.now(State.ESCALATED)
    incident = given.linked(decided, Reason.LADDER_EXHAUSTED)
    deciding = []

    def decide():
        with store.begin() as transaction:
            transaction.close_links([decided])

    def meanwhile(_connection, _cursor, statement, _parameters, _context, _many):
        if statement.startswith("SELECT post_purchase_ticket.id") and not deciding:
            deciding.append(waiting(decide))

    with store.begin() as transaction:
        event.listen(transaction._connection, "after_cursor_execute", meanwhile)
        joining = Escalation(command_id=further, account="klarna-eu", reason=Reason.LADDER_EXHAUSTED)
        transaction.link_tickets([joining], desk="log")

    assert [None] == [each.result() for each in deciding]
    with store.begin() as transaction:
        assert {incident: TicketState.UNSENT} == {each.id: each.state for each in transaction.tickets(limit=10)}


def test_a_command_that_joins_while_a_ticket_comes_to_rest_wakes_it(store, given, clock, waiting):
    """Otherwise its desk would never hear of it."""
    incident = given.linked(given.now(State.ESCALATED), Reason.LADDER_EXHAUSTED)
    with store.begin() as transaction:
        work = transaction.claim_ticket(incident, lease=LEASE, cases=50)
        transaction.land_ticket(work, desk="log", external_ref="T-1", next_in=timedelta(0))
    further = given.now(State.ESCALATED)

    with store.begin() as transaction:
        assert transaction.claim_ticket(incident, lease=LEASE, cases=50) is None
        answer = waiting(lambda: given.linked(further, Reason.LADDER_EXHAUSTED))

    assert incident == answer.result()
    with store.begin() as transaction:
        assert [further] == [each.id for each in transaction.claim_ticket(incident, lease=LEASE, cases=50).commands]


def test_two_operators_decide_one_after_the_other(store, given, waiting):
    """The second must see what the first has decided, not what both had seen before."""
    command_id = given.now(State.ESCALATED)

    def look():
        with store.begin() as transaction:
            return transaction.lock_command(command_id).state

    with store.begin() as transaction:
        row = transaction.lock_command(command_id)
        answer = waiting(look)
        transaction.operate(row, state.cancel(failures=1, problem=None), given.action(row, verb="cancel"))

    assert State.CANCELLED is answer.result()


def test_a_claim_leaves_a_command_that_an_operator_is_deciding(store, given):
    """Cancelled and sent at once is what nobody could explain to a customer."""
    command_id = given.one()

    with store.begin() as transaction:
        row = transaction.lock_command(command_id)
        held = store.claim([command_id], limit=1, lease=LEASE)
        transaction.operate(row, state.cancel(failures=0, problem=None), given.action(row, verb="cancel"))

    assert [] == held
    assert State.CANCELLED is given.row(command_id).state


def test_a_second_store_sees_what_was_committed(database, given, clock):
    """Each process has a store of its own; they share nothing but the database."""
    command_id = given.one()

    (held,) = SqlStore(database, clock=clock).claim(None, limit=10, lease=LEASE)

    assert command_id == held.id
