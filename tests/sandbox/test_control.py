import http.client
import json
import socket
import threading
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from worker.sandbox import Sandbox, SandboxControl, SandboxError


@pytest.fixture
def control(sandbox):
    """Plain JSON to the control port, as a driver in any language sends it."""
    connection = http.client.HTTPConnection(urlsplit(sandbox.control_url).netloc, timeout=10)

    def control(method, path, content=None):
        body = content if content is None or isinstance(content, bytes) else json.dumps(content)
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    yield control
    connection.close()


def connects(base_url):
    address = urlsplit(base_url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- outages


def test_an_outage_refuses_connections_until_it_is_ended(driver, shop, order_id):
    """Refused means that no byte was sent, which nothing but a closed port can prove."""
    before = connects(driver.base_url)
    driver.refuse_connections()
    during = connects(driver.base_url)
    driver.accept_connections()
    after = connects(driver.base_url)

    assert [True, False, True] == [before, during, after]
    assert 200 == shop.order(order_id).status


def test_an_outage_may_end_by_itself(driver, until):
    """A demonstration scripts it once and goes on."""
    driver.refuse_connections(seconds=0.5)
    during = connects(driver.base_url)

    until(lambda: connects(driver.base_url))

    assert during is False
    assert driver.health()["accepting"] is True


def test_an_outage_closes_idle_connections(sandbox, shop, order_id):
    """A pool must not ride out an outage on what it has open."""
    shop.order(order_id)
    sandbox.refuse_connections()

    gone = shop.connection.sock.recv(1)

    assert b"" == gone


def test_a_request_at_work_is_answered_before_its_connection_closes(sandbox, shop, order_id, until):
    """A provider that is stopped in good order finishes what it has begun."""
    sandbox.fault("delay", seconds=0.5)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 1})
    until(sandbox.requests)
    sandbox.refuse_connections()

    answer = shop.end()

    assert (201, "close") == (answer.status, answer.headers["Connection"])


def test_a_second_outage_replaces_the_first(driver, until):
    """The last word counts: the end of the first must not end the second."""
    driver.refuse_connections(seconds=0.1)
    driver.refuse_connections()
    threading.Event().wait(0.2)

    assert connects(driver.base_url) is False


def test_the_control_port_is_open_during_an_outage(sandbox):
    """Otherwise nobody could end it."""
    sandbox.refuse_connections()

    assert SandboxControl(sandbox.control_url).health()["accepting"] is False


@pytest.mark.parametrize("seconds", [0, -1])
def test_an_outage_without_length_is_refused(driver, seconds):
    """It would be over before it began."""
    with pytest.raises(SandboxError, match="seconds must be above 0"):
        driver.refuse_connections(seconds)


# --------------------------------------------------------------------------------------------- the same verbs


def test_both_drivers_see_the_same(sandbox, driver, shop):
    """A test in this process and a demonstration in another read one ledger."""
    order = driver.create_order("order-17", amount=500, currency="SEK")
    shop.capture("order-17", 200, reference="shipment-1")

    assert ("order-17", 500, "SEK") == (order["order_id"], order["order_amount"], order["purchase_currency"])
    assert sandbox.effects() == driver.effects()
    assert sandbox.requests() == driver.requests()
    assert "PART_CAPTURED" == driver.order("order-17")["status"]


def test_an_effect_tells_all_that_a_count_needs(driver, shop, order_id, new_key):
    """Number, kind, order, amount, id, reference, key and moment: what the ledger is compared by."""
    key = new_key()
    answer = shop.capture(order_id, 1_000, key=key, reference="shipment-1")

    [effect] = driver.effects()

    at = datetime.fromisoformat(effect.pop("at"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 10
    assert {
        "number": 1,
        "provider": "klarna",
        "actor": "client",
        "kind": "capture",
        "order_id": order_id,
        "amount": 1_000,
        "id": answer.headers["Capture-Id"],
        "reference": "shipment-1",
        "key": key,
        "details": {},
    } == effect


def test_a_reset_leaves_an_empty_world_with_an_open_port(driver, shop, new_shop, order_id):
    """One sandbox can serve many tests."""
    shop.capture(order_id, 1_000)
    driver.fault("status", times=None)
    driver.advance(3_600)
    driver.refuse_connections()

    driver.reset()

    health = driver.health()
    assert (0, 0, 0, 0) == tuple(health[name] for name in ("orders", "effects", "requests", "faults"))
    assert health["accepting"] is True
    assert abs((datetime.now(UTC) - datetime.fromisoformat(health["now"])).total_seconds()) < 10
    assert 404 == new_shop(driver.base_url).order(order_id).status


def test_a_reset_ends_what_hangs(driver, shop, order_id, sandbox, until):
    """What the old world began must not reach into the new one."""
    driver.fault("delay", seconds=30)
    shop.begin("POST", f"/ordermanagement/v1/orders/{order_id}/captures", {"captured_amount": 1})
    until(sandbox.requests)

    driver.reset()

    with pytest.raises(http.client.RemoteDisconnected):
        shop.end()
    assert [] == driver.effects()


def test_the_clock_only_goes_forwards(driver):
    """What has happened has happened."""
    with pytest.raises(SandboxError, match="the clock only goes forwards"):
        driver.advance(-1)


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ({"amount": 0}, "amount must be 1 or more"),
        ({"status": "OPEN"}, "status must be one of AUTHORIZED, PART_CAPTURED"),
        ({"status": "PART_CAPTURED", "amount": 1}, "an amount of 1 is too small for the status PART_CAPTURED"),
        ({"order_id": ""}, "order_id must not be empty"),
        ({"order_id": "taken"}, "order taken is there already"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at must have a time zone"),  # noqa: DTZ001  # that is the point
    ],
)
def test_an_order_that_makes_no_sense_is_refused_in_one_sentence(driver, order, sentence):
    """The sentence names the thing and what would do."""
    driver.create_order("taken")

    with pytest.raises(SandboxError, match=sentence):
        driver.create_order(**order)


def test_an_unknown_order_cannot_be_shown(driver):
    """A driver that misspells an order is told so."""
    with pytest.raises(SandboxError, match="there is no order nowhere; make it with create_order"):
        driver.order("nowhere")


# ------------------------------------------------------------------------------------------------ plain JSON


@pytest.mark.parametrize(
    ("method", "path", "content", "sentence"),
    [
        ("POST", "/orders", {"amount": "1"}, "amount cannot be '1'"),
        ("POST", "/orders", {"amount": True}, "amount cannot be True"),
        ("POST", "/orders", {"colour": 1}, "unknown field 'colour'; known are order_id, amount"),
        ("POST", "/orders", {"expires_at": "soon"}, "expires_at must be a moment in ISO 8601, got 'soon'"),
        ("POST", "/orders", [], "the body must be a JSON object"),
        ("POST", "/orders", b"{", "the body is not valid JSON"),
        ("POST", "/faults", {}, "the field kind is missing"),
        ("POST", "/faults", {"kind": "hang", "times": "1"}, "times cannot be '1'"),
        ("POST", "/clock", {}, "the field advance_seconds is missing"),
        ("POST", "/outage", {"minutes": 1}, "unknown field 'minutes'; known are seconds"),
    ],
)
def test_nonsense_at_the_control_port_is_refused_in_one_sentence(control, method, path, content, sentence):
    """Whoever drives it by hand needs the fix, not a stack trace."""
    status, answer = control(method, path, content)

    assert 422 == status
    assert answer["error"].startswith(sentence)


def test_an_unknown_verb_is_told_the_known_ones(control):
    """The control port explains itself."""
    status, answer = control("GET", "/nothing")

    assert 404 == status
    assert "there is no GET /nothing; there are GET /health" in answer["error"]


def test_an_order_can_be_made_with_nothing_said(control):
    """Everything has a sensible value."""
    status, order = control("POST", "/orders")

    assert (201, 10_000, "EUR") == (status, order["order_amount"], order["purchase_currency"])
    assert (200, order) == control("GET", f"/orders/{order['order_id']}")


def test_a_driver_of_no_sandbox_is_told_how_to_start_one(sandbox):
    """The most likely mistake has its fix in the sentence."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        control = SandboxControl(f"http://127.0.0.1:{unused.getsockname()[1]}")

        with pytest.raises(SandboxError, match=r"no sandbox answers at .* start it with: post-purchase sandbox"):
            control.effects()


def test_a_proxy_of_the_environment_does_not_come_between(sandbox, monkeypatch):
    """Nothing here leaves the machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert [] == SandboxControl(sandbox.control_url).effects()


# -------------------------------------------------------------------------------------------- one's own thread


def test_unknown_orders_are_made_on_first_use_when_told_so(new_shop):
    """People who want to play should not have to prepare."""
    with Sandbox(create_orders=5_000) as sandbox:
        shop = new_shop(sandbox.base_url)

        captured = shop.capture("any-id", 5_000)

        assert 201 == captured.status
        assert "CAPTURED" == sandbox.order("any-id")["status"]


def test_a_sandbox_has_the_credentials_it_is_given_and_does_not_show_them(new_shop):
    """Tests of wrong credentials need right ones, and no printout needs either."""
    with Sandbox(username="shop", password="s3cret") as sandbox:
        right = new_shop(sandbox.base_url, authorization="Basic c2hvcDpzM2NyZXQ=")
        wrong = new_shop(sandbox.base_url)

        assert [404, 401] == [shop.ask("GET", "/elsewhere").status for shop in (right, wrong)]
        assert "s3cret" not in repr(vars(sandbox))


def test_a_sandbox_that_does_not_run_says_so():
    """Forgetting to start it is the most likely mistake."""
    with pytest.raises(SandboxError, match="this sandbox does not run"):
        Sandbox().effects()


def test_a_sandbox_is_started_once(sandbox):
    """A second start would leave the first without an owner."""
    with pytest.raises(SandboxError, match="this sandbox runs already"):
        sandbox.start()


def test_a_sandbox_can_be_started_again_after_its_end(new_shop):
    """Stopping twice does no harm either, so a fixture may do so without asking."""
    sandbox = Sandbox()
    for _ in range(2):
        with sandbox:
            assert 404 == new_shop(sandbox.base_url).ask("GET", "/elsewhere").status
        sandbox.stop()


@pytest.mark.parametrize("which", ["port", "control_port"])
def test_a_taken_port_is_named(which):
    """The start fails at once, with the fix in the sentence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(SandboxError, match=f"cannot use port {port} on 127.0.0.1 .*choose another"):
            Sandbox(**{which: port}).start()
