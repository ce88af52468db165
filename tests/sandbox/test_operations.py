import uuid
from typing import NamedTuple

import pytest


class Operation(NamedTuple):
    kind: str
    method: str
    rest: str  # behind the order's id
    body: dict | None
    status: int  # of success


SHIPMENT = {"shipping_company": "Carrier", "shipping_method": "Home", "tracking_number": "634564"}
LINE = {"name": "Shirt", "quantity": 1, "unit_price": 4_000, "total_amount": 4_000, "reference": "shirt"}

OPERATIONS = [
    Operation("read_order", "GET", "", None, 200),
    Operation("acknowledge", "POST", "/acknowledge", None, 204),
    Operation("update_authorization", "PATCH", "/authorization", {"order_amount": 12_000}, 204),
    Operation("capture", "POST", "/captures", {"captured_amount": 1_000}, 201),
    Operation("read_captures", "GET", "/captures", None, 200),
    Operation("read_capture", "GET", "/captures/{capture}", None, 200),
    Operation("extend_due_date", "PATCH", "/captures/{capture}/extend-due-date", {"number_of_days": 10}, 204),
    Operation("read_due_date_options", "GET", "/captures/{capture}/extend-due-date-options", None, 200),
    Operation(
        "add_capture_shipping_info", "POST", "/captures/{capture}/shipping-info", {"shipping_info": [SHIPMENT]}, 204
    ),
    Operation("trigger_send_out", "POST", "/captures/{capture}/trigger-send-out", None, 204),
    Operation("update_customer_details", "PATCH", "/customer-details", {"shipping_address": {"city": "Lund"}}, 204),
    Operation("extend_authorization_time", "POST", "/extend-authorization-time", None, 204),
    Operation("update_merchant_references", "PATCH", "/merchant-references", {"merchant_reference1": "17"}, 204),
    Operation("refund", "POST", "/refunds", {"refunded_amount": 500}, 201),
    Operation("read_refund", "GET", "/refunds/{refund}", None, 200),
    Operation("release_remaining_authorization", "POST", "/release-remaining-authorization", None, 204),
    Operation("add_order_shipping_info", "POST", "/shipping-info", {"shipping_info": [SHIPMENT]}, 204),
]

OF_AN_UNTOUCHED_ORDER = [Operation("cancel", "POST", "/cancel", None, 204)]

READS = [operation for operation in OPERATIONS if operation.kind.startswith("read_")]
CHANGES = [operation for operation in OPERATIONS if not operation.kind.startswith("read_")]


def each(operations):
    return pytest.mark.parametrize("operation", operations, ids=[operation.kind for operation in operations])


@pytest.fixture
def part_captured(shop, order_id):
    """An order with a capture and a refund, and what the paths of the table need to name them."""
    capture_id = shop.capture(order_id, 4_000).headers["Capture-Id"]
    refund_id = shop.refund(order_id, 1_000).headers["Refund-Id"]

    return order_id, {"capture": capture_id, "refund": refund_id}


@each(OPERATIONS)
def test_each_operation_succeeds_with_its_documented_status(part_captured, shop, operation):
    """An adapter is written against these 18 statuses."""
    order_id, ids = part_captured

    answer = shop.order(order_id, operation.method, operation.rest.format(**ids), operation.body)

    assert operation.status == answer.status


def test_cancel_succeeds_on_an_untouched_order(shop, order_id):
    """The eighteenth operation needs an order without captures."""
    answer = shop.order(order_id, "POST", "/cancel")

    assert (204, b"") == (answer.status, answer.body)


@each(CHANGES)
def test_each_change_adds_exactly_one_effect_of_its_kind(sandbox, part_captured, shop, operation):
    """The ledger of effects is what everybody counts, so each execution must stand there once."""
    order_id, ids = part_captured
    before = len(sandbox.effects())

    shop.order(order_id, operation.method, operation.rest.format(**ids), operation.body, key="key-1")

    added = sandbox.effects()[before:]
    assert [(operation.kind, order_id, "key-1")] == [
        (effect["kind"], effect["order_id"], effect["key"]) for effect in added
    ]


@each(READS)
def test_no_read_adds_an_effect(sandbox, part_captured, shop, operation):
    """Looking changes nothing."""
    order_id, ids = part_captured
    before = sandbox.effects()

    shop.order(order_id, operation.method, operation.rest.format(**ids))

    assert before == sandbox.effects()


@each(OPERATIONS + OF_AN_UNTOUCHED_ORDER)
def test_each_operation_refuses_an_unknown_order(sandbox, shop, operation):
    """A wrong id, region or merchant looks like this, and it is a definite answer with an error object."""
    rest = operation.rest.format(capture=uuid.uuid4(), refund=uuid.uuid4())

    answer = shop.order(uuid.uuid4(), operation.method, rest, operation.body)

    code = "NOT_FOUND" if "refund" in operation.kind else "NO_SUCH_ORDER"
    assert (404, code) == (answer.status, answer.json["error_code"])
    assert [] == sandbox.effects()


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("/captures/{id}", "NO_SUCH_CAPTURE"),
        ("/captures/{id}/extend-due-date-options", "NO_SUCH_CAPTURE"),
        ("/refunds/{id}", "NOT_FOUND"),
    ],
)
def test_a_read_of_an_unknown_part_names_the_part(part_captured, shop, rest, code):
    """A read-back must tell a missing capture from a missing order."""
    order_id, _ = part_captured

    answer = shop.order(order_id, "GET", rest.format(id=uuid.uuid4()))

    assert (404, code) == (answer.status, answer.json["error_code"])


@pytest.mark.parametrize(
    "call",
    [
        ("PATCH", "/extend-due-date", {"number_of_days": 10}),
        ("POST", "/shipping-info", {"shipping_info": [SHIPMENT]}),
        ("POST", "/trigger-send-out", None),
    ],
)
def test_a_change_of_an_unknown_capture_is_refused(sandbox, part_captured, shop, call):
    """The order exists, so only the capture can be to blame."""
    order_id, _ = part_captured
    method, rest, body = call
    before = sandbox.effects()

    answer = shop.order(order_id, method, f"/captures/{uuid.uuid4()}{rest}", body)

    assert (404, "NO_SUCH_CAPTURE") == (answer.status, answer.json["error_code"])
    assert before == sandbox.effects()


def test_an_unknown_order_whose_id_is_no_uuid_is_invalid(shop):
    """Klarna tells a malformed id from an unknown one."""
    answer = shop.order("order-17")

    assert (400, "INVALID_ORDER_ID") == (answer.status, answer.json["error_code"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/ordermanagement/v1/orders",
        "/ordermanagement/v1/orders/",
        "/services/1/transactions",
        "{order}/",
        "{order}/captures/",
        "{order}/captures/1/2/3",
        "{order}/nothing",
    ],
)
def test_an_unknown_path_gets_404_without_an_error_object(shop, order_id, path):
    """Such a 404 says nothing about the order, so it must not look like an answer that does."""
    answer = shop.ask("GET", path.format(order=f"/ordermanagement/v1/orders/{order_id}"))

    assert (404, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert b"error_code" not in answer.body


@pytest.mark.parametrize(("method", "rest"), [("DELETE", ""), ("PUT", "/captures"), ("GET", "/cancel"), ("HEAD", "")])
def test_a_method_that_does_not_exist_there_gets_405(shop, order_id, method, rest):
    """A wrong verb is a mistake of the adapter and should be loud."""
    answer = shop.order(order_id, method, rest)

    assert (405, b"") == (answer.status, answer.body)


@pytest.mark.parametrize("authorization", [None, "Basic d3Jvbmc6d3Jvbmc=", "Bearer sandbox", "Basic é"])
def test_missing_or_wrong_credentials_get_a_page_not_an_object(sandbox, new_shop, order_id, authorization):
    """Klarna answers 401 in HTML, and a client that expects JSON there breaks."""
    header = None if authorization is None else authorization.encode("latin-1")
    stranger = new_shop(sandbox.base_url, authorization=header)

    answer = stranger.capture(order_id, 1_000)

    assert (401, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert [] == sandbox.effects()


def test_a_created_capture_is_named_in_headers_alone(sandbox, shop, order_id):
    """The id is in `Capture-Id` and `Location`; there is no body to take it from."""
    answer = shop.capture(order_id, 1_000)

    capture_id = answer.headers["Capture-Id"]
    assert (
        f"{sandbox.base_url}/ordermanagement/v1/orders/{order_id}/captures/{capture_id}" == answer.headers["Location"]
    )
    assert b"" == answer.body


def test_a_created_refund_is_named_in_headers_alone(sandbox, shop, order_id):
    """The same holds for refunds."""
    shop.capture(order_id, 1_000)

    answer = shop.refund(order_id, 1_000)

    refund_id = answer.headers["Refund-Id"]
    assert f"{sandbox.base_url}/ordermanagement/v1/orders/{order_id}/refunds/{refund_id}" == answer.headers["Location"]
    assert b"" == answer.body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ordermanagement/v1/orders/{order}", 200),
        ("POST", "/ordermanagement/v1/orders/{order}/acknowledge", 204),
        ("POST", "/ordermanagement/v1/orders/{order}/refunds", 400),
        ("DELETE", "/ordermanagement/v1/orders/{order}", 405),
        ("GET", "/elsewhere", 404),
    ],
)
def test_every_answer_carries_its_own_correlation_id(shop, order_id, method, path, status):
    """It is what the provider's support asks for, whatever the answer was."""
    first = shop.ask(method, path.format(order=order_id))
    second = shop.ask(method, path.format(order=order_id))

    assert status == first.status
    assert uuid.UUID(first.headers["Klarna-Correlation-Id"]) != uuid.UUID(second.headers["Klarna-Correlation-Id"])


def test_an_error_object_repeats_the_correlation_id_of_the_header(shop, order_id):
    """Both places must say the same, or a support case starts with a riddle."""
    answer = shop.refund(order_id, 1_000)

    assert {"error_code", "error_messages", "correlation_id"} == set(answer.json)
    assert answer.headers["Klarna-Correlation-Id"] == answer.json["correlation_id"]


def test_the_references_of_captures_and_refunds_come_back_on_reads(shop, order_id):
    """Reading back after a lost answer works by `reference` and by nothing else."""
    capture_id = shop.capture(order_id, 4_000, reference="shipment-1").headers["Capture-Id"]
    refund_id = shop.refund(order_id, 1_000, reference="return-1").headers["Refund-Id"]

    order = shop.order(order_id).json
    captures = shop.order(order_id, rest="/captures").json
    refund = shop.order(order_id, rest=f"/refunds/{refund_id}").json

    assert [("shipment-1", capture_id)] == [(part["reference"], part["capture_id"]) for part in order["captures"]]
    assert [("return-1", refund_id)] == [(part["reference"], part["refund_id"]) for part in order["refunds"]]
    assert order["captures"] == captures
    assert order["refunds"] == [refund]


def test_captures_are_numbered_behind_the_reference_of_their_order(shop, order_id):
    """Buyers see these references, and a person comparing a statement needs them to match."""
    shop.capture(order_id, 1_000)
    shop.capture(order_id, 1_000)

    order = shop.order(order_id).json

    reference = order["klarna_reference"]
    assert [f"{reference}-1", f"{reference}-2"] == [capture["klarna_reference"] for capture in order["captures"]]


def test_due_date_options_are_offered_in_the_currency_of_the_order(shop, sandbox):
    """The fee is money, so it needs its currency."""
    order = sandbox.create_order(currency="SEK", status="CAPTURED")
    capture_id = order["captures"][0]["capture_id"]

    options = shop.order(order["order_id"], rest=f"/captures/{capture_id}/extend-due-date-options").json

    assert "SEK" == options["currency"]
    assert all({"amount", "number_of_days"} == set(option) for option in options["options"])


def test_shipments_are_appended_and_never_replaced(shop, order_id):
    """A repeat without a key shows twice, which is why it must not happen blindly."""
    shop.order(order_id, "POST", "/shipping-info", {"shipping_info": [SHIPMENT]})
    shop.order(order_id, "POST", "/shipping-info", {"shipping_info": [SHIPMENT]})

    assert [SHIPMENT, SHIPMENT] == shop.order(order_id).json["shipping_info"]


def test_an_absent_merchant_reference_stays_as_it_was(shop, order_id):
    """The two references belong to different systems of the shop and are set apart."""
    shop.order(order_id, "PATCH", "/merchant-references", {"merchant_reference1": "a", "merchant_reference2": "b"})
    shop.order(order_id, "PATCH", "/merchant-references", {"merchant_reference2": "c"})

    order = shop.order(order_id).json

    assert ("a", "c") == (order["merchant_reference1"], order["merchant_reference2"])


def test_a_refund_is_booked_against_the_capture_that_its_lines_come_from(shop, order_id):
    """Klarna allocates by the lines' references; without its lines, or beyond it, a refund stays with the order."""
    shop.capture(order_id, 5_000, order_lines=[LINE])
    shop.capture(order_id, 5_000)
    shop.refund(order_id, 4_000, order_lines=[LINE])
    shop.refund(order_id, 4_000, order_lines=[LINE])
    shop.refund(order_id, 500)
    shop.refund(order_id, 100, order_lines=[{**LINE, "reference": "shoe", "total_amount": 100}])

    order = shop.order(order_id).json

    assert [4_000, 0] == [capture["refunded_amount"] for capture in order["captures"]]
    assert 8_600 == order["refunded_amount"]
