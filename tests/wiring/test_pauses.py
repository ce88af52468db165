from __future__ import annotations

import threading
from datetime import timedelta

from worker.domain.outcome import NotSent, Problem, Unauthorized
from worker.domain.pause import Cause
from worker.duties import Duty, duties, keep_up

PROBLEM = Problem(code="PROBLEM")


def sends_until_it_trips(breaker, outcome):
    return next(count for count in range(1, 100) if breaker.note("klarna-eu", outcome) is not None)


def test_the_breaker_trips_after_as_many_as_the_settings_say(services):
    """Each cause has a number of its own, and mixing them up would pause a shop for three lost packets."""
    told = {"breaker.failures": 7, "breaker.refusals": 2}

    assert 7 == sends_until_it_trips(services(**told).breaker, NotSent(problem=PROBLEM))
    assert 2 == sends_until_it_trips(services(**told).breaker, Unauthorized(problem=PROBLEM))


def test_a_paused_account_is_first_tried_when_the_settings_say(services):
    """After a relapse too: its wait doubles as those of the probes do, up to the same cap."""
    told = {"breaker.failures": 1, "breaker.probe_seconds": 0.25, "breaker.probe_cap_seconds": 0.75}
    breaker = services(**told).breaker

    trips = [breaker.note("klarna-eu", NotSent(problem=PROBLEM)) for _ in range(4)]

    assert [0.25, 0.5, 0.75, 0.75] == [trip.probe_in.total_seconds() for trip in trips]


def test_all_threads_of_a_process_count_with_one_breaker(services):
    """Ten failures in ten threads are ten in a row."""
    made = services()

    assert made.executor.breaker is made.breaker


def test_the_prober_waits_as_the_settings_say(services):
    """Waits that do not come from the settings cannot be mended at night."""
    told = {"breaker.probe_seconds": 4, "breaker.probe_cap_seconds": 90, "http.total_timeout_seconds": 1.5}

    prober = services(**told, **{"sweep.batch_size": 17}).prober

    assert [4, 90, 1.5] == [each.total_seconds() for each in (prober.every, prober.cap, prober.reply)]
    assert 17 == prober.limit


def test_the_prober_has_a_transport_of_its_own(services):
    """It ticks in the thread of upkeep, and a transport belongs to one thread; two probes share it."""
    made = services()

    probing = made.prober.transport()

    assert probing is made.prober.transport()
    assert probing is not made.executor.transport


def test_upkeep_looks_for_probes_as_often_as_the_settings_say(services):
    """Without that duty a paused account would stay paused for ever."""
    made = services(**{"breaker.interval_seconds": 2.5})

    (probe,) = [each for each in duties(made) if each.name == "probe"]

    assert (2.5, made.prober.run_once) == (probe.interval, probe.run_once)


def test_a_probe_that_is_not_answered_holds_up_no_other_duty(services):
    """Other providers are well, and what is to be sent to them must be dispatched meanwhile."""
    stop, is_answered, enough = threading.Event(), threading.Event(), threading.Event()
    dispatched = []

    def dispatch():
        dispatched.append(1)
        if len(dispatched) == 3:
            enough.set()
        return {}

    def probe():
        is_answered.wait(60)
        return {}

    names = [each.name for each in duties(services()) if each.is_slow]
    work = [Duty("probe", 0.01, probe, is_slow=True), Duty("dispatch", 0.01, dispatch)]
    upkeep = threading.Thread(target=keep_up, args=(work, stop))

    upkeep.start()
    is_dispatched = enough.wait(30)
    stop.set()
    is_answered.set()
    upkeep.join(30)

    assert ["probe"] == names
    assert is_dispatched
    assert not upkeep.is_alive()


def test_a_pause_by_the_breaker_keeps_to_the_key_window_of_its_account(services):
    """Each provider forgets keys when it does."""
    made = services(**{"breaker.refusals": 1, "accounts.klarna-eu.key_window_seconds": 3_600})
    trip = made.breaker.note("klarna-eu", Unauthorized(problem=PROBLEM))

    with made.store.begin() as transaction:
        now = transaction.now
        pause = trip.pause(made.accounts["klarna-eu"].policy, now=now)

    assert (Cause.CREDENTIALS, timedelta(hours=1)) == (pause.cause, pause.edge)
    assert now + trip.probe_in == pause.probe_at
