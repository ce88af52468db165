from datetime import UTC, datetime, timedelta

import pytest

STATUSES = ["AUTHORIZED", "PART_CAPTURED", "CAPTURED", "CANCELLED", "EXPIRED", "CLOSED"]


def amounts(order):
    return tuple(
        order[f"{name}_amount"] for name in ("order", "original_order", "captured", "refunded", "remaining_authorized")
    )


def moment(text):
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("status", STATUSES)
def test_an_order_can_be_made_in_every_status(driver, status):
    """A test should start where its story starts."""
    order = driver.create_order(status=status)

    assert status == order["status"]
    assert status == driver.order(order["order_id"])["status"]
    assert [] == driver.effects()


def test_captures_lead_from_authorized_over_part_captured_to_captured(shop, order_id):
    """The status is what a shop shows its people, and the amounts must bear it out."""
    seen = [shop.order(order_id).json]
    for amount in (4_000, 6_000):
        shop.capture(order_id, amount)
        seen.append(shop.order(order_id).json)

    assert ["AUTHORIZED", "PART_CAPTURED", "CAPTURED"] == [order["status"] for order in seen]
    assert (10_000, 10_000, 0, 0, 10_000) == amounts(seen[0])
    assert (10_000, 10_000, 4_000, 0, 6_000) == amounts(seen[1])
    assert (10_000, 10_000, 10_000, 0, 0) == amounts(seen[2])


def test_a_full_refund_closes_the_order(shop, order_id):
    """CLOSED can mean that all went well, which public clients read as a failure."""
    shop.capture(order_id, 10_000)
    shop.refund(order_id, 4_000)
    half = shop.order(order_id).json
    shop.refund(order_id, 6_000)
    full = shop.order(order_id).json

    assert [("CAPTURED", 4_000), ("CLOSED", 10_000)] == [(o["status"], o["refunded_amount"]) for o in (half, full)]


def test_a_refund_of_all_that_was_captured_leaves_the_rest_of_the_authorization_open(shop, order_id):
    """More may be captured as long as something is authorized, so the order is not closed yet."""
    shop.capture(order_id, 4_000)
    shop.refund(order_id, 4_000)

    assert "PART_CAPTURED" == shop.order(order_id).json["status"]


def test_a_release_lets_the_rest_go_and_completes_the_order(shop, order_id):
    """After a release nothing more can be captured."""
    shop.capture(order_id, 4_000)
    shop.order(order_id, "POST", "/release-remaining-authorization")

    order = shop.order(order_id).json
    more = shop.capture(order_id, 1)

    assert ("CAPTURED", 0) == (order["status"], order["remaining_authorized_amount"])
    assert (403, "CAPTURE_NOT_ALLOWED") == (more.status, more.json["error_code"])


@pytest.mark.parametrize("status", ["AUTHORIZED", "CAPTURED", "CANCELLED", "EXPIRED", "CLOSED"])
def test_a_release_is_refused_where_there_is_nothing_to_release(sandbox, shop, status):
    """Without a capture cancel is the right call, and a full capture leaves nothing."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.order(order_id, "POST", "/release-remaining-authorization")

    assert (403, "NOT_ALLOWED") == (answer.status, answer.json["error_code"])
    assert [] == sandbox.effects()


@pytest.mark.parametrize("status", ["CAPTURED", "CANCELLED", "EXPIRED", "CLOSED"])
def test_a_capture_is_refused_on_an_order_that_is_not_open(sandbox, shop, status):
    """A second full capture without the key looks exactly like this."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.capture(order_id, 1)

    assert (403, "CAPTURE_NOT_ALLOWED") == (answer.status, answer.json["error_code"])
    assert [] == sandbox.effects()


def test_a_capture_above_the_remaining_authorization_is_refused_to_the_last_unit(sandbox, shop, order_id):
    """One minor unit too much is too much, and exactly the rest is not."""
    shop.capture(order_id, 4_000)

    above = shop.capture(order_id, 6_001)
    exact = shop.capture(order_id, 6_000)

    assert [403, 201] == [above.status, exact.status]
    assert [4_000, 6_000] == [effect["amount"] for effect in sandbox.effects()]


@pytest.mark.parametrize("status", ["AUTHORIZED", "CANCELLED", "EXPIRED", "CLOSED"])
def test_a_refund_is_refused_where_nothing_is_left_to_give_back(sandbox, shop, status):
    """Nothing captured or all refunded: there is no money of this buyer here."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.refund(order_id, 1)

    assert (403, "REFUND_NOT_ALLOWED") == (answer.status, answer.json["error_code"])


def test_refunds_together_never_exceed_what_was_captured(sandbox, shop, order_id):
    """The limit is on the sum, not on each refund."""
    shop.capture(order_id, 5_000)
    shop.refund(order_id, 3_000)

    above = shop.refund(order_id, 2_001)
    exact = shop.refund(order_id, 2_000)

    assert [(403, "REFUND_NOT_ALLOWED")] == [(above.status, above.json["error_code"])]
    assert 201 == exact.status


@pytest.mark.parametrize("status", ["PART_CAPTURED", "CAPTURED", "CANCELLED", "EXPIRED", "CLOSED"])
def test_a_cancel_is_refused_once_the_order_has_gone_its_way(sandbox, shop, status):
    """A second cancel without the key looks exactly like this."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.order(order_id, "POST", "/cancel")

    assert (403, "CANCEL_NOT_ALLOWED") == (answer.status, answer.json["error_code"])


def test_a_cancel_ends_the_order_and_its_authorization(shop, order_id):
    """A cancelled order holds no money of the buyer."""
    shop.order(order_id, "POST", "/cancel")

    order = shop.order(order_id).json

    assert ("CANCELLED", 0) == (order["status"], order["remaining_authorized_amount"])


def test_an_authorization_may_rise_and_may_fall_to_what_is_captured_but_not_below(shop, order_id):
    """The captured part is paid; only the rest is still open to change."""
    shop.capture(order_id, 4_000)

    raised = shop.order(order_id, "PATCH", "/authorization", {"order_amount": 12_000})
    order = shop.order(order_id).json
    below = shop.order(order_id, "PATCH", "/authorization", {"order_amount": 3_999})
    lowered = shop.order(order_id, "PATCH", "/authorization", {"order_amount": 4_000})

    assert [204, 403, 204] == [raised.status, below.status, lowered.status]
    assert "NOT_ALLOWED" == below.json["error_code"]
    assert (12_000, 10_000, 4_000, 0, 8_000) == amounts(order)
    assert "CAPTURED" == shop.order(order_id).json["status"]


def test_an_authorization_change_without_lines_removes_the_lines(shop, order_id):
    """All lines are replaced, and sending none is a way to lose them."""
    line = {"name": "Shirt", "quantity": 1, "unit_price": 10_000, "total_amount": 10_000}
    shop.order(order_id, "PATCH", "/authorization", {"order_amount": 10_000, "order_lines": [line]})
    with_lines = shop.order(order_id).json["order_lines"]
    shop.order(order_id, "PATCH", "/authorization", {"order_amount": 10_000})

    assert [[line], []] == [with_lines, shop.order(order_id).json["order_lines"]]


@pytest.mark.parametrize("status", ["CAPTURED", "CANCELLED", "EXPIRED", "CLOSED"])
@pytest.mark.parametrize(
    "call",
    [
        ("PATCH", "/authorization", {"order_amount": 20_000}),
        ("POST", "/extend-authorization-time", None),
        ("PATCH", "/customer-details", {"shipping_address": {"city": "Lund"}}),
    ],
)
def test_updates_are_refused_on_an_order_that_is_not_open(sandbox, shop, status, call):
    """What is paid, gone or given up is not updated any more."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.order(order_id, *call)

    assert (403, "NOT_ALLOWED") == (answer.status, answer.json["error_code"])
    assert [] == sandbox.effects()


def test_the_references_of_a_cancelled_order_cannot_be_updated(sandbox, shop):
    """The description says so of cancelled orders, and of no others."""
    update = ("PATCH", "/merchant-references", {"merchant_reference1": "a"})
    cancelled = sandbox.create_order(status="CANCELLED")["order_id"]
    closed = sandbox.create_order(status="CLOSED")["order_id"]

    assert [403, 204] == [shop.order(order_id, *update).status for order_id in (cancelled, closed)]


@pytest.mark.parametrize("status", ["CANCELLED", "EXPIRED"])
def test_an_order_that_came_to_nothing_cannot_be_acknowledged(sandbox, shop, status):
    """Acknowledging means taking the order over."""
    order_id = sandbox.create_order(status=status)["order_id"]

    answer = shop.order(order_id, "POST", "/acknowledge")

    assert (403, "NOT_ALLOWED") == (answer.status, answer.json["error_code"])


def test_nothing_is_sent_out_for_an_order_without_captures(shop, order_id):
    """The message is about a capture, so there must be one; this is 403 and not 404."""
    answer = shop.order(order_id, "POST", "/captures/4ba29b50-be7b-44f5-a492-113e6a865e22/trigger-send-out")

    assert (403, "NOT_ALLOWED") == (answer.status, answer.json["error_code"])


def test_the_due_date_of_a_closed_order_cannot_be_extended(sandbox, shop):
    """All was given back, so nothing is due."""
    order = sandbox.create_order(status="CLOSED")
    capture_id = order["captures"][0]["capture_id"]

    answer = shop.order(order["order_id"], "PATCH", f"/captures/{capture_id}/extend-due-date", {"number_of_days": 10})

    assert (403, "NOT_ALLOWED") == (answer.status, answer.json["error_code"])


def test_an_untouched_order_expires_after_28_days(sandbox, shop, order_id):
    """A capture that comes too late finds no money."""
    sandbox.advance(27 * 86_400)
    before = shop.order(order_id).json["status"]
    sandbox.advance(86_400)
    late = shop.capture(order_id, 1_000)

    assert ["AUTHORIZED", "EXPIRED"] == [before, shop.order(order_id).json["status"]]
    assert (403, "CAPTURE_NOT_ALLOWED") == (late.status, late.json["error_code"])


def test_what_was_captured_in_time_stays_captured_and_can_be_refunded(sandbox, shop, order_id):
    """Expiry takes the authorization, not the money."""
    shop.capture(order_id, 4_000)
    sandbox.advance(29 * 86_400)

    order = shop.order(order_id).json
    refund = shop.refund(order_id, 4_000)

    assert ("CAPTURED", 0) == (order["status"], order["remaining_authorized_amount"])
    assert 201 == refund.status


def test_extending_twice_on_one_day_extends_once(sandbox, shop, order_id):
    """The days are counted from the day of the call, so a repeat on the same day is harmless."""
    sandbox.advance(10 * 86_400)
    shop.order(order_id, "POST", "/extend-authorization-time")
    once = shop.order(order_id).json["expires_at"]
    shop.order(order_id, "POST", "/extend-authorization-time")
    twice = shop.order(order_id).json["expires_at"]
    created_at = moment(shop.order(order_id).json["created_at"])

    assert once == twice
    assert timedelta(days=37) <= moment(once) - created_at <= timedelta(days=38)


def test_no_extension_reaches_beyond_180_days(sandbox, shop, order_id):
    """The contract's limit stands over every extension."""
    for _ in range(9):
        sandbox.advance(20 * 86_400 - 3_600)
        shop.order(order_id, "POST", "/extend-authorization-time")

    order = shop.order(order_id).json

    assert timedelta(days=180) == moment(order["expires_at"]) - moment(order["created_at"])


def test_an_order_may_be_given_its_moment_of_expiry(driver):
    """Tests of expiry should not have to count days."""
    order = driver.create_order(expires_at=datetime.now(UTC) + timedelta(hours=1))
    driver.advance(3_601)

    assert "EXPIRED" == driver.order(order["order_id"])["status"]
