from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.service.stage import POLICY
from worker.domain.ladder import Safety, Standing, decide
from worker.domain.outcome import InDoubt, NotNow, NotSent, Problem, Rejected, Succeeded, Throttled, Unauthorized
from worker.domain.state import State
from worker.domain.ticket import Reason
from worker.ports import Answer, NoAnswer
from worker.providers.bluesnap import BY_CODE, BY_ERROR_NAME, OPERATIONS, BlueSnap

KINDS = sorted(OPERATIONS)
READS = [kind for kind in KINDS if kind.startswith("read_")]
CHANGES = [kind for kind in KINDS if kind not in READS]
POSTS = [kind for kind in KINDS if OPERATIONS[kind].method == "POST"]
UNPROTECTED = [kind for kind in CHANGES if kind not in POSTS]
KEY = "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"
HTML = b"<!DOCTYPE html><html><body><h1>Request blocked</h1></body></html>"
REUSED = "SAME_IDEMPOTENCY_KEY_WAS_ALREADY_IN_USE_WITH_PREVIOUS_DIFFERENT_REQUEST"
THRESHOLDS = [
    "Client request rate is too high",
    "Client request concurrency is too high",
    "Request rate for service is too high",
    "Request concurrency to specific service is too high",
    "Service is temporarily unavailable",
]
WAITS = (timedelta(seconds=5), timedelta(minutes=5), timedelta(hours=5))


@pytest.fixture
def bluesnap():
    return BlueSnap(account="bluesnap-us", base_url="https://ws.bluesnap.com", username="u", password="p")


@pytest.fixture
def outcome(bluesnap, held):
    def of(kind, status, *, body=b"", headers=None, complete=True, **changes):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = Answer(status=status, headers=headers or {}, body=raw, complete=complete)
        return bluesnap.outcome(held(kind=kind, target="/vendors", **changes), answer)

    return of


@pytest.fixture
def outcomes(outcome):
    """The outcome of the same answer for each of several kinds."""
    return lambda kinds, status, **answer: {kind: outcome(kind, status, **answer) for kind in kinds}


@pytest.fixture
def outcomes_without_answer(bluesnap, held):
    return lambda **facts: {
        kind: bluesnap.outcome(held(kind=kind, target="/vendors"), NoAnswer(**facts)) for kind in KINDS
    }


def _error(name, description="why", code="14002", **more):
    return {"errorName": name, "code": code, "description": description} | more


def _errors(*errors):
    return {"message": list(errors)}


def _xml(*errors):
    inside = "".join(
        f"<message><error-name>{name}</error-name><code>{code}</code><description>{said}</description></message>"
        for name, code, said in errors
    )
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<messages xmlns="http://ws.plimus.com">'
    return f"{head}{inside}</messages>".encode()


# --- no answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["resolve_failed", "connect_failed", "tls_failed"])
def test_a_connection_that_never_came_up_is_not_sent(outcomes_without_answer, code):
    """No byte reached BlueSnap."""
    ended = outcomes_without_answer(sent=False, code=code, message="Could not connect")

    assert ended == dict.fromkeys(KINDS, NotSent(problem=Problem(code=code, message="Could not connect")))


@pytest.mark.parametrize("code", ["no_answer", "reset", "send_failed"])
def test_no_answer_to_what_was_sent_is_in_doubt(outcomes_without_answer, code):
    """It may have been executed."""
    ended = outcomes_without_answer(sent=True, code=code, message="Operation timed out")

    assert ended == dict.fromkeys(KINDS, InDoubt(problem=Problem(code=code, message="Operation timed out")))


# --- done --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"{broken", b'{"amount": "999.00"}'])
def test_any_2xx_means_that_a_change_was_made(outcomes, status, body):
    """Calling one a failure would send the money twice; what amount it names decides nothing."""
    ended = outcomes(CHANGES, status, body=body)

    assert dict.fromkeys(CHANGES, Succeeded) == {kind: type(each) for kind, each in ended.items()}
    assert {kind: {} for kind in UNPROTECTED} == {kind: ended[kind].result for kind in UNPROTECTED}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param({"headers": {"content-type": "text/html"}, "body": HTML}, "unexplained_200", id="a proxy's page"),
        pytest.param({"body": b" <html>Maintenance"}, "unexplained_200", id="a page without a type"),
        pytest.param({"body": b"\xef\xbb\xbf<html>"}, "unexplained_200", id="a page with a byte order mark"),
        pytest.param({"body": _xml()}, "unexplained_200", id="xml"),
        pytest.param({"headers": {"content-type": "Text/HTML"}, "body": b"ok"}, "unexplained_200", id="text as html"),
        pytest.param({"headers": {"content-type": "text/html"}}, "unexplained_200", id="an empty page"),
        pytest.param({"body": b'{"transactionId": "1', "complete": False}, "truncated_200", id="a fragment"),
        pytest.param({"body": b"", "complete": False}, "truncated_200", id="nothing of what was promised"),
    ],
)
def test_a_change_is_not_done_because_somebody_answered_2xx(outcomes, answer, code):
    """A maintenance page with status 200 moves no money; a look at the transaction, or the same key, tells."""
    ended = outcomes(CHANGES, 200, **answer)

    assert dict.fromkeys(CHANGES, InDoubt(problem=Problem(code=code, status=200))) == ended


def test_a_page_or_a_fragment_with_bluesnaps_own_marks_is_a_success(outcome):
    """The echo of our key, or the place of what was made, comes from nobody else."""
    echoed = outcome("refund", 200, headers={"idempotency-key": KEY}, idempotency_key=KEY, body=b"{", complete=False)
    placed = outcome("create_vendor", 201, headers={"location": "/services/2/vendors/8"}, body=HTML)

    assert [Succeeded, Succeeded] == [type(echoed), type(placed)]


@pytest.mark.parametrize(
    ("status", "settled"), [("PENDING", False), ("pending", False), ("SUCCESS", True), ("", True), (None, True)]
)
def test_a_pending_refund_is_done_but_not_settled(outcome, status, settled):
    """It can still come to nothing, so somebody has to follow it; a status that is not named is no failure."""
    ended = outcome("refund", 200, body={"refundTransactionId": 7, "refundStatus": status})

    assert isinstance(ended, Succeeded)
    assert ended.settled is settled


@pytest.mark.parametrize(
    ("kind", "body", "kept"),
    [
        ("capture", {"transactionId": "38486450"}, {"transaction_id": "38486450"}),
        ("capture", {"transactionId": 38486450}, {"transaction_id": "38486450"}),
        ("capture", {"processingInfo": {"processingStatus": "success"}}, {"processing_status": "success"}),
        ("capture", {"processingInfo": "success", "transactionId": True}, {}),
        (
            "refund",
            {"refundTransactionId": 1012082893, "amount": "10.00", "refundStatus": "PENDING"},
            {"refund_transaction_id": "1012082893", "refund_status": "PENDING"},
        ),
        ("refund", {"refundTransactionId": 1012082893}, {"refund_transaction_id": "1012082893"}),
        ("refund", {"refundStatus": "SUCCESS"}, {"refund_status": "SUCCESS"}),
        ("sale", {"transactionId": "1", "vaultedShopperId": 2}, {"transaction_id": "1", "vaulted_shopper_id": "2"}),
        ("create_plan", {"planId": 3}, {"plan_id": "3"}),
        ("create_subscription", {"subscriptionId": 4}, {"subscription_id": "4"}),
        ("create_vendor", {"vendorId": 5}, {"vendor_id": "5"}),
        ("capture", {"transactionId": {"a": 1}, "planId": None}, {}),
        ("capture", {"transactionId": "x" * 300}, {"transaction_id": "x" * 255}),
        ("capture", {"transactionId": "1\x1b2"}, {"transaction_id": "1 2"}),
    ],
)
def test_ids_and_states_are_kept_where_they_are_given(outcome, kind, body, kept):
    """Later commands need them; that one is missing is no failure, because the money has moved."""
    ended = outcome(kind, 200, body=body)

    assert isinstance(ended, Succeeded)
    assert kept == {name: value for name, value in ended.result.items() if name != "key_echoed"}


@pytest.mark.parametrize(
    ("kind", "location", "kept"),
    [
        ("create_vendor", "https://ws.bluesnap.com/services/2/vendors/8128", {"vendor_id": "8128"}),
        ("create_vendor", "/services/2/vendors/8128/?x=1", {"vendor_id": "8128"}),
        ("create_shopper", "https://h/services/2/vaulted-shoppers/2078", {"vaulted_shopper_id": "2078"}),
        ("create_plan", "https://h/services/2/recurring/plans/22", {"plan_id": "22"}),
        ("create_subscription", "https://h/services/2/recurring/subscriptions/44", {"subscription_id": "44"}),
        ("create_on_demand_subscription", "https://h/services/2/recurring/ondemand/44", {"subscription_id": "44"}),
        ("create_vendor", "", {}),
        ("refund", "https://h/services/2/transactions/1", {}),
    ],
)
def test_the_id_of_what_was_created_is_found_in_the_location(outcome, kind, location, kept):
    """A 201 has no body."""
    ended = outcome(kind, 201, headers={"location": location})

    assert kept == {name: value for name, value in ended.result.items() if name != "key_echoed"}


def test_the_id_in_the_body_wins_over_the_location(outcome):
    """It was meant to be read."""
    ended = outcome("create_vendor", 201, body={"vendorId": 1}, headers={"location": "/vendors/2"})

    assert ended.result["vendor_id"] == "1"


@pytest.mark.parametrize("kind", POSTS)
def test_a_keyed_answer_says_whether_its_key_was_echoed(outcome, kind):
    """A repeat without the echo shows that keys are not enabled for the account."""
    echoed = outcome(kind, 200, headers={"idempotency-key": f" {KEY} "}, idempotency_key=KEY)
    other = outcome(kind, 200, headers={"idempotency-key": "another"}, idempotency_key=KEY)
    silent = outcome(kind, 200, idempotency_key=KEY)

    assert [True, False, False] == [each.result["key_echoed"] for each in (echoed, other, silent)]
    assert "key_echoed" not in outcome(kind, 200, headers={"idempotency-key": KEY}, keyed=False).result


@pytest.mark.parametrize("kind", UNPROTECTED)
def test_an_answer_to_what_carried_no_key_says_nothing_of_one(outcome, kind):
    """There is nothing to echo."""
    assert "key_echoed" not in outcome(kind, 200, headers={"idempotency-key": KEY}).result


@pytest.mark.parametrize("content", [{"transactionId": "1", "openToCapture": "5.00"}, [], {}])
def test_what_was_read_is_the_result(outcomes, content):
    """The caller asked for it."""
    ended = outcomes(READS, 200, body=content)

    assert ended == dict.fromkeys(READS, Succeeded(result={"answer": content}, status=200))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"7", HTML, b'{"a": ', b'{"a": NaN}', b'{"a": 1e999}', b"\xff{}", _xml()]
)
def test_an_unreadable_answer_to_a_read_is_in_doubt(outcomes, body):
    """Nothing was learned; a read can be repeated."""
    ended = outcomes(READS, 200, body=body)

    assert ended == dict.fromkeys(READS, InDoubt(problem=Problem(code="unreadable_answer", status=200)))


def test_a_read_that_breaks_off_is_in_doubt(outcomes):
    """Half of a list is another list."""
    ended = outcomes(READS, 200, body=b"{}", complete=False)

    assert ended == dict.fromkeys(READS, InDoubt(problem=Problem(code="truncated_answer", status=200)))


# --- statuses that speak for themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected", "ours"),
    [
        (401, Unauthorized, "unauthorized"),
        (408, InDoubt, "request_timeout"),
        (409, InDoubt, "conflict"),
        (413, Rejected, "request_too_large"),
        (429, Throttled, "too_many_requests"),
    ],
)
@pytest.mark.parametrize("body", [b"", HTML, b"{}", b"<xml>", b"[]"])
def test_some_statuses_need_no_body(outcomes, status, expected, ours, body):
    """A 401 comes as a page of the server's, a 429 as a bare line."""
    ended = outcomes(KINDS, status, body=body)

    assert ended == dict.fromkeys(KINDS, expected(problem=Problem(code=ours, status=status)))


def test_a_request_that_still_runs_is_in_doubt(outcomes):
    """The first request with this key has not ended: wait, and ask with the same key."""
    name = "REQUEST_WITH_SAME_IDEMPOTENCY_KEY_ALREADY_IN_PROGRESS"

    ended = outcomes(KINDS, 409, body=_errors(_error(name, "In progress", code=60102)))

    assert ended == dict.fromkeys(KINDS, InDoubt(problem=Problem(code=name, message="In progress", status=409)))


@pytest.mark.parametrize("status", [100, 300, 301, 302, 304, 307, 500, 501, 502, 503, 504, 599, 600])
@pytest.mark.parametrize("body", [b"", HTML, b"[]", _errors(), {"message": "Service Unavailable"}])
def test_redirects_and_server_errors_are_in_doubt(outcome, status, body):
    """Whoever answered so did not say what became of the request."""
    ended = outcome("capture", status, body=body)

    assert isinstance(ended, InDoubt)
    assert ended.problem.code == f"unexplained_{status}"


@pytest.mark.parametrize("status", [302, 500, 502, 503, 504])
@pytest.mark.parametrize("name", ["VALIDATION_GENERAL_FAILURE", "INSUFFICIENT_FUNDS", REUSED])
def test_an_error_name_does_not_make_a_server_error_a_refusal(outcomes, status, name):
    """An internal error may come after the deed."""
    ended = outcomes(KINDS, status, body=_errors(_error(name)))

    assert {InDoubt} == {type(each) for each in ended.values()}
    assert {name} == {each.problem.code for each in ended.values()}


# --- thresholds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", THRESHOLDS)
@pytest.mark.parametrize("status", [423, 429, 503])
@pytest.mark.parametrize("form", ["<xml>{}</xml>", "<xml>{}.</xml>\n", " <XML> {} </XML>"])
def test_a_call_that_was_turned_away_at_a_threshold_is_throttled(outcomes, line, status, form):
    """It was not looked at, so it may be sent again, even a capture."""
    ended = outcomes(KINDS, status, body=form.format(line).encode())

    assert {Throttled} == {type(each) for each in ended.values()}
    assert line in ended["capture"].problem.message


@pytest.mark.parametrize("status", [423, 503])
@pytest.mark.parametrize(
    "body",
    [
        b"Service is temporarily unavailable",
        b"<html>Service is temporarily unavailable</html>",
        b"<xml>Something else is too high</xml>",
        b"<xml>Client request rate is too high</xml><xml>x</xml>",
        b"<xml><a>Client request rate is too high</a></xml>",
        b"<xml>" + b"x" * 5_000 + b"</xml>",
    ],
)
def test_what_only_looks_like_a_threshold_is_in_doubt(outcome, status, body):
    """A gateway in between says the same words after it has passed the request on."""
    assert isinstance(outcome("capture", status, body=body), InDoubt)


def test_a_threshold_is_not_believed_when_the_line_breaks_off(outcome):
    """What follows might say more."""
    ended = outcome("capture", 503, body=b"<xml>Client request rate is too high</xml>", complete=False)

    assert ended == InDoubt(problem=Problem(code="truncated_503", status=503))


# --- refusals, by the name of the error --------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("VALIDATION_GENERAL_FAILURE", Rejected),
        ("INVALID_API_VERSION", Rejected),
        ("INVALID_HTTP_METHOD", Rejected),
        ("INVALID_TRANSACTION_ID", Rejected),
        ("TRANSACTION_EXPIRED", Rejected),
        ("USER_NOT_AUTHORIZED", Rejected),
        ("FRAUD_DETECTED", Rejected),
        ("INSUFFICIENT_FUNDS", Rejected),
        ("AUTHORIZATION_EXPIRED", Rejected),
        ("AUTHORIZATION_NOT_FOUND", Rejected),
        ("AUTHORIZATION_AMOUNT_ALREADY_REVERSED", Rejected),
        ("EXPIRED_CARD", Rejected),
        ("REFUND_MAX_AMOUNT_FAILURE", Rejected),
        ("PROCESSING_DUPLICATE", Rejected),
        ("TRANSACTION_ALREADY_CAPTURED", Rejected),
        ("TRANSACTION_ALREADY_EXISTS", Rejected),
        ("IDEMPOTENCY_KEY_MAX_LENGTH_LIMIT_EXCEEDED", Rejected),
        ("INVALID_IDEMPOTENCY_KEY", Rejected),
        ("SOMETHING_NEW", Rejected),
        ("REFUND_GENERAL_FAILURE", NotNow),
        ("REFUND_IN_PROCESS", NotNow),
        ("TRANSACTION_LOCKED", NotNow),
        ("PROCESSING_TIMEOUT", InDoubt),
        ("SYSTEM_TECHNICAL_ERROR", InDoubt),
        ("THE_ISSUER_IS_UNAVAILABLE_OR_OFFLINE", InDoubt),
        ("BLS_CONNECTION_PROBLEM", InDoubt),
        ("IDEMPOTENCY_SERVICE_TIMEOUT", InDoubt),
        ("REQUEST_WITH_SAME_IDEMPOTENCY_KEY_ALREADY_IN_PROGRESS", InDoubt),
        ("PAYMENT_GENERAL_FAILURE", InDoubt),
        ("ACQUIRER_TIMED_OUT", InDoubt),
        ("PROCESSOR_TIME_OUT", InDoubt),
        ("ACQUIRER_CONNECTION_LOST", InDoubt),
        ("BANK_UNAVAILABLE", InDoubt),
    ],
)
def test_the_name_of_an_error_decides(outcomes, status, name, expected):
    """Of the processor's family of errors some may have moved money; all of them come as 400 and 14002."""
    ended = outcomes(KINDS, status, body=_errors(_error(name, "Not so", code="14002")))

    assert ended == dict.fromkeys(KINDS, expected(problem=Problem(code=name, message="Not so", status=status)))


@pytest.mark.parametrize("code", ["14002", 14002, "20010", 20010, 10000, None, "", True, 1.5, ["20010"]], ids=repr)
def test_the_number_does_not_overrule_the_name(outcome, code):
    """One number stands for many errors, and is text or a number as it happens."""
    ended = outcome("capture", 400, body=_errors(_error("PROCESSING_TIMEOUT", code=code)))

    assert ended == InDoubt(problem=Problem(code="PROCESSING_TIMEOUT", message="why", status=400))


@pytest.mark.parametrize("form", [str, int])
@pytest.mark.parametrize(("code", "name"), BY_CODE.items())
def test_a_number_of_one_meaning_stands_in_for_a_name_that_is_missing(outcome, code, name, form):
    """The name may be absent."""
    ended = outcome("refund", 400, body=_errors({"code": form(code), "description": "why"}))

    assert type(ended) is BY_ERROR_NAME.get(name, Rejected)
    assert ended.problem == outcome("refund", 400, body=_errors(_error(name))).problem


@pytest.mark.parametrize("code", ["14002", 14002, "10000", "10001", "30", "99999", None, True, "6010", {}], ids=repr)
def test_a_number_of_many_meanings_without_a_name_is_in_doubt(outcome, code):
    """It may be the time-out as well as the refusal."""
    ended = outcome("capture", 400, body=_errors({"code": code, "description": "why"}))

    assert ended == InDoubt(problem=Problem(code="unexplained_400", message="why", status=400))


@pytest.mark.parametrize(
    ("names", "expected", "code"),
    [
        (["VALIDATION_GENERAL_FAILURE", "PROCESSING_TIMEOUT"], InDoubt, "PROCESSING_TIMEOUT"),
        (["PROCESSING_TIMEOUT", "VALIDATION_GENERAL_FAILURE"], InDoubt, "PROCESSING_TIMEOUT"),
        (["REFUND_IN_PROCESS", "INVALID_TRANSACTION_ID"], Rejected, "INVALID_TRANSACTION_ID"),
        (["REFUND_IN_PROCESS", "REFUND_GENERAL_FAILURE"], NotNow, "REFUND_IN_PROCESS"),
        (["XSS_EXCEPTION", "VALIDATION_GENERAL_FAILURE"], Rejected, "XSS_EXCEPTION"),
        ([None, "VALIDATION_GENERAL_FAILURE"], Rejected, "VALIDATION_GENERAL_FAILURE"),
    ],
)
def test_of_several_errors_the_gravest_decides(outcome, names, expected, code):
    """One doubt among refusals is a doubt; all of them are told to people."""
    ended = outcome("capture", 400, body=_errors(*(_error(name, f"of {name}") for name in names)))

    assert type(ended) is expected
    assert ended.problem.code == code
    assert ended.problem.message == "; ".join(f"of {name}" for name in names)


def test_a_key_that_was_in_use_for_something_else_is_refused_and_says_what_that_means(outcomes):
    """This request was not executed, and no repeat of it will be; the earlier one perhaps was, so a person reads."""
    ended = outcomes(KINDS, 422, body=_errors(_error(REUSED, "Different request", code="60101")))

    assert {Rejected} == {type(each) for each in ended.values()}
    assert {REUSED} == {each.problem.code for each in ended.values()}
    for each in ended.values():
        assert each.problem.message.startswith("An earlier request under this key may have been executed")
        assert each.problem.message.endswith("Different request")


# --- the forms of an error ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        _errors(_error("INSUFFICIENT_FUNDS", "Too little")),
        {"message": _error("INSUFFICIENT_FUNDS", "Too little")},
        _errors(_error(" insufficient_funds\n", "Too little", invalidProperty={"name": "amount", "messageValue": "5"})),
        {"errorCode": "14002", "errorDescription": "Too little", "errorName": "INSUFFICIENT_FUNDS"},
        {"errorCode": 14002, "errorDescription": "Too little", "errorName": "INSUFFICIENT_FUNDS"},
        b"\xef\xbb\xbf" + json.dumps(_errors(_error("INSUFFICIENT_FUNDS", "Too little"))).encode(),
        _xml(("INSUFFICIENT_FUNDS", 14002, "Too little")),
        b"\xef\xbb\xbf  " + _xml(("INSUFFICIENT_FUNDS", 14002, "Too little")),
        (
            b'<messages xmlns="http://ws.plimus.com"><message><description>Too little</description>\n'
            b"<error-name> INSUFFICIENT_FUNDS </error-name></message></messages>"
        ),
    ],
)
def test_an_error_is_read_in_every_form_it_comes_in(outcome, body):
    """JSON in two forms and XML in one, depending on which part of BlueSnap answers."""
    ended = outcome("capture", 400, body=body)

    assert ended == Rejected(problem=Problem(code="INSUFFICIENT_FUNDS", message="Too little", status=400))


def test_several_errors_in_xml_are_read_like_several_in_json(outcome):
    """The gravest decides here, too, and what XML escapes is what was meant."""
    ended = outcome("capture", 400, body=_xml(("A", 1, "x &lt; y &amp; z"), ("PROCESSING_TIMEOUT", 14002, "late")))

    assert ended == InDoubt(problem=Problem(code="PROCESSING_TIMEOUT", message="x < y & z; late", status=400))


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        b"[]",
        b'[{"errorName": "INSUFFICIENT_FUNDS"}]',
        b"{}",
        b'{"message": []}',
        b'{"message": null}',
        b'{"message": ["INSUFFICIENT_FUNDS"]}',
        b'{"message": [{"errorName": null}]}',
        b'{"message": [{"errorName": ["A"]}]}',
        b'{"message": [{"errorName": " \\u0000 "}]}',
        b'{"message": [{"errorName": "INSUFFICIENT_FUNDS"}',
        b"<messages><message><error-name></error-name></message></messages>",
        b"<other><message><error-name>A</error-name></message></other>",
        b"<messages><error-name>A</error-name></messages>",
        b'<!DOCTYPE m [<!ENTITY e "A">]><messages><message><error-name>&e;</error-name></message></messages>',
        b'<?xml version="1.0"?><!DOCTYPE m><messages><message><error-name>A</error-name></message></messages>',
        b"<messages>" + b"<message>" * 100_000,
        b"<messages><message><error-name>A</error-name></message>" + b" " * 70_000,
        pytest.param(b'{"a":' * 100_000, id="nested too deeply"),
        pytest.param(b"9" * 5_000, id="a number too long"),
    ],
)
def test_a_4xx_that_bluesnap_did_not_explain_is_in_doubt(outcomes, status, body):
    """A firewall, a proxy or a login page may have answered; nobody knows whether BlueSnap saw the request."""
    ended = outcomes(KINDS, status, body=body)

    assert {InDoubt(problem=Problem(code=f"unexplained_{status}", status=status))} == set(ended.values())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<xml>User is not authorised to view transaction 38486450</xml>", "38486450"),
        (b"user API_1 is not authorized to view merchant-transaction: 38486450", "38486450"),
        (b"<xml>Access from this address is not allowed</xml>", "not allowed"),
        (json.dumps({"message": [{"description": "not authorised to view transaction 7"}]}).encode(), "transaction 7"),
    ],
)
def test_a_403_without_the_name_of_an_error_is_in_doubt_and_its_words_are_kept(outcomes, body, message):
    """It means that the thing does not exist, or that a firewall stood in the way; a person can tell."""
    ended = outcomes(KINDS, 403, body=body)

    assert {InDoubt} == {type(each) for each in ended.values()}
    assert {"unexplained_403"} == {each.problem.code for each in ended.values()}
    assert all(message in each.problem.message for each in ended.values())


@pytest.mark.parametrize("status", [400, 403, 404, 422, 500, 502])
@pytest.mark.parametrize("body", [_errors(_error("INSUFFICIENT_FUNDS")), _xml(("INSUFFICIENT_FUNDS", 14002, "why"))])
def test_an_error_that_breaks_off_is_in_doubt(outcomes, status, body):
    """It was not heard to the end."""
    ended = outcomes(KINDS, status, body=body, complete=False)

    assert {InDoubt(problem=Problem(code=f"truncated_{status}", status=status))} == set(ended.values())


# --- what the ladder makes of it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["TRANSACTION_ALREADY_CAPTURED", "PROCESSING_DUPLICATE", "TRANSACTION_ALREADY_EXISTS", REUSED]
)
@pytest.mark.parametrize("code", ["14009", "14022", "20010"])
def test_a_refusal_that_may_be_our_own_success_is_never_believed_after_doubt(outcome, name, code):
    """The lost reply may have been a yes: a person reads at BlueSnap before anything is called refused."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    standing = Standing(safety=Safety.KEYED, failures=1, in_doubt=True, first_sent_at=now)
    for body in (_errors(_error(name)), _errors({"code": code, "description": "Already refunded"})):
        decision = decide(outcome("refund", 400, body=body), standing, POLICY, ended_at=now, chance=0.0)

        assert decision.transition.to is State.ESCALATED
        assert decision.transition.in_doubt
        assert decision.reason is Reason.REFUSED_AFTER_DOUBT


@pytest.mark.parametrize("kind", UNPROTECTED)
@pytest.mark.parametrize(
    ("status", "body"),
    [(502, HTML), (409, b""), (400, _errors(_error("PROCESSING_TIMEOUT"))), (403, HTML), (503, HTML)],
)
def test_what_no_key_protects_is_looked_up_at_the_first_doubt(bluesnap, outcome, kind, status, body):
    """A second capture could take the money again."""
    ended = outcome(kind, status, body=body)

    assert isinstance(ended, InDoubt)
    assert bluesnap.safety(kind, keyed=True) is Safety.UNKEYED_READABLE


# --- what a person is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("one\r\ntwo\x1b[31m\tthree\x00\u202efour", "one two [31m three four"),
        ("card 4111111111111111 declined", "card [digits] declined"),
        ("mail someone+x@shop.example.org is unknown", "mail [mail address] is unknown"),
        ("transaction 1011671987 is captured", "transaction 1011671987 is captured"),
        ("x" * 600, "x" * 500),
        (7, ""),
        (None, ""),
    ],
)
def test_what_bluesnap_says_is_made_fit_for_a_ticket(outcome, said, kept):
    """Tickets and logs hold no card number, no mail address, no control character and no novel."""
    ended = outcome("capture", 400, body=_errors(_error("INSUFFICIENT_FUNDS", said)))

    assert ended.problem.message == kept


def test_what_was_sent_about_a_person_is_taken_out_of_the_message(outcome):
    """What was refused is quoted in the refusal, and a ticket is no place for it; amounts and ids may stay."""
    payload = json.dumps({"firstName": "Canary", "billing": {"address": "1 Nest St"}, "transactionId": "38486450"})
    said = "firstName 'CANARY' at 1 Nest St is not valid for 38486450"

    ended = outcome(
        "update_shopper", 400, body=_errors(_error("VALIDATION_GENERAL_FAILURE", said)), payload=payload.encode()
    )

    assert ended.problem.message == "firstName '[as sent]' at [as sent] is not valid for 38486450"


def test_a_command_without_a_payload_can_be_refused_too(outcome):
    """There is nothing of a person in it."""
    ended = outcome("cancel_pending_refund", 400, body=_errors(_error("INVALID_TRANSACTION_ID")), payload=b"")

    assert isinstance(ended, Rejected)


def test_a_name_is_bounded_too(outcome):
    """It goes into tables and labels."""
    ended = outcome("capture", 400, body=_errors(_error("A" * 1000)))

    assert isinstance(ended, Rejected)
    assert ended.problem.code == "A" * 100


@pytest.mark.parametrize(
    "body",
    [
        _errors(*[_error("A", "a" * 100_000)] * 100),
        b"<messages>" + b"<message><error-name>A</error-name>" * 1_800,
        b"<xml>" * 10_000,
    ],
)
def test_a_hostile_answer_is_read_in_no_time(outcome, body):
    """It must not keep the worker busy."""
    ended = outcome("capture", 400, body=body)

    assert len(ended.problem.message) <= 500
