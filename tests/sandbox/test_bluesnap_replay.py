import pytest

from worker.sandbox import Sandbox

HOUR = 3_600


def named(answer):
    [message] = answer.json["message"]
    return answer.status, message["errorName"], message["code"]


def test_the_same_request_with_the_same_key_gets_the_same_answer_and_has_one_effect(sandbox, blue_shop, sale_id):
    """Two refunds of 4.00 with one key make 4.00."""
    first = blue_shop.refund(sale_id, "4.00", key="key-1")
    second = blue_shop.refund(sale_id, "4.00", key="key-1")

    assert (first.status, first.body) == (second.status, second.body)
    assert [("4.00", "key-1")] == [(effect["amount"], effect["key"]) for effect in sandbox.effects()]
    assert [False, True] == [request["replayed"] for request in sandbox.requests()]


def test_only_a_repeat_echoes_the_key(blue_shop, sale_id):
    """The echo is the proof that keys are on for the account."""
    first = blue_shop.refund(sale_id, "4.00", key="key-1")
    second = blue_shop.refund(sale_id, "4.00", key="key-1")

    assert (None, "key-1") == (first.headers["Idempotency-Key"], second.headers["Idempotency-Key"])


@pytest.mark.parametrize("header", ["idempotency-key", "IDEMPOTENCY-KEY"])
def test_the_case_of_the_header_does_not_matter(sandbox, blue_shop, sale_id, header):
    """It never does in HTTP."""
    for _ in range(2):
        blue_shop.call("POST", f"transactions/refund/{sale_id}", {"amount": "4.00"}, **{header: "key-1"})

    assert 1 == len(sandbox.effects())


def test_without_a_key_every_repeat_is_a_new_effect(sandbox, blue_shop, sale_id):
    """Two refunds of 4.00 without a key make 8.00."""
    for _ in range(2):
        blue_shop.refund(sale_id, "4.00")

    assert ["4.00", "4.00"] == [effect["amount"] for effect in sandbox.effects()]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("transactions", {"cardTransactionType": "AUTH_ONLY", "amount": "1", "currency": "USD", "pfToken": "t"}),
        ("transactions", {"cardTransactionType": "AUTH_CAPTURE", "amount": "1", "currency": "USD", "pfToken": "t"}),
        ("alt-transactions", {}),
        ("batch/order-placement", {}),
        ("recurring/ondemand", {}),
        ("recurring/ondemand/17", {}),
        ("recurring/plans", {}),
        ("recurring/subscriptions", {}),
        ("subscriptions/17/subscription-charges", {}),
        ("vaulted-shoppers", {}),
        ("vendors", {}),
    ],
)
def test_every_post_of_the_published_list_takes_a_key(sandbox, blue_shop, path, body):
    """A lost reply to a creation must not make two."""
    first, second = (blue_shop.call("POST", path, body, key="key-1") for _ in range(2))

    assert (first.status, first.headers["Location"], first.body) == (
        second.status,
        second.headers["Location"],
        second.body,
    )
    assert 1 == len(sandbox.effects())


def test_a_refund_by_the_merchants_own_id_is_not_on_the_list(sandbox, blue_shop):
    """The form that looks safer is the one without protection."""
    sandbox.create_transaction(captured=True, merchant_transaction_id="invoice-17")

    for _ in range(2):
        blue_shop.call("POST", "transactions/refund/merchant/invoice-17", {"amount": "4.00"}, key="key-1")

    assert [("4.00", None)] * 2 == [(effect["amount"], effect["key"]) for effect in sandbox.effects()]


def test_a_key_does_nothing_on_put(sandbox, blue_shop, transaction_id):
    """A capture moves money and has no protection from its key."""
    answers = [blue_shop.capture(transaction_id, "4.00", key="key-1") for _ in range(2)]

    assert [(200, None)] * 2 == [(answer.status, answer.headers["Idempotency-Key"]) for answer in answers]
    assert [("4.00", None)] * 2 == [(effect["amount"], effect["key"]) for effect in sandbox.effects()]


def test_a_key_does_nothing_on_get_and_delete(sandbox, blue_shop, sale_id):
    """A read under a key must still see what has changed since."""
    sandbox.switch(bluesnap_refund_status="PENDING")
    before = blue_shop.call("GET", f"transactions/{sale_id}", key="key-1").json
    blue_shop.refund(sale_id, "4.00")
    after = blue_shop.call("GET", f"transactions/{sale_id}", key="key-1").json
    cancels = [blue_shop.cancel_refund(sale_id, key="key-1") for _ in range(2)]

    assert [False, True] == ["refunds" in before, "refunds" in after]
    assert [200, 400] == [answer.status for answer in cancels]


def test_an_ignored_key_may_look_like_anything(blue_shop, transaction_id):
    """Where it does not count it is not even looked at."""
    answer = blue_shop.capture(transaction_id, "4.00", key="_" * 100)

    assert 200 == answer.status


@pytest.mark.parametrize(
    "other",
    [
        {"body": {"amount": "5.00"}},
        {"body": {"amount": "4.00", "reason": "returned"}},
        {"body": b'{"amount":"4.00"}'},  # the same content in other bytes
        {"path": "transactions/refund/{other}"},
        {"path": "transactions/refund/{sale}?dry=1"},
        {"path": "recurring/plans"},
    ],
    ids=["amount", "field", "bytes", "transaction", "query", "operation"],
)
def test_the_same_key_for_another_request_is_refused(sandbox, blue_shop, sale_id, other):
    """BlueSnap compares, where Klarna does not: the body must be the same byte for byte."""
    other_id = sandbox.create_transaction(captured=True)["transactionId"]
    blue_shop.refund(sale_id, "4.00", key="key-1")
    path = other.get("path", "transactions/refund/{sale}").format(sale=sale_id, other=other_id)

    answer = blue_shop.call("POST", path, other.get("body", {"amount": "4.00"}), key="key-1")
    again = blue_shop.refund(sale_id, "4.00", key="key-1")

    name = "SAME_IDEMPOTENCY_KEY_WAS_ALREADY_IN_USE_WITH_PREVIOUS_DIFFERENT_REQUEST"
    assert (422, name, "60101") == named(answer)
    assert (200, 1) == (again.status, len(sandbox.effects()))


def test_the_second_of_two_simultaneous_requests_with_one_key_is_told_to_wait(
    sandbox, blue_shop, new_blue_shop, sale_id, until
):
    """While the first is at work nobody knows its answer."""
    sandbox.fault("delay", seconds=1)
    headers = {"bluesnap-version": "3.0", "Accept": "application/json", "Idempotency-Key": "key-1"}
    blue_shop.begin("POST", f"/services/2/transactions/refund/{sale_id}", {"amount": "4.00"}, headers=headers)
    until(sandbox.requests)
    second_shop = new_blue_shop(sandbox.base_url)

    second = second_shop.refund(sale_id, "4.00", key="key-1")
    other = second_shop.refund(sale_id, "5.00", key="key-1")
    first = blue_shop.end()
    third = blue_shop.refund(sale_id, "4.00", key="key-1")

    assert (409, "REQUEST_WITH_SAME_IDEMPOTENCY_KEY_ALREADY_IN_PROGRESS", "60102") == named(second)
    assert 422 == other.status
    assert (200, first.body) == (first.status, third.body)
    assert 1 == len(sandbox.effects())


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("k" * 65, ("IDEMPOTENCY_KEY_MAX_LENGTH_LIMIT_EXCEEDED", "60103")),
        ("_" * 65, ("IDEMPOTENCY_KEY_MAX_LENGTH_LIMIT_EXCEEDED", "60103")),
        ("key_1", ("INVALID_IDEMPOTENCY_KEY", "60104")),
        ("key:1", ("INVALID_IDEMPOTENCY_KEY", "60104")),
        ("key 1", ("INVALID_IDEMPOTENCY_KEY", "60104")),
        ("clé", ("INVALID_IDEMPOTENCY_KEY", "60104")),
    ],
)
def test_a_key_has_at_most_64_letters_digits_and_hyphens(sandbox, blue_shop, sale_id, key, error):
    """A key that is legal at Klarna may be none here."""
    answer = blue_shop.refund(sale_id, "4.00", key=key)

    assert (400, *error) == named(answer)
    assert [] == sandbox.effects()


@pytest.mark.parametrize("key", ["k" * 64, "0", "A-z-9", "59a3401e-55f1-40f3-b582-90ae2265c709"])
def test_a_key_within_the_limits_is_taken(blue_shop, sale_id, key):
    """A UUID is legal at both providers."""
    answers = [blue_shop.refund(sale_id, "4.00", key=key) for _ in range(2)]

    assert [(200, None), (200, key)] == [(answer.status, answer.headers["Idempotency-Key"]) for answer in answers]


@pytest.mark.parametrize(("switched", "hours"), [({}, 24), ({"key_window_hours": 12}, 12)])
def test_a_key_is_forgotten_after_so_many_hours(sandbox, blue_shop, sale_id, switched, hours):
    """It says *up to* 24 hours, so a shorter time must be had; repeats do not prolong it."""
    sandbox.switch(**switched)
    blue_shop.refund(sale_id, "4.00", key="key-1")

    sandbox.advance(hours * HOUR - 60)
    blue_shop.refund(sale_id, "4.00", key="key-1")
    in_time = len(sandbox.effects())
    sandbox.advance(61)
    late = blue_shop.refund(sale_id, "4.00", key="key-1")

    assert [1, 2] == [in_time, len(sandbox.effects())]
    assert late.headers["Idempotency-Key"] is None


def test_a_forgotten_key_may_be_used_for_another_request(sandbox, blue_shop, sale_id):
    """After its time it is as good as new."""
    blue_shop.refund(sale_id, "4.00", key="key-1")
    sandbox.advance(24 * HOUR + 1)

    answer = blue_shop.refund(sale_id, "5.00", key="key-1")

    assert 200 == answer.status


def test_the_window_of_klarnas_keys_is_switched_along(sandbox, shop, order_id):
    """One switch for both, because a late repeat is the same danger at both."""
    sandbox.switch(key_window_hours=1)
    shop.capture(order_id, 1_000, key="key-1")
    sandbox.advance(HOUR + 1)

    shop.capture(order_id, 1_000, key="key-1")

    assert 2 == len(sandbox.effects())


def test_an_account_without_keys_accepts_them_silently(sandbox, blue_shop, sale_id):
    """The danger: nothing looks wrong but for the echo that does not come."""
    sandbox.switch(bluesnap_keys=False)

    answers = [blue_shop.refund(sale_id, "4.00", key="key-1") for _ in range(2)]

    assert [(200, None)] * 2 == [(answer.status, answer.headers["Idempotency-Key"]) for answer in answers]
    assert [("4.00", None)] * 2 == [(effect["amount"], effect["key"]) for effect in sandbox.effects()]


def test_a_stored_refusal_is_replayed_after_its_cause_is_gone(blue_shop, transaction_id):
    """A corrected command needs a new key."""
    refused = blue_shop.refund(transaction_id, "4.00", key="key-1")
    blue_shop.capture(transaction_id, "4.00")
    again = blue_shop.refund(transaction_id, "4.00", key="key-1")
    with_new_key = blue_shop.refund(transaction_id, "4.00", key="key-2")

    assert [400, 400, 200] == [refused.status, again.status, with_new_key.status]
    assert refused.body == again.body


@pytest.mark.parametrize("when", ["from the beginning", "later"])
def test_stored_refusals_can_be_switched_off(new_blue_shop, when):
    """Nobody has written down which of the two BlueSnap does, so both must be had."""
    with Sandbox(replay_errors=when == "later") as sandbox:
        sandbox.switch(replay_errors=False)
        shop, transaction_id = new_blue_shop(sandbox.base_url), sandbox.create_transaction()["transactionId"]

        refused = shop.refund(transaction_id, "4.00", key="key-1")
        shop.capture(transaction_id, "4.00")
        again = [shop.refund(transaction_id, "4.00", key="key-1") for _ in range(2)]

        assert [400, 200, 200] == [refused.status, *[answer.status for answer in again]]
        assert 2 == len(sandbox.effects())


@pytest.mark.parametrize("wrong", [{"authorization": None}, {}])
def test_a_request_that_was_not_understood_does_not_use_the_key(sandbox, new_blue_shop, sale_id, wrong):
    """It never reached the merchant whose key it is."""
    stranger = new_blue_shop(sandbox.base_url, **wrong)
    body = {"amount": "4.00"}

    stranger.call("POST", f"transactions/refund/{sale_id}", body, key="key-1", **{"bluesnap-version": None})
    answer = new_blue_shop(sandbox.base_url).refund(sale_id, "4.00", key="key-1")

    assert (200, None) == (answer.status, answer.headers["Idempotency-Key"])


def test_a_reset_forgets_keys_records_and_transactions(sandbox, blue_shop):
    """After a reset nothing of the old world shows through, ids included."""
    before = blue_shop.call("POST", "recurring/plans", {}, key="key-1").json
    blue_shop.authorize(merchantTransactionId="invoice-17")
    sandbox.switch(bluesnap_codes="number", key_window_hours=1)
    sandbox.reset()

    after = blue_shop.call("POST", "recurring/plans", {"name": "Gold"}, key="key-1")

    assert (200, before["planId"]) == (after.status, after.json["planId"])
    assert 403 == blue_shop.read("invoice-17,456").status
    assert ("text", 24) == tuple(sandbox.switches()[name] for name in ("bluesnap_codes", "key_window_hours"))
