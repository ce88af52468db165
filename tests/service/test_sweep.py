from __future__ import annotations

from datetime import timedelta

import pytest

from tests.service.stage import ACCOUNT, LEASE, NOON, Died, FailingStore, Interrupted, die
from worker.domain.klarna_commands import ReadOrder
from worker.ports import StoreUnavailable


@pytest.fixture
def abandoned():
    """A command whose worker has died: after its send, or before its intent."""

    def leave(stage, *, sent=True, command_id=None, **fields):
        command_id = command_id or stage.capture(**fields)
        parts = (
            {"transport": Interrupted(stage.transport, after="flush", then=die)}
            if sent
            else {"store": Interrupted(stage.store, after="claim", then=die)}
        )
        with pytest.raises(Died):
            stage.execute(command_id, **parts)
        stage.restart()

        return command_id

    return leave


def nonzero(counts):
    return {name: count for name, count in counts.items() if count}


def test_a_lease_that_ran_out_with_a_send_is_in_doubt(each_stage, abandoned):
    """The attempt ended with the lease, as far as anybody can know."""
    command_id = abandoned(each_stage)
    each_stage.advance(LEASE.total_seconds() + 1)

    counts = each_stage.sweep()

    command = each_stage.command(command_id)
    assert {"in_doubt": 1} == nonzero(counts)
    assert ("pending", True, 1, "lease_expired") == (
        command.state.value,
        command.in_doubt,
        command.failures,
        command.problem.code,
    )
    assert NOON + LEASE + timedelta(seconds=5) == command.due_at


def test_a_lease_that_ran_out_without_a_send_is_handed_back(each_stage, abandoned):
    """Nothing was sent, so nothing has failed."""
    command_id = abandoned(each_stage, sent=False)
    each_stage.advance(LEASE.total_seconds() + 1)

    counts = each_stage.sweep()

    command = each_stage.command(command_id)
    assert {"handed_back": 1} == nonzero(counts)
    assert ("pending", False, 0, None) == (command.state.value, command.in_doubt, command.failures, command.problem)
    assert each_stage.clock.now == command.due_at


def test_what_is_handed_back_keeps_what_was_known_of_it(stage, abandoned):
    """An earlier attempt may still have done it, and its rung was climbed."""
    stage.world.fault("status", status=503)
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(5)
    abandoned(stage, sent=False, command_id=command_id)
    stage.advance(LEASE.total_seconds() + 1)

    stage.sweep()

    command = stage.command(command_id)
    assert ("pending", True, 1, 1) == (command.state.value, command.in_doubt, command.failures, command.attempts)
    assert "TEMPORARILY_UNAVAILABLE" == command.problem.code


def test_a_send_of_an_earlier_claim_does_not_count_for_this_one(stage, abandoned):
    """The fence tells whose intent it was."""
    command_id = abandoned(stage)
    stage.advance(LEASE.total_seconds() + 1)
    stage.sweep()
    stage.advance(5)
    abandoned(stage, sent=False, command_id=command_id)
    stage.advance(LEASE.total_seconds() + 1)

    counts = stage.sweep()

    assert {"handed_back": 1} == nonzero(counts)
    assert 1 == stage.command(command_id).failures


def test_a_lease_that_runs_is_too_young(each_stage, abandoned):
    """Somebody is at work; to take over would send twice."""
    command_id = abandoned(each_stage)
    each_stage.clock.advance(LEASE)

    counts = each_stage.sweep()

    assert {} == nonzero(counts)
    assert "executing" == each_stage.command(command_id).state


def test_what_was_just_swept_is_not_swept_again(stage, abandoned):
    """One lease that ran out is one attempt in doubt."""
    command_id = abandoned(stage)
    stage.advance(LEASE.total_seconds() + 1)
    stage.sweep()

    assert {} == nonzero(stage.sweep())
    assert 1 == stage.command(command_id).failures


def test_what_has_ended_is_left_alone(stage):
    """Only an executing command has a lease."""
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(3600)

    assert {} == nonzero(stage.sweep())
    assert "succeeded" == stage.command(command_id).state


def test_an_empty_table_is_no_work(stage):
    """The usual case, every few seconds in every worker."""
    assert {} == nonzero(stage.sweep())


def test_one_run_is_bounded(stage, abandoned):
    """A crash of many workers is taken over in many short transactions."""
    for _ in range(3):
        abandoned(stage)
    stage.advance(LEASE.total_seconds() + 1)

    counts = [stage.sweeper(limit=2).run_once()["in_doubt"] for _ in range(3)]

    assert [2, 1, 0] == counts


@pytest.mark.parametrize("moment", ["begins", "commits"])
def test_a_database_that_is_away_changes_nothing_by_half(stage, abandoned, moment):
    """State, ledger and ticket are one transaction; the next tick comes."""
    command_id = abandoned(stage)
    stage.advance(LEASE.total_seconds() + 1)

    with pytest.raises(StoreUnavailable):
        stage.sweeper(store=FailingStore(stage.store, **{moment: [1]})).run_once()
    stage.sweep()

    assert 1 == stage.command(command_id).failures
    assert ["in_doubt"] == stage.outcomes(command_id)


def test_a_worker_that_dies_four_times_is_a_ladder_that_is_used_up(each_stage, abandoned):
    """A command that kills its worker must not do so for ever."""
    command_id = each_stage.unreadable()
    for _ in range(4):
        abandoned(each_stage, command_id=command_id)
        each_stage.advance(LEASE.total_seconds() + 1)
        each_stage.sweep()
        each_stage.clock.advance(max(each_stage.command(command_id).due_at - each_stage.clock.now, timedelta(0)))

    command = each_stage.command(command_id)
    assert ("escalated", True, 4) == (command.state.value, command.in_doubt, command.failures)
    assert ["ladder_exhausted"] == each_stage.open_tickets(command_id)


def test_a_read_that_was_abandoned_is_simply_read_again(stage, abandoned):
    """It changes nothing."""
    command_id = stage.enqueue(ReadOrder(account=ACCOUNT, order_id=stage.order()))
    abandoned(stage, command_id=command_id)
    stage.advance(LEASE.total_seconds() + 1)
    stage.sweep()
    in_doubt = stage.command(command_id).in_doubt

    stage.work(timedelta(minutes=1))

    assert not in_doubt
    assert "succeeded" == stage.command(command_id).state


def test_a_change_without_a_key_that_was_abandoned_goes_to_a_person(stage, abandoned):
    """Its worker may only be standing still, and may still send it."""
    command_id = abandoned(stage, command_id=stage.unreadable(keyed=False))
    stage.advance(LEASE.total_seconds() + 1)

    stage.sweep()

    assert ["not_safe_to_retry"] == stage.open_tickets(command_id)


def test_a_lease_that_ran_out_long_ago_may_have_closed_the_key_window(stage, abandoned):
    """All workers were down for a day; the wait would end outside the window."""
    command_id = abandoned(stage, command_id=stage.unreadable())
    stage.world.fault("status", status=503)
    stage.advance(LEASE.total_seconds() + 1)
    stage.sweep()
    stage.clock.advance(NOON + timedelta(hours=23, minutes=54) - stage.clock.now)
    abandoned(stage, command_id=command_id)
    stage.advance(LEASE.total_seconds() + 1)

    stage.sweep()

    assert ["key_window_closed"] == stage.open_tickets(command_id)


@pytest.mark.parametrize(
    ("keyed", "expected"), [(True, ("pending", True, 1)), (False, ("escalated", True, 1))], ids=["keyed", "unkeyed"]
)
def test_without_its_account_an_abandoned_command_goes_by_its_key(stage, abandoned, keyed, expected):
    """A sweeping worker need not know every account to know what a key is good for."""
    command_id = abandoned(stage, keyed=keyed)
    stage.advance(LEASE.total_seconds() + 1)

    stage.sweeper(accounts={}).run_once()

    command = stage.command(command_id)
    assert expected == (command.state.value, command.in_doubt, command.failures)


# --- tickets -----------------------------------------------------------------------------------------------


def escalations(stage):
    return [each for each in stage.publisher.sent if each.task == "escalate"]


def test_a_ticket_whose_message_was_lost_is_handed_out_again(each_stage):
    """A ticket that nobody is told of is worse than none."""
    each_stage.execute(each_stage.capture(amount=99_999))
    each_stage.publisher.waiting.clear()
    each_stage.sweep()
    early = len(escalations(each_stage))
    each_stage.publisher.waiting.clear()
    each_stage.advance(10)

    counts = each_stage.sweep()

    assert {"tickets": 1} == nonzero(counts)
    assert (2, 3) == (early, len(escalations(each_stage)))
    last = escalations(each_stage)[-1]
    assert f"ticket {last.ids[0]} refused klarna-eu" == last.label


def test_a_ticket_that_was_just_handed_out_is_left_alone(stage):
    """Its message is on its way."""
    stage.execute(stage.capture(amount=99_999))
    stage.sweep()
    stage.advance(9)

    assert {} == nonzero(stage.sweep())


def test_a_ticket_that_its_desk_has_is_left_alone(stage):
    """Everything in it has been told."""
    stage.execute(stage.capture(amount=99_999))
    stage.work(timedelta(minutes=5))
    told = len(stage.desk.told)

    counts = stage.sweep()

    assert {} == nonzero(counts)
    assert 1 == told == len(stage.desk.told)
