from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker import config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture
def load():
    """The loader with an empty environment, so that a developer's shell cannot leak in."""
    return partial(config.load, environ={}, settings_dir=ROOT / "settings")


@pytest.fixture
def problems(load):
    """What the loader refuses, as the lines a person reads."""

    def collect(*args, **options):
        with pytest.raises(config.ConfigurationError) as refusal:
            load(*args, **options)
        lines = tuple(str(refusal.value).splitlines())
        assert refusal.value.problems == lines
        return lines

    return collect


@pytest.fixture
def profile(tmp_path):
    """Writes a profile that is sound but for what the test adds, and gives its path."""

    def write(text=""):
        path = tmp_path / "own.toml"
        path.write_text(f'database.url = "sqlite:///own.db"\nbroker.url = "memory://"\n{text}\n', encoding="utf-8")
        return path

    return write


@pytest.fixture
def account(profile):
    """Writes a profile with one account, given as the lines of its table."""

    def write(text, name="klarna-eu"):
        return profile(f"[accounts.{name}]\n{text}")

    return write
