import http.client
import json
import signal
import threading
from datetime import datetime
from urllib.parse import urlsplit

import pytest

from worker.sandbox import Sandbox, SandboxControl, SandboxError, serve


@pytest.fixture
def control(sandbox):
    """Plain JSON to the control port, as a driver in any language sends it."""
    connection = http.client.HTTPConnection(urlsplit(sandbox.control_url).netloc, timeout=10)

    def control(method, path, content=None):
        connection.request(method, path, body=None if content is None else json.dumps(content))
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    yield control
    connection.close()


def test_both_drivers_make_and_see_the_same_transactions(sandbox, driver, blue_shop):
    """A test in this process and a demonstration in another see one world."""
    made = driver.create_transaction("17", amount="5.00", currency="EUR", merchant_transaction_id="invoice-17")
    blue_shop.capture("17", "2.00")

    assert ("17", "5.00", "EUR", "invoice-17") == tuple(
        made[name] for name in ("transactionId", "amount", "currency", "merchantTransactionId")
    )
    assert ("CAPTURE", "3.00") == tuple(
        driver.transaction("17")[name] for name in ("cardTransactionType", "openToCapture")
    )
    assert sandbox.effects() == driver.effects()
    assert 1 == driver.health()["transactions"]


@pytest.mark.parametrize(("captured", "kind", "left"), [(False, "AUTH_ONLY", "10.00"), (True, "AUTH_CAPTURE", "0.00")])
def test_a_transaction_is_made_authorized_or_captured_without_an_effect(driver, captured, kind, left):
    """A test should start where its story starts."""
    made = driver.create_transaction(captured=captured)

    assert (kind, "10.00", "USD", left) == tuple(
        made[name] for name in ("cardTransactionType", "amount", "currency", "openToCapture")
    )
    assert [] == driver.effects()


def test_a_driver_sees_all_that_is_known_of_the_refunds(driver, blue_shop, sale_id):
    """Whoever checks a scenario needs the reason and the metadata, whatever a client's read shows."""
    metadata = {"metaData": [{"metaKey": "command", "metaValue": "command-1"}]}
    blue_shop.refund(sale_id, "4.00", reason="returned", transactionMetaData=metadata)

    [refund] = driver.transaction(sale_id)["refunds"]["refund"]

    assert ("returned", metadata) == (refund["reason"], refund["transactionMetaData"])


@pytest.mark.parametrize(
    ("transaction", "sentence"),
    [
        ({"transaction_id": ""}, "transaction_id must not be empty"),
        ({"transaction_id": "taken"}, "transaction taken is there already"),
        ({"amount": "0.00"}, "amount must be decimal text above 0 with the digits of USD, got '0.00'"),
        ({"amount": "1.001"}, "amount must be decimal text above 0 with the digits of USD, got '1.001'"),
        ({"amount": "1.0", "currency": "JPY"}, "amount must be decimal text above 0 with the digits of JPY"),
        ({"currency": "dollar"}, "currency must have three letters, got 'dollar'"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at must have a time zone"),  # noqa: DTZ001  # that is the point
    ],
)
def test_a_transaction_that_makes_no_sense_is_refused_in_one_sentence(driver, transaction, sentence):
    """The sentence names the thing and what would do."""
    driver.create_transaction("taken")

    with pytest.raises(SandboxError, match=sentence):
        driver.create_transaction(**transaction)


def test_an_unknown_transaction_cannot_be_shown(driver):
    """A driver that misspells a transaction is told so."""
    with pytest.raises(SandboxError, match="there is no transaction nowhere; make it with create_transaction"):
        driver.transaction("nowhere")


def test_switches_are_set_and_shown_by_both_drivers(driver):
    """An account is set up once and then behaves so."""
    driver.switch(bluesnap_keys=False, key_window_hours=12)
    driver.switch(bluesnap_refund_status=None)

    assert {
        "replay_errors": True,
        "key_window_hours": 12,
        "bluesnap_keys": False,
        "bluesnap_codes": "text",
        "bluesnap_amounts": "text",
        "bluesnap_refund_status": None,
        "bluesnap_pending_hours": 72,
        "bluesnap_pending_ends": "SUCCESS",
        "bluesnap_refund_details": False,
        "quota_headers": True,
        "quota_factor": 1,
        "quota_window": "sliding",
    } == driver.switches()


def test_a_reset_returns_the_switches_to_what_the_sandbox_began_with():
    """The next test must not inherit the account of this one."""
    with Sandbox(replay_errors=False) as sandbox:
        sandbox.switch(replay_errors=True, bluesnap_keys=False)

        sandbox.reset()

        assert [False, True] == [sandbox.switches()[name] for name in ("replay_errors", "bluesnap_keys")]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lights": True}, "there is no switch 'lights'; there are replay_errors, key_window_hours"),
        ({"_begun_with": {}}, "there is no switch '_begun_with'"),
        ({"bluesnap_keys": 1}, "the switch bluesnap_keys cannot be 1"),
        ({"key_window_hours": True}, "the switch key_window_hours cannot be True"),
        ({"key_window_hours": 0}, "key_window_hours must be above 0, got 0"),
        ({"bluesnap_codes": "roman"}, "bluesnap_codes must be one of text, number, got 'roman'"),
        (
            {"bluesnap_refund_status": "DONE"},
            "bluesnap_refund_status must be one of SUCCESS, PENDING, None, got 'DONE'",
        ),
        ({"bluesnap_codes": None}, "the switch bluesnap_codes cannot be None"),
        ({"bluesnap_keys": False, "bluesnap_codes": "x"}, "bluesnap_codes must be one of text, number, got 'x'"),
    ],
)
def test_a_switch_that_makes_no_sense_is_refused_and_none_is_set(driver, values, sentence):
    """A misspelt switch that does nothing would make a test pass for nothing."""
    before = driver.switches()

    with pytest.raises(SandboxError, match=sentence):
        driver.switch(**values)

    assert before == driver.switches()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"amount": 10}, "amount cannot be 10"),
        ({"captured": "yes"}, "captured cannot be 'yes'"),
        ({"captured": 1}, "captured cannot be 1"),
        ({"status": "CAPTURED"}, "unknown field 'status'; known are transaction_id, amount"),
        ({"expires_at": "soon"}, "expires_at must be a moment in ISO 8601, got 'soon'"),
    ],
)
def test_nonsense_at_the_control_port_is_refused_in_one_sentence(control, content, sentence):
    """Whoever drives it by hand needs the fix, not a stack trace."""
    status, answer = control("POST", "/transactions", content)

    assert 422 == status
    assert answer["error"].startswith(sentence)


def test_a_transaction_can_be_made_with_nothing_said(control):
    """Everything has a sensible value."""
    status, made = control("POST", "/transactions")

    assert (201, "10.00", "USD") == (status, made["amount"], made["currency"])
    assert (200, made) == control("GET", f"/transactions/{made['transactionId']}")


def test_unknown_transactions_are_made_on_first_use_when_told_so(new_blue_shop):
    """People who want to play should not have to prepare."""
    with Sandbox(create_orders=5_000) as sandbox:
        captured = new_blue_shop(sandbox.base_url).capture("17", "50.00")

        assert 200 == captured.status
        assert "CAPTURE" == sandbox.transaction("17")["cardTransactionType"]


def test_a_record_can_be_there_from_the_beginning(driver, blue_shop):
    """A script can name what it updates and reads before anything has run."""
    made = driver.create_record("recurring/plans", "2179401", fields={"name": "Gold", "chargeFrequency": "MONTHLY"})

    read = blue_shop.call("GET", "recurring/plans/2179401")

    assert {"name": "Gold", "chargeFrequency": "MONTHLY", "planId": 2_179_401} == made == read.json
    assert [] == driver.effects()


@pytest.mark.parametrize(
    ("collection", "record_id", "sentence"),
    [
        ("plans", "18", "there is no collection 'plans'; there are alt-transactions, batch/order-placement"),
        ("recurring/plans", "gold", "record_id must be digits, as BlueSnap's ids are, got 'gold'"),
        ("recurring/plans", "17", "record 17 of recurring/plans is there already"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_in_one_sentence(driver, collection, record_id, sentence):
    """The sentence names the thing and what would do."""
    driver.create_record("recurring/plans", "17", fields={"name": "Gold"})

    with pytest.raises(SandboxError, match=sentence):
        driver.create_record(collection, record_id, fields={})


def test_a_file_may_hold_orders_transactions_and_records(tmp_path):
    """A demonstration with both providers needs all of them before the first command arrives."""
    lines = [
        {"collection": "vendors", "record_id": "400", "fields": {"email": "vendor@shop.example"}},
        {"order_id": "a", "amount": 100},
        {"transaction_id": "17", "amount": "5.00", "currency": "EUR", "captured": True},
        {"transaction_id": None},
    ]
    path = tmp_path / "orders.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    seen = []

    def look(_base_url, control_url):
        control = SandboxControl(control_url)
        health = control.health()
        seen.append((health["orders"], health["transactions"], control.transaction("17")["cardTransactionType"]))
        signal.raise_signal(signal.SIGTERM)

    def look_from_elsewhere(*urls):
        # `ready` runs on the loop that serves, so the question has to come from another thread.
        threading.Thread(target=look, args=urls).start()

    serve(port=0, control_port=0, orders_file=path, ready=look_from_elsewhere)

    assert [(1, 2, "AUTH_CAPTURE")] == seen


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"transaction_id": "17", "amount": 5}, "line 1: amount cannot be 5"),
        ({"transaction_id": "17", "status": "x"}, "line 1: unknown field 'status'"),
        ({"record_id": "17", "fields": {}}, "line 1: the field collection is missing"),
    ],
)
def test_a_wrong_transaction_of_the_file_is_named_by_its_line(tmp_path, line, sentence):
    """With a thousand lines, the number is half of the fix."""
    path = tmp_path / "orders.jsonl"
    path.write_text(json.dumps(line))

    with pytest.raises(SandboxError, match=sentence):
        serve(orders_file=path)
