"""The judge itself, on made-up rows and effects: what it must find, and what it must let pass."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from tests.chaos.judge import Facts, Link, Row, judge, unsafe

NUMBERS = iter(range(1, 1_000))


def row(**changes):
    number = next(NUMBERS)
    fields = {
        "id": uuid.UUID(int=number),
        "account": "klarna-eu",
        "kind": "capture",
        "order_id": f"order-{number}",
        "idempotency_key": f"key-{number}",
        "seq": number,
        "state": "succeeded",
        "claims": 1,
        "attempts": 1,
        "failures": 0,
        "in_doubt": False,
        "is_overdue": False,
        "is_lease_over": False,
        "purpose": None,
        "is_read_back": False,
        "sends": 1,
        "answers": 1,
    }

    return Row(**{**fields, **changes})


def effect(of, **changes):
    fields = {
        "number": next(NUMBERS),
        "actor": "client",
        "kind": of.kind,
        "order_id": of.order_id,
        "key": of.idempotency_key,
        "reference": None,
    }

    return {**fields, **changes}


def link(of, **changes):
    fields = {
        "command_id": of.id,
        "ticket_id": uuid.uuid4(),
        "account": of.account,
        "reason": "refused",
        "is_incident": False,
        "is_told": True,
    }

    return Link(**{**fields, **changes})


def promises(rows, effects=(), links=(), **more):
    confirmed = more.pop("confirmed", [each.id for each in rows])

    return [each.promise for each in judge(Facts(confirmed=confirmed, rows=rows, effects=effects, links=links, **more))]


def test_what_was_done_once_and_said_so_is_in_order():
    """A judge that finds fault with everything is soon switched off."""
    one, other = row(), row(kind="read_order")

    assert [] == promises([one, other], [effect(one)])


def test_a_confirmed_command_that_is_not_there_is_lost():
    """The shop's commit came through, so the command exists."""
    assert ["lost"] == promises([], confirmed=[uuid.uuid4()])


def test_a_success_without_an_effect_is_lost_money():
    """Our own ledger is not believed: the provider's is."""
    assert ["lost"] == promises([row()])


def test_two_effects_of_one_command_are_doubled_money():
    """This is what the whole project is against."""
    one = row()

    assert ["doubled"] == promises([one], [effect(one), effect(one)])


def test_two_effects_of_a_change_without_a_key_are_found_by_what_they_did():
    """BlueSnap's PUT carries no key that could tell them apart."""
    one = row(account="bluesnap-us", kind="update_shopper")
    did = {"kind": "update_vaulted_shopper", "key": None}

    assert [] == promises([one], [effect(one, **did)])
    assert ["doubled"] == promises([one], [effect(one, **did), effect(one, **did)])


def test_an_effect_of_no_command_is_found():
    """Somebody sent what nobody had asked for."""
    one = row()

    assert ["doubled"] == promises([one], [effect(one), effect(one, key="another")])


def test_a_strangers_effect_is_not_ours():
    """A merchant's own portal may capture too."""
    one = row()

    assert [] == promises([one], [effect(one), effect(one, key=None, actor="stranger")])


@pytest.mark.parametrize("state", ["pending", "executing"])
def test_what_does_not_come_to_rest_is_stuck(state):
    """It is neither done nor does anybody know."""
    assert ["stuck"] == promises([row(state=state, sends=0, answers=0, attempts=0)])


def test_a_lease_beyond_its_term_is_stuck():
    """Sweep should have taken it over."""
    assert ["stuck", "stuck"] == promises([row(state="executing", is_lease_over=True)])


def test_a_refund_may_wait_for_the_person_who_decides_about_its_capture():
    """That is a rule of the house and not a loss."""
    capture = row(state="escalated", order_id="o")
    refund = row(state="pending", kind="refund", order_id="o", sends=0, answers=0, attempts=0, claims=0)

    assert [] == promises([capture, refund], links=[link(capture)])
    assert ["stuck"] == promises([capture, replace(refund, order_id="another")], links=[link(capture)])


def test_a_refusal_of_what_was_done_is_untrue():
    """The shop would charge once more under another name."""
    one = row(state="rejected")

    assert ["untrue"] == promises([one], [effect(one)], [link(one)])


def test_a_command_in_doubt_may_have_its_effect():
    """That is what doubt means; a person was told."""
    one = row(state="escalated", in_doubt=True)

    assert [] == promises([one], [effect(one)], [link(one)])


def test_a_command_that_is_not_in_doubt_has_no_effect():
    """An operator would send it again with a clear conscience."""
    one = row(state="escalated")

    assert ["untrue"] == promises([one], [effect(one)], [link(one)])


@pytest.mark.parametrize("state", ["escalated", "rejected"])
@pytest.mark.parametrize("count", [0, 2])
def test_whoever_is_with_a_person_has_exactly_one_ticket(state, count):
    """None is silence, two are two people who decide."""
    one = row(state=state)

    assert ["untold"] == promises([one], links=[link(one) for _ in range(count)])


def test_a_ticket_that_its_desk_was_not_told_of_is_not_safe():
    """Nobody reads our tables."""
    one = row(state="escalated")

    assert [one] == unsafe([one], [link(one, is_told=False)])


def test_two_open_tickets_about_one_cause_are_found():
    """An outage makes one ticket."""
    one, other = row(state="escalated"), row(state="escalated")
    about = {"reason": "ladder_exhausted", "is_incident": True}

    assert ["untold"] == promises([one, other], links=[link(one, **about), link(other, **about)])


def test_a_send_that_is_not_in_the_ledger_is_found():
    """The intent is written first, and every intent gets an outcome."""
    one, other = row(sends=2), row(answers=0)

    assert ["untrue", "untrue", "untrue"] == promises([one, other], [effect(one), effect(other)])


def test_more_than_the_quota_and_once_as_much_is_exceeded():
    """What a line held back arrives together, but not more."""
    second = {"account": "", "category": "order-management", "admitted": 10}

    assert [] == promises([], seconds=[{**second, "throttled": 10}], quota=10)
    assert ["exceeded"] == promises([], seconds=[{**second, "throttled": 11}], quota=10)


def test_a_worker_that_lives_and_takes_nothing_is_found():
    """The others do its work until they fall silent too."""
    assert ["silent"] == promises([], silent=["chaos-1"])


def test_an_end_that_was_changed_is_found():
    """A worker that wakes up late must not overwrite its successor."""
    one = row()

    assert ["overwritten"] == promises([one], [effect(one)], overwritten=[(one.id, "succeeded", "pending")])
