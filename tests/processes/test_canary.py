import pytest
from sqlalchemy import text

from worker import Capture, Refund, UpdateAuthorization, UpdateCustomerDetails

ADDRESS_FIELDS = (
    *("organization_name", "attention", "title", "given_name", "family_name", "street_address", "street_address2"),
    *("postal_code", "city", "region", "email", "phone"),
)
#: One text for each place that holds something personal or secret; short enough for the shortest of them.
ADDRESS = {name: f"kanarie{number:02}" for number, name in enumerate(ADDRESS_FIELDS)}
DESCRIPTION, PRODUCT, MERCHANT_DATA = "kanarie-description", "kanarie-product", "kanarie-merchant-data"
TRACKING_NUMBER, USERNAME, PASSWORD = "kanarie-tracking", "kanarie-user", "kanarie-pass"
ORDERS = ("kept", "retried", "refused", "lost", "locked-out")
SENT = [*ADDRESS.values(), DESCRIPTION, PRODUCT, MERCHANT_DATA, TRACKING_NUMBER]


@pytest.fixture
def sandbox(new_sandbox):
    return new_sandbox(username=USERNAME, password=PASSWORD)


@pytest.fixture
def environment(environment):
    return {
        **environment,
        "POST_PURCHASE_ACCOUNTS__KLARNA_EU__USERNAME": USERNAME,
        "POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD": PASSWORD,
        "POST_PURCHASE_LOG__LEVEL": "debug",
    }


def commands(order_id):
    """Everything personal there is, on one order."""
    about = {"account": "klarna-eu", "order_id": order_id}
    line = {"name": PRODUCT, "quantity": 1, "unit_price": 1000, "total_amount": 1000, "merchant_data": MERCHANT_DATA}
    money = {"amount": 1000, "description": DESCRIPTION, "order_lines": [line]}
    parcel = {"tracking_number": TRACKING_NUMBER}

    return [
        UpdateAuthorization(**about, **{**money, "amount": 100_000}),
        UpdateCustomerDetails(**about, shipping_address=ADDRESS),
        Capture(**about, **money, shipping_info=[parcel]),
        Refund(**about, **money),
    ]


def test_nothing_personal_and_no_secret_leaves_but_to_the_provider(shop, new_worker, sandbox, wire, events, until):
    """Logs, brokers and monitors are read, copied and kept by people who have no business with a customer's address."""
    sandbox.fault("status", status=503, order_id="retried", times=3)
    sandbox.fault("singular_error", order_id="refused", times=4)
    sandbox.fault("reset", order_id="lost", times=None)
    sandbox.fault("status", status=401, order_id="locked-out", times=None)
    worker = new_worker().ready()

    shop.enqueue(*(each for order_id in ORDERS for each in commands(order_id)))
    # Captures and refunds of an order whose authorization is with a person wait for that person.
    until(lambda: shop.states() == {"succeeded": 8, "rejected": 4, "escalated": 4, "pending": 4}, tell=worker.log)
    until(lambda: [state for _, state, _ in shop.open_tickets()] == ["open"] * 6, tell=worker.log)
    until(lambda: any(each["type"] == "task-succeeded" and "told" in each["result"] for each in events))

    told = {"log and tickets": worker.log(), "events": repr(events), "broker": wire.text()}
    assert all(each in repr(sandbox.requests()) for each in SENT)
    assert 6 == len(worker.lines("ticket.opened"))
    assert [] == [(each, place) for place, said in told.items() for each in (*SENT, USERNAME, PASSWORD) if each in said]


def test_an_error_that_nobody_foresaw_quotes_no_row(shop, new_worker, sandbox, wire, events, until):
    """A database that refuses a row says which, with everything in it, and Celery shows an error as it is."""
    sandbox.fault("singular_error")
    with shop.services.store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE post_purchase_ticket ADD CONSTRAINT never CHECK (state <> 'open')"))
    worker = new_worker().ready()

    shop.enqueue(*commands("refused")[:1])
    [failed, *_] = until(lambda: worker.lines("task.failed"), tell=worker.log)
    until(lambda: any(each["type"] == "task-failed" for each in events))

    assert "CheckViolation" in failed["problem"]
    assert "Failing row" not in worker.log() + repr(events) + wire.text()
