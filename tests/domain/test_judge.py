from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from worker.domain.finding import UNREAD, VERDICTS, Absent, Ambiguous, Done
from worker.domain.judge import Subject, judge
from worker.domain.ladder import Policy, Safety, Standing, decide, refuse_send
from worker.domain.outcome import InDoubt, NotNow, NotSent, Problem, Rejected, Succeeded, Throttled, Unauthorized
from worker.domain.read_back import Purpose, ReadBack
from worker.domain.state import State
from worker.domain.ticket import Reason

LIFECYCLE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PROBLEM = Problem(code="PROBLEM", message="why", status=503, correlation_id="corr")
UNANSWERED = Problem(code="no_answer")
KNOWN = {"refund_transaction_id": "r-1"}
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

FOUND = {
    "done": Done(evidence="There.", result={"refund_status": "SUCCESS"}),
    "done, pending": Done(evidence="There.", result={"refund_status": "PENDING"}, settled=False),
    "absent": Absent(evidence="Not there."),
    "ambiguous": Ambiguous(evidence="Who knows."),
    "unread": InDoubt(problem=UNANSWERED),
    "unread, 429": Throttled(problem=UNANSWERED),
}

# --- the table ---------------------------------------------------------------------------------------------
#
# Its own words: `any` in a condition; `first` and `second` reading in a row that found no effect; `last` the read after
# which the waits of the read's own ladder are used up; `in time` and `late`, whether what is pending may be followed
# further. `its own` ticket is the one that the read-back was begun with. What stands here was written from DESIGN and
# its rulings, not from the code; docs/lifecycle.md shows this very table.

HEAD = ("found", "read for", "which time", "state", "ticket", "in doubt after", "wait")

TABLE = """
done          | any                               | any     | succeeded | –       | no   | –
done, pending | repeat, refusal, ticket, recheck  | any     | pending   | –       | no   | 1 h, for settlement
done, pending | settlement                        | in time | pending   | –       | no   | 1 h
done, pending | settlement                        | late    | escalated | its own | yes  | –
absent        | any                               | first   | pending   | –       | same | 60 s
absent        | repeat                            | second  | pending   | –       | no   | rung, to be sent
absent        | refusal                           | second  | rejected  | refused | no   | –
absent        | ticket, recheck, settlement       | second  | escalated | its own | no   | –
ambiguous     | repeat, refusal, ticket, recheck  | any     | escalated | its own | same | –
ambiguous     | settlement                        | any     | escalated | its own | yes  | –
unread        | repeat, refusal, ticket, recheck  | earlier | pending   | –       | same | 5 s, 5 min, 5 h
unread        | repeat, refusal, ticket, recheck  | last    | escalated | its own | same | –
unread        | settlement                        | in time | pending   | –       | same | 1 h
unread        | settlement                        | late    | escalated | its own | yes  | –
unread, 429   | any                               | any     | pending   | –       | same | back-off
"""

#: Why each read-back was begun, and so the ticket that it ends in if nothing is found out.
OWN = {
    "repeat": Reason.NOT_SAFE_TO_RETRY,
    "refusal": Reason.REFUSED_AFTER_DOUBT,
    "ticket": Reason.LADDER_EXHAUSTED,
    "recheck": Reason.KEY_WINDOW_CLOSED,
    "settlement": Reason.NOT_SETTLED,
}

#: Readings that told nothing, the last included: where a person waits, the wait of five hours is left out.
READS = {"repeat": 4, "refusal": 4, "ticket": 3, "recheck": 3}

LADDER = {1: timedelta(seconds=5), 2: timedelta(minutes=5), 3: timedelta(hours=5)}

RESUME_AT = NOON + timedelta(hours=5)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of everything that a judgement depends on. `absences` and `failures` are those before."""

    found: str
    purpose: str
    absences: int
    failures: int
    in_doubt: bool
    late: bool


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the table says of a cell."""

    state: str
    reason: Reason | None
    in_doubt: bool
    wait: timedelta | None
    reads: str | None


def rows():
    return [[part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines()]


def fits(row, cell):
    found, purposes, time = row[:3]
    times = {
        "any": True,
        "in time": not cell.late,
        "late": cell.late,
        "first": cell.absences == 0,
        "second": cell.absences == 1,
        "earlier": cell.failures + 1 < READS.get(cell.purpose, 0),
        "last": cell.failures + 1 == READS.get(cell.purpose, 0),
    }

    return found == cell.found and (purposes == "any" or cell.purpose in purposes.split(", ")) and times[time]


def expected(cell):
    (row,) = [each for each in rows() if fits(each, cell)]
    state, reason, in_doubt, wait = row[3:]
    reads = {"rung, to be sent": None, "–": None, "1 h, for settlement": "settlement"}.get(wait, cell.purpose)

    return Expected(
        state=state,
        reason={"–": None, "its own": OWN[cell.purpose], "refused": Reason.REFUSED}[reason],
        in_doubt=cell.in_doubt if in_doubt == "same" else in_doubt == "yes",
        # With chance 0, a back-off is its ceiling, which without an earlier 429 is one second.
        wait={
            "–": None,
            "60 s": timedelta(seconds=60),
            "1 h": timedelta(hours=1),
            "1 h, for settlement": timedelta(hours=1),
            "rung, to be sent": RESUME_AT - NOON,
            "5 s, 5 min, 5 h": LADDER.get(cell.failures + 1),
            "back-off": timedelta(seconds=1),
        }[wait],
        reads=reads,
    )


def subject_of(cell):
    settles = cell.purpose == "settlement"

    return Subject(
        standing=Standing(
            safety=Safety.UNKEYED_READABLE, readable=True, failures=2, in_doubt=cell.in_doubt, first_sent_at=NOON
        ),
        read_back=ReadBack(
            purpose=Purpose(cell.purpose),
            reason=OWN[cell.purpose],
            resume_at=RESUME_AT if cell.purpose == "repeat" else None,
            until=(NOON if cell.late else NOON + timedelta(microseconds=1)) if settles else None,
            failures=cell.failures,
            absences=cell.absences,
        ),
        problem=PROBLEM,
        result=KNOWN if settles else None,
    )


def judged(cell):
    decision = judge(FOUND[cell.found], subject_of(cell), POLICY, read_at=NOON, chance=0.0)
    transition = decision.transition

    return Expected(
        state=transition.to.value,
        reason=decision.reason,
        in_doubt=transition.in_doubt,
        wait=None if transition.due_at is None else transition.due_at - NOON,
        reads=None if transition.read_back is None else transition.read_back.purpose.value,
    )


def cells():
    return [
        Cell(found=found, purpose=purpose, absences=absences, failures=failures, in_doubt=in_doubt, late=late)
        for found, purpose, absences, in_doubt, late in product(FOUND, OWN, (0, 1), (False, True), (False, True))
        for failures in range(READS.get(purpose, 4))
        if purpose == "settlement" or not late
    ]


def test_the_table_speaks_of_every_verdict_and_of_every_purpose():
    """What has no row would be judged by whatever the code happens to do."""
    assert set(VERDICTS) == {row[0].partition(",")[0] for row in rows()}
    assert {each.value for each in Purpose} == set(OWN)


def test_exactly_one_row_speaks_of_each_case():
    """Two rows could contradict each other; none would leave a case open."""
    counted = {cell: sum(fits(row, cell) for row in rows()) for cell in cells()}

    assert {} == {cell: count for cell, count in counted.items() if count != 1}


@pytest.mark.parametrize("purpose", OWN)
@pytest.mark.parametrize("found", FOUND)
def test_every_case_is_judged_as_the_table_says(found, purpose):
    """Each of these judgements moves money, leaves it alone or calls a person."""
    asked = [cell for cell in cells() if (cell.found, cell.purpose) == (found, purpose)]

    wrong = {cell: judged(cell) for cell in asked if expected(cell) != judged(cell)}

    assert asked
    assert {} == wrong


@pytest.mark.parametrize(
    "outcome",
    [
        InDoubt(problem=UNANSWERED),
        NotSent(problem=UNANSWERED),
        NotNow(problem=UNANSWERED),
        Unauthorized(problem=UNANSWERED),
        Rejected(problem=UNANSWERED),
        Succeeded(status=200),
    ],
    ids=lambda outcome: outcome.name,
)
@pytest.mark.parametrize("purpose", OWN)
def test_a_read_that_told_nothing_is_never_taken_for_an_answer_to_the_command(outcome, purpose):
    """A refused read refuses the read, and an answered one that shows no record answers nothing."""
    cell = Cell(found="unread", purpose=purpose, absences=0, failures=0, in_doubt=True, late=False)

    decision = judge(outcome, subject_of(cell), POLICY, read_at=NOON, chance=0.0)

    assert (State.PENDING, True, PROBLEM) == (
        *(decision.transition.to, decision.transition.in_doubt, decision.transition.problem),
    )
    assert Purpose(purpose) is decision.transition.read_back.purpose


def markdown():
    """The table as docs/lifecycle.md shows it."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows():
        shown = [f"`{part}`" if at == 3 or part == "refused" else part for at, part in enumerate(row)]
        lines.append(f"| {' | '.join(shown)} |")

    return "\n".join(lines)


def test_the_documentation_shows_this_table():
    """Operators and reviewers read the page; a page that differs from the code is worse than none."""
    section = re.search(
        r"^## What follows from a reading\n(.*?)^## ", LIFECYCLE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )

    shown = "\n".join(line for line in section[1].splitlines() if line.startswith("|"))

    assert markdown() == shown


# --- what a judgement carries ------------------------------------------------------------------------------


@pytest.fixture
def a_subject():
    def build(purpose, **changes):
        cell = Cell(found="done", purpose=purpose, absences=0, failures=0, in_doubt=True, late=False)
        return replace(subject_of(cell), **changes)

    return build


def test_what_is_found_done_has_what_an_answer_would_have_given(a_subject):
    """The shop looks for the id of its capture, however it became known; the result says that it was read back."""
    decision = judge(FOUND["done"], a_subject("repeat"), POLICY, read_at=NOON, chance=0.0)

    assert {"refund_status": "SUCCESS", "read_back": True} == decision.transition.result
    assert decision.transition.problem is None


def test_what_settles_keeps_what_its_own_answer_gave(a_subject):
    """A reading never replaces the answer of a success; it only adds to it."""
    answered = {"refund_transaction_id": "r-1", "correlation_id": "corr", "refund_status": "PENDING"}

    decision = judge(FOUND["done"], a_subject("settlement", result=answered), POLICY, read_at=NOON, chance=0.0)

    assert {**answered, "refund_status": "SUCCESS", "read_back": True} == decision.transition.result


@pytest.mark.parametrize("found", sorted(set(FOUND) - {"done"}))
def test_what_is_known_of_a_pending_effect_goes_along(found, a_subject):
    """Its id is what the next reading looks for, and what a person looks up."""
    decision = judge(FOUND[found], a_subject("settlement"), POLICY, read_at=NOON, chance=0.0)

    assert "r-1" == decision.transition.result["refund_transaction_id"]


@pytest.mark.parametrize("purpose", OWN)
@pytest.mark.parametrize("found", sorted(set(FOUND) - {"done"}))
def test_everything_but_a_success_keeps_its_problem(found, purpose, a_subject):
    """Whoever opens the ticket must see what the provider said last of the command itself."""
    decision = judge(FOUND[found], a_subject(purpose), POLICY, read_at=NOON, chance=0.0)

    assert PROBLEM == decision.transition.problem


@pytest.mark.parametrize("purpose", OWN)
@pytest.mark.parametrize("found", FOUND)
def test_a_reading_climbs_no_rung(found, purpose, a_subject):
    """Reads use no rung: the command has as many attempts left as before."""
    decision = judge(FOUND[found], a_subject(purpose), POLICY, read_at=NOON, chance=0.0)

    assert 2 == decision.transition.failures


@pytest.mark.parametrize(
    ("resume_at", "expected"),
    [(None, NOON), (NOON - timedelta(hours=1), NOON), (NOON + timedelta(hours=1), NOON + timedelta(hours=1))],
    ids=["no wait known", "wait is over", "wait goes on"],
)
def test_a_repeat_keeps_to_the_wait_of_its_rung(resume_at, expected, a_subject):
    """Two readings take two minutes: longer than the first rung, shorter than the others."""
    read_back = ReadBack(purpose=Purpose.REPEAT, reason=Reason.NOT_SAFE_TO_RETRY, resume_at=resume_at, absences=1)

    decision = judge(FOUND["absent"], a_subject("repeat", read_back=read_back), POLICY, read_at=NOON, chance=0.0)

    assert (expected, NOON, None) == (
        *(decision.transition.due_at, decision.transition.absent_at, decision.transition.read_back),
    )


@pytest.mark.parametrize("purpose", ["ticket", "recheck", "settlement"])
def test_when_it_was_found_absent_is_what_an_operator_may_act_on(purpose, a_subject):
    """Within the hour a retry is safe, key or no key; for that the moment must be kept."""
    subject = a_subject(purpose)
    once = replace(subject, read_back=subject.read_back.found_absent())

    first = judge(FOUND["absent"], subject, POLICY, read_at=NOON, chance=0.0)
    second = judge(FOUND["absent"], once, POLICY, read_at=NOON, chance=0.0)

    assert (None, NOON) == (first.transition.absent_at, second.transition.absent_at)


def test_a_read_that_told_nothing_between_two_that_did_breaks_no_row(a_subject):
    """It speaks neither for the effect nor against it."""
    subject = a_subject("repeat")
    read_back = subject.read_back.found_absent().failed()

    decision = judge(FOUND["absent"], replace(subject, read_back=read_back), POLICY, read_at=NOON, chance=0.0)

    assert (1, 1) == (read_back.absences, read_back.failures)
    assert decision.transition.read_back is None


def test_a_reading_ends_a_row_of_reads_that_told_nothing(a_subject):
    """The provider answers again; the next outage begins a row of its own."""
    read_back = a_subject("repeat").read_back.failed().failed().found_absent()

    assert (1, 0) == (read_back.absences, read_back.failures)


def test_what_is_seen_pending_again_is_not_absent_any_more(a_subject):
    """A list that lagged behind once must not count with one that does so next week."""
    subject = a_subject("settlement")
    once = replace(subject, read_back=subject.read_back.found_absent().failed())

    decision = judge(FOUND["done, pending"], once, POLICY, read_at=NOON, chance=0.0)

    assert subject.read_back == decision.transition.read_back


def test_how_long_something_may_be_pending_is_counted_from_when_it_was_first_seen(a_subject):
    """Counted from each reading, it would never end."""
    begun = judge(FOUND["done, pending"], a_subject("repeat"), POLICY, read_at=NOON, chance=0.0)
    until = begun.transition.read_back.until

    further = judge(
        FOUND["done, pending"],
        a_subject("settlement", read_back=begun.transition.read_back),
        POLICY,
        read_at=NOON + timedelta(days=3),
        chance=0.0,
    )

    assert (NOON + timedelta(days=14), until) == (until, further.transition.read_back.until)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("found", ["ambiguous", "unread", "done, pending"])
def test_what_was_pending_and_is_given_up_cannot_be_sent_a_second_time(found, keyed, a_subject):
    """It was accepted, and may be paid yet: an operator's retry would pay it twice."""
    safety = Safety.KEYED if keyed else Safety.UNKEYED_READABLE
    begun_at = NOON - POLICY.settle_within
    standing = Standing(safety=safety, readable=True, first_sent_at=begun_at)
    subject = a_subject("settlement", standing=standing)
    over = replace(subject, read_back=replace(subject.read_back, until=NOON))

    transition = judge(FOUND[found], over, POLICY, read_at=NOON, chance=0.0).transition

    after = replace(standing, in_doubt=transition.in_doubt, absent_at=transition.absent_at)
    assert State.ESCALATED is transition.to
    assert refuse_send(after, POLICY, now=NOON) is not None


# --- whatever is read, in whatever order -------------------------------------------------------------------

moments = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30)).map(lambda after: NOON + after)
chances = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
standings = st.builds(
    Standing,
    safety=st.sampled_from([each for each in Safety if each is not Safety.READ]),
    readable=st.sampled_from([True]),
    failures=st.integers(min_value=0, max_value=4),
    throttles=st.integers(min_value=0, max_value=40),
    in_doubt=st.booleans(),
    first_sent_at=st.just(NOON),
)
subjects = st.builds(
    Subject,
    standing=standings,
    read_back=st.sampled_from(Purpose).flatmap(
        lambda purpose: st.builds(
            ReadBack,
            purpose=st.just(purpose),
            reason=st.just(OWN[purpose.value]),
            resume_at=st.none() | moments if purpose is Purpose.REPEAT else st.none(),
            until=moments if purpose is Purpose.SETTLEMENT else st.none(),
            failures=st.integers(min_value=0, max_value=3),
            absences=st.integers(min_value=0, max_value=1),
        )
    ),
    problem=st.just(PROBLEM),
    result=st.sampled_from([None, KNOWN]),
)
found_names = st.sampled_from(sorted(FOUND))


@given(found=found_names, subject=subjects, read_at=moments, chance=chances)
def test_a_reading_leads_to_exactly_one_thing(found, subject, read_at, chance):
    """An end, another reading, a repeat or a person: two at once would contradict each other, none would forget it."""
    decision = judge(FOUND[found], subject, POLICY, read_at=read_at, chance=chance)

    transition = decision.transition
    follows = {
        "end": transition.finalized,
        "reading": transition.read_back is not None,
        "repeat": transition.to is State.PENDING and transition.read_back is None,
        "person": transition.to is State.ESCALATED,
    }
    assert 1 == sum(follows.values())
    assert (decision.reason is not None) == (transition.to in {State.ESCALATED, State.REJECTED})
    assert transition.due_at is None or read_at <= transition.due_at


@given(subject=subjects, read_at=moments, chance=chances)
def test_absent_once_moves_nothing(subject, read_at, chance):
    """A request may still be under way, and a read may lag behind a write."""
    unseen = replace(subject, read_back=replace(subject.read_back, absences=0))

    decision = judge(FOUND["absent"], unseen, POLICY, read_at=read_at, chance=chance)

    transition = decision.transition
    assert (State.PENDING, None) == (transition.to, decision.reason)
    assert (unseen.standing.in_doubt, unseen.result, None) == (
        *(transition.in_doubt, transition.result, transition.absent_at),
    )
    assert unseen.read_back.found_absent() == transition.read_back
    assert read_at + POLICY.read_pause == transition.due_at


@given(found=found_names, subject=subjects, read_at=moments, chance=chances)
def test_nothing_is_sent_but_what_was_found_absent_twice_and_not_before_its_rung(found, subject, read_at, chance):
    """This is the one place from which an unkeyed change goes out a second time."""
    decision = judge(FOUND[found], subject, POLICY, read_at=read_at, chance=chance)

    transition, read_back = decision.transition, subject.read_back
    if transition.to is State.PENDING and transition.read_back is None:
        assert ("absent", 1, Purpose.REPEAT) == (found, read_back.absences, read_back.purpose)
        assert transition.due_at >= (read_back.resume_at or read_at)
        assert (False, read_at) == (transition.in_doubt, transition.absent_at)


@given(subject=subjects, read_at=moments, chance=chances)
def test_what_is_ambiguous_ends_with_a_person(subject, read_at, chance):
    """Whether it is ours or somebody else's is not for a machine to guess."""
    decision = judge(FOUND["ambiguous"], subject, POLICY, read_at=read_at, chance=chance)

    assert (State.ESCALATED, subject.read_back.reason) == (decision.transition.to, decision.reason)
    assert decision.transition.in_doubt >= subject.standing.in_doubt
    assert decision.transition.absent_at is None


BEGINNINGS = {
    "in doubt": InDoubt(problem=PROBLEM),
    "not sent": NotSent(problem=PROBLEM),
    "refused": Rejected(problem=PROBLEM),
    "pending": Succeeded(result=KNOWN, status=200, settled=False),
}


def walk(decision, standing, readings):
    """Follow a read-back from the attempt that began it; return each judgement with what it was judged on."""
    steps = []
    for name in readings:
        transition = decision.transition
        if transition.read_back is None:
            break
        standing = replace(
            standing, failures=transition.failures, throttles=transition.throttles, in_doubt=transition.in_doubt
        )
        subject = Subject(
            standing=standing,
            read_back=transition.read_back,
            problem=transition.problem,
            result=transition.result,
        )
        decision = judge(FOUND[name], subject, POLICY, read_at=transition.due_at, chance=0.0)
        steps.append((name, decision))

    return steps


@given(
    began=st.sampled_from(sorted(BEGINNINGS)),
    safety=st.sampled_from([Safety.KEYED, Safety.UNKEYED_READABLE]),
    failures=st.integers(min_value=0, max_value=3),
    ended_here=st.booleans(),
    readings=st.lists(found_names, max_size=12),
)
def test_however_a_read_back_goes_what_it_plans_may_be_sent(began, safety, failures, ended_here, readings):
    """From the attempt to the last reading: no send that would be refused, none that a stalled process may double."""
    standing = Standing(
        safety=safety,
        readable=True,
        failures=failures,
        in_doubt=began == "refused" and safety.has_key,
        first_sent_at=NOON,
    )
    decision = decide(BEGINNINGS[began], standing, POLICY, ended_at=NOON, chance=0.0, ended_here=ended_here)

    steps = walk(decision, standing, readings)

    for name, judgement in steps:
        transition = judgement.transition
        if transition.to is State.PENDING and transition.read_back is None:
            after = replace(standing, in_doubt=transition.in_doubt, absent_at=transition.absent_at)
            assert refuse_send(after, POLICY, now=transition.due_at) is None
            assert ended_here
        if transition.to is State.REJECTED:
            assert ("refused", "absent") == (began, name)


@given(
    purpose=st.sampled_from(sorted(OWN)),
    readings=st.lists(st.sampled_from(["absent", "unread", "ambiguous", "done"]), min_size=9, max_size=9),
)
def test_no_read_back_goes_on_for_ever(purpose, readings):
    """Somebody waits for its end: a repeat, a refusal or a ticket."""
    cell = Cell(found="unread", purpose=purpose, absences=0, failures=0, in_doubt=True, late=True)
    subject = subject_of(cell)
    first = judge(FOUND[readings[0]], subject, POLICY, read_at=NOON, chance=0.0)

    steps = walk(first, subject.standing, readings[1:])

    last = steps[-1][1] if steps else first
    assert last.transition.read_back is None


def test_what_told_nothing_has_a_name_of_its_own():
    """It is stored beside the findings, and is none."""
    assert UNREAD not in {each.name for each in (Done, Absent, Ambiguous)}


def test_the_purposes_that_are_stored_do_not_change():
    """They stand in rows, in case files and in other people's scripts."""
    assert ["repeat", "refusal", "ticket", "recheck", "settlement"] == [each.value for each in Purpose]
    assert ("done", "absent", "ambiguous", "unread") == VERDICTS
