from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import TRANSITIONS, State
from worker.domain.ticket import Reason

PROBLEM = Problem(code="no_answer", message="No answer.")
RECHECK = ReadBack(purpose=Purpose.RECHECK, reason=Reason.LADDER_EXHAUSTED)

#: Verb → the state it begins from, its transition at a moment, and the state it leads to.
VERBS = {
    "retry": (
        State.ESCALATED,
        lambda now: state.start_over(now, in_doubt=True, problem=PROBLEM, absent_at=now),
        State.PENDING,
    ),
    "recheck": (
        State.ESCALATED,
        lambda now: state.read_back_at(
            now, failures=1, in_doubt=True, problem=PROBLEM, read_back=RECHECK, result={"refund_transaction_id": "r-1"}
        ),
        State.PENDING,
    ),
    "resolve": (
        State.ESCALATED,
        lambda _now: state.resolve(failures=1, result={"resolved_by": "operator"}, problem=PROBLEM),
        State.SUCCEEDED,
    ),
    "cancel": (State.ESCALATED, lambda _now: state.cancel(failures=1, problem=PROBLEM), State.CANCELLED),
    "cancel unsent": (State.PENDING, lambda _now: state.cancel(failures=0, problem=None), State.CANCELLED),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_operator_moves_a_command_and_is_remembered(store, given, clock, verb):
    """Decision and name are written together: nobody changes a payment unnamed."""
    begins, transition, ends = VERBS[verb]
    command_id = given.now(begins)
    before = given.row(command_id)
    clock.advance(timedelta(minutes=1))

    assert given.operated(command_id, transition(clock.now), verb=verb)

    row = given.row(command_id)
    wanted = transition(clock.now)
    assert (ends, wanted.failures, wanted.in_doubt, wanted.result, wanted.problem, before.claims) == (
        *(row.state, row.failures, row.in_doubt, row.result, row.problem, row.claims),
    )
    assert (wanted.read_back, wanted.absent_at) == (row.read_back, row.absent_at)
    assert (clock.now if ends in state.FINAL else None) == row.finalized_at
    assert (clock.now if ends is State.PENDING else before.due_at, None) == (row.due_at, row.published_until)
    with store.begin() as transaction:
        (line,) = transaction.actions(command_id)
    assert (verb, "operator", "looked it up at the provider", begins, clock.now) == (
        *(line.verb, line.by, line.why, line.state_before, line.at),
    )


def test_every_transition_of_an_operator_is_written():
    """The table above covers the transitions there are; a new one needs a row of its own."""
    covered = {(begins, ends) for begins, _, ends in VERBS.values()}

    assert covered == {
        (begins, ends)
        for begins in (State.PENDING, State.ESCALATED)
        for ends in TRANSITIONS[begins]
        if ends is not State.EXECUTING
    }


def test_an_operator_who_looked_too_early_changes_nothing(store, given, clock):
    """Between the look and the verb a worker may have sent the command."""
    command_id = given.one()
    with store.begin() as transaction:
        looked = transaction.find(command_id)
    sent = given.open(given.claim(command_id))
    given.moved(sent, state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM))

    with store.begin() as transaction:
        cancel = state.cancel(failures=0, problem=None)
        assert not transaction.operate(looked, cancel, given.action(looked, verb="cancel"))

    assert State.PENDING is given.row(command_id).state
    with store.begin() as transaction:
        assert [] == transaction.actions(command_id)


def test_a_retried_command_is_due_and_starts_on_the_first_rung(store, given, clock):
    """The operator has mended the cause; the old count would escalate it at the next slip."""
    command_id = given.now(State.ESCALATED)

    given.operated(command_id, state.start_over(clock.now, in_doubt=True, problem=PROBLEM), verb="retry")

    held = given.claim(command_id)
    assert (2, 0, True, PROBLEM) == (held.claims, held.failures, held.in_doubt, held.problem)


def test_an_action_that_changes_no_state_is_kept_too(store, given):
    """Closing the ticket of a refused command decides nothing about it, but somebody did it."""
    command_id = given.now(State.REJECTED)
    row = given.row(command_id)

    with store.begin() as transaction:
        for verb in ("resolve", "note"):
            transaction.note_action(given.action(row, verb=verb))

    with store.begin() as transaction:
        lines = transaction.actions(command_id)
    assert [("resolve", "rejected"), ("note", "rejected")] == [(each.verb, each.state_before) for each in lines]
    assert row == given.row(command_id)


def test_a_command_is_locked_as_it_is(store, given):
    """What the operator's verb is judged by must still be true when it is written."""
    command_id = given.now(State.ESCALATED)

    with store.begin() as transaction:
        assert transaction.find(command_id) == transaction.lock_command(command_id)
        assert transaction.lock_command(uuid4()) is None
