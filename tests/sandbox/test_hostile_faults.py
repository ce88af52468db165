"""Faults that make a read lie or change the world behind the client's back, at both providers."""

import re

import pytest

from worker.sandbox import SandboxError

DAY = 86_400


class KlarnaOrder:
    """An order of 100.00 at Klarna, in the words that the tests below use for both providers."""

    provider = "klarna"
    refused = (403, "CAPTURE_NOT_ALLOWED")

    def __init__(self, sandbox, shop, *, captured=False):
        self.sandbox, self.shop = sandbox, shop
        self.id = sandbox.create_order(amount=10_000, status="CAPTURED" if captured else "AUTHORIZED")["order_id"]

    def capture(self, units, *, key=None):
        return self.shop.capture(self.id, units, key=key)

    def refund(self, units, *, key=None):
        return self.shop.refund(self.id, units, key=key)

    def read(self):
        return self.shop.order(self.id)

    def captured(self):
        return self.read().json["captured_amount"]

    def refund_ids(self):
        return [refund["refund_id"] for refund in self.read().json["refunds"]]

    def review(self):
        return self.read().json["fraud_status"]

    def error(self, answer):
        return answer.status, answer.json["error_code"]

    def amount(self, units):
        return units


class BlueSnapTransaction:
    """A transaction of 100.00 at BlueSnap, in the same words."""

    provider = "bluesnap"

    def __init__(self, sandbox, shop, *, captured=False):
        self.sandbox, self.shop = sandbox, shop
        self.id = sandbox.create_transaction(amount="100.00", captured=captured)["transactionId"]

    def capture(self, units, *, key=None):
        return self.shop.capture(self.id, self.amount(units), key=key)

    def refund(self, units, *, key=None):
        return self.shop.refund(self.id, self.amount(units), key=key)

    def read(self):
        return self.shop.read(self.id)

    def captured(self):
        read = self.read().json
        return round(float(read["amount"]) * 100) if read["cardTransactionType"] == "CAPTURE" else 0

    def refund_ids(self):
        return [refund["refundTransactionId"] for refund in self.read().json.get("refunds", {}).get("refund", [])]

    def review(self):
        return self.read().json["processingInfo"]["processingStatus"]

    def error(self, answer):
        return answer.status, answer.json["message"][0]["errorName"]

    def amount(self, units):
        return f"{units / 100:.2f}"


@pytest.fixture(params=["klarna", "bluesnap"])
def make_order(request, sandbox, shop, blue_shop):
    if request.param == "klarna":
        return lambda **options: KlarnaOrder(sandbox, shop, **options)
    return lambda **options: BlueSnapTransaction(sandbox, blue_shop, **options)


@pytest.fixture
def order(make_order):
    return make_order()


def actors(sandbox):
    return [(effect["kind"], effect["actor"], effect["amount"]) for effect in sandbox.effects()]


# ------------------------------------------------------------------------------------------------ a read that lags


def test_the_first_reads_after_a_write_may_not_see_it(sandbox, order):
    """Absent right after a send is no proof."""
    order.capture(4_000)
    sandbox.fault("stale_read", method="GET", times=2)

    seen = [order.captured() for _ in range(3)]

    assert [0, 0, 4_000] == seen


def test_a_read_may_show_what_was_some_seconds_ago(sandbox, order):
    """By the sandbox's clock, so that waiting long enough helps."""
    order.capture(4_000)
    sandbox.fault("stale_read", seconds=60, times=None)

    at_once = order.captured()
    sandbox.advance(61)
    order.capture(1_000)
    later = order.captured()

    assert [0, 4_000] == [at_once, later]


def test_a_read_may_miss_several_changes(sandbox, order):
    """A replica may be far behind; before its beginning there is nothing."""
    for _ in range(3):
        order.capture(1_000)
    for changes in (1, 2, 3, 4):
        sandbox.fault("stale_read", changes=changes)

    assert [2_000, 1_000, 0, 0] == [order.captured() for _ in range(4)]


def test_a_lagging_read_misses_refunds_too(sandbox, make_order):
    """The list is as old as the rest."""
    order = make_order(captured=True)
    order.refund(1_000)
    sandbox.fault("stale_read")

    assert [0, 1] == [len(order.refund_ids()) for _ in range(2)]


def test_a_read_of_the_past_knows_nothing_of_what_time_has_brought_since(sandbox, blue_shop, sale_id):
    """A pending refund that is settled by now was pending then."""
    sandbox.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=1)
    refund_id = blue_shop.refund(sale_id, "4.00").json["refundTransactionId"]
    sandbox.advance(3_601)
    sandbox.fault("stale_read", seconds=60, times=2)

    then = [blue_shop.read(named).json["refunds"]["refund"][0] for named in (sale_id, refund_id)]
    now = blue_shop.read(sale_id).json["refunds"]["refund"][0]

    assert ["PENDING"] * 2 == [refund["refundStatus"] for refund in then]
    assert "SUCCESS" == now["refundStatus"]


@pytest.mark.parametrize("ends", ["SUCCESS", "FAIL"])
def test_one_refund_can_be_pending_and_settle_by_the_clock(sandbox, blue_shop, ends):
    """Most refunds are done at once; a rehearsal needs one that is not, and its end without a wait of days."""
    transactions = [sandbox.create_transaction(captured=True)["transactionId"] for _ in range(2)]
    sandbox.fault("refund_pending", order_id=transactions[0], path="refund", seconds=60, ends=ends)

    answers = [blue_shop.refund(each, "4.00").json["refundStatus"] for each in transactions]
    sandbox.advance(59)
    before = blue_shop.read(transactions[0]).json["refunds"]["refund"][0]["refundStatus"]
    sandbox.advance(2)
    after = blue_shop.read(transactions[0]).json["refunds"]["refund"][0]["refundStatus"]

    assert ["PENDING", "SUCCESS"] == answers
    assert ["PENDING", ends] == [before, after]


def test_a_pending_refund_ends_as_one_of_two(sandbox):
    """A misspelt end would be told by nobody."""
    with pytest.raises(SandboxError, match="ends must be one of SUCCESS, FAIL, got 'DONE'"):
        sandbox.fault("refund_pending", ends="DONE")


def test_a_lagging_read_does_not_know_yet_that_an_order_has_expired(sandbox, shop, order_id):
    """The replica's time is behind as a whole."""
    sandbox.advance(28 * DAY)
    sandbox.fault("stale_read", seconds=60)

    assert ["AUTHORIZED", "EXPIRED"] == [shop.order(order_id).json["status"] for _ in range(2)]


def test_a_lagging_read_changes_nothing(sandbox, order):
    """Looking at the past must not bring it back."""
    order.capture(4_000)
    sandbox.fault("stale_read", times=3)
    for _ in range(3):
        order.read()

    order.capture(1_000)

    assert 5_000 == order.captured()
    assert 2 == len(sandbox.effects())


def test_a_write_never_lags(sandbox, order):
    """Only reads come from a replica: a second full capture is refused all the same."""
    order.capture(10_000)
    sandbox.fault("stale_read")

    answer = order.capture(10_000)

    assert 400 <= answer.status < 500
    assert 1 == len(sandbox.effects())


def test_what_a_request_has_made_is_not_there_yet_on_a_lagging_read(sandbox, blue_shop):
    """A transaction whose reply was lost is looked for by the merchant's id, and absent is no proof either."""
    made = blue_shop.authorize(merchantTransactionId="invoice-17").json["transactionId"]
    plan = blue_shop.call("POST", "recurring/plans", {"name": "Gold"}).json["planId"]
    sandbox.fault("stale_read", times=3)

    lagging = [blue_shop.read("invoice-17,456"), blue_shop.read(made), blue_shop.call("GET", f"recurring/plans/{plan}")]
    again = [blue_shop.read("invoice-17,456"), blue_shop.read(made), blue_shop.call("GET", f"recurring/plans/{plan}")]

    assert [403] * 3 == [answer.status for answer in lagging]
    assert [200] * 3 == [answer.status for answer in again]


def test_a_lagging_read_of_a_record_shows_it_before_its_update(sandbox, blue_shop):
    """An update whose reply was lost looks undone."""
    plan = blue_shop.call("POST", "recurring/plans", {"name": "Gold"}).json["planId"]
    blue_shop.call("PUT", f"recurring/plans/{plan}", {"name": "Silver"})
    sandbox.fault("stale_read")

    seen = [blue_shop.call("GET", f"recurring/plans/{plan}").json["name"] for _ in range(2)]

    assert ["Gold", "Silver"] == seen


def test_klarnas_other_reads_lag_as_well(sandbox, shop, order_id):
    """The list of captures comes from the same replica as the order."""
    capture_id = shop.capture(order_id, 1_000).headers["Capture-Id"]
    sandbox.fault("stale_read", times=2)

    every = shop.order(order_id, rest="/captures")
    one = shop.order(order_id, rest=f"/captures/{capture_id}")

    assert ([], 404) == (every.json, one.status)


# ---------------------------------------------------------------------------------------------------- a stranger


def test_a_stranger_captures_on_the_same_order(sandbox, order):
    """Somebody in the portal does by hand what the worker is about to do: totals then prove nothing."""
    sandbox.fault("stranger", amount=4_000)

    answer = order.capture(4_000)

    assert answer.status < 300
    assert [
        ("capture", "stranger", order.amount(4_000)),
        ("capture", "client", order.amount(4_000)),
    ] == actors(sandbox)
    assert [None, None] == [effect["reference"] for effect in sandbox.effects()]


def test_a_stranger_has_no_key_and_no_reference_of_ours(sandbox, order):
    """By these his effects are told from the worker's."""
    sandbox.fault("stranger", amount=4_000, method="GET")

    order.read()

    [effect] = sandbox.effects()
    assert (order.provider, "stranger", None, None, order.id) == tuple(
        effect[name] for name in ("provider", "actor", "key", "reference", "order_id")
    )


def test_a_lagging_read_may_miss_the_stranger_and_nothing_else(sandbox, order):
    """What he did is a change like any other."""
    order.capture(1_000)
    sandbox.fault("stranger", amount=4_000)
    order.read()
    sandbox.fault("stale_read")

    assert [1_000, 5_000] == [order.captured() for _ in range(2)]


def test_a_stranger_takes_everything_that_is_left(sandbox, order):
    """Then our capture is refused, and the refusal does not mean that it was ours."""
    order.capture(4_000)
    sandbox.fault("stranger")

    answer = order.capture(6_000)

    assert 400 <= answer.status < 500
    assert ("capture", "stranger", order.amount(6_000)) == actors(sandbox)[-1]


def test_a_stranger_may_come_between_a_lost_reply_and_its_reading_back(sandbox, order):
    """What is open to capture has fallen, but not by us."""
    sandbox.fault("status", method="POST" if order.provider == "klarna" else "PUT")
    sandbox.fault("stranger", method="GET", amount=4_000)
    order.capture(4_000)

    captured = order.captured()

    assert 4_000 == captured
    assert [("capture", "stranger", order.amount(4_000))] == actors(sandbox)


def test_a_stranger_refunds(sandbox, make_order):
    """The portal has a button for that."""
    order = make_order(captured=True)
    sandbox.fault("stranger", act="refund", amount=1_000)

    refunds = order.refund_ids()

    assert 1 == len(refunds)
    assert [("refund", "stranger", order.amount(1_000))] == actors(sandbox)


@pytest.mark.parametrize("amount", ["40.00", 4_000])
def test_a_strangers_amount_is_text_in_major_or_an_integer_in_minor_units(sandbox, order, amount):
    """So that one script serves both providers."""
    sandbox.fault("stranger", amount=amount)

    assert 4_000 == order.captured()


@pytest.mark.parametrize("options", [{"amount": 10_001}, {"act": "refund"}, {"act": "refund", "amount": "1.00"}])
def test_what_a_stranger_cannot_do_is_left_undone(sandbox, order, options):
    """The provider refuses him as it refuses us."""
    sandbox.fault("stranger", **options)

    answer = order.read()

    assert 200 == answer.status
    assert [] == sandbox.effects()


@pytest.mark.parametrize("kind", ["stranger", "expire", "fraud_pending", "duplicate_id", "stale_read"])
def test_nothing_befalls_an_order_that_is_not_there(sandbox, shop, blue_shop, kind):
    """The answer is the same as without the fault."""
    sandbox.fault(kind, times=3)

    answers = [
        shop.order("4ba29b50-be7b-44f5-a492-113e6a865e22"),
        blue_shop.read("17"),
        blue_shop.call("POST", "vendors", {}),
    ]

    assert [404, 403, 201] == [answer.status for answer in answers]


# ------------------------------------------------------------------------------------------- fraud and expiry


def test_no_capture_while_the_fraud_check_is_pending(sandbox, order):
    """Later it works, so it is no final refusal; meanwhile the read says why."""
    sandbox.fault("fraud_pending", seconds=3_600)

    refused = order.capture(1_000)
    during = order.review()
    sandbox.advance(3_601)
    after = order.review()
    captured = order.capture(1_000)

    assert 400 <= refused.status < 500
    words = {"klarna": ("PENDING", "ACCEPTED"), "bluesnap": ("PENDING_MERCHANT_REVIEW", "SUCCESS")}
    assert words[order.provider] == (during, after)
    assert captured.status < 300
    assert 1 == len(sandbox.effects())


def test_klarna_refuses_captures_by_the_usual_code_while_pending(sandbox, shop, order_id):
    """There is no code of its own for it."""
    sandbox.fault("fraud_pending")

    answer = shop.capture(order_id, 1_000)

    assert (403, "CAPTURE_NOT_ALLOWED") == (answer.status, answer.json["error_code"])
    assert "PENDING" == shop.order(order_id).json["fraud_status"]


def test_a_rejected_order_may_be_captured_for_four_hours_more(sandbox, shop, order_id):
    """Klarna gives the shop that time to ship at its own risk."""
    sandbox.fault("fraud_pending", seconds=3_600, verdict="REJECTED")
    shop.order(order_id)
    sandbox.advance(3_601)

    in_time = shop.capture(order_id, 1_000)
    status = shop.order(order_id).json["fraud_status"]
    sandbox.advance(4 * 3_600)
    late = shop.capture(order_id, 1_000)

    assert (201, "REJECTED", 403) == (in_time.status, status, late.status)


def test_bluesnap_names_the_lock_and_the_fraud(sandbox, blue_shop, transaction_id):
    """The lock has a name whose number nobody has published."""
    sandbox.fault("fraud_pending", seconds=3_600, verdict="REJECTED")

    locked = blue_shop.capture(transaction_id, "1.00").json["message"][0]
    sandbox.advance(3_601)
    rejected = blue_shop.capture(transaction_id, "1.00").json["message"][0]

    assert ("TRANSACTION_LOCKED", False) == (locked["errorName"], "code" in locked)
    assert ("FRAUD_DETECTED", "15011") == (rejected["errorName"], rejected["code"])


def test_an_authorization_may_expire_under_a_capture(sandbox, order):
    """Between the decision and the send a moment passes, and it may be the wrong one."""
    sandbox.fault("expire")

    answer = order.capture(1_000)

    expected = (403, "CAPTURE_NOT_ALLOWED") if order.provider == "klarna" else (400, "AUTHORIZATION_EXPIRED")
    assert expected == order.error(answer)
    assert [] == sandbox.effects()


def test_what_was_captured_before_the_expiry_stays(sandbox, order):
    """Expiry takes the authorization, not the money."""
    order.capture(4_000)
    sandbox.fault("expire")

    assert 4_000 == order.captured()
    assert order.refund(4_000).status < 300


# -------------------------------------------------------------------------------------- equal things, equal ids


def test_a_provider_may_book_a_capture_twice(sandbox, order):
    """Not our doing, but there it stands: one request, two effects, and only the ledger tells them apart."""
    sandbox.fault("booked_twice")

    answer = order.capture(1_000, key="key-1")

    assert answer.status < 300
    assert 2_000 == order.captured()
    assert [("capture", "client", order.amount(1_000)), ("capture", "provider", order.amount(1_000))] == actors(sandbox)
    assert [None] == [effect["key"] for effect in sandbox.effects()][1:]


def test_two_equal_captures_differ_only_in_their_ids(sandbox, shop, order_id):
    """A match by reference then finds two, which is no answer to which one is ours."""
    sandbox.fault("booked_twice")
    shop.capture(order_id, 1_000, reference="command-1")

    first, second = shop.order(order_id, rest="/captures").json

    assert first["capture_id"] != second["capture_id"]
    assert [("command-1", 1_000)] * 2 == [(each["reference"], each["captured_amount"]) for each in (first, second)]


def test_a_refund_is_booked_twice_only_if_there_is_room(sandbox, make_order):
    """Even then no more goes back than was captured."""
    partial, full = make_order(captured=True), make_order(captured=True)
    sandbox.fault("booked_twice", times=2)

    partial.refund(4_000)
    full.refund(10_000)

    assert [2, 1] == [len(partial.refund_ids()), len(full.refund_ids())]


def test_a_repeat_under_the_key_of_a_doubled_request_gets_the_first_answer(sandbox, make_order):
    """The double is the provider's own; the key knows nothing of it."""
    order = make_order(captured=True)
    sandbox.fault("booked_twice")

    first, second = (order.refund(1_000, key="key-1") for _ in range(2))

    assert first.body == second.body
    assert 2 == len(sandbox.effects())


def test_a_read_may_show_everything_twice(sandbox, make_order):
    """One booking, shown twice with one id: equal ids are one thing."""
    order = make_order(captured=True)
    order.refund(1_000)
    order.refund(2_000)
    sandbox.fault("shown_twice")

    twice, once = order.refund_ids(), order.refund_ids()

    assert (4, 2) == (len(twice), len(once))
    assert [once[0], once[0], once[1], once[1]] == twice


def test_klarnas_list_of_captures_may_be_doubled_too(sandbox, shop, order_id):
    """There the list itself is the answer."""
    shop.capture(order_id, 1_000)
    sandbox.fault("shown_twice")

    captures = shop.order(order_id, rest="/captures").json

    assert 2 == len(captures)
    assert captures[0] == captures[1]


@pytest.mark.parametrize("operation", ["capture", "refund"])
def test_klarna_may_give_two_bookings_one_id(sandbox, shop, order_id, operation):
    """The answer then names what was there before, and the list contradicts itself."""
    shop.capture(order_id, 5_000, reference="a")
    shop.refund(order_id, 100, reference="a")
    sandbox.fault("duplicate_id")

    answer = getattr(shop, operation)(order_id, 1_000, reference="b")

    ids = [(each[f"{operation}_id"], each["reference"]) for each in shop.order(order_id).json[f"{operation}s"]]
    given = answer.headers[f"{operation.capitalize()}-Id"]
    assert [(given, "a"), (given, "b")] == ids
    assert 3 == len(sandbox.effects())


def test_bluesnap_may_give_two_refunds_one_id(sandbox, blue_shop, sale_id):
    """The second hides behind the first when it is read by its id."""
    first = blue_shop.refund(sale_id, "1.00").json["refundTransactionId"]
    sandbox.fault("duplicate_id")

    second = blue_shop.refund(sale_id, "2.00").json["refundTransactionId"]
    third = blue_shop.refund(sale_id, "3.00").json["refundTransactionId"]

    assert first == second != third
    assert ["1.00", "2.00", "3.00"] == [
        refund["amount"] for refund in blue_shop.read(sale_id).json["refunds"]["refund"]
    ]


def test_the_first_of_its_kind_cannot_have_an_old_id(sandbox, blue_shop, sale_id):
    """There is none to repeat; a transaction's is not a refund's."""
    sandbox.fault("duplicate_id")

    refund_id = blue_shop.refund(sale_id, "1.00").json["refundTransactionId"]

    assert int(sale_id) != refund_id


# ---------------------------------------------------------------------------------------------- other forms


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("object", {"data": None, "status": "ok"}),
        ("empty", {}),
        ("list", [None]),
        ("empty_list", []),
        ("null", None),
        ("text", "ok"),
        ("number", 0),
    ],
)
def test_a_200_may_have_another_shape(sandbox, make_order, shape, expected):
    """Valid JSON and no error is still no proof of anything."""
    order = make_order(captured=True)
    sandbox.fault("unexpected_shape", shape=shape)

    answer = order.refund(1_000)

    assert (200, expected) == (answer.status, answer.json)
    assert [] == sandbox.effects()


def test_another_shape_may_hide_an_effect(sandbox, make_order):
    """Executed, and the answer is kept but not read."""
    order = make_order(captured=True)
    sandbox.fault("unexpected_shape", shape="list", executed=True)

    answer = order.refund(1_000)

    assert (200, list) == (answer.status, type(answer.json))
    assert 1 == len(sandbox.effects())


def test_a_true_read_may_come_wrapped(sandbox, order):
    """All is there, only not where it should be."""
    sandbox.fault("unexpected_shape", shape="object", executed=True)

    wrapped, plain = order.read().json, order.read().json

    assert plain == wrapped["data"]


def test_a_refusal_may_come_as_xml(sandbox, order):
    """JSON was asked for; the client must not break on what came instead."""
    sandbox.fault("xml_error", status=400, name="A<B", code="7")

    answer = order.capture(1_000)

    assert (400, "application/xml") == (answer.status, answer.headers["Content-Type"])
    assert b"<error-name>A&lt;B</error-name><code>7</code>" in answer.body
    assert [] == sandbox.effects()


@pytest.mark.parametrize("status", [403, 423, 429, 500, 503])
@pytest.mark.parametrize(("executed", "effects"), [(False, 0), (True, 1)])
def test_one_line_of_xml_is_all_there_may_be(sandbox, order, status, executed, effects):
    """It comes from what stands in front; the status is all it says."""
    sandbox.fault("bare_xml", status=status, executed=executed)

    answer = order.capture(1_000)

    assert (status, "application/xml") == (answer.status, answer.headers["Content-Type"])
    assert re.fullmatch(rb"<xml>[^<>]+</xml>", answer.body)
    assert effects == len(sandbox.effects())


def test_the_line_may_say_that_a_transaction_is_not_ours(sandbox, blue_shop, transaction_id):
    """The same sentence as in the object, without the object."""
    sandbox.fault("bare_xml", status=403)
    sandbox.fault("bare_xml", status=403, text="no & never")

    first, second = (blue_shop.read(transaction_id).body for _ in range(2))

    assert b"<xml>User is not authorized to view transaction</xml>" == first
    assert b"<xml>no &amp; never</xml>" == second


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("stale_read", {"changes": 0}, "a read lags by 1 change or more or by more than 0 s"),
        ("stale_read", {"seconds": 0}, "a read lags by 1 change or more or by more than 0 s"),
        ("stranger", {"act": "cancel"}, "act must be one of capture, refund, got 'cancel'"),
        ("stranger", {"amount": 0}, "amount must be minor units above 0 or decimal text, got 0"),
        ("stranger", {"amount": -1}, "amount must be minor units above 0 or decimal text, got -1"),
        ("stranger", {"amount": "1,00"}, "amount must be minor units above 0 or decimal text, got '1,00'"),
        ("fraud_pending", {"verdict": "MAYBE"}, "verdict must be one of ACCEPTED, REJECTED, got 'MAYBE'"),
        ("unexpected_shape", {"shape": "round"}, "shape must be one of object, empty, list"),
        ("xml_error", {"status": 200}, "status must be 400 to 599, got 200"),
        ("bare_xml", {"status": 99}, "status must be 400 to 599, got 99"),
        ("expire", {"seconds": 1}, "the fault expire has no option 'seconds'; it has none"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_in_one_sentence(driver, kind, options, sentence):
    """A fault that never shows would make a test pass for nothing."""
    with pytest.raises(SandboxError, match=re.escape(sentence)):
        driver.fault(kind, **options)

    assert 0 == driver.health()["faults"]
