"""Twelve bugs that other systems had with work of this sort: each by its name, and what happens here instead.

One of them needs a real worker and a real broker, and is in `tests/processes/test_redis_reset.py`.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.service.stage import (
    ACCOUNT,
    BLUESNAP,
    KINDS,
    LEASE,
    PUBLISHED_FOR,
    Died,
    Interrupted,
    Stage,
    die,
)
from worker import Capture, bluesnap
from worker.domain.errors import CommandClosed
from worker.domain.klarna_commands import Acknowledge, UpdateMerchantReferences
from worker.domain.state import State
from worker.duties import Duty
from worker.service.enqueue import enqueue
from worker.store.engine import build_engine

UNHEARD = ("drop_reply", {})
NOT_DONE = ("reset", {"executed": False})
MONTHS = timedelta(days=90)


def abandoned(stage, command, **where):
    """A command whose worker died at a step of its."""
    command_id = stage.enqueue(command)
    part, hook = where.popitem()
    with pytest.raises(Died):
        stage.execute(command_id, **{part: Interrupted(getattr(stage, part), **hook, then=die)})
    stage.restart()

    return command_id


def capture(stage, order_id=None, **fields):
    return Capture(account=ACCOUNT, order_id=order_id or stage.order(), amount=1_000, **fields)


def unkeyed(stage):
    return Acknowledge(account=ACCOUNT, order_id=stage.order(), keyed=False)


# --------------------------------------------------------------------------------------------------------------- 1


def test_rescue_overwriting_a_finished_job(stage):
    """Elsewhere a rescue or a finish matched on the id alone: who came late put a finished job back to run again."""
    command_id = stage.capture()
    stage.world.fault("status", status=403, code="CAPTURE_NOT_ALLOWED")

    def stand_still():
        stage.advance(LEASE.total_seconds() + 1)
        stage.work(timedelta(minutes=1), tick=timedelta(seconds=5))
        assert State.SUCCEEDED is stage.command(command_id).state

    stage.execute(command_id, store=Interrupted(stage.store, before="begin", number=2, then=stand_still))
    stage.work(timedelta(hours=6))

    assert ("succeeded", False) == (stage.command(command_id).state, stage.command(command_id).in_doubt)
    assert [("capture", 1_000)] == stage.effects()
    assert [("in_doubt", False), ("rejected", True), ("succeeded", False)] == [
        (each.outcome, each.late) for each in stage.attempts(command_id)
    ]


# --------------------------------------------------------------------------------------------------------------- 2


@pytest.mark.parametrize(
    ("where", "state", "effects"),
    [
        # What was not sent finds that the order has expired meanwhile.
        pytest.param({"store": {"after": "claim"}}, State.REJECTED, 0, id="claimed"),
        pytest.param({"store": {"after": "begin", "number": 1}}, State.ESCALATED, 0, id="about-to-send"),
        pytest.param({"transport": {"after": "flush"}}, State.SUCCEEDED, 1, id="sent"),
    ],
)
def test_jobs_left_running_for_months(stage, where, state, effects):
    """Elsewhere a job whose process was killed stayed "running" until somebody happened to look, months later."""
    command_id = abandoned(stage, capture(stage), **dict(where))
    stage.advance(MONTHS.total_seconds())

    stage.work(timedelta(hours=1), tick=timedelta(minutes=1))

    told = [case.command_id for told in stage.desk.told for case in told.case_file.cases]
    assert (state, effects) == (stage.command(command_id).state, len(stage.effects()))
    assert ([] if state is State.SUCCEEDED else [command_id]) == told


# --------------------------------------------------------------------------------------------------------------- 3


@pytest.mark.parametrize(
    "hook",
    [
        pytest.param({"before": "begin", "number": 1}, id="before-anything"),
        pytest.param({"after": "begin", "number": 1}, id="after-the-take-over"),
        pytest.param({"after": "begin", "number": 2}, id="before-the-messages"),
    ],
)
def test_restart_in_the_middle_of_recovery(stage, hook):
    """Elsewhere a deploy that hit the recovery left jobs that counted as recovered and were never queued again."""
    sent = {"after": "begin", "number": 1}
    repeatable = abandoned(stage, capture(stage), store=dict(sent))
    for_a_person = abandoned(stage, unkeyed(stage), store=dict(sent))
    stage.advance(LEASE.total_seconds() + 1)

    with pytest.raises(Died):
        stage.sweeper(store=Interrupted(stage.store, **hook, then=die)).run_once()
    stage.work(timedelta(minutes=2), tick=timedelta(seconds=10))

    assert [State.SUCCEEDED, State.ESCALATED] == [stage.command(each).state for each in (repeatable, for_a_person)]
    assert [("capture", 1_000)] == stage.effects()
    assert [for_a_person] == [case.command_id for told in stage.desk.told for case in told.case_file.cases]


# --------------------------------------------------------------------------------------------------------------- 4


def test_rescue_stuck_behind_its_own_lock(postgresql_url):
    """Elsewhere the rescuer died with its lock held, or waited for its own, and nobody was rescued any more."""
    engine = impatient_engine(postgresql_url)
    stage = Stage(engine)
    stuck = abandoned(stage, capture(stage), store={"after": "claim"})
    stage.advance(LEASE.total_seconds() + 1)
    hung = engine.connect()
    stage.store.borrow(hung).take_expired(limit=10)
    free = abandoned(stage, capture(stage), store={"after": "claim"})
    stage.advance(LEASE.total_seconds() + 1)

    beside_it = stage.sweep()
    states = [stage.command(each).state for each in (stuck, free)]
    hung.invalidate()  # its process is killed
    hung.close()
    after_it = stage.sweep()

    assert [1, 1] == [beside_it["handed_back"], after_it["handed_back"]]
    assert [State.EXECUTING, State.PENDING] == states
    assert State.PENDING is stage.command(stuck).state
    stage.close()
    engine.dispose()


def impatient_engine(url):
    return build_engine(
        url,
        pool_size=5,
        busy_timeout=timedelta(seconds=1),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=2),
    )


# --------------------------------------------------------------------------------------------------------------- 5


def test_a_far_retry_blocking_others(stage):
    """Elsewhere messages that wait for hours took the places of a worker, or a queue's head, and all else waited."""
    stage.window = 4
    waiting = stage.enqueue_many([capture(stage) for _ in range(20)])
    stage.world.fault("status", status=503, times=60)
    stage.work(timedelta(minutes=6), tick=timedelta(seconds=5))
    assert [3] * 20 == [stage.command(each).failures for each in waiting]
    order_id = stage.command(waiting[0]).order_id

    new = stage.capture()
    same_order = stage.enqueue(
        UpdateMerchantReferences(account=ACCOUNT, order_id=order_id, merchant_reference1="10001")
    )
    stage.work(timedelta(seconds=1), tick=timedelta(seconds=1))

    assert [State.SUCCEEDED] * 2 == [stage.command(each).state for each in (new, same_order)]
    assert [] == stage.publisher.waiting
    assert {State.PENDING} == {stage.command(each).state for each in waiting}


# --------------------------------------------------------------------------------------------------------------- 7


def decided(command_id, stage, state):
    """Bring a command into a state."""
    match state:
        case State.PENDING:
            pass
        case State.EXECUTING:
            stage.store.claim([command_id], limit=1, lease=LEASE)
        case State.SUCCEEDED:
            stage.execute(command_id)
        case State.REJECTED:
            stage.world.fault("status", status=403, code="CAPTURE_NOT_ALLOWED")
            stage.execute(command_id)
        case State.ESCALATED:
            stage.world.fault("status", status=401)
            stage.execute(command_id)
        case State.CANCELLED:
            stage.operator().cancel(command_id)


@pytest.mark.parametrize("state", list(State))
def test_uniqueness_over_some_states_only(stage, state):
    """Elsewhere a job was unique while it waited; once it ran, or was done, the same could be enqueued again."""
    again = capture(stage, reference="parcel-1")
    command_id = stage.enqueue(again)
    decided(command_id, stage, state)
    effects = stage.effects()

    try:
        repeat = stage.enqueue(again)
    except CommandClosed as closed:
        repeat = closed.command_id
        assert state in {State.REJECTED, State.CANCELLED}

    assert (command_id, state) == (repeat, stage.command(command_id).state)
    assert 1 == len(stage.commands())
    assert effects == stage.effects()


# --------------------------------------------------------------------------------------------------------------- 8


def test_two_capture_paths_racing_and_the_loser_refunding(postgresql_url):
    """Elsewhere a push and a button captured at once; the path that came second took its refusal for a failure."""
    engine = impatient_engine(postgresql_url)
    stage = Stage(engine)
    both = capture(stage, reference="parcel-1")
    at_once = threading.Barrier(2)

    def path(_):
        with stage.store.begin() as transaction:
            at_once.wait(5)
            (enqueued,) = enqueue(
                transaction,
                [both],
                kinds=KINDS,
                unkeyed=(),
                published_for=PUBLISHED_FOR,
                reserve=lambda: True,
            )

        return enqueued

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(path, range(2))
    stage.execute(first.id)
    stage.execute(second.id)
    stage.work(timedelta(hours=6))

    assert first.id == second.id
    assert [False, True] == sorted([first.was_stored, second.was_stored])
    assert [("capture", 1_000)] == stage.effects()
    assert ["succeeded"] == stage.states()
    assert [] == stage.tickets()
    stage.close()
    engine.dispose()


def test_two_capture_paths_that_name_it_differently(stage):
    """Without a common reference the provider refuses the second: that goes to a person, and nothing is given back."""
    order_id = stage.order(amount=1_000)
    first = stage.capture(order_id, reference="push-1")
    second = stage.capture(order_id, reference="button-1")

    stage.work(timedelta(hours=6))

    assert [State.SUCCEEDED, State.REJECTED] == [stage.command(each).state for each in (first, second)]
    assert [("capture", 1_000)] == stage.effects()
    assert ([], ["refused"]) == (stage.open_tickets(first), stage.open_tickets(second))


# --------------------------------------------------------------------------------------------------------------- 9


def test_a_repair_jobs_failure_not_retried(stage):
    """Elsewhere the job that was to set things right failed once itself, and was never run again."""
    transaction_id = stage.world.create_transaction(amount="10.00")["transactionId"]
    stage.world.fault("drop_reply", order_id=transaction_id)
    stage.world.fault("status", method="GET", order_id=transaction_id, status=503, times=2)
    read_back = stage.enqueue(bluesnap.Capture(account=BLUESNAP, order_id=transaction_id, amount=1_000, currency="USD"))
    refused = stage.capture(stage.order(amount=10))
    stage.desk.is_unavailable = True
    stage.work(timedelta(minutes=30))
    stage.desk.is_unavailable = False

    stage.work(timedelta(minutes=10))

    assert ["unread", "unread", "done"] == [each["verdict"] for each in stage.show(read_back)["readings"]]
    assert State.SUCCEEDED is stage.command(read_back).state
    assert [refused] == [case.command_id for told in stage.desk.told for case in told.case_file.cases]
    assert [("refused", "open")] == stage.tickets(refused)


def test_a_tick_that_fails_is_not_the_last():
    """The same one floor down: an error nobody foresaw must not end the loop that sets things right."""
    results = iter([RuntimeError("a bug"), {"commands": 1}])

    def run_once():
        if isinstance(result := next(results), Exception):
            raise result
        return result

    duty = Duty("sweep", 1.0, run_once)
    duty.tick()
    duty.tick()

    assert (1, 1, {"commands": 1}) == (duty.failures, duty.ticks, duty.last_counts)


# -------------------------------------------------------------------------------------------------------------- 10


@pytest.mark.parametrize(
    ("ends", "state", "tickets"),
    [
        pytest.param("SUCCESS", State.SUCCEEDED, [], id="settled"),
        pytest.param("FAIL", State.ESCALATED, ["not_settled"], id="came-to-nothing"),
    ],
)
def test_a_refund_shown_pending_that_was_never_sent(stage, ends, state, tickets):
    """Elsewhere "pending" was written before the call, the call never came, and the customer waited for weeks."""
    transaction_id = stage.world.create_transaction(amount="10.00", captured=True)["transactionId"]
    stage.world.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=3, bluesnap_pending_ends=ends)
    refund = stage.enqueue(
        bluesnap.Refund(account=BLUESNAP, order_id=transaction_id, amount=500, currency="USD"), published=True
    )
    stage.advance(60)
    unsent = (stage.command(refund).attempts, stage.command(refund).result, oldest_due_at(stage))
    stage.dispatch()
    stage.deliver()
    sent = stage.command(refund)

    stage.work(timedelta(hours=30), tick=timedelta(minutes=10))

    assert (0, None, stage.command(refund).created_at) == unsent
    assert (1, State.PENDING, "settlement") == (sent.attempts, sent.state, sent.read_back.purpose)
    assert sent.result is not None
    assert (state, tickets) == (stage.command(refund).state, stage.open_tickets(refund))
    assert [("refund", "5.00")] == stage.effects()


def oldest_due_at(stage):
    with stage.store.begin() as transaction:
        return transaction.oldest_due_at()


# -------------------------------------------------------------------------------------------------------------- 11


def test_a_capture_refused_under_review_and_never_tried_again(stage):
    """Elsewhere a capture that came during the fraud review failed, nobody was told, and the parcel was never paid."""
    order_id = stage.order()
    stage.world.fault("fraud_pending", order_id=order_id, seconds=8 * 3600)
    refused = stage.capture(order_id, reference="parcel-1")
    stage.work(timedelta(hours=9))
    told = [(case.command_id, case.problem.code) for told in stage.desk.told for case in told.case_file.cases]

    with pytest.raises(CommandClosed) as closed:
        stage.enqueue(capture(stage, order_id, reference="parcel-1"))
    again = stage.operator(why="the review is over").amend(refused, capture(stage, order_id, reference="parcel-1"))
    stage.work(timedelta(minutes=1))

    # The code is the one that a wrong amount has, so the machine cannot know that waiting would help: a person does.
    assert [(refused, "CAPTURE_NOT_ALLOWED")] == told
    assert (refused, "rejected") == (closed.value.command_id, closed.value.state)
    assert [State.REJECTED, State.SUCCEEDED] == [stage.command(each).state for each in (refused, again.id)]
    assert [("capture", 1_000)] == stage.effects()
    assert [] == stage.open_tickets(refused)


# -------------------------------------------------------------------------------------------------------------- 12


def at_klarna(stage):
    return stage.capture()


def at_bluesnap(stage):
    transaction_id = stage.world.create_transaction(amount="10.00")["transactionId"]

    return stage.enqueue(bluesnap.Capture(account=BLUESNAP, order_id=transaction_id, amount=1_000, currency="USD"))


@pytest.mark.parametrize("asked", [at_klarna, at_bluesnap])
@pytest.mark.parametrize("seconds", [31, 45, 100])
def test_slow_answers_making_duplicates(stage, asked, seconds):
    """Elsewhere a call that took longer than its time-out was made again under a new key while the first still ran."""
    stage.world.fault("delay", seconds=seconds)
    command_id = asked(stage)

    stage.work(timedelta(hours=6), tick=timedelta(seconds=10))

    assert State.SUCCEEDED is stage.command(command_id).state
    assert 1 == len(stage.effects())
    assert 1 == len({each["headers"].get("Klarna-Idempotency-Key") for each in stage.world.requests()})
