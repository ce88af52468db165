"""`manage.py post_purchase` is the whole command line, with the project's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from worker import Capture
from worker.contrib.django import enqueue

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"


def manage(*words, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", *words],
        cwd=HOST,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_works_on_the_projects_database(shop, capsys):
    """Nobody has to say a second time where the database is."""
    enqueued = enqueue(Capture(account="klarna-eu", order_id="order-1", amount=1000))

    call_command("post_purchase", "list", "--json")

    assert [str(enqueued.id)] == [each["id"] for each in json.loads(capsys.readouterr().out)]


def test_its_exit_code_rides_along(shop, capsys):
    """A script that calls the command must learn that it was refused."""
    with pytest.raises(CommandError) as ended:
        call_command("post_purchase", "show", "019ab3c4-0000-7000-8000-00000000000f")

    assert 1 == ended.value.returncode
    assert "No such command" in capsys.readouterr().err


def test_flower_looks_at_the_projects_broker(shop_on_sqlite, settings_of, tmp_path, monkeypatch):
    """It becomes another process, which knows nothing of Django: on the wrong broker its list stays empty."""
    became = []
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(os, "execv", lambda *_: became.append(dict(os.environ)))
    settings_of(broker={"url": "redis://127.0.0.1:6399/7", "key_prefix": "shop-7:"})

    call_command("post_purchase", "flower", "--folder", str(tmp_path))

    (environment,) = became
    assert "redis://127.0.0.1:6399/7" == environment["POST_PURCHASE_BROKER__URL"]
    assert "shop-7:" == environment["POST_PURCHASE_BROKER__KEY_PREFIX"]


@pytest.mark.slow
def test_manage_py_runs_all_of_it(shop_on, sqlite_url):
    """Options that Django does not know must reach us, and Django's own must not."""
    shop_on(sqlite_url)
    file = str(connections["default"].settings_dict["NAME"])

    stats = manage("post_purchase", "stats", "--json", "--settings=settings", SHOP_DATABASE_FILE=file)
    usage = manage("post_purchase", "--help")

    assert (0, "") == (stats.returncode, stats.stderr)
    assert 0 == json.loads(stats.stdout)["open_tickets"]
    assert "manage.py post_purchase" in usage.stdout


@pytest.mark.slow
def test_migrate_brings_our_tables_up_with_the_projects_own(tmp_path):
    """A deployment of a Django project runs `migrate`, and so does every test database."""
    file = str(tmp_path / "new.sqlite3")

    done = manage("migrate", SHOP_DATABASE_FILE=file)
    again = manage("migrate", SHOP_DATABASE_FILE=file)
    checked = manage("check", "--database", "default", "--fail-level", "WARNING", SHOP_DATABASE_FILE=file)

    assert "Upgrading the tables of the post-purchase worker" in done.stdout
    assert "Upgrading" not in again.stdout
    assert 0 == checked.returncode, checked.stderr


@pytest.mark.slow
def test_makemigrations_finds_nothing_of_ours(tmp_path):
    """Alembic owns our tables; a Django migration of them would be written into our own package."""
    done = manage("makemigrations", "--check", "--dry-run", SHOP_DATABASE_FILE=str(tmp_path / "new.sqlite3"))

    assert 0 == done.returncode, done.stdout
    assert "No changes detected" in done.stdout
