import json

import pytest
from hypothesis import given, strategies as st

from worker.domain.commands import Change, Read, parse
from worker.domain.errors import InvalidCommand
from worker.domain.klarna_commands import (
    KLARNA_COMMANDS,
    MAX_AMOUNT,
    Address,
    Capture,
    OrderLine,
    ProductIdentifiers,
    Refund,
    ShippingInfo,
    Subscription,
    UpdateAuthorization,
)

INT32_MAX = 2_147_483_647
INT64_MAX = 9_223_372_036_854_775_807

LINE = {"name": "Lamp", "quantity": 1, "unit_price": 1000, "total_amount": 1000}
SUBSCRIPTION = {"name": "Lamps", "interval": "MONTH", "interval_count": 1}
PARCEL = {"shipping_company": "DHL US", "shipping_method": "Home"}

#: What each kind needs besides account and order.
LEAST = {
    "acknowledge": {},
    "capture": {"amount": 1},
    "refund": {"amount": 1},
    "cancel": {},
    "release_remaining_authorization": {},
    "update_authorization": {"amount": 1},
    "extend_authorization_time": {},
    "update_customer_details": {"shipping_address": {"city": "Knoxville"}},
    "update_merchant_references": {"merchant_reference1": "10001"},
    "add_order_shipping_info": {"shipping_info": [PARCEL]},
    "add_capture_shipping_info": {"capture_id": "capture-1", "shipping_info": [PARCEL]},
    "trigger_send_out": {"capture_id": "capture-1"},
    "extend_due_date": {"capture_id": "capture-1", "number_of_days": 14},
    "read_order": {},
    "read_capture": {"capture_id": "capture-1"},
    "read_captures": {},
    "read_refund": {"refund_id": "refund-1"},
    "read_due_date_options": {"capture_id": "capture-1"},
}

#: What is sent of it under the key "key".
BODIES = {
    "capture": {"captured_amount": 1, "reference": "key"},
    "refund": {"refunded_amount": 1, "reference": "key"},
    "update_authorization": {"order_amount": 1},
    "update_customer_details": {"shipping_address": {"city": "Knoxville"}},
    "update_merchant_references": {"merchant_reference1": "10001"},
    "add_order_shipping_info": {"shipping_info": [PARCEL]},
    "add_capture_shipping_info": {"shipping_info": [PARCEL]},
    "extend_due_date": {"number_of_days": 14},
}

PRICED = ["capture", "refund", "update_authorization"]


def command(kind, **fields):
    return parse(
        {"kind": kind, "account": "klarna-eu", "order_id": "order-1", **LEAST[kind], **fields}, KLARNA_COMMANDS
    )


def refused_fields(kind, **fields):
    with pytest.raises(InvalidCommand) as refusal:
        command(kind, **fields)

    return [problem.field for problem in refusal.value.problems]


# ---------------------------------------------------------------------------------------------------- the kinds


def test_the_table_holds_the_18_operations_of_the_description():
    """Thirteen changes and five reads: what Klarna offers, and nothing else."""
    assert set(LEAST) == set(KLARNA_COMMANDS)
    assert 13 == sum(issubclass(class_, Change) for class_ in KLARNA_COMMANDS.values())
    assert 5 == sum(issubclass(class_, Read) for class_ in KLARNA_COMMANDS.values())


def test_each_class_says_itself_the_kind_under_which_it_stands_in_the_table():
    """The string is stored, and read back through the table."""
    assert dict(KLARNA_COMMANDS) == {class_.kind: class_ for class_ in KLARNA_COMMANDS.values()}


@pytest.mark.parametrize("kind", LEAST)
def test_the_reads_are_the_commands_that_say_they_read(kind):
    """Only these may be repeated without a key."""
    assert kind.startswith("read_") == command(kind).is_read


@pytest.mark.parametrize("kind", LEAST)
def test_a_kind_takes_no_less_than_it_needs(kind):
    """Each field that it needs is missed when it is not there, and only that."""
    for field in LEAST[kind]:
        fields = {name: value for name, value in LEAST[kind].items() if name != field}
        with pytest.raises(InvalidCommand) as refusal:
            KLARNA_COMMANDS[kind](account="klarna-eu", order_id="order-1", **fields)

        assert kind == refusal.value.kind
        assert 1 == len(refusal.value.problems)


@pytest.mark.parametrize("kind", LEAST)
def test_what_is_sent_bears_klarnas_names_and_nothing_of_ours(kind):
    """Account, order, reference, target and due_at are not part of the body; what has no body sends none."""
    sent = command(kind, reference="shipment-1", due_at="2030-01-31T09:00:00Z").body("key")

    assert BODIES.get(kind) == sent


@pytest.mark.parametrize("kind", LEAST)
def test_the_target_is_the_capture_or_refund_the_command_is_about(kind):
    """It is part of the key: the same reference for two captures is two intentions."""
    fields = LEAST[kind]

    assert fields.get("capture_id", fields.get("refund_id")) == command(kind).target


@pytest.mark.parametrize("kind", LEAST)
def test_the_amount_is_there_where_the_command_names_one(kind):
    """Metrics count money in doubt over all commands alike."""
    assert LEAST[kind].get("amount") == command(kind).amount


@pytest.mark.parametrize("kind", [kind for kind, fields in LEAST.items() if "amount" not in fields])
def test_an_amount_is_refused_where_none_is_sent(kind):
    """Who gives an amount to a cancel means something else."""
    assert ["amount"] == refused_fields(kind, amount=1)


@pytest.mark.parametrize("kind", LEAST)
@pytest.mark.parametrize("target", ["", "a/b", "..", "a" * 256, "a?b"])
def test_a_target_must_be_as_safe_in_a_path_as_an_order(kind, target):
    """It becomes a segment of the path as well."""
    for field in LEAST[kind].keys() & {"capture_id", "refund_id"}:
        assert [field] == refused_fields(kind, **{field: target})


# ---------------------------------------------------------------------------------------------------- amounts


@pytest.mark.parametrize("kind", PRICED)
@pytest.mark.parametrize("amount", [1, MAX_AMOUNT])
def test_an_amount_may_be_anything_from_1_to_200_million(kind, amount):
    """The upper limit is Klarna's."""
    assert amount == command(kind, amount=amount).amount


@pytest.mark.parametrize("kind", PRICED)
@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1, 10**30, 1.0, 1.5, True, "1", None, float("nan"), [1]])
def test_any_other_amount_is_refused(kind, amount):
    """Money is a whole number of minor units; a guess at what else was meant would be paid out."""
    assert ["amount"] == refused_fields(kind, amount=amount)


# ---------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("class_", [Capture, Refund])
def test_the_providers_reference_is_the_callers_or_else_the_key(class_):
    """It stands in the settlement files, and a read-back finds the command by it."""
    fields = {"account": "klarna-eu", "order_id": "order-1", "amount": 1, "reference": "shipment-1"}

    assert "key" == class_(**fields).body("key")["reference"]
    assert "invoice-1" == class_(**fields, provider_reference="invoice-1").body("key")["reference"]


@pytest.mark.parametrize("reference", ["", "x" * 256, "a\nb", 1])
def test_a_providers_reference_is_limited_like_any_reference(reference):
    """An empty one would hide the key that should stand there."""
    assert ["provider_reference"] == refused_fields("capture", provider_reference=reference)


def test_lines_that_are_not_given_are_not_sent():
    """Klarna then removes the order's lines; an empty list says the same, but says it."""
    fields = {"account": "klarna-eu", "order_id": "order-1", "amount": 1}

    assert {"order_amount": 1} == UpdateAuthorization(**fields).body("key")
    assert {"order_amount": 1, "order_lines": []} == UpdateAuthorization(**fields, order_lines=()).body("key")


def test_an_update_of_merchant_references_needs_one_of_them():
    """One that is absent stays as it was, so without both there is nothing to do; an empty one is a value."""
    assert [""] == refused_fields("update_merchant_references", merchant_reference1=None)
    assert {"merchant_reference2": ""} == command(
        "update_merchant_references", merchant_reference1=None, merchant_reference2=""
    ).body("key")


# ---------------------------------------------------------------------------------------------------- limits

#: Where a text stands → how long it may be. A field is filled by a path of names from the command down.
TEXT_LIMITS = [
    ("capture", "description", 255),
    ("capture", "provider_reference", 255),
    ("refund", "description", 255),
    ("refund", "provider_reference", 255),
    ("update_authorization", "description", 255),
    ("update_merchant_references", "merchant_reference1", 255),
    ("update_merchant_references", "merchant_reference2", 255),
    ("trigger_send_out", "capture_id", 255),
    ("read_refund", "refund_id", 255),
    ("capture", "reference", 255),
    *[
        ("capture", f"order_lines.0.{field}", limit)
        for field, limit in {
            "name": 255,
            "reference": 255,
            "quantity_unit": 10,
            "merchant_data": 1024,
            "product_url": 1024,
            "image_url": 1024,
            "product_identifiers.brand": 70,
            "product_identifiers.category_path": 750,
            "product_identifiers.color": 64,
            "product_identifiers.global_trade_item_number": 50,
            "product_identifiers.manufacturer_part_number": 70,
            "product_identifiers.size": 64,
            "subscription.name": 255,
        }.items()
    ],
    *[
        (kind, f"shipping_info.0.{field}", limit)
        for kind in ("capture", "add_order_shipping_info", "add_capture_shipping_info")
        for field, limit in {
            "shipping_company": 100,
            "tracking_number": 100,
            "tracking_uri": 1024,
            "return_shipping_company": 100,
            "return_tracking_number": 100,
            "return_tracking_uri": 1024,
        }.items()
    ],
    *[
        ("update_customer_details", f"shipping_address.{field}", limit)
        for field, limit in {
            "organization_name": 255,
            "attention": 255,
            "title": 20,
            "given_name": 100,
            "family_name": 100,
            "street_address": 100,
            "street_address2": 100,
            "postal_code": 10,
            "city": 200,
            "region": 200,
            "email": 100,
            "phone": 100,
        }.items()
    ],
]

#: Where a whole number stands → the least and the most it may be.
NUMBER_LIMITS = [
    ("capture", "shipping_delay", 0, INT64_MAX),
    ("extend_due_date", "number_of_days", 1, INT32_MAX),
    ("capture", "order_lines.0.quantity", 0, INT64_MAX),
    ("capture", "order_lines.0.unit_price", -MAX_AMOUNT, MAX_AMOUNT),
    ("capture", "order_lines.0.total_amount", -MAX_AMOUNT, MAX_AMOUNT),
    ("capture", "order_lines.0.total_tax_amount", -MAX_AMOUNT, MAX_AMOUNT),
    ("capture", "order_lines.0.total_discount_amount", 0, MAX_AMOUNT),
    ("capture", "order_lines.0.tax_rate", 0, INT32_MAX),
    ("capture", "order_lines.0.subscription.interval_count", 1, INT32_MAX),
]

#: Where a choice stands → what may be chosen.
CHOICES = [
    (
        "capture",
        "order_lines.0.type",
        "physical discount shipping_fee sales_tax store_credit gift_card digital surcharge return_fee",
    ),
    ("capture", "order_lines.0.subscription.interval", "DAY WEEK MONTH YEAR"),
    (
        "capture",
        "shipping_info.0.shipping_method",
        (
            "PickUpStore Home BoxReg BoxUnreg PickUpPoint Own Postal DHLPackstation Digital Undefined PickUpWarehouse "
            "ClickCollect PalletDelivery"
        ),
    ),
]

#: Where a list stands → the least and the most items, and one that fits.
LIST_LIMITS = [
    ("capture", "order_lines", 0, 1000, LINE),
    ("refund", "order_lines", 0, 1000, LINE),
    ("update_authorization", "order_lines", 0, 1000, LINE),
    ("capture", "shipping_info", 0, 500, PARCEL),
    ("add_order_shipping_info", "shipping_info", 1, 500, PARCEL),
    ("add_capture_shipping_info", "shipping_info", 1, 500, PARCEL),
]

#: What stands around a value that is deep in a command.
AROUND = {
    "order_lines": lambda inner: [{**LINE, **inner}],
    "shipping_info": lambda inner: [inner],
    "shipping_address": lambda inner: inner,
    "product_identifiers": lambda inner: inner,
    "subscription": lambda inner: {**SUBSCRIPTION, **inner},
}


def filled(path, value):
    """The field, and what stands around it, that puts the value at the path."""
    *outer, field = [step for step in path.split(".") if step != "0"]
    fields = {field: value}
    for name in reversed(outer):
        fields = {name: AROUND[name](fields)}

    return fields


@pytest.mark.parametrize(("kind", "path", "limit"), TEXT_LIMITS)
def test_a_text_may_be_as_long_as_documented_and_no_longer(kind, path, limit):
    """What Klarna would refuse is refused here, before it is stored."""
    command(kind, **filled(path, "x" * limit))

    assert [path] == refused_fields(kind, **filled(path, "x" * (limit + 1)))


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, path, _ in TEXT_LIMITS])
@pytest.mark.parametrize("value", [1, True, b"a", ["a"], "\ud800"])
def test_a_text_is_text_that_utf_8_can_carry(kind, path, value):
    """A number that is quietly made text has lost its leading zeros before it got here."""
    assert [path] == refused_fields(kind, **filled(path, value))


@pytest.mark.parametrize(("kind", "path", "least", "most"), NUMBER_LIMITS)
def test_a_number_may_be_as_small_and_as_large_as_documented(kind, path, least, most):
    """Negative line amounts are discounts and return fees; they go as far down as amounts go up."""
    command(kind, **filled(path, least))
    command(kind, **filled(path, most))

    assert [path] == refused_fields(kind, **filled(path, least - 1))
    assert [path] == refused_fields(kind, **filled(path, most + 1))


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, path, _, _ in NUMBER_LIMITS])
@pytest.mark.parametrize("value", [1.0, 1.5, True, "1", [1]])
def test_a_number_is_whole_and_no_text(kind, path, value):
    """A float cannot hold every amount, and a text may hold anything."""
    assert [path] == refused_fields(kind, **filled(path, value))


@pytest.mark.parametrize(("kind", "path", "choices"), CHOICES)
def test_a_choice_is_one_of_the_documented_values(kind, path, choices):
    """Case and all: Klarna compares the text."""
    for choice in choices.split():
        command(kind, **filled(path, choice))
        assert [path] == refused_fields(kind, **filled(path, choice.swapcase()))


@pytest.mark.parametrize(("kind", "path", "least", "most", "item"), LIST_LIMITS)
def test_a_list_may_be_as_short_and_as_long_as_documented(kind, path, least, most, item):
    """A thousand lines, five hundred parcels."""
    command(kind, **{path: [item] * least})
    command(kind, **{path: [item] * most})

    assert [path] == refused_fields(kind, **{path: [item] * (most + 1)})
    if least:
        assert [path] == refused_fields(kind, **{path: [item] * (least - 1)})


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, path, _, _, _ in LIST_LIMITS])
@pytest.mark.parametrize("value", ["text", {}, set(), iter([]), 1])
def test_a_list_has_an_order(kind, path, value):
    """A set comes out in another order each time, and the bytes of a command may not."""
    assert [path] == refused_fields(kind, **{path: value})


@pytest.mark.parametrize("country", ["SE", "se", "us"])
def test_a_country_is_two_letters(country):
    """Klarna's own examples are in lower case, the standard is in upper case."""
    sent = command("update_customer_details", shipping_address={"country": country}).body("key")

    assert {"shipping_address": {"country": country}} == sent


@pytest.mark.parametrize("country", ["", "S", "SWE", "S1", "SE\n", "åä", 46])
def test_any_other_country_is_refused(country):
    """A country's name is not its code."""
    assert ["shipping_address.country"] == refused_fields(
        "update_customer_details", shipping_address={"country": country}
    )


# ---------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (OrderLine, LINE),
        (ShippingInfo, PARCEL),
        (Address, {"city": "Knoxville"}),
        (ProductIdentifiers, {"brand": "Intel"}),
        (Subscription, SUBSCRIPTION),
    ],
)
def test_a_part_refuses_what_it_does_not_know(part, fields):
    """A slip of the pen in a line is as bad as one in a command."""
    part(**fields)

    with pytest.raises(InvalidCommand, match=f"^{part.__name__}: zz: is not a field here"):
        part(**fields, zz=1)


@pytest.mark.parametrize("field", LINE)
def test_a_line_needs_its_name_its_quantity_and_its_amounts(field):
    """Klarna cannot show a line without them."""
    line = {name: value for name, value in LINE.items() if name != field}

    assert [f"order_lines.0.{field}"] == refused_fields("capture", order_lines=[line])


@pytest.mark.parametrize("field", SUBSCRIPTION)
def test_a_subscription_needs_all_it_has(field):
    """A cadence without a unit is none."""
    subscription = {name: value for name, value in SUBSCRIPTION.items() if name != field}

    assert [f"order_lines.0.subscription.{field}"] == refused_fields(
        "capture", order_lines=[{**LINE, "subscription": subscription}]
    )


def test_what_a_part_does_not_say_is_not_sent():
    """A null may mean something else to Klarna than nothing."""
    line = {**LINE, "type": None, "product_identifiers": {"brand": None, "size": "4"}}

    sent = command("capture", order_lines=[line]).body("key")

    assert [{**LINE, "product_identifiers": {"size": "4"}}] == sent["order_lines"]


lines = st.fixed_dictionaries(
    {
        "name": st.text(st.characters(codec="utf-8", exclude_categories=["Nd"]), max_size=20),
        "quantity": st.integers(0, 10**6),
        "unit_price": st.integers(-MAX_AMOUNT, MAX_AMOUNT),
        "total_amount": st.integers(-MAX_AMOUNT, MAX_AMOUNT),
    },
    optional={
        "type": st.sampled_from(["physical", "discount", "return_fee"]),
        "tax_rate": st.integers(0, 10_000),
        "product_identifiers": st.fixed_dictionaries({}, optional={"brand": st.just("Intel"), "size": st.just("4")}),
        "subscription": st.just(SUBSCRIPTION),
    },
)


@given(st.integers(1, MAX_AMOUNT), st.lists(lines, max_size=4))
def test_what_is_sent_is_what_was_given(amount, order_lines):
    """Nothing is rounded, folded, filled in or left out on the way to the bytes, whichever way the lines are made."""
    given_as_mappings = command("refund", amount=amount, order_lines=order_lines)
    given_as_parts = command("refund", amount=amount, order_lines=[OrderLine(**line) for line in order_lines])

    payload = given_as_mappings.payload("key")

    assert given_as_parts.payload("key") == payload
    assert {"refunded_amount": amount, "order_lines": order_lines, "reference": "key"} == json.loads(payload)
