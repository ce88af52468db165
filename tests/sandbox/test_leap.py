import time

import pytest

from worker.sandbox import SandboxError


def wait_for_requests(sandbox, number):
    gives_up = time.monotonic() + 10
    while len(sandbox.requests()) < number:
        assert time.monotonic() < gives_up
        time.sleep(0.005)


def test_what_is_delayed_for_a_minute_is_carried_out_after_a_leap_of_a_minute(sandbox, shop):
    """A client on a clock of its own that looks for the effect later must find it."""
    order_id = sandbox.create_order()["order_id"]
    sandbox.fault("delay", seconds=60)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 100}, key="k")
    wait_for_requests(sandbox, 1)
    before = len(sandbox.effects())

    sandbox.leap(60)

    assert (0, 1) == (before, len(sandbox.effects()))
    assert 201 == shop.end().status


def test_a_leap_forgets_keys_as_an_advance_does(sandbox, shop):
    """It is the same time, on the wire too."""
    order_id = sandbox.create_order()["order_id"]
    shop.capture(order_id, 100, key="k")

    sandbox.leap(24 * 3_600 + 1)
    shop.connection.close()
    shop.capture(order_id, 100, key="k")

    assert 2 == len(sandbox.effects())


def test_an_outage_ends_with_a_leap(sandbox):
    """Else it would outlast every rung of a ladder that is climbed in milliseconds."""
    sandbox.refuse_connections(60)
    before = sandbox.health()["accepting"]

    sandbox.leap(61)

    assert (False, True) == (before, sandbox.health()["accepting"])


def test_nothing_leaps_backwards(sandbox):
    """What has happened here has happened."""
    with pytest.raises(SandboxError, match="only goes forwards"):
        sandbox.leap(-1)
