from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from worker.domain.ticket import HEADLINE, NEXT_STEPS, SYSTEMIC, Case, CaseFile, Reason, TicketState

CASE = Case(
    command_id=UUID(int=1),
    account="klarna-eu",
    kind="capture",
    order_id="order-1",
    reference="shipment-1",
    amount=12_345,
    idempotency_key="7d7f0000-0000-5000-8000-000000000001",
    state="escalated",
    in_doubt=True,
    key_window_left=None,
    problem=None,
    attempts=(),
)


@pytest.fixture
def case_file():
    def build(*cases, reason=Reason.LADDER_EXHAUSTED, total=None):
        return CaseFile(
            ticket_id=UUID(int=9),
            account="klarna-eu",
            reason=reason,
            opened_at=datetime(2026, 11, 22, 12, 0, tzinfo=UTC),
            cases=cases,
            total=len(cases) if total is None else total,
        )

    return build


by_reason = pytest.mark.parametrize("reason", Reason)


def verbs(reason):
    return set(re.findall(r"post-purchase (\w+) ID --by NAME --reason TEXT", " ".join(NEXT_STEPS[reason])))


@by_reason
def test_every_reason_says_what_happened_and_what_to_do(reason):
    """A ticket is read by someone who was asleep a minute ago."""
    assert HEADLINE[reason]
    assert len(NEXT_STEPS[reason]) >= 2


def test_a_refusal_has_a_ticket_of_its_own_and_a_common_cause_has_one_for_all():
    """An outage makes a handful of tickets; each refused or unsettled refund is a matter of its own."""
    assert set(Reason) - {Reason.REFUSED, Reason.REFUSED_AFTER_DOUBT, Reason.NOT_SETTLED} == SYSTEMIC


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.REFUSED, {"resolve"}),
        (Reason.REFUSED_AFTER_DOUBT, {"recheck", "resolve", "cancel"}),
        (Reason.LADDER_EXHAUSTED, {"recheck", "retry", "resolve", "cancel"}),
        (Reason.KEY_WINDOW_CLOSED, {"recheck", "retry", "resolve", "cancel"}),
        (Reason.NOT_SAFE_TO_RETRY, {"recheck", "retry", "resolve", "cancel"}),
        (Reason.CREDENTIALS_REFUSED, {"retry"}),
        (Reason.THROTTLED, {"cancel"}),
        (Reason.KEYS_NOT_ENABLED, {"resolve"}),
        (Reason.NOT_SETTLED, {"recheck", "resolve", "cancel"}),
    ],
)
def test_only_verbs_that_are_taken_are_proposed(reason, expected):
    """A command that has ended can only be resolved; a pending refund is not to be sent a second time."""
    assert expected == verbs(reason)


@pytest.mark.parametrize("reason", [Reason.KEY_WINDOW_CLOSED, Reason.NOT_SAFE_TO_RETRY])
def test_what_no_key_guards_is_proposed_for_a_retry_only_once_it_was_found_absent(reason):
    """The worker would refuse anything else, and whoever reads the step must know why."""
    (step,) = [each for each in NEXT_STEPS[reason] if "post-purchase retry" in each]

    assert step.startswith("Found absent: ")


@pytest.mark.parametrize(
    "reason", [each for each in Reason if each not in {Reason.REFUSED, Reason.CREDENTIALS_REFUSED, Reason.THROTTLED}]
)
def test_who_may_have_an_effect_is_looked_up_before_anything_is_decided(reason):
    """Cancelling what was carried out would tell the shop a lie, and retrying it would move money twice."""
    steps = NEXT_STEPS[reason]
    looks = [
        at for at, step in enumerate(steps) if "ook the " in step or "ook each one up" in step or "recheck" in step
    ]
    decides = [at for at, step in enumerate(steps) if re.search(r"post-purchase (retry|resolve|cancel)", step)]

    assert looks[0] < decides[0]


@pytest.mark.parametrize("reason", [each for each in Reason if "recheck" in verbs(each)])
def test_what_cannot_be_read_is_looked_up_by_hand(reason):
    """Not everything that a provider did can be read at it by the worker: a recheck of that is refused."""
    assert "ook the " in " ".join(NEXT_STEPS[reason])


@by_reason
def test_the_next_steps_of_a_case_file_are_those_of_its_reason(case_file, reason):
    """The desks print them as they are."""
    assert NEXT_STEPS[reason] == case_file(CASE, reason=reason).next_steps


def test_the_subject_names_account_reason_and_order(case_file):
    """It is all that a phone shows."""
    assert "[post-purchase] klarna-eu: The third retry failed (capture of order order-1)" == case_file(CASE).subject


def test_the_subject_of_many_says_how_many(case_file):
    """One order more and four thousand more are two different mornings."""
    other = replace(CASE, order_id="order-2")

    subject = case_file(CASE, other, total=4_000).subject

    assert "[post-purchase] klarna-eu: The third retry failed (capture of order order-1 and 3999 more)" == subject


def test_the_subject_of_a_ticket_without_news_counts(case_file):
    """Nothing is left to name."""
    assert "[post-purchase] klarna-eu: The third retry failed (3 commands)" == case_file(total=3).subject


def test_the_words_that_are_stored_do_not_change():
    """They stand in rows, in mails and in other people's scripts."""
    assert [
        "refused",
        "refused_after_doubt",
        "ladder_exhausted",
        "key_window_closed",
        "not_safe_to_retry",
        "credentials_refused",
        "throttled",
        "keys_not_enabled",
        "not_settled",
    ] == [each.value for each in Reason]
    assert ["unsent", "open", "closed"] == [each.value for each in TicketState]
