"""The shop is told of each command that is final: at least once, and what it writes is written once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connections, transaction
from shop import orders
from shop.models import Order

from worker import Capture
from worker.config import HostSettings
from worker.contrib.django import Finished, enqueue, finished, tell_finished
from worker.ports import Filter
from worker.wiring import Services

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"


def capture(**fields):
    return Capture(**{"account": "klarna-eu", "order_id": "order-1", "amount": 1000, "reference": "parcel-1", **fields})


def wait_after(shop, ended_ago):
    """Seconds for which a command that ended so many seconds ago is left alone after the shop failed once more."""
    with shop.services.store.read() as ours:
        now = ours.now
    ended = now - timedelta(seconds=ended_ago)
    moment = ended.strftime("%Y-%m-%d %H:%M:%S.%f") if connections["default"].vendor == "sqlite" else ended
    shop.execute("UPDATE post_purchase_command SET tell_at = :moment, finalized_at = :moment", moment=moment)
    tell_finished()
    with shop.services.store.read() as ours:
        (command,) = ours.listed(Filter(), limit=1)

    return round((command.tell_at - now) / timedelta(seconds=1))


def states(shop):
    return shop.seen("state", table="shop_order")


def test_an_order_is_paid_exactly_when_its_capture_is_final(shop):
    """Paid too early ships for nothing; never paid has a customer asked for money twice."""
    shop.order("1")
    orders.ship("1")

    before = tell_finished()
    waiting = states(shop)
    shop.finish()
    after = tell_finished()
    again = tell_finished()

    assert [{"told": 0, "failed": 0}, {"told": 1, "failed": 0}, {"told": 0, "failed": 0}] == [before, after, again]
    assert ["shipped"] == waiting
    assert ["paid"] == states(shop)


@pytest.mark.parametrize("state", ["succeeded", "rejected", "cancelled"])
def test_every_end_is_told(shop, settings_of, monkeypatch, state):
    """A refused capture needs somebody's attention in the shop as well."""
    told = []
    monkeypatch.setattr(orders, "settle", told.append)
    enqueued = enqueue(capture())
    shop.finish(state)

    tell_finished()

    (seen,) = told
    assert isinstance(seen, Finished)
    assert (enqueued.id, state, "capture", "order-1", "parcel-1", 1000) == (
        seen.id,
        seen.state,
        seen.kind,
        seen.order_id,
        seen.reference,
        seen.amount,
    )  # fmt: skip - one line of names
    assert seen.finalized_at.tzinfo is not None


def test_an_end_that_an_operator_makes_is_told_too(shop):
    """Who resolves or cancels by hand expects the shop to know."""
    shop.order("1")
    enqueued = enqueue(capture())
    shop.escalate()
    shop.services.operator(by="on call", why="seen in the portal").resolve(enqueued.id)

    tell_finished()

    assert ["paid"] == states(shop)


def test_the_end_of_an_amended_command_is_told_though_another_process_amended_it(shop):
    """The command line of a machine that knows no Django does not know that anybody waits to be told."""
    shop.order("1")
    enqueued = enqueue(capture())
    shop.escalate()
    untold = shop.services.settings.model_copy(update={"host": HostSettings(is_told=False)})
    with closing(Services(untold)) as elsewhere:
        elsewhere.operator(by="on call", why="too much").amend(enqueued.id, capture(amount=900))
    told = tell_finished()
    before = states(shop)
    shop.execute("UPDATE post_purchase_command SET state = 'succeeded', finalized_at = created_at WHERE amount = 900")

    again = tell_finished()

    assert [1, 1] == [told["told"], again["told"]]
    assert (["ordered"], ["paid"]) == (before, states(shop))


def test_who_was_told_of_a_refusal_is_told_of_the_command_that_takes_its_place(shop):
    """The shop knows that the capture was refused; from a plain command line it is amended, and the money comes."""
    shop.order("1")
    refused = enqueue(capture())
    shop.finish("rejected")
    tell_finished()
    untold = shop.services.settings.model_copy(update={"host": HostSettings(is_told=False)})
    with closing(Services(untold)) as elsewhere:
        elsewhere.operator(by="on call", why="too much").amend(refused.id, capture(amount=900))
    before = states(shop)
    shop.execute("UPDATE post_purchase_command SET state = 'succeeded', finalized_at = created_at WHERE amount = 900")

    told = tell_finished()

    assert (1, ["ordered"], ["paid"]) == (told["told"], before, states(shop))


def test_where_nobody_asked_the_next_command_is_not_told_of_either(shop, settings_of):
    """A mark that nobody clears would stay for ever, and be told of on the day when somebody asks."""
    settings_of(on_finished=None)
    refused = enqueue(capture())
    shop.finish("rejected")

    shop.services.operator(by="on call", why="too much").amend(refused.id, capture(amount=900))

    assert ["None", "None"] == shop.seen("tell_at")


def test_a_shop_that_fails_is_told_again_and_nothing_of_it_stays(shop, monkeypatch):
    """Half of what the shop does for a paid order is worse than nothing of it."""
    shop.order("1")
    enqueue(capture())
    shop.finish()
    settle = orders.settle

    def fails(end):
        settle(end)
        raise ZeroDivisionError

    monkeypatch.setattr(orders, "settle", fails)
    first = tell_finished()
    between = states(shop)
    at_once = tell_finished()
    monkeypatch.setattr(orders, "settle", settle)
    shop.execute("UPDATE post_purchase_command SET tell_at = created_at")
    second = tell_finished()

    assert [{"told": 0, "failed": 1}, {"told": 0, "failed": 0}, {"told": 1, "failed": 0}] == [first, at_once, second]
    assert ["ordered"] == between
    assert ["paid"] == states(shop)


def test_one_that_fails_does_not_hold_back_the_others(shop, monkeypatch):
    """One order with a bent row must not leave a whole day unpaid."""
    for number in ("1", "2", "3"):
        shop.order(number)
        enqueue(capture(order_id=f"order-{number}"))
    shop.finish()
    settle = orders.settle

    def fails_for_one(end):
        if end.order_id == "order-1":
            raise ZeroDivisionError
        settle(end)

    monkeypatch.setattr(orders, "settle", fails_for_one)
    counts = tell_finished()

    assert {"told": 2, "failed": 1} == counts
    assert ["ordered", "paid", "paid"] == sorted(states(shop))


def test_a_failure_waits_longer_each_time_and_never_more_than_five_minutes(shop, monkeypatch):
    """An error that needs a new release must not fill the log until then, and must not be forgotten."""
    monkeypatch.setattr(orders, "settle", lambda _end: 1 / 0)
    enqueue(capture())
    shop.finish()

    waits = [wait_after(shop, ended_ago) for ended_ago in (1, 60, 86_400)]

    assert [5, 60, 300] == waits


def test_two_tellers_at_once_tell_once(shop_on_postgresql, monkeypatch):
    """Each worker has one; the shop's e-mail to the customer goes out once."""
    shop = shop_on_postgresql
    for number in range(20):
        enqueue(capture(order_id=f"order-{number}"))
    shop.finish()
    told = []
    monkeypatch.setattr(orders, "settle", lambda end: told.append(end.order_id))
    gate = threading.Barrier(3)

    def work():
        gate.wait(timeout=10)
        tell_finished()
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sorted(f"order-{number}" for number in range(20)) == sorted(told)


def test_nothing_is_marked_where_nobody_wants_to_be_told(shop, settings_of):
    """Finished rows must cost nothing, so the mark is only for whoever asked for it."""
    settings_of(on_finished=None)
    enqueue(capture())
    shop.finish()

    assert {"told": 0, "failed": 0} == tell_finished()
    assert ["None"] == shop.seen("tell_at")


def test_a_run_is_bounded(shop, monkeypatch):
    """A thread that must be able to stop tells so many and looks up."""
    monkeypatch.setattr(orders, "settle", lambda _end: None)
    for number in range(5):
        enqueue(capture(order_id=f"order-{number}"))
    shop.finish()

    assert [3, 2, 0] == [tell_finished(limit=3)["told"] for _ in range(3)]


def test_a_tick_gives_its_connection_back(shop):
    """A thread that lives for weeks must not hold a connection that the server has closed."""
    connections["default"].settings_dict["CONN_MAX_AGE"] = 0
    enqueue(capture())
    shop.finish()

    finished.tick()

    assert connections["default"].connection is None


DYING = """
import os, sys
import django
django.setup()
from shop import orders
from worker.contrib.django import tell_finished

settle = orders.settle
def dies(end):
    settle(end)
    os.kill(os.getpid(), 9)
orders.settle = dies
tell_finished()
"""


def test_a_kill_while_the_shop_is_told_loses_nothing(shop):
    """The mark and the shop's own change are one transaction: after a crash neither is there, and it is told again."""
    shop.order("1")
    enqueue(capture())
    shop.finish()
    database = connections["default"].settings_dict
    place = (
        {f"SHOP_DATABASE_{name}": str(database[name]) for name in ("NAME", "HOST", "USER", "PASSWORD", "PORT")}
        if connections["default"].vendor == "postgresql"
        else {"SHOP_DATABASE_FILE": str(database["NAME"])}
    )

    died = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DYING],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HOST)]),
            "DJANGO_SETTINGS_MODULE": "settings",
            **place,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    between = states(shop)
    after = tell_finished()

    assert -signal.SIGKILL == died.returncode, died.stderr
    assert ["ordered"] == between
    assert 1 == after["told"]
    assert ["paid"] == states(shop)


def test_a_host_may_use_transactions_of_its_own_inside(shop, monkeypatch):
    """The hook is ordinary Django code: savepoints and `on_commit` mean there what they mean everywhere."""
    shop.order("1")
    enqueue(capture())
    shop.finish()
    sent = []

    def settle(end):
        with transaction.atomic():
            Order.objects.filter(klarna_id=end.order_id).update(state="paid")
        transaction.on_commit(lambda: sent.append(states(shop)))

    monkeypatch.setattr(orders, "settle", settle)
    tell_finished()

    assert [["paid"]] == sent
