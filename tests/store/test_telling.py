from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select

from worker.domain import state
from worker.domain.outcome import InDoubt, Problem
from worker.domain.state import State
from worker.domain.ticket import Reason, TicketState
from worker.store.schema import ticket

LEASE = timedelta(seconds=60)
NEXT_IN = timedelta(seconds=90)
PUBLISHED_FOR = timedelta(seconds=10)


@pytest.fixture
def incident(given):
    """A ticket of three commands, oldest first."""
    commands = [given.now(State.ESCALATED) for _ in range(3)]

    return {given.linked(each, Reason.LADDER_EXHAUSTED) for each in commands}.pop(), commands


def due(store, limit=10):
    with store.begin() as transaction:
        return [ticket_id for ticket_id, _label in transaction.due_tickets(limit=limit, published_for=PUBLISHED_FOR)]


def claim(store, ticket_id, cases=50):
    with store.begin() as transaction:
        return transaction.claim_ticket(ticket_id, lease=LEASE, cases=cases)


def land(store, work, external_ref="T-1"):
    with store.begin() as transaction:
        transaction.land_ticket(work, desk="email", external_ref=external_ref, next_in=NEXT_IN)


def line(store, ticket_id):
    with store.begin() as transaction:
        return next(each for each in transaction.tickets(limit=100) if each.id == ticket_id)


def test_a_new_ticket_is_handed_out_with_a_readable_label(store, incident):
    """Its message may have been lost with the process that opened it."""
    ticket_id, _commands = incident

    with store.begin() as transaction:
        found = transaction.due_tickets(limit=10, published_for=PUBLISHED_FOR)

    assert [(ticket_id, f"ticket {ticket_id} ladder_exhausted klarna-eu")] == list(found)


def test_a_ticket_that_was_handed_out_is_left_alone_for_a_while(store, incident, clock):
    """Every sweep would otherwise publish it again."""
    ticket_id, _commands = incident

    assert [ticket_id] == due(store)
    clock.advance(PUBLISHED_FOR - timedelta(microseconds=1))
    assert [] == due(store)
    clock.advance(timedelta(microseconds=1))
    assert [ticket_id] == due(store)


def test_tickets_are_handed_out_longest_waiting_first_and_no_more_than_asked(store, given, clock):
    """A bounded sweep must not starve the oldest."""
    opened = []
    for _ in range(3):
        opened.append(given.linked(given.now(State.ESCALATED), Reason.REFUSED))
        clock.advance(timedelta(seconds=1))

    assert set(opened[:2]) == set(due(store, limit=2))
    assert opened[2:] == due(store, limit=2)


def test_a_ticket_that_is_being_told_is_not_handed_out(store, incident, clock):
    """Two tellings of one ticket at once could open it twice at the desk."""
    ticket_id, _commands = incident
    claim(store, ticket_id)

    assert [] == due(store)
    clock.advance(LEASE)
    assert [ticket_id] == due(store)


def test_the_work_on_a_ticket_holds_what_the_desk_must_be_told(store, given, incident, clock):
    """The case file is made of this and of nothing else; no second look, no payload beyond the commands' own."""
    ticket_id, commands = incident
    opened_at = clock.now
    held = given.sent()
    given.ended(held, InDoubt(problem=Problem(code="no_answer")))
    given.moved(held, state.escalate(failures=4, in_doubt=True, problem=Problem(code="no_answer", message="m")))
    given.linked(held.id, Reason.LADDER_EXHAUSTED)
    clock.advance(timedelta(seconds=1))

    work = claim(store, ticket_id)

    assert (ticket_id, "klarna-eu", Reason.LADDER_EXHAUSTED, opened_at, "log", None, 0, 4, False) == (
        *(work.ticket_id, work.account, work.reason, work.opened_at, work.desk, work.external_ref, work.tries),
        *(work.total, work.more),
    )
    assert [*commands, held.id] == [each.id for each in work.commands]
    assert given.row(held.id) == work.commands[-1]
    assert ["in_doubt"] == [each.outcome for each in work.attempts[held.id]]
    assert {*commands, held.id} == set(work.attempts)


def test_a_large_ticket_is_told_in_parts(store, incident):
    """A mail with five thousand cases reaches nobody."""
    ticket_id, commands = incident

    first = claim(store, ticket_id, cases=2)
    land(store, first)

    assert (commands[:2], 3, True) == ([each.id for each in first.commands], first.total, first.more)


def test_the_rest_of_a_large_ticket_follows(store, incident, clock):
    """Every command of an incident is announced in the end, at a bearable pace."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id, cases=2))

    assert claim(store, ticket_id) is None
    clock.advance(NEXT_IN)
    rest = claim(store, ticket_id, cases=2)

    assert (commands[2:], 3, False, "T-1") == (
        *([each.id for each in rest.commands], rest.total, rest.more, rest.external_ref),
    )


def test_one_process_tells_a_ticket_at_a_time(store, incident, clock):
    """The message may arrive twice, and both copies at the same instant."""
    ticket_id, _commands = incident

    assert claim(store, ticket_id) is not None
    assert claim(store, ticket_id) is None
    clock.advance(LEASE)
    assert claim(store, ticket_id) is not None


def test_there_is_nothing_to_do_for_an_unknown_ticket(store):
    """Messages outlive databases that were restored."""
    assert claim(store, uuid4()) is None


def test_a_ticket_that_was_told_is_open_at_its_desk(store, incident):
    """From here on a person has it, under the desk's own name for it."""
    ticket_id, _commands = incident
    land(store, claim(store, ticket_id))

    found = line(store, ticket_id)

    assert (TicketState.OPEN, "email", "T-1", None) == (found.state, found.desk, found.external_ref, found.problem)


def test_a_ticket_with_nothing_new_comes_to_rest(database, store, incident, clock):
    """It must not be looked at every minute for as long as it is open."""
    ticket_id, _commands = incident
    land(store, claim(store, ticket_id))
    clock.advance(NEXT_IN)

    assert claim(store, ticket_id) is None

    with database.begin() as connection:
        assert (None, None) == connection.execute(select(ticket.c.due_at, ticket.c.lease_until)).one()
    clock.advance(timedelta(days=1))
    assert [] == due(store)


def test_a_further_command_wakes_a_ticket_that_has_come_to_rest(store, given, incident, clock):
    """The desk must learn of every command, also days into an outage."""
    ticket_id, _commands = incident
    land(store, claim(store, ticket_id))
    clock.advance(NEXT_IN)
    claim(store, ticket_id)

    further = given.now(State.ESCALATED)
    given.linked(further, Reason.LADDER_EXHAUSTED)

    assert [ticket_id] == due(store)
    assert [further] == [each.id for each in claim(store, ticket_id).commands]


def test_further_commands_wait_for_the_next_announcement(store, given, incident, clock):
    """An outage escalates commands by the second; the desk is told by the minute."""
    ticket_id, _commands = incident
    land(store, claim(store, ticket_id))

    given.linked(given.now(State.ESCALATED), Reason.LADDER_EXHAUSTED)

    assert [] == due(store)
    clock.advance(NEXT_IN)
    assert [ticket_id] == due(store)


def test_commands_that_were_decided_meanwhile_are_not_told(store, incident):
    """A person should not look up what is settled."""
    ticket_id, commands = incident
    with store.begin() as transaction:
        transaction.close_links(commands[:2])

    work = claim(store, ticket_id)

    assert (commands[2:], 1) == ([each.id for each in work.commands], work.total)


def test_a_desk_that_did_not_take_it_is_asked_again_later(store, incident, clock):
    """A ticket that could not be opened is itself durable work."""
    ticket_id, commands = incident
    claim(store, ticket_id)

    for tries in (1, 2):
        with store.begin() as transaction:
            transaction.postpone_ticket(ticket_id, retry_in=NEXT_IN, problem="desk away " + "…" * 5_000)
        assert line(store, ticket_id).problem.startswith("desk away")
        assert claim(store, ticket_id) is None
        clock.advance(NEXT_IN)
        assert [ticket_id] == due(store)
        work = claim(store, ticket_id)
        assert (tries, commands) == (work.tries, [each.id for each in work.commands])

    land(store, work)
    assert (TicketState.OPEN, None) == (line(store, ticket_id).state, line(store, ticket_id).problem)


def test_telling_a_ticket_that_was_closed_meanwhile_does_not_open_it(store, incident, clock):
    """Everything in it was decided while the desk was being told; nobody would close it again."""
    ticket_id, commands = incident
    work = claim(store, ticket_id)
    with store.begin() as transaction:
        transaction.close_links(commands)

    land(store, work)
    with store.begin() as transaction:
        transaction.postpone_ticket(ticket_id, retry_in=timedelta(0), problem="desk away")

    assert TicketState.CLOSED is line(store, ticket_id).state
    clock.advance(timedelta(days=1))
    assert [] == due(store)
