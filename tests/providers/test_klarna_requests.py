from __future__ import annotations

from base64 import b64encode

import pytest

from worker.domain.errors import InvalidCommand, UnknownKind
from worker.domain.ladder import Safety
from worker.providers.klarna import OPERATIONS, Klarna

ORDER = "4ba29b50-be7b-44f5-a492-113e6a865e22"
TARGET = "3b6a9a10-1c6e-4c0e-8f6b-9d2f1a7c5e01"
UNDER = f"https://api.klarna.com/ordermanagement/v1/orders/{ORDER}"

#: Kind, method, address, whether it has a body: as the provider's description has them, written out a second time.
DESCRIBED = [
    ("acknowledge", "POST", f"{UNDER}/acknowledge", False),
    ("capture", "POST", f"{UNDER}/captures", True),
    ("refund", "POST", f"{UNDER}/refunds", True),
    ("cancel", "POST", f"{UNDER}/cancel", False),
    ("release_remaining_authorization", "POST", f"{UNDER}/release-remaining-authorization", False),
    ("update_authorization", "PATCH", f"{UNDER}/authorization", True),
    ("extend_authorization_time", "POST", f"{UNDER}/extend-authorization-time", False),
    ("update_customer_details", "PATCH", f"{UNDER}/customer-details", True),
    ("update_merchant_references", "PATCH", f"{UNDER}/merchant-references", True),
    ("add_order_shipping_info", "POST", f"{UNDER}/shipping-info", True),
    ("add_capture_shipping_info", "POST", f"{UNDER}/captures/{TARGET}/shipping-info", True),
    ("trigger_send_out", "POST", f"{UNDER}/captures/{TARGET}/trigger-send-out", False),
    ("extend_due_date", "PATCH", f"{UNDER}/captures/{TARGET}/extend-due-date", True),
    ("read_order", "GET", UNDER, False),
    ("read_capture", "GET", f"{UNDER}/captures/{TARGET}", False),
    ("read_captures", "GET", f"{UNDER}/captures", False),
    ("read_refund", "GET", f"{UNDER}/refunds/{TARGET}", False),
    ("read_due_date_options", "GET", f"{UNDER}/captures/{TARGET}/extend-due-date-options", False),
]
KINDS = [kind for kind, *_ in DESCRIBED]
CHANGES = [kind for kind, method, _, _ in DESCRIBED if method != "GET"]
READS = [kind for kind, method, _, _ in DESCRIBED if method == "GET"]
PAYLOAD = b'{ "captured_amount": 1000,\t"description": "\xc3\xa4\\u00e4" }\n'

#: What these do, no read shows.
INVISIBLE = ("acknowledge", "trigger_send_out", "extend_due_date")


@pytest.fixture
def klarna():
    return Klarna(account="klarna-eu", base_url="https://api.klarna.com", username="K123", password="klarna_live_pass")


def test_there_are_the_eighteen_operations_of_the_description():
    """One missing would be a payment call nobody can make through this worker."""
    assert len(KINDS) == 18
    assert set(KINDS) == set(OPERATIONS)


@pytest.mark.parametrize("described", DESCRIBED, ids=KINDS)
def test_each_kind_is_the_request_of_the_description(klarna, held, described):
    """A wrong verb or path is another operation, or none."""
    kind, method, url, has_body = described

    request = klarna.request(held(kind=kind, order_id=ORDER, target=TARGET, payload=PAYLOAD))

    assert (request.method, request.url) == (method, url)
    assert request.body == (PAYLOAD if has_body else None)
    assert request.headers.get("Content-Type") == ("application/json" if has_body else None)
    assert request.headers["Accept"] == "application/json"
    assert request.headers["User-Agent"].startswith("post-purchase-worker/")


@pytest.mark.parametrize("kind", CHANGES)
def test_every_change_carries_its_key_under_the_exact_name(klarna, held, kind):
    """Only this header makes a repeat harmless."""
    request = klarna.request(held(kind=kind, target=TARGET, idempotency_key="b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"))

    assert request.headers["Klarna-Idempotency-Key"] == "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"
    assert request.repeatable


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_without_a_key_carries_none_and_must_not_be_repeated(klarna, held, kind):
    """The caller chose so, and then no library may send it twice."""
    request = klarna.request(held(kind=kind, target=TARGET, keyed=False))

    assert "klarna-idempotency-key" not in {name.lower() for name in request.headers}
    assert not request.repeatable


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("keyed", [True, False])
def test_a_read_carries_no_key_and_may_be_repeated(klarna, held, kind, keyed):
    """Klarna takes keys on POST and PATCH only, and a read changes nothing."""
    request = klarna.request(held(kind=kind, target=TARGET, keyed=keyed))

    assert "klarna-idempotency-key" not in {name.lower() for name in request.headers}
    assert request.repeatable


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_as_safe_as_its_key(klarna, kind):
    """The ladder repeats what is keyed; the rest is looked up where it can be, and else left to people."""
    unkeyed = Safety.UNKEYED if kind in INVISIBLE else Safety.UNKEYED_READABLE

    assert klarna.safety(kind, keyed=True) is Safety.KEYED
    assert klarna.safety(kind, keyed=False) is unkeyed


@pytest.mark.parametrize("kind", READS)
def test_a_read_is_safe_with_and_without_a_key(klarna, kind):
    """It can be repeated for ever."""
    assert klarna.safety(kind, keyed=True) is Safety.READ
    assert klarna.safety(kind, keyed=False) is Safety.READ


def test_every_attempt_makes_the_same_request(klarna, held):
    """Klarna looks at the key alone, so a second attempt that differs would be taken for the first."""
    first = klarna.request(held(attempt=1, claims=1, failures=0))

    fourth = klarna.request(held(attempt=4, claims=9, failures=3, in_doubt=True))

    assert first == fourth


@pytest.mark.parametrize("base_url", ["https://api.playground.klarna.com", "https://api.playground.klarna.com/"])
def test_a_slash_behind_the_base_url_makes_no_difference(held, base_url):
    """People write both."""
    klarna = Klarna(account="a", base_url=base_url, username="u", password="p")

    request = klarna.request(held(kind="read_order", order_id=ORDER))

    assert request.url == f"https://api.playground.klarna.com/ordermanagement/v1/orders/{ORDER}"


@pytest.mark.parametrize(
    ("written", "in_the_path"),
    [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("a%2Fb", "a%252Fb"), ("a b\r\n", "a%20b%0D%0A"), ("ä", "%C3%A4")],
)
def test_an_id_stays_one_segment_of_the_path(klarna, held, written, in_the_path):
    """Ids are checked when they are stored; should one slip through, it must not become another operation."""
    request = klarna.request(held(kind="trigger_send_out", order_id=written, target=written))

    assert request.url.endswith(f"/orders/{in_the_path}/captures/{in_the_path}/trigger-send-out")


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_an_id_that_would_change_the_path_is_refused(klarna, held, value):
    """These three have a meaning in a path and cannot be escaped."""
    with pytest.raises(InvalidCommand, match="order_id"):
        klarna.request(held(order_id=value))
    with pytest.raises(InvalidCommand, match="target"):
        klarna.request(held(kind="read_capture", target=value))


def test_a_command_about_a_capture_needs_to_say_which(klarna, held):
    """Without its id the path would be that of all captures."""
    with pytest.raises(InvalidCommand, match="target"):
        klarna.request(held(kind="read_capture", target=None))


def test_a_kind_of_another_provider_is_refused(klarna, held):
    """A command may have been stored for an account that has since changed its provider."""
    with pytest.raises(UnknownKind, match="vaulted_shopper"):
        klarna.request(held(kind="vaulted_shopper"))


def test_a_kind_of_another_provider_can_still_be_decided_on(klarna):
    """Else one such row would keep sweep from every other, and its own ticket from being opened."""
    assert Safety.KEYED is klarna.safety("vaulted_shopper", keyed=True)
    assert Safety.UNKEYED is klarna.safety("vaulted_shopper", keyed=False)


def test_a_probe_is_the_read_of_an_order(klarna, held):
    """It asks what a shop asks all day: whoever answers it is well, and nothing is changed by it."""
    probe, read = klarna.probe(ORDER), klarna.request(held(kind="read_order", order_id=ORDER))

    assert ("GET", UNDER, None) == (probe.method, probe.url, probe.body)
    assert probe == read


def test_a_probe_of_an_order_that_is_no_segment_of_a_path_is_refused(klarna):
    """Ids come from the shop, and one must not lead to another place with our credentials."""
    with pytest.raises(InvalidCommand, match="order_id"):
        klarna.probe("..")


def test_credentials_are_sent_as_basic_authorization(held):
    """User name and password, in UTF-8, with exactly one space behind the word."""
    klarna = Klarna(account="a", base_url="https://api.klarna.com", username="K123", password="pässword")

    request = klarna.request(held())

    assert request.authorization == "Basic " + b64encode("K123:pässword".encode()).decode()


def test_credentials_show_in_no_repr(klarna, held):
    """Objects end up in tracebacks and log lines."""
    shown = repr(klarna) + repr(klarna.request(held())) + str(klarna)

    assert "klarna-eu" in shown
    assert "klarna_live_pass" not in shown
    assert "K123" not in shown
    assert b64encode(b"K123:klarna_live_pass").decode() not in shown


@pytest.mark.parametrize("described", DESCRIBED, ids=KINDS)
def test_each_request_goes_over_the_wire_as_built(serve, transport, answer_to, held, described):
    """What counts is what arrives: one key header on changes, the stored bytes, a length on every POST and PATCH."""
    kind, method, url, has_body = described
    server = serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    klarna = Klarna(account="a", base_url=server.url, username="u", password="p")
    command = held(kind=kind, order_id=ORDER, target=TARGET, payload=PAYLOAD)

    answer_to(transport, klarna.request(command))

    (arrived,) = server.requests
    body = PAYLOAD if has_body else b""
    assert (arrived.method, arrived.path) == (method, url.removeprefix("https://api.klarna.com"))
    assert arrived.body == body
    assert arrived.all("content-length") == ([] if method == "GET" else [str(len(body))])
    assert arrived.all("klarna-idempotency-key") == ([] if method == "GET" else [command.idempotency_key])
    assert arrived.all("authorization") == ["Basic " + b64encode(b"u:p").decode()]
