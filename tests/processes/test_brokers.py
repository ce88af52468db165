from __future__ import annotations

import contextlib

import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from kombu import Connection

from worker.publish import EXECUTE_QUEUE, UPKEEP_QUEUE


@pytest.fixture
def emptied_rabbitmq_url(rabbitmq_url):
    """The same without our queues: the type of one that is there cannot be changed."""
    with amqp_channel(rabbitmq_url) as channel:
        for queue in (EXECUTE_QUEUE, UPKEEP_QUEUE):
            channel.queue_delete(queue)

    return rabbitmq_url


@contextlib.contextmanager
def amqp_channel(url):
    with Connection(url) as connection, connection.channel() as channel:
        yield channel


@pytest.fixture(params=["valkey", "redis", "rabbitmq", "quorum", "filesystem"])
def broker_url(request, tmp_path, new_redis, redis_programs):
    match request.param:
        case "rabbitmq" | "quorum":
            return request.getfixturevalue("emptied_rabbitmq_url")
        case "filesystem":
            return f"filesystem://{tmp_path / 'messages'}"
        case name if name in redis_programs:
            return new_redis(redis_programs[name]).url
        case name:
            pytest.skip(f"{name}-server is not installed")


@pytest.fixture
def environment(request, postgresql_url, broker_url, sandbox, settings_for):
    kind = {"POST_PURCHASE_BROKER__QUEUE_TYPE": "quorum"} if "quorum" in request.node.name else {}

    return {**settings_for(postgresql_url, broker_url, sandbox.base_url), **kind}


def test_the_main_job_is_done_over_every_broker(new_worker, shop, sandbox, captures, until):
    """A message at once, a countdown, a batch and a ticket: what one broker cannot carry, a shop finds out too late."""
    at_once, retried, refused, *backlog = captures(20)
    sandbox.fault("status", status=503, order_id=retried.order_id)
    sandbox.fault("singular_error", order_id=refused.order_id)
    worker = new_worker().ready()

    shop.enqueue(at_once, retried, refused)
    shop.store(*backlog)
    until(lambda: shop.states() == {"succeeded": 19, "rejected": 1}, tell=worker.log)
    until(lambda: shop.open_tickets() == [("refused", "open", 1)], tell=worker.log)

    assert 19 == len(sandbox.effects()) == len({each["key"] for each in sandbox.effects()})


@pytest.mark.parametrize("broker_url", ["quorum"], indirect=True)
def test_a_wait_holds_nothing_up_on_quorum_queues(new_worker, shop, sandbox, captures, until, broker_url, held):
    """There a worker takes a fixed number of messages, and one that it holds for minutes is one that it cannot take."""
    *waiting, last = captures(6)
    for each in waiting:
        sandbox.fault("status", status=503, order_id=each.order_id)
    worker = new_worker(RETRY__LADDER_SECONDS="60,300,18000").ready()

    shop.enqueue(*waiting)
    until(lambda: shop.untried() == 0 and not shop.unanswered(), tell=worker.log)
    shop.enqueue(last)
    until(lambda: shop.states() == {"pending": 5, "succeeded": 1}, tell=worker.log)

    assert [] == held()
    with amqp_channel(broker_url) as channel, pytest.raises(NotFound):
        channel.queue_declare("celery_delayed_0", passive=True)
    with amqp_channel(broker_url) as channel, pytest.raises(PreconditionFailed, match="x-queue-type"):
        channel.queue_declare(EXECUTE_QUEUE, durable=True, auto_delete=False)
