import signal
import time

import pytest


@pytest.fixture
def busy(shop, new_worker, sandbox, captures, until):
    """A worker in the middle of four calls, with more to do than it may take on."""
    sandbox.fault("delay", seconds=1, times=None)
    worker = new_worker(HTTP__MAX_IN_FLIGHT="2", DISPATCH__BATCH_SIZE="2").ready()
    shop.enqueue(*captures(10))
    until(
        lambda: len(shop.unanswered()) == 4 == len(sandbox.requests()) - len(sandbox.effects()),
        tell=worker.log,
    )

    return worker


@pytest.mark.parametrize(
    ("number", "to_group"),
    [
        pytest.param(signal.SIGTERM, False, id="SIGTERM to the main process"),
        pytest.param(signal.SIGTERM, True, id="SIGTERM to the whole group, as supervisors do"),
        pytest.param(signal.SIGQUIT, False, id="SIGQUIT to the main process"),
    ],
)
def test_a_stop_finishes_what_is_in_flight_and_begins_nothing(busy, shop, sandbox, until, number, to_group):
    """A call that is cut off is in doubt: it costs a rung, a lease's time and perhaps a ticket, for nothing."""
    begun = len(sandbox.requests())

    busy.tell(number, group=to_group)
    code = busy.ended(within=15)

    until(lambda: not busy.has_processes)
    assert 0 == code, busy.log()
    assert {"succeeded": begun, "pending": 10 - begun} == shop.states()
    assert [] == shop.unanswered()
    assert begun == len(sandbox.effects()) == len(sandbox.requests())


def test_an_idle_worker_stops_at_once(new_worker):
    """A deployment waits for it, and commands wait for the deployment."""
    worker = new_worker().ready()

    began = time.monotonic()
    worker.tell(signal.SIGTERM, group=True)
    code = worker.ended(within=15)

    took = time.monotonic() - began
    assert 0 == code
    assert took < 5


def test_a_task_that_is_told_to_end_finishes_its_calls_and_the_worker_goes_on(busy, shop, sandbox, observer, until):
    """Flower has a button that terminates a task: it must cut off no call, and stop no other task."""
    [running] = until(lambda: observer.control.inspect(timeout=5, limit=1).active()).values()

    observer.control.revoke([each["id"] for each in running], terminate=True, signal="SIGTERM")
    until(lambda: shop.states() == {"succeeded": 10}, within=30, tell=busy.log)

    assert busy.is_running
    assert 10 == len(sandbox.effects()) == len(sandbox.requests())
