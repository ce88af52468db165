from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from worker.domain import bluesnap_commands as commands
from worker.domain.bluesnap_commands import META_KEY
from worker.domain.finding import Absent, Ambiguous, Done
from worker.domain.outcome import InDoubt, NotSent, Problem, Rejected, Succeeded, Throttled, Unauthorized
from worker.ports import Answer, NoAnswer
from worker.providers.bluesnap import OPERATIONS, BlueSnap
from worker.providers.bluesnap_lookup import LOOKUPS

KEY = "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"
OTHER_KEY = "0a1b2c3d-0d3b-5c8e-9a53-2b7c4a0a9b22"
ID = "38486450"
HTML = b"<!DOCTYPE html><html><body><h1>Request blocked</h1></body></html>"
CHANGES = [kind for kind, operation in OPERATIONS.items() if not operation.is_read]
ACCOUNT = {"account": "bluesnap-us"}
GIVEN = {**ACCOUNT, "order_id": ID}
CREDENTIALS = {
    "account": "bluesnap-us",
    "base_url": "http://127.0.0.1:8090",
    "username": "sandbox",
    "password": "sandbox",
}


@pytest.fixture
def bluesnap():
    return BlueSnap(**CREDENTIALS, merchant_id=87)


@pytest.fixture
def look(bluesnap):
    """What an answer to a command's lookup shows."""

    def finding(held, content, *, status=200, complete=True, result=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        held = held if result is None else replace(held, result=result)
        return bluesnap.finding(held, Answer(status=status, headers={}, body=body, complete=complete))

    return finding


def meta(key=KEY):
    return {"transactionMetaData": {"metaData": [{"metaKey": META_KEY, "metaValue": key}]}}


def transaction(kind="AUTH_ONLY", amount="10.00", left="10.00", **fields):
    plain = {
        "cardTransactionType": kind,
        "transactionId": ID,
        "amount": amount,
        "currency": "USD",
        "openToCapture": left,
        "processingInfo": {"processingStatus": "SUCCESS"},
    }
    return plain | fields


def captured(amount="5.00", left="5.00", **fields):
    return transaction("CAPTURE", amount, left, **fields)


def refund(amount="5.00", refund_id=71, status="SUCCESS", **fields):
    return {"refundTransactionId": refund_id, "amount": amount, "currency": "USD", "refundStatus": status} | fields


def with_refunds(*refunds, balance=None, amount="10.00"):
    listed = {"refund": list(refunds)} | ({} if balance is None else {"balanceAmount": balance})

    return captured(amount, "0.00", refunds=listed)


CAPTURE = commands.Capture(**GIVEN, amount=500, currency="USD")
REVERSE = commands.AuthReversal(**GIVEN)
REFUND = commands.Refund(**GIVEN, amount=500, currency="USD")
REFUND_ALL = commands.Refund(**GIVEN)
CALL_BACK = commands.CancelPendingRefund(**GIVEN)
SALE = commands.Sale(
    **ACCOUNT, order_id="web-7", amount=500, currency="USD", vaulted_shopper_id=7, merchant_transaction_id="web-7/a"
)
UNNAMED_SALE = commands.Sale(**ACCOUNT, order_id="web-7", amount=500, currency="USD", vaulted_shopper_id=7)
PLAN = commands.UpdatePlan(**GIVEN, fields={"name": "Gold", "recurringChargeAmount": "12.50", "trialDays": 3})
SHOPPER = commands.UpdateShopper(**GIVEN, fields={"firstName": "Gerda", "paymentSources": {"list": [{"a": 1}]}})


def paid(**fields):
    return captured(left="0.00", merchantTransactionId="web-7/a", **fields)


def plan(**fields):
    return {"planId": int(ID), "name": "Gold", "recurringChargeAmount": 12.5, "trialDays": "3"} | fields


#: Command, the record as BlueSnap shows it, what follows, and words that the evidence must hold.
STATES = [
    # captures: by the key in the metadata; only a whole authorization proves that there was none
    ("open", CAPTURE, transaction(), Absent, "still open"),
    ("open, in lower case", CAPTURE, transaction("auth_only"), Absent, "AUTH_ONLY of 10.00 USD"),
    ("open, as numbers", CAPTURE, transaction(amount=10, left=10.0), Absent, "still open"),
    ("open, id as number", CAPTURE, transaction(transactionId=int(ID)), Absent, "still open"),
    ("open, another's mark", CAPTURE, transaction(**meta(OTHER_KEY)), Absent, "still open"),
    ("captured by us", CAPTURE, captured(**meta()), Done, "our capture of 5.00"),
    ("captured by us, in lower case", CAPTURE, transaction("capture", "5.00", "5.00", **meta()), Done, "CAPTURE"),
    (
        "captured by us and others",
        CAPTURE,
        captured("10.00", "0.00", **meta()),
        Done,
        "10.00 USD, open to capture 0.00",
    ),
    ("amount as number", CAPTURE, captured(5, 5.0, **meta()), Done, "our capture of 5.00"),
    (
        "a single entry of metadata",
        CAPTURE,
        captured(transactionMetaData={"metaData": {"metaKey": META_KEY, "metaValue": KEY}}),
        Done,
        "key",
    ),
    ("less than ours", CAPTURE, captured("4.99", "5.01", **meta()), Ambiguous, "no capture of 5.00"),
    ("our mark, not captured", CAPTURE, transaction(**meta()), Ambiguous, "no capture of 5.00"),
    ("our mark, failed", CAPTURE, captured(**meta(), processingInfo={"processingStatus": "fail"}), Ambiguous, "FAIL"),
    ("a stranger's of the same amount", CAPTURE, captured(), Ambiguous, "not on the transaction"),
    ("another command's", CAPTURE, captured(**meta(OTHER_KEY)), Ambiguous, "not on the transaction"),
    ("expired", CAPTURE, transaction(left="0.00"), Ambiguous, "open to capture 0.00"),
    ("partly open", CAPTURE, transaction(left="5.00"), Ambiguous, "not open to capture as a whole"),
    ("reversed", CAPTURE, transaction("AUTH_REVERSAL", left="0.00"), Ambiguous, "AUTH_REVERSAL"),
    ("what is open is not told", CAPTURE, transaction(left=None), Ambiguous, "not open to capture as a whole"),
    ("amount of another type", CAPTURE, transaction(amount=["10.00"]), Ambiguous, "cannot be understood"),
    ("amount with a sign", CAPTURE, transaction(amount="-10.00", left="-10.00"), Ambiguous, "cannot be understood"),
    ("amount of nonsense", CAPTURE, transaction(amount="1e3", left="1e3"), Ambiguous, "cannot be understood"),
    ("open, yet refunded", CAPTURE, transaction(refunds={"refund": [refund()]}), Ambiguous, "not open"),
    (
        "under review",
        CAPTURE,
        transaction(processingInfo={"processingStatus": "pending_merchant_review"}),
        Absent,
        "REVIEW",
    ),
    # reversals carry no mark
    ("not reversed", REVERSE, transaction(), Absent, "not reversed"),
    ("reversal done", REVERSE, transaction("AUTH_REVERSAL", left="0.00"), Done, "is reversed"),
    ("reversed, in lower case", REVERSE, transaction("auth_reversal", left="0.00"), Done, "is reversed"),
    ("reversed, nothing open told", REVERSE, transaction("AUTH_REVERSAL", left=None), Done, "is reversed"),
    ("reversed, yet open", REVERSE, transaction("AUTH_REVERSAL"), Ambiguous, "cannot be told"),
    ("captured instead", REVERSE, captured(), Absent, "CAPTURE"),
    ("authorization expired", REVERSE, transaction(left="0.00"), Ambiguous, "cannot be told"),
    ("type of another type", REVERSE, transaction(["AUTH_REVERSAL"]), Ambiguous, "cannot be told"),
    # refunds: by the key in their own metadata, where it is shown
    ("no refund", REFUND, captured("10.00", "0.00"), Absent, "0 refunds"),
    ("an empty list", REFUND, with_refunds(balance="10.00"), Absent, "0 refunds"),
    ("ours", REFUND, with_refunds(refund(**meta()), balance="5.00"), Done, "refund 71 of 5.00 USD"),
    ("ours by the reason", REFUND, with_refunds(refund(reason=f"for {KEY}")), Done, "refund 71"),
    ("ours, pending", REFUND, with_refunds(refund(status="pending", **meta())), Done, "PENDING"),
    ("ours, no status", REFUND, with_refunds(refund(status=None, **meta())), Done, "without a status"),
    ("ours, failed", REFUND, with_refunds(refund(status="FAIL", **meta())), Absent, "FAIL"),
    ("ours, called back", REFUND, with_refunds(refund(status="CANCELLED", **meta())), Ambiguous, "CANCELLED"),
    ("ours, a status nobody knows", REFUND, with_refunds(refund(status="ODD", **meta())), Ambiguous, "ODD"),
    ("ours, another amount", REFUND, with_refunds(refund("4.00", **meta())), Ambiguous, "is of 4.00 USD"),
    ("ours, balance disagrees", REFUND, with_refunds(refund(**meta()), balance="1.00"), Done, "disagree"),
    ("ours twice", REFUND, with_refunds(refund(**meta()), refund(refund_id=72, **meta())), Ambiguous, "71, 72"),
    ("shown twice", REFUND, with_refunds(refund(**meta()), refund(**meta())), Ambiguous, "same id: 71"),
    ("an object for a list", REFUND, captured("10.00", refunds={"refund": refund(**meta())}), Done, "refund 71"),
    ("one that may be ours", REFUND, with_refunds(refund(), balance="5.00"), Ambiguous, "whose it is: 71"),
    ("one without status that may be", REFUND, with_refunds(refund(status=None)), Ambiguous, "whose it is: 71"),
    (
        "another command's of the amount",
        REFUND,
        with_refunds(refund(**meta(OTHER_KEY)), balance="5.00"),
        Absent,
        "none",
    ),
    ("another amount, not marked", REFUND, with_refunds(refund("4.00"), balance="6.00"), Absent, "Of 1 refunds listed"),
    ("refunded more than listed", REFUND, with_refunds(balance="5.00"), Ambiguous, "disagree: 0 refunded"),
    ("listed more than refunded", REFUND, with_refunds(refund("4.00"), balance="10.00"), Ambiguous, "disagree"),
    (
        "failed ones do not count",
        REFUND,
        with_refunds(refund("4.00", status="fail"), balance="10.00"),
        Absent,
        "1 refunds",
    ),
    ("several currencies", REFUND, with_refunds(refund("4.00", currency="EUR")), Ambiguous, "cannot be understood"),
    ("amount that is none", REFUND, with_refunds(refund({"a": 1})), Ambiguous, "cannot be understood"),
    ("balance that is none", REFUND, with_refunds(balance="all"), Ambiguous, "cannot be understood"),
    ("refunds that are none", REFUND, captured(refunds=[refund(**meta())]), Ambiguous, "cannot be understood"),
    ("list of texts", REFUND, captured(refunds={"refund": ["71"]}), Ambiguous, "cannot be understood"),
    ("all: nothing", REFUND_ALL, captured("10.00"), Absent, "0 refunds"),
    ("all: ours", REFUND_ALL, with_refunds(refund("3.21", **meta())), Done, "3.21"),
    ("all: any may be ours", REFUND_ALL, with_refunds(refund("3.21"), refund("2.00", 72)), Ambiguous, "71, 72"),
    # calling back
    ("still pending", CALL_BACK, with_refunds(refund(status="pending")), Absent, "still pending"),
    ("called back", CALL_BACK, with_refunds(refund(status="CANCELLED")), Done, "71"),
    ("settled before", CALL_BACK, with_refunds(refund()), Ambiguous, "cannot be told"),
    (
        "an earlier one called back",
        CALL_BACK,
        with_refunds(refund(status="CANCELLED"), refund(refund_id=72)),
        Ambiguous,
        "told",
    ),
    ("no refund at all", CALL_BACK, captured(), Ambiguous, "cannot be told"),
    ("refunds of another type", CALL_BACK, captured(refunds="none"), Ambiguous, "cannot be understood"),
    # payments: by the caller's own name
    ("paid", SALE, paid(**meta()), Done, "of that amount"),
    ("paid, no mark shown", SALE, paid(), Done, "of that amount"),
    ("paid, another mark", SALE, paid(**meta(OTHER_KEY)), Ambiguous, "another key"),
    ("paid, another amount", SALE, paid(amount="5.01", **meta()), Ambiguous, "not one of 5.00"),
    ("paid, another currency", SALE, paid(currency="EUR", **meta()), Ambiguous, "not one of 5.00"),
    ("paid, failed", SALE, paid(processingInfo={"processingStatus": "Fail"}), Ambiguous, "failed"),
    # records
    ("set", PLAN, plan(), Done, "name"),
    ("amount not set", PLAN, plan(recurringChargeAmount="12.51"), Absent, "not as sent: recurringChargeAmount"),
    ("a field that is not shown", PLAN, {"planId": ID, "name": "Gold"}, Absent, "recurringChargeAmount, trialDays"),
    ("another type", PLAN, plan(trialDays=[3]), Absent, "not as sent: trialDays"),
    ("true is no number", PLAN, plan(trialDays=True), Absent, "not as sent: trialDays"),
    ("inside not set", SHOPPER, {"vaultedShopperId": ID, "firstName": "gerda"}, Absent, "not as sent: paymentSources"),
    (
        "inside set",
        SHOPPER,
        {"vaultedShopperId": ID, "firstName": "Gerda", "paymentSources": {"list": [{"a": 1, "b": 2}]}},
        Done,
        "as sent",
    ),
]


@pytest.mark.parametrize(
    ("command", "content", "expected", "told"), [row[1:] for row in STATES], ids=[row[0] for row in STATES]
)
def test_the_record_shows_what_became_of_a_command(look, held_of, command, content, expected, told):
    """Money is sent again, or not, on the strength of this."""
    found = look(held_of(command), content)

    assert type(found) is expected
    assert told in found.evidence


@pytest.mark.parametrize(
    ("status", "settled"), [("PENDING", False), ("pending", False), ("SUCCESS", True), ("success", True), (None, True)]
)
def test_a_pending_refund_is_done_but_not_settled(look, held_of, status, settled):
    """It can still come to nothing, so it is followed until it cannot."""
    found = look(held_of(REFUND), with_refunds(refund(status=status, **meta())))

    assert found.settled is settled
    assert found.result["refund_transaction_id"] == "71"
    assert found.result.get("refund_status") == status


@pytest.mark.parametrize(
    ("refunds", "expected", "settled"),
    [
        ([refund()], Done, True),
        ([refund(status="PENDING")], Done, False),
        ([refund(status="FAIL")], Absent, None),
        ([refund(status="CANCELED")], Absent, None),
        ([refund(refund_id=72)], Absent, None),
        ([], Absent, None),
        ([refund("4.00")], Ambiguous, None),
        ([refund(), refund()], Ambiguous, None),
        ([refund(refund_id=72, **meta()), refund(status="PENDING")], Done, False),
    ],
)
def test_a_refund_whose_id_is_known_is_followed_by_it(look, held_of, refunds, expected, settled):
    """The list does not show whose a refund is, but the success said which one is ours."""
    found = look(held_of(REFUND), with_refunds(*refunds), result={"refund_transaction_id": "71"})

    assert type(found) is expected
    assert getattr(found, "settled", None) is settled


def test_what_is_found_carries_the_ids_that_the_success_would_have_carried(look, held_of):
    """Whoever reads the result later must not care how it became known."""
    taken = look(held_of(CAPTURE), captured(**meta())).result
    given_back = look(held_of(REFUND), with_refunds(refund(**meta()))).result
    changed = look(held_of(PLAN), plan()).result

    assert taken == {"transaction_id": ID, "processing_status": "SUCCESS"}
    assert given_back == {"refund_transaction_id": "71", "refund_status": "SUCCESS"}
    assert changed == {"plan_id": ID}


# --- the request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "path"),
    [
        *((command, f"/transactions/{ID}") for command in (CAPTURE, REVERSE, REFUND, CALL_BACK)),
        (SALE, "/transactions/web-7%2Fa,87"),
        (PLAN, f"/recurring/plans/{ID}"),
        (SHOPPER, f"/vaulted-shoppers/{ID}"),
        (commands.UpdateSubscription(**GIVEN, fields={"planId": 1}), f"/recurring/subscriptions/{ID}"),
        (commands.UpdateVendor(**GIVEN, fields={"email": "a"}), f"/vendors/{ID}"),
    ],
)
def test_a_lookup_reads_what_the_command_is_about(bluesnap, held_of, command, path):
    """It changes nothing, carries no key, and asks for JSON in the version that the command was sent in."""
    request = bluesnap.lookup(held_of(command))

    assert (request.method, request.url) == ("GET", f"http://127.0.0.1:8090/services/2{path}")
    assert request.body is None
    assert request.repeatable
    assert request.headers["bluesnap-version"] == "3.0"
    assert "idempotency-key" not in {name.lower() for name in request.headers}


def test_what_cannot_be_looked_up_has_no_lookup(bluesnap, held, held_of):
    """It goes to a person without being looked at."""
    readable = {kind for kind in CHANGES if bluesnap.reads_back(kind)}

    assert set(LOOKUPS) == readable
    assert all(bluesnap.lookup(held(kind=kind, target="/vendors")) is None for kind in set(CHANGES) - readable)
    assert bluesnap.lookup(held_of(UNNAMED_SALE)) is None


def test_without_the_merchants_number_no_payment_can_be_looked_up(held_of):
    """BlueSnap finds a payment by the caller's name only beside it."""
    bluesnap = BlueSnap(**CREDENTIALS)

    assert not bluesnap.reads_back("sale")
    assert bluesnap.lookup(held_of(SALE)) is None
    assert bluesnap.lookup(held_of(CAPTURE)) is not None


# --- answers that show nothing -----------------------------------------------------------------------------

_COMMANDS = (CAPTURE, REVERSE, REFUND, REFUND_ALL, CALL_BACK, SALE, PLAN, SHOPPER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        HTML,
        b"<xml>Service is temporarily unavailable</xml>",
        b'{"transactionId": ',
        b"[]",
        json.dumps([transaction()]).encode(),
        json.dumps({"data": transaction(), "status": "ok"}).encode(),
        json.dumps({"transactionId": 7, "planId": 7, "vaultedShopperId": 7, "merchantTransactionId": "a"}).encode(),
        json.dumps({"transactionId": True, "planId": None}).encode(),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(b'{"transactionId": ' + b"9" * 5_000 + b"}", id="a number of 5,000 digits"),
    ],
)
def test_what_is_not_the_record_asked_for_shows_nothing(look, held_of, body):
    """Another transaction, or a page, says nothing of ours: it is read again."""
    found = [look(held_of(command), body) for command in _COMMANDS]

    assert [InDoubt(problem=Problem(code="unreadable_answer", status=200))] * len(_COMMANDS) == found


def test_a_record_that_breaks_off_shows_nothing(look, held_of):
    """What came may even parse, and still lack the refund that is looked for."""
    found = look(held_of(CAPTURE), transaction(), complete=False)

    assert found == InDoubt(problem=Problem(code="truncated_answer", status=200))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, HTML, Unauthorized),
        (429, b"<xml>Too many requests</xml>", Throttled),
        (503, b"<xml>Service is temporarily unavailable</xml>", Throttled),
        (403, HTML, InDoubt),
        (404, HTML, InDoubt),
        (500, b"{}", InDoubt),
        (502, b'{"message": [{"description": "not authorized to view"}]}', InDoubt),
        (302, json.dumps(transaction()).encode(), InDoubt),
        (400, b'{"message": [{"errorName": "INVALID_TRANSACTION_ID"}]}', Rejected),
    ],
)
def test_an_answer_without_the_record_is_an_outcome_of_the_read(look, held_of, status, body, expected):
    """It means for a read what it means for any other request, and nothing for the command."""
    assert type(look(held_of(CAPTURE), body, status=status)) is expected


@pytest.mark.parametrize(("sent", "expected"), [(True, InDoubt), (False, NotSent)])
def test_no_answer_shows_nothing(bluesnap, held_of, sent, expected):
    """The network tells nothing of the transaction."""
    found = bluesnap.finding(held_of(CAPTURE), NoAnswer(sent=sent, code="reset", message="Connection reset"))

    assert found == expected(problem=Problem(code="reset", message="Connection reset"))


@pytest.mark.parametrize(
    "body",
    [
        b'{"message": [{"description": "User is not authorized to view transaction 38486450"}]}',
        b"<xml>User is not authorized to view transaction</xml>",
    ],
)
def test_what_bluesnap_does_not_show_to_us_is_for_a_person(look, held_of, body):
    """It says so of what does not exist and of what is another's, so it is no proof that nothing was done."""
    found = look(held_of(CAPTURE), body, status=403)

    assert isinstance(found, Ambiguous)
    assert ID in found.evidence


def test_several_payments_by_one_name_are_for_a_person(look, held_of):
    """The name was to be the caller's own."""
    found = look(held_of(SALE), {"message": [{"errorName": "MULTIPLE_TRANSACTIONS_FOUND"}]}, status=400)

    assert isinstance(found, Ambiguous)


# --- what a person is told ---------------------------------------------------------------------------------


def test_evidence_is_short_plain_and_about_nobody(look, held_of):
    """It stands in tickets, on terminals and in mails."""
    hostile = "\x1b[31m\r\n\x00\u202e" + "x" * 5_000
    odd = {"cardTransactionType": hostile, "currency": hostile, "processingInfo": {"processingStatus": hostile}}
    record = captured(**odd, refunds={"refund": [refund(refund_id=f"{hostile}{n}") for n in range(50)]})
    shopper = {"vaultedShopperId": ID, "firstName": "Gerda", "lastName": hostile}

    told = [
        look(held_of(command), record | shopper | {"planId": ID}).evidence for command in _COMMANDS if command != SALE
    ]

    assert all(len(each) <= 500 and each.isprintable() for each in told)
    assert not any("Gerda" in each for each in told)


def test_a_huge_record_is_looked_through_once(look, held_of):
    """As much as the transport lets through, 4 MB, must not keep a worker busy: each list is walked, never compared."""
    many = [refund("0.01", n) for n in range(100, 40_000)]

    found = look(held_of(REFUND), with_refunds(*many, refund(**meta())))

    assert isinstance(found, Done)


# --- against the sandbox -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A kind of command, and what must be there for it."""

    make: type
    fields: dict
    captured: bool = False


SCENES = {
    "capture": Scene(make=commands.Capture, fields={"amount": 500, "currency": "USD"}),
    "whole capture": Scene(make=commands.Capture, fields={"amount": 1000, "currency": "USD"}),
    "reversal": Scene(make=commands.AuthReversal, fields={}),
    "refund": Scene(make=commands.Refund, fields={"amount": 500, "currency": "USD"}, captured=True),
    "refund of all": Scene(make=commands.Refund, fields={}, captured=True),
    "plan": Scene(make=commands.UpdatePlan, fields={"fields": {"name": "Gold"}}),
    "subscription": Scene(make=commands.UpdateSubscription, fields={"fields": {"quantity": 2}}),
    "shopper": Scene(make=commands.UpdateShopper, fields={"fields": {"firstName": "Gerda"}}),
    "vendor": Scene(make=commands.UpdateVendor, fields={"fields": {"email": "a"}}),
}
RECORDS = {
    "plan": (commands.CreatePlan, "plan_id"),
    "subscription": (commands.CreateSubscription, "subscription_id"),
    "shopper": (commands.CreateShopper, "vaulted_shopper_id"),
    "vendor": (commands.CreateVendor, "vendor_id"),
}


@pytest.fixture
def send(bluesnap, stand_in):
    return lambda held: bluesnap.outcome(held, stand_in.ask(bluesnap.request(held)))


@pytest.fixture
def read_back(bluesnap, stand_in):
    return lambda held: bluesnap.finding(held, stand_in.ask(bluesnap.lookup(held)))


@pytest.fixture
def play(stand_in, held_of, send):
    """Something at the sandbox and a command about it, ready to be sent and looked up."""
    stand_in.world.switch(bluesnap_refund_details=True)

    def begin(name):
        scene = SCENES[name]
        if name in RECORDS:
            create, kept_as = RECORDS[name]
            made = send(held_of(create(**ACCOUNT, order_id="shop-1", fields={"note": "before"}), key=OTHER_KEY))
            about = made.result[kept_as]
        else:
            about = stand_in.world.create_transaction(amount="10.00", captured=scene.captured)["transactionId"]
        return held_of(scene.make(**ACCOUNT, order_id=about, **scene.fields))

    return begin


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("form", ["text", "number"])
def test_what_was_done_while_the_reply_was_lost_is_found(stand_in, play, send, read_back, name, form):
    """The reason for looking at all; amounts come as text or as numbers."""
    stand_in.world.switch(bluesnap_amounts=form)
    held = play(name)
    before = len(stand_in.world.effects())
    stand_in.world.fault("drop_reply")

    lost, found = send(held), read_back(held)

    assert isinstance(lost, InDoubt)
    assert isinstance(found, Done)
    assert len(stand_in.world.effects()) == before + 1


@pytest.mark.parametrize("name", ["capture", "whole capture", "reversal", "refund", "refund of all"])
def test_a_look_finds_the_ids_that_the_success_gave(play, send, read_back, name):
    """A refund of this capture needs them, however they became known."""
    held = play(name)

    answered, found = send(held), read_back(held)

    ids = {"transaction_id", "refund_transaction_id", "refund_status"}
    assert {k: v for k, v in answered.result.items() if k in ids} == {k: v for k, v in found.result.items() if k in ids}


@pytest.mark.parametrize("name", SCENES)
def test_what_was_not_carried_out_is_absent(stand_in, play, send, read_back, name):
    """Only what is not there may be sent again."""
    held = play(name)
    stand_in.world.fault("reset", executed=False)

    lost, found = send(held), read_back(held)

    assert isinstance(lost, InDoubt)
    assert isinstance(found, Absent)


@pytest.mark.parametrize("name", SCENES)
def test_a_read_that_lags_says_absent_of_what_was_done(stand_in, play, send, read_back, name):
    """Which is why one look is no proof."""
    held = play(name)
    send(held)
    stand_in.world.fault("stale_read", method="GET")

    first, second = read_back(held), read_back(held)

    assert [Absent, Done] == [type(first), type(second)]


@pytest.mark.parametrize(("name", "act"), [("capture", "capture"), ("whole capture", "capture"), ("refund", "refund")])
def test_a_strangers_act_of_the_same_amount_is_for_a_person(stand_in, play, read_back, name, act):
    """Without metadata it may be ours as well as anybody's, so neither done nor absent may be said."""
    held = play(name)
    stand_in.world.fault("stranger", act=act, amount="10.00" if name == "whole capture" else "5.00")

    assert isinstance(read_back(held), Ambiguous)


def test_two_captures_of_5_on_10_after_a_lost_reply_are_one(stand_in, play, send, read_back):
    """No key protects a PUT: what is found must not be sent again."""
    held = play("capture")
    stand_in.world.fault("drop_reply")
    send(held)

    found = read_back(held)

    assert isinstance(found, Done)
    assert [effect["amount"] for effect in stand_in.world.effects()] == ["5.00"]


def test_a_refund_that_the_list_does_not_show_to_be_ours_is_for_a_person(stand_in, play, send, read_back):
    """BlueSnap's lists need not show the metadata; a stranger's refund of the same amount would look the same."""
    held = play("refund")
    stand_in.world.switch(bluesnap_refund_details=False)
    stand_in.world.fault("drop_reply")
    send(held)

    assert isinstance(read_back(held), Ambiguous)


@pytest.mark.parametrize(("ends", "expected"), [("SUCCESS", Done), ("FAIL", Absent)])
def test_a_pending_refund_is_followed_to_its_end(stand_in, play, send, read_back, ends, expected):
    """Its own id is enough, though the list does not show whose it is."""
    held = play("refund")
    stand_in.world.switch(bluesnap_refund_details=False, bluesnap_refund_status="PENDING", bluesnap_pending_ends=ends)
    answered = send(held)

    at_first = read_back(replace(held, result=answered.result))
    stand_in.world.advance(73 * 3600)
    at_last = read_back(replace(held, result=answered.result))

    assert isinstance(answered, Succeeded)
    assert not answered.settled
    assert isinstance(at_first, Done)
    assert not at_first.settled
    assert type(at_last) is expected
    assert getattr(at_last, "settled", True)


def test_a_refund_that_was_called_back_while_the_reply_was_lost_is_found(stand_in, play, send, read_back, held_of):
    """A DELETE carries no key and leaves nothing but the refund's status."""
    stand_in.world.switch(bluesnap_refund_status="PENDING")
    refunding = play("refund")
    send(refunding)
    call_back = held_of(commands.CancelPendingRefund(**ACCOUNT, order_id=refunding.order_id))
    before = read_back(call_back)
    stand_in.world.fault("drop_reply")

    send(call_back)

    assert [Absent, Done] == [type(before), type(read_back(call_back))]


@pytest.mark.parametrize(("fault", "method"), [("booked_twice", "POST"), ("shown_twice", "GET")])
def test_two_equal_refunds_under_our_key_are_for_a_person(stand_in, play, send, read_back, fault, method):
    """Either money moved twice or the read lies; both are named."""
    held = play("refund")
    stand_in.world.fault(fault, method=method)
    send(held)

    assert isinstance(read_back(held), Ambiguous)


def test_a_payment_is_found_by_the_callers_own_name(stand_in, send, read_back, held_of):
    """There is no id of BlueSnap's to ask for while the reply is lost."""
    held = held_of(SALE)
    before = read_back(held)
    stand_in.world.fault("drop_reply")
    send(held)

    found = read_back(held)

    assert isinstance(before, Ambiguous)  # BlueSnap does not tell what is not there from what is another's
    assert isinstance(found, Done)
    assert [effect["id"] for effect in stand_in.world.effects()] == [found.result["transaction_id"]]


@pytest.mark.parametrize("shape", ["object", "empty", "list", "empty_list", "null", "text", "number"])
@pytest.mark.parametrize("name", SCENES)
def test_an_answer_of_another_shape_shows_nothing(stand_in, play, send, read_back, name, shape):
    """It is valid JSON, says 200, and is not what was asked for."""
    held = play(name)
    send(held)
    stand_in.world.fault("unexpected_shape", method="GET", shape=shape, executed=True)

    assert isinstance(read_back(held), InDoubt)


# --- whatever may come -------------------------------------------------------------------------------------

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([KEY, "5.00", ID])
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
_MONEY = _JSON | st.sampled_from(["5.00", "10.00", 5, 10.0])
_METADATA = _JSON | st.fixed_dictionaries(
    {"metaData": _JSON | st.lists(st.fixed_dictionaries({"metaKey": _JSON, "metaValue": _SCALARS}), max_size=2)}
)
_REFUND = st.fixed_dictionaries(
    {},
    optional={
        "refundTransactionId": _SCALARS | st.just(71),
        "amount": _MONEY,
        "refundStatus": _JSON | st.sampled_from(["SUCCESS", "PENDING", "FAIL"]),
        "transactionMetaData": _METADATA,
    },
)
_RECORDS = (
    st.fixed_dictionaries(
        {"transactionId": st.sampled_from([ID, int(ID)]), "planId": st.just(ID), "vaultedShopperId": st.just(int(ID))},
        optional={
            "cardTransactionType": _JSON | st.sampled_from(["AUTH_ONLY", "CAPTURE", "REFUND"]),
            "amount": _MONEY,
            "openToCapture": _MONEY,
            "currency": _JSON,
            "transactionMetaData": _METADATA,
            "processingInfo": _JSON,
            "refunds": _JSON | st.fixed_dictionaries({"refund": _JSON | st.lists(_REFUND | _JSON, max_size=3)}),
            "name": _JSON,
        },
    )
    | _JSON
)


@given(content=_RECORDS, command=st.sampled_from(_COMMANDS))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_done_for_a_body_that_does_not_hold_the_marks(look, held_of, content, command):
    """Whatever BlueSnap, or somebody in its place, may write: no exception, no success, and never done by accident."""
    found = look(held_of(command), content)

    assert type(found) in {Absent, Ambiguous, InDoubt}


@given(body=st.binary(max_size=200), status=st.integers(100, 599), command=st.sampled_from(_COMMANDS))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_show_nothing(look, held_of, body, status, command):
    """A proxy writes what it likes."""
    found = look(held_of(command), body, status=status)

    assert type(found) not in {Done, Absent, Succeeded}
