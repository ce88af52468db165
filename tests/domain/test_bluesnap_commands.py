from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

import worker
from worker import bluesnap
from worker.domain import key
from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS, KEYED_PATHS, MAX_AMOUNT, META_KEY
from worker.domain.commands import Change, Read, UnkeyedChange, parse
from worker.domain.errors import InvalidCommand
from worker.domain.money import DECIMALS

RECORD = {"fields": {"name": "Gold"}}

#: What each kind needs besides account and order.
LEAST = {
    "capture": {"amount": 500, "currency": "USD"},
    "auth_reversal": {},
    "refund": {},
    "cancel_pending_refund": {},
    "authorize": {"amount": 500, "currency": "USD", "vaulted_shopper_id": 20781033},
    "sale": {"amount": 500, "currency": "USD", "vaulted_shopper_id": 20781033},
    "create_alt_transaction": {"amount": 500, "currency": "USD"},
    "create_on_demand_subscription": {"currency": "USD"},
    "charge_on_demand_subscription": {"amount": 500, "currency": "USD"},
    "create_subscription": RECORD,
    "update_subscription": RECORD,
    "charge_subscription": RECORD,
    "create_plan": RECORD,
    "update_plan": RECORD,
    "create_shopper": RECORD,
    "update_shopper": RECORD,
    "create_vendor": RECORD,
    "update_vendor": RECORD,
    "place_batch_order": RECORD,
    "keyed_post": {"path": "/vendors"},
    "read_transaction": {},
    "read_subscription": {},
    "read_plan": {},
    "read_vendor": {},
    "read_shopper": {},
}

META = {"transactionMetaData": {"metaData": [{"metaKey": "post-purchase-key", "metaValue": "key"}]}}
PAID = {"amount": "5.00", "currency": "USD"}

#: What is sent of it under the key "key"; what is not here sends no body.
BODIES = {
    "capture": {"cardTransactionType": "CAPTURE", "transactionId": "38486450", "amount": "5.00", **META},
    "auth_reversal": {"cardTransactionType": "AUTH_REVERSAL", "transactionId": "38486450"},
    "refund": {"cancelSubscriptions": False, **META},
    "authorize": {"cardTransactionType": "AUTH_ONLY", "vaultedShopperId": 20781033, **PAID, **META},
    "sale": {"cardTransactionType": "AUTH_CAPTURE", "vaultedShopperId": 20781033, **PAID, **META},
    "create_alt_transaction": {**PAID, **META},
    "create_on_demand_subscription": {"currency": "USD", **META},
    "charge_on_demand_subscription": {**PAID, **META},
    **{kind: {"name": "Gold"} for kind, least in LEAST.items() if least is RECORD},
    "keyed_post": {},
}

UNKEYED = {
    *("capture", "auth_reversal", "cancel_pending_refund"),
    *("update_subscription", "update_plan", "update_shopper", "update_vendor"),
}
PRICED = [kind for kind, least in LEAST.items() if "amount" in least]
WITH_CURRENCY = [kind for kind, least in LEAST.items() if "currency" in least] + ["refund"]
WITH_META = [kind for kind, body in BODIES.items() if "transactionMetaData" in body]
WITH_FIELDS = [kind for kind in BODIES if kind != "auth_reversal"]


def command(kind, **fields):
    return parse(
        {"kind": kind, "account": "bluesnap-us", "order_id": "38486450", **LEAST[kind], **fields}, BLUESNAP_COMMANDS
    )


def refusal(kind, **fields):
    with pytest.raises(InvalidCommand) as refused:
        command(kind, **fields)

    return {problem.field: problem.message for problem in refused.value.problems}


# ---------------------------------------------------------------------------------------------------- the kinds


def test_the_table_holds_the_operations_of_the_api():
    """Seven changes that no key protects, thirteen that one does, and five reads."""
    assert set(LEAST) == set(BLUESNAP_COMMANDS)
    assert UNKEYED == {kind for kind, class_ in BLUESNAP_COMMANDS.items() if issubclass(class_, UnkeyedChange)}
    assert 13 == sum(issubclass(class_, Change) for class_ in BLUESNAP_COMMANDS.values())
    assert 5 == sum(issubclass(class_, Read) for class_ in BLUESNAP_COMMANDS.values())


def test_each_class_says_itself_the_kind_under_which_it_stands_in_the_table():
    """The string is stored, and read back through the table."""
    assert dict(BLUESNAP_COMMANDS) == {class_.kind: class_ for class_ in BLUESNAP_COMMANDS.values()}


def test_every_kind_has_a_public_name_and_klarnas_names_stay_klarnas():
    """`worker.Capture` in a shop's code must not become another provider's from one release to the next."""
    assert {getattr(bluesnap, name) for name in bluesnap.__all__} == set(BLUESNAP_COMMANDS.values())
    assert worker.Capture is not bluesnap.Capture
    assert worker.Refund is not bluesnap.Refund


@pytest.mark.parametrize("kind", LEAST)
def test_the_reads_are_the_commands_that_say_they_read(kind):
    """Only these may be repeated without a key."""
    assert kind.startswith("read_") == command(kind).is_read


@pytest.mark.parametrize("kind", LEAST)
def test_a_kind_takes_no_less_than_it_needs(kind):
    """Each field that it needs is missed when it is not there; a capture without an amount would take everything."""
    for field in LEAST[kind]:
        fields = {name: value for name, value in LEAST[kind].items() if name != field}
        with pytest.raises(InvalidCommand) as refused:
            BLUESNAP_COMMANDS[kind](account="bluesnap-us", order_id="38486450", **fields)

        assert kind == refused.value.kind
        assert 1 == len(refused.value.problems)


@pytest.mark.parametrize("kind", LEAST)
def test_what_is_sent_bears_bluesnaps_names_and_nothing_of_ours(kind):
    """Account, reference and due_at are not part of the body; what has no body sends none."""
    sent = command(kind, reference="shipment-1", due_at="2030-01-31T09:00:00Z").body("key")

    assert BODIES.get(kind) == sent


@pytest.mark.parametrize("kind", LEAST)
def test_the_bytes_are_the_same_each_time(kind):
    """BlueSnap compares the body under a key, and refuses one that differs."""
    first = command(kind).payload("key")

    assert first == command(kind).payload("key")
    assert json.loads(first or b"null") == BODIES.get(kind)


@pytest.mark.parametrize("kind", sorted(UNKEYED))
@pytest.mark.parametrize("keyed", [True, False])
def test_a_change_that_no_key_protects_cannot_ask_for_one(kind, keyed):
    """Whoever writes keyed=True would believe that a repeat is harmless."""
    assert not command(kind).keyed
    assert ["keyed"] == list(refusal(kind, keyed=keyed))


@pytest.mark.parametrize("kind", sorted(set(BODIES) - UNKEYED))
def test_a_change_by_post_is_keyed_unless_it_says_otherwise(kind):
    """The key is what makes a repeat safe; to go without it has to be a decision."""
    assert command(kind).keyed
    assert not command(kind, keyed=False).keyed


@pytest.mark.parametrize("kind", LEAST)
@pytest.mark.parametrize("name", ["idempotency_key", "key"])
@pytest.mark.parametrize("value", ["own_key", "k" * 65, "own-key"])
def test_a_key_of_the_callers_own_is_refused(kind, name, value):
    """Keys are derived: one that BlueSnap would not take cannot come in."""
    assert [name] == list(refusal(kind, **{name: value}))


@pytest.mark.parametrize("kind", LEAST)
def test_the_derived_key_is_one_that_bluesnap_takes(kind):
    """At most 64 characters of letters, digits and hyphens; an underscore is an error there."""
    asked = command(kind)

    derived = str(
        key.idempotency_key(
            account=asked.account, kind=kind, order_id=asked.order_id, target=asked.target, reference="a_b"
        )
    )

    assert 36 == len(derived)
    assert derived.replace("-", "").isalnum()


# ---------------------------------------------------------------------------------------------------- amounts


@pytest.mark.parametrize("kind", PRICED)
@pytest.mark.parametrize("amount", [1, MAX_AMOUNT])
def test_an_amount_may_be_anything_from_1_up_to_the_limit(kind, amount):
    """Minor units, as with every provider."""
    assert amount == command(kind, amount=amount).amount


@pytest.mark.parametrize("kind", [*PRICED, "refund"])
@pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1, 1.0, 1.5, True, "1", "5.00", float("nan"), [1]])
def test_any_other_amount_is_refused(kind, amount):
    """Money is a whole number of minor units; a guess at what else was meant would be paid out."""
    assert "amount" in refusal(kind, amount=amount)


@pytest.mark.parametrize("kind", sorted({*PRICED, "refund"} - {"authorize"}))
def test_an_amount_of_0_is_refused(kind):
    """There is no capture and no refund of nothing."""
    assert ["amount"] == list(refusal(kind, amount=0, currency="USD"))


def test_an_authorisation_of_0_asks_whether_the_card_is_valid():
    """BlueSnap documents it."""
    assert "0.00" == command("authorize", amount=0).body("key")["amount"]


@pytest.mark.parametrize("kind", [*PRICED, "refund", "create_on_demand_subscription"])
@pytest.mark.parametrize(("currency", "text"), [("JPY", "1234"), ("USD", "12.34"), ("KWD", "1.234")])
def test_an_amount_is_sent_as_text_with_the_decimals_of_its_currency(kind, currency, text):
    """The one place where minor units become major ones."""
    assert text == command(kind, amount=1234, currency=currency).body("key")["amount"]


@pytest.mark.parametrize("kind", WITH_CURRENCY)
@pytest.mark.parametrize("currency", ["usd", "EURO", "XYZ", "XXX", "", " USD", 840, None, True, ["USD"]])
def test_an_unknown_currency_is_refused(kind, currency):
    """Where its decimal point stands is not known, so neither is what would be sent."""
    assert ["currency"] == list(refusal(kind, amount=1234, currency=currency))


@pytest.mark.parametrize("kind", ["capture", "refund"])
def test_the_currency_of_a_capture_or_refund_is_the_transactions_and_not_sent(kind):
    """BlueSnap takes that of the authorisation; ours decides where the decimal point stands."""
    assert "currency" not in command(kind, amount=500, currency="EUR").body("key")


@given(st.sampled_from(sorted(DECIMALS)), st.integers(1, MAX_AMOUNT))
def test_what_is_sent_is_what_was_given(currency, amount):
    """Nothing is rounded on the way to the bytes."""
    sent = json.loads(command("capture", amount=amount, currency=currency).payload("key"))

    assert amount == int(sent["amount"].replace(".", ""))


# ---------------------------------------------------------------------------------------------------- refunds


def test_a_refund_without_an_amount_is_of_all_that_is_left():
    """BlueSnap's own way to say so is to say nothing."""
    assert command("refund").amount is None
    assert "amount" not in command("refund").body("key")


def test_a_refund_of_an_amount_needs_its_currency():
    """Without it the amount cannot be written."""
    assert {"currency": "is required with an amount"} == refusal("refund", amount=500)


@pytest.mark.parametrize("asked", [False, True])
def test_a_refund_always_says_whether_the_subscription_ends(asked):
    """Left unsaid, BlueSnap would end it."""
    assert asked is command("refund", cancel_subscriptions=asked).body("key")["cancelSubscriptions"]
    assert command("refund").body("key")["cancelSubscriptions"] is False


@pytest.mark.parametrize("value", [None, "false", 0, 1])
def test_whether_the_subscription_ends_is_true_or_false(value):
    """A text "false" is true to many programs."""
    assert ["cancel_subscriptions"] == list(refusal("refund", cancel_subscriptions=value))


def test_the_tax_of_a_refund_is_a_part_of_its_amount():
    """It is written like the amount, and cannot be larger."""
    sent = command("refund", amount=500, currency="USD", tax_amount=50).body("key")

    assert ("5.00", "0.50") == (sent["amount"], sent["taxAmount"])
    assert ["tax_amount"] == list(refusal("refund", amount=500, currency="USD", tax_amount=501))
    assert ["tax_amount"] == list(refusal("refund", tax_amount=50))


# ---------------------------------------------------------------------------------------------------- who pays


@pytest.mark.parametrize("kind", ["authorize", "sale"])
def test_a_payment_is_by_a_shopper_or_a_token(kind):
    """Nothing else may pay, and without either nobody would."""
    by_token = command(kind, vaulted_shopper_id=None, payment_token="12e3c4_a=").body("key")

    assert "12e3c4_a=" == by_token["pfToken"]
    assert "vaultedShopperId" not in by_token
    assert [""] == list(refusal(kind, vaulted_shopper_id=None))


@pytest.mark.parametrize("kind", ["authorize", "sale"])
@pytest.mark.parametrize("name", ["paymentSource", "wallet", "walletId"])
def test_a_payment_takes_no_other_source(kind, name):
    """Card data hides in each of these."""
    assert [f"fields.{name}"] == list(refusal(kind, fields={name: {"a": "b"}}))


def test_one_of_several_stored_cards_can_be_chosen():
    """Its last four digits are no card number."""
    chosen = {"creditCard": {"cardLastFourDigits": "1111", "cardType": "VISA"}}

    assert chosen["creditCard"] == command("sale", fields=chosen).body("key")["creditCard"]


@pytest.mark.parametrize("kind", WITH_FIELDS)
@pytest.mark.parametrize(
    "card",
    [
        {"cardNumber": "4111"},
        {"securityCode": "111"},
        {"encryptedCardNumber": "$bsjs_0_1_1$x"},
        {"encryptedSecurityCode": "$bsjs_0_1_1$x"},
        {"cvv": "1"},
        {"note": "4111 1111 1111 1111"},
        {"note": 4111111111111111},
    ],
)
def test_card_data_is_refused_at_any_depth(kind, card):
    """It is never stored, not even in a table of commands."""
    (field,) = refusal(kind, fields={"a": [{"creditCard": card}]})

    assert f"fields.a.0.creditCard.{next(iter(card))}" == field


@pytest.mark.parametrize("kind", WITH_META)
def test_card_data_is_refused_in_the_metadata_too(kind):
    """Metadata is shown in reports."""
    assert ["meta_data.note"] == list(refusal(kind, meta_data={"note": "4111111111111111"}))


# ---------------------------------------------------------------------------------------------------- open fields


@pytest.mark.parametrize("kind", WITH_FIELDS)
def test_other_fields_of_bluesnaps_are_sent_as_given(kind):
    """What the API documents beyond our fields is not kept from anybody."""
    sent = command(kind, fields={"softDescriptor": "Shop", "a": [1, None, True, {"ä": "1.10"}]}).body("key")

    assert {"softDescriptor": "Shop", "a": [1, None, True, {"ä": "1.10"}]}.items() <= sent.items()


@pytest.mark.parametrize("kind", [kind for kind in WITH_FIELDS if LEAST[kind] is not RECORD and kind != "keyed_post"])
def test_no_field_is_written_twice(kind):
    """An amount in `fields` would hide the one that people and metrics see."""
    written = set(command(kind, **({"amount": 5, "currency": "USD"} if kind == "refund" else {})).body("key"))
    for name in written:
        assert [f"fields.{name}"] == list(refusal(kind, fields={name: "x"}))


@pytest.mark.parametrize("kind", WITH_FIELDS)
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([], "object"),
        ("text", "object"),
        ({}, "empty"),
        ({1: "a"}, "not text"),
        ({"a": 1.5}, "fraction"),
        ({"a": float("nan")}, "fraction"),
        ({"a": b"x"}, "only text"),
        ({"a": {1, 2}}, "only text"),
        ({"a": 2**63}, "only text"),
        ({"a": "\ud800"}, "UTF-8"),
    ],
)
def test_fields_are_json_and_exact(kind, fields, why):
    """The bytes are fixed when the command is stored, and a float is not what was written."""
    assert why in refusal(kind, fields=fields)["fields"]


def test_fields_may_not_be_nested_without_end():
    """Somebody else's parser has a smaller stack."""
    deep = {"a": "x"}
    for _ in range(100_000):
        deep = {"a": deep}

    assert "nested deeper" in refusal("create_vendor", fields=deep)["fields"]


def test_what_the_caller_changes_later_does_not_change_the_command():
    """It was checked as it was."""
    fields = {"a": {"b": "c"}}
    asked = command("create_vendor", fields=fields)

    fields["a"]["cardNumber"] = "4111111111111111"

    assert {"a": {"b": "c"}} == asked.body("key")


def test_nothing_that_was_given_shows_in_a_repr():
    """A shopper's name is somebody's."""
    shown = repr(command("create_shopper", fields={"firstName": "Canary"})) + str(command("create_shopper"))

    assert "Canary" not in shown
    assert "Gold" not in shown


# ---------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("kind", WITH_META)
def test_the_key_stands_in_the_metadata_before_the_callers_own(kind):
    """A read finds the command by it."""
    sent = command(kind, meta_data={"parcel": "7"}).body("0b1c")["transactionMetaData"]["metaData"]

    assert [
        {"metaKey": "post-purchase-key", "metaValue": "0b1c"},
        {"metaKey": "parcel", "metaValue": "7"},
    ] == sent


def test_the_name_of_the_key_in_the_metadata_fits():
    """BlueSnap takes names of 40 and values of 500 characters."""
    assert len(META_KEY) <= 40


@pytest.mark.parametrize("kind", WITH_META)
@pytest.mark.parametrize(
    "meta_data",
    [
        {"": "x"},
        {"n" * 41: "x"},
        {"n": "x" * 501},
        {META_KEY: "x"},
        {"n": 1},
        {1: "x"},
        [("n", "x")],
        "text",
        {"n": "\ud800"},
        {str(number): "x" for number in range(20)},
    ],
)
def test_metadata_beyond_bluesnaps_limits_is_refused(kind, meta_data):
    """And so is a second entry under the name of the key."""
    assert ["meta_data"] == list(refusal(kind, meta_data=meta_data))


def test_metadata_up_to_bluesnaps_limits_is_taken():
    """Twenty entries in all, one of them ours."""
    entries = {str(number).ljust(40, "n"): "x" * 500 for number in range(19)}

    sent = command("capture", meta_data=entries).body("key")["transactionMetaData"]["metaData"]

    assert 20 == len(sent)


# ---------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("kind", "field", "limit"),
    [
        ("refund", "reason", 4000),
        ("sale", "merchant_transaction_id", 50),
        ("authorize", "merchant_transaction_id", 50),
        ("create_alt_transaction", "merchant_transaction_id", 50),
        ("create_on_demand_subscription", "merchant_transaction_id", 50),
        ("charge_on_demand_subscription", "merchant_transaction_id", 50),
        ("sale", "payment_token", 255),
        ("capture", "order_id", 255),
        ("capture", "reference", 255),
    ],
)
def test_a_text_may_be_as_long_as_documented_and_no_longer(kind, field, limit):
    """What BlueSnap would refuse is refused here, before it is stored."""
    command(kind, **{field: "x" * limit})

    for value in ("x" * (limit + 1), "", 1, b"x", "\ud800"):
        assert [field] == list(refusal(kind, **{field: value}))


@pytest.mark.parametrize("kind", LEAST)
@pytest.mark.parametrize("order_id", ["", ".", "..", "a/b", "a?b", "a#b", "a b", "a%2Fb", "a,b", "ä", "1..2"])
def test_an_order_must_be_safe_in_a_path(kind, order_id):
    """It becomes one segment of it, and nothing else."""
    assert ["order_id"] == list(refusal(kind, order_id=order_id))


# ---------------------------------------------------------------------------------------------------- any keyed post


@pytest.mark.parametrize("path", KEYED_PATHS)
def test_a_listed_path_may_be_posted_to(path):
    """The list is data; an id stands where it has braces."""
    assert path.format(id="123") == command("keyed_post", path=path.format(id="123")).target


@pytest.mark.parametrize(
    "path",
    [
        "/transactions",
        "/transactions/refund/1",
        "/transactions/refund/merchant/1",
        "/services/2/vendors",
        "vendors",
        "/vendors/",
        "/vendors/1",
        "/vendors?x=1",
        "/vendors#x",
        "/recurring/ondemand/",
        "/recurring/ondemand/1/2",
        "/recurring/ondemand/..",
        "/recurring/ondemand/.",
        "/recurring/ondemand/%2e%2e",
        "/recurring/ondemand/../vendors",
        "/subscriptions//subscription-charges",
        "/subscriptions/{id}/subscription-charges",
        "//host/vendors",
        "https://host/vendors",
        "/vendors\n",
        "",
        1,
    ],
)
def test_no_other_path_is_taken(path):
    """On another path a key may do nothing; transactions and refunds have kinds that guard against their traps."""
    assert ["path"] == list(refusal("keyed_post", path=path))


def test_a_query_is_written_in_one_way_and_is_part_of_the_target():
    """BlueSnap compares it under a key, so two spellings of one query would be a conflict."""
    first = command("keyed_post", query={"b": "x y&z", "a": "ä"})
    second = command("keyed_post", query={"a": "ä", "b": "x y&z"})

    assert "/vendors?a=%C3%A4&b=x%20y%26z" == first.target
    assert first.target == second.target


@pytest.mark.parametrize(
    "query", [[], "a=b", {"": "x"}, {"a b": "x"}, {"1a": "x"}, {"a": "x\ny"}, {"a": 1}, {1: "a"}, {"a": "\ud800"}]
)
def test_any_other_query_is_refused(query):
    """It goes into a URL."""
    assert ["query"] == list(refusal("keyed_post", query=query))


def test_path_and_query_fit_their_column():
    """A target is stored, and one that is cut off is another."""
    command("keyed_post", query={"a": "x" * (255 - len("/vendors?a="))})

    assert ["query"] == list(refusal("keyed_post", query={"a": "x" * (256 - len("/vendors?a="))}))


def test_a_card_number_in_a_query_is_refused():
    """URLs are logged everywhere."""
    assert ["query.a"] == list(refusal("keyed_post", query={"a": "4111111111111111"}))
