from __future__ import annotations

from base64 import b64encode

import pytest

from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.errors import InvalidCommand, UnknownKind
from worker.domain.ladder import Safety
from worker.providers.bluesnap import OPERATIONS, BlueSnap

ORDER = "38486450"
TARGET = "/report/TransactionDetail?period=TODAY&a=%C3%A4"
UNDER = "https://ws.bluesnap.com/services/2"

#: Kind, method, address: as the API's description has them, written out a second time.
DESCRIBED = [
    ("capture", "PUT", f"{UNDER}/transactions"),
    ("auth_reversal", "PUT", f"{UNDER}/transactions"),
    ("refund", "POST", f"{UNDER}/transactions/refund/{ORDER}"),
    ("cancel_pending_refund", "DELETE", f"{UNDER}/transactions/pending-refund/{ORDER}"),
    ("authorize", "POST", f"{UNDER}/transactions"),
    ("sale", "POST", f"{UNDER}/transactions"),
    ("create_alt_transaction", "POST", f"{UNDER}/alt-transactions"),
    ("create_on_demand_subscription", "POST", f"{UNDER}/recurring/ondemand"),
    ("charge_on_demand_subscription", "POST", f"{UNDER}/recurring/ondemand/{ORDER}"),
    ("create_subscription", "POST", f"{UNDER}/recurring/subscriptions"),
    ("update_subscription", "PUT", f"{UNDER}/recurring/subscriptions/{ORDER}"),
    ("charge_subscription", "POST", f"{UNDER}/subscriptions/{ORDER}/subscription-charges"),
    ("create_plan", "POST", f"{UNDER}/recurring/plans"),
    ("update_plan", "PUT", f"{UNDER}/recurring/plans/{ORDER}"),
    ("create_shopper", "POST", f"{UNDER}/vaulted-shoppers"),
    ("update_shopper", "PUT", f"{UNDER}/vaulted-shoppers/{ORDER}"),
    ("create_vendor", "POST", f"{UNDER}/vendors"),
    ("update_vendor", "PUT", f"{UNDER}/vendors/{ORDER}"),
    ("place_batch_order", "POST", f"{UNDER}/batch/order-placement"),
    ("keyed_post", "POST", f"{UNDER}{TARGET}"),
    ("read_transaction", "GET", f"{UNDER}/transactions/{ORDER}"),
    ("read_subscription", "GET", f"{UNDER}/recurring/subscriptions/{ORDER}"),
    ("read_plan", "GET", f"{UNDER}/recurring/plans/{ORDER}"),
    ("read_vendor", "GET", f"{UNDER}/vendors/{ORDER}"),
    ("read_shopper", "GET", f"{UNDER}/vaulted-shoppers/{ORDER}"),
]
KINDS = [kind for kind, *_ in DESCRIBED]
POSTS = [kind for kind, method, _ in DESCRIBED if method == "POST"]
UNPROTECTED = [kind for kind, method, _ in DESCRIBED if method in {"PUT", "DELETE"}]
READS = [kind for kind, method, _ in DESCRIBED if method == "GET"]
WITH_ID_IN_PATH = [kind for kind, _, url in DESCRIBED if ORDER in url]
PAYLOAD = b'{ "amount": "5.00",\t"reason": "\xc3\xa4\\u00e4" }\n'
KEY = "b5f5c4a2-0d3b-5c8e-9a53-2b7c4a0a9b11"


@pytest.fixture
def bluesnap():
    return BlueSnap(
        account="bluesnap-us", base_url="https://ws.bluesnap.com", username="API_123", password="bluesnap_pass"
    )


@pytest.fixture
def ask(held):
    """A held command of one kind, with whatever its address needs."""
    return lambda kind, **changes: held(**{"kind": kind, "order_id": ORDER, "target": TARGET, **changes})


def names(request):
    return {name.lower() for name in request.headers}


def test_there_is_an_operation_for_each_kind_of_command():
    """One missing would be a payment call nobody can make through this worker."""
    assert set(KINDS) == set(OPERATIONS)
    assert set(KINDS) == set(BLUESNAP_COMMANDS)


@pytest.mark.parametrize("described", DESCRIBED, ids=KINDS)
def test_each_kind_is_the_request_of_the_description(bluesnap, ask, described):
    """A wrong verb or path is another operation, or none: a capture by POST is an error at BlueSnap."""
    kind, method, url = described

    request = bluesnap.request(ask(kind, payload=PAYLOAD))

    assert (request.method, request.url) == (method, url)
    assert request.body == (PAYLOAD if method in {"POST", "PUT"} else None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_names_its_version_and_asks_for_json(bluesnap, ask, kind):
    """The version depends on the account otherwise, and without both types errors come in XML."""
    request = bluesnap.request(ask(kind))

    assert request.headers["bluesnap-version"] == "3.0"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("post-purchase-worker/")


def test_an_older_version_can_be_spoken(held):
    """Some accounts were made for it."""
    bluesnap = BlueSnap(account="a", base_url="https://ws.bluesnap.com", username="u", password="p", version="2.0")

    assert bluesnap.request(held(kind="capture")).headers["bluesnap-version"] == "2.0"


@pytest.mark.parametrize("kind", POSTS)
def test_a_post_carries_its_key_under_the_exact_name(bluesnap, ask, kind):
    """Only this header makes a repeat harmless, and only on this verb."""
    request = bluesnap.request(ask(kind, idempotency_key=KEY))

    assert request.headers["Idempotency-Key"] == KEY
    assert request.repeatable


@pytest.mark.parametrize("kind", [*UNPROTECTED, *READS])
@pytest.mark.parametrize("keyed", [True, False])
def test_no_other_verb_carries_a_key(bluesnap, ask, kind, keyed):
    """BlueSnap would ignore it, and whoever saw it there would believe in it."""
    request = bluesnap.request(ask(kind, keyed=keyed))

    assert "idempotency-key" not in names(request)
    assert request.repeatable is (kind in READS)


@pytest.mark.parametrize("kind", UNPROTECTED)
@pytest.mark.parametrize("keyed", [True, False])
def test_a_put_or_delete_is_never_safe_to_repeat(bluesnap, kind, keyed):
    """Two captures of 5.00 on 10.00 take 10.00, whatever key they carry and whatever was stored of them."""
    assert bluesnap.safety(kind, keyed=keyed) is Safety.UNKEYED_READABLE


@pytest.mark.parametrize("kind", POSTS)
def test_a_post_is_as_safe_as_its_key(bluesnap, kind):
    """The ladder repeats what is keyed; the rest is looked up where it can be, and else left to people."""
    assert bluesnap.safety(kind, keyed=True) is Safety.KEYED
    assert bluesnap.safety(kind, keyed=False) is (Safety.UNKEYED_READABLE if kind == "refund" else Safety.UNKEYED)


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("keyed", [True, False])
def test_a_read_is_safe_with_and_without_a_key(bluesnap, kind, keyed):
    """It can be repeated for ever."""
    assert bluesnap.safety(kind, keyed=keyed) is Safety.READ


@pytest.mark.parametrize("kind", POSTS)
def test_an_account_without_keys_has_none_for_what_was_stored_before_either(ask, kind):
    """When it turns out that keys are not enabled, the commands under way are the ones in danger."""
    bluesnap = BlueSnap(account="a", base_url="https://ws.bluesnap.com", username="u", password="p", keyed=False)

    request = bluesnap.request(ask(kind, keyed=True))

    assert "idempotency-key" not in names(request)
    assert not request.repeatable
    assert bluesnap.safety(kind, keyed=True) is (Safety.UNKEYED_READABLE if kind == "refund" else Safety.UNKEYED)


@pytest.mark.parametrize("kind", POSTS)
def test_a_post_without_a_key_carries_none_and_must_not_be_repeated(bluesnap, ask, kind):
    """The caller chose so, and then no library may send it twice."""
    request = bluesnap.request(ask(kind, keyed=False))

    assert "idempotency-key" not in names(request)
    assert not request.repeatable


@pytest.mark.parametrize("kind", KINDS)
def test_every_attempt_makes_the_same_request(bluesnap, ask, kind):
    """BlueSnap compares a repeat with the first request, query and body, and refuses one that differs."""
    first = bluesnap.request(ask(kind, attempt=1, claims=1, failures=0))

    fourth = bluesnap.request(ask(kind, attempt=4, claims=9, failures=3, in_doubt=True))

    assert first == fourth


@pytest.mark.parametrize("base_url", ["https://sandbox.bluesnap.com", "https://sandbox.bluesnap.com/"])
def test_a_slash_behind_the_base_url_makes_no_difference(held, base_url):
    """People write both."""
    bluesnap = BlueSnap(account="a", base_url=base_url, username="u", password="p")

    request = bluesnap.request(held(kind="read_transaction", order_id=ORDER))

    assert request.url == f"https://sandbox.bluesnap.com/services/2/transactions/{ORDER}"


@pytest.mark.parametrize("kind", WITH_ID_IN_PATH)
@pytest.mark.parametrize(
    ("written", "in_the_path"),
    [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("a%2Fb", "a%252Fb"), ("a b\r\n", "a%20b%0D%0A"), ("ä", "%C3%A4")],
)
def test_an_id_stays_one_segment_of_the_path(bluesnap, ask, kind, written, in_the_path):
    """Ids are checked when they are stored; should one slip through, it must not become another operation."""
    plain = bluesnap.request(ask(kind)).url

    assert bluesnap.request(ask(kind, order_id=written)).url == plain.replace(ORDER, in_the_path)


@pytest.mark.parametrize("kind", WITH_ID_IN_PATH)
@pytest.mark.parametrize("value", ["", ".", ".."])
def test_an_id_that_would_change_the_path_is_refused(bluesnap, ask, kind, value):
    """These three have a meaning in a path and cannot be escaped."""
    with pytest.raises(InvalidCommand, match="order_id"):
        bluesnap.request(ask(kind, order_id=value))


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        "vendors",
        "//host/vendors",
        "/vendors/../transactions",
        "/vendors/.",
        "/..?a=b",
        "/vendors#x",
        "/vendors?a=b\r\nX: y",
        "/vendors?a b",
        "@host/vendors",
        ".host/vendors",
    ],
)
def test_a_target_that_is_no_path_is_refused(bluesnap, ask, target):
    """Targets are checked when they are stored; should one slip through, it must not become another host."""
    with pytest.raises(InvalidCommand, match="target"):
        bluesnap.request(ask("keyed_post", target=target))


def test_a_kind_of_another_provider_is_refused(bluesnap, held):
    """A command may have been stored for an account that has since changed its provider."""
    with pytest.raises(UnknownKind, match="acknowledge"):
        bluesnap.request(held(kind="acknowledge"))


def test_a_kind_of_another_provider_can_still_be_decided_on(bluesnap):
    """Else one such row would keep sweep from every other, and its own ticket from being opened."""
    assert Safety.UNKEYED is bluesnap.safety("acknowledge", keyed=True)


@pytest.mark.parametrize("order_id", [ORDER, "new-shopper"])
def test_a_probe_is_the_read_of_a_transaction(bluesnap, held, order_id):
    """It changes nothing, and that there is no such transaction is an answer of somebody who is well."""
    probe, read = bluesnap.probe(order_id), bluesnap.request(held(kind="read_transaction", order_id=order_id))

    assert ("GET", f"{UNDER}/transactions/{order_id}", None) == (probe.method, probe.url, probe.body)
    assert probe == read


def test_a_probe_of_an_order_that_is_no_segment_of_a_path_is_refused(bluesnap):
    """Ids come from the shop, and one must not lead to another place with our credentials."""
    with pytest.raises(InvalidCommand, match="order_id"):
        bluesnap.probe("..")


def test_credentials_are_sent_as_basic_authorization(held):
    """User name and password, in UTF-8, with exactly one space behind the word."""
    bluesnap = BlueSnap(account="a", base_url="https://ws.bluesnap.com", username="API_123", password="pässword")

    request = bluesnap.request(held())

    assert request.authorization == "Basic " + b64encode("API_123:pässword".encode()).decode()


def test_credentials_show_in_no_repr(bluesnap, held):
    """Objects end up in tracebacks and log lines."""
    shown = repr(bluesnap) + repr(bluesnap.request(held())) + str(bluesnap)

    assert "bluesnap-us" in shown
    assert "bluesnap_pass" not in shown
    assert "API_123" not in shown
    assert b64encode(b"API_123:bluesnap_pass").decode() not in shown


@pytest.mark.parametrize("described", DESCRIBED, ids=KINDS)
def test_each_request_goes_over_the_wire_as_built(serve, transport, answer_to, ask, described):
    """What counts is what arrives: one key header on a POST, the stored bytes, one header of each type."""
    kind, method, url = described
    server = serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    bluesnap = BlueSnap(account="a", base_url=server.url, username="u", password="p")
    command = ask(kind, payload=PAYLOAD)

    answer_to(transport, bluesnap.request(command))

    (arrived,) = server.requests
    body = PAYLOAD if method in {"POST", "PUT"} else b""
    assert (arrived.method, arrived.path) == (method, url.removeprefix("https://ws.bluesnap.com"))
    assert arrived.body == body
    assert arrived.all("idempotency-key") == ([command.idempotency_key] if method == "POST" else [])
    assert arrived.all("bluesnap-version") == ["3.0"]
    assert arrived.all("content-type") == ["application/json"]
    assert arrived.all("accept") == ["application/json"]
    assert arrived.all("authorization") == ["Basic " + b64encode(b"u:p").decode()]
