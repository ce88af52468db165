"""The faults that were there before BlueSnap, as they show there, and those that only it has."""

import contextlib
import http.client
import json

import pytest

from worker.sandbox.faults import KINDS


def amounts(sandbox):
    return [effect["amount"] for effect in sandbox.effects()]


def named(answer):
    [message] = answer.json["message"]
    return answer.status, message["errorName"], message.get("code")


def test_a_dropped_reply_to_a_capture_was_executed_and_a_repeat_doubles_it(sandbox, blue_shop, transaction_id):
    """This is why a capture is read back before it is sent again."""
    sandbox.fault("drop_reply")

    with pytest.raises(http.client.RemoteDisconnected):
        blue_shop.capture(transaction_id, "5.00", key="key-1")
    after = blue_shop.read(transaction_id).json["openToCapture"]
    blue_shop.capture(transaction_id, "5.00", key="key-1")

    assert "5.00" == after
    assert ["5.00", "5.00"] == amounts(sandbox)


def test_a_dropped_reply_to_a_refund_is_covered_by_its_key(sandbox, blue_shop, sale_id):
    """A refund is a POST, so its repeat is harmless."""
    sandbox.fault("drop_reply")

    with pytest.raises(http.client.RemoteDisconnected):
        blue_shop.refund(sale_id, "5.00", key="key-1")
    again = blue_shop.refund(sale_id, "5.00", key="key-1")

    assert (200, "key-1") == (again.status, again.headers["Idempotency-Key"])
    assert ["5.00"] == amounts(sandbox)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (503, "PAYMENT_GENERAL_FAILURE", "10000")),
        ({"status": 400}, (400, "VALIDATION_GENERAL_FAILURE", "10001")),
        ({"status": 400, "code": "INSUFFICIENT_FUNDS"}, (400, "INSUFFICIENT_FUNDS", "14002")),
        ({"status": 400, "code": "PROCESSING_TIMEOUT"}, (400, "PROCESSING_TIMEOUT", "14002")),
        ({"status": 500, "code": "IDEMPOTENCY_SERVICE_TIMEOUT"}, (500, "IDEMPOTENCY_SERVICE_TIMEOUT", "60106")),
        ({"status": 400, "code": "TRANSACTION_LOCKED"}, (400, "TRANSACTION_LOCKED", None)),
        ({"status": 400, "code": "NEVER_SEEN"}, (400, "NEVER_SEEN", None)),
    ],
)
def test_a_scripted_status_has_bluesnaps_form_and_any_name(sandbox, blue_shop, transaction_id, options, expected):
    """One number has many meanings, and for some names no number is known."""
    sandbox.fault("status", **options)

    answer = blue_shop.capture(transaction_id, "5.00")

    assert expected == named(answer)
    assert [] == amounts(sandbox)


def test_a_processors_timeout_may_hide_an_effect(sandbox, blue_shop, transaction_id):
    """A 400 that is no refusal: the processor may have acted."""
    sandbox.fault("execute_then_status", status=400, code="PROCESSING_TIMEOUT")

    answer = blue_shop.capture(transaction_id, "5.00")

    assert (400, "PROCESSING_TIMEOUT", "14002") == named(answer)
    assert ["5.00"] == amounts(sandbox)


def test_too_many_requests_get_one_line_of_xml_and_no_quota(sandbox, blue_shop, transaction_id):
    """No limits are published, and there is no Retry-After."""
    sandbox.fault("throttle")

    answer = blue_shop.capture(transaction_id, "5.00")

    assert (429, "application/xml") == (answer.status, answer.headers["Content-Type"])
    assert answer.body.startswith(b"<xml>")
    assert {None} == {answer.headers[name] for name in ("X-Ratelimit-Limit", "Retry-After")}
    assert [] == amounts(sandbox)


@pytest.mark.parametrize("location", [True, False])
def test_a_success_may_lack_the_id_of_what_was_made(sandbox, blue_shop, sale_id, location):
    """The money moved, whatever the body says; reading this as a failure pays twice."""
    sandbox.fault("no_id_header", times=3, location=location)

    refunded = blue_shop.refund(sale_id, "4.00")
    authorized = blue_shop.authorize()
    vendor = blue_shop.call("POST", "vendors", {})

    assert [200, 200, 201] == [answer.status for answer in (refunded, authorized, vendor)]
    assert {"amount", "refundStatus"} == set(refunded.json)
    assert "transactionId" not in authorized.json
    assert location is (vendor.headers["Location"] is not None)
    assert 3 == len(sandbox.effects())


@pytest.mark.parametrize("kind", ["payment_method_failed", "singular_error"])
def test_what_only_klarna_knows_befalls_nobody_here(sandbox, shop, blue_shop, order_id, kind):
    """BlueSnap has no such answers, so the fault waits for a request to Klarna."""
    sandbox.fault(kind)

    here = blue_shop.authorize("5.00")
    there = shop.capture(order_id, 1_000)

    assert [200, 403] == [here.status, there.status]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "transactions/{id}", None),
        ("POST", "transactions/refund/{id}", {"amount": "1.00"}),
        ("PUT", "transactions", {"cardTransactionType": "CAPTURE", "transactionId": "{id}", "amount": "1.00"}),
        ("DELETE", "transactions/pending-refund/{id}", None),
    ],
)
def test_a_fault_finds_its_transaction_in_path_or_body(sandbox, blue_shop, method, path, body):
    """A capture names its transaction only in the body, and a scenario must hit that one and no other."""
    victim, other = (sandbox.create_transaction()["transactionId"] for _ in range(2))
    sandbox.fault("status", order_id=victim, status=502, times=None)

    def ask(transaction_id):
        named = body and {name: value.format(id=transaction_id) for name, value in body.items()}
        return blue_shop.call(method, path.format(id=transaction_id), named).status

    assert 502 != ask(other)
    assert 502 == ask(victim)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"transactionId": null}', b""])
def test_a_body_that_names_no_transaction_is_nobodys(sandbox, blue_shop, body):
    """Looking for the name must not break on what is wrong with the body."""
    sandbox.fault("status", order_id="17", status=502)

    answer = blue_shop.call("PUT", "transactions", body)

    assert 400 == answer.status


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "transactions/{id}", None),
        ("PUT", "transactions", {"cardTransactionType": "CAPTURE", "transactionId": "{id}", "amount": "1.00"}),
        ("POST", "transactions/refund/{id}", {"amount": "1.00"}),
        ("DELETE", "transactions/pending-refund/{id}", None),
        ("POST", "vendors", {}),
        ("HEAD", "transactions/{id}", None),
        ("GET", "nothing", None),
    ],
)
def test_no_fault_breaks_the_sandbox_itself(
    sandbox, new_blue_shop, transaction_id, kind, method, path, body
):  # a table of calls
    """Every kind befalls every sort of answer, and the next request is served."""
    sandbox.fault(kind, **({"seconds": 0.01} if kind in ("delay", "hang", "slow_body") else {}))
    victim, next_one = new_blue_shop(sandbox.base_url), new_blue_shop(sandbox.base_url)
    named = body and {name: value.format(id=transaction_id) for name, value in body.items()}

    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        victim.call(method, path.format(id=transaction_id), named)
    victim.connection.close()
    answer = next_one.read(transaction_id)

    assert 200 == answer.status
    assert 2 == len(sandbox.requests())


def test_the_request_of_a_fault_is_kept_with_its_provider(sandbox, shop, blue_shop, order_id, transaction_id):
    """Whoever reads the ledger must see whose answer was scripted."""
    sandbox.fault("html", times=2)
    shop.order(order_id)
    blue_shop.read(transaction_id)

    seen = [(request["provider"], request["fault"]) for request in sandbox.requests()]

    assert [("klarna", "html"), ("bluesnap", "html")] == seen


def test_the_ledger_shows_headers_and_body_but_no_credentials(sandbox, blue_shop, transaction_id):
    """What was sent is evidence; what it was sent with is nobody's business."""
    blue_shop.capture(transaction_id, "5.00", key="key-1")

    [request] = sandbox.requests()

    assert ("3.0", "key-1") == (request["headers"]["bluesnap-version"], request["headers"]["Idempotency-Key"])
    assert "5.00" == json.loads(request["body"])["amount"]
    assert "authorization" not in {name.lower() for name in request["headers"]}
