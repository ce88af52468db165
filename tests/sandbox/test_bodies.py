import pytest

LINE = {"name": "Shirt", "quantity": 1, "unit_price": 100, "total_amount": 100}

CAPTURE = ("POST", "/captures", {"captured_amount": 100})
REFUND = ("POST", "/refunds", {"refunded_amount": 100})
AUTHORIZATION = ("PATCH", "/authorization", {"order_amount": 20_000})
SHIPPING = ("POST", "/shipping-info", {"shipping_info": [{"tracking_number": "1"}]})
REFERENCES = ("PATCH", "/merchant-references", {})
CUSTOMER = ("PATCH", "/customer-details", {"shipping_address": {"city": "Lund"}})

WRONG = {
    "capture of 0": (CAPTURE, {"captured_amount": 0}),
    "capture of -1": (CAPTURE, {"captured_amount": -1}),
    "capture above the limit": (CAPTURE, {"captured_amount": 200_000_001}),
    "capture of a float": (CAPTURE, {"captured_amount": 100.0}),
    "capture of a text": (CAPTURE, {"captured_amount": "100"}),
    "capture of true": (CAPTURE, {"captured_amount": True}),
    "capture of null": (CAPTURE, {"captured_amount": None}),
    "capture reference too long": (CAPTURE, {"reference": "r" * 256}),
    "capture description too long": (CAPTURE, {"description": "d" * 256}),
    "capture reference a number": (CAPTURE, {"reference": 17}),
    "capture delay negative": (CAPTURE, {"shipping_delay": -1}),
    "capture with 1001 lines": (CAPTURE, {"order_lines": [LINE] * 1_001}),
    "capture with 501 shipments": (CAPTURE, {"shipping_info": [{}] * 501}),
    "capture lines no list": (CAPTURE, {"order_lines": LINE}),
    "capture line no object": (CAPTURE, {"order_lines": ["Shirt"]}),
    "capture line without name": (CAPTURE, {"order_lines": [{**LINE, "name": None}]}),
    "capture line of unknown type": (CAPTURE, {"order_lines": [{**LINE, "type": "shirt"}]}),
    "capture line with quantity -1": (CAPTURE, {"order_lines": [{**LINE, "quantity": -1}]}),
    "refund of 0": (REFUND, {"refunded_amount": 0}),
    "refund of null": (REFUND, {"refunded_amount": None}),
    "refund above the limit": (REFUND, {"refunded_amount": 200_000_001}),
    "authorization of 0": (AUTHORIZATION, {"order_amount": 0}),
    "authorization of null": (AUTHORIZATION, {"order_amount": None}),
    "no shipment": (SHIPPING, {"shipping_info": []}),
    "shipments null": (SHIPPING, {"shipping_info": None}),
    "501 shipments": (SHIPPING, {"shipping_info": [{}] * 501}),
    "unknown shipping method": (SHIPPING, {"shipping_info": [{"shipping_method": "Pigeon"}]}),
    "merchant reference too long": (REFERENCES, {"merchant_reference1": "r" * 256}),
}


@pytest.mark.parametrize(("operation", "fields"), WRONG.values(), ids=WRONG)
def test_a_body_outside_the_documented_limits_is_refused_and_does_nothing(sandbox, shop, order_id, operation, fields):
    """What the description forbids must not get through here and fail only at the real provider."""
    method, rest, body = operation
    shop.capture(order_id, 1_000)

    answer = shop.order(order_id, method, rest, {**body, **fields})

    assert (422, "UNPROCESSABLE_ENTITY") == (answer.status, answer.json["error_code"])
    assert 1 == len(sandbox.effects())


@pytest.mark.parametrize("address", [{"city": "L" * 201}, {"country": "Sweden"}, {"postal_code": 22222}, {"city": []}])
def test_a_wrong_address_has_its_own_code(shop, order_id, address):
    """Klarna tells a wrong address from other wrong fields."""
    answer = shop.order(order_id, "PATCH", "/customer-details", {"shipping_address": address})

    assert (422, "INVALID_ADDRESS") == (answer.status, answer.json["error_code"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"captured_amount=100",
        b'{"captured_amount": NaN}',
        b'{"reference": "\xff", "captured_amount": 1}',
        b"[" * 100_000,
        b'{"captured_amount": ' + b"9" * 5_000 + b"}",
        b"[]",
        b"null",
        b'"text"',
    ],
    ids=["empty", "cut", "form", "NaN", "no UTF-8", "deep", "huge number", "list", "null", "text"],
)
def test_a_body_that_is_no_json_object_is_refused_and_does_nothing(sandbox, shop, order_id, body):
    """An unreadable request is a definite refusal, whatever makes it unreadable."""
    answer = shop.order(order_id, "POST", "/captures", body)

    assert (400, "BAD_VALUE") == (answer.status, answer.json["error_code"])
    assert [] == sandbox.effects()


def test_everything_wrong_with_a_body_is_named_at_once(shop, order_id):
    """A person fixes all in one go."""
    answer = shop.capture(order_id, 0, reference="r" * 256, order_lines=[{}])

    assert 6 == len(answer.json["error_messages"])
    assert "order_lines[0].name must not be null" in answer.json["error_messages"]


@pytest.mark.parametrize("operation", [CAPTURE, REFUND, AUTHORIZATION, SHIPPING, REFERENCES, CUSTOMER])
def test_unknown_fields_and_optional_nulls_pass(shop, order_id, operation):
    """The description forbids neither, and a stand-in that is stricter than the provider hides nothing but itself."""
    method, rest, body = operation
    shop.capture(order_id, 1_000)

    answer = shop.order(order_id, method, rest, {**body, "novelty": 1, "description": None})

    assert answer.status in (201, 204)


def test_the_limits_themselves_pass(shop, sandbox):
    """The last allowed value is allowed."""
    order_id = sandbox.create_order(amount=200_000_000)["order_id"]

    answer = shop.capture(
        order_id,
        200_000_000,
        reference="r" * 255,
        description="d" * 255,
        order_lines=[LINE] * 1_000,
        shipping_info=[{"shipping_method": "Home"}] * 500,
        shipping_delay=0,
    )

    assert 201 == answer.status


def test_text_beyond_ascii_survives_the_way_there_and_back(shop, order_id):
    """Buyers have names in every script, and half a surrogate must not break the reader."""
    shop.capture(order_id, 1_000, description="Größe 😀 \ud800")

    assert ["Größe 😀 \ud800"] == [capture["description"] for capture in shop.order(order_id).json["captures"]]
