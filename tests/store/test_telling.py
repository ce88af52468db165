from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select

from worker.domain import state
from worker.domain.outcome import InDoubt, Problem
from worker.domain.state import State
from worker.domain.ticket import Reason, TicketState
from worker.ports import Move
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


def postpone(store, work):
    with store.begin() as transaction:
        transaction.postpone_ticket(work, retry_in=NEXT_IN, problem="desk away")


def close(store, commands):
    with store.begin() as transaction:
        transaction.close_links(commands)


def decided(store, given, command_id, transition, *, verb):
    """Decide by hand, as the operator's verbs do: state, action and ticket in one transaction."""
    with store.begin() as transaction:
        stored = transaction.lock_command(command_id)
        assert transaction.operate(stored, transition, given.action(stored, verb=verb))
        transaction.close_links([command_id])


def carried_out(store, given, command_id):
    """Carry a pending command out, as a worker does."""
    held = given.claim(command_id)
    with store.begin() as transaction:
        transaction.apply([Move(held=held, transition=state.succeed(failures=0, result={}))])
        transaction.close_links([command_id])


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
    work = claim(store, ticket_id)

    for tries in (1, 2):
        with store.begin() as transaction:
            transaction.postpone_ticket(work, retry_in=NEXT_IN, problem="desk away " + "…" * 5_000)
        assert line(store, ticket_id).problem.startswith("desk away")
        assert claim(store, ticket_id) is None
        clock.advance(NEXT_IN)
        assert [ticket_id] == due(store)
        work = claim(store, ticket_id)
        assert (tries, commands) == (work.tries, [each.id for each in work.commands])

    land(store, work)
    assert (TicketState.OPEN, None) == (line(store, ticket_id).state, line(store, ticket_id).problem)


# --- closings ----------------------------------------------------------------------------------------------


def test_a_ticket_that_was_told_is_due_as_soon_as_it_closes(store, incident):
    """A person looks at it, and nothing else will ever tell them that it is over."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))

    close(store, commands)

    assert [ticket_id] == due(store)
    work = claim(store, ticket_id)
    assert ((), "T-1", 3, False) == (work.commands, work.external_ref, work.total, work.more)
    assert work.closing is not None


def test_a_ticket_that_nobody_heard_of_closes_in_silence(store, incident, clock):
    """An outage that ended before anybody was told needs no mail to say so."""
    ticket_id, commands = incident
    postpone(store, claim(store, ticket_id))

    close(store, commands)

    clock.advance(timedelta(days=1))
    assert ([], None) == (due(store), claim(store, ticket_id))


def test_with_its_closing_a_ticket_is_done_with(database, store, incident, clock):
    """It must not be looked at for ever, nor told twice."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))
    close(store, commands)

    land(store, claim(store, ticket_id))

    assert TicketState.CLOSED is line(store, ticket_id).state
    clock.advance(timedelta(days=1))
    assert ([], None) == (due(store), claim(store, ticket_id))
    with database.begin() as connection:
        assert (None, None) == connection.execute(select(ticket.c.due_at, ticket.c.lease_until)).one()


def test_a_closing_that_its_desk_did_not_take_is_told_again_later(store, incident, clock):
    """The desk may be away just when all is well again."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))
    close(store, commands)

    postpone(store, claim(store, ticket_id))

    assert "desk away" == line(store, ticket_id).problem
    assert claim(store, ticket_id) is None
    clock.advance(NEXT_IN)
    work = claim(store, ticket_id)
    assert (1, True) == (work.tries, work.closing is not None)
    land(store, work)
    assert (TicketState.CLOSED, None) == (line(store, ticket_id).state, line(store, ticket_id).problem)


def test_a_closing_is_told_by_one_process_at_a_time(store, incident, clock):
    """Its message may arrive twice as any other."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))
    close(store, commands)

    assert claim(store, ticket_id) is not None
    assert claim(store, ticket_id) is None
    clock.advance(LEASE)
    assert claim(store, ticket_id) is not None


def test_a_ticket_that_closed_while_it_was_opened_is_due_under_its_reference(store, incident, clock):
    """The desk has just been told of what was still open, and would show it for ever."""
    ticket_id, commands = incident
    work = claim(store, ticket_id)
    close(store, commands)
    meanwhile = claim(store, ticket_id)

    land(store, work)

    found = line(store, ticket_id)
    assert meanwhile is None
    assert (TicketState.CLOSED, "email", "T-1") == (found.state, found.desk, found.external_ref)
    assert [ticket_id] == due(store)
    assert claim(store, ticket_id).closing is not None


def test_a_ticket_that_closed_while_its_desk_did_not_take_it_is_told_to_nobody(store, incident, clock):
    """It was never opened, and is over."""
    ticket_id, commands = incident
    work = claim(store, ticket_id)
    close(store, commands)

    postpone(store, work)

    assert TicketState.CLOSED is line(store, ticket_id).state
    clock.advance(timedelta(days=1))
    assert [] == due(store)


def test_a_ticket_whose_teller_died_and_that_closed_is_due_after_the_lease(store, incident, clock):
    """The desk may have heard of it before the worker died; nobody knows under which reference."""
    ticket_id, commands = incident
    claim(store, ticket_id)
    close(store, commands)
    within = due(store)

    clock.advance(LEASE)

    assert ([], [ticket_id]) == (within, due(store))
    work = claim(store, ticket_id)
    assert (None, True) == (work.external_ref, work.closing is not None)
    postpone(store, work)
    clock.advance(NEXT_IN)
    assert [ticket_id] == due(store)


def test_an_addition_that_was_not_taken_gives_way_to_the_closing(store, given, incident, clock):
    """There is nothing to add to a ticket that is over."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))
    further = given.now(State.ESCALATED)
    given.linked(further, Reason.LADDER_EXHAUSTED)
    clock.advance(NEXT_IN)
    work = claim(store, ticket_id)
    close(store, [*commands, further])

    postpone(store, work)

    clock.advance(NEXT_IN)
    closing = claim(store, ticket_id)
    assert ((), 4) == (closing.commands, closing.total)
    assert closing.closing is not None


def test_a_closing_says_how_each_command_ended(store, given, clock):
    """A person sees at once whether all went well, or what was given up, and by whom."""
    done, given_up, moved, resolved = (given.now(State.ESCALATED, order_id=f"order-{each}") for each in range(4))
    for each in (done, given_up, moved, resolved):
        ticket_id = given.linked(each, Reason.LADDER_EXHAUSTED)
    land(store, claim(store, ticket_id))
    clock.advance(timedelta(minutes=1))
    given.linked(moved, Reason.KEY_WINDOW_CLOSED)
    clock.advance(timedelta(minutes=1))
    decided(store, given, given_up, state.cancel(failures=4, problem=None), verb="cancel")
    decided(store, given, resolved, state.resolve(failures=4, result={}, problem=None), verb="resolve")
    clock.advance(timedelta(minutes=1))
    given.operated(done, state.start_over(clock.now, in_doubt=True, problem=None), verb="retry")
    clock.advance(timedelta(minutes=1))
    carried_out(store, given, done)

    closing = claim(store, ticket_id).closing

    assert (clock.now, False, 2) == (closing.closed_at, closing.by_operator, closing.decided_by_operator)
    assert {"succeeded": 2, "cancelled": 1, "moved": 1} == closing.counts
    assert [
        (done, "order-0", "succeeded", False),
        (given_up, "order-1", "cancelled", True),
        (moved, "order-2", "moved", False),
        (resolved, "order-3", "succeeded", True),
    ] == [(each.command_id, each.order_id, each.how, each.by_operator) for each in closing.first]


def test_a_closing_by_an_operator_says_so(store, given, incident):
    """Whoever asks why it closed must not look for a reply of the provider."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))

    for each in commands:
        decided(store, given, each, state.cancel(failures=4, problem=None), verb="cancel")

    closing = claim(store, ticket_id).closing
    assert (True, {"cancelled": 3}, 3) == (closing.by_operator, closing.counts, closing.decided_by_operator)


def test_a_large_closing_names_the_first_and_counts_all(store, given, incident):
    """An outage of ten thousand commands must not end in a mail that no server takes."""
    ticket_id, commands = incident
    land(store, claim(store, ticket_id))
    for each in commands:
        decided(store, given, each, state.cancel(failures=4, problem=None), verb="cancel")

    work = claim(store, ticket_id, cases=2)

    assert (3, commands[:2]) == (work.total, [each.command_id for each in work.closing.first])
