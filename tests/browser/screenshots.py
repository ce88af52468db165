"""Make the pictures of docs/flower.md and docs/django.md: `python tests/browser/screenshots.py`, from the checkout.

Real runs with real faults, Flower's with the real waits, looked at with a real Chromium. It takes two minutes; with
`flower` or `admin` it makes only those. Look at every picture before it is committed.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from tests.browser.shop import shop_stage  # noqa: E402  # the same
from tests.browser.stage import Stage, chromium, stage, until  # noqa: E402  # found by the line above
from worker import Capture, Refund, TriggerSendOut  # noqa: E402  # the same

IMAGES = CHECKOUT / "docs" / "images"

TOO_MUCH = "c205e832-63cb-5a72-afbc-4646dfef25ba"
AWAY = "4ba29b50-be7b-44f5-a492-113e6a865e22"
PARCELS = "68000bbc-779e-5d56-a405"
LOST = "9a5627de-b32a-5943-976c-662e9bc5cc30"
SLOW = "3a40d89d-93dd-5342-9220-969a1a5760fe"


def main() -> None:
    """Take the pictures that are asked for."""
    IMAGES.mkdir(exist_ok=True)
    pictures = {"flower": _flower, "admin": _admin}
    with chromium() as browser:
        for name in sys.argv[1:] or pictures:
            with tempfile.TemporaryDirectory() as folder:
                pictures[name](Path(folder), browser)


def _flower(folder: Path, browser: Browser) -> None:
    """Let everything go wrong that a person may see in Flower, and take the pictures."""
    with stage(folder) as on:
        context = browser.new_context(
            http_credentials={"username": on.user, "password": on.password},
            viewport={"width": 1900, "height": 760},
            reduced_motion="reduce",
        )
        page = context.new_page()
        _happen(on, page)
        _take(on, page)


def _capture(order_id: str, reference: str, *, amount: int = 1000) -> Capture:
    return Capture(account="klarna-eu", order_id=order_id, amount=amount, reference=reference)


def _happen(on: Stage, page: Page) -> None:
    on.store(*[_capture(f"{PARCELS}-{number:012d}", f"parcel-{number}") for number in range(50)])
    _seen(on, page, "50 commands", "SUCCESS")
    on.enqueue(Refund(account="klarna-eu", order_id=f"{PARCELS}-000000000007", amount=500, reference="return-7"))
    _seen(on, page, "refund klarna-eu 68000bbc… try 1", "SUCCESS")
    on.enqueue(_capture(TOO_MUCH, "more than the order", amount=900_000))
    _seen(on, page, "capture klarna-eu c205e832… try 1", "SUCCESS")
    on.sandbox.fault("drop_reply", order_id=LOST)
    on.enqueue(TriggerSendOut(account="klarna-eu", order_id=LOST, capture_id="capture-1", keyed=False))
    until(lambda: {"refused", "not_safe_to_retry"} == {reason for _, reason in on.tickets()}, tell=on.worker_log)
    on.sandbox.fault("delay", order_id=SLOW, seconds=20)
    on.enqueue(_capture(SLOW, "a worker that dies"))
    _kill_who_executes(on)
    _seen(on, page, "capture klarna-eu 3a40d89d… try 1", "FAILURE")
    on.sandbox.fault("status", status=503, times=None, order_id=AWAY)
    on.enqueue(_capture(AWAY, "the provider away"))
    _seen(on, page, "capture klarna-eu 4ba29b50… try 3", "SCHEDULED")


def _kill_who_executes(on: Stage) -> None:
    """Kill the pool process that has a call in flight, as the system does when memory runs out."""
    until(on.unanswered)
    [holder] = on.unanswered()
    os.kill(int(holder.rpartition(":")[2]), signal.SIGKILL)


def _seen(on: Stage, page: Page, label: str, state: str) -> None:
    row = page.locator("#tasks-table tbody tr").filter(has_text=label).filter(has_text=state)

    def shown() -> bool:
        page.goto(f"{on.flower}/tasks")
        page.wait_for_selector("#tasks-table_info")
        return row.count() > 0

    until(shown, tell=on.worker_log)


def _take(on: Stage, page: Page) -> None:
    page.goto(f"{on.flower}/tasks")
    page.locator("#tasks-table tbody tr a").first.wait_for()
    _picture(page, "flower-tasks")
    details = {
        "flower-scheduled": "try 3 of 4",
        "flower-escalated": "ticket ",
        "flower-failed": "3a40d89d… try 1",
        "flower-batch": "50 commands",
    }
    links = {
        name: page.locator("#tasks-table tbody tr").filter(has_text=label).first.locator("a").first
        for name, label in details.items()
    }
    addresses = {name: link.get_attribute("href") for name, link in links.items()}
    page.set_viewport_size({"width": 1000, "height": 760})
    for name, address in addresses.items():
        page.goto(f"{on.flower}{address}")
        _picture(page, name)
    page.set_viewport_size({"width": 1000, "height": 340})
    page.goto(f"{on.flower}/broker")
    _picture(page, "flower-broker")


def _admin(folder: Path, browser: Browser) -> None:
    """Let a night pass in a shop on Django, and look at its admin in the morning."""
    with shop_stage(folder) as shop:
        context = browser.new_context(
            http_credentials={**shop.flower_user, "origin": shop.flower},
            viewport={"width": 1500, "height": 620},
            reduced_motion="reduce",
        )
        page = context.new_page()
        shop.ship(*[(f"10{number}", f"{PARCELS}-{number:012d}", 4_990 + 1_000 * number) for number in range(6)])
        shop.ship(("201", TOO_MUCH, 900_000), ("202", LOST, 12_900))
        shop.sandbox.fault("status", status=503, times=None, order_id=AWAY)
        shop.sandbox.fault("status", status=503, times=3, order_id=AWAY, method="GET")
        shop.ship(("203", AWAY, 25_900))
        until(lambda: shop.states(AWAY)[1] == "escalated", within=90, tell=shop.worker_log)
        shop.sandbox.fault("status", status=503, times=None, order_id=SLOW)
        shop.ship(("204", SLOW, 7_490))
        until(lambda: shop.attempts(SLOW) == 2, tell=shop.worker_log)
        shop.sign_in(page)
        page.goto(f"{shop.admin}/post_purchase/command/")
        _picture(page, "admin-list")
        page.goto(shop.place(AWAY))
        _picture(page, "admin-command")
        page.click("input[value='Retry …']")
        page.fill("#id_why", "Klarna says that it is back")
        _picture(page, "admin-retry")
        page.goto(shop.place(TOO_MUCH))
        page.click("input[value='Amend …']")
        page.fill("#id_amended", page.input_value("#id_amended").replace("900000", "90000"))
        page.fill("#id_why", "the parcel was worth 900.00, not 9000.00")
        _picture(page, "admin-amend")


def _picture(page: Page, name: str) -> None:
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True, animations="disabled")


if __name__ == "__main__":
    main()
