from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from worker.domain import state
from worker.domain.outcome import (
    OUTCOMES,
    InDoubt,
    NotNow,
    NotSent,
    Problem,
    Rejected,
    Succeeded,
    Throttled,
    Unauthorized,
)
from worker.ports import Ending
from worker.store.schema import attempt, outcome

PROBLEM = Problem(code="CAPTURE_NOT_ALLOWED", message="Not enough left.", status=403, correlation_id="c-403")
ANSWERS = [
    Succeeded(status=201, correlation_id="c-201"),
    *(kind(problem=PROBLEM) for kind in (Rejected, NotNow, Unauthorized, NotSent, Throttled, InDoubt)),
]


def attempts(store, command_id):
    with store.begin() as transaction:
        return transaction.attempts([command_id])[command_id]


def opened(store, held):
    with store.begin() as transaction:
        return transaction.open_attempts(held, holder="host:1")


def test_an_intent_is_written_before_the_send(store, given, clock):
    """After a crash it is all that tells a command that may have been sent from one that was not."""
    held = given.held()

    (sent,) = opened(store, [held])

    with store.begin() as transaction:
        (intent,) = transaction._connection.execute(select(attempt)).all()
    assert (held.id, 1, held.claims, "host:1", clock.now) == tuple(intent)
    assert (1, clock.now) == (sent.attempt, sent.first_sent_at)
    row = given.row(held.id)
    assert (1, clock.now) == (row.attempts, row.first_sent_at)


def test_the_first_send_is_remembered_for_ever(store, given, clock):
    """The provider honours a key from the first attempt on; a later start would widen the window."""
    held = given.sent()
    began = clock.now
    for number in (2, 3):
        given.moved(held, state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM))
        clock.advance(timedelta(hours=1))

        held = given.open(given.claim(held.id))

        assert (number, began) == (held.attempt, held.first_sent_at)
    assert [1, 2, 3] == [each.number for each in attempts(store, held.id)]


def test_nothing_is_opened_for_a_lease_that_was_lost(store, given, clock):
    """Whoever took the command over may be sending it at this moment."""
    stale, fine, final = given.held(), given.held(), given.held()
    back = state.hand_back(clock.now, failures=0, throttles=0, in_doubt=False, problem=None)
    given.moved(stale, back)
    given.claim(stale.id)
    given.moved(final, state.succeed(failures=0, result={}))

    sent = opened(store, [stale, fine, final])

    assert [fine.id] == [each.id for each in sent]
    assert [] == attempts(store, stale.id) == attempts(store, final.id)
    assert 0 == given.row(stale.id).attempts


def test_intents_of_a_batch_are_written_together_in_the_given_order(store, given):
    """One transaction opens a whole micro-batch, and its calls begin in the order of the claim."""
    held = given.held_many(60)

    sent = opened(store, held)

    assert [each.id for each in held] == [each.id for each in sent]
    assert {1} == {each.attempt for each in sent}
    assert [] == opened(store, [])


@pytest.mark.parametrize("answer", ANSWERS, ids=[each.name for each in ANSWERS])
def test_what_came_of_an_attempt_is_kept(store, given, clock, answer):
    """A person reads in the ledger what the provider said, and finds the call in the provider's log."""
    held = given.sent()
    started = clock.now
    clock.advance(timedelta(seconds=3))

    given.ended(held, answer)

    (line,) = attempts(store, held.id)
    said = (201, None, "c-201") if isinstance(answer, Succeeded) else (403, "CAPTURE_NOT_ALLOWED", "c-403")
    assert (1, started, clock.now, answer.name, *said, False) == (
        *(line.number, line.started_at, line.finished_at, line.outcome),
        *(line.status, line.code, line.correlation_id, line.late),
    )


def test_every_outcome_there_is_can_be_kept():
    """The table above covers the outcomes there are; a new one needs a row of its own."""
    assert set(OUTCOMES) == {each.name for each in ANSWERS}


def test_an_attempt_without_an_outcome_is_shown_open(store, given):
    """Until the answer is there, nothing is known of it."""
    held = given.sent()

    (line,) = attempts(store, held.id)

    assert (1, None, None, None, None, None, False) == (
        *(line.number, line.finished_at, line.outcome, line.status, line.code, line.correlation_id, line.late),
    )


def test_a_second_word_on_an_attempt_is_dropped(store, given):
    """The ledger is insert only: what a decision was based on cannot be rewritten."""
    held = given.sent()
    given.ended(held, InDoubt(problem=PROBLEM))

    given.ended(held, Succeeded(status=201))

    assert ["in_doubt"] == [line.outcome for line in attempts(store, held.id)]


def test_a_late_answer_follows_the_attempt_it_belongs_to(store, given):
    """It changed nothing, but the person with the ticket must see that the provider did it after all."""
    held = given.sent()
    given.ended(held, InDoubt(problem=PROBLEM))
    given.moved(held, state.hand_back(held.lease_until, failures=1, throttles=0, in_doubt=True, problem=PROBLEM))

    given.ended(held, Succeeded(status=201), late=True)
    given.ended(held, Rejected(problem=PROBLEM), late=True)

    assert [(1, "in_doubt", False), (1, "succeeded", True)] == [
        (line.number, line.outcome, line.late) for line in attempts(store, held.id)
    ]


def test_a_late_answer_may_come_before_the_takeover_is_recorded(store, given):
    """Both orders happen; the two words on one attempt must not be mistaken for each other."""
    held = given.sent()

    given.ended(held, Succeeded(status=201), late=True)
    given.ended(held, InDoubt(problem=PROBLEM))

    assert [("in_doubt", False), ("succeeded", True)] == [
        (line.outcome, line.late) for line in attempts(store, held.id)
    ]


def test_what_was_recorded_in_time_is_not_repeated_as_late(store, given):
    """The commit was done and only its confirmation was lost: the worker records again, and has lost its fence."""
    held, other = given.sent(), given.sent()
    answer = Succeeded(status=201, correlation_id="c-201")
    given.ended(held, answer)
    given.ended(other, InDoubt(problem=PROBLEM))

    with store.begin() as transaction:
        endings = [Ending(held=each, outcome=answer, ended_at=transaction.now) for each in (held, other)]
        transaction.close_attempts(endings, late=True)

    assert [("succeeded", False)] == [(line.outcome, line.late) for line in attempts(store, held.id)]
    assert [("in_doubt", False), ("succeeded", True)] == [
        (line.outcome, line.late) for line in attempts(store, other.id)
    ]


def test_there_is_no_outcome_without_an_intent(store, given):
    """An answer to a call that nobody meant to make would be a bug, and must not look like a fact."""
    held = given.held()

    with pytest.raises(IntegrityError):
        given.ended(held, Succeeded(status=201))


def test_outcomes_of_a_batch_are_written_together(store, given):
    """A micro-batch is recorded in one statement, of successes and failures alike."""
    sent = [given.sent() for _ in ANSWERS]

    with store.begin() as transaction:
        now = transaction.now
        transaction.close_attempts(
            [Ending(held=held, outcome=each, ended_at=now) for held, each in zip(sent, ANSWERS, strict=True)]
        )
        transaction.close_attempts([])

    with store.begin() as transaction:
        lines = transaction.attempts([each.id for each in sent])
        kept = transaction._connection.execute(select(outcome.c.message).order_by(outcome.c.message.nulls_first()))
        assert [None, *[PROBLEM.message] * 6] == list(kept.scalars())
    assert [each.name for each in ANSWERS] == [lines[held.id][0].outcome for held in sent]


def test_attempts_are_read_for_many_commands_at_once(store, given):
    """A case file holds up to fifty commands."""
    one, other, none = given.sent(), given.sent(), given.held()

    with store.begin() as transaction:
        lines = transaction.attempts([one.id, other.id, none.id])
        nothing = transaction.attempts([])

    assert {one.id: 1, other.id: 1, none.id: 0} == {command_id: len(found) for command_id, found in lines.items()}
    assert {} == nothing
