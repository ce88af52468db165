"""Enqueue in Django's own transaction: what commits with the shop's rows, and what is published when."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import unittest
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.test import AsyncClient, Client, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from shop import orders
from sqlalchemy import create_engine

from worker import Capture, IdempotencyConflict, Refund, UnknownAccount
from worker.contrib.django import enqueue, enqueue_many
from worker.domain.state import State
from worker.store.clock import ManualClock
from worker.store.engine import SqlStore


def capture(**fields):
    return Capture(**{"account": "klarna-eu", "order_id": "order-1", "amount": 1000, "reference": "parcel-1", **fields})


@contextmanager
def rolled_back():
    """A transaction, or a savepoint, whose end fails."""
    with suppress(ZeroDivisionError), transaction.atomic():
        yield
        1 / 0  # noqa: B018  # the failure


def forget_connection():
    connections["default"].close()
    del connections["default"]


def test_order_and_command_commit_together(shop):
    """The parcel is marked as sent and its money is asked for: one without the other costs somebody money."""
    shop.order("1")

    orders.ship("1")

    assert ["shipped"] == shop.seen("state", table="shop_order")
    assert ["order-1"] == shop.seen("order_id")
    assert shop.seen("id", kind=UUID) == shop.publisher.published


def test_a_rollback_leaves_neither(shop):
    """A capture that stayed behind would be for a parcel that never left."""
    shop.order("1")

    with rolled_back():
        orders.ship("1")

    assert ["ordered"] == shop.seen("state", table="shop_order")
    assert [] == shop.seen("id")
    assert [] == shop.publisher.published


def test_nothing_is_published_before_the_outermost_commit(shop):
    """A worker that is told too early finds nothing, and one that is told of a rollback finds nothing for ever."""
    with transaction.atomic():
        with transaction.atomic():
            enqueued = enqueue(capture())
        inside = list(shop.publisher.published)

    assert [] == inside
    assert [enqueued.id] == shop.publisher.published


def test_a_savepoint_that_is_rolled_back_takes_its_command_along(shop):
    """Django's savepoints stay Django's: what was stored in one is gone with it, and is not published."""
    with transaction.atomic():
        kept = enqueue(capture())
        with rolled_back():
            enqueue(capture(reference="parcel-2"))

    assert ["parcel-1"] == shop.seen("reference")
    assert [kept.id] == shop.publisher.published


def test_the_same_reference_again_is_the_same_command(shop):
    """A request that the browser repeats must not capture twice."""
    first, second = enqueue(capture()), enqueue(capture())

    assert (True, False) == (first.was_stored, second.was_stored)
    assert first.id == second.id
    assert [first.id] == shop.publisher.published


def test_a_repeat_of_a_command_with_a_past_is_recognised(shop):
    """Moments, JSON and ids of a stored row must be read as the store writes them, whatever Django does to its own."""
    first = enqueue(capture())
    problem = '{"code": "CAPTURE_NOT_ALLOWED", "message": "no", "status": 403, "correlation_id": "c"}'
    shop.escalate()
    shop.execute("UPDATE post_purchase_command SET problem = :problem, result = :problem", problem=problem)

    second = enqueue(capture())

    assert (first.id, State.ESCALATED, False) == (second.id, second.state, second.was_stored)


def test_a_conflict_leaves_the_hosts_transaction_usable(shop):
    """The shop may catch the refusal, write down why, and commit."""
    enqueue(capture())

    with transaction.atomic():
        shop.order("2")
        with pytest.raises(IdempotencyConflict):
            enqueue_many([capture(reference="parcel-2"), capture(amount=999)])
        shop.order("3")

    assert ["2", "3"] == sorted(shop.seen("number", table="shop_order"))
    assert ["parcel-1"] == shop.seen("reference")


def test_outside_of_any_transaction_all_or_none_is_stored(shop):
    """Autocommit would otherwise store the first statement of a call that fails in its second."""
    enqueue(capture())

    with pytest.raises(IdempotencyConflict):
        enqueue_many([capture(reference="parcel-2"), capture(amount=999)])

    assert ["parcel-1"] == shop.seen("reference")


def test_a_broker_on_fire_fails_no_request(shop):
    """The commit stands, and dispatch makes the message good; an error now would have the browser repeat it all."""
    shop.publisher.fails = True

    enqueue(capture())

    assert ["parcel-1"] == shop.seen("reference")


def test_many_are_stored_in_their_order(shop):
    """A refund waits for the captures that were stored before it."""
    enqueue_many([capture(), Refund(account="klarna-eu", order_id="order-1", amount=100, reference="return-1")])

    assert ["capture", "refund"] == shop.seen("kind")


def test_percent_signs_and_quotes_go_through_djangos_cursor_as_they_are(shop):
    """Django's cursor has a paramstyle of its own; a value must never be taken for one."""
    reference = "100 % of 'it' %s %(x)s ?"

    enqueue(capture(reference=reference))
    enqueue_many([capture(reference=f"{number} {reference}") for number in range(3)])

    assert [reference, *(f"{number} {reference}" for number in range(3))] == shop.seen("reference")


def test_an_unknown_account_is_named(shop):
    """The shop's developer reads it on the day of the typing mistake."""
    with pytest.raises(UnknownAccount, match="klarna-eu"):
        enqueue(capture(account="klarna-uk"))


def test_the_statements_are_seen_by_djangos_own_counting(shop):
    """A command costs one statement in the host's transaction, and the host's tools see it."""
    with transaction.atomic(), CaptureQueriesContext(connection) as seen:
        enqueue(capture())

    assert 1 == len([each for each in seen.captured_queries if "post_purchase_command" in each["sql"]])


@pytest.mark.parametrize("debug", [True, False])
def test_debug_keeps_working(shop, debug):
    """With DEBUG on, Django puts every statement together with its parameters once more, for people."""
    with override_settings(DEBUG=debug):
        enqueue(capture())

    assert ["parcel-1"] == shop.seen("reference")


def test_atomic_requests_are_joined(shop):
    """A view that fails after enqueuing must leave nothing behind."""
    shop.order("1")
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True

    answer = Client().post("/orders/1/ship")
    failing = Client(raise_request_exception=False).post("/orders/none/ship")

    assert (204, 500) == (answer.status_code, failing.status_code)
    assert ["order-1"] == shop.seen("order_id")
    assert 1 == len(shop.publisher.published)


def test_an_async_view_goes_through_sync_to_async(shop):
    """The transaction is one thread's; the loop only waits for it."""
    number = shop.order("1").number

    async def ask():
        answer = await AsyncClient().post(f"/orders/{number}/ship-async")
        await sync_to_async(forget_connection)()  # the thread outlives the test
        return answer.status_code

    assert 204 == asyncio.run(ask())
    assert ["order-1"] == shop.seen("order_id")
    assert 1 == len(shop.publisher.published)


def test_the_event_loop_itself_is_refused(shop):
    """A blocking statement on the loop would stall every other request; Django's own guard says so."""

    async def ask():
        enqueue(capture())

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(ask())


def test_threads_have_transactions_of_their_own(shop_on_postgresql):
    """Django's connections are a thread's own; a command must never land in the neighbour's transaction."""
    shop = shop_on_postgresql
    gate = threading.Barrier(2)

    def work(reference, ending):
        with ending():
            enqueue(capture(reference=reference))
            gate.wait(timeout=10)
        connections.close_all()

    endings = (("parcel-1", transaction.atomic), ("parcel-2", rolled_back))
    threads = [threading.Thread(target=work, args=each) for each in endings]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert ["parcel-1"] == shop.seen("reference")


def test_psycopgs_pool_is_joined(shop_on, postgresql_url):
    """Django 5.1 and newer may pool; the command goes over the pooled connection of the request."""
    shop = shop_on(postgresql_url, pool=True)

    with transaction.atomic():
        shop.order("1")
        enqueue(capture())
        is_pooled = connection.pool is not None

    assert is_pooled
    assert ["parcel-1"] == shop.seen("reference")


def test_server_side_binding_is_joined(shop_on, postgresql_url):
    """The other way in which Django may talk to PostgreSQL."""
    shop = shop_on(postgresql_url, server_side_binding=True)

    first, second = enqueue(capture()), enqueue(capture())

    assert first.id == second.id
    assert ["parcel-1"] == shop.seen("reference")


def test_an_error_of_the_database_is_djangos_and_ends_as_django_says(shop):
    """The host handles `django.db.DatabaseError`; another library's would pass it by."""
    shop.execute("ALTER TABLE post_purchase_command RENAME TO gone")

    with pytest.raises(DatabaseError):
        enqueue(capture())


def test_an_error_of_the_hosts_leaves_no_command(shop):
    """The shop's own constraint ends the transaction that the command is in."""
    shop.order("1")

    @transaction.atomic
    def order_again():
        enqueue(capture())
        shop.order("1")

    with pytest.raises(IntegrityError):
        order_again()

    assert [] == shop.seen("id")


def test_captured_callbacks_of_a_test_case_publish(shop):
    """A host's own tests run inside a transaction that never commits; they must be able to see what would be sent."""

    class InTestCase(TestCase):
        def runTest(self):  # noqa: N802  # unittest's name
            with self.captureOnCommitCallbacks(execute=False) as callbacks:
                enqueue(capture())
            self.count = len(callbacks)
            self.published = list(shop.publisher.published)
            for each in callbacks:
                each()

    shop.publisher.visible = lambda _id: True
    case, result = InTestCase(), unittest.TestResult()

    unittest.TestSuite([case]).run(result)

    assert (True, 1, []) == (result.wasSuccessful(), case.count, case.published), result.errors
    assert 1 == len(shop.publisher.published)
    assert [] == shop.seen("id")


def test_the_database_that_holds_the_tables_need_not_be_the_default_one(shop_with, sqlite_url, tmp_path, settings_of):
    """A shop with several databases says in which of them its payments are."""
    catalogue = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "catalogue.sqlite3"}
    settings_of(using="payments")
    (shop,) = shop_with(payments=sqlite_url, default=catalogue)

    with transaction.atomic(using="payments"):
        enqueued = enqueue(capture())
        before = list(shop.publisher.published)

    assert [] == before
    assert [enqueued.id] == shop.publisher.published


def test_using_names_another_database_for_one_call(shop_with, sqlite_url, postgresql_url):
    """A shop with a database per country enqueues where the order is; its commit is what counts, not another's."""
    here, there = shop_with(default=sqlite_url, sweden=postgresql_url)

    with transaction.atomic(using="sweden"), rolled_back():
        enqueue(capture(), using="sweden")

    assert ([], ["parcel-1"]) == (here.seen("reference"), there.seen("reference"))
    assert 1 == len(there.publisher.published)


ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"

#: The shop, killed around the commit of an order that is shipped.
DYING = """
import os, sys
import django
django.setup()
from django.db import transaction
from shop import models, orders
from worker.contrib.django import conf

class Dies:
    def reserve(self):
        return True
    def execute(self, ids, *, label, countdown=None):
        os.kill(os.getpid(), 9)

conf.services().__dict__["publisher"] = Dies()
models.Order.objects.create(number="1", klarna_id="order-1", amount=1000)
with transaction.atomic():
    orders.ship("1")
    if sys.argv[1] == "before":
        os.kill(os.getpid(), 9)
"""


def due_in_a_minute(url):
    """What dispatch will find once the message that was never sent should have arrived."""
    engine = create_engine(url)
    later = ManualClock(datetime.now(UTC) + timedelta(minutes=1))
    with SqlStore(engine, clock=later).begin() as ours:
        due = ours.take_due(limit=10, window=10, horizon=timedelta(0), published_for=timedelta(seconds=10))
    engine.dispose()

    return due


@pytest.mark.parametrize(("moment", "stored", "state"), [("before", 0, "ordered"), ("after", 1, "shipped")])
def test_a_kill_around_the_commit_loses_nothing_and_invents_nothing(shop, moment, stored, state):
    """Between commit and publish the command is promised and nobody has been told: dispatch must find it."""
    database = connections.settings["default"]
    place = (
        {f"SHOP_DATABASE_{name}": str(database[name]) for name in ("NAME", "HOST", "USER", "PASSWORD", "PORT")}
        if connection.vendor == "postgresql"
        else {"SHOP_DATABASE_FILE": str(database["NAME"])}
    )

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DYING, moment],
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

    assert -signal.SIGKILL == done.returncode, done.stderr
    assert [state] == shop.seen("state", table="shop_order")
    assert stored == len(shop.seen("id"))
    assert stored == len(due_in_a_minute(shop.url))
