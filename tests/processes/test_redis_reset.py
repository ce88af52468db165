"""One of the twelve bugs of `tests/faults/test_known_bugs.py`; it needs a real worker and a real broker."""

from __future__ import annotations

from collections import Counter


def test_a_worker_silent_after_a_redis_reset(shop, new_worker, sandbox, broker, captures, held, until):
    """Elsewhere a worker whose connections Redis had reset stayed alive, said nothing, and took no message any more."""
    waiting, *later = captures(6)
    sandbox.fault("status", status=503, order_id=waiting.order_id)
    worker = new_worker(RETRY__LADDER_SECONDS="3,4,5", RETRY__KEY_MARGIN_SECONDS="60").ready()
    shop.enqueue(waiting)
    until(held, tell=worker.log)

    broker.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    broker.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
    broker.client.flushall()
    shop.enqueue(*later)
    until(lambda: shop.states() == {"succeeded": 6}, tell=worker.log)

    assert worker.is_running
    assert {f"order-{number}": 1 for number in range(6)} == Counter(each["order_id"] for each in sandbox.effects())
