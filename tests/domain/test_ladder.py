from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from worker.domain.ladder import (
    Policy,
    Safety,
    Standing,
    decide,
    hold,
    key_deadline,
    refuse_send,
    safety_without_provider,
)
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
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import State
from worker.domain.ticket import Reason
from worker.providers.klarna import OPERATIONS, Klarna

LIFECYCLE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PROBLEM = Problem(code="PROBLEM", message="why", status=503, correlation_id="corr")
POLICY = Policy(
    ladder=(timedelta(seconds=5), timedelta(minutes=5), timedelta(hours=5)),
    key_window=timedelta(hours=24),
    key_margin=timedelta(minutes=5),
    throttle_base=timedelta(seconds=1),
    throttle_cap=timedelta(seconds=60),
    throttle_patience=timedelta(hours=1),
    read_pause=timedelta(minutes=1),
    absence_lifetime=timedelta(hours=1),
    settle_every=timedelta(hours=1),
    settle_within=timedelta(days=14),
)

OUTCOME = {
    "succeeded": Succeeded(result={"capture_id": "c-1"}, status=201, correlation_id="corr"),
    "rejected": Rejected(problem=PROBLEM),
    "not_now": NotNow(problem=PROBLEM),
    "unauthorized": Unauthorized(problem=PROBLEM),
    "not_sent": NotSent(problem=PROBLEM),
    "throttled": Throttled(problem=PROBLEM),
    "in_doubt": InDoubt(problem=PROBLEM),
}

# --- the table ---------------------------------------------------------------------------------------------
#
# Its own words: `any` in a condition; `+1` one failure more, at most 4; `same`; waits by name. What stands here was
# written from DESIGN and its rulings, not from the code; docs/lifecycle.md shows this very table. `readable`
# says whether what became of the command can be read; with `read-back`, the ticket is the one in which a read-back ends
# that finds nothing out.

HEAD = (
    *("outcome", "safety", "readable", "in doubt before", "failures before", "key window"),
    *("state", "ticket", "failures after", "in doubt after", "wait"),
)

TABLE = """
succeeded    | any            | any | any | any | any    | succeeded | –                   | same | no   | –
rejected     | any            | any | no  | any | any    | rejected  | refused             | same | no   | –
rejected     | any            | no  | yes | any | any    | escalated | refused_after_doubt | same | same | –
rejected     | keyed, unkeyed | yes | yes | any | any    | pending   | refused_after_doubt | same | same | read-back
unauthorized | any            | any | any | any | any    | escalated | credentials_refused | same | same | –
throttled    | read, unkeyed  | any | any | any | any    | pending   | –                   | same | same | back-off
throttled    | keyed          | any | any | any | open   | pending   | –                   | same | same | back-off
throttled    | keyed          | no  | any | any | closed | escalated | key_window_closed   | same | same | –
throttled    | keyed          | yes | any | any | closed | pending   | key_window_closed   | same | same | read-back
not_now      | read, unkeyed  | any | any | 0–2 | any    | pending   | –                   | +1   | same | rung
not_now      | keyed          | any | any | 0–2 | open   | pending   | –                   | +1   | same | rung
not_now      | keyed          | no  | any | 0–2 | closed | escalated | key_window_closed   | +1   | same | –
not_now      | keyed          | yes | any | 0–2 | closed | pending   | key_window_closed   | +1   | same | read-back
not_now      | any            | any | no  | 3–4 | any    | escalated | ladder_exhausted    | +1   | same | –
not_now      | any            | no  | yes | 3–4 | any    | escalated | ladder_exhausted    | +1   | same | –
not_now      | keyed, unkeyed | yes | yes | 3–4 | any    | pending   | ladder_exhausted    | +1   | same | read-back
not_sent     | read           | any | any | 0–2 | any    | pending   | –                   | +1   | same | rung
not_sent     | keyed          | any | any | 0–2 | open   | pending   | –                   | +1   | same | rung
not_sent     | keyed          | no  | any | 0–2 | closed | escalated | key_window_closed   | +1   | same | –
not_sent     | keyed          | yes | any | 0–2 | closed | pending   | key_window_closed   | +1   | same | read-back
not_sent     | read, keyed    | no  | any | 3–4 | any    | escalated | ladder_exhausted    | +1   | same | –
not_sent     | keyed          | yes | no  | 3–4 | any    | escalated | ladder_exhausted    | +1   | same | –
not_sent     | keyed          | yes | yes | 3–4 | any    | pending   | ladder_exhausted    | +1   | same | read-back
not_sent     | unkeyed        | no  | any | any | any    | escalated | not_safe_to_retry   | +1   | same | –
not_sent     | unkeyed        | yes | any | 0–2 | any    | pending   | not_safe_to_retry   | +1   | same | read-back
not_sent     | unkeyed        | yes | any | 3–4 | any    | pending   | ladder_exhausted    | +1   | same | read-back
in_doubt     | read           | any | any | 0–2 | any    | pending   | –                   | +1   | no   | rung
in_doubt     | read           | any | any | 3–4 | any    | escalated | ladder_exhausted    | +1   | no   | –
in_doubt     | keyed          | any | any | 0–2 | open   | pending   | –                   | +1   | yes  | rung
in_doubt     | keyed          | no  | any | 0–2 | closed | escalated | key_window_closed   | +1   | yes  | –
in_doubt     | keyed          | yes | any | 0–2 | closed | pending   | key_window_closed   | +1   | yes  | read-back
in_doubt     | keyed          | no  | any | 3–4 | any    | escalated | ladder_exhausted    | +1   | yes  | –
in_doubt     | keyed          | yes | any | 3–4 | any    | pending   | ladder_exhausted    | +1   | yes  | read-back
in_doubt     | unkeyed        | no  | any | any | any    | escalated | not_safe_to_retry   | +1   | yes  | –
in_doubt     | unkeyed        | yes | any | 0–2 | any    | pending   | not_safe_to_retry   | +1   | yes  | read-back
in_doubt     | unkeyed        | yes | any | 3–4 | any    | pending   | ladder_exhausted    | +1   | yes  | read-back
"""

FAILURES = {"any": range(5), "0–2": range(3), "3–4": range(3, 5)}

#: The three waits, by how many attempts failed before this one.
RUNG = {0: timedelta(seconds=5), 1: timedelta(minutes=5), 2: timedelta(hours=5)}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of everything that a decision depends on."""

    outcome: str
    safety: str
    readable: bool
    in_doubt: bool
    failures: int
    window: str


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the table says of a cell."""

    state: str
    reason: str | None
    failures: int
    in_doubt: bool
    wait: timedelta | None


def rows():
    return [[part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines()]


def fits(row, cell):
    outcome, safety, readable, in_doubt, failures, window = row[:6]

    return (
        outcome == cell.outcome
        and (safety == "any" or cell.safety in safety.split(", "))
        and readable in ("any", "yes" if cell.readable else "no")
        and in_doubt in ("any", "yes" if cell.in_doubt else "no")
        and cell.failures in FAILURES[failures]
        and window in ("any", cell.window)
    )


def expected(cell):
    (row,) = [each for each in rows() if fits(each, cell)]
    state, reason, failures, in_doubt, wait = row[6:]

    return Expected(
        state=state,
        reason=None if reason == "–" else reason,
        failures=cell.failures if failures == "same" else min(cell.failures + 1, 4),
        in_doubt=cell.in_doubt if in_doubt == "same" else in_doubt == "yes",
        # With chance 0, a back-off is its ceiling, which without an earlier 429 is one second.
        wait={
            "–": None,
            "rung": RUNG.get(cell.failures),
            "back-off": timedelta(seconds=1),
            "read-back": timedelta(minutes=1),
        }[wait],
    )


def standing_of(cell, safety):
    """A command first sent so long ago that its key is still good at the next try, or no longer."""
    left = timedelta(hours=6) if cell.window == "open" else timedelta(seconds=1)

    return Standing(
        safety=safety,
        readable=cell.readable,
        failures=cell.failures,
        in_doubt=cell.in_doubt,
        first_sent_at=NOON - timedelta(hours=24) + timedelta(minutes=5) + left,
    )


def decided(cell, safety):
    decision = decide(OUTCOME[cell.outcome], standing_of(cell, safety), POLICY, ended_at=NOON, chance=0.0)
    transition = decision.transition
    reason = decision.reason if transition.read_back is None else transition.read_back.reason

    return Expected(
        state=transition.to.value,
        reason=None if reason is None else reason.value,
        failures=transition.failures,
        in_doubt=transition.in_doubt,
        wait=None if transition.due_at is None else transition.due_at - NOON,
    )


def cells(safety, *, readable):
    return [
        Cell(outcome=outcome, safety=safety, readable=readable, in_doubt=in_doubt, failures=failures, window=window)
        for outcome, in_doubt, failures, window in product(OUTCOME, (False, True), range(5), ("open", "closed"))
    ]


def test_the_table_speaks_of_every_outcome():
    """An outcome without a row would be decided by whatever the code happens to do."""
    assert set(OUTCOMES) == set(OUTCOME) == {row[0] for row in rows()}


@pytest.mark.parametrize(
    ("safety", "readable"),
    [("read", False), ("keyed", False), ("keyed", True), ("unkeyed", False), ("unkeyed", True)],
)
def test_exactly_one_row_speaks_of_each_case(safety, readable):
    """Two rows could contradict each other; none would leave a case open."""
    counted = {cell: sum(fits(row, cell) for row in rows()) for cell in cells(safety, readable=readable)}

    assert {} == {cell: count for cell, count in counted.items() if count != 1}


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "unkeyed"])
@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_every_case_is_decided_as_the_table_says(kind, keyed):
    """Each of these decisions moves money, leaves it alone or calls a person."""
    klarna = Klarna(account="klarna-eu", base_url="http://127.0.0.1:8090", username="u", password="p")
    safety = klarna.safety(kind, keyed=keyed)
    by_name = "read" if kind.startswith("read_") else "keyed" if keyed else "unkeyed"
    asked = cells(by_name, readable=klarna.reads_back(kind))

    wrong = {cell: decided(cell, safety) for cell in asked if expected(cell) != decided(cell, safety)}

    assert {} == wrong


def markdown():
    """The table as docs/lifecycle.md shows it."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows():
        shown = [
            f"`{part}`" if part.replace("_", "").isalpha() and at in (0, 6, 7) else part for at, part in enumerate(row)
        ]
        lines.append(f"| {' | '.join(shown)} |")

    return "\n".join(lines)


def test_the_documentation_shows_this_table():
    """Operators and reviewers read the page; a page that differs from the code is worse than none."""
    section = re.search(
        r"^## What follows from an outcome\n(.*?)^## ", LIFECYCLE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )

    shown = "\n".join(line for line in section[1].splitlines() if line.startswith("|"))

    assert markdown() == shown


# --- what a decision carries -------------------------------------------------------------------------------


def test_a_success_keeps_what_the_provider_gave_and_clears_the_problem():
    """The capture's id is what the shop looks for; an old problem beside it would mislead."""
    standing = Standing(safety=Safety.KEYED, failures=2, in_doubt=True, first_sent_at=NOON)

    decision = decide(OUTCOME["succeeded"], standing, POLICY, ended_at=NOON, chance=0.0)

    assert {"capture_id": "c-1", "correlation_id": "corr"} == decision.transition.result
    assert decision.transition.problem is None


@pytest.mark.parametrize("name", sorted(set(OUTCOME) - {"succeeded"}))
def test_everything_else_keeps_its_problem(name):
    """Whoever opens the ticket must see what the provider said last."""
    decision = decide(OUTCOME[name], Standing(safety=Safety.KEYED), POLICY, ended_at=NOON, chance=0.0)

    assert PROBLEM == decision.transition.problem
    assert decision.transition.result is None


def test_waits_run_from_the_end_of_the_attempt():
    """An attempt that hung for 30 s must not eat up the wait after it."""
    ended_at = NOON + timedelta(seconds=30)

    decision = decide(OUTCOME["in_doubt"], Standing(safety=Safety.KEYED), POLICY, ended_at=ended_at, chance=0.0)

    assert ended_at + timedelta(seconds=5) == decision.transition.due_at


def test_a_failed_attempt_ends_a_series_of_429s():
    """The back-off answers a quota that is used up; the next 429 begins another series."""
    standing = Standing(safety=Safety.KEYED, throttles=7)

    decision = decide(OUTCOME["not_sent"], standing, POLICY, ended_at=NOON, chance=0.0)

    assert 0 == decision.transition.throttles


def test_a_ladder_of_one_rung_escalates_after_the_second_attempt():
    """The waits are a setting; how many attempts there are follows from it."""
    short = replace(POLICY, ladder=(timedelta(seconds=1),))

    after = [
        decide(
            OUTCOME["in_doubt"], Standing(safety=Safety.KEYED, failures=n), short, ended_at=NOON, chance=0.0
        ).transition.to
        for n in (0, 1)
    ]

    assert 2 == short.tries
    assert [State.PENDING, State.ESCALATED] == after


# --- back-off ----------------------------------------------------------------------------------------------


@given(
    throttles=st.integers(min_value=0, max_value=10_000),
    chance=st.floats(min_value=0.0, max_value=1.0, exclude_max=True),
    safety=st.sampled_from(Safety),
)
def test_a_back_off_is_spread_over_all_of_a_ceiling_that_doubles(throttles, chance, safety):
    """Without chance, all who were refused together would come back together."""
    ceiling = min(60.0, 1.0 * 2 ** min(throttles, 6))
    standing = Standing(safety=safety, failures=2, throttles=throttles)

    transition = decide(OUTCOME["throttled"], standing, POLICY, ended_at=NOON, chance=chance).transition

    assert 0.0 <= (transition.due_at - NOON).total_seconds() <= ceiling
    assert (ceiling * (1 - chance)) == pytest.approx((transition.due_at - NOON).total_seconds(), abs=1e-5)
    assert (2, throttles + 1) == (transition.failures, transition.throttles)


# --- the key window ----------------------------------------------------------------------------------------

DEADLINE = NOON + timedelta(hours=24) - timedelta(minutes=5)


def test_a_key_is_good_until_its_window_less_the_margin():
    """A request that leaves just in time may arrive late."""
    assert DEADLINE == key_deadline(Standing(safety=Safety.KEYED, first_sent_at=NOON), POLICY)


def test_a_window_that_an_account_sets_shorter_counts_in_full():
    """It is on the safe side by itself; taking the margin off it too would only make tickets."""
    short = replace(POLICY, key_window=timedelta(hours=12))

    assert NOON + timedelta(hours=12) == key_deadline(Standing(safety=Safety.KEYED, first_sent_at=NOON), short)


@pytest.mark.parametrize(
    ("safety", "first_sent_at"),
    [(Safety.READ, NOON), (Safety.UNKEYED, NOON), (Safety.KEYED, None)],
    ids=["a read", "no key", "never sent"],
)
def test_no_window_bounds_what_was_not_sent_under_a_key(safety, first_sent_at):
    """A window begins with the first use of a key."""
    assert key_deadline(Standing(safety=safety, first_sent_at=first_sent_at), POLICY) is None


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (DEADLINE - timedelta(microseconds=1), None),
        (DEADLINE, Reason.KEY_WINDOW_CLOSED),
        (DEADLINE + timedelta(days=9), Reason.KEY_WINDOW_CLOSED),
    ],
)
def test_nothing_is_sent_from_the_deadline_on(now, expected):
    """The provider may have forgotten the key, and would take the money again."""
    standing = Standing(safety=Safety.KEYED, in_doubt=True, first_sent_at=NOON)

    assert expected is refuse_send(standing, POLICY, now=now)


@pytest.mark.parametrize(
    ("early", "expected"), [(timedelta(microseconds=1), None), (timedelta(0), Reason.KEY_WINDOW_CLOSED)]
)
def test_no_wait_ends_at_the_deadline_or_later(early, expected):
    """A wait that ends too late would be a wait for nothing; people are told at once."""
    ended_at = DEADLINE - timedelta(minutes=5) - early
    standing = Standing(safety=Safety.KEYED, failures=1, first_sent_at=NOON)

    decision = decide(OUTCOME["in_doubt"], standing, POLICY, ended_at=ended_at, chance=0.0)

    assert expected is decision.reason


@pytest.mark.parametrize("first_sent_at", [None, NOON])
@pytest.mark.parametrize("in_doubt", [True, False])
def test_a_read_may_always_be_sent(first_sent_at, in_doubt):
    """It changes nothing."""
    standing = Standing(safety=Safety.READ, in_doubt=in_doubt, first_sent_at=first_sent_at)

    assert refuse_send(standing, POLICY, now=NOON + timedelta(days=30)) is None


@pytest.mark.parametrize(("in_doubt", "expected"), [(False, None), (True, Reason.NOT_SAFE_TO_RETRY)])
def test_a_change_without_a_key_is_not_sent_while_its_fate_is_unknown(in_doubt, expected):
    """Nothing at the provider would recognise the repeat, however long ago the first was."""
    standing = Standing(safety=Safety.UNKEYED, in_doubt=in_doubt, first_sent_at=NOON)

    assert expected is refuse_send(standing, POLICY, now=NOON + timedelta(days=30))


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing(safety=Safety.KEYED, in_doubt=True, first_sent_at=NOON), Reason.KEY_WINDOW_CLOSED),
        (Standing(safety=Safety.KEYED, first_sent_at=NOON), Reason.KEY_WINDOW_CLOSED),
        (Standing(safety=Safety.UNKEYED_READABLE, in_doubt=True, first_sent_at=NOON), Reason.NOT_SAFE_TO_RETRY),
        (Standing(safety=Safety.UNKEYED, in_doubt=True, first_sent_at=NOON), Reason.NOT_SAFE_TO_RETRY),
    ],
    ids=["keyed, in doubt", "keyed", "unkeyed-readable, in doubt", "unkeyed, in doubt"],
)
@pytest.mark.parametrize(
    ("age", "counts"),
    [
        (timedelta(0), True),
        (timedelta(hours=1), True),
        (timedelta(hours=1, microseconds=1), False),
        (None, False),
    ],
    ids=["just read", "an hour old", "older", "never read"],
)
def test_only_what_was_found_absent_within_the_hour_may_be_sent_all_the_same(standing, expected, age, counts):
    """The reading says what no key guards any more; but the longer ago it was, the less it says of now."""
    now = NOON + timedelta(days=30)
    read = replace(standing, absent_at=None if age is None else now - age)

    assert (None if counts else expected) is refuse_send(read, POLICY, now=now)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize(
    ("safety", "reason"),
    [
        (Safety.KEYED, Reason.KEY_WINDOW_CLOSED),
        (Safety.UNKEYED, Reason.NOT_SAFE_TO_RETRY),
    ],
)
def test_what_must_not_be_sent_is_held_as_it_stands(safety, reason, readable):
    """No attempt was made, so nothing about it has changed; what is there is read before a person is asked."""
    standing = Standing(safety=safety, readable=readable, failures=2, in_doubt=True, first_sent_at=NOON)

    decision = hold(standing, POLICY, reason, problem=PROBLEM, at=NOON)

    transition = decision.transition
    assert (2, True, PROBLEM) == (transition.failures, transition.in_doubt, transition.problem)
    if readable:
        read_back = ReadBack(purpose=Purpose.TICKET, reason=reason)
        assert (State.PENDING, NOON + timedelta(minutes=1)) == (transition.to, transition.due_at)
        assert (read_back, None) == (transition.read_back, decision.reason)
    else:
        assert (State.ESCALATED, None, reason) == (transition.to, transition.read_back, decision.reason)


@pytest.mark.parametrize(("keyed", "expected"), [(True, Safety.KEYED), (False, Safety.UNKEYED)])
def test_without_a_provider_only_the_key_is_believed(keyed, expected):
    """The account is not in this worker's settings; what carries no key may be a change and is treated as one."""
    assert expected is safety_without_provider(keyed=keyed)


standings = st.builds(
    Standing,
    safety=st.sampled_from(Safety),
    readable=st.booleans(),
    failures=st.integers(min_value=0, max_value=4),
    in_doubt=st.booleans(),
    first_sent_at=st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=48)).map(lambda age: NOON - age),
    absent_at=st.none()
    | st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=2)).map(lambda age: NOON - age),
)
chances = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)


@given(outcome=st.sampled_from(sorted(OUTCOME)), standing=standings, chance=chances, ended_here=st.booleans())
def test_no_decision_plans_a_send_that_would_be_refused(outcome, standing, chance, ended_here):
    """A command that waits for a send which must not happen waits for nothing."""
    # A change without a key that is in doubt is never sent, so no attempt of it ends with it in doubt before.
    standing = replace(standing, in_doubt=standing.in_doubt and not standing.safety.is_unkeyed)

    decision = decide(OUTCOME[outcome], standing, POLICY, ended_at=NOON, chance=chance, ended_here=ended_here)

    transition = decision.transition
    is_send = transition.due_at is not None and transition.read_back is None
    after = replace(standing, in_doubt=transition.in_doubt, absent_at=transition.absent_at)
    assert not is_send or refuse_send(after, POLICY, now=transition.due_at) is None
    assert (decision.reason is None) == (transition.to in {State.SUCCEEDED, State.PENDING})


# --- before anything is read back --------------------------------------------------------------------------


@given(outcome=st.sampled_from(sorted(OUTCOME)), standing=standings, chance=chances, ended_here=st.booleans())
def test_nothing_is_read_sooner_after_an_attempt_than_a_request_can_take(outcome, standing, chance, ended_here):
    """A request that is still under way would make the provider look as if nothing had happened."""
    decision = decide(OUTCOME[outcome], standing, POLICY, ended_at=NOON, chance=chance, ended_here=ended_here)

    transition = decision.transition
    assert transition.read_back is None or NOON + POLICY.read_pause <= transition.due_at


@given(outcome=st.sampled_from(sorted(OUTCOME)), standing=standings, chance=chances, ended_here=st.booleans())
def test_nothing_is_read_that_cannot_be_read(outcome, standing, chance, ended_here):
    """It would be read again and again, and its person would wait for a finding that never comes."""
    unreadable = replace(standing, readable=False)

    decision = decide(OUTCOME[outcome], unreadable, POLICY, ended_at=NOON, chance=chance, ended_here=ended_here)

    assert decision.transition.read_back is None


@given(standing=standings, chance=chances, ended_here=st.booleans())
def test_an_attempt_in_doubt_takes_back_what_was_read_before(standing, chance, ended_here):
    """The effect was absent then; this attempt may have made it."""
    decision = decide(OUTCOME["in_doubt"], standing, POLICY, ended_at=NOON, chance=chance, ended_here=ended_here)

    assert decision.transition.absent_at is None


@pytest.mark.parametrize("outcome", ["not_sent", "not_now"])
def test_an_attempt_that_did_nothing_leaves_what_was_read_before(outcome):
    """Within its hour it may still be sent again: nothing has reached the provider since."""
    standing = Standing(safety=Safety.KEYED, first_sent_at=NOON - timedelta(days=3), absent_at=NOON)

    decision = decide(OUTCOME[outcome], standing, POLICY, ended_at=NOON, chance=0.0)

    assert (NOON, NOON + timedelta(seconds=5)) == (decision.transition.absent_at, decision.transition.due_at)


@pytest.mark.parametrize("outcome", ["not_sent", "in_doubt"])
@pytest.mark.parametrize("failures", range(3))
def test_a_change_without_a_key_is_sent_again_no_sooner_than_its_rung(outcome, failures):
    """A reading tells what is there; it does not shorten the wait that the provider asks for."""
    standing = Standing(safety=Safety.UNKEYED_READABLE, readable=True, failures=failures)

    decision = decide(OUTCOME[outcome], standing, POLICY, ended_at=NOON, chance=0.0)

    read_back = decision.transition.read_back
    assert (Purpose.REPEAT, NOON + RUNG[failures]) == (read_back.purpose, read_back.resume_at)


@given(standing=standings, chance=chances, outcome=st.sampled_from(["not_sent", "in_doubt"]))
def test_a_change_without_a_key_whose_process_is_gone_is_never_planned_again(outcome, standing, chance):
    """That process may only have stood still, and may send yet; a repeat beside it would be a second change."""
    safety = Safety.UNKEYED_READABLE if standing.readable else Safety.UNKEYED
    unkeyed = replace(standing, safety=safety, in_doubt=False)

    decision = decide(OUTCOME[outcome], unkeyed, POLICY, ended_at=NOON, chance=chance, ended_here=False)

    read_back = decision.transition.read_back
    if standing.readable:
        assert (Purpose.TICKET, None) == (read_back.purpose, read_back.resume_at)
    else:
        assert (State.ESCALATED, Reason.NOT_SAFE_TO_RETRY) == (decision.transition.to, decision.reason)


@pytest.mark.parametrize(
    ("outcome", "purpose"),
    [("rejected", Purpose.REFUSAL), ("not_now", Purpose.TICKET), ("in_doubt", Purpose.TICKET)],
)
def test_a_refusal_is_believed_after_a_reading_and_a_last_failure_is_not(outcome, purpose):
    """Once the effect is known to be absent the refusal is final; a ladder that is used up is for a person."""
    standing = Standing(safety=Safety.KEYED, readable=True, failures=3, in_doubt=True, first_sent_at=NOON)

    decision = decide(OUTCOME[outcome], standing, POLICY, ended_at=NOON, chance=0.0)

    assert purpose is decision.transition.read_back.purpose


# --- what is done and not settled, and keys that do not count ----------------------------------------------

PENDING_REFUND = Succeeded(result={"refund_transaction_id": "r-1"}, status=200, correlation_id="corr", settled=False)


def test_what_is_done_and_only_pending_is_followed():
    """It counts as done and is not in doubt; but a pending refund can still come to nothing."""
    standing = Standing(safety=Safety.KEYED, readable=True, failures=1, in_doubt=True, first_sent_at=NOON)

    decision = decide(PENDING_REFUND, standing, POLICY, ended_at=NOON, chance=0.0)

    transition = decision.transition
    assert (State.PENDING, NOON + timedelta(hours=1), 1, False, None, None) == (
        *(transition.to, transition.due_at, transition.failures, transition.in_doubt),
        *(transition.problem, decision.reason),
    )
    assert {"refund_transaction_id": "r-1", "correlation_id": "corr"} == transition.result
    assert (
        ReadBack(purpose=Purpose.SETTLEMENT, reason=Reason.NOT_SETTLED, until=NOON + timedelta(days=14))
        == transition.read_back
    )


def test_what_is_done_and_cannot_be_followed_is_done():
    """Nothing could ever tell more of it."""
    decision = decide(PENDING_REFUND, Standing(safety=Safety.KEYED), POLICY, ended_at=NOON, chance=0.0)

    assert (State.SUCCEEDED, None) == (decision.transition.to, decision.transition.read_back)


@pytest.mark.parametrize(
    ("safety", "in_doubt", "echoed", "expected"),
    [
        (Safety.KEYED, True, False, Reason.KEYS_NOT_ENABLED),
        (Safety.KEYED, True, True, None),
        (Safety.KEYED, True, None, None),
        (Safety.KEYED, False, False, None),
        (Safety.UNKEYED_READABLE, True, False, None),
        (Safety.READ, True, False, None),
    ],
    ids=["repeat without its key", "repeat", "no word of it", "first sending", "no key", "read"],
)
@pytest.mark.parametrize("settled", [True, False])
def test_a_repeat_in_doubt_whose_answer_lacks_its_key_is_an_alarm(safety, in_doubt, echoed, expected, settled):
    """If keys are ignored, what the repeat did was done twice; a person must know, though the command is done."""
    standing = Standing(safety=safety, readable=True, in_doubt=in_doubt, first_sent_at=NOON)
    result = {} if echoed is None else {"key_echoed": echoed}
    outcome = Succeeded(result=result, status=200, settled=settled)

    decision = decide(outcome, standing, POLICY, ended_at=NOON, chance=0.0)

    assert expected is decision.reason
    assert (State.SUCCEEDED if settled else State.PENDING) is decision.transition.to
