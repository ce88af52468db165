from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.exc import IntegrityError

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import FINAL, TRANSITIONS, UNFINISHED, State
from worker.domain.ticket import Reason
from worker.store.schema import command, metadata

LIFECYCLE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PROBLEM = Problem(code="PROBLEM", message="why", status=503, correlation_id="corr")
READ_BACK = ReadBack(purpose=Purpose.REPEAT, reason=Reason.NOT_SAFE_TO_RETRY, resume_at=NOON, absences=1)
RESULT = {"refund_transaction_id": "r-1"}

#: The law of the lives, once more and in plain words: (from, to) → how.
MOVES = {
    ("pending", "executing"),
    ("pending", "cancelled"),
    ("executing", "succeeded"),
    ("executing", "rejected"),
    ("executing", "pending"),
    ("executing", "escalated"),
    ("escalated", "pending"),
    ("escalated", "succeeded"),
    ("escalated", "cancelled"),
}

#: Each constructor, called with everything it takes, and from where it may be used.
CONSTRUCTED = {
    "succeed": (("executing",), state.succeed(failures=2, result={"capture_id": "c-1"})),
    "reject": (("executing",), state.reject(failures=2, problem=PROBLEM)),
    "retry_at": (
        ("executing",),
        state.retry_at(NOON, failures=3, in_doubt=True, problem=PROBLEM, absent_at=NOON),
    ),
    "read_back_at": (
        ("executing", "escalated"),
        state.read_back_at(NOON, failures=3, in_doubt=True, problem=PROBLEM, read_back=READ_BACK, result=RESULT),
    ),
    "defer_until": (
        ("executing",),
        state.defer_until(
            NOON,
            failures=2,
            throttles=4,
            in_doubt=True,
            problem=PROBLEM,
            result=RESULT,
            read_back=READ_BACK,
            absent_at=NOON,
        ),
    ),
    "hand_back": (
        ("executing",),
        state.hand_back(
            NOON,
            failures=2,
            throttles=4,
            in_doubt=True,
            problem=PROBLEM,
            result=RESULT,
            read_back=READ_BACK,
            absent_at=NOON,
        ),
    ),
    "escalate": (
        ("executing",),
        state.escalate(failures=4, in_doubt=True, problem=PROBLEM, result=RESULT, absent_at=NOON),
    ),
    "start_over": (("escalated",), state.start_over(NOON, in_doubt=True, problem=PROBLEM, absent_at=NOON)),
    "resolve": (
        ("escalated",),
        state.resolve(failures=4, result={"resolved_by": "operator"}, problem=PROBLEM),
    ),
    "cancel": (("pending", "escalated"), state.cancel(failures=4, problem=PROBLEM)),
}

by_constructor = pytest.mark.parametrize("name", sorted(CONSTRUCTED))


@pytest.fixture
def row():
    """A row of the table; what a test does not mention is a fresh command."""

    def build(**changes):
        plain = {
            "id": UUID(int=1),
            "account": "klarna-eu",
            "kind": "capture",
            "order_id": "order-1",
            "keyed": True,
            "payload": b"{}",
            "fingerprint": "f",
            "idempotency_key": "k",
            "created_at": NOON,
            "state": "pending",
            "claims": 4,
            "attempts": 4,
            "failures": 0,
            "throttles": 0,
            "in_doubt": False,
            "due_at": NOON,
            "first_sent_at": NOON,
        }
        return plain | changes

    return build


@pytest.fixture
def accepts():
    """Whether the table takes a row. The constraints are the same text on every database."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)

    def ask(row):
        with engine.connect() as connection:
            try:
                connection.execute(insert(command).values(row))
            except IntegrityError:
                return False
            finally:
                connection.rollback()
        return True

    yield ask
    engine.dispose()


def pairs(of):
    return {(start.value, end.value) for start, ends in of.items() for end in ends}


# --- the law, in code, page and table ----------------------------------------------------------------------


def test_these_are_the_moves():
    """A new move is a decision about money, not a slip."""
    assert MOVES == pairs(TRANSITIONS)


def test_the_diagram_shows_these_moves():
    """Operators read the page when something is stuck."""
    (diagram,) = re.findall(r"```mermaid\n(stateDiagram-v2\n.*?)```", LIFECYCLE.read_text("utf-8"), re.DOTALL)

    arrows = set(re.findall(r"^ +(\S+) --> (\S+)(?: : .+)?$", diagram, re.MULTILINE))

    assert {("[*]", "pending")} | {(each.value, "[*]") for each in FINAL} | MOVES == arrows


def test_the_page_explains_every_state():
    """A state nobody explains is one nobody knows what to do about."""
    section = re.search(r"^## States\n(.*?)^## ", LIFECYCLE.read_text("utf-8"), re.DOTALL | re.MULTILINE)

    explained = re.findall(r"^\| `(\w+)` \| (final: )?", section[1], re.MULTILINE)

    named = {name: bool(is_final) for name, is_final in explained if name in set(State)}
    assert {each.value: each in FINAL for each in State} == named


def test_nothing_leaves_a_final_state():
    """What has ended stays ended; a late message must find nothing to do."""
    assert [frozenset()] * len(FINAL) == [TRANSITIONS[each] for each in FINAL]


def test_every_unfinished_state_can_end():
    """A state without a way to an end would be a place to be forgotten in."""

    def reachable(start, seen=frozenset()):
        return seen | {start}.union(*(reachable(end, seen | {start}) for end in TRANSITIONS[start] - seen))

    assert dict.fromkeys(UNFINISHED, True) == {each: bool(reachable(each) & FINAL) for each in UNFINISHED}


# --- constructors ------------------------------------------------------------------------------------------


def test_every_constructor_is_known_here():
    """One that is not could build a move that no test has seen."""
    found = {
        name
        for name, each in vars(state).items()
        if callable(each) and getattr(each, "__annotations__", {}).get("return") == "Transition"
    }

    assert set(CONSTRUCTED) == found


@by_constructor
def test_a_constructor_makes_a_permitted_move(name):
    """The fence checks where a command is, the constructor where it may go."""
    starts, transition = CONSTRUCTED[name]

    assert {(start, transition.to.value) for start in starts} <= MOVES


def test_every_move_but_the_claim_has_its_constructor():
    """The claim is one statement for many commands; everything else goes through a constructor."""
    made = {(start, transition.to.value) for starts, transition in CONSTRUCTED.values() for start in starts}

    assert MOVES - {("pending", "executing")} == made


@by_constructor
def test_only_what_waits_gets_a_moment(name):
    """A due time on a decided command would say that something is still to happen."""
    _, transition = CONSTRUCTED[name]

    assert (transition.to is State.PENDING) == (transition.due_at is not None)


@by_constructor
def test_what_ends_is_in_doubt_no_more(name):
    """The money in doubt is counted by this column, and someone has answered for it."""
    _, transition = CONSTRUCTED[name]

    assert transition.finalized == (transition.to in FINAL)
    assert not (transition.finalized and transition.in_doubt)


@pytest.mark.parametrize("name", ["retry_at", "read_back_at", "defer_until", "hand_back", "escalate", "start_over"])
def test_doubt_goes_along_with_what_has_not_ended(name):
    """It sticks until the provider or a person has said what happened."""
    assert CONSTRUCTED[name][1].in_doubt


@pytest.mark.parametrize(
    ("name", "expected"),
    [("defer_until", 4), ("hand_back", 4), ("retry_at", 0), ("read_back_at", 0), ("start_over", 0)],
)
def test_only_what_was_not_executed_goes_on_counting_429s(name, expected):
    """The back-off must grow while the quota is used up, and end when an attempt got through."""
    assert expected == CONSTRUCTED[name][1].throttles


@by_constructor
def test_only_a_command_that_waits_for_a_reading_is_read_about(name):
    """Whatever else is due is sent: a read-back left over from before would keep it from that for ever."""
    _, transition = CONSTRUCTED[name]

    assert (READ_BACK if name in {"read_back_at", "defer_until", "hand_back"} else None) == transition.read_back


@by_constructor
def test_what_was_found_absent_is_kept_only_while_nothing_was_sent_since(name):
    """It permits a send that no key guards; what a reading is begun for is not known any more."""
    _, transition = CONSTRUCTED[name]

    keeps = {"retry_at", "defer_until", "hand_back", "escalate", "start_over"}
    assert (NOON if name in keeps else None) == transition.absent_at


@by_constructor
def test_what_is_known_of_an_effect_is_kept_until_it_is_sent_anew(name):
    """The id of a pending refund is what its next reading looks for, and what a person is told."""
    _, transition = CONSTRUCTED[name]

    assert (transition.result is None) == (name in {"reject", "retry_at", "start_over", "cancel"})


def test_an_operators_retry_begins_the_ladder_anew():
    """The cause has been mended, so the old failures say nothing."""
    assert 0 == CONSTRUCTED["start_over"][1].failures


# --- the table's own law -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "finalized", "leased"), list(product([each.value for each in State], [False, True], [False, True]))
)
def test_the_table_takes_a_row_only_as_its_state_demands(accepts, row, to, finalized, leased):
    """The constraints catch what a bug or a hand at the database would do."""
    made = row(state=to, finalized_at=NOON if finalized else None, lease_until=NOON if leased else None)

    permitted = finalized == (to in {"succeeded", "rejected", "cancelled"}) and leased == (to == "executing")

    assert permitted == accepts(made)


@by_constructor
def test_the_table_takes_what_a_constructor_makes(accepts, row, name):
    """A transition that the table refuses would leave its command executing for ever."""
    _, transition = CONSTRUCTED[name]
    made = row(
        state=transition.to.value,
        failures=transition.failures,
        throttles=transition.throttles,
        in_doubt=transition.in_doubt,
        result=transition.result,
        # JSON's own words suffice: how it is written is the store's.
        read_back=None if transition.read_back is None else {"purpose": transition.read_back.purpose.value},
        absent_at=transition.absent_at,
        finalized_at=NOON if transition.finalized else None,
    )

    assert accepts(made)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "done"},
        {"failures": 5},
        {"failures": -1},
        {"attempts": 5},
        {"first_sent_at": None},
        {"state": "succeeded", "finalized_at": NOON, "in_doubt": True},
        {"state": "rejected", "finalized_at": NOON, "in_doubt": True},
        {"state": "succeeded", "finalized_at": NOON, "read_back": {"purpose": "recheck"}},
        {"state": "escalated", "read_back": {"purpose": "recheck"}},
    ],
    ids=str,
)
def test_the_table_refuses_what_cannot_be(accepts, row, changes):
    """Unknown states, a fifth failure, a send without claim or moment, an end in doubt, a reading that nobody makes."""
    assert accepts(row())
    assert not accepts(row(**changes))
