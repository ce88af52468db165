"""The steps that only Celery makes, with a real worker; all others are in `tests/steps`."""

from __future__ import annotations

from collections import Counter

import pytest


@pytest.mark.parametrize(
    ("call", "moment"),
    [
        ("task execute", "before"),
        ("task execute", "after"),
        ("task escalate", "before"),
        ("task escalate", "after"),
        ("tick dispatch", "before"),
        ("tick dispatch", "after"),
        ("tick sweep", "before"),
    ],
)
def test_a_process_of_a_worker_may_die_at_any_step(shop, new_worker, sandbox, captures, until, tmp_path, call, moment):
    """The message is acknowledged by then, so nobody but our own table knows what was to be done."""
    refused, *others = captures(3)
    sandbox.fault("status", status=403, code="CAPTURE_NOT_ALLOWED", order_id=refused.order_id)
    died = tmp_path / "died"
    doom = {"DIES_AT": call, "DIES": moment, "DIED": str(died)}
    shop.store(refused, *others)
    doomed = new_worker(app="tests.processes.doomed_worker", besides=doom)

    until(died.exists, within=60, tell=doomed.log)
    # A pool process is replaced by the worker itself; a main process is not.
    successor = doomed if call.startswith("task") else new_worker()
    until(
        lambda: shop.states() == {"succeeded": 2, "rejected": 1} and shop.open_tickets() == [("refused", "open", 1)],
        within=60,
        tell=successor.log,
    )

    assert successor.is_running
    assert {each.order_id: 1 for each in others} == Counter(each["order_id"] for each in sandbox.effects())
