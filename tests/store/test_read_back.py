from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from worker.domain import state
from worker.domain.finding import VERDICTS
from worker.domain.outcome import Problem
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import State
from worker.domain.ticket import ReadingLine, Reason
from worker.ports import Reading

PROBLEM = Problem(code="no_answer", message="No answer.")
SOON = timedelta(seconds=60)
LEASE = timedelta(seconds=90)


@pytest.fixture
def to_read(given, clock):
    """A command that is due for a read."""

    def build(read_back=None, *, held=None, result=None, **fields):
        held = held or given.sent(**fields)
        transition = state.read_back_at(
            clock.now,
            failures=1,
            in_doubt=True,
            problem=PROBLEM,
            read_back=read_back or ReadBack(purpose=Purpose.TICKET, reason=Reason.LADDER_EXHAUSTED),
            result=result,
        )
        assert given.moved(held, transition)
        return held.id

    return build


def reading(held, read_at, *, purpose=Purpose.TICKET, verdict="absent", evidence="None of 2 captures is ours."):
    return Reading(held=held, purpose=purpose, verdict=verdict, evidence=evidence, read_at=read_at)


def noted(store, *readings):
    with store.begin() as transaction:
        transaction.note_readings(readings)


def read(store, *command_ids):
    with store.begin() as transaction:
        return transaction.readings(command_ids)


def claimed(store):
    return {each.id for each in store.claim(None, limit=100, lease=LEASE)}


# --- what is kept between two reads ------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", Purpose)
def test_a_read_back_comes_out_as_it_went_in(given, clock, to_read, purpose):
    """How far it has come is nowhere else: a count lost would call something absent too soon, or never."""
    read_back = ReadBack(
        purpose=purpose,
        reason=Reason.NOT_SAFE_TO_RETRY,
        resume_at=clock.now + timedelta(hours=5, microseconds=1),
        until=clock.now + timedelta(days=14),
        failures=3,
        absences=1,
    )

    command_id = to_read(read_back)

    assert read_back == given.row(command_id).read_back
    assert read_back == given.claim(command_id).read_back


def test_a_read_back_that_has_only_begun_comes_out_as_it_went_in(given, to_read):
    """Most have neither a moment to go on nor one to give up."""
    read_back = ReadBack(purpose=Purpose.RECHECK, reason=Reason.KEY_WINDOW_CLOSED)

    command_id = to_read(read_back)

    assert read_back == given.claim(command_id).read_back


def test_what_is_known_of_an_effect_is_given_with_the_claim(given, to_read):
    """The read looks for the refund by the id that the provider gave it."""
    known = {"refund_transaction_id": "r-1", "refund_status": "PENDING"}

    held = given.claim(to_read(result=known))

    assert (known, PROBLEM, None) == (held.result, held.problem, held.absent_at)
    assert "PENDING" not in repr(held)


def test_a_command_that_is_to_be_sent_has_no_read_back(given):
    """With one, it would be read about for ever and never be sent."""
    held = given.held()

    assert (None, None, None) == (held.read_back, held.result, held.absent_at)


def test_a_claim_that_reads_is_handed_back_as_it_was(given, clock, to_read):
    """A worker that ends before its read leaves the next one what it was given."""
    command_id = to_read(result={"refund_transaction_id": "r-1"})
    held = given.claim(command_id)
    before = given.row(command_id)

    given.moved(
        held,
        state.hand_back(
            clock.now,
            failures=held.failures,
            throttles=held.throttles,
            in_doubt=held.in_doubt,
            problem=held.problem,
            result=held.result,
            read_back=held.read_back,
            absent_at=held.absent_at,
        ),
    )

    after = given.row(command_id)
    assert (before.read_back, before.result, before.problem) == (after.read_back, after.result, after.problem)


def test_a_read_back_ends_with_the_transition_that_does_not_name_it(given, to_read):
    """What is sent next must be sent, not read about."""
    command_id = to_read()
    held = given.claim(command_id)

    given.moved(held, state.retry_at(held.lease_until, failures=1, in_doubt=False, problem=PROBLEM))

    assert given.row(command_id).read_back is None


def test_when_it_was_found_absent_is_given_with_the_claim(given, clock, to_read):
    """Right before the send it is asked whether that still counts."""
    held = given.claim(to_read())
    given.moved(held, state.retry_at(clock.now, failures=1, in_doubt=False, problem=PROBLEM, absent_at=clock.now))

    again = given.claim(held.id)

    assert (clock.now, clock.now) == (again.absent_at, given.row(held.id).absent_at)


def test_a_read_changes_neither_ledger_nor_key_window(given, clock, to_read):
    """Reads are no attempts: the window runs from the first send and the labels count sends."""
    sent = given.sent()
    first_sent_at = given.row(sent.id).first_sent_at
    clock.advance(timedelta(minutes=1))

    given.claim(to_read(held=sent))

    row = given.row(sent.id)
    assert (1, 2, 1, first_sent_at) == (row.attempts, row.claims, row.failures, row.first_sent_at)


# --- what reads told ---------------------------------------------------------------------------------------


def test_what_reads_told_is_kept_in_their_order(store, given, clock, to_read):
    """A person follows it line by line: absent, nothing told, absent again."""
    command_id = to_read()
    expected = []
    for verdict in VERDICTS:
        held = given.claim(command_id)
        purpose = Purpose.REFUSAL if verdict == "unread" else Purpose.TICKET
        noted(store, reading(held, clock.now, verdict=verdict, purpose=purpose, evidence=f"{verdict} ø ☂ <b>"))
        expected.append(ReadingLine(purpose=purpose, verdict=verdict, evidence=f"{verdict} ø ☂ <b>", read_at=clock.now))
        clock.advance(timedelta(seconds=60))
        to_read(held=held)

    assert expected == read(store, command_id)[command_id]


def test_readings_are_given_by_command(store, given, clock, to_read):
    """A ticket shows many commands, and each has its own."""
    first, second, never = given.claim(to_read()), given.claim(to_read()), given.one()
    noted(store, reading(first, clock.now), reading(second, clock.now, verdict="ambiguous"))
    noted(store)

    found = read(store, first.id, second.id, never)

    assert {first.id: ["absent"], second.id: ["ambiguous"], never: []} == {
        command_id: [each.verdict for each in lines] for command_id, lines in found.items()
    }
    assert {} == read(store)


def test_a_claim_reads_once(store, given, clock, to_read):
    """Two findings under one claim would count as absent twice."""
    held = given.claim(to_read())
    noted(store, reading(held, clock.now))

    with pytest.raises(IntegrityError):
        noted(store, reading(held, clock.now))


@pytest.mark.parametrize("fields", [{"verdict": "maybe"}, {"purpose": State.PENDING}], ids=["verdict", "purpose"])
def test_the_table_takes_no_word_that_nobody_knows(store, given, clock, to_read, fields):
    """Desks, pages and scripts go by these words."""
    held = given.claim(to_read())

    with pytest.raises(IntegrityError):
        noted(store, reading(held, clock.now, **fields))


def test_a_ticket_is_told_with_what_its_commands_readings_told(store, given, clock, to_read):
    """Whoever gets the ticket must not have to look for it."""
    held = given.claim(to_read())
    noted(store, reading(held, clock.now, verdict="ambiguous"))
    given.moved(held, state.escalate(failures=4, in_doubt=True, problem=PROBLEM))
    ticket_id = given.linked(held.id, Reason.LADDER_EXHAUSTED)

    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=SOON, cases=50)

    assert [("ambiguous", clock.now)] == [(each.verdict, each.read_at) for each in work.readings[held.id]]


# --- what waits for what -----------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", Purpose)
def test_only_what_is_followed_until_it_is_settled_holds_nobody_back(store, given, clock, to_read, purpose):
    """It is done; whatever else is read about may not have been done at all."""
    read_back = ReadBack(purpose=purpose, reason=Reason.NOT_SETTLED)
    refund = to_read(read_back, kind="refund", order_id="a")
    held = given.claim(refund)
    later = state.read_back_at(
        clock.now + timedelta(hours=1), failures=0, in_doubt=False, problem=None, read_back=read_back
    )
    given.moved(held, later)
    waiting = given.one(kind="cancel_pending_refund", order_id="a")

    assert ({waiting} if purpose is Purpose.SETTLEMENT else set()) == claimed(store)


def test_what_is_pending_without_a_read_back_holds_back_as_ever(store, given, clock):
    """A refund on its rung has not been done, as far as anybody knows."""
    given.one(kind="refund", order_id="a", due_at=clock.now + timedelta(hours=5))
    given.one(kind="cancel_pending_refund", order_id="a")

    assert set() == claimed(store)


def test_while_a_settling_refund_is_read_its_order_waits(store, given, to_read):
    """One command of an order is in flight at a time, and a read is one as well."""
    refund = to_read(ReadBack(purpose=Purpose.SETTLEMENT, reason=Reason.NOT_SETTLED), kind="refund", order_id="a")
    given.claim(refund)
    given.one(kind="cancel_pending_refund", order_id="a")

    assert set() == claimed(store)


def test_an_amended_command_takes_the_place_of_its_original(store, given, clock):
    """The refund was to follow the capture, and still is, though the capture that takes place is stored later."""
    original = given.now(State.REJECTED, kind="capture", order_id="a")
    refund = given.one(kind="refund", order_id="a")
    amended = given.one(
        kind="capture",
        order_id="a",
        replaces=original,
        turn=given.row(original).seq,
        due_at=clock.now + timedelta(seconds=5),
    )

    row = given.row(amended)
    assert (original, given.row(original).seq) == (row.replaces, row.turn)
    assert set() == claimed(store)
    clock.advance(timedelta(seconds=5))
    assert {amended} == claimed(
        store,
    )
    assert State.PENDING is given.row(refund).state


def test_an_amended_command_waits_for_what_its_original_waited_for_and_no_more(store, given, clock):
    """Stored last, it would otherwise wait for commands that the shop wanted after it."""
    original = given.now(State.REJECTED, kind="refund", order_id="a")
    given.one(kind="capture", order_id="a", due_at=clock.now + timedelta(hours=5))
    amended = given.one(kind="refund", order_id="a", replaces=original, turn=given.row(original).seq)

    assert {amended} == claimed(store)


def test_of_two_due_commands_of_an_order_the_amended_one_goes_first(store, given):
    """Its place is the original's; the other was stored between the two."""
    original = given.now(State.REJECTED, kind="add_order_shipping_info", order_id="a")
    given.one(kind="add_order_shipping_info", order_id="a")
    amended = given.one(kind="add_order_shipping_info", order_id="a", replaces=original, turn=given.row(original).seq)

    assert {amended} == claimed(store)


def test_a_command_that_amends_nothing_has_no_turn_but_its_own(given):
    """Its place is that of its storing."""
    row = given.row(given.one())

    assert (None, None) == (row.replaces, row.turn)


# --- whose key ends first ----------------------------------------------------------------------------------


@pytest.fixture
def first_sends(store):
    def ask():
        with store.read() as transaction:
            return transaction.first_sends_in_doubt()

    return ask


def test_the_first_key_to_end_is_told_for_each_account(given, clock, first_sends):
    """It is the hour by which somebody must have looked."""
    noon = clock.now
    given.now(State.ESCALATED)
    clock.advance(timedelta(hours=1))
    given.now(State.ESCALATED)
    given.now(State.ESCALATED, account="bluesnap-us")

    assert {"klarna-eu": noon, "bluesnap-us": noon + timedelta(hours=1)} == first_sends()


def test_only_what_is_in_doubt_under_a_key_has_a_key_that_ends(given, clock, first_sends):
    """Final commands, sure ones and those without a key have nothing to lose."""
    given.pending(2)
    given.now(State.SUCCEEDED)
    given.now(State.CANCELLED)
    given.now(State.ESCALATED, keyed=False)
    sure = given.sent()
    given.moved(sure, state.retry_at(clock.now, failures=1, in_doubt=False, problem=PROBLEM))

    assert {} == first_sends()


def test_a_command_on_its_rung_or_being_read_about_counts_as_well(given, clock, first_sends, to_read):
    """Its key runs out all the same."""
    noon = clock.now
    to_read(account="a")
    held = given.sent(account="b")
    given.moved(held, state.retry_at(noon + timedelta(hours=5), failures=3, in_doubt=True, problem=PROBLEM))

    assert {"a": noon, "b": noon} == first_sends()


# --- what an operator begins -------------------------------------------------------------------------------


def test_an_operators_recheck_is_due_for_a_read(given, clock):
    """It begins at once, under a fence of its own."""
    command_id = given.now(State.ESCALATED)
    read_back = ReadBack(purpose=Purpose.RECHECK, reason=Reason.LADDER_EXHAUSTED)
    recheck = state.read_back_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM, read_back=read_back)

    assert given.operated(command_id, recheck, verb="recheck")

    assert read_back == given.claim(command_id).read_back


def test_an_operators_retry_keeps_when_it_was_found_absent(given, clock):
    """It is what permits the send; begun a minute later, it must still be known."""
    command_id = given.now(State.ESCALATED)
    found = clock.now

    given.operated(
        command_id, state.start_over(clock.now, in_doubt=False, problem=PROBLEM, absent_at=found), verb="retry"
    )

    assert found == given.claim(command_id).absent_at


def test_a_command_that_nobody_stored_has_no_readings(store):
    """An id from an old mail is looked up like any other."""
    unknown = uuid4()

    assert {unknown: []} == read(store, unknown)
