"""`celery -A worker.contrib.django worker`: the project's settings, and the shop is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import connections
from shop import orders

from worker.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"

#: Far longer than a worker needs, even on a machine that does other things too.
WITHIN_SECONDS = 60.0


@pytest.fixture
def sandbox():
    with Sandbox(create_orders=100_000) as running:
        yield running


@pytest.fixture
def project(shop_on_postgresql, settings_of, sandbox, broker_server, tmp_path):
    """The shop whose provider and broker really are there; what it runs is started in its own folder."""
    database = connections["default"].settings_dict
    settings_of(broker={"url": broker_server, "key_prefix": f"{tmp_path.name}:"})
    shop_on_postgresql.services.__dict__.pop("publisher", None)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "settings",
        "SHOP_BROKER_URL": broker_server,
        "SHOP_KEY_PREFIX": f"{tmp_path.name}:",
        "SHOP_KLARNA_URL": sandbox.base_url,
        **{f"SHOP_DATABASE_{name}": str(database[name]) for name in ("NAME", "HOST", "USER", "PASSWORD", "PORT")},
    }

    return shop_on_postgresql, environment


@pytest.mark.slow
def test_a_shipped_order_is_paid_by_a_worker_of_the_project(project, tmp_path):
    """The whole way: the shop's transaction, the provider, the final state, and the order that is paid."""
    shop, environment = project
    shop.order("1")
    log = tmp_path / "worker.log"
    with log.open("wb") as told:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.contrib.django", "worker", "--concurrency", "1"],
            cwd=HOST,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            orders.ship("1")
            gives_up = time.monotonic() + WITHIN_SECONDS
            while shop.seen("state", table="shop_order") != ["paid"]:
                assert worker.poll() is None, log.read_text()
                assert time.monotonic() < gives_up, log.read_text()
                time.sleep(0.1)
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait(timeout=30)

    assert ["succeeded"] == shop.seen("state")
    assert ["None"] == shop.seen("tell_at")
