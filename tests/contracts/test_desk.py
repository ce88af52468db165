"""What the services ask of any desk. The words on the real ones have a suite of their own in `tests/desks`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from worker.domain.errors import DeskUnavailable
from worker.domain.ticket import Case, CaseFile, Closing, Reason
from worker.testing import RecordingDesk

TICKET = CaseFile(
    ticket_id=UUID("019ab3c4-0000-7000-8000-00000000000f"),
    account="klarna-eu",
    reason=Reason.LADDER_EXHAUSTED,
    opened_at=datetime(2026, 11, 22, 12, 0, tzinfo=UTC),
    cases=(
        Case(
            command_id=UUID(int=1),
            account="klarna-eu",
            kind="capture",
            order_id="order-1",
            reference=None,
            amount=1000,
            idempotency_key="7d7f0000-0000-5000-8000-000000000001",
            state="escalated",
            in_doubt=True,
            key_window_left=None,
            problem=None,
            attempts=(),
        ),
    ),
    total=1,
)

CLOSED = replace(
    TICKET,
    cases=(),
    closing=Closing(
        closed_at=datetime(2026, 11, 22, 19, 0, tzinfo=UTC),
        by_operator=False,
        counts={"succeeded": 1},
        decided_by_operator=0,
        first=(),
    ),
)


def test_opening_gives_a_reference_that_can_be_stored(counter):
    """Later commands are added under it, and it must fit its column."""
    external_ref = counter.desk.open(TICKET)

    assert external_ref.isprintable()
    assert 0 < len(external_ref) <= 255


def test_opening_twice_gives_the_same_reference(counter):
    """A worker that dies after telling tells again, and the ticket must stay one."""
    first = counter.desk.open(TICKET)

    assert first == counter.desk.open(TICKET)


def test_two_tickets_have_two_references(counter):
    """What is added to one must not land on the other."""
    first = counter.desk.open(TICKET)

    assert first != counter.desk.open(replace(TICKET, ticket_id=UUID(int=7)))


def test_every_telling_names_its_ticket(counter):
    """People look for the ticket by its id."""
    external_ref = counter.desk.open(TICKET)
    counter.desk.append(external_ref, TICKET)
    counter.desk.close(external_ref, CLOSED)

    assert [str(TICKET.ticket_id)] * 3 == counter.told()


def test_a_desk_has_a_name(counter):
    """It is stored with the ticket."""
    assert counter.desk.name


def test_a_desk_that_was_told_to_be_unavailable_takes_nothing():
    """So that a test can see what is done about it; the log alone is always there."""
    desk = RecordingDesk(is_unavailable=True)

    with pytest.raises(DeskUnavailable):
        desk.open(TICKET)
    with pytest.raises(DeskUnavailable):
        desk.append("ref", TICKET)
    with pytest.raises(DeskUnavailable):
        desk.close("ref", CLOSED)

    assert [] == desk.told
