from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.domain.order_rules import WAITS_FOR

LIFECYCLE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

KINDS = set(KLARNA_COMMANDS) | set(BLUESNAP_COMMANDS)

AUTHORIZATION = {
    "auth_reversal",
    "cancel",
    "extend_authorization_time",
    "release_remaining_authorization",
    "update_authorization",
}
SETTERS = {
    "update_customer_details",
    "update_merchant_references",
    "update_plan",
    "update_shopper",
    "update_subscription",
    "update_vendor",
}

#: What waits for what, in plain words; every kind that is not here waits for nothing.
RULES = {
    "capture": AUTHORIZATION,
    "refund": {"capture", "cancel_pending_refund"},
    "cancel_pending_refund": {"capture", "refund"},
    **{kind: {*AUTHORIZATION, "capture", "refund", "cancel_pending_refund"} for kind in AUTHORIZATION},
    **{kind: {kind} for kind in SETTERS},
}


def test_these_are_the_rules():
    """A missing one lets a refund overtake its capture; one too many makes an address wait 5 hours for nothing."""
    assert RULES == {kind: set(kinds) for kind, kinds in WAITS_FOR.items()}


def test_every_kind_that_a_rule_names_exists():
    """A rule about a misspelt kind would hold nothing back."""
    named = set(RULES) | set().union(*RULES.values())

    assert set() == named - KINDS


@pytest.mark.parametrize("kind", sorted(KINDS - set(RULES)))
def test_other_kinds_wait_for_nothing_and_hold_nothing_back(kind):
    """They only add, or only ask; the provider's own answer orders them."""
    assert kind not in WAITS_FOR
    assert not any(kind in waited_for for waited_for in WAITS_FOR.values())


def test_only_what_sets_a_value_waits_for_its_own_kind():
    """A retried old address must not overwrite a newer one; two captures of an order are independent."""
    own = {kind for kind, waited_for in WAITS_FOR.items() if kind in waited_for}

    assert AUTHORIZATION | SETTERS == own


def test_the_page_shows_these_rules():
    """Whoever wonders why a refund does not move looks there."""
    section = re.search(r"^## Order rules\n(.*?)^## ", LIFECYCLE.read_text("utf-8"), re.DOTALL | re.MULTILINE)

    shown = {
        kind: set(re.findall(r"`(\w+)`", waited_for))
        for kind, waited_for in re.findall(r"^\| `(\w+)` \| (.+) \|$", section[1], re.MULTILINE)
    }

    assert RULES == shown
