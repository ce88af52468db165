from __future__ import annotations

from datetime import timedelta

import pytest

from worker.domain import state
from worker.domain.state import State
from worker.domain.ticket import SYSTEMIC, Reason, TicketState
from worker.ports import Escalation

OWN = sorted(set(Reason) - SYSTEMIC)
SOON = timedelta(seconds=60)


@pytest.fixture
def escalated(given):
    return lambda **fields: given.now(State.ESCALATED, **fields)


def tickets(store, **wanted):
    with store.begin() as transaction:
        return {each.id: each for each in transaction.tickets(limit=100, **wanted)}


def close(store, *command_ids):
    with store.begin() as transaction:
        transaction.close_links(command_ids)


def told(store, ticket_id):
    """Tell the desk what it does not know yet; return the commands it was told of."""
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=SOON, cases=50)
        if work is None:
            return []
        transaction.land_ticket(work, desk="log", external_ref="T-1", next_in=timedelta(0))

    return [each.id for each in work.commands]


def test_an_escalated_command_gets_a_ticket_that_is_not_told_yet(store, given, escalated, clock):
    """The ticket is stored with the decision; telling the desk may take long and may fail."""
    command_id = escalated()

    ticket_id = given.linked(command_id, Reason.LADDER_EXHAUSTED)

    ticket = tickets(store)[ticket_id]
    assert ("klarna-eu", Reason.LADDER_EXHAUSTED, TicketState.UNSENT, "log", None, clock.now, None, 1, None) == (
        *(ticket.account, ticket.reason, ticket.state, ticket.desk, ticket.external_ref),
        *(ticket.opened_at, ticket.closed_at, ticket.commands, ticket.problem),
    )
    assert [command_id] == told(store, ticket_id)


@pytest.mark.parametrize("reason", sorted(SYSTEMIC))
def test_commands_share_the_incident_of_their_account_and_reason(store, given, escalated, reason):
    """An outage must make a handful of tickets, not one for each order."""
    first, second = given.linked(escalated(), reason), given.linked(escalated(), reason)
    other_account = given.linked(escalated(account="klarna-na"), reason, account="klarna-na")

    assert first == second != other_account
    assert {first: 2, other_account: 1} == {key: each.commands for key, each in tickets(store).items()}


def test_reasons_do_not_share_an_incident(given, escalated):
    """Mending the credentials does not mend an outage."""
    assert len(SYSTEMIC) == len({given.linked(escalated(), reason) for reason in SYSTEMIC})


@pytest.mark.parametrize("reason", OWN)
def test_a_refused_command_has_a_ticket_of_its_own(given, escalated, reason):
    """What the provider refused is decided command by command."""
    assert given.linked(escalated(), reason) != given.linked(escalated(), reason)


@pytest.mark.parametrize("reason", sorted(Reason))
def test_linking_again_changes_nothing_but_tells_the_desk_again(store, given, escalated, reason):
    """A command that an operator retried and that failed again is news, but not a second ticket."""
    command_id = escalated()
    ticket_id = given.linked(command_id, reason)
    assert [command_id] == told(store, ticket_id)

    assert ticket_id == given.linked(command_id, reason)

    assert {ticket_id: 1} == {key: each.commands for key, each in tickets(store).items()}
    assert [command_id] == told(store, ticket_id)


@pytest.mark.parametrize("reason", sorted(Reason))
def test_a_closed_ticket_is_never_opened_again(store, given, escalated, reason):
    """At the desk it is done; whoever handled it would not look there a second time."""
    command_id = escalated()
    closed = given.linked(command_id, reason)
    close(store, command_id)

    opened = given.linked(command_id, reason)

    assert closed != opened
    assert {closed: TicketState.CLOSED, opened: TicketState.UNSENT} == {
        key: each.state for key, each in tickets(store).items()
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(Reason.LADDER_EXHAUSTED, Reason.KEY_WINDOW_CLOSED, id="incident to incident"),
        pytest.param(Reason.LADDER_EXHAUSTED, Reason.REFUSED, id="incident to own"),
        pytest.param(Reason.REFUSED_AFTER_DOUBT, Reason.LADDER_EXHAUSTED, id="own to incident"),
        pytest.param(Reason.REFUSED_AFTER_DOUBT, Reason.REFUSED, id="own to own"),
    ],
)
def test_a_command_whose_reason_changes_moves_to_another_ticket(store, given, clock, before, after):
    """Exactly one open ticket holds a command, and one that has become empty has nothing left to decide."""
    command_id = given.now(State.ESCALATED)
    left = given.linked(command_id, before)
    clock.advance(SOON)

    joined = given.linked(command_id, after)

    found = tickets(store, command_id=command_id)
    assert {left: (TicketState.CLOSED, clock.now), joined: (TicketState.UNSENT, None)} == {
        key: (each.state, each.closed_at) for key, each in found.items()
    }
    assert [command_id] == told(store, joined)


def test_a_command_may_come_back_to_an_incident_that_is_still_open(store, given, escalated):
    """A retry may fail for another reason, and the next one for the first again."""
    stays, moves = escalated(), escalated()
    incident = given.linked(stays, Reason.LADDER_EXHAUSTED)
    given.linked(moves, Reason.LADDER_EXHAUSTED)
    told(store, incident)
    given.linked(moves, Reason.REFUSED_AFTER_DOUBT)

    assert incident == given.linked(moves, Reason.LADDER_EXHAUSTED)

    assert [moves] == told(store, incident)
    assert {incident} == set(tickets(store, open_only=True))


def test_a_ticket_that_one_command_leaves_stays_open_for_the_others(store, given, escalated):
    """The incident is over when the last of its commands has been decided, not the first."""
    moved, stays = escalated(), escalated()
    incident = given.linked(moved, Reason.LADDER_EXHAUSTED)
    given.linked(stays, Reason.LADDER_EXHAUSTED)

    given.linked(moved, Reason.REFUSED)

    assert TicketState.UNSENT is tickets(store)[incident].state
    assert [stays] == told(store, incident)


def test_closing_the_last_link_closes_the_ticket(store, given, escalated, clock):
    """A ticket is closed when, and only when, every command in it has been decided."""
    one, other = escalated(), escalated()
    incident = given.linked(one, Reason.LADDER_EXHAUSTED)
    given.linked(other, Reason.LADDER_EXHAUSTED)

    close(store, one)
    still = tickets(store)[incident].state
    clock.advance(SOON)
    close(store, other)

    closed = tickets(store)[incident]
    assert (TicketState.UNSENT, TicketState.CLOSED, clock.now) == (still, closed.state, closed.closed_at)
    assert [] == told(store, incident)


def test_closing_many_links_at_once_closes_each_ticket_that_becomes_empty(store, given, escalated):
    """A micro-batch of late successes decides commands of several tickets."""
    ids = [escalated() for _ in range(4)]
    refused = given.linked(ids[0], Reason.REFUSED)
    incident = given.linked(ids[1], Reason.LADDER_EXHAUSTED)
    left_open = {given.linked(each, Reason.CREDENTIALS_REFUSED) for each in ids[2:]}

    close(store, *ids[:3])

    found = tickets(store, open_only=True)
    assert left_open == set(found)
    assert {TicketState.CLOSED} == {tickets(store)[each].state for each in (refused, incident)}


def test_closing_what_is_not_linked_does_nothing(store, given, escalated):
    """Most commands that succeed have never had a ticket."""
    other = given.linked(escalated(), Reason.REFUSED)

    close(store, given.one())
    close(store)

    assert TicketState.UNSENT is tickets(store)[other].state


def test_a_batch_is_linked_in_one_go(store, given, escalated):
    """An outage ends in a batch of escalations, of several accounts and reasons, each with its one ticket."""
    accounts = ("klarna-eu", "klarna-na")
    commands = [
        (escalated(account=account), account, reason) for account in accounts for reason in Reason for _ in range(2)
    ]

    with store.begin() as transaction:
        touched = transaction.link_tickets(
            [Escalation(command_id=each, account=account, reason=reason) for each, account, reason in commands],
            desk="log",
        )
        nothing = transaction.link_tickets([], desk="log")

    found = tickets(store)
    assert set(found) == set(touched)
    assert len(touched) == len(accounts) * (len(SYSTEMIC) + 2 * len(OWN))
    assert [] == nothing
    for each, account, reason in commands:
        (mine,) = tickets(store, command_id=each).values()
        assert (account, reason) == (mine.account, mine.reason)


def test_a_retry_keeps_its_ticket_until_it_is_decided(store, given, escalated, clock):
    """A retry is not a decision yet; the ticket closes when the command has succeeded."""
    command_id = escalated()
    ticket_id = given.linked(command_id, Reason.LADDER_EXHAUSTED)

    given.operated(command_id, state.start_over(clock.now, in_doubt=True, problem=None), verb="retry")

    assert TicketState.UNSENT is tickets(store)[ticket_id].state
