from __future__ import annotations

from pathlib import Path

import pytest

from worker.config import load
from worker.wiring import Services

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def services(sqlite_url):
    """The services of one process on a database of the test's own, with whatever settings it lays over them."""
    opened = []

    def build(**overrides):
        given = {"database.url": sqlite_url, **{name.replace("__", "."): value for name, value in overrides.items()}}
        made = Services(load("test", environ={}, settings_dir=ROOT / "settings", overrides=given))
        opened.append(made)
        return made

    yield build

    for made in opened:
        made.close()
