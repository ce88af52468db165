"""A rehearsal as a shop gets it, without pytest in between; and a folder in which a shop's own tests run."""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from worker.sandbox import Sandbox
from worker.store.engine import SqlStore, build_engine
from worker.testing import FollowedClock, Rehearsal

ROOT = Path(__file__).resolve().parents[2]

ACCOUNTS = {"klarna": "klarna", "bluesnap": "bluesnap"}


@pytest.fixture
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def clock(sandbox):
    return FollowedClock(sandbox)


@pytest.fixture
def rehearse(sandbox, clock):
    """Make a rehearsal on a database."""

    def make(engine, *, accounts=ACCOUNTS, settings=None):
        return Rehearsal(engine, sandbox=sandbox, clock=clock, accounts=accounts, settings=settings)

    return make


@pytest.fixture
def on_sqlite(sqlite_url):
    wait = timedelta(seconds=5)
    engine = build_engine(sqlite_url, pool_size=1, busy_timeout=wait, connect_timeout=wait, statement_timeout=wait)
    yield engine
    engine.dispose()


@pytest.fixture
def rehearsal(rehearse, on_sqlite):
    with rehearse(on_sqlite) as made:
        yield made


@pytest.fixture
def store(rehearsal):
    """The database beside the worker, for what another process does."""
    return SqlStore(rehearsal.engine, clock=rehearsal.clock)


@pytest.fixture
def shop(pytester, monkeypatch):
    """A folder with a shop's tests, run by a pytest that finds our plugin as it would once the wheel is installed."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    info = pytester.mkdir("installed") / "post_purchase_worker-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: post-purchase-worker\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[pytest11]\n" + "".join(f"{name} = {module}\n" for name, module in entry_points["pytest11"].items())
    )
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}:{ROOT}")
    monkeypatch.syspath_prepend(ROOT)

    return pytester


@pytest.fixture
def pages():
    """The files that docs/testing.md shows, by the name in their first line."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)

    return dict(blocks)


@pytest.fixture
def python():
    return sys.executable


@pytest.fixture
def root():
    return ROOT
