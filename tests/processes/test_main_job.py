from worker import Capture


def test_a_stored_command_reaches_the_provider(shop, new_worker, sandbox, until):
    """Everything else here is about what can go wrong with this."""
    new_worker(quick=False).ready()

    [captured] = shop.enqueue(Capture(account="klarna-eu", order_id="order-1", amount=1000, reference="parcel-1"))
    until(lambda: shop.states() == {"succeeded": 1}, tell=lambda: shop.show(captured))

    assert [("capture", "order-1", 1000)] == [(e["kind"], e["order_id"], e["amount"]) for e in sandbox.effects()]
