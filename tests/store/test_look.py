from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from worker.domain.state import State
from worker.domain.ticket import Reason
from worker.ports import Filter


@pytest.fixture
def look(store):
    """Ask the store one question in a transaction of its own."""

    def ask(question, *args, **bounds):
        with store.read() as transaction:
            return getattr(transaction, question)(*args, **bounds)

    return ask


def test_a_command_is_found_by_its_id(look, given):
    """The id is all that a message, a ticket and a log line carry."""
    command_id = given.one()

    assert command_id == look("find", command_id).id
    assert look("find", uuid4()) is None


def test_commands_are_listed_newest_first_and_no_more_than_asked(look, given):
    """An operator looks for what has just happened."""
    ids = given.pending(4)

    assert ids[:0:-1] == [each.id for each in look("listed", Filter(), limit=3)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(Filter(), "abcd", id="all"),
        pytest.param(Filter(state=State.ESCALATED), "b", id="state"),
        pytest.param(Filter(account="klarna-na"), "c", id="account"),
        pytest.param(Filter(order_id="o-1"), "ad", id="order"),
        pytest.param(Filter(kind="refund"), "d", id="kind"),
        pytest.param(Filter(in_doubt=True), "b", id="in doubt"),
        pytest.param(Filter(in_doubt=False), "acd", id="not in doubt"),
        pytest.param(Filter(order_id="o-1", kind="capture"), "a", id="two at once"),
        pytest.param(Filter(order_id="o-1", account="klarna-na"), "", id="none"),
    ],
)
def test_a_list_is_narrowed_by_what_was_asked(look, given, wanted, expected):
    """A list of everything helps nobody in an outage."""
    names = {
        given.now(State.SUCCEEDED, order_id="o-1"): "a",
        given.now(State.ESCALATED, order_id="o-2"): "b",
        given.one(order_id="o-3", account="klarna-na"): "c",
        given.one(order_id="o-1", kind="refund"): "d",
    }

    found = look("listed", wanted, limit=10)

    assert [*expected[::-1]] == [names[each.id] for each in found]


def test_tickets_are_listed_newest_first(look, given, clock):
    """The newest trouble is the one that is looked for."""
    commands = [given.now(State.ESCALATED) for _ in range(3)]
    opened = []
    for each in commands:
        opened.append(given.linked(each, Reason.REFUSED))
        clock.advance(timedelta(seconds=1))

    assert opened[:0:-1] == [each.id for each in look("tickets", limit=2)]
    assert opened[:1] == [each.id for each in look("tickets", command_id=commands[0], limit=2)]
    assert [] == look("tickets", command_id=uuid4(), limit=2)


def test_closed_tickets_are_left_out_when_open_ones_are_asked_for(look, store, given):
    """What is to be decided must not drown in what was."""
    decided, waiting = given.now(State.ESCALATED), given.now(State.ESCALATED)
    given.linked(decided, Reason.REFUSED)
    open_ticket = given.linked(waiting, Reason.REFUSED)
    with store.begin() as transaction:
        transaction.close_links([decided])

    assert [open_ticket] == [each.id for each in look("tickets", open_only=True, limit=10)]
    assert 2 == len(look("tickets", limit=10))


def test_commands_are_counted_by_account_state_and_doubt_with_their_money(look, given):
    """How much money is in doubt is the one figure that wakes somebody."""
    given.pending(2, amount=1000)
    given.one(amount=None)
    given.now(State.ESCALATED, amount=2**53)
    given.now(State.ESCALATED, amount=1)
    given.one(account="klarna-na", amount=None)

    assert [
        ("klarna-eu", State.ESCALATED, True, 2, 2**53 + 1),
        ("klarna-eu", State.PENDING, False, 3, 2000),
        ("klarna-na", State.PENDING, False, 1, 0),
    ] == list(look("counts"))


def test_an_empty_database_has_nothing_to_tell(look):
    """The first look at a new installation must not be an error."""
    assert [] == list(look("counts")) == look("listed", Filter(), limit=10) == look("tickets", limit=10)
    assert look("oldest_due_at") is None


def test_the_oldest_due_command_tells_whether_anybody_works(look, given, clock):
    """Its age is the alarm: commands due for minutes mean that no worker runs."""
    given.one(due_at=clock.now + timedelta(seconds=1))
    given.now(State.ESCALATED, order_id="a")
    given.one(kind="refund", order_id="a", due_at=clock.now - timedelta(hours=9))
    given.held(due_at=clock.now - timedelta(hours=8))
    assert look("oldest_due_at") is None

    given.one(due_at=clock.now - timedelta(seconds=7))
    given.one(due_at=clock.now - timedelta(seconds=5))

    assert clock.now - timedelta(seconds=7) == look("oldest_due_at")


def test_the_next_moment_is_that_of_what_becomes_due_by_itself(look, given, clock):
    """Who moves a clock by hand moves it there; any later, and a retry would be late without a reason."""
    given.now(State.SUCCEEDED)
    given.one()
    given.one(order_id="a", kind="update_authorization")
    given.one(order_id="a", due_at=clock.now + timedelta(seconds=1))
    assert look("next_moment") is None

    given.held()
    given.one(due_at=clock.now + timedelta(hours=5))
    assert clock.now + timedelta(seconds=90) == look("next_moment")

    given.one(due_at=clock.now + timedelta(seconds=7))
    assert clock.now + timedelta(seconds=7) == look("next_moment")


def test_what_was_handed_out_and_lost_is_due_again_at_a_moment(look, store, given, clock):
    """A message that never arrives is made good by dispatch, and that takes its time."""
    given.one()
    with store.begin() as transaction:
        transaction.take_due(limit=1, window=1, horizon=timedelta(0), published_for=timedelta(seconds=10))

    assert clock.now + timedelta(seconds=10) == look("next_moment")


def test_a_closing_has_a_moment_until_it_is_told(look, store, given, clock):
    """Who waits until nothing more will happen must wait for it too."""
    command_id = given.now(State.ESCALATED)
    ticket_id = given.linked(command_id, Reason.REFUSED)
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=10)
        transaction.land_ticket(work, desk="log", external_ref="1", next_in=timedelta(seconds=60))
        transaction.close_links([command_id])
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=10)
        transaction.postpone_ticket(work, retry_in=timedelta(seconds=5), problem="away")
    untold = look("next_moment")
    clock.advance(timedelta(seconds=5))
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=10)
        transaction.land_ticket(work, desk="log", external_ref="1", next_in=timedelta(seconds=60))

    assert (clock.now, None) == (untold, look("next_moment"))


def test_a_ticket_has_a_moment_only_while_there_is_something_to_tell(look, store, given, clock):
    """A desk that knows everything is asked once more a minute later, and nobody need wait for that."""
    ticket_id = given.linked(given.now(State.ESCALATED), Reason.REFUSED)
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=10)
        transaction.postpone_ticket(work, retry_in=timedelta(seconds=5), problem="away")
    untold = look("next_moment")
    clock.advance(timedelta(seconds=5))
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=10)
        transaction.land_ticket(work, desk="log", external_ref="1", next_in=timedelta(seconds=60))

    assert (clock.now, None) == (untold, look("next_moment"))
