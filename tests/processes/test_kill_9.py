import os
import signal
from collections import Counter


def test_a_worker_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(shop, new_worker, sandbox, captures, until):
    """A machine can go at any moment: what was answered, what was done unheard and what was not sent must all end."""
    answered, unheard, slow = range(10), range(10, 20), range(20, 30)
    for number in unheard:
        sandbox.fault("hang", order_id=f"order-{number}", executed=True)
    for number in slow:
        sandbox.fault("delay", order_id=f"order-{number}", seconds=3)
    settings = {
        "HTTP__MAX_IN_FLIGHT": "10",
        "HTTP__TOTAL_TIMEOUT_SECONDS": "4",
        "LEASE__SECONDS": "5.5",
        "DISPATCH__BATCH_SIZE": "10",
        "RETRY__LADDER_SECONDS": "0.3,1,3",
        # Without a quota nothing is claimed ahead of its slot, and what is in flight is what the window holds.
        "ACCOUNTS__KLARNA_EU__RATE_TABLE": "own",
    }
    shop.store(*captures(50))
    doomed = new_worker(**settings)
    until(
        lambda: (
            shop.states().get("succeeded") == len(answered)
            and len(sandbox.effects()) == len(answered) + len(unheard)
            and len(shop.unanswered()) == len(unheard) + len(slow)
            and shop.untried() == 20
        ),
        tell=doomed.log,
    )

    doomed.kill()
    successor = new_worker(**settings)
    until(lambda: shop.states() == {"succeeded": 50}, within=40, tell=successor.log)

    assert {f"order-{number}": 1 for number in range(50)} == Counter(each["order_id"] for each in sandbox.effects())
    assert 50 == len({each["key"] for each in sandbox.effects()})
    assert [] == shop.open_tickets()


def test_a_killed_pool_process_is_replaced_and_its_commands_finished(shop, new_worker, sandbox, captures, until):
    """The system may take one process for want of memory; its siblings, and the worker itself, must not notice."""
    sandbox.fault("hang", order_id="order-0", executed=True)
    worker = new_worker()
    shop.enqueue(*captures(20))
    until(lambda: len(sandbox.effects()) == 20 and len(shop.unanswered()) == 1, tell=worker.log)
    [holder] = shop.unanswered()
    process = int(holder.rpartition(":")[2])

    os.kill(process, signal.SIGKILL)
    until(lambda: shop.states() == {"succeeded": 20}, tell=worker.log)

    assert process != worker.pid
    assert worker.is_running
    assert {f"order-{number}": 1 for number in range(20)} == Counter(each["order_id"] for each in sandbox.effects())
