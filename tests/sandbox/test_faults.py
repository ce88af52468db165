import contextlib
import http.client
import json
import re
import socket
import threading
import time

import pytest

from worker.sandbox import SandboxError
from worker.sandbox.faults import KINDS

QUOTA = '40, 40;w=1;name="account_payment-transaction-capture",100;w=1;name="psp_payment-transaction-capture"'


def amounts(sandbox):
    return [effect["amount"] for effect in sandbox.effects()]


# ------------------------------------------------------------------------------------------- the answer is lost


def test_a_dropped_reply_was_executed(sandbox, shop, order_id, new_key):
    """This is the whole reason for the product: the money moved and nobody was told."""
    key = new_key()
    sandbox.fault("drop_reply")

    with pytest.raises(http.client.RemoteDisconnected):
        shop.capture(order_id, 1_000, key=key)
    again = shop.capture(order_id, 1_000, key=key)

    assert [1_000] == amounts(sandbox)
    assert sandbox.effects()[0]["id"] == again.headers["Capture-Id"]


@pytest.mark.parametrize(("executed", "effects"), [(False, []), (True, [1_000])])
def test_a_reset_reads_the_request_and_tears_the_connection_down(sandbox, shop, order_id, executed, effects):
    """The client cannot tell the two cases apart."""
    sandbox.fault("reset", executed=executed)

    with pytest.raises(ConnectionResetError) as caught:
        shop.capture(order_id, 1_000)

    assert ConnectionResetError is caught.type  # a mere close would be its subclass `RemoteDisconnected`
    assert effects == amounts(sandbox)


@pytest.mark.parametrize(("executed", "effects"), [(False, []), (True, [1_000])])
def test_a_hanging_request_is_never_answered(sandbox, new_shop, order_id, executed, effects):
    """Only the client's own time limit ends it."""
    sandbox.fault("hang", executed=executed)
    impatient = new_shop(sandbox.base_url, timeout=0.2)

    with pytest.raises(TimeoutError):
        impatient.capture(order_id, 1_000)

    assert effects == amounts(sandbox)
    assert [(None, "hang")] == [(request["status"], request["fault"]) for request in sandbox.requests()]


def test_a_hang_may_end_by_itself_without_an_answer(sandbox, shop, order_id):
    """A gateway gives up some time, and then it closes."""
    sandbox.fault("hang", seconds=0.1)

    with pytest.raises(http.client.RemoteDisconnected):
        shop.capture(order_id, 1_000)

    assert [] == amounts(sandbox)


def test_a_hanging_connection_blocks_no_other(sandbox, shop, new_shop, order_id, until):
    """One slow request must not be taken for an outage."""
    sandbox.fault("hang")
    new_shop(sandbox.base_url).begin("GET", f"/ordermanagement/v1/orders/{order_id}")
    until(sandbox.requests)

    answer = shop.capture(order_id, 1_000)

    assert 201 == answer.status


def test_a_delayed_request_is_executed_although_the_client_has_given_up(sandbox, new_shop, order_id, until):
    """Absent right after a send is no proof: the first request may still be running."""
    sandbox.fault("delay", seconds=1)
    impatient = new_shop(sandbox.base_url, timeout=0.1)

    with pytest.raises(TimeoutError):
        impatient.capture(order_id, 1_000)
    right_after = amounts(sandbox)
    until(sandbox.effects)

    assert [[], [1_000]] == [right_after, amounts(sandbox)]


@pytest.mark.parametrize("body", ["json", "empty", "html"])
def test_an_error_after_execution_hides_an_effect(sandbox, shop, order_id, body):
    """A 5xx says nothing about what was done."""
    sandbox.fault("execute_then_status", status=502, body=body)

    answer = shop.capture(order_id, 1_000)

    assert 502 == answer.status
    assert [1_000] == amounts(sandbox)


# ------------------------------------------------------------------------------------------ the answer is wrong


@pytest.mark.parametrize(
    ("status", "code"), [(500, "INTERNAL_SERVER_ERROR"), (503, "TEMPORARILY_UNAVAILABLE"), (507, "UNEXPECTED_ERROR")]
)
def test_a_scripted_status_answers_an_error_object_and_does_nothing(sandbox, shop, order_id, status, code):
    """The plain failure of a server."""
    sandbox.fault("status", status=status)

    answer = shop.capture(order_id, 1_000)

    assert (status, code) == (answer.status, answer.json["error_code"])
    assert answer.headers["Klarna-Correlation-Id"] == answer.json["correlation_id"]
    assert [] == amounts(sandbox)


def test_a_scripted_status_may_carry_any_code(sandbox, shop, order_id):
    """New codes appear at a provider without notice."""
    sandbox.fault("status", status=403, code="NEVER_SEEN")

    answer = shop.capture(order_id, 1_000)

    assert (403, "NEVER_SEEN") == (answer.status, answer.json["error_code"])


def test_a_scripted_status_may_have_no_body(sandbox, shop, order_id):
    """A 404 without an error object is no word about the order."""
    sandbox.fault("status", status=404, body="empty")

    answer = shop.capture(order_id, 1_000)

    assert (404, b"", None) == (answer.status, answer.body, answer.headers["Content-Type"])


@pytest.mark.parametrize("status", [403, 502])
def test_a_page_of_something_in_front_of_the_provider_knows_no_correlation_id(sandbox, shop, order_id, status):
    """A flood protection or a gateway answered, not the provider."""
    sandbox.fault("html", status=status)

    answer = shop.capture(order_id, 1_000)

    assert (status, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert answer.headers["Klarna-Correlation-Id"] is None
    assert [] == amounts(sandbox)


@pytest.mark.parametrize(("executed", "expected"), [(False, (200, [])), (True, (201, [1_000]))])
def test_a_truncated_answer_promises_more_than_comes(sandbox, shop, order_id, executed, expected):
    """What is missing might have said anything."""
    sandbox.fault("truncated", executed=executed)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 1_000})

    answer = shop.connection.getresponse()
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()

    assert expected == (answer.status, amounts(sandbox))
    assert int(answer.headers["Content-Length"]) > len(caught.value.partial) > 0


def test_a_truncated_read_is_the_true_answer_cut_in_half(sandbox, shop, order_id):
    """Half a JSON object must not be taken for a whole one."""
    whole = shop.order(order_id).body
    sandbox.fault("truncated", executed=True)
    shop.begin("GET", f"/ordermanagement/v1/orders/{order_id}")

    with pytest.raises(http.client.IncompleteRead) as caught:
        shop.end()

    assert whole[: len(whole) // 2] == caught.value.partial


UNREADABLE = pytest.mark.parametrize(
    ("options", "expected"),
    [({}, (200, [])), ({"status": 403}, (403, [])), ({"executed": True}, (201, [1_000]))],
    ids=["200", "403", "executed"],
)


@UNREADABLE
def test_what_calls_itself_json_may_be_none(sandbox, shop, order_id, options, expected):
    """The header is no proof of what follows."""
    sandbox.fault("not_json", **options)

    answer = shop.capture(order_id, 1_000)

    assert "application/json" == answer.headers["Content-Type"]
    with pytest.raises(UnicodeDecodeError):
        json.loads(answer.body)
    assert expected == (answer.status, amounts(sandbox))


@UNREADABLE
def test_what_is_json_may_be_no_object(sandbox, shop, order_id, options, expected):
    """A list has no error code, and asking it for one must not break the client."""
    sandbox.fault("non_object", **options)

    answer = shop.capture(order_id, 1_000)

    assert "application/json" == answer.headers["Content-Type"]
    assert ["unexpected"] == answer.json
    assert expected == (answer.status, amounts(sandbox))


def test_an_unreadable_body_takes_the_place_of_no_content(sandbox, shop, order_id):
    """204 cannot carry a body, so the answer becomes a 200."""
    sandbox.fault("non_object", executed=True)

    answer = shop.order(order_id, "POST", "/acknowledge")

    assert (200, ["unexpected"]) == (answer.status, answer.json)
    assert ["acknowledge"] == [effect["kind"] for effect in sandbox.effects()]


@pytest.mark.parametrize("location", [True, False])
@pytest.mark.parametrize("operation", ["capture", "refund"])
def test_a_201_may_lack_its_id(sandbox, shop, order_id, location, operation):
    """The money moved, whatever the headers say; reading this as a failure pays twice."""
    shop.capture(order_id, 5_000)
    sandbox.fault("no_id_header", location=location)

    answer = getattr(shop, operation)(order_id, 1_000)

    assert (201, None) == (answer.status, answer.headers[f"{operation.capitalize()}-Id"])
    assert location is (answer.headers["Location"] is not None)
    assert [5_000, 1_000] == amounts(sandbox)


def test_the_singular_form_of_an_error_has_one_message(sandbox, shop, order_id):
    """Older services answer so, and a public client loses the message."""
    sandbox.fault("singular_error", code="CAPTURE_NOT_ALLOWED")

    answer = shop.capture(order_id, 1_000)

    assert (403, "CAPTURE_NOT_ALLOWED") == (answer.status, answer.json["error_code"])
    assert isinstance(answer.json["error_message"], str)
    assert "error_messages" not in answer.json
    assert [] == amounts(sandbox)


def test_a_failed_payment_method_does_nothing_and_may_work_later_with_the_same_key(sandbox, shop, order_id, new_key):
    """It is the one refusal that is not final, so it is not stored for the key."""
    key = new_key()
    sandbox.fault("payment_method_failed")

    failed = shop.capture(order_id, 1_000, key=key)
    later = shop.capture(order_id, 1_000, key=key)

    assert (403, "PAYMENT_METHOD_FAILED") == (failed.status, failed.json["error_code"])
    assert 201 == later.status
    assert [1_000] == amounts(sandbox)


def test_a_throttled_request_tells_the_quota_in_the_published_form(sandbox, shop, order_id, new_key):
    """Nothing was done, and there is no Retry-After."""
    key = new_key()
    sandbox.fault("throttle")

    throttled = shop.capture(order_id, 1_000, key=key)
    later = shop.capture(order_id, 1_000, key=key)

    names = ("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Retry-After")
    assert (QUOTA, "0", "1", None) == tuple(throttled.headers[name] for name in names)
    assert (429, "TOO_MANY_REQUESTS") == (throttled.status, throttled.json["error_code"])
    assert 201 == later.status


def test_a_throttled_request_may_tell_no_quota_or_another(sandbox, shop, order_id):
    """Headers may be withheld, and limits change without notice."""
    sandbox.fault("throttle", headers=False)
    sandbox.fault("throttle", limit='20, 20;w=1;name="other"', remaining=3, reset=2)

    withheld, other = (shop.capture(order_id, 1_000) for _ in range(2))

    assert withheld.headers["X-Ratelimit-Limit"] is None
    assert ('20, 20;w=1;name="other"', "3", "2") == tuple(
        other.headers[f"X-Ratelimit-{name}"] for name in ("Limit", "Remaining", "Reset")
    )


@pytest.mark.parametrize(("call", "status"), [(("GET", ""), 200), (("POST", "/acknowledge"), 204)])
def test_a_slow_answer_drips_and_arrives_whole(sandbox, shop, order_id, call, status):
    """Bytes that keep coming defeat a limit on silence, so only a limit on the whole helps."""
    sandbox.fault("slow_body", seconds=0.3)
    began = time.monotonic()

    answer = shop.order(order_id, *call)

    assert status == answer.status
    assert time.monotonic() - began >= 0.25


def test_the_head_of_a_slow_answer_comes_at_once(sandbox, shop, order_id):
    """It is the body that is slow."""
    sandbox.fault("slow_body", seconds=30)
    shop.begin("GET", f"/ordermanagement/v1/orders/{order_id}")
    began = time.monotonic()

    answer = shop.connection.getresponse()

    assert 200 == answer.status
    assert time.monotonic() - began < 5


# ------------------------------------------------------------------------------------- kept-alive connections


@pytest.mark.parametrize(("executed", "effects"), [(True, [1_000]), (False, [])])
def test_a_kept_alive_connection_may_die_under_the_next_request(sandbox, shop, order_id, executed, effects):
    """Libraries repeat such a request silently, which doubles an unkeyed change that was executed."""
    shop.order(order_id)
    sandbox.fault("close_idle", executed=executed)

    with pytest.raises(http.client.RemoteDisconnected):
        shop.capture(order_id, 1_000)

    assert effects == amounts(sandbox)


def test_a_dying_kept_alive_connection_befalls_no_fresh_one(sandbox, shop, new_shop, order_id):
    """Sending on a fresh connection is the way out, so it must be one here too."""
    shop.order(order_id)
    sandbox.fault("close_idle")

    fresh = new_shop(sandbox.base_url).capture(order_id, 1_000)
    with pytest.raises(http.client.RemoteDisconnected):
        shop.order(order_id)

    assert 201 == fresh.status


# --------------------------------------------------------------------------------------- which request it befalls


def test_a_fault_befalls_only_requests_that_fit(driver, shop, sandbox):
    """A scenario names its victim and leaves the others alone."""
    first, second = (sandbox.create_order()["order_id"] for _ in range(2))
    driver.fault("status", order_id=first, method="post", path="/captures$")

    answers = [
        shop.capture(second, 1),
        shop.order(first),
        shop.order(first, "POST", "/acknowledge"),
        shop.order(first, rest="/captures"),
        shop.capture(first, 1),
        shop.capture(first, 1),
    ]

    assert [201, 200, 204, 200, 503, 201] == [answer.status for answer in answers]


def test_a_fault_leaves_the_first_ones_alone_and_befalls_so_many(driver, shop, order_id):
    """So the third attempt can be the one that fails."""
    driver.fault("status", skip=2, times=2)

    answers = [shop.order(order_id) for _ in range(6)]

    assert [200, 200, 503, 503, 200, 200] == [answer.status for answer in answers]


def test_a_fault_without_a_number_lasts_until_it_is_struck_out(driver, shop, order_id):
    """An outage ends when the story says so."""
    driver.fault("status", times=None)

    during = [shop.order(order_id).status for _ in range(5)]
    driver.clear_faults()

    assert [503] * 5 == during
    assert 200 == shop.order(order_id).status


def test_faults_befall_in_the_order_in_which_they_were_scripted(driver, shop, order_id):
    """A script is read from top to bottom."""
    driver.fault("status", status=500)
    driver.fault("status", status=502)
    driver.fault("status", status=504, times=2)

    assert [500, 502, 504, 504, 200] == [shop.order(order_id).status for _ in range(5)]


def test_one_fault_never_befalls_two_of_many_simultaneous_requests(sandbox, new_shop, order_id):
    """Two workers at once must not share what was scripted for one."""
    sandbox.fault("status", times=5)
    statuses = []

    def ask():
        shop = new_shop(sandbox.base_url)
        statuses.extend(shop.order(order_id).status for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [200] * 75 + [503] * 5 == sorted(statuses)


def test_the_ledger_of_requests_names_the_fault(sandbox, shop, order_id):
    """Whoever reads the ledger must see which answer was scripted."""
    sandbox.fault("status", status=502)
    sandbox.fault("drop_reply")
    shop.order(order_id)
    with pytest.raises(http.client.RemoteDisconnected):
        shop.order(order_id)
    shop.order(order_id)

    seen = [(request["status"], request["fault"]) for request in sandbox.requests()]

    assert [(502, "status"), (None, "drop_reply"), (200, None)] == seen


@pytest.mark.parametrize(
    ("kind", "rules", "sentence"),
    [
        ("explode", {}, "there is no fault 'explode'; there are bare_xml, booked_twice"),
        ("hang", {"minutes": 1}, "the fault hang has no option 'minutes'; it has executed, seconds"),
        ("delay", {"executed": False}, "the fault delay has no option 'executed'; it has seconds"),
        ("drop_reply", {"status": 500}, "the fault drop_reply has no option 'status'; it has none"),
        ("delay", {"seconds": "1"}, "the option seconds of the fault delay cannot be '1'"),
        ("status", {"status": True}, "the option status of the fault status cannot be True"),
        ("hang", {"executed": 1}, "the option executed of the fault hang cannot be 1"),
        ("status", {"status": 200}, "status must be 400 to 599, got 200"),
        ("status", {"body": "xml"}, "body must be one of json, empty, html, got 'xml'"),
        ("not_json", {"status": 999}, "status must be 200 to 599, got 999"),
        ("truncated", {"status": 100}, "status must be 200 to 599, got 100"),
        ("throttle", {"limit": "1\r\nX: 2"}, "limit must be printable ASCII"),
        ("hang", {"path": "("}, "path must be a regular expression"),
        ("hang", {"times": 0}, "times must be 1 or more"),
        ("hang", {"skip": -1}, "skip must be 0 or more"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_in_one_sentence(driver, kind, rules, sentence):
    """A misspelt fault that never befalls anything would make a test pass for nothing."""
    with pytest.raises(SandboxError, match=re.escape(sentence)):
        driver.fault(kind, **rules)

    assert 0 == driver.health()["faults"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [("GET", ""), ("POST", "/acknowledge"), ("POST", "/captures"), ("HEAD", "")])
def test_no_fault_breaks_the_sandbox_itself(sandbox, new_shop, order_id, kind, call):
    """Every kind befalls every sort of answer, 204 included, and the next request is served."""
    sandbox.fault(kind, **({"seconds": 0.01} if kind in ("delay", "hang", "slow_body") else {}))
    victim, next_one = new_shop(sandbox.base_url), new_shop(sandbox.base_url)

    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        victim.order(order_id, *call, {"captured_amount": 1})
    victim.connection.close()
    answer = next_one.order(order_id)

    assert 200 == answer.status
    assert 2 == len(sandbox.requests())


def test_a_client_that_goes_away_in_the_middle_of_a_slow_answer_harms_nobody(sandbox, shop, order_id):
    """Clients give up; the server lives on."""
    sandbox.fault("slow_body", seconds=30)
    address = (shop.connection.host, shop.connection.port)
    with socket.create_connection(address) as wire:
        wire.sendall(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.recv(1)

    assert 200 == shop.order(order_id).status
