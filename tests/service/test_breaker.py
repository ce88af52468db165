"""An account whose provider is ill is left alone, tried with one read at a time, and begins again carefully."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.service.stage import ACCOUNT, BLUESNAP, Stage
from worker.domain.errors import InvalidPause, UnknownAccount
from worker.domain.outcome import InDoubt, NotNow, NotSent, Problem, Rejected, Succeeded, Throttled, Unauthorized
from worker.domain.pause import Cause
from worker.service.breaker import Breaker

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
PROBLEM = Problem(code="PROBLEM")
ILL = [NotSent(problem=PROBLEM), InDoubt(problem=PROBLEM)]
WELL = [Succeeded(status=200), Rejected(problem=PROBLEM), NotNow(problem=PROBLEM), Throttled(problem=PROBLEM)]


def breaker(*, failures=5, refusals=3):
    return Breaker(most={Cause.BREAKER: failures, Cause.CREDENTIALS: refusals}, probe_in=SECOND * 5, probe_cap=MINUTE)


@pytest.fixture
def ward(stage):
    """A stage whose breaker trips after five, with a prober that is asked with every tick."""
    stage.breaker = breaker()
    stage.probing = stage.another_transport()
    stage.dead.append(stage.probing)
    prober = stage.prober(stage.probing)
    sweep = stage.sweep

    def sweep_and_probe():
        counts = sweep()
        return counts + prober.run_once()

    stage.sweep = sweep_and_probe

    return stage


def pauses(stage: Stage):
    with stage.store.begin() as transaction:
        return [(pause.account, pause.kind, pause.cause.value) for pause, _ in transaction.pauses()]


def reads(stage: Stage):
    return [each for each in stage.world.requests() if each["method"] == "GET"]


# --- when it trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ILL, ids=lambda each: each.name)
def test_enough_ailing_outcomes_in_a_row_trip_it(outcome):
    """Each further send would cost a rung and tell nothing new."""
    under_test = breaker(failures=3)

    trips = [under_test.note(ACCOUNT, outcome) for _ in range(3)]

    assert [None, None] == trips[:2]
    assert (ACCOUNT, Cause.BREAKER) == (trips[2].account, trips[2].cause)


@pytest.mark.parametrize("outcome", WELL, ids=lambda each: each.name)
def test_any_answer_of_the_provider_begins_the_count_anew(outcome):
    """Who refuses is well."""
    under_test = breaker(failures=3)
    for _ in range(2):
        under_test.note(ACCOUNT, ILL[0])
    under_test.note(ACCOUNT, outcome)

    assert [None, None] == [under_test.note(ACCOUNT, ILL[0]) for _ in range(2)]


def test_another_account_is_counted_by_itself():
    """Its provider may be another, and its region too."""
    under_test = breaker(failures=2)
    under_test.note(ACCOUNT, ILL[0])

    assert under_test.note(BLUESNAP, ILL[0]) is None


def test_refused_credentials_have_a_count_of_their_own():
    """Three are enough: nobody's password mends itself."""
    under_test = breaker(failures=10, refusals=3)

    trips = [under_test.note(ACCOUNT, Unauthorized(problem=PROBLEM)) for _ in range(3)]

    assert Cause.CREDENTIALS is trips[-1].cause


def test_it_begins_again_with_one_call_and_twice_as_many_with_each_answer():
    """A provider that has just stood up is not knocked over again."""
    under_test = breaker(failures=1)
    under_test.note(ACCOUNT, ILL[0])

    careful = []
    for _ in range(6):
        careful.append(under_test.careful(ACCOUNT, 20))
        under_test.note(ACCOUNT, Succeeded(status=200))

    assert [1, 2, 4, 8, 16, 20] == careful


def test_who_falls_ill_again_on_the_way_is_left_alone_for_longer_each_time():
    """A provider that reads well and does not write would take a rung of one command after the other, every 5 s."""
    under_test = breaker(failures=1)
    waits = [under_test.note(ACCOUNT, ILL[0]).probe_in for _ in range(6)]
    while under_test.careful(ACCOUNT, 200) < 200:
        under_test.note(ACCOUNT, WELL[0])

    another_day = under_test.note(ACCOUNT, ILL[0]).probe_in

    assert [5, 10, 20, 40, 60, 60] == [wait.total_seconds() for wait in waits]
    assert SECOND * 5 == another_day


def test_while_it_begins_again_one_failure_is_enough():
    """It was ill a moment ago."""
    under_test = breaker(failures=5)
    for _ in range(5):
        under_test.note(ACCOUNT, ILL[0])

    assert under_test.note(ACCOUNT, ILL[0]) is not None


# --- an outage ---------------------------------------------------------------------------------------------


def test_an_outage_stops_the_sending_and_costs_the_waiting_nothing(ward):
    """Of thirty commands a few learn of it; the others wait with all their rungs."""
    for each in (ward.transport, ward.probing):
        each.refuse_connections()
    ids = [ward.capture() for _ in range(30)]
    ward.window = 5

    ward.work(timedelta(hours=6), tick=SECOND * 10)

    assert [(ACCOUNT, "", "breaker")] == pauses(ward)
    assert [] == ward.tickets()
    commands = [ward.command(each) for each in ids]
    assert {"pending"} == {each.state.value for each in commands}
    assert 20 <= sum(each.failures == 0 and each.attempts == 0 for each in commands)
    assert max(each.failures for each in commands) == 1


def test_a_provider_that_reads_and_does_not_write_costs_a_rung_a_minute_and_not_all_of_them(ward):
    """Each probe ends the pause and the next change begins it again; most commands must keep their rungs meanwhile."""
    ward.world.fault("status", status=503, times=None, path="captures$")
    ids = [ward.capture() for _ in range(60)]
    ward.window = 5

    ward.work(MINUTE * 30, tick=SECOND * 5)

    attempts = [ward.command(each).attempts for each in ids]
    assert sum(attempts) <= 50
    assert 30 <= attempts.count(0)
    assert [] == ward.tickets()


def test_when_the_provider_is_back_everything_is_done_once(ward):
    """Nothing was lost, nobody was called."""
    ward.world.fault("status", status=503, times=None)
    for _ in range(30):
        ward.capture()
    ward.window = 5
    ward.work(timedelta(hours=6), tick=SECOND * 10)

    ward.world.clear_faults()
    ward.work(timedelta(minutes=20), tick=SECOND)

    assert [] == pauses(ward)
    assert ["succeeded"] * 30 == ward.states()
    assert 30 == len(ward.effects())
    assert [] == ward.tickets()


def test_a_paused_account_is_tried_with_one_read_at_a_time_and_ever_more_rarely(ward):
    """Nobody needs thirty workers knocking at a closed door."""
    ward.world.fault("status", status=503, times=None)
    for _ in range(6):
        ward.capture()
    ward.work(MINUTE, tick=SECOND)

    probes = [each["at"] for each in reads(ward)]

    assert 3 <= len(probes) <= 5
    assert len(probes) == len(set(probes))


def test_without_anything_to_send_nothing_is_tried(ward):
    """An idle shop asks its provider nothing."""
    with ward.store.begin() as transaction:
        trip = breaker(failures=1).note(ACCOUNT, ILL[0])
        transaction.begin_pause(trip.pause(ward.accounts[ACCOUNT].policy, now=transaction.now))

    ward.work(MINUTE, tick=SECOND)

    assert [] == reads(ward)


def test_another_account_goes_on_meanwhile(ward):
    """It is at another provider."""
    ward.world.fault("status", status=503, times=None, path="^/ordermanagement")
    for _ in range(6):
        ward.capture()
    ward.work(SECOND * 2, tick=SECOND)
    read = ward.enqueue(_read(ward))

    ward.work(SECOND * 2, tick=SECOND)

    assert "succeeded" == ward.command(read).state.value


def test_one_provider_that_hangs_does_not_hold_up_the_probe_of_another(ward):
    """With ten accounts at a provider that hangs, the eleventh would wait for five minutes."""
    ward.breaker = breaker(failures=1)
    ward.world.fault("status", status=503, times=None)
    ward.capture()
    ward.enqueue(_read(ward))
    ward.work(SECOND, tick=SECOND)
    before = pauses(ward)
    ward.world.clear_faults()
    ward.world.fault("hang", times=None, path="^/ordermanagement")
    ward.clock.advance(MINUTE)
    began = ward.clock.now

    counts = ward.prober(ward.probing).run_once()

    assert {(ACCOUNT, "", "breaker"), (BLUESNAP, "", "breaker")} == set(before)
    assert {"probed": 2, "resumed": 1} == dict(counts)
    assert [(ACCOUNT, "", "breaker")] == pauses(ward)
    assert ward.clock.now - began <= ward.reply


def test_an_account_that_is_paused_for_two_causes_is_asked_once(ward):
    """One read tells whether anybody is there and whether they let us in."""
    ward.capture()
    with ward.store.begin() as transaction:
        for outcome in (ILL[0], Unauthorized(problem=PROBLEM)):
            trip = breaker(failures=1, refusals=1).note(ACCOUNT, outcome)
            transaction.begin_pause(trip.pause(ward.accounts[ACCOUNT].policy, now=transaction.now))
    before = pauses(ward)
    ward.clock.advance(MINUTE)

    counts = ward.prober(ward.probing).run_once()

    assert 2 == len(before)
    assert {"probed": 2, "resumed": 2} == dict(counts)
    assert [] == pauses(ward)
    assert 1 == len(reads(ward))


def test_many_providers_that_hang_are_waited_for_once(ward):
    """One after the other they would keep a whole round of probes from being made."""
    ward.breaker = breaker(failures=1)
    ward.world.fault("status", status=503, times=None)
    ward.capture()
    ward.enqueue(_read(ward))
    ward.work(SECOND, tick=SECOND)
    ward.world.clear_faults()
    ward.world.fault("hang", times=None)
    ward.clock.advance(MINUTE)
    began = ward.clock.now

    counts = ward.prober(ward.probing).run_once()

    assert {"probed": 2, "resumed": 0} == dict(counts)
    assert ward.clock.now - began <= ward.reply


def _read(stage):
    from worker import bluesnap  # noqa: PLC0415  # for this alone

    transaction = stage.world.create_transaction(amount="10.00")["transactionId"]

    return bluesnap.ReadTransaction(account=BLUESNAP, order_id=transaction)


def test_a_command_whose_key_is_about_to_end_leaves_the_pause(ward):
    """It is read back while that can still tell something, or a person is told in time."""
    ward.breaker = breaker(failures=1)
    ward.world.fault("status", status=503, times=None)
    command_id = ward.capture()
    ward.work(SECOND, tick=SECOND)

    ward.work(timedelta(hours=25), tick=MINUTE * 5)

    assert "escalated" == ward.command(command_id).state.value
    assert ["key_window_closed"] == ward.open_tickets(command_id)
    assert 1 == ward.command(command_id).attempts


# --- credentials -------------------------------------------------------------------------------------------


def test_refused_credentials_pause_the_account_and_make_one_ticket(ward):
    """The first few tell it; the others burn nothing."""
    ward.world.fault("status", status=401, times=None)
    ids = [ward.capture() for _ in range(20)]
    ward.window = 1

    ward.work(timedelta(hours=1), tick=SECOND * 10)

    assert [(ACCOUNT, "", "credentials")] == pauses(ward)
    assert [("credentials_refused", "open")] == ward.tickets()
    assert 3 == sum(ward.command(each).state.value == "escalated" for each in ids)
    assert 17 == sum(ward.command(each).attempts == 0 for each in ids)


def test_with_new_credentials_everything_goes_on_by_itself(ward):
    """The probe is answered, the waiting are sent, the ticket closes."""
    ward.world.fault("status", status=401, times=None)
    for _ in range(20):
        ward.capture()
    ward.window = 1
    ward.work(timedelta(hours=1), tick=SECOND * 10)

    ward.world.clear_faults()
    ward.work(timedelta(minutes=10), tick=SECOND)

    assert [] == pauses(ward)
    assert ["succeeded"] * 20 == ward.states()
    assert [("credentials_refused", "closed")] == ward.tickets()


def test_with_new_credentials_those_who_told_of_the_old_go_on_without_anything_new_to_send(ward):
    """A quiet shop's three captures must not wait for its next order."""
    ward.world.fault("status", status=401, times=None)
    for _ in range(3):
        ward.capture()
    ward.window = 1
    ward.work(MINUTE, tick=SECOND * 5)
    before = (ward.states(), pauses(ward))

    ward.world.clear_faults()
    ward.work(MINUTE * 3, tick=SECOND * 5)

    assert (["escalated"] * 3, [(ACCOUNT, "", "credentials")]) == before
    assert ["succeeded"] * 3 == ward.states()
    assert [("credentials_refused", "closed")] == ward.tickets()


# --- by hand -----------------------------------------------------------------------------------------------


def test_an_operator_pauses_an_account_and_resumes_it(each_stage):
    """Maintenance was announced."""
    each_stage.operator(by="on call", why="maintenance").pause(ACCOUNT)
    command_id = each_stage.capture()
    each_stage.work(timedelta(hours=1), tick=MINUTE)
    before = each_stage.command(command_id)

    each_stage.operator().resume(ACCOUNT)
    each_stage.work(MINUTE, tick=SECOND)

    assert ("pending", 0) == (before.state.value, before.claims)
    assert "succeeded" == each_stage.command(command_id).state.value


def test_one_kind_is_paused_and_the_others_go_on(stage):
    """Refunds wait for accounting; captures do not."""
    stage.operator().pause(ACCOUNT, "capture")
    capture, other = stage.capture(), stage.unreadable()

    stage.work(MINUTE)

    assert ["pending", "succeeded"] == [stage.command(each).state.value for each in (capture, other)]


def test_what_an_operator_paused_no_probe_opens(ward):
    """A person had a reason."""
    ward.operator().pause(ACCOUNT)
    ward.capture()

    ward.work(timedelta(hours=1), tick=MINUTE)

    assert [(ACCOUNT, "", "operator")] == pauses(ward)
    assert [] == ward.world.requests()


@pytest.mark.parametrize(
    ("verb", "arguments", "error"),
    [
        ("pause", ("nobody",), UnknownAccount),
        ("pause", (ACCOUNT, "teleport"), InvalidPause),
        ("resume", (ACCOUNT,), InvalidPause),
        ("resume", ("nobody",), UnknownAccount),
    ],
)
def test_what_is_not_there_is_neither_paused_nor_resumed(stage, verb, arguments, error):
    """A mistyped name must not look like a pause."""
    with pytest.raises(error):
        getattr(stage.operator(), verb)(*arguments)

    assert [] == pauses(stage)


def test_an_account_is_paused_once_for_each_cause(stage):
    """Who resumes it must not have to do so twice."""
    stage.operator().pause(ACCOUNT)

    with pytest.raises(InvalidPause, match="paused by an operator already"):
        stage.operator().pause(ACCOUNT)

    assert 1 == len(pauses(stage))


# --- long throttling ---------------------------------------------------------------------------------------


def test_an_hour_of_429_is_told_and_costs_nothing(stage):
    """One ticket, and the command goes on waiting."""
    stage.world.fault("throttle", times=None)
    command_id = stage.capture()

    stage.work(timedelta(minutes=100), tick=SECOND * 30)
    before = stage.command(command_id)
    stage.world.clear_faults()
    stage.work(MINUTE * 3, tick=SECOND)

    assert ("pending", 0) == (before.state.value, before.failures)
    assert "succeeded" == stage.command(command_id).state.value
    assert [("throttled", "closed")] == stage.tickets()
    assert ["open", "close"] == [each.verb for each in stage.desk.told]
