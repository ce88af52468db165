from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from tests.service.stage import ACCOUNT, KEY, LEASE, NOON, Died, Interrupted, die
from worker.domain.errors import CommandNotFound, VerbRefused
from worker.domain.klarna_commands import Refund


def pending(stage):
    return stage.capture()


def failed_once(stage):
    stage.transport.refuse_connections()
    command_id = stage.capture()
    stage.execute(command_id)
    stage.transport.accept_connections()

    return command_id


def pending_in_doubt(stage):
    stage.world.fault("drop_reply")
    command_id = stage.capture()
    stage.execute(command_id)

    return command_id


def executing(stage):
    command_id = stage.capture()
    with pytest.raises(Died):
        stage.execute(command_id, transport=Interrupted(stage.transport, before="send", then=die))
    stage.restart()

    return command_id


def succeeded(stage):
    command_id = stage.capture()
    stage.execute(command_id)

    return command_id


def rejected(stage):
    command_id = stage.capture(amount=99_999)
    stage.execute(command_id)

    return command_id


def escalated(stage):
    stage.world.fault("status", status=401)
    command_id = stage.capture()
    stage.execute(command_id)

    return command_id


def escalated_in_doubt(stage):
    stage.world.fault("drop_reply")
    stage.world.fault("singular_error")
    command_id = stage.unreadable()
    stage.execute(command_id)
    stage.advance(5)
    stage.execute(command_id)

    return command_id


def window_closed(stage):
    stage.world.fault("drop_reply")
    command_id = stage.unreadable()
    stage.execute(command_id)
    stage.advance(24 * 3600)
    stage.execute(command_id)

    return command_id


def unkeyed_in_doubt(stage):
    stage.world.fault("drop_reply")
    command_id = stage.unreadable(keyed=False)
    stage.execute(command_id)

    return command_id


def unkeyed_not_sent(stage):
    stage.transport.refuse_connections()
    command_id = stage.unreadable(keyed=False)
    stage.execute(command_id)
    stage.transport.accept_connections()

    return command_id


def cancelled(stage):
    command_id = stage.capture()
    stage.operator().cancel(command_id)

    return command_id


#: For each situation what each verb does: the state afterwards, or why it is refused.
VERBS = {
    pending: {"retry": "it is pending", "resolve": "it is pending", "cancel": "→ cancelled"},
    failed_once: {"retry": "it is pending", "resolve": "it is pending", "cancel": "→ cancelled"},
    pending_in_doubt: {"retry": "it is pending", "resolve": "it is pending", "cancel": "in doubt"},
    executing: {"retry": "it is executing", "resolve": "it is executing", "cancel": "it is executing"},
    succeeded: {"retry": "it is succeeded", "resolve": "it is succeeded", "cancel": "it is succeeded"},
    rejected: {"retry": "it is rejected", "resolve": "→ rejected", "cancel": "it is rejected"},
    escalated: {"retry": "→ pending", "resolve": "→ succeeded", "cancel": "→ cancelled"},
    escalated_in_doubt: {"retry": "→ pending", "resolve": "→ succeeded", "cancel": "→ cancelled"},
    window_closed: {"retry": "no longer honours", "resolve": "→ succeeded", "cancel": "→ cancelled"},
    unkeyed_in_doubt: {"retry": "without a key", "resolve": "→ succeeded", "cancel": "→ cancelled"},
    unkeyed_not_sent: {"retry": "→ pending", "resolve": "→ succeeded", "cancel": "→ cancelled"},
    cancelled: {"retry": "it is cancelled", "resolve": "it is cancelled", "cancel": "it is cancelled"},
}

CASES = [
    pytest.param(situation, verb, said, id=f"{verb} {situation.__name__}")
    for situation, by_verb in VERBS.items()
    for verb, said in by_verb.items()
]
TAKEN = [case for case in CASES if case.values[2].startswith("→")]
REFUSED = [case for case in CASES if not case.values[2].startswith("→")]


def everything(stage, command_id):
    """Row, attempts, tickets and actions."""
    return stage.show(command_id), stage.tickets(command_id)


@pytest.mark.parametrize(("situation", "verb", "said"), TAKEN)
def test_a_verb_that_is_safe_is_taken_and_kept(stage, situation, verb, said):
    """Who did it, why, and what it was before."""
    command_id = situation(stage)
    before = stage.command(command_id)
    stage.advance(1)

    returned = getattr(stage.operator(by="night shift", why="seen at the provider"), verb)(command_id)

    shown = stage.show(command_id)
    assert said == f"→ {shown['state']}"
    assert [
        {
            "verb": verb,
            "by": "night shift",
            "why": "seen at the provider",
            "state_before": before.state.value,
            "at": stage.clock.now.isoformat(),
        }
    ] == shown["actions"]
    assert before == returned


@pytest.mark.parametrize(("situation", "verb", "said"), REFUSED)
def test_a_verb_that_is_not_safe_is_refused_and_stores_nothing(stage, situation, verb, said):
    """The refusal says why, and what to do instead."""
    command_id = situation(stage)
    before = everything(stage, command_id)
    messages = len(stage.publisher.sent)

    with pytest.raises(VerbRefused, match=said) as caught:
        getattr(stage.operator(), verb)(command_id)

    assert before == everything(stage, command_id)
    assert messages == len(stage.publisher.sent)
    assert (verb, command_id) == (caught.value.verb, caught.value.command_id)


@pytest.mark.parametrize("verb", ["retry", "resolve", "cancel"])
def test_a_command_that_is_not_there_is_named(stage, verb):
    """A mistyped id is the usual case."""
    missing = uuid4()

    with pytest.raises(CommandNotFound, match=str(missing)):
        getattr(stage.operator(), verb)(missing)


@pytest.mark.parametrize("verb", ["resolve", "cancel"])
@pytest.mark.parametrize("situation", [escalated, escalated_in_doubt, window_closed, unkeyed_in_doubt])
def test_what_a_person_has_decided_has_no_open_ticket_and_no_doubt(each_stage, situation, verb):
    """The ticket closes by itself when all its commands are decided."""
    command_id = situation(each_stage)

    getattr(each_stage.operator(), verb)(command_id)

    assert [] == each_stage.open_tickets(command_id)
    assert {"closed"} == {ticket_state for _, ticket_state in each_stage.tickets(command_id)}
    assert not each_stage.command(command_id).in_doubt
    assert each_stage.command(command_id).finalized_at == each_stage.clock.now


def test_resolving_says_by_whom(stage):
    """The result of a command is otherwise the provider's word."""
    command_id = escalated_in_doubt(stage)

    stage.operator(by="night shift").resolve(command_id)

    assert {"resolved_by": "night shift"} == stage.command(command_id).result
    assert "NOT_ALLOWED" == stage.command(command_id).problem.code


def test_a_resolved_rejection_stays_rejected_and_its_ticket_closes(stage):
    """The provider's refusal stands; only the ticket is dealt with."""
    command_id = rejected(stage)
    before = stage.command(command_id)

    stage.operator().resolve(command_id)

    assert before == stage.command(command_id)
    assert [("refused", "closed")] == stage.tickets(command_id)


def test_a_retry_goes_out_at_once_under_the_same_key(each_stage):
    """The provider is to recognise it."""
    command_id = escalated_in_doubt(each_stage)

    each_stage.operator().retry(command_id)
    each_stage.deliver()

    assert "succeeded" == each_stage.command(command_id).state
    assert 1 == len({each["headers"][KEY] for each in each_stage.world.requests()})
    assert [("acknowledge", None)] == each_stage.effects()
    assert each_stage.publisher.sent[-1].label.endswith("try 1 of 4")


def test_a_retry_begins_the_ladder_anew_and_keeps_doubt_and_ticket(stage):
    """Nothing is decided by sending again."""
    command_id = escalated_in_doubt(stage)

    stage.operator().retry(command_id)

    command = stage.command(command_id)
    assert ("pending", 0, True, stage.clock.now) == (
        command.state.value,
        command.failures,
        command.in_doubt,
        command.due_at,
    )
    assert ["refused_after_doubt"] == stage.open_tickets(command_id)


def test_a_retry_that_succeeds_closes_the_ticket(each_stage):
    """Nobody has to remember it."""
    command_id = escalated(each_stage)

    each_stage.operator().retry(command_id)
    each_stage.deliver()

    assert [("credentials_refused", "closed")] == each_stage.tickets(command_id)


def test_a_retry_leaves_the_other_commands_of_the_ticket_where_they_are(stage):
    """The incident is over when all of them are decided."""
    stage.world.fault("status", status=401, times=2)
    ids = [stage.capture() for _ in range(2)]
    stage.execute(*ids)

    stage.operator().retry(ids[0])
    stage.deliver()

    assert ["succeeded", "escalated"] == [stage.command(each).state.value for each in ids]
    assert [("credentials_refused", "open")] == stage.tickets(ids[1])


def test_a_retry_of_a_closing_window_is_refused_to_the_microsecond(stage):
    """An operator is bound by the window as the machine is."""
    command_id = escalated_in_doubt(stage)
    stage.clock.advance(NOON + timedelta(hours=23, minutes=55) - stage.clock.now)

    with pytest.raises(VerbRefused, match="no longer honours"):
        stage.operator().retry(command_id)


def test_a_retry_of_an_account_that_is_gone_is_refused(stage):
    """There is nowhere to send it."""
    command_id = escalated(stage)
    stage.accounts.clear()

    with pytest.raises(VerbRefused, match="'klarna-eu' is not configured"):
        stage.operator().retry(command_id)


def test_a_retry_with_the_broker_away_is_found_by_dispatch(stage):
    """The database says what is due."""
    command_id = escalated(stage)
    stage.publisher.is_away = True
    stage.operator().retry(command_id)
    stage.publisher.is_away = False

    stage.work(timedelta(seconds=1))

    assert "succeeded" == stage.command(command_id).state


def test_two_operators_do_not_both_decide(each_stage):
    """The second is told what it has become."""
    command_id = escalated(each_stage)
    each_stage.operator(by="first").resolve(command_id)

    with pytest.raises(VerbRefused, match="it is succeeded"):
        each_stage.operator(by="second").cancel(command_id)

    assert ["first"] == [each["by"] for each in each_stage.show(command_id)["actions"]]


def test_a_cancelled_command_is_never_sent(stage):
    """Its message may still lie at the broker."""
    command_id = stage.capture()
    stage.dispatch()
    stage.operator().cancel(command_id)

    stage.work(timedelta(minutes=1))

    assert [] == stage.world.requests()


def test_a_decision_lets_go_what_waited(stage):
    """A refund behind an escalated capture waits for a person, and then for nobody."""
    order_id = stage.order(status="PART_CAPTURED")
    stage.world.fault("status", status=401)
    capture = stage.capture(order_id, amount=100)
    refund = stage.enqueue(Refund(account=ACCOUNT, order_id=order_id, amount=100))
    stage.execute(capture)
    stage.work(timedelta(hours=1))
    before = stage.command(refund).state.value

    stage.operator().resolve(capture)
    stage.work(timedelta(minutes=1))

    assert ("pending", "succeeded") == (before, stage.command(refund).state.value)


def test_a_worker_that_holds_a_command_cannot_undo_an_operators_decision(stage):
    """It stood still; its lease ran out, the command escalated, a person decided."""
    command_id = stage.unreadable(keyed=False)

    def stand_still():
        stage.advance(LEASE.total_seconds() + 1)
        stage.sweep()
        stage.operator().cancel(command_id)

    counts = stage.execute(command_id, transport=Interrupted(stage.transport, after="collect", then=stand_still))

    assert 1 == counts["superseded"]
    assert "cancelled" == stage.command(command_id).state
    assert [True] == [each.late for each in stage.attempts(command_id) if each.outcome == "succeeded"]
