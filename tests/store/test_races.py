from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import chain

from sqlalchemy import func, select

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.state import State
from worker.domain.ticket import Reason
from worker.store.schema import command, ticket, ticket_command

HORIZON = timedelta(minutes=6)
LEASE = timedelta(seconds=90)
PUBLISHED_FOR = timedelta(seconds=10)
PROBLEM = Problem(code="no_answer")
PATIENCE_SECONDS = 20.0


def in_flight(database):
    """How many commands of each order are executing."""
    with database.begin() as connection:
        orders = connection.scalars(select(command.c.order_id).where(command.c.state == "executing"))
        return Counter(orders)


def take(store, limit=1_000):
    with store.begin() as transaction:
        due = transaction.take_due(limit=limit, window=5_000, horizon=HORIZON, published_for=PUBLISHED_FOR)
        return [each.id for each in due]


def test_two_claims_of_one_order_at_once_get_one_command(database, store, given, at_once):
    """Two workers read the same free order at the same instant, and both want to be the one."""
    rounds = 8
    for number in range(rounds):
        ids = [given.one(kind="add_order_shipping_info", order_id=f"o-{number}") for _ in range(4)]

        answers = at_once(4, lambda turn, ids=ids: store.claim([ids[turn]], limit=1, lease=LEASE))

        assert 1 == sum(map(len, answers))
    assert {f"o-{number}": 1 for number in range(rounds)} == in_flight(database)


def test_every_due_command_is_claimed_exactly_once(database, store, given, at_once):
    """A command that two workers hold is sent twice; one that none holds is late."""
    ids = given.pending(120)

    def work(_turn):
        taken = []
        while held := store.claim(None, limit=7, lease=LEASE):
            taken += [each.id for each in held]
        return taken

    answers = at_once(4, work)

    assert Counter(ids) == Counter(chain.from_iterable(answers))


def test_claims_of_many_orders_in_both_directions_never_fail(database, store, given, at_once):
    """Batches meet in any order; the one that lost an order must still get the rest of its commands."""
    for round_number in range(8):
        orders = [f"{round_number}-{number}" for number in range(12)]
        first = [given.new(kind="add_order_shipping_info", order_id=order) for order in orders]
        second = [given.new(kind="trigger_send_out", order_id=order) for order in reversed(orders)]
        given.store_all(first + second)
        batches = [[each.id for each in first], [each.id for each in second]]

        answers = at_once(2, lambda turn, batches=batches: store.claim(batches[turn], limit=12, lease=LEASE))

        assert [] == [each for each in answers if isinstance(each, Exception)]
        assert dict.fromkeys(orders, 1) == {
            order: count for order, count in in_flight(database).items() if order in orders
        }


def test_two_dispatchers_never_take_the_same_row(store, given, at_once):
    """Each message twice is a broker twice as full."""
    ids = given.pending(300)

    answers = at_once(4, lambda _turn: take(store, limit=40) + take(store, limit=40))

    assert [] == [each for each in answers if isinstance(each, Exception)]
    handed_out = Counter(chain.from_iterable(answers))
    assert {1} == set(handed_out.values())
    assert handed_out.keys() <= set(ids)


def test_eight_escalations_at_once_share_one_incident(database, store, given, at_once):
    """An outage hits eight workers in the same second."""
    ids = [each.id for each in given.sent_many(8)]

    answers = at_once(8, lambda turn: given.linked(ids[turn], Reason.LADDER_EXHAUSTED))

    assert 1 == len(set(answers))
    with database.begin() as connection:
        assert 1 == connection.scalar(select(func.count()).select_from(ticket))
        assert set(ids) == set(connection.scalars(select(ticket_command.c.command_id)))


def test_one_of_many_tells_a_ticket(store, given, at_once):
    """Its message was published by the worker and by sweep, and both copies arrived."""
    ticket_id = given.linked(given.now(State.ESCALATED), Reason.REFUSED)

    def tell(_turn):
        with store.begin() as transaction:
            return transaction.claim_ticket(ticket_id, lease=LEASE, cases=50)

    answers = at_once(4, tell)

    assert 1 == len([each for each in answers if each is not None])


def test_one_of_two_records_what_came_of_a_command(store, given, at_once, clock):
    """The worker comes back in the very moment in which sweep takes its command over."""
    held = given.sent()
    moves = (
        state.succeed(failures=0, result={}),
        state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM),
    )

    answers = at_once(2, lambda turn: given.moved(held, moves[turn]))

    assert [False, True] == sorted(answers)
    assert moves[answers.index(True)].to is given.row(held.id).state
