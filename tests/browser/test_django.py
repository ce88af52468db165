from __future__ import annotations

import pytest

from tests.browser.shop import shop_stage
from tests.browser.stage import until

AWAY = "4ba29b50-be7b-44f5-a492-113e6a865e22"
MARKUP = "<img src=x onerror=document.title='taken'><b id=planted>bold</b>"


@pytest.fixture(scope="module")
def shop(browser, tmp_path_factory):
    with shop_stage(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def window(browser, shop):
    """A window of the person on call: signed in at the admin, and with Flower's password."""
    context = browser.new_context(http_credentials={**shop.flower_user, "origin": shop.flower})
    context.set_default_timeout(10_000)
    page = context.new_page()
    shop.sign_in(page)
    yield page
    context.close()


def test_an_escalation_is_seen_and_retried_until_the_order_is_paid(shop, window):
    """The whole night of a person on call: the retry waits, nobody answers, a ticket, a decision, the money."""
    shop.sandbox.fault("status", status=503, times=None, order_id=AWAY, method="POST")
    shop.ship(("1", AWAY, 12900))

    scheduled = shop.task(window, "capture klarna-eu 4ba29b50…", "SCHEDULED").inner_text()
    escalated = shop.task(window, "ticket ", "told: ").inner_text()
    window.goto(f"{shop.admin}/post_purchase/command/?state=escalated")
    listed = window.inner_text("#result_list tbody tr")
    window.click("#result_list tbody th a")
    shown = window.inner_text("#content")
    before = shop.states(AWAY)
    shop.sandbox.clear_faults()
    window.click("input[value='Retry …']")
    window.fill("#id_why", "Klarna says that it is back")
    window.click("input[value='Retry']")
    said = window.inner_text(".messagelist")
    until(lambda: shop.states(AWAY) == ("paid", "succeeded"), tell=shop.worker_log)
    succeeded = shop.task(window, "capture klarna-eu 4ba29b50…", "now_succeeded: 1").inner_text()
    window.goto(shop.place(AWAY))
    after = window.inner_text("#content")

    assert "UTC" in scheduled
    assert "ticket" in escalated
    assert AWAY in listed
    assert "escalated" in listed
    for text in ("503", "TEMPORARILY_UNAVAILABLE", "ladder_exhausted", "absent", "What was read at the provider"):
        assert text in shown, text
    assert ("shipped", "escalated") == before
    assert "Retry: 1 command" in said
    assert "SUCCESS" in succeeded
    for text in ("succeeded", "on-call", "Klarna says that it is back", "closed"):
        assert text in after, text
    assert 1 == len(shop.sandbox.effects())


def test_markup_is_shown_as_text(shop, window):
    """An order's number comes from a customer's browser, and leads to that of an operator."""
    shop.ship((MARKUP, "order-markup", 1000))
    titles = []

    for address in (f"{shop.admin}/post_purchase/command/?q=order-markup", shop.place("order-markup")):
        window.goto(address)
        titles.append(window.title())
        assert MARKUP in window.inner_text("#content")
        assert 0 == window.locator("#planted").count()

    assert "taken" not in titles


def test_a_page_of_another_site_cannot_act_for_an_operator(shop, window):
    """The browser is signed in, and posts whatever a page tells it to."""
    shop.sandbox.fault("status", status=401, order_id="order-else")
    shop.ship(("else", "order-else", 1000))
    until(lambda: shop.states("order-else")[1] == "escalated", tell=shop.worker_log)
    command_id = shop.place("order-else").split("/")[-3]
    fields = {"action": "cancel", "_selected_action": command_id, "confirmed": "yes", "why": "because"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    page = f'<form method=post action="{shop.admin}/post_purchase/command/">{inputs}</form>'
    # Another name is another site to a browser.
    elsewhere = shop.admin.replace("127.0.0.1", "localhost").replace("/admin", "/elsewhere")
    window.route(elsewhere, lambda route: route.fulfill(body=page, content_type="text/html"))
    window.goto(elsewhere)

    with window.expect_response(lambda answer: "post_purchase/command" in answer.url) as answered:
        window.evaluate("document.forms[0].submit()")

    assert 403 == answered.value.status
    assert ("shipped", "escalated") == shop.states("order-else")


def test_a_form_without_its_token_is_refused(shop, window):
    """A browser that lost its cookie, or a page that was put together elsewhere, must not take a payment back."""
    shop.sandbox.fault("status", status=401, order_id="order-token")
    shop.ship(("token", "order-token", 1000))
    until(lambda: shop.states("order-token")[1] == "escalated", tell=shop.worker_log)
    window.goto(shop.place("order-token"))
    window.click("input[value='Cancel …']")
    window.fill("#id_why", "because")
    window.evaluate("document.querySelectorAll('[name=csrfmiddlewaretoken]').forEach(it => it.remove())")

    with window.expect_response(lambda answer: answer.request.method == "POST") as answered:
        window.click("input[value='Cancel']")

    assert 403 == answered.value.status
    assert ("shipped", "escalated") == shop.states("order-token")


def test_a_wrong_password_is_refused(shop, browser):
    """Nothing of an order is seen, and nothing can be done, before somebody has said who they are."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{shop.admin}/post_purchase/command/")
    page.fill("#id_username", shop.user)
    page.fill("#id_password", "not-the-password")
    page.click("input[type=submit]")

    said = page.inner_text(".errornote")
    again = page.goto(f"{shop.admin}/post_purchase/command/")

    assert "correct username and password" in said
    assert "/admin/login/" in again.url
    assert 0 == page.locator("#result_list").count()
    context.close()
