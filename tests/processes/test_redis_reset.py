"""One of the twelve bugs of `tests/faults/test_known_bugs.py`; it needs a real worker and a real broker."""

from __future__ import annotations

from collections import Counter

import pytest


def its_connections(broker):
    for kind in ("normal", "pubsub"):
        broker.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    broker.client.flushall()


def its_subscriptions(broker):
    """Alone, as a proxy does; else the loss of the others is seen first and hides what this one does."""
    broker.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def the_server(broker):
    broker.stop()
    broker.start()


@pytest.mark.parametrize("reset", [its_connections, its_subscriptions, the_server])
def test_a_worker_silent_after_a_redis_reset(shop, new_worker, sandbox, broker, captures, held, until, reset):
    """Elsewhere a worker whose connections Redis had reset stayed alive, said nothing, and took no message any more."""
    waiting, *later = captures(6)
    sandbox.fault("status", status=503, order_id=waiting.order_id)
    worker = new_worker(RETRY__LADDER_SECONDS="3,4,5").ready()
    shop.enqueue(waiting)
    until(held, tell=worker.log)

    reset(broker)
    shop.enqueue(*later)
    until(lambda: shop.states() == {"succeeded": 6}, within=40, tell=worker.log)

    assert worker.is_running
    assert {f"order-{number}": 1 for number in range(6)} == Counter(each["order_id"] for each in sandbox.effects())
