import hashlib
import hmac
import json

import pytest
from hypothesis import given, strategies as st

from worker.desks import DeskMisconfigured
from worker.desks.case_text import announcement, as_json
from worker.desks.webhook import WebhookDesk, verify_signature
from worker.domain.errors import DeskUnavailable

SECRET = "staple-of-the-webhook"
NOON = 1_795_348_800
REF = "webhook:019ab3c4-0000-7000-8000-00000000000f"


# --- what is posted ----------------------------------------------------------------------------------------


def test_opening_posts_the_case_file(a_receiver, a_webhook_desk, a_case_file):
    """A receiver needs no second request to know everything."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).open(a_case_file())

    (post,) = receiver.posts
    assert {"event": "ticket.opened", **as_json(a_case_file())} == post.content


def test_appending_posts_the_further_commands_under_the_reference(a_receiver, a_webhook_desk, a_case, a_case_file):
    """The receiver finds its own ticket by the reference that it gave."""
    receiver = a_receiver()
    further = a_case_file(a_case(2), total=2)

    a_webhook_desk(receiver.port).append("DESK-7", further)

    (post,) = receiver.posts
    assert {"event": "ticket.appended", "external_ref": "DESK-7", **as_json(further)} == post.content


def test_closing_posts_how_the_commands_ended_under_the_reference(a_receiver, a_webhook_desk, a_closing_file):
    """The receiver can close its own ticket by it, without a question."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).close("DESK-7", a_closing_file())

    (post,) = receiver.posts
    assert {"event": "ticket.closed", "external_ref": "DESK-7", **as_json(a_closing_file())} == post.content
    assert "019ab3c4-0000-7000-8000-00000000000f-closed" == post.headers["Idempotency-Key"]


def test_the_body_is_compact_ascii(a_receiver, a_webhook_desk, a_case, a_case_file):
    """The signature is over bytes, and the fewer ways there are to write them, the better."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).open(a_case_file(a_case(reference="Größe ✓\ud800")))

    (post,) = receiver.posts
    assert json.dumps(post.content, separators=(",", ":")).encode() == post.body
    assert post.body.isascii()


def test_path_and_query_of_the_address_are_kept(a_receiver, a_webhook_desk, a_case_file):
    """Receivers put their tokens there."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).open(a_case_file())

    (post,) = receiver.posts
    assert "/tickets?token=in-the-address" == post.path


def test_an_address_without_a_path_is_its_root(a_receiver, a_case_file):
    """A request must name some path."""
    receiver = a_receiver()

    WebhookDesk(f"http://127.0.0.1:{receiver.port}", secret=SECRET, timeout=10).open(a_case_file())

    (post,) = receiver.posts
    assert "/" == post.path


def test_a_post_is_signed_over_time_and_body(a_receiver, a_webhook_desk, a_case_file):
    """Without the time in it, whoever has recorded a post could post it again next month."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).open(a_case_file())

    (post,) = receiver.posts
    signature = hmac.new(SECRET.encode(), str(NOON).encode() + b"." + post.body, hashlib.sha256).hexdigest()
    assert (str(NOON), f"v1={signature}", "application/json") == (
        post.headers["Post-Purchase-Timestamp"],
        post.headers["Post-Purchase-Signature"],
        post.headers["Content-Type"],
    )


def test_a_receiver_can_verify_a_post(a_receiver, a_webhook_desk, a_case_file):
    """What signs and what verifies must agree, whatever either does inside."""
    receiver = a_receiver()
    a_webhook_desk(receiver.port).open(a_case_file())
    (post,) = receiver.posts

    is_genuine = verify_signature(
        SECRET,
        post.headers["Post-Purchase-Timestamp"],
        post.body,
        post.headers["Post-Purchase-Signature"],
        now=NOON,
    )

    assert is_genuine


def test_the_secret_of_another_does_not_fit(a_receiver, a_webhook_desk, a_case_file):
    """Otherwise the signature would say nothing about who posts."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port, secret="another").open(a_case_file())

    assert (0, 1) == (len(receiver.posts), len(receiver.forged))


def test_an_opening_carries_the_tickets_id_as_its_key(a_receiver, a_webhook_desk, a_case_file):
    """However often a ticket is opened, it is one ticket."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).open(a_case_file())

    (post,) = receiver.posts
    assert "019ab3c4-0000-7000-8000-00000000000f" == post.headers["Idempotency-Key"]


def test_an_appending_carries_its_announcement_as_its_key(a_receiver, a_webhook_desk, a_case_file):
    """A ticket is added to many times, and each time can be repeated."""
    receiver = a_receiver()

    a_webhook_desk(receiver.port).append(REF, a_case_file())

    (post,) = receiver.posts
    assert announcement(a_case_file()) == post.headers["Idempotency-Key"]


def test_no_proxy_gets_to_see_a_post(a_receiver, a_webhook_desk, a_closed_port, a_case_file, monkeypatch):
    """A proxy variable meant for something else must not carry tickets elsewhere."""
    receiver = a_receiver()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{a_closed_port}")

    a_webhook_desk(receiver.port).open(a_case_file())

    assert 1 == len(receiver.posts)


# --- what is answered --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_means_that_the_ticket_landed(status, a_receiver, a_webhook_desk, a_case_file):
    """Receivers differ in their taste."""
    receiver = a_receiver()
    receiver.answer = (status, {}, b"")
    desk = a_webhook_desk(receiver.port)

    external_ref = desk.open(a_case_file())
    desk.append(external_ref, a_case_file())

    assert REF == external_ref
    assert 2 == len(receiver.posts)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, r"answered 301\. Redirects are not followed"),
        (302, r"answered 302\. Redirects are not followed"),
        (307, r"answered 307\. Redirects are not followed"),
        (400, r"answered 400, wanted is any 2xx"),
        (401, r"answered 401\. Check that tickets\.webhook\.secret"),
        (403, r"answered 403\. Check that tickets\.webhook\.secret"),
        (404, r"answered 404, wanted is any 2xx\. Check the path"),
        (409, r"answered 409"),
        (429, r"answered 429"),
        (500, r"answered 500"),
        (503, r"answered 503"),
    ],
)
def test_anything_else_means_that_it_did_not(status, expected, a_receiver, a_webhook_desk, a_case_file):
    """The ticket stays stored and is posted again; the message says what to mend."""
    receiver = a_receiver()
    receiver.answer = (status, {"Location": "/elsewhere?token=in-the-address"}, b"secret words")

    with pytest.raises(DeskUnavailable, match=rf"^The desk .* 127\.0\.0\.1:{receiver.port} {expected}") as caught:
        a_webhook_desk(receiver.port).open(a_case_file())

    assert 1 == len(receiver.posts)
    assert "token" not in str(caught.value)


def test_a_redirect_leads_nowhere(a_receiver, a_webhook_desk, a_case_file):
    """Who can redirect a post would otherwise choose who reads it."""
    elsewhere, receiver = a_receiver(), a_receiver()
    receiver.answer = (307, {"Location": f"http://127.0.0.1:{elsewhere.port}/"}, b"")

    with pytest.raises(DeskUnavailable):
        a_webhook_desk(receiver.port).open(a_case_file())

    assert ([], []) == (elsewhere.posts, elsewhere.forged)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"external_ref": "DESK-7", "id": "7", "url": "https://desk.example/7"}, "DESK-7"),
        ({"id": "7", "url": "https://desk.example/7"}, "7"),
        ({"url": "https://desk.example/7"}, "https://desk.example/7"),
        ({"external_ref": "Größe ✓"}, "Größe ✓"),
        ({"external_ref": "r" * 255}, "r" * 255),
        ({"external_ref": "r" * 256, "id": "7"}, "7"),
        ({"external_ref": "", "id": "7"}, "7"),
        ({"external_ref": " "}, REF),
        ({"external_ref": 7}, REF),
        ({"external_ref": None}, REF),
        ({"external_ref": ["7"]}, REF),
        ({"external_ref": "a\nb"}, REF),
        ({"external_ref": "a\u202eb"}, REF),
        ({"external_ref": "a\x00b"}, REF),
        ({"other": "7"}, REF),
        (["external_ref"], REF),
        ("external_ref", REF),
        (None, REF),
    ],
)
def test_the_receivers_own_reference_is_kept(answer, expected, a_receiver, a_webhook_desk, a_case_file):
    """Operators look a ticket up by the number that their own system shows; what cannot be one is passed over."""
    receiver = a_receiver()
    receiver.answer = (201, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    external_ref = a_webhook_desk(receiver.port).open(a_case_file())

    assert expected == external_ref


@pytest.mark.parametrize(
    "body",
    [b"OK", b"\xff\xfe", b"{", b"[" * 60_000, b'{"id": "7"' + b" " * 70_000 + b"}"],
    ids=["text", "bytes", "broken", "deep", "long"],
)
def test_an_answer_that_is_no_json_is_good_enough(body, a_receiver, a_webhook_desk, a_case_file):
    """The status has said that the ticket landed."""
    receiver = a_receiver()
    receiver.answer = (200, {}, body)

    external_ref = a_webhook_desk(receiver.port).open(a_case_file())

    assert REF == external_ref


def read_request(connection):
    """Take in a whole request; what closes with bytes unread resets the connection instead."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65_536)


@pytest.mark.parametrize("rest", [b"", b"X-Half: ", b'Content-Length: 500\r\n\r\n{"id":'])
def test_an_answer_that_breaks_off_after_its_status_is_good_enough(rest, a_peer, a_webhook_desk, a_case_file):
    """Posting again would only repeat what has landed."""

    def script(connection, _):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + rest)

    external_ref = a_webhook_desk(a_peer(script)).open(a_case_file())

    assert REF == external_ref


def drip(connection, gone, answer):
    for byte in answer:
        if gone.wait(0.02):
            return
        connection.sendall(bytes([byte]))


def test_a_body_that_never_ends_is_not_waited_for(a_peer, a_webhook_desk, a_case_file):
    """The status has said that the ticket landed, and other tickets wait."""

    def script(connection, gone):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        drip(connection, gone, b" " * 60_000)

    external_ref = a_webhook_desk(a_peer(script), timeout=0.3).open(a_case_file())

    assert REF == external_ref


def say_nothing(connection, gone):
    read_request(connection)
    gone.wait(30)


def say_wait_for_ever(connection, gone):
    read_request(connection)
    drip(connection, gone, b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)


@pytest.mark.parametrize("script", [say_nothing, say_wait_for_ever])
def test_a_receiver_that_takes_too_long_is_given_up(script, a_peer, a_webhook_desk, a_case_file):
    """A worker that waits for ever tells no other ticket."""
    port = a_peer(script)

    with pytest.raises(DeskUnavailable, match=rf"127\.0\.0\.1:{port} did not answer in time"):
        a_webhook_desk(port, timeout=0.3).open(a_case_file())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "did not answer in HTTP, or hung up first"),
        (b"220 mail.test ESMTP\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 2", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 200 + b"\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "did not answer in HTTP"),
    ],
    ids=["nothing", "smtp", "half-a-status", "many-headers", "long-header"],
)
def test_what_is_no_http_answer_is_no_landing(answer, expected, a_peer, a_webhook_desk, a_case_file):
    """Only a status proves that a receiver took the ticket."""

    def script(connection, _):
        read_request(connection)
        connection.sendall(answer)

    port = a_peer(script)

    with pytest.raises(DeskUnavailable, match=expected):
        a_webhook_desk(port).open(a_case_file())


# --- the connection ----------------------------------------------------------------------------------------


def test_a_post_travels_over_verified_tls(a_receiver, a_webhook_desk, a_case_file, believed_authority):
    """Tickets tell of orders and money."""
    receiver = a_receiver(certificate=believed_authority.issue_cert("127.0.0.1"))

    a_webhook_desk(receiver.port, scheme="https").open(a_case_file())

    assert 1 == len(receiver.posts)


@pytest.mark.parametrize(("issuer", "host"), [("authority", "127.0.0.1"), ("believed_authority", "desk.evil.example")])
def test_a_receiver_that_cannot_prove_its_name_gets_nothing(
    *, issuer, host, request, a_receiver, a_webhook_desk, a_case_file
):
    """It may be anybody."""
    receiver = a_receiver(certificate=request.getfixturevalue(issuer).issue_cert(host))

    with pytest.raises(DeskUnavailable, match="shows a certificate that does not hold"):
        a_webhook_desk(receiver.port, scheme="https").open(a_case_file())

    assert ([], []) == (receiver.posts, receiver.forged)


def test_a_port_without_tls_is_reported_as_such(a_receiver, a_webhook_desk, a_case_file):
    """Https on a plain port is a slip in the settings."""
    receiver = a_receiver()

    with pytest.raises(DeskUnavailable, match="does not speak TLS there"):
        a_webhook_desk(receiver.port, scheme="https").open(a_case_file())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": "http://desk.shop.example/t"}, "plain http, but desk.shop.example is not this machine"),
        ({"url": "http://10.0.0.1/t"}, "not this machine"),
        ({"url": ""}, "not an address"),
        ({"url": "desk.shop.example"}, "not an address"),
        ({"url": "ftp://desk.shop.example"}, "not an address"),
        ({"url": "https:///t"}, "not an address"),
        ({"url": "https://a..b/t"}, "not an address"),
        ({"url": "https://desk:99999/t"}, "a port or a host that cannot be"),
        ({"url": "https://[::1/t"}, "a port or a host that cannot be"),
        ({"url": "https://desk/t oken"}, "spaces, control or non-ASCII"),
        ({"url": "https://desk/t\r\nX: y"}, "spaces, control or non-ASCII"),
        ({"url": "https://desk/ü"}, "spaces, control or non-ASCII"),
        ({"url": "https://worker:token@desk/t"}, "holds a log-in"),
        ({"url": "https://desk/t#token"}, "holds a # part"),
        ({"secret": ""}, "tickets.webhook.secret is empty"),
        ({"timeout": 0}, "tickets.webhook.timeout_seconds"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes, expected):
    """At start an operator is watching; at the first ticket nobody is. The address may hold a token."""
    settings = {"url": "https://desk.shop.example/t", "secret": SECRET, "timeout": 10}

    with pytest.raises(DeskMisconfigured) as caught:
        WebhookDesk(**(settings | changes))

    assert expected in str(caught.value)
    assert "token" not in str(caught.value)


# --- the receiver's side -----------------------------------------------------------------------------------


def sign(secret, timestamp, body):
    return "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


GENUINE = {"secret": SECRET, "timestamp": str(NOON), "body": b"{}", "signature": sign(SECRET, NOON, b"{}"), "now": NOON}


@pytest.mark.parametrize("now", [NOON, NOON + 300, NOON - 300, NOON + 299.9])
def test_a_genuine_post_is_believed(now):
    """Clocks differ a little, and posts take their time."""
    assert verify_signature(**(GENUINE | {"now": now}))


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "another"},
        {"body": b"{ }"},
        {"body": b""},
        {"timestamp": str(NOON + 1)},
        {"timestamp": f"0{NOON}"},
        {"timestamp": ""},
        {"timestamp": "now"},
        {"timestamp": "-1"},
        {"timestamp": f"{NOON}.0"},
        {"timestamp": "1" * 5_000},
        {"timestamp": "١٧٩٥٣٤٨٨٠٠"},
        {"signature": ""},
        {"signature": "v1="},
        {"signature": sign(SECRET, NOON, b"{}")[3:]},
        {"signature": sign(SECRET, NOON, b"{}").replace("v1", "v2")},
        {"signature": sign(SECRET, NOON, b"{}").upper()},
        {"signature": sign(SECRET, NOON, b"{}") + "0"},
        {"signature": "v1=ü"},
        {"signature": "\udc80"},
        {"now": NOON + 301},
        {"now": NOON - 301},
        {"now": NOON + 2, "tolerance_seconds": 1},
    ],
)
def test_anything_else_is_not_believed(changes):
    """Changed, forged, malformed or too old: a receiver gets a plain no, never an exception."""
    assert not verify_signature(**(GENUINE | changes))


@given(timestamp=st.text(), body=st.binary(), signature=st.text())
def test_what_a_stranger_makes_up_is_never_believed(timestamp, body, signature):
    """Whatever arrives from the internet, the answer is no."""
    assert not verify_signature(SECRET, timestamp, body, signature, now=NOON)
