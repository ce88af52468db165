import pytest

from worker.sandbox import Sandbox

DAY = 86_400


def test_the_same_key_gets_the_same_answer_and_has_one_effect(sandbox, shop, order_id, new_key):
    """Two captures of 10.00 with one key make 10.00."""
    key = new_key()

    first = shop.capture(order_id, 1_000, key=key)
    second = shop.capture(order_id, 1_000, key=key)

    assert (first.status, first.headers.items(), first.body) == (second.status, second.headers.items(), second.body)
    assert [(1_000, key)] == [(effect["amount"], effect["key"]) for effect in sandbox.effects()]
    assert [False, True] == [request["replayed"] for request in sandbox.requests()]


def test_without_a_key_every_repeat_is_a_new_effect(sandbox, shop, order_id):
    """Two captures of 10.00 without a key make 20.00."""
    first = shop.capture(order_id, 1_000)
    second = shop.capture(order_id, 1_000)

    assert first.headers["Capture-Id"] != second.headers["Capture-Id"]
    assert [1_000, 1_000] == [effect["amount"] for effect in sandbox.effects()]


def test_two_keys_are_two_effects(sandbox, shop, order_id, new_key):
    """A new key per retry is the mistake that pays twice."""
    shop.capture(order_id, 1_000, key=new_key())
    shop.capture(order_id, 1_000, key=new_key())

    assert 2 == len(sandbox.effects())


def test_only_the_key_counts_and_not_the_body(sandbox, shop, order_id, new_key):
    """The same key with another amount is not refused; it returns the first result."""
    key = new_key()

    first = shop.capture(order_id, 1_000, key=key)
    other = shop.capture(order_id, 9_000, key=key)

    assert (201, first.headers["Capture-Id"]) == (other.status, other.headers["Capture-Id"])
    assert [1_000] == [effect["amount"] for effect in sandbox.effects()]


def test_the_scope_of_a_key_is_the_merchant(sandbox, shop, order_id, new_key):
    """One key on two orders or two operations is one request, so the client must never share keys."""
    key, other = new_key(), sandbox.create_order()["order_id"]

    first = shop.capture(order_id, 1_000, key=key)
    elsewhere = shop.capture(other, 1_000, key=key)
    otherwise = shop.order(other, "POST", "/cancel", key=key)

    assert [201] * 3 == [first.status, elsewhere.status, otherwise.status]
    assert {first.headers["Location"]} == {elsewhere.headers["Location"], otherwise.headers["Location"]}
    assert [order_id] == [effect["order_id"] for effect in sandbox.effects()]


def test_reads_take_no_key(shop, order_id, new_key):
    """A read under a key must still see what has changed since."""
    key = new_key()

    before = shop.order(order_id, key=key).json
    shop.capture(order_id, 1_000)
    after = shop.order(order_id, key=key).json

    assert [0, 1_000] == [before["captured_amount"], after["captured_amount"]]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_changes_without_content_are_replayed_too(sandbox, shop, order_id, new_key, method):
    """A key protects every POST and PATCH, those that answer 204 included."""
    rest, body = ("/cancel", None) if method == "POST" else ("/authorization", {"order_amount": 1})
    key = new_key()

    answers = [shop.order(order_id, method, rest, body, key=key) for _ in range(2)]

    assert [204, 204] == [answer.status for answer in answers]
    assert 1 == len(sandbox.effects())


def test_a_key_is_honoured_for_24_hours_from_its_first_use(sandbox, shop, order_id, new_key):
    """Repeats do not prolong the window, so a late retry pays twice."""
    key = new_key()
    shop.capture(order_id, 1_000, key=key)

    sandbox.advance(DAY - 60)
    shop.capture(order_id, 1_000, key=key)
    in_time = len(sandbox.effects())
    sandbox.advance(61)
    shop.capture(order_id, 1_000, key=key)

    assert [1, 2] == [in_time, len(sandbox.effects())]


def test_the_window_runs_from_the_first_use_and_not_from_its_answer(sandbox, shop, order_id, until):
    """A slow answer does not prolong the protection, so the age of the first attempt is what counts."""
    sandbox.fault("delay", seconds=0.5)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 1_000}, key="key-1")
    until(sandbox.requests)
    sandbox.advance(DAY - 60)
    shop.end()
    sandbox.advance(61)

    shop.capture(order_id, 1_000, key="key-1")

    assert 2 == len(sandbox.effects())


def test_a_forgotten_key_starts_a_window_of_its_own(sandbox, shop, order_id, new_key):
    """After 24 hours the key is as good as new, for another 24 hours."""
    key = new_key()
    shop.capture(order_id, 1_000, key=key)
    sandbox.advance(DAY + 1)

    answers = [shop.capture(order_id, 1_000, key=key) for _ in range(2)]

    assert 1 == len({answer.headers["Capture-Id"] for answer in answers})
    assert 2 == len(sandbox.effects())


def test_a_stored_refusal_is_replayed_after_its_cause_is_gone(shop, order_id, new_key):
    """This was seen at Klarna: a corrected command needs a new key."""
    key = new_key()

    refused = shop.refund(order_id, 1_000, key=key)
    shop.capture(order_id, 1_000)
    again = shop.refund(order_id, 1_000, key=key)
    with_new_key = shop.refund(order_id, 1_000, key=new_key())

    assert [403, 403, 201] == [refused.status, again.status, with_new_key.status]
    assert refused.json == again.json


def test_stored_refusals_can_be_switched_off(new_shop, new_key):
    """Nobody has written down which of the two Klarna does, so both must be had."""
    key = new_key()
    with Sandbox(replay_errors=False) as sandbox:
        shop, order_id = new_shop(sandbox.base_url), sandbox.create_order()["order_id"]

        refused = shop.refund(order_id, 1_000, key=key)
        shop.capture(order_id, 1_000)
        again = [shop.refund(order_id, 1_000, key=key) for _ in range(2)]

        assert [403, 201, 201] == [refused.status, *[answer.status for answer in again]]
        assert 2 == len(sandbox.effects())


def test_an_unauthorized_request_does_not_use_the_key(sandbox, shop, new_shop, order_id, new_key):
    """Wrong credentials never reached the merchant whose key it is."""
    key = new_key()

    new_shop(sandbox.base_url, authorization=None).capture(order_id, 1_000, key=key)
    answer = shop.capture(order_id, 1_000, key=key)

    assert 201 == answer.status


def test_the_second_of_two_simultaneous_requests_with_one_key_conflicts(sandbox, shop, new_shop, order_id, until):
    """While the first is at work nobody knows its answer; its list of messages is empty, as Klarna's may be."""
    key = "key-1"
    sandbox.fault("delay", seconds=1)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 1_000}, key=key)
    until(sandbox.requests)

    second = new_shop(sandbox.base_url).capture(order_id, 1_000, key=key)
    first = shop.end()
    third = shop.capture(order_id, 1_000, key=key)

    assert (409, "CONFLICT", []) == (second.status, second.json["error_code"], second.json["error_messages"])
    assert [201, 201] == [first.status, third.status]
    assert first.headers["Capture-Id"] == third.headers["Capture-Id"]
    assert 1 == len(sandbox.effects())


def test_a_reset_forgets_keys(sandbox, shop, new_key):
    """After a reset nothing of the old world shows through."""
    key = new_key()
    shop.capture(sandbox.create_order()["order_id"], 1_000, key=key)
    sandbox.reset()

    answer = shop.capture(sandbox.create_order()["order_id"], 1_000, key=key)

    assert 201 == answer.status
    assert 1 == len(sandbox.effects())
