from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.service.stage import ACCOUNT, NOON, Died, FailingStore, Interrupted, die
from worker.domain.klarna_commands import UpdateCustomerDetails
from worker.domain.ticket import Reason
from worker.ports import StoreUnavailable
from worker.testing import RecordingDesk


@pytest.fixture
def refused():
    """A refused command; its id and that of its ticket."""

    def build(stage, **fields):
        command_id = stage.capture(amount=99_999, **fields)
        stage.execute(command_id)

        return command_id, ticket_id_of(stage, command_id)

    return build


@pytest.fixture
def exhausted():
    """A command whose ladder is used up, with its ticket not told yet."""

    def build(stage):
        command_id = stage.unreadable()
        stage.world.fault("status", status=503, times=None, order_id=stage.command(command_id).order_id)
        while stage.command(command_id).state == "pending":
            stage.clock.advance(max(stage.command(command_id).due_at - stage.clock.now, timedelta(0)))
            stage.execute(command_id)

        return command_id

    return build


def ticket_id_of(stage, command_id):
    with stage.store.begin() as transaction:
        (line,) = transaction.tickets(command_id=command_id, limit=2)

    return line.id


def test_a_desk_is_told_and_its_reference_kept(each_stage, refused):
    """People find the ticket by it, and what follows is added under it."""
    command_id, ticket_id = refused(each_stage)

    said = each_stage.escalator().escalate(ticket_id).verb

    (told,) = each_stage.desk.told
    (ticket,) = each_stage.show(command_id)["tickets"]
    assert ("told", "open") == (said, told.verb)
    assert ("open", "recording", f"recording:{ticket_id}") == (
        ticket["state"],
        ticket["desk"],
        ticket["external_ref"],
    )


def test_what_came_of_a_telling_says_where_or_why_not(stage, refused):
    """Whoever looks at the task finds the ticket at the desk, or what to mend."""
    _, ticket_id = refused(stage)
    stage.desk.is_unavailable = True
    away = stage.escalator().escalate(ticket_id)
    stage.desk.is_unavailable = False
    stage.advance(3600)

    told = stage.escalator().escalate(ticket_id)

    assert ("postponed", None, True) == (away.verb, away.external_ref, "unavailable" in away.problem)
    assert ("told", f"recording:{ticket_id}", None) == (told.verb, told.external_ref, told.problem)


def test_a_case_file_holds_what_a_person_needs(stage, exhausted):
    """With it one can look the order up and decide."""
    command_id = exhausted(stage)

    stage.escalator().escalate(ticket_id_of(stage, command_id))

    (told,) = stage.desk.told
    command, (case,) = stage.command(command_id), told.case_file.cases
    assert (Reason.LADDER_EXHAUSTED, ACCOUNT, 1) == (
        told.case_file.reason,
        told.case_file.account,
        told.case_file.total,
    )
    assert (command_id, "acknowledge", command.order_id, None, command.idempotency_key, "escalated", True) == (
        case.command_id,
        case.kind,
        case.order_id,
        case.amount,
        case.idempotency_key,
        case.state,
        case.in_doubt,
    )
    assert [1, 2, 3, 4] == [each.number for each in case.attempts]
    assert {"in_doubt"} == {each.outcome for each in case.attempts}
    assert {503} == {each.status for each in case.attempts}
    assert all(each.correlation_id for each in case.attempts)
    assert timedelta(hours=23, minutes=55) - (stage.clock.now - NOON) == case.key_window_left


def test_a_case_file_holds_no_payload(stage):
    """An address is somebody's, and a ticket is read by many."""
    command = UpdateCustomerDetails(
        account=ACCOUNT, order_id=stage.order(status="CAPTURED"), shipping_address={"city": "Knoxville"}
    )
    command_id = stage.enqueue(command)
    stage.execute(command_id)

    stage.escalator().escalate(ticket_id_of(stage, command_id))

    assert "Knoxville" not in repr(stage.desk.told)


def test_a_ticket_is_told_once(stage, refused):
    """Messages double; people should not hear of it twice."""
    _, ticket_id = refused(stage)
    stage.escalator().escalate(ticket_id)

    again = [stage.escalator().escalate(ticket_id).verb for _ in range(2)]
    stage.advance(3600)
    later = stage.escalator().escalate(ticket_id).verb

    assert ["nothing"] * 3 == [*again, later]
    assert 1 == len(stage.desk.told)


def test_a_ticket_that_does_not_exist_is_nothing(stage):
    """A message may outlive everything."""
    assert "nothing" == stage.escalator().escalate(uuid4()).verb


def test_two_workers_do_not_tell_at_once(each_stage, refused):
    """The desk may not recognise two openings at the same moment."""
    _, ticket_id = refused(each_stage)
    said = []

    def meanwhile():
        said.append(each_stage.escalator().escalate(ticket_id).verb)

    desk = Interrupted(each_stage.desk, before="open", then=meanwhile)
    said.append(replace(each_stage.escalator(), desk=desk).escalate(ticket_id).verb)

    assert ["nothing", "told"] == said
    assert 1 == len(each_stage.desk.told)


def test_a_worker_that_died_while_telling_is_replaced_after_its_lease(stage, refused):
    """The desk may have heard of it, and recognises the repeat."""
    _, ticket_id = refused(stage)
    desk = Interrupted(stage.desk, after="open", then=die)
    with pytest.raises(Died):
        replace(stage.escalator(), desk=desk).escalate(ticket_id)
    within = stage.escalator().escalate(ticket_id).verb
    stage.advance(60)

    after = stage.escalator().escalate(ticket_id).verb

    assert ("nothing", "told") == (within, after)
    assert 1 == len({each.external_ref for each in stage.desk.told})


# --- a desk that is away -----------------------------------------------------------------------------------


def test_a_desk_that_is_away_is_asked_again_ever_later_without_end(stage, refused):
    """A ticket that could not be opened is durable work."""
    _, ticket_id = refused(stage)
    stage.desk.is_unavailable = True
    said = [stage.escalator().escalate(ticket_id).verb]

    # Three quarters of 5 s, 10 s, 20 s … where chance is a half, and never more than of 300 s.
    for wait in (3.75, 7.5, 15, 30, 60, 120, 225, 225, 225):
        stage.clock.advance(timedelta(seconds=wait - 0.001))
        said.append(stage.escalator().escalate(ticket_id).verb)
        stage.clock.advance(timedelta(seconds=0.001))
        said.append(stage.escalator().escalate(ticket_id).verb)

    assert ["postponed", *["nothing", "postponed"] * 9] == said
    assert [] == stage.desk.told


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 2.5), (0.999, 4.9975)])
def test_the_first_wait_lies_between_half_and_all_of_its_base(stage, refused, chance, expected):
    """All workers lose the desk at once; chance keeps them from coming back at once."""
    _, ticket_id = refused(stage)
    stage.desk.is_unavailable = True

    replace(stage.escalator(), chance=lambda: chance).escalate(ticket_id)

    stage.clock.advance(timedelta(seconds=expected) - timedelta(milliseconds=1))
    early = stage.escalator().escalate(ticket_id).verb
    stage.clock.advance(timedelta(milliseconds=1))
    assert ("nothing", "postponed") == (early, stage.escalator().escalate(ticket_id).verb)


def test_a_desk_that_comes_back_is_told_once(each_stage, refused):
    """With everything that was to be told."""
    command_id, ticket_id = refused(each_stage)
    each_stage.desk.is_unavailable = True
    each_stage.escalator().escalate(ticket_id)
    why = _problem_of(each_stage, command_id)
    each_stage.desk.is_unavailable = False

    each_stage.work(timedelta(minutes=10), tick=timedelta(seconds=5))

    assert "told to be unavailable" in why
    assert 1 == len(each_stage.desk.told)
    assert _problem_of(each_stage, command_id) is None


def _problem_of(stage, command_id):
    with stage.store.begin() as transaction:
        (line,) = transaction.tickets(command_id=command_id, limit=1)

    return line.problem


# --- what is added -----------------------------------------------------------------------------------------


def test_a_common_cause_makes_one_ticket_to_which_the_rest_is_added(each_stage):
    """An outage makes a handful of tickets, not one per command."""
    each_stage.world.fault("status", status=401, times=None)
    each_stage.execute(each_stage.capture())
    each_stage.deliver()
    more = [each_stage.capture() for _ in range(3)]
    each_stage.execute(*more)

    each_stage.work(timedelta(minutes=5))

    opened, added = each_stage.desk.told
    assert [("credentials_refused", "open")] == each_stage.tickets()
    assert ("open", 1, 1) == (opened.verb, len(opened.case_file.cases), opened.case_file.total)
    assert ("append", 3, 4) == (added.verb, len(added.case_file.cases), added.case_file.total)
    assert opened.external_ref == added.external_ref
    assert more == [each.command_id for each in added.case_file.cases]


def test_one_outage_makes_one_ticket_that_grows_and_closes_by_itself(each_stage):
    """Whoever was called at night sees all that it hit in one place, and need not go through it when all ended well."""
    each_stage.world.fault("status", status=503, times=None)
    first = [each_stage.capture() for _ in range(2)]
    each_stage.work(timedelta(minutes=30))
    later = [each_stage.capture() for _ in range(3)]
    each_stage.work(timedelta(hours=7), tick=timedelta(minutes=2))
    during = each_stage.tickets()
    told = [(each.verb, {case.command_id for case in each.case_file.cases}) for each in each_stage.desk.told]
    opened = each_stage.desk.told[0]

    each_stage.world.clear_faults()
    for each in first:
        each_stage.operator().retry(each)
    each_stage.work(timedelta(minutes=1))
    halfway = each_stage.tickets()
    for each in later:
        each_stage.operator().retry(each)
    each_stage.work(timedelta(minutes=1))

    assert [("ladder_exhausted", "open")] == during == halfway
    assert [("open", set(first)), ("append", set(later))] == told
    assert ["succeeded"] * 5 == each_stage.states()
    assert [("ladder_exhausted", "closed")] == each_stage.tickets()
    assert 5 == len(each_stage.effects())
    (*_, last) = each_stage.desk.told
    assert (3, "close", opened.external_ref) == (len(each_stage.desk.told), last.verb, last.external_ref)
    assert ({"succeeded": 5}, False) == (last.case_file.closing.counts, last.case_file.closing.by_operator)


def test_additions_keep_their_distance(stage):
    """A desk that got a mail for each of a thousand commands would be switched off."""
    stage.world.fault("status", status=401, times=None)
    for _ in range(5):
        stage.execute(stage.capture())
        stage.work(timedelta(seconds=20), tick=timedelta(seconds=5))
    stage.work(timedelta(minutes=2), tick=timedelta(seconds=5))

    told = sum(len(each.case_file.cases) for each in stage.desk.told)
    assert 5 == told
    assert 3 >= len(stage.desk.told)


def test_more_than_a_page_is_told_in_pages(stage):
    """A mail with ten thousand commands would be refused, or never read."""
    stage.window = 200
    stage.world.fault("status", status=401, times=None)
    ids = [stage.capture() for _ in range(120)]
    stage.execute(*ids)

    stage.work(timedelta(minutes=5))

    assert [(50, 120), (50, 120), (20, 120)] == [
        (len(each.case_file.cases), each.case_file.total) for each in stage.desk.told
    ]
    assert set(ids) == {case.command_id for each in stage.desk.told for case in each.case_file.cases}


def test_two_causes_are_two_tickets(stage):
    """They are mended by different people."""
    stage.world.fault("status", status=401)
    stage.execute(stage.capture())
    stage.world.fault("drop_reply")
    stage.execute(stage.unreadable(keyed=False))

    stage.work(timedelta(minutes=1))

    assert {("credentials_refused", "open"), ("not_safe_to_retry", "open")} == set(stage.tickets())
    assert 2 == len(stage.desk.told)


def test_refused_commands_have_a_ticket_each(stage, refused):
    """Each is a matter of its own."""
    refused(stage)
    refused(stage)

    assert [("refused", "unsent")] * 2 == stage.tickets()


def test_a_new_failure_after_the_ticket_was_closed_opens_a_new_one(each_stage):
    """The old incident is over; this is another morning."""
    each_stage.world.fault("status", status=401)
    first = each_stage.capture()
    each_stage.execute(first)
    each_stage.deliver()
    each_stage.operator().retry(first)
    each_stage.work(timedelta(seconds=1))
    each_stage.world.fault("status", status=401)
    each_stage.execute(each_stage.capture())
    each_stage.work(timedelta(seconds=1))

    assert [("credentials_refused", "closed"), ("credentials_refused", "open")] == each_stage.tickets()
    assert 2 == len({each.external_ref for each in each_stage.desk.told})


def test_a_retried_command_that_fails_again_is_told_again(stage, exhausted):
    """The operator believed it mended."""
    command_id = exhausted(stage)
    stage.deliver()
    stage.operator().retry(command_id)

    stage.work(timedelta(hours=6), tick=timedelta(minutes=5))

    assert ["open", "append"] == [each.verb for each in stage.desk.told]
    assert [("ladder_exhausted", "open")] == stage.tickets(command_id)
    assert 8 == len(stage.desk.told[-1].case_file.cases[0].attempts)


def test_a_retried_command_that_fails_otherwise_changes_its_ticket(stage, exhausted):
    """Exactly one open ticket, and that for the reason that holds now."""
    command_id = exhausted(stage)
    stage.deliver()
    stage.world.clear_faults()
    stage.world.fault("status", status=401)
    stage.operator().retry(command_id)

    stage.work(timedelta(minutes=1))

    assert [("ladder_exhausted", "closed"), ("credentials_refused", "open")] == stage.tickets(command_id)


def test_a_ticket_that_closed_before_it_was_told_is_told_to_nobody(stage, refused):
    """An operator saw the command first."""
    command_id, ticket_id = refused(stage)
    stage.operator().resolve(command_id)

    assert "nothing" == stage.escalator().escalate(ticket_id).verb
    assert [] == stage.desk.told


# --- closings ----------------------------------------------------------------------------------------------


@pytest.fixture
def overcome(exhausted):
    """A command that exhausted its ladder and was retried well after its desk was told; its closing is due."""

    def build(stage):
        command_id = exhausted(stage)
        stage.deliver()
        stage.world.clear_faults()
        stage.operator().retry(command_id)
        stage.execute(command_id)

        return command_id, ticket_id_of(stage, command_id)

    return build


def verbs(stage):
    return [each.verb for each in stage.desk.told]


def test_a_ticket_that_closed_by_itself_is_told_once(each_stage, overcome):
    """Nobody need look at it any more, and nobody else says so."""
    command_id, ticket_id = overcome(each_stage)

    each_stage.work(timedelta(hours=2))

    opened, closed = each_stage.desk.told
    assert ("open", "close", opened.external_ref) == (opened.verb, closed.verb, closed.external_ref)
    case_file = closed.case_file
    assert (ticket_id, (), 1) == (case_file.ticket_id, case_file.cases, case_file.total)
    assert (each_stage.command(command_id).finalized_at, False, {"succeeded": 1}, 0) == (
        case_file.closing.closed_at,
        case_file.closing.by_operator,
        case_file.closing.counts,
        case_file.closing.decided_by_operator,
    )
    assert [(command_id, "succeeded")] == [(each.command_id, each.how) for each in case_file.closing.first]


@pytest.mark.parametrize("verb", ["resolve", "cancel"])
def test_a_ticket_that_an_operator_closed_is_told_as_such(stage, exhausted, verb):
    """One decided it, but others look at the same ticket."""
    command_id = exhausted(stage)
    stage.deliver()

    getattr(stage.operator(), verb)(command_id)
    stage.work(timedelta(minutes=5))

    closing = stage.desk.told[-1].case_file.closing
    assert ["open", "close"] == verbs(stage)
    assert (True, 1) == (closing.by_operator, closing.decided_by_operator)


def test_a_desk_that_is_away_is_told_of_a_closing_when_it_is_back(each_stage, overcome):
    """Desk and provider often go away together, and come back one after the other."""
    command_id, ticket_id = overcome(each_stage)
    each_stage.desk.is_unavailable = True

    said = [each_stage.escalator().escalate(ticket_id).verb for _ in range(2)]
    why = _problem_of(each_stage, command_id)
    each_stage.work(timedelta(hours=1))
    before = verbs(each_stage)
    each_stage.desk.is_unavailable = False
    each_stage.work(timedelta(hours=1))

    assert ["postponed", "nothing"] == said
    assert "told to be unavailable" in why
    assert ["open"] == before
    assert ["open", "close"] == verbs(each_stage)
    assert _problem_of(each_stage, command_id) is None


def test_a_ticket_that_closes_before_a_desk_took_it_is_told_to_nobody(stage, exhausted):
    """The outage is over before anybody was told; a mail that it has ended would only puzzle."""
    command_id = exhausted(stage)
    stage.desk.is_unavailable = True
    stage.deliver()
    stage.operator().resolve(command_id)
    stage.desk.is_unavailable = False

    stage.work(timedelta(hours=1))

    assert [("ladder_exhausted", "closed")] == stage.tickets()
    assert [] == stage.desk.told


def test_a_ticket_that_closes_with_an_addition_due_is_told_of_the_closing_alone(stage):
    """What was to be added is over as well."""
    stage.world.fault("status", status=401, times=None)
    first = stage.capture()
    stage.execute(first)
    stage.deliver()
    further = stage.capture()
    stage.execute(further)
    for each in (first, further):
        stage.operator().cancel(each)

    stage.work(timedelta(minutes=10))

    assert ["open", "close"] == verbs(stage)
    assert {"cancelled": 2} == stage.desk.told[-1].case_file.closing.counts


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_ticket_that_closes_while_it_is_opened_is_told_of_its_closing(each_stage, refused, when):
    """The desk was told of what was over, and would show it for ever."""
    command_id, ticket_id = refused(each_stage)
    desk = Interrupted(each_stage.desk, **{when: "open"}, then=lambda: each_stage.operator().resolve(command_id))

    replace(each_stage.escalator(), desk=desk).escalate(ticket_id)
    each_stage.work(timedelta(minutes=5))

    assert [("refused", "closed")] == each_stage.tickets(command_id)
    assert ["open", "close"] == verbs(each_stage)
    assert 1 == len({each.external_ref for each in each_stage.desk.told})


@pytest.mark.parametrize(("moment", "times"), [("before", 1), ("after", 2)])
def test_a_worker_that_died_while_telling_a_closing_is_replaced(stage, overcome, moment, times):
    """Told and not noted is told again; the desk recognises the repeat by its ticket."""
    _, ticket_id = overcome(stage)
    desk = Interrupted(stage.desk, **{moment: "close"}, then=die)
    with pytest.raises(Died):
        replace(stage.escalator(), desk=desk).escalate(ticket_id)
    within = stage.escalator().escalate(ticket_id).verb

    stage.work(timedelta(minutes=5))

    _, *closings = stage.desk.told
    assert "nothing" == within
    assert times == len(closings)
    assert all(each == closings[0] for each in closings)


def test_a_worker_that_died_while_opening_leaves_a_closing_to_tell(stage, refused):
    """The desk may have heard of the ticket before, and every desk knows it by its id."""
    command_id, ticket_id = refused(stage)
    desk = Interrupted(stage.desk, after="open", then=die)
    with pytest.raises(Died):
        replace(stage.escalator(), desk=desk).escalate(ticket_id)
    stage.operator().resolve(command_id)

    stage.work(timedelta(minutes=5))

    opened, closed = stage.desk.told
    assert ("close", opened.external_ref) == (closed.verb, closed.external_ref)
    assert {"rejected": 1} == closed.case_file.closing.counts


@pytest.mark.parametrize(("failing", "told"), [({"begins": [1]}, 0), ({"begins": [2]}, 1), ({"commits": [2]}, 1)])
def test_a_database_that_is_away_loses_no_closing(stage, overcome, failing, told):
    """A ticket whose closing was lost would be looked at for ever."""
    _, ticket_id = overcome(stage)

    with pytest.raises(StoreUnavailable):
        stage.escalator(store=FailingStore(stage.store, **failing)).escalate(ticket_id)
    before = verbs(stage).count("close")
    stage.work(timedelta(minutes=5))

    assert told == before
    assert {"open", "close"} == set(verbs(stage))
    assert 1 == len({each.external_ref for each in stage.desk.told})


def test_a_closing_reaches_the_desk_of_today(stage, overcome):
    """The settings changed while the ticket was open; whoever reads there may know the old reference."""
    _, ticket_id = overcome(stage)
    today = RecordingDesk(name="another")

    replace(stage.escalator(), desk=today).escalate(ticket_id)

    (told,) = today.told
    assert ("close", f"recording:{ticket_id}") == (told.verb, told.external_ref)


def test_a_command_that_changed_its_ticket_is_no_more_than_moved(stage, exhausted):
    """Its old ticket must not say that it ended well, nor that it did not."""
    command_id = exhausted(stage)
    stage.deliver()
    stage.world.clear_faults()
    stage.world.fault("status", status=401)
    stage.operator().retry(command_id)

    stage.work(timedelta(minutes=1))

    (closed,) = [each for each in stage.desk.told if each.verb == "close"]
    assert (Reason.LADDER_EXHAUSTED, {"moved": 1}) == (closed.case_file.reason, closed.case_file.closing.counts)


# --- what else may be missing ------------------------------------------------------------------------------


def test_without_its_account_a_command_is_told_all_the_same(stage, exhausted):
    """The settings may have lost the very account that the ticket is about."""
    command_id = exhausted(stage)

    stage.escalator(accounts={}).escalate(ticket_id_of(stage, command_id))

    ((case,),) = [each.case_file.cases for each in stage.desk.told]
    assert timedelta(hours=18) < case.key_window_left < timedelta(hours=19)


@pytest.mark.parametrize(("failing", "told"), [({"begins": [1]}, 0), ({"begins": [2]}, 1), ({"commits": [2]}, 1)])
def test_a_database_that_is_away_loses_no_ticket(stage, refused, failing, told):
    """What was told and not noted is told again, under the same name."""
    command_id, ticket_id = refused(stage)

    with pytest.raises(StoreUnavailable):
        stage.escalator(store=FailingStore(stage.store, **failing)).escalate(ticket_id)
    before = len(stage.desk.told)
    stage.work(timedelta(minutes=5))

    assert told == before
    assert 1 == len({each.external_ref for each in stage.desk.told})
    assert [("refused", "open")] == stage.tickets(command_id)
