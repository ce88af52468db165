"""Decides which request bodies Klarna's v1 takes: required fields, lengths, ranges and counts of each operation.

What an order then allows is `orders.py`; which HTTP answer a finding becomes is `klarna.py`.
"""

from collections.abc import Callable, Mapping

#: Looks at a value that stands at a place and says what is wrong with it, in sentences.
Rule = Callable[[object, str], list[str]]

MOST_MINOR_UNITS = 200_000_000
MOST_LINES = 1_000
MOST_SHIPMENTS = 500


def _text(most: int) -> Rule:
    def rule(value: object, place: str) -> list[str]:
        if not isinstance(value, str):
            return [f"{place} must be a string"]
        return [f"{place} must have at most {most} characters"] if len(value) > most else []

    return rule


def _whole(least: int | None, most: int | None) -> Rule:
    def rule(value: object, place: str) -> list[str]:
        if not isinstance(value, int) or isinstance(value, bool):
            return [f"{place} must be an integer"]
        if least is not None and value < least:
            return [f"{place} must be at least {least}"]
        return [f"{place} must be at most {most}"] if most is not None and value > most else []

    return rule


def _one_of(*names: str) -> Rule:
    def rule(value: object, place: str) -> list[str]:
        return [] if value in names else [f"{place} must be one of {', '.join(names)}"]

    return rule


def _country(value: object, place: str) -> list[str]:
    two_letters = isinstance(value, str) and len(value) == len("se") and value.isascii() and value.isalpha()

    return [] if two_letters else [f"{place} must be a country of two letters"]


def _items(rule: Rule, *, least: int, most: int) -> Rule:
    def items(value: object, place: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{place} must be a list"]
        if not least <= len(value) <= most:
            return [f"{place} must have {least} to {most} items"]
        return [problem for index, item in enumerate(value) for problem in rule(item, f"{place}[{index}]")]

    return items


def _record(required: Mapping[str, Rule], optional: Mapping[str, Rule]) -> Rule:
    """Check the known fields; unknown ones pass, and an optional field that is null counts as absent."""
    rule_by_name = {**required, **optional}

    def record(value: object, place: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{place} must be an object"]
        start = f"{place}." if place else ""
        problems = [f"{start}{name} must not be null" for name in required if value.get(name) is None]
        for name, rule in rule_by_name.items():
            if value.get(name) is not None:
                problems += rule(value[name], start + name)
        return problems

    return record


_LINE = _record(
    {
        "name": _text(255),
        "quantity": _whole(0, None),
        "unit_price": _whole(None, MOST_MINOR_UNITS),
        "total_amount": _whole(None, MOST_MINOR_UNITS),
    },
    {
        "type": _one_of(
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
        "reference": _text(255),
        "quantity_unit": _text(10),
        "tax_rate": _whole(0, None),
        "total_discount_amount": _whole(0, MOST_MINOR_UNITS),
        "total_tax_amount": _whole(None, MOST_MINOR_UNITS),
        "merchant_data": _text(1024),
        "product_url": _text(1024),
        "image_url": _text(1024),
    },
)

_SHIPMENT = _record(
    {},
    {
        "shipping_company": _text(100),
        "shipping_method": _one_of(
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
        "tracking_number": _text(100),
        "tracking_uri": _text(1024),
        "return_shipping_company": _text(100),
        "return_tracking_number": _text(100),
        "return_tracking_uri": _text(1024),
    },
)

_ADDRESS = _record(
    {},
    {
        "attention": _text(255),
        "city": _text(200),
        "country": _country,
        "email": _text(100),
        "family_name": _text(100),
        "given_name": _text(100),
        "organization_name": _text(255),
        "phone": _text(100),
        "postal_code": _text(10),
        "region": _text(200),
        "street_address": _text(100),
        "street_address2": _text(100),
        "title": _text(20),
    },
)

_LINES = _items(_LINE, least=0, most=MOST_LINES)
#: The description allows amount 0, but a stored capture has at least 1, so 0 is refused here.
_AMOUNT = _whole(1, MOST_MINOR_UNITS)

_BOOKING = {"description": _text(255), "reference": _text(255), "order_lines": _LINES}

_RULES: Mapping[str, Rule] = {
    "capture": _record(
        {"captured_amount": _AMOUNT},
        {
            **_BOOKING,
            "shipping_info": _items(_SHIPMENT, least=0, most=MOST_SHIPMENTS),
            "shipping_delay": _whole(0, None),
        },
    ),
    "refund": _record({"refunded_amount": _AMOUNT}, _BOOKING),
    "update_authorization": _record({"order_amount": _AMOUNT}, {"description": _text(255), "order_lines": _LINES}),
    "update_customer_details": _record({}, {"shipping_address": _ADDRESS}),
    "update_merchant_references": _record({}, {"merchant_reference1": _text(255), "merchant_reference2": _text(255)}),
    "add_order_shipping_info": _record({"shipping_info": _items(_SHIPMENT, least=1, most=MOST_SHIPMENTS)}, {}),
    "add_capture_shipping_info": _record({"shipping_info": _items(_SHIPMENT, least=1, most=MOST_SHIPMENTS)}, {}),
    "extend_due_date": _record({"number_of_days": _whole(1, 2**31 - 1)}, {}),
}


def takes_body(kind: str) -> bool:
    """Tell whether the operation reads its body at all."""
    return kind in _RULES


def problems_of(kind: str, content: object) -> list[str]:
    """Name everything that is wrong with the body of an operation; nothing wrong, no sentences."""
    return _RULES[kind](content, "")
