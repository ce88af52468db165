from datetime import UTC, datetime, timedelta

import pytest

DAY = 86_400


def named(answer):
    return answer.status, [message.get("errorName") for message in answer.json["message"]]


def state(transaction):
    return tuple(transaction[name] for name in ("cardTransactionType", "amount", "openToCapture"))


def pending(sandbox, blue_shop, transaction_id, amount="4.00"):
    sandbox.switch(bluesnap_refund_status="PENDING")

    return blue_shop.refund(transaction_id, amount).json["refundTransactionId"]


# ----------------------------------------------------------------------------------------- authorize and capture


def test_an_authorization_is_open_to_capture(sandbox, blue_shop):
    """What is open is what a read-back compares before and after."""
    answer = blue_shop.authorize("10.00", merchantTransactionId="invoice-17")

    read = blue_shop.read(answer.json["transactionId"]).json
    assert answer.json == read
    assert ("AUTH_ONLY", "10.00", "10.00") == state(read)
    assert ("USD", "SUCCESS", 7, "invoice-17") == (
        read["currency"],
        read["processingInfo"]["processingStatus"],
        read["vaultedShopperId"],
        read["merchantTransactionId"],
    )
    assert "refunds" not in read


def test_a_sale_is_captured_from_its_beginning(blue_shop):
    """Nothing of it is open, so a capture finds it captured already."""
    sale = blue_shop.authorize("10.00", kind="AUTH_CAPTURE").json

    captured = blue_shop.capture(sale["transactionId"])

    assert ("AUTH_CAPTURE", "10.00", "0.00") == state(sale)
    assert (400, ["TRANSACTION_ALREADY_CAPTURED"]) == named(captured)


def test_an_authorization_of_nothing_is_taken_and_a_sale_of_nothing_is_not(blue_shop):
    """The first asks whether a card is valid; the second would be a payment that nobody makes."""
    asked, sold = blue_shop.authorize("0.00"), blue_shop.authorize("0.00", kind="AUTH_CAPTURE")

    assert (200, "0.00", "0.00") == (asked.status, asked.json["amount"], asked.json["openToCapture"])
    assert (400, ["VALIDATION_GENERAL_FAILURE"]) == named(sold)


def test_a_token_stands_for_a_shopper(blue_shop):
    """Either will do, and neither is a card."""
    answer = blue_shop.authorize(vaultedShopperId=None, pfToken="token-1")

    assert 200 == answer.status


def test_without_a_shopper_or_a_token_nothing_is_authorized(sandbox, blue_shop):
    """A card number in its place is refused too: it must never get this far."""
    answer = blue_shop.authorize(vaultedShopperId=None, creditCard={"cardNumber": "4111111111111111"})

    assert (400, ["MISSING_SHOPPER_OR_CARD_HOLDER"]) == named(answer)
    assert [] == sandbox.effects()


def test_a_capture_keeps_the_id_of_its_authorization(sandbox, blue_shop, transaction_id):
    """There is no id of a capture by which a second one could be told from the first."""
    answer = blue_shop.capture(transaction_id, "4.00")

    assert (transaction_id, "CAPTURE", "4.00", "6.00") == (answer.json["transactionId"], *state(answer.json))
    [effect] = sandbox.effects()
    assert ("capture", transaction_id, "4.00", transaction_id, None) == tuple(
        effect[name] for name in ("kind", "order_id", "amount", "id", "key")
    )


def test_parts_are_captured_until_nothing_is_open(blue_shop, transaction_id):
    """A total and what is left must always add up to what was authorized."""
    seen = []
    for amount in ("4.00", "5.99", "0.01"):
        answer = blue_shop.capture(transaction_id, amount)
        seen.append((answer.json["amount"], state(blue_shop.read(transaction_id).json)))
    more = blue_shop.capture(transaction_id, "0.01")

    assert [
        ("4.00", ("CAPTURE", "4.00", "6.00")),
        ("5.99", ("CAPTURE", "9.99", "0.01")),
        ("0.01", ("CAPTURE", "10.00", "0.00")),
    ] == seen
    assert (400, ["TRANSACTION_ALREADY_CAPTURED"]) == named(more)


def test_two_equal_partial_captures_are_two_effects(sandbox, blue_shop, transaction_id):
    """Nothing at the provider stops a repeat of 5.00 on 10.00: no key, and no refusal."""
    answers = [blue_shop.capture(transaction_id, "5.00", key="key-1") for _ in range(2)]

    assert [200, 200] == [answer.status for answer in answers]
    assert ["5.00", "5.00"] == [effect["amount"] for effect in sandbox.effects()]


def test_a_capture_without_an_amount_takes_the_whole_authorization(sandbox, blue_shop, transaction_id):
    """The trap: a partial capture that forgets its amount takes everything."""
    answer = blue_shop.capture(transaction_id)

    assert ("CAPTURE", "10.00", "0.00") == state(answer.json)
    assert ["10.00"] == [effect["amount"] for effect in sandbox.effects()]


def test_a_second_full_capture_finds_it_captured_already(sandbox, blue_shop, transaction_id):
    """After a lost reply this refusal may mean success."""
    blue_shop.capture(transaction_id, "10.00")

    again = blue_shop.capture(transaction_id, "10.00")

    [message] = again.json["message"]
    assert (400, "TRANSACTION_ALREADY_CAPTURED", "20010") == (again.status, message["errorName"], message["code"])
    assert 1 == len(sandbox.effects())


@pytest.mark.parametrize("amount", ["10.01", "6.01", "0.00", "0"])
def test_a_capture_takes_more_than_nothing_and_no_more_than_is_open(sandbox, blue_shop, transaction_id, amount):
    """The refusal names the field that is to blame."""
    blue_shop.capture(transaction_id, "4.00")

    answer = blue_shop.capture(transaction_id, amount)

    assert (400, ["VALIDATION_GENERAL_FAILURE"]) == named(answer)
    assert {"name": "amount"} == answer.json["message"][0]["invalidProperty"]
    assert 1 == len(sandbox.effects())


def test_a_capture_by_post_is_a_wrong_verb(sandbox, blue_shop, transaction_id):
    """One published client does exactly that."""
    body = {"cardTransactionType": "CAPTURE", "transactionId": transaction_id, "amount": "1.00"}

    answer = blue_shop.call("POST", "transactions", body)

    [message] = answer.json["message"]
    assert (400, "INVALID_HTTP_METHOD", "85") == (answer.status, message["errorName"], message["code"])
    assert [] == sandbox.effects()


@pytest.mark.parametrize(
    ("method", "card_type", "name"),
    [
        ("PUT", "AUTH_ONLY", "INVALID_HTTP_METHOD"),
        ("POST", "AUTH_REVERSAL", "INVALID_HTTP_METHOD"),
        ("PUT", "REFUND", "INVALID_TRANSACTION_TYPE"),
        ("POST", None, "INVALID_TRANSACTION_TYPE"),
        ("POST", ["CAPTURE"], "INVALID_TRANSACTION_TYPE"),
    ],
)
def test_each_type_has_its_verb(blue_shop, method, card_type, name):
    """An unknown type is told from a known one with the wrong verb."""
    answer = blue_shop.call(method, "transactions", {"cardTransactionType": card_type})

    assert (400, [name]) == named(answer)


def test_a_capture_needs_to_name_its_transaction(blue_shop):
    """By its id, or by the merchant's."""
    answer = blue_shop.call("PUT", "transactions", {"cardTransactionType": "CAPTURE", "amount": "1.00"})

    assert (400, ["TRANSACTION_ID_REQUIRED"]) == named(answer)


def test_a_transaction_may_be_named_by_the_merchants_own_id(sandbox, blue_shop):
    """It is the only way to find what a lost reply to an authorization has made."""
    made = blue_shop.authorize(merchantTransactionId="invoice-17").json["transactionId"]

    read = blue_shop.read("invoice-17,456").json
    reversed_ = blue_shop.call(
        "PUT", "transactions", {"cardTransactionType": "AUTH_REVERSAL", "merchantTransactionId": "invoice-17"}
    ).json

    assert made == read["transactionId"] == reversed_["transactionId"]


def test_two_transactions_with_one_merchants_id_cannot_be_told_apart(blue_shop):
    """A merchant's id is no key: BlueSnap lets it be used twice."""
    for _ in range(2):
        blue_shop.authorize(merchantTransactionId="invoice-17")

    answer = blue_shop.read("invoice-17,456")

    assert (400, ["MULTIPLE_TRANSACTIONS_FOUND"]) == named(answer)


# --------------------------------------------------------------------------------------------- reverse and expire


def test_a_reversal_lets_the_authorization_go(sandbox, blue_shop, transaction_id):
    """What was reversed cannot be captured, and cannot be reversed again."""
    reversed_ = blue_shop.reverse(transaction_id)
    again = blue_shop.reverse(transaction_id)
    captured = blue_shop.capture(transaction_id, "1.00")

    assert ("AUTH_REVERSAL", "10.00", "0.00") == state(reversed_.json)
    assert (400, ["AUTHORIZATION_AMOUNT_ALREADY_REVERSED"]) == named(again) == named(captured)
    assert [("auth_reversal", "10.00")] == [(effect["kind"], effect["amount"]) for effect in sandbox.effects()]


@pytest.mark.parametrize("amount", ["4.00", "10.00"])
def test_what_is_captured_cannot_be_reversed(blue_shop, transaction_id, amount):
    """There a refund is the way back."""
    blue_shop.capture(transaction_id, amount)

    answer = blue_shop.reverse(transaction_id)

    assert (400, ["TRANSACTION_ALREADY_CAPTURED"]) == named(answer)


def test_an_authorization_is_reversed_within_eight_days(sandbox, blue_shop, transaction_id):
    """It can still be captured afterwards, but not let go."""
    sandbox.advance(8 * DAY)

    reversed_ = blue_shop.reverse(transaction_id)
    captured = blue_shop.capture(transaction_id, "1.00")

    assert (400, ["AUTHORIZATION_EXPIRED"]) == named(reversed_)
    assert 200 == captured.status


def test_an_authorization_expires_and_what_was_captured_in_time_stays(sandbox, blue_shop, transaction_id):
    """Expiry takes the authorization, not the money."""
    blue_shop.capture(transaction_id, "4.00")
    sandbox.advance(10 * DAY)

    late = blue_shop.capture(transaction_id, "1.00")

    assert (400, ["AUTHORIZATION_EXPIRED"]) == named(late)
    assert ("CAPTURE", "4.00", "0.00") == state(blue_shop.read(transaction_id).json)
    assert 200 == blue_shop.refund(transaction_id, "4.00").status


# ---------------------------------------------------------------------------------------------------------- refund


def test_a_refund_has_an_id_of_its_own_and_is_listed(blue_shop, sale_id):
    """The list and its balance are what a read-back goes by."""
    refunded = blue_shop.refund(sale_id, "4.00", reason="returned").json
    read = blue_shop.read(sale_id).json

    assert ("4.00", "SUCCESS", "returned") == (refunded["amount"], refunded["refundStatus"], refunded["reason"])
    assert isinstance(refunded["refundTransactionId"], int)
    [entry] = read["refunds"]["refund"]
    assert (refunded["refundTransactionId"], "4.00", "USD", "SUCCESS") == tuple(
        entry[name] for name in ("refundTransactionId", "amount", "currency", "refundStatus")
    )
    assert "6.00" == read["refunds"]["balanceAmount"]


def test_a_read_of_a_refunds_own_id_shows_the_refund(blue_shop, sale_id):
    """There its metadata and its reason are, which the list does not show."""
    metadata = {"metaData": [{"metaKey": "command", "metaValue": "command-1"}]}
    refund_id = blue_shop.refund(sale_id, "4.00", reason="returned", transactionMetaData=metadata).json[
        "refundTransactionId"
    ]

    read = blue_shop.read(refund_id).json
    [entry] = blue_shop.read(sale_id).json["refunds"]["refund"]

    assert ("REFUND", str(refund_id), "4.00", "returned", metadata) == tuple(
        read[name] for name in ("cardTransactionType", "transactionId", "amount", "reason", "transactionMetaData")
    )
    assert {"reason", "transactionMetaData"}.isdisjoint(entry)


def test_the_list_may_show_what_the_refunds_own_read_shows(sandbox, blue_shop, sale_id):
    """Nobody has written down which of the two BlueSnap does, so both must be had."""
    metadata = {"metaData": [{"metaKey": "command", "metaValue": "command-1"}]}
    blue_shop.refund(sale_id, "4.00", reason="returned", transactionMetaData=metadata)
    sandbox.switch(bluesnap_refund_details=True)

    [entry] = blue_shop.read(sale_id).json["refunds"]["refund"]

    assert ("returned", metadata) == (entry["reason"], entry["transactionMetaData"])


def test_a_refund_without_an_amount_gives_back_the_rest(sandbox, blue_shop, sale_id):
    """A repeat of a full refund after a partial one is smaller than the first."""
    blue_shop.refund(sale_id, "4.00")

    rest = blue_shop.refund(sale_id)

    assert "6.00" == rest.json["amount"]
    assert ["4.00", "6.00"] == [effect["amount"] for effect in sandbox.effects()]


def test_a_refund_without_a_body_is_a_full_one(blue_shop, sale_id):
    """Every field of it is optional."""
    answer = blue_shop.call("POST", f"transactions/refund/{sale_id}")

    assert "10.00" == answer.json["amount"]


@pytest.mark.parametrize(("told", "cancels"), [({}, True), ({"cancelSubscriptions": False}, False)])
def test_a_refund_cancels_subscriptions_unless_told_otherwise(sandbox, blue_shop, sale_id, told, cancels):
    """The trap: who says nothing ends the buyer's subscription, so the ledger tells what was done."""
    blue_shop.refund(sale_id, "1.00", **told)

    [effect] = sandbox.effects()
    assert {"cancelSubscriptions": cancels, "refundStatus": "SUCCESS"} == effect["details"]


@pytest.mark.parametrize(
    ("amounts", "error"),
    [
        (["10.01"], ("REFUND_MAX_AMOUNT_FAILURE", "14006")),
        (["4.00", "6.01"], ("REFUND_MAX_AMOUNT_FAILURE", "14006")),
        (["0.00"], ("REFUND_MIN_AMOUNT_FAILURE", "14005")),
        (["10.00", "1.00"], ("INVOICE_ALREADY_REFUNDED", "14009")),
        (["10.00", None], ("INVOICE_ALREADY_REFUNDED", "14009")),
        (["4.00", "6.00", "1.00"], ("INVOICE_ALREADY_FULLY_REFUNDED", "14022")),
        (["4.00", "6.00", None], ("INVOICE_ALREADY_FULLY_REFUNDED", "14022")),
    ],
)
def test_no_more_is_refunded_than_was_captured(sandbox, blue_shop, sale_id, amounts, error):
    """After a lost reply these refusals may mean success."""
    *earlier, last = [blue_shop.refund(sale_id, amount) for amount in amounts]

    [message] = last.json["message"]
    assert (400, *error) == (last.status, message["errorName"], message["code"])
    assert len(earlier) == len(sandbox.effects())


def test_what_is_not_captured_cannot_be_refunded_yet(blue_shop, transaction_id):
    """The same name may mean that a sale is not cleared yet, and then later it works."""
    answer = blue_shop.refund(transaction_id, "1.00")

    assert (400, ["REFUND_GENERAL_FAILURE"]) == named(answer)


def test_a_sale_of_two_years_ago_cannot_be_refunded(sandbox, blue_shop, sale_id):
    """Then money goes back some other way."""
    sandbox.advance(730 * DAY)

    answer = blue_shop.refund(sale_id, "1.00")

    assert (400, ["REFUND_PERIOD_EXPIRED"]) == named(answer)


def test_the_older_answer_to_a_refund_is_its_id_alone(sandbox, blue_shop, sale_id):
    """An absent status is no failure."""
    sandbox.switch(bluesnap_refund_status=None)

    answer = blue_shop.refund(sale_id, "4.00")

    assert (200, {"refundTransactionId"}) == (answer.status, set(answer.json))
    [entry] = blue_shop.read(sale_id).json["refunds"]["refund"]
    assert "refundStatus" not in entry


# -------------------------------------------------------------------------------------------------- pending refund


@pytest.mark.parametrize(("ends", "balance"), [("SUCCESS", "6.00"), ("FAIL", "10.00")])
def test_a_pending_refund_is_settled_by_time(sandbox, blue_shop, sale_id, ends, balance):
    """Pending counts as done, until it is known how it ended."""
    sandbox.switch(bluesnap_pending_hours=48, bluesnap_pending_ends=ends)
    refund_id = pending(sandbox, blue_shop, sale_id)

    before = blue_shop.read(sale_id).json["refunds"]
    sandbox.advance(2 * DAY)
    after = blue_shop.read(sale_id).json["refunds"]

    assert ("PENDING", "6.00") == (before["refund"][0]["refundStatus"], before["balanceAmount"])
    assert (ends, balance) == (after["refund"][0]["refundStatus"], after["balanceAmount"])
    assert ends == blue_shop.read(refund_id).json["processingInfo"]["processingStatus"]


@pytest.mark.parametrize("named_by", ["transaction", "refund"])
def test_a_pending_refund_can_be_cancelled_once(sandbox, blue_shop, sale_id, named_by):
    """A repeat finds nothing to cancel, and that may mean that the first one worked."""
    refund_id = pending(sandbox, blue_shop, sale_id)
    target = sale_id if named_by == "transaction" else refund_id

    first = blue_shop.cancel_refund(target, key="key-1")
    second = blue_shop.cancel_refund(target, key="key-1")

    assert (200, b"") == (first.status, first.body)
    assert (400, ["REFUND_GENERAL_FAILURE"]) == named(second)
    refunds = blue_shop.read(sale_id).json["refunds"]
    assert (["CANCELLED"], "10.00") == ([each["refundStatus"] for each in refunds["refund"]], refunds["balanceAmount"])
    effect = sandbox.effects()[-1]
    assert ("cancel_pending_refund", sale_id, "4.00", str(refund_id), None) == tuple(
        effect[name] for name in ("kind", "order_id", "amount", "id", "key")
    )


def test_a_settled_refund_cannot_be_cancelled(sandbox, blue_shop, sale_id):
    """The money is on its way."""
    refund_id = pending(sandbox, blue_shop, sale_id)
    sandbox.advance(3 * DAY)

    answer = blue_shop.cancel_refund(refund_id)

    assert (400, ["REFUND_GENERAL_FAILURE"]) == named(answer)


def test_while_a_refund_is_pending_no_other_is_taken(sandbox, blue_shop, sale_id):
    """Later it works."""
    pending(sandbox, blue_shop, sale_id)

    now = blue_shop.refund(sale_id, "1.00")
    sandbox.advance(3 * DAY)
    later = blue_shop.refund(sale_id, "1.00")

    assert (400, ["REFUND_IN_PROCESS"]) == named(now)
    assert 200 == later.status


# ---------------------------------------------------------------------------------------------------------- amounts


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [
        ("USD", "12.34", "12.34"),
        ("USD", "12.3", "12.30"),
        ("USD", "12", "12.00"),
        ("JPY", "1234", "1234"),
        ("KWD", "1.234", "1.234"),
        ("KWD", "999999999999.999", "999999999999.999"),
        ("USD", "0.10", "0.10"),
    ],
)
def test_amounts_are_decimal_text_with_the_digits_of_the_currency(sandbox, blue_shop, currency, amount, shown):
    """Exact both ways; a float would lose the smallest unit of a large amount."""
    transaction_id = blue_shop.authorize(amount, currency=currency).json["transactionId"]

    captured = blue_shop.capture(transaction_id, amount)

    assert shown == captured.json["amount"]
    assert [shown, shown] == [effect["amount"] for effect in sandbox.effects()]


@pytest.mark.parametrize(
    ("currency", "amount"),
    [
        ("USD", "1.234"),
        ("JPY", "1.0"),
        ("KWD", "1.2345"),
        ("USD", "-1.00"),
        ("USD", "+1.00"),
        ("USD", "1e2"),
        ("USD", "1,00"),
        ("USD", " 1.00"),
        ("USD", ".50"),
        ("USD", "1."),
        ("USD", "NaN"),
        ("USD", "Infinity"),
        ("USD", "٣.00"),
        ("USD", ""),
        ("USD", "1" * 21),
        ("USD", 1),
        ("USD", 1.5),
        ("USD", True),
        ("USD", None),
        ("USD", ["1.00"]),
        ("usd", "1.00"),
        ("DOLLAR", "1.00"),
        (None, "1.00"),
        (840, "1.00"),
    ],
)
def test_any_other_amount_or_currency_is_refused(sandbox, blue_shop, currency, amount):
    """What an adapter must not send must not get through here."""
    answer = blue_shop.authorize(amount, currency=currency)

    assert (400, ["VALIDATION_GENERAL_FAILURE"]) == named(answer)
    assert [] == sandbox.effects()


def test_ten_captures_of_a_tenth_leave_nothing(blue_shop):
    """Ten times 0.10 is not 1.00 in binary."""
    transaction_id = blue_shop.authorize("1.00").json["transactionId"]

    answers = [blue_shop.capture(transaction_id, "0.10") for _ in range(10)]

    assert ["0.90", "0.80", "0.70", "0.60", "0.50", "0.40", "0.30", "0.20", "0.10", "0.00"] == [
        answer.json["openToCapture"] for answer in answers
    ]


def test_amounts_may_be_shown_as_numbers(sandbox, blue_shop, sale_id):
    """Public answers have them so, and a client that reads floats gets them wrong."""
    sandbox.switch(bluesnap_amounts="number")

    refunded = blue_shop.refund(sale_id, "0.10")
    read = blue_shop.read(sale_id)

    assert b'"amount":0.1,' in refunded.body
    assert (b'"amount":10,' in read.body, b'"balanceAmount":9.9}' in read.body) == (True, True)


# --------------------------------------------------------------------------------------------------------- metadata


def test_metadata_of_every_change_is_kept_and_the_same_key_is_replaced(blue_shop):
    """A read-back finds a capture by what it put there."""

    def metadata(**entries):
        return {"metaData": [{"metaKey": name, "metaValue": value} for name, value in entries.items()]}

    made = blue_shop.authorize(transactionMetaData=metadata(a="1", b="1")).json["transactionId"]
    blue_shop.capture(made, "1.00", transactionMetaData=metadata(b="2", c="2"))
    blue_shop.capture(made, "1.00")

    assert metadata(a="1", b="2", c="2") == blue_shop.read(made).json["transactionMetaData"]


def test_the_ledger_takes_the_first_metadata_for_the_reference(sandbox, blue_shop, transaction_id, sale_id):
    """So that effects can be counted by command."""
    metadata = {"metaData": [{"metaKey": "command", "metaValue": "command-1"}, {"metaKey": "x", "metaValue": "y"}]}

    blue_shop.capture(transaction_id, "1.00", transactionMetaData=metadata)
    blue_shop.refund(sale_id, "1.00", transactionMetaData=metadata)
    blue_shop.authorize(merchantTransactionId="invoice-17")

    assert ["command-1", "command-1", "invoice-17"] == [effect["reference"] for effect in sandbox.effects()]


ENTRY = {"metaKey": "a", "metaValue": "1"}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"transactionMetaData": []}, "transactionMetaData"),
        ({"transactionMetaData": {"metaData": {}}}, "transactionMetaData.metaData"),
        ({"transactionMetaData": {"metaData": [ENTRY] * 21}}, "transactionMetaData.metaData"),
        ({"transactionMetaData": {"metaData": [{"metaValue": "1"}]}}, "transactionMetaData.metaData[0].metaKey"),
        (
            {"transactionMetaData": {"metaData": [{**ENTRY, "metaKey": "k" * 41}]}},
            "transactionMetaData.metaData[0].metaKey",
        ),
        (
            {"transactionMetaData": {"metaData": [{**ENTRY, "metaValue": "v" * 501}]}},
            "transactionMetaData.metaData[0].metaValue",
        ),
        (
            {"transactionMetaData": {"metaData": [{**ENTRY, "metaDescription": "d" * 41}]}},
            "transactionMetaData.metaData[0].metaDescription",
        ),
        ({"merchantTransactionId": "m" * 51}, "merchantTransactionId"),
        ({"merchantTransactionId": ""}, "merchantTransactionId"),
        ({"softDescriptor": "s" * 21}, "softDescriptor"),
        ({"transactionId": True}, "transactionId"),
    ],
)
def test_fields_outside_the_documented_limits_are_named(sandbox, blue_shop, transaction_id, fields, place):
    """The property to blame is half of the fix."""
    answer = blue_shop.capture(transaction_id, "1.00", **fields)

    [message] = answer.json["message"]
    assert (400, "10001", place) == (answer.status, message["code"], message["invalidProperty"]["name"])
    assert [] == sandbox.effects()


@pytest.mark.parametrize("fields", [{"reason": "r" * 4_001}, {"cancelSubscriptions": "false"}, {"reason": 17}])
def test_fields_of_a_refund_have_their_limits_too(sandbox, blue_shop, sale_id, fields):
    """A flag as text would be read as its opposite."""
    answer = blue_shop.refund(sale_id, "1.00", **fields)

    assert (400, ["VALIDATION_GENERAL_FAILURE"]) == named(answer)
    assert [] == sandbox.effects()


def test_all_that_is_wrong_is_listed_at_once(blue_shop):
    """A list of messages must not break a client that expects one."""
    answer = blue_shop.authorize(1, currency=None, softDescriptor="s" * 21)

    assert ["currency", "amount", "softDescriptor"] == [
        message["invalidProperty"]["name"] for message in answer.json["message"]
    ]


# ----------------------------------------------------------------------------------------------------------- errors


def test_an_error_has_name_code_and_description_in_a_list(blue_shop, transaction_id):
    """This is the usual form."""
    answer = blue_shop.capture(transaction_id, "99.00")

    [message] = answer.json["message"]
    assert ("application/json", {"errorName", "code", "description", "invalidProperty"}) == (
        answer.headers["Content-Type"],
        set(message),
    )


def test_the_code_may_be_a_number(sandbox, blue_shop, sale_id):
    """Both were seen, so a client must go by the name."""
    as_text = blue_shop.capture(sale_id).json["message"][0]["code"]
    sandbox.switch(bluesnap_codes="number")
    as_number = blue_shop.capture(sale_id).json["message"][0]["code"]

    assert ("20010", 20010) == (as_text, as_number)


@pytest.mark.parametrize("accept", [None, "*/*", "application/xml"])
def test_who_does_not_accept_json_gets_errors_in_xml(blue_shop, sale_id, accept):
    """Without the header the error's form is anybody's guess."""
    answer = blue_shop.call(
        "PUT", "transactions", {"cardTransactionType": "CAPTURE", "transactionId": sale_id}, Accept=accept
    )

    assert (400, "application/xml") == (answer.status, answer.headers["Content-Type"])
    assert b"<error-name>TRANSACTION_ALREADY_CAPTURED</error-name><code>20010</code>" in answer.body


def test_a_body_above_the_limit_is_refused_with_a_page(sandbox, blue_shop):
    """It never reached the API."""
    answer = blue_shop.call("POST", "vaulted-shoppers", {"name": "n" * 1_000_001})

    assert (413, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert [] == sandbox.effects()


def test_a_transaction_may_be_given_its_moment_of_expiry(driver, sandbox, blue_shop):
    """Tests of expiry should not have to count days."""
    made = driver.create_transaction(expires_at=datetime.now(UTC) + timedelta(hours=1))["transactionId"]
    driver.advance(3_601)

    assert (400, ["AUTHORIZATION_EXPIRED"]) == named(blue_shop.capture(made))
