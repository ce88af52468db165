from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from worker import Capture, CommandNotFound, PostPurchaseError, Refund, UnknownAccount, bluesnap, enqueue
from worker.domain.state import State
from worker.hosting import outbox
from worker.testing import StillPending

LEASE = timedelta(seconds=90)


@pytest.fixture
def capture(sandbox):
    """A capture of a new order."""

    def of_new_order(*, account="klarna", amount=1000):
        return Capture(account=account, order_id=sandbox.create_order(amount=amount)["order_id"], amount=amount)

    return of_new_order


def effects(sandbox):
    return [(each["provider"], each["kind"], each["amount"]) for each in sandbox.effects()]


def test_a_lost_reply_captures_once(rehearsal, sandbox, clock, capture):
    """This is what the whole kit is for."""
    began = clock.now
    sandbox.fault("drop_reply", path="/captures")
    command = rehearsal.enqueue(capture())

    rehearsal.run()

    assert "succeeded" == rehearsal.state(command)
    assert [("klarna", "capture", 1000)] == effects(sandbox)
    assert ["in_doubt", "succeeded"] == [each["outcome"] for each in rehearsal.show(command)["attempts"]]
    assert timedelta(seconds=5) == clock.now - began


def test_a_lost_reply_of_the_other_provider_refunds_once(rehearsal, sandbox):
    """Both providers stand behind one port."""
    transaction = sandbox.create_transaction(amount="10.00", captured=True)
    sandbox.fault("drop_reply", method="POST")
    refund = bluesnap.Refund(
        account="bluesnap", order_id=transaction["transactionId"], amount=400, currency="USD", reference="r-1"
    )

    command = rehearsal.enqueue(refund)
    rehearsal.run()

    assert "succeeded" == rehearsal.state(command)
    assert [("bluesnap", "refund", "4.00")] == effects(sandbox)


def test_a_provider_that_stays_away_ends_in_one_ticket(rehearsal, sandbox, clock, capture):
    """A shop wants to see what its people would see, and when."""
    began = clock.now
    sandbox.fault("status", status=503, times=None)
    command = rehearsal.enqueue(capture())

    rehearsal.run()

    (told,) = rehearsal.desk.told
    assert "escalated" == rehearsal.state(command)
    assert [command.id] == [each.command_id for each in told.case_file.cases]
    ladder, read_back = timedelta(hours=5, minutes=5, seconds=5), timedelta(minutes=6, seconds=5)
    assert ladder + read_back == clock.now - began


@pytest.mark.parametrize("settings", [{}, {"limits.place": "process"}, {"limits": {"place": "process"}}])
def test_quotas_are_kept_on_the_clock(rehearse, on_sqlite, sandbox, clock, capture, settings):
    """A shop that asks whether its captures are through by noon is told so at once, and truly."""
    slow = {"provider": "klarna", "max_rate_per_second": 1}
    began = clock.now
    with rehearse(on_sqlite, accounts={"klarna": slow}, settings=settings) as rehearsal:
        for _ in range(30):
            rehearsal.enqueue(capture())
        rehearsal.run()

    assert len(effects(sandbox)) == 30
    assert timedelta(seconds=29) <= clock.now - began <= timedelta(seconds=40)


def test_a_second_case_of_a_ticket_is_told_before_the_run_ends(rehearsal, sandbox, capture):
    """Who reads the tickets after a run must find every command in them."""
    sandbox.fault("status", status=401, times=None)
    first = rehearsal.enqueue(capture())
    rehearsal.run()
    second = rehearsal.enqueue(capture())

    rehearsal.run()

    told = [case.command_id for each in rehearsal.desk.told for case in each.case_file.cases]
    assert ["open", "append"] == [each.verb for each in rehearsal.desk.told]
    assert [first.id, second.id] == told


def test_a_person_sends_it_again(rehearsal, sandbox, capture):
    """What follows a ticket is part of the story."""
    sandbox.fault("status", status=503, times=None)
    command = rehearsal.enqueue(capture())
    rehearsal.run()
    sandbox.clear_faults()

    rehearsal.operator(by="operator", why="the provider is back").retry(command.id)
    rehearsal.run()

    assert "succeeded" == rehearsal.state(command)
    assert ["retry"] == [each["verb"] for each in rehearsal.show(command)["actions"]]


def test_what_is_carried_out_late_is_carried_out_when_the_clock_says(rehearsal, sandbox, capture):
    """A clock that ran ahead of the provider would show a shop effects that it never has in real life."""
    sandbox.fault("delay", seconds=60)
    command = rehearsal.enqueue(capture())

    rehearsal.run(until="now")
    before = effects(sandbox)
    rehearsal.run(until=timedelta(seconds=61))

    assert [] == before
    assert [("klarna", "capture", 1000)] == effects(sandbox)
    assert "pending" == rehearsal.state(command)
    rehearsal.run()
    assert "succeeded" == rehearsal.state(command)
    assert [("klarna", "capture", 1000)] == effects(sandbox)


def test_an_outage_lasts_as_long_as_the_clock_says(rehearsal, sandbox, clock, capture):
    """The rung after it finds the provider again, however quick the test was."""
    began = clock.now
    sandbox.refuse_connections(60)
    command = rehearsal.enqueue(capture())

    rehearsal.run()

    assert "succeeded" == rehearsal.state(command)
    assert timedelta(minutes=5, seconds=5) == clock.now - began


def test_a_refund_waits_for_its_capture(rehearsal, sandbox, capture):
    """Order rules hold in a rehearsal as they do at work."""
    of_order = capture()
    sandbox.fault("status", status=503, times=2)
    rehearsal.enqueue(of_order)
    rehearsal.enqueue(Refund(account="klarna", order_id=of_order.order_id, amount=300))

    rehearsal.run()

    assert [("klarna", "capture", 1000), ("klarna", "refund", 300)] == effects(sandbox)


def test_a_run_to_the_present_moves_no_clock(rehearsal, sandbox, clock, capture):
    """The state between two attempts is one to look at."""
    began = clock.now
    sandbox.fault("drop_reply")
    command = rehearsal.enqueue(capture())

    rehearsal.run(until="now")

    assert ("pending", began) == (rehearsal.state(command), clock.now)


@pytest.mark.parametrize(("minutes", "expected"), [(5, "pending"), (6, "succeeded")])
def test_a_run_for_a_while_ends_on_the_minute(rehearsal, sandbox, clock, capture, minutes, expected):
    """What a customer sees after five minutes is a question of its own."""
    began = clock.now
    sandbox.fault("status", status=503, times=2)
    command = rehearsal.enqueue(capture())

    rehearsal.run(until=timedelta(minutes=minutes))

    assert (expected, timedelta(minutes=minutes)) == (rehearsal.state(command), clock.now - began)


def test_what_never_ends_says_so(rehearse, on_sqlite, capture, sandbox):
    """A test that runs for ever says nothing."""
    sandbox.fault("status", status=400)
    waits = {"tickets.retry_base_seconds": 3_600, "tickets.retry_cap_seconds": 36_000}

    with rehearse(on_sqlite, settings=waits) as rehearsal:
        rehearsal.desk.is_unavailable = True
        rehearsal.enqueue(capture())
        with pytest.raises(StillPending, match="a ticket that its desk does not take") as refused:
            rehearsal.run()

    assert isinstance(refused.value, PostPurchaseError)


def test_another_worker_that_died_is_taken_over_from(rehearsal, sandbox, clock, store, capture):
    """A lease is waited for like everything else."""
    began = clock.now
    command = rehearsal.enqueue(capture())
    store.claim([command.id], limit=1, lease=LEASE)

    rehearsal.run()

    assert "succeeded" == rehearsal.state(command)
    assert LEASE < clock.now - began < LEASE + timedelta(seconds=1)


def test_another_ladder_is_rehearsed_as_it_is_set(rehearse, on_sqlite, sandbox, clock, capture):
    """A shop that shortened its waits wants to see its own."""
    began = clock.now
    sandbox.fault("status", status=503, times=2)

    with rehearse(on_sqlite, settings={"retry.ladder_seconds": [1, 2, 3]}) as rehearsal:
        rehearsal.enqueue(capture())
        rehearsal.run()

    assert timedelta(seconds=3) == clock.now - began


def test_an_account_without_keys_is_rehearsed_without_keys(rehearse, on_sqlite, sandbox):
    """Whether BlueSnap has enabled an account's keys decides what a lost reply means."""
    transaction = sandbox.create_transaction(captured=True)
    refund = bluesnap.Refund(
        account="us", order_id=transaction["transactionId"], amount=100, currency="USD", reference="r-1"
    )

    with rehearse(on_sqlite, accounts={"us": {"provider": "bluesnap", "keyed": False}}) as rehearsal:
        rehearsal.enqueue(refund)
        rehearsal.run()

    assert [None] == [each["key"] for each in sandbox.effects()]


def test_the_shops_own_call_is_picked_up(rehearsal, sandbox, capture):
    """The code under test must be the code that runs in production."""
    with Session(rehearsal.engine) as session, session.begin():
        enqueued = enqueue(session, capture())

    rehearsal.run()

    assert [enqueued.id] == [each.id for each in rehearsal.commands()]
    assert State.SUCCEEDED == rehearsal.state(rehearsal.commands()[0])


def test_a_rollback_in_the_shop_leaves_nothing(rehearsal, sandbox, capture):
    """A command exists if and only if the shop's transaction commits."""
    with Session(rehearsal.engine) as session:
        enqueued = enqueue(session, capture())
        session.rollback()

    rehearsal.run()

    assert ([], []) == (rehearsal.commands(), effects(sandbox))
    with pytest.raises(CommandNotFound):
        rehearsal.state(enqueued.id)


def test_an_account_that_was_not_named_is_not_known(rehearsal, capture):
    """A test with a misspelt account must fail where it stands."""
    with pytest.raises(UnknownAccount, match="klarna-eu"):
        rehearsal.enqueue(capture(account="klarna-eu"))


def test_the_environment_is_not_asked(rehearse, on_sqlite, sandbox, capture, monkeypatch):
    """A rehearsal on a machine that can reach production must not."""
    monkeypatch.setenv("POST_PURCHASE_PROFILE", "production")
    monkeypatch.setenv("POST_PURCHASE_ACCOUNTS__KLARNA__BASE_URL", "https://api.klarna.com")

    with rehearse(on_sqlite) as rehearsal:
        command = rehearsal.enqueue(capture())
        rehearsal.run()

    assert "succeeded" == rehearsal.state(command)


def test_after_a_rehearsal_the_process_has_its_own_services_again(rehearse, on_sqlite, monkeypatch):
    """The next test must not store its commands on a clock that stands still."""
    monkeypatch.setenv("POST_PURCHASE_PROFILE", "test")
    before = outbox()

    with rehearse(on_sqlite):
        meanwhile = outbox()

    assert before is not meanwhile
    assert before is outbox()


@pytest.fixture(params=["memory", "file", "postgresql"])
def of_shop(request, tmp_path):
    """An engine as a shop makes it for its tests, on a database without our tables."""
    if request.param == "memory":
        made = create_engine("sqlite://", poolclass=StaticPool)
    elif request.param == "file":
        made = create_engine(f"sqlite:///{tmp_path}/shop.db")
    else:
        made = create_engine(request.getfixturevalue("postgresql_url"))
    yield made
    made.dispose()


def test_any_engine_of_a_shop_will_do(rehearse, of_shop, sandbox, capture):
    """A shop's tests have a database already, and its session is bound to that."""
    sandbox.fault("drop_reply")

    with rehearse(of_shop) as rehearsal:
        with Session(of_shop) as session, session.begin():
            command = enqueue(session, capture())
        rehearsal.run()
        state = rehearsal.state(command)

    assert "succeeded" == state
    assert [("klarna", "capture", 1000)] == effects(sandbox)
