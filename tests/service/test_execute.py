from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from tests.service.stage import ACCOUNT, KEY, LEASE, NOON, Died, FailingStore, Interrupted, Watched, die
from worker.domain.klarna_commands import (
    KLARNA_COMMANDS,
    Capture,
    ReadOrder,
    Refund,
    UpdateAuthorization,
    UpdateMerchantReferences,
)
from worker.ports import StoreUnavailable

SECOND = timedelta(seconds=1)
FIVE_MINUTES = timedelta(minutes=5)


def shape(stage, command_id):
    """What a command has become, in one tuple: state, in doubt, failures, and what is open about it."""
    command = stage.command(command_id)

    return command.state.value, command.in_doubt, command.failures, stage.open_tickets(command_id)


# --- each outcome, from enqueue to row ---------------------------------------------------------------------


def test_a_command_that_the_provider_did_is_succeeded(each_stage):
    """The shop sees the capture's id, and support the correlation id."""
    command_id = each_stage.capture(amount=700)

    counts = each_stage.execute(command_id)

    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert {"claimed": 1, "succeeded": 1, "now_succeeded": 1} == {name: n for name, n in counts.items() if n}
    assert each_stage.command(command_id).result.keys() == {"capture_id", "correlation_id"}
    assert [("capture", 700)] == each_stage.effects()


def test_a_read_brings_its_answer_home(stage):
    """It is the result that the shop asked for."""
    order_id = stage.order(amount=4_200)
    command_id = stage.enqueue(ReadOrder(account=ACCOUNT, order_id=order_id))

    stage.execute(command_id)

    assert 4_200 == stage.command(command_id).result["answer"]["order_amount"]


def test_a_refused_command_is_rejected_and_has_its_own_ticket(each_stage):
    """The provider has said no, and somebody must know."""
    command_id = each_stage.capture(each_stage.order(amount=100), amount=5_000)

    each_stage.execute(command_id)

    assert ("rejected", False, 0, ["refused"]) == shape(each_stage, command_id)
    assert "CAPTURE_NOT_ALLOWED" == each_stage.command(command_id).problem.code


def test_counts_name_the_problem_and_the_ticket(stage):
    """In Flower they are all that a person sees of what went wrong."""
    command_id = stage.capture(stage.order(amount=100), amount=5_000)

    counts = stage.execute(command_id)

    assert {
        "claimed": 1,
        "rejected": 1,
        "now_rejected": 1,
        "403 CAPTURE_NOT_ALLOWED": 1,
        "ticket_refused": 1,
    } == {name: n for name, n in counts.items() if n}


def test_an_answer_of_later_climbs_a_rung_without_doubt(stage):
    """PAYMENT_METHOD_FAILED did nothing, and is not final."""
    stage.world.fault("payment_method_failed")
    command_id = stage.capture()

    stage.execute(command_id)

    assert ("pending", False, 1, []) == shape(stage, command_id)
    assert NOON + 5 * SECOND == stage.command(command_id).due_at


def test_refused_credentials_escalate_at_once(each_stage):
    """Nothing of this account will work until they are mended; five hours of tries would only hide it."""
    each_stage.world.fault("status", status=401, body="html")
    command_id = each_stage.capture()

    each_stage.execute(command_id)

    assert ("escalated", False, 0, ["credentials_refused"]) == shape(each_stage, command_id)


def test_what_was_not_sent_climbs_a_rung_without_doubt(stage):
    """The connection never came up, so nothing can have happened."""
    stage.transport.refuse_connections()
    command_id = stage.capture()

    stage.execute(command_id)

    assert ("pending", False, 1, []) == shape(stage, command_id)
    assert ["not_sent"] == stage.outcomes(command_id)


def test_a_429_costs_no_rung(each_stage):
    """It was not executed and says nothing about the command."""
    each_stage.world.fault("throttle", times=3)
    command_id = each_stage.capture()

    each_stage.work(timedelta(seconds=10), tick=SECOND)

    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert ["throttled", "throttled", "throttled", "succeeded"] == each_stage.outcomes(command_id)


def test_429s_in_a_row_wait_ever_longer(stage):
    """Half of 1 s, 2 s and 4 s here, where chance is a half; then the attempt that got through ends the series."""
    stage.world.fault("throttle", times=3)
    command_id = stage.capture()
    waits = []

    for _ in range(3):
        stage.execute(command_id)
        waits.append((stage.command(command_id).due_at - stage.clock.now).total_seconds())
        stage.advance(waits[-1])
    stage.world.fault("status", status=503)
    stage.execute(command_id)

    assert [0.5, 1.0, 2.0] == waits
    assert (0, 1) == (stage.command(command_id).throttles, stage.command(command_id).failures)


@pytest.mark.parametrize(
    ("fault", "options", "code"),
    [
        ("drop_reply", {}, "no_answer"),
        ("reset", {"executed": True}, "reset"),
        ("hang", {"executed": True}, "no_answer"),
        ("execute_then_status", {"status": 503}, "TEMPORARILY_UNAVAILABLE"),
        ("html", {"executed": True}, "unexplained_502"),
        ("html", {"status": 403}, "unexplained_403"),
        ("status", {"status": 409}, "CONFLICT"),
        ("truncated", {"status": 500}, "truncated_500"),
        ("delay", {"seconds": 40.0}, "no_answer"),
    ],
    ids=str,
)
def test_what_may_have_been_done_is_in_doubt_until_the_key_brings_its_answer(stage, fault, options, code):
    """The retry goes under the same key, so it gets the first answer, or is the first."""
    stage.world.fault(fault, **options)
    command_id = stage.capture()

    stage.execute(command_id)
    in_between = shape(stage, command_id), stage.command(command_id).problem.code
    stage.work(timedelta(minutes=6))

    assert (("pending", True, 1, []), code) == in_between
    assert ("succeeded", False) == shape(stage, command_id)[:2]
    assert [("capture", 1000)] == stage.effects()


def test_a_read_is_never_in_doubt(stage):
    """It changes nothing, so nothing about it can be unknown."""
    stage.world.fault("status", status=503)
    command_id = stage.enqueue(ReadOrder(account=ACCOUNT, order_id=stage.order()))

    stage.execute(command_id)

    assert ("pending", False, 1, []) == shape(stage, command_id)


def test_every_kind_is_carried_out(stage):
    """Eighteen operations, each against the provider's own laws."""
    shown = stage.world.create_order(amount=10_000, status="PART_CAPTURED")
    order_id, capture_id = shown["order_id"], shown["captures"][0]["capture_id"]
    parcel = [{"shipping_company": "DHL"}]
    fields = {
        "capture": {"amount": 100},
        "refund": {"amount": 100},
        "update_authorization": {"amount": 11_000},
        "update_customer_details": {"shipping_address": {"city": "Knoxville"}},
        "update_merchant_references": {"merchant_reference1": "10001"},
        "add_order_shipping_info": {"shipping_info": parcel},
        "add_capture_shipping_info": {"capture_id": capture_id, "shipping_info": parcel},
        "trigger_send_out": {"capture_id": capture_id},
        "extend_due_date": {"capture_id": capture_id, "number_of_days": 14},
        "read_capture": {"capture_id": capture_id},
        "read_due_date_options": {"capture_id": capture_id},
    }
    own_order = {"cancel": stage.order(), "release_remaining_authorization": stage.order(status="PART_CAPTURED")}
    ids = stage.enqueue_many(
        [
            KLARNA_COMMANDS[kind](account=ACCOUNT, order_id=own_order.get(kind, order_id), **fields.get(kind, {}))
            for kind in sorted(set(KLARNA_COMMANDS) - {"read_refund"})
        ]
    )

    stage.execute(*ids)
    refund_id = next(each["id"] for each in stage.world.effects() if each["kind"] == "refund")
    ids += stage.enqueue_many([KLARNA_COMMANDS["read_refund"](account=ACCOUNT, order_id=order_id, refund_id=refund_id)])
    stage.execute(ids[-1])

    assert set(KLARNA_COMMANDS) == {each.kind for each in stage.commands()}
    assert ["succeeded"] * 18 == stage.states()


# --- the ladder on a virtual clock -------------------------------------------------------------------------


def test_the_ladder_is_climbed_at_its_very_moments_and_ends_in_one_ticket(each_stage):
    """Sends at T, +5 s, +5 min 5 s, +5 h 5 min 5 s; the same key, the same bytes; then a person."""
    each_stage.world.fault("status", status=503, times=None)
    command_id = each_stage.unreadable(reference="shipment-1")

    each_stage.work(timedelta(hours=8), tick=FIVE_MINUTES)

    sends = [each.started_at - NOON for each in each_stage.attempts(command_id)]
    assert [
        timedelta(0),
        timedelta(seconds=5),
        timedelta(minutes=5, seconds=5),
        timedelta(hours=5, minutes=5, seconds=5),
    ] == sends
    assert ("escalated", True, 4, ["ladder_exhausted"]) == shape(each_stage, command_id)
    assert 1 == len(each_stage.desk.told)
    seen = each_stage.world.requests()
    assert [5, 300, 18_000] == [
        pytest.approx((_at(later) - _at(earlier)).total_seconds(), abs=2) for earlier, later in pairwise(seen)
    ]
    assert {(each["headers"][KEY], each["body"]) for each in seen} == {
        (each_stage.command(command_id).idempotency_key, seen[0]["body"])
    }


def _at(seen):
    return datetime.fromisoformat(seen["at"])


def test_near_waits_are_countdowns_and_the_far_one_stays_in_the_database(each_stage):
    """A countdown beyond the broker's visibility timeout would be delivered again and again."""
    each_stage.world.fault("status", status=503, times=None)
    command_id = each_stage.capture()

    each_stage.execute(command_id)
    for wait in (5.0, 300.0):
        each_stage.advance(wait)
        each_stage.deliver()
    after_the_third = each_stage.countdowns()
    each_stage.advance(5 * 3600 - 6 * 60 - 1)
    too_early = each_stage.dispatch()
    each_stage.advance(1)
    each_stage.dispatch()

    assert [5.0, 300.0] == after_the_third
    assert 0 == too_early["commands"]
    assert [5.0, 300.0, 360.0] == each_stage.countdowns()


def test_no_countdown_is_asked_for_while_the_broker_holds_enough(stage):
    """Dispatch hands the command out when it is due."""
    stage.publisher._held = 0
    stage.world.fault("status", status=503)
    command_id = stage.capture()

    stage.execute(command_id)
    stage.advance(5)
    stage.dispatch()

    assert [None] == stage.countdowns()
    assert stage.deliver()
    assert "succeeded" == stage.command(command_id).state


def test_retries_that_are_due_together_share_a_message(stage):
    """A thousand countdowns of one batch would be a thousand timers in a worker's memory."""
    stage.world.fault("status", status=503, times=None)
    ids = [stage.capture() for _ in range(3)]

    stage.execute(*ids)

    (message,) = stage.publisher.sent
    assert set(ids) == set(message.ids)
    assert message.label.startswith("3 commands: capture klarna-eu ")
    assert message.label.endswith(" try 2 of 4 …")


def test_a_success_on_the_way_ends_the_ladder(stage):
    """Nothing is sent again, and nobody is told."""
    stage.world.fault("status", status=503, times=2)
    command_id = stage.capture()

    stage.work(timedelta(hours=8), tick=FIVE_MINUTES)

    assert ("succeeded", False, 2, []) == shape(stage, command_id)
    assert 3 == len(stage.world.requests())
    assert [] == stage.desk.told


# --- what is not safe to repeat ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "options", "in_doubt"),
    [("drop_reply", {}, True), ("status", {"status": 503}, True), ("status", {"status": 409}, True)],
    ids=["lost reply", "503", "409"],
)
def test_a_change_without_a_key_that_cannot_be_read_back_escalates_at_once(each_stage, fault, options, in_doubt):
    """Nothing at the provider would recognise the repeat, and nothing there shows what became of the first."""
    each_stage.world.fault(fault, **options)
    command_id = each_stage.unreadable(keyed=False)

    each_stage.work(timedelta(hours=8), tick=FIVE_MINUTES)

    assert ("escalated", in_doubt, 1, ["not_safe_to_retry"]) == shape(each_stage, command_id)
    assert 1 == len(each_stage.world.requests())
    assert KEY not in each_stage.world.requests()[0]["headers"]


def test_a_change_without_a_key_that_was_not_sent_escalates_too(stage):
    """There is nothing to read that would prove it; the operator may send it again."""
    stage.transport.refuse_connections()
    command_id = stage.unreadable(keyed=False)

    stage.work(timedelta(hours=8), tick=FIVE_MINUTES)

    assert ("escalated", False, 1, ["not_safe_to_retry"]) == shape(stage, command_id)


def test_a_change_without_a_key_waits_out_a_429(stage):
    """It was definitely not executed."""
    stage.world.fault("throttle", times=2)
    command_id = stage.capture(keyed=False)

    stage.work(timedelta(seconds=20), tick=SECOND)

    assert ("succeeded", False, 0, []) == shape(stage, command_id)


def test_a_change_without_a_key_that_was_refused_is_rejected(stage):
    """A definite answer is a definite answer."""
    command_id = stage.capture(stage.order(amount=10), amount=100, keyed=False)

    stage.execute(command_id)

    assert ("rejected", False, 0, ["refused"]) == shape(stage, command_id)


def test_a_refusal_after_doubt_is_not_believed(each_stage):
    """The first attempt may be why the second was refused, and nothing at the provider shows whether it is."""
    each_stage.world.fault("drop_reply")
    each_stage.world.fault("singular_error")
    command_id = each_stage.unreadable()

    each_stage.work(timedelta(minutes=1))

    assert ("escalated", True, 1, ["refused_after_doubt"]) == shape(each_stage, command_id)
    assert [("acknowledge", None)] == each_stage.effects()


@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        ("singular_error", {}, ("pending", True, 0, [])),
        ("throttle", {}, ("pending", True, 0, [])),
        ("payment_method_failed", {}, ("pending", True, 1, [])),
        ("status", {"status": 401}, ("escalated", True, 0, ["credentials_refused"])),
    ],
    ids=["refused", "429", "not now", "401"],
)
def test_a_refusal_of_a_silent_repeat_leaves_it_in_doubt(stage, fault, options, expected):
    """The library had sent it before, on a kept connection that died: that sending was carried out here."""
    stage.execute(stage.capture())
    stage.world.fault("drop_reply")
    stage.world.fault(fault, **options)
    command_id = stage.capture(amount=700)

    stage.execute(command_id)

    assert expected == shape(stage, command_id)
    assert [("capture", 1000), ("capture", 700)] == stage.effects()


def test_nothing_is_sent_once_the_key_window_has_closed(each_stage):
    """The provider may have forgotten the key."""
    each_stage.world.fault("status", status=503)
    command_id = each_stage.unreadable()
    each_stage.execute(command_id)

    each_stage.advance(24 * 3600 - 300)
    each_stage.execute(command_id)

    assert ("escalated", True, 1, ["key_window_closed"]) == shape(each_stage, command_id)
    assert 1 == len(each_stage.world.requests())
    assert 2 == each_stage.command(command_id).claims
    assert ["in_doubt"] == each_stage.outcomes(command_id)


def test_just_before_the_key_window_closes_it_is_sent(stage):
    """The last microsecond of the window is inside it."""
    stage.world.fault("drop_reply")
    command_id = stage.capture()
    stage.execute(command_id)

    stage.clock.advance(timedelta(hours=24, minutes=-5) - timedelta(microseconds=1))
    stage.execute(command_id)

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert [("capture", 1000)] == stage.effects()


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
def test_a_doubled_message_does_nothing(stage, times):
    """The broker may deliver as often as it likes."""
    command_id = stage.capture()
    stage.execute(command_id)

    counts = [stage.execute(command_id) for _ in range(times)]

    assert [0] * times == [each["claimed"] for each in counts]
    assert 1 == len(stage.world.requests())


def test_an_early_message_does_nothing(stage):
    """The database says what is due."""
    stage.world.fault("status", status=503)
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(4)

    counts = stage.execute(command_id)

    assert 0 == counts["claimed"]
    assert 1 == len(stage.world.requests())


def test_a_message_about_nothing_does_nothing(stage):
    """Rows may be pruned while a message lies at the broker."""
    assert 0 == stage.execute(uuid4())["claimed"]


def test_a_command_enqueued_for_later_waits(stage):
    """`due_at` is the caller's to choose."""
    command_id = stage.capture(due_at=NOON + timedelta(hours=1))

    stage.work(timedelta(minutes=59))
    before = stage.command(command_id).state.value
    stage.work(timedelta(minutes=2))

    assert ("pending", "succeeded") == (before, stage.command(command_id).state.value)
    assert NOON + timedelta(hours=1) == stage.attempts(command_id)[0].started_at


# --- a task and its backlog --------------------------------------------------------------------------------


def test_a_batch_takes_further_due_commands(each_stage):
    """A message that found a backlog stays until it is gone."""
    ids = [each_stage.capture() for _ in range(7)]

    counts = each_stage.execute(*ids[:2])

    assert 7 == counts["claimed"]
    assert ["succeeded"] * 7 == each_stage.states()


def test_a_window_bounds_what_is_in_flight(stage):
    """The provider's connections are not endless."""
    stage.window = 3
    for _ in range(10):
        stage.capture()
    watched = Watched(stage.transport)

    counts = stage.execute(uuid4(), uuid4(), transport=watched)

    assert 10 == counts["claimed"]
    assert 3 == max(watched.seen)


def test_what_a_capture_held_back_follows_in_the_same_task(each_stage):
    """A refund should not wait for the next tick."""
    order_id = each_stage.order()
    capture = each_stage.capture(order_id)
    refund = each_stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=300))

    counts = each_stage.execute(capture)

    assert 2 == counts["claimed"]
    assert "succeeded" == each_stage.command(refund).state


def test_a_slow_answer_idles_nobody_else(stage):
    """One call that hangs must not hold the other slots."""
    slow, quick = stage.order(), [stage.capture() for _ in range(4)]
    stage.world.fault("hang", order_id=slow)
    hanging = stage.capture(slow)

    stage.execute(hanging)

    (attempt,) = stage.attempts(hanging)
    assert timedelta(seconds=30) == attempt.finished_at - attempt.started_at
    assert all(stage.command(each).finalized_at < NOON + SECOND for each in quick)


def test_beside_a_slow_answer_what_was_recorded_makes_room_at_once(stage):
    """A task that looked for more only when an answer came would idle its window as long as one call hangs."""
    stage.world.fault("delay", seconds=20)
    stage.window = 10
    slow = stage.capture()
    quick = [stage.capture() for _ in range(90)]

    stage.execute(slow, *quick[:9])

    ended = max(stage.command(each).finalized_at for each in quick)
    assert ended - NOON < 2 * SECOND


def test_one_retry_does_not_wait_for_the_slowest_answer(stage):
    """Each answer is recorded as it arrives, so its wait runs from its own end."""
    slow, failing = stage.order(), stage.order()
    stage.world.fault("hang", order_id=slow, times=None)
    stage.world.fault("status", status=503, order_id=failing)
    ids = [stage.capture(slow), stage.capture(failing)]

    stage.execute(*ids)

    assert NOON == stage.attempts(ids[1])[0].finished_at
    assert "succeeded" == stage.command(ids[1]).state


def test_a_task_leaves_when_its_time_is_up(stage):
    """Flower should show tasks that end, and a restart should not wait for a backlog."""
    stage.window = 1
    stage.world.fault("delay", seconds=10.0, times=None)
    for _ in range(8):
        stage.capture()

    counts = stage.execute(uuid4(), uuid4())

    assert 3 == counts["claimed"]
    assert 5 == stage.states().count("pending")


def test_a_stop_ends_what_is_in_flight_and_takes_nothing_new(stage):
    """A warm shutdown loses nothing and begins nothing."""
    ids = [stage.capture() for _ in range(6)]
    stage.window = 2

    def stop():
        stage.is_stopping = True

    counts = stage.execute(*ids[:2], transport=Interrupted(stage.transport, before="collect", then=stop))

    assert 2 == counts["claimed"]
    assert ["succeeded"] * 2 + ["pending"] * 4 == stage.states()


# --- order rules -------------------------------------------------------------------------------------------


def test_two_commands_of_one_order_are_never_in_flight_together(each_stage):
    """The provider's state of an order is one, and answers would depend on who came first."""
    order_id = each_stage.order()
    ids = [each_stage.capture(order_id, amount=100, reference=str(n)) for n in range(3)]
    watched = Watched(each_stage.transport)

    each_stage.execute(*ids, transport=watched)

    assert {1} == set(watched.seen)
    assert [("capture", 100)] * 3 == each_stage.effects()


def test_an_order_in_flight_holds_back_nobody_else(each_stage):
    """One slow order must not cost the rest of a batch its turn."""
    order_id = each_stage.order()
    first, second = (each_stage.capture(order_id, amount=100, reference=name) for name in ("first", "second"))
    other = each_stage.capture()
    counts = []

    def meanwhile():
        counts.append(each_stage.execute(second, other, transport=each_stage.another_transport(), holder="worker-2"))

    each_stage.execute(first, transport=Interrupted(each_stage.transport, before="collect", then=meanwhile))

    assert [1] == [each["claimed"] for each in counts]
    assert "succeeded" == each_stage.command(other).state


def test_a_refund_waits_while_its_capture_is_on_the_ladder_and_an_update_does_not(stage):
    """Only what depends on the money waits for it."""
    order_id = stage.order()
    stage.world.fault("status", status=503, path="/captures$")
    capture = stage.capture(order_id)
    refund = stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=300))
    update = stage.enqueue(UpdateMerchantReferences(account=ACCOUNT, order_id=order_id, merchant_reference1="10001"))

    stage.execute(capture, refund, update)

    states = [stage.command(each).state.value for each in (capture, refund, update)]
    assert ["pending", "pending", "succeeded"] == states
    stage.work(timedelta(minutes=1))
    assert ["succeeded"] * 3 == stage.states()


def test_a_refund_waits_while_its_capture_is_with_a_person(stage):
    """Nobody knows yet whether there is anything to give back."""
    order_id = stage.order()
    stage.world.fault("status", status=401, path="/captures$")
    capture = stage.capture(order_id)
    refund = stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=300))
    stage.work(timedelta(hours=1))
    before = stage.states()

    stage.operator().retry(capture)
    stage.work(timedelta(minutes=1))

    assert ["escalated", "pending"] == before
    assert ["succeeded", "succeeded"] == [stage.command(each).state.value for each in (capture, refund)]


def test_a_rejected_capture_lets_its_refund_go(stage):
    """The provider's answer decides; it knows what there is to give back."""
    order_id = stage.order(amount=100)
    capture = stage.capture(order_id, amount=5_000)
    refund = stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=300))

    stage.execute(capture)

    assert ["rejected", "rejected"] == [stage.command(each).state.value for each in (capture, refund)]
    assert "REFUND_NOT_ALLOWED" == stage.command(refund).problem.code


def test_changes_of_the_authorization_and_captures_keep_their_order(each_stage):
    """A capture above the old amount needs the raise before it, and a cancel must not overtake a capture."""
    order_id = each_stage.order(amount=1_000)
    ids = each_stage.enqueue_many(
        [
            UpdateAuthorization(account=ACCOUNT, order_id=order_id, amount=5_000),
            Capture(account=ACCOUNT, order_id=order_id, amount=5_000),
            Refund(account=ACCOUNT, order_id=order_id, amount=5_000),
        ]
    )

    each_stage.execute(*reversed(ids))

    assert [("update_authorization", 5_000), ("capture", 5_000), ("refund", 5_000)] == each_stage.effects()


# --- accounts and providers that are not as they should be -------------------------------------------------


def test_a_keyed_command_of_an_unknown_account_climbs_the_ladder_unsent(stage):
    """A worker of the old version may meet a new account; the next one knows it."""
    command_id = stage.capture()

    stage.execute(command_id, accounts={})
    before = shape(stage, command_id), stage.command(command_id).problem.code
    stage.work(timedelta(minutes=1))

    assert (("pending", False, 1, []), "account_not_configured") == before
    assert "succeeded" == stage.command(command_id).state
    assert 1 == len(stage.attempts(command_id))


def test_an_account_that_stays_unknown_ends_in_a_ticket(stage):
    """Nobody is left out for being misspelt."""
    command_id = stage.capture()

    for _ in range(4):
        stage.execute(command_id, accounts={})
        stage.advance(5 * 3600)

    assert ("escalated", False, 4, ["ladder_exhausted"]) == shape(stage, command_id)
    assert [] == stage.world.requests()


def test_an_unkeyed_command_of_an_unknown_account_goes_to_a_person(stage):
    """Without its provider nobody can say whether it is a harmless read."""
    command_id = stage.capture(keyed=False)

    stage.execute(command_id, accounts={})

    assert ("escalated", False, 1, ["not_safe_to_retry"]) == shape(stage, command_id)
    assert [] == stage.world.requests()


class Broken:
    """A provider with a bug in one verb."""

    def __init__(self, provider, verb):
        self._provider, self._verb = provider, verb

    def __getattr__(self, name):
        if name == self._verb:
            raise RuntimeError("a bug")

        return getattr(self._provider, name)


@pytest.mark.parametrize(
    ("verb", "code", "in_doubt"), [("request", "request_not_built", False), ("outcome", "answer_not_understood", True)]
)
def test_a_bug_in_a_provider_harms_its_own_command_alone(stage, verb, code, in_doubt):
    """The batch goes on, and what was asked of the provider counts as asked."""
    account = replace(stage.accounts[ACCOUNT], provider=Broken(stage.accounts[ACCOUNT].provider, verb))
    broken = stage.capture()

    stage.execute(broken, accounts={ACCOUNT: account})

    assert ("pending", in_doubt, 1, []) == shape(stage, broken)
    assert code == stage.command(broken).problem.code


def test_a_transport_that_raises_harms_its_own_command_alone(stage):
    """What raised may have begun, so it is in doubt; the others are sent."""
    ids = [stage.capture() for _ in range(3)]

    def fail():
        raise RuntimeError("a bug")

    counts = stage.execute(*ids, transport=Interrupted(stage.transport, before="send", number=2, then=fail))

    assert 3 == counts["claimed"]
    assert ["pending", "succeeded", "succeeded"] == sorted(stage.states())
    (failed,) = [each for each in stage.commands() if each.state == "pending"]
    assert (True, 1, "send_failed") == (failed.in_doubt, failed.failures, failed.problem.code)


def test_a_bug_in_what_is_begun_next_costs_no_call_in_flight_its_answer(stage):
    """Money moved behind that answer; what could not be begun is handed back when its lease has run out."""
    stage.world.fault("delay", seconds=2)
    first = stage.capture()
    waiting = stage.capture(due_at=stage.clock.now + timedelta(seconds=1))

    def fail():
        raise RuntimeError("a bug")

    stage.execute(first, store=Interrupted(stage.store, before="begin", number=2, then=fail))

    assert "succeeded" == stage.command(first).state
    assert ("executing", 0) == (stage.command(waiting).state.value, stage.command(waiting).attempts)
    stage.work(LEASE * 2)
    assert "succeeded" == stage.command(waiting).state


# --- processes that die or stand still ---------------------------------------------------------------------


def test_a_death_between_claim_and_intent_costs_a_lease_and_nothing_else(each_stage):
    """Nothing was sent, so nothing is in doubt and no rung is climbed."""
    command_id = each_stage.capture()

    with pytest.raises(Died):
        each_stage.execute(command_id, store=Interrupted(each_stage.store, after="claim", then=die))
    each_stage.restart()
    each_stage.advance(LEASE.total_seconds() + 1)
    swept = each_stage.sweep()
    after = shape(each_stage, command_id)
    each_stage.work(timedelta(minutes=1))

    assert {"handed_back": 1} == {name: n for name, n in swept.items() if n}
    assert ("pending", False, 0, []) == after
    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert [("capture", 1000)] == each_stage.effects()


@pytest.mark.parametrize(
    ("part", "hook"),
    [("transport", {"before": "send"}), ("transport", {"after": "flush"}), ("transport", {"after": "collect"})],
    ids=["before the send", "after the send", "before the record"],
)
def test_a_death_after_the_intent_is_an_attempt_in_doubt_that_ended_with_the_lease(each_stage, part, hook):
    """Nobody can tell from outside whether the bytes had left."""
    command_id = each_stage.capture()

    with pytest.raises(Died):
        each_stage.execute(command_id, **{part: Interrupted(each_stage.transport, **hook, then=die)})
    each_stage.restart()
    each_stage.advance(LEASE.total_seconds() + 30)
    each_stage.sweep()

    command = each_stage.command(command_id)
    assert ("pending", True, 1, []) == shape(each_stage, command_id)
    assert NOON + LEASE + 5 * SECOND == command.due_at
    assert [("in_doubt", NOON + LEASE)] == [
        (each.outcome, each.finished_at) for each in each_stage.attempts(command_id)
    ]
    each_stage.work(timedelta(minutes=1))
    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert [("capture", 1000)] == each_stage.effects()


def test_a_death_after_the_intent_of_a_change_without_a_key_calls_a_person(stage):
    """It may have been sent, and must not be sent again."""
    command_id = stage.unreadable(keyed=False)

    with pytest.raises(Died):
        stage.execute(command_id, transport=Interrupted(stage.transport, after="flush", then=die))
    stage.restart()
    stage.work(timedelta(hours=1))

    assert ("escalated", True, 1, ["not_safe_to_retry"]) == shape(stage, command_id)
    assert 1 == len(stage.world.requests())


def test_a_worker_that_stood_still_before_its_intent_sends_nothing(each_stage):
    """Another has the command by then, and its fence is a new number."""
    command_id = each_stage.capture()

    def stand_still():
        each_stage.advance(LEASE.total_seconds() + 1)
        each_stage.sweep()
        each_stage.execute(command_id, transport=each_stage.another_transport(), holder="worker-2")

    each_stage.execute(command_id, store=Interrupted(each_stage.store, after="claim", then=stand_still))

    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert ["succeeded"] == each_stage.outcomes(command_id)
    assert 1 == len(each_stage.world.requests())


def test_a_worker_that_stood_still_right_before_its_intent_gives_the_command_back(stage):
    """With less of its lease left than a call may take, it does not even begin."""
    command_id = stage.capture()

    stage.execute(command_id, store=Interrupted(stage.store, before="begin", number=1, then=lambda: stage.advance(61)))

    assert [] == stage.world.requests()
    assert ("pending", False, 0, []) == shape(stage, command_id)
    assert ([], stage.clock.now) == (stage.outcomes(command_id), stage.command(command_id).due_at)


def test_a_worker_that_stood_still_after_its_intent_sends_nothing(stage):
    """Another may be sending by the time this one would have its answer."""
    command_id = stage.capture()

    stage.execute(command_id, store=Interrupted(stage.store, after="begin", number=1, then=lambda: stage.advance(61)))

    assert [] == stage.world.requests()
    assert ("pending", False, 1, []) == shape(stage, command_id)
    assert "lease_too_short" == stage.command(command_id).problem.code


def test_a_worker_that_wakes_up_after_its_lease_leaves_a_late_word_and_nothing_else(each_stage):
    """Its successor's result stands; people see that there were two answers."""
    command_id = each_stage.capture()

    def stand_still():
        each_stage.advance(LEASE.total_seconds() + 1)
        each_stage.sweep()
        each_stage.advance(5)
        each_stage.execute(command_id, transport=each_stage.another_transport(), holder="worker-2")

    counts = each_stage.execute(
        command_id, transport=Interrupted(each_stage.transport, after="collect", then=stand_still)
    )

    assert 1 == counts["superseded"]
    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert [(1, "in_doubt", False), (1, "succeeded", True), (2, "succeeded", False)] == [
        (each.number, each.outcome, each.late) for each in each_stage.attempts(command_id)
    ]
    assert [("capture", 1000)] == each_stage.effects()


def test_a_late_refusal_does_not_touch_what_was_decided_meanwhile(stage):
    """A worker that was presumed dead must not reject what its successor has done."""
    command_id = stage.capture()
    stage.world.fault("singular_error")

    def stand_still():
        stage.advance(LEASE.total_seconds() + 1)
        stage.sweep()
        stage.advance(5)
        stage.execute(command_id, transport=stage.another_transport(), holder="worker-2")

    stage.execute(command_id, transport=Interrupted(stage.transport, after="collect", then=stand_still))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)


# --- a database that goes away -----------------------------------------------------------------------------


def test_a_database_that_is_away_at_the_claim_is_the_callers_to_know(stage):
    """Nothing was taken; dispatch hands the ids out again."""
    command_id = stage.capture()

    with pytest.raises(StoreUnavailable):
        stage.execute(command_id, store=FailingStore(stage.store, claims=[1]))

    assert ("pending", False, 0, []) == shape(stage, command_id)
    stage.work(timedelta(minutes=1))
    assert "succeeded" == stage.command(command_id).state


def test_a_database_that_is_away_while_the_task_looks_for_more_ends_nothing(stage):
    """What is in flight is still recorded."""
    ids = [stage.capture() for _ in range(2)]

    counts = stage.execute(*ids, store=FailingStore(stage.store, claims=[2, 3, 4, 5]))

    assert 2 == counts["succeeded"]
    assert ["succeeded", "succeeded"] == stage.states()


@pytest.mark.parametrize("moment", ["begins", "commits"])
def test_a_database_that_is_away_at_the_intent_sends_nothing(each_stage, moment):
    """Without a stored intent, a crash after the send would be forgotten; the lease runs out and sweep takes over."""
    command_id = each_stage.capture()

    each_stage.execute(command_id, store=FailingStore(each_stage.store, **{moment: [1]}))
    sent = len(each_stage.world.requests())
    each_stage.work(timedelta(minutes=5))

    assert 0 == sent
    assert ("succeeded", False) == shape(each_stage, command_id)[:2]
    assert [("capture", 1000)] == each_stage.effects()


@pytest.mark.parametrize("away", [1, 5, 100])
def test_an_answer_is_recorded_when_the_database_is_back(each_stage, away):
    """The money has moved; the answer is worth waiting for while the lease lasts."""
    command_id = each_stage.capture()

    each_stage.execute(command_id, store=FailingStore(each_stage.store, begins=range(2, 2 + away)))

    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert NOON == each_stage.attempts(command_id)[0].finished_at
    assert 1 == len(each_stage.world.requests())


def test_the_wait_runs_from_the_answer_even_if_it_is_recorded_late(stage):
    """The outage of the database is not the provider's."""
    stage.world.fault("status", status=503)
    command_id = stage.capture()

    stage.execute(command_id, store=FailingStore(stage.store, begins=range(2, 8)))

    assert NOON + 3 * SECOND == stage.clock.now
    assert NOON + 5 * SECOND == stage.command(command_id).due_at


def test_a_database_that_stays_away_leaves_the_attempt_in_doubt(each_stage):
    """The lease has run out by then, and another may have the command."""
    command_id = each_stage.capture()

    each_stage.execute(command_id, store=FailingStore(each_stage.store, begins=range(2, 1_000)))
    state = each_stage.command(command_id).state.value
    each_stage.work(timedelta(minutes=1))

    assert "executing" == state
    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert ["in_doubt", "succeeded"] == each_stage.outcomes(command_id)
    assert [("capture", 1000)] == each_stage.effects()


@pytest.mark.parametrize("fault", [None, "status"], ids=["succeeded", "in doubt"])
def test_a_commit_whose_answer_was_lost_is_not_taken_for_a_failure(stage, fault):
    """The record is there; writing it again must change nothing."""
    if fault:
        stage.world.fault(fault, status=503)
    command_id = stage.capture()

    stage.execute(command_id, store=FailingStore(stage.store, commits=[2]))
    after = stage.command(command_id)
    stage.work(timedelta(minutes=5))

    assert (1, 1 if fault else 0) == (after.claims, after.failures)
    assert "succeeded" == stage.command(command_id).state
    assert [("capture", 1000)] == stage.effects()


# --- what is asked of the broker ---------------------------------------------------------------------------


def test_a_broker_that_is_away_costs_time_and_nothing_else(stage):
    """Dispatch finds every row."""
    stage.world.fault("status", status=503)
    stage.publisher.is_away = True
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(3600)

    stage.publisher.is_away = False
    stage.work(timedelta(minutes=1))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)


def test_what_is_written_to_the_provider_is_what_was_stored(stage):
    """Key and bytes are fixed at enqueue."""
    command_id = stage.capture(amount=700, description="two lamps", reference="shipment-1")
    stored = stage.command(command_id)

    stage.execute(command_id)

    (seen,) = stage.world.requests()
    assert (stored.payload.decode(), stored.idempotency_key) == (seen["body"], seen["headers"][KEY])
    assert {"captured_amount": 700, "description": "two lamps", "reference": stored.idempotency_key} == json.loads(
        seen["body"]
    )
