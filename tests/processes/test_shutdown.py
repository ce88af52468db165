import signal

import pytest


@pytest.fixture
def busy(shop, new_worker, sandbox, captures, until):
    """A worker in the middle of four calls, with more to do than it may take on."""
    sandbox.fault("delay", seconds=1.5, times=None)
    worker = new_worker(HTTP__MAX_IN_FLIGHT="2", DISPATCH__BATCH_SIZE="2").ready()
    shop.enqueue(*captures(20))
    until(lambda: len(shop.unanswered()) == len(sandbox.requests()) == 4, tell=worker.log)

    return worker


@pytest.mark.parametrize(
    ("number", "to_group"),
    [
        pytest.param(signal.SIGTERM, False, id="SIGTERM to the main process"),
        pytest.param(signal.SIGTERM, True, id="SIGTERM to the whole group"),
        pytest.param(signal.SIGINT, True, id="SIGINT to the whole group, as from a terminal"),
        pytest.param(signal.SIGQUIT, False, id="SIGQUIT to the main process"),
    ],
)
def test_a_stop_finishes_what_is_in_flight(busy, shop, sandbox, number, to_group):
    """A call that is cut off is in doubt, and costs a rung, a lease and perhaps a ticket for nothing."""
    busy.tell(number, group=to_group)

    code = busy.ended(within=15)

    print(code, shop.states(), shop.unanswered(), len(sandbox.effects()))
    print(busy.log()[-3000:])
    assert 0 == code
    assert {"succeeded": 4, "pending": 16} == shop.states()
    assert 0
