"""What became of a command is read before money moves again, a refusal is believed or a person is called."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.service.stage import ACCOUNT, BLUESNAP, KEY, LEASE, NOON, Died, Interrupted, die
from worker import bluesnap
from worker.domain.errors import IdempotencyConflict, VerbRefused
from worker.domain.klarna_commands import Acknowledge, Capture, Refund

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def transaction():
    """An authorisation of 10.00 USD at the sandbox; its id."""

    def open_one(stage, **fields):
        return stage.world.create_transaction(amount="10.00", **fields)["transactionId"]

    return open_one


def capture_of(transaction_id, *, amount=500, **fields):
    return bluesnap.Capture(account=BLUESNAP, order_id=transaction_id, amount=amount, currency="USD", **fields)


def refund_of(transaction_id, *, amount=500, **fields):
    return bluesnap.Refund(account=BLUESNAP, order_id=transaction_id, amount=amount, currency="USD", **fields)


def shape(stage, command_id):
    """State, doubt, rungs climbed, open tickets."""
    command = stage.command(command_id)

    return command.state.value, command.in_doubt, command.failures, stage.open_tickets(command_id)


def readings(stage, command_id):
    return [(each["purpose"], each["verdict"]) for each in stage.show(command_id)["readings"]]


def sends(stage):
    return [each["method"] for each in stage.world.requests() if each["method"] != "GET"]


# --- before an unkeyed change is repeated ------------------------------------------------------------------


def test_a_lost_reply_to_a_capture_without_a_key_is_found_and_not_repeated(each_stage, transaction):
    """BlueSnap looks at no key on PUT: a second capture of 5.00 on 10.00 would be taken."""
    each_stage.world.fault("drop_reply")
    command_id = each_stage.enqueue(capture_of(transaction(each_stage)))

    each_stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert [("repeat", "done")] == readings(each_stage, command_id)
    assert ["PUT"] == sends(each_stage)
    assert [("capture", "5.00")] == each_stage.effects()


def test_two_captures_of_half_an_authorization_are_two_effects(stage, transaction):
    """Each is its own, whatever became of the first one's reply."""
    transaction_id = transaction(stage)
    stage.world.fault("drop_reply")
    first, second = stage.enqueue_many([capture_of(transaction_id), capture_of(transaction_id)])

    stage.work(timedelta(hours=1))

    assert ["succeeded", "succeeded"] == [stage.command(each).state.value for each in (first, second)]
    assert [("capture", "5.00"), ("capture", "5.00")] == stage.effects()


def test_a_capture_that_was_found_absent_twice_is_sent_again(each_stage, transaction):
    """It was lost on the way there; the ladder goes on where it stood."""
    each_stage.world.fault("status", status=503)
    command_id = each_stage.enqueue(capture_of(transaction(each_stage)))

    each_stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert [("repeat", "absent")] * 2 == readings(each_stage, command_id)
    assert ["PUT", "PUT"] == sends(each_stage)
    assert [("capture", "5.00")] == each_stage.effects()


def test_each_reading_that_may_find_nothing_waits_longer_than_a_request_can_take(stage, transaction):
    """The request may still be under way when the first reading asks."""
    stage.world.fault("status", status=503)
    command_id = stage.enqueue(capture_of(transaction(stage)))

    stage.work(timedelta(hours=1), tick=SECOND)

    read_at = [each["read_at"] for each in stage.show(command_id)["readings"]]
    assert [(NOON + MINUTE).isoformat(), (NOON + 2 * MINUTE).isoformat()] == read_at


@pytest.mark.parametrize("after", [10, 61], ids=["before the first reading", "between the readings"])
def test_a_request_that_arrives_late_is_found_by_the_second_reading(stage, transaction, after):
    """Absent once is no proof."""
    stage.world.fault("hang", executed=False)
    transaction_id = transaction(stage)
    command_id = stage.enqueue(capture_of(transaction_id))
    stage.execute(command_id)
    key = stage.command(command_id).idempotency_key
    stage.work(timedelta(seconds=after), tick=SECOND)
    late = stage.another_transport()
    stage.dead.append(late)
    _send_as_it_was(stage, late, command_id)

    stage.work(timedelta(hours=1), tick=SECOND)

    assert "succeeded" == stage.command(command_id).state
    assert [("capture", "5.00")] == stage.effects()
    assert "done" == readings(stage, command_id)[-1][1], key


def _send_as_it_was(stage, transport, command_id):
    """The request of an attempt that everybody has given up, arriving after all."""
    provider, command = stage.accounts[BLUESNAP].provider, stage.command(command_id)
    transport.send(command_id, provider.request(command))
    stage.clock.advance(timedelta(milliseconds=1))
    transport.settle()


def test_a_capture_of_somebody_elses_leaves_it_to_a_person(stage, transaction):
    """Money was taken there, and nothing says whether it was for this command."""
    transaction_id = transaction(stage)
    stage.world.fault("status", status=503)
    command_id = stage.enqueue(capture_of(transaction_id))
    stage.execute(command_id)
    stage.world.fault("stranger", act="capture", amount="5.00", order_id=transaction_id, method="GET")

    stage.work(timedelta(hours=1))

    assert ("escalated", True, 1, ["not_safe_to_retry"]) == shape(stage, command_id)
    assert "ambiguous" == readings(stage, command_id)[-1][1]
    (told,) = stage.desk.told
    assert transaction_id in told.case_file.cases[0].readings[-1].evidence


def test_after_the_last_rung_it_is_read_once_more_for_the_case_file(stage, transaction):
    """The person who opens the ticket must not have to look it up again."""
    stage.world.fault("status", status=503, times=None, method="PUT")
    command_id = stage.enqueue(capture_of(transaction(stage)))

    stage.work(timedelta(hours=8), tick=timedelta(minutes=5))

    assert ("escalated", False, 4, ["ladder_exhausted"]) == shape(stage, command_id)
    assert [*[("repeat", "absent")] * 6, *[("ticket", "absent")] * 2] == readings(stage, command_id)
    assert ["PUT"] * 4 == sends(stage)


def test_a_change_whose_worker_died_is_never_sent_again_by_itself(each_stage, transaction):
    """A worker that stands still may still send; two readings cannot see into the future."""
    command_id = each_stage.enqueue(capture_of(transaction(each_stage)))
    with pytest.raises(Died):
        each_stage.execute(command_id, transport=Interrupted(each_stage.transport, before="send", then=die))
    each_stage.restart()

    each_stage.work(timedelta(hours=6), tick=timedelta(minutes=5))

    assert ("escalated", False, 1, ["not_safe_to_retry"]) == shape(each_stage, command_id)
    assert [("ticket", "absent")] * 2 == readings(each_stage, command_id)
    assert [] == sends(each_stage)


def test_a_change_whose_worker_died_after_it_was_done_is_found(stage, transaction):
    """The reply went to a process that was no more."""
    command_id = stage.enqueue(capture_of(transaction(stage)))
    with pytest.raises(Died):
        stage.execute(command_id, transport=Interrupted(stage.transport, after="flush", then=die))
    stage.restart()

    stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert [("capture", "5.00")] == stage.effects()


def test_a_key_that_the_account_does_not_honour_makes_a_change_unkeyed(stage):
    """With `keyed` off, Klarna's captures too are read before they are repeated."""
    stage.world.fault("drop_reply")
    command_id = stage.capture(keyed=False)

    stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert ["POST"] == sends(stage)
    assert KEY not in stage.world.requests()[0]["headers"]


# --- before a refusal is believed --------------------------------------------------------------------------


def test_a_refusal_of_what_was_done_before_is_read_as_success(each_stage):
    """`CAPTURE_NOT_ALLOWED` may mean: you have it already."""
    each_stage.world.fault("drop_reply")
    each_stage.world.fault("singular_error")
    command_id = each_stage.capture()

    each_stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert [("refusal", "done")] == readings(each_stage, command_id)
    assert [("capture", 1000)] == each_stage.effects()


def test_the_id_that_the_lost_reply_held_is_found(stage):
    """A refund needs the capture's id, and a success without it is half a success."""
    stage.world.fault("drop_reply")
    stage.world.fault("singular_error")
    order_id = stage.order()
    command_id = stage.capture(order_id)

    stage.work(timedelta(hours=1))

    (capture,) = stage.world.order(order_id)["captures"]
    assert capture["capture_id"] == stage.command(command_id).result["capture_id"]


def test_a_refusal_of_what_was_never_done_is_believed_after_two_readings(each_stage):
    """It was refused for good, and its own ticket says so."""
    each_stage.world.fault("status", status=503)
    each_stage.world.fault("singular_error")
    command_id = each_stage.capture()

    each_stage.work(timedelta(hours=1))

    assert ("rejected", False, 1, ["refused"]) == shape(each_stage, command_id)
    assert [("refusal", "absent")] * 2 == readings(each_stage, command_id)
    assert "NOT_ALLOWED" == each_stage.command(command_id).problem.code


def test_a_refusal_of_a_repeat_is_read_back_although_the_first_was_found_absent(stage, transaction):
    """Both readings lagged behind: what they missed is why the repeat is refused."""
    transaction_id = transaction(stage)
    stage.world.fault("drop_reply")
    stage.world.fault("stale_read", times=2, method="GET")
    command_id = stage.enqueue(capture_of(transaction_id, amount=1_000))

    stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert ["absent", "absent", "done"] == [verdict for _, verdict in readings(stage, command_id)]
    assert [("capture", "10.00")] == stage.effects()


def test_a_refusal_that_nothing_can_be_read_about_goes_to_a_person(stage):
    """The readings tell nothing; the case file says how often that was tried."""
    stage.world.fault("drop_reply")
    stage.world.fault("singular_error")
    stage.world.fault("status", status=503, times=None, method="GET")
    command_id = stage.capture()

    stage.work(timedelta(hours=7), tick=timedelta(minutes=5))

    assert ("escalated", True, 1, ["refused_after_doubt"]) == shape(stage, command_id)
    assert [("refusal", "unread")] * 4 == readings(stage, command_id)


# --- when the key counts no more ---------------------------------------------------------------------------


def closed_window(stage, *, done):
    stage.world.fault("drop_reply" if done else "status", **({} if done else {"status": 503}))
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(24 * 3600)

    return command_id


def test_a_closed_key_window_is_read_back_and_what_is_there_succeeds(each_stage):
    """All workers were down for a day; the capture was made before."""
    command_id = closed_window(each_stage, done=True)

    each_stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert ["POST"] == sends(each_stage)


def test_a_closed_key_window_is_not_sent_into_even_if_nothing_is_there(each_stage):
    """After the window only a person decides."""
    command_id = closed_window(each_stage, done=False)

    each_stage.work(timedelta(hours=1))

    assert ("escalated", False, 1, ["key_window_closed"]) == shape(each_stage, command_id)
    assert ["POST"] == sends(each_stage)


def test_what_was_found_absent_may_be_retried_within_the_hour(each_stage):
    """Nothing is there, so sending cannot be a second time."""
    command_id = closed_window(each_stage, done=False)
    each_stage.work(timedelta(minutes=5))

    each_stage.operator().retry(command_id)
    each_stage.work(MINUTE)

    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert [("capture", 1000)] == each_stage.effects()


def test_an_hour_later_it_must_be_rechecked_first(stage):
    """Somebody may have done it by hand meanwhile."""
    command_id = closed_window(stage, done=False)
    stage.work(timedelta(hours=2))

    with pytest.raises(VerbRefused, match=r"no longer honours.*post-purchase recheck"):
        stage.operator().retry(command_id)
    stage.operator().recheck(command_id)
    stage.work(timedelta(minutes=5))
    stage.operator().retry(command_id)
    stage.work(MINUTE)

    assert "succeeded" == stage.command(command_id).state


def test_after_the_window_a_lost_reply_is_read_back_before_anything_else(stage):
    """The old key may be forgotten: what was sent after the window is as good as without a key."""
    command_id = closed_window(stage, done=False)
    stage.work(timedelta(minutes=5))
    stage.world.fault("drop_reply")

    stage.operator().retry(command_id)
    stage.work(timedelta(hours=1))

    assert "succeeded" == stage.command(command_id).state
    assert [("capture", 1000)] == stage.effects()
    assert ["POST", "POST"] == sends(stage)


# --- on an operator's word ---------------------------------------------------------------------------------


def escalated_unseen(stage):
    """A capture that was made; nobody could read that, and it is with a person."""
    stage.world.fault("drop_reply")
    stage.world.fault("status", status=503, times=None, method="GET")
    command_id = stage.capture(keyed=False)
    stage.work(timedelta(hours=7), tick=timedelta(minutes=5))
    stage.world.clear_faults()

    return command_id


def test_a_recheck_that_finds_it_closes_the_ticket(each_stage):
    """The operator need not look it up by hand."""
    command_id = escalated_unseen(each_stage)

    each_stage.operator(by="night shift", why="Klarna reads again").recheck(command_id)
    each_stage.work(MINUTE)

    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)
    assert ("recheck", "done") == readings(each_stage, command_id)[-1]
    assert [("recheck", "night shift")] == [
        (each["verb"], each["by"]) for each in each_stage.show(command_id)["actions"]
    ]


def test_a_recheck_that_cannot_read_stays_with_the_person_under_the_same_reason(stage):
    """It is escalated again by the waits of seconds and minutes, not of hours: somebody is waiting."""
    command_id = escalated_unseen(stage)
    stage.world.fault("status", status=503, times=None, method="GET")

    stage.operator().recheck(command_id)
    stage.work(timedelta(minutes=10), tick=SECOND)

    assert ("escalated", True, 1, ["not_safe_to_retry"]) == shape(stage, command_id)
    assert [("recheck", "unread")] * 3 == readings(stage, command_id)[-3:]


def test_a_recheck_of_what_cannot_be_read_is_refused(stage):
    """It would tell nothing, and the operator must know where to look instead."""
    stage.world.fault("drop_reply")
    command_id = stage.unreadable(keyed=False)
    stage.execute(command_id)

    with pytest.raises(VerbRefused, match="look the order up at the provider"):
        stage.operator().recheck(command_id)

    assert "escalated" == stage.command(command_id).state


@pytest.mark.parametrize("verb", ["retry", "recheck", "resolve", "cancel"])
def test_while_it_is_being_read_nobody_decides_otherwise(stage, transaction, verb):
    """The result is a minute away."""
    stage.world.fault("status", status=503)
    command_id = stage.enqueue(capture_of(transaction(stage)))
    stage.execute(command_id)
    before = stage.show(command_id)

    with pytest.raises(VerbRefused):
        getattr(stage.operator(), verb)(command_id)

    assert before == stage.show(command_id)


# --- amend -------------------------------------------------------------------------------------------------


def test_a_rejected_command_is_amended_under_a_new_key(each_stage):
    """The old key would bring the old refusal back for ever."""
    order_id = each_stage.order(amount=1_000)
    old = each_stage.capture(order_id, amount=1_001, reference="shipment-1")
    each_stage.execute(old)

    new = each_stage.operator().amend(old, Capture(account=ACCOUNT, order_id=order_id, amount=1_000)).id
    each_stage.work(MINUTE)

    assert ("rejected", False, 0, []) == shape(each_stage, old)
    assert ("succeeded", False, 0, []) == shape(each_stage, new)
    assert old == each_stage.command(new).replaces
    assert each_stage.command(old).idempotency_key != each_stage.command(new).idempotency_key
    assert ["amend"] == [each["verb"] for each in each_stage.show(old)["actions"]]


def test_the_same_amendment_twice_is_stored_once(stage):
    """Two people close the same ticket, or one clicks twice."""
    order_id = stage.order(amount=1_000)
    old = stage.capture(order_id, amount=1_001)
    stage.execute(old)
    amended = Capture(account=ACCOUNT, order_id=order_id, amount=1_000)

    first, second = stage.operator().amend(old, amended), stage.operator().amend(old, amended)

    assert (first.id, True, False) == (second.id, first.was_stored, second.was_stored)
    with pytest.raises(IdempotencyConflict, match="captured_amount"):
        stage.operator().amend(old, amended.model_copy(update={"amount": 999}))


def test_an_escalated_command_is_amended_only_when_it_is_known_to_be_absent(stage):
    """Otherwise the old and the new one could both be carried out."""
    command_id = escalated_unseen(stage)
    amended = Capture(account=ACCOUNT, order_id=stage.command(command_id).order_id, amount=900)

    with pytest.raises(VerbRefused, match=r"not known to be absent.*recheck"):
        stage.operator().amend(command_id, amended)

    assert "escalated" == stage.command(command_id).state
    assert 1 == len(stage.commands())


def test_an_escalated_command_that_is_absent_is_cancelled_by_its_amendment(each_stage):
    """The new one stands for the same intention."""
    command_id = closed_window(each_stage, done=False)
    order_id = each_stage.command(command_id).order_id
    refund = each_stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=100))
    each_stage.work(timedelta(minutes=5))

    new = each_stage.operator().amend(command_id, Capture(account=ACCOUNT, order_id=order_id, amount=900)).id
    each_stage.work(MINUTE)

    assert ("cancelled", False, 1, []) == shape(each_stage, command_id)
    assert ["succeeded", "succeeded"] == [each_stage.command(each).state.value for each in (new, refund)]
    assert [("capture", 900), ("refund", 100)] == each_stage.effects()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"order_id": "another"}, "order_id"), ({"account": "klarna-na"}, "account")],
    ids=["order", "account"],
)
def test_an_amendment_is_about_the_same_order(stage, change, named):
    """Anything else is a new command."""
    old = stage.capture(stage.order(amount=10), amount=100)
    stage.execute(old)
    amended = {"account": ACCOUNT, "order_id": stage.command(old).order_id, "amount": 10, **change}

    with pytest.raises(VerbRefused, match=named):
        stage.operator().amend(old, Capture(**amended))

    assert 1 == len(stage.commands())


def test_what_was_done_is_not_amended(stage):
    """The money has moved."""
    order_id = stage.order()
    done = stage.capture(order_id)
    stage.execute(done)

    with pytest.raises(VerbRefused, match="it is succeeded"):
        stage.operator().amend(done, Capture(account=ACCOUNT, order_id=order_id, amount=900))


# --- what is done and not settled --------------------------------------------------------------------------


def test_a_pending_refund_is_followed_until_it_is_settled(each_stage, transaction):
    """It counts as done, and can still come to nothing."""
    each_stage.world.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=3)
    command_id = each_stage.enqueue(refund_of(transaction(each_stage, captured=True)))

    each_stage.work(timedelta(hours=2), tick=timedelta(minutes=5))
    before = each_stage.command(command_id)
    each_stage.work(timedelta(hours=3), tick=timedelta(minutes=5))

    assert ("pending", "settlement") == (before.state.value, before.read_back.purpose)
    assert before.result["refund_transaction_id"]
    assert ("succeeded", False, 0, []) == shape(each_stage, command_id)
    assert "SUCCESS" == each_stage.command(command_id).result["refund_status"].upper()
    assert ["POST"] == sends(each_stage)


def test_a_pending_refund_holds_nobody_back(stage, transaction):
    """To take it back is the very thing one may want to do with it."""
    transaction_id = transaction(stage, captured=True)
    stage.world.switch(bluesnap_refund_status="PENDING")
    refund = stage.enqueue(refund_of(transaction_id))
    stage.work(MINUTE)
    refund_id = stage.command(refund).result["refund_transaction_id"]

    cancel = stage.enqueue(bluesnap.CancelPendingRefund(account=BLUESNAP, order_id=refund_id))
    another = stage.enqueue(bluesnap.CancelPendingRefund(account=BLUESNAP, order_id=transaction_id))
    stage.execute(cancel)
    stage.execute(another)

    assert "succeeded" == stage.command(cancel).state
    assert 1 == stage.command(another).attempts


def test_a_pending_refund_that_fails_is_told_to_a_person(stage, transaction):
    """The shop believes that the customer has the money."""
    stage.world.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=3, bluesnap_pending_ends="FAIL")
    command_id = stage.enqueue(refund_of(transaction(stage, captured=True)))

    stage.work(timedelta(hours=8), tick=timedelta(minutes=5))

    assert ("escalated", False, 0, ["not_settled"]) == shape(stage, command_id)


def test_a_refund_that_stays_pending_is_told_to_a_person(stage, transaction):
    """After two weeks nobody should go on believing it."""
    stage.world.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=720)
    command_id = stage.enqueue(refund_of(transaction(stage, captured=True)))

    stage.work(timedelta(days=15), tick=timedelta(minutes=30))

    assert ("escalated", True, 0, ["not_settled"]) == shape(stage, command_id)


# --- keys that the provider ignores ------------------------------------------------------------------------


def test_a_repeat_whose_answer_does_not_name_its_key_is_told_once(stage, transaction):
    """The account's keys may not be enabled: then every repeat pays again."""
    stage.world.switch(bluesnap_keys=False)
    ids = []
    for _ in range(2):
        stage.world.fault("drop_reply")
        ids.append(stage.enqueue(refund_of(transaction(stage, captured=True))))

    stage.work(timedelta(hours=1))

    assert ["succeeded", "succeeded"] == [stage.command(each).state.value for each in ids]
    assert [("keys_not_enabled", "open")] == stage.tickets()
    assert [["keys_not_enabled"]] * 2 == [stage.open_tickets(each) for each in ids]


def test_the_alarm_outlives_the_settling_of_its_refund(stage, transaction):
    """That the refund is settled does not say that it was paid once."""
    stage.world.switch(bluesnap_keys=False, bluesnap_refund_status="PENDING", bluesnap_pending_hours=1)
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(refund_of(transaction(stage, captured=True)))

    stage.work(timedelta(hours=12), tick=timedelta(minutes=5))

    assert "succeeded" == stage.command(command_id).state
    assert ["keys_not_enabled"] == stage.open_tickets(command_id)
    assert 2 == len(stage.effects())


def test_an_operator_closes_the_ticket_of_what_succeeded(stage, transaction):
    """Somebody has looked it up; the command itself is final."""
    stage.world.switch(bluesnap_keys=False)
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(refund_of(transaction(stage, captured=True)))
    stage.work(timedelta(hours=1))

    stage.operator().resolve(command_id)

    assert [("keys_not_enabled", "closed")] == stage.tickets()
    assert "succeeded" == stage.command(command_id).state


def test_a_repeat_that_was_recognised_tells_nobody(stage, transaction):
    """It names its key."""
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(refund_of(transaction(stage, captured=True)))

    stage.work(timedelta(hours=1))

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert [] == stage.tickets()
    assert 1 == len(stage.effects())


# --- while it is read --------------------------------------------------------------------------------------


def test_a_read_costs_no_rung_and_no_attempt(stage, transaction):
    """The ladder belongs to what is sent."""
    stage.world.fault("status", status=503)
    command_id = stage.enqueue(capture_of(transaction(stage)))

    stage.work(timedelta(seconds=119), tick=SECOND)

    command = stage.command(command_id)
    assert (1, 1, 2) == (command.failures, command.attempts, command.claims)


def test_a_worker_that_dies_while_it_reads_leaves_the_read_to_the_next(each_stage, transaction):
    """A read changes nothing: there is nothing to be in doubt about."""
    each_stage.world.fault("drop_reply")
    command_id = each_stage.enqueue(capture_of(transaction(each_stage)))
    each_stage.execute(command_id)
    each_stage.advance(60)
    with pytest.raises(Died):
        each_stage.execute(command_id, transport=Interrupted(each_stage.transport, after="flush", then=die))
    each_stage.restart()

    each_stage.advance(LEASE.total_seconds() + 1)
    counts = each_stage.sweep()
    each_stage.work(MINUTE)

    assert (1, 0) == (counts["handed_back"], counts["in_doubt"])
    assert ("succeeded", False, 1, []) == shape(each_stage, command_id)


def test_a_read_that_is_throttled_waits_and_counts_for_nothing(stage, transaction):
    """The provider said nothing about the command."""
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(capture_of(transaction(stage)))
    stage.world.fault("throttle", times=2, method="GET")

    stage.work(timedelta(minutes=5), tick=SECOND)

    assert ("succeeded", False, 1, []) == shape(stage, command_id)
    assert ["throttled", "throttled", "done"] == [
        verdict if verdict == "done" else "throttled" for _, verdict in readings(stage, command_id)
    ]


def test_a_success_is_not_read_back(stage):
    """Klarna asks not to use reads as confirmation, and a failing read would lose the result."""
    command_id = stage.capture()

    stage.work(timedelta(hours=1))

    assert ["POST"] == [each["method"] for each in stage.world.requests()]
    assert [] == readings(stage, command_id)


def test_what_cannot_be_read_back_goes_to_a_person_at_once(stage):
    """Klarna shows nothing of an acknowledgement."""
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(Acknowledge(account=ACCOUNT, order_id=stage.order(), keyed=False))

    stage.execute(command_id)

    assert ("escalated", True, 1, ["not_safe_to_retry"]) == shape(stage, command_id)
