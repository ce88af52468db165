"""Decides which request bodies Klarna's v1 takes: required fields, lengths, ranges and counts of each operation.

What an order then allows is `orders.py`; which HTTP answer a finding becomes is `klarna.py`.
"""

from collections.abc import Mapping

from .rules import Rule, items, one_of, record, text, whole

MOST_MINOR_UNITS = 200_000_000
MOST_LINES = 1_000
MOST_SHIPMENTS = 500


def _country(value: object, place: str) -> list[str]:
    two_letters = isinstance(value, str) and len(value) == len("se") and value.isascii() and value.isalpha()

    return [] if two_letters else [f"{place} must be a country of two letters"]


_LINE = record(
    {
        "name": text(255),
        "quantity": whole(0, None),
        "unit_price": whole(None, MOST_MINOR_UNITS),
        "total_amount": whole(None, MOST_MINOR_UNITS),
    },
    {
        "type": one_of(
            "physical",
            "discount",
            "shipping_fee",
            "sales_tax",
            "store_credit",
            "gift_card",
            "digital",
            "surcharge",
            "return_fee",
        ),
        "reference": text(255),
        "quantity_unit": text(10),
        "tax_rate": whole(0, None),
        "total_discount_amount": whole(0, MOST_MINOR_UNITS),
        "total_tax_amount": whole(None, MOST_MINOR_UNITS),
        "merchant_data": text(1024),
        "product_url": text(1024),
        "image_url": text(1024),
    },
)

_SHIPMENT = record(
    {},
    {
        "shipping_company": text(100),
        "shipping_method": one_of(
            "PickUpStore",
            "Home",
            "BoxReg",
            "BoxUnreg",
            "PickUpPoint",
            "Own",
            "Postal",
            "DHLPackstation",
            "Digital",
            "Undefined",
            "PickUpWarehouse",
            "ClickCollect",
            "PalletDelivery",
        ),
        "tracking_number": text(100),
        "tracking_uri": text(1024),
        "return_shipping_company": text(100),
        "return_tracking_number": text(100),
        "return_tracking_uri": text(1024),
    },
)

_ADDRESS = record(
    {},
    {
        "attention": text(255),
        "city": text(200),
        "country": _country,
        "email": text(100),
        "family_name": text(100),
        "given_name": text(100),
        "organization_name": text(255),
        "phone": text(100),
        "postal_code": text(10),
        "region": text(200),
        "street_address": text(100),
        "street_address2": text(100),
        "title": text(20),
    },
)

_LINES = items(_LINE, least=0, most=MOST_LINES)
#: The description allows amount 0, but a stored capture has at least 1, so 0 is refused here.
_AMOUNT = whole(1, MOST_MINOR_UNITS)

_BOOKING = {"description": text(255), "reference": text(255), "order_lines": _LINES}

_RULES: Mapping[str, Rule] = {
    "capture": record(
        {"captured_amount": _AMOUNT},
        {
            **_BOOKING,
            "shipping_info": items(_SHIPMENT, least=0, most=MOST_SHIPMENTS),
            "shipping_delay": whole(0, None),
        },
    ),
    "refund": record({"refunded_amount": _AMOUNT}, _BOOKING),
    "update_authorization": record({"order_amount": _AMOUNT}, {"description": text(255), "order_lines": _LINES}),
    "update_customer_details": record({}, {"shipping_address": _ADDRESS}),
    "update_merchant_references": record({}, {"merchant_reference1": text(255), "merchant_reference2": text(255)}),
    "add_order_shipping_info": record({"shipping_info": items(_SHIPMENT, least=1, most=MOST_SHIPMENTS)}, {}),
    "add_capture_shipping_info": record({"shipping_info": items(_SHIPMENT, least=1, most=MOST_SHIPMENTS)}, {}),
    "extend_due_date": record({"number_of_days": whole(1, 2**31 - 1)}, {}),
}


def takes_body(kind: str) -> bool:
    """Tell whether the operation reads its body at all."""
    return kind in _RULES


def problems_of(kind: str, content: object) -> list[str]:
    """Name everything that is wrong with the body of an operation; nothing wrong, no sentences."""
    return _RULES[kind](content, "")
