from __future__ import annotations

import json

import pytest

from worker.domain.outcome import (
    InDoubt,
    NotNow,
    NotSent,
    Problem,
    Rejected,
    Succeeded,
    Throttled,
    Unauthorized,
)
from worker.ports import Answer, NoAnswer
from worker.providers.klarna import OPERATIONS, Klarna

KINDS = sorted(OPERATIONS)
CHANGES = [kind for kind in KINDS if not kind.startswith("read_")]
READS = [kind for kind in KINDS if kind.startswith("read_")]
CORRELATED = {"klarna-correlation-id": "from-the-header"}
HTML = b"<!DOCTYPE html><html><body><h1>Request blocked</h1></body></html>"


@pytest.fixture
def outcome(held):
    klarna = Klarna(account="klarna-eu", base_url="https://api.klarna.com", username="u", password="p")

    def of(kind, status, *, body=b"", headers=CORRELATED, complete=True, **changes):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = Answer(status=status, headers=headers, body=raw, complete=complete)
        return klarna.outcome(held(kind=kind, target="c-1", **changes), answer)

    return of


@pytest.fixture
def outcomes(outcome):
    """The outcome of the same answer for each of several kinds."""
    return lambda kinds, status, **answer: {kind: outcome(kind, status, **answer) for kind in kinds}


@pytest.fixture
def outcomes_without_answer(held):
    klarna = Klarna(account="klarna-eu", base_url="https://api.klarna.com", username="u", password="p")

    def of(**facts):
        return {kind: klarna.outcome(held(kind=kind, target="c-1"), NoAnswer(**facts)) for kind in KINDS}

    return of


def _refusal(code, *messages, **more):
    return {"error_code": code, "error_messages": list(messages), "correlation_id": "from-the-body"} | more


# --- no answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["resolve_failed", "connect_failed", "tls_failed"])
def test_a_connection_that_never_came_up_is_not_sent(outcomes_without_answer, code):
    """No byte reached Klarna."""
    ended = outcomes_without_answer(sent=False, code=code, message="Could not connect")

    assert ended == dict.fromkeys(KINDS, NotSent(problem=Problem(code=code, message="Could not connect")))


@pytest.mark.parametrize("code", ["no_answer", "reset", "send_failed"])
def test_no_answer_to_what_was_sent_is_in_doubt(outcomes_without_answer, code):
    """It may have been executed."""
    ended = outcomes_without_answer(sent=True, code=code, message="Operation timed out")

    assert ended == dict.fromkeys(KINDS, InDoubt(problem=Problem(code=code, message="Operation timed out")))


# --- done --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", HTML, b"{broken"])
@pytest.mark.parametrize("complete", [True, False])
def test_any_2xx_means_that_a_change_was_made(outcomes, status, body, complete):
    """Klarna asks clients to accept every 2xx; calling one a failure would send the money twice."""
    ended = outcomes(CHANGES, status, body=body, complete=complete)

    assert ended == dict.fromkeys(CHANGES, Succeeded(result={}, status=status, correlation_id="from-the-header"))


@pytest.mark.parametrize(
    ("kind", "headers", "result"),
    [
        ("capture", {"capture-id": "abc"}, {"capture_id": "abc"}),
        ("capture", {"capture-id": "abc", "location": "https://h/o/1/captures/other"}, {"capture_id": "abc"}),
        ("capture", {"location": "https://h/ordermanagement/v1/orders/1/captures/abc"}, {"capture_id": "abc"}),
        ("capture", {"location": "/ordermanagement/v1/orders/1/captures/abc/?x=1"}, {"capture_id": "abc"}),
        ("capture", {"location": "/captures/a%2Fb"}, {"capture_id": "a/b"}),
        ("capture", {"capture-id": "", "location": "/captures/abc"}, {"capture_id": "abc"}),
        ("capture", {"capture-id": "x" * 300}, {"capture_id": "x" * 255}),
        ("capture", {"location": "https://h/ordermanagement/v1/orders/1"}, {}),
        ("capture", {"location": "https://h/ordermanagement/v1/orders/1/captures/"}, {}),
        ("capture", {"location": "https://h/ordermanagement/v1/orders/1/captures"}, {}),
        ("capture", {"refund-id": "abc"}, {}),
        ("capture", {}, {}),
        ("refund", {"refund-id": "abc"}, {"refund_id": "abc"}),
        ("refund", {"location": "https://h/ordermanagement/v1/orders/1/refunds/abc"}, {"refund_id": "abc"}),
        ("refund", {"location": "https://h/ordermanagement/v1/orders/1/captures/abc"}, {}),
        ("refund", {"capture-id": "abc"}, {}),
        ("refund", {}, {}),
        ("cancel", {"capture-id": "abc", "location": "/captures/abc"}, {}),
    ],
)
def test_the_id_of_what_was_made_is_kept_where_one_is_given(outcome, kind, headers, result):
    """Later commands need it; that it is missing is no failure, because the money has moved."""
    ended = outcome(kind, 201, headers=headers)

    assert ended == Succeeded(result=result, status=201, correlation_id=None)


@pytest.mark.parametrize("content", [{"order_id": "1", "status": "CAPTURED"}, [], [{"capture_id": "ä"}], {}])
def test_what_was_read_is_the_result(outcomes, content):
    """The caller asked for it."""
    ended = outcomes(READS, 200, body=content)

    assert ended == dict.fromkeys(
        READS, Succeeded(result={"answer": content}, status=200, correlation_id="from-the-header")
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b'"text"',
        HTML,
        b'{"order_id": ',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"\xff{}",
        pytest.param(b"[" * 100_000, id="nested too deeply"),
    ],
)
def test_a_read_that_cannot_be_read_is_tried_again(outcomes, body):
    """A page of some gateway is not an order."""
    ended = outcomes(READS, 200, body=body)

    assert ended == dict.fromkeys(
        READS, InDoubt(problem=Problem(code="unreadable_answer", status=200, correlation_id="from-the-header"))
    )


def test_a_read_that_breaks_off_is_tried_again(outcomes):
    """What came may even parse, and still lack the capture that is looked for."""
    ended = outcomes(READS, 200, body=[], complete=False)

    assert ended == dict.fromkeys(
        READS, InDoubt(problem=Problem(code="truncated_answer", status=200, correlation_id="from-the-header"))
    )


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
@pytest.mark.parametrize("body", [b"", HTML, b"[]", b"{}", b"{broken", b'{"error_code": ""}', b'{"error_code": 7}'])
def test_some_statuses_speak_for_themselves(outcomes, status, expected, ours, body):
    """These come from gateways too, with any body, broken off or not, and mean the same."""
    whole = outcomes(KINDS, status, body=body)
    broken_off = outcomes(KINDS, status, body=body, complete=False)

    meant = expected(problem=Problem(code=ours, status=status, correlation_id="from-the-header"))
    assert whole == broken_off == dict.fromkeys(KINDS, meant)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "UNAUTHORIZED", Unauthorized),
        (409, "CONFLICT", InDoubt),
        (413, "REQUEST_TOO_LARGE", Rejected),
        (429, "TOO_MANY_REQUESTS", Throttled),
        (408, "TIMEOUT", InDoubt),
    ],
)
def test_a_status_that_speaks_for_itself_is_not_overruled_by_an_error_code(outcome, status, code, expected):
    """A conflict means that somebody is at it, whatever it is called; the code is kept for people."""
    ended = outcome("capture", status, body=_refusal(code, "why"))

    assert ended == expected(problem=Problem(code=code, message="why", status=status, correlation_id="from-the-header"))


@pytest.mark.parametrize("status", [100, 101, 300, 301, 302, 304, 307, 308, 500, 501, 502, 503, 504, 599, 600, 999])
@pytest.mark.parametrize("body", [b"", HTML, b"[]"])
def test_redirects_and_server_errors_are_in_doubt(outcomes, status, body):
    """Whoever answered so did not say what became of the request."""
    ended = outcomes(KINDS, status, body=body)

    assert ended == dict.fromkeys(
        KINDS, InDoubt(problem=Problem(code=f"unexplained_{status}", status=status, correlation_id="from-the-header"))
    )


@pytest.mark.parametrize("status", [302, 500, 502, 503, 504])
def test_an_error_code_does_not_make_a_server_error_a_refusal(outcomes, status):
    """An internal error may come after the deed."""
    ended = outcomes(KINDS, status, body=_refusal("INTERNAL_SERVER_ERROR", "Oops"))

    assert ended == dict.fromkeys(
        KINDS,
        InDoubt(
            problem=Problem(
                code="INTERNAL_SERVER_ERROR", message="Oops", status=status, correlation_id="from-the-header"
            )
        ),
    )


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ORDER_ID"),
        (400, "NOT_FOUND"),
        (403, "CAPTURE_NOT_ALLOWED"),
        (403, "REFUND_NOT_ALLOWED"),
        (403, "CANCEL_NOT_ALLOWED"),
        (403, "NOT_ALLOWED"),
        (404, "NO_SUCH_ORDER"),
        (404, "NO_SUCH_CAPTURE"),
        (404, "NOT_FOUND"),
        (422, "UNPROCESSABLE_ENTITY"),
        (422, "INVALID_ADDRESS"),
        (418, "SOMETHING_NEW"),
    ],
)
def test_a_4xx_with_an_error_code_is_a_refusal(outcomes, status, code):
    """Klarna itself said so, and why."""
    ended = outcomes(KINDS, status, body=_refusal(code, "Not so"))

    assert ended == dict.fromkeys(
        KINDS, Rejected(problem=Problem(code=code, message="Not so", status=status, correlation_id="from-the-header"))
    )


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_buyer_who_could_not_be_charged_now_may_be_charged_later(outcomes, status):
    """The one refusal that is not for good."""
    ended = outcomes(KINDS, status, body=_refusal("PAYMENT_METHOD_FAILED", "Card declined"))

    assert ended == dict.fromkeys(
        KINDS,
        NotNow(
            problem=Problem(
                code="PAYMENT_METHOD_FAILED", message="Card declined", status=status, correlation_id="from-the-header"
            )
        ),
    )


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        b"[]",
        b'[{"error_code": "NOT_ALLOWED"}]',
        b'"NOT_ALLOWED"',
        b"{}",
        b'{"error_code": null}',
        b'{"error_code": ""}',
        b'{"error_code": " \\u0000 "}',
        b'{"error_code": 403}',
        b'{"error_code": ["NOT_ALLOWED"]}',
        b'{"message": "Forbidden"}',
        b'{"error_code": "NOT_ALLOWED"',
        pytest.param(b'{"a":' * 100_000, id="nested too deeply"),
        pytest.param(b"9" * 5_000, id="a number too long"),
    ],
)
def test_a_4xx_that_klarna_did_not_explain_is_in_doubt(outcomes, status, body):
    """A firewall, a proxy or a login page may have answered; nobody knows whether Klarna saw the request."""
    ended = outcomes(KINDS, status, body=body, headers={})

    assert ended == dict.fromkeys(KINDS, InDoubt(problem=Problem(code=f"unexplained_{status}", status=status)))


def test_a_message_without_a_code_is_kept_and_stays_in_doubt(outcome):
    """A person may make sense of it; the table must not."""
    ended = outcome("capture", 403, body={"error_message": "Forbidden"})

    assert ended == InDoubt(
        problem=Problem(code="unexplained_403", message="Forbidden", status=403, correlation_id="from-the-header")
    )


@pytest.mark.parametrize("status", [400, 403, 404, 422, 500, 502])
def test_an_error_that_breaks_off_is_in_doubt(outcomes, status):
    """It was not heard to the end."""
    ended = outcomes(KINDS, status, body=_refusal("NOT_ALLOWED", "why"), complete=False)

    assert ended == dict.fromkeys(
        KINDS, InDoubt(problem=Problem(code=f"truncated_{status}", status=status, correlation_id="from-the-header"))
    )


# --- what a person is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error_messages": ["One.", "Two."]}, "One.; Two."),
        ({"error_messages": []}, ""),
        ({"error_messages": [], "error_message": "Singular"}, "Singular"),
        ({"error_message": "Singular"}, "Singular"),
        ({"error_messages": "Not a list"}, "Not a list"),
        ({"error_messages": ["One.", 7, None, ["Two."]]}, "One."),
        ({"error_messages": {"a": "b"}}, ""),
        ({"error_message": 7}, ""),
        ({"service_version": "1.2.3"}, ""),
        ({}, ""),
    ],
)
def test_klarnas_messages_are_kept_in_every_form_they_come_in(outcome, body, message):
    """Older services write one message without the plural, and it is the only thing that says why."""
    ended = outcome("capture", 403, body={"error_code": "NOT_ALLOWED"} | body)

    assert (ended.problem.code, ended.problem.message) == ("NOT_ALLOWED", message)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("one\r\ntwo\x1b[31m\tthree\x00\u202efour", "one two [31m three four"),
        ("card 4111111111111111 declined", "card [digits] declined"),
        ("card 4111 1111 1111 1111, 4111-1111-1111-1111", "card [digits], [digits]"),
        ("card 4111\u00a01111\u20131111\u20111111", "card [digits]"),
        (
            "order 12345678-1234-4234-8234-123456789012 is closed",
            "order 12345678-1234-4234-8234-123456789012 is closed",
        ),
        ("card411111111111111112/25", "card[digits]/25"),
        ("captured_amount 200000000 is above 1000", "captured_amount 200000000 is above 1000"),
        ("mail someone+x@shop.example.org is unknown", "mail [mail address] is unknown"),
        ("x" * 600, "x" * 500),
        ("x" * 490 + " 4111111111111111", "x" * 490 + " [digits]"),
        ("1" * 10_000, "[digits]"),
    ],
)
def test_what_klarna_says_is_made_fit_for_a_ticket(outcome, said, kept):
    """Tickets and logs hold no card number, no mail address, no control character and no novel."""
    ended = outcome("capture", 403, body=_refusal("NOT_ALLOWED", said))

    assert ended.problem.message == kept


def test_a_long_text_without_spaces_is_read_in_no_time(outcome):
    """A hostile answer must not keep the worker busy."""
    ended = outcome("capture", 403, body=_refusal("NOT_ALLOWED", "a" * 1_000_000, "1 2 " * 100_000))

    assert len(ended.problem.message) == 500


def test_what_was_sent_about_a_person_is_taken_out_of_the_message(outcome):
    """An address that was refused is quoted in the refusal, and a ticket is no place for it."""
    payload = {
        "shipping_address": {"given_name": "Canary", "phone": "+46 70 123", "city": "Canaryville", "country": "SE"}
    }
    said = "shipping_address.phone '+46 70 123' of CANARY in Canaryville is not valid"

    ended = outcome(
        "update_customer_details", 422, body=_refusal("INVALID_ADDRESS", said), payload=json.dumps(payload).encode()
    )

    assert ended.problem.message == "shipping_address.phone '[as sent]' of [as sent] in [as sent] is not valid"


def test_an_error_code_is_bounded_too(outcome):
    """It goes into tables and labels."""
    ended = outcome("capture", 403, body=_refusal("A" * 1000))

    assert isinstance(ended, Rejected)
    assert ended.problem.code == "A" * 100


def test_invalid_utf_8_in_a_refusal_does_not_hide_it(outcome):
    """Quoted input may be broken while the error code is plain."""
    ended = outcome("capture", 403, body=b'\xef\xbb\xbf{"error_code": "NOT_ALLOWED", "error_message": "\xff\xfe!"}')

    assert isinstance(ended, Rejected)
    assert ended.problem.message.endswith("!")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"klarna-correlation-id": "a"}, {"correlation_id": "b"}, "a"),
        ({}, {"correlation_id": "b"}, "b"),
        ({"klarna-correlation-id": ""}, {"correlation_id": "b"}, "b"),
        ({"klarna-correlation-id": "x" * 300}, {}, "x" * 255),
        ({"klarna-correlation-id": "a\x1bb"}, {}, "a b"),
        ({}, {"correlation_id": 7}, None),
        ({}, {}, None),
    ],
)
def test_the_correlation_id_is_kept_for_klarnas_support(outcome, headers, body, expected):
    """It is the first thing they ask for; the header has it even without a body."""
    ended = outcome("capture", 403, headers=headers, body={"error_code": "NOT_ALLOWED"} | body)

    assert ended.problem.correlation_id == expected


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"headers": {"content-type": "text/html"}, "body": HTML}, id="a proxy's page"),
        pytest.param({"headers": {}, "body": b"<html>Maintenance"}, id="a page without a type"),
        pytest.param({"headers": {}, "body": b"{", "complete": False}, id="a fragment"),
    ],
)
def test_a_change_is_not_done_because_somebody_answered_2xx(outcomes, answer):
    """A maintenance page with status 200 moves no money; the same key asked again tells."""
    ended = outcomes(CHANGES, 200, **answer)

    assert {InDoubt} == {type(each) for each in ended.values()}


def test_a_fragment_with_klarnas_own_marks_is_a_success(outcome):
    """An id, or a correlation id, comes from nobody else: the money has moved."""
    for proof in ({"capture-id": "c-1"}, {"klarna-correlation-id": "k-1"}):
        ended = outcome("capture", 201, headers=proof, body=b"{", complete=False)

        assert isinstance(ended, Succeeded)
