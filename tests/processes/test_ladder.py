from datetime import datetime
from itertools import pairwise

from worker import Acknowledge, Capture

#: Scaled down from 5 s, 5 min and 5 h. The last lies beyond the horizon, so the database keeps it at first.
LADDER = (0.5, 1.5, 3.0)
HORIZON = 2.0

#: What a busy machine may add to a wait; never may it take anything away.
LATE = 1.0


def test_the_ladder_is_climbed_in_time_and_ends_in_one_ticket(shop, new_worker, sandbox, until):
    """Waits are the provider's own rule: sooner is a flood, later is money not taken, and two tickets are one lie."""
    sandbox.fault("status", status=503, times=None)
    worker = new_worker(
        RETRY__LADDER_SECONDS=",".join(map(str, LADDER)), DISPATCH__HORIZON_SECONDS=str(HORIZON)
    ).ready()

    # Nothing at the provider shows it afterwards, so no reading stands between the ladder and the ticket.
    [captured] = shop.enqueue(Acknowledge(account="klarna-eu", order_id="order-1", reference="parcel-1"))
    until(lambda: shop.states() == {"escalated": 1}, tell=worker.log)
    until(lambda: shop.open_tickets() == [("ladder_exhausted", "open", 1)], tell=worker.log)

    attempts = shop.show(captured)["attempts"]
    waits = [
        (datetime.fromisoformat(later["started_at"]) - datetime.fromisoformat(earlier["finished_at"])).total_seconds()
        for earlier, later in pairwise(attempts)
    ]
    assert ["in_doubt"] * 4 == [each["outcome"] for each in attempts]
    assert all(rung <= wait <= rung + LATE for rung, wait in zip(LADDER, waits, strict=True)), waits
    assert 4 == len(sandbox.requests())
    assert 1 == len({each["headers"]["Klarna-Idempotency-Key"] for each in sandbox.requests()})
    assert 1 == len(worker.lines("ticket.opened"))


def test_a_long_wait_stays_in_the_database_until_it_fits_into_a_countdown(shop, new_worker, sandbox, held, until):
    """On Redis a long countdown runs once per visibility timeout, and is lost for that long with its worker."""
    sandbox.fault("status", status=503)
    worker = new_worker(RETRY__LADDER_SECONDS="3,4,5", DISPATCH__HORIZON_SECONDS=str(HORIZON)).ready()

    [captured] = shop.enqueue(Capture(account="klarna-eu", order_id="order-1", amount=1000, reference="parcel-1"))
    until(lambda: shop.states() == {"pending": 1} and len(sandbox.requests()) == 1, tell=worker.log)
    at_first = held()
    [countdown] = until(held, tell=worker.log)

    due_at = datetime.fromisoformat(shop.show(captured)["due_at"])
    eta = datetime.fromisoformat(countdown["eta"])
    assert [] == at_first
    assert ("post-purchase.execute", [[str(captured)]]) == (countdown["request"]["name"], countdown["request"]["args"])
    assert abs((eta - due_at).total_seconds()) < LATE
