from __future__ import annotations

from datetime import timedelta

import pytest

from tests.service.stage import ACCOUNT, NOON, FailingStore
from worker.domain.klarna_commands import Refund
from worker.ports import StoreUnavailable


def ids_of(stage):
    return [set(each.ids) for each in stage.publisher.sent]


def test_a_command_whose_message_was_lost_is_handed_out(each_stage):
    """The caller committed; nothing else may be needed for the command to be carried out."""
    command_id = each_stage.capture()

    counts = each_stage.dispatch()

    assert {"commands": 1, "messages": 1} == counts
    assert [{command_id}] == ids_of(each_stage)
    assert [None] == each_stage.countdowns()


def test_a_command_whose_message_is_on_its_way_is_left_alone(stage):
    """It was published with its commit, a moment ago."""
    command_id = stage.capture()
    published = stage.enqueue(
        Refund(account=ACCOUNT, order_id=stage.order(status="CAPTURED"), amount=1), published=True
    )
    stage.advance(9)

    stage.dispatch()

    assert [{command_id}] == ids_of(stage)
    assert published not in set().union(*ids_of(stage))


def test_a_command_that_was_handed_out_is_left_alone_for_a_while(each_stage):
    """Its message lies at the broker; a second one would do nothing but work."""
    each_stage.capture()
    each_stage.dispatch()
    each_stage.advance(9)

    assert {"commands": 0, "messages": 0} == each_stage.dispatch()


def test_a_command_that_nobody_claimed_is_handed_out_again(each_stage):
    """The message was lost, or the worker that had it was."""
    command_id = each_stage.capture()
    each_stage.dispatch()
    each_stage.advance(10)

    each_stage.dispatch()

    assert [{command_id}] * 2 == ids_of(each_stage)


def test_what_is_due_beyond_the_horizon_is_too_young(stage):
    """It waits in the database, where nothing is lost."""
    stage.capture(due_at=NOON + timedelta(minutes=6, seconds=1))

    assert {"commands": 0, "messages": 0} == stage.dispatch()


def test_what_is_due_within_the_horizon_gets_a_countdown_to_its_moment(stage):
    """So it is claimed the moment it is due, and not a tick later."""
    command_id = stage.capture(due_at=NOON + timedelta(seconds=61.5))

    stage.dispatch()
    stage.work(timedelta(minutes=2))

    assert 61.5 == stage.countdowns()[0]
    assert NOON + timedelta(seconds=61.5) == stage.attempts(command_id)[0].started_at


def test_a_countdown_is_not_asked_for_again_before_it_can_have_come(stage):
    """The broker holds it; asking again would hold it twice."""
    stage.capture(due_at=NOON + timedelta(minutes=5))
    stage.dispatch()
    stage.advance(300 + 9)
    before = stage.dispatch()
    stage.advance(1)

    assert (0, 1) == (before["commands"], stage.dispatch()["commands"])


def test_nothing_is_handed_out_early_while_the_broker_holds_enough(stage):
    """What is held lies in the memory of one worker."""
    stage.publisher._held = 0
    stage.capture(due_at=NOON + timedelta(minutes=5))
    early = stage.dispatch()
    stage.advance(300)

    assert (0, 1) == (early["commands"], stage.dispatch()["commands"])


def test_what_has_ended_is_not_handed_out(each_stage):
    """Finished rows must cost nothing."""
    done, refused, taken_back = each_stage.capture(), each_stage.capture(amount=99_999), each_stage.capture()
    each_stage.operator().cancel(taken_back)
    each_stage.execute(done, refused)
    each_stage.publisher.sent.clear()

    counts = each_stage.dispatch()

    assert ["succeeded", "rejected", "cancelled"] == each_stage.states()
    assert {"commands": 0, "messages": 0} == counts


def test_what_is_with_a_person_is_not_handed_out(stage):
    """The machine must not go on."""
    stage.world.fault("drop_reply")
    stage.execute(stage.unreadable(keyed=False))

    assert ["escalated"] == stage.states()
    assert 0 == stage.dispatch()["commands"]


def test_what_waits_for_another_of_its_order_is_not_handed_out(stage):
    """Its message would find it held back, and be lost."""
    order_id = stage.order()
    stage.world.fault("status", status=503)
    capture = stage.capture(order_id)
    stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=1))
    stage.execute(capture)

    assert 0 == stage.dispatcher().run_once()["commands"]


def test_an_empty_table_is_no_work(stage):
    """The usual case, once a second in every worker."""
    assert {"commands": 0, "messages": 0} == stage.dispatch()
    assert [] == stage.publisher.sent


def test_a_backlog_goes_out_in_batches(stage):
    """A message per command would cost more than the commands."""
    for _ in range(7):
        stage.capture()

    counts = stage.dispatcher(message=3).run_once()

    assert {"commands": 7, "messages": 3} == counts
    assert [3, 3, 1] == [len(each.ids) for each in stage.publisher.sent]
    assert "3 commands: capture klarna-eu " in stage.publisher.sent[0].label


def test_one_run_is_bounded(stage):
    """A tick that took a million rows would hold its locks for minutes."""
    for _ in range(5):
        stage.capture()

    counts = [stage.dispatcher(limit=2).run_once()["commands"] for _ in range(4)]

    assert [2, 2, 1, 0] == counts


def test_only_so_many_are_handed_out_and_unclaimed(stage):
    """A broker that fills up while no worker runs would only make every message late."""
    for _ in range(5):
        stage.capture()
    first = stage.dispatcher(window=3).run_once()["commands"]

    full = stage.dispatcher(window=3).run_once()["commands"]

    assert (3, 0) == (first, full)


def test_two_dispatchers_hand_out_each_command_once(each_stage):
    """Every worker ticks one."""
    for _ in range(4):
        each_stage.capture()

    counts = [each_stage.dispatcher(limit=2).run_once()["commands"] for _ in range(2)]

    handed_out = [each for message in each_stage.publisher.sent for each in message.ids]
    assert [2, 2] == counts
    assert 4 == len(set(handed_out)) == len(handed_out)


def test_a_broker_that_is_away_is_asked_again_a_little_later(stage):
    """Nothing is lost: the rows are due."""
    stage.capture()
    stage.publisher.is_away = True
    away = stage.dispatch()
    stage.publisher.is_away = False
    stage.advance(10)

    back = stage.dispatch()

    assert ({"commands": 1, "messages": 0}, {"commands": 1, "messages": 1}) == (away, back)


@pytest.mark.parametrize("moment", ["begins", "commits"])
def test_a_database_that_is_away_hands_out_nothing(stage, moment):
    """The next tick comes."""
    command_id = stage.capture()

    with pytest.raises(StoreUnavailable):
        stage.dispatcher(store=FailingStore(stage.store, **{moment: [1]})).run_once()
    sent = list(stage.publisher.sent)
    stage.work(timedelta(minutes=1))

    assert [] == sent
    assert "succeeded" == stage.command(command_id).state


def test_the_label_says_which_try_it_is(stage):
    """Flower shows nothing else."""
    stage.world.fault("status", status=503, times=None)
    command_id = stage.capture()
    for _ in range(3):
        stage.execute(command_id)
        stage.clock.advance(stage.command(command_id).due_at - stage.clock.now)

    stage.dispatch()

    assert stage.publisher.sent[-1].label.endswith("… try 4 of 4")
