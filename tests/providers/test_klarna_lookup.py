from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from worker.domain import klarna_commands as commands
from worker.domain.finding import Absent, Ambiguous, Done
from worker.domain.outcome import InDoubt, NotNow, NotSent, Problem, Rejected, Succeeded, Throttled, Unauthorized
from worker.ports import Answer, NoAnswer
from worker.providers.klarna import OPERATIONS, Klarna
from worker.providers.klarna_lookup import LOOKUPS

KEY = "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"
OTHER_KEY = "0a1b2c3d-0d3b-5c8e-9a53-2b7c4a0a9b22"
ORDER = "4ba29b50-be7b-44f5-a492-113e6a865e22"
HTML = b"<!DOCTYPE html><html><body><h1>Request blocked</h1></body></html>"
CHANGES = [kind for kind, operation in OPERATIONS.items() if not operation.is_read]
GIVEN = {"account": "klarna-eu", "order_id": ORDER}
LINE = {"name": "Shoe", "quantity": 1, "unit_price": 700, "total_amount": 700}
PARCEL = {"tracking_number": "PX-1", "shipping_company": "Post"}


@pytest.fixture
def klarna():
    return Klarna(account="klarna-eu", base_url="http://127.0.0.1:8090", username="sandbox", password="sandbox")


@pytest.fixture
def look(klarna):
    """What an answer to a command's lookup shows."""

    def finding(held, order, *, status=200, complete=True, headers=None):
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        return klarna.finding(held, Answer(status=status, headers=headers or {}, body=body, complete=complete))

    return finding


def an_order(**fields):
    plain = {
        "order_id": ORDER,
        "status": "AUTHORIZED",
        "fraud_status": "ACCEPTED",
        "order_amount": 10_000,
        "captured_amount": 0,
        "refunded_amount": 0,
        "remaining_authorized_amount": 10_000,
        "purchase_currency": "EUR",
        "captures": [],
        "refunds": [],
    }
    order = plain | fields
    if "captures" in fields and "captured_amount" not in fields:
        order["captured_amount"] = sum(each["captured_amount"] for each in order["captures"])
        order["remaining_authorized_amount"] = 10_000 - order["captured_amount"]
        order["status"] = fields.get("status", "PART_CAPTURED")
    if "refunds" in fields and "refunded_amount" not in fields:
        order["refunded_amount"] = sum(each["refunded_amount"] for each in order["refunds"])

    return order


def captured(amount=1000, reference=KEY, capture_id="c-1"):
    return {"capture_id": capture_id, "captured_amount": amount, "reference": reference}


def refunded(amount=1000, reference=KEY, **fields):
    return {"refunded_amount": amount, "reference": reference} | fields


CAPTURE = commands.Capture(**GIVEN, amount=1000)
NAMED_CAPTURE = commands.Capture(**GIVEN, amount=1000, provider_reference="ship-7")
REFUND = commands.Refund(**GIVEN, amount=1000)
CANCEL = commands.Cancel(**GIVEN)
RELEASE = commands.ReleaseRemainingAuthorization(**GIVEN)
SET_AMOUNT = commands.UpdateAuthorization(**GIVEN, amount=9_000)
SET_LINES = commands.UpdateAuthorization(**GIVEN, amount=9_000, order_lines=[LINE])
EXTEND = commands.ExtendAuthorizationTime(**GIVEN)
ADDRESS = commands.UpdateCustomerDetails(
    **GIVEN, shipping_address={"given_name": "Åsa", "city": "Malmö", "country": "se"}
)
REFERENCES = commands.UpdateMerchantReferences(**GIVEN, merchant_reference1="A-17")
SHIP = commands.AddOrderShippingInfo(**GIVEN, shipping_info=[PARCEL, {"tracking_number": "PX-2"}])
SHIP_UNTRACKED = commands.AddOrderShippingInfo(**GIVEN, shipping_info=[{"shipping_company": "Post"}])
SHIP_CAPTURE = commands.AddCaptureShippingInfo(**GIVEN, capture_id="c-1", shipping_info=[PARCEL])

#: Command, the order as Klarna shows it, what follows, and words that the evidence must hold.
STATES = [
    # captures: by our reference, never by amount, total or place
    ("capture", CAPTURE, an_order(), Absent, "0 captures"),
    ("capture done", CAPTURE, an_order(captures=[captured()]), Done, "c-1 of 1000"),
    ("no id shown", CAPTURE, an_order(captures=[captured(capture_id=None)]), Done, "none of 1000"),
    ("a stranger's", CAPTURE, an_order(captures=[captured(reference=None)]), Absent, "1 of the same amount, not ours"),
    ("an earlier one", CAPTURE, an_order(captures=[captured(reference=OTHER_KEY)]), Absent, "same amount, not ours"),
    (
        "beside others",
        CAPTURE,
        an_order(captures=[captured(reference=None, capture_id="c-0"), captured()]),
        Done,
        "c-1",
    ),
    ("another amount", CAPTURE, an_order(captures=[captured(900)]), Ambiguous, "of 900 instead of 1000"),
    ("booked twice", CAPTURE, an_order(captures=[captured(), captured(capture_id="c-2")]), Ambiguous, "c-1, c-2"),
    ("shown twice", CAPTURE, an_order(captures=[captured(), captured()]), Ambiguous, "2 captures"),
    (
        "an id given twice",
        CAPTURE,
        an_order(captures=[captured(), captured(reference=None)]),
        Ambiguous,
        "another has the same id",
    ),
    (
        "others' ids given twice",
        CAPTURE,
        an_order(captures=[captured(reference="x"), captured(reference="y")]),
        Ambiguous,
        "several have the same id: c-1",
    ),
    ("caller's own name", NAMED_CAPTURE, an_order(captures=[captured(reference="ship-7")]), Done, "c-1 of 1000"),
    ("its amount differs", NAMED_CAPTURE, an_order(captures=[captured(1, "ship-7")]), Ambiguous, "instead of 1000"),
    ("the key is not its name", NAMED_CAPTURE, an_order(captures=[captured()]), Absent, "the caller gave"),
    ("more captured than listed", CAPTURE, an_order(captured_amount=1000), Ambiguous, "disagree: 0 in captures"),
    (
        "more listed than captured",
        CAPTURE,
        an_order(captures=[captured(5, "x")], captured_amount=0),
        Ambiguous,
        "disagree",
    ),
    ("done, but totals disagree", CAPTURE, an_order(captures=[captured()], captured_amount=7), Done, "disagree"),
    ("total as text", CAPTURE, an_order(captured_amount="0"), Ambiguous, "cannot be understood"),
    ("total of another type", CAPTURE, an_order(captured_amount=True), Ambiguous, "cannot be understood"),
    (
        "amount as text",
        CAPTURE,
        an_order(captures=[captured()], captured_amount=1000) | {"captures": [captured("1000")]},
        Ambiguous,
        "of 1000 instead of 1000",
    ),
    ("amount with a fraction", CAPTURE, an_order(captured_amount=0.0), Ambiguous, "cannot be understood"),
    ("list is an object", CAPTURE, an_order() | {"captures": {"0": captured()}}, Ambiguous, "cannot be understood"),
    ("list of texts", CAPTURE, an_order() | {"captures": ["c-1"]}, Ambiguous, "cannot be understood"),
    ("no list and no total", CAPTURE, {"order_id": ORDER, "status": "AUTHORIZED"}, Ambiguous, "cannot be understood"),
    ("expired", CAPTURE, an_order(status="EXPIRED"), Absent, "EXPIRED"),
    ("under review", CAPTURE, an_order(fraud_status="PENDING"), Absent, "fraud check PENDING"),
    ("reference of another type", CAPTURE, an_order(captures=[captured(reference=[KEY])]), Absent, "not ours"),
    # refunds: an id may be missing
    ("refund", REFUND, an_order(captures=[captured(5000, None)]), Absent, "0 refunds"),
    ("refund done", REFUND, an_order(refunds=[refunded(refund_id="r-1")]), Done, "r-1 of 1000"),
    ("refund without id", REFUND, an_order(refunds=[refunded()]), Done, "none of 1000"),
    ("two without id", REFUND, an_order(refunds=[refunded(), refunded()]), Ambiguous, "2 refunds"),
    ("a stranger's refund", REFUND, an_order(refunds=[refunded(reference=None)]), Absent, "not ours"),
    ("refunded more than listed", REFUND, an_order(refunded_amount=1000), Ambiguous, "disagree"),
    # the authorization
    ("cancel", CANCEL, an_order(), Absent, "not cancelled"),
    ("cancelled", CANCEL, an_order(status="CANCELLED"), Done, "is cancelled"),
    ("cancelled in lower case", CANCEL, an_order(status="cancelled"), Done, "is cancelled"),
    (
        "cancelled with captures",
        CANCEL,
        an_order(captures=[captured()], status="CANCELLED"),
        Ambiguous,
        "cannot be told",
    ),
    ("expired by itself", CANCEL, an_order(status="EXPIRED"), Absent, "EXPIRED"),
    ("closed without captures", CANCEL, an_order(status="CLOSED"), Ambiguous, "CLOSED"),
    ("closed with captures", CANCEL, an_order(captures=[captured()], status="CLOSED"), Absent, "CLOSED"),
    ("a status nobody knows", CANCEL, an_order(status="VOIDED"), Ambiguous, "VOIDED"),
    ("a status of another type", CANCEL, an_order(status=["CANCELLED"]), Ambiguous, "cannot be told"),
    ("release", RELEASE, an_order(captures=[captured()]), Absent, "9000 is still authorized"),
    ("released", RELEASE, an_order(status="CAPTURED", remaining_authorized_amount=0), Done, "Nothing is authorized"),
    ("released and refunded", RELEASE, an_order(status="closed", remaining_authorized_amount=0), Done, "CLOSED"),
    ("nothing left but open", RELEASE, an_order(remaining_authorized_amount=0), Ambiguous, "cannot be told"),
    ("captured but left", RELEASE, an_order(status="CAPTURED"), Ambiguous, "cannot be told"),
    (
        "rest as text",
        RELEASE,
        an_order(status="CAPTURED", remaining_authorized_amount="0"),
        Ambiguous,
        "cannot be told",
    ),
    ("rest expired", RELEASE, an_order(status="EXPIRED", remaining_authorized_amount=0), Ambiguous, "EXPIRED"),
    ("amount not set", SET_AMOUNT, an_order(), Absent, "is 10000, not 9000"),
    ("amount set", SET_AMOUNT, an_order(order_amount=9_000, order_lines=[]), Done, "is 9000"),
    ("amount set by another", SET_AMOUNT, an_order(order_amount=9_000, order_lines=[LINE]), Ambiguous, "not as sent"),
    (
        "lines set",
        SET_LINES,
        an_order(order_amount=9_000, order_lines=[LINE | {"tax_rate": 0}]),
        Done,
        "lines are as sent",
    ),
    (
        "lines not set",
        SET_LINES,
        an_order(order_amount=9_000, order_lines=[LINE | {"quantity": 2}]),
        Ambiguous,
        "lines",
    ),
    (
        "lines of other names",
        SET_LINES,
        an_order(order_amount=9_000, order_lines=[LINE | {"name": "shoe"}]),
        Ambiguous,
        "lines",
    ),
    ("amount of text", SET_AMOUNT, an_order(order_amount="9000"), Ambiguous, "cannot be understood"),
    ("extended or not", EXTEND, an_order(expires_at="2026-12-20T12:00:00Z"), Ambiguous, "ends 2026-12-20T12:00:00Z"),
    # fields
    ("no address", ADDRESS, an_order(), Absent, "city, country, given_name"),
    (
        "address set",
        ADDRESS,
        an_order(shipping_address={"given_name": "Åsa", "city": "MALMÖ", "country": "SE"}),
        Done,
        "city",
    ),
    (
        "another address",
        ADDRESS,
        an_order(shipping_address={"given_name": "Åsa", "city": "Lund", "country": "SE"}),
        Absent,
        "Not as sent: city.",
    ),
    ("address of another type", ADDRESS, an_order(shipping_address=["Åsa"]), Ambiguous, "cannot be compared"),
    ("reference not set", REFERENCES, an_order(merchant_reference1="A-16"), Absent, "merchant_reference1"),
    (
        "reference set",
        REFERENCES,
        an_order(merchant_reference1="A-17", merchant_reference2="B"),
        Done,
        "merchant_reference1",
    ),
    ("reference in other letters", REFERENCES, an_order(merchant_reference1="a-17"), Absent, "later change"),
    ("no parcel", SHIP, an_order(), Absent, "none of the command's parcels"),
    ("both parcels", SHIP, an_order(shipping_info=[{"tracking_number": "PX-2"}, PARCEL]), Done, "PX-1, PX-2"),
    ("one of two", SHIP, an_order(shipping_info=[PARCEL]), Ambiguous, "not PX-2"),
    ("no tracking number sent", SHIP_UNTRACKED, an_order(shipping_info=[PARCEL]), Ambiguous, "no tracking number"),
    ("parcels of another type", SHIP, an_order(shipping_info="PX-1 PX-2"), Ambiguous, "cannot be understood"),
    ("no such capture", SHIP_CAPTURE, an_order(), Ambiguous, "0 captures with the id c-1"),
    ("capture without parcels", SHIP_CAPTURE, an_order(captures=[captured()]), Absent, "The capture shows none"),
    ("capture with parcel", SHIP_CAPTURE, an_order(captures=[captured() | {"shipping_info": [PARCEL]}]), Done, "PX-1"),
    ("capture shown twice", SHIP_CAPTURE, an_order(captures=[captured(), captured()]), Ambiguous, "2 captures"),
]


@pytest.mark.parametrize(
    ("command", "order", "expected", "told"), [row[1:] for row in STATES], ids=[row[0] for row in STATES]
)
def test_the_order_shows_what_became_of_a_command(look, held_of, command, order, expected, told):
    """Money is sent again, or not, on the strength of this."""
    found = look(held_of(command), order)

    assert type(found) is expected
    assert told in found.evidence


def test_every_change_is_looked_up_or_known_to_leave_no_trace(klarna, held):
    """A kind that is forgotten here goes to a person without being looked at."""
    readable = {kind: klarna.lookup(held(kind=kind, target="c-1")) is not None for kind in CHANGES}

    assert {"acknowledge", "trigger_send_out", "extend_due_date"} == {kind for kind, is_ in readable.items() if not is_}
    assert readable == {kind: klarna.reads_back(kind) for kind in CHANGES}
    assert not any(klarna.reads_back(kind) for kind in [*set(OPERATIONS) - set(CHANGES), "vaulted_shopper"])


def test_a_lookup_reads_the_order_and_nothing_else(klarna, held):
    """One read shows list and totals of one moment; it changes nothing and carries no key."""
    request = klarna.lookup(held(order_id=ORDER))

    assert request.method == "GET"
    assert request.url == f"http://127.0.0.1:8090/ordermanagement/v1/orders/{ORDER}"
    assert request.body is None
    assert request.repeatable
    assert "klarna-idempotency-key" not in {name.lower() for name in request.headers}


def test_what_is_found_carries_the_id_that_the_success_would_have_carried(look, held_of):
    """Whoever reads the result later must not care how it became known."""
    assert look(held_of(CAPTURE), an_order(captures=[captured()])).result == {"capture_id": "c-1"}
    assert look(held_of(REFUND), an_order(refunds=[refunded(refund_id="r-1")])).result == {"refund_id": "r-1"}
    assert look(held_of(REFUND), an_order(refunds=[refunded()])).result == {}


# --- answers that show nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        HTML,
        b'{"order_id": ',
        b"[]",
        json.dumps([an_order()]).encode(),
        json.dumps({"data": an_order(), "status": "ok"}).encode(),
        json.dumps({**an_order(), "order_id": "f3392f8b-6116-4073-ab96-e330819e2c07"}).encode(),
        json.dumps({**an_order(), "order_id": None}).encode(),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(b'{"captured_amount": ' + b"9" * 5_000 + b"}", id="a number of 5,000 digits"),
    ],
)
def test_what_is_not_the_order_asked_for_shows_nothing(look, held_of, body):
    """Another order's captures, or a page, say nothing of ours: it is read again."""
    found = {kind: look(held_of(CAPTURE, kind=kind), body) for kind in LOOKUPS}

    assert dict.fromkeys(LOOKUPS, InDoubt(problem=Problem(code="unreadable_answer", status=200))) == found


def test_an_order_that_breaks_off_shows_nothing(look, held_of):
    """What came may even parse, and still lack the capture that is looked for."""
    found = look(held_of(CAPTURE), an_order(), complete=False)

    assert found == InDoubt(problem=Problem(code="truncated_answer", status=200))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, HTML, Unauthorized),
        (429, b"", Throttled),
        (403, HTML, InDoubt),
        (404, HTML, InDoubt),
        (500, b"{}", InDoubt),
        (503, json.dumps({"error_code": "NO_SUCH_ORDER"}).encode(), InDoubt),
        (302, json.dumps(an_order(captures=[captured()])).encode(), InDoubt),
        (403, json.dumps({"error_code": "NOT_ALLOWED"}).encode(), Rejected),
        (403, json.dumps({"error_code": "PAYMENT_METHOD_FAILED"}).encode(), NotNow),
        (400, json.dumps({"error_code": "NO_SUCH_ORDER"}).encode(), Rejected),
    ],
)
def test_an_answer_without_the_order_is_an_outcome_of_the_read(look, held_of, status, body, expected):
    """It means for a read what it means for any other request, and nothing for the command."""
    assert type(look(held_of(CAPTURE), body, status=status)) is expected


@pytest.mark.parametrize(("sent", "expected"), [(True, InDoubt), (False, NotSent)])
def test_no_answer_shows_nothing(klarna, held_of, sent, expected):
    """The network tells nothing of the order."""
    found = klarna.finding(held_of(CAPTURE), NoAnswer(sent=sent, code="reset", message="Connection reset"))

    assert found == expected(problem=Problem(code="reset", message="Connection reset"))


def test_an_order_that_klarna_does_not_know_is_for_a_person(look, held_of):
    """A wrong region or merchant looks the same, so it is no proof that nothing was done."""
    found = look(held_of(CAPTURE), {"error_code": "NO_SUCH_ORDER", "error_messages": ["no"]}, status=404)

    assert found == Ambiguous(evidence=f"Klarna knows no such order: {ORDER}.")


# --- what a person is told ---------------------------------------------------------------------------------


def test_evidence_is_short_plain_and_about_nobody(look, held_of):
    """It stands in tickets, on terminals and in mails."""
    hostile = "\x1b[31m\r\n\x00\u202e" + "x" * 5_000
    address = {"given_name": "Gerda", "city": hostile, "email": "gerda@example.com"}
    order = an_order(
        captures=[captured(reference=KEY, capture_id=f"{hostile}{n}") for n in range(50)],
        shipping_address=address,
        status=hostile,
        fraud_status=hostile,
        purchase_currency=hostile,
    )

    told = [look(held_of(command), order).evidence for command in (CAPTURE, CANCEL, ADDRESS, SHIP, EXTEND, RELEASE)]

    assert all(len(each) <= 500 and each.isprintable() for each in told)
    assert not any("Gerda" in each or "gerda" in each or "Malmö" in each for each in told)


def test_a_reference_of_the_callers_own_is_not_repeated_to_people(look, held_of):
    """It may hold anything, a customer's name too; our key leads to the command as well."""
    named = commands.Capture(**GIVEN, amount=1000, provider_reference="for-gerda")

    assert "gerda" not in look(held_of(named), an_order(captures=[captured(reference="for-gerda")])).evidence
    assert KEY in look(held_of(CAPTURE), an_order(captures=[captured()])).evidence


def test_a_huge_order_is_looked_through_once(look, held_of):
    """As much as the transport lets through, 4 MB, must not keep a worker busy: each list is walked, never compared."""
    many = [captured(1, f"x{n}", f"m-{n}") for n in range(40_000)]

    found = look(held_of(CAPTURE), an_order(captures=[*many, captured()]))

    assert isinstance(found, Done)


# --- against the sandbox -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A kind of command, and the order's status it needs."""

    make: type
    fields: dict
    status: str = "AUTHORIZED"


SCENES = {
    "capture": Scene(make=commands.Capture, fields={"amount": 1000}),
    "capture under the caller's name": Scene(
        make=commands.Capture, fields={"amount": 1000, "provider_reference": "ship-7"}
    ),
    "refund": Scene(make=commands.Refund, fields={"amount": 1000}, status="CAPTURED"),
    "cancel": Scene(make=commands.Cancel, fields={}),
    "release": Scene(make=commands.ReleaseRemainingAuthorization, fields={}, status="PART_CAPTURED"),
    "authorization": Scene(make=commands.UpdateAuthorization, fields={"amount": 9_000, "order_lines": [LINE]}),
    "authorization without lines": Scene(make=commands.UpdateAuthorization, fields={"amount": 9_000}),
    "address": Scene(make=commands.UpdateCustomerDetails, fields={"shipping_address": {"city": "Malmö"}}),
    "references": Scene(make=commands.UpdateMerchantReferences, fields={"merchant_reference1": "A-17"}),
    "parcel": Scene(make=commands.AddOrderShippingInfo, fields={"shipping_info": [PARCEL]}),
    "parcel of a capture": Scene(
        make=commands.AddCaptureShippingInfo, fields={"shipping_info": [PARCEL]}, status="PART_CAPTURED"
    ),
}


@pytest.fixture
def play(klarna, stand_in, held_of):
    """An order at the sandbox and a command about it, ready to be sent and looked up."""

    def begin(name):
        scene = SCENES[name]
        order = stand_in.world.create_order(amount=10_000, status=scene.status)
        fields = dict(scene.fields)
        if scene.make is commands.AddCaptureShippingInfo:
            fields["capture_id"] = order["captures"][0]["capture_id"]
        return held_of(scene.make(account="klarna-eu", order_id=order["order_id"], **fields))

    return begin


@pytest.fixture
def send(klarna, stand_in):
    return lambda held: klarna.outcome(held, stand_in.ask(klarna.request(held)))


@pytest.fixture
def read_back(klarna, stand_in):
    return lambda held: klarna.finding(held, stand_in.ask(klarna.lookup(held)))


@pytest.mark.parametrize("name", SCENES)
def test_what_was_done_while_the_reply_was_lost_is_found(stand_in, play, send, read_back, name):
    """The reason for looking at all; the key's own answer, asked for again, says the same."""
    held = play(name)
    stand_in.world.fault("drop_reply")

    lost, found, replayed = send(held), read_back(held), send(held)

    assert isinstance(lost, InDoubt)
    assert isinstance(found, Done)
    assert isinstance(replayed, Succeeded)
    assert replayed.result == found.result
    assert len(stand_in.world.effects()) == 1


@pytest.mark.parametrize("name", SCENES)
def test_what_was_not_carried_out_is_absent(stand_in, play, send, read_back, name):
    """Only what is not there may be sent again."""
    held = play(name)
    stand_in.world.fault("reset", executed=False)

    lost, found = send(held), read_back(held)

    assert isinstance(lost, InDoubt)
    assert isinstance(found, Absent)
    assert stand_in.world.effects() == []


@pytest.mark.parametrize("name", SCENES)
def test_a_read_that_lags_says_absent_of_what_was_done(stand_in, play, send, read_back, name):
    """Which is why one look is no proof."""
    held = play(name)
    send(held)
    stand_in.world.fault("stale_read", method="GET")

    first, second = read_back(held), read_back(held)

    assert [Absent, Done] == [type(first), type(second)]


@pytest.mark.parametrize(
    ("name", "act"), [("capture", "capture"), ("refund", "refund"), ("capture under the caller's name", "capture")]
)
def test_a_strangers_act_of_the_same_amount_is_not_ours(stand_in, play, read_back, name, act):
    """Somebody in the portal takes the same sum: ours is still to be sent."""
    held = play(name)
    stand_in.world.fault("stranger", act=act, amount=1000)

    found = read_back(held)

    assert isinstance(found, Absent)
    assert "1 of the same amount, not ours" in found.evidence


@pytest.mark.parametrize("name", ["capture", "refund", "capture under the caller's name"])
@pytest.mark.parametrize("fault", ["booked_twice", "shown_twice"])
def test_two_equal_entries_under_our_reference_are_for_a_person(stand_in, play, send, read_back, name, fault):
    """Either money moved twice or the read lies; both are named."""
    held = play(name)
    stand_in.world.fault(fault, method="POST" if fault == "booked_twice" else "GET")
    send(held)

    found = read_back(held)

    assert isinstance(found, Ambiguous)


def test_an_id_that_was_given_out_twice_is_for_a_person(stand_in, play, send, read_back):
    """A refund of this capture would hit one of the two."""
    held = play("capture")
    send(replace(held, idempotency_key=OTHER_KEY, payload=held.payload.replace(KEY.encode(), OTHER_KEY.encode())))
    stand_in.world.fault("duplicate_id", method="POST")
    send(held)

    found = read_back(held)

    assert isinstance(found, Ambiguous)
    assert "another has the same id" in found.evidence


@pytest.mark.parametrize("shape", ["object", "empty", "list", "empty_list", "null", "text", "number"])
def test_an_answer_of_another_shape_shows_nothing(stand_in, play, send, read_back, shape):
    """It is valid JSON, says 200, and is not the order."""
    held = play("capture")
    send(held)
    stand_in.world.fault("unexpected_shape", method="GET", shape=shape, executed=True)

    assert isinstance(read_back(held), InDoubt)


# --- whatever may come -------------------------------------------------------------------------------------

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([KEY, "c-1", "1000"])
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        name: _SCALARS | st.sampled_from([1000, 0]) | _JSON
        for name in ("capture_id", "refund_id", "captured_amount", "refunded_amount", "shipping_info")
    },
)
_FIELDS = {
    **{name: _JSON | st.integers(0, 3000) for name in ("captured_amount", "refunded_amount", "order_amount")},
    **{name: _JSON | st.lists(_ENTRY | _JSON, max_size=4) for name in ("captures", "refunds", "shipping_info")},
    **dict.fromkeys(("shipping_address", "purchase_currency", "merchant_reference1", "order_lines"), _JSON),
    "status": _JSON | st.sampled_from(["AUTHORIZED", "CAPTURED", "CLOSED"]),
    "remaining_authorized_amount": (_JSON | st.integers(1, 9)).filter(lambda value: value != 0),
    "fraud_status": _JSON,
}
_ORDERS = st.fixed_dictionaries({"order_id": st.just(ORDER)}, optional=_FIELDS) | _JSON
_COMMANDS = (
    *(CAPTURE, REFUND, NAMED_CAPTURE, CANCEL, RELEASE, SET_LINES, EXTEND, ADDRESS, REFERENCES, SHIP),
    *(SHIP_UNTRACKED, SHIP_CAPTURE),
)


@given(content=_ORDERS, command=st.sampled_from(_COMMANDS))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_done_for_a_body_that_does_not_hold_the_marks(look, held_of, content, command):
    """Whatever Klarna, or somebody in its place, may write: no exception, no success, and never done by accident."""
    found = look(held_of(command), content)

    assert type(found) in {Absent, Ambiguous, InDoubt}


@given(body=st.binary(max_size=200), status=st.integers(100, 599), command=st.sampled_from(_COMMANDS))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_show_nothing(look, held_of, body, status, command):
    """A proxy writes what it likes."""
    found = look(held_of(command), body, status=status)

    assert type(found) not in {Done, Absent, Succeeded}
