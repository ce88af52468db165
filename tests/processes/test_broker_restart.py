import signal
import time
from collections import Counter

import pytest


@pytest.fixture
def broker(request, new_redis, redis_programs):
    program = getattr(request, "param", "valkey")
    if program not in redis_programs:
        pytest.skip("redis-server is not installed here")

    return new_redis(redis_programs[program])


@pytest.mark.parametrize("broker", ["valkey", "redis"], indirect=True)
def test_a_worker_outlives_its_broker(shop, new_worker, sandbox, broker, captures, held, until):
    """Celery 5.7.0 ends when Redis goes away under a message it holds; a payment worker must not need a supervisor."""
    in_flight, waiting, later = captures(3)
    sandbox.fault("delay", order_id=in_flight.order_id, seconds=3.5)
    sandbox.fault("status", status=503, order_id=waiting.order_id)
    worker = new_worker(HTTP__TOTAL_TIMEOUT_SECONDS="4.5", LEASE__SECONDS="6", RETRY__LADDER_SECONDS="4,5,6").ready()
    pid = worker.pid
    shop.enqueue(in_flight, waiting)
    until(lambda: len(sandbox.requests()) == 2 and held(), tell=worker.log)

    broker.stop()
    until(lambda: worker.log().count("Cannot connect to") == 2, tell=worker.log)
    broker.start()
    until(lambda: shop.states() == {"succeeded": 2}, tell=worker.log)
    shop.enqueue(later)
    until(lambda: shop.states() == {"succeeded": 3}, tell=worker.log)

    assert (pid, True) == (worker.pid, worker.is_running)
    assert {f"order-{number}": 1 for number in range(3)} == Counter(each["order_id"] for each in sandbox.effects())


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        pytest.param(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), id="read-only"),
        pytest.param(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), id="full"),
    ],
)
def test_a_worker_outlives_a_broker_that_refuses_writes(
    shop, new_worker, sandbox, broker, captures, until, begins, ends
):
    """A failover leaves a replica for a while, and a full Redis refuses: Celery takes neither for a lost connection."""
    waiting, later = captures(2)
    worker = new_worker().ready()
    pid = worker.pid
    broker.client.config_set("maxmemory-policy", "noeviction")
    # So that a message is there when it begins, for who is full takes none.
    worker.tell(signal.SIGSTOP)
    shop.enqueue(waiting)
    broker.client.execute_command(*begins)
    worker.tell(signal.SIGCONT)
    until(lambda: worker.said("broker lost") or not worker.is_running, tell=worker.log)

    broker.client.execute_command(*ends)
    shop.enqueue(later)
    until(lambda: shop.states() == {"succeeded": 2} or not worker.is_running, tell=worker.log)

    assert (pid, True) == (worker.pid, worker.is_running)
    assert 2 == len(sandbox.effects())


def test_an_idle_worker_outlives_its_broker(shop, new_worker, sandbox, broker, captures, until):
    """A restart at night must not be found out by the first capture of the morning."""
    worker = new_worker().ready()

    broker.stop()
    until(lambda: worker.said("Cannot connect to"), tell=worker.log)
    broker.start()
    shop.enqueue(*captures(1))
    until(lambda: shop.states() == {"succeeded": 1}, tell=worker.log)

    assert worker.is_running
    assert 1 == len(sandbox.effects())


def test_a_broker_that_forgets_everything_loses_nothing(shop, new_worker, sandbox, broker, captures, until):
    """A message is a hint: the row is the truth, and dispatch hands it out again."""
    sandbox.fault("delay", seconds=0.3, times=None)
    worker = new_worker(HTTP__MAX_IN_FLIGHT="2", DISPATCH__BATCH_SIZE="2").ready()
    shop.enqueue(*captures(30))
    until(lambda: 4 <= len(sandbox.effects()), tell=worker.log)

    broker.client.flushall()
    until(lambda: shop.states() == {"succeeded": 30}, tell=worker.log)

    assert {f"order-{number}": 1 for number in range(30)} == Counter(each["order_id"] for each in sandbox.effects())


@pytest.mark.parametrize("go_away", [pytest.param("stop", id="gone"), pytest.param("freeze", id="silent")])
def test_a_shop_does_not_wait_for_a_broker_that_is_away(shop, broker, captures, go_away):
    """A customer waits behind the request that enqueues, and what is asked for is stored already."""
    while_there, while_away = captures(2)
    shop.enqueue(while_there)
    getattr(broker, go_away)()

    began = time.monotonic()
    shop.enqueue(while_away)

    took = time.monotonic() - began
    assert {"pending": 2} == shop.states()
    assert took < 1.5
