from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import TRANSITIONS, State
from worker.domain.ticket import Reason
from worker.ports import Move

PROBLEM = Problem(code="no_answer", message="No answer within 30 s.", status=None, correlation_id=None)
RESULT = {"capture_id": "c-1", "correlation_id": "c-201"}
START = datetime(2030, 1, 1, 12, tzinfo=UTC)
WAIT = timedelta(hours=5)
READ_BACK = ReadBack(purpose=Purpose.SETTLEMENT, reason=Reason.NOT_SETTLED, until=START + WAIT, absences=1)

#: Each transition out of `executing`, and the columns it must leave behind.
OUT_OF_EXECUTING = {
    "succeed": (
        state.succeed(failures=2, result=RESULT),
        {"state": State.SUCCEEDED, "failures": 2, "result": RESULT},
    ),
    "reject": (
        state.reject(failures=1, problem=PROBLEM),
        {"state": State.REJECTED, "failures": 1, "problem": PROBLEM},
    ),
    "retry_at": (
        state.retry_at(START + WAIT, failures=3, in_doubt=True, problem=PROBLEM, absent_at=START),
        {
            "state": State.PENDING,
            "failures": 3,
            "in_doubt": True,
            "due_at": START + WAIT,
            "problem": PROBLEM,
            "absent_at": START,
        },
    ),
    "read_back_at": (
        state.read_back_at(
            START + WAIT, failures=3, in_doubt=True, problem=PROBLEM, read_back=READ_BACK, result=RESULT
        ),
        {
            "state": State.PENDING,
            "failures": 3,
            "in_doubt": True,
            "due_at": START + WAIT,
            "problem": PROBLEM,
            "read_back": READ_BACK,
            "result": RESULT,
        },
    ),
    "defer_until": (
        state.defer_until(
            START + WAIT,
            failures=1,
            throttles=7,
            in_doubt=True,
            problem=PROBLEM,
            result=RESULT,
            read_back=READ_BACK,
            absent_at=START,
        ),
        {
            "state": State.PENDING,
            "failures": 1,
            "throttles": 7,
            "in_doubt": True,
            "due_at": START + WAIT,
            "problem": PROBLEM,
            "result": RESULT,
            "read_back": READ_BACK,
            "absent_at": START,
        },
    ),
    "hand_back": (
        state.hand_back(START + WAIT, failures=1, throttles=2, in_doubt=True, problem=None),
        {"state": State.PENDING, "failures": 1, "throttles": 2, "in_doubt": True, "due_at": START + WAIT},
    ),
    "escalate": (
        state.escalate(failures=4, in_doubt=True, problem=PROBLEM, result=RESULT, absent_at=START),
        {
            "state": State.ESCALATED,
            "failures": 4,
            "in_doubt": True,
            "problem": PROBLEM,
            "result": RESULT,
            "absent_at": START,
        },
    ),
}


@pytest.mark.parametrize("name", OUT_OF_EXECUTING)
def test_a_transition_writes_exactly_its_columns(given, clock, name):
    """A column left over from the state before would be taken for a fact of this one."""
    held = given.sent()
    due_at = given.row(held.id).due_at
    clock.advance(timedelta(seconds=3))
    transition, expected = OUT_OF_EXECUTING[name]

    assert given.moved(held, transition)

    row = given.row(held.id)
    unsaid = {"failures": 0, "throttles": 0, "in_doubt": False, "due_at": due_at}
    unsaid |= dict.fromkeys(("result", "problem", "read_back", "absent_at"))
    columns = {**unsaid, **expected}
    assert columns == {column: getattr(row, column) for column in columns}
    assert (clock.now if row.state in state.FINAL else None) == row.finalized_at
    assert (1, 1, None, None) == (row.claims, row.attempts, row.lease_until, row.published_until)


def test_every_way_out_of_executing_is_written():
    """The table above covers the transitions there are; a new one needs a row of its own."""
    assert TRANSITIONS[State.EXECUTING] == {expected["state"] for _, expected in OUT_OF_EXECUTING.values()}


def test_a_retry_keeps_how_long_its_message_may_take(given, clock):
    """Its countdown is with the broker; dispatch must not send a second one meanwhile."""
    held = given.sent()
    due_at = clock.now + timedelta(seconds=5)

    given.moved(
        held,
        state.retry_at(due_at, failures=1, in_doubt=False, problem=PROBLEM),
        published_until=due_at + timedelta(seconds=10),
    )

    assert due_at + timedelta(seconds=10) == given.row(held.id).published_until


def test_a_claim_that_was_superseded_writes_nothing(given, clock):
    """The stalled worker wakes up and believes that it still holds the command."""
    held = given.sent()
    given.moved(held, state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM))
    given.claim(held.id)
    before = given.row(held.id)

    assert not given.moved(held, state.succeed(failures=0, result=RESULT))

    assert before == given.row(held.id)


@pytest.mark.parametrize("now", [each for each in State if each is not State.EXECUTING])
def test_nothing_is_written_over_a_command_that_is_not_executing(given, clock, now):
    """The same claim may be recorded twice, by its worker and by sweep."""
    held = given.sent()
    given.moved(
        held,
        {
            State.PENDING: state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM),
            State.SUCCEEDED: state.succeed(failures=0, result=RESULT),
            State.REJECTED: state.reject(failures=0, problem=PROBLEM),
        }.get(now, state.escalate(failures=4, in_doubt=True, problem=PROBLEM)),
    )
    if now is State.CANCELLED:
        given.operated(held.id, state.cancel(failures=4, problem=PROBLEM), verb="cancel")
    before = given.row(held.id)

    assert not given.moved(held, state.escalate(failures=1, in_doubt=False, problem=None))

    assert (now, before) == (before.state, given.row(held.id))


def test_of_a_batch_only_the_moves_whose_fence_matches_are_written(store, given, clock):
    """A batch must neither fail as a whole nor be believed as a whole."""
    held = given.sent_many(60)
    stale = held[::3]
    for each in stale:
        given.moved(each, state.retry_at(clock.now, failures=1, in_doubt=True, problem=PROBLEM))

    with store.begin() as transaction:
        written = transaction.apply(
            [Move(held=each, transition=state.succeed(failures=0, result={"of": str(each.id)})) for each in held]
        )
        nothing = transaction.apply([])

    assert {each.id for each in held} - {each.id for each in stale} == written
    assert set() == nothing
    assert {"of": str(held[1].id)} == given.row(held[1].id).result


def test_what_the_provider_answered_is_kept_as_it_is(given):
    """A read is asked for its answer; both databases must give back the same."""
    answer = {"answer": {"ø": ["☂", "😀", '"\\u0000 \\', None, True, 2**53, 1.5, {}], "a.b": "$.x", "": "\u2028"}}
    held = given.sent(kind="read_order")

    given.moved(held, state.succeed(failures=0, result=answer))

    assert answer == given.row(held.id).result


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\0", id="a NUL"),
        pytest.param(chr(0xD800), id="the first half of a pair"),
        pytest.param(chr(0xDFFF), id="the second half of a pair"),
        pytest.param(chr(0xDFFF) + chr(0xD800), id="two halves that are no pair"),
    ],
)
def test_an_answer_that_a_database_cannot_hold_is_kept_without_the_letters_it_refuses(store, given, text):
    """One such answer would otherwise take the records of its whole batch down with it, again and again."""
    odd, fine = given.sent(kind="read_order"), given.sent()

    with store.begin() as transaction:
        written = transaction.apply(
            [
                Move(held=odd, transition=state.succeed(failures=0, result={"answer": f"a{text}b"})),
                Move(held=fine, transition=state.succeed(failures=0, result=RESULT)),
            ]
        )

    assert {odd.id, fine.id} == written
    assert {"answer": f"a{len(text) * chr(0xFFFD)}b"} == given.row(odd.id).result
