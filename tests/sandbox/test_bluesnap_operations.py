from typing import NamedTuple

import pytest


class Call(NamedTuple):
    kind: str
    method: str
    path: str
    body: dict | None
    status: int  # of success


NEW = {"amount": "5.00", "currency": "USD", "vaultedShopperId": 7}
PUT = {"transactionId": "{open}"}
ANY = {"name": "Gold"}

CHANGES = [
    Call("auth_only", "POST", "transactions", {"cardTransactionType": "AUTH_ONLY", **NEW}, 200),
    Call("auth_capture", "POST", "transactions", {"cardTransactionType": "AUTH_CAPTURE", **NEW}, 200),
    Call("capture", "PUT", "transactions", {"cardTransactionType": "CAPTURE", **PUT}, 200),
    Call("auth_reversal", "PUT", "transactions", {"cardTransactionType": "AUTH_REVERSAL", **PUT}, 200),
    Call("refund", "POST", "transactions/refund/{sale}", {"amount": "5.00"}, 200),
    Call("refund", "POST", "transactions/refund/merchant/{merchant}", {"amount": "5.00"}, 200),
    Call("cancel_pending_refund", "DELETE", "transactions/pending-refund/{pending}", None, 200),
    Call("create_alt_transaction", "POST", "alt-transactions", ANY, 200),
    Call("create_batch_order", "POST", "batch/order-placement", ANY, 200),
    Call("create_on_demand_subscription", "POST", "recurring/ondemand", ANY, 200),
    Call("create_on_demand_charge", "POST", "recurring/ondemand/{subscription}", ANY, 200),
    Call("create_plan", "POST", "recurring/plans", ANY, 200),
    Call("create_subscription", "POST", "recurring/subscriptions", ANY, 200),
    Call("create_subscription_charge", "POST", "subscriptions/{subscription}/subscription-charges", ANY, 200),
    Call("create_vaulted_shopper", "POST", "vaulted-shoppers", ANY, 200),
    Call("create_vendor", "POST", "vendors", ANY, 201),
    Call("update_plan", "PUT", "recurring/plans/{plan}", ANY, 200),
    Call("update_subscription", "PUT", "recurring/subscriptions/{subscription}", ANY, 200),
    Call("update_vaulted_shopper", "PUT", "vaulted-shoppers/{shopper}", ANY, 200),
    Call("update_vendor", "PUT", "vendors/{vendor}", ANY, 204),
]

READS = [
    Call("read", "GET", "transactions/{sale}", None, 200),
    Call("read", "GET", "transactions/{merchant},456", None, 200),
    Call("read", "GET", "recurring/plans/{plan}", None, 200),
    Call("read", "GET", "recurring/subscriptions/{subscription}", None, 200),
    Call("read", "GET", "subscriptions/{subscription}/subscription-charges", None, 200),
    Call("read", "GET", "vaulted-shoppers/{shopper}", None, 200),
    Call("read", "GET", "vendors/{vendor}", None, 200),
]

#: Collections of the simple stores with the field that names a record.
STORES = {
    "alt-transactions": "transactionId",
    "batch/order-placement": "batchId",
    "recurring/ondemand": "subscriptionId",
    "recurring/plans": "planId",
    "recurring/subscriptions": "subscriptionId",
    "vaulted-shoppers": "vaultedShopperId",
}


def each(calls):
    return pytest.mark.parametrize("call", calls, ids=[f"{call.kind} {call.method} {call.path}" for call in calls])


@pytest.fixture
def world(sandbox, blue_shop):
    """Something of everything, and the names by which the paths of the table call it."""
    pending = sandbox.create_transaction(captured=True)["transactionId"]
    sandbox.switch(bluesnap_refund_status="PENDING")
    blue_shop.refund(pending, "1.00")
    sandbox.switch(bluesnap_refund_status="SUCCESS")
    sandbox.create_transaction(captured=True, merchant_transaction_id="invoice-17")

    return {
        "open": sandbox.create_transaction()["transactionId"],
        "sale": sandbox.create_transaction(captured=True)["transactionId"],
        "merchant": "invoice-17",
        "pending": pending,
        "plan": blue_shop.call("POST", "recurring/plans", ANY).json["planId"],
        "subscription": blue_shop.call("POST", "recurring/subscriptions", ANY).json["subscriptionId"],
        "shopper": blue_shop.call("POST", "vaulted-shoppers", ANY).json["vaultedShopperId"],
        "vendor": blue_shop.call("POST", "vendors", ANY).headers["Location"].rpartition("/")[2],
    }


@pytest.fixture
def make(blue_shop, world):
    def make(call, *, key=None, **headers):
        body = call.body
        if body is not None:
            body = {name: value.format(**world) if value == "{open}" else value for name, value in body.items()}
        return blue_shop.call(call.method, call.path.format(**world), body, key=key, **headers)

    return make


@each(CHANGES + READS)
def test_each_operation_succeeds_with_its_documented_status(make, call):
    """An adapter is written against these."""
    answer = make(call)

    assert call.status == answer.status


@each(CHANGES)
def test_each_change_adds_exactly_one_effect_of_its_kind(sandbox, make, call):
    """The ledger of effects is what everybody counts, so each execution must stand there once."""
    before = len(sandbox.effects())

    make(call)

    added = sandbox.effects()[before:]
    assert [(call.kind, "bluesnap", "client")] == [
        (effect["kind"], effect["provider"], effect["actor"]) for effect in added
    ]


@each(READS)
def test_no_read_adds_an_effect(sandbox, make, call):
    """Looking changes nothing."""
    before = sandbox.effects()

    make(call)

    assert before == sandbox.effects()


@each(CHANGES + READS)
@pytest.mark.parametrize("version", [None, "", "4.0"])
def test_without_its_version_no_request_is_understood(sandbox, make, call, version):
    """The default depends on the account, so it must always be sent."""
    before = sandbox.effects()

    answer = make(call, **{"bluesnap-version": version})

    assert (400, "INVALID_API_VERSION") == (answer.status, answer.json["message"][0]["errorName"])
    assert before == sandbox.effects()


@each(CHANGES + READS)
def test_each_operation_needs_the_credentials(sandbox, world, new_blue_shop, call):
    """A 401 is a page of the server below, not an object."""
    before = sandbox.effects()
    stranger = new_blue_shop(sandbox.base_url, authorization="Basic d3Jvbmc6d3Jvbmc=")

    answer = stranger.call(call.method, call.path.format(**world), call.body)

    assert (401, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert before == sandbox.effects()


@pytest.mark.parametrize("version", ["1.0", "2.0", "3.0"])
def test_the_version_decides_what_an_update_of_a_shopper_answers(blue_shop, version):
    """With 1.0 there is no body to read an id from."""
    created = blue_shop.call("POST", "vaulted-shoppers", ANY, **{"bluesnap-version": version})
    named = created.headers["Location"].rpartition("/")[2] if version == "1.0" else created.json["vaultedShopperId"]

    updated = blue_shop.call("PUT", f"vaulted-shoppers/{named}", {"name": "Silver"}, **{"bluesnap-version": version})

    assert ((201, 204) if version == "1.0" else (200, 200)) == (created.status, updated.status)
    assert "Silver" == blue_shop.call("GET", f"vaulted-shoppers/{named}").json["name"]


@pytest.mark.parametrize(("collection", "id_field"), STORES.items(), ids=STORES)
def test_a_record_is_shown_as_it_was_put_in(blue_shop, collection, id_field):
    """Reading back is how a lost reply to a creation or an update is resolved."""
    created = blue_shop.call("POST", collection, {"name": "Gold", "price": "5.00"}).json

    read = blue_shop.call("GET", f"{collection}/{created[id_field]}").json

    assert {"name": "Gold", "price": "5.00", id_field: created[id_field]} == created == read


@pytest.mark.parametrize(
    ("collection", "left"),
    [("recurring/plans", {"name": "Silver", "price": "5.00"}), ("vaulted-shoppers", {"name": "Silver"})],
)
def test_an_update_brings_fields_or_the_whole_record(blue_shop, collection, left):
    """A plan is patched and a shopper is replaced, though the verb is the same."""
    id_field = STORES[collection]
    record_id = blue_shop.call("POST", collection, {"name": "Gold", "price": "5.00"}).json[id_field]

    blue_shop.call("PUT", f"{collection}/{record_id}", {"name": "Silver"})

    assert {**left, id_field: record_id} == blue_shop.call("GET", f"{collection}/{record_id}").json


def test_the_charges_of_a_subscription_are_listed(blue_shop):
    """A lost reply to a charge leaves nothing else to look for it in."""
    for name in ("a", "b"):
        blue_shop.call("POST", "subscriptions/17/subscription-charges", {"name": name})
    blue_shop.call("POST", "subscriptions/18/subscription-charges", {"name": "c"})

    charges = blue_shop.call("GET", "subscriptions/17/subscription-charges").json["subscription_charge"]

    assert ["a", "b"] == [charge["name"] for charge in charges]


@each([call for call in CHANGES if call.body is not None])
@pytest.mark.parametrize("body", [b"[]", b"17", b"{", b'{"amount": NaN}', b"<xml/>", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused_and_does_nothing(sandbox, world, blue_shop, call, body):
    """A mistake of the adapter must not get through here and fail only at the real provider."""
    before = sandbox.effects()

    answer = blue_shop.call(call.method, call.path.format(**world), body)

    assert (400, "VALIDATION_GENERAL_FAILURE") == (answer.status, answer.json["message"][0]["errorName"])
    assert before == sandbox.effects()


@pytest.mark.parametrize(
    "path",
    [
        "transactions/17",
        "transactions/invoice-17,456",
        "recurring/plans/17",
        "vaulted-shoppers/17",
        "vendors/17",
    ],
)
def test_a_read_of_what_does_not_exist_is_not_authorized(blue_shop, path):
    """BlueSnap does not tell what is not there from what is not yours, and a 403 must be read for its sentence."""
    answer = blue_shop.call("GET", path)

    assert 403 == answer.status
    assert "not authorized to view transaction" in answer.json["message"][0]["description"]
    assert "errorName" not in answer.json["message"][0]


@pytest.mark.parametrize(
    "call",
    [
        ("PUT", "transactions", {"cardTransactionType": "CAPTURE", "transactionId": "17"}),
        ("POST", "transactions/refund/17", {}),
        ("POST", "transactions/refund/merchant/17", {}),
        ("DELETE", "transactions/pending-refund/17", None),
        ("PUT", "recurring/plans/17", {}),
    ],
)
def test_a_change_of_what_does_not_exist_is_not_authorized(sandbox, blue_shop, call):
    """A wrong id looks like this, and nothing was done."""
    answer = blue_shop.call(*call)

    assert 403 == answer.status
    assert [] == sandbox.effects()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "transactions/17"),
        ("GET", "transactions"),
        ("PUT", "transactions/refund/17"),
        ("POST", "transactions/pending-refund/17"),
        ("DELETE", "vendors/17"),
        ("PUT", "recurring/plans"),
    ],
)
def test_a_wrong_verb_has_a_number_of_its_own(blue_shop, method, path):
    """It is a mistake of the adapter and should be loud."""
    answer = blue_shop.call(method, path, {})

    [message] = answer.json["message"]
    assert (400, "INVALID_HTTP_METHOD", "85") == (answer.status, message["errorName"], message["code"])


@pytest.mark.parametrize(
    "path", ["", "nothing", "transactions/", "transactions/refund/merchant/", "transactions/1/2/3/4", "recurring"]
)
def test_an_unknown_path_gets_404_without_an_error_object(blue_shop, path):
    """Such a 404 says nothing about the transaction, so it must not look like an answer that does."""
    answer = blue_shop.call("GET", path)

    assert (404, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/services/2", "bluesnap"),
        ("/services/2/transactions", "bluesnap"),
        ("/services/22/transactions", "klarna"),
        ("/ordermanagement/v1/orders/services/2/", "klarna"),
        ("/", "klarna"),
    ],
)
def test_the_path_tells_the_providers_apart(sandbox, blue_shop, path, provider):
    """One port serves both, so that one sandbox serves a worker with both accounts."""
    blue_shop.ask("GET", path)

    assert [provider] == [request["provider"] for request in sandbox.requests()]


def test_the_two_providers_share_no_orders_and_no_keys(sandbox, shop, blue_shop, order_id, sale_id):
    """A key used at one is new at the other."""
    shop.capture(order_id, 1_000, key="key-1")
    refunded = blue_shop.refund(sale_id, key="key-1")

    assert 200 == refunded.status
    assert [("klarna", 1_000), ("bluesnap", "10.00")] == [
        (effect["provider"], effect["amount"]) for effect in sandbox.effects()
    ]
    assert 403 == blue_shop.read(order_id).status
