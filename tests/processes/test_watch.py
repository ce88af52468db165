"""A worker that does not hear its broker any more, and those who are only quiet."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest

from tests.chaos.proxy import Line, Proxy
from worker.publish import EXECUTE_QUEUE, UPKEEP_QUEUE

#: How long a worker of these tests may be silent.
WATCHED = 2.0

#: Of those who wait for a provider that takes its time.
PATIENT = {"HTTP__TOTAL_TIMEOUT_SECONDS": "10", "LEASE__SECONDS": "20", "READ_BACK__PAUSE_SECONDS": "12"}

#: A host's app, whose Redis client connects anew behind kombu's back.
FLORIST = """
import os
from celery import Celery
from worker.contrib.celery import join

app = Celery("florist", broker=os.environ["FLORIST_BROKER"])
app.conf.update(worker_concurrency=1, broker_transport_options={"retry_on_timeout": True})
join(app)
"""


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request, broker):
    return broker.url if request.param == "redis" else request.getfixturevalue("rabbitmq_url")


@pytest.fixture
def proxy(broker_url):
    """What stands between the worker and its broker; the shop has a way of its own."""
    line = Line()
    yield Proxy(line, "broker", ("127.0.0.1", urlsplit(broker_url).port)).start()
    line.close()


@pytest.fixture
def new_watched(new_worker):
    """Starts workers that are watched closely."""
    return lambda *arguments, **changes: new_worker(*arguments, BROKER__WATCH_SECONDS=str(WATCHED), **changes).ready()


def test_a_worker_whose_connections_were_forgotten_ends_for_another(
    new_shop, environment, new_watched, sandbox, broker_url, proxy, captures, until
):
    """Its connections look like those to a broker with empty queues, for ever."""
    shop = new_shop({**environment, "POST_PURCHASE_BROKER__URL": broker_url})
    way = {
        "BROKER__URL": broker_url.replace(str(urlsplit(broker_url).port), str(proxy.port)),
        # Else it may give up a read early enough to find out by itself.
        "BROKER__SOCKET_TIMEOUT_SECONDS": "30",
    }
    worker = new_watched(**way)
    proxy.forget()
    shop.enqueue(*captures(5))

    code = worker.ended(within=30)
    new_watched(**way)
    until(lambda: shop.states() == {"succeeded": 5}, tell=worker.log)

    assert 1 == code, worker.log()
    (line,) = worker.lines("worker.deaf")
    assert EXECUTE_QUEUE == line["queue"]
    assert line["messages"] > 0
    assert not worker.has_processes
    assert 5 == len(sandbox.effects())


def test_a_worker_whose_main_thread_hangs_ends_once_its_calls_are_answered(
    shop, new_watched, sandbox, broker, captures, until
):
    """It neither hears that it shall stop nor what its pool has done; a call that is cut off would be in doubt."""
    in_flight, *waiting = captures(5)
    sandbox.fault("delay", order_id=in_flight.order_id, seconds=6)
    worker = new_watched("--concurrency", "1", app="tests.processes.relenting_worker", **PATIENT)
    shop.enqueue(in_flight)
    until(shop.unanswered, tell=worker.log)
    until(lambda: broker.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
    shop.enqueue(*waiting)

    code = worker.ended(within=30)

    assert not worker.has_processes
    assert 1 == code, worker.log()
    (line,) = worker.lines("worker.deaf")
    assert not line["main_loop_turns"]
    assert any("parse_response" in each for each in line["main_thread_at"])
    assert worker.lines("worker.deaf_killed")
    assert [] == shop.unanswered()
    assert in_flight.order_id in {each["order_id"] for each in sandbox.effects()}


def is_busy(worker, observer, sandbox):
    sandbox.fault("delay", seconds=3 * WATCHED, times=None)


def has_given_up_the_queue(worker, observer, sandbox):
    assert observer.control.cancel_consumer(EXECUTE_QUEUE, reply=True, timeout=5, limit=1)


def has_another_queue(worker, observer, sandbox):
    """It was started so."""


@pytest.mark.parametrize("reason", [is_busy, has_given_up_the_queue, has_another_queue])
def test_a_worker_that_has_a_reason_to_be_silent_goes_on(
    shop, new_watched, sandbox, broker, observer, captures, until, reason
):
    """To end it would cut off its work, or undo what an operator did."""
    queues = ("--queues", UPKEEP_QUEUE) if reason is has_another_queue else ()
    worker = new_watched("--concurrency", "1", *queues, **PATIENT)
    reason(worker, observer, sandbox)
    # One is on its way, the others lie there.
    shop.enqueue(captures(1)[0])
    until(lambda: reason is not is_busy or worker.said("] received"), tell=worker.log)
    shop.enqueue(*captures(3)[1:])
    waiting = f"post-purchase:{EXECUTE_QUEUE}"
    until(lambda: broker.client.llen(waiting), tell=worker.log)

    ends = time.monotonic() + 2.5 * WATCHED
    until(lambda: time.monotonic() > ends or not worker.is_running, within=60)

    assert broker.client.llen(waiting)
    assert worker.is_running
    assert not worker.said("worker.deaf")


def test_a_worker_of_a_host_says_that_it_is_deaf_and_stays(
    postgresql_url, broker, sandbox, settings_for, new_shop, new_worker, tmp_path, captures, until
):
    """It may be doing other work, of which we know nothing; its host is told, again and again."""
    (tmp_path / "florist.py").write_text(FLORIST)
    environment = settings_for(postgresql_url, broker.url, sandbox.base_url) | {"POST_PURCHASE_BROKER__KEY_PREFIX": ""}
    worker = new_worker(
        "--queues",
        EXECUTE_QUEUE,
        app="florist",
        besides={"FLORIST_BROKER": broker.url},
        BROKER__KEY_PREFIX="",
        BROKER__WATCH_SECONDS=str(WATCHED),
    ).ready()
    shop = new_shop(environment)
    heard, *unheard = captures(4)
    # Once it hears: while it still subscribes, it would notice that its connection is cut off, and connect anew.
    shop.enqueue(heard)
    until(lambda: shop.states() == {"succeeded": 1}, tell=worker.log)
    until(lambda: broker.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
    shop.enqueue(*unheard)

    until(lambda: 2 <= worker.log().count("worker.deaf"), within=30, tell=worker.log)

    assert worker.is_running
    assert not worker.said("worker.deaf_killed")
